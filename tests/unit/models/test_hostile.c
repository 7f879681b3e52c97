/* SPDX-License-Identifier: Apache-2.0
 *
 * Models whose parts contradict one another, change under us, or hold numbers that are none: hostile inputs
 * 9, 11 and 14.
 */
#include "base/file.h"
#include "base/fp.h"
#include "base/log.h"
#include "make_model.h"

#include <math.h>
#include <signal.h>
#include <time.h>

#include "guard.h"

static struct make k;
static struct sigaction
    guard; /* the library's handler of SIGBUS, which cmocka puts its own over before every test */

static int begin(void **state) {
    struct ml_file *f = NULL;
    (void)state;
    ml_log_set(NULL, NULL, ML_LOG_WARN);
    if (ml_file_open(MARLIN_SOURCE_DIR "/LICENSE", &f, NULL) != MARLIN_OK) return -1;
    ml_file_close(f);
    return sigaction(SIGBUS, NULL, &guard);
}

static double cpu_seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void weights_path(char path[MAKE_PATH + 64]) {
    (void)snprintf(path, MAKE_PATH + 64, "%s/model.safetensors", k.dir);
}

/* ---- config against tensors ---- */

/* The number of a key of the written config.json becomes another. */
static void change_config(const char *key, const char *value) {
    char path[MAKE_PATH + 64], find[80], *text = NULL, *changed = NULL;
    size_t len = 0;
    (void)snprintf(path, sizeof(path), "%s/config.json", k.dir);
    (void)snprintf(find, sizeof(find), "\"%s\": ", key);
    assert_int_equal(ml_file_slurp(path, 1 << 20, &text, &len, NULL), MARLIN_OK);
    char *at = strstr(text, find);
    assert_non_null(at);
    at += strlen(find);
    changed = ml_alloc(len + 40);
    assert_non_null(changed);
    (void)snprintf(changed, len + 40, "%.*s%s%s", (int)(at - text), text, value,
                   at + strspn(at, "0123456789"));
    assert_int_equal(ml_file_write_atomic(path, changed, strlen(changed), NULL), MARLIN_OK);
    ml_free(text);
    ml_free(changed);
}

static void contradict(const char *fixture, const char *key, const char *value, marlin_status status,
                       const char *part) {
    struct ml_model *m = NULL;
    struct marlin_error err = {0};
    make_begin(&k, fixture);
    make_write(&k);
    change_config(key, value);
    const double start = cpu_seconds();
    const marlin_status st = ml_model_load(k.dir, NULL, &m, &err);
    assert_true(cpu_seconds() - start < 2);
    ml_model_free(m);
    if (st != status || !strstr(err.text, part) || !strstr(err.text, k.dir))
        fail_msg("%s = %s: %s: %s", key, value, marlin_status_name(st), err.text);
    make_end(&k);
}

static void a_config_for_other_weights(void **state) {
    (void)state;
    contradict("qwen3", "vocab_size", "257", MARLIN_ERR_FORMAT,
               "'model.embed_tokens.weight' has shape [256, 128], config.json asks for [257, 128]");
    contradict("qwen3", "vocab_size", "67108864", MARLIN_ERR_FORMAT, "'model.embed_tokens.weight'");
    contradict("qwen3", "hidden_size", "1048576", MARLIN_ERR_FORMAT, "'model.embed_tokens.weight'");
    contradict("qwen3", "intermediate_size", "16777216", MARLIN_ERR_FORMAT, "mlp.gate_proj.weight'");
    contradict("llama3", "num_hidden_layers", "3", MARLIN_ERR_NOT_FOUND, "'model.layers.2.");
    contradict("llama3", "num_hidden_layers", "4096", MARLIN_ERR_NOT_FOUND, "'model.layers.2.");
    contradict("qwen3", "num_attention_heads", "65536", MARLIN_ERR_FORMAT, "q_proj.weight'");
    contradict("qwen3", "num_key_value_heads", "1", MARLIN_ERR_FORMAT, "k_proj.weight'");
    contradict("qwen3", "head_dim", "65536", MARLIN_ERR_FORMAT, "q_proj.weight'");
    contradict("phi3", "num_key_value_heads", "1", MARLIN_ERR_FORMAT, "qkv_proj.weight'");
    contradict("qwen3_moe", "num_local_experts", "65536", MARLIN_ERR_FORMAT, "mlp.gate.weight'");
    contradict("qwen3_moe", "moe_intermediate_size", "16777216", MARLIN_ERR_FORMAT, "experts.0.");
    contradict("mixtral", "num_local_experts", "9", MARLIN_ERR_FORMAT, "block_sparse_moe.gate.weight'");
}

/* ---- files that are cut ---- */

