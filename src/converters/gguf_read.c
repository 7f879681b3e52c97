/* SPDX-License-Identifier: Apache-2.0
 *
 * The start of a GGUF file: magic, version, metadata, tensors. A pure function of bytes, so that the fuzzer can drive
 * it.
 */
#include "base/checked.h"
#include "converters/gguf_int.h"

#include <stdlib.h>
#include <string.h>

/* The least that one entry takes: a value has the length of its key, its kind and a byte; a tensor the length of
 * its name, its rank, its type and its offset. */
enum { LEAST_VALUE = 8 + 4 + 1, LEAST_TENSOR = 8 + 4 + 4 + 8, DEFAULT_ALIGNMENT = 32 };

struct parse {
    const uint8_t *bytes;
    uint64_t at, len, file_size, alignment;
    const char *where;
    struct ml_gguf_header *out;
    struct marlin_error *err;
};

static marlin_status bad(const struct parse *p, const char *what) {
    return ml_fail(p->err, MARLIN_ERR_FORMAT, "%s: %s (offset %llu)", p->where, what,
                   (unsigned long long)p->at);
}

static marlin_status no_memory(const struct parse *p) {
    return ml_fail(p->err, MARLIN_ERR_MEMORY, "%s: out of memory", p->where);
}

/* ---- numbers and strings ---- */

static marlin_status read_number(struct parse *p, unsigned bytes, uint64_t *out) {
    if (p->len - p->at < bytes) return bad(p, "the file ends inside its header: was the download cut off?");
    *out = 0;
    for (unsigned i = 0; i < bytes; i++)
        *out |= (uint64_t)p->bytes[p->at + i] << (8 * i);
    p->at += bytes;
    return MARLIN_OK;
}

static marlin_status read_u32(struct parse *p, uint32_t *out) {
    uint64_t wide = 0;
    const marlin_status st = read_number(p, 4, &wide);
    *out = (uint32_t)wide;
    return st;
}

static marlin_status read_string(struct parse *p, const char **text, uint64_t *len) {
    const marlin_status st = read_number(p, 8, len);
    if (st != MARLIN_OK) return st;
    if (*len > p->len - p->at) return bad(p, "a string is longer than the file");
    *text = (const char *)p->bytes + p->at;
    p->at += *len;
    return MARLIN_OK;
}

/* A name of 1 to `most` bytes without NUL, copied. */
static marlin_status read_name(struct parse *p, uint64_t most, const char *what, const char **out) {
    const char *text = NULL;
    uint64_t len;
    const marlin_status st = read_string(p, &text, &len);
    if (st != MARLIN_OK) return st;
    if (len == 0 || len > most || memchr(text, 0, (size_t)len)) return bad(p, what);
    *out = ml_arena_strndup(&p->out->arena, text, (size_t)len);
    return *out ? MARLIN_OK : no_memory(p);
}

/* ---- metadata ---- */

static unsigned kind_bytes(enum ml_gguf_kind kind) {
    static const uint8_t bytes[ML_GGUF_KINDS] = {
        [ML_GGUF_U8] = 1,  [ML_GGUF_I8] = 1,  [ML_GGUF_U16] = 2, [ML_GGUF_I16] = 2,
        [ML_GGUF_U32] = 4, [ML_GGUF_I32] = 4, [ML_GGUF_F32] = 4, [ML_GGUF_BOOL] = 1,
        [ML_GGUF_U64] = 8, [ML_GGUF_I64] = 8, [ML_GGUF_F64] = 8};
    return bytes[kind];
}

static marlin_status read_kind(struct parse *p, enum ml_gguf_kind *out) {
    uint32_t kind = 0;
    const marlin_status st = read_u32(p, &kind);
    if (st != MARLIN_OK) return st;
    if (kind >= ML_GGUF_KINDS)
        return ml_fail(p->err, MARLIN_ERR_FORMAT, "%s: a value of the unknown type %u (offset %llu)",
                       p->where, kind, (unsigned long long)p->at - 4);
    *out = (enum ml_gguf_kind)kind;
    return MARLIN_OK;
}

