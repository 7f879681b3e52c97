/* SPDX-License-Identifier: Apache-2.0
 *
 * Row-wise norms and residual sums, spread over the pool. Rows are independent, so that results do not depend
 * on the number of threads.
 */
#include "models/layers/layers.h"

enum { ROW_GRAIN = 8 }; /* rows a piece: a fork-join costs about as much as a few rows */

struct norm_rows {
    const struct ml_kernels *k;
    const struct ml_norm *norm;
    const float *x;
    float *y;
};

static void norm_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct norm_rows *a = arg;
    const size_t n = a->norm->n;
    (void)worker;
    for (size_t t = begin; t < end; t++) {
        a->k->rmsnorm(a->y + t * n, a->x + t * n, a->norm->w, a->norm->offset, a->norm->eps, n);
    }
}

void ml_norm_forward(struct ml_state *s, const struct ml_norm *norm, const float *x, float *y, size_t n) {
    struct norm_rows a = {s->exec.k, norm, x, y};
    if (n <= ROW_GRAIN)
        norm_rows(&a, 0, n, 0);
    else
        ml_pool_for(s->exec.pool, n, ROW_GRAIN, norm_rows, &a);
}

void ml_norm_row(const struct ml_kernels *k, const struct ml_norm *norm, float *x, size_t width) {
    if (!norm->w) return;
    for (size_t at = 0; at < width; at += norm->n) {
        k->rmsnorm(x + at, x + at, norm->w, norm->offset, norm->eps, norm->n);
    }
}

struct add_rows {
    const struct ml_kernels *k;
    float *x;
    const float *y;
    size_t width;
};

static void add_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct add_rows *a = arg;
    (void)worker;
    a->k->add(a->x + begin * a->width, a->y + begin * a->width, (end - begin) * a->width);
}

void ml_residual_add(struct ml_state *s, float *x, const float *y, size_t n, size_t width) {
    struct add_rows a = {s->exec.k, x, y, width};
    if (n <= ROW_GRAIN)
        add_rows(&a, 0, n, 0);
    else
        ml_pool_for(s->exec.pool, n, ROW_GRAIN, add_rows, &a);
    ml_stage_done(s, ML_STAGE_RESIDUAL);
}
