/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention over the pages of many sequences, and what happens to q, k and v before.
 *
 * Pieces are a run, a KV head of it and either some of the run's tokens or, for a single token with a long
 * context, a chunk of its keys; unfinished rows of chunks are joined afterwards. Which of the two is a matter
 * of time alone: both give the same bits.
 *
 *   parts of a run:  KV head 0, chunk 0: rows [group][v_dim], sums [group][2] | chunk 1 | ... | KV head 1 ...
 */
#include "kernels/tiers.h"
#include "ops/cpu/cpu_int.h"

#include <math.h>
#include <string.h>

enum {
    ROPE_GRAIN = 4,
    ATTENTION_ROWS = 48, /* query rows of a piece */
    PIECES_A_WORKER = 4  /* below which contexts are shared out */
};

/* ---- before: norms of heads, rotation, store ---- */

struct store_rows {
    const struct ml_kernels *k;
    const struct ml_rope_store_op *op;
};

/* Over each run of norm->n floats of one row of `width`, or over the leading ones of each head. */
static void norm_row(const struct store_rows *a, const struct ml_norm *norm, float *x, size_t width) {
    if (!norm || !norm->w) return;
    const size_t step = a->op->norm_leading ? a->op->layout.k_dim : norm->n;
    for (size_t at = 0; at < width; at += step)
        a->k->rmsnorm(x + at, x + at, norm->w, norm->offset, norm->eps, norm->n);
}

static void rotate(const struct store_rows *a, float *x, size_t width, size_t t) {
    const struct ml_rope_store_op *op = a->op;
    const size_t half = op->rotary / 2, dim = op->layout.k_dim;
    if (op->rotary == 0) return;
    (op->interleaved ? a->k->rope_interleaved : a->k->rope_half)(
        x + op->rotary_at, width / dim, dim, op->rotary, op->cos + t * half, op->sin + t * half);
}

/* Keys or values of one token: x [kv_heads * dim] to `slot` of the page. */
static void store(const struct store_rows *a, char *page, size_t at, size_t scales_at, const float *x,
                  size_t dim, size_t slot) {
    const struct ml_kv_layout *l = &a->op->layout;
    for (size_t h = 0; h < l->kv_heads; h++) {
        char *rows = page + at + h * l->head_bytes;
        if (l->dtype != ML_I8) {
            a->k->narrow[l->dtype](rows + slot * dim * ml_dtype_size(l->dtype), x + h * dim, dim);
            continue;
        }
        float *scales = (float *)(void *)(page + scales_at + h * l->head_bytes);
        scales[slot] = a->k->narrow_i8((int8_t *)rows + slot * dim, x + h * dim, dim);
    }
}

/* Ministral 3: longer contexts make attention sharper. */
static void temper(const struct ml_rope_store_op *op, float *q, size_t t) {
    if (op->temper == 0) return;
    const size_t steps = (size_t)op->pass->position[3 * t] / op->temper_length;
    const float by = 1.0f + op->temper * logf(1.0f + (float)steps);
    for (size_t i = 0; i < op->q_width; i++)
        q[i] *= by;
}

static void norms(const struct store_rows *a, float *q, float *k, size_t k_width) {
    norm_row(a, a->op->q_norm, q, a->op->q_width);
    norm_row(a, a->op->k_norm, k, k_width);
}

static void store_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct store_rows *a = arg;
    const struct ml_rope_store_op *op = a->op;
    const struct ml_kv_layout *l = &op->layout;
    const size_t k_width = l->kv_heads * l->k_dim, v_width = l->kv_heads * l->v_dim;
    (void)worker;
    for (size_t t = begin; t < end; t++) {
        const size_t r = (size_t)op->pass->run_of[t];
        const struct ml_pass_run *run = &op->pass->runs[r];
        const size_t slot = (size_t)run->slot0 + t - (size_t)run->first;
        char *page = (char *)(uintptr_t)op->pages.table[r * op->pages.stride + slot / ML_PAGE_KEYS];
        float *q = op->q + t * op->q_width, *k = op->k + t * k_width;
        if (!op->norm_last) norms(a, q, k, k_width);
        rotate(a, q, op->q_width, t);
        rotate(a, k, k_width, t);
        if (op->norm_last) norms(a, q, k, k_width);
        temper(op, q, t);
        store(a, page, l->k_at, l->k_scales_at, k, l->k_dim, slot % ML_PAGE_KEYS);
        if (l->v_at != l->k_at)
            store(a, page, l->v_at, l->v_scales_at, op->v + t * v_width, l->v_dim, slot % ML_PAGE_KEYS);
    }
}

