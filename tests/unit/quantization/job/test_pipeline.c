/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole directories: what is written decodes, by a slow reader of its own, to weights close to the source;
 * dense, tied, fused and mixture-of-experts models; interrupted runs end with the same bytes.
 */
#include "base/file.h"
#include "base/fp.h"
#include "base/mem.h"
#include "converters/safetensors.h"
#include "packing/exl3.h"
#include "packing/tap.h"
#include "quantization/job/allocate.h"
#include "quantization/job/job.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "folders.h"
#include "guard.h"

enum { TOKENS = 256, PATH = 1024 };

static const char *fixture(const char *name) {
    static char path[PATH];
    (void)snprintf(path, sizeof path, "%s/tests/golden/fixtures/%s", MARLIN_SOURCE_DIR, name);
    return path;
}

static void new_dir(char dir[PATH]) {
    (void)snprintf(dir, PATH, "/tmp/marlin-test-quantize-XXXXXX");
    assert_non_null(mkdtemp(dir));
}

static struct ml_quantize_settings settings(const char *source, const char *out) {
    return (struct ml_quantize_settings){.source = source,
                                         .out = out,
                                         .format = ML_QUANTIZE_MARLIN,
                                         .codebook = ML_EXL3_MUL1,
                                         .bits = 4,
                                         .head_bits = 6,
                                         .effort = ML_EFFORT_LOW,
                                         .calib_tokens = TOKENS};
}

static void quantize(const struct ml_quantize_settings *s, struct ml_quantize_report *r) {
    struct marlin_error err = {0};
    if (ml_quantize_model(s, r, &err) != MARLIN_OK) fail_msg("%s", err.text);
}

/* ---- the slow reader ---- */

static const struct ml_tensor *get(const struct ml_tensors *t, const char *name, const char *suffix) {
    char full[PATH];
    (void)snprintf(full, sizeof full, "%s.%s", name, suffix);
    return ml_tensors_find(t, full);
}

/* q [n, k] -> diag(sv) Hn q Hk diag(su), with matrices of +-1 made from the parity of bits. */
static float hadamard(size_t i, size_t j) {
    return (__builtin_popcountll(i & j) & 1 ? -1.0f : 1.0f) / sqrtf(128);
}

static void unrotate(float *q, size_t n, size_t k, const float *su, const float *sv) {
    float *t = calloc(n * k, sizeof *t);
    for (size_t r = 0; r < n; r++)
        for (size_t c = 0; c < k; c++)
            for (size_t i = 0; i < 128; i++)
                t[r * k + c] += q[r * k + c / 128 * 128 + i] * hadamard(i, c % 128);
    for (size_t r = 0; r < n; r++)
        for (size_t c = 0; c < k; c++) {
            float sum = 0;
            for (size_t i = 0; i < 128; i++)
                sum += hadamard(r % 128, i) * t[(r / 128 * 128 + i) * k + c];
            q[r * k + c] = sv[r] * sum * su[c];
        }
    free(t);
}

static float *halves(const struct ml_tensor *t) {
    float *v = calloc((size_t)t->count, sizeof *v);
    assert_int_equal(t->dtype, ML_F16);
    assert_int_equal(ml_tensor_to_f32(t, v, t->count, NULL), MARLIN_OK);
    return v;
}

static float *read_tap(const struct ml_tensors *t, const char *name, size_t *n, size_t *k, int *bits) {
    const struct ml_tensor *tap = get(t, name, "tap"), *code = get(t, name, "tap_code");
    struct ml_tap_code c;
    int8_t entry[256];
    assert_non_null(code);
    assert_int_equal(ml_tap_code_read(code->data, (size_t)code->bytes, &c, NULL), MARLIN_OK);
    *n = (size_t)tap->shape[0] * 16;
    *k = (size_t)tap->shape[1] * 16;
    *bits = c.bits;
    assert_int_equal(tap->shape[2], 32 * c.bits);
    float *q = calloc(*n * *k, sizeof *q);
    for (size_t i = 0; i < *n / 16; i++)
        for (size_t j = 0; j < *k / 16; j++) {
            ml_tap_decode(&c, tap->data + (i * (*k / 16) + j) * 32 * c.bits, entry);
            for (size_t e = 0; e < 256; e++)
                q[(i * 16 + e / 16) * *k + j * 16 + e % 16] = (float)entry[e] * c.unit;
        }
    return q;
}

