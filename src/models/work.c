/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns what one stream of execution needs: on each device the working memory of a pass and that of its
 * operations. All of it is allocated here, so that the forward pass allocates nothing.
 */
#include "models/work.h"

#include "base/checked.h"
#include "base/mem.h"

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* Of a dense layer or a shared expert. */
static size_t dense_width(const struct ml_config *c) {
    return larger((size_t)c->intermediate_size, (size_t)c->shared_width);
}

size_t ml_config_max_cols(const struct ml_config *c) {
    const size_t heads = (size_t)c->num_heads * (size_t)(c->kv_lora_rank > 0 ? c->v_head_dim : c->head_dim);
    const size_t ff = larger(dense_width(c), (size_t)c->moe_intermediate_size);
    const size_t low = larger((size_t)c->q_lora_rank, (size_t)c->kv_lora_rank);
    return larger(larger((size_t)c->hidden_size, heads), larger(ff, low));
}

/* ---- working memory: parts one after the other, each 64-byte aligned ---- */

struct layout {
    char *base; /* NULL: sizes are only added up */
    size_t used;
    bool overflow;
};

static void *part(struct layout *l, size_t rows, size_t width, size_t size) {
    size_t bytes, end;
    void *at = l->base ? l->base + l->used : NULL;
    if (!ml_mul_size(rows, width, &bytes) || !ml_mul_size(bytes, size, &bytes) ||
        !ml_align_up(bytes, 64, &bytes) || !ml_add_size(l->used, bytes, &end)) {
        l->overflow = true;
        return NULL;
    }
    l->used = end;
    return at;
}

static void lay_out_experts(struct layout *l, const struct ml_config *c, size_t rows, struct ml_step *s) {
    const size_t experts = (size_t)c->num_experts, ff = (size_t)c->moe_intermediate_size;
    size_t pairs;
    if (experts == 0) return;
    if (!ml_mul_size(rows, (size_t)c->experts_per_token, &pairs) || pairs > INT32_MAX) {
        l->overflow = true; /* pairs are numbered by int32_t */
        return;
    }
    s->router = part(l, rows, experts, sizeof(float));
    s->pair_x = part(l, pairs, (size_t)c->hidden_size, sizeof(float));
    s->pair_y = part(l, pairs, (size_t)c->hidden_size, sizeof(float));
    s->pair_gate = part(l, pairs, ff, sizeof(float));
    s->pair_up = part(l, pairs, ff, sizeof(float));
    s->plan.expert = part(l, pairs, 1, sizeof(int32_t));
    s->plan.weight = part(l, pairs, 1, sizeof(float));
    s->plan.row = part(l, pairs, 1, sizeof(int32_t));
    s->plan.token = part(l, pairs, 1, sizeof(int32_t));
    s->plan.start = part(l, experts + 1, 1, sizeof(int32_t));
}

static void lay_out_attention(struct layout *l, const struct ml_config *c, size_t rows, struct ml_step *s) {
    const size_t dim = (size_t)c->head_dim, heads = (size_t)c->num_heads, kv_heads = (size_t)c->num_kv_heads;
    s->q = part(l, rows, heads * dim, sizeof(float));
    s->attn = part(l, rows, heads * dim, sizeof(float));
    s->attn_gate = c->attention_gate ? part(l, rows, heads * dim, sizeof(float)) : NULL;
    s->k = part(l, rows, kv_heads * dim, sizeof(float));
    s->v = part(l, rows, kv_heads * dim, sizeof(float));
}

static void lay_out_mla(struct layout *l, const struct ml_config *c, size_t rows, struct ml_step *s) {
    const size_t heads = (size_t)c->num_heads, rotary = (size_t)c->head_dim, latent = (size_t)c->kv_lora_rank;
    s->q_low = c->q_lora_rank > 0 ? part(l, rows, (size_t)c->q_lora_rank, sizeof(float)) : NULL;
    s->q_heads = part(l, rows, heads * ((size_t)c->qk_nope_dim + rotary), sizeof(float));
    s->q = part(l, rows, heads * (latent + rotary), sizeof(float));
    s->k = part(l, rows, latent + rotary, sizeof(float));
    s->attn = part(l, rows, heads * latent, sizeof(float));
    s->values = part(l, rows, heads * (size_t)c->v_head_dim, sizeof(float));
}

static void lay_out_step(struct layout *l, const struct ml_config *c, size_t rows, bool is_host,
                         struct ml_step *s) {
    const size_t hidden = (size_t)c->hidden_size, dim = (size_t)c->head_dim, half = dim / 2;
    s->x = part(l, rows, hidden, sizeof(float));
    s->normed = part(l, rows, hidden, sizeof(float));
    s->branch = part(l, rows, hidden, sizeof(float));
    s->picked = part(l, rows, hidden, sizeof(float));
    if (c->kv_lora_rank > 0)
        lay_out_mla(l, c, rows, s);
    else
        lay_out_attention(l, c, rows, s);
    s->gate = part(l, rows, dense_width(c), sizeof(float));
    s->up = part(l, rows, dense_width(c), sizeof(float));
    s->shared = c->shared_width > 0 ? part(l, rows, hidden, sizeof(float)) : NULL;
    s->global.cos = part(l, rows, half, sizeof(float));
    s->global.sin = part(l, rows, half, sizeof(float));
    s->local.cos = part(l, rows, half, sizeof(float));
    s->local.sin = part(l, rows, half, sizeof(float));
    s->logits = is_host ? NULL : part(l, ML_LOGITS_BLOCK, (size_t)c->vocab_size, sizeof(float));
    lay_out_experts(l, c, rows, s);
}

