/* SPDX-License-Identifier: Apache-2.0
 *
 * Running one layer of the unquantized model over all calibration rows, and the Hessians of its linears.
 */
#ifndef ML_QUANTIZATION_CAPTURE_H
#define ML_QUANTIZATION_CAPTURE_H

#include "base/pool.h"
#include "base/status.h"
#include "models/model_int.h"
#include "quantization/matrix/hessian.h"

#include <signal.h>
#include <stddef.h>

/* Hessians of one layer, one for each input that its linears share. In a mixture of experts that of FFN is
 * of the block's input over all tokens, and an expert's own (EXPERT_HIDDEN) is made for one expert at a time
 * from the inputs kept in `block_in`: h[EXPERT_HIDDEN] stays empty. Every expert sees every token, so none
 * can have seen too few: that an expert falls back to a Hessian shared by all has no case here. */
struct ml_capture {
    struct ml_hessian h[ML_INPUTS]; /* h[i].k == 0: nothing is added up for this input */
    const struct ml_linear
        *reader[ML_INPUTS];       /* whose input goes into h[i], for all that share it; or NULL */
    const struct ml_linear *kept; /* whose input goes into block_in; NULL in a dense layer */
    float *block_in;              /* [tokens, H], NULL in a dense layer */
    size_t tokens;                /* room in block_in */
    size_t seen;                  /* tokens in block_in */
    const struct ml_layer *layer;
    const struct ml_kernels *kernels;
    struct ml_pool *pool;
};

/* Bytes that ml_capture_create takes for a layer. */
size_t ml_capture_bytes(const struct ml_layer *layer, size_t tokens, int workers);
/* Bytes of the Hessian of an expert's own input; 0 in a dense layer. */
size_t ml_capture_expert_bytes(const struct ml_layer *layer, int workers);
marlin_status ml_capture_create(struct ml_capture *c, const struct ml_layer *layer, size_t tokens,
                                struct ml_pool *pool, struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_capture_free(struct ml_capture *c);

/* Activations of the calibration rows. */
struct ml_rows {
    float *x; /* [rows * width, H] */
    size_t rows, width;
};

/* Runs layer `layer` over all rows, in place: x becomes the layer's output. capture may be NULL; it sees
 * every linear's input. Rows are fed one by one, whole, so that the result depends on nothing but the rows.
 * MARLIN_ERR_CANCELLED when *cancel is set. */
marlin_status ml_rows_forward(const struct ml_model *m, size_t layer, struct ml_rows *rows,
                              struct ml_capture *capture, struct ml_pool *pool,
                              const volatile sig_atomic_t *cancel,
                              struct marlin_error *err) MARLIN_MUST_CHECK;

/* h, created for an expert's intermediate width, becomes the Hessian of the expert's down projection over all
 * tokens of the block, whichever the router would send there. */
marlin_status ml_capture_expert(const struct ml_capture *c, const struct ml_model *m, size_t width,
                                const struct ml_mlp *expert, struct ml_hessian *h,
                                struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
