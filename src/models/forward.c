/* SPDX-License-Identifier: Apache-2.0
 *
 * The forward pass: runs are checked and get room in their memory one by one, then nothing can fail, allocate or
 * lock.
 */
#include "base/mem.h"
#include "models/layers/layers.h"
#include "models/work.h"

#include <string.h>

/* ---- what a device is told of the rows ---- */

/* How many nodes above a row of a draft tree are drafts too. */
static int32_t depth_of(const struct ml_run *run, int32_t i) {
    int32_t depth = 0;
    for (int32_t p = run->parent[i]; p >= 0; p = run->parent[p])
        depth++;
    return depth;
}

static void stage_node(const struct ml_run *run, int32_t i, size_t slot0, struct ml_tree_node *node) {
    node->position = slot0 + (size_t)depth_of(run, i);
    node->seen = 0;
    for (int32_t p = i; p >= 0; p = run->parent[p])
        node->seen |= (uint64_t)1 << p;
}

static void stage_row(const struct ml_batch *b, const struct ml_run *run, size_t slot0, size_t i,
                      const struct ml_staged *to, size_t row) {
    const size_t from = run->first + i;
    to->ids[row] = b->ids ? b->ids[from] : ML_ROW_EMBEDDING;
    if (run->parent) stage_node(run, (int32_t)i, slot0, &to->tree[row]);
    const size_t own = run->parent ? (size_t)to->tree[row].position : slot0 + i;
    for (size_t k = 0; k < 3; k++)
        to->position[3 * row + k] = b->position ? b->position[from][k] : (int32_t)own;
}

static void stage_tables(const struct ml_work *w, size_t d, size_t r) {
    const struct ml_sequence *s = w->runs[r]->sequence;
    const struct ml_memory_layout *l = &s->cache->layout;
    struct ml_stream *stream = w->streams[d];
    for (size_t g = 0; g < l->n_groups; g++) {
        const size_t at = (g * w->sizes.runs + r) * w->stride;
        size_t n;
        if (l->groups[g].device != d) continue;
        const char *const *table = ml_memory_table(s->memory, g, &n);
        memcpy(w->host[d].tables + at, table, n * sizeof *table);
        w->steps[d].pages[g] = (struct ml_page_table){
            .table = w->device[d].tables + g * w->sizes.runs * w->stride, .stride = w->stride};
        if (!stream->device->is_host)
            stream->device->ops->upload(stream, w->device[d].tables + at, w->host[d].tables + at,
                                        n * sizeof *table);
    }
}

/* One run's rows, which begin at `row` of the pass. */
static void stage_run(struct ml_work *w, const struct ml_batch *b, size_t d, size_t r, size_t row,
                      size_t slot0) {
    const struct ml_run *run = w->runs[r];
    const struct ml_staged *to = &w->host[d];
    const size_t half = w->model->rope.half, half_local = w->model->rope_local.half;
    to->runs[r] = (struct ml_pass_run){
        .first = (int32_t)row, .n = (int32_t)run->n, .slot0 = (int64_t)slot0, .tree = run->parent != NULL};
    for (size_t i = 0; i < run->n; i++) {
        to->run_of[row + i] = (int32_t)r;
        stage_row(b, run, slot0, i, to, row + i);
    }
    memcpy(to->inv + r * half, run->sequence->inv, half * sizeof *to->inv);
    memcpy(to->inv_local + r * half_local, run->sequence->inv_local, half_local * sizeof *to->inv);
    stage_tables(w, d, r);
}

static void compute_angles(struct ml_step *s, const struct ml_rope *rope, const float *inv,
                           const struct ml_angles *to) {
    if (rope->half == 0) return;
    s->ops->angles(&s->stream, &(struct ml_angles_op){.pass = &s->pass,
                                                      .inv_freq = inv,
                                                      .half = rope->half,
                                                      .scale = rope->scale,
                                                      .cos = to->cos,
                                                      .sin = to->sin});
}

