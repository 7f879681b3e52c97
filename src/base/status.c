/* SPDX-License-Identifier: Apache-2.0
 *
 * Error messages: formatting, context in front, cutting at a character boundary.
 */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *marlin_status_name(marlin_status code) {
    static const char *const names[] = {"ok",      "argument",    "memory",  "io",
                                        "format",  "unsupported", "limit",   "not_found",
                                        "numeric", "cancelled",   "internal"};
    const size_t i = (size_t)code;
    return i < sizeof names / sizeof *names ? names[i] : "unknown";
}

/* Drops an incomplete UTF-8 sequence from the end of a text that was cut. */
static void trim_partial(char *text) {
    size_t n = strlen(text), start = n;
    while (start > 0 && n - start < 4 && ((unsigned char)text[start - 1] & 0xc0) == 0x80) {
        start--;
    }
    if (start == 0) return;
    const unsigned char lead = (unsigned char)text[start - 1];
    const size_t need = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    if (need > 1 && n - (start - 1) < need) text[start - 1] = '\0';
}

static void format(char *text, const char *fmt, va_list args) {
    const int n = vsnprintf(text, MARLIN_ERROR_TEXT, fmt, args);
    if (n >= MARLIN_ERROR_TEXT) trim_partial(text);
}

void ml_fail_text(struct marlin_error *err, marlin_status code, const char *fmt, ...) {
    if (!err) return;
    va_list args;
    va_start(args, fmt);
    format(err->text, fmt, args);
    va_end(args);
    err->code = code;
}

void ml_fail_prefix(struct marlin_error *err, const char *fmt, ...) {
    if (!err) return;
    char old[MARLIN_ERROR_TEXT], prefix[MARLIN_ERROR_TEXT];
    memcpy(old, err->text, sizeof old);
    old[sizeof old - 1] = '\0';
    va_list args;
    va_start(args, fmt);
    format(prefix, fmt, args);
    va_end(args);
    const int n = snprintf(err->text, sizeof err->text, "%s: %s", prefix, old);
    if (n >= (int)sizeof err->text) trim_partial(err->text);
}
