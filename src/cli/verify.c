/* SPDX-License-Identifier: Apache-2.0
 *
 * `marlin verify`: are the files of a model whole, readable by this program, and free of NaN and infinity.
 *
 * checksums.json beside the model, written by --write, holds XXH3 (64 bits) of its files:
 *
 *     {"algorithm": "xxh3-64", "files": {"model.safetensors": "0123456789abcdef"}}
 */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/progress.h"
#include "cli/cli.h"
#include "cli/guess.h"
#include "converters/checksums.h"
#include "converters/hf_config.h"
#include "converters/model_look.h"
#include "converters/safetensors.h"
#include "models/model.h"
#include "packing/forms.h"
#include "tokenizer/tokenizer.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK = 4096, GRAIN = 16 * BLOCK, MAX_PROBLEMS = 1000 };
static const size_t out_limit = (size_t)1 << 30;

static const struct ml_option options[] = {
    {"write", 0, ML_OPT_FLAG, NULL, "write checksums.json into MODEL when nothing else is wrong", NULL, 0, 0},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

const struct ml_verb ml_verb_verify = {
    .name = "verify",
    .args = "[MODEL]",
    .help = "check the files of a model: format, checksums, NaN and infinity",
    .details =
        "Exit status 1 when there is a problem. Checksums are compared when MODEL has a checksums.json "
        "(see --write).",
    .options = options,
    .max_args = 1,
};

struct verification {
    struct ml_cli *cli;
    const char *dir;
    struct ml_tensors *tensors;
    struct ml_buf list; /* of JSON strings, or of lines */
    size_t problems;
    uint64_t scanned; /* bytes of floating tensors */
    size_t checksums; /* files compared */
};

/* One more problem; after a thousand they are only counted. */
static marlin_status add_problem(struct verification *v, const char *text) {
    marlin_status st = MARLIN_OK;
    if (++v->problems > MAX_PROBLEMS) return st;
    if (v->cli->json) {
        if (v->problems > 1) ML_TRY(ml_buf_adds(&v->list, ","));
        ML_TRY(ml_buf_add_json(&v->list, text, strlen(text)));
    } else {
        ML_TRY(ml_buf_addf(&v->list, "%s\n", text));
    }
out:
    return st;
}

/* ---- NaN and infinity ---- */

struct scan {
    const struct ml_tensor *tensor;
    atomic_uint_fast64_t bad, first; /* first: lowest index of a bad element */
};

static void scan_range(void *arg, size_t begin, size_t end, int worker) {
    (void)worker;
    struct scan *s = arg;
    const size_t size = ml_dtype_size(s->tensor->dtype);
    float block[BLOCK];
    for (size_t at = begin; at < end; at += BLOCK) {
        const size_t n = end - at < BLOCK ? end - at : BLOCK;
        ml_dtype_to_f32(s->tensor->dtype, s->tensor->data + at * size, block, n);
        for (size_t i = 0; i < n; i++) {
            if (isfinite(block[i])) continue;
            (void)atomic_fetch_add(&s->bad, 1);
            uint_fast64_t first = atomic_load(&s->first);
            while (at + i < first && !atomic_compare_exchange_weak(&s->first, &first, at + i)) {
            }
        }
    }
}

static marlin_status scan_tensor(struct verification *v, struct ml_pool *pool, const struct ml_tensor *t) {
    struct scan s = {.tensor = t};
    atomic_init(&s.bad, 0);
    atomic_init(&s.first, UINT64_MAX);
    ml_pool_for(pool, t->count, GRAIN, scan_range, &s);
    v->scanned += t->bytes;
    const uint64_t bad = atomic_load(&s.bad), first = atomic_load(&s.first);
    if (bad == 0) return MARLIN_OK;
    char text[MARLIN_ERROR_TEXT];
    (void)snprintf(
        text, sizeof text,
        "%.200s: %" PRIu64 " of %" PRIu64 " values are NaN or infinite, the first is element %" PRIu64
        " (%.200s, offset %" PRIu64 ")",
        t->name, bad, t->count, first, ml_file_path(t->file), t->offset + first * ml_dtype_size(t->dtype));
    return add_problem(v, text);
}

/* Rows of int8 have -127..127: kernels count on it. */
static marlin_status scan_rows(struct verification *v, const struct ml_tensor *t) {
    const struct ml_form *f = ml_form_of_tensor(t->name);
    if (f != ml_form_of(ML_QUANT_INT8) || t->dtype != f->weights.dtype) return MARLIN_OK;
    const uint8_t *first = memchr(t->data ? (const void *)t->data : "", 0x80, (size_t)t->bytes);
    if (!first) return MARLIN_OK;
    const uint64_t at = (uint64_t)(first - t->data);
    char text[MARLIN_ERROR_TEXT];
    (void)snprintf(text, sizeof text,
                   "%.200s: element %" PRIu64 " is -128, rows have -127 to 127 (%.200s, offset %" PRIu64 ")",
                   t->name, at, ml_file_path(t->file), t->offset + at);
    return add_problem(v, text);
}

static marlin_status scan_all(struct verification *v, struct marlin_error *err) {
    struct ml_pool *pool = ml_cli_pool(v->cli, err);
    if (!pool) return MARLIN_ERR_MEMORY;
    struct ml_progress progress;
    marlin_status st = MARLIN_OK;
    ml_progress_begin(&progress, "scanning", ml_tensors_bytes(v->tensors), v->cli->quiet);
    uint64_t done = 0;
    ML_TRY(ml_tensors_load(v->tensors, pool, err));
    for (size_t i = 0; i < ml_tensors_count(v->tensors); i++) {
        const struct ml_tensor *t = ml_tensors_at(v->tensors, i);
        if (ml_dtype_is_float(t->dtype)) ML_TRY(scan_tensor(v, pool, t));
        ML_TRY(scan_rows(v, t));
        done += t->stored ? t->stored_bytes : t->bytes;
        ml_progress_update(&progress, done, NULL);
    }
out:
    ml_progress_end(&progress);
    return st;
}

/* ---- checksums ---- */

static marlin_status compare_one(struct verification *v, const char *name, const char *wanted) {
    char hex[17], text[MARLIN_ERROR_TEXT];
    struct marlin_error err = {0};
    v->checksums++;
    if (strchr(name, '/') || strcmp(name, "..") == 0) {
        (void)snprintf(text, sizeof text, "checksums.json: '%.200s' is not a file name", name);
        return add_problem(v, text);
    }
    if (ml_checksum_file(v->dir, name, hex, &err) != MARLIN_OK) return add_problem(v, err.text);
    if (strcmp(hex, wanted) == 0) return MARLIN_OK;
    (void)snprintf(text, sizeof text, "%.200s: checksum %s, but checksums.json says %.40s", name, hex,
                   wanted);
    return add_problem(v, text);
}

static marlin_status compare_manifest(struct verification *v, const char *json, size_t len) {
    struct ml_json_doc *doc = NULL;
    struct marlin_error err = {0};
    char text[MARLIN_ERROR_TEXT + 32];
    marlin_status st = MARLIN_OK;
    if (ml_json_parse(json, len, NULL, &doc, &err) != MARLIN_OK) {
        (void)snprintf(text, sizeof text, "checksums.json: %s", err.text);
        return add_problem(v, text);
    }
    const struct ml_json *root = ml_json_root(doc), *files = ml_json_get(root, "files");
    const char *algorithm = ml_json_string(ml_json_get(root, "algorithm"), NULL);
    if (!algorithm || strcmp(algorithm, "xxh3-64") != 0 || ml_json_type(files) != ML_JSON_OBJECT) {
        ML_TRY(add_problem(v, "checksums.json: not a list of xxh3-64 checksums"));
        goto out;
    }
    for (const struct ml_json *m = ml_json_first(files); m; m = ml_json_next(m)) {
        const char *hex = ml_json_string(m, NULL);
        ML_TRY(compare_one(v, ml_json_key(m, NULL), hex ? hex : "nothing readable"));
    }
out:
    ml_json_free(doc);
    return st;
}

static marlin_status check_manifest(struct verification *v, struct marlin_error *err) {
    char path[ML_CLI_PATH];
    char *json = NULL;
    size_t len = 0;
    marlin_status st = ml_path_join(path, sizeof path, v->dir, "checksums.json", err);
    if (st != MARLIN_OK || !ml_path_exists(path)) return st;
    struct marlin_error why = {0};
    st = ml_file_slurp(path, ML_CHECKSUMS_LIMIT, &json, &len, &why) == MARLIN_OK
             ? compare_manifest(v, json, len)
             : add_problem(v, why.text);
    ml_free(json);
    return st;
}

/* ---- all of it ---- */

/* Config and tokenizer must be readable; a model without any tokenizer is a model for ids. */
static marlin_status check_files(struct verification *v) {
    struct ml_config *config = NULL;
    struct ml_tokenizer *tokenizer = NULL;
    struct marlin_error err = {0};
    char found[PATH_MAX];
    marlin_status st = ml_model_look(v->dir, found, &err);
    if (st == MARLIN_OK) {
        (void)snprintf(v->cli->model, sizeof v->cli->model, "%s", found);
        v->dir = v->cli->model;
        st = ml_config_load(v->dir, &config, &err);
    }
    if (st != MARLIN_OK) ML_TRY(add_problem(v, err.text));
    st = ml_tokenizer_load(v->dir, config ? (uint64_t)config->vocab_size : 0, &tokenizer, &err);
    if (st == MARLIN_ERR_NOT_FOUND) st = MARLIN_OK;
    if (st != MARLIN_OK) ML_TRY(add_problem(v, err.text));
    st = ml_tensors_open_dir(v->dir, &v->tensors, &err);
    if (st != MARLIN_OK) ML_TRY(add_problem(v, err.text));
out:
    ml_tokenizer_free(tokenizer);
    ml_config_free(config);
    return st;
}

/* Every tensor that the architecture needs is there, with the shape, type, bits and code that
 * it must have. */
static marlin_status check_binding(struct verification *v) {
    const struct ml_model_options dry = {.headers_only = true};
    struct marlin_error err = {0};
    struct ml_model *m = NULL;
    const marlin_status st = ml_model_load(v->dir, &dry, &m, &err);
    ml_model_free(m);
    return st == MARLIN_OK ? MARLIN_OK : add_problem(v, err.text);
}

static marlin_status verify(struct verification *v, struct marlin_error *err) {
    marlin_status st = MARLIN_OK;
    char found[PATH_MAX];
    if (!ml_cli_is_model(v->dir)) {
        ML_TRY(ml_model_look(v->dir, found, err));
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "%s: is not a directory: name the directory of a model, or a GGUF file", v->dir);
    }
    ML_TRY(check_files(v));
    if (v->tensors) {
        struct marlin_error why = {0};
        if (v->problems == 0) ML_TRY(check_binding(v));
        ML_TRY(scan_all(v, err));
        if (ml_tensors_check(v->tensors, &why) != MARLIN_OK) ML_TRY(add_problem(v, why.text));
    }
    ML_TRY(check_manifest(v, err));
out:
    return st;
}

