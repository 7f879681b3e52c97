/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels spread over the pool. Work is cut by shape alone, never by the number of threads, and no piece adds
 * to another's sums.
 */
#include "kernels/exec.h"
#include "base/checked.h"
#include "base/mem.h"
#include "kernels/tiers.h"
#include "kernels/tune.h"

#include <string.h>

enum {
    ROW_UNIT = 64, /* rows of a piece are a multiple of this: gemm's panel */
    /* gemv: bytes of W worth a visit to the shared counter, and at the end of which what was fetched ahead is
     * another worker's; small matrices still give every worker some. */
    SHARES = 8,
    LEAST_PIECE = 64 << 10,
    MOST_PIECE = 512 << 10,
    MAX_JOBS = 256 /* of one fork-join */
};

void ml_exec_bind(struct ml_exec *e) {
    struct ml_machine here = ml_machine_here(ml_pool_size(e->pool));
    e->select = *ml_selection();
    e->select.machine.threads = here.threads;
    if (e->k->tier == here.cpu.tier) return;
    here.cpu.tier = e->k->tier; /* ml_selection is of the best tier alone */
    ml_selection_default(&e->select, &here);
}

marlin_status ml_exec_create(struct ml_exec *e, const struct ml_kernels *k, struct ml_pool *pool,
                             struct marlin_error *err) {
    const size_t stride = (ml_gemm_scratch() + 63) / 64 * 64;
    size_t bytes;
    if (!ml_mul_size(stride, (size_t)ml_pool_size(pool), &bytes))
        return ml_fail(err, MARLIN_ERR_LIMIT, "kernels: scratch of %d threads overflows", ml_pool_size(pool));
    *e = (struct ml_exec){.k = k, .pool = pool, .scratch_stride = stride};
    ml_exec_bind(e);
    e->scratch = ml_alloc_aligned(bytes);
    if (!e->scratch)
        return ml_fail(err, MARLIN_ERR_MEMORY, "kernels: %zu bytes of scratch: out of memory", bytes);
    return MARLIN_OK;
}

void ml_exec_free(struct ml_exec *e) {
    ml_free_aligned(e->scratch);
    ml_quant_scratch_free(e->quant);
    *e = (struct ml_exec){0};
}

/* ---- matmul: pieces are runs of `unit[j]` rows of job j, numbered through all jobs ---- */

struct matmul {
    const struct ml_exec *e;
    const struct ml_matmul_job *jobs;
    size_t n_jobs, unit[MAX_JOBS], first[MAX_JOBS + 1];
    size_t block[MAX_JOBS]; /* rows of x of one call of a kernel, 1: gemv */
};

static size_t rows_of_piece(const struct ml_matrix *w, size_t n) {
    if (n > 1) return ROW_UNIT;
    const size_t row_bytes = w->cols * ml_dtype_size(w->dtype) + 1, share = w->rows * row_bytes / SHARES;
    const size_t bytes = share < LEAST_PIECE ? LEAST_PIECE : share > MOST_PIECE ? MOST_PIECE : share;
    const size_t rows = bytes / row_bytes / 4 * 4;
    return rows < 4 ? 4 : rows;
}

static void matmul_piece(const struct matmul *m, size_t j, size_t piece, int worker) {
    const struct ml_matmul_job *job = &m->jobs[j];
    const struct ml_matrix *w = job->w;
    const struct ml_exec *e = m->e;
    const size_t row = (piece - m->first[j]) * m->unit[j];
    const size_t rows = w->rows - row < m->unit[j] ? w->rows - row : m->unit[j];
    const void *data = (const char *)w->data + row * w->stride * ml_dtype_size(w->dtype);
    void *scratch = (char *)e->scratch + (size_t)worker * e->scratch_stride;
    for (size_t t = 0; t < job->n; t += m->block[j]) {
        const size_t n = job->n - t < m->block[j] ? job->n - t : m->block[j];
        const float *x = job->x + t * job->ldx;
        float *y = job->y + t * job->ldy + row;
        if (n == 1)
            e->k->gemv[w->dtype](y, data, w->stride, x, rows, w->cols);
        else
            e->k->gemm[w->dtype](y, job->ldy, data, w->stride, x, job->ldx, n, rows, w->cols, scratch);
    }
}

static void matmul_range(void *arg, size_t begin, size_t end, int worker) {
    const struct matmul *m = arg;
    size_t j = 0;
    for (size_t i = begin; i < end; i++) {
        while (i >= m->first[j + 1])
            j++;
        matmul_piece(m, j, i, worker);
    }
}

/* Jobs from `j` on that multiply the same rows of x: their way is chosen for all of them together. */
static size_t same_rows(const struct ml_matmul_job *jobs, size_t n_jobs, size_t j) {
    size_t end = j + 1;
    while (end < n_jobs && end - j < ML_EXEC_SAME_X && jobs[end].x == jobs[j].x && jobs[end].n == jobs[j].n)
        end++;
    return end;
}

static size_t choose_block(const struct ml_exec *e, const struct ml_matmul_job *jobs, size_t n_jobs) {
    struct ml_product products[ML_EXEC_SAME_X];
    for (size_t j = 0; j < n_jobs; j++)
        products[j] = (struct ml_product){
            .kind = ml_kind_of_float(jobs[j].w->dtype), .n = jobs[j].w->rows, .k = jobs[j].w->cols};
    return ml_select(&e->select, products, n_jobs, jobs[0].n).block;
}

static void matmul_group(const struct ml_exec *e, const struct ml_matmul_job *jobs, size_t n_jobs) {
    struct matmul m;
    m.e = e;
    m.jobs = jobs;
    m.n_jobs = n_jobs;
    m.first[0] = 0;
    for (size_t j = 0, end; j < n_jobs; j = end) {
        end = same_rows(jobs, n_jobs, j);
        const size_t block = choose_block(e, jobs + j, end - j);
        for (size_t i = j; i < end; i++) {
            m.block[i] = block;
            m.unit[i] = rows_of_piece(jobs[i].w, jobs[i].n);
            m.first[i + 1] = m.first[i] + (jobs[i].w->rows + m.unit[i] - 1) / m.unit[i];
        }
    }
    ml_pool_for_runs(e->pool, m.first, n_jobs, 1, matmul_range, &m);
}

void ml_matmul_many(const struct ml_exec *e, const struct ml_matmul_job *jobs, size_t n_jobs) {
    for (size_t j = 0; j < n_jobs; j += MAX_JOBS)
        matmul_group(e, jobs + j, n_jobs - j < MAX_JOBS ? n_jobs - j : MAX_JOBS);
}

void ml_matmul(const struct ml_exec *e, const struct ml_matrix *w, const float *x, size_t ldx, size_t n,
               float *y, size_t ldy) {
    const struct ml_matmul_job job = {.w = w, .y = y, .ldy = ldy, .x = x, .ldx = ldx, .n = n};
    if (n > 0) ml_matmul_many(e, &job, 1);
}
