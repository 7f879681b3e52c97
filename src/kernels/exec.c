/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels spread over the pool. Work is cut by shape alone, never by the number of threads, and no piece adds
 * to another's sums.
 */
#include "base/checked.h"
#include "base/mem.h"
#include "kernels/ops.h"
#include "kernels/tiers.h"
#include "kernels/tune.h"

#include <math.h>
#include <string.h>

enum {
    ROW_UNIT = 64, /* rows of a piece are a multiple of this: gemm's panel */
    /* gemv: bytes of W worth a visit to the shared counter, and at the end of which what was fetched ahead is
     * another worker's; small matrices still give every worker some. */
    SHARES = 8,
    LEAST_PIECE = 64 << 10,
    MOST_PIECE = 512 << 10,
    ATTENTION_ROWS = 48, /* query rows of a piece */
    PIECES_A_WORKER = 4, /* of attention, below which a context is shared out */
    MAX_GROUP_JOBS = 16
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
    size_t n_jobs, unit[MAX_GROUP_JOBS], first[MAX_GROUP_JOBS + 1];
    const float *x;
    size_t ldx, n, block; /* rows of x; those of one call of a kernel, 1: gemv */
};

static size_t rows_of_piece(const struct ml_matrix *w, size_t n) {
    if (n > 1) return ROW_UNIT;
    const size_t row_bytes = w->cols * ml_dtype_size(w->dtype) + 1, share = w->rows * row_bytes / SHARES;
    const size_t bytes = share < LEAST_PIECE ? LEAST_PIECE : share > MOST_PIECE ? MOST_PIECE : share;
    const size_t rows = bytes / row_bytes / 4 * 4;
    return rows < 4 ? 4 : rows;
}

static void matmul_piece(const struct matmul *m, size_t piece, int worker) {
    size_t j = 0;
    while (piece >= m->first[j + 1])
        j++;
    const struct ml_matmul_job *job = &m->jobs[j];
    const struct ml_matrix *w = job->w;
    const struct ml_exec *e = m->e;
    const size_t row = (piece - m->first[j]) * m->unit[j];
    const size_t rows = w->rows - row < m->unit[j] ? w->rows - row : m->unit[j];
    const void *data = (const char *)w->data + row * w->stride * ml_dtype_size(w->dtype);
    void *scratch = (char *)e->scratch + (size_t)worker * e->scratch_stride;
    for (size_t t = 0; t < m->n; t += m->block) {
        const size_t n = m->n - t < m->block ? m->n - t : m->block;
        const float *x = m->x + t * m->ldx;
        float *y = job->y + t * job->ldy + row;
        if (n == 1)
            e->k->gemv[w->dtype](y, data, w->stride, x, rows, w->cols);
        else
            e->k->gemm[w->dtype](y, job->ldy, data, w->stride, x, m->ldx, n, rows, w->cols, scratch);
    }
}

static void matmul_range(void *arg, size_t begin, size_t end, int worker) {
    for (size_t i = begin; i < end; i++)
        matmul_piece(arg, i, worker);
}

static void matmul_group(const struct ml_exec *e, const struct ml_matmul_job *jobs, size_t n_jobs,
                         const float *x, size_t ldx, size_t n) {
    struct matmul m = {.e = e, .jobs = jobs, .n_jobs = n_jobs, .x = x, .ldx = ldx, .n = n};
    struct ml_product products[MAX_GROUP_JOBS];
    for (size_t j = 0; j < n_jobs; j++)
        products[j] = (struct ml_product){
            .kind = ml_kind_of_float(jobs[j].w->dtype), .n = jobs[j].w->rows, .k = jobs[j].w->cols};
    m.block = ml_select(&e->select, products, n_jobs, n).block;
    for (size_t j = 0; j < n_jobs; j++) {
        m.unit[j] = rows_of_piece(jobs[j].w, n);
        m.first[j + 1] = m.first[j] + (jobs[j].w->rows + m.unit[j] - 1) / m.unit[j];
    }
    ml_pool_for_runs(e->pool, m.first, n_jobs, 1, matmul_range, &m);
}

void ml_matmul_many(const struct ml_exec *e, const struct ml_matmul_job *jobs, size_t n_jobs, const float *x,
                    size_t ldx, size_t n) {
    if (n == 0) return;
    for (size_t j = 0; j < n_jobs; j += MAX_GROUP_JOBS)
        matmul_group(e, jobs + j, n_jobs - j < MAX_GROUP_JOBS ? n_jobs - j : MAX_GROUP_JOBS, x, ldx, n);
}

void ml_matmul(const struct ml_exec *e, const struct ml_matrix *w, const float *x, size_t ldx, size_t n,
               float *y, size_t ldy) {
    const struct ml_matmul_job job = {w, y, ldy};
    ml_matmul_many(e, &job, 1, x, ldx, n);
}

/* ---- attention: pieces are a KV head and a run of tokens ---- */

struct attention {
    const struct ml_exec *e;
    const struct ml_attention_job *job;
    size_t tokens, blocks; /* of a piece; pieces of a head */
};

