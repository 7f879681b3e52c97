/* SPDX-License-Identifier: Apache-2.0
 *
 * `marlin run`: continues a prompt, streaming.
 */
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/progress.h"
#include "cli/cli.h"
#include "cli/guess.h"
#include "cli/profile_text.h"
#include "converters/model_look.h"
#include "engine/feeder.h"
#include "engine/stop.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { LONG_PROMPT = 512, PROMPT_LIMIT = 64 << 20, JSON_LIMIT = 256 << 20, MAX_EVENTS = 1 << 20 };

static const struct ml_option options[] = {
    {"tokens", 'n', ML_OPT_INT, "N", "most tokens to generate", "128", 0, 1 << 30},
    {"greedy", 0, ML_OPT_FLAG, NULL, "always take the most likely token", NULL, 0, 0},
    {"temp", 0, ML_OPT_FLOAT, "T", "temperature, 0 = greedy (the model's own, else 0.8)", NULL, 0, 100},
    {"top-k", 0, ML_OPT_INT, "K", "choose among the K most likely tokens, 0 = all", NULL, 0, 1 << 30},
    {"top-p", 0, ML_OPT_FLOAT, "P", "choose among the most likely tokens that hold probability P", NULL, 0,
     1},
    {"min-p", 0, ML_OPT_FLOAT, "P", "leave out tokens below P times the most likely one", NULL, 0, 1},
    {"repeat-penalty", 0, ML_OPT_FLOAT, "X", "make tokens seen before less likely, 1 = off", NULL, 0.01, 100},
    {"presence-penalty", 0, ML_OPT_FLOAT, "X", "taken off the logit of a token seen before", NULL, -100, 100},
    {"frequency-penalty", 0, ML_OPT_FLOAT, "X", "taken off for each time a token was seen", NULL, -100, 100},
    {"seed", 0, ML_OPT_INT, "N", "same seed, same text (a new one each time)", NULL, 0, 0},
    {"stop", 0, ML_OPT_REPEAT, "TEXT", "end before this text; may be given several times", NULL, 0, 0},
    {"exact", 0, ML_OPT_FLAG, NULL, "multiply by quantized weights in float32, not with inputs in int8", NULL,
     0, 0},
    {"cache-type", 0, ML_OPT_CHOICE, ML_KV_TYPES, "type of cached keys and values", ML_KV_DEFAULT_NAME, 0, 0},
    {"ctx", 0, ML_OPT_INT, "N", "most tokens of prompt and answer (the model's own, at most 4096)", NULL, 1,
     1 << 30},
    {"profile", 0, ML_OPT_FLAG, NULL, "print time, bytes and share of the read bandwidth by stage", NULL, 0,
     0},
    {"trace", 0, ML_OPT_STRING, "FILE", "write a timeline of stages for chrome://tracing", NULL, 0, 0},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

const struct ml_verb ml_verb_run = {
    .name = "run",
    .args = "[MODEL] [PROMPT]",
    .help = "generate text",
    .details =
        "MODEL is a directory; left out, the embedded model speaks. A single argument is the prompt "
        "unless it is a directory; one that looks like a path or a name of the Hub and is not there is "
        "an error: a prompt that looks so stands behind --. PROMPT -, or a pipe and no PROMPT, reads all "
        "of standard input. The text goes to standard output, a line of speeds with the seed to standard "
        "error. Interrupting ends the text cleanly.",
    .examples = "marlin run \"The sea was\"\n"
                "marlin run ~/models/Qwen3-0.6B \"The sea was\" -n 200 --temp 0.7 --seed 1\n"
                "marlin run ~/models/Qwen3-0.6B - < prompt.txt\n"
                "marlin run --greedy --json -- \"/dev/null is\"",
    .options = options,
    .min_args = 0,
    .max_args = 2,
};

static const char default_prompt[] = "Once upon a time";
static atomic_bool interrupted;

static void on_interrupt(int sig) {
    (void)sig;
    atomic_store(&interrupted, true);
}

struct job {
    struct ml_cli *cli;
    const struct ml_args *args;
    const char *model;
    char *read; /* the prompt from stdin, owned */
    const char *prompt;
    size_t prompt_len;
    struct ml_sampling sampling;
    struct ml_runtime runtime;
    struct ml_profile *profile; /* NULL unless --profile or --trace */
    struct ml_outcome outcome;
    struct ml_buf text;         /* collected for --json */
    struct ml_progress reading; /* of a long prompt */
    int write_error;            /* errno of the write that failed */
    marlin_status text_status;  /* of printing or collecting the text: the first failure ends it */
};

static bool print_text(void *user, const char *text, size_t len) {
    struct job *j = user;
    ml_progress_end(&j->reading);
    const bool done = fwrite(text, 1, len, stdout) == len && fflush(stdout) == 0;
    if (!done) j->write_error = errno;
    if (!done) j->text_status = MARLIN_ERR_IO;
    return done;
}

static bool collect_text(void *user, const char *text, size_t len) {
    struct job *j = user;
    j->text_status = ml_buf_add(&j->text, text, len);
    return j->text_status == MARLIN_OK;
}

/* A lone argument that is no directory: the prompt, but where it looks like a model that is not there,
 * nobody is served by a text about its name. What stands behind "--" is a prompt whatever it looks like. */
static marlin_status check_prompt(const struct job *j, const char *text, struct marlin_error *err) {
    if (ml_args_after_dashes(j->args, 0) || !ml_cli_is_path(text)) return MARLIN_OK;
    char found[PATH_MAX];
    struct marlin_error why = {0};
    if (ml_model_look(text, found, &why) == MARLIN_OK) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_ARGUMENT, "%s (if it is the prompt: marlin run -- '%.80s')", why.text,
                   text);
}

