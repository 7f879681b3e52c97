/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums over tokens of x |g| and of g |x|.
 */
#include "quantization/signal/curvature.h"

#include "base/assert.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static bool is_watched(const struct ml_site *site) {
    return !ml_role_is_plain(site->role);
}

/* Most inputs or outputs of a linear of the layer. */
static size_t widest(const struct ml_layer *l) {
    size_t most = 0;
    for (size_t i = 0; i < l->n_sites; i++)
        if (is_watched(&l->sites[i]))
            most = larger(most, larger(l->sites[i].linear->in, l->sites[i].linear->out));
    return most;
}

uint64_t ml_layer_curvature_bytes(const struct ml_layer *l, size_t width, int workers) {
    uint64_t sum = (uint64_t)width * widest(l) * sizeof(float), role[ML_ROLES] = {0};
    for (size_t i = 0; i < l->n_sites; i++) {
        const struct ml_site *t = &l->sites[i];
        if (!is_watched(t)) continue;
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
    for (size_t i = 0; i < c->layer->n_sites; i++) {
        const struct ml_site *t = &c->layer->sites[i];
        struct ml_curvature *shared = &c->shared[t->role];
        if (!is_watched(t)) continue;
        marlin_status st = create_one(&c->own[i], t->linear, workers, err);
        if (st == MARLIN_OK && t->expert != ML_NO_EXPERT && shared->in.k == 0)
            st = create_one(shared, t->linear, workers, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

marlin_status ml_layer_curvature_create(struct ml_layer_curvature *c, const struct ml_layer *layer,
                                        size_t width, struct ml_pool *pool, struct marlin_error *err) {
    marlin_status st;
    *c = (struct ml_layer_curvature){.layer = layer, .pool = pool};
    c->own = ml_calloc(layer->n_sites, sizeof *c->own);
    c->scaled = ml_calloc(width, widest(layer) * sizeof *c->scaled);
    if (!c->own || !c->scaled) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "curvature of layer %zu: out of memory", layer->index);
        goto out;
    }
    ML_TRY(create_all(c, err));
out:
    if (st != MARLIN_OK) ml_layer_curvature_free(c);
    return st;
}

void ml_layer_curvature_free(struct ml_layer_curvature *c) {
    for (size_t i = 0; c->own && i < c->layer->n_sites; i++)
        free_one(&c->own[i]);
    for (size_t r = 0; r < ML_ROLES; r++)
        free_one(&c->shared[r]);
    ml_free(c->own);
    ml_free(c->scaled);
    memset(c, 0, sizeof *c);
}

/* ---- tokens ---- */

struct scale {
    const float *x, *by; /* [n, x_width], [n, by_width] */
    size_t x_width, by_width;
    float *to; /* [n, x_width] */
};

/* x[t] |by[t]| */
static void scale_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct scale *a = arg;
    (void)worker;
    for (size_t t = begin; t < end; t++) {
        const float *x = a->x + t * a->x_width, *by = a->by + t * a->by_width;
        double square = 0;
        for (size_t i = 0; i < a->by_width; i++)
            square += (double)by[i] * by[i];
        const float length = (float)sqrt(square);
        for (size_t i = 0; i < a->x_width; i++)
            a->to[t * a->x_width + i] = x[i] * length;
    }
}

static void add_scaled(struct ml_layer_curvature *c, struct ml_hessian *h, const struct scale *s, size_t n) {
    ml_pool_for(c->pool, n, 8, scale_rows, (void *)s);
    ml_hessian_add(h, ml_kernels(), c->pool, s->to, s->x_width, n);
}

/* n_sites when it is none of them. */
static size_t index_of(const struct ml_layer_curvature *c, const struct ml_linear *l) {
    size_t i = 0;
    while (i < c->layer->n_sites && c->layer->sites[i].linear != l)
        i++;
    return i;
}

void ml_layer_curvature_add(void *user, const struct ml_linear *l, const float *x, const float *g, size_t n) {
    struct ml_layer_curvature *c = user;
    const struct scale in = {x, g, l->in, l->out, c->scaled}, out = {g, x, l->out, l->in, c->scaled};
    const size_t i = index_of(c, l);
    if (i == c->layer->n_sites || !is_watched(&c->layer->sites[i]) || n == 0) return;
    add_scaled(c, &c->own[i].in, &in, n);
    add_scaled(c, &c->own[i].out, &out, n);
}

void ml_layer_curvature_share(struct ml_layer_curvature *c) {
    for (size_t i = 0; i < c->layer->n_sites; i++) {
        const struct ml_site *t = &c->layer->sites[i];
        if (t->expert == ML_NO_EXPERT || !is_watched(t)) continue;
        ml_hessian_sum(&c->shared[t->role].in, &c->own[i].in);
        ml_hessian_sum(&c->shared[t->role].out, &c->own[i].out);
    }
}

const struct ml_curvature *ml_layer_curvature_of(const struct ml_layer_curvature *c,
                                                 const struct ml_linear *l) {
    const size_t i = index_of(c, l);
    ML_ASSERT(i < c->layer->n_sites && is_watched(&c->layer->sites[i]));
    const struct ml_site *t = &c->layer->sites[i];
    const bool few = c->own[i].in.count < larger(l->in, l->out);
    return few && t->expert != ML_NO_EXPERT ? &c->shared[t->role] : &c->own[i];
}
