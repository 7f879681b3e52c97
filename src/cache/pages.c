/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the memory of pages, and for each its number of references and its place on the stack of free ones.
 */
#include "cache/pages.h"

#include "base/checked.h"
#include "base/mem.h"

struct group {
    struct ml_device *device;
    struct ml_buffer memory;
    size_t n, n_free, page_bytes;
    int32_t *free;     /* [n], the first n_free of which are free pages */
    uint32_t *holders; /* [n] references */
};

struct ml_pages {
    const struct ml_memory_layout *layout;
    struct group *groups;
};

static size_t pages_for(size_t slots) {
    return slots / ML_PAGE_KEYS + (slots % ML_PAGE_KEYS != 0);
}

size_t ml_pages_of(const struct ml_memory_group *g, size_t positions, size_t rows) {
    size_t kept;
    const size_t all = pages_for(positions);
    if (g->recurrent) return 1;
    if (g->window == 0 || !ml_add_size(g->window, rows, &kept)) return all;
    kept = pages_for(kept) + 1; /* the window may begin in the middle of a page */
    return kept < all ? kept : all;
}

/* A spare shares the pages of all positions but one, which the first to write copies. */
static bool pages_in(const struct ml_memory_group *g, const struct ml_pages_sizes *z, size_t *out) {
    const size_t one = ml_pages_of(g, z->positions, z->rows);
    const size_t spare = g->recurrent || g->window ? one : 1;
    size_t a, b;
    return ml_mul_size(one, z->sequences, &a) && ml_mul_size(spare, z->spares, &b) &&
           ml_add_size(a, b, out) && *out <= INT32_MAX;
}

static marlin_status too_large(const struct ml_pages_sizes *z, struct marlin_error *err) {
    return ml_fail(
        err, MARLIN_ERR_LIMIT,
        "key-value cache: %zu sequences of %zu positions pass the address space: ask for a shorter "
        "context",
        z->sequences, z->positions);
}

marlin_status ml_pages_bytes(const struct ml_memory_layout *l, const struct ml_pages_sizes *z, size_t *bytes,
                             struct marlin_error *err) {
    *bytes = 0;
    if (z->sequences == 0 || z->positions == 0)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "key-value cache: a dimension is 0");
    for (size_t g = 0; g < l->n_groups; g++) {
        size_t n;
        if (!pages_in(&l->groups[g], z, &n) || !ml_mul_size(n, l->groups[g].page_bytes, &n) ||
            !ml_add_size(*bytes, n, bytes))
            return too_large(z, err);
    }
    return MARLIN_OK;
}

static marlin_status create_group(struct group *to, const struct ml_memory_group *g, struct ml_device *device,
                                  const struct ml_pages_sizes *z, struct marlin_error *err) {
    size_t bytes;
    if (!pages_in(g, z, &to->n) || !ml_mul_size(to->n, g->page_bytes, &bytes)) return too_large(z, err);
    to->device = device;
    to->page_bytes = g->page_bytes;
    to->free = ml_calloc(to->n, sizeof *to->free);
    to->holders = ml_calloc(to->n, sizeof *to->holders);
    if (!to->free || !to->holders)
        return ml_fail(err, MARLIN_ERR_MEMORY, "key-value cache of %zu pages: out of memory", to->n);
    const marlin_status st = device->ops->alloc(device, bytes, &to->memory, err);
    if (st != MARLIN_OK)
        return ml_fail_in(err, st, "key-value cache for %zu positions: ask for a shorter context",
                          z->positions);
    for (size_t i = 0; i < to->n; i++) /* low pages first */
        to->free[i] = (int32_t)(to->n - 1 - i);
    to->n_free = to->n;
    return MARLIN_OK;
}

marlin_status ml_pages_create(const struct ml_memory_layout *l, struct ml_device *const *devices,
                              const struct ml_pages_sizes *z, struct ml_pages **out,
                              struct marlin_error *err) {
    size_t bytes;
    struct ml_pages *p = NULL;
    marlin_status st;
    ML_TRY(ml_pages_bytes(l, z, &bytes, err));
    p = ml_calloc(1, sizeof *p);
    if (p) p->groups = ml_calloc(l->n_groups + 1, sizeof *p->groups);
    if (!p || !p->groups) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "key-value cache: out of memory");
        goto out;
    }
    p->layout = l;
    for (size_t g = 0; g < l->n_groups; g++)
        ML_TRY(create_group(&p->groups[g], &l->groups[g], devices[l->groups[g].device], z, err));
out:
    if (st == MARLIN_OK)
        *out = p;
    else
        ml_pages_free(p);
    return st;
}

void ml_pages_free(struct ml_pages *p) {
    if (!p) return;
    for (size_t g = 0; p->groups && p->layout && g < p->layout->n_groups; g++) {
        struct group *x = &p->groups[g];
        if (x->memory.address) x->device->ops->free(x->device, &x->memory);
        ml_free(x->free);
        ml_free(x->holders);
    }
    ml_free(p->groups);
    ml_free(p);
}

const struct ml_memory_layout *ml_pages_layout(const struct ml_pages *p) {
    return p->layout;
}

size_t ml_pages_left(const struct ml_pages *p, size_t group) {
    return p->groups[group].n_free;
}

size_t ml_pages_total(const struct ml_pages *p, size_t group) {
    return p->groups[group].n;
}

int32_t ml_pages_take(struct ml_pages *p, size_t group) {
    struct group *g = &p->groups[group];
    if (g->n_free == 0) return -1;
    const int32_t page = g->free[--g->n_free];
    g->holders[page] = 1;
    return page;
}

void ml_pages_keep(struct ml_pages *p, size_t group, int32_t page) {
    p->groups[group].holders[page]++;
}

void ml_pages_drop(struct ml_pages *p, size_t group, int32_t page) {
    struct group *g = &p->groups[group];
    if (--g->holders[page] == 0) g->free[g->n_free++] = page;
}

bool ml_pages_shared(const struct ml_pages *p, size_t group, int32_t page) {
    return p->groups[group].holders[page] > 1;
}

char *ml_pages_address(const struct ml_pages *p, size_t group, int32_t page) {
    const struct group *g = &p->groups[group];
    return (char *)g->memory.address + (size_t)page * g->page_bytes;
}
