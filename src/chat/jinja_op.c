/* SPDX-License-Identifier: Apache-2.0
 *
 * Operators, with Python's meaning of division, remainder and repetition. Integers have 64 bits: what does not fit
 * is an error, never another number.
 */
#include "chat/jinja_int.h"

#include <math.h>
#include <string.h>

static marlin_status too_large(struct ml_jrun *r) {
    return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "an integer of more than 64 bits");
}

static marlin_status by_zero(struct ml_jrun *r) {
    return ml_j_fail(r, MARLIN_ERR_FORMAT, "a division by zero");
}

static marlin_status power(struct ml_jrun *r, int64_t a, int64_t b, struct ml_jval *out) {
    int64_t result = 1;
    if (b < 0) {
        if (a == 0) return by_zero(r);
        *out = ml_j_float(pow((double)a, (double)b));
        return MARLIN_OK;
    }
    if (a >= -1 && a <= 1) b = a == -1 ? b % 2 + 2 : b > 0; /* no power of these grows */
    for (; b > 0; b--)
        if (__builtin_mul_overflow(result, a, &result)) return too_large(r);
    *out = ml_j_int(result);
    return MARLIN_OK;
}

/* Rounded once, as Python does. */
static double quotient(int64_t a, int64_t b) {
    const int64_t exact = (int64_t)1 << 53;
    if (a >= -exact && a <= exact && b >= -exact && b <= exact) return (double)a / (double)b;
    return (double)((long double)a / (long double)b);
}

static marlin_status integers(struct ml_jrun *r, int op, int64_t a, int64_t b, struct ml_jval *out) {
    int64_t x = 0;
    bool over = false;
    switch (op) {
    case '+':
        over = __builtin_add_overflow(a, b, &x);
        break;
    case '-':
        over = __builtin_sub_overflow(a, b, &x);
        break;
    case '*':
        over = __builtin_mul_overflow(a, b, &x);
        break;
    case '/':
        if (b == 0) return by_zero(r);
        *out = ml_j_float(quotient(a, b));
        return MARLIN_OK;
    case ML_J_OP2('*', '*'):
        return power(r, a, b, out);
    default: /* floor and its remainder */
        if (b == 0) return by_zero(r);
        if (a == INT64_MIN && b == -1) {
            over = op != '%';
            break;
        }
        const int64_t floored = a / b - (a % b != 0 && (a < 0) != (b < 0));
        x = op == '%' ? a - floored * b : floored;
    }
    if (over) return too_large(r);
    *out = ml_j_int(x);
    return MARLIN_OK;
}

static double remainder_of(double a, double b) {
    double m = fmod(a, b);
    if (m != 0) return (b < 0) != (m < 0) ? m + b : m;
    return copysign(0.0, b);
}

static double floor_of(double a, double b) {
    const double m = fmod(a, b);
    double div = (a - m) / b;
    if (m != 0 && (b < 0) != (m < 0)) div -= 1;
    if (div == 0) return copysign(0.0, a / b);
    const double whole = floor(div);
    return div - whole > 0.5 ? whole + 1 : whole;
}

static marlin_status floats(struct ml_jrun *r, int op, double a, double b, struct ml_jval *out) {
    if (b == 0 && (op == '/' || op == '%' || op == ML_J_OP2('/', '/'))) return by_zero(r);
    double x;
    switch (op) {
    case '+':
        x = a + b;
        break;
    case '-':
        x = a - b;
        break;
    case '*':
        x = a * b;
        break;
    case '/':
        x = a / b;
        break;
    case '%':
        x = remainder_of(a, b);
        break;
    case ML_J_OP2('*', '*'):
        if (a == 0 && b < 0) return by_zero(r);
        if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
            return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "a power that is a complex number");
        x = pow(a, b);
        if (isinf(x) && isfinite(a) && isfinite(b))
            return ml_j_fail(r, MARLIN_ERR_FORMAT, "a power that is too large for a float");
        break;
    default:
        x = floor_of(a, b);
    }
    *out = ml_j_float(x);
    return MARLIN_OK;
}

