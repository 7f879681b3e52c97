/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening: one file, or every file of a split model, which say how many they are and where each stands.
 */
#include "base/mem.h"
#include "converters/gguf_int.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char split_no[] = "split.no", split_count[] = "split.count",
                  split_tensors[] = "split.tensors.count";

static bool begins_as_gguf(const char *path) {
    char magic[4] = "";
    FILE *f = fopen(path, "rb");
    if (!f) return false;
    const bool whole = fread(magic, 1, sizeof magic, f) == sizeof magic;
    (void)fclose(f);
    return whole && memcmp(magic, "GGUF", 4) == 0;
}

bool ml_gguf_is(const char *path) {
    static const char ending[] = ".gguf";
    const size_t len = strlen(path), n = sizeof ending - 1;
    struct stat info;
    const bool there = stat(path, &info) == 0;
    if (there && S_ISDIR(info.st_mode)) return false;
    if (len > n && strcmp(path + len - n, ending) == 0) return true;
    return there && S_ISREG(info.st_mode) && begins_as_gguf(path);
}

const char *ml_gguf_path(const struct ml_gguf *g) {
    return g->path;
}

/* ---- one file ---- */

/* Twice: the first look, at the mapping, finds the end of the header; the second is at a copy, which nobody can
 * write to while values point into it. */
static marlin_status read_header(struct ml_gguf *g, size_t i, struct marlin_error *err) {
    const struct ml_file *f = g->files[i];
    const char *path = ml_file_path(f);
    const uint64_t size = ml_file_size(f), seen = size < ML_GGUF_MAX_HEADER ? size : ML_GGUF_MAX_HEADER;
    struct ml_gguf_header first;
    marlin_status st;
    ML_TRY(ml_gguf_parse(ml_file_data(f), seen, size, path, &first, err));
    const uint64_t len = first.data_start < seen ? first.data_start : seen;
    ml_gguf_header_free(&first);
    if (!(g->bytes[i] = ml_alloc((size_t)len)))
        return ml_fail(err, MARLIN_ERR_MEMORY, "%s: no memory for a header of %llu bytes", path,
                       (unsigned long long)len);
    ML_TRY(ml_file_read(f, 0, g->bytes[i], (size_t)len, err));
    ML_TRY(ml_gguf_parse(g->bytes[i], len, size, path, &g->headers[i], err));
    for (size_t t = 0; t < g->headers[i].n_tensors; t++)
        g->headers[i].tensors[t].file = g->files[i];
    st = ml_file_check(f, err);
out:
    return st;
}

static marlin_status reserve(struct ml_gguf *g, size_t n, struct marlin_error *err) {
    g->files = ml_calloc(n, sizeof(struct ml_file *));
    g->headers = ml_calloc(n, sizeof *g->headers);
    g->bytes = ml_calloc(n, sizeof(uint8_t *));
    return g->files && g->headers && g->bytes ? MARLIN_OK
                                              : ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", g->path);
}

static marlin_status add_file(struct ml_gguf *g, const char *path, struct marlin_error *err) {
    const size_t i = g->n_files;
    const marlin_status st = ml_file_open(path, &g->files[i], err);
    if (st != MARLIN_OK) return st;
    g->n_files++;
    return read_header(g, i, err);
}

/* ---- split models ---- */

/* A value of the last file; `absent` when it has none. */
static marlin_status last_int(const struct ml_gguf *g, const char *key, int64_t absent, int64_t *out,
                              struct marlin_error *err) {
    const struct ml_gguf_header *h = &g->headers[g->n_files - 1];
    uint64_t index;
    *out = absent;
    if (!ml_map_get(&h->keys, key, strlen(key), &index)) return MARLIN_OK;
    return ml_gguf_int(g, &h->values[index], 0, out, err);
}

/* What stands in a name before "-00001-of-00003.gguf"; false when it is none. */
static bool split_prefix(const char *path, int64_t no, int64_t count, char prefix[PATH_MAX]) {
    char end[48];
    const int n = snprintf(end, sizeof end, "-%05lld-of-%05lld.gguf", (long long)no + 1, (long long)count);
    const size_t len = strlen(path);
    if (n < 0 || len < (size_t)n || len - (size_t)n >= PATH_MAX || strcmp(path + len - (size_t)n, end) != 0)
        return false;
    (void)snprintf(prefix, PATH_MAX, "%.*s", (int)(len - (size_t)n), path);
    return true;
}

