/* SPDX-License-Identifier: Apache-2.0
 *
 * Checked reads of metadata values.
 */
#include "base/fp.h"
#include "converters/gguf_int.h"

#include <math.h>
#include <string.h>

const struct ml_gguf_value *ml_gguf_find(const struct ml_gguf *g, const char *key) {
    const struct ml_gguf_header *h = &g->headers[0];
    uint64_t index;
    return ml_map_get(&h->keys, key, strlen(key), &index) ? &h->values[index] : NULL;
}

static uint64_t bits_at(const uint8_t *p, unsigned bytes) {
    uint64_t bits = 0;
    for (unsigned i = 0; i < bytes; i++)
        bits |= (uint64_t)p[i] << (8 * i);
    return bits;
}

static marlin_status bad(const struct ml_gguf *g, const struct ml_gguf_value *v, const char *needed,
                         struct marlin_error *err) {
    return ml_fail(err, MARLIN_ERR_FORMAT, "%s: \"%.80s\" is not %s (offset %llu)", g->path, v->key, needed,
                   (unsigned long long)v->offset);
}

marlin_status ml_gguf_int(const struct ml_gguf *g, const struct ml_gguf_value *v, uint64_t index,
                          int64_t *out, struct marlin_error *err) {
    static const uint8_t size[ML_GGUF_KINDS] = {
        [ML_GGUF_U8] = 1,  [ML_GGUF_I8] = 1,   [ML_GGUF_U16] = 2, [ML_GGUF_I16] = 2, [ML_GGUF_U32] = 4,
        [ML_GGUF_I32] = 4, [ML_GGUF_BOOL] = 1, [ML_GGUF_U64] = 8, [ML_GGUF_I64] = 8};
    const unsigned bytes = size[v->kind];
    if (bytes == 0 || index >= v->count) return bad(g, v, "an integer", err);
    const uint64_t bits = bits_at(v->at + index * bytes, bytes);
    const bool is_signed = v->kind == ML_GGUF_I8 || v->kind == ML_GGUF_I16 || v->kind == ML_GGUF_I32;
    const unsigned unused = 64 - 8 * bytes;
    if (v->kind == ML_GGUF_U64 && bits > INT64_MAX) return bad(g, v, "an integer below 2^63", err);
    *out = is_signed ? (int64_t)(bits << unused) >> unused : (int64_t)bits;
    return MARLIN_OK;
}

marlin_status ml_gguf_real(const struct ml_gguf *g, const struct ml_gguf_value *v, uint64_t index,
                           double *out, struct marlin_error *err) {
    int64_t whole = 0;
    if (index >= v->count) return bad(g, v, "a number", err);
    if (v->kind == ML_GGUF_F32) {
        *out = (double)ml_f32_from_bits((uint32_t)bits_at(v->at + index * 4, 4));
    } else if (v->kind == ML_GGUF_F64) {
        const uint64_t bits = bits_at(v->at + index * 8, 8);
        memcpy(out, &bits, sizeof *out);
    } else {
        const marlin_status st = ml_gguf_int(g, v, index, &whole, err);
        if (st != MARLIN_OK) return st;
        *out = (double)whole;
    }
    return isfinite(*out) ? MARLIN_OK : bad(g, v, "a finite number", err);
}

bool ml_gguf_next(const struct ml_gguf_value *v, const uint8_t **at, const char **text, size_t *len) {
    if (*at >= v->end) return false;
    *len = (size_t)bits_at(*at, 8); /* checked by the parser */
    *text = (const char *)*at + 8;
    *at += 8 + *len;
    return true;
}

const char *ml_gguf_string(const struct ml_gguf *g, const char *key) {
    const struct ml_gguf_value *v = ml_gguf_find(g, key);
    return v ? v->text : NULL;
}

marlin_status ml_gguf_token_text(const struct ml_gguf *g, const char *key, struct ml_buf *out,
                                 struct marlin_error *err) {
    const struct ml_gguf_value *id_value = ml_gguf_find(g, key);
    const struct ml_gguf_value *tokens = ml_gguf_find(g, "tokenizer.ggml.tokens");
    const char *text = NULL;
    size_t len = 0;
    int64_t id = 0;
    marlin_status st = MARLIN_OK;
    if (!id_value) return MARLIN_OK;
    ML_TRY(ml_gguf_int(g, id_value, 0, &id, err));
    if (!tokens || !tokens->array || tokens->kind != ML_GGUF_STRING || id < 0 ||
        (uint64_t)id >= tokens->count)
        return bad(g, id_value, "the number of a token of tokenizer.ggml.tokens", err);
    const uint8_t *at = tokens->at;
    for (int64_t i = 0; i <= id; i++)
        (void)ml_gguf_next(tokens, &at, &text, &len);
    st = ml_buf_add(out, text, len);
    if (st != MARLIN_OK) st = ml_fail(err, st, "%s: \"%.80s\": its text does not fit", g->path, key);
out:
    return st;
}

const struct ml_gguf_tensor *ml_gguf_tensor(const struct ml_gguf *g, const char *name) {
    for (size_t f = 0; f < g->n_files; f++)
        for (size_t i = 0; i < g->headers[f].n_tensors; i++)
            if (strcmp(g->headers[f].tensors[i].name, name) == 0) return &g->headers[f].tensors[i];
    return NULL;
}
