/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the memory of one sequence's keys and values. Layer l holds a K block, then a V block, of kv_heads
 * runs of head_stride elements each:
 *
 *   | l=0 K: head 0 | head 1 | ... | l=0 V: head 0 | ... | l=1 K: ...
 *
 * A run is max_positions * head_dim elements, padded: runs that start a multiple of 4 KiB apart would fall
 * into the same cache sets when a group of threads reads all heads at one position.
 */
#include "cache/kv.h"

#include "base/checked.h"

#include <string.h>

enum { RUN_ALIGN = 32, RUN_PAD = 32 }; /* elements: one cache line of float16 */

static bool head_stride(const struct ml_kv_shape *s, size_t *out) {
    size_t run;
    if (!ml_mul_size(s->max_positions, s->head_dim, &run) || !ml_align_up(run, RUN_ALIGN, &run)) return false;
    return ml_add_size(run, RUN_PAD, out);
}

marlin_status ml_kv_bytes(const struct ml_kv_shape *s, size_t *bytes, struct marlin_error *err) {
    size_t n;
    if (s->dtype != ML_F16 && s->dtype != ML_F32) {
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "key-value cache of type %s is not supported: use F16 or F32",
                       ml_dtype_name(s->dtype));
    }
    if (s->layers == 0 || s->kv_heads == 0 || s->head_dim == 0 || s->max_positions == 0) {
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "key-value cache: a dimension is 0");
    }
    if (!head_stride(s, &n) || !ml_mul_size(n, s->kv_heads, &n) || !ml_mul_size(n, s->layers, &n) ||
        !ml_mul_size(n, 2 * ml_dtype_size(s->dtype), &n)) {
        return ml_fail(
            err, MARLIN_ERR_LIMIT,
            "key-value cache: %zu layers of %zu heads for %zu positions pass the address space: ask "
            "for a shorter context",
            s->layers, s->kv_heads, s->max_positions);
    }
    *bytes = n;
    return MARLIN_OK;
}

marlin_status ml_kv_create(struct ml_kv *kv, const struct ml_kv_shape *shape, struct ml_device *device,
                           struct marlin_error *err) {
    size_t bytes = 0;
    *kv = (struct ml_kv){.shape = *shape, .device = device};
    const marlin_status st = ml_kv_bytes(shape, &bytes, err);
    if (st != MARLIN_OK) return st;
    if (!head_stride(shape, &kv->head_stride)) return ml_fail(err, MARLIN_ERR_INTERNAL, "key-value stride");
    const marlin_status got = device->ops->alloc(device, bytes, &kv->buffer, err);
    if (got == MARLIN_OK) return MARLIN_OK;
    return ml_fail_in(err, got, "key-value cache for %zu positions", shape->max_positions);
}

void ml_kv_free(struct ml_kv *kv) {
    if (kv->device && kv->buffer.handle) kv->device->ops->free(kv->device, &kv->buffer);
    *kv = (struct ml_kv){0};
}

static size_t block_bytes(const struct ml_kv *kv) {
    return kv->head_stride * kv->shape.kv_heads * ml_dtype_size(kv->shape.dtype);
}

void *ml_kv_k(const struct ml_kv *kv, size_t layer) {
    return (char *)kv->buffer.host + 2 * layer * block_bytes(kv);
}

void *ml_kv_v(const struct ml_kv *kv, size_t layer) {
    return (char *)kv->buffer.host + (2 * layer + 1) * block_bytes(kv);
}

void ml_kv_store(struct ml_kv *kv, const struct ml_kernels *k, size_t layer, size_t position,
                 const float *key, const float *value) {
    const size_t dim = kv->shape.head_dim, size = ml_dtype_size(kv->shape.dtype);
    ml_narrow_fn *const narrow = k->narrow[kv->shape.dtype];
    char *kd = (char *)ml_kv_k(kv, layer) + position * dim * size;
    char *vd = (char *)ml_kv_v(kv, layer) + position * dim * size;
    for (size_t h = 0; h < kv->shape.kv_heads; h++) {
        narrow(kd + h * kv->head_stride * size, key + h * dim, dim);
        narrow(vd + h * kv->head_stride * size, value + h * dim, dim);
    }
}

void ml_kv_truncate(struct ml_kv *kv, size_t n) {
    if (n < kv->length) kv->length = n;
}
