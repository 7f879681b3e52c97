/* SPDX-License-Identifier: Apache-2.0
 *
 * `marlin bench`: tokens a second, and what share of the machine they use. What is asked for, and in what
 * order it is run.
 */
#include "cli/bench.h"

#include "base/mem.h"
#include "converters/hf_config.h"

#include <stdio.h>
#include <string.h>

enum { MAX_REPEAT = 100, OUTPUT_LIMIT = 1 << 20, MAX_LIST = 16, MAX_BATCH = 256, MAX_DEPTH = 1 << 20 };

static const struct ml_option options[] = {
    {"shape", 0, ML_OPT_CHOICE, "qwen3-0.6b|qwen3-4b|llama-3.1-8b|qwen3-30b-a3b",
     "random weights of this shape instead of a model", NULL, 0, 0},
    {"bits", 0, ML_OPT_INT, "N", "bits a weight of --shape: 2 to 6, 8, or 16 = bf16", "16", 1, 16},
    {"format", 0, ML_OPT_CHOICE, "marlin|exl3", "format of quantized weights of --shape", "marlin", 0, 0},
    {"prompt-tokens", 'p', ML_OPT_INT, "N", "tokens of the prompt test, 0 = leave it out", "512", 0, 1 << 20},
    {"tokens", 'n', ML_OPT_INT, "N", "tokens of the generation test, 0 = leave it out", "64", 0, 1 << 20},
    {"batch", 0, ML_OPT_STRING, "LIST", "sequences generated at a time, 1 to 256: 1,4,16", "1", 0, 0},
    {"depth", 0, ML_OPT_STRING, "LIST", "positions that the cache holds before a test: 0,4096", NULL, 0, 0},
    {"cache-type", 0, ML_OPT_CHOICE, ML_KV_TYPES, "type of cached keys and values", ML_KV_DEFAULT_NAME, 0, 0},
    {"repeat", 0, ML_OPT_INT, "N", "runs of each test; the median counts", "5", 1, MAX_REPEAT},
    {"csv", 0, ML_OPT_FLAG, NULL, "print comma-separated values", NULL, 0, 0},
    {"markdown", 0, ML_OPT_FLAG, NULL, "print a Markdown table", NULL, 0, 0},
    {"plot", 0, ML_OPT_STRING, "FILE.svg", "draw the runs below the machine's limits", NULL, 0, 0},
    {"profile", 0, ML_OPT_FLAG, NULL, "print time, bytes and share of the read bandwidth by stage", NULL, 0,
     0},
    {"trace", 0, ML_OPT_STRING, "FILE", "write a timeline of stages for chrome://tracing", NULL, 0, 0},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

const struct ml_verb ml_verb_bench = {
    .name = "bench",
    .args = "[MODEL]",
    .help = "measure speed, and the share of the machine it uses",
    .details =
        "ppN feeds a prompt of N tokens, tgN generates N tokens one by one after it. With --depth, ppN@D and "
        "tgN@D "
        "do so with D positions in the cache instead, whose contents are made up. Several sequences at a "
        "time take "
        "one token of each a step; tokens a second count all of them.\n\n"
        "GB/s are weights, read once a step or a chunk of a prompt, and with --depth keys and values too; of "
        "a "
        "mixture of experts those of one token, which is less than several read. Operations are those with "
        "weights. Both are also given as shares of what this machine reads and computes at most, measured "
        "between "
        "the runs.\n\n"
        "--plot draws operations a second over operations a byte read. --profile and --trace repeat the runs "
        "of one "
        "sequence at the first depth after everything was timed.",
    .examples = "marlin bench\n"
                "marlin bench ~/models/Qwen3-0.6B -p 512 -n 64 --batch 1,4,16\n"
                "marlin bench --shape qwen3-4b --bits 4 --markdown",
    .options = options,
    .min_args = 0,
    .max_args = 1,
};

#define QWEN3_COMMON                                                                                         \
    "\"head_dim\":128,\"hidden_act\":\"silu\",\"attention_bias\":false,\"rms_norm_eps\":1e-6,"               \
    "\"rope_theta\":1000000,\"max_position_embeddings\":40960,\"vocab_size\":151936,"

static const struct shape {
    const char *name, *config;
} shapes[] = {
    {"qwen3-0.6b", "{\"model_type\":\"qwen3\"," QWEN3_COMMON
                   "\"hidden_size\":1024,\"intermediate_size\":3072,\"num_hidden_layers\":28,"
                   "\"num_attention_heads\":16,\"num_key_value_heads\":8,\"tie_word_embeddings\":true}"},
    {"qwen3-4b", "{\"model_type\":\"qwen3\"," QWEN3_COMMON
                 "\"hidden_size\":2560,\"intermediate_size\":9728,\"num_hidden_layers\":36,"
                 "\"num_attention_heads\":32,\"num_key_value_heads\":8,\"tie_word_embeddings\":true}"},
    {"llama-3.1-8b", "{\"model_type\":\"llama\",\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-5,"
                     "\"hidden_size\":4096,\"intermediate_size\":14336,\"num_hidden_layers\":32,"
                     "\"num_attention_heads\":32,\"num_key_value_heads\":8,\"head_dim\":128,"
                     "\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
                     "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                     "\"original_max_position_embeddings\":8192},\"max_position_embeddings\":131072,"
                     "\"vocab_size\":128256,\"tie_word_embeddings\":false}"},
    {"qwen3-30b-a3b", "{\"model_type\":\"qwen3_moe\"," QWEN3_COMMON
                      "\"hidden_size\":2048,\"intermediate_size\":6144,\"num_hidden_layers\":48,"
                      "\"num_attention_heads\":32,\"num_key_value_heads\":4,\"num_experts\":128,"
                      "\"num_experts_per_tok\":8,\"moe_intermediate_size\":768,\"norm_topk_prob\":true,"
                      "\"tie_word_embeddings\":false}"},
};

/* Numbers of an option like --batch 1,2,4. */
struct list {
    size_t at[MAX_LIST], n;
};

/* What the options ask for. */
struct plan {
    size_t prompt, tokens;
    struct list batch, depth; /* depth.n 0: --depth was not given */
};

/* One number of a list: text up to a comma or the end. */
static bool parse_number(const char *text, size_t len, size_t most, size_t *out) {
    *out = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        if (*out <= most) *out = *out * 10 + (size_t)(text[i] - '0');
    }
    return len > 0;
}

