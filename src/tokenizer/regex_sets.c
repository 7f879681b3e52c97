/* SPDX-License-Identifier: Apache-2.0
 *
 * Characters and sets of them in Oniguruma's spelling. PCRE2 has neither classes inside classes nor intersections, so a
 * class becomes a flat one where it can, and else alternatives and lookaheads that match one character each.
 */
#include "tokenizer/regex_int.h"

#include <stdio.h>
#include <string.h>

enum { MAX_NESTING = 16, MAX_NAME = 40 };

/* White_Space; PCRE2's own \s has U+180E besides. */
#define SPACES                                                                                               \
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACES                                                                                           \
    "\\x{0}-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"     \
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define HEX_DIGITS "0-9a-fA-F"
/* With characters that had the properties given after PCRE2 10.42 took its tables, and before Oniguruma took its. */
#define ALPHABETIC                                                                                           \
    "\\p{Alphabetic}\\x{363}-\\x{36f}\\x{c04}\\x{f82}\\x{f83}\\x{1dd3}-\\x{1de6}\\x{11080}\\x{11081}"
#define LATE_LOWERCASE "\\x{10fc}\\x{a7f2}-\\x{a7f4}\\x{ab69}"
#define LOWERCASE      "\\p{Lowercase}" LATE_LOWERCASE

/* ---- reading ---- */

bool ml_rewrite_ahead(const struct ml_rewriter *r, const char *what) {
    const size_t n = strlen(what);
    return r->len - r->at >= n && !memcmp(r->s + r->at, what, n);
}

marlin_status ml_rewrite_refuse(const struct ml_rewriter *r, const char *what) {
    return ml_fail(r->err, MARLIN_ERR_UNSUPPORTED, "regular expression: %s at offset %zu is not supported",
                   what, r->at);
}

/* Letters that mean something to either of the two; any other letter behind a backslash is itself to Oniguruma
 * and an error to PCRE2. */
static bool is_escape_letter(char c) {
    return c && strchr("aefnrtvxuobBAzZGkg", c);
}

marlin_status ml_rewrite_char_escape(struct ml_rewriter *r, struct ml_buf *out) {
    if (r->at + 1 >= r->len) return ml_rewrite_refuse(r, "a backslash at the end");
    const char c = r->s[r->at + 1];
    const char *text = r->s + r->at;
    size_t n = 2;
    if (c == 'u') {
        if (r->at + 6 > r->len) return ml_rewrite_refuse(r, "a short \\u");
        r->at += 6;
        return ml_buf_addf(out, "\\x{%.4s}", text + 2);
    }
    if (c && strchr("KCRXQEOyYNvVMc", c)) return ml_rewrite_refuse(r, (const char[]){'\\', c, '\0'});
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const char *close = c && strchr("xogk", c) ? memchr(text, '}', r->len - r->at) : NULL;
    r->at += n;
    if (letter && !is_escape_letter(c)) return ml_buf_add(out, &c, 1); /* \p without a brace is p */
    if (close && r->s[r->at] == '{') r->at = (size_t)(close + 1 - r->s), n = (size_t)(close + 1 - text);
    return ml_buf_add(out, text, n);
}

/* ---- names ---- */

struct named_set {
    const char *name; /* as Oniguruma compares names: lower case, without spaces, - and _ */
    const char *text;
    bool negated;
};

/* POSIX names, in brackets or as properties; they differ in punct and in word. */
static const struct named_set posix[] = {
    {"alnum", ALPHABETIC "\\p{Nd}", false},
    {"alpha", ALPHABETIC, false},
    {"ascii", "\\x{0}-\\x7f", false},
    {"blank", "\\p{Zs}\\x09", false},
    {"cntrl", "\\p{Cc}", false},
    {"digit", "\\p{Nd}", false},
    {"graph", SPACES "\\p{Cc}\\p{Cn}\\p{Cs}", true},
    {"lower", LOWERCASE, false},
    {"print", "\\p{Cc}\\p{Cn}\\p{Cs}\\x{2028}\\x{2029}", true},
    {"punct", "\\p{P}\\p{S}", false},
    {"space", SPACES, false},
    {"upper", "\\p{Uppercase}", false},
    {"word", ML_WORD_CLASS, false},
    {"xdigit", HEX_DIGITS, false},
};

