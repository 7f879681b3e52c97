/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory of sequences that share pages against its slow twin: a plain array of what was written for each
 * sequence, through long random runs of all operations. And each promise by itself.
 */
#include "base/mem.h"
#include "base/rng.h"
#include "cache/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"

enum {
    DEVICES = 2,
    MOST_LAYERS = 8,
    MOST = 5,
    CAPACITY = 400,
    ROWS = 130,
    WIDE = 100,
    NARROW = 20,
    NONE = -1
};

static const struct ml_layer_memory layers[MOST_LAYERS] = {
    {.kind = ML_MEMORY_FULL, .kv_heads = 2, .k_dim = 8, .v_dim = 4},
    {.kind = ML_MEMORY_WINDOW, .kv_heads = 1, .k_dim = 4, .v_dim = 8, .window = WIDE},
    {.kind = ML_MEMORY_LATENT, .kv_heads = 1, .k_dim = 12, .v_dim = 8, .device = 1},
    {.kind = ML_MEMORY_NONE},
    {.kind = ML_MEMORY_WINDOW, .kv_heads = 2, .k_dim = 4, .v_dim = 4, .window = NARROW, .device = 1},
    {.kind = ML_MEMORY_FULL, .kv_heads = 1, .k_dim = 4, .v_dim = 4},
    {.kind = ML_MEMORY_RECURRENT, .state_bytes = 48},
    {.kind = ML_MEMORY_RECURRENT, .state_bytes = 5000, .device = 1}};
enum { WITHOUT_STATES = 6 };

/* A sequence and what it should hold. */
struct twin {
    struct ml_memory *memory; /* NULL: the place is free */
    size_t length;
    uint32_t tag[CAPACITY]; /* what was written at each position */
    uint32_t state;         /* what states hold; 0: nothing yet */
};

/* A CPU that knows its own memory, and fails when a stream of it is told to write elsewhere. */
struct watched {
    struct ml_device device; /* first: what others see */
    struct ml_device_ops ops;
    struct ml_device *cpu;
    struct ml_buffer blocks[MOST_LAYERS];
};

static struct world {
    struct watched watched[DEVICES];
    struct ml_device *devices[DEVICES];
    struct ml_stream stream[DEVICES], *streams[DEVICES];
    struct ml_arena arena;
    struct ml_memory_layout layout;
    size_t n_layers;
    struct ml_pages *pool;
    struct twin twins[MOST];
    struct ml_rng rng;
    uint32_t tags; /* given out */
} w;

static marlin_status watched_alloc(struct ml_device *d, size_t bytes, struct ml_buffer *out,
                                   struct marlin_error *err) {
    struct watched *x = (struct watched *)d;
    size_t i = 0;
    while (x->blocks[i].address)
        i++;
    assert_true(i < MOST_LAYERS);
    const marlin_status st = x->cpu->ops->alloc(x->cpu, bytes, out, err);
    if (st == MARLIN_OK) x->blocks[i] = *out;
    return st;
}

static void watched_free(struct ml_device *d, struct ml_buffer *b) {
    struct watched *x = (struct watched *)d;
    size_t i = 0;
    while (x->blocks[i].address != b->address)
        i++;
    x->blocks[i] = (struct ml_buffer){0};
    x->cpu->ops->free(x->cpu, b);
}

static void watched_copy(struct ml_stream *s, void *to, const void *from, size_t bytes) {
    const struct watched *x = (const struct watched *)s->device;
    const uintptr_t at = (uintptr_t)to;
    bool own = false;
    for (size_t i = 0; i < MOST_LAYERS; i++) {
        const uintptr_t block = (uintptr_t)x->blocks[i].address;
        own = own || (block && at >= block && at + bytes <= block + x->blocks[i].bytes);
    }
    if (!own) fail_msg("a stream writes to memory that is not its device's");
    memmove(to, from, bytes);
}

static int open_device(size_t d) {
    struct watched *x = &w.watched[d];
    if (ml_device_open("cpu", &x->cpu, NULL) != MARLIN_OK) return -1;
    x->ops = *x->cpu->ops;
    x->ops.alloc = watched_alloc;
    x->ops.free = watched_free;
    x->ops.copy = x->ops.upload = watched_copy;
    x->device = (struct ml_device){.ops = &x->ops, .is_host = true};
    w.devices[d] = &x->device;
    return 0;
}

