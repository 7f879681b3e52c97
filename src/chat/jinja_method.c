/* SPDX-License-Identifier: Apache-2.0
 *
 * Methods of strings, dicts, lists and loops. Those that would change a value do not exist in the sandbox.
 */
#include "chat/jinja_int.h"

#include <string.h>

static bool given(const struct ml_jval *v) {
    return v->type != ML_J_ABSENT && v->type != ML_J_NONE;
}

static marlin_status want_text(struct ml_jrun *r, const struct ml_jcall *c, int slot,
                               const struct ml_jstr **s) {
    const struct ml_jval *v = &c->slot[slot];
    if (v->type == ML_J_STR) {
        *s = v->s;
        return MARLIN_OK;
    }
    return ml_j_fail(r, MARLIN_ERR_FORMAT, "%s wants a string, not %s", c->f->name, ml_j_type(v));
}

static marlin_status want_int(struct ml_jrun *r, const struct ml_jcall *c, int slot, int64_t *i) {
    if (c->slot[slot].type == ML_J_ABSENT || ml_j_integer(&c->slot[slot], i)) return MARLIN_OK;
    return ml_j_fail(r, MARLIN_ERR_FORMAT, "%s wants an integer, not %s", c->f->name,
                     ml_j_type(&c->slot[slot]));
}

static marlin_status finish(struct ml_jrun *r, struct ml_buf *b, marlin_status st, struct ml_jval *out) {
    st = ml_j_buf(r, st);
    if (st == MARLIN_OK) st = ml_j_take(r, b, out);
    ml_buf_free(b);
    return st;
}

/* ---- strings */

static marlin_status strip(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const int sides = c->f->name[0] == 'l' ? 1 : c->f->name[0] == 'r' ? 2 : 3;
    const struct ml_jstr *chars = NULL;
    if (given(&c->slot[0])) ML_J_CALL(r, want_text(r, c, 0, &chars));
    const char *s = c->self.s->text;
    size_t n = c->self.s->len;
    ml_j_strip(&s, &n, chars, sides);
    return ml_j_str(r, s, n, out);
}

static marlin_status change_case(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_buf b;
    ml_buf_init(&b, r->limits.max_output);
    const enum ml_jcase how = c->f->name[0] == 'u' ? ML_J_UPPER : ML_J_LOWER;
    return finish(r, &b, ml_j_put_case(&b, c->self.s->text, c->self.s->len, how), out);
}

/* capitalize: the first letter of the text; title: of each run of letters that have a case. */
static marlin_status put_title(struct ml_buf *b, const struct ml_jstr *s, bool every) {
    bool inside = false;
    int32_t c;
    for (size_t i = 0, k; i < s->len; i += k) {
        k = ml_j_decode(s->text + i, s->len - i, &c);
        ML_J_CALL(b, ml_j_put_case(b, s->text + i, k, inside ? ML_J_LOWER : ML_J_TITLE));
        inside = !every || ml_j_cased(c) != ML_J_UNCASED;
    }
    return MARLIN_OK;
}

static marlin_status title(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_buf b;
    ml_buf_init(&b, r->limits.max_output);
    return finish(r, &b, put_title(&b, c->self.s, c->f->name[0] == 't'), out);
}

/* The part of a string between two counts of code points, as in s.find(x, start, end). */
static marlin_status window(struct ml_jrun *r, const struct ml_jcall *c, int slot, const char **s, size_t *n,
                            int64_t *start, bool *valid) {
    const struct ml_jstr *t = c->self.s;
    int64_t end = (int64_t)t->chars, chars = end;
    *start = 0;
    if (given(&c->slot[slot])) ML_J_CALL(r, want_int(r, c, slot, start));
    if (given(&c->slot[slot + 1])) ML_J_CALL(r, want_int(r, c, slot + 1, &end));
    if (*start < 0) *start = *start < -chars ? 0 : *start + chars;
    if (end < 0) end = end < -chars ? 0 : end + chars;
    if (end > chars) end = chars;
    *valid = *start <= end && *start <= chars;
    if (!*valid) return MARLIN_OK;
    const size_t from = ml_j_offset(t, (size_t)*start), to = ml_j_offset(t, (size_t)end);
    *s = t->text + from;
    *n = to - from;
    return ml_j_steps(r, t->len / 256);
}

static bool affix(const char *s, size_t n, const struct ml_jstr *x, bool at_end) {
    return x->len <= n && memcmp(at_end ? s + n - x->len : s, x->text, x->len) == 0;
}

