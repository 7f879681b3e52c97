/* SPDX-License-Identifier: Apache-2.0
 *
 * From quantized layers to named tensors, and from those to files.
 */
#include "quantization/job/parts.h"

#include "base/checked.h"
#include "base/fp.h"
#include "base/mem.h"
#include "packing/forms.h"
#include "packing/int8.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

enum { NAME = 512 };
static const char hash_key[] = "xxh3-64";

void ml_part_free(struct ml_part *p) {
    for (size_t i = 0; i < p->count; i++) {
        ml_free((char *)p->tensors[i].decl.name);
        ml_free(p->tensors[i].data);
    }
    for (size_t i = 0; i < 2 * p->n_metadata; i++) {
        ml_free(p->metadata[i]);
    }
    ml_free(p->tensors);
    ml_free(p->metadata);
    memset(p, 0, sizeof *p);
}

static marlin_status no_memory(const char *name, struct marlin_error *err) {
    return ml_fail(err, MARLIN_ERR_MEMORY, "tensor '%s': out of memory", name);
}

static bool grow(struct ml_part *p) {
    if (p->count < p->cap) return true;
    const size_t cap = p->cap ? 2 * p->cap : 16;
    struct ml_part_tensor *grown = ml_realloc(p->tensors, cap * sizeof *grown);
    if (!grown) return false;
    p->tensors = grown;
    p->cap = cap;
    return true;
}

marlin_status ml_part_add(struct ml_part *p, const char *name, enum ml_dtype dtype, int rank,
                          const uint64_t *shape, void *data, struct marlin_error *err) {
    char *copy = data && grow(p) ? ml_strdup(name) : NULL;
    if (!copy) {
        ml_free(data);
        return no_memory(name, err);
    }
    struct ml_part_tensor *t = &p->tensors[p->count++];
    *t = (struct ml_part_tensor){.decl = {.name = copy, .dtype = dtype, .rank = rank}, .data = data};
    t->bytes = ml_dtype_size(dtype);
    for (int i = 0; i < rank; i++) {
        t->decl.shape[i] = shape[i];
        t->bytes *= shape[i]; /* the data exists: its size is a size_t */
    }
    return MARLIN_OK;
}

marlin_status ml_part_note(struct ml_part *p, const char *key, const char *value, struct marlin_error *err) {
    char **grown = ml_realloc(p->metadata, (2 * p->n_metadata + 2) * sizeof *grown);
    if (!grown) return no_memory(key, err);
    p->metadata = grown;
    char *k = ml_strdup(key), *v = ml_strdup(value);
    if (!k || !v) {
        ml_free(k);
        ml_free(v);
        return no_memory(key, err);
    }
    grown[2 * p->n_metadata] = k;
    grown[2 * p->n_metadata + 1] = v;
    p->n_metadata++;
    return MARLIN_OK;
}

/* ---- quantized layers ---- */

static void *copy_bytes(const void *data, size_t n) {
    void *copy = ml_alloc(n);
    if (copy) memcpy(copy, data, n);
    return copy;
}

static marlin_status add_named(struct ml_part *p, const char *name, const char *suffix, enum ml_dtype dtype,
                               int rank, const uint64_t *shape, void *data, struct marlin_error *err) {
    char full[NAME];
    if ((size_t)snprintf(full, sizeof full, "%s.%s", name, suffix) >= sizeof full) {
        ml_free(data);
        return ml_fail(err, MARLIN_ERR_LIMIT, "tensor '%.80s...': the name is too long", name);
    }
    return ml_part_add(p, full, dtype, rank, shape, data, err);
}

/* Scales are exact in float16 (quantization/matrix/rotate.h). */
static marlin_status add_halves(struct ml_part *p, const char *name, const char *suffix, const float *v,
                                size_t n, struct marlin_error *err) {
    const uint64_t shape = n;
    uint16_t *half = ml_calloc(n, sizeof *half);
    for (size_t i = 0; half && i < n; i++) {
        half[i] = ml_f32_to_f16(v[i]);
    }
    return add_named(p, name, suffix, ML_F16, 1, &shape, half, err);
}

