/* SPDX-License-Identifier: Apache-2.0
 *
 * Making a new Hugging Face directory out of an old one: its config with another quantization_config, and
 * the files that are neither weights nor config.
 */
#ifndef ML_CONVERTERS_HF_EXPORT_H
#define ML_CONVERTERS_HF_EXPORT_H

#include "base/buf.h"
#include "base/status.h"

#include <stddef.h>

/* Appends config.json's text (one object, already parsed once) with "quantization_config" replaced, or added
 * as the last member, by `value`, which is JSON text. Everything else keeps its bytes. MARLIN_ERR_FORMAT when
 * the text is not an object. */
marlin_status ml_config_with_quantization(const char *json, size_t len, const char *value, struct ml_buf *out,
                                          struct marlin_error *err) MARLIN_MUST_CHECK;

/* Copies tokenizers, generation_config.json, templates and the like from one model directory to another:
 * every regular file of at most 256 MiB except weights (also of other frameworks), their index, config.json,
 * quantization_config.json, checksums.json and hidden files. Each appears whole or not at all. From a GGUF file, the
 * tokenizer that it holds. */
marlin_status ml_model_files_copy(const char *from, const char *to,
                                  struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
