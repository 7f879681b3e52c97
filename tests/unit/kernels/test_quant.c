/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with quantized matrices against W from ml_quant_restore in double, FAST against its own
 * definition bit for bit over tiers, threads and numbers of rows, and decoders against packing's.
 */
#include "base/fp.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/exec.h"
#include "packing/codes.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"

enum { MAX_TIERS = ML_CPU_TIERS + 1, FIRST_FOREIGN = 1 + 5 + 3 * 8, TYPES = FIRST_FOREIGN + 4 * 5 };

/* ---- random matrices: every pattern of bits is a tile ---- */

/* Codes of the library, and such as a file may bring: the same but not quite mirrored, an index as narrow and
 * as wide as can be, and lifts of any size. */
enum table { LIBRARY, NOT_MIRRORED, NARROWEST, WIDEST, ANY_LIFTS };

struct type {
    enum ml_quant_format format;
    enum table table;
    int bits, window;
    enum ml_exl3_codebook codebook;
};

static struct type type_at(int i) {
    if (i == 0) return (struct type){.format = ML_QUANT_INT8, .bits = 8};
    if (i <= 5) return (struct type){.format = ML_QUANT_TAP, .bits = i + 1, .window = 10 + 2 * (1 + i % 3)};
    if (i >= FIRST_FOREIGN)
        return (struct type){.format = ML_QUANT_TAP,
                             .table = (enum table)((i - FIRST_FOREIGN) / 5 + NOT_MIRRORED),
                             .bits = 2 + (i - FIRST_FOREIGN) % 5,
                             .window = ML_TAP_WINDOW_NORMAL};
    i -= 6;
    return (struct type){
        .format = ML_QUANT_EXL3, .bits = 1 + i % 8, .codebook = (enum ml_exl3_codebook)(i / 8)};
}

static const char *name_of(struct type t) {
    static char name[48];
    static const char *const books[] = {"3INST", "MCG", "MUL1"};
    if (t.format == ML_QUANT_INT8) return "int8";
    static const char *const tables[] = {"", ", not mirrored", ", narrowest index", ", widest index",
                                         ", any lifts"};
    const bool tap = t.format == ML_QUANT_TAP;
    (void)snprintf(name, sizeof name, "%s %d bits%s%s", tap ? "tap" : "EXL3", t.bits, tap ? "" : " ",
                   tap ? tables[t.table] : books[t.codebook]);
    return name;
}

static void fill(struct ml_rng *rng, uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(ml_rng_u64(rng) >> 32);
}

/* Mirrored; when asked for split, with lifts of up to 64. */
static void fill_table(struct ml_rng *rng, struct ml_tap_code *c, bool split) {
    const unsigned last = (1u << c->index_bits) - 1, half = (last + 1) / 2;
    int8_t lift[256];
    fill(rng, (uint8_t *)lift, sizeof lift);
    c->unit = 0.0137f;
    for (unsigned i = 0; i <= last; i++) {
        if (!(i >> (c->bits - 1) & 1)) continue;
        c->table[i] = (int8_t)(ml_rng_u64(rng) >> 57);
        if (split && c->bits > 2 && i >= half) {
            const int d = lift[i & ml_tap_lift_bits(c)] / 2;
            if (d < 0) c->table[i - half] = (int8_t)(c->table[i - half] / 2 + 64);
            if (d > 0) c->table[i - half] /= 2;
            c->table[i] = (int8_t)(c->table[i - half] + d);
            c->table[last - i + half] = (int8_t)-c->table[i - half];
        }
        c->table[last - i] = (int8_t)-c->table[i];
    }
}