/* Tiles by output band become tiles by input band. */
static void *transpose_tiles(const struct ml_quantized_linear *q, const struct ml_codec *c) {
    const size_t bands = q->rotation.n / ML_TILE, per_band = q->rotation.k / ML_TILE;
    uint8_t *to = ml_alloc(q->n_bytes);
    for (size_t i = 0; to && i < bands; i++) {
        for (size_t j = 0; j < per_band; j++) {
            memcpy(to + (j * bands + i) * c->tile_bytes, q->bytes + (i * per_band + j) * c->tile_bytes,
                   c->tile_bytes);
        }
    }
    return to;
}

/* What decodes the tiles: the code's bytes, or the multiplier under its codebook's name. */
static marlin_status add_code(struct ml_part *p, const char *name, const struct ml_form *f,
                              const struct ml_codec *c, struct marlin_error *err) {
    uint8_t code[ML_TAP_CODE_MAX];
    if (f->code.suffix) {
        const uint64_t bytes = ml_tap_code_write(c->tap, code);
        return add_named(p, name, f->code.suffix, f->code.dtype, 1, &bytes, copy_bytes(code, (size_t)bytes),
                         err);
    }
    const uint32_t multiplier = ml_exl3_stored_multiplier(c->codebook);
    if (!multiplier) return MARLIN_OK;
    return add_named(p, name, ml_exl3_codebook_name(c->codebook), ML_I32, 0, NULL,
                     copy_bytes(&multiplier, sizeof multiplier), err);
}

marlin_status ml_part_add_linear(struct ml_part *p, const char *name, const struct ml_quantized_linear *q,
                                 const struct ml_codec *c, struct marlin_error *err) {
    const struct ml_form *f = ml_form_of(c->kind == ML_CODEC_TAP ? ML_QUANT_TAP : ML_QUANT_EXL3);
    const struct ml_rotation *r = &q->rotation;
    uint64_t shape[3];
    const int rank = ml_form_shape(f, r->n, r->k, c->bits, shape);
    void *tiles = f->by_inputs ? transpose_tiles(q, c) : copy_bytes(q->bytes, q->n_bytes);
    marlin_status st;
    ML_TRY(add_named(p, name, f->weights.suffix, f->weights.dtype, rank, shape, tiles, err));
    ML_TRY(add_code(p, name, f, c, err));
    ML_TRY(add_halves(p, name, f->in_scales.suffix, r->su, r->k, err));
    ML_TRY(add_halves(p, name, f->out_scales.suffix, r->sv, r->n, err));
out:
    return st;
}

/* lost += (w - scale q)^2, power += w^2 */
static void add_error(const float *w, const int8_t *q, float scale, size_t k, double *lost, double *power) {
    for (size_t i = 0; i < k; i++) {
        const double v = w[i], d = v - (double)scale * q[i];
        *lost += d * d;
        *power += v * v;
    }
}

static marlin_status pack_rows(const struct ml_matrix *w, float *row, int8_t *q, float *scale, double *error,
                               struct marlin_error *err) {
    const size_t step = w->stride * ml_dtype_size(w->dtype);
    double lost = 0, power = 0;
    for (size_t r = 0; r < w->rows; r++) {
        ml_dtype_to_f32(w->dtype, (const char *)w->data + r * step, row, w->cols);
        const marlin_status st = ml_int8_pack(row, w->cols, q + r * w->cols, &scale[r], err);
        if (st != MARLIN_OK) return ml_fail_in(err, st, "row %zu", r);
        add_error(row, q + r * w->cols, scale[r], w->cols, &lost, &power);
    }
    *error = power > 0 ? lost / power : 0;
    return MARLIN_OK;
}

