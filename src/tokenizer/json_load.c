/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.json: vocabulary, merges, added tokens and post-processor. Its "truncation" and "padding" are
 * left aside: they say how a training run cut its batches, and transformers resets them for every call, too.
 */
#include "base/mem.h"
#include "tokenizer/tokenizer_int.h"

#include <string.h>

static marlin_status check_model(struct ml_tokenizer *t, const struct ml_json *model,
                                 struct marlin_error *err) {
    t->model = ML_MODEL_BPE; /* also of Unigram: the way of a text to the model is the same */
    if (!model || ml_json_type(model) != ML_JSON_OBJECT)
        return ml_fail(err, MARLIN_ERR_FORMAT, "tokenizer: \"model\" must be an object");
    const struct ml_json *type = ml_json_get(model, "type");
    const char *name = type ? ml_json_string(type, NULL) : "BPE"; /* old files have no type */
    if (!name) return ml_fail(err, MARLIN_ERR_FORMAT, "model: \"type\" must be a string");
    if (strcmp(name, "Unigram") == 0)
        return ml_tok_bool(model, "byte_fallback", "model", &t->byte_fallback, err);
    if (strcmp(name, "BPE") != 0)
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "model type \"%s\" is not supported: supported are BPE and Unigram", name);
    double dropout = 0;
    if (ml_json_double(ml_json_get(model, "dropout"), &dropout) && dropout != 0)
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "model: \"dropout\" other than null or 0 is not supported");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        size_t n = 0;
        if (ml_json_string(ml_json_get(model, affixes[i]), &n) && n)
            return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "model: \"%s\" is not supported", affixes[i]);
    }
    marlin_status st;
    ML_TRY(ml_tok_bool(model, "byte_fallback", "model", &t->byte_fallback, err));
    ML_TRY(ml_tok_bool(model, "fuse_unk", "model", &t->fuse_unk, err));
    ML_TRY(ml_tok_bool(model, "ignore_merges", "model", &t->ignore_merges, err));
out:
    return st;
}

/* The largest id of vocabulary and added tokens, every id checked on the way. */
static marlin_status scan_ids(const struct ml_json *vocab, const struct ml_json *added, uint64_t *max_id,
                              struct marlin_error *err) {
    const bool list = ml_json_type(vocab) == ML_JSON_ARRAY;
    *max_id = list ? ml_json_count(vocab) - 1 : 0;
    if (*max_id >= ML_TOK_MAX_ID)
        return ml_fail(err, MARLIN_ERR_LIMIT, "vocabulary: more than %u pieces", ML_TOK_MAX_ID);
    for (const struct ml_json *v = list ? NULL : ml_json_first(vocab); v; v = ml_json_next(v)) {
        int64_t id;
        const char *key = ml_json_key(v, NULL);
        if (!ml_json_i64(v, &id))
            return ml_fail(err, MARLIN_ERR_FORMAT, "vocabulary: id of \"%.60s\" must be an integer", key);
        const marlin_status st = ml_vocab_check_id(id, key, err);
        if (st != MARLIN_OK) return st;
        if ((uint64_t)id > *max_id) *max_id = (uint64_t)id;
    }
    size_t index = 0;
    for (const struct ml_json *v = ml_json_first(added); v; v = ml_json_next(v), index++) {
        int64_t id;
        size_t len = 0;
        const char *content = ml_json_string(ml_json_get(v, "content"), &len);
        if (!content || !ml_json_i64(ml_json_get(v, "id"), &id))
            return ml_fail(err, MARLIN_ERR_FORMAT, "added token %zu: \"id\" and \"content\" are needed",
                           index);
        if (len == 0) return ml_fail(err, MARLIN_ERR_FORMAT, "added token %zu: its content is empty", index);
        if (len > ML_TOK_MAX_ADDED)
            return ml_fail(err, MARLIN_ERR_LIMIT, "added token %zu: %zu bytes, the ceiling is %u", index, len,
                           ML_TOK_MAX_ADDED);
        const marlin_status st = ml_vocab_check_id(id, content, err);
        if (st != MARLIN_OK) return st;
        if ((uint64_t)id > *max_id) *max_id = (uint64_t)id;
    }
    return MARLIN_OK;
}

