/* SPDX-License-Identifier: Apache-2.0
 *
 * Peaks of the machine. Every worker runs the same loop between two joins; pieces are handed out dynamically
 * when reading, so that a preempted core does not hold up the other.
 */
#include "kernels/peak.h"

#include "base/clock.h"
#include "base/mem.h"
#include "kernels/tiers.h"

enum { BUFFER_FLOATS = 192 << 20, PIECE = 64 << 10, PIECES_AT_ONCE = 16, FLOP_RUNS = 12, ROUNDS = 1 << 18 };

static struct ml_peak_kernels peak_kernels(void) {
    struct ml_peak_kernels k = {0};
    ml_peak_init_reference(&k);
    const struct ml_cpu *cpu = ml_cpu();
#if defined(__x86_64__)
    if (ml_cpu_tier_has(cpu->tier, ML_CPU_AVX2)) ml_peak_init_avx2(&k);
    if (ml_cpu_tier_has(cpu->tier, ML_CPU_AVX512)) ml_peak_init_avx512(&k);
    if (ml_cpu_tier_has(cpu->tier, ML_CPU_AVX512) && cpu->avx512bf16) ml_peak_init_avx512bf16(&k);
    if (ml_cpu_tier_has(cpu->tier, ML_CPU_AMX)) ml_peak_init_amx(&k);
#elif defined(__aarch64__)
    if (ml_cpu_tier_has(cpu->tier, ML_CPU_NEON)) ml_peak_init_neon(&k);
#else
    (void)cpu;
#endif
    return k;
}

struct ml_peak_reader {
    float (*read)(const float *p, size_t n);
    float *buffer;
    volatile float sink; /* never written, for the sums are positive: but the compiler cannot know */
};

static void fill_range(void *arg, size_t begin, size_t end, int worker) {
    struct ml_peak_reader *r = arg;
    (void)worker;
    for (size_t i = begin * PIECE; i < end * PIECE; i++)
        r->buffer[i] = 1;
}

static void read_range(void *arg, size_t begin, size_t end, int worker) {
    struct ml_peak_reader *r = arg;
    (void)worker;
    if (r->read(r->buffer + begin * PIECE, (end - begin) * PIECE) < 0) r->sink = 1;
}

marlin_status ml_peak_reader_create(struct ml_pool *pool, struct ml_peak_reader **out,
                                    struct marlin_error *err) {
    struct ml_peak_reader *r = ml_calloc(1, sizeof *r);
    if (r) r->buffer = ml_alloc_aligned((size_t)BUFFER_FLOATS * sizeof *r->buffer);
    if (!r || !r->buffer) {
        ml_free(r);
        return ml_fail(err, MARLIN_ERR_MEMORY,
                       "no memory to measure the machine's read bandwidth with: %zu MiB",
                       (size_t)BUFFER_FLOATS * sizeof(float) >> 20);
    }
    r->read = peak_kernels().read;
    ml_pool_for(pool, BUFFER_FLOATS / PIECE, PIECES_AT_ONCE, fill_range, r);
    *out = r;
    return MARLIN_OK;
}

void ml_peak_reader_free(struct ml_peak_reader *r) {
    if (!r) return;
    ml_free_aligned(r->buffer);
    ml_free(r);
}

double ml_peak_reader_gbps(struct ml_peak_reader *r, struct ml_pool *pool, int passes) {
    double best = 0;
    for (int i = 0; i < passes; i++) {
        const uint64_t start = ml_clock_ns();
        ml_pool_for(pool, BUFFER_FLOATS / PIECE, PIECES_AT_ONCE, read_range, r);
        const double rate = (double)BUFFER_FLOATS * sizeof *r->buffer / (double)(ml_clock_ns() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

marlin_status ml_peak_read_gbps(struct ml_pool *pool, double *gbps) {
    struct ml_peak_reader *r = NULL;
    const marlin_status st = ml_peak_reader_create(pool, &r, NULL);
    if (st == MARLIN_OK) *gbps = ml_peak_reader_gbps(r, pool, 5);
    ml_peak_reader_free(r);
    return st;
}

enum { MAX_WORKERS = 1024 };

struct flop_run {
    double (*loop)(size_t rounds, float *sink);
    double done[MAX_WORKERS];
};

static void flop_worker(void *arg, int worker, int workers) {
    struct flop_run *r = arg;
    float sink;
    (void)workers;
    if (worker < MAX_WORKERS) r->done[worker] = r->loop(ROUNDS, &sink);
}

marlin_status ml_peak_gflops(struct ml_pool *pool, enum ml_peak_kind kind, double *gflops) {
    const struct ml_peak_kernels k = peak_kernels();
    struct flop_run r = {.loop = kind == ML_PEAK_F32 ? k.f32 : kind == ML_PEAK_BF16 ? k.bf16 : k.int8};
    if (!r.loop) return MARLIN_ERR_UNSUPPORTED;
    double best = 0;
    const int workers = ml_pool_size(pool) < MAX_WORKERS ? ml_pool_size(pool) : MAX_WORKERS;
    for (int i = 0; i < FLOP_RUNS; i++) {
        const uint64_t start = ml_clock_ns();
        ml_pool_run(pool, flop_worker, &r);
        const double ns = (double)(ml_clock_ns() - start);
        double done = 0;
        for (int w = 0; w < workers; w++)
            done += r.done[w];
        best = done / ns > best ? done / ns : best;
    }
    *gflops = best;
    return MARLIN_OK;
}
