/* SPDX-License-Identifier: Apache-2.0
 *
 * Measuring. The machine's read bandwidth and peak are measured between the runs, so that both see the same
 * neighbours; every figure is a median.
 */
#include "base/checked.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/progress.h"
#include "cli/bench.h"
#include "cli/profile_text.h"
#include "models/profile.h"

#include <math.h>
#include <stdlib.h>

enum { READ_PASSES = 3, WARM_TOKENS = 4, MAX_EVENTS = 1 << 20 };
static const double fresh_seconds = 2; /* so long a measurement of the machine stands for runs */

/* ---- memory ---- */

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* Largest sizes over all runs. */
struct sizes {
    size_t held;      /* positions of all sequences of a run together */
    size_t positions; /* of one sequence */
    size_t batch, ids;
};

static marlin_status find_sizes(const struct ml_bench *b, struct sizes *s, struct marlin_error *err) {
    const int64_t context = ml_model_config(b->runtime.model)->max_positions;
    *s = (struct sizes){1, 1, 1, 1};
    for (size_t i = 0; i < b->n_runs; i++) {
        const struct ml_bench_run *r = &b->runs[i];
        if (context > 0 && r->start + r->tokens > (size_t)context)
            return ml_fail(
                err, MARLIN_ERR_LIMIT,
                "bench %s: %zu tokens after %zu pass the context of the model, %lld positions: ask for "
                "less",
                r->test, r->tokens, r->start, (long long)context);
        s->held = larger(s->held, r->batch * (r->start + r->tokens));
        s->positions = larger(s->positions, r->start + r->tokens);
        s->batch = larger(s->batch, r->batch);
        s->ids = larger(s->ids, r->prompt ? r->tokens : r->batch);
    }
    return MARLIN_OK;
}

/* Memory that the system lends without having it would end the process while it is filled. Weights of a file
 * may be more than the machine has: they are read again and again then. */
static marlin_status check_memory(const struct ml_bench *b, const struct sizes *s, struct marlin_error *err) {
    struct ml_memory_estimate e;
    uint64_t free_bytes, total;
    const marlin_status st = ml_model_estimate_of(b->runtime.model, s->held, ML_BENCH_CHUNK, &e, err);
    if (st != MARLIN_OK) return st;
    const uint64_t needed = e.total - (ml_args_string(b->args, "shape") ? 0 : e.weights);
    b->runtime.device->ops->memory(b->runtime.device, &free_bytes, &total);
    if (total == 0 || needed <= total) return MARLIN_OK;
    return ml_fail(
        err, MARLIN_ERR_MEMORY,
        "bench: a cache of %zu positions and what else is held take %.1f GiB, this machine has %.1f: ask "
        "for fewer sequences or less depth",
        s->held, (double)needed / (1 << 30), (double)total / (1 << 30));
}

static marlin_status reserve_times(struct ml_bench *b, struct marlin_error *err) {
    struct ml_bench_machine *m = &b->machine;
    m->room = b->n_runs * b->repeat;
    m->read = ml_calloc(m->room, sizeof *m->read);
    m->flops = ml_calloc(m->room, sizeof *m->flops);
    m->ops = ml_calloc(m->room, sizeof *m->ops);
    bool all = m->read && m->flops && m->ops;
    for (size_t i = 0; i < b->n_runs; i++) {
        b->runs[i].seconds = ml_calloc(b->repeat, sizeof *b->runs[i].seconds);
        all = all && b->runs[i].seconds;
    }
    return all ? MARLIN_OK : ml_fail(err, MARLIN_ERR_MEMORY, "bench: out of memory");
}

marlin_status ml_bench_prepare(struct ml_bench *b, struct marlin_error *err) {
    struct sizes s;
    size_t logits_bytes;
    marlin_status st;
    b->vocab = (size_t)ml_model_config(b->runtime.model)->vocab_size;
    ML_TRY(find_sizes(b, &s, err));
    ML_TRY(check_memory(b, &s, err));
    ML_TRY(reserve_times(b, err));
    if (ml_mul_size(s.batch * b->vocab, sizeof(float), &logits_bytes))
        b->logits = ml_alloc_aligned(logits_bytes);
    b->ids = ml_calloc(s.ids, sizeof *b->ids);
    b->sequences = ml_calloc(s.batch, sizeof(struct ml_sequence *));
    b->batch_runs = ml_calloc(s.batch, sizeof *b->batch_runs);
    if (!b->logits || !b->ids || !b->sequences || !b->batch_runs) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "bench: out of memory");
        goto out;
    }
    const struct ml_work_sizes sizes = {
        .rows = larger(ML_BENCH_CHUNK, s.batch), .runs = s.batch, .positions = s.positions};
    ML_TRY(ml_work_create(b->runtime.model, b->runtime.pool, &sizes, &b->work, err));
out:
    return st;
}

/* ---- the sequences of a run ---- */

static void free_sequences(struct ml_bench *b) {
    for (size_t i = 0; i < b->n_sequences; i++)
        ml_sequence_free(b->sequences[i]);
    ml_cache_free(b->cache);
    b->cache = NULL;
    b->n_sequences = 0;
}

