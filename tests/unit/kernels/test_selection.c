/* SPDX-License-Identifier: Apache-2.0
 *
 * Choices against the estimates written down once more, over every tier, kind and batch, without running a
 * kernel; and the file of measured figures: what comes back, and what is refused.
 */
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "kernels/selection.h"
#include "kernels/tune.h"
#include "marlin/version.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const size_t batches[] = {1, 2, 8, 16, 17, 32, 33, 64, 128};
enum { BATCHES = sizeof batches / sizeof *batches };

static struct ml_machine machine(enum ml_cpu_tier tier, int threads) {
    struct ml_machine m = {.threads = threads};
    m.cpu = (struct ml_cpu){
        .tier = tier, .name = "Test \"9000\"", .cores = 4, .l1d = 48 << 10, .l2 = 1 << 20, .l3 = 32 << 20};
    return m;
}

static struct ml_selection standard(enum ml_cpu_tier tier, int threads) {
    const struct ml_machine m = machine(tier, threads);
    struct ml_selection s;
    ml_selection_default(&s, &m);
    return s;
}

/* The same figures for every kind. */
static struct ml_selection uniform(struct ml_cost cost, int threads) {
    struct ml_selection s = standard(ML_CPU_AVX512, threads);
    for (int k = 0; k < ML_KINDS; k++)
        s.cost[k] = cost;
    return s;
}

static enum ml_path path(const struct ml_selection *s, int kind, size_t n, size_t rows) {
    const struct ml_product p = {.kind = kind, .n = n, .k = 4096};
    return ml_select(s, &p, 1, rows).path;
}

/* ---- kinds ---- */

static void test_kinds(void **state) {
    (void)state;
    struct ml_quant_matrix m = {.format = ML_QUANT_INT8, .bits = 8};
    assert_string_equal(ml_kind_name(ml_kind_of_float(ML_BF16)), "bf16");
    assert_string_equal(ml_kind_name(ml_kind_of_quant(&m)), "int8");
    int next = ML_KIND_TAP;
    m.format = ML_QUANT_TAP;
    for (m.bits = ML_TAP_MIN_BITS; m.bits <= ML_TAP_MAX_BITS; m.bits++, next++) {
        char name[16];
        (void)snprintf(name, sizeof name, "tap%d", m.bits);
        assert_int_equal(ml_kind_of_quant(&m), next);
        assert_string_equal(ml_kind_name(next), name);
    }
    static const char *const books[] = {"3inst", "mcg", "mul1"};
    m.format = ML_QUANT_EXL3;
    for (int b = 0; b < ML_EXL3_CODEBOOKS; b++) {
        m.codebook = (enum ml_exl3_codebook)b;
        for (m.bits = ML_EXL3_MIN_BITS; m.bits <= ML_EXL3_MAX_BITS; m.bits++, next++) {
            char name[24];
            (void)snprintf(name, sizeof name, "exl3-%s-%d", books[b], m.bits);
            assert_int_equal(ml_kind_of_quant(&m), next);
            assert_string_equal(ml_kind_name(next), name);
        }
    }
    assert_int_equal(next, ML_KINDS);
}

/* ---- choices ---- */

static double turns(size_t n, size_t rows_of_piece, int threads) {
    const size_t pieces = (n + rows_of_piece - 1) / rows_of_piece;
    size_t t = 0;
    while (t * (size_t)threads < pieces)
        t++;
    return (double)(t * (size_t)threads) / (double)pieces;
}

/* The slow twin: both estimates, pass by pass. */
static void check_choice(const struct ml_selection *s, int kind, size_t n, size_t rows) {
    const struct ml_product p = {.kind = kind, .n = n, .k = 4096};
    const struct ml_cost *c = &s->cost[kind];
    const struct ml_choice choice = ml_select(s, &p, 1, rows);
    double gemv = 0, gemm = c->fixed;
    for (size_t t = 0; t < rows; t++) {
        gemv += (double)(t % (size_t)c->few == 0 ? c->one : c->more);
        gemm += (double)c->row;
    }
    gemv = gemv / (double)c->one * turns(n, 16, s->machine.threads);
    gemm = gemm / (double)c->one * turns(n, 128, s->machine.threads);
    assert_true(gemv > 0 && gemm > 0);
    assert_float_equal((double)choice.gemv / gemv, 1, 1e-5);
    assert_float_equal((double)choice.gemm / gemm, 1, 1e-5);
    if (rows == 1) {
        assert_int_equal(choice.path, ML_PATH_GEMV);
        assert_int_equal(choice.why, ML_WHY_ONE_ROW);
        assert_int_equal(choice.block, 1);
    } else if (gemm < gemv * (1 - 1e-5)) {
        assert_int_equal(choice.path, ML_PATH_GEMM);
        assert_int_equal(choice.block, rows);
    } else if (gemm > gemv * (1 + 1e-5)) {
        assert_int_equal(choice.path, c->few == 1 ? ML_PATH_GEMV : ML_PATH_FEW);
        assert_int_equal(choice.block, rows < (size_t)c->few ? rows : (size_t)c->few);
    }
}

