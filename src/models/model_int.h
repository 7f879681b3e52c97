/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the files of this folder, and for the quantizer: a model's weights as typed structs, the state of
 * one sequence, and layers that can be run and watched one by one.
 *
 * Shapes: n tokens a call, H = hidden_size. Activations are float32, token-major, rows without padding.
 */
#ifndef ML_MODELS_MODEL_INT_H
#define ML_MODELS_MODEL_INT_H

#include "base/arena.h"
#include "models/layers/rope.h"
#include "models/model.h"
#include "models/profile.h"
#include "models/sites.h"

/* ---- weights -------------------------------------------------------------------------------------- */

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

enum { ML_LINEAR_JOBS = 16 }; /* most matrices of one fork-join */

/* y = W x + bias, W [out, in]. Every multiplication by weights goes through ml_linear_forward. */
struct ml_linear {
    const char *name; /* canonical, without ".weight": "model.layers.0.self_attn.q_proj"; "lm_head" */
    size_t in, out;
    enum ml_linear_kind kind;
    union {
        struct ml_matrix plain;
        struct ml_quant_linear quant;
    } u;
    const float *bias; /* [out] or NULL */
};

/* RMSNorm: x * rsqrt(mean(x^2) + eps) * (w + offset). w == NULL: the layer has no such norm. */
struct ml_norm {
    const float *w;
    size_t n;
    float offset, eps;
};

struct ml_attention_weights {
    struct ml_linear q, k, v, o;
    struct ml_norm q_norm, k_norm; /* over a head when n == head_dim, else over the whole row */
    float scale;
    float softcap;              /* 0 = none */
    size_t window;              /* 0 = all keys */
    const struct ml_rope *rope; /* NULL: no position */
};

struct ml_mlp {
    struct ml_linear gate, up, down;
};

struct ml_moe {
    struct ml_linear router; /* [experts, H] */
    struct ml_mlp *experts;  /* [n_experts] */
    size_t n_experts, top_k;
    bool normalise; /* divide the chosen probabilities by their sum */
};

/* What mixes the tokens of a sequence. */
enum ml_mixer_kind { ML_MIXER_ATTENTION };
struct ml_mixer {
    enum ml_mixer_kind kind;
    union {
        struct ml_attention_weights attention;
    };
};

/* What works on each token alone. */
enum ml_ffn_kind { ML_FFN_NONE, ML_FFN_MLP, ML_FFN_MOE };
struct ml_ffn {
    enum ml_ffn_kind kind;
    union {
        struct ml_mlp mlp;
        struct ml_moe moe;
    };
};

struct ml_layer {
    size_t index;
    struct ml_norm attn_in, attn_out; /* before, and on the output of, the mixer; w NULL where absent */
    struct ml_norm mlp_in, mlp_out;   /* the same of the feed-forward block */
    struct ml_mixer mixer;
    struct ml_ffn ffn;
    struct ml_site *sites; /* [n_sites] all linears of mixer and ffn */
    size_t n_sites;
};

/* n rounded up to a multiple of 128, the width of a Hadamard block. */
static inline size_t ml_quant_padded(size_t n) {
    return (n + 127) / 128 * 128;
}

/* ---- architectures -------------------------------------------------------------------------------- */

struct ml_binder;

struct ml_arch {
    const char *model_type;
    /* Fills a layer (index is set), its sites too, from tensors; fails by name. */
    marlin_status (*bind)(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err);
    /* x [n, H] -> x after the layer, in place; n and pos0 are the state's. */
    void (*layer)(struct ml_state *s, const struct ml_layer *l, float *x);
    float norm_offset;    /* 1: zero-centred norm weights */
    bool scale_embedding; /* embedding * sqrt(H), the factor rounded to the embedding's type */
    bool has_backward;    /* the layer is one that quantization/signal/backward.c can differentiate */
};

/* NULL for an unknown model_type. */
const struct ml_arch *ml_arch_find(const char *model_type);

/* ---- the model ------------------------------------------------------------------------------------ */

struct ml_owned; /* memory of weights that could not be used in the mapping */

struct ml_model {
    const struct ml_config *config;
    struct ml_config *owned_config; /* NULL when config lives in the arena */
    const struct ml_arch *arch;
    struct ml_device *device;
    bool owns_device;
    enum ml_dtype kv_dtype;
    enum ml_quant_mode mode;
    bool headers_only;
    struct ml_tensors *tensors; /* what the matrices point into; NULL for a random model */
    struct ml_arena arena;
    struct ml_owned *owned;
    struct ml_rope rope, rope_local;
    struct ml_matrix embedding;             /* [vocab, H]; unset when embedding_rows */
    struct ml_quant_matrix *embedding_rows; /* [vocab, H] as int8, or NULL */
    float embedding_scale;
    struct ml_layer *layers; /* [num_layers] */
    struct ml_norm norm;
    struct ml_linear head; /* [vocab, H]; the embedding when tied */
    uint64_t weight_bytes, bytes_per_token, products_per_token, parameters;
    size_t quant_rows, quant_cols; /* largest padded sizes of a quantized matrix; 0 when there is none */
    size_t sum_rows;               /* most outputs of a layer that is a sum of pieces; 0 when there is none */
};

