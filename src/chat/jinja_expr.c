/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokens to expressions, by jinja2's grammar: filters bind tighter than tests, both tighter than arithmetic; powers
 * are taken from the left.
 */
#include "chat/jinja_int.h"

#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef marlin_status parse_fn(struct ml_jparser *p, struct ml_jnode **out);
static parse_fn parse_or, parse_math;
static marlin_status parse_unary(struct ml_jparser *p, bool filters, struct ml_jnode **out);
static marlin_status parse_postfix(struct ml_jparser *p, struct ml_jnode *node, struct ml_jnode **out);

marlin_status ml_j_parse_error(struct ml_jparser *p, const char *what) {
    const struct ml_jtoken *t = p->tok;
    switch (t->kind) {
    case ML_JT_END:
        return ml_j_syntax(p->t, t->at, p->err, MARLIN_ERR_FORMAT, "%s, not the end of the template", what);
    case ML_JT_VAR_END:
    case ML_JT_BLOCK_END:
        return ml_j_syntax(p->t, t->at, p->err, MARLIN_ERR_FORMAT, "%s, not the end of the tag", what);
    default:
        return ml_j_syntax(p->t, t->at, p->err, MARLIN_ERR_FORMAT, "%s, not \"%.*s\"", what,
                           (int)(t->len < 40 ? t->len : 40), t->text);
    }
}

static marlin_status no_memory(struct ml_jparser *p) {
    return ml_fail(p->err, MARLIN_ERR_MEMORY, "%s: out of memory", p->t->name);
}

marlin_status ml_j_enter(struct ml_jparser *p) {
    if (++p->depth <= ML_J_PARSE_DEPTH) return MARLIN_OK;
    return ml_j_syntax(p->t, p->tok->at, p->err, MARLIN_ERR_LIMIT,
                       "nested deeper than %d (max_depth): flatten the template", ML_J_PARSE_DEPTH);
}

struct ml_jnode *ml_j_node(struct ml_jparser *p, enum ml_jkind kind, uint32_t at) {
    struct ml_jnode *n = ml_arena_alloc(&p->t->arena, sizeof *n);
    if (!n) {
        (void)no_memory(p);
        return NULL;
    }
    n->kind = kind;
    n->at = at;
    return n;
}

/* Doubles at powers of two; what it grows out of stays in the arena. */
marlin_status ml_j_grow(struct ml_jparser *p, struct ml_jnode ***list, size_t *n, struct ml_jnode *item) {
    if ((*n & (*n - 1)) == 0) {
        struct ml_jnode **grown = ml_arena_array(&p->t->arena, *n ? *n * 2 : 1, sizeof(void *));
        if (!grown) return no_memory(p);
        if (*n) memcpy(grown, *list, *n * sizeof(void *));
        *list = grown;
    }
    (*list)[(*n)++] = item;
    return MARLIN_OK;
}

static const struct ml_jstr *make_str(struct ml_jparser *p, const char *text, size_t len) {
    struct ml_jstr *s = ml_arena_alloc(&p->t->arena, sizeof *s);
    char *copy = s ? ml_arena_strndup(&p->t->arena, text, len) : NULL;
    if (!copy) return NULL;
    *s = (struct ml_jstr){.text = copy, .len = len, .chars = ml_j_chars(copy, len)};
    return s;
}

const struct ml_jstr *ml_j_intern(struct ml_jparser *p, const char *text, size_t len) {
    for (size_t i = 0; i < p->n_names; i++)
        if (p->names[i]->len == len && memcmp(p->names[i]->text, text, len) == 0) return p->names[i];
    const struct ml_jstr *s = make_str(p, text, len);
    if (s && p->n_names == p->cap_names) {
        const size_t cap = p->cap_names ? p->cap_names * 2 : 64;
        const struct ml_jstr **grown = ml_arena_array(&p->t->arena, cap, sizeof(void *));
        if (grown && p->n_names) memcpy(grown, p->names, p->n_names * sizeof(void *));
        s = grown ? s : NULL;
        p->names = grown ? grown : p->names;
        p->cap_names = grown ? cap : p->cap_names;
    }
    if (!s) {
        (void)no_memory(p);
        return NULL;
    }
    return p->names[p->n_names++] = s;
}

bool ml_j_is_op(const struct ml_jparser *p, int op) {
    return p->tok->kind == ML_JT_OP && p->tok->op == op;
}

