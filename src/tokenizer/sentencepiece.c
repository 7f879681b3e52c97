/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.model: a reader for the few fields of SentencePiece's ModelProto that encoding needs, and its
 * BPE. Every length in the file is checked against the bytes that are there.
 */
#include "base/mem.h"
#include "tokenizer/tokenizer_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum sp_type { SP_NORMAL = 1, SP_UNKNOWN, SP_CONTROL, SP_USER, SP_UNUSED, SP_BYTE };

/* ---- protobuf wire format ---- */

struct reader {
    const uint8_t *p;
    size_t at, len, base; /* base: offset of p in the file, for messages */
    struct marlin_error *err;
};
struct field {
    uint32_t number, wire;
    uint64_t value;      /* varint, or the bits of a fixed field */
    struct reader bytes; /* wire type 2 */
};

static marlin_status broken(const struct reader *r, const char *what) {
    return ml_fail(r->err, MARLIN_ERR_FORMAT, "SentencePiece model: %s at offset %zu", what, r->base + r->at);
}

static marlin_status read_varint(struct reader *r, uint64_t *out) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (r->at >= r->len) return broken(r, "a number is cut off");
        const uint8_t b = r->p[r->at++];
        if (shift == 63 && b > 1) break;
        v |= (uint64_t)(b & 0x7F) << shift;
        if (b < 0x80) {
            *out = v;
            return MARLIN_OK;
        }
    }
    return broken(r, "a number has more than 64 bits");
}

static marlin_status read_fixed(struct reader *r, size_t n, uint64_t *out) {
    if (r->len - r->at < n) return broken(r, "a number is cut off");
    *out = 0;
    for (size_t i = 0; i < n; i++)
        *out |= (uint64_t)r->p[r->at + i] << (8 * i);
    r->at += n;
    return MARLIN_OK;
}

static marlin_status read_field(struct reader *r, struct field *f) {
    uint64_t tag, n;
    *f = (struct field){0};
    marlin_status st = read_varint(r, &tag);
    if (st != MARLIN_OK) return st;
    if (tag >> 3 == 0 || tag >> 32) return broken(r, "a field number is out of range");
    f->number = (uint32_t)(tag >> 3);
    f->wire = (uint32_t)(tag & 7);
    switch (f->wire) {
    case 0:
        return read_varint(r, &f->value);
    case 1:
        return read_fixed(r, 8, &f->value);
    case 5:
        return read_fixed(r, 4, &f->value);
    case 2:
        st = read_varint(r, &n);
        if (st != MARLIN_OK) return st;
        if (n > r->len - r->at) return broken(r, "a field is longer than what contains it");
        f->bytes = (struct reader){r->p + r->at, 0, (size_t)n, r->base + r->at, r->err};
        r->at += (size_t)n;
        return MARLIN_OK;
    default:
        return broken(r, "an unknown wire type");
    }
}

/* ---- messages ---- */

struct sp_model {
    uint64_t n_pieces;
    int model_type;
    bool byte_fallback, suffix;
    int64_t bos, eos;
    const char *unk_surface;
    size_t unk_surface_len;
    const uint8_t *charsmap;
    size_t charsmap_len;
    bool dummy_prefix, remove_extra, escape;
};

static marlin_status read_trainer(struct reader r, struct sp_model *m) {
    struct field f;
    while (r.at < r.len) {
        const marlin_status st = read_field(&r, &f);
        if (st != MARLIN_OK) return st;
        if (f.number == 3 && f.wire == 0) m->model_type = f.value <= 4 ? (int)f.value : 0;
        if (f.number == 24 && f.wire == 0) m->suffix = f.value != 0;
        if (f.number == 35 && f.wire == 0) m->byte_fallback = f.value != 0;
        if (f.number == 41 && f.wire == 0) m->bos = (int64_t)f.value;
        if (f.number == 42 && f.wire == 0) m->eos = (int64_t)f.value;
        if (f.number == 44 && f.wire == 2) {
            m->unk_surface = (const char *)f.bytes.p;
            m->unk_surface_len = f.bytes.len;
        }
    }
    return MARLIN_OK;
}

