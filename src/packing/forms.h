/* SPDX-License-Identifier: Apache-2.0
 *
 * The forms in which matrices of weights are stored: one row of a table for each. What binds, writes, lists
 * or chooses by form reads the row. A new form is its bytes (a file of this folder), the way back to numbers,
 * and a row: slow at first, but right everywhere.
 *
 * A matrix W [rows, cols] called P lies in files as the tensor "P.<suffix>", with its vectors of scales
 * beside it. Sizes are padded to n and k, multiples of `block`:
 *
 *   in rows    [n, k]                              bytes: one number each
 *   in tiles   [n / 16, k / 16, bytes of a tile]   16 x 16 weights; by_inputs: [k / 16, n / 16, ...]
 */
#ifndef ML_PACKING_FORMS_H
#define ML_PACKING_FORMS_H

#include "base/dtype.h"
#include "packing/exl3.h"
#include "packing/tap.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ml_quant_format { ML_QUANT_INT8, ML_QUANT_TAP, ML_QUANT_EXL3, ML_QUANT_FORMATS };

/* A matrix as it is stored. Immutable after binding; any number of threads may multiply by it. Pointers
 * belong to the model. */
struct ml_quant_matrix {
    enum ml_quant_format format;
    int bits;                       /* TAP 2..6, EXL3 1..8, INT8 8 */
    size_t rows, cols;              /* out, in: what y and x have */
    size_t n, k;                    /* padded: multiples of 128 (TAP, EXL3); equal to rows, cols (INT8) */
    const uint8_t *data;            /* TAP tiles [n/16][k/16][32 bits]; EXL3 tiles [k/16][n/16][32 bits];
                                       INT8 rows [rows][cols] */
    const float *su;                /* [k]; NULL for INT8 */
    const float *sv;                /* [n] */
    const struct ml_tap_code *code; /* TAP; has passed ml_tap_check. Set by ml_quant_set_code */
    bool mirrored;                  /* TAP: ml_tap_is_mirrored(code), for kernels to choose a version by */
    bool split;                     /* TAP: mirrored and ml_tap_is_split(code) */
    enum ml_exl3_codebook codebook; /* EXL3 */
    const void *arranged;           /* data in the order that this machine's kernels read, made by
                                       ml_quant_arrange; NULL when they read `data` itself, and then nothing
                                       but the reference multiplies, slowly */
};

/* Binds the code, which m keeps a pointer to. */
static inline void ml_quant_set_code(struct ml_quant_matrix *m, const struct ml_tap_code *code) {
    m->code = code;
    m->mirrored = ml_tap_is_mirrored(code);
    m->split = m->mirrored && ml_tap_is_split(code);
}

/* What a product wants of its input x (kernels/quant.h). */
enum ml_form_x {
    ML_X_F32,         /* as it is */
    ML_X_INT8,        /* int8, one scale for the whole row */
    ML_X_INT8_ROTATED /* turned by Hadamard blocks, int8, a scale for each run of columns */
};

/* A tensor beside the weights: "P.<suffix>". suffix NULL: the form has none. */
struct ml_form_part {
    const char *suffix;
    enum ml_dtype dtype;
};

struct ml_form {
    const char *name; /* "tap" */
    struct ml_form_part weights;
    struct ml_form_part in_scales, out_scales; /* [k], [n] */
    struct ml_form_part code;                  /* how tiles are decoded, as bytes */
    bool tiled, by_inputs;
    bool sliced;            /* P may also be stored as P.slice.0, P.slice.1 ... */
    int min_bits, max_bits; /* of a weight; 0: those of the stored type */
    size_t block;
    int books;        /* codebooks that a matrix may have (enum ml_exl3_codebook); 1: there is no choice */
    enum ml_form_x x; /* of products in ML_QUANT_FAST */
    /* Tile (s, t) of Q as float32: output r, input c to q[r * stride + c]. NULL for rows. */
    void (*tile)(const struct ml_quant_matrix *m, size_t s, size_t t, float *q, size_t stride);
};

const struct ml_form *ml_form_of(enum ml_quant_format f);
/* Numbers of the type that the tensor has: F32, F16, BF16, or F8, which is widened when read. */
const struct ml_form *ml_form_plain(void);
/* The form whose weights a tensor of this name holds ("...up_proj.tap"), or NULL. */
const struct ml_form *ml_form_of_tensor(const char *name);

/* n rounded up to the form's block. */
size_t ml_form_padded(const struct ml_form *f, size_t n);
/* Shape of the tensor of weights; returns its rank. bits 0: the last size of tiles is left 0. */
int ml_form_shape(const struct ml_form *f, size_t n, size_t k, int bits, uint64_t shape[3]);
/* Bits of a weight, by the shape of its tensor; 0 when it is no shape of this form. */
int ml_form_bits(const struct ml_form *f, enum ml_dtype dtype, int rank, const uint64_t *shape);
/* Bytes of the weights; false when they pass the address space. */
bool ml_form_bytes(size_t n, size_t k, int bits, size_t *bytes);

/* Bytes of the tile of rows 16 s... and columns 16 t... . */
const uint8_t *ml_form_tile_at(const struct ml_quant_matrix *m, size_t s, size_t t);

/* The slow twin of decoding: the 16 rows of strip s (fewer at the end of rows) of Q as float32, row r at q +
 * r
 * * m->k. */
void ml_form_decode(const struct ml_quant_matrix *m, size_t s, float *q);

#endif