static bool is_list(const struct ml_jval *v) {
    return v->type == ML_J_LIST || v->type == ML_J_TUPLE;
}

static marlin_status escaped(struct ml_jrun *r, struct ml_buf *b, const struct ml_jval *v) {
    return v->s->markup ? ml_j_print(r, b, v) : ml_j_escape(r, b, v->s);
}

/* What is added to text that was marked safe is escaped. */
static marlin_status add_markup(struct ml_jrun *r, const struct ml_jval *a, const struct ml_jval *b,
                                struct ml_jval *out) {
    struct ml_buf text;
    ml_buf_init(&text, r->limits.max_output);
    marlin_status st = escaped(r, &text, a);
    if (st == MARLIN_OK) st = escaped(r, &text, b);
    if (st == MARLIN_OK) st = ml_j_take(r, &text, out);
    if (st == MARLIN_OK) {
        struct ml_jstr *s;
        st = ml_j_alloc(r, 1, sizeof *s, (void **)&s);
        if (st == MARLIN_OK) {
            *s = *out->s;
            s->markup = true;
            out->s = s;
        }
    }
    ml_buf_free(&text);
    return st;
}

static marlin_status add_texts(struct ml_jrun *r, const struct ml_jval *a, const struct ml_jval *b,
                               struct ml_jval *out) {
    char *text;
    struct ml_jstr *s;
    if (a->s->markup || b->s->markup) return add_markup(r, a, b, out);
    ML_J_CALL(r, ml_j_alloc(r, a->s->len + b->s->len + 1, 1, (void **)&text));
    ML_J_CALL(r, ml_j_alloc(r, 1, sizeof *s, (void **)&s));
    memcpy(text, a->s->text, a->s->len);
    memcpy(text + a->s->len, b->s->text, b->s->len);
    *s = (struct ml_jstr){.text = text, .len = a->s->len + b->s->len, .chars = a->s->chars + b->s->chars};
    *out = (struct ml_jval){.type = ML_J_STR, .s = s};
    return MARLIN_OK;
}

static marlin_status add_lists(struct ml_jrun *r, const struct ml_jval *a, const struct ml_jval *b,
                               struct ml_jval *out) {
    ML_J_CALL(r, ml_j_steps(r, (a->l->n + b->l->n) / 16));
    ML_J_CALL(r, ml_j_list(r, a->type, a->l->n + b->l->n, out));
    if (a->l->n) memcpy(out->l->v, a->l->v, a->l->n * sizeof *a->l->v);
    if (b->l->n) memcpy(out->l->v + a->l->n, b->l->v, b->l->n * sizeof *b->l->v);
    out->l->n = a->l->n + b->l->n;
    return MARLIN_OK;
}

static marlin_status repeat(struct ml_jrun *r, const struct ml_jval *v, int64_t times, struct ml_jval *out) {
    const bool text = v->type == ML_J_STR;
    const size_t n = text ? v->s->len : v->l->n, unit = text ? 1 : sizeof *v->l->v;
    size_t total;
    char *to;
    if (times < 0 || n == 0) times = 0;
    if (__builtin_mul_overflow(n, (size_t)times, &total)) total = SIZE_MAX / 64;
    ML_J_CALL(r, ml_j_alloc(r, total + 1, unit, (void **)&to));
    ML_J_CALL(r, ml_j_steps(r, total / 64));
    const void *from = text ? (const void *)v->s->text : (const void *)v->l->v;
    for (int64_t i = 0; i < times; i++)
        memcpy(to + (size_t)i * n * unit, from, n * unit);
    if (text) return ml_j_str(r, to, total, out);
    ML_J_CALL(r, ml_j_list(r, v->type, 0, out));
    out->l->v = (struct ml_jval *)(void *)to;
    out->l->n = out->l->cap = total;
    return MARLIN_OK;
}