static int begin(void **state) {
    (void)state;
    for (size_t d = 0; d < DEVICES; d++) {
        if (open_device(d) != 0) return -1;
        if (w.devices[d]->ops->stream_open(w.devices[d], &w.stream[d], NULL) != MARLIN_OK) return -1;
        w.streams[d] = &w.stream[d];
    }
    return 0;
}

static int end(void **state) {
    for (size_t d = 0; d < DEVICES; d++) {
        w.devices[d]->ops->stream_close(&w.stream[d]);
        w.watched[d].cpu->ops->destroy(w.watched[d].cpu);
    }
    return guard_clean(state);
}

static void open_world(size_t n_layers, enum ml_dtype type, const struct ml_pages_sizes *sizes,
                       uint64_t seed) {
    struct marlin_error err;
    ml_arena_init(&w.arena, 0);
    w.n_layers = n_layers;
    memset(w.twins, 0, sizeof w.twins);
    w.tags = 0;
    ml_rng_seed(&w.rng, seed);
    if (ml_memory_layout_create(layers, n_layers, type, &w.arena, &w.layout, &err) != MARLIN_OK ||
        ml_pages_create(&w.layout, w.devices, sizes, &w.pool, &err) != MARLIN_OK)
        fail_msg("%s", err.text);
}

static void close_twin(struct twin *t) {
    ml_memory_free(t->memory);
    *t = (struct twin){0};
}

/* Everything has been given back. */
static void close_world(void) {
    for (size_t i = 0; i < MOST; i++)
        close_twin(&w.twins[i]);
    for (size_t g = 0; g < w.layout.n_groups; g++)
        assert_int_equal(ml_pages_left(w.pool, g), ml_pages_total(w.pool, g));
    ml_pages_free(w.pool);
    ml_arena_free(&w.arena);
}

static size_t random_below(size_t n) {
    return (size_t)(ml_rng_u64(&w.rng) % n);
}

static struct twin *open_twin(size_t i) {
    struct twin *t = &w.twins[i];
    assert_null(t->memory);
    assert_int_equal(ml_memory_create(w.pool, CAPACITY, &t->memory, NULL), MARLIN_OK);
    assert_int_equal(ml_memory_capacity(t->memory), CAPACITY);
    return t;
}

/* ---- what lies in pages ---- */

/* Page i of a group of a sequence, or NULL. */
static const char *page_of(const struct twin *t, size_t g, size_t i) {
    size_t n;
    const char *const *table = ml_memory_table(t->memory, g, &n);
    return i < n ? table[i] : NULL;
}

enum { PARTS = 4 }; /* of a slot: key, value, their scales */

/* Where part `part` of a head is in a page, and bytes of a slot; false where the layer has no such part. */
static bool part_of(const struct ml_kv_layout *l, size_t part, size_t *at, size_t *bytes) {
    const bool latent = l->v_at == l->k_at, i8 = l->dtype == ML_I8;
    const size_t size = ml_dtype_size(l->dtype);
    const size_t starts[PARTS] = {l->k_at, l->v_at, l->k_scales_at, l->v_scales_at};
    const size_t widths[PARTS] = {l->k_dim * size, latent ? 0 : l->v_dim * size, i8 ? 4 : 0,
                                  i8 && !latent ? 4 : 0};
    *at = starts[part];
    *bytes = widths[part];
    return *bytes > 0;
}

static void make_bytes(char *to, size_t bytes, uint32_t tag, size_t layer, size_t head, size_t part) {
    for (size_t i = 0; i < bytes; i += 4) {
        const uint32_t word = (uint32_t)(tag * 2654435761u + layer * 40503 + head * 977 + part * 131 + i);
        memcpy(to + i, &word, 4);
    }
}

