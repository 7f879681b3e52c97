/* SPDX-License-Identifier: Apache-2.0
 *
 * EXL3 layers. K and codebook are each layer's own; sizes are padded to 128; wide feed-forward layers are cut
 * into slices that are layers of their own.
 *
 *     P.trellis  I16 [k / 16, n / 16, 16 K]     P.suh F16 [k], P.svh F16 [n]: scales with signs
 *     P.mcg or P.mul1: the codebook; neither: 3INST
 *     P.su I16 [k / 16], P.sv I16 [n / 16]      older files: signs alone, 1 = minus, lowest bit first
 *     P.bias [n]                                 optional
 *     P.slice.0.trellis ...                      instead of P.trellis
 */
#include "base/log.h"
#include "base/mem.h"
#include "models/forms/forms.h"

#include <stdio.h>
#include <string.h>

enum { SIDE = ML_EXL3_SIDE, MAX_SLICES = 4096 };

static const uint64_t max_tiles = UINT64_C(1) << 40; /* along one side; more passes every address space */
static const unsigned floats = 1u << ML_F16 | 1u << ML_BF16 | 1u << ML_F32;

/* Where a piece's tensors go. */
struct piece {
    struct ml_linear *l;
    struct ml_quant_piece *p;
    const char *name; /* of the layer, or of a slice */
    float *bias;      /* [l->out] of the layer's pieces; NULL until one has a bias */
};

static const struct ml_form *exl3(void) {
    return ml_form_of(ML_QUANT_EXL3);
}

/* ---- one stored matrix ---- */

/* Type, rank and bits of the tiles; padded sizes go to m->n and m->k. rows and cols are those of the whole
 * layer, of which a slice has less. */
static marlin_status bind_tiles(struct ml_binder *b, struct ml_linear *l, const char *name,
                                struct ml_quant_matrix *m, const struct ml_tensor **out,
                                struct marlin_error *err) {
    struct ml_want want = {.dtype = exl3()->weights.dtype, .rows = l->out, .cols = l->in};
    const struct ml_tensor *t = NULL;
    marlin_status st;

    ML_TRY(ml_bind_tensor(b, l, name, exl3()->weights.suffix, &want, &t, err));
    m->bits = ml_form_bits(exl3(), t->dtype, t->rank, t->shape);
    if (m->bits == 0 || t->shape[0] > max_tiles || t->shape[1] > max_tiles) {
        char what[192], shape[128];
        (void)snprintf(what, sizeof(what),
                       "has shape %s: [k / 16, n / 16, 16 K] with K from 1 to 8 is needed",
                       ml_tensor_shape_text(t, shape));
        st = ml_bind_bad(t, what, err);
        goto out;
    }
    m->k = (size_t)t->shape[0] * SIDE;
    m->n = (size_t)t->shape[1] * SIDE;
    m->data = t->data;
    *out = t;
out:
    return st;
}

static marlin_status check_size(const struct ml_tensor *t, const struct ml_quant_matrix *m,
                                struct marlin_error *err) {
    uint64_t wanted[3];
    const int rank = ml_form_shape(exl3(), ml_form_padded(exl3(), m->rows), ml_form_padded(exl3(), m->cols),
                                   m->bits, wanted);
    return ml_bind_check_shape(t, rank, wanted, err);
}

static marlin_status check_flag(struct ml_binder *b, struct piece *x, enum ml_exl3_codebook cb, bool *found,
                                struct marlin_error *err) {
    const char *part = ml_exl3_codebook_name(cb);
    const uint32_t usual = ml_exl3_stored_multiplier(cb);
    struct ml_want want = {.dtype = ML_I32};
    const struct ml_tensor *t = NULL;
    uint32_t value = 0;
    marlin_status st = MARLIN_OK;

    *found = ml_bind_has_part(b, x->name, part);
    if (!*found) return st;
    ML_TRY(ml_bind_tensor(b, x->l, x->name, part, &want, &t, err));
    if (t->count != 1) {
        st = ml_bind_bad(t, "is not a single number", err);
        goto out;
    }
    memcpy(&value, t->data, sizeof(value));
    if (value != usual && !b->warned) {
        ml_log(
            ML_LOG_WARN,
            "tensor '%s' holds the multiplier 0x%08x; as the format has it, 0x%08x is used, which is wrong "
            "for files of its earliest days (%s)",
            t->name, value, usual, ml_file_path(t->file));
        b->warned = true;
    }
out:
    return st;
}

