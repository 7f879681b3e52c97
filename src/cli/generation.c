/* SPDX-License-Identifier: Apache-2.0
 *
 * Sampling by options, and the report of a request.
 */
#include "cli/generation.h"

#include "base/clock.h"

#include <stdio.h>

enum { LONG_PROMPT = 512 }; /* tokens, which may take a second to read */

static float option(const struct ml_args *a, const char *name, float otherwise) {
    return ml_args_given(a, name) ? (float)ml_args_float(a, name) : otherwise;
}

void ml_cli_sampling(const struct ml_args *a, const struct ml_model *m, struct ml_sampling *s) {
    ml_sampling_from_config(ml_model_config(m), s);
    s->temperature = ml_args_flag(a, "greedy") ? 0 : option(a, "temp", s->temperature);
    if (ml_args_given(a, "top-k")) s->top_k = (int32_t)ml_args_int(a, "top-k");
    s->top_p = option(a, "top-p", s->top_p);
    s->min_p = option(a, "min-p", s->min_p);
    s->repetition_penalty = option(a, "repeat-penalty", s->repetition_penalty);
    s->presence_penalty = option(a, "presence-penalty", s->presence_penalty);
    s->frequency_penalty = option(a, "frequency-penalty", s->frequency_penalty);
    s->seed = ml_args_given(a, "seed") ? (uint64_t)ml_args_int(a, "seed") : ml_clock_ns();
}

marlin_status ml_cli_stops(const struct ml_args *a, struct ml_stops *out, struct marlin_error *err) {
    out->n = ml_args_repeat_count(a, "stop");
    if (out->n > ML_STOP_MAX)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "--stop: given %zu times, at most %d are allowed", out->n,
                       ML_STOP_MAX);
    for (size_t i = 0; i < out->n; i++)
        out->text[i] = ml_args_repeat(a, "stop", i);
    return MARLIN_OK;
}

marlin_status ml_cli_generate(struct ml_feeder *f, struct ml_timeline *t, const struct ml_request_options *rq,
                              struct ml_progress *reading, bool quiet, struct ml_outcome *out,
                              struct marlin_error *err) {
    const size_t before = ml_timeline_length(t);
    const marlin_status st = ml_timeline_start(t, rq, err);
    if (st != MARLIN_OK) return st;
    if (rq->n_prompt > LONG_PROMPT) ml_progress_begin(reading, "reading the prompt", rq->n_prompt, quiet);
    while (ml_feeder_step(f, &t, 1) > 0) {
        const size_t fed = ml_timeline_length(t) - before;
        if (fed < rq->n_prompt)
            ml_progress_update(reading, fed, NULL);
        else
            ml_progress_end(reading);
    }
    ml_progress_end(reading);
    return ml_timeline_outcome(t, out, err);
}

static double per_second(size_t n, double seconds) {
    return seconds > 0 ? (double)n / seconds : 0;
}

static marlin_status add_timings(const struct ml_outcome *o, double load_seconds, struct ml_buf *b) {
    const struct {
        const char *name;
        double value;
    } fields[] = {
        {"prompt_ms", o->prompt_seconds * 1e3},
        {"prompt_per_second", per_second(o->prompt_tokens, o->prompt_seconds)},
        {"predicted_ms", o->predicted_seconds * 1e3},
        {"predicted_per_second", per_second(o->n_tokens, o->predicted_seconds)},
        {"load_ms", load_seconds * 1e3},
    };
    marlin_status st = MARLIN_OK;
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        ML_TRY(ml_buf_addf(b, "%s\"%s\":", i ? "," : "", fields[i].name));
        ML_TRY(ml_cli_json_number(b, fields[i].value));
    }
out:
    return st;
}

marlin_status ml_cli_outcome_json(const struct ml_outcome *o, const struct ml_buf *text, uint64_t seed,
                                  double load_seconds, struct ml_buf *b) {
    marlin_status st;
    ML_TRY(ml_buf_adds(b, "{\"text\":"));
    ML_TRY(ml_buf_add_json(b, text->data ? text->data : "", text->len));
    ML_TRY(ml_buf_adds(b, ",\"tokens\":["));
    for (size_t i = 0; i < o->n_tokens; i++)
        ML_TRY(ml_buf_addf(b, "%s%d", i ? "," : "", o->tokens[i]));
    ML_TRY(ml_buf_addf(b, "],\"finish_reason\":\"%s\",\"prompt_tokens\":%zu,\"completion_tokens\":%zu,",
                       ml_finish_name(o->finish), o->prompt_tokens, o->n_tokens));
    ML_TRY(ml_buf_addf(b, "\"seed\":%llu,\"timings\":{", (unsigned long long)seed));
    ML_TRY(add_timings(o, load_seconds, b));
    ML_TRY(ml_buf_adds(b, "}}\n"));
out:
    return st;
}

void ml_cli_print_speeds(const struct ml_outcome *o, const struct ml_sampling *sampling,
                         double load_seconds) {
    (void)fprintf(stderr,
                  "prompt: %zu tokens, %.1f tok/s | generated: %zu tokens, %.1f tok/s | loaded in %.0f ms",
                  o->prompt_tokens, per_second(o->prompt_tokens, o->prompt_seconds), o->n_tokens,
                  per_second(o->n_tokens, o->predicted_seconds), load_seconds * 1e3);
    if (sampling->temperature > 0) (void)fprintf(stderr, " | seed %llu", (unsigned long long)sampling->seed);
    (void)fputs("\n", stderr);
}
