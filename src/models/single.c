/* SPDX-License-Identifier: Apache-2.0
 *
 * A model is bound by its headers, which gives every linear its sizes and checks them; then the one that is
 * wanted is bound again, with its weights.
 */
#include "models/single.h"

#include "models/bind.h"

#include <stdint.h>
#include <string.h>

/* The length of a name without ".weight". */
static size_t stem(const char *name) {
    static const char suffix[] = ".weight";
    const size_t n = strlen(name), m = sizeof suffix - 1;
    return n > m && strcmp(name + n - m, suffix) == 0 ? n - m : n;
}

static bool is_called(const struct ml_model *m, const struct ml_linear *l, const char *name, size_t len) {
    char stored[ML_BIND_NAME];
    ml_names_stored(&m->names, l->name, stored);
    return (strlen(l->name) == len && memcmp(l->name, name, len) == 0) ||
           (strlen(stored) == len && memcmp(stored, name, len) == 0);
}

static const struct ml_linear *find(const struct ml_model *m, const char *name) {
    const size_t len = stem(name);
    for (size_t i = 0; i < (size_t)m->config->num_layers; i++) {
        const struct ml_layer *l = &m->layers[i];
        for (size_t s = 0; s < l->n_sites; s++)
            if (is_called(m, l->sites[s].linear, name, len)) return l->sites[s].linear;
    }
    return is_called(m, &m->head, name, len) ? &m->head : NULL;
}

/* Whether the weights can be read where the headers say that they lie. */
static bool is_readable(const struct ml_linear *l) {
    if (l->kind != ML_LINEAR_PLAIN || !l->u.plain.data) return false;
    return (uintptr_t)l->u.plain.data % ml_dtype_size(l->u.plain.dtype) == 0;
}

static marlin_status bind_again(struct ml_binder *b, const struct ml_linear *found,
                                const struct ml_linear **out, struct marlin_error *err) {
    marlin_status st;
    struct ml_linear *l = ml_arena_alloc(&b->m->arena, sizeof *l);
    if (!l) return ml_fail(err, MARLIN_ERR_MEMORY, "layer '%s': out of memory", found->name);
    ML_TRY(ml_bind_linear(b, found->name, found->out, found->in, found->bias != NULL, l, err));
    ml_bind_arrange(b);
    *out = l;
out:
    return st;
}

static marlin_status bind_weights(struct ml_model *m, struct ml_pool *pool, const struct ml_linear *found,
                                  const struct ml_linear **out, struct marlin_error *err) {
    struct ml_binder b = {.m = m, .pool = pool};
    marlin_status st;
    ML_TRY(ml_source_file(m, &b.source, err));
    m->headers_only = false;
    m->weight_bytes = m->parameters = 0;
    for (const struct ml_origin *o = found->origin; o; o = o->next)
        ML_TRY(ml_tensors_load_one(m->tensors, o->tensor, pool, err));
    if (ml_bind_has_linear(&b, found->name))
        ML_TRY(bind_again(&b, found, out, err));
    else if (is_readable(found))
        *out = found;
    else
        st = ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                     "layer '%s' is stored as a part of another tensor, in a form that is converted when a "
                     "model is loaded: load the model, or give the numbers as an array",
                     found->name);
    if (st == MARLIN_OK) ML_TRY(ml_tensors_check(m->tensors, err));
out:
    if (b.source) b.source->ops->close(b.source);
    return st;
}

marlin_status ml_model_load_single(const char *dir, const char *name, const struct ml_model_options *options,
                                   struct ml_model **out, const struct ml_linear **linear,
                                   struct marlin_error *err) {
    struct ml_model_options o = *options;
    struct ml_model *m = NULL;
    marlin_status st;
    o.headers_only = true;
    ML_TRY(ml_model_load(dir, &o, &m, err));
    const struct ml_linear *found = find(m, name);
    if (!found) {
        st =
            ml_fail(err, MARLIN_ERR_NOT_FOUND,
                    "%s: no linear layer is called '%.200s': 'marlin inspect -v' lists the names", dir, name);
        goto out;
    }
    st = bind_weights(m, o.pool, found, linear, err);
    if (st != MARLIN_OK) st = ml_fail_in(err, st, "%s", dir);
out:
    if (st == MARLIN_OK)
        *out = m;
    else
        ml_model_free(m);
    return st;
}
