/* SPDX-License-Identifier: Apache-2.0
 *
 * Values as text: Python's str and repr, and json.dumps.
 */
#include "chat/jinja_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The shortest decimal that reads back as d, in Python's form: 1.0, 1e+16, 1e-05. */
marlin_status ml_j_print_float(struct ml_buf *b, double d) {
    char text[40], digits[24];
    int precision = 0;
    if (isnan(d)) return ml_buf_adds(b, "nan");
    if (isinf(d)) return ml_buf_adds(b, d < 0 ? "-inf" : "inf");
    do {
        (void)snprintf(text, sizeof text, "%.*e", precision, fabs(d));
    } while (strtod(text, NULL) != fabs(d) && ++precision < 17);
    const int exponent = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
    size_t n = 0;
    for (const char *s = text; *s != 'e'; s++)
        if (*s != '.') digits[n++] = *s;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    digits[n] = '\0';
    if (signbit(d)) ML_J_CALL(b, ml_buf_adds(b, "-"));
    if (exponent < -4 || exponent >= 16)
        return ml_buf_addf(b, "%c%s%se%c%02d", digits[0], n > 1 ? "." : "", digits + 1,
                           exponent < 0 ? '-' : '+', abs(exponent));
    if (exponent < 0) return ml_buf_addf(b, "0.%.*s%s", -exponent - 1, "0000", digits);
    const size_t whole = (size_t)exponent + 1;
    if (n <= whole) return ml_buf_addf(b, "%s%.*s.0", digits, (int)(whole - n), "0000000000000000");
    return ml_buf_addf(b, "%.*s.%s", (int)whole, digits, digits + whole);
}

static marlin_status repr_char(struct ml_buf *b, int32_t c, const char *s, size_t k, char quote) {
    if (c == quote || c == '\\') return ml_buf_addf(b, "\\%c", (char)c);
    if (c == '\n') return ml_buf_adds(b, "\\n");
    if (c == '\r') return ml_buf_adds(b, "\\r");
    if (c == '\t') return ml_buf_adds(b, "\\t");
    if (ml_j_printable(c)) return ml_buf_add(b, s, k);
    if (c < 0x100) return ml_buf_addf(b, "\\x%02x", (unsigned)c);
    return c < 0x10000 ? ml_buf_addf(b, "\\u%04x", (unsigned)c) : ml_buf_addf(b, "\\U%08x", (unsigned)c);
}

static marlin_status repr_string(struct ml_buf *b, const struct ml_jstr *s) {
    const char quote = memchr(s->text, '\'', s->len) && !memchr(s->text, '"', s->len) ? '"' : '\'';
    int32_t c;
    ML_J_CALL(b, ml_buf_add(b, &quote, 1));
    for (size_t i = 0, k; i < s->len; i += k) {
        k = ml_j_decode(s->text + i, s->len - i, &c);
        ML_J_CALL(b, repr_char(b, c, s->text + i, k, quote));
    }
    return ml_buf_add(b, &quote, 1);
}

static marlin_status repr_list(struct ml_jrun *r, struct ml_buf *b, const struct ml_jlist *l,
                               const char *open, const char *close) {
    ML_J_CALL(r, ml_j_buf(r, ml_buf_adds(b, open)));
    for (size_t i = 0; i < l->n; i++) {
        if (i) ML_J_CALL(r, ml_j_buf(r, ml_buf_adds(b, ", ")));
        ML_J_CALL(r, ml_j_repr(r, b, &l->v[i]));
    }
    return ml_j_buf(r, ml_buf_adds(b, close));
}

static marlin_status repr_dict(struct ml_jrun *r, struct ml_buf *b, const struct ml_jdict *m,
                               const char *open, const char *close) {
    ML_J_CALL(r, ml_j_buf(r, ml_buf_adds(b, open)));
    for (size_t i = 0; i < m->n; i++) {
        if (i) ML_J_CALL(r, ml_j_buf(r, ml_buf_adds(b, ", ")));
        ML_J_CALL(r, ml_j_repr(r, b, &m->key[i]));
        ML_J_CALL(r, ml_j_buf(r, ml_buf_adds(b, ": ")));
        ML_J_CALL(r, ml_j_repr(r, b, &m->value[i]));
    }
    return ml_j_buf(r, ml_buf_adds(b, close));
}

