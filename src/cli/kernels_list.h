/* SPDX-License-Identifier: Apache-2.0
 *
 * What `marlin kernels --list` and --tune print.
 */
#ifndef ML_CLI_KERNELS_LIST_H
#define ML_CLI_KERNELS_LIST_H

#include "cli/cli.h"

/* Appends the machine, the tier of each entry of the table of kernels, and what is chosen for a matrix of
 * n x k of every kind whose name begins with `prefix` (NULL: all) and every batch of note. */
marlin_status ml_kernels_list(const struct ml_cli *cli, const char *prefix, size_t n, size_t k,
                              struct ml_buf *b) MARLIN_MUST_CHECK;

/* Measures, writes the machine's file, and appends the figures. */
marlin_status ml_kernels_tune(struct ml_cli *cli, struct ml_buf *b,
                              struct marlin_error *err) MARLIN_MUST_CHECK;

/* True when some kind of weights begins so. */
bool ml_kernels_is_kind(const char *prefix);

/* The machine, how many kernels are of which tier, and one line for each usual kind of weights. */
marlin_status ml_kernels_sum_up(const struct ml_cli *cli, size_t n, size_t k,
                                struct ml_buf *b) MARLIN_MUST_CHECK;

#endif
