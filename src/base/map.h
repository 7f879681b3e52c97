/* SPDX-License-Identifier: Apache-2.0
 *
 * Hash map from byte strings to uint64_t values (tensor names, vocabulary, merges). Open addressing,
 * XXH3 hashes with a per-process random seed so that a hostile file cannot force collisions.
 */
#ifndef ML_BASE_MAP_H
#define ML_BASE_MAP_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ml_map_slot;

struct ml_map {
    struct ml_map_slot *slots;
    size_t count, cap;
};

void ml_map_init(struct ml_map *m);
void ml_map_free(struct ml_map *m);

/* Room for n entries without growing. */
marlin_status ml_map_reserve(struct ml_map *m, size_t n) MARLIN_MUST_CHECK;

/* Keys are NOT copied: key bytes must outlive the map. *inserted (may be NULL) is false and the old value
 * is kept when the key exists. MARLIN_ERR_MEMORY leaves the map unchanged. */
marlin_status ml_map_put(struct ml_map *m, const void *key, size_t len, uint64_t value,
                         bool *inserted) MARLIN_MUST_CHECK;

/* Any number of readers at once while nobody writes. */
bool ml_map_get(const struct ml_map *m, const void *key, size_t len, uint64_t *value);

#endif
