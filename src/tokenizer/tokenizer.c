/* SPDX-License-Identifier: Apache-2.0
 *
 * Loading from a model directory, or from a GGUF file, which becomes what the directory would have held.
 */
#include "tokenizer/tokenizer.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "converters/gguf.h"
#include "tokenizer/tokenizer_int.h"

#include <string.h>

enum { PATH_BYTES = 4096 };

/* bos_token is a string, or {"content": "..."} in older files. */
static marlin_status token_of(const struct ml_tokenizer *t, const struct ml_json *config, const char *key,
                              int32_t *id, struct marlin_error *err) {
    const struct ml_json *v = ml_json_get(config, key);
    const char *s = ml_json_string(v, NULL);
    if (!s) s = ml_json_string(ml_json_get(v, "content"), NULL);
    *id = s ? ml_tokenizer_find(t, s) : -1;
    if (s && *id < 0)
        return ml_fail(err, MARLIN_ERR_NOT_FOUND, "%s \"%.60s\" is not in the vocabulary", key, s);
    return MARLIN_OK;
}

/* add_bos_token and add_eos_token: adds what the post-processor does not add already. */
static marlin_status apply_config(struct ml_tokenizer *t, const struct ml_json *config,
                                  struct marlin_error *err) {
    bool bos = t->model != ML_MODEL_BPE && t->n_prefix, eos = false;
    const bool sp = t->model != ML_MODEL_BPE;
    int32_t id = -1;
    marlin_status st;
    ML_TRY(ml_tok_bool(config, "add_bos_token", "tokenizer_config", &bos, err));
    ML_TRY(ml_tok_bool(config, "add_eos_token", "tokenizer_config", &eos, err));
    if (sp && !bos) t->n_prefix = 0;
    if (bos) {
        ML_TRY(token_of(t, config, "bos_token", &id, err));
        if (id >= 0 && sp) t->n_prefix = 0; /* the configuration names the token */
        if (id >= 0 && !t->n_prefix) ML_TRY(ml_affix_add(&t->prefix, &t->n_prefix, id, err));
    }
    if (eos) {
        ML_TRY(token_of(t, config, "eos_token", &id, err));
        if (id >= 0 && !t->n_suffix) ML_TRY(ml_affix_add(&t->suffix, &t->n_suffix, id, err));
    }
out:
    return st;
}

static bool has(const char *dir, const char *name) {
    char path[PATH_BYTES];
    return ml_path_join(path, sizeof path, dir, name, NULL) == MARLIN_OK && ml_path_exists(path);
}

/* Names what is there in its place. */
static marlin_status no_tokenizer(const char *dir, struct marlin_error *err) {
    const char *other = has(dir, "tekken.json") ? ": there is Mistral's tekken.json, which is not read: take "
                                                  "tokenizer.json from the model in Hugging Face layout"
                        : has(dir, "vocab.json")
                            ? ": there is vocab.json, which is not read: make tokenizer.json with "
                              "transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
                            : "";
    return ml_fail(err, MARLIN_ERR_NOT_FOUND, "%s: neither tokenizer.json nor tokenizer.model is there%s",
                   dir, other);
}

static marlin_status parse_config(struct ml_tokenizer *t, const char *text, size_t len,
                                  struct marlin_error *err) {
    struct ml_json_doc *doc = NULL;
    marlin_status st =
        ml_json_parse(text, len, &(struct ml_json_limits){.max_bytes = ML_TOK_MAX_CONFIG}, &doc, err);
    if (st == MARLIN_OK) st = apply_config(t, ml_json_root(doc), err);
    ml_json_free(doc);
    return st;
}

static marlin_status load_gguf(const char *path, uint64_t vocab_rows, struct ml_tokenizer **out,
                               struct marlin_error *err) {
    struct ml_gguf *g = NULL;
    struct ml_gguf_tokenizer files = {0};
    struct ml_tokenizer *t = NULL;
    marlin_status st;
    ML_TRY(ml_gguf_open(path, &g, err));
    ML_TRY(ml_gguf_tokenizer(g, &files, err));
    st = files.sentencepiece
             ? ml_tokenizer_from_sentencepiece(files.model.data, files.model.len, vocab_rows, &t, err)
             : ml_tokenizer_from_json(files.model.data, files.model.len, vocab_rows, &t, err);
    if (st == MARLIN_OK) st = parse_config(t, files.config.data, files.config.len, err);
    if (st != MARLIN_OK) (void)ml_fail_in(err, st, "%s", path);
    if (st != MARLIN_OK) goto out;
    *out = t;
    t = NULL;
out:
    ml_tokenizer_free(t);
    ml_gguf_tokenizer_free(&files);
    ml_gguf_close(g);
    return st;
}

static marlin_status load_file(const char *path, bool json, uint64_t vocab_rows,
                               const struct ml_tok_outside *outside, struct ml_tokenizer **out,
                               struct marlin_error *err) {
    char *text = NULL;
    size_t len = 0;
    marlin_status st = ml_file_slurp(path, ML_TOK_MAX_FILE, &text, &len, err);
    if (st != MARLIN_OK) return st;
    const char *kind = json ? NULL : ml_sniff(text, len);
    if (kind)
        st = ml_fail(err, MARLIN_ERR_FORMAT, "not a tokenizer, but %s", kind);
    else
        st = json ? ml_tok_from_json(text, len, vocab_rows, outside, out, err)
                  : ml_tok_from_sentencepiece(text, len, vocab_rows, outside, out, err);
    ml_free(text);
    return st == MARLIN_OK ? st : ml_fail_in(err, st, "%s", path);
}

marlin_status ml_tokenizer_load(const char *dir, uint64_t vocab_rows, struct ml_tokenizer **out,
                                struct marlin_error *err) {
    char json[PATH_BYTES], model[PATH_BYTES];
    struct ml_tokenizer *t = NULL;
    struct ml_tok_outside outside = {0};
    struct marlin_error local = {.code = MARLIN_OK};
    marlin_status st;
    if (ml_gguf_is(dir)) return load_gguf(dir, vocab_rows, out, err);
    ML_TRY(ml_path_join(json, sizeof json, dir, "tokenizer.json", err));
    ML_TRY(ml_path_join(model, sizeof model, dir, "tokenizer.model", err));
    const bool has_json = ml_path_exists(json), has_model = ml_path_exists(model);
    if (!has_json && !has_model) {
        st = no_tokenizer(dir, err);
        goto out;
    }
    ML_TRY(ml_tok_outside_read(dir, &outside, err));
    st = has_json ? load_file(json, true, vocab_rows, &outside, &t, &local)
                  : load_file(model, false, vocab_rows, &outside, &t, &local);
    /* The file that tokenizer.json was made of, usually. */
    if (st == MARLIN_ERR_UNSUPPORTED && has_json && has_model) {
        ml_log(ML_LOG_WARN, "%s: tokenizer.model is used instead", local.text);
        st = load_file(model, false, vocab_rows, &outside, &t, &local);
    }
    if (st != MARLIN_OK) ML_TRY(ml_fail(err, st, "%s", local.text));
    if (outside.config) {
        st = apply_config(t, outside.config, err);
        if (st != MARLIN_OK) (void)ml_fail_in(err, st, "%s/tokenizer_config.json", dir);
    }
    if (st != MARLIN_OK) goto out;
    *out = t;
    t = NULL;
out:
    ml_tok_outside_free(&outside);
    ml_tokenizer_free(t);
    return st;
}
