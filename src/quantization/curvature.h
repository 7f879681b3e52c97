/* SPDX-License-Identifier: Apache-2.0
 *
 * What a layer's linears mean for the loss at the end of the model: Kronecker factors of the Fisher
 * information of each, from the gradients G_s [out, in] of the loss of sequences s with respect to its
 * weights:
 *
 *     in = sum of G_s' G_s      out = sum of G_s G_s'      G_s = sum over tokens of g x'
 *
 * so that a change E of the weights costs about tr(out E in E'). Source: YAQA (arXiv 2505.22988), sketch B,
 * one iteration.
 */
#ifndef ML_QUANTIZATION_CURVATURE_H
#define ML_QUANTIZATION_CURVATURE_H

#include "quantization/backward.h"
#include "quantization/hessian.h"
#include "quantization/plan.h"

struct ml_curvature {
    struct ml_hessian in, out;
    uint64_t tokens; /* that it was made from */
};

/* Of the tensors of one layer; in a mixture of experts also of each role, summed over its experts. */
struct ml_layer_curvature {
    const struct ml_plan *plan;
    size_t layer;
    struct ml_pool *pool;
    size_t width;             /* most tokens of a sequence */
    struct ml_curvature *own; /* of plan->tensors[plan->first[layer] + i] */
    size_t count;
    struct ml_curvature shared[ML_ROLES]; /* empty (in.k == 0) in a dense layer */
    struct ml_exec exec;
    float *memory;
    float *xt, *gt;     /* [in, n], [out, n] */
    float *grad, *flip; /* [out, in], [in, out] */
};

/* Bytes that one takes. */
uint64_t ml_layer_curvature_bytes(const struct ml_plan *plan, size_t layer, size_t width, int workers);
marlin_status ml_layer_curvature_create(struct ml_layer_curvature *c, const struct ml_plan *plan,
                                        size_t layer, size_t width, struct ml_pool *pool,
                                        struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_layer_curvature_free(struct ml_layer_curvature *c);

/* An ml_gradient_fn; user is the struct ml_layer_curvature. Linears that the plan does not have are passed
 * over. */
void ml_layer_curvature_add(void *user, const struct ml_linear *linear, const float *x, const float *g,
                            size_t n);

/* That of tensor i of the layer: its own, or the shared one of its role for an expert that saw fewer tokens
 * than it has inputs or outputs. */
const struct ml_curvature *ml_layer_curvature_of(const struct ml_layer_curvature *c, size_t i);

#endif
