/* SPDX-License-Identifier: Apache-2.0
 *
 * The unigram model: the segmentation of highest total score, by dynamic programming over byte positions with
 * a trie of the pieces. Scores are added in the reference's order and precision, so ties fall alike: floats for
 * tokenizer.model, doubles for tokenizer.json.
 */
#include "tokenizer/tokenizer_int.h"

/* Below the worst piece by this much lies a character outside the vocabulary. */
static const float unknown_penalty = 10.0f;

static marlin_status insert(struct ml_tokenizer *t, const struct ml_tok_piece *p, uint32_t id,
                            uint32_t *n_nodes) {
    uint64_t at = 0;
    for (size_t i = 0; i < p->len; i++) {
        const uint64_t key = at << 8 | (uint8_t)p->text[i];
        uint64_t v = 0;
        const bool known = ml_pairs_get(&t->trie, key, &v);
        if (!known) v = (uint64_t)(*n_nodes)++ << 32;
        if (i + 1 == p->len) v |= id + 1u;
        if (!known || i + 1 == p->len) {
            const marlin_status st = ml_pairs_put(&t->trie, key, v);
            if (st != MARLIN_OK) return st;
        }
        at = v >> 32;
    }
    return MARLIN_OK;
}

/* In tokenizer.json every piece but the special tokens, which plain text must not become. */
static bool can_be_found(const struct ml_tokenizer *t, const struct ml_tok_piece *p) {
    if (t->scores) return (p->flags & (ML_PIECE_USED | ML_PIECE_SPECIAL | ML_PIECE_ADDED)) == ML_PIECE_USED;
    return p->flags & (ML_PIECE_NORMAL | ML_PIECE_USER);
}

marlin_status ml_unigram_build(struct ml_tokenizer *t, struct marlin_error *err) {
    uint32_t n_nodes = 1;
    for (size_t id = 0; id < t->size; id++) {
        if (!can_be_found(t, &t->piece[id])) continue;
        if (n_nodes > UINT32_MAX - ML_TOK_MAX_PIECE)
            return ml_fail(err, MARLIN_ERR_LIMIT, "unigram model: the pieces are too long together");
        const marlin_status st = insert(t, &t->piece[id], (uint32_t)id, &n_nodes);
        if (st != MARLIN_OK) return ml_fail(err, st, "unigram model: out of memory");
    }
    return MARLIN_OK;
}

static void improve(struct ml_tok_path_node *node, double score, size_t start, int32_t id) {
    if (node->start != UINT32_MAX && score <= node->score) return;
    *node = (struct ml_tok_path_node){score, id, (uint32_t)start};
}

/* User-defined symbols get a bonus that makes them win. */
static double piece_score(const struct ml_tokenizer *t, const struct ml_tok_piece *p, size_t len) {
    return p->flags & ML_PIECE_USER ? (float)len * t->max_score - 0.1 : p->score;
}

/* The score of a path that goes on with a piece of n bytes; id -1: with a character outside the vocabulary. */
static double path_score(const struct ml_tokenizer *t, double here, int32_t id, size_t n) {
    if (t->scores) return (id < 0 ? t->min_of_scores - (double)unknown_penalty : t->scores[id]) + here;
    const float score = id < 0 ? t->min_score - unknown_penalty : (float)piece_score(t, &t->piece[id], n);
    return score + (float)here;
}

static void extend(const struct ml_tokenizer *t, struct ml_tok_path_node *path, const char *s, size_t len,
                   size_t at) {
    const double here = path[at].score;
    uint32_t cp;
    const size_t first = ml_utf8_get(s + at, &cp);
    bool single = false;
    uint64_t node = 0, v;
    for (size_t i = at; i < len && ml_pairs_get(&t->trie, node << 8 | (uint8_t)s[i], &v); i++) {
        node = v >> 32;
        const uint32_t id1 = (uint32_t)v;
        if (!id1) continue;
        const size_t n = i + 1 - at;
        improve(&path[i + 1], path_score(t, here, (int32_t)id1 - 1, n), at, (int32_t)id1 - 1);
        if (n == first) single = true;
    }
    if (!single) improve(&path[at + first], path_score(t, here, -1, first), at, t->unk);
}

marlin_status ml_unigram_encode(struct ml_encoder *e, const char *s, size_t len) {
    const struct ml_tokenizer *t = e->t;
    marlin_status st = ml_grow(&e->path, &e->path_cap, len + 1, sizeof *e->path);
    if (st != MARLIN_OK) return st;
    struct ml_tok_path_node *path = e->path;
    for (size_t i = 0; i <= len; i++)
        path[i] = (struct ml_tok_path_node){0, -1, UINT32_MAX};
    uint32_t cp;
    for (size_t i = 0; i < len; i += ml_utf8_get(s + i, &cp))
        extend(t, path, s, len, i);
    size_t n = 0;
    for (size_t end = len; end; end = path[end].start) { /* from the back */
        ML_TRY(ml_grow(&e->sym, &e->sym_cap, n + 1, sizeof *e->sym));
        e->sym[n++] = (struct ml_tok_symbol){.id = (uint32_t)path[end].id, .off = path[end].start};
    }
    bool prev_unk = false;
    for (size_t i = n; i-- > 0;) {
        const size_t start = e->sym[i].off, end = i ? e->sym[i - 1].off : len;
        if ((int32_t)e->sym[i].id == t->unk) {
            ML_TRY(ml_sp_unknown(e, s + start, end - start, &prev_unk));
        } else {
            ML_TRY(ml_ids_add(e->ids, (int32_t)e->sym[i].id));
            prev_unk = false;
        }
    }
out:
    return st;
}
