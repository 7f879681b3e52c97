/* SPDX-License-Identifier: Apache-2.0
 *
 * Python's two ways to put values into a text: "%s" % x, and "{}".format(x) without format specifications.
 */
#include "chat/jinja_int.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct percent {
    struct ml_jrun *r;
    const char *s, *end;
    const struct ml_jval *args;
    size_t used; /* of a tuple */
    bool by_name;
    struct ml_buf out;
};

struct spec {
    bool left, zero, plus, space;
    int width, precision; /* -1: none */
    char conversion;
};

enum { WIDTH_LIMIT = 10000 };

static marlin_status bad(struct percent *p, const char *what) {
    return ml_j_fail(p->r, MARLIN_ERR_FORMAT, "%% of a string: %s", what);
}

static bool digits(struct percent *p, int *n) {
    *n = 0;
    for (; p->s < p->end && *p->s >= '0' && *p->s <= '9'; p->s++)
        if ((*n = *n * 10 + (*p->s - '0')) > WIDTH_LIMIT) return false;
    return true;
}

static marlin_status read_spec(struct percent *p, struct spec *f) {
    *f = (struct spec){.precision = -1};
    for (; p->s < p->end && strchr("-0+ #", *p->s) && *p->s; p->s++) {
        if (*p->s == '#')
            return ml_j_fail(p->r, MARLIN_ERR_UNSUPPORTED, "%% of a string: \"#\" is not supported");
        f->left |= *p->s == '-';
        f->zero |= *p->s == '0';
        f->plus |= *p->s == '+';
        f->space |= *p->s == ' ';
    }
    if (!digits(p, &f->width)) return bad(p, "a width over 10000");
    if (p->s < p->end && *p->s == '.') {
        p->s++;
        if (!digits(p, &f->precision)) return bad(p, "a precision over 10000");
    }
    if (p->s >= p->end) return bad(p, "the format ends within a conversion");
    f->conversion = *p->s++;
    return MARLIN_OK;
}

static marlin_status next_argument(struct percent *p, const struct ml_jval **out) {
    const struct ml_jval *a = p->args;
    if (a->type == ML_J_TUPLE) {
        if (p->used >= a->l->n) return bad(p, "not enough values");
        *out = &a->l->v[p->used++];
        return MARLIN_OK;
    }
    if (p->used++) return bad(p, "not enough values");
    *out = a;
    return MARLIN_OK;
}

/* "(name)" in front of a conversion. */
static marlin_status named_argument(struct percent *p, const struct ml_jval **out) {
    const char *close = memchr(p->s, ')', (size_t)(p->end - p->s));
    if (!close) return bad(p, "a name is not closed");
    if (p->args->type != ML_J_DICT) return bad(p, "names want a dict");
    const struct ml_jstr name = {.text = p->s + 1, .len = (size_t)(close - p->s - 1)};
    *out = ml_j_dict_text(p->args->m, &name);
    p->s = close + 1;
    p->by_name = true;
    return *out ? MARLIN_OK : bad(p, "a name that the dict does not hold");
}

static marlin_status pad(struct percent *p, const char *sign, const char *text, size_t len,
                         const struct spec *f, bool zero) {
    const size_t chars = ml_j_chars(text, len) + strlen(sign);
    const int fill = f->width > (int)chars ? f->width - (int)chars : 0;
    struct ml_buf *b = &p->out;
    if (!f->left && !zero) ML_J_CALL(p, ml_j_buf(p->r, ml_buf_addf(b, "%*s", fill, "")));
    ML_J_CALL(p, ml_j_buf(p->r, ml_buf_adds(b, sign)));
    for (int i = 0; zero && !f->left && i < fill; i++)
        ML_J_CALL(p, ml_j_buf(p->r, ml_buf_adds(b, "0")));
    ML_J_CALL(p, ml_j_buf(p->r, ml_buf_add(b, text, len)));
    return f->left ? ml_j_buf(p->r, ml_buf_addf(b, "%*s", fill, "")) : MARLIN_OK;
}