/* Long names of general categories, and properties with a name of more than two letters that is no script. */
static const struct named_set properties[] = {
    {"any", "\\p{Any}", false},
    {"assigned", "\\p{Cn}", true},
    {"letter", "\\p{L}", false},
    {"casedletter", "\\p{L&}", false},
    {"lowercaseletter", "\\p{Ll}", false},
    {"uppercaseletter", "\\p{Lu}", false},
    {"titlecaseletter", "\\p{Lt}", false},
    {"modifierletter", "\\p{Lm}", false},
    {"otherletter", "\\p{Lo}", false},
    {"mark", "\\p{M}", false},
    {"combiningmark", "\\p{M}", false},
    {"nonspacingmark", "\\p{Mn}", false},
    {"spacingmark", "\\p{Mc}", false},
    {"enclosingmark", "\\p{Me}", false},
    {"number", "\\p{N}", false},
    {"decimalnumber", "\\p{Nd}", false},
    {"letternumber", "\\p{Nl}", false},
    {"othernumber", "\\p{No}", false},
    {"punct", "\\p{P}", false},
    {"punctuation", "\\p{P}", false},
    {"connectorpunctuation", "\\p{Pc}", false},
    {"dashpunctuation", "\\p{Pd}", false},
    {"openpunctuation", "\\p{Ps}", false},
    {"closepunctuation", "\\p{Pe}", false},
    {"initialpunctuation", "\\p{Pi}", false},
    {"finalpunctuation", "\\p{Pf}", false},
    {"otherpunctuation", "\\p{Po}", false},
    {"symbol", "\\p{S}", false},
    {"mathsymbol", "\\p{Sm}", false},
    {"currencysymbol", "\\p{Sc}", false},
    {"modifiersymbol", "\\p{Sk}", false},
    {"othersymbol", "\\p{So}", false},
    {"separator", "\\p{Z}", false},
    {"spaceseparator", "\\p{Zs}", false},
    {"lineseparator", "\\p{Zl}", false},
    {"paragraphseparator", "\\p{Zp}", false},
    {"other", "\\p{C}", false},
    {"control", "\\p{Cc}", false},
    {"format", "\\p{Cf}", false},
    {"surrogate", "\\p{Cs}", false},
    {"privateuse", "\\p{Co}", false},
    {"unassigned", "\\p{Cn}", false},
    {"alphabetic", ALPHABETIC, false},
    {"lowercase", LOWERCASE, false},
    {"uppercase", "\\p{Uppercase}", false},
    {"cased", "\\p{Cased}" LATE_LOWERCASE, false},
    {"whitespace", SPACES, false},
    {"emoji", "\\p{Emoji}", false},
    {"emojicomponent", "\\p{Emoji_Component}", false},
    {"emojimodifier", "\\p{Emoji_Modifier}", false},
    {"emojimodifierbase", "\\p{Emoji_Modifier_Base}", false},
    {"emojipresentation", "\\p{Emoji_Presentation}", false},
    {"extendedpictographic", "\\p{Extended_Pictographic}", false},
    {"ideographic", "\\p{Ideographic}", false},
    {"unifiedideograph", "\\p{Unified_Ideograph}", false},
    {"math", "\\p{Math}", false},
    {"dash", "\\p{Dash}", false},
    {"hexdigit", "\\p{Hex_Digit}", false},
    {"asciihexdigit", HEX_DIGITS, false},
    {"idstart", "\\p{ID_Start}", false},
    {"idcontinue", "\\p{ID_Continue}", false},
    {"xidstart", "\\p{XID_Start}", false},
    {"xidcontinue", "\\p{XID_Continue}", false},
};

static const struct named_set *find_set(const struct named_set *list, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i].name, name) == 0) return &list[i];
    return NULL;
}

#define FIND(list, name) find_set(list, sizeof(list) / sizeof((list)[0]), name)

/* The name as it is compared; "" when it is too long to be in a table. */
static void plain_name(const char *s, size_t len, char name[MAX_NAME]) {
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        const char c = s[i];
        if (c == ' ' || c == '-' || c == '_') continue;
        if (n + 1 == MAX_NAME) n = len = 0;
        if (len) name[n++] = (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    }
    name[n] = '\0';
}

/* \p{Name}: one or two letters are a general category, other names that no table has are scripts, which PCRE2
 * would read as script extensions. */
static marlin_status property_set(const struct ml_rewriter *r, bool in_class, struct ml_char_set *set,
                                  size_t *n) {
    const char *name = r->s + r->at + 3;
    const char *close = memchr(name, '}', r->len - r->at - 3);
    if (!close) return ml_rewrite_refuse(r, "an unclosed property");
    *n = (size_t)(close + 1 - (r->s + r->at));
    const bool caret = *name == '^';
    name += caret;
    const size_t len = (size_t)(close - name);
    char plain[MAX_NAME];
    plain_name(name, len, plain);
    const struct named_set *known = FIND(properties, plain);
    if (!known) known = FIND(posix, plain);
    set->negated = caret != (r->s[r->at + 1] == 'P');
    if (known) {
        set->text = known->text;
        if (!in_class && strcmp(plain, "word") == 0) set->text = ML_LONE_WORDS;
        set->negated ^= known->negated;
        return MARLIN_OK;
    }
    if (len == 0 || len > sizeof set->made - 16) return ml_rewrite_refuse(r, "a property of this name");
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)name[i] < ' ' || strchr("\\{[]:", name[i]))
            return ml_rewrite_refuse(r, "a property of this name");
    const bool script = len > 2 && !memchr(name, '&', len) && !memchr(name, '=', len);
    (void)snprintf(set->made, sizeof set->made, "\\p{%s%.*s}", script ? "sc:" : "", (int)len, name);
    set->text = set->made;
    return MARLIN_OK;
}

