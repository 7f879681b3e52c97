/* SPDX-License-Identifier: Apache-2.0
 *
 * Check and timing of attention: groups, windows, soft caps, sinks, head sizes that are no multiple of
 * anything.
 */
#include "base/rng.h"
#include "kernels/check.h"

#include <math.h>

struct shape {
    size_t head_dim, group, tokens, pos0, window, extra; /* extra: floats between rows */
    float softcap;
    bool sink;
};

static const struct shape hostile[] = {
    {1, 1, 1, 0, 0, 0, 0, false},     {3, 1, 1, 5, 0, 1, 0, false},       {4, 2, 3, 0, 0, 0, 0, true},
    {16, 1, 5, 60, 0, 3, 0, false},   {17, 3, 2, 63, 7, 0, 0, false},     {64, 4, 1, 200, 0, 0, 30, false},
    {64, 5, 7, 57, 64, 5, 0, true},   {80, 2, 9, 0, 1, 0, 0, false},      {96, 8, 4, 129, 100, 7, 50, true},
    {128, 2, 30, 3, 0, 0, 0, false},  {128, 1, 70, 0, 16, 1, 0, false},   {256, 1, 2, 64, 0, 0, 0, false},
    {512, 7, 1, 31, 0, 3, 0, true},   {33, 6, 5, 1000, 333, 2, 0, true},  {128, 16, 1, 65, 0, 0, 0, false},
    {64, 3, 40, 500, 0, 0, 0, false}, {16, 2, 30, 1500, 20, 0, 0, false}, {40, 1, 3, 2047, 0, 1, 0, true},
};

/* One token far along, and a chunk of a prompt. */
static const struct shape timed[] = {{128, 2, 1, 4096, 0, 0, 0, false}, {128, 2, 64, 448, 0, 0, 0, false}};

struct call {
    struct ml_attention_args args;
    enum ml_dtype t;
};

static ml_check_entry *get_attention(const struct ml_check_tables *t, int kind) {
    return (ml_check_entry *)ml_attention_of(&t->k, (enum ml_dtype)kind);
}

static void call_attention(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    ml_attention_of(&t->k, a->t)(&a->args);
}

struct join_call {
    float *out, *sums;
    const float *part, *part_sums;
    size_t dim;
};

static ml_check_entry *get_join(const struct ml_check_tables *t, int variant) {
    (void)variant;
    return (ml_check_entry *)t->k.attention_join;
}

static void call_join(const struct ml_check_tables *t, void *arg) {
    const struct join_call *a = arg;
    t->k.attention_join(a->out, a->sums, a->part, a->part_sums, a->dim);
}

static double largest(const float *p, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fabs((double)p[i]) > most ? fabs((double)p[i]) : most;
    return most;
}

/* Greatest key or value. */
static double largest_of(struct ml_check *c, const struct call *a, const struct shape *s, const void *cache,
                         const float *scales, size_t n) {
    if (scales) return 127 * largest(scales, s->pos0 + s->tokens);
    float *wide = ml_check_scratch(c, n * sizeof *wide);
    ml_check_widen(c, a->t, wide, cache, n);
    return largest(wide, n);
}

/* Keys or values; of int8 ones, all bytes are whole numbers and the scales are what is filled. */
static const void *make_cache(struct ml_check *c, enum ml_dtype t, size_t n, enum ml_check_fill fill) {
    if (t != ML_I8) return ml_check_elements(c, t, n, fill);
    int8_t *q = ml_check_input(c, n);
    for (size_t i = 0; i < n; i++)
        q[i] = (int8_t)((int)(ml_rng_u64(ml_check_rng(c)) % 255) - 127);
    return q;
}

static const float *make_scales(struct ml_check *c, enum ml_dtype t, size_t n, enum ml_check_fill fill) {
    if (t != ML_I8) return NULL;
    float *scales = ml_check_floats(c, n, fill);
    for (size_t i = 0; i < n; i++)
        scales[i] = fabsf(scales[i]) / 127;
    return scales;
}

/* A score is off by some ulps of sum |q k|, which its weight takes as a relative error; the result is an
 * average of values. Bounds over all rows: |q|max |k|max head_dim scale. */
struct bounds {
    double score, weight, value; /* absolute, relative, greatest |v| */
};

