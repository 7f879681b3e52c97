/* SPDX-License-Identifier: Apache-2.0
 *
 * The order of work for one band of 64 output rows:
 *
 *        <---------------- k ---------------->
 *        [ untouched | buffer of 128 | done  ]     blocks of 16 inputs from the right to the left
 *
 * Within the buffer a block receives the errors of the blocks to its right in the buffer one by one; when a
 * new buffer is entered, all of it receives the errors of everything that is done in one matrix product.
 *
 * With a Hessian of the outputs, H_out = Lo Do Lo' beside H_in = Li Di Li', the loss is the square of
 * M = Lo' E Li weighted by the diagonals, E = w - q. Tiles are then made from the bottom up too, and a tile's
 * target makes M there its own rounding error:
 *
 *     target = w + U + (later columns of E + U) Li
 *     U = (Lo' - 1) E                                 the errors of the rows below, in the same columns
 *
 * so that what bands keep as their error is E + U, and E itself is kept for the rows above.
 */
#include "quantization/matrix/ldlq.h"

#include "base/assert.h"
#include "base/checked.h"
#include "base/mem.h"

#include <sched.h>
#include <stdatomic.h>
#include <string.h>

enum { BUFFER = 128, BAND = 64 };

struct ldlq {
    const struct ml_ldlq_job *job;
    char *scratch; /* per worker */
    size_t stride;
    size_t bands;
    float *errors;         /* [k, n] E', when there is lo */
    _Atomic size_t *begun; /* per band: columns from here to the right are done, when there is lo */
};

/* One worker's memory, carved from its scratch. */
struct band {
    float *target; /* [band][k] w plus feedback */
    float *error;  /* [band][k] target error, w - q */
    float *update; /* [band][BUFFER] */
    float *below;  /* [TILE columns][BAND] U of the current columns */
    void *gemm;
    void *search;
};

static size_t pad64(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}

static size_t carve(struct band *b, char *base, const struct ml_ldlq_job *job) {
    const size_t size[] = {BAND * job->k * sizeof(float),
                           BAND * job->k * sizeof(float),
                           (size_t)BAND * BUFFER * sizeof(float),
                           (size_t)ML_TILE * BAND * sizeof(float),
                           ml_gemm_scratch(),
                           ml_viterbi_scratch(&job->codec->viterbi)};
    size_t at[6], total = 0;
    for (size_t i = 0; i < 6; i++) {
        at[i] = total;
        total += pad64(size[i]);
    }
    if (b) {
        *b = (struct band){.target = (float *)(void *)(base + at[0]),
                           .error = (float *)(void *)(base + at[1]),
                           .update = (float *)(void *)(base + at[2]),
                           .below = (float *)(void *)(base + at[3]),
                           .gemm = base + at[4],
                           .search = base + at[5]};
    }
    return total;
}

