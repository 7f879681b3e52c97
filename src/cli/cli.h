/* SPDX-License-Identifier: Apache-2.0
 *
 * The frame that every verb stands in: what the common options said, where the model is, how results and
 * errors leave the program. Results go to stdout, everything else to stderr; exit 0 done, 1 failed, 2 wrong
 * usage.
 *
 * A verb is one file that defines `const struct ml_verb ml_verb_NAME` (its options) and `ml_cmd_NAME`, which
 * does it and returns the exit status. Both are listed in the table of cli.c.
 */
#ifndef ML_CLI_CLI_H
#define ML_CLI_CLI_H

#include "base/buf.h"
#include "base/options.h"
#include "base/pool.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

enum { ML_EXIT_DONE = 0, ML_EXIT_FAILED = 1, ML_EXIT_USAGE = 2 };
enum { ML_CLI_PATH = 4096 };

/* One run of the program. Made by ml_cli_main; verbs read it. */
struct ml_cli {
    const struct ml_verb *verb;
    int threads;        /* --threads, 0 = one per core */
    const char *device; /* --device, NULL when not given */
    bool json, quiet;
    struct ml_pool *pool;    /* of ml_cli_pool; owned by the frame */
    char model[ML_CLI_PATH]; /* of ml_cli_default_model and ml_cli_model_dir */
};

struct ml_command {
    const struct ml_verb *verb;
    int (*run)(struct ml_cli *cli, const struct ml_args *args);
};

/* The whole program. Returns its exit status. */
int ml_cli_main(int argc, char **argv);

/* All verbs in the order of the help, and the options that each of them takes besides its own. */
const struct ml_command *ml_cli_commands(size_t *n);
const struct ml_option *ml_cli_common(void);
const struct ml_variable *ml_cli_variables(void);       /* of the environment */
const struct ml_command *ml_cli_find(const char *name); /* or NULL */

/* Positional argument 0, or the default model, as the directory that it is (converters/model_look.h).
 * NULL, the error printed, when it is none, or is left out and there is no default. Valid as long as cli
 * and args. */
const char *ml_cli_model_dir(struct ml_cli *cli, const struct ml_args *args);

/* The embedded model: $MARLIN_MODEL, else ../share/marlin/models/marlin-chat or ../models/marlin-chat beside
 * the program's folder, else, of a program that lies where it was built, models/marlin-chat of its source tree.
 * NULL, the error printed, when there is none. */
const char *ml_cli_default_model(struct ml_cli *cli);

/* The pool of --threads, made at the first call. NULL, with *err filled, when it cannot be made. */
struct ml_pool *ml_cli_pool(struct ml_cli *cli, struct marlin_error *err);

/* Prints "marlin: message" to stderr. Returns the exit status: 2 when `status` is MARLIN_ERR_ARGUMENT,
 * else 1. */
int ml_cli_fail(const struct ml_cli *cli, marlin_status status, const struct marlin_error *err);

/* The same with a message of the caller's. */
int ml_cli_failf(const struct ml_cli *cli, marlin_status status, const char *fmt, ...) ML_PRINTF(3, 4);

/* Prints "marlin: message" unless --quiet: remarks that are not results. */
void ml_cli_note(const struct ml_cli *cli, const char *fmt, ...) ML_PRINTF(2, 3);

struct ml_model;
/* A remark where ctx is beyond the positions that the model was made for. */
void ml_cli_note_context(const struct ml_cli *cli, const struct ml_model *m, size_t ctx);

/* Columns for text on stdout: the terminal's, 40 to 100, and 100 where it is none. */
size_t ml_cli_columns(void);

/* Writes all of b to stdout and flushes. Returns 0, or 1 with the error printed (disk full, closed pipe). */
int ml_cli_write(const struct ml_cli *cli, const struct ml_buf *b);

/* Standard input is something that has an end, a pipe or a file, and not the terminal. */
bool ml_cli_stdin_piped(void);
/* "reading the prompt from the terminal ...", where it is one: a program that waits in silence looks
 * broken. */
void ml_cli_note_terminal(const struct ml_cli *cli, const char *what);

/* Reads the whole of a regular file, or stdin byte for byte when path is "-", of at most `limit` bytes. *data
 * is NUL-terminated and the caller's (ml_free). */
marlin_status ml_cli_read(const char *path, size_t limit, char **data, size_t *len,
                          struct marlin_error *err) MARLIN_MUST_CHECK;

/* Appends v as a JSON number; NaN and infinity, which JSON lacks, become null. */
marlin_status ml_cli_json_number(struct ml_buf *b, double v) MARLIN_MUST_CHECK;

#define ML_CLI_VERB(name)                                                                                    \
    extern const struct ml_verb ml_verb_##name;                                                              \
    int ml_cmd_##name(struct ml_cli *cli, const struct ml_args *args)

ML_CLI_VERB(run);
ML_CLI_VERB(chat);
ML_CLI_VERB(tokenize);
ML_CLI_VERB(logits);
ML_CLI_VERB(perplexity);
ML_CLI_VERB(quantize);
ML_CLI_VERB(inspect);
ML_CLI_VERB(verify);
ML_CLI_VERB(bench);
ML_CLI_VERB(kernels);
ML_CLI_VERB(help);
ML_CLI_VERB(version);

#endif
