/* SPDX-License-Identifier: Apache-2.0
 *
 * Block LDL of a Hessian from its Cholesky factor h = C C', C lower triangular. Columns of C are made PANEL
 * at a time, each from everything to its left in one product of rows (the gemm kernel):
 *
 *            0        p     p + PANEL
 *        p  [ made    | diagonal |          ]    diagonal -= left left', then its own factor C_pp
 *     rows  [ made    | update   |          ]    update   -= left left_p', then update C_pp^-T
 *
 * The sums have one order whatever the number of threads.
 */
#include "quantization/matrix/ldlq.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

enum { PANEL = 128, ROWS = 64, SQUARE = 64 };

struct factor {
    float *h;
    size_t k;
    size_t begin, width; /* the panel */
    const struct ml_kernels *kernels;
    float *inverse; /* [PANEL][PANEL] of C_pp */
    float *small;   /* [k / TILE][TILE][TILE]: inverses of C's diagonal tiles */
    char *scratch;  /* per worker */
    size_t stride;
};

static float *product_of(const struct factor *f, int worker) {
    return (float *)(void *)(f->scratch + (size_t)worker * f->stride);
}

static void *gemm_scratch_of(const struct factor *f, int worker) {
    return f->scratch + (size_t)worker * f->stride + (size_t)PANEL * PANEL * sizeof(float);
}

/* h[rows r0.., panel] -= left of those rows times left of the panel's rows. */
static void subtract_left(const struct factor *f, size_t r0, size_t rows, int worker) {
    const size_t k = f->k, p = f->begin, n = f->width;
    if (p == 0) return;
    float *product = product_of(f, worker);
    f->kernels->gemm[ML_F32](product, PANEL, f->h + p * k, k, f->h + r0 * k, k, rows, n, p,
                             gemm_scratch_of(f, worker));
    for (size_t i = 0; i < rows; i++) {
        float *row = f->h + (r0 + i) * k + p;
        for (size_t j = 0; j < n; j++)
            row[j] -= product[i * PANEL + j];
    }
}

/* Cholesky of the n x n block at `a`, row by row. Returns the first bad pivot, or n. */
static size_t factor_block(float *a, size_t k, size_t n) {
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            float sum = a[i * k + j];
            for (size_t c = 0; c < j; c++)
                sum -= a[i * k + c] * a[j * k + c];
            if (j < i)
                a[i * k + j] = sum / a[j * k + j];
            else if (sum > 0 && isfinite(sum))
                a[i * k + i] = sqrtf(sum);
            else
                return i;
        }
    return n;
}

/* out [n][stride] = inverse of the lower triangular n x n block at `a`; above the diagonal 0. */
static void invert_block(const float *a, size_t k, size_t n, float *out, size_t stride) {
    for (size_t i = 0; i < n; i++) {
        float *row = out + i * stride;
        for (size_t j = 0; j < n; j++)
            row[j] = i == j ? 1.0f : 0.0f;
        for (size_t c = 0; c < i; c++)
            for (size_t j = 0; j <= c; j++)
                row[j] -= a[i * k + c] * out[c * stride + j];
        for (size_t j = 0; j <= i; j++)
            row[j] /= a[i * k + i];
    }
}

static void make_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct factor *f = arg;
    const size_t k = f->k, p = f->begin, n = f->width, below = p + n;
    float *product = product_of(f, worker);
    for (size_t chunk = begin; chunk < end; chunk++) {
        const size_t r0 = below + chunk * ROWS, rows = k - r0 < ROWS ? k - r0 : ROWS;
        subtract_left(f, r0, rows, worker);
        f->kernels->gemm[ML_F32](product, PANEL, f->inverse, PANEL, f->h + r0 * k + p, k, rows, n, n,
                                 gemm_scratch_of(f, worker));
        for (size_t i = 0; i < rows; i++)
            memcpy(f->h + (r0 + i) * k + p, product + i * PANEL, n * sizeof *product);
    }
}