static marlin_status bind_codebook(struct ml_binder *b, struct piece *x, struct marlin_error *err) {
    bool mcg = false, mul1 = false;
    marlin_status st;

    ML_TRY(check_flag(b, x, ML_EXL3_MCG, &mcg, err));
    ML_TRY(check_flag(b, x, ML_EXL3_MUL1, &mul1, err));
    if (mcg && mul1) {
        st = ml_fail(err, MARLIN_ERR_FORMAT, "layer '%s' has two codebooks: both .mcg and .mul1", x->name);
        goto out;
    }
    x->p->m.codebook = mcg ? ML_EXL3_MCG : mul1 ? ML_EXL3_MUL1 : ML_EXL3_3INST;
out:
    return st;
}

/* ---- scales ---- */

static marlin_status read_signs(struct ml_binder *b, struct piece *x, const char *part, size_t n, float *to,
                                struct marlin_error *err) {
    struct ml_want want = {.dtype = ML_I16, .rank = 1, .shape = {n / SIDE}};
    const struct ml_tensor *t = NULL;
    marlin_status st;

    ML_TRY(ml_bind_tensor(b, x->l, x->name, part, &want, &t, err));
    for (size_t i = 0; to && i < n; i++)
        to[i] = t->data[i / 8] >> i % 8 & 1 ? -1.0f : 1.0f;
out:
    return st;
}

static marlin_status read_side(struct ml_binder *b, struct piece *x, const struct ml_form_part *scales,
                               const char *signs, size_t n, float *to, struct marlin_error *err) {
    if (!ml_bind_has_part(b, x->name, scales->suffix) && ml_bind_has_part(b, x->name, signs))
        return read_signs(b, x, signs, n, to, err);
    return ml_bind_scales(b, x->l, x->name, scales, floats, n, to, err);
}

/* ---- biases: those of pieces are summed where their outputs are ---- */

static marlin_status bind_bias(struct ml_binder *b, struct piece *x, struct marlin_error *err) {
    static const struct ml_form_part part = {"bias", ML_F16};
    const struct ml_quant_piece *p = x->p;
    struct ml_linear *l = x->l;
    float *padded = ml_alloc(p->m.n * sizeof(*padded));
    marlin_status st;

    if (padded && !x->bias) x->bias = ml_arena_array(&b->m->arena, l->out, sizeof(float));
    if (!padded || !x->bias) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "tensor '%s.bias': out of memory", x->name);
        goto out;
    }
    if (!l->bias) {
        b->m->parameters += l->out;
        b->m->weight_bytes += l->out * sizeof(float);
    }
    l->bias = x->bias;
    ML_TRY(ml_bind_scales(b, NULL, x->name, &part, floats, p->m.n, padded, err));
    for (size_t i = 0; i < p->m.rows; i++)
        x->bias[p->row + i] += padded[i];
out:
    ml_free(padded);
    return st;
}

/* Everything of a piece but its place and its true sizes, which are set, and its tiles t. */
static marlin_status bind_piece(struct ml_binder *b, struct piece *x, const struct ml_tensor *t,
                                struct marlin_error *err) {
    struct ml_quant_matrix *m = &x->p->m;
    float *su, *sv;
    marlin_status st;

    ML_TRY(check_size(t, m, err));
    ML_TRY(bind_codebook(b, x, err));
    ML_TRY(ml_bind_scale_memory(b, m->k, m->n, &su, &sv, err));
    ML_TRY(read_side(b, x, &exl3()->in_scales, "su", m->k, su, err));
    ML_TRY(read_side(b, x, &exl3()->out_scales, "sv", m->n, sv, err));
    m->su = su;
    m->sv = sv;
    if (ml_bind_has_part(b, x->name, "bias")) ML_TRY(bind_bias(b, x, err));
    ml_bind_account(b->m, m);
    ML_TRY(ml_bind_matrix_done(b, m, t, err));
out:
    return st;
}

