/* SPDX-License-Identifier: Apache-2.0
 *
 * Times products of quantized matrices by themselves. Not a part of the program.
 *
 *   bench_quant [TIER]    cache: one strip over and over on one thread, nanoseconds and weights a nanosecond
 *                         stream: matrices of Qwen3-4B's size, over 512 MiB in all, one row of x, all
 * threads, beside the read bandwidth measured between them; then 8 and 512 rows of x against the int8 peak
 */
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/ops.h"
#include "kernels/peak.h"
#include "packing/codes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { K = 2560, N = 9728, MAX_COPIES = 64, REPEATS = 7 };

struct type {
    enum ml_quant_format format;
    int bits;
    enum ml_exl3_codebook codebook;
    const char *name;
};

static const struct type types[] = {
    {ML_QUANT_INT8, 8, ML_EXL3_3INST, "int8"},         {ML_QUANT_TAP, 2, ML_EXL3_3INST, "tap 2"},
    {ML_QUANT_TAP, 3, ML_EXL3_3INST, "tap 3"},         {ML_QUANT_TAP, 4, ML_EXL3_3INST, "tap 4"},
    {ML_QUANT_TAP, 5, ML_EXL3_3INST, "tap 5"},         {ML_QUANT_TAP, 6, ML_EXL3_3INST, "tap 6"},
    {ML_QUANT_EXL3, 2, ML_EXL3_MUL1, "exl3 2 mul1"},   {ML_QUANT_EXL3, 3, ML_EXL3_MUL1, "exl3 3 mul1"},
    {ML_QUANT_EXL3, 4, ML_EXL3_MUL1, "exl3 4 mul1"},   {ML_QUANT_EXL3, 4, ML_EXL3_MCG, "exl3 4 mcg"},
    {ML_QUANT_EXL3, 4, ML_EXL3_3INST, "exl3 4 3inst"}, {ML_QUANT_EXL3, 3, ML_EXL3_3INST, "exl3 3 3inst"},
};

struct bench {
    const struct ml_kernels *k;
    struct ml_pool *pool;
    struct ml_exec exec;
    float *x, *y, *scale;
};

static void *need(void *p) {
    if (!p) {
        (void)fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

static void fill_range(void *arg, size_t begin, size_t end, int worker) {
    uint64_t *p = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        uint64_t v = (i + 1) * 0x9e3779b97f4a7c15u;
        v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
        p[i] = v ^ v >> 27;
    }
}

static struct ml_quant_matrix matrix(const struct bench *b, const struct type *t, size_t n) {
    struct ml_quant_matrix m = {.format = t->format, .bits = t->bits, .rows = n, .cols = K, .n = n, .k = K};
    const size_t bytes = n * K / 8 * (size_t)t->bits;
    uint8_t *data = need(ml_alloc_aligned(bytes));
    ml_pool_for(b->pool, bytes / 8, 4096, fill_range, data);
    m.codebook = t->codebook;
    m.data = data;
    m.su = m.sv = b->scale;
    if (t->format == ML_QUANT_TAP) m.code = ml_tap_code_find((unsigned)t->bits, ML_TAP_WINDOW_NORMAL);
    if (ml_quant_arranged_bytes(b->k, &m)) m.arranged = data; /* random bits are random bits */
    return m;
}

static double in_cache(const struct bench *b, const struct type *t) {
    const struct ml_quant_matrix m = matrix(b, t, 128);
    float z[ML_QUANT_STRIP];
    struct ml_quant_x x = {.a = need(ml_alloc_aligned(ml_quant_x_bytes(K)))};
    b->k->quant.round(&x, &m, ML_QUANT_ONE, b->x);
    double best = 1e9;
    for (int i = 0; i < 300; i++) {
        const uint64_t start = ml_clock_ns();
        for (int j = 0; j < 10; j++)
            b->k->quant.dot(z, &m, 0, &x);
        const double ns = (double)(ml_clock_ns() - start) / 10;
        best = ns < best ? ns : best;
    }
    ml_free_aligned((void *)m.data);
    ml_free_aligned(x.a);
    return best;
}

static double median(double *v, int n) {
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && v[j] < v[j - 1]; j--) {
            const double t = v[j];
            v[j] = v[j - 1];
            v[j - 1] = t;
        }
    return v[n / 2];
}

