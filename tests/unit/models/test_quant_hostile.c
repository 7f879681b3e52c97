/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized files that are wrong: each ends in an error that names the tensor, or the key of config.json.
 */
#include "base/log.h"
#include "make_quant.h"

#include "guard.h"

static struct mq s;

static const struct mq_format tap3 = {ML_QUANT_TAP, 3, ML_EXL3_3INST, false};
static const struct mq_format int8 = {ML_QUANT_INT8, 8, ML_EXL3_3INST, false};
static const struct mq_format mul1 = {ML_QUANT_EXL3, 3, ML_EXL3_MUL1, false};
static const struct mq_format signs = {ML_QUANT_EXL3, 3, ML_EXL3_MUL1, true};

#define LAYER        "model.layers.1.mlp.up_proj"
#define TENSOR(part) LAYER "." part

static int quiet(void **state) {
    (void)state;
    ml_log_set(NULL, NULL, ML_LOG_WARN);
    return 0;
}

static void begin(struct mq_format f) {
    mq_begin(&s, "qwen3");
    mq_replace(&s, LAYER, f);
}

static struct ml_tensor_decl *decl(const char *tensor) {
    return &s.quant.decls[make_find(&s.quant, tensor)];
}

/* Sets one size of a shape; data of the right length is found. */
static void set_size(const char *tensor, int axis, uint64_t size) {
    const size_t i = make_find(&s.quant, tensor);
    struct ml_tensor_decl *d = &s.quant.decls[i];
    d->shape[axis] = size;
    s.quant.bytes[i] = ml_dtype_size(d->dtype);
    for (int a = 0; a < d->rank; a++)
        s.quant.bytes[i] *= d->shape[a];
    s.quant.data[i] = mq_noise(&s, s.quant.bytes[i]);
}

static void set_type(const char *tensor, enum ml_dtype dtype) {
    const size_t i = make_find(&s.quant, tensor);
    struct ml_tensor_decl *d = &s.quant.decls[i];
    d->dtype = dtype;
    s.quant.bytes[i] = ml_dtype_size(dtype);
    for (int a = 0; a < d->rank; a++)
        s.quant.bytes[i] *= d->shape[a];
    s.quant.data[i] = mq_noise(&s, s.quant.bytes[i]);
}

static void expect(marlin_status status, const char *first, const char *second) {
    struct marlin_error err = {0};
    struct ml_model *m = NULL;
    make_write(&s.quant);
    make_write(&s.plain);
    const marlin_status st = ml_model_load(s.quant.dir, NULL, &m, &err);
    if (st != status)
        fail_msg("%s: %s instead of %s", marlin_status_name(st), err.text, marlin_status_name(status));
    if (!strstr(err.text, first)) fail_msg("'%s' is not in: %s", first, err.text);
    if (!strstr(err.text, second)) fail_msg("'%s' is not in: %s", second, err.text);
    mq_end(&s);
}

static void missing_parts_are_named(void **state) {
    static const char *const of_tap[] = {TENSOR("tap_code"), TENSOR("in_scales"), TENSOR("out_scales")};
    static const char *const of_exl3[] = {TENSOR("suh"), TENSOR("svh")};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        begin(tap3);
        make_drop(&s.quant, of_tap[i]);
        expect(MARLIN_ERR_NOT_FOUND, of_tap[i], "missing");
    }
    for (size_t i = 0; i < 2; i++) {
        begin(mul1);
        make_drop(&s.quant, of_exl3[i]);
        expect(MARLIN_ERR_NOT_FOUND, of_exl3[i], "missing");
    }
    begin(int8);
    make_drop(&s.quant, TENSOR("row_scales"));
    expect(MARLIN_ERR_NOT_FOUND, TENSOR("row_scales"), "missing");
    begin(tap3); /* tiles gone: the layer is looked for in its plain form */
    make_drop(&s.quant, TENSOR("tap"));
    expect(MARLIN_ERR_NOT_FOUND, TENSOR("weight"), "missing");
}

