/* SPDX-License-Identifier: Apache-2.0
 *
 * Canonical names and those of files.
 */
#include "models/names.h"

#include "packing/forms.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char model_prefix[] = "model.";

static const struct ml_names wrappers[] = {
    {"model.", ""},
    {"model.language_model.", ""},
    {"language_model.model.", "language_model."},
    {"", ""},
};

struct ml_names ml_names_canonical(void) {
    return wrappers[0];
}

/* Embeddings are stored plain or as int8 rows. */
static bool has_embedding(const struct ml_tensors *tensors, const char *prefix) {
    const struct ml_form *const forms[] = {ml_form_plain(), ml_form_of(ML_QUANT_INT8)};
    char name[ML_BIND_NAME];
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        (void)snprintf(name, sizeof(name), "%sembed_tokens.%s", prefix, forms[i]->weights.suffix);
        if (ml_tensors_find(tensors, name)) return true;
    }
    return false;
}

/* Of tensors that share memory, safetensors.torch.save_model keeps the first in the alphabet. */
static bool has_only_head(const struct ml_tensors *tensors, const struct ml_names *n) {
    char head[ML_BIND_NAME], norm[ML_BIND_NAME];
    (void)snprintf(head, sizeof(head), "%slm_head.%s", n->head, ml_form_plain()->weights.suffix);
    (void)snprintf(norm, sizeof(norm), "%snorm.%s", n->model, ml_form_plain()->weights.suffix);
    return ml_tensors_find(tensors, head) && ml_tensors_find(tensors, norm);
}

marlin_status ml_names_find(const struct ml_tensors *tensors, bool tied, struct ml_names *out,
                            struct marlin_error *err) {
    const size_t n = sizeof(wrappers) / sizeof(wrappers[0]);
    for (size_t i = 0; i < (tied ? 2 * n : n); i++) {
        const struct ml_names *w = &wrappers[i % n];
        if (i < n ? !has_embedding(tensors, w->model) : !has_only_head(tensors, w)) continue;
        *out = *w;
        return MARLIN_OK;
    }
    return ml_fail(err, MARLIN_ERR_NOT_FOUND,
                   "tensor 'model.embed_tokens.weight' is missing: is this a language model's directory?");
}

static void keep_whole(int n, char dst[ML_BIND_NAME]) {
    if (n < 0 || n >= ML_BIND_NAME) dst[0] = '\0';
}

void ml_names_stored(const struct ml_names *n, const char *canonical, char dst[ML_BIND_NAME]) {
    const size_t skip = sizeof(model_prefix) - 1;
    const bool inside = strncmp(canonical, model_prefix, skip) == 0;
    keep_whole(
        snprintf(dst, ML_BIND_NAME, "%s%s", inside ? n->model : n->head, canonical + (inside ? skip : 0)),
        dst);
}

void ml_names_join(const char *name, const char *part, char dst[ML_BIND_NAME]) {
    keep_whole(snprintf(dst, ML_BIND_NAME, "%s.%s", name, part), dst);
}

const char *ml_names_layer(const struct ml_names *n, const char *stored, unsigned long long *layer) {
    static const char layers[] = "layers.";
    const size_t skip = strlen(n->model);
    if (strncmp(stored, n->model, skip) != 0 || strncmp(stored + skip, layers, sizeof(layers) - 1) != 0)
        return NULL;
    const char *digits = stored + skip + sizeof(layers) - 1;
    char *end = NULL;
    *layer = strtoull(digits, &end, 10);
    return *digits >= '0' && *digits <= '9' && *end == '.' ? end + 1 : NULL;
}
