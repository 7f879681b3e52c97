/* SPDX-License-Identifier: Apache-2.0
 *
 * A running pass as layers see it. Layers are written with the functions of layers/layers.h, which put
 * operations onto the stream of the device that the layer runs on.
 *
 * Pointers to activations are device addresses: they may be added to and handed on, but are dereferenced by
 * operations alone. Only who has made sure that the device is the host (the quantizer) may look at them.
 */
#ifndef ML_MODELS_STEP_H
#define ML_MODELS_STEP_H

#include "models/model.h"
#include "models/profile.h"

/* Called once a pass for each linear layer that multiplies, with its input: n rows of linear->in floats, ldx
 * apart. On the CPU only. */
typedef void ml_observe_fn(void *user, const struct ml_linear *linear, const float *x, size_t ldx, size_t n);

/* Cosines and sines of the rows' positions by one rotary table. */
struct ml_angles {
    float *cos, *sin; /* [n, half] */
};

/* One device's part of a work. R = most rows. */
struct ml_step {
    const struct ml_model *model;
    const struct ml_ops *ops;
    struct ml_stream stream;
    size_t n;                              /* rows of the running pass */
    struct ml_pass pass;                   /* the same rows, as operations see them */
    const struct ml_memory_layout *memory; /* of the sequences of the pass */
    struct ml_page_table *pages;           /* [groups of the model]; this device's are set */
    struct ml_profile *profile;            /* NULL = off; the caller's */
    ml_observe_fn *observe;                /* NULL = nobody */
    void *observe_user;

    float *x, *normed, *branch; /* [R, H] */
    float *q, *attn;            /* [R, heads * head_dim] */
    float *attn_gate;           /* the same, where attention has a gate; else NULL */
    float *k, *v;               /* [R, kv_heads * head_dim] */
    float *q_low,
        *q_heads;     /* latent attention: [R, q_lora_rank], [R, heads * (nope + rotary)]; else NULL. There q
                                 * and attn have heads of latent + rotary and of latent, */
    float *values;    /* and [R, heads * v_head_dim] is what the heads gave */
    float *gate, *up; /* [R, widest intermediate of a dense layer or a shared expert] */
    float *shared;    /* [R, H] of a shared expert; NULL where there is none */
    float *router;    /* [R, experts] */
    float *pair_x, *pair_y;     /* [R * top_k, H] */
    float *pair_gate, *pair_up; /* [R * top_k, moe_intermediate] */
    struct ml_moe_plan plan;
    struct ml_angles global, local; /* [R, half] */
    float *picked;                  /* [R, H] rows that want logits, where they do not stand together */
    float *logits;                  /* [ML_LOGITS_BLOCK, vocab]; NULL on a device that is the host */
    void *batch;                    /* what a pass uploads: see work.c */
    struct ml_buffer memory_block;  /* holds all of them */
};

enum { ML_LOGITS_BLOCK = 64 }; /* rows of logits computed at a time on a device of its own memory */

struct ml_layer;

/* The step of a layer's device; of the first device. */
struct ml_step *ml_work_step(struct ml_work *w, const struct ml_layer *l);
struct ml_step *ml_work_first(struct ml_work *w);

/* Embeddings of n tokens into x [n, H], both in host memory: on the CPU only. */
void ml_embed_ids(struct ml_step *s, const int32_t *ids, size_t n, float *x);

/* A pass of the first n rows of one sequence at positions pos0..., without tokens: makes room in its memory,
 * computes angles, and leaves the rest to the caller, who runs layers one by one on hidden states of its own.
 * The length of the sequence does not change. n <= most rows, pos0 + n <= capacity. */
marlin_status ml_step_begin(struct ml_work *w, struct ml_sequence *s, size_t n, size_t pos0,
                            struct marlin_error *err) MARLIN_MUST_CHECK;

/* Runs one layer alone on the CPU: hidden [n, H] -> hidden, tokens at positions pos0..., whose keys and values
 * are stored in the sequence's memory; positions before pos0 were fed to this layer earlier. Neither allocates
 * nor changes the length of the sequence. */
marlin_status ml_layer_forward(struct ml_work *w, struct ml_sequence *s, size_t layer, float *hidden,
                               size_t n, size_t pos0, struct marlin_error *err) MARLIN_MUST_CHECK;

/* Every step's observer. */
void ml_work_observe(struct ml_work *w, ml_observe_fn *fn, void *user);

#endif
