/* SPDX-License-Identifier: Apache-2.0
 *
 * Every kernel of every tier against the reference; and the check itself: kernels that break their contract
 * in each way that it promises to notice are noticed, for the right reason.
 *
 * kernels_check [--sample N]   N: only every Nth case of a row and the first of each number of bits, as under
 * an emulator. That no row is lost by it is tested in the run without it.
 */
#include "base/pool.h"
#include "kernels/check.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static size_t sample;

enum { ROWS = 1024 };
static char rows[ROWS][96]; /* that family_passes has seen */
static size_t n_rows;

static void name_row(char name[96], const struct ml_check_row *row) {
    (void)snprintf(name, 96, "%s %s %s %s", row->family, ml_cpu_tier_name(row->tier), row->entry,
                   row->variant);
}

static void print_row(void *user, const struct ml_check_row *row) {
    (void)user;
    assert_true(n_rows < ROWS);
    name_row(rows[n_rows++], row);
    print_message("%s %s %s: %zu cases, worst %.2f of the tolerance\n", ml_cpu_tier_name(row->tier),
                  row->entry, row->variant, row->cases, row->worst);
}

static void print_failure(void *user, const struct ml_check_failure *f) {
    (void)user;
    print_message("%s %s %s: %s: %s\n", ml_cpu_tier_name(f->tier), f->entry, f->variant, f->params, f->text);
}

static void family_passes(void **state) {
    const char *name = *state;
    struct marlin_error err;
    struct ml_check_total total;
    struct ml_pool *pool = NULL;
    assert_int_equal(ml_pool_create(3, &pool, &err), MARLIN_OK);
    const struct ml_check_options o = {
        .family = name, .sample = sample, .pool = pool, .on_row = print_row, .on_failure = print_failure};
    if (ml_check_run(&o, &total, &err) != MARLIN_OK) fail_msg("%s", err.text);
    ml_pool_free(pool);
    if (total.reads_unguarded) print_message("masked loads touch memory here: ends were not guarded\n");
    assert_true(total.checked > 0);
    assert_int_equal(total.failed, 0);
}

static void unknown_families_are_refused(void **state) {
    const struct ml_check_options o = {.family = "fish"};
    struct ml_check_total total;
    struct marlin_error err;
    (void)state;
    assert_int_equal(ml_check_run(&o, &total, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "fish"));
}

/* ---- kernels with faults: y[i] = 2 x[i], but not in every tier but the reference's ---- */

enum fault { NONE, WRONG, SHORT, LONG, BEFORE, GAP, READS, WRITES_INPUT, ILLEGAL, LATE_NAN, FAULTS };

/* Of the first case, whose operands are at the end of their pages. */
static const char *const said[FAULTS] = {[WRONG] = "element 6 is",
                                         [SHORT] = "was not written",
                                         [LONG] = "outside its operands",
                                         [BEFORE] = "wrote beside operand 1",
                                         [GAP] = "element 1 is not the kernel's",
                                         [READS] = "outside its operands",
                                         [WRITES_INPUT] = "outside its operands",
                                         [ILLEGAL] = "an instruction that this processor lacks",
                                         [LATE_NAN] = "element 12 is"};

struct faulty {
    enum fault fault;
    float *y;
    const volatile float *x;
    size_t n;
};

static enum fault wanted;
static char first[256];
static size_t failures;

static ml_check_entry *get_double(const struct ml_check_tables *t, int variant) {
    static ml_check_entry *const by_tier[ML_CPU_TIERS] = {
        [ML_CPU_GENERIC] = (ml_check_entry *)print_row,    [ML_CPU_AVX2] = (ml_check_entry *)print_failure,
        [ML_CPU_AVX512] = (ml_check_entry *)family_passes, [ML_CPU_AMX] = (ml_check_entry *)print_failure,
        [ML_CPU_NEON] = (ml_check_entry *)print_failure,   [ML_CPU_I8MM] = (ml_check_entry *)family_passes};
    (void)variant;
    return by_tier[t->tier];
}

static void call_double(const struct ml_check_tables *t, void *arg) {
    const struct faulty *a = arg;
    const enum fault fault = t->tier == ML_CPU_GENERIC ? NONE : a->fault;
    volatile float *y = a->y;
    /* Every other element is a gap. */
    for (size_t i = 0; i < a->n - (fault == SHORT); i++)
        y[2 * i] = 2 * a->x[i];
    if (fault == WRONG) y[3 * 2] = 2.001f * a->x[3];
    if (fault == LATE_NAN) y[6 * 2] = 0.0f / (a->x[0] * 0);
    if (fault == LONG) y[2 * a->n - 1] = 1;
    if (fault == BEFORE) y[-1] = 1;
    if (fault == GAP) y[1] = 1;
    if (fault == READS) y[0] = a->x[a->n] + a->x[-1];
    if (fault == WRITES_INPUT) ((volatile float *)a->x)[0] = 1;
    if (fault == ILLEGAL) (void)raise(SIGILL);
}