/* Belongs to the matrix. */
static const struct ml_tap_code *code_of(struct ml_rng *rng, struct type t) {
    const struct ml_tap_code *from = ml_tap_code_find((unsigned)t.bits, (unsigned)t.window);
    struct ml_tap_code *c = ml_calloc(1, sizeof *c);
    assert_true(from && c);
    *c = *from;
    if (t.table == NOT_MIRRORED)
        for (unsigned i = 0; i < 1u << (c->index_bits - 2); i++)
            c->table[i] = (int8_t)(c->table[i] + (c->table[i] > 0 ? -5 : 5));
    if (t.table == NARROWEST) c->index_bits = c->bits;
    if (t.table == WIDEST) c->index_bits = ML_TAP_MAX_INDEX;
    if (t.table >= NARROWEST) fill_table(rng, c, t.table == ANY_LIFTS);
    assert_int_equal(ml_tap_check(c, NULL), MARLIN_OK);
    assert_true(ml_tap_is_mirrored(c) == (t.table != NOT_MIRRORED));
    assert_true(ml_tap_is_split(c) == (t.bits > 2 && (t.table == LIBRARY || t.table == ANY_LIFTS)));
    return c;
}

static float *scales(struct ml_rng *rng, size_t n) {
    float *s = ml_alloc_aligned(n * sizeof *s);
    assert_non_null(s);
    for (size_t i = 0; i < n; i++)
        s[i] = (ml_rng_u64(rng) >> 63 ? -1.0f : 1.0f) * (float)(0.5 + ml_rng_double(rng));
    return s;
}

static struct ml_quant_matrix *make(struct ml_rng *rng, struct type t, size_t rows, size_t cols) {
    struct ml_quant_matrix *m = ml_calloc(1, sizeof *m);
    assert_non_null(m);
    const size_t unit = t.format == ML_QUANT_INT8 ? 1 : 128;
    *m = (struct ml_quant_matrix){.format = t.format, .bits = t.bits, .rows = rows, .cols = cols};
    m->n = (rows + unit - 1) / unit * unit;
    m->k = (cols + unit - 1) / unit * unit;
    m->codebook = t.codebook;
    const size_t bytes = m->n * m->k * (size_t)t.bits / 8;
    uint8_t *data = ml_alloc_aligned(bytes);
    assert_non_null(data);
    fill(rng, data, bytes);
    for (size_t i = 0; t.format == ML_QUANT_INT8 && i < bytes; i++)
        data[i] = data[i] == 0x80 ? 0x81 : data[i];
    m->data = data;
    m->sv = scales(rng, m->n);
    if (t.format != ML_QUANT_INT8) m->su = scales(rng, m->k);
    if (t.format == ML_QUANT_TAP) ml_quant_set_code(m, code_of(rng, t));
    return m;
}

static void drop(struct ml_quant_matrix *m) {
    ml_free_aligned((void *)m->data);
    ml_free_aligned((void *)m->su);
    ml_free_aligned((void *)m->sv);
    ml_free_aligned((void *)m->arranged);
    ml_free((void *)m->code);
    ml_free(m);
}

static void arrange(const struct ml_kernels *k, struct ml_quant_matrix *m) {
    const size_t bytes = ml_quant_arranged_bytes(k, m);
    ml_free_aligned((void *)m->arranged);
    m->arranged = NULL;
    if (!bytes) return;
    void *to = ml_alloc_aligned(bytes);
    assert_non_null(to);
    ml_quant_arrange(k, m, to);
    m->arranged = to;
}