static void stage_device(struct ml_work *w, const struct ml_batch *b, size_t d, size_t slot0) {
    struct ml_step *s = &w->steps[d];
    const struct ml_staged *to = &w->device[d], *from = &w->host[d];
    size_t row = 0;
    for (size_t r = 0; r < w->n_runs; row += w->runs[r]->n, r++)
        stage_run(w, b, d, r, row,
                  slot0 == SIZE_MAX ? ml_memory_length(w->runs[r]->sequence->memory) : slot0);
    if (!s->stream.device->is_host)
        s->stream.device->ops->upload(&s->stream, to->ids, from->ids, from->bytes);
    s->n = w->n;
    s->memory = &w->runs[0]->sequence->cache->layout;
    s->pass = (struct ml_pass){.n = w->n,
                               .n_runs = w->n_runs,
                               .ids = to->ids,
                               .position = to->position,
                               .run_of = to->run_of,
                               .runs = to->runs,
                               .host_runs = from->runs,
                               .tree = to->tree};
    compute_angles(s, &w->model->rope, to->inv, &s->global);
    compute_angles(s, &w->model->rope_local, to->inv_local, &s->local);
}

/* slot0: of every run, or SIZE_MAX for the lengths of their sequences. */
static void stage(struct ml_work *w, const struct ml_batch *b, size_t slot0) {
    for (size_t d = 0; d < w->model->n_devices; d++)
        stage_device(w, b, d, slot0);
}

/* ---- layers one by one, for the quantizer ---- */

marlin_status ml_step_begin(struct ml_work *w, struct ml_sequence *s, size_t n, size_t pos0,
                            struct marlin_error *err) {
    struct ml_run run = {.sequence = s, .n = n};
    const struct ml_batch batch = {.n = n, .runs = &run, .n_runs = 1};
    const marlin_status st = ml_memory_reserve(s->memory, pos0 + n, w->streams, err);
    if (st != MARLIN_OK) return st;
    w->n = n;
    w->n_runs = 1;
    w->runs[0] = &run;
    stage(w, &batch, pos0);
    w->runs[0] = NULL; /* the run is this function's own; what steps need of it was staged */
    w->n_runs = 0;
    return MARLIN_OK;
}

marlin_status ml_layer_forward(struct ml_work *w, struct ml_sequence *s, size_t layer, float *hidden,
                               size_t n, size_t pos0, struct marlin_error *err) {
    const struct ml_layer *l = &w->model->layers[layer];
    ml_mem_guard_begin("layer forward");
    const marlin_status st = ml_step_begin(w, s, n, pos0, err);
    if (st == MARLIN_OK) w->model->arch->layer(ml_work_step(w, l), l, hidden);
    ml_mem_guard_end();
    return st;
}

/* ---- which runs take part ---- */

static bool wants_logits(const struct ml_batch *b, const struct ml_run *run, size_t row) {
    if (b->wants_logits) return b->wants_logits[row];
    return run->logits == ML_LOGITS_ALL || (run->logits == ML_LOGITS_LAST && row + 1 == run->first + run->n);
}

static bool is_repeated(const struct ml_batch *b, size_t r) {
    for (size_t i = 0; i < r; i++)
        if (b->runs[i].sequence == b->runs[r].sequence) return true;
    return false;
}

/* Run r begins at `row`. */
static marlin_status check_run(const struct ml_work *w, const struct ml_batch *b, size_t r, size_t row,
                               struct marlin_error *err) {
    const struct ml_run *run = &b->runs[r];
    if (run->first != row || run->n == 0 || run->n > b->n - row)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "forward: run %zu does not follow the one before", r);
    if (is_repeated(b, r))
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "forward: run %zu is a second one of its sequence", r);
    if (run->sequence->cache->model != w->model ||
        run->sequence->cache->layout.dtype != b->runs[0].sequence->cache->layout.dtype)
        return ml_fail(err, MARLIN_ERR_ARGUMENT,
                       "forward: the sequence of run %zu is of another model or type of cache", r);
    if (ml_sequence_capacity(run->sequence) > w->sizes.positions)
        return ml_fail(err, MARLIN_ERR_ARGUMENT,
                       "forward: run %zu has room for %zu positions, %zu are possible", r,
                       ml_sequence_capacity(run->sequence), w->sizes.positions);
    return MARLIN_OK;
}

static marlin_status check_batch(const struct ml_work *w, const struct ml_batch *b, const float *logits,
                                 struct marlin_error *err) {
    size_t row = 0;
    bool wanted = false;
    if (b->n == 0 || b->n > w->sizes.rows)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "forward: %zu tokens, between 1 and %zu are possible", b->n,
                       w->sizes.rows);
    if (b->n_runs > w->sizes.runs)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "forward: %zu runs, at most %zu are possible", b->n_runs,
                       w->sizes.runs);
    for (size_t r = 0; r < b->n_runs; r++) {
        const marlin_status st = check_run(w, b, r, row, err);
        if (st != MARLIN_OK) return st;
        for (size_t end = row + b->runs[r].n; row < end; row++)
            wanted = wanted || wants_logits(b, &b->runs[r], row);
    }
    if (row != b->n)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "forward: %zu of %zu tokens belong to no run", b->n - row,
                       b->n);
    if (wanted && !logits)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "forward: logits are wanted, and there is no room for them");
    return MARLIN_OK;
}

