/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized layers in every form that files have them agree with the plain model of the weights that they
 * stand for.
 */
#include "base/buf.h"
#include "base/file.h"
#include "base/fp.h"
#include "base/log.h"
#include "make_quant.h"

#include "guard.h"

static struct mq s;
static char warnings[4096];

enum { VOCAB = 256, HIDDEN = 128, FF = 256 };

static const struct mq_format tap3 = {ML_QUANT_TAP, 3, ML_EXL3_3INST, false};
static const struct mq_format tap6 = {ML_QUANT_TAP, 6, ML_EXL3_3INST, false};
static const struct mq_format int8 = {ML_QUANT_INT8, 8, ML_EXL3_3INST, false};
static const struct mq_format mul1 = {ML_QUANT_EXL3, 3, ML_EXL3_MUL1, false};
static const struct mq_format signs = {ML_QUANT_EXL3, 4, ML_EXL3_3INST, true};

static const struct mq_format ours[] = {
    {ML_QUANT_TAP, 2, ML_EXL3_3INST, false}, {ML_QUANT_TAP, 3, ML_EXL3_3INST, false},
    {ML_QUANT_TAP, 4, ML_EXL3_3INST, false}, {ML_QUANT_TAP, 5, ML_EXL3_3INST, false},
    {ML_QUANT_TAP, 6, ML_EXL3_3INST, false}, {ML_QUANT_INT8, 8, ML_EXL3_3INST, false}};
static const struct mq_format theirs[] = {
    {ML_QUANT_EXL3, 1, ML_EXL3_3INST, false}, {ML_QUANT_EXL3, 2, ML_EXL3_MCG, false},
    {ML_QUANT_EXL3, 3, ML_EXL3_MUL1, false},  {ML_QUANT_EXL3, 4, ML_EXL3_3INST, false},
    {ML_QUANT_EXL3, 5, ML_EXL3_MCG, false},   {ML_QUANT_EXL3, 7, ML_EXL3_MUL1, false},
    {ML_QUANT_EXL3, 8, ML_EXL3_3INST, false}};

static void collect(void *user, enum ml_log_level level, const char *text) {
    (void)user;
    (void)level;
    const size_t at = strlen(warnings);
    (void)snprintf(warnings + at, sizeof(warnings) - at, "%s\n", text);
}

static int listen(void **state) {
    (void)state;
    warnings[0] = '\0';
    ml_log_set(collect, NULL, ML_LOG_WARN);
    return 0;
}

static double worst_difference(const float *a, const float *b) {
    double worst = 0;
    for (size_t i = 0; i < MAKE_PROMPT * VOCAB; i++) {
        const double d = fabs((double)a[i] - b[i]);
        if (!(d <= worst)) worst = isnan(d) ? INFINITY : d;
    }
    return worst;
}

static double spread(const float *a) {
    double sum = 0;
    for (size_t i = 0; i < MAKE_PROMPT * VOCAB; i++)
        sum += (double)a[i] * a[i];
    return sqrt(sum / (MAKE_PROMPT * VOCAB));
}

/* Loads both directories; nothing may be left unused. */
static void expect_equal(const char *what) {
    warnings[0] = '\0';
    make_write(&s.quant);
    make_write(&s.plain);
    struct ml_model *exact = mq_load(s.quant.dir, true);
    assert_string_equal(warnings, "");
    struct ml_model *plain = mq_load(s.plain.dir, true);
    float *a = make_logits(plain), *b = make_logits(exact);
    const double worst = worst_difference(a, b) / spread(a);
    print_message("%s: exact %.2e of the logits' spread\n", what, worst);
    assert_true(worst <= 1e-4);
    assert_int_equal(ml_model_parameters(exact), ml_model_parameters(plain));
    assert_int_equal(ml_model_products_per_token(exact), ml_model_products_per_token(plain));
    ml_free(a);
    ml_free(b);
    ml_model_free(plain);
    ml_model_free(exact);
    mq_end(&s);
}

static void dense_models(void **state) {
    (void)state;
    mq_begin(&s, "qwen3");
    mq_replace_all(&s, ours, 6);
    expect_equal("qwen3, marlin");
    mq_begin(&s, "qwen3");
    mq_replace_all(&s, theirs, 7);
    expect_equal("qwen3, EXL3");
    mq_begin(&s, "gemma2");
    mq_replace_all(&s, ours, 6);
    expect_equal("gemma2, marlin");
}

