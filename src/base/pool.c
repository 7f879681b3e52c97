/* SPDX-License-Identifier: Apache-2.0
 *
 * Fork-join pool. A job is announced by raising `epoch`; workers that see it run it and count down `busy`. A
 * worker that has seen nothing new for a while parks on a condition variable; the caller takes the mutex only
 * when somebody is parked, so that between jobs that follow each other closely there is no system call.
 *
 * Order: job fields are written before `epoch` is raised (release) and read after it is seen (acquire);
 * results of workers are visible after `busy` reached zero (acquire).
 */
#include "base/pool.h"

#include "base/cpu.h"
#include "base/mem.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { SPIN = 20000, MAX_THREADS = 1024 };

struct worker {
    struct ml_pool *pool;
    pthread_t thread;
    int id;
};

/* A worker's share of a job of ml_pool_for_runs: the job's epoch above, pieces taken below. Whoever comes
 * first, its owner or another, starts it anew for the job: nobody has to reset all of them. */
struct share {
    _Alignas(64) atomic_uint_fast64_t taken;
};

struct ml_pool {
    int size, started;
    int spin; /* polls before parking; few when threads outnumber processors */
    ml_pool_fn *fn;
    void *arg;
    bool stop;
    _Alignas(64) atomic_uint epoch;
    _Alignas(64) atomic_int busy;
    _Alignas(64) atomic_int parked;
    _Alignas(64) pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct share *shares; /* [size], behind the workers */
    struct worker workers[];
};

static inline void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Waits until epoch differs from `seen`. */
static unsigned wait_for_job(struct ml_pool *p, unsigned seen) {
    for (int i = 0; i < p->spin; i++) {
        const unsigned now = atomic_load_explicit(&p->epoch, memory_order_acquire);
        if (now != seen) return now;
        pause_cpu();
    }
    (void)pthread_mutex_lock(&p->mutex);
    (void)atomic_fetch_add(&p->parked, 1);
    unsigned now;
    while ((now = atomic_load(&p->epoch)) == seen) {
        (void)pthread_cond_wait(&p->wake, &p->mutex);
    }
    (void)atomic_fetch_sub(&p->parked, 1);
    (void)pthread_mutex_unlock(&p->mutex);
    return now;
}

static void *work(void *arg) {
    const struct worker *self = arg;
    struct ml_pool *p = self->pool;
    unsigned seen = 0;
    for (;;) {
        seen = wait_for_job(p, seen);
        if (p->stop) return NULL;
        p->fn(p->arg, self->id, p->size);
        (void)atomic_fetch_sub_explicit(&p->busy, 1, memory_order_release);
    }
}

/* Worker i sits on the i-th processor this process may use; worker 0, the caller, is left where it is. Only a
 * pool as large as the machine does so: the second workers of several small ones would all sit on
 * processor 1. */
static void pin(pthread_t thread, int i) {
#if defined(__linux__)
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all) != 0) return;
    for (int cpu = 0, k = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all) || k++ != i) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        (void)pthread_setaffinity_np(thread, sizeof one, &one);
        return;
    }
#else
    (void)thread;
    (void)i;
#endif
}

/* Raises the epoch; wakes whoever parked before seeing it. */
static void announce(struct ml_pool *p) {
    (void)atomic_fetch_add(&p->epoch, 1);
    if (atomic_load(&p->parked) == 0) return;
    (void)pthread_mutex_lock(&p->mutex);
    (void)pthread_cond_broadcast(&p->wake);
    (void)pthread_mutex_unlock(&p->mutex);
}

marlin_status ml_pool_create(int threads, struct ml_pool **out, struct marlin_error *err) {
    const int cores = ml_cpu()->cores;
    if (threads == 0) threads = cores;
    if (threads < 1 || threads > MAX_THREADS)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "thread pool: %d threads; 1 to %d are possible", threads,
                       MAX_THREADS);
    const size_t n = (size_t)threads,
                 own = (sizeof(struct ml_pool) + n * sizeof(struct worker) + 63) / 64 * 64;
    struct ml_pool *p = ml_alloc_aligned(own + n * sizeof(struct share));
    if (!p) return ml_fail(err, MARLIN_ERR_MEMORY, "thread pool: out of memory");
    memset(p, 0, own + n * sizeof(struct share));
    p->shares = (struct share *)(void *)((char *)p + own);
    p->size = threads;
    p->started = 1;
    p->spin = threads <= cores ? SPIN : SPIN / 200;
    (void)pthread_mutex_init(&p->mutex, NULL);
    (void)pthread_cond_init(&p->wake, NULL);
    for (; p->started < threads; p->started++) {
        struct worker *w = &p->workers[p->started];
        *w = (struct worker){.pool = p, .id = p->started};
        if (pthread_create(&w->thread, NULL, work, w) != 0) {
            ml_pool_free(p);
            return ml_fail(err, MARLIN_ERR_MEMORY, "thread pool: cannot start thread %d", w->id);
        }
        if (threads == cores) pin(w->thread, w->id);
    }
    *out = p;
    return MARLIN_OK;
}

void ml_pool_free(struct ml_pool *p) {
    if (!p) return;
    p->stop = true;
    announce(p);
    for (int i = 1; i < p->started; i++) {
        (void)pthread_join(p->workers[i].thread, NULL);
    }
    (void)pthread_cond_destroy(&p->wake);
    (void)pthread_mutex_destroy(&p->mutex);
    ml_free_aligned(p);
}

