/* SPDX-License-Identifier: Apache-2.0
 *
 * Models whose activations make Hessians of no use, whole directories through: the job ends well, and says of
 * each tensor what was wrong. Calibration rows of the model's own text.
 */
#include "../../models/make_model.h"
#include "base/log.h"
#include "quantization/job/job.h"

#include <dirent.h>
#include <math.h>

enum { HIDDEN = 128, VOCAB = 256, TOKENS = 256 };

static struct make k;
static char out[MAKE_PATH];
static char warnings[1 << 14];

static void keep_warning(void *user, enum ml_log_level level, const char *text) {
    const size_t used = strlen(warnings);
    (void)user, (void)level;
    (void)snprintf(warnings + used, sizeof warnings - used, "%s\n", text);
}

static int set_up(void **state) {
    (void)state;
    warnings[0] = 0;
    ml_log_set(keep_warning, NULL, ML_LOG_WARN);
    (void)snprintf(out, sizeof out, "/tmp/marlin-test-bad-XXXXXX");
    return mkdtemp(out) ? 0 : -1;
}

static void remove_files(const char *dir) {
    DIR *d = opendir(dir);
    for (const struct dirent *e; d && (e = readdir(d));) {
        char path[2 * MAKE_PATH];
        (void)snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (e->d_name[0] != '.') (void)unlink(path);
    }
    if (d) (void)closedir(d);
}

static int tear_down(void **state) {
    char work[2 * MAKE_PATH];
    (void)state;
    ml_log_set(NULL, NULL, ML_LOG_WARN);
    (void)snprintf(work, sizeof work, "%s/.quantize", out);
    remove_files(work);
    (void)rmdir(work);
    remove_files(out);
    return rmdir(out);
}

static struct ml_quantize_settings settings(void) {
    return (struct ml_quantize_settings){.source = k.dir,
                                         .out = out,
                                         .format = ML_QUANTIZE_MARLIN,
                                         .codebook = ML_EXL3_MUL1,
                                         .bits = 4,
                                         .head_bits = 6,
                                         .effort = ML_EFFORT_LOW,
                                         .calib_tokens = TOKENS};
}

/* All elements of a bfloat16 tensor become `half`. */
static void fill(const char *name, uint16_t half) {
    static uint16_t values[4][8 * HIDDEN];
    static size_t used;
    const size_t i = make_find(&k, name);
    uint16_t *v = values[used++ % 4];
    assert_int_equal(k.decls[i].dtype, ML_BF16);
    assert_true(k.bytes[i] <= sizeof *values);
    for (size_t j = 0; j < 8 * HIDDEN; j++)
        v[j] = half;
    k.data[i] = v;
}

static const struct ml_quantize_tensor *find(const struct ml_quantize_report *r, const char *name) {
    for (size_t i = 0; i < r->count; i++)
        if (strcmp(r->tensors[i].name, name) == 0) return &r->tensors[i];
    fail_msg("no tensor %s in the report", name);
    return NULL;
}

/* The report's text of a tensor has `why` in it (NULL: there is none), and the log has the tensor's name. */
static void expect(const struct ml_quantize_report *r, const char *name, const char *why) {
    const struct ml_quantize_tensor *t = find(r, name);
    assert_true(t->proxy_error > 0 && t->proxy_error < 0.1);
    if (!why) {
        if (t->fallback) fail_msg("%s fell back: %s", name, t->fallback);
        return;
    }
    if (!t->fallback || !strstr(t->fallback, why))
        fail_msg("%s: '%s' is not in '%s'", name, why, t->fallback ? t->fallback : "no fallback");
    assert_non_null(strstr(warnings, name));
}

/* What was written loads; its weights are finite. */
static void check_output(void) {
    struct ml_model *m = make_load(out);
    struct ml_tensors *t = NULL;
    assert_int_equal(ml_tensors_open_dir(out, &t, NULL), MARLIN_OK);
    for (size_t i = 0; i < ml_tensors_count(t); i++) {
        const struct ml_tensor *x = ml_tensors_at(t, i);
        if (x->dtype != ML_F16) continue;
        float *v = ml_alloc((size_t)x->count * sizeof *v);
        assert_int_equal(ml_tensor_to_f32(x, v, x->count, NULL), MARLIN_OK);
        for (size_t j = 0; j < x->count; j++)
            assert_true(isfinite(v[j]));
        ml_free(v);
    }
    ml_tensors_close(t);
    ml_model_free(m);
}

