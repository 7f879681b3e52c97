/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokens that stand outside the tokenizer's own file: added_tokens_decoder and the named tokens of
 * tokenizer_config.json, added_tokens.json and special_tokens_map.json. Fine-tunes keep their chat format there;
 * without it every prompt would be cut into other pieces. The tokenizer's own file wins where both speak.
 */
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "tokenizer/tokenizer_int.h"

#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4096, MAX_TOKENS = 1 << 20 };

/* ---- reading ---- */

/* Parses a file of the directory when it is there. The document lives as long as the list. */
static marlin_status read_json(struct ml_tok_outside *o, const char *dir, const char *name,
                               const struct ml_json **root, struct marlin_error *err) {
    char path[PATH_BYTES];
    char *text = NULL;
    size_t len = 0;
    struct ml_json_doc **doc = &o->doc[o->n_docs];
    *root = NULL;
    marlin_status st = ml_path_join(path, sizeof path, dir, name, err);
    if (st != MARLIN_OK || !ml_path_exists(path)) return st;
    st = ml_file_slurp(path, ML_TOK_MAX_CONFIG, &text, &len, err);
    if (st != MARLIN_OK) return st;
    st = ml_json_parse(text, len, &(struct ml_json_limits){.max_bytes = ML_TOK_MAX_CONFIG}, doc, err);
    ml_free(text);
    if (st != MARLIN_OK) return ml_fail_in(err, st, "%s", path);
    o->n_docs++;
    *root = ml_json_root(*doc);
    return MARLIN_OK;
}

static marlin_status add(struct ml_tok_outside *o, const struct ml_tok_outside_token *token,
                         struct marlin_error *err) {
    bool fresh;
    if (o->n == MAX_TOKENS)
        return ml_fail(err, MARLIN_ERR_LIMIT, "%s: more than %d added tokens", token->file, MAX_TOKENS);
    if (token->len == 0) return MARLIN_OK; /* an empty name is none */
    if (token->len > ML_TOK_MAX_ADDED)
        return ml_fail(err, MARLIN_ERR_LIMIT, "%s: an added token of %zu bytes, the ceiling is %u",
                       token->file, token->len, ML_TOK_MAX_ADDED);
    marlin_status st = ml_map_put(&o->seen, token->content, token->len, 0, &fresh);
    if (st == MARLIN_OK && fresh) st = ml_grow(&o->token, &o->cap, o->n + 1, sizeof *o->token);
    if (st != MARLIN_OK) return ml_fail(err, st, "%s: out of memory", token->file);
    if (fresh) o->token[o->n++] = *token;
    return MARLIN_OK;
}

/* Adds {"content": ..., flags}, or a plain string with the flags of `token`. What is neither says nothing, as a null
 * bos_token does. */
static marlin_status take(struct ml_tok_outside *o, const struct ml_json *v,
                          struct ml_tok_outside_token token, struct marlin_error *err) {
    struct ml_tok_added *a = &token.added;
    marlin_status st = MARLIN_OK;
    token.content = ml_json_string(v, &token.len);
    if (token.content) return add(o, &token, err);
    token.content = ml_json_string(ml_json_get(v, "content"), &token.len);
    if (!token.content) return MARLIN_OK;
    ML_TRY(ml_tok_bool(v, "special", token.file, &a->special, err));
    a->normalized = !a->special;
    ML_TRY(ml_tok_bool(v, "lstrip", token.file, &a->lstrip, err));
    ML_TRY(ml_tok_bool(v, "rstrip", token.file, &a->rstrip, err));
    ML_TRY(ml_tok_bool(v, "single_word", token.file, &a->single_word, err));
    ML_TRY(ml_tok_bool(v, "normalized", token.file, &a->normalized, err));
    st = add(o, &token, err);
out:
    return st;
}

