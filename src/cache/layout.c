/* SPDX-License-Identifier: Apache-2.0
 *
 * Sizes and places, all in checked arithmetic.
 */
#include "cache/layout.h"

#include "base/checked.h"

#include <string.h>

enum { LINE = 64 };

static const struct {
    const char *name;
    enum ml_dtype type;
} types[] = {{"f32", ML_F32}, {"f16", ML_F16}, {"int8", ML_I8}};

bool ml_kv_type_parse(const char *name, enum ml_dtype *out) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(types[i].name, name) != 0) continue;
        *out = types[i].type;
        return true;
    }
    return false;
}

size_t ml_kv_slot_bytes(const struct ml_kv_layout *l) {
    const bool latent = l->v_at == l->k_at;
    const size_t elements = l->k_dim + (latent ? 0 : l->v_dim);
    return elements * ml_dtype_size(l->dtype) + (l->dtype == ML_I8 ? (latent ? 1 : 2) * sizeof(float) : 0);
}

/* Adds an array of 64 rows at the end of what is counted so far; false on overflow. */
static bool append(size_t *end, size_t width, size_t size, size_t *at) {
    size_t bytes;
    *at = *end;
    return ml_mul_size(width, ML_PAGE_KEYS, &bytes) && ml_mul_size(bytes, size, &bytes) &&
           ml_align_up(bytes, LINE, &bytes) && ml_add_size(*end, bytes, end);
}

/* The layer's part of a page that has `at` bytes so far, which must be a multiple of a line. */
static bool place_keys(const struct ml_layer_memory *m, enum ml_dtype dtype, size_t at,
                       struct ml_kv_layout *l) {
    const bool latent = m->kind == ML_MEMORY_LATENT;
    const size_t size = ml_dtype_size(dtype);
    size_t end = at;
    *l = (struct ml_kv_layout){.dtype = dtype,
                               .kv_heads = m->kv_heads,
                               .k_dim = m->k_dim,
                               .v_dim = m->v_dim,
                               .v_stride = latent ? m->k_dim : m->v_dim,
                               .at = at};
    if (!append(&end, m->k_dim, size, &l->k_at)) return false;
    l->v_at = l->k_at;
    if (!latent && !append(&end, m->v_dim, size, &l->v_at)) return false;
    if (dtype == ML_I8 && !append(&end, 1, sizeof(float), &l->k_scales_at)) return false;
    l->v_scales_at = l->k_scales_at;
    if (dtype == ML_I8 && !latent && !append(&end, 1, sizeof(float), &l->v_scales_at)) return false;
    return ml_add_size(end - at, LINE, &l->head_bytes) && ml_mul_size(l->head_bytes, m->kv_heads, &l->bytes);
}

static bool belongs(const struct ml_memory_group *g, const struct ml_layer_memory *m) {
    return g->recurrent == (m->kind == ML_MEMORY_RECURRENT) && g->device == m->device &&
           g->window == (m->kind == ML_MEMORY_WINDOW ? m->window : 0);
}

static size_t group_of(struct ml_memory_layout *out, const struct ml_layer_memory *m) {
    size_t g = 0;
    while (g < out->n_groups && !belongs(&out->groups[g], m))
        g++;
    if (g == out->n_groups)
        out->groups[out->n_groups++] =
            (struct ml_memory_group){.recurrent = m->kind == ML_MEMORY_RECURRENT,
                                     .window = m->kind == ML_MEMORY_WINDOW ? m->window : 0,
                                     .device = m->device};
    return g;
}

static bool place_state(const struct ml_layer_memory *m, size_t at, struct ml_memory_place *p,
                        size_t *bytes) {
    p->state_at = at;
    p->state_bytes = m->state_bytes;
    return ml_align_up(m->state_bytes, LINE, bytes);
}

static marlin_status check(const struct ml_layer_memory *m, size_t i, struct marlin_error *err) {
    const bool keys = m->kind == ML_MEMORY_FULL || m->kind == ML_MEMORY_WINDOW || m->kind == ML_MEMORY_LATENT;
    const bool empty = keys ? m->kv_heads == 0 || m->k_dim == 0 || m->v_dim == 0
                            : m->kind == ML_MEMORY_RECURRENT && m->state_bytes == 0;
    if (empty || (m->kind == ML_MEMORY_WINDOW && m->window == 0) ||
        (m->kind == ML_MEMORY_LATENT && (m->kv_heads != 1 || m->v_dim > m->k_dim)))
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "memory of layer %zu: a dimension cannot be used", i);
    return MARLIN_OK;
}

static marlin_status place_layer(const struct ml_layer_memory *m, size_t i, struct ml_memory_layout *out,
                                 struct marlin_error *err) {
    struct ml_memory_place *p = &out->layers[i];
    size_t bytes;
    const marlin_status st = check(m, i, err);
    p->group = SIZE_MAX;
    if (st != MARLIN_OK || m->kind == ML_MEMORY_NONE) return st;
    p->group = group_of(out, m);
    struct ml_memory_group *g = &out->groups[p->group];
    bool fits;
    if (g->recurrent) {
        fits = place_state(m, g->page_bytes, p, &bytes);
    } else {
        fits = place_keys(m, out->dtype, g->page_bytes, &p->layout);
        bytes = p->layout.bytes;
    }
    if (fits && ml_add_size(g->page_bytes, bytes, &g->page_bytes)) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_LIMIT, "memory of layer %zu passes the address space", i);
}

marlin_status ml_memory_layout_create(const struct ml_layer_memory *layers, size_t n_layers,
                                      enum ml_dtype dtype, struct ml_arena *arena,
                                      struct ml_memory_layout *out, struct marlin_error *err) {
    *out = (struct ml_memory_layout){.dtype = dtype, .n_layers = n_layers};
    if (dtype != ML_F16 && dtype != ML_F32 && dtype != ML_I8)
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "key-value cache of type %s is not supported: use F32, F16 or I8",
                       ml_dtype_name(dtype));
    out->layers = ml_arena_array(arena, n_layers, sizeof *out->layers);
    out->groups = ml_arena_array(arena, n_layers, sizeof *out->groups);
    if (!out->layers || !out->groups)
        return ml_fail(err, MARLIN_ERR_MEMORY, "memory of %zu layers: out of memory", n_layers);
    for (size_t i = 0; i < n_layers; i++) {
        const marlin_status st = place_layer(&layers[i], i, out, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}
