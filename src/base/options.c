/* SPDX-License-Identifier: Apache-2.0
 *
 * Parsing of one verb's command line by its option table. Written by hand because getopt_long accepts
 * prefixes of names, which would turn every new option into a break of somebody's script.
 */
#include "base/options.h"

#include "base/arena.h"
#include "base/mem.h"
#include "base/nearest.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct value {
    const struct ml_option *option;
    bool given, flag;
    int64_t integer;
    double real;
    const char *text;
};

struct repeat {
    const struct ml_option *option;
    const char *text;
};

struct ml_args {
    struct ml_arena arena;
    struct value *values;
    size_t n_values;
    struct repeat *repeats; /* in order of the command line, room for argc */
    size_t n_repeats;
    const char **positional; /* room for argc */
    int n_positional;
    int dashes; /* positionals before "--" */
};

/* Where parsing is. */
struct cursor {
    const struct ml_verb *verb;
    struct ml_args *args;
    int argc, next;
    char **argv;
    bool stop; /* --help: what follows does not matter */
    struct marlin_error *err;
};

static size_t count_options(const struct ml_option *o) {
    size_t n = 0;
    for (; o && o[n].name; n++) {
    }
    return n;
}

static marlin_status bad_value(struct cursor *c, const struct ml_option *o, const char *text,
                               const char *wanted) {
    if (o->least < o->most)
        return ml_fail(c->err, MARLIN_ERR_ARGUMENT, "%s: --%s: '%.80s' is not %s from %.12g to %.12g",
                       c->verb->name, o->name, text, wanted, o->least, o->most);
    return ml_fail(c->err, MARLIN_ERR_ARGUMENT, "%s: --%s: '%.80s' is not %s", c->verb->name, o->name, text,
                   wanted);
}

static marlin_status check_range(struct cursor *c, const struct ml_option *o, const char *text, double v) {
    if (o->least >= o->most || (v >= o->least && v <= o->most)) return MARLIN_OK;
    return ml_fail(c->err, MARLIN_ERR_ARGUMENT, "%s: --%s: '%.80s' is outside %.12g to %.12g", c->verb->name,
                   o->name, text, o->least, o->most);
}

static marlin_status set_int(struct cursor *c, struct value *v, const char *text) {
    char *end = NULL;
    errno = 0;
    const long long n = strtoll(text, &end, 10);
    const bool starts = *text == '-' || (*text >= '0' && *text <= '9');
    if (!starts || end == text || *end || errno) return bad_value(c, v->option, text, "a whole number");
    v->integer = n;
    v->real = (double)n;
    return check_range(c, v->option, text, v->real);
}

static marlin_status set_float(struct cursor *c, struct value *v, const char *text) {
    char *end = NULL;
    const double x = strtod(text, &end);
    if (end == text || *end || !isfinite(x) || strchr(" \t\n\v\f\r", *text))
        return bad_value(c, v->option, text, "a number");
    v->real = x;
    return check_range(c, v->option, text, x);
}

/* Looks for text among "a|b|c". */
static bool is_choice(const char *choices, const char *text) {
    const size_t len = strlen(text);
    for (const char *p = choices; *p;) {
        const size_t n = strcspn(p, "|");
        if (n == len && memcmp(p, text, n) == 0) return true;
        p += n + (p[n] == '|');
    }
    return false;
}

static marlin_status set_choice(struct cursor *c, struct value *v, const char *text) {
    if (is_choice(v->option->arg, text)) return MARLIN_OK;
    return ml_fail(c->err, MARLIN_ERR_ARGUMENT, "%s: --%s: '%.80s' is not one of %s", c->verb->name,
                   v->option->name, text, v->option->arg);
}

static marlin_status set_value(struct cursor *c, struct value *v, const char *text) {
    v->text = text;
    switch (v->option->type) {
    case ML_OPT_INT:
        return set_int(c, v, text);
    case ML_OPT_FLOAT:
        return set_float(c, v, text);
    case ML_OPT_CHOICE:
        return set_choice(c, v, text);
    case ML_OPT_REPEAT:
        c->args->repeats[c->args->n_repeats++] = (struct repeat){v->option, text};
        return MARLIN_OK;
    case ML_OPT_FLAG:
    case ML_OPT_STRING:
        break;
    }
    return MARLIN_OK;
}