static struct bounds bounds_of(struct ml_check *c, const struct call *a, const struct shape *s, size_t cache,
                               size_t queries) {
    struct bounds b;
    b.score = largest_of(c, a, s, a->args.k, a->args.k_scales, cache) * largest(a->args.q, queries) *
              (double)s->head_dim * a->args.scale * (2 + sqrt((double)s->head_dim) / 8) * 0x1p-24;
    b.weight = 16 * 0x1p-24 + b.score;
    b.value = largest_of(c, a, s, a->args.v, a->args.v_scales, cache);
    return b;
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

enum { WHOLE = -1 };

/* All keys, or those of one chunk. */
static void attention_case(struct ml_check *c, const struct shape *s, enum ml_dtype t,
                           enum ml_check_fill fill, int chunk) {
    const bool part = chunk != WHOLE;
    if (!ml_check_begin(c, part ? "attention_part" : "attention", ml_dtype_name(t), get_attention, (int)t))
        return;
    set_params(c, s, fill);
    if (part) ml_check_param(c, "chunk", (size_t)chunk);
    const size_t row = s->group * s->head_dim + s->extra, kv_stride = s->head_dim + s->extra;
    const size_t keys = s->pos0 + s->tokens, cache = (keys - 1) * kv_stride + s->head_dim;
    const size_t queries = (s->tokens - 1) * row + s->group * s->head_dim;
    struct call a = {.t = t};
    a.args = (struct ml_attention_args){
        .q = ml_check_floats(c, queries, fill),
        .q_stride = row,
        .out_stride = row,
        .k = make_cache(c, t, cache, fill),
        .v = make_cache(c, t, cache, fill),
        .k_scales = make_scales(c, t, keys, fill),
        .v_scales = make_scales(c, t, keys, fill),
        .kv_stride = kv_stride,
        .head_dim = s->head_dim,
        .rows = s->tokens * s->group,
        .group = s->group,
        .pos0 = s->pos0,
        .window = s->window,
        .scale = fill == ML_CHECK_LARGE ? 1e-8f : 1.0f / sqrtf((float)s->head_dim),
        .softcap = s->softcap,
        .sink = s->sink ? ml_check_floats(c, s->group, ML_CHECK_NORMAL) : NULL,
        .chunk = part ? (size_t)chunk : 0,
    };
    struct ml_check_result out = {.type = ML_CHECK_F32, .count = queries};
    if (!ml_check_timing(c)) {
        const struct bounds b = bounds_of(c, &a, s, cache, queries);
        struct ml_check_result sums = {.type = ML_CHECK_F32,
                                       .count = 2 * a.args.rows,
                                       .relative = b.weight,
                                       .absolute = b.score + 1e-37};
        out.absolute = b.weight * b.value * (part ? ML_ATTENTION_CHUNK : 1) + 1e-37;
        if (part) a.args.sums = ml_check_output(c, &sums);
    }
    a.args.out = ml_check_output(c, &out);
    const double pairs = (double)(s->tokens * s->group) * ((double)s->pos0 + 0.5 * (double)(s->tokens + 1));
    ml_check_cost(c, 2 * (double)(cache * ml_dtype_size(t) + (t == ML_I8 ? keys * sizeof(float) : 0)),
                  4 * pairs * (double)s->head_dim, ML_PEAK_F32);
    ml_check_call(c, call_attention, &a);
}

/* `seen`: what the two rows saw; the row that saw nothing is joined too, and to. */
static void join_case(struct ml_check *c, size_t dim, bool seen, bool part_seen) {
    if (!ml_check_begin(c, "attention_join", "", get_join, 0)) return;
    ml_check_param(c, "head_dim", dim);
    ml_check_param_text(c, "seen", seen ? "yes" : "no");
    ml_check_param_text(c, "part seen", part_seen ? "yes" : "no");
    const struct ml_check_result out = {
        .type = ML_CHECK_F32, .count = dim, .absolute = 0x1p-20, .relative = 0x1p-20};
    const struct ml_check_result two = {.type = ML_CHECK_F32, .count = 2, .relative = 0x1p-20};
    float *part_sums = ml_check_input(c, 2 * sizeof *part_sums);
    part_sums[0] = part_seen ? 1.25f : -INFINITY;
    part_sums[1] = part_seen ? 3.5f : 0.0f;
    struct join_call a = {.out = ml_check_output(c, &out),
                          .sums = ml_check_output(c, &two),
                          .part = ml_check_floats(c, dim, part_seen ? ML_CHECK_NORMAL : ML_CHECK_ZERO),
                          .part_sums = part_sums,
                          .dim = dim};
    ml_check_fill(c, ML_F32, a.out, dim, seen ? ML_CHECK_NORMAL : ML_CHECK_ZERO);
    a.sums[0] = seen ? -0.5f : -INFINITY;
    a.sums[1] = seen ? 2.0f : 0.0f;
    ml_check_call(c, call_join, &a);
}

static void join_cases(struct ml_check *c) {
    static const size_t dims[] = {1, 3, 8, 16, 17, 64, 80, 128, 511};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        for (int seen = 0; seen < 4; seen++)
            join_case(c, dims[i], seen & 1, seen & 2);
}

static void part_cases(struct ml_check *c, const struct shape *s, enum ml_dtype t, enum ml_check_fill fill) {
    const size_t chunks = (s->pos0 + s->tokens - 1) / ML_ATTENTION_CHUNK + 1;
    for (size_t chunk = 0; chunk < chunks; chunk++)
        attention_case(c, s, t, fill, (int)chunk);
}

/* Keys and values must be finite: no special ones. */
static void check_type(struct ml_check *c, enum ml_dtype t) {
    const size_t n = sizeof hostile / sizeof *hostile;
    for (size_t i = 0; i < n * ML_CHECK_SPECIAL; i++)
        attention_case(c, &hostile[i % n], t, (enum ml_check_fill)(i / n), WHOLE);
    for (size_t i = 0; i < n * ML_CHECK_SPECIAL; i++)
        part_cases(c, &hostile[i % n], t, (enum ml_check_fill)(i / n));
}

static void run(struct ml_check *c) {
    static const enum ml_dtype types[] = {ML_F32, ML_F16, ML_I8};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        for (size_t i = 0; i < sizeof timed / sizeof *timed && ml_check_timing(c); i++)
            attention_case(c, &timed[i], types[t], ML_CHECK_NORMAL, WHOLE);
        if (!ml_check_timing(c)) check_type(c, types[t]);
    }
    if (!ml_check_timing(c)) join_cases(c);
}

const struct ml_check_family ml_check_attention = {"attention", run};
