/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients of what works on rows of activations: linears, norms, gated activations.
 */
#include "quantization/signal/backward_int.h"

#include <math.h>

enum { ROW_GRAIN = 8 };

/* ---- linears ---- */

/* Rows [row0, row0 + rows) of W, widened, as columns: to[c * rows + r]. */
struct transpose {
    const struct ml_matrix *w;
    size_t row0, rows;
    float *to;
};

enum { COLUMNS = 64 };

static void transpose_columns(void *arg, size_t begin, size_t end, int worker) {
    const struct transpose *a = arg;
    float run[COLUMNS];
    (void)worker;
    for (size_t chunk = begin; chunk < end; chunk++) {
        const size_t c0 = chunk * COLUMNS, n = a->w->cols - c0 < COLUMNS ? a->w->cols - c0 : COLUMNS;
        for (size_t r = 0; r < a->rows; r++) {
            const size_t at = (a->row0 + r) * a->w->stride + c0;
            ml_kernels()->widen[a->w->dtype](run, (const char *)a->w->data + at * ml_dtype_size(a->w->dtype),
                                             n);
            for (size_t c = 0; c < n; c++)
                a->to[(c0 + c) * a->rows + r] = run[c];
        }
    }
}

void ml_backward_linear(struct ml_backward *b, const struct ml_linear *l, const float *g, size_t n, float *gx,
                        bool sum) {
    const struct ml_matrix *w = &l->u.plain;
    for (size_t r0 = 0; n && r0 < w->rows; r0 += ML_BACKWARD_ROWS) {
        const size_t rows = w->rows - r0 < ML_BACKWARD_ROWS ? w->rows - r0 : ML_BACKWARD_ROWS;
        const bool first = r0 == 0 && !sum;
        struct transpose t = {w, r0, rows, b->transposed};
        ml_pool_for(b->pool, (w->cols + COLUMNS - 1) / COLUMNS, 1, transpose_columns, &t);
        const struct ml_matrix wt = {
            .dtype = ML_F32, .rows = w->cols, .cols = rows, .stride = rows, .data = b->transposed};
        ml_matmul(&b->exec, &wt, g + r0, w->rows, n, first ? gx : b->product, w->cols);
        if (!first) ml_residual_add(b->s, gx, b->product, n, w->cols);
    }
}

void ml_backward_through(struct ml_backward *b, const struct ml_linear *l, const float *x, const float *g,
                         size_t n, float *gx, bool sum) {
    if (b->fn && n) b->fn(b->user, l, x, g, n);
    ml_backward_linear(b, l, g, n, gx, sum);
}

/* ---- norm: y = x r w with r = rsqrt(mean(x^2) + eps) ---- */

struct norm_rows {
    const struct ml_norm *norm;
    const float *x;
    float *g;
    size_t width;
};

/* g -> r g w - x r^3 mean(g w x) */
static void norm_run(const struct ml_norm *norm, const float *x, float *g) {
    const size_t n = norm->n;
    double square = 0, along = 0;
    for (size_t i = 0; i < n; i++) {
        g[i] *= norm->w[i] + norm->offset;
        square += (double)x[i] * x[i];
        along += (double)g[i] * x[i];
    }
    const double r = 1 / sqrt(square / (double)n + (double)norm->eps);
    const float scale = (float)r, back = (float)(r * r * r * along / (double)n);
    for (size_t i = 0; i < n; i++)
        g[i] = g[i] * scale - x[i] * back;
}

static void norm_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct norm_rows *a = arg;
    (void)worker;
    for (size_t t = begin; t < end; t++)
        for (size_t at = 0; at < a->width; at += a->norm->n)
            norm_run(a->norm, a->x + t * a->width + at, a->g + t * a->width + at);
}

void ml_backward_norm(struct ml_backward *b, const struct ml_norm *norm, const float *x, float *g, size_t n,
                      size_t width) {
    struct norm_rows a = {norm, x, g, width};
    if (norm->w) ml_pool_for(b->pool, n, ROW_GRAIN, norm_rows, &a);
}

/* ---- gated activation ---- */

struct glu_rows {
    float *gate, *up;
    const float *g;
    size_t width;
    bool gelu;
};

static float silu(float x, float *slope) {
    const float p = 1 / (1 + expf(-x));
    *slope = p * (1 + x * (1 - p));
    return x * p;
}

/* 0.5 x (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x^3) */
static float gelu(float x, float *slope) {
    const float c = 0.7978845608f, t = tanhf(c * (x + 0.044715f * x * x * x));
    *slope = 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * c * (1 + 3 * 0.044715f * x * x);
    return 0.5f * x * (1 + t);
}

static void glu_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct glu_rows *a = arg;
    (void)worker;
    for (size_t i = begin * a->width; i < end * a->width; i++) {
        float slope;
        const float value = a->gelu ? gelu(a->gate[i], &slope) : silu(a->gate[i], &slope);
        a->gate[i] = a->g[i] * a->up[i] * slope;
        a->up[i] = a->g[i] * value;
    }
}

void ml_backward_glu(struct ml_backward *b, float *gate, float *up, const float *g_act, size_t n,
                     size_t width) {
    struct glu_rows a = {gate, up, g_act, width, b->model->config->activation == ML_ACT_GELU_TANH};
    ml_pool_for(b->pool, n, ROW_GRAIN, glu_rows, &a);
}
