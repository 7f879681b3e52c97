/* SPDX-License-Identifier: Apache-2.0
 *
 * What a directory in EXL3 format says about itself beside its weights, and the types that its engines want.
 * Source: exllamav3, conversion of version 1.4.1.
 */
#ifndef ML_CONVERTERS_EXL3_EXPORT_H
#define ML_CONVERTERS_EXL3_EXPORT_H

#include "base/buf.h"
#include "converters/safetensors.h"
#include "packing/exl3.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ml_exl3_summary {
    double bits; /* mean over the layers */
    int head_bits;
    size_t rows, cols; /* of the calibration tokens */
    enum ml_exl3_codebook codebook;
};

/* A tensor of the directory. */
struct ml_exl3_stored {
    const struct ml_tensor_decl *decl;
    uint64_t bytes;
    int bits; /* a weight, of the linear that the tensor is a part of; 0: not quantized */
};

/* The type and shape in which a tensor that is not quantized is stored: engines want float16 for routers and
 * biases, no float32, and biases as long as the padded layer. bias: of a linear; router: the choice of
 * experts. */
void ml_exl3_adapt(struct ml_tensor_decl *d, bool bias, bool router);

/* Appends the members of "quantization_config" with the opening brace and without the closing one. */
marlin_status ml_exl3_config(const struct ml_exl3_summary *s, struct ml_buf *out) MARLIN_MUST_CHECK;

/* Appends the text of quantization_config.json, which has that and what each module stores. Tensors of one
 * module ("<module>.suffix") stand together. */
marlin_status ml_exl3_storage(const struct ml_exl3_summary *s, const struct ml_exl3_stored *tensors, size_t n,
                              struct ml_buf *out) MARLIN_MUST_CHECK;

#endif
