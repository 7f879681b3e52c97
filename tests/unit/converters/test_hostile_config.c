/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json and generation_config.json that are wrong or mean harm: hostile inputs 11, 12, 13 and 16. Every
 * error names the file and the key.
 */
#include "base/log.h"
#include "converters/hf_config.h"
#include "unit/converters/support.h"

#include <math.h>
#include <sys/stat.h>

struct member {
    const char *key, *value; /* JSON; NULL leaves the key out */
};

static const struct member sound[] = {{"model_type", "\"llama\""},  {"hidden_size", "64"},
                                      {"intermediate_size", "128"}, {"num_hidden_layers", "4"},
                                      {"num_attention_heads", "4"}, {"num_key_value_heads", "2"},
                                      {"vocab_size", "256"},        {"max_position_embeddings", "128"},
                                      {"rms_norm_eps", "1e-5"},     {NULL, NULL}};

static void add(char *text, size_t cap, const struct member *m) {
    const size_t at = strlen(text);
    if (m->value) (void)snprintf(text + at, cap - at, "%s\"%s\":%s", text[1] ? "," : "", m->key, m->value);
}

static const struct member *find(const struct member *list, const char *key) {
    for (; list->key; list++) {
        if (strcmp(list->key, key) == 0) return list;
    }
    return NULL;
}

/* The sound config with members changed, added or left out. */
static void compose(char *text, size_t cap, const struct member *changes) {
    (void)snprintf(text, cap, "{");
    for (const struct member *m = sound; m->key; m++) {
        const struct member *other = find(changes, m->key);
        add(text, cap, other ? other : m);
    }
    for (const struct member *m = changes; m->key; m++) {
        if (!find(sound, m->key)) add(text, cap, m);
    }
    (void)snprintf(text + strlen(text), cap - strlen(text), "}");
}

static marlin_status parse(const struct member *changes, struct marlin_error *err) {
    char text[8192];
    struct ml_config *c = NULL;
    compose(text, sizeof text, changes);
    const marlin_status st = ml_config_parse(text, strlen(text), NULL, 0, "dir/config.json", &c, err);
    ml_config_free(c);
    return st;
}

#define CHANGES(...) ((const struct member[]){__VA_ARGS__, {NULL, NULL}})

static void refuse_all(const struct member *changes, marlin_status code, const char *part) {
    struct marlin_error err = {0};
    assert_error(parse(changes, &err), &err, code, part);
    assert_non_null(strstr(err.text, "dir/config.json: "));
}

/* One key with a value that is no good; the message names the key. */
static void refuse(const char *key, const char *value, const char *part) {
    const struct member changes[] = {{key, value}, {NULL, NULL}};
    struct marlin_error err = {0};
    assert_error(parse(changes, &err), &err, MARLIN_ERR_FORMAT, part);
    if (!strstr(err.text, key) || !strstr(err.text, "dir/config.json: "))
        fail_msg("%s is not in: %s", key, err.text);
}

static void accept(const struct member *changes) {
    struct marlin_error err = {0};
    assert_ok(parse(changes, &err), &err);
}

/* ---- families ---- */

static void choices_of_experts_that_cannot_be(void **state) {
    (void)state;
#define GLM(...)                                                                                             \
    CHANGES({"model_type", "\"glm4_moe\""}, {"n_routed_experts", "8"}, {"num_experts_per_tok", "2"},         \
            {"moe_intermediate_size", "32"}, __VA_ARGS__)
    accept(GLM({"n_group", "4"}, {"topk_group", "2"}));
    refuse_all(GLM({"n_group", "3"}), MARLIN_ERR_FORMAT, "n_group: does not divide");
    refuse_all(GLM({"n_group", "8"}, {"topk_group", "2"}), MARLIN_ERR_FORMAT,
               "n_group: leaves fewer than two");
    refuse_all(GLM({"n_group", "0"}), MARLIN_ERR_FORMAT, "n_group");
    refuse_all(GLM({"n_group", "100000"}), MARLIN_ERR_FORMAT, "n_group");
    refuse_all(GLM({"n_group", "2"}, {"topk_group", "3"}), MARLIN_ERR_FORMAT, "topk_group");
    refuse_all(GLM({"first_k_dense_replace", "5"}), MARLIN_ERR_FORMAT, "first_k_dense_replace");
    refuse_all(GLM({"n_shared_experts", "-1"}), MARLIN_ERR_FORMAT, "n_shared_experts");
    refuse_all(GLM({"routed_scaling_factor", "0"}), MARLIN_ERR_FORMAT, "routed_scaling_factor");
    refuse_all(
        CHANGES({"model_type", "\"glm4_moe\""}, {"n_routed_experts", "8"}, {"num_experts_per_tok", "9"}),
        MARLIN_ERR_FORMAT, "num_experts_per_tok");
    refuse_all(CHANGES({"model_type", "\"glm4_moe\""}, {"n_routed_experts", "8"}, {"n_group", "4"},
                       {"topk_group", "1"}, {"num_experts_per_tok", "3"}),
               MARLIN_ERR_FORMAT, "topk_group: leaves fewer experts");
#undef GLM
}