size_t ml_ldlq_scratch(size_t k) {
    static const size_t search = 9 << 20; /* the most that ml_viterbi_scratch says */
    return (2 * BAND * k + (size_t)BAND * (BUFFER + ML_TILE)) * sizeof(float) + ml_gemm_scratch() + search +
           (size_t)6 * 64;
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

/* below += lo[rows, from..to) . E[from..to, columns) for `rows` output rows at row0. */
static void feed_up(const struct ldlq *l, struct band *b, size_t row0, size_t rows, size_t from, size_t to,
                    size_t col, float *below) {
    const struct ml_ldlq_job *job = l->job;
    const size_t n = job->n;
    if (from >= to) return;
    job->kernels->gemm[ML_F32](b->update, BAND, job->lo + row0 * n + from, n, l->errors + col * n + from, n,
                               ML_TILE, rows, to - from, b->gemm);
    for (size_t i = 0; i < ML_TILE; i++)
        job->kernels->add(below + i * BAND, b->update + i * BAND, rows);
}

/* Tile at `row` of the band, with below[i * BAND + j] added to its targets. */
static void quantize_tile(const struct ldlq *l, struct band *b, size_t row0, size_t row, size_t col) {
    const struct ml_ldlq_job *job = l->job;
    const size_t k = job->k, tile = (row0 + row) / ML_TILE * (k / ML_TILE) + col / ML_TILE;
    const float *below = b->below + row;
    float values[ML_TILE_WEIGHTS], target[ML_TILE_WEIGHTS];
    for (size_t j = 0; j < ML_TILE; j++)
        for (size_t i = 0; i < ML_TILE; i++)
            target[j * ML_TILE + i] = b->target[(row + j) * k + col + i] + below[i * BAND + j];
    ml_codec_quantize(job->codec, b->search, target, ML_TILE, values,
                      job->bytes + tile * job->codec->tile_bytes);
    for (size_t j = 0; j < ML_TILE; j++) {
        const float *w = job->w + (row0 + row + j) * k + col;
        float *q = job->q + (row0 + row + j) * k + col;
        for (size_t i = 0; i < ML_TILE; i++) {
            q[i] = values[j * ML_TILE + i];
            b->error[(row + j) * k + col + i] = w[i] - q[i] + below[i * BAND + j];
            if (l->errors) l->errors[(col + i) * job->n + row0 + row + j] = w[i] - q[i];
        }
    }
}

/* Until the band below has done column `col`. Bands are handed out from the bottom up, so that the one that
 * is waited for is being worked on. */
static void wait_below(const struct ldlq *l, size_t band, size_t col) {
    if (band + 1 == l->bands) return;
    while (atomic_load_explicit(&l->begun[band + 1], memory_order_acquire) > col)
        sched_yield();
}

static void quantize_columns(const struct ldlq *l, struct band *b, size_t row0, size_t rows, size_t col) {
    memset(b->below, 0, (size_t)ML_TILE * BAND * sizeof *b->below);
    if (l->errors) {
        wait_below(l, row0 / BAND, col);
        feed_up(l, b, row0, rows, row0 + rows, l->job->n, col, b->below);
    }
    for (size_t row = rows; row > 0; row -= ML_TILE) {
        const size_t at = row - ML_TILE;
        if (l->errors) feed_up(l, b, row0 + at, ML_TILE, row0 + row, row0 + rows, col, b->below + at);
        quantize_tile(l, b, row0, at, col);
    }
    if (l->errors) atomic_store_explicit(&l->begun[row0 / BAND], col, memory_order_release);
}

static void quantize_band(const struct ldlq *l, struct band *b, size_t row0, size_t rows) {
    const struct ml_ldlq_job *job = l->job;
    const size_t k = job->k;
    memcpy(b->target, job->w + row0 * k, rows * k * sizeof(float));
    for (size_t end = k; end > 0;) {
        const size_t begin = end > BUFFER ? (end - 1) / BUFFER * BUFFER : 0;
        feed_back(job, b, rows, begin, end, end, k);
        for (size_t col = end; col > begin; col -= ML_TILE) {
            feed_back(job, b, rows, col - ML_TILE, col, col, end);
            quantize_columns(l, b, row0, rows, col - ML_TILE);
        }
        end = begin;
    }
}

static void run_bands(void *arg, size_t begin, size_t end, int worker) {
    const struct ldlq *l = arg;
    struct band b;
    carve(&b, l->scratch + (size_t)worker * l->stride, l->job);
    for (size_t i = begin; i < end; i++) {
        const size_t row0 = (l->bands - 1 - i) * BAND;
        const size_t rows = row0 + BAND <= l->job->n ? BAND : l->job->n - row0;
        quantize_band(l, &b, row0, rows);
    }
}

static marlin_status make_room(struct ldlq *l, struct marlin_error *err) {
    const struct ml_ldlq_job *job = l->job;
    size_t bytes;
    if (ml_mul_size(l->stride, (size_t)ml_pool_size(job->pool), &bytes)) l->scratch = ml_alloc_aligned(bytes);
    if (job->lo) {
        l->errors = ml_calloc(job->n, job->k * sizeof *l->errors);
        l->begun = ml_calloc(l->bands, sizeof *l->begun);
        for (size_t i = 0; l->begun && i < l->bands; i++)
            atomic_init(&l->begun[i], job->k);
    }
    if (l->scratch && (!job->lo || (l->errors && l->begun))) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_MEMORY, "quantizing %zu x %zu weights: out of memory", job->n, job->k);
}

marlin_status ml_ldlq(const struct ml_ldlq_job *job, struct marlin_error *err) {
    ML_ASSERT(job->n % ML_TILE == 0 && job->k % ML_TILE == 0 && job->q && job->bytes);
    struct ldlq l = {.job = job, .stride = carve(NULL, NULL, job), .bands = (job->n + BAND - 1) / BAND};
    const marlin_status st = make_room(&l, err);
    if (st == MARLIN_OK) ml_pool_for(job->pool, l.bands, 1, run_bands, &l);
    ml_free_aligned(l.scratch);
    ml_free(l.errors);
    ml_free(l.begun);
    return st;
}

