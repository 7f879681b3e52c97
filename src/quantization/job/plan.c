/* SPDX-License-Identifier: Apache-2.0
 *
 * Walks a model's layers once and names everything that will be quantized.
 */
#include "quantization/job/plan.h"

#include "models/bind.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char canonical_prefix[] = "model.";

static marlin_status set_names(struct ml_plan *p, struct ml_plan_tensor *t, struct marlin_error *err) {
    char name[ML_BIND_NAME];
    const char *canonical = t->linear->name;
    const size_t skip = sizeof canonical_prefix - 1;
    if (strncmp(canonical, canonical_prefix, skip) == 0)
        (void)snprintf(name, sizeof name, "%s%s", p->prefix, canonical + skip);
    else
        (void)snprintf(name, sizeof name, "%s%s", p->head_prefix, canonical);
    t->stored = ml_arena_strndup(&p->arena, name, strlen(name));
    return t->stored ? MARLIN_OK
                     : ml_fail(err, MARLIN_ERR_MEMORY, "plan of %zu tensors: out of memory", p->count);
}

static marlin_status set_embedding(struct ml_plan *p, struct marlin_error *err) {
    char name[ML_BIND_NAME];
    (void)snprintf(name, sizeof name, "%sembed_tokens", p->prefix);
    p->embedding_bits = ML_BITS_PLAIN;
    p->embedding = ml_arena_strndup(&p->arena, name, strlen(name));
    return p->embedding ? MARLIN_OK : ml_fail(err, MARLIN_ERR_MEMORY, "plan: out of memory");
}

static marlin_status add(struct ml_plan *p, const struct ml_plan_tensor *t, struct marlin_error *err) {
    p->tensors[p->count] = *t;
    return set_names(p, &p->tensors[p->count++], err);
}

static bool is_planned(const struct ml_site *site) {
    return site->role != ML_ROLE_ROUTER;
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

static marlin_status find_prefix(struct ml_plan *p, const struct ml_model *m, struct marlin_error *err) {
    struct ml_binder b;
    const marlin_status st = ml_binder_init(&b, (struct ml_model *)m, m->tensors, err);
    p->prefix = b.prefix;
    p->head_prefix = b.head_prefix;
    ml_binder_free(&b);
    return st;
}

marlin_status ml_plan_create(const struct ml_model *m, struct ml_plan *p, struct marlin_error *err) {
    marlin_status st;
    *p = (struct ml_plan){.model = m, .layers = (size_t)m->config->num_layers};
    ml_arena_init(&p->arena, 0);
    ML_TRY(find_prefix(p, m, err));
    ML_TRY(set_embedding(p, err));
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

/* ---- names of the source ---- */

/* The part of the name behind "<prefix>layers.N.", or NULL. */
static const char *layer_rest(const struct ml_plan *p, const char *name, size_t *layer) {
    static const char layers[] = "layers.";
    const size_t skip = strlen(p->prefix);
    if (strncmp(name, p->prefix, skip) != 0 || strncmp(name + skip, layers, sizeof layers - 1) != 0)
        return NULL;
    const char *digits = name + skip + sizeof layers - 1;
    char *end = NULL;
    const unsigned long long n = strtoull(digits, &end, 10);
    if (*digits < '0' || *digits > '9' || *end != '.' || n >= p->layers) return NULL;
    *layer = (size_t)n;
    return end + 1;
}

size_t ml_plan_layer_of(const struct ml_plan *p, const char *name) {
    size_t layer;
    return layer_rest(p, name, &layer) ? layer : p->layers;
}

static bool is_weight_of(const char *name, const char *stored) {
    static const char *const suffixes[] = {".weight", ".weight_scale_inv", ".weight_scale"};
    const size_t n = strlen(stored);
    if (strncmp(name, stored, n) != 0) return false;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        if (strcmp(name + n, suffixes[i]) == 0) return true;
    }
    return false;
}

static bool is_fused(const char *rest) {
    static const char *const names[] = {"self_attn.qkv_proj.weight",
                                        "mlp.gate_up_proj.weight",
                                        "mlp.experts.gate_up_proj",
                                        "mlp.experts.down_proj",
                                        "block_sparse_moe.experts.gate_up_proj",
                                        "block_sparse_moe.experts.down_proj"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(rest, names[i]) == 0) return true;
    }
    return false;
}

bool ml_plan_replaces(const struct ml_plan *p, const char *name) {
    size_t layer = p->layers;
    const char *rest = layer_rest(p, name, &layer);
    if (rest && is_fused(rest)) return true;
    if (p->embedding_bits != ML_BITS_PLAIN && is_weight_of(name, p->embedding)) return true;
    for (size_t i = p->first[layer]; i < p->first[layer + 1]; i++) {
        if (p->tensors[i].bits != ML_BITS_PLAIN && is_weight_of(name, p->tensors[i].stored)) return true;
    }
    return false;
}

bool ml_plan_parts_tied(const struct ml_plan *p) {
    const struct ml_linear *head = &p->model->head;
    return p->embedding_bits != ML_BITS_PLAIN && p->tensors[p->first[p->layers]].bits == ML_BITS_PLAIN &&
           head->kind == ML_LINEAR_PLAIN && head->u.plain.data == p->model->embedding.data;
}
