/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the interpreter: values, the tree, and one render.
 *
 *   jinja_lex    text -> tokens          jinja_value   values, equality, order, dicts
 *   jinja_expr   tokens -> expressions   jinja_print   str, repr, tojson
 *   jinja_parse  tokens -> statements    jinja_iter    passing over values
 *   jinja_eval   expressions -> values   jinja_attr    attributes, subscripts, slices
 *   jinja_exec   statements -> text      jinja_op      arithmetic, comparison
 *
 *   built in: jinja_filter, jinja_list, jinja_test, jinja_method, jinja_global, called by way of jinja_call
 *
 * Known to differ from jinja2: integers have 64 bits; a name that a scope sets without reading it before is looked up
 * outside until then, where jinja2 calls it undefined for the loops and macros of that scope; unknown filters and
 * tests are errors where they are applied, not where they are written.
 *
 * Everything that a render makes lies in its arena until it ends. Values are immutable, as in the sandbox; only
 * namespaces, loops and iterators change.
 */
#ifndef ML_CHAT_JINJA_INT_H
#define ML_CHAT_JINJA_INT_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/json.h"
#include "chat/jinja.h"

#include <stdbool.h>

/* ---- values */

enum ml_jtype {
    ML_J_ABSENT, /* an argument that was not given; never a value of a template */
    ML_J_UNDEF,
    ML_J_NONE,
    ML_J_BOOL,
    ML_J_INT,
    ML_J_FLOAT,
    ML_J_STR,
    ML_J_LIST,
    ML_J_TUPLE,
    ML_J_VIEW, /* what keys(), values() and items() of a dict return */
    ML_J_DICT,
    ML_J_RANGE,
    ML_J_ITER, /* a generator: passed over once */
    ML_J_NAMESPACE,
    ML_J_MACRO,
    ML_J_LOOP,
    ML_J_METHOD, /* a method with what it belongs to, or a global function */
};

/* UTF-8. `chars` counts code points, so chars == len says that it is ASCII. */
struct ml_jstr {
    const char *text;
    size_t len, chars;
    bool markup; /* marked safe: `+` escapes what is added to it */
};

struct ml_jval {
    enum ml_jtype type;
    union {
        bool b;
        int64_t i;
        double d;
        const struct ml_jstr *s; /* ML_J_UNDEF: what is undefined and why, for errors */
        struct ml_jlist *l;
        struct ml_jdict *m;
        const struct ml_jrange *r;
        struct ml_jiter *it;
        const struct ml_jmacro *macro;
        struct ml_jloop *loop;
        const struct ml_jmethod *method;
    };
};

struct ml_jlist {
    struct ml_jval *v;
    size_t n, cap;
    const char *view; /* "dict_items" and so on; NULL for a list or tuple */
};

/* Entries in the order in which they came; `index` is a hash table of entry number + 1, made when it pays. */
struct ml_jdict {
    struct ml_jval *key, *value;
    size_t n, cap;
    uint32_t *index;
    size_t n_index; /* a power of two */
};

struct ml_jrange {
    int64_t start, step, n, stop; /* stop as it was given, for printing */
};

struct ml_jrun;

/* One pass over a value. Filters that are generators in jinja2 put their own `next` here. */
struct ml_jiter {
    marlin_status (*next)(struct ml_jrun *, struct ml_jiter *, struct ml_jval *out, bool *more);
    struct ml_jval over;
    size_t at;        /* element, or byte of a string */
    const char *what; /* the generator's name in errors */
    struct ml_jiter *source;
    struct ml_jpick *pick; /* of map, select and their kin */
    struct ml_jdict *seen; /* of unique */
};

struct ml_jargs {
    struct ml_jval *pos;
    size_t n_pos;
    const struct ml_jstr **names;
    struct ml_jval *named;
    size_t n_named;
};

enum { ML_J_SLOTS = 5 };

/* One call of a filter, test, method or global: arguments that have names lie in slots, ML_J_ABSENT where not given. */
struct ml_jcall {
    const struct ml_jfunction *f;
    struct ml_jval self;
    struct ml_jval slot[ML_J_SLOTS];
    const struct ml_jargs *args;
};

struct ml_jfunction {
    const char *name;
    marlin_status (*call)(struct ml_jrun *, const struct ml_jcall *, struct ml_jval *out);
    const char *params; /* names with spaces between them; NULL: it reads args itself */
    int required;       /* the first so many must be given */
};

