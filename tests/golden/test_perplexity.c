/* SPDX-License-Identifier: Apache-2.0
 *
 * Perplexity on held-out text agrees with transformers in float32 (tests/golden/perplexity.json) to 0.1 %.
 * The first rows always; the whole text, which takes minutes, when MARLIN_FULL is set.
 */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "engine/runtime.h"
#include "eval/perplexity.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"

enum { TEXT_LIMIT = 64 << 20, PATH_CAP = 4096 };

struct figure {
    int64_t max_tokens, text_tokens, tokens;
    double perplexity;
};

static void compare(const struct ml_runtime *r, const struct ml_ids *ids, size_t ctx,
                    const struct figure *f) {
    struct marlin_error err = {0};
    struct ml_perplexity p;
    const struct ml_perplexity_options o = {.ctx = ctx, .max_tokens = (size_t)f->max_tokens};
    if (ml_perplexity_run(r->model, NULL, r->pool, ids->id, ids->n, &o, &p, &err) != MARLIN_OK)
        fail_msg("%s", err.text);
    print_message("%zu tokens: perplexity %.5f, transformers %.5f, ratio - 1 = %.2e\n", p.tokens,
                  p.perplexity, f->perplexity, p.perplexity / f->perplexity - 1);
    assert_int_equal(p.tokens, f->tokens);
    assert_true(fabs(p.perplexity / f->perplexity - 1) <= 1e-3);
}

static void check_model(const char *name, const char *dir, const struct ml_json *root, const char *text,
                        size_t len) {
    struct marlin_error err = {0};
    struct ml_runtime r;
    struct ml_ids ids = {0};
    int64_t ctx;
    int compared = 0;
    assert_true(ml_json_i64(ml_json_get(root, "ctx"), &ctx));
    if (ml_runtime_open(dir, NULL, &r, &err) != MARLIN_OK) fail_msg("%s", err.text);
    assert_int_equal(ml_tokenizer_encode(r.tokenizer, text, len, ML_ENCODE_SPECIAL, &ids, &err), MARLIN_OK);
    const struct ml_json *v = ml_json_first(ml_json_get(root, "figures"));
    for (; v; v = ml_json_next(v)) {
        struct figure f;
        const char *model = ml_json_string(ml_json_get(v, "model"), NULL);
        assert_non_null(model);
        if (strcmp(model, name) != 0) continue;
        assert_true(ml_json_i64(ml_json_get(v, "max_tokens"), &f.max_tokens));
        assert_true(ml_json_i64(ml_json_get(v, "text_tokens"), &f.text_tokens));
        assert_true(ml_json_i64(ml_json_get(v, "tokens"), &f.tokens));
        assert_true(ml_json_double(ml_json_get(v, "perplexity"), &f.perplexity));
        assert_int_equal(ids.n, f.text_tokens);
        if (compared && !getenv("MARLIN_FULL")) continue;
        compare(&r, &ids, (size_t)ctx, &f);
        compared++;
    }
    assert_true(compared > 0);
    ml_ids_free(&ids);
    ml_runtime_close(&r);
}

static void run(const char *name) {
    const char *shared = getenv("MARLIN_SHARED");
    char path[PATH_CAP], dir[PATH_CAP];
    char *text = NULL, *golden = NULL;
    size_t len, golden_len;
    struct ml_json_doc *doc = NULL;
    struct marlin_error err = {0};
    snprintf(path, sizeof(path), "%s/data/text/eval.txt", shared ? shared : "");
    snprintf(dir, sizeof(dir), "%s/data/models/%s", shared ? shared : "", name);
    if (!shared || !ml_path_exists(path) || !ml_path_is_dir(dir)) {
        print_message("skipped: MARLIN_SHARED does not hold data/text/eval.txt and the model %s\n", name);
        skip();
    }
    assert_int_equal(ml_file_slurp(path, TEXT_LIMIT, &text, &len, &err), MARLIN_OK);
    assert_int_equal(
        ml_file_slurp(MARLIN_SOURCE_DIR "/tests/golden/perplexity.json", 1 << 20, &golden, &golden_len, &err),
        MARLIN_OK);
    assert_int_equal(ml_json_parse(golden, golden_len, NULL, &doc, &err), MARLIN_OK);
    check_model(name, dir, ml_json_root(doc), text, len);
    ml_json_free(doc);
    ml_free(golden);
    ml_free(text);
}

static void marlin_12m(void **state) {
    (void)state;
    run("marlin-12m");
}

static void marlin_moe_12m(void **state) {
    (void)state;
    run("marlin-moe-12m");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(marlin_12m), cmocka_unit_test(marlin_moe_12m)};
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
