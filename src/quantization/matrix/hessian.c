/* SPDX-License-Identifier: Apache-2.0
 *
 * X'X by the gemm kernel: a chunk of tokens is transposed, then every block of rows of the lower triangle is
 * one product of rows that are contiguous in tokens.
 *
 *     x [tokens][channels]  ->  xt [k][STRIDE], the first CHUNK of each row used, rows past `channels` zero
 */
#include "quantization/matrix/hessian.h"

#include "base/assert.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

/* STRIDE: rows a power of two apart would share sets of the L1 cache. */
enum { CHUNK = 512, STRIDE = CHUNK + 16, ROWS = 32, PAD = 128, LINE = 16 };

static size_t pad64(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}

static size_t padded(size_t channels) {
    return (channels + PAD - 1) / PAD * PAD;
}

static size_t worker_bytes(size_t k) {
    return pad64(ROWS * k * sizeof(float)) + pad64(ml_gemm_scratch());
}

static size_t chunk_bytes(size_t k) {
    return pad64(k * STRIDE * sizeof(float));
}

/* The transposed chunk is shared; each worker has a block of products and gemm's scratch. */
static size_t scratch_bytes(size_t k, int workers) {
    return chunk_bytes(k) + (size_t)workers * worker_bytes(k);
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
    if (h->h && h->scratch) {
        memset(h->scratch, 0, chunk_bytes(h->k));
        return MARLIN_OK;
    }
    ml_hessian_free(h);
    return ml_fail(err, MARLIN_ERR_MEMORY, "Hessian of %zu channels: out of memory", channels);
}

void ml_hessian_free(struct ml_hessian *h) {
    ml_free(h->h);
    ml_free_aligned(h->scratch);
    memset(h, 0, sizeof *h);
}

static bool all_finite(const float *x, size_t n) {
    const uint32_t exponent = 0x7f800000;
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bad |= (uint32_t)((bits & exponent) == exponent);
    }
    return bad == 0;
}

/* One chunk of tokens. */
struct add {
    struct ml_hessian *h;
    const struct ml_kernels *kernels;
    const float *x;
    size_t ldx, n; /* n: tokens looked at, then those that are left */
    uint16_t from[CHUNK];
    bool finite[CHUNK];
};

static void look_at_tokens(void *arg, size_t begin, size_t end, int worker) {
    struct add *a = arg;
    (void)worker;
    for (size_t t = begin; t < end; t++)
        a->finite[t] = all_finite(a->x + t * a->ldx, a->h->channels);
}

/* width channels of all tokens; unrolled where width is constant. */
static inline void transpose_line(const struct add *a, size_t c0, size_t width) {
    float *restrict xt = (float *)a->h->scratch + c0 * STRIDE;
    for (size_t t = 0; t < a->n; t++) {
        const float *restrict row = a->x + a->from[t] * a->ldx + c0;
        for (size_t i = 0; i < width; i++)
            xt[i * STRIDE + t] = row[i];
    }
}

/* A cache line of channels at a time: what is read is used whole, what is written stays in L1. */
static void transpose(void *arg, size_t begin, size_t end, int worker) {
    const struct add *a = arg;
    const size_t channels = a->h->channels;
    (void)worker;
    for (size_t c0 = begin * LINE; c0 < end * LINE && c0 < channels; c0 += LINE) {
        if (channels - c0 >= LINE)
            transpose_line(a, c0, LINE);
        else
            transpose_line(a, c0, channels - c0);
    }
}

static void add_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct add *a = arg;
    const size_t k = a->h->k;
    const float *xt = a->h->scratch;
    char *own = (char *)a->h->scratch + chunk_bytes(k) + (size_t)worker * a->h->stride;
    float *product = (float *)(void *)own;
    void *scratch = own + pad64(ROWS * k * sizeof(float));
    for (size_t block = begin; block < end; block++) {
        const size_t i0 = block * ROWS, i1 = i0 + ROWS;
        a->kernels->gemm[ML_F32](product, k, xt, STRIDE, xt + i0 * STRIDE, STRIDE, ROWS, i1, a->n, scratch);
        for (size_t i = i0; i < i1; i++) {
            a->kernels->add(a->h->h + i * k, product + (i - i0) * k, i + 1);
        }
    }
}

static void add_chunk(struct add *a, struct ml_pool *pool) {
    struct ml_hessian *h = a->h;
    size_t kept = 0;
    ml_pool_for(pool, a->n, 64, look_at_tokens, a);
    for (size_t t = 0; t < a->n; t++) {
        if (a->finite[t]) a->from[kept++] = (uint16_t)t;
    }
    h->count += kept;
    h->dropped += a->n - kept;
    a->n = kept;
    if (kept == 0) return;
    ml_pool_for(pool, (h->channels + LINE - 1) / LINE, 1, transpose, a);
    ml_pool_for(pool, h->k / ROWS, 1, add_rows, a);
}

void ml_hessian_add(struct ml_hessian *h, const struct ml_kernels *kernels, struct ml_pool *pool,
                    const float *x, size_t ldx, size_t n) {
    ML_ASSERT(ldx >= h->channels && ml_pool_size(pool) <= h->workers);
    struct add a = {.h = h, .kernels = kernels, .ldx = ldx};
    for (size_t t = 0; t < n; t += CHUNK) {
        a.x = x + t * ldx;
        a.n = n - t < CHUNK ? n - t : CHUNK;
        add_chunk(&a, pool);
    }
}

void ml_hessian_sum(struct ml_hessian *h, const struct ml_hessian *other) {
    ML_ASSERT(h->k == other->k && h->channels == other->channels);
    for (size_t i = 0; i < h->k; i++)
        ml_kernels()->add(h->h + i * h->k, other->h + i * h->k, i + 1);
    h->count += other->count;
    h->dropped += other->dropped;
}

/* The square at row a and column b of the lower triangle, and its mirror image; k is a multiple of ROWS. */
static void mirror(const struct ml_hessian *h, float scale, size_t a, size_t b, float *out) {
    for (size_t i = a; i < a + ROWS; i++)
        for (size_t j = b; j < b + ROWS && j <= i; j++)
            out[i * h->k + j] = out[j * h->k + i] = h->h[i * h->k + j] * scale;
}

static double mean_diagonal(const struct ml_hessian *h) {
    double trace = 0;
    for (size_t i = 0; i < h->k; i++) {
        trace += h->h[i * h->k + i];
    }
    return h->count ? trace / (double)h->count / (double)h->channels : 0;
}

const char *ml_hessian_useless(const struct ml_hessian *h) {
    const double mean = mean_diagonal(h);
    if (h->count == 0) return "the Hessian is empty: no calibration token has finite inputs";
    if (!isfinite(mean)) return "the Hessian is not finite: inputs are too large";
    return mean < 1e-20 ? "the Hessian is zero: so are all inputs" : NULL;
}

marlin_status ml_hessian_finish(const struct ml_hessian *h, double sigma, float *out,
                                struct marlin_error *err) {
    const size_t k = h->k;
    const double mean = mean_diagonal(h);
    const char *useless = ml_hessian_useless(h);
    if (useless) return ml_fail(err, MARLIN_ERR_NUMERIC, "%s", useless);
    const float scale = (float)(1.0 / (double)h->count), ridge = (float)(sigma * mean);
    for (size_t a = 0; a < k; a += ROWS)
        for (size_t b = 0; b <= a; b += ROWS)
            mirror(h, scale, a, b, out);
    for (size_t i = 0; i < k; i++)
        out[i * k + i] += ridge;
    return MARLIN_OK;
}
