/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of this folder share. The path of a text through an encode:
 *
 *   bytes -> valid UTF-8 -> split at added tokens -> normalizer steps -> split at normalized added tokens
 *         -> pre-tokenizer stages (each hands every piece straight to the next) -> model -> ids
 *
 * A tokenizer is immutable after loading; everything an encode writes lives in its own struct ml_encoder.
 */
#ifndef ML_TOKENIZER_INT_H
#define ML_TOKENIZER_INT_H

#include "base/arena.h"
#include "base/json.h"
#include "base/map.h"
#include "tokenizer/tokenizer.h"

/* The documented ceilings of this folder. */
#define ML_TOK_MAX_FILE    (256u << 20) /* tokenizer.json and tokenizer.model, bytes */
#define ML_TOK_MAX_VALUES  (4u << 20)   /* JSON values of tokenizer.json: twice the largest in use */
#define ML_TOK_MAX_CONFIG  (16u << 20)  /* tokenizer_config.json, bytes */
#define ML_TOK_MAX_ID      (1u << 22)   /* ids, so that one huge id cannot ask for a huge table */
#define ML_TOK_MAX_PIECE   (1u << 16)   /* bytes of one piece of a vocabulary */
#define ML_TOK_MAX_ADDED   4096u        /* bytes of one added token */
#define ML_TOK_MAX_MATCHER (16u << 20)  /* bytes of all added tokens together */
#define ML_TOK_MAX_SP      512u         /* bytes of one SentencePiece piece */
#define ML_TOK_MAX_PATTERN 8192u        /* bytes of one regular expression */
#define ML_TOK_MAX_STEPS   16u          /* normalizer, pre-tokenizer or decoder steps */
#define ML_TOK_MAX_TEXT    (1u << 30)   /* bytes of a text, before and after normalization */
#define ML_TOK_MAX_OUT     (256u << 20) /* bytes of what all tokens decode to, together */
#define ML_TOK_MAX_KEY     256u         /* bytes of one entry of a SentencePiece normalizer's map */

/* ---- utf8.c ---- */

/* Length of the sequence at s (n > 0 bytes) and its code point; for bytes that are not UTF-8 the length of
 * the maximal ill-formed part (1-3) and *ok = false. */
size_t ml_utf8_next(const char *s, size_t n, uint32_t *cp, bool *ok);
/* The same for text known to be valid. */
size_t ml_utf8_get(const char *s, uint32_t *cp);
size_t ml_utf8_put(char *dst, uint32_t cp); /* writes 1-4 bytes */
/* True when the n bytes at s are a proper prefix of some well-formed sequence. */
bool ml_utf8_incomplete(const char *s, size_t n);
bool ml_utf8_valid(const char *s, size_t n);
/* Appends s with each ill-formed part replaced by U+FFFD. */
marlin_status ml_utf8_repair(const char *s, size_t n, struct ml_buf *out) MARLIN_MUST_CHECK;

enum ml_char_class { ML_CHAR_SPACE, ML_CHAR_NUMERIC, ML_CHAR_PUNCTUATION, ML_CHAR_WORD, ML_CHAR_MARK };
bool ml_char_is(uint32_t cp, enum ml_char_class c);

/* GPT-2's reversible alphabet: every byte as a printable code point below 0x144. */
uint32_t ml_byte_to_char(uint8_t byte);
int ml_char_to_byte(uint32_t cp); /* -1 when cp stands for no byte */

/* ---- pairs.c: hash table from uint64_t to uint64_t ---- */

struct ml_pair_slot {
    uint64_t key, value;
};
struct ml_pairs {
    struct ml_pair_slot *slot;
    size_t count, cap; /* cap is 0 or a power of two */
    uint64_t seed;     /* a file cannot know it, hence cannot force collisions */
};
#define ML_PAIR_NONE UINT64_MAX /* the one key that cannot be stored */

