/* SPDX-License-Identifier: Apache-2.0
 *
 * A bump allocator for things that die together (parsed configs, tensor tables, names).
 */
#ifndef ML_BASE_ARENA_H
#define ML_BASE_ARENA_H

#include <stddef.h>

struct ml_arena {
    struct ml_arena_block *head;
    size_t used;  /* bytes handed out */
    size_t limit; /* ceiling on `used`; 0 = none */
};

/* No allocation happens here. One thread at a time per arena. */
void ml_arena_init(struct ml_arena *a, size_t limit);

/* 16-byte aligned zeroed memory, alive until ml_arena_free; NULL when out of memory or over the limit. */
void *ml_arena_alloc(struct ml_arena *a, size_t size);
void *ml_arena_array(struct ml_arena *a, size_t count, size_t size); /* checked multiply */
char *ml_arena_strndup(struct ml_arena *a, const char *s, size_t n);

/* Releases everything; the arena is empty and usable again. */
void ml_arena_free(struct ml_arena *a);

#endif
