/* SPDX-License-Identifier: Apache-2.0
 *
 * Filters of one value. Those of lists are in jinja_list.c, whose table goes first.
 */
#include "chat/jinja_int.h"

#include "chat/jinja_list.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool given(const struct ml_jval *v) {
    return v->type != ML_J_ABSENT;
}

/* The filter's value as text. */
static marlin_status subject(struct ml_jrun *r, const struct ml_jcall *c, const struct ml_jstr **s) {
    struct ml_jval text;
    ML_J_CALL(r, ml_j_text(r, &c->self, &text));
    *s = text.s;
    return MARLIN_OK;
}

static marlin_status keep_markup(struct ml_jrun *r, bool markup, struct ml_jval *out) {
    struct ml_jstr *s;
    if (!markup) return MARLIN_OK;
    ML_J_CALL(r, ml_j_alloc(r, 1, sizeof *s, (void **)&s));
    *s = *out->s;
    s->markup = true;
    out->s = s;
    return MARLIN_OK;
}

static marlin_status finish(struct ml_jrun *r, struct ml_buf *b, marlin_status st, bool markup,
                            struct ml_jval *out) {
    if (st == MARLIN_OK) st = ml_j_take(r, b, out);
    if (st == MARLIN_OK) st = keep_markup(r, markup, out);
    ml_buf_free(b);
    return st;
}

/* ---- text */

static marlin_status trim(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jstr *s, *chars = NULL;
    ML_J_CALL(r, subject(r, c, &s));
    if (c->slot[0].type == ML_J_STR)
        chars = c->slot[0].s;
    else if (given(&c->slot[0]) && c->slot[0].type != ML_J_NONE)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "trim: characters are a string");
    const char *text = s->text;
    size_t n = s->len;
    ml_j_strip(&text, &n, chars, 3);
    ML_J_CALL(r, ml_j_str(r, text, n, out));
    return keep_markup(r, s->markup, out);
}

static marlin_status change_case(struct ml_jrun *r, const struct ml_jcall *c, enum ml_jcase how,
                                 struct ml_jval *out) {
    const struct ml_jstr *s;
    struct ml_buf b;
    ML_J_CALL(r, subject(r, c, &s));
    ml_buf_init(&b, r->limits.max_output);
    return finish(r, &b, ml_j_buf(r, ml_j_put_case(&b, s->text, s->len, how)), s->markup, out);
}

static marlin_status upper(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    return change_case(r, c, ML_J_UPPER, out);
}

static marlin_status lower(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    return change_case(r, c, ML_J_LOWER, out);
}

static marlin_status put_capitalized(struct ml_buf *b, const char *s, size_t n, enum ml_jcase first) {
    int32_t c;
    if (n == 0) return MARLIN_OK;
    const size_t k = ml_j_decode(s, n, &c);
    ML_J_CALL(b, ml_j_put_case(b, s, k, first));
    return ml_j_put_case(b, s + k, n - k, ML_J_LOWER);
}

static marlin_status capitalize(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jstr *s;
    struct ml_buf b;
    ML_J_CALL(r, subject(r, c, &s));
    ml_buf_init(&b, r->limits.max_output);
    return finish(r, &b, ml_j_buf(r, put_capitalized(&b, s->text, s->len, ML_J_TITLE)), s->markup, out);
}

/* Words are what stands between white space, hyphens and opening brackets; an apostrophe begins none. */
static bool between_words(int32_t c) {
    return ml_j_space(c) || (c > 0 && c < 0x80 && strchr("-({[<", (char)c));
}

static marlin_status put_title(struct ml_buf *b, const struct ml_jstr *s) {
    int32_t c;
    for (size_t i = 0, end; i < s->len; i = end) {
        (void)ml_j_decode(s->text + i, s->len - i, &c);
        const bool gap = between_words(c);
        for (end = i; end < s->len;) {
            const size_t k = ml_j_decode(s->text + end, s->len - end, &c);
            if (between_words(c) != gap) break;
            end += k;
        }
        ML_J_CALL(b, put_capitalized(b, s->text + i, end - i, ML_J_UPPER));
    }
    return MARLIN_OK;
}