enum { PROXY_ROWS = 64, PROXY_BLOCK = 128 };

struct proxy {
    const struct ml_kernels *kernels;
    const float *w, *q, *h;
    size_t n, k;
    double *part;  /* [n][2] */
    char *scratch; /* per worker */
    size_t stride;
};

struct proxy_scratch {
    float *x;        /* [PROXY_ROWS][k] */
    float *own, *up; /* [PROXY_ROWS][PROXY_BLOCK] */
    void *gemm;
};

static size_t proxy_carve(struct proxy_scratch *s, char *base, size_t k) {
    const size_t block = (size_t)PROXY_ROWS * PROXY_BLOCK, x = PROXY_ROWS * pad64(k * sizeof(float));
    if (s) {
        s->x = (float *)(void *)base;
        s->own = (float *)(void *)(base + x);
        s->up = s->own + block;
        s->gemm = s->up + block;
    }
    return x + 2 * block * sizeof(float) + pad64(ml_gemm_scratch());
}

static double dot(const float *a, const float *own, const float *up, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * ((double)own[i] + 2 * (double)up[i]);
    return sum;
}

/* x h x' of each row of s->x, added to part[2 * row]: h is symmetric, so what lies right of a diagonal block
 * counts twice. */
static void add_quadratic(const struct proxy *p, const struct proxy_scratch *s, size_t rows, double *part) {
    const size_t k = p->k;
    for (size_t b = 0; b < k; b += PROXY_BLOCK) {
        const size_t width = k - b < PROXY_BLOCK ? k - b : PROXY_BLOCK, right = b + width;
        const float *h = p->h + b * k;
        p->kernels->gemm[ML_F32](s->own, PROXY_BLOCK, h + b, k, s->x + b, k, rows, width, width, s->gemm);
        if (right < k)
            p->kernels->gemm[ML_F32](s->up, PROXY_BLOCK, h + right, k, s->x + right, k, rows, width,
                                     k - right, s->gemm);
        else
            memset(s->up, 0, (size_t)PROXY_ROWS * PROXY_BLOCK * sizeof *s->up);
        for (size_t j = 0; j < rows; j++)
            part[2 * j] += dot(s->x + j * k + b, s->own + j * PROXY_BLOCK, s->up + j * PROXY_BLOCK, width);
    }
}

static void proxy_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct proxy *p = arg;
    struct proxy_scratch s;
    proxy_carve(&s, p->scratch + (size_t)worker * p->stride, p->k);
    for (size_t chunk = begin; chunk < end; chunk++) {
        const size_t r0 = chunk * PROXY_ROWS, rows = p->n - r0 < PROXY_ROWS ? p->n - r0 : PROXY_ROWS;
        const float *w = p->w + r0 * p->k, *q = p->q + r0 * p->k;
        for (size_t i = 0; i < rows * p->k; i++)
            s.x[i] = w[i] - q[i];
        add_quadratic(p, &s, rows, p->part + 2 * r0);
        memcpy(s.x, w, rows * p->k * sizeof *w);
        add_quadratic(p, &s, rows, p->part + 2 * r0 + 1);
    }
}

marlin_status ml_proxy_error(const float *w, const float *q, const float *h, size_t n, size_t k,
                             const struct ml_kernels *kernels, struct ml_pool *pool, double *out,
                             struct marlin_error *err) {
    struct proxy p = {.kernels = kernels, .w = w, .q = q, .h = h, .n = n, .k = k};
    double error = 0, power = 0;
    marlin_status st = MARLIN_OK;
    p.stride = proxy_carve(NULL, NULL, k);
    p.part = ml_calloc(n, 2 * sizeof *p.part);
    p.scratch = ml_alloc_aligned((size_t)ml_pool_size(pool) * p.stride);
    if (!p.part || !p.scratch) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "error of a quantized matrix: out of memory");
        goto out;
    }
    ml_pool_for(pool, (n + PROXY_ROWS - 1) / PROXY_ROWS, 1, proxy_rows, &p);
    for (size_t j = 0; j < n; j++) {
        error += p.part[2 * j];
        power += p.part[2 * j + 1];
    }
    *out = power <= 0 ? 0 : error / power;
out:
    ml_free(p.part);
    ml_free_aligned(p.scratch);
    return st;
}
