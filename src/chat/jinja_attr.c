/* SPDX-License-Identifier: Apache-2.0
 *
 * What is inside a value: attributes, subscripts, slices.
 */
#include "chat/jinja_int.h"

#include <string.h>

static marlin_status bind_method(struct ml_jrun *r, const struct ml_jval *v, const struct ml_jfunction *f,
                                 struct ml_jval *out) {
    struct ml_jmethod *m;
    ML_J_CALL(r, ml_j_alloc(r, 1, sizeof *m, (void **)&m));
    *m = (struct ml_jmethod){.f = f, .self = *v};
    *out = (struct ml_jval){.type = ML_J_METHOD, .method = m};
    return MARLIN_OK;
}

/* loop.length and whatever needs it; the rest of the elements is read for it. */
static marlin_status loop_length(struct ml_jrun *r, struct ml_jloop *loop) {
    struct ml_jval rest, held;
    if (loop->length >= 0) return MARLIN_OK;
    if (!loop->peeked) ML_J_CALL(r, r->advance(r, loop));
    ML_J_CALL(r, ml_j_list(r, ML_J_LIST, 4, &rest));
    held = loop->next;
    const bool held_any = loop->has_next;
    while (loop->has_next) {
        ML_J_CALL(r, ml_j_add(r, rest.l, &loop->next));
        ML_J_CALL(r, r->advance(r, loop));
    }
    loop->length = loop->index0 + 1 + (int64_t)rest.l->n;
    loop->next = held;
    loop->has_next = held_any;
    ML_J_CALL(r, ml_j_iterate(r, &rest, &loop->it));
    loop->it->at = held_any;
    loop->node = NULL; /* what is left has passed its condition */
    return MARLIN_OK;
}

static marlin_status neighbour(struct ml_jrun *r, struct ml_jloop *loop, bool next, struct ml_jval *out) {
    if (next && !loop->peeked) ML_J_CALL(r, r->advance(r, loop));
    if (next ? loop->has_next : loop->index0 > 0) {
        *out = next ? loop->next : loop->previous;
        return MARLIN_OK;
    }
    return ml_j_undefined(r, out, next ? "there is no next item" : "there is no previous item");
}

static marlin_status loop_attr(struct ml_jrun *r, struct ml_jloop *loop, const struct ml_jstr *name,
                               struct ml_jval *out, bool *found) {
    *found = true;
    if (ml_j_is(name, "index"))
        *out = ml_j_int(loop->index0 + 1);
    else if (ml_j_is(name, "index0"))
        *out = ml_j_int(loop->index0);
    else if (ml_j_is(name, "first"))
        *out = ml_j_bool(loop->index0 == 0);
    else if (ml_j_is(name, "depth"))
        *out = ml_j_int(1);
    else if (ml_j_is(name, "depth0"))
        *out = ml_j_int(0);
    else if (ml_j_is(name, "previtem"))
        return neighbour(r, loop, false, out);
    else if (ml_j_is(name, "nextitem"))
        return neighbour(r, loop, true, out);
    else if (ml_j_is(name, "last")) {
        if (!loop->peeked) ML_J_CALL(r, r->advance(r, loop));
        *out = ml_j_bool(!loop->has_next);
    } else if (ml_j_is(name, "length") || ml_j_is(name, "revindex") || ml_j_is(name, "revindex0")) {
        ML_J_CALL(r, loop_length(r, loop));
        *out = ml_j_int(ml_j_is(name, "length")     ? loop->length
                        : ml_j_is(name, "revindex") ? loop->length - loop->index0
                                                    : loop->length - loop->index0 - 1);
    } else {
        *found = false;
    }
    return MARLIN_OK;
}

