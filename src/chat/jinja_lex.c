/* SPDX-License-Identifier: Apache-2.0
 *
 * Text to tokens, with jinja2's rules for white space around tags: the first newline after a block or comment is
 * dropped, so is what indents one, and "-" or "+" at a tag's end says otherwise.
 */
#include "chat/jinja_int.h"

#include "base/checked.h"
#include "base/mem.h"

#include <string.h>

struct lexer {
    const struct ml_template *t;
    struct marlin_error *err;
    const char *s;
    size_t n, at;
    bool line_start; /* the last tag took its line's end with it, or there was none yet */
    struct ml_jtoken *tokens;
    size_t count, cap;
};

void ml_j_place(const struct ml_template *t, size_t at, size_t *line, size_t *column) {
    size_t start = 0;
    *line = 1;
    for (size_t i = 0; i < at && i < t->len; i++) {
        if (t->text[i] != '\n') continue;
        ++*line;
        start = i + 1;
    }
    *column = 1 + (at > start ? ml_j_chars(t->text + start, at - start) : 0);
}

void ml_j_at(const struct ml_template *t, size_t at, struct marlin_error *err) {
    size_t line, column;
    if (!err) return;
    ml_j_place(t, at, &line, &column);
    ml_fail_prefix(err, "%s, line %zu, column %zu", t->name, line, column);
}

static marlin_status fail(const struct lexer *x, size_t at, const char *what) {
    return ml_j_syntax(x->t, at, x->err, MARLIN_ERR_FORMAT, "%s", what);
}

static marlin_status emit(struct lexer *x, enum ml_jtoken_kind kind, size_t from, size_t to) {
    if (x->count == x->cap) {
        const size_t cap = x->cap ? x->cap * 2 : 256;
        size_t bytes;
        struct ml_jtoken *grown = NULL;
        if (ml_mul_size(cap, sizeof *grown, &bytes)) grown = ml_realloc(x->tokens, bytes);
        if (!grown) return ml_fail(x->err, MARLIN_ERR_MEMORY, "%s: out of memory", x->t->name);
        x->tokens = grown;
        x->cap = cap;
    }
    x->tokens[x->count++] = (struct ml_jtoken){
        .kind = kind, .at = (uint32_t)from, .len = (uint32_t)(to - from), .text = x->s + from};
    return MARLIN_OK;
}

static size_t skip_space(const struct lexer *x, size_t at) {
    int32_t c;
    while (at < x->n) {
        const size_t k = ml_j_decode(x->s + at, x->n - at, &c);
        if (!ml_j_space(c)) break;
        at += k;
    }
    return at;
}

static bool at_text(const struct lexer *x, size_t at, const char *text) {
    const size_t n = strlen(text);
    return at <= x->n && x->n - at >= n && memcmp(x->s + at, text, n) == 0;
}

/* Text in front of a tag whose sign is `sign`. */
static marlin_status data(struct lexer *x, size_t from, size_t to, char sign, bool variable) {
    if (sign == '-') {
        const char *s = x->s + from;
        size_t n = to - from;
        ml_j_strip(&s, &n, NULL, 2);
        to = from + n;
    } else if (sign != '+' && !variable) {
        size_t line = to;
        while (line > from && x->s[line - 1] != '\n')
            line--;
        if ((line > from || x->line_start) && skip_space(x, line) >= to) to = line;
    }
    return to > from ? emit(x, ML_JT_DATA, from, to) : MARLIN_OK;
}

/* A tag's end at x->at, if `close` ("%}", "#}") stands there, and what it takes away after it. */
static bool tag_end(struct lexer *x, const char *close, bool variable) {
    const char sign = x->at < x->n ? x->s[x->at] : 0;
    size_t after;
    if ((sign == '-' || (sign == '+' && !variable)) && at_text(x, x->at + 1, close))
        after = sign == '-' ? skip_space(x, x->at + 3) : x->at + 3;
    else if (at_text(x, x->at, close))
        after = x->at + 2 + (size_t)(!variable && at_text(x, x->at + 2, "\n"));
    else
        return false;
    x->line_start = x->s[after - 1] == '\n';
    x->at = after;
    return true;
}