/* Which argument is what. model stays NULL where the default is meant. */
static marlin_status read_arguments(struct job *j, struct marlin_error *err) {
    const int n = ml_args_count(j->args);
    const char *first = ml_args_at(j->args, 0);
    const bool lone = n == 1 && strcmp(first, "-") != 0;
    if (n == 2 || (lone && !ml_args_after_dashes(j->args, 0) && ml_cli_is_model(first))) j->model = first;
    if (n == 2) j->prompt = ml_args_at(j->args, 1);
    if (n == 1 && !j->model) j->prompt = first;
    if (lone && !j->model) {
        const marlin_status st = check_prompt(j, first, err);
        if (st != MARLIN_OK) return st;
    }
    const bool piped = !j->prompt && ml_cli_stdin_piped();
    if (!j->prompt) j->prompt = piped ? "-" : default_prompt;
    j->prompt_len = strlen(j->prompt);
    if (strcmp(j->prompt, "-") != 0) return MARLIN_OK;
    if (!piped) ml_cli_note_terminal(j->cli, "the prompt");
    const marlin_status st = ml_cli_read("-", PROMPT_LIMIT, &j->read, &j->prompt_len, err);
    if (st != MARLIN_OK) return st;
    j->prompt = j->read;
    if (piped && j->prompt_len == 0) { /* </dev/null of a script is no prompt */
        j->prompt = default_prompt;
        j->prompt_len = strlen(default_prompt);
    }
    return MARLIN_OK;
}

static float option(const struct ml_args *a, const char *name, float otherwise) {
    return ml_args_given(a, name) ? (float)ml_args_float(a, name) : otherwise;
}

static void read_sampling(struct job *j) {
    const struct ml_args *a = j->args;
    struct ml_sampling *s = &j->sampling;
    ml_sampling_from_config(ml_model_config(j->runtime.model), s);
    s->temperature = ml_args_flag(a, "greedy") ? 0 : option(a, "temp", s->temperature);
    if (ml_args_given(a, "top-k")) s->top_k = (int32_t)ml_args_int(a, "top-k");
    s->top_p = option(a, "top-p", s->top_p);
    s->min_p = option(a, "min-p", s->min_p);
    s->repetition_penalty = option(a, "repeat-penalty", s->repetition_penalty);
    s->presence_penalty = option(a, "presence-penalty", s->presence_penalty);
    s->frequency_penalty = option(a, "frequency-penalty", s->frequency_penalty);
    s->seed = ml_args_given(a, "seed") ? (uint64_t)ml_args_int(a, "seed") : ml_clock_ns();
}

static marlin_status generate(struct job *j, struct ml_feeder *f, struct ml_timeline *t,
                              const struct ml_ids *ids, struct marlin_error *err) {
    const char *stop[ML_STOP_MAX];
    const size_t n_stop = ml_args_repeat_count(j->args, "stop");
    if (n_stop > ML_STOP_MAX)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "--stop: given %zu times, at most %d are allowed", n_stop,
                       ML_STOP_MAX);
    for (size_t i = 0; i < n_stop; i++)
        stop[i] = ml_args_repeat(j->args, "stop", i);
    const struct ml_request_options rq = {
        .prompt = ids->id,
        .n_prompt = ids->n,
        .max_tokens = (size_t)ml_args_int(j->args, "tokens"),
        .stop = stop,
        .n_stop = n_stop,
        .on_text = j->cli->json ? collect_text : print_text,
        .user = j,
        .cancel = &interrupted,
    };
    const marlin_status st = ml_timeline_start(t, &rq, err);
    if (st != MARLIN_OK) return st;
    if (ids->n > LONG_PROMPT) ml_progress_begin(&j->reading, "reading the prompt", ids->n, j->cli->quiet);
    while (ml_feeder_step(f, &t, 1) > 0) {
        const size_t fed = ml_timeline_length(t);
        if (fed < ids->n)
            ml_progress_update(&j->reading, fed, NULL);
        else
            ml_progress_end(&j->reading);
    }
    ml_progress_end(&j->reading);
    return ml_timeline_outcome(t, &j->outcome, err);
}