static bool token_is(const struct ml_jtoken *t, const char *name) {
    return t->kind == ML_JT_NAME && strlen(name) == t->len && memcmp(t->text, name, t->len) == 0;
}

bool ml_j_is_name(const struct ml_jparser *p, const char *name) {
    return token_is(p->tok, name);
}

static bool skip_op(struct ml_jparser *p, int op) {
    const bool is = ml_j_is_op(p, op);
    p->tok += is;
    return is;
}

static bool skip_name(struct ml_jparser *p, const char *name) {
    const bool is = ml_j_is_name(p, name);
    p->tok += is;
    return is;
}

marlin_status ml_j_expect_op(struct ml_jparser *p, int op, const char *what) {
    return skip_op(p, op) ? MARLIN_OK : ml_j_parse_error(p, what);
}

marlin_status ml_j_expect_name(struct ml_jparser *p, const struct ml_jstr **name, const char *what) {
    if (p->tok->kind != ML_JT_NAME) return ml_j_parse_error(p, what);
    *name = ml_j_intern(p, p->tok->text, p->tok->len);
    p->tok++;
    return *name ? MARLIN_OK : MARLIN_ERR_MEMORY;
}

/* A node of one or two operands; NULL means that memory ran out, which has been said. */
static marlin_status branch(struct ml_jparser *p, enum ml_jkind kind, uint32_t at, struct ml_jnode *a,
                            struct ml_jnode *b, struct ml_jnode **out) {
    struct ml_jnode *n = ml_j_node(p, kind, at);
    if (!n) return MARLIN_ERR_MEMORY;
    n->a = a;
    n->b = b;
    *out = n;
    return MARLIN_OK;
}

static marlin_status constant(struct ml_jparser *p, uint32_t at, struct ml_jval v, struct ml_jnode **out) {
    ML_J_CALL(p, branch(p, ML_JN_CONST, at, NULL, NULL, out));
    (*out)->value = v;
    return MARLIN_OK;
}

/* ---- literals */