static float *vectors(struct ml_rng *rng, size_t n) {
    float *x = ml_alloc_aligned(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = ml_rng_normal(rng);
    return x;
}

/* ---- tiers ---- */

/* The reference first; also AVX2 and NEON without what only some of their processors have. */
static int tiers(struct ml_kernels *k) {
    const struct ml_cpu *cpu = ml_cpu();
    int n = 0;
    for (int t = 0; t < ML_CPU_TIERS; t++)
        if (ml_cpu_tier_has(cpu->tier, (enum ml_cpu_tier)t))
            ml_kernels_init(&k[n++], cpu, (enum ml_cpu_tier)t);
    if (cpu->avxvnni) ml_kernels_init(&k[n++], NULL, ML_CPU_AVX2);
    if (cpu->dotprod) ml_kernels_init(&k[n++], NULL, ML_CPU_NEON);
    return n;
}

static void setup_exec(struct ml_exec *e, const struct ml_kernels *k, struct ml_pool *pool, size_t max_k,
                       size_t max_n, size_t jobs, size_t batch) {
    struct marlin_error err;
    assert_int_equal(ml_exec_create(e, k, pool, &err), MARLIN_OK);
    assert_int_equal(ml_exec_reserve_quant(e, &(struct ml_quant_room){max_k, max_n, jobs, batch}, &err),
                     MARLIN_OK);
}

/* y [n, rows] of one matrix. */
static float *product(const struct ml_kernels *k, struct ml_pool *pool, enum ml_quant_mode mode,
                      struct ml_quant_matrix *m, const float *x, size_t n) {
    struct ml_exec e;
    setup_exec(&e, k, pool, m->cols, m->rows, 1, n);
    arrange(k, m);
    float *y = ml_alloc_aligned(n * m->rows * sizeof *y);
    assert_non_null(y);
    for (size_t i = 0; i < n * m->rows; i++)
        y[i] = NAN;
    const struct ml_quant_job job = {m, y, m->rows, x, m->cols, n};
    ml_mem_guard_begin("quantized product");
    ml_quant_matmul_many(&e, mode, &job, 1);
    ml_mem_guard_end();
    ml_exec_free(&e);
    return y;
}

static double relative_rms(const float *y, const double *want, size_t n) {
    double error = 0, power = 0;
    for (size_t i = 0; i < n; i++) {
        error += (y[i] - want[i]) * (y[i] - want[i]);
        power += want[i] * want[i];
    }
    /* One weight of a rotated matrix can be next to nothing while its terms are not. */
    return sqrt(error / fmax(power, 0.1 * (double)n));
}

static double *slow(const struct ml_quant_matrix *m, const float *x, size_t n) {
    float *w = ml_alloc_aligned(m->rows * m->cols * sizeof *w);
    double *y = ml_calloc(n * m->rows, sizeof *y);
    assert_true(w && y);
    assert_int_equal(ml_quant_restore(m, w, NULL), MARLIN_OK);
    for (size_t t = 0; t < n; t++)
        for (size_t r = 0; r < m->rows; r++)
            for (size_t c = 0; c < m->cols; c++)
                y[t * m->rows + r] += (double)w[r * m->cols + c] * x[t * m->cols + c];
    ml_free_aligned(w);
    return y;
}

/* ---- EXACT and FAST against W x ---- */

static const double fast_bound = 0.015; /* kernels/quant.h */

static const struct {
    size_t rows, cols;
} shapes[] = {{128, 128}, {130, 200}, {1, 1}, {17, 300}, {256, 384}, {100, 1024}};
enum { SHAPES = sizeof shapes / sizeof *shapes, ALL_TYPES = 2 };

/* The first shapes with every type, each of the others with every third. */
static bool is_tried(int type, int shape) {
    return shape < ALL_TYPES || (type + shape) % 3 == 0;
}

static void test_against_restored(void **state) {
    struct ml_kernels k[MAX_TIERS];
    struct ml_rng rng;
    const int n_tiers = tiers(k);
    (void)state;
    ml_rng_seed(&rng, 1);
    for (int i = 0; i < TYPES; i++) {
        for (int s = 0; s < SHAPES; s++) {
            if (!is_tried(i, s)) continue;
            struct ml_quant_matrix *m = make(&rng, type_at(i), shapes[s].rows, shapes[s].cols);
            float *x = vectors(&rng, 3 * m->cols);
            double *want = slow(m, x, 3);
            for (int tier = 0; tier < n_tiers; tier++) {
                float *y = product(&k[tier], NULL, ML_QUANT_EXACT, m, x, 3);
                assert_true(relative_rms(y, want, 3 * m->rows) < 1e-5);
                ml_free_aligned(y);
            }
            if (m->rows * m->cols > 10000) {
                float *y = product(&k[0], NULL, ML_QUANT_FAST, m, x, 3);
                const double error = relative_rms(y, want, 3 * m->rows);
                if (error >= fast_bound)
                    print_message("%s, %zu x %zu: %.4f\n", name_of(type_at(i)), m->rows, m->cols, error);
                assert_true(error < fast_bound);
                ml_free_aligned(y);
            }
            ml_free(want);
            ml_free_aligned(x);
            drop(m);
        }
    }
}

/* ---- FAST is the same in every tier, for any number of threads and of rows ---- */

static void assert_same(const float *a, const float *b, size_t n, const char *what, struct type t) {
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], sizeof *a) == 0) continue;
        print_message("%s, %s: element %zu is %a, must be %a\n", name_of(t), what, i, (double)a[i],
                      (double)b[i]);
        fail();
    }
}

