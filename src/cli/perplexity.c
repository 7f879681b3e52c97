/* SPDX-License-Identifier: Apache-2.0
 *
 * `marlin perplexity`: how well a model predicts a text, and how far it is from another.
 */
#include "eval/perplexity.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/text.h"
#include "cli/cli.h"
#include "converters/model_look.h"
#include "engine/runtime.h"

#include <stdio.h>
#include <string.h>

enum { TEXT_LIMIT = 1 << 30, JSON_LIMIT = 1 << 16 };

static const struct ml_option options[] = {
    {"text", 0, ML_OPT_STRING, "FILE", "the text, - for standard input", NULL, 0, 0},
    {"ctx", 0, ML_OPT_INT, "N", "tokens a row", "1024", 2, 1 << 30},
    {"max-tokens", 0, ML_OPT_INT, "N", "use only the first N tokens, 0 = all", "0", 0, 0},
    {"exact", 0, ML_OPT_FLAG, NULL, "multiply by quantized weights in float32, not with inputs in int8", NULL,
     0, 0},
    {"cache-type", 0, ML_OPT_CHOICE, ML_KV_TYPES, "type of cached keys and values of MODEL", "f32", 0, 0},
    {"reference", 0, ML_OPT_STRING, "MODEL2",
     "also measure the divergence of MODEL from MODEL2, whose inputs are exact", NULL, 0, 0},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

const struct ml_verb ml_verb_perplexity = {
    .name = "perplexity",
    .args = "[MODEL]",
    .help = "measure how well a model predicts a text",
    .details = "The text is cut into rows of --ctx tokens without overlap; every token but a row's first is "
               "scored, and a last short row is dropped. Special tokens written in the text are parsed.",
    .examples = "marlin perplexity ~/models/Qwen3-0.6B --text book.txt\n"
                "marlin perplexity small --text book.txt --reference ~/models/Qwen3-0.6B --max-tokens 20000",
    .options = options,
    .min_args = 0,
    .max_args = 1,
    .surplus = "the text is given with --text FILE",
};

static bool show_row(void *user, size_t row, size_t rows, double perplexity) {
    char note[64];
    (void)rows;
    snprintf(note, sizeof(note), "perplexity %.4f", perplexity);
    ml_progress_update(user, row, note);
    return true;
}

/* *text is the caller's. */
static marlin_status read_text(const struct ml_cli *cli, const char *path, char **text, size_t *len,
                               struct marlin_error *err) {
    const bool from_stdin = strcmp(path, "-") == 0;
    if (from_stdin) ml_cli_note_terminal(cli, "the text");
    marlin_status st = ml_cli_read(path, TEXT_LIMIT, text, len, err);
    if (st != MARLIN_OK) return st;
    st = ml_text_check(*text, *len, err);
    return st == MARLIN_OK ? st : ml_fail_in(err, st, "%s", from_stdin ? "stdin" : path);
}

static marlin_status measure(struct ml_cli *cli, const struct ml_args *args, const char *dir,
                             struct ml_perplexity *out, struct marlin_error *err) {
    struct ml_runtime r = {0};
    struct ml_model *reference = NULL;
    struct ml_ids ids = {0};
    struct ml_progress progress;
    char *text = NULL, found[PATH_MAX];
    size_t len;
    const char *name = ml_args_string(args, "reference");
    const struct ml_runtime_options ro = {.device = cli->device,
                                          .threads = cli->threads,
                                          .cache_type = ml_args_string(args, "cache-type"),
                                          .exact = ml_args_flag(args, "exact")};
    struct ml_perplexity_options po = {.ctx = (size_t)ml_args_int(args, "ctx"),
                                       .max_tokens = (size_t)ml_args_int(args, "max-tokens"),
                                       .on_row = show_row,
                                       .user = &progress};
    marlin_status st;

    ML_TRY(read_text(cli, ml_args_string(args, "text"), &text, &len, err));
    ML_TRY(ml_runtime_open(dir, &ro, &r, err));
    if (name) {
        const struct ml_model_options mo = {
            .devices = &r.device, .n_devices = 1, .pool = r.pool, .kv_dtype = ML_F32, .exact = true};
        ML_TRY(ml_model_look(name, found, err));
        ML_TRY(ml_model_load(found, &mo, &reference, err));
    }
    ml_cli_note_context(cli, r.model, po.ctx);
    ML_TRY(ml_tokenizer_encode(r.tokenizer, text, len, ML_ENCODE_SPECIAL, &ids, err));
    const size_t used = po.max_tokens && po.max_tokens < ids.n ? po.max_tokens : ids.n;
    ml_progress_begin(&progress, "rows", used / po.ctx, cli->quiet);
    st = ml_perplexity_run(r.model, reference, r.pool, ids.id, ids.n, &po, out, err);
    ml_progress_end(&progress);
out:
    if (reference) ml_model_free(reference);
    ml_ids_free(&ids);
    ml_runtime_close(&r);
    ml_free(text);
    return st;
}

struct field {
    const char *name, *label;
    double value;
};

static marlin_status add_fields(struct ml_buf *b, const struct field *f, size_t n, bool json) {
    marlin_status st = MARLIN_OK;
    for (size_t i = 0; i < n; i++) {
        if (!json) {
            ML_TRY(ml_buf_addf(b, "%-22s %.6g\n", f[i].label, f[i].value));
            continue;
        }
        ML_TRY(ml_buf_addf(b, ",\"%s\":", f[i].name));
        ML_TRY(ml_cli_json_number(b, f[i].value));
    }
out:
    return st;
}

static marlin_status add_result(struct ml_buf *b, const struct ml_perplexity *p, double seconds, bool json) {
    const struct field own[] = {{"perplexity", "perplexity", p->perplexity},
                                {"nll", "nats a token", p->nll},
                                {"seconds", "seconds", seconds}};
    const struct field divergence[] = {
        {"reference_perplexity", "reference perplexity", p->reference_perplexity},
        {"kld_mean", "KL divergence, mean", p->divergence.kld_mean},
        {"kld_median", "KL divergence, median", p->divergence.kld_median},
        {"kld_p99", "KL divergence, p99", p->divergence.kld_p99},
        {"top1_agreement", "top-1 agreement", p->divergence.top1_agreement},
    };
    marlin_status st;
    ML_TRY(ml_buf_addf(
        b, json ? "{\"tokens\":%zu,\"rows\":%zu" : "scored tokens          %zu\nrows                   %zu\n",
        p->tokens, p->rows));
    ML_TRY(add_fields(b, own, 3, json));
    if (p->compared) ML_TRY(add_fields(b, divergence, 5, json));
    if (json) ML_TRY(ml_buf_adds(b, "}\n"));
out:
    return st;
}

int ml_cmd_perplexity(struct ml_cli *cli, const struct ml_args *args) {
    struct marlin_error err = {0};
    struct ml_perplexity p;
    struct ml_buf b;
    const double start = ml_clock_seconds();
    if (!ml_args_string(args, "text"))
        return ml_cli_failf(cli, MARLIN_ERR_ARGUMENT,
                            "perplexity: no text: give --text FILE, or - for standard input");
    const char *dir = ml_cli_model_dir(cli, args);
    if (!dir) return ML_EXIT_FAILED;
    marlin_status st = measure(cli, args, dir, &p, &err);
    if (st != MARLIN_OK) return ml_cli_fail(cli, st, &err);
    ml_buf_init(&b, JSON_LIMIT);
    st = add_result(&b, &p, ml_clock_seconds() - start, cli->json);
    const int rc =
        st == MARLIN_OK ? ml_cli_write(cli, &b) : ml_cli_failf(cli, st, "perplexity: out of memory");
    ml_buf_free(&b);
    return rc;
}