/* {"300": {"content": "<|im_end|>", ...}} */
static marlin_status take_decoder(struct ml_tok_outside *o, const struct ml_json *list,
                                  struct marlin_error *err) {
    for (const struct ml_json *v = ml_json_first(list); v; v = ml_json_next(v)) {
        size_t len;
        const char *key = ml_json_key(v, &len);
        char *end = NULL;
        const long long id = len && len < 12 ? strtoll(key, &end, 10) : -1;
        if (id < 0 || end != key + len)
            return ml_fail(err, MARLIN_ERR_FORMAT,
                           "tokenizer_config.json: added_tokens_decoder: \"%.40s\" is no id", key);
        const struct ml_tok_outside_token token = {.file = "tokenizer_config.json", .added.id = (int64_t)id};
        const marlin_status st = take(o, v, token, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                    "pad_token", "cls_token", "mask_token"};
static const char *const lists[] = {"additional_special_tokens", "extra_special_tokens"};

/* The tokens that a file names are special; those that are nowhere numbered get the next ids. */
static marlin_status take_named(struct ml_tok_outside *o, const struct ml_json *root, const char *file,
                                struct marlin_error *err) {
    const struct ml_tok_outside_token token = {.file = file, .added = {.id = -1, .special = true}};
    marlin_status st = MARLIN_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        ML_TRY(take(o, ml_json_get(root, names[i]), token, err));
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        for (const struct ml_json *v = ml_json_first(ml_json_get(root, lists[i])); v; v = ml_json_next(v))
            ML_TRY(take(o, v, token, err));
out:
    return st;
}

static bool is_named(const struct ml_json *root, const char *content, size_t len) {
    for (size_t i = 0; i < sizeof names / sizeof *names + sizeof lists / sizeof *lists; i++) {
        const size_t n = sizeof names / sizeof *names;
        const struct ml_json *v = ml_json_get(root, i < n ? names[i] : lists[i - n]);
        for (const struct ml_json *t = i < n ? v : ml_json_first(v); t; t = i < n ? NULL : ml_json_next(t)) {
            size_t k = 0;
            const char *s = ml_json_string(t, &k);
            if (!s) s = ml_json_string(ml_json_get(t, "content"), &k);
            if (s && k == len && !memcmp(s, content, len)) return true;
        }
    }
    return false;
}

/* added_tokens.json: {"<|im_end|>": 300}. Those that are named elsewhere are special. */
static marlin_status take_added(struct ml_tok_outside *o, const struct ml_json *list,
                                const struct ml_json *config, const struct ml_json *map,
                                struct marlin_error *err) {
    static const char file[] = "added_tokens.json";
    for (const struct ml_json *v = ml_json_first(list); v; v = ml_json_next(v)) {
        struct ml_tok_outside_token token = {.file = file};
        int64_t id;
        token.content = ml_json_key(v, &token.len);
        if (!ml_json_i64(v, &id) || id < 0)
            return ml_fail(err, MARLIN_ERR_FORMAT, "%s: id of \"%.60s\" must be an integer from 0 up", file,
                           token.content);
        token.added.id = id;
        token.added.special =
            is_named(config, token.content, token.len) || is_named(map, token.content, token.len);
        token.added.normalized = !token.added.special;
        const marlin_status st = add(o, &token, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

marlin_status ml_tok_outside_read(const char *dir, struct ml_tok_outside *out, struct marlin_error *err) {
    const struct ml_json *map = NULL, *added = NULL;
    marlin_status st;
    memset(out, 0, sizeof *out);
    ml_map_init(&out->seen);
    ML_TRY(read_json(out, dir, "tokenizer_config.json", &out->config, err));
    ML_TRY(read_json(out, dir, "added_tokens.json", &added, err));
    const struct ml_json *decoder = ml_json_get(out->config, "added_tokens_decoder");
    /* Where there is a decoder, the other file is a copy of what the config says. */
    if (!decoder) ML_TRY(read_json(out, dir, "special_tokens_map.json", &map, err));
    ML_TRY(take_decoder(out, decoder, err));
    ML_TRY(take_added(out, added, out->config, map, err));
    ML_TRY(take_named(out, out->config, "tokenizer_config.json", err));
    st = take_named(out, map, "special_tokens_map.json", err);
out:
    if (st != MARLIN_OK) ml_tok_outside_free(out);
    return st;
}

void ml_tok_outside_free(struct ml_tok_outside *o) {
    for (size_t i = 0; i < o->n_docs; i++)
        ml_json_free(o->doc[i]);
    ml_map_free(&o->seen);
    ml_free(o->token);
    memset(o, 0, sizeof *o);
}

/* ---- placing ---- */

marlin_status ml_tok_outside_room(const struct ml_tok_outside *o, uint64_t *max_id,
                                  struct marlin_error *err) {
    uint64_t unnumbered = 0;
    for (size_t i = 0; o && i < o->n; i++) {
        const struct ml_tok_outside_token *x = &o->token[i];
        if (x->added.id < 0) {
            unnumbered++;
            continue;
        }
        const marlin_status st = ml_vocab_check_id(x->added.id, x->content, err);
        if (st != MARLIN_OK) return ml_fail_in(err, st, "%s", x->file);
        if ((uint64_t)x->added.id > *max_id) *max_id = (uint64_t)x->added.id;
    }
    *max_id += unnumbered;
    if (*max_id >= ML_TOK_MAX_ID)
        return ml_fail(err, MARLIN_ERR_LIMIT, "added tokens: ids above the ceiling of %u", ML_TOK_MAX_ID - 1);
    return MARLIN_OK;
}

/* Its id, or -1 when another token has the one it wants. */
static marlin_status find_place(struct ml_tokenizer *t, const struct ml_tok_outside_token *x, int32_t *id,
                                struct marlin_error *err) {
    uint64_t known;
    if (ml_map_get(&t->ids, x->content, x->len, &known)) {
        *id = (int32_t)known;
        return MARLIN_OK;
    }
    size_t at = (size_t)x->added.id;
    if (x->added.id < 0) /* ml_tok_outside_room left enough ids free at the end */
        for (at = t->size; at && !t->piece[at - 1].flags;)
            at--;
    *id = (int32_t)at;
    if (!t->piece[at].flags) return ml_vocab_put(t, (int64_t)at, x->content, x->len, ML_PIECE_ADDED, err);
    ml_log(ML_LOG_WARN, "%s: added token \"%.60s\" is left out: its id %zu is \"%.60s\" in the tokenizer",
           x->file, x->content, at, t->piece[at].text);
    *id = -1;
    return MARLIN_OK;
}

marlin_status ml_tok_outside_place(struct ml_tokenizer *t, const struct ml_tok_outside_token *x, bool *fresh,
                                   struct marlin_error *err) {
    uint64_t known;
    int32_t id;
    *fresh = false;
    if (ml_map_get(&t->added_ids, x->content, x->len, &known)) {
        if (x->added.special) t->piece[known].flags |= ML_PIECE_SPECIAL;
        return MARLIN_OK;
    }
    marlin_status st = find_place(t, x, &id, err);
    if (st != MARLIN_OK || id < 0) return st;
    struct ml_tok_piece *p = &t->piece[id];
    /* SentencePiece: control symbols are looked for already, and so are those of the user. */
    if (t->model != ML_MODEL_BPE && (p->flags & (ML_PIECE_SPECIAL | ML_PIECE_USER))) return MARLIN_OK;
    if (x->added.special) p->flags |= ML_PIECE_SPECIAL;
    struct ml_tok_added *a = &t->added[t->n_added++];
    *a = x->added;
    a->id = id;
    st = ml_map_put(&t->added_ids, p->text, p->len, (uint64_t)id, fresh);
    return st == MARLIN_OK ? st : ml_fail(err, st, "added tokens: out of memory");
}

void ml_tok_outside_trim(struct ml_tokenizer *t) {
    while (t->size > 1 && !t->piece[t->size - 1].flags)
        t->size--;
}
