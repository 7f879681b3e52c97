/* SPDX-License-Identifier: Apache-2.0
 *
 * Split patterns. They are written for Oniguruma; this file rewrites what PCRE2 reads differently (\s \S \w
 * \W, scripts, \u), refuses by name what it cannot rewrite, and keeps the work linear in the text: a match
 * looks at a small window of the text first, under a match limit in proportion, and windows and limits that
 * have to grow are paid from a budget.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/mem.h"
#include "tokenizer/tokenizer_int.h"

#include <pcre2.h>
#include <string.h>

struct ml_regex {
    pcre2_code *code;
    char *source;
};

struct ml_regex_run {
    pcre2_match_data *data;
    pcre2_match_context *match;
    pcre2_general_context *general;
    pcre2_jit_stack *stack;
    uint64_t budget;
};

/* White_Space; PCRE2's own \s has U+180E besides. */
#define SPACES                                                                                               \
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACES                                                                                           \
    "\\x{0}-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"     \
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
/* Oniguruma looks a lone \w up in its table of Latin-1, where the numbers \xb2 \xb3 \xb9 \xbc-\xbe are words;
 * a class takes the property, where they are not. */
#define LONE_WORDS ML_WORD_CLASS "\\xb2\\xb3\\xb9\\xbc-\\xbe"
#define WORD_LEFT  "(?<=[" LONE_WORDS "])"
#define WORD_RIGHT "(?=[" LONE_WORDS "])"
#define NONE_LEFT  "(?<![" LONE_WORDS "])"
#define NONE_RIGHT "(?![" LONE_WORDS "])"

static void *pcre_alloc(PCRE2_SIZE n, void *user) {
    (void)user;
    return ml_alloc(n);
}

static void pcre_release(void *p, void *user) {
    (void)user;
    ml_free(p);
}

struct rewriter {
    const char *s;
    size_t len, at;
    bool in_class;
    struct ml_buf *out;
    struct marlin_error *err;
};

static marlin_status refuse(const struct rewriter *r, const char *what) {
    return ml_fail(r->err, MARLIN_ERR_UNSUPPORTED, "regular expression: %s at offset %zu is not supported",
                   what, r->at);
}

/* \p{Name}: two letters and fewer are general categories; PCRE2 takes longer names as script extensions,
 * Oniguruma as scripts. */
static marlin_status rewrite_property(struct rewriter *r) {
    const char *name = r->s + r->at + 3;
    const char *close = memchr(name, '}', r->len - r->at - 3);
    if (!close) return refuse(r, "an unclosed property");
    const size_t n = (size_t)(close - name);
    const bool caret = n > 0 && name[0] == '^';
    const bool script = n - caret > 2 && !memchr(name, '&', n) && !memchr(name, '=', n);
    marlin_status st = MARLIN_OK;
    ML_TRY(ml_buf_add(r->out, r->s + r->at, 3));
    if (caret) ML_TRY(ml_buf_adds(r->out, "^"));
    if (script && !(n == 3 && !memcmp(name, "Any", 3))) ML_TRY(ml_buf_adds(r->out, "sc:"));
    ML_TRY(ml_buf_add(r->out, name + caret, n - caret + 1));
    r->at += 3 + n + 1;
out:
    return st;
}

static marlin_status rewrite_escape(struct rewriter *r) {
    marlin_status st = MARLIN_OK;
    if (r->at + 1 >= r->len) return refuse(r, "a backslash at the end");
    const char c = r->s[r->at + 1];
    const char *with = NULL;
    switch (c) {
    case 's':
        with = r->in_class ? SPACES : "[" SPACES "]";
        break;
    case 'S':
        with = r->in_class ? NOT_SPACES : "[^" SPACES "]";
        break;
    case 'w':
        with = r->in_class ? ML_WORD_CLASS : "[" LONE_WORDS "]";
        break;
    case 'W':
        if (r->in_class) return refuse(r, "\\W inside a class");
        with = "[^" LONE_WORDS "]";
        break;
    case 'b': /* in a class: the backspace character, as in PCRE2 */
        with = r->in_class ? NULL : "(?:" WORD_LEFT NONE_RIGHT "|" NONE_LEFT WORD_RIGHT ")";
        break;
    case 'B':
        if (r->in_class) return refuse(r, "\\B inside a class");
        with = "(?:" WORD_LEFT WORD_RIGHT "|" NONE_LEFT NONE_RIGHT ")";
        break;
    case 'h':
        with = r->in_class ? "0-9a-fA-F" : "[0-9a-fA-F]";
        break;
    case 'p':
    case 'P':
        if (r->at + 2 < r->len && r->s[r->at + 2] == '{') return rewrite_property(r);
        break;
    case 'u':
        if (r->at + 6 > r->len) return refuse(r, "a short \\u");
        ML_TRY(ml_buf_addf(r->out, "\\x{%.4s}", r->s + r->at + 2));
        r->at += 6;
        return MARLIN_OK;
    case 'K':
    case 'C':
    case 'H':
    case 'R':
    case 'X':
    case 'Q':
    case 'E':
    case 'O':
    case 'y':
    case 'Y':
    case 'N':
    case 'v':
    case 'V':
    case 'M':
    case 'c':
        return refuse(r, (const char[]){'\\', c, '\0'});
    default:
        break;
    }
    if (with)
        st = ml_buf_adds(r->out, with);
    else
        st = ml_buf_add(r->out, r->s + r->at, 2);
    r->at += 2;
out:
    return st;
}