static float *read_exl3(const struct ml_tensors *t, const char *name, size_t *n, size_t *k, int *bits) {
    const struct ml_tensor *x = get(t, name, "trellis"), *mul1 = get(t, name, "mul1");
    uint16_t half[256];
    assert_non_null(x);
    assert_int_equal(x->dtype, ML_I16);
    assert_non_null(mul1);
    assert_int_equal(mul1->rank, 0);
    assert_int_equal(mul1->dtype, ML_I32);
    *k = (size_t)x->shape[0] * 16;
    *n = (size_t)x->shape[1] * 16;
    *bits = (int)x->shape[2] / 16;
    float *q = calloc(*n * *k, sizeof *q);
    for (size_t i = 0; i < *k / 16; i++)
        for (size_t j = 0; j < *n / 16; j++) {
            assert_int_equal(ml_exl3_decode((unsigned)*bits, ML_EXL3_MUL1,
                                            x->data + (i * (*n / 16) + j) * 32 * (size_t)*bits, half, NULL),
                             MARLIN_OK);
            for (size_t e = 0; e < 256; e++)
                q[(j * 16 + e % 16) * *k + i * 16 + e / 16] = ml_f16_to_f32(half[e]);
        }
    return q;
}

/* The restored matrix [n, k], padded; the caller's. NULL when the layer is not quantized. */
static float *restore(const struct ml_tensors *t, const char *name, size_t *n, size_t *k, int *bits) {
    const bool tap = get(t, name, "tap") != NULL;
    if (!tap && !get(t, name, "trellis")) return NULL;
    float *q = tap ? read_tap(t, name, n, k, bits) : read_exl3(t, name, n, k, bits);
    float *su = halves(get(t, name, tap ? "in_scales" : "suh"));
    float *sv = halves(get(t, name, tap ? "out_scales" : "svh"));
    assert_int_equal(get(t, name, tap ? "in_scales" : "suh")->count, *k);
    assert_int_equal(get(t, name, tap ? "out_scales" : "svh")->count, *n);
    unrotate(q, *n, *k, su, sv);
    free(su);
    free(sv);
    return q;
}

/* Relative squared error of a linear layer in OUT against the loaded source. */
static double error_of(const struct ml_tensors *t, const struct ml_linear *l, int *bits) {
    size_t n = 0, k = 0;
    float *w = restore(t, l->name, &n, &k, bits), row[1024];
    double lost = 0, power = 0;
    if (!w) fail_msg("%s is not quantized", l->name);
    assert_int_equal(n, (l->out + 127) / 128 * 128);
    assert_int_equal(k, (l->in + 127) / 128 * 128);
    for (size_t r = 0; r < l->out; r++) {
        const struct ml_matrix *m = &l->u.plain;
        ml_dtype_to_f32(m->dtype, (const char *)m->data + r * m->stride * ml_dtype_size(m->dtype), row,
                        l->in);
        for (size_t c = 0; c < l->in; c++) {
            lost += ((double)row[c] - w[r * k + c]) * ((double)row[c] - w[r * k + c]);
            power += (double)row[c] * row[c];
        }
    }
    free(w);
    return lost / power;
}

/* Every linear of the source is in OUT, about as exact as its bits allow; feedback may double the plain
 * error. */