static void test_every_batch(void **state) {
    (void)state;
    static const size_t sizes[] = {16, 128, 1000, 1024, 9728, 151936};
    static const int threads[] = {1, 2, 7, 64};
    for (int tier = 0; tier < ML_CPU_TIERS; tier++)
        for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
            const struct ml_selection s = standard((enum ml_cpu_tier)tier, threads[t]);
            assert_false(s.measured);
            for (int kind = 0; kind < ML_KINDS; kind++)
                for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
                    for (size_t b = 0; b < BATCHES; b++)
                        check_choice(&s, kind, sizes[i], batches[b]);
        }
}

/* What anybody would expect of the table of the source. */
static void test_table(void **state) {
    (void)state;
    static const enum ml_cpu_tier fast[] = {ML_CPU_AVX2, ML_CPU_AVX512, ML_CPU_AMX, ML_CPU_NEON, ML_CPU_I8MM};
    for (size_t i = 0; i < sizeof fast / sizeof *fast; i++) {
        const struct ml_selection s = standard(fast[i], 2);
        for (int kind = 0; kind < ML_KINDS; kind++) {
            assert_int_equal(path(&s, kind, 4096, 1), ML_PATH_GEMV);
            assert_int_equal(path(&s, kind, 4096, 2), ML_PATH_FEW);
            if (kind < ML_KIND_INT8) continue; /* nothing to decode: a pass for a few rows is a small gemm */
            assert_int_equal(path(&s, kind, 4096, 32), ML_PATH_GEMM);
            assert_int_equal(path(&s, kind, 4096, 33), ML_PATH_GEMM);
            assert_int_equal(path(&s, kind, 4096, 64), ML_PATH_GEMM);
            assert_int_equal(path(&s, kind, 4096, 128), ML_PATH_GEMM);
        }
    }
    const struct ml_selection s = standard(ML_CPU_AVX512, 2);
    for (int kind = ML_KIND_INT8; kind < ML_KINDS; kind++)
        assert_int_equal(path(&s, kind, 4096, kind < ML_KIND_EXL3 ? 8 : 6), ML_PATH_FEW);
}

/* With tiles 16 rows of x cost less by gemm than in two passes of 8, and 8 less in one pass. */
static void test_table_of_tiles(void **state) {
    (void)state;
    const struct ml_selection s = standard(ML_CPU_AMX, 2);
    for (int kind = ML_KIND_INT8; kind < ML_KIND_EXL3; kind++) {
        assert_int_equal(path(&s, kind, 4096, 8), ML_PATH_FEW);
        assert_int_equal(path(&s, kind, 4096, 16), ML_PATH_GEMM);
    }
}

/* A measured crossover: two passes of 8 cost 20 + 14 = 34, gemm of 16 costs 18 + 16 = 34. */
static void test_measured_crossover(void **state) {
    (void)state;
    struct ml_selection s = uniform((struct ml_cost){8, 10, 1, 18.5f, 1}, 1);
    const struct ml_product p = {.kind = ML_KIND_TAP, .n = 4096, .k = 4096};
    for (size_t rows = 2; rows <= 16; rows++)
        assert_int_equal(path(&s, ML_KIND_TAP, 4096, rows), ML_PATH_FEW);
    assert_int_equal(path(&s, ML_KIND_TAP, 4096, 17), ML_PATH_GEMM);
    assert_int_equal(ml_select_crossover(&s, &p, 512), 17);
    s.cost[ML_KIND_TAP].fixed = 17.5f;
    assert_int_equal(ml_select_crossover(&s, &p, 512), 9); /* the second pass is dear until it is full */
    assert_int_equal(path(&s, ML_KIND_TAP + 1, 4096, 16), ML_PATH_FEW); /* other kinds are left alone */
    s.cost[ML_KIND_TAP].row = 5;
    assert_int_equal(ml_select_crossover(&s, &p, 512), 513);
}

