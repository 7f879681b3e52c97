/* SPDX-License-Identifier: Apache-2.0
 *
 * Normalizers of tokenizer.json. The Unicode forms use utf8proc's tables, but not its ordering of combining
 * marks, which is quadratic: a text of nothing but marks must not take hours.
 */
#include "base/mem.h"
#include "tokenizer/tokenizer_int.h"

#include <string.h>
#include <utf8proc.h>

static marlin_status load_replace(struct ml_tokenizer *t, const struct ml_json *v, struct ml_tok_norm *n,
                                  struct marlin_error *err) {
    const marlin_status st = ml_tok_pattern(t, ml_json_get(v, "pattern"), "normalizer Replace", &n->pattern,
                                            &n->pattern_len, &n->regex, err);
    if (st != MARLIN_OK) return st;
    t->has_regex |= n->regex != NULL;
    return ml_tok_string(t, v, "content", "normalizer Replace", &n->text, &n->text_len, err);
}

static marlin_status load_one(struct ml_tokenizer *t, const char *type, const struct ml_json *v,
                              struct marlin_error *err) {
    static const struct {
        const char *name;
        enum ml_tok_norm_kind kind;
    } kinds[] = {
        {"NFC", ML_NORM_NFC},         {"NFD", ML_NORM_NFD},         {"NFKC", ML_NORM_NFKC},
        {"NFKD", ML_NORM_NFKD},       {"Prepend", ML_NORM_PREPEND}, {"Lowercase", ML_NORM_LOWERCASE},
        {"Replace", ML_NORM_REPLACE}, {"Strip", ML_NORM_STRIP},     {"StripAccents", ML_NORM_STRIP_ACCENTS},
        {"ByteLevel", ML_NORM_BYTES}};
    if (t->n_norm == ML_TOK_MAX_STEPS)
        return ml_fail(err, MARLIN_ERR_LIMIT, "normalizer: more than %u steps", ML_TOK_MAX_STEPS);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(type, kinds[i].name) != 0) continue;
        struct ml_tok_norm *n = &t->norm[t->n_norm++];
        *n = (struct ml_tok_norm){.kind = kinds[i].kind, .left = true, .right = true, .text = ""};
        marlin_status st = MARLIN_OK;
        if (n->kind == ML_NORM_REPLACE) st = load_replace(t, v, n, err);
        if (n->kind == ML_NORM_PREPEND)
            st = ml_tok_string(t, v, "prepend", "normalizer Prepend", &n->text, &n->text_len, err);
        if (st == MARLIN_OK) st = ml_tok_bool(v, "strip_left", "normalizer Strip", &n->left, err);
        if (st == MARLIN_OK) st = ml_tok_bool(v, "strip_right", "normalizer Strip", &n->right, err);
        if (st == MARLIN_OK && !n->text)
            st = ml_fail(err, MARLIN_ERR_FORMAT, "normalizer %s: its text is missing", type);
        return st;
    }
    return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "normalizer type \"%s\" is not supported", type);
}

marlin_status ml_norm_load(struct ml_tokenizer *t, const struct ml_json *v, struct marlin_error *err) {
    return ml_tok_components(t, v, "normalizer", "normalizers", load_one, err);
}

/* Stable sort of a run of combining marks by class: 256 counters once a run is long, insertion below. */
static marlin_status order_run(uint32_t *cp, size_t n) {
    if (n < 2) return MARLIN_OK;
    if (n <= 16) {
        for (size_t i = 1; i < n; i++) {
            const uint32_t c = cp[i];
            const int class = utf8proc_get_property((utf8proc_int32_t)c)->combining_class;
            size_t j = i;
            for (; j && utf8proc_get_property((utf8proc_int32_t)cp[j - 1])->combining_class > class; j--)
                cp[j] = cp[j - 1];
            cp[j] = c;
        }
        return MARLIN_OK;
    }
    size_t first[257] = {0};
    uint32_t *sorted = ml_alloc(n * sizeof *sorted);
    if (!sorted) return MARLIN_ERR_MEMORY;
    for (size_t i = 0; i < n; i++)
        first[(utf8proc_get_property((utf8proc_int32_t)cp[i])->combining_class & 255) + 1]++;
    for (size_t i = 0; i < 256; i++)
        first[i + 1] += first[i];
    for (size_t i = 0; i < n; i++)
        sorted[first[utf8proc_get_property((utf8proc_int32_t)cp[i])->combining_class & 255]++] = cp[i];
    memcpy(cp, sorted, n * sizeof *cp);
    ml_free(sorted);
    return MARLIN_OK;
}

