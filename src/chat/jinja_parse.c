/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokens to statements.
 */
#include "chat/jinja_int.h"

#include "base/mem.h"

#include <string.h>

enum { TEXT_LIMIT = 4 << 20, TREE_LIMIT = 256 << 20 };

static marlin_status body(struct ml_jparser *p, struct ml_jnode **out, const char *const *ends);

static marlin_status make(struct ml_jparser *p, enum ml_jkind kind, uint32_t at, struct ml_jnode **out) {
    *out = ml_j_node(p, kind, at);
    return *out ? MARLIN_OK : MARLIN_ERR_MEMORY;
}

static marlin_status block_end(struct ml_jparser *p) {
    if (p->tok->kind != ML_JT_BLOCK_END) return ml_j_parse_error(p, "expected \"%}\"");
    p->tok++;
    return MARLIN_OK;
}

/* "%}", statements up to one of the tags `ends`, whose name the parser then stands at. */
static marlin_status block(struct ml_jparser *p, struct ml_jnode **out, const char *const *ends) {
    if (ml_j_is_op(p, ':')) p->tok++;
    ML_J_CALL(p, block_end(p));
    return body(p, out, ends);
}

/* The same up to one tag that ends the statement, whose own end the caller takes. */
static marlin_status block_to(struct ml_jparser *p, struct ml_jnode **out, const char *end) {
    const char *const ends[] = {end, NULL};
    ML_J_CALL(p, block(p, out, ends));
    p->tok++;
    return MARLIN_OK;
}

static marlin_status parse_for(struct ml_jparser *p, struct ml_jnode *n) {
    static const char *const ends[] = {"endfor", "else", NULL};
    n->kind = ML_JN_FOR;
    n->name = ml_j_intern(p, "loop", 4);
    if (!n->name) return MARLIN_ERR_MEMORY;
    ML_J_CALL(p, ml_j_parse_target(p, true, &n->a));
    if (!ml_j_is_name(p, "in")) return ml_j_parse_error(p, "expected \"in\"");
    p->tok++;
    ML_J_CALL(p, ml_j_parse_tuple(p, ML_J_UNTIL_RECURSIVE, &n->b));
    if (ml_j_is_name(p, "if")) {
        p->tok++;
        ML_J_CALL(p, ml_j_parse_expr(p, true, &n->c));
    }
    if (ml_j_is_name(p, "recursive"))
        return ml_j_syntax(p->t, p->tok->at, p->err, MARLIN_ERR_UNSUPPORTED,
                           "recursive loops are not supported: use a macro");
    p->loops++;
    ML_J_CALL(p, block(p, &n->body, ends));
    p->loops--;
    if (ml_j_is_name(p, "endfor")) {
        p->tok++;
        return MARLIN_OK;
    }
    p->tok++;
    return block_to(p, &n->other, "endfor");
}

static marlin_status parse_if(struct ml_jparser *p, struct ml_jnode *n) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    n->kind = ML_JN_IF;
    for (;;) {
        struct ml_jnode *test = NULL, *then = NULL;
        ML_J_CALL(p, ml_j_parse_tuple(p, 0, &test));
        ML_J_CALL(p, block(p, &then, ends));
        ML_J_CALL(p, ml_j_grow(p, &n->list, &n->n, test));
        ML_J_CALL(p, ml_j_grow(p, &n->list, &n->n, then));
        if (!ml_j_is_name(p, "elif")) break;
        p->tok++;
    }
    const bool other = ml_j_is_name(p, "else");
    p->tok++;
    return other ? block_to(p, &n->other, "endif") : MARLIN_OK;
}

static marlin_status parse_set(struct ml_jparser *p, struct ml_jnode *n) {
    ML_J_CALL(p, ml_j_parse_target(p, false, &n->a));
    if (ml_j_is_op(p, '=')) {
        n->kind = ML_JN_SET;
        p->tok++;
        return ml_j_parse_tuple(p, ML_J_CONDITIONAL, &n->b);
    }
    n->kind = ML_JN_SET_BLOCK;
    if (ml_j_is_op(p, '|')) ML_J_CALL(p, ml_j_parse_filters(p, NULL, false, &n->b));
    return block_to(p, &n->body, "endset");
}