static size_t pages_of(size_t positions) {
    return positions / ML_PAGE_KEYS + 1;
}

static void lay_out_staged(struct layout *l, const struct ml_config *c, const struct ml_work_sizes *z,
                           size_t groups, struct ml_staged *to) {
    const size_t half = (size_t)c->head_dim / 2, begin = l->used;
    size_t tables;
    to->ids = part(l, z->rows, 1, sizeof *to->ids);
    to->position = part(l, z->rows, 3, sizeof *to->position);
    to->run_of = part(l, z->rows, 1, sizeof *to->run_of);
    to->picked = part(l, z->rows, 1, sizeof *to->picked);
    to->runs = part(l, z->runs, 1, sizeof *to->runs);
    to->tree = part(l, z->rows, 1, sizeof *to->tree);
    to->inv = part(l, z->runs, half, sizeof *to->inv);
    to->inv_local = part(l, z->runs, half, sizeof *to->inv_local);
    to->bytes = l->used - begin;
    l->overflow = l->overflow || !ml_mul_size(groups, z->runs, &tables);
    if (!l->overflow) to->tables = part(l, tables, pages_of(z->positions), sizeof *to->tables);
}

bool ml_step_layout(const struct ml_config *c, const struct ml_work_sizes *sizes, size_t groups, bool is_host,
                    char *base, struct ml_step *s, struct ml_staged *staged, size_t *bytes) {
    struct layout l = {.base = base};
    struct ml_step none = {0};
    struct ml_staged nothing = {0};
    lay_out_step(&l, c, sizes->rows, is_host, s ? s : &none);
    lay_out_staged(&l, c, sizes, groups, staged ? staged : &nothing);
    *bytes = l.used;
    return !l.overflow;
}

/* ---- creation ---- */

struct ml_ops_sizes ml_model_ops_sizes(const struct ml_model *m, const struct ml_work_sizes *z) {
    const struct ml_config *c = m->config;
    return (struct ml_ops_sizes){.rows = z->rows,
                                 .runs = z->runs,
                                 .positions = z->positions,
                                 .quant_cols = m->quant_cols,
                                 .quant_rows = m->quant_rows,
                                 .sum_rows = m->sum_rows,
                                 .heads = (size_t)c->num_heads,
                                 .kv_heads = c->kv_lora_rank > 0 ? 1 : (size_t)c->num_kv_heads,
                                 .v_dim = (size_t)(c->kv_lora_rank > 0 ? c->kv_lora_rank : c->head_dim),
                                 .experts = (size_t)c->num_experts,
                                 .top_k = (size_t)c->experts_per_token};
}

static marlin_status no_memory(const struct ml_work *w, size_t bytes, struct marlin_error *err) {
    return ml_fail(err, MARLIN_ERR_MEMORY, "cannot allocate %zu bytes to run %zu rows a pass", bytes,
                   w->sizes.rows);
}

/* On the host the device's copy of what is staged is the one that is written. */
static marlin_status create_staging(struct ml_work *w, size_t d, struct marlin_error *err) {
    const size_t groups = w->model->n_groups;
    const struct ml_device *device = w->model->devices[d];
    struct layout l = {0};
    if (device->is_host) {
        w->host[d] = w->device[d];
        return MARLIN_OK;
    }
    lay_out_staged(&l, w->model->config, &w->sizes, groups, &w->host[d]);
    l = (struct layout){.base = ml_alloc_aligned(l.used)};
    if (!l.base) return no_memory(w, l.used, err);
    lay_out_staged(&l, w->model->config, &w->sizes, groups, &w->host[d]);
    return MARLIN_OK;
}

static marlin_status step_bytes(const struct ml_work *w, size_t d, size_t *bytes, struct marlin_error *err) {
    const struct ml_model *m = w->model;
    if (ml_step_layout(m->config, &w->sizes, m->n_groups, m->devices[d]->is_host, NULL, NULL, NULL, bytes))
        return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_LIMIT, "working memory for %zu rows a pass passes the address space",
                   w->sizes.rows);
}