static marlin_status order_marks(uint32_t *cp, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && utf8proc_get_property((utf8proc_int32_t)cp[end])->combining_class)
            end++;
        const marlin_status st = order_run(cp + i, end - i);
        if (st != MARLIN_OK) return st;
        i = end + 1;
    }
    return MARLIN_OK;
}

/* Normalizes a stretch that neighbours cannot change. */
static marlin_status normalize_stretch(struct ml_encoder *e, const char *s, size_t len, int options,
                                       struct ml_buf *out) {
    marlin_status st = MARLIN_OK;
    size_t n = 0;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int boundary = 0;
        i += ml_utf8_get(s + i, &cp);
        ML_TRY(ml_grow(&e->cp, &e->cp_cap, n + 32, sizeof *e->cp)); /* 18 is the longest decomposition */
        const utf8proc_ssize_t k = utf8proc_decompose_char(
            (utf8proc_int32_t)cp, (utf8proc_int32_t *)e->cp + n, 32, (utf8proc_option_t)options, &boundary);
        if (k < 0 || k > 32) return ml_fail(e->err, MARLIN_ERR_INTERNAL, "normalization of U+%04X", cp);
        n += (size_t)k;
    }
    ML_TRY(order_marks(e->cp, n));
    if (options & UTF8PROC_COMPOSE)
        n = (size_t)utf8proc_normalize_utf32((utf8proc_int32_t *)e->cp, (utf8proc_ssize_t)n,
                                             (utf8proc_option_t)options);
    for (size_t i = 0; i < n; i++) {
        char c[4];
        ML_TRY(ml_buf_add(out, c, ml_utf8_put(c, e->cp[i])));
    }
out:
    return st;
}

/* Characters below U+0300 are starters that compose with nothing before them, so a stretch may start at any
 * of them; in NFC they also stay as they are unless something above follows. */
static marlin_status unicode_form(struct ml_encoder *e, const char *s, size_t len, enum ml_tok_norm_kind kind,
                                  struct ml_buf *out) {
    const bool compose = kind == ML_NORM_NFC || kind == ML_NORM_NFKC;
    const bool compat = kind == ML_NORM_NFKC || kind == ML_NORM_NFKD;
    const int options =
        UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compat ? UTF8PROC_COMPAT : 0);
    const uint8_t plain = kind == ML_NORM_NFC ? 0xCC : 0x80; /* lead bytes below it need no work */
    marlin_status st = MARLIN_OK;
    size_t done = 0;
    for (size_t i = 0; i < len;) {
        size_t last = i; /* the plain character before the stretch */
        while (i < len && (uint8_t)s[i] < plain) {
            last = i++;
            while (i < len && ((uint8_t)s[i] & 0xC0) == 0x80)
                i++;
        }
        if (i == len) break;
        ML_TRY(ml_buf_add(out, s + done, last - done));
        while (i < len && (uint8_t)s[i] >= plain)
            i += ml_utf8_get(s + i, &(uint32_t){0});
        ML_TRY(normalize_stretch(e, s + last, i - last, options, out));
        done = i;
    }
    st = ml_buf_add(out, s + done, len - done);
out:
    return st;
}

