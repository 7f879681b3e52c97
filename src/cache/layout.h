/* SPDX-License-Identifier: Apache-2.0
 *
 * What layers remember of a sequence, and where it lies: layers of the same kind share pages.
 *
 *   group 0: full      page of slots 64 i .. 64 i + 64:  | layer 0 | layer 3 | ...
 *   group 1: window    the same, released when the last key has left the window
 *   group 2: recurrent one page a sequence:              | state of layer 1 | state of layer 2 | ...
 *
 *   a layer in a page:  | head 0: keys [64][k_dim], values [64][v_dim], (scales of both) | pad | head 1 | ...
 *
 * In int8 each key and value has a scale of its own (narrow_i8 of kernels/kernels.h). Heads are padded by a
 * cache line: heads that start a multiple of 4 KiB apart would fall into the same cache sets.
 */
#ifndef ML_CACHE_LAYOUT_H
#define ML_CACHE_LAYOUT_H

#include "base/arena.h"
#include "base/dtype.h"
#include "base/status.h"
#include "ops/ops.h"

#include <stdbool.h>
#include <stddef.h>

/* The types of keys and values by name, as an option lists them; false for an unknown name. Float16 halves the
 * memory of float32 and moves logits by about 2e-3 of their spread; int8 takes half of float16's, and the
 * scales. */
#define ML_KV_TYPES "f32|f16|int8"
bool ml_kv_type_parse(const char *name, enum ml_dtype *out);

/* What whoever says nothing gets, in the library and in the program. */
enum { ML_KV_DEFAULT = ML_F16 };
#define ML_KV_DEFAULT_NAME "f16"

enum ml_memory_kind {
    ML_MEMORY_NONE,     /* nothing: attention over another layer's keys, or none at all */
    ML_MEMORY_FULL,     /* keys and values of all positions */
    ML_MEMORY_WINDOW,   /* those of the last `window` positions */
    ML_MEMORY_LATENT,   /* one row of k_dim for all heads, whose first v_dim elements are the value */
    ML_MEMORY_RECURRENT /* a state of state_bytes, whatever the length */
};

struct ml_layer_memory {
    enum ml_memory_kind kind;
    size_t kv_heads, k_dim, v_dim; /* full, window; latent: kv_heads 1, v_dim <= k_dim */
    size_t window;                 /* window: most keys that a position sees, its own among them */
    size_t state_bytes;            /* recurrent */
    size_t device;                 /* number of the device, of the model's list, that the layer runs on */
};

/* Layers that share pages. */
struct ml_memory_group {
    bool recurrent;
    size_t window; /* 0: all positions */
    size_t device;
    size_t page_bytes;
};

/* Where a layer finds its memory. */
struct ml_memory_place {
    size_t group;                 /* SIZE_MAX: it has none */
    struct ml_kv_layout layout;   /* of keys and values */
    size_t state_at, state_bytes; /* recurrent: from the start of the page */
};

struct ml_memory_layout {
    enum ml_dtype dtype; /* of keys and values */
    size_t n_layers, n_groups;
    struct ml_memory_place *layers;
    struct ml_memory_group *groups;
};

/* Lays out n_layers layers; arrays live in the arena. MARLIN_ERR_UNSUPPORTED for another type than F32, F16 and
 * I8, MARLIN_ERR_ARGUMENT for a dimension of 0, MARLIN_ERR_LIMIT on overflow. */
marlin_status ml_memory_layout_create(const struct ml_layer_memory *layers, size_t n_layers,
                                      enum ml_dtype dtype, struct ml_arena *arena,
                                      struct ml_memory_layout *out,
                                      struct marlin_error *err) MARLIN_MUST_CHECK;

/* Bytes of one slot of one KV head, keys and values with their scales and without padding. */
size_t ml_kv_slot_bytes(const struct ml_kv_layout *l);

#endif
