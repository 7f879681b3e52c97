/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of pieces by id, with the checks on ids that every source of pieces goes through.
 */
#include "base/checked.h"
#include "base/log.h"
#include "base/mem.h"
#include "tokenizer/tokenizer_int.h"

#include <string.h>

marlin_status ml_grow(void *p, size_t *cap, size_t need, size_t size) {
    if (need <= *cap) return MARLIN_OK;
    size_t want = *cap ? *cap : 16, bytes;
    while (want < need)
        if (!ml_mul_size(want, 2, &want)) return MARLIN_ERR_MEMORY;
    if (!ml_mul_size(want, size, &bytes)) return MARLIN_ERR_MEMORY;
    void *old;
    memcpy(&old, p, sizeof old);
    void *bigger = ml_realloc(old, bytes);
    if (!bigger) return MARLIN_ERR_MEMORY;
    memcpy(p, &bigger, sizeof bigger);
    *cap = want;
    return MARLIN_OK;
}

marlin_status ml_ids_add(struct ml_ids *ids, int32_t id) {
    const marlin_status st = ml_grow(&ids->id, &ids->cap, ids->n + 1, sizeof *ids->id);
    if (st == MARLIN_OK) ids->id[ids->n++] = id;
    return st;
}

marlin_status ml_affix_add(int32_t **list, size_t *n, int32_t id, struct marlin_error *err) {
    if (*n >= 64) return ml_fail(err, MARLIN_ERR_LIMIT, "post-processor: more than 64 ids around a text");
    int32_t *longer = ml_realloc(*list, (*n + 1) * sizeof *longer);
    if (!longer) return ml_fail(err, MARLIN_ERR_MEMORY, "tokenizer: out of memory");
    longer[(*n)++] = id;
    *list = longer;
    return MARLIN_OK;
}

marlin_status ml_vocab_check_id(int64_t id, const char *piece, struct marlin_error *err) {
    if (id < 0 || id > INT32_MAX)
        return ml_fail(err, MARLIN_ERR_FORMAT, "vocabulary: id %lld of \"%.60s\" is outside 0..2^31-1",
                       (long long)id, piece);
    if (id >= (int64_t)ML_TOK_MAX_ID)
        return ml_fail(err, MARLIN_ERR_LIMIT, "vocabulary: id %lld of \"%.60s\" is above the ceiling of %u",
                       (long long)id, piece, ML_TOK_MAX_ID - 1);
    return MARLIN_OK;
}

/* Added tokens of images, padding and the like often lie behind the table, and no text holds them. */
void ml_vocab_warn_rows(const struct ml_tokenizer *t, uint64_t vocab_rows) {
    size_t n = 0, first = 0;
    for (size_t id = vocab_rows; vocab_rows && id < t->size; id++) {
        uint64_t known;
        const struct ml_tok_piece *p = &t->piece[id];
        if (!p->flags || (p->flags & (ML_PIECE_SPECIAL | ML_PIECE_ADDED))) continue;
        if (ml_map_get(&t->added_ids, p->text, p->len, &known)) continue;
        if (n++ == 0) first = id;
    }
    if (n)
        ml_log(ML_LOG_WARN,
               "tokenizer: %zu tokens, the first %zu \"%.60s\", have no row in the embedding table of %llu "
               "rows: "
               "a text that holds one is refused: is it another model's tokenizer?",
               n, first, t->piece[first].text, (unsigned long long)vocab_rows);
}

marlin_status ml_vocab_size(struct ml_tokenizer *t, uint64_t max_id, struct marlin_error *err) {
    t->size = (size_t)max_id + 1;
    t->piece = ml_calloc(t->size, sizeof *t->piece);
    if (!t->piece)
        return ml_fail(err, MARLIN_ERR_MEMORY, "vocabulary: out of memory for %zu pieces", t->size);
    return MARLIN_OK;
}

