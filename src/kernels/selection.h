/* SPDX-License-Identifier: Apache-2.0
 *
 * Which way a product y = W x is computed: a pure function of the machine, the shape, the format and the
 * number of rows of x. Every way gives the same y, so a choice is about time alone.
 *
 *   gemv           one row of x, multiplied as weights are read and decoded
 *   gemv of a few  a pass over the weights for up to `block` rows of x, each weight decoded once
 *   gemm           weights are decoded into a panel that stays in cache; rows of x go past it, up to `block`
 *
 * The function compares two estimates, linear in the number of rows and made of four figures a kind of
 * weights:
 *
 *   gemv   passes * one + (rows - passes) * more      passes = rows / few, rounded up
 *   gemm   fixed + rows * row
 *
 * each times what is lost when its pieces (strips of 16 rows of W; blocks of 128) do not fill the threads.
 * The figures come from a table in the source, or from a file that `marlin kernels --tune` measured on this
 * machine (kernels/tune.h).
 */
#ifndef ML_KERNELS_SELECTION_H
#define ML_KERNELS_SELECTION_H

#include "base/cpu.h"
#include "base/dtype.h"
#include "kernels/quant.h"

#include <stdbool.h>
#include <stddef.h>

/* Kinds of weights, numbered so that a kind is found by arithmetic: F32 F16 BF16 (as enum ml_dtype), then the
 * forms in the order of packing/forms.h, of each its codebooks and of each of those its bits: INT8, TAP of
 * 2..6 bits, EXL3 of 1..8 bits for each codebook. */
enum {
    ML_KIND_INT8 = 3,
    ML_KIND_TAP = 4,
    ML_KIND_EXL3 = ML_KIND_TAP + ML_TAP_MAX_BITS - ML_TAP_MIN_BITS + 1,
    ML_KINDS = ML_KIND_EXL3 + ML_EXL3_CODEBOOKS * ML_EXL3_MAX_BITS
};

enum {
    ML_GEMM_ROWS = 512,      /* rows of x of one gemm of quantized weights: decoding is little beside them */
    ML_GEMM_EXACT_ROWS = 256 /* the same memory in float32 */
};

struct ml_machine {
    struct ml_cpu cpu; /* tier, features, caches */
    int threads;
};

/* Nanoseconds for 1000 weights of W, all threads together. `few`: rows of x that the kernels of a tier take
 * in one pass, 1 = they have none for several. */
struct ml_cost {
    int few;
    float one, more, fixed, row;
};

/* What choices are made from. Plain data: copy it, read it from any thread. */
struct ml_selection {
    struct ml_machine machine;
    struct ml_cost cost[ML_KINDS];
    bool measured; /* on this machine; else the table of the source */
};

/* One matrix of a product. */
struct ml_product {
    int kind;
    bool exact;  /* a quantized matrix in ML_QUANT_EXACT */
    size_t n, k; /* rows and columns of W */
};

enum ml_path { ML_PATH_GEMV, ML_PATH_FEW, ML_PATH_GEMM };

enum ml_why { ML_WHY_ONE_ROW, ML_WHY_EXACT, ML_WHY_COST };

struct ml_choice {
    enum ml_path path;
    size_t block; /* rows of x to take now, at most those asked for; ask again for the rest */
    enum ml_why why;
    float gemv, gemm; /* estimates, in units of one row by gemv on threads that are all busy */
};

int ml_kind_of_float(enum ml_dtype t); /* F32, F16, BF16 */
int ml_kind_of_quant(const struct ml_quant_matrix *m);
/* The other way: sets format, bits and codebook of m. False for a kind of plain numbers. */
bool ml_kind_to_quant(int kind, struct ml_quant_matrix *m);
/* "bf16", "int8", "tap4", "exl3-mul1-4"; static. kind < ML_KINDS. */
const char *ml_kind_name(int kind);

const char *ml_path_name(enum ml_path p); /* "gemv", "gemv of few", "gemm" */

/* The table of the source for a machine. */
void ml_selection_default(struct ml_selection *s, const struct ml_machine *m);

/* How to multiply products[count] by the same `rows` rows of x, rows > 0, count > 0. Reads its arguments and
 * nothing else; no memory, no lock. */
struct ml_choice ml_select(const struct ml_selection *s, const struct ml_product *products, size_t count,
                           size_t rows);

/* Rows of x from which on gemm is chosen for a matrix, up to `most`; most + 1 when it is not. */
size_t ml_select_crossover(const struct ml_selection *s, const struct ml_product *p, size_t most);

/* The reason for a choice as a short text, cut to cap bytes. */
void ml_choice_why(const struct ml_choice *c, char *text, size_t cap);

#endif
