/* SPDX-License-Identifier: Apache-2.0
 *
 * Hessians of a layer: one for each input, filled all of them, and as large as the estimate says.
 */
#include "quantization/signal/capture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../support.h"

enum { TOKENS = 24, WIDTH = 12 };

struct fixture {
    struct ml_model *model;
    struct ml_capture c;
    struct ml_rows rows;
};

static void open_fixture(struct fixture *f, const char *name, size_t layer) {
    memset(f, 0, sizeof *f);
    f->model = load_fixture(name);
    f->rows = (struct ml_rows){.x = normals(TOKENS * (size_t)f->model->config->hidden_size, 1),
                               .rows = TOKENS / WIDTH,
                               .width = WIDTH};
    assert_int_equal(ml_capture_create(&f->c, &f->model->layers[layer], TOKENS, NULL, NULL), MARLIN_OK);
    assert_int_equal(ml_rows_forward(f->model, layer, &f->rows, &f->c, NULL, NULL, NULL), MARLIN_OK);
}

static void close_fixture(struct fixture *f) {
    ml_capture_free(&f->c);
    free(f->rows.x);
    ml_model_free(f->model);
}

/* What was made is filled with every token, and is what the estimate counts. */
static void assert_all_used(const struct fixture *f, size_t hessians, size_t kept) {
    size_t bytes = kept, made = 0;
    for (int i = 0; i < ML_INPUTS; i++) {
        const struct ml_hessian *h = &f->c.h[i];
        if (h->k == 0) continue;
        made++;
        bytes += ml_hessian_bytes(h->channels, ml_pool_size(NULL));
        assert_int_equal(h->count, TOKENS);
    }
    assert_int_equal(made, hessians);
    assert_int_equal(ml_capture_bytes(f->c.layer, TOKENS, ml_pool_size(NULL)), bytes);
}

static void a_dense_layer(void **state) {
    struct fixture f;
    (void)state;
    open_fixture(&f, "qwen3", 0);
    const struct ml_layer *l = f.c.layer;
    assert_all_used(&f, 4, 0);
    assert_int_equal(f.c.h[ML_INPUT_ATTENTION].channels, l->mixer.attention.q.in);
    assert_int_equal(f.c.h[ML_INPUT_ATTENTION_OUT].channels, l->mixer.attention.o.in);
    assert_int_equal(f.c.h[ML_INPUT_FFN].channels, l->ffn.mlp.gate.in);
    assert_int_equal(f.c.h[ML_INPUT_HIDDEN].channels, l->ffn.mlp.down.in);
    assert_int_equal(ml_capture_expert_bytes(l, 1), 0);
    close_fixture(&f);
}

/* No Hessian of all experts' hidden activations: each has its own, one at a time. */
static void a_mixture_of_experts(void **state) {
    struct fixture f;
    struct ml_hessian own = {0};
    (void)state;
    open_fixture(&f, "mixtral", 0);
    const struct ml_moe *moe = &f.c.layer->ffn.moe;
    const size_t width = moe->experts[0].down.in;
    assert_all_used(&f, 3, TOKENS * moe->router.in * sizeof(float));
    assert_int_equal(f.c.h[ML_INPUT_HIDDEN].k, 0);
    assert_int_equal(f.c.h[ML_INPUT_EXPERT_HIDDEN].k, 0);
    assert_int_equal(f.c.seen, TOKENS);
    assert_int_equal(ml_capture_expert_bytes(f.c.layer, 1), ml_hessian_bytes(width, 1));
    assert_int_equal(ml_hessian_create(&own, width, 1, NULL), MARLIN_OK);
    assert_int_equal(ml_capture_expert(&f.c, f.model, WIDTH, &moe->experts[1], &own, NULL), MARLIN_OK);
    assert_int_equal(own.count, TOKENS);
    ml_hessian_free(&own);
    close_fixture(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dense_layer),
        cmocka_unit_test(a_mixture_of_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