static void check_fast(const struct ml_kernels *k, struct ml_pool *pool, struct ml_quant_matrix *m,
                       const float *x, size_t n, const float *want, struct type t) {
    float *y = product(k, pool, ML_QUANT_FAST, m, x, n);
    char what[64];
    (void)snprintf(what, sizeof what, "tier %s, %zu rows of x, %zu x %zu", ml_cpu_tier_name(k->tier), n,
                   m->rows, m->cols);
    assert_same(y, want, n * m->rows, what, t);
    ml_free_aligned(y);
}

static void test_fast_is_one_function(void **state) {
    enum { N = 13 };
    static const size_t rows[] = {1, 2, 5, 8, N};
    struct ml_kernels k[MAX_TIERS];
    struct ml_pool *pool = NULL;
    struct ml_rng rng;
    const int n_tiers = tiers(k);
    (void)state;
    ml_rng_seed(&rng, 2);
    assert_int_equal(ml_pool_create(3, &pool, NULL), MARLIN_OK);
    for (int i = 0; i < TYPES; i++) {
        for (int s = 0; s < SHAPES; s++) {
            if (!is_tried(i, s)) continue;
            const struct type t = type_at(i);
            struct ml_quant_matrix *m = make(&rng, t, shapes[s].rows, shapes[s].cols);
            float *x = vectors(&rng, N * m->cols);
            float *want = product(&k[0], NULL, ML_QUANT_FAST, m, x, N);
            for (int tier = 0; tier < n_tiers; tier++) {
                for (size_t r = 0; r < (tier ? sizeof rows / sizeof *rows : 2); r++)
                    check_fast(&k[tier], NULL, m, x, rows[r], want, t);
                check_fast(&k[tier], pool, m, x, 1, want, t);
                check_fast(&k[tier], pool, m, x, N, want, t);
            }
            ml_free_aligned(want);
            ml_free_aligned(x);
            drop(m);
        }
    }
    ml_pool_free(pool);
}

/* ---- entries of the tiers against the reference ---- */

static void test_decoders(void **state) {
    struct ml_kernels k[MAX_TIERS];
    struct ml_rng rng;
    const int n_tiers = tiers(k);
    (void)state;
    ml_rng_seed(&rng, 3);
    for (int i = 0; i < TYPES; i++) {
        struct ml_quant_matrix *m = make(&rng, type_at(i), 40, 300);
        float *want = vectors(&rng, 16 * m->k), *got = vectors(&rng, 16 * m->k);
        for (size_t s = 0; s < (m->n + 15) / 16; s++) {
            const size_t rows = m->n - 16 * s < 16 ? m->n - 16 * s : 16;
            k[0].quant.decode(want, m, s);
            for (int tier = 1; tier < n_tiers; tier++) {
                k[tier].quant.decode(got, m, s);
                assert_same(got, want, rows * m->k, "decode", type_at(i));
            }
        }
        ml_free_aligned(want);
        ml_free_aligned(got);
        drop(m);
    }
}

