/* SPDX-License-Identifier: Apache-2.0
 *
 * gemv and gemm, the specification: products and sums in double, rounded once.
 */
#include "kernels/reference/reference.h"

float ml_reference_at(enum ml_dtype t, const void *p, size_t i) {
    if (t == ML_F32) return ((const float *)p)[i];
    if (t == ML_I8) return (float)((const int8_t *)p)[i];
    const uint16_t h = ((const uint16_t *)p)[i];
    return t == ML_F16 ? ml_f16_to_f32(h) : ml_bf16_to_f32(h);
}

static void gemv(enum ml_dtype t, float *y, const void *w, size_t stride, const float *x, size_t rows,
                 size_t cols) {
    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        for (size_t c = 0; c < cols; c++)
            sum += (double)ml_reference_at(t, w, r * stride + c) * x[c];
        y[r] = (float)sum;
    }
}

static void gemv_f32(float *y, const void *w, size_t stride, const float *x, size_t rows, size_t cols) {
    gemv(ML_F32, y, w, stride, x, rows, cols);
}

static void gemv_f16(float *y, const void *w, size_t stride, const float *x, size_t rows, size_t cols) {
    gemv(ML_F16, y, w, stride, x, rows, cols);
}

static void gemv_bf16(float *y, const void *w, size_t stride, const float *x, size_t rows, size_t cols) {
    gemv(ML_BF16, y, w, stride, x, rows, cols);
}

static void gemm_f32(float *y, size_t ldy, const void *w, size_t stride, const float *x, size_t ldx, size_t n,
                     size_t rows, size_t cols, void *scratch) {
    (void)scratch;
    for (size_t t = 0; t < n; t++)
        gemv(ML_F32, y + t * ldy, w, stride, x + t * ldx, rows, cols);
}

static void gemm_f16(float *y, size_t ldy, const void *w, size_t stride, const float *x, size_t ldx, size_t n,
                     size_t rows, size_t cols, void *scratch) {
    (void)scratch;
    for (size_t t = 0; t < n; t++)
        gemv(ML_F16, y + t * ldy, w, stride, x + t * ldx, rows, cols);
}

static void gemm_bf16(float *y, size_t ldy, const void *w, size_t stride, const float *x, size_t ldx,
                      size_t n, size_t rows, size_t cols, void *scratch) {
    (void)scratch;
    for (size_t t = 0; t < n; t++)
        gemv(ML_BF16, y + t * ldy, w, stride, x + t * ldx, rows, cols);
}

void ml_reference_matmul(struct ml_kernels *k) {
    k->gemv[ML_F32] = gemv_f32;
    k->gemv[ML_F16] = gemv_f16;
    k->gemv[ML_BF16] = gemv_bf16;
    k->gemm[ML_F32] = gemm_f32;
    k->gemm[ML_F16] = gemm_f16;
    k->gemm[ML_BF16] = gemm_bf16;
}
