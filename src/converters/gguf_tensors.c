/* SPDX-License-Identifier: Apache-2.0
 *
 * The tensors of a GGUF file as a collection under Hugging Face names. Block types become float32: four bytes a
 * weight in memory, which is what they are exact in.
 */
#include "base/checked.h"
#include "base/mem.h"
#include "converters/gguf_int.h"
#include "converters/safetensors_int.h"

#include <stdio.h>
#include <string.h>

enum { ROWS_AT_ONCE = 8 };

/* How the data of one tensor of the collection is made of a stored one. */
struct ml_gguf_origin {
    const struct ml_gguf_tensor *from;
    uint64_t first; /* row of `from` */
    uint64_t rows, cols;
    uint64_t heads; /* rows of q or k are reordered inside each head; 0: they stay */
    bool minus_one;
    void *data; /* owned, once it is made; NULL: in the mapping */
};

struct making {
    struct ml_tensors *t;
    const struct ml_gguf_arch *arch;
    struct marlin_error *err;
};

static marlin_status no_memory(const struct making *m) {
    return ml_fail(m->err, MARLIN_ERR_MEMORY, "%s: out of memory", ml_gguf_path(m->t->gguf));
}

static bool is_as_stored(const struct ml_gguf_origin *p) {
    return !p->from->type->widen && p->heads == 0 && !p->minus_one;
}

static uint64_t row_bytes(const struct ml_gguf_origin *p) {
    return p->cols / p->from->type->block * p->from->type->bytes;
}

/* ---- what there is ---- */

static marlin_status bad(const struct making *m, const struct ml_gguf_tensor *from, const char *what) {
    return ml_fail(m->err, MARLIN_ERR_FORMAT, "%s: tensor \"%.120s\" %s (offset %llu)",
                   ml_file_path(from->file), from->name, what, (unsigned long long)from->offset);
}

static marlin_status count_heads(const struct making *m, const struct ml_gguf_name *name,
                                 struct ml_gguf_origin *p) {
    const struct ml_gguf *g = m->t->gguf;
    char key[96];
    int64_t heads = 0;
    (void)snprintf(key, sizeof key, "%s.attention.head_count%s", m->arch->name, name->keys ? "_kv" : "");
    const struct ml_gguf_value *v = ml_gguf_find(g, key);
    if (!v && name->keys) { /* one for each head */
        (void)snprintf(key, sizeof key, "%s.attention.head_count", m->arch->name);
        v = ml_gguf_find(g, key);
    }
    const marlin_status st = v ? ml_gguf_int(g, v, 0, &heads, m->err) : MARLIN_OK;
    if (st != MARLIN_OK) return st;
    if (p->from->rank == 1) { /* a bias: its numbers are what the rows are of a matrix */
        if (p->from->type->widen) return bad(m, p->from, "is a bias in a block type");
        p->rows = p->cols;
        p->cols = 1;
    }
    if (heads < 1 || p->rows % (uint64_t)heads || p->rows / (uint64_t)heads % 2)
        return bad(m, p->from, "does not have an even number of rows for each head");
    p->heads = (uint64_t)heads;
    return MARLIN_OK;
}

static void describe(const struct ml_gguf_origin *p, int rank, struct ml_tensor *out) {
    const struct ml_gguf_tensor *from = p->from;
    out->dtype = p->minus_one ? ML_F32 : from->type->plain;
    out->rank = rank;
    for (int i = 0; i < rank; i++)
        out->shape[i] = from->ne[rank - 1 - i];
    out->count = p->rows * p->cols; /* the parser checked the products */
    out->bytes = out->count * ml_dtype_size(out->dtype);
    out->offset = from->offset + p->first * row_bytes(p);
    out->file = from->file;
    out->stored = from->type->name;
    out->stored_bytes = p->rows * row_bytes(p);
    out->made = !is_as_stored(p);
    if (!out->made) out->data = ml_file_data(from->file) + out->offset;
}