static void put_utf8(char **d, uint32_t c) {
    unsigned char *q = (unsigned char *)*d;
    if (c < 0x80) {
        *q++ = (unsigned char)c;
    } else if (c < 0x800) {
        *q++ = (unsigned char)(0xc0 | c >> 6);
        *q++ = (unsigned char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *q++ = (unsigned char)(0xe0 | c >> 12);
        *q++ = (unsigned char)(0x80 | (c >> 6 & 0x3f));
        *q++ = (unsigned char)(0x80 | (c & 0x3f));
    } else {
        *q++ = (unsigned char)(0xf0 | c >> 18);
        *q++ = (unsigned char)(0x80 | (c >> 12 & 0x3f));
        *q++ = (unsigned char)(0x80 | (c >> 6 & 0x3f));
        *q++ = (unsigned char)(0x80 | (c & 0x3f));
    }
    *d = (char *)q;
}

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* \xhh, \uhhhh, \Uhhhhhhhh, \ooo behind the backslash; NULL when it is none that text can hold. */
static const char *code_escape(const char *s, const char *end, char **d) {
    const int width = *s == 'x' ? 2 : *s == 'u' ? 4 : *s == 'U' ? 8 : 0;
    uint32_t c = 0;
    if (width == 0) {
        for (int i = 0; i < 3 && s < end && *s >= '0' && *s <= '7'; i++)
            c = c * 8 + (uint32_t)(*s++ - '0');
    } else {
        s++;
        for (int i = 0; i < width; i++, s++) {
            if (s >= end || hex(*s) < 0) return NULL;
            c = c << 4 | (uint32_t)hex(*s);
        }
    }
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return NULL;
    put_utf8(d, c);
    return s;
}

/* Python's escapes; one that is none stays as it is written. Never longer than what it is written as. */
static bool unescape(const char *s, const char *end, char **d) {
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    while (s < end) {
        if (*s != '\\' || s + 1 >= end) {
            *(*d)++ = *s++;
            continue;
        }
        const char c = *++s;
        const char *known = c ? strchr(from, c) : NULL;
        if (known) {
            *(*d)++ = to[known - from];
            s++;
        } else if (c == '\n') {
            s++;
        } else if (c == 'N') {
            return false;
        } else if (c == 'x' || c == 'u' || c == 'U' || (c >= '0' && c <= '7')) {
            s = code_escape(s, end, d);
            if (!s) return false;
        } else {
            *(*d)++ = '\\';
        }
    }
    return true;
}

static marlin_status parse_string(struct ml_jparser *p, struct ml_jnode **out) {
    const uint32_t at = p->tok->at;
    size_t size = 1;
    for (const struct ml_jtoken *t = p->tok; t->kind == ML_JT_STRING; t++)
        size += t->len;
    char *text = ml_alloc(size), *d = text;
    if (!text) return no_memory(p);
    bool valid = true;
    for (; valid && p->tok->kind == ML_JT_STRING; p->tok++)
        valid = unescape(p->tok->text + 1, p->tok->text + p->tok->len - 1, &d);
    const struct ml_jstr *s = valid ? make_str(p, text, (size_t)(d - text)) : NULL;
    ml_free(text);
    if (!valid)
        return ml_j_syntax(p->t, at, p->err, MARLIN_ERR_FORMAT,
                           "a string has an escape that stands for no character");
    return s ? constant(p, at, (struct ml_jval){.type = ML_J_STR, .s = s}, out) : no_memory(p);
}

static marlin_status parse_number(struct ml_jparser *p, struct ml_jnode **out) {
    const struct ml_jtoken *t = p->tok++;
    char text[400];
    size_t n = 0;
    for (uint32_t i = 0; i < t->len; i++) {
        if (n + 1 == sizeof text)
            return ml_j_syntax(p->t, t->at, p->err, MARLIN_ERR_LIMIT, "a number of more than 399 digits");
        if (t->text[i] != '_') text[n++] = t->text[i];
    }
    text[n] = '\0';
    errno = 0;
    if (t->kind == ML_JT_FLOAT) return constant(p, t->at, ml_j_float(strtod(text, NULL)), out);
    const long long i = strtoll(text, NULL, 10);
    if (errno)
        return ml_j_syntax(p->t, t->at, p->err, MARLIN_ERR_UNSUPPORTED, "an integer of more than 64 bits");
    return constant(p, t->at, ml_j_int(i), out);
}

static marlin_status parse_name(struct ml_jparser *p, struct ml_jnode **out) {
    const struct ml_jtoken *t = p->tok;
    const struct ml_jstr *name = NULL;
    ML_J_CALL(p, ml_j_expect_name(p, &name, "expected a name"));
    if (token_is(t, "true") || token_is(t, "True")) return constant(p, t->at, ml_j_bool(true), out);
    if (token_is(t, "false") || token_is(t, "False")) return constant(p, t->at, ml_j_bool(false), out);
    if (token_is(t, "none") || token_is(t, "None")) return constant(p, t->at, ml_j_none(), out);
    if (token_is(t, "varargs")) p->mentions |= ML_J_VARARGS;
    if (token_is(t, "kwargs")) p->mentions |= ML_J_KWARGS;
    if (token_is(t, "caller")) p->mentions |= ML_J_CALLER;
    ML_J_CALL(p, branch(p, ML_JN_NAME, t->at, NULL, NULL, out));
    (*out)->name = name;
    return MARLIN_OK;
}

/* [a, b] and {a: b}, a comma allowed at the end. */
static marlin_status parse_items(struct ml_jparser *p, bool dict, struct ml_jnode **out) {
    const int close = dict ? '}' : ']';
    ML_J_CALL(p, branch(p, dict ? ML_JN_DICT : ML_JN_LIST, p->tok++->at, NULL, NULL, out));
    struct ml_jnode *n = *out, *item = NULL;
    while (!ml_j_is_op(p, close)) {
        if (n->n) ML_J_CALL(p, ml_j_expect_op(p, ',', "expected a comma"));
        if (ml_j_is_op(p, close)) break;
        ML_J_CALL(p, ml_j_parse_expr(p, true, &item));
        ML_J_CALL(p, ml_j_grow(p, &n->list, &n->n, item));
        if (!dict) continue;
        ML_J_CALL(p, ml_j_expect_op(p, ':', "expected \":\" between key and value"));
        ML_J_CALL(p, ml_j_parse_expr(p, true, &item));
        ML_J_CALL(p, ml_j_grow(p, &n->list, &n->n, item));
    }
    p->tok++;
    return MARLIN_OK;
}

static marlin_status parse_primary(struct ml_jparser *p, struct ml_jnode **out) {
    switch (p->tok->kind) {
    case ML_JT_NAME:
        return parse_name(p, out);
    case ML_JT_STRING:
        return parse_string(p, out);
    case ML_JT_INT:
    case ML_JT_FLOAT:
        return parse_number(p, out);
    default:
        break;
    }
    if (skip_op(p, '(')) {
        ML_J_CALL(p, ml_j_parse_tuple(p, ML_J_CONDITIONAL | ML_J_PARENTHESES, out));
        return ml_j_expect_op(p, ')', "expected \")\"");
    }
    if (ml_j_is_op(p, '[') || ml_j_is_op(p, '{')) return parse_items(p, ml_j_is_op(p, '{'), out);
    return ml_j_parse_error(p, "expected an expression");
}

/* ---- subscripts, calls, filters, tests */

static marlin_status parse_slice(struct ml_jparser *p, struct ml_jnode *node, struct ml_jnode *first,
                                 uint32_t at, struct ml_jnode **out) {
    struct ml_jnode *bound[3] = {first, NULL, NULL};
    p->tok++;
    for (int i = 1; i < 3; i++) {
        if (!ml_j_is_op(p, ':') && !ml_j_is_op(p, ']')) ML_J_CALL(p, ml_j_parse_expr(p, true, &bound[i]));
        if (i == 2 || !skip_op(p, ':')) break;
    }
    ML_J_CALL(p, branch(p, ML_JN_SLICE, at, node, NULL, out));
    for (int i = 0; i < 3; i++)
        ML_J_CALL(p, ml_j_grow(p, &(*out)->list, &(*out)->n, bound[i]));
    return MARLIN_OK;
}

/* x[a, b] has a tuple for its key, and so has x[]. */
static marlin_status parse_subscript(struct ml_jparser *p, struct ml_jnode *node, struct ml_jnode **out) {
    const uint32_t at = p->tok->at;
    p->tok++;
    struct ml_jnode *key = NULL, *tuple = NULL;
    bool single = false;
    ML_J_CALL(p, branch(p, ML_JN_TUPLE, at, NULL, NULL, &tuple));
    while (!ml_j_is_op(p, ']')) {
        if (tuple->n) ML_J_CALL(p, ml_j_expect_op(p, ',', "expected \"]\""));
        if (!ml_j_is_op(p, ':')) ML_J_CALL(p, ml_j_parse_expr(p, true, &key));
        if (ml_j_is_op(p, ':')) {
            ML_J_CALL(p, parse_slice(p, node, tuple->n ? NULL : key, at, out));
            if (tuple->n || !ml_j_is_op(p, ']'))
                return ml_j_syntax(p->t, at, p->err, MARLIN_ERR_UNSUPPORTED,
                                   "a slice beside other subscripts");
            p->tok++;
            return MARLIN_OK;
        }
        ML_J_CALL(p, ml_j_grow(p, &tuple->list, &tuple->n, key));
        single = tuple->n == 1;
    }
    p->tok++;
    return branch(p, ML_JN_ITEM, at, node, single ? key : tuple, out);
}

static marlin_status parse_dot(struct ml_jparser *p, struct ml_jnode *node, struct ml_jnode **out) {
    const uint32_t at = p->tok->at;
    p->tok++;
    if (p->tok->kind == ML_JT_INT) {
        struct ml_jnode *key = NULL;
        ML_J_CALL(p, parse_number(p, &key));
        return branch(p, ML_JN_ITEM, at, node, key, out);
    }
    ML_J_CALL(p, branch(p, ML_JN_ATTR, at, node, NULL, out));
    return ml_j_expect_name(p, &(*out)->name, "expected a name after \".\"");
}

static marlin_status add_named(struct ml_jparser *p, struct ml_jsyntax *a, const struct ml_jstr *name,
                               struct ml_jnode *value) {
    const struct ml_jstr **names = ml_arena_array(&p->t->arena, a->n_named + 1, sizeof(void *));
    if (!names) return no_memory(p);
    if (a->n_named) memcpy(names, a->names, a->n_named * sizeof(void *));
    for (size_t i = 0; i < a->n_named; i++)
        if (a->names[i] == name)
            return ml_j_syntax(p->t, p->tok->at, p->err, MARLIN_ERR_FORMAT, "argument %s is given twice",
                               name->text);
    names[a->n_named] = name;
    a->names = names;
    return ml_j_grow(p, &a->named, &a->n_named, value);
}

static marlin_status parse_argument(struct ml_jparser *p, struct ml_jsyntax *a) {
    struct ml_jnode *value = NULL;
    if (skip_op(p, '*')) {
        if (a->star || a->star_star) return ml_j_parse_error(p, "expected no second \"*\"");
        return ml_j_parse_expr(p, true, &a->star);
    }
    if (skip_op(p, ML_J_OP2('*', '*'))) {
        if (a->star_star) return ml_j_parse_error(p, "expected no second \"**\"");
        return ml_j_parse_expr(p, true, &a->star_star);
    }
    if (p->tok->kind == ML_JT_NAME && p->tok[1].kind == ML_JT_OP && p->tok[1].op == '=') {
        const struct ml_jstr *name = NULL;
        if (a->star_star) return ml_j_parse_error(p, "expected nothing after \"**\"");
        ML_J_CALL(p, ml_j_expect_name(p, &name, "expected a name"));
        p->tok++;
        ML_J_CALL(p, ml_j_parse_expr(p, true, &value));
        return add_named(p, a, name, value);
    }
    if (a->star || a->star_star || a->n_named)
        return ml_j_parse_error(p, "expected no argument without a name after one that has a name");
    ML_J_CALL(p, ml_j_parse_expr(p, true, &value));
    return ml_j_grow(p, &a->pos, &a->n_pos, value);
}

static marlin_status make_args(struct ml_jparser *p, struct ml_jnode *n) {
    n->args = ml_arena_alloc(&p->t->arena, sizeof *n->args);
    return n->args ? MARLIN_OK : no_memory(p);
}

static marlin_status parse_args(struct ml_jparser *p, struct ml_jnode *n) {
    ML_J_CALL(p, ml_j_expect_op(p, '(', "expected \"(\""));
    for (bool first = true; !ml_j_is_op(p, ')'); first = false) {
        if (!first) ML_J_CALL(p, ml_j_expect_op(p, ',', "expected a comma or \")\""));
        if (ml_j_is_op(p, ')')) break;
        ML_J_CALL(p, parse_argument(p, n->args));
    }
    p->tok++;
    return MARLIN_OK;
}

static marlin_status parse_call(struct ml_jparser *p, struct ml_jnode *node, struct ml_jnode **out) {
    ML_J_CALL(p, branch(p, ML_JN_CALL, p->tok->at, node, NULL, out));
    ML_J_CALL(p, make_args(p, *out));
    return parse_args(p, *out);
}

/* Chains of subscripts, calls, filters and tests make the tree as deep as they are long. */
static marlin_status parse_postfix(struct ml_jparser *p, struct ml_jnode *node, struct ml_jnode **out) {
    const int depth = p->depth;
    marlin_status st = MARLIN_OK;
    while (st == MARLIN_OK) {
        if (ml_j_is_op(p, '.'))
            st = parse_dot(p, node, &node);
        else if (ml_j_is_op(p, '['))
            st = parse_subscript(p, node, &node);
        else if (ml_j_is_op(p, '('))
            st = parse_call(p, node, &node);
        else
            break;
        if (st == MARLIN_OK) st = ml_j_enter(p);
    }
    p->depth = depth;
    *out = node;
    return st;
}

/* The name of a filter or test: dots belong to it. */
static marlin_status dotted_name(struct ml_jparser *p, const struct ml_jstr **name, const char *what) {
    const char *from = p->tok->text;
    ML_J_CALL(p, ml_j_expect_name(p, name, what));
    while (skip_op(p, '.')) {
        const char *end = p->tok->text + p->tok->len;
        ML_J_CALL(p, ml_j_expect_name(p, name, what));
        *name = ml_j_intern(p, from, (size_t)(end - from));
        if (!*name) return MARLIN_ERR_MEMORY;
    }
    return MARLIN_OK;
}

static marlin_status parse_filter(struct ml_jparser *p, struct ml_jnode *node, struct ml_jnode **out) {
    ML_J_CALL(p, branch(p, ML_JN_FILTER, p->tok->at, node, NULL, out));
    ML_J_CALL(p, make_args(p, *out));
    ML_J_CALL(p, dotted_name(p, &(*out)->name, "expected the name of a filter"));
    return ml_j_is_op(p, '(') ? parse_args(p, *out) : MARLIN_OK;
}

/* A word or value after a test's name is its argument, unless the sentence goes on. */
static bool bare_argument(const struct ml_jparser *p) {
    switch (p->tok->kind) {
    case ML_JT_NAME:
        return !ml_j_is_name(p, "else") && !ml_j_is_name(p, "or") && !ml_j_is_name(p, "and");
    case ML_JT_STRING:
    case ML_JT_INT:
    case ML_JT_FLOAT:
        return true;
    default:
        return ml_j_is_op(p, '[') || ml_j_is_op(p, '{');
    }
}

static marlin_status parse_test(struct ml_jparser *p, struct ml_jnode *node, struct ml_jnode **out) {
    const uint32_t at = p->tok->at;
    p->tok++;
    const bool negated = skip_name(p, "not");
    struct ml_jnode *test = NULL, *arg = NULL;
    ML_J_CALL(p, branch(p, ML_JN_TEST, at, node, NULL, &test));
    ML_J_CALL(p, make_args(p, test));
    ML_J_CALL(p, dotted_name(p, &test->name, "expected the name of a test"));
    if (ml_j_is_op(p, '(')) {
        ML_J_CALL(p, parse_args(p, test));
    } else if (bare_argument(p)) {
        if (ml_j_is_name(p, "is")) return ml_j_parse_error(p, "expected no second \"is\"");
        ML_J_CALL(p, parse_primary(p, &arg));
        ML_J_CALL(p, parse_postfix(p, arg, &arg));
        ML_J_CALL(p, ml_j_grow(p, &test->args->pos, &test->args->n_pos, arg));
    }
    *out = test;
    return negated ? branch(p, ML_JN_NOT, at, test, NULL, out) : MARLIN_OK;
}

marlin_status ml_j_parse_filters(struct ml_jparser *p, struct ml_jnode *node, bool first_is_bare,
                                 struct ml_jnode **out) {
    const int depth = p->depth;
    marlin_status st = first_is_bare ? parse_filter(p, node, &node) : MARLIN_OK;
    while (st == MARLIN_OK) {
        if (skip_op(p, '|'))
            st = parse_filter(p, node, &node);
        else if (!first_is_bare && ml_j_is_name(p, "is"))
            st = parse_test(p, node, &node);
        else if (!first_is_bare && ml_j_is_op(p, '('))
            st = parse_call(p, node, &node);
        else
            break;
        if (st == MARLIN_OK) st = ml_j_enter(p);
    }
    p->depth = depth;
    *out = node;
    return st;
}

/* ---- operators, loosest last */

static marlin_status parse_unary(struct ml_jparser *p, bool filters, struct ml_jnode **out) {
    const uint32_t at = p->tok->at;
    const int depth = p->depth;
    marlin_status st = ml_j_enter(p);
    if (st != MARLIN_OK) return st;
    if (ml_j_is_op(p, '-') || ml_j_is_op(p, '+')) {
        const enum ml_jkind kind = p->tok++->op == '-' ? ML_JN_NEG : ML_JN_POS;
        ML_TRY(parse_unary(p, false, out));
        ML_TRY(branch(p, kind, at, *out, NULL, out));
    } else {
        ML_TRY(parse_primary(p, out));
    }
    ML_TRY(parse_postfix(p, *out, out));
    if (filters) st = ml_j_parse_filters(p, *out, false, out);
out:
    p->depth = depth;
    return st;
}

static marlin_status parse_operand(struct ml_jparser *p, struct ml_jnode **out) {
    return parse_unary(p, true, out);
}

/* Operands of `next` with any of the operators between them, from the left. */
static marlin_status parse_left(struct ml_jparser *p, const int *ops, size_t n_ops, parse_fn *next,
                                struct ml_jnode **out) {
    const int depth = p->depth;
    marlin_status st;
    ML_TRY(next(p, out));
    for (;;) {
        const struct ml_jtoken *t = p->tok;
        struct ml_jnode *right = NULL;
        bool found = false;
        for (size_t i = 0; i < n_ops; i++)
            found = found || ml_j_is_op(p, ops[i]);
        if (!found) break;
        p->tok++;
        ML_TRY(ml_j_enter(p)); /* the tree is as deep as the chain is long */
        ML_TRY(next(p, &right));
        ML_TRY(branch(p, ML_JN_BINARY, t->at, *out, right, out));
        (*out)->op = t->op;
    }
out:
    p->depth = depth;
    return st;
}

static bool is_constant(const struct ml_jnode *n) {
    return n->kind == ML_JN_CONST || (n->kind == ML_JN_NEG && n->a->kind == ML_JN_CONST);
}

/* jinja2 hands "-2 ** x" on to Python, where the power binds tighter, unless both sides are constants. */
static marlin_status parse_power(struct ml_jparser *p, struct ml_jnode **out) {
    static const int ops[] = {ML_J_OP2('*', '*')};
    ML_J_CALL(p, parse_left(p, ops, 1, parse_operand, out));
    struct ml_jnode *power = *out, *minus = power->a;
    if (power->kind != ML_JN_BINARY || power->op != ops[0] || minus->kind != ML_JN_NEG ||
        !is_constant(minus) || is_constant(power->b))
        return MARLIN_OK;
    power->a = minus->a;
    return branch(p, ML_JN_NEG, power->at, power, NULL, out);
}

static marlin_status parse_product(struct ml_jparser *p, struct ml_jnode **out) {
    static const int ops[] = {'*', '/', ML_J_OP2('/', '/'), '%'};
    return parse_left(p, ops, 4, parse_power, out);
}

static marlin_status parse_concat(struct ml_jparser *p, struct ml_jnode **out) {
    const uint32_t at = p->tok->at;
    struct ml_jnode *item = NULL, *n = NULL;
    ML_J_CALL(p, parse_product(p, out));
    if (!ml_j_is_op(p, '~')) return MARLIN_OK;
    ML_J_CALL(p, branch(p, ML_JN_CONCAT, at, NULL, NULL, &n));
    ML_J_CALL(p, ml_j_grow(p, &n->list, &n->n, *out));
    while (skip_op(p, '~')) {
        ML_J_CALL(p, parse_product(p, &item));
        ML_J_CALL(p, ml_j_grow(p, &n->list, &n->n, item));
    }
    *out = n;
    return MARLIN_OK;
}

static marlin_status parse_math(struct ml_jparser *p, struct ml_jnode **out) {
    static const int ops[] = {'+', '-'};
    return parse_left(p, ops, 2, parse_concat, out);
}

/* The comparison that stands here, 0 for none. */
static int comparison(struct ml_jparser *p) {
    static const int ops[] = {ML_J_OP2('=', '='), ML_J_OP2('!', '='), '<', ML_J_OP2('<', '='), '>',
                              ML_J_OP2('>', '=')};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (skip_op(p, ops[i])) return ops[i];
    if (skip_name(p, "in")) return ML_J_IN;
    if (ml_j_is_name(p, "not") && token_is(p->tok + 1, "in")) {
        p->tok += 2;
        return ML_J_NOT_IN;
    }
    return 0;
}

static marlin_status add_op(struct ml_jparser *p, struct ml_jnode *n, int op) {
    int *ops = ml_arena_array(&p->t->arena, n->n + 1, sizeof *ops);
    if (!ops) return no_memory(p);
    if (n->n) memcpy(ops, n->ops, n->n * sizeof *ops);
    ops[n->n] = op;
    n->ops = ops;
    return MARLIN_OK;
}

static marlin_status parse_comparison(struct ml_jparser *p, struct ml_jnode **out) {
    const uint32_t at = p->tok->at;
    struct ml_jnode *n = NULL, *right = NULL;
    ML_J_CALL(p, parse_math(p, out));
    for (int op; (op = comparison(p)) != 0;) {
        if (!n) ML_J_CALL(p, branch(p, ML_JN_COMPARE, at, *out, NULL, &n));
        if (n->n >= ML_J_PARSE_DEPTH) return ml_j_enter(p);
        ML_J_CALL(p, add_op(p, n, op));
        ML_J_CALL(p, parse_math(p, &right));
        ML_J_CALL(p, ml_j_grow(p, &n->list, &n->n, right));
    }
    if (n) *out = n;
    return MARLIN_OK;
}

static marlin_status parse_not(struct ml_jparser *p, struct ml_jnode **out) {
    const uint32_t at = p->tok->at;
    const int depth = p->depth;
    if (!skip_name(p, "not")) return parse_comparison(p, out);
    marlin_status st;
    ML_TRY(ml_j_enter(p));
    ML_TRY(parse_not(p, out));
    st = branch(p, ML_JN_NOT, at, *out, NULL, out);
out:
    p->depth = depth;
    return st;
}

static marlin_status parse_words(struct ml_jparser *p, const char *word, enum ml_jkind kind, parse_fn *next,
                                 struct ml_jnode **out) {
    const int depth = p->depth;
    marlin_status st;
    ML_TRY(next(p, out));
    for (;;) {
        const uint32_t at = p->tok->at;
        struct ml_jnode *right = NULL;
        if (!skip_name(p, word)) break;
        ML_TRY(ml_j_enter(p));
        ML_TRY(next(p, &right));
        ML_TRY(branch(p, kind, at, *out, right, out));
    }
out:
    p->depth = depth;
    return st;
}

static marlin_status parse_and(struct ml_jparser *p, struct ml_jnode **out) {
    return parse_words(p, "and", ML_JN_AND, parse_not, out);
}

static marlin_status parse_or(struct ml_jparser *p, struct ml_jnode **out) {
    return parse_words(p, "or", ML_JN_OR, parse_and, out);
}

static marlin_status parse_conditional(struct ml_jparser *p, struct ml_jnode **out) {
    const int depth = p->depth;
    marlin_status st;
    ML_TRY(parse_or(p, out));
    for (;;) {
        const uint32_t at = p->tok->at;
        struct ml_jnode *test = NULL, *other = NULL;
        if (!skip_name(p, "if")) break;
        ML_TRY(ml_j_enter(p));
        ML_TRY(parse_or(p, &test));
        if (skip_name(p, "else")) ML_TRY(parse_conditional(p, &other));
        ML_TRY(branch(p, ML_JN_IF_ELSE, at, test, *out, out));
        (*out)->c = other;
    }
out:
    p->depth = depth;
    return st;
}

marlin_status ml_j_parse_expr(struct ml_jparser *p, bool conditional, struct ml_jnode **out) {
    const int depth = p->depth;
    marlin_status st = ml_j_enter(p);
    if (st == MARLIN_OK) st = conditional ? parse_conditional(p, out) : parse_or(p, out);
    p->depth = depth;
    return st;
}

static bool tuple_ends(const struct ml_jparser *p, int how) {
    return p->tok->kind == ML_JT_VAR_END || p->tok->kind == ML_JT_BLOCK_END || ml_j_is_op(p, ')') ||
           ((how & ML_J_UNTIL_IN) && ml_j_is_name(p, "in")) ||
           ((how & ML_J_UNTIL_RECURSIVE) && ml_j_is_name(p, "recursive"));
}

marlin_status ml_j_parse_tuple(struct ml_jparser *p, int how, struct ml_jnode **out) {
    const uint32_t at = p->tok->at;
    struct ml_jnode *n = NULL, *item = NULL;
    bool comma = false;
    ML_J_CALL(p, branch(p, ML_JN_TUPLE, at, NULL, NULL, &n));
    while (!tuple_ends(p, how)) {
        if (how & ML_J_UNTIL_IN) {
            ML_J_CALL(p, parse_primary(p, &item));
        } else {
            ML_J_CALL(p, ml_j_parse_expr(p, how & ML_J_CONDITIONAL, &item));
        }
        ML_J_CALL(p, ml_j_grow(p, &n->list, &n->n, item));
        if (!skip_op(p, ',')) break;
        comma = true;
    }
    *out = n;
    if (comma) return MARLIN_OK;
    if (n->n == 0) return how & ML_J_PARENTHESES ? MARLIN_OK : ml_j_parse_error(p, "expected an expression");
    *out = n->list[0];
    return MARLIN_OK;
}

/* Names, names with an attribute (of a namespace) and tuples of them can be assigned to. */
static marlin_status check_target(struct ml_jparser *p, struct ml_jnode *n) {
    if (n->kind == ML_JN_TUPLE) {
        for (size_t i = 0; i < n->n; i++)
            ML_J_CALL(p, check_target(p, n->list[i]));
        return MARLIN_OK;
    }
    if (n->kind == ML_JN_NSREF) return MARLIN_OK;
    if (n->kind != ML_JN_NAME)
        return ml_j_syntax(p->t, n->at, p->err, MARLIN_ERR_FORMAT, "this cannot be assigned to");
    if (ml_j_is(n->name, "loop"))
        return ml_j_syntax(p->t, n->at, p->err, MARLIN_ERR_FORMAT, "\"loop\" cannot be assigned to");
    return MARLIN_OK;
}

marlin_status ml_j_parse_target(struct ml_jparser *p, bool until_in, struct ml_jnode **out) {
    if (!until_in && p->tok->kind == ML_JT_NAME && p->tok[1].kind == ML_JT_OP && p->tok[1].op == '.') {
        ML_J_CALL(p, branch(p, ML_JN_NSREF, p->tok->at, NULL, NULL, out));
        ML_J_CALL(p, ml_j_expect_name(p, &(*out)->name, "expected a name"));
        p->tok++;
        return ml_j_expect_name(p, &(*out)->text, "expected a name after \".\"");
    }
    ML_J_CALL(p, ml_j_parse_tuple(p, ML_J_UNTIL_IN, out));
    return check_target(p, *out);
}