static void bits_outside_the_format(void **state) {
    static const uint64_t exl3[] = {0, 8, 9 * 16, 255 * 16, 47}, tap[] = {0, 32, 16 * 3, 7 * 32, 255 * 32};
    (void)state;
    for (size_t i = 0; i < 5; i++) {
        begin(mul1);
        set_size(TENSOR("trellis"), 2, exl3[i]);
        expect(MARLIN_ERR_FORMAT, TENSOR("trellis"), "K from 1 to 8");
        begin(tap3);
        set_size(TENSOR("tap"), 2, tap[i]);
        expect(MARLIN_ERR_FORMAT, TENSOR("tap"), "2 to 6 bits");
    }
    begin(tap3); /* tiles of 4 bits with a code for 3 */
    set_size(TENSOR("tap"), 2, 4 * 32);
    expect(MARLIN_ERR_FORMAT, TENSOR("tap"), "tap_code");
}

static void sizes_that_are_not_the_layers(void **state) {
    (void)state;
    for (int axis = 0; axis < 2; axis++) {
        begin(mul1);
        set_size(TENSOR("trellis"), axis, 24);
        expect(MARLIN_ERR_FORMAT, TENSOR("trellis"), "24");
        begin(tap3);
        set_size(TENSOR("tap"), axis, 24);
        expect(MARLIN_ERR_FORMAT, TENSOR("tap"), "24");
        begin(int8);
        set_size(TENSOR("int8"), axis, 24);
        expect(MARLIN_ERR_FORMAT, TENSOR("int8"), "24");
    }
    static const char *const vectors[] = {TENSOR("in_scales"), TENSOR("out_scales")};
    for (size_t i = 0; i < 2; i++) {
        begin(tap3);
        set_size(vectors[i], 0, 120);
        expect(MARLIN_ERR_FORMAT, vectors[i], "[120]");
    }
    begin(mul1);
    set_size(TENSOR("svh"), 0, 128);
    expect(MARLIN_ERR_FORMAT, TENSOR("svh"), "[256]");
    begin(signs);
    set_size(TENSOR("su"), 0, 128);
    expect(MARLIN_ERR_FORMAT, TENSOR("su"), "[8]");
    begin(mul1); /* sizes that pass every memory; no data at all */
    set_size(TENSOR("trellis"), 2, 0);
    set_size(TENSOR("trellis"), 1, UINT64_C(1) << 58);
    expect(MARLIN_ERR_FORMAT, TENSOR("trellis"), "K from 1 to 8");
    begin(mul1);
    decl(TENSOR("trellis"))->rank = 2;
    set_size(TENSOR("trellis"), 1, 16 * 48);
    expect(MARLIN_ERR_FORMAT, TENSOR("trellis"), "[8, 768]");
}

static void types_that_are_not_the_formats(void **state) {
    static const struct {
        struct mq_format format;
        const char *tensor;
        enum ml_dtype dtype;
    } cases[] = {
        {{ML_QUANT_EXL3, 3, ML_EXL3_MUL1, false}, TENSOR("trellis"), ML_U8},
        {{ML_QUANT_EXL3, 3, ML_EXL3_MUL1, false}, TENSOR("suh"), ML_I16},
        {{ML_QUANT_EXL3, 3, ML_EXL3_MUL1, false}, TENSOR("mul1"), ML_F32},
        {{ML_QUANT_EXL3, 3, ML_EXL3_MUL1, true}, TENSOR("sv"), ML_F16},
        {{ML_QUANT_TAP, 3, ML_EXL3_3INST, false}, TENSOR("tap"), ML_I8},
        {{ML_QUANT_TAP, 3, ML_EXL3_3INST, false}, TENSOR("tap_code"), ML_I8},
        {{ML_QUANT_TAP, 3, ML_EXL3_3INST, false}, TENSOR("in_scales"), ML_F32},
        {{ML_QUANT_INT8, 8, ML_EXL3_3INST, false}, TENSOR("int8"), ML_U8},
        {{ML_QUANT_INT8, 8, ML_EXL3_3INST, false}, TENSOR("row_scales"), ML_F16},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        begin(cases[i].format);
        set_type(cases[i].tensor, cases[i].dtype);
        expect(MARLIN_ERR_UNSUPPORTED, cases[i].tensor, ml_dtype_name(cases[i].dtype));
    }
}

static uint8_t *code_bytes(void) {
    const size_t i = make_find(&s.quant, TENSOR("tap_code"));
    uint8_t *copy = mq_alloc(&s, s.quant.bytes[i]);
    memcpy(copy, s.quant.data[i], s.quant.bytes[i]);
    s.quant.data[i] = copy;
    return copy;
}

