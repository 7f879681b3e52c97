/* SPDX-License-Identifier: Apache-2.0
 *
 * A layer's list of linears against the layer itself, and what it says of inputs against a forward pass.
 */
#include "fixtures.h"
#include "make_model.h"
#include "models/step.h"

enum { MOST = 1024 };

static struct ml_model *load(const char *name) {
    char dir[MAKE_PATH];
    (void)snprintf(dir, sizeof(dir), "%s/tests/golden/fixtures/%s", MARLIN_SOURCE_DIR, name);
    return make_load(dir);
}

/* ---- the list ---- */

static void assert_site(const struct ml_site *s, const struct ml_linear *l, enum ml_role role,
                        enum ml_input input, int expert) {
    assert_ptr_equal(s->linear, l);
    assert_non_null(l->name);
    assert_int_equal(s->role, role);
    assert_int_equal(s->input, input);
    assert_int_equal(s->expert, expert);
}

static void assert_mlp(const struct ml_site s[3], const struct ml_mlp *mlp, int expert) {
    const enum ml_input hidden = expert < 0 ? ML_INPUT_HIDDEN : ML_INPUT_EXPERT_HIDDEN;
    assert_site(&s[0], &mlp->gate, ML_ROLE_GATE, ML_INPUT_FFN, expert);
    assert_site(&s[1], &mlp->up, ML_ROLE_UP, ML_INPUT_FFN, expert);
    assert_site(&s[2], &mlp->down, ML_ROLE_DOWN, hidden, expert);
}

static const struct ml_site *assert_attention(const struct ml_site *s, const struct ml_attention_weights *a) {
    assert_site(s++, &a->q, ML_ROLE_Q, ML_INPUT_ATTENTION, ML_NO_EXPERT);
    assert_site(s++, &a->k, ML_ROLE_K, ML_INPUT_ATTENTION, ML_NO_EXPERT);
    assert_site(s++, &a->v, ML_ROLE_V, ML_INPUT_ATTENTION, ML_NO_EXPERT);
    assert_site(s++, &a->o, ML_ROLE_O, ML_INPUT_ATTENTION_OUT, ML_NO_EXPERT);
    if (a->gate.out) assert_site(s++, &a->gate, ML_ROLE_ATTENTION_GATE, ML_INPUT_ATTENTION, ML_NO_EXPERT);
    return s;
}

static const struct ml_site *assert_mla(const struct ml_site *s, const struct ml_mla_weights *w) {
    const enum ml_input q = w->q_a.out ? ML_INPUT_QUERY_LOW : ML_INPUT_ATTENTION;
    if (w->q_a.out) assert_site(s++, &w->q_a, ML_ROLE_Q_LOW, ML_INPUT_ATTENTION, ML_NO_EXPERT);
    assert_site(s++, &w->q_b, ML_ROLE_Q, q, ML_NO_EXPERT);
    assert_site(s++, &w->kv_a, ML_ROLE_KV_LOW, ML_INPUT_ATTENTION, ML_NO_EXPERT);
    assert_site(s++, &w->kv_b, ML_ROLE_KV, ML_INPUT_LATENT, ML_NO_EXPERT);
    assert_site(s++, &w->o, ML_ROLE_O, ML_INPUT_ATTENTION_OUT, ML_NO_EXPERT);
    return s;
}

static const struct ml_site *assert_moe(const struct ml_site *s, const struct ml_moe *moe) {
    assert_site(s++, &moe->router, ML_ROLE_ROUTER, ML_INPUT_FFN, ML_NO_EXPERT);
    for (size_t e = 0; e < moe->choose.experts; e++, s += 3)
        assert_mlp(s, &moe->experts[e], (int)e);
    if (moe->shared.gate.out) {
        assert_mlp(s, &moe->shared, ML_NO_EXPERT);
        s += 3;
    }
    return s;
}

/* Written out by hand, as the walks were that the list stands for. */
static void the_list_is_the_layer(void **state) {
    (void)state;
    for (size_t i = 0; i < N_FIXTURES; i++) {
        struct ml_model *m = load(fixtures[i]);
        for (size_t k = 0; k < (size_t)m->config->num_layers; k++) {
            const struct ml_layer *l = &m->layers[k];
            const struct ml_site *s = l->sites;
            assert_int_equal(l->mixer.kind, m->config->kv_lora_rank > 0 ? ML_MIXER_MLA : ML_MIXER_ATTENTION);
            s = l->mixer.kind == ML_MIXER_MLA ? assert_mla(s, &l->mixer.mla)
                                              : assert_attention(s, &l->mixer.attention);
            assert_int_equal(l->ffn.kind, m->config->layer_moe[k] ? ML_FFN_MOE : ML_FFN_MLP);
            if (l->ffn.kind == ML_FFN_MOE) {
                s = assert_moe(s, &l->ffn.moe);
            } else {
                assert_mlp(s, &l->ffn.mlp, ML_NO_EXPERT);
                s += 3;
            }
            assert_int_equal(l->n_sites, s - l->sites);
        }
        ml_model_free(m);
    }
}

