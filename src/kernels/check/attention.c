/* SPDX-License-Identifier: Apache-2.0
 *
 * Check and timing of attention: groups, windows, soft caps, sinks, head sizes that are no multiple of
 * anything.
 */
#include "base/rng.h"
#include "kernels/check.h"

#include <math.h>
#include <string.h>

struct shape {
    size_t head_dim, group, tokens, slot0, window, extra; /* extra: floats between rows, elements in pages */
    float softcap;
    bool sink, tree; /* tree: the tokens are nodes of a draft tree */
    size_t v_dim;    /* 0: head_dim; else values are the first v_dim elements of keys */
};

static const struct shape hostile[] = {
    {1, 1, 1, 0, 0, 0, 0, false, false, 0},       {3, 1, 1, 5, 0, 1, 0, false, false, 0},
    {4, 2, 3, 0, 0, 0, 0, true, false, 0},        {16, 1, 5, 60, 0, 3, 0, false, false, 0},
    {17, 3, 2, 63, 7, 0, 0, false, false, 0},     {64, 4, 1, 200, 0, 0, 30, false, false, 0},
    {64, 5, 7, 57, 64, 5, 0, true, false, 0},     {80, 2, 9, 0, 1, 0, 0, false, false, 0},
    {96, 8, 4, 129, 100, 7, 50, true, false, 0},  {128, 2, 30, 3, 0, 0, 0, false, false, 0},
    {128, 1, 70, 0, 16, 1, 0, false, false, 0},   {256, 1, 2, 64, 0, 0, 0, false, false, 0},
    {512, 7, 1, 31, 0, 3, 0, true, false, 0},     {33, 6, 5, 1000, 333, 2, 0, true, false, 0},
    {128, 16, 1, 65, 0, 0, 0, false, false, 0},   {64, 3, 40, 500, 0, 0, 0, false, false, 0},
    {16, 2, 30, 1500, 20, 0, 0, false, false, 0}, {40, 1, 3, 2047, 0, 1, 0, true, false, 0},
    {576, 3, 2, 100, 0, 1, 0, false, false, 512}, {24, 1, 9, 60, 0, 0, 0, false, false, 17},
    {64, 2, 64, 30, 0, 0, 0, false, true, 0},     {32, 3, 17, 500, 0, 2, 20, true, true, 0},
    {48, 1, 40, 1000, 100, 0, 0, false, true, 0}, {16, 2, 5, 0, 0, 0, 0, false, true, 0},
};

/* One token far along, and a chunk of a prompt. */
static const struct shape timed[] = {{128, 2, 1, 4096, 0, 0, 0, false, false, 0},
                                     {128, 2, 64, 448, 0, 0, 0, false, false, 0}};

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

/* Pages of a case: | keys [64][k_dim] | gap | values [64][v_dim] | gap | scales of both |, or without values of
 * their own. What lies behind the last key is not a number; nobody may read it. */
struct pages {
    size_t n, values, scales, bytes; /* offsets in bytes */
    const char **table;
};

static size_t v_dim_of(const struct shape *s) {
    return s->v_dim ? s->v_dim : s->head_dim;
}

static struct pages lay_out(struct ml_check *c, const struct shape *s, enum ml_dtype t) {
    const size_t size = ml_dtype_size(t), gap = s->extra * size;
    struct pages p = {.n = (s->slot0 + s->tokens - 1) / ML_PAGE_KEYS + 1};
    p.values = s->v_dim ? 0 : ML_PAGE_KEYS * s->head_dim * size + gap;
    p.scales = (p.values + ML_PAGE_KEYS * (s->v_dim ? s->head_dim : v_dim_of(s)) * size + gap + 3) / 4 * 4;
    p.bytes = p.scales + (t == ML_I8 ? (s->v_dim ? 1 : 2) * ML_PAGE_KEYS * sizeof(float) : 0);
    p.bytes = (p.bytes + 63) / 64 * 64;
    p.table = ml_check_input(c, p.n * sizeof *p.table);
    return p;
}