static marlin_status title(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jstr *s;
    struct ml_buf b;
    ML_J_CALL(r, subject(r, c, &s));
    ml_buf_init(&b, r->limits.max_output);
    return finish(r, &b, ml_j_buf(r, put_title(&b, s)), false, out);
}

static marlin_status replace(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_jval text, from, to;
    static const struct ml_jstr name = {.text = "replace", .len = 7, .chars = 7};
    ML_J_CALL(r, ml_j_text(r, &c->self, &text));
    ML_J_CALL(r, ml_j_text(r, &c->slot[0], &from));
    ML_J_CALL(r, ml_j_text(r, &c->slot[1], &to));
    struct ml_jstr plain = *text.s;
    plain.markup = false;
    text.s = &plain;
    struct ml_jval pos[3] = {from, to, c->slot[2]};
    const bool counted = given(&c->slot[2]) && c->slot[2].type != ML_J_NONE;
    const struct ml_jargs args = {.pos = pos, .n_pos = counted ? 3 : 2};
    return ml_j_invoke(r, ml_j_method(&text, &name), &text, &args, out);
}

static marlin_status put_indented(struct ml_buf *b, const struct ml_jstr *s, const struct ml_jstr *by,
                                  bool first, bool blank) {
    size_t at = 0, from, to;
    if (first) ML_J_CALL(b, ml_buf_add(b, by->text, by->len));
    for (size_t n = 0; ml_j_line(s->text, s->len, &at, &from, &to); n++) {
        if (n) ML_J_CALL(b, ml_buf_adds(b, "\n"));
        if (n && (blank || to > from)) ML_J_CALL(b, ml_buf_add(b, by->text, by->len));
        ML_J_CALL(b, ml_buf_add(b, s->text + from, to - from));
    }
    return MARLIN_OK;
}

/* A string, or so many spaces. */
static marlin_status indentation(struct ml_jrun *r, const struct ml_jval *v, int64_t otherwise,
                                 struct ml_jval *out) {
    int64_t n = otherwise;
    char *spaces;
    if (v->type == ML_J_STR) {
        *out = *v;
        return MARLIN_OK;
    }
    if (given(v) && !ml_j_integer(v, &n))
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "an indentation is a string or a number of spaces, not %s",
                         ml_j_type(v));
    if (n < 0) n = 0;
    ML_J_CALL(r, ml_j_alloc(r, (size_t)n + 1, 1, (void **)&spaces));
    memset(spaces, ' ', (size_t)n);
    return ml_j_str(r, spaces, (size_t)n, out);
}

/* A line's end is added first, as in jinja2, so that one at the end of the text keeps its line. */
static marlin_status indent(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_jval by, ended, subject_ = c->self;
    struct ml_buf b;
    if (subject_.type == ML_J_UNDEF) return ml_j_use_undefined(r, &subject_);
    if (subject_.type != ML_J_STR)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "indent wants a string, not %s", ml_j_type(&subject_));
    ML_J_CALL(r, indentation(r, &c->slot[0], 4, &by));
    ml_buf_init(&b, r->limits.max_output);
    marlin_status st = ml_j_print(r, &b, &subject_);
    if (st == MARLIN_OK) st = ml_j_buf(r, ml_buf_adds(&b, "\n"));
    if (st == MARLIN_OK) st = ml_j_take(r, &b, &ended);
    ml_buf_clear(&b);
    if (st == MARLIN_OK)
        st = ml_j_buf(r, put_indented(&b, ended.s, by.s, ml_j_truth(&c->slot[1]), ml_j_truth(&c->slot[2])));
    return finish(r, &b, st, subject_.s->markup, out);
}