static void graphs_of_no_code_are_named(void **state) {
    (void)state;
    accept(CHANGES({"model_type", "\"stablelm\""}, {"use_parallel_residual", "false"}));
    refuse_all(CHANGES({"model_type", "\"stablelm\""}, {"use_parallel_residual", "true"}),
               MARLIN_ERR_UNSUPPORTED, "use_parallel_residual");
    refuse_all(CHANGES({"model_type", "\"stablelm\""}, {"qk_layernorm", "true"}), MARLIN_ERR_UNSUPPORTED,
               "qk_layernorm");
    refuse_all(CHANGES({"model_type", "\"ministral3\""},
                       {"rope_parameters", "{\"rope_type\":\"default\",\"llama_4_scaling_beta\":0.1}"}),
               MARLIN_ERR_FORMAT, "llama_4_scaling_beta: needs original_max");
    accept(CHANGES({"model_type", "\"muse_glimmer_text\""}, {"layer_rope_theta", "[0, 5e5, 5e5, 0]"}));
    refuse_all(CHANGES({"model_type", "\"muse_glimmer_text\""}, {"layer_rope_theta", "[0, 5e5, 1e4, 0]"}),
               MARLIN_ERR_FORMAT, "layer_rope_theta: layers of different bases");
    refuse_all(CHANGES({"model_type", "\"muse_glimmer_text\""}, {"layer_rope_theta", "[0, 5e5]"}),
               MARLIN_ERR_FORMAT, "layer_rope_theta");
    refuse_all(CHANGES({"model_type", "\"minimax_m2\""}, {"rotary_dim", "999"}, {"num_local_experts", "8"}),
               MARLIN_ERR_FORMAT, "rotary_dim");
}

/* ---- 11: dimensions ---- */

static void sizes(void **state) {
    static const char *const keys[] = {
        "hidden_size",         "intermediate_size", "num_hidden_layers",      "num_attention_heads",
        "num_key_value_heads", "vocab_size",        "max_position_embeddings"};
    static const char *const values[] = {"0",          "-1",
                                         "-4096",      "1e309",
                                         "4096.0",     "4e3",
                                         "\"4\"",      "[4]",
                                         "{}",         "true",
                                         "2147483648", "9223372036854775807",
                                         "-0",         "18446744073709551616"};
    (void)state;
    accept((const struct member[]){{NULL, NULL}});
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            refuse(keys[k], values[v], "an integer from 1 to ");
        }
    }
    refuse("hidden_size", NULL, "is missing");
    refuse("hidden_size", "null", "is missing");
    refuse("intermediate_size", NULL, "is missing");
    refuse("num_hidden_layers", NULL, "is missing");
    refuse("num_attention_heads", NULL, "is missing");
    refuse("vocab_size", NULL, "is missing");
    refuse("num_hidden_layers", "1000000000", "is 1000000000: an integer from 1 to 4096 is needed");
    refuse("hidden_size", "\"4096\"", "is string: an integer");
    refuse("hidden_size", "1e309", "not a 64-bit integer");
}

static void heads(void **state) {
    (void)state;
    refuse("num_key_value_heads", "3", "3 does not divide num_attention_heads 4");
    refuse("num_key_value_heads", "8", "8 does not divide num_attention_heads 4");
    refuse("num_attention_heads", "6", "6 does not divide hidden_size 64");
    refuse("head_dim", "0", "an integer from 1 to ");
    refuse("head_dim", "-16", "an integer from 1 to ");
    refuse("head_dim", "15", "an even number is needed");
    refuse("head_dim", "1", "an even number is needed");
    accept(CHANGES({"num_attention_heads", "6"}, {"head_dim", "16"}));
}