/* One position of all layers with keys: written, or compared with what was. From first[layer] on alone. */
static void visit(const struct twin *t, size_t position, uint32_t tag, bool write, const size_t *first) {
    char want[64];
    for (size_t i = 0; i < w.n_layers; i++) {
        const struct ml_memory_place *p = &w.layout.layers[i];
        if (p->group == SIZE_MAX || w.layout.groups[p->group].recurrent || position < first[i]) continue;
        char *page = (char *)(uintptr_t)page_of(t, p->group, position / ML_PAGE_KEYS);
        if (!page) fail_msg("layer %zu has no page of position %zu", i, position);
        for (size_t h = 0; h < p->layout.kv_heads; h++)
            for (size_t part = 0; part < PARTS; part++) {
                size_t at, bytes;
                if (!part_of(&p->layout, part, &at, &bytes)) continue;
                at += h * p->layout.head_bytes + position % ML_PAGE_KEYS * bytes;
                make_bytes(want, bytes, tag, i, h, part);
                if (write)
                    memcpy(page + at, want, bytes);
                else if (memcmp(page + at, want, bytes) != 0)
                    fail_msg("layer %zu, head %zu, part %zu, position %zu is not what was written", i, h,
                             part, position);
            }
    }
}

static void visit_state(const struct twin *t, uint32_t tag, bool write) {
    static char want[8192];
    for (size_t i = 0; i < w.n_layers; i++) {
        const struct ml_memory_place *p = &w.layout.layers[i];
        if (p->group == SIZE_MAX || !w.layout.groups[p->group].recurrent) continue;
        char *page = (char *)(uintptr_t)page_of(t, p->group, 0);
        assert_non_null(page);
        memset(want, 0, sizeof want);
        if (tag) make_bytes(want, p->state_bytes, tag, i, 0, 0);
        if (write)
            memcpy(page + p->state_at, want, p->state_bytes);
        else
            assert_memory_equal(page + p->state_at, want, p->state_bytes);
    }
}

static const size_t everything[MOST_LAYERS];

/* Rows of the next n positions, with new tags. */
static void write_rows(struct twin *t, size_t n) {
    for (size_t i = 0; i < n; i++) {
        t->tag[t->length + i] = ++w.tags;
        visit(t, t->length + i, t->tag[t->length + i], true, everything);
    }
}

/* Every position that the next one sees is what was written there. */
static void check(const struct twin *t) {
    size_t first[MOST_LAYERS] = {0}; /* seen from the next position */
    assert_int_equal(ml_memory_length(t->memory), t->length);
    for (size_t i = 0; i < w.n_layers; i++)
        if (layers[i].window && t->length + 1 > layers[i].window) first[i] = t->length + 1 - layers[i].window;
    for (size_t p = 0; p < t->length; p++)
        visit(t, p, t->tag[p], false, first);
    if (t->length > 0) visit_state(t, t->state, false);
}

/* ---- pages that sequences have ---- */

static bool has_page(const struct twin *t, size_t g, const char *page) {
    size_t n;
    if (!t->memory) return false;
    const char *const *table = ml_memory_table(t->memory, g, &n);
    for (size_t i = 0; i < n; i++)
        if (table[i] == page) return true;
    return false;
}

static bool others_have(const struct twin *t, size_t g, const char *page) {
    for (size_t i = 0; i < MOST; i++)
        if (&w.twins[i] != t && has_page(&w.twins[i], g, page)) return true;
    return false;
}

/* Pages of a group that some sequence has: those that are not left. */
static void check_counts(void) {
    for (size_t g = 0; g < w.layout.n_groups; g++) {
        size_t used = 0;
        for (size_t s = 0; s < MOST; s++) {
            size_t n = 0;
            const char *const *table = w.twins[s].memory ? ml_memory_table(w.twins[s].memory, g, &n) : NULL;
            for (size_t i = 0; i < n; i++) {
                bool before = !table[i];
                for (size_t k = 0; k < s; k++)
                    before = before || has_page(&w.twins[k], g, table[i]);
                used += !before;
            }
        }
        assert_int_equal(used, ml_pages_total(w.pool, g) - ml_pages_left(w.pool, g));
    }
}

/* Pages first .. end of a group hold the next n positions. */
static void pages_of_next(const struct twin *t, size_t g, size_t n, size_t *first, size_t *last) {
    const bool state = w.layout.groups[g].recurrent;
    *first = state ? 0 : t->length / ML_PAGE_KEYS;
    *last = state ? 0 : (t->length + n - 1) / ML_PAGE_KEYS;
}

/* The next n positions need no more pages than are left. */
static bool fits(const struct twin *t, size_t n) {
    for (size_t g = 0; g < w.layout.n_groups; g++) {
        size_t first, last, wanted = 0;
        pages_of_next(t, g, n, &first, &last);
        for (size_t i = first; i <= last; i++) {
            const char *page = page_of(t, g, i);
            wanted += !page || others_have(t, g, page);
        }
        if (wanted > ml_pages_left(w.pool, g)) return false;
    }
    return true;
}