static marlin_status starts_or_ends(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jval *x = &c->slot[0];
    const bool at_end = c->f->name[0] == 'e';
    const char *s = NULL;
    size_t n = 0;
    int64_t start;
    bool is = false, valid;
    ML_J_CALL(r, window(r, c, 1, &s, &n, &start, &valid));
    if (x->type == ML_J_TUPLE) {
        for (size_t i = 0; i < x->l->n && !is; i++) {
            if (x->l->v[i].type != ML_J_STR)
                return ml_j_fail(r, MARLIN_ERR_FORMAT, "%s wants strings in its tuple", c->f->name);
            is = valid && affix(s, n, x->l->v[i].s, at_end);
        }
    } else {
        const struct ml_jstr *t;
        ML_J_CALL(r, want_text(r, c, 0, &t));
        is = valid && affix(s, n, t, at_end);
    }
    *out = ml_j_bool(is);
    return MARLIN_OK;
}

/* Bytes before the first or last place of x, -1 when there is none. */
static int64_t search(const char *s, size_t n, const struct ml_jstr *x, bool from_right) {
    if (!from_right) {
        const char *at = memmem(s, n, x->text, x->len);
        return at ? at - s : -1;
    }
    for (size_t i = n - x->len + 1; x->len <= n && i-- > 0;)
        if (memcmp(s + i, x->text, x->len) == 0) return (int64_t)i;
    return -1;
}

static marlin_status find(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jstr *x;
    const char *s = NULL;
    size_t n = 0;
    int64_t start, at = -1;
    bool valid;
    const bool from_right = c->f->name[0] == 'r', must = strchr(c->f->name, 'x') != NULL;
    ML_J_CALL(r, want_text(r, c, 0, &x));
    ML_J_CALL(r, window(r, c, 1, &s, &n, &start, &valid));
    if (from_right) ML_J_CALL(r, ml_j_steps(r, n / 16 + (n >> 10) * x->len / 16));
    if (valid) at = search(s, n, x, from_right);
    if (at >= 0) at = start + (int64_t)ml_j_chars(s, (size_t)at);
    if (at < 0 && must)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "index: the text does not hold what is looked for");
    *out = ml_j_int(at);
    return MARLIN_OK;
}

static marlin_status count(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jstr *x;
    const char *s = NULL, *at;
    size_t n = 0;
    int64_t start, found = 0;
    bool valid;
    ML_J_CALL(r, want_text(r, c, 0, &x));
    ML_J_CALL(r, window(r, c, 1, &s, &n, &start, &valid));
    if (valid && x->len == 0) found = (int64_t)ml_j_chars(s, n) + 1;
    while (valid && x->len && (at = memmem(s, n, x->text, x->len))) {
        found++;
        n -= (size_t)(at - s) + x->len;
        s = at + x->len;
    }
    *out = ml_j_int(found);
    return MARLIN_OK;
}

/* Between all code points where `from` is empty. */
static marlin_status put_replaced(struct ml_buf *b, const struct ml_jstr *s, const struct ml_jstr *from,
                                  const struct ml_jstr *to, int64_t most) {
    const char *p = s->text, *end = s->text + s->len;
    int32_t c;
    for (; most != 0; most--) {
        const char *at = from->len ? memmem(p, (size_t)(end - p), from->text, from->len) : p;
        if (!at) break;
        ML_J_CALL(b, ml_buf_add(b, p, (size_t)(at - p)));
        ML_J_CALL(b, ml_buf_add(b, to->text, to->len));
        p = at + from->len;
        if (from->len) continue;
        if (p >= end) break;
        const size_t k = ml_j_decode(p, (size_t)(end - p), &c);
        ML_J_CALL(b, ml_buf_add(b, p, k));
        p += k;
    }
    return ml_buf_add(b, p, (size_t)(end - p));
}

static marlin_status replace(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jstr *from, *to;
    struct ml_buf b;
    int64_t most = -1;
    ML_J_CALL(r, want_text(r, c, 0, &from));
    ML_J_CALL(r, want_text(r, c, 1, &to));
    ML_J_CALL(r, want_int(r, c, 2, &most));
    ml_buf_init(&b, r->limits.max_output);
    return finish(r, &b, put_replaced(&b, c->self.s, from, to, most), out);
}

static marlin_status add_piece(struct ml_jrun *r, struct ml_jlist *l, const char *s, size_t n) {
    struct ml_jval piece;
    ML_J_CALL(r, ml_j_step(r));
    ML_J_CALL(r, ml_j_str(r, s, n, &piece));
    return ml_j_add(r, l, &piece);
}

