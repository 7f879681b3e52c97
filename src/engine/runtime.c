/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the order in which device, pool, model and tokenizer come and go.
 */
#include "engine/runtime.h"

#include "base/buf.h"
#include "base/clock.h"
#include "converters/gguf.h"
#include "converters/model_look.h"

#include <math.h>
#include <string.h>

enum { DEFAULT_CONTEXT = 4096, PROMPT_LIMIT = 256 << 20, TOKEN_LIMIT = 1 << 20 };

static marlin_status open_machine(const struct ml_runtime_options *o, struct ml_runtime *r,
                                  struct marlin_error *err) {
    const marlin_status st = ml_device_open(o->device ? o->device : "cpu", &r->device, err);
    if (st != MARLIN_OK) return st;
    return ml_pool_create(o->threads, &r->pool, err);
}

static marlin_status model_options(const struct ml_runtime *r, const struct ml_runtime_options *o,
                                   struct ml_model_options *out, struct marlin_error *err) {
    *out = (struct ml_model_options){
        .devices = &r->device, .n_devices = 1, .pool = r->pool, .kv_dtype = ML_KV_DEFAULT, .exact = o->exact};
    if (!o->cache_type || ml_kv_type_parse(o->cache_type, &out->kv_dtype)) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_ARGUMENT, "no type of cache is called '%.80s': use one of " ML_KV_TYPES,
                   o->cache_type);
}

static void take_eos(struct ml_runtime *r) {
    const struct ml_config *c = ml_model_config(r->model);
    r->n_eos = (size_t)c->n_eos;
    memcpy(r->eos, c->eos_ids, r->n_eos * sizeof(*r->eos));
}

/* Fine-tunes for conversations often end a turn by a token of their own, which only the tokenizer's configuration
 * knows as the end. */
static marlin_status add_eos_of_chat(struct ml_runtime *r, struct marlin_error *err) {
    const char *text = ml_chat_special(r->chat, "eos_token");
    struct ml_ids ids = {0};
    if (!text || !*text) return MARLIN_OK;
    const marlin_status st =
        ml_tokenizer_encode(r->tokenizer, text, strlen(text), ML_ENCODE_SPECIAL, &ids, err);
    bool known = st != MARLIN_OK || ids.n != 1;
    for (size_t i = 0; i < r->n_eos && !known; i++)
        known = r->eos[i] == ids.id[0];
    if (!known) r->eos[r->n_eos++] = ids.id[0];
    ml_ids_free(&ids);
    return st;
}

static marlin_status open_gguf_chat(const char *path, struct ml_chat **out, struct marlin_error *err) {
    struct ml_gguf *g = NULL;
    struct ml_buf bos, eos;
    marlin_status st;
    ml_buf_init(&bos, TOKEN_LIMIT);
    ml_buf_init(&eos, TOKEN_LIMIT);
    ML_TRY(ml_gguf_open(path, &g, err));
    const char *text = ml_gguf_string(g, "tokenizer.chat_template");
    if (!text) {
        st = ml_fail(err, MARLIN_ERR_NOT_FOUND, "%s: has no chat template", path);
        goto out;
    }
    ML_TRY(ml_gguf_token_text(g, "tokenizer.ggml.bos_token_id", &bos, err));
    ML_TRY(ml_gguf_token_text(g, "tokenizer.ggml.eos_token_id", &eos, err));
    ML_TRY(ml_buf_add(&bos, "", 1));
    ML_TRY(ml_buf_add(&eos, "", 1));
    ML_TRY(ml_chat_open_text(path, text, strlen(text), bos.data, eos.data, out, err));
out:
    ml_buf_free(&bos);
    ml_buf_free(&eos);
    ml_gguf_close(g);
    return st;
}

/* A model without a template, or with one that cannot be read, still continues text. */
static marlin_status open_chat(const char *model, struct ml_runtime *r, struct marlin_error *err) {
    const marlin_status st = ml_gguf_is(model) ? open_gguf_chat(model, &r->chat, &r->chat_error)
                                               : ml_chat_open_dir(model, &r->chat, &r->chat_error);
    if (st != MARLIN_OK) {
        r->chat = NULL;
        return MARLIN_OK;
    }
    return add_eos_of_chat(r, err);
}

