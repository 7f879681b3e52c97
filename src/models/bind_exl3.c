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
#include "models/bind_int.h"

#include "base/log.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

enum { SIDE = ML_EXL3_SIDE, MAX_SLICES = 4096 };

static const uint64_t max_tiles = UINT64_C(1) << 40; /* along one side; more passes every address space */

static void part_name(const char *name, const char *part, char dst[ML_BIND_NAME]) {
    const int n = snprintf(dst, ML_BIND_NAME, "%s.%s", name, part);
    if (n >= ML_BIND_NAME) dst[0] = '\0'; /* longer than the name of any tensor: not found, not another's */
}

static bool has_part(const struct ml_binder *b, const char *name, const char *part) {
    char tensor[ML_BIND_NAME];
    part_name(name, part, tensor);
    return ml_bind_has(b, tensor);
}

static marlin_status part_tensor(struct ml_binder *b, const char *name, const char *part,
                                 const struct ml_tensor **out, struct marlin_error *err) {
    char tensor[ML_BIND_NAME];
    part_name(name, part, tensor);
    return ml_bind_tensor(b, tensor, out, err);
}

bool ml_bind_is_exl3(const struct ml_binder *b, const char *name) {
    return has_part(b, name, "trellis") || has_part(b, name, "slice.0.trellis");
}

/* ---- one stored matrix ---- */

/* Type, rank and bits of the tiles; padded sizes go to m->n and m->k. */
static marlin_status bind_tiles(struct ml_binder *b, const char *name, struct ml_quant_matrix *m,
                                const struct ml_tensor **out, struct marlin_error *err) {
    const struct ml_tensor *t = NULL;
    marlin_status st;

    ML_TRY(part_tensor(b, name, "trellis", &t, err));
    ML_TRY(ml_bind_check_type(t, ML_I16, err));
    const uint64_t last = t->rank == 3 ? t->shape[2] : 0;
    if (last % SIDE != 0 || last / SIDE < ML_EXL3_MIN_BITS || last / SIDE > ML_EXL3_MAX_BITS ||
        t->shape[0] > max_tiles || t->shape[1] > max_tiles) {
        char what[192], shape[128];
        (void)snprintf(what, sizeof(what),
                       "has shape %s: [k / 16, n / 16, 16 K] with K from 1 to 8 is needed",
                       ml_tensor_shape_text(t, shape));
        st = ml_bind_bad(t, what, err);
        goto out;
    }
    m->bits = (int)(last / SIDE);
    m->k = (size_t)t->shape[0] * SIDE;
    m->n = (size_t)t->shape[1] * SIDE;
    m->data = t->data;
    *out = t;
out:
    return st;
}

static marlin_status check_size(const struct ml_tensor *t, const struct ml_quant_matrix *m,
                                struct marlin_error *err) {
    const uint64_t wanted[3] = {ml_quant_padded(m->cols) / SIDE, ml_quant_padded(m->rows) / SIDE,
                                (uint64_t)m->bits * SIDE};
    return ml_bind_check_shape(t, 3, wanted, err);
}

static marlin_status check_flag(struct ml_binder *b, const char *name, const char *part, uint32_t usual,
                                bool *found, struct marlin_error *err) {
    const struct ml_tensor *t = NULL;
    uint32_t value = 0;
    marlin_status st = MARLIN_OK;

    *found = has_part(b, name, part);
    if (!*found) return st;
    ML_TRY(part_tensor(b, name, part, &t, err));
    ML_TRY(ml_bind_check_type(t, ML_I32, err));
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

static marlin_status bind_codebook(struct ml_binder *b, const char *name, enum ml_exl3_codebook *out,
                                   struct marlin_error *err) {
    bool mcg = false, mul1 = false;
    marlin_status st;

    ML_TRY(check_flag(b, name, "mcg", 0xcbac1fedu, &mcg, err));
    ML_TRY(check_flag(b, name, "mul1", 0x83dcd12du, &mul1, err));
    if (mcg && mul1) {
        st = ml_fail(err, MARLIN_ERR_FORMAT, "layer '%s' has two codebooks: both .mcg and .mul1", name);
        goto out;
    }
    *out = mcg ? ML_EXL3_MCG : mul1 ? ML_EXL3_MUL1 : ML_EXL3_3INST;
out:
    return st;
}

/* ---- scales ---- */

static marlin_status read_vector(const struct ml_tensor *t, size_t n, float *to, struct marlin_error *err) {
    const uint64_t shape = n;
    marlin_status st;

    if (t->dtype != ML_F16 && t->dtype != ML_BF16 && t->dtype != ML_F32) {
        st = ml_bind_check_type(t, ML_F16, err);
        goto out;
    }
    ML_TRY(ml_bind_check_shape(t, 1, &shape, err));
    if (!to) goto out;
    ML_TRY(ml_tensor_to_f32(t, to, n, err));
    st = ml_bind_finite(t, to, n, err);
out:
    return st;
}

static marlin_status read_signs(const struct ml_tensor *t, size_t n, float *to, struct marlin_error *err) {
    const uint64_t shape = n / SIDE;
    marlin_status st;

    ML_TRY(ml_bind_check_type(t, ML_I16, err));
    ML_TRY(ml_bind_check_shape(t, 1, &shape, err));
    for (size_t i = 0; to && i < n; i++)
        to[i] = t->data[i / 8] >> i % 8 & 1 ? -1.0f : 1.0f;
out:
    return st;
}

static marlin_status read_side(struct ml_binder *b, const char *name, const char *scales, const char *signs,
                               size_t n, float *to, struct marlin_error *err) {
    const bool old = !has_part(b, name, scales) && has_part(b, name, signs);
    const struct ml_tensor *t = NULL;
    const marlin_status st = part_tensor(b, name, old ? signs : scales, &t, err);
    if (st != MARLIN_OK) return st;
    return old ? read_signs(t, n, to, err) : read_vector(t, n, to, err);
}

/* ---- biases: those of pieces are summed where their outputs are ---- */

static marlin_status bind_bias(struct ml_binder *b, struct ml_linear *l, const char *name,
                               const struct ml_quant_piece *p, struct marlin_error *err) {
    const struct ml_tensor *t = NULL;
    float *padded = ml_alloc(p->m.n * sizeof(*padded));
    marlin_status st;

    if (padded && !b->layer_bias) b->layer_bias = ml_arena_array(&b->m->arena, l->out, sizeof(float));
    if (!padded || !b->layer_bias) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "tensor '%s.bias': out of memory", name);
        goto out;
    }
    if (!l->bias) {
        b->m->parameters += l->out;
        b->m->weight_bytes += l->out * sizeof(float);
    }
    l->bias = b->layer_bias;
    ML_TRY(part_tensor(b, name, "bias", &t, err));
    ML_TRY(read_vector(t, p->m.n, padded, err));
    for (size_t i = 0; i < p->m.rows; i++)
        b->layer_bias[p->row + i] += padded[i];
