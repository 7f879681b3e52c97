/* SPDX-License-Identifier: Apache-2.0
 *
 * Byte-pair encoding of one word: the merge of lowest rank first, the leftmost of equal ones. Short words
 * scan for it; long ones keep a heap, so that ten million letters without a space take n log n steps.
 */
#include "base/mem.h"
#include "tokenizer/tokenizer_int.h"

#include <string.h>
#include <xxhash.h>

enum {
    SHORT_WORD = 32, /* symbols */
    CACHE_SLOTS = 4096,
    CACHE_WORD = 23, /* bytes */
    CACHE_IDS = 9
};
#define NO_SYMBOL UINT32_MAX /* an id that takes part in no merge */
#define NO_RANK   UINT32_MAX

struct ml_word_slot {
    uint8_t len, n;
    char word[CACHE_WORD];
    int32_t id[CACHE_IDS];
};

marlin_status ml_bpe_cache_create(struct ml_word_slot **out) {
    *out = ml_calloc(CACHE_SLOTS, sizeof **out);
    return *out ? MARLIN_OK : MARLIN_ERR_MEMORY;
}

static uint32_t char_symbol(const struct ml_tokenizer *t, const char *s, size_t len, uint32_t cp) {
    uint64_t id;
    if (cp < ML_CHAR_TABLE && t->char_id[cp] >= 0) return (uint32_t)t->char_id[cp];
    if (cp >= ML_CHAR_TABLE && ml_map_get(&t->ids, s, len, &id)) {
        const bool plain = t->model == ML_MODEL_BPE || (t->piece[id].flags & ML_PIECE_NORMAL);
        if (plain) return (uint32_t)id;
    }
    if (t->model == ML_MODEL_SP_BPE && ml_map_get(&t->hidden, s, len, &id)) return (uint32_t)id;
    return NO_SYMBOL;
}

static marlin_status push(struct ml_encoder *e, size_t *n, uint32_t id, size_t off) {
    const marlin_status st = ml_grow(&e->sym, &e->sym_cap, *n + 1, sizeof *e->sym);
    if (st == MARLIN_OK) e->sym[(*n)++] = (struct ml_tok_symbol){.id = id, .off = (uint32_t)off};
    return st;
}

/* What tokenizer.json models do with a character outside the vocabulary: byte tokens if all exist, else the
 * unknown token, which waits in *unk so that neighbours can fuse; without one the character vanishes, unless the
 * file names one that is nowhere. */
static marlin_status push_unknown(struct ml_encoder *e, const char *s, size_t len, size_t off, size_t *n,
                                  size_t *unk) {
    const struct ml_tokenizer *t = e->t;
    marlin_status st = MARLIN_OK;
    bool bytes = t->byte_fallback;
    for (size_t i = 0; i < len && bytes; i++)
        bytes = t->byte_id[(uint8_t)s[i]] >= 0;
    for (size_t i = 0; i < len && bytes; i++)
        ML_TRY(push(e, n, (uint32_t)t->byte_id[(uint8_t)s[i]], off + i));
    if (!bytes && t->unk < 0 && t->unk_missing) return ml_encode_no_unknown(e, s, len);
    if (bytes || t->unk < 0) return MARLIN_OK;
    if (*unk != SIZE_MAX && t->fuse_unk) return MARLIN_OK;
    if (*unk != SIZE_MAX) ML_TRY(push(e, n, (uint32_t)t->unk, *unk));
    *unk = off;
out:
    return st;
}

static marlin_status split_symbols(struct ml_encoder *e, const char *s, size_t len, size_t *n) {
    marlin_status st = MARLIN_OK;
    size_t unk = SIZE_MAX;
    size_t next_user = e->user.n; /* matches lie by falling start */
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        while (next_user && e->user.item[next_user - 1].start < i)
            next_user--;
        if (next_user && e->user.item[next_user - 1].start == i) {
            ML_TRY(push(e, n, (uint32_t)e->user.item[next_user - 1].pattern, i));
            i += e->user.item[next_user - 1].len;
            continue;
        }
        const size_t k = ml_utf8_get(s + i, &cp);
        const uint32_t id = char_symbol(e->t, s + i, k, cp);
        if (id != NO_SYMBOL || e->t->model == ML_MODEL_SP_BPE) {
            if (unk != SIZE_MAX) ML_TRY(push(e, n, (uint32_t)e->t->unk, unk));
            unk = SIZE_MAX;
            ML_TRY(push(e, n, id, i));
        } else {
            ML_TRY(push_unknown(e, s + i, k, i, n, &unk));
        }
        i += k;
    }
    if (unk != SIZE_MAX) st = push(e, n, (uint32_t)e->t->unk, unk);