/* "(a, b=1)": n->list are names, n->b->list the defaults of the last of them. */
static marlin_status parse_parameters(struct ml_jparser *p, struct ml_jnode *n) {
    ML_J_CALL(p, ml_j_expect_op(p, '(', "expected \"(\""));
    ML_J_CALL(p, make(p, ML_JN_LIST, p->tok->at, &n->b));
    while (!ml_j_is_op(p, ')')) {
        struct ml_jnode *name = NULL, *value = NULL;
        if (n->n) ML_J_CALL(p, ml_j_expect_op(p, ',', "expected a comma or \")\""));
        ML_J_CALL(p, make(p, ML_JN_NAME, p->tok->at, &name));
        ML_J_CALL(p, ml_j_expect_name(p, &name->name, "expected the name of a parameter"));
        for (size_t i = 0; i < n->n; i++)
            if (n->list[i]->name == name->name)
                return ml_j_syntax(p->t, name->at, p->err, MARLIN_ERR_FORMAT,
                                   "parameter %s stands here twice", name->name->text);
        ML_J_CALL(p, ml_j_grow(p, &n->list, &n->n, name));
        if (ml_j_is_op(p, '=')) {
            p->tok++;
            ML_J_CALL(p, ml_j_parse_expr(p, true, &value));
            ML_J_CALL(p, ml_j_grow(p, &n->b->list, &n->b->n, value));
        } else if (n->b->n) {
            return ml_j_parse_error(p, "expected a default, as the parameter before has one");
        }
    }
    p->tok++;
    return MARLIN_OK;
}

/* Which of the names that a macro is not declared with its body mentions. */
static marlin_status note_special(struct ml_jparser *p, struct ml_jnode *n) {
    static const char *const names[] = {"varargs", "kwargs", "caller"};
    n->op = p->mentions;
    for (size_t i = 0; i < 3; i++) {
        if (!(n->op & 1 << i)) continue;
        const struct ml_jstr *name = n->special[n->n_special] = ml_j_intern(p, names[i], strlen(names[i]));
        if (!name) return MARLIN_ERR_MEMORY;
        bool declared = false;
        for (size_t k = 0; k < n->n; k++)
            declared = declared || n->list[k]->name == name;
        if (declared)
            n->op &= ~(1 << i);
        else
            n->n_special++;
    }
    return MARLIN_OK;
}

/* A body that runs elsewhere than where it stands: loops around it are none of its own. */
static marlin_status apart(struct ml_jparser *p, struct ml_jnode *n, const char *end) {
    const int loops = p->loops, mentions = p->mentions;
    p->loops = 0;
    p->mentions = 0;
    ML_J_CALL(p, block_to(p, &n->body, end));
    ML_J_CALL(p, note_special(p, n));
    p->loops = loops;
    p->mentions = mentions;
    return MARLIN_OK;
}

static marlin_status parse_macro(struct ml_jparser *p, struct ml_jnode *n) {
    n->kind = ML_JN_MACRO;
    ML_J_CALL(p, ml_j_expect_name(p, &n->name, "expected the macro's name"));
    ML_J_CALL(p, parse_parameters(p, n));
    return apart(p, n, "endmacro");
}

static marlin_status parse_call_block(struct ml_jparser *p, struct ml_jnode *n) {
    n->kind = ML_JN_CALL_BLOCK;
    ML_J_CALL(p, make(p, ML_JN_MACRO, n->at, &n->b));
    n->b->name = ml_j_intern(p, "caller", 6);
    if (!n->b->name) return MARLIN_ERR_MEMORY;
    if (ml_j_is_op(p, '(')) {
        ML_J_CALL(p, parse_parameters(p, n->b));
    } else {
        ML_J_CALL(p, make(p, ML_JN_LIST, n->at, &n->b->b));
    }
    ML_J_CALL(p, ml_j_parse_expr(p, true, &n->a));
    if (n->a->kind != ML_JN_CALL)
        return ml_j_syntax(p->t, n->a->at, p->err, MARLIN_ERR_FORMAT, "expected a call of a macro");
    return apart(p, n->b, "endcall");
}

static marlin_status parse_filter_block(struct ml_jparser *p, struct ml_jnode *n) {
    n->kind = ML_JN_FILTER_BLOCK;
    ML_J_CALL(p, ml_j_parse_filters(p, NULL, true, &n->a));
    return block_to(p, &n->body, "endfilter");
}

