/* SPDX-License-Identifier: Apache-2.0
 *
 * Filters of lists. Those that are generators in jinja2 are read as far as somebody asks, and once.
 */
#include "chat/jinja_list.h"

#include <string.h>

static bool given(const struct ml_jval *v) {
    return v->type != ML_J_ABSENT && v->type != ML_J_NONE;
}

/* ---- attributes by path: "a.b.0" */

/* What is looked up in each element, and what is done with it. */
struct ml_jpick {
    struct ml_jval path; /* ML_J_ABSENT: the element itself; a string with dots, or an integer */
    struct ml_jval otherwise;
    bool fold;                  /* strings are compared without their case */
    const struct ml_jstr *name; /* of a filter or test */
    struct ml_jargs args;
    bool negated;
};

static bool whole_number(const char *s, size_t n, int64_t *i) {
    *i = 0;
    for (size_t k = 0; k < n; k++) {
        if (s[k] < '0' || s[k] > '9' || k > 17) return false;
        *i = *i * 10 + (s[k] - '0');
    }
    return n > 0;
}

static marlin_status step_path(struct ml_jrun *r, const struct ml_jval *key, const struct ml_jpick *p,
                               struct ml_jval *v) {
    struct ml_jval item;
    ML_J_CALL(r, ml_j_item(r, v, key, &item));
    *v = item.type == ML_J_UNDEF && given(&p->otherwise) ? p->otherwise : item;
    return MARLIN_OK;
}

static marlin_status follow(struct ml_jrun *r, const struct ml_jpick *p, const struct ml_jstr *path,
                            struct ml_jval *v) {
    for (size_t at = 0; at <= path->len;) {
        const char *s = path->text + at, *dot = memchr(s, '.', path->len - at);
        const size_t n = dot ? (size_t)(dot - s) : path->len - at;
        struct ml_jval key;
        int64_t i;
        if (whole_number(s, n, &i))
            key = ml_j_int(i);
        else
            ML_J_CALL(r, ml_j_str(r, s, n, &key));
        ML_J_CALL(r, step_path(r, &key, p, v));
        at += n + 1;
    }
    return MARLIN_OK;
}

static marlin_status fold_case(struct ml_jrun *r, struct ml_jval *v) {
    struct ml_buf b;
    if (v->type != ML_J_STR) return MARLIN_OK;
    ml_buf_init(&b, r->limits.max_output);
    marlin_status st = ml_j_buf(r, ml_j_put_case(&b, v->s->text, v->s->len, ML_J_LOWER));
    if (st == MARLIN_OK) st = ml_j_take(r, &b, v);
    ml_buf_free(&b);
    return st;
}

static marlin_status pick(struct ml_jrun *r, const struct ml_jpick *p, const struct ml_jval *from,
                          struct ml_jval *out) {
    *out = *from;
    if (p->path.type == ML_J_INT)
        ML_J_CALL(r, step_path(r, &p->path, p, out));
    else if (p->path.type == ML_J_STR)
        ML_J_CALL(r, follow(r, p, p->path.s, out));
    return p->fold ? fold_case(r, out) : MARLIN_OK;
}

static marlin_status set_path(struct ml_jrun *r, const struct ml_jval *v, struct ml_jpick *p) {
    if (!given(v)) return MARLIN_OK;
    p->path = *v;
    if (v->type == ML_J_STR || v->type == ML_J_INT) return MARLIN_OK;
    return ml_j_fail(r, MARLIN_ERR_FORMAT, "an attribute is a string or an integer, not %s", ml_j_type(v));
}

/* ---- generators */

static marlin_status generator(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jiter **it,
                               struct ml_jval *out) {
    ML_J_CALL(r, ml_j_alloc(r, 1, sizeof **it, (void **)it));
    ML_J_CALL(r, ml_j_alloc(r, 1, sizeof *(*it)->pick, (void **)&(*it)->pick));
    (*it)->what = c->f->name;
    (*it)->over = c->self;
    *out = (struct ml_jval){.type = ML_J_ITER, .it = *it};
    return MARLIN_OK;
}

/* The source is opened with the first element, and not at all when the value is empty. */
static marlin_status next_source(struct ml_jrun *r, struct ml_jiter *it, struct ml_jval *out, bool *more) {
    *more = false;
    if (!it->source) {
        if (!ml_j_truth(&it->over)) return MARLIN_OK;
        ML_J_CALL(r, ml_j_iterate(r, &it->over, &it->source));
    }
    return ml_j_next(r, it->source, out, more);
}

