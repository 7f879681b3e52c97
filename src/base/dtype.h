/* SPDX-License-Identifier: Apache-2.0
 *
 * Element types of tensors, with the names that safetensors uses.
 */
#ifndef ML_BASE_DTYPE_H
#define ML_BASE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>

enum ml_dtype {
    ML_F32,
    ML_F16,
    ML_BF16,
    ML_F8_E4M3,
    ML_F8_E5M2,
    ML_I8,
    ML_U8,
    ML_I16,
    ML_I32,
    ML_I64,
    ML_BOOL,
    ML_F64,
    ML_U16,
    ML_U32,
    ML_U64,
    ML_FOREIGN, /* a type that only the file it stands in knows: of no size, and not to be parsed or read */
    ML_DTYPE_COUNT
};

size_t ml_dtype_size(enum ml_dtype t);      /* bytes an element */
const char *ml_dtype_name(enum ml_dtype t); /* "BF16" */
bool ml_dtype_parse(const char *name, size_t len, enum ml_dtype *out);
bool ml_dtype_is_float(enum ml_dtype t);

/* Brings n elements of a floating type to float32 (F64 is rounded); src needs no alignment. t must be a floating type. */
void ml_dtype_to_f32(enum ml_dtype t, const void *src, float *dst, size_t n);

#endif