struct ml_jmethod {
    const struct ml_jfunction *f;
    struct ml_jval self; /* ML_J_ABSENT for a global */
};

/* ---- the tree */

enum ml_jkind {
    /* expressions */
    ML_JN_CONST,
    ML_JN_NAME,
    ML_JN_LIST,
    ML_JN_TUPLE,
    ML_JN_DICT,   /* list: key, value, key, value */
    ML_JN_ATTR,   /* a . name */
    ML_JN_ITEM,   /* a [ b ] */
    ML_JN_SLICE,  /* a [ list[0] : list[1] : list[2] ], each or NULL */
    ML_JN_CALL,   /* a ( args ) */
    ML_JN_FILTER, /* a | name ( args ); a is NULL in a filter block */
    ML_JN_TEST,   /* a is name ( args ) */
    ML_JN_NOT,
    ML_JN_NEG,
    ML_JN_POS,
    ML_JN_AND,
    ML_JN_OR,
    ML_JN_BINARY,  /* a op b */
    ML_JN_CONCAT,  /* list */
    ML_JN_COMPARE, /* a, then list with ops */
    ML_JN_IF_ELSE, /* b if a else c */
    ML_JN_NSREF,   /* target: name . text */
    /* statements */
    ML_JN_DATA,
    ML_JN_OUTPUT,       /* a */
    ML_JN_BODY,         /* list */
    ML_JN_FOR,          /* name: "loop", a: target, b: over, c: test or NULL, body, other */
    ML_JN_IF,           /* list: test, body, test, body; other */
    ML_JN_SET,          /* a: target, b: value */
    ML_JN_SET_BLOCK,    /* a: target, b: filter or NULL, body */
    ML_JN_MACRO,        /* name, list: parameters, defaults: b's list, body */
    ML_JN_CALL_BLOCK,   /* a: call, b: macro */
    ML_JN_FILTER_BLOCK, /* a: filter, body */
    ML_JN_WITH,         /* list: target, value, ...; body */
    ML_JN_SCOPE,        /* body with variables of its own */
    ML_JN_BREAK,
    ML_JN_CONTINUE,
};

enum { ML_J_VARARGS = 1, ML_J_KWARGS = 2, ML_J_CALLER = 4 }; /* names that a macro's body mentions */

/* Arguments of a call as expressions. */
struct ml_jsyntax {
    struct ml_jnode **pos, **named;
    const struct ml_jstr **names;
    size_t n_pos, n_named;
    struct ml_jnode *star, *star_star;
};

struct ml_jnode {
    enum ml_jkind kind;
    uint32_t at; /* byte of the text */
    int op;      /* of ML_JN_BINARY; what a macro mentions */
    struct ml_jval value;
    const struct ml_jstr *name, *text;
    struct ml_jnode *a, *b, *c, *body, *other;
    struct ml_jnode **list;
    int *ops;
    size_t n;
    struct ml_jsyntax *args;
    const struct ml_jstr *special[3]; /* of a macro: which of varargs, kwargs and caller its body mentions */
    size_t n_special;
};

struct ml_template {
    struct ml_arena arena;
    const char *name, *text;
    size_t len;
    struct ml_jnode *root;
};

/* ---- tokens */

enum ml_jtoken_kind {
    ML_JT_DATA,
    ML_JT_BLOCK_BEGIN,
    ML_JT_BLOCK_END,
    ML_JT_VAR_BEGIN,
    ML_JT_VAR_END,
    ML_JT_NAME,
    ML_JT_STRING,
    ML_JT_INT,
    ML_JT_FLOAT,
    ML_JT_OP,
    ML_JT_END
};

#define ML_J_OP2(a, b) ((a) | (b) << 8)
enum { ML_J_IN = 1, ML_J_NOT_IN = 2 }; /* operators that are words */

struct ml_jtoken {
    enum ml_jtoken_kind kind;
    int op;
    uint32_t at;
    uint32_t len;
    const char *text; /* a string's with its quotes */
};

/* The text of an error's place: line and column, from 1, columns in code points. */
void ml_j_place(const struct ml_template *t, size_t at, size_t *line, size_t *column);
#define ml_j_syntax(t, at, err, code, ...)                                                                   \
    (ml_fail_text((err), (code), __VA_ARGS__), ml_j_at((t), (at), (err)), ml_status_of(code))
void ml_j_at(const struct ml_template *t, size_t at, struct marlin_error *err);

/* Tokens of t's text, ML_JT_END last; *tokens is the caller's (ml_free). */
marlin_status ml_j_lex(const struct ml_template *t, struct ml_jtoken **tokens, struct marlin_error *err);