out:
    return st;
}

/* NO_RANK when the pair has no merge. */
static uint32_t pair_rank(const struct ml_tokenizer *t, uint32_t a, uint32_t b, uint32_t *merged) {
    uint64_t v;
    if (a == NO_SYMBOL || b == NO_SYMBOL || !ml_pairs_get(&t->merges, ml_pair_key(a, b), &v)) return NO_RANK;
    *merged = (uint32_t)v;
    return (uint32_t)(v >> 32);
}

static size_t merge_short(const struct ml_tokenizer *t, struct ml_tok_symbol *sym, size_t n) {
    uint32_t rank[SHORT_WORD], merged[SHORT_WORD];
    for (size_t i = 0; i + 1 < n; i++)
        rank[i] = pair_rank(t, sym[i].id, sym[i + 1].id, &merged[i]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == NO_RANK) break;
        sym[best].id = merged[best];
        memmove(sym + best + 1, sym + best + 2, (n - best - 2) * sizeof *sym);
        if (best + 2 < n) {
            memmove(rank + best + 1, rank + best + 2, (n - best - 3) * sizeof *rank);
            memmove(merged + best + 1, merged + best + 2, (n - best - 3) * sizeof *merged);
        }
        n--;
        if (best) rank[best - 1] = pair_rank(t, sym[best - 1].id, sym[best].id, &merged[best - 1]);
        if (best + 1 < n) rank[best] = pair_rank(t, sym[best].id, sym[best + 1].id, &merged[best]);
    }
    return n;
}

static bool before(const struct ml_tok_heap_item *a, const struct ml_tok_heap_item *b) {
    return a->rank < b->rank || (a->rank == b->rank && a->pos < b->pos);
}

/* Four children a node: half the levels of a binary heap, one cache line a level. */
static void sift_down(struct ml_tok_heap_item *heap, size_t n, size_t i) {
    const struct ml_tok_heap_item item = heap[i];
    for (;;) {
        const size_t child = 4 * i + 1;
        if (child >= n) break;
        size_t least = child;
        for (size_t c = child + 1; c < child + 4 && c < n; c++)
            if (before(&heap[c], &heap[least])) least = c;
        if (!before(&heap[least], &item)) break;
        heap[i] = heap[least];
        i = least;
    }
    heap[i] = item;
}

static void sift_up(struct ml_tok_heap_item *heap, size_t i) {
    const struct ml_tok_heap_item item = heap[i];
    while (i && before(&item, &heap[(i - 1) / 4])) {
        heap[i] = heap[(i - 1) / 4];
        i = (i - 1) / 4;
    }
    heap[i] = item;
}

static uint32_t end_of(const struct ml_encoder *e, int32_t i, size_t len) {
    const int32_t next = e->sym[i].next;
    return next < 0 ? (uint32_t)len : e->sym[next].off;
}

/* Appends the merge of the pair that starts at symbol i, if there is one, without ordering the heap. */
static marlin_status offer(struct ml_encoder *e, int32_t i, size_t len, bool *added) {
    uint32_t merged = 0;
    const int32_t right = e->sym[i].next;
    *added = false;
    if (right < 0) return MARLIN_OK;
    const uint32_t rank = pair_rank(e->t, e->sym[i].id, e->sym[right].id, &merged);
    if (rank == NO_RANK) return MARLIN_OK;
    const marlin_status st = ml_grow(&e->heap, &e->heap_cap, e->heap_n + 1, sizeof *e->heap);
    if (st != MARLIN_OK) return st;
    const uint32_t size = end_of(e, right, len) - e->sym[i].off;
    e->heap[e->heap_n++] =
        (struct ml_tok_heap_item){.rank = rank, .pos = (uint32_t)i, .id = merged, .size = size};
    *added = true;
    return MARLIN_OK;
}

