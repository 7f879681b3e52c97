/* SPDX-License-Identifier: Apache-2.0
 *
 * Fork-join pool. All that threads agree on is one word, the gate:
 *
 *     63 ... 32   31       30 ... 15   14 ... 0
 *     job number  closed   entered     left
 *
 * The caller announces a job by storing the next number above zeros. A worker that sees a new number enters,
 * works and leaves, each an addition. The caller, done with its own part, closes the gate unless all have
 * entered, and waits until as many have left as had entered by then. Who comes to a closed gate has missed
 * the job: its share was taken by the others, and its entry counts for nothing. A job for every worker is
 * never closed.
 *
 * Who waits polls for SPIN_NS, which is longer than it takes from one job to the next, and then parks. Beside
 * other programs that matters at both ends: a processor on which one of ours does nothing but wait is one
 * that the system takes away soon, most likely when there is work again.
 *
 * Order: fields of a job are written before the gate is opened and read by those who entered; results of
 * workers are visible when the caller has seen them leave. The gate is changed and read with sequential
 * consistency, as parking asks.
 */
#include "base/pool.h"

#include "base/clock.h"
#include "base/cores.h"
#include "base/cpu.h"
#include "base/mem.h"
#include "base/park.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { MAX_THREADS = 1024, SPIN_NS = 100000, POLLS = 64 /* between two looks at the clock */ };

enum { ENTERED_SHIFT = 15, NUMBER_SHIFT = 32, COUNT = (1 << ENTERED_SHIFT) - 1 };
static const uint64_t LEFT = 1, ENTERED = (uint64_t)1 << ENTERED_SHIFT, CLOSED = (uint64_t)1 << 31;

struct worker {
    struct ml_pool *pool;
    pthread_t thread;
    int id;
};

/* A worker's share of a job of ml_pool_for_runs: the job's number above, pieces taken below. Whoever comes
 * first, its owner or another, starts it anew for the job: nobody has to reset all of them. */
struct share {
    _Alignas(64) atomic_uint_fast64_t taken;
};

struct ml_pool {
    int size, started;
    ml_pool_fn *fn;
    void *arg;
    bool every; /* worker runs this job: the gate stays open until they have */
    bool stop;
    uint32_t came; /* workers to wait for: all, or those who had entered when the gate was closed */
    _Alignas(64) atomic_uint_fast64_t gate;
    _Alignas(64) struct ml_park idle; /* workers without a job */
    struct ml_park joining;           /* the caller */
    struct share *shares;             /* [size], behind the workers */
    struct worker workers[];
};

static inline void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static uint32_t number(uint64_t gate) {
    return (uint32_t)(gate >> NUMBER_SHIFT);
}

static uint32_t entered(uint64_t gate) {
    return (uint32_t)(gate >> ENTERED_SHIFT) & COUNT;
}

static uint32_t left(uint64_t gate) {
    return (uint32_t)gate & COUNT;
}

/* ---- waiting ---- */

typedef bool ready_fn(struct ml_pool *p, uint32_t what);

/* Returns when ready(p, what), looked at for a while and then whenever `park` is woken. */
static inline void wait_until(struct ml_pool *p, struct ml_park *park, ready_fn *ready, uint32_t what) {
    uint64_t end = 0;
    for (;;) {
        for (int i = 0; i < POLLS; i++) {
            if (ready(p, what)) return;
            pause_cpu();
        }
        const uint64_t now = ml_clock_ns();
        if (!end) end = now + SPIN_NS;
        if (now >= end) break;
    }
    for (;;) {
        const unsigned call = ml_park_arm(park);
        if (ready(p, what)) return;
        ml_park_sleep(park, call);
    }
}

/* A job other than the one seen last. */
static bool has_news(struct ml_pool *p, uint32_t seen) {
    return number(atomic_load(&p->gate)) != seen;
}

