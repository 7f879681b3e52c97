/* SPDX-License-Identifier: Apache-2.0
 *
 * The one door for locks, over those of POSIX. Taking a lock, or waiting under one, inside a guard of
 * base/mem.h (the token loop) is a violation, counted and treated as an allocation there is. Locks are not
 * recursive.
 *
 * A lock that is not destroyed leaks; nothing here fails on the systems we build for, so nothing returns a
 * status.
 */
#ifndef ML_BASE_LOCK_H
#define ML_BASE_LOCK_H

#include "base/mem.h"

#include <pthread.h>

struct ml_lock {
    pthread_mutex_t mutex;
};

/* Threads that wait for something which a lock protects. */
struct ml_waiters {
    pthread_cond_t cond;
};

static inline void ml_lock_init(struct ml_lock *l) {
    (void)pthread_mutex_init(&l->mutex, NULL);
}

static inline void ml_lock_destroy(struct ml_lock *l) {
    (void)pthread_mutex_destroy(&l->mutex);
}

static inline void ml_lock_take(struct ml_lock *l) {
    ml_mem_guard_lock();
    (void)pthread_mutex_lock(&l->mutex);
}

static inline void ml_lock_release(struct ml_lock *l) {
    (void)pthread_mutex_unlock(&l->mutex);
}

static inline void ml_waiters_init(struct ml_waiters *w) {
    (void)pthread_cond_init(&w->cond, NULL);
}

static inline void ml_waiters_destroy(struct ml_waiters *w) {
    (void)pthread_cond_destroy(&w->cond);
}

/* Releases l, which the caller holds, until woken, and holds it again. May return for no reason: wait in a
 * loop. */
static inline void ml_waiters_wait(struct ml_waiters *w, struct ml_lock *l) {
    ml_mem_guard_lock();
    (void)pthread_cond_wait(&w->cond, &l->mutex);
}

static inline void ml_waiters_wake_one(struct ml_waiters *w) {
    (void)pthread_cond_signal(&w->cond);
}

static inline void ml_waiters_wake_all(struct ml_waiters *w) {
    (void)pthread_cond_broadcast(&w->cond);
}

#endif