static marlin_status split_space(struct ml_jrun *r, const char *s, size_t n, int64_t most,
                                 struct ml_jlist *l) {
    for (;; most--) {
        size_t k = 0;
        int32_t c;
        ml_j_strip(&s, &n, NULL, 1);
        if (n == 0) return MARLIN_OK;
        if (most == 0) {
            return add_piece(r, l, s, n);
        }
        while (k < n) {
            const size_t w = ml_j_decode(s + k, n - k, &c);
            if (ml_j_space(c)) break;
            k += w;
        }
        ML_J_CALL(r, add_piece(r, l, s, k));
        s += k;
        n -= k;
    }
}

static marlin_status split_text(struct ml_jrun *r, const char *s, size_t n, const struct ml_jstr *x,
                                int64_t most, struct ml_jlist *l) {
    for (const char *at; most != 0 && (at = memmem(s, n, x->text, x->len)); most--) {
        ML_J_CALL(r, add_piece(r, l, s, (size_t)(at - s)));
        n -= (size_t)(at - s) + x->len;
        s = at + x->len;
    }
    return add_piece(r, l, s, n);
}

/* From the right; the pieces come out in reverse. */
static marlin_status split_right(struct ml_jrun *r, const char *s, size_t n, const struct ml_jstr *x,
                                 int64_t most, struct ml_jlist *l) {
    for (int64_t at; most != 0 && (at = search(s, n, x, true)) >= 0; most--) {
        const size_t from = (size_t)at + x->len;
        ML_J_CALL(r, ml_j_steps(r, (n - from) / 16));
        ML_J_CALL(r, add_piece(r, l, s + from, n - from));
        n = (size_t)at;
    }
    ML_J_CALL(r, add_piece(r, l, s, n));
    for (size_t i = 0, j = l->n - 1; i < j; i++, j--) {
        const struct ml_jval swap = l->v[i];
        l->v[i] = l->v[j];
        l->v[j] = swap;
    }
    return MARLIN_OK;
}

static marlin_status split(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jstr *x = NULL, *s = c->self.s;
    int64_t most = -1;
    const bool from_right = c->f->name[0] == 'r';
    if (given(&c->slot[0])) ML_J_CALL(r, want_text(r, c, 0, &x));
    ML_J_CALL(r, want_int(r, c, 1, &most));
    if (x && x->len == 0) return ml_j_fail(r, MARLIN_ERR_FORMAT, "split: the separator is empty");
    if (!x && from_right && most >= 0)
        return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "rsplit at white space is not supported with a count");
    ML_J_CALL(r, ml_j_list(r, ML_J_LIST, 4, out));
    if (!x) return split_space(r, s->text, s->len, most, out->l);
    return from_right ? split_right(r, s->text, s->len, x, most, out->l)
                      : split_text(r, s->text, s->len, x, most, out->l);
}

static marlin_status splitlines(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jstr *s = c->self.s;
    const bool keep = ml_j_truth(&c->slot[0]);
    size_t at = 0, from, to;
    ML_J_CALL(r, ml_j_list(r, ML_J_LIST, 4, out));
    while (ml_j_line(s->text, s->len, &at, &from, &to))
        ML_J_CALL(r, add_piece(r, out->l, s->text + from, (keep ? at : to) - from));
    return MARLIN_OK;
}

static marlin_status partition(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jstr *x, *s = c->self.s;
    const bool from_right = c->f->name[0] == 'r';
    ML_J_CALL(r, want_text(r, c, 0, &x));
    if (x->len == 0) return ml_j_fail(r, MARLIN_ERR_FORMAT, "partition: the separator is empty");
    if (from_right) ML_J_CALL(r, ml_j_steps(r, s->len / 16));
    const int64_t at = search(s->text, s->len, x, from_right);
    ML_J_CALL(r, ml_j_list(r, ML_J_TUPLE, 3, out));
    const size_t left = at >= 0 ? (size_t)at : from_right ? 0 : s->len;
    const size_t right = at >= 0 ? left + x->len : left;
    ML_J_CALL(r, add_piece(r, out->l, s->text, left));
    ML_J_CALL(r, add_piece(r, out->l, s->text + left, right - left));
    return add_piece(r, out->l, s->text + right, s->len - right);
}

