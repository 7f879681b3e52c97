/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels spread over the thread pool: what the forward pass calls. One struct ml_exec a thread of control.
 */
#ifndef ML_KERNELS_OPS_H
#define ML_KERNELS_OPS_H

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

/* Several matrices over the same x in one fork-join (q/k/v, gate/up). */
struct ml_matmul_job {
    const struct ml_matrix *w;
    float *y;
    size_t ldy;
};
void ml_matmul_many(const struct ml_exec *e, const struct ml_matmul_job *jobs, size_t n_jobs, const float *x,
                    size_t ldx, size_t n);

/* Room for products with quantized matrices of at most max_k (padded) columns and max_n (padded) rows, up to
 * max_jobs of them in one call, and max_batch rows of x. Call once, after ml_exec_create. */
marlin_status ml_exec_reserve_quant(struct ml_exec *e, size_t max_k, size_t max_n, size_t max_jobs,
                                    size_t max_batch, struct marlin_error *err) MARLIN_MUST_CHECK;

/* Bytes that ml_exec_reserve_quant takes for a pool of so many workers. */
size_t ml_exec_quant_bytes(size_t workers, size_t max_k, size_t max_n, size_t max_jobs, size_t max_batch);

/* y[t, r] = W x[t] for n rows of x over several quantized matrices of any formats (see kernels/quant.h for
 * the modes). y rows have w->rows floats, ldy apart. Never allocates. The same for any number of threads; in
 * ML_QUANT_FAST also the same for any n: a token's result does not depend on its neighbours. */
struct ml_quant_job {
    const struct ml_quant_matrix *w;
    float *y;
    size_t ldy;
};
void ml_quant_matmul_many(const struct ml_exec *e, enum ml_quant_mode mode, const struct ml_quant_job *jobs,
                          size_t n_jobs, const float *x, size_t ldx, size_t n);

/* Attention of n tokens at positions pos0.. over all heads. q, out: [n, heads * head_dim] with strides.
 * k, v: per KV head h at k + h * head_stride elements. With `parts`, one token's long context may be
 * shared out over more workers than there are KV heads; the result is the same bit for bit. */
struct ml_attention_job {
    const float *q;
    size_t q_stride;
    float *out;
    size_t out_stride;
    const void *k, *v;
    enum ml_dtype kv_type;
    size_t kv_stride, head_stride;    /* elements */
    const float *k_scales, *v_scales; /* of int8: KV head h's by position at h * scale_stride; else NULL */
    size_t scale_stride;
    size_t heads, kv_heads, head_dim, n, pos0, window;
    float scale, softcap;
    const float *sinks; /* [heads] or NULL */
    float *parts;       /* ml_attention_parts(heads, head_dim, pos0 + n) floats, or NULL */
};

/* Floats that one token's unfinished rows over `positions` keys take. */
size_t ml_attention_parts(size_t heads, size_t head_dim, size_t positions);

void ml_attention(const struct ml_exec *e, const struct ml_attention_job *job);

#endif
