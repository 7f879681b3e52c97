/* SPDX-License-Identifier: Apache-2.0
 *
 * Making and forwarding errors. See marlin/status.h for the contract.
 */
#ifndef ML_BASE_STATUS_H
#define ML_BASE_STATUS_H

#include "marlin/status.h"

#if defined(__GNUC__)
#define ML_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define ML_PRINTF(fmt, args)
#endif

/* Fills *err (when not NULL) with code and the formatted message, and returns code. Any thread. */
marlin_status ml_fail(struct marlin_error *err, marlin_status code, const char *fmt, ...) ML_PRINTF(3, 4);

/* Puts "prefix: " in front of an existing message: a caller adds the context it knows (a file name, a
 * tensor name). Returns err->code, or `code` when err is NULL. */
marlin_status ml_fail_in(struct marlin_error *err, marlin_status code, const char *fmt, ...) ML_PRINTF(3, 4);

/* Runs an expression of type marlin_status; on failure stores it in `st` and jumps to `out`. */
#define ML_TRY(expr)                                                                                         \
    do {                                                                                                     \
        st = (expr);                                                                                         \
        if (st != MARLIN_OK) goto out;                                                                       \
    } while (0)

#endif
