/* SPDX-License-Identifier: Apache-2.0
 *
 * A place where threads sleep until another one has news for them. There is no lock and no system call while
 * nobody sleeps: the waking side then reads one word. On Linux the word is a futex; elsewhere a mutex and a
 * condition variable do the same, and are touched only by threads that sleep or wake a sleeper.
 *
 * What is waited for is the user's own (an atomic, called the condition below). The two sides are
 *
 *     while (!condition) {                 change the condition (sequentially consistent)
 *         unsigned call = ml_park_arm(p);  ml_park_wake(p);
 *         if (condition) break;
 *         ml_park_sleep(p, call);
 *     }
 *
 * Either the sleeper sees the change in its second look or the waker sees the armed word: none is lost.
 * Conditions are read and changed with memory_order_seq_cst for that reason.
 *
 * The word counts wakes, so that a sleeper knows its own from a later one: were it a mere flag, a second
 * sleeper could raise it again between the wake and the sleep of the first, who would then miss the wake.
 */
#ifndef ML_BASE_PARK_H
#define ML_BASE_PARK_H

#include <pthread.h>
#include <stdatomic.h>

struct ml_park {
    atomic_uint word; /* wakes so far, doubled; odd: armed, which means that somebody sleeps or is about to */
#if !defined(__linux__)
    pthread_mutex_t mutex;
    pthread_cond_t news;
#endif
};

void ml_park_init(struct ml_park *p);
void ml_park_destroy(struct ml_park *p); /* nobody may be asleep */

/* Says that the calling thread is about to sleep; returns what ml_park_sleep asks for. Any number of threads. */
static inline unsigned ml_park_arm(struct ml_park *p) {
    return atomic_fetch_or(&p->word, 1U) | 1U;
}

/* Sleeps until somebody wakes all sleepers; may return early, so ask for the condition again. Returns at once
 * when a wake came after the ml_park_arm that returned `call`. */
void ml_park_sleep(struct ml_park *p, unsigned call);

void ml_park_rouse(struct ml_park *p); /* the second half of ml_park_wake */

/* Wakes all who sleep. Any thread. */
static inline void ml_park_wake(struct ml_park *p) {
    if (atomic_load(&p->word) & 1U) ml_park_rouse(p);
}

#endif