static void looking_up(void **state) {
    struct ml_model *m = load("qwen3_moe"); /* layer 0 is dense, layer 1 is not */
    (void)state;
    const struct ml_layer *dense = &m->layers[0], *mixed = &m->layers[1];
    assert_ptr_equal(ml_layer_site(dense, ML_ROLE_DOWN)->linear, &dense->ffn.mlp.down);
    assert_null(ml_layer_site(dense, ML_ROLE_ROUTER));
    assert_ptr_equal(ml_layer_site(mixed, ML_ROLE_ROUTER)->linear, &mixed->ffn.moe.router);
    assert_ptr_equal(ml_layer_input(mixed, ML_INPUT_FFN)->linear, &mixed->ffn.moe.router);
    assert_null(ml_layer_input(mixed, ML_INPUT_HIDDEN));
    assert_null(ml_layer_input(dense, ML_INPUT_EXPERT_HIDDEN));
    for (int role = 0; role < ML_ROLES; role++)
        for (int other = 0; other < role; other++)
            assert_string_not_equal(ml_role_name((enum ml_role)role), ml_role_name((enum ml_role)other));
    ml_model_free(m);
}

/* ---- inputs ---- */

/* The rows that each linear was given, in the order of the calls. */
struct seen {
    const struct ml_linear *linear[MOST];
    float *x[MOST];
    size_t rows[MOST], n;
};

static void observe(void *user, const struct ml_linear *l, const float *x, size_t ldx, size_t n) {
    struct seen *s = user;
    assert_true(s->n < MOST);
    s->linear[s->n] = l;
    s->rows[s->n] = n;
    s->x[s->n] = malloc(n * l->in * sizeof(float));
    assert_non_null(s->x[s->n]);
    for (size_t t = 0; t < n; t++)
        memcpy(s->x[s->n] + t * l->in, x + t * ldx, l->in * sizeof(float));
    s->n++;
}

static const struct ml_site *site_of(const struct ml_model *m, const struct ml_linear *l) {
    for (size_t i = 0; i < (size_t)m->config->num_layers; i++)
        for (size_t k = 0; k < m->layers[i].n_sites; k++)
            if (m->layers[i].sites[k].linear == l) return &m->layers[i].sites[k];
    return NULL;
}

static bool has_row(const struct seen *s, size_t i, const float *row, size_t width) {
    for (size_t t = 0; t < s->rows[i]; t++)
        if (memcmp(s->x[i] + t * width, row, width * sizeof(float)) == 0) return true;
    return false;
}

/* Whether all rows of call i are rows of call j. */
static bool reads_from(const struct seen *s, size_t i, size_t j) {
    const size_t width = s->linear[i]->in;
    if (width != s->linear[j]->in) return false;
    for (size_t t = 0; t < s->rows[i]; t++)
        if (!has_row(s, j, s->x[i] + t * width, width)) return false;
    return true;
}

/* Call i and the first call before it of the same layer and input: the same rows, of an expert some of them.
 * Returns 1 if there was such a call. */
static size_t compare(const struct ml_model *m, const struct seen *s, size_t i, size_t first) {
    const struct ml_site *a = site_of(m, s->linear[i]);
    for (size_t j = first; j < i; j++) {
        const struct ml_site *b = site_of(m, s->linear[j]);
        const bool own = a->input == ML_INPUT_EXPERT_HIDDEN && a->expert != b->expert;
        if (a->input != b->input) {
            assert_false(reads_from(s, i, j));
            continue;
        }
        if (!own && !reads_from(s, i, j))
            fail_msg("%s reads not what %s reads", a->linear->name, b->linear->name);
        if (own && reads_from(s, i, j)) fail_msg("%s reads what %s reads", a->linear->name, b->linear->name);
        return 1;
    }
    return 0;
}

/* Layer by layer, every linear that multiplies is in the list and reads what the list says. */
static void inputs_are_what_is_read(void **state) {
    (void)state;
    for (size_t fixture = 0; fixture < N_FIXTURES; fixture++) {
        struct ml_model *m = load(fixtures[fixture]);
        struct seen *s = calloc(1, sizeof(*s));
        struct feed f;
        float *x = calloc(MAKE_PROMPT, (size_t)m->config->hidden_size * sizeof(float));
        size_t compared = 0;
        assert_true(s && x);
        assert_int_equal(feed_open(&f, m, NULL, MAKE_PROMPT, MAKE_PROMPT, NULL), MARLIN_OK);
        ml_work_observe(f.work, observe, s);
        ml_embed_ids(ml_work_first(f.work), make_prompt, MAKE_PROMPT, x);
        for (size_t k = 0; k < (size_t)m->config->num_layers; k++) {
            const size_t first = s->n;
            assert_int_equal(ml_layer_forward(f.work, f.sequence, k, x, MAKE_PROMPT, 0, NULL), MARLIN_OK);
            assert_true(s->n - first >= 7);
            for (size_t i = first; i < s->n; i++) {
                if (!site_of(m, s->linear[i])) fail_msg("%s is in no list", s->linear[i]->name);
                compared += compare(m, s, i, first);
            }
        }
        assert_true(compared >= 3 * (size_t)m->config->num_layers);
        for (size_t i = 0; i < s->n; i++)
            free(s->x[i]);
        free(s);
        free(x);
        feed_close(&f);
        ml_model_free(m);
    }
}

/* ---- families ---- */

/* One list names the families: each has an architecture of that name, and nothing else has one. */
static void families_have_architectures(void **state) {
    size_t n = 0;
    (void)state;
    for (const char *const *s = ml_config_supported(); *s; s++, n++) {
        const struct ml_arch *arch = ml_arch_find(*s);
        assert_non_null(arch);
        assert_string_equal(arch->model_type, *s);
        assert_non_null(arch->bind);
        assert_non_null(arch->layer);
    }
    assert_true(n >= 11);
    assert_null(ml_arch_find("gpt2"));
    assert_null(ml_arch_find(""));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_list_is_the_layer),
        cmocka_unit_test(looking_up),
        cmocka_unit_test(inputs_are_what_is_read),
        cmocka_unit_test(families_have_architectures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