static marlin_status repr_view(struct ml_jrun *r, struct ml_buf *b, const struct ml_jlist *l) {
    ML_J_CALL(r, ml_j_buf(r, ml_buf_adds(b, l->view)));
    return repr_list(r, b, l, "([", "])");
}

static marlin_status repr_range(struct ml_buf *b, const struct ml_jrange *g) {
    const long long start = g->start, stop = g->stop, step = g->step;
    return step == 1 ? ml_buf_addf(b, "range(%lld, %lld)", start, stop)
                     : ml_buf_addf(b, "range(%lld, %lld, %lld)", start, stop, step);
}

static marlin_status repr_any(struct ml_jrun *r, struct ml_buf *b, const struct ml_jval *v) {
    switch (v->type) {
    case ML_J_UNDEF:
        return ml_j_buf(r, ml_buf_adds(b, "Undefined"));
    case ML_J_NONE:
        return ml_j_buf(r, ml_buf_adds(b, "None"));
    case ML_J_BOOL:
        return ml_j_buf(r, ml_buf_adds(b, v->b ? "True" : "False"));
    case ML_J_INT:
        return ml_j_buf(r, ml_buf_addf(b, "%lld", (long long)v->i));
    case ML_J_FLOAT:
        return ml_j_buf(r, ml_j_print_float(b, v->d));
    case ML_J_STR:
        if (v->s->markup) ML_J_CALL(r, ml_j_buf(r, ml_buf_adds(b, "Markup(")));
        ML_J_CALL(r, ml_j_buf(r, repr_string(b, v->s)));
        return v->s->markup ? ml_j_buf(r, ml_buf_adds(b, ")")) : MARLIN_OK;
    case ML_J_LIST:
        return repr_list(r, b, v->l, "[", "]");
    case ML_J_TUPLE:
        return repr_list(r, b, v->l, "(", v->l->n == 1 ? ",)" : ")");
    case ML_J_VIEW:
        return repr_view(r, b, v->l);
    case ML_J_DICT:
        return repr_dict(r, b, v->m, "{", "}");
    case ML_J_NAMESPACE:
        return repr_dict(r, b, v->m, "<Namespace {", "}>");
    case ML_J_RANGE:
        return ml_j_buf(r, repr_range(b, v->r));
    case ML_J_MACRO:
        return ml_j_buf(r, ml_buf_addf(b, "<Macro '%s'>", v->macro->node->name->text));
    default:
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "a %s has no text: is a call or \"|list\" missing?",
                         ml_j_type(v));
    }
}

marlin_status ml_j_repr(struct ml_jrun *r, struct ml_buf *b, const struct ml_jval *v) {
    marlin_status st = ml_j_deeper(r);
    if (st == MARLIN_OK) st = ml_j_step(r);
    if (st == MARLIN_OK) st = repr_any(r, b, v);
    r->depth--;
    return st;
}

marlin_status ml_j_print(struct ml_jrun *r, struct ml_buf *b, const struct ml_jval *v) {
    if (v->type == ML_J_STR) return ml_j_buf(r, ml_buf_add(b, v->s->text, v->s->len));
    return v->type == ML_J_UNDEF ? MARLIN_OK : ml_j_repr(r, b, v);
}

marlin_status ml_j_text(struct ml_jrun *r, const struct ml_jval *v, struct ml_jval *out) {
    struct ml_buf b;
    if (v->type == ML_J_STR) {
        *out = *v;
        return MARLIN_OK;
    }
    ml_buf_init(&b, r->limits.max_output);
    marlin_status st = ml_j_print(r, &b, v);
    if (st == MARLIN_OK) st = ml_j_take(r, &b, out);
    ml_buf_free(&b);
    return st;
}

marlin_status ml_j_escape(struct ml_jrun *r, struct ml_buf *b, const struct ml_jstr *s) {
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    for (size_t i = 0; i < s->len; i++) {
        const char *known = s->text[i] ? strchr(from, s->text[i]) : NULL;
        ML_J_CALL(r, ml_j_buf(r, known ? ml_buf_adds(b, to[known - from]) : ml_buf_add(b, s->text + i, 1)));
    }
    return MARLIN_OK;
}