static marlin_status print(const struct verification *v, struct ml_buf *b) {
    marlin_status st = MARLIN_OK;
    const size_t tensors = v->tensors ? ml_tensors_count(v->tensors) : 0;
    const char *list = v->list.data ? v->list.data : "";
    if (v->cli->json) {
        ML_TRY(ml_buf_addf(b, "{\"ok\":%s,\"problems\":[", v->problems ? "false" : "true"));
        ML_TRY(ml_buf_add(b, list, v->list.len));
        ML_TRY(ml_buf_addf(
            b, "],\"problem_count\":%zu,\"tensors\":%zu,\"scanned_bytes\":%" PRIu64 ",\"checksums\":%zu}\n",
            v->problems, tensors, v->scanned, v->checksums));
    } else if (v->problems) {
        ML_TRY(ml_buf_add(b, list, v->list.len));
        ML_TRY(ml_buf_addf(b, v->problems == 1 ? "1 problem\n" : "%zu problems\n", v->problems));
    } else {
        ML_TRY(ml_buf_addf(b, "ok: %zu tensors, no NaN or infinity in %" PRIu64 " bytes, %zu checksums\n",
                           tensors, v->scanned, v->checksums));
    }
out:
    return st;
}

int ml_cmd_verify(struct ml_cli *cli, const struct ml_args *args) {
    const char *named = ml_args_at(args, 0);
    struct verification v = {.cli = cli, .dir = named ? named : ml_cli_default_model(cli)};
    struct marlin_error err = {0};
    struct ml_buf b;
    int rc = ML_EXIT_FAILED;
    if (!v.dir) return rc;
    ml_buf_init(&v.list, out_limit);
    ml_buf_init(&b, out_limit);
    marlin_status st = MARLIN_OK;
    ML_TRY(verify(&v, &err));
    if (ml_args_flag(args, "write") && v.problems == 0) ML_TRY(ml_checksums_write(v.dir, &err));
    ML_TRY(print(&v, &b));
    rc = ml_cli_write(cli, &b);
    if (v.problems) rc = ML_EXIT_FAILED;
out:
    if (st != MARLIN_OK) rc = ml_cli_fail(cli, st, &err);
    ml_buf_free(&b);
    ml_buf_free(&v.list);
    ml_tensors_close(v.tensors);
    return rc;
}
