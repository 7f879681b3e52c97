/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of `marlin bench`: bench.c reads options and says what is run, bench_runs.c measures,
 * bench_report.c writes results down.
 */
#ifndef ML_CLI_BENCH_H
#define ML_CLI_BENCH_H

#include "base/buf.h"
#include "cli/cli.h"
#include "engine/runtime.h"
#include "kernels/peak.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ML_BENCH_CHUNK = 512, ML_BENCH_NAME = 48 };

/* One test, repeated. */
struct ml_bench_run {
    char test[ML_BENCH_NAME]; /* "pp512", "tg64", "tg64@4096" */
    bool prompt;              /* tokens are fed in chunks; else one after the other */
    size_t tokens;            /* of each sequence */
    size_t batch;             /* sequences; 1 for a prompt */
    size_t start;             /* positions that the cache of each sequence holds before */
    double bytes;             /* weights, and with --depth keys and values, that one repeat reads */
    double operations;        /* that one repeat does with weights, a multiply-add being two */
    double *seconds;          /* [repeat] */
    double tokens_per_second; /* of all sequences; this and what follows from the median time */
    double gbps, bandwidth_fraction, compute_fraction;
};

/* What the machine can do, measured between the runs. */
struct ml_bench_machine {
    struct ml_peak_reader *reader;
    double *read, *flops, *ops; /* [room]: GB/s, Gflop/s, Gop/s of int8 (NaN: cannot) */
    size_t n, room;
    double last;                              /* when it was measured last, seconds */
    double read_gbps, bf16_gflops, int8_gops; /* medians; the last NaN where there is none */
};

struct ml_bench {
    struct ml_cli *cli;
    const struct ml_args *args;
    struct ml_runtime runtime;
    struct ml_work *work;
    struct ml_cache *cache; /* of the run that is measured, and its sequences */
    struct ml_sequence **sequences;
    struct ml_run *batch_runs; /* [most sequences] */
    size_t n_sequences, positions;
    float *logits; /* [most sequences, vocab] */
    int32_t *ids;  /* [longest prompt or most sequences] */
    size_t vocab, repeat, n_runs;
    struct ml_bench_run *runs; /* in the order in which they are done */
    bool deep;                 /* --depth was given */
    bool quantized;
    struct ml_bench_machine machine;
};

/* Makes the state and all memory for the runs, which are set up to `start`. MARLIN_ERR_LIMIT when one passes
 * the model's context, MARLIN_ERR_MEMORY when they do not fit into this machine. */
marlin_status ml_bench_prepare(struct ml_bench *b, struct marlin_error *err) MARLIN_MUST_CHECK;
/* Does all runs, fills their times and everything that follows from them. */
marlin_status ml_bench_measure(struct ml_bench *b, struct marlin_error *err) MARLIN_MUST_CHECK;
/* Does the runs of one sequence at the depth of the first once more, for --profile and --trace. */
marlin_status ml_bench_profile(struct ml_bench *b, struct marlin_error *err) MARLIN_MUST_CHECK;
/* What ml_bench_prepare and ml_bench_measure made, but not the runtime. */
void ml_bench_free(struct ml_bench *b);

/* Results as --json, --csv, --markdown or a table for people. */
marlin_status ml_bench_report(const struct ml_bench *b, struct ml_buf *out) MARLIN_MUST_CHECK;
/* The roofline picture with the runs on it. */
marlin_status ml_bench_plot(const struct ml_bench *b, const char *path,
                            struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
