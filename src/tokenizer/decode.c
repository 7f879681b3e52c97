/* SPDX-License-Identifier: Apache-2.0
 *
 * Ids back to text. Every step of a decoder works on single tokens (only the space in front of the whole text
 * needs memory), so each id's bytes are worked out once at load, and decoding is a copy.
 */
#include "base/mem.h"
#include "tokenizer/tokenizer_int.h"

#include <string.h>

enum { MAX_PIECE_OUT = 16 << 20 }; /* bytes that one token may become */

static bool is_fused(const struct ml_tokenizer *t) {
    return t->strip_start == SIZE_MAX;
}

static marlin_status load_strip(struct ml_tokenizer *t, const struct ml_json *v, struct ml_tok_dec *d,
                                bool *fused, struct marlin_error *err) {
    uint64_t start = 0, stop = 0;
    marlin_status st = ml_tok_string(t, v, "content", "decoder Strip", &d->pattern, &d->pattern_len, err);
    if (st != MARLIN_OK) return st;
    if (!d->pattern_len || !ml_json_u64(ml_json_get(v, "start"), &start) ||
        !ml_json_u64(ml_json_get(v, "stop"), &stop))
        return ml_fail(err, MARLIN_ERR_FORMAT, "decoder Strip: content, start and stop are needed");
    d->start = start;
    d->stop = stop;
    if (!is_fused(t)) return MARLIN_OK;
    if (stop || d->pattern_len != 1 || start >= SIZE_MAX || t->strip_char)
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "decoder Strip after Fuse: only one ASCII character at the start is supported");
    t->strip_char = d->pattern[0];
    d->stop = start; /* ml_dec_load moves it to strip_start */
    *fused = true;
    return MARLIN_OK;
}

static marlin_status load_replace(struct ml_tokenizer *t, const struct ml_json *v, struct ml_tok_dec *d,
                                  struct marlin_error *err) {
    struct ml_regex *regex = NULL;
    marlin_status st = ml_tok_pattern(t, ml_json_get(v, "pattern"), "decoder Replace", &d->pattern,
                                      &d->pattern_len, &regex, err);
    if (regex) st = ml_fail(err, MARLIN_ERR_UNSUPPORTED, "decoder Replace: a Regex pattern is not supported");
    ml_regex_free(regex);
    return st == MARLIN_OK ? ml_tok_string(t, v, "content", "decoder Replace", &d->text, &d->text_len, err)
                           : st;
}

static marlin_status load_metaspace(struct ml_tokenizer *t, const struct ml_json *v, struct ml_tok_dec *d,
                                    struct marlin_error *err) {
    const char *scheme = NULL;
    size_t n;
    bool prefix = true;
    marlin_status st;
    ML_TRY(ml_tok_string(t, v, "replacement", "decoder Metaspace", &d->pattern, &d->pattern_len, err));
    ML_TRY(ml_tok_string(t, v, "prepend_scheme", "decoder Metaspace", &scheme, &n, err));
    ML_TRY(ml_tok_bool(v, "add_prefix_space", "decoder Metaspace", &prefix, err));
    d->drop_first = scheme ? strcmp(scheme, "never") != 0 : prefix;
    d->text = " ";
    d->text_len = 1;
    t->first_differs |= d->drop_first;
    if (!d->pattern_len) st = ml_fail(err, MARLIN_ERR_FORMAT, "decoder Metaspace: replacement is missing");
out:
    return st;
}