static inline uint64_t ml_pair_key(uint32_t a, uint32_t b) {
    return (uint64_t)a << 32 | b;
}

static inline size_t ml_pair_hash(const struct ml_pairs *p, uint64_t key) {
    uint64_t h = (key ^ p->seed) * 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93u;
    return (size_t)(h ^ h >> 32);
}

void ml_pairs_free(struct ml_pairs *p);
marlin_status ml_pairs_reserve(struct ml_pairs *p, size_t n) MARLIN_MUST_CHECK;
/* Replaces the value of an existing key. */
marlin_status ml_pairs_put(struct ml_pairs *p, uint64_t key, uint64_t value) MARLIN_MUST_CHECK;

static inline bool ml_pairs_get(const struct ml_pairs *p, uint64_t key, uint64_t *value) {
    if (p->cap == 0) return false;
    for (size_t i = ml_pair_hash(p, key) & (p->cap - 1);; i = (i + 1) & (p->cap - 1)) {
        if (p->slot[i].key == key) {
            *value = p->slot[i].value;
            return true;
        }
        if (p->slot[i].key == ML_PAIR_NONE) return false;
    }
}

/* ---- matcher.c: leftmost-longest search for a set of strings in linear time ---- */

struct ml_matcher_node;
struct ml_matcher {
    struct ml_matcher_node *node;
    size_t n, cap;
    struct ml_pairs edge;
    uint32_t root[256];
};
struct ml_tok_match {
    uint32_t start, len;
    int32_t pattern;
};
struct ml_tok_matches {
    struct ml_tok_match *item; /* by falling start: at most one, the longest, a start */
    size_t n, cap;
};
void ml_matcher_free(struct ml_matcher *m);
/* Adds a non-empty string; pattern >= 0 is given back by a match. */
marlin_status ml_matcher_add(struct ml_matcher *m, const char *s, size_t len,
                             int32_t pattern) MARLIN_MUST_CHECK;
/* Once, after the last add. */
marlin_status ml_matcher_finish(struct ml_matcher *m) MARLIN_MUST_CHECK;
/* Appends the longest match of every position. */
marlin_status ml_matcher_find(const struct ml_matcher *m, const char *s, size_t len,
                              struct ml_tok_matches *out) MARLIN_MUST_CHECK;

/* ---- regex.c: patterns in Oniguruma's dialect on PCRE2 ---- */

/* Alphabetic, Mark, decimal numbers and connectors, for use in a class: what Oniguruma's [\w] matches.
 * PCRE2's own \w has no marks. */
#define ML_WORD_CLASS                                                                                        \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}"                                                   \
    "\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"