int ml_pool_size(const struct ml_pool *p) {
    return p ? p->size : 1;
}

/* Waits for the others. When threads outnumber processors they may need ours to finish. */
static void join(struct ml_pool *p) {
    for (int i = 0; atomic_load_explicit(&p->busy, memory_order_acquire) > 0; i++) {
        pause_cpu();
        if (i > p->spin) (void)sched_yield();
    }
}

void ml_pool_run(struct ml_pool *p, ml_pool_fn *fn, void *arg) {
    if (!p || p->size == 1) {
        fn(arg, 0, 1);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    atomic_store_explicit(&p->busy, p->size - 1, memory_order_relaxed);
    announce(p);
    fn(arg, 0, p->size);
    join(p);
}

struct range {
    ml_range_fn *fn;
    void *arg;
    size_t count, grain;
    atomic_size_t next;
};

static void take_pieces(void *arg, int worker, int workers) {
    (void)workers;
    struct range *r = arg;
    for (;;) {
        const size_t begin = atomic_fetch_add_explicit(&r->next, r->grain, memory_order_relaxed);
        if (begin >= r->count) return;
        const size_t left = r->count - begin;
        r->fn(r->arg, begin, begin + (left < r->grain ? left : r->grain), worker);
    }
}

void ml_pool_for(struct ml_pool *p, size_t count, size_t grain, ml_range_fn *fn, void *arg) {
    struct range r = {.fn = fn, .arg = arg, .count = count, .grain = grain ? grain : 1};
    atomic_init(&r.next, 0);
    if (count == 0) return;
    if (count <= r.grain) {
        fn(arg, 0, count, 0);
        return;
    }
    ml_pool_run(p, take_pieces, &r);
}

/* ---- shares for each worker ---- */

struct runs {
    struct ml_pool *pool;
    ml_range_fn *fn;
    void *arg;
    const size_t *first;
    size_t parts, grain;
    uint64_t epoch; /* in place */
};

enum { EPOCH_SHIFT = 32 };

/* The next piece of `length` of a worker's, counted through all parts; false when there is none. */
static bool take_piece(const struct runs *r, struct share *s, size_t length, size_t *piece) {
    uint_fast64_t taken = atomic_load_explicit(&s->taken, memory_order_relaxed);
    while (taken >> EPOCH_SHIFT != r->epoch >> EPOCH_SHIFT) {
        if (!length) return false;
        if (!atomic_compare_exchange_weak_explicit(&s->taken, &taken, r->epoch + 1, memory_order_relaxed,
                                                   memory_order_relaxed))
            continue;
        *piece = 0;
        return true;
    }
    if ((taken & UINT32_MAX) >= length) return false;
    *piece = (size_t)(atomic_fetch_add_explicit(&s->taken, 1, memory_order_relaxed) & UINT32_MAX);
    return *piece < length;
}

/* Pieces of part i that worker w of n has: *from on, as many as are returned. What does not divide goes to
 * the last workers and to the first in turn. */
static size_t share_of(const struct runs *r, size_t i, size_t w, size_t n, size_t *from) {
    const size_t length = r->first[i + 1] - r->first[i], up = i % 2 ? n - 1 : 0;
    const size_t pieces = length / r->grain + (length % r->grain != 0);
    *from = (pieces * w + up) / n;
    return (pieces * (w + 1) + up) / n - *from;
}

static size_t pieces_of(const struct runs *r, size_t w, size_t n) {
    size_t pieces = 0, from;
    for (size_t i = 0; i < r->parts; i++)
        pieces += share_of(r, i, w, n, &from);
    return pieces;
}

/* Piece `piece` of the shares of worker w of n. */
static void run_piece(const struct runs *r, size_t w, size_t n, size_t piece, int worker) {
    size_t i = 0, from, own;
    for (; piece >= (own = share_of(r, i, w, n, &from)); i++)
        piece -= own;
    const size_t begin = r->first[i] + (from + piece) * r->grain, left = r->first[i + 1] - begin;
    r->fn(r->arg, begin, begin + (left < r->grain ? left : r->grain), worker);
}

static void take_runs(void *arg, int worker, int workers) {
    const struct runs *r = arg;
    const size_t n = (size_t)workers;
    for (size_t i = 0; i < n; i++) {
        const size_t owner = ((size_t)worker + i) % n, length = pieces_of(r, owner, n);
        size_t piece;
        while (take_piece(r, &r->pool->shares[owner], length, &piece))
            run_piece(r, owner, n, piece, worker);
    }
}

void ml_pool_for_runs(struct ml_pool *p, const size_t *first, size_t parts, size_t grain, ml_range_fn *fn,
                      void *arg) {
    struct runs r = {
        .pool = p, .fn = fn, .arg = arg, .first = first, .parts = parts, .grain = grain ? grain : 1};
    const size_t pieces = pieces_of(&r, 0, 1);
    if (!p || p->size == 1 || pieces <= 1 || pieces >= UINT32_MAX / 2) {
        for (size_t i = 0; i < pieces; i++)
            run_piece(&r, 0, 1, i, 0);
        return;
    }
    /* The epoch that ml_pool_run is about to announce: no other job has it. */
    r.epoch = (uint64_t)(atomic_load_explicit(&p->epoch, memory_order_relaxed) + 1U) << EPOCH_SHIFT;
    ml_pool_run(p, take_runs, &r);
}