static marlin_status put_number(struct percent *p, const struct spec *f, const struct ml_jval *v) {
    char text[400];
    double d = 0;
    int64_t i = 0;
    if (!ml_j_number(v, &d))
        return v->type == ML_J_UNDEF ? ml_j_use_undefined(p->r, v) : bad(p, "a number is wanted");
    const bool whole = strchr("diuxXo", f->conversion) != NULL;
    if (whole && f->precision >= 0)
        return ml_j_fail(p->r, MARLIN_ERR_UNSUPPORTED, "%% of a string: a precision of an integer");
    if (!whole) {
        const char format[] = {'%', '.', '*',
                               f->conversion == 'f' || f->conversion == 'F' ? 'f' : f->conversion, 0};
        const int precision = f->precision < 0 ? 6 : f->precision > 60 ? 60 : f->precision;
        if (f->precision > 60)
            return ml_j_fail(p->r, MARLIN_ERR_UNSUPPORTED, "%% of a string: a precision over 60");
        const char *all = format;
        (void)snprintf(text, sizeof text, all, precision, fabs(d));
    } else {
        if (!ml_j_integer(v, &i)) {
            if (!strchr("diu", f->conversion)) return bad(p, "an integer is wanted");
            if (!(d > -9.2e18 && d < 9.2e18)) return bad(p, "a float that is no integer of 64 bits");
            i = (int64_t)d;
        }
        const unsigned long long u = i < 0 ? 0 - (unsigned long long)i : (unsigned long long)i;
        (void)snprintf(text, sizeof text,
                       f->conversion == 'x'   ? "%llx"
                       : f->conversion == 'X' ? "%llX"
                       : f->conversion == 'o' ? "%llo"
                                              : "%llu",
                       u);
    }
    const bool minus = whole ? i < 0 : signbit(d) != 0;
    const char *sign = minus ? "-" : f->plus ? "+" : f->space ? " " : "";
    return pad(p, sign, text, strlen(text), f, f->zero && isfinite(d));
}

static marlin_status put_text(struct percent *p, const struct spec *f, const struct ml_jval *v) {
    struct ml_buf b;
    ml_buf_init(&b, p->r->limits.max_output);
    marlin_status st = f->conversion == 's' ? ml_j_print(p->r, &b, v) : ml_j_repr(p->r, &b, v);
    if (st == MARLIN_OK) {
        const struct ml_jstr s = {.text = b.data, .len = b.len, .chars = ml_j_chars(b.data, b.len)};
        const size_t keep = f->precision >= 0 && (size_t)f->precision < s.chars
                                ? ml_j_offset(&s, (size_t)f->precision)
                                : s.len;
        st = pad(p, "", b.data ? b.data : "", keep, f, false);
    }
    ml_buf_free(&b);
    return st;
}

static marlin_status conversion(struct percent *p) {
    const struct ml_jval *v = NULL;
    struct spec f;
    if (p->s < p->end && *p->s == '(') ML_J_CALL(p, named_argument(p, &v));
    ML_J_CALL(p, read_spec(p, &f));
    if (f.conversion == '%') return ml_j_buf(p->r, ml_buf_adds(&p->out, "%"));
    if (!v) ML_J_CALL(p, next_argument(p, &v));
    if (f.conversion == 's' || f.conversion == 'r') return put_text(p, &f, v);
    if (f.conversion && strchr("diuxXofFeEgG", f.conversion)) return put_number(p, &f, v);
    if (f.conversion == 'c' || f.conversion == 'a')
        return ml_j_fail(p->r, MARLIN_ERR_UNSUPPORTED, "%% of a string: %%%c is not supported", f.conversion);
    return bad(p, "an unknown conversion");
}