static marlin_status check_ids(const struct ml_work *w, const struct ml_batch *b, const struct ml_run *run,
                               struct marlin_error *err) {
    const int64_t vocab = w->model->config->vocab_size;
    for (size_t t = run->first; t < run->first + run->n; t++) {
        const int32_t id = b->ids ? b->ids[t] : ML_ROW_EMBEDDING;
        if (id >= 0 && (int64_t)id < vocab) continue;
        if (id == ML_ROW_EMBEDDING && b->embeddings) continue;
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "token %zu has id %ld, the model knows 0 to %lld",
                       t - run->first, (long)id, (long long)vocab - 1);
    }
    return MARLIN_OK;
}

/* The least window that a layer of the sequence has; SIZE_MAX without any. */
static size_t least_window(const struct ml_memory_layout *l) {
    size_t least = SIZE_MAX;
    for (size_t g = 0; g < l->n_groups; g++) {
        if (l->groups[g].recurrent) return 0;
        if (l->groups[g].window && l->groups[g].window < least) least = l->groups[g].window;
    }
    return least;
}

static marlin_status check_tree(const struct ml_run *run, struct marlin_error *err) {
    if (!run->parent) return MARLIN_OK;
    if (run->n > ML_TREE_NODES || run->n > least_window(&run->sequence->cache->layout))
        return ml_fail(
            err, MARLIN_ERR_LIMIT,
            "a draft tree of %zu tokens: at most %d are possible, no more than a sliding window has, "
            "and none where layers are recurrent",
            run->n, ML_TREE_NODES);
    for (size_t i = 0; i < run->n; i++)
        if (run->parent[i] < -1 || run->parent[i] >= (int32_t)i)
            return ml_fail(err, MARLIN_ERR_ARGUMENT, "node %zu of a draft tree follows node %d", i,
                           run->parent[i]);
    return MARLIN_OK;
}

/* A context that is full is said by the memory. */
static marlin_status check_length(const struct ml_run *run, struct marlin_error *err) {
    const struct ml_sequence *s = run->sequence;
    const size_t length = ml_sequence_length(s), left = ml_sequence_capacity(s) - length;
    if (run->n > left || length + run->n <= s->beyond) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_ARGUMENT,
                   "%zu tokens after %zu: the sequence was meant for %zu, and its rotary tables hold for %zu",
                   run->n, length, s->expected, s->beyond);
}

static bool is_cancelled(const struct ml_run *run) {
    return run->cancel && atomic_load_explicit(run->cancel, memory_order_relaxed);
}

static marlin_status admit(struct ml_work *w, const struct ml_batch *b, struct ml_run *run,
                           struct marlin_error *err) {
    marlin_status st;
    if (is_cancelled(run)) return ml_fail(err, MARLIN_ERR_CANCELLED, "cancelled");
    ML_TRY(check_ids(w, b, run, err));
    ML_TRY(check_tree(run, err));
    ML_TRY(check_length(run, err));
    ML_TRY(ml_memory_reserve(run->sequence->memory, run->n, w->streams, err));
out:
    return st;
}

/* Says what a run failed with; the first message stays. */
static void fail_run(struct ml_run *run, marlin_status st, const struct marlin_error *why,
                     marlin_status *first, struct marlin_error *err) {
    run->status = st;
    if (run->error) *run->error = *why;
    if (*first != MARLIN_OK) return;
    *first = st;
    if (err) *err = *why;
}

