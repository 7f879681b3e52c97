/* SPDX-License-Identifier: Apache-2.0
 *
 * A model directory: an index that names the shards, or every safetensors file in it. Rule R11: names in an
 * index are plain file names of this directory, and say the truth about what is where.
 */
#include "base/json.h"
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

/* The Hugging Face cache keeps snapshots/REVISION/NAME as links to ../../blobs/HASH; any other way out of the
 * directory is refused. */
static marlin_status check_link(const char *dir, const char *path, struct marlin_error *err) {
    struct stat info;
    char link[PATH_MAX], real_dir[PATH_MAX], real[PATH_MAX];
    if (lstat(path, &info) != 0)
        return ml_fail(err, MARLIN_ERR_NOT_FOUND, "%s: cannot open: %s", path, strerror(errno));
    if (!S_ISLNK(info.st_mode)) return MARLIN_OK;
    const ssize_t n = readlink(path, link, sizeof link - 1);
    if (n < 0 || !realpath(path, real) || !realpath(dir, real_dir))
        return ml_fail(err, MARLIN_ERR_IO, "%s: cannot follow the link: %s", path, strerror(errno));
    link[n] = '\0';
    const size_t len = strlen(real_dir);
    if (strncmp(real, real_dir, len) == 0 && real[len] == '/') return MARLIN_OK;
    if (strncmp(link, "../../blobs/", 12) == 0 && !strchr(link + 12, '/')) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_FORMAT,
                   "%s: the link leaves the model's directory, to where a model from elsewhere must not "
                   "lead: put the file itself there, or make the whole directory a link",
                   path);
}

static marlin_status open_shard(struct ml_tensors *t, const char *dir, const char *name,
                                struct marlin_error *err) {
    char path[PATH_MAX];
    marlin_status st = ml_path_join(path, sizeof path, dir, name, err);
    if (st == MARLIN_OK) st = check_link(dir, path, err);
    return st == MARLIN_OK ? ml_tensors_add_file(t, path, err) : st;
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
        if (fresh) ML_TRY(open_shard(t, dir, shard, err));
    }
out:
    ml_map_free(&seen);
    return st;
}

/* Every tensor of the map is in the shard it names, and every tensor found is in the map. */
static marlin_status check_map(const struct ml_tensors *t, const char *index, const struct ml_json *map,
                               struct marlin_error *err) {
    for (const struct ml_json *m = ml_json_first(map); m; m = ml_json_next(m)) {
        size_t len;
        const char *name = ml_json_key(m, &len), *shard = ml_json_string(m, NULL);
        const struct ml_tensor *tensor = strlen(name) == len ? ml_tensors_find(t, name) : NULL;
        const char *path = tensor ? ml_file_path(tensor->file) : "";
        const char *slash = strrchr(path, '/');
        if (!tensor || strcmp(slash ? slash + 1 : path, shard) != 0)
            return ml_fail(err, MARLIN_ERR_FORMAT, "%s: tensor \"%.120s\" is not in %.80s", index, name,
                           shard);
    }
    if (ml_json_count(map) != ml_tensors_count(t))
        return ml_fail(err, MARLIN_ERR_FORMAT, "%s: lists %zu tensors, the shards hold %zu", index,
                       ml_json_count(map), ml_tensors_count(t));
    return MARLIN_OK;
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
    st = check_map(t, index, map, err);
out:
    ml_json_free(doc);
    ml_free(text);
    return st;
}

static marlin_status open_all(struct ml_tensors *t, const char *dir, struct marlin_error *err) {
    struct names names = {0};
    marlin_status st = list_dir(dir, &names, err);
    for (size_t i = 0; st == MARLIN_OK && i < names.n; i++) {
        st = open_shard(t, dir, names.name[i], err);
    }
    free_names(&names);
    return st;
}

/* A link that leads nowhere counts: an index that cannot be read must not be taken for no index. */
static bool present(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0;
}

marlin_status ml_tensors_open_dir(const char *dir, struct ml_tensors **out, struct marlin_error *err) {
    char index[PATH_MAX];
    if (ml_gguf_is(dir)) return ml_tensors_open_gguf(dir, out, err);
    marlin_status st = ml_path_join(index, sizeof index, dir, index_name, err);
    if (st != MARLIN_OK) return st;
    struct ml_tensors *t = ml_calloc(1, sizeof *t);
    if (!t) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", dir);
    st = present(index) ? open_index(t, dir, index, err) : open_all(t, dir, err);
    if (st == MARLIN_OK)
        *out = t;
    else
        ml_tensors_close(t);
    return st;
}
