/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of tensors. The code speaks of canonical names ("model.layers.0.mlp.up_proj"); files of multimodal
 * wrappers put something else in front.
 */
#ifndef ML_MODELS_NAMES_H
#define ML_MODELS_NAMES_H

#include "base/status.h"
#include "converters/safetensors.h"

#include <stdbool.h>
#include <stddef.h>

enum { ML_BIND_NAME = 320 }; /* room for a name; those of tensors have at most 256 bytes */

/* What a file has in place of "model." and in front of "lm_head"; static text. */
struct ml_names {
    const char *model, *head;
};

/* The names of a file that spells them as the code does. */
struct ml_names ml_names_canonical(void);
/* Finds out by the embedding, or where that is tied to the head by the head and the last norm;
 * MARLIN_ERR_NOT_FOUND when there is none. */
marlin_status ml_names_find(const struct ml_tensors *tensors, bool tied, struct ml_names *out,
                            struct marlin_error *err) MARLIN_MUST_CHECK;

/* The name in the file. One that does not fit becomes "", which no tensor is called: it is then missing, and
 * never taken for another. */
void ml_names_stored(const struct ml_names *n, const char *canonical, char dst[ML_BIND_NAME]);
/* "NAME.PART", or "" in the same way. */
void ml_names_join(const char *name, const char *part, char dst[ML_BIND_NAME]);

/* The number N and the rest of a stored name "<model>layers.N.REST", or NULL for any other. */
const char *ml_names_layer(const struct ml_names *n, const char *stored, unsigned long long *layer);

#endif