static struct value *find_long(const struct ml_args *a, const char *name, size_t len) {
    for (size_t i = 0; i < a->n_values; i++) {
        const char *known = a->values[i].option->name;
        if (strlen(known) == len && memcmp(known, name, len) == 0) return &a->values[i];
    }
    return NULL;
}

static struct value *find_letter(const struct ml_args *a, char letter) {
    for (size_t i = 0; i < a->n_values; i++) {
        if (a->values[i].option->letter == letter) return &a->values[i];
    }
    return NULL;
}

/* attached: the text behind '=' or the letter, or NULL when the value is the next argument. */
static marlin_status take(struct cursor *c, struct value *v, const char *attached) {
    v->given = true;
    if (v->option->type == ML_OPT_FLAG) {
        v->flag = true;
        if (strcmp(v->option->name, "help") == 0) c->stop = true;
        if (!attached) return MARLIN_OK;
        return ml_fail(c->err, MARLIN_ERR_ARGUMENT, "%s: --%s takes no value", c->verb->name,
                       v->option->name);
    }
    if (!attached) {
        if (c->next >= c->argc)
            return ml_fail(c->err, MARLIN_ERR_ARGUMENT, "%s: --%s needs a value: %s", c->verb->name,
                           v->option->name, v->option->arg ? v->option->arg : "VALUE");
        attached = c->argv[c->next++];
    }
    return set_value(c, v, attached);
}

static marlin_status unknown(struct cursor *c, const char *arg) {
    struct ml_nearest near;
    ml_nearest_begin(&near, arg + 2, arg[1] == '-' ? strcspn(arg + 2, "=") : 0);
    for (size_t i = 0; i < c->args->n_values; i++)
        ml_nearest_offer(&near, c->args->values[i].option->name);
    if (near.best)
        return ml_fail(c->err, MARLIN_ERR_ARGUMENT, "%s: unknown option '%.80s': did you mean --%s?",
                       c->verb->name, arg, near.best);
    return ml_fail(c->err, MARLIN_ERR_ARGUMENT,
                   "%s: unknown option '%.80s': 'marlin help %s' lists the options", c->verb->name, arg,
                   c->verb->name);
}

static marlin_status parse_long(struct cursor *c, const char *arg) {
    const char *name = arg + 2;
    const size_t len = strcspn(name, "=");
    struct value *v = find_long(c->args, name, len);
    if (!v) return unknown(c, arg);
    return take(c, v, name[len] == '=' ? name + len + 1 : NULL);
}

/* "-n5", "-n 5", "-v", and flags together: "-vq". */
static marlin_status parse_letters(struct cursor *c, const char *arg) {
    for (const char *p = arg + 1; *p; p++) {
        struct value *v = find_letter(c->args, *p);
        if (!v) return unknown(c, arg);
        const bool number = v->option->type == ML_OPT_INT || v->option->type == ML_OPT_FLOAT;
        if (v->option->type != ML_OPT_FLAG) return take(c, v, p[1] ? p + 1 + (number && p[1] == '=') : NULL);
        marlin_status st = take(c, v, NULL);
        if (st != MARLIN_OK || c->stop) return st;
    }
    return MARLIN_OK;
}

static bool is_positional(const char *arg) {
    return arg[0] != '-' || arg[1] == '\0' || (arg[1] >= '0' && arg[1] <= '9') || arg[1] == '.';
}

