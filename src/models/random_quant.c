/* SPDX-License-Identifier: Apache-2.0
 *
 * Random quantized layers: every bit pattern is a tile, so bytes are copied from a ring of random ones.
 * Scales are random signs times one magnitude, such that weights have variance 1 / in.
 */
#include "base/checked.h"
#include "base/mem.h"
#include "base/rng.h"
#include "models/bind_int.h"
#include "packing/codes.h"

#include <math.h>
#include <string.h>

enum { RING = 65521, BLOCK = 1 << 20, HEAD_BITS = 6 }; /* RING is prime: see random.c */

static marlin_status make_ring(struct ml_binder *b, struct marlin_error *err) {
    struct ml_rng rng;
    b->bytes = ml_alloc(RING);
    if (!b->bytes) return ml_fail(err, MARLIN_ERR_MEMORY, "random weights: out of memory");
    ml_rng_seed(&rng, b->seed);
    for (size_t i = 0; i < RING; i++)
        b->bytes[i] = (uint8_t)(ml_rng_u64(&rng) >> 56);
    return MARLIN_OK;
}

struct fill {
    uint8_t *to;
    const uint8_t *ring;
    size_t bytes, seed;
};

static void fill_blocks(void *arg, size_t begin, size_t end, int worker) {
    const struct fill *f = arg;
    (void)worker;
    for (size_t block = begin; block < end; block++) {
        const size_t stop = f->bytes - block * BLOCK < BLOCK ? f->bytes : (block + 1) * BLOCK;
        size_t from = (f->seed + block * 7919) % RING;
        for (size_t at = block * BLOCK; at < stop;) {
            const size_t left = stop - at, run = left < RING - from ? left : RING - from;
            memcpy(f->to + at, f->ring + from, run);
            at += run;
            from = 0;
        }
    }
}

/* int8 rows have no -128. */
static void clear_lowest(int8_t *q, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (q[i] == INT8_MIN) q[i] = 0;
}

/* What the layer is stored as; sizes, bits and code. */
static void set_format(const struct ml_random_format *f, bool head, const struct ml_linear *l,
                       struct ml_quant_matrix *m) {
    *m = (struct ml_quant_matrix){.rows = l->out, .cols = l->in, .bits = head ? HEAD_BITS : f->bits};
    m->format = f->exl3 ? ML_QUANT_EXL3 : m->bits == 8 ? ML_QUANT_INT8 : ML_QUANT_TAP;
    m->n = m->format == ML_QUANT_INT8 ? l->out : ml_quant_padded(l->out);
    m->k = m->format == ML_QUANT_INT8 ? l->in : ml_quant_padded(l->in);
    m->codebook = ML_EXL3_MUL1;
    if (m->format == ML_QUANT_TAP)
        ml_quant_set_code(m, ml_tap_code_find((unsigned)m->bits, ML_TAP_WINDOW_NORMAL));
}

/* Values of a codebook have variance 1 or nearly so; bytes have 73.9^2. */
static void fill_scales(const struct ml_quant_matrix *m, float *su, float *sv, uint64_t seed) {
    const float size = 1.0f / sqrtf((float)m->cols);
    struct ml_rng rng;
    ml_rng_seed(&rng, seed);
    for (size_t i = 0; su && i < m->k; i++)
        su[i] = ml_rng_u64(&rng) >> 63 ? -size : size;
    for (size_t i = 0; i < m->n; i++) {
        const float one = m->format == ML_QUANT_INT8 ? size / 73.9f : 1.0f;
        sv[i] = ml_rng_u64(&rng) >> 63 ? -one : one;
    }
}

marlin_status ml_random_quant(struct ml_binder *b, struct ml_linear *l, struct marlin_error *err) {
    struct fill f = {0};
    float *su = NULL, *sv = NULL;
    void *data = NULL;
    marlin_status st;

    if (!b->bytes) ML_TRY(make_ring(b, err));
    ML_TRY(ml_bind_pieces(b, l, 1, err));
    struct ml_quant_matrix *m = &l->u.quant.pieces[0].m;
    set_format(&b->random, strcmp(l->name, "lm_head") == 0, l, m);
    if (!ml_mul_size(m->n, m->k, &f.bytes) || !ml_mul_size(f.bytes / 8, (size_t)m->bits, &f.bytes)) {
        st = ml_fail(err, MARLIN_ERR_LIMIT, "layer '%s': too large", l->name);
        goto out;
    }
    ML_TRY(ml_random_fits(b->m, f.bytes, err));
    ML_TRY(ml_model_own(b->m, f.bytes, &data, err));
    f.to = data;
    f.ring = b->bytes;
    f.seed = (size_t)(b->m->parameters % RING);
    const size_t blocks[] = {0, (f.bytes + BLOCK - 1) / BLOCK};
    ml_pool_for_runs(b->pool, blocks, 1, 1, fill_blocks, &f); /* written by those who will read it */
    if (m->format == ML_QUANT_INT8) clear_lowest(data, f.bytes);
    m->data = data;
    ML_TRY(ml_bind_scales(b, m->format == ML_QUANT_INT8 ? 0 : m->k, m->n, &su, &sv, err));
    fill_scales(m, m->format == ML_QUANT_INT8 ? NULL : su, sv, b->seed + b->m->parameters);
    m->su = m->format == ML_QUANT_INT8 ? NULL : su;
    m->sv = sv;
    ml_bind_account(b->m, m);
    ML_TRY(ml_bind_matrix_done(b, m, NULL, data, err));
out:
    return st;
}