enum { ML_J_PARSE_DEPTH = 150 };

struct ml_jparser {
    struct ml_template *t;
    const struct ml_jtoken *tok;
    struct marlin_error *err;
    int depth, loops;
    int mentions;                 /* names of the innermost macro */
    const struct ml_jstr **names; /* every name once, so that pointers tell names apart */
    size_t n_names, cap_names;
};

marlin_status ml_j_parse_error(struct ml_jparser *p, const char *what);
marlin_status ml_j_enter(struct ml_jparser *p);
struct ml_jnode *ml_j_node(struct ml_jparser *p, enum ml_jkind kind, uint32_t at);
marlin_status ml_j_grow(struct ml_jparser *p, struct ml_jnode ***list, size_t *n, struct ml_jnode *item);
const struct ml_jstr *ml_j_intern(struct ml_jparser *p, const char *text, size_t len);
bool ml_j_is_op(const struct ml_jparser *p, int op);
bool ml_j_is_name(const struct ml_jparser *p, const char *name);
marlin_status ml_j_expect_op(struct ml_jparser *p, int op, const char *what);
marlin_status ml_j_expect_name(struct ml_jparser *p, const struct ml_jstr **name, const char *what);
marlin_status ml_j_parse_expr(struct ml_jparser *p, bool conditional, struct ml_jnode **out);
enum { ML_J_CONDITIONAL = 1, ML_J_PARENTHESES = 2, ML_J_UNTIL_IN = 4, ML_J_UNTIL_RECURSIVE = 8 };
marlin_status ml_j_parse_tuple(struct ml_jparser *p, int how, struct ml_jnode **out);
marlin_status ml_j_parse_target(struct ml_jparser *p, bool until_in, struct ml_jnode **out);
marlin_status ml_j_parse_filters(struct ml_jparser *p, struct ml_jnode *node, bool first_is_bare,
                                 struct ml_jnode **out);
marlin_status ml_j_parse_statements(struct ml_jparser *p, struct ml_jnode **out);

/* ---- one render */

struct ml_jscope {
    struct ml_jscope *parent;
    struct ml_jvar {
        const struct ml_jstr *name;
        struct ml_jval value;
    } * vars;
    size_t n, cap;
};

struct ml_jmacro {
    const struct ml_jnode *node;
    struct ml_jscope *scope;
};

struct ml_jloop {
    struct ml_jiter *it;
    struct ml_jval previous, current, next;
    bool has_next, peeked;
    int64_t index0;
    int64_t length; /* -1 until somebody asks */
    const struct ml_jnode *node;
    struct ml_jscope *scope;
    struct ml_jval changed; /* what loop.changed was given last */
};

enum ml_jflow { ML_J_RUN, ML_J_BREAK, ML_J_CONTINUE };

struct ml_jrun {
    const struct ml_template *t;
    struct ml_template_limits limits;
    struct ml_arena arena;
    struct ml_jdict *globals;
    struct ml_buf *out;
    struct marlin_error *err;
    uint64_t steps;
    size_t depth;
    uint32_t at;
    enum ml_jflow flow;
    int64_t now;
    /* Expressions call macros, whose bodies are statements: set by whoever runs statements. */
    marlin_status (*call_macro)(struct ml_jrun *, const struct ml_jmacro *, const struct ml_jargs *,
                                struct ml_jval *);
    /* map() applies filters by name: set by whoever applies one. */
    marlin_status (*filter)(struct ml_jrun *, const struct ml_jstr *, const struct ml_jval *,
                            const struct ml_jargs *, struct ml_jval *);
    /* A loop's next element, where its condition is an expression: set likewise. */
    marlin_status (*advance)(struct ml_jrun *, struct ml_jloop *);
};

/* Fails at the place of the expression or statement that runs. */
#define ml_j_fail(r, code, ...)                                                                              \
    (ml_fail_text((r)->err, (code), __VA_ARGS__), ml_j_at((r)->t, (r)->at, (r)->err), ml_status_of(code))

marlin_status ml_j_step(struct ml_jrun *r);            /* counts one step */
marlin_status ml_j_steps(struct ml_jrun *r, size_t n); /* counts n */
marlin_status ml_j_deeper(struct ml_jrun *r); /* every recursion, undone with r->depth-- even when it fails */
marlin_status ml_j_alloc(struct ml_jrun *r, size_t count, size_t size, void **out);
marlin_status ml_j_buf(struct ml_jrun *r, marlin_status st); /* names what a buffer's failure was */