out:
    ml_free(padded);
    return st;
}

/* Everything of a piece but its place and its true sizes, which are set. */
static marlin_status bind_piece(struct ml_binder *b, struct ml_linear *l, const char *name,
                                struct ml_quant_piece *p, struct marlin_error *err) {
    struct ml_quant_matrix *m = &p->m;
    const struct ml_tensor *t = NULL;
    float *su = NULL, *sv = NULL;
    marlin_status st;

    ML_TRY(bind_tiles(b, name, m, &t, err));
    ML_TRY(check_size(t, m, err));
    ML_TRY(bind_codebook(b, name, &m->codebook, err));
    ML_TRY(ml_bind_scales(b, m->k, m->n, &su, &sv, err));
    ML_TRY(read_side(b, name, "suh", "su", m->k, su, err));
    ML_TRY(read_side(b, name, "svh", "sv", m->n, sv, err));
    m->su = su;
    m->sv = sv;
    if (has_part(b, name, "bias")) ML_TRY(bind_bias(b, l, name, p, err));
    ml_bind_account(b->m, m);
    ML_TRY(ml_bind_matrix_done(b, m, t, NULL, err));
out:
    return st;
}

/* ---- slices ---- */

static void slice_name(const char *name, size_t s, char dst[ML_BIND_NAME]) {
    (void)snprintf(dst, ML_BIND_NAME, "%s.slice.%zu", name, s);
}

static size_t count_slices(const struct ml_binder *b, const char *name) {
    char slice[ML_BIND_NAME];
    size_t n = 0;
    do
        slice_name(name, n, slice);
    while (has_part(b, slice, "trellis") && ++n < MAX_SLICES);
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
    const struct ml_tensor *t = NULL;
    size_t done = 0;
    bool by_rows = false;
    marlin_status st;

    ML_TRY(ml_bind_pieces(b, l, n, err));
    for (size_t s = 0; s < n; s++) {
        struct ml_quant_piece *p = &l->u.quant.pieces[s];
        p->m.format = ML_QUANT_EXL3;
        slice_name(l->name, s, name);
        ML_TRY(bind_tiles(b, name, &p->m, &t, err));
        if (s == 0) by_rows = p->m.n != ml_quant_padded(l->out);
        ML_TRY(place_slice(l, p, by_rows, s + 1 == n, &done, err));
        ML_TRY(bind_piece(b, l, name, p, err));
    }
    if (n > 1 && !by_rows && l->out > b->m->sum_rows) b->m->sum_rows = l->out;
out:
    return st;
}

marlin_status ml_bind_exl3(struct ml_binder *b, bool bias, struct ml_linear *l, struct marlin_error *err) {
    marlin_status st;

    b->layer_bias = NULL;
    if (!has_part(b, l->name, "trellis")) {
        st = bind_slices(b, l, err);
    } else {
        ML_TRY(ml_bind_pieces(b, l, 1, err));
        struct ml_quant_piece *p = &l->u.quant.pieces[0];
        p->m.format = ML_QUANT_EXL3;
        p->m.rows = l->out;
        p->m.cols = l->in;
        st = bind_piece(b, l, l->name, p, err);
    }
    if (st == MARLIN_OK && bias && !l->bias)
        st = ml_fail(err, MARLIN_ERR_NOT_FOUND, "tensor '%s.bias' is missing: the model needs it", l->name);
out:
    return st;
}
