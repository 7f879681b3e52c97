/* SPDX-License-Identifier: Apache-2.0
 *
 * A hash table between 64-bit integers: merges by pair of ids, edges of tries by node and byte.
 */
#include "base/checked.h"
#include "base/clock.h"
#include "base/mem.h"
#include "tokenizer/tokenizer_int.h"

#include <string.h>

void ml_pairs_free(struct ml_pairs *p) {
    ml_free(p->slot);
    memset(p, 0, sizeof *p);
}

static void place(struct ml_pairs *p, uint64_t key, uint64_t value) {
    size_t i = ml_pair_hash(p, key) & (p->cap - 1);
    while (p->slot[i].key != ML_PAIR_NONE)
        i = (i + 1) & (p->cap - 1);
    p->slot[i] = (struct ml_pair_slot){key, value};
}

static marlin_status resize(struct ml_pairs *p, size_t cap) {
    size_t bytes;
    if (!ml_mul_size(cap, sizeof *p->slot, &bytes)) return MARLIN_ERR_MEMORY;
    struct ml_pairs bigger = {.cap = cap, .count = p->count, .seed = p->seed};
    bigger.slot = ml_alloc(bytes);
    if (!bigger.slot) return MARLIN_ERR_MEMORY;
    if (!bigger.seed) bigger.seed = ml_clock_ns() ^ (uint64_t)(uintptr_t)bigger.slot << 17;
    memset(bigger.slot, 0xFF, bytes);
    for (size_t i = 0; i < p->cap; i++)
        if (p->slot[i].key != ML_PAIR_NONE) place(&bigger, p->slot[i].key, p->slot[i].value);
    ml_free(p->slot);
    *p = bigger;
    return MARLIN_OK;
}

/* The load stays at or below one half: most lookups are misses, which end at the first empty slot. */
marlin_status ml_pairs_reserve(struct ml_pairs *p, size_t n) {
    size_t cap = 16, want;
    if (!ml_mul_size(n, 2, &want)) return MARLIN_ERR_MEMORY;
    while (cap < want)
        if (!ml_mul_size(cap, 2, &cap)) return MARLIN_ERR_MEMORY;
    return cap > p->cap ? resize(p, cap) : MARLIN_OK;
}

marlin_status ml_pairs_put(struct ml_pairs *p, uint64_t key, uint64_t value) {
    const marlin_status st = ml_pairs_reserve(p, p->count + 1);
    if (st != MARLIN_OK) return st;
    size_t i = ml_pair_hash(p, key) & (p->cap - 1);
    while (p->slot[i].key != ML_PAIR_NONE && p->slot[i].key != key)
        i = (i + 1) & (p->cap - 1);
    if (p->slot[i].key != key) p->count++;
    p->slot[i] = (struct ml_pair_slot){key, value};
    return MARLIN_OK;
}
