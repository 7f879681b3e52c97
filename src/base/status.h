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

/* Fills *err (when not NULL) with code and the formatted message, and returns code. Any thread. Macros, so
 * that whoever reads the caller, a compiler included, sees which code comes back; `code`
 * is evaluated twice. */
#define ml_fail(err, code, ...) (ml_fail_text((err), (code), __VA_ARGS__), ml_status_of(code))

/* Puts "prefix: " in front of an existing message: a caller adds the context it knows (a file name, a
 * tensor name). Returns code, which should be the one that came with the message. */
#define ml_fail_in(err, code, ...) (ml_fail_prefix((err), __VA_ARGS__), ml_status_of(code))

void ml_fail_text(struct marlin_error *err, marlin_status code, const char *fmt, ...) ML_PRINTF(3, 4);
void ml_fail_prefix(struct marlin_error *err, const char *fmt, ...) ML_PRINTF(2, 3);

static inline marlin_status ml_status_of(marlin_status code) {
    return code;
}

/* Runs an expression of type marlin_status; on failure stores it in `st` and jumps to `out`. */
#define ML_TRY(expr)                                                                                         \
    do {                                                                                                     \
        st = (expr);                                                                                         \
        if (st != MARLIN_OK) goto out;                                                                       \
    } while (0)

#endif
