/* SPDX-License-Identifier: Apache-2.0
 *
 * Split patterns. They are written for Oniguruma; this file and regex_sets.c rewrite what PCRE2 reads differently
 * (sets of characters, scripts, \u, options, letters that are themselves), refuse by name what they cannot rewrite,
 * and keep the work linear in the text: a match looks at a small window of the text first, under a match limit in
 * proportion, and windows and limits that have to grow are paid from a budget.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/mem.h"
#include "tokenizer/regex_int.h"

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

#define WORD_LEFT  "(?<=[" ML_LONE_WORDS "])"
#define WORD_RIGHT "(?=[" ML_LONE_WORDS "])"
#define NONE_LEFT  "(?<![" ML_LONE_WORDS "])"
#define NONE_RIGHT "(?![" ML_LONE_WORDS "])"

static void *pcre_alloc(PCRE2_SIZE n, void *user) {
    (void)user;
    return ml_alloc(n);
}

static void pcre_release(void *p, void *user) {
    (void)user;
    ml_free(p);
}

/* A set that is one escape needs no class around it, which PCRE2 would match more slowly. */
static marlin_status put_set(struct ml_rewriter *r, const struct ml_char_set *set) {
    const char *text = set->text, *close = strchr(text, '}');
    const bool single = !strcmp(text, "\\d") || (!strncmp(text, "\\p{", 3) && close && !close[1]);
    if (!single) return ml_buf_addf(r->out, set->negated ? "[^%s]" : "[%s]", text);
    return ml_buf_addf(r->out, "\\%c%s", set->negated ? text[1] - 'a' + 'A' : text[1], text + 2);
}

static marlin_status rewrite_escape(struct ml_rewriter *r) {
    struct ml_char_set set;
    size_t n;
    const marlin_status st = ml_rewrite_set(r, false, &set, &n);
    if (st != MARLIN_OK) return st;
    if (set.text) {
        r->at += n;
        return put_set(r, &set);
    }
    const char c = r->at + 1 < r->len ? r->s[r->at + 1] : '\0';
    if (c != 'b' && c != 'B') return ml_rewrite_char_escape(r, r->out);
    r->at += 2;
    return ml_buf_adds(r->out, c == 'b' ? "(?:" WORD_LEFT NONE_RIGHT "|" NONE_LEFT WORD_RIGHT ")"
                                        : "(?:" WORD_LEFT WORD_RIGHT "|" NONE_LEFT NONE_RIGHT ")");
}

/* At "{": Oniguruma reads {,n} as an interval from 0, which PCRE2 takes for text, a + behind an interval as one
 * more repetition, which PCRE2 takes for possessive, and a ? behind {n} as "or nothing", which PCRE2 takes for
 * lazy. */
static marlin_status check_interval(const struct ml_rewriter *r) {
    static const char digits[] = "0123456789";
    size_t at = r->at + 1;
    if (ml_rewrite_ahead(r, "{,")) return ml_rewrite_refuse(r, "an interval without a lower bound");
    bool comma = false;
    for (; at < r->len && r->s[at] && (strchr(digits, r->s[at]) || r->s[at] == ','); at++)
        comma |= r->s[at] == ',';
    if (at == r->at + 1 || at + 1 >= r->len || r->s[at] != '}') return MARLIN_OK;
    if (r->s[at + 1] == '+') return ml_rewrite_refuse(r, "an interval followed by +");
    if (r->s[at + 1] == '?' && !comma) return ml_rewrite_refuse(r, "an interval of one number followed by ?");
    return MARLIN_OK;
}

/* At "(?" and a letter or a dash: options. Oniguruma's m is PCRE2's s, and its options without a group of their
 * own reach over the alternatives that follow, which makes no difference at the start of one. */
static marlin_status rewrite_options(struct ml_rewriter *r) {
    size_t end = r->at + 2;
    while (end < r->len && r->s[end] && strchr("imx-", r->s[end]))
        end++;
    if (end >= r->len || (r->s[end] != ':' && r->s[end] != ')'))
        return ml_rewrite_refuse(r, "a special group");
    if (r->s[end] == ')' && r->fresh != r->at)
        return ml_rewrite_refuse(r, "an option in the middle of an alternative");
    marlin_status st = MARLIN_OK;
    for (; r->at <= end && st == MARLIN_OK; r->at++)
        st = ml_buf_addf(r->out, "%c", r->s[r->at] == 'm' ? 's' : r->s[r->at]);
    r->fresh = r->at;
    return st;
}

/* At "(". */
static marlin_status rewrite_group(struct ml_rewriter *r) {
    static const char *const refused[] = {"(*", "(?C", "(?~", "(?R", "(?|", "(?#"};
    static const char *const openers[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (ml_rewrite_ahead(r, refused[i])) return ml_rewrite_refuse(r, "a special group");
    const char option = ml_rewrite_ahead(r, "(?") && r->at + 2 < r->len ? r->s[r->at + 2] : '\0';
    if (option == '-' || (option >= 'a' && option <= 'z') || (option >= 'A' && option <= 'Z'))
        return rewrite_options(r);
    const char *opener = "(";
    for (size_t i = 0; i < sizeof openers / sizeof *openers; i++)
        if (ml_rewrite_ahead(r, openers[i])) opener = openers[i];
    r->at += strlen(opener);
    r->fresh = r->at;
    return ml_buf_adds(r->out, opener);
}

static marlin_status rewrite_one(struct ml_rewriter *r) {
    const char c = r->s[r->at];
    if (c == '\\') return rewrite_escape(r);
    if (c == '[') return ml_rewrite_class(r);
    if (c == '(') return rewrite_group(r);
    if (c == '{') {
        const marlin_status st = check_interval(r);
        if (st != MARLIN_OK) return st;
    }
    r->at++;
    if (c == '|') r->fresh = r->at;
    return ml_buf_add(r->out, &c, 1);
}

static marlin_status rewrite(const char *s, size_t len, struct ml_buf *out, struct marlin_error *err) {
    struct ml_rewriter r = {.s = s, .len = len, .out = out, .err = err};
    while (r.at < len) {
        const marlin_status st = rewrite_one(&r);
        if (st != MARLIN_OK) return st;
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
