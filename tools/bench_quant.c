/* SPDX-License-Identifier: Apache-2.0
 *
 * Times products of quantized matrices by themselves. Not a part of the program.
 *
 *   bench_quant [TIER] [NAME] [THREADS]
 *
 *   cache   one strip over and over on one thread, least time: weights a nanosecond, GB/s; times of 2, 4 and
 *           8 rows of x over that of one
 *   gemm    128 rows of the matrix by 512 of x on one thread, least time: share of the int8 peak of one thread
 *   exact   decoding to float32: weights a nanosecond
 *   stream  matrices of Qwen3-4B's size, 400 MB and more in all: one row of x, all threads; passes alternate
 *           with plain reading. 90th percentiles, since neighbours can only slow things down
 *   rows    the same for 2, 4 and 8 rows of x: their time over that of one row, median of the passes
 */
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/exec.h"
#include "kernels/peak.h"
#include "packing/codes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { K = 2560, N = 9728, MAX_COPIES = 64, PASSES = 15 };

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
    struct ml_peak_reader *reader;
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
    if (t->format == ML_QUANT_TAP)
        ml_quant_set_code(&m, ml_tap_code_find((unsigned)t->bits, ML_TAP_WINDOW_NORMAL));
    if (ml_quant_arranged_bytes(b->k, &m)) m.arranged = data; /* random bits are random bits */
    return m;
}

static struct ml_quant_x *rounded(const struct bench *b, const struct ml_quant_matrix *m, size_t n,
                                  enum ml_quant_rows rows) {
    struct ml_quant_x *x = need(ml_calloc(n, sizeof *x));
    int8_t *a = need(ml_alloc_aligned(n * ml_quant_x_bytes(K)));
    for (size_t t = 0; t < n; t++) {
        x[t].a = a + t * ml_quant_x_bytes(K);
        b->k->quant.round(&x[t], m, rows, b->x + t * K);
    }
    return x;
}

static void drop(struct ml_quant_x *x) {
    ml_free_aligned(x->a);
    ml_free(x);
}

static double ns_since(uint64_t start) {
    return (double)(ml_clock_ns() - start);
}

static double least(double a, double b) {
    return a < b ? a : b;
}

static void in_cache(const struct bench *b, const struct type *t) {
    struct ml_quant_matrix m = matrix(b, t, 128);
    float *z = need(ml_alloc_aligned((size_t)512 * 128 * sizeof *z));
    float *q = need(ml_alloc_aligned((size_t)16 * K * sizeof *q));
    void *scratch = need(ml_alloc_aligned(ml_quant_dots_scratch(K)));
    struct ml_quant_x *one = rounded(b, &m, 1, ML_QUANT_ONE), *many = rounded(b, &m, 512, ML_QUANT_MANY);
    struct ml_quant_x *eight = rounded(b, &m, 8, ML_QUANT_FEW);
    double dot = 1e18, few[3] = {1e18, 1e18, 1e18}, dots = 1e18, exact = 1e18, peak = 0;
    for (int i = 0; i < 200; i++) {
        uint64_t start = ml_clock_ns();
        for (int j = 0; j < 10; j++)
            b->k->quant.dot(z, &m, 0, one);
        dot = least(dot, ns_since(start) / 10);
        for (int r = 0; r < 3; r++) {
            start = ml_clock_ns();
            for (int j = 0; j < 5; j++)
                b->k->quant.few(z, 128, &m, 0, eight, (size_t)2 << r, scratch);
            few[r] = least(few[r], ns_since(start) / 5);
        }
        if (i >= 40) continue;
        start = ml_clock_ns();
        b->k->quant.dots(z, 128, &m, 0, 8, many, 512, scratch);
        dots = least(dots, ns_since(start));
        start = ml_clock_ns();
        b->k->quant.decode(q, &m, 0);
        exact = least(exact, ns_since(start));
    }
    if (ml_peak_gflops(NULL, ML_PEAK_INT8, &peak) != MARLIN_OK) peak = 1e9;
    (void)printf("%-13s cache %6.0f ns %5.1f w/ns %5.1f GB/s, rows 2: %.2f 4: %.2f 8: %.2f | gemm %3.0f %% | "
                 "exact %4.2f w/ns",
                 t->name, dot, 16.0 * K / dot, 2.0 * K * t->bits / dot, few[0] / dot, few[1] / dot,
                 few[2] / dot, 100 * 2.0 * 128 * K * 512 / dots / peak, 16.0 * K / exact);
    drop(one);
    drop(many);
    drop(eight);
    ml_free_aligned((void *)m.data);
    ml_free_aligned(z);
    ml_free_aligned(q);
    ml_free_aligned(scratch);
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(double *v, int n, double p) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[(int)(p * (n - 1))];
}

/* GB/s of products with all matrices, one after the other. */
static double products(const struct bench *b, const struct ml_quant_matrix *m, int copies, size_t rows) {
    const uint64_t start = ml_clock_ns();
    for (int i = 0; i < copies; i++) {
        const struct ml_quant_job job = {&m[i], b->y, N, b->x, K, rows};
        ml_quant_matmul_many(&b->exec, ML_QUANT_FAST, &job, 1);
    }
    return (double)copies * N * K / 8 * m->bits / ns_since(start);
}

static void run(const struct bench *b, const struct type *t) {
    struct ml_quant_matrix m[MAX_COPIES];
    const double bytes = (double)N * K / 8 * t->bits;
    int copies = 0;
    in_cache(b, t);
    while (copies < MAX_COPIES && copies * bytes < 400e6)
        m[copies++] = matrix(b, t, N);
    double read[PASSES], one[PASSES], more[3][PASSES], share[PASSES];
    for (int i = 0; i < PASSES; i++) {
        read[i] = ml_peak_reader_gbps(b->reader, b->pool, 1);
        one[i] = products(b, m, copies, 1);
        for (int r = 0; r < 3; r++)
            more[r][i] = one[i] / products(b, m, copies, (size_t)2 << r);
        share[i] = one[i] / read[i];
    }
    (void)printf(" | stream %5.1f of %5.1f GB/s, %3.0f %% (median of ratios %3.0f %%) | rows 2: %.2f 4: %.2f "
                 "8: %.2f\n",
                 percentile(one, PASSES, .9), percentile(read, PASSES, .9),
                 100 * percentile(one, PASSES, .9) / percentile(read, PASSES, .9),
                 100 * percentile(share, PASSES, .5), percentile(more[0], PASSES, .5),
                 percentile(more[1], PASSES, .5), percentile(more[2], PASSES, .5));
    (void)fflush(stdout);
    for (int i = 0; i < copies; i++)
        ml_free_aligned((void *)m[i].data);
}

int main(int argc, char **argv) {
    struct bench b = {0};
    struct marlin_error err;
    if (argc > 1 && !ml_cpu_set_mask(argv[1])) return 1;
    b.k = ml_kernels();
    if (ml_pool_create(argc > 3 ? (int)strtol(argv[3], NULL, 10) : 0, &b.pool, &err) != MARLIN_OK ||
        ml_exec_create(&b.exec, b.k, b.pool, &err) != MARLIN_OK ||
        ml_exec_reserve_quant(&b.exec, &(struct ml_quant_room){K, N, 1, 512}, &err) != MARLIN_OK ||
        ml_peak_reader_create(b.pool, &b.reader, &err) != MARLIN_OK)
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
    ml_peak_reader_free(b.reader);
    ml_exec_free(&b.exec);
    ml_pool_free(b.pool);
    return 0;
}
