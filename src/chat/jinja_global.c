/* SPDX-License-Identifier: Apache-2.0
 *
 * Functions that a template finds without being given them.
 */
#include "chat/jinja_int.h"

#include <string.h>
#include <time.h>

enum { MAX_RANGE = 100000 }; /* jinja2's sandbox has the same */

static marlin_status range(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jargs *a = c->args;
    struct ml_jrange *g;
    int64_t v[3] = {0, 0, 1}, span;
    if (a->n_named || a->n_pos < 1 || a->n_pos > 3)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "range wants 1 to 3 integers");
    for (size_t i = 0; i < a->n_pos; i++)
        if (!ml_j_integer(&a->pos[i], &v[a->n_pos == 1 ? 1 : i]))
            return ml_j_fail(r, MARLIN_ERR_FORMAT, "range wants integers, not %s", ml_j_type(&a->pos[i]));
    if (v[2] == 0) return ml_j_fail(r, MARLIN_ERR_FORMAT, "range: the step is zero");
    if (v[2] == INT64_MIN || __builtin_sub_overflow(v[1], v[0], &span) || span == INT64_MIN)
        return ml_j_fail(r, MARLIN_ERR_LIMIT, "range: more than %d elements", MAX_RANGE);
    if ((span < 0) != (v[2] < 0)) span = 0;
    const uint64_t width = (uint64_t)(span < 0 ? -span : span), step = (uint64_t)(v[2] < 0 ? -v[2] : v[2]);
    const uint64_t n = width ? (width - 1) / step + 1 : 0;
    if (n > MAX_RANGE) return ml_j_fail(r, MARLIN_ERR_LIMIT, "range: more than %d elements", MAX_RANGE);
    ML_J_CALL(r, ml_j_alloc(r, 1, sizeof *g, (void **)&g));
    *g = (struct ml_jrange){.start = v[0], .step = v[2], .n = (int64_t)n, .stop = v[1]};
    *out = (struct ml_jval){.type = ML_J_RANGE, .r = g};
    return MARLIN_OK;
}

static marlin_status add_pair(struct ml_jrun *r, struct ml_jdict *m, const struct ml_jval *pair) {
    struct ml_jval two;
    ML_J_CALL(r, ml_j_collect(r, pair, &two));
    if (two.l->n != 2)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "dict: an entry of %zu values, not 2", two.l->n);
    return ml_j_dict_set(r, m, &two.l->v[0], &two.l->v[1]);
}

static marlin_status add_all(struct ml_jrun *r, struct ml_jdict *m, const struct ml_jval *from) {
    struct ml_jval all;
    if (from->type == ML_J_DICT) {
        for (size_t i = 0; i < from->m->n; i++)
            ML_J_CALL(r, ml_j_dict_set(r, m, &from->m->key[i], &from->m->value[i]));
        return MARLIN_OK;
    }
    if (from->type == ML_J_UNDEF) return ml_j_use_undefined(r, from);
    ML_J_CALL(r, ml_j_collect(r, from, &all));
    for (size_t i = 0; i < all.l->n; i++)
        ML_J_CALL(r, add_pair(r, m, &all.l->v[i]));
    return MARLIN_OK;
}

/* dict(a=1), dict(other, a=1); the same for namespace(). */
static marlin_status dict(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jargs *a = c->args;
    struct ml_jdict *m;
    if (a->n_pos > 1)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "%s takes one value without a name at most", c->f->name);
    ML_J_CALL(r, ml_j_dict(r, &m));
    if (a->n_pos) ML_J_CALL(r, add_all(r, m, &a->pos[0]));
    for (size_t i = 0; i < a->n_named; i++)
        ML_J_CALL(r,
                  ml_j_dict_set(r, m, &(struct ml_jval){.type = ML_J_STR, .s = a->names[i]}, &a->named[i]));
    *out = (struct ml_jval){.type = c->f->name[0] == 'n' ? ML_J_NAMESPACE : ML_J_DICT, .m = m};
    return MARLIN_OK;
}

static marlin_status raise_exception(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_jval text;
    (void)out;
    ML_J_CALL(r, ml_j_text(r, &c->slot[0], &text));
    return ml_j_fail(r, MARLIN_ERR_ARGUMENT, "the template refuses the messages: %.*s",
                     (int)(text.s->len < 300 ? text.s->len : 300), text.s->text);
}

/* strftime's own conversions, in the C locale and local time. */
static marlin_status strftime_now(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const time_t now = (time_t)r->now;
    struct tm local;
    char text[1024];
    if (c->slot[0].type != ML_J_STR) return ml_j_fail(r, MARLIN_ERR_FORMAT, "strftime_now wants a string");
    const struct ml_jstr *f = c->slot[0].s;
    if (f->len == 0) return ml_j_str(r, "", 0, out);
    if (f->len > 200 || memchr(f->text, '\0', f->len))
        return ml_j_fail(r, MARLIN_ERR_LIMIT, "strftime_now: a format of more than 200 bytes, or with a NUL");
    if (!localtime_r(&now, &local)) return ml_j_fail(r, MARLIN_ERR_ARGUMENT, "strftime_now: no such time");
    /* One more byte tells a text that is empty from one that does not fit. */
    char format[208];
    (void)memcpy(format, f->text, f->len);
    memcpy(format + f->len, ".", 2);
    const char *all = format;
    const size_t n = strftime(text, sizeof text, all, &local);
    if (n == 0) return ml_j_fail(r, MARLIN_ERR_LIMIT, "strftime_now: more than 1000 bytes");
    return ml_j_str(r, text, n - 1, out);
}

static marlin_status missing(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    (void)out;
    return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "%s is not supported", c->f->name);
}

const struct ml_jfunction ml_j_globals[] = {
    {"cycler", missing, NULL, 0}, {"dict", dict, NULL, 0},
    {"joiner", missing, NULL, 0}, {"lipsum", missing, NULL, 0},
    {"namespace", dict, NULL, 0}, {"raise_exception", raise_exception, "message", 1},
    {"range", range, NULL, 0},    {"strftime_now", strftime_now, "format", 1},
    {NULL, NULL, NULL, 0},
};
