/* SPDX-License-Identifier: Apache-2.0
 *
 * Property: any bytes are a GGUF file or give a named error; values lie inside the header, tensors inside the file and
 * beside each other; and whatever is made of metadata is JSON that the readers take or refuse by name.
 */
#include "base/mem.h"
#include "converters/gguf_int.h"
#include "converters/hf_config.h"
#include "tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
    if (!condition) abort();
}

static void check_value(const struct ml_gguf *g, const struct ml_gguf_value *v, const uint8_t *begin) {
    const char *text;
    size_t len;
    int64_t whole;
    double real;
    require(v->at >= begin && v->end >= v->at && (size_t)(v->at - begin) == v->offset);
    if (v->kind == ML_GGUF_STRING && v->array) {
        const uint8_t *at = v->at;
        uint64_t n = 0;
        for (; ml_gguf_next(v, &at, &text, &len); n++)
            require((const uint8_t *)text + len <= v->end);
        require(n == v->count && at == v->end);
    }
    if (v->count) {
        (void)(ml_gguf_int(g, v, v->count - 1, &whole, NULL) == MARLIN_OK);
        (void)(ml_gguf_real(g, v, v->count - 1, &real, NULL) == MARLIN_OK);
    }
}

static void check_tensors(const struct ml_gguf_header *h, uint64_t size) {
    uint64_t end = h->data_start;
    for (size_t i = 0; i < h->n_tensors; i++) {
        const struct ml_gguf_tensor *t = &h->tensors[i];
        require(t->offset >= end && t->offset <= size && t->bytes <= size - t->offset);
        require(t->count / t->type->block * t->type->bytes == t->bytes);
        end = t->offset + t->bytes;
    }
}

static void read_config(const struct ml_gguf *g) {
    struct marlin_error err = {0};
    struct ml_config *c = NULL;
    struct ml_buf text;
    ml_buf_init(&text, 1 << 24);
    if (ml_gguf_config(g, &text, &err) == MARLIN_OK) {
        if (ml_config_parse(text.data, text.len, NULL, 0, "file", &c, &err) == MARLIN_OK)
            ml_config_free(c);
        else
            require(err.text[0] && !strstr(err.text, "JSON"));
    }
    ml_buf_free(&text);
}

static void read_tokenizer(const struct ml_gguf *g) {
    struct marlin_error err = {0};
    struct ml_gguf_tokenizer files;
    struct ml_tokenizer *t = NULL;
    if (ml_gguf_tokenizer(g, &files, &err) == MARLIN_OK) {
        const marlin_status st =
            files.sentencepiece
                ? ml_tokenizer_from_sentencepiece(files.model.data, files.model.len, 0, &t, &err)
                : ml_tokenizer_from_json(files.model.data, files.model.len, 0, &t, &err);
        if (st == MARLIN_OK)
            ml_tokenizer_free(t);
        else
            require(err.text[0] != '\0');
    } else {
        require(strncmp(err.text, "file: ", 6) == 0);
    }
    ml_gguf_tokenizer_free(&files);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct ml_gguf_header h;
    struct marlin_error err = {0};
    char path[] = "file";
    uint8_t *bytes = malloc(size ? size : 1);
    if (!bytes) return 0;
    memcpy(bytes, data, size);
    const marlin_status st = ml_gguf_parse(bytes, size, size, path, &h, &err);
    if (st != MARLIN_OK) {
        require(err.code == st && strncmp(err.text, "file: ", 6) == 0);
        free(bytes);
        return 0;
    }
    const struct ml_gguf g = {.headers = &h, .bytes = &bytes, .n_files = 1, .path = path};
    for (size_t i = 0; i < h.n_values; i++)
        check_value(&g, &h.values[i], bytes);
    check_tensors(&h, size);
    /* Factors of rotary position are read from the file itself, which is not there. */
    if (!ml_gguf_tensor(&g, "rope_freqs.weight") && !ml_gguf_tensor(&g, "rope_factors_short.weight"))
        read_config(&g);
    read_tokenizer(&g);
    ml_gguf_header_free(&h);
    free(bytes);
    return 0;
}
