/* SPDX-License-Identifier: Apache-2.0
 *
 * Warnings from the library to whoever hosts it. Silent unless a sink is set (the CLI sets one to stderr).
 */
#ifndef ML_BASE_LOG_H
#define ML_BASE_LOG_H

#include "base/status.h"

enum ml_log_level { ML_LOG_DEBUG, ML_LOG_INFO, ML_LOG_WARN };

typedef void ml_log_fn(void *user, enum ml_log_level level, const char *text);

/* Not thread-safe: set it once at start. */
void ml_log_set(ml_log_fn *fn, void *user, enum ml_log_level least);
void ml_log(enum ml_log_level level, const char *fmt, ...) ML_PRINTF(2, 3);

#endif
