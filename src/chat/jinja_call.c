/* SPDX-License-Identifier: Apache-2.0
 *
 * Calling what is built in: arguments to the names that a function gives them, and filters and tests by name.
 */
#include "chat/jinja_int.h"

#include <string.h>

/* Position of a name in "one two three", -1 when it is none; *n counts them. */
static int param(const char *params, const struct ml_jstr *name, int *n) {
    int found = -1;
    *n = 0;
    for (const char *s = params; *s; ++*n) {
        const size_t len = strcspn(s, " ");
        if (name && name->len == len && memcmp(name->text, s, len) == 0) found = *n;
        s += len;
        s += *s == ' ';
    }
    return found;
}

static marlin_status bind(struct ml_jrun *r, const struct ml_jfunction *f, const struct ml_jargs *args,
                          struct ml_jval *slot) {
    int n;
    (void)param(f->params, NULL, &n);
    if (args->n_pos > (size_t)n)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "%s: at most %d arguments are taken, not %zu", f->name, n,
                         args->n_pos);
    for (size_t i = 0; i < args->n_pos; i++)
        slot[i] = args->pos[i];
    for (size_t i = 0; i < args->n_named; i++) {
        const int at = param(f->params, args->names[i], &n);
        if (at < 0 || slot[at].type != ML_J_ABSENT)
            return ml_j_fail(r, MARLIN_ERR_FORMAT, "%s: argument %s is %s", f->name, args->names[i]->text,
                             at < 0 ? "unknown" : "given twice");
        slot[at] = args->named[i];
    }
    for (int i = 0; i < f->required; i++)
        if (slot[i].type == ML_J_ABSENT)
            return ml_j_fail(r, MARLIN_ERR_FORMAT, "%s: at least %d arguments are wanted", f->name,
                             f->required);
    return MARLIN_OK;
}

marlin_status ml_j_invoke(struct ml_jrun *r, const struct ml_jfunction *f, const struct ml_jval *self,
                          const struct ml_jargs *args, struct ml_jval *out) {
    struct ml_jcall c = {.f = f, .self = *self, .args = args};
    ML_J_CALL(r, ml_j_step(r));
    if (f->params) ML_J_CALL(r, bind(r, f, args, c.slot));
    marlin_status st = ml_j_deeper(r);
    if (st == MARLIN_OK) st = f->call(r, &c, out);
    r->depth--;
    return st;
}

const struct ml_jfunction *ml_j_find(const struct ml_jfunction *table, const struct ml_jstr *name) {
    for (; table->name; table++)
        if (ml_j_is(name, table->name)) return table;
    return NULL;
}

/* Filters and tests of jinja2 that no chat template is known to need. */
static const char *const missing[] = {"attr",     "batch",     "center", "filesizeformat", "forceescape",
                                      "groupby",  "pprint",    "random", "slice",          "striptags",
                                      "truncate", "urlencode", "urlize", "wordcount",      "wordwrap",
                                      "xmlattr",  "escaped",   "filter", "test",           "sameas"};

static marlin_status unknown(struct ml_jrun *r, const char *kind, const struct ml_jstr *name) {
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++)
        if (ml_j_is(name, missing[i]))
            return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "the %s \"%s\" is not supported", kind, missing[i]);
    return ml_j_fail(r, MARLIN_ERR_FORMAT, "there is no %s \"%.*s\"", kind,
                     (int)(name->len < 60 ? name->len : 60), name->text);
}

marlin_status ml_j_test(struct ml_jrun *r, const struct ml_jstr *name, const struct ml_jval *v,
                        const struct ml_jargs *args, bool *out) {
    const struct ml_jfunction *f = ml_j_find(ml_j_tests, name);
    struct ml_jval result;
    if (!f) return unknown(r, "test", name);
    ML_J_CALL(r, ml_j_invoke(r, f, v, args, &result));
    *out = ml_j_truth(&result);
    return MARLIN_OK;
}

marlin_status ml_j_no_filter(struct ml_jrun *r, const struct ml_jstr *name) {
    return unknown(r, "filter", name);
}
