/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations that take each row by itself: embedding, norms, sums, angles, activations.
 */
#include "ops/cpu/cpu_int.h"
#include "packing/int8.h"

#include <math.h>
#include <string.h>

enum { NORM_GRAIN = 8, GLU_GRAIN = 4, ANGLE_GRAIN = 16, COPY_GRAIN = 64 };

/* ---- embedding ---- */

void ml_cpu_embed(struct ml_stream *s, const struct ml_embed_op *op) {
    const struct ml_embedding *e = op->embedding;
    const struct ml_matrix *m = &e->plain;
    const struct ml_kernels *k = ml_cpu_work(s)->exec.k;
    for (size_t t = 0; t < op->pass->n; t++) {
        const int32_t id = op->pass->ids[t];
        float *row = op->x + t * op->width;
        if (id < 0) continue;
        if (e->rows)
            ml_int8_unpack((const int8_t *)e->rows->data + (size_t)id * op->width, op->width, e->rows->sv[id],
                           row);
        else
            k->widen[m->dtype](row, (const char *)m->data + (size_t)id * m->stride * ml_dtype_size(m->dtype),
                               m->cols);
        for (size_t i = 0; e->scale != 1.0f && i < op->width; i++)
            row[i] *= e->scale;
        if (e->norm.w) k->rmsnorm(row, row, e->norm.w, e->norm.offset, e->norm.eps, op->width);
    }
}

/* ---- norms and sums ---- */

struct norm_rows {
    const struct ml_kernels *k;
    const struct ml_norm_op *op;
};

/* LayerNorm is RMSNorm of what is left without the mean. */
static const float *centre(float *y, const float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    const float mean = (float)(sum / (double)n);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] - mean;
    return y;
}

static void norm_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct norm_rows *a = arg;
    const struct ml_norm *norm = a->op->norm;
    const size_t n = norm->n;
    (void)worker;
    for (size_t t = begin; t < end; t++) {
        float *y = a->op->y + t * n;
        const float *x = a->op->x + t * n;
        if (norm->bias) x = centre(y, x, n);
        a->k->rmsnorm(y, x, norm->w, norm->offset, norm->eps, n);
        if (norm->bias) a->k->add(y, norm->bias, n);
    }
}

void ml_cpu_norm(struct ml_stream *s, const struct ml_norm_op *op) {
    struct norm_rows a = {ml_cpu_work(s)->exec.k, op};
    ml_cpu_rows(ml_cpu_work(s), op->n, NORM_GRAIN, norm_rows, &a);
}

struct add_rows {
    const struct ml_kernels *k;
    const struct ml_add_op *op;
};

static void add_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct add_rows *a = arg;
    const size_t width = a->op->width;
    (void)worker;
    a->k->add(a->op->x + begin * width, a->op->y + begin * width, (end - begin) * width);
}

void ml_cpu_add(struct ml_stream *s, const struct ml_add_op *op) {
    struct add_rows a = {ml_cpu_work(s)->exec.k, op};
    ml_cpu_rows(ml_cpu_work(s), op->n, NORM_GRAIN, add_rows, &a);
}

/* ---- angles ---- */

static void angle_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct ml_angles_op *op = arg;
    (void)worker;
    for (size_t t = begin; t < end; t++) {
        const float *inv = op->inv_freq + (size_t)op->pass->run_of[t] * op->half;
        for (size_t i = 0; i < op->half; i++) {
            const float angle = (float)op->pass->position[3 * t] * inv[i];
            op->cos[t * op->half + i] = (float)cos((double)angle) * op->scale;
            op->sin[t * op->half + i] = (float)sin((double)angle) * op->scale;
        }
    }
}

void ml_cpu_angles(struct ml_stream *s, const struct ml_angles_op *op) {
    struct ml_angles_op a = *op;
    ml_cpu_rows(ml_cpu_work(s), op->pass->n, ANGLE_GRAIN, angle_rows, &a);
}

/* ---- activations ---- */

struct glu_rows {
    ml_glu_fn *glu;
    const struct ml_glu_op *op;
};

enum { CLAMPED = 256 }; /* elements at a time */

/* A limited gate, and what is multiplied by it, as operands of a kernel without limits. */
static void clamp(const struct ml_activation_rule *act, const float *gate, const float *up, size_t n,
                  float *g, float *u) {
    const float limit = act->limit, alpha = act->alpha;
    for (size_t i = 0; i < n; i++) {
        g[i] = gate[i] > limit ? limit : gate[i];
        u[i] = up[i] > limit ? limit : up[i] < -limit ? -limit : up[i];
    }
    for (size_t i = 0; alpha > 0 && i < n; i++) {
        u[i] = (u[i] + 1) * g[i];
        g[i] *= alpha;
    }
}

static void clamped_row(const struct glu_rows *a, float *gate, const float *up, size_t n) {
    float g[CLAMPED], u[CLAMPED];
    for (size_t i = 0; i < n; i += CLAMPED) {
        const size_t m = n - i < CLAMPED ? n - i : (size_t)CLAMPED;
        clamp(&a->op->act, gate + i, up + i, m, g, u);
        a->glu(gate + i, g, u, m);
    }
}

static void glu_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct glu_rows *a = arg;
    const size_t width = a->op->width;
    float *gate = a->op->gate + begin * width;
    const float *up = a->op->up + begin * width;
    (void)worker;
    if (a->op->act.limit > 0)
        clamped_row(a, gate, up, (end - begin) * width);
    else
        a->glu(gate, gate, up, (end - begin) * width);
}

void ml_cpu_glu(struct ml_stream *s, const struct ml_glu_op *op) {
    const struct ml_kernels *k = ml_cpu_work(s)->exec.k;
    ml_glu_fn *const glu[] = {
        [ML_GLU_SILU] = k->silu_glu, [ML_GLU_GELU_TANH] = k->gelu_glu, [ML_GLU_SIGMOID] = k->sigmoid_glu};
    struct glu_rows a = {op->act.alpha > 0 ? k->sigmoid_glu : glu[op->act.kind], op};
    ml_cpu_rows(ml_cpu_work(s), op->n, GLU_GRAIN, glu_rows, &a);
}

void ml_cpu_softcap(struct ml_stream *s, const struct ml_softcap_op *op) {
    ml_cpu_work(s)->exec.k->softcap(op->x, op->cap, op->n);
}

/* ---- copies ---- */

static void copy_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct ml_copy_op *op = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++)
        memcpy(op->y + i * op->y_step, op->x + i * op->x_step, op->width * sizeof *op->y);
}

void ml_cpu_copy(struct ml_stream *s, const struct ml_copy_op *op) {
    struct ml_copy_op a = *op;
    ml_cpu_rows(ml_cpu_work(s), op->n, COPY_GRAIN, copy_rows, &a);
}

/* ---- rows by number ---- */

static void gather_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct ml_gather_op *op = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++)
        memcpy(op->y + i * op->width, op->x + (size_t)op->rows[i] * op->width, op->width * sizeof *op->y);
}

void ml_cpu_gather(struct ml_stream *s, const struct ml_gather_op *op) {
    struct ml_gather_op a = *op;
    ml_cpu_rows(ml_cpu_work(s), op->n, COPY_GRAIN, gather_rows, &a);
}