static marlin_status parse_all(struct cursor *c) {
    bool only_positional = false;
    while (c->next < c->argc && !c->stop) {
        const char *arg = c->argv[c->next++];
        marlin_status st = MARLIN_OK;
        if (only_positional || is_positional(arg))
            c->args->positional[c->args->n_positional++] = arg;
        else if (strcmp(arg, "--") == 0)
            only_positional = true, c->args->dashes = c->args->n_positional;
        else if (arg[1] == '-')
            st = parse_long(c, arg);
        else
            st = parse_letters(c, arg);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static marlin_status check_count(struct cursor *c) {
    const struct ml_verb *v = c->verb;
    const int n = c->args->n_positional;
    if (n < v->min_args)
        return ml_fail(c->err, MARLIN_ERR_ARGUMENT, "%s: too few arguments: %s %s", v->name, v->name,
                       v->args ? v->args : "");
    if (v->max_args >= 0 && n > v->max_args && v->surplus)
        return ml_fail(c->err, MARLIN_ERR_ARGUMENT, "%s: unexpected argument '%.80s': %s", v->name,
                       c->args->positional[v->max_args], v->surplus);
    if (v->max_args >= 0 && n > v->max_args)
        return ml_fail(c->err, MARLIN_ERR_ARGUMENT, "%s: unexpected argument '%.80s': %s %s", v->name,
                       c->args->positional[v->max_args], v->name, v->args ? v->args : "");
    return MARLIN_OK;
}

/* Every option with its default, the verb's own first: they may hide a common one. */
static marlin_status set_defaults(struct cursor *c, const struct ml_option *common) {
    struct ml_args *a = c->args;
    const size_t own = count_options(c->verb->options), shared = count_options(common);
    a->values = ml_arena_array(&a->arena, own + shared + 1, sizeof *a->values);
    a->repeats = ml_arena_array(&a->arena, (size_t)c->argc + 1, sizeof *a->repeats);
    a->positional = ml_arena_array(&a->arena, (size_t)c->argc + 1, sizeof *a->positional);
    if (!a->values || !a->repeats || !a->positional)
        return ml_fail(c->err, MARLIN_ERR_MEMORY, "%s: out of memory for the arguments", c->verb->name);
    for (size_t i = 0; i < own + shared; i++) {
        struct value *v = &a->values[a->n_values++];
        v->option = i < own ? &c->verb->options[i] : &common[i - own];
        if (!v->option->initial || v->option->type == ML_OPT_REPEAT) continue;
        marlin_status st = set_value(c, v, v->option->initial);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

marlin_status ml_args_parse(const struct ml_verb *verb, const struct ml_option *common, int argc, char **argv,
                            struct ml_args **out, struct marlin_error *err) {
    marlin_status st = MARLIN_OK;
    struct ml_args *a = ml_calloc(1, sizeof *a);
    if (!a) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory for the arguments", verb->name);
    a->dashes = INT_MAX;
    ml_arena_init(&a->arena, 0);
    struct cursor c = {.verb = verb, .args = a, .argc = argc, .next = 1, .argv = argv, .err = err};
    ML_TRY(set_defaults(&c, common));
    ML_TRY(parse_all(&c));
    if (!c.stop) ML_TRY(check_count(&c));
    *out = a;
    a = NULL;
out:
    ml_args_free(a);
    return st;
}

void ml_args_free(struct ml_args *a) {
    if (!a) return;
    ml_arena_free(&a->arena);
    ml_free(a);
}

static const struct value *get(const struct ml_args *a, const char *name) {
    return find_long(a, name, strlen(name));
}

bool ml_args_given(const struct ml_args *a, const char *name) {
    const struct value *v = get(a, name);
    return v && v->given;
}

bool ml_args_flag(const struct ml_args *a, const char *name) {
    const struct value *v = get(a, name);
    return v && v->flag;
}

int64_t ml_args_int(const struct ml_args *a, const char *name) {
    const struct value *v = get(a, name);
    return v ? v->integer : 0;
}

double ml_args_float(const struct ml_args *a, const char *name) {
    const struct value *v = get(a, name);
    return v ? v->real : 0;
}

const char *ml_args_string(const struct ml_args *a, const char *name) {
    const struct value *v = get(a, name);
    return v ? v->text : NULL;
}

size_t ml_args_repeat_count(const struct ml_args *a, const char *name) {
    const struct value *v = get(a, name);
    size_t n = 0;
    for (size_t i = 0; v && i < a->n_repeats; i++) {
        n += a->repeats[i].option == v->option;
    }
    return n;
}

const char *ml_args_repeat(const struct ml_args *a, const char *name, size_t index) {
    const struct value *v = get(a, name);
    for (size_t i = 0; v && i < a->n_repeats; i++) {
        if (a->repeats[i].option == v->option && index-- == 0) return a->repeats[i].text;
    }
    return NULL;
}

int ml_args_count(const struct ml_args *a) {
    return a->n_positional;
}

const char *ml_args_at(const struct ml_args *a, int i) {
    return i >= 0 && i < a->n_positional ? a->positional[i] : NULL;
}

bool ml_args_after_dashes(const struct ml_args *a, int i) {
    return i >= a->dashes && i < a->n_positional;
}
