/* SPDX-License-Identifier: Apache-2.0
 *
 * What a layer's linears mean for the loss at the end of the model: Kronecker factors of the Fisher
 * information of each, from its inputs x and the gradients g of the loss with respect to its outputs, over
 * tokens:
 *
 *     in = sum of |g|^2 x x'      out = sum of |x|^2 g g'
 *
 * so that a change E of the weights costs about tr(out E in E'). Source: YAQA (arXiv 2505.22988), sketch A,
 * one iteration. Sketch B, of whole sequences' gradients, costs more and was no better with as many tokens as
 * a model's own text has (bench/results/quantization.md).
 */
#ifndef ML_QUANTIZATION_CURVATURE_H
#define ML_QUANTIZATION_CURVATURE_H

#include "models/model_int.h"
#include "quantization/matrix/hessian.h"
#include "quantization/signal/backward.h"

struct ml_curvature {
    struct ml_hessian in, out;
};

/* Of the linears of one layer that can be quantized; in a mixture of experts also of each role, the sum over
 * its experts. */
struct ml_layer_curvature {
    const struct ml_layer *layer;
    struct ml_pool *pool;
    struct ml_curvature *own;             /* of layer->sites[i]; empty for a router */
    struct ml_curvature shared[ML_ROLES]; /* empty (in.k == 0) in a dense layer */
    float *scaled;                        /* [width, widest input or output] */
};

/* Bytes that one takes for sequences of at most `width` tokens. */
uint64_t ml_layer_curvature_bytes(const struct ml_layer *layer, size_t width, int workers);
marlin_status ml_layer_curvature_create(struct ml_layer_curvature *c, const struct ml_layer *layer,
                                        size_t width, struct ml_pool *pool,
                                        struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_layer_curvature_free(struct ml_layer_curvature *c);

/* An ml_gradient_fn; user is the struct ml_layer_curvature. Routers, and linears of other layers, are passed
 * over; tokens that are not finite are left out. */
void ml_layer_curvature_add(void *user, const struct ml_linear *linear, const float *x, const float *g,
                            size_t n);

/* Call once, when all is added: makes the sums over experts. */
void ml_layer_curvature_share(struct ml_layer_curvature *c);

/* That of a linear of the layer, after it: its own, or the shared one of its role for an expert that saw
 * fewer tokens than it has inputs or outputs. */
const struct ml_curvature *ml_layer_curvature_of(const struct ml_layer_curvature *c,
                                                 const struct ml_linear *linear);

#endif