static marlin_status make_sequences(struct ml_bench *b, const struct ml_bench_run *r,
                                    struct marlin_error *err) {
    const struct ml_model *m = b->runtime.model;
    const struct ml_pages_sizes sizes = {
        .sequences = r->batch, .positions = r->start + r->tokens, .rows = ml_work_rows(b->work)};
    marlin_status st;
    free_sequences(b);
    ML_TRY(ml_cache_create(m, ml_model_kv_dtype(m), &sizes, &b->cache, err));
    for (; b->n_sequences < r->batch; b->n_sequences++)
        ML_TRY(ml_sequence_create(b->cache, sizes.positions, &b->sequences[b->n_sequences], err));
    b->positions = sizes.positions;
out:
    return st;
}

/* Every sequence holds r->start positions, of anything: they are made once for runs alike, and cut back. */
static marlin_status reset_sequences(struct ml_bench *b, const struct ml_bench_run *r,
                                     struct marlin_error *err) {
    marlin_status st = MARLIN_OK;
    if (b->n_sequences != r->batch || b->positions != r->start + r->tokens) ML_TRY(make_sequences(b, r, err));
    for (size_t i = 0; i < r->batch; i++) {
        if (ml_sequence_rewind(b->sequences[i], r->start) == r->start) continue;
        (void)ml_sequence_rewind(b->sequences[i], 0);
        ML_TRY(ml_sequence_fill(b->work, b->sequences[i], r->start, err));
    }
out:
    return st;
}

void ml_bench_free(struct ml_bench *b) {
    for (size_t i = 0; i < b->n_runs; i++)
        ml_free(b->runs[i].seconds);
    ml_free(b->runs);
    ml_free(b->machine.read);
    ml_free(b->machine.flops);
    ml_free(b->machine.ops);
    ml_peak_reader_free(b->machine.reader);
    free_sequences(b);
    ml_free(b->sequences);
    ml_free(b->batch_runs);
    ml_work_free(b->work);
    ml_free_aligned(b->logits);
    ml_free(b->ids);
}

/* ---- one run ---- */