static void check_weights(const char *source, const char *out) {
    struct ml_model *m = NULL;
    struct ml_plan plan;
    struct ml_tensors *t = NULL;
    assert_int_equal(ml_model_load(source, NULL, &m, NULL), MARLIN_OK);
    assert_int_equal(ml_plan_create(m, &plan, NULL), MARLIN_OK);
    assert_int_equal(ml_tensors_open_dir(out, &t, NULL), MARLIN_OK);
    for (size_t i = 0; i < plan.count; i++) {
        int bits = 0;
        const double error = error_of(t, plan.tensors[i].linear, &bits);
        if (error > 4 * ml_bits_distortion(bits) || error < 0.5 * ml_bits_distortion(bits))
            fail_msg("%s: error %g at %d bits", plan.tensors[i].linear->name, error, bits);
    }
    for (size_t i = 0; i < ml_tensors_count(m->tensors); i++) { /* the rest is there, or replaced */
        const struct ml_tensor *a = ml_tensors_at(m->tensors, i), *b = ml_tensors_find(t, a->name);
        const bool gate = strstr(a->name, "mlp.gate.weight") != NULL;
        for (size_t j = 0; j < plan.count; j++)
            ((struct ml_plan_tensor *)plan.tensors)[j].bits = 4;
        assert_int_equal(b == NULL, ml_plan_replaces(&plan, a));
        if (!b || gate || b->dtype != a->dtype) continue;
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(a->data, b->data, (size_t)a->bytes);
    }
    ml_tensors_close(t);
    ml_plan_free(&plan);
    ml_model_free(m);
}

static void run_and_check(const char *model, enum ml_quantize_format format) {
    char source[PATH], out[PATH];
    struct ml_quantize_report r;
    new_dir(out);
    (void)snprintf(source, sizeof source, "%s", fixture(model));
    struct ml_quantize_settings s = settings(source, out);
    s.format = format;
    quantize(&s, &r);
    assert_true(fabs(r.bits_per_weight - 4) < 1e-9);
    for (size_t i = 0; i < r.count; i++) {
        assert_true(r.tensors[i].proxy_error > 0 && r.tensors[i].proxy_error < 0.01);
        assert_null(r.tensors[i].fallback);
    }
    check_weights(source, out);
    ml_quantize_report_free(&r);
    remove_tree(out);
}

static void dense_tied_marlin(void **state) {
    (void)state;
    run_and_check("qwen3", ML_QUANTIZE_MARLIN);
}

static void dense_tied_exl3(void **state) {
    (void)state;
    run_and_check("qwen3", ML_QUANTIZE_EXL3);
}

static void fused_projections_are_split(void **state) {
    (void)state;
    run_and_check("phi3", ML_QUANTIZE_MARLIN);
}

static void experts_marlin(void **state) {
    (void)state;
    run_and_check("mixtral", ML_QUANTIZE_MARLIN);
}

static void experts_exl3(void **state) {
    (void)state;
    run_and_check("qwen3_moe", ML_QUANTIZE_EXL3);
}

/* ---- int8 rows ---- */

static const char embed_rule[] = "model.embed_tokens 8\n";

/* `name` is int8 rows within half a step of w, and nothing else. */
static void check_rows(const struct ml_tensors *t, const char *name, const struct ml_matrix *w) {
    const struct ml_tensor *q = get(t, name, "int8"), *s = get(t, name, "row_scales");
    float row[1024];
    if (!q || !s || get(t, name, "weight") || get(t, name, "tap")) fail_msg("%s: not int8 rows alone", name);
    assert_int_equal(q->dtype, ML_I8);
    assert_int_equal(s->dtype, ML_F32);
    assert_true(q->rank == 2 && q->shape[0] == w->rows && q->shape[1] == w->cols);
    assert_true(s->rank == 1 && s->shape[0] == w->rows);
    for (size_t r = 0; r < w->rows; r++) {
        float scale;
        memcpy(&scale, s->data + r * sizeof scale, sizeof scale);
        ml_dtype_to_f32(w->dtype, (const char *)w->data + r * w->stride * ml_dtype_size(w->dtype), row,
                        w->cols);
        for (size_t c = 0; c < w->cols; c++)
            assert_true(fabsf(row[c] - scale * (float)(int8_t)q->data[r * w->cols + c]) <= 0.501f * scale);
    }
}

/* The matrix is the source's embedding, to the bit. */
static void check_kept(const struct ml_tensors *t, const char *name, const struct ml_matrix *w) {
    const struct ml_tensor *x = get(t, name, "weight");
    assert_non_null(x);
    assert_int_equal(x->dtype, w->dtype);
    assert_int_equal(x->bytes, w->rows * w->cols * ml_dtype_size(w->dtype));
    assert_memory_equal(x->data, w->data, (size_t)x->bytes);
}

static bool has_head(const struct ml_model *m) {
    return ml_tensors_find(m->tensors, "lm_head.weight") != NULL;
}

