/* SPDX-License-Identifier: Apache-2.0
 *
 * A list of blocks. Each is twice as large as the one before it, but at most 16 MiB unless the piece of
 * memory that it is made for is larger.
 */
#include "base/arena.h"

#include "base/checked.h"
#include "base/mem.h"

#include <string.h>

enum { FIRST_BLOCK = 4096, ALIGN = 16 };

struct ml_arena_block {
    struct ml_arena_block *next;
    size_t size, at;
    _Alignas(ALIGN) char data[];
};

void ml_arena_init(struct ml_arena *a, size_t limit) {
    *a = (struct ml_arena){.limit = limit};
}

static struct ml_arena_block *grow(struct ml_arena *a, size_t need) {
    size_t size = a->head ? a->head->size * 2 : FIRST_BLOCK, bytes;
    if (size > 1u << 24) size = 1u << 24;
    if (size < need) size = need;
    if (!ml_add_size(size, sizeof(struct ml_arena_block), &bytes)) return NULL;
    struct ml_arena_block *b = ml_calloc(1, bytes);
    if (!b) return NULL;
    b->size = size;
    b->next = a->head;
    a->head = b;
    return b;
}

void *ml_arena_alloc(struct ml_arena *a, size_t size) {
    size_t rounded, used;
    if (!ml_align_up(size ? size : 1, ALIGN, &rounded) || !ml_add_size(a->used, rounded, &used)) return NULL;
    if (a->limit && used > a->limit) return NULL;
    struct ml_arena_block *b = a->head;
    if (!b || b->size - b->at < rounded) b = grow(a, rounded);
    if (!b) return NULL;
    void *p = b->data + b->at;
    b->at += rounded;
    a->used = used;
    return p;
}

void *ml_arena_array(struct ml_arena *a, size_t count, size_t size) {
    size_t bytes;
    return ml_mul_size(count, size, &bytes) ? ml_arena_alloc(a, bytes) : NULL;
}

char *ml_arena_strndup(struct ml_arena *a, const char *s, size_t n) {
    size_t bytes;
    if (!ml_add_size(n, 1, &bytes)) return NULL;
    char *copy = ml_arena_alloc(a, bytes);
    if (!copy) return NULL;
    memcpy(copy, s, n);
    copy[n] = '\0';
    return copy;
}

void ml_arena_free(struct ml_arena *a) {
    while (a->head) {
        struct ml_arena_block *next = a->head->next;
        ml_free(a->head);
        a->head = next;
    }
    a->used = 0;
}
