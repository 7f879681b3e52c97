/* SPDX-License-Identifier: Apache-2.0
 *
 * Grouped-query attention over the cache: project, normalise q and k where the model does, rotate, store,
 * attend.
 */
#include "models/layers/layers.h"

enum { ROW_GRAIN = 4 };

struct rows {
    struct ml_state *s;
    const struct ml_layer *l;
    const float *cos, *sin; /* [n, half] */
};

static void rotate(const struct rows *a, float *x, size_t heads, size_t t) {
    const struct ml_rope *r = a->l->mixer.attention.rope;
    if (!r) return;
    a->s->exec.k->rope_half(x, heads, a->s->kv.shape.head_dim, r->rotary, a->cos + t * r->half,
                            a->sin + t * r->half);
}

/* One token: what happens to q, k and v between the projections and the scores. */
static void prepare_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct rows *a = arg;
    const struct ml_attention_weights *w = &a->l->mixer.attention;
    struct ml_state *s = a->s;
    const size_t dim = s->kv.shape.head_dim;
    (void)worker;
    for (size_t t = begin; t < end; t++) {
        float *q = s->q + t * w->q.out, *k = s->k + t * w->k.out, *v = s->v + t * w->v.out;
        ml_norm_row(s->exec.k, &w->q_norm, q, w->q.out);
        ml_norm_row(s->exec.k, &w->k_norm, k, w->k.out);
        rotate(a, q, w->q.out / dim, t);
        rotate(a, k, w->k.out / dim, t);
        ml_kv_store(&s->kv, s->exec.k, a->l->index, s->lane ? t * s->lane + s->pos0 : s->pos0 + t, k, v);
    }
}

static void prepare(struct ml_state *s, const struct ml_layer *l) {
    const bool local = l->mixer.attention.rope == &s->model->rope_local;
    struct rows a = {s, l, local ? s->cos_local : s->cos, local ? s->sin_local : s->sin};
    if (s->n <= ROW_GRAIN)
        prepare_rows(&a, 0, s->n, 0);
    else
        ml_pool_for(s->exec.pool, s->n, ROW_GRAIN, prepare_rows, &a);
}

static void attend(struct ml_state *s, const struct ml_layer *l) {
    const struct ml_attention_weights *w = &l->mixer.attention;
    const struct ml_attention_job job = {
        .q = s->q,
        .q_stride = w->q.out,
        .out = s->attn,
        .out_stride = w->q.out,
        .k = ml_kv_k(&s->kv, l->index),
        .v = ml_kv_v(&s->kv, l->index),
        .kv_type = s->kv.shape.dtype,
        .kv_stride = s->kv.shape.head_dim,
        .head_stride = s->kv.head_stride,
        .k_scales = ml_kv_k_scales(&s->kv, l->index),
        .v_scales = ml_kv_v_scales(&s->kv, l->index),
        .scale_stride = s->kv.scale_stride,
        .heads = w->q.out / s->kv.shape.head_dim,
        .kv_heads = s->kv.shape.kv_heads,
        .head_dim = s->kv.shape.head_dim,
        .n = s->n,
        .pos0 = s->pos0,
        .window = w->window,
        .scale = w->scale,
        .softcap = w->softcap,
        .parts = s->attn_parts,
    };
    ml_attention(&s->exec, &job);
}

uint64_t ml_attention_bytes(const struct ml_state *s, const struct ml_attention_weights *w, size_t pos0,
                            size_t n) {
    const size_t seen = pos0 + n, window = w->window ? w->window + n - 1 : seen;
    return 2 * (uint64_t)(seen < window ? seen : window) * s->kv.shape.kv_heads *
           ml_kv_row_bytes(&s->kv.shape);
}

/* ---- one token of each of many sequences ---- */

static const char *lane_start(const struct ml_state *s, const void *cache, size_t kv_head, size_t t) {
    const struct ml_kv *kv = &s->kv;
    const size_t at = kv_head * kv->head_stride + t * s->lane * kv->shape.head_dim;
    return (const char *)cache + at * ml_dtype_size(kv->shape.dtype);
}

static const float *lane_scales(const struct ml_state *s, const float *scales, size_t kv_head, size_t t) {
    return scales ? scales + kv_head * s->kv.scale_stride + t * s->lane : NULL;
}

/* Piece i is KV head i % kv_heads of row i / kv_heads. */
static void attend_lanes(void *arg, size_t begin, size_t end, int worker) {
    const struct rows *a = arg;
    const struct ml_attention_weights *w = &a->l->mixer.attention;
    struct ml_state *s = a->s;
    const size_t dim = s->kv.shape.head_dim, kv_heads = s->kv.shape.kv_heads;
    const size_t group = w->q.out / dim / kv_heads, layer = a->l->index;
    ml_attention_fn *const attention = ml_attention_of(s->exec.k, s->kv.shape.dtype);
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        const size_t t = i / kv_heads, h = i % kv_heads, at = t * w->q.out + h * group * dim;
        const struct ml_attention_args args = {
            .q = s->q + at,
            .q_stride = w->q.out,
            .out = s->attn + at,
            .out_stride = w->q.out,
            .k = lane_start(s, ml_kv_k(&s->kv, layer), h, t),
            .v = lane_start(s, ml_kv_v(&s->kv, layer), h, t),
            .k_scales = lane_scales(s, ml_kv_k_scales(&s->kv, layer), h, t),
            .v_scales = lane_scales(s, ml_kv_v_scales(&s->kv, layer), h, t),
            .kv_stride = dim,
            .head_dim = dim,
            .rows = group,
            .group = group,
            .pos0 = s->pos0,
            .window = w->window,
            .scale = w->scale,
            .softcap = w->softcap};
        attention(&args);
    }
}

void ml_attention_forward(struct ml_state *s, const struct ml_layer *l, const float *x, float *y) {
    const struct ml_attention_weights *w = &l->mixer.attention;
    const struct ml_linear_job qkv[] = {
        {&w->q, s->q, w->q.out}, {&w->k, s->k, w->k.out}, {&w->v, s->v, w->v.out}};
    const struct ml_linear_job out = {&w->o, y, w->o.out};
    ml_linear_forward(s, qkv, 3, x, w->q.in, s->n);
    ml_stage_linears(s, ML_STAGE_QKV, qkv, 3);
    prepare(s, l);
    ml_stage_done(s, ML_STAGE_ROPE);
    if (s->lane) {
        struct rows a = {.s = s, .l = l};
        ml_pool_for(s->exec.pool, s->n * s->kv.shape.kv_heads, 1, attend_lanes, &a);
    } else {
        attend(s, l);
    }
    if (s->profile) ml_profile_mark(s->profile, ML_STAGE_ATTENTION, ml_attention_bytes(s, w, s->pos0, s->n));
    ml_linear_forward(s, &out, 1, s->attn, w->o.in, s->n);
    ml_stage_linears(s, ML_STAGE_OUT, &out, 1);
}
