/* SPDX-License-Identifier: Apache-2.0
 *
 * What differs from layer to layer: sliding window or full attention, rotary position or none, experts or
 * one dense block.
 */
#include "converters/hf_int.h"

#include <string.h>

static marlin_status no_memory(const struct ml_hf *h) {
    return ml_fail(h->err, MARLIN_ERR_MEMORY, "%s: out of memory", h->where);
}

/* An array key with one value a layer. */
static marlin_status per_layer(const struct ml_hf *h, const struct ml_json *v, const char *key) {
    if (ml_json_type(v) != ML_JSON_ARRAY || ml_json_count(v) != (size_t)h->out->num_layers)
        return ml_fail(h->err, MARLIN_ERR_FORMAT, "%s: %s: has %zu entries, the model %lld layers", h->where,
                       key, ml_json_count(v), (long long)h->out->num_layers);
    return MARLIN_OK;
}

/* --- rotary position ----------------------------------------------------------------------------------- */

static marlin_status listed_rope(const struct ml_hf *h, const struct ml_json *list) {
    marlin_status st = per_layer(h, list, "no_rope_layers");
    bool *rope = h->out->layer_rope;
    for (const struct ml_json *v = ml_json_first(list); v && st == MARLIN_OK; v = ml_json_next(v)) {
        int64_t uses;
        if (!ml_json_i64(v, &uses) || uses < 0 || uses > 1)
            return ml_hf_bad(h, "no_rope_layers", "an entry is not 0 or 1");
        *rope++ = uses == 1;
    }
    return st;
}

static marlin_status read_rope_layers(const struct ml_hf *h) {
    struct ml_config *c = h->out;
    int64_t interval = 0;
    const struct ml_json *list = h->family->nope ? ml_hf_get(h->text, "no_rope_layers") : NULL;
    if (list) return listed_rope(h, list);
    if (h->family->nope) {
        const marlin_status st = ml_hf_int(h, h->text, "no_rope_layer_interval", 1, INT32_MAX, 4, &interval);
        if (st != MARLIN_OK) return st;
    }
    for (int64_t i = 0; i < c->num_layers; i++) {
        c->layer_rope[i] = interval == 0 || (i + 1) % interval != 0;
    }
    return MARLIN_OK;
}

/* --- window -------------------------------------------------------------------------------------------- */

static bool switched(enum ml_hf_sliding rule) {
    return rule == ML_HF_SLIDE_SWITCH || rule == ML_HF_SLIDE_LATE || rule == ML_HF_SLIDE_NOPE;
}

/* The window in tokens, 0 when the family or the switch says that there is none. null means none, which is
 * not the same as absent. */
static marlin_status read_window(const struct ml_hf *h, int64_t *window) {
    const enum ml_hf_sliding rule = h->family->sliding;
    bool on = true;
    *window = 0;
    if (rule == ML_HF_SLIDE_NEVER) return MARLIN_OK;
    if (switched(rule)) {
        const marlin_status st =
            ml_hf_bool(h, ml_hf_get(h->text, "use_sliding_window"), "use_sliding_window", false, &on);
        if (st != MARLIN_OK) return st;
    }
    const struct ml_json *v = ml_json_get(h->text, "sliding_window");
    int64_t size = v ? 0 : h->family->window;
    if (ml_hf_get(h->text, "sliding_window")) {
        const marlin_status st = ml_hf_int(h, h->text, "sliding_window", 1, INT32_MAX, 0, &size);
        if (st != MARLIN_OK) return st;
    }
    *window = on ? size : 0;
    return MARLIN_OK;
}

struct rule_keys {
    int64_t late, pattern;
};

static bool slides(const struct ml_hf *h, const struct rule_keys *k, int64_t window, int64_t layer) {
    switch (h->family->sliding) {
    case ML_HF_SLIDE_NEVER:
        return false;
    case ML_HF_SLIDE_ALL:
    case ML_HF_SLIDE_SWITCH:
        return window > 0;
    case ML_HF_SLIDE_LATE:
        return window > 0 && layer >= k->late;
    case ML_HF_SLIDE_NOPE:
        return window > 0 && !h->out->layer_rope[layer];
    case ML_HF_SLIDE_ALTERNATE:
        return layer % 2 == 0;
    case ML_HF_SLIDE_PATTERN:
        return (layer + 1) % k->pattern != 0;
    }
    return false;
}

static marlin_status rule_kinds(const struct ml_hf *h, int64_t window) {
    struct ml_config *c = h->out;
    struct rule_keys k = {0};
    const char *pattern =
        ml_hf_get(h->text, "sliding_window_pattern") ? "sliding_window_pattern" : "_sliding_window_pattern";
    marlin_status st;
    ML_TRY(ml_hf_int(h, h->text, "max_window_layers", 0, INT32_MAX, 28, &k.late));
    ML_TRY(ml_hf_int(h, h->text, pattern, 1, INT32_MAX, h->family->pattern ? h->family->pattern : 6,
                     &k.pattern));
    for (int64_t i = 0; i < c->num_layers; i++) {
        c->layer_kind[i] = slides(h, &k, window, i) ? ML_LAYER_SLIDING : ML_LAYER_FULL;
    }
out:
    return st;
}

