/* SPDX-License-Identifier: Apache-2.0
 *
 * EXL3 files of the public converter against the public engine's own outputs, in float32 (ML_QUANT_EXACT):
 * single layers, hidden states, logits. Committed: first layers (scripts/dev/exl3_golden.py). The whole
 * models when MARLIN_SHARED holds them. What the fast path adds is held to its documented bound.
 */
#include "base/file.h"
#include "base/fp.h"
#include "eval/perplexity.h"
#include "golden.h"
#include "models/layers/layers.h"
#include "tokenizer/tokenizer.h"

#include <stdlib.h>

#include "guard.h"

static const char *const small[] = {"dense-3inst", "dense-mul1", "moe-mul1"};
static const char *const whole[] = {"dense_3.0_3inst", "dense_3.0_mul1", "moe_3.0_mul1"};

enum { N_MODELS = 3, TOKENS = 64, NAME = 256, PATH_CAP = 1024 };

/* Relative root mean squares. The engine rounds x' to half precision: with the same roundings its float32
 * outputs are met to float32's own; without them single layers differ by 11 bits, states and logits by what
 * adds up on the way. */
static const double twin_bound = 2e-6, linear_bound = 4e-4, state_bound = 2e-3, logits_bound = 2e-3;
/* kernels/quant.h: 1.5 % for one product; a layer's own outputs are a part of the state behind it. */
static const double fast_linear_bound = 0.015, fast_state_bound = 0.03;

static double relative_rms(const float *a, const float *b, size_t n) {
    double error = 0, power = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        power += (double)b[i] * b[i];
    }
    return isfinite(error) && power > 0 ? sqrt(error / power) : INFINITY;
}

static float *widened(const struct ml_tensor *t) {
    float *v = ml_alloc((size_t)t->count * sizeof(*v));
    assert_non_null(v);
    assert_int_equal(ml_tensor_to_f32(t, v, t->count, NULL), MARLIN_OK);
    return v;
}

struct run {
    struct ml_model *model;
    struct feed feed;
    struct ml_pool *pool;
};

static struct run open_model(const char *dir, bool exact) {
    struct run r = {0};
    struct marlin_error err;
    golden_ok(ml_pool_create(0, &r.pool, &err), &err);
    const struct ml_model_options options = {.kv_dtype = ML_F32, .exact = exact, .pool = r.pool};
    golden_ok(ml_model_load(dir, &options, &r.model, &err), &err);
    golden_ok(feed_open(&r.feed, r.model, r.pool, TOKENS, TOKENS, &err), &err);
    return r;
}

static void close_model(struct run *r) {
    feed_close(&r->feed);
    ml_model_free(r->model);
    ml_pool_free(r->pool);
}

/* ---- single layers ---- */

static const struct ml_linear *find_linear(const struct ml_model *m, const char *name) {
    if (strcmp(m->head.name, name) == 0) return &m->head;
    for (size_t i = 0; i < (size_t)m->config->num_layers; i++)
        for (size_t k = 0; k < m->layers[i].n_sites; k++)
            if (strcmp(m->layers[i].sites[k].linear->name, name) == 0) return m->layers[i].sites[k].linear;
    fail_msg("no layer %s", name);
    return NULL;
}

/* "P.y64f_int8mode0", float32 outputs of many rows -> P and 64. Few rows take a path of the engine that sums
 * in half precision. */
static bool parse_output(const char *name, char layer[NAME], size_t *rows) {
    const char *at = strrchr(name, '.');
    int n = 0, mode = -1;
    if (!at || sscanf(at, ".y%df_int8mode%d", &n, &mode) != 2 || mode != 0 || n < 16) return false;
    (void)snprintf(layer, NAME, "%.*s", (int)(at - name), name);
    *rows = (size_t)n;
    return true;
}

static float half(float v) {
    return ml_f16_to_f32(ml_f32_to_f16(v));
}

