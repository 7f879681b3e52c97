/* SPDX-License-Identifier: Apache-2.0
 *
 * Walks a model's layers once and names everything that will be quantized.
 */
#include "quantization/job/plan.h"

#include <stdlib.h>
#include <string.h>

static marlin_status store_name(struct ml_plan *p, const char *canonical, const char **out,
                                struct marlin_error *err) {
    char name[ML_BIND_NAME];
    ml_names_stored(&p->model->names, canonical, name);
    *out = ml_arena_strndup(&p->arena, name, strlen(name));
    return *out ? MARLIN_OK : ml_fail(err, MARLIN_ERR_MEMORY, "plan of %zu tensors: out of memory", p->count);
}

static marlin_status add(struct ml_plan *p, const struct ml_plan_tensor *t, struct marlin_error *err) {
    struct ml_plan_tensor *to = &p->tensors[p->count++];
    *to = *t;
    return store_name(p, t->linear->name, &to->stored, err);
}

static bool is_planned(const struct ml_site *site) {
    return !ml_role_is_plain(site->role);
}

static marlin_status add_layer(struct ml_plan *p, const struct ml_layer *l, struct marlin_error *err) {
    for (size_t i = 0; i < l->n_sites; i++) {
        const struct ml_site *s = &l->sites[i];
        const struct ml_plan_tensor t = {
            .linear = s->linear, .role = s->role, .input = s->input, .layer = l->index, .expert = s->expert};
        const marlin_status st = is_planned(s) ? add(p, &t, err) : MARLIN_OK;
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static marlin_status add_head(struct ml_plan *p, struct marlin_error *err) {
    const struct ml_plan_tensor t = {
        .linear = &p->model->head, .role = ML_ROLE_HEAD, .layer = p->layers, .expert = ML_NO_EXPERT};
    return add(p, &t, err);
}

static size_t count_tensors(const struct ml_model *m) {
    size_t n = 1;
    for (size_t i = 0; i < (size_t)m->config->num_layers; i++)
        for (size_t k = 0; k < m->layers[i].n_sites; k++)
            n += is_planned(&m->layers[i].sites[k]);
    return n;
}

/* ---- uses ---- */

static int by_tensor(const void *a, const void *b) {
    const struct ml_plan_use *x = a, *y = b;
    if (x->tensor != y->tensor) return (uintptr_t)x->tensor < (uintptr_t)y->tensor ? -1 : 1;
    return x->by < y->by ? -1 : x->by > y->by;
}

static marlin_status list_uses(struct ml_plan *p, struct marlin_error *err) {
    size_t n = 0;
    for (size_t i = 0; i < p->count; i++)
        for (const struct ml_origin *o = p->tensors[i].linear->origin; o; o = o->next)
            n++;
    p->uses = ml_arena_array(&p->arena, n + 1, sizeof *p->uses);
    if (!p->uses) return ml_fail(err, MARLIN_ERR_MEMORY, "plan of %zu tensors: out of memory", p->count);
    for (size_t i = 0; i < p->count; i++)
        for (const struct ml_origin *o = p->tensors[i].linear->origin; o; o = o->next)
            p->uses[p->n_uses++] = (struct ml_plan_use){o->tensor, &p->tensors[i], o->bias};
    qsort(p->uses, p->n_uses, sizeof *p->uses, by_tensor);
    return MARLIN_OK;
}

const struct ml_plan_use *ml_plan_use_of(const struct ml_plan *p, const struct ml_tensor *t) {
    size_t low = 0, high = p->n_uses;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if ((uintptr_t)p->uses[middle].tensor < (uintptr_t)t)
            low = middle + 1;
        else
            high = middle;
    }
    return low < p->n_uses && p->uses[low].tensor == t ? &p->uses[low] : NULL;
}

bool ml_plan_replaces(const struct ml_plan *p, const struct ml_tensor *t) {
    if (t == p->model->embedding_from) return p->embedding_bits != ML_BITS_PLAIN;
    const struct ml_plan_use *u = ml_plan_use_of(p, t);
    for (; u && u < p->uses + p->n_uses && u->tensor == t; u++)
        if (!u->bias && u->by->bits != ML_BITS_PLAIN) return true;
    return false;
}

bool ml_plan_parts_tied(const struct ml_plan *p) {
    return p->embedding_bits != ML_BITS_PLAIN && p->tensors[p->first[p->layers]].bits == ML_BITS_PLAIN &&
           !p->model->head.origin;
}

/* ---- the plan ---- */

marlin_status ml_plan_create(const struct ml_model *m, struct ml_plan *p, struct marlin_error *err) {
    marlin_status st;
    *p = (struct ml_plan){.model = m, .layers = (size_t)m->config->num_layers};
    ml_arena_init(&p->arena, 0);
    p->embedding_bits = ML_BITS_PLAIN;
    ML_TRY(store_name(p, "model.embed_tokens", &p->embedding, err));
    p->tensors = ml_arena_array(&p->arena, count_tensors(m), sizeof *p->tensors);
    p->first = ml_arena_array(&p->arena, p->layers + 2, sizeof *p->first);
    if (!p->tensors || !p->first) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "plan of %zu layers: out of memory", p->layers);
        goto out;
    }
    for (size_t i = 0; i < p->layers; i++) {
        p->first[i] = p->count;
        ML_TRY(add_layer(p, &m->layers[i], err));
    }
    p->first[p->layers] = p->count;
    ML_TRY(add_head(p, err));
    p->first[p->layers + 1] = p->count;
    ML_TRY(list_uses(p, err));
out:
    if (st != MARLIN_OK) ml_plan_free(p);
    return st;
}

void ml_plan_free(struct ml_plan *p) {
    ml_arena_free(&p->arena);
    memset(p, 0, sizeof *p);
}

uint64_t ml_plan_weights(const struct ml_plan_tensor *t) {
    return (uint64_t)t->linear->in * t->linear->out;
}

double ml_plan_bits(const struct ml_plan *p) {
    double bits = 0, weights = 0;
    for (size_t i = 0; i < p->first[p->layers]; i++) {
        bits += (double)p->tensors[i].bits * (double)ml_plan_weights(&p->tensors[i]);
        weights += (double)ml_plan_weights(&p->tensors[i]);
    }
    return weights > 0 ? bits / weights : 0;
}

size_t ml_plan_layer_of(const struct ml_plan *p, const char *name) {
    unsigned long long layer = 0;
    return ml_names_layer(&p->model->names, name, &layer) && layer < p->layers ? (size_t)layer : p->layers;
}
