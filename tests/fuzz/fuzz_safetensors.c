/* SPDX-License-Identifier: Apache-2.0
 *
 * Property: any bytes are a safetensors file or give a named error; what a file is said to hold lies inside
 * it, each byte of data in exactly one tensor.
 */
#include "converters/safetensors_int.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
    if (!condition) abort();
}

static void check_tensor(const struct ml_tensor *t, uint64_t begin) {
    uint64_t count = 1;
    require(t->rank >= 0 && t->rank <= ML_TENSOR_MAX_RANK);
    for (int i = 0; i < t->rank; i++) {
        require(!__builtin_mul_overflow(count, t->shape[i], &count));
    }
    require(t->count == count && (t->foreign != NULL) == (t->dtype == ML_FOREIGN));
    require(t->foreign || t->bytes == count * ml_dtype_size(t->dtype));
    require(t->offset == begin);
    require(t->name[0] && strlen(t->name) <= ML_SAFETENSORS_MAX_NAME);
    char text[128];
    require(ml_tensor_shape_text(t, text) == text && strlen(text) < sizeof text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct ml_safetensors_header h;
    struct marlin_error err = {0};
    const marlin_status st = ml_safetensors_parse(data, size, size, "file", &h, &err);
    if (st != MARLIN_OK) {
        require(err.code == st && strncmp(err.text, "file: ", 6) == 0);
        return 0;
    }
    require(h.data_start >= 8 && h.data_start <= size);
    uint64_t at = 0;
    for (size_t i = 0; i < h.count; i++) {
        check_tensor(&h.tensors[i], at);
        at += h.tensors[i].bytes;
    }
    require(at == size - h.data_start);
    for (size_t i = 0; i < h.n_metadata; i++) {
        require(h.metadata[i].key && h.metadata[i].value);
    }
    ml_safetensors_header_free(&h);
    return 0;
}