static void check_config(const char *out, const char *member) {
    char path[2 * PATH], *text;
    size_t len;
    (void)snprintf(path, sizeof path, "%s/config.json", out);
    assert_int_equal(ml_file_slurp(path, 1 << 20, &text, &len, NULL), MARLIN_OK);
    if (!strstr(text, member)) fail_msg("no %s in %s", member, text);
    ml_free(text);
}

/* The head is what was asked for whether or not it was the embedding. */
static void check_embedding(const char *source, const char *out, int head_bits) {
    struct ml_model *m = NULL, *made = NULL;
    struct ml_tensors *t = NULL;
    struct ml_model_bits bits;
    assert_int_equal(ml_model_load(source, NULL, &m, NULL), MARLIN_OK);
    assert_int_equal(ml_tensors_open_dir(out, &t, NULL), MARLIN_OK);
    check_rows(t, "model.embed_tokens", &m->embedding);
    if (head_bits == ML_BITS_PLAIN) check_kept(t, "lm_head", has_head(m) ? &m->head.u.plain : &m->embedding);
    if (head_bits == ML_BITS_INT8) check_rows(t, "lm_head", &m->head.u.plain);
    assert_int_equal(ml_model_load(out, NULL, &made, NULL), MARLIN_OK);
    ml_model_bits(made, &bits);
    assert_true(bits.embedding == 8 && bits.head == head_bits);
    assert_int_equal(made->head.kind, head_bits == ML_BITS_PLAIN ? ML_LINEAR_PLAIN : ML_LINEAR_QUANT);
    check_config(out, "\"embedding_bits\": 8,");
    ml_tensors_close(t);
    ml_model_free(made);
    ml_model_free(m);
}

static void embeddings_in_int8_rows(void **state) {
    (void)state;
    static const char *const models[] = {"qwen3", "llama3"}; /* tied; with a head of its own */
    static const int heads[] = {6, ML_BITS_INT8, ML_BITS_PLAIN};
    for (size_t i = 0; i < 6; i++) {
        char source[PATH], out[PATH];
        struct ml_quantize_report r;
        new_dir(out);
        (void)snprintf(source, sizeof source, "%s", fixture(models[i / 3]));
        struct ml_quantize_settings s = settings(source, out);
        s.bits = 2;
        s.head_bits = heads[i % 3];
        s.recipe = embed_rule;
        quantize(&s, &r);
        assert_string_equal(r.embedding.name, "model.embed_tokens");
        assert_int_equal(r.embedding.bits, 8);
        assert_true(r.embedding.proxy_error > 1e-6 && r.embedding.proxy_error < 1e-3);
        ml_quantize_report_free(&r);
        check_embedding(source, out, heads[i % 3]);
        remove_tree(out);
    }
}

/* All that is quantized may be int8 rows. */
static void everything_in_int8_rows(void **state) {
    (void)state;
    static const char *const models[] = {"phi3", "mixtral"};
    for (size_t i = 0; i < 2; i++) {
        char source[PATH], out[PATH];
        struct ml_quantize_report r;
        struct ml_model *m = NULL, *made = NULL;
        struct ml_tensors *t = NULL;
        struct ml_plan plan;
        new_dir(out);
        (void)snprintf(source, sizeof source, "%s", fixture(models[i]));
        struct ml_quantize_settings s = settings(source, out);
        s.recipe = "* 8\n";
        quantize(&s, &r);
        assert_true(r.bits_per_weight == 8);
        ml_quantize_report_free(&r);
        assert_int_equal(ml_model_load(source, NULL, &m, NULL), MARLIN_OK);
        assert_int_equal(ml_plan_create(m, &plan, NULL), MARLIN_OK);
        assert_int_equal(ml_tensors_open_dir(out, &t, NULL), MARLIN_OK);
        for (size_t j = 0; j < plan.count; j++)
            check_rows(t, plan.tensors[j].linear->name, &plan.tensors[j].linear->u.plain);
        check_rows(t, "model.embed_tokens", &m->embedding);
        assert_int_equal(ml_model_load(out, NULL, &made, NULL), MARLIN_OK);
        ml_model_free(made);
        ml_tensors_close(t);
        ml_plan_free(&plan);
        ml_model_free(m);
        remove_tree(out);
    }
}

