/* SPDX-License-Identifier: Apache-2.0
 *
 * Perplexity's rows on the embedded model, against whole-row logits scored by hand.
 */
#include "base/mem.h"
#include "eval/perplexity.h"
#include "models/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "feed.h"
#include "guard.h"

enum { CTX = 300, N = 2 * CTX + 17 }; /* longer than one chunk of 256 positions */

static struct ml_pool *pool;
static struct ml_model *model;
static int32_t ids[N];

static double by_hand(size_t rows) {
    const size_t vocab = (size_t)ml_model_config(model)->vocab_size;
    float *logits = ml_alloc(CTX * vocab * sizeof(float));
    struct feed f;
    double sum = 0;
    assert_non_null(logits);
    for (size_t r = 0; r < rows; r++) {
        assert_int_equal(feed_open(&f, model, pool, CTX, CTX, NULL), MARLIN_OK);
        assert_int_equal(ml_feed(f.work, f.sequence, ids + r * CTX, CTX, ML_LOGITS_ALL, logits, NULL),
                         MARLIN_OK);
        for (size_t i = 0; i + 1 < CTX; i++) {
            double z = 0;
            for (size_t k = 0; k < vocab; k++)
                z += exp((double)logits[i * vocab + k]);
            sum += log(z) - (double)logits[i * vocab + (size_t)ids[r * CTX + i + 1]];
        }
        feed_close(&f);
    }
    ml_free(logits);
    return sum / (double)(rows * (CTX - 1));
}

static void rows_are_scored_as_defined(void **state) {
    (void)state;
    struct ml_perplexity p;
    struct ml_perplexity_options o = {.ctx = CTX};
    assert_int_equal(ml_perplexity_run(model, NULL, pool, ids, N, &o, &p, NULL), MARLIN_OK);
    assert_int_equal(p.rows, 2);
    assert_int_equal(p.tokens, 2 * (CTX - 1));
    assert_false(p.compared);
    assert_true(fabs(p.nll - by_hand(2)) <= 1e-4);
    assert_true(fabs(p.perplexity - exp(p.nll)) <= 1e-9 * p.perplexity);
    o.max_tokens = 2 * CTX - 1;
    assert_int_equal(ml_perplexity_run(model, NULL, pool, ids, N, &o, &p, NULL), MARLIN_OK);
    assert_int_equal(p.rows, 1);
    assert_true(fabs(p.nll - by_hand(1)) <= 1e-4);
}

static void a_model_does_not_diverge_from_itself(void **state) {
    (void)state;
    struct ml_perplexity p;
    const struct ml_perplexity_options o = {.ctx = CTX};
    assert_int_equal(ml_perplexity_run(model, model, pool, ids, N, &o, &p, NULL), MARLIN_OK);
    assert_true(p.compared);
    assert_true(p.reference_perplexity == p.perplexity);
    assert_true(p.divergence.top1_agreement == 1);
    assert_true(fabs(p.divergence.kld_mean) <= 1e-12 && fabs(p.divergence.kld_p99) <= 1e-12);
}

static void too_little_text_names_both_numbers(void **state) {
    (void)state;
    struct ml_perplexity p;
    struct marlin_error err;
    const struct ml_perplexity_options o = {.ctx = CTX}, one = {.ctx = 1};
    assert_int_equal(ml_perplexity_run(model, NULL, pool, ids, CTX - 1, &o, &p, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "299"));
    assert_non_null(strstr(err.text, "300"));
    assert_int_equal(ml_perplexity_run(model, NULL, pool, ids, N, &one, &p, &err), MARLIN_ERR_ARGUMENT);
}

static int setup(void **state) {
    (void)state;
    struct marlin_error err = {0};
    marlin_status st = ml_pool_create(2, &pool, &err);
    const struct ml_model_options o = {.kv_dtype = ML_F16, .pool = pool};
    if (st == MARLIN_OK) st = ml_model_load(MARLIN_SOURCE_DIR "/models/marlin-chat", &o, &model, &err);
    if (st != MARLIN_OK) {
        print_error("%s\n", err.text);
        return -1;
    }
    for (int i = 0; i < N; i++)
        ids[i] = (i * 37 + i * i % 101) % 4096;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    ml_model_free(model);
    ml_pool_free(pool);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_scored_as_defined),
        cmocka_unit_test(a_model_does_not_diverge_from_itself),
        cmocka_unit_test(too_little_text_names_both_numbers),
    };
    return cmocka_run_group_tests(tests, setup, teardown) + guard_clean(NULL);
}
