/* SPDX-License-Identifier: Apache-2.0
 *
 * The order of work for one band of 64 output rows:
 *
 *        <---------------- k ---------------->
 *        [ untouched | buffer of 128 | done  ]     blocks of 16 inputs from the right to the left
 *
 * Within the buffer a block receives the errors of the blocks to its right in the buffer one by one; when a
 * new buffer is entered, all of it receives the errors of everything that is done in one matrix product.
 */
#include "quantization/ldlq.h"

#include "base/checked.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

enum { BUFFER = 128, BAND = 64 };

struct ldlq {
    const struct ml_ldlq_job *job;
    char *scratch; /* per worker */
    size_t stride;
};

/* One worker's memory, carved from its scratch. */
struct band {
    float *target; /* [band][k] w plus feedback */
    float *error;  /* [band][k] target error, w - q */
    float *update; /* [band][BUFFER] */
    void *gemm;
    void *search;
};

static size_t pad64(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}

static size_t carve(struct band *b, char *base, const struct ml_ldlq_job *job) {
    const size_t size[] = {BAND * job->k * sizeof(float), BAND * job->k * sizeof(float),
                           (size_t)BAND * BUFFER * sizeof(float), ml_gemm_scratch(job->k),
                           ml_viterbi_scratch(&job->codec->viterbi)};
    size_t at[5], total = 0;
    for (size_t i = 0; i < 5; i++) {
        at[i] = total;
        total += pad64(size[i]);
    }
    if (b) {
        *b = (struct band){.target = (float *)(void *)(base + at[0]),
                           .error = (float *)(void *)(base + at[1]),
                           .update = (float *)(void *)(base + at[2]),
                           .gemm = base + at[3],
                           .search = base + at[4]};
    }
    return total;
}

/* target[:, b0..b1) += error[:, a0..a1) . lt[b0..b1, a0..a1)' */
static void feed_back(const struct ml_ldlq_job *job, struct band *b, size_t rows, size_t b0, size_t b1,
                      size_t a0, size_t a1) {
    if (!job->lt || a0 >= a1) return;
    const size_t k = job->k;
    job->kernels->gemm[ML_F32](b->update, BUFFER, job->lt + b0 * k + a0, k, b->error + a0, k, rows, b1 - b0,
                               a1 - a0, b->gemm);
    for (size_t j = 0; j < rows; j++) {
        job->kernels->add(b->target + j * k + b0, b->update + j * BUFFER, b1 - b0);
    }
}

static void quantize_tile(const struct ml_ldlq_job *job, struct band *b, size_t row0, size_t row,
                          size_t col) {
    const size_t k = job->k, tile = (row0 + row) / ML_TILE * (k / ML_TILE) + col / ML_TILE;
    float values[ML_TILE_WEIGHTS];
    ml_codec_quantize(job->codec, b->search, b->target + row * k + col, k, values,
                      job->bytes + tile * job->codec->tile_bytes);
    for (size_t j = 0; j < ML_TILE; j++) {
        const float *w = job->w + (row0 + row + j) * k + col;
        float *q = job->q + (row0 + row + j) * k + col;
        for (size_t i = 0; i < ML_TILE; i++) {
            q[i] = values[j * ML_TILE + i];
            b->error[(row + j) * k + col + i] = w[i] - q[i];
        }
    }
}

static void quantize_band(const struct ml_ldlq_job *job, struct band *b, size_t row0, size_t rows) {
    const size_t k = job->k;
    memcpy(b->target, job->w + row0 * k, rows * k * sizeof(float));
    for (size_t end = k; end > 0;) {
        const size_t begin = end > BUFFER ? (end - 1) / BUFFER * BUFFER : 0;
        feed_back(job, b, rows, begin, end, end, k);
        for (size_t col = end; col > begin; col -= ML_TILE) {
            feed_back(job, b, rows, col - ML_TILE, col, col, end);
            for (size_t row = 0; row < rows; row += ML_TILE) {
                quantize_tile(job, b, row0, row, col - ML_TILE);
            }
        }
        end = begin;
    }
}

static void run_bands(void *arg, size_t begin, size_t end, int worker) {
    const struct ldlq *l = arg;
    struct band b;
    carve(&b, l->scratch + (size_t)worker * l->stride, l->job);
    for (size_t i = begin; i < end; i++) {
        const size_t row0 = i * BAND;
        const size_t rows = row0 + BAND <= l->job->n ? BAND : l->job->n - row0;
        quantize_band(l->job, &b, row0, rows);
    }
}

marlin_status ml_ldlq(const struct ml_ldlq_job *job, struct marlin_error *err) {
    struct ldlq l = {.job = job, .stride = carve(NULL, NULL, job)};
    size_t bytes;
    if (!ml_mul_size(l.stride, (size_t)ml_pool_size(job->pool), &bytes) ||
        !(l.scratch = ml_alloc_aligned(bytes)))
        return ml_fail(err, MARLIN_ERR_MEMORY, "quantizing %zu x %zu weights: out of memory", job->n, job->k);
    ml_pool_for(job->pool, (job->n + BAND - 1) / BAND, 1, run_bands, &l);
    ml_free_aligned(l.scratch);
    return MARLIN_OK;
}

struct proxy {
    const float *w, *q, *h;
    size_t n, k;
    double *part; /* [n][2] */
};

/* (x h x') of one row, x = a - b. */
static double quadratic(const struct proxy *p, const float *a, const float *b) {
    double sum = 0;
    for (size_t i = 0; i < p->k; i++) {
        const double xi = (double)a[i] - (b ? b[i] : 0);
        if (xi == 0) continue;
        const float *h = p->h + i * p->k;
        float dot = 0;
        for (size_t j = 0; j < p->k; j++) {
            dot += h[j] * (a[j] - (b ? b[j] : 0));
        }
        sum += xi * dot;
    }
    return sum;
}

static void proxy_rows(void *arg, size_t begin, size_t end, int worker) {
    (void)worker;
    const struct proxy *p = arg;
    for (size_t j = begin; j < end; j++) {
        p->part[2 * j] = quadratic(p, p->w + j * p->k, p->q + j * p->k);
        p->part[2 * j + 1] = quadratic(p, p->w + j * p->k, NULL);
    }
}

double ml_proxy_error(const float *w, const float *q, const float *h, size_t n, size_t k,
                      struct ml_pool *pool) {
    struct proxy p = {.w = w, .q = q, .h = h, .n = n, .k = k};
    p.part = ml_calloc(n, 2 * sizeof *p.part);
    if (!p.part) return NAN;
    ml_pool_for(pool, n, 8, proxy_rows, &p);
    double error = 0, power = 0;
    for (size_t j = 0; j < n; j++) {
        error += p.part[2 * j];
        power += p.part[2 * j + 1];
    }
    ml_free(p.part);
    return power > 0 ? error / power : 0;
}
