/* SPDX-License-Identifier: Apache-2.0
 *
 * Pre-tokenizers of tokenizer.json, compiled to a few stages. A stage hands every piece on at once, so a text
 * is never held as a list of pieces, and the model sees a word while it is warm in the cache.
 */
#include "tokenizer/tokenizer_int.h"

#include <string.h>

static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* "\w+|[^\w\s]+" by the rules of UTS 18, in which the joiners are word characters besides. */
#define JOINING_WORDS ML_WORD_CLASS "\\x{200c}\\x{200d}"
static const char whitespace_pattern[] = "[" JOINING_WORDS "]+|[^" JOINING_WORDS "\\s]+";

static marlin_status add_stage(struct ml_tokenizer *t, struct ml_tok_pre stage, struct marlin_error *err) {
    if (t->n_pre == ML_TOK_MAX_STEPS) {
        ml_regex_free(stage.regex);
        return ml_fail(err, MARLIN_ERR_LIMIT, "pre-tokenizer: more than %u stages", ML_TOK_MAX_STEPS);
    }
    if (stage.regex) t->has_regex = true;
    t->pre[t->n_pre++] = stage;
    return MARLIN_OK;
}

static marlin_status add_regex(struct ml_tokenizer *t, const char *pattern, enum ml_tok_behaviour behaviour,
                               bool invert, struct marlin_error *err) {
    struct ml_tok_pre stage = {.kind = ML_PRE_SPLIT, .behaviour = behaviour, .invert = invert};
    const marlin_status st = ml_regex_compile(pattern, strlen(pattern), &stage.regex, err);
    return st == MARLIN_OK ? add_stage(t, stage, err) : st;
}

static marlin_status load_byte_level(struct ml_tokenizer *t, const struct ml_json *v,
                                     struct marlin_error *err) {
    bool prefix = true, use_regex = true;
    marlin_status st;
    ML_TRY(ml_tok_bool(v, "add_prefix_space", "ByteLevel", &prefix, err));
    ML_TRY(ml_tok_bool(v, "use_regex", "ByteLevel", &use_regex, err));
    if (prefix)
        ML_TRY(
            add_stage(t, (struct ml_tok_pre){.kind = ML_PRE_PREFIX, .literal = " ", .literal_len = 1}, err));
    if (use_regex) ML_TRY(add_regex(t, gpt2_pattern, ML_ISOLATED, false, err));
    st = add_stage(t, (struct ml_tok_pre){.kind = ML_PRE_BYTES}, err);
out:
    return st;
}

static marlin_status load_behaviour(const struct ml_json *v, enum ml_tok_behaviour *out,
                                    struct marlin_error *err) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
                                        "Contiguous"};
    const char *s = ml_json_string(v, NULL);
    for (size_t i = 0; s && i < sizeof names / sizeof *names; i++)
        if (!strcmp(s, names[i])) {
            *out = (enum ml_tok_behaviour)i;
            return MARLIN_OK;
        }
    return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "pre-tokenizer: split behaviour \"%s\" is not supported",
                   s ? s : "?");
}

static marlin_status load_split(struct ml_tokenizer *t, const struct ml_json *v, struct marlin_error *err) {
    struct ml_tok_pre stage = {.kind = ML_PRE_SPLIT};
    marlin_status st = load_behaviour(ml_json_get(v, "behavior"), &stage.behaviour, err);
    if (st == MARLIN_OK) st = ml_tok_bool(v, "invert", "Split", &stage.invert, err);
    if (st == MARLIN_OK)
        st = ml_tok_pattern(t, ml_json_get(v, "pattern"), "pre-tokenizer Split", &stage.literal,
                            &stage.literal_len, &stage.regex, err);
    if (st != MARLIN_OK) return st;
    stage.with = stage.regex ? ML_SPLIT_REGEX : ML_SPLIT_LITERAL;
    return add_stage(t, stage, err);
}

static marlin_status load_metaspace(struct ml_tokenizer *t, const struct ml_json *v,
                                    struct marlin_error *err) {
    struct ml_tok_pre stage = {.kind = ML_PRE_METASPACE, .prepend = ML_PREPEND_ALWAYS};
    const char *scheme = NULL;
    bool split = true, add_prefix = true;
    size_t n = 0;
    uint32_t cp;
    marlin_status st;
    ML_TRY(ml_tok_string(t, v, "replacement", "Metaspace", &stage.literal, &stage.literal_len, err));
    ML_TRY(ml_tok_string(t, v, "prepend_scheme", "Metaspace", &scheme, &n, err));
    ML_TRY(ml_tok_bool(v, "split", "Metaspace", &split, err));
    ML_TRY(ml_tok_bool(v, "add_prefix_space", "Metaspace", &add_prefix, err));
    if (!stage.literal_len || ml_utf8_get(stage.literal, &cp) != stage.literal_len)
        return ml_fail(err, MARLIN_ERR_FORMAT, "pre-tokenizer Metaspace: replacement must be one character");
    if (!scheme)
        stage.prepend = add_prefix ? ML_PREPEND_ALWAYS : ML_PREPEND_NEVER;
    else if (!strcmp(scheme, "first"))
        stage.prepend = ML_PREPEND_FIRST;
    else if (!strcmp(scheme, "never"))
        stage.prepend = ML_PREPEND_NEVER;
    else if (strcmp(scheme, "always") != 0)
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "pre-tokenizer Metaspace: prepend_scheme \"%s\"", scheme);
    ML_TRY(add_stage(t, stage, err));
    if (split) {
        stage.kind = ML_PRE_SPLIT;
        stage.with = ML_SPLIT_LITERAL;
        stage.behaviour = ML_MERGED_WITH_NEXT;
        st = add_stage(t, stage, err);
    }
