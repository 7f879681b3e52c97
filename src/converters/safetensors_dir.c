/* SPDX-License-Identifier: Apache-2.0
 *
 * A model directory: model.safetensors, an index that names the shards, or every safetensors file in it. Rule R11:
 * names in an index are plain file names of this directory. Which of them a tensor is in, the files say; where two
 * have it, the index decides.
 */
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "converters/gguf.h"
#include "converters/model_look.h"
#include "converters/safetensors_int.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char index_name[] = "model.safetensors.index.json";
static const char single_name[] = "model.safetensors";

struct names {
    char **name;
    size_t n, cap;
};

static void free_names(struct names *l) {
    for (size_t i = 0; i < l->n; i++) {
        ml_free(l->name[i]);
    }
    ml_free(l->name);
}

static marlin_status add_name(struct names *l, const char *name, struct marlin_error *err) {
    if (l->n == ML_SAFETENSORS_MAX_FILES)
        return ml_fail(err, MARLIN_ERR_LIMIT, "more than %d safetensors files in one directory",
                       ML_SAFETENSORS_MAX_FILES);
    if (l->n == l->cap) {
        const size_t cap = l->cap ? l->cap * 2 : 8;
        char **grown = ml_realloc(l->name, cap * sizeof *grown);
        if (!grown) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", name);
        l->name = grown;
        l->cap = cap;
    }
    if (!(l->name[l->n] = ml_strdup(name))) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", name);
    l->n++;
    return MARLIN_OK;
}

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static bool plain_name(const char *name) {
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    return name[0] != '\0' && name[0] != '.' && strspn(name, allowed) == strlen(name) &&
           ends_with(name, ".safetensors");
}

/* Links are the user's own file system and are followed, wherever they lead. One that leads nowhere is named with its
 * target. */
static marlin_status check_link(const char *path, struct marlin_error *err) {
    struct stat info;
    char target[PATH_MAX];
    if (stat(path, &info) == 0) return MARLIN_OK;
    const int why = errno;
    const ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 0) return ml_fail(err, MARLIN_ERR_NOT_FOUND, "%s: cannot open: %s", path, strerror(why));
    target[n] = '\0';
    return ml_fail(err, MARLIN_ERR_IO, "%s: cannot follow the link to %s: %s", path, target, strerror(why));
}

static marlin_status read_shard(struct ml_tensors *t, const char *dir, const char *name,
                                struct marlin_error *err) {
    char path[PATH_MAX];
    marlin_status st = ml_path_join(path, sizeof path, dir, name, err);
    if (st == MARLIN_OK) st = check_link(path, err);
    return st == MARLIN_OK ? ml_tensors_read_file(t, path, err) : st;
}

/* Not: results kept beside a model, and the second copy of the weights that Mistral ships in a naming of its
 * own. */