static void fill_rows(struct ml_check *c, enum ml_dtype t, void *rows, size_t dim, size_t keys,
                      enum ml_check_fill fill) {
    if (t == ML_I8) {
        int8_t *q = rows;
        for (size_t i = 0; i < keys * dim; i++)
            q[i] = (int8_t)((int)(ml_rng_u64(ml_check_rng(c)) % 255) - 127);
        return;
    }
    ml_check_fill(c, t, rows, keys * dim, fill);
    memset((char *)rows + keys * dim * ml_dtype_size(t), 0xff,
           (ML_PAGE_KEYS - keys) * dim * ml_dtype_size(t));
}

static void fill_scales(struct ml_check *c, float *scales, size_t keys, enum ml_check_fill fill) {
    ml_check_fill(c, ML_F32, scales, keys, fill);
    for (size_t i = 0; i < keys; i++)
        scales[i] = fabsf(scales[i]) / 127;
    for (size_t i = keys; i < ML_PAGE_KEYS; i++)
        scales[i] = NAN;
}

static void fill_page(struct ml_check *c, const struct shape *s, enum ml_dtype t, const struct pages *p,
                      char *page, size_t keys, enum ml_check_fill fill) {
    float *scales = (float *)(void *)(page + p->scales);
    fill_rows(c, t, page, s->head_dim, keys, fill);
    if (!s->v_dim) fill_rows(c, t, page + p->values, v_dim_of(s), keys, fill);
    if (t != ML_I8) return;
    fill_scales(c, scales, keys, fill);
    if (!s->v_dim) fill_scales(c, scales + ML_PAGE_KEYS, keys, fill);
}

/* Pages lie in a shuffled order in one block; those that no row sees are not there. */
static struct pages make_pages(struct ml_check *c, const struct shape *s, enum ml_dtype t,
                               enum ml_check_fill fill) {
    const size_t slots = s->slot0 + s->tokens;
    const struct pages p = lay_out(c, s, t);
    const size_t skip = s->window && s->slot0 + 1 > s->window ? (s->slot0 + 1 - s->window) / ML_PAGE_KEYS : 0;
    char *block = ml_check_input(c, p.n * p.bytes);
    for (size_t i = 0; i < p.n; i++) {
        char *page = block + (i * 7 + 3) % p.n * p.bytes;
        const size_t keys = slots - i * ML_PAGE_KEYS;
        if (p.n % 7 == 0) page = block + i * p.bytes;
        fill_page(c, s, t, &p, page, keys < ML_PAGE_KEYS ? keys : ML_PAGE_KEYS, fill);
        p.table[i] = i < skip ? NULL : page;
    }
    return p;
}

/* A random draft tree, whose parents come before their children. */
static const struct ml_tree_node *make_tree(struct ml_check *c, const struct shape *s) {
    if (!s->tree) return NULL;
    struct ml_tree_node *tree = ml_check_input(c, s->tokens * sizeof *tree);
    for (size_t i = 0; i < s->tokens; i++) {
        const size_t parent = ml_rng_u64(ml_check_rng(c)) % (i + 1); /* i: none */
        tree[i].seen = (uint64_t)1 << i | (parent < i ? tree[parent].seen : 0);
        tree[i].position = parent < i ? tree[parent].position + 1 : s->slot0;
    }
    return tree;
}

/* Greatest key or value. */
static double largest_of(struct ml_check *c, const struct call *a, const struct shape *s, size_t at,
                         size_t dim, size_t scales_at) {
    const size_t slots = s->slot0 + s->tokens;
    float *wide = ml_check_scratch(c, ML_PAGE_KEYS * dim * sizeof *wide);
    double most = 0;
    for (size_t i = 0; i * ML_PAGE_KEYS < slots; i++) {
        const char *page = a->args.pages[i];
        const size_t left = slots - i * ML_PAGE_KEYS, keys = left < ML_PAGE_KEYS ? left : ML_PAGE_KEYS;
        if (!page) continue;
        if (a->t != ML_I8) ml_check_widen(c, a->t, wide, page + at, keys * dim);
        const double here = a->t == ML_I8
                                ? 127 * largest((const float *)(const void *)(page + scales_at), keys)
                                : largest(wide, keys * dim);
        most = here > most ? here : most;
    }
    return most;
}

/* A score is off by some ulps of sum |q k|, which its weight takes as a relative error; the result is an
 * average of values. Bounds over all rows: |q|max |k|max head_dim scale. */