static bool ahead(const struct rewriter *r, const char *what) {
    const size_t n = strlen(what);
    return r->len - r->at >= n && !memcmp(r->s + r->at, what, n);
}

/* At "{": Oniguruma reads {,n} as an interval from 0, which PCRE2 takes for text, and a + behind an interval
 * as one more repetition, which PCRE2 takes for possessive. */
static marlin_status check_interval(const struct rewriter *r) {
    static const char digits[] = "0123456789";
    size_t at = r->at + 1;
    if (ahead(r, "{,")) return refuse(r, "an interval without a lower bound");
    while (at < r->len && (strchr(digits, r->s[at]) || r->s[at] == ',') && r->s[at])
        at++;
    if (at > r->at + 1 && at + 1 < r->len && r->s[at] == '}' && r->s[at + 1] == '+')
        return refuse(r, "an interval followed by +");
    return MARLIN_OK;
}

/* One construct; classes keep Oniguruma's set operations from being read as plain characters. */
static marlin_status rewrite_one(struct rewriter *r, size_t class_start) {
    const char c = r->s[r->at];
    if (c == '\\') return rewrite_escape(r);
    if (r->in_class) {
        if (ahead(r, "&&")) return refuse(r, "a class intersection");
        if (c == '[') return refuse(r, "a class inside a class");
        if (c == ']' && r->at > class_start) r->in_class = false;
    } else if (c == '[') {
        r->in_class = true;
    } else if (c == '{') {
        const marlin_status st = check_interval(r);
        if (st != MARLIN_OK) return st;
    } else if (ahead(r, "(*") || ahead(r, "(?C") || ahead(r, "(?m") || ahead(r, "(?~") || ahead(r, "(?R") ||
               ahead(r, "(?|") || ahead(r, "(?#")) {
        return refuse(r, "a special group");
    }
    r->at++;
    return ml_buf_add(r->out, &c, 1);
}

static marlin_status rewrite(const char *s, size_t len, struct ml_buf *out, struct marlin_error *err) {
    struct rewriter r = {.s = s, .len = len, .out = out, .err = err};
    size_t class_start = 0;
    while (r.at < len) {
        const bool was = r.in_class;
        const marlin_status st = rewrite_one(&r, class_start);
        if (st != MARLIN_OK) return st;
        if (r.in_class && !was) {
            class_start = r.at;
            if (r.at < len && s[r.at] == '^') class_start++;
        }
    }
    return MARLIN_OK;
}

static marlin_status compile(struct ml_regex *r, const char *s, size_t len, pcre2_general_context *general,
                             struct marlin_error *err) {
    pcre2_compile_context *context = pcre2_compile_context_create(general);
    if (!context) return MARLIN_ERR_MEMORY;
    int code = 0;
    PCRE2_SIZE offset = 0;
    marlin_status st = MARLIN_OK;
    (void)pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    /* Oniguruma's ^ and $ are those of lines. */
    r->code =
        pcre2_compile((PCRE2_SPTR)s, len, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                      &code, &offset, context);
    pcre2_compile_context_free(context);
    if (!r->code && (code == PCRE2_ERROR_NOMEMORY || code == PCRE2_ERROR_HEAP_FAILED))
        return MARLIN_ERR_MEMORY;
    if (!r->code) {
        PCRE2_UCHAR text[128] = "unknown";
        (void)pcre2_get_error_message(code, text, sizeof text);
        return ml_fail(err, MARLIN_ERR_FORMAT, "regular expression %.80s: %s at offset %zu", r->source,
                       (const char *)text, (size_t)offset);
    }
    /* Where there is no JIT, or no executable memory, the interpreter gives the same matches. */
    (void)pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
    return st;
}

marlin_status ml_regex_compile(const char *pattern, size_t len, struct ml_regex **out,
                               struct marlin_error *err) {
    if (len > ML_TOK_MAX_PATTERN)
        return ml_fail(err, MARLIN_ERR_LIMIT, "regular expression of %zu bytes: the ceiling is %u", len,
                       ML_TOK_MAX_PATTERN);
    struct ml_buf text;
    ml_buf_init(&text, (size_t)ML_TOK_MAX_PATTERN * 256);
    pcre2_general_context *general = pcre2_general_context_create(pcre_alloc, pcre_release, NULL);
    struct ml_regex *r = ml_calloc(1, sizeof *r);
    marlin_status st = r && general ? MARLIN_OK : MARLIN_ERR_MEMORY;
    if (st != MARLIN_OK) goto out;
    r->source = ml_strndup(pattern, len);
    if (!r->source) st = MARLIN_ERR_MEMORY;
    if (st == MARLIN_OK) st = rewrite(pattern, len, &text, err);
    if (st == MARLIN_OK) st = compile(r, text.data ? text.data : "", text.len, general, err);
    if (st != MARLIN_OK) goto out;
    *out = r;
    r = NULL;
out:
    if (st == MARLIN_ERR_MEMORY) (void)ml_fail(err, st, "regular expression: out of memory");
    ml_regex_free(r);
    pcre2_general_context_free(general);
    ml_buf_free(&text);
    return st;
}