/* y [rows] of one row of x as the engine has it: su * x and Hk (su * x) in half precision, the rest wider. */
static void engine_row(const struct ml_quant_matrix *m, const float *x, float *y) {
    const struct ml_quant_kernels *k = &ml_kernels()->quant;
    float *scaled = ml_alloc(m->k * sizeof(float)), *ones = ml_alloc(m->k * sizeof(float));
    float *rotated = ml_alloc(m->k * sizeof(float)), *z = ml_alloc(m->n * sizeof(float));
    float *panel = ml_alloc_aligned(m->k * ML_QUANT_STRIP * sizeof(float));
    assert_true(scaled && ones && rotated && z && panel);
    for (size_t i = 0; i < m->k; i++) {
        scaled[i] = i < m->cols ? half(x[i] * m->su[i]) : 0;
        ones[i] = 1;
    }
    k->rotate(rotated, scaled, ones, m->k, m->k);
    for (size_t j = 0; j < m->n; j++) {
        double sum = 0;
        if (j % ML_QUANT_STRIP == 0) k->decode(panel, m, j / ML_QUANT_STRIP);
        for (size_t i = 0; i < m->k; i++)
            sum += (double)half(rotated[i]) * panel[j % ML_QUANT_STRIP * m->k + i];
        z[j] = (float)sum;
    }
    for (size_t j = 0; j < m->rows; j += ML_QUANT_BLOCK)
        k->unrotate(y + j, z + j, m->sv + j, m->rows - j < ML_QUANT_BLOCK ? m->rows - j : ML_QUANT_BLOCK);
    ml_free(scaled);
    ml_free(ones);
    ml_free(rotated);
    ml_free(z);
    ml_free_aligned(panel);
}

struct distances {
    double linear, twin; /* worst so far */
};

static void compare_linear(const struct run *r, const struct ml_tensors *t, const char *layer, size_t rows,
                           const struct ml_tensor *y, struct distances *worst) {
    char name[NAME];
    (void)snprintf(name, sizeof(name), "%s.x%zu", layer, rows);
    const struct ml_tensor *x = ml_tensors_find(t, name);
    const struct ml_linear *l = find_linear(r->model, layer);
    assert_non_null(x);
    assert_int_equal(x->count, rows * l->in);
    assert_int_equal(y->count, rows * l->out);
    float *in = widened(x), *wanted = widened(y), *out = ml_alloc(rows * l->out * sizeof(*out));
    assert_non_null(out);
    const struct ml_linear_job job = ml_linear_job(l, out, in, rows);
    ml_linear_forward(ml_work_first(r->feed.work), &job, 1);
    worst->linear = fmax(worst->linear, relative_rms(out, wanted, rows * l->out));
    for (size_t i = 0; i < rows; i++)
        engine_row(&l->u.quant.pieces[0].m, in + i * l->in, out + i * l->out);
    worst->twin = fmax(worst->twin, relative_rms(out, wanted, rows * l->out));
    ml_free(in);
    ml_free(wanted);
    ml_free(out);
}

static void compare_linears(const char *dir, const char *reference, bool exact, size_t least) {
    struct run r = open_model(dir, exact);
    struct ml_tensors *t = NULL;
    struct distances worst = {0};
    char layer[NAME];
    size_t rows, compared = 0;
    assert_int_equal(ml_tensors_open_file(reference, &t, NULL), MARLIN_OK);
    for (size_t i = 0; i < ml_tensors_count(t); i++) {
        const struct ml_tensor *y = ml_tensors_at(t, i);
        if (!parse_output(y->name, layer, &rows)) continue;
        compare_linear(&r, t, layer, rows, y, &worst);
        compared++;
    }
    print_message("%s: %zu outputs of layers, %s: worst %.2e, with the engine's roundings %.2e\n", dir,
                  compared, exact ? "exact" : "fast", worst.linear, worst.twin);
    assert_true(compared >= least);
    assert_true(worst.linear <= (exact ? linear_bound : fast_linear_bound));
    assert_true(worst.twin <= twin_bound);
    ml_tensors_close(t);
    close_model(&r);
}