/* Without a recipe the config says how the source stores its embedding. */
static void embeddings_left_alone(void **state) {
    (void)state;
    char out[PATH], member[64], source[PATH];
    struct ml_quantize_report r;
    struct ml_model *m = NULL;
    (void)snprintf(source, sizeof source, "%s", fixture("qwen3"));
    new_dir(out);
    const struct ml_quantize_settings s = settings(source, out);
    quantize(&s, &r);
    assert_null(r.embedding.name);
    ml_quantize_report_free(&r);
    assert_int_equal(ml_model_load(source, NULL, &m, NULL), MARLIN_OK);
    (void)snprintf(member, sizeof member, "\"embedding_bits\": %zu,", 8 * ml_dtype_size(m->embedding.dtype));
    check_config(out, member);
    ml_model_free(m);
    remove_tree(out);
}

/* ---- interrupted runs ---- */

static void same_directory(const char *a, const char *b) {
    assert_true(same_files(a, b) >= 3); /* weights, config, checksums at least */
}

static volatile sig_atomic_t stop_now;

/* Stops a run after a number of tensors; told through the user pointer. */
static void countdown(void *user, size_t layer, size_t layers, uint64_t done, uint64_t total, double proxy) {
    int *left = user;
    (void)layer, (void)layers, (void)done, (void)total, (void)proxy;
    if (--*left == 0) stop_now = 1;
}

static void interrupted_runs_end_with_the_same_bytes(void **state) {
    (void)state;
    char source[PATH], whole[PATH], pieces[PATH];
    struct ml_quantize_report r;
    struct marlin_error err = {0};
    (void)snprintf(source, sizeof source, "%s", fixture("llama3"));
    new_dir(whole);
    new_dir(pieces);
    struct ml_quantize_settings s = settings(source, whole);
    s.recipe = embed_rule;
    quantize(&s, &r);
    const double embedding_error = r.embedding.proxy_error;
    ml_quantize_report_free(&r);
    s.out = pieces;
    s.cancel = &stop_now;
    s.on_tensor = countdown;
    struct ml_pool *pool = NULL;
    assert_int_equal(ml_pool_create(2, &pool, NULL), MARLIN_OK);
    s.pool = pool; /* another number of threads must not matter */
    for (int stops = 0; stops < 3; stops++) {
        int left = 3 + 2 * stops; /* in layer 0, then in layer 0 again, then at its end */
        stop_now = 0;
        s.user = &left;
        assert_int_equal(ml_quantize_model(&s, &r, &err), MARLIN_ERR_CANCELLED);
        s.resume = true;
    }
    int left = 1 << 20;
    stop_now = 0;
    s.user = &left;
    quantize(&s, &r);
    assert_true(r.tensors[0].proxy_error > 0);
    assert_true(r.embedding.proxy_error == embedding_error);
    ml_quantize_report_free(&r);
    same_directory(whole, pieces);
    ml_pool_free(pool);
    remove_tree(whole);
    remove_tree(pieces);
}

static void countdown_measures(void *user, size_t done, size_t total) {
    int *left = user;
    (void)total;
    if (done == 1 || done == 2) left[1]++; /* the first layer is measured: once, not in every run */
    if (--left[0] <= 0) stop_now = 1;
}

/* What was measured is kept as well: stopped after every few groups, a job comes to the same end. */
static void measuring_goes_on_where_it_was(void **state) {
    (void)state;
    char source[PATH], whole[PATH], pieces[PATH];
    struct ml_quantize_report r;
    struct marlin_error err = {0};
    int left[2] = {0, 0}, tries = 0;
    marlin_status st = MARLIN_ERR_CANCELLED;
    (void)snprintf(source, sizeof source, "%s", fixture("llama3"));
    new_dir(whole);
    new_dir(pieces);
    struct ml_quantize_settings s = settings(source, whole);
    s.optimize = true;
    s.bits = 2.5;
    quantize(&s, &r);
    ml_quantize_report_free(&r);
    s.out = pieces;
    s.cancel = &stop_now;
    s.on_measure = countdown_measures;
    s.user = left;
    for (; st == MARLIN_ERR_CANCELLED; tries++) {
        assert_true(tries < 20);
        stop_now = 0;
        left[0] = 9; /* more groups than a layer has */
        st = ml_quantize_model(&s, &r, &err);
        if (st == MARLIN_ERR_CANCELLED) assert_true(r.resumable);
        s.resume = true;
    }
    assert_int_equal(st, MARLIN_OK);
    assert_true(tries > 1);
    assert_int_equal(left[1], 2);
    ml_quantize_report_free(&r);
    stop_now = 0;
    same_directory(whole, pieces);
    remove_tree(whole);
    remove_tree(pieces);
}

