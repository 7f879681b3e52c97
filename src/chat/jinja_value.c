/* SPDX-License-Identifier: Apache-2.0
 *
 * Values: making them, truth, equality, order, dicts.
 */
#include "chat/jinja_int.h"

#include "base/checked.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- limits */

marlin_status ml_j_steps(struct ml_jrun *r, size_t n) {
    r->steps += n;
    if (r->steps <= r->limits.max_steps) return MARLIN_OK;
    return ml_j_fail(r, MARLIN_ERR_LIMIT, "more than %llu steps (max_steps): does a loop grow?",
                     (unsigned long long)r->limits.max_steps);
}

marlin_status ml_j_step(struct ml_jrun *r) {
    return ml_j_steps(r, 1);
}

marlin_status ml_j_deeper(struct ml_jrun *r) {
    if (++r->depth <= r->limits.max_depth) return MARLIN_OK;
    return ml_j_fail(r, MARLIN_ERR_LIMIT,
                     "deeper than %zu within each other (max_depth): does a macro call itself?",
                     r->limits.max_depth);
}

marlin_status ml_j_alloc(struct ml_jrun *r, size_t count, size_t size, void **out) {
    *out = ml_arena_array(&r->arena, count, size);
    if (*out) return MARLIN_OK;
    size_t bytes = 0;
    if (!ml_mul_size(count, size, &bytes) || bytes > r->limits.max_memory ||
        r->arena.used > r->limits.max_memory - bytes - 16)
        return ml_j_fail(r, MARLIN_ERR_LIMIT, "values take more than %zu bytes (max_memory)",
                         r->limits.max_memory);
    return ml_j_fail(r, MARLIN_ERR_MEMORY, "out of memory");
}

marlin_status ml_j_buf(struct ml_jrun *r, marlin_status st) {
    if (st == MARLIN_ERR_LIMIT)
        return ml_j_fail(r, st, "the text has more than %zu bytes (max_output)", r->limits.max_output);
    return st == MARLIN_OK ? st : ml_j_fail(r, st, "out of memory");
}

/* ---- making */

static marlin_status wrap(struct ml_jrun *r, const char *text, size_t len, struct ml_jval *out) {
    struct ml_jstr *s;
    ML_J_CALL(r, ml_j_alloc(r, 1, sizeof *s, (void **)&s));
    *s = (struct ml_jstr){.text = text, .len = len, .chars = ml_j_chars(text, len)};
    *out = (struct ml_jval){.type = ML_J_STR, .s = s};
    return MARLIN_OK;
}

marlin_status ml_j_str(struct ml_jrun *r, const char *text, size_t len, struct ml_jval *out) {
    char *copy;
    ML_J_CALL(r, ml_j_alloc(r, len + 1, 1, (void **)&copy));
    if (len) memcpy(copy, text, len);
    return wrap(r, copy, len, out);
}

marlin_status ml_j_take(struct ml_jrun *r, const struct ml_buf *b, struct ml_jval *out) {
    return ml_j_str(r, b->data, b->len, out);
}

bool ml_j_is(const struct ml_jstr *s, const char *text) {
    return s->len == strlen(text) && memcmp(s->text, text, s->len) == 0;
}

marlin_status ml_j_list(struct ml_jrun *r, enum ml_jtype type, size_t cap, struct ml_jval *out) {
    struct ml_jlist *l;
    ML_J_CALL(r, ml_j_alloc(r, 1, sizeof *l, (void **)&l));
    ML_J_CALL(r, ml_j_alloc(r, cap, sizeof *l->v, (void **)&l->v));
    l->cap = cap;
    *out = (struct ml_jval){.type = type, .l = l};
    return MARLIN_OK;
}

marlin_status ml_j_add(struct ml_jrun *r, struct ml_jlist *l, const struct ml_jval *v) {
    if (l->n == l->cap) {
        const size_t cap = l->cap < 4 ? 4 : l->cap * 2;
        struct ml_jval *grown;
        ML_J_CALL(r, ml_j_alloc(r, cap, sizeof *grown, (void **)&grown));
        if (l->n) memcpy(grown, l->v, l->n * sizeof *grown);
        l->v = grown;
        l->cap = cap;
    }
    l->v[l->n++] = *v;
    return MARLIN_OK;
}

