/* SPDX-License-Identifier: Apache-2.0
 *
 * Hash map against a naive list, and with failing allocations.
 */
#include "base/map.h"
#include "base/mem.h"
#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

enum { KEYS = 600, STEPS = 20000 };

static void agrees_with_a_list(void **state) {
    (void)state;
    static char keys[KEYS][8];
    static struct {
        size_t key;
        uint64_t value;
    } list[KEYS];
    size_t used = 0;
    struct ml_rng rng;
    struct ml_map map;
    ml_rng_seed(&rng, 7);
    ml_map_init(&map);
    for (size_t i = 0; i < KEYS; i++) {
        memcpy(keys[i], &i, sizeof i);
    }
    for (int step = 0; step < STEPS; step++) {
        const size_t key = ml_rng_u64(&rng) % KEYS;
        size_t at = 0;
        while (at < used && list[at].key != key) {
            at++;
        }
        uint64_t value = 0;
        assert_int_equal(ml_map_get(&map, keys[key], 8, &value), at < used);
        if (at < used) assert_int_equal(value, list[at].value);
        if (ml_rng_u64(&rng) % 8) continue;
        bool inserted;
        assert_int_equal(ml_map_put(&map, keys[key], 8, (uint64_t)step, &inserted), MARLIN_OK);
        assert_int_equal(inserted, at == used);
        if (inserted) {
            list[used].key = key;
            list[used++].value = (uint64_t)step;
        }
        assert_int_equal(map.count, used);
        assert_true(map.count * 10 <= map.cap * 7);
    }
    ml_map_free(&map);
}

static void takes_the_empty_key(void **state) {
    (void)state;
    struct ml_map map;
    uint64_t value = 0;
    ml_map_init(&map);
    assert_false(ml_map_get(&map, NULL, 0, &value));
    assert_int_equal(ml_map_put(&map, NULL, 0, 5, NULL), MARLIN_OK);
    assert_true(ml_map_get(&map, "x", 0, &value) && value == 5);
    assert_true(ml_map_get(&map, NULL, 0, &value));
    ml_map_free(&map);
}

static void is_unchanged_when_memory_ends(void **state) {
    (void)state;
    static const char keys[64] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    struct ml_map map;
    int failed = 0;
    ml_map_init(&map);
    for (size_t i = 0; i < 52; i++) {
        ml_mem_fail_at(1);
        const marlin_status st = ml_map_put(&map, keys + i, 1, i, NULL);
        ml_mem_fail_at(0);
        uint64_t value;
        assert_int_equal(ml_map_get(&map, keys + i, 1, &value), st == MARLIN_OK);
        if (st == MARLIN_OK) continue;
        failed++;
        assert_int_equal(st, MARLIN_ERR_MEMORY);
        assert_int_equal(map.count, i);
        assert_int_equal(ml_map_put(&map, keys + i, 1, i, NULL), MARLIN_OK);
    }
    assert_true(failed >= 3);
    ml_map_free(&map);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_a_list),
                                       cmocka_unit_test(takes_the_empty_key),
                                       cmocka_unit_test(is_unchanged_when_memory_ends)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
