/* SPDX-License-Identifier: Apache-2.0
 *
 * Check and timing of gemv and gemm.
 */
#include "kernels/check.h"

#include <math.h>

struct shape {
    size_t n, rows, cols, stride, ldx, ldy;
};

/* Tails of every vector length, blocks of 1024 columns and what lies beside them, panels of 64 rows, tiles of
 * 2 to 12 tokens, strides that are odd. */
static const struct shape hostile[] = {
    {1, 1, 1, 1, 1, 1},
    {1, 3, 2, 2, 2, 3},
    {1, 4, 15, 15, 15, 4},
    {1, 5, 16, 19, 16, 5},
    {1, 2, 33, 33, 33, 2},
    {1, 9, 1023, 1024, 1023, 9},
    {1, 4, 1024, 1024, 1024, 4},
    {1, 7, 2049, 2055, 2049, 7},
    {1, 70, 96, 97, 96, 70},
    {2, 1, 1, 3, 2, 1},
    {3, 5, 7, 7, 9, 6},
    {4, 4, 17, 17, 17, 4},
    {6, 3, 40, 41, 43, 5},
    {7, 1, 5, 5, 5, 1},
    {8, 6, 31, 33, 31, 7},
    {13, 65, 48, 48, 50, 67},
    {9, 66, 1030, 1031, 1030, 66},
    {12, 64, 64, 64, 64, 64},
    {17, 5, 2051, 2051, 2053, 8},
    {25, 131, 19, 19, 19, 131},
};

/* gemv: a matrix that streams from memory. gemm: a prompt of 128 tokens against a matrix of usual size. */
static const struct shape stream = {1, 16384, 4096, 4096, 4096, 16384};
static const struct shape prompt[] = {{4, 2048, 2048, 2048, 2048, 2048}, {128, 2048, 2048, 2048, 2048, 2048}};

struct call {
    struct shape s;
    enum ml_dtype t;
    const void *w;
    const float *x;
    float *y;
    void *scratch;
};

static ml_check_entry *get_gemv(const struct ml_check_tables *t, int kind) {
    return (ml_check_entry *)t->k.gemv[kind];
}

static ml_check_entry *get_gemm(const struct ml_check_tables *t, int kind) {
    return (ml_check_entry *)t->k.gemm[kind];
}

static void call_gemv(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    t->k.gemv[a->t](a->y, a->w, a->s.stride, a->x, a->s.rows, a->s.cols);
}

static void call_gemm(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    t->k.gemm[a->t](a->y, a->s.ldy, a->w, a->s.stride, a->x, a->s.ldx, a->s.n, a->s.rows, a->s.cols,
                    a->scratch);
}

/* sum |W x| of every element of y. */
static void fill_scale(const struct call *a, const float *w, double *scale) {
    for (size_t t = 0; t < a->s.n; t++) {
        for (size_t r = 0; r < a->s.rows; r++) {
            double sum = 0;
            for (size_t c = 0; c < a->s.cols; c++)
                sum += fabs((double)w[r * a->s.stride + c] * a->x[t * a->s.ldx + c]);
            scale[t * a->s.ldy + r] = isfinite(sum) ? sum : 0;
        }
    }
}

/* Sums of float32 along a lane: a sixteenth to a quarter of 1024 additions, then the lanes, then the blocks.
 * Below the least normal number every product may lose half of the least subnormal one. */
static struct ml_check_result result_of(struct ml_check *c, const struct shape *s) {
    const size_t lane = s->cols < 1024 ? s->cols / 4 : 256, roundings = 8 + lane + s->cols / 1024;
    const size_t count = (s->n - 1) * s->ldy + s->rows;
    return (struct ml_check_result){
        .type = ML_CHECK_F32,
        .count = count,
        .relative = (double)roundings * 0x1p-24,
        .absolute = (double)s->cols * 0x1p-149,
        .scale = ml_check_timing(c) ? NULL : ml_check_scratch(c, count * sizeof(double)),
    };
}

static void run_case(struct ml_check *c, const struct shape *s, enum ml_dtype t, enum ml_check_fill fill,
                     bool vector) {
    if (!ml_check_begin(c, vector ? "gemv" : "gemm", ml_dtype_name(t), vector ? get_gemv : get_gemm, (int)t))
        return;
    ml_check_param(c, "n", s->n);
    ml_check_param(c, "rows", s->rows);
    ml_check_param(c, "cols", s->cols);
    if (!ml_check_timing(c)) {
        ml_check_param(c, "stride", s->stride);
        ml_check_param(c, "ldx", s->ldx);
        ml_check_param(c, "ldy", s->ldy);
        ml_check_param_text(c, "fill", ml_check_fill_name(fill));
    }
    const size_t weights = (s->rows - 1) * s->stride + s->cols;
    const struct ml_check_result y = result_of(c, s);
    struct call a = {.s = *s, .t = t};
    a.w = ml_check_elements(c, t, weights, fill);
    a.x = ml_check_floats(c, (s->n - 1) * s->ldx + s->cols, fill == ML_CHECK_TINY ? ML_CHECK_LARGE : fill);
    a.y = ml_check_output(c, &y);
    a.scratch = ml_check_scratch(c, ml_gemm_scratch());
    if (y.scale) {
        float *wide = ml_check_scratch(c, weights * sizeof(float));
        ml_check_widen(c, t, wide, a.w, weights);
        fill_scale(&a, wide, (double *)y.scale);
    }
    const double macs = (double)s->n * (double)s->rows * (double)s->cols;
    ml_check_cost(c, (double)weights * (double)ml_dtype_size(t), 2 * macs, ML_PEAK_F32);
    if (s->n == 1) ml_check_streams(c);
    ml_check_call(c, vector ? call_gemv : call_gemm, &a);
}

static void check_type(struct ml_check *c, enum ml_dtype t, bool vector) {
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++)
        for (int fill = 0; fill < ML_CHECK_FILLS && (!vector || hostile[i].n == 1); fill++)
            run_case(c, &hostile[i], t, (enum ml_check_fill)fill, vector);
}

static void run(struct ml_check *c) {
    for (int t = 0; t < ML_FLOAT_KINDS; t++) {
        if (ml_check_timing(c))
            run_case(c, &stream, (enum ml_dtype)t, ML_CHECK_NORMAL, true);
        else
            check_type(c, (enum ml_dtype)t, true);
    }
    for (int t = 0; t < ML_FLOAT_KINDS; t++) {
        if (!ml_check_timing(c)) check_type(c, (enum ml_dtype)t, false);
        for (int i = 0; i < 2 && ml_check_timing(c); i++)
            run_case(c, &prompt[i], (enum ml_dtype)t, ML_CHECK_NORMAL, false);
    }
}

const struct ml_check_family ml_check_matmul = {"matmul", run};