static marlin_status remove_affix(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jstr *x, *s = c->self.s;
    const bool at_end = strcmp(c->f->name, "removesuffix") == 0;
    ML_J_CALL(r, want_text(r, c, 0, &x));
    const size_t cut = affix(s->text, s->len, x, at_end) ? x->len : 0;
    return ml_j_str(r, s->text + (at_end ? 0 : cut), s->len - cut, out);
}

static marlin_status join(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_jiter *it;
    struct ml_buf b;
    marlin_status st = ml_j_iterate(r, &c->slot[0], &it);
    if (st != MARLIN_OK) return st;
    ml_buf_init(&b, r->limits.max_output);
    for (bool any = false, more = true; st == MARLIN_OK; any = true) {
        struct ml_jval item;
        st = ml_j_next(r, it, &item, &more);
        if (st != MARLIN_OK || !more) break;
        if (item.type != ML_J_STR)
            st = ml_j_fail(r, MARLIN_ERR_FORMAT, "join wants strings, not %s", ml_j_type(&item));
        if (st == MARLIN_OK && any) st = ml_j_print(r, &b, &c->self);
        if (st == MARLIN_OK) st = ml_j_print(r, &b, &item);
    }
    if (st == MARLIN_OK) st = ml_j_take(r, &b, out);
    ml_buf_free(&b);
    return st;
}

static marlin_status format(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    return ml_j_braces(r, c->self.s, c->args, out);
}

static bool all_class(const struct ml_jstr *s, const char *name) {
    int32_t c;
    for (size_t i = 0; i < s->len;) {
        bool is;
        i += ml_j_decode(s->text + i, s->len - i, &c);
        if (strcmp(name, "isspace") == 0)
            is = ml_j_space(c);
        else if (strcmp(name, "isalpha") == 0)
            is = ml_j_class(c, ML_J_ALPHA);
        else if (strcmp(name, "isalnum") == 0)
            is = ml_j_class(c, ML_J_ALPHA) || ml_j_class(c, ML_J_NUMERIC);
        else if (strcmp(name, "isnumeric") == 0)
            is = ml_j_class(c, ML_J_NUMERIC);
        else
            is = ml_j_class(c, ML_J_DECIMAL);
        if (!is) return false;
    }
    return s->len > 0;
}

static marlin_status classify(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    (void)r;
    *out = ml_j_bool(all_class(c->self.s, c->f->name));
    return MARLIN_OK;
}

static marlin_status cased(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jstr name = {.text = c->f->name + 2, .len = 5};
    const struct ml_jargs none = {0};
    bool is;
    ML_J_CALL(r, ml_j_test(r, &name, &c->self, &none, &is));
    *out = ml_j_bool(is);
    return MARLIN_OK;
}

static marlin_status missing(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    (void)out;
    return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED, "%s of a %s is not supported", c->f->name,
                     ml_j_type(&c->self));
}

/* ---- dicts, lists, loops */

static marlin_status view(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jdict *m = c->self.m;
    const char which = c->f->name[0];
    ML_J_CALL(r, ml_j_list(r, ML_J_VIEW, m->n, out));
    out->l->view = which == 'i' ? "dict_items" : which == 'k' ? "dict_keys" : "dict_values";
    for (size_t i = 0; i < m->n; i++) {
        struct ml_jval item = which == 'k' ? m->key[i] : m->value[i];
        if (which == 'i') ML_J_CALL(r, ml_j_pair(r, &m->key[i], &m->value[i], &item));
        ML_J_CALL(r, ml_j_add(r, out->l, &item));
    }
    return ml_j_steps(r, m->n / 16);
}

static marlin_status get(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jval *value;
    if (c->args->n_named) return ml_j_fail(r, MARLIN_ERR_FORMAT, "get takes no argument by name");
    ML_J_CALL(r, ml_j_dict_find(r, c->self.m, &c->slot[0], &value));
    *out = value ? *value : c->slot[1].type == ML_J_ABSENT ? ml_j_none() : c->slot[1];
    return MARLIN_OK;
}

static marlin_status copy(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    (void)r;
    *out = c->self; /* nothing can change it */
    return MARLIN_OK;
}

static marlin_status list_index(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    int64_t found = 0;
    const bool counting = c->f->name[0] == 'c';
    for (size_t i = 0; i < c->self.l->n; i++) {
        bool same;
        ML_J_CALL(r, ml_j_equal(r, &c->self.l->v[i], &c->slot[0], &same));
        if (same && !counting) {
            *out = ml_j_int((int64_t)i);
            return MARLIN_OK;
        }
        found += same;
    }
    if (!counting) return ml_j_fail(r, MARLIN_ERR_FORMAT, "index: the list does not hold what is looked for");
    *out = ml_j_int(found);
    return MARLIN_OK;
}

