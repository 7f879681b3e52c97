/* SPDX-License-Identifier: Apache-2.0
 *
 * Loading: what is missing or wrong is named, what is spelled otherwise is found, and nothing leaks when
 * memory runs out.
 */
#include "base/fp.h"
#include "base/log.h"
#include "make_model.h"

#include "guard.h"

static struct make k;
static char warnings[4096];

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

static void expect_failure(marlin_status status, const char *first, const char *second) {
    struct marlin_error err = {0};
    struct ml_model *m = NULL;
    make_write(&k);
    assert_int_equal(ml_model_load(k.dir, NULL, &m, &err), status);
    if (!strstr(err.text, first)) fail_msg("'%s' is not in: %s", first, err.text);
    if (!strstr(err.text, second)) fail_msg("'%s' is not in: %s", second, err.text);
    assert_non_null(strstr(err.text, k.dir));
    make_end(&k);
}

/* The model of k has the same logits, bit for bit, as the fixture that it came from. */
static void expect_same_logits(void) {
    make_write(&k);
    struct ml_model *a = make_load(k.fixture), *b = make_load(k.dir);
    float *la = make_logits(a), *lb = make_logits(b);
    assert_memory_equal(la, lb, MAKE_PROMPT * (size_t)ml_model_config(a)->vocab_size * sizeof(float));
    assert_int_equal(ml_model_parameters(a), ml_model_parameters(b));
    assert_int_equal(ml_model_bytes_per_token(a), ml_model_bytes_per_token(b));
    ml_free(la);
    ml_free(lb);
    ml_model_free(a);
    ml_model_free(b);
    make_end(&k);
}

static void missing_tensors_are_named(void **state) {
    static const char *const names[] = {"model.embed_tokens.weight", "model.norm.weight",
                                        "model.layers.1.mlp.up_proj.weight",
                                        "model.layers.0.self_attn.q_norm.weight"};
    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        make_begin(&k, "qwen3");
        make_drop(&k, names[i]);
        expect_failure(MARLIN_ERR_NOT_FOUND, names[i], "missing");
    }
    make_begin(&k, "llama3");
    make_drop(&k, "lm_head.weight");
    expect_failure(MARLIN_ERR_NOT_FOUND, "lm_head.weight", "missing");
    make_begin(&k, "qwen2");
    make_drop(&k, "model.layers.0.self_attn.k_proj.bias");
    expect_failure(MARLIN_ERR_NOT_FOUND, "model.layers.0.self_attn.k_proj.bias", "missing");
    make_begin(&k, "qwen3_moe");
    make_drop(&k, "model.layers.1.mlp.experts.7.down_proj.weight");
    expect_failure(MARLIN_ERR_NOT_FOUND, "model.layers.1.mlp.experts.7.down_proj.weight", "missing");
}

static void misshapen_tensors_are_named(void **state) {
    (void)state;
    make_begin(&k, "qwen3");
    struct ml_tensor_decl *d = &k.decls[make_find(&k, "model.layers.1.mlp.down_proj.weight")];
    d->shape[0] = 256;
    d->shape[1] = 128;
    expect_failure(MARLIN_ERR_FORMAT, "model.layers.1.mlp.down_proj.weight' has shape [256, 128]",
                   "[128, 256]");

    make_begin(&k, "qwen3");
    d = &k.decls[make_find(&k, "model.norm.weight")];
    d->rank = 2;
    d->shape[0] = 1;
    d->shape[1] = 128;
    expect_failure(MARLIN_ERR_FORMAT, "model.norm.weight", "[128]");

    make_begin(&k, "mixtral"); /* a router for 4 of 8 experts */
    const size_t router = make_find(&k, "model.layers.0.block_sparse_moe.gate.weight");
    k.decls[router].shape[0] = 4;
    k.bytes[router] /= 2;
    expect_failure(MARLIN_ERR_FORMAT, "model.layers.0.block_sparse_moe.gate.weight", "[8, 128]");
}

