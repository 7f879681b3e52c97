/* SPDX-License-Identifier: Apache-2.0
 *
 * The reader of GGUF files, versions 2 and 3, whole or split ("-00001-of-00003.gguf"): their metadata as values, as
 * the config.json and the tokenizer that a Hugging Face directory would have, and their tensors under Hugging
 * Face names (ml_tensors_open_gguf). The format: ggml's docs/gguf.md.
 */
#ifndef ML_CONVERTERS_GGUF_H
#define ML_CONVERTERS_GGUF_H

#include "base/buf.h"
#include "base/status.h"
#include "converters/safetensors.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ml_gguf; /* an open file, or all files of a split one; immutable, shareable */

/* What a model's path may name in place of a directory: true for a regular file that begins as GGUF does, and for
 * whatever is called *.gguf and is no directory, so that opening it says what is wrong. */
bool ml_gguf_is(const char *path);

/* Maps the file, and all others of a split model when `path` is any one of them, and reads what stands before the
 * tensors' data. Errors name the file and the offset. */
marlin_status ml_gguf_open(const char *path, struct ml_gguf **out,
                           struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_gguf_close(struct ml_gguf *g); /* NULL is fine */
const char *ml_gguf_path(const struct ml_gguf *g);

/* A metadata string ("tokenizer.chat_template"), NUL-terminated, owned by g; NULL when the key is absent or no
 * string, or holds a NUL. */
const char *ml_gguf_string(const struct ml_gguf *g, const char *key);
/* Text of the token that a key ("tokenizer.ggml.bos_token_id") names, appended to `out`; nothing when the key is
 * absent. */
marlin_status ml_gguf_token_text(const struct ml_gguf *g, const char *key, struct ml_buf *out,
                                 struct marlin_error *err) MARLIN_MUST_CHECK;

/* Appends the config.json of the model. MARLIN_ERR_UNSUPPORTED names an architecture, or a feature of one, that
 * is not known. */
marlin_status ml_gguf_config(const struct ml_gguf *g, struct ml_buf *out,
                             struct marlin_error *err) MARLIN_MUST_CHECK;

/* The tokenizer as files of a directory: the text of tokenizer.json, or the bytes of a SentencePiece
 * tokenizer.model, and the text of tokenizer_config.json. */
struct ml_gguf_tokenizer {
    bool sentencepiece; /* `model` is a tokenizer.model */
    struct ml_buf model, config;
};
/* MARLIN_ERR_NOT_FOUND when the file has none, MARLIN_ERR_UNSUPPORTED names one of an unknown kind. In every case
 * `out` is to be freed. */
marlin_status ml_gguf_tokenizer(const struct ml_gguf *g, struct ml_gguf_tokenizer *out,
                                struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_gguf_tokenizer_free(struct ml_gguf_tokenizer *t);
/* Writes these files into a directory; none when there is no tokenizer. */
marlin_status ml_gguf_tokenizer_write(const char *path, const char *dir,
                                      struct marlin_error *err) MARLIN_MUST_CHECK;

/* The tensors of a GGUF file under Hugging Face names, in their order of rows and with their norms: float types in
 * the mapping where nothing has to be changed; others have no data before ml_tensors_load, and are float32 then. */
marlin_status ml_tensors_open_gguf(const char *path, struct ml_tensors **out,
                                   struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
