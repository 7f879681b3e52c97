/* SPDX-License-Identifier: Apache-2.0
 *
 * What all binding stands on: a source of tensors, memory that lives as long as the model, the order in which
 * kernels want weights, and a note of which tensors each linear came from. Knows no form and no architecture.
 */
#ifndef ML_MODELS_STORE_H
#define ML_MODELS_STORE_H

#include "models/model_int.h"
#include "models/source.h"

enum { ML_BIND_WAITING = 64 };

/* A model that is being bound. */
struct ml_binder {
    struct ml_model *m;
    struct ml_source *source;
    struct ml_pool *pool; /* writes memory of weights first; may be NULL */
    bool warned;          /* of an EXL3 multiplier: once is enough */
    /* Quantized matrices that wait to be rearranged. */
    struct ml_bind_waiting {
        struct ml_quant_matrix *m;
        const struct ml_tensor *from;
        void *to;
    } waiting[ML_BIND_WAITING];
    size_t n_waiting, waiting_bytes;
};

/* ---- memory ---- */

/* Memory that lives as long as the model, 64-byte aligned. */
marlin_status ml_model_own(struct ml_model *m, size_t bytes, void **out,
                           struct marlin_error *err) MARLIN_MUST_CHECK;
/* Releases one block that ml_model_own gave out, or with NULL all of them. */
void ml_model_disown(struct ml_model *m, const void *data);

/* ---- tensors ---- */

/* True when the source has the tensor (full canonical name), or "NAME.PART". */
bool ml_bind_has(const struct ml_binder *b, const char *tensor);
bool ml_bind_has_part(const struct ml_binder *b, const char *name, const char *part);

/* MARLIN_ERR_FORMAT "tensor NAME WHAT (file, offset)". */
marlin_status ml_bind_bad(const struct ml_tensor *t, const char *what,
                          struct marlin_error *err) MARLIN_MUST_CHECK;

/* MARLIN_ERR_FORMAT with both shapes. */
marlin_status ml_bind_check_shape(const struct ml_tensor *t, int rank, const uint64_t *shape,
                                  struct marlin_error *err) MARLIN_MUST_CHECK;

/* "NAME.PART" as `want` says, whose name is set here; l != NULL: the linear that is made of it, which
 * remembers it. */
marlin_status ml_bind_tensor(struct ml_binder *b, struct ml_linear *l, const char *name, const char *part,
                             struct ml_want *want, const struct ml_tensor **out,
                             struct marlin_error *err) MARLIN_MUST_CHECK;
/* The same of scales: n finite numbers; to NULL: only checked. MARLIN_ERR_NUMERIC when one is not finite. */
marlin_status ml_bind_scales(struct ml_binder *b, struct ml_linear *l, const char *name,
                             const struct ml_form_part *part, unsigned also, size_t n, float *to,
                             struct marlin_error *err) MARLIN_MUST_CHECK;
/* The tensor of that full name as n numbers in memory of the model, counted. */
marlin_status ml_bind_vector(struct ml_binder *b, const char *tensor, size_t n, const float **out,
                             const struct ml_tensor **from, struct marlin_error *err) MARLIN_MUST_CHECK;

/* The linear was made from the tensor, alone or with others; bias: the tensor is its bias. t NULL: nothing. */
marlin_status ml_bind_note(struct ml_binder *b, struct ml_linear *l, const struct ml_tensor *t, bool bias,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* Gives a linear layer its canonical name (copied). */
marlin_status ml_bind_name(struct ml_binder *b, struct ml_linear *l, const char *name,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- quantized matrices ---- */

/* Memory for a layer's pieces; MARLIN_ERR_MEMORY names the layer. */
marlin_status ml_bind_pieces(struct ml_binder *b, struct ml_linear *l, size_t n,
                             struct marlin_error *err) MARLIN_MUST_CHECK;
/* su [k] and sv [n] as one owned block, to be filled; k may be 0. Both become NULL when headers are all that
 * is read. */
marlin_status ml_bind_scale_memory(struct ml_binder *b, size_t k, size_t n, float **su, float **sv,
                                   struct marlin_error *err) MARLIN_MUST_CHECK;
/* A matrix of products is complete: it is rearranged for this machine's kernels, at the latest by
 * ml_bind_arrange. from: the tensor of its data; NULL: the data is another's too and stays. */
marlin_status ml_bind_matrix_done(struct ml_binder *b, struct ml_quant_matrix *m,
                                  const struct ml_tensor *from, struct marlin_error *err) MARLIN_MUST_CHECK;
/* Counts the parameters and the bytes of a matrix. */
void ml_bind_account(struct ml_model *m, const struct ml_quant_matrix *q);
/* Rearranges what is still waiting, spread over the pool. Call when the last matrix is bound. */
void ml_bind_arrange(struct ml_binder *b);

#endif
