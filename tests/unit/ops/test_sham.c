/* SPDX-License-Identifier: Apache-2.0
 *
 * The sham device does what it is for: its operations give the CPU's bits however late they are, and whoever
 * touches its memory, or reuses what an upload still reads, is found out.
 */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cases.h"
#include "ops/fallback.h"
#include "sham.h"

enum { SEEDS = 40 };

static struct place cpu, far;

static int open_both(void **state) {
    struct ml_device *d = NULL;
    (void)state;
    if (ml_device_open("cpu", &d, NULL) != MARLIN_OK) return -1;
    place_open(&cpu, d, NULL);
    place_open(&far, sham_open(&(struct sham_options){.seed = 1, .delay_us = 100}), NULL);
    return 0;
}

static void close_place(struct place *p) {
    struct ml_device *d = p->device;
    place_close(p);
    d->ops->destroy(d);
}

static int close_both(void **state) {
    (void)state;
    close_place(&cpu);
    close_place(&far);
    return 0;
}

/* ---- operations ---- */

static void every_operation_gives_the_cpus_bits(void **state) {
    (void)state;
    assert_null(ml_ops_missing(far.ops, 0));
    for (int op = 0; op < ML_OP_COUNT; op++)
        for (uint64_t seed = 0; seed < SEEDS; seed++)
            compare_case(&cpu, &far, (enum ml_op)op, seed);
    assert_int_equal(sham_computed(far.device), ML_OP_COUNT * SEEDS);
}

/* Arguments are read before a call returns: nothing of the stream has happened when they are overwritten. */
static void arguments_are_the_callers_after_a_call(void **state) {
    (void)state;
    for (int op = 0; op < ML_OP_COUNT; op++) {
        char *now = run_case(&cpu, (enum ml_op)op, 1000), *later;
        place_clear(&far);
        ml_rng_seed(&far.rng, 1000);
        sham_hold(&far.stream);
        cases[op](&far);
        sham_release(&far.stream);
        later = results(&far);
        assert_memory_equal(now, later, cpu.result_bytes);
        ml_free_aligned(now);
        ml_free_aligned(later);
    }
}

static void delays_reorder_nothing(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++)
        compare_chain(&cpu, &far, seed);
}

/* ---- streams, events and copies ---- */

struct two_streams {
    struct ml_device *d;
    struct ml_stream a, b;
    struct ml_event e;
    struct ml_buffer memory;
};

static struct two_streams two_streams(void) {
    struct two_streams t = {.d = far.device};
    assert_int_equal(t.d->ops->stream_open(t.d, &t.a, NULL), MARLIN_OK);
    assert_int_equal(t.d->ops->stream_open(t.d, &t.b, NULL), MARLIN_OK);
    assert_int_equal(t.d->ops->event_create(t.d, &t.e, NULL), MARLIN_OK);
    assert_int_equal(t.d->ops->alloc(t.d, 8, &t.memory, NULL), MARLIN_OK);
    return t;
}

static void close_streams(struct two_streams *t) {
    t->d->ops->stream_close(&t->a);
    t->d->ops->stream_close(&t->b);
    t->d->ops->event_free(&t->e);
    t->d->ops->free(t->d, &t->memory);
}

static void events_order_two_streams(void **state) {
    struct two_streams t = two_streams();
    const struct ml_device_ops *ops = t.d->ops;
    uint64_t number[64], seen[64];
    (void)state;
    ops->event_wait(&t.e, &t.b); /* an event that was never recorded holds up nobody */
    for (size_t i = 0; i < 64; i++) {
        number[i] = i + 1;
        ops->upload(&t.a, t.memory.address, &number[i], 8);
        ops->event_record(&t.e, &t.a);
        ops->event_wait(&t.e, &t.b);
        ops->download(&t.b, &seen[i], t.memory.address, 8);
        ops->event_record(&t.e, &t.b);
        ops->event_wait(&t.e, &t.a);
    }
    assert_int_equal(ops->stream_sync(&t.b, NULL), MARLIN_OK);
    assert_memory_equal(number, seen, sizeof seen);
    close_streams(&t);
}

/* The twin of the test above: what it would see without events. */
static void two_streams_without_events_have_no_order(void **state) {
    struct two_streams t = two_streams();
    const struct ml_device_ops *ops = t.d->ops;
    const uint64_t before = 1, after = 2;
    uint64_t seen = 0;
    (void)state;
    ops->upload(&t.a, t.memory.address, &before, 8);
    assert_int_equal(ops->stream_sync(&t.a, NULL), MARLIN_OK);
    sham_hold(&t.a);
    ops->upload(&t.a, t.memory.address, &after, 8);
    ops->download(&t.b, &seen, t.memory.address, 8);
    assert_int_equal(ops->stream_sync(&t.b, NULL), MARLIN_OK);
    sham_release(&t.a);
    assert_int_equal(seen, before);
    close_streams(&t);
}