static marlin_status layer_kind(const struct ml_hf *h, const struct ml_json *v, enum ml_layer_kind *out) {
    const char *name = ml_json_string(v, NULL);
    if (name && strcmp(name, "full_attention") == 0) {
        *out = ML_LAYER_FULL;
    } else if (name && strcmp(name, "sliding_attention") == 0) {
        *out = ML_LAYER_SLIDING;
    } else {
        return ml_fail(h->err, MARLIN_ERR_UNSUPPORTED,
                       "%s: layer_types: \"%.40s\" is not supported: supported are full_attention, "
                       "sliding_attention",
                       h->where, name ? name : ml_json_type_name(v));
    }
    return MARLIN_OK;
}

/* layer_types decides where the family's model reads it; where it does not, a list that says something else
 * than what the model does is refused rather than ignored. */
static marlin_status listed_kinds(const struct ml_hf *h, const struct ml_json *list) {
    marlin_status st = per_layer(h, list, "layer_types");
    enum ml_layer_kind *kind = h->out->layer_kind;
    for (const struct ml_json *v = ml_json_first(list); v && st == MARLIN_OK; v = ml_json_next(v), kind++) {
        enum ml_layer_kind listed = *kind;
        st = layer_kind(h, v, &listed);
        if (st == MARLIN_OK && !h->family->uses_layer_types && listed != *kind)
            return ml_fail(h->err, MARLIN_ERR_UNSUPPORTED,
                           "%s: layer_types: layer %td differs from what a %s model does", h->where,
                           kind - h->out->layer_kind, ml_hf_family_name(h->family));
        if (st == MARLIN_OK) *kind = listed;
    }
    return st;
}

static marlin_status read_kinds(const struct ml_hf *h) {
    struct ml_config *c = h->out;
    int64_t window;
    bool any = false;
    marlin_status st;
    ML_TRY(read_window(h, &window));
    ML_TRY(rule_kinds(h, window));
    const struct ml_json *list = ml_hf_get(h->text, "layer_types");
    if (list) ML_TRY(listed_kinds(h, list));
    for (int64_t i = 0; i < c->num_layers; i++) {
        any = any || c->layer_kind[i] == ML_LAYER_SLIDING;
    }
    if (any && window == 0)
        st = ml_hf_bad(h, "sliding_window", "is null or switched off, but some layers slide");
    c->sliding_window = any ? window : 0;
out:
    return st;
}

/* layer_rope_theta: 0 for a layer that does not rotate; others must share one base. Absent: full layers do not. */
static marlin_status read_rope_thetas(const struct ml_hf *h) {
    static const char key[] = "layer_rope_theta";
    struct ml_config *c = h->out;
    const struct ml_json *list = ml_hf_get(h->text, key);
    double shared = 0;
    for (int64_t i = 0; i < c->num_layers; i++)
        c->layer_rope[i] = c->layer_kind[i] == ML_LAYER_SLIDING;
    marlin_status st = list ? per_layer(h, list, key) : MARLIN_OK;
    int64_t i = 0;
    for (const struct ml_json *v = ml_json_first(list); v && st == MARLIN_OK; v = ml_json_next(v), i++) {
        double theta;
        if (!ml_json_double(v, &theta) || theta < 0)
            return ml_hf_bad(h, key, "an entry is not a number of at least 0");
        if (theta > 0 && shared > 0 && theta != shared)
            return ml_hf_bad(h, key, "layers of different bases are not supported");
        if (theta > 0) shared = theta;
        c->layer_rope[i] = theta > 0;
    }
    return st;
}

marlin_status ml_hf_layers(struct ml_hf *h) {
    struct ml_config *c = h->out;
    const size_t n = (size_t)c->num_layers;
    c->layer_kind = ml_arena_array(h->arena, n, sizeof *c->layer_kind);
    c->layer_rope = ml_arena_array(h->arena, n, sizeof *c->layer_rope);
    c->layer_moe = ml_arena_array(h->arena, n, sizeof *c->layer_moe);
    if (!c->layer_kind || !c->layer_rope || !c->layer_moe) return no_memory(h);
    marlin_status st;
    ML_TRY(read_rope_layers(h));
    ML_TRY(read_kinds(h));
    if (h->family->nope_full) ML_TRY(read_rope_thetas(h));
out:
    return st;
}

/* --- experts ------------------------------------------------------------------------------------------- */

