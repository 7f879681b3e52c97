/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear probing over a power of two of slots, at most 70 % full.
 */
#include "base/map.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/mem.h"

#include <stdatomic.h>
#include <string.h>
#include <xxhash.h>

struct ml_map_slot {
    const void *key; /* NULL = free */
    size_t len;
    uint64_t hash, value;
};

/* Stands for a NULL key of length 0, so that NULL in a slot means free. */
static const char empty_key[1];

/* Unpredictable enough against collisions that were prepared in a file: time and address-space layout. */
static uint64_t seed(void) {
    static atomic_uint_fast64_t shared;
    uint_fast64_t s = atomic_load_explicit(&shared, memory_order_relaxed);
    if (s) return s;
    const uint64_t parts[2] = {ml_clock_ns(), (uint64_t)(uintptr_t)&shared};
    const uint_fast64_t fresh = XXH3_64bits(parts, sizeof parts) | 1;
    uint_fast64_t expected = 0;
    return atomic_compare_exchange_strong(&shared, &expected, fresh) ? fresh : expected;
}

static uint64_t hash_key(const void *key, size_t len) {
    return XXH3_64bits_withSeed(key, len, seed());
}

void ml_map_init(struct ml_map *m) {
    *m = (struct ml_map){0};
}

void ml_map_free(struct ml_map *m) {
    ml_free(m->slots);
    ml_map_init(m);
}

/* The slot of the key, or the free slot where it belongs. cap > 0. */
static struct ml_map_slot *probe(const struct ml_map *m, const void *key, size_t len, uint64_t hash) {
    for (size_t i = hash & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
        struct ml_map_slot *s = &m->slots[i];
        if (!s->key) return s;
        if (s->hash == hash && s->len == len && memcmp(s->key, key, len) == 0) return s;
    }
}

static marlin_status resize(struct ml_map *m, size_t cap) {
    struct ml_map next = {.count = m->count, .cap = cap};
    next.slots = ml_calloc(cap, sizeof *next.slots);
    if (!next.slots) return MARLIN_ERR_MEMORY;
    for (size_t i = 0; i < m->cap; i++) {
        const struct ml_map_slot *s = &m->slots[i];
        if (s->key) *probe(&next, s->key, s->len, s->hash) = *s;
    }
    ml_free(m->slots);
    *m = next;
    return MARLIN_OK;
}

marlin_status ml_map_reserve(struct ml_map *m, size_t n) {
    size_t need, cap = 16;
    if (!ml_mul_size(n, 10, &need)) return MARLIN_ERR_LIMIT;
    need = need / 7 + 1;
    while (cap < need) {
        if (!ml_mul_size(cap, 2, &cap)) return MARLIN_ERR_LIMIT;
    }
    return cap > m->cap ? resize(m, cap) : MARLIN_OK;
}

marlin_status ml_map_put(struct ml_map *m, const void *key, size_t len, uint64_t value, bool *inserted) {
    const marlin_status st = ml_map_reserve(m, m->count + 1);
    if (st != MARLIN_OK) return st;
    if (!key) key = empty_key;
    const uint64_t hash = hash_key(key, len);
    struct ml_map_slot *s = probe(m, key, len, hash);
    if (inserted) *inserted = !s->key;
    if (s->key) return MARLIN_OK;
    *s = (struct ml_map_slot){.key = key, .len = len, .hash = hash, .value = value};
    m->count++;
    return MARLIN_OK;
}

bool ml_map_get(const struct ml_map *m, const void *key, size_t len, uint64_t *value) {
    if (m->count == 0) return false;
    if (!key) key = empty_key;
    const struct ml_map_slot *s = probe(m, key, len, hash_key(key, len));
    if (!s->key) return false;
    if (value) *value = s->value;
    return true;
}
