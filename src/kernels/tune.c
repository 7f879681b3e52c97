/* SPDX-License-Identifier: Apache-2.0
 *
 * Measuring the four figures of each kind of weights. Matrices are windows on one buffer that no cache holds,
 * moved on for every call, so that weights stream from memory as they do when a model runs. The ways to
 * compute take turns, and kinds do in several rounds, since neighbours may be busy for longer than a kind
 * takes; the least time of each counts, since neighbours can only slow things down.
 */
#include "kernels/tune.h"

#include "base/clock.h"
#include "base/mem.h"
#include "kernels/exec.h"
#include "packing/codes.h"

enum {
    COLS = 2048,
    LEAST_ROWS = 1024, /* of W */
    LOW = 6,
    HIGH = 24,   /* rows of x that gemm is timed with: multiples of every tile, around where ways cross */
    REPEATS = 6, /* of a kind in a round */
    BUDGET_NS = 100 * 1000 * 1000, /* of a kind in a round: slow tiers repeat less */
    LEAST_BYTES = 192 << 20
};

struct tune {
    struct ml_exec exec;
    struct ml_pool *pool;
    size_t rows; /* of W */
    uint8_t *weights;
    size_t bytes, at; /* of weights; where the next matrix begins */
    float *x, *y, *scale;
};

/* ---- operands ---- */

static uint16_t word(uint64_t i) {
    uint64_t v = (i + 1) * 0x9e3779b97f4a7c15u;
    v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
    const unsigned bits = (unsigned)(v >> 40);
    /* As bf16, f16 or the upper half of a float32 of ordinary size, and no byte is -128. */
    return (uint16_t)((bits & 0x817f) | 0x3e01);
}

static void fill(void *arg, size_t begin, size_t end, int worker) {
    uint16_t *p = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++)
        p[i] = word(i);
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static void release(struct tune *t) {
    ml_exec_free(&t->exec);
    ml_free_aligned(t->weights);
    ml_free_aligned(t->x);
    ml_free_aligned(t->y);
    ml_free_aligned(t->scale);
}

static marlin_status prepare(struct tune *t, const struct ml_kernels *k, struct ml_pool *pool,
                             struct marlin_error *err) {
    const size_t threads = (size_t)ml_pool_size(pool);
    marlin_status st;
    t->pool = pool;
    t->rows = larger(LEAST_ROWS, 2 * ML_QUANT_BLOCK * threads);
    t->bytes = larger(larger(LEAST_BYTES, 2 * ml_cpu()->l3), 2 * t->rows * COLS * sizeof(float));
    ML_TRY(ml_exec_create(&t->exec, k, pool, err));
    ML_TRY(ml_exec_reserve_quant(
        &t->exec, &(struct ml_quant_room){.max_k = COLS, .max_n = t->rows, .max_jobs = 1, .max_batch = HIGH},
        err));
    t->weights = ml_alloc_aligned(t->bytes);
    t->x = ml_alloc_aligned((size_t)HIGH * COLS * sizeof *t->x);
    t->y = ml_alloc_aligned(HIGH * t->rows * sizeof *t->y);
    t->scale = ml_alloc_aligned(larger(COLS, t->rows) * sizeof *t->scale);
    if (!t->weights || !t->x || !t->y || !t->scale) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "kernels: measuring needs %zu MiB: out of memory",
                     t->bytes >> 20);
        goto out;
    }
    ml_pool_for(pool, t->bytes / 2, 1 << 16, fill, t->weights);
    for (size_t i = 0; i < (size_t)HIGH * COLS; i++)
        t->x[i] = (float)(word(i) % 255) - 127.0f;
    for (size_t i = 0; i < larger(COLS, t->rows); i++)
        t->scale[i] = i % 3 ? 1.0f : -1.0f;
out:
    return st;
}

/* ---- one product ---- */

static const void *window(struct tune *t, size_t bytes) {
    if (t->bytes - t->at < bytes) t->at = 0;
    const void *p = t->weights + t->at;
    t->at += (bytes + 63) / 64 * 64;
    return p;
}

static void multiply_plain(struct tune *t, enum ml_dtype type, size_t n) {
    const struct ml_matrix w = {.dtype = type,
                                .rows = t->rows,
                                .cols = COLS,
                                .stride = COLS,
                                .data = window(t, t->rows * COLS * ml_dtype_size(type))};
    ml_matmul(&t->exec, &w, t->x, COLS, n, t->y, t->rows);
}

