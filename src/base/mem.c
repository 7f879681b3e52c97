/* SPDX-License-Identifier: Apache-2.0
 *
 * The one door for memory, with the hooks that tests use.
 */
#include "base/mem.h"

#include "base/checked.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_uint_fast64_t n_allocations, n_bytes;
static atomic_uint_fast64_t fail_at; /* 0 = off; counts down to the failing allocation */

static atomic_uint_fast64_t n_violations;

static _Thread_local int guard_depth;
static _Thread_local const char *guard_what;

void ml_mem_fail_at(uint64_t n) {
    atomic_store(&fail_at, n);
}

uint64_t ml_mem_count(void) {
    return atomic_load(&n_allocations);
}

uint64_t ml_mem_bytes(void) {
    return atomic_load(&n_bytes);
}

void ml_mem_guard_begin(const char *what) {
    if (guard_depth++ == 0) guard_what = what;
}

void ml_mem_guard_end(void) {
    guard_depth--;
}

int ml_mem_guard_pause(void) {
    const int paused = guard_depth;
    guard_depth = 0;
    return paused;
}

void ml_mem_guard_resume(int paused) {
    guard_depth = paused;
}

uint64_t ml_mem_guard_violations(void) {
    return atomic_load(&n_violations);
}

static void watch(const char *deed) {
    if (guard_depth == 0) return;
    atomic_fetch_add(&n_violations, 1);
#if !defined(NDEBUG) || defined(MARLIN_MEM_GUARD)
    (void)fprintf(stderr, "marlin: %s inside \"%s\"\n", deed, guard_what);
    abort();
#else
    (void)deed;
#endif
}

void ml_mem_guard_lock(void) {
    watch("lock");
}

/* True when this allocation must fail. */
static bool account(size_t bytes) {
    watch("allocation");
    atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&n_bytes, bytes, memory_order_relaxed);
    uint_fast64_t left = atomic_load_explicit(&fail_at, memory_order_relaxed);
    while (left > 0) {
        if (atomic_compare_exchange_weak(&fail_at, &left, left - 1)) return left == 1;
    }
    return false;
}

void *ml_alloc(size_t size) {
    return account(size) ? NULL : malloc(size ? size : 1);
}

void *ml_calloc(size_t count, size_t size) {
    size_t bytes;
    if (!ml_mul_size(count, size, &bytes) || account(bytes)) return NULL;
    return calloc(1, bytes ? bytes : 1);
}

void *ml_realloc(void *p, size_t size) {
    return account(size) ? NULL : realloc(p, size ? size : 1);
}

void ml_free(void *p) {
    free(p);
}

char *ml_strndup(const char *s, size_t n) {
    size_t bytes;
    const size_t len = strnlen(s, n);
    if (!ml_add_size(len, 1, &bytes)) return NULL;
    char *copy = ml_alloc(bytes);
    if (!copy) return NULL;
    memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

char *ml_strdup(const char *s) {
    return ml_strndup(s, strlen(s));
}

void *ml_alloc_aligned(size_t size) {
    size_t rounded;
    if (!ml_align_up(size ? size : 1, 64, &rounded) || account(rounded)) return NULL;
    return aligned_alloc(64, rounded);
}

void ml_free_aligned(void *p) {
    free(p);
}