static double per_second(size_t n, double seconds) {
    return seconds > 0 ? (double)n / seconds : 0;
}

static marlin_status add_timings(const struct job *j, struct ml_buf *b) {
    const struct ml_outcome *o = &j->outcome;
    const struct {
        const char *name;
        double value;
    } fields[] = {
        {"prompt_ms", o->prompt_seconds * 1e3},
        {"prompt_per_second", per_second(o->prompt_tokens, o->prompt_seconds)},
        {"predicted_ms", o->predicted_seconds * 1e3},
        {"predicted_per_second", per_second(o->n_tokens, o->predicted_seconds)},
        {"load_ms", j->runtime.load_seconds * 1e3},
    };
    marlin_status st;
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        ML_TRY(ml_buf_addf(b, "%s\"%s\":", i ? "," : "", fields[i].name));
        ML_TRY(ml_cli_json_number(b, fields[i].value));
    }
    st = MARLIN_OK;
out:
    return st;
}

static marlin_status add_json(const struct job *j, struct ml_buf *b) {
    const struct ml_outcome *o = &j->outcome;
    marlin_status st;
    ML_TRY(ml_buf_adds(b, "{\"text\":"));
    ML_TRY(ml_buf_add_json(b, j->text.data ? j->text.data : "", j->text.len));
    ML_TRY(ml_buf_adds(b, ",\"tokens\":["));
    for (size_t i = 0; i < o->n_tokens; i++)
        ML_TRY(ml_buf_addf(b, "%s%d", i ? "," : "", o->tokens[i]));
    ML_TRY(ml_buf_addf(b, "],\"finish_reason\":\"%s\",\"prompt_tokens\":%zu,\"completion_tokens\":%zu,",
                       ml_finish_name(o->finish), o->prompt_tokens, o->n_tokens));
    ML_TRY(ml_buf_addf(b, "\"seed\":%llu,\"timings\":{", (unsigned long long)j->sampling.seed));
    ML_TRY(add_timings(j, b));
    ML_TRY(ml_buf_adds(b, "}}\n"));
out:
    return st;
}

static void print_speeds(const struct job *j) {
    const struct ml_outcome *o = &j->outcome;
    fprintf(stderr, "prompt: %zu tokens, %.1f tok/s | generated: %zu tokens, %.1f tok/s | loaded in %.0f ms",
            o->prompt_tokens, per_second(o->prompt_tokens, o->prompt_seconds), o->n_tokens,
            per_second(o->n_tokens, o->predicted_seconds), j->runtime.load_seconds * 1e3);
    if (j->sampling.temperature > 0) fprintf(stderr, " | seed %llu", (unsigned long long)j->sampling.seed);
    fputs("\n", stderr);
}

/* Why a text is shorter than somebody may have thought. */
static void remark_on_end(const struct job *j) {
    const struct ml_outcome *o = &j->outcome;
    const size_t most = (size_t)ml_args_int(j->args, "tokens");
    if (o->finish == ML_FINISH_LENGTH && o->n_tokens == most)
        ml_cli_note(j->cli, "stopped at -n %zu tokens", most);
    else if (o->finish == ML_FINISH_LENGTH)
        ml_cli_note(j->cli, "stopped at the end of the context: --ctx makes it longer");
    if (o->finish == ML_FINISH_STOP && o->n_tokens == 0)
        ml_cli_note(j->cli,
                    "the model ended at once, without a token: a model that was trained to chat expects its "
                    "chat template around the prompt");
}