marlin_status ml_vocab_put(struct ml_tokenizer *t, int64_t id, const char *text, size_t len, uint8_t flags,
                           struct marlin_error *err) {
    struct ml_tok_piece *p = &t->piece[id];
    if (p->flags)
        return ml_fail(err, MARLIN_ERR_FORMAT, "vocabulary: id %lld belongs to both \"%.60s\" and \"%.60s\"",
                       (long long)id, p->text, text);
    if (len > ML_TOK_MAX_PIECE)
        return ml_fail(err, MARLIN_ERR_LIMIT, "vocabulary: piece %lld has %zu bytes, the ceiling is %u",
                       (long long)id, len, ML_TOK_MAX_PIECE);
    char *copy = ml_arena_strndup(&t->arena, text, len);
    if (!copy) return ml_fail(err, MARLIN_ERR_MEMORY, "vocabulary: out of memory");
    p->text = copy;
    p->len = (uint32_t)len;
    p->flags = flags | ML_PIECE_USED;
    if (flags & ML_PIECE_ADDED) return MARLIN_OK;
    bool inserted;
    const marlin_status st = ml_map_put(&t->ids, copy, len, (uint64_t)id, &inserted);
    if (st != MARLIN_OK) return ml_fail(err, st, "vocabulary: out of memory");
    if (!inserted) return ml_fail(err, MARLIN_ERR_FORMAT, "vocabulary: piece \"%.60s\" appears twice", copy);
    return MARLIN_OK;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

int ml_byte_piece(const char *s, size_t len) {
    if (len != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    const int high = hex_digit(s[3]), low = hex_digit(s[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* Encoding looks for upper-case digits only, as the reference does; decoding takes both. */
static void index_byte(struct ml_tokenizer *t, size_t id) {
    struct ml_tok_piece *p = &t->piece[id];
    const int byte = ml_byte_piece(p->text, p->len);
    if (byte < 0) return;
    p->flags |= ML_PIECE_BYTE;
    p->byte = (uint8_t)byte;
    const bool lower = (p->text[3] >= 'a') || (p->text[4] >= 'a');
    if (!lower && !(p->flags & ML_PIECE_ADDED)) t->byte_id[byte] = (int32_t)id;
}

marlin_status ml_vocab_index(struct ml_tokenizer *t, struct marlin_error *err) {
    t->char_id = ml_alloc(ML_CHAR_TABLE * sizeof *t->char_id);
    if (!t->char_id) return ml_fail(err, MARLIN_ERR_MEMORY, "vocabulary: out of memory");
    memset(t->char_id, 0xFF, ML_CHAR_TABLE * sizeof *t->char_id);
    memset(t->byte_id, 0xFF, sizeof t->byte_id);
    for (size_t id = 0; id < t->size; id++) {
        struct ml_tok_piece *p = &t->piece[id];
        if (!p->flags) continue;
        if (t->model == ML_MODEL_BPE) index_byte(t, id);
        if (t->model != ML_MODEL_BPE && (p->flags & ML_PIECE_BYTE)) t->byte_id[p->byte] = (int32_t)id;
        uint32_t cp;
        const bool can_start =
            t->model == ML_MODEL_BPE ? !(p->flags & ML_PIECE_ADDED) : (p->flags & ML_PIECE_NORMAL) != 0;
        if (!can_start || !p->len || p->len > 2 || ml_utf8_get(p->text, &cp) != p->len) continue;
        if (cp < ML_CHAR_TABLE) t->char_id[cp] = (int32_t)id;
    }
    return MARLIN_OK;
}

marlin_status ml_sp_unknown(struct ml_encoder *e, const char *s, size_t len, bool *prev_unk) {
    const struct ml_tokenizer *t = e->t;
    marlin_status st = MARLIN_OK;
    bool bytes = t->byte_fallback;
    for (size_t i = 0; i < len && bytes; i++)
        bytes = t->byte_id[(uint8_t)s[i]] >= 0;
    if (!bytes && t->unk < 0) return ml_encode_no_unknown(e, s, len);
    if (!bytes && !*prev_unk) st = ml_ids_add(e->ids, t->unk);
    for (size_t i = 0; i < len && bytes && st == MARLIN_OK; i++)
        st = ml_ids_add(e->ids, t->byte_id[(uint8_t)s[i]]);
    *prev_unk = !bytes;
    return st;
}
