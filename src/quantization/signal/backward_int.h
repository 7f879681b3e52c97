/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the files of the backward pass. T = width, D = heads * head_dim, C = kv_heads * head_dim, F =
 * widest feed-forward block, P = T * experts a token.
 */
#ifndef ML_QUANTIZATION_BACKWARD_INT_H
#define ML_QUANTIZATION_BACKWARD_INT_H

#include "kernels/exec.h"
#include "models/layers/layers.h"
#include "quantization/signal/backward.h"

enum { ML_BACKWARD_ROWS = 512 }; /* rows of W that are transposed at once */

struct ml_backward {
    const struct ml_model *model;
    struct ml_pool *pool;
    struct ml_work *work; /* of the forward pass */
    struct ml_sequence *sequence;
    struct ml_step *s;   /* the work's */
    struct ml_exec exec; /* products of the backward pass */
    size_t width;
    float *memory;                   /* holds all that follows */
    float *attn_in, *attn_y;         /* [T, H] input of q, k, v; output of o */
    float *mid, *mlp_in, *mlp_y;     /* [T, H] after attention; input of gate and up; output of down */
    float *g_branch, *g_in;          /* [T, H] */
    float *q_raw, *g_q;              /* [T, D] before norm and rotation */
    float *k_raw, *g_k, *g_v;        /* [T, C] */
    float *g_attn;                   /* [T, D] */
    float *gate, *up, *act, *g_act;  /* [max(T, P), F] */
    float *router, *g_router;        /* [T, experts] */
    float *pair_x, *pair_y, *g_pair; /* [P, H] */
    float *g_weight;                 /* [experts a token] of one token */
    float *transposed;               /* [widest input, ML_BACKWARD_ROWS] */
    float *product;                  /* [max(T, P), widest input] */
    float *minus_sin;                /* [T, half] */
    float *logits;                   /* [ML_BACKWARD_LOGITS, vocab] */
    float *scores;                   /* per worker: 4 [T, T] and 3 [head_dim, T] */
    size_t scores_stride;            /* floats a worker */
    ml_gradient_fn *fn;
    void *user;
    size_t n; /* tokens of the running call */
};

/* Rows of logits at once: the head's weights are transposed once for all of them. */
enum { ML_BACKWARD_LOGITS = 128 };

/* ---- backward_rows.c ---- */

/* gx [n, in] = or += g [n, out] W. */
void ml_backward_linear(struct ml_backward *b, const struct ml_linear *l, const float *g, size_t n, float *gx,
                        bool add);
/* Shows the linear to the caller's function, then the same. */
void ml_backward_through(struct ml_backward *b, const struct ml_linear *l, const float *x, const float *g,
                         size_t n, float *gx, bool add);
/* g [n, width] of the norm's output -> of its input x; runs of norm->n floats. No norm: g stays. */
void ml_backward_norm(struct ml_backward *b, const struct ml_norm *norm, const float *x, float *g, size_t n,
                      size_t width);
/* act = glu(gate) * up; g_act [n, width] -> gate and up become their gradients. */
void ml_backward_glu(struct ml_backward *b, float *gate, float *up, const float *g_act, size_t n,
                     size_t width);

/* ---- backward_attention.c, backward_moe.c ---- */

/* b->s->q, k, v (rotated) and g_attn -> g_q, g_k, g_v with respect to the projections' outputs. */
void ml_backward_attention(struct ml_backward *b, const struct ml_layer *l);

/* mlp_y of a mixture of experts, everything kept that its gradient needs. */
void ml_backward_moe_forward(struct ml_backward *b, const struct ml_moe *moe);
/* g [n, H] of mlp_y -> gx [n, H] of mlp_in. */
void ml_backward_moe(struct ml_backward *b, const struct ml_moe *moe, const float *g, float *gx);

#endif
