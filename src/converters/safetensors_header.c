/* SPDX-License-Identifier: Apache-2.0
 *
 * The safetensors header: u64 length, JSON, nothing else. A pure function of bytes, so that the fuzzer can
 * drive it.
 */
#include "base/checked.h"
#include "base/json.h"
#include "base/mem.h"
#include "converters/safetensors_int.h"

#include <stdlib.h>
#include <string.h>

struct parse {
    const char *where;
    uint64_t data_len;
    struct ml_safetensors_header *out;
    struct marlin_error *err;
};

/* `name` is a tensor's, cut for the message. */
static marlin_status bad(const struct parse *p, const char *name, const char *what) {
    return ml_fail(p->err, MARLIN_ERR_FORMAT, "%s: tensor \"%.120s\": %s", p->where, name, what);
}

marlin_status ml_safetensors_header_length(const uint8_t *bytes, size_t have, uint64_t file_size,
                                           const char *where, uint64_t *n, struct marlin_error *err) {
    if (file_size < 8 || have < 8)
        return ml_fail(err, MARLIN_ERR_FORMAT, "%s: %llu bytes are too few for a safetensors file (offset 0)",
                       where, (unsigned long long)file_size);
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--) {
        length = length << 8 | bytes[i];
    }
    if (length > ML_SAFETENSORS_MAX_HEADER)
        return ml_fail(err, MARLIN_ERR_LIMIT,
                       "%s: header of %llu bytes, more than the limit of %d (offset 0)", where,
                       (unsigned long long)length, ML_SAFETENSORS_MAX_HEADER);
    if (length > file_size - 8)
        return ml_fail(err, MARLIN_ERR_FORMAT, "%s: header of %llu bytes in a file of %llu (offset 0)", where,
                       (unsigned long long)length, (unsigned long long)file_size);
    *n = length;
    return MARLIN_OK;
}

enum { MAX_TYPE_NAME = 32 };

static bool plain_type_name(const char *name, size_t len) {
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
    return len > 0 && strspn(name, plain) == len;
}

static marlin_status parse_dtype(const struct parse *p, const struct ml_json *v, struct ml_tensor *t) {
    size_t len;
    const char *name = ml_json_string(v, &len);
    if (!name) return bad(p, t->name, "dtype is missing or not a string");
    if (ml_dtype_parse(name, len, &t->dtype)) return MARLIN_OK;
    if (len > MAX_TYPE_NAME || !plain_type_name(name, len))
        return bad(p, t->name,
                   "the name of its dtype has other bytes than letters, digits and _, or too many");
    /* A matter for whoever needs the tensor: files hold buffers that nobody reads. */
    t->dtype = ML_FOREIGN;
    t->foreign = ml_arena_strndup(&p->out->arena, name, len);
    return t->foreign ? MARLIN_OK : ml_fail(p->err, MARLIN_ERR_MEMORY, "%s: out of memory", p->where);
}

static marlin_status parse_shape(const struct parse *p, const struct ml_json *v, struct ml_tensor *t) {
    if (!v || ml_json_type(v) != ML_JSON_ARRAY) return bad(p, t->name, "shape is missing or not an array");
    if (ml_json_count(v) > ML_TENSOR_MAX_RANK) return bad(p, t->name, "more than 8 dimensions");
    t->count = 1;
    for (const struct ml_json *d = ml_json_first(v); d; d = ml_json_next(d)) {
        uint64_t size;
        if (!ml_json_u64(d, &size) || size > INT64_MAX)
            return bad(p, t->name, "a dimension is not a non-negative integer");
        t->shape[t->rank++] = size;
        if (!ml_mul_u64(t->count, size, &t->count)) return bad(p, t->name, "the shape's product overflows");
    }
    if (!ml_mul_u64(t->count, ml_dtype_size(t->dtype), &t->bytes))
        return bad(p, t->name, "the size in bytes overflows");
    return MARLIN_OK;
}

