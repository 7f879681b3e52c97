/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized model directories for tests: a fixture whose layers are replaced by random tiles and scales, and
 * beside it the plain model of the weights that those stand for.
 */
#ifndef MARLIN_TESTS_MAKE_QUANT_H
#define MARLIN_TESTS_MAKE_QUANT_H

#include "base/arena.h"
#include "base/fp.h"
#include "base/rng.h"
#include "make_model.h"
#include "packing/codes.h"

#include <math.h>

/* What one matrix is stored as. */
struct mq_format {
    enum ml_quant_format format;
    int bits;
    enum ml_exl3_codebook codebook;
    bool signs; /* EXL3: packed signs instead of scales */
};

struct mq {
    struct make quant, plain;
    struct ml_arena arena; /* bytes of tensors, until make_write */
    struct ml_rng rng;
};

static inline void mq_begin(struct mq *s, const char *fixture) {
    make_begin(&s->quant, fixture);
    make_begin(&s->plain, fixture);
    ml_arena_init(&s->arena, 0);
    ml_rng_seed(&s->rng, 5);
}

static inline void mq_end(struct mq *s) {
    make_end(&s->quant);
    make_end(&s->plain);
    ml_arena_free(&s->arena);
}

static inline void *mq_alloc(struct mq *s, size_t bytes) {
    void *p = ml_arena_alloc(&s->arena, bytes);
    assert_non_null(p);
    return p;
}

static inline uint8_t *mq_noise(struct mq *s, size_t bytes) {
    uint8_t *p = mq_alloc(s, bytes);
    for (size_t i = 0; i < bytes; i++)
        p[i] = (uint8_t)(ml_rng_u64(&s->rng) >> 40);
    return p;
}

static inline void mq_add(struct make *k, const char *name, const char *part, enum ml_dtype dtype, int rank,
                          const uint64_t *shape, const void *data) {
    char full[MAKE_NAME];
    (void)snprintf(full, sizeof(full), "%s.%s", name, part);
    make_add(k, full, dtype, rank, shape, data);
}

/* n scales of either sign around `size`, of binary16 values; stored as "NAME.PART". */
static inline float *mq_scales(struct mq *s, const char *name, const char *part, size_t n, float size) {
    float *v = mq_alloc(s, n * sizeof(*v));
    uint16_t *h = mq_alloc(s, n * sizeof(*h));
    const uint64_t shape = n;
    for (size_t i = 0; i < n; i++) {
        const float sign = ml_rng_u64(&s->rng) >> 63 ? -size : size;
        h[i] = ml_f32_to_f16(sign * (0.5f + (float)ml_rng_double(&s->rng)));
        v[i] = ml_f16_to_f32(h[i]);
    }
    mq_add(&s->quant, name, part, ML_F16, 1, &shape, h);
    return v;
}

static inline float *mq_signs(struct mq *s, const char *name, const char *part, size_t n) {
    float *v = mq_alloc(s, n * sizeof(*v));
    uint16_t *words = mq_alloc(s, n / 16 * sizeof(*words));
    const uint64_t shape = n / 16;
    for (size_t i = 0; i < n; i++) {
        const unsigned minus = (unsigned)(ml_rng_u64(&s->rng) >> 63);
        words[i / 16] = (uint16_t)(words[i / 16] | minus << i % 16);
        v[i] = minus ? -1.0f : 1.0f;
    }
    mq_add(&s->quant, name, part, ML_I16, 1, &shape, words);
    return v;
}

static inline void mq_put_tap(struct mq *s, const char *name, struct ml_quant_matrix *m) {
    uint8_t *code = mq_alloc(s, ML_TAP_CODE_MAX);
    ml_quant_set_code(m, ml_tap_code_find((unsigned)m->bits, ML_TAP_WINDOW_NORMAL));
    assert_non_null(m->code);
    const uint64_t code_bytes = ml_tap_code_write(m->code, code);
    const uint64_t shape[3] = {m->n / 16, m->k / 16, 32 * (uint64_t)m->bits};
    mq_add(&s->quant, name, "tap", ML_U8, 3, shape, m->data);
    mq_add(&s->quant, name, "tap_code", ML_U8, 1, &code_bytes, code);
    m->su = mq_scales(s, name, "in_scales", m->k, 1 / sqrtf((float)m->cols));
    m->sv = mq_scales(s, name, "out_scales", m->n, 1);
}

