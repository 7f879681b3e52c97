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
#include "models/names.h"
#include "models/sites.h"

/* ---- weights -------------------------------------------------------------------------------------- */

struct ml_attention_weights {
    struct ml_linear q, k, v, o;
    struct ml_linear gate;         /* what the heads gave is multiplied by its sigmoid; out 0 = none */
    struct ml_norm q_norm, k_norm; /* over a head when n == head_dim, else over the whole row */
    bool norm_last;                /* they come after the rotation */
    const float *sinks;            /* [heads] scores that take weight and give no value; NULL = none */
    float scale;
    float softcap;              /* 0 = none */
    size_t window;              /* 0 = all keys */
    const struct ml_rope *rope; /* NULL: no position */
};

/* Multi-head latent attention (layers/mla.c). */
struct ml_mla_weights {
    struct ml_linear q_a, q_b;       /* q_a.out 0: q_b reads the layer's input */
    struct ml_linear kv_a, kv_b, o;  /* kv_b is not multiplied by itself, but as keys and values: */
    struct ml_linear *keys, *values; /* [heads] [latent, nope], the transpose; [v_dim, latent] */
    struct ml_norm q_norm, kv_norm;
    size_t heads, nope, rotary, latent, v_dim;
    float scale;
};

/* What mixes the tokens of a sequence. */
enum ml_mixer_kind { ML_MIXER_ATTENTION, ML_MIXER_MLA };
struct ml_mixer {
    enum ml_mixer_kind kind;
    union {
        struct ml_attention_weights attention;
        struct ml_mla_weights mla;
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
    size_t device;                    /* number of the device, of the model's list, that it runs on */
    struct ml_norm attn_in, attn_out; /* before, and on the output of, the mixer; w NULL where absent */
    struct ml_norm mlp_in, mlp_out;   /* the same of the feed-forward block */
    struct ml_mixer mixer;
    struct ml_ffn ffn;
    struct ml_site *sites; /* [n_sites] all linears of mixer and ffn */
    size_t n_sites;
};

/* A tensor that a linear was made from, alone or as one of several: tensors that hold q, k and v, or all
 * experts, are the origin of each. NULL for a tied head, which is the embedding. */
struct ml_origin {
    const struct ml_tensor *tensor;
    bool bias; /* it is the linear's bias; else weights, or what they are decoded with */
    const struct ml_origin *next;
};

/* ---- architectures -------------------------------------------------------------------------------- */

struct ml_binder;
struct ml_step;

struct ml_arch {
    const char *model_type;
    /* Fills a layer (index is set), its sites too, from tensors; fails by name. */
    marlin_status (*bind)(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err);
    /* x [n, H] -> x after the layer, in place, for the rows of the running pass. */
    void (*layer)(struct ml_step *s, const struct ml_layer *l, float *x);
    float norm_offset;     /* 1: zero-centred norm weights */
    bool plain_last_norm;  /* the weights of the norm before the head are not zero-centred */
    bool layer_norm;       /* LayerNorm with biases instead of RMSNorm */
    bool scale_embedding;  /* embedding * sqrt(H), the factor rounded to the embedding's type */
    bool norm_embedding;   /* embedding rows go through an RMSNorm without weights */
    bool rope_interleaved; /* pairs (2i, 2i + 1) rotate */
    bool has_backward;     /* the layer is one that quantization/signal/backward.c can differentiate */
};

/* NULL for an unknown model_type. */
const struct ml_arch *ml_arch_find(const char *model_type);

/* ---- the model ------------------------------------------------------------------------------------ */

struct ml_owned; /* memory of weights that could not be used in the mapping */

struct ml_model {
    const struct ml_config *config;
    struct ml_config *owned_config; /* NULL when config lives in the arena */
    const struct ml_arch *arch;
    struct ml_device **devices; /* [n_devices] */
    const struct ml_ops **ops;  /* [n_devices] */
    size_t n_devices;
    bool owns_device;         /* the one there is */
    struct ml_placed *placed; /* memory of weights on devices that are not the host */
    size_t n_groups;          /* groups of layers that share pages (cache/layout.h) */
    enum ml_dtype kv_dtype;
    enum ml_quant_mode mode;
    bool headers_only;
    struct ml_tensors *tensors; /* what the matrices point into; NULL for a random model */
    struct ml_names names;      /* how they are called there */
    struct ml_arena arena;
    struct ml_owned *owned;
    struct ml_rope rope, rope_local;
    struct ml_matrix embedding;             /* [vocab, H]; unset when embedding_rows */
    struct ml_quant_matrix *embedding_rows; /* [vocab, H] as int8, or NULL */
    const struct ml_tensor *embedding_from; /* of its weights */
    float embedding_scale;
    struct ml_norm embedding_norm; /* of rows of token ids; w NULL = none */
    struct ml_embedding embed;     /* the same, where the first device reads it */
    struct ml_layer *layers;       /* [num_layers] */
    struct ml_norm norm;
    struct ml_linear head; /* [vocab, H]; the embedding when tied */
    uint64_t weight_bytes, bytes_per_token, products_per_token, parameters;
    size_t quant_rows, quant_cols; /* largest padded sizes of a quantized matrix; 0 when there is none */
    size_t sum_rows;               /* most outputs of a layer that is a sum of pieces; 0 when there is none */
};

/* ---- sizes --------------------------------------------------------------------------------------- */

/* Bytes of the copy of q that the model makes in the order of this machine's kernels; 0 when products read q
 * as it is stored. */
size_t ml_model_copy_bytes(const struct ml_model *m, const struct ml_quant_matrix *q);
/* Bytes of memory that a product with q reads: tiles or rows, and scales. */
uint64_t ml_model_held_bytes(const struct ml_model *m, const struct ml_quant_matrix *q);
/* Bytes that one product with a linear layer reads. */
uint64_t ml_linear_bytes(const struct ml_model *m, const struct ml_linear *l);

/* Fills bytes_per_token and products_per_token of a model whose layers are bound. */
void ml_model_count(struct ml_model *m);

/* Widest input of any linear of a model of this shape. */
size_t ml_config_max_cols(const struct ml_config *c);

/* What a layer remembers of a sequence. */
struct ml_layer_memory ml_config_memory(const struct ml_config *c, size_t layer, size_t device);
/* The layout of layers first .. first + n, dealt out over so many devices. */
marlin_status ml_config_layout(const struct ml_config *c, size_t first, size_t n, size_t n_devices,
                               enum ml_dtype dtype, struct ml_arena *arena, struct ml_memory_layout *out,
                               struct marlin_error *err) MARLIN_MUST_CHECK;
/* Bytes of pages of layers first .. first + n. */
marlin_status ml_config_cache_bytes(const struct ml_config *c, size_t first, size_t n, enum ml_dtype dtype,
                                    const struct ml_pages_sizes *sizes, size_t *bytes,
                                    struct marlin_error *err) MARLIN_MUST_CHECK;
/* Bytes of working memory of one device for passes of these sizes. */
marlin_status ml_config_work_bytes(const struct ml_config *c, const struct ml_work_sizes *sizes,
                                   size_t *bytes, struct marlin_error *err) MARLIN_MUST_CHECK;

/* Number of the device that a layer of so many runs on: an equal run of layers each. */
static inline size_t ml_device_of_layer(size_t layer, size_t layers, size_t devices) {
    return layer * devices / layers;
}

#endif