/* ---- JSON */

static marlin_status dump_string(struct ml_buf *b, const struct ml_jstr *s, bool ascii) {
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    int32_t c;
    ML_J_CALL(b, ml_buf_adds(b, "\""));
    for (size_t i = 0, k; i < s->len; i += k) {
        k = ml_j_decode(s->text + i, s->len - i, &c);
        const char *known = c > 0 && c < 0x80 ? strchr(from, (char)c) : NULL;
        if (known)
            ML_J_CALL(b, ml_buf_addf(b, "\\%c", to[known - from]));
        else if (c < 0x20 || (ascii && c >= 0x7f && c < 0x10000))
            ML_J_CALL(b, ml_buf_addf(b, "\\u%04x", (unsigned)c));
        else if (ascii && c >= 0x10000)
            ML_J_CALL(b, ml_buf_addf(b, "\\u%04x\\u%04x", 0xd800u + ((unsigned)(c - 0x10000) >> 10),
                                     0xdc00u + ((unsigned)(c - 0x10000) & 0x3ff)));
        else
            ML_J_CALL(b, ml_buf_add(b, s->text + i, k));
    }
    return ml_buf_adds(b, "\"");
}

static marlin_status dump_float(struct ml_buf *b, double d) {
    if (isnan(d)) return ml_buf_adds(b, "NaN");
    if (isinf(d)) return ml_buf_adds(b, d < 0 ? "-Infinity" : "Infinity");
    return ml_j_print_float(b, d);
}

static marlin_status put(struct ml_jrun *r, struct ml_buf *b, const struct ml_jstr *s) {
    return ml_j_buf(r, ml_buf_add(b, s->text, s->len));
}

static marlin_status new_line(struct ml_jrun *r, struct ml_buf *b, const struct ml_jdumps *how, int level) {
    if (!how->indent) return MARLIN_OK;
    ML_J_CALL(r, ml_j_buf(r, ml_buf_adds(b, "\n")));
    for (int i = 0; i < level; i++)
        ML_J_CALL(r, put(r, b, how->indent));
    return MARLIN_OK;
}

static marlin_status dump(struct ml_jrun *r, struct ml_buf *b, const struct ml_jval *v,
                          const struct ml_jdumps *how, int level);

static marlin_status dump_list(struct ml_jrun *r, struct ml_buf *b, const struct ml_jlist *l,
                               const struct ml_jdumps *how, int level) {
    if (l->n == 0) return ml_j_buf(r, ml_buf_adds(b, "[]"));
    ML_J_CALL(r, ml_j_buf(r, ml_buf_adds(b, "[")));
    for (size_t i = 0; i < l->n; i++) {
        if (i) ML_J_CALL(r, put(r, b, how->item));
        ML_J_CALL(r, new_line(r, b, how, level + 1));
        ML_J_CALL(r, dump(r, b, &l->v[i], how, level + 1));
    }
    ML_J_CALL(r, new_line(r, b, how, level));
    return ml_j_buf(r, ml_buf_adds(b, "]"));
}

/* Keys become strings; those that cannot are refused. */
static marlin_status dump_key(struct ml_jrun *r, struct ml_buf *b, const struct ml_jval *k,
                              const struct ml_jdumps *how) {
    switch (k->type) {
    case ML_J_STR:
        return ml_j_buf(r, dump_string(b, k->s, how->ascii));
    case ML_J_NONE:
        return ml_j_buf(r, ml_buf_adds(b, "\"null\""));
    case ML_J_BOOL:
        return ml_j_buf(r, ml_buf_adds(b, k->b ? "\"true\"" : "\"false\""));
    case ML_J_INT:
        return ml_j_buf(r, ml_buf_addf(b, "\"%lld\"", (long long)k->i));
    case ML_J_FLOAT:
        ML_J_CALL(r, ml_j_buf(r, ml_buf_adds(b, "\"")));
        ML_J_CALL(r, ml_j_buf(r, dump_float(b, k->d)));
        return ml_j_buf(r, ml_buf_adds(b, "\""));
    default:
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "tojson: %s cannot be the key of an object", ml_j_type(k));
    }
}

