/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the table of the CPU's operations and their working memory.
 */
#include "base/checked.h"
#include "base/mem.h"
#include "ops/cpu/cpu_int.h"

/* Contexts shared out at a time have room for so many of full length. */
enum { LONG_RUNS = 2 };

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

void ml_cpu_rows(const struct ml_cpu_work *w, size_t n, size_t grain, ml_range_fn *fn, void *arg) {
    if (n <= grain)
        fn(arg, 0, n, 0);
    else
        ml_pool_for(w->exec.pool, n, grain, fn, arg);
}

/* Each of q, k and v (gate and up; those of several experts) wants a copy of x of its own. */
static struct ml_quant_room quant_room(const struct ml_ops_sizes *z) {
    const size_t dense = 4, experts = 2 * z->top_k;
    const size_t jobs = larger(dense, experts);
    return (struct ml_quant_room){.max_k = z->quant_cols,
                                  .max_n = z->quant_rows,
                                  .max_jobs = jobs < ML_LINEAR_JOBS ? jobs : ML_LINEAR_JOBS,
                                  .max_batch = z->rows};
}

/* Floats of unfinished attention: none where a context is a single chunk. */
static bool parts_floats(const struct ml_ops_sizes *z, size_t *out) {
    const size_t chunks = (z->positions + ML_ATTENTION_CHUNK - 1) / ML_ATTENTION_CHUNK;
    *out = 0;
    if (chunks < 2) return true;
    return ml_mul_size(chunks, z->heads, out) && ml_mul_size(*out, z->v_dim + 2, out) &&
           ml_mul_size(*out, z->runs < LONG_RUNS ? z->runs : LONG_RUNS, out);
}

static bool partial_floats(const struct ml_ops_sizes *z, size_t *out) {
    return ml_mul_size(z->rows, z->sum_rows, out);
}

static bool add_array(size_t *sum, size_t count, size_t size) {
    size_t bytes;
    return ml_mul_size(count, size, &bytes) && ml_add_size(*sum, bytes, sum);
}

static bool cpu_bytes(const struct ml_ops_sizes *z, size_t threads, size_t *out) {
    const struct ml_quant_room room = quant_room(z);
    size_t parts, partial;
    *out = sizeof(struct ml_cpu_work);
    return parts_floats(z, &parts) && partial_floats(z, &partial) && add_array(out, parts, sizeof(float)) &&
           add_array(out, partial, sizeof(float)) && add_array(out, 2 * z->runs + 1, sizeof(size_t)) &&
           add_array(out, 2 * z->experts, sizeof(struct ml_linear_job)) &&
           add_array(out, threads, ml_gemm_scratch()) &&
           (z->quant_rows == 0 || add_array(out, ml_exec_quant_bytes(threads, &room), 1));
}

static void cpu_close(struct ml_stream *s) {
    struct ml_cpu_work *w = s->work;
    if (!w) return;
    ml_exec_free(&w->exec);
    ml_free_aligned(w->partial);
    ml_free_aligned(w->parts);
    ml_free(w->first);
    ml_free(w->part_of);
    ml_free(w->jobs);
    ml_free(w);
    s->work = NULL;
}

static marlin_status reserve(struct ml_cpu_work *w, const struct ml_ops_sizes *z, struct marlin_error *err) {
    size_t partial, bytes;
    if (!parts_floats(z, &w->parts_floats) || !partial_floats(z, &partial) ||
        !ml_mul_size(larger(w->parts_floats, partial), sizeof(float), &bytes))
        return ml_fail(err, MARLIN_ERR_LIMIT, "working memory for %zu rows a call passes the address space",
                       z->rows);
    w->first = ml_calloc(z->runs + 1, sizeof *w->first);
    w->part_of = ml_calloc(z->runs, sizeof *w->part_of);
    if (w->parts_floats) w->parts = ml_alloc_aligned(w->parts_floats * sizeof *w->parts);
    if (partial) w->partial = ml_alloc_aligned(partial * sizeof *w->partial);
    if (z->experts) w->jobs = ml_calloc(2 * z->experts, sizeof *w->jobs);
    if (w->first && w->part_of && (w->parts || !w->parts_floats) && (w->partial || !partial) &&
        (w->jobs || !z->experts))
        return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_MEMORY, "cannot allocate working memory to run %zu rows a call", z->rows);
}

static marlin_status cpu_open(struct ml_stream *s, struct ml_pool *pool, const struct ml_ops_sizes *z,
                              struct marlin_error *err) {
    const struct ml_quant_room room = quant_room(z);
    marlin_status st;
    struct ml_cpu_work *w = ml_calloc(1, sizeof *w);
    if (!w) return ml_fail(err, MARLIN_ERR_MEMORY, "operations on the CPU: out of memory");
    s->work = w;
    ML_TRY(ml_exec_create(&w->exec, ml_kernels(), pool, err));
    if (z->quant_rows) ML_TRY(ml_exec_reserve_quant(&w->exec, &room, err));
    ML_TRY(reserve(w, z, err));
out:
    if (st != MARLIN_OK) cpu_close(s);
    return st;
}

static marlin_status cpu_flush(struct ml_stream *s, struct marlin_error *err) {
    return s->device->ops->stream_sync(s, err);
}

void ml_ops_cpu_use(struct ml_stream *s, const struct ml_kernels *k) {
    ml_cpu_work(s)->exec.k = k;
    ml_exec_bind(&ml_cpu_work(s)->exec);
}

const struct ml_ops ml_ops_cpu = {.name = "cpu",
                                  .open = cpu_open,
                                  .close = cpu_close,
                                  .flush = cpu_flush,
                                  .bytes = cpu_bytes,
#define ENTRY(name) .name = ml_cpu_##name,
                                  ML_OPS(ENTRY)
#undef ENTRY
};
