/* SPDX-License-Identifier: Apache-2.0
 *
 * An interpreter for the Jinja that chat templates are written in, with the meaning that Hugging Face's
 * transformers give it: jinja2 3.1's immutable sandbox, blocks trimmed, loop controls, tojson without escapes for
 * HTML, raise_exception and strftime_now. A template sees the values that it is given and nothing else: no
 * files, no environment, no other templates.
 */
#ifndef ML_CHAT_JINJA_H
#define ML_CHAT_JINJA_H

#include "base/buf.h"
#include "base/json.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct ml_template; /* compiled; constant, shared freely between threads */

/* A render that passes one of these ends with MARLIN_ERR_LIMIT and its name. 0 stands for the value in brackets. */
struct ml_template_limits {
    uint64_t max_steps; /* expressions, statements, elements and compared values [8 million] */
    size_t max_depth;   /* statements and expressions within each other, macro calls included [400] */
    size_t max_output;  /* bytes of text, finished or captured [64 MiB] */
    size_t max_memory;  /* bytes of values [256 MiB] */
};

/* A variable that is given besides the members of a request. */
struct ml_template_var {
    const char *name;
    const char *text; /* a string, or NULL for None */
};

struct ml_template_input {
    const struct ml_json *request;  /* an object whose members are variables; NULL for none */
    const struct ml_json *defaults; /* the same for names that neither it nor vars have; NULL for none */
    const struct ml_template_var *vars;
    size_t n_vars; /* what a member of the request has the same name as gives way to it */
    int64_t now;   /* seconds since 1970 for strftime_now, in local time */
    const struct ml_template_limits *limits; /* NULL for the usual ones */
};

/* Parses a template of valid UTF-8. `name` stands in front of line and column in errors. Nothing of the arguments
 * is kept. MARLIN_ERR_FORMAT for text that is no template, MARLIN_ERR_UNSUPPORTED for tags of jinja2 that are
 * missing here, MARLIN_ERR_LIMIT for nesting that is too deep or text over 4 MiB. */
marlin_status ml_template_compile(const char *name, const char *text, size_t len, struct ml_template **out,
                                  struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_template_free(struct ml_template *t); /* NULL is fine */

/* Appends the text to *out, which is unchanged on an error. Any thread. Errors name line and column and are those of
 * ml_chat_render. */
marlin_status ml_template_render(const struct ml_template *t, const struct ml_template_input *in,
                                 struct ml_buf *out, struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
