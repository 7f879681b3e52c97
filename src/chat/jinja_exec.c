/* SPDX-License-Identifier: Apache-2.0
 *
 * Statements to text, and a render from its beginning to its end.
 */
#include "chat/jinja_int.h"

#include <string.h>

static marlin_status exec(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n);

static marlin_status open_scope(struct ml_jrun *r, struct ml_jscope *parent, struct ml_jscope **out) {
    ML_J_CALL(r, ml_j_alloc(r, 1, sizeof **out, (void **)out));
    (*out)->parent = parent;
    return MARLIN_OK;
}

/* The text of a body as a value instead of output. */
static marlin_status capture(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *body,
                             struct ml_jval *out) {
    struct ml_buf *outer = r->out, b;
    ml_buf_init(&b, r->limits.max_output);
    r->out = &b;
    marlin_status st = exec(r, s, body);
    r->out = outer;
    if (st == MARLIN_OK) st = ml_j_take(r, &b, out);
    ml_buf_free(&b);
    return st;
}

/* ---- assignment */

static marlin_status assign(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *target,
                            const struct ml_jval *v);

static marlin_status assign_each(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *target,
                                 const struct ml_jval *v) {
    struct ml_jval all;
    if (v->type == ML_J_UNDEF && target->n) return ml_j_use_undefined(r, v);
    ML_J_CALL(r, ml_j_collect(r, v, &all));
    if (all.l->n != target->n)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "%zu values do not go into %zu names", all.l->n, target->n);
    for (size_t i = 0; i < target->n; i++)
        ML_J_CALL(r, assign(r, s, target->list[i], &all.l->v[i]));
    return MARLIN_OK;
}

static marlin_status assign(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *target,
                            const struct ml_jval *v) {
    struct ml_jval ns;
    if (target->kind == ML_JN_NAME) return ml_j_define(r, s, target->name, v);
    if (target->kind == ML_JN_TUPLE) return assign_each(r, s, target, v);
    const struct ml_jnode name = {.kind = ML_JN_NAME, .name = target->name, .at = target->at};
    ML_J_CALL(r, ml_j_eval(r, s, &name, &ns));
    if (ns.type != ML_J_NAMESPACE)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "attributes are assigned to a namespace() alone, not to %s",
                         ml_j_type(&ns));
    return ml_j_dict_set(r, ns.m, &(struct ml_jval){.type = ML_J_STR, .s = target->text}, v);
}

static marlin_status exec_set(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n) {
    struct ml_jval v;
    ML_J_CALL(r, ml_j_eval(r, s, n->b, &v));
    r->at = n->at;
    return assign(r, s, n->a, &v);
}

static marlin_status exec_set_block(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n) {
    struct ml_jscope *inner;
    struct ml_jval v;
    ML_J_CALL(r, open_scope(r, s, &inner));
    ML_J_CALL(r, capture(r, inner, n->body, &v));
    if (r->flow != ML_J_RUN) return MARLIN_OK;
    if (n->b) ML_J_CALL(r, ml_j_filter_node(r, s, n->b, &v, &v));
    r->at = n->at;
    return assign(r, s, n->a, &v);
}

/* ---- loops */

/* The next element that passes the loop's condition goes to loop->next. */
static marlin_status advance(struct ml_jrun *r, struct ml_jloop *loop) {
    loop->peeked = true;
    for (;;) {
        struct ml_jscope *s;
        struct ml_jval test;
        ML_J_CALL(r, ml_j_next(r, loop->it, &loop->next, &loop->has_next));
        if (!loop->has_next || !loop->node || !loop->node->c) return MARLIN_OK;
        ML_J_CALL(r, open_scope(r, loop->scope, &s));
        ML_J_CALL(r, assign(r, s, loop->node->a, &loop->next));
        ML_J_CALL(r, ml_j_eval(r, s, loop->node->c, &test));
        if (ml_j_truth(&test)) return MARLIN_OK;
    }
}

/* One turn: *more says whether there was an element. */
static marlin_status turn(struct ml_jrun *r, struct ml_jloop *loop, const struct ml_jnode *n, bool *more) {
    struct ml_jscope *s;
    const struct ml_jval value = {.type = ML_J_LOOP, .loop = loop};
    ML_J_CALL(r, ml_j_step(r));
    if (!loop->peeked) ML_J_CALL(r, advance(r, loop));
    loop->peeked = false;
    *more = loop->has_next;
    if (!*more) return MARLIN_OK;
    loop->previous = loop->current;
    loop->current = loop->next;
    loop->index0++;
    ML_J_CALL(r, open_scope(r, loop->scope, &s));
    ML_J_CALL(r, ml_j_define(r, s, n->name, &value));
    r->at = n->at;
    ML_J_CALL(r, assign(r, s, n->a, &loop->current));
    return exec(r, s, n->body);
}