/* ---- hidden states ---- */

/* Layer i on TOKENS hidden states x, in place. */
static void run_layer(const struct run *r, size_t i, float *x) {
    struct marlin_error err;
    golden_ok(ml_layer_forward(r->feed.work, r->feed.sequence, i, x, TOKENS, 0, &err), &err);
}

/* Runs layer i on `before` alone; distance from `after`. */
static double compare_layer(const struct run *r, size_t i, const struct ml_tensor *before,
                            const struct ml_tensor *after) {
    const size_t count = TOKENS * (size_t)r->model->config->hidden_size;
    assert_non_null(before);
    assert_non_null(after);
    assert_int_equal(before->count, count);
    float *x = widened(before), *wanted = widened(after);
    run_layer(r, i, x);
    const double d = relative_rms(x, wanted, count);
    ml_free(x);
    ml_free(wanted);
    return d;
}

static void first_layer(const char *name, bool exact) {
    char dir[PATH_CAP], file[PATH_CAP];
    struct ml_tensors *t = NULL;
    (void)snprintf(dir, sizeof(dir), "%s/tests/golden/exl3/%s", MARLIN_SOURCE_DIR, name);
    (void)snprintf(file, sizeof(file), "%s/tests/golden/exl3/%s/reference.safetensors", MARLIN_SOURCE_DIR,
                   name);
    compare_linears(dir, file, exact, 2);
    struct run r = open_model(dir, exact);
    assert_int_equal(ml_tensors_open_file(file, &t, NULL), MARLIN_OK);
    const double d = compare_layer(&r, 0, ml_tensors_find(t, "before"), ml_tensors_find(t, "after"));
    print_message("%s: first layer, %s: %.2e\n", name, exact ? "exact" : "fast", d);
    assert_true(d <= (exact ? state_bound : fast_state_bound));
    ml_tensors_close(t);
    close_model(&r);
}

static void first_layers_equal_the_public_engine(void **state) {
    (void)state;
    for (int i = 0; i < N_MODELS; i++)
        first_layer(small[i], true);
}

static void fast_first_layers_keep_to_their_bound(void **state) {
    (void)state;
    for (int i = 0; i < N_MODELS; i++)
        first_layer(small[i], false);
}

/* ---- whole models ---- */

static void find_shared(const char *name, char dir[PATH_CAP]) {
    const char *shared = getenv("MARLIN_SHARED");
    (void)snprintf(dir, PATH_CAP, "%s/data/exl3-real/%s", shared ? shared : "", name);
    if (shared && ml_path_is_dir(dir)) return;
    print_message("skipped: MARLIN_SHARED does not hold data/exl3-real/%s\n", name);
    skip();
}

static void whole_linears(void **state) {
    char dir[PATH_CAP], file[PATH_CAP + 64];
    find_shared(*state, dir);
    (void)snprintf(file, sizeof(file), "%s/reference_linears.safetensors", dir);
    compare_linears(dir, file, true, 3);
}

/* A mixture of experts chooses by comparing: where two experts are as good as equal, half precision may
 * choose the other one, and nothing can be said of that token. One of the 64 is such a one (token 26 in the
 * last layer of moe_3.0_mul1). */
enum { MOST_TIES = 1 };
static const float tie = 2e-3f; /* between router logits, whose size is about 1 */

