/* SPDX-License-Identifier: Apache-2.0
 *
 * A short look at what somebody calls a model, before any file of it is read: nearly all first mistakes can
 * be told from the kind of the path and from the names in the folder.
 */
#ifndef ML_CONVERTERS_MODEL_LOOK_H
#define ML_CONVERTERS_MODEL_LOOK_H

#include "base/status.h"

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

/* "org/name", as models of the Hugging Face Hub are called. Says nothing about what is on the disk. */
bool ml_model_is_hub_name(const char *path);

/* *dir: where the model is. That is `path` itself, or a snapshot in it where it is a folder of the Hub's
 * cache (models--ORG--NAME). Otherwise MARLIN_ERR_NOT_FOUND (nothing there, or a folder without a model),
 * MARLIN_ERR_UNSUPPORTED (a model of a kind that is not read), MARLIN_ERR_FORMAT (something else) or
 * MARLIN_ERR_IO, with what it is and what to do. What this cannot tell, such as a damaged file, is left to
 * those who read it; so is a single file that is a model, a GGUF. Any thread. */
marlin_status ml_model_look(const char *path, char dir[PATH_MAX], struct marlin_error *err) MARLIN_MUST_CHECK;

/* The end of a message about a folder that has no .safetensors file: which weights it has instead, and
 * what to do; "" when there are none. */
void ml_model_other_weights(const char *dir, char *dst, size_t cap);

#endif