static marlin_status feed_prompt(struct ml_bench *b, size_t tokens, struct marlin_error *err) {
    /* Spread over the vocabulary, so that the embedding rows are not all in one cache line. */
    for (size_t i = 0; i < tokens; i++)
        b->ids[i] = (int32_t)(i * 7919 % b->vocab);
    for (size_t at = 0; at < tokens; at += ML_BENCH_CHUNK) {
        const size_t left = tokens - at, n = left < ML_BENCH_CHUNK ? left : ML_BENCH_CHUNK;
        const marlin_status st =
            ml_feed(b->work, b->sequences[0], b->ids + at, n, n == left ? ML_LOGITS_LAST : ML_LOGITS_NONE,
                    n == left ? b->logits : NULL, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static int32_t token_id(const struct ml_bench *b, size_t step, size_t sequence) {
    return (int32_t)((step * 104729 + sequence * 15485863) % b->vocab);
}

static marlin_status generate(struct ml_bench *b, const struct ml_bench_run *r, size_t tokens,
                              struct marlin_error *err) {
    for (size_t i = 0; i < tokens; i++) {
        for (size_t j = 0; j < r->batch; j++) {
            b->ids[j] = token_id(b, i, j);
            b->batch_runs[j] =
                (struct ml_run){.sequence = b->sequences[j], .first = j, .n = 1, .logits = ML_LOGITS_LAST};
        }
        struct ml_batch step = {.n = r->batch, .ids = b->ids, .runs = b->batch_runs, .n_runs = r->batch};
        const marlin_status st = ml_forward(b->work, &step, b->logits, err);
        if (st != MARLIN_OK) return st;
    }
    return ml_model_check(b->runtime.model, err);
}

static marlin_status do_run(struct ml_bench *b, const struct ml_bench_run *r, size_t tokens, double *seconds,
                            struct marlin_error *err) {
    marlin_status st = reset_sequences(b, r, err);
    if (st != MARLIN_OK) return st;
    const double start = ml_clock_seconds();
    st = r->prompt ? feed_prompt(b, tokens, err) : generate(b, r, tokens, err);
    *seconds = ml_clock_seconds() - start;
    return st;
}

/* ---- all runs ---- */

static marlin_status measure_peaks(struct ml_bench *b, struct marlin_error *err) {
    struct ml_bench_machine *m = &b->machine;
    struct ml_pool *pool = b->runtime.pool;
    marlin_status st;
    if (!m->reader) ML_TRY(ml_peak_reader_create(pool, &m->reader, err));
    m->read[m->n] = ml_peak_reader_gbps(m->reader, pool, READ_PASSES);
    /* bf16 weights are multiplied by float32 inputs: that unit's peak is the limit. */
    ML_TRY(ml_peak_gflops(pool, ML_PEAK_F32, &m->flops[m->n]));
    /* Quantized ones by int8 inputs. */
    st = ml_peak_gflops(pool, ML_PEAK_INT8, &m->ops[m->n]);
    if (st == MARLIN_ERR_UNSUPPORTED) {
        m->ops[m->n] = NAN;
        st = MARLIN_OK;
    }
out:
    if (st != MARLIN_OK) return ml_fail(err, st, "bench: no memory to measure the machine with");
    m->n++;
    m->last = ml_clock_seconds();
    return MARLIN_OK;
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, size_t n) {
    qsort(v, n, sizeof(*v), compare_doubles);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* Keys and values that a run reads, each once a call. */
static double cache_bytes(const struct ml_bench *b, const struct ml_bench_run *r) {
    const size_t step = r->prompt ? ML_BENCH_CHUNK : 1;
    double sum = 0;
    for (size_t at = 0; at < r->tokens; at += step) {
        const size_t left = r->tokens - at;
        sum += (double)r->batch * (double)ml_model_cache_bytes(b->runtime.model,
                                                               ml_model_kv_dtype(b->runtime.model),
                                                               r->start + at, left < step ? left : step);
    }
    return sum;
}

/* Weights are read once a call: a chunk of a prompt, or a token of every sequence. */
static void count_work(const struct ml_bench *b, struct ml_bench_run *r) {
    const size_t calls = r->prompt ? (r->tokens + ML_BENCH_CHUNK - 1) / ML_BENCH_CHUNK : r->tokens;
    r->bytes = (double)ml_model_bytes_per_token(b->runtime.model) * (double)calls;
    if (b->deep) r->bytes += cache_bytes(b, r);
    r->operations =
        2 * (double)ml_model_products_per_token(b->runtime.model) * (double)r->tokens * (double)r->batch;
}

static void summarize(struct ml_bench *b) {
    struct ml_bench_machine *m = &b->machine;
    m->read_gbps = median(m->read, m->n);
    m->bf16_gflops = median(m->flops, m->n);
    m->int8_gops = isnan(m->ops[0]) ? NAN : median(m->ops, m->n);
    const double peak = b->quantized ? m->int8_gops : m->bf16_gflops;
    for (size_t i = 0; i < b->n_runs; i++) {
        struct ml_bench_run *r = &b->runs[i];
        const double seconds = median(r->seconds, b->repeat);
        count_work(b, r);
        r->tokens_per_second = (double)(r->tokens * r->batch) / seconds;
        r->gbps = r->bytes / seconds / 1e9;
        r->bandwidth_fraction = r->gbps / m->read_gbps;
        r->compute_fraction = r->operations / seconds / 1e9 / peak;
    }
}

marlin_status ml_bench_measure(struct ml_bench *b, struct marlin_error *err) {
    marlin_status st = MARLIN_OK;
    struct ml_progress progress;
    size_t done = 0;
    double warm;
    ml_progress_begin(&progress, "benchmark", (b->repeat + 1) * b->n_runs, b->cli->quiet);
    for (size_t k = 0; k < b->n_runs; k++) {
        const struct ml_bench_run *r = &b->runs[k];
        ml_progress_update(&progress, done++, "warming up");
        ML_TRY(do_run(b, r, r->prompt || r->tokens < WARM_TOKENS ? r->tokens : WARM_TOKENS, &warm, err));
    }
    for (size_t i = 0; i < b->repeat; i++)
        for (size_t k = 0; k < b->n_runs; k++) {
            ml_progress_update(&progress, done++, b->runs[k].test);
            if (k == 0 || ml_clock_seconds() - b->machine.last > fresh_seconds) ML_TRY(measure_peaks(b, err));
            ML_TRY(do_run(b, &b->runs[k], b->runs[k].tokens, &b->runs[k].seconds[i], err));
        }
    summarize(b);
out:
    ml_progress_end(&progress);
    return st;
}

/* ---- stages ---- */

/* One sequence, whatever --batch asks for: stages of several sequences at a time are not told apart from a
 * prompt's. */
static marlin_status run_profiled(struct ml_bench *b, struct ml_profile *p, struct marlin_error *err) {
    const size_t start = b->runs[0].start;
    bool generated = false;
    marlin_status st = MARLIN_OK;
    double seconds;
    ml_work_profile(b->work, p);
    for (size_t i = 0; i < b->n_runs && !generated; i++) {
        struct ml_bench_run r = b->runs[i];
        if (b->deep && r.start != start) break;
        r.batch = 1;
        generated = !r.prompt;
        ML_TRY(do_run(b, &r, r.tokens, &seconds, err));
    }
out:
    ml_work_profile(b->work, NULL);
    return st;
}

marlin_status ml_bench_profile(struct ml_bench *b, struct marlin_error *err) {
    const char *trace = ml_args_string(b->args, "trace");
    struct ml_profile *p = NULL;
    marlin_status st;
    ML_TRY(ml_profile_create(&p, trace ? MAX_EVENTS : 0, err));
    ML_TRY(run_profiled(b, p, err));
    if (ml_args_flag(b->args, "profile")) ML_TRY(ml_cli_print_profile(p, b->runtime.pool, err));
    if (trace) ML_TRY(ml_cli_write_trace(b->cli, p, trace, err));
out:
    ml_profile_free(p);
    return st;
}