static marlin_status dense_layers(const struct ml_hf *h) {
    struct ml_config *c = h->out;
    int64_t step;
    marlin_status st = ml_hf_int(h, h->text, "decoder_sparse_step", 1, INT32_MAX, 1, &step);
    const struct ml_json *list = ml_hf_get(h->text, "mlp_only_layers");
    if (st != MARLIN_OK) return st;
    for (int64_t i = 0; i < c->num_layers; i++) {
        c->layer_moe[i] = (i + 1) % step == 0;
    }
    if (list && ml_json_type(list) != ML_JSON_ARRAY)
        return ml_hf_bad(h, "mlp_only_layers", "is not an array");
    for (const struct ml_json *v = ml_json_first(list); v; v = ml_json_next(v)) {
        int64_t layer;
        if (!ml_json_i64(v, &layer) || layer < 0 || layer >= c->num_layers)
            return ml_hf_bad(h, "mlp_only_layers", "an entry is not the number of a layer");
        c->layer_moe[layer] = false;
    }
    return MARLIN_OK;
}

static int64_t or_one(int64_t absent) {
    return absent ? absent : 1;
}

/* mlp_layer_types wins over first_k_dense_replace. */
static marlin_status listed_ffn(const struct ml_hf *h) {
    static const char key[] = "mlp_layer_types";
    const struct ml_json *list = ml_hf_get(h->text, key);
    marlin_status st = list ? per_layer(h, list, key) : MARLIN_OK;
    bool *moe = h->out->layer_moe;
    for (const struct ml_json *v = ml_json_first(list); v && st == MARLIN_OK; v = ml_json_next(v)) {
        const char *name = ml_json_string(v, NULL);
        if (!name || (strcmp(name, "dense") != 0 && strcmp(name, "sparse") != 0))
            return ml_hf_bad(h, key, "an entry is neither dense nor sparse");
        *moe++ = strcmp(name, "sparse") == 0;
    }
    return st;
}

/* DeepSeek's spelling: groups of experts, an expert for all tokens, the first layers dense. */
static marlin_status deepseek_router(const struct ml_hf *h) {
    struct ml_config *c = h->out;
    const struct ml_json *t = h->text;
    int64_t shared, dense;
    marlin_status st;
    ML_TRY(ml_hf_int(h, t, "n_group", 1, ML_HF_MAX_GROUPS, or_one(h->family->groups), &c->router_groups));
    ML_TRY(ml_hf_int(h, t, "topk_group", 1, c->router_groups, or_one(h->family->top_groups),
                     &c->router_top_groups));
    ML_TRY(ml_hf_int(h, t, "n_shared_experts", 0, ML_HF_MAX_EXPERTS, 1, &shared));
    ML_TRY(ml_hf_int(h, t, "first_k_dense_replace", 0, c->num_layers, or_one(h->family->dense), &dense));
    ML_TRY(ml_hf_real(h, t, "routed_scaling_factor", 0, h->family->routed_scale, &c->routed_scale));
    if (c->num_experts % c->router_groups) {
        st = ml_hf_bad(h, "n_group", "does not divide the number of experts");
        goto out;
    }
    const int64_t most = c->num_experts / c->router_groups * c->router_top_groups;
    if (c->num_experts / c->router_groups < 2 && c->router_groups > 1)
        st = ml_hf_bad(h, "n_group", "leaves fewer than two experts a group");
    else if (c->experts_per_token > most)
        st = ml_hf_bad(h, "topk_group", "leaves fewer experts than num_experts_per_tok");
    c->shared_width = shared * c->moe_intermediate_size;
    memset(c->layer_moe, false, (size_t)dense * sizeof *c->layer_moe);
    if (st == MARLIN_OK) st = listed_ffn(h);
out:
    return st;
}

static const char *experts_key(const struct ml_hf *h) {
    if (h->family->deepseek_router) return "n_routed_experts";
    return ml_hf_get(h->text, "num_local_experts") ? "num_local_experts" : "num_experts";
}

marlin_status ml_hf_experts(struct ml_hf *h) {
    struct ml_config *c = h->out;
    const struct ml_hf_family *f = h->family;
    const char *count = experts_key(h);
    marlin_status st = MARLIN_OK;
    c->router_groups = c->router_top_groups = 1;
    c->routed_scale = 1;
    c->router_score = f->score;
    if (!f->moe) return MARLIN_OK;
    ML_TRY(ml_hf_int(h, h->text, count, 1, ML_HF_MAX_EXPERTS, f->experts, &c->num_experts));
    ML_TRY(ml_hf_int(h, h->text, "num_experts_per_tok", 1, c->num_experts, f->top_k, &c->experts_per_token));
    memset(c->layer_moe, true, (size_t)c->num_layers * sizeof *c->layer_moe);
    c->moe_intermediate_size = c->intermediate_size;
    c->norm_topk_prob = f->norm_topk;
    if (!f->own_expert_width) return MARLIN_OK;
    ML_TRY(ml_hf_int(h, h->text, "moe_intermediate_size", 1, ML_HF_MAX_INNER, f->expert_width,
                     &c->moe_intermediate_size));
    ML_TRY(ml_hf_bool(h, ml_hf_get(h->text, "norm_topk_prob"), "norm_topk_prob", f->norm_topk,
                      &c->norm_topk_prob));
    st = f->deepseek_router ? deepseek_router(h) : dense_layers(h);
out:
    return st;
}