/* Layer 0 is fed zeros, layer 1 what overflows: every kind of useless Hessian in one model. */
static void useless_hessians_fall_back(void **state) {
    (void)state;
    struct ml_quantize_report r;
    struct marlin_error err = {0};
    make_begin(&k, "llama3");
    fill("model.layers.0.input_layernorm.weight", 0);
    fill("model.layers.1.post_attention_layernorm.weight", 0x7180); /* 2^100: its square is infinite */
    make_write(&k);
    const struct ml_quantize_settings s = settings();
    if (ml_quantize_model(&s, &r, &err) != MARLIN_OK) fail_msg("%s", err.text);
    expect(&r, "model.layers.0.self_attn.q_proj", "zero");
    expect(&r, "model.layers.0.self_attn.k_proj", "zero");
    expect(&r, "model.layers.0.self_attn.v_proj", "zero");
    expect(&r, "model.layers.0.self_attn.o_proj", "zero");
    expect(&r, "model.layers.0.mlp.gate_proj", NULL);
    expect(&r, "model.layers.0.mlp.down_proj", NULL);
    expect(&r, "model.layers.1.self_attn.q_proj", NULL);
    expect(&r, "model.layers.1.self_attn.o_proj", NULL);
    expect(&r, "model.layers.1.mlp.gate_proj", "not finite");
    expect(&r, "model.layers.1.mlp.up_proj", "not finite");
    expect(&r, "model.layers.1.mlp.down_proj", "empty");
    expect(&r, "lm_head", "empty");
    assert_int_equal(find(&r, "model.layers.1.mlp.down_proj")->dropped, TOKENS);
    assert_int_equal(find(&r, "model.layers.1.mlp.gate_proj")->dropped, 0);
    assert_non_null(strstr(warnings, "logits are not finite")); /* the own text had to be random */
    ml_quantize_report_free(&r);
    check_output();
    make_end(&k);
}

/* Some tokens are bad: they are left out, the others count. */
static void bad_tokens_are_left_out(void **state) {
    (void)state;
    struct ml_quantize_report r;
    struct marlin_error err = {0};
    make_begin(&k, "llama3");
    const size_t e = make_find(&k, "model.embed_tokens.weight");
    uint16_t *table = ml_alloc((size_t)k.bytes[e]);
    memcpy(table, k.data[e], (size_t)k.bytes[e]);
    for (size_t i = 0; i < HIDDEN; i++)
        table[77 * HIDDEN + i] = 0x7fc0; /* NaN */
    k.data[e] = table;
    make_write(&k);
    struct ml_quantize_settings s = settings();
    s.calib_tokens = 4096; /* eight rows of 512 */
    if (ml_quantize_model(&s, &r, &err) != MARLIN_OK) fail_msg("%s", err.text);
    for (size_t i = 0; i < r.count; i++) {
        expect(&r, r.tensors[i].name, NULL);
        assert_true(r.tensors[i].dropped > 0 && r.tensors[i].dropped < 4096);
        assert_non_null(strstr(warnings, "calibration tokens left out"));
    }
    ml_quantize_report_free(&r);
    check_output();
    make_end(&k);
    ml_free(table);
}

/* A row of int8 has no such numbers: refused by name, before any work. */
static void bad_embeddings_have_no_rows(void **state) {
    (void)state;
    struct ml_quantize_report r;
    struct marlin_error err = {0};
    char work[2 * MAKE_PATH];
    make_begin(&k, "llama3");
    const size_t e = make_find(&k, "model.embed_tokens.weight");
    uint16_t *table = ml_alloc((size_t)k.bytes[e]);
    memcpy(table, k.data[e], (size_t)k.bytes[e]);
    table[77 * HIDDEN + 5] = 0x7fc0;
    k.data[e] = table;
    make_write(&k);
    struct ml_quantize_settings s = settings();
    s.recipe = "model.embed_tokens 8\n";
    assert_int_equal(ml_quantize_model(&s, &r, &err), MARLIN_ERR_NUMERIC);
    if (!strstr(err.text, "model.embed_tokens: row 77: ") || !strstr(err.text, "element 5"))
        fail_msg("%s", err.text);
    (void)snprintf(work, sizeof work, "%s/.quantize/calibration.safetensors", out);
    assert_false(ml_path_exists(work));
    make_end(&k);
    ml_free(table);
}