static void test_no_kernel_for_few(void **state) {
    (void)state;
    const struct ml_selection s = uniform((struct ml_cost){1, 10, 10, 25, 1}, 1);
    const struct ml_product p = {.kind = ML_KIND_EXL3, .n = 4096, .k = 4096};
    const struct ml_choice two = ml_select(&s, &p, 1, 2);
    assert_int_equal(two.path, ML_PATH_GEMV);
    assert_int_equal(two.block, 1);
    assert_int_equal(ml_select(&s, &p, 1, 3).path, ML_PATH_GEMM);
}

/* 256 rows are two blocks for gemm: two of 16 threads work, where strips keep all of them busy. */
static void test_threads(void **state) {
    (void)state;
    const struct ml_cost cost = {8, 10, 1, 1, 1};
    const struct ml_selection one = uniform(cost, 1), many = uniform(cost, 16);
    assert_int_equal(path(&one, ML_KIND_INT8, 256, 16), ML_PATH_GEMM);
    assert_int_equal(path(&many, ML_KIND_INT8, 256, 16), ML_PATH_FEW);
    assert_int_equal(path(&many, ML_KIND_INT8, 16384, 16), ML_PATH_GEMM);
}

/* Matrices over the same x go the same way: the large one counts most; a kind without kernels for few rows
 * keeps all from it. */
static void test_groups(void **state) {
    (void)state;
    struct ml_selection s = uniform((struct ml_cost){8, 10, 1, 100, 1}, 1);
    s.cost[ML_KIND_INT8] = (struct ml_cost){8, 10, 5, 1, 1};
    struct ml_product p[2] = {{.kind = ML_KIND_TAP, .n = 8192, .k = 4096},
                              {.kind = ML_KIND_INT8, .n = 128, .k = 4096}};
    assert_int_equal(ml_select(&s, p, 2, 8).path, ML_PATH_FEW);
    p[1].n = 1 << 20;
    assert_int_equal(ml_select(&s, p, 2, 8).path, ML_PATH_GEMM);
    p[1].n = 128;
    s.cost[ML_KIND_INT8].few = 4;
    assert_int_equal(ml_select(&s, p, 2, 8).block, 4);
}

static void test_exact_and_long(void **state) {
    (void)state;
    const struct ml_selection s = standard(ML_CPU_AVX512, 2);
    for (int kind = ML_KIND_INT8; kind < ML_KINDS; kind++) {
        struct ml_product p = {.kind = kind, .n = 4096, .k = 4096};
        assert_int_equal(ml_select(&s, &p, 1, 5000).block, ML_GEMM_ROWS);
        p.exact = true;
        for (size_t b = 0; b < BATCHES; b++) {
            const struct ml_choice c = ml_select(&s, &p, 1, batches[b]);
            assert_int_equal(c.path, ML_PATH_GEMM);
            assert_int_equal(c.why, ML_WHY_EXACT);
            assert_int_equal(c.block, batches[b]);
        }
        assert_int_equal(ml_select(&s, &p, 1, 5000).block, ML_GEMM_EXACT_ROWS);
    }
}

static void test_reasons(void **state) {
    (void)state;
    const struct ml_selection s = uniform((struct ml_cost){8, 10, 1, 18.5f, 1}, 1);
    struct ml_product p = {.kind = ML_KIND_TAP, .n = 4096, .k = 4096};
    const struct {
        size_t rows;
        const char *want;
    } cases[] = {
        {1, "one row"}, {8, "8 rows a pass cost 1.70 of one row, gemm 2.65"}, {32, "costs 5.05 of one"}};
    char text[128];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct ml_choice c = ml_select(&s, &p, 1, cases[i].rows);
        ml_choice_why(&c, text, sizeof text);
        assert_non_null(strstr(text, cases[i].want));
    }
    p.exact = true;
    const struct ml_choice c = ml_select(&s, &p, 1, 8);
    ml_choice_why(&c, text, 8);
    assert_int_equal(strlen(text), 7);
}

/* ---- the file ---- */

static struct ml_selection measured(void) {
    struct ml_selection s = standard(ML_CPU_AVX512, 3);
    for (int k = 0; k < ML_KINDS; k++)
        s.cost[k] = (struct ml_cost){s.cost[k].few, 1.0f / 3 + (float)k, 0.1f * (float)k, 1e-7f, 7e5f};
    s.measured = true;
    return s;
}