static marlin_status check_place(const struct ml_gguf *g, int64_t no, int64_t count,
                                 struct marlin_error *err) {
    int64_t own_no = 0, own_count = 0;
    marlin_status st;
    ML_TRY(last_int(g, split_no, -1, &own_no, err));
    ML_TRY(last_int(g, split_count, -1, &own_count, err));
    if (own_no != no || own_count != count)
        st = ml_fail(err, MARLIN_ERR_FORMAT,
                     "%s: says that it is file %lld of %lld, its name says %lld of %lld",
                     ml_file_path(g->files[g->n_files - 1]), (long long)own_no + 1, (long long)own_count,
                     (long long)no + 1, (long long)count);
out:
    return st;
}

static marlin_status check_total(const struct ml_gguf *g, struct marlin_error *err) {
    const struct ml_gguf_value *v = ml_gguf_find(g, split_tensors);
    struct ml_map seen;
    bool fresh = true;
    uint64_t sum = 0;
    int64_t wanted = 0;
    marlin_status st = MARLIN_OK;
    ml_map_init(&seen);
    for (size_t f = 0; f < g->n_files; f++) {
        for (size_t i = 0; i < g->headers[f].n_tensors; i++) {
            const char *name = g->headers[f].tensors[i].name;
            if (ml_map_put(&seen, name, strlen(name), 0, &fresh) != MARLIN_OK)
                ML_TRY(ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", g->path));
            if (!fresh)
                ML_TRY(ml_fail(err, MARLIN_ERR_FORMAT, "%s: tensor \"%.120s\" is in another file too",
                               ml_file_path(g->files[f]), name));
        }
        sum += g->headers[f].n_tensors;
    }
    if (v) ML_TRY(ml_gguf_int(g, v, 0, &wanted, err));
    if (v && (uint64_t)wanted != sum)
        st = ml_fail(err, MARLIN_ERR_FORMAT, "%s: says that all files have %lld tensors, they have %llu",
                     g->path, (long long)wanted, (unsigned long long)sum);
out:
    ml_map_free(&seen);
    return st;
}

static void drop_files(struct ml_gguf *g) {
    for (size_t i = 0; i < g->n_files; i++) {
        ml_gguf_header_free(&g->headers[i]);
        ml_file_close(g->files[i]);
        ml_free(g->bytes[i]);
    }
    ml_free((void *)g->files);
    ml_free(g->headers);
    ml_free((void *)g->bytes);
    g->files = NULL;
    g->headers = NULL;
    g->bytes = NULL;
    g->n_files = 0;
}

static marlin_status open_split(struct ml_gguf *g, int64_t no, int64_t count, struct marlin_error *err) {
    char prefix[PATH_MAX], path[PATH_MAX + 48];
    marlin_status st;
    if (no < 0 || no >= count || count > ML_GGUF_MAX_FILES || !split_prefix(g->path, no, count, prefix))
        return ml_fail(err, MARLIN_ERR_FORMAT,
                       "%s: is file %lld of %lld of a split model, and its name does not end with "
                       "-%05lld-of-%05lld.gguf: the other files are found by that name",
                       g->path, (long long)no + 1, (long long)count, (long long)no + 1, (long long)count);
    drop_files(g);
    ML_TRY(reserve(g, (size_t)count, err));
    for (int64_t i = 0; i < count; i++) {
        (void)snprintf(path, sizeof path, "%s-%05lld-of-%05lld.gguf", prefix, (long long)i + 1,
                       (long long)count);
        ML_TRY(add_file(g, path, err));
        ML_TRY(check_place(g, i, count, err));
    }
    st = check_total(g, err);
out:
    return st;
}

/* ---- its life ---- */

static marlin_status open_all(struct ml_gguf *g, struct marlin_error *err) {
    int64_t count = 1, no = 0;
    marlin_status st;
    ML_TRY(reserve(g, 1, err));
    ML_TRY(add_file(g, g->path, err));
    ML_TRY(last_int(g, split_count, 1, &count, err));
    ML_TRY(last_int(g, split_no, 0, &no, err));
    if (count > 1) st = open_split(g, no, count, err);
out:
    return st;
}

marlin_status ml_gguf_open(const char *path, struct ml_gguf **out, struct marlin_error *err) {
    struct ml_gguf *g = ml_calloc(1, sizeof *g);
    if (g) g->path = ml_strdup(path);
    marlin_status st =
        g && g->path ? open_all(g, err) : ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", path);
    if (st == MARLIN_OK)
        *out = g;
    else
        ml_gguf_close(g);
    return st;
}

void ml_gguf_close(struct ml_gguf *g) {
    if (!g) return;
    drop_files(g);
    ml_free(g->path);
    ml_free(g);
}
