/* SPDX-License-Identifier: Apache-2.0
 *
 * The thread pool: everybody runs once, every index is covered once, results are visible after the join.
 */
#include "base/cpu.h"
#include "base/mem.h"
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
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
    enum { ROUNDS = 4000, THREADS = 3 };
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
    for (int i = 0; i < 300; i++) {
        const int size = 1 + i % 6;
        struct ml_pool *p = make(size); /* workers may not even have started */
        struct calls c = {0};
        if (i % 3 == 1) check_cover(ml_pool_for, p, 99, 1); /* they may come too late */
        if (i % 3 == 2) ml_pool_run(p, note_call, &c);
        for (int w = 0; w < size; w++)
            assert_int_equal(c.count[w], i % 3 == 2);
        ml_pool_free(p);
    }
}

static double cpu_seconds(clockid_t clock) {
    struct timespec t;
    assert_int_equal(clock_gettime(clock, &t), 0);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void sleep_ms(int ms) {
    const struct timespec t = {.tv_nsec = ms * 1000000L};
    (void)nanosleep(&t, NULL);
}

static void sleep_in_last(void *arg, int worker, int workers) {
    (void)arg;
    if (worker == workers - 1) sleep_ms(20);
}

/* Nobody burns the processor that another may need: neither workers without a job nor the caller of a job
 * whose last worker takes long. */
static void waiting_costs_little(void **state) {
    (void)state;
    struct ml_pool *p = make(4);
    const double idle = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
    sleep_ms(200);
    assert_true(cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - idle < 0.05);
    const double start = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < 10; i++)
        ml_pool_run(p, sleep_in_last, NULL);
    assert_true(cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - start < 0.05);
    ml_pool_free(p);
}

/* ---- workers whose processor was taken away: a signal holds their thread wherever it is ---- */

static atomic_int held, hold;

static void hold_thread(int signal) {
    (void)signal;
    (void)atomic_fetch_add(&held, 1);
    while (atomic_load(&hold))
        sleep_ms(1);
    (void)atomic_fetch_sub(&held, 1);
}

static void note_thread(void *arg, int worker, int workers) {
    pthread_t *threads = arg;
    (void)workers;
    threads[worker] = pthread_self();
}

static bool can_hold(void) {
#if defined(__SANITIZE_THREAD__)
    const bool can = false;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
    const bool can = false;
#else
    const bool can = true;
#endif
#else
    const bool can = true;
#endif
    if (!can)
        (void)fprintf(stderr,
                      "no worker is held: ThreadSanitizer puts signals off until a thread calls it\n");
    return can;
}

/* The thread does nothing from here to let_go(). One at a time, between jobs. */
static void hold_worker(pthread_t thread) {
    struct sigaction a = {.sa_handler = hold_thread};
    atomic_store(&hold, 1);
    assert_int_equal(sigaction(SIGUSR1, &a, NULL), 0);
    assert_int_equal(pthread_kill(thread, SIGUSR1), 0);
    while (!atomic_load(&held))
        (void)sched_yield();
}

static void let_go(void) {
    atomic_store(&hold, 0);
    while (atomic_load(&held))
        (void)sched_yield();
}

/* A worker that does not come loses its share: jobs end without it, again and again, and once back it works
 * as before. */
static void absent_worker_blocks_nobody(void **state) {
    (void)state;
    if (!can_hold()) skip();
    for (int size = 2; size <= 4; size++) {
        struct ml_pool *p = make(size);
        pthread_t threads[MAX_WORKERS];
        ml_pool_run(p, note_thread, threads);
        for (int absent = 1; absent < size; absent++) {
            hold_worker(threads[absent]);
            for (int i = 0; i < 50; i++) {
                check_cover(ml_pool_for, p, 100, 1);
                check_cover(as_parts, p, MAX_COUNT, 7);
            }
            let_go();
            struct calls c = {0};
            ml_pool_run(p, note_call, &c);
            for (int w = 0; w < size; w++)
                assert_int_equal(c.count[w], 1);
        }
        ml_pool_free(p);
    }
}

