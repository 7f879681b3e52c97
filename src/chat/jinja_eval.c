/* SPDX-License-Identifier: Apache-2.0
 *
 * Expressions to values.
 */
#include "chat/jinja_int.h"

#include <string.h>

/* ---- names */

static struct ml_jvar *find_var(struct ml_jscope *s, const struct ml_jstr *name) {
    for (size_t i = 0; i < s->n; i++)
        if (s->vars[i].name == name) return &s->vars[i];
    return NULL;
}

marlin_status ml_j_define(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jstr *name,
                          const struct ml_jval *v) {
    struct ml_jvar *var = find_var(s, name);
    if (!var) {
        if (s->n == s->cap) {
            const size_t cap = s->cap ? s->cap * 2 : 4;
            struct ml_jvar *grown;
            ML_J_CALL(r, ml_j_alloc(r, cap, sizeof *grown, (void **)&grown));
            if (s->n) memcpy(grown, s->vars, s->n * sizeof *grown);
            s->vars = grown;
            s->cap = cap;
        }
        var = &s->vars[s->n++];
        var->name = name;
    }
    var->value = *v;
    return MARLIN_OK;
}

static marlin_status lookup(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jstr *name,
                            struct ml_jval *out) {
    for (; s; s = s->parent) {
        const struct ml_jvar *var = find_var(s, name);
        if (!var) continue;
        *out = var->value;
        return MARLIN_OK;
    }
    const struct ml_jval *v = ml_j_dict_text(r->globals, name);
    if (v) {
        *out = *v;
        return MARLIN_OK;
    }
    const struct ml_jfunction *f = ml_j_find(ml_j_globals, name);
    if (!f)
        return ml_j_undefined(r, out, "'%.*s' is undefined", (int)(name->len < 100 ? name->len : 100),
                              name->text);
    struct ml_jmethod *m;
    ML_J_CALL(r, ml_j_alloc(r, 1, sizeof *m, (void **)&m));
    m->f = f;
    *out = (struct ml_jval){.type = ML_J_METHOD, .method = m};
    return MARLIN_OK;
}

/* ---- arguments */

static marlin_status add_star(struct ml_jrun *r, const struct ml_jval *star, struct ml_jargs *a) {
    struct ml_jval more;
    struct ml_jval *pos;
    ML_J_CALL(r, ml_j_collect(r, star, &more));
    const size_t n = a->n_pos + more.l->n;
    ML_J_CALL(r, ml_j_alloc(r, n, sizeof *pos, (void **)&pos));
    if (a->n_pos) memcpy(pos, a->pos, a->n_pos * sizeof *pos);
    if (more.l->n) memcpy(pos + a->n_pos, more.l->v, more.l->n * sizeof *pos);
    a->pos = pos;
    a->n_pos = n;
    return MARLIN_OK;
}

static marlin_status add_star_star(struct ml_jrun *r, const struct ml_jval *v, struct ml_jargs *a) {
    if (v->type == ML_J_UNDEF) return ml_j_use_undefined(r, v);
    if (v->type != ML_J_DICT)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "\"**\" wants a dict, not %s", ml_j_type(v));
    for (size_t i = 0; i < v->m->n; i++) {
        if (v->m->key[i].type != ML_J_STR)
            return ml_j_fail(r, MARLIN_ERR_FORMAT, "\"**\" wants keys that are strings");
        for (size_t k = 0; k < a->n_named; k++)
            if (ml_j_is(a->names[k], v->m->key[i].s->text))
                return ml_j_fail(r, MARLIN_ERR_FORMAT, "argument %s is given twice", a->names[k]->text);
        a->names[a->n_named] = v->m->key[i].s;
        a->named[a->n_named++] = v->m->value[i];
    }
    return MARLIN_OK;
}

/* With room for `extra` more named ones. */
static marlin_status eval_args(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jsyntax *x,
                               size_t extra, struct ml_jargs *a) {
    struct ml_jval star, star_star = {.type = ML_J_ABSENT};
    *a = (struct ml_jargs){0};
    ML_J_CALL(r, ml_j_alloc(r, x->n_pos, sizeof *a->pos, (void **)&a->pos));
    for (; a->n_pos < x->n_pos; a->n_pos++)
        ML_J_CALL(r, ml_j_eval(r, s, x->pos[a->n_pos], &a->pos[a->n_pos]));
    if (x->star) {
        ML_J_CALL(r, ml_j_eval(r, s, x->star, &star));
        ML_J_CALL(r, add_star(r, &star, a));
    }
    if (x->star_star) ML_J_CALL(r, ml_j_eval(r, s, x->star_star, &star_star));
    if (star_star.type == ML_J_DICT) extra += star_star.m->n;
    ML_J_CALL(r, ml_j_alloc(r, x->n_named + extra, sizeof *a->named, (void **)&a->named));
    ML_J_CALL(r, ml_j_alloc(r, x->n_named + extra, sizeof(void *), (void **)&a->names));
    for (; a->n_named < x->n_named; a->n_named++) {
        a->names[a->n_named] = x->names[a->n_named];
        ML_J_CALL(r, ml_j_eval(r, s, x->named[a->n_named], &a->named[a->n_named]));
    }
    return x->star_star ? add_star_star(r, &star_star, a) : MARLIN_OK;
}

