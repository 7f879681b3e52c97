/* SPDX-License-Identifier: Apache-2.0
 *
 * Check and timing of attention: groups, windows, soft caps, sinks, head sizes that are no multiple of
 * anything.
 */
#include "kernels/check.h"

#include <math.h>

struct shape {
    size_t head_dim, group, tokens, pos0, window, extra; /* extra: floats between rows */
    float softcap;
    bool sink;
};

static const struct shape hostile[] = {
    {1, 1, 1, 0, 0, 0, 0, false},    {3, 1, 1, 5, 0, 1, 0, false},      {4, 2, 3, 0, 0, 0, 0, true},
    {16, 1, 5, 60, 0, 3, 0, false},  {17, 3, 2, 63, 7, 0, 0, false},    {64, 4, 1, 200, 0, 0, 30, false},
    {64, 5, 7, 57, 64, 5, 0, true},  {80, 2, 9, 0, 1, 0, 0, false},     {96, 8, 4, 129, 100, 7, 50, true},
    {128, 2, 30, 3, 0, 0, 0, false}, {128, 1, 70, 0, 16, 1, 0, false},  {256, 1, 2, 64, 0, 0, 0, false},
    {512, 7, 1, 31, 0, 3, 0, true},  {33, 6, 5, 1000, 333, 2, 0, true}, {128, 16, 1, 65, 0, 0, 0, false},
};

/* One token far along, and a chunk of a prompt. */
static const struct shape timed[] = {{128, 2, 1, 4096, 0, 0, 0, false}, {128, 2, 64, 448, 0, 0, 0, false}};

struct call {
    struct ml_attention_args args;
    enum ml_dtype t;
};

static ml_check_entry *get_attention(const struct ml_check_tables *t, int kind) {
    return (ml_check_entry *)t->k.attention[kind];
}

static void call_attention(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    t->k.attention[a->t](&a->args);
}

static double largest(const float *p, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fabs((double)p[i]) > most ? fabs((double)p[i]) : most;
    return most;
}

/* A score is off by some ulps of sum |q k|, which its weight takes as a relative error; the result is an
 * average of values. Bounds over all rows: |q|max |k|max head_dim scale. */
static double tolerance(struct ml_check *c, const struct call *a, const struct shape *s, size_t cache,
                        size_t queries) {
    float *wide = ml_check_scratch(c, cache * sizeof *wide);
    ml_check_widen(c, a->t, wide, a->args.k, cache);
    const double score =
        largest(wide, cache) * largest(a->args.q, queries) * (double)s->head_dim * a->args.scale;
    ml_check_widen(c, a->t, wide, a->args.v, cache);
    return (16 + score * (2 + sqrt((double)s->head_dim) / 8)) * 0x1p-24 * largest(wide, cache) + 1e-37;
}

static void set_params(struct ml_check *c, const struct shape *s, enum ml_check_fill fill) {
    ml_check_param(c, "head_dim", s->head_dim);
    ml_check_param(c, "group", s->group);
    ml_check_param(c, "tokens", s->tokens);
    ml_check_param(c, "pos0", s->pos0);
    if (ml_check_timing(c)) return;
    ml_check_param(c, "window", s->window);
    ml_check_param(c, "gap", s->extra);
    ml_check_param(c, "softcap", (size_t)s->softcap);
    ml_check_param_text(c, "sink", s->sink ? "yes" : "no");
    ml_check_param_text(c, "fill", ml_check_fill_name(fill));
}

static void attention_case(struct ml_check *c, const struct shape *s, enum ml_dtype t,
                           enum ml_check_fill fill) {
    if (!ml_check_begin(c, "attention", ml_dtype_name(t), get_attention, (int)t)) return;
    set_params(c, s, fill);
    const size_t row = s->group * s->head_dim + s->extra, kv_stride = s->head_dim + s->extra;
    const size_t keys = s->pos0 + s->tokens, cache = (keys - 1) * kv_stride + s->head_dim;
    const size_t queries = (s->tokens - 1) * row + s->group * s->head_dim;
    struct call a = {.t = t};
    a.args = (struct ml_attention_args){
        .q = ml_check_floats(c, queries, fill),
        .q_stride = row,
        .out_stride = row,
        .k = ml_check_elements(c, t, cache, fill),
        .v = ml_check_elements(c, t, cache, fill),
        .kv_stride = kv_stride,
        .head_dim = s->head_dim,
        .rows = s->tokens * s->group,
        .group = s->group,
        .pos0 = s->pos0,
        .window = s->window,
        .scale = fill == ML_CHECK_LARGE ? 1e-8f : 1.0f / sqrtf((float)s->head_dim),
        .softcap = s->softcap,
        .sink = s->sink ? ml_check_floats(c, s->group, ML_CHECK_NORMAL) : NULL,
    };
    struct ml_check_result out = {.type = ML_CHECK_F32, .count = queries};
    if (!ml_check_timing(c)) out.absolute = tolerance(c, &a, s, cache, queries);
    a.args.out = ml_check_output(c, &out);
    const double pairs = (double)(s->tokens * s->group) * ((double)s->pos0 + 0.5 * (double)(s->tokens + 1));
    ml_check_cost(c, 2 * (double)(cache * ml_dtype_size(t)), 4 * pairs * (double)s->head_dim, ML_PEAK_F32);
    ml_check_call(c, call_attention, &a);
}

static void run(struct ml_check *c) {
    for (int t = 0; t < ML_FLOAT_KINDS; t++) {
        for (size_t i = 0; i < sizeof timed / sizeof *timed && ml_check_timing(c); i++)
            attention_case(c, &timed[i], (enum ml_dtype)t, ML_CHECK_NORMAL);
        /* Keys and values must be finite. */
        for (size_t i = 0; i < sizeof hostile / sizeof *hostile && !ml_check_timing(c); i++)
            for (int fill = 0; fill < ML_CHECK_SPECIAL; fill++)
                attention_case(c, &hostile[i], (enum ml_dtype)t, (enum ml_check_fill)fill);
    }
}

const struct ml_check_family ml_check_attention = {"attention", run};
