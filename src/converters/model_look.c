/* SPDX-License-Identifier: Apache-2.0
 *
 * Told by the path, by the first bytes of a file, and by the names in a folder.
 */
#include "converters/model_look.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { JSON_LIMIT = 1 << 20, NAME_BYTES = 256 };

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static bool starts_with(const char *s, const char *start) {
    return strncmp(s, start, strlen(start)) == 0;
}

static bool has(const char *dir, const char *name) {
    char path[PATH_MAX];
    return ml_path_join(path, sizeof path, dir, name, NULL) == MARLIN_OK && ml_path_exists(path);
}

/* The first name of a folder, in the order of the alphabet, that `wanted` says yes to; false when there is
 * none.
 */
typedef bool wanted_fn(const char *dir, const char *name);
static bool find(const char *dir, wanted_fn *wanted, char name[NAME_BYTES]) {
    DIR *d = opendir(dir);
    bool found = false;
    if (!d) return false;
    for (const struct dirent *e; (e = readdir(d));) { /* NOLINT(concurrency-mt-unsafe): own stream */
        if (e->d_name[0] == '.' || !wanted(dir, e->d_name)) continue;
        if (found && strcmp(e->d_name, name) >= 0) continue;
        (void)snprintf(name, NAME_BYTES, "%s", e->d_name);
        found = true;
    }
    (void)closedir(d);
    return found;
}

/* ---- names of the Hub ---- */

bool ml_model_is_hub_name(const char *path) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    const size_t org = strspn(path, letters), name = path[org] == '/' ? strspn(path + org + 1, letters) : 0;
    return org > 0 && name > 0 && path[org + 1 + name] == '\0' && path[0] != '.' && path[org + 1] != '.';
}

/* The name in an address of the Hub, else the path itself. */
static const char *after_address(const char *path) {
    static const char *const starts[] = {"https://huggingface.co/",
                                         "http://huggingface.co/",
                                         "huggingface.co/",
                                         "https://hf.co/",
                                         "hf.co/",
                                         "hf://"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (starts_with(path, starts[i])) return path + strlen(starts[i]);
    return path;
}

static marlin_status nothing_there(const char *path, struct marlin_error *err) {
    const char *name = after_address(path), *slash = strchr(name, '/');
    char org[PATH_MAX];
    (void)snprintf(org, sizeof org, "%.*s", slash ? (int)(slash - name) : 0, name);
    /* Where the first part is a folder here, it is no name of the Hub, but a path with a mistake in the
     * second. */
    if (slash && (name != path || (ml_model_is_hub_name(name) && !ml_path_is_dir(org))))
        return ml_fail(err, MARLIN_ERR_NOT_FOUND,
                       "%s: no such folder: to use a model of the Hugging Face Hub, download it first ('hf "
                       "download %.200s --local-dir %.200s') and name that folder",
                       path, name, slash + 1);
    if (path[0] == '~')
        return ml_fail(
            err, MARLIN_ERR_NOT_FOUND,
            "%s: no such folder: the shell replaces ~ only where it stands first and without quotes", path);
    return ml_fail(err, MARLIN_ERR_NOT_FOUND,
                   "%s: no such folder: a model is a folder in Hugging Face layout, with config.json, "
                   "tokenizer.json and *.safetensors",
                   path);
}

/* ---- a file ---- */

static size_t read_beginning(const char *path, char bytes[ML_SNIFF_BYTES]) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return 0;
    const ssize_t n = read(fd, bytes, ML_SNIFF_BYTES);
    (void)close(fd);
    return n > 0 ? (size_t)n : 0;
}

static marlin_status look_at_file(const char *path, struct marlin_error *err) {
    char bytes[ML_SNIFF_BYTES], folder[PATH_MAX];
    const size_t n = read_beginning(path, bytes);
    if (ends_with(path, ".gguf") || (n >= 4 && memcmp(bytes, "GGUF", 4) == 0))
        return MARLIN_OK; /* for whoever reads these */
    const char *slash = strrchr(path, '/');
    (void)snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    if (has(*folder ? folder : "/", "config.json"))
        return ml_fail(err, MARLIN_ERR_FORMAT, "%s: is a file: name the folder that it lies in, %s", path,
                       *folder ? folder : "/");
    const char *kind = ml_sniff(bytes, n);
    return ml_fail(err, MARLIN_ERR_FORMAT,
                   "%s: is a file%s%s: a model is a folder in Hugging Face layout, with config.json, "
                   "tokenizer.json and *.safetensors",
                   path, kind ? ", " : "", kind ? kind : "");
}