marlin_status ml_j_percent(struct ml_jrun *r, const struct ml_jstr *format, const struct ml_jval *args,
                           struct ml_jval *out) {
    struct percent p = {.r = r, .s = format->text, .end = format->text + format->len, .args = args};
    marlin_status st = MARLIN_OK;
    ml_buf_init(&p.out, r->limits.max_output);
    while (st == MARLIN_OK && p.s < p.end) {
        const char *next = memchr(p.s, '%', (size_t)(p.end - p.s));
        const size_t plain = (size_t)((next ? next : p.end) - p.s);
        st = ml_j_buf(r, ml_buf_add(&p.out, p.s, plain));
        p.s += plain + (next != NULL);
        if (st == MARLIN_OK && next) st = conversion(&p);
    }
    const size_t given = args->type == ML_J_TUPLE ? args->l->n : 1;
    const bool container = args->type == ML_J_UNDEF || args->type == ML_J_DICT || args->type == ML_J_LIST ||
                           args->type == ML_J_RANGE;
    if (st == MARLIN_OK && p.used < given && !p.by_name && !container)
        st = bad(&p, "not all values were used");
    if (st == MARLIN_OK) st = ml_j_take(r, &p.out, out);
    ml_buf_free(&p.out);
    return st;
}

/* ---- "{}".format() */

static marlin_status field(struct ml_jrun *r, const char *s, size_t n, size_t *next,
                           const struct ml_jargs *args, const struct ml_jval **out) {
    size_t at = 0;
    *out = NULL;
    const bool by_number = n > 0 && s[0] >= '0' && s[0] <= '9', by_order = n == 0;
    if ((by_number && *next != 0 && *next != SIZE_MAX) || (by_order && *next == SIZE_MAX))
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "format: {} and {0} do not go together");
    if (by_number) *next = SIZE_MAX;
    if (n > 0 && s[0] >= '0' && s[0] <= '9') {
        for (size_t i = 0; i < n; i++) {
            if (s[i] < '0' || s[i] > '9' || at > WIDTH_LIMIT)
                return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "format: only {}, {0} and {name} are supported");
            at = at * 10 + (size_t)(s[i] - '0');
        }
    } else if (n > 0) {
        for (size_t i = 0; i < n; i++)
            if (strchr(".[]!:{", s[i]))
                return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "format: only {}, {0} and {name} are supported");
        for (size_t i = 0; i < args->n_named; i++)
            if (args->names[i]->len == n && memcmp(args->names[i]->text, s, n) == 0) *out = &args->named[i];
        return *out ? MARLIN_OK : ml_j_fail(r, MARLIN_ERR_FORMAT, "format: a name that was not given");
    } else {
        at = (*next)++;
    }
    if (at >= args->n_pos) return ml_j_fail(r, MARLIN_ERR_FORMAT, "format: not enough values");
    *out = &args->pos[at];
    return MARLIN_OK;
}

static marlin_status braces(struct ml_jrun *r, const struct ml_jstr *f, const struct ml_jargs *args,
                            struct ml_buf *b) {
    size_t next = 0;
    for (size_t i = 0; i < f->len; i++) {
        const char c = f->text[i];
        if (c != '{' && c != '}') {
            ML_J_CALL(r, ml_j_buf(r, ml_buf_add(b, &c, 1)));
        } else if (i + 1 < f->len && f->text[i + 1] == c) {
            ML_J_CALL(r, ml_j_buf(r, ml_buf_add(b, &c, 1)));
            i++;
        } else {
            const char *s = f->text + i + 1, *close = memchr(s, '}', f->len - i - 1);
            const struct ml_jval *v;
            if (c == '}' || !close)
                return ml_j_fail(r, MARLIN_ERR_FORMAT, "format: a brace without its other half");
            ML_J_CALL(r, field(r, s, (size_t)(close - s), &next, args, &v));
            ML_J_CALL(r, ml_j_print(r, b, v));
            i = (size_t)(close - f->text);
        }
    }
    return MARLIN_OK;
}

marlin_status ml_j_braces(struct ml_jrun *r, const struct ml_jstr *format, const struct ml_jargs *args,
                          struct ml_jval *out) {
    struct ml_buf b;
    ml_buf_init(&b, r->limits.max_output);
    marlin_status st = braces(r, format, args, &b);
    if (st == MARLIN_OK) st = ml_j_take(r, &b, out);
    ml_buf_free(&b);
    return st;
}