static marlin_status skip_strings(struct parse *p, uint64_t count) {
    const char *text;
    uint64_t len;
    for (uint64_t i = 0; i < count; i++) {
        const marlin_status st = read_string(p, &text, &len);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static marlin_status skip_items(struct parse *p, const struct ml_gguf_value *v) {
    uint64_t bytes;
    if (v->kind == ML_GGUF_STRING) return skip_strings(p, v->count);
    if (!ml_mul_u64(v->count, kind_bytes(v->kind), &bytes) || bytes > p->len - p->at)
        return bad(p, "an array is longer than the file");
    p->at += bytes;
    return MARLIN_OK;
}

static marlin_status keep_text(const struct parse *p, struct ml_gguf_value *v) {
    const char *text = (const char *)v->at + 8;
    const size_t len = (size_t)(v->end - v->at) - 8;
    if (memchr(text, 0, len)) return MARLIN_OK;
    v->text = ml_arena_strndup(&p->out->arena, text, len);
    return v->text ? MARLIN_OK : no_memory(p);
}

static marlin_status read_value(struct parse *p, struct ml_gguf_value *v) {
    marlin_status st;
    v->count = 1;
    ML_TRY(read_name(p, ML_GGUF_MAX_KEY, "a key is empty, too long or holds a NUL", &v->key));
    ML_TRY(read_kind(p, &v->kind));
    v->array = v->kind == ML_GGUF_ARRAY;
    if (v->array) {
        ML_TRY(read_kind(p, &v->kind));
        if (v->kind == ML_GGUF_ARRAY) return bad(p, "an array of arrays, which no known key has");
        ML_TRY(read_number(p, 8, &v->count));
    }
    v->at = p->bytes + p->at;
    v->offset = p->at;
    ML_TRY(skip_items(p, v));
    v->end = p->bytes + p->at;
    if (v->kind == ML_GGUF_STRING && !v->array) st = keep_text(p, v);
out:
    return st;
}

static marlin_status read_values(struct parse *p, uint64_t count) {
    struct ml_gguf_header *h = p->out;
    h->values = ml_arena_array(&h->arena, (size_t)count, sizeof *h->values);
    if (!h->values) return no_memory(p);
    while (h->n_values < count) {
        struct ml_gguf_value *v = &h->values[h->n_values];
        bool fresh = false;
        marlin_status st = read_value(p, v);
        if (st != MARLIN_OK) return st;
        if (ml_map_put(&h->keys, v->key, strlen(v->key), h->n_values++, &fresh) != MARLIN_OK)
            return no_memory(p);
        if (!fresh)
            return ml_fail(p->err, MARLIN_ERR_FORMAT, "%s: the key \"%.80s\" appears twice (offset %llu)",
                           p->where, v->key, (unsigned long long)v->offset);
    }
    return MARLIN_OK;
}

static marlin_status read_alignment(struct parse *p) {
    uint64_t index;
    static const char key[] = "general.alignment";
    p->alignment = DEFAULT_ALIGNMENT;
    if (!ml_map_get(&p->out->keys, key, strlen(key), &index)) return MARLIN_OK;
    const struct ml_gguf_value *v = &p->out->values[index];
    uint32_t alignment = 0;
    if (!v->array && v->kind == ML_GGUF_U32)
        for (int i = 3; i >= 0; i--)
            alignment = alignment << 8 | v->at[i];
    if (alignment < 8 || (alignment & (alignment - 1)))
        return ml_fail(p->err, MARLIN_ERR_FORMAT,
                       "%s: %s is not a uint32 that is a power of two from 8 up (offset %llu)", p->where, key,
                       (unsigned long long)v->offset);
    p->alignment = alignment;
    return MARLIN_OK;
}

/* ---- tensors ---- */

static marlin_status bad_tensor(const struct parse *p, const struct ml_gguf_tensor *t, const char *what) {
    return ml_fail(p->err, MARLIN_ERR_FORMAT, "%s: tensor \"%.120s\": %s (offset %llu)", p->where, t->name,
                   what, (unsigned long long)p->at);
}

static marlin_status read_shape(struct parse *p, struct ml_gguf_tensor *t) {
    uint32_t rank = 0;
    marlin_status st = read_u32(p, &rank);
    if (st != MARLIN_OK) return st;
    if (rank == 0 || rank > ML_GGUF_MAX_RANK) return bad_tensor(p, t, "a rank that is not 1 to 4");
    t->rank = (int)rank;
    t->count = 1;
    for (int i = 0; i < t->rank; i++) {
        st = read_number(p, 8, &t->ne[i]);
        if (st != MARLIN_OK) return st;
        if (t->ne[i] == 0 || t->ne[i] > INT64_MAX)
            return bad_tensor(p, t, "a dimension that is 0 or negative");
        if (!ml_mul_u64(t->count, t->ne[i], &t->count) || t->count > INT64_MAX)
            return bad_tensor(p, t, "the shape's product overflows");
    }
    return MARLIN_OK;
}

static marlin_status read_type(struct parse *p, struct ml_gguf_tensor *t) {
    uint32_t id = 0;
    uint64_t wide;
    const marlin_status st = read_u32(p, &id);
    if (st != MARLIN_OK) return st;
    t->type = ml_gguf_type_find(id);
    if (!t->type)
        return ml_fail(
            p->err, MARLIN_ERR_UNSUPPORTED,
            "%s: tensor \"%.120s\" has type %s (%u), which is not supported: use a file of a type such as "
            "Q4_K_M, Q8_0 or BF16 (offset %llu)",
            p->where, t->name, ml_gguf_type_name(id), id, (unsigned long long)p->at - 4);
    if (t->ne[0] % t->type->block)
        return bad_tensor(p, t, "the length of its rows is no multiple of its type's block");
    /* Four bytes an element is what loading may make of it. */
    if (!ml_mul_u64(t->count / t->type->block, t->type->bytes, &t->bytes) ||
        !ml_mul_u64(t->count, 4, &wide) || wide > INT64_MAX)
        return bad_tensor(p, t, "its size in bytes overflows");
    return MARLIN_OK;
}

static marlin_status read_tensor(struct parse *p, struct ml_gguf_tensor *t) {
    marlin_status st;
    ML_TRY(read_name(p, ML_GGUF_MAX_NAME, "a tensor's name is empty, longer than 200 bytes or holds a NUL",
                     &t->name));
    ML_TRY(read_shape(p, t));
    ML_TRY(read_type(p, t));
    ML_TRY(read_number(p, 8, &t->offset));
    if (t->offset % p->alignment) st = bad_tensor(p, t, "its data is not aligned as the file says");
out:
    return st;
}

static marlin_status read_tensors(struct parse *p, uint64_t count) {
    struct ml_gguf_header *h = p->out;
    h->tensors = ml_arena_array(&h->arena, (size_t)count, sizeof *h->tensors);
    if (!h->tensors) return no_memory(p);
    while (h->n_tensors < count) {
        const marlin_status st = read_tensor(p, &h->tensors[h->n_tensors]);
        if (st != MARLIN_OK) return st;
        h->n_tensors++;
    }
    return MARLIN_OK;
}

static marlin_status check_names(const struct parse *p) {
    const struct ml_gguf_header *h = p->out;
    struct ml_map seen;
    marlin_status st = MARLIN_OK;
    bool fresh = true;
    ml_map_init(&seen);
    for (size_t i = 0; i < h->n_tensors && st == MARLIN_OK; i++) {
        const struct ml_gguf_tensor *t = &h->tensors[i];
        if (ml_map_put(&seen, t->name, strlen(t->name), 0, &fresh) != MARLIN_OK)
            st = no_memory(p);
        else if (!fresh)
            st = bad_tensor(p, t, "its name appears twice");
    }
    ml_map_free(&seen);
    return st;
}

static int by_offset(const void *a, const void *b) {
    const struct ml_gguf_tensor *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Every tensor lies inside the file, and no two share a byte. */
static marlin_status place(const struct parse *p) {
    struct ml_gguf_header *h = p->out;
    const uint64_t room = h->data_start < p->file_size ? p->file_size - h->data_start : 0;
    uint64_t end = 0;
    if (h->n_tensors) qsort(h->tensors, h->n_tensors, sizeof *h->tensors, by_offset);
    for (size_t i = 0; i < h->n_tensors; i++) {
        struct ml_gguf_tensor *t = &h->tensors[i];
        if (t->offset < end) return bad_tensor(p, t, "its data overlaps another's");
        if (t->offset > room || t->bytes > room - t->offset)
            return ml_fail(
                p->err, MARLIN_ERR_FORMAT,
                "%s: tensor \"%.120s\" has %llu bytes at offset %llu, the file ends at %llu: was the "
                "download cut off?",
                p->where, t->name, (unsigned long long)t->bytes,
                (unsigned long long)(t->offset > INT64_MAX ? t->offset : t->offset + h->data_start),
                (unsigned long long)p->file_size);
        end = t->offset + t->bytes;
        t->offset += h->data_start;
    }
    return MARLIN_OK;
}

/* ---- all of it ---- */

static marlin_status read_version(struct parse *p) {
    uint32_t magic = 0, version = 0;
    marlin_status st = p->len < 8 ? MARLIN_ERR_FORMAT : read_u32(p, &magic);
    if (st != MARLIN_OK || magic != 0x46554747u)
        return ml_fail(p->err, MARLIN_ERR_FORMAT,
                       "%s: is not a GGUF file: it does not begin with GGUF (offset 0)", p->where);
    st = read_u32(p, &version);
    if (st != MARLIN_OK) return st;
    if (version >> 16 && !(version & 0xFFFF))
        return ml_fail(p->err, MARLIN_ERR_UNSUPPORTED,
                       "%s: is a big-endian GGUF file: use one in little-endian order (offset 4)", p->where);
    if (version != 2 && version != 3)
        return ml_fail(p->err, MARLIN_ERR_UNSUPPORTED,
                       "%s: version %u of GGUF is not supported: supported are 2 and 3 (offset 4)", p->where,
                       version);
    p->out->version = version;
    return MARLIN_OK;
}

static marlin_status read_count(struct parse *p, uint64_t least, uint64_t most, const char *what,
                                uint64_t *out) {
    const marlin_status st = read_number(p, 8, out);
    if (st != MARLIN_OK) return st;
    if (*out <= most && *out <= (p->len - p->at) / least) return MARLIN_OK;
    return ml_fail(p->err, *out > most ? MARLIN_ERR_LIMIT : MARLIN_ERR_FORMAT,
                   "%s: %llu %s, more than the %s (offset %llu)", p->where, (unsigned long long)*out, what,
                   *out > most ? "limit" : "file has room for", (unsigned long long)p->at - 8);
}

static marlin_status parse_all(struct parse *p) {
    uint64_t tensors = 0, values = 0, start;
    marlin_status st;
    ML_TRY(read_version(p));
    ML_TRY(read_count(p, LEAST_TENSOR, ML_GGUF_MAX_TENSORS, "tensors", &tensors));
    ML_TRY(read_count(p, LEAST_VALUE, ML_GGUF_MAX_VALUES, "values", &values));
    ML_TRY(read_values(p, values));
    ML_TRY(read_alignment(p));
    ML_TRY(read_tensors(p, tensors));
    ML_TRY(check_names(p));
    if (!ml_add_u64(p->at, p->alignment - 1, &start)) return bad(p, "the header's end overflows");
    p->out->data_start = start & ~(p->alignment - 1);
    st = place(p);
out:
    return st;
}

marlin_status ml_gguf_parse(const uint8_t *bytes, uint64_t len, uint64_t file_size, const char *where,
                            struct ml_gguf_header *out, struct marlin_error *err) {
    struct parse p = {
        .bytes = bytes, .len = len, .file_size = file_size, .where = where, .out = out, .err = err};
    memset(out, 0, sizeof *out);
    ml_arena_init(&out->arena, (size_t)1 << 30);
    ml_map_init(&out->keys);
    const marlin_status st = parse_all(&p);
    if (st != MARLIN_OK) ml_gguf_header_free(out);
    return st;
}

void ml_gguf_header_free(struct ml_gguf_header *h) {
    ml_map_free(&h->keys);
    ml_arena_free(&h->arena);
    memset(h, 0, sizeof *h);
}
