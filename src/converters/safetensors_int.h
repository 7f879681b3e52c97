/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the files of the safetensors reader: the header parser as a pure function, and the collection.
 */
#ifndef ML_CONVERTERS_SAFETENSORS_INT_H
#define ML_CONVERTERS_SAFETENSORS_INT_H

#include "base/arena.h"
#include "base/json.h"
#include "base/map.h"
#include "converters/safetensors.h"

enum {
    ML_SAFETENSORS_MAX_HEADER = 64 << 20,
    ML_SAFETENSORS_MAX_TENSORS = 1000000,
    ML_SAFETENSORS_MAX_NAME = 256,
    ML_SAFETENSORS_MAX_FILES = 4096
};

struct ml_metadata {
    const char *key, *value;
};

/* What one header says. Names and values live in `arena`. Tensor data pointers and files are not set. */
struct ml_safetensors_header {
    struct ml_arena arena;
    struct ml_tensor *tensors; /* sorted by offset */
    size_t count;
    struct ml_metadata *metadata;
    size_t n_metadata;
    uint64_t data_start; /* offset of the data in the file */
};

/* Length of the header text from the file's first 8 bytes (have of them are there), 8 + *n <= file_size. */
marlin_status ml_safetensors_header_length(const uint8_t *bytes, size_t have, uint64_t file_size,
                                           const char *where, uint64_t *n,
                                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* Parses the header at the start of a file of file_size bytes, of which the first `len` are at `bytes`. Rules
 * R1 to R9. `where` names the file in messages. */
marlin_status ml_safetensors_parse(const uint8_t *bytes, size_t len, uint64_t file_size, const char *where,
                                   struct ml_safetensors_header *out,
                                   struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_safetensors_header_free(struct ml_safetensors_header *h);

struct ml_tensors {
    struct ml_file **files;
    struct ml_safetensors_header *headers;
    size_t n_files, cap_files;
    struct ml_map by_name; /* -> address of the tensor */
    size_t count;
    /* Of a GGUF file: its reader, which owns the files, how each tensor is made, and what frees all this but for the
     * arrays above. All tensors are in headers[0]. */
    struct ml_gguf *gguf;
    struct ml_gguf_origin *origins;
    void (*release)(struct ml_tensors *t);
};

/* Opens one more file into a collection; its names are not known yet. */
marlin_status ml_tensors_read_file(struct ml_tensors *t, const char *path,
                                   struct marlin_error *err) MARLIN_MUST_CHECK;
/* Enters the names of all files, once. A name in two of them is an error, or with `map` (name -> file name, an index's)
 * that of the file which the map names, else of the first. */
marlin_status ml_tensors_enter(struct ml_tensors *t, const struct ml_json *map,
                               struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
