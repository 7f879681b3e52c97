/* SPDX-License-Identifier: Apache-2.0
 *
 * A strict JSON reader (RFC 8259, and the three words that Python writes for what is no number) that builds compact nodes directly. It is our own because the policy needs
 * what common readers drop: exact integers and their spelling, duplicate keys, byte offsets, caps on depth
 * and nodes, constant-time members. Recursion is bounded by the depth limit.
 */
#include "base/json.h"

#include "base/arena.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INDEX_FROM = 12, DEFAULT_DEPTH = 64 };

struct ml_json {
    enum ml_json_type type;
    bool truth;
    size_t count;     /* children, or bytes of text */
    const char *text; /* string bytes or the number's spelling, NUL-terminated */
    const char *key;  /* when a member of an object */
    size_t key_len;
    struct ml_json *first, *next;
    struct ml_map *index; /* of large objects: key -> node address */
};

struct ml_json_doc {
    struct ml_arena arena;
    struct ml_json *root;
    struct index_list {
        struct ml_map map;
        struct index_list *next;
    } * indexes;
};

struct parser {
    const char *text;
    size_t len, at;
    int depth;
    struct ml_json_limits limits;
    size_t values;
    struct ml_json_doc *doc;
    struct marlin_error *err;
};

static marlin_status parse_value(struct parser *p, struct ml_json *v);

static marlin_status bad(const struct parser *p, const char *what) {
    return ml_fail(p->err, MARLIN_ERR_FORMAT, "JSON: %s (offset %zu)", what, p->at);
}

static marlin_status no_memory(const struct parser *p) {
    return ml_fail(p->err, MARLIN_ERR_MEMORY, "JSON: out of memory (offset %zu)", p->at);
}

static int peek(const struct parser *p) {
    return p->at < p->len ? (unsigned char)p->text[p->at] : -1;
}

static void skip_space(struct parser *p) {
    while (p->at < p->len && strchr(" \t\n\r", p->text[p->at]) && p->text[p->at]) {
        p->at++;
    }
}

static bool is_digit(int c) {
    return c >= '0' && c <= '9';
}

static marlin_status parse_number(struct parser *p, struct ml_json *v) {
    const size_t start = p->at;
    if (peek(p) == '-') p->at++;
    if (!is_digit(peek(p))) return bad(p, "a number needs a digit");
    const bool zero = peek(p) == '0';
    size_t digits = 0;
    for (; is_digit(peek(p)); digits++) {
        p->at++;
    }
    if (zero && digits > 1) return bad(p, "a number starts with a needless zero");
    if (peek(p) == '.') {
        p->at++;
        if (!is_digit(peek(p))) return bad(p, "a fraction needs a digit");
        while (is_digit(peek(p))) {
            p->at++;
        }
    }
    if (peek(p) == 'e' || peek(p) == 'E') {
        p->at++;
        if (peek(p) == '+' || peek(p) == '-') p->at++;
        if (!is_digit(peek(p))) return bad(p, "an exponent needs a digit");
        while (is_digit(peek(p))) {
            p->at++;
        }
    }
    v->type = ML_JSON_NUMBER;
    v->count = p->at - start;
    v->text = ml_arena_strndup(&p->doc->arena, p->text + start, v->count);
    return v->text ? MARLIN_OK : no_memory(p);
}

static marlin_status parse_word(struct parser *p, struct ml_json *v, const char *word, enum ml_json_type type,
                                bool truth) {
    const size_t n = strlen(word);
    if (p->len - p->at < n || memcmp(p->text + p->at, word, n) != 0) return bad(p, "unknown word");
    p->at += n;
    v->type = type;
    v->truth = truth;
    return MARLIN_OK;
}

/* NaN, Infinity and -Infinity, as Python writes them: numbers that no typed read takes. */
static marlin_status parse_no_number(struct parser *p, struct ml_json *v) {
    const size_t start = p->at;
    if (peek(p) == '-') p->at++;
    const marlin_status st = parse_word(p, v, peek(p) == 'N' ? "NaN" : "Infinity", ML_JSON_NUMBER, false);
    if (st != MARLIN_OK) return st;
    v->count = p->at - start;
    v->text = ml_arena_strndup(&p->doc->arena, p->text + start, v->count);
    return v->text ? MARLIN_OK : no_memory(p);
}

static marlin_status parse_hex4(struct parser *p, unsigned *out) {
    unsigned v = 0;
    for (int i = 0; i < 4; i++, p->at++) {
        const int c = peek(p);
        const int digit = is_digit(c)            ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0) return bad(p, "\\u needs four hexadecimal digits");
        v = v << 4 | (unsigned)digit;
    }
    *out = v;
    return MARLIN_OK;
}