static marlin_status read_normalizer(struct reader r, struct sp_model *m) {
    struct field f;
    while (r.at < r.len) {
        const marlin_status st = read_field(&r, &f);
        if (st != MARLIN_OK) return st;
        if (f.number == 2 && f.wire == 2) {
            m->charsmap = f.bytes.p;
            m->charsmap_len = f.bytes.len;
        }
        if (f.number == 3 && f.wire == 0) m->dummy_prefix = f.value != 0;
        if (f.number == 4 && f.wire == 0) m->remove_extra = f.value != 0;
        if (f.number == 5 && f.wire == 0) m->escape = f.value != 0;
    }
    return MARLIN_OK;
}

struct sp_piece {
    const char *text;
    size_t len, offset;
    float score;
    uint64_t type;
};

static marlin_status read_piece(struct reader r, struct sp_piece *p) {
    struct field f;
    *p = (struct sp_piece){.text = "", .type = SP_NORMAL, .offset = r.base};
    while (r.at < r.len) {
        const marlin_status st = read_field(&r, &f);
        if (st != MARLIN_OK) return st;
        if (f.number == 1 && f.wire == 2) {
            p->text = (const char *)f.bytes.p;
            p->len = f.bytes.len;
        }
        if (f.number == 2 && f.wire == 5) {
            const uint32_t bits = (uint32_t)f.value;
            memcpy(&p->score, &bits, sizeof p->score);
        }
        if (f.number == 3 && f.wire == 0) p->type = f.value;
    }
    return MARLIN_OK;
}

static marlin_status check_piece(const struct sp_piece *p, uint64_t id, const struct sp_model *m,
                                 struct marlin_error *err) {
    const char *why = NULL;
    if (p->len == 0) why = "is empty";
    if (!why && !ml_utf8_valid(p->text, p->len)) why = "is not UTF-8 text";
    if (!why && !isfinite(p->score)) why = "has a score that is no number";
    if (!why && (p->type < SP_NORMAL || p->type > SP_BYTE)) why = "has an unknown type";
    if (!why && p->type == SP_BYTE && ml_byte_piece(p->text, p->len) < 0) why = "is no byte token <0xHH>";
    if (why)
        return ml_fail(err, MARLIN_ERR_FORMAT, "SentencePiece model: piece %llu at offset %zu %s",
                       (unsigned long long)id, p->offset, why);
    if (p->len > ML_TOK_MAX_SP)
        return ml_fail(err, MARLIN_ERR_LIMIT,
                       "SentencePiece model: piece %llu has %zu bytes, the ceiling is %u",
                       (unsigned long long)id, p->len, ML_TOK_MAX_SP);
    if (p->type == SP_UNUSED && m->model_type == 2)
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "SentencePiece model: piece type UNUSED in a BPE model (piece %llu)",
                       (unsigned long long)id);
    return MARLIN_OK;
}

static marlin_status put_piece(struct ml_tokenizer *t, const struct sp_piece *p, uint64_t id,
                               struct marlin_error *err) {
    static const uint8_t flags[] = {[SP_NORMAL] = ML_PIECE_NORMAL,
                                    [SP_UNKNOWN] = ML_PIECE_UNKNOWN,
                                    [SP_CONTROL] = ML_PIECE_SPECIAL,
                                    [SP_USER] = ML_PIECE_USER,
                                    [SP_UNUSED] = 0,
                                    [SP_BYTE] = ML_PIECE_BYTE};
    char text[ML_TOK_MAX_SP + 1];
    memcpy(text, p->text, p->len);
    text[p->len] = '\0';
    marlin_status st = ml_vocab_put(t, (int64_t)id, text, p->len, flags[p->type], err);
    if (st != MARLIN_OK) return st;
    struct ml_tok_piece *piece = &t->piece[id];
    piece->score = p->score;
    if (p->type == SP_BYTE) piece->byte = (uint8_t)ml_byte_piece(p->text, p->len);
    if (p->type == SP_NORMAL && p->score < t->min_score) t->min_score = p->score;
    if (p->type == SP_NORMAL && p->score > t->max_score) t->max_score = p->score;
    if (p->type == SP_UNKNOWN) {
        if (t->unk >= 0)
            return ml_fail(err, MARLIN_ERR_FORMAT, "SentencePiece model: pieces %d and %llu are both unknown",
                           (int)t->unk, (unsigned long long)id);
        t->unk = (int32_t)id;
    }
    if (p->type == SP_USER) st = ml_matcher_add(&t->user, piece->text, piece->len, (int32_t)id);
    if (p->type == SP_CONTROL) {
        struct ml_tok_added *a = &t->added[t->n_added++];
        *a = (struct ml_tok_added){.id = (int32_t)id, .special = true};
        st = ml_matcher_add(&t->raw, piece->text, piece->len, (int32_t)t->n_added - 1);
    }
    return st == MARLIN_OK ? st : ml_fail(err, st, "SentencePiece model: out of memory");
}

