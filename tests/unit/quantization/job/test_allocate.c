/* SPDX-License-Identifier: Apache-2.0
 *
 * Recipes, and the allocation of bits against a search of all possibilities.
 */
#include "quantization/job/allocate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct ml_model *model;
static struct ml_plan plan;

static int open_plan(void **state) {
    char dir[1024];
    (void)state;
    (void)snprintf(dir, sizeof dir, "%s/tests/golden/fixtures/%s", MARLIN_SOURCE_DIR, "qwen3");
    assert_int_equal(ml_model_load(dir, NULL, &model, NULL), MARLIN_OK);
    return ml_plan_create(model, &plan, NULL) == MARLIN_OK ? 0 : -1;
}

static int close_plan(void **state) {
    (void)state;
    ml_plan_free(&plan);
    ml_model_free(model);
    return 0;
}

static struct ml_allocation at(double bits) {
    return (struct ml_allocation){
        .bits = bits, .least = 2, .most = 6, .int8_rows = true, .lowest = (int)floor(bits), .head_bits = 6};
}

static marlin_status check(const char *recipe, bool exl3, struct marlin_error *err) {
    const struct ml_allocation a = {
        .least = exl3 ? 1 : 2, .most = exl3 ? 8 : 6, .int8_rows = !exl3, .recipe = recipe};
    return ml_recipe_check(&a, err);
}

static void rules_in_order(void **state) {
    (void)state;
    static const char recipe[] =
        "# comment\n*.v_proj 4\n\n  model.layers.0.*\t5  # first layer\r\nlm_head 8\n";
    assert_int_equal(check(recipe, false, NULL), MARLIN_OK);
    assert_int_equal(ml_recipe_bits(recipe, "model.layers.1.self_attn.v_proj"), 4);
    assert_int_equal(ml_recipe_bits(recipe, "model.layers.0.self_attn.v_proj"), 5);
    assert_int_equal(ml_recipe_bits(recipe, "model.layers.1.self_attn.q_proj"), 0);
    assert_int_equal(ml_recipe_bits(recipe, "lm_head"), 8);
}

static void wrong_rules_are_named(void **state) {
    (void)state;
    static const struct {
        bool exl3;
        const char *line, *why;
    } wrong[] = {
        {false, "a", "is not PATTERN BITS"},
        {false, "a b", "is not PATTERN BITS"},
        {false, "a 4 c", "is not PATTERN BITS"},
        {false, "a 4x", "is not PATTERN BITS"},
        {false, "a 7", "7 bits for a; this format has 2 to 6 and 8"},
        {false, "a 1", "1 bits for a;"},
        {false, "a -3", "-3 bits for a;"},
        {false, "a 4294967304", "4294967304 bits for a;"},
        {false, "* 16", "16 bits for *;"},
        {true, "a 9", "this format has 1 to 8 (lm_head"},
        {false, "model.embed_tokens 4", "4 bits for model.embed_tokens: the embedding has 8"},
        {false, "*embed* 6", "the embedding has 8"},
        {false, "model.embed_tokens 0", "the embedding has 8"},
        {false, "model.embed_tokens 4294967304", "the embedding has 8"},
        {false, "model.embed_tokens.weight 8", "no tensor: the embedding is model.embed_tokens"},
        {true, "model.embed_tokens 8", "8 bits for model.embed_tokens: the embedding stays as it is"},
        {true, "model.embed_tokens 4", "the embedding stays as it is"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct marlin_error err = {0};
        char recipe[64];
        (void)snprintf(recipe, sizeof recipe, "x 3\n%s\n", wrong[i].line);
        assert_int_equal(check(recipe, wrong[i].exl3, &err), MARLIN_ERR_ARGUMENT);
        if (!strstr(err.text, "line 2") || !strstr(err.text, wrong[i].why))
            fail_msg("%s: %s", wrong[i].line, err.text);
    }
}

/* What a recipe makes of the embedding and of the tensors beside it. */
static void embedding_rules(void **state) {
    (void)state;
    static const struct {
        bool exl3;
        const char *recipe;
        int embedding, q, head;
    } cases[] = {
        {false, "*.v_proj 4\n", ML_BITS_PLAIN, 3, 6},
        {false, "model.embed_tokens 8\n", ML_BITS_INT8, 3, 6},
        {false, "*.embed_tokens 8\n* 4\n", ML_BITS_INT8, 4, 4}, /* an embedding has no 4 bits */
        {false, "model.embed_tokens 8\nmodel.embed_tokens 16\n", ML_BITS_PLAIN, 3, 6},
        {false, "* 8\n", ML_BITS_INT8, 8, 8},
        {false, "* 8\n*embed* 16\nlm_head 16\n", ML_BITS_PLAIN, 8, ML_BITS_PLAIN},
        {true, "* 8\n", ML_BITS_PLAIN, 8, 8},
        {true, "model.embed_tokens 16\n", ML_BITS_PLAIN, 3, 6},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ml_allocation a = at(3);
        a.recipe = cases[i].recipe;
        a.int8_rows = !cases[i].exl3;
        if (cases[i].exl3) a.most = 8;
        assert_int_equal(ml_allocate(&plan, &a, NULL), MARLIN_OK);
        assert_int_equal(plan.embedding_bits, cases[i].embedding);
        assert_int_equal(plan.tensors[0].bits, cases[i].q);
        assert_int_equal(plan.tensors[plan.count - 1].bits, cases[i].head);
        assert_int_equal(ml_plan_replaces(&plan, model->embedding_from), cases[i].embedding == ML_BITS_INT8);
    }
}

static void whole_bits_are_uniform(void **state) {
    (void)state;
    const struct ml_allocation a = at(3);
    assert_int_equal(ml_allocate(&plan, &a, NULL), MARLIN_OK);
    for (size_t i = 0; i < plan.first[plan.layers]; i++) {
        assert_int_equal(plan.tensors[i].bits, 3);
    }
    assert_int_equal(plan.tensors[plan.count - 1].bits, 6);
}

static void fractions_never_exceed_the_budget(void **state) {
    (void)state;
    for (double bits = 2; bits <= 6; bits += 0.13) {
        const struct ml_allocation a = at(bits);
        assert_int_equal(ml_allocate(&plan, &a, NULL), MARLIN_OK);
        assert_true(ml_plan_bits(&plan) <= bits + 1e-9);
        assert_true(ml_plan_bits(&plan) > bits - 0.1);
    }
    const struct ml_allocation a = at(3.1);
    assert_int_equal(ml_allocate(&plan, &a, NULL), MARLIN_OK);
    for (size_t i = 0; i < plan.first[plan.layers]; i++) { /* v deserves it most */
        if (plan.tensors[i].role == ML_ROLE_V) assert_int_equal(plan.tensors[i].bits, 4);
    }
}

static void recipes_are_kept_and_paid_apart(void **state) {
    (void)state;
    struct ml_allocation a = at(3);
    a.recipe = "*.down_proj 6\n";
    assert_int_equal(ml_allocate(&plan, &a, NULL), MARLIN_OK);
    for (size_t i = 0; i < plan.first[plan.layers]; i++) {
        assert_int_equal(plan.tensors[i].bits, plan.tensors[i].role == ML_ROLE_DOWN ? 6 : 3);
    }
}

static void bits_out_of_range_are_refused(void **state) {
    (void)state;
    static const double wrong[] = {1.9, 6.1, -1, NAN, INFINITY};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct ml_allocation a = at(3);
        a.bits = wrong[i];
        a.lowest = 2;
        assert_int_equal(ml_allocate(&plan, &a, NULL), MARLIN_ERR_ARGUMENT);
    }
}