/* Pages of the next n positions are there, and the sequence's own. */
static void check_own(const struct twin *t, size_t n) {
    for (size_t g = 0; g < w.layout.n_groups; g++) {
        size_t first, last;
        pages_of_next(t, g, n, &first, &last);
        for (size_t i = first; i <= last; i++) {
            assert_non_null(page_of(t, g, i));
            assert_false(others_have(t, g, page_of(t, g, i)));
        }
    }
}

/* ---- operations on both ---- */

enum { MOST_GROUPS = MOST_LAYERS, MOST_PAGES = CAPACITY / ML_PAGE_KEYS + 1 };

struct snapshot {
    const char *page[MOST_GROUPS][MOST_PAGES];
    size_t left[MOST_GROUPS];
};

static struct snapshot snap(const struct twin *t) {
    struct snapshot s;
    memset(&s, 0, sizeof s);
    for (size_t g = 0; g < w.layout.n_groups; g++) {
        s.left[g] = ml_pages_left(w.pool, g);
        for (size_t i = 0; i < MOST_PAGES; i++)
            s.page[g][i] = page_of(t, g, i);
    }
    return s;
}

/* True when there was room. Where there is none, nothing has changed. */
static bool reserve(struct twin *t, size_t n) {
    struct marlin_error err = {0};
    const bool in_capacity = n <= CAPACITY - t->length, there_is_room = in_capacity && fits(t, n);
    const struct snapshot before = snap(t);
    ml_mem_guard_begin("reserve");
    const marlin_status st = ml_memory_reserve(t->memory, n, w.streams, &err);
    ml_mem_guard_end();
    if (there_is_room) {
        if (st != MARLIN_OK) fail_msg("%s", err.text);
        check_own(t, n);
        return true;
    }
    const struct snapshot after = snap(t);
    assert_int_equal(st, in_capacity ? MARLIN_ERR_MEMORY : MARLIN_ERR_LIMIT);
    assert_non_null(strstr(err.text, in_capacity ? "cache is full" : "context is full"));
    assert_memory_equal(&before, &after, sizeof before);
    return false;
}

static void commit(struct twin *t, size_t n) {
    ml_mem_guard_begin("commit");
    ml_memory_commit(t->memory, n);
    ml_mem_guard_end();
    t->length += n;
    t->state = ++w.tags;
    visit_state(t, t->state, true);
    for (size_t g = 0; g < w.layout.n_groups; g++) { /* pages that have left their window are nobody's */
        const size_t window = w.layout.groups[g].window;
        for (size_t i = 0; window && (i + 1) * ML_PAGE_KEYS + window <= t->length + 1; i++)
            assert_null(page_of(t, g, i));
    }
}

/* A pass of n rows of which `kept` count. */
static void feed(struct twin *t, size_t n, size_t kept) {
    if (!reserve(t, n)) return;
    if (t->length == 0) visit_state(t, 0, false);
    write_rows(t, n);
    if (kept > 0) commit(t, kept);
}

static void keep(struct twin *t, size_t n) {
    size_t rows[NARROW], kept = 0;
    if (n > CAPACITY - t->length || !reserve(t, n)) return;
    write_rows(t, n);
    for (size_t i = 0; i < n; i++) {
        if (random_below(2)) continue;
        t->tag[t->length + kept] = t->tag[t->length + i];
        rows[kept++] = i;
    }
    ml_mem_guard_begin("keep");
    ml_memory_keep(t->memory, rows, kept, w.streams);
    ml_mem_guard_end();
    t->length += kept;
}

/* Whether n can be gone back to: nothing that it sees was given back. */
static bool can_rewind(const struct twin *t, size_t n) {
    for (size_t i = 0; i < w.n_layers; i++) {
        const struct ml_memory_place *p = &w.layout.layers[i];
        if (layers[i].kind == ML_MEMORY_RECURRENT) return false;
        if (!layers[i].window) continue;
        for (size_t k = n + 1 > layers[i].window ? n + 1 - layers[i].window : 0; k < n; k++)
            if (!page_of(t, p->group, k / ML_PAGE_KEYS)) return false;
    }
    return true;
}