static void experts(void **state) {
    (void)state;
    refuse_all(
        CHANGES({"model_type", "\"mixtral\""}, {"num_local_experts", "4"}, {"num_experts_per_tok", "5"}),
        MARLIN_ERR_FORMAT, "num_experts_per_tok: is 5: an integer from 1 to 4 is needed");
    refuse_all(
        CHANGES({"model_type", "\"mixtral\""}, {"num_local_experts", "4"}, {"num_experts_per_tok", "0"}),
        MARLIN_ERR_FORMAT, "num_experts_per_tok: is 0");
    refuse_all(CHANGES({"model_type", "\"mixtral\""}, {"num_local_experts", "0"}), MARLIN_ERR_FORMAT,
               "num_local_experts: is 0");
    refuse_all(CHANGES({"model_type", "\"mixtral\""}, {"num_local_experts", "1000000000"}), MARLIN_ERR_FORMAT,
               "num_local_experts: is 1000000000");
    refuse_all(CHANGES({"model_type", "\"qwen3_moe\""}, {"num_experts", "4"}, {"num_experts_per_tok", "8"}),
               MARLIN_ERR_FORMAT, "num_experts_per_tok: is 8");
    refuse_all(CHANGES({"model_type", "\"qwen3_moe\""}, {"decoder_sparse_step", "0"}), MARLIN_ERR_FORMAT,
               "decoder_sparse_step: is 0");
    refuse_all(CHANGES({"model_type", "\"qwen3_moe\""}, {"moe_intermediate_size", "0"}), MARLIN_ERR_FORMAT,
               "moe_intermediate_size: is 0");
    refuse_all(CHANGES({"model_type", "\"qwen3_moe\""}, {"mlp_only_layers", "[4]"}), MARLIN_ERR_FORMAT,
               "mlp_only_layers: an entry is not the number of a layer");
    refuse_all(CHANGES({"model_type", "\"qwen3_moe\""}, {"mlp_only_layers", "7"}), MARLIN_ERR_FORMAT,
               "mlp_only_layers: is not an array");
}

static void layer_lists(void **state) {
    (void)state;
    refuse_all(CHANGES({"model_type", "\"qwen3\""}, {"layer_types", "[\"full_attention\"]"}),
               MARLIN_ERR_FORMAT, "layer_types: has 1 entries, the model 4 layers");
    refuse_all(CHANGES({"model_type", "\"qwen3\""}, {"layer_types", "{}"}), MARLIN_ERR_FORMAT, "layer_types");
    refuse_all(
        CHANGES({"model_type", "\"qwen3\""},
                {"layer_types", "[\"full_attention\",\"full_attention\",\"full_attention\",\"mamba\"]"}),
        MARLIN_ERR_UNSUPPORTED, "layer_types: \"mamba\" is not supported");
    refuse_all(CHANGES({"model_type", "\"qwen3\""},
                       {"layer_types", "[\"full_attention\",\"full_attention\",\"full_attention\",3]"}),
               MARLIN_ERR_UNSUPPORTED, "layer_types: \"number\" is not supported");
    refuse_all(CHANGES({"model_type", "\"smollm3\""}, {"no_rope_layers", "[1,1,1]"}), MARLIN_ERR_FORMAT,
               "no_rope_layers: has 3 entries");
    refuse_all(CHANGES({"model_type", "\"smollm3\""}, {"no_rope_layers", "[1,1,1,2]"}), MARLIN_ERR_FORMAT,
               "no_rope_layers: an entry is not 0 or 1");
    refuse_all(CHANGES({"model_type", "\"smollm3\""}, {"no_rope_layer_interval", "0"}), MARLIN_ERR_FORMAT,
               "no_rope_layer_interval: is 0");
    refuse_all(CHANGES({"model_type", "\"gemma3_text\""}, {"sliding_window_pattern", "0"}), MARLIN_ERR_FORMAT,
               "sliding_window_pattern: is 0");
}