/* First pass: everything but the pieces, which are counted. */
static marlin_status scan(struct reader r, struct sp_model *m) {
    struct field f;
    while (r.at < r.len) {
        marlin_status st = read_field(&r, &f);
        if (st == MARLIN_OK && f.wire == 2 && f.number == 2) st = read_trainer(f.bytes, m);
        if (st == MARLIN_OK && f.wire == 2 && f.number == 3) st = read_normalizer(f.bytes, m);
        if (st != MARLIN_OK) return st;
        if (f.wire == 2 && f.number == 1) m->n_pieces++;
    }
    if (m->n_pieces == 0) return ml_fail(r.err, MARLIN_ERR_FORMAT, "SentencePiece model: it has no pieces");
    if (m->model_type != 1 && m->model_type != 2)
        return ml_fail(r.err, MARLIN_ERR_UNSUPPORTED,
                       "SentencePiece model type %d is not supported: only unigram (1) "
                       "and BPE (2) are",
                       m->model_type);
    return MARLIN_OK;
}

/* Tokens of other files are split off before the model sees the text, whatever their flags say. */
static marlin_status add_outside(struct ml_tokenizer *t, const struct ml_tok_outside *o,
                                 struct marlin_error *err) {
    marlin_status st = MARLIN_OK;
    for (size_t i = 0; o && i < o->n; i++) {
        bool fresh;
        ML_TRY(ml_tok_outside_place(t, &o->token[i], &fresh, err));
        const struct ml_tok_piece *p = fresh ? &t->piece[t->added[t->n_added - 1].id] : NULL;
        if (p && ml_matcher_add(&t->raw, p->text, p->len, (int32_t)t->n_added - 1) != MARLIN_OK)
            ML_TRY(ml_fail(err, MARLIN_ERR_MEMORY, "added tokens: out of memory"));
    }
    ml_tok_outside_trim(t);
out:
    return st;
}

static marlin_status load_pieces(struct ml_tokenizer *t, struct reader r, const struct sp_model *m,
                                 const struct ml_tok_outside *outside) {
    struct field f;
    struct sp_piece p;
    uint64_t id = 0, max_id = m->n_pieces - 1;
    marlin_status st;
    ML_TRY(ml_vocab_check_id((int64_t)max_id, "the last piece", r.err));
    ML_TRY(ml_tok_outside_room(outside, &max_id, r.err));
    ML_TRY(ml_vocab_size(t, max_id, r.err));
    t->added = ml_calloc(t->size + (outside ? outside->n : 0), sizeof *t->added);
    if (!t->added || ml_map_reserve(&t->ids, t->size) != MARLIN_OK)
        ML_TRY(ml_fail(r.err, MARLIN_ERR_MEMORY, "SentencePiece model: out of memory"));
    while (r.at < r.len) {
        ML_TRY(read_field(&r, &f));
        if (f.wire != 2 || f.number != 1) continue;
        ML_TRY(read_piece(f.bytes, &p));
        ML_TRY(check_piece(&p, id, m, r.err));
        ML_TRY(put_piece(t, &p, id, r.err));
        id++;
    }
    if (t->unk < 0)
        ML_TRY(ml_fail(r.err, MARLIN_ERR_FORMAT, "SentencePiece model: no piece has the type unknown"));
    st = add_outside(t, outside, r.err);
out:
    return st;
}

/* ---- BPE: scores to ranked merges ---- */

static marlin_status hidden_char(struct ml_tokenizer *t, const char *s, size_t n) {
    bool inserted;
    const marlin_status st = ml_map_put(&t->hidden, s, n, t->merge_ids, &inserted);
    if (st == MARLIN_OK && inserted) t->merge_ids++;
    return st;
}

/* The id of a part of a piece: a normal piece, or a single character that is none. */
static bool part_id(const struct ml_tokenizer *t, const char *s, size_t n, uint64_t *id) {
    if (ml_map_get(&t->ids, s, n, id) && (t->piece[*id].flags & ML_PIECE_NORMAL)) return true;
    return ml_map_get(&t->hidden, s, n, id);
}

