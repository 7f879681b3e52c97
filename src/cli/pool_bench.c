/* SPDX-License-Identifier: Apache-2.0
 *
 * What one fork-join of the thread pool costs: an empty job, timed many times.
 */
#include "cli/pool_bench.h"

#include "base/clock.h"

#include <stdlib.h>

enum { WARM_UP = 1000, SAMPLES = 20000 };

static void nothing(void *arg, int worker, int workers) {
    (void)arg;
    (void)worker;
    (void)workers;
}

static int by_value(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

struct ml_pool_cost ml_pool_measure(struct ml_pool *p) {
    static uint64_t ns[SAMPLES];
    for (int i = 0; i < WARM_UP; i++) {
        ml_pool_run(p, nothing, NULL);
    }
    for (int i = 0; i < SAMPLES; i++) {
        const uint64_t start = ml_clock_ns();
        ml_pool_run(p, nothing, NULL);
        ns[i] = ml_clock_ns() - start;
    }
    qsort(ns, SAMPLES, sizeof *ns, by_value);
    const size_t p10 = SAMPLES / 10, middle = SAMPLES / 2, p90 = SAMPLES / 10 * 9;
    return (struct ml_pool_cost){.workers = ml_pool_size(p),
                                 .median_us = (double)ns[middle] * 1e-3,
                                 .p10_us = (double)ns[p10] * 1e-3,
                                 .p90_us = (double)ns[p90] * 1e-3};
}
