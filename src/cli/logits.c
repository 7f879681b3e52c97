/* SPDX-License-Identifier: Apache-2.0
 *
 * `marlin logits`: a model's raw output for given ids, for comparing with other programs.
 */
#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "converters/safetensors.h"
#include "engine/runtime.h"

#include <string.h>

static const struct ml_option options[] = {
    {"ids", 0, ML_OPT_STRING, "FILE", "safetensors file with int32 or int64 input_ids [T]", NULL, 0, 0},
    {"output", 'o', ML_OPT_STRING, "FILE", "safetensors file to write: float32 logits [T, vocab]", NULL, 0,
     0},
    {"exact", 0, ML_OPT_FLAG, NULL, "multiply by quantized weights in float32, not with inputs in int8", NULL,
     0, 0},
    {"cache-type", 0, ML_OPT_CHOICE, ML_KV_TYPES, "type of cached keys and values", "f32", 0, 0},
    {"chunk", 0, ML_OPT_INT, "N", "feed N tokens at a time", "512", 1, 1 << 20},
    {"decode-from", 0, ML_OPT_INT, "K", "feed one token at a time after the first K", NULL, 0, 1 << 30},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

const struct ml_verb ml_verb_logits = {
    .name = "logits",
    .args = "[MODEL]",
    .help = "write a model's logits for given token ids",
    .details = NULL,
    .options = options,
    .min_args = 0,
    .max_args = 1,
};

/* *ids: [*n], the caller's (ml_free). */
static marlin_status read_ids(const char *path, int32_t **ids, size_t *n, struct marlin_error *err) {
    struct ml_tensors *t = NULL;
    size_t bytes;
    marlin_status st;
    ML_TRY(ml_tensors_open_file(path, &t, err));
    const struct ml_tensor *in = ml_tensors_find(t, "input_ids");
    if (!in || in->rank != 1 || in->count == 0 || (in->dtype != ML_I32 && in->dtype != ML_I64)) {
        st =
            ml_fail(err, MARLIN_ERR_FORMAT, "%s: needs a tensor input_ids [T], I32 or I64, with T > 0", path);
        goto out;
    }
    *n = (size_t)in->count;
    if (!ml_mul_size(*n, sizeof(**ids), &bytes) || !(*ids = ml_alloc(bytes))) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory for %zu ids", path, *n);
        goto out;
    }
    for (size_t i = 0; i < *n; i++) {
        int64_t wide = 0;
        int32_t narrow = 0;
        if (in->dtype == ML_I64)
            memcpy(&wide, in->data + i * sizeof(wide), sizeof(wide));
        else
            memcpy(&narrow, in->data + i * sizeof(narrow), sizeof(narrow));
        if (in->dtype == ML_I32) wide = narrow;
        /* What is outside int32 is outside every vocabulary: the forward pass refuses -1 by position. */
        (*ids)[i] = wide < 0 || wide > INT32_MAX ? -1 : (int32_t)wide;
    }
    st = ml_tensors_check(t, err);
out:
    if (t) ml_tensors_close(t);
    return st;
}

static marlin_status forward(const struct ml_runtime *r, const int32_t *ids, size_t n, size_t chunk,
                             size_t decode_from, float *logits, struct marlin_error *err) {
    const size_t vocab = (size_t)ml_model_config(r->model)->vocab_size;
    const struct ml_work_sizes sizes = {.rows = chunk < n ? chunk : n, .runs = 1, .positions = n};
    struct ml_sequence *s = NULL;
    struct ml_work *w = NULL;
    marlin_status st = MARLIN_OK;
    if (chunk > n) chunk = n;
    ML_TRY(ml_work_create(r->model, r->pool, &sizes, &w, err));
    ML_TRY(ml_sequence_create_alone(r->model, n, chunk, &s, err));
    for (size_t at = 0; at < n;) {
        size_t step = at < decode_from ? decode_from - at : 1;
        if (step > chunk) step = chunk;
        if (step > n - at) step = n - at;
        ML_TRY(ml_feed(w, s, ids + at, step, ML_LOGITS_ALL, logits + at * vocab, err));
        at += step;
    }
    st = ml_model_check(r->model, err);
out:
    ml_sequence_free(s);
    ml_work_free(w);
    return st;
}