static marlin_status next_mapped(struct ml_jrun *r, struct ml_jiter *it, struct ml_jval *out, bool *more) {
    struct ml_jval item;
    ML_J_CALL(r, next_source(r, it, &item, more));
    if (!*more) return MARLIN_OK;
    if (it->pick->name) return r->filter(r, it->pick->name, &item, &it->pick->args, out);
    return pick(r, it->pick, &item, out);
}

static marlin_status map_attribute(struct ml_jrun *r, const struct ml_jargs *a, struct ml_jpick *p) {
    for (size_t i = 0; i < a->n_named; i++) {
        if (ml_j_is(a->names[i], "attribute"))
            ML_J_CALL(r, set_path(r, &a->named[i], p));
        else if (ml_j_is(a->names[i], "default"))
            p->otherwise = a->named[i];
        else
            return ml_j_fail(r, MARLIN_ERR_FORMAT, "map: argument %s is unknown", a->names[i]->text);
    }
    if (a->n_named == 0 || p->path.type == ML_J_ABSENT)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "map wants a filter's name or attribute=");
    return MARLIN_OK;
}

static marlin_status map(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_jiter *it;
    const struct ml_jargs *a = c->args;
    ML_J_CALL(r, generator(r, c, &it, out));
    it->next = next_mapped;
    if (a->n_pos == 0) return map_attribute(r, a, it->pick);
    if (a->pos[0].type != ML_J_STR)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "map: a filter's name is a string");
    it->pick->name = a->pos[0].s;
    it->pick->args = *a;
    it->pick->args.pos++;
    it->pick->args.n_pos--;
    return MARLIN_OK;
}

static marlin_status next_selected(struct ml_jrun *r, struct ml_jiter *it, struct ml_jval *out, bool *more) {
    for (;;) {
        struct ml_jval value;
        bool passes;
        ML_J_CALL(r, next_source(r, it, out, more));
        if (!*more) return MARLIN_OK;
        ML_J_CALL(r, pick(r, it->pick, out, &value));
        passes = ml_j_truth(&value);
        if (it->pick->name) ML_J_CALL(r, ml_j_test(r, it->pick->name, &value, &it->pick->args, &passes));
        if (passes != it->pick->negated) return MARLIN_OK;
    }
}

/* All four: select(test, ...) and selectattr(attribute, test, ...). */
static marlin_status choose(struct ml_jrun *r, const struct ml_jcall *c, bool attribute, bool negated,
                            struct ml_jval *out) {
    struct ml_jiter *it;
    ML_J_CALL(r, generator(r, c, &it, out));
    struct ml_jpick *p = it->pick;
    it->next = next_selected;
    p->negated = negated;
    p->args = *c->args;
    if (attribute) {
        if (p->args.n_pos == 0) return ml_j_fail(r, MARLIN_ERR_FORMAT, "%s wants an attribute", c->f->name);
        ML_J_CALL(r, set_path(r, &p->args.pos[0], p));
        p->args.pos++;
        p->args.n_pos--;
    }
    if (p->args.n_pos == 0) return MARLIN_OK;
    if (p->args.pos[0].type != ML_J_STR)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "%s: a test's name is a string", c->f->name);
    p->name = p->args.pos[0].s;
    p->args.pos++;
    p->args.n_pos--;
    return MARLIN_OK;
}

static marlin_status select_(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    return choose(r, c, false, false, out);
}

static marlin_status reject(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    return choose(r, c, false, true, out);
}

static marlin_status selectattr(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    return choose(r, c, true, false, out);
}

static marlin_status rejectattr(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    return choose(r, c, true, true, out);
}

static marlin_status next_unique(struct ml_jrun *r, struct ml_jiter *it, struct ml_jval *out, bool *more) {
    if (!it->source) ML_J_CALL(r, ml_j_iterate(r, &it->over, &it->source));
    for (;;) {
        struct ml_jval key;
        const struct ml_jval *seen;
        ML_J_CALL(r, ml_j_next(r, it->source, out, more));
        if (!*more) return MARLIN_OK;
        ML_J_CALL(r, pick(r, it->pick, out, &key));
        ML_J_CALL(r, ml_j_dict_find(r, it->seen, &key, &seen));
        if (!seen) return ml_j_dict_set(r, it->seen, &key, &key);
    }
}

static marlin_status unique(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_jiter *it;
    ML_J_CALL(r, generator(r, c, &it, out));
    ML_J_CALL(r, ml_j_dict(r, &it->seen));
    it->next = next_unique;
    it->pick->fold = !ml_j_truth(&c->slot[0]);
    return set_path(r, &c->slot[1], it->pick);
}