static void unusable_types_are_named(void **state) {
    (void)state;
    make_begin(&k, "qwen3");
    k.decls[make_find(&k, "model.layers.0.mlp.up_proj.weight")].dtype = ML_I16;
    expect_failure(MARLIN_ERR_UNSUPPORTED, "model.layers.0.mlp.up_proj.weight", "I16");

    static const float one = 1.0f;
    const uint64_t shape[] = {1, 1};
    make_begin(&k, "qwen3");
    make_add(&k, "model.layers.0.mlp.up_proj.weight_scale_inv", ML_F32, 2, shape, &one);
    expect_failure(MARLIN_ERR_FORMAT, "model.layers.0.mlp.up_proj.weight", "is no FP8");
    make_begin(&k, "qwen3");
    make_add(&k, "model.layers.0.mlp.up_proj.weight_scale", ML_F32, 2, shape, &one);
    expect_failure(MARLIN_ERR_UNSUPPORTED, "model.layers.0.mlp.up_proj.weight_scale", "such scales");

    make_begin(&k, "qwen3"); /* twice as many numbers of half the size, and scales of the wrong shape */
    const size_t up = make_find(&k, "model.layers.0.mlp.up_proj.weight");
    k.decls[up].dtype = ML_F8_E4M3;
    k.bytes[up] /= 2;
    make_add(&k, "model.layers.0.mlp.up_proj.weight_scale_inv", ML_F32, 2, shape, &one);
    expect_failure(MARLIN_ERR_FORMAT, "model.layers.0.mlp.up_proj.weight_scale_inv", "[2, 1]");
}

static void wrapper_prefixes_are_found(void **state) {
    (void)state;
    make_begin(&k, "qwen3_yarn");
    make_rename_prefix(&k, "model.", "model.language_model.");
    expect_same_logits();
    make_begin(&k, "qwen3_yarn");
    make_rename_prefix(&k, "model.", "language_model.model.");
    make_rename_prefix(&k, "lm_head.", "language_model.lm_head.");
    expect_same_logits();
    make_begin(&k, "qwen3_yarn");
    make_rename_prefix(&k, "model.", "");
    expect_same_logits();
}

/* safetensors.torch.save_model keeps one name of a shared tensor, the first in the alphabet. */
static void a_tied_matrix_may_have_the_heads_name(void **state) {
    static const char *const fixtures[] = {"qwen3", "gemma3_text"};
    (void)state;
    for (size_t i = 0; i < sizeof(fixtures) / sizeof(fixtures[0]); i++) {
        make_begin(&k, fixtures[i]);
        make_rename_prefix(&k, "model.embed_tokens.", "lm_head.");
        expect_same_logits();
        make_begin(&k, fixtures[i]);
        make_rename_prefix(&k, "model.embed_tokens.", "language_model.lm_head.");
        make_rename_prefix(&k, "model.", "language_model.model.");
        expect_same_logits();
    }
    assert_string_equal(warnings, "");
    make_begin(&k, "llama3"); /* not tied: the head is no embedding */
    make_drop(&k, "model.embed_tokens.weight");
    expect_failure(MARLIN_ERR_NOT_FOUND, "model.embed_tokens.weight", "missing");
}

/* Every tensor as numbers of another type that hold the same values. */
static float *logits_as(enum ml_dtype type) {
    void *data[MAKE_TENSORS];
    make_begin(&k, "qwen3");
    for (size_t i = 0; i < k.n; i++) {
        const size_t count = (size_t)k.bytes[i] / ml_dtype_size(k.decls[i].dtype), size = ml_dtype_size(type);
        float *wide = ml_alloc(count * sizeof(float));
        data[i] = ml_alloc(count * size);
        assert_true(wide && data[i]);
        ml_dtype_to_f32(k.decls[i].dtype, k.data[i], wide, count);
        for (size_t j = 0; j < count; j++) {
            const double value = wide[j];
            memcpy((char *)data[i] + j * size, type == ML_F64 ? (const void *)&value : &wide[j], size);
        }
        ml_free(wide);
        k.decls[i].dtype = type;
        k.data[i] = data[i];
        k.bytes[i] = count * size;
    }
    make_write(&k);
    struct ml_model *m = make_load(k.dir);
    float *logits = make_logits(m);
    ml_model_free(m);
    for (size_t i = 0; i < k.n; i++)
        ml_free(data[i]);
    make_end(&k);
    return logits;
}