/* While loading, strip_start == SIZE_MAX says that the tokens are one text already. */
static marlin_status load_one(struct ml_tokenizer *t, const char *type, const struct ml_json *v,
                              struct marlin_error *err) {
    if (!strcmp(type, "Fuse")) {
        t->strip_start = SIZE_MAX;
        return MARLIN_OK;
    }
    if (t->n_dec == ML_TOK_MAX_STEPS)
        return ml_fail(err, MARLIN_ERR_LIMIT, "decoder: more than %u steps", ML_TOK_MAX_STEPS);
    struct ml_tok_dec d = {.text = ""};
    bool whole = false;
    marlin_status st = MARLIN_OK;
    if (!strcmp(type, "Strip")) {
        d.kind = ML_DEC_STRIP;
        st = load_strip(t, v, &d, &whole, err);
    } else if (is_fused(t)) {
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "decoder type \"%s\" after Fuse is not supported", type);
    } else if (!strcmp(type, "ByteLevel")) {
        d.kind = ML_DEC_BYTE_LEVEL;
    } else if (!strcmp(type, "ByteFallback")) {
        d.kind = ML_DEC_BYTE_FALLBACK;
    } else if (!strcmp(type, "Replace")) {
        d.kind = ML_DEC_REPLACE;
        st = load_replace(t, v, &d, err);
    } else if (!strcmp(type, "Metaspace")) {
        d.kind = ML_DEC_METASPACE;
        st = load_metaspace(t, v, &d, err);
    } else {
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "decoder type \"%s\" is not supported", type);
    }
    if (st != MARLIN_OK) return st;
    t->dec[t->n_dec++] = d;
    if (d.kind == ML_DEC_BYTE_LEVEL) t->strip_start = SIZE_MAX; /* its result is one text, too */
    return MARLIN_OK;
}

marlin_status ml_dec_load(struct ml_tokenizer *t, const struct ml_json *v, struct marlin_error *err) {
    t->join_with_space = !v || ml_json_type(v) == ML_JSON_NULL;
    const marlin_status st = ml_tok_components(t, v, "decoder", "decoders", load_one, err);
    t->strip_start = 0;
    if (st == MARLIN_OK && t->strip_char) t->strip_start = t->dec[--t->n_dec].start;
    return st;
}

