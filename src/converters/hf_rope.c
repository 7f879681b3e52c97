/* SPDX-License-Identifier: Apache-2.0
 *
 * Rotary position in all its spellings: rope_parameters (flat, or one object a kind of layer), and the older
 * rope_theta, rope_scaling, rope_local_base_freq and partial_rotary_factor beside it.
 */
#include "converters/hf_int.h"

#include <math.h>
#include <string.h>

struct kind_name {
    const char *name;
    enum ml_rope_kind kind;
};

static const struct kind_name kinds[] = {
    {"default", ML_ROPE_DEFAULT}, {"linear", ML_ROPE_LINEAR},   {"llama3", ML_ROPE_LLAMA3},
    {"yarn", ML_ROPE_YARN},       {"dynamic", ML_ROPE_DYNAMIC}, {"longrope", ML_ROPE_LONGROPE},
};

static marlin_status read_kind(const struct ml_hf *h, const struct ml_json *obj, struct ml_rope_config *r) {
    const struct ml_json *v = ml_hf_get(obj, "rope_type");
    if (!v) v = ml_hf_get(obj, "type");
    const char *name = v ? ml_json_string(v, NULL) : "default";
    if (!name) return ml_hf_bad(h, "rope_type", "is not a string");
    /* Early Phi-3 files call longrope by these names. */
    if (h->family->outer_original && (strcmp(name, "su") == 0 || strcmp(name, "yarn") == 0))
        name = "longrope";
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            r->kind = kinds[i].kind;
            return MARLIN_OK;
        }
    }
    return ml_fail(h->err, MARLIN_ERR_UNSUPPORTED,
                   "%s: rope_type \"%.40s\" is not supported: supported are default, linear, llama3, yarn, "
                   "dynamic, longrope",
                   h->where, name);
}

static marlin_status read_list(const struct ml_hf *h, const struct ml_json *obj, const char *key,
                               int64_t rotary, double **out, size_t *count) {
    const struct ml_json *list = ml_hf_get(obj, key);
    if (!list || ml_json_type(list) != ML_JSON_ARRAY || ml_json_count(list) != (size_t)(rotary / 2))
        return ml_fail(h->err, MARLIN_ERR_FORMAT, "%s: %s: has %zu numbers, %lld are needed", h->where, key,
                       ml_json_count(list), (long long)(rotary / 2));
    *out = ml_arena_array(h->arena, ml_json_count(list), sizeof **out);
    if (!*out) return ml_fail(h->err, MARLIN_ERR_MEMORY, "%s: out of memory", h->where);
    for (const struct ml_json *v = ml_json_first(list); v; v = ml_json_next(v)) {
        double factor;
        if (!ml_json_double(v, &factor) || !(factor > 0))
            return ml_hf_bad(h, key, "an entry is not a number above 0");
        (*out)[(*count)++] = factor;
    }
    return MARLIN_OK;
}

static marlin_status read_llama3(const struct ml_hf *h, const struct ml_json *obj, struct ml_rope_config *r) {
    marlin_status st;
    if (!ml_hf_get(obj, "low_freq_factor")) return ml_hf_bad(h, "low_freq_factor", "is missing");
    if (!ml_hf_get(obj, "high_freq_factor")) return ml_hf_bad(h, "high_freq_factor", "is missing");
    ML_TRY(ml_hf_real(h, obj, "low_freq_factor", 0, 0, &r->low_freq_factor));
    ML_TRY(ml_hf_real(h, obj, "high_freq_factor", 0, 0, &r->high_freq_factor));
    if (r->high_freq_factor <= r->low_freq_factor)
        st = ml_hf_bad(h, "high_freq_factor", "is not above low_freq_factor");
out:
    return st;
}

