/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of forms: suffixes, shapes and bits against what the formats say, and the way back to numbers
 * against tiles that are found by hand.
 */
#include "packing/forms.h"

#include "base/fp.h"
#include "base/rng.h"
#include "packing/codes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void names_and_suffixes(void **state) {
    static const struct {
        const char *tensor;
        int form; /* -1: plain; -2: none */
    } cases[] = {
        {"model.layers.0.mlp.up_proj.int8", ML_QUANT_INT8},
        {"model.layers.0.mlp.up_proj.tap", ML_QUANT_TAP},
        {"lm_head.trellis", ML_QUANT_EXL3},
        {"a.slice.3.trellis", ML_QUANT_EXL3},
        {"model.norm.weight", -1},
        {"a.tap_code", -2},
        {"a.int8x", -2},
        {"tap", -2},
        {"", -2},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct ml_form *f = cases[i].form >= 0    ? ml_form_of((enum ml_quant_format)cases[i].form)
                                  : cases[i].form == -1 ? ml_form_plain()
                                                        : NULL;
        assert_ptr_equal(ml_form_of_tensor(cases[i].tensor), f);
    }
    for (int i = 0; i < ML_QUANT_FORMATS; i++) {
        const struct ml_form *f = ml_form_of((enum ml_quant_format)i);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(f->name, ml_form_of((enum ml_quant_format)j)->name);
        assert_true(f->min_bits >= 1 && f->min_bits <= f->max_bits && f->books >= 1);
        assert_int_equal(f->tile != NULL, f->tiled);
    }
}

/* Written out from docs/format.md and from the EXL3 format. */
static void shapes_on_disk(void **state) {
    static const struct {
        enum ml_quant_format format;
        size_t rows, cols, n, k;
        int bits, rank;
        uint64_t shape[3];
        enum ml_dtype dtype;
    } cases[] = {
        {ML_QUANT_INT8, 100, 70, 100, 70, 8, 2, {100, 70, 0}, ML_I8},
        {ML_QUANT_TAP, 100, 300, 128, 384, 3, 3, {8, 24, 96}, ML_U8},
        {ML_QUANT_TAP, 256, 128, 256, 128, 6, 3, {16, 8, 192}, ML_U8},
        {ML_QUANT_EXL3, 100, 300, 128, 384, 3, 3, {24, 8, 48}, ML_I16},
        {ML_QUANT_EXL3, 1, 1, 128, 128, 8, 3, {8, 8, 128}, ML_I16},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct ml_form *f = ml_form_of(cases[i].format);
        uint64_t shape[3];
        size_t bytes = 0;
        assert_int_equal(ml_form_padded(f, cases[i].rows), cases[i].n);
        assert_int_equal(ml_form_padded(f, cases[i].cols), cases[i].k);
        assert_int_equal(ml_form_shape(f, cases[i].n, cases[i].k, cases[i].bits, shape), cases[i].rank);
        assert_memory_equal(shape, cases[i].shape, sizeof shape);
        assert_int_equal(f->weights.dtype, cases[i].dtype);
        assert_int_equal(ml_form_bits(f, f->weights.dtype, cases[i].rank, shape), cases[i].bits);
        uint64_t product = ml_dtype_size(f->weights.dtype);
        for (int d = 0; d < cases[i].rank; d++)
            product *= shape[d];
        assert_true(ml_form_bytes(cases[i].n, cases[i].k, cases[i].bits, &bytes));
        assert_int_equal(bytes, product);
    }
    size_t bytes;
    assert_false(ml_form_bytes(SIZE_MAX / 2, 16, 4, &bytes));
}

static void shapes_of_no_width(void **state) {
    const struct ml_form *tap = ml_form_of(ML_QUANT_TAP), *exl3 = ml_form_of(ML_QUANT_EXL3);
    const uint64_t tap_last[] = {0, 32, 33, 224, UINT64_C(1) << 40}, exl3_last[] = {0, 8, 17, 144};
    (void)state;
    for (size_t i = 0; i < sizeof tap_last / sizeof *tap_last; i++) {
        const uint64_t shape[3] = {8, 8, tap_last[i]};
        assert_int_equal(ml_form_bits(tap, ML_U8, 3, shape), 0);
    }
    for (size_t i = 0; i < sizeof exl3_last / sizeof *exl3_last; i++) {
        const uint64_t shape[3] = {8, 8, exl3_last[i]};
        assert_int_equal(ml_form_bits(exl3, ML_I16, 3, shape), 0);
    }
    const uint64_t shape[3] = {8, 8, 64};
    assert_int_equal(ml_form_bits(tap, ML_U8, 2, shape), 0);
}

/* ---- decoding ---- */

enum { N = 128, K = 256 };

