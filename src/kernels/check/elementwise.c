/* SPDX-License-Identifier: Apache-2.0
 *
 * Check and timing of norm, rope, activations and softmax.
 */
#include "kernels/check.h"

#include "base/rng.h"

#include <math.h>

static const size_t lengths[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100, 1000, 4097};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths, TIMED = 4096 };

struct call {
    float *y;
    const float *x, *w;
    float a, eps;
    size_t n;
};

static const double ulp = 0x1p-23, least = 0x1p-149;

/* ---- rmsnorm: in place or not, with weights or not ---- */

static ml_check_entry *get_rmsnorm(const struct ml_check_tables *t, int variant) {
    (void)variant;
    return (ml_check_entry *)t->k.rmsnorm;
}

static void call_rmsnorm(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    t->k.rmsnorm(a->y, a->x, a->w, a->a, a->eps, a->n);
}

static void rmsnorm_case(struct ml_check *c, size_t n, enum ml_check_fill fill, bool weights, bool in_place) {
    if (!ml_check_begin(c, "rmsnorm", "", get_rmsnorm, 0)) return;
    ml_check_param(c, "n", n);
    ml_check_param_text(c, "weights", weights ? "yes" : "no");
    ml_check_param_text(c, "in_place", in_place ? "yes" : "no");
    ml_check_param_text(c, "fill", ml_check_fill_name(fill));
    const struct ml_check_result y = {
        .type = ML_CHECK_F32, .count = n, .relative = (8 + (double)n / 8) * 0x1p-24, .absolute = 2 * least};
    struct call a = {.n = n, .a = weights ? 1.0f : 0.0f, .eps = 1e-6f, .y = ml_check_output(c, &y)};
    if (in_place) ml_check_fill(c, ML_F32, a.y, n, fill);
    a.x = in_place ? a.y : ml_check_floats(c, n, fill);
    a.w = weights ? ml_check_floats(c, n, ML_CHECK_NORMAL) : NULL;
    ml_check_cost(c, 12 * (double)n, 4 * (double)n, ML_PEAK_F32);
    ml_check_call(c, call_rmsnorm, &a);
}

/* ---- rope ---- */

struct rope_call {
    float *x;
    const float *cos, *sin;
    size_t heads, stride, rotary;
};

static ml_check_entry *get_rope(const struct ml_check_tables *t, int interleaved) {
    return (ml_check_entry *)(interleaved ? t->k.rope_interleaved : t->k.rope_half);
}

static void call_rope_half(const struct ml_check_tables *t, void *arg) {
    const struct rope_call *a = arg;
    t->k.rope_half(a->x, a->heads, a->stride, a->rotary, a->cos, a->sin);
}

static void call_rope_interleaved(const struct ml_check_tables *t, void *arg) {
    const struct rope_call *a = arg;
    t->k.rope_interleaved(a->x, a->heads, a->stride, a->rotary, a->cos, a->sin);
}

/* Angles of one position. */
static void fill_angles(struct ml_check *c, float *cosine, float *sine, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const double angle = 2 * 3.14159265358979 * ml_rng_double(ml_check_rng(c));
        cosine[i] = (float)cos(angle);
        sine[i] = (float)sin(angle);
    }
}

static void rope_case(struct ml_check *c, size_t heads, size_t stride, size_t rotary, enum ml_check_fill fill,
                      bool interleaved) {
    if (!ml_check_begin(c, interleaved ? "rope interleaved" : "rope half", "", get_rope, interleaved)) return;
    ml_check_param(c, "heads", heads);
    ml_check_param(c, "stride", stride);
    ml_check_param(c, "rotary", rotary);
    ml_check_param_text(c, "fill", ml_check_fill_name(fill));
    const size_t count = (heads - 1) * stride + rotary;
    double *scale = ml_check_scratch(c, count * sizeof *scale);
    const struct ml_check_result x = {
        .type = ML_CHECK_F32, .count = count, .relative = ulp, .absolute = 2 * least, .scale = scale};
    float *cosine = ml_check_input(c, rotary / 2 * sizeof(float)),
          *sine = ml_check_input(c, rotary / 2 * sizeof(float));
    fill_angles(c, cosine, sine, rotary / 2);
    struct rope_call a = {ml_check_output(c, &x), cosine, sine, heads, stride, rotary};
    for (size_t h = 0; h < heads; h++) {
        ml_check_fill(c, ML_F32, a.x + h * stride, rotary, fill);
        for (size_t i = 0; i < rotary; i++) {
            const size_t pair = interleaved ? i ^ 1 : (i + rotary / 2) % rotary;
            scale[h * stride + i] = fabs((double)a.x[h * stride + i]) + fabs((double)a.x[h * stride + pair]);
        }
    }
    ml_check_cost(c, 8 * (double)(heads * rotary), 3 * (double)(heads * rotary), ML_PEAK_F32);
    ml_check_call(c, interleaved ? call_rope_interleaved : call_rope_half, &a);
}

static void rope_cases(struct ml_check *c, bool interleaved) {
    static const size_t shapes[][3] = {{1, 2, 2},   {3, 5, 4},   {2, 6, 6},     {1, 16, 16},   {5, 33, 30},
                                       {2, 64, 32}, {3, 66, 66}, {8, 128, 128}, {2, 257, 256}, {1, 100, 98}};
    if (ml_check_timing(c)) rope_case(c, 16, 128, 128, ML_CHECK_NORMAL, interleaved);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && !ml_check_timing(c); i++)
        for (int fill = 0; fill < ML_CHECK_FILLS; fill++)
            rope_case(c, shapes[i][0], shapes[i][1], shapes[i][2], (enum ml_check_fill)fill, interleaved);
}

