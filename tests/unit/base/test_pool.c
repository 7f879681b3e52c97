/* SPDX-License-Identifier: Apache-2.0
 *
 * The thread pool: everybody runs once, every index is covered once, results are visible after the join.
 */
#include "base/cpu.h"
#include "base/mem.h"
#include "base/pool.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { MAX_WORKERS = 64, MAX_COUNT = 5000 };

static struct ml_pool *make(int threads) {
    struct ml_pool *p = NULL;
    struct marlin_error err = {0};
    if (ml_pool_create(threads, &p, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return p;
}

struct calls {
    int count[MAX_WORKERS]; /* each written by its worker alone */
    int workers;
};

static void note_call(void *arg, int worker, int workers) {
    struct calls *c = arg;
    c->count[worker]++;
    if (worker == 0) c->workers = workers;
}

static void every_worker_once(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 3, 8, 17};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        struct ml_pool *p = make(sizes[s]);
        struct calls c = {0};
        assert_int_equal(ml_pool_size(p), sizes[s]);
        for (int round = 1; round <= 200; round++) {
            ml_pool_run(p, note_call, &c);
            for (int w = 0; w < MAX_WORKERS; w++) {
                assert_int_equal(c.count[w], w < sizes[s] ? round : 0);
            }
        }
        assert_int_equal(c.workers, sizes[s]);
        ml_pool_free(p);
    }
}

struct cover {
    unsigned char hits[MAX_COUNT]; /* a lost or doubled index shows as 0 or 2; plain on purpose, for TSan */
    size_t count, grain;
    int workers;
    atomic_int wrong;
};

static void hit(void *arg, size_t begin, size_t end, int worker) {
    struct cover *c = arg;
    if (begin >= end || end > c->count || end - begin > c->grain || worker < 0 || worker >= c->workers)
        (void)atomic_fetch_add(&c->wrong, 1);
    for (size_t i = begin; i < end && i < MAX_COUNT; i++) {
        c->hits[i]++;
    }
}

typedef void for_fn(struct ml_pool *p, size_t count, size_t grain, ml_range_fn *fn, void *arg);

static void check_cover(for_fn *each, struct ml_pool *p, size_t count, size_t grain) {
    static struct cover c;
    memset(&c, 0, sizeof c);
    c.count = count;
    c.grain = grain ? grain : 1;
    c.workers = ml_pool_size(p);
    each(p, count, grain, hit, &c);
    assert_int_equal(atomic_load(&c.wrong), 0);
    for (size_t i = 0; i < MAX_COUNT; i++) {
        if (c.hits[i] != (i < count))
            fail_msg("count %zu, grain %zu: index %zu hit %d times", count, grain, i, c.hits[i]);
    }
}

static void as_one_part(struct ml_pool *p, size_t count, size_t grain, ml_range_fn *fn, void *arg) {
    const size_t first[] = {0, count};
    ml_pool_for_runs(p, first, 1, grain, fn, arg);
}

static void as_parts(struct ml_pool *p, size_t count, size_t grain, ml_range_fn *fn, void *arg) {
    const size_t first[] = {0, 0, count / 3, count / 3, count / 3 + (count > 0), count};
    ml_pool_for_runs(p, first, 5, grain, fn, arg);
}

static void every_index_once(void **state) {
    (void)state;
    static const int sizes[] = {0, 1, 2, 5, 16};
    static const size_t counts[] = {0, 1, 2, 3, 7, 64, 65, 999, MAX_COUNT};
    static const size_t grains[] = {0, 1, 2, 3, 16, 64, 1000, MAX_COUNT, SIZE_MAX};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        struct ml_pool *p = sizes[s] ? make(sizes[s]) : NULL;
        for (size_t n = 0; n < sizeof counts / sizeof *counts; n++) {
            for (size_t g = 0; g < sizeof grains / sizeof *grains; g++) {
                check_cover(ml_pool_for, p, counts[n], grains[g]);
                check_cover(as_one_part, p, counts[n], grains[g]);
                check_cover(as_parts, p, counts[n], grains[g]);
            }
        }
        ml_pool_free(p);
    }
}

struct order {
    size_t last[MAX_WORKERS];
    int turns[MAX_WORKERS]; /* pieces that did not follow a worker's last one upwards */
};

static void note_order(void *arg, size_t begin, size_t end, int worker) {
    struct order *o = arg;
    if (begin < o->last[worker]) o->turns[worker]++;
    o->last[worker] = end;
}

/* A worker goes upwards through its own share, then through what is left of each of the others'. */
static void runs_go_upwards(void **state) {
    (void)state;
    enum { THREADS = 5 };
    static const size_t first[] = {0, MAX_COUNT / 4, MAX_COUNT};
    struct ml_pool *p = make(THREADS);
    for (int round = 0; round < 200; round++) {
        struct order o;
        memset(&o, 0, sizeof o);
        ml_pool_for_runs(p, first, 2, 3, note_order, &o);
        for (int w = 0; w < THREADS; w++)
            assert_in_range(o.turns[w], 0, THREADS - 1);
    }
    ml_pool_free(p);
}