/* Behind a wrapper's prefixes: int8 rows, and the matrix that was tied as the head's own. */
static void wrapped_embeddings(void **state) {
    (void)state;
    struct ml_quantize_report r;
    struct marlin_error err = {0};
    struct ml_tensors *t = NULL;
    make_begin(&k, "qwen3");
    make_rename_prefix(&k, "model.", "language_model.model.");
    make_write(&k);
    struct ml_quantize_settings s = settings();
    s.recipe = "*.embed_tokens 8\nlm_head 16\n";
    if (ml_quantize_model(&s, &r, &err) != MARLIN_OK) fail_msg("%s", err.text);
    ml_quantize_report_free(&r);
    assert_int_equal(ml_tensors_open_dir(out, &t, NULL), MARLIN_OK);
    assert_non_null(ml_tensors_find(t, "language_model.model.embed_tokens.int8"));
    assert_null(ml_tensors_find(t, "language_model.model.embed_tokens.weight"));
    const struct ml_tensor *head = ml_tensors_find(t, "language_model.lm_head.weight");
    const size_t e = make_find(&k, "language_model.model.embed_tokens.weight");
    assert_non_null(head);
    assert_int_equal(head->bytes, k.bytes[e]);
    assert_memory_equal(head->data, k.data[e], (size_t)head->bytes);
    ml_tensors_close(t);
    check_output();
    make_end(&k);
}

/* 16 tokens for 128 and 256 channels. */
static void fewer_tokens_than_channels(void **state) {
    (void)state;
    struct ml_quantize_report r;
    struct marlin_error err = {0};
    make_begin(&k, "llama3");
    make_write(&k);
    struct ml_quantize_settings s = settings();
    s.calib_tokens = 16;
    if (ml_quantize_model(&s, &r, &err) != MARLIN_OK) fail_msg("%s", err.text);
    assert_int_equal(r.calib_tokens, 16);
    for (size_t i = 0; i < r.count; i++)
        expect(&r, r.tensors[i].name, NULL); /* the ridge makes them definite */
    assert_string_equal(warnings, "");
    ml_quantize_report_free(&r);
    check_output();
    make_end(&k);
}

/* A router of zeros always takes the first experts; the others are calibrated all the same. */
static void experts_that_are_never_chosen(void **state) {
    (void)state;
    struct ml_quantize_report r;
    struct marlin_error err = {0};
    size_t down = 0;
    make_begin(&k, "qwen3_moe");
    fill("model.layers.1.mlp.gate.weight", 0);
    make_write(&k);
    const struct ml_quantize_settings s = settings();
    if (ml_quantize_model(&s, &r, &err) != MARLIN_OK) fail_msg("%s", err.text);
    for (size_t i = 0; i < r.count; i++) {
        expect(&r, r.tensors[i].name, NULL);
        down += strstr(r.tensors[i].name, "layers.1.mlp.experts.") && strstr(r.tensors[i].name, "down_proj");
    }
    assert_int_equal(down, 8);
    ml_quantize_report_free(&r);
    check_output();
    make_end(&k);
}

/* What a layer fell back to is remembered over an interruption. */
static volatile sig_atomic_t stop_now;

static void stop_in_the_second_layer(void *user, size_t layer, size_t layers, uint64_t done, uint64_t total,
                                     double proxy) {
    (void)user, (void)layers, (void)done, (void)total, (void)proxy;
    if (layer == 1) stop_now = 1;
}

static void fallbacks_survive_a_restart(void **state) {
    (void)state;
    struct ml_quantize_report r;
    struct marlin_error err = {0};
    make_begin(&k, "llama3");
    fill("model.layers.0.input_layernorm.weight", 0);
    fill("model.layers.0.post_attention_layernorm.weight", 0x7f00);
    make_write(&k);
    struct ml_quantize_settings s = settings();
    s.cancel = &stop_now;
    s.on_tensor = stop_in_the_second_layer;
    stop_now = 0;
    assert_int_equal(ml_quantize_model(&s, &r, &err), MARLIN_ERR_CANCELLED);
    stop_now = 0;
    s.on_tensor = NULL;
    s.resume = true;
    if (ml_quantize_model(&s, &r, &err) != MARLIN_OK) fail_msg("%s", err.text);
    assert_int_equal(r.resumed_layers, 1);
    expect(&r, "model.layers.0.self_attn.q_proj", "zero");
    expect(&r, "model.layers.0.mlp.down_proj", "empty");
    assert_int_equal(find(&r, "model.layers.0.mlp.down_proj")->dropped, TOKENS);
    ml_quantize_report_free(&r);
    make_end(&k);
}