static void families(void **state) {
    (void)state;
    refuse_all(CHANGES({"model_type", "\"deepseek_v9\""}), MARLIN_ERR_UNSUPPORTED,
               "model_type \"deepseek_v9\" is not supported: supported are llama, ");
    refuse_all(CHANGES({"model_type", NULL}), MARLIN_ERR_FORMAT, "model_type: is missing or not a string");
    refuse_all(CHANGES({"model_type", "7"}), MARLIN_ERR_FORMAT, "model_type: is missing or not a string");
    refuse_all(CHANGES({"model_type", "\"%s%n%s\""}), MARLIN_ERR_UNSUPPORTED, "model_type \"%s%n%s\"");
    refuse_all(CHANGES({"model_type", "\"wrapper\""}, {"text_config", "7"}), MARLIN_ERR_UNSUPPORTED,
               "\"wrapper\"");
    refuse_all(CHANGES({"model_type", "\"wrapper\""}, {"text_config", "{\"model_type\":\"llama\"}"}),
               MARLIN_ERR_FORMAT, "is missing");
    refuse_all(CHANGES({"hidden_act", "\"relu6\""}), MARLIN_ERR_UNSUPPORTED,
               "activation \"relu6\" is not supported");
    refuse_all(CHANGES({"hidden_act", "7"}), MARLIN_ERR_UNSUPPORTED, "activation \"number\"");
    refuse_all(CHANGES({"tie_word_embeddings", "1"}), MARLIN_ERR_FORMAT, "tie_word_embeddings: is number");
    refuse_all(CHANGES({"quantization_config", "{}"}), MARLIN_ERR_FORMAT,
               "quantization_config: has no quant_method");
}

/* ---- 12: rotary position ---- */

static void refuse_rope(const char *scaling, const char *part) {
    refuse_all(CHANGES({"rope_scaling", scaling}), MARLIN_ERR_FORMAT, part);
    refuse_all(CHANGES({"rope_parameters", scaling}), MARLIN_ERR_FORMAT, part);
}

static void rope_factors(void **state) {
    static const char *const kinds[] = {"linear", "dynamic", "yarn", "llama3", "longrope"};
    static const char *const factors[] = {"0", "-1", "-0.0", "1e309", "\"2\"", "[]"};
    char text[256];
    (void)state;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        for (size_t f = 0; f < sizeof factors / sizeof *factors; f++) {
            (void)snprintf(text, sizeof text, "{\"rope_type\":\"%s\",\"factor\":%s}", kinds[k], factors[f]);
            refuse_rope(text, "factor: is ");
        }
    }
    refuse_rope("{\"type\":\"linear\",\"factor\":NaN}", "factor: is out of range");
    refuse_rope("{\"type\":\"linear\"}", "rope factor: is missing");
    refuse_all(CHANGES({"rope_scaling", "{\"type\":\"ntk9\",\"factor\":2}"}), MARLIN_ERR_UNSUPPORTED,
               "rope_type \"ntk9\" is not supported");
    refuse_rope("{\"type\":7,\"factor\":2}", "rope_type: is not a string");
    refuse_all(CHANGES({"rope_scaling", "7"}), MARLIN_ERR_FORMAT, "rope parameters: are not an object");
    refuse_all(CHANGES({"rope_parameters", "7"}), MARLIN_ERR_FORMAT, "rope_parameters: is not an object");
}

static void rope_bases(void **state) {
    static const char *const thetas[] = {"0", "1", "-10000", "0.5", "1e309", "\"10000\""};
    (void)state;
    for (size_t i = 0; i < sizeof thetas / sizeof *thetas; i++) {
        refuse("rope_theta", thetas[i], "a finite number above 1 is needed");
    }
    refuse("partial_rotary_factor", "0", "a finite number above 0");
    refuse("partial_rotary_factor", "-1", "a finite number above 0");
    refuse("partial_rotary_factor", "1.5", "is above 1");
    refuse_all(CHANGES({"partial_rotary_factor", "0.01"}), MARLIN_ERR_FORMAT, "gives 0 rotary dimensions");
    refuse_rope("{\"rope_type\":\"yarn\",\"factor\":2,\"original_max_position_embeddings\":0}",
                "original_max_position_embeddings: is 0");
    refuse_rope("{\"rope_type\":\"yarn\",\"factor\":2,\"original_max_position_embeddings\":-4}",
                "original_max_position_embeddings: is -4");
    refuse_rope("{\"rope_type\":\"yarn\",\"factor\":2,\"beta_fast\":1,\"beta_slow\":32}",
                "beta_fast: is below beta_slow");
    refuse_rope("{\"rope_type\":\"yarn\",\"factor\":2,\"attention_factor\":-1}", "attention_factor: is -1");
    refuse_rope("{\"rope_type\":\"llama3\",\"factor\":2}", "low_freq_factor: is missing");
    refuse_rope("{\"rope_type\":\"llama3\",\"factor\":2,\"low_freq_factor\":4,\"high_freq_factor\":4}",
                "high_freq_factor: is not above low_freq_factor");
    refuse_all(CHANGES({"rope_scaling", "{\"rope_type\":\"default\",\"mrope_section\":[4,-2,2]}"}),
               MARLIN_ERR_UNSUPPORTED, "mrope_section: is not supported");
}

