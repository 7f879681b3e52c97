/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns what one sequence needs: the cache, the working memory of a call, the kernels' scratch. All of it is
 * allocated here, so that the forward pass allocates nothing.
 */
#include "base/checked.h"
#include "base/mem.h"
#include "base/rng.h"
#include "models/layers/layers.h"

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

size_t ml_config_quant_jobs(const struct ml_config *c) {
    const size_t dense = 4, experts = 2 * (size_t)c->experts_per_token;
    return c->num_experts == 0 ? dense : experts < ML_LINEAR_JOBS ? larger(dense, experts) : ML_LINEAR_JOBS;
}

size_t ml_config_max_cols(const struct ml_config *c) {
    const size_t heads = (size_t)c->num_heads * (size_t)c->head_dim;
    const size_t ff = larger((size_t)c->intermediate_size, (size_t)c->moe_intermediate_size);
    return larger(larger((size_t)c->hidden_size, heads), ff);
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

static void lay_out_experts(struct layout *l, const struct ml_config *c, size_t batch, struct ml_state *s) {
    const size_t experts = (size_t)c->num_experts, ff = (size_t)c->moe_intermediate_size;
    size_t pairs;
    if (experts == 0) return;
    if (!ml_mul_size(batch, (size_t)c->experts_per_token, &pairs) || pairs > INT32_MAX) {
        l->overflow = true; /* pairs are numbered by int32_t */
        return;
    }
    s->router = part(l, batch, experts, sizeof(float));
    s->pair_x = part(l, pairs, (size_t)c->hidden_size, sizeof(float));
    s->pair_y = part(l, pairs, (size_t)c->hidden_size, sizeof(float));
    s->pair_gate = part(l, pairs, ff, sizeof(float));
    s->pair_up = part(l, pairs, ff, sizeof(float));
    s->plan.expert = part(l, pairs, 1, sizeof(int32_t));
    s->plan.weight = part(l, pairs, 1, sizeof(float));
    s->plan.row = part(l, pairs, 1, sizeof(int32_t));
    s->plan.token = part(l, pairs, 1, sizeof(int32_t));
    s->plan.start = part(l, experts + 1, 1, sizeof(size_t));
}

marlin_status ml_scratch_layout(const struct ml_config *c, size_t batch, size_t positions, struct ml_state *s,
                                size_t *bytes, struct marlin_error *err) {
    struct ml_state none = {0};
    struct layout l = {.base = s ? s->scratch : NULL};
    const size_t hidden = (size_t)c->hidden_size, dim = (size_t)c->head_dim, half = dim / 2;
    const size_t heads = (size_t)c->num_heads, kv_heads = (size_t)c->num_kv_heads;
    if (!s) s = &none;

    s->x = part(&l, batch, hidden, sizeof(float));
    s->normed = part(&l, batch, hidden, sizeof(float));
    s->branch = part(&l, batch, hidden, sizeof(float));
    s->q = part(&l, batch, heads * dim, sizeof(float));
    s->attn = part(&l, batch, heads * dim, sizeof(float));
    s->attn_parts = positions > ML_ATTENTION_CHUNK
                        ? part(&l, heads, ml_attention_parts(1, dim, positions), sizeof(float))
                        : NULL;
    s->k = part(&l, batch, kv_heads * dim, sizeof(float));
    s->v = part(&l, batch, kv_heads * dim, sizeof(float));
    s->gate = part(&l, batch, (size_t)c->intermediate_size, sizeof(float));
    s->up = part(&l, batch, (size_t)c->intermediate_size, sizeof(float));
    s->inv_freq = part(&l, 1, half, sizeof(float));
    s->cos = part(&l, batch, half, sizeof(float));
    s->sin = part(&l, batch, half, sizeof(float));
    s->cos_local = part(&l, batch, half, sizeof(float));
    s->sin_local = part(&l, batch, half, sizeof(float));
    lay_out_experts(&l, c, batch, s);
    if (l.overflow) {
        return ml_fail(err, MARLIN_ERR_LIMIT, "working memory for %zu tokens a call passes the address space",
                       batch);
    }
    *bytes = l.used;
    return MARLIN_OK;
}

static marlin_status create_scratch(struct ml_state *s, struct marlin_error *err) {
    const struct ml_config *c = s->model->config;
    size_t bytes = 0;
    const marlin_status st = ml_scratch_layout(c, s->max_batch, s->kv.shape.max_positions, NULL, &bytes, err);
    if (st != MARLIN_OK) return st;
    s->scratch = ml_alloc_aligned(bytes);
    if (!s->scratch) {
        return ml_fail(err, MARLIN_ERR_MEMORY, "cannot allocate %zu bytes to run %zu tokens a call", bytes,
                       s->max_batch);
    }
    return ml_scratch_layout(c, s->max_batch, s->kv.shape.max_positions, s, &bytes, err);
}

static struct ml_kv_shape kv_shape(const struct ml_model *m, size_t ctx, enum ml_dtype dtype) {
    const struct ml_config *c = m->config;
    return (struct ml_kv_shape){.layers = (size_t)c->num_layers,
                                .kv_heads = (size_t)c->num_kv_heads,
                                .head_dim = (size_t)c->head_dim,
                                .max_positions = ctx,
                                .dtype = dtype};
}

static marlin_status reserve_quant(struct ml_state *s, struct marlin_error *err) {
    const struct ml_model *m = s->model;
    size_t count, bytes;
    marlin_status st = MARLIN_OK;

    if (m->quant_rows == 0) return st;
    s->quant_jobs = ml_config_quant_jobs(m->config);
    ML_TRY(ml_exec_reserve_quant(&s->exec, m->quant_cols, m->quant_rows, s->quant_jobs, s->max_batch, err));
    if (m->sum_rows == 0) goto out;
    if (!ml_mul_size(m->sum_rows, s->max_batch, &count) || !ml_mul_size(count, sizeof(float), &bytes)) {
        st = ml_fail(err, MARLIN_ERR_LIMIT, "working memory for %zu tokens a call passes the address space",
                     s->max_batch);
        goto out;
    }
    s->partial = ml_alloc_aligned(bytes);
    if (!s->partial)
        st = ml_fail(err, MARLIN_ERR_MEMORY, "cannot allocate %zu bytes to run %zu tokens a call", bytes,
                     s->max_batch);
out:
    return st;
}

marlin_status ml_state_create(const struct ml_model *m, struct ml_pool *pool, size_t ctx, size_t max_batch,
                              struct ml_state **out, struct marlin_error *err) {
    return ml_state_create_as(m, pool, ctx, max_batch, m->kv_dtype, out, err);
}

marlin_status ml_state_create_as(const struct ml_model *m, struct ml_pool *pool, size_t ctx, size_t max_batch,
                                 enum ml_dtype kv_dtype, struct ml_state **out, struct marlin_error *err) {
    const struct ml_kv_shape shape = kv_shape(m, ctx, kv_dtype);
    struct ml_state *s = NULL;
    marlin_status st;

    if (ctx == 0 || max_batch == 0) {
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "a state needs room for at least one token");
    }
    if (m->headers_only)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "a model of which only headers were read cannot run");
    s = ml_calloc(1, sizeof(*s));
    if (!s) return ml_fail(err, MARLIN_ERR_MEMORY, "state: out of memory");
    s->model = m;
    s->max_batch = max_batch < ctx ? max_batch : ctx;
    ML_TRY(ml_exec_create(&s->exec, ml_kernels(), pool, err));
    ML_TRY(ml_kv_create(&s->kv, &shape, m->device, err));
    ML_TRY(create_scratch(s, err));
    ML_TRY(reserve_quant(s, err));