struct late {
    struct cover cover;
    atomic_size_t done;
};

/* Worker 1 stays in its first piece until all other pieces are done, those of its own share too. */
static void stay_in_first(void *arg, size_t begin, size_t end, int worker) {
    struct late *l = arg;
    hit(&l->cover, begin, end, worker);
    if (worker == 1)
        while (atomic_load(&l->done) + 1 < l->cover.count)
            (void)sched_yield();
    (void)atomic_fetch_add(&l->done, end - begin);
}

static void untaken_work_is_taken_over(void **state) {
    (void)state;
    static const size_t first[] = {0, 40, 41, 200};
    static struct late l;
    struct ml_pool *p = make(2);
    for (int round = 0; round < 100; round++) {
        memset(&l, 0, sizeof l);
        l.cover.count = first[3];
        l.cover.grain = 1;
        l.cover.workers = 2;
        if (round % 2)
            ml_pool_for_runs(p, first, 3, 1, stay_in_first, &l);
        else
            ml_pool_for(p, first[3], 1, stay_in_first, &l);
        assert_int_equal(atomic_load(&l.done), first[3]);
        for (size_t i = 0; i < first[3]; i++)
            assert_int_equal(l.cover.hits[i], 1);
    }
    ml_pool_free(p);
}

/* Products of a job depend on those of the job before; the twin is a loop. */
struct blur {
    uint32_t from[MAX_COUNT], to[MAX_COUNT];
    size_t count;
};

static void blur_range(void *arg, size_t begin, size_t end, int worker) {
    struct blur *b = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++)
        b->to[i] = b->from[i] * 2654435761u + b->from[(i + 1) % b->count] + (uint32_t)i;
}

static uint32_t next_random(uint32_t *seed) {
    return *seed = *seed * 1664525u + 1013904223u, *seed >> 8;
}

/* Jobs of random sizes while workers are held here and there: the same numbers as without a pool. */
static void same_as_a_loop(void **state) {
    (void)state;
    static struct blur pooled, plain;
    const bool holding = can_hold();
    pthread_t threads[MAX_WORKERS];
    uint32_t seed = 1;
    struct ml_pool *p = make(5);
    ml_pool_run(p, note_thread, threads);
    for (int round = 0; round < 600; round++) {
        const size_t n = 1 + next_random(&seed) % 999, a = next_random(&seed) % (n + 1);
        const size_t first[] = {0, a, n}, grain = 1 + next_random(&seed) % 9;
        if (holding && round % 20 == 5) hold_worker(threads[1 + next_random(&seed) % 4]);
        if (holding && round % 20 == 12) let_go();
        pooled.count = plain.count = n;
        if (round % 2)
            ml_pool_for_runs(p, first, 2, grain, blur_range, &pooled);
        else
            ml_pool_for(p, n, grain, blur_range, &pooled);
        blur_range(&plain, 0, n, 0);
        assert_memory_equal(pooled.to, plain.to, n * sizeof *plain.to);
        memcpy(pooled.from, pooled.to, sizeof pooled.from);
        memcpy(plain.from, plain.to, sizeof plain.from);
    }
    let_go();
    ml_pool_free(p);
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
        cmocka_unit_test(every_worker_once),
        cmocka_unit_test(every_index_once),
        cmocka_unit_test(runs_go_upwards),
        cmocka_unit_test(shares_stay),
        cmocka_unit_test(no_pool_is_the_caller),
        cmocka_unit_test(jobs_are_ordered),
        cmocka_unit_test(parked_workers_wake),
        cmocka_unit_test(create_and_free),
        cmocka_unit_test(waiting_costs_little),
        cmocka_unit_test(absent_worker_blocks_nobody),
        cmocka_unit_test(untaken_work_is_taken_over),
        cmocka_unit_test(same_as_a_loop),
        cmocka_unit_test(runs_do_not_allocate),
        cmocka_unit_test(bad_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