out:
    return st;
}

static marlin_status load_class(struct ml_tokenizer *t, const char *type, const struct ml_json *v,
                                struct marlin_error *err) {
    struct ml_tok_pre stage = {.kind = ML_PRE_SPLIT, .with = ML_SPLIT_CLASS, .behaviour = ML_ISOLATED};
    marlin_status st = MARLIN_OK;
    if (!strcmp(type, "Digits")) {
        bool individual = false;
        st = ml_tok_bool(v, "individual_digits", "Digits", &individual, err);
        stage.char_class = ML_CHAR_NUMERIC;
        if (!individual) stage.behaviour = ML_CONTIGUOUS;
    } else if (!strcmp(type, "Punctuation")) {
        stage.char_class = ML_CHAR_PUNCTUATION;
        if (ml_json_get(v, "behavior"))
            st = load_behaviour(ml_json_get(v, "behavior"), &stage.behaviour, err);
    } else {
        stage.char_class = ML_CHAR_SPACE;
        stage.behaviour = ML_REMOVED;
    }
    return st == MARLIN_OK ? add_stage(t, stage, err) : st;
}

static marlin_status load_one(struct ml_tokenizer *t, const char *type, const struct ml_json *v,
                              struct marlin_error *err) {
    if (!strcmp(type, "ByteLevel")) return load_byte_level(t, v, err);
    if (!strcmp(type, "Split")) return load_split(t, v, err);
    if (!strcmp(type, "Metaspace")) return load_metaspace(t, v, err);
    if (!strcmp(type, "Whitespace")) return add_regex(t, whitespace_pattern, ML_REMOVED, true, err);
    if (!strcmp(type, "Digits") || !strcmp(type, "Punctuation") || !strcmp(type, "WhitespaceSplit"))
        return load_class(t, type, v, err);
    return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "pre-tokenizer type \"%s\" is not supported", type);
}

marlin_status ml_pre_load(struct ml_tokenizer *t, const struct ml_json *v, struct marlin_error *err) {
    return ml_tok_components(t, v, "pre-tokenizer", "pretokenizers", load_one, err);
}

/* A split in progress. Merging behaviours look back at one piece, which waits in `held`. */
struct splitter {
    struct ml_encoder *e;
    size_t stage;
    const char *s;
    size_t len;
    bool first;
    size_t held_start, held_end;
    bool held, held_match, previous_match;
};

static marlin_status emit(const struct splitter *sp, size_t start, size_t end) {
    if (start == end) return MARLIN_OK;
    return ml_pre_run(sp->e, sp->stage + 1, sp->s + start, end - start, sp->first && start == 0);
}

static marlin_status hold(struct splitter *sp, size_t start, size_t end, bool match) {
    const marlin_status st = sp->held ? emit(sp, sp->held_start, sp->held_end) : MARLIN_OK;
    sp->held_start = start;
    sp->held_end = end;
    sp->held_match = match;
    sp->held = true;
    return st;
}

/* Takes the next stretch of the text: a match of the pattern, or what lies between matches. */
static marlin_status take(struct splitter *sp, size_t start, size_t end, bool match) {
    const struct ml_tok_pre *pre = &sp->e->t->pre[sp->stage];
    match ^= pre->invert;
    const bool previous = sp->previous_match;
    sp->previous_match = match;
    switch (pre->behaviour) {
    case ML_ISOLATED:
        return emit(sp, start, end);
    case ML_REMOVED:
        return match ? MARLIN_OK : emit(sp, start, end);
    case ML_CONTIGUOUS:
        if (!sp->held || sp->held_match != match) return hold(sp, start, end, match);
        break;
    case ML_MERGED_WITH_PREVIOUS:
        if (!match || previous || !sp->held) return hold(sp, start, end, match);
        break;
    case ML_MERGED_WITH_NEXT:
        if (match || !sp->held || !sp->held_match) return hold(sp, start, end, match);
        sp->held_match = false; /* taken: the next stretch is on its own */
        break;
    }
    sp->held_end = end;
    return MARLIN_OK;
}