static marlin_status next_item(struct ml_jrun *r, struct ml_jiter *it, struct ml_jval *out, bool *more) {
    if (it->over.type == ML_J_UNDEF) {
        *more = false;
        return MARLIN_OK;
    }
    if (it->over.type != ML_J_DICT)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "items wants a mapping, not %s", ml_j_type(&it->over));
    const struct ml_jdict *m = it->over.m;
    *more = it->at < m->n;
    if (!*more) return MARLIN_OK;
    const size_t i = it->at++;
    return ml_j_pair(r, &m->key[i], &m->value[i], out);
}

static marlin_status items(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_jiter *it;
    ML_J_CALL(r, generator(r, c, &it, out));
    it->next = next_item;
    return MARLIN_OK;
}

static marlin_status next_reversed(struct ml_jrun *r, struct ml_jiter *it, struct ml_jval *out, bool *more) {
    (void)r;
    *more = it->at > 0;
    if (*more) *out = it->over.l->v[--it->at];
    return MARLIN_OK;
}

static marlin_status reverse_text(struct ml_jrun *r, const struct ml_jstr *s, struct ml_jval *out) {
    char *text;
    int32_t c;
    ML_J_CALL(r, ml_j_alloc(r, s->len + 1, 1, (void **)&text));
    for (size_t i = 0, k; i < s->len; i += k) {
        k = ml_j_decode(s->text + i, s->len - i, &c);
        memcpy(text + s->len - i - k, s->text + i, k);
    }
    return ml_j_str(r, text, s->len, out);
}

static marlin_status reverse(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_jiter *it;
    struct ml_jval all;
    if (c->self.type == ML_J_STR) return reverse_text(r, c->self.s, out);
    if (c->self.type == ML_J_ITER) {
        return ml_j_fail(r, MARLIN_ERR_UNSUPPORTED,
                         "reverse of a generator is not supported: put \"|list\" before it");
    }
    ML_J_CALL(r, ml_j_collect(r, &c->self, &all));
    ML_J_CALL(r, generator(r, c, &it, out));
    it->next = next_reversed;
    it->over = all;
    it->at = all.l->n;
    return MARLIN_OK;
}

/* ---- whole lists */

static marlin_status length(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    int64_t n;
    if (!ml_j_sized(&c->self, &n))
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "a %s has no length: is \"|list\" missing?",
                         ml_j_type(&c->self));
    *out = ml_j_int(n);
    return MARLIN_OK;
}

static marlin_status list(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    return ml_j_collect(r, &c->self, out);
}

static marlin_status first(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_jiter *it;
    bool more;
    ML_J_CALL(r, ml_j_iterate(r, &c->self, &it));
    ML_J_CALL(r, ml_j_next(r, it, out, &more));
    return more ? MARLIN_OK : ml_j_undefined(r, out, "there is no first item: the sequence was empty");
}

static marlin_status last(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_jval all;
    if (c->self.type == ML_J_ITER)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "a generator has no last item: put \"|list\" before it");
    ML_J_CALL(r, ml_j_collect(r, &c->self, &all));
    if (all.l->n == 0) return ml_j_undefined(r, out, "there is no last item: the sequence was empty");
    *out = all.l->v[all.l->n - 1];
    return MARLIN_OK;
}

static marlin_status put_joined(struct ml_jrun *r, struct ml_buf *b, const struct ml_jcall *c,
                                struct ml_jiter *it, const struct ml_jval *between) {
    struct ml_jpick p = {0};
    ML_J_CALL(r, set_path(r, &c->slot[1], &p));
    for (bool any = false;; any = true) {
        struct ml_jval item, value;
        bool more;
        ML_J_CALL(r, ml_j_next(r, it, &item, &more));
        if (!more) return MARLIN_OK;
        if (any) ML_J_CALL(r, ml_j_print(r, b, between));
        ML_J_CALL(r, pick(r, &p, &item, &value));
        ML_J_CALL(r, ml_j_print(r, b, &value));
    }
}

static marlin_status join(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_jval between;
    struct ml_jiter *it;
    struct ml_buf b;
    ML_J_CALL(r, ml_j_iterate(r, &c->self, &it));
    if (c->slot[0].type == ML_J_ABSENT)
        ML_J_CALL(r, ml_j_str(r, "", 0, &between));
    else
        ML_J_CALL(r, ml_j_text(r, &c->slot[0], &between));
    ml_buf_init(&b, r->limits.max_output);
    marlin_status st = put_joined(r, &b, c, it, &between);
    if (st == MARLIN_OK) st = ml_j_take(r, &b, out);
    ml_buf_free(&b);
    return st;
}

