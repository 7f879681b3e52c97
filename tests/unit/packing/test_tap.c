/* SPDX-License-Identifier: Apache-2.0
 *
 * Tap-code tiles: the order of the stream, round trips, decoding against a twin that works bit by bit, and
 * codes that a file must not get away with, as structures and as bytes.
 */
#include "packing/codes.h"
#include "packing/tap.h"

#include "base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
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
        assert_true(ml_tap_is_mirrored(&codes[i]));
        assert_true(ml_tap_is_split(&codes[i]) == (codes[i].bits > 2));
        struct ml_tap_code changed = codes[i];
        changed.table[i] += changed.table[i] < 127 ? 1 : -1;
        assert_false(ml_tap_is_mirrored(&changed));
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

static void mirrored_means_both_halves_and_the_sign(void **unused) {
    const struct ml_tap_code mirrored = {.bits = 2,
                                         .window = 5,
                                         .index_bits = 3,
                                         .taps = {1, 3},
                                         .unit = 1,
                                         .table = {-90, -30, 10, 40, -40, -10, 30, 90}};
    struct ml_tap_code c = mirrored;
    (void)unused;
    assert_true(ml_tap_is_mirrored(&c));
    for (unsigned i = 0; i < 8; i++) {
        c = mirrored;
        c.table[i]++;
        assert_false(ml_tap_is_mirrored(&c));
    }
    c = mirrored; /* still antisymmetric, but index 2 has the own bit 1 and a negative entry */
    c.table[2] = -10;
    c.table[5] = 10;
    assert_false(ml_tap_is_mirrored(&c));
    c.table[2] = c.table[5] = 0;
    assert_true(ml_tap_is_mirrored(&c));
}

static void a_split_table_has_lifts_by_four_bits(void **unused) {
    static const struct {
        uint8_t bits, index_bits, on; /* own bits below k - 1 from the highest on, plain ones from k on */
    } cases[] = {{3, 7, 0x1b}, {4, 7, 0x17}, {5, 8, 0x0f}, {6, 8, 0x1e}, {3, 8, 0x1b}, {6, 7, 0x1e}};
    (void)unused;
    for (size_t n = 0; n < sizeof cases / sizeof *cases; n++) {
        struct ml_tap_code c = {.bits = cases[n].bits, .window = 16, .index_bits = cases[n].index_bits};
        const unsigned half = 1u << (c.index_bits - 1), top = 1u << (c.bits - 1), on = cases[n].on;
        assert_int_equal(ml_tap_lift_bits(&c), on);
        for (unsigned i = 0; i < half; i++) {
            c.table[i] = (int8_t)(i * 37 % 101);
            c.table[i + half] = (int8_t)(c.table[i] + (int)((i & on) * 11 % 23) - 9);
        }
        assert_true(ml_tap_is_split(&c));
        for (unsigned i = 0; i < 2 * half; i++) {
            struct ml_tap_code changed = c;
            changed.table[i]++;
            assert_true(ml_tap_is_split(&changed) == !(i & top)); /* the others follow by mirroring */
        }
    }
    struct ml_tap_code flat = {.bits = 2, .window = 12, .index_bits = 7};
    assert_false(ml_tap_is_split(&flat));
    flat.bits = 3;
    assert_true(ml_tap_is_split(&flat));
    flat.index_bits = 6;
    assert_false(ml_tap_is_split(&flat));
}

/* ---- codes as bytes */

static void codes_survive_their_bytes(void **unused) {
    size_t count;
    const struct ml_tap_code *codes = ml_tap_codes(&count);
    (void)unused;
    for (size_t i = 0; i < count; i++) {
        uint8_t bytes[ML_TAP_CODE_MAX];
        struct ml_tap_code again;
        const size_t n = ml_tap_code_write(&codes[i], bytes);
        assert_int_equal(n, 16 + (1u << codes[i].index_bits));
        assert_int_equal(ml_tap_code_read(bytes, n, &again, NULL), MARLIN_OK);
        assert_int_equal(again.bits, codes[i].bits);
        assert_int_equal(again.window, codes[i].window);
        assert_int_equal(again.index_bits, codes[i].index_bits);
        assert_memory_equal(again.taps, codes[i].taps, sizeof again.taps);
        assert_memory_equal(&again.unit, &codes[i].unit, sizeof again.unit);
        assert_memory_equal(again.table, codes[i].table, sizeof again.table);
    }
}

/* Byte by byte, so that a file is the same on every machine. */
static void code_bytes_follow_the_drawing(void **unused) {
    const struct ml_tap_code c = {.bits = 2,
                                  .window = 5,
                                  .index_bits = 2,
                                  .taps = {1, 3},
                                  .unit = 0.15625f,
                                  .table = {-127, -1, 0, 127}};
    static const uint8_t golden[] = {1,    2,    5, 2, 1, 3, 0,    0,    0x00, 0x00,
                                     0x20, 0x3e, 0, 0, 0, 0, 0x81, 0xff, 0,    0x7f};
    uint8_t bytes[ML_TAP_CODE_MAX];
    (void)unused;
    assert_int_equal(ml_tap_code_write(&c, bytes), sizeof golden);
    assert_memory_equal(bytes, golden, sizeof golden);
}

