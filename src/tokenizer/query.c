/* SPDX-License-Identifier: Apache-2.0
 *
 * The questions one can ask a loaded tokenizer, and its end.
 */
#include "base/mem.h"
#include "tokenizer/tokenizer_int.h"

#include <string.h>

void ml_tokenizer_free(struct ml_tokenizer *t) {
    if (!t) return;
    for (size_t i = 0; i < t->n_norm; i++)
        ml_regex_free(t->norm[i].regex);
    for (size_t i = 0; i < t->n_pre; i++)
        if (t->pre[i].kind == ML_PRE_SPLIT && t->pre[i].with == ML_SPLIT_REGEX)
            ml_regex_free(t->pre[i].regex);
    ml_matcher_free(&t->raw);
    ml_matcher_free(&t->normalized);
    ml_matcher_free(&t->user);
    ml_pairs_free(&t->merges);
    ml_pairs_free(&t->trie);
    ml_map_free(&t->ids);
    ml_map_free(&t->added_ids);
    ml_map_free(&t->hidden);
    ml_free(t->piece);
    ml_free(t->char_id);
    ml_free(t->added);
    ml_free(t->prefix);
    ml_free(t->suffix);
    ml_arena_free(&t->arena);
    ml_free(t);
}

void ml_ids_free(struct ml_ids *ids) {
    ml_free(ids->id);
    *ids = (struct ml_ids){NULL, 0, 0};
}

size_t ml_tokenizer_size(const struct ml_tokenizer *t) {
    return t->size;
}

bool ml_tokenizer_is_special(const struct ml_tokenizer *t, int32_t id) {
    return id >= 0 && (size_t)id < t->size && (t->piece[id].flags & ML_PIECE_SPECIAL);
}

int32_t ml_tokenizer_find(const struct ml_tokenizer *t, const char *piece) {
    const size_t len = strlen(piece);
    uint64_t id;
    if (ml_map_get(&t->added_ids, piece, len, &id) || ml_map_get(&t->ids, piece, len, &id))
        return (int32_t)id;
    return -1;
}

const char *ml_tokenizer_piece(const struct ml_tokenizer *t, int32_t id, size_t *len) {
    if (id < 0 || (size_t)id >= t->size || !t->piece[id].flags) return NULL;
    if (len) *len = t->piece[id].len;
    return t->piece[id].text;
}