static marlin_status cycle(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jargs *a = c->args;
    if (a->n_pos == 0 || a->n_named)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "loop.cycle wants values to cycle through");
    *out = a->pos[(size_t)c->self.loop->index0 % a->n_pos];
    return MARLIN_OK;
}

static marlin_status changed(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_jval now;
    bool same = false;
    ML_J_CALL(r, ml_j_list(r, ML_J_TUPLE, c->args->n_pos, &now));
    for (size_t i = 0; i < c->args->n_pos; i++)
        ML_J_CALL(r, ml_j_add(r, now.l, &c->args->pos[i]));
    ML_J_CALL(r, ml_j_equal(r, &c->self.loop->changed, &now, &same));
    c->self.loop->changed = now;
    *out = ml_j_bool(!same);
    return MARLIN_OK;
}

static const struct ml_jfunction of_strings[] = {
    {"capitalize", title, "", 0},
    {"count", count, "sub start end", 1},
    {"endswith", starts_or_ends, "suffix start end", 1},
    {"find", find, "sub start end", 1},
    {"format", format, NULL, 0},
    {"index", find, "sub start end", 1},
    {"isalnum", classify, "", 0},
    {"isalpha", classify, "", 0},
    {"isdecimal", classify, "", 0},
    {"islower", cased, "", 0},
    {"isnumeric", classify, "", 0},
    {"isspace", classify, "", 0},
    {"isupper", cased, "", 0},
    {"join", join, "iterable", 1},
    {"lower", change_case, "", 0},
    {"lstrip", strip, "chars", 0},
    {"partition", partition, "sep", 1},
    {"removeprefix", remove_affix, "prefix", 1},
    {"removesuffix", remove_affix, "suffix", 1},
    {"replace", replace, "old new count", 2},
    {"rfind", find, "sub start end", 1},
    {"rindex", find, "sub start end", 1},
    {"rpartition", partition, "sep", 1},
    {"rsplit", split, "sep maxsplit", 0},
    {"rstrip", strip, "chars", 0},
    {"split", split, "sep maxsplit", 0},
    {"splitlines", splitlines, "keepends", 0},
    {"startswith", starts_or_ends, "prefix start end", 1},
    {"strip", strip, "chars", 0},
    {"title", title, "", 0},
    {"upper", change_case, "", 0},
    {"casefold", missing, NULL, 0},
    {"center", missing, NULL, 0},
    {"encode", missing, NULL, 0},
    {"expandtabs", missing, NULL, 0},
    {"format_map", missing, NULL, 0},
    {"isascii", missing, NULL, 0},
    {"isdigit", missing, NULL, 0},
    {"isidentifier", missing, NULL, 0},
    {"isprintable", missing, NULL, 0},
    {"istitle", missing, NULL, 0},
    {"ljust", missing, NULL, 0},
    {"maketrans", missing, NULL, 0},
    {"rjust", missing, NULL, 0},
    {"swapcase", missing, NULL, 0},
    {"translate", missing, NULL, 0},
    {"zfill", missing, NULL, 0},
    {NULL, NULL, NULL, 0},
};

static const struct ml_jfunction of_dicts[] = {
    {"copy", copy, "", 0},  {"fromkeys", missing, NULL, 0}, {"get", get, "key default", 1},
    {"items", view, "", 0}, {"keys", view, "", 0},          {"values", view, "", 0},
    {NULL, NULL, NULL, 0},
};

static const struct ml_jfunction of_lists[] = {
    {"copy", copy, "", 0},
    {"count", list_index, "value", 1},
    {"index", list_index, "value", 1},
    {NULL, NULL, NULL, 0},
};

static const struct ml_jfunction of_loops[] = {
    {"changed", changed, NULL, 0},
    {"cycle", cycle, NULL, 0},
    {NULL, NULL, NULL, 0},
};

const struct ml_jfunction *ml_j_method(const struct ml_jval *v, const struct ml_jstr *name) {
    switch (v->type) {
    case ML_J_STR:
        return ml_j_find(of_strings, name);
    case ML_J_DICT:
        return ml_j_find(of_dicts, name);
    case ML_J_LIST:
        return ml_j_find(of_lists, name);
    case ML_J_TUPLE:
        return ml_j_find(of_lists + 1, name);
    case ML_J_LOOP:
        return ml_j_find(of_loops, name);
    default:
        return NULL;
    }
}