static marlin_status parse_list(const struct ml_args *a, const char *option, size_t least, size_t most,
                                struct list *out, struct marlin_error *err) {
    const char *whole = ml_args_string(a, option);
    out->n = 0;
    for (const char *text = whole, *end; text; text = end ? end + 1 : NULL) {
        end = strchr(text, ',');
        const size_t len = end ? (size_t)(end - text) : strlen(text);
        if (out->n == MAX_LIST)
            return ml_fail(err, MARLIN_ERR_ARGUMENT, "--%s: more than %d numbers", option, MAX_LIST);
        size_t *v = &out->at[out->n++];
        if (!parse_number(text, len, most, v))
            return ml_fail(err, MARLIN_ERR_ARGUMENT,
                           "--%s '%.80s': whole numbers with commas between are expected, like 1,2,4", option,
                           whole);
        if (*v < least || *v > most)
            return ml_fail(err, MARLIN_ERR_ARGUMENT, "--%s: %.*s is not between %zu and %zu", option,
                           len < 20 ? (int)len : 20, text, least, most);
    }
    return MARLIN_OK;
}

static marlin_status read_options(const struct ml_args *a, struct plan *p, struct marlin_error *err) {
    const bool shape = ml_args_string(a, "shape") != NULL;
    marlin_status st;
    if (!shape && (ml_args_given(a, "bits") || ml_args_given(a, "format")))
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "bench: --bits and --format belong to --shape");
    if (shape && ml_args_count(a))
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "bench: give either a model or --shape, not both");
    p->prompt = (size_t)ml_args_int(a, "prompt-tokens");
    p->tokens = (size_t)ml_args_int(a, "tokens");
    if (p->prompt == 0 && p->tokens == 0)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "bench: both -p and -n are 0: nothing to measure");
    ML_TRY(parse_list(a, "batch", 1, MAX_BATCH, &p->batch, err));
    ML_TRY(parse_list(a, "depth", 0, MAX_DEPTH, &p->depth, err));
out:
    return st;
}

static marlin_status open_shape(const struct ml_args *a, const struct ml_runtime_options *o,
                                struct ml_runtime *r, struct marlin_error *err) {
    const struct ml_random_format format = {.bits = (int)ml_args_int(a, "bits"),
                                            .exl3 = strcmp(ml_args_string(a, "format"), "exl3") == 0};
    const char *name = ml_args_string(a, "shape");
    struct ml_config *config = NULL;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        if (strcmp(shapes[i].name, name) != 0) continue;
        marlin_status st =
            ml_config_parse(shapes[i].config, strlen(shapes[i].config), NULL, 0, name, &config, err);
        if (st != MARLIN_OK) return st;
        st = ml_runtime_random(config, &format, 1, o, r, err);
        ml_config_free(config);
        return st;
    }
    return ml_fail(err, MARLIN_ERR_ARGUMENT, "bench: no shape is called %s", name);
}