/* ---- the Hub's cache ---- */

static bool is_cached_model(const char *dir, const char *name) {
    (void)dir;
    return starts_with(name, "models--");
}

static bool has_config(const char *dir, const char *name) {
    char path[PATH_MAX];
    return ml_path_join(path, sizeof path, dir, name, NULL) == MARLIN_OK && has(path, "config.json");
}

/* The revision that refs/main names, or, where that has no config.json, the first that has one. */
static bool find_snapshot(const char *path, char dir[PATH_MAX]) {
    char snapshots[PATH_MAX], ref[PATH_MAX], name[NAME_BYTES], *text = NULL;
    size_t len = 0;
    if (ml_path_join(snapshots, sizeof snapshots, path, "snapshots", NULL) != MARLIN_OK ||
        ml_path_join(ref, sizeof ref, path, "refs/main", NULL) != MARLIN_OK)
        return false;
    bool found = false;
    if (ml_file_slurp(ref, NAME_BYTES - 1, &text, &len, NULL) == MARLIN_OK) {
        text[strcspn(text, " \r\n")] = '\0';
        found = *text && *text != '.' && !strchr(text, '/') && has_config(snapshots, text);
        if (found) (void)snprintf(name, sizeof name, "%s", text);
    }
    ml_free(text);
    if (!found) found = find(snapshots, has_config, name);
    return found && ml_path_join(dir, PATH_MAX, snapshots, name, NULL) == MARLIN_OK;
}

/* "models--Qwen--Qwen3-0.6B" -> "Qwen/Qwen3-0.6B". */
static void cached_name(const char *path, char name[NAME_BYTES]) {
    const char *start = strstr(path, "models--");
    (void)snprintf(name, NAME_BYTES, "%s", start ? start + 8 : path);
    name[strcspn(name, "/")] = '\0';
    char *dashes = strstr(name, "--");
    if (!dashes) return;
    *dashes = '/';
    memmove(dashes + 1, dashes + 2, strlen(dashes + 2) + 1);
}

/* ---- a folder ---- */

static bool is_gguf(const char *dir, const char *name) {
    (void)dir;
    return ends_with(name, ".gguf");
}

static bool is_pytorch(const char *dir, const char *name) {
    (void)dir;
    return (ends_with(name, ".bin") && strstr(name, "model")) || ends_with(name, ".pt") ||
           ends_with(name, ".pth") || ends_with(name, ".ckpt");
}

static bool is_other_framework(const char *dir, const char *name) {
    (void)dir;
    return ends_with(name, ".h5") || ends_with(name, ".msgpack") || ends_with(name, ".onnx") ||
           ends_with(name, ".tflite");
}

static bool is_unfinished(const char *dir, const char *name) {
    (void)dir;
    return ends_with(name, ".incomplete") || ends_with(name, ".part") || ends_with(name, ".crdownload");
}

static bool is_consolidated(const char *dir, const char *name) {
    (void)dir;
    return starts_with(name, "consolidated") && ends_with(name, ".safetensors");
}

void ml_model_other_weights(const char *dir, char *dst, size_t cap) {
    static const struct {
        wanted_fn *wanted;
        const char *what;
    } kinds[] = {
        {is_unfinished, "a download that did not end: download it again"},
        {is_consolidated,
         "weights under Mistral's own names: download the files model-*.safetensors of the same model"},
        {is_pytorch,
         "PyTorch weights, which are not read (they can hold programs): take the model's safetensors, or "
         "convert it with transformers: save_pretrained(DIR)"},
        {is_gguf,
         "a GGUF file: name that file itself, or take the folder of safetensors that it was made from"},
        {is_other_framework, "weights for another framework: take the model's safetensors"},
    };
    char name[NAME_BYTES];
    *dst = '\0';
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (!find(dir, kinds[i].wanted, name)) continue;
        (void)snprintf(dst, cap, ": there is %.120s, %s", name, kinds[i].what);
        return;
    }
}

