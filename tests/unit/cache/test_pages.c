/* SPDX-License-Identifier: Apache-2.0
 *
 * The pool of pages: its sizes, that each page is had once, and counting of references.
 */
#include "base/mem.h"
#include "base/rng.h"
#include "cache/pages.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"

enum { DEVICES = 2, LAYERS = 4 };

/* Group 0: all positions, on device 0. 1: a window of 100, on device 1. 2: a state, on device 0. */
static const struct ml_layer_memory layers[LAYERS] = {
    {.kind = ML_MEMORY_FULL, .kv_heads = 2, .k_dim = 5, .v_dim = 7},
    {.kind = ML_MEMORY_WINDOW, .kv_heads = 1, .k_dim = 8, .v_dim = 8, .window = 100, .device = 1},
    {.kind = ML_MEMORY_RECURRENT, .state_bytes = 1000},
    {.kind = ML_MEMORY_FULL, .kv_heads = 1, .k_dim = 3, .v_dim = 3}};

enum { FULL, WINDOW, STATE, GROUPS };

/* A device that knows how much was taken of it. */
struct ledger {
    struct ml_device device; /* first: the pool sees this */
    struct ml_device_ops ops;
    struct ml_device *cpu;
    size_t bytes, blocks;
    struct ml_buffer last;
};

static struct ledger ledgers[DEVICES];
static struct ml_device *devices[DEVICES];
static struct ml_arena arena;
static struct ml_memory_layout layout;

static marlin_status ledger_alloc(struct ml_device *d, size_t bytes, struct ml_buffer *out,
                                  struct marlin_error *err) {
    struct ledger *l = (struct ledger *)d;
    const marlin_status st = l->cpu->ops->alloc(l->cpu, bytes, out, err);
    if (st != MARLIN_OK) return st;
    l->bytes += bytes;
    l->blocks++;
    l->last = *out;
    return st;
}

static void ledger_free(struct ml_device *d, struct ml_buffer *b) {
    struct ledger *l = (struct ledger *)d;
    l->bytes -= b->bytes;
    l->blocks--;
    l->cpu->ops->free(l->cpu, b);
}

static int begin(void **state) {
    (void)state;
    for (size_t i = 0; i < DEVICES; i++) {
        struct ledger *l = &ledgers[i];
        if (ml_device_open("cpu", &l->cpu, NULL) != MARLIN_OK) return -1;
        l->ops = *l->cpu->ops;
        l->ops.alloc = ledger_alloc;
        l->ops.free = ledger_free;
        l->device = (struct ml_device){.ops = &l->ops, .is_host = true};
        devices[i] = &l->device;
    }
    ml_arena_init(&arena, 0);
    return ml_memory_layout_create(layers, LAYERS, ML_F32, &arena, &layout, NULL) == MARLIN_OK ? 0 : -1;
}

static int end(void **state) {
    for (size_t i = 0; i < DEVICES; i++)
        ledgers[i].cpu->ops->destroy(ledgers[i].cpu);
    ml_arena_free(&arena);
    return guard_clean(state);
}

