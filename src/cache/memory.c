/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns a sequence's references to pages.
 */
#include "cache/memory.h"

#include "base/checked.h"
#include "base/mem.h"

#include <string.h>

/* Pages [begin, end) of a group are held. */
struct table {
    const char **address; /* [room]; NULL where no page is held */
    int32_t *page;        /* [room] */
    size_t begin, end, room;
};

struct ml_memory {
    struct ml_pages *pool;
    const struct ml_memory_layout *layout;
    size_t length, capacity;
    struct table *tables; /* [groups] */
};

static const struct ml_memory_group *group_at(const struct ml_memory *m, size_t g) {
    return &m->layout->groups[g];
}

static marlin_status create_table(struct table *t, size_t room, struct marlin_error *err) {
    t->room = room;
    t->address = ml_calloc(room, sizeof *t->address);
    t->page = ml_calloc(room, sizeof *t->page);
    if (t->address && t->page) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_MEMORY, "table of %zu pages: out of memory", room);
}

marlin_status ml_memory_create(struct ml_pages *pool, size_t positions, struct ml_memory **out,
                               struct marlin_error *err) {
    const struct ml_memory_layout *l = ml_pages_layout(pool);
    marlin_status st = MARLIN_OK;
    struct ml_memory *m = ml_calloc(1, sizeof *m);
    if (m) m->tables = ml_calloc(l->n_groups + 1, sizeof *m->tables);
    if (!m || !m->tables) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "memory of a sequence: out of memory");
        goto out;
    }
    m->pool = pool;
    m->layout = l;
    m->capacity = positions;
    for (size_t g = 0; g < l->n_groups; g++)
        ML_TRY(create_table(&m->tables[g], l->groups[g].recurrent ? 1 : positions / ML_PAGE_KEYS + 1, err));
out:
    if (st == MARLIN_OK)
        *out = m;
    else
        ml_memory_free(m);
    return st;
}

/* ---- single pages ---- */

static void set_page(struct ml_memory *m, size_t g, size_t i, int32_t page) {
    m->tables[g].page[i] = page;
    m->tables[g].address[i] = ml_pages_address(m->pool, g, page);
}

static void drop_pages(struct ml_memory *m, size_t g, size_t begin, size_t end) {
    struct table *t = &m->tables[g];
    for (size_t i = begin; i < end; i++) {
        ml_pages_drop(m->pool, g, t->page[i]);
        t->address[i] = NULL;
    }
}

static void drop_all(struct ml_memory *m) {
    for (size_t g = 0; g < m->layout->n_groups; g++) {
        drop_pages(m, g, m->tables[g].begin, m->tables[g].end);
        m->tables[g].begin = m->tables[g].end = 0;
    }
    m->length = 0;
}

void ml_memory_free(struct ml_memory *m) {
    if (!m) return;
    if (m->layout) drop_all(m);
    for (size_t g = 0; m->layout && g < m->layout->n_groups; g++) {
        ml_free(m->tables[g].address);
        ml_free(m->tables[g].page);
    }
    ml_free(m->tables);
    ml_free(m);
}

size_t ml_memory_length(const struct ml_memory *m) {
    return m->length;
}

size_t ml_memory_capacity(const struct ml_memory *m) {
    return m->capacity;
}

const char *const *ml_memory_table(const struct ml_memory *m, size_t group, size_t *n) {
    *n = m->tables[group].end;
    return m->tables[group].address;
}

/* ---- the next positions ---- */

/* Pages [first, end) of a group are those that the next n positions are written to. */
static void pages_written(const struct ml_memory *m, size_t g, size_t n, size_t *first, size_t *end) {
    if (group_at(m, g)->recurrent) {
        *first = 0;
        *end = 1;
        return;
    }
    *first = m->length / ML_PAGE_KEYS;
    *end = (m->length + n + ML_PAGE_KEYS - 1) / ML_PAGE_KEYS;
}

