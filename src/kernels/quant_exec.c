/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with quantized matrices spread over the pool.
 *
 *   gemv, of a few rows of x pieces are a few strips of 16 rows, numbered through all jobs; whoever finishes
 *                            the last strip of a block of 128 rows rotates the block back. Until then its z
 *                            stands in y
 *   gemm                     pieces are blocks of 128 rows, whose products stay with one worker. Rows of x go
 *                            in chunks, to bound the memory
 *
 * Rows of x are prepared before, a row of a job a piece (one row: by the caller).
 *
 * Who computes what is left to chance, what is computed is not: every sum belongs to one piece.
 */
#include "base/checked.h"
#include "base/mem.h"
#include "kernels/ops.h"
#include "kernels/tiers.h"

#include <stdatomic.h>
#include <string.h>

enum {
    FAST_ROWS = ML_GEMM_ROWS, /* of x in a chunk */
    EXACT_ROWS = ML_GEMM_EXACT_ROWS,
    PIECE = 48 * 1024,   /* bytes of weights worth a visit to the shared counter */
    MAX_GROUP_JOBS = 16, /* of a call, more go in several */
    STRIP = ML_QUANT_STRIP,
    BLOCK = ML_QUANT_BLOCK,
    FEW = ML_QUANT_FEW_ROWS
};

struct ml_quant_scratch {
    size_t max_k, max_n, max_jobs, rows; /* rows of x prepared at a time */
    size_t x_stride, job_stride;         /* bytes of an int8 row; of all rows of a job */
    uint8_t *x;                          /* [max_jobs][job_stride]: rows of int8 or of float32 */
    struct ml_quant_x *info;             /* [max_jobs][rows] */
    float *last;                         /* [max_jobs][8][128]: z of a last block that y cuts off, few rows */
    atomic_uint *left;                   /* [max_jobs][max_n / 128] strips to come, few rows */
    uint8_t *worker;                     /* per worker: z [rows][128], then rotated x or what dots wants */
    size_t worker_stride;
};