/* ---- order */

struct keyed {
    struct ml_jval key, value;
};

static marlin_status merge(struct ml_jrun *r, const struct keyed *from, struct keyed *to, size_t lo,
                           size_t mid, size_t hi, bool reverse_) {
    size_t i = lo, j = mid;
    for (size_t k = lo; k < hi; k++) {
        int order = 0;
        bool second = i >= mid;
        if (i < mid && j < hi) {
            /* Equal elements keep their order, reversed or not: only "<" is asked for, as Python does. */
            const struct keyed *a = reverse_ ? &from[i] : &from[j], *b = reverse_ ? &from[j] : &from[i];
            ML_J_CALL(r, ml_j_order(r, "<", &a->key, &b->key, &order));
            second = order == -1;
        }
        to[k] = second ? from[j++] : from[i++];
    }
    return MARLIN_OK;
}

static marlin_status sort_keyed(struct ml_jrun *r, struct keyed *v, size_t n, bool reverse_) {
    struct keyed *from = v, *to;
    ML_J_CALL(r, ml_j_alloc(r, n, sizeof *to, (void **)&to));
    for (size_t run = 1; run < n; run *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * run) {
            const size_t mid = lo + run < n ? lo + run : n, hi = mid + run < n ? mid + run : n;
            ML_J_CALL(r, merge(r, from, to, lo, mid, hi, reverse_));
        }
        struct keyed *swap = from;
        from = to;
        to = swap;
    }
    if (from != v && n) memcpy(v, from, n * sizeof *v);
    return MARLIN_OK;
}

/* "a,b": the key is a list of what each names, also of one. Lists compare what is undefined only as equal. */
static marlin_status pick_several(struct ml_jrun *r, const struct ml_jpick *p, const struct ml_jval *item,
                                  struct ml_jval *key) {
    const struct ml_jstr *all = p->path.s;
    ML_J_CALL(r, ml_j_list(r, ML_J_LIST, 2, key));
    for (size_t at = 0; at <= all->len;) {
        const char *s = all->text + at, *comma = memchr(s, ',', all->len - at);
        const size_t n = comma ? (size_t)(comma - s) : all->len - at;
        struct ml_jpick one = *p;
        struct ml_jval value;
        ML_J_CALL(r, ml_j_str(r, s, n, &one.path));
        ML_J_CALL(r, pick(r, &one, item, &value));
        ML_J_CALL(r, ml_j_add(r, key->l, &value));
        at += n + 1;
    }
    return MARLIN_OK;
}

static marlin_status key_of(struct ml_jrun *r, const struct ml_jpick *p, const struct ml_jval *item,
                            bool listed, struct ml_jval *key) {
    struct ml_jval value;
    if (listed && p->path.type == ML_J_STR) return pick_several(r, p, item, key);
    ML_J_CALL(r, pick(r, p, item, &value));
    *key = value;
    if (!listed) return MARLIN_OK;
    ML_J_CALL(r, ml_j_list(r, ML_J_LIST, 1, key));
    return ml_j_add(r, key->l, &value);
}

static marlin_status keys_of(struct ml_jrun *r, const struct ml_jval *all, const struct ml_jpick *p,
                             bool listed, struct keyed **out) {
    ML_J_CALL(r, ml_j_alloc(r, all->l->n, sizeof **out, (void **)out));
    for (size_t i = 0; i < all->l->n; i++) {
        (*out)[i].value = all->l->v[i];
        ML_J_CALL(r, key_of(r, p, &all->l->v[i], listed, &(*out)[i].key));
    }
    return MARLIN_OK;
}

static marlin_status sorted(struct ml_jrun *r, const struct ml_jval *all, const struct ml_jpick *p,
                            bool listed, bool reverse_, struct ml_jval *out) {
    struct keyed *k;
    ML_J_CALL(r, keys_of(r, all, p, listed, &k));
    ML_J_CALL(r, sort_keyed(r, k, all->l->n, reverse_));
    ML_J_CALL(r, ml_j_list(r, ML_J_LIST, all->l->n, out));
    for (size_t i = 0; i < all->l->n; i++)
        out->l->v[i] = k[i].value;
    out->l->n = all->l->n;
    return MARLIN_OK;
}

static marlin_status sort(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_jpick p = {.fold = !ml_j_truth(&c->slot[1])};
    struct ml_jval all;
    ML_J_CALL(r, set_path(r, &c->slot[2], &p));
    ML_J_CALL(r, ml_j_collect(r, &c->self, &all));
    return sorted(r, &all, &p, true, ml_j_truth(&c->slot[0]), out);
}

