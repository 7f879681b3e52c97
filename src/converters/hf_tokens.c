/* SPDX-License-Identifier: Apache-2.0
 *
 * Token numbers with a meaning, and the sampling defaults of generation_config.json.
 */
#include "base/log.h"
#include "converters/hf_int.h"

#include <math.h>

/* Numbers may lie at or above vocab_size (padding tokens of many files do); such a token never comes. */
static marlin_status read_token(const struct ml_hf *h, const char *key, int64_t *out) {
    const struct ml_json *obj = ml_hf_get(h->text, key) ? h->text : h->outer;
    return ml_hf_int(h, obj, key, -1, INT32_MAX, -1, out);
}

/* -1 stands for none. */
static marlin_status read_eos(const struct ml_hf *h, const struct ml_json *v) {
    struct ml_config *c = h->out;
    const bool list = v && ml_json_type(v) == ML_JSON_ARRAY;
    int64_t ids[ML_MAX_EOS];
    int n = 0;
    if (!v) return MARLIN_OK;
    if (list && ml_json_count(v) > ML_MAX_EOS)
        return ml_fail(h->err, MARLIN_ERR_LIMIT, "%s: eos_token_id: %zu tokens, more than the limit of %d",
                       h->where, ml_json_count(v), ML_MAX_EOS);
    for (const struct ml_json *e = list ? ml_json_first(v) : v; e; e = list ? ml_json_next(e) : NULL) {
        int64_t id;
        if (!ml_json_i64(e, &id) || id < -1 || id > INT32_MAX)
            return ml_hf_bad(h, "eos_token_id", "is not a token number or an array of them");
        if (id >= 0) ids[n++] = id;
    }
    c->n_eos = n;
    for (int i = 0; i < n; i++)
        c->eos_ids[i] = ids[i];
    return MARLIN_OK;
}

marlin_status ml_hf_tokens(struct ml_hf *h) {
    struct ml_config *c = h->out;
    marlin_status st;
    c->temperature = c->top_p = c->min_p = c->repetition_penalty = (double)NAN;
    c->top_k = -1;
    ML_TRY(read_token(h, "bos_token_id", &c->bos_id));
    ML_TRY(read_token(h, "pad_token_id", &c->pad_id));
    st = read_eos(h, ml_hf_any(h, "eos_token_id"));
out:
    return st;
}

static marlin_status read_fraction(const struct ml_hf *h, const struct ml_json *g, const char *key,
                                   double *out) {
    double value;
    const struct ml_json *v = ml_hf_get(g, key);
    if (!v) return MARLIN_OK;
    if (!ml_json_double(v, &value) || value < 0 || value > 1)
        return ml_hf_bad(h, key, "is not a number from 0 to 1");
    *out = value;
    return MARLIN_OK;
}

static marlin_status read_temperature(const struct ml_hf *h, const struct ml_json *v) {
    double value;
    if (!v) return MARLIN_OK;
    if (!ml_json_double(v, &value) || value < 0)
        return ml_hf_bad(h, "temperature", "is not a number from 0 up");
    h->out->temperature = value;
    return MARLIN_OK;
}

static marlin_status read_do_sample(const struct ml_hf *h, const struct ml_json *v) {
    struct ml_config *c = h->out;
    const marlin_status st = ml_hf_bool(h, v, "do_sample", false, &c->do_sample);
    c->has_do_sample = v && st == MARLIN_OK;
    return st;
}

/* The file is advice: a value that cannot be used is said and left aside, and the model runs without. */
static void advise(const struct ml_hf *h, marlin_status st) {
    if (st != MARLIN_OK) ml_log(ML_LOG_WARN, "%s: it is left aside", h->err->text);
}

void ml_hf_generation(const struct ml_hf *config, const struct ml_json *g) {
    struct marlin_error err = {0};
    struct ml_hf own = *config, *h = &own;
    struct ml_config *c = h->out;
    h->err = &err;
    if (ml_json_type(g) != ML_JSON_OBJECT) {
        advise(h, ml_hf_bad(h, "the root", "is not an object"));
        return;
    }
    advise(h, read_eos(h, ml_hf_get(g, "eos_token_id")));
    advise(h, read_temperature(h, ml_hf_get(g, "temperature")));
    advise(h, read_fraction(h, g, "top_p", &c->top_p));
    advise(h, read_fraction(h, g, "min_p", &c->min_p));
    advise(h, ml_hf_real(h, g, "repetition_penalty", 0, (double)NAN, &c->repetition_penalty));
    advise(h, ml_hf_int(h, g, "top_k", -1, INT32_MAX, -1, &c->top_k));
    advise(h, read_do_sample(h, ml_hf_get(g, "do_sample")));
}
