/* SPDX-License-Identifier: Apache-2.0
 *
 * The choice between ways to compute a product. The figures it is made from are selection_table.c.
 */
#include "kernels/selection.h"

#include "base/assert.h"

#include <pthread.h>
#include <stdio.h>

enum { KIND_NAME = 16 };

int ml_kind_of_float(enum ml_dtype t) {
    return (int)t;
}

static int widths(const struct ml_form *f) {
    return f->max_bits - f->min_bits + 1;
}

int ml_kind_of_quant(const struct ml_quant_matrix *m) {
    static const int first[ML_QUANT_FORMATS] = {
        [ML_QUANT_INT8] = ML_KIND_INT8, [ML_QUANT_TAP] = ML_KIND_TAP, [ML_QUANT_EXL3] = ML_KIND_EXL3};
    const struct ml_form *f = ml_form_of(m->format);
    const int book = f->books > 1 ? (int)m->codebook : 0;
    return first[m->format] + book * widths(f) + m->bits - f->min_bits;
}

bool ml_kind_to_quant(int kind, struct ml_quant_matrix *m) {
    int left = kind - ML_KIND_INT8, format = 0;
    if (left < 0) return false;
    const struct ml_form *f = ml_form_of(ML_QUANT_INT8);
    for (; left >= f->books * widths(f); f = ml_form_of((enum ml_quant_format)++ format))
        left -= f->books * widths(f);
    m->format = (enum ml_quant_format)format;
    m->codebook = (enum ml_exl3_codebook)(left / widths(f));
    m->bits = f->min_bits + left % widths(f);
    return true;
}

static char kind_names[ML_KINDS][KIND_NAME];

static void name_kinds(void) {
    for (int kind = 0; kind < ML_KINDS; kind++) {
        static const char *const plain[ML_KIND_INT8] = {"f32", "f16", "bf16"};
        struct ml_quant_matrix m = {0};
        char *name = kind_names[kind];
        if (!ml_kind_to_quant(kind, &m)) {
            (void)snprintf(name, KIND_NAME, "%s", plain[kind]);
            continue;
        }
        const struct ml_form *f = ml_form_of(m.format);
        if (f->books > 1)
            (void)snprintf(name, KIND_NAME, "%s-%s-%d", f->name, ml_exl3_codebook_name(m.codebook), m.bits);
        else if (widths(f) > 1)
            (void)snprintf(name, KIND_NAME, "%s%d", f->name, m.bits);
        else
            (void)snprintf(name, KIND_NAME, "%s", f->name);
    }
}

const char *ml_kind_name(int kind) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    ML_ASSERT(kind >= 0 && kind < ML_KINDS);
    (void)pthread_once(&once, name_kinds);
    return kind_names[kind];
}

const char *ml_path_name(enum ml_path p) {
    static const char *const names[] = {"gemv", "gemv of few", "gemm"};
    return names[p];
}

/* What `pieces` take on these threads, by what they would take if they could be cut at will. */
static float waste(size_t pieces, int threads) {
    const size_t t = threads > 1 ? (size_t)threads : 1, turns = (pieces + t - 1) / t;
    return (float)(turns * t) / (float)pieces;
}

static size_t pieces_of(const struct ml_product *p, size_t count, size_t rows_of_piece) {
    size_t pieces = 0;
    for (size_t i = 0; i < count; i++)
        pieces += (p[i].n + rows_of_piece - 1) / rows_of_piece;
    return pieces > 0 ? pieces : 1;
}

/* Rows of x that every matrix of the group takes in one pass. */
static size_t few_of(const struct ml_selection *s, const struct ml_product *p, size_t count) {
    int few = ML_QUANT_FEW_ROWS;
    for (size_t i = 0; i < count; i++)
        if (s->cost[p[i].kind].few < few) few = s->cost[p[i].kind].few;
    return few > 1 ? (size_t)few : 1;
}

static bool any_exact(const struct ml_product *p, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (p[i].exact) return true;
    return false;
}

struct ml_choice ml_select(const struct ml_selection *s, const struct ml_product *products, size_t count,
                           size_t rows) {
    struct ml_choice c = {.path = ML_PATH_GEMM, .block = rows, .why = ML_WHY_EXACT};
    const size_t few = few_of(s, products, count), passes = (rows + few - 1) / few;
    ML_ASSERT(count > 0 && rows > 0);
    const bool exact = any_exact(products, count);
    const size_t most = exact ? ML_GEMM_EXACT_ROWS : ML_GEMM_ROWS;
    float one = 0, gemv = 0, gemm = 0;

    for (size_t i = 0; i < count; i++) {
        ML_ASSERT(products[i].kind >= 0 && products[i].kind < ML_KINDS);
        const struct ml_cost *cost = &s->cost[products[i].kind];
        const float weights = (float)products[i].n * (float)products[i].k;
        one += weights * cost->one;
        gemv += weights * ((float)passes * cost->one + (float)(rows - passes) * cost->more);
        gemm += weights * (cost->fixed + (float)rows * cost->row);
    }
    if (one > 0) {
        c.gemv = gemv / one * waste(pieces_of(products, count, ML_QUANT_STRIP), s->machine.threads);
        c.gemm = gemm / one * waste(pieces_of(products, count, ML_QUANT_BLOCK), s->machine.threads);
    }
    if (c.block > most) c.block = most;
    if (exact) return c;
    c.why = rows == 1 ? ML_WHY_ONE_ROW : ML_WHY_COST;
    if (rows > 1 && c.gemm < c.gemv) return c;
    c.path = rows == 1 || few == 1 ? ML_PATH_GEMV : ML_PATH_FEW;
    c.block = rows < few ? rows : few;
    return c;
}

size_t ml_select_crossover(const struct ml_selection *s, const struct ml_product *p, size_t most) {
    for (size_t rows = 1; rows <= most; rows++)
        if (ml_select(s, p, 1, rows).path == ML_PATH_GEMM) return rows;
    return most + 1;
}

void ml_choice_why(const struct ml_choice *c, char *text, size_t cap) {
    if (c->why == ML_WHY_ONE_ROW)
        (void)snprintf(text, cap, "one row of x: nothing to share a panel with");
    else if (c->why == ML_WHY_EXACT)
        (void)snprintf(text, cap, "exact: weights are decoded to float32 panels");
    else if (c->path == ML_PATH_GEMM)
        (void)snprintf(text, cap, "costs %.2f of one row, gemv %.2f", (double)c->gemm, (double)c->gemv);
    else
        (void)snprintf(text, cap, "%zu row%s a pass cost%s %.2f of one row, gemm %.2f", c->block,
                       c->block == 1 ? "" : "s", c->block == 1 ? "s" : "", (double)c->gemv, (double)c->gemm);
}