static bool find_class(const struct splitter *sp, enum ml_char_class c, size_t from, size_t *start,
                       size_t *end) {
    for (size_t i = from; i < sp->len;) {
        uint32_t cp;
        const size_t n = ml_utf8_get(sp->s + i, &cp);
        if (ml_char_is(cp, c)) {
            *start = i;
            *end = i + n;
            return true;
        }
        i += n;
    }
    return false;
}

static marlin_status find(const struct splitter *sp, size_t from, size_t *start, size_t *end, bool *found) {
    const struct ml_tok_pre *pre = &sp->e->t->pre[sp->stage];
    if (pre->with == ML_SPLIT_REGEX)
        return ml_regex_find(pre->regex, sp->e->run, sp->s, sp->len, from, start, end, found, sp->e->err);
    if (pre->with == ML_SPLIT_CLASS) {
        *found = find_class(sp, pre->char_class, from, start, end);
        return MARLIN_OK;
    }
    const char *p =
        pre->literal_len ? memmem(sp->s + from, sp->len - from, pre->literal, pre->literal_len) : NULL;
    *found = p != NULL;
    if (p) *start = (size_t)(p - sp->s), *end = *start + pre->literal_len;
    return MARLIN_OK;
}

static marlin_status split(struct ml_encoder *e, size_t stage, const char *s, size_t len, bool first) {
    struct splitter sp = {.e = e, .stage = stage, .s = s, .len = len, .first = first};
    marlin_status st = MARLIN_OK;
    size_t done = 0, from = 0, last = SIZE_MAX;
    while (from <= len) {
        size_t start = 0, end = 0;
        bool found = false;
        ML_TRY(find(&sp, from, &start, &end, &found));
        if (!found) break;
        from = end;
        if (start == end && end == last) { /* no empty match right behind a match */
            if (end >= len) break;
            from += ml_utf8_get(s + end, &(uint32_t){0});
            continue;
        }
        last = end;
        if (done != start) ML_TRY(take(&sp, done, start, false));
        ML_TRY(take(&sp, start, end, true));
        done = end;
    }
    if (done != len) ML_TRY(take(&sp, done, len, false));
    if (sp.held) st = emit(&sp, sp.held_start, sp.held_end);
out:
    return st;
}

static marlin_status metaspace(struct ml_encoder *e, const struct ml_tok_pre *pre, const char *s, size_t len,
                               bool first, struct ml_buf *out) {
    marlin_status st = MARLIN_OK;
    const bool has =
        len && (s[0] == ' ' || (len >= pre->literal_len && !memcmp(s, pre->literal, pre->literal_len)));
    const bool wanted = pre->prepend == ML_PREPEND_ALWAYS || (pre->prepend == ML_PREPEND_FIRST && first);
    (void)e;
    if (wanted && !has) ML_TRY(ml_buf_add(out, pre->literal, pre->literal_len));
    for (size_t done = 0; done < len;) {
        const char *space = memchr(s + done, ' ', len - done);
        const size_t end = space ? (size_t)(space - s) : len;
        ML_TRY(ml_buf_add(out, s + done, end - done));
        if (space) ML_TRY(ml_buf_add(out, pre->literal, pre->literal_len));
        done = end + 1;
    }
out:
    return st;
}

marlin_status ml_map_bytes(const char *s, size_t len, struct ml_buf *out) {
    char chunk[512];
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (n + 2 > sizeof chunk) {
            const marlin_status st = ml_buf_add(out, chunk, n);
            if (st != MARLIN_OK) return st;
            n = 0;
        }
        n += ml_utf8_put(chunk + n, ml_byte_to_char((uint8_t)s[i]));
    }
    return ml_buf_add(out, chunk, n);
}

marlin_status ml_pre_run(struct ml_encoder *e, size_t stage, const char *s, size_t len, bool first) {
    if (len == 0) return MARLIN_OK;
    marlin_status st = ml_work(e, len);
    if (st != MARLIN_OK) return st;
    if (stage == e->t->n_pre) return e->t->scores ? ml_unigram_encode(e, s, len) : ml_bpe_word(e, s, len);
    const struct ml_tok_pre *pre = &e->t->pre[stage];
    if (pre->kind == ML_PRE_SPLIT) return split(e, stage, s, len, first);
    struct ml_buf *out = &e->scratch[stage];
    ml_buf_clear(out);
    if (pre->kind == ML_PRE_METASPACE) {
        st = metaspace(e, pre, s, len, first, out);
    } else if (pre->kind == ML_PRE_BYTES) {
        st = ml_map_bytes(s, len, out);
    } else {
        if (s[0] == ' ') return ml_pre_run(e, stage + 1, s, len, first);
        st = ml_buf_add(out, pre->literal, pre->literal_len);
        if (st == MARLIN_OK) st = ml_buf_add(out, s, len);
    }
    return st == MARLIN_OK ? ml_pre_run(e, stage + 1, out->data, out->len, first) : st;
}