/* Twice: with operands at the end and at the beginning of their pages. */
static void run_double(struct ml_check *c) {
    enum { N = 1024 };
    for (int i = 0; i < 2; i++) {
        if (!ml_check_begin(c, "double", "", get_double, 0)) return;
        ml_check_param(c, "n", N);
        const struct ml_check_result y = {.type = ML_CHECK_F32, .count = 2 * N - 1, .relative = 0x1p-20};
        struct faulty a = {.fault = wanted, .n = N, .x = ml_check_floats(c, N, ML_CHECK_NORMAL)};
        a.y = ml_check_output(c, &y);
        ml_check_call(c, call_double, &a);
    }
}

static void keep_failure(void *user, const struct ml_check_failure *f) {
    (void)user;
    if (failures++ == 0) (void)snprintf(first, sizeof first, "%s: %s", f->params, f->text);
}

static void faults_are_noticed(void **state) {
    static const struct ml_check_family family = {"double", run_double};
    (void)state;
    if (ml_cpu()->tier == ML_CPU_GENERIC) {
        print_message("skipped: this processor has no tier besides the reference's\n");
        skip();
    }
    for (int fault = NONE; fault < FAULTS; fault++) {
        const struct ml_check_options o = {.other = &family, .on_failure = keep_failure};
        struct ml_check_total total;
        struct marlin_error err;
        failures = 0;
        first[0] = '\0';
        wanted = (enum fault)fault;
        assert_int_equal(ml_check_run(&o, &total, &err), MARLIN_OK);
        print_message("fault %d: %zu of %zu cases failed: %s\n", fault, total.failed, total.checked, first);
        assert_int_equal(total.failed, failures);
        if (fault == READS && total.reads_unguarded) continue;
        if (fault == NONE) {
            assert_int_equal(failures, 0);
            continue;
        }
        assert_int_equal(failures, total.checked - 2); /* all but the reference's own two */
        assert_non_null(strstr(first, "n=1024: "));
        /* Where ends are not guarded there is room for the masked loads of a vector, and a pattern in it. */
        const bool roomy = fault == LONG && total.reads_unguarded;
        assert_non_null(strstr(first, roomy ? "wrote beside operand 1" : said[fault]));
    }
}

/* ---- samples ---- */

/* Three numbers of bits with ten cases each, in one row. */
static void run_thirty(struct ml_check *c) {
    for (size_t i = 0; i < 30; i++) {
        if (!ml_check_begin(c, "double", "", get_double, 0)) return;
        ml_check_param(c, "bits", 2 + i / 10);
        const struct ml_check_result y = {.type = ML_CHECK_F32, .count = 7, .relative = 0x1p-20};
        struct faulty a = {.fault = NONE, .n = 4, .x = ml_check_floats(c, 4, ML_CHECK_NORMAL)};
        a.y = ml_check_output(c, &y);
        ml_check_call(c, call_double, &a);
    }
}

/* Cases 0, 7, 14, 21, 28, and 10 and 20 as the first of their bits. */
static void a_sample_takes_every_seventh(void **state) {
    static const struct ml_check_family family = {"thirty", run_thirty};
    struct ml_check_options o = {.other = &family};
    struct ml_check_total all, some;
    struct marlin_error err;
    (void)state;
    assert_int_equal(ml_check_run(&o, &all, &err), MARLIN_OK);
    o.sample = 7;
    assert_int_equal(ml_check_run(&o, &some, &err), MARLIN_OK);
    assert_true(all.checked >= 30);
    assert_int_equal(all.checked % 30, 0);
    assert_int_equal(some.checked, all.checked / 30 * 7);
    assert_int_equal(some.failed, 0);
}

static void find_row(void *user, const struct ml_check_row *row) {
    size_t *found = user, i = 0;
    char name[96];
    name_row(name, row);
    while (i < n_rows && strcmp(rows[i], name) != 0)
        i++;
    if (i == n_rows) fail_msg("%s is a row of the sample alone", name);
    rows[i][0] = '\0';
    (*found)++;
}

/* After all families: a sample has their rows, each once. */
static void a_sample_keeps_every_row(void **state) {
    struct marlin_error err;
    struct ml_check_total total;
    struct ml_pool *pool = NULL;
    size_t found = 0;
    (void)state;
    if (sample) {
        print_message("skipped: this run is a sample itself\n");
        skip();
    }
    assert_int_equal(ml_pool_create(3, &pool, &err), MARLIN_OK);
    const struct ml_check_options o = {.sample = 1000003, .pool = pool, .user = &found, .on_row = find_row};
    if (ml_check_run(&o, &total, &err) != MARLIN_OK) fail_msg("%s", err.text);
    ml_pool_free(pool);
    print_message("%zu rows, %zu cases\n", found, total.checked);
    assert_int_equal(found, n_rows);
    assert_int_equal(total.failed, 0);
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--sample") == 0) sample = strtoul(argv[2], NULL, 10);
    if (argc != 1 && sample == 0) {
        (void)fprintf(stderr, "usage: kernels_check [--sample N]\n");
        return 2;
    }
    static struct CMUnitTest tests[32];
    size_t n = 0;
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(unknown_families_are_refused);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(faults_are_noticed);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_sample_takes_every_seventh);
    for (size_t i = 0; ml_check_family_name(i); i++) {
        assert_true(n < sizeof tests / sizeof *tests);
        tests[n++] = (struct CMUnitTest){ml_check_family_name(i), family_passes, NULL, NULL,
                                         (void *)ml_check_family_name(i)};
    }
    assert_true(n < sizeof tests / sizeof *tests);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_sample_keeps_every_row);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