static marlin_status write_logits(const char *path, const float *logits, size_t n, size_t vocab,
                                  struct marlin_error *err) {
    const struct ml_tensor_decl decl = {.name = "logits", .dtype = ML_F32, .rank = 2, .shape = {n, vocab}};
    struct ml_tensors_writer *w = NULL;
    marlin_status st = ml_tensors_writer_open(path, &decl, 1, NULL, 0, &w, err);
    if (st != MARLIN_OK) return st;
    st = ml_tensors_writer_put(w, "logits", logits, (uint64_t)n * vocab * sizeof(float), err);
    if (st == MARLIN_OK) return ml_tensors_writer_commit(w, err);
    ml_tensors_writer_abort(w);
    return st;
}

static marlin_status compute(const struct ml_cli *cli, const struct ml_args *args, const char *dir,
                             size_t *tokens, double *seconds, struct marlin_error *err) {
    const struct ml_runtime_options ro = {.device = cli->device,
                                          .threads = cli->threads,
                                          .cache_type = ml_args_string(args, "cache-type"),
                                          .exact = ml_args_flag(args, "exact"),
                                          .no_tokenizer = true};
    struct ml_runtime r = {0};
    int32_t *ids = NULL;
    float *logits = NULL;
    size_t n = 0, count, bytes;
    marlin_status st;
    ML_TRY(ml_path_check_writable(ml_args_string(args, "output"), err));
    ML_TRY(read_ids(ml_args_string(args, "ids"), &ids, &n, err));
    ML_TRY(ml_runtime_open(dir, &ro, &r, err));
    const size_t vocab = (size_t)ml_model_config(r.model)->vocab_size;
    if (!ml_mul_size(n, vocab, &count) || !ml_mul_size(count, sizeof(float), &bytes) ||
        !(logits = ml_alloc_aligned(bytes))) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "logits: out of memory for float32 [%zu, %zu]: give fewer ids",
                     n, vocab);
        goto out;
    }
    const size_t from = ml_args_given(args, "decode-from") ? (size_t)ml_args_int(args, "decode-from") : n;
    const double start = ml_clock_seconds();
    ML_TRY(forward(&r, ids, n, (size_t)ml_args_int(args, "chunk"), from, logits, err));
    *seconds = ml_clock_seconds() - start;
    *tokens = n;
    st = write_logits(ml_args_string(args, "output"), logits, n, vocab, err);
out:
    ml_free_aligned(logits);
    ml_free(ids);
    ml_runtime_close(&r);
    return st;
}

int ml_cmd_logits(struct ml_cli *cli, const struct ml_args *args) {
    struct marlin_error err = {0};
    struct ml_buf b;
    size_t tokens = 0;
    double seconds = 0;
    if (!ml_args_string(args, "ids") || !ml_args_string(args, "output"))
        return ml_cli_failf(cli, MARLIN_ERR_ARGUMENT, "logits: both --ids FILE and -o FILE are needed");
    const char *dir = ml_cli_model_dir(cli, args);
    if (!dir) return ML_EXIT_FAILED;
    marlin_status st = compute(cli, args, dir, &tokens, &seconds, &err);
    if (st != MARLIN_OK) return ml_cli_fail(cli, st, &err);
    ml_buf_init(&b, 4096);
    st = ml_buf_addf(&b, cli->json ? "{\"tokens\":%zu,\"seconds\":%.6f}\n" : "%zu tokens in %.3f s\n", tokens,
                     seconds);
    const int rc = st == MARLIN_OK ? ml_cli_write(cli, &b) : ml_cli_failf(cli, st, "logits: out of memory");
    ml_buf_free(&b);
    return rc;
}