/* Returns the exit status: failed when any part of the text or of the object did not get out. */
static int report(struct job *j) {
    struct ml_buf b;
    int rc = ML_EXIT_DONE;
    marlin_status st = j->text_status;
    ml_buf_init(&b, JSON_LIMIT);
    if (j->cli->json) {
        if (st == MARLIN_OK) st = add_json(j, &b);
        rc = st == MARLIN_OK ? ml_cli_write(j->cli, &b)
                             : ml_cli_failf(j->cli, st, "the result does not fit into memory");
    } else {
        if (st != MARLIN_OK || fputs("\n", stdout) < 0 || fflush(stdout) != 0)
            rc = ml_cli_failf(j->cli, MARLIN_ERR_IO, "writing the text to stdout failed: %s",
                              strerror(j->write_error ? j->write_error : errno));
        if (!j->cli->quiet) print_speeds(j);
        if (st == MARLIN_OK) remark_on_end(j);
    }
    ml_buf_free(&b);
    return rc;
}

/* Text, speeds and what --profile and --trace ask for, which is written even where writing the text failed.
 * That failure has been printed already and leaves *err alone. */
static marlin_status report_all(struct job *j, struct marlin_error *err) {
    const char *trace = ml_args_string(j->args, "trace");
    const marlin_status text = report(j) == ML_EXIT_DONE ? MARLIN_OK : MARLIN_ERR_IO;
    marlin_status st = MARLIN_OK;
    if (ml_args_flag(j->args, "profile")) ML_TRY(ml_cli_print_profile(j->profile, j->runtime.pool, err));
    if (trace) ML_TRY(ml_cli_write_trace(j->cli, j->profile, trace, err));
out:
    return st == MARLIN_OK ? text : st;
}

static marlin_status speak(struct job *j, struct marlin_error *err) {
    struct ml_timeline *t = NULL;
    struct ml_feeder *f = NULL;
    struct ml_ids ids = {0};
    const struct ml_runtime_options ro = {.device = j->cli->device,
                                          .threads = j->cli->threads,
                                          .cache_type = ml_args_string(j->args, "cache-type"),
                                          .exact = ml_args_flag(j->args, "exact")};
    const bool trace = ml_args_given(j->args, "trace");
    marlin_status st = MARLIN_OK;
    if (trace) ML_TRY(ml_path_check_writable(ml_args_string(j->args, "trace"), err));
    ML_TRY(ml_runtime_open(j->model, &ro, &j->runtime, err));
    read_sampling(j);
    if (ml_args_flag(j->args, "profile") || trace)
        ML_TRY(ml_profile_create(&j->profile, trace ? MAX_EVENTS : 0, err));
    const struct ml_timeline_options to = {
        .sampling = j->sampling,
        .context = ml_args_given(j->args, "ctx") ? (size_t)ml_args_int(j->args, "ctx") : 0,
    };
    const struct ml_feeder_options fo = {.context = to.context, .profile = j->profile};
    ML_TRY(ml_tokenizer_encode(j->runtime.tokenizer, j->prompt, j->prompt_len, ML_ENCODE_BOS, &ids, err));
    ml_cli_note_context(j->cli, j->runtime.model, to.context);
    st = ml_timeline_create(&j->runtime, &to, &t, err);
    if (st == MARLIN_ERR_MEMORY && to.context) (void)ml_fail_in(err, st, "--ctx %zu", to.context);
    if (st != MARLIN_OK) goto out;
    ML_TRY(ml_feeder_create(&j->runtime, &fo, &f, err));
    /* A sentence that nobody typed is shown whole. */
    if (j->prompt == default_prompt && !j->cli->json) print_text(j, j->prompt, j->prompt_len);
    ML_TRY(generate(j, f, t, &ids, err));
    st = report_all(j, err);
out:
    ml_feeder_free(f);
    ml_timeline_free(t);
    ml_ids_free(&ids);
    return st;
}

int ml_cmd_run(struct ml_cli *cli, const struct ml_args *args) {
    struct job j = {.cli = cli, .args = args};
    struct marlin_error err = {0};
    int rc = ML_EXIT_DONE;
    ml_buf_init(&j.text, JSON_LIMIT);
    const struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    marlin_status st = read_arguments(&j, &err);
    if (st == MARLIN_OK && !j.model) {
        j.model = ml_cli_default_model(cli);
        if (!j.model) rc = ML_EXIT_FAILED;
    }
    if (st == MARLIN_OK && rc == ML_EXIT_DONE) {
        /* A second interrupt, should the first not be heard, ends the program. */
        sigaction(SIGINT, &action, NULL);
        st = speak(&j, &err);
    }
    if (st != MARLIN_OK) rc = err.code ? ml_cli_fail(cli, st, &err) : ML_EXIT_FAILED;
    ml_runtime_close(&j.runtime);
    ml_profile_free(j.profile);
    ml_buf_free(&j.text);
    ml_free(j.read);
    return rc;
}