static bool part_of_model(const char *name) {
    return name[0] != '.' && ends_with(name, ".safetensors") && strncmp(name, "reference", 9) != 0 &&
           strncmp(name, "consolidated", 12) != 0;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static marlin_status list_dir(const char *dir, struct names *names, struct marlin_error *err) {
    DIR *d = opendir(dir);
    if (!d)
        return ml_fail(err, errno == ENOENT ? MARLIN_ERR_NOT_FOUND : MARLIN_ERR_IO, "%s: %s", dir,
                       strerror(errno));
    marlin_status st = MARLIN_OK;
    for (const struct dirent *e;
         st == MARLIN_OK && (e = readdir(d));) { /* NOLINT(concurrency-mt-unsafe): own stream */
        if (part_of_model(e->d_name)) st = add_name(names, e->d_name, err);
    }
    (void)closedir(d);
    if (st == MARLIN_OK && names->n == 0) {
        char other[512];
        ml_model_other_weights(dir, other, sizeof other);
        st = ml_fail(err, MARLIN_ERR_NOT_FOUND, "%s: no .safetensors file in this directory%s", dir, other);
    }
    if (names->n) qsort(names->name, names->n, sizeof *names->name, compare_names);
    return st;
}

/* Opens each shard that the weight map names, once. */
static marlin_status open_mapped(struct ml_tensors *t, const char *dir, const char *index,
                                 const struct ml_json *map, struct marlin_error *err) {
    struct ml_map seen;
    marlin_status st = MARLIN_OK;
    ml_map_init(&seen);
    for (const struct ml_json *m = ml_json_first(map); m; m = ml_json_next(m)) {
        const char *shard = ml_json_string(m, NULL);
        bool fresh;
        if (!shard || !plain_name(shard)) {
            st = ml_fail(err, MARLIN_ERR_FORMAT,
                         "%s: shard of \"%.80s\" is not a plain .safetensors file name: \"%.80s\"", index,
                         ml_json_key(m, NULL), shard ? shard : ml_json_type_name(m));
            goto out;
        }
        if (ml_map_put(&seen, shard, strlen(shard), 0, &fresh) != MARLIN_OK) {
            st = ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", index);
            goto out;
        }
        if (fresh) ML_TRY(read_shard(t, dir, shard, err));
    }
out:
    ml_map_free(&seen);
    return st;
}

/* An index may name what no shard has: buffers that were dropped when it was written. A tensor that the model needs is
 * missed when it is asked for. */
static void warn_of_absent(const struct ml_tensors *t, const char *index, const struct ml_json *map) {
    size_t absent = 0;
    const char *first = "";
    for (const struct ml_json *m = ml_json_first(map); m; m = ml_json_next(m)) {
        size_t len;
        const char *name = ml_json_key(m, &len);
        if (strlen(name) == len && ml_tensors_find(t, name)) continue;
        if (absent++ == 0) first = name;
    }
    if (absent)
        ml_log(ML_LOG_WARN, "%s: %zu tensors are in none of the files, the first is \"%.120s\"", index,
               absent, first);
}

static marlin_status open_index(struct ml_tensors *t, const char *dir, const char *index,
                                struct marlin_error *err) {
    char *text = NULL;
    size_t len;
    struct ml_json_doc *doc = NULL;
    marlin_status st;
    const struct ml_json_limits limits = {.max_depth = 4};
    ML_TRY(ml_file_slurp(index, ML_SAFETENSORS_MAX_HEADER, &text, &len, err));
    st = ml_json_parse(text, len, &limits, &doc, err);
    if (st != MARLIN_OK) {
        st = ml_fail_in(err, st, "%s", index);
        goto out;
    }
    const struct ml_json *map = ml_json_get(ml_json_root(doc), "weight_map");
    if (ml_json_count(map) == 0 || ml_json_type(map) != ML_JSON_OBJECT) {
        st = ml_fail(err, MARLIN_ERR_FORMAT, "%s: weight_map is missing or empty", index);
        goto out;
    }
    ML_TRY(open_mapped(t, dir, index, map, err));
    ML_TRY(ml_tensors_enter(t, map, err));
    warn_of_absent(t, index, map);
out:
    ml_json_free(doc);
    ml_free(text);
    return st;
}

static marlin_status open_all(struct ml_tensors *t, const char *dir, struct marlin_error *err) {
    struct names names = {0};
    marlin_status st = list_dir(dir, &names, err);
    for (size_t i = 0; st == MARLIN_OK && i < names.n; i++) {
        st = read_shard(t, dir, names.name[i], err);
    }
    free_names(&names);
    return st == MARLIN_OK ? ml_tensors_enter(t, NULL, err) : st;
}

/* What lies beside a single file is not read; a host that wants remarks is told. */
static void note_others(const char *dir) {
    DIR *d = opendir(dir);
    if (!d) return;
    for (const struct dirent *e; (e = readdir(d));) { /* NOLINT(concurrency-mt-unsafe): own stream */
        if (part_of_model(e->d_name) && strcmp(e->d_name, single_name) != 0)
            ml_log(ML_LOG_INFO, "%s/%.200s is not used: %s is the whole model", dir, e->d_name, single_name);
    }
    (void)closedir(d);
}

/* A link that leads nowhere counts: an index that cannot be read must not be taken for no index. */
static bool present(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0;
}

marlin_status ml_tensors_open_dir(const char *dir, struct ml_tensors **out, struct marlin_error *err) {
    char index[PATH_MAX], single[PATH_MAX];
    if (ml_gguf_is(dir)) return ml_tensors_open_gguf(dir, out, err);
    marlin_status st = ml_path_join(index, sizeof index, dir, index_name, err);
    if (st != MARLIN_OK) return st;
    st = ml_path_join(single, sizeof single, dir, single_name, err);
    if (st != MARLIN_OK) return st;
    struct ml_tensors *t = ml_calloc(1, sizeof *t);
    if (!t) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", dir);
    /* A single file is the whole model: what lies beside it is a variant, a second download or an index left over. */
    if (present(single)) {
        st = read_shard(t, dir, single_name, err);
        if (st == MARLIN_OK) st = ml_tensors_enter(t, NULL, err);
        if (st == MARLIN_OK) note_others(dir);
    } else {
        st = present(index) ? open_index(t, dir, index, err) : open_all(t, dir, err);
    }
    if (st == MARLIN_OK)
        *out = t;
    else
        ml_tensors_close(t);
    return st;
}
