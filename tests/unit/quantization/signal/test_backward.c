/* SPDX-License-Identifier: Apache-2.0
 *
 * The backward pass against differences of the forward pass, for every architecture there is.
 */
#include "base/mem.h"
#include "models/layers/layers.h"
#include "quantization/signal/backward.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../support.h"
#include "feed.h"
#include "guard.h"

enum { TOKENS = 13 };

static const char *const fixtures[] = {"gemma2",    "gemma3_text", "llama2_mha", "llama3", "mistral_swa",
                                       "mixtral",   "olmo2",       "phi3",       "qwen2",  "qwen3",
                                       "qwen3_moe", "qwen3_yarn",  "smollm3",    "olmo3"};

struct fixture {
    struct ml_model *model;
    struct ml_pool *pool;
    struct ml_backward *b;
    struct feed run;
    size_t hidden;
    float *x, *moved, *g, *gx, *dx; /* [TOKENS, hidden] */
};

static void open_fixture(struct fixture *f, const char *name, int threads) {
    struct marlin_error err = {0};
    memset(f, 0, sizeof *f);
    f->model = load_fixture(name);
    assert_int_equal(ml_pool_create(threads, &f->pool, &err), MARLIN_OK);
    assert_int_equal(ml_backward_create(f->model, f->pool, TOKENS + 3, &f->b, &err), MARLIN_OK);
    assert_int_equal(feed_open(&f->run, f->model, f->pool, TOKENS, TOKENS, &err), MARLIN_OK);
    f->hidden = (size_t)f->model->config->hidden_size;
    f->x = normals(TOKENS * f->hidden, 1);
    f->g = normals(TOKENS * f->hidden, 2);
    f->dx = normals(TOKENS * f->hidden, 3);
    f->gx = malloc(TOKENS * f->hidden * sizeof(float));
    f->moved = malloc(TOKENS * f->hidden * sizeof(float));
}

static void close_fixture(struct fixture *f) {
    free(f->x);
    free(f->g);
    free(f->dx);
    free(f->gx);
    free(f->moved);
    feed_close(&f->run);
    ml_backward_free(f->b);
    ml_pool_free(f->pool);
    ml_model_free(f->model);
}

static double dot(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* sum of g * layer(x + step dx) */
static double loss(struct fixture *f, size_t layer, float step) {
    for (size_t i = 0; i < TOKENS * f->hidden; i++)
        f->moved[i] = f->x[i] + step * f->dx[i];
    assert_int_equal(ml_layer_forward(f->run.work, f->run.sequence, layer, f->moved, TOKENS, 0, NULL),
                     MARLIN_OK);
    return dot(f->g, f->moved, TOKENS * f->hidden);
}

/* gx = the gradient g with respect to the layer's output, taken through the layer. */
static void backward(struct fixture *f, size_t layer, ml_gradient_fn *fn, void *user) {
    struct marlin_error err;
    memcpy(f->gx, f->g, TOKENS * f->hidden * sizeof(float));
    if (ml_backward_layer(f->b, layer, f->x, f->gx, TOKENS, fn, user, &err) != MARLIN_OK)
        fail_msg("%s", err.text);
}

/* Float32 sums of a few thousand terms, and differences: 1 % of the slope, or of what a slope is like. */
static void assert_slope(const char *what, size_t layer, double measured, double computed, double usual) {
    if (fabs(measured - computed) > 0.01 * (fabs(computed) + 0.1 * usual))
        fail_msg("%s, layer %zu: the slope is %g, the backward pass says %g", what, layer, measured,
                 computed);
}

/* Where there are experts the step is so small that no token changes its own, which has no derivative; elsewhere
 * it is larger than what float32 rounds away. */
static float step_of(const struct fixture *f, size_t layer) {
    return f->model->layers[layer].ffn.kind == ML_FFN_MOE ? 3e-4f : 1e-3f;
}

static void input_gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) {
        struct fixture f;
        open_fixture(&f, fixtures[i], 2);
        for (size_t l = 0; l < (size_t)f.model->config->num_layers; l++) {
            const float step = step_of(&f, l);
            backward(&f, l, NULL, NULL);
            const double measured = (loss(&f, l, step) - loss(&f, l, -step)) / (2 * (double)step);
            const double usual = sqrt(dot(f.gx, f.gx, TOKENS * f.hidden));
            assert_slope(fixtures[i], l, measured, dot(f.gx, f.dx, TOKENS * f.hidden), usual);
        }
        close_fixture(&f);
    }
}

/* ---- weights ---- */

/* One linear moved along a direction D: the loss changes by the sum of g' D x. */
struct direction {
    const struct ml_linear *linear;
    const float *d;
    double slope, square; /* what the gradient says; of the gradient */
    size_t calls;
};

static void along(void *user, const struct ml_linear *l, const float *x, const float *g, size_t n) {
    struct direction *a = user;
    if (l != a->linear) return;
    a->calls++;
    for (size_t t = 0; t < n; t++)
        for (size_t j = 0; j < l->out; j++) {
            a->slope += (double)g[t * l->out + j] * dot(a->d + j * l->in, x + t * l->in, l->in);
            a->square +=
                (double)g[t * l->out + j] * g[t * l->out + j] * dot(x + t * l->in, x + t * l->in, l->in);
        }
}