marlin_status ml_j_pair(struct ml_jrun *r, const struct ml_jval *a, const struct ml_jval *b,
                        struct ml_jval *out) {
    struct ml_jval t;
    ML_J_CALL(r, ml_j_list(r, ML_J_TUPLE, 2, &t));
    t.l->v[0] = *a;
    t.l->v[1] = *b;
    t.l->n = 2;
    *out = t;
    return MARLIN_OK;
}

marlin_status ml_j_undefined(struct ml_jrun *r, struct ml_jval *out, const char *fmt, ...) {
    char text[200];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    ML_J_CALL(r, ml_j_str(r, text, strlen(text), out));
    out->type = ML_J_UNDEF;
    return MARLIN_OK;
}

marlin_status ml_j_use_undefined(struct ml_jrun *r, const struct ml_jval *v) {
    return ml_j_fail(r, MARLIN_ERR_FORMAT, "%s", v->s->text);
}

/* ---- what they are */

bool ml_j_number(const struct ml_jval *v, double *d) {
    int64_t i;
    if (v->type == ML_J_FLOAT) {
        *d = v->d;
        return true;
    }
    if (!ml_j_integer(v, &i)) return false;
    *d = (double)i;
    return true;
}

bool ml_j_integer(const struct ml_jval *v, int64_t *i) {
    if (v->type != ML_J_INT && v->type != ML_J_BOOL) return false;
    *i = v->type == ML_J_INT ? v->i : v->b;
    return true;
}

bool ml_j_truth(const struct ml_jval *v) {
    switch (v->type) {
    case ML_J_ABSENT:
    case ML_J_UNDEF:
    case ML_J_NONE:
        return false;
    case ML_J_BOOL:
        return v->b;
    case ML_J_INT:
        return v->i != 0;
    case ML_J_FLOAT:
        return v->d != 0;
    case ML_J_STR:
        return v->s->len > 0;
    case ML_J_LIST:
    case ML_J_TUPLE:
    case ML_J_VIEW:
        return v->l->n > 0;
    case ML_J_DICT:
        return v->m->n > 0;
    case ML_J_RANGE:
        return v->r->n > 0;
    default:
        return true;
    }
}

const char *ml_j_type(const struct ml_jval *v) {
    static const char *const names[] = {
        [ML_J_ABSENT] = "nothing", [ML_J_UNDEF] = "Undefined",
        [ML_J_NONE] = "NoneType",  [ML_J_BOOL] = "bool",
        [ML_J_INT] = "int",        [ML_J_FLOAT] = "float",
        [ML_J_STR] = "str",        [ML_J_LIST] = "list",
        [ML_J_TUPLE] = "tuple",    [ML_J_VIEW] = "dict view",
        [ML_J_DICT] = "dict",      [ML_J_RANGE] = "range",
        [ML_J_ITER] = "generator", [ML_J_NAMESPACE] = "Namespace",
        [ML_J_MACRO] = "Macro",    [ML_J_LOOP] = "LoopContext",
        [ML_J_METHOD] = "method",
    };
    return names[v->type];
}

/* ---- equality and order */

static marlin_status equal_lists(struct ml_jrun *r, const struct ml_jlist *a, const struct ml_jlist *b,
                                 bool *out) {
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++)
        ML_J_CALL(r, ml_j_equal(r, &a->v[i], &b->v[i], out));
    return MARLIN_OK;
}

static marlin_status equal_dicts(struct ml_jrun *r, const struct ml_jdict *a, const struct ml_jdict *b,
                                 bool *out) {
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) {
        const struct ml_jval *other;
        ML_J_CALL(r, ml_j_dict_find(r, b, &a->key[i], &other));
        *out = other != NULL;
        if (other) ML_J_CALL(r, ml_j_equal(r, &a->value[i], other, out));
    }
    return MARLIN_OK;
}

/* An integer and a float are equal when they are the same number, not when one rounds to the other. */
static int order_mixed(int64_t i, double d) {
    if (isnan(d)) return 2;
    if (d >= 9223372036854775808.0) return -1;
    if (d < -9223372036854775808.0) return 1;
    const double whole = floor(d);
    const int64_t w = (int64_t)whole;
    if (i != w) return i < w ? -1 : 1;
    return d > whole ? -1 : 0;
}

