/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums of gradient products. A sequence's gradient of one linear is two products of matrices:
 *
 *     x [n, in], g [n, out]  ->  grad = g' x [out, in]  ->  in += grad' grad,  out += grad grad'
 */
#include "quantization/curvature.h"

#include "base/checked.h"
#include "base/mem.h"

#include <string.h>

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* Most inputs, outputs and weights of a tensor of the layer. */
struct extent {
    size_t in, out, weights;
};

static struct extent extent_of(const struct ml_plan *p, size_t layer) {
    struct extent e = {0};
    for (size_t i = p->first[layer]; i < p->first[layer + 1]; i++) {
        const struct ml_linear *l = p->tensors[i].linear;
        e.in = larger(e.in, l->in);
        e.out = larger(e.out, l->out);
        e.weights = larger(e.weights, l->in * l->out);
    }
    return e;
}

static size_t scratch_floats(const struct extent *e, size_t width) {
    return (e->in + e->out) * width + 2 * e->weights;
}

uint64_t ml_layer_curvature_bytes(const struct ml_plan *p, size_t layer, size_t width, int workers) {
    const struct extent e = extent_of(p, layer);
    uint64_t sum = (uint64_t)scratch_floats(&e, width) * sizeof(float), role[ML_ROLES] = {0};
    for (size_t i = p->first[layer]; i < p->first[layer + 1]; i++) {
        const struct ml_plan_tensor *t = &p->tensors[i];
        const uint64_t own =
            ml_hessian_bytes(t->linear->in, workers) + ml_hessian_bytes(t->linear->out, workers);
        sum += own;
        if (t->expert != ML_NO_EXPERT) role[t->role] = own;
    }
    for (size_t r = 0; r < ML_ROLES; r++)
        sum += role[r];
    return sum;
}

static marlin_status create_one(struct ml_curvature *c, const struct ml_linear *l, int workers,
                                struct marlin_error *err) {
    const marlin_status st = ml_hessian_create(&c->in, l->in, workers, err);
    return st != MARLIN_OK ? st : ml_hessian_create(&c->out, l->out, workers, err);
}

static void free_one(struct ml_curvature *c) {
    ml_hessian_free(&c->in);
    ml_hessian_free(&c->out);
}

static marlin_status create_all(struct ml_layer_curvature *c, struct marlin_error *err) {
    const int workers = ml_pool_size(c->pool);
    for (size_t i = 0; i < c->count; i++) {
        const struct ml_plan_tensor *t = &c->plan->tensors[c->plan->first[c->layer] + i];
        struct ml_curvature *shared = &c->shared[t->role];
        marlin_status st = create_one(&c->own[i], t->linear, workers, err);
        if (st == MARLIN_OK && t->expert != ML_NO_EXPERT && shared->in.k == 0)
            st = create_one(shared, t->linear, workers, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static void carve(struct ml_layer_curvature *c, const struct extent *e) {
    c->xt = c->memory;
    c->gt = c->xt + e->in * c->width;
    c->grad = c->gt + e->out * c->width;
    c->flip = c->grad + e->weights;
}

marlin_status ml_layer_curvature_create(struct ml_layer_curvature *c, const struct ml_plan *plan,
                                        size_t layer, size_t width, struct ml_pool *pool,
                                        struct marlin_error *err) {
    const struct extent e = extent_of(plan, layer);
    marlin_status st;
    *c = (struct ml_layer_curvature){.plan = plan, .layer = layer, .pool = pool, .width = width};
    c->count = plan->first[layer + 1] - plan->first[layer];
    c->own = ml_calloc(c->count, sizeof *c->own);
    c->memory = ml_calloc(scratch_floats(&e, width), sizeof *c->memory);
    if (!c->own || !c->memory) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "curvature of layer %zu: out of memory", layer);
        goto out;
    }
    carve(c, &e);
    ML_TRY(ml_exec_create(&c->exec, ml_kernels(), pool, width, err));
    ML_TRY(create_all(c, err));
out:
    if (st != MARLIN_OK) ml_layer_curvature_free(c);
    return st;
}

void ml_layer_curvature_free(struct ml_layer_curvature *c) {
    for (size_t i = 0; c->own && i < c->count; i++)
        free_one(&c->own[i]);
    for (size_t r = 0; r < ML_ROLES; r++)
        free_one(&c->shared[r]);
    ml_exec_free(&c->exec);
    ml_free(c->own);
    ml_free(c->memory);
    memset(c, 0, sizeof *c);
}

/* ---- one linear of one sequence ---- */

struct flip {
    const float *from; /* [rows, cols] */
    float *to;         /* [cols, rows] */
    size_t rows, cols;
};

enum { SQUARE = 32 };

static void flip_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct flip *f = arg;
    (void)worker;
    for (size_t r0 = begin * SQUARE; r0 < end * SQUARE && r0 < f->rows; r0 += SQUARE)
        for (size_t c = 0; c < f->cols; c++)
            for (size_t r = r0; r < r0 + SQUARE && r < f->rows; r++)
                f->to[c * f->rows + r] = f->from[r * f->cols + c];
}

static void flip(struct ml_pool *pool, const float *from, size_t rows, size_t cols, float *to) {
    struct flip f = {from, to, rows, cols};
    ml_pool_for(pool, (rows + SQUARE - 1) / SQUARE, 1, flip_rows, &f);
}

static void add_gradient(struct ml_layer_curvature *c, struct ml_curvature *to, size_t out, size_t in,
                         size_t n) {
    ml_hessian_add(&to->in, ml_kernels(), c->pool, c->grad, in, out);
    ml_hessian_add(&to->out, ml_kernels(), c->pool, c->flip, out, in);
    to->tokens += n;
}

static size_t index_of(const struct ml_layer_curvature *c, const struct ml_linear *l) {
    const struct ml_plan_tensor *t = c->plan->tensors + c->plan->first[c->layer];
    size_t i = 0;
    while (i < c->count && t[i].linear != l)
        i++;
    return i;
}

void ml_layer_curvature_add(void *user, const struct ml_linear *l, const float *x, const float *g, size_t n) {
    struct ml_layer_curvature *c = user;
    const size_t i = index_of(c, l);
    if (i == c->count || n == 0) return;
    struct ml_curvature *shared = &c->shared[c->plan->tensors[c->plan->first[c->layer] + i].role];
    flip(c->pool, x, n, l->in, c->xt);
    flip(c->pool, g, n, l->out, c->gt);
    const struct ml_matrix w = {.dtype = ML_F32, .rows = l->in, .cols = n, .stride = n, .data = c->xt};
    ml_matmul(&c->exec, &w, c->gt, n, l->out, c->grad, l->in);
    flip(c->pool, c->grad, l->out, l->in, c->flip);
    add_gradient(c, &c->own[i], l->out, l->in, n);
    if (shared->in.k) add_gradient(c, shared, l->out, l->in, n);
}

const struct ml_curvature *ml_layer_curvature_of(const struct ml_layer_curvature *c, size_t i) {
    const struct ml_plan_tensor *t = &c->plan->tensors[c->plan->first[c->layer] + i];
    const bool few = c->own[i].tokens < larger(t->linear->in, t->linear->out);
    return few && t->expert != ML_NO_EXPERT ? &c->shared[t->role] : &c->own[i];
}