static void codes_that_are_wrong(void **state) {
    (void)state;
    begin(tap3);
    code_bytes()[0] = 2;
    expect(MARLIN_ERR_UNSUPPORTED, TENSOR("tap_code"), "version 2");
    begin(tap3);
    code_bytes()[1] = 9;
    expect(MARLIN_ERR_FORMAT, TENSOR("tap_code"), "9");
    begin(tap3);
    code_bytes()[3] = 255;
    expect(MARLIN_ERR_FORMAT, TENSOR("tap_code"), "255");
    begin(tap3);
    code_bytes()[16] = 0x80; /* -128 */
    expect(MARLIN_ERR_FORMAT, TENSOR("tap_code"), "-128");
    begin(tap3);
    set_size(TENSOR("tap_code"), 0, 7);
    expect(MARLIN_ERR_FORMAT, TENSOR("tap_code"), "7 bytes");
    begin(tap3);
    set_size(TENSOR("tap_code"), 0, 0);
    expect(MARLIN_ERR_FORMAT, TENSOR("tap_code"), "0 bytes");
}

static void scales_that_are_not_numbers(void **state) {
    static const uint16_t bad[] = {0x7e00, 0x7c00, 0xfc00};
    static const char *const tap[] = {TENSOR("in_scales"), TENSOR("out_scales")}, *const exl3[] = {
                                                                                      TENSOR("suh"),
                                                                                      TENSOR("svh")};
    (void)state;
    for (size_t i = 0; i < 6; i++) {
        const char *tensor = i % 2 ? tap[i / 2 % 2] : exl3[i / 2 % 2];
        begin(i % 2 ? tap3 : mul1);
        const size_t at = make_find(&s.quant, tensor);
        uint16_t *copy = mq_alloc(&s, s.quant.bytes[at]);
        memcpy(copy, s.quant.data[at], s.quant.bytes[at]);
        copy[5] = bad[i / 2];
        s.quant.data[at] = copy;
        expect(MARLIN_ERR_NUMERIC, tensor, "element 5");
    }
    begin(int8);
    const size_t at = make_find(&s.quant, TENSOR("row_scales"));
    float *copy = mq_alloc(&s, s.quant.bytes[at]);
    memcpy(copy, s.quant.data[at], s.quant.bytes[at]);
    copy[5] = NAN;
    s.quant.data[at] = copy;
    expect(MARLIN_ERR_NUMERIC, TENSOR("row_scales"), "element 5");
}

/* Zero scales, the smallest denormals and the largest numbers are numbers: the model runs. */
static void extreme_scales_are_survived(void **state) {
    static const uint16_t extreme[] = {0x0000, 0x0001, 0x7bff};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        begin(tap3);
        const size_t at = make_find(&s.quant, TENSOR("in_scales"));
        uint16_t *copy = mq_alloc(&s, s.quant.bytes[at]);
        for (size_t j = 0; j < s.quant.bytes[at] / 2; j++)
            copy[j] = extreme[i];
        s.quant.data[at] = copy;
        make_write(&s.quant);
        make_write(&s.plain);
        for (int exact = 0; exact < 2; exact++) {
            struct ml_model *m = mq_load(s.quant.dir, exact);
            float *logits = make_logits(m);
            for (size_t j = 0; j < MAKE_PROMPT * 256; j++)
                assert_true(isfinite(logits[j]));
            ml_free(logits);
            ml_model_free(m);
        }
        mq_end(&s);
    }
}

static void two_of_a_kind(void **state) {
    static const int32_t mcg = (int32_t)0xcbac1fedu, many[2] = {0, 0};
    const uint64_t two = 2;
    (void)state;
    begin(mul1);
    make_add(&s.quant, TENSOR("mcg"), ML_I32, 0, NULL, &mcg);
    expect(MARLIN_ERR_FORMAT, LAYER, "two codebooks");
    begin(mul1);
    mq_store(&s, LAYER, tap3, 256, 128);
    expect(MARLIN_ERR_FORMAT, LAYER, "stored twice: as .tap .trellis");
    begin(mul1);
    make_drop(&s.quant, TENSOR("mul1"));
    make_add(&s.quant, TENSOR("mul1"), ML_I32, 1, &two, many);
    expect(MARLIN_ERR_FORMAT, TENSOR("mul1"), "single number");
}

