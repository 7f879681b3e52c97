/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the memory of one sequence's keys and values. Layer l holds a K block, then a V block, of kv_heads
 * runs of head_stride elements each; in int8 followed by kv_heads runs of scale_stride scales:
 *
 *   | l=0 K: head 0 | head 1 | ... | (scales) | l=0 V: head 0 | ... | l=1 K: ...
 *
 * A run is max_positions * head_dim elements, padded: runs that start a multiple of 4 KiB apart would fall
 * into the same cache sets when a group of threads reads all heads at one position.
 */
#include "cache/kv.h"

#include "base/checked.h"

#include <string.h>

/* Elements, one cache line each, that a run is a multiple of and padded by. */
enum { HALF_LINE = 32, BYTE_LINE = 64, SCALE_LINE = 16 };

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

static bool stride_of(size_t n, size_t line, size_t *out) {
    return ml_align_up(n, line, &n) && ml_add_size(n, line, out);
}

/* Elements and scales between KV heads. */
static bool strides(const struct ml_kv_shape *s, size_t *head, size_t *scale) {
    size_t run;
    *scale = 0;
    if (s->dtype == ML_I8 && !stride_of(s->max_positions, SCALE_LINE, scale)) return false;
    return ml_mul_size(s->max_positions, s->head_dim, &run) &&
           stride_of(run, s->dtype == ML_I8 ? BYTE_LINE : HALF_LINE, head);
}

/* Bytes of the runs of one KV head, K or V. */
static bool head_bytes(const struct ml_kv_shape *s, size_t *out) {
    size_t head, scale;
    return strides(s, &head, &scale) && ml_mul_size(head, ml_dtype_size(s->dtype), &head) &&
           ml_mul_size(scale, sizeof(float), &scale) && ml_add_size(head, scale, out);
}

marlin_status ml_kv_bytes(const struct ml_kv_shape *s, size_t *bytes, struct marlin_error *err) {
    size_t n;
    if (s->dtype != ML_F16 && s->dtype != ML_F32 && s->dtype != ML_I8) {
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "key-value cache of type %s is not supported: use F32, F16 or I8",
                       ml_dtype_name(s->dtype));
    }
    if (s->layers == 0 || s->kv_heads == 0 || s->head_dim == 0 || s->max_positions == 0) {
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "key-value cache: a dimension is 0");
    }
    if (!head_bytes(s, &n) || !ml_mul_size(n, s->kv_heads, &n) || !ml_mul_size(n, s->layers, &n) ||
        !ml_mul_size(n, 2, &n)) {
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
    if (!strides(shape, &kv->head_stride, &kv->scale_stride))
        return ml_fail(err, MARLIN_ERR_INTERNAL, "key-value stride");
    const marlin_status got = device->ops->alloc(device, bytes, &kv->buffer, err);
    if (got == MARLIN_OK) return MARLIN_OK;
    return ml_fail_in(err, got, "key-value cache for %zu positions", shape->max_positions);
}

void ml_kv_free(struct ml_kv *kv) {
    if (kv->device && kv->buffer.handle) kv->device->ops->free(kv->device, &kv->buffer);
    *kv = (struct ml_kv){0};
}

size_t ml_kv_row_bytes(const struct ml_kv_shape *s) {
    return s->head_dim * ml_dtype_size(s->dtype) + (s->dtype == ML_I8 ? sizeof(float) : 0);
}

/* All KV heads' elements of K or V of a layer. */
static size_t elements_bytes(const struct ml_kv *kv) {
    return kv->head_stride * kv->shape.kv_heads * ml_dtype_size(kv->shape.dtype);
}

static size_t block_bytes(const struct ml_kv *kv) {
    return elements_bytes(kv) + kv->scale_stride * kv->shape.kv_heads * sizeof(float);
}

void *ml_kv_k(const struct ml_kv *kv, size_t layer) {
    return (char *)kv->buffer.host + 2 * layer * block_bytes(kv);
}

void *ml_kv_v(const struct ml_kv *kv, size_t layer) {
    return (char *)kv->buffer.host + (2 * layer + 1) * block_bytes(kv);
}

/* Of the block of K or V at `rows`. */
static float *scales_behind(const struct ml_kv *kv, char *rows) {
    void *at = rows + elements_bytes(kv);
    return kv->scale_stride ? at : NULL;
}

float *ml_kv_k_scales(const struct ml_kv *kv, size_t layer) {
    return scales_behind(kv, ml_kv_k(kv, layer));
}

float *ml_kv_v_scales(const struct ml_kv *kv, size_t layer) {
    return scales_behind(kv, ml_kv_v(kv, layer));
}

/* Rows at `position` of all KV heads. */
static void store_i8(const struct ml_kv *kv, const struct ml_kernels *k, int8_t *rows, float *scales,
                     size_t position, const float *x) {
    const size_t dim = kv->shape.head_dim;
    for (size_t h = 0; h < kv->shape.kv_heads; h++)
        scales[h * kv->scale_stride + position] =
            k->narrow_i8(rows + h * kv->head_stride + position * dim, x + h * dim, dim);
}

void ml_kv_store(struct ml_kv *kv, const struct ml_kernels *k, size_t layer, size_t position,
                 const float *key, const float *value) {
    const size_t dim = kv->shape.head_dim, size = ml_dtype_size(kv->shape.dtype);
    if (kv->shape.dtype == ML_I8) {
        store_i8(kv, k, ml_kv_k(kv, layer), ml_kv_k_scales(kv, layer), position, key);
        store_i8(kv, k, ml_kv_v(kv, layer), ml_kv_v_scales(kv, layer), position, value);
        return;
    }
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
