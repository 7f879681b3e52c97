/* SPDX-License-Identifier: Apache-2.0
 *
 * `marlin quantize`: makes a smaller model directory out of a plain one.
 */
#include "quantization/job/pipeline.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/progress.h"
#include "cli/cli.h"
#include "converters/model_look.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FEW_TOKENS = 4096, RECIPE_LIMIT = 1 << 20, JSON_LIMIT = 256 << 20 };

static const struct ml_option options[] = {
    {"out", 'o', ML_OPT_STRING, "OUT", "the folder to make", NULL, 0, 0},
    {"bits", 'b', ML_OPT_FLOAT, "BITS", "mean bits a weight, 2 to 6 (exl3: 1 to 8), such as 3.5", "4", 1, 8},
    {"format", 0, ML_OPT_CHOICE, "marlin|exl3", "format of the quantized layers", "marlin", 0, 0},
    {"codebook", 0, ML_OPT_CHOICE, "mul1|mcg|3inst", "codebook of --format exl3", "mul1", 0, 0},
    {"head-bits", 0, ML_OPT_INT, "N", "bits of the output head, 16 = unquantized", "6", 1, 16},
    {"effort", 0, ML_OPT_CHOICE, "low|normal|high", "how long to search for the best rounding", "normal", 0,
     0},
    {"calib", 0, ML_OPT_STRING, "FILE", "text or .jsonl to calibrate on (the model's own text)", NULL, 0, 0},
    {"calib-tokens", 0, ML_OPT_INT, "N", "calibration tokens, 0 = by effort", "0", 0, 1 << 30},
    {"optimize", 0, ML_OPT_FLAG, NULL, "bits where they help most, rounding against the loss at the end",
     NULL, 0, 0},
    {"recipe", 0, ML_OPT_STRING, "FILE", "lines 'PATTERN BITS' that fix the bits of tensors", NULL, 0, 0},
    {"max-memory", 0, ML_OPT_STRING, "SIZE", "stay below this (4G, 512M); less calibration if need be", NULL,
     0, 0},
    {"seed", 0, ML_OPT_INT, "N", "seed of signs and of the model's own text", "0", 0, 0},
    {"resume", 0, ML_OPT_FLAG, NULL, "go on with an unfinished run into OUT", NULL, 0, 0},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

const struct ml_verb ml_verb_quantize = {
    .name = "quantize",
    .args = "SRC",
    .help = "make a smaller model of 2 to 6 bits a weight",
    .details =
        "SRC is a plain model directory. Layers are read, quantized and written one at a time, so "
        "that SRC may be "
        "larger than memory. A run that was interrupted goes on with --resume and the same options, "
        "and ends with "
        "the same bytes; if OUT is complete, --resume says so and does nothing.\n\n"
        "--effort low and normal search a trellis of 2^12 states (normal: 2^14 beyond 4 bits), on less and "
        "on "
        "more calibration text; high searches 2^16 states, which takes 10 to 20 times as long and loses 2 "
        "to 3 % less. The result is as fast whatever the effort.\n\n"
        "--optimize quantizes one tensor after the other, measures how far the model's output moves, and "
        "gives bits where they help most; then it rounds against the loss at the end of the model, which "
        "takes gradients of all layers. It takes 5 to 10 times as long and up to four times the calibration "
        "tokens, fewer where the inputs of all layers, which it keeps in OUT until it is done, would pass 16 "
        "GiB. At 3 bits it loses a fifth less.\n\n"
        "A recipe has lines 'PATTERN BITS', patterns as in a shell over names such as "
        "model.layers.0.mlp.down_proj; "
        "the last line that matches decides; what none matches shares --bits. In the marlin format 8 is "
        "possible too: rows of int8 with a scale each. 'model.embed_tokens 8' stores the embedding so, which "
        "otherwise stays as it is; 'lm_head 16' leaves the head unquantized.",
    .examples = "marlin quantize ~/models/Qwen3-0.6B -o small\n"
                "marlin quantize ~/models/Qwen3-0.6B -o small -b 3.5 --calib book.txt\n"
                "marlin quantize ~/models/Qwen3-0.6B -o small -b 3 --optimize --max-memory 8G\n"
                "marlin quantize ~/models/Qwen3-0.6B -o small -b 3 --optimize --max-memory 8G --resume",
    .options = options,
    .min_args = 1,
    .max_args = 1,
    .surplus = "give the folder to write to with -o",
};

/* ---- signals: the first asks the job to stop, a second one ends the program ---- */

static volatile sig_atomic_t interrupted;

static void on_signal(int number) {
    (void)number;
    interrupted = 1;
}

static void catch_signals(void) {
    struct sigaction a = {0};
    a.sa_handler = on_signal;
    a.sa_flags = (int)SA_RESETHAND;
    (void)sigemptyset(&a.sa_mask);
    (void)sigaction(SIGINT, &a, NULL);
    (void)sigaction(SIGTERM, &a, NULL);
}

/* ---- progress ---- */

enum phase { PHASE_SAMPLE, PHASE_MEASURE, PHASE_FORWARD, PHASE_WEIGHTS, PHASES };

/* One bar for the whole job. Phases count by the time that they take of a job as a rule, in thousandths of
 * a job of normal effort on the model's own text. */
struct show {
    const struct ml_cli *cli;
    struct ml_progress progress;
    unsigned cost[PHASES];
    enum phase now;
    bool running;
};

static void set_costs(struct show *s, enum ml_quantize_effort effort, bool own_text, bool optimize) {
    static const unsigned sample[ML_EFFORTS] = {100, 400, 800}, weights[ML_EFFORTS] = {500, 600, 9000};
    /* Optimizing takes four times the text, and gradients of all layers. */
    s->cost[PHASE_SAMPLE] = !own_text ? 0 : optimize ? 4 * sample[effort] : sample[effort];
    s->cost[PHASE_MEASURE] = optimize ? 3000 : 0;
    s->cost[PHASE_FORWARD] = optimize ? 300 : 0;
    s->cost[PHASE_WEIGHTS] = optimize ? 2 * weights[effort] : weights[effort];
}

static double mib(uint64_t bytes) {
    return (double)bytes / (1 << 20);
}

static void show_memory(void *user, const struct ml_quantize_memory *m, size_t tokens, size_t wanted) {
    const struct show *s = user;
    ml_cli_note(s->cli, "memory: at most %.0f MiB (weights %.0f, Hessians %.0f, activations %.0f, work %.0f)",
                mib(m->total), mib(m->weights), mib(m->hessians), mib(m->activations), mib(m->work));
    if (wanted) ml_cli_note(s->cli, "--max-memory: calibrating on %zu tokens instead of %zu", tokens, wanted);
}

enum { COST_SCALE = 1000 };

static uint64_t cost_before(const struct show *s, enum phase phase) {
    uint64_t sum = 0;
    for (int p = 0; p < (int)phase; p++)
        sum += s->cost[p];
    return sum * COST_SCALE;
}

/* Phases that an earlier run has done take no time now. */
static void enter(struct show *s, enum phase phase) {
    if (!s->running) {
        ml_progress_begin(&s->progress, "quantizing", cost_before(s, PHASES), s->cli->quiet);
        ml_progress_skip(&s->progress, cost_before(s, phase));
    }
    s->running = true;
    s->now = phase;
}

static void show_part(struct show *s, enum phase phase, double share, const char *note) {
    if (!s->running || s->now != phase) enter(s, phase);
    const double at = (double)cost_before(s, phase) + share * (double)s->cost[phase] * COST_SCALE;
    ml_progress_update(&s->progress, (uint64_t)at, note);
}

static double share_of(uint64_t done, uint64_t total) {
    return total ? (double)done / (double)total : 1;
}

static void stop(struct show *s) {
    if (s->running) ml_progress_end(&s->progress);
    s->running = false;
}

static void show_sample(void *user, size_t done, size_t total) {
    show_part(user, PHASE_SAMPLE, share_of(done, total), "sampling text");
}

static void show_measure(void *user, size_t done, size_t total) {
    char note[64];
    (void)snprintf(note, sizeof note, "measuring tensors, %zu of %zu", done, total);
    show_part(user, PHASE_MEASURE, share_of(done, total), note);
}

static void show_forward(void *user, size_t done, size_t total) {
    show_part(user, PHASE_FORWARD, share_of(done, total), "running layers");
}

static void show_tensor(void *user, size_t layer, size_t layers, uint64_t done, uint64_t total,
                        double proxy) {
    struct show *s = user;
    char note[64];
    if (layer < layers)
        (void)snprintf(note, sizeof note, "layer %zu of %zu, error %.5f", layer + 1, layers, proxy);
    else
        (void)snprintf(note, sizeof note, "head, error %.5f", proxy);
    show_part(s, PHASE_WEIGHTS, share_of(done, total), note);
}

/* ---- options ---- */

/* "512M", "4G", "4GiB", "1000000". */
static bool parse_size(const char *text, uint64_t *out) {
    static const char units[] = "KMGT";
    char *end = NULL;
    double v = strtod(text, &end);
    if (end == text || !(v > 0)) return false;
    const char *unit = *end ? strchr(units, *end & ~0x20) : NULL;
    if (unit) {
        v *= pow(1024, (double)(unit - units) + 1);
        end++;
        if (strcmp(end, "iB") == 0) end += 2;
        if (strcmp(end, "B") == 0) end++;
    }
    if (*end || v > 1e18) return false;
    *out = (uint64_t)v;
    return true;
}

static enum ml_exl3_codebook codebook(const char *name) {
    enum ml_exl3_codebook found = ML_EXL3_MUL1;
    (void)ml_exl3_codebook_find(name, &found); /* the option's own list knows no other */
    return found;
}

static enum ml_quantize_effort effort(const char *name) {
    return strcmp(name, "low") == 0    ? ML_EFFORT_LOW
           : strcmp(name, "high") == 0 ? ML_EFFORT_HIGH
                                       : ML_EFFORT_NORMAL;
}

/* *recipe: text that the settings point to, the caller's. */
static marlin_status read_settings(struct ml_cli *cli, const struct ml_args *args, struct show *show,
                                   struct ml_quantize_settings *s, char **recipe, struct marlin_error *err) {
    const char *source = ml_args_at(args, 0), *memory = ml_args_string(args, "max-memory"),
               *file = ml_args_string(args, "recipe");
    size_t len;
    *s = (struct ml_quantize_settings){
        .source = source,
        .out = ml_args_string(args, "out"),
        .format = strcmp(ml_args_string(args, "format"), "exl3") == 0 ? ML_QUANTIZE_EXL3 : ML_QUANTIZE_MARLIN,
        .codebook = codebook(ml_args_string(args, "codebook")),
        .bits = ml_args_float(args, "bits"),
        .head_bits = (int)ml_args_int(args, "head-bits"),
        .effort = effort(ml_args_string(args, "effort")),
        .seed = (uint64_t)ml_args_int(args, "seed"),
        .calib = ml_args_string(args, "calib"),
        .calib_tokens = (size_t)ml_args_int(args, "calib-tokens"),
        .optimize = ml_args_flag(args, "optimize"),
        .resume = ml_args_flag(args, "resume"),
        .cancel = &interrupted,
        .on_memory = show_memory,
        .on_sample = show_sample,
        .on_measure = show_measure,
        .on_forward = show_forward,
        .on_tensor = show_tensor,
        .user = show,
    };
    if (!s->out) return ml_fail(err, MARLIN_ERR_ARGUMENT, "quantize: no folder to write to: give -o OUT");
    if (memory && !parse_size(memory, &s->max_memory))
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "quantize: --max-memory: '%.40s' is not a size such as 4G",
                       memory);
    char found[PATH_MAX];
    marlin_status st = ml_model_look(source, found, err);
    if (st != MARLIN_OK) return st;
    (void)snprintf(cli->model, sizeof cli->model, "%s", found);
    s->source = cli->model;
    s->pool = ml_cli_pool(cli, err);
    if (!s->pool) return MARLIN_ERR_MEMORY;
    if (!file) return MARLIN_OK;
    st = ml_file_slurp(file, RECIPE_LIMIT, recipe, &len, err);
    s->recipe = *recipe;
    return st;
}