static bool order_numbers(const struct ml_jval *a, const struct ml_jval *b, int *out) {
    int64_t i, j;
    const bool ai = ml_j_integer(a, &i), bi = ml_j_integer(b, &j);
    if ((!ai && a->type != ML_J_FLOAT) || (!bi && b->type != ML_J_FLOAT)) return false;
    if (ai && bi) {
        *out = i < j ? -1 : i > j;
    } else if (ai) {
        *out = order_mixed(i, b->d);
    } else if (bi) {
        *out = order_mixed(j, a->d);
        if (*out != 2) *out = -*out;
    } else {
        *out = isnan(a->d) || isnan(b->d) ? 2 : a->d < b->d ? -1 : a->d > b->d;
    }
    return true;
}

static int order_strings(const struct ml_jstr *a, const struct ml_jstr *b) {
    const size_t n = a->len < b->len ? a->len : b->len;
    const int c = n ? memcmp(a->text, b->text, n) : 0; /* UTF-8 sorts as its code points do */
    return c ? (c < 0 ? -1 : 1) : a->len < b->len ? -1 : a->len > b->len;
}

static marlin_status equal_deep(struct ml_jrun *r, const struct ml_jval *a, const struct ml_jval *b,
                                bool *out) {
    switch (a->type) {
    case ML_J_UNDEF:
    case ML_J_NONE:
        *out = true;
        return MARLIN_OK;
    case ML_J_STR:
        *out = order_strings(a->s, b->s) == 0;
        return ml_j_steps(r, a->s->len / 1024);
    case ML_J_LIST:
    case ML_J_TUPLE:
        return equal_lists(r, a->l, b->l, out);
    case ML_J_DICT:
        return equal_dicts(r, a->m, b->m, out);
    case ML_J_RANGE:
        *out = a->r->n == b->r->n && (a->r->n == 0 || a->r->start == b->r->start) &&
               (a->r->n < 2 || a->r->step == b->r->step);
        return MARLIN_OK;
    default:
        *out = a->l == b->l; /* the same object */
        return MARLIN_OK;
    }
}

marlin_status ml_j_equal(struct ml_jrun *r, const struct ml_jval *a, const struct ml_jval *b, bool *out) {
    int order;
    *out = false;
    marlin_status st = ml_j_deeper(r);
    if (st == MARLIN_OK) st = ml_j_step(r);
    if (st == MARLIN_OK) {
        if (order_numbers(a, b, &order))
            *out = order == 0;
        else if (a->type == b->type)
            st = equal_deep(r, a, b, out);
    }
    r->depth--;
    return st;
}

static marlin_status order_lists(struct ml_jrun *r, const char *op, const struct ml_jlist *a,
                                 const struct ml_jlist *b, int *out) {
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        bool same;
        ML_J_CALL(r, ml_j_equal(r, &a->v[i], &b->v[i], &same));
        if (!same) return ml_j_order(r, op, &a->v[i], &b->v[i], out);
    }
    *out = a->n < b->n ? -1 : a->n > b->n;
    return MARLIN_OK;
}

marlin_status ml_j_order(struct ml_jrun *r, const char *op, const struct ml_jval *a, const struct ml_jval *b,
                         int *out) {
    marlin_status st = ml_j_deeper(r);
    if (st == MARLIN_OK) st = ml_j_step(r);
    if (st != MARLIN_OK || order_numbers(a, b, out)) {
        r->depth--;
        return st;
    }
    if (a->type == ML_J_STR && b->type == ML_J_STR)
        *out = order_strings(a->s, b->s);
    else if (a->type == b->type && (a->type == ML_J_LIST || a->type == ML_J_TUPLE))
        st = order_lists(r, op, a->l, b->l, out);
    else if (a->type == ML_J_UNDEF || b->type == ML_J_UNDEF)
        st = ml_j_use_undefined(r, a->type == ML_J_UNDEF ? a : b);
    else
        st = ml_j_fail(r, MARLIN_ERR_FORMAT, "\"%s\" does not go with %s and %s", op, ml_j_type(a),
                       ml_j_type(b));
    r->depth--;
    return st;
}

/* ---- dicts */

enum { INDEX_FROM = 8 };

