/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors on their way to a file: what one layer has become, and the files that hold it until all are done.
 */
#ifndef ML_QUANTIZATION_PARTS_H
#define ML_QUANTIZATION_PARTS_H

#include "base/buf.h"
#include "base/status.h"
#include "converters/safetensors.h"
#include "quantization/matrix/linear.h"

#include <stddef.h>
#include <stdint.h>

struct ml_part_tensor {
    struct ml_tensor_decl decl; /* name owned by the part */
    void *data;                 /* ml_alloc memory, owned */
    uint64_t bytes;
};

/* Zero-initialise; free with ml_part_free. */
struct ml_part {
    struct ml_part_tensor *tensors;
    size_t count, cap;
    char **metadata;   /* key, value, key, value ... */
    size_t n_metadata; /* pairs */
};
void ml_part_free(struct ml_part *p);

/* Adds a tensor; `data` belongs to the part from now on, also on failure. */
marlin_status ml_part_add(struct ml_part *p, const char *name, enum ml_dtype dtype, int rank,
                          const uint64_t *shape, void *data, struct marlin_error *err) MARLIN_MUST_CHECK;
marlin_status ml_part_note(struct ml_part *p, const char *key, const char *value,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* The tensors that a quantized linear layer called `name` has in files of the codec's format. */
marlin_status ml_part_add_linear(struct ml_part *p, const char *name, const struct ml_quantized_linear *q,
                                 const struct ml_codec *codec, struct marlin_error *err) MARLIN_MUST_CHECK;
/* w as rows of int8, one after the other: name.int8 and name.row_scales. *error: relative squared error. */
marlin_status ml_part_add_int8(struct ml_part *p, const char *name, const struct ml_matrix *w, double *error,
                               struct marlin_error *err) MARLIN_MUST_CHECK;

/* Writes the part as one safetensors file that appears whole or not at all. A hash of all data is kept in its
 * metadata. */
marlin_status ml_part_write(const struct ml_part *p, const char *path,
                            struct marlin_error *err) MARLIN_MUST_CHECK;

/* Opens a part and compares its hash. MARLIN_ERR_NOT_FOUND when there is no such file, MARLIN_ERR_FORMAT when
 * it is not what was written. */
marlin_status ml_part_open(const char *path, struct ml_tensors **out,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