static marlin_status string(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    return ml_j_text(r, &c->self, out);
}

static marlin_status safe(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    ML_J_CALL(r, ml_j_text(r, &c->self, out));
    return keep_markup(r, true, out);
}

static marlin_status escape(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_buf b;
    ML_J_CALL(r, ml_j_text(r, &c->self, out));
    if (out->s->markup) return MARLIN_OK;
    ml_buf_init(&b, r->limits.max_output);
    return finish(r, &b, ml_j_escape(r, &b, out->s), true, out);
}

static marlin_status format(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jargs *a = c->args;
    struct ml_jval text, args;
    if (a->n_pos && a->n_named)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "format: values by place or by name, not both");
    ML_J_CALL(r, ml_j_text(r, &c->self, &text));
    if (a->n_named) {
        struct ml_jdict *m;
        ML_J_CALL(r, ml_j_dict(r, &m));
        for (size_t i = 0; i < a->n_named; i++)
            ML_J_CALL(
                r, ml_j_dict_set(r, m, &(struct ml_jval){.type = ML_J_STR, .s = a->names[i]}, &a->named[i]));
        args = (struct ml_jval){.type = ML_J_DICT, .m = m};
    } else {
        ML_J_CALL(r, ml_j_list(r, ML_J_TUPLE, a->n_pos, &args));
        for (size_t i = 0; i < a->n_pos; i++)
            ML_J_CALL(r, ml_j_add(r, args.l, &a->pos[i]));
    }
    return ml_j_percent(r, text.s, &args, out);
}

/* ---- numbers */

/* Text without the white space around it and the single underscores between digits; false for what Python reads as no
 * number at all. */
static bool plain_number(const struct ml_jstr *s, char *to, size_t cap) {
    const char *text = s->text;
    size_t n = s->len, k = 0;
    ml_j_strip(&text, &n, NULL, 3);
    if (n == 0 || n >= cap) return false;
    for (size_t i = 0; i < n; i++) {
        const char c = text[i];
        if (c == '_') {
            if (i == 0 || i + 1 == n || text[i - 1] < '0' || text[i - 1] > '9' || text[i + 1] < '0' ||
                text[i + 1] > '9')
                return false;
            continue;
        }
        if (!c || !strchr("+-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", c))
            return false;
        to[k++] = c;
    }
    to[k] = '\0';
    return true;
}

static bool read_float(const struct ml_jstr *s, double *d) {
    char text[512], *end;
    if (!plain_number(s, text, sizeof text) || strpbrk(text, "xXpP")) return false;
    *d = strtod(text, &end);
    return *end == '\0' && end != text;
}

/* 1 when it is one, 0 when not, -1 when it has more than 64 bits. */
static int read_int(const struct ml_jstr *s, int64_t base, int64_t *i) {
    char text[512], *end;
    const char *from = text;
    if (!plain_number(s, text, sizeof text)) return 0;
    const bool minus = *from == '-';
    if (*from == '-' || *from == '+') from++;
    const char prefix = base == 16 ? 'x' : base == 8 ? 'o' : base == 2 ? 'b' : 0;
    if (prefix && from[0] == '0' && (from[1] | 0x20) == prefix) from += 2;
    if (*from == '-' || *from == '+' || *from == '\0') return 0;
    if (base == 16 && from[0] == '0' && (from[1] | 0x20) == 'x') return 0;
    errno = 0;
    const unsigned long long u = strtoull(from, &end, (int)base);
    if (*end || end == from) return 0;
    if (errno || u > (unsigned long long)INT64_MAX) return -1;
    *i = minus ? -(int64_t)u : (int64_t)u;
    return 1;
}