/* How many pages of a group the next n positions take: new ones, and copies of shared ones. */
static size_t pages_wanted(const struct ml_memory *m, size_t g, size_t n) {
    const struct table *t = &m->tables[g];
    size_t first, end, wanted = 0;
    pages_written(m, g, n, &first, &end);
    for (size_t i = first; i < end; i++)
        wanted += i >= t->end || ml_pages_shared(m->pool, g, t->page[i]);
    return wanted;
}

/* A sequence begins with a state of zeros. Long zeros would be read late: they are static. */
static void clear_page(struct ml_memory *m, size_t g, struct ml_stream *s) {
    static const char zeros[4096];
    const size_t bytes = group_at(m, g)->page_bytes;
    char *page = (char *)(uintptr_t)m->tables[g].address[0];
    for (size_t at = 0; at < bytes; at += sizeof zeros)
        s->device->ops->upload(s, page + at, zeros, bytes - at < sizeof zeros ? bytes - at : sizeof zeros);
}

static void write_pages(struct ml_memory *m, size_t g, size_t n, struct ml_stream *s) {
    struct table *t = &m->tables[g];
    size_t first, end;
    pages_written(m, g, n, &first, &end);
    if (t->end == t->begin) t->begin = t->end = first;
    for (size_t i = first; i < end; i++) {
        const bool is_new = i >= t->end;
        const int32_t old = is_new ? -1 : t->page[i];
        if (!is_new && !ml_pages_shared(m->pool, g, old)) continue;
        const char *from = is_new ? NULL : t->address[i];
        set_page(m, g, i, ml_pages_take(m->pool, g));
        if (from)
            s->device->ops->copy(s, (char *)(uintptr_t)t->address[i], from, group_at(m, g)->page_bytes);
        else if (group_at(m, g)->recurrent)
            clear_page(m, g, s);
        if (!is_new) ml_pages_drop(m->pool, g, old);
        if (is_new) t->end = i + 1;
    }
}

marlin_status ml_memory_reserve(struct ml_memory *m, size_t n, struct ml_stream *const *streams,
                                struct marlin_error *err) {
    if (n > m->capacity - m->length)
        return ml_fail(err, MARLIN_ERR_LIMIT,
                       "the context is full: %zu tokens after %zu of %zu: ask for a longer context", n,
                       m->length, m->capacity);
    for (size_t g = 0; g < m->layout->n_groups; g++) {
        const size_t wanted = pages_wanted(m, g, n), left = ml_pages_left(m->pool, g);
        if (wanted <= left) continue;
        return ml_fail(err, MARLIN_ERR_MEMORY,
                       "the cache is full: %zu tokens want %zu pages of %zu positions, %zu of %zu are left",
                       n, wanted, (size_t)ML_PAGE_KEYS, left, ml_pages_total(m->pool, g));
    }
    for (size_t g = 0; g < m->layout->n_groups; g++)
        write_pages(m, g, n, streams[group_at(m, g)->device]);
    return MARLIN_OK;
}

/* First page that the position `next` and those after it see. */
static size_t first_seen(const struct ml_memory_group *g, size_t next) {
    if (g->recurrent || g->window == 0 || next + 1 <= g->window) return 0;
    return (next + 1 - g->window) / ML_PAGE_KEYS;
}

void ml_memory_commit(struct ml_memory *m, size_t n) {
    m->length += n;
    for (size_t g = 0; g < m->layout->n_groups; g++) {
        struct table *t = &m->tables[g];
        const size_t first = first_seen(group_at(m, g), m->length);
        if (first <= t->begin) continue;
        drop_pages(m, g, t->begin, first < t->end ? first : t->end);
        t->begin = first < t->end ? first : t->end;
    }
}

/* ---- back, and aside ---- */

size_t ml_memory_rewindable(const struct ml_memory *m) {
    size_t least = 0;
    for (size_t g = 0; g < m->layout->n_groups; g++) {
        const struct ml_memory_group *x = group_at(m, g);
        const size_t begin = m->tables[g].begin * ML_PAGE_KEYS;
        size_t own = 0;
        if (x->recurrent)
            own = m->length;
        else if (begin > 0)
            own = begin + x->window - 1;
        if (own > least) least = own;
    }
    return least;
}