static void rewind_to(struct twin *t, size_t n) {
    const size_t want = n >= t->length ? t->length : can_rewind(t, n) ? n : 0;
    const size_t least = ml_memory_rewindable(t->memory);
    assert_int_equal(want == n || want == t->length, n >= least || n == 0 || n >= t->length);
    ml_mem_guard_begin("rewind");
    const size_t got = ml_memory_rewind(t->memory, n);
    ml_mem_guard_end();
    assert_int_equal(got, want);
    t->length = got;
    if (got == 0) t->state = 0;
}

static void copy_twin(struct twin *to, const struct twin *from) {
    struct ml_memory *memory = to->memory;
    *to = *from;
    to->memory = memory;
}

static void restore(struct twin *t, const struct twin *from) {
    ml_mem_guard_begin("restore");
    ml_memory_restore(t->memory, from->memory);
    ml_mem_guard_end();
    copy_twin(t, from);
}

static void fork_twin(const struct twin *from, struct twin *to) {
    assert_null(to->memory);
    const struct snapshot before = snap(from);
    struct ml_memory *memory = NULL;
    assert_int_equal(ml_memory_fork(from->memory, &memory, NULL), MARLIN_OK);
    *to = *from;
    to->memory = memory;
    const struct snapshot after = snap(to);
    assert_memory_equal(before.left, after.left, sizeof before.left); /* none was taken */
    for (size_t g = 0; g < w.layout.n_groups; g++)
        for (size_t i = 0; i * ML_PAGE_KEYS < from->length; i++)
            assert_ptr_equal(before.page[g][i], after.page[g][i]);
}

/* ---- the random run ---- */

static int random_twin(bool open) {
    const size_t first = random_below(MOST);
    for (size_t i = 0; i < MOST; i++)
        if (!w.twins[(first + i) % MOST].memory != open) return (int)((first + i) % MOST);
    return NONE;
}

static void step_rows(struct twin *t) {
    const size_t n = 1 + random_below(random_below(4) ? 24 : ROWS);
    feed(t, n, random_below(8) ? n : random_below(n + 1));
}

/* Returns the twin that was changed. */
static struct twin *step(bool trees) {
    const int i = random_twin(true), free_place = random_twin(false);
    struct twin *t = i == NONE ? NULL : &w.twins[i];
    const size_t what = random_below(20);
    if (!t) return open_twin(0);
    if (what < 10) {
        step_rows(t);
    } else if (what < 12 && trees) {
        keep(t, 1 + random_below(NARROW));
    } else if (what < 14) {
        const size_t back = random_below(random_below(3) ? 30 : CAPACITY);
        rewind_to(t, back < t->length ? t->length - back : random_below(2) * t->length);
    } else if (what < 16) {
        const struct twin *from = &w.twins[random_twin(true)];
        if (from != t) restore(t, from);
    } else if (what < 17) {
        close_twin(t);
        return NULL;
    } else if (free_place != NONE) {
        struct twin *to = &w.twins[free_place];
        if (what < 18) return open_twin((size_t)free_place);
        fork_twin(t, to);
        return to;
    }
    return t;
}

static void run_against_twin(size_t n_layers, enum ml_dtype type, uint64_t seed) {
    enum { STEPS = 4000, CHECK_ALL = 16 };
    const struct ml_pages_sizes sizes = {.sequences = 2, .positions = CAPACITY, .rows = ROWS, .spares = 2};
    size_t longest = 0;
    open_world(n_layers, type, &sizes, seed);
    for (size_t i = 0; i < STEPS; i++) {
        const struct twin *changed = step(n_layers == WITHOUT_STATES);
        if (changed) check(changed);
        if (changed && changed->length > longest) longest = changed->length;
        check_counts();
        for (size_t k = 0; i % CHECK_ALL == 0 && k < MOST; k++)
            if (w.twins[k].memory) check(&w.twins[k]);
    }
    assert_true(longest > CAPACITY - ROWS);
    close_world();
}

static void pages_equal_plain_arrays(void **state) {
    static const enum ml_dtype types[] = {ML_F32, ML_F16, ML_I8};
    (void)state;
    for (uint64_t i = 0; i < 3; i++) {
        run_against_twin(WITHOUT_STATES, types[i], 11 + i);
        run_against_twin(MOST_LAYERS, types[i], 21 + i);
    }
}

/* ---- each promise by itself ---- */

