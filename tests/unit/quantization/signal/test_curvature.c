/* SPDX-License-Identifier: Apache-2.0
 *
 * Curvature of a layer's linears against its definition, and who shares it.
 */
#include "quantization/signal/curvature.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../support.h"
#include "guard.h"

enum { TOKENS = 40 };

/* mean over tokens of |by|^2 x_i x_j */
static double slow_moment(const float *x, size_t width, const float *by, size_t by_width, size_t i,
                          size_t j) {
    double sum = 0;
    for (size_t t = 0; t < TOKENS; t++) {
        double square = 0;
        for (size_t c = 0; c < by_width; c++)
            square += (double)by[t * by_width + c] * by[t * by_width + c];
        sum += square * x[t * width + i] * x[t * width + j];
    }
    return sum / TOKENS;
}

static void assert_moment(const struct ml_hessian *h, const float *x, const float *by, size_t by_width) {
    float *out = malloc(h->k * h->k * sizeof *out);
    assert_non_null(out);
    assert_int_equal(ml_hessian_finish(h, 0, out, NULL), MARLIN_OK);
    const double usual = out[0];
    for (size_t i = 0; i < h->channels; i += 7)
        for (size_t j = 0; j < h->channels; j += 5)
            assert_true(fabs(out[i * h->k + j] - slow_moment(x, h->channels, by, by_width, i, j)) <
                        1e-4 * usual);
    free(out);
}

static void factors_follow_their_definition(void **state) {
    struct ml_layer_curvature c;
    (void)state;
    struct ml_model *model = load_fixture("qwen3");
    assert_int_equal(ml_layer_curvature_create(&c, &model->layers[0], TOKENS, NULL, NULL), MARLIN_OK);
    const struct ml_linear *l = &model->layers[0].ffn.mlp.down;
    float *x = normals(TOKENS * l->in, 1), *g = normals(TOKENS * l->out, 2);
    ml_layer_curvature_add(&c, l, x, g, 25);
    ml_layer_curvature_add(&c, l, x + 25 * l->in, g + 25 * l->out, TOKENS - 25);
    for (size_t i = 0; i < c.layer->n_sites; i++) {
        const struct ml_curvature *own = ml_layer_curvature_of(&c, c.layer->sites[i].linear);
        const bool down = c.layer->sites[i].linear == l;
        assert_ptr_equal(own, &c.own[i]);
        assert_int_equal(own->in.count, down ? TOKENS : 0);
        if (!down) continue;
        assert_moment(&own->in, x, g, l->out);
        assert_moment(&own->out, g, x, l->in);
    }
    free(x);
    free(g);
    ml_layer_curvature_free(&c);
    ml_model_free(model);
}

/* An expert that saw few tokens has what all experts of its role saw. */
static void experts_share(void **state) {
    struct ml_layer_curvature c;
    (void)state;
    struct ml_model *model = load_fixture("mixtral");
    assert_int_equal(ml_layer_curvature_create(&c, &model->layers[0], TOKENS, NULL, NULL), MARLIN_OK);
    const struct ml_mlp *e = model->layers[0].ffn.moe.experts;
    const size_t in = e[0].up.in, out = e[0].up.out;
    float *x = normals(TOKENS * in, 1), *g = normals(TOKENS * out, 2);
    for (size_t fed = 0; fed < (in > out ? in : out); fed += TOKENS)
        ml_layer_curvature_add(&c, &e[0].up, x, g, TOKENS);
    ml_layer_curvature_add(&c, &e[1].up, x, g, 3);
    ml_layer_curvature_share(&c);
    for (size_t i = 0; i < c.layer->n_sites; i++) {
        const struct ml_linear *l = c.layer->sites[i].linear;
        if (c.layer->sites[i].role == ML_ROLE_ROUTER) continue;
        const struct ml_curvature *k = ml_layer_curvature_of(&c, l);
        if (l == &e[0].up) assert_ptr_equal(k, &c.own[i]);
        if (l == &e[1].up) assert_ptr_equal(k, &c.shared[ML_ROLE_UP]);
        if (l == &e[1].up) assert_true(k->in.count > 3 + TOKENS && k->out.count == k->in.count);
    }
    free(x);
    free(g);
    ml_layer_curvature_free(&c);
    ml_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(factors_follow_their_definition),
        cmocka_unit_test(experts_share),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