static float router_gap(const struct run *r, size_t layer, size_t token) {
    const struct ml_ffn *ffn = &r->model->layers[layer].ffn;
    const struct ml_moe *moe = &ffn->moe;
    float logits[256], gap = INFINITY;
    if (ffn->kind != ML_FFN_MOE) return gap;
    const struct ml_router *choose = &moe->choose;
    struct ml_step *s = ml_work_first(r->feed.work);
    const struct ml_linear_job job =
        ml_linear_job(&moe->router, logits, s->normed + token * moe->router.in, 1);
    assert_true(choose->experts <= 256);
    ml_linear_forward(s, &job, 1);
    for (size_t chosen = 0; chosen <= choose->top_k; chosen++) {
        const size_t best = golden_argmax(logits, choose->experts);
        if (chosen + 1 == choose->top_k) gap = logits[best];
        if (chosen == choose->top_k) gap -= logits[best];
        logits[best] = -INFINITY;
    }
    return gap;
}

/* Distance over all tokens but ties, which are marked. Right after layer i has run. */
static double compare_states(const struct run *r, size_t i, const float *x, const float *wanted, bool *tied) {
    const size_t hidden = (size_t)r->model->config->hidden_size;
    double sum = 0;
    size_t n = 0;
    for (size_t t = 0; t < TOKENS; t++) {
        const double d = relative_rms(x + t * hidden, wanted + t * hidden, hidden);
        if (!(d <= 2 * state_bound) && router_gap(r, i, t) < tie) tied[t] = true;
        if (tied[t]) continue;
        sum += d * d;
        n++;
    }
    assert_true(n + MOST_TIES >= TOKENS);
    return sqrt(sum / (double)n);
}

/* Hidden states flow from layer to layer: roundings of the engine add up. */
static void whole_states(void **state) {
    char dir[PATH_CAP], file[PATH_CAP + 64], name[64];
    struct ml_tensors *t = NULL;
    bool tied[TOKENS] = {false};
    find_shared(*state, dir);
    struct run r = open_model(dir, true);
    (void)snprintf(file, sizeof(file), "%s/reference_states64.safetensors", dir);
    assert_int_equal(ml_tensors_open_file(file, &t, NULL), MARLIN_OK);
    float *x = widened(ml_tensors_find(t, "after.model.embed_tokens"));
    for (size_t i = 0; i < (size_t)r.model->config->num_layers; i++) {
        (void)snprintf(name, sizeof(name), "after.model.layers.%zu", i);
        run_layer(&r, i, x);
        float *wanted = widened(ml_tensors_find(t, name));
        const double d = compare_states(&r, i, x, wanted, tied);
        print_message("%s, after layer %zu: %.2e\n", (const char *)*state, i, d);
        assert_true(d <= state_bound);
        ml_free(wanted);
    }
    ml_free(x);
    ml_tensors_close(t);
    close_model(&r);
}

/* Over all tokens but the MOST_TIES worst ones of a mixture of experts. */
static double logits_distance(const struct ml_model *m, const float *logits, const float *wanted) {
    const size_t vocab = (size_t)m->config->vocab_size, ties = m->config->num_experts ? MOST_TIES : 0;
    double d[TOKENS], sum = 0;
    for (size_t t = 0; t < TOKENS; t++)
        d[t] = relative_rms(logits + t * vocab, wanted + t * vocab, vocab);
    for (size_t i = 0; i < ties; i++) {
        size_t worst = 0;
        for (size_t t = 1; t < TOKENS; t++)
            if (d[t] > d[worst]) worst = t;
        d[worst] = 0;
    }
    for (size_t t = 0; t < TOKENS; t++)
        sum += d[t] * d[t];
    return sqrt(sum / (double)(TOKENS - ties));
}

static void whole_logits(void **state) {
    char dir[PATH_CAP], file[PATH_CAP + 64];
    struct ml_tensors *t = NULL;
    find_shared(*state, dir);
    (void)snprintf(file, sizeof(file), "%s/reference_logits64.safetensors", dir);
    assert_int_equal(ml_tensors_open_file(file, &t, NULL), MARLIN_OK);
    const struct ml_tensor *ids = ml_tensors_find(t, "input_ids");
    float *wanted = widened(ml_tensors_find(t, "logits"));
    int32_t id[TOKENS];
    assert_int_equal(ids->bytes, sizeof(id));
    memcpy(id, ids->data, sizeof(id));
    struct run r = open_model(dir, true);
    float *logits = golden_run(r.model, r.pool, id, TOKENS, TOKENS);
    const double d = logits_distance(r.model, logits, wanted);
    print_message("%s, logits: %.2e\n", (const char *)*state, d);
    assert_true(d <= logits_bound);
    ml_free(logits);
    ml_free(wanted);
    ml_tensors_close(t);
    close_model(&r);
}

