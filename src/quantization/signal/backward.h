/* SPDX-License-Identifier: Apache-2.0
 *
 * The backward pass of an unquantized model, a layer and a sequence at a time. The forward pass keeps nothing
 * but each layer's input; a layer's own activations are made again when its gradient is wanted:
 *
 *     input of layer l (kept) -> forward again -> gradient of the output -> gradient of the input
 *                                                  every linear shows its x and the gradient of its y
 */
#ifndef ML_QUANTIZATION_BACKWARD_H
#define ML_QUANTIZATION_BACKWARD_H

#include "base/pool.h"
#include "base/status.h"
#include "models/model_int.h"

#include <stddef.h>
#include <stdint.h>

/* MARLIN_ERR_UNSUPPORTED, naming the architecture, where its layers cannot be differentiated. */
marlin_status ml_backward_check(const struct ml_model *m, struct marlin_error *err) MARLIN_MUST_CHECK;

/* Working memory for sequences of at most `width` tokens. One caller at a time. */
struct ml_backward;
marlin_status ml_backward_create(const struct ml_model *m, struct ml_pool *pool, size_t width,
                                 struct ml_backward **out, struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_backward_free(struct ml_backward *b); /* NULL is fine */

/* Bytes that one takes. */
uint64_t ml_backward_bytes(const struct ml_model *m, size_t width, int workers);

/* Called for each linear of a layer, the router of a mixture of experts too: x [n, in] and the gradient g [n,
 * out] of the loss with respect to its output. n is the tokens of the sequence, for an expert those that were
 * sent to it. Both are valid during the call only. */
typedef void ml_gradient_fn(void *user, const struct ml_linear *linear, const float *x, const float *g,
                            size_t n);

/* x [n, H]: the layer's input, a whole sequence from position 0. g [n, H]: the gradient of the loss with
 * respect to the layer's output; becomes that of its input. fn may be NULL. The choice of experts is taken as
 * given (it has no derivative), their weights are not. Deterministic whatever the number of threads. */
marlin_status ml_backward_layer(struct ml_backward *b, size_t layer, const float *x, float *g, size_t n,
                                ml_gradient_fn *fn, void *user, struct marlin_error *err) MARLIN_MUST_CHECK;

/* x [n, H]: output of the last layer. One label a token is drawn from the model's own distribution (seed),
 * and g [n, H] becomes the gradient of scale * sum of -log p(label) with respect to x: its outer products
 * have the Fisher information as their mean. labels [n]: what was drawn; may be NULL. */
void ml_backward_head(struct ml_backward *b, const float *x, size_t n, uint64_t seed, float scale, float *g,
                      int32_t *labels);

#endif
