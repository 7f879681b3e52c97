/* SPDX-License-Identifier: Apache-2.0
 *
 * Where tensors come from: a directory of safetensors, or numbers made up for benchmarks. Whoever binds asks
 * by canonical name and cannot tell one from the other. Another kind of file is another implementation.
 */
#ifndef ML_MODELS_SOURCE_H
#define ML_MODELS_SOURCE_H

#include "base/pool.h"
#include "converters/safetensors.h"
#include "models/model.h"
#include "packing/forms.h"

struct ml_source;

#define ML_WANT_ANY (~0u)

/* What is asked for. A file has it or not; what makes numbers up makes these. */
struct ml_want {
    const char *name;    /* canonical, of the tensor: "model.layers.0.mlp.up_proj.tap" */
    enum ml_dtype dtype; /* the type it must have */
    unsigned also;       /* other types that will do: bits 1 << type, or ML_WANT_ANY */
    int rank;            /* 0: any */
    uint64_t shape[4];   /* 0: any size; all sizes are checked when none is 0 */
    size_t rows, cols;   /* the matrix that it belongs to, without padding; 0: none */
};

struct ml_source_ops {
    /* True when the tensor is there. What makes numbers up has what an architecture's plain spelling names,
     * without being asked, and says no. */
    bool (*has)(const struct ml_source *s, const char *tensor);
    /* The form that the linear layer NAME is stored in; when there are no weights of that name, plain. */
    marlin_status (*form)(const struct ml_source *s, const char *name, const struct ml_form **out,
                          struct marlin_error *err);
    /* A tensor; it counts as used from then on. MARLIN_ERR_NOT_FOUND, MARLIN_ERR_UNSUPPORTED (type) and
     * MARLIN_ERR_FORMAT (shape) name it. It lives as long as the model; its data may be NULL when headers are
     * all that is read. */
    marlin_status (*tensor)(struct ml_source *s, const struct ml_want *want, const struct ml_tensor **out,
                            struct marlin_error *err);
    /* The same of numbers, widened: shape[0] floats to `to`, which may be NULL: then only checked. */
    marlin_status (*floats)(struct ml_source *s, const struct ml_want *want, float *to,
                            const struct ml_tensor **out, struct marlin_error *err);
    /* Its data will be read soon. */
    void (*fetch)(struct ml_source *s, const struct ml_tensor *t);
    /* Its data has been copied. Returns true when the bytes are gone. */
    bool (*done)(struct ml_source *s, const struct ml_tensor *t);
    /* Says which tensors nobody asked for. */
    void (*warn_unused)(const struct ml_source *s);
    void (*close)(struct ml_source *s);
};

/* The first member of every implementation. */
struct ml_source {
    const struct ml_source_ops *ops;
};

/* The tensors of m->tensors, under the names of m->names, both of which outlive it. */
marlin_status ml_source_file(const struct ml_model *m, struct ml_source **out,
                             struct marlin_error *err) MARLIN_MUST_CHECK;
/* Random numbers in memory of the model, written by the pool's threads (NULL: by this one). */
marlin_status ml_source_random(struct ml_model *m, const struct ml_random_format *format, uint64_t seed,
                               struct ml_pool *pool, struct ml_source **out,
                               struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
