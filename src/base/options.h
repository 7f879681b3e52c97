/* SPDX-License-Identifier: Apache-2.0
 *
 * The option table: one declaration of every verb and option, from which parsing, help, the man page
 * and the shell completions are made.
 */
#ifndef ML_BASE_OPTIONS_H
#define ML_BASE_OPTIONS_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ml_opt_type { ML_OPT_FLAG, ML_OPT_INT, ML_OPT_FLOAT, ML_OPT_STRING, ML_OPT_CHOICE, ML_OPT_REPEAT };

struct ml_option {
    const char *name; /* long name without dashes, "top-k" */
    char letter;      /* short name or 0 */
    enum ml_opt_type type;
    const char *arg;     /* name of the argument in help, "N", or the choices "cpu|cuda|metal" */
    const char *help;    /* one line */
    const char *initial; /* default as text, or NULL for "not given" */
    double least, most;  /* inclusive range for INT and FLOAT; least == most means unchecked */
};

struct ml_verb {
    const char *name;
    const char *args;                /* "[MODEL] [PROMPT]" */
    const char *help;                /* one line */
    const char *details;             /* paragraphs for `help VERB` and the man page, may be NULL */
    const struct ml_option *options; /* ends with .name == NULL; the common options are added to it */
    int min_args, max_args;          /* positional arguments; max -1 = any */
    const char *examples;            /* command lines, one a line, may be NULL */
    const char *surplus;             /* what to do instead of one argument too many, may be NULL */
};

/* A variable of the environment. A list ends with .name == NULL. */
struct ml_variable {
    const char *name, *help;
};

/* Parsed values of one command line. Strings point into argv. */
struct ml_args;

/* Parses argv[1..] of a verb (argv[0] is the verb's name). MARLIN_ERR_ARGUMENT with a message that
 * names the option on unknown options, missing or out-of-range values and wrong counts. */
marlin_status ml_args_parse(const struct ml_verb *verb, const struct ml_option *common, int argc, char **argv,
                            struct ml_args **out, struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_args_free(struct ml_args *a);

bool ml_args_given(const struct ml_args *a, const char *name); /* on the command line */
bool ml_args_flag(const struct ml_args *a, const char *name);
int64_t ml_args_int(const struct ml_args *a, const char *name);
double ml_args_float(const struct ml_args *a, const char *name);
const char *ml_args_string(const struct ml_args *a, const char *name); /* NULL when absent */
size_t ml_args_repeat_count(const struct ml_args *a, const char *name);
const char *ml_args_repeat(const struct ml_args *a, const char *name, size_t i);
int ml_args_count(const struct ml_args *a);                /* positionals */
const char *ml_args_at(const struct ml_args *a, int i);    /* NULL past the end */
bool ml_args_after_dashes(const struct ml_args *a, int i); /* positional i stands behind "--" */

/* Lines have at most `width` columns where words allow it. */
marlin_status ml_options_help(const struct ml_verb *verb, const struct ml_option *common, const char *program,
                              size_t width, struct ml_buf *out) MARLIN_MUST_CHECK;
/* The same as a JSON object on one line: "verb", "args", "help", "details", "examples", "options" and
 * "common_options", each an array of objects with "name", "letter", "type", "arg", "help", "default",
 * "least" and "most", of which absent ones are left out. */
marlin_status ml_options_json(const struct ml_verb *verb, const struct ml_option *common,
                              struct ml_buf *out) MARLIN_MUST_CHECK;
/* "  NAME  help" a line. */
marlin_status ml_options_variables(const struct ml_variable *v, size_t width,
                                   struct ml_buf *out) MARLIN_MUST_CHECK;
marlin_status ml_options_man(const struct ml_verb *const *verbs, size_t n, const struct ml_option *common,
                             const struct ml_variable *variables, const char *program, const char *version,
                             struct ml_buf *out) MARLIN_MUST_CHECK;
marlin_status ml_options_completion(const struct ml_verb *const *verbs, size_t n,
                                    const struct ml_option *common, const char *program,
                                    const char *shell, /* "bash" or "zsh" or "fish" */
                                    struct ml_buf *out, struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