static inline void mq_put_exl3(struct mq *s, const char *name, struct ml_quant_matrix *m, bool signs) {
    static const int32_t mcg = (int32_t)0xcbac1fedu, mul1 = (int32_t)0x83dcd12du;
    const uint64_t shape[3] = {m->k / 16, m->n / 16, 16 * (uint64_t)m->bits};
    mq_add(&s->quant, name, "trellis", ML_I16, 3, shape, m->data);
    if (m->codebook == ML_EXL3_MCG) mq_add(&s->quant, name, "mcg", ML_I32, 0, NULL, &mcg);
    if (m->codebook == ML_EXL3_MUL1) mq_add(&s->quant, name, "mul1", ML_I32, 0, NULL, &mul1);
    m->su =
        signs ? mq_signs(s, name, "su", m->k) : mq_scales(s, name, "suh", m->k, 1 / sqrtf((float)m->cols));
    m->sv = signs ? mq_signs(s, name, "sv", m->n) : mq_scales(s, name, "svh", m->n, 1);
}

static inline void mq_put_int8(struct mq *s, const char *name, struct ml_quant_matrix *m) {
    const uint64_t shape[2] = {m->rows, m->cols}, rows = m->rows;
    float *scales = mq_alloc(s, m->rows * sizeof(*scales));
    int8_t *q = mq_alloc(s, m->rows * m->cols);
    for (size_t i = 0; i < m->rows * m->cols; i++)
        q[i] = (int8_t)(m->data[i] == 0x80 ? 0 : m->data[i]);
    for (size_t i = 0; i < m->rows; i++)
        scales[i] = (0.5f + (float)ml_rng_double(&s->rng)) / (74 * sqrtf((float)m->cols));
    m->data = (const uint8_t *)q;
    m->sv = scales;
    mq_add(&s->quant, name, "int8", ML_I8, 2, shape, q);
    mq_add(&s->quant, name, "row_scales", ML_F32, 1, &rows, scales);
}

/* Stores a random matrix as NAME; returns its weights [rows, cols]. */
static inline float *mq_store(struct mq *s, const char *name, struct mq_format f, size_t rows, size_t cols) {
    const bool int8 = f.format == ML_QUANT_INT8;
    struct ml_quant_matrix m = {
        .format = f.format, .bits = f.bits, .codebook = f.codebook, .rows = rows, .cols = cols};
    m.n = ml_form_padded(ml_form_of(m.format), rows);
    m.k = ml_form_padded(ml_form_of(m.format), cols);
    m.data = mq_noise(s, m.n * m.k / 8 * (size_t)m.bits);
    if (int8)
        mq_put_int8(s, name, &m);
    else if (f.format == ML_QUANT_TAP)
        mq_put_tap(s, name, &m);
    else
        mq_put_exl3(s, name, &m, f.signs);
    float *w = mq_alloc(s, rows * cols * sizeof(*w));
    assert_int_equal(ml_quant_restore(&m, w, NULL), MARLIN_OK);
    return w;
}

static inline void mq_add_plain(struct mq *s, const char *name, size_t rows, size_t cols, const float *w) {
    const uint64_t shape[2] = {rows, cols};
    mq_add(&s->plain, name, "weight", ML_F32, 2, shape, w);
}

static inline void mq_drop(struct mq *s, const char *tensor) {
    make_drop(&s->quant, tensor);
    make_drop(&s->plain, tensor);
}

/* A layer that neither directory has yet. */
static inline void mq_new(struct mq *s, const char *name, struct mq_format f, size_t rows, size_t cols) {
    mq_add_plain(s, name, rows, cols, mq_store(s, name, f, rows, cols));
}

/* NAME.weight of the fixture gives way to a random matrix of the same shape. */
static inline void mq_replace(struct mq *s, const char *name, struct mq_format f) {
    char tensor[MAKE_NAME];
    (void)snprintf(tensor, sizeof(tensor), "%s.weight", name);
    const struct ml_tensor_decl *d = &s->quant.decls[make_find(&s->quant, tensor)];
    const size_t rows = (size_t)d->shape[0], cols = (size_t)d->shape[1];
    mq_drop(s, tensor);
    mq_new(s, name, f, rows, cols);
}

/* Every linear layer but routers, norms and the embedding; formats in turn. */
static inline void mq_replace_all(struct mq *s, const struct mq_format *formats, size_t n) {
    char names[MAKE_TENSORS][MAKE_NAME];
    size_t count = 0;
    for (size_t i = 0; i < s->quant.n; i++) {
        const char *name = s->quant.names[i];
        const size_t len = strlen(name);
        const bool weight = len > 12 && strcmp(name + len - 12, "_proj.weight") == 0;
        const bool expert = strstr(name, ".experts.") && s->quant.decls[i].rank == 2;
        if (!weight && !expert) continue;
        (void)snprintf(names[count++], MAKE_NAME, "%.*s", (int)(len - 7), name);
    }
    for (size_t i = 0; i < count; i++)
        mq_replace(s, names[i], formats[i % n]);
}

static inline struct ml_model *mq_load(const char *dir, bool exact) {
    const struct ml_model_options options = {.kv_dtype = ML_F32, .exact = exact};
    struct marlin_error err;
    struct ml_model *m = NULL;
    if (ml_model_load(dir, &options, &m, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return m;
}

#endif