/* Weights that are not finite cannot be quantized: the tensor is named, and what was there stays. */
static void bad_weights_are_named(void **state) {
    static const uint16_t bad[] = {0x7fc0, 0x7f80};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct ml_quantize_report r;
        struct marlin_error err = {0};
        make_begin(&k, "llama3");
        const size_t e = make_find(&k, "model.layers.1.mlp.up_proj.weight");
        uint16_t *w = ml_alloc((size_t)k.bytes[e]);
        memcpy(w, k.data[e], (size_t)k.bytes[e]);
        w[5 * HIDDEN + 3] = bad[i];
        k.data[e] = w;
        make_write(&k);
        struct ml_quantize_settings s = settings();
        s.resume = i == 1;
        assert_int_equal(ml_quantize_model(&s, &r, &err), MARLIN_ERR_NUMERIC);
        if (!strstr(err.text, "model.layers.1.mlp.up_proj") || !strstr(err.text, "[5, 3]"))
            fail_msg("%s", err.text);
        make_end(&k);
        ml_free(w);
        assert_int_equal(tear_down(NULL), 0);
        assert_int_equal(set_up(NULL), 0);
    }
}

/* ---- calibration on the model's own text ---- */

static size_t passes;

static void count_passes(void *user, size_t layer) {
    const struct ml_model *m = user;
    passes += layer == (size_t)m->config->num_layers;
}

static void sample(struct ml_model *m, struct ml_pool *pool, size_t lanes, struct ml_calibration *c) {
    struct marlin_error err = {0};
    const struct ml_sample_job job = {.model = m,
                                      .pool = pool,
                                      .tokens = 12 * 40,
                                      .width = 40,
                                      .lanes = lanes,
                                      .seed = 3,
                                      .layer_done = count_passes,
                                      .layer_user = m};
    passes = 0;
    if (ml_calibration_sample(&job, c, &err) != MARLIN_OK) fail_msg("%s", err.text);
    assert_int_equal(c->rows, 12);
    assert_int_equal(c->width, 40);
    assert_int_equal(passes, (9 + lanes - 1) / lanes * 39); /* nine rows of text */
}

static void own_text_depends_on_the_seed_alone(void **state) {
    (void)state;
    static const size_t lanes[] = {1, 2, 4, 64};
    struct ml_calibration a, b;
    struct ml_pool *pool = NULL;
    make_begin(&k, "llama3");
    make_write(&k);
    struct ml_model *m = make_load(k.dir);
    assert_int_equal(ml_pool_create(3, &pool, NULL), MARLIN_OK);
    sample(m, NULL, 5, &a);
    for (size_t i = 0; i < sizeof lanes / sizeof *lanes; i++) {
        sample(m, i % 2 ? pool : NULL, lanes[i], &b);
        assert_memory_equal(a.ids, b.ids, (size_t)12 * 40 * sizeof *a.ids);
        ml_calibration_free(&b);
    }
    ml_calibration_free(&a);
    ml_pool_free(pool);
    ml_model_free(m);
    make_end(&k);
}

static void lanes_make_even_groups(void **state) {
    (void)state;
    assert_int_equal(ml_calibration_lanes(64, 32), 24); /* 48 rows of text in two groups */
    assert_int_equal(ml_calibration_lanes(64, 64), 48);
    assert_int_equal(ml_calibration_lanes(64, 1), 1);
    assert_int_equal(ml_calibration_lanes(1, 64), 1);
    assert_int_equal(ml_calibration_lanes(1000, 1000), 63); /* 750 rows in twelve groups */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(useless_hessians_fall_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_tokens_are_left_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_embeddings_have_no_rows, set_up, tear_down),
        cmocka_unit_test_setup_teardown(wrapped_embeddings, set_up, tear_down),
        cmocka_unit_test_setup_teardown(fewer_tokens_than_channels, set_up, tear_down),
        cmocka_unit_test_setup_teardown(experts_that_are_never_chosen, set_up, tear_down),
        cmocka_unit_test_setup_teardown(fallbacks_survive_a_restart, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_weights_are_named, set_up, tear_down),
        cmocka_unit_test(own_text_depends_on_the_seed_alone),
        cmocka_unit_test(lanes_make_even_groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