static marlin_status call(struct ml_jrun *r, const struct ml_jval *f, const struct ml_jargs *args,
                          struct ml_jval *out) {
    switch (f->type) {
    case ML_J_METHOD:
        return ml_j_invoke(r, f->method->f, &f->method->self, args, out);
    case ML_J_MACRO:
        return r->call_macro(r, f->macro, args, out);
    case ML_J_UNDEF:
        return ml_j_use_undefined(r, f);
    case ML_J_LOOP:
        return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "recursive loops are not supported: use a macro");
    default:
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "a %s cannot be called", ml_j_type(f));
    }
}

marlin_status ml_j_call_node(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                             const struct ml_jval *caller, struct ml_jval *out) {
    static const struct ml_jstr name = {.text = "caller", .len = 6, .chars = 6};
    struct ml_jval f;
    struct ml_jargs args;
    ML_J_CALL(r, ml_j_eval(r, s, n->a, &f));
    ML_J_CALL(r, eval_args(r, s, n->args, caller != NULL, &args));
    if (caller) {
        args.names[args.n_named] = &name;
        args.named[args.n_named++] = *caller;
    }
    r->at = n->at;
    return call(r, &f, &args, out);
}

marlin_status ml_j_filter_node(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                               const struct ml_jval *inner, struct ml_jval *out) {
    struct ml_jval v;
    struct ml_jargs args;
    marlin_status st = ml_j_deeper(r);
    if (st == MARLIN_OK) {
        if (n->a)
            st = inner && n->a->kind == ML_JN_FILTER ? ml_j_filter_node(r, s, n->a, inner, &v)
                                                     : ml_j_eval(r, s, n->a, &v);
        else if (inner)
            v = *inner; /* what a filter block has captured */
        else
            st = ml_j_fail(r, MARLIN_ERR_INTERNAL, "a filter of nothing");
    }
    if (st == MARLIN_OK) st = eval_args(r, s, n->args, 0, &args);
    if (st == MARLIN_OK) {
        r->at = n->at;
        st = ml_j_filter(r, n->name, &v, &args, out);
    }
    r->depth--;
    return st;
}

/* ---- kinds of expressions */

static marlin_status eval_list(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                               enum ml_jtype type, struct ml_jval *out) {
    struct ml_jval list;
    ML_J_CALL(r, ml_j_list(r, type, n->n, &list));
    for (; list.l->n < n->n; list.l->n++)
        ML_J_CALL(r, ml_j_eval(r, s, n->list[list.l->n], &list.l->v[list.l->n]));
    *out = list;
    return MARLIN_OK;
}

static marlin_status eval_dict(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                               struct ml_jval *out) {
    struct ml_jdict *m;
    ML_J_CALL(r, ml_j_dict(r, &m));
    for (size_t i = 0; i < n->n; i += 2) {
        struct ml_jval key, value;
        ML_J_CALL(r, ml_j_eval(r, s, n->list[i], &key));
        ML_J_CALL(r, ml_j_eval(r, s, n->list[i + 1], &value));
        ML_J_CALL(r, ml_j_dict_set(r, m, &key, &value));
    }
    *out = (struct ml_jval){.type = ML_J_DICT, .m = m};
    return MARLIN_OK;
}

static marlin_status eval_slice(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                                struct ml_jval *out) {
    struct ml_jval v, bound[3];
    ML_J_CALL(r, ml_j_eval(r, s, n->a, &v));
    for (int i = 0; i < 3; i++) {
        bound[i] = ml_j_none();
        if (n->list[i]) ML_J_CALL(r, ml_j_eval(r, s, n->list[i], &bound[i]));
    }
    r->at = n->at;
    return ml_j_slice(r, &v, bound, out);
}

