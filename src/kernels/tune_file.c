/* SPDX-License-Identifier: Apache-2.0
 *
 * The file that keeps what was measured on this machine.
 */
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "kernels/tune.h"
#include "marlin/version.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    VERSION = 1, /* of the fields; also to be raised when kernels change so much that old times mislead */
    MOST_BYTES = 1 << 16,
    PATH = 4096,
    FIGURES = 4 /* of a kind: one, more, fixed, row */
};

static const float MOST_NS = 1e9f;

struct ml_machine ml_machine_here(int threads) {
    return (struct ml_machine){.cpu = *ml_cpu(), .threads = threads};
}

/* ---- the machine ---- */

static marlin_status add_features(const struct ml_cpu *c, struct ml_buf *b) {
    const char *separator = "";
    marlin_status st = MARLIN_OK;
    for (int i = 0; i < ML_CPU_FEATURES; i++) {
        if (!ml_cpu_has(c, i)) continue;
        ML_TRY(ml_buf_addf(b, "%s\"%s\"", separator, ml_cpu_feature_name(i)));
        separator = ",";
    }
out:
    return st;
}

marlin_status ml_machine_json(const struct ml_machine *m, struct ml_buf *b) {
    const struct ml_cpu *c = &m->cpu;
    marlin_status st;
    ML_TRY(ml_buf_adds(b, "{\"name\":"));
    ML_TRY(ml_buf_add_json(b, c->name, strlen(c->name)));
    ML_TRY(ml_buf_addf(b, ",\"tier\":\"%s\",\"features\":[", ml_cpu_tier_name(c->tier)));
    ML_TRY(add_features(c, b));
    ML_TRY(ml_buf_addf(b, "],\"l1d\":%zu,\"l2\":%zu,\"l3\":%zu}", c->l1d, c->l2, c->l3));
out:
    return st;
}

static bool same_text(const struct ml_json *v, const char *want) {
    size_t len;
    const char *s = ml_json_string(v, &len);
    return s && len == strlen(want) && memcmp(s, want, len) == 0;
}

static bool same_size(const struct ml_json *v, size_t want) {
    uint64_t n;
    return ml_json_u64(v, &n) && n == want;
}

static bool has_feature(const struct ml_json *list, const char *name) {
    for (const struct ml_json *v = ml_json_first(list); v; v = ml_json_next(v))
        if (same_text(v, name)) return true;
    return false;
}

static bool same_features(const struct ml_json *list, const struct ml_cpu *c) {
    if (!list || ml_json_type(list) != ML_JSON_ARRAY) return false;
    for (int i = 0; i < ML_CPU_FEATURES; i++)
        if (has_feature(list, ml_cpu_feature_name(i)) != ml_cpu_has(c, i)) return false;
    return true;
}

static bool same_machine(const struct ml_json *v, const struct ml_cpu *c) {
    return same_text(ml_json_get(v, "name"), c->name) &&
           same_text(ml_json_get(v, "tier"), ml_cpu_tier_name(c->tier)) &&
           same_features(ml_json_get(v, "features"), c) && same_size(ml_json_get(v, "l1d"), c->l1d) &&
           same_size(ml_json_get(v, "l2"), c->l2) && same_size(ml_json_get(v, "l3"), c->l3);
}

/* ---- the text ---- */

marlin_status ml_tune_write(const struct ml_selection *s, struct ml_buf *b) {
    marlin_status st;
    ML_TRY(ml_buf_addf(b, "{\"version\":%d,\"program\":\"%s\",\n\"machine\":", VERSION, MARLIN_VERSION));
    ML_TRY(ml_machine_json(&s->machine, b));
    ML_TRY(ml_buf_addf(b, ",\n\"threads\":%d,\n\"cost\":{", s->machine.threads));
    for (int k = 0; k < ML_KINDS; k++) {
        const struct ml_cost *c = &s->cost[k];
        ML_TRY(ml_buf_addf(b, "%s\n\"%s\":[%.9g,%.9g,%.9g,%.9g]", k ? "," : "", ml_kind_name(k),
                           (double)c->one, (double)c->more, (double)c->fixed, (double)c->row));
    }
    ML_TRY(ml_buf_adds(b, "}}\n"));
out:
    return st;
}

/* The figures of one kind: numbers that times can be. */
static marlin_status parse_cost(const struct ml_json *v, int kind, struct ml_cost *c,
                                struct marlin_error *err) {
    float *const to[FIGURES] = {&c->one, &c->more, &c->fixed, &c->row};
    if (!v || ml_json_type(v) != ML_JSON_ARRAY || ml_json_count(v) != FIGURES)
        return ml_fail(err, MARLIN_ERR_FORMAT, "cost of %s: not %d numbers", ml_kind_name(kind), FIGURES);
    int i = 0;
    for (const struct ml_json *n = ml_json_first(v); n; n = ml_json_next(n), i++) {
        double d;
        if (!ml_json_double(n, &d) || !(d >= 0 && d <= (double)MOST_NS) || (i == 0 && d == 0))
            return ml_fail(err, MARLIN_ERR_FORMAT, "cost of %s: number %d is no time", ml_kind_name(kind),
                           i + 1);
        *to[i] = (float)d;
    }
    return MARLIN_OK;
}