/* Measured bits: as many as asked for, kept over a restart. */
static void measured_bits_keep_the_budget(void **state) {
    (void)state;
    char source[PATH], whole[PATH], pieces[PATH];
    struct ml_quantize_report r;
    struct marlin_error err = {0};
    int left = 3;
    double bits = 0, weights = 0;
    (void)snprintf(source, sizeof source, "%s", fixture("qwen3_moe"));
    new_dir(whole);
    new_dir(pieces);
    struct ml_quantize_settings s = settings(source, whole);
    s.optimize = true;
    s.bits = 2.5;
    quantize(&s, &r);
    assert_true(r.bits_per_weight <= 2.5 + 1e-9 && r.bits_per_weight > 2.3);
    for (size_t i = 0; i + 1 < r.count; i++) { /* experts of a layer agree */
        const bool down =
            strstr(r.tensors[i].name, "layers.1.mlp.experts.") && strstr(r.tensors[i].name, "down");
        if (down) weights += 1;
        if (down) bits += r.tensors[i].bits;
    }
    assert_int_equal((int)weights, 8);
    assert_true(fmod(bits, 8) == 0);
    ml_quantize_report_free(&r);
    s.out = pieces;
    s.cancel = &stop_now;
    s.on_tensor = countdown;
    s.user = &left;
    stop_now = 0;
    assert_int_equal(ml_quantize_model(&s, &r, &err), MARLIN_ERR_CANCELLED);
    stop_now = 0;
    s.resume = true;
    s.on_tensor = NULL;
    quantize(&s, &r);
    ml_quantize_report_free(&r);
    same_directory(whole, pieces);
    remove_tree(whole);
    remove_tree(pieces);
}

static void other_jobs_are_refused(void **state) {
    (void)state;
    char source[PATH], other[PATH], out[PATH];
    struct ml_quantize_report r;
    struct marlin_error err = {0};
    int left = 3;
    (void)snprintf(source, sizeof source, "%s", fixture("llama3"));
    (void)snprintf(other, sizeof other, "%s", fixture("mistral_swa"));
    new_dir(out);
    struct ml_quantize_settings s = settings(source, out);
    s.cancel = &stop_now;
    s.on_tensor = countdown;
    s.user = &left;
    stop_now = 0;
    assert_int_equal(ml_quantize_model(&s, &r, &err), MARLIN_ERR_CANCELLED);
    stop_now = 0;
    assert_int_equal(ml_quantize_model(&s, &r, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "--resume"));
    s.resume = true;
    s.bits = 3;
    assert_int_equal(ml_quantize_model(&s, &r, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "another bits: 4, now 3"));
    s.bits = 4;
    s.source = other;
    assert_int_equal(ml_quantize_model(&s, &r, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "another model"));
    remove_tree(out);
}

static void folders_with_other_things_are_refused(void **state) {
    (void)state;
    char out[PATH], file[2 * PATH];
    struct ml_quantize_report r;
    struct marlin_error err = {0};
    new_dir(out);
    (void)snprintf(file, sizeof file, "%s/diary.txt", out);
    assert_int_equal(ml_file_write_atomic(file, "x", 1, NULL), MARLIN_OK);
    const struct ml_quantize_settings s = settings(fixture("llama3"), out);
    assert_int_equal(ml_quantize_model(&s, &r, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "not empty"));
    assert_true(ml_path_exists(file));
    remove_tree(out);
}

static void damage(const char *out, const char *part) {
    char path[2 * PATH], *data;
    size_t len;
    (void)snprintf(path, sizeof path, "%s/.quantize/%s", out, part);
    assert_int_equal(ml_file_slurp(path, 1 << 26, &data, &len, NULL), MARLIN_OK);
    data[len - 100] ^= 1;
    assert_int_equal(ml_file_write_atomic(path, data, len, NULL), MARLIN_OK);
    ml_free(data);
}