/* ---- result ---- */

static marlin_status add_complete(struct ml_buf *b, const struct ml_quantize_settings *s, bool json) {
    return json ? ml_buf_adds(b, "{\"complete_already\":true}\n")
                : ml_buf_addf(b, "%s: complete already, nothing to resume\n", s->out);
}

static marlin_status add_tensor(struct ml_buf *b, const struct ml_quantize_tensor *t) {
    marlin_status st;
    ML_TRY(ml_buf_adds(b, "{\"name\":"));
    ML_TRY(ml_buf_add_json(b, t->name, strlen(t->name)));
    ML_TRY(ml_buf_addf(b, ",\"bits\":%d,\"proxy_error\":", t->bits));
    ML_TRY(ml_cli_json_number(b, t->proxy_error));
    if (t->fallback) {
        ML_TRY(ml_buf_adds(b, ",\"fallback\":"));
        ML_TRY(ml_buf_add_json(b, t->fallback, strlen(t->fallback)));
    }
    if (t->dropped) ML_TRY(ml_buf_addf(b, ",\"dropped_tokens\":%llu", (unsigned long long)t->dropped));
    ML_TRY(ml_buf_adds(b, "}"));
out:
    return st;
}

static marlin_status add_json(struct ml_buf *b, const struct ml_quantize_report *r, double seconds) {
    marlin_status st;
    ML_TRY(ml_buf_addf(b,
                       "{\"bits_per_weight\":%.6g,\"seconds\":%.3f,\"bytes\":%llu,\"calibration_tokens\":%zu,"
                       "\"resumed_layers\":%zu,\"tensors\":[",
                       r->bits_per_weight, seconds, (unsigned long long)r->bytes, r->calib_tokens,
                       r->resumed_layers));
    for (size_t i = 0; i < r->count; i++) {
        if (i) ML_TRY(ml_buf_adds(b, ","));
        ML_TRY(add_tensor(b, &r->tensors[i]));
    }
    if (r->embedding.name) {
        ML_TRY(ml_buf_adds(b, ","));
        ML_TRY(add_tensor(b, &r->embedding));
    }
    ML_TRY(ml_buf_adds(b, "]}\n"));
out:
    return st;
}

