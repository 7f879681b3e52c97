/* SPDX-License-Identifier: Apache-2.0
 *
 * X'X by the gemm kernel: a chunk of tokens is transposed, then every block of rows of the lower triangle is
 * one product of rows that are contiguous in tokens.
 */
#include "quantization/hessian.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

enum { CHUNK = 256, ROWS = 32, PAD = 128 };

static size_t pad64(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}

static size_t padded(size_t channels) {
    return (channels + PAD - 1) / PAD * PAD;
}

static size_t worker_bytes(size_t k) {
    return pad64(ROWS * k * sizeof(float)) + pad64(ml_gemm_scratch(CHUNK));
}

/* The transposed chunk [k][CHUNK] is shared; each worker has a block of products and gemm's scratch. */
static size_t scratch_bytes(size_t k, int workers) {
    return pad64(k * CHUNK * sizeof(float)) + (size_t)workers * worker_bytes(k);
}

size_t ml_hessian_bytes(size_t channels, int workers) {
    const size_t k = padded(channels);
    return k * k * sizeof(float) + scratch_bytes(k, workers);
}

marlin_status ml_hessian_create(struct ml_hessian *h, size_t channels, int workers,
                                struct marlin_error *err) {
    memset(h, 0, sizeof *h);
    if (channels == 0 || channels > 1u << 17)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "Hessian of %zu channels: unsupported size", channels);
    h->channels = channels;
    h->k = padded(channels);
    h->workers = workers;
    h->stride = worker_bytes(h->k);
    h->h = ml_calloc(h->k * h->k, sizeof *h->h);
    h->scratch = ml_alloc_aligned(scratch_bytes(h->k, workers));
    if (h->h && h->scratch) return MARLIN_OK;
    ml_hessian_free(h);
    return ml_fail(err, MARLIN_ERR_MEMORY, "Hessian of %zu channels: out of memory", channels);
}

void ml_hessian_free(struct ml_hessian *h) {
    ml_free(h->h);
    ml_free_aligned(h->scratch);
    memset(h, 0, sizeof *h);
}

static bool all_finite(const float *x, size_t n) {
    float sum = 0; /* NaN and infinity survive multiplication by zero as NaN */
    for (size_t i = 0; i < n; i++) {
        sum += x[i] * 0.0f;
    }
    return sum == 0.0f;
}

struct add {
    struct ml_hessian *h;
    const struct ml_kernels *kernels;
    size_t n;
};

static void add_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct add *a = arg;
    const size_t k = a->h->k;
    const float *xt = a->h->scratch;
    char *own = (char *)a->h->scratch + pad64(k * CHUNK * sizeof(float)) + (size_t)worker * a->h->stride;
    float *product = (float *)(void *)own;
    void *scratch = own + pad64(ROWS * k * sizeof(float));
    for (size_t block = begin; block < end; block++) {
        const size_t i0 = block * ROWS, i1 = i0 + ROWS;
        a->kernels->gemm[ML_F32](product, k, xt, CHUNK, xt + i0 * CHUNK, CHUNK, ROWS, i1, a->n, scratch);
        for (size_t i = i0; i < i1; i++) {
            a->kernels->add(a->h->h + i * k, product + (i - i0) * k, i + 1);
        }
    }
}

static void add_chunk(struct ml_hessian *h, const struct ml_kernels *kernels, struct ml_pool *pool,
                      size_t n) {
    struct add a = {.h = h, .kernels = kernels, .n = n};
    ml_pool_for(pool, h->k / ROWS, 1, add_rows, &a);
    h->count += n;
}

void ml_hessian_add(struct ml_hessian *h, const struct ml_kernels *kernels, struct ml_pool *pool,
                    const float *x, size_t ldx, size_t n) {
    float *xt = h->scratch;
    memset(xt, 0, h->k * CHUNK * sizeof(float));
    size_t filled = 0;
    for (size_t t = 0; t < n; t++) {
        const float *row = x + t * ldx;
        if (!all_finite(row, h->channels)) {
            h->dropped++;
            continue;
        }
        for (size_t i = 0; i < h->channels; i++) {
            xt[i * CHUNK + filled] = row[i];
        }
        if (++filled == CHUNK) {
            add_chunk(h, kernels, pool, filled);
            filled = 0;
        }
    }
    if (filled) add_chunk(h, kernels, pool, filled);
}

/* The square at row a and column b of the lower triangle, and its mirror image; k is a multiple of ROWS. */
static void mirror(const struct ml_hessian *h, float scale, size_t a, size_t b, float *out) {
    for (size_t i = a; i < a + ROWS; i++)
        for (size_t j = b; j < b + ROWS && j <= i; j++)
            out[i * h->k + j] = out[j * h->k + i] = h->h[i * h->k + j] * scale;
}

marlin_status ml_hessian_finish(const struct ml_hessian *h, double sigma, float *out,
                                struct marlin_error *err) {
    const size_t k = h->k;
    double trace = 0;
    for (size_t i = 0; i < k; i++) {
        trace += h->h[i * k + i];
    }
    const double mean = h->count ? trace / (double)h->count / (double)h->channels : 0;
    if (!isfinite(mean) || mean < 1e-20)
        return ml_fail(err, MARLIN_ERR_NUMERIC, "Hessian has mean diagonal %g over %llu tokens", mean,
                       (unsigned long long)h->count);
    const float scale = (float)(1.0 / (double)h->count), ridge = (float)(sigma * mean);
    for (size_t a = 0; a < k; a += ROWS)
        for (size_t b = 0; b <= a; b += ROWS)
            mirror(h, scale, a, b, out);
    for (size_t i = 0; i < k; i++)
        out[i * k + i] += ridge;
    return MARLIN_OK;
}