out:
    if (st == MARLIN_OK)
        *out = s;
    else
        ml_state_free(s);
    return st;
}

void ml_state_free(struct ml_state *s) {
    if (!s) return;
    ml_kv_free(&s->kv);
    ml_exec_free(&s->exec);
    ml_free_aligned(s->scratch);
    ml_free_aligned(s->partial);
    ml_free(s);
}

size_t ml_state_length(const struct ml_state *s) {
    return s->kv.length;
}

size_t ml_state_capacity(const struct ml_state *s) {
    return s->kv.shape.max_positions;
}

void ml_state_truncate(struct ml_state *s, size_t n) {
    ml_kv_truncate(&s->kv, n);
}

void ml_state_profile(struct ml_state *s, struct ml_profile *p) {
    s->profile = p;
}

/* ---- a cache that was never fed ---- */

enum { FILL_SEED = 1 };

static void fill_numbers(float *x, size_t n, struct ml_rng *rng) {
    for (size_t i = 0; i < n; i++)
        x[i] = (float)ml_rng_double(rng) - 0.5f;
}

/* The rows of s->k and s->v over and over. */
static void fill_layers(void *arg, size_t begin, size_t end, int worker) {
    struct ml_state *s = arg;
    const struct ml_kv_shape *shape = &s->kv.shape;
    const size_t width = shape->kv_heads * shape->head_dim;
    (void)worker;
    for (size_t l = begin; l < end; l++)
        for (size_t p = 0; p < shape->max_positions; p++) {
            const size_t row = p % s->max_batch * width;
            ml_kv_store(&s->kv, s->exec.k, l, p, s->k + row, s->v + row);
        }
}

void ml_state_fill(struct ml_state *s) {
    const size_t n = s->max_batch * s->kv.shape.kv_heads * s->kv.shape.head_dim;
    struct ml_rng rng;
    ml_rng_seed(&rng, FILL_SEED);
    fill_numbers(s->k, n, &rng);
    fill_numbers(s->v, n, &rng);
    ml_pool_for(s->exec.pool, s->kv.shape.layers, 1, fill_layers, s);
}

void ml_state_assume(struct ml_state *s, size_t n) {
    s->kv.length = n;
}

uint64_t ml_state_cache_bytes(const struct ml_state *s, size_t pos0, size_t n) {
    uint64_t sum = 0;
    for (size_t i = 0; i < s->kv.shape.layers; i++)
        sum += ml_attention_bytes(s, &s->model->layers[i].mixer.attention, pos0, n);
    return sum;
}