static char *text_of(const struct ml_selection *s) {
    struct ml_buf b;
    ml_buf_init(&b, 1 << 16);
    assert_int_equal(ml_tune_write(s, &b), MARLIN_OK);
    char *text = ml_strdup(b.data);
    assert_non_null(text);
    ml_buf_free(&b);
    return text;
}

static bool same_costs(const struct ml_selection *a, const struct ml_selection *b) {
    for (int k = 0; k < ML_KINDS; k++) {
        const struct ml_cost *x = &a->cost[k], *y = &b->cost[k];
        if (x->few != y->few || x->one != y->one || x->more != y->more || x->fixed != y->fixed ||
            x->row != y->row)
            return false;
    }
    return true;
}

static void test_round_trip(void **state) {
    (void)state;
    const struct ml_selection s = measured();
    struct ml_selection back = standard(ML_CPU_AVX512, 8);
    struct marlin_error err;
    char *text = text_of(&s);
    assert_int_equal(ml_tune_parse(text, strlen(text), &back, &err), MARLIN_OK);
    assert_true(back.measured);
    assert_int_equal(back.machine.threads, 8);
    assert_true(same_costs(&s, &back));
    ml_free(text);
}

/* Refused with that status and a message that says `want`; nothing is overwritten. */
static void refused(const char *text, size_t len, struct ml_machine m, marlin_status status,
                    const char *want) {
    struct ml_selection s, before;
    struct marlin_error err = {0};
    ml_selection_default(&s, &m);
    before = s;
    assert_int_equal(ml_tune_parse(text, len, &s, &err), status);
    assert_non_null(strstr(err.text, want));
    assert_false(s.measured);
    assert_true(same_costs(&s, &before));
}

static void test_damaged(void **state) {
    (void)state;
    const struct ml_selection s = measured();
    const struct ml_machine m = s.machine;
    char *text = text_of(&s);
    const size_t len = strlen(text);
    for (size_t cut = 0; cut + 1 < len; cut++) /* the last byte is a line feed */
        refused(text, cut, m, MARLIN_ERR_FORMAT, "");
    static const struct {
        const char *from, *to, *want;
    } edits[] = {
        {"\"tap4\":[", "\"tap4\":[-", "cost of tap4: number 1"},
        {"\"tap4\":[", "\"tap4\":[0,0,", "cost of tap4: not 4 numbers"},
        {"\"tap4\":[", "\"tap4\":[\"1\"],\"x\":[", "cost of tap4: not 4 numbers"},
        {"\"tap4\":", "\"tap7\":", "cost of tap4"},
        {"\"int8\":[", "\"int8\":[1e300],\"y\":[", "cost of int8"},
        {"\"cost\":", "\"costs\":", "cost of f32"},
        {"\"version\":1", "\"version\":\"1\"", "no version"},
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        const char *at = strstr(text, edits[i].from);
        assert_non_null(at);
        char *bad = ml_alloc(len + 64);
        assert_non_null(bad);
        const int n = snprintf(bad, len + 64, "%.*s%s%s", (int)(at - text), text, edits[i].to,
                               at + strlen(edits[i].from));
        refused(bad, (size_t)n, m, MARLIN_ERR_FORMAT, edits[i].want);
        ml_free(bad);
    }
    ml_free(text);
}

static void test_other_machine(void **state) {
    (void)state;
    const struct ml_selection s = measured();
    char *text = text_of(&s);
    const size_t len = strlen(text);
    struct ml_machine other[7];
    for (int i = 0; i < 7; i++)
        other[i] = s.machine;
    other[0].cpu.name[0] = 't';
    other[1].cpu.tier = ML_CPU_AVX2;
    other[2].cpu.avx512bf16 = true;
    other[3].cpu.l1d *= 2;
    other[4].cpu.l2 *= 2;
    other[5].cpu.l3 = 0;
    other[6].cpu.bf16 = true;
    char here[512], there[512];
    struct marlin_error err;
    assert_int_equal(setenv("XDG_CACHE_HOME", "/cache", 1), 0);
    assert_int_equal(ml_tune_path(&s.machine, here, sizeof here, &err), MARLIN_OK);
    assert_int_equal(strncmp(here, "/cache/marlin/kernels-avx512-", 29), 0);
    for (int i = 0; i < 7; i++) {
        refused(text, len, other[i], MARLIN_ERR_UNSUPPORTED, "another machine");
        assert_int_equal(ml_tune_path(&other[i], there, sizeof there, &err), MARLIN_OK);
        assert_true(strcmp(here, there) != 0);
    }
    char *version = strstr(text, "\"version\":1");
    assert_non_null(version);
    version[10] = '2';
    refused(text, len, s.machine, MARLIN_ERR_UNSUPPORTED, "another version");
    version[10] = '1';
    char *program = strstr(text, MARLIN_VERSION);
    assert_non_null(program);
    program[0]++;
    refused(text, len, s.machine, MARLIN_ERR_UNSUPPORTED, "another version");
    ml_free(text);
}