static uint8_t *noise(size_t n) {
    struct ml_rng rng;
    uint8_t *p = malloc(n);
    assert_non_null(p);
    ml_rng_seed(&rng, n);
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(ml_rng_u64(&rng) >> 56);
    return p;
}

/* Weight (r, c) of Q, from its tile alone. */
static float weight(const struct ml_quant_matrix *m, size_t r, size_t c) {
    const size_t s = r / 16, t = c / 16, bytes = 32 * (size_t)m->bits;
    if (m->format == ML_QUANT_INT8) return (float)(int8_t)m->data[r * m->k + c];
    if (m->format == ML_QUANT_TAP) {
        int8_t out[ML_TAP_TILE];
        ml_tap_decode(m->code, m->data + (s * (K / 16) + t) * bytes, out);
        return (float)out[r % 16 * 16 + c % 16] * m->code->unit;
    }
    uint16_t out[ML_EXL3_TILE]; /* rows are inputs */
    const uint8_t *tile = m->data + (t * (N / 16) + s) * bytes;
    assert_int_equal(ml_exl3_decode((unsigned)m->bits, m->codebook, tile, out, NULL), MARLIN_OK);
    return ml_f16_to_f32(out[c % 16 * 16 + r % 16]);
}

static void decoding_finds_the_tiles(void **state) {
    (void)state;
    for (int f = 0; f < ML_QUANT_FORMATS; f++) {
        const struct ml_form *form = ml_form_of((enum ml_quant_format)f);
        for (int bits = form->min_bits; bits <= form->max_bits; bits++) {
            size_t bytes = 0;
            assert_true(ml_form_bytes(N, K, bits, &bytes));
            uint8_t *data = noise(bytes);
            float *q = malloc(16 * K * sizeof *q);
            struct ml_quant_matrix m = {.format = (enum ml_quant_format)f,
                                        .bits = bits,
                                        .rows = N,
                                        .cols = K,
                                        .n = N,
                                        .k = K,
                                        .data = data,
                                        .codebook = ML_EXL3_MCG};
            assert_non_null(q);
            if (form->code.suffix)
                ml_quant_set_code(&m, ml_tap_code_find((unsigned)bits, ML_TAP_WINDOW_NORMAL));
            for (size_t s = 0; s < N / 16; s += 3) {
                ml_form_decode(&m, s, q);
                for (size_t i = 0; i < (size_t)16 * K; i += 7)
                    assert_true(q[i] == weight(&m, 16 * s + i / K, i % K));
            }
            free(q);
            free(data);
        }
    }
}

/* The last strip of rows may have fewer than 16; what lies behind is left alone. */
static void rows_end_where_they_end(void **state) {
    const int8_t data[19 * 3] = {[16 * 3] = 5, [19 * 3 - 1] = -7};
    float q[16 * 3];
    const struct ml_quant_matrix m = {.format = ML_QUANT_INT8,
                                      .bits = 8,
                                      .rows = 19,
                                      .cols = 3,
                                      .n = 19,
                                      .k = 3,
                                      .data = (const uint8_t *)data};
    (void)state;
    for (size_t i = 0; i < sizeof q / sizeof *q; i++)
        q[i] = 99;
    ml_form_decode(&m, 1, q);
    assert_true(q[0] == 5 && q[8] == -7 && q[9] == 99);
}

/* ---- codebooks of EXL3 ---- */

static void codebooks_by_name(void **state) {
    enum ml_exl3_codebook cb = ML_EXL3_3INST;
    (void)state;
    assert_string_equal(ml_exl3_codebook_name(ML_EXL3_3INST), "3inst");
    assert_string_equal(ml_exl3_codebook_name(ML_EXL3_MCG), "mcg");
    assert_string_equal(ml_exl3_codebook_name(ML_EXL3_MUL1), "mul1");
    for (int i = 0; i < ML_EXL3_CODEBOOKS; i++) {
        assert_true(ml_exl3_codebook_find(ml_exl3_codebook_name((enum ml_exl3_codebook)i), &cb));
        assert_int_equal(cb, i);
    }
    assert_false(ml_exl3_codebook_find("", &cb));
    assert_false(ml_exl3_codebook_find("mul", &cb));
    assert_int_equal(ml_exl3_stored_multiplier(ML_EXL3_3INST), 0);
    assert_int_equal(ml_exl3_stored_multiplier(ML_EXL3_MCG), 3417055213u);
    assert_int_equal(ml_exl3_stored_multiplier(ML_EXL3_MUL1), 2212286765u);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_suffixes),      cmocka_unit_test(shapes_on_disk),
        cmocka_unit_test(shapes_of_no_width),      cmocka_unit_test(decoding_finds_the_tiles),
        cmocka_unit_test(rows_end_where_they_end), cmocka_unit_test(codebooks_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