static marlin_status exec_for(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n) {
    struct ml_jloop *loop;
    struct ml_jval over;
    bool more = true, whole = false;
    ML_J_CALL(r, ml_j_eval(r, s, n->b, &over));
    ML_J_CALL(r, ml_j_alloc(r, 1, sizeof *loop, (void **)&loop));
    *loop = (struct ml_jloop){.index0 = -1, .length = -1, .node = n, .scope = s};
    r->at = n->at;
    ML_J_CALL(r, ml_j_iterate(r, &over, &loop->it));
    while (more) {
        ML_J_CALL(r, turn(r, loop, n, &more));
        const enum ml_jflow flow = r->flow;
        r->flow = ML_J_RUN;
        whole = whole || (more && flow == ML_J_RUN);
        if (flow == ML_J_BREAK) break;
    }
    if (whole || !n->other) return MARLIN_OK; /* as in jinja2: unless a turn came to the end of the body */
    struct ml_jscope *inner;
    ML_J_CALL(r, open_scope(r, s, &inner));
    return exec(r, inner, n->other);
}

/* ---- macros */

static marlin_status too_many(struct ml_jrun *r, const struct ml_jnode *n) {
    return ml_j_fail(r, MARLIN_ERR_FORMAT, "macro %s takes at most %zu arguments", n->name->text, n->n);
}

/* What was given by place beyond the parameters, as `varargs`; what by an unknown name, as `kwargs`. */
static marlin_status bind_rest(struct ml_jrun *r, const struct ml_jnode *n, const struct ml_jargs *a,
                               const bool *used, struct ml_jscope *s) {
    struct ml_jval rest;
    struct ml_jdict *m;
    const bool places = n->op & ML_J_VARARGS, names = n->op & ML_J_KWARGS;
    if (a->n_pos > n->n && !places) return too_many(r, n);
    ML_J_CALL(r, ml_j_list(r, ML_J_TUPLE, a->n_pos, &rest));
    for (size_t i = n->n; i < a->n_pos; i++)
        ML_J_CALL(r, ml_j_add(r, rest.l, &a->pos[i]));
    ML_J_CALL(r, ml_j_dict(r, &m));
    for (size_t i = 0; i < a->n_named; i++) {
        if (used[i]) continue;
        if (!names)
            return ml_j_fail(r, MARLIN_ERR_FORMAT, "macro %s takes no argument %s", n->name->text,
                             a->names[i]->text);
        ML_J_CALL(r,
                  ml_j_dict_set(r, m, &(struct ml_jval){.type = ML_J_STR, .s = a->names[i]}, &a->named[i]));
    }
    for (size_t i = 0; i < n->n_special; i++) {
        const struct ml_jval value = n->special[i]->text[0] == 'v' ? rest
                                     : n->special[i]->text[0] == 'k'
                                         ? (struct ml_jval){.type = ML_J_DICT, .m = m}
                                         : (struct ml_jval){.type = ML_J_ABSENT};
        if (value.type != ML_J_ABSENT) ML_J_CALL(r, ml_j_define(r, s, n->special[i], &value));
    }
    return MARLIN_OK;
}

static marlin_status bind_caller(struct ml_jrun *r, const struct ml_jnode *n, const struct ml_jargs *a,
                                 bool *used, struct ml_jscope *s) {
    struct ml_jval caller;
    for (size_t k = 0; k < n->n_special; k++) {
        if (n->special[k]->text[0] != 'c') continue;
        ML_J_CALL(r, ml_j_undefined(r, &caller, "no caller is defined"));
        for (size_t i = 0; i < a->n_named; i++) {
            if (used[i] || !ml_j_is(a->names[i], "caller")) continue;
            caller = a->named[i];
            used[i] = true;
        }
        ML_J_CALL(r, ml_j_define(r, s, n->special[k], &caller));
    }
    return MARLIN_OK;
}

