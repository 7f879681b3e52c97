/* SPDX-License-Identifier: Apache-2.0
 *
 * A profile of the forward pass for people (a table) and for chrome://tracing (JSON).
 */
#ifndef ML_CLI_PROFILE_TEXT_H
#define ML_CLI_PROFILE_TEXT_H

#include "base/pool.h"
#include "cli/cli.h"
#include "models/profile.h"

/* Prints the table to stderr, with shares of the read bandwidth that is measured now. */
marlin_status ml_cli_print_profile(const struct ml_profile *p, struct ml_pool *pool,
                                   struct marlin_error *err) MARLIN_MUST_CHECK;

/* Trace Event Format, complete events ("ph":"X"), microseconds since the first. */
marlin_status ml_cli_write_trace(const struct ml_cli *cli, const struct ml_profile *p, const char *path,
                                 struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
