/* SPDX-License-Identifier: Apache-2.0
 *
 * The key-value cache of one sequence: per layer, per KV head, contiguous positions.
 *
 *   layer l, K:  [kv_head][position][head_dim]     V the same
 */
#ifndef ML_CACHE_KV_H
#define ML_CACHE_KV_H

#include "base/dtype.h"
#include "base/status.h"
#include "device/device.h"
#include "kernels/kernels.h"

#include <stddef.h>
#include <stdint.h>

/* Float16 keys and values halve the memory and move logits by about 2e-3 of their spread; float32 ones leave
 * the model what it was. */
enum { ML_KV_DEFAULT = ML_F32 };

struct ml_kv_shape {
    size_t layers, kv_heads, head_dim, max_positions;
    enum ml_dtype dtype; /* ML_F32 or ML_F16 */
};

struct ml_kv {
    struct ml_kv_shape shape;
    struct ml_device *device;
    struct ml_buffer buffer;
    size_t length;      /* positions filled in every layer */
    size_t head_stride; /* elements between KV heads */
};

/* Bytes that a cache of this shape takes; MARLIN_ERR_LIMIT on overflow. */
marlin_status ml_kv_bytes(const struct ml_kv_shape *shape, size_t *bytes,
                          struct marlin_error *err) MARLIN_MUST_CHECK;
marlin_status ml_kv_create(struct ml_kv *kv, const struct ml_kv_shape *shape, struct ml_device *device,
                           struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_kv_free(struct ml_kv *kv);

/* Start of layer's K or V. */
void *ml_kv_k(const struct ml_kv *kv, size_t layer);
void *ml_kv_v(const struct ml_kv *kv, size_t layer);

/* Stores one token's K and V ([kv_heads * head_dim] float32 each) at a position < max_positions. */
void ml_kv_store(struct ml_kv *kv, const struct ml_kernels *k, size_t layer, size_t position,
                 const float *key, const float *value);
/* Forgets positions >= n: what follows is as if they had never been. */
void ml_kv_truncate(struct ml_kv *kv, size_t n);

#endif