static marlin_status to_int(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jval *v = &c->self;
    int64_t base = 10, i = 0;
    double d = 0;
    *out = given(&c->slot[0]) ? c->slot[0] : ml_j_int(0);
    if (v->type == ML_J_UNDEF) return ml_j_use_undefined(r, v);
    if (given(&c->slot[1]) && (!ml_j_integer(&c->slot[1], &base) || base < 2 || base > 36))
        return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "int: a base from 2 to 36");
    int read = ml_j_integer(v, &i);
    if (v->type == ML_J_STR) read = read_int(v->s, base, &i);
    if (!read && (v->type == ML_J_STR ? read_float(v->s, &d) : v->type == ML_J_FLOAT)) {
        if (v->type == ML_J_FLOAT) d = v->d;
        if (!isfinite(d)) return MARLIN_OK;
        read = d >= -9223372036854775808.0 && d < 9223372036854775808.0 ? 1 : -1;
        if (read == 1) i = (int64_t)d;
    }
    if (read < 0) return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "int: an integer of more than 64 bits");
    if (read) *out = ml_j_int(i);
    return MARLIN_OK;
}

static marlin_status to_float(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    double d;
    *out = given(&c->slot[0]) ? c->slot[0] : ml_j_float(0);
    if (c->self.type == ML_J_UNDEF) return ml_j_use_undefined(r, &c->self);
    if (c->self.type == ML_J_STR ? read_float(c->self.s, &d) : ml_j_number(&c->self, &d))
        *out = ml_j_float(d);
    return MARLIN_OK;
}

static marlin_status absolute(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    int64_t i;
    if (ml_j_integer(&c->self, &i)) return ml_j_negate(r, &c->self, i < 0, out);
    if (c->self.type != ML_J_FLOAT)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "abs wants a number, not %s", ml_j_type(&c->self));
    *out = ml_j_float(fabs(c->self.d));
    return MARLIN_OK;
}

/* To the nearest decimal, halves as the binary number lies: what printing it does. */
static double round_to(double d, int64_t precision) {
    char text[400];
    if (!isfinite(d) || precision > 40) return d;
    if (precision < 0) {
        const double unit = pow(10, (double)-precision);
        return precision < -308 ? copysign(0.0, d) : nearbyint(d / unit) * unit;
    }
    (void)snprintf(text, sizeof text, "%.*f", (int)precision, d);
    return strtod(text, NULL);
}

static marlin_status round_int(struct ml_jrun *r, int64_t i, int64_t precision, struct ml_jval *out) {
    int64_t unit = 1;
    *out = ml_j_int(i);
    if (precision >= 0) return MARLIN_OK;
    if (precision < -18) return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "round: a precision below -18");
    for (; precision < 0; precision++)
        unit *= 10;
    int64_t q = i / unit, rest = i % unit;
    if (rest < 0) {
        rest += unit;
        q--;
    }
    if (rest * 2 > unit || (rest * 2 == unit && q % 2 != 0)) q++;
    if (__builtin_mul_overflow(q, unit, &i))
        return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "round: more than 64 bits");
    *out = ml_j_int(i);
    return MARLIN_OK;
}

static marlin_status round_number(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    int64_t precision = 0, i;
    double d;
    const struct ml_jval *method = &c->slot[1];
    const bool up = method->type == ML_J_STR && ml_j_is(method->s, "ceil");
    const bool down = method->type == ML_J_STR && ml_j_is(method->s, "floor");
    if (given(method) && !up && !down && (method->type != ML_J_STR || !ml_j_is(method->s, "common")))
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "round: the method is common, ceil or floor");
    if (given(&c->slot[0]) && !ml_j_integer(&c->slot[0], &precision))
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "round: the precision is an integer");
    if (!ml_j_number(&c->self, &d))
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "round wants a number, not %s", ml_j_type(&c->self));
    if (!up && !down) {
        if (ml_j_integer(&c->self, &i)) return round_int(r, i, precision, out);
        *out = ml_j_float(round_to(d, precision));
        return MARLIN_OK;
    }
    const double unit = pow(10, (double)precision), whole = up ? ceil(d * unit) : floor(d * unit);
    if (!isfinite(whole)) return ml_j_fail(r, MARLIN_ERR_FORMAT, "round: infinity and NaN are not rounded");
    *out = ml_j_float(whole / unit);
    return MARLIN_OK;
}