/* A finished layer that was damaged meanwhile is made again, and so is the embedding; so is one that is
 * missing. */
static void damaged_parts_are_made_again(void **state) {
    (void)state;
    char source[PATH], whole[PATH], out[PATH];
    struct ml_quantize_report r;
    struct marlin_error err = {0};
    int left = 10; /* in layer 1 */
    (void)snprintf(source, sizeof source, "%s", fixture("llama3"));
    new_dir(whole);
    new_dir(out);
    struct ml_quantize_settings s = settings(source, whole);
    s.recipe = embed_rule;
    quantize(&s, &r);
    ml_quantize_report_free(&r);
    s.out = out;
    s.cancel = &stop_now;
    s.on_tensor = countdown;
    s.user = &left;
    stop_now = 0;
    assert_int_equal(ml_quantize_model(&s, &r, &err), MARLIN_ERR_CANCELLED);
    damage(out, "layer-00000.safetensors");
    damage(out, "layer-00003.safetensors"); /* the embedding: 2 layers and the head come before it */
    stop_now = 0;
    s.resume = true;
    s.on_tensor = NULL;
    quantize(&s, &r);
    assert_int_equal(r.resumed_layers, 0);
    ml_quantize_report_free(&r);
    same_directory(whole, out);
    remove_tree(whole);
    remove_tree(out);
}

static void shards_are_cut_between_layers(void **state) {
    (void)state;
    char out[PATH], index[2 * PATH];
    struct ml_quantize_report r;
    struct ml_tensors *t = NULL;
    new_dir(out);
    struct ml_quantize_settings s = settings(fixture("llama3"), out);
    s.shard_bytes = 100000;
    quantize(&s, &r);
    ml_quantize_report_free(&r);
    (void)snprintf(index, sizeof index, "%s/model.safetensors.index.json", out);
    assert_true(ml_path_exists(index));
    assert_int_equal(ml_tensors_open_dir(out, &t, NULL), MARLIN_OK);
    const char *first = NULL;
    size_t files = 0;
    for (size_t i = 0; i < ml_tensors_count(t); i++) {
        const struct ml_tensor *x = ml_tensors_at(t, i);
        if (!first || strcmp(first, ml_file_path(x->file)) != 0) files++;
        first = ml_file_path(x->file);
        if (strncmp(x->name, "model.layers.1.", 15) == 0) {
            const struct ml_tensor *q = ml_tensors_find(t, "model.layers.1.self_attn.q_proj.tap");
            assert_ptr_equal(q->file, x->file);
        }
    }
    assert_true(files > 1);
    ml_tensors_close(t);
    remove_tree(out);
}

static void memory_limit_is_kept_or_refused(void **state) {
    (void)state;
    char out[PATH];
    struct ml_quantize_report r;
    struct marlin_error err = {0};
    new_dir(out);
    struct ml_quantize_settings s = settings(fixture("llama3"), out);
    s.max_memory = 1 << 20;
    assert_int_equal(ml_quantize_model(&s, &r, &err), MARLIN_ERR_MEMORY);
    assert_non_null(strstr(err.text, "Hessians"));
    remove_tree(out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_tied_marlin),
        cmocka_unit_test(dense_tied_exl3),
        cmocka_unit_test(fused_projections_are_split),
        cmocka_unit_test(experts_marlin),
        cmocka_unit_test(experts_exl3),
        cmocka_unit_test(embeddings_in_int8_rows),
        cmocka_unit_test(everything_in_int8_rows),
        cmocka_unit_test(embeddings_left_alone),
        cmocka_unit_test(interrupted_runs_end_with_the_same_bytes),
        cmocka_unit_test(measured_bits_keep_the_budget),
        cmocka_unit_test(measuring_goes_on_where_it_was),
        cmocka_unit_test(other_jobs_are_refused),
        cmocka_unit_test(folders_with_other_things_are_refused),
        cmocka_unit_test(damaged_parts_are_made_again),
        cmocka_unit_test(shards_are_cut_between_layers),
        cmocka_unit_test(memory_limit_is_kept_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