static marlin_status byte_level(const char *s, size_t len, struct ml_buf *out) {
    const size_t was = out->len;
    if (!ml_utf8_valid(s, len)) return ml_buf_add(out, s, len); /* a byte that an earlier step made */
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        i += ml_utf8_get(s + i, &cp);
        const int byte = ml_char_to_byte(cp);
        if (byte < 0) { /* not of the alphabet: the token stands for itself */
            out->len = was;
            return ml_buf_add(out, s, len);
        }
        const char c = (char)byte;
        const marlin_status st = ml_buf_add(out, &c, 1);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static marlin_status replace(const char *s, size_t len, const struct ml_tok_dec *d, bool drop,
                             struct ml_buf *out) {
    marlin_status st = MARLIN_OK;
    size_t done = 0;
    const char *p;
    while (d->pattern_len && (p = memmem(s + done, len - done, d->pattern, d->pattern_len)) != NULL) {
        ML_TRY(ml_buf_add(out, s + done, (size_t)(p - s) - done));
        if (!drop) ML_TRY(ml_buf_add(out, d->text, d->text_len));
        done = (size_t)(p - s) + d->pattern_len;
    }
    st = ml_buf_add(out, s + done, len - done);
out:
    return st;
}

static marlin_status strip(const char *s, size_t len, const struct ml_tok_dec *d, struct ml_buf *out) {
    const size_t k = d->pattern_len;
    for (size_t i = 0; i < d->start && len >= k && !memcmp(s, d->pattern, k); i++)
        s += k, len -= k;
    for (size_t i = 0; i < d->stop && len >= k && !memcmp(s + len - k, d->pattern, k); i++)
        len -= k;
    return ml_buf_add(out, s, len);
}

static marlin_status step(const struct ml_tok_dec *d, const char *s, size_t len, bool first,
                          struct ml_buf *out) {
    switch (d->kind) {
    case ML_DEC_BYTE_LEVEL:
        return byte_level(s, len, out);
    case ML_DEC_BYTE_FALLBACK: {
        const int byte = ml_byte_piece(s, len);
        const char c = (char)byte;
        return byte < 0 ? ml_buf_add(out, s, len) : ml_buf_add(out, &c, 1);
    }
    case ML_DEC_REPLACE:
        return replace(s, len, d, false, out);
    case ML_DEC_METASPACE:
        return replace(s, len, d, first && d->drop_first, out);
    case ML_DEC_STRIP:
        break;
    }
    return strip(s, len, d, out);
}

/* SentencePiece's own decoder, a space in front left to ml_dec_token. */
static marlin_status sp_text(const struct ml_tokenizer *t, const struct ml_tok_piece *p, struct ml_buf *out) {
    static const struct ml_tok_dec spaces = {
        .pattern = "\xE2\x96\x81", .pattern_len = 3, .text = " ", .text_len = 1};
    const char byte = (char)p->byte;
    if (p->flags & ML_PIECE_BYTE) return ml_buf_add(out, &byte, 1);
    if (p->flags & ML_PIECE_UNKNOWN) return ml_buf_adds(out, t->unk_surface);
    return replace(p->text, p->len, &spaces, false, out);
}

/* Runs the steps over one piece; the result lies in one of the two buffers. */
static marlin_status piece_text(const struct ml_tokenizer *t, const struct ml_tok_piece *p, bool first,
                                struct ml_buf buf[2], const char **text, size_t *len) {
    *text = p->text;
    *len = p->len;
    for (size_t i = 0; i < t->n_dec; i++) {
        struct ml_buf *to = &buf[i & 1];
        ml_buf_clear(to);
        const marlin_status st = step(&t->dec[i], *text, *len, first, to);
        if (st != MARLIN_OK) return st;
        *text = to->data ? to->data : "";
        *len = to->len;
    }
    if (t->model == ML_MODEL_BPE) return MARLIN_OK;
    ml_buf_clear(&buf[0]);
    const marlin_status st = sp_text(t, p, &buf[0]);
    *text = buf[0].data ? buf[0].data : "";
    *len = buf[0].len;
    return st;
}

static void init_pair(struct ml_buf buf[2]) {
    /* A Replace step can lengthen a piece; what one token may become is bounded all the same. */
    ml_buf_init(&buf[0], MAX_PIECE_OUT);
    ml_buf_init(&buf[1], MAX_PIECE_OUT);
}

/* Keeps what a piece decodes to for as long as the tokenizer lives; *total counts the bytes of all of them.
 */
static marlin_status keep_text(struct ml_tokenizer *t, const struct ml_tok_piece *p, bool first,
                               struct ml_buf buf[2], size_t *total, struct ml_dec_text *out) {
    const char *text;
    size_t len;
    const marlin_status st = piece_text(t, p, first, buf, &text, &len);
    if (st != MARLIN_OK) return st;
    if ((*total += len) > ML_TOK_MAX_OUT) return MARLIN_ERR_LIMIT;
    const bool same = len == p->len && !memcmp(text, p->text, len);
    *out = (struct ml_dec_text){.text = same ? p->text : ml_arena_strndup(&t->arena, text, len), .len = len};
    if (!out->text) return MARLIN_ERR_MEMORY;
    if (len + t->join_with_space > t->longest) t->longest = len + t->join_with_space;
    return MARLIN_OK;
}

marlin_status ml_dec_prepare(struct ml_tokenizer *t, struct marlin_error *err) {
    struct ml_buf buf[2];
    init_pair(buf);
    marlin_status st = MARLIN_OK;
    size_t total = 0;
    if (t->first_differs) {
        t->first = ml_arena_array(&t->arena, t->size, sizeof *t->first);
        if (!t->first) ML_TRY(MARLIN_ERR_MEMORY);
    }
    for (size_t id = 0; id < t->size; id++) {
        struct ml_tok_piece *p = &t->piece[id];
        struct ml_dec_text text;
        if (!p->flags) continue;
        ML_TRY(keep_text(t, p, false, buf, &total, &text));
        p->out = text.text;
        p->out_len = (uint32_t)text.len;
        if (t->first) ML_TRY(keep_text(t, p, true, buf, &total, &t->first[id]));
    }
out:
    ml_buf_free(&buf[0]);
    ml_buf_free(&buf[1]);
    if (st == MARLIN_ERR_LIMIT)
        (void)ml_fail(err, st,
                      "decoder: the tokens become too long: the ceiling is %u bytes for one, %u for all",
                      MAX_PIECE_OUT, ML_TOK_MAX_OUT);
    else if (st != MARLIN_OK)
        (void)ml_fail(err, st, "decoder: out of memory");
    return st;
}

/* *stripped counts characters taken off the front of the whole text; at the allowance it stays. */
static void strip_front(char strip, size_t allowance, size_t *stripped, const char **text, size_t *len) {
    while (*len && *stripped < allowance) {
        if ((*text)[0] != strip) {
            *stripped = allowance;
            return;
        }
        ++*text;
        --*len;
        ++*stripped;
    }
}

/* SentencePiece: pieces in front of any text lose one space each, or only the very first of them. */
static struct ml_dec_text sp_token(const struct ml_tokenizer *t, const struct ml_tok_piece *p,
                                   bool *started) {
    const char *text = p->out;
    size_t len = p->out_len;
    const bool plain = !(p->flags & (ML_PIECE_BYTE | ML_PIECE_UNKNOWN | ML_PIECE_SPECIAL | ML_PIECE_ADDED));
    const struct ml_tok_sp_norm *n = &t->sp_norm;
    if (!*started && plain && len && text[0] == ' ' && p->text[0] != ' ' &&
        (n->dummy_prefix || n->remove_extra)) {
        text++;
        len--;
        if (!n->remove_extra) *started = true;
    }
    if (len) *started = true;
    return (struct ml_dec_text){.text = text, .len = len};
}

marlin_status ml_dec_token(const struct ml_tokenizer *t, int32_t id, bool skip_special, bool *started,
                           size_t *stripped, struct ml_dec_text *out, struct marlin_error *err) {
    *out = (struct ml_dec_text){.text = ""};
    if (id < 0) return ml_fail(err, MARLIN_ERR_ARGUMENT, "decode: id %d is no token", (int)id);
    if ((size_t)id >= t->size) return MARLIN_OK; /* padding rows of an output matrix have no spelling */
    const struct ml_tok_piece *p = &t->piece[id];
    if (!p->flags || (skip_special && (p->flags & ML_PIECE_SPECIAL))) return MARLIN_OK;
    if (t->model != ML_MODEL_BPE) {
        *out = sp_token(t, p, started);
        return MARLIN_OK;
    }
    if (!*started && t->first) {
        *out = t->first[id];
    } else {
        *out =
            (struct ml_dec_text){.space = *started && t->join_with_space, .text = p->out, .len = p->out_len};
        strip_front(t->strip_char, t->strip_start, stripped, &out->text, &out->len);
    }
    *started = true;
    return MARLIN_OK;
}

marlin_status ml_tokenizer_decode(const struct ml_tokenizer *t, const int32_t *ids, size_t n,
                                  bool skip_special, struct ml_buf *out, struct marlin_error *err) {
    const size_t was = out->len;
    bool started = false;
    size_t stripped = 0;
    marlin_status st = MARLIN_OK;
    for (size_t i = 0; i < n && st == MARLIN_OK; i++) {
        struct ml_dec_text text;
        st = ml_dec_token(t, ids[i], skip_special, &started, &stripped, &text, err);
        if (st != MARLIN_OK) break;
        if (text.space) st = ml_buf_adds(out, " ");
        if (st == MARLIN_OK) st = ml_buf_add(out, text.text, text.len);
        if (st != MARLIN_OK) (void)ml_fail(err, st, "decode: the text exceeds the buffer or memory");
    }
    if (st == MARLIN_OK) return st;
    out->len = was;
    if (out->data) out->data[was] = '\0';
    return st;
}