static marlin_status lowercase(const char *s, size_t len, struct ml_buf *out) {
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        char c[8];
        i += ml_utf8_get(s + i, &cp);
        size_t n;
        if (cp == 0x130) /* the one character whose lower case is two, in every language */
            n = ml_utf8_put(c, 'i'), n += ml_utf8_put(c + n, 0x307);
        else
            n = ml_utf8_put(c, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp));
        const marlin_status st = ml_buf_add(out, c, n);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static marlin_status strip_accents(const char *s, size_t len, struct ml_buf *out) {
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        const size_t n = ml_utf8_get(s + i, &cp);
        if (!ml_char_is(cp, ML_CHAR_MARK)) {
            const marlin_status st = ml_buf_add(out, s + i, n);
            if (st != MARLIN_OK) return st;
        }
        i += n;
    }
    return MARLIN_OK;
}

static marlin_status strip(const struct ml_tok_norm *n, const char *s, size_t len, struct ml_buf *out) {
    size_t from = 0, to = len;
    uint32_t cp;
    while (n->left && from < len) {
        const size_t k = ml_utf8_get(s + from, &cp);
        if (!ml_char_is(cp, ML_CHAR_SPACE)) break;
        from += k;
    }
    while (n->right && to > from) {
        size_t k = to - 1;
        while (((uint8_t)s[k] & 0xC0) == 0x80)
            k--;
        (void)ml_utf8_get(s + k, &cp);
        if (!ml_char_is(cp, ML_CHAR_SPACE)) break;
        to = k;
    }
    return ml_buf_add(out, s + from, to - from);
}

static marlin_status replace(struct ml_encoder *e, const struct ml_tok_norm *n, const char *s, size_t len,
                             struct ml_buf *out) {
    marlin_status st = MARLIN_OK;
    size_t done = 0, from = 0;
    size_t last = SIZE_MAX; /* end of the last match: an empty one may not follow there */
    while (from <= len) {
        size_t start = 0, end = 0;
        bool found = false;
        if (n->regex) {
            ML_TRY(ml_regex_find(n->regex, e->run, s, len, from, &start, &end, &found, e->err));
        } else {
            const char *p = n->pattern_len ? memmem(s + from, len - from, n->pattern, n->pattern_len) : NULL;
            found = p != NULL;
            if (p) start = (size_t)(p - s), end = start + n->pattern_len;
        }
        if (!found) break;
        from = end;
        if (start == end && (end == last)) {
            if (end >= len) break;
            from += ml_utf8_get(s + end, &(uint32_t){0});
            continue;
        }
        last = end;
        ML_TRY(ml_buf_add(out, s + done, start - done));
        ML_TRY(ml_buf_add(out, n->text, n->text_len));
        done = end;
    }
    st = ml_buf_add(out, s + done, len - done);
out:
    return st;
}

static marlin_status run_step(struct ml_encoder *e, const struct ml_tok_norm *n, const char *s, size_t len,
                              struct ml_buf *out) {
    marlin_status st;
    switch (n->kind) {
    case ML_NORM_LOWERCASE:
        return lowercase(s, len, out);
    case ML_NORM_PREPEND:
        st = len ? ml_buf_add(out, n->text, n->text_len) : MARLIN_OK;
        return st == MARLIN_OK ? ml_buf_add(out, s, len) : st;
    case ML_NORM_REPLACE:
        return replace(e, n, s, len, out);
    case ML_NORM_STRIP:
        return strip(n, s, len, out);
    case ML_NORM_STRIP_ACCENTS:
        return strip_accents(s, len, out);
    case ML_NORM_BYTES:
        return ml_map_bytes(s, len, out);
    case ML_NORM_NFC:
    case ML_NORM_NFD:
    case ML_NORM_NFKC:
    case ML_NORM_NFKD:
        break;
    }
    return unicode_form(e, s, len, n->kind, out);
}

marlin_status ml_norm_run(struct ml_encoder *e, const char *s, size_t len, const char **out,
                          size_t *out_len) {
    for (size_t i = 0; i < e->t->n_norm; i++) {
        struct ml_buf *to = &e->norm[i & 1];
        ml_buf_clear(to);
        marlin_status st = run_step(e, &e->t->norm[i], s, len, to);
        if (st == MARLIN_OK) st = ml_work(e, to->len);
        if (st != MARLIN_OK) return st;
        s = to->data ? to->data : "";
        len = to->len;
    }
    *out = s;
    *out_len = len;
    return MARLIN_OK;
}