#define ML_J_CALL(r, expr)                                                                                   \
    do {                                                                                                     \
        const marlin_status st_ = (expr);                                                                    \
        if (st_ != MARLIN_OK) return st_;                                                                    \
    } while (0)

/* jinja_value.c */
marlin_status ml_j_str(struct ml_jrun *r, const char *text, size_t len, struct ml_jval *out);
marlin_status ml_j_take(struct ml_jrun *r, const struct ml_buf *b, struct ml_jval *out); /* a buffer's text */
marlin_status ml_j_list(struct ml_jrun *r, enum ml_jtype type, size_t cap, struct ml_jval *out);
marlin_status ml_j_add(struct ml_jrun *r, struct ml_jlist *l, const struct ml_jval *v);
marlin_status ml_j_pair(struct ml_jrun *r, const struct ml_jval *a, const struct ml_jval *b,
                        struct ml_jval *out);
marlin_status ml_j_dict(struct ml_jrun *r, struct ml_jdict **out);
marlin_status ml_j_dict_set(struct ml_jrun *r, struct ml_jdict *m, const struct ml_jval *key,
                            const struct ml_jval *value);
/* *value is NULL when absent. MARLIN_ERR_FORMAT for a key that cannot be hashed; `hashable` asks first. */
marlin_status ml_j_dict_find(struct ml_jrun *r, const struct ml_jdict *m, const struct ml_jval *key,
                             const struct ml_jval **value);
const struct ml_jval *ml_j_dict_text(const struct ml_jdict *m, const struct ml_jstr *key);
bool ml_j_hashable(const struct ml_jval *v, int depth);
bool ml_j_truth(const struct ml_jval *v);
const char *ml_j_type(const struct ml_jval *v); /* Python's name of the type */
marlin_status ml_j_equal(struct ml_jrun *r, const struct ml_jval *a, const struct ml_jval *b, bool *out);
marlin_status ml_j_order(struct ml_jrun *r, const char *op, const struct ml_jval *a, const struct ml_jval *b,
                         int *out);                   /* -1, 0, 1; 2 for NaN */
bool ml_j_number(const struct ml_jval *v, double *d); /* also of a bool */
bool ml_j_integer(const struct ml_jval *v, int64_t *i);
marlin_status ml_j_undefined(struct ml_jrun *r, struct ml_jval *out, const char *fmt, ...) ML_PRINTF(3, 4);
marlin_status ml_j_use_undefined(struct ml_jrun *r, const struct ml_jval *v);
marlin_status ml_j_from_json(struct ml_jrun *r, const struct ml_json *j, struct ml_jval *out);
bool ml_j_is(const struct ml_jstr *s, const char *text);
static inline struct ml_jval ml_j_none(void) {
    return (struct ml_jval){.type = ML_J_NONE};
}
static inline struct ml_jval ml_j_bool(bool b) {
    return (struct ml_jval){.type = ML_J_BOOL, .b = b};
}
static inline struct ml_jval ml_j_int(int64_t i) {
    return (struct ml_jval){.type = ML_J_INT, .i = i};
}
static inline struct ml_jval ml_j_float(double d) {
    return (struct ml_jval){.type = ML_J_FLOAT, .d = d};
}

/* jinja_unicode.c: positions are bytes, counts are code points. */
size_t ml_j_chars(const char *s, size_t n);
size_t ml_j_decode(const char *s, size_t n, int32_t *c); /* bytes of the first code point */
size_t ml_j_offset(const struct ml_jstr *s, size_t chars);
bool ml_j_space(int32_t c);
bool ml_j_printable(int32_t c);
bool ml_j_line_end(int32_t c);
enum ml_jcase { ML_J_LOWER, ML_J_UPPER, ML_J_TITLE };
marlin_status ml_j_put_case(struct ml_buf *b, const char *s, size_t n, enum ml_jcase how);
enum ml_jcased { ML_J_UNCASED, ML_J_IS_LOWER, ML_J_IS_UPPER, ML_J_IS_TITLE };
enum ml_jcased ml_j_cased(int32_t c);
enum ml_jclass { ML_J_ALPHA, ML_J_DIGIT, ML_J_DECIMAL, ML_J_NUMERIC };
bool ml_j_class(int32_t c, enum ml_jclass k);
void ml_j_strip(const char **s, size_t *n, const struct ml_jstr *chars, int sides); /* 1 left, 2 right, 3 */
/* The next line of s from *at and whether there is one, as Python's splitlines. */
bool ml_j_line(const char *s, size_t n, size_t *at, size_t *begin, size_t *end);