static marlin_status parse_offsets(const struct parse *p, const struct ml_json *v, struct ml_tensor *t) {
    uint64_t begin, end;
    const struct ml_json *first = ml_json_first(v);
    if (!v || ml_json_type(v) != ML_JSON_ARRAY || ml_json_count(v) != 2 || !ml_json_u64(first, &begin) ||
        !ml_json_u64(ml_json_next(first), &end))
        return bad(p, t->name, "data_offsets are not two non-negative integers");
    if (begin > end) return bad(p, t->name, "data_offsets run backwards");
    if (end > p->data_len)
        return ml_fail(p->err, MARLIN_ERR_FORMAT,
                       "%s: tensor \"%.120s\" ends at %llu, but the file has %llu bytes of data", p->where,
                       t->name, (unsigned long long)end, (unsigned long long)p->data_len);
    if (t->foreign) t->bytes = end - begin;
    if (end - begin != t->bytes)
        return ml_fail(p->err, MARLIN_ERR_FORMAT,
                       "%s: tensor \"%.120s\" takes %llu bytes, its shape needs %llu", p->where, t->name,
                       (unsigned long long)(end - begin), (unsigned long long)t->bytes);
    t->offset = begin;
    return MARLIN_OK;
}

static marlin_status parse_tensor(const struct parse *p, const struct ml_json *v, struct ml_tensor *t) {
    size_t len;
    const char *key = ml_json_key(v, &len);
    if (len == 0 || len > ML_SAFETENSORS_MAX_NAME || strlen(key) != len)
        return bad(p, key, "a name must have 1 to 256 bytes");
    if (!(t->name = ml_arena_strndup(&p->out->arena, key, len)))
        return ml_fail(p->err, MARLIN_ERR_MEMORY, "%s: out of memory", p->where);
    if (ml_json_type(v) != ML_JSON_OBJECT) return bad(p, t->name, "the entry is not an object");
    if (ml_json_count(v) != 3) return bad(p, t->name, "an entry has just dtype, shape and data_offsets");
    marlin_status st = parse_dtype(p, ml_json_get(v, "dtype"), t);
    if (st == MARLIN_OK) st = parse_shape(p, ml_json_get(v, "shape"), t);
    if (st == MARLIN_OK) st = parse_offsets(p, ml_json_get(v, "data_offsets"), t);
    return st;
}

static marlin_status parse_metadata(const struct parse *p, const struct ml_json *v) {
    struct ml_safetensors_header *h = p->out;
    if (ml_json_type(v) != ML_JSON_OBJECT) return bad(p, "__metadata__", "is not an object");
    h->metadata = ml_arena_array(&h->arena, ml_json_count(v), sizeof *h->metadata);
    for (const struct ml_json *m = ml_json_first(v); m && h->metadata; m = ml_json_next(m)) {
        size_t key_len;
        const char *key = ml_json_key(m, &key_len), *value = ml_json_string(m, NULL);
        if (!value || strlen(key) != key_len)
            return bad(p, "__metadata__", value ? "a key holds NUL" : "a value is not a string without NUL");
        struct ml_metadata *entry = &h->metadata[h->n_metadata++];
        entry->key = ml_arena_strndup(&h->arena, key, key_len);
        entry->value = ml_arena_strndup(&h->arena, value, strlen(value));
        if (!entry->key || !entry->value) break;
    }
    if (h->n_metadata != ml_json_count(v))
        return ml_fail(p->err, MARLIN_ERR_MEMORY, "%s: out of memory", p->where);
    return MARLIN_OK;
}