static marlin_status parse_with(struct ml_jparser *p, struct ml_jnode *n) {
    n->kind = ML_JN_WITH;
    while (p->tok->kind != ML_JT_BLOCK_END) {
        struct ml_jnode *name = NULL, *value = NULL;
        if (n->n) ML_J_CALL(p, ml_j_expect_op(p, ',', "expected a comma"));
        ML_J_CALL(p, make(p, ML_JN_NAME, p->tok->at, &name));
        ML_J_CALL(p, ml_j_expect_name(p, &name->name, "expected a name"));
        ML_J_CALL(p, ml_j_expect_op(p, '=', "expected \"=\""));
        ML_J_CALL(p, ml_j_parse_expr(p, true, &value));
        ML_J_CALL(p, ml_j_grow(p, &n->list, &n->n, name));
        ML_J_CALL(p, ml_j_grow(p, &n->list, &n->n, value));
    }
    return block_to(p, &n->body, "endwith");
}

static marlin_status parse_generation(struct ml_jparser *p, struct ml_jnode *n) {
    n->kind = ML_JN_SCOPE;
    return apart(p, n, "endgeneration");
}

static marlin_status parse_jump(struct ml_jparser *p, struct ml_jnode *n) {
    if (p->loops == 0)
        return ml_j_syntax(p->t, n->at, p->err, MARLIN_ERR_FORMAT, "break and continue belong into a loop");
    n->kind = p->tok[-1].text[0] == 'b' ? ML_JN_BREAK : ML_JN_CONTINUE;
    return MARLIN_OK;
}

static marlin_status parse_statement(struct ml_jparser *p, struct ml_jnode **out) {
    static const struct {
        const char *name;
        marlin_status (*parse)(struct ml_jparser *, struct ml_jnode *);
    } tags[] = {{"for", parse_for},         {"if", parse_if},
                {"set", parse_set},         {"macro", parse_macro},
                {"call", parse_call_block}, {"filter", parse_filter_block},
                {"with", parse_with},       {"generation", parse_generation},
                {"break", parse_jump},      {"continue", parse_jump}};
    static const char *const missing[] = {"block", "extends", "include",   "import",
                                          "from",  "print",   "autoescape"};
    if (p->tok->kind != ML_JT_NAME) return ml_j_parse_error(p, "expected a tag's name");
    ML_J_CALL(p, make(p, ML_JN_BODY, p->tok->at, out));
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
        if (!ml_j_is_name(p, tags[i].name)) continue;
        p->tok++;
        return tags[i].parse(p, *out);
    }
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++)
        if (ml_j_is_name(p, missing[i]))
            return ml_j_syntax(p->t, p->tok->at, p->err, MARLIN_ERR_UNSUPPORTED,
                               "the tag \"%s\" is not supported: chat templates stand alone", missing[i]);
    return ml_j_parse_error(p, "expected a known tag");
}

static bool at_end(const struct ml_jparser *p, const char *const *ends) {
    for (; ends && *ends; ends++)
        if (ml_j_is_name(p, *ends)) return true;
    return false;
}

static marlin_status parse_output(struct ml_jparser *p, struct ml_jnode *list) {
    struct ml_jnode *n = NULL;
    ML_J_CALL(p, make(p, ML_JN_OUTPUT, p->tok->at, &n));
    p->tok++;
    ML_J_CALL(p, ml_j_parse_tuple(p, ML_J_CONDITIONAL, &n->a));
    if (p->tok->kind != ML_JT_VAR_END) return ml_j_parse_error(p, "expected \"}}\"");
    p->tok++;
    return ml_j_grow(p, &list->list, &list->n, n);
}

static marlin_status parse_data(struct ml_jparser *p, struct ml_jnode *list) {
    struct ml_jnode *n = NULL;
    struct ml_jstr *s = ml_arena_alloc(&p->t->arena, sizeof *s);
    ML_J_CALL(p, make(p, ML_JN_DATA, p->tok->at, &n));
    if (!s) return ml_fail(p->err, MARLIN_ERR_MEMORY, "%s: out of memory", p->t->name);
    *s = (struct ml_jstr){.text = p->tok->text, .len = p->tok->len};
    n->text = s;
    p->tok++;
    return ml_j_grow(p, &list->list, &list->n, n);
}