static void cut_before_loading(void **state) {
    char path[MAKE_PATH + 64];
    static const off_t lengths[] = {0, 1, 7, 8, 9, 100, 1000, 5000, 100000, -1};
    (void)state;
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        struct ml_model *m = NULL;
        struct marlin_error err = {0};
        struct ml_file *f = NULL;
        make_begin(&k, "qwen3");
        make_write(&k);
        weights_path(path);
        assert_int_equal(ml_file_open(path, &f, NULL), MARLIN_OK);
        const off_t size = (off_t)ml_file_size(f);
        ml_file_close(f);
        assert_int_equal(truncate(path, lengths[i] < 0 ? size - 1 : lengths[i]), 0);
        assert_int_equal(ml_model_load(k.dir, NULL, &m, &err), MARLIN_ERR_FORMAT);
        if (!strstr(err.text, path)) fail_msg("%s is not in: %s", path, err.text);
        make_end(&k);
    }
}

static void cut_while_running(void **state) {
    char path[MAKE_PATH + 64];
    struct marlin_error err = {0};
    struct feed f;
    (void)state;
    assert_int_equal(sigaction(SIGBUS, &guard, NULL), 0);
    make_begin(&k, "qwen3");
    make_write(&k);
    struct ml_model *m = make_load(k.dir);
    float *logits = ml_alloc((size_t)ml_model_config(m)->vocab_size * sizeof(float));
    assert_non_null(logits);
    assert_int_equal(feed_open(&f, m, NULL, 64, 16, &err), MARLIN_OK);
    assert_int_equal(ml_feed(f.work, f.sequence, make_prompt, 3, ML_LOGITS_LAST, logits, &err), MARLIN_OK);
    weights_path(path);
    assert_int_equal(truncate(path, 4096), 0);
    assert_int_equal(ml_feed(f.work, f.sequence, make_prompt + 3, 1, ML_LOGITS_LAST, logits, &err),
                     MARLIN_ERR_IO);
    if (!strstr(err.text, path) || !strstr(err.text, "truncated while in use")) fail_msg("%s", err.text);
    assert_int_equal(ml_sequence_length(f.sequence), 3); /* the token does not count */
    ml_free(logits);
    feed_close(&f);
    ml_model_free(m);
    make_end(&k);
}

/* ---- weights that are no numbers ---- */

/* Logits of the fixture with every weight of a tensor set to one bfloat16 value. Runs to its end: nothing may
 * be indexed by a number that compares with nothing. */
static float *with_weights(const char *fixture, const char *tensor, uint16_t value) {
    make_begin(&k, fixture);
    const size_t i = make_find(&k, tensor);
    assert_int_equal(k.decls[i].dtype, ML_BF16);
    uint16_t *data = ml_alloc(k.bytes[i]);
    assert_non_null(data);
    for (size_t j = 0; j < k.bytes[i] / 2; j++)
        data[j] = value;
    k.data[i] = data;
    make_write(&k);
    struct ml_model *m = make_load(k.dir);
    float *logits = make_logits(m);
    ml_model_free(m);
    make_end(&k);
    ml_free(data);
    return logits;
}

static size_t count_finite(const float *x, size_t n) {
    size_t finite = 0;
    for (size_t i = 0; i < n; i++)
        finite += isfinite(x[i]) != 0;
    return finite;
}

static void nan_and_infinity(void **state) {
    static const uint16_t values[] = {0x7FC0 /* NaN */, 0xFFFF /* NaN */, 0x7F80 /* inf */, 0xFF80 /* -inf */,
                                      0x7F7F /* the largest */};
    static const struct {
        const char *fixture, *tensor;
    } parts[] = {{"qwen3", "model.embed_tokens.weight"},
                 {"qwen3", "model.layers.0.self_attn.q_proj.weight"},
                 {"qwen3", "model.layers.0.mlp.down_proj.weight"},
                 {"qwen3", "model.layers.1.self_attn.k_norm.weight"},
                 {"qwen3_moe", "model.layers.1.mlp.gate.weight"},
                 {"mixtral", "model.layers.0.block_sparse_moe.gate.weight"},
                 {"gemma2", "model.layers.0.self_attn.k_proj.weight"}};
    (void)state;
    for (size_t p = 0; p < sizeof(parts) / sizeof(parts[0]); p++) {
        for (size_t v = 0; v < sizeof(values) / sizeof(values[0]); v++) {
            float *logits = with_weights(parts[p].fixture, parts[p].tensor, values[v]);
            if (v < 2 && p != 3) assert_int_equal(count_finite(logits, MAKE_PROMPT * 256), 0);
            ml_free(logits);
        }
    }
}

/* Weights too small for a normal number act as the zeros that they nearly are. */
static void denormals(void **state) {
    (void)state;
    float *tiny = with_weights("qwen3", "model.layers.0.mlp.down_proj.weight", 0x0001);
    float *zero = with_weights("qwen3", "model.layers.0.mlp.down_proj.weight", 0x0000);
    assert_int_equal(count_finite(tiny, MAKE_PROMPT * 256), MAKE_PROMPT * 256);
    for (size_t i = 0; i < MAKE_PROMPT * 256; i++)
        assert_true(fabsf(tiny[i] - zero[i]) < 1e-6f);
    ml_free(tiny);
    ml_free(zero);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_config_for_other_weights),
        cmocka_unit_test(cut_before_loading),
        cmocka_unit_test(cut_while_running),
        cmocka_unit_test(nan_and_infinity),
        cmocka_unit_test(denormals),
    };
    return cmocka_run_group_tests(tests, begin, guard_clean);
}