static marlin_status read_yarn(const struct ml_hf *h, const struct ml_json *obj, struct ml_rope_config *r) {
    marlin_status st;
    ML_TRY(ml_hf_real(h, obj, "beta_fast", 0, 32, &r->beta_fast));
    ML_TRY(ml_hf_real(h, obj, "beta_slow", 0, 1, &r->beta_slow));
    ML_TRY(ml_hf_real(h, obj, "mscale", -1, 0, &r->mscale));
    ML_TRY(ml_hf_real(h, obj, "mscale_all_dim", -1, 0, &r->mscale_all_dim));
    ML_TRY(ml_hf_bool(h, ml_hf_get(obj, "truncate"), "truncate", true, &r->truncate));
    if (r->beta_fast < r->beta_slow) st = ml_hf_bad(h, "beta_fast", "is below beta_slow");
    if (st == MARLIN_OK && (r->mscale < 0 || r->mscale_all_dim < 0))
        st = ml_hf_bad(h, "mscale", "is negative");
out:
    return st;
}

/* The length the model was first trained with. Phi-3 keeps it outside, where it wins. */
static marlin_status read_original(const struct ml_hf *h, const struct ml_json *obj,
                                   struct ml_rope_config *r) {
    static const char key[] = "original_max_position_embeddings";
    const bool scaled = r->kind == ML_ROPE_LLAMA3 || r->kind == ML_ROPE_YARN || r->kind == ML_ROPE_LONGROPE;
    const struct ml_json *outer = ml_hf_get(h->text, key) ? h->text : NULL;
    const struct ml_json *from = h->family->outer_original && outer ? outer : obj;
    if (!ml_hf_get(from, key) && outer) from = outer;
    const int64_t absent = scaled ? h->out->max_positions : 0;
    if (!ml_hf_get(from, key)) {
        r->original_max = absent;
        return MARLIN_OK;
    }
    return ml_hf_int(h, from, key, 2, INT32_MAX, absent, &r->original_max);
}

static marlin_status read_factor(const struct ml_hf *h, const struct ml_json *obj, struct ml_rope_config *r) {
    const bool needed = r->kind == ML_ROPE_LINEAR || r->kind == ML_ROPE_DYNAMIC || r->kind == ML_ROPE_LLAMA3;
    r->has_factor = ml_hf_get(obj, "factor") != NULL;
    if (r->kind == ML_ROPE_DYNAMIC && h->family->rope_alpha && ml_hf_get(obj, "alpha")) return MARLIN_OK;
    if (needed && !r->has_factor) return ml_hf_bad(h, "rope factor", "is missing");
    return ml_hf_real(h, obj, "factor", 0, 1, &r->factor);
}

/* The even number of rotated dimensions of a head. */
static marlin_status read_rotary(const struct ml_hf *h, const struct ml_json *obj, struct ml_rope_config *r,
                                 int64_t *rotary) {
    const struct ml_json *from = ml_hf_get(obj, "partial_rotary_factor") ? obj : h->text;
    double absent = h->family->partial > 0 ? h->family->partial : 1;
    marlin_status st = MARLIN_OK;
    if (h->family->rotary_dim && ml_hf_get(h->text, "rotary_dim")) {
        int64_t dims;
        st = ml_hf_int(h, h->text, "rotary_dim", 2, h->out->head_dim, 0, &dims);
        if (st != MARLIN_OK) return st;
        absent = (double)dims / (double)h->out->head_dim;
    }
    st = ml_hf_real(h, from, "partial_rotary_factor", 0, absent, &r->partial);
    if (st != MARLIN_OK) return st;
    if (r->partial > 1) return ml_hf_bad(h, "partial_rotary_factor", "is above 1");
    *rotary = (int64_t)((double)h->out->head_dim * r->partial);
    if (*rotary < 2 || *rotary % 2)
        return ml_fail(h->err, MARLIN_ERR_FORMAT,
                       "%s: head_dim: %lld gives %lld rotary dimensions: an even number is needed", h->where,
                       (long long)h->out->head_dim, (long long)*rotary);
    return MARLIN_OK;
}

/* Hunyuan: "dynamic" with alpha is a greater base, whatever the length. */
static marlin_status read_alpha(const struct ml_hf *h, const struct ml_json *obj, int64_t rotary,
                                struct ml_rope_config *r) {
    double alpha;
    const marlin_status st = ml_hf_real(h, obj, "alpha", 0, 1, &alpha);
    if (st != MARLIN_OK) return st;
    if (rotary < 4) return ml_hf_bad(h, "head_dim", "rope with alpha needs more than 2 rotary dimensions");
    r->kind = ML_ROPE_DEFAULT;
    r->factor = 1;
    r->theta *= pow(alpha, (double)rotary / (double)(rotary - 2));
    return MARLIN_OK;
}

