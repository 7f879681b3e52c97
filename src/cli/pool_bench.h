/* SPDX-License-Identifier: Apache-2.0
 *
 * The cost of a fork-join, for `marlin kernels --bench pool`.
 */
#ifndef ML_CLI_POOL_BENCH_H
#define ML_CLI_POOL_BENCH_H

#include "base/pool.h"

struct ml_pool_cost {
    int workers;
    double p10_us, median_us, p90_us; /* of one empty job, microseconds */
};

/* Takes well under a second on idle cores. One caller at a time. */
struct ml_pool_cost ml_pool_measure(struct ml_pool *p);

#endif
