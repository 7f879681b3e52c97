/* SPDX-License-Identifier: Apache-2.0
 *
 * A collection of tensors over one or more mapped files.
 */
#include "base/checked.h"
#include "base/mem.h"
#include "base/text.h"
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

/* Points the header's tensors into the mapping. */
static void point(struct ml_file *file, struct ml_safetensors_header *h) {
    for (size_t i = 0; i < h->count; i++) {
        struct ml_tensor *tensor = &h->tensors[i];
        tensor->file = file;
        tensor->offset += h->data_start;
        tensor->data = tensor->bytes ? ml_file_data(file) + tensor->offset : NULL;
    }
}

static bool is_named_by(const struct ml_json *map, const struct ml_tensor *t) {
    const char *shard = ml_json_string(ml_json_get(map, t->name), NULL);
    const char *path = ml_file_path(t->file), *slash = strrchr(path, '/');
    return shard && strcmp(slash ? slash + 1 : path, shard) == 0;
}

/* Who has a name: first the tensors that the map gives it to, then in the order of files. */
static marlin_status find_owners(const struct ml_tensors *t, const struct ml_json *map, struct ml_map *owners,
                                 struct marlin_error *err) {
    for (int pass = map ? 0 : 1; pass < 2; pass++)
        for (size_t f = 0; f < t->n_files; f++)
            for (size_t i = 0; i < t->headers[f].count; i++) {
                const struct ml_tensor *tensor = &t->headers[f].tensors[i];
                bool inserted;
                if (pass == 0 && !is_named_by(map, tensor)) continue;
                const size_t len = strlen(tensor->name);
                if (ml_map_put(owners, tensor->name, len, (uint64_t)f, &inserted) != MARLIN_OK)
                    return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", ml_file_path(tensor->file));
                if (!inserted && !map)
                    return ml_fail(
                        err, MARLIN_ERR_FORMAT,
                        "%s: tensor \"%.120s\" is in another file too: remove the one that is not of "
                        "this model",
                        ml_file_path(tensor->file), tensor->name);
            }
    return MARLIN_OK;
}

/* Drops the tensors of a file that another file owns, and enters the rest. */
static marlin_status enter_file(struct ml_tensors *t, size_t f, const struct ml_map *owners,
                                struct marlin_error *err) {
    struct ml_safetensors_header *h = &t->headers[f];
    size_t kept = 0;
    for (size_t i = 0; i < h->count; i++) {
        uint64_t owner = f;
        const char *name = h->tensors[i].name;
        (void)ml_map_get(owners, name, strlen(name), &owner);
        if (owner != f) continue;
        h->tensors[kept] = h->tensors[i];
        if (ml_map_put(&t->by_name, name, strlen(name), (uint64_t)(uintptr_t)&h->tensors[kept], NULL) !=
            MARLIN_OK)
            return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", ml_file_path(t->files[f]));
        kept++;
    }
    h->count = kept;
    t->count += kept;
    return MARLIN_OK;
}

marlin_status ml_tensors_enter(struct ml_tensors *t, const struct ml_json *map, struct marlin_error *err) {
    struct ml_map owners;
    ml_map_init(&owners);
    marlin_status st = find_owners(t, map, &owners, err);
    for (size_t f = 0; st == MARLIN_OK && f < t->n_files; f++)
        st = enter_file(t, f, &owners, err);
    ml_map_free(&owners);
    return st;
}

/* Where the first bytes are no length and no object, it says what they are instead. */
static marlin_status refuse_other(const uint8_t *first, size_t have, const char *path,
                                  struct marlin_error *err) {
    char beginning[ML_BEGINNING];
    if (have < 9 || first[8] == '{') return MARLIN_OK;
    const char *kind = ml_sniff(first, have);
    if (kind) return ml_fail(err, MARLIN_ERR_FORMAT, "%s: not a safetensors file, but %s", path, kind);
    ml_beginning(first, have, beginning);
    if (strlen(beginning) < 8) return MARLIN_OK; /* no text: the length says more */
    return ml_fail(err, MARLIN_ERR_FORMAT, "%s: not a safetensors file: begins with '%s'", path, beginning);
}

/* The header is parsed from a copy: bytes of a mapping may change between two looks at them when somebody
 * writes to the file, and the parser relies on what it saw. */
static marlin_status read_header(const struct ml_file *file, struct ml_safetensors_header *out,
                                 struct marlin_error *err) {
    const char *path = ml_file_path(file);
    const uint64_t size = ml_file_size(file);
    uint8_t first[ML_SNIFF_BYTES], *copy = NULL;
    uint64_t n;
    const size_t have = size < sizeof first ? (size_t)size : sizeof first;
    marlin_status st = MARLIN_OK;
    ML_TRY(ml_file_read(file, 0, first, have, err));
    ML_TRY(refuse_other(first, have, path, err));
    ML_TRY(ml_safetensors_header_length(first, have < 8 ? have : 8, size, path, &n, err));
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

marlin_status ml_tensors_read_file(struct ml_tensors *t, const char *path, struct marlin_error *err) {
    struct ml_file *file = NULL;
    struct ml_safetensors_header header = {0};
    marlin_status st;
    ML_TRY(reserve_file(t, path, err));
    ML_TRY(ml_file_open(path, &file, err));
    ML_TRY(read_header(file, &header, err));
    ML_TRY(ml_file_check(file, err));
    t->files[t->n_files] = file;
    t->headers[t->n_files] = header;
    point(file, &t->headers[t->n_files++]);
    return MARLIN_OK;
out:
    ml_safetensors_header_free(&header);
    ml_file_close(file);
    return st;
}

marlin_status ml_tensors_open_file(const char *path, struct ml_tensors **out, struct marlin_error *err) {
    struct ml_tensors *t = ml_calloc(1, sizeof *t);
    if (!t) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", path);
    marlin_status st = ml_tensors_read_file(t, path, err);
    if (st == MARLIN_OK) st = ml_tensors_enter(t, NULL, err);
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
                       ml_file_path(t->file), t->name, ml_tensor_type_name(t));
    if (n != t->count)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "%s: tensor \"%.120s\" has %llu elements, not %llu",
                       ml_file_path(t->file), t->name, (unsigned long long)t->count, (unsigned long long)n);
    if (n && !t->data)
        return ml_fail(err, MARLIN_ERR_INTERNAL, "%s: tensor \"%.120s\" is read before ml_tensors_load",
                       ml_file_path(t->file), t->name);
    if (n) ml_dtype_to_f32(t->dtype, t->data, dst, (size_t)n);
    return MARLIN_OK;
}

const char *ml_tensor_type_name(const struct ml_tensor *t) {
    return t->foreign ? t->foreign : ml_dtype_name(t->dtype);
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