static size_t put_utf8(char *out, unsigned c) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    const size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6) {
        out[i] = (char)(0x80 | (c & 0x3f));
    }
    out[0] = (char)((0xf00 >> n & 0xff) | c);
    return n;
}

static marlin_status parse_unicode(struct parser *p, char *out, size_t *n) {
    unsigned c, low;
    marlin_status st = parse_hex4(p, &c);
    if (st != MARLIN_OK) return st;
    if (c >= 0xdc00 && c <= 0xdfff) return bad(p, "lone surrogate");
    if (c >= 0xd800 && c <= 0xdbff) {
        if (p->len - p->at < 2 || memcmp(p->text + p->at, "\\u", 2) != 0) return bad(p, "lone surrogate");
        p->at += 2;
        if ((st = parse_hex4(p, &low)) != MARLIN_OK) return st;
        if (low < 0xdc00 || low > 0xdfff) return bad(p, "lone surrogate");
        c = 0x10000 + ((c & 0x3ff) << 10 | (low & 0x3ff));
    }
    *n += put_utf8(out + *n, c);
    return MARLIN_OK;
}

static marlin_status parse_escape(struct parser *p, char *out, size_t *n) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const int c = peek(p);
    p->at++;
    if (c == 'u') return parse_unicode(p, out, n);
    const char *found = c > 0 ? strchr(from, c) : NULL;
    if (!found) return bad(p, "unknown escape");
    out[(*n)++] = to[found - from];
    return MARLIN_OK;
}

/* Where the string that starts at the cursor ends (its closing quote), without decoding. */
static size_t string_span(const struct parser *p) {
    size_t i = p->at;
    while (i < p->len && p->text[i] != '"') {
        i += p->text[i] == '\\' ? 2 : 1;
    }
    return i < p->len ? i - p->at : p->len - p->at;
}

static marlin_status parse_string(struct parser *p, const char **text, size_t *len) {
    p->at++; /* the quote */
    char *out = ml_arena_alloc(&p->doc->arena, string_span(p) + 1);
    if (!out) return no_memory(p);
    size_t n = 0;
    for (;;) {
        const int c = peek(p);
        if (c < 0) return bad(p, "a string does not end");
        if (c < 0x20) return bad(p, "a control character in a string");
        if (c == '"') break;
        if (c == '\\') {
            p->at++;
            const marlin_status st = parse_escape(p, out, &n);
            if (st != MARLIN_OK) return st;
            continue;
        }
        const size_t step = ml_utf8_length((const unsigned char *)p->text + p->at, p->len - p->at);
        if (step == 0) return bad(p, "invalid UTF-8");
        memcpy(out + n, p->text + p->at, step);
        n += step;
        p->at += step;
    }
    p->at++;
    out[n] = '\0';
    *text = out;
    *len = n;
    return MARLIN_OK;
}

static marlin_status new_child(struct parser *p, struct ml_json *parent, struct ml_json ***tail,
                               struct ml_json **out) {
    struct ml_json *child = ml_arena_alloc(&p->doc->arena, sizeof *child);
    if (!child) return no_memory(p);
    **tail = child;
    *tail = &child->next;
    parent->count++;
    *out = child;
    return MARLIN_OK;
}

static marlin_status parse_array(struct parser *p, struct ml_json *v) {
    struct ml_json **tail = &v->first, *child = NULL;
    marlin_status st;
    v->type = ML_JSON_ARRAY;
    p->at++;
    skip_space(p);
    if (peek(p) == ']') {
        p->at++;
        return MARLIN_OK;
    }
    for (;;) {
        if ((st = new_child(p, v, &tail, &child)) != MARLIN_OK || (st = parse_value(p, child)) != MARLIN_OK)
            return st;
        const int c = peek(p);
        if (c != ',' && c != ']') return bad(p, "expected , or ] in an array");
        p->at++;
        if (c == ']') return MARLIN_OK;
    }
}

static marlin_status check_keys_few(struct parser *p, const struct ml_json *v) {
    for (const struct ml_json *a = v->first; a; a = a->next) {
        for (const struct ml_json *b = a->next; b; b = b->next) {
            if (a->key_len == b->key_len && memcmp(a->key, b->key, a->key_len) == 0)
                return ml_fail(p->err, MARLIN_ERR_FORMAT,
                               "JSON: duplicate key \"%.80s\" (object ending at offset %zu)", a->key, p->at);
        }
    }
    return MARLIN_OK;
}