enum { FULL, WINDOW, FAR, FAR_WINDOW }; /* groups of the layers without states, in their order */

static const struct ml_pages_sizes two = {.sequences = 2, .positions = CAPACITY, .rows = ROWS, .spares = 2};

static size_t used(size_t g) {
    return ml_pages_total(w.pool, g) - ml_pages_left(w.pool, g);
}

static void pages_are_taken_and_given_back(void **state) {
    (void)state;
    open_world(WITHOUT_STATES, ML_F32, &two, 1);
    struct twin *t = open_twin(0);
    assert_int_equal(w.layout.n_groups, 4);
    assert_true(used(FULL) == 0 && used(FAR) == 0);
    feed(t, 1, 1);
    assert_true(used(FULL) == 1 && used(WINDOW) == 1 && used(FAR) == 1 && used(FAR_WINDOW) == 1);
    feed(t, 63, 63);
    assert_int_equal(used(FULL), 1);
    feed(t, 2, 2);
    assert_int_equal(used(FULL), 2);
    rewind_to(t, 64);
    assert_true(used(FULL) == 1 && used(FAR) == 1);
    rewind_to(t, 0);
    assert_true(used(FULL) == 0 && used(WINDOW) == 0 && used(FAR_WINDOW) == 0);
    feed(t, 100, 100);
    close_twin(t);
    assert_true(used(FULL) == 0 && used(WINDOW) == 0);
    close_world();
}

static void a_fork_shares_until_it_is_written_to(void **state) {
    (void)state;
    open_world(WITHOUT_STATES, ML_I8, &two, 1);
    struct twin *a = open_twin(0), *b = &w.twins[1];
    feed(a, 100, 100);
    fork_twin(a, b);
    assert_int_equal(used(FULL), 2);
    feed(b, 10, 10); /* of the page that both have b now has a copy */
    assert_int_equal(used(FULL), 3);
    assert_ptr_equal(page_of(a, FULL, 0), page_of(b, FULL, 0));
    assert_ptr_not_equal(page_of(a, FULL, 1), page_of(b, FULL, 1));
    feed(a, 10, 10); /* a is the only one that has the old one: no copy */
    assert_int_equal(used(FULL), 3);
    check(a);
    check(b);
    restore(b, a);
    assert_int_equal(used(FULL), 2);
    check(b);
    close_twin(a);
    check(b);
    close_world();
}

static void windows_give_pages_back(void **state) {
    (void)state;
    open_world(WITHOUT_STATES, ML_F16, &two, 1);
    struct twin *t = open_twin(0);
    for (size_t i = 0; i < CAPACITY; i++) {
        feed(t, 1, 1);
        assert_true(used(WINDOW) <= 3 && used(FAR_WINDOW) <= 2);
        assert_int_equal(used(FULL), i / ML_PAGE_KEYS + 1);
    }
    check(t);
    /* The wide window, of which pages 4 to 6 are left, says how far back the sequence goes. */
    assert_null(page_of(t, FAR_WINDOW, 4));
    assert_non_null(page_of(t, FAR_WINDOW, 5));
    assert_null(page_of(t, WINDOW, 3));
    assert_int_equal(ml_memory_rewindable(t->memory), 4 * ML_PAGE_KEYS + WIDE - 1);
    rewind_to(t, 4 * ML_PAGE_KEYS + WIDE - 1);
    assert_int_equal(t->length, 4 * ML_PAGE_KEYS + WIDE - 1);
    rewind_to(t, 4 * ML_PAGE_KEYS + WIDE - 2);
    assert_int_equal(t->length, 0);
    assert_int_equal(used(FULL), 0);
    close_world();
}

static void states_begin_with_zeros_and_do_not_go_back(void **state) {
    (void)state;
    open_world(MOST_LAYERS, ML_F32, &two, 1);
    struct twin *a = open_twin(0), *checkpoint = &w.twins[1];
    feed(a, 10, 10);
    fork_twin(a, checkpoint);
    feed(a, 10, 10);
    check(a);
    check(checkpoint);
    assert_int_equal(ml_memory_rewindable(a->memory), 20);
    rewind_to(a, 20);
    assert_int_equal(a->length, 20);
    restore(a, checkpoint);
    check(a);
    feed(a, 10, 10);
    check(checkpoint);
    rewind_to(a, 19);
    assert_int_equal(a->length, 0);
    feed(a, 3, 3); /* looks for zeros */
    close_world();
}

