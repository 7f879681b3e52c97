/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocations, reads and writes of the quantizer that fail on the way: each run ends in a named error,
 * nothing that was done is lost, and a run that goes on from there ends with the bytes of one that nothing
 * happened to.
 */
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "quantization/job/pipeline.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "folders.h"
#include "guard.h"

enum { PATH = 512, RUNS = 30, TOKENS = 32 };
static const char model[] = MARLIN_SOURCE_DIR "/tests/golden/fixtures/llama3";
static const char recipe[] = "model.embed_tokens 8\n";
static char whole[PATH], pieces[PATH]; /* without a fault; with one after the other */

static marlin_status quantize(const char *out, bool resume, struct marlin_error *err) {
    const struct ml_quantize_settings s = {.source = model,
                                           .out = out,
                                           .format = ML_QUANTIZE_MARLIN,
                                           .bits = 2,
                                           .head_bits = 2,
                                           .calib_tokens = TOKENS,
                                           .recipe = recipe,
                                           .resume = resume};
    struct ml_quantize_report r;
    const marlin_status st = ml_quantize_model(&s, &r, err);
    ml_quantize_report_free(&r);
    return st;
}

/* A job that ended with st goes on to its end without a fault. */
static void finish(marlin_status st) {
    struct marlin_error err = {0};
    if (st != MARLIN_OK && quantize(pieces, true, &err) != MARLIN_OK) fail_msg("%s", err.text);
    const size_t n = same_files(whole, pieces);
    assert_true(n >= 3);
    assert_int_equal(same_files(pieces, whole), n); /* and nothing else */
    remove_tree(pieces);
}

/* About RUNS of all allocations, evenly spread. Those for measuring the error of a tensor that is done
 * already are not fatal: it is then reported as unknown. */
static void allocations(void **state) {
    struct marlin_error err = {0};
    const uint64_t before = ml_mem_count();
    (void)state;
    assert_int_equal(quantize(pieces, false, &err), MARLIN_OK);
    const uint64_t count = ml_mem_count() - before, step = count / RUNS + 1;
    uint64_t failed = 0;
    remove_tree(pieces);
    for (uint64_t n = 1; n <= count; n += step) {
        ml_mem_fail_at(n);
        const marlin_status st = quantize(pieces, true, &err);
        ml_mem_fail_at(0);
        failed += st != MARLIN_OK;
        if (st != MARLIN_OK && (st != MARLIN_ERR_MEMORY || !err.text[0]))
            fail_msg("allocation %llu: %s: %s", (unsigned long long)n, marlin_status_name(st), err.text);
        finish(st);
    }
    (void)printf("%llu allocations, one of %llu tried, %llu fatal\n", (unsigned long long)count,
                 (unsigned long long)step, (unsigned long long)failed);
    assert_true(failed > RUNS / 2);
}

/* Stops a job in its second layer, so that there is a checkpoint to read. */
static volatile sig_atomic_t stop_now;

static void in_the_second_layer(void *user, size_t layer, size_t layers, uint64_t done, uint64_t total,
                                double proxy) {
    (void)user, (void)layers, (void)done, (void)total, (void)proxy;
    if (layer == 1) stop_now = 1;
}

static void half_a_job(void) {
    struct ml_quantize_report r;
    const struct ml_quantize_settings s = {.source = model,
                                           .out = pieces,
                                           .bits = 2,
                                           .head_bits = 2,
                                           .calib_tokens = TOKENS,
                                           .recipe = recipe,
                                           .cancel = &stop_now,
                                           .on_tensor = in_the_second_layer};
    stop_now = 0;
    assert_int_equal(ml_quantize_model(&s, &r, NULL), MARLIN_ERR_CANCELLED);
}

/* Every read of a resumed job gives an input/output error once. */
static void reads(void **state) {
    enum { BROKEN = 2 };
    uint64_t failed = 0;
    (void)state;
    half_a_job();
    for (uint64_t n = 1;; n++) {
        struct marlin_error err = {0};
        ml_file_inject(n, BROKEN);
        const marlin_status st = quantize(pieces, true, &err);
        ml_file_inject(0, 0);
        if (st == MARLIN_OK) break;
        if (st != MARLIN_ERR_IO || !strstr(err.text, "cannot read: ") || err.text[0] != '/')
            fail_msg("read %llu: %s: %s", (unsigned long long)n, marlin_status_name(st), err.text);
        failed++;
    }
    (void)printf("%llu reads\n", (unsigned long long)failed);
    assert_true(failed >= 3);
    assert_int_equal(same_files(pieces, whole), same_files(whole, pieces));
    remove_tree(pieces);
}

/* The disk is full at every size from nothing to what the largest file needs. */
static void full_disks(void **state) {
    struct rlimit old;
    size_t failed = 0;
    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    (void)signal(SIGXFSZ, SIG_IGN);
    for (rlim_t bytes = 0;; bytes = bytes ? 2 * bytes : 64) {
        struct marlin_error err = {0};
        const struct rlimit limit = {bytes, old.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        const marlin_status st = quantize(pieces, true, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
        if (st == MARLIN_OK) break;
        if (st != MARLIN_ERR_IO || !strstr(err.text, pieces))
            fail_msg("%llu bytes: %s: %s", (unsigned long long)bytes, marlin_status_name(st), err.text);
        failed++;
    }
    assert_true(failed >= 5);
    assert_int_equal(same_files(pieces, whole), same_files(whole, pieces));
    remove_tree(pieces);
}

static int set_up(void **state) {
    struct marlin_error err = {0};
    const char *base = getenv("TMPDIR");
    (void)state;
    ml_log_set(NULL, NULL, ML_LOG_WARN);
    (void)snprintf(whole, sizeof whole, "%.400s/marlin-fault-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(whole)) return -1;
    (void)snprintf(pieces, sizeof pieces, "%.500s-b", whole);
    return quantize(whole, false, &err) == MARLIN_OK ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    remove_tree(whole);
    remove_tree(pieces);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations),
        cmocka_unit_test(reads),
        cmocka_unit_test(full_disks),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down) + guard_clean(NULL);
}