/* ---- any value */

static marlin_status otherwise(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const bool use = c->self.type == ML_J_UNDEF || (ml_j_truth(&c->slot[1]) && !ml_j_truth(&c->self));
    if (!use)
        *out = c->self;
    else if (given(&c->slot[0]))
        *out = c->slot[0];
    else
        return ml_j_str(r, "", 0, out);
    return MARLIN_OK;
}

static struct ml_jstr text_of(const char *s) {
    return (struct ml_jstr){.text = s, .len = strlen(s), .chars = strlen(s)};
}

static marlin_status separators(struct ml_jrun *r, const struct ml_jval *v, struct ml_jdumps *how) {
    if (!given(v) || v->type == ML_J_NONE) return MARLIN_OK;
    if ((v->type != ML_J_LIST && v->type != ML_J_TUPLE) || v->l->n != 2 || v->l->v[0].type != ML_J_STR ||
        v->l->v[1].type != ML_J_STR)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "tojson: separators are two strings");
    how->item = v->l->v[0].s;
    how->key = v->l->v[1].s;
    return MARLIN_OK;
}

static marlin_status tojson(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jval *indent_ = &c->slot[1];
    const bool lines = given(indent_) && indent_->type != ML_J_NONE;
    const struct ml_jstr item = text_of(lines ? "," : ", "), key = text_of(": ");
    struct ml_jdumps how = {
        .item = &item, .key = &key, .ascii = ml_j_truth(&c->slot[0]), .sort = ml_j_truth(&c->slot[3])};
    struct ml_jval by;
    struct ml_buf b;
    if (lines) {
        ML_J_CALL(r, indentation(r, indent_, 0, &by));
        how.indent = by.s;
    }
    ML_J_CALL(r, separators(r, &c->slot[2], &how));
    ml_buf_init(&b, r->limits.max_output);
    return finish(r, &b, ml_j_dump(r, &b, &c->self, &how), false, out);
}

static const struct ml_jfunction filters[] = {
    {"abs", absolute, "", 0},
    {"capitalize", capitalize, "", 0},
    {"d", otherwise, "default_value boolean", 0},
    {"default", otherwise, "default_value boolean", 0},
    {"e", escape, "", 0},
    {"escape", escape, "", 0},
    {"float", to_float, "default", 0},
    {"format", format, NULL, 0},
    {"indent", indent, "width first blank", 0},
    {"int", to_int, "default base", 0},
    {"lower", lower, "", 0},
    {"replace", replace, "old new count", 2},
    {"round", round_number, "precision method", 0},
    {"safe", safe, "", 0},
    {"string", string, "", 0},
    {"title", title, "", 0},
    {"tojson", tojson, "ensure_ascii indent separators sort_keys", 0},
    {"trim", trim, "chars", 0},
    {"upper", upper, "", 0},
    {NULL, NULL, NULL, 0},
};

/* map('upper') comes back here, by way of the pick. */
static marlin_status apply(struct ml_jrun *r, const struct ml_jstr *name, const struct ml_jval *v,
                           const struct ml_jargs *args, struct ml_jval *out) {
    const struct ml_jfunction *f = ml_j_find(filters, name);
    if (!f) f = ml_j_find(ml_j_list_filters, name);
    if (!f) return ml_j_no_filter(r, name);
    return ml_j_invoke(r, f, v, args, out);
}

marlin_status ml_j_filter(struct ml_jrun *r, const struct ml_jstr *name, const struct ml_jval *v,
                          const struct ml_jargs *args, struct ml_jval *out) {
    r->filter = apply;
    return apply(r, name, v, args, out);
}