size_t ml_memory_rewind(struct ml_memory *m, size_t n) {
    if (n > 0 && n >= m->length) return m->length;
    if (n < ml_memory_rewindable(m)) n = 0;
    if (n == 0) {
        drop_all(m);
        return 0;
    }
    for (size_t g = 0; g < m->layout->n_groups; g++) {
        struct table *t = &m->tables[g];
        const size_t end = (n + ML_PAGE_KEYS - 1) / ML_PAGE_KEYS;
        if (end >= t->end) continue;
        drop_pages(m, g, end, t->end);
        t->end = end;
    }
    m->length = n;
    return n;
}

/* Pages of a group from here on hold nothing that counts yet. */
static size_t pages_counted(const struct ml_memory *m, size_t g) {
    const size_t end = group_at(m, g)->recurrent ? 1 : (m->length + ML_PAGE_KEYS - 1) / ML_PAGE_KEYS;
    return end < m->tables[g].end ? end : m->tables[g].end;
}

void ml_memory_restore(struct ml_memory *m, const struct ml_memory *from) {
    if (m == from) return;
    for (size_t g = 0; g < m->layout->n_groups; g++)
        for (size_t i = from->tables[g].begin; i < pages_counted(from, g); i++)
            ml_pages_keep(m->pool, g, from->tables[g].page[i]);
    drop_all(m);
    for (size_t g = 0; g < m->layout->n_groups; g++) {
        const struct table *t = &from->tables[g];
        m->tables[g].begin = t->begin;
        m->tables[g].end = pages_counted(from, g);
        for (size_t i = t->begin; i < m->tables[g].end; i++)
            set_page(m, g, i, t->page[i]);
    }
    m->length = from->length;
}

marlin_status ml_memory_fork(const struct ml_memory *m, struct ml_memory **out, struct marlin_error *err) {
    const marlin_status st = ml_memory_create(m->pool, m->capacity, out, err);
    if (st == MARLIN_OK) ml_memory_restore(*out, m);
    return st;
}

/* ---- draft trees ---- */

/* Rows of one slot of a layer, from one page to another. */
static void move_slot(const struct ml_kv_layout *l, const struct table *t, size_t to, size_t from,
                      struct ml_stream *s) {
    const size_t size = ml_dtype_size(l->dtype), a = to % ML_PAGE_KEYS, b = from % ML_PAGE_KEYS;
    char *dst = (char *)(uintptr_t)t->address[to / ML_PAGE_KEYS];
    const char *src = t->address[from / ML_PAGE_KEYS];
    const struct {
        size_t at, bytes;
    } rows[] = {{l->k_at, l->k_dim * size},
                {l->v_at, l->v_at == l->k_at ? 0 : l->v_dim * size},
                {l->k_scales_at, l->dtype == ML_I8 ? sizeof(float) : 0},
                {l->v_scales_at, l->dtype == ML_I8 && l->v_at != l->k_at ? sizeof(float) : 0}};
    for (size_t h = 0; h < l->kv_heads; h++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            const size_t at = rows[i].at + h * l->head_bytes, bytes = rows[i].bytes;
            if (bytes) s->device->ops->copy(s, dst + at + a * bytes, src + at + b * bytes, bytes);
        }
}

void ml_memory_keep(struct ml_memory *m, const size_t *keep, size_t n, struct ml_stream *const *streams) {
    for (size_t i = 0; i < m->layout->n_layers; i++) {
        const struct ml_memory_place *p = &m->layout->layers[i];
        if (p->group == SIZE_MAX) continue;
        for (size_t k = 0; k < n; k++)
            if (keep[k] != k)
                move_slot(&p->layout, &m->tables[p->group], m->length + k, m->length + keep[k],
                          streams[group_at(m, p->group)->device]);
    }
    ml_memory_commit(m, n);
}

/* ---- for benchmarks ---- */

void ml_memory_fill(struct ml_memory *m, size_t group, const void *bytes, struct ml_stream *s) {
    const struct table *t = &m->tables[group];
    for (size_t i = t->begin; i < t->end; i++)
        s->device->ops->upload(s, (char *)(uintptr_t)t->address[i], bytes, group_at(m, group)->page_bytes);
}
