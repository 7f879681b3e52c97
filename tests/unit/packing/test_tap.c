/* SPDX-License-Identifier: Apache-2.0
 *
 * Tap-code tiles: the order of the stream, round trips, decoding against a twin that works bit by bit, and
 * codes that a file must not get away with.
 */
#include "packing/codes.h"
#include "packing/tap.h"

#include "base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* Row and column of weight t, as the description of the layout has it. */
static unsigned cell(unsigned bits, unsigned t) {
    const unsigned rows = bits == 2 ? 4 : bits == 4 ? 2 : 1, patch = 8 * rows;
    const unsigned half = t / 128, rest = t % 128;
    return 16 * (rest / patch * rows + rest % rows) + 8 * half + rest % patch / rows;
}

static void order_follows_the_drawing(void **unused) {
    (void)unused;
    for (unsigned bits = 2; bits <= 6; bits++) {
        bool seen[256] = {false};
        const uint8_t *order = ml_tap_order(bits);
        for (unsigned t = 0; t < 256; t++) {
            assert_int_equal(order[t], cell(bits, t));
            assert_false(seen[order[t]]);
            seen[order[t]] = true;
        }
    }
    assert_null(ml_tap_order(1));
    assert_null(ml_tap_order(7));
}

static void chunks_are_4_rows_by_8_columns(void **unused) {
    (void)unused;
    for (unsigned bits = 2; bits <= 6; bits++)
        for (unsigned t = 0; t < 256; t++) {
            const unsigned at = ml_tap_order(bits)[t], chunk = t / 32;
            assert_int_equal(at / 16 / 4, chunk % 4);
            assert_int_equal(at % 16 / 8, chunk / 4);
        }
}

/* Byte j of a 64-bit word belongs to column j: what a byte-wise dot product relies on. */
static void bytes_are_columns(void **unused) {
    (void)unused;
    for (unsigned bits = 2; bits <= 4; bits += 2)
        for (unsigned t = 0; t < 256; t++)
            assert_int_equal(ml_tap_order(bits)[t] % 8, t * bits / 8 % 8);
}

static void random_tiles_round_trip(void **unused) {
    struct ml_rng rng;
    ml_rng_seed(&rng, 4);
    (void)unused;
    for (unsigned bits = 2; bits <= 6; bits++)
        for (int repeat = 0; repeat < 50; repeat++) {
            uint8_t tile[192], again[192], symbol[256];
            const size_t n = ml_tap_tile_bytes(bits);
            assert_int_equal(n, 32 * bits);
            for (size_t i = 0; i < n; i++)
                tile[i] = (uint8_t)ml_rng_u64(&rng);
            assert_int_equal(ml_tap_unpack(bits, tile, symbol, NULL), MARLIN_OK);
            for (unsigned t = 0; t < 256; t++) {
                unsigned slow = 0;
                for (unsigned i = 0; i < bits; i++)
                    slow |= (unsigned)(tile[(t * bits + i) / 8] >> (t * bits + i) % 8 & 1) << i;
                assert_int_equal(symbol[t], slow);
            }
            assert_int_equal(ml_tap_pack(bits, symbol, again, NULL), MARLIN_OK);
            assert_memory_equal(tile, again, n);
        }
}

static int slow_value(const struct ml_tap_code *c, const uint8_t *tile, unsigned t) {
    unsigned bit[16], index = 0;
    for (unsigned i = 0; i < c->window; i++) {
        const unsigned at = (t * c->bits + i) % (256u * c->bits);
        bit[i] = tile[at / 8] >> at % 8 & 1;
    }
    for (unsigned i = 0; i < c->index_bits; i++) {
        unsigned b = bit[i];
        for (int tap = 0; tap < ML_TAP_MAX_TAPS && i < c->bits; tap++)
            if (c->taps[tap]) b ^= bit[i + c->taps[tap]];
        index |= b << i;
    }
    return c->table[index];
}