/* One KV head, from token `first` of the job on. */
static struct ml_attention_args head_args(const struct ml_attention_job *job, size_t head, size_t first,
                                          size_t tokens) {
    const size_t group = job->heads / job->kv_heads, at = head * group * job->head_dim;
    const size_t bytes = head * job->head_stride * ml_dtype_size(job->kv_type);
    return (struct ml_attention_args){
        .q = job->q + first * job->q_stride + at,
        .q_stride = job->q_stride,
        .out = job->out + first * job->out_stride + at,
        .out_stride = job->out_stride,
        .k = (const char *)job->k + bytes,
        .v = (const char *)job->v + bytes,
        .k_scales = job->k_scales ? job->k_scales + head * job->scale_stride : NULL,
        .v_scales = job->v_scales ? job->v_scales + head * job->scale_stride : NULL,
        .kv_stride = job->kv_stride,
        .head_dim = job->head_dim,
        .rows = tokens * group,
        .group = group,
        .pos0 = job->pos0 + first,
        .window = job->window,
        .scale = job->scale,
        .softcap = job->softcap,
        .sink = job->sinks ? job->sinks + head * group : NULL,
    };
}

static void attention_range(void *arg, size_t begin, size_t end, int worker) {
    const struct attention *p = arg;
    const struct ml_attention_job *job = p->job;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        /* Late tokens see the most keys: they go first. */
        const size_t first = (p->blocks - 1 - i / job->kv_heads) * p->tokens;
        const size_t tokens = job->n - first < p->tokens ? job->n - first : p->tokens;
        const struct ml_attention_args a = head_args(job, i % job->kv_heads, first, tokens);
        ml_attention_of(p->e->k, job->kv_type)(&a);
    }
}

/* ---- one token with a long context ----
 *
 * Pieces are a KV head and a chunk of its keys, whose unfinished rows are joined afterwards.
 *
 *   parts:  KV head 0, chunk 0: rows [group][head_dim], sums [group][2] | chunk 1 | ... | KV head 1 ...
 */

struct shared_out {
    const struct ml_exec *e;
    const struct ml_attention_job *job;
    size_t first, chunks; /* that the token sees */
    size_t group, floats; /* of a part */
};

static float *part_at(const struct shared_out *p, size_t head, size_t chunk) {
    return p->job->parts + (head * p->chunks + chunk) * p->floats;
}

static void part_range(void *arg, size_t begin, size_t end, int worker) {
    const struct shared_out *p = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        const size_t head = i / p->chunks, chunk = i % p->chunks;
        struct ml_attention_args a = head_args(p->job, head, 0, 1);
        a.out = part_at(p, head, chunk);
        a.sums = a.out + p->group * p->job->head_dim;
        a.chunk = p->first + chunk;
        ml_attention_of(p->e->k, p->job->kv_type)(&a);
    }
}

/* Row i is a query head. */
static void join_range(void *arg, size_t begin, size_t end, int worker) {
    const struct shared_out *p = arg;
    const size_t dim = p->job->head_dim;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        const size_t head = i / p->group, row = i % p->group;
        float *out = p->job->out + i * dim;
        float sums[2] = {p->job->sinks ? p->job->sinks[i] : -INFINITY, p->job->sinks ? 1.0f : 0.0f};
        memset(out, 0, dim * sizeof *out);
        for (size_t c = 0; c < p->chunks; c++) {
            const float *part = part_at(p, head, c);
            p->e->k->attention_join(out, sums, part + row * dim, part + p->group * dim + 2 * row, dim);
        }
        const float inv = 1.0f / sums[1];
        for (size_t d = 0; d < dim; d++)
            out[d] *= inv;
    }
}

static struct shared_out share_out(const struct ml_exec *e, const struct ml_attention_job *job) {
    const size_t pos = job->pos0, seen = job->window && pos + 1 > job->window ? pos + 1 - job->window : 0;
    struct shared_out p = {.e = e, .job = job, .group = job->heads / job->kv_heads};
    p.first = seen / ML_ATTENTION_CHUNK;
    p.chunks = pos / ML_ATTENTION_CHUNK + 1 - p.first;
    p.floats = p.group * (job->head_dim + 2);
    return p;
}

size_t ml_attention_parts(size_t heads, size_t head_dim, size_t positions) {
    return (positions + ML_ATTENTION_CHUNK - 1) / ML_ATTENTION_CHUNK * heads * (head_dim + 2);
}

void ml_attention(const struct ml_exec *e, const struct ml_attention_job *job) {
    const size_t group = job->heads / job->kv_heads;
    if (job->n == 0) return;
    struct shared_out shared = share_out(e, job);
    /* Portable C takes the keys in two passes, which its chunks equal but for rounding: it never shares out.
     */
    if (job->n == 1 && job->parts && shared.chunks > 1 && e->k->tier != ML_CPU_GENERIC &&
        job->kv_heads < PIECES_A_WORKER * (size_t)ml_pool_size(e->pool)) {
        ml_pool_for(e->pool, shared.chunks * job->kv_heads, 1, part_range, &shared);
        ml_pool_for(e->pool, job->heads, 1, join_range, &shared);
        return;
    }
    struct attention p = {.e = e, .job = job, .tokens = (ATTENTION_ROWS + group - 1) / group};
    p.blocks = (job->n + p.tokens - 1) / p.tokens;
    ml_pool_for(e->pool, p.blocks * job->kv_heads, 1, attention_range, &p);
}