/* ---- which tests ---- */

static void add_run(struct ml_bench *b, const struct ml_bench_run *wanted) {
    struct ml_bench_run *r = &b->runs[b->n_runs];
    const char *kind = wanted->prompt ? "pp" : "tg";
    if (wanted->tokens == 0) return;
    *r = *wanted;
    if (b->deep)
        snprintf(r->test, sizeof r->test, "%s%zu@%zu", kind, r->tokens, r->start);
    else
        snprintf(r->test, sizeof r->test, "%s%zu", kind, r->tokens);
    b->n_runs++;
}

/* A prompt, then generation with each number of sequences: at each depth, or after the prompt. */
static marlin_status add_runs(struct ml_bench *b, const struct plan *p, struct marlin_error *err) {
    const size_t depths = p->depth.n ? p->depth.n : 1;
    b->runs = ml_calloc(depths * (1 + p->batch.n), sizeof *b->runs);
    if (!b->runs) return ml_fail(err, MARLIN_ERR_MEMORY, "bench: out of memory");
    b->deep = p->depth.n > 0;
    for (size_t d = 0; d < depths; d++) {
        const size_t depth = b->deep ? p->depth.at[d] : 0;
        add_run(b, &(struct ml_bench_run){.prompt = true, .tokens = p->prompt, .start = depth, .batch = 1});
        for (size_t i = 0; i < p->batch.n; i++)
            add_run(b, &(struct ml_bench_run){.tokens = p->tokens,
                                              .start = b->deep ? depth : p->prompt,
                                              .batch = p->batch.at[i]});
    }
    return MARLIN_OK;
}

static marlin_status open_model(struct ml_bench *b, const char *dir, struct marlin_error *err) {
    const struct ml_runtime_options o = {.device = b->cli->device,
                                         .threads = b->cli->threads,
                                         .cache_type = ml_args_string(b->args, "cache-type"),
                                         .no_tokenizer = true};
    struct ml_model_bits bits;
    const marlin_status st =
        dir ? ml_runtime_open(dir, &o, &b->runtime, err) : open_shape(b->args, &o, &b->runtime, err);
    if (st != MARLIN_OK) return st;
    ml_model_bits(b->runtime.model, &bits);
    b->quantized = bits.quantized > 0;
    return MARLIN_OK;
}

static marlin_status print(const struct ml_bench *b, struct marlin_error *err) {
    struct ml_buf o;
    ml_buf_init(&o, OUTPUT_LIMIT);
    marlin_status st = ml_bench_report(b, &o);
    if (st != MARLIN_OK)
        st = ml_fail(err, st, "bench: the result does not fit into memory");
    else if (ml_cli_write(b->cli, &o) != ML_EXIT_DONE)
        st = MARLIN_ERR_IO; /* said already */
    ml_buf_free(&o);
    return st;
}

static marlin_status bench(struct ml_bench *b, const struct plan *p, const char *dir,
                           struct marlin_error *err) {
    const char *plot = ml_args_string(b->args, "plot");
    marlin_status st;
    b->repeat = (size_t)ml_args_int(b->args, "repeat");
    ML_TRY(add_runs(b, p, err));
    ML_TRY(open_model(b, dir, err));
    ML_TRY(ml_bench_prepare(b, err));
    ML_TRY(ml_bench_measure(b, err));
    ML_TRY(print(b, err));
    if (plot) ML_TRY(ml_bench_plot(b, plot, err));
    if (ml_args_flag(b->args, "profile") || ml_args_string(b->args, "trace"))
        ML_TRY(ml_bench_profile(b, err));
out:
    return st;
}

int ml_cmd_bench(struct ml_cli *cli, const struct ml_args *args) {
    struct ml_bench b = {.cli = cli, .args = args};
    struct plan plan = {0};
    struct marlin_error err = {0};
    const char *dir = NULL;
    marlin_status st = read_options(args, &plan, &err);
    if (st == MARLIN_OK && !ml_args_string(args, "shape")) {
        dir = ml_cli_model_dir(cli, args);
        if (!dir) return ML_EXIT_FAILED;
    }
    if (st == MARLIN_OK) st = bench(&b, &plan, dir, &err);
    ml_bench_free(&b);
    ml_runtime_close(&b.runtime);
    if (st == MARLIN_OK) return ML_EXIT_DONE;
    return err.code ? ml_cli_fail(cli, st, &err) : ML_EXIT_FAILED;
}