/* Large objects get a hash index, which finds duplicates on the way. */
static marlin_status index_keys(struct parser *p, struct ml_json *v) {
    struct index_list *entry = ml_alloc(sizeof *entry);
    if (!entry) return no_memory(p);
    ml_map_init(&entry->map);
    entry->next = p->doc->indexes;
    p->doc->indexes = entry;
    v->index = &entry->map;
    if (ml_map_reserve(v->index, v->count) != MARLIN_OK) return no_memory(p);
    for (const struct ml_json *m = v->first; m; m = m->next) {
        bool inserted;
        if (ml_map_put(v->index, m->key, m->key_len, (uint64_t)(uintptr_t)m, &inserted) != MARLIN_OK)
            return no_memory(p);
        if (!inserted)
            return ml_fail(p->err, MARLIN_ERR_FORMAT,
                           "JSON: duplicate key \"%.80s\" (object ending at offset %zu)", m->key, p->at);
    }
    return MARLIN_OK;
}

static marlin_status parse_member(struct parser *p, struct ml_json *v, struct ml_json ***tail) {
    struct ml_json *child = NULL;
    marlin_status st = new_child(p, v, tail, &child);
    if (st != MARLIN_OK) return st;
    skip_space(p);
    if (peek(p) != '"') return bad(p, "expected a key");
    if ((st = parse_string(p, &child->key, &child->key_len)) != MARLIN_OK) return st;
    skip_space(p);
    if (peek(p) != ':') return bad(p, "expected : after a key");
    p->at++;
    return parse_value(p, child);
}

static marlin_status parse_object(struct parser *p, struct ml_json *v) {
    struct ml_json **tail = &v->first;
    v->type = ML_JSON_OBJECT;
    p->at++;
    skip_space(p);
    if (peek(p) == '}') {
        p->at++;
        return MARLIN_OK;
    }
    for (;;) {
        const marlin_status st = parse_member(p, v, &tail);
        if (st != MARLIN_OK) return st;
        const int c = peek(p);
        if (c != ',' && c != '}') return bad(p, "expected , or } in an object");
        p->at++;
        if (c == '}') break;
    }
    return v->count < INDEX_FROM ? check_keys_few(p, v) : index_keys(p, v);
}

static marlin_status parse_any(struct parser *p, struct ml_json *v) {
    switch (peek(p)) {
    case '{':
        return parse_object(p, v);
    case '[':
        return parse_array(p, v);
    case '"':
        v->type = ML_JSON_STRING;
        return parse_string(p, &v->text, &v->count);
    case 't':
        return parse_word(p, v, "true", ML_JSON_BOOL, true);
    case 'f':
        return parse_word(p, v, "false", ML_JSON_BOOL, false);
    case 'n':
        return parse_word(p, v, "null", ML_JSON_NULL, false);
    case 'N':
    case 'I':
        return parse_no_number(p, v);
    case -1:
        return bad(p, "expected a value, found the end");
    case '-':
        return p->at + 1 < p->len && p->text[p->at + 1] == 'I' ? parse_no_number(p, v) : parse_number(p, v);
    default:
        return is_digit(peek(p)) ? parse_number(p, v) : bad(p, "expected a value");
    }
}

/* A value with the white space around it. */
static marlin_status parse_value(struct parser *p, struct ml_json *v) {
    skip_space(p);
    if (++p->depth > p->limits.max_depth)
        return ml_fail(p->err, MARLIN_ERR_LIMIT, "JSON: nested deeper than %d (offset %zu)",
                       p->limits.max_depth, p->at);
    if (++p->values > p->limits.max_values)
        return ml_fail(p->err, MARLIN_ERR_LIMIT, "JSON: more than %zu values (offset %zu)",
                       p->limits.max_values, p->at);
    const marlin_status st = parse_any(p, v);
    p->depth--;
    skip_space(p);
    return st;
}

static bool begins_as_json(struct parser *p) {
    skip_space(p);
    const int c = peek(p);
    return c == -1 || (c && strchr("{[\"tfn-0123456789", c));
}

/* A file of another kind, which deserves its name rather than what is amiss with its first character. */
static marlin_status not_json(const struct parser *p) {
    char beginning[ML_BEGINNING];
    const char *kind = ml_sniff(p->text, p->len);
    if (kind) return ml_fail(p->err, MARLIN_ERR_FORMAT, "not JSON, but %s", kind);
    ml_beginning(p->text + p->at, p->len - p->at, beginning);
    return ml_fail(p->err, MARLIN_ERR_FORMAT, "not JSON: begins with '%s' (offset %zu)", beginning, p->at);
}