static marlin_status bind_parameter(struct ml_jrun *r, const struct ml_jnode *n, size_t i,
                                    const struct ml_jargs *a, bool *used, struct ml_jscope *s) {
    const struct ml_jstr *name = n->list[i]->name;
    const size_t first_default = n->n - n->b->n;
    struct ml_jval v = {.type = ML_J_ABSENT};
    if (i < a->n_pos) v = a->pos[i];
    for (size_t k = 0; k < a->n_named; k++) {
        if (a->names[k] != name && !ml_j_is(a->names[k], name->text)) continue;
        if (v.type != ML_J_ABSENT)
            return ml_j_fail(r, MARLIN_ERR_FORMAT, "argument %s is given twice", name->text);
        v = a->named[k];
        used[k] = true;
    }
    if (v.type == ML_J_ABSENT && i >= first_default)
        ML_J_CALL(r, ml_j_eval(r, s, n->b->list[i - first_default], &v));
    else if (v.type == ML_J_ABSENT)
        ML_J_CALL(r, ml_j_undefined(r, &v, "parameter '%s' was not provided", name->text));
    return ml_j_define(r, s, name, &v);
}

static marlin_status call_macro(struct ml_jrun *r, const struct ml_jmacro *m, const struct ml_jargs *args,
                                struct ml_jval *out) {
    const struct ml_jnode *n = m->node;
    struct ml_jscope *s;
    bool *used;
    ML_J_CALL(r, open_scope(r, m->scope, &s));
    ML_J_CALL(r, ml_j_alloc(r, args->n_named, sizeof *used, (void **)&used));
    for (size_t i = 0; i < n->n; i++)
        ML_J_CALL(r, bind_parameter(r, n, i, args, used, s));
    ML_J_CALL(r, bind_caller(r, n, args, used, s));
    ML_J_CALL(r, bind_rest(r, n, args, used, s));
    return capture(r, s, n->body, out);
}

static marlin_status make_macro(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                                struct ml_jval *out) {
    struct ml_jmacro *m;
    ML_J_CALL(r, ml_j_alloc(r, 1, sizeof *m, (void **)&m));
    *m = (struct ml_jmacro){.node = n, .scope = s};
    *out = (struct ml_jval){.type = ML_J_MACRO, .macro = m};
    return MARLIN_OK;
}

static marlin_status exec_call_block(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n) {
    struct ml_jval caller, v;
    ML_J_CALL(r, make_macro(r, s, n->b, &caller));
    ML_J_CALL(r, ml_j_call_node(r, s, n->a, &caller, &v));
    return ml_j_print(r, r->out, &v);
}

/* ---- the rest */

static marlin_status exec_if(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n) {
    for (size_t i = 0; i < n->n; i += 2) {
        struct ml_jval test;
        ML_J_CALL(r, ml_j_eval(r, s, n->list[i], &test));
        if (ml_j_truth(&test)) return exec(r, s, n->list[i + 1]);
    }
    return n->other ? exec(r, s, n->other) : MARLIN_OK;
}

static marlin_status exec_output(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n) {
    struct ml_jval v;
    ML_J_CALL(r, ml_j_eval(r, s, n->a, &v));
    r->at = n->at;
    return ml_j_print(r, r->out, &v);
}

static marlin_status exec_filter_block(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n) {
    struct ml_jscope *inner;
    struct ml_jval v;
    ML_J_CALL(r, open_scope(r, s, &inner));
    ML_J_CALL(r, capture(r, inner, n->body, &v));
    if (r->flow != ML_J_RUN) return MARLIN_OK;
    ML_J_CALL(r, ml_j_filter_node(r, s, n->a, &v, &v));
    return ml_j_print(r, r->out, &v);
}

static marlin_status exec_with(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n) {
    struct ml_jscope *inner;
    ML_J_CALL(r, open_scope(r, s, &inner));
    for (size_t i = 0; i < n->n; i += 2) {
        struct ml_jval v;
        ML_J_CALL(r, ml_j_eval(r, s, n->list[i + 1], &v));
        ML_J_CALL(r, ml_j_define(r, inner, n->list[i]->name, &v));
    }
    return exec(r, inner, n->body);
}

static marlin_status exec_scope(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n) {
    struct ml_jscope *inner;
    ML_J_CALL(r, open_scope(r, s, &inner));
    return exec(r, inner, n->body);
}

static marlin_status exec_macro(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n) {
    struct ml_jval v;
    ML_J_CALL(r, make_macro(r, s, n, &v));
    return ml_j_define(r, s, n->name, &v);
}

static marlin_status exec_body(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n) {
    for (size_t i = 0; i < n->n && r->flow == ML_J_RUN; i++)
        ML_J_CALL(r, exec(r, s, n->list[i]));
    return MARLIN_OK;
}

