/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the files of the CPU's operations. Every one spreads its rows or pieces over the pool; rows and
 * pieces are independent, so that results do not depend on the number of threads.
 */
#ifndef ML_OPS_CPU_CPU_INT_H
#define ML_OPS_CPU_CPU_INT_H

#include "kernels/exec.h"
#include "ops/ops.h"

/* Working memory of a stream. */
struct ml_cpu_work {
    struct ml_exec exec;
    float *partial;      /* [rows, sum_rows]: one term of a sum of pieces; NULL where no layer is one */
    float *parts;        /* unfinished attention over chunks of long contexts */
    size_t parts_floats; /* how many there are */
    size_t *first;       /* [runs + 1] pieces of attention before each run */
    size_t *part_of;     /* [runs] where a run's parts begin; SIZE_MAX: it is not shared out */
    struct ml_linear_job *jobs; /* [2 * experts]: of a mixture of experts */
};

static inline struct ml_cpu_work *ml_cpu_work(const struct ml_stream *s) {
    return s->work;
}

/* Loops of at most so many rows stay with the caller: a fork-join costs about as much as a few rows. */
void ml_cpu_rows(const struct ml_cpu_work *w, size_t n, size_t grain, ml_range_fn *fn, void *arg);

/* Several products, any n of jobs, in as few fork-joins as possible. */
void ml_cpu_linears(const struct ml_cpu_work *w, enum ml_quant_mode mode, const struct ml_linear_job *jobs,
                    size_t n_jobs);

#define ML_CPU_ENTRY(name) void ml_cpu_##name(struct ml_stream *, const struct ml_##name##_op *);
ML_OPS(ML_CPU_ENTRY)
#undef ML_CPU_ENTRY

#endif