/* ---- slices ---- */

static void slice_name(const char *name, size_t s, char dst[ML_BIND_NAME]) {
    char part[32];
    (void)snprintf(part, sizeof(part), "slice.%zu", s);
    ml_names_join(name, part, dst);
}

static size_t count_slices(const struct ml_binder *b, const char *name) {
    char slice[ML_BIND_NAME];
    size_t n = 0;
    do
        slice_name(name, n, slice);
    while (ml_bind_has_part(b, slice, exl3()->weights.suffix) && ++n < MAX_SLICES);
    return n;
}

/* Places slice s, of padded sizes n and k, behind `done` rows or columns: all but the last are as wide as
 * their tiles. */
static marlin_status place_slice(const struct ml_linear *l, struct ml_quant_piece *p, bool by_rows, bool last,
                                 size_t *done, struct marlin_error *err) {
    const size_t whole = by_rows ? l->out : l->in, width = by_rows ? p->m.n : p->m.k;
    const size_t take = last ? whole - *done : width;
    if (take == 0 || take > whole - *done || (!last && take == whole - *done)) {
        return ml_fail(err, MARLIN_ERR_FORMAT,
                       "layer '%s': its slices do not add up to the %zu channels that config.json asks for",
                       l->name, whole);
    }
    p->row = by_rows ? *done : 0;
    p->col = by_rows ? 0 : *done;
    p->m.rows = by_rows ? take : l->out;
    p->m.cols = by_rows ? l->in : take;
    *done += take;
    return MARLIN_OK;
}

static marlin_status bind_slices(struct ml_binder *b, struct ml_linear *l, struct marlin_error *err) {
    const size_t n = count_slices(b, l->name);
    char name[ML_BIND_NAME];
    struct piece x = {.l = l, .name = name};
    size_t done = 0;
    bool by_rows = false;
    marlin_status st;

    ML_TRY(ml_bind_pieces(b, l, n, err));
    for (size_t s = 0; s < n; s++) {
        const struct ml_tensor *t = NULL;
        x.p = &l->u.quant.pieces[s];
        x.p->m.format = ML_QUANT_EXL3;
        slice_name(l->name, s, name);
        ML_TRY(bind_tiles(b, l, name, &x.p->m, &t, err));
        if (s == 0) by_rows = x.p->m.n != ml_form_padded(exl3(), l->out);
        ML_TRY(place_slice(l, x.p, by_rows, s + 1 == n, &done, err));
        ML_TRY(bind_piece(b, &x, t, err));
    }
    if (n > 1 && !by_rows && l->out > b->m->sum_rows) b->m->sum_rows = l->out;
out:
    return st;
}

/* A layer whose weights were asked for and are there is stored whole, unless its first slice is there. */
static bool is_sliced(const struct ml_binder *b, const char *name) {
    char slice[ML_BIND_NAME];
    slice_name(name, 0, slice);
    return ml_bind_has_part(b, slice, exl3()->weights.suffix) &&
           !ml_bind_has_part(b, name, exl3()->weights.suffix);
}

marlin_status ml_form_bind_exl3(struct ml_binder *b, struct ml_linear *l, struct marlin_error *err) {
    struct piece x = {.l = l, .name = l->name};
    const struct ml_tensor *t = NULL;
    marlin_status st;

    if (is_sliced(b, l->name)) {
        st = bind_slices(b, l, err);
        goto out;
    }
    ML_TRY(ml_bind_pieces(b, l, 1, err));
    x.p = &l->u.quant.pieces[0];
    x.p->m.format = ML_QUANT_EXL3;
    x.p->m.rows = l->out;
    x.p->m.cols = l->in;
    ML_TRY(bind_tiles(b, l, l->name, &x.p->m, &t, err));
    ML_TRY(bind_piece(b, &x, t, err));
out:
    return st;
}