static void test_rotations(void **state) {
    struct ml_kernels k[MAX_TIERS];
    struct ml_rng rng;
    const int n_tiers = tiers(k);
    (void)state;
    ml_rng_seed(&rng, 4);
    float *x = vectors(&rng, 300), *su = vectors(&rng, 384), want[384], got[384], y[128], z[128];
    k[0].quant.rotate(want, x, su, 300, 384);
    for (size_t i = 0; i < 128; i++) { /* by the definition */
        double sum = 0;
        for (size_t j = 0; j < 128; j++)
            sum += (__builtin_popcount((unsigned)(i & j)) & 1 ? -1.0 : 1.0) * su[j] * x[j];
        assert_float_equal(want[i], sum / sqrt(128), 1e-5);
    }
    for (int tier = 1; tier < n_tiers; tier++) {
        memset(got, 0xff, sizeof got);
        k[tier].quant.rotate(got, x, su, 300, 384);
        assert_memory_equal(got, want, sizeof got);
        memcpy(z, x, sizeof z);
        k[0].quant.unrotate(y, z, su, 128);
        for (size_t rows = 1; rows <= 128; rows += 127) {
            float small[129];
            small[rows] = 77;
            memcpy(z, x, sizeof z);
            k[tier].quant.unrotate(small, z, su, rows);
            assert_memory_equal(small, y, rows * sizeof *y);
            assert_true(small[rows] == 77);
        }
    }
    ml_free_aligned(x);
    ml_free_aligned(su);
}

/* ---- odd inputs ---- */

static void test_odd_inputs(void **state) {
    static const float odd[] = {0, NAN, INFINITY, -INFINITY, 1e-38f, 1e-45f, 1e30f};
    struct ml_kernels k[MAX_TIERS];
    struct ml_rng rng;
    const int n_tiers = tiers(k);
    (void)state;
    ml_rng_seed(&rng, 5);
    for (int i = 0; i < TYPES; i++) {
        struct ml_quant_matrix *m = make(&rng, type_at(i), 128, 256);
        float *x = vectors(&rng, m->cols);
        for (size_t o = 0; o < sizeof odd / sizeof *odd; o++) {
            for (size_t c = 0; c < m->cols; c++)
                x[c] = o == 0 || o == 4 || o == 5 ? odd[o] * (float)(c % 3) : c == 7 ? odd[o] : x[c];
            float *want = product(&k[0], NULL, ML_QUANT_FAST, m, x, 1);
            for (size_t r = 0; r < m->rows; r++)
                assert_true(isnan(want[r]) == (o == 1 || o == 2 || o == 3));
            for (int tier = 1; tier < n_tiers && !isnan(want[0]); tier++)
                check_fast(&k[tier], NULL, m, x, 1, want, type_at(i));
            for (int tier = 1; tier < n_tiers && isnan(want[0]); tier++) {
                float *y = product(&k[tier], NULL, ML_QUANT_FAST, m, x, 1);
                for (size_t r = 0; r < m->rows; r++)
                    assert_true(isnan(y[r]));
                ml_free_aligned(y);
            }
            ml_free_aligned(want);
        }
        ml_free_aligned(x);
        drop(m);
    }
}

