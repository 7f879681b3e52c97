/* SPDX-License-Identifier: Apache-2.0
 *
 * Check and timing of products spread over the pool: what the forward pass calls. The entries themselves are
 * the other families' business; here it is how matrices are cut and what all threads reach together.
 */
#include "kernels/exec.h"
#include "kernels/check.h"

#include <math.h>
#include <stdio.h>

struct shape {
    size_t n, rows, cols;
};

static const struct shape checked[] = {
    {1, 1, 1}, {1, 67, 33}, {1, 600, 1025}, {2, 65, 40}, {7, 129, 64}, {16, 300, 70}, {33, 64, 1100},
};
/* A token against a matrix that streams from memory, 256 MiB in bf16; a prompt; small batches. */
static const struct shape timed[] = {
    {1, 32768, 4096}, {2, 32768, 4096}, {4, 32768, 4096}, {16, 4096, 4096}, {512, 2048, 2048},
};

struct call {
    struct ml_pool *pool;
    const struct ml_matrix *w;
    const float *x;
    float *y;
    size_t n;
    void *scratch;
    size_t scratch_stride;
};

static ml_check_entry *get_gemm(const struct ml_check_tables *t, int kind) {
    return (ml_check_entry *)t->k.gemm[kind];
}

static void call_matmul(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    struct ml_exec e = {
        .k = &t->k, .pool = a->pool, .scratch = a->scratch, .scratch_stride = a->scratch_stride};
    ml_exec_bind(&e);
    ml_matmul(&e, a->w, a->x, a->w->cols, a->n, a->y, a->w->rows);
}

static void matmul_case(struct ml_check *c, const struct shape *s, enum ml_dtype t) {
    if (!ml_check_begin(c, "matmul", ml_dtype_name(t), get_gemm, (int)t)) return;
    ml_check_param(c, "n", s->n);
    ml_check_param(c, "rows", s->rows);
    ml_check_param(c, "cols", s->cols);
    ml_check_param(c, "threads", (size_t)ml_pool_size(ml_check_pool(c)));
    const size_t weights = s->rows * s->cols;
    /* |W x| is about sqrt(cols) for normal numbers; errors grow with the sum of |W x|, cols * 2 / pi. */
    const struct ml_check_result y = {
        .type = ML_CHECK_F32, .count = s->n * s->rows, .absolute = (double)s->cols * 16 * 0x1p-24};
    const struct ml_matrix w = {.dtype = t,
                                .rows = s->rows,
                                .cols = s->cols,
                                .stride = s->cols,
                                .data = ml_check_elements(c, t, weights, ML_CHECK_NORMAL)};
    struct call a = {.pool = ml_check_pool(c), .w = &w, .n = s->n};
    a.x = ml_check_floats(c, s->n * s->cols, ML_CHECK_NORMAL);
    a.y = ml_check_output(c, &y);
    a.scratch_stride = (ml_gemm_scratch() + 63) / 64 * 64;
    a.scratch = ml_check_scratch(c, a.scratch_stride * (size_t)ml_pool_size(a.pool));
    ml_check_cost(c, (double)weights * (double)ml_dtype_size(t), 2 * (double)s->n * (double)weights,
                  ML_PEAK_F32);
    if (s->n < 8) ml_check_streams(c);
    ml_check_threads(c);
    ml_check_call(c, call_matmul, &a);
}

static void run(struct ml_check *c) {
    const bool timing = ml_check_timing(c);
    const struct shape *shapes = timing ? timed : checked;
    const size_t n = timing ? sizeof timed / sizeof *timed : sizeof checked / sizeof *checked;
    for (int t = 0; t < ML_FLOAT_KINDS; t++)
        for (size_t i = 0; i < n; i++)
            matmul_case(c, &shapes[i], (enum ml_dtype)t);
}

const struct ml_check_family ml_check_exec = {"exec", run};
