/* SPDX-License-Identifier: Apache-2.0
 *
 * Sleeping and waking: futexes on Linux, a condition variable elsewhere.
 */
#include "base/park.h"

#include <stdbool.h>

/* The next call, with nobody armed for it. False: another waker was faster, and wakes for this one too. */
static bool disarm(struct ml_park *p) {
    unsigned word = atomic_load(&p->word);
    while (word & 1U)
        if (atomic_compare_exchange_weak(&p->word, &word, word + 1U)) return true;
    return false;
}

#if defined(__linux__)

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

void ml_park_init(struct ml_park *p) {
    atomic_init(&p->word, 0U);
}

void ml_park_destroy(struct ml_park *p) {
    (void)p;
}

void ml_park_sleep(struct ml_park *p, unsigned call) {
    (void)syscall(SYS_futex, &p->word, FUTEX_WAIT_PRIVATE, call, NULL, NULL, 0);
}

void ml_park_rouse(struct ml_park *p) {
    if (disarm(p)) (void)syscall(SYS_futex, &p->word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

#else

void ml_park_init(struct ml_park *p) {
    atomic_init(&p->word, 0U);
    (void)pthread_mutex_init(&p->mutex, NULL);
    (void)pthread_cond_init(&p->news, NULL);
}

void ml_park_destroy(struct ml_park *p) {
    (void)pthread_cond_destroy(&p->news);
    (void)pthread_mutex_destroy(&p->mutex);
}

void ml_park_sleep(struct ml_park *p, unsigned call) {
    (void)pthread_mutex_lock(&p->mutex);
    while (atomic_load(&p->word) == call)
        (void)pthread_cond_wait(&p->news, &p->mutex);
    (void)pthread_mutex_unlock(&p->mutex);
}

void ml_park_rouse(struct ml_park *p) {
    (void)pthread_mutex_lock(&p->mutex);
    if (disarm(p)) (void)pthread_cond_broadcast(&p->news);
    (void)pthread_mutex_unlock(&p->mutex);
}

#endif