static marlin_status mismatch(struct ml_jrun *r, int op, const struct ml_jval *a, const struct ml_jval *b) {
    if (a->type == ML_J_UNDEF || b->type == ML_J_UNDEF)
        return ml_j_use_undefined(r, a->type == ML_J_UNDEF ? a : b);
    return ml_j_fail(r, MARLIN_ERR_FORMAT, "\"%c%.1s\" does not go with %s and %s", (char)op,
                     op > 0xff ? (const char[]){(char)(op >> 8), '\0'} : "", ml_j_type(a), ml_j_type(b));
}

static marlin_status not_numbers(struct ml_jrun *r, int op, const struct ml_jval *a, const struct ml_jval *b,
                                 struct ml_jval *out) {
    int64_t times;
    const bool texts = a->type == ML_J_STR && b->type == ML_J_STR;
    if (op == '+' && texts) return add_texts(r, a, b, out);
    if (op == '+' && is_list(a) && a->type == b->type) return add_lists(r, a, b, out);
    if (op == '*' && (a->type == ML_J_STR || is_list(a)) && ml_j_integer(b, &times))
        return repeat(r, a, times, out);
    if (op == '*' && (b->type == ML_J_STR || is_list(b)) && ml_j_integer(a, &times))
        return repeat(r, b, times, out);
    if (op == '%' && a->type == ML_J_STR) return ml_j_percent(r, a->s, b, out);
    return mismatch(r, op, a, b);
}

marlin_status ml_j_binary(struct ml_jrun *r, int op, const struct ml_jval *a, const struct ml_jval *b,
                          struct ml_jval *out) {
    int64_t i, j;
    double x, y;
    if (ml_j_integer(a, &i) && ml_j_integer(b, &j)) return integers(r, op, i, j, out);
    if (ml_j_number(a, &x) && ml_j_number(b, &y)) return floats(r, op, x, y, out);
    return not_numbers(r, op, a, b, out);
}

marlin_status ml_j_negate(struct ml_jrun *r, const struct ml_jval *a, bool minus, struct ml_jval *out) {
    int64_t i;
    if (ml_j_integer(a, &i)) {
        if (minus && i == INT64_MIN) return too_large(r);
        *out = ml_j_int(minus ? -i : i);
    } else if (a->type == ML_J_FLOAT) {
        *out = ml_j_float(minus ? -a->d : a->d);
    } else if (a->type == ML_J_UNDEF) {
        return ml_j_use_undefined(r, a);
    } else {
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "a sign does not go with %s", ml_j_type(a));
    }
    return MARLIN_OK;
}

marlin_status ml_j_compare(struct ml_jrun *r, int op, const struct ml_jval *a, const struct ml_jval *b,
                           bool *out) {
    int order = 0;
    switch (op) {
    case ML_J_IN:
        return ml_j_contains(r, b, a, out);
    case ML_J_NOT_IN:
        ML_J_CALL(r, ml_j_contains(r, b, a, out));
        *out = !*out;
        return MARLIN_OK;
    case ML_J_OP2('=', '='):
        return ml_j_equal(r, a, b, out);
    case ML_J_OP2('!', '='):
        ML_J_CALL(r, ml_j_equal(r, a, b, out));
        *out = !*out;
        return MARLIN_OK;
    case '<':
        ML_J_CALL(r, ml_j_order(r, "<", a, b, &order));
        *out = order == -1;
        return MARLIN_OK;
    case '>':
        ML_J_CALL(r, ml_j_order(r, ">", a, b, &order));
        *out = order == 1;
        return MARLIN_OK;
    case ML_J_OP2('<', '='):
        ML_J_CALL(r, ml_j_order(r, "<=", a, b, &order));
        *out = order == -1 || order == 0;
        return MARLIN_OK;
    default:
        ML_J_CALL(r, ml_j_order(r, ">=", a, b, &order));
        *out = order == 1 || order == 0;
        return MARLIN_OK;
    }
}
