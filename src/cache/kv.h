/* SPDX-License-Identifier: Apache-2.0
 *
 * The key-value cache of one sequence: per layer, per KV head, contiguous positions.
 *
 *   layer l, K:  [kv_head][position][head_dim]     V the same
 *
 * In int8 each position of a KV head has a scale of its own (narrow_i8 of kernels/kernels.h), kept apart:
 *
 *                [kv_head][position]
 */
#ifndef ML_CACHE_KV_H
#define ML_CACHE_KV_H

#include "base/dtype.h"
#include "base/status.h"
#include "device/device.h"
#include "kernels/kernels.h"

#include <stddef.h>
#include <stdint.h>

/* The types by name, as an option lists them; false for an unknown name. */
#define ML_KV_TYPES "f32|f16|int8"
bool ml_kv_type_parse(const char *name, enum ml_dtype *out);

/* Float16 keys and values halve the memory and move logits by about 2e-3 of their spread; float32 ones leave
 * the model what it was. Int8 ones take half of float16's again, and the scales. The default is what whoever
 * says nothing gets, in the library and in the program. */
enum { ML_KV_DEFAULT = ML_F16 };
#define ML_KV_DEFAULT_NAME "f16"

struct ml_kv_shape {
    size_t layers, kv_heads, head_dim, max_positions;
    enum ml_dtype dtype; /* ML_F32, ML_F16 or ML_I8 */
};

struct ml_kv {
    struct ml_kv_shape shape;
    struct ml_device *device;
    struct ml_buffer buffer;
    size_t length;       /* positions filled in every layer */
    size_t head_stride;  /* elements between KV heads */
    size_t scale_stride; /* scales between KV heads; 0 where there are none */
};

/* Bytes that a cache of this shape takes; MARLIN_ERR_LIMIT on overflow. */
marlin_status ml_kv_bytes(const struct ml_kv_shape *shape, size_t *bytes,
                          struct marlin_error *err) MARLIN_MUST_CHECK;
marlin_status ml_kv_create(struct ml_kv *kv, const struct ml_kv_shape *shape, struct ml_device *device,
                           struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_kv_free(struct ml_kv *kv);

/* Bytes of one position of one KV head, K or V, with its scale and without padding. */
size_t ml_kv_row_bytes(const struct ml_kv_shape *shape);

/* Start of layer's K or V. */
void *ml_kv_k(const struct ml_kv *kv, size_t layer);
void *ml_kv_v(const struct ml_kv *kv, size_t layer);
/* Start of their scales; NULL where there are none. */
float *ml_kv_k_scales(const struct ml_kv *kv, size_t layer);
float *ml_kv_v_scales(const struct ml_kv *kv, size_t layer);

/* Stores one token's K and V ([kv_heads * head_dim] float32 each) at a position < max_positions. */
void ml_kv_store(struct ml_kv *kv, const struct ml_kernels *k, size_t layer, size_t position,
                 const float *key, const float *value);
/* Forgets positions >= n: what follows is as if they had never been. */
void ml_kv_truncate(struct ml_kv *kv, size_t n);

#endif
