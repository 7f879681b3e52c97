/* SPDX-License-Identifier: Apache-2.0
 *
 * Models of a given shape with random weights, for benchmarks.
 */
#include "models/bind.h"

#include <string.h>

/* ---- the config, copied: it is the caller's ---- */

static void *copy_array(struct ml_arena *a, const void *from, size_t count, size_t size) {
    void *to = ml_arena_array(a, count ? count : 1, size);
    if (to && from && count) memcpy(to, from, count * size);
    return to;
}

static bool copy_rope(struct ml_arena *a, struct ml_rope_config *r) {
    r->short_factor = copy_array(a, r->short_factor, r->n_short, sizeof(double));
    r->long_factor = copy_array(a, r->long_factor, r->n_long, sizeof(double));
    return r->short_factor && r->long_factor;
}

static struct ml_config *copy_config(struct ml_arena *a, const struct ml_config *from) {
    const size_t n = (size_t)from->num_layers;
    struct ml_config *c = copy_array(a, from, 1, sizeof(*c));
    if (!c) return NULL;
    c->layer_kind = copy_array(a, from->layer_kind, n, sizeof(*c->layer_kind));
    c->layer_rope = copy_array(a, from->layer_rope, n, sizeof(*c->layer_rope));
    c->layer_moe = copy_array(a, from->layer_moe, n, sizeof(*c->layer_moe));
    c->json = NULL;
    c->json_len = 0;
    c->arena = NULL;
    const bool ropes = copy_rope(a, &c->rope) && copy_rope(a, &c->rope_local);
    return ropes && c->layer_kind && c->layer_rope && c->layer_moe ? c : NULL;
}

static bool has_bits(enum ml_quant_format f, int bits) {
    return bits >= ml_form_of(f)->min_bits && bits <= ml_form_of(f)->max_bits;
}

static marlin_status check_format(const struct ml_random_format *f, struct marlin_error *err) {
    const bool marlin = has_bits(ML_QUANT_TAP, f->bits) || has_bits(ML_QUANT_INT8, f->bits);
    if (f->bits == 16 || (f->exl3 ? has_bits(ML_QUANT_EXL3, f->bits) : marlin)) return MARLIN_OK;
    return ml_fail(
        err, MARLIN_ERR_UNSUPPORTED,
        "random models of %d bits a weight are not supported: marlin has 2 to 6 and 8, EXL3 1 to 8, "
        "and 16 is plain",
        f->bits);
}

marlin_status ml_model_random(const struct ml_config *config, const struct ml_random_format *format,
                              uint64_t seed, const struct ml_model_options *options, struct ml_model **out,
                              struct marlin_error *err) {
    struct ml_model *m = NULL;
    struct ml_source *source = NULL;
    struct ml_pool *pool = options ? options->pool : NULL;
    marlin_status st;

    ML_TRY(check_format(format, err));
    ML_TRY(ml_model_new(config, options, &m, err));
    m->config = copy_config(&m->arena, config);
    if (!m->config) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "random model: out of memory");
        goto out;
    }
    m->names = ml_names_canonical();
    ML_TRY(ml_source_random(m, format, seed, pool, &source, err));
    ML_TRY(ml_model_bind(m, source, pool, err));
out:
    if (source) source->ops->close(source);
    if (st == MARLIN_OK)
        *out = m;
    else
        ml_model_free(m);
    return st;
}