static marlin_status dictsort(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    const struct ml_jval *by = &c->slot[1];
    struct ml_jpick p = {.path = ml_j_int(0), .fold = !ml_j_truth(&c->slot[0])};
    struct ml_jval all, pair;
    if (by->type == ML_J_STR && ml_j_is(by->s, "value"))
        p.path = ml_j_int(1);
    else if (by->type != ML_J_ABSENT && (by->type != ML_J_STR || !ml_j_is(by->s, "key")))
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "dictsort: by is \"key\" or \"value\"");
    if (c->self.type == ML_J_UNDEF) return ml_j_use_undefined(r, &c->self);
    if (c->self.type != ML_J_DICT)
        return ml_j_fail(r, MARLIN_ERR_FORMAT, "dictsort wants a dict, not %s", ml_j_type(&c->self));
    const struct ml_jdict *m = c->self.m;
    ML_J_CALL(r, ml_j_list(r, ML_J_LIST, m->n, &all));
    for (size_t i = 0; i < m->n; i++) {
        ML_J_CALL(r, ml_j_pair(r, &m->key[i], &m->value[i], &pair));
        ML_J_CALL(r, ml_j_add(r, all.l, &pair));
    }
    return sorted(r, &all, &p, false, ml_j_truth(&c->slot[2]), out);
}

static marlin_status extreme(struct ml_jrun *r, const struct ml_jcall *c, int wanted, struct ml_jval *out) {
    struct ml_jpick p = {.fold = !ml_j_truth(&c->slot[0])};
    struct ml_jval all;
    struct keyed *k;
    size_t best = 0;
    ML_J_CALL(r, set_path(r, &c->slot[1], &p));
    ML_J_CALL(r, ml_j_collect(r, &c->self, &all));
    if (all.l->n == 0) return ml_j_undefined(r, out, "there is no %s: the sequence was empty", c->f->name);
    ML_J_CALL(r, keys_of(r, &all, &p, false, &k));
    for (size_t i = 1; i < all.l->n; i++) {
        int order;
        ML_J_CALL(r, ml_j_order(r, wanted < 0 ? "<" : ">", &k[i].key, &k[best].key, &order));
        if (order == wanted) best = i;
    }
    *out = k[best].value;
    return MARLIN_OK;
}

static marlin_status min(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    return extreme(r, c, -1, out);
}

static marlin_status max(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    return extreme(r, c, 1, out);
}

static marlin_status sum(struct ml_jrun *r, const struct ml_jcall *c, struct ml_jval *out) {
    struct ml_jpick p = {0};
    struct ml_jiter *it;
    struct ml_jval total = c->slot[1].type == ML_J_ABSENT ? ml_j_int(0) : c->slot[1];
    if (total.type == ML_J_STR) return ml_j_fail(r, MARLIN_ERR_FORMAT, "sum does not add strings: use join");
    ML_J_CALL(r, set_path(r, &c->slot[0], &p));
    ML_J_CALL(r, ml_j_iterate(r, &c->self, &it));
    for (;;) {
        struct ml_jval item, value;
        bool more;
        ML_J_CALL(r, ml_j_next(r, it, &item, &more));
        if (!more) break;
        ML_J_CALL(r, pick(r, &p, &item, &value));
        ML_J_CALL(r, ml_j_binary(r, '+', &total, &value, &total));
    }
    *out = total;
    return MARLIN_OK;
}

const struct ml_jfunction ml_j_list_filters[] = {
    {"count", length, "", 0},
    {"dictsort", dictsort, "case_sensitive by reverse", 0},
    {"first", first, "", 0},
    {"items", items, "", 0},
    {"join", join, "d attribute", 0},
    {"last", last, "", 0},
    {"length", length, "", 0},
    {"list", list, "", 0},
    {"map", map, NULL, 0},
    {"max", max, "case_sensitive attribute", 0},
    {"min", min, "case_sensitive attribute", 0},
    {"reject", reject, NULL, 0},
    {"rejectattr", rejectattr, NULL, 0},
    {"reverse", reverse, "", 0},
    {"select", select_, NULL, 0},
    {"selectattr", selectattr, NULL, 0},
    {"sort", sort, "reverse case_sensitive attribute", 0},
    {"sum", sum, "attribute start", 0},
    {"unique", unique, "case_sensitive attribute", 0},
    {NULL, NULL, NULL, 0},
};