/* head_dim 16: eight factors each are needed. */
static void long_factors(void **state) {
    char text[512];
    static const char *const lists[] = {"[]", "[1,1,1,1,1,1,1]", "[1,1,1,1,1,1,1,1,1]", "7", "{}"};
    static const char *const entries[] = {"0", "-1", "1e309", "null", "\"1\""};
    (void)state;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        (void)snprintf(
            text, sizeof text,
            "{\"rope_type\":\"longrope\",\"factor\":2,\"short_factor\":[1,1,1,1,1,1,1,1],\"long_factor\":%s}",
            lists[i]);
        refuse_rope(text, "8 are needed");
    }
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        (void)snprintf(text, sizeof text,
                       "{\"rope_type\":\"longrope\",\"factor\":2,\"short_factor\":[1,1,1,1,1,1,1,%s],"
                       "\"long_factor\":[1,1,1,1,1,1,1,1]}",
                       entries[i]);
        refuse_rope(text, "short_factor: an entry is not a number above 0");
    }
}

/* ---- 13: epsilon and window ---- */

static void epsilon_and_window(void **state) {
    static const char *const windows[] = {"0", "-1", "1.5", "\"8\"", "2147483648"};
    (void)state;
    refuse("rms_norm_eps", "0", "is 0: a finite number above 0 is needed");
    refuse("rms_norm_eps", "-1e-5", "a finite number above 0");
    refuse("rms_norm_eps", "1e999", "out of range");
    refuse("rms_norm_eps", "\"1e-5\"", "is string");
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        refuse_all(CHANGES({"model_type", "\"mistral\""}, {"sliding_window", windows[i]}), MARLIN_ERR_FORMAT,
                   "sliding_window: is ");
    }
    accept(CHANGES({"model_type", "\"mistral\""}, {"sliding_window", "1000000"})); /* beyond every position */
    accept(CHANGES({"model_type", "\"mistral\""}, {"sliding_window", "null"}));
    refuse_all(CHANGES({"model_type", "\"gemma2\""}, {"sliding_window", "null"}), MARLIN_ERR_FORMAT,
               "sliding_window: is null or switched off, but some layers slide");
    refuse_all(CHANGES({"model_type", "\"gemma2\""}, {"attn_logit_softcapping", "0"}), MARLIN_ERR_FORMAT,
               "attn_logit_softcapping: is 0");
    refuse_all(CHANGES({"model_type", "\"gemma2\""}, {"query_pre_attn_scalar", "-1"}), MARLIN_ERR_FORMAT,
               "query_pre_attn_scalar: is -1");
}

/* ---- tokens and sampling defaults ---- */

static void keep_warning(void *user, enum ml_log_level level, const char *text) {
    (void)level;
    (void)snprintf(user, MARLIN_ERROR_TEXT, "%s", text);
}

static struct ml_config *with_generation(const char *generation, char warning[MARLIN_ERROR_TEXT]) {
    char text[2048];
    struct ml_config *c = NULL;
    struct marlin_error err = {0};
    compose(text, sizeof text, (const struct member[]){{NULL, NULL}});
    warning[0] = '\0';
    ml_log_set(keep_warning, warning, ML_LOG_WARN);
    const marlin_status st =
        ml_config_parse(text, strlen(text), generation, strlen(generation), "dir/config.json", &c, &err);
    ml_log_set(NULL, NULL, ML_LOG_WARN);
    if (st != MARLIN_OK) fail_msg("%s", err.text);
    return c;
}

