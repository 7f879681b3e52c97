/* SPDX-License-Identifier: Apache-2.0
 *
 * A collection of tensors over one or more mapped files.
 */
#include "base/checked.h"
#include "base/mem.h"
#include "converters/safetensors_int.h"

#include <stdio.h>
#include <string.h>

static marlin_status reserve_file(struct ml_tensors *t, const char *path, struct marlin_error *err) {
    if (t->n_files < t->cap_files) return MARLIN_OK;
    if (t->n_files >= ML_SAFETENSORS_MAX_FILES)
        return ml_fail(err, MARLIN_ERR_LIMIT, "%s: more than %d files in one model", path,
                       ML_SAFETENSORS_MAX_FILES);
    const size_t cap = t->cap_files ? t->cap_files * 2 : 4;
    struct ml_file **files = ml_realloc(t->files, cap * sizeof(struct ml_file *));
    if (files) t->files = files;
    struct ml_safetensors_header *headers = files ? ml_realloc(t->headers, cap * sizeof *headers) : NULL;
    if (!headers) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", path);
    t->headers = headers;
    t->cap_files = cap;
    return MARLIN_OK;
}

/* Points the header's tensors into the mapping and enters their names. */
static marlin_status enter(struct ml_tensors *t, struct ml_file *file, struct ml_safetensors_header *h,
                           struct marlin_error *err) {
    for (size_t i = 0; i < h->count; i++) {
        struct ml_tensor *tensor = &h->tensors[i];
        bool inserted;
        tensor->file = file;
        tensor->offset += h->data_start;
        tensor->data = tensor->bytes ? ml_file_data(file) + tensor->offset : NULL;
        if (ml_map_put(&t->by_name, tensor->name, strlen(tensor->name), (uint64_t)(uintptr_t)tensor,
                       &inserted) != MARLIN_OK)
            return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", ml_file_path(file));
        if (!inserted)
            return ml_fail(err, MARLIN_ERR_FORMAT, "%s: tensor \"%.120s\" is in another file too",
                           ml_file_path(file), tensor->name);
    }
    t->count += h->count;
    return MARLIN_OK;
}

/* The header is parsed from a copy: bytes of a mapping may change between two looks at them when somebody
 * writes to the file, and the parser relies on what it saw. */
static marlin_status read_header(const struct ml_file *file, struct ml_safetensors_header *out,
                                 struct marlin_error *err) {
    const char *path = ml_file_path(file);
    const uint64_t size = ml_file_size(file);
    uint8_t first[8], *copy = NULL;
    uint64_t n;
    marlin_status st = MARLIN_OK;
    if (size >= 8) ML_TRY(ml_file_read(file, 0, first, 8, err));
    ML_TRY(ml_safetensors_header_length(first, size < 8 ? (size_t)size : 8, size, path, &n, err));
    if (!(copy = ml_alloc((size_t)n + 8))) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "%s: no memory for a header of %llu bytes", path,
                     (unsigned long long)n);
        goto out;
    }
    memcpy(copy, first, 8);
    ML_TRY(ml_file_read(file, 8, copy + 8, (size_t)n, err));
    st = ml_safetensors_parse(copy, (size_t)n + 8, size, path, out, err);
out:
    ml_free(copy);
    return st;
}

marlin_status ml_tensors_add_file(struct ml_tensors *t, const char *path, struct marlin_error *err) {
    struct ml_file *file = NULL;
    struct ml_safetensors_header header = {0};
    marlin_status st;
    ML_TRY(reserve_file(t, path, err));
    ML_TRY(ml_file_open(path, &file, err));
    ML_TRY(read_header(file, &header, err));
    ML_TRY(ml_file_check(file, err));
    t->files[t->n_files] = file;
    t->headers[t->n_files] = header;
    t->n_files++;
    return enter(t, file, &t->headers[t->n_files - 1], err);
out:
    ml_safetensors_header_free(&header);
    ml_file_close(file);
    return st;
}