static marlin_status comment(struct lexer *x, size_t begin) {
    for (; x->at < x->n; x->at++)
        if (tag_end(x, "#}", false)) return MARLIN_OK;
    return fail(x, begin, "a comment is not closed: \"#}\" is missing");
}

/* Length of "{% word %}" at `at` up to its "%}", or 0; *sign is the one at its front. */
static size_t word_tag(const struct lexer *x, size_t at, const char *word, char *sign) {
    size_t p = at + 2;
    if (!at_text(x, at, "{%")) return 0;
    *sign = p < x->n && (x->s[p] == '-' || x->s[p] == '+') ? x->s[p++] : 0;
    p = skip_space(x, p);
    if (!at_text(x, p, word)) return 0;
    return skip_space(x, p + strlen(word)) - at;
}

/* {% raw %} ... {% endraw %} */
static marlin_status raw(struct lexer *x, size_t begin) {
    const size_t from = x->at;
    char sign = 0;
    for (size_t p = from; p < x->n; p++) {
        const size_t k = word_tag(x, p, "endraw", &sign);
        const bool line_start = x->line_start;
        if (!k) continue;
        x->at = p + k;
        if (!tag_end(x, "%}", false)) continue;
        const bool after = x->line_start;
        x->line_start = line_start;
        ML_J_CALL(x, data(x, from, p, sign, false));
        x->line_start = after;
        return MARLIN_OK;
    }
    return fail(x, begin, "a raw block is not closed: \"{% endraw %}\" is missing");
}

/* Whether "{% raw %}" begins at p; x->at is then behind it. Its end takes no newline away. */
static bool raw_begin(struct lexer *x, size_t p, char *sign) {
    const size_t k = word_tag(x, p, "raw", sign);
    if (!k) return false;
    if (at_text(x, p + k, "-%}"))
        x->at = skip_space(x, p + k + 3);
    else if (at_text(x, p + k, "%}"))
        x->at = p + k + 2;
    else
        return false;
    return true;
}

static bool word_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool digit(const struct lexer *x, size_t at) {
    return at < x->n && x->s[at] >= '0' && x->s[at] <= '9';
}

/* Digits with single underscores between them. */
static size_t digits(const struct lexer *x, size_t at) {
    while (digit(x, at) || (at < x->n && x->s[at] == '_' && digit(x, at + 1)))
        at++;
    return at;
}

static marlin_status number(struct lexer *x) {
    const size_t from = x->at;
    size_t end = digits(x, from);
    bool real = false;
    if (from == 0 || x->s[from - 1] != '.') {
        if (end < x->n && x->s[end] == '.' && digit(x, end + 1)) {
            end = digits(x, end + 1);
            real = true;
        }
        if (end < x->n && (x->s[end] == 'e' || x->s[end] == 'E')) {
            const size_t sign = end + 1 < x->n && (x->s[end + 1] == '+' || x->s[end + 1] == '-');
            if (digit(x, end + 1 + sign)) {
                end = digits(x, end + 1 + sign);
                real = true;
            }
        }
    }
    if (!real && x->s[from] == '0') {
        const char base = (char)(from + 1 < x->n ? x->s[from + 1] | 0x20 : 0);
        if (base == 'x' || base == 'b' || base == 'o')
            return fail(x, from, "numbers are written in decimal here");
        for (end = from; end < x->n && (x->s[end] == '0' || (x->s[end] == '_' && at_text(x, end + 1, "0")));)
            end++;
    }
    x->at = end;
    return emit(x, real ? ML_JT_FLOAT : ML_JT_INT, from, end);
}

static marlin_status string(struct lexer *x) {
    const size_t from = x->at;
    const char quote = x->s[from];
    for (size_t p = from + 1; p < x->n; p++) {
        if (x->s[p] == '\\') {
            p++;
        } else if (x->s[p] == quote) {
            x->at = p + 1;
            return emit(x, ML_JT_STRING, from, p + 1);
        }
    }
    return fail(x, from, "a string is not closed");
}