/* ---- int8 inputs ---- */

/* The ratio of two perplexities over n tokens is uncertain by sqrt(2 KL / n): a third of the bound below, as
 * KL is 1.2e-3 at most here. */
enum { ROWS = 4, CTX = 1024, TEXT_LIMIT = 64 << 20 };

static const double fast_perplexity_bound = 2e-3, fast_kl_bound = 3e-3;

/* Perplexity of the fast path on held-out text is that of the exact one to 0.2 %. */
static void whole_perplexity(void **state) {
    char dir[PATH_CAP], path[PATH_CAP], *text = NULL;
    const char *shared = getenv("MARLIN_SHARED");
    const struct ml_perplexity_options options = {.ctx = CTX, .max_tokens = ROWS * CTX};
    struct ml_tokenizer *tokenizer = NULL;
    struct ml_perplexity p;
    struct ml_ids ids = {0};
    struct marlin_error err;
    size_t len = 0;
    find_shared(*state, dir);
    (void)snprintf(path, sizeof(path), "%s/data/text/eval.txt", shared);
    if (!ml_path_exists(path)) {
        print_message("skipped: MARLIN_SHARED does not hold data/text/eval.txt\n");
        skip();
    }
    struct run exact = open_model(dir, true), fast = open_model(dir, false);
    golden_ok(ml_file_slurp(path, TEXT_LIMIT, &text, &len, &err), &err);
    golden_ok(ml_tokenizer_load(dir, (uint64_t)exact.model->config->vocab_size, &tokenizer, &err), &err);
    golden_ok(ml_tokenizer_encode(tokenizer, text, len, ML_ENCODE_SPECIAL, &ids, &err), &err);
    golden_ok(ml_perplexity_run(fast.model, exact.model, fast.pool, ids.id, ids.n, &options, &p, &err), &err);
    print_message("%s: perplexity %.4f fast, %.4f exact: ratio - 1 = %.1e; KL %.1e\n", (const char *)*state,
                  p.perplexity, p.reference_perplexity, p.perplexity / p.reference_perplexity - 1,
                  p.divergence.kld_mean);
    assert_true(fabs(p.perplexity / p.reference_perplexity - 1) <= fast_perplexity_bound);
    assert_true(p.divergence.kld_mean <= fast_kl_bound);
    ml_ids_free(&ids);
    ml_tokenizer_free(tokenizer);
    ml_free(text);
    close_model(&exact);
    close_model(&fast);
}

int main(void) {
    enum { EACH = 4 };
    struct CMUnitTest tests[2 + EACH * N_MODELS] = {cmocka_unit_test(first_layers_equal_the_public_engine),
                                                    cmocka_unit_test(fast_first_layers_keep_to_their_bound)};
    for (size_t i = 0; i < N_MODELS; i++) {
        void *name = (void *)(uintptr_t)whole[i];
        struct CMUnitTest *t = &tests[2 + EACH * i];
        t[0] = (struct CMUnitTest){"linears of a whole model", whole_linears, NULL, NULL, name};
        t[1] = (struct CMUnitTest){"states of a whole model", whole_states, NULL, NULL, name};
        t[2] = (struct CMUnitTest){"logits of a whole model", whole_logits, NULL, NULL, name};
        t[3] = (struct CMUnitTest){"perplexity with int8 inputs", whole_perplexity, NULL, NULL, name};
    }
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