struct owners {
    atomic_int arrived;
    int of[3];
};

/* Holds every worker in its first piece until all are in theirs: nobody is left to take another's. */
static void note_owner(void *arg, size_t begin, size_t end, int worker) {
    struct owners *o = arg;
    if (begin >= 12) return;
    for (size_t i = begin; i < end; i += 4)
        o->of[i / 4] = worker;
    (void)atomic_fetch_add(&o->arrived, 1);
    while (atomic_load(&o->arrived) < 3)
        (void)sched_yield();
}

/* Which worker has which share does not change: of 3 pieces each has its own, whatever parts follow. */
static void shares_stay(void **state) {
    (void)state;
    static const size_t first[] = {0, 12, 17, 100};
    struct ml_pool *p = make(3);
    for (size_t parts = 1; parts <= 3; parts++) {
        struct owners o = {.of = {-1, -1, -1}};
        ml_pool_for_runs(p, first, parts, 4, note_owner, &o);
        for (int w = 0; w < 3; w++)
            assert_int_equal(o.of[w], w);
    }
    ml_pool_free(p);
}

static void no_pool_is_the_caller(void **state) {
    (void)state;
    struct calls c = {0};
    assert_int_equal(ml_pool_size(NULL), 1);
    ml_pool_run(NULL, note_call, &c);
    assert_int_equal(c.count[0], 1);
    assert_int_equal(c.workers, 1);
    ml_pool_free(NULL);
}

struct chain {
    uint64_t value[MAX_WORKERS];
};

/* Each worker reads what its neighbour wrote in the job before: wrong without the ordering of the join. */
static void step(void *arg, int worker, int workers) {
    struct chain *c = arg; /* [0] is read, [1] is written */
    c[1].value[worker] = c[0].value[(worker + 1) % workers] + 1;
}

static void jobs_are_ordered(void **state) {
    (void)state;
    enum { ROUNDS = 20000, THREADS = 3 };
    struct ml_pool *p = make(THREADS);
    struct chain c[2] = {{{0}}};
    for (int round = 1; round <= ROUNDS; round++) {
        ml_pool_run(p, step, c);
        for (int w = 0; w < THREADS; w++) {
            assert_true(c[1].value[w] == (uint64_t)round);
        }
        c[0] = c[1];
    }
    ml_pool_free(p);
}

/* Pauses of all lengths between jobs, so that workers are met spinning, parking and parked. */
static void parked_workers_wake(void **state) {
    (void)state;
    struct ml_pool *p = make(4);
    struct calls c = {0};
    for (int round = 1; round <= 60; round++) {
        const struct timespec pause = {.tv_nsec = (long)(round % 12) * (round % 12) * 40000};
        (void)nanosleep(&pause, NULL);
        ml_pool_run(p, note_call, &c);
        for (int w = 0; w < 4; w++) {
            assert_int_equal(c.count[w], round);
        }
    }
    ml_pool_free(p);
}

static void create_and_free(void **state) {
    (void)state;
    for (int i = 0; i < 100; i++) {
        ml_pool_free(make(1 + i % 6)); /* workers may not even have started */
    }
}

static void runs_do_not_allocate(void **state) {
    (void)state;
    struct ml_pool *p = make(3);
    static struct cover c = {.count = MAX_COUNT, .grain = 7, .workers = 3};
    struct calls calls = {0};
    const uint64_t before = ml_mem_count();
    ml_pool_for(p, MAX_COUNT, 7, hit, &c);
    as_parts(p, MAX_COUNT, 7, hit, &c);
    ml_pool_run(p, note_call, &calls);
    assert_true(ml_mem_count() == before);
    ml_pool_free(p);
}

static void bad_sizes(void **state) {
    (void)state;
    struct ml_pool *p = NULL;
    struct marlin_error err = {0};
    assert_int_equal(ml_pool_create(-1, &p, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(ml_pool_create(1000000, &p, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "1000000"));
    assert_null(p);
    ml_mem_fail_at(1);
    assert_int_equal(ml_pool_create(2, &p, &err), MARLIN_ERR_MEMORY);
    ml_mem_fail_at(0);
    p = make(0);
    assert_int_equal(ml_pool_size(p), ml_cpu()->cores);
    ml_pool_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_worker_once),     cmocka_unit_test(every_index_once),
        cmocka_unit_test(runs_go_upwards),       cmocka_unit_test(shares_stay),
        cmocka_unit_test(no_pool_is_the_caller), cmocka_unit_test(jobs_are_ordered),
        cmocka_unit_test(parked_workers_wake),   cmocka_unit_test(create_and_free),
        cmocka_unit_test(runs_do_not_allocate),  cmocka_unit_test(bad_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