static marlin_status add(const struct making *m, const char *name, const struct ml_gguf_origin *origin,
                         int rank) {
    struct ml_tensors *t = m->t;
    struct ml_safetensors_header *h = &t->headers[0];
    struct ml_tensor *to = &h->tensors[h->count];
    bool fresh = true;
    t->origins[h->count] = *origin;
    if (!(to->name = ml_arena_strndup(&h->arena, name, strlen(name)))) return no_memory(m);
    describe(origin, rank, to);
    h->count++;
    t->count++;
    if (ml_map_put(&t->by_name, to->name, strlen(to->name), (uint64_t)(uintptr_t)to, &fresh) != MARLIN_OK)
        return no_memory(m);
    return fresh ? MARLIN_OK : bad(m, origin->from, "is another's under its Hugging Face name");
}

static marlin_status add_experts(const struct making *m, const struct ml_gguf_name *name,
                                 const struct ml_gguf_tensor *from) {
    char text[ML_GGUF_MAX_NAME + 128];
    struct ml_gguf_origin origin = {.from = from, .rows = from->ne[1], .cols = from->ne[0]};
    marlin_status st = MARLIN_OK;
    for (uint64_t e = 0; e < from->ne[2] && st == MARLIN_OK; e++) {
        (void)snprintf(text, sizeof text, "%s%llu%s", name->text, (unsigned long long)e, name->suffix);
        origin.first = e * origin.rows;
        st = add(m, text, &origin, 2);
    }
    return st;
}

static marlin_status add_tensor(const struct making *m, const struct ml_gguf_tensor *from) {
    struct ml_gguf_name name;
    ml_gguf_name(m->arch, from->name, &name);
    if (!name.text[0]) return MARLIN_OK;
    if (name.experts) return add_experts(m, &name, from);
    struct ml_gguf_origin origin = {.from = from, .cols = from->ne[0], .rows = from->count / from->ne[0]};
    origin.minus_one = name.norm && m->arch->norm_plus;
    if (name.rotated && m->arch->paired) {
        const marlin_status st = count_heads(m, &name, &origin);
        if (st != MARLIN_OK) return st;
    }
    return add(m, name.text, &origin, from->rank);
}

/* Experts are stored together and stand in the collection one by one. */
static marlin_status count_origins(const struct making *m, size_t *out) {
    const struct ml_gguf *g = m->t->gguf;
    struct ml_gguf_name name;
    uint64_t n = 0;
    for (size_t f = 0; f < g->n_files; f++) {
        for (size_t i = 0; i < g->headers[f].n_tensors; i++) {
            const struct ml_gguf_tensor *from = &g->headers[f].tensors[i];
            ml_gguf_name(m->arch, from->name, &name);
            if (name.experts && from->rank != 3) return bad(m, from, "holds experts and has no 3 dimensions");
            if (!ml_add_u64(n, name.experts ? from->ne[2] : 1, &n) || n > ML_SAFETENSORS_MAX_TENSORS)
                return ml_fail(m->err, MARLIN_ERR_LIMIT, "%s: more than %d tensors with all experts",
                               ml_gguf_path(g), ML_SAFETENSORS_MAX_TENSORS);
        }
    }
    *out = (size_t)n;
    return MARLIN_OK;
}

static marlin_status make(const struct making *m) {
    struct ml_tensors *t = m->t;
    const struct ml_gguf *g = t->gguf;
    size_t n = 0;
    const marlin_status counted = count_origins(m, &n);
    if (counted != MARLIN_OK) return counted;
    t->files = ml_calloc(g->n_files, sizeof(struct ml_file *));
    t->headers = ml_calloc(g->n_files, sizeof *t->headers);
    t->origins = ml_calloc(n, sizeof *t->origins);
    if (!t->files || !t->headers || !t->origins) return no_memory(m);
    for (t->n_files = 0; t->n_files < g->n_files; t->n_files++)
        t->files[t->n_files] = g->files[t->n_files];
    ml_arena_init(&t->headers[0].arena, 0);
    t->headers[0].tensors = ml_arena_array(&t->headers[0].arena, n, sizeof *t->headers[0].tensors);
    if (!t->headers[0].tensors) return no_memory(m);
    for (size_t f = 0; f < g->n_files; f++) {
        for (size_t i = 0; i < g->headers[f].n_tensors; i++) {
            const marlin_status st = add_tensor(m, &g->headers[f].tensors[i]);
            if (st != MARLIN_OK) return st;
        }
    }
    return MARLIN_OK;
}

