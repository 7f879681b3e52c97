/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json is edited as text, so that what we do not understand survives unchanged.
 */
#include "converters/hf_export.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "converters/gguf.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

static const uint64_t copy_limit = (uint64_t)256 << 20;

/* ---- config.json ---- */

static size_t skip_space(const char *s, size_t at, size_t len) {
    while (at < len && strchr(" \t\r\n", s[at])) {
        at++;
    }
    return at;
}

/* One past a string that starts at `at`. */
static size_t skip_string(const char *s, size_t at, size_t len) {
    for (at++; at < len && s[at] != '"'; at++) {
        if (s[at] == '\\') at++;
    }
    return at < len ? at + 1 : len;
}

/* One past a value, without the space behind it, of text that is known to be valid JSON: brackets are
 * counted, strings are jumped over. */
static size_t skip_value(const char *s, size_t at, size_t len) {
    const size_t begin = at;
    int depth = 0;
    while (at < len) {
        const char c = s[at];
        if (c == '"') {
            at = skip_string(s, at, len);
            continue;
        }
        if (c == '{' || c == '[') depth++;
        if (depth == 0 && (c == ',' || c == '}' || c == ']')) break;
        if (c == '}' || c == ']') depth--;
        at++;
    }
    while (at > begin && strchr(" \t\r\n", s[at - 1])) {
        at--;
    }
    return at;
}

/* The span of the value of the top-level member `key`; false when there is none. */
static bool find_member(const char *s, size_t len, const char *key, size_t *begin, size_t *end) {
    const size_t n = strlen(key);
    size_t at = skip_space(s, 0, len) + 1;
    for (;;) {
        at = skip_space(s, at, len);
        if (at >= len || s[at] != '"') return false;
        const size_t name = at + 1;
        at = skip_string(s, at, len);
        const bool same = at - 1 - name == n && memcmp(s + name, key, n) == 0;
        at = skip_space(s, at, len) + 1; /* the colon */
        *begin = skip_space(s, at, len);
        *end = skip_value(s, *begin, len);
        if (same) return true;
        at = skip_space(s, *end, len);
        if (at >= len || s[at] != ',') return false;
        at++;
    }
}

/* Where the closing brace is, and whether anything comes before it. */
static size_t find_close(const char *s, size_t len, bool *empty) {
    size_t close = len;
    while (close > 0 && s[close - 1] != '}') {
        close--;
    }
    close--;
    size_t last = close;
    while (last > 0 && strchr(" \t\r\n", s[last - 1])) {
        last--;
    }
    *empty = last > 0 && s[last - 1] == '{';
    return last;
}

marlin_status ml_config_with_quantization(const char *json, size_t len, const char *value, struct ml_buf *out,
                                          struct marlin_error *err) {
    struct ml_json_doc *doc = NULL;
    size_t begin, end;
    bool empty;
    marlin_status st;
    ML_TRY(ml_json_parse(json, len, NULL, &doc, err));
    if (ml_json_type(ml_json_root(doc)) != ML_JSON_OBJECT) {
        st = ml_fail(err, MARLIN_ERR_FORMAT, "config.json: not an object");
        goto out;
    }
    if (find_member(json, len, "quantization_config", &begin, &end)) {
        ML_TRY(ml_buf_add(out, json, begin));
        ML_TRY(ml_buf_adds(out, value));
        ML_TRY(ml_buf_add(out, json + end, len - end));
        goto out;
    }
    const size_t last = find_close(json, len, &empty);
    ML_TRY(ml_buf_add(out, json, last));
    ML_TRY(ml_buf_addf(out, "%s\n  \"quantization_config\": ", empty ? "" : ","));
    ML_TRY(ml_buf_adds(out, value));
    ML_TRY(ml_buf_adds(out, "\n}\n"));
out:
    ml_json_free(doc);
    return st;
}

/* ---- other files ---- */

static bool is_left_out(const char *name) {
    static const char *const names[] = {"config.json", "quantization_config.json", "checksums.json"};
    static const char *const endings[] = {".safetensors", ".index.json", ".bin", ".pt",  ".pth",
                                          ".ckpt",        ".gguf",       ".h5",  ".onnx"};
    const size_t len = strlen(name);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) return true;
    }
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const size_t n = strlen(endings[i]);
        if (len > n && strcmp(name + len - n, endings[i]) == 0) return true;
    }
    return name[0] == '.';
}

static marlin_status copy_file(const char *from, const char *to, const char *name, struct marlin_error *err) {
    char source[PATH_MAX], target[PATH_MAX];
    struct stat info;
    char *data = NULL;
    size_t len;
    marlin_status st;
    ML_TRY(ml_path_join(source, sizeof source, from, name, err));
    ML_TRY(ml_path_join(target, sizeof target, to, name, err));
    if (stat(source, &info) != 0 || !S_ISREG(info.st_mode)) goto out;
    if ((uint64_t)info.st_size > copy_limit) {
        ml_log(ML_LOG_WARN, "%s is not copied: it is larger than 256 MiB", source);
        goto out;
    }
    ML_TRY(ml_file_slurp(source, copy_limit, &data, &len, err));
    ML_TRY(ml_file_write_atomic(target, data, len, err));
out:
    ml_free(data);
    return st;
}

marlin_status ml_model_files_copy(const char *from, const char *to, struct marlin_error *err) {
    if (ml_gguf_is(from)) return ml_gguf_tokenizer_write(from, to, err);
    DIR *d = opendir(from);
    if (!d) return ml_fail(err, MARLIN_ERR_IO, "%s: cannot be listed: %s", from, strerror(errno));
    marlin_status st = MARLIN_OK;
    for (const struct dirent *e; st == MARLIN_OK && (e = readdir(d));) {
        if (!is_left_out(e->d_name)) st = copy_file(from, to, e->d_name, err);
    }
    (void)closedir(d);
    return st;
}
