/* SPDX-License-Identifier: Apache-2.0
 *
 * UTF-8 in and out, the character classes that tokenizers ask about, and GPT-2's byte alphabet.
 */
#include "tokenizer/tokenizer_int.h"

#include <string.h>
#include <utf8proc.h>

/* Bytes a lead byte asks for, and the range of the second byte (Unicode 15, table 3-7). */
static size_t lead(uint8_t b, uint8_t *low, uint8_t *high) {
    *low = 0x80;
    *high = 0xBF;
    if (b < 0x80) return 1;
    if (b < 0xC2) return 0;
    if (b < 0xE0) return 2;
    if (b < 0xF0) {
        if (b == 0xE0) *low = 0xA0;
        if (b == 0xED) *high = 0x9F;
        return 3;
    }
    if (b > 0xF4) return 0;
    if (b == 0xF0) *low = 0x90;
    if (b == 0xF4) *high = 0x8F;
    return 4;
}

size_t ml_utf8_next(const char *s, size_t n, uint32_t *cp, bool *ok) {
    const uint8_t *p = (const uint8_t *)s;
    uint8_t low, high;
    const size_t len = lead(p[0], &low, &high);
    *ok = false;
    *cp = 0xFFFD;
    if (len == 0) return 1;
    uint32_t c = len == 1 ? p[0] : p[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++) {
        if (i >= n || p[i] < low || p[i] > high) return i;
        low = 0x80;
        high = 0xBF;
        c = c << 6 | (p[i] & 0x3Fu);
    }
    *ok = true;
    *cp = c;
    return len;
}

size_t ml_utf8_get(const char *s, uint32_t *cp) {
    const uint8_t *p = (const uint8_t *)s;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    if (p[0] < 0xE0) {
        *cp = (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
        return 2;
    }
    if (p[0] < 0xF0) {
        *cp = (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
        return 3;
    }
    *cp = (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
    return 4;
}

size_t ml_utf8_put(char *dst, uint32_t cp) {
    if (cp < 0x80) {
        dst[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        dst[0] = (char)(0xC0 | cp >> 6);
        dst[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        dst[0] = (char)(0xE0 | cp >> 12);
        dst[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        dst[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    dst[0] = (char)(0xF0 | cp >> 18);
    dst[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    dst[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    dst[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

bool ml_utf8_incomplete(const char *s, size_t n) {
    uint8_t low, high;
    const size_t want = n ? lead((uint8_t)s[0], &low, &high) : 0;
    uint32_t cp;
    bool ok;
    return want > n && ml_utf8_next(s, n, &cp, &ok) == n;
}

/* Length of the run of ASCII bytes at s. */
static size_t ascii_run(const char *s, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t w;
        memcpy(&w, s + i, 8);
        if (w & 0x8080808080808080u) break;
    }
    while (i < n && (uint8_t)s[i] < 0x80)
        i++;
    return i;
}

bool ml_utf8_valid(const char *s, size_t n) {
    for (size_t i = ascii_run(s, n); i < n;) {
        uint32_t cp;
        bool ok;
        i += ml_utf8_next(s + i, n - i, &cp, &ok);
        if (!ok) return false;
        if (i < n && (uint8_t)s[i] < 0x80) i += ascii_run(s + i, n - i);
    }
    return true;
}

marlin_status ml_utf8_repair(const char *s, size_t n, struct ml_buf *out) {
    marlin_status st = MARLIN_OK;
    size_t good = 0; /* start of the valid stretch not yet copied */
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        bool ok;
        const size_t len = ml_utf8_next(s + i, n - i, &cp, &ok);
        if (!ok) {
            ML_TRY(ml_buf_add(out, s + good, i - good));
            ML_TRY(ml_buf_add(out, "\xEF\xBF\xBD", 3));
            good = i + len;
        }
        i += len;
    }
    st = ml_buf_add(out, s + good, n - good);
out:
    return st;
}

/* Unicode White_Space. */
static bool is_space(uint32_t c) {
    if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
           c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static bool is_ascii_punctuation(uint32_t c) {
    return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
}

/* The circled and squared letters, which are symbols with the property Alphabetic. */
static bool is_enclosed_letter(uint32_t c) {
    return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
           (c >= 0x1F170 && c <= 0x1F189);
}

bool ml_char_is(uint32_t cp, enum ml_char_class c) {
    if (c == ML_CHAR_SPACE) return is_space(cp);
    if (c == ML_CHAR_PUNCTUATION && is_ascii_punctuation(cp)) return true;
    const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)cp);
    const bool mark = k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME;
    switch (c) {
    case ML_CHAR_NUMERIC:
        return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
    case ML_CHAR_PUNCTUATION:
        return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
    case ML_CHAR_WORD:
        return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) || mark ||
               k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_PC ||
               cp == 0x200C || cp == 0x200D || is_enclosed_letter(cp);
    case ML_CHAR_MARK:
        return mark;
    case ML_CHAR_SPACE:
        break;
    }
    return false;
}

static bool prints_itself(uint32_t b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

/* The 68 bytes that do not print follow one another from U+0100 on: 0-32, 127-160, 173. */
uint32_t ml_byte_to_char(uint8_t byte) {
    if (prints_itself(byte)) return byte;
    if (byte <= 32) return 256u + byte;
    if (byte <= 160) return 256u + 33 + (byte - 127u);
    return 256u + 67;
}

int ml_char_to_byte(uint32_t cp) {
    if (cp < 256) return prints_itself(cp) ? (int)cp : -1;
    cp -= 256;
    if (cp <= 32) return (int)cp;
    if (cp < 67) return (int)cp - 33 + 127;
    return cp == 67 ? 173 : -1;
}
