/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights as operations read them: typed structs that a model's loader fills once. The structs lie in host
 * memory; what they point to (matrices, scales, biases, norms) lies in the memory of the device that computes
 * with it.
 */
#ifndef ML_OPS_WEIGHTS_H
#define ML_OPS_WEIGHTS_H

#include "kernels/kernels.h"
#include "kernels/quant.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ml_origin;

/* How a linear layer's weights are stored. */
enum ml_linear_kind { ML_LINEAR_PLAIN, ML_LINEAR_QUANT };

/* A quantized layer is one matrix, or (EXL3, wide feed-forward layers) several: each gives outputs row...
 * from inputs col..., and outputs that several give are summed.
 *
 *     gate, up:  [ piece 0 ]   all inputs,         down:  [ piece 0 | piece 1 | ... ]   all outputs,
 *                [ piece 1 ]   outputs in runs                                          inputs in runs
 */
struct ml_quant_piece {
    struct ml_quant_matrix m;
    size_t row, col;
};

struct ml_quant_linear {
    struct ml_quant_piece *pieces; /* those of col 0 first */
    size_t n_pieces;
};

/* y = W x + bias, W [out, in]. Every multiplication by weights goes through the op `linear`. */
struct ml_linear {
    const char *name; /* canonical, without ".weight": "model.layers.0.self_attn.q_proj"; "lm_head" */
    size_t in, out;
    enum ml_linear_kind kind;
    union {
        struct ml_matrix plain;
        struct ml_quant_linear quant;
    } u;
    const float *bias;              /* [out] or NULL */
    const struct ml_origin *origin; /* the tensors that it was made from (models/model_int.h) */
};

/* RMSNorm: x * rsqrt(mean(x^2) + eps) * (w + offset); with a bias LayerNorm, the same of x - mean(x), plus the bias.
 * w == NULL: the layer has no such norm. */
struct ml_norm {
    const float *w;
    const float *bias; /* [n] or NULL */
    size_t n;
    float offset, eps;
};

/* Rows that token ids stand for: of a plain matrix, or of int8 rows with a scale each. */
struct ml_embedding {
    struct ml_matrix plain;             /* [vocab, H]; unset when `rows` */
    const struct ml_quant_matrix *rows; /* [vocab, H] as int8, or NULL */
    float scale;                        /* on every element; 1 = none */
    struct ml_norm norm;                /* over each row; w NULL = none */
};

struct ml_mlp {
    struct ml_linear gate, up, down;
};

/* What stands before a gated block's product. */
enum ml_glu { ML_GLU_SILU, ML_GLU_GELU_TANH, ML_GLU_SIGMOID };

/* An activation, and what limits it. With a limit, gate becomes min(gate, limit) and up is clamped to [-limit, limit]
 * first. With an alpha too: (up + 1) * gate / (1 + exp(-alpha gate)), whatever the kind (gpt-oss). */
struct ml_activation_rule {
    enum ml_glu kind;
    float limit, alpha; /* 0 = none */
};

enum { ML_ROUTER_GROUPS = 256 }; /* most groups of experts */

/* How a router's logits become experts and weights.
 *
 *   s = softmax(logits), or sigmoid of each
 *   c = s + bias                                          decides, and does not weigh
 *   a group's score = the sum of its two greatest c       the best top_groups of `groups` equal runs stay
 *   the top_k greatest c of what stays                    ties to the lowest number
 *   weight = s of the chosen, / their sum, * scale
 *
 * A NaN never wins while a number is left. Sources: Switch Transformers (arXiv 2101.03961), DeepSeek-V3
 * (arXiv 2412.19437, section 2.1.2). */
struct ml_router {
    size_t experts, top_k;
    bool normalise; /* divide the chosen weights by their sum */
    bool sigmoid;
    const float *bias;         /* [experts] or NULL */
    size_t groups, top_groups; /* 0 or 1: all experts are one group */
    float scale;               /* 0 or 1: none */
};

struct ml_moe {
    struct ml_linear router; /* [experts, H] */
    struct ml_mlp *experts;  /* [choose.experts] */
    struct ml_mlp shared;    /* the expert of every token, unweighted; gate.out 0 = none */
    struct ml_router choose;
};

#endif
