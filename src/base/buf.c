/* SPDX-License-Identifier: Apache-2.0
 *
 * Growing bytes with a ceiling.
 */
#include "base/buf.h"

#include "base/mem.h"
#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void ml_buf_init(struct ml_buf *b, size_t limit) {
    *b = (struct ml_buf){.limit = limit};
}

void ml_buf_free(struct ml_buf *b) {
    ml_free(b->data);
    ml_buf_init(b, b->limit);
}

void ml_buf_clear(struct ml_buf *b) {
    b->len = 0;
    if (b->data) b->data[0] = '\0';
}

/* The NUL has room, too. */
marlin_status ml_buf_reserve(struct ml_buf *b, size_t n) {
    if (n > b->limit - b->len) return MARLIN_ERR_LIMIT;
    const size_t need = b->len + n + 1;
    if (need == 0) return MARLIN_ERR_LIMIT;
    if (need <= b->cap) return MARLIN_OK;
    size_t cap = b->cap < 64 ? 64 : b->cap + b->cap / 2;
    if (cap < need) cap = need;
    char *data = ml_realloc(b->data, cap);
    if (!data) return MARLIN_ERR_MEMORY;
    data[b->len] = '\0';
    b->data = data;
    b->cap = cap;
    return MARLIN_OK;
}

marlin_status ml_buf_add(struct ml_buf *b, const void *p, size_t n) {
    const marlin_status st = ml_buf_reserve(b, n);
    if (st != MARLIN_OK) return st;
    if (n) memcpy(b->data + b->len, p, n);
    b->len += n;
    b->data[b->len] = '\0';
    return MARLIN_OK;
}

marlin_status ml_buf_adds(struct ml_buf *b, const char *s) {
    return ml_buf_add(b, s, strlen(s));
}

marlin_status ml_buf_addf(struct ml_buf *b, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) return MARLIN_ERR_INTERNAL;
    const marlin_status st = ml_buf_reserve(b, (size_t)n);
    if (st != MARLIN_OK) return st;
    va_start(args, fmt);
    (void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, args);
    va_end(args);
    b->len += (size_t)n;
    return MARLIN_OK;
}

static marlin_status add_json_char(struct ml_buf *b, const unsigned char *s, size_t n) {
    switch (s[0]) {
    case '"':
        return ml_buf_adds(b, "\\\"");
    case '\\':
        return ml_buf_adds(b, "\\\\");
    case '\n':
        return ml_buf_adds(b, "\\n");
    case '\r':
        return ml_buf_adds(b, "\\r");
    case '\t':
        return ml_buf_adds(b, "\\t");
    default:
        return s[0] < 0x20 ? ml_buf_addf(b, "\\u%04x", (unsigned)s[0]) : ml_buf_add(b, s, n);
    }
}

marlin_status ml_buf_add_json(struct ml_buf *b, const char *s, size_t n) {
    const size_t start = b->len;
    const unsigned char *p = (const unsigned char *)s, *end = p + n;
    marlin_status st;
    ML_TRY(ml_buf_adds(b, "\""));
    while (p < end) {
        const size_t len = ml_utf8_length(p, (size_t)(end - p));
        if (len)
            ML_TRY(add_json_char(b, p, len));
        else
            ML_TRY(ml_buf_adds(b, "\xef\xbf\xbd"));
        p += len ? len : 1;
    }
    ML_TRY(ml_buf_adds(b, "\""));
out:
    if (st != MARLIN_OK && b->data) {
        b->len = start;
        b->data[start] = '\0';
    }
    return st;
}
