/* SPDX-License-Identifier: Apache-2.0
 *
 * The one door for memory. Everything in the library allocates through it, so that tests can fail the
 * n-th allocation and prove the token loop makes none.
 */
#ifndef ML_BASE_MEM_H
#define ML_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As malloc, calloc (checked multiply), realloc, free. NULL on failure; size 0 returns a unique pointer.
 * Any thread. */
void *ml_alloc(size_t size);
void *ml_calloc(size_t count, size_t size);
void *ml_realloc(void *p, size_t size);
void ml_free(void *p);
char *ml_strdup(const char *s);
char *ml_strndup(const char *s, size_t n);

/* 64-byte aligned (cache line, zmm), contents undefined. Release with ml_free_aligned. */
void *ml_alloc_aligned(size_t size);
void ml_free_aligned(void *p);

/* Test hook: the n-th allocation from now (1 = the next) returns NULL, once; 0 switches it off. */
void ml_mem_fail_at(uint64_t n);

/* Test hook: number of allocations made by the whole process so far. */
uint64_t ml_mem_count(void);
/* Test hook: bytes that were asked for by all of them, whether or not they were freed since. */
uint64_t ml_mem_bytes(void);

/* Marks the calling thread's following code as "must neither allocate nor lock" (the token loop). An
 * allocation or a lock by this thread inside a guard is counted in every build; in builds with assertions, or
 * with MARLIN_MEM_GUARD defined (sanitizer builds), it also aborts naming `what`. Guards nest. */
void ml_mem_guard_begin(const char *what);
void ml_mem_guard_end(void);

/* What a guard's promise does not cover, and says so where it is declared: until `resume`, which is given what
 * `pause` returned, the calling thread is in no guard. */
int ml_mem_guard_pause(void);
void ml_mem_guard_resume(int paused);

/* base/lock.h is about to take a lock: a violation inside a guard. */
void ml_mem_guard_lock(void);

/* Test hook: allocations made and locks taken inside guards by the whole process so far. */
uint64_t ml_mem_guard_violations(void);

#endif