marlin_status ml_json_parse(const char *text, size_t len, const struct ml_json_limits *limits,
                            struct ml_json_doc **out, struct marlin_error *err) {
    struct parser p = {.text = text, .len = len, .err = err};
    if (limits) p.limits = *limits;
    if (!p.limits.max_bytes) p.limits.max_bytes = (size_t)64 << 20;
    if (!p.limits.max_depth) p.limits.max_depth = DEFAULT_DEPTH;
    if (!p.limits.max_values) p.limits.max_values = 8000000;
    if (len > p.limits.max_bytes)
        return ml_fail(err, MARLIN_ERR_LIMIT, "JSON: %zu bytes, more than the limit of %zu", len,
                       p.limits.max_bytes);
    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) return bad(&p, "starts with a byte order mark");
    if (!begins_as_json(&p)) return not_json(&p);
    if (!(p.doc = ml_calloc(1, sizeof *p.doc))) return no_memory(&p);
    ml_arena_init(&p.doc->arena, 0);
    marlin_status st;
    if (!(p.doc->root = ml_arena_alloc(&p.doc->arena, sizeof *p.doc->root)))
        st = no_memory(&p);
    else
        st = parse_value(&p, p.doc->root);
    if (st == MARLIN_OK && p.at != len) st = bad(&p, "something follows the value");
    if (st != MARLIN_OK) {
        ml_json_free(p.doc);
        return st;
    }
    *out = p.doc;
    return MARLIN_OK;
}

void ml_json_free(struct ml_json_doc *doc) {
    if (!doc) return;
    while (doc->indexes) {
        struct index_list *next = doc->indexes->next;
        ml_map_free(&doc->indexes->map);
        ml_free(doc->indexes);
        doc->indexes = next;
    }
    ml_arena_free(&doc->arena);
    ml_free(doc);
}

const struct ml_json *ml_json_root(const struct ml_json_doc *doc) {
    return doc->root;
}

enum ml_json_type ml_json_type(const struct ml_json *v) {
    return v->type;
}

const char *ml_json_type_name(const struct ml_json *v) {
    static const char *const names[] = {"null", "boolean", "number", "string", "array", "object"};
    return v ? names[v->type] : "nothing";
}

const struct ml_json *ml_json_get(const struct ml_json *v, const char *key) {
    if (!v || v->type != ML_JSON_OBJECT) return NULL;
    const size_t len = strlen(key);
    if (v->index) {
        uint64_t found;
        return ml_map_get(v->index, key, len, &found) ? (const struct ml_json *)(uintptr_t)found : NULL;
    }
    for (const struct ml_json *m = v->first; m; m = m->next) {
        if (m->key_len == len && memcmp(m->key, key, len) == 0) return m;
    }
    return NULL;
}

size_t ml_json_count(const struct ml_json *v) {
    return v && (v->type == ML_JSON_ARRAY || v->type == ML_JSON_OBJECT) ? v->count : 0;
}

const struct ml_json *ml_json_first(const struct ml_json *v) {
    return v ? v->first : NULL;
}

const struct ml_json *ml_json_next(const struct ml_json *child) {
    return child->next;
}

const char *ml_json_key(const struct ml_json *member, size_t *len) {
    if (len) *len = member->key_len;
    return member->key;
}

bool ml_json_bool(const struct ml_json *v, bool *out) {
    if (!v || v->type != ML_JSON_BOOL) return false;
    *out = v->truth;
    return true;
}

/* Digits only, after the sign. */
static bool is_integer(const struct ml_json *v) {
    return v && v->type == ML_JSON_NUMBER && strcmp(v->text, "-0") != 0 && !strpbrk(v->text, ".eENI");
}

bool ml_json_u64(const struct ml_json *v, uint64_t *out) {
    if (!is_integer(v) || v->text[0] == '-') return false;
    uint64_t value = 0;
    for (const char *s = v->text; *s; s++) {
        if (__builtin_mul_overflow(value, (uint64_t)10, &value)) return false;
        if (__builtin_add_overflow(value, (uint64_t)(*s - '0'), &value)) return false;
    }
    *out = value;
    return true;
}

bool ml_json_i64(const struct ml_json *v, int64_t *out) {
    if (!is_integer(v)) return false;
    int64_t value = 0;
    const bool negative = v->text[0] == '-';
    for (const char *s = v->text + negative; *s; s++) {
        const int64_t digit = negative ? -(int64_t)(*s - '0') : *s - '0';
        if (__builtin_mul_overflow(value, (int64_t)10, &value) ||
            __builtin_add_overflow(value, digit, &value))
            return false;
    }
    *out = value;
    return true;
}

bool ml_json_double(const struct ml_json *v, double *out) {
    if (!v || v->type != ML_JSON_NUMBER) return false;
    const double value = strtod(v->text, NULL);
    if (!isfinite(value)) return false;
    *out = value;
    return true;
}

const char *ml_json_string(const struct ml_json *v, size_t *len) {
    if (!v || v->type != ML_JSON_STRING) return NULL;
    if (!len && strlen(v->text) != v->count) return NULL;
    if (len) *len = v->count;
    return v->text;
}