/* [["piece", score], ...], the ids being the places in the list. */
static marlin_status load_scores(struct ml_tokenizer *t, const struct ml_json *vocab,
                                 struct marlin_error *err) {
    double *scores = ml_arena_array(&t->arena, t->size, sizeof *scores);
    int64_t id = 0;
    if (!scores) return ml_fail(err, MARLIN_ERR_MEMORY, "vocabulary: out of memory");
    t->scores = scores;
    for (const struct ml_json *v = ml_json_first(vocab); v; v = ml_json_next(v), id++) {
        size_t len = 0;
        const struct ml_json *first = ml_json_count(v) == 2 ? ml_json_first(v) : NULL;
        const char *piece = first ? ml_json_string(first, &len) : NULL;
        if (!piece || !ml_json_double(ml_json_next(first), &scores[id]))
            return ml_fail(err, MARLIN_ERR_FORMAT, "vocabulary: entry %lld must be a piece and its score",
                           (long long)id);
        if (id == 0 || scores[id] < t->min_of_scores) t->min_of_scores = scores[id];
        const marlin_status st = ml_vocab_put(t, id, piece, len, 0, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

/* A unigram vocabulary is a list, which numbers its entries. */
static marlin_status check_vocab(const struct ml_json *model, const struct ml_json *vocab,
                                 struct marlin_error *err) {
    const char *type = ml_json_string(ml_json_get(model, "type"), NULL);
    const bool list = type && strcmp(type, "Unigram") == 0;
    if (!vocab || ml_json_type(vocab) != (list ? ML_JSON_ARRAY : ML_JSON_OBJECT) || ml_json_count(vocab) == 0)
        return ml_fail(err, MARLIN_ERR_FORMAT, "model: \"vocab\" must be an %s with entries",
                       list ? "array" : "object");
    return MARLIN_OK;
}

static marlin_status load_vocab(struct ml_tokenizer *t, const struct ml_json *vocab,
                                const struct ml_json *added, const struct ml_tok_outside *outside,
                                struct marlin_error *err) {
    if (added && ml_json_type(added) != ML_JSON_ARRAY && ml_json_type(added) != ML_JSON_NULL)
        return ml_fail(err, MARLIN_ERR_FORMAT, "tokenizer: \"added_tokens\" must be an array");
    uint64_t max_id;
    marlin_status st;
    ML_TRY(scan_ids(vocab, added, &max_id, err));
    ML_TRY(ml_tok_outside_room(outside, &max_id, err));
    ML_TRY(ml_vocab_size(t, max_id, err));
    if (ml_map_reserve(&t->ids, ml_json_count(vocab)) != MARLIN_OK)
        ML_TRY(ml_fail(err, MARLIN_ERR_MEMORY, "vocabulary: out of memory"));
    if (ml_json_type(vocab) == ML_JSON_ARRAY) {
        st = load_scores(t, vocab, err);
        goto out;
    }
    for (const struct ml_json *v = ml_json_first(vocab); v; v = ml_json_next(v)) {
        int64_t id = 0;
        size_t len;
        const char *key = ml_json_key(v, &len);
        (void)ml_json_i64(v, &id); /* checked by scan_ids */
        ML_TRY(ml_vocab_put(t, id, key, len, 0, err));
    }
out:
    return st;
}

/* The two sides of merge `index`: "a b", or ["a", "b"], whose sides may hold spaces. */
static marlin_status merge_sides(const struct ml_json *v, size_t index, const char *side[2], size_t len[2],
                                 struct marlin_error *err) {
    if (ml_json_type(v) == ML_JSON_STRING) {
        size_t n = 0;
        side[0] = ml_json_string(v, &n);
        const char *space = side[0] ? memchr(side[0], ' ', n) : NULL;
        if (!space || memchr(space + 1, ' ', n - (size_t)(space + 1 - side[0])))
            return ml_fail(err, MARLIN_ERR_FORMAT, "merge %zu: must be two pieces with one space between",
                           index);
        side[1] = space + 1;
        len[0] = (size_t)(space - side[0]);
        len[1] = n - len[0] - 1;
    } else {
        const struct ml_json *first = ml_json_count(v) == 2 ? ml_json_first(v) : NULL;
        side[0] = ml_json_type(v) == ML_JSON_ARRAY && first ? ml_json_string(first, &len[0]) : NULL;
        side[1] = side[0] ? ml_json_string(ml_json_next(first), &len[1]) : NULL;
        if (!side[1]) return ml_fail(err, MARLIN_ERR_FORMAT, "merge %zu: must be a pair of strings", index);
    }
    if (!len[0] || !len[1]) return ml_fail(err, MARLIN_ERR_FORMAT, "merge %zu: a part is empty", index);
    return MARLIN_OK;
}

static marlin_status add_merge(struct ml_tokenizer *t, const struct ml_json *v, size_t index,
                               struct ml_buf *joined, struct marlin_error *err) {
    const char *side[2];
    size_t len[2];
    uint64_t id[3];
    marlin_status st = merge_sides(v, index, side, len, err);
    if (st != MARLIN_OK) return st;
    for (int i = 0; i < 2; i++)
        if (!ml_map_get(&t->ids, side[i], len[i], &id[i]))
            return ml_fail(err, MARLIN_ERR_FORMAT, "merge %zu: \"%.*s\" is not in the vocabulary", index,
                           (int)(len[i] < 60 ? len[i] : 60), side[i]);
    ml_buf_clear(joined);
    ML_TRY(ml_buf_add(joined, side[0], len[0]));
    ML_TRY(ml_buf_add(joined, side[1], len[1]));
    if (!ml_map_get(&t->ids, joined->data, joined->len, &id[2]))
        return ml_fail(err, MARLIN_ERR_FORMAT, "merge %zu: the result \"%.60s\" is not in the vocabulary",
                       index, joined->data);
    ML_TRY(ml_pairs_put(&t->merges, ml_pair_key((uint32_t)id[0], (uint32_t)id[1]),
                        (uint64_t)index << 32 | id[2]));
out:
    return st == MARLIN_OK ? st : ml_fail(err, st, "merges: out of memory");
}

static marlin_status load_merges(struct ml_tokenizer *t, const struct ml_json *merges,
                                 struct marlin_error *err) {
    if (!merges || ml_json_type(merges) != ML_JSON_ARRAY)
        return ml_fail(err, MARLIN_ERR_FORMAT, "model: \"merges\" must be an array");
    struct ml_buf joined;
    ml_buf_init(&joined, 2 * (size_t)ML_TOK_MAX_PIECE + 1);
    marlin_status st = ml_pairs_reserve(&t->merges, ml_json_count(merges));
    if (st != MARLIN_OK) (void)ml_fail(err, st, "merges: out of memory");
    size_t index = 0;
    for (const struct ml_json *v = ml_json_first(merges); v && st == MARLIN_OK; v = ml_json_next(v))
        st = add_merge(t, v, index++, &joined, err);
    ml_buf_free(&joined);
    return st;
}

static marlin_status load_unk(struct ml_tokenizer *t, const struct ml_json *model, struct marlin_error *err) {
    const char *unk;
    size_t len;
    uint64_t id;
    t->unk = -1;
    const marlin_status st = ml_tok_string(t, model, "unk_token", "model", &unk, &len, err);
    if (st != MARLIN_OK || !unk) return st;
    if (!ml_map_get(&t->ids, unk, len, &id))
        t->unk_missing = unk; /* the model of a byte-level vocabulary never needs it */
    else
        t->unk = (int32_t)id;
    return MARLIN_OK;
}

/* Of a unigram model it is a number. */
static marlin_status load_unk_id(struct ml_tokenizer *t, const struct ml_json *model,
                                 struct marlin_error *err) {
    const struct ml_json *v = ml_json_get(model, "unk_id");
    int64_t id = -1;
    t->unk = -1;
    if (!v || ml_json_type(v) == ML_JSON_NULL) return MARLIN_OK;
    if (!ml_json_i64(v, &id) || id < 0 || (uint64_t)id >= t->size || !t->piece[id].flags)
        return ml_fail(err, MARLIN_ERR_FORMAT, "model: \"unk_id\" is no id of the vocabulary");
    t->unk = (int32_t)id;
    return MARLIN_OK;
}

/* One added token into the table of pieces; it may repeat a vocabulary entry, but not contradict it. */
static marlin_status place_added(struct ml_tokenizer *t, const char *content, size_t len, int32_t id,
                                 struct marlin_error *err) {
    uint64_t known;
    struct ml_tok_piece *p = &t->piece[id];
    if (ml_map_get(&t->ids, content, len, &known) && known != (uint64_t)id)
        return ml_fail(err, MARLIN_ERR_FORMAT, "added token \"%.60s\" has id %d, the vocabulary says %llu",
                       content, (int)id, (unsigned long long)known);
    if ((p->flags & ML_PIECE_ADDED) && (p->len != len || memcmp(p->text, content, len) != 0))
        return ml_fail(err, MARLIN_ERR_FORMAT, "added tokens: id %d belongs to both \"%.60s\" and \"%.60s\"",
                       (int)id, p->text, content);
    if (!p->flags) return ml_vocab_put(t, id, content, len, ML_PIECE_ADDED, err);
    if (p->len != len || memcmp(p->text, content, len) != 0)
        return ml_fail(err, MARLIN_ERR_FORMAT,
                       "added token \"%.60s\": its id %d is \"%.60s\" in the vocabulary", content, (int)id,
                       p->text);
    return MARLIN_OK;
}

static marlin_status load_added_one(struct ml_tokenizer *t, const struct ml_json *v, struct ml_tok_added *a,
                                    struct marlin_error *err) {
    int64_t id = 0;
    size_t len = 0;
    const char *content = ml_json_string(ml_json_get(v, "content"), &len);
    (void)ml_json_i64(ml_json_get(v, "id"), &id); /* both checked by scan_ids */
    marlin_status st;
    bool inserted;
    ML_TRY(place_added(t, content, len, (int32_t)id, err));
    *a = (struct ml_tok_added){.id = (int32_t)id};
    ML_TRY(ml_tok_bool(v, "special", "added token", &a->special, err));
    a->normalized = !a->special;
    ML_TRY(ml_tok_bool(v, "lstrip", "added token", &a->lstrip, err));
    ML_TRY(ml_tok_bool(v, "rstrip", "added token", &a->rstrip, err));
    ML_TRY(ml_tok_bool(v, "single_word", "added token", &a->single_word, err));
    ML_TRY(ml_tok_bool(v, "normalized", "added token", &a->normalized, err));
    struct ml_tok_piece *p = &t->piece[id];
    if (a->special) p->flags |= ML_PIECE_SPECIAL;
    st = ml_map_put(&t->added_ids, p->text, p->len, (uint64_t)id, &inserted);
    if (st != MARLIN_OK) return ml_fail(err, st, "added tokens: out of memory");
    if (!inserted) st = ml_fail(err, MARLIN_ERR_FORMAT, "added token \"%.60s\" appears twice", p->text);
out:
    return st;
}

/* Tokens marked as normalized are looked for in normalized text, in their own normalized form. */
static marlin_status match_added(struct ml_tokenizer *t, size_t index, struct ml_encoder *e, size_t *total) {
    const struct ml_tok_piece *p = &t->piece[t->added[index].id];
    const char *text = p->text;
    size_t len = p->len;
    const bool normalized = t->added[index].normalized;
    marlin_status st = MARLIN_OK;
    if (normalized) ML_TRY(ml_norm_run(e, text, len, &text, &len));
    if ((*total += len) > ML_TOK_MAX_MATCHER)
        st = ml_fail(e->err, MARLIN_ERR_LIMIT, "added tokens: more than %u bytes together",
                     ML_TOK_MAX_MATCHER);
    else if (len)
        st = ml_matcher_add(normalized ? &t->normalized : &t->raw, text, len, (int32_t)index);
out:
    return st;
}

/* The same token, listed again: the first stays, as in the reference. */
static bool listed_before(struct ml_tokenizer *t, const struct ml_json *v) {
    int64_t id = 0;
    size_t len = 0;
    uint64_t known;
    bool special = false;
    const char *content = ml_json_string(ml_json_get(v, "content"), &len);
    (void)ml_json_i64(ml_json_get(v, "id"), &id); /* both checked by scan_ids */
    if (!ml_map_get(&t->added_ids, content, len, &known) || known != (uint64_t)id) return false;
    if (ml_json_bool(ml_json_get(v, "special"), &special) && special) t->piece[id].flags |= ML_PIECE_SPECIAL;
    return true;
}

/* e serves all of them: its allowances of work are for their bytes together. */
static marlin_status load_added_with(struct ml_tokenizer *t, const struct ml_json *list,
                                     const struct ml_tok_outside *outside, struct ml_encoder *e) {
    size_t total = 0;
    bool fresh;
    marlin_status st = MARLIN_OK;
    ml_buf_init(&e->norm[0], 1 << 20);
    ml_buf_init(&e->norm[1], 1 << 20);
    t->added = ml_calloc(ml_json_count(list) + (outside ? outside->n : 0), sizeof *t->added);
    if (!t->added) ML_TRY(MARLIN_ERR_MEMORY);
    if (t->has_regex) ML_TRY(ml_regex_run_create(ML_TOK_MAX_MATCHER, &e->run));
    for (const struct ml_json *v = ml_json_first(list); v; v = ml_json_next(v)) {
        if (listed_before(t, v)) continue;
        ML_TRY(load_added_one(t, v, &t->added[t->n_added], e->err));
        t->n_added++;
        ML_TRY(match_added(t, t->n_added - 1, e, &total));
    }
    for (size_t i = 0; outside && i < outside->n; i++) {
        ML_TRY(ml_tok_outside_place(t, &outside->token[i], &fresh, e->err));
        if (fresh) ML_TRY(match_added(t, t->n_added - 1, e, &total));
    }
    ML_TRY(ml_matcher_finish(&t->raw));
    st = ml_matcher_finish(&t->normalized);
out:
    return st;
}

static marlin_status load_added(struct ml_tokenizer *t, const struct ml_json *list,
                                const struct ml_tok_outside *outside, struct marlin_error *err) {
    struct marlin_error inner = {.code = MARLIN_OK};
    struct ml_encoder e = {.t = t, .err = &inner, .work = ml_work_for(ML_TOK_MAX_MATCHER)};
    if (ml_json_count(list) == 0 && (!outside || outside->n == 0)) return MARLIN_OK;
    const marlin_status st = load_added_with(t, list, outside, &e);
    ml_tok_outside_trim(t);
    if (st != MARLIN_OK)
        (void)ml_fail(err, st, "%s",
                      inner.code == st ? inner.text
                      : st == MARLIN_ERR_LIMIT
                          ? "added tokens: a normalized form is longer than a million bytes"
                          : "added tokens: out of memory");
    ml_regex_run_free(e.run);
    ml_buf_free(&e.norm[0]);
    ml_buf_free(&e.norm[1]);
    ml_free(e.cp);
    return st;
}

/* {"SpecialToken": {"id": "<s>"}}: the ids come from the template's own table. */
static marlin_status template_ids(struct ml_tokenizer *t, const struct ml_json *post,
                                  const struct ml_json *special, bool before, struct marlin_error *err) {
    const char *name = ml_json_string(ml_json_get(special, "id"), NULL);
    if (!name) return ml_fail(err, MARLIN_ERR_FORMAT, "TemplateProcessing: a SpecialToken has no \"id\"");
    const struct ml_json *ids = ml_json_get(ml_json_get(ml_json_get(post, "special_tokens"), name), "ids");
    if (!ids || ml_json_type(ids) != ML_JSON_ARRAY)
        return ml_fail(err, MARLIN_ERR_FORMAT, "TemplateProcessing: special token \"%.60s\" has no \"ids\"",
                       name);
    for (const struct ml_json *v = ml_json_first(ids); v; v = ml_json_next(v)) {
        int64_t id;
        if (!ml_json_i64(v, &id) || id < 0 || (uint64_t)id >= t->size || !t->piece[id].flags)
            return ml_fail(err, MARLIN_ERR_FORMAT, "TemplateProcessing: an id of \"%.60s\" is no token",
                           name);
        const marlin_status st = before ? ml_affix_add(&t->prefix, &t->n_prefix, (int32_t)id, err)
                                        : ml_affix_add(&t->suffix, &t->n_suffix, (int32_t)id, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static marlin_status load_template(struct ml_tokenizer *t, const struct ml_json *v,
                                   struct marlin_error *err) {
    const struct ml_json *single = ml_json_get(v, "single");
    bool before = true;
    if (!single || ml_json_type(single) != ML_JSON_ARRAY)
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "TemplateProcessing: \"single\" must be an array of parts");
    for (const struct ml_json *part = ml_json_first(single); part; part = ml_json_next(part)) {
        const struct ml_json *special = ml_json_get(part, "SpecialToken");
        if (special) {
            const marlin_status st = template_ids(t, v, special, before, err);
            if (st != MARLIN_OK) return st;
        } else if (ml_json_get(part, "Sequence") && before) {
            before = false;
        } else {
            return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                           "TemplateProcessing: a part is neither SpecialToken nor the "
                           "one Sequence");
        }
    }
    return MARLIN_OK;
}

/* RobertaProcessing and BertProcessing: cls in front, sep behind; each is ["</s>", 2]. */
static marlin_status load_cls_sep(struct ml_tokenizer *t, const struct ml_json *v, const char *type,
                                  struct marlin_error *err) {
    static const char *const keys[] = {"cls", "sep"};
    for (int i = 0; i < 2; i++) {
        int64_t id;
        const struct ml_json *pair = ml_json_get(v, keys[i]);
        if (ml_json_count(pair) != 2 || !ml_json_i64(ml_json_next(ml_json_first(pair)), &id) || id < 0 ||
            (uint64_t)id >= t->size || !t->piece[id].flags)
            return ml_fail(err, MARLIN_ERR_FORMAT, "%s: \"%s\" must be a token with its id", type, keys[i]);
        const marlin_status st = i == 0 ? ml_affix_add(&t->prefix, &t->n_prefix, (int32_t)id, err)
                                        : ml_affix_add(&t->suffix, &t->n_suffix, (int32_t)id, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static marlin_status load_post(struct ml_tokenizer *t, const char *type, const struct ml_json *v,
                               struct marlin_error *err) {
    if (!strcmp(type, "ByteLevel")) return MARLIN_OK; /* moves offsets only */
    if (!strcmp(type, "TemplateProcessing")) return load_template(t, v, err);
    if (!strcmp(type, "RobertaProcessing") || !strcmp(type, "BertProcessing"))
        return load_cls_sep(t, v, type, err);
    return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "post-processor type \"%s\" is not supported", type);
}

static marlin_status load_all(struct ml_tokenizer *t, const struct ml_json *root,
                              const struct ml_tok_outside *outside, struct marlin_error *err) {
    const struct ml_json *model = ml_json_get(root, "model"), *added = ml_json_get(root, "added_tokens");
    marlin_status st;
    if (ml_json_type(root) != ML_JSON_OBJECT)
        return ml_fail(err, MARLIN_ERR_FORMAT, "tokenizer: must be a JSON object, not %s",
                       ml_json_type_name(root));
    ML_TRY(check_model(t, model, err));
    ML_TRY(check_vocab(model, ml_json_get(model, "vocab"), err));
    ML_TRY(load_vocab(t, ml_json_get(model, "vocab"), added, outside, err));
    if (!t->scores) ML_TRY(load_merges(t, ml_json_get(model, "merges"), err));
    ML_TRY(t->scores ? load_unk_id(t, model, err) : load_unk(t, model, err));
    ML_TRY(ml_norm_load(t, ml_json_get(root, "normalizer"), err));
    ML_TRY(ml_pre_load(t, ml_json_get(root, "pre_tokenizer"), err));
    ML_TRY(ml_dec_load(t, ml_json_get(root, "decoder"), err));
    ML_TRY(load_added(t, added, outside, err));
    ML_TRY(ml_tok_components(t, ml_json_get(root, "post_processor"), "post-processor", "processors",
                             load_post, err));
    ML_TRY(ml_vocab_index(t, err));
    if (t->scores) ML_TRY(ml_unigram_build(t, err));
    ML_TRY(ml_dec_prepare(t, err));
out:
    return st;
}

marlin_status ml_tokenizer_from_json(const char *json, size_t len, uint64_t vocab_rows,
                                     struct ml_tokenizer **out, struct marlin_error *err) {
    return ml_tok_from_json(json, len, vocab_rows, NULL, out, err);
}

marlin_status ml_tok_from_json(const char *json, size_t len, uint64_t vocab_rows,
                               const struct ml_tok_outside *outside, struct ml_tokenizer **out,
                               struct marlin_error *err) {
    const struct ml_json_limits limits = {
        .max_bytes = ML_TOK_MAX_FILE, .max_depth = 32, .max_values = ML_TOK_MAX_VALUES};
    struct ml_json_doc *doc = NULL;
    struct ml_tokenizer *t = ml_calloc(1, sizeof *t);
    if (!t) return ml_fail(err, MARLIN_ERR_MEMORY, "tokenizer: out of memory");
    ml_arena_init(&t->arena, 0);
    ml_map_init(&t->ids);
    ml_map_init(&t->added_ids);
    ml_map_init(&t->hidden);
    marlin_status st = ml_json_parse(json, len, &limits, &doc, err);
    if (st == MARLIN_OK) st = load_all(t, ml_json_root(doc), outside, err);
    if (st == MARLIN_OK) ml_vocab_warn_rows(t, vocab_rows);
    ml_json_free(doc);
    if (st == MARLIN_OK)
        *out = t;
    else
        ml_tokenizer_free(t);
    return st;
}
