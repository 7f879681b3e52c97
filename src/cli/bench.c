/* SPDX-License-Identifier: Apache-2.0
 *
 * `marlin bench`: tokens a second, and what share of the machine they use. The machine's read bandwidth and
 * peak are measured between the runs, so that both see the same neighbours; every figure is a median.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "converters/hf_config.h"
#include "engine/runtime.h"
#include "kernels/peak.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_REPEAT = 100, CHUNK = 512, OUTPUT_LIMIT = 1 << 20, N_RUNS = 2, READ_PASSES = 3 };

static const struct ml_option options[] = {
    {"shape", 0, ML_OPT_CHOICE, "qwen3-0.6b|qwen3-4b|llama-3.1-8b|qwen3-30b-a3b",
     "random weights of this shape instead of a model", NULL, 0, 0},
    {"bits", 0, ML_OPT_INT, "N", "bits a weight of --shape: 2 to 6, 8, or 16 = bf16", "16", 1, 16},
    {"format", 0, ML_OPT_CHOICE, "marlin|exl3", "format of quantized weights of --shape", "marlin", 0, 0},
    {"prompt-tokens", 'p', ML_OPT_INT, "N", "tokens of the prompt test, 0 = leave it out", "512", 0, 1 << 20},
    {"tokens", 'n', ML_OPT_INT, "N", "tokens of the generation test, 0 = leave it out", "64", 0, 1 << 20},
    {"batch", 0, ML_OPT_STRING, "LIST", "sequences generated at a time", "1", 0, 0},
    {"repeat", 0, ML_OPT_INT, "N", "runs of each test; the median counts", "5", 1, MAX_REPEAT},
    {"csv", 0, ML_OPT_FLAG, NULL, "print comma-separated values", NULL, 0, 0},
    {"markdown", 0, ML_OPT_FLAG, NULL, "print a Markdown table", NULL, 0, 0},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

const struct ml_verb ml_verb_bench = {
    .name = "bench",
    .args = "[MODEL]",
    .help = "measure speed, and the share of the machine it uses",
    .details = "ppN feeds a prompt of N tokens, tgN generates N tokens one by one after it.",
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

struct run {
    char test[32]; /* "pp512", "tg64" */
    size_t tokens;
    bool prompt;
    double seconds[MAX_REPEAT];
    /* medians */
    double tokens_per_second, gbps, bandwidth_fraction, compute_fraction;
};

struct bench {
    struct ml_cli *cli;
    const struct ml_args *args;
    struct ml_runtime runtime;
    struct ml_state *state;
    float *logits;
    int32_t *ids; /* [prompt tokens] */
    size_t prompt_tokens, repeat, n_runs;
    struct run run[N_RUNS];
    double read[MAX_REPEAT], flops[MAX_REPEAT], ops[MAX_REPEAT]; /* GB/s, Gflop/s, Gop/s of int8 */
    double read_gbps, bf16_gflops, int8_gops; /* medians; the last NaN where there is none */
    bool quantized;
    struct ml_peak_reader *reader;
};

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, size_t n) {
    qsort(v, n, sizeof(*v), compare_doubles);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static marlin_status check_options(const struct ml_args *a, struct marlin_error *err) {
    const bool shape = ml_args_string(a, "shape") != NULL;
    if (strcmp(ml_args_string(a, "batch"), "1") != 0)
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "bench --batch %s: not supported yet in this version: only --batch 1 is",
                       ml_args_string(a, "batch"));
    if (!shape && (ml_args_given(a, "bits") || ml_args_given(a, "format")))
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "bench: --bits and --format belong to --shape");
    if (shape && ml_args_count(a))
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "bench: give either a model or --shape, not both");
    return MARLIN_OK;
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

static void add_run(struct bench *b, const char *kind, size_t tokens) {
    if (tokens == 0) return;
    struct run *r = &b->run[b->n_runs++];
    snprintf(r->test, sizeof(r->test), "%s%zu", kind, tokens);
    r->tokens = tokens;
    r->prompt = kind[0] == 'p';
}

static marlin_status prepare(struct bench *b, const char *dir, struct marlin_error *err) {
    const struct ml_runtime_options o = {
        .device = b->cli->device, .threads = b->cli->threads, .no_tokenizer = true};
    const char *shape = ml_args_string(b->args, "shape");
    const size_t n = (size_t)ml_args_int(b->args, "tokens");
    marlin_status st;
    b->prompt_tokens = (size_t)ml_args_int(b->args, "prompt-tokens");
    b->repeat = (size_t)ml_args_int(b->args, "repeat");
    add_run(b, "pp", b->prompt_tokens);
    add_run(b, "tg", n);
    if (b->n_runs == 0)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "bench: both -p and -n are 0: nothing to measure");

    if (shape)
        ML_TRY(open_shape(b->args, &o, &b->runtime, err));
    else
        ML_TRY(ml_runtime_open(dir, &o, &b->runtime, err));
    struct ml_model_bits bits;
    ml_model_bits(b->runtime.model, &bits);
    b->quantized = bits.quantized > 0;
    const size_t vocab = (size_t)ml_model_config(b->runtime.model)->vocab_size;
    b->logits = ml_alloc_aligned(vocab * sizeof(float));
    b->ids = ml_calloc(b->prompt_tokens + 1, sizeof(*b->ids));
    if (!b->logits || !b->ids) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "bench: out of memory");
        goto out;
    }
    /* Spread over the vocabulary, so that the embedding rows are not all in one cache line. */
    for (size_t i = 0; i < b->prompt_tokens; i++)
        b->ids[i] = (int32_t)(i * 7919 % vocab);
    ML_TRY(
        ml_state_create(b->runtime.model, b->runtime.pool, b->prompt_tokens + n + 1, CHUNK, &b->state, err));