marlin_status ml_rewrite_set(const struct ml_rewriter *r, bool in_class, struct ml_char_set *set, size_t *n) {
    const char c = r->at + 1 < r->len ? r->s[r->at + 1] : '\0';
    *n = 2;
    set->text = NULL;
    set->negated = c == 'W' || c == 'H' || c == 'D' || (c == 'S' && !in_class);
    switch (c) {
    case 's':
        set->text = SPACES;
        break;
    case 'S': /* keeps a class flat */
        set->text = in_class ? NOT_SPACES : SPACES;
        break;
    case 'w':
    case 'W':
        set->text = in_class ? ML_WORD_CLASS : ML_LONE_WORDS;
        break;
    case 'h':
    case 'H':
        set->text = HEX_DIGITS;
        break;
    case 'd':
    case 'D':
        set->text = "\\d";
        break;
    case 'p':
    case 'P': /* without a brace they are letters */
        if (r->at + 2 < r->len && r->s[r->at + 2] == '{') return property_set(r, in_class, set, n);
        break;
    default:
        break;
    }
    return MARLIN_OK;
}

/* ---- classes ---- */

/* What an operand of a class holds so far. */
struct operand {
    struct ml_buf flat; /* the inside of one class of PCRE2 */
    struct ml_buf rest; /* "|X" for each set X that no flat class can hold */
    struct ml_buf and;  /* "(?=X)" for each operand before */
    bool after_char;    /* a "-" here makes a range */
};

static void operand_init(struct operand *o) {
    const size_t limit = (size_t)ML_TOK_MAX_PATTERN * 256;
    ml_buf_init(&o->flat, limit);
    ml_buf_init(&o->rest, limit);
    ml_buf_init(&o->and, limit);
    o->after_char = false;
}

static void operand_free(struct operand *o) {
    ml_buf_free(&o->flat);
    ml_buf_free(&o->rest);
    ml_buf_free(&o->and);
}

static marlin_status add_set(struct operand *o, const char *text, bool negated) {
    o->after_char = false;
    return negated ? ml_buf_addf(&o->rest, "|[^%s]", text) : ml_buf_adds(&o->flat, text);
}

/* Appends what matches one character of the operand. */
static marlin_status put_union(const struct operand *o, struct ml_buf *out) {
    const char *flat = o->flat.len ? o->flat.data : NULL, *rest = o->rest.len ? o->rest.data : NULL;
    if (!rest) return ml_buf_addf(out, "[%s]", flat);
    if (!flat) return ml_buf_addf(out, "(?:%s)", rest + 1);
    return ml_buf_addf(out, "(?:[%s]%s)", flat, rest);
}

/* At "&&": what was read becomes a condition on what follows. */
static marlin_status next_operand(const struct ml_rewriter *r, struct operand *o) {
    marlin_status st;
    if (!o->flat.len && !o->rest.len) return ml_rewrite_refuse(r, "an intersection with nothing");
    ML_TRY(ml_buf_adds(&o->and, "(?="));
    ML_TRY(put_union(o, &o->and));
    ML_TRY(ml_buf_adds(&o->and, ")"));
    ml_buf_clear(&o->flat);
    ml_buf_clear(&o->rest);
    o->after_char = false;
out:
    return st;
}

/* At "[:": false when it is no POSIX bracket, but a class that starts with a colon. */
static bool posix_bracket(const struct ml_rewriter *r, size_t *n, const struct named_set **set, bool *caret) {
    const char *s = r->s + r->at, *end = memmem(s, r->len - r->at, ":]", 2);
    char name[MAX_NAME] = "";
    if (!ml_rewrite_ahead(r, "[:") || !end || end - s < 2 || end - s > 20) return false;
    *caret = s[2] == '^';
    const char *from = s + 2 + *caret;
    *n = (size_t)(end + 2 - s);
    if (end > from) plain_name(from, (size_t)(end - from), name);
    *set = FIND(posix, name);
    return true;
}