void ml_cpu_rope_store(struct ml_stream *s, const struct ml_rope_store_op *op) {
    struct store_rows a = {ml_cpu_work(s)->exec.k, op};
    ml_cpu_rows(ml_cpu_work(s), op->pass->n, ROPE_GRAIN, store_rows, &a);
}

/* ---- attention ---- */

struct attention {
    const struct ml_cpu_work *w;
    const struct ml_attention_op *op;
    ml_attention_fn *fn;
    size_t group;       /* query heads of a KV head */
    size_t tokens;      /* of a piece */
    size_t part_floats; /* of one chunk's unfinished rows */
};

static const struct ml_pass_run *run_at(const struct attention *a, size_t r) {
    return &a->op->pass->host_runs[r];
}

/* Tokens first .. first + tokens of a run, one KV head. */
static struct ml_attention_args head_args(const struct attention *a, size_t r, size_t head, size_t first,
                                          size_t tokens) {
    const struct ml_attention_op *op = a->op;
    const struct ml_kv_layout *l = &op->layout;
    const struct ml_pass_run *run = run_at(a, r);
    const size_t row = (size_t)run->first + first, q_stride = op->heads * l->k_dim,
                 out_stride = op->heads * l->v_dim, at = head * l->head_bytes;
    return (struct ml_attention_args){
        .q = op->q + row * q_stride + head * a->group * l->k_dim,
        .q_stride = q_stride,
        .out = op->out + row * out_stride + head * a->group * l->v_dim,
        .out_stride = out_stride,
        .pages = op->pages.table + r * op->pages.stride,
        .k_at = l->k_at + at,
        .v_at = l->v_at + at,
        .k_scales_at = l->k_scales_at + at,
        .v_scales_at = l->v_scales_at + at,
        .k_dim = l->k_dim,
        .v_dim = l->v_dim,
        .v_stride = l->v_stride,
        .rows = tokens * a->group,
        .group = a->group,
        .slot0 = (size_t)run->slot0 + first,
        .window = op->window,
        .tree = run->tree ? op->pass->tree + row : NULL,
        .tree_slot0 = (size_t)run->slot0,
        .scale = op->scale,
        .softcap = op->softcap,
        .sink = op->sinks ? op->sinks + head * a->group : NULL,
    };
}

/* Chunks that the single token of a run sees: *first is the first of them. */
static size_t chunks_of(const struct attention *a, size_t r, size_t *first) {
    const struct ml_attention_args one = head_args(a, r, 0, 0, 1);
    *first = ml_attention_first(&one, 0) / ML_ATTENTION_CHUNK;
    return one.slot0 / ML_ATTENTION_CHUNK + 1 - *first;
}

static size_t blocks_of(const struct attention *a, size_t r) {
    return ((size_t)run_at(a, r)->n + a->tokens - 1) / a->tokens;
}

static float *part_at(const struct attention *a, size_t r, size_t head, size_t chunks, size_t chunk) {
    return a->w->parts + a->w->part_of[r] + (head * chunks + chunk) * a->part_floats;
}

/* Numbers the pieces, contexts whole; how many there are. */
static size_t number_whole(const struct attention *a) {
    size_t *first = a->w->first;
    first[0] = 0;
    for (size_t r = 0; r < a->op->pass->n_runs; r++) {
        a->w->part_of[r] = SIZE_MAX;
        first[r + 1] = first[r] + blocks_of(a, r) * a->op->layout.kv_heads;
    }
    return first[a->op->pass->n_runs];
}

/* Shares out the contexts of single tokens, as far as there is room for their parts. True when any is.
 *
 * Portable C takes the keys in two passes, which its chunks equal but for rounding: it never shares out. */