bool ml_j_hashable(const struct ml_jval *v, int depth) {
    if (v->type == ML_J_LIST || v->type == ML_J_DICT || v->type == ML_J_VIEW || v->type == ML_J_ABSENT)
        return false;
    if (v->type != ML_J_TUPLE) return true;
    for (size_t i = 0; i < v->l->n; i++)
        if (depth == 0 || !ml_j_hashable(&v->l->v[i], depth - 1)) return false;
    return true;
}

static uint64_t mix(uint64_t h, uint64_t x) {
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

/* Numbers that are equal hash alike whatever their types. Tuples are as deep as ml_j_hashable let through. */
static uint64_t hash(const struct ml_jval *v) {
    double d;
    uint64_t h = 7;
    if (ml_j_number(v, &d)) {
        if (d == 0) d = 0; /* -0.0 */
        memcpy(&h, &d, sizeof h);
        return mix(3, h);
    }
    if (v->type == ML_J_STR) {
        for (size_t i = 0; i < v->s->len; i++)
            h = (h ^ (unsigned char)v->s->text[i]) * 0x100000001b3u;
        return mix(5, h);
    }
    if (v->type == ML_J_TUPLE) {
        for (size_t i = 0; i < v->l->n; i++)
            h = mix(h, hash(&v->l->v[i]));
        return h;
    }
    return v->type == ML_J_NONE || v->type == ML_J_UNDEF ? mix(11, v->type) : mix(13, (uintptr_t)v->l);
}

marlin_status ml_j_dict(struct ml_jrun *r, struct ml_jdict **out) {
    return ml_j_alloc(r, 1, sizeof **out, (void **)out);
}

static void index_put(struct ml_jdict *m, size_t entry) {
    size_t at = hash(&m->key[entry]) & (m->n_index - 1);
    while (m->index[at])
        at = (at + 1) & (m->n_index - 1);
    m->index[at] = (uint32_t)entry + 1;
}

static marlin_status index_grow(struct ml_jrun *r, struct ml_jdict *m) {
    if (m->n < INDEX_FROM || m->n * 2 <= m->n_index) return MARLIN_OK;
    if (m->n >= UINT32_MAX / 4)
        return ml_j_fail(r, MARLIN_ERR_LIMIT, "a dict of more than a billion entries");
    m->n_index = m->n_index ? m->n_index * 2 : INDEX_FROM * 4;
    ML_J_CALL(r, ml_j_alloc(r, m->n_index, sizeof *m->index, (void **)&m->index));
    for (size_t i = 0; i < m->n; i++)
        index_put(m, i);
    return MARLIN_OK;
}

/* The entry's number, or m->n. */
static marlin_status find(struct ml_jrun *r, const struct ml_jdict *m, const struct ml_jval *key,
                          size_t *out) {
    bool same = false;
    *out = m->n;
    if (!m->index) {
        for (size_t i = 0; i < m->n; i++) {
            ML_J_CALL(r, ml_j_equal(r, &m->key[i], key, &same));
            if (!same) continue;
            *out = i;
            break;
        }
        return MARLIN_OK;
    }
    for (size_t at = hash(key) & (m->n_index - 1); m->index[at]; at = (at + 1) & (m->n_index - 1)) {
        ML_J_CALL(r, ml_j_equal(r, &m->key[m->index[at] - 1], key, &same));
        if (!same) continue;
        *out = m->index[at] - 1;
        break;
    }
    return MARLIN_OK;
}

marlin_status ml_j_dict_find(struct ml_jrun *r, const struct ml_jdict *m, const struct ml_jval *key,
                             const struct ml_jval **value) {
    size_t at;
    *value = NULL;
    if (!ml_j_hashable(key, 64))
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "%s cannot be the key of a dict", ml_j_type(key));
    ML_J_CALL(r, find(r, m, key, &at));
    if (at < m->n) *value = &m->value[at];
    return MARLIN_OK;
}

const struct ml_jval *ml_j_dict_text(const struct ml_jdict *m, const struct ml_jstr *key) {
    const struct ml_jval k = {.type = ML_J_STR, .s = key};
    if (m->index) {
        for (size_t at = hash(&k) & (m->n_index - 1); m->index[at]; at = (at + 1) & (m->n_index - 1)) {
            const size_t i = m->index[at] - 1;
            if (m->key[i].type == ML_J_STR && order_strings(m->key[i].s, key) == 0) return &m->value[i];
        }
        return NULL;
    }
    for (size_t i = 0; i < m->n; i++)
        if (m->key[i].type == ML_J_STR && order_strings(m->key[i].s, key) == 0) return &m->value[i];
    return NULL;
}