static marlin_status eval_concat(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                                 struct ml_jval *out) {
    struct ml_buf b;
    marlin_status st = MARLIN_OK;
    ml_buf_init(&b, r->limits.max_output);
    for (size_t i = 0; st == MARLIN_OK && i < n->n; i++) {
        struct ml_jval v;
        st = ml_j_eval(r, s, n->list[i], &v);
        if (st == MARLIN_OK) st = ml_j_print(r, &b, &v);
    }
    if (st == MARLIN_OK) st = ml_j_take(r, &b, out);
    ml_buf_free(&b);
    return st;
}

static marlin_status eval_compare(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                                  struct ml_jval *out) {
    struct ml_jval left, right;
    bool holds = true;
    ML_J_CALL(r, ml_j_eval(r, s, n->a, &left));
    for (size_t i = 0; holds && i < n->n; i++) {
        ML_J_CALL(r, ml_j_eval(r, s, n->list[i], &right));
        r->at = n->at;
        ML_J_CALL(r, ml_j_compare(r, n->ops[i], &left, &right, &holds));
        left = right;
    }
    *out = ml_j_bool(holds);
    return MARLIN_OK;
}

static marlin_status eval_test(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                               struct ml_jval *out) {
    struct ml_jval v;
    struct ml_jargs args;
    bool holds = false;
    ML_J_CALL(r, ml_j_eval(r, s, n->a, &v));
    ML_J_CALL(r, eval_args(r, s, n->args, 0, &args));
    r->at = n->at;
    ML_J_CALL(r, ml_j_test(r, n->name, &v, &args, &holds));
    *out = ml_j_bool(holds);
    return MARLIN_OK;
}

static marlin_status eval_logic(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                                struct ml_jval *out) {
    if (n->kind == ML_JN_IF_ELSE) {
        struct ml_jval test;
        ML_J_CALL(r, ml_j_eval(r, s, n->a, &test));
        if (ml_j_truth(&test)) return ml_j_eval(r, s, n->b, out);
        if (n->c) return ml_j_eval(r, s, n->c, out);
        return ml_j_undefined(r, out, "an inline if whose condition is false has no else");
    }
    ML_J_CALL(r, ml_j_eval(r, s, n->a, out));
    const bool truth = ml_j_truth(out);
    if (n->kind == ML_JN_NOT)
        *out = ml_j_bool(!truth);
    else if (truth == (n->kind == ML_JN_AND))
        return ml_j_eval(r, s, n->b, out);
    return MARLIN_OK;
}

static marlin_status eval_operands(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                                   struct ml_jval *out) {
    struct ml_jval a, b;
    ML_J_CALL(r, ml_j_eval(r, s, n->a, &a));
    if (n->b) ML_J_CALL(r, ml_j_eval(r, s, n->b, &b));
    r->at = n->at;
    switch (n->kind) {
    case ML_JN_ATTR:
        return ml_j_attr(r, &a, n->name, out);
    case ML_JN_ITEM:
        return ml_j_item(r, &a, &b, out);
    case ML_JN_BINARY:
        return ml_j_binary(r, n->op, &a, &b, out);
    default:
        return ml_j_negate(r, &a, n->kind == ML_JN_NEG, out);
    }
}

static marlin_status eval_kind(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                               struct ml_jval *out) {
    switch (n->kind) {
    case ML_JN_CONST:
        *out = n->value;
        return MARLIN_OK;
    case ML_JN_NAME:
        return lookup(r, s, n->name, out);
    case ML_JN_LIST:
        return eval_list(r, s, n, ML_J_LIST, out);
    case ML_JN_TUPLE:
        return eval_list(r, s, n, ML_J_TUPLE, out);
    case ML_JN_DICT:
        return eval_dict(r, s, n, out);
    case ML_JN_SLICE:
        return eval_slice(r, s, n, out);
    case ML_JN_CALL:
        return ml_j_call_node(r, s, n, NULL, out);
    case ML_JN_FILTER:
        return ml_j_filter_node(r, s, n, NULL, out);
    case ML_JN_TEST:
        return eval_test(r, s, n, out);
    case ML_JN_NOT:
    case ML_JN_AND:
    case ML_JN_OR:
    case ML_JN_IF_ELSE:
        return eval_logic(r, s, n, out);
    case ML_JN_CONCAT:
        return eval_concat(r, s, n, out);
    case ML_JN_COMPARE:
        return eval_compare(r, s, n, out);
    default:
        return eval_operands(r, s, n, out);
    }
}

marlin_status ml_j_eval(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                        struct ml_jval *out) {
    r->at = n->at;
    marlin_status st = ml_j_deeper(r);
    if (st == MARLIN_OK) st = ml_j_step(r);
    if (st == MARLIN_OK) st = eval_kind(r, s, n, out);
    r->depth--;
    return st;
}
