/* SPDX-License-Identifier: Apache-2.0
 *
 * EXL3 tiles: the golden vectors and hashes of the format, round trips, and a twin that works bit by bit.
 */
#include "packing/exl3.h"

#include "base/fp.h"
#include "base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static uint64_t fnv(uint64_t hash, uint16_t word) {
    hash = (hash ^ (word & 255)) * 1099511628211u;
    return (hash ^ (word >> 8)) * 1099511628211u;
}

static const uint64_t fnv_start = 1469598103934665603u;

static void codebook_values(void **state) {
    static const uint16_t golden[][4] = {
        {0x0000, 0x3a25, 0x3f60, 0xc2e8}, {0x0001, 0xbb5b, 0x304e, 0x3921}, {0x0002, 0x3b74, 0xba13, 0xb72d},
        {0x0003, 0x34b6, 0x3ab8, 0x3239}, {0x0007, 0xb906, 0xbc71, 0xb997}, {0x002a, 0xc030, 0x3918, 0xba06},
        {0x00ff, 0x3cd1, 0xbd26, 0x3ab3}, {0x0100, 0x3c3f, 0xbaf0, 0xb3db}, {0x03e8, 0x3bd8, 0xbf90, 0xba83},
        {0x1234, 0xc066, 0x3e0f, 0xb89e}, {0x4242, 0x2860, 0x3af9, 0x3e54}, {0x7fff, 0xba96, 0x4172, 0x3fca},
        {0x8000, 0xb7f8, 0xb915, 0xbaf2}, {0xabcd, 0xb98e, 0x35e7, 0xbd42}, {0xbeef, 0x424b, 0xc293, 0x3124},
        {0xfffe, 0x410a, 0xbca2, 0x3702}, {0xffff, 0xb110, 0x3acd, 0xb936}};
    (void)state;
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++)
        for (int cb = 0; cb < ML_EXL3_CODEBOOKS; cb++)
            assert_int_equal(ml_exl3_value((enum ml_exl3_codebook)cb, golden[i][0]), golden[i][1 + cb]);
}

static void codebook_hashes(void **state) {
    static const uint64_t golden[] = {0x7c0301ed35a60a96, 0xdc7b073df3c0900d, 0xd2f0598df9b1f4f1};
    static float table[65536];
    (void)state;
    for (int cb = 0; cb < ML_EXL3_CODEBOOKS; cb++) {
        uint64_t hash = fnv_start;
        ml_exl3_table((enum ml_exl3_codebook)cb, table);
        for (uint32_t s = 0; s < 65536; s++) {
            const uint16_t bits = ml_exl3_value((enum ml_exl3_codebook)cb, (uint16_t)s);
            hash = fnv(hash, bits);
            assert_true(table[s] == ml_f16_to_f32(bits));
        }
        assert_true(hash == golden[cb]);
    }
}

/* Moments, range and size of the alphabet over all states, to the digits that the
 * format's description has. */
static void codebook_statistics(void **state) {
    static const struct {
        double mean, mean_digit, deviation, kurtosis, least, most, range_digit;
        unsigned distinct;
    } golden[] = {{2.1e-4, 5e-6, 1.2437109, 2.880, -3.957, 3.973, 5e-4, 10598},
                  {-3.7e-5, 5e-7, 1.2441119, 2.880, -3.949, 3.949, 5e-4, 10746},
                  {-1.9e-3, 5e-5, 1.0003102, 2.703, -3.453, 3.348, 5e-4, 913}};
    static float table[65536];
    (void)state;
    for (int cb = 0; cb < ML_EXL3_CODEBOOKS; cb++) {
        static bool seen[65536];
        double sum = 0, square = 0, fourth = 0, least = INFINITY, most = -INFINITY;
        unsigned distinct = 0;
        memset(seen, 0, sizeof seen);
        ml_exl3_table((enum ml_exl3_codebook)cb, table);
        for (uint32_t s = 0; s < 65536; s++) {
            const uint16_t bits = ml_exl3_value((enum ml_exl3_codebook)cb, (uint16_t)s);
            distinct += !seen[bits];
            seen[bits] = true;
            sum += table[s];
            least = fmin(least, table[s]);
            most = fmax(most, table[s]);
        }
        const double mean = sum / 65536;
        for (uint32_t s = 0; s < 65536; s++) {
            const double d = table[s] - mean;
            square += d * d;
            fourth += d * d * d * d;
        }
        const double variance = square / 65536;
        assert_true(fabs(mean - golden[cb].mean) < golden[cb].mean_digit);
        assert_true(fabs(sqrt(variance) - golden[cb].deviation) < 5.1e-8);
        assert_true(fabs(fourth / 65536 / variance / variance - golden[cb].kurtosis) < 5e-4);
        assert_true(fabs(least - golden[cb].least) < golden[cb].range_digit);
        assert_true(fabs(most - golden[cb].most) < golden[cb].range_digit);
        assert_int_equal(distinct, golden[cb].distinct);
    }
}

