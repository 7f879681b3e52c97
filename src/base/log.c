/* SPDX-License-Identifier: Apache-2.0
 *
 * Warnings to the host's sink.
 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

static ml_log_fn *sink;
static void *sink_user;
static enum ml_log_level sink_least;

void ml_log_set(ml_log_fn *fn, void *user, enum ml_log_level least) {
    sink = fn;
    sink_user = user;
    sink_least = least;
}

void ml_log(enum ml_log_level level, const char *fmt, ...) {
    if (!sink || level < sink_least) return;
    char text[1024];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    sink(sink_user, level, text);
}