static marlin_status cholesky(struct factor *f, struct ml_pool *pool, struct marlin_error *err) {
    const size_t k = f->k;
    for (f->begin = 0; f->begin < k; f->begin += f->width) {
        const size_t p = f->begin;
        f->width = k - p < PANEL ? k - p : PANEL;
        subtract_left(f, p, f->width, 0);
        float *diagonal = f->h + p * k + p;
        const size_t bad = factor_block(diagonal, k, f->width);
        if (bad < f->width)
            return ml_fail(err, MARLIN_ERR_NUMERIC,
                           "Hessian of %zu channels is not positive definite (pivot %zu)", k, p + bad);
        invert_block(diagonal, k, f->width, f->inverse, PANEL);
        for (size_t b = 0; b < f->width; b += ML_TILE)
            invert_block(diagonal + b * k + b, k, ML_TILE, f->small + (p + b) * ML_TILE, ML_TILE);
        ml_pool_for(pool, (k - p - f->width + ROWS - 1) / ROWS, 1, make_rows, f);
    }
    return MARLIN_OK;
}

/* L = C blockdiag(C_bb)^-1 below the diagonal tiles, in place: row r of tile b is a row of
 * 16 times C_bb^-1. */
static void divide_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct factor *f = arg;
    (void)worker;
    for (size_t r = begin * ML_TILE; r < end * ML_TILE; r++)
        for (size_t b = 0; b < r / ML_TILE; b++) {
            float *x = f->h + r * f->k + b * ML_TILE, sum[ML_TILE] = {0};
            const float *inverse = f->small + b * ML_TILE * ML_TILE;
            for (size_t i = 0; i < ML_TILE; i++)
                for (size_t j = 0; j < ML_TILE; j++)
                    sum[j] += x[i] * inverse[i * ML_TILE + j];
            memcpy(x, sum, sizeof sum);
        }
}

/* Rows and columns [a, a + na) x [b, b + nb), b < a or the same square, go above the diagonal; the diagonal
 * tiles and all below become 0. */
static void move_square(float *l, size_t k, size_t a, size_t na, size_t b, size_t nb) {
    for (size_t i = a; i < a + na; i++)
        for (size_t j = b; j < b + nb && j <= i; j++) {
            l[j * k + i] = i / ML_TILE == j / ML_TILE ? 0.0f : l[i * k + j];
            l[i * k + j] = 0.0f;
        }
}

static void move_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct factor *f = arg;
    (void)worker;
    for (size_t a = begin * SQUARE; a < end * SQUARE && a < f->k; a += SQUARE)
        for (size_t b = 0; b <= a; b += SQUARE) {
            const size_t na = f->k - a < SQUARE ? f->k - a : SQUARE;
            const size_t nb = f->k - b < SQUARE ? f->k - b : SQUARE;
            move_square(f->h, f->k, a, na, b, nb);
        }
}

static size_t pad64(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}

static marlin_status allocate(struct factor *f, struct ml_pool *pool, struct marlin_error *err) {
    const size_t square = (size_t)PANEL * PANEL * sizeof(float), small = f->k * ML_TILE * sizeof(float);
    f->stride = square + pad64(ml_gemm_scratch());
    f->scratch = ml_alloc_aligned(square + pad64(small) + (size_t)ml_pool_size(pool) * f->stride);
    if (!f->scratch)
        return ml_fail(err, MARLIN_ERR_MEMORY, "factoring a Hessian of %zu channels: out of memory", f->k);
    f->inverse = (float *)(void *)(f->scratch + (size_t)ml_pool_size(pool) * f->stride);
    f->small = f->inverse + (size_t)PANEL * PANEL;
    return MARLIN_OK;
}

marlin_status ml_ldl_factor(float *h, size_t k, const struct ml_kernels *kernels, struct ml_pool *pool,
                            struct marlin_error *err) {
    struct factor f = {.h = h, .k = k, .kernels = kernels};
    if (k == 0 || k % ML_TILE || k > 1u << 17)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "Hessian of %zu channels: not a multiple of %d", k, ML_TILE);
    marlin_status st;
    ML_TRY(allocate(&f, pool, err));
    ML_TRY(cholesky(&f, pool, err));
    ml_pool_for(pool, k / ML_TILE, 4, divide_rows, &f);
    ml_pool_for(pool, (k + SQUARE - 1) / SQUARE, 1, move_rows, &f);
out:
    ml_free_aligned(f.scratch);
    return st;
}