struct bounds {
    double score, weight, value; /* absolute, relative, greatest |v| */
};

static struct bounds bounds_of(struct ml_check *c, const struct call *a, const struct shape *s,
                               size_t queries) {
    struct bounds b;
    const double key = largest_of(c, a, s, a->args.k_at, s->head_dim, a->args.k_scales_at);
    b.score = key * largest(a->args.q, queries) * (double)s->head_dim * a->args.scale *
              (2 + sqrt((double)s->head_dim) / 8) * 0x1p-24;
    b.weight = 16 * 0x1p-24 + b.score;
    b.value = s->v_dim ? key : largest_of(c, a, s, a->args.v_at, v_dim_of(s), a->args.v_scales_at);
    return b;
}

static void set_params(struct ml_check *c, const struct shape *s, enum ml_check_fill fill) {
    ml_check_param(c, "head_dim", s->head_dim);
    ml_check_param(c, "group", s->group);
    ml_check_param(c, "tokens", s->tokens);
    ml_check_param(c, "slot0", s->slot0);
    if (ml_check_timing(c)) return;
    ml_check_param(c, "window", s->window);
    ml_check_param(c, "gap", s->extra);
    ml_check_param(c, "softcap", (size_t)s->softcap);
    ml_check_param_text(c, "sink", s->sink ? "yes" : "no");
    ml_check_param(c, "v_dim", s->v_dim);
    ml_check_param_text(c, "tree", s->tree ? "yes" : "no");
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
    const size_t v_dim = v_dim_of(s), row = s->group * s->head_dim + s->extra,
                 out_row = s->group * v_dim + s->extra;
    const size_t keys = s->slot0 + s->tokens, queries = (s->tokens - 1) * row + s->group * s->head_dim;
    const struct pages pages = make_pages(c, s, t, fill);
    struct call a = {.t = t};
    a.args = (struct ml_attention_args){
        .q = ml_check_floats(c, queries, fill),
        .q_stride = row,
        .out_stride = out_row,
        .pages = pages.table,
        .v_at = pages.values,
        .k_scales_at = pages.scales,
        .v_scales_at = pages.scales + (s->v_dim ? 0 : ML_PAGE_KEYS * sizeof(float)),
        .k_dim = s->head_dim,
        .v_dim = v_dim,
        .v_stride = s->v_dim ? s->head_dim : v_dim,
        .rows = s->tokens * s->group,
        .group = s->group,
        .slot0 = s->slot0,
        .window = s->window,
        .tree = make_tree(c, s),
        .tree_slot0 = s->slot0,
        .scale = fill == ML_CHECK_LARGE ? 1e-8f : 1.0f / sqrtf((float)s->head_dim),
        .softcap = s->softcap,
        .sink = s->sink ? ml_check_floats(c, s->group, ML_CHECK_NORMAL) : NULL,
        .chunk = part ? (size_t)chunk : 0,
    };
    struct ml_check_result out = {.type = ML_CHECK_F32,
                                  .count = (s->tokens - 1) * out_row + s->group * v_dim};
    if (!ml_check_timing(c)) {
        const struct bounds b = bounds_of(c, &a, s, queries);
        struct ml_check_result sums = {.type = ML_CHECK_F32,
                                       .count = 2 * a.args.rows,
                                       .relative = b.weight,
                                       .absolute = b.score + 1e-37};
        out.absolute = b.weight * b.value * (part ? ML_ATTENTION_CHUNK : 1) + 1e-37;
        if (part) a.args.sums = ml_check_output(c, &sums);
    }
    a.args.out = ml_check_output(c, &out);
    const double pairs = (double)(s->tokens * s->group) * ((double)s->slot0 + 0.5 * (double)(s->tokens + 1));
    ml_check_cost(c, (double)(keys * ((s->head_dim + v_dim) * ml_dtype_size(t) + (t == ML_I8 ? 8 : 0))),
                  2 * pairs * (double)(s->head_dim + v_dim), ML_PEAK_F32);
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
    const size_t chunks = (s->slot0 + s->tokens - 1) / ML_ATTENTION_CHUNK + 1;
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