/* "base_model_name_or_path" of an adapter, or "its base model". */
static void adapter_base(const char *path, char base[NAME_BYTES]) {
    char file[PATH_MAX], *text = NULL;
    size_t len = 0;
    struct ml_json_doc *doc = NULL;
    const char *name = NULL;
    if (ml_path_join(file, sizeof file, path, "adapter_config.json", NULL) == MARLIN_OK &&
        ml_file_slurp(file, JSON_LIMIT, &text, &len, NULL) == MARLIN_OK &&
        ml_json_parse(text, len, NULL, &doc, NULL) == MARLIN_OK)
        name = ml_json_string(ml_json_get(ml_json_root(doc), "base_model_name_or_path"), NULL);
    (void)snprintf(base, NAME_BYTES, "%s", name && *name ? name : "its base model");
    ml_json_free(doc);
    ml_free(text);
}

static marlin_status not_a_model(const char *path, struct marlin_error *err) {
    char name[NAME_BYTES], other[512];
    if (has(path, "adapter_config.json")) {
        adapter_base(path, name);
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "%s: an adapter (LoRA) of %s, not a model: merge it into that first (peft: "
                       "merge_and_unload, then save_pretrained) and name the folder that this makes",
                       path, name);
    }
    if (find(path, is_cached_model, name))
        return ml_fail(err, MARLIN_ERR_NOT_FOUND,
                       "%s: a cache of models of the Hub: name one of them, such as %.200s", path, name);
    if (has(path, "model_index.json"))
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "%s: a Diffusers pipeline, not a language model", path);
    ml_model_other_weights(path, other, sizeof other);
    if (*other) return ml_fail(err, MARLIN_ERR_NOT_FOUND, "%s: no config.json in this folder%s", path, other);
    if (has(path, "params.json"))
        return ml_fail(
            err, MARLIN_ERR_UNSUPPORTED,
            "%s: params.json, but no config.json: not in Hugging Face layout: download the model's "
            "repository that is",
            path);
    if (find(path, has_config, name))
        return ml_fail(
            err, MARLIN_ERR_NOT_FOUND,
            "%s: no config.json in this folder, but in %.200s: is it %.1000s/%.200s that you mean?", path,
            name, path, name);
    return ml_fail(err, MARLIN_ERR_NOT_FOUND,
                   "%s: no config.json in this folder: a model is a folder in Hugging Face layout, with "
                   "config.json, tokenizer.json and *.safetensors",
                   path);
}

static marlin_status look_at_folder(const char *path, char dir[PATH_MAX], struct marlin_error *err) {
    char name[NAME_BYTES];
    if (has(path, "config.json")) return MARLIN_OK;
    if (!has(path, "snapshots")) return not_a_model(path, err);
    if (find_snapshot(path, dir)) return MARLIN_OK;
    cached_name(path, name);
    return ml_fail(
        err, MARLIN_ERR_NOT_FOUND,
        "%s: no snapshot with a config.json in this folder of the Hub's cache: download the model: 'hf "
        "download %s'",
        path, name);
}

marlin_status ml_model_look(const char *path, char dir[PATH_MAX], struct marlin_error *err) {
    struct stat info;
    if (strlen(path) >= PATH_MAX)
        return ml_fail(err, MARLIN_ERR_LIMIT, "the path of the model has more than %d bytes", PATH_MAX - 1);
    (void)snprintf(dir, PATH_MAX, "%s", path);
    if (stat(path, &info) != 0)
        return errno == ENOENT || errno == ENOTDIR
                   ? nothing_there(path, err)
                   : ml_fail(err, MARLIN_ERR_IO, "%s: cannot be looked at: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode)) return look_at_folder(path, dir, err);
    if (S_ISREG(info.st_mode)) return look_at_file(path, err);
    return ml_fail(err, MARLIN_ERR_FORMAT, "%s: neither a folder nor a file: name the folder of a model",
                   path);
}