static marlin_status create_step(struct ml_work *w, size_t d, struct marlin_error *err) {
    const struct ml_model *m = w->model;
    const size_t groups = m->n_groups;
    struct ml_device *device = m->devices[d];
    struct ml_step *s = &w->steps[d];
    const struct ml_ops_sizes sizes = ml_model_ops_sizes(m, &w->sizes);
    size_t bytes;
    marlin_status st;
    *s = (struct ml_step){.model = m, .ops = m->ops[d]};
    w->streams[d] = &s->stream;
    ML_TRY(device->ops->stream_open(device, &s->stream, err));
    ML_TRY(step_bytes(w, d, &bytes, err));
    ML_TRY(device->ops->alloc(device, bytes, &s->memory_block, err));
    (void)ml_step_layout(m->config, &w->sizes, groups, device->is_host, s->memory_block.address, s,
                         &w->device[d], &bytes);
    s->pages = ml_calloc(groups, sizeof *s->pages);
    if (!s->pages) {
        st = no_memory(w, groups * sizeof *s->pages, err);
        goto out;
    }
    ML_TRY(create_staging(w, d, err));
    ML_TRY(s->ops->open(&s->stream, w->pool, &sizes, err));
out:
    return st;
}

static marlin_status create_lists(struct ml_work *w, struct marlin_error *err) {
    const size_t devices = w->model->n_devices, hidden = (size_t)w->model->config->hidden_size;
    size_t hop = 0;
    w->steps = ml_calloc(devices, sizeof *w->steps);
    w->streams = ml_calloc(devices, sizeof(struct ml_stream *));
    w->host = ml_calloc(devices, sizeof *w->host);
    w->device = ml_calloc(devices, sizeof *w->device);
    w->runs = ml_calloc(w->sizes.runs, sizeof(struct ml_run *));
    w->taken = ml_calloc(w->sizes.rows, sizeof *w->taken);
    w->picked_to = ml_calloc(w->sizes.rows, sizeof *w->picked_to);
    if (devices > 1 && ml_mul_size(w->sizes.rows, hidden * sizeof *w->hop, &hop))
        w->hop = ml_alloc_aligned(hop);
    if (w->steps && w->streams && w->host && w->device && w->runs && w->taken && w->picked_to &&
        (w->hop || devices == 1))
        return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_MEMORY, "cannot allocate the lists of %zu rows a pass", w->sizes.rows);
}

marlin_status ml_work_create(const struct ml_model *m, struct ml_pool *pool,
                             const struct ml_work_sizes *sizes, struct ml_work **out,
                             struct marlin_error *err) {
    size_t bytes;
    marlin_status st;
    if (sizes->rows == 0 || sizes->runs == 0 || sizes->positions == 0)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "a pass needs room for at least one token");
    if (m->headers_only)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "a model of which only headers were read cannot run");
    struct ml_work *w = ml_calloc(1, sizeof *w);
    if (!w) return ml_fail(err, MARLIN_ERR_MEMORY, "working memory: out of memory");
    w->model = m;
    w->pool = pool;
    w->sizes = *sizes;
    if (w->sizes.runs > w->sizes.rows) w->sizes.runs = w->sizes.rows;
    w->stride = pages_of(sizes->positions);
    ML_TRY(step_bytes(w, 0, &bytes, err)); /* before anything smaller is asked for */
    ML_TRY(create_lists(w, err));
    for (size_t d = 0; d < m->n_devices; d++)
        ML_TRY(create_step(w, d, err));
out:
    if (st == MARLIN_OK)
        *out = w;
    else
        ml_work_free(w);
    return st;
}

static void free_step(struct ml_work *w, size_t d) {
    struct ml_device *device = w->model->devices[d];
    struct ml_step *s = &w->steps[d];
    if (!s->ops) return;
    s->ops->close(&s->stream);
    if (s->stream.device) device->ops->stream_close(&s->stream);
    if (s->memory_block.address) device->ops->free(device, &s->memory_block);
    if (!device->is_host) ml_free_aligned(w->host[d].ids); /* the first part of the block */
    ml_free(s->pages);
}

void ml_work_free(struct ml_work *w) {
    if (!w) return;
    for (size_t d = 0; w->steps && d < w->model->n_devices; d++)
        free_step(w, d);
    ml_free(w->steps);
    ml_free(w->streams);
    ml_free(w->host);
    ml_free(w->device);
    ml_free(w->runs);
    ml_free(w->taken);
    ml_free(w->picked_to);
    ml_free_aligned(w->hop);
    ml_free(w);
}

size_t ml_work_rows(const struct ml_work *w) {
    return w->sizes.rows;
}

void ml_work_profile(struct ml_work *w, struct ml_profile *p) {
    for (size_t d = 0; d < w->model->n_devices; d++)
        w->steps[d].profile = p;
}

void ml_work_observe(struct ml_work *w, ml_observe_fn *fn, void *user) {
    for (size_t d = 0; d < w->model->n_devices; d++) {
        w->steps[d].observe = fn;
        w->steps[d].observe_user = user;
    }
}

void ml_work_on_layer(struct ml_work *w, ml_layer_done_fn *fn, void *user) {
    w->layer_done = fn;
    w->layer_user = user;
}

struct ml_step *ml_work_step(struct ml_work *w, const struct ml_layer *l) {
    return &w->steps[l->device];
}

struct ml_step *ml_work_first(struct ml_work *w) {
    return &w->steps[0];
}