static int by_offset(const void *a, const void *b) {
    const struct ml_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* R6: without holes or overlap from 0 to the end. */
static marlin_status check_cover(const struct parse *p) {
    const struct ml_safetensors_header *h = p->out;
    uint64_t at = 0;
    for (size_t i = 0; i < h->count; i++) {
        const struct ml_tensor *t = &h->tensors[i];
        if (t->offset != at)
            return bad(p, t->name,
                       t->offset > at ? "a hole lies before its data" : "its data overlaps another's");
        at += t->bytes;
    }
    if (at != p->data_len)
        return ml_fail(p->err, MARLIN_ERR_FORMAT, "%s: tensors end at %llu, the file has %llu bytes of data",
                       p->where, (unsigned long long)at, (unsigned long long)p->data_len);
    return MARLIN_OK;
}

static marlin_status parse_entries(const struct parse *p, const struct ml_json *root) {
    struct ml_safetensors_header *h = p->out;
    if (ml_json_type(root) != ML_JSON_OBJECT)
        return ml_fail(p->err, MARLIN_ERR_FORMAT, "%s: the header is not an object", p->where);
    if (ml_json_count(root) > ML_SAFETENSORS_MAX_TENSORS)
        return ml_fail(p->err, MARLIN_ERR_LIMIT, "%s: more than %d entries", p->where,
                       ML_SAFETENSORS_MAX_TENSORS);
    h->tensors = ml_arena_array(&h->arena, ml_json_count(root), sizeof *h->tensors);
    if (!h->tensors) return ml_fail(p->err, MARLIN_ERR_MEMORY, "%s: out of memory", p->where);
    for (const struct ml_json *m = ml_json_first(root); m; m = ml_json_next(m)) {
        size_t len;
        const char *key = ml_json_key(m, &len);
        const bool meta = len == strlen("__metadata__") && memcmp(key, "__metadata__", len) == 0;
        const marlin_status st = meta ? parse_metadata(p, m) : parse_tensor(p, m, &h->tensors[h->count++]);
        if (st != MARLIN_OK) return st;
    }
    if (h->count) qsort(h->tensors, h->count, sizeof *h->tensors, by_offset);
    return check_cover(p);
}

marlin_status ml_safetensors_parse(const uint8_t *bytes, size_t len, uint64_t file_size, const char *where,
                                   struct ml_safetensors_header *out, struct marlin_error *err) {
    struct ml_json_doc *doc = NULL;
    uint64_t n;
    memset(out, 0, sizeof *out);
    ml_arena_init(&out->arena, (size_t)1 << 30);
    marlin_status st = ml_safetensors_header_length(bytes, len, file_size, where, &n, err);
    if (st != MARLIN_OK) return st;
    if (n > len - 8)
        return ml_fail(err, MARLIN_ERR_FORMAT, "%s: header of %llu bytes, %zu are there (offset 8)", where,
                       (unsigned long long)n, len - 8);
    const char *text = (const char *)bytes + 8;
    size_t used = (size_t)n;
    if (used == 0 || text[0] != '{')
        return ml_fail(err, MARLIN_ERR_FORMAT, "%s: the header does not start with { (offset 8)", where);
    while (text[used - 1] == ' ') {
        used--;
    }
    if (text[used - 1] != '}')
        return ml_fail(err, MARLIN_ERR_FORMAT, "%s: the header does not end with } (offset %zu)", where,
                       used + 7);
    const struct ml_json_limits limits = {.max_bytes = ML_SAFETENSORS_MAX_HEADER, .max_depth = 4};
    struct parse p = {.where = where, .data_len = file_size - 8 - n, .out = out, .err = err};
    st = ml_json_parse(text, used, &limits, &doc, err);
    if (st != MARLIN_OK) st = ml_fail_in(err, st, "%s: header", where);
    if (st == MARLIN_OK) st = parse_entries(&p, ml_json_root(doc));
    ml_json_free(doc);
    out->data_start = 8 + n;
    if (st != MARLIN_OK) ml_safetensors_header_free(out);
    return st;
}

void ml_safetensors_header_free(struct ml_safetensors_header *h) {
    ml_arena_free(&h->arena);
    memset(h, 0, sizeof *h);
}
