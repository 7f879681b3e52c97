/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns sequences and the pages that they share.
 */
#include "models/sequence.h"

#include "base/mem.h"
#include "models/model_int.h"

#include <string.h>

/* ---- what layers remember ---- */

struct ml_layer_memory ml_config_memory(const struct ml_config *c, size_t layer, size_t device) {
    if (c->kv_lora_rank > 0)
        return (struct ml_layer_memory){.kind = ML_MEMORY_LATENT,
                                        .kv_heads = 1,
                                        .k_dim = (size_t)(c->kv_lora_rank + c->head_dim),
                                        .v_dim = (size_t)c->kv_lora_rank,
                                        .device = device};
    const bool slides = c->layer_kind[layer] == ML_LAYER_SLIDING && c->sliding_window > 0;
    return (struct ml_layer_memory){.kind = slides ? ML_MEMORY_WINDOW : ML_MEMORY_FULL,
                                    .kv_heads = (size_t)c->num_kv_heads,
                                    .k_dim = (size_t)c->head_dim,
                                    .v_dim = (size_t)c->head_dim,
                                    .window = slides ? (size_t)c->sliding_window : 0,
                                    .device = device};
}

marlin_status ml_config_layout(const struct ml_config *c, size_t first, size_t n, size_t n_devices,
                               enum ml_dtype dtype, struct ml_arena *arena, struct ml_memory_layout *out,
                               struct marlin_error *err) {
    const size_t all = (size_t)c->num_layers;
    struct ml_layer_memory *layers = ml_calloc(n, sizeof *layers);
    if (!layers) return ml_fail(err, MARLIN_ERR_MEMORY, "memory of %zu layers: out of memory", n);
    for (size_t i = 0; i < n; i++)
        layers[i] = ml_config_memory(c, first + i, ml_device_of_layer(first + i, all, n_devices));
    const marlin_status st = ml_memory_layout_create(layers, n, dtype, arena, out, err);
    ml_free(layers);
    return st;
}

/* ---- caches ---- */

marlin_status ml_cache_create(const struct ml_model *m, enum ml_dtype kv_dtype,
                              const struct ml_pages_sizes *sizes, struct ml_cache **out,
                              struct marlin_error *err) {
    marlin_status st;
    if (m->headers_only)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "a model of which only headers were read cannot run");
    struct ml_cache *c = ml_calloc(1, sizeof *c);
    if (!c) return ml_fail(err, MARLIN_ERR_MEMORY, "key-value cache: out of memory");
    c->model = m;
    ml_arena_init(&c->arena, 0);
    ML_TRY(ml_config_layout(m->config, 0, (size_t)m->config->num_layers, m->n_devices, kv_dtype, &c->arena,
                            &c->layout, err));
    ML_TRY(ml_pages_create(&c->layout, m->devices, sizes, &c->pages, err));
out:
    if (st == MARLIN_OK)
        *out = c;
    else
        ml_cache_free(c);
    return st;
}

void ml_cache_free(struct ml_cache *c) {
    if (!c) return;
    ml_pages_free(c->pages);
    ml_arena_free(&c->arena);
    ml_free(c);
}

struct ml_pages *ml_cache_pages(const struct ml_cache *c) {
    return c->pages;
}

/* ---- sequences ---- */

/* The most tokens for which a table stays what it is for `length`. */
static size_t table_holds(const struct ml_rope *r, size_t length) {
    if (r->switch_at == 0) return SIZE_MAX;
    if (length <= r->switch_at) return r->switch_at;
    return r->long_freq ? SIZE_MAX : length;
}

static bool same_tables(const struct ml_rope *r, size_t a, size_t b) {
    const size_t low = a < b ? a : b, high = a < b ? b : a;
    return low == high || r->switch_at == 0 || high <= r->switch_at || (low > r->switch_at && r->long_freq);
}

static void set_tables(struct ml_sequence *s, size_t length) {
    const struct ml_model *m = s->cache->model;
    const size_t global = table_holds(&m->rope, length), local = table_holds(&m->rope_local, length);
    ml_rope_frequencies(&m->rope, length, s->inv);
    ml_rope_frequencies(&m->rope_local, length, s->inv_local);
    s->expected = length;
    s->beyond = global < local ? global : local;
}

bool ml_sequence_expect(struct ml_sequence *s, size_t length) {
    const struct ml_model *m = s->cache->model;
    const bool same =
        same_tables(&m->rope, s->expected, length) && same_tables(&m->rope_local, s->expected, length);
    if (!same && ml_memory_length(s->memory) > 0) return false;
    if (!same) set_tables(s, length);
    return true;
}

size_t ml_sequence_holds(const struct ml_sequence *s) {
    return s->beyond;
}

marlin_status ml_sequence_create(struct ml_cache *cache, size_t positions, struct ml_sequence **out,
                                 struct marlin_error *err) {
    const struct ml_model *m = cache->model;
    marlin_status st;
    if (positions == 0) return ml_fail(err, MARLIN_ERR_ARGUMENT, "a sequence needs room for one token");
    struct ml_sequence *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail(err, MARLIN_ERR_MEMORY, "sequence: out of memory");
    s->cache = cache;
    s->inv = ml_calloc(m->rope.half + m->rope_local.half, sizeof *s->inv);
    if (!s->inv) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "sequence: out of memory");
        goto out;
    }
    s->inv_local = s->inv + m->rope.half;
    ML_TRY(ml_memory_create(cache->pages, positions, &s->memory, err));
    set_tables(s, positions);
out:
    if (st == MARLIN_OK)
        *out = s;
    else
        ml_sequence_free(s);
    return st;
}

marlin_status ml_sequence_create_alone(const struct ml_model *m, size_t positions, size_t rows,
                                       struct ml_sequence **out, struct marlin_error *err) {
    const struct ml_pages_sizes sizes = {.sequences = 1, .positions = positions, .rows = rows};
    struct ml_cache *cache = NULL;
    if (positions == 0) return ml_fail(err, MARLIN_ERR_ARGUMENT, "a sequence needs room for one token");
    marlin_status st = ml_cache_create(m, m->kv_dtype, &sizes, &cache, err);
    if (st != MARLIN_OK) return st;
    st = ml_sequence_create(cache, positions, out, err);
    if (st == MARLIN_OK)
        (*out)->owns_cache = true;
    else
        ml_cache_free(cache);
    return st;
}

void ml_sequence_free(struct ml_sequence *s) {
    if (!s) return;
    ml_memory_free(s->memory);
    if (s->owns_cache) ml_cache_free(s->cache);
    ml_free(s->inv);
    ml_free(s);
}

size_t ml_sequence_length(const struct ml_sequence *s) {
    return ml_memory_length(s->memory);
}

size_t ml_sequence_capacity(const struct ml_sequence *s) {
    return ml_memory_capacity(s->memory);
}

size_t ml_sequence_rewind(struct ml_sequence *s, size_t n) {
    return ml_memory_rewind(s->memory, n);
}

marlin_status ml_sequence_fork(const struct ml_sequence *s, struct ml_sequence **out,
                               struct marlin_error *err) {
    const marlin_status st = ml_sequence_create(s->cache, ml_sequence_capacity(s), out, err);
    if (st == MARLIN_OK) ml_sequence_restore(*out, s);
    return st;
}

void ml_sequence_restore(struct ml_sequence *s, const struct ml_sequence *from) {
    ml_memory_restore(s->memory, from->memory);
    set_tables(s, from->expected);
}
