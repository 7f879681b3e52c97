/* SPDX-License-Identifier: Apache-2.0
 *
 * Sleeping and waking: futexes on Linux, a condition variable elsewhere.
 */
#include "base/park.h"

#if defined(__linux__)

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

void ml_park_init(struct ml_park *p) {
    atomic_init(&p->armed, 0U);
}

void ml_park_destroy(struct ml_park *p) {
    (void)p;
}

void ml_park_sleep(struct ml_park *p) {
    (void)syscall(SYS_futex, &p->armed, FUTEX_WAIT_PRIVATE, 1U, NULL, NULL, 0);
}

void ml_park_rouse(struct ml_park *p) {
    atomic_store(&p->armed, 0U);
    (void)syscall(SYS_futex, &p->armed, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

#else

void ml_park_init(struct ml_park *p) {
    atomic_init(&p->armed, 0U);
    (void)pthread_mutex_init(&p->mutex, NULL);
    (void)pthread_cond_init(&p->news, NULL);
}

void ml_park_destroy(struct ml_park *p) {
    (void)pthread_cond_destroy(&p->news);
    (void)pthread_mutex_destroy(&p->mutex);
}

void ml_park_sleep(struct ml_park *p) {
    (void)pthread_mutex_lock(&p->mutex);
    while (atomic_load(&p->armed))
        (void)pthread_cond_wait(&p->news, &p->mutex);
    (void)pthread_mutex_unlock(&p->mutex);
}

void ml_park_rouse(struct ml_park *p) {
    (void)pthread_mutex_lock(&p->mutex);
    atomic_store(&p->armed, 0U);
    (void)pthread_cond_broadcast(&p->news);
    (void)pthread_mutex_unlock(&p->mutex);
}

#endif