struct ml_regex;
struct ml_regex_run; /* what one thread needs for matching */
marlin_status ml_regex_compile(const char *pattern, size_t len, struct ml_regex **out,
                               struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_regex_free(struct ml_regex *r);
/* text_len sets the budget of work: what a linear-time pattern needs on a text of that length, many times. */
marlin_status ml_regex_run_create(size_t text_len, struct ml_regex_run **out) MARLIN_MUST_CHECK;
void ml_regex_run_free(struct ml_regex_run *run);
/* First match at or after `from`; *found false when there is none. text must be valid UTF-8.
 * MARLIN_ERR_LIMIT when the pattern backtracks too much. */
marlin_status ml_regex_find(const struct ml_regex *r, struct ml_regex_run *run, const char *text, size_t len,
                            size_t from, size_t *start, size_t *end, bool *found,
                            struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- normalize.c ---- */

enum ml_tok_norm_kind {
    ML_NORM_NFC,
    ML_NORM_NFD,
    ML_NORM_NFKC,
    ML_NORM_NFKD,
    ML_NORM_LOWERCASE,
    ML_NORM_PREPEND,
    ML_NORM_REPLACE,
    ML_NORM_STRIP,
    ML_NORM_STRIP_ACCENTS,
    ML_NORM_BYTES
};
struct ml_tok_norm {
    enum ml_tok_norm_kind kind;
    const char *text; /* prepended or replacing bytes */
    size_t text_len;
    const char *pattern; /* replaced literal, or NULL with regex set */
    size_t pattern_len;
    struct ml_regex *regex;
    bool left, right;
};

/* ---- pretokenize.c ---- */

enum ml_tok_pre_kind { ML_PRE_PREFIX, ML_PRE_SPLIT, ML_PRE_METASPACE, ML_PRE_BYTES };
enum ml_tok_split_with { ML_SPLIT_REGEX, ML_SPLIT_LITERAL, ML_SPLIT_CLASS };
enum ml_tok_behaviour {
    ML_ISOLATED,
    ML_REMOVED,
    ML_MERGED_WITH_PREVIOUS,
    ML_MERGED_WITH_NEXT,
    ML_CONTIGUOUS
};
enum ml_tok_prepend { ML_PREPEND_NEVER, ML_PREPEND_FIRST, ML_PREPEND_ALWAYS };
struct ml_tok_pre {
    enum ml_tok_pre_kind kind;
    enum ml_tok_split_with with;
    enum ml_tok_behaviour behaviour;
    enum ml_char_class char_class;
    enum ml_tok_prepend prepend;
    bool invert;
    struct ml_regex *regex;
    const char *literal; /* split pattern, prefix, or the Metaspace character */
    size_t literal_len;
};

/* ---- decode.c ---- */

enum ml_tok_dec_kind {
    ML_DEC_BYTE_LEVEL,
    ML_DEC_BYTE_FALLBACK,
    ML_DEC_REPLACE,
    ML_DEC_STRIP,
    ML_DEC_METASPACE
};
struct ml_tok_dec {
    enum ml_tok_dec_kind kind;
    const char *pattern, *text;
    size_t pattern_len, text_len;
    size_t start, stop; /* strip */
    bool drop_first;    /* metaspace: the first token loses its spaces */
};

/* ---- the tokenizer ---- */

enum ml_tok_piece_flags {
    ML_PIECE_USED = 1,
    ML_PIECE_SPECIAL = 2,
    ML_PIECE_BYTE = 4,
    ML_PIECE_NORMAL = 8, /* SentencePiece: may be made by merging */
    ML_PIECE_USER = 16,
    ML_PIECE_UNKNOWN = 32,
    ML_PIECE_ADDED = 64
};
struct ml_tok_piece {
    const char *text; /* NUL-terminated */
    const char *out;  /* what it decodes to, not as the first token */
    uint32_t len, out_len;
    float score;
    uint8_t flags, byte;
};

/* What one token adds to a text. */
struct ml_dec_text {
    bool space; /* one space, then */
    const char *text;
    size_t len;
};

struct ml_tok_added {
    int32_t id; /* -1 of a token outside the tokenizer's file: not numbered there */
    bool special, lstrip, rstrip, single_word, normalized;
};

enum ml_tok_model { ML_MODEL_BPE, ML_MODEL_SP_BPE, ML_MODEL_UNIGRAM };

/* The normalizer of a SentencePiece model. */
struct ml_tok_sp_norm {
    const uint32_t *trie; /* Darts double array, NULL for identity */
    size_t trie_len;
    const char *strings; /* NUL-separated replacements, the last NUL included in strings_len */
    size_t strings_len;
    bool dummy_prefix, remove_extra, escape, as_suffix;
};

struct ml_tokenizer {
    struct ml_arena arena;

    struct ml_tok_piece *piece; /* [size], holes have no flags */
    size_t size;
    struct ml_map ids;       /* model vocabulary: piece -> id */
    struct ml_map added_ids; /* added tokens: content -> id */
    int32_t *char_id;        /* [ML_CHAR_TABLE] ids of single characters, -1 = none */
    const char *unk_missing; /* with unk -1: why text that needs it is refused; NULL: it vanishes */

    struct ml_pairs merges; /* (left, right) -> rank << 32 | merged id */
    size_t merge_ids;       /* ids in merges are below this; SentencePiece has hidden ones above size */
    struct ml_map hidden;   /* SentencePiece: characters inside pieces that are no pieces themselves */

    struct ml_pairs trie; /* unigram: node << 8 | byte -> node << 32 | id + 1 */
    const double *scores; /* [size] of a unigram model in tokenizer.json, else NULL */
    double min_of_scores;
    struct ml_tok_sp_norm sp_norm;
    const char *unk_surface;

    struct ml_tok_added *added;
    size_t n_added;
    struct ml_matcher raw, normalized; /* over added tokens; pattern = index into added */
    struct ml_matcher user;            /* SentencePiece user-defined symbols; pattern = id */

    struct ml_tok_norm norm[ML_TOK_MAX_STEPS];
    size_t n_norm;
    struct ml_tok_pre pre[ML_TOK_MAX_STEPS];
    size_t n_pre;

    struct ml_tok_dec dec[ML_TOK_MAX_STEPS];
    size_t n_dec;
    size_t strip_start;        /* of the whole text, after Fuse */
    struct ml_dec_text *first; /* [size]: as the first token; NULL unless first_differs */
    size_t longest;            /* most bytes that one token adds to a text */

    int32_t *prefix, *suffix; /* ids that ML_ENCODE_BOS adds */
    size_t n_prefix, n_suffix;

    /* What is smaller than a pointer, together. */
    enum ml_tok_model model;
    int32_t byte_id[256]; /* <0xHH>, -1 = missing */
    int32_t unk;          /* -1 = none */
    float min_score, max_score;
    bool byte_fallback, fuse_unk, ignore_merges;
    bool has_regex;
    bool join_with_space; /* no decoder at all */
    bool first_differs;   /* the first token decodes differently (Metaspace) */
    char strip_char;
};

enum { ML_CHAR_TABLE = 0x800 };

/* vocab.c: filling the table of pieces, with every check on ids. */
marlin_status ml_vocab_size(struct ml_tokenizer *t, uint64_t max_id,
                            struct marlin_error *err) MARLIN_MUST_CHECK;
marlin_status ml_vocab_check_id(int64_t id, const char *piece, struct marlin_error *err) MARLIN_MUST_CHECK;
/* Warns when tokens that text is made of have no row in the embedding table; vocab_rows 0: not known. */
void ml_vocab_warn_rows(const struct ml_tokenizer *t, uint64_t vocab_rows);
marlin_status ml_vocab_put(struct ml_tokenizer *t, int64_t id, const char *text, size_t len, uint8_t flags,
                           struct marlin_error *err) MARLIN_MUST_CHECK;
/* Single-character table and byte tokens, once all pieces are there. */
marlin_status ml_vocab_index(struct ml_tokenizer *t, struct marlin_error *err) MARLIN_MUST_CHECK;
/* The value of an exact "<0xHH>", else -1. */
int ml_byte_piece(const char *s, size_t len);
/* Appends id to one of the lists prefix / suffix. */
marlin_status ml_affix_add(int32_t **list, size_t *n, int32_t id, struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- added_tokens.c: tokens outside the tokenizer's own file ---- */

struct ml_tok_outside_token {
    const char *content, *file;
    size_t len;
    struct ml_tok_added added;
};
struct ml_tok_outside {
    struct ml_json_doc *doc[3]; /* contents lie there */
    size_t n_docs;
    const struct ml_json *config; /* root of tokenizer_config.json, or NULL */
    struct ml_tok_outside_token *token;
    size_t n, cap;
    struct ml_map seen; /* contents */
};
/* Reads tokenizer_config.json, added_tokens.json and special_tokens_map.json, as far as they are there. */
marlin_status ml_tok_outside_read(const char *dir, struct ml_tok_outside *out,
                                  struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_tok_outside_free(struct ml_tok_outside *o);
/* Raises *max_id to what they may need. o may be NULL. */
marlin_status ml_tok_outside_room(const struct ml_tok_outside *o, uint64_t *max_id,
                                  struct marlin_error *err) MARLIN_MUST_CHECK;
/* Enters one into the vocabulary and t->added (which has room), unless it is there; *fresh: it must be looked for. */
marlin_status ml_tok_outside_place(struct ml_tokenizer *t, const struct ml_tok_outside_token *x, bool *fresh,
                                   struct marlin_error *err) MARLIN_MUST_CHECK;
/* Gives back the room that was not needed. */
void ml_tok_outside_trim(struct ml_tokenizer *t);

/* ml_tokenizer_from_* with tokens of other files; outside may be NULL. */
marlin_status ml_tok_from_json(const char *json, size_t len, uint64_t vocab_rows,
                               const struct ml_tok_outside *outside, struct ml_tokenizer **out,
                               struct marlin_error *err) MARLIN_MUST_CHECK;
marlin_status ml_tok_from_sentencepiece(const void *data, size_t len, uint64_t vocab_rows,
                                        const struct ml_tok_outside *outside, struct ml_tokenizer **out,
                                        struct marlin_error *err) MARLIN_MUST_CHECK;

/* Parsers of the parts of tokenizer.json; v may be NULL or null. */
marlin_status ml_norm_load(struct ml_tokenizer *t, const struct ml_json *v,
                           struct marlin_error *err) MARLIN_MUST_CHECK;
marlin_status ml_pre_load(struct ml_tokenizer *t, const struct ml_json *v,
                          struct marlin_error *err) MARLIN_MUST_CHECK;
marlin_status ml_dec_load(struct ml_tokenizer *t, const struct ml_json *v,
                          struct marlin_error *err) MARLIN_MUST_CHECK;
/* Fills piece[].out, first and longest, after decoder and vocabulary are there. */
marlin_status ml_dec_prepare(struct ml_tokenizer *t, struct marlin_error *err) MARLIN_MUST_CHECK;

/* Finds one token's text; *started and *stripped carry over from token to token, zero before the first.
 * Never allocates. */
marlin_status ml_dec_token(const struct ml_tokenizer *t, int32_t id, bool skip_special, bool *started,
                           size_t *stripped, struct ml_dec_text *out,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* A string member copied into the arena, or *s = NULL when absent or null; other types are refused. */
marlin_status ml_tok_string(struct ml_tokenizer *t, const struct ml_json *v, const char *key,
                            const char *what, const char **s, size_t *len,
                            struct marlin_error *err) MARLIN_MUST_CHECK;
/* A boolean member; *out keeps its value when absent or null. */
marlin_status ml_tok_bool(const struct ml_json *v, const char *key, const char *what, bool *out,
                          struct marlin_error *err) MARLIN_MUST_CHECK;
/* {"String": s} (*literal) or {"Regex": s} (*regex); both owned by the tokenizer's parts. */
marlin_status ml_tok_pattern(struct ml_tokenizer *t, const struct ml_json *v, const char *what,
                             const char **literal, size_t *literal_len, struct ml_regex **regex,
                             struct marlin_error *err) MARLIN_MUST_CHECK;
/* Calls fn for a component, or for each of a Sequence's, nested ones included. */
typedef marlin_status ml_component_fn(struct ml_tokenizer *t, const char *type, const struct ml_json *v,
                                      struct marlin_error *err);
marlin_status ml_tok_components(struct ml_tokenizer *t, const struct ml_json *v, const char *what,
                                const char *list, ml_component_fn *fn,
                                struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- one encode ---- */

struct ml_tok_symbol {
    uint32_t id, off; /* off: of its first byte in the word */
    int32_t prev, next;
};
struct ml_tok_heap_item {
    uint32_t rank, pos, id, size;
};
struct ml_tok_path_node { /* unigram; sums of floats or of doubles, as the file's reference has them */
    double score;
    int32_t id;
    uint32_t start; /* UINT32_MAX = not reached */
};
struct ml_word_slot; /* a word seen before, with its ids */

struct ml_encoder {
    const struct ml_tokenizer *t;
    struct ml_ids *ids;
    struct marlin_error *err;
    struct ml_regex_run *run;
    struct ml_buf norm[2];                   /* normalizer steps write from one to the other */
    struct ml_buf scratch[ML_TOK_MAX_STEPS]; /* one a pre-tokenizer stage */
    uint32_t *cp;                            /* code points of a stretch under normalization */
    size_t cp_cap;
    struct ml_tok_matches raw, normalized, user;
    struct ml_tok_symbol *sym;
    size_t sym_cap;
    struct ml_tok_heap_item *heap;
    size_t heap_n, heap_cap;
    struct ml_tok_path_node *path;
    size_t path_cap;
    struct ml_word_slot *cache; /* NULL for short texts: only speed depends on it */
    uint64_t work;              /* bytes that normalizer and pre-tokenizer steps may still handle */
};

/* Work in proportion to the text: steps that lengthen or multiply what earlier steps made end in
 * MARLIN_ERR_LIMIT. Files in use need below 20 bytes of work a byte of text. */
static inline uint64_t ml_work_for(size_t len) {
    return (uint64_t)len * 128 + (4u << 20);
}
marlin_status ml_work(struct ml_encoder *e, size_t len) MARLIN_MUST_CHECK;

/* The character needs an unknown token, and there is none: the error says so. */
marlin_status ml_encode_no_unknown(struct ml_encoder *e, const char *s, size_t len) MARLIN_MUST_CHECK;

/* Makes *p hold `need` items of `size` bytes, at least doubling. */
marlin_status ml_grow(void *p, size_t *cap, size_t need, size_t size) MARLIN_MUST_CHECK;
marlin_status ml_ids_add(struct ml_ids *ids, int32_t id) MARLIN_MUST_CHECK;

/* Runs the normalizer steps; *out is s itself when there are none, else bytes owned by the encoder. */
marlin_status ml_norm_run(struct ml_encoder *e, const char *s, size_t len, const char **out,
                          size_t *out_len) MARLIN_MUST_CHECK;
/* Feeds a piece of valid UTF-8 through stage, stage + 1, ..., the model. first: it starts the whole text. */
marlin_status ml_pre_run(struct ml_encoder *e, size_t stage, const char *s, size_t len,
                         bool first) MARLIN_MUST_CHECK;
/* Appends every byte as the character of GPT-2's alphabet that stands for it. */
marlin_status ml_map_bytes(const char *s, size_t len, struct ml_buf *out) MARLIN_MUST_CHECK;
marlin_status ml_bpe_word(struct ml_encoder *e, const char *s, size_t len) MARLIN_MUST_CHECK;
marlin_status ml_bpe_cache_create(struct ml_word_slot **out) MARLIN_MUST_CHECK;
/* SentencePiece: a stretch between special tokens, normalization included. */
marlin_status ml_sp_encode(struct ml_encoder *e, const char *s, size_t len) MARLIN_MUST_CHECK;
marlin_status ml_unigram_encode(struct ml_encoder *e, const char *s, size_t len) MARLIN_MUST_CHECK;
marlin_status ml_unigram_build(struct ml_tokenizer *t, struct marlin_error *err) MARLIN_MUST_CHECK;
/* What SentencePiece does with a stretch that is no piece: byte tokens, or one unk for neighbours. */
marlin_status ml_sp_unknown(struct ml_encoder *e, const char *s, size_t len,
                            bool *prev_unk) MARLIN_MUST_CHECK;
marlin_status ml_sp_normalize(const struct ml_tokenizer *t, const char *s, size_t len,
                              struct ml_tok_matches *user, struct ml_buf *out,
                              struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