static void release(struct ml_tensors *t) {
    for (size_t i = 0; t->origins && t->headers && i < t->headers[0].count; i++)
        ml_free_aligned(t->origins[i].data);
    for (size_t f = 0; f < t->n_files; f++)
        ml_safetensors_header_free(&t->headers[f]);
    t->n_files = 0; /* the files are the reader's */
    ml_free(t->origins);
    ml_gguf_close(t->gguf);
}

marlin_status ml_tensors_open_gguf(const char *path, struct ml_tensors **out, struct marlin_error *err) {
    struct ml_tensors *t = ml_calloc(1, sizeof *t);
    struct making m = {.t = t, .err = err};
    marlin_status st;
    if (!t) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", path);
    ml_map_init(&t->by_name);
    t->release = release;
    ML_TRY(ml_gguf_open(path, &t->gguf, err));
    ML_TRY(ml_gguf_arch(t->gguf, &m.arch, err));
    st = make(&m);
out:
    if (st == MARLIN_OK)
        *out = t;
    else
        ml_tensors_close(t);
    return st;
}

/* ---- making data ---- */

struct widening {
    const struct ml_gguf_origin *origin;
    const struct ml_tensor *to;
    const uint8_t *source; /* its first row */
};

/* The stored row of row r: pairs (2 j, 2 j + 1) of a head's rows become (j, j + half). */
static uint64_t stored_row(const struct ml_gguf_origin *p, uint64_t r) {
    if (p->heads == 0) return r;
    const uint64_t dim = p->rows / p->heads, half = dim / 2, in = r % dim;
    return r - in + 2 * (in % half) + in / half;
}

static void widen_row(const struct ml_gguf_origin *p, const uint8_t *from, uint8_t *to, size_t to_bytes) {
    const struct ml_gguf_type *type = p->from->type;
    float *wide = (float *)(void *)to;
    if (type->widen) {
        for (uint64_t i = 0; i < p->cols / type->block; i++)
            type->widen(from + i * type->bytes, wide + i * type->block);
    } else if (p->minus_one) {
        ml_dtype_to_f32(type->plain, from, wide, (size_t)p->cols);
    } else {
        memcpy(to, from, to_bytes);
    }
    for (uint64_t i = 0; i < p->cols && p->minus_one; i++)
        wide[i] -= 1.0f;
}

static void widen_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct widening *w = arg;
    const size_t to_bytes = (size_t)w->origin->cols * ml_dtype_size(w->to->dtype);
    (void)worker;
    for (size_t r = begin; r < end; r++)
        widen_row(w->origin, w->source + stored_row(w->origin, r) * row_bytes(w->origin),
                  (uint8_t *)w->origin->data + r * to_bytes, to_bytes);
}

static marlin_status make_data(struct ml_gguf_origin *p, struct ml_tensor *to, struct ml_pool *pool,
                               struct marlin_error *err) {
    if (to->data) return MARLIN_OK;
    if (!(p->data = ml_alloc_aligned((size_t)to->bytes)))
        return ml_fail(err, MARLIN_ERR_MEMORY, "%s: tensor \"%.120s\": no memory for %llu bytes as %s",
                       ml_file_path(to->file), to->name, (unsigned long long)to->bytes,
                       ml_dtype_name(to->dtype));
    struct widening w = {.origin = p, .to = to, .source = ml_file_data(to->file) + to->offset};
    ml_pool_for(pool, (size_t)p->rows, ROWS_AT_ONCE, widen_rows, &w);
    ml_file_drop(to->file, to->offset, to->stored_bytes);
    to->data = p->data;
    return MARLIN_OK;
}

marlin_status ml_tensors_load(struct ml_tensors *t, struct ml_pool *pool, struct marlin_error *err) {
    struct ml_safetensors_header *h = t->gguf ? &t->headers[0] : NULL;
    for (size_t i = 0; h && i < h->count; i++) {
        const marlin_status st = make_data(&t->origins[i], &h->tensors[i], pool, err);
        if (st != MARLIN_OK) return st;
    }
    return ml_tensors_check(t, err);
}

marlin_status ml_tensors_load_one(struct ml_tensors *t, const struct ml_tensor *tensor, struct ml_pool *pool,
                                  struct marlin_error *err) {
    if (!t->gguf) return MARLIN_OK;
    const size_t i = (size_t)(tensor - t->headers[0].tensors);
    return make_data(&t->origins[i], &t->headers[0].tensors[i], pool, err);
}