static double moved_loss(struct fixture *f, size_t layer, struct ml_linear *l, const float *d, float step) {
    const struct ml_matrix was = l->u.plain;
    float *w = malloc(l->in * l->out * sizeof *w);
    assert_non_null(w);
    for (size_t j = 0; j < l->out; j++) {
        ml_kernels()->widen[was.dtype](
            w + j * l->in, (const char *)was.data + j * was.stride * ml_dtype_size(was.dtype), l->in);
        for (size_t i = 0; i < l->in; i++)
            w[j * l->in + i] += step * d[j * l->in + i];
    }
    l->u.plain =
        (struct ml_matrix){.dtype = ML_F32, .rows = l->out, .cols = l->in, .stride = l->in, .data = w};
    const double sum = loss(f, layer, 0);
    l->u.plain = was;
    free(w);
    return sum;
}

struct check {
    struct fixture *f;
    const char *name;
    size_t layer, checked;
};

static void check_linear(struct check *c, struct ml_linear *l) {
    struct fixture *f = c->f;
    const float step = 1e-4f;
    float *d = normals(l->in * l->out, 5);
    struct direction a = {.linear = l, .d = d};
    backward(f, c->layer, along, &a);
    if (a.calls) {
        const double up = moved_loss(f, c->layer, l, d, step), down = moved_loss(f, c->layer, l, d, -step);
        assert_int_equal(a.calls, 1);
        assert_slope(l->name, c->layer, (up - down) / (2 * (double)step), a.slope, sqrt(a.square));
        c->checked++;
    }
    free(d);
}

static void weight_gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) {
        struct fixture f;
        open_fixture(&f, fixtures[i], 1);
        struct check c = {&f, fixtures[i], 0, 0};
        for (size_t k = 0; k < f.model->layers[0].n_sites; k++)
            check_linear(&c, f.model->layers[0].sites[k].linear);
        assert_true(c.checked >= 7);
        close_fixture(&f);
    }
}

/* ---- the head ---- */

/* -sum log p(label) of hidden rows x + step dx */
static double label_loss(struct fixture *f, const int32_t *labels, float step) {
    const size_t vocab = f->model->head.out;
    float *logits = malloc(TOKENS * vocab * sizeof *logits);
    double sum = 0;
    assert_non_null(logits);
    for (size_t i = 0; i < TOKENS * f->hidden; i++)
        f->moved[i] = f->x[i] + step * f->dx[i];
    ml_head_forward(ml_work_first(f->run.work), f->moved, TOKENS, logits);
    for (size_t t = 0; t < TOKENS; t++) {
        const float *y = logits + t * vocab;
        double all = 0;
        for (size_t i = 0; i < vocab; i++)
            all += exp((double)y[i]);
        sum += log(all) - (double)y[labels[t]];
    }
    free(logits);
    return sum;
}

static void head_gradients(void **state) {
    const float step = 1e-2f;
    (void)state;
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) {
        struct fixture f;
        int32_t labels[TOKENS], again[TOKENS];
        open_fixture(&f, fixtures[i], 2);
        ml_backward_head(f.b, f.x, TOKENS, 7, 3.0f, f.gx, labels);
        const double measured =
            3 * (label_loss(&f, labels, step) - label_loss(&f, labels, -step)) / (2 * (double)step);
        assert_slope(fixtures[i], 99, measured, dot(f.gx, f.dx, TOKENS * f.hidden),
                     sqrt(dot(f.gx, f.gx, TOKENS * f.hidden)));
        ml_backward_head(f.b, f.x, TOKENS, 7, 1.0f, f.gx, again);
        assert_memory_equal(labels, again, sizeof labels);
        close_fixture(&f);
    }
}

/* The same bits from one thread and from two. */
static void threads_agree(void **state) {
    static const char *const some[] = {"qwen3", "qwen3_moe"};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct fixture one, two;
        open_fixture(&one, some[i], 1);
        open_fixture(&two, some[i], 2);
        backward(&one, 0, NULL, NULL);
        backward(&two, 0, NULL, NULL);
        assert_memory_equal(one.gx, two.gx, TOKENS * one.hidden * sizeof(float));
        close_fixture(&one);
        close_fixture(&two);
    }
}

/* An architecture whose row does not say has_backward is refused by its name, before any work. */
static void other_architectures_are_refused(void **state) {
    struct ml_model *model = load_fixture("qwen3");
    struct ml_arch other = *model->arch;
    struct ml_backward *b = NULL;
    struct marlin_error err = {0};
    (void)state;
    assert_int_equal(ml_backward_check(model, &err), MARLIN_OK);
    other.model_type = "made_up";
    other.has_backward = false;
    model->arch = &other;
    assert_int_equal(ml_backward_check(model, &err), MARLIN_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "made_up"));
    assert_non_null(strstr(err.text, "--optimize"));
    assert_int_equal(ml_backward_create(model, NULL, TOKENS, &b, &err), MARLIN_ERR_UNSUPPORTED);
    assert_null(b);
    ml_model_free(model);
}

/* What says has_backward is what the fixtures of this file check. */
static void the_claim_covers_the_fixtures(void **state) {
    size_t claimed = 0, seen = 0;
    (void)state;
    for (const char *const *s = ml_config_supported(); *s; s++) {
        const struct ml_arch *arch = ml_arch_find(*s);
        assert_non_null(arch);
        assert_string_equal(arch->model_type, *s);
        bool found = false;
        claimed += arch->has_backward;
        for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures && !found; i++) {
            struct ml_model *model = load_fixture(fixtures[i]);
            found = model->arch == arch;
            ml_model_free(model);
        }
        if (arch->has_backward && !found) fail_msg("%s: has_backward, but no fixture shows it", *s);
        seen += found;
    }
    assert_int_equal(claimed, seen);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(input_gradients),
        cmocka_unit_test(weight_gradients),
        cmocka_unit_test(head_gradients),
        cmocka_unit_test(threads_agree),
        cmocka_unit_test(other_architectures_are_refused),
        cmocka_unit_test(the_claim_covers_the_fixtures),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