/* The runs that take part, and their rows. */
static marlin_status admit_all(struct ml_work *w, const struct ml_batch *b, struct marlin_error *err) {
    marlin_status first = MARLIN_OK;
    struct marlin_error why;
    size_t wanted = 0;
    w->n = w->n_runs = w->n_picked = 0;
    w->stopped = false;
    w->picked_in_order = true;
    for (size_t r = 0; r < b->n_runs; r++) {
        struct ml_run *run = &b->runs[r];
        const marlin_status st = admit(w, b, run, &why);
        const bool in = st == MARLIN_OK;
        if (in) w->runs[w->n_runs++] = run;
        run->status = st;
        if (!in) fail_run(run, st, &why, &first, err);
        for (size_t i = run->first; i < run->first + run->n; i++) {
            const bool wants = wants_logits(b, run, i);
            if (in && wants) {
                w->picked_in_order = w->picked_in_order && wanted == w->n_picked;
                for (size_t d = 0; d < w->model->n_devices; d++)
                    w->host[d].picked[w->n_picked] = (int32_t)w->n;
                w->picked_to[w->n_picked++] = wanted;
            }
            if (in) w->taken[w->n++] = i;
            wanted += wants;
        }
    }
    return first;
}

/* ---- the layers ---- */

/* Rows that are embeddings lie in x as they are given. */
static void load_embeddings(struct ml_work *w, const struct ml_batch *b) {
    const size_t hidden = (size_t)w->model->config->hidden_size;
    struct ml_stream *s = w->streams[0];
    for (size_t t = 0; b->embeddings && t < w->n; t++)
        if (w->host[0].ids[t] == ML_ROW_EMBEDDING)
            s->device->ops->upload(s, w->steps[0].x + t * hidden, b->embeddings + w->taken[t] * hidden,
                                   hidden * sizeof(float));
}

/* Hidden states go from one device to the next through host memory. */
static void hop(struct ml_work *w, size_t from, size_t to) {
    const size_t bytes = w->n * (size_t)w->model->config->hidden_size * sizeof(float);
    struct ml_stream *a = w->streams[from], *b = w->streams[to];
    a->device->ops->download(a, w->hop, w->steps[from].x, bytes);
    (void)a->device->ops->stream_sync(a, NULL); /* what went wrong is said again by the last flush */
    b->device->ops->upload(b, w->steps[to].x, w->hop, bytes);
}

static bool all_cancelled(const struct ml_work *w) {
    for (size_t r = 0; r < w->n_runs; r++)
        if (!is_cancelled(w->runs[r])) return false;
    return true;
}

/* The hidden states of the rows that want logits: where they stand together they are taken as they are. */
static float *picked_rows(const struct ml_work *w, struct ml_step *s, size_t d) {
    const size_t hidden = (size_t)w->model->config->hidden_size;
    const int32_t *picked = w->host[d].picked;
    if ((size_t)(picked[w->n_picked - 1] - picked[0]) == w->n_picked - 1)
        return s->x + (size_t)picked[0] * hidden;
    s->ops->gather(
        &s->stream,
        &(struct ml_gather_op){
            .x = s->x, .rows = w->device[d].picked, .y = s->picked, .n = w->n_picked, .width = hidden});
    return s->picked;
}

/* Logits of x's rows i .. i + n on a device of its own memory, to where the caller wants each. */
static void download_logits(const struct ml_work *w, struct ml_step *s, size_t i, size_t n, float *logits) {
    const size_t vocab = (size_t)w->model->config->vocab_size;
    for (size_t k = 0; k < n; k++)
        s->stream.device->ops->download(&s->stream, logits + w->picked_to[i + k] * vocab,
                                        s->logits + k * vocab, vocab * sizeof *logits);
}

static void compute_logits(const struct ml_work *w, float *logits) {
    const size_t d = w->model->n_devices - 1, hidden = (size_t)w->model->config->hidden_size,
                 vocab = (size_t)w->model->config->vocab_size;
    struct ml_step *s = &w->steps[d];
    if (w->n_picked == 0) return;
    float *x = picked_rows(w, s, d);
    if (s->stream.device->is_host && w->picked_in_order) {
        ml_head_forward(s, x, w->n_picked, logits);
        return;
    }
    /* A run has failed before rows that want logits: each goes where it belongs. */
    for (size_t i = 0; s->stream.device->is_host && i < w->n_picked; i++)
        ml_head_forward(s, x + i * hidden, 1, logits + w->picked_to[i] * vocab);
    for (size_t i = 0; !s->stream.device->is_host && i < w->n_picked; i += ML_LOGITS_BLOCK) {
        const size_t n = w->n_picked - i < ML_LOGITS_BLOCK ? w->n_picked - i : (size_t)ML_LOGITS_BLOCK;
        ml_head_forward(s, x + i * hidden, n, s->logits);
        download_logits(w, s, i, n, logits);
    }
}