/* What v.name is before subscripts are tried: methods, and the attributes of objects that are no data. */
static marlin_status own_attr(struct ml_jrun *r, const struct ml_jval *v, const struct ml_jstr *name,
                              struct ml_jval *out, bool *found) {
    *found = false;
    if (v->type == ML_J_UNDEF) return ml_j_use_undefined(r, v);
    if (v->type == ML_J_NAMESPACE) {
        const struct ml_jval *value = ml_j_dict_text(v->m, name);
        *found = value != NULL;
        if (value) *out = *value;
        return MARLIN_OK;
    }
    if (v->type == ML_J_LOOP) ML_J_CALL(r, loop_attr(r, v->loop, name, out, found));
    if (*found) return MARLIN_OK;
    const struct ml_jfunction *f = ml_j_method(v, name);
    *found = f != NULL;
    return f ? bind_method(r, v, f, out) : MARLIN_OK;
}

static marlin_status no_attr(struct ml_jrun *r, const struct ml_jval *v, const struct ml_jstr *name,
                             struct ml_jval *out) {
    return ml_j_undefined(r, out, "'%s object' has no attribute '%.*s'", ml_j_type(v),
                          (int)(name->len < 100 ? name->len : 100), name->text);
}

marlin_status ml_j_attr(struct ml_jrun *r, const struct ml_jval *v, const struct ml_jstr *name,
                        struct ml_jval *out) {
    bool found;
    ML_J_CALL(r, own_attr(r, v, name, out, &found));
    if (found) return MARLIN_OK;
    const struct ml_jval *value = v->type == ML_J_DICT ? ml_j_dict_text(v->m, name) : NULL;
    if (value) {
        *out = *value;
        return MARLIN_OK;
    }
    return no_attr(r, v, name, out);
}

/* The element of a sequence by a number from either end; *found says whether there is one. */
static marlin_status element(struct ml_jrun *r, const struct ml_jval *v, int64_t i, struct ml_jval *out,
                             bool *found) {
    int64_t n;
    *found = false;
    if (v->type == ML_J_VIEW || v->type == ML_J_DICT || !ml_j_sized(v, &n)) return MARLIN_OK;
    if (i < 0) i += n;
    *found = i >= 0 && i < n;
    if (!*found) return MARLIN_OK;
    if (v->type == ML_J_RANGE) {
        *out = ml_j_int(v->r->start + i * v->r->step);
    } else if (v->type == ML_J_STR) {
        int32_t c;
        const size_t at = ml_j_offset(v->s, (size_t)i);
        ML_J_CALL(r, ml_j_steps(r, v->s->chars == v->s->len ? 0 : at / 256));
        return ml_j_str(r, v->s->text + at, ml_j_decode(v->s->text + at, v->s->len - at, &c), out);
    } else {
        *out = v->l->v[i];
    }
    return MARLIN_OK;
}

marlin_status ml_j_item(struct ml_jrun *r, const struct ml_jval *v, const struct ml_jval *key,
                        struct ml_jval *out) {
    int64_t i;
    bool found = false;
    if (v->type == ML_J_UNDEF) return ml_j_use_undefined(r, v);
    if (v->type == ML_J_DICT) {
        const struct ml_jval *value = NULL;
        if (ml_j_hashable(key, 64)) ML_J_CALL(r, ml_j_dict_find(r, v->m, key, &value));
        found = value != NULL;
        if (found) *out = *value;
    } else if (ml_j_integer(key, &i)) {
        ML_J_CALL(r, element(r, v, i, out, &found));
    }
    if (!found && key->type == ML_J_STR) ML_J_CALL(r, own_attr(r, v, key->s, out, &found));
    if (found) return MARLIN_OK;
    if (key->type == ML_J_STR) return no_attr(r, v, key->s, out);
    return ml_j_undefined(r, out, "a %s has no element for this %s", ml_j_type(v), ml_j_type(key));
}

/* ---- slices */

/* Python's rules for bounds of n elements. */
static void clamp(int64_t n, int64_t step, const struct ml_jval bound[3], int64_t *start, int64_t *stop) {
    const int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    int64_t *const at[2] = {start, stop};
    *start = step < 0 ? high : low;
    *stop = step < 0 ? low : high;
    for (int i = 0; i < 2; i++) {
        int64_t x;
        if (!ml_j_integer(&bound[i], &x)) continue;
        if (x < 0) x = x < -n ? low : x + n < low ? low : x + n;
        *at[i] = x > high ? high : x;
    }
}