/* obj may be NULL: all defaults. theta is what holds when obj has none. */
static marlin_status read_rope(const struct ml_hf *h, const struct ml_json *obj, double theta,
                               struct ml_rope_config *r) {
    int64_t rotary = 0;
    marlin_status st;
    memset(r, 0, sizeof *r);
    if (obj && ml_json_type(obj) != ML_JSON_OBJECT)
        return ml_hf_bad(h, "rope parameters", "are not an object");
    if (ml_hf_get(obj, "mrope_section"))
        return ml_fail(h->err, MARLIN_ERR_UNSUPPORTED, "%s: mrope_section: is not supported", h->where);
    r->truncate = true;
    ML_TRY(read_kind(h, obj, r));
    ML_TRY(read_rotary(h, obj, r, &rotary));
    ML_TRY(ml_hf_real(h, obj, "rope_theta", 1, theta, &r->theta));
    ML_TRY(read_factor(h, obj, r));
    ML_TRY(read_original(h, obj, r));
    ML_TRY(ml_hf_real(h, obj, "attention_factor", 0, 0, &r->attention_factor));
    if (r->kind == ML_ROPE_LLAMA3) ML_TRY(read_llama3(h, obj, r));
    if (r->kind == ML_ROPE_YARN) ML_TRY(read_yarn(h, obj, r));
    if (h->family->tempers) ML_TRY(ml_hf_real(h, obj, "llama_4_scaling_beta", -1, 0, &r->temper));
    if (r->temper != 0 && r->original_max == 0)
        return ml_hf_bad(h, "llama_4_scaling_beta", "needs original_max_position_embeddings");
    if (r->kind == ML_ROPE_DYNAMIC && h->family->rope_alpha && ml_hf_get(obj, "alpha"))
        ML_TRY(read_alpha(h, obj, rotary, r));
    if (r->kind == ML_ROPE_DYNAMIC && rotary < 4)
        st = ml_hf_bad(h, "head_dim", "dynamic rope needs more than 2 rotary dimensions");
    if (r->kind == ML_ROPE_LONGROPE) {
        ML_TRY(read_list(h, obj, "short_factor", rotary, &r->short_factor, &r->n_short));
        ML_TRY(read_list(h, obj, "long_factor", rotary, &r->long_factor, &r->n_long));
    }
out:
    return st;
}

marlin_status ml_hf_rope(struct ml_hf *h) {
    struct ml_config *c = h->out;
    const struct ml_json *scaling = ml_hf_get(h->text, "rope_scaling");
    const struct ml_json *all = ml_hf_get(h->text, "rope_parameters");
    const struct ml_json *full = ml_hf_get(all, "full_attention");
    const struct ml_json *local = ml_hf_get(all, "sliding_attention");
    const bool nested = full || local, split = h->family->theta_local > 0;
    double theta, theta_local = 0;
    marlin_status st;
    if (all && ml_json_type(all) != ML_JSON_OBJECT)
        return ml_hf_bad(h, "rope_parameters", "is not an object");
    if (split && ml_json_count(all) > 0 && !nested)
        return ml_hf_bad(h, "rope_parameters", "needs full_attention and sliding_attention");
    ML_TRY(ml_hf_real(h, h->text, "rope_theta", 1, h->family->theta, &theta));
    ML_TRY(ml_hf_real(h, h->text, "rope_local_base_freq", 1, h->family->theta_local, &theta_local));
    /* An older file has rope_scaling; one that carries both means the older one. */
    ML_TRY(read_rope(h, scaling ? scaling : nested ? full : all, theta, &c->rope));
    if (split || local)
        ML_TRY(read_rope(h, local, split ? theta_local : theta, &c->rope_local));
    else if (h->family->plain_local)
        ML_TRY(read_rope(h, NULL, c->rope.theta, &c->rope_local));
    else
        c->rope_local = c->rope;
out:
    return st;
}
