/* SPDX-License-Identifier: Apache-2.0
 *
 * The one reader and writer of safetensors: single files, and directories with one file, many shards and
 * an index, or several files without an index. Rules R1-R12 of docs/safetensors.md are enforced.
 */
#ifndef ML_CONVERTERS_SAFETENSORS_H
#define ML_CONVERTERS_SAFETENSORS_H

#include "base/dtype.h"
#include "base/file.h"
#include "base/pool.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ML_TENSOR_MAX_RANK = 8 };

/* One stored tensor. Pointers live as long as the collection. */
struct ml_tensor {
    const char *name; /* NUL-terminated */
    enum ml_dtype dtype;
    const char *foreign; /* the file's name of the type ML_FOREIGN, else NULL */
    int rank;
    uint64_t shape[ML_TENSOR_MAX_RANK];
    uint64_t count;      /* elements */
    uint64_t bytes;      /* count * size of dtype; of ML_FOREIGN what the file says */
    const uint8_t *data; /* inside the mapping; no alignment promised; NULL when bytes is 0 */
    uint64_t offset;     /* of data in the file */
    struct ml_file *file;
    const char *stored;    /* of a GGUF file: the name of the type that it is stored in; NULL: dtype */
    uint64_t stored_bytes; /* ... and its size there */
    bool made;             /* ml_tensors_load makes its data, which stays in memory; else it is the file's */
};

struct ml_tensors; /* a collection of tensors from one or more files; immutable, shareable */

/* Opens one .safetensors file. Nothing but the header is read. */
marlin_status ml_tensors_open_file(const char *path, struct ml_tensors **out,
                                   struct marlin_error *err) MARLIN_MUST_CHECK;

/* Opens a GGUF file (converters/gguf.h), or a model directory: model.safetensors when present, else the files of model.safetensors.index.json (R11), else
 * every *.safetensors in name order, a tensor name in two files being an error. Links are followed. Files named reference*.safetensors are not part of
 * a model and are left out, and so is consolidated*.safetensors, a second copy in another naming.
 * MARLIN_ERR_NOT_FOUND when there is none. */
marlin_status ml_tensors_open_dir(const char *dir, struct ml_tensors **out,
                                  struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_tensors_close(struct ml_tensors *t);
/* Makes the data of tensors that are stored in another form, which have none before: of block types in a GGUF file,
 * float32. The pool's threads help (NULL: none). Before the collection is shared; a second call does nothing. */
marlin_status ml_tensors_load(struct ml_tensors *t, struct ml_pool *pool,
                              struct marlin_error *err) MARLIN_MUST_CHECK;
/* The same for one tensor of t. */
marlin_status ml_tensors_load_one(struct ml_tensors *t, const struct ml_tensor *tensor, struct ml_pool *pool,
                                  struct marlin_error *err) MARLIN_MUST_CHECK;

size_t ml_tensors_count(const struct ml_tensors *t);
const struct ml_tensor *ml_tensors_at(const struct ml_tensors *t, size_t i);           /* in file order */
const struct ml_tensor *ml_tensors_find(const struct ml_tensors *t, const char *name); /* or NULL */
/* Value of a __metadata__ key of the first file, or NULL. */
const char *ml_tensors_metadata(const struct ml_tensors *t, const char *key);
/* ml_file_check on every file. */
marlin_status ml_tensors_check(const struct ml_tensors *t, struct marlin_error *err) MARLIN_MUST_CHECK;
/* ml_file_intact on every file. */
bool ml_tensors_intact(const struct ml_tensors *t);
uint64_t ml_tensors_bytes(const struct ml_tensors *t); /* sum of tensor bytes, as they are stored */

/* Widens a floating tensor to float32 (n must equal t->count). */
marlin_status ml_tensor_to_f32(const struct ml_tensor *t, float *dst, uint64_t n,
                               struct marlin_error *err) MARLIN_MUST_CHECK;

/* The name of its type, for messages: "BF16", or what the file calls one that is not known here. */
const char *ml_tensor_type_name(const struct ml_tensor *t);
/* "[4096, 128]" into dst for messages. */
const char *ml_tensor_shape_text(const struct ml_tensor *t, char dst[128]);

/* --- writing --------------------------------------------------------------------------------------- */

/* Streams tensors to disk: the names, types and shapes are declared first, the data comes tensor by
 * tensor in any order, padding is zero, data starts 64-byte aligned in the file, the file appears under its
 * final name only on commit (fsync + rename). Not thread-safe. */
struct ml_tensors_writer;

struct ml_tensor_decl {
    const char *name;
    enum ml_dtype dtype;
    int rank;
    uint64_t shape[ML_TENSOR_MAX_RANK];
};

/* Names have 1 to 256 bytes of UTF-8 and are not "__metadata__". metadata: n_meta pairs key, value, key,
 * value...; may be NULL. Decls are copied. Tensors are laid out in the given order. */
marlin_status ml_tensors_writer_open(const char *path, const struct ml_tensor_decl *decls, size_t n,
                                     const char *const *metadata, size_t n_meta,
                                     struct ml_tensors_writer **out,
                                     struct marlin_error *err) MARLIN_MUST_CHECK;
/* `bytes` must be the declared size. */
marlin_status ml_tensors_writer_put(struct ml_tensors_writer *w, const char *name, const void *data,
                                    uint64_t bytes, struct marlin_error *err) MARLIN_MUST_CHECK;
/* Fails when a declared tensor was not put. Closes the writer in every case. */
marlin_status ml_tensors_writer_commit(struct ml_tensors_writer *w,
                                       struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_tensors_writer_abort(struct ml_tensors_writer *w); /* removes the temporary file; NULL is fine */

#endif