marlin_status ml_runtime_open(const char *dir, const struct ml_runtime_options *options,
                              struct ml_runtime *out, struct marlin_error *err) {
    const struct ml_runtime_options none = {0};
    const struct ml_runtime_options *o = options ? options : &none;
    const double start = ml_clock_seconds();
    struct ml_model_options mo;
    char found[PATH_MAX];
    marlin_status st;

    memset(out, 0, sizeof(*out));
    ML_TRY(ml_model_look(dir, found, err));
    ML_TRY(open_machine(o, out, err));
    ML_TRY(model_options(out, o, &mo, err));
    ML_TRY(ml_model_load(found, &mo, &out->model, err));
    if (!o->no_tokenizer) {
        const uint64_t rows = (uint64_t)ml_model_config(out->model)->vocab_size;
        ML_TRY(ml_tokenizer_load(found, rows, &out->tokenizer, err));
    }
    take_eos(out);
    if (out->tokenizer) ML_TRY(open_chat(found, out, err));
    out->load_seconds = ml_clock_seconds() - start;
out:
    if (st != MARLIN_OK) ml_runtime_close(out);
    return st;
}

marlin_status ml_runtime_random(const struct ml_config *config, const struct ml_random_format *format,
                                uint64_t seed, const struct ml_runtime_options *options,
                                struct ml_runtime *out, struct marlin_error *err) {
    const struct ml_runtime_options none = {0};
    const struct ml_runtime_options *o = options ? options : &none;
    const double start = ml_clock_seconds();
    struct ml_model_options mo;
    marlin_status st;

    memset(out, 0, sizeof(*out));
    ML_TRY(open_machine(o, out, err));
    ML_TRY(model_options(out, o, &mo, err));
    ML_TRY(ml_model_random(config, format, seed, &mo, &out->model, err));
    take_eos(out);
    out->load_seconds = ml_clock_seconds() - start;
out:
    if (st != MARLIN_OK) ml_runtime_close(out);
    return st;
}

void ml_runtime_close(struct ml_runtime *r) {
    ml_chat_free(r->chat);
    if (r->tokenizer) ml_tokenizer_free(r->tokenizer);
    if (r->model) ml_model_free(r->model);
    ml_pool_free(r->pool);
    if (r->device) r->device->ops->destroy(r->device);
    memset(r, 0, sizeof(*r));
}

marlin_status ml_runtime_chat_ids(const struct ml_runtime *r, const char *request, size_t len,
                                  struct ml_ids *ids, struct marlin_error *err) {
    struct ml_buf prompt;
    if (!r->chat) {
        if (err) *err = r->chat_error;
        return r->chat_error.code ? r->chat_error.code
                                  : ml_fail(err, MARLIN_ERR_NOT_FOUND, "chat: there is no tokenizer");
    }
    ml_buf_init(&prompt, PROMPT_LIMIT);
    marlin_status st = ml_chat_render(r->chat, request, len, &prompt, err);
    if (st == MARLIN_OK)
        st = ml_tokenizer_encode(r->tokenizer, prompt.data ? prompt.data : "", prompt.len, ML_ENCODE_SPECIAL,
                                 ids, err);
    if (st == MARLIN_OK && ids->n == 0)
        st = ml_fail(err, MARLIN_ERR_FORMAT, "chat: the template makes nothing of the conversation");
    ml_buf_free(&prompt);
    return st;
}

size_t ml_runtime_context(const struct ml_model *m, size_t wanted) {
    const int64_t own = ml_model_config(m)->max_positions;
    if (wanted) return wanted;
    return own > 0 && own < DEFAULT_CONTEXT ? (size_t)own : DEFAULT_CONTEXT;
}

void ml_sampling_from_config(const struct ml_config *c, struct ml_sampling *out) {
    ml_sampling_default(out);
    out->temperature = isnan(c->temperature) ? 0.8f : (float)c->temperature;
    if (c->has_do_sample && !c->do_sample) out->temperature = 0.0f;
    if (c->top_k > 0 && c->top_k <= INT32_MAX) out->top_k = (int32_t)c->top_k;
    if (!isnan(c->top_p)) out->top_p = (float)c->top_p;
    if (!isnan(c->min_p)) out->min_p = (float)c->min_p;
    if (!isnan(c->repetition_penalty)) out->repetition_penalty = (float)c->repetition_penalty;
}
