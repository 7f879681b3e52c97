/* SPDX-License-Identifier: Apache-2.0
 *
 * Sleeping and waking: no wake is lost, all sleepers wake, nobody is woken for nothing.
 */
#include "base/park.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { ROUNDS = 20000, SLEEPERS = 8 };

struct game {
    struct ml_park park[2];
    atomic_int turn;
};

static void wait_for(struct ml_park *p, atomic_int *word, int value) {
    while (atomic_load(word) != value) {
        const unsigned call = ml_park_arm(p);
        if (atomic_load(word) == value) break;
        ml_park_sleep(p, call);
    }
}

static void *play(void *arg) {
    struct game *g = arg;
    for (int i = 0; i < ROUNDS; i++) {
        wait_for(&g->park[1], &g->turn, 2 * i + 1);
        atomic_store(&g->turn, 2 * i + 2);
        ml_park_wake(&g->park[0]);
    }
    return NULL;
}

/* Two threads take turns without ever polling: a lost wake would stop them for good. */
static void no_wake_is_lost(void **state) {
    (void)state;
    struct game g = {.turn = 0};
    pthread_t other;
    for (int i = 0; i < 2; i++)
        ml_park_init(&g.park[i]);
    assert_int_equal(pthread_create(&other, NULL, play, &g), 0);
    for (int i = 0; i < ROUNDS; i++) {
        atomic_store(&g.turn, 2 * i + 1);
        ml_park_wake(&g.park[1]);
        wait_for(&g.park[0], &g.turn, 2 * i + 2);
    }
    assert_int_equal(pthread_join(other, NULL), 0);
    assert_int_equal(atomic_load(&g.turn), 2 * ROUNDS);
    for (int i = 0; i < 2; i++)
        ml_park_destroy(&g.park[i]);
}

struct crowd {
    struct ml_park park;
    atomic_int go, awake;
};

static void *sleep_once(void *arg) {
    struct crowd *c = arg;
    wait_for(&c->park, &c->go, 1);
    (void)atomic_fetch_add(&c->awake, 1);
    return NULL;
}

static void all_wake(void **state) {
    (void)state;
    for (int round = 0; round < 100; round++) {
        struct crowd c = {.go = 0};
        pthread_t t[SLEEPERS];
        ml_park_init(&c.park);
        for (int i = 0; i < SLEEPERS; i++)
            assert_int_equal(pthread_create(&t[i], NULL, sleep_once, &c), 0);
        for (int i = 0; i < round % 10; i++)
            (void)sched_yield(); /* so that some sleep and some are on their way */
        atomic_store(&c.go, 1);
        ml_park_wake(&c.park);
        for (int i = 0; i < SLEEPERS; i++)
            assert_int_equal(pthread_join(t[i], NULL), 0);
        assert_int_equal(atomic_load(&c.awake), SLEEPERS);
        ml_park_destroy(&c.park);
    }
}

/* A wake between arming and sleeping: sleep returns at once. Nothing armed: a wake leaves no trace. */
static void an_early_wake_counts(void **state) {
    (void)state;
    struct ml_park p;
    ml_park_init(&p);
    ml_park_wake(&p);
    assert_int_equal(atomic_load(&p.word), 0);
    const unsigned call = ml_park_arm(&p);
    assert_int_equal(atomic_load(&p.word), call);
    ml_park_wake(&p);
    assert_int_equal(atomic_load(&p.word) & 1U, 0);
    ml_park_sleep(&p, call);
    ml_park_destroy(&p);
}

/* Another sleeper arms between the wake and the sleep of the first, which must know the wake for its own. */
static void a_second_sleeper_hides_no_wake(void **state) {
    (void)state;
    struct ml_park p;
    ml_park_init(&p);
    const unsigned first = ml_park_arm(&p);
    ml_park_wake(&p);
    const unsigned second = ml_park_arm(&p);
    assert_int_not_equal(first, second);
    assert_int_equal(ml_park_arm(&p), second);
    ml_park_sleep(&p, first);
    ml_park_destroy(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_wake_is_lost),
        cmocka_unit_test(all_wake),
        cmocka_unit_test(an_early_wake_counts),
        cmocka_unit_test(a_second_sleeper_hides_no_wake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
