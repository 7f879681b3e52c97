/* SPDX-License-Identifier: Apache-2.0
 *
 * Greedy allocation of bits over groups of (layer, role).
 */
#include "quantization/job/allocate.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

/* Loss of one role at 3 bits in nats of KL divergence a million weights, on a 12 M model: k and v deserve
 * more, o and down next. Only ratios matter. */
static const double sensitivity[ML_ROLES] = {
    [ML_ROLE_Q] = 0.016,
    [ML_ROLE_K] = 0.041,
    [ML_ROLE_V] = 0.103,
    [ML_ROLE_O] = 0.027,
    [ML_ROLE_Q_LOW] = 0.016,
    [ML_ROLE_KV_LOW] = 0.103,
    [ML_ROLE_ATTENTION_GATE] = 0.016,
    [ML_ROLE_GATE] = 0.021,
    [ML_ROLE_UP] = 0.016,
    [ML_ROLE_DOWN] = 0.027,
};

double ml_bits_distortion(int bits) {
    static const double d[] = {1, 0.2726, 0.0694, 0.01765, 0.00456, 0.00123, 0.00035, 0.0001, 0.00003};
    return d[bits < 0 ? 0 : bits > 8 ? 8 : bits];
}

struct group {
    uint64_t weights;
    double loss; /* at relative error 1 */
    int bits;    /* 0: no such group */
    bool fixed;
};

struct groups {
    struct group *group; /* [layers][ML_ROLES] */
    size_t count;
};

static struct group *group_of(const struct groups *u, const struct ml_plan_tensor *t) {
    return &u->group[t->layer * ML_ROLES + (size_t)t->role];
}

static marlin_status fix(struct group *u, const struct ml_plan_tensor *t, int bits,
                         struct marlin_error *err) {
    if (u->weights && (u->fixed != (bits != 0) || (u->fixed && u->bits != bits)))
        return ml_fail(
            err, MARLIN_ERR_ARGUMENT,
            "recipe: the experts of layer %zu would get different bits (%s): give all of them the same",
            t->layer, t->linear->name);
    u->fixed = bits != 0;
    u->bits = bits;
    return MARLIN_OK;
}

static marlin_status collect(const struct ml_plan *p, const struct ml_allocation *a, struct groups *u,
                             struct marlin_error *err) {
    for (size_t i = 0; i < p->first[p->layers]; i++) {
        const struct ml_plan_tensor *t = &p->tensors[i];
        struct group *x = group_of(u, t);
        const int bits = a->recipe ? ml_recipe_bits(a->recipe, t->linear->name) : 0;
        const marlin_status st = fix(x, t, bits, err);
        if (st != MARLIN_OK) return st;
        x->weights += ml_plan_weights(t);
    }
    for (size_t i = 0; i < u->count; i++) {
        struct group *x = &u->group[i];
        x->loss = a->loss ? a->loss[i] : sensitivity[i % ML_ROLES] * (double)x->weights;
        if (!x->fixed) x->bits = a->lowest;
    }
    return MARLIN_OK;
}

/* Loss saved by one more bit, for each bit spent. */
static double gain(const struct group *u) {
    return u->loss * (ml_bits_distortion(u->bits) - ml_bits_distortion(u->bits + 1)) / (double)u->weights;
}

/* Gives one more bit to the best group that can still be afforded; false when there is none. */
static bool raise_best(struct groups *u, int most, double *left) {
    struct group *best = NULL;
    for (size_t i = 0; i < u->count; i++) {
        struct group *x = &u->group[i];
        if (x->fixed || x->weights == 0 || x->bits >= most || (double)x->weights > *left + 0.5) continue;
        if (!best || gain(x) > gain(best)) best = x;
    }
    if (!best) return false;
    best->bits++;
    *left -= (double)best->weights;
    return true;
}

static void spend(struct groups *u, const struct ml_allocation *a) {
    double left = 0;
    for (size_t i = 0; i < u->count; i++) {
        if (!u->group[i].fixed) left += (a->bits - a->lowest) * (double)u->group[i].weights;
    }
    while (raise_best(u, a->most, &left)) {
    }
}

/* Rows that are int8 in the source are copied. */
static int embedding_bits(const struct ml_plan *p, const struct ml_allocation *a) {
    const bool asked = a->int8_rows && a->recipe && ml_recipe_embedding_bits(a->recipe) == ML_BITS_INT8;
    return asked && !p->model->embedding_rows ? ML_BITS_INT8 : ML_BITS_PLAIN;
}

static void give(struct ml_plan *p, const struct ml_allocation *a, const struct groups *u) {
    for (size_t i = 0; i < p->count; i++) {
        struct ml_plan_tensor *t = &p->tensors[i];
        const int head = a->recipe ? ml_recipe_bits(a->recipe, "lm_head") : 0;
        t->bits = t->role == ML_ROLE_HEAD ? (head ? head : a->head_bits) : group_of(u, t)->bits;
    }
    p->embedding_bits = embedding_bits(p, a);
}

marlin_status ml_allocate(struct ml_plan *p, const struct ml_allocation *a, struct marlin_error *err) {
    struct groups u = {.count = p->layers * ML_ROLES};
    marlin_status st = MARLIN_OK;
    if (!(a->bits >= a->least && a->bits <= a->most) || a->lowest < a->least || a->lowest > a->bits)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "%g bits a weight: this format has %d to %d", a->bits,
                       a->least, a->most);
    if (a->recipe) ML_TRY(ml_recipe_check(a, err));
    if (a->recipe && !a->loss) ml_recipe_warn(a->recipe, p); /* once: losses come with a second call */
    u.group = ml_calloc(u.count, sizeof *u.group);
    if (!u.group) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "allocation of bits: out of memory");
        goto out;
    }
    ML_TRY(collect(p, a, &u, err));
    spend(&u, a);
    give(p, a, &u);
out:
    ml_free(u.group);
    return st;
}