/* One character, or the ends of a range. Nothing that PCRE2 reads as more than a character stays bare. */
static marlin_status class_char(struct ml_rewriter *r, struct operand *o, bool first) {
    const char c = r->s[r->at];
    if (c == '\\') {
        o->after_char = true;
        return ml_rewrite_char_escape(r, &o->flat);
    }
    const bool last = r->at + 1 < r->len && r->s[r->at + 1] == ']';
    const bool dash = c == '-' && !first && !last;
    r->at++;
    if (dash && (ml_rewrite_ahead(r, "[") || ml_rewrite_ahead(r, "&&")))
        return ml_rewrite_refuse(r, "a range that ends in a class");
    if (dash && o->after_char) {
        struct ml_char_set set;
        size_t n;
        const marlin_status st = ml_rewrite_set(r, true, &set, &n);
        if (st != MARLIN_OK) return st;
        if (ml_rewrite_ahead(r, "\\") && set.text)
            return ml_rewrite_refuse(r, "a range that ends in a class");
        o->after_char = false; /* behind the range's end a dash is one */
        const marlin_status put = ml_buf_adds(&o->flat, "-");
        if (put != MARLIN_OK) return put;
        if (ml_rewrite_ahead(r, "\\")) return ml_rewrite_char_escape(r, &o->flat);
        const char end = r->at < r->len ? r->s[r->at++] : '\0'; /* an unclosed class is found by read_class */
        return ml_buf_addf(&o->flat, end && strchr("-^", end) ? "\\%c" : "%c", end);
    }
    o->after_char = true;
    return ml_buf_addf(&o->flat, c && strchr("-^]", c) ? "\\%c" : "%c", c);
}

static marlin_status read_class(struct ml_rewriter *r, int depth, struct operand *parent);

static marlin_status class_item(struct ml_rewriter *r, int depth, struct operand *o, bool first) {
    const struct named_set *named = NULL;
    struct ml_char_set set;
    bool caret = false;
    size_t n = 0;
    marlin_status st = MARLIN_OK;
    if (ml_rewrite_ahead(r, "&&")) {
        ML_TRY(next_operand(r, o));
        r->at += 2;
    } else if (posix_bracket(r, &n, &named, &caret)) {
        if (!named) return ml_rewrite_refuse(r, "a POSIX bracket of this name");
        ML_TRY(add_set(o, named->text, named->negated != caret));
        r->at += n;
    } else if (r->s[r->at] == '[') {
        o->after_char = false;
        st = read_class(r, depth + 1, o);
    } else if (r->s[r->at] != '\\') {
        st = class_char(r, o, first);
    } else {
        ML_TRY(ml_rewrite_set(r, true, &set, &n));
        if (!set.text) return class_char(r, o, first);
        ML_TRY(add_set(o, set.text, set.negated));
        r->at += n;
    }
out:
    return st;
}

/* Hands a class that has been read to the one around it, which takes a flat one into its own. */
static marlin_status give_to(struct operand *parent, const struct operand *o, bool negated,
                             struct ml_buf *out) {
    const bool flat = !o->rest.len && !o->and.len;
    marlin_status st;
    if (parent && flat && !negated) return ml_buf_adds(&parent->flat, o->flat.data);
    struct ml_buf *to = parent ? &parent->rest : out;
    if (parent) ML_TRY(ml_buf_adds(to, "|"));
    if (flat) return ml_buf_addf(to, negated ? "[^%s]" : "[%s]", o->flat.data);
    ML_TRY(ml_buf_adds(to, negated ? "(?:(?!" : "(?:"));
    if (o->and.len) ML_TRY(ml_buf_adds(to, o->and.data));
    ML_TRY(put_union(o, to));
    st = ml_buf_adds(to, negated ? ")(?s:.))" : ")");
out:
    return st;
}

/* At "[". The recursion is bounded by MAX_NESTING. */
static marlin_status read_class(struct ml_rewriter *r, int depth, struct operand *parent) {
    struct operand o;
    marlin_status st = MARLIN_OK;
    if (depth > MAX_NESTING) return ml_rewrite_refuse(r, "a class this deep inside others");
    operand_init(&o);
    const size_t open = r->at++;
    const bool negated = r->at < r->len && r->s[r->at] == '^';
    r->at += negated;
    for (const size_t first = r->at; r->at == first || !ml_rewrite_ahead(r, "]");) {
        if (r->at >= r->len) {
            st = ml_fail(r->err, MARLIN_ERR_FORMAT, "regular expression: an unclosed class at offset %zu",
                         open);
            goto out;
        }
        ML_TRY(class_item(r, depth, &o, r->at == first));
    }
    if (!o.flat.len && !o.rest.len) ML_TRY(ml_rewrite_refuse(r, "an intersection with nothing"));
    r->at++;
    st = give_to(parent, &o, negated, r->out);
out:
    operand_free(&o);
    return st;
}

marlin_status ml_rewrite_class(struct ml_rewriter *r) {
    return read_class(r, 0, NULL);
}
