/* SPDX-License-Identifier: Apache-2.0
 *
 * Which matrices of a model are quantized, what they are called in files, and how many bits each gets.
 */
#ifndef ML_QUANTIZATION_PLAN_H
#define ML_QUANTIZATION_PLAN_H

#include "base/arena.h"
#include "base/status.h"
#include "models/model_int.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ML_BITS_INT8 = 8, ML_BITS_PLAIN = 16 };

struct ml_plan_tensor {
    const struct ml_linear *linear; /* the model's */
    const char *stored;             /* name in files, without suffix; differs from linear->name in wrappers */
    enum ml_role role;
    enum ml_input input; /* what it reads in its layer; of no meaning for the head */
    size_t layer;        /* num_layers for the head */
    int expert;          /* or ML_NO_EXPERT */
    int bits;            /* 0 = not yet given, ML_BITS_PLAIN = left as it is */
};

/* A tensor of the source that a tensor of the plan was made from, alone or with others. */
struct ml_plan_use {
    const struct ml_tensor *tensor;
    const struct ml_plan_tensor *by;
    bool bias;
};

/* Tensors in the order of work: layers from first to last, the head at the end. Tensors of one layer with the
 * same role (its experts) always have the same bits. */
struct ml_plan {
    const struct ml_model *model;
    struct ml_plan_tensor *tensors;
    size_t count;
    size_t layers; /* of the model */
    size_t *
        first; /* [layers + 2]: tensors of layer l are first[l] .. first[l + 1]; the head is layer `layers` */
    struct ml_plan_use *uses; /* [n_uses] by address of the tensor, then in the order of the plan */
    size_t n_uses;
    const char *embedding; /* stored name of model.embed_tokens, without suffix */
    int embedding_bits;    /* ML_BITS_INT8, or ML_BITS_PLAIN: left as it is */
    struct ml_arena arena;
};

marlin_status ml_plan_create(const struct ml_model *m, struct ml_plan *plan,
                             struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_plan_free(struct ml_plan *plan);

/* Weights of a tensor. */
uint64_t ml_plan_weights(const struct ml_plan_tensor *t);
/* Mean bits a weight over the layers, head left out. */
double ml_plan_bits(const struct ml_plan *plan);

/* The number N of a stored name "...layers.N.rest" when it is one of the model's, else `layers`. */
size_t ml_plan_layer_of(const struct ml_plan *plan, const char *stored);
/* What a tensor of the source is used for first, or NULL: by no tensor of the plan. */
const struct ml_plan_use *ml_plan_use_of(const struct ml_plan *plan, const struct ml_tensor *t);
/* True when the tensor of the source holds weights that are quantized: it is not copied. */
bool ml_plan_replaces(const struct ml_plan *plan, const struct ml_tensor *t);
/* True when the source has one matrix for embedding and head, and the head is left as it is while the
 * embedding is not: the matrix then stays, as the head's own. */
bool ml_plan_parts_tied(const struct ml_plan *plan);

#endif