static void fused_layers_come_apart(void **state) {
    char name[MAKE_NAME];
    const struct mq_format *const formats[] = {ours, theirs};
    (void)state;
    for (int f = 0; f < 2; f++) {
        mq_begin(&s, "phi3");
        for (int layer = 0; layer < 2; layer++) {
            const struct mq_format *x = formats[f];
            const struct {
                const char *part;
                size_t rows, cols;
            } parts[] = {{"self_attn.q_proj", 128, HIDDEN},
                         {"self_attn.k_proj", 64, HIDDEN},
                         {"self_attn.v_proj", 64, HIDDEN},
                         {"mlp.gate_proj", FF, HIDDEN},
                         {"mlp.up_proj", FF, HIDDEN}};
            (void)snprintf(name, sizeof(name), "model.layers.%d.self_attn.qkv_proj.weight", layer);
            mq_drop(&s, name);
            (void)snprintf(name, sizeof(name), "model.layers.%d.mlp.gate_up_proj.weight", layer);
            mq_drop(&s, name);
            for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
                (void)snprintf(name, sizeof(name), "model.layers.%d.%s", layer, parts[i].part);
                mq_new(&s, name, x[i], parts[i].rows, parts[i].cols);
            }
        }
        expect_equal(f ? "phi3, EXL3" : "phi3, marlin");
    }
}

static void mixtures_of_experts(void **state) {
    (void)state;
    mq_begin(&s, "qwen3_moe");
    mq_replace_all(&s, ours, 6);
    expect_equal("qwen3_moe, marlin");
    mq_begin(&s, "qwen3_moe");
    mq_replace_all(&s, theirs, 7);
    expect_equal("qwen3_moe, EXL3");
    mq_begin(&s, "mixtral");
    mq_replace_all(&s, theirs, 7);
    expect_equal("mixtral, EXL3");
    mq_begin(&s, "mixtral"); /* the block in its newer name, experts in their older ones */
    mq_replace_all(&s, ours, 6);
    make_rename_prefix(&s.quant, "model.layers.0.block_sparse_moe.", "model.layers.0.mlp.");
    expect_equal("mixtral, marlin");
}

/* One token at a time takes other ways through products and experts. */
static void tokens_one_by_one(void **state) {
    (void)state;
    mq_begin(&s, "qwen3_moe");
    mq_replace_all(&s, ours, 6);
    make_write(&s.quant);
    make_write(&s.plain);
    struct ml_model *m = mq_load(s.quant.dir, true);
    float *whole = make_logits(m), one[VOCAB];
    struct feed f;
    assert_int_equal(feed_open(&f, m, NULL, MAKE_PROMPT, 1, NULL), MARLIN_OK);
    double worst = 0;
    for (size_t t = 0; t < MAKE_PROMPT; t++) {
        assert_int_equal(ml_feed(f.work, f.sequence, &make_prompt[t], 1, ML_LOGITS_ALL, one, NULL),
                         MARLIN_OK);
        for (size_t i = 0; i < VOCAB; i++)
            worst = fmax(worst, fabs((double)one[i] - whole[t * VOCAB + i]));
    }
    assert_true(isfinite(spread(whole)) && worst <= 1e-4 * spread(whole));
    feed_close(&f);
    ml_free(whole);
    ml_model_free(m);
    mq_end(&s);
}

static void heads_and_embeddings(void **state) {
    (void)state;
    /* Tied: a quantized head wins, without a warning. */
    const struct mq_format *const heads[] = {&tap6, &int8, &mul1};
    for (int i = 0; i < 3; i++) {
        mq_begin(&s, "qwen2");
        mq_new(&s, "lm_head", *heads[i], VOCAB, HIDDEN);
        expect_equal("qwen2, a head beside the embedding");
    }
    mq_begin(&s, "llama3"); /* a head of its own */
    mq_replace(&s, "lm_head", tap6);
    mq_replace(&s, "model.embed_tokens", int8);
    expect_equal("llama3, head and embedding");
    mq_begin(&s, "qwen2"); /* int8 rows that are both */
    mq_replace(&s, "model.embed_tokens", int8);
    expect_equal("qwen2, tied rows");
    mq_begin(&s, "qwen3");
    mq_replace(&s, "model.embed_tokens", int8);
    make_rename_prefix(&s.quant, "model.", "model.language_model.");
    expect_equal("qwen3, rows behind a prefix");
}

