/* SPDX-License-Identifier: Apache-2.0
 *
 * Where tensors come from: names, what a linear remembers, and random models of which headers are all that is
 * made.
 */
#include "fixtures.h"
#include "make_model.h"

#include "models/store.h"

static struct ml_model *load(const char *name) {
    char dir[MAKE_PATH];
    (void)snprintf(dir, sizeof(dir), "%s/tests/golden/fixtures/%s", MARLIN_SOURCE_DIR, name);
    return make_load(dir);
}

/* ---- names ---- */

static void names_of_wrappers(void **state) {
    const struct ml_names plain = ml_names_canonical(),
                          wrapped = {"language_model.model.", "language_model."};
    char name[ML_BIND_NAME];
    unsigned long long layer = 0;
    (void)state;
    ml_names_stored(&plain, "model.norm.weight", name);
    assert_string_equal(name, "model.norm.weight");
    ml_names_stored(&plain, "lm_head.tap", name);
    assert_string_equal(name, "lm_head.tap");
    ml_names_stored(&wrapped, "model.norm.weight", name);
    assert_string_equal(name, "language_model.model.norm.weight");
    ml_names_stored(&wrapped, "lm_head.tap", name);
    assert_string_equal(name, "language_model.lm_head.tap");
    assert_string_equal(ml_names_layer(&wrapped, "language_model.model.layers.12.mlp.x", &layer), "mlp.x");
    assert_int_equal(layer, 12);
    assert_null(ml_names_layer(&wrapped, "model.layers.12.mlp.x", &layer));
    assert_null(ml_names_layer(&plain, "model.layers.-1.mlp.x", &layer));
    assert_null(ml_names_layer(&plain, "model.layers.1", &layer));
    assert_null(ml_names_layer(&plain, "model.layers..x", &layer));
}

/* A name that does not fit is that of no tensor; a cut one might be another's. */
static void long_names_are_not_cut(void **state) {
    const struct ml_names plain = ml_names_canonical();
    char longest[2 * ML_BIND_NAME], name[ML_BIND_NAME];
    (void)state;
    memset(longest, 'a', sizeof(longest));
    longest[ML_BIND_NAME - 1 - 4] = '\0';
    ml_names_join(longest, "tap", name); /* fits to the byte */
    assert_int_equal(strlen(name), ML_BIND_NAME - 1);
    longest[ML_BIND_NAME - 1 - 4] = 'a';
    longest[ML_BIND_NAME - 4] = '\0';
    ml_names_join(longest, "tap", name); /* one byte more than there is room for */
    assert_string_equal(name, "");
    longest[ML_BIND_NAME - 4] = 'a';
    longest[ML_BIND_NAME] = '\0';
    ml_names_stored(&plain, longest, name);
    assert_string_equal(name, "");

    struct ml_model *m = load("qwen3");
    struct ml_source *s = NULL;
    struct marlin_error err = {0};
    const struct ml_tensor *t = NULL;
    const struct ml_want want = {.name = longest, .dtype = ML_BF16, .also = ML_WANT_ANY};
    assert_int_equal(ml_source_file(m, &s, NULL), MARLIN_OK);
    assert_false(s->ops->has(s, longest));
    assert_int_equal(s->ops->tensor(s, &want, &t, &err), MARLIN_ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "aaaa"));
    assert_true(s->ops->has(s, "model.norm.weight"));
    s->ops->close(s);
    ml_model_free(m);
}

/* ---- origins ---- */

static bool comes_from(const struct ml_linear *l, const struct ml_tensor *t) {
    for (const struct ml_origin *o = l->origin; o; o = o->next)
        if (o->tensor == t) return true;
    return false;
}

static size_t users(const struct ml_model *m, const struct ml_tensor *t) {
    size_t n = (t == m->embedding_from) + comes_from(&m->head, t);
    for (size_t i = 0; i < (size_t)m->config->num_layers; i++)
        for (size_t k = 0; k < m->layers[i].n_sites; k++)
            n += comes_from(m->layers[i].sites[k].linear, t);
    return n;
}