static void float64_weights_are_rounded(void **state) {
    (void)state;
    float *narrow = logits_as(ML_F32), *wide = logits_as(ML_F64);
    assert_memory_equal(narrow, wide, MAKE_PROMPT * 256 * sizeof(float));
    ml_free(narrow);
    ml_free(wide);
}

/* In the written file. */
static void respell_type(const char *from, const char *to) {
    char path[MAKE_PATH + 64], header[1 << 16];
    (void)snprintf(path, sizeof(path), "%s/model.safetensors", k.dir);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    const size_t n = fread(header, 1, sizeof(header), f);
    const char *at = memmem(header, n, from, strlen(from));
    assert_non_null(at);
    assert_int_equal(fseek(f, (long)(at - header), SEEK_SET), 0);
    assert_int_equal(fwrite(to, 1, strlen(to), f), strlen(from));
    assert_int_equal(fclose(f), 0);
}

/* A type that nobody knows matters to whoever needs the tensor. */
static void unknown_types_matter_when_they_are_needed(void **state) {
    static const uint8_t zero[4];
    const uint64_t shape = 4;
    struct marlin_error err = {0};
    struct ml_model *m = NULL;
    (void)state;
    make_begin(&k, "qwen3");
    make_add(&k, "model.extra", ML_U8, 1, &shape, zero);
    make_write(&k);
    respell_type("\"U8\"", "\"F4\"");
    m = make_load(k.dir);
    assert_non_null(strstr(warnings, "'model.extra'"));
    ml_model_free(m);
    m = NULL;
    make_end(&k);

    make_begin(&k, "qwen3");
    k.decls[make_find(&k, "model.layers.0.mlp.up_proj.weight")].dtype = ML_I16;
    make_write(&k);
    respell_type("\"I16\"", "\"X16\"");
    assert_int_equal(ml_model_load(k.dir, NULL, &m, &err), MARLIN_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "model.layers.0.mlp.up_proj.weight' has type X16"));
    make_end(&k);
}

static void unaligned_weights_are_copied(void **state) {
    static const uint8_t odd[1];
    const uint64_t shape = 1;
    (void)state;
    make_begin(&k, "phi3");
    /* First in the file: everything behind it starts at an odd offset. */
    make_add(&k, "zzz", ML_U8, 1, &shape, odd);
    const struct ml_tensor_decl decl = k.decls[0];
    const void *data = k.data[0];
    const uint64_t bytes = k.bytes[0];
    char name[MAKE_NAME];
    (void)snprintf(name, sizeof(name), "%s", k.names[0]);
    const size_t last = k.n - 1;
    k.decls[0] = k.decls[last];
    k.data[0] = k.data[last];
    k.bytes[0] = k.bytes[last];
    (void)snprintf(k.names[0], MAKE_NAME, "zzz");
    k.decls[0].name = k.names[0];
    k.decls[last] = decl;
    k.data[last] = data;
    k.bytes[last] = bytes;
    (void)snprintf(k.names[last], MAKE_NAME, "%s", name);
    k.decls[last].name = k.names[last];
    expect_same_logits();
    assert_non_null(strstr(warnings, "'zzz'"));
}