static void set_dtype(const char *dir, const char *dtype) {
    char path[MAKE_PATH + 64], *text = NULL;
    struct ml_buf b;
    size_t len = 0;
    (void)snprintf(path, sizeof(path), "%s/config.json", dir);
    assert_int_equal(ml_file_slurp(path, 1 << 20, &text, &len, NULL), MARLIN_OK);
    char *at = strstr(text, "\"bfloat16\"");
    assert_non_null(at);
    ml_buf_init(&b, 1 << 20);
    assert_int_equal(
        ml_buf_addf(&b, "%.*s\"%s\"%s", (int)(at - text), text, dtype, at + strlen("\"bfloat16\"")),
        MARLIN_OK);
    assert_int_equal(ml_file_write_atomic(path, b.data, b.len, NULL), MARLIN_OK);
    ml_buf_free(&b);
    ml_free(text);
}

/* Rows have lost the type that the factor of embeddings is rounded to: the config still has it. */
static void scaled_embeddings(void **state) {
    static const char *const dtypes[] = {"bfloat16", "float16", "float32"};
    const float scale = sqrtf(HIDDEN);
    const float wanted[] = {ml_bf16_to_f32(ml_f32_to_bf16(scale)), ml_f16_to_f32(ml_f32_to_f16(scale)),
                            scale};
    (void)state;
    assert_true(wanted[0] != scale && wanted[1] != scale);
    for (int i = 0; i < 3; i++) {
        mq_begin(&s, "gemma2");
        mq_replace(&s, "model.embed_tokens", int8);
        make_write(&s.quant);
        make_write(&s.plain);
        set_dtype(s.quant.dir, dtypes[i]);
        struct ml_model *m = mq_load(s.quant.dir, true);
        assert_true(m->embedding_scale == wanted[i]);
        ml_model_free(m);
        mq_end(&s);
    }
}

/* Widths are padded: biases too. */
static void biases(void **state) {
    static const char *const parts[] = {"q_proj", "k_proj", "v_proj"};
    char name[MAKE_NAME], tensor[MAKE_NAME];
    (void)state;
    for (int exl3 = 0; exl3 < 2; exl3++) {
        mq_begin(&s, "qwen2");
        for (int i = 0; i < 3; i++) {
            (void)snprintf(name, sizeof(name), "model.layers.0.self_attn.%s", parts[i]);
            (void)snprintf(tensor, sizeof(tensor), "%s.bias", name);
            mq_replace(&s, name, exl3 ? mul1 : tap3);
            if (!exl3) continue;
            const size_t at = make_find(&s.quant, tensor), n = (size_t)s.quant.decls[at].shape[0];
            uint16_t *half = mq_alloc(&s, ml_form_padded(ml_form_of(ML_QUANT_EXL3), n) * sizeof(*half));
            float *same = mq_alloc(&s, n * sizeof(*same));
            const uint64_t shape = n, padded = ml_form_padded(ml_form_of(ML_QUANT_EXL3), n);
            for (size_t j = 0; j < n; j++) {
                half[j] = ml_f32_to_f16(0.01f * (float)j - 0.3f);
                same[j] = ml_f16_to_f32(half[j]);
            }
            mq_drop(&s, tensor);
            make_add(&s.quant, tensor, ML_F16, 1, &padded, half);
            make_add(&s.plain, tensor, ML_F32, 1, &shape, same);
        }
        expect_equal(exl3 ? "qwen2, EXL3 biases" : "qwen2, marlin biases");
    }
}

static void old_files_have_signs_alone(void **state) {
    (void)state;
    mq_begin(&s, "qwen3");
    mq_replace(&s, "model.layers.0.self_attn.k_proj", signs);
    mq_replace(&s, "model.layers.1.self_attn.q_proj", signs);
    expect_equal("packed signs");
}

/* Pieces of a wide feed-forward block, each quantized as a layer of its own: rows below one another for gate
 * and up, columns side by side for down. */