static size_t round_up(size_t v, size_t unit) {
    return (v + unit - 1) / unit * unit;
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

void ml_quant_scratch_free(struct ml_quant_scratch *q) {
    if (!q) return;
    ml_free_aligned(q->x);
    ml_free_aligned(q->info);
    ml_free_aligned(q->last);
    ml_free_aligned(q->left);
    ml_free_aligned(q->worker);
    ml_free(q);
}

static void *take(size_t count, size_t a, size_t b) {
    size_t bytes;
    if (!ml_mul_size(count, a, &bytes) || !ml_mul_size(bytes, b, &bytes)) return NULL;
    return ml_alloc_aligned(bytes);
}

static void set_sizes(struct ml_quant_scratch *q, size_t max_k, size_t max_n, size_t max_jobs,
                      size_t max_batch) {
    q->max_k = round_up(max_k, BLOCK);
    q->max_n = round_up(max_n, BLOCK);
    q->max_jobs = larger(1, smaller(max_jobs, MAX_GROUP_JOBS));
    q->rows = larger(1, smaller(max_batch, FAST_ROWS));
    const size_t exact = smaller(q->rows, EXACT_ROWS) * q->max_k * sizeof(float);
    q->x_stride = ml_quant_x_bytes(q->max_k);
    q->job_stride = round_up(larger(q->rows * q->x_stride, exact), 64);
    const size_t panel = STRIP * q->max_k * sizeof(float); /* of EXACT; a rotated row is less */
    q->worker_stride =
        round_up(q->rows * BLOCK * sizeof(float) + larger(panel, ml_quant_dots_scratch(q->max_k)), 4096);
}

size_t ml_exec_quant_bytes(size_t workers, size_t max_k, size_t max_n, size_t max_jobs, size_t max_batch) {
    struct ml_quant_scratch q = {0};
    set_sizes(&q, max_k, max_n, max_jobs, max_batch);
    const size_t job = q.job_stride + q.rows * sizeof *q.info + FEW * BLOCK * sizeof *q.last +
                       q.max_n / BLOCK * sizeof *q.left;
    return q.max_jobs * job + workers * q.worker_stride;
}

marlin_status ml_exec_reserve_quant(struct ml_exec *e, size_t max_k, size_t max_n, size_t max_jobs,
                                    size_t max_batch, struct marlin_error *err) {
    struct ml_quant_scratch *q = ml_calloc(1, sizeof *q);
    if (!q) return ml_fail(err, MARLIN_ERR_MEMORY, "products of quantized matrices: out of memory");
    set_sizes(q, max_k, max_n, max_jobs, max_batch);
    q->x = take(q->max_jobs, q->job_stride, 1);
    q->info = take(q->max_jobs, q->rows, sizeof *q->info);
    q->last = take(q->max_jobs, (size_t)FEW * BLOCK, sizeof *q->last);
    q->left = take(q->max_jobs, q->max_n / BLOCK, sizeof *q->left);
    q->worker = take((size_t)ml_pool_size(e->pool), q->worker_stride, 1);
    if (!q->x || !q->info || !q->last || !q->left || !q->worker) {
        ml_quant_scratch_free(q);
        return ml_fail(err, MARLIN_ERR_MEMORY, "products of quantized matrices of %zu columns: out of memory",
                       max_k);
    }
    ml_quant_scratch_free(e->quant);
    e->quant = q;
    return MARLIN_OK;
}

struct call {
    const struct ml_exec *e;
    struct ml_quant_scratch *q;
    enum ml_quant_mode mode;
    enum ml_quant_rows rows;
    const struct ml_quant_job *jobs;
    size_t n_jobs;
    const float *x; /* of this chunk */
    size_t ldx, n, row;
    size_t first[MAX_GROUP_JOBS + 1]; /* pieces before job j */
};

static const struct ml_quant_kernels *kernels_of(const struct call *c) {
    return &c->e->k->quant;
}

static bool is_fast(const struct call *c, const struct ml_quant_matrix *m) {
    return c->mode == ML_QUANT_FAST && m->k <= ML_QUANT_MAX_COLS;
}

/* What a tier reads is there. */
static bool is_arranged(const struct call *c, const struct ml_quant_matrix *m) {
    return m->format == ML_QUANT_INT8 || !kernels_of(c)->arrange || m->arranged;
}

static float *worker_z(const struct call *c, int worker) {
    return (float *)(void *)(c->q->worker + (size_t)worker * c->q->worker_stride);
}

static void *worker_space(const struct call *c, int worker) {
    return worker_z(c, worker) + c->q->rows * BLOCK;
}

static float *rotated_at(const struct call *c, size_t job, size_t t) {
    return (float *)(void *)(c->q->x + job * c->q->job_stride) + t * c->q->max_k;
}

/* ---- x of job j, row t ---- */

static void prepare(const struct call *c, size_t j, size_t t, int worker) {
    const struct ml_quant_matrix *m = c->jobs[j].w;
    const struct ml_quant_kernels *k = kernels_of(c);
    const float *x = c->x + t * c->ldx;
    const bool fast = is_fast(c, m);
    float *rotated = fast ? worker_space(c, worker) : rotated_at(c, j, t);
    if (m->format != ML_QUANT_INT8)
        k->rotate(rotated, x, m->su, m->cols, m->k);
    else if (!fast)
        memcpy(rotated, x, m->k * sizeof *rotated);
    if (!fast) return;
    struct ml_quant_x *info = &c->q->info[j * c->q->rows + t];
    info->a = (int8_t *)c->q->x + j * c->q->job_stride + t * c->q->x_stride;
    (is_arranged(c, m) ? k->round : ml_quant_round_reference)(info, m, c->rows,
                                                              m->format == ML_QUANT_INT8 ? x : rotated);
}

static void prepare_range(void *arg, size_t begin, size_t end, int worker) {
    const struct call *c = arg;
    for (size_t i = begin; i < end; i++)
        prepare(c, i / c->n, i % c->n, worker);
}

/* ---- one to eight rows of x ---- */

static size_t strips_of(const struct ml_quant_matrix *m) {
    return (m->n + STRIP - 1) / STRIP;
}

/* Where z of a block and the first row of x stands; *ld floats further that of the next. */
static float *z_of_block(const struct call *c, size_t j, size_t block, size_t *ld) {
    const struct ml_quant_job *job = &c->jobs[j];
    const bool whole = job->w->format == ML_QUANT_INT8 || (block + 1) * BLOCK <= job->w->rows;
    *ld = whole ? job->ldy : BLOCK;
    return whole ? job->y + c->row * job->ldy + block * BLOCK : c->q->last + j * FEW * BLOCK;
}

static void finish_int8(const struct call *c, size_t j, size_t s) {
    const struct ml_quant_job *job = &c->jobs[j];
    for (size_t t = 0; t < c->n; t++) {
        float *y = job->y + (c->row + t) * job->ldy;
        for (size_t r = s * STRIP; r < smaller((s + 1) * STRIP, job->w->rows); r++)
            y[r] = job->w->sv[r] * y[r];
    }
}

static void finish_strip(const struct call *c, size_t j, size_t s) {
    const struct ml_quant_job *job = &c->jobs[j];
    const struct ml_quant_matrix *m = job->w;
    const size_t block = s * STRIP / BLOCK, at = block * BLOCK;
    atomic_uint *left = &c->q->left[j * (c->q->max_n / BLOCK) + block];
    if (atomic_fetch_sub_explicit(left, 1, memory_order_acq_rel) != 1 || at >= m->rows) return;
    size_t ld;
    float *z = z_of_block(c, j, block, &ld);
    for (size_t t = 0; t < c->n; t++)
        kernels_of(c)->unrotate(job->y + (c->row + t) * job->ldy + at, z + t * ld, m->sv + at,
                                smaller(BLOCK, m->rows - at));
}

static void gemv_strip(const struct call *c, size_t j, size_t s, int worker) {
    const struct ml_quant_matrix *m = c->jobs[j].w;
    const struct ml_quant_x *x = &c->q->info[j * c->q->rows];
    size_t ld;
    float *z = z_of_block(c, j, s * STRIP / BLOCK, &ld) + s * STRIP % BLOCK;
    if (c->rows == ML_QUANT_ONE)
        (is_arranged(c, m) ? kernels_of(c)->dot : ml_quant_dot_reference)(z, m, s, x);
    else
        (is_arranged(c, m) ? kernels_of(c)->few : ml_quant_few_reference)(z, ld, m, s, x, c->n,
                                                                          worker_space(c, worker));
    if (m->format == ML_QUANT_INT8)
        finish_int8(c, j, s);
    else
        finish_strip(c, j, s);
}

static void gemv_range(void *arg, size_t begin, size_t end, int worker) {
    const struct call *c = arg;
    size_t j = 0;
    for (size_t i = begin; i < end; i++) {
        while (i >= c->first[j + 1])
            j++;
        gemv_strip(c, j, i - c->first[j], worker);
    }
}

static size_t gemv_grain(const struct call *c) {
    size_t bytes = 0;
    for (size_t j = 0; j < c->n_jobs; j++)
        bytes = larger(bytes, STRIP * c->jobs[j].w->k * (size_t)c->jobs[j].w->bits / 8);
    return larger(1, PIECE / (bytes + 1));
}

static void gemv(struct call *c) {
    for (size_t j = 0; j < c->n_jobs; j++) {
        c->first[j + 1] = c->first[j] + strips_of(c->jobs[j].w);
        for (size_t b = 0; b < c->jobs[j].w->n / BLOCK; b++)
            atomic_init(&c->q->left[j * (c->q->max_n / BLOCK) + b], BLOCK / STRIP);
    }
    if (c->n > 1) ml_pool_for(c->e->pool, c->n_jobs * c->n, 1, prepare_range, c);
    for (size_t j = 0; c->n == 1 && j < c->n_jobs; j++)
        prepare(c, j, 0, 0);
    ml_pool_for_runs(c->e->pool, c->first, c->n_jobs, gemv_grain(c), gemv_range, c);
}

/* ---- more rows of x ---- */

static void exact_block(const struct call *c, size_t j, size_t s, size_t strips, int worker) {
    const struct ml_quant_matrix *m = c->jobs[j].w;
    const struct ml_exec *e = c->e;
    float *z = worker_z(c, worker), *panel = worker_space(c, worker);
    void *scratch = (char *)e->scratch + (size_t)worker * e->scratch_stride;
    for (size_t i = 0; i < strips; i++) {
        const size_t rows = smaller(STRIP, m->n - (s + i) * STRIP);
        kernels_of(c)->decode(panel, m, s + i);
        e->k->gemm[ML_F32](z + i * STRIP, BLOCK, panel, m->k, rotated_at(c, j, 0), c->q->max_k, c->n, rows,
                           m->k, scratch);
    }
}

static void fast_block(const struct call *c, size_t j, size_t s, size_t strips, int worker) {
    const struct ml_quant_matrix *m = c->jobs[j].w;
    const struct ml_quant_x *x = &c->q->info[j * c->q->rows];
    (is_arranged(c, m) ? kernels_of(c)->dots : ml_quant_dots_reference)(
        worker_z(c, worker), BLOCK, m, s, strips, x, c->n, worker_space(c, worker));
}

static void finish_block(const struct call *c, size_t j, size_t block, float *z) {
    const struct ml_quant_matrix *m = c->jobs[j].w;
    const size_t at = block * BLOCK;
    if (at >= m->rows) return;
    const size_t rows = smaller(BLOCK, m->rows - at);
    for (size_t t = 0; t < c->n; t++) {
        float *y = c->jobs[j].y + (c->row + t) * c->jobs[j].ldy + at;
        if (m->format != ML_QUANT_INT8) {
            kernels_of(c)->unrotate(y, z + t * BLOCK, m->sv + at, rows);
            continue;
        }
        for (size_t r = 0; r < rows; r++)
            y[r] = m->sv[at + r] * z[t * BLOCK + r];
    }
}

static void gemm_range(void *arg, size_t begin, size_t end, int worker) {
    const struct call *c = arg;
    size_t j = 0;
    for (size_t i = begin; i < end; i++) {
        while (i >= c->first[j + 1])
            j++;
        const struct ml_quant_matrix *m = c->jobs[j].w;
        const size_t block = i - c->first[j], s = block * (BLOCK / STRIP);
        const size_t strips = smaller(BLOCK / STRIP, strips_of(m) - s);
        if (is_fast(c, m))
            fast_block(c, j, s, strips, worker);
        else
            exact_block(c, j, s, strips, worker);
        finish_block(c, j, block, worker_z(c, worker));
    }
}

static void gemm(struct call *c) {
    for (size_t j = 0; j < c->n_jobs; j++)
        c->first[j + 1] = c->first[j] + round_up(c->jobs[j].w->n, BLOCK) / BLOCK;
    ml_pool_for(c->e->pool, c->n_jobs * c->n, 1, prepare_range, c);
    ml_pool_for(c->e->pool, c->first[c->n_jobs], 1, gemm_range, c);
}

static struct ml_choice choose(const struct call *c, size_t rows) {
    struct ml_product products[MAX_GROUP_JOBS];
    for (size_t j = 0; j < c->n_jobs; j++) {
        const struct ml_quant_matrix *m = c->jobs[j].w;
        products[j] = (struct ml_product){ml_kind_of_quant(m), !is_fast(c, m), m->n, m->k};
    }
    return ml_select(&c->e->select, products, c->n_jobs, rows);
}

static void group(const struct ml_exec *e, enum ml_quant_mode mode, const struct ml_quant_job *jobs,
                  size_t n_jobs, const float *x, size_t ldx, size_t n) {
    static const enum ml_quant_rows order[] = {ML_QUANT_ONE, ML_QUANT_FEW, ML_QUANT_MANY};
    struct call c = {.e = e, .q = e->quant, .mode = mode, .jobs = jobs, .n_jobs = n_jobs, .ldx = ldx};
    for (size_t t = 0; t < n; t += c.n) {
        const struct ml_choice choice = choose(&c, smaller(c.q->rows, n - t));
        c.x = x + t * ldx;
        c.n = choice.block;
        c.row = t;
        c.rows = order[choice.path];
        (c.rows == ML_QUANT_MANY ? gemm : gemv)(&c);
    }
}

void ml_quant_matmul_many(const struct ml_exec *e, enum ml_quant_mode mode, const struct ml_quant_job *jobs,
                          size_t n_jobs, const float *x, size_t ldx, size_t n) {
    const size_t most = e->quant->max_jobs;
    for (size_t j = 0; j < n_jobs && n > 0; j += most)
        group(e, mode, jobs + j, smaller(most, n_jobs - j), x, ldx, n);
}