marlin_status ml_tensors_open_file(const char *path, struct ml_tensors **out, struct marlin_error *err) {
    struct ml_tensors *t = ml_calloc(1, sizeof *t);
    if (!t) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", path);
    const marlin_status st = ml_tensors_add_file(t, path, err);
    if (st == MARLIN_OK)
        *out = t;
    else
        ml_tensors_close(t);
    return st;
}

void ml_tensors_close(struct ml_tensors *t) {
    if (!t) return;
    if (t->release) t->release(t);
    for (size_t i = 0; i < t->n_files; i++) {
        ml_safetensors_header_free(&t->headers[i]);
        ml_file_close(t->files[i]);
    }
    ml_map_free(&t->by_name);
    ml_free(t->files);
    ml_free(t->headers);
    ml_free(t);
}

size_t ml_tensors_count(const struct ml_tensors *t) {
    return t->count;
}

const struct ml_tensor *ml_tensors_at(const struct ml_tensors *t, size_t i) {
    for (size_t f = 0; f < t->n_files; f++) {
        if (i < t->headers[f].count) return &t->headers[f].tensors[i];
        i -= t->headers[f].count;
    }
    return NULL;
}

const struct ml_tensor *ml_tensors_find(const struct ml_tensors *t, const char *name) {
    uint64_t found;
    return ml_map_get(&t->by_name, name, strlen(name), &found) ? (const struct ml_tensor *)(uintptr_t)found
                                                               : NULL;
}

const char *ml_tensors_metadata(const struct ml_tensors *t, const char *key) {
    const struct ml_safetensors_header *h = &t->headers[0];
    for (size_t i = 0; t->n_files && i < h->n_metadata; i++) {
        if (strcmp(h->metadata[i].key, key) == 0) return h->metadata[i].value;
    }
    return NULL;
}

marlin_status ml_tensors_check(const struct ml_tensors *t, struct marlin_error *err) {
    for (size_t i = 0; i < t->n_files; i++) {
        const marlin_status st = ml_file_check(t->files[i], err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

bool ml_tensors_intact(const struct ml_tensors *t) {
    for (size_t i = 0; i < t->n_files; i++)
        if (!ml_file_intact(t->files[i])) return false;
    return true;
}

uint64_t ml_tensors_bytes(const struct ml_tensors *t) {
    uint64_t sum = 0; /* cannot overflow: files do not overlap in memory */
    for (size_t f = 0; f < t->n_files; f++) {
        for (size_t i = 0; i < t->headers[f].count; i++) {
            const struct ml_tensor *tensor = &t->headers[f].tensors[i];
            sum += tensor->stored ? tensor->stored_bytes : tensor->bytes;
        }
    }
    return sum;
}

marlin_status ml_tensor_to_f32(const struct ml_tensor *t, float *dst, uint64_t n, struct marlin_error *err) {
    if (!ml_dtype_is_float(t->dtype))
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "%s: tensor \"%.120s\" is %s; a float type is needed",
                       ml_file_path(t->file), t->name, ml_dtype_name(t->dtype));
    if (n != t->count)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "%s: tensor \"%.120s\" has %llu elements, not %llu",
                       ml_file_path(t->file), t->name, (unsigned long long)t->count, (unsigned long long)n);
    if (n && !t->data)
        return ml_fail(err, MARLIN_ERR_INTERNAL, "%s: tensor \"%.120s\" is read before ml_tensors_load",
                       ml_file_path(t->file), t->name);
    if (n) ml_dtype_to_f32(t->dtype, t->data, dst, (size_t)n);
    return MARLIN_OK;
}

const char *ml_tensor_shape_text(const struct ml_tensor *t, char dst[128]) {
    size_t at = 1;
    memcpy(dst, "[", 2);
    for (int i = 0; i < t->rank && at < 120; i++) {
        at += (size_t)snprintf(dst + at, 128 - at, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
    }
    if (at > 125) at = 125;
    memcpy(dst + at, "]", 2);
    return dst;
}