/* Chunks of x, more jobs than reserved at once, mixed formats, padding that must not be written. */
static void test_many_jobs(void **state) {
    enum { JOBS = 5, N = 700, ROWS = 140, COLS = 130 };
    struct ml_rng rng;
    struct ml_exec e;
    struct ml_pool *pool = NULL;
    (void)state;
    ml_rng_seed(&rng, 6);
    assert_int_equal(ml_pool_create(2, &pool, NULL), MARLIN_OK);
    setup_exec(&e, ml_kernels(), pool, COLS, ROWS, 2, N);
    static const int which[JOBS] = {0, 2, 3, 8, 25};
    struct ml_quant_job jobs[JOBS];
    float *x = vectors(&rng, (size_t)N * (COLS + 3));
    for (int j = 0; j < JOBS; j++) {
        struct ml_quant_matrix *m = make(&rng, type_at(which[j]), ROWS, COLS);
        arrange(ml_kernels(), m);
        jobs[j] = (struct ml_quant_job){m, vectors(&rng, (size_t)N * (ROWS + 1)), ROWS + 1, x, COLS + 3, N};
        for (size_t t = 0; t < N; t++)
            jobs[j].y[t * (ROWS + 1) + ROWS] = 77;
    }
    for (int mode = 0; mode < 2; mode++) {
        ml_quant_matmul_many(&e, (enum ml_quant_mode)mode, jobs, JOBS);
        for (int j = 0; j < JOBS; j++) {
            float one[ROWS];
            for (size_t t = 0; t < N; t++) {
                assert_true(jobs[j].y[t * (ROWS + 1) + ROWS] == 77);
                if (t % 100 && t != N - 1) continue;
                const struct ml_quant_job job = {jobs[j].w, one, ROWS, x + t * (COLS + 3), COLS + 3, 1};
                ml_quant_matmul_many(&e, (enum ml_quant_mode)mode, &job, 1);
                for (size_t r = 0; r < ROWS; r++)
                    assert_float_equal(one[r], jobs[j].y[t * (ROWS + 1) + r],
                                       mode == ML_QUANT_FAST ? 0 : 1e-4 * (1 + fabsf(one[r])));
            }
        }
    }
    for (int j = 0; j < JOBS; j++) {
        drop((struct ml_quant_matrix *)jobs[j].w);
        ml_free_aligned(jobs[j].y);
    }
    ml_free_aligned(x);
    ml_exec_free(&e);
    ml_pool_free(pool);
}

/* The whole numbers of FAST beside the values they stand for. */
static void test_whole_numbers(void **state) {
    (void)state;
    for (uint32_t s = 0; s < 65536; s++) {
        const double mul1 = ml_f16_to_f32(ml_exl3_value(ML_EXL3_MUL1, (uint16_t)s));
        const double whole = ml_quant_exl3_whole(ML_EXL3_MUL1, (uint16_t)s);
        assert_true(fabs(whole * 0.00676727294921875 - 0.0018157958984375 - mul1) <= 0.001);
        for (int cb = ML_EXL3_3INST; cb <= ML_EXL3_MCG; cb++) {
            const double value = ml_f16_to_f32(ml_exl3_value((enum ml_exl3_codebook)cb, (uint16_t)s));
            const int w = ml_quant_exl3_whole((enum ml_exl3_codebook)cb, (uint16_t)s);
            assert_true(abs(w) <= 510 && fabs(w / 128.0 - value) <= 2 / 128.0 + 0.001);
        }
    }
}

static void test_out_of_memory(void **state) {
    (void)state;
    for (uint64_t i = 1; i <= 6; i++) {
        struct ml_exec e;
        struct marlin_error err;
        assert_int_equal(ml_exec_create(&e, ml_kernels(), NULL, &err), MARLIN_OK);
        ml_mem_fail_at(i);
        assert_int_equal(ml_exec_reserve_quant(&e, &(struct ml_quant_room){128, 128, 1, 1}, &err),
                         MARLIN_ERR_MEMORY);
        ml_mem_fail_at(0);
        assert_null(e.quant);
        ml_exec_free(&e);
    }
}

int main(void) {
    const struct CMUnitTest list[] = {
        cmocka_unit_test(test_against_restored), cmocka_unit_test(test_fast_is_one_function),
        cmocka_unit_test(test_decoders),         cmocka_unit_test(test_rotations),
        cmocka_unit_test(test_odd_inputs),       cmocka_unit_test(test_many_jobs),
        cmocka_unit_test(test_whole_numbers),    cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(list, NULL, guard_clean);
}
