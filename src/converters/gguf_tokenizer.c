/* SPDX-License-Identifier: Apache-2.0
 *
 * The tokenizer of a GGUF file as the files of a directory: byte-level BPE ("gpt2") as tokenizer.json, SentencePiece
 * BPE ("llama") as tokenizer.model; and tokenizer_config.json.
 */
#include "base/file.h"
#include "base/mem.h"
#include "converters/gguf_int.h"

#include <limits.h>
#include <string.h>

/* tokenizer.ggml.token_type: as SentencePiece numbers them. */
enum token_type { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

enum { MAX_TEXT = 256 << 20, MAX_TOKENS = 1 << 22, IN_MERGES = 1 };

struct build {
    const struct ml_gguf *g;
    const struct ml_gguf_value *tokens;
    uint8_t *type;    /* [tokens->count], enum token_type */
    uint8_t *written; /* [tokens->count]: IN_MERGES, of added tokens that merges are about */
    struct ml_buf *out;
    struct marlin_error *err;
};

static marlin_status bad(const struct build *b, const char *key, const char *what) {
    const struct ml_gguf_value *v = ml_gguf_find(b->g, key);
    return ml_fail(b->err, MARLIN_ERR_FORMAT, "%s: \"%s\" %s (offset %llu)", b->g->path, key, what,
                   v ? (unsigned long long)v->offset : 0);
}

static marlin_status strings(const struct build *b, const char *key, const struct ml_gguf_value **out) {
    *out = ml_gguf_find(b->g, key);
    return *out && (*out)->array && (*out)->kind == ML_GGUF_STRING && (*out)->count > 0 &&
                   (*out)->count <= MAX_TOKENS
               ? MARLIN_OK
               : bad(b, key, "is missing or not an array of 1 to 4194304 strings");
}

static marlin_status flag(const struct build *b, const char *key, bool absent, bool *out) {
    const struct ml_gguf_value *v = ml_gguf_find(b->g, key);
    int64_t value = absent;
    const marlin_status st = v ? ml_gguf_int(b->g, v, 0, &value, b->err) : MARLIN_OK;
    *out = value != 0;
    return st;
}

/* ---- kinds of tokens ---- */

/* A file without kinds has at least these that are not text. */
static marlin_status mark_named(struct build *b) {
    static const char *const keys[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.padding_token_id"};
    int64_t id = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const struct ml_gguf_value *v = ml_gguf_find(b->g, keys[i]);
        const marlin_status st = v ? ml_gguf_int(b->g, v, 0, &id, b->err) : MARLIN_OK;
        if (st != MARLIN_OK) return st;
        if (v && id >= 0 && (uint64_t)id < b->tokens->count) b->type[id] = CONTROL;
    }
    return MARLIN_OK;
}

static marlin_status read_types(struct build *b) {
    static const char key[] = "tokenizer.ggml.token_type";
    const struct ml_gguf_value *v = ml_gguf_find(b->g, key);
    int64_t type = 0;
    b->type = ml_calloc((size_t)b->tokens->count, 1);
    b->written = ml_calloc((size_t)b->tokens->count, 1);
    if (!b->type || !b->written) return ml_fail(b->err, MARLIN_ERR_MEMORY, "%s: out of memory", b->g->path);
    memset(b->type, NORMAL, (size_t)b->tokens->count);
    if (!v) return mark_named(b);
    if (v->count != b->tokens->count) return bad(b, key, "has not one entry a token");
    for (uint64_t i = 0; i < v->count; i++) {
        const marlin_status st = ml_gguf_int(b->g, v, i, &type, b->err);
        if (st != MARLIN_OK) return st;
        if (type < NORMAL || type > BYTE) return bad(b, key, "has an unknown kind");
        b->type[i] = (uint8_t)type;
    }
    return MARLIN_OK;
}

/* ---- text ---- */

static size_t replacements(const char *s, size_t n) {
    size_t found = 0;
    for (size_t i = 0; i + 2 < n; i++)
        found += memcmp(s + i, "\xEF\xBF\xBD", 3) == 0;
    return found;
}

/* As a JSON string; what is not UTF-8 has no spelling there. */
static marlin_status put_text(const struct build *b, struct ml_buf *out, const char *s, size_t n) {
    const size_t start = out->len;
    const marlin_status st = ml_buf_add_json(out, s, n);
    if (st != MARLIN_OK) return st;
    if (memchr(s, 0, n) || replacements(out->data + start, out->len - start) != replacements(s, n))
        return ml_fail(b->err, MARLIN_ERR_FORMAT,
                       "%s: the text \"%.60s\" of its tokenizer is not UTF-8 (offset %llu)", b->g->path,
                       out->data + start, (unsigned long long)((const uint8_t *)s - b->g->bytes[0]));
    return MARLIN_OK;
}

/* ---- byte-level BPE: tokenizer.json ---- */

static bool is_added(enum token_type t) {
    return t == CONTROL || t == USER_DEFINED || t == UNKNOWN;
}

static void mark(const struct build *b, const struct ml_map *added, const char *s, size_t n) {
    uint64_t id;
    if (ml_map_get(added, s, n, &id)) b->written[id] = IN_MERGES;
}

static marlin_status mark_merge(const struct build *b, const struct ml_map *added, const char *s, size_t n) {
    char joined[512];
    const char *space = n > 1 ? memchr(s + 1, ' ', n - 1) : NULL;
    if (!space) return bad(b, "tokenizer.ggml.merges", "has an entry without a space between two pieces");
    const size_t left = (size_t)(space - s), right = n - left - 1;
    mark(b, added, s, left);
    mark(b, added, space + 1, right);
    if (left + right > sizeof joined) return MARLIN_OK; /* longer than any added token that could be meant */
    memcpy(joined, s, left);
    memcpy(joined + left, space + 1, right);
    mark(b, added, joined, left + right);
    return MARLIN_OK;
}

/* Tokens that are added stay out of the vocabulary, where a word might be taken for them, but for those that merges
 * need. */
static marlin_status mark_merges(const struct build *b, const struct ml_gguf_value *merges) {
    struct ml_map added;
    const uint8_t *at = b->tokens->at;
    const char *s;
    size_t n;
    marlin_status st = MARLIN_OK;
    ml_map_init(&added);
    for (uint64_t i = 0; ml_gguf_next(b->tokens, &at, &s, &n); i++)
        if (is_added((enum token_type)b->type[i])) ML_TRY(ml_map_put(&added, s, n, i, NULL));
    at = merges->at;
    while (ml_gguf_next(merges, &at, &s, &n))
        ML_TRY(mark_merge(b, &added, s, n));
out:
    ml_map_free(&added);
    return st;
}

static marlin_status put_added(const struct build *b) {
    const uint8_t *at = b->tokens->at;
    const char *s, *comma = "";
    size_t n;
    marlin_status st = MARLIN_OK;
    ML_TRY(ml_buf_adds(
        b->out,
        "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": ["));
    for (uint64_t i = 0; ml_gguf_next(b->tokens, &at, &s, &n); i++) {
        if (!is_added((enum token_type)b->type[i])) continue;
        ML_TRY(ml_buf_addf(b->out, "%s\n    {\"id\": %llu, \"content\": ", comma, (unsigned long long)i));
        ML_TRY(put_text(b, b->out, s, n));
        ML_TRY(ml_buf_addf(
            b->out,
            ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
            "\"special\": %s}",
            b->type[i] == USER_DEFINED ? "false" : "true"));
        comma = ",";
    }
    st = ml_buf_adds(b->out, "\n  ]");
out:
    return st;
}

static marlin_status put_vocab(const struct build *b) {
    const uint8_t *at = b->tokens->at;
    const char *s, *comma = "";
    size_t n;
    marlin_status st = MARLIN_OK;
    for (uint64_t i = 0; ml_gguf_next(b->tokens, &at, &s, &n); i++) {
        const enum token_type type = (enum token_type)b->type[i];
        if (type == UNUSED || (is_added(type) && b->written[i] != IN_MERGES)) continue;
        ML_TRY(ml_buf_addf(b->out, "%s\n      ", comma));
        ML_TRY(put_text(b, b->out, s, n));
        ML_TRY(ml_buf_addf(b->out, ": %llu", (unsigned long long)i));
        comma = ",";
    }
out:
    return st;
}

static marlin_status put_merges(const struct build *b, const struct ml_gguf_value *merges) {
    const uint8_t *at = merges->at;
    const char *s, *comma = "";
    size_t n;
    marlin_status st = MARLIN_OK;
    while (ml_gguf_next(merges, &at, &s, &n)) {
        ML_TRY(ml_buf_addf(b->out, "%s\n      ", comma));
        ML_TRY(put_text(b, b->out, s, n));
        comma = ",";
    }
out:
    return st;
}

static marlin_status find_pre(const struct build *b, struct ml_gguf_pre *out) {
    static const char key[] = "tokenizer.ggml.pre";
    const char *name = ml_gguf_string(b->g, key);
    if (ml_gguf_pre_find(name ? name : "default", out)) return MARLIN_OK;
    return ml_fail(b->err, MARLIN_ERR_UNSUPPORTED,
                   "%s: the pre-tokenizer \"%.60s\" (%s) is not known: text would be cut into other tokens "
                   "than the model "
                   "was trained with: use the Hugging Face directory",
                   b->g->path, name, key);
}

/* Programs that load tokenizer.json and no tokenizer_config.json add what stands here. */
static marlin_status put_template(const struct build *b, bool bos) {
    const struct ml_gguf_value *v = ml_gguf_find(b->g, "tokenizer.ggml.bos_token_id");
    struct ml_buf text;
    int64_t id = 0;
    marlin_status st = MARLIN_OK;
    if (!bos || !v) return ml_buf_adds(b->out, ",\n  \"post_processor\": null");
    ml_buf_init(&text, MAX_TEXT);
    ML_TRY(ml_gguf_int(b->g, v, 0, &id, b->err));
    ML_TRY(ml_gguf_token_text(b->g, v->key, &text, b->err));
    ML_TRY(ml_buf_adds(b->out, ",\n  \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": "
                               "[{\"SpecialToken\": {\"id\": "));
    ML_TRY(ml_buf_add_json(b->out, text.data, text.len));
    ML_TRY(ml_buf_adds(b->out, ", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], "
                               "\"pair\": [], \"special_tokens\": {"));
    ML_TRY(ml_buf_add_json(b->out, text.data, text.len));
    ML_TRY(ml_buf_adds(b->out, ": {\"id\": "));
    ML_TRY(ml_buf_add_json(b->out, text.data, text.len));
    ML_TRY(ml_buf_addf(b->out, ", \"ids\": [%lld], \"tokens\": [", (long long)id));
    ML_TRY(ml_buf_add_json(b->out, text.data, text.len));
    st = ml_buf_adds(b->out, "]}}}");
out:
    ml_buf_free(&text);
    return st;
}

static marlin_status put_bpe(struct build *b, bool *add_bos) {
    const struct ml_gguf_value *merges = NULL;
    struct ml_gguf_pre pre = {0};
    marlin_status st;
    ML_TRY(find_pre(b, &pre));
    ML_TRY(strings(b, "tokenizer.ggml.merges", &merges));
    ML_TRY(flag(b, "tokenizer.ggml.add_bos_token", pre.add_bos, add_bos));
    ML_TRY(mark_merges(b, merges));
    ML_TRY(put_added(b));
    ML_TRY(ml_buf_addf(b->out, ",\n  \"normalizer\": %s,\n  \"pre_tokenizer\": %s", pre.normalizer,
                       pre.pre_tokenizer));
    ML_TRY(put_template(b, *add_bos));
    ML_TRY(ml_buf_addf(
        b->out,
        ",\n  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
        "\"use_regex\": true},\n  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    "
        "\"unk_token\": "
        "null,\n    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    "
        "\"fuse_unk\": "
        "false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": %s,\n    \"vocab\": {",
        pre.ignore_merges ? "true" : "false"));
    ML_TRY(put_vocab(b));
    ML_TRY(ml_buf_adds(b->out, "\n    },\n    \"merges\": ["));
    ML_TRY(put_merges(b, merges));
    st = ml_buf_adds(b->out, "\n    ]\n  }\n}\n");
out:
    return st;
}

/* ---- SentencePiece: tokenizer.model, a protobuf message ---- */

static marlin_status put_varint(struct ml_buf *out, uint64_t v) {
    unsigned char bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (unsigned char)((v & 0x7F) | (v > 0x7F ? 0x80 : 0));
        v >>= 7;
    } while (v);
    return ml_buf_add(out, bytes, n);
}

static marlin_status put_field(struct ml_buf *out, unsigned number, uint64_t v) {
    const marlin_status st = put_varint(out, (uint64_t)number << 3);
    return st == MARLIN_OK ? put_varint(out, v) : st;
}

static marlin_status put_bytes(struct ml_buf *out, unsigned number, const void *data, size_t n) {
    marlin_status st = put_varint(out, (uint64_t)number << 3 | 2);
    if (st == MARLIN_OK) st = put_varint(out, n);
    return st == MARLIN_OK ? ml_buf_add(out, data, n) : st;
}

/* A piece that is never used must not be made of text, which is what a control token is. */
static marlin_status put_piece(const struct build *b, const char *text, size_t len, float score,
                               enum token_type type) {
    struct ml_buf piece;
    unsigned char fixed[5] = {2 << 3 | 5};
    marlin_status st;
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    for (int i = 0; i < 4; i++)
        fixed[1 + i] = (unsigned char)(bits >> (8 * i));
    ml_buf_init(&piece, MAX_TEXT);
    ML_TRY(put_bytes(&piece, 1, text, len));
    ML_TRY(ml_buf_add(&piece, fixed, sizeof fixed));
    ML_TRY(put_field(&piece, 3, type == UNUSED ? CONTROL : type));
    st = put_bytes(b->out, 1, piece.data, piece.len);
out:
    ml_buf_free(&piece);
    return st;
}

/* Rows that only fill the embedding up have tokens that are never used behind all others: left out. */
static uint64_t last_used(const struct build *b) {
    uint64_t n = b->tokens->count;
    while (n > 1 && b->type[n - 1] == UNUSED)
        n--;
    return n;
}

static marlin_status put_pieces(const struct build *b, bool *bytes) {
    static const char key[] = "tokenizer.ggml.scores";
    const struct ml_gguf_value *scores = ml_gguf_find(b->g, key);
    const uint8_t *at = b->tokens->at;
    const uint64_t used = last_used(b);
    const char *s = NULL;
    size_t n = 0;
    double score = 0;
    marlin_status st = MARLIN_OK;
    if (!scores || scores->count != b->tokens->count)
        return bad(b, key, "is missing or has not one entry a token");
    for (uint64_t i = 0; i < used && ml_gguf_next(b->tokens, &at, &s, &n); i++) {
        ML_TRY(ml_gguf_real(b->g, scores, i, &score, b->err));
        ML_TRY(put_piece(b, s, n, (float)score, (enum token_type)b->type[i]));
        *bytes = *bytes || b->type[i] == BYTE;
    }
out:
    return st;
}

static marlin_status put_sentencepiece(const struct build *b, bool *add_bos) {
    bool bytes = false, prefix = true, extra = false;
    struct ml_buf trainer, normalizer;
    marlin_status st;
    ml_buf_init(&trainer, 4096);
    ml_buf_init(&normalizer, 4096);
    ML_TRY(flag(b, "tokenizer.ggml.add_bos_token", true, add_bos));
    ML_TRY(flag(b, "tokenizer.ggml.add_space_prefix", true, &prefix));
    ML_TRY(flag(b, "tokenizer.ggml.remove_extra_whitespaces", false, &extra));
    ML_TRY(put_pieces(b, &bytes));
    ML_TRY(put_field(&trainer, 3, 2)); /* BPE */
    ML_TRY(put_field(&trainer, 35, bytes));
    ML_TRY(put_bytes(b->out, 2, trainer.data, trainer.len));
    ML_TRY(put_bytes(&normalizer, 1, "identity", 8));
    ML_TRY(put_field(&normalizer, 3, prefix));
    ML_TRY(put_field(&normalizer, 4, extra));
    ML_TRY(put_field(&normalizer, 5, 1));
    st = put_bytes(b->out, 3, normalizer.data, normalizer.len);
out:
    ml_buf_free(&trainer);
    ml_buf_free(&normalizer);
    return st;
}

/* ---- tokenizer_config.json ---- */

static marlin_status put_config(const struct build *b, bool sentencepiece, bool add_bos, struct ml_buf *out) {
    static const char *const named[][2] = {{"tokenizer.ggml.bos_token_id", "bos_token"},
                                           {"tokenizer.ggml.eos_token_id", "eos_token"},
                                           {"tokenizer.ggml.unknown_token_id", "unk_token"},
                                           {"tokenizer.ggml.padding_token_id", "pad_token"}};
    const char *chat = ml_gguf_string(b->g, "tokenizer.chat_template");
    struct ml_buf text;
    bool add_eos = false;
    marlin_status st;
    ml_buf_init(&text, MAX_TEXT);
    ML_TRY(flag(b, "tokenizer.ggml.add_eos_token", false, &add_eos));
    ML_TRY(ml_buf_addf(out, "{\n  \"add_bos_token\": %s,\n  \"add_eos_token\": %s",
                       add_bos ? "true" : "false", add_eos ? "true" : "false"));
    for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
        if (!ml_gguf_find(b->g, named[i][0])) continue;
        ml_buf_clear(&text);
        ML_TRY(ml_gguf_token_text(b->g, named[i][0], &text, b->err));
        ML_TRY(ml_buf_addf(out, ",\n  \"%s\": ", named[i][1]));
        ML_TRY(ml_buf_add_json(out, text.data ? text.data : "", text.len));
    }
    if (chat) {
        ML_TRY(ml_buf_adds(out, ",\n  \"chat_template\": "));
        ML_TRY(ml_buf_add_json(out, chat, strlen(chat)));
    }
    st = ml_buf_addf(out, ",\n  \"tokenizer_class\": \"%s\"\n}\n",
                     sentencepiece ? "LlamaTokenizer" : "PreTrainedTokenizerFast");
out:
    ml_buf_free(&text);
    return st;
}

/* ---- all of it ---- */

static marlin_status make(struct build *b, struct ml_gguf_tokenizer *out) {
    const char *model = ml_gguf_string(b->g, "tokenizer.ggml.model");
    bool add_bos = false;
    marlin_status st;
    if (!model || strcmp(model, "none") == 0 || strcmp(model, "no_vocab") == 0)
        return ml_fail(b->err, MARLIN_ERR_NOT_FOUND, "%s: no tokenizer is in this file", b->g->path);
    out->sentencepiece = strcmp(model, "llama") == 0;
    if (!out->sentencepiece && strcmp(model, "gpt2") != 0)
        return ml_fail(b->err, MARLIN_ERR_UNSUPPORTED,
                       "%s: a tokenizer of kind \"%.40s\" is not supported: supported are gpt2 and llama",
                       b->g->path, model);
    ML_TRY(strings(b, "tokenizer.ggml.tokens", &b->tokens));
    ML_TRY(read_types(b));
    b->out = &out->model;
    ML_TRY(out->sentencepiece ? put_sentencepiece(b, &add_bos) : put_bpe(b, &add_bos));
    st = put_config(b, out->sentencepiece, add_bos, &out->config);
out:
    return st;
}

marlin_status ml_gguf_tokenizer(const struct ml_gguf *g, struct ml_gguf_tokenizer *out,
                                struct marlin_error *err) {
    struct marlin_error inner = {0};
    struct build b = {.g = g, .err = &inner};
    ml_buf_init(&out->model, MAX_TEXT);
    ml_buf_init(&out->config, MAX_TEXT);
    const marlin_status st = make(&b, out);
    ml_free(b.type);
    ml_free(b.written);
    if (st == MARLIN_OK) return st;
    return ml_fail(err, st, "%s", inner.code == st ? inner.text : "tokenizer of a GGUF file: out of memory");
}

void ml_gguf_tokenizer_free(struct ml_gguf_tokenizer *t) {
    ml_buf_free(&t->model);
    ml_buf_free(&t->config);
}

marlin_status ml_gguf_tokenizer_write(const char *path, const char *dir, struct marlin_error *err) {
    struct ml_gguf *g = NULL;
    struct ml_gguf_tokenizer t = {0};
    char file[PATH_MAX];
    marlin_status st;
    ML_TRY(ml_gguf_open(path, &g, err));
    st = ml_gguf_tokenizer(g, &t, err);
    if (st == MARLIN_ERR_NOT_FOUND) {
        st = MARLIN_OK;
        goto out;
    }
    if (st != MARLIN_OK) goto out;
    ML_TRY(ml_path_join(file, sizeof file, dir, t.sentencepiece ? "tokenizer.model" : "tokenizer.json", err));
    ML_TRY(ml_file_write_atomic(file, t.model.data, t.model.len, err));
    ML_TRY(ml_path_join(file, sizeof file, dir, "tokenizer_config.json", err));
    st = ml_file_write_atomic(file, t.config.data, t.config.len, err);
out:
    ml_gguf_tokenizer_free(&t);
    ml_gguf_close(g);
    return st;
}