static void tensors_of_other_parts_are_ignored_and_unknown_ones_named(void **state) {
    static const float zero[4];
    const uint64_t shape = 4;
    (void)state;
    make_begin(&k, "qwen3");
    make_add(&k, "model.layers.0.self_attn.rotary_emb.inv_freq", ML_F32, 1, &shape, zero);
    make_add(&k, "mtp.fc.weight", ML_F32, 1, &shape, zero);
    make_add(&k, "model.layers.2.mlp.up_proj.weight", ML_F32, 1, &shape, zero);
    make_add(&k, "model.visual.patch_embed.proj.weight", ML_F32, 1, &shape, zero);
    expect_same_logits();
    assert_string_equal(warnings, "");

    make_begin(&k, "qwen3");
    make_add(&k, "model.layers.1.mlp.up_proj.bias", ML_F32, 1, &shape, zero);
    expect_same_logits();
    assert_non_null(strstr(warnings, "'model.layers.1.mlp.up_proj.bias'"));
}

static void a_stored_head_wins_over_a_tied_one(void **state) {
    const uint64_t shape[] = {256, 128};
    (void)state;
    make_begin(&k, "qwen2");
    uint16_t *embedding = ml_alloc(256 * 128 * sizeof(*embedding));
    assert_non_null(embedding);
    memcpy(embedding, k.data[make_find(&k, "model.embed_tokens.weight")], 256 * 128 * sizeof(*embedding));
    make_add(&k, "lm_head.weight", ML_BF16, 2, shape, embedding);
    make_write(&k);
    struct ml_model *same = make_load(k.dir);
    assert_string_equal(warnings, "");
    float *a = make_logits(same);
    make_end(&k);

    /* Rows in reverse: so are the logits. */
    uint16_t *reversed = ml_alloc(256 * 128 * sizeof(uint16_t));
    assert_non_null(reversed);
    for (size_t r = 0; r < 256; r++) {
        memcpy(reversed + r * 128, embedding + (255 - r) * 128, 128 * sizeof(*reversed));
    }
    make_begin(&k, "qwen2");
    make_add(&k, "lm_head.weight", ML_BF16, 2, shape, reversed);
    make_write(&k);
    struct ml_model *other = make_load(k.dir);
    assert_non_null(strstr(warnings, "lm_head.weight"));
    float *b = make_logits(other);
    for (size_t i = 0; i < 256; i++)
        assert_true(a[i] - b[255 - i] < 1e-5f && b[255 - i] - a[i] < 1e-5f);
    make_end(&k);
    ml_free(a);
    ml_free(b);
    ml_free(reversed);
    ml_free(embedding);
    ml_model_free(same);
    ml_model_free(other);
}

/* Moves the experts of a layer into one [E, 2I, H] and one [E, H, I] tensor; returns memory to free. */
static char *fuse_experts(const char *block, const char *const parts[3], uint64_t experts, uint64_t ff,
                          uint64_t hidden) {
    const size_t one = (size_t)(ff * hidden * 2);
    const uint64_t gate_up[] = {experts, 2 * ff, hidden}, down[] = {experts, hidden, ff};
    char name[MAKE_NAME], *memory = ml_alloc(3 * one * experts);
    assert_non_null(memory);
    for (uint64_t e = 0; e < experts; e++) {
        char *const to[3] = {memory + 2 * e * one, memory + (2 * e + 1) * one,
                             memory + (2 * experts + e) * one};
        for (int p = 0; p < 3; p++) {
            (void)snprintf(name, sizeof(name), "%sexperts.%d.%s.weight", block, (int)e, parts[p]);
            memcpy(to[p], k.data[make_find(&k, name)], one);
            make_drop(&k, name);
        }
    }
    (void)snprintf(name, sizeof(name), "%sexperts.gate_up_proj", block);
    make_add(&k, name, ML_BF16, 3, gate_up, memory);
    (void)snprintf(name, sizeof(name), "%sexperts.down_proj", block);
    make_add(&k, name, ML_BF16, 3, down, memory + 2 * experts * one);
    return memory;
}