static void slice(const char *part, bool by_rows, size_t first) {
    char name[MAKE_NAME];
    (void)snprintf(name, sizeof(name), "model.layers.0.mlp.%s.weight", part);
    mq_drop(&s, name);
    float *w = mq_alloc(&s, (size_t)FF * HIDDEN * sizeof(*w));
    for (size_t i = 0; i < 2; i++) {
        const size_t width = i ? FF - first : first, at = i ? first : 0;
        (void)snprintf(name, sizeof(name), "model.layers.0.mlp.%s.slice.%d", part, (int)i);
        const float *p = mq_store(&s, name, mul1, by_rows ? width : HIDDEN, by_rows ? HIDDEN : width);
        for (size_t r = 0; r < (by_rows ? width : HIDDEN); r++) {
            if (by_rows)
                memcpy(w + (at + r) * HIDDEN, p + r * HIDDEN, HIDDEN * sizeof(*w));
            else
                memcpy(w + r * FF + at, p + r * width, width * sizeof(*w));
        }
    }
    (void)snprintf(name, sizeof(name), "model.layers.0.mlp.%s", part);
    mq_add_plain(&s, name, by_rows ? FF : HIDDEN, by_rows ? HIDDEN : FF, w);
}

static void slices_of_wide_layers(void **state) {
    (void)state;
    mq_begin(&s, "qwen3");
    slice("gate_proj", true, 128);
    slice("up_proj", true, 128);
    slice("down_proj", false, 128);
    expect_equal("slices");
}

static void another_multiplier_is_a_warning(void **state) {
    static const int32_t other = 12345;
    (void)state;
    mq_begin(&s, "qwen3");
    mq_replace(&s, "model.layers.0.self_attn.k_proj", mul1);
    s.quant.data[make_find(&s.quant, "model.layers.0.self_attn.k_proj.mul1")] = &other;
    make_write(&s.quant);
    make_write(&s.plain);
    ml_model_free(mq_load(s.quant.dir, false));
    assert_non_null(strstr(warnings, "model.layers.0.self_attn.k_proj.mul1"));
    assert_non_null(strstr(warnings, "0x00003039"));
    mq_end(&s);
}

/* int8 inputs are noise, not another model; pieces, and headers alone, tell the same. */
static void fast_is_near_exact(void **state) {
    (void)state;
    mq_begin(&s, "qwen3");
    mq_replace_all(&s, ours, 6);
    mq_new(&s, "lm_head", tap6, VOCAB, HIDDEN);
    make_write(&s.quant);
    make_write(&s.plain);
    const struct ml_model_options dry = {.headers_only = true};
    struct ml_model *exact = mq_load(s.quant.dir, true), *fast = mq_load(s.quant.dir, false), *headers = NULL;
    assert_int_equal(ml_model_load(s.quant.dir, &dry, &headers, NULL), MARLIN_OK);
    float *a = make_logits(exact), *b = make_logits(fast);
    double error = 0;
    for (size_t i = 0; i < MAKE_PROMPT * VOCAB; i++)
        error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    error = sqrt(error / (MAKE_PROMPT * VOCAB)) / spread(a);
    print_message("fast: %.2e\n", error);
    assert_true(error > 0 && error <= 0.05);
    assert_int_equal(ml_model_parameters(headers), ml_model_parameters(fast));
    assert_int_equal(ml_model_weight_bytes(headers), ml_model_weight_bytes(fast));
    assert_int_equal(ml_model_bytes_per_token(headers), ml_model_bytes_per_token(fast));
    struct feed none;
    assert_int_equal(feed_open(&none, headers, NULL, 8, 8, NULL), MARLIN_ERR_ARGUMENT);
    assert_int_equal(feed_open_work(&none, headers, NULL, 8, 8, NULL), MARLIN_ERR_ARGUMENT);
    ml_free(a);
    ml_free(b);
    ml_model_free(exact);
    ml_model_free(fast);
    ml_model_free(headers);
    mq_end(&s);
}

static void sizes_are_those_of_the_tiles(void **state) {
    struct ml_model_bits bits;
    (void)state;
    mq_begin(&s, "qwen3");
    mq_replace_all(&s, &tap3, 1);
    mq_new(&s, "lm_head", tap6, VOCAB, HIDDEN);
    make_write(&s.quant);
    make_write(&s.plain);
    struct ml_model *m = mq_load(s.quant.dir, true);
    struct ml_memory_estimate plain, all;
    assert_int_equal(ml_model_estimate(m->config, ml_model_weight_bytes(m), 64, 16, ML_F32, &plain, NULL),
                     MARLIN_OK);
    assert_int_equal(ml_model_estimate_of(m, 64, 16, &all, NULL), MARLIN_OK);
    const uint64_t products = all.scratch - plain.scratch;
    assert_true(products > 0 && all.total == plain.total + products);
    ml_model_bits(m, &bits);
    assert_true(bits.layers == 3 && bits.head == 6 && bits.embedding == 16);
    assert_int_equal(bits.quantized, 15);
    /* k and v have 64 rows, padded to 128. */
    const uint64_t layer = (4 * 128 * 128 + 3 * 128 * 256) * 3 / 8 + 4 * (4 * 256 + 3 * 384);
    assert_int_equal(ml_model_bytes_per_token(m), 2 * layer + 256 * 128 * 6 / 8 + 4 * 384);
    ml_model_free(m);
    mq_end(&s);
}