static marlin_status operator(struct lexer *x) {
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
    const char c = x->s[x->at];
    size_t n = 1;
    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        if (at_text(x, x->at, two[i])) n = 2;
    if (n == 1 && (c == 0 || !strchr("+-/*%~[](){}><=.:|,;", c)))
        return fail(x, x->at, "a character that has no meaning here");
    ML_J_CALL(x, emit(x, ML_JT_OP, x->at, x->at + n));
    x->tokens[x->count - 1].op = n == 1 ? c : ML_J_OP2(c, x->s[x->at + 1]);
    x->at += n;
    return MARLIN_OK;
}

/* Brackets that are open: a tag ends only when none is. */
static marlin_status balance(struct lexer *x, char *open, size_t *n, size_t cap) {
    const struct ml_jtoken *last = &x->tokens[x->count - 1];
    if (last->kind != ML_JT_OP) return MARLIN_OK;
    const int c = last->op;
    if (c == '(' || c == '[' || c == '{') {
        if (*n == cap)
            return ml_j_syntax(x->t, last->at, x->err, MARLIN_ERR_LIMIT,
                               "more than %zu brackets within each other (max_depth)", cap);
        open[(*n)++] = (char)(c == '(' ? ')' : c == '[' ? ']' : '}');
    } else if (c == ')' || c == ']' || c == '}') {
        if (*n == 0 || open[*n - 1] != c) return fail(x, last->at, "a bracket closes that was not opened");
        --*n;
    }
    return MARLIN_OK;
}

static marlin_status inside(struct lexer *x, size_t begin, const char *close, bool variable) {
    char open[ML_J_PARSE_DEPTH];
    size_t n_open = 0;
    for (;;) {
        const size_t here = x->at = skip_space(x, x->at);
        if (here >= x->n) return fail(x, begin, "a tag is not closed");
        if (n_open == 0 && tag_end(x, close, variable))
            return emit(x, variable ? ML_JT_VAR_END : ML_JT_BLOCK_END, here, here);
        const char c = x->s[here];
        marlin_status st;
        if (c >= '0' && c <= '9') {
            st = number(x);
        } else if (word_char(c)) {
            while (x->at < x->n && word_char(x->s[x->at]))
                x->at++;
            st = emit(x, ML_JT_NAME, here, x->at);
        } else {
            st = c == '\'' || c == '"' ? string(x) : operator(x);
        }
        if (st == MARLIN_OK) st = balance(x, open, &n_open, sizeof open);
        if (st != MARLIN_OK) return st;
    }
}

/* One tag and the text before it; at the end, the rest. */
static marlin_status tag(struct lexer *x) {
    const size_t from = x->at;
    size_t p = from;
    while (p < x->n && !(x->s[p] == '{' && p + 1 < x->n && strchr("{%#", x->s[p + 1]) && x->s[p + 1]))
        p++;
    if (p >= x->n) {
        x->at = x->n;
        return p > from ? emit(x, ML_JT_DATA, from, p) : MARLIN_OK;
    }
    char sign = 0;
    if (raw_begin(x, p, &sign)) {
        const size_t after = x->at;
        ML_J_CALL(x, data(x, from, p, sign, false));
        x->line_start = x->s[after - 1] == '\n';
        return raw(x, p);
    }
    const bool variable = x->s[p + 1] == '{';
    sign = p + 2 < x->n ? x->s[p + 2] : 0;
    if (sign != '-' && sign != '+') sign = 0;
    ML_J_CALL(x, data(x, from, p, sign, variable));
    x->at = p + 2 + (sign != 0);
    if (x->s[p + 1] == '#') return comment(x, p);
    ML_J_CALL(x, emit(x, variable ? ML_JT_VAR_BEGIN : ML_JT_BLOCK_BEGIN, p, p));
    return inside(x, p, variable ? "}}" : "%}", variable);
}

marlin_status ml_j_lex(const struct ml_template *t, struct ml_jtoken **tokens, struct marlin_error *err) {
    struct lexer x = {.t = t, .err = err, .s = t->text, .n = t->len, .line_start = true};
    marlin_status st = MARLIN_OK;
    while (st == MARLIN_OK && x.at < x.n)
        st = tag(&x);
    if (st == MARLIN_OK) st = emit(&x, ML_JT_END, x.n, x.n);
    *tokens = x.tokens;
    if (st == MARLIN_OK) return st;
    ml_free(x.tokens);
    *tokens = NULL;
    return st;
}