/* What cannot be used is said and left aside; what stands beside it counts. */
static void left_aside(const char *generation, const char *part) {
    char warning[MARLIN_ERROR_TEXT];
    struct ml_config *c = with_generation(generation, warning);
    assert_non_null(strstr(warning, "dir/config.json (generation config): "));
    if (!strstr(warning, part) || !strstr(warning, "left aside")) fail_msg("%s: %s", generation, warning);
    assert_true(isnan(c->temperature) && isnan(c->top_p) && isnan(c->min_p) && isnan(c->repetition_penalty));
    assert_false(c->has_do_sample || c->do_sample);
    assert_true(c->top_k == -1 || c->top_k == 7);
    ml_config_free(c);
}

static void generation(void **state) {
    (void)state;
    refuse("bos_token_id", "-2", "an integer from -1 to ");
    refuse("bos_token_id", "\"<s>\"", "an integer from -1 to ");
    refuse("eos_token_id", "-2", "is not a token number or an array of them");
    refuse("eos_token_id", "[1,\"2\"]", "is not a token number or an array of them");
    char many[2 * 257 + 2] = "[0";
    for (size_t i = 1; i <= 256; i++)
        (void)snprintf(many + 2 * i, sizeof many - 2 * i, ",1");
    (void)snprintf(many + 2 * 257, 2, "]");
    refuse_all(CHANGES({"eos_token_id", many}), MARLIN_ERR_LIMIT,
               "eos_token_id: 257 tokens, more than the limit of 256");
    left_aside("{\"top_p\":1.5,\"top_k\":7}", "top_p: is not a number from 0 to 1");
    left_aside("{\"min_p\":-0.1}", "min_p: is not a number from 0 to 1");
    left_aside("{\"temperature\":-1}", "temperature: is not a number from 0 up");
    left_aside("{\"temperature\":Infinity}", "temperature: is not a number from 0 up");
    left_aside("{\"temperature\":1e999}", "temperature: is not a number from 0 up");
    left_aside("{\"repetition_penalty\":0}", "repetition_penalty: is 0");
    left_aside("{\"top_k\":-5}", "top_k: is -5");
    left_aside("{\"do_sample\":7}", "do_sample: is number");
    left_aside("{\"eos_token_id\":\"x\"}", "eos_token_id: is not a token number");
    left_aside("[]", "the root: is not an object");
    left_aside("", "JSON: ");
    left_aside("<html>", "not JSON");
}

/* -1 is no token, and other values that are no numbers stand where nobody looks. */
static void generation_without_eos(void **state) {
    char warning[MARLIN_ERROR_TEXT];
    (void)state;
    struct ml_config *c = with_generation("{\"eos_token_id\":-1,\"length_penalty\":Infinity}", warning);
    assert_int_equal(c->n_eos, 0);
    ml_config_free(c);
    c = with_generation("{\"eos_token_id\":[3,-1,5],\"top_p\":0.0}", warning);
    assert_int_equal(c->n_eos, 2);
    assert_true(c->eos_ids[0] == 3 && c->eos_ids[1] == 5 && c->top_p == 0);
    ml_config_free(c);
    assert_string_equal(warning, "");
}

/* ---- text that is no JSON ---- */

static void refuse_text(const char *text, size_t len, marlin_status code, const char *part) {
    struct ml_config *c = NULL;
    struct marlin_error err = {0};
    const marlin_status st = ml_config_parse(text, len, NULL, 0, "dir/config.json", &c, &err);
    ml_config_free(c);
    assert_error(st, &err, code, part);
    assert_non_null(strstr(err.text, "dir/config.json: "));
}

static void broken_text(void **state) {
    char deep[400];
    (void)state;
    refuse_text("", 0, MARLIN_ERR_FORMAT, "found the end (offset 0)");
    refuse_text("{", 1, MARLIN_ERR_FORMAT, "(offset 1)");
    refuse_text("{}x", 3, MARLIN_ERR_FORMAT, "(offset 2)");
    refuse_text("\xef\xbb\xbf{}", 5, MARLIN_ERR_FORMAT, "(offset 0)");
    refuse_text("{\0}\0", 4, MARLIN_ERR_FORMAT, "(offset 1)");
    refuse_text("{\"a\":Nan}", 9, MARLIN_ERR_FORMAT, "(offset 5)");
    refuse_text("{\"a\":1,\"a\":2}", 13, MARLIN_ERR_FORMAT, "duplicate key \"a\"");
    refuse_text("[]", 2, MARLIN_ERR_FORMAT, "the root: is not an object");
    refuse_text("null", 4, MARLIN_ERR_FORMAT, "the root: is not an object");
    memset(deep, '[', sizeof deep);
    refuse_text(deep, sizeof deep, MARLIN_ERR_LIMIT, "nested deeper than 32 (offset 32)");
}