static marlin_status add_text(struct ml_buf *b, const struct ml_quantize_settings *s,
                              const struct ml_quantize_report *r, double seconds) {
    double proxy = 0;
    size_t fallbacks = 0, dropped = 0, counted = 0;
    for (size_t i = 0; i < r->count; i++) {
        fallbacks += r->tensors[i].fallback != NULL;
        dropped += !r->tensors[i].fallback && r->tensors[i].dropped;
        if (i + 1 == r->count) continue; /* the head has bits of its own */
        proxy += r->tensors[i].proxy_error;
        counted++;
    }
    marlin_status st;
    ML_TRY(ml_buf_addf(
        b, "%s: %.3f bits a weight, %.1f MiB, mean error %.5f, %zu calibration tokens, %.1f s\n", s->out,
        r->bits_per_weight, mib(r->bytes), counted ? proxy / (double)counted : 0, r->calib_tokens, seconds));
    if (dropped)
        ML_TRY(
            ml_buf_addf(b, "%zu tensors were calibrated on fewer tokens: inputs were not finite\n", dropped));
    if (fallbacks) ML_TRY(ml_buf_addf(b, "%zu tensors were quantized without feedback\n", fallbacks));
out:
    return st;
}

int ml_cmd_quantize(struct ml_cli *cli, const struct ml_args *args) {
    struct show show = {.cli = cli};
    struct ml_quantize_settings s;
    struct ml_quantize_report report = {0};
    struct marlin_error err = {0};
    struct ml_buf b;
    char *recipe = NULL;
    const double begin = ml_clock_seconds();
    int rc = ML_EXIT_FAILED;
    marlin_status st;
    ml_buf_init(&b, JSON_LIMIT);
    ML_TRY(read_settings(cli, args, &show, &s, &recipe, &err));
    set_costs(&show, s.effort, !s.calib, s.optimize);
    catch_signals();
    st = ml_quantize_model(&s, &report, &err);
    stop(&show);
    if (st != MARLIN_OK) goto out;
    if (report.complete_already)
        ML_TRY(add_complete(&b, &s, cli->json));
    else
        ML_TRY(cli->json ? add_json(&b, &report, ml_clock_seconds() - begin)
                         : add_text(&b, &s, &report, ml_clock_seconds() - begin));
    rc = ml_cli_write(cli, &b);
    if (!report.complete_already && report.calib_tokens < FEW_TOKENS)
        ml_cli_note(cli,
                    "calibrated on %zu tokens only: a longer text, and no --calib-tokens below some %d, "
                    "loses less",
                    report.calib_tokens, FEW_TOKENS);
out:
    if (st != MARLIN_OK) rc = ml_cli_fail(cli, st, &err);
    if (st != MARLIN_OK && report.resumable)
        ml_cli_note(cli, "what is done is kept: the same command with --resume goes on");
    else if (st == MARLIN_ERR_CANCELLED)
        ml_cli_note(cli, "nothing was finished that could be kept: the same command begins anew");
    ml_quantize_report_free(&report);
    ml_free(recipe);
    ml_buf_free(&b);
    return rc;
}