static void multiply_quant(struct tune *t, int kind, size_t n) {
    struct ml_quant_matrix m = {
        .rows = t->rows, .cols = COLS, .n = t->rows, .k = COLS, .su = t->scale, .sv = t->scale};
    (void)ml_kind_to_quant(kind, &m);
    if (m.format == ML_QUANT_TAP)
        ml_quant_set_code(&m, ml_tap_code_find((unsigned)m.bits, ML_TAP_WINDOW_NORMAL));
    m.data = window(t, t->rows * COLS / 8 * (size_t)m.bits);
    if (ml_quant_arranged_bytes(t->exec.k, &m)) m.arranged = m.data; /* any bits are weights in any order */
    const struct ml_quant_job job = {&m, t->y, t->rows, t->x, COLS, n};
    ml_quant_matmul_many(&t->exec, ML_QUANT_FAST, &job, 1);
}

static double multiply(struct tune *t, int kind, size_t n) {
    const uint64_t start = ml_clock_ns();
    if (kind < ML_KIND_INT8)
        multiply_plain(t, (enum ml_dtype)kind, n);
    else
        multiply_quant(t, kind, n);
    return (double)(ml_clock_ns() - start);
}

/* ---- one kind ---- */

enum { ONE, FEW, GEMM_LOW, GEMM_HIGH, WAYS };

/* A table from which the wanted way is chosen, whatever the rows. */
static struct ml_cost forced(int way, int few) {
    if (way == ONE || way == FEW) return (struct ml_cost){.few = few, .fixed = 1, .row = 1};
    return (struct ml_cost){.few = 1, .one = 1, .more = 1};
}

/* Adds to the least times of a kind. */
static void measure(struct tune *t, int kind, int few, double least[WAYS]) {
    const size_t rows[WAYS] = {1, (size_t)few, LOW, HIGH};
    const uint64_t start = ml_clock_ns();
    for (int i = 0; i < REPEATS && (i == 0 || ml_clock_ns() - start < BUDGET_NS); i++) {
        for (int way = 0; way < WAYS; way++) {
            t->exec.select.cost[kind] = forced(way, few);
            const double ns = multiply(t, kind, rows[way]);
            if (least[way] == 0 || ns < least[way]) least[way] = ns;
        }
    }
}

/* The lines through the times. gemm reads and decodes what gemv does: where the line through its two points
 * says that this alone costs less than one row of x, it bends below them, and the one that does not is taken.
 */
static void fit(const struct tune *t, const double least[WAYS], struct ml_cost *cost) {
    const double unit = 1000.0 / ((double)t->rows * COLS), one = least[ONE];
    const double slope = (least[GEMM_HIGH] - least[GEMM_LOW]) / (HIGH - LOW);
    const double fixed = least[GEMM_LOW] - LOW * slope > one ? least[GEMM_LOW] - LOW * slope : one;
    const double row = (least[GEMM_HIGH] - fixed) / HIGH;
    const double more = cost->few > 1 ? (least[FEW] - one) / (cost->few - 1) : one;
    cost->one = (float)(one * unit);
    cost->more = (float)((more > 0 ? more : 0) * unit);
    cost->fixed = (float)(fixed * unit);
    cost->row = (float)((row > 0 ? row : 0) * unit);
}

marlin_status ml_tune(const struct ml_kernels *k, struct ml_pool *pool, ml_tune_fn *fn, void *user,
                      struct ml_selection *s, struct marlin_error *err) {
    double least[ML_KINDS][WAYS] = {{0}};
    struct tune t = {0};
    const struct ml_machine here = ml_machine_here(ml_pool_size(pool));
    marlin_status st;
    ML_TRY(prepare(&t, k, pool, err));
    ml_selection_default(s, &here);
    for (int round = 0; round < ML_TUNE_ROUNDS; round++) {
        for (int kind = 0; kind < ML_KINDS; kind++) {
            if (fn) fn(user, round, kind);
            measure(&t, kind, s->cost[kind].few, least[kind]);
        }
    }
    for (int kind = 0; kind < ML_KINDS; kind++)
        fit(&t, least[kind], &s->cost[kind]);
    s->measured = true;
out:
    release(&t);
    return st;
}
