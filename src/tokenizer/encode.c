/* SPDX-License-Identifier: Apache-2.0
 *
 * One encode from bytes to ids: repair, split at added tokens, normalize, pre-tokenize, model.
 */
#include "base/mem.h"
#include "tokenizer/tokenizer_int.h"

#include <string.h>

/* A text this long repeats words often enough to pay for the cache's memory. */
enum { CACHE_FROM = 4096 };

typedef marlin_status stretch_fn(struct ml_encoder *e, const char *s, size_t len, bool first, unsigned flags);

static bool word_before(const char *s, size_t at) {
    if (at == 0) return false;
    size_t k = at - 1;
    while (((uint8_t)s[k] & 0xC0) == 0x80)
        k--;
    uint32_t cp;
    (void)ml_utf8_get(s + k, &cp);
    return ml_char_is(cp, ML_CHAR_WORD);
}

static bool word_after(const char *s, size_t len, size_t at) {
    uint32_t cp;
    if (at == len) return false;
    (void)ml_utf8_get(s + at, &cp);
    return ml_char_is(cp, ML_CHAR_WORD);
}

/* The start of the white space that ends at `at`, not before `least`. */
static size_t space_start(const char *s, size_t least, size_t at) {
    while (at > least) {
        size_t k = at - 1;
        uint32_t cp;
        while (((uint8_t)s[k] & 0xC0) == 0x80)
            k--;
        (void)ml_utf8_get(s + k, &cp);
        if (!ml_char_is(cp, ML_CHAR_SPACE)) break;
        at = k;
    }
    return at > least ? at : least;
}

static size_t space_end(const char *s, size_t len, size_t at) {
    while (at < len) {
        uint32_t cp;
        const size_t n = ml_utf8_get(s + at, &cp);
        if (!ml_char_is(cp, ML_CHAR_SPACE)) break;
        at += n;
    }
    return at;
}

struct added_split {
    struct ml_encoder *e;
    const char *s;
    size_t len;
    bool first;
    unsigned flags;
    stretch_fn *rest;            /* for what lies between added tokens */
    size_t done;                 /* all before it is given out */
    size_t space_from, space_to; /* white space already walked over by rstrip: never walked twice */
};

static marlin_status between(const struct added_split *a, size_t start, size_t end) {
    if (start >= end) return MARLIN_OK;
    return a->rest(a->e, a->s + start, end - start, a->first && start == 0, a->flags);
}

static marlin_status take_match(struct added_split *a, const struct ml_tok_match *m) {
    const struct ml_tok_added *token = &a->e->t->added[m->pattern];
    size_t start = m->start, end = start + m->len;
    if (token->special && !(a->flags & ML_ENCODE_SPECIAL)) return MARLIN_OK;
    if (token->single_word && (word_before(a->s, start) || word_after(a->s, a->len, end))) return MARLIN_OK;
    if (token->lstrip) start = space_start(a->s, a->done, start);
    if (token->rstrip) {
        if (end < a->space_from || end > a->space_to) {
            a->space_from = end;
            a->space_to = space_end(a->s, a->len, end);
        }
        end = a->space_to;
    }
    marlin_status st = between(a, a->done, start);
    if (st == MARLIN_OK) st = ml_ids_add(a->e->ids, token->id);
    a->done = end;
    return st;
}

/* A special token that the caller wants as text still takes its characters away from other added tokens, as
 * in the reference implementation. */
static marlin_status split_added(struct ml_encoder *e, const struct ml_matcher *matcher,
                                 struct ml_tok_matches *found, const char *s, size_t len, bool first,
                                 unsigned flags, stretch_fn *rest) {
    struct added_split a = {.e = e, .s = s, .len = len, .first = first, .flags = flags, .rest = rest};
    a.space_from = SIZE_MAX;
    marlin_status st;
    size_t at = 0;
    ML_TRY(ml_matcher_find(matcher, s, len, found));
    for (size_t i = found->n; i-- > 0;) {
        const struct ml_tok_match m = found->item[i];
        if (m.start < at) continue;
        at = m.start + m.len;
        ML_TRY(take_match(&a, &m));
    }
    st = between(&a, a.done, len);
out:
    return st;
}