static void fused_experts_equal_separate_ones(void **state) {
    static const char *const qwen[] = {"gate_proj", "up_proj", "down_proj"}, *const mixtral[] = {"w1", "w3",
                                                                                                 "w2"};
    (void)state;
    make_begin(&k, "qwen3_moe");
    char *a = fuse_experts("model.layers.1.mlp.", qwen, 8, 128, 128);
    expect_same_logits();
    make_begin(&k, "mixtral"); /* one layer fused, one not */
    char *b = fuse_experts("model.layers.1.block_sparse_moe.", mixtral, 8, 256, 128);
    expect_same_logits();
    make_begin(&k, "mixtral"); /* as transformers 5 names them in memory */
    char *c = fuse_experts("model.layers.0.block_sparse_moe.", mixtral, 8, 256, 128);
    make_rename_prefix(&k, "model.layers.0.block_sparse_moe.", "model.layers.0.mlp.");
    expect_same_logits();
    ml_free(a);
    ml_free(b);
    ml_free(c);
}

static void fp8_weights_equal_their_widened_values(void **state) {
    enum { N = 256 * 128 };
    static const char name[] = "model.layers.0.mlp.up_proj.weight";
    (void)state;
    uint8_t *narrow = ml_alloc(N);
    uint16_t *wide = ml_alloc(N * sizeof(uint16_t));
    assert_non_null(narrow);
    assert_non_null(wide);
    float *logits[2];
    for (int pass = 0; pass < 2; pass++) {
        make_begin(&k, "qwen3");
        const size_t i = make_find(&k, name);
        const uint16_t *from = k.data[i];
        for (size_t j = 0; j < N; j++) {
            narrow[j] = ml_f32_to_f8e4m3(ml_bf16_to_f32(from[j]));
            wide[j] = ml_f32_to_bf16(ml_f8e4m3_to_f32(narrow[j]));
        }
        k.data[i] = pass ? (const void *)wide : (const void *)narrow;
        k.decls[i].dtype = pass ? ML_BF16 : ML_F8_E4M3;
        k.bytes[i] = pass ? 2 * N : N;
        make_write(&k);
        struct ml_model *m = make_load(k.dir);
        logits[pass] = make_logits(m);
        ml_model_free(m);
        make_end(&k);
    }
    assert_memory_equal(logits[0], logits[1], MAKE_PROMPT * 256 * sizeof(float));
    ml_free(logits[0]);
    ml_free(logits[1]);
    ml_free(narrow);
    ml_free(wide);
}

static void every_allocation_may_fail(void **state) {
    struct marlin_error err;
    (void)state;
    make_begin(&k, "qwen3_moe");
    make_write(&k);
    for (uint64_t n = 1;; n++) {
        struct ml_model *m = NULL;
        struct feed f = {0};
        ml_mem_fail_at(n);
        marlin_status st = ml_model_load(k.dir, NULL, &m, &err);
        if (st == MARLIN_OK) st = feed_open(&f, m, NULL, 64, 16, &err);
        ml_mem_fail_at(0);
        feed_close(&f);
        ml_model_free(m);
        if (st == MARLIN_OK) break;
        if (st != MARLIN_ERR_MEMORY)
            fail_msg("allocation %d: %s: %s", (int)n, marlin_status_name(st), err.text);
    }
    make_end(&k);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(missing_tensors_are_named, listen),
        cmocka_unit_test_setup(misshapen_tensors_are_named, listen),
        cmocka_unit_test_setup(unusable_types_are_named, listen),
        cmocka_unit_test_setup(wrapper_prefixes_are_found, listen),
        cmocka_unit_test_setup(a_tied_matrix_may_have_the_heads_name, listen),
        cmocka_unit_test_setup(float64_weights_are_rounded, listen),
        cmocka_unit_test_setup(unknown_types_matter_when_they_are_needed, listen),
        cmocka_unit_test_setup(unaligned_weights_are_copied, listen),
        cmocka_unit_test_setup(tensors_of_other_parts_are_ignored_and_unknown_ones_named, listen),
        cmocka_unit_test_setup(a_stored_head_wins_over_a_tied_one, listen),
        cmocka_unit_test_setup(fused_experts_equal_separate_ones, listen),
        cmocka_unit_test_setup(fp8_weights_equal_their_widened_values, listen),
        cmocka_unit_test_setup(every_allocation_may_fail, listen),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