static char warning[1024];
static int warnings;

static void on_log(void *user, enum ml_log_level level, const char *text) {
    (void)user;
    if (level != ML_LOG_WARN) return;
    warnings++;
    (void)snprintf(warning, sizeof warning, "%s", text);
}

/* Loads; returns whether the file was used. */
static bool loads(const struct ml_machine *m) {
    struct ml_selection s;
    ml_selection_default(&s, m);
    warnings = 0;
    ml_tune_load(&s);
    return s.measured;
}

static void put(const char *path, const char *text) {
    struct marlin_error err;
    assert_int_equal(ml_file_write_atomic(path, text, strlen(text), &err), MARLIN_OK);
}

static void test_files(void **state) {
    (void)state;
    char dir[] = "/tmp/marlin-selection-XXXXXX", cache[64], path[512], other[512];
    struct ml_selection s = measured();
    struct ml_machine stranger = s.machine;
    struct marlin_error err;
    stranger.cpu.l3 /= 2;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(cache, sizeof cache, "%s/a/b", dir);
    assert_int_equal(setenv("XDG_CACHE_HOME", cache, 1), 0);
    ml_log_set(on_log, NULL, ML_LOG_INFO);

    assert_false(loads(&s.machine)); /* nothing measured yet: no warning */
    assert_int_equal(warnings, 0);
    assert_int_equal(ml_tune_save(&s, &err), MARLIN_OK);
    assert_true(loads(&s.machine));
    assert_int_equal(warnings, 0);
    assert_false(loads(&stranger));
    assert_int_equal(warnings, 0);

    assert_int_equal(ml_tune_path(&s.machine, path, sizeof path, &err), MARLIN_OK);
    assert_int_equal(ml_tune_path(&stranger, other, sizeof other, &err), MARLIN_OK);
    assert_int_equal(rename(path, other), 0);
    assert_false(loads(&stranger));
    assert_int_equal(warnings, 1);
    assert_non_null(strstr(warning, other));
    assert_non_null(strstr(warning, "another machine"));
    put(path, "{\"version\":1,");
    assert_false(loads(&s.machine));
    assert_int_equal(warnings, 1);
    assert_non_null(strstr(warning, path));
    assert_int_equal(ml_tune_save(&s, &err), MARLIN_OK); /* measured anew: whole again */
    assert_true(loads(&s.machine));

    ml_log_set(NULL, NULL, ML_LOG_WARN);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(unlink(other), 0);
    (void)snprintf(path, sizeof path, "%s/marlin", cache);
    assert_int_equal(rmdir(path), 0);
    put(path, "a file where the folder should be");
    assert_int_equal(ml_tune_save(&s, &err), MARLIN_ERR_IO);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(cache), 0);
    (void)snprintf(path, sizeof path, "%s/a", dir);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void test_places(void **state) {
    (void)state;
    const struct ml_machine m = machine(ML_CPU_NEON, 4);
    char path[512];
    struct marlin_error err;
    assert_int_equal(setenv("HOME", "/home/somebody", 1), 0);
    assert_int_equal(setenv("XDG_CACHE_HOME", "relative", 1), 0);
    assert_int_equal(ml_tune_path(&m, path, sizeof path, &err), MARLIN_OK);
    assert_int_equal(strncmp(path, "/home/somebody/.cache/marlin/kernels-neon-", 42), 0);
    assert_int_equal(ml_tune_path(&m, path, 20, &err), MARLIN_ERR_LIMIT);
    assert_int_equal(unsetenv("HOME"), 0);
    assert_int_equal(ml_tune_path(&m, path, sizeof path, &err), MARLIN_ERR_NOT_FOUND);
    assert_false(loads(&m));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_every_batch),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_table_of_tiles),
        cmocka_unit_test(test_measured_crossover),
        cmocka_unit_test(test_no_kernel_for_few),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_exact_and_long),
        cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_other_machine),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
