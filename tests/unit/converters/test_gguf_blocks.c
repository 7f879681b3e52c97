/* SPDX-License-Identifier: Apache-2.0
 *
 * Every block type against what the gguf package makes of the same bytes. A scale is a float16 times at most a byte
 * and a quant: one rounding each, so that two orders of the same products may differ in the last bit.
 */
#include "converters/gguf_int.h"
#include "unit/converters/support.h"

#include "unit/converters/gguf_vectors.h"

#include <math.h>

static const struct ml_gguf_type *find(const char *name) {
    for (uint32_t id = 0; id < 64; id++) {
        const struct ml_gguf_type *t = ml_gguf_type_find(id);
        if (t && strcmp(t->name, name) == 0) return t;
    }
    return NULL;
}

static void same_as_the_oracle(void **state) {
    float got[256];
    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        const struct vector *v = &vectors[i];
        const struct ml_gguf_type *t = find(v->type);
        float largest = 0;
        assert_non_null(t);
        assert_int_equal(t->bytes, v->bytes);
        assert_int_equal(t->block, v->count);
        t->widen(v->block, got);
        for (unsigned k = 0; k < v->count; k++)
            largest = fmaxf(largest, fabsf(v->want[k]));
        assert_true(largest > 0);
        for (unsigned k = 0; k < v->count; k++)
            if (fabsf(got[k] - v->want[k]) > 2.4e-7f * largest)
                fail_msg("%s: element %u is %.9g, not %.9g", v->type, k, (double)got[k], (double)v->want[k]);
    }
    assert_int_equal(sizeof vectors / sizeof *vectors, 13);
}

static void plain_types(void **state) {
    (void)state;
    assert_int_equal(find("F32")->plain, ML_F32);
    assert_int_equal(find("F16")->plain, ML_F16);
    assert_int_equal(find("BF16")->plain, ML_BF16);
    assert_null(find("BF16")->widen);
}

static void others_have_names(void **state) {
    (void)state;
    assert_null(ml_gguf_type_find(16));
    assert_string_equal(ml_gguf_type_name(16), "IQ2_XXS");
    assert_string_equal(ml_gguf_type_name(35), "TQ2_0");
    assert_string_equal(ml_gguf_type_name(12), "Q4_K");
    assert_string_equal(ml_gguf_type_name(1000), "?");
    assert_string_equal(ml_gguf_type_name(UINT32_MAX), "?");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_as_the_oracle),
        cmocka_unit_test(plain_types),
        cmocka_unit_test(others_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