static marlin_status apply(struct ml_encoder *e, const struct ml_tok_heap_item *top, size_t len) {
    struct ml_tok_symbol *sym = e->sym;
    const int32_t at = (int32_t)top->pos, right = sym[at].next;
    const int32_t after = sym[right].next, left = sym[at].prev;
    bool added;
    sym[at].id = top->id;
    sym[at].next = after;
    sym[right].next = -2; /* merged away */
    if (after >= 0) sym[after].prev = at;
    marlin_status st = MARLIN_OK;
    if (left >= 0) {
        st = offer(e, left, len, &added);
        if (st == MARLIN_OK && added) sift_up(e->heap, e->heap_n - 1);
    }
    if (st == MARLIN_OK) st = offer(e, at, len, &added);
    if (st == MARLIN_OK && added) sift_up(e->heap, e->heap_n - 1);
    return st;
}

static marlin_status merge_long(struct ml_encoder *e, size_t *n, size_t len) {
    marlin_status st = MARLIN_OK;
    struct ml_tok_symbol *sym = e->sym;
    bool added;
    e->heap_n = 0;
    for (size_t i = 0; i < *n; i++) {
        sym[i].prev = (int32_t)i - 1;
        sym[i].next = i + 1 < *n ? (int32_t)i + 1 : -1;
    }
    for (size_t i = 0; i < *n; i++)
        ML_TRY(offer(e, (int32_t)i, len, &added));
    for (size_t i = e->heap_n / 4 + 1; i-- > 0;)
        if (i < e->heap_n) sift_down(e->heap, e->heap_n, i);
    while (e->heap_n) {
        const struct ml_tok_heap_item top = e->heap[0];
        e->heap[0] = e->heap[--e->heap_n];
        if (e->heap_n) sift_down(e->heap, e->heap_n, 0);
        /* Symbols only grow: the pair is the one that was offered exactly if it still spans
         * the same bytes. */
        const int32_t at = (int32_t)top.pos;
        if (sym[at].next < 0 || end_of(e, sym[at].next, len) - sym[at].off != top.size) continue;
        ML_TRY(apply(e, &top, len));
    }
    size_t kept = 0;
    for (int32_t i = 0; i >= 0 && *n; i = sym[i].next)
        sym[kept++] = sym[i]; /* kept never passes i */
    *n = kept;
out:
    return st;
}

static marlin_status give_out(struct ml_encoder *e, const char *s, size_t len, size_t n) {
    marlin_status st = MARLIN_OK;
    bool prev_unk = false;
    for (size_t i = 0; i < n; i++) {
        const struct ml_tok_symbol *y = &e->sym[i];
        if (y->id < e->t->size) {
            ML_TRY(ml_ids_add(e->ids, (int32_t)y->id));
            prev_unk = false;
        } else { /* a character that is no piece: only SentencePiece models come here */
            const size_t end = i + 1 < n ? e->sym[i + 1].off : len;
            ML_TRY(ml_sp_unknown(e, s + y->off, end - y->off, &prev_unk));
        }
    }
out:
    return st;
}

static marlin_status encode_word(struct ml_encoder *e, const char *s, size_t len) {
    const struct ml_tokenizer *t = e->t;
    uint64_t whole;
    size_t n = 0;
    if (t->ignore_merges && ml_map_get(&t->ids, s, len, &whole)) return ml_ids_add(e->ids, (int32_t)whole);
    marlin_status st = split_symbols(e, s, len, &n);
    if (st != MARLIN_OK) return st;
    if (n > SHORT_WORD)
        st = merge_long(e, &n, len);
    else
        n = merge_short(t, e->sym, n);
    return st == MARLIN_OK ? give_out(e, s, len, n) : st;
}

marlin_status ml_bpe_word(struct ml_encoder *e, const char *s, size_t len) {
    if (!e->cache || len > CACHE_WORD) return encode_word(e, s, len);
    struct ml_word_slot *slot = &e->cache[XXH3_64bits(s, len) % CACHE_SLOTS];
    marlin_status st = MARLIN_OK;
    if (slot->len == len && !memcmp(slot->word, s, len)) {
        for (size_t i = 0; i < slot->n && st == MARLIN_OK; i++)
            st = ml_ids_add(e->ids, slot->id[i]);
        return st;
    }
    const size_t was = e->ids->n;
    st = encode_word(e, s, len);
    const size_t n = e->ids->n - was;
    if (st != MARLIN_OK || n > CACHE_IDS) return st;
    slot->len = (uint8_t)len;
    slot->n = (uint8_t)n;
    memcpy(slot->word, s, len);
    if (n) memcpy(slot->id, e->ids->id + was, n * sizeof *slot->id);
    return st;
}