static marlin_status dict_grow(struct ml_jrun *r, struct ml_jdict *m) {
    const size_t cap = m->cap ? m->cap * 2 : 4;
    struct ml_jval *key, *value;
    if (m->n < m->cap) return MARLIN_OK;
    ML_J_CALL(r, ml_j_alloc(r, cap, sizeof *key, (void **)&key));
    ML_J_CALL(r, ml_j_alloc(r, cap, sizeof *value, (void **)&value));
    if (m->n) {
        memcpy(key, m->key, m->n * sizeof *key);
        memcpy(value, m->value, m->n * sizeof *value);
    }
    m->key = key;
    m->value = value;
    m->cap = cap;
    return MARLIN_OK;
}

marlin_status ml_j_dict_set(struct ml_jrun *r, struct ml_jdict *m, const struct ml_jval *key,
                            const struct ml_jval *value) {
    size_t at;
    if (!ml_j_hashable(key, 64))
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "%s cannot be the key of a dict", ml_j_type(key));
    ML_J_CALL(r, find(r, m, key, &at));
    if (at < m->n) {
        m->value[at] = *value;
        return MARLIN_OK;
    }
    ML_J_CALL(r, dict_grow(r, m));
    m->key[m->n] = *key;
    m->value[m->n++] = *value;
    if (m->index && m->n * 2 <= m->n_index) index_put(m, m->n - 1);
    return index_grow(r, m);
}

/* ---- from JSON, whose depth its reader bounds */

static marlin_status from_members(struct ml_jrun *r, const struct ml_json *j, struct ml_jval *out) {
    struct ml_jdict *m;
    ML_J_CALL(r, ml_j_dict(r, &m));
    for (const struct ml_json *c = ml_json_first(j); c; c = ml_json_next(c)) {
        struct ml_jval key, value;
        size_t len;
        const char *name = ml_json_key(c, &len);
        ML_J_CALL(r, wrap(r, name, len, &key));
        ML_J_CALL(r, ml_j_from_json(r, c, &value));
        ML_J_CALL(r, ml_j_dict_set(r, m, &key, &value));
    }
    *out = (struct ml_jval){.type = ML_J_DICT, .m = m};
    return MARLIN_OK;
}

static marlin_status from_number(struct ml_jrun *r, const struct ml_json *j, struct ml_jval *out) {
    int64_t i;
    uint64_t u;
    double d;
    if (ml_json_i64(j, &i)) {
        *out = ml_j_int(i);
        return MARLIN_OK;
    }
    if (ml_json_u64(j, &u)) return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "an integer of more than 64 bits");
    if (!ml_json_double(j, &d)) return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "a number out of range");
    *out = ml_j_float(d);
    return MARLIN_OK;
}

marlin_status ml_j_from_json(struct ml_jrun *r, const struct ml_json *j, struct ml_jval *out) {
    bool b = false;
    size_t len = 0;
    const char *text;
    switch (ml_json_type(j)) {
    case ML_JSON_BOOL:
        (void)ml_json_bool(j, &b);
        *out = ml_j_bool(b);
        return MARLIN_OK;
    case ML_JSON_NUMBER:
        return from_number(r, j, out);
    case ML_JSON_STRING:
        text = ml_json_string(j, &len);
        return wrap(r, text, len, out); /* the document outlives the render */
    case ML_JSON_ARRAY:
        ML_J_CALL(r, ml_j_list(r, ML_J_LIST, ml_json_count(j), out));
        for (const struct ml_json *c = ml_json_first(j); c; c = ml_json_next(c)) {
            struct ml_jval v;
            ML_J_CALL(r, ml_j_from_json(r, c, &v));
            ML_J_CALL(r, ml_j_add(r, out->l, &v));
        }
        return MARLIN_OK;
    case ML_JSON_OBJECT:
        return from_members(r, j, out);
    default:
        *out = ml_j_none();
        return MARLIN_OK;
    }
}
