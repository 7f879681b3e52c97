/* SPDX-License-Identifier: Apache-2.0
 *
 * What a lone argument means that may be a model or a prompt.
 */
#ifndef ML_CLI_GUESS_H
#define ML_CLI_GUESS_H

#include "base/options.h"
#include "base/status.h"

#include <stdbool.h>

/* It is there, and is a directory, or a file that is a model by itself (.gguf). */
bool ml_cli_is_model(const char *text);

/* It was meant as a path or as a name of the Hub, whether that is there or not: it begins with / ~/ ./ or
 * ../, or is one word that has a slash, begins with ~ or ends like a file of a model. A file that is there
 * counts too where its name has a dot. */
bool ml_cli_is_path(const char *text);

/* A lone argument that is no model is a text of the verb (`what`: "prompt", "message"), but where it looks like a model that is
 * not there, nobody is served by an answer to its name: MARLIN_ERR_ARGUMENT. What stands behind "--" is a text
 * whatever it looks like. */
marlin_status ml_cli_check_text(const struct ml_args *args, const char *verb, const char *what,
                                struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