/* ---- one sequence --------------------------------------------------------------------------------- */

/* Called before a linear layer's multiplication with its input: n rows of linear->in floats, ldx apart. */
typedef void ml_observe_fn(void *user, const struct ml_linear *linear, const float *x, size_t ldx, size_t n);

/* Who goes where in a mixture of experts. Pairs (token t, choice c) are numbered t * top_k + c; sorted by
 * expert they fill rows 0.. of the gathered input. */
struct ml_moe_plan {
    int32_t *expert; /* [n * top_k] of pair */
    float *weight;   /* [n * top_k] of pair */
    int32_t *row;    /* [n * top_k] of pair: its row when sorted */
    int32_t *token;  /* [n * top_k] of row */
    size_t *start;   /* [experts + 1] first row of each expert */
};

struct ml_state {
    const struct ml_model *model;
    struct ml_exec exec;
    struct ml_kv kv; /* kv.length: tokens seen */
    size_t max_batch;
    size_t n, pos0; /* of the running call */
    size_t lane;    /* 0; else the rows of a call are sequences of at most so many positions each, all at
                       pos0; row t's keys and values lie at positions t * lane ... of the cache */
    struct ml_profile *profile; /* NULL = off; the caller's */
    ml_observe_fn *observe;
    void *observe_user;
    void *scratch;              /* holds all that follows; B = max_batch */
    float *x, *normed, *branch; /* [B, H] */
    float *q, *attn;            /* [B, heads * head_dim] */
    float *attn_parts;          /* one token's attention in chunks; NULL when the context has but one */
    float *k, *v;               /* [B, kv_heads * head_dim] */
    float *gate, *up;           /* [B, widest intermediate of a dense layer] */
    float *router;              /* [B, experts] */
    float *pair_x, *pair_y;     /* [B * top_k, H] */
    float *pair_gate, *pair_up; /* [B * top_k, moe_intermediate] */
    struct ml_moe_plan plan;
    float *inv_freq;              /* [half] */
    float *cos, *sin;             /* [B, half] */
    float *cos_local, *sin_local; /* [B, half] */
    size_t quant_jobs;            /* quantized matrices of one fork-join */
    float *partial;               /* [B, model->sum_rows]: one term of a sum of pieces; own allocation */
};

/* Bytes of the copy of q that the model makes in the order of this machine's kernels; 0 when products read q
 * as it is stored. */
size_t ml_model_copy_bytes(const struct ml_model *m, const struct ml_quant_matrix *q);
/* Bytes of memory that a product with q reads: tiles or rows, and scales. */
uint64_t ml_model_held_bytes(const struct ml_model *m, const struct ml_quant_matrix *q);
/* Bytes that one product with a linear layer reads. */
uint64_t ml_linear_bytes(const struct ml_model *m, const struct ml_linear *l);

/* Fills bytes_per_token and products_per_token of a model whose layers are bound. */
void ml_model_count(struct ml_model *m);

/* Bytes of working memory of a state of so many positions, and where its parts lie: s may be NULL to ask for
 * the size alone; else s->scratch must hold as much. MARLIN_ERR_LIMIT on overflow. */
marlin_status ml_scratch_layout(const struct ml_config *c, size_t max_batch, size_t positions,
                                struct ml_state *s, size_t *bytes,
                                struct marlin_error *err) MARLIN_MUST_CHECK;

/* Most quantized matrices of one fork-join. Each wants a copy of x of its own: q, k and v need three; experts
 * are many but narrow. */
size_t ml_config_quant_jobs(const struct ml_config *c);

/* Widest input of any linear of a model of this shape. */
size_t ml_config_max_cols(const struct ml_config *c);

/* ml_state_create with a cache of another type than the model's: ML_F32, ML_F16 or ML_I8. */
marlin_status ml_state_create_as(const struct ml_model *m, struct ml_pool *pool, size_t ctx, size_t max_batch,
                                 enum ml_dtype kv_dtype, struct ml_state **out,
                                 struct marlin_error *err) MARLIN_MUST_CHECK;

/* Sets n and pos0 and computes the cosines of positions [pos0, pos0 + n). */
void ml_step_begin(struct ml_state *s, size_t n, size_t pos0);

/* Runs one layer alone: hidden [n, H] -> hidden, tokens at positions pos0..., whose keys and values are
 * stored in the state's cache. n <= max_batch, pos0 + n <= capacity; positions before pos0 were fed to this
 * layer earlier. Neither allocates nor changes the length of the state. */
void ml_layer_forward(const struct ml_model *m, struct ml_state *s, size_t layer, float *hidden, size_t n,
                      size_t pos0);

/* ids (all in range) -> x [n, H]. */
void ml_embed(const struct ml_model *m, struct ml_state *s, const int32_t *ids, size_t n, float *x);

#endif