/* Elements 0x1357 i + 0x2468, little-endian: the example of the format's description. */
static void example_tile(unsigned bits, uint8_t *tile) {
    for (unsigned i = 0; i < 16 * bits; i++) {
        const unsigned e = 0x1357 * i + 0x2468;
        tile[2 * i] = (uint8_t)e;
        tile[2 * i + 1] = (uint8_t)(e >> 8);
    }
}

/* What the tile above holds at 1 to 8 bits. */
static const struct {
    uint16_t first, second, last;
    uint64_t states, tile[ML_EXL3_CODEBOOKS];
} golden_tile[] = {
    {0x6654,
     0xcca8,
     0x332a,
     0xfa6ec4a1c229226b,
     {0xcd7c777986b47540, 0x97c9628bcb517fc6, 0x36fa1d3a8f6fa624}},
    {0xa268,
     0x89a3,
     0x689a,
     0xb84baaff6babc151,
     {0xee60ce27f2debccb, 0x954125e7ad4ffcba, 0x2cc3c54e33ce5ca5}},
    {0xf051,
     0x828d,
     0x9e0a,
     0x3a398fe031238d8d,
     {0x13ab048cdfbacd2f, 0xa5bab7a2fd12a0c7, 0x84626bf70eee33aa}},
    {0x37a3,
     0x7a37,
     0xd37a,
     0x454ab2f42c80e28b,
     {0x2af6e225cf370b12, 0x9cfa3708f709f987, 0x91f3034e028be863}},
    {0x1d46,
     0xa8de,
     0x08ea,
     0x88c70eff9551e542,
     {0x4266ea0641cbe9fb, 0x9cc71c68cf573d03, 0x8002af4674afd51a}},
    {0x968d,
     0xa37b,
     0x3e5a,
     0x95314b4013f4ecec,
     {0x2b78d3e804d8ffb5, 0x308322ea60b066dd, 0xf4e51a57509a3ea2}},
    {0xe51b,
     0x8def,
     0x73ca,
     0xa0e621f13769ac31,
     {0xd554851b40ec096a, 0xe7ad651f592f3f97, 0x16ac6671aa345c24}},
    {0x3a37,
     0x37bf,
     0xa93a,
     0x57fac6faa63e8a4d,
     {0x690f074723a9372e, 0x3cbd048a22e831ab, 0x91d5dcc6c2548782}},
};

static void golden_tiles(void **unused) {
    (void)unused;
    for (unsigned bits = 1; bits <= 8; bits++) {
        uint8_t tile[256];
        uint16_t state[256], out[256];
        example_tile(bits, tile);
        assert_int_equal(ml_exl3_unpack(bits, tile, state, NULL), MARLIN_OK);
        assert_int_equal(state[0], golden_tile[bits - 1].first);
        assert_int_equal(state[1], golden_tile[bits - 1].second);
        assert_int_equal(state[255], golden_tile[bits - 1].last);
        uint64_t hash = fnv_start;
        for (int t = 0; t < 256; t++)
            hash = fnv(hash, state[t]);
        assert_true(hash == golden_tile[bits - 1].states);
        for (int cb = 0; cb < ML_EXL3_CODEBOOKS; cb++) {
            assert_int_equal(ml_exl3_decode(bits, (enum ml_exl3_codebook)cb, tile, out, NULL), MARLIN_OK);
            hash = fnv_start;
            for (int i = 0; i < 256; i++)
                hash = fnv(hash, out[i]);
            assert_true(hash == golden_tile[bits - 1].tile[cb]);
        }
    }
}

static void worked_example(void **unused) {
    static const struct {
        unsigned t, row, col;
        uint16_t state;
        float value[ML_EXL3_CODEBOOKS];
    } golden[] = {{0, 0, 0, 0xf051, {0.85546875f, -0.04431152f, 0.55322266f}},
                  {1, 1, 0, 0x828d, {0.50195312f, -1.6533203f, 0.78320312f}},
                  {2, 8, 0, 0x146f, {-0.04907227f, -0.51123047f, -1.3144531f}},
                  {3, 9, 0, 0xa37b, {1.7089844f, 2.2714844f, 0.02525330f}},
                  {4, 0, 8, 0x1bdf, {-0.73242188f, -0.96386719f, -0.47558594f}},
                  {8, 2, 0, 0xf923, {1.8417969f, -0.00878906f, -0.04241943f}},
                  {100, 0, 11, 0x49ee, {0.32128906f, 0.79199219f, 1.0947266f}},
                  {255, 15, 15, 0x9e0a, {-1.1445312f, -0.65185547f, 1.4941406f}}};
    uint8_t tile[96];
    uint16_t state[256];
    (void)unused;
    example_tile(3, tile);
    assert_int_equal(ml_exl3_unpack(3, tile, state, NULL), MARLIN_OK);
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        assert_int_equal(ml_exl3_order()[golden[i].t], 16 * golden[i].row + golden[i].col);
        assert_int_equal(state[golden[i].t], golden[i].state);
        for (int cb = 0; cb < ML_EXL3_CODEBOOKS; cb++) {
            const float v = ml_f16_to_f32(ml_exl3_value((enum ml_exl3_codebook)cb, golden[i].state));
            assert_float_equal(v, golden[i].value[cb], 1e-7f * 4);
        }
    }
}