static bool share_out(const struct attention *a) {
    size_t *first = a->w->first, used = 0, skipped;
    bool any = false;
    if (a->w->exec.k->tier == ML_CPU_GENERIC) return false;
    for (size_t r = 0; r < a->op->pass->n_runs; r++) {
        const size_t pieces = a->op->layout.kv_heads;
        const size_t chunks = run_at(a, r)->n == 1 ? chunks_of(a, r, &skipped) : 1;
        const size_t floats = chunks * pieces * a->part_floats;
        first[r + 1] = first[r] + blocks_of(a, r) * pieces;
        if (chunks == 1 || floats > a->w->parts_floats - used) continue;
        a->w->part_of[r] = used;
        used += floats;
        first[r + 1] = first[r] + chunks * pieces;
        any = true;
    }
    return any;
}

static void part_piece(const struct attention *a, size_t r, size_t piece) {
    size_t first;
    const size_t chunks = chunks_of(a, r, &first), head = piece / chunks, chunk = piece % chunks;
    struct ml_attention_args args = head_args(a, r, head, 0, 1);
    args.out = part_at(a, r, head, chunks, chunk);
    args.sums = args.out + a->group * args.v_dim;
    args.chunk = first + chunk;
    a->fn(&args);
}

static void whole_piece(const struct attention *a, size_t r, size_t piece) {
    const size_t kv_heads = a->op->layout.kv_heads, n = (size_t)run_at(a, r)->n;
    /* Late tokens see the most keys: they go first. */
    const size_t first = (blocks_of(a, r) - 1 - piece / kv_heads) * a->tokens;
    const size_t tokens = n - first < a->tokens ? n - first : a->tokens;
    const struct ml_attention_args args = head_args(a, r, piece % kv_heads, first, tokens);
    a->fn(&args);
}

/* The run of a piece. */
static size_t run_of_piece(const struct attention *a, size_t piece) {
    size_t low = 0, high = a->op->pass->n_runs;
    while (high - low > 1) {
        const size_t middle = (low + high) / 2;
        if (a->w->first[middle] <= piece)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void attention_range(void *arg, size_t begin, size_t end, int worker) {
    const struct attention *a = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        const size_t r = run_of_piece(a, i), piece = i - a->w->first[r];
        if (a->w->part_of[r] == SIZE_MAX)
            whole_piece(a, r, piece);
        else
            part_piece(a, r, piece);
    }
}

/* One query head of a run that was shared out. */
static void join_row(const struct attention *a, size_t r, size_t i) {
    const struct ml_attention_op *op = a->op;
    const size_t dim = op->layout.v_dim, head = i / a->group, row = i % a->group;
    size_t first;
    const size_t chunks = chunks_of(a, r, &first);
    float *out = op->out + ((size_t)run_at(a, r)->first * op->heads + i) * dim;
    float sums[2] = {op->sinks ? op->sinks[i] : -INFINITY, op->sinks ? 1.0f : 0.0f};
    memset(out, 0, dim * sizeof *out);
    for (size_t c = 0; c < chunks; c++) {
        const float *part = part_at(a, r, head, chunks, c);
        a->w->exec.k->attention_join(out, sums, part + row * dim, part + a->group * dim + 2 * row, dim);
    }
    const float inv = 1.0f / sums[1];
    for (size_t d = 0; d < dim; d++)
        out[d] *= inv;
}

/* Item i is query head i % heads of run i / heads. */
static void join_range(void *arg, size_t begin, size_t end, int worker) {
    const struct attention *a = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++)
        if (a->w->part_of[i / a->op->heads] != SIZE_MAX) join_row(a, i / a->op->heads, i % a->op->heads);
}

void ml_cpu_attention(struct ml_stream *s, const struct ml_attention_op *op) {
    const struct ml_cpu_work *w = ml_cpu_work(s);
    const size_t runs = op->pass->n_runs, group = op->heads / op->layout.kv_heads;
    struct attention a = {.w = w,
                          .op = op,
                          .fn = ml_attention_of(w->exec.k, op->layout.dtype),
                          .group = group,
                          .tokens = (ATTENTION_ROWS + group - 1) / group,
                          .part_floats = group * (op->layout.v_dim + 2)};
    const size_t whole = number_whole(&a);
    const bool shared =
        w->parts_floats > 0 && whole < PIECES_A_WORKER * (size_t)ml_pool_size(w->exec.pool) && share_out(&a);
    ml_pool_for(w->exec.pool, w->first[runs], 1, attention_range, &a);
    if (shared) ml_pool_for(w->exec.pool, runs * op->heads, 1, join_range, &a);
}