/* A pass that was begun and never counted, from the start of a sequence, is forgotten by going back to it. */
static void a_state_that_does_not_count_is_forgotten(void **state) {
    (void)state;
    open_world(MOST_LAYERS, ML_F32, &two, 1);
    struct twin *t = open_twin(0);
    assert_true(reserve(t, 5));
    visit_state(t, 77, true);
    assert_int_equal(ml_memory_rewind(t->memory, 0), 0);
    for (size_t g = 0; g < w.layout.n_groups; g++)
        assert_int_equal(used(g), 0);
    feed(t, 5, 5); /* looks for zeros */
    close_world();
}

static void a_full_pool_changes_nothing(void **state) {
    const struct ml_pages_sizes one = {.sequences = 1, .positions = 128, .rows = 64};
    (void)state;
    open_world(WITHOUT_STATES, ML_F32, &one, 1);
    struct twin *a = open_twin(0), *b = open_twin(1);
    feed(a, 60, 60);
    feed(b, 64, 64);
    assert_false(reserve(a, 5));
    assert_true(reserve(a, 4));
    assert_false(reserve(b, 1));
    check(a);
    check(b);
    close_twin(b);
    assert_true(reserve(a, 5));
    check(a);
    close_world();
}

/* Rows of a tree go where they would have been without the others, on both devices. */
static void kept_rows_move_together(void **state) {
    static const size_t rows[] = {1, 2, 6};
    (void)state;
    open_world(WITHOUT_STATES, ML_I8, &two, 1);
    struct twin *t = open_twin(0);
    feed(t, 60, 60); /* so that the rows lie in two pages */
    assert_true(reserve(t, 8));
    write_rows(t, 8);
    for (size_t i = 0; i < 3; i++)
        t->tag[60 + i] = t->tag[60 + rows[i]];
    ml_memory_keep(t->memory, rows, 3, w.streams);
    t->length += 3;
    check(t);
    assert_true(reserve(t, 4));
    ml_memory_keep(t->memory, NULL, 0, w.streams);
    check(t);
    close_world();
}

static void filling_writes_every_page(void **state) {
    static char bytes[1 << 16];
    (void)state;
    open_world(WITHOUT_STATES, ML_F32, &two, 1);
    struct twin *t = open_twin(0);
    const size_t page = w.layout.groups[FULL].page_bytes;
    assert_true(page <= sizeof bytes);
    for (size_t i = 0; i < page; i++)
        bytes[i] = (char)(i * 7);
    feed(t, 200, 200);
    ml_memory_fill(t->memory, FULL, bytes, w.streams[0]);
    for (size_t i = 0; i < 4; i++)
        assert_memory_equal(page_of(t, FULL, i), bytes, page);
    close_world();
}

static void no_memory_is_an_error(void **state) {
    uint64_t n = 1;
    (void)state;
    open_world(MOST_LAYERS, ML_F32, &two, 1);
    struct twin *t = open_twin(0);
    feed(t, 70, 70);
    for (;; n++) {
        struct ml_memory *m = NULL;
        struct marlin_error err = {0};
        const struct snapshot before = snap(t);
        ml_mem_fail_at(n);
        const marlin_status st = ml_memory_fork(t->memory, &m, &err);
        ml_mem_fail_at(0);
        ml_memory_free(m);
        const struct snapshot after = snap(t);
        assert_memory_equal(&before, &after, sizeof before);
        if (st == MARLIN_OK) break;
        assert_null(m);
        assert_int_equal(st, MARLIN_ERR_MEMORY);
        assert_true(err.text[0]);
    }
    assert_int_equal(n, 1 + 2 + 2 * w.layout.n_groups);
    check(t);
    close_world();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_equal_plain_arrays),
        cmocka_unit_test(pages_are_taken_and_given_back),
        cmocka_unit_test(a_fork_shares_until_it_is_written_to),
        cmocka_unit_test(windows_give_pages_back),
        cmocka_unit_test(states_begin_with_zeros_and_do_not_go_back),
        cmocka_unit_test(a_state_that_does_not_count_is_forgotten),
        cmocka_unit_test(a_full_pool_changes_nothing),
        cmocka_unit_test(kept_rows_move_together),
        cmocka_unit_test(filling_writes_every_page),
        cmocka_unit_test(no_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
