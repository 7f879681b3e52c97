/* SPDX-License-Identifier: Apache-2.0
 *
 * One case of the kernel check, timed: runs of the kernel alternate with runs of the peaks, so that both see
 * the same neighbours; every figure is a median.
 */
#include "kernels/check/check_int.h"

#include "base/clock.h"

#include <stdlib.h>

enum { REPEATS = 9, QUICK = 3, MOST_CALLS = 1 << 20 };
static const double run_ns = 30e6, quick_ns = 2e6;

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, size_t n) {
    qsort(v, n, sizeof *v, by_value);
    return v[n / 2];
}

struct timed {
    ml_check_call_fn *fn;
    const struct ml_check_tables *tables;
    void *arg;
    size_t calls;
};

static double time_calls(const struct timed *t) {
    const uint64_t start = ml_clock_ns();
    for (size_t i = 0; i < t->calls; i++)
        t->fn(t->tables, t->arg);
    return (double)(ml_clock_ns() - start) / (double)t->calls;
}

/* So many calls that a run takes long enough. */
static void choose_calls(struct timed *t, double enough) {
    t->calls = 1;
    while (time_calls(t) * (double)t->calls < enough && t->calls < MOST_CALLS)
        t->calls *= 2;
}

void ml_check_time_case(struct ml_check *c, ml_check_call_fn *fn, void *arg) {
    struct timed t = {.fn = fn, .tables = c->tier, .arg = arg};
    struct ml_pool *pool = c->threads ? c->options->pool : NULL;
    double ns[REPEATS] = {0}, read[REPEATS] = {0}, compute[REPEATS] = {0};
    const size_t repeats = c->options->quick ? QUICK : REPEATS;
    bool has_peak = c->operations > 0;
    choose_calls(&t, c->options->quick ? quick_ns : run_ns);
    for (size_t i = 0; i < repeats; i++) {
        double gbps = 0, gops = 0;
        if (c->streams) gbps = ml_peak_reader_gbps(c->reader, pool, 1);
        if (has_peak) has_peak = ml_peak_gflops(pool, c->kind, &gops) == MARLIN_OK;
        ns[i] = time_calls(&t);
        read[i] = c->bytes / ns[i] / gbps;
        compute[i] = c->operations / ns[i] / gops;
    }
    c->total->checked++;
    c->row.params = c->params;
    c->row.ns = median(ns, repeats);
    c->row.gbps = c->bytes / c->row.ns;
    c->row.gops = c->operations / c->row.ns;
    if (c->streams) c->row.bandwidth_fraction = median(read, repeats);
    if (has_peak) c->row.compute_fraction = median(compute, repeats);
    ml_check_end_row(c);
}