/* All who entered in time have left. Asked by the caller alone, which no longer has work of its own. */
static bool is_done(struct ml_pool *p, uint32_t others) {
    uint64_t gate = atomic_load(&p->gate);
    if (!p->every && !(gate & CLOSED) && entered(gate) < others) {
        gate = atomic_fetch_or(&p->gate, CLOSED);
        p->came = entered(gate);
    }
    return left(gate) == p->came;
}

/* ---- workers ---- */

static void *work(void *arg) {
    const struct worker *self = arg;
    struct ml_pool *p = self->pool;
    uint32_t seen = 0;
    for (;;) {
        wait_until(p, &p->idle, has_news, seen);
        const uint64_t gate = atomic_fetch_add(&p->gate, ENTERED);
        seen = number(gate);
        if (gate & CLOSED) continue;
        if (p->stop) return NULL;
        p->fn(p->arg, self->id, p->size);
        (void)atomic_fetch_add(&p->gate, LEFT);
        ml_park_wake(&p->joining);
    }
}

/* Opens the gate for the next job: everybody who entered the last one has left. */
static void announce(struct ml_pool *p) {
    const uint64_t gate = (uint64_t)(number(atomic_load(&p->gate)) + 1U) << NUMBER_SHIFT;
    p->came = (uint32_t)p->size - 1;
    atomic_store(&p->gate, gate);
    ml_park_wake(&p->idle);
}

marlin_status ml_pool_create(int threads, struct ml_pool **out, struct marlin_error *err) {
    if (threads == 0) threads = ml_cpu()->cores;
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
    /* Only a pool as large as the machine: the second workers of several small ones would all sit on core 1.
     */
    const bool pinned = threads == ml_cores()->physical;
    ml_park_init(&p->idle);
    ml_park_init(&p->joining);
    for (; p->started < threads; p->started++) {
        struct worker *w = &p->workers[p->started];
        *w = (struct worker){.pool = p, .id = p->started};
        if (pthread_create(&w->thread, NULL, work, w) != 0) {
            ml_pool_free(p);
            return ml_fail(err, MARLIN_ERR_MEMORY, "thread pool: cannot start thread %d", w->id);
        }
        if (pinned) ml_cores_pin(w->thread, w->id);
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
    ml_park_destroy(&p->idle);
    ml_park_destroy(&p->joining);
    ml_free_aligned(p);
}

int ml_pool_size(const struct ml_pool *p) {
    return p ? p->size : 1;
}

static void run(struct ml_pool *p, ml_pool_fn *fn, void *arg, bool every) {
    if (!p || p->size == 1) {
        fn(arg, 0, 1);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->every = every;
    announce(p);
    fn(arg, 0, p->size);
    wait_until(p, &p->joining, is_done, (uint32_t)p->size - 1);
}

void ml_pool_run(struct ml_pool *p, ml_pool_fn *fn, void *arg) {
    run(p, fn, arg, true);
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
    run(p, take_pieces, &r, false);
}

/* ---- shares for each worker ---- */

struct runs {
    struct ml_pool *pool;
    ml_range_fn *fn;
    void *arg;
    const size_t *first;
    size_t parts, grain;
    uint64_t number; /* in place */
};

/* The next piece of `length` of a worker's, counted through all parts; false when there is none. */
static bool take_piece(const struct runs *r, struct share *s, size_t length, size_t *piece) {
    uint_fast64_t taken = atomic_load_explicit(&s->taken, memory_order_relaxed);
    while (taken >> NUMBER_SHIFT != r->number >> NUMBER_SHIFT) {
        if (!length) return false;
        if (!atomic_compare_exchange_weak_explicit(&s->taken, &taken, r->number + 1, memory_order_relaxed,
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
    /* The number that run() is about to announce: no other job has it. */
    r.number = (uint64_t)(number(atomic_load_explicit(&p->gate, memory_order_relaxed)) + 1U) << NUMBER_SHIFT;
    run(p, take_runs, &r, false);
}