static void memory_that_is_reused_too_early_shows(void **state) {
    struct two_streams t = two_streams();
    const struct ml_device_ops *ops = t.d->ops;
    uint64_t mine = 1, seen = 3;
    (void)state;
    sham_hold(&t.a);
    ops->upload(&t.a, t.memory.address, &mine, 8);
    mine = 2; /* what nobody may do */
    ops->download(&t.a, &seen, t.memory.address, 8);
    assert_true(seen != 1 && seen != 2 && seen != 3); /* nor read it before it was waited for */
    sham_release(&t.a);
    assert_int_equal(ops->stream_sync(&t.a, NULL), MARLIN_OK);
    assert_int_equal(seen, 2);
    close_streams(&t);
}

static void new_memory_is_not_a_number(void **state) {
    struct two_streams t = two_streams();
    float seen[2];
    (void)state;
    t.d->ops->download(&t.a, seen, t.memory.address, 8);
    assert_int_equal(t.d->ops->stream_sync(&t.a, NULL), MARLIN_OK);
    assert_true(isnan(seen[0]) && isnan(seen[1]));
    assert_null(t.d->ops->wrap);
    close_streams(&t);
}

static void failures_are_reported_once(void **state) {
    struct marlin_error err;
    (void)state;
    sham_fail(&far.stream, "first");
    sham_fail(&far.stream, "second");
    assert_int_equal(far.ops->flush(&far.stream, &err), MARLIN_ERR_IO);
    assert_string_equal(err.text, "first");
    assert_int_equal(far.ops->flush(&far.stream, &err), MARLIN_OK);
}

/* ---- what must not be done ends the process ---- */

/* The signal that ends a process which does this on a device of its own. */
static int signal_of(void (*deed)(struct ml_device *d, struct ml_stream *s)) {
    int status = 0;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct ml_device *d = sham_open(&(struct sham_options){.seed = 2});
        struct ml_stream s;
        (void)signal(SIGSEGV, SIG_DFL); /* sanitizers have handlers of their own */
        (void)signal(SIGBUS, SIG_DFL);
        (void)signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) _exit(2);
        if (d->ops->stream_open(d, &s, NULL) != MARLIN_OK) _exit(2);
        deed(d, &s);
        (void)d->ops->stream_sync(&s, NULL);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static volatile char sink;

static char *new_address(struct ml_device *d) {
    struct ml_buffer b;
    if (d->ops->alloc(d, 64, &b, NULL) != MARLIN_OK) _exit(2);
    return b.address;
}

static void nothing_wrong(struct ml_device *d, struct ml_stream *s) {
    d->ops->copy(s, new_address(d), new_address(d), 64);
}

static void read_address(struct ml_device *d, struct ml_stream *s) {
    (void)s;
    sink = *(volatile char *)new_address(d);
}

static void write_address(struct ml_device *d, struct ml_stream *s) {
    (void)s;
    *(volatile char *)new_address(d) = 1;
}

static void copy_beyond_the_end(struct ml_device *d, struct ml_stream *s) {
    d->ops->copy(s, new_address(d), new_address(d) + 1, 64);
}

static void use_after_free(struct ml_device *d, struct ml_stream *s) {
    struct ml_buffer b;
    static char host[64];
    if (d->ops->alloc(d, 64, &b, NULL) != MARLIN_OK) _exit(2);
    void *old = b.address;
    d->ops->free(d, &b);
    d->ops->upload(s, old, host, 64);
}

static void compute_on_host_memory(struct ml_device *d, struct ml_stream *s) {
    static float x[16];
    if (ml_ops_of(d)->open(s, NULL, &(struct ml_ops_sizes){.rows = 1, .runs = 1}, NULL) != MARLIN_OK)
        _exit(2);
    ml_ops_of(d)->softcap(s, &(struct ml_softcap_op){.x = x, .n = 16, .cap = 1});
}

static void misuse_ends_the_process(void **state) {
    (void)state;
    assert_int_equal(signal_of(nothing_wrong), 0);
    const int read_ends = signal_of(read_address), write_ends = signal_of(write_address);
    assert_true(read_ends == SIGSEGV || read_ends == SIGBUS);
    assert_true(write_ends == SIGSEGV || write_ends == SIGBUS);
    assert_int_equal(signal_of(copy_beyond_the_end), SIGABRT);
    assert_int_equal(signal_of(use_after_free), SIGABRT);
    assert_int_equal(signal_of(compute_on_host_memory), SIGABRT);
}

int main(void) {
    /* First, while the process has a single thread. */
    const struct CMUnitTest misuse[] = {cmocka_unit_test(misuse_ends_the_process)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation_gives_the_cpus_bits),
        cmocka_unit_test(arguments_are_the_callers_after_a_call),
        cmocka_unit_test(delays_reorder_nothing),
        cmocka_unit_test(events_order_two_streams),
        cmocka_unit_test(two_streams_without_events_have_no_order),
        cmocka_unit_test(memory_that_is_reused_too_early_shows),
        cmocka_unit_test(new_memory_is_not_a_number),
        cmocka_unit_test(failures_are_reported_once),
    };
    const int failed = cmocka_run_group_tests(misuse, NULL, NULL);
    return failed + cmocka_run_group_tests(tests, open_both, close_both);
}
