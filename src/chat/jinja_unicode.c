/* SPDX-License-Identifier: Apache-2.0
 *
 * Text as Python sees it: code points, white space, letter case, lines.
 */
#include "chat/jinja_int.h"

#include <string.h>
#include <utf8proc.h>

/* Bytes of the code point at s; *c is -1 where it is none. */
size_t ml_j_decode(const char *s, size_t n, int32_t *c) {
    const unsigned char first = (unsigned char)s[0];
    if (first < 0x80) {
        *c = first;
        return 1;
    }
    const utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, c);
    if (k > 0) return (size_t)k;
    *c = -1;
    return 1;
}

size_t ml_j_chars(const char *s, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)s[i] & 0xc0) != 0x80;
    return count;
}

size_t ml_j_offset(const struct ml_jstr *s, size_t chars) {
    if (s->chars == s->len) return chars;
    size_t at = 0;
    while (at < s->len) {
        if (((unsigned char)s->text[at] & 0xc0) != 0x80 && chars-- == 0) break;
        at++;
    }
    return at;
}

bool ml_j_space(int32_t c) {
    if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool ml_j_line_end(int32_t c) {
    return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool ml_j_line(const char *s, size_t n, size_t *at, size_t *begin, size_t *end) {
    size_t p = *at;
    if (p >= n) return false;
    *begin = p;
    for (;;) {
        int32_t c;
        *end = p;
        if (p >= n) break;
        p += ml_j_decode(s + p, n - p, &c);
        if (!ml_j_line_end(c)) continue;
        if (c == '\r' && p < n && s[p] == '\n') p++;
        break;
    }
    *at = p;
    return true;
}

bool ml_j_printable(int32_t c) {
    if (c < 0x80) return c >= 32 && c < 127;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

bool ml_j_class(int32_t c, enum ml_jclass k) {
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return k == ML_J_ALPHA;
    case UTF8PROC_CATEGORY_ND:
        return k != ML_J_ALPHA;
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return k == ML_J_NUMERIC;
    default:
        return false;
    }
}

enum ml_jcased ml_j_cased(int32_t c) {
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
        return ML_J_IS_UPPER;
    case UTF8PROC_CATEGORY_LL:
        return ML_J_IS_LOWER;
    case UTF8PROC_CATEGORY_LT:
        return ML_J_IS_TITLE;
    default:
        return ML_J_UNCASED;
    }
}

/* Letters whose other case is several letters, as far as Latin text has them; Unicode's SpecialCasing.txt. */
static const char *special(int32_t c, enum ml_jcase how) {
    static const struct {
        int32_t c;
        const char *title, *upper;
    } table[] = {{0xdf, "Ss", "SS"},     {0x149, "ʼN", "ʼN"},    {0x1f0, "J̌", "J̌"},    {0x587, "Եւ", "ԵՒ"},
                 {0x1e96, "H̱", "H̱"},     {0x1e97, "T̈", "T̈"},     {0x1e98, "W̊", "W̊"},   {0x1e99, "Y̊", "Y̊"},
                 {0x1e9a, "Aʾ", "Aʾ"},   {0xfb00, "Ff", "FF"},   {0xfb01, "Fi", "FI"}, {0xfb02, "Fl", "FL"},
                 {0xfb03, "Ffi", "FFI"}, {0xfb04, "Ffl", "FFL"}, {0xfb05, "St", "ST"}, {0xfb06, "St", "ST"}};
    if (how == ML_J_LOWER) return c == 0x130 ? "i̇" : NULL;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].c == c) return how == ML_J_TITLE ? table[i].title : table[i].upper;
    return NULL;
}

/* A capital sigma is written differently at the end of a word. */
static bool final_sigma(const char *s, size_t n, size_t at, size_t after) {
    int32_t c;
    size_t before = at;
    if (at == 0) return false;
    while (before > 0 && ((unsigned char)s[--before] & 0xc0) == 0x80)
        continue;
    (void)ml_j_decode(s + before, n - before, &c);
    if (ml_j_cased(c) == ML_J_UNCASED) return false;
    if (after >= n) return true;
    (void)ml_j_decode(s + after, n - after, &c);
    return ml_j_cased(c) == ML_J_UNCASED;
}

static marlin_status put_char(struct ml_buf *b, int32_t c) {
    utf8proc_uint8_t bytes[4];
    return ml_buf_add(b, bytes, (size_t)utf8proc_encode_char(c, bytes));
}

marlin_status ml_j_put_case(struct ml_buf *b, const char *s, size_t n, enum ml_jcase how) {
    int32_t c;
    for (size_t i = 0, k; i < n; i += k) {
        k = ml_j_decode(s + i, n - i, &c);
        const char *text = c < 0x80 ? NULL : special(c, how);
        if (text) {
            ML_J_CALL(b, ml_buf_adds(b, text));
            continue;
        }
        if (c == 0x3a3 && how == ML_J_LOWER)
            c = final_sigma(s, n, i, i + k) ? 0x3c2 : 0x3c3;
        else
            c = how == ML_J_LOWER   ? utf8proc_tolower(c)
                : how == ML_J_UPPER ? utf8proc_toupper(c)
                                    : utf8proc_totitle(c);
        ML_J_CALL(b, put_char(b, c));
    }
    return MARLIN_OK;
}

static bool stripped(int32_t c, const char *at, size_t k, const struct ml_jstr *chars) {
    if (!chars) return ml_j_space(c);
    return memmem(chars->text, chars->len, at, k) != NULL;
}

void ml_j_strip(const char **s, size_t *n, const struct ml_jstr *chars, int sides) {
    int32_t c;
    while ((sides & 1) && *n) {
        const size_t k = ml_j_decode(*s, *n, &c);
        if (!stripped(c, *s, k, chars)) break;
        *s += k;
        *n -= k;
    }
    while ((sides & 2) && *n) {
        size_t at = *n - 1;
        while (at > 0 && ((unsigned char)(*s)[at] & 0xc0) == 0x80)
            at--;
        (void)ml_j_decode(*s + at, *n - at, &c);
        if (!stripped(c, *s + at, *n - at, chars)) break;
        *n = at;
    }
}
