/* SPDX-License-Identifier: Apache-2.0
 *
 * Hashing of files and the manifest that lists them.
 */
#include "converters/checksums.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

marlin_status ml_checksum_file(const char *dir, const char *name, char hex[17], struct marlin_error *err) {
    char path[PATH_MAX];
    struct ml_file *f = NULL;
    marlin_status st = MARLIN_OK;
    ML_TRY(ml_path_join(path, sizeof path, dir, name, err));
    ML_TRY(ml_file_open(path, &f, err));
    const uint64_t hash = XXH3_64bits(ml_file_data(f), (size_t)ml_file_size(f));
    ML_TRY(ml_file_check(f, err));
    (void)snprintf(hex, 17, "%016" PRIx64, hash);
out:
    ml_file_close(f);
    return st;
}

bool ml_checksum_belongs(const char *name) {
    const size_t len = strlen(name);
    static const char *const endings[] = {".safetensors", ".json", ".model", ".jinja"};
    if (name[0] == '.' || strcmp(name, ML_CHECKSUMS_NAME) == 0) return false;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const size_t n = strlen(endings[i]);
        if (len > n && strcmp(name + len - n, endings[i]) == 0) return true;
    }
    return false;
}

/* Names of a directory, sorted, so that equal directories have equal manifests. */
struct names {
    char **name;
    size_t n, cap;
};

static marlin_status add_name(struct names *l, const char *name) {
    if (l->n == l->cap) {
        const size_t cap = l->cap ? 2 * l->cap : 16;
        char **grown = ml_realloc(l->name, cap * sizeof *grown);
        if (!grown) return MARLIN_ERR_MEMORY;
        l->name = grown;
        l->cap = cap;
    }
    l->name[l->n] = ml_strdup(name);
    if (!l->name[l->n]) return MARLIN_ERR_MEMORY;
    l->n++;
    return MARLIN_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static marlin_status list(const char *dir, struct names *l, struct marlin_error *err) {
    DIR *d = opendir(dir);
    if (!d) return ml_fail(err, MARLIN_ERR_IO, "%s: cannot be listed: %s", dir, strerror(errno));
    marlin_status st = MARLIN_OK;
    for (const struct dirent *e; st == MARLIN_OK && (e = readdir(d));) {
        if (ml_checksum_belongs(e->d_name)) st = add_name(l, e->d_name);
    }
    (void)closedir(d);
    if (st != MARLIN_OK) return ml_fail(err, st, "%s: out of memory", dir);
    if (l->n) qsort(l->name, l->n, sizeof *l->name, by_name);
    return MARLIN_OK;
}

static void free_names(struct names *l) {
    for (size_t i = 0; i < l->n; i++) {
        ml_free(l->name[i]);
    }
    ml_free(l->name);
}

static marlin_status write_list(const char *dir, const struct names *l, struct ml_buf *b,
                                struct marlin_error *err) {
    char hex[17];
    marlin_status st;
    ML_TRY(ml_buf_adds(b, "{\n  \"algorithm\": \"xxh3-64\",\n  \"files\": {"));
    for (size_t i = 0; i < l->n; i++) {
        ML_TRY(ml_checksum_file(dir, l->name[i], hex, err));
        ML_TRY(ml_buf_adds(b, i ? ",\n    " : "\n    "));
        ML_TRY(ml_buf_add_json(b, l->name[i], strlen(l->name[i])));
        ML_TRY(ml_buf_addf(b, ": \"%s\"", hex));
    }
    ML_TRY(ml_buf_adds(b, "\n  }\n}\n"));
out:
    return st;
}

marlin_status ml_checksums_write(const char *dir, struct marlin_error *err) {
    char path[PATH_MAX];
    struct names names = {0};
    struct ml_buf b;
    marlin_status st;
    ml_buf_init(&b, ML_CHECKSUMS_LIMIT);
    ML_TRY(ml_path_join(path, sizeof path, dir, ML_CHECKSUMS_NAME, err));
    ML_TRY(list(dir, &names, err));
    ML_TRY(write_list(dir, &names, &b, err));
    ML_TRY(ml_file_write_atomic(path, b.data, b.len, err));
out:
    ml_buf_free(&b);
    free_names(&names);
    return st;
}
