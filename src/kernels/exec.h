/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with weights spread over the thread pool. One struct ml_exec a thread of control.
 */
#ifndef ML_KERNELS_EXEC_H
#define ML_KERNELS_EXEC_H

#include "base/pool.h"
#include "kernels/kernels.h"
#include "kernels/quant.h"
#include "kernels/selection.h"

struct ml_exec {
    const struct ml_kernels *k;
    struct ml_pool *pool; /* NULL = the calling thread alone */
    void *scratch;        /* per worker, ml_exec_scratch bytes each, made by ml_exec_create */
    size_t scratch_stride;
    struct ml_quant_scratch *quant; /* NULL until ml_exec_reserve_quant */
    struct ml_selection select; /* bound by ml_exec_create: ml_selection() for the tier and threads at hand */
};

marlin_status ml_exec_create(struct ml_exec *e, const struct ml_kernels *k, struct ml_pool *pool,
                             struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_exec_free(struct ml_exec *e);

/* Sets e->select from e->k and e->pool: for who makes a struct ml_exec by hand. */
void ml_exec_bind(struct ml_exec *e);

/* y[t, r] = W x[t] for n rows of x, the way that kernels/selection.h chooses. ldx, ldy in floats. Never
 * allocates. Each y value is the same for any number of threads. */
void ml_matmul(const struct ml_exec *e, const struct ml_matrix *w, const float *x, size_t ldx, size_t n,
               float *y, size_t ldy);

/* Several products in one fork-join: matrices over the same x (q, k and v; gate and up), or each over rows of
 * its own (experts). Jobs over the same rows stand next to each other. 1 <= n. */
struct ml_matmul_job {
    const struct ml_matrix *w;
    float *y; /* [n, w->rows], rows ldy apart */
    size_t ldy;
    const float *x; /* [n, w->cols], rows ldx apart */
    size_t ldx, n;
};
void ml_matmul_many(const struct ml_exec *e, const struct ml_matmul_job *jobs, size_t n_jobs);

enum { ML_EXEC_SAME_X = 16 }; /* most jobs over the same x whose way is chosen together */

/* What products with quantized matrices may ask for. */
struct ml_quant_room {
    size_t max_k, max_n; /* padded columns and rows of a matrix */
    size_t max_jobs;     /* matrices over the same rows of x in one fork-join */
    size_t max_batch;    /* rows of x */
};

/* Room for products with quantized matrices. Call once, after ml_exec_create. More jobs, or more rows in all,
 * than fit at once go in several fork-joins. */
marlin_status ml_exec_reserve_quant(struct ml_exec *e, const struct ml_quant_room *room,
                                    struct marlin_error *err) MARLIN_MUST_CHECK;

/* Bytes that ml_exec_reserve_quant takes for a pool of so many workers. */
size_t ml_exec_quant_bytes(size_t workers, const struct ml_quant_room *room);

/* y[t, r] = W x[t] for the rows of each job over quantized matrices of any formats (see kernels/quant.h for the
 * modes), in as few fork-joins as the room allows. Jobs over the same rows stand next to each other. Never
 * allocates. The same for any number of threads; in ML_QUANT_FAST also the same for any n and any other jobs: a
 * token's result does not depend on its neighbours. */
struct ml_quant_job {
    const struct ml_quant_matrix *w;
    float *y; /* [n, w->rows], rows ldy apart */
    size_t ldy;
    const float *x; /* [n, w->cols], rows ldx apart */
    size_t ldx, n;
};
void ml_quant_matmul_many(const struct ml_exec *e, enum ml_quant_mode mode, const struct ml_quant_job *jobs,
                          size_t n_jobs);

#endif