/* Loss of the plan's bits when losses are given per unit. */
static double loss_of(const double *loss) {
    double sum = 0;
    for (size_t i = 0; i < plan.first[plan.layers]; i++) {
        const struct ml_plan_tensor *t = &plan.tensors[i];
        sum += loss[t->layer * ML_ROLES + (size_t)t->role] * ml_bits_distortion(t->bits);
    }
    return sum;
}

/* All of 2..4 bits for the 7 tensors of layer 0, layer 1 fixed at 2 by its loss of zero. */
static double best_of_all(const double *loss, double budget) {
    double best = INFINITY;
    for (int code = 0; code < 2187; code++) {
        double bits = 0, sum = 0;
        for (size_t i = 0, c = (size_t)code; i < 7; i++, c /= 3) {
            const struct ml_plan_tensor *t = &plan.tensors[i];
            bits += (double)(c % 3) * (double)ml_plan_weights(t);
            sum += loss[(size_t)t->role] * ml_bits_distortion(2 + (int)(c % 3));
        }
        if (bits <= budget && sum < best) best = sum;
    }
    return best;
}

static void greedy_is_close_to_the_best(void **state) {
    (void)state;
    double loss[2 * ML_ROLES] = {[ML_ROLE_Q] = 3,    [ML_ROLE_K] = 1,  [ML_ROLE_V] = 9,   [ML_ROLE_O] = 4,
                                 [ML_ROLE_GATE] = 2, [ML_ROLE_UP] = 7, [ML_ROLE_DOWN] = 5};
    double weights = 0, all = 0;
    for (size_t i = 0; i < plan.first[plan.layers]; i++) {
        all += (double)ml_plan_weights(&plan.tensors[i]);
        if (i < 7) weights += (double)ml_plan_weights(&plan.tensors[i]);
    }
    struct ml_allocation a = at(2 + 0.9 * weights / all);
    a.most = 4;
    a.loss = loss;
    assert_int_equal(ml_allocate(&plan, &a, NULL), MARLIN_OK);
    const double best = best_of_all(loss, 0.9 * weights + 0.5);
    assert_true(loss_of(loss) >= best - 1e-9);
    assert_true(loss_of(loss) <= 1.1 * best);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules_in_order),
        cmocka_unit_test(wrong_rules_are_named),
        cmocka_unit_test(embedding_rules),
        cmocka_unit_test(whole_bits_are_uniform),
        cmocka_unit_test(fractions_never_exceed_the_budget),
        cmocka_unit_test(recipes_are_kept_and_paid_apart),
        cmocka_unit_test(bits_out_of_range_are_refused),
        cmocka_unit_test(greedy_is_close_to_the_best),
    };
    return cmocka_run_group_tests(tests, open_plan, close_plan);
}