static marlin_status piece_merges(struct ml_tokenizer *t, uint32_t id, uint32_t rank) {
    const struct ml_tok_piece *p = &t->piece[id];
    uint32_t cp;
    for (size_t i = ml_utf8_get(p->text, &cp); i < p->len; i += ml_utf8_get(p->text + i, &cp)) {
        uint64_t left, right;
        if (!part_id(t, p->text, i, &left) || !part_id(t, p->text + i, p->len - i, &right)) continue;
        const marlin_status st =
            ml_pairs_put(&t->merges, ml_pair_key((uint32_t)left, (uint32_t)right), (uint64_t)rank << 32 | id);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

struct scored {
    float score;
    uint32_t id;
};

static int by_score(const void *a, const void *b) {
    const struct scored *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Any two neighbours whose joint spelling is a piece may merge, the piece's score deciding; equal scores
 * share a rank, so that the leftmost goes first. */
static marlin_status build_merges(struct ml_tokenizer *t, struct marlin_error *err) {
    marlin_status st = MARLIN_OK;
    size_t n = 0;
    uint32_t rank = 0, cp;
    struct scored *order = ml_calloc(t->size, sizeof *order);
    if (!order) ML_TRY(MARLIN_ERR_MEMORY);
    t->merge_ids = t->size;
    for (size_t id = 0; id < t->size; id++) {
        const struct ml_tok_piece *p = &t->piece[id];
        uint64_t known;
        if (!(p->flags & ML_PIECE_NORMAL)) continue;
        order[n++] = (struct scored){p->score, (uint32_t)id};
        for (size_t i = 0; i < p->len;) {
            const size_t k = ml_utf8_get(p->text + i, &cp);
            if (!part_id(t, p->text + i, k, &known)) ML_TRY(hidden_char(t, p->text + i, k));
            i += k;
        }
    }
    qsort(order, n, sizeof *order, by_score);
    for (size_t i = 0; i < n; i++) {
        if (i && order[i].score != order[i - 1].score) rank++;
        ML_TRY(piece_merges(t, order[i].id, rank));
    }
out:
    ml_free(order);
    return st == MARLIN_OK ? st : ml_fail(err, st, "SentencePiece model: out of memory");
}

/* ---- loading ---- */

/* The blob: size of the trie in bytes, the trie's 32-bit units, NUL-terminated replacements. */
static marlin_status load_charsmap(struct ml_tokenizer *t, const struct sp_model *m,
                                   struct marlin_error *err) {
    if (m->charsmap_len == 0) return MARLIN_OK;
    uint32_t bytes = 0;
    if (m->charsmap_len >= 4)
        bytes = (uint32_t)m->charsmap[0] | (uint32_t)m->charsmap[1] << 8 | (uint32_t)m->charsmap[2] << 16 |
                (uint32_t)m->charsmap[3] << 24;
    if (bytes == 0 || bytes % 4 || bytes > m->charsmap_len - 4)
        return ml_fail(err, MARLIN_ERR_FORMAT, "SentencePiece model: the normalizer's map is cut off");
    const size_t n = bytes / 4, rest = m->charsmap_len - 4 - bytes;
    uint32_t *trie = ml_arena_array(&t->arena, n, sizeof *trie);
    char *strings = ml_arena_alloc(&t->arena, rest + 1);
    if (!trie || !strings) return ml_fail(err, MARLIN_ERR_MEMORY, "SentencePiece model: out of memory");
    for (size_t i = 0; i < n; i++) {
        const uint8_t *u = m->charsmap + 4 + 4 * i;
        trie[i] = (uint32_t)u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
    }
    memcpy(strings, m->charsmap + 4 + bytes, rest);
    if (!ml_utf8_valid(strings, rest))
        return ml_fail(err, MARLIN_ERR_FORMAT, "SentencePiece model: the normalizer's map is not UTF-8");
    t->sp_norm.trie = trie;
    t->sp_norm.trie_len = n;
    t->sp_norm.strings = strings;
    t->sp_norm.strings_len = rest + 1;
    return MARLIN_OK;
}

static marlin_status load_model(struct ml_tokenizer *t, struct reader r,
                                const struct ml_tok_outside *outside) {
    static const char unknown[] = " \xE2\x81\x87 ";
    struct sp_model m = {.model_type = 1,
                         .bos = 1,
                         .eos = 2,
                         .dummy_prefix = true,
                         .remove_extra = true,
                         .escape = true,
                         .unk_surface = unknown,
                         .unk_surface_len = sizeof unknown - 1};
    marlin_status st;
    ML_TRY(scan(r, &m));
    t->model = m.model_type == 2 ? ML_MODEL_SP_BPE : ML_MODEL_UNIGRAM;
    t->byte_fallback = m.byte_fallback;
    t->sp_norm.dummy_prefix = m.dummy_prefix;
    t->sp_norm.remove_extra = m.remove_extra;
    t->sp_norm.escape = m.escape;
    t->sp_norm.as_suffix = m.suffix;
    t->unk_surface = ml_arena_strndup(&t->arena, m.unk_surface, m.unk_surface_len);
    if (!t->unk_surface) ML_TRY(ml_fail(r.err, MARLIN_ERR_MEMORY, "SentencePiece model: out of memory"));
    ML_TRY(load_charsmap(t, &m, r.err));
    ML_TRY(load_pieces(t, r, &m, outside));
    if (ml_matcher_finish(&t->raw) != MARLIN_OK || ml_matcher_finish(&t->user) != MARLIN_OK)
        ML_TRY(ml_fail(r.err, MARLIN_ERR_MEMORY, "SentencePiece model: out of memory"));
    ML_TRY(ml_vocab_index(t, r.err));
    ML_TRY(t->model == ML_MODEL_SP_BPE ? build_merges(t, r.err) : ml_unigram_build(t, r.err));
    if (m.bos >= 0 && (uint64_t)m.bos < t->size && ml_tokenizer_is_special(t, (int32_t)m.bos))
        ML_TRY(ml_affix_add(&t->prefix, &t->n_prefix, (int32_t)m.bos, r.err));
    st = ml_dec_prepare(t, r.err);
out:
    return st;
}

marlin_status ml_tokenizer_from_sentencepiece(const void *data, size_t len, uint64_t vocab_rows,
                                              struct ml_tokenizer **out, struct marlin_error *err) {
    return ml_tok_from_sentencepiece(data, len, vocab_rows, NULL, out, err);
}

marlin_status ml_tok_from_sentencepiece(const void *data, size_t len, uint64_t vocab_rows,
                                        const struct ml_tok_outside *outside, struct ml_tokenizer **out,
                                        struct marlin_error *err) {
    if (len > ML_TOK_MAX_FILE)
        return ml_fail(err, MARLIN_ERR_LIMIT, "SentencePiece model of %zu bytes: the ceiling is %u", len,
                       ML_TOK_MAX_FILE);
    struct ml_tokenizer *t = ml_calloc(1, sizeof *t);
    if (!t) return ml_fail(err, MARLIN_ERR_MEMORY, "tokenizer: out of memory");
    ml_arena_init(&t->arena, 0);
    ml_map_init(&t->ids);
    ml_map_init(&t->added_ids);
    ml_map_init(&t->hidden);
    t->unk = -1;
    t->min_score = 3.402823466e+38f;
    t->max_score = 1.175494351e-38f; /* as the reference starts it: it never falls below zero */
    const marlin_status st = load_model(t, (struct reader){data, 0, len, 0, err}, outside);
    if (st == MARLIN_OK) ml_vocab_warn_rows(t, vocab_rows);
    if (st == MARLIN_OK)
        *out = t;
    else
        ml_tokenizer_free(t);
    return st;
}

/* ---- encoding ---- */

marlin_status ml_sp_encode(struct ml_encoder *e, const char *s, size_t len) {
    struct ml_buf *text = &e->norm[0];
    marlin_status st;
    ml_buf_clear(text);
    ML_TRY(ml_matcher_find(&e->t->user, s, len, &e->user));
    ML_TRY(ml_sp_normalize(e->t, s, len, &e->user, text, e->err));
    if (text->len == 0) return MARLIN_OK;
    if (e->t->model == ML_MODEL_UNIGRAM) return ml_unigram_encode(e, text->data, text->len);
    ML_TRY(ml_matcher_find(&e->t->user, text->data, text->len, &e->user));
    st = ml_bpe_word(e, text->data, text->len);
out:
    return st;
}