static marlin_status parse_root(const struct ml_json *root, struct ml_selection *s,
                                struct marlin_error *err) {
    uint64_t version;
    marlin_status st = MARLIN_OK;
    if (!ml_json_u64(ml_json_get(root, "version"), &version))
        return ml_fail(err, MARLIN_ERR_FORMAT, "no version");
    if (version != VERSION || !same_text(ml_json_get(root, "program"), MARLIN_VERSION))
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "of another version of the program");
    if (!same_machine(ml_json_get(root, "machine"), &s->machine.cpu))
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "of another machine");
    struct ml_selection read = *s;
    const struct ml_json *cost = ml_json_get(root, "cost");
    for (int k = 0; k < ML_KINDS; k++)
        ML_TRY(parse_cost(ml_json_get(cost, ml_kind_name(k)), k, &read.cost[k], err));
    *s = read;
    s->measured = true;
out:
    return st;
}

marlin_status ml_tune_parse(const char *text, size_t len, struct ml_selection *s, struct marlin_error *err) {
    const struct ml_json_limits limits = {.max_bytes = MOST_BYTES, .max_depth = 8, .max_values = 1024};
    struct ml_json_doc *doc = NULL;
    marlin_status st;
    ML_TRY(ml_json_parse(text, len, &limits, &doc, err));
    st = parse_root(ml_json_root(doc), s, err);
out:
    ml_json_free(doc);
    return st;
}

/* ---- the place ---- */

static uint64_t hash(const char *p, size_t n) { /* FNV-1a */
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)p[i]) * 0x100000001b3u;
    return h;
}

/* The folder, as far as the environment tells. XDG: a relative path counts as none. */
static marlin_status folder(char *path, size_t cap, struct marlin_error *err) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n;
    if (cache && cache[0] == '/')
        n = snprintf(path, cap, "%s/marlin", cache);
    else if (home && home[0] == '/')
        n = snprintf(path, cap, "%s/.cache/marlin", home);
    else
        return ml_fail(err, MARLIN_ERR_NOT_FOUND,
                       "no place for measured kernels: neither XDG_CACHE_HOME nor HOME is an absolute path");
    if (n < 0 || (size_t)n >= cap)
        return ml_fail(err, MARLIN_ERR_LIMIT, "the path of measured kernels is too long");
    return MARLIN_OK;
}

/* Of what same_machine compares. */
static uint64_t fingerprint(const struct ml_cpu *c) {
    char text[256];
    unsigned features = 0;
    for (int i = 0; i < ML_CPU_FEATURES; i++)
        features |= (unsigned)ml_cpu_has(c, i) << i;
    const int n = snprintf(text, sizeof text, "%s|%d|%x|%zu|%zu|%zu", c->name, (int)c->tier, features, c->l1d,
                           c->l2, c->l3);
    return hash(text, (size_t)n);
}

marlin_status ml_tune_path(const struct ml_machine *m, char *path, size_t cap, struct marlin_error *err) {
    char dir[PATH], name[64];
    marlin_status st;
    ML_TRY(folder(dir, sizeof dir, err));
    (void)snprintf(name, sizeof name, "kernels-%s-%016llx.json", ml_cpu_tier_name(m->cpu.tier),
                   (unsigned long long)fingerprint(&m->cpu));
    st = ml_path_join(path, cap, dir, name, err);
out:
    return st;
}

/* Makes the folder of a file, and those above it that are missing. */
static marlin_status make_folders(const char *path, struct marlin_error *err) {
    char dir[PATH];
    if ((size_t)snprintf(dir, sizeof dir, "%s", path) >= sizeof dir)
        return ml_fail(err, MARLIN_ERR_LIMIT, "path too long: %.200s", path);
    for (char *p = dir + 1; *p; p++) {
        if (*p != '/') continue;
        *p = '\0';
        if (mkdir(dir, 0700) != 0 && errno != EEXIST)
            return ml_fail(err, MARLIN_ERR_IO, "%s: cannot make this folder: %s", dir, strerror(errno));
        *p = '/';
    }
    return MARLIN_OK;
}

marlin_status ml_tune_save(const struct ml_selection *s, struct marlin_error *err) {
    char path[PATH];
    struct ml_buf b;
    marlin_status st;
    ml_buf_init(&b, MOST_BYTES);
    ML_TRY(ml_tune_path(&s->machine, path, sizeof path, err));
    ML_TRY(make_folders(path, err));
    st = ml_tune_write(s, &b);
    if (st != MARLIN_OK) {
        st = ml_fail(err, st, "%s: no memory for its text", path);
        goto out;
    }
    st = ml_file_write_atomic(path, b.data, b.len, err);
out:
    ml_buf_free(&b);
    return st;
}

void ml_tune_load(struct ml_selection *s) {
    char path[PATH], *text = NULL;
    size_t len;
    struct marlin_error err = {0};
    if (ml_tune_path(&s->machine, path, sizeof path, &err) != MARLIN_OK)
        return; /* nothing was saved either */
    marlin_status st = ml_file_slurp(path, MOST_BYTES, &text, &len, &err);
    if (st == MARLIN_ERR_NOT_FOUND) return;
    if (st == MARLIN_OK) {
        st = ml_tune_parse(text, len, s, &err);
        if (st != MARLIN_OK) st = ml_fail_in(&err, st, "%s", path);
    }
    if (st != MARLIN_OK)
        ml_log(ML_LOG_WARN, "measured kernels are not used: %s: 'marlin kernels --tune' writes them anew",
               err.text);
    ml_free(text);
}

static struct ml_selection chosen;
static pthread_once_t made = PTHREAD_ONCE_INIT;

static void make(void) {
    const struct ml_machine here = ml_machine_here(ml_cpu()->cores);
    ml_selection_default(&chosen, &here);
    ml_tune_load(&chosen);
}

const struct ml_selection *ml_selection(void) {
    pthread_once(&made, make);
    return &chosen;
}