/* Statements up to a tag of `ends`, or to the end of the template where that is NULL. */
static marlin_status statements(struct ml_jparser *p, struct ml_jnode *list, const char *const *ends) {
    for (;;) {
        struct ml_jnode *n = NULL;
        switch (p->tok->kind) {
        case ML_JT_END:
            if (!ends) return MARLIN_OK;
            return ml_j_syntax(p->t, p->tok->at, p->err, MARLIN_ERR_FORMAT, "the template ends before \"%s\"",
                               ends[0]);
        case ML_JT_DATA:
            ML_J_CALL(p, parse_data(p, list));
            break;
        case ML_JT_VAR_BEGIN:
            ML_J_CALL(p, parse_output(p, list));
            break;
        default:
            p->tok++; /* ML_JT_BLOCK_BEGIN: nothing else comes out of the lexer between tags */
            if (at_end(p, ends)) return MARLIN_OK;
            ML_J_CALL(p, parse_statement(p, &n));
            ML_J_CALL(p, block_end(p));
            ML_J_CALL(p, ml_j_grow(p, &list->list, &list->n, n));
        }
    }
}

static marlin_status body(struct ml_jparser *p, struct ml_jnode **out, const char *const *ends) {
    const int depth = p->depth;
    marlin_status st;
    ML_TRY(ml_j_enter(p));
    ML_TRY(make(p, ML_JN_BODY, p->tok->at, out));
    st = statements(p, *out, ends);
out:
    p->depth = depth;
    return st;
}

marlin_status ml_j_parse_statements(struct ml_jparser *p, struct ml_jnode **out) {
    return body(p, out, NULL);
}

/* ---- the template */

/* Lines end in "\n" whatever they ended in, and the last one's end is dropped. */
static void normalize(char *to, size_t *n, const char *from, size_t len) {
    char *d = to;
    for (size_t i = 0; i < len; i++) {
        if (from[i] == '\r') {
            *d++ = '\n';
            if (i + 1 < len && from[i + 1] == '\n') i++;
        } else {
            *d++ = from[i];
        }
    }
    if (d > to && d[-1] == '\n') d--;
    *n = (size_t)(d - to);
}

static marlin_status check_utf8(const struct ml_template *t, struct marlin_error *err) {
    int32_t c;
    for (size_t i = 0; i < t->len;) {
        const size_t k = ml_j_decode(t->text + i, t->len - i, &c);
        if (c < 0) return ml_j_syntax(t, i, err, MARLIN_ERR_FORMAT, "the template is not UTF-8");
        i += k;
    }
    return MARLIN_OK;
}

static marlin_status load(struct ml_template *t, const char *name, const char *text, size_t len,
                          struct marlin_error *err) {
    if (len > TEXT_LIMIT)
        return ml_fail(err, MARLIN_ERR_LIMIT, "%s: a template of %zu bytes, at most %d are allowed", name,
                       len, TEXT_LIMIT);
    char *copy = ml_arena_alloc(&t->arena, len + 1);
    t->name = ml_arena_strndup(&t->arena, name, strlen(name));
    if (!copy || !t->name) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", name);
    normalize(copy, &t->len, text, len);
    t->text = copy;
    return check_utf8(t, err);
}

marlin_status ml_template_compile(const char *name, const char *text, size_t len, struct ml_template **out,
                                  struct marlin_error *err) {
    struct ml_jtoken *tokens = NULL;
    struct ml_template *t = ml_calloc(1, sizeof *t);
    marlin_status st;
    *out = NULL;
    if (!t) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", name);
    ml_arena_init(&t->arena, TREE_LIMIT);
    ML_TRY(load(t, name, text, len, err));
    ML_TRY(ml_j_lex(t, &tokens, err));
    struct ml_jparser p = {.t = t, .tok = tokens, .err = err};
    ML_TRY(ml_j_parse_statements(&p, &t->root));
out:
    ml_free(tokens);
    if (st == MARLIN_OK)
        *out = t;
    else
        ml_template_free(t);
    return st;
}

void ml_template_free(struct ml_template *t) {
    if (!t) return;
    ml_arena_free(&t->arena);
    ml_free(t);
}
