/* SPDX-License-Identifier: Apache-2.0
 *
 * What the verbs that generate text have in common: options for sampling and memory, and the report of a request.
 */
#ifndef ML_CLI_GENERATION_H
#define ML_CLI_GENERATION_H

#include "base/buf.h"
#include "base/progress.h"
#include "cli/cli.h"
#include "engine/feeder.h"
#include "engine/stop.h"

/* Entries of a table of options. */
#define ML_GENERATION_OPTIONS                                                                                \
    {"greedy", 0, ML_OPT_FLAG, NULL, "always take the most likely token", NULL, 0, 0},                       \
        {"temp", 0, ML_OPT_FLOAT, "T", "temperature, 0 = greedy (the model's own, else 0.8)", NULL, 0, 100}, \
        {"top-k", 0, ML_OPT_INT, "K", "choose among the K most likely tokens, 0 = all", NULL, 0, 1 << 30},   \
        {"top-p", 0, ML_OPT_FLOAT, "P", "choose among the most likely tokens that hold probability P", NULL, \
         0,       1},                                                                                        \
        {"min-p", 0, ML_OPT_FLOAT, "P", "leave out tokens below P times the most likely one", NULL, 0, 1},   \
        {"repeat-penalty",                                                                                   \
         0,                                                                                                  \
         ML_OPT_FLOAT,                                                                                       \
         "X",                                                                                                \
         "make tokens seen before less likely, 1 = off",                                                     \
         NULL,                                                                                               \
         0.01,                                                                                               \
         100},                                                                                               \
        {"presence-penalty",                                                                                 \
         0,                                                                                                  \
         ML_OPT_FLOAT,                                                                                       \
         "X",                                                                                                \
         "taken off the logit of a token seen before",                                                       \
         NULL,                                                                                               \
         -100,                                                                                               \
         100},                                                                                               \
        {"frequency-penalty",                                                                                \
         0,                                                                                                  \
         ML_OPT_FLOAT,                                                                                       \
         "X",                                                                                                \
         "taken off for each time a token was seen",                                                         \
         NULL,                                                                                               \
         -100,                                                                                               \
         100},                                                                                               \
        {"seed", 0, ML_OPT_INT, "N", "same seed, same text (a new one each time)", NULL, 0, 0},              \
        {"stop", 0, ML_OPT_REPEAT, "TEXT", "end before this text; may be given several times", NULL, 0, 0},  \
        {"exact",                                                                                            \
         0,                                                                                                  \
         ML_OPT_FLAG,                                                                                        \
         NULL,                                                                                               \
         "multiply by quantized weights in float32, not with inputs in int8",                                \
         NULL,                                                                                               \
         0,                                                                                                  \
         0},                                                                                                 \
        {"cache-type",                                                                                       \
         0,                                                                                                  \
         ML_OPT_CHOICE,                                                                                      \
         ML_KV_TYPES,                                                                                        \
         "type of cached keys and values",                                                                   \
         ML_KV_DEFAULT_NAME,                                                                                 \
         0,                                                                                                  \
         0},                                                                                                 \
    {                                                                                                        \
        "ctx", 0, ML_OPT_INT, "N", "most tokens of prompt and answer (the model's own, at most 4096)", NULL, \
            1, 1 << 30                                                                                       \
    }

/* The model's own sampling, and above it what the options say. Without --seed each call draws another seed. */
void ml_cli_sampling(const struct ml_args *a, const struct ml_model *m, struct ml_sampling *out);

/* The strings of --stop, which point into a. */
struct ml_stops {
    const char *text[ML_STOP_MAX];
    size_t n;
};
marlin_status ml_cli_stops(const struct ml_args *a, struct ml_stops *out,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* Runs one request to its end. While a long prompt is read a bar tells how far it is; whoever prints the first text
 * ends it (ml_progress_end). *reading is zero before and over after. */
marlin_status ml_cli_generate(struct ml_feeder *f, struct ml_timeline *t, const struct ml_request_options *rq,
                              struct ml_progress *reading, bool quiet, struct ml_outcome *out,
                              struct marlin_error *err) MARLIN_MUST_CHECK;

/* Appends the JSON object that `run --json` and `chat --json` print, and a newline. */
marlin_status ml_cli_outcome_json(const struct ml_outcome *o, const struct ml_buf *text, uint64_t seed,
                                  double load_seconds, struct ml_buf *out) MARLIN_MUST_CHECK;

/* The line of speeds, on stderr, with the seed where one was used. */
void ml_cli_print_speeds(const struct ml_outcome *o, const struct ml_sampling *sampling, double load_seconds);

#endif
