/* SPDX-License-Identifier: Apache-2.0
 *
 * EXL3 files of the public converter against the public engine's own outputs, in float32 (ML_QUANT_EXACT):
 * single layers, hidden states, logits. Committed: first layers (scripts/dev/exl3_golden.py). The whole models
 * when MARLIN_SHARED holds them. What the fast path adds is held to its documented bound.
 */
#include "base/file.h"
#include "base/fp.h"
#include "golden.h"
#include "models/layers/layers.h"

#include <stdlib.h>

static const char *const small[] = {"dense-3inst", "dense-mul1", "moe-mul1"};
static const char *const whole[] = {"dense_3.0_3inst", "dense_3.0_mul1", "moe_3.0_mul1"};

enum { N_MODELS = 3, TOKENS = 64, NAME = 256, PATH_CAP = 1024 };

/* Relative root mean squares. The engine computes in half precision: outputs of a layer are rounded once,
 * hidden states and logits at every step. */
static const double linear_bound = 5e-4, state_bound = 2e-3, logits_bound = 2e-3;
/* kernels/quant.h: 1.8 % for one product; a layer's own outputs are a part of the state behind it. */
static const double fast_linear_bound = 0.018, fast_state_bound = 0.03;

static double relative_rms(const float *a, const float *b, size_t n) {
    double error = 0, power = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        power += (double)b[i] * b[i];
    }
    return sqrt(error / power); /* NaN when anything is: no bound holds then */
}

static float *widened(const struct ml_tensor *t) {
    float *v = ml_alloc((size_t)t->count * sizeof(*v));
    assert_non_null(v);
    assert_int_equal(ml_tensor_to_f32(t, v, t->count, NULL), MARLIN_OK);
    return v;
}

struct run {
    struct ml_model *model;
    struct ml_state *state;
    struct ml_pool *pool;
};

static struct run open_model(const char *dir, bool exact) {
    struct run r = {0};
    struct marlin_error err;
    golden_ok(ml_pool_create(0, &r.pool, &err), &err);
    const struct ml_model_options options = {.kv_dtype = ML_F32, .exact = exact, .pool = r.pool};
    golden_ok(ml_model_load(dir, &options, &r.model, &err), &err);
    golden_ok(ml_state_create(r.model, r.pool, TOKENS, TOKENS, &r.state, &err), &err);
    return r;
}

static void close_model(struct run *r) {
    ml_state_free(r->state);
    ml_model_free(r->model);
    ml_pool_free(r->pool);
}

/* ---- single layers ---- */

struct search {
    const char *name;
    struct ml_linear *found;
};

static marlin_status match(void *user, struct ml_linear *l, struct marlin_error *err) {
    struct search *s = user;
    (void)err;
    if (strcmp(l->name, s->name) == 0) s->found = l;
    return MARLIN_OK;
}

static struct ml_linear *find_linear(struct ml_model *m, const char *name) {
    struct search s = {name, NULL};
    for (size_t i = 0; i < (size_t)m->config->num_layers; i++)
        assert_int_equal(ml_layer_linears(&m->layers[i], match, &s, NULL), MARLIN_OK);
    (void)match(&s, &m->head, NULL);
    if (!s.found) fail_msg("no layer %s", name);
    return s.found;
}

/* "P.y8h_int8mode0" or "P.y8f_int8mode0" -> P and 8. */
static bool parse_output(const char *name, char layer[NAME], size_t *rows) {
    const char *at = strrchr(name, '.');
    char kind = 0;
    int n = 0, mode = -1;
    if (!at || sscanf(at, ".y%d%c_int8mode%d", &n, &kind, &mode) != 3 || mode != 0) return false;
    (void)snprintf(layer, NAME, "%.*s", (int)(at - name), name);
    *rows = (size_t)n;
    return true;
}

static double compare_linear(const struct run *r, const struct ml_tensors *t, const char *layer, size_t rows,
                             const struct ml_tensor *y) {
    char name[NAME];
    (void)snprintf(name, sizeof(name), "%s.x%zu", layer, rows);
    const struct ml_tensor *x = ml_tensors_find(t, name);
    const struct ml_linear *l = find_linear(r->model, layer);
    assert_non_null(x);
    assert_int_equal(x->count, rows * l->in);
    assert_int_equal(y->count, rows * l->out);
    float *in = widened(x), *wanted = widened(y), *out = ml_alloc(rows * l->out * sizeof(*out));
    assert_non_null(out);
    const struct ml_linear_job job = {l, out, l->out};
    ml_linear_forward(r->state, &job, 1, in, l->in, rows);
    const double d = relative_rms(out, wanted, rows * l->out);
    ml_free(in);
    ml_free(wanted);
    ml_free(out);
    return d;
}