static marlin_status pretokenize(struct ml_encoder *e, const char *s, size_t len, bool first,
                                 unsigned flags) {
    (void)flags;
    return ml_pre_run(e, 0, s, len, first);
}

static marlin_status normalize(struct ml_encoder *e, const char *s, size_t len, bool first, unsigned flags) {
    const char *text;
    size_t n;
    if (e->t->model != ML_MODEL_BPE) return ml_sp_encode(e, s, len);
    const marlin_status st = ml_norm_run(e, s, len, &text, &n);
    if (st != MARLIN_OK) return st;
    return split_added(e, &e->t->normalized, &e->normalized, text, n, first, flags, pretokenize);
}

static void encoder_free(struct ml_encoder *e) {
    ml_regex_run_free(e->run);
    for (size_t i = 0; i < 2; i++)
        ml_buf_free(&e->norm[i]);
    for (size_t i = 0; i < ML_TOK_MAX_STEPS; i++)
        ml_buf_free(&e->scratch[i]);
    ml_free(e->cp);
    ml_free(e->raw.item);
    ml_free(e->normalized.item);
    ml_free(e->user.item);
    ml_free(e->sym);
    ml_free(e->heap);
    ml_free(e->path);
    ml_free(e->cache);
}

static marlin_status encoder_init(struct ml_encoder *e, size_t len) {
    marlin_status st = MARLIN_OK;
    e->work = ml_work_for(len);
    const size_t limit = e->work < ML_TOK_MAX_TEXT ? (size_t)e->work : ML_TOK_MAX_TEXT;
    for (size_t i = 0; i < 2; i++)
        ml_buf_init(&e->norm[i], limit);
    for (size_t i = 0; i < ML_TOK_MAX_STEPS; i++)
        ml_buf_init(&e->scratch[i], limit);
    if (e->t->has_regex) st = ml_regex_run_create(len, &e->run);
    if (st == MARLIN_OK && len >= CACHE_FROM && e->t->model == ML_MODEL_BPE)
        st = ml_bpe_cache_create(&e->cache);
    return st;
}

static marlin_status add_all(struct ml_ids *ids, const int32_t *list, size_t n) {
    marlin_status st = MARLIN_OK;
    for (size_t i = 0; i < n && st == MARLIN_OK; i++)
        st = ml_ids_add(ids, list[i]);
    return st;
}

marlin_status ml_tokenizer_encode(const struct ml_tokenizer *t, const char *text, size_t len, unsigned flags,
                                  struct ml_ids *ids, struct marlin_error *err) {
    struct marlin_error local = {.code = MARLIN_OK};
    struct ml_encoder e = {.t = t, .ids = ids, .err = &local};
    struct ml_buf repaired;
    const size_t was = ids->n;
    marlin_status st = MARLIN_OK;
    ml_buf_init(&repaired, ML_TOK_MAX_TEXT);
    if (len > ML_TOK_MAX_TEXT) {
        st = ml_fail(&local, MARLIN_ERR_LIMIT, "encode: a text of %zu bytes: the ceiling is %u", len,
                     ML_TOK_MAX_TEXT);
        goto out;
    }
    ML_TRY(encoder_init(&e, len));
    if (!ml_utf8_valid(text, len)) {
        ML_TRY(ml_utf8_repair(text, len, &repaired));
        text = repaired.data;
        len = repaired.len;
    }
    if (flags & ML_ENCODE_BOS) ML_TRY(add_all(ids, t->prefix, t->n_prefix));
    ML_TRY(split_added(&e, &t->raw, &e.raw, text, len, true, flags, normalize));
    if (flags & ML_ENCODE_BOS) st = add_all(ids, t->suffix, t->n_suffix);
out:
    if (st != MARLIN_OK) {
        ids->n = was;
        if (local.code == st)
            (void)ml_fail(err, st, "%s", local.text);
        else
            (void)ml_fail(err, st, "encode: %s",
                          st == MARLIN_ERR_LIMIT ? "the normalized text passes the ceiling"
                                                 : "out of memory");
    }
    encoder_free(&e);
    ml_buf_free(&repaired);
    return st;
}