static void run_layers(struct ml_work *w) {
    const struct ml_model *m = w->model;
    size_t device = 0;
    for (size_t i = 0; i < (size_t)m->config->num_layers; i++) {
        w->stopped = all_cancelled(w);
        if (w->stopped) return;
        const struct ml_layer *l = &m->layers[i];
        struct ml_step *s = ml_work_step(w, l);
        if (l->device != device) hop(w, device, l->device);
        device = l->device;
        if (s->profile) s->profile->layer = (int)i;
        m->arch->layer(s, l, s->x);
        if (w->layer_done) w->layer_done(w->layer_user, i);
    }
}

static void run_pass(struct ml_work *w, const struct ml_batch *b, float *logits) {
    struct ml_step *first = &w->steps[0];
    struct ml_profile *profile = first->profile;
    if (profile) ml_profile_begin(profile, w->n);
    stage(w, b, SIZE_MAX);
    load_embeddings(w, b);
    ml_embed(first);
    ml_stage_done(first, ML_STAGE_EMBED);
    run_layers(w);
    if (profile) profile->layer = -1;
    if (!w->stopped) compute_logits(w, logits);
    if (w->layer_done) w->layer_done(w->layer_user, (size_t)w->model->config->num_layers);
    if (profile) ml_profile_end(profile);
}

/* Copies of pages that were queued outside a pass are done: their pages may be given back. What goes wrong with
 * them is said again by the next flush. */
static void settle(struct ml_work *w) {
    for (size_t d = 0; d < w->model->n_devices; d++)
        (void)w->streams[d]->device->ops->stream_sync(w->streams[d], NULL);
}

static marlin_status flush(struct ml_work *w, struct marlin_error *err) {
    const struct ml_model *m = w->model;
    marlin_status st = MARLIN_OK;
    for (size_t d = 0; d < m->n_devices; d++) {
        const marlin_status one = w->steps[d].ops->flush(w->streams[d], st == MARLIN_OK ? err : NULL);
        if (st == MARLIN_OK) st = one;
    }
    /* A file that was cut meanwhile gave zeros instead of weights. */
    if (st == MARLIN_OK && m->tensors && !ml_tensors_intact(m->tensors))
        st = ml_tensors_check(m->tensors, err);
    return st;
}

/* What was computed counts, unless the pass ended early since all were cancelled. */
static marlin_status commit(struct ml_work *w, marlin_status first, struct marlin_error *err) {
    struct marlin_error why;
    for (size_t r = 0; r < w->n_runs; r++) {
        struct ml_run *run = w->runs[r];
        if (w->stopped)
            fail_run(run, ml_fail(&why, MARLIN_ERR_CANCELLED, "cancelled"), &why, &first, err);
        else if (!run->parent)
            ml_memory_commit(run->sequence->memory, run->n);
    }
    return first;
}

static marlin_status fail_all(struct ml_batch *b, marlin_status st, const struct marlin_error *why,
                              struct marlin_error *err) {
    marlin_status first = MARLIN_OK;
    for (size_t r = 0; r < b->n_runs; r++)
        fail_run(&b->runs[r], st, why, &first, NULL);
    if (err) *err = *why;
    return st;
}

marlin_status ml_forward(struct ml_work *w, struct ml_batch *b, float *logits, struct marlin_error *err) {
    struct marlin_error why;
    marlin_status st = check_batch(w, b, logits, &why);
    if (st != MARLIN_OK) return fail_all(b, st, &why, err);
    const marlin_status first = admit_all(w, b, err);
    if (w->n_runs == 0) settle(w);
    if (w->n_runs == 0) return first;
    ml_mem_guard_begin("model forward");
    run_pass(w, b, logits);
    ml_mem_guard_end();
    st = flush(w, &why);
    return st == MARLIN_OK ? commit(w, first, err) : fail_all(b, st, &why, err);
}

marlin_status ml_feed(struct ml_work *w, struct ml_sequence *s, const int32_t *ids, size_t n,
                      enum ml_logits which, float *logits, struct marlin_error *err) {
    struct ml_run run = {.sequence = s, .n = n, .logits = which};
    struct ml_batch b = {.n = n, .ids = ids, .runs = &run, .n_runs = 1};
    return ml_forward(w, &b, logits, err);
}

void ml_sequence_keep(struct ml_work *w, struct ml_sequence *s, const size_t *keep, size_t n) {
    ml_memory_keep(s->memory, keep, n, w->streams);
    settle(w);
}