void ml_regex_free(struct ml_regex *r) {
    if (!r) return;
    pcre2_code_free(r->code);
    ml_free(r->source);
    ml_free(r);
}

marlin_status ml_regex_run_create(size_t text_len, struct ml_regex_run **out) {
    struct ml_regex_run *run = ml_calloc(1, sizeof *run);
    if (!run) return MARLIN_ERR_MEMORY;
    run->budget = (uint64_t)text_len * 64 + (4u << 20);
    run->general = pcre2_general_context_create(pcre_alloc, pcre_release, NULL);
    if (run->general) {
        run->data = pcre2_match_data_create(1, run->general);
        run->match = pcre2_match_context_create(run->general);
        /* NULL where there is no JIT: matching then goes without. */
        run->stack = pcre2_jit_stack_create(32 << 10, 8 << 20, run->general);
    }
    if (!run->data || !run->match) {
        ml_regex_run_free(run);
        return MARLIN_ERR_MEMORY;
    }
    (void)pcre2_set_heap_limit(run->match, 64 << 10);
    if (run->stack) pcre2_jit_stack_assign(run->match, NULL, run->stack);
    *out = run;
    return MARLIN_OK;
}

void ml_regex_run_free(struct ml_regex_run *run) {
    if (!run) return;
    pcre2_match_data_free(run->data);
    pcre2_match_context_free(run->match);
    if (run->stack) pcre2_jit_stack_free(run->stack);
    pcre2_general_context_free(run->general);
    ml_free(run);
}

static marlin_status too_much(const struct ml_regex *r, size_t at, struct marlin_error *err) {
    return ml_fail(
        err, MARLIN_ERR_LIMIT,
        "regular expression %.80s backtracks too much on this text (at byte %zu): the work allowed is "
        "proportional to the text",
        r->source, at);
}

static bool pay(struct ml_regex_run *run, uint64_t cost) {
    if (cost > run->budget) return false;
    run->budget -= cost;
    return true;
}

/* The end of a window of about n bytes, at a character boundary. */
static size_t window_end(const char *text, size_t len, size_t from, size_t n) {
    if (n >= len - from) return len;
    size_t end = from + n;
    while (((uint8_t)text[end] & 0xC0) == 0x80)
        end--;
    return end;
}

/* PCRE2_PARTIAL_HARD reports every match whose outcome could depend on what lies behind the window, so a
 * match inside a window is the match in the whole text. */
marlin_status ml_regex_find(const struct ml_regex *r, struct ml_regex_run *run, const char *text, size_t len,
                            size_t from, size_t *start, size_t *end, bool *found, struct marlin_error *err) {
    size_t window = 128;
    uint32_t factor = 4;
    for (;;) {
        const size_t stop = window_end(text, len, from, window);
        const uint64_t limit = 256 + (uint64_t)factor * (stop - from);
        (void)pcre2_set_match_limit(run->match, limit > UINT32_MAX ? UINT32_MAX : (uint32_t)limit);
        const int rc =
            pcre2_match(r->code, (PCRE2_SPTR)text, stop, from,
                        PCRE2_NO_UTF_CHECK | (stop < len ? PCRE2_PARTIAL_HARD : 0), run->data, run->match);
        const PCRE2_SIZE *ov = pcre2_get_ovector_pointer(run->data);
        if (rc >= 0) {
            *start = ov[0];
            *end = ov[1];
            *found = true;
            return MARLIN_OK;
        }
        if (rc == PCRE2_ERROR_NOMATCH && stop == len) {
            *found = false;
            return MARLIN_OK;
        }
        if (rc == PCRE2_ERROR_NOMATCH) { /* nothing starts in this window */
            from = stop;
            if (window < 65536) window *= 2;
        } else if (rc == PCRE2_ERROR_PARTIAL) {
            if (!pay(run, window)) return too_much(r, from, err);
            from = ov[0];
            window *= 4;
        } else if (rc == PCRE2_ERROR_MATCHLIMIT) {
            factor *= 8;
            if (factor > 1u << 20 || !pay(run, limit)) return too_much(r, from, err);
        } else if (rc == PCRE2_ERROR_NOMEMORY) {
            return ml_fail(err, MARLIN_ERR_MEMORY, "regular expression: out of memory");
        } else {
            return too_much(r, from, err);
        }
    }
}