static marlin_status slice_string(struct ml_jrun *r, const struct ml_jstr *s, int64_t start, int64_t step,
                                  int64_t count, struct ml_jval *out) {
    char *text;
    size_t len = 0, at = 0;
    if (count == 0) return ml_j_str(r, "", 0, out);
    if (step == 1) {
        const size_t from = ml_j_offset(s, (size_t)start), to = ml_j_offset(s, (size_t)(start + count));
        return ml_j_str(r, s->text + from, to - from, out);
    }
    size_t *where;
    ML_J_CALL(r, ml_j_alloc(r, s->chars + 1, sizeof *where, (void **)&where));
    ML_J_CALL(r, ml_j_alloc(r, s->len + 1, 1, (void **)&text));
    for (size_t i = 0; i < s->len; i++)
        if (((unsigned char)s->text[i] & 0xc0) != 0x80) where[at++] = i;
    where[at] = s->len;
    for (int64_t i = 0; i < count; i++) {
        const size_t c = (size_t)(start + i * step), k = where[c + 1] - where[c];
        memcpy(text + len, s->text + where[c], k);
        len += k;
    }
    return ml_j_str(r, text, len, out);
}

static marlin_status slice_range(struct ml_jrun *r, const struct ml_jrange *g, int64_t start, int64_t step,
                                 int64_t stop, int64_t count, struct ml_jval *out) {
    struct ml_jrange *s;
    ML_J_CALL(r, ml_j_alloc(r, 1, sizeof *s, (void **)&s));
    if (__builtin_mul_overflow(g->step, step, &s->step) ||
        __builtin_mul_overflow(start, g->step, &s->start) ||
        __builtin_add_overflow(s->start, g->start, &s->start))
        return ml_j_fail(r, MARLIN_ERR_LIMIT, "a range beyond 64 bits");
    s->n = count;
    if (__builtin_mul_overflow(stop, g->step, &s->stop) ||
        __builtin_add_overflow(s->stop, g->start, &s->stop))
        return ml_j_fail(r, MARLIN_ERR_LIMIT, "a range beyond 64 bits");
    *out = (struct ml_jval){.type = ML_J_RANGE, .r = s};
    return MARLIN_OK;
}

marlin_status ml_j_slice(struct ml_jrun *r, const struct ml_jval *v, const struct ml_jval bound[3],
                         struct ml_jval *out) {
    int64_t n, start, stop, step = 1;
    if (v->type == ML_J_UNDEF) return ml_j_use_undefined(r, v);
    if (v->type == ML_J_VIEW || v->type == ML_J_DICT || !ml_j_sized(v, &n))
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "a %s cannot be sliced", ml_j_type(v));
    for (int i = 0; i < 3; i++)
        if (bound[i].type != ML_J_NONE && !ml_j_integer(&bound[i], &step))
            return ml_j_fail(r, MARLIN_ERR_FORMAT, "a slice from %s: bounds are integers or None",
                             ml_j_type(&bound[i]));
    if (bound[2].type == ML_J_NONE) step = 1;
    if (step == 0) return ml_j_fail(r, MARLIN_ERR_FORMAT, "a slice's step is zero");
    clamp(n, step, bound, &start, &stop);
    /* Steps beyond the length take one element at most. */
    const int64_t stride = step > n ? n + 1 : step < -n ? -n - 1 : step;
    const int64_t count = stride > 0 ? (stop > start ? (stop - start - 1) / stride + 1 : 0)
                                     : (start > stop ? (start - stop - 1) / -stride + 1 : 0);
    ML_J_CALL(r, ml_j_steps(r, (size_t)count / 16 + (v->type == ML_J_STR ? v->s->len / 256 : 0)));
    if (v->type == ML_J_STR) return slice_string(r, v->s, start, stride, count, out);
    if (v->type == ML_J_RANGE) return slice_range(r, v->r, start, step, stop, count, out);
    ML_J_CALL(r, ml_j_list(r, v->type, (size_t)count, out));
    for (int64_t i = 0; i < count; i++)
        out->l->v[i] = v->l->v[start + i * stride];
    out->l->n = (size_t)count;
    return MARLIN_OK;
}