/* Every matrix of the file that is not of a vision tower is the embedding or has linears that remember it, and its numbers are theirs. */
static void linears_remember_their_tensors(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FIXTURES; f++) {
        struct ml_model *m = load(fixtures[f]);
        for (size_t i = 0; i < ml_tensors_count(m->tensors); i++) {
            const struct ml_tensor *t = ml_tensors_at(m->tensors, i);
            const bool fused = strstr(t->name, "qkv_proj") || strstr(t->name, "gate_up_proj");
            if (t->rank < 2 || strstr(t->name, "vision")) continue;
            if (users(m, t) == 0) fail_msg("%s: %s is nobody's", fixtures[f], t->name);
            if (fused) assert_true(users(m, t) >= 2);
        }
        for (size_t i = 0; i < (size_t)m->config->num_layers; i++)
            for (size_t k = 0; k < m->layers[i].n_sites; k++) {
                const struct ml_linear *l = m->layers[i].sites[k].linear;
                size_t weights = 0, biases = 0, mx = 0;
                for (const struct ml_origin *o = l->origin; o; o = o->next) {
                    const uint8_t *at = l->u.plain.data;
                    weights += !o->bias;
                    biases += o->bias;
                    mx += o->tensor->dtype == ML_U8;
                    if (!o->bias && !mx)
                        assert_true(at >= o->tensor->data && at < o->tensor->data + o->tensor->bytes);
                }
                /* Experts in MXFP4 are made of two tensors into other numbers. */
                assert_int_equal(weights, mx ? 2 : 1);
                assert_int_equal(biases, l->bias != NULL);
            }
        assert_int_equal(m->head.origin == NULL, m->head.u.plain.data == m->embedding.data);
        ml_model_free(m);
    }
}

/* ---- random models ---- */

static void same_figures(const struct ml_model *a, const struct ml_model *b) {
    struct ml_model_bits x, y;
    assert_int_equal(ml_model_parameters(a), ml_model_parameters(b));
    assert_int_equal(ml_model_weight_bytes(a), ml_model_weight_bytes(b));
    assert_int_equal(ml_model_bytes_per_token(a), ml_model_bytes_per_token(b));
    assert_int_equal(ml_model_products_per_token(a), ml_model_products_per_token(b));
    ml_model_bits(a, &x);
    ml_model_bits(b, &y);
    assert_true(x.layers == y.layers && x.head == y.head && x.embedding == y.embedding);
    assert_int_equal(x.quantized, y.quantized);
}

/* Headers alone: the same figures, and not one weight. */
static void random_headers(void **state) {
    static const struct ml_random_format formats[] = {{16, false}, {2, false}, {4, false}, {6, false},
                                                      {8, false},  {1, true},  {4, true},  {8, true}};
    static const char *const like[] = {"qwen2", "qwen3_moe", "mixtral", "phi3", "gemma2"};
    (void)state;
    for (size_t f = 0; f < sizeof(like) / sizeof(like[0]); f++) {
        struct ml_model *shape = load(like[f]), *full = NULL, *headers = NULL;
        const struct ml_model_options all = {.kv_dtype = ML_F32},
                                      dry = {.kv_dtype = ML_F32, .headers_only = true};
        for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
            assert_int_equal(ml_model_random(shape->config, &formats[i], 1, &all, &full, NULL), MARLIN_OK);
            assert_int_equal(ml_model_random(shape->config, &formats[i], 1, &dry, &headers, NULL), MARLIN_OK);
            same_figures(full, headers);
            assert_non_null(full->embedding.data);
            assert_null(headers->embedding.data);
            assert_null(headers->owned);
            ml_model_free(full);
            ml_model_free(headers);
        }
        ml_model_free(shape);
    }
}

/* What a random model is made of, and that biases are zeros, whatever form the weights have. */
static void random_forms(void **state) {
    static const struct {
        struct ml_random_format format;
        enum ml_quant_format form, head;
    } cases[] = {{{3, false}, ML_QUANT_TAP, ML_QUANT_TAP},
                 {{8, false}, ML_QUANT_INT8, ML_QUANT_TAP},
                 {{3, true}, ML_QUANT_EXL3, ML_QUANT_EXL3}};
    struct ml_model *shape = load("qwen2");
    const struct ml_model_options o = {.kv_dtype = ML_F32};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ml_model *m = NULL;
        assert_int_equal(ml_model_random(shape->config, &cases[i].format, 1, &o, &m, NULL), MARLIN_OK);
        const struct ml_linear *q = &m->layers[0].mixer.attention.q;
        assert_int_equal(q->kind, ML_LINEAR_QUANT);
        assert_int_equal(q->u.quant.pieces[0].m.format, cases[i].form);
        assert_int_equal(q->u.quant.pieces[0].m.bits, cases[i].format.bits);
        assert_int_equal(m->head.u.quant.pieces[0].m.format, cases[i].head);
        assert_int_equal(m->head.u.quant.pieces[0].m.bits, 6);
        if (cases[i].form == ML_QUANT_EXL3) assert_int_equal(q->u.quant.pieces[0].m.codebook, ML_EXL3_MUL1);
        assert_non_null(q->bias);
        for (size_t k = 0; k < q->out; k++)
            assert_true(q->bias[k] == 0);
        ml_model_free(m);
    }
    ml_model_free(shape);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_wrappers),
        cmocka_unit_test(long_names_are_not_cut),
        cmocka_unit_test(linears_remember_their_tensors),
        cmocka_unit_test(random_headers),
        cmocka_unit_test(random_forms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
