/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests: what stands behind "is".
 */
#include "chat/jinja_int.h"

#include <string.h>

static marlin_status yes(struct ml_jval *out, bool b) {
    *out = ml_j_bool(b);
    return MARLIN_OK;
}

/* Tests of the type alone are one function: their names say which. */
static marlin_status of_type(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jval *v = &c->self;
    const char *name = c->f->name;
    int64_t n;
    bool is = false;
    (void)r;
    if (strcmp(name, "defined") == 0) is = v->type != ML_J_UNDEF;
    if (strcmp(name, "undefined") == 0) is = v->type == ML_J_UNDEF;
    if (strcmp(name, "none") == 0) is = v->type == ML_J_NONE;
    if (strcmp(name, "boolean") == 0) is = v->type == ML_J_BOOL;
    if (strcmp(name, "true") == 0) is = v->type == ML_J_BOOL && v->b;
    if (strcmp(name, "false") == 0) is = v->type == ML_J_BOOL && !v->b;
    if (strcmp(name, "integer") == 0) is = v->type == ML_J_INT;
    if (strcmp(name, "float") == 0) is = v->type == ML_J_FLOAT;
    if (strcmp(name, "number") == 0)
        is = v->type == ML_J_INT || v->type == ML_J_FLOAT || v->type == ML_J_BOOL;
    if (strcmp(name, "string") == 0) is = v->type == ML_J_STR;
    if (strcmp(name, "mapping") == 0) is = v->type == ML_J_DICT;
    if (strcmp(name, "iterable") == 0) is = ml_j_iterable(v);
    if (strcmp(name, "sequence") == 0) is = ml_j_sized(v, &n) && v->type != ML_J_VIEW;
    if (strcmp(name, "callable") == 0) is = v->type >= ML_J_MACRO || v->type == ML_J_UNDEF;
    return yes(out, is);
}

static marlin_status parity(struct ml_jrun *r, const struct ml_jval *v, int64_t by, struct ml_jval *rest) {
    const struct ml_jval two = ml_j_int(by);
    return ml_j_binary(r, '%', v, &two, rest);
}

static marlin_status even(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jval zero = ml_j_int(0);
    struct ml_jval rest;
    bool is;
    ML_J_CALL(r, parity(r, &c->self, 2, &rest));
    ML_J_CALL(r, ml_j_equal(r, &rest, &zero, &is));
    return yes(out, is);
}

static marlin_status odd(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jval one = ml_j_int(1);
    struct ml_jval rest;
    bool is;
    ML_J_CALL(r, parity(r, &c->self, 2, &rest));
    ML_J_CALL(r, ml_j_equal(r, &rest, &one, &is));
    return yes(out, is);
}

static marlin_status divisible(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jval zero = ml_j_int(0);
    struct ml_jval rest;
    bool is;
    ML_J_CALL(r, ml_j_binary(r, '%', &c->self, &c->slot[0], &rest));
    ML_J_CALL(r, ml_j_equal(r, &rest, &zero, &is));
    return yes(out, is);
}

static marlin_status compare(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    static const struct {
        const char *names;
        int op;
    } ops[] = {{" eq == equalto ", ML_J_OP2('=', '=')},
               {" ne != ", ML_J_OP2('!', '=')},
               {" lt lessthan < ", '<'},
               {" gt greaterthan > ", '>'},
               {" le <= ", ML_J_OP2('<', '=')},
               {" ge >= ", ML_J_OP2('>', '=')},
               {" in ", ML_J_IN}};
    char name[24];
    bool is = false;
    size_t i = 0;
    const size_t len = strlen(c->f->name);
    name[0] = ' ';
    memcpy(name + 1, c->f->name, len);
    memcpy(name + 1 + len, " ", 2);
    while (i + 1 < sizeof ops / sizeof *ops && !strstr(ops[i].names, name))
        i++;
    ML_J_CALL(r, ml_j_compare(r, ops[i].op, &c->self, &c->slot[0], &is));
    return yes(out, is);
}

/* All letters that have a case have this one, and there are some. */
static marlin_status all_cased(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const enum ml_jcased want = c->f->name[0] == 'u' ? ML_J_IS_UPPER : ML_J_IS_LOWER;
    struct ml_jval text;
    bool any = false;
    int32_t ch;
    ML_J_CALL(r, ml_j_text(r, &c->self, &text));
    for (size_t i = 0; i < text.s->len;) {
        i += ml_j_decode(text.s->text + i, text.s->len - i, &ch);
        const enum ml_jcased is = ml_j_cased(ch);
        if (is != ML_J_UNCASED && is != want) return yes(out, false);
        any = any || is == want;
    }
    return yes(out, any);
}

const struct ml_jfunction ml_j_tests[] = {
    {"!=", compare, "other", 1},
    {"<", compare, "other", 1},
    {"<=", compare, "other", 1},
    {"==", compare, "other", 1},
    {">", compare, "other", 1},
    {">=", compare, "other", 1},
    {"boolean", of_type, "", 0},
    {"callable", of_type, "", 0},
    {"defined", of_type, "", 0},
    {"divisibleby", divisible, "num", 1},
    {"eq", compare, "other", 1},
    {"equalto", compare, "other", 1},
    {"even", even, "", 0},
    {"false", of_type, "", 0},
    {"float", of_type, "", 0},
    {"ge", compare, "other", 1},
    {"greaterthan", compare, "other", 1},
    {"gt", compare, "other", 1},
    {"in", compare, "seq", 1},
    {"integer", of_type, "", 0},
    {"iterable", of_type, "", 0},
    {"le", compare, "other", 1},
    {"lessthan", compare, "other", 1},
    {"lower", all_cased, "", 0},
    {"lt", compare, "other", 1},
    {"mapping", of_type, "", 0},
    {"ne", compare, "other", 1},
    {"none", of_type, "", 0},
    {"number", of_type, "", 0},
    {"odd", odd, "", 0},
    {"sequence", of_type, "", 0},
    {"string", of_type, "", 0},
    {"true", of_type, "", 0},
    {"undefined", of_type, "", 0},
    {"upper", all_cased, "", 0},
    {NULL, NULL, NULL, 0},
};