static void compare_linears(const char *dir, const char *reference, bool exact, double bound, size_t least) {
    struct run r = open_model(dir, exact);
    struct ml_tensors *t = NULL;
    char layer[NAME];
    double worst = 0;
    size_t rows, compared = 0;
    assert_int_equal(ml_tensors_open_file(reference, &t, NULL), MARLIN_OK);
    for (size_t i = 0; i < ml_tensors_count(t); i++) {
        const struct ml_tensor *y = ml_tensors_at(t, i);
        if (!parse_output(y->name, layer, &rows)) continue;
        const double d = compare_linear(&r, t, layer, rows, y);
        if (!(d <= bound)) fail_msg("%s: %.2e", y->name, d);
        worst = d > worst ? d : worst;
        compared++;
    }
    print_message("%s: %zu outputs of layers, %s: worst %.2e\n", dir, compared, exact ? "exact" : "fast", worst);
    assert_true(compared >= least);
    ml_tensors_close(t);
    close_model(&r);
}

/* ---- hidden states ---- */

/* Runs layer i on `before` alone; distance from `after`. */
static double compare_layer(const struct run *r, size_t i, const struct ml_tensor *before,
                            const struct ml_tensor *after) {
    const size_t count = TOKENS * (size_t)r->model->config->hidden_size;
    assert_non_null(before);
    assert_non_null(after);
    assert_int_equal(before->count, count);
    float *x = widened(before), *wanted = widened(after);
    ml_layer_forward(r->model, r->state, i, x, TOKENS, 0);
    const double d = relative_rms(x, wanted, count);
    ml_free(x);
    ml_free(wanted);
    return d;
}

static void first_layer(const char *name, bool exact) {
    char dir[PATH_CAP], file[PATH_CAP];
    struct ml_tensors *t = NULL;
    (void)snprintf(dir, sizeof(dir), "%s/tests/golden/exl3/%s", MARLIN_SOURCE_DIR, name);
    (void)snprintf(file, sizeof(file), "%s/tests/golden/exl3/%s/reference.safetensors", MARLIN_SOURCE_DIR, name);
    compare_linears(dir, file, exact, exact ? linear_bound : fast_linear_bound, 4);
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
    compare_linears(dir, file, true, linear_bound, 16);
}

/* Hidden states flow from layer to layer: rounding of the engine adds up. */
static void whole_states(void **state) {
    char dir[PATH_CAP], file[PATH_CAP + 64], name[64];
    struct ml_tensors *t = NULL;
    find_shared(*state, dir);
    struct run r = open_model(dir, true);
    const size_t layers = (size_t)r.model->config->num_layers, count = TOKENS * (size_t)r.model->config->hidden_size;
    (void)snprintf(file, sizeof(file), "%s/reference_states64.safetensors", dir);
    assert_int_equal(ml_tensors_open_file(file, &t, NULL), MARLIN_OK);
    float *x = widened(ml_tensors_find(t, "after.model.embed_tokens"));
    for (size_t i = 0; i < layers; i++) {
        (void)snprintf(name, sizeof(name), "after.model.layers.%zu", i);
        ml_layer_forward(r.model, r.state, i, x, TOKENS, 0);
        float *wanted = widened(ml_tensors_find(t, name));
        const double d = relative_rms(x, wanted, count);
        print_message("%s, after layer %zu: %.2e\n", (const char *)*state, i, d);
        assert_true(d <= state_bound);
        ml_free(wanted);
    }
    ml_free(x);
    ml_tensors_close(t);
    close_model(&r);
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
    for (int exact = 1; exact >= 0; exact--) {
        struct run r = open_model(dir, exact);
        const size_t count = TOKENS * (size_t)r.model->config->vocab_size;
        float *logits = golden_run(r.model, r.pool, id, TOKENS, TOKENS);
        const double d = relative_rms(logits, wanted, count);
        print_message("%s, logits, %s: %.2e\n", (const char *)*state, exact ? "exact" : "fast", d);
        if (exact) assert_true(d <= logits_bound);
        ml_free(logits);
        close_model(&r);
    }
    ml_free(wanted);
    ml_tensors_close(t);
}

int main(void) {
    struct CMUnitTest tests[2 + 3 * N_MODELS] = {cmocka_unit_test(first_layers_equal_the_public_engine),
                                                 cmocka_unit_test(fast_first_layers_keep_to_their_bound)};
    for (size_t i = 0; i < N_MODELS; i++) {
        void *name = (void *)(uintptr_t)whole[i];
        tests[2 + 3 * i] = (struct CMUnitTest){"linears of a whole model", whole_linears, NULL, NULL, name};
        tests[3 + 3 * i] = (struct CMUnitTest){"states of a whole model", whole_states, NULL, NULL, name};
        tests[4 + 3 * i] = (struct CMUnitTest){"logits of a whole model", whole_logits, NULL, NULL, name};
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