/* Entry numbers in the order of their keys: a merge from the bottom up. */
static marlin_status sort_keys(struct ml_jrun *r, const struct ml_jdict *m, size_t **out) {
    size_t *from, *to;
    ML_J_CALL(r, ml_j_alloc(r, m->n, sizeof *from, (void **)&from));
    ML_J_CALL(r, ml_j_alloc(r, m->n, sizeof *to, (void **)&to));
    for (size_t i = 0; i < m->n; i++)
        from[i] = i;
    for (size_t run = 1; run < m->n; run *= 2) {
        for (size_t lo = 0; lo < m->n; lo += 2 * run) {
            const size_t mid = lo + run < m->n ? lo + run : m->n, hi = mid + run < m->n ? mid + run : m->n;
            for (size_t i = lo, j = mid, k = lo; k < hi; k++) {
                int order = i < mid ? -1 : 1;
                if (i < mid && j < hi)
                    ML_J_CALL(r, ml_j_order(r, "<", &m->key[from[j]], &m->key[from[i]], &order));
                else
                    order = -order;
                to[k] = order == -1 ? from[j++] : from[i++];
            }
        }
        size_t *swap = from;
        from = to;
        to = swap;
    }
    *out = from;
    return MARLIN_OK;
}

static marlin_status dump_dict(struct ml_jrun *r, struct ml_buf *b, const struct ml_jdict *m,
                               const struct ml_jdumps *how, int level) {
    size_t *order = NULL;
    if (m->n == 0) return ml_j_buf(r, ml_buf_adds(b, "{}"));
    if (how->sort) ML_J_CALL(r, sort_keys(r, m, &order));
    ML_J_CALL(r, ml_j_buf(r, ml_buf_adds(b, "{")));
    for (size_t n = 0; n < m->n; n++) {
        const size_t i = order ? order[n] : n;
        if (n) ML_J_CALL(r, put(r, b, how->item));
        ML_J_CALL(r, new_line(r, b, how, level + 1));
        ML_J_CALL(r, dump_key(r, b, &m->key[i], how));
        ML_J_CALL(r, put(r, b, how->key));
        ML_J_CALL(r, dump(r, b, &m->value[i], how, level + 1));
    }
    ML_J_CALL(r, new_line(r, b, how, level));
    return ml_j_buf(r, ml_buf_adds(b, "}"));
}

static marlin_status dump_any(struct ml_jrun *r, struct ml_buf *b, const struct ml_jval *v,
                              const struct ml_jdumps *how, int level) {
    switch (v->type) {
    case ML_J_NONE:
        return ml_j_buf(r, ml_buf_adds(b, "null"));
    case ML_J_BOOL:
        return ml_j_buf(r, ml_buf_adds(b, v->b ? "true" : "false"));
    case ML_J_INT:
        return ml_j_buf(r, ml_buf_addf(b, "%lld", (long long)v->i));
    case ML_J_FLOAT:
        return ml_j_buf(r, dump_float(b, v->d));
    case ML_J_STR:
        return ml_j_buf(r, dump_string(b, v->s, how->ascii));
    case ML_J_LIST:
    case ML_J_TUPLE:
        return dump_list(r, b, v->l, how, level);
    case ML_J_DICT:
        return dump_dict(r, b, v->m, how, level);
    case ML_J_UNDEF:
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "tojson: %s", v->s->text);
    default:
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "tojson: a %s cannot be written as JSON", ml_j_type(v));
    }
}

static marlin_status dump(struct ml_jrun *r, struct ml_buf *b, const struct ml_jval *v,
                          const struct ml_jdumps *how, int level) {
    marlin_status st = ml_j_deeper(r);
    if (st == MARLIN_OK) st = ml_j_step(r);
    if (st == MARLIN_OK) st = dump_any(r, b, v, how, level);
    r->depth--;
    return st;
}

marlin_status ml_j_dump(struct ml_jrun *r, struct ml_buf *b, const struct ml_jval *v,
                        const struct ml_jdumps *how) {
    return dump(r, b, v, how, 0);
}