static double seconds(const struct bench *b, const struct ml_quant_matrix *m, int copies, size_t rows) {
    const uint64_t start = ml_clock_ns();
    for (int i = 0; i < copies; i++) {
        const struct ml_quant_job job = {&m[i], b->y, N};
        ml_quant_matmul_many(&b->exec, ML_QUANT_FAST, &job, 1, b->x, K, rows);
    }
    return (double)(ml_clock_ns() - start) * 1e-9;
}

static void run(const struct bench *b, const struct type *t) {
    struct ml_quant_matrix m[MAX_COPIES];
    const double bytes = (double)N * K / 8 * t->bits, weights = (double)N * K;
    int copies = 0;
    while (copies < MAX_COPIES && copies * bytes < 512e6)
        m[copies++] = matrix(b, t, N);
    double share[REPEATS], rate[REPEATS], pp[REPEATS], few[REPEATS], read = 0, peak = 0;
    for (int i = 0; i < REPEATS; i++) {
        if (ml_peak_read_gbps(b->pool, &read) != MARLIN_OK) exit(1);
        rate[i] = bytes * copies / seconds(b, m, copies, 1) * 1e-9;
        share[i] = rate[i] / read;
        few[i] = bytes * copies / seconds(b, m, copies, 8) * 1e-9;
        if (ml_peak_gflops(b->pool, ML_PEAK_INT8, &peak) != MARLIN_OK) peak = 1;
        pp[i] = 2 * weights * 512 / seconds(b, m, 1, 512) * 1e-9 / peak;
    }
    const double ns = in_cache(b, t), gbps = median(rate, REPEATS);
    (void)printf(
        "%-13s cache %6.0f ns, %5.1f w/ns, %5.1f GB/s | 1 row %5.1f GB/s %3.0f %% of read | 8 rows %5.1f"
        " GB/s | 512 rows %3.0f %% of %.0f GOP/s\n",
        t->name, ns, 16.0 * K / ns, 2.0 * K * t->bits / ns, gbps, 100 * median(share, REPEATS),
        median(few, REPEATS), 100 * median(pp, REPEATS), peak);
    (void)fflush(stdout);
    for (int i = 0; i < copies; i++)
        ml_free_aligned((void *)m[i].data);
}

int main(int argc, char **argv) {
    struct bench b = {0};
    struct marlin_error err;
    if (argc > 1 && !ml_cpu_set_mask(argv[1])) return 1;
    b.k = ml_kernels();
    if (ml_pool_create(0, &b.pool, &err) != MARLIN_OK ||
        ml_exec_create(&b.exec, b.k, b.pool, K, &err) != MARLIN_OK ||
        ml_exec_reserve_quant(&b.exec, K, N, 1, 512, &err) != MARLIN_OK)
        return 1;
    b.x = need(ml_alloc_aligned((size_t)512 * K * sizeof *b.x));
    b.y = need(ml_alloc_aligned((size_t)512 * N * sizeof *b.y));
    b.scale = need(ml_alloc_aligned(N * sizeof *b.scale));
    struct ml_rng rng;
    ml_rng_seed(&rng, 1);
    for (size_t i = 0; i < (size_t)512 * K; i++)
        b.x[i] = ml_rng_normal(&rng);
    for (size_t i = 0; i < N; i++)
        b.scale[i] = i % 3 ? 1.0f : -1.0f;
    (void)printf("tier %s, %d threads\n", ml_cpu_tier_name(b.k->tier), ml_pool_size(b.pool));
    const char *only = argc > 2 ? argv[2] : "";
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strncmp(types[i].name, only, strlen(only)) == 0) run(&b, &types[i]);
    ml_exec_free(&b.exec);
    ml_pool_free(b.pool);
    return 0;
}