static void slices_that_do_not_add_up(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        mq_begin(&s, "qwen3");
        mq_drop(&s, TENSOR("weight"));
        mq_store(&s, LAYER ".slice.0", mul1, 128, 128);
        if (i == 1) mq_store(&s, LAYER ".slice.1", mul1, 256, 128);
        if (i == 2) { /* the second is not reached */
            mq_store(&s, LAYER ".slice.1", mul1, 128, 128);
            mq_store(&s, LAYER ".slice.2", mul1, 128, 128);
        }
        expect(MARLIN_ERR_FORMAT, LAYER, i == 2 ? "do not add up" : "slice");
    }
}

static void missing_biases_are_named(void **state) {
    (void)state;
    mq_begin(&s, "qwen2");
    mq_replace(&s, "model.layers.0.self_attn.q_proj", mul1);
    make_drop(&s.quant, "model.layers.0.self_attn.q_proj.bias");
    expect(MARLIN_ERR_NOT_FOUND, "model.layers.0.self_attn.q_proj.bias", "missing");
    mq_begin(&s, "qwen2"); /* true size instead of the padded one */
    mq_replace(&s, "model.layers.0.self_attn.k_proj", mul1);
    expect(MARLIN_ERR_FORMAT, "model.layers.0.self_attn.k_proj.bias", "[128]");
}

/* ---- config.json ---- */

static void expect_config(const char *quantization, marlin_status status, const char *text) {
    char path[MAKE_PATH + 64], *config = NULL, *edited;
    struct marlin_error err = {0};
    struct ml_model *m = NULL;
    size_t len = 0;
    begin(tap3);
    make_write(&s.quant);
    make_write(&s.plain);
    (void)snprintf(path, sizeof(path), "%s/config.json", s.quant.dir);
    assert_int_equal(ml_file_slurp(path, 1 << 20, &config, &len, NULL), MARLIN_OK);
    edited = mq_alloc(&s, len + strlen(quantization) + 64);
    const int n = snprintf(edited, len + strlen(quantization) + 64, "{\"quantization_config\":%s,%s",
                           quantization, strchr(config, '{') + 1);
    assert_int_equal(ml_file_write_atomic(path, edited, (size_t)n, NULL), MARLIN_OK);
    const marlin_status st = ml_model_load(s.quant.dir, NULL, &m, &err);
    if (st != status) fail_msg("%s: %s: %s", quantization, marlin_status_name(st), err.text);
    if (text && !strstr(err.text, text)) fail_msg("'%s' is not in: %s", text, err.text);
    ml_model_free(m);
    ml_free(config);
    mq_end(&s);
}

static void methods_and_versions(void **state) {
    (void)state;
    expect_config("{\"quant_method\":\"marlin\",\"version\":1,\"bits\":3.0}", MARLIN_OK, NULL);
    expect_config("{\"quant_method\":\"exl3\",\"version\":\"1.4.1\",\"codebook\":\"mul1\"}", MARLIN_OK, NULL);
    expect_config("{\"quant_method\":\"marlin\",\"version\":2}", MARLIN_ERR_UNSUPPORTED, "version 2");
    expect_config("{\"quant_method\":\"marlin\",\"version\":0}", MARLIN_ERR_FORMAT, "version");
    expect_config("{\"quant_method\":\"marlin\",\"version\":\"1\"}", MARLIN_ERR_FORMAT, "version");
    expect_config("{\"quant_method\":\"marlin\"}", MARLIN_ERR_FORMAT, "version");
    expect_config("{\"quant_method\":\"exl3\",\"codebook\":\"4inst\"}", MARLIN_ERR_UNSUPPORTED, "4inst");
    expect_config("{\"quant_method\":\"gptq\"}", MARLIN_ERR_UNSUPPORTED, "gptq");
    expect_config("{}", MARLIN_ERR_FORMAT, "quant_method");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(missing_parts_are_named, quiet),
        cmocka_unit_test_setup(bits_outside_the_format, quiet),
        cmocka_unit_test_setup(sizes_that_are_not_the_layers, quiet),
        cmocka_unit_test_setup(types_that_are_not_the_formats, quiet),
        cmocka_unit_test_setup(codes_that_are_wrong, quiet),
        cmocka_unit_test_setup(scales_that_are_not_numbers, quiet),
        cmocka_unit_test_setup(extreme_scales_are_survived, quiet),
        cmocka_unit_test_setup(two_of_a_kind, quiet),
        cmocka_unit_test_setup(slices_that_do_not_add_up, quiet),
        cmocka_unit_test_setup(missing_biases_are_named, quiet),
        cmocka_unit_test_setup(methods_and_versions, quiet),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