static void order_follows_the_formula(void **unused) {
    (void)unused;
    for (unsigned r = 0; r < 16; r++)
        for (unsigned c = 0; c < 16; c++) {
            const unsigned t = 8 * (4 * (c & 7) + ((r & 7) >> 1)) + (r & 1) + 2 * (r >> 3) + 4 * (c >> 3);
            assert_int_equal(ml_exl3_order()[t], 16 * r + c);
        }
}

static void order_has_the_examples(void **unused) {
    static const uint8_t golden[][3] = {{0, 0, 0}, {1, 1, 0},    {2, 8, 0},     {3, 9, 0},
                                        {4, 0, 8}, {5, 1, 8},    {6, 8, 8},     {7, 9, 8},
                                        {8, 2, 0}, {100, 0, 11}, {255, 15, 15}, {99, 9, 3}};
    (void)unused;
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++)
        assert_int_equal(ml_exl3_order()[golden[i][0]], 16 * golden[i][1] + golden[i][2]);
}

/* Bit i of the stream, most significant bit of 16-bit units first, neighbours swapped. */
static unsigned stream_bit(const uint8_t *tile, unsigned i) {
    const unsigned e = (i / 16) ^ 1, unit = tile[2 * e] | (unsigned)tile[2 * e + 1] << 8;
    return unit >> (15 - i % 16) & 1;
}

static void random_tiles_round_trip(void **unused) {
    struct ml_rng rng;
    ml_rng_seed(&rng, 3);
    (void)unused;
    for (unsigned bits = 1; bits <= 8; bits++)
        for (int repeat = 0; repeat < 50; repeat++) {
            uint8_t tile[256], again[256];
            uint16_t state[256];
            const size_t n = ml_exl3_tile_bytes(bits);
            assert_int_equal(n, 32 * bits);
            for (size_t i = 0; i < n; i++)
                tile[i] = (uint8_t)ml_rng_u64(&rng);
            assert_int_equal(ml_exl3_unpack(bits, tile, state, NULL), MARLIN_OK);
            for (unsigned t = 0; t < 256; t++) {
                unsigned slow = 0;
                for (unsigned i = 0; i < 16; i++)
                    slow =
                        slow << 1 | stream_bit(tile, ((t + 1) * bits + 256 * bits - 16 + i) % (256 * bits));
                assert_int_equal(state[t], slow);
            }
            assert_true(ml_exl3_valid(bits, state));
            assert_int_equal(ml_exl3_pack(bits, state, again, NULL), MARLIN_OK);
            assert_memory_equal(tile, again, n);
        }
}

static void broken_rings_are_refused(void **unused) {
    struct marlin_error err;
    uint8_t tile[64], before[64];
    uint16_t state[256];
    (void)unused;
    example_tile(2, tile);
    assert_int_equal(ml_exl3_unpack(2, tile, state, NULL), MARLIN_OK);
    memcpy(before, tile, sizeof tile);
    state[77] ^= 0x8000;
    assert_false(ml_exl3_valid(2, state));
    assert_int_equal(ml_exl3_pack(2, state, tile, &err), MARLIN_ERR_FORMAT);
    assert_non_null(strstr(err.text, "weight 77"));
    assert_memory_equal(tile, before, sizeof tile);
}

static void bad_arguments_are_named(void **unused) {
    struct marlin_error err;
    uint8_t tile[256] = {0};
    uint16_t state[256] = {0};
    (void)unused;
    for (unsigned bits = 0; bits <= 9; bits += 9) {
        assert_int_equal(ml_exl3_tile_bytes(bits), 0);
        assert_false(ml_exl3_valid(bits, state));
        assert_int_equal(ml_exl3_unpack(bits, tile, state, &err), MARLIN_ERR_ARGUMENT);
        assert_int_equal(ml_exl3_pack(bits, state, tile, &err), MARLIN_ERR_ARGUMENT);
        assert_non_null(strstr(err.text, "1 to 8"));
    }
    assert_int_equal(ml_exl3_decode(2, (enum ml_exl3_codebook)3, tile, state, &err), MARLIN_ERR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codebook_values),          cmocka_unit_test(codebook_hashes),
        cmocka_unit_test(codebook_statistics),      cmocka_unit_test(golden_tiles),
        cmocka_unit_test(worked_example),           cmocka_unit_test(order_follows_the_formula),
        cmocka_unit_test(order_has_the_examples),   cmocka_unit_test(random_tiles_round_trip),
        cmocka_unit_test(broken_rings_are_refused), cmocka_unit_test(bad_arguments_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