out:
    return st;
}

static marlin_status feed_prompt(struct bench *b, struct marlin_error *err) {
    for (size_t at = 0; at < b->prompt_tokens; at += CHUNK) {
        const size_t left = b->prompt_tokens - at, n = left < CHUNK ? left : CHUNK;
        const marlin_status st =
            ml_model_forward(b->runtime.model, b->state, b->ids + at, n,
                             n == left ? ML_LOGITS_LAST : ML_LOGITS_NONE, n == left ? b->logits : NULL, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static marlin_status generate(struct bench *b, size_t tokens, struct marlin_error *err) {
    const int32_t vocab = (int32_t)ml_model_config(b->runtime.model)->vocab_size;
    for (size_t i = 0; i < tokens; i++) {
        const int32_t id = (int32_t)(i * 104729 % (size_t)vocab);
        const marlin_status st =
            ml_model_forward(b->runtime.model, b->state, &id, 1, ML_LOGITS_LAST, b->logits, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static marlin_status time_run(struct bench *b, struct run *r, double *seconds, struct marlin_error *err) {
    marlin_status st;
    ml_state_truncate(b->state, r->prompt ? 0 : b->prompt_tokens);
    const double start = ml_clock_seconds();
    st = r->prompt ? feed_prompt(b, err) : generate(b, r->tokens, err);
    *seconds = ml_clock_seconds() - start;
    return st;
}

static marlin_status measure_peaks(struct bench *b, size_t i, struct marlin_error *err) {
    struct ml_pool *pool = b->runtime.pool;
    marlin_status st;
    if (!b->reader) ML_TRY(ml_peak_reader_create(pool, &b->reader, err));
    b->read[i] = ml_peak_reader_gbps(b->reader, pool, READ_PASSES);
    /* bf16 weights are multiplied by float32 inputs: that unit's peak is the limit. */
    ML_TRY(ml_peak_gflops(pool, ML_PEAK_F32, &b->flops[i]));
    /* Quantized ones by int8 inputs. */
    st = ml_peak_gflops(pool, ML_PEAK_INT8, &b->ops[i]);
    if (st != MARLIN_ERR_UNSUPPORTED) goto out;
    b->ops[i] = NAN;
    st = MARLIN_OK;
out:
    return st == MARLIN_OK ? st : ml_fail(err, st, "bench: no memory to measure the machine with");
}

static marlin_status measure(struct bench *b, struct marlin_error *err) {
    double warm;
    marlin_status st;
    ML_TRY(feed_prompt(b, err));
    for (size_t k = 0; k < b->n_runs; k++)
        ML_TRY(time_run(b, &b->run[k], &warm, err));
    for (size_t i = 0; i < b->repeat; i++) {
        ML_TRY(measure_peaks(b, i, err));
        /* The prompt test comes first and leaves the prompt in the cache for the generation test. */
        for (size_t k = 0; k < b->n_runs; k++)
            ML_TRY(time_run(b, &b->run[k], &b->run[k].seconds[i], err));
    }
out:
    return st;
}

static void summarize(struct bench *b) {
    const double weights = (double)ml_model_bytes_per_token(b->runtime.model);
    const double products = (double)ml_model_products_per_token(b->runtime.model);
    b->read_gbps = median(b->read, b->repeat);
    b->bf16_gflops = median(b->flops, b->repeat);
    b->int8_gops = isnan(b->ops[0]) ? NAN : median(b->ops, b->repeat);
    const double peak = b->quantized ? b->int8_gops : b->bf16_gflops;
    for (size_t k = 0; k < b->n_runs; k++) {
        struct run *r = &b->run[k];
        const double seconds = median(r->seconds, b->repeat);
        /* A prompt reads the weights once a chunk; a product takes 2 operations. */
        const size_t passes = r->prompt ? (r->tokens + CHUNK - 1) / CHUNK : r->tokens;
        r->tokens_per_second = (double)r->tokens / seconds;
        r->gbps = weights * (double)passes / seconds / 1e9;
        r->bandwidth_fraction = r->gbps / b->read_gbps;
        r->compute_fraction = 2 * products * r->tokens_per_second / 1e9 / peak;
    }
}

static marlin_status add_number(struct ml_buf *o, const char *name, double v) {
    const marlin_status st = ml_buf_addf(o, "\"%s\":", name);
    return st == MARLIN_OK ? ml_cli_json_number(o, v) : st;
}

static marlin_status add_json(const struct bench *b, struct ml_buf *o) {
    marlin_status st;
    ML_TRY(ml_buf_adds(o, "{\"machine\":{"));
    ML_TRY(add_number(o, "read_gbps", b->read_gbps));
    ML_TRY(ml_buf_adds(o, ","));
    ML_TRY(add_number(o, "int8_gops", b->int8_gops));
    ML_TRY(ml_buf_adds(o, ","));
    ML_TRY(add_number(o, "bf16_gflops", b->bf16_gflops));
    ML_TRY(ml_buf_adds(o, "},\"runs\":["));
    for (size_t k = 0; k < b->n_runs; k++) {
        const struct run *r = &b->run[k];
        ML_TRY(ml_buf_addf(o, "%s{\"test\":\"%s\",\"batch\":1,", k ? "," : "", r->test));
        ML_TRY(add_number(o, "tokens_per_second", r->tokens_per_second));
        ML_TRY(ml_buf_adds(o, ","));
        ML_TRY(add_number(o, "gbps", r->gbps));
        ML_TRY(ml_buf_adds(o, ","));
        ML_TRY(add_number(o, "bandwidth_fraction", r->bandwidth_fraction));
        ML_TRY(ml_buf_adds(o, ","));
        ML_TRY(add_number(o, "compute_fraction", r->compute_fraction));
        ML_TRY(ml_buf_addf(o, ",\"weight_bytes\":%llu}",
                           (unsigned long long)ml_model_bytes_per_token(b->runtime.model)));
    }
    ML_TRY(ml_buf_adds(o, "]}\n"));
out:
    return st;
}

static marlin_status add_table(const struct bench *b, struct ml_buf *o) {
    const bool csv = ml_args_flag(b->args, "csv"), markdown = ml_args_flag(b->args, "markdown");
    marlin_status st;
    if (csv)
        ML_TRY(ml_buf_adds(o, "test,batch,tokens_per_second,gbps,bandwidth_fraction,compute_fraction\n"));
    else if (markdown)
        ML_TRY(ml_buf_adds(o, "| test | batch | tok/s | GB/s | of bandwidth | of compute |\n"
                              "|---|---|---|---|---|---|\n"));
    else
        ML_TRY(ml_buf_addf(o,
                           "machine: reads %.1f GB/s, computes %.0f Gflop/s, %.0f Gop/s of int8\n"
                           "%-10s %12s %9s %13s %11s\n",
                           b->read_gbps, b->bf16_gflops, b->int8_gops, "test", "tok/s", "GB/s",
                           "of bandwidth", "of compute"));
    for (size_t k = 0; k < b->n_runs; k++) {
        const struct run *r = &b->run[k];
        if (csv)
            ML_TRY(ml_buf_addf(o, "%s,1,%.4g,%.4g,%.4f,%.4f\n", r->test, r->tokens_per_second, r->gbps,
                               r->bandwidth_fraction, r->compute_fraction));
        else if (markdown)
            ML_TRY(ml_buf_addf(o, "| %s | 1 | %.2f | %.2f | %.1f %% | %.1f %% |\n", r->test,
                               r->tokens_per_second, r->gbps, 100 * r->bandwidth_fraction,
                               100 * r->compute_fraction));
        else
            ML_TRY(ml_buf_addf(o, "%-10s %12.2f %9.2f %11.1f %% %9.1f %%\n", r->test, r->tokens_per_second,
                               r->gbps, 100 * r->bandwidth_fraction, 100 * r->compute_fraction));
    }
    st = MARLIN_OK;
out:
    return st;
}

static int report(const struct bench *b) {
    struct ml_buf o;
    ml_buf_init(&o, OUTPUT_LIMIT);
    const marlin_status st = b->cli->json ? add_json(b, &o) : add_table(b, &o);
    const int rc =
        st == MARLIN_OK ? ml_cli_write(b->cli, &o) : ml_cli_failf(b->cli, st, "bench: out of memory");
    ml_buf_free(&o);
    return rc;
}

int ml_cmd_bench(struct ml_cli *cli, const struct ml_args *args) {
    struct bench b = {.cli = cli, .args = args};
    struct marlin_error err = {0};
    const char *dir = NULL;
    int rc;
    marlin_status st = check_options(args, &err);
    if (st == MARLIN_OK && !ml_args_string(args, "shape")) {
        dir = ml_cli_model_dir(cli, args);
        if (!dir) return ML_EXIT_FAILED;
    }
    if (st == MARLIN_OK) st = prepare(&b, dir, &err);
    if (st == MARLIN_OK) st = measure(&b, &err);
    if (st == MARLIN_OK) {
        summarize(&b);
        rc = report(&b);
    } else {
        rc = ml_cli_fail(cli, st, &err);
    }
    if (b.state) ml_state_free(b.state);
    ml_peak_reader_free(b.reader);
    ml_free_aligned(b.logits);
    ml_free(b.ids);
    ml_runtime_close(&b.runtime);
    return rc;
}