/* ---- y from x and w, element by element ---- */

static ml_check_entry *get_silu(const struct ml_check_tables *t, int variant) {
    (void)variant;
    return (ml_check_entry *)t->k.silu_glu;
}
static ml_check_entry *get_gelu(const struct ml_check_tables *t, int variant) {
    (void)variant;
    return (ml_check_entry *)t->k.gelu_glu;
}
static ml_check_entry *get_sigmoid(const struct ml_check_tables *t, int variant) {
    (void)variant;
    return (ml_check_entry *)t->k.sigmoid_glu;
}
static ml_check_entry *get_add(const struct ml_check_tables *t, int variant) {
    (void)variant;
    return (ml_check_entry *)t->k.add;
}
static ml_check_entry *get_axpy(const struct ml_check_tables *t, int variant) {
    (void)variant;
    return (ml_check_entry *)t->k.axpy;
}
static ml_check_entry *get_softcap(const struct ml_check_tables *t, int variant) {
    (void)variant;
    return (ml_check_entry *)t->k.softcap;
}
static ml_check_entry *get_softmax(const struct ml_check_tables *t, int variant) {
    (void)variant;
    return (ml_check_entry *)t->k.softmax;
}

static void call_silu(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    t->k.silu_glu(a->y, a->x, a->w, a->n);
}
static void call_gelu(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    t->k.gelu_glu(a->y, a->x, a->w, a->n);
}
static void call_sigmoid(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    t->k.sigmoid_glu(a->y, a->x, a->w, a->n);
}
static void call_add(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    t->k.add(a->y, a->x, a->n);
}
static void call_axpy(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    t->k.axpy(a->y, a->a, a->x, a->n);
}
static void call_softcap(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    t->k.softcap(a->y, a->a, a->n);
}
static void call_softmax(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    t->k.softmax(a->y, a->x, a->n);
}

/* Tolerances: exp 2 ulp and tanh 5 ulp (cpu/math_simd.h), each operation behind them half of one. gelu's
 * exponent is a cubic of g: its relative error grows with it, 12 at most where the result is not lost. Where
 * exp overflows in float32 the result is 0 and the reference's below 1e-37. `scale` is |y| + |a x| where
 * terms cancel. Softmax adds up n weights along lanes. */
static const struct operation {
    const char *name;
    ml_check_get_fn *get;
    ml_check_call_fn *call;
    double relative, absolute, relative_n;
    bool reads_w, updates, sums;
} operations[] = {
    {"silu glu", get_silu, call_silu, 6 * 0x1p-23, 1e-33, 0, true, false, false},
    {"gelu glu", get_gelu, call_gelu, 24 * 0x1p-23, 1e-33, 0, true, false, false},
    {"sigmoid glu", get_sigmoid, call_sigmoid, 6 * 0x1p-23, 1e-33, 0, true, false, false},
    {"add", get_add, call_add, 0x1p-24, 0, 0, false, true, true},
    {"axpy", get_axpy, call_axpy, 0x1p-23, 0x1p-148, 0, false, true, true},
    {"softcap", get_softcap, call_softcap, 8 * 0x1p-23, 0x1p-147, 0, false, true, false},
    {"softmax", get_softmax, call_softmax, 8 * 0x1p-23, 1e-36, 0x1p-27, false, false, false},
};
enum { N_OPERATIONS = sizeof operations / sizeof *operations };

static void operation_case(struct ml_check *c, const struct operation *o, size_t n, enum ml_check_fill fill) {
    if (!ml_check_begin(c, o->name, "", o->get, 0)) return;
    ml_check_param(c, "n", n);
    ml_check_param_text(c, "fill", ml_check_fill_name(fill));
    double *scale = o->sums ? ml_check_scratch(c, n * sizeof *scale) : NULL;
    const struct ml_check_result y = {.type = ML_CHECK_F32,
                                      .count = n,
                                      .relative = o->relative + o->relative_n * (double)n,
                                      .absolute = o->absolute,
                                      .scale = scale};
    struct call a = {.n = n, .a = 1.7f, .y = ml_check_output(c, &y)};
    if (o->updates) ml_check_fill(c, ML_F32, a.y, n, fill);
    a.x = ml_check_floats(c, n, fill);
    a.w = o->reads_w ? ml_check_floats(c, n, fill == ML_CHECK_TINY ? ML_CHECK_LARGE : fill) : NULL;
    for (size_t i = 0; scale && i < n; i++)
        scale[i] = fabs((double)a.y[i]) + 1.7 * fabs((double)a.x[i]);
    ml_check_cost(c, 12 * (double)n, 0, ML_PEAK_F32);
    ml_check_call(c, o->call, &a);
}

static void run(struct ml_check *c) {
    const bool timing = ml_check_timing(c);
    if (timing) rmsnorm_case(c, TIMED, ML_CHECK_NORMAL, true, false);
    for (size_t i = 0; i < 4 * N_LENGTHS && !timing; i++)
        for (int fill = 0; fill < ML_CHECK_FILLS; fill++)
            rmsnorm_case(c, lengths[i / 4], (enum ml_check_fill)fill, i % 2 != 0, i / 2 % 2 != 0);
    rope_cases(c, false);
    rope_cases(c, true);
    for (size_t o = 0; o < N_OPERATIONS; o++) {
        if (timing) operation_case(c, &operations[o], TIMED, ML_CHECK_NORMAL);
        for (size_t i = 0; i < N_LENGTHS && !timing; i++)
            for (int fill = 0; fill < ML_CHECK_FILLS; fill++)
                operation_case(c, &operations[o], lengths[i], (enum ml_check_fill)fill);
    }
}

const struct ml_check_family ml_check_elementwise = {"elementwise", run};
