/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the files of the config reader: what each family of models assumes when a key is absent, and
 * checked reads of single keys.
 */
#ifndef ML_CONVERTERS_HF_INT_H
#define ML_CONVERTERS_HF_INT_H

#include "base/arena.h"
#include "base/json.h"
#include "converters/hf_config.h"

/* Ceilings that keep every product of dimensions inside 63 bits. */
enum {
    ML_HF_MAX_BYTES = 8 << 20,
    ML_HF_MAX_DEPTH = 32,
    ML_HF_MAX_VALUES = 1000000,
    ML_HF_MAX_LAYERS = 4096,
    ML_HF_MAX_WIDTH = 1 << 20,
    ML_HF_MAX_INNER = 1 << 24,
    ML_HF_MAX_HEADS = 1 << 16,
    ML_HF_MAX_HEAD_DIM = 1 << 16,
    ML_HF_MAX_EXPERTS = 1 << 16,
    ML_HF_MAX_GROUPS = 256,
    ML_HF_MAX_VOCAB = 1 << 26
};

/* Which layers see only a window. */
enum ml_hf_sliding {
    ML_HF_SLIDE_NEVER,
    ML_HF_SLIDE_ALL,       /* every layer when sliding_window is set */
    ML_HF_SLIDE_SWITCH,    /* the same, when use_sliding_window is true */
    ML_HF_SLIDE_LATE,      /* with the switch: layers from max_window_layers on */
    ML_HF_SLIDE_NOPE,      /* with the switch: the layers without rotary position */
    ML_HF_SLIDE_ALTERNATE, /* even layers */
    ML_HF_SLIDE_PATTERN    /* all but every sliding_window_pattern-th */
};

enum ml_hf_bias { ML_HF_BIAS_NO, ML_HF_BIAS_YES, ML_HF_BIAS_KEY };

/* Values of absent keys, as transformers has them; 0 = the key must be there unless a comment says
 * otherwise. */
struct ml_hf_family {
    int64_t vocab_size, num_heads;
    int64_t num_kv_heads; /* 0 = num_heads */
    int64_t head_dim;     /* 0 = hidden_size / num_heads */
    int64_t max_positions;
    int64_t window; /* 0 = none */
    int64_t experts, top_k, expert_width;
    int64_t groups, top_groups, dense;                 /* of deepseek_router; 0 = 1 */
    int64_t kv_lora, q_lora, nope_dim, rotated, v_dim; /* of latent attention; kv_lora 0 = none */
    double rms_eps;
    double theta, theta_local; /* theta_local 0 = sliding layers rotate as the full ones */
    double query_scalar, attn_softcap, final_softcap; /* 0 = head_dim, none, none */
    double partial;                                   /* partial_rotary_factor; 0 = 1 */
    double qk_factor, output_multiplier;              /* 0 = the family has no such key */
    double post_norm_eps;                             /* 0 = rms_eps, and no key */
    double routed_scale;                              /* 0 = the family has no such key */
    double glu_limit, glu_alpha;                      /* swiglu_limit, swiglu_alpha; 0 = no such key */
    int64_t pattern;                                  /* sliding_window_pattern; 0 = 6 */
    enum ml_activation activation;
    enum ml_hf_bias attention_bias, mlp_bias;
    enum ml_hf_sliding sliding;
    bool tie;
    bool uses_layer_types;      /* layer_types decides; elsewhere it may only agree */
    bool nope;                  /* no_rope_layers, no_rope_layer_interval */
    bool outer_original;        /* original_max_position_embeddings stands outside the rope parameters */
    bool softcaps;              /* the family reads these three keys */
    bool moe, own_expert_width; /* moe_intermediate_size, mlp_only_layers, decoder_sparse_step are read */
    bool norm_topk;             /* always, when the experts have no width of their own */
    const char *eps_key;        /* NULL = rms_norm_eps */
    const char *qkv_bias_key;   /* NULL = attention_bias */
    bool plain_local;           /* sliding layers rotate without the scaling of the full ones */
    bool nope_full;             /* full layers do not rotate, or layer_rope_theta says which */
    bool rope_alpha;            /* dynamic rope with alpha: a base that does not change with the length */
    bool rotary_dim;            /* rotary_dim instead of partial_rotary_factor */
    bool sequential_only;       /* use_parallel_residual and qk_layernorm must be false */
    bool tempers;               /* llama_4_scaling_beta */
    bool qk_norm_key;           /* use_qk_norm */
    bool attention_gate;
    bool deepseek_router; /* sigmoid scores with groups, shared experts, first layers dense */
    enum ml_router_score score;
};

/* NULL when not supported. */
const struct ml_hf_family *ml_hf_family(const char *model_type);
const char *ml_hf_family_name(const struct ml_hf_family *family); /* its model_type */

struct ml_hf {
    const char *where;
    const struct ml_json *text;  /* the text model's object */
    const struct ml_json *outer; /* the whole file's object; often the same */
    const struct ml_hf_family *family;
    struct ml_config *out;
    struct ml_arena *arena;
    struct marlin_error *err;
};

/* --- reads of one key (hf_read.c); null counts as absent --------------------------------------------- */

/* A member of obj, or NULL. */
const struct ml_json *ml_hf_get(const struct ml_json *obj, const char *key);
/* Of the text model, else of the whole file. */
const struct ml_json *ml_hf_any(const struct ml_hf *h, const char *key);

/* Absent: `absent` when it is within [lo, hi], else the error says that the key is missing. */
marlin_status ml_hf_int(const struct ml_hf *h, const struct ml_json *obj, const char *key, int64_t lo,
                        int64_t hi, int64_t absent, int64_t *out) MARLIN_MUST_CHECK;
/* Finite and above `above`; absent as given. */
marlin_status ml_hf_real(const struct ml_hf *h, const struct ml_json *obj, const char *key, double above,
                         double absent, double *out) MARLIN_MUST_CHECK;
marlin_status ml_hf_bool(const struct ml_hf *h, const struct ml_json *v, const char *key, bool absent,
                         bool *out) MARLIN_MUST_CHECK;
/* Copies a string; absent or not fitting: dst is "" (absent) or an error (too long, not a string). */
marlin_status ml_hf_text(const struct ml_hf *h, const struct ml_json *v, const char *key, char *dst,
                         size_t cap) MARLIN_MUST_CHECK;
/* FORMAT error "where: key: what". */
#define ml_hf_bad(h, key, what) ml_fail((h)->err, MARLIN_ERR_FORMAT, "%s: %s: %s", (h)->where, (key), (what))

/* --- parts of the config ----------------------------------------------------------------------------- */

marlin_status ml_hf_rope(struct ml_hf *h) MARLIN_MUST_CHECK;    /* after dimensions */
marlin_status ml_hf_layers(struct ml_hf *h) MARLIN_MUST_CHECK;  /* layer_rope, then layer_kind */
marlin_status ml_hf_experts(struct ml_hf *h) MARLIN_MUST_CHECK; /* num_experts and layer_moe */
marlin_status ml_hf_tokens(struct ml_hf *h) MARLIN_MUST_CHECK;  /* bos, pad, eos of config.json */
/* `generation` is the root of generation_config.json. Warns of what it cannot use. */
void ml_hf_generation(const struct ml_hf *h, const struct ml_json *generation);

#endif