/* ---- 16: size ---- */

static void load_from_dir(marlin_status code, const char *part) {
    struct ml_config *c = NULL;
    struct marlin_error err = {0};
    const double start = seconds_now();
    const marlin_status st = ml_config_load(test_dir, &c, &err);
    assert_true(seconds_now() - start < 5);
    ml_config_free(c);
    assert_error(st, &err, code, part);
    assert_non_null(strstr(err.text, "/config.json: "));
}

static void a_gigabyte(void **state) {
    (void)state;
    write_text(in_dir("config.json"), "");
    assert_int_equal(truncate(in_dir("config.json"), (off_t)1 << 30), 0);
    load_from_dir(MARLIN_ERR_LIMIT, "1073741824 bytes, more than the limit of 8388608");
    assert_int_equal(truncate(in_dir("config.json"), 8 << 20), 0); /* NULs up to the limit are read */
    load_from_dir(MARLIN_ERR_FORMAT, "(offset 0)");
}

/* As many keys as there are bytes for: refused by the number of values or, larger, unread. */
static void many_keys(void **state) {
    (void)state;
    for (int n = 500000; n <= 10000000; n *= 20) {
        FILE *f = fopen(in_dir("config.json"), "w");
        assert_non_null(f);
        for (int i = 0; i < n; i++) {
            (void)fprintf(f, "%c\"%x\":0", i ? ',' : '{', (unsigned)i);
        }
        (void)fprintf(f, "}");
        assert_int_equal(fclose(f), 0);
        load_from_dir(n > 500000 ? MARLIN_ERR_LIMIT : MARLIN_ERR_FORMAT,
                      n > 500000 ? "more than the limit of 8388608" : "model_type: is missing");
    }
    char *values = malloc(4 << 20);
    assert_non_null(values);
    for (size_t i = 0; i < (2 << 20); i++) {
        memcpy(values + 2 * i, i ? ",0" : "[0", 2);
    }
    values[(4 << 20) - 1] = ']';
    values[(4 << 20) - 2] = ' ';
    write_bytes(in_dir("config.json"), values, 4 << 20);
    free(values);
    load_from_dir(MARLIN_ERR_LIMIT, "more than 1000000 values");
}

static void missing_files(void **state) {
    (void)state;
    load_from_dir(MARLIN_ERR_NOT_FOUND, "cannot open");
    assert_int_equal(mkfifo(in_dir("config.json"), 0600), 0);
    load_from_dir(MARLIN_ERR_IO, "is a FIFO");
    assert_int_equal(unlink(in_dir("config.json")), 0);
    assert_int_equal(symlink("/dev/zero", in_dir("config.json")), 0);
    load_from_dir(MARLIN_ERR_IO, "is a device");
    assert_int_equal(unlink(in_dir("config.json")), 0);
    assert_int_equal(symlink("config.json", in_dir("config.json")), 0);
    load_from_dir(MARLIN_ERR_IO, "cannot open");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices_of_experts_that_cannot_be),
        cmocka_unit_test(graphs_of_no_code_are_named),
        cmocka_unit_test(sizes),
        cmocka_unit_test(heads),
        cmocka_unit_test(experts),
        cmocka_unit_test(layer_lists),
        cmocka_unit_test(families),
        cmocka_unit_test(rope_factors),
        cmocka_unit_test(rope_bases),
        cmocka_unit_test(long_factors),
        cmocka_unit_test(epsilon_and_window),
        cmocka_unit_test(generation),
        cmocka_unit_test(generation_without_eos),
        cmocka_unit_test(broken_text),
        cmocka_unit_test_teardown(a_gigabyte, clear_test_dir),
        cmocka_unit_test_teardown(many_keys, clear_test_dir),
        cmocka_unit_test_teardown(missing_files, clear_test_dir),
    };
    return cmocka_run_group_tests(tests, make_test_dir, remove_test_dir);
}