marlin_status ml_part_add_int8(struct ml_part *p, const char *name, const struct ml_matrix *w, double *error,
                               struct marlin_error *err) {
    const struct ml_form *f = ml_form_of(ML_QUANT_INT8);
    const uint64_t shape[2] = {w->rows, w->cols};
    int8_t *q = ml_calloc(w->rows, w->cols);
    float *scale = ml_calloc(w->rows, sizeof *scale), *row = ml_calloc(w->cols, sizeof *row);
    marlin_status st;
    if (!q || !scale || !row) {
        st = no_memory(name, err);
        goto out;
    }
    ML_TRY(pack_rows(w, row, q, scale, error, err));
    st = add_named(p, name, f->weights.suffix, f->weights.dtype, 2, shape, q, err);
    q = NULL;
    if (st != MARLIN_OK) goto out;
    st = add_named(p, name, f->out_scales.suffix, f->out_scales.dtype, 1, shape, scale, err);
    scale = NULL;
out:
    ml_free(q);
    ml_free(scale);
    ml_free(row);
    return st;
}

/* ---- files ---- */

static marlin_status put_all(const struct ml_part *p, struct ml_tensors_writer *w, struct marlin_error *err) {
    for (size_t i = 0; i < p->count; i++) {
        const struct ml_part_tensor *t = &p->tensors[i];
        const marlin_status st = ml_tensors_writer_put(w, t->decl.name, t->data, t->bytes, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static void hash_text(uint64_t hash, char dst[17]) {
    (void)snprintf(dst, 17, "%016" PRIx64, hash);
}

/* Declarations and metadata in the form that the writer takes; the hash is one more pair. */
static marlin_status open_writer(const struct ml_part *p, const char *path, const char *hash,
                                 struct ml_tensors_writer **w, struct marlin_error *err) {
    struct ml_tensor_decl *decls = ml_calloc(p->count + 1, sizeof *decls);
    const char **metadata = ml_calloc(p->n_metadata + 1, 2 * sizeof *metadata);
    marlin_status st;
    if (!decls || !metadata) {
        st = no_memory(path, err);
        goto out;
    }
    for (size_t i = 0; i < p->count; i++) {
        decls[i] = p->tensors[i].decl;
    }
    for (size_t i = 0; i < 2 * p->n_metadata; i++) {
        metadata[i] = p->metadata[i];
    }
    metadata[2 * p->n_metadata] = hash_key;
    metadata[2 * p->n_metadata + 1] = hash;
    st = ml_tensors_writer_open(path, decls, p->count, metadata, p->n_metadata + 1, w, err);
out:
    ml_free(decls);
    ml_free((void *)metadata);
    return st;
}

marlin_status ml_part_write(const struct ml_part *p, const char *path, struct marlin_error *err) {
    struct ml_tensors_writer *w = NULL;
    uint64_t hash = 0;
    char hex[17];
    for (size_t i = 0; i < p->count; i++) {
        hash = XXH3_64bits_withSeed(p->tensors[i].data, (size_t)p->tensors[i].bytes, hash);
    }
    hash_text(hash, hex);
    marlin_status st = open_writer(p, path, hex, &w, err);
    if (st != MARLIN_OK) return st;
    st = put_all(p, w, err);
    if (st == MARLIN_OK) return ml_tensors_writer_commit(w, err);
    ml_tensors_writer_abort(w);
    return st;
}

marlin_status ml_part_open(const char *path, struct ml_tensors **out, struct marlin_error *err) {
    struct ml_tensors *t = NULL;
    uint64_t hash = 0;
    char hex[17];
    marlin_status st = ml_tensors_open_file(path, &t, err);
    if (st != MARLIN_OK) return st;
    for (size_t i = 0; i < ml_tensors_count(t); i++) {
        const struct ml_tensor *x = ml_tensors_at(t, i);
        hash = XXH3_64bits_withSeed(x->data, (size_t)x->bytes, hash);
    }
    hash_text(hash, hex);
    const char *wanted = ml_tensors_metadata(t, hash_key);
    if (!wanted || strcmp(wanted, hex) != 0)
        st = ml_fail(err, MARLIN_ERR_FORMAT, "%s: not what was written: checksum %s, wanted %s", path, hex,
                     wanted ? wanted : "none");
    if (st == MARLIN_OK)
        *out = t;
    else
        ml_tensors_close(t);
    return st;
}