static void code_lengths_must_be_exact(void **unused) {
    const struct ml_tap_code *c = ml_tap_code_find(3, 12);
    uint8_t bytes[ML_TAP_CODE_MAX + 1] = {0};
    struct ml_tap_code again;
    struct marlin_error err;
    const size_t n = ml_tap_code_write(c, bytes);
    (void)unused;
    for (size_t length = 0; length <= sizeof bytes; length++) {
        if (length == n) continue;
        /* A copy of that very length: a read past its end shows under the address sanitizer. */
        uint8_t *exact = malloc(length ? length : 1);
        assert_non_null(exact);
        memcpy(exact, bytes, length);
        assert_int_equal(ml_tap_code_read(exact, length, &again, &err), MARLIN_ERR_FORMAT);
        assert_non_null(strstr(err.text, "tap code: "));
        free(exact);
    }
}

static void hostile_code_bytes_are_refused(void **unused) {
    static const struct {
        uint8_t at, value;
        marlin_status status;
        const char *named;
    } bad[] = {{0, 0, MARLIN_ERR_UNSUPPORTED, "version 0"},
               {0, 2, MARLIN_ERR_UNSUPPORTED, "version 2"},
               {0, 255, MARLIN_ERR_UNSUPPORTED, "version 255"},
               {1, 0, MARLIN_ERR_FORMAT, "0 bits"},
               {1, 1, MARLIN_ERR_FORMAT, "1 bits"},
               {1, 7, MARLIN_ERR_FORMAT, "7 bits"},
               {1, 255, MARLIN_ERR_FORMAT, "255 bits"},
               {2, 0, MARLIN_ERR_FORMAT, "window of 0"},
               {2, 17, MARLIN_ERR_FORMAT, "window of 17"},
               {2, 255, MARLIN_ERR_FORMAT, "window of 255"},
               {3, 0, MARLIN_ERR_FORMAT, "index of 0"},
               {3, 5, MARLIN_ERR_FORMAT, "index of 5"},
               {3, 9, MARLIN_ERR_FORMAT, "index of 9"},
               {3, 32, MARLIN_ERR_FORMAT, "index of 32"},
               {3, 255, MARLIN_ERR_FORMAT, "index of 255"},
               {4, 0, MARLIN_ERR_FORMAT, "tap "},
               {4, 255, MARLIN_ERR_FORMAT, "tap 0 is 255"},
               {6, 1, MARLIN_ERR_FORMAT, "tap 2 is 1"},
               {7, 1, MARLIN_ERR_FORMAT, "reserved"},
               {11, 0xff, MARLIN_ERR_FORMAT, "unit"}, /* negative or not a number */
               {12, 1, MARLIN_ERR_FORMAT, "reserved"},
               {15, 128, MARLIN_ERR_FORMAT, "reserved"},
               {16, 0x80, MARLIN_ERR_FORMAT, "entry 0 is -128"},
               {79, 0x80, MARLIN_ERR_FORMAT, "entry 63 is -128"}};
    (void)unused;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint8_t bytes[ML_TAP_CODE_MAX];
        struct ml_tap_code again;
        struct marlin_error err = {MARLIN_OK, ""};
        const size_t n = ml_tap_code_write(ml_tap_code_find(2, 12), bytes);
        bytes[bad[i].at] = bad[i].value;
        assert_int_equal(ml_tap_code_read(bytes, n, &again, &err), bad[i].status);
        assert_non_null(strstr(err.text, "tap code: "));
        if (!strstr(err.text, bad[i].named)) fail_msg("\"%s\" does not name %s", err.text, bad[i].named);
    }
}

/* Whatever passes the check can be decoded with: any byte of a code may be anything. */
static void random_codes_decode_or_are_refused(void **unused) {
    struct ml_rng rng;
    ml_rng_seed(&rng, 7);
    size_t accepted = 0;
    (void)unused;
    for (int repeat = 0; repeat < 20000; repeat++) {
        uint8_t bytes[ML_TAP_CODE_MAX], tile[192];
        int8_t out[256];
        struct ml_tap_code c;
        const unsigned bits = 2 + (unsigned)(ml_rng_u64(&rng) % 5);
        const size_t n = ml_tap_code_write(ml_tap_code_find(bits, 12), bytes);
        for (int i = 0; i < 2; i++)
            bytes[ml_rng_u64(&rng) % 12] ^= (uint8_t)(1u << ml_rng_u64(&rng) % 8);
        for (size_t i = 0; i < sizeof tile; i++)
            tile[i] = (uint8_t)ml_rng_u64(&rng);
        if (ml_tap_code_read(bytes, n, &c, NULL) != MARLIN_OK) continue;
        accepted++;
        ml_tap_decode(&c, tile, out);
        for (unsigned t = 0; t < 256; t++)
            assert_int_equal(out[cell(c.bits, t)], slow_value(&c, tile, t));
    }
    assert_in_range(accepted, 500, 19500);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_follows_the_drawing),
        cmocka_unit_test(chunks_are_4_rows_by_8_columns),
        cmocka_unit_test(bytes_are_columns),
        cmocka_unit_test(random_tiles_round_trip),
        cmocka_unit_test(decode_equals_the_slow_twin),
        cmocka_unit_test(index_is_linear),
        cmocka_unit_test(symbols_are_range_checked),
        cmocka_unit_test(all_codes_are_there_and_sound),
        cmocka_unit_test(hostile_codes_are_refused),
        cmocka_unit_test(mirrored_means_both_halves_and_the_sign),
        cmocka_unit_test(a_split_table_has_lifts_by_four_bits),
        cmocka_unit_test(codes_survive_their_bytes),
        cmocka_unit_test(code_bytes_follow_the_drawing),
        cmocka_unit_test(code_lengths_must_be_exact),
        cmocka_unit_test(hostile_code_bytes_are_refused),
        cmocka_unit_test(random_codes_decode_or_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
