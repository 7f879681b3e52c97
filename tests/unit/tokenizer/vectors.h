/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading the committed vectors (scripts/dev/tokenizer_vectors.py describes the format) and comparing a
 * tokenizer with them: ids, decoded text, and the streaming decode of the same ids.
 */
#ifndef TESTS_TOKENIZER_VECTORS_H
#define TESTS_TOKENIZER_VECTORS_H

/* cmocka.h wants these four before it */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "tokenizer/tokenizer.h"

struct bytes {
    char *data;
    size_t len;
};

static inline struct bytes read_all(const char *path) {
    struct bytes b = {NULL, 0};
    FILE *f = fopen(path, "rb");
    if (!f) return b;
    (void)fseek(f, 0, SEEK_END);
    b.len = (size_t)ftell(f);
    rewind(f);
    b.data = malloc(b.len + 1);
    assert_non_null(b.data);
    assert_int_equal(fread(b.data, 1, b.len, f), b.len);
    b.data[b.len] = '\0';
    (void)fclose(f);
    return b;
}

/* Ill-formed parts as U+FFFD, by streaming nothing but bytes: the naive twin of the library's repair. */
static inline size_t lossy(const char *s, size_t n, char *out) {
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        const unsigned char c = (unsigned char)s[i];
        size_t want = c < 0x80                ? 1
                      : c >= 0xC2 && c < 0xE0 ? 2
                      : c >= 0xE0 && c < 0xF0 ? 3
                      : c >= 0xF0 && c < 0xF5 ? 4
                                              : 0;
        size_t have = want ? 1 : 0;
        while (have && have < want && i + have < n) {
            const unsigned char d = (unsigned char)s[i + have];
            unsigned char lo = 0x80, hi = 0xBF;
            if (have == 1) {
                if (c == 0xE0) lo = 0xA0;
                if (c == 0xED) hi = 0x9F;
                if (c == 0xF0) lo = 0x90;
                if (c == 0xF4) hi = 0x8F;
            }
            if (d < lo || d > hi) break;
            have++;
        }
        if (want && have == want) {
            memcpy(out + k, s + i, want);
            k += want;
            i += want;
        } else {
            memcpy(out + k, "\xEF\xBF\xBD", 3);
            k += 3;
            i += have ? have : 1;
        }
    }
    return k;
}

/* The stream of ids equals the full decode made well-formed. */
static inline void check_stream(const struct ml_tokenizer *t, const int32_t *ids, size_t n, bool skip) {
    struct ml_buf full, streamed;
    struct ml_text_stream s = {0};
    ml_buf_init(&full, 1 << 24);
    ml_buf_init(&streamed, 1 << 24);
    assert_int_equal(ml_tokenizer_decode(t, ids, n, skip, &full, NULL), MARLIN_OK);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(ml_stream_push(&s, t, ids[i], skip, &streamed, NULL), MARLIN_OK);
        char *copy = malloc(3 * streamed.len + 1); /* what is out is well-formed at every moment */
        assert_int_equal(lossy(streamed.data, streamed.len, copy), streamed.len);
        assert_true(!streamed.len || !memcmp(copy, streamed.data, streamed.len));
        free(copy);
    }
    assert_int_equal(ml_stream_finish(&s, &streamed), MARLIN_OK);
    char *want = malloc(3 * full.len + 1);
    const size_t k = lossy(full.data, full.len, want);
    assert_int_equal(k, streamed.len);
    assert_true(!k || !memcmp(want, streamed.data, k));
    free(want);
    ml_buf_free(&full);
    ml_buf_free(&streamed);
}

static inline unsigned u16(const char *p) {
    return (unsigned char)p[0] | (unsigned)(unsigned char)p[1] << 8;
}

static inline void show(const char *what, const char *s, size_t n) {
    (void)printf("%s:", what);
    for (size_t i = 0; i < n; i++)
        (void)printf(" %02x", (unsigned char)s[i]);
    (void)printf("\n");
}

enum { CHECK_IDS = 0, CHECK_DECODE = 1 };

/* Compares every string of a .vec file; returns how many it holds. */
static inline size_t check_vectors(const struct ml_tokenizer *t, const char *path, unsigned encode_flags,
                                   unsigned checks) {
    const struct bytes file = read_all(path);
    assert_non_null(file.data);
    const size_t n = u16(file.data) | (size_t)u16(file.data + 2) << 16;
    size_t bad = 0, bad_text = 0;
    const char *p = file.data + 4;
    for (size_t i = 0; i < n; i++) {
        const size_t len = u16(p), n_ids = u16(p + 2), n_text = u16(p + 4);
        const char *text = p + 6, *want = text + len, *decoded = want + 4 * n_ids;
        struct ml_ids ids = {0};
        struct marlin_error err = {.code = MARLIN_OK};
        struct ml_buf out;
        ml_buf_init(&out, 1 << 24);
        if (ml_tokenizer_encode(t, text, len, encode_flags, &ids, &err) != MARLIN_OK)
            fail_msg("%s", err.text);
        if (ids.n != n_ids || (n_ids && memcmp(ids.id, want, 4 * n_ids) != 0)) {
            if (bad++ < 5) {
                show("text", text, len);
                for (size_t k = 0; k < n_ids || k < ids.n; k++) {
                    int32_t w = -1;
                    if (k < n_ids) memcpy(&w, want + 4 * k, 4);
                    (void)printf(" %d/%d", k < ids.n ? (int)ids.id[k] : -1, (int)w);
                }
                (void)printf("   (ours/reference)\n");
            }
        }
        if (checks & CHECK_DECODE) {
            int32_t *again = malloc(4 * n_ids + 4);
            memcpy(again, want, 4 * n_ids);
            assert_int_equal(ml_tokenizer_decode(t, again, n_ids, false, &out, &err), MARLIN_OK);
            char *good = malloc(3 * out.len + 1);
            const size_t k = lossy(out.data, out.len, good);
            if ((k != n_text || memcmp(good, decoded, k) != 0) && bad_text++ < 5) {
                show("decoded", good, k);
                show("reference", decoded, n_text);
            }
            free(good);
            check_stream(t, again, n_ids, false);
            free(again);
        }
        ml_buf_free(&out);
        ml_ids_free(&ids);
        p = decoded + n_text;
    }
    assert_ptr_equal(p, file.data + file.len);
    free(file.data);
    (void)printf("%s: %zu strings, %zu with other ids, %zu with other text\n", path, n, bad, bad_text);
    assert_int_equal(bad, 0);
    assert_int_equal(bad_text, 0);
    return n;
}

#endif
