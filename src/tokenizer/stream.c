/* SPDX-License-Identifier: Apache-2.0
 *
 * Streaming decode: whole UTF-8 sequences out, whatever the tokens cut in two. The result of all pushes
 * equals the full decode with ill-formed parts replaced by U+FFFD.
 */
#include "tokenizer/tokenizer_int.h"

#include <string.h>

static marlin_status put_byte(struct ml_text_stream *s, char byte, struct ml_buf *out) {
    uint32_t cp;
    bool ok;
    s->pending[s->n_pending++] = (unsigned char)byte;
    const char *p = (const char *)s->pending;
    /* At most twice: an ill-formed part is given out, and the byte behind it looked at anew. */
    while (s->n_pending && !ml_utf8_incomplete(p, s->n_pending)) {
        const size_t n = ml_utf8_next(p, s->n_pending, &cp, &ok);
        const marlin_status st = ok ? ml_buf_add(out, p, n) : ml_buf_add(out, "\xEF\xBF\xBD", 3);
        if (st != MARLIN_OK) return st;
        s->n_pending -= n;
        memmove(s->pending, s->pending + n, s->n_pending);
    }
    return MARLIN_OK;
}

marlin_status ml_stream_push(struct ml_text_stream *s, const struct ml_tokenizer *t, int32_t id,
                             bool skip_special, struct ml_buf *out, struct marlin_error *err) {
    const struct ml_text_stream before = *s;
    const size_t was = out->len;
    struct ml_dec_text text;
    marlin_status st = ml_dec_token(t, id, skip_special, &s->started, &s->stripped, &text, err);
    if (st != MARLIN_OK) return st;
    if (text.space) st = put_byte(s, ' ', out);
    for (size_t i = 0; i < text.len && st == MARLIN_OK; i++)
        st = put_byte(s, text.text[i], out);
    if (st == MARLIN_OK) return st;
    *s = before;
    out->len = was;
    if (out->data) out->data[was] = '\0';
    return ml_fail(err, st, "decode: the text exceeds the buffer or memory");
}

size_t ml_stream_most(const struct ml_tokenizer *t) {
    /* Every byte, pending ones included, may become U+FFFD of three. */
    return 3 * (t->longest + sizeof(((struct ml_text_stream *)0)->pending));
}

marlin_status ml_stream_finish(struct ml_text_stream *s, struct ml_buf *out) {
    if (s->n_pending == 0) return MARLIN_OK;
    const marlin_status st = ml_buf_add(out, "\xEF\xBF\xBD", 3); /* an incomplete sequence is one part */
    if (st == MARLIN_OK) s->n_pending = 0;
    return st;
}