static struct ml_pages *new_pool(const struct ml_pages_sizes *sizes) {
    struct ml_pages *p = NULL;
    struct marlin_error err;
    if (ml_pages_create(&layout, devices, sizes, &p, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return p;
}

/* ---- sizes ---- */

static void a_sequence_takes_what_it_sees(void **state) {
    const struct ml_memory_group full = {0}, window = {.window = 100}, recurrent = {.recurrent = true};
    (void)state;
    assert_int_equal(ml_pages_of(&full, 1, 1), 1);
    assert_int_equal(ml_pages_of(&full, 64, 64), 1);
    assert_int_equal(ml_pages_of(&full, 65, 1), 2);
    assert_int_equal(ml_pages_of(&full, 640, 1), 10);
    assert_int_equal(ml_pages_of(&recurrent, 100000, 512), 1);
    assert_int_equal(ml_pages_of(&window, 640, 640), 10); /* never more than all positions */
    assert_int_equal(ml_pages_of(&window, 1 << 20, 28), 3);
    assert_int_equal(ml_pages_of(&window, 1 << 20, 29), 4);
    assert_int_equal(ml_pages_of(&window, 1 << 20, SIZE_MAX), (1 << 20) / 64);
}

/* A window's pages are enough for every way to cut a long sequence into passes: what the last key of the window
 * and the last row of the pass lie in, counted by hand. */
static void a_window_has_room_for_a_pass(void **state) {
    (void)state;
    for (size_t window = 2; window < 200; window += 7)
        for (size_t rows = 1; rows < 200; rows += 13) {
            const struct ml_memory_group g = {.window = window};
            for (size_t length = 0; length < 400; length++) {
                const size_t first = length + 1 > window ? length + 1 - window : 0;
                const size_t held = (length + rows - 1) / ML_PAGE_KEYS - first / ML_PAGE_KEYS + 1;
                assert_true(held <= ml_pages_of(&g, 1 << 20, rows));
            }
        }
}

static void sizes_are_what_is_allocated(void **state) {
    static const struct ml_pages_sizes cases[] = {
        {1, 1, 1, 0}, {1, 640, 64, 0}, {3, 641, 28, 0}, {2, 640, 29, 5}, {1, 64, 64, 1}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t bytes = 0, sum = 0;
        assert_int_equal(ml_pages_bytes(&layout, &cases[i], &bytes, NULL), MARLIN_OK);
        struct ml_pages *p = new_pool(&cases[i]);
        for (size_t g = 0; g < GROUPS; g++) {
            const size_t one = ml_pages_of(&layout.groups[g], cases[i].positions, cases[i].rows);
            const size_t spare = g == FULL ? 1 : one;
            assert_int_equal(ml_pages_total(p, g), one * cases[i].sequences + spare * cases[i].spares);
            assert_int_equal(ml_pages_left(p, g), ml_pages_total(p, g));
            sum += ml_pages_total(p, g) * layout.groups[g].page_bytes;
        }
        assert_int_equal(bytes, sum);
        assert_int_equal(ledgers[0].bytes + ledgers[1].bytes, sum);
        assert_int_equal(ledgers[1].bytes, ml_pages_total(p, WINDOW) * layout.groups[WINDOW].page_bytes);
        assert_ptr_equal(ml_pages_layout(p), &layout);
        ml_pages_free(p);
        assert_int_equal(ledgers[0].bytes + ledgers[1].bytes, 0);
    }
}

static void refuse(struct ml_pages_sizes sizes, marlin_status status) {
    struct ml_pages *p = NULL;
    struct marlin_error err = {0};
    size_t bytes;
    assert_int_equal(ml_pages_bytes(&layout, &sizes, &bytes, &err), status);
    assert_non_null(strstr(err.text, "key-value cache"));
    assert_int_equal(ml_pages_create(&layout, devices, &sizes, &p, &err), status);
    assert_null(p);
}

static void impossible_sizes_are_named(void **state) {
    (void)state;
    refuse((struct ml_pages_sizes){0, 64, 1, 0}, MARLIN_ERR_ARGUMENT);
    refuse((struct ml_pages_sizes){1, 0, 1, 0}, MARLIN_ERR_ARGUMENT);
    refuse((struct ml_pages_sizes){1, SIZE_MAX / 8, 1, 0}, MARLIN_ERR_LIMIT);
    refuse((struct ml_pages_sizes){1, SIZE_MAX, 1, 0}, MARLIN_ERR_LIMIT);
    refuse((struct ml_pages_sizes){SIZE_MAX / 4, 64, 1, 0}, MARLIN_ERR_LIMIT);
    refuse((struct ml_pages_sizes){1, 64, 1, SIZE_MAX / 4}, MARLIN_ERR_LIMIT);
    refuse((struct ml_pages_sizes){(size_t)INT32_MAX + 1, 64, 1, 0},
           MARLIN_ERR_LIMIT); /* pages have an int32 */
}

static void no_memory_is_an_error(void **state) {
    const struct ml_pages_sizes sizes = {.sequences = 2, .positions = 640, .rows = 64, .spares = 1};
    uint64_t n = 1, by_length = 0;
    (void)state;
    for (;; n++) {
        struct ml_pages *p = NULL;
        struct marlin_error err = {0};
        ml_mem_fail_at(n);
        const marlin_status st = ml_pages_create(&layout, devices, &sizes, &p, &err);
        ml_mem_fail_at(0);
        ml_pages_free(p);
        assert_int_equal(ledgers[0].blocks + ledgers[1].blocks, 0);
        if (st == MARLIN_OK) break;
        assert_null(p);
        assert_int_equal(st, MARLIN_ERR_MEMORY);
        assert_non_null(strstr(err.text, "key-value cache"));
        by_length += strstr(err.text, "for 640 positions: ask for a shorter context") != NULL;
    }
    assert_int_equal(by_length, GROUPS); /* memory itself */
    assert_true(n > 2 + 3 * GROUPS);     /* the pool, its groups; memory and two lists of each */
}

/* ---- references ---- */

static void every_page_is_had_once(void **state) {
    const struct ml_pages_sizes sizes = {.sequences = 2, .positions = 640, .rows = 64, .spares = 1};
    (void)state;
    struct ml_pages *p = new_pool(&sizes);
    for (size_t g = 0; g < GROUPS; g++) {
        const struct ledger *l = &ledgers[layout.groups[g].device];
        const size_t n = ml_pages_total(p, g), bytes = layout.groups[g].page_bytes;
        assert_true(n <= 64);
        const char *first = NULL, *last = NULL;
        uint64_t seen = 0;
        for (size_t i = 0; i < n; i++) {
            const int32_t page = ml_pages_take(p, g);
            const char *at = ml_pages_address(p, g, page);
            assert_true(page >= 0 && (size_t)page < n && !(seen >> page & 1));
            seen |= (uint64_t)1 << page;
            assert_int_equal((uintptr_t)at % 64, 0);
            assert_false(ml_pages_shared(p, g, page));
            assert_int_equal(ml_pages_left(p, g), n - 1 - i);
            if (!first || at < first) first = at;
            if (!last || at > last) last = at;
        }
        assert_int_equal(ml_pages_take(p, g), -1);
        assert_int_equal((size_t)(last - first), (n - 1) * bytes);
        if (g == WINDOW) assert_ptr_equal(first, l->last.address);
    }
    ml_pages_free(p);
}

/* The twin: how many have each page. */
static void references_are_counted(void **state) {
    enum { MOST = 64, STEPS = 20000 };
    const struct ml_pages_sizes sizes = {.sequences = 2, .positions = 640, .rows = 64};
    int holders[MOST] = {0};
    struct ml_rng rng;
    (void)state;
    struct ml_pages *p = new_pool(&sizes);
    const size_t n = ml_pages_total(p, FULL);
    size_t left = n;
    ml_rng_seed(&rng, 3);
    assert_true(n <= MOST);
    ml_mem_guard_begin("pages");
    for (size_t i = 0; i < STEPS; i++) {
        const int32_t page = (int32_t)(ml_rng_u64(&rng) % n);
        switch (ml_rng_u64(&rng) % 5) {
        case 0:
        case 1: {
            const int32_t taken = ml_pages_take(p, FULL);
            assert_int_equal(taken < 0, left == 0);
            if (taken < 0) break;
            assert_int_equal(holders[taken]++, 0);
            left--;
            break;
        }
        case 2:
            if (holders[page] == 0) break;
            ml_pages_keep(p, FULL, page);
            holders[page]++;
            break;
        default:
            if (holders[page] == 0) break;
            ml_pages_drop(p, FULL, page);
            left += --holders[page] == 0;
        }
        assert_int_equal(ml_pages_left(p, FULL), left);
        if (holders[page]) assert_int_equal(ml_pages_shared(p, FULL, page), holders[page] > 1);
    }
    ml_mem_guard_end();
    ml_pages_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sequence_takes_what_it_sees), cmocka_unit_test(a_window_has_room_for_a_pass),
        cmocka_unit_test(sizes_are_what_is_allocated),   cmocka_unit_test(impossible_sizes_are_named),
        cmocka_unit_test(no_memory_is_an_error),         cmocka_unit_test(every_page_is_had_once),
        cmocka_unit_test(references_are_counted),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