/* jinja_print.c */
marlin_status ml_j_print(struct ml_jrun *r, struct ml_buf *b, const struct ml_jval *v);
marlin_status ml_j_repr(struct ml_jrun *r, struct ml_buf *b, const struct ml_jval *v);
marlin_status ml_j_print_float(struct ml_buf *b, double d);
marlin_status ml_j_text(struct ml_jrun *r, const struct ml_jval *v, struct ml_jval *out); /* str(v) */
marlin_status ml_j_escape(struct ml_jrun *r, struct ml_buf *b, const struct ml_jstr *s);
struct ml_jdumps {
    const struct ml_jstr *item, *key; /* separators */
    const struct ml_jstr *indent;     /* NULL: one line */
    bool ascii, sort;
};
marlin_status ml_j_dump(struct ml_jrun *r, struct ml_buf *b, const struct ml_jval *v,
                        const struct ml_jdumps *how);

/* jinja_iter.c */
marlin_status ml_j_iterate(struct ml_jrun *r, const struct ml_jval *v, struct ml_jiter **out);
marlin_status ml_j_next(struct ml_jrun *r, struct ml_jiter *it, struct ml_jval *out, bool *more);
marlin_status ml_j_collect(struct ml_jrun *r, const struct ml_jval *v, struct ml_jval *list);
bool ml_j_iterable(const struct ml_jval *v);
bool ml_j_sized(const struct ml_jval *v, int64_t *n);
marlin_status ml_j_contains(struct ml_jrun *r, const struct ml_jval *v, const struct ml_jval *item,
                            bool *out);

/* jinja_attr.c */
marlin_status ml_j_attr(struct ml_jrun *r, const struct ml_jval *v, const struct ml_jstr *name,
                        struct ml_jval *out);
marlin_status ml_j_item(struct ml_jrun *r, const struct ml_jval *v, const struct ml_jval *key,
                        struct ml_jval *out);
marlin_status ml_j_slice(struct ml_jrun *r, const struct ml_jval *v, const struct ml_jval bound[3],
                         struct ml_jval *out);

/* jinja_op.c */
marlin_status ml_j_binary(struct ml_jrun *r, int op, const struct ml_jval *a, const struct ml_jval *b,
                          struct ml_jval *out);
marlin_status ml_j_negate(struct ml_jrun *r, const struct ml_jval *a, bool minus, struct ml_jval *out);
marlin_status ml_j_compare(struct ml_jrun *r, int op, const struct ml_jval *a, const struct ml_jval *b,
                           bool *out);

/* jinja_format.c */
marlin_status ml_j_percent(struct ml_jrun *r, const struct ml_jstr *format, const struct ml_jval *args,
                           struct ml_jval *out);
marlin_status ml_j_braces(struct ml_jrun *r, const struct ml_jstr *format, const struct ml_jargs *args,
                          struct ml_jval *out);

/* jinja_call.c */
marlin_status ml_j_invoke(struct ml_jrun *r, const struct ml_jfunction *f, const struct ml_jval *self,
                          const struct ml_jargs *args, struct ml_jval *out);

/* Tables, each ended by a NULL name. */
extern const struct ml_jfunction ml_j_tests[], ml_j_globals[];
const struct ml_jfunction *ml_j_find(const struct ml_jfunction *table, const struct ml_jstr *name);
const struct ml_jfunction *ml_j_method(const struct ml_jval *v, const struct ml_jstr *name);
marlin_status ml_j_filter(struct ml_jrun *r, const struct ml_jstr *name, const struct ml_jval *v,
                          const struct ml_jargs *args, struct ml_jval *out);
marlin_status ml_j_test(struct ml_jrun *r, const struct ml_jstr *name, const struct ml_jval *v,
                        const struct ml_jargs *args, bool *out);
marlin_status ml_j_no_filter(struct ml_jrun *r, const struct ml_jstr *name);

/* jinja_eval.c */
marlin_status ml_j_eval(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                        struct ml_jval *out);
marlin_status ml_j_call_node(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                             const struct ml_jval *caller, struct ml_jval *out);
marlin_status ml_j_filter_node(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jnode *n,
                               const struct ml_jval *inner, struct ml_jval *out);
marlin_status ml_j_define(struct ml_jrun *r, struct ml_jscope *s, const struct ml_jstr *name,
                          const struct ml_jval *v);

#endif