static void every_allocation_may_fail(void **state) {
    struct marlin_error err;
    (void)state;
    mq_begin(&s, "qwen2");
    mq_replace_all(&s, ours, 6);
    mq_store(&s, "lm_head", mul1, VOCAB, HIDDEN);
    make_write(&s.quant);
    make_write(&s.plain);
    for (uint64_t n = 1;; n++) {
        struct ml_model *m = NULL;
        struct feed f = {0};
        ml_mem_fail_at(n);
        marlin_status st = ml_model_load(s.quant.dir, NULL, &m, &err);
        if (st == MARLIN_OK) st = feed_open(&f, m, NULL, 64, 16, &err);
        ml_mem_fail_at(0);
        feed_close(&f);
        ml_model_free(m);
        if (st == MARLIN_OK) break;
        if (st != MARLIN_ERR_MEMORY)
            fail_msg("allocation %d: %s: %s", (int)n, marlin_status_name(st), err.text);
    }
    mq_end(&s);
}

static void random_models_have_the_format(void **state) {
    static const struct ml_random_format formats[] = {{2, false}, {3, false}, {4, false}, {5, false},
                                                      {6, false}, {8, false}, {1, true},  {3, true},
                                                      {7, true},  {8, true}};
    const struct ml_model_options options = {.kv_dtype = ML_F32};
    (void)state;
    make_begin(&s.plain, "qwen3_moe");
    make_write(&s.plain);
    struct ml_model *like = mq_load(s.plain.dir, false);
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        struct ml_model *m[2];
        float *logits[2];
        struct ml_model_bits bits;
        for (int j = 0; j < 2; j++) {
            assert_int_equal(ml_model_random(like->config, &formats[i], 7, &options, &m[j], NULL), MARLIN_OK);
            logits[j] = make_logits(m[j]);
        }
        ml_model_bits(m[0], &bits);
        assert_true(bits.layers == formats[i].bits && bits.head == 6 && bits.embedding == 16);
        assert_memory_equal(logits[0], logits[1], MAKE_PROMPT * VOCAB * sizeof(float));
        assert_true(isfinite(spread(logits[0])) && spread(logits[0]) > 0.1 && spread(logits[0]) < 10);
        for (int j = 0; j < 2; j++) {
            ml_free(logits[j]);
            ml_model_free(m[j]);
        }
    }
    const struct ml_random_format none[] = {{7, false}, {1, false}, {9, true}, {0, true}};
    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
        struct ml_model *m = NULL;
        assert_int_equal(ml_model_random(like->config, &none[i], 7, &options, &m, NULL),
                         MARLIN_ERR_UNSUPPORTED);
    }
    ml_model_free(like);
    make_end(&s.plain);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(dense_models, listen),
        cmocka_unit_test_setup(fused_layers_come_apart, listen),
        cmocka_unit_test_setup(mixtures_of_experts, listen),
        cmocka_unit_test_setup(tokens_one_by_one, listen),
        cmocka_unit_test_setup(heads_and_embeddings, listen),
        cmocka_unit_test_setup(scaled_embeddings, listen),
        cmocka_unit_test_setup(biases, listen),
        cmocka_unit_test_setup(old_files_have_signs_alone, listen),
        cmocka_unit_test_setup(slices_of_wide_layers, listen),
        cmocka_unit_test_setup(another_multiplier_is_a_warning, listen),
        cmocka_unit_test_setup(fast_is_near_exact, listen),
        cmocka_unit_test_setup(sizes_are_those_of_the_tiles, listen),
        cmocka_unit_test_setup(every_allocation_may_fail, listen),
        cmocka_unit_test_setup(random_models_have_the_format, listen),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
