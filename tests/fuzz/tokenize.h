/* SPDX-License-Identifier: Apache-2.0
 *
 * What every tokenizer that loads must do with every text, for the fuzz targets of both file formats.
 */
#ifndef TESTS_FUZZ_TOKENIZE_H
#define TESTS_FUZZ_TOKENIZE_H

#include "base/mem.h"
#include "tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static inline void require(bool condition) {
    if (!condition) abort();
}

static inline void decode_all(const struct ml_tokenizer *t, const struct ml_ids *ids, bool skip) {
    struct ml_buf whole, streamed;
    struct ml_text_stream s = {0};
    struct marlin_error err = {0};
    ml_buf_init(&whole, 1u << 26);
    ml_buf_init(&streamed, 1u << 26);
    const marlin_status st = ml_tokenizer_decode(t, ids->id, ids->n, skip, &whole, &err);
    require(st == MARLIN_OK || err.text[0]);
    for (size_t i = 0; i < ids->n; i++) {
        require(ml_stream_push(&s, t, ids->id[i], skip, &streamed, &err) == MARLIN_OK || err.text[0]);
    }
    require(ml_stream_finish(&s, &streamed) == MARLIN_OK);
    if (st == MARLIN_OK && whole.len == streamed.len && whole.len)
        require(memcmp(whole.data, streamed.data, whole.len) == 0 ||
                memchr(streamed.data, 0xEF, streamed.len));
    ml_buf_free(&whole);
    ml_buf_free(&streamed);
}

/* A copy without a NUL behind it, so that a sanitizer sees a read past the end. */
static inline void try_text(const struct ml_tokenizer *t, const void *text, size_t len, unsigned flags) {
    struct ml_ids ids = {0};
    struct marlin_error err = {0};
    char *exact = malloc(len ? len : 1);
    require(exact != NULL);
    if (len) memcpy(exact, text, len);
    const marlin_status st = ml_tokenizer_encode(t, exact, len, flags, &ids, &err);
    free(exact);
    if (st != MARLIN_OK) require(err.code == st && err.text[0] && ids.n == 0);
    for (size_t i = 0; i < ids.n; i++) {
        require(ml_tokenizer_piece(t, ids.id[i], NULL) != NULL);
    }
    decode_all(t, &ids, false);
    decode_all(t, &ids, true);
    ml_ids_free(&ids);
}

static inline void try_ids(const struct ml_tokenizer *t) {
    const int32_t size = (int32_t)ml_tokenizer_size(t), bad[] = {-1, INT32_MIN}, beyond[] = {size, INT32_MAX};
    struct ml_ids ids = {0};
    struct ml_buf out;
    struct marlin_error err = {0};
    ml_buf_init(&out, 1u << 20);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        require(ml_tokenizer_decode(t, &bad[i], 1, false, &out, &err) == MARLIN_ERR_ARGUMENT && err.text[0]);
        require(ml_tokenizer_piece(t, bad[i], NULL) == NULL);
    }
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++) { /* padding of the model: no text */
        require(ml_tokenizer_decode(t, &beyond[i], 1, false, &out, &err) == MARLIN_OK && out.len == 0);
        require(ml_tokenizer_piece(t, beyond[i], NULL) == NULL);
    }
    ml_buf_free(&out);
    ids.n = size < 64 ? (size_t)size : 64;
    ids.id = ml_calloc(ids.n, sizeof *ids.id);
    require(ids.id != NULL);
    for (size_t i = 0; i < ids.n; i++) {
        ids.id[i] = (int32_t)((i * 7919) % (size_t)size);
    }
    decode_all(t, &ids, false);
    ml_ids_free(&ids);
}

static inline void try_tokenizer(const struct ml_tokenizer *t, const void *text, size_t len) {
    static const char mixed[] =
        "The  \xc3\xa9t\xc3\xa9 e\xcc\x81 \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd"
        "123\n\n<s>x</s> don't a\xff\xc0\xaf\xed\xa0\x80\xe2\x82 \xef\xb7\xba\0 end ";
    try_text(t, mixed, sizeof mixed - 1, 0);
    try_text(t, mixed, sizeof mixed - 1, ML_ENCODE_SPECIAL | ML_ENCODE_BOS);
    try_text(t, text, len, 0);
    try_text(t, text, len, ML_ENCODE_SPECIAL);
    char same[200];
    memset(same, 'a', sizeof same);
    try_text(t, same, sizeof same, 0);
    try_ids(t);
}

#endif
