/* SPDX-License-Identifier: Apache-2.0
 *
 * Passing over values, their size, membership.
 */
#include "chat/jinja_int.h"

#include <string.h>

/* ---- iteration */

static marlin_status next_char(struct ml_jrun *r, struct ml_jiter *it, struct ml_jval *out, bool *more) {
    const struct ml_jstr *s = it->over.s;
    int32_t c;
    *more = it->at < s->len;
    if (!*more) return MARLIN_OK;
    const size_t k = ml_j_decode(s->text + it->at, s->len - it->at, &c);
    ML_J_CALL(r, ml_j_str(r, s->text + it->at, k, out));
    it->at += k;
    return MARLIN_OK;
}

static marlin_status next_of_value(struct ml_jrun *r, struct ml_jiter *it, struct ml_jval *out, bool *more) {
    const struct ml_jval *v = &it->over;
    const size_t i = it->at;
    switch (v->type) {
    case ML_J_STR:
        return next_char(r, it, out, more);
    case ML_J_DICT:
        *more = i < v->m->n;
        if (*more) *out = v->m->key[i];
        break;
    case ML_J_RANGE:
        *more = i < (size_t)v->r->n;
        if (*more) *out = ml_j_int(v->r->start + (int64_t)i * v->r->step);
        break;
    case ML_J_UNDEF:
        *more = false;
        break;
    default:
        *more = i < v->l->n;
        if (*more) *out = v->l->v[i];
    }
    it->at += *more;
    return MARLIN_OK;
}

static marlin_status next_of_loop(struct ml_jrun *r, struct ml_jiter *it, struct ml_jval *out, bool *more) {
    (void)it;
    (void)out;
    (void)more;
    return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "passing over \"loop\" itself is not supported");
}

bool ml_j_iterable(const struct ml_jval *v) {
    switch (v->type) {
    case ML_J_UNDEF:
    case ML_J_STR:
    case ML_J_LIST:
    case ML_J_TUPLE:
    case ML_J_VIEW:
    case ML_J_DICT:
    case ML_J_RANGE:
    case ML_J_ITER:
    case ML_J_LOOP:
        return true;
    default:
        return false;
    }
}

marlin_status ml_j_iterate(struct ml_jrun *r, const struct ml_jval *v, struct ml_jiter **out) {
    if (v->type == ML_J_ITER) {
        *out = v->it;
        return MARLIN_OK;
    }
    if (!ml_j_iterable(v)) return ml_j_fail(r, MARLIN_ERR_FORMAT, "%s cannot be passed over", ml_j_type(v));
    ML_J_CALL(r, ml_j_alloc(r, 1, sizeof **out, (void **)out));
    (*out)->next = v->type == ML_J_LOOP ? next_of_loop : next_of_value;
    (*out)->over = *v;
    return MARLIN_OK;
}

marlin_status ml_j_next(struct ml_jrun *r, struct ml_jiter *it, struct ml_jval *out, bool *more) {
    *more = false;
    marlin_status st = ml_j_deeper(r); /* generators of generators */
    if (st == MARLIN_OK) st = ml_j_step(r);
    if (st == MARLIN_OK) st = it->next(r, it, out, more);
    r->depth--;
    return st;
}

marlin_status ml_j_collect(struct ml_jrun *r, const struct ml_jval *v, struct ml_jval *list) {
    struct ml_jiter *it;
    ML_J_CALL(r, ml_j_iterate(r, v, &it));
    ML_J_CALL(r, ml_j_list(r, ML_J_LIST, 0, list));
    for (;;) {
        struct ml_jval item;
        bool more;
        ML_J_CALL(r, ml_j_next(r, it, &item, &more));
        if (!more) return MARLIN_OK;
        ML_J_CALL(r, ml_j_add(r, list->l, &item));
    }
}

bool ml_j_sized(const struct ml_jval *v, int64_t *n) {
    switch (v->type) {
    case ML_J_UNDEF:
        *n = 0;
        return true;
    case ML_J_STR:
        *n = (int64_t)v->s->chars;
        return true;
    case ML_J_LIST:
    case ML_J_TUPLE:
    case ML_J_VIEW:
        *n = (int64_t)v->l->n;
        return true;
    case ML_J_DICT:
        *n = (int64_t)v->m->n;
        return true;
    case ML_J_RANGE:
        *n = v->r->n;
        return true;
    default:
        return false;
    }
}

/* ---- membership */

static marlin_status text_contains(struct ml_jrun *r, const struct ml_jstr *s, const struct ml_jval *item,
                                   bool *out) {
    if (item->type != ML_J_STR)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "\"in\" a string wants a string, not %s", ml_j_type(item));
    *out = memmem(s->text, s->len, item->s->text, item->s->len) != NULL;
    return ml_j_steps(r, s->len / 256);
}

marlin_status ml_j_contains(struct ml_jrun *r, const struct ml_jval *v, const struct ml_jval *item,
                            bool *out) {
    *out = false;
    if (v->type == ML_J_STR) return text_contains(r, v->s, item, out);
    if (v->type == ML_J_DICT) {
        const struct ml_jval *value;
        ML_J_CALL(r, ml_j_dict_find(r, v->m, item, &value));
        *out = value != NULL;
        return MARLIN_OK;
    }
    struct ml_jiter *it;
    ML_J_CALL(r, ml_j_iterate(r, v, &it));
    for (bool more = true; more && !*out;) {
        struct ml_jval element_;
        ML_J_CALL(r, ml_j_next(r, it, &element_, &more));
        if (more) ML_J_CALL(r, ml_j_equal(r, &element_, item, out));
    }
    return MARLIN_OK;
}
