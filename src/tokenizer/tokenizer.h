/* SPDX-License-Identifier: Apache-2.0
 *
 * Text to token ids and back, equal to Hugging Face `tokenizers` for tokenizer.json (byte-level BPE and
 * SentencePiece-style BPE with byte fallback), and SentencePiece BPE/unigram models (tokenizer.model) where
 * no tokenizer.json exists. Immutable once loaded and shareable between threads.
 */
#ifndef ML_TOKENIZER_TOKENIZER_H
#define ML_TOKENIZER_TOKENIZER_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ml_tokenizer;

/* `dir` is a GGUF file, or a directory: loads dir/tokenizer.json, else dir/tokenizer.model, which also stands in, with a warning, for a tokenizer.json with
 * parts that are not supported. Reads tokenizer_config.json (add_bos_token, bos_token, added tokens),
 * added_tokens.json and special_tokens_map.json when present. vocab_rows: rows of the embedding table; that tokens
 * which text is made of lie behind its end is warned of; 0 = not known. */
marlin_status ml_tokenizer_load(const char *dir, uint64_t vocab_rows, struct ml_tokenizer **out,
                                struct marlin_error *err) MARLIN_MUST_CHECK;

/* From memory: the pure parsers that the fuzzers drive. */
marlin_status ml_tokenizer_from_json(const char *json, size_t len, uint64_t vocab_rows,
                                     struct ml_tokenizer **out, struct marlin_error *err) MARLIN_MUST_CHECK;
marlin_status ml_tokenizer_from_sentencepiece(const void *data, size_t len, uint64_t vocab_rows,
                                              struct ml_tokenizer **out,
                                              struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_tokenizer_free(struct ml_tokenizer *t);

struct ml_ids {
    int32_t *id;
    size_t n, cap;
};
void ml_ids_free(struct ml_ids *ids);

enum ml_encode_flags {
    ML_ENCODE_SPECIAL = 1, /* recognise special tokens written in the text; otherwise they are plain text */
    ML_ENCODE_BOS = 2      /* add what the post-processor adds (BOS, EOS) */
};

/* Appends the ids of text (any bytes; invalid UTF-8 becomes U+FFFD as in Python's errors="replace").
 * Time is linear in len for any input, up to a logarithmic factor. */
marlin_status ml_tokenizer_encode(const struct ml_tokenizer *t, const char *text, size_t len, unsigned flags,
                                  struct ml_ids *ids, struct marlin_error *err) MARLIN_MUST_CHECK;

/* Appends the text of ids. skip_special drops special tokens. Bytes may be invalid UTF-8 when the ids are.
 * Ids without a spelling, of holes and behind the vocabulary's end, are no text. Negative ones: MARLIN_ERR_ARGUMENT. */
marlin_status ml_tokenizer_decode(const struct ml_tokenizer *t, const int32_t *ids, size_t n,
                                  bool skip_special, struct ml_buf *out,
                                  struct marlin_error *err) MARLIN_MUST_CHECK;

/* Streaming decode: never emits part of a UTF-8 sequence; bytes that can never become one are given out as
 * U+FFFD. Zero-initialise. */
struct ml_text_stream {
    unsigned char pending[16];
    size_t n_pending;
    bool started;
    size_t stripped; /* characters taken off the front, as decoders that add a space ask for */
};
marlin_status ml_stream_push(struct ml_text_stream *s, const struct ml_tokenizer *t, int32_t id,
                             bool skip_special, struct ml_buf *out,
                             struct marlin_error *err) MARLIN_MUST_CHECK;
marlin_status ml_stream_finish(struct ml_text_stream *s,
                               struct ml_buf *out) MARLIN_MUST_CHECK; /* flushes as U+FFFD */
/* Most bytes that one of these calls appends: where `out` has room for them, it allocates nothing. */
size_t ml_stream_most(const struct ml_tokenizer *t);

/* One past the largest id. */
size_t ml_tokenizer_size(const struct ml_tokenizer *t);
bool ml_tokenizer_is_special(const struct ml_tokenizer *t, int32_t id);
int32_t ml_tokenizer_find(const struct ml_tokenizer *t,
                          const char *piece); /* exact vocabulary entry, or -1 */
/* The vocabulary's own spelling of an id ("Ġthe"), NUL-terminated, owned by t; NULL when out of range. */
const char *ml_tokenizer_piece(const struct ml_tokenizer *t, int32_t id, size_t *len);

#endif
