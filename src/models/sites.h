/* SPDX-License-Identifier: Apache-2.0
 *
 * The linears of a layer as a list. What asks something of every linear (sizes, the quantizer's plan,
 * calibration, the written directory) goes through the list and needs not know how the layer is built.
 */
#ifndef ML_MODELS_SITES_H
#define ML_MODELS_SITES_H

#include <stddef.h>

#include <stdbool.h>

struct ml_linear;
struct ml_layer;

/* What a linear is for. Linears of one layer with the same role are the experts of a mixture. */
enum ml_role {
    ML_ROLE_Q,
    ML_ROLE_K,
    ML_ROLE_V,
    ML_ROLE_O,
    ML_ROLE_ATTENTION_GATE,
    ML_ROLE_Q_LOW,  /* latent attention: down to the low rank of queries, */
    ML_ROLE_KV_LOW, /* of keys and values, */
    ML_ROLE_KV,     /* and up again: never quantized */
    ML_ROLE_GATE,
    ML_ROLE_UP,
    ML_ROLE_DOWN,
    ML_ROLE_ROUTER, /* the choice of experts: never quantized */
    ML_ROLE_HEAD,   /* of the model, in no layer */
    ML_ROLES
};
const char *ml_role_name(enum ml_role r); /* "down" */
/* Whether linears of the role are never quantized. */
bool ml_role_is_plain(enum ml_role r);

/* What a linear reads. Linears of one layer with the same input are given the very same rows, and share one
 * Hessian; only an expert's own input differs from expert to expert. */
enum ml_input {
    ML_INPUT_ATTENTION,     /* q, k, v, gate of attention */
    ML_INPUT_QUERY_LOW,     /* q of latent attention */
    ML_INPUT_LATENT,        /* kv of latent attention: nobody is shown it */
    ML_INPUT_ATTENTION_OUT, /* o: what the heads gave */
    ML_INPUT_FFN,           /* router, gate, up; an expert reads the rows that the router sends to it */
    ML_INPUT_HIDDEN,        /* down of a dense layer or a shared expert: the gated activation */
    ML_INPUT_EXPERT_HIDDEN, /* down of an expert: that expert's gated activation */
    ML_INPUTS
};

enum { ML_NO_EXPERT = -1 };

/* One linear of a layer, in the order in which the forward pass uses them (router before experts, experts by
 * number). */
struct ml_site {
    struct ml_linear *linear; /* lies in the layer or in its experts */
    enum ml_role role;
    enum ml_input input;
    int expert; /* its number, or ML_NO_EXPERT */
};

/* The layer's first site of that role or input, or NULL. */
const struct ml_site *ml_layer_site(const struct ml_layer *l, enum ml_role role);
const struct ml_site *ml_layer_input(const struct ml_layer *l, enum ml_input input);

#endif