static marlin_status exec_kind(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n) {
    switch (n->kind) {
    case ML_JN_DATA:
        return ml_j_buf(r, ml_buf_add(r->out, n->text->text, n->text->len));
    case ML_JN_OUTPUT:
        return exec_output(r, s, n);
    case ML_JN_BODY:
        return exec_body(r, s, n);
    case ML_JN_FOR:
        return exec_for(r, s, n);
    case ML_JN_IF:
        return exec_if(r, s, n);
    case ML_JN_SET:
        return exec_set(r, s, n);
    case ML_JN_SET_BLOCK:
        return exec_set_block(r, s, n);
    case ML_JN_MACRO:
        return exec_macro(r, s, n);
    case ML_JN_CALL_BLOCK:
        return exec_call_block(r, s, n);
    case ML_JN_FILTER_BLOCK:
        return exec_filter_block(r, s, n);
    case ML_JN_WITH:
        return exec_with(r, s, n);
    case ML_JN_SCOPE:
        return exec_scope(r, s, n);
    default: /* nothing else is a statement */
        r->flow = n->kind == ML_JN_BREAK ? ML_J_BREAK : ML_J_CONTINUE;
        return MARLIN_OK;
    }
}

static marlin_status exec(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n) {
    r->at = n->at;
    marlin_status st = ml_j_deeper(r);
    if (st == MARLIN_OK) st = ml_j_step(r);
    if (st == MARLIN_OK) st = exec_kind(r, s, n);
    r->depth--;
    return st;
}

/* ---- one render */

static struct ml_template_limits limits_of(const struct ml_template_limits *given) {
    struct ml_template_limits l = given ? *given : (struct ml_template_limits){0};
    if (!l.max_steps) l.max_steps = 8u << 20;
    if (!l.max_depth) l.max_depth = 400;
    if (!l.max_output) l.max_output = 64u << 20;
    if (!l.max_memory) l.max_memory = 256u << 20;
    return l;
}

static marlin_status add_defaults(struct ml_jrun *r, struct ml_jdict *m, const struct ml_json *defaults) {
    struct ml_jval more;
    ML_J_CALL(r, ml_j_from_json(r, defaults, &more));
    if (more.type != ML_J_DICT) return ml_j_fail(r, MARLIN_ERR_ARGUMENT, "the defaults are no object");
    for (size_t i = 0; i < more.m->n; i++)
        if (!ml_j_dict_text(m, more.m->key[i].s))
            ML_J_CALL(r, ml_j_dict_set(r, m, &more.m->key[i], &more.m->value[i]));
    return MARLIN_OK;
}

static marlin_status load_variables(struct ml_jrun *r, const struct ml_template_input *in) {
    struct ml_jval all = {.type = ML_J_DICT};
    ML_J_CALL(r, ml_j_dict(r, &all.m));
    if (in->request) ML_J_CALL(r, ml_j_from_json(r, in->request, &all));
    if (all.type != ML_J_DICT) return ml_j_fail(r, MARLIN_ERR_ARGUMENT, "the variables are no object");
    for (size_t i = 0; i < in->n_vars; i++) {
        struct ml_jval name, value = ml_j_none();
        ML_J_CALL(r, ml_j_str(r, in->vars[i].name, strlen(in->vars[i].name), &name));
        if (ml_j_dict_text(all.m, name.s)) continue;
        if (in->vars[i].text) ML_J_CALL(r, ml_j_str(r, in->vars[i].text, strlen(in->vars[i].text), &value));
        ML_J_CALL(r, ml_j_dict_set(r, all.m, &name, &value));
    }
    if (in->defaults) ML_J_CALL(r, add_defaults(r, all.m, in->defaults));
    r->globals = all.m;
    return MARLIN_OK;
}

marlin_status ml_template_render(const struct ml_template *t, const struct ml_template_input *in,
                                 struct ml_buf *out, struct marlin_error *err) {
    struct ml_buf text;
    struct ml_jscope top = {0};
    struct ml_jrun r = {.t = t,
                        .limits = limits_of(in->limits),
                        .out = &text,
                        .err = err,
                        .now = in->now,
                        .call_macro = call_macro,
                        .advance = advance};
    marlin_status st;
    ml_arena_init(&r.arena, r.limits.max_memory);
    ml_buf_init(&text, r.limits.max_output);
    ML_TRY(load_variables(&r, in));
    ML_TRY(exec(&r, &top, t->root));
    st = ml_buf_add(out, text.data, text.len);
    if (st != MARLIN_OK) st = ml_fail(err, st, "%s: the prompt of %zu bytes does not fit", t->name, text.len);
out:
    ml_buf_free(&text);
    ml_arena_free(&r.arena);
    return st;
}