static void decode_equals_the_slow_twin(void **unused) {
    struct ml_rng rng;
    size_t count;
    const struct ml_tap_code *codes = ml_tap_codes(&count);
    ml_rng_seed(&rng, 5);
    (void)unused;
    for (size_t k = 0; k < count; k++)
        for (int repeat = 0; repeat < 10; repeat++) {
            uint8_t tile[192];
            int8_t out[256];
            for (size_t i = 0; i < sizeof tile; i++)
                tile[i] = (uint8_t)ml_rng_u64(&rng);
            ml_tap_decode(&codes[k], tile, out);
            for (unsigned t = 0; t < 256; t++)
                assert_int_equal(out[cell(codes[k].bits, t)], slow_value(&codes[k], tile, t));
        }
}

static void index_is_linear(void **unused) {
    const struct ml_tap_code *c = ml_tap_code_find(3, 16);
    struct ml_rng rng;
    ml_rng_seed(&rng, 6);
    (void)unused;
    assert_non_null(c);
    for (int i = 0; i < 1000; i++) {
        const unsigned v = (unsigned)ml_rng_u64(&rng) & 0xffff, w = (unsigned)ml_rng_u64(&rng) & 0xffff;
        assert_int_equal(ml_tap_index(c, v ^ w), ml_tap_index(c, v) ^ ml_tap_index(c, w));
        assert_true(ml_tap_index(c, v) < 1u << c->index_bits);
    }
}

static void symbols_are_range_checked(void **unused) {
    struct marlin_error err;
    uint8_t symbol[256] = {0}, tile[192];
    (void)unused;
    memset(tile, 0x5a, sizeof tile);
    symbol[200] = 8;
    assert_int_equal(ml_tap_pack(3, symbol, tile, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "weight 200"));
    assert_int_equal(tile[0], 0x5a);
    assert_int_equal(ml_tap_pack(4, symbol, tile, &err), MARLIN_OK);
    assert_int_equal(ml_tap_pack(7, symbol, tile, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(ml_tap_unpack(1, tile, symbol, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(ml_tap_tile_bytes(7), 0);
}

static void all_codes_are_there_and_sound(void **unused) {
    size_t count;
    const struct ml_tap_code *codes = ml_tap_codes(&count);
    (void)unused;
    assert_int_equal(count, 15);
    for (size_t i = 0; i < count; i++) {
        struct marlin_error err = {MARLIN_OK, ""};
        assert_int_equal(ml_tap_check(&codes[i], &err), MARLIN_OK);
        assert_ptr_equal(ml_tap_code_find(codes[i].bits, codes[i].window), &codes[i]);
    }
    assert_null(ml_tap_code_find(2, 13));
    assert_null(ml_tap_code_find(7, 12));
}

static void hostile_codes_are_refused(void **unused) {
    const struct ml_tap_code good = *ml_tap_code_find(2, 12);
    struct ml_tap_code bad[12];
    struct marlin_error err;
    (void)unused;
    for (int i = 0; i < 12; i++)
        bad[i] = good;
    bad[0].bits = 1;
    bad[1].bits = 7;
    bad[2].index_bits = 1;
    bad[3].index_bits = 9;
    bad[4].window = 5;
    bad[5].window = 17;
    bad[6].taps[0] = 11; /* reaches past the window */
    bad[7].taps[0] = 0;  /* a hole in the list */
    memset(bad[8].taps, 0, sizeof bad[8].taps);
    bad[9].unit = NAN;
    bad[10].unit = 0;
    bad[11].table[5] = INT8_MIN;
    for (int i = 0; i < 12; i++) {
        err.text[0] = 0;
        assert_int_equal(ml_tap_check(&bad[i], &err), MARLIN_ERR_FORMAT);
        assert_non_null(strstr(err.text, "tap code: "));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_follows_the_drawing),   cmocka_unit_test(chunks_are_4_rows_by_8_columns),
        cmocka_unit_test(bytes_are_columns),           cmocka_unit_test(random_tiles_round_trip),
        cmocka_unit_test(decode_equals_the_slow_twin), cmocka_unit_test(index_is_linear),
        cmocka_unit_test(symbols_are_range_checked),   cmocka_unit_test(all_codes_are_there_and_sound),
        cmocka_unit_test(hostile_codes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
