/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations that a table lacks are computed by the CPU over copies, to the same bits; and what goes wrong
 * meanwhile is reported by flush.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cases.h"
#include "ops/fallback.h"
#include "sham.h"

enum { SEEDS = 25 };

static struct place cpu, far;

static void open_far(uint32_t missing, struct ml_pool *pool) {
    const struct sham_options options = {.seed = missing, .delay_us = 50, .missing = missing};
    place_open(&far, sham_open(&options), pool);
}

static void close_place(struct place *p) {
    struct ml_device *d = p->device;
    place_close(p);
    d->ops->destroy(d);
}

static int open_cpu(void **state) {
    struct ml_device *d = NULL;
    (void)state;
    if (ml_device_open("cpu", &d, NULL) != MARLIN_OK) return -1;
    place_open(&cpu, d, NULL);
    return 0;
}

static int close_cpu(void **state) {
    (void)state;
    close_place(&cpu);
    return 0;
}

static void an_operation_that_is_missing_falls_back(void **state) {
    (void)state;
    for (int op = 0; op < ML_OP_COUNT; op++) {
        open_far(1u << op, NULL);
        assert_string_equal(ml_ops_missing(far.ops, 0), ml_operands[op].name);
        assert_null(ml_ops_missing(far.ops, 1));
        for (uint64_t seed = 0; seed < SEEDS; seed++)
            compare_case(&cpu, &far, (enum ml_op)op, seed);
        assert_int_equal(sham_computed(far.device), 0);
        compare_case(&cpu, &far, (enum ml_op)((op + 1) % ML_OP_COUNT), 0);
        assert_int_equal(sham_computed(far.device), 1);
        close_place(&far);
    }
}

/* A device without any table, and the pool of its caller. */
static void all_of_them_may_be_missing(void **state) {
    struct ml_pool *pool = NULL;
    (void)state;
    assert_int_equal(ml_pool_create(3, &pool, NULL), MARLIN_OK);
    open_far(SHAM_NOTHING, pool);
    for (int op = 0; op < ML_OP_COUNT; op++) {
        assert_string_equal(ml_ops_missing(far.ops, (size_t)op), ml_operands[op].name);
        for (uint64_t seed = 100; seed < 100 + SEEDS / 5; seed++)
            compare_case(&cpu, &far, (enum ml_op)op, seed);
    }
    assert_null(ml_ops_missing(far.ops, ML_OP_COUNT));
    assert_int_equal(sham_computed(far.device), 0);
    close_place(&far);
    ml_pool_free(pool);
}

static void a_whole_table_is_left_as_it_is(void **state) {
    struct ml_ops_filled filled;
    (void)state;
    ml_ops_fill(&filled, &ml_ops_cpu);
    assert_memory_equal(&filled.ops, &ml_ops_cpu, sizeof filled.ops);
    assert_null(ml_ops_missing(&ml_ops_cpu, 0));
    assert_null(ml_ops_missing(&filled.ops, 0));
}

/* x += y, twice on the device with an operation between that falls back. */
static char *mixed(struct place *p, marlin_status *st, struct marlin_error *err) {
    place_clear(p);
    ml_rng_seed(&p->rng, 7);
    float *x = out_floats(p, 200);
    const struct ml_add_op add = {.x = x, .y = floats(p, 200), .n = 2, .width = 100};
    p->ops->add(&p->stream, &add);
    p->ops->softcap(&p->stream, &(struct ml_softcap_op){.x = x, .n = 200, .cap = 1});
    p->ops->add(&p->stream, &add);
    if (st) *st = p->ops->flush(&p->stream, err);
    return results(p);
}

static void assert_mixed(void) {
    char *here = mixed(&cpu, NULL, NULL), *there = mixed(&far, NULL, NULL);
    assert_memory_equal(here, there, cpu.result_bytes);
    ml_free_aligned(here);
    ml_free_aligned(there);
}

static void the_order_of_the_stream_is_kept(void **state) {
    static const uint32_t missing[] = {1u << ML_OP_softcap, 1u << ML_OP_add | 1u << ML_OP_glu, SHAM_NOTHING};
    (void)state;
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++) {
        open_far(missing[i], NULL);
        for (uint64_t seed = 0; seed < 3; seed++)
            compare_chain(&cpu, &far, seed);
        close_place(&far);
    }
}

/* In the token loop too: its guard would end the process in a build with assertions. */
static void copies_may_allocate_in_a_guard(void **state) {
    const uint64_t before = ml_mem_guard_violations();
    (void)state;
    open_far(1u << ML_OP_softcap, NULL);
    ml_rng_seed(&far.rng, 1);
    float *x = out_floats(&far, 5000);
    const uint64_t allocations = ml_mem_count();
    ml_mem_guard_begin("test");
    far.ops->softcap(&far.stream, &(struct ml_softcap_op){.x = x, .n = 5000, .cap = 1});
    ml_mem_guard_end();
    assert_true(ml_mem_count() > allocations);
    assert_int_equal(ml_mem_guard_violations(), before);
    close_place(&far);
}

static void failures_before_it_are_reported(void **state) {
    struct marlin_error err;
    marlin_status st;
    (void)state;
    open_far(1u << ML_OP_softcap, NULL);
    sham_fail(&far.stream, "cable");
    ml_free_aligned(mixed(&far, &st, &err));
    assert_int_equal(st, MARLIN_ERR_IO);
    assert_string_equal(err.text, "cable");
    assert_mixed();
    close_place(&far);
}

/* Every allocation of the copies in turn; then memory is there again, and so are the right bits. */
static void running_out_of_memory_is_reported(void **state) {
    (void)state;
    for (int op = 0; op < ML_OP_COUNT; op++) {
        uint64_t fail = 0;
        for (bool done = false; !done;) {
            struct marlin_error err;
            open_far(1u << op, NULL);
            ml_rng_seed(&far.rng, 3);
            far.fail_at = ++fail;
            cases[op](&far);
            const marlin_status st = far.ops->flush(&far.stream, &err);
            done = st == MARLIN_OK;
            if (!done) assert_int_equal(st, MARLIN_ERR_MEMORY);
            far.fail_at = 0;
            compare_case(&cpu, &far, (enum ml_op)op, 3);
            close_place(&far);
        }
        assert_true(fail >= 4); /* at least the arguments, the list and the operands failed once */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_operation_that_is_missing_falls_back),
        cmocka_unit_test(all_of_them_may_be_missing),
        cmocka_unit_test(a_whole_table_is_left_as_it_is),
        cmocka_unit_test(the_order_of_the_stream_is_kept),
        cmocka_unit_test(copies_may_allocate_in_a_guard),
        cmocka_unit_test(failures_before_it_are_reported),
        cmocka_unit_test(running_out_of_memory_is_reported),
    };
    return cmocka_run_group_tests(tests, open_cpu, close_cpu);
}
