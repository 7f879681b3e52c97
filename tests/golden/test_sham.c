/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole models on a device whose memory cannot be read and whose work is late (tests/support/sham.h): the CPU's
 * logits bit for bit, with every operation falling back one at a time, and with layers dealt out over several
 * devices. Nothing but operations and copies touches device memory, then.
 */
#include "fixtures.h"
#include "golden.h"

#include "guard.h"
#include "ops/fallback.h"
#include "sham.h"

#include <stdbool.h>

enum { CHUNK = 20, MOST_DEVICES = 3, PREFIX = 20, SEED = 5 };

/* One fixture, or a random model of its shape. */
struct subject {
    const char *name;
    struct golden golden;
    struct ml_model *cpu;
};

/* A list of devices that a model is bound to. */
struct devices {
    struct ml_device *list[MOST_DEVICES];
    size_t n;
};

static void add_sham(struct devices *d, uint32_t missing) {
    const struct sham_options options = {.seed = d->n + missing, .delay_us = 40, .missing = missing};
    d->list[d->n++] = sham_open(&options);
}

static void add_cpu(struct devices *d) {
    assert_int_equal(ml_device_open("cpu", &d->list[d->n++], NULL), MARLIN_OK);
}

static void close_devices(struct devices *d) {
    while (d->n > 0) {
        struct ml_device *last = d->list[--d->n];
        last->ops->destroy(last);
    }
}

static struct ml_model_options options_of(const struct devices *d, enum ml_dtype kv) {
    return (struct ml_model_options){.devices = d->n ? d->list : NULL, .n_devices = d->n, .kv_dtype = kv};
}

static struct ml_model *load(const char *name, const struct devices *d, enum ml_dtype kv) {
    const struct ml_model_options options = options_of(d, kv);
    struct ml_model *m = NULL;
    struct marlin_error err;
    char path[1024];
    (void)snprintf(path, sizeof path, "%s/tests/golden/fixtures/%s", MARLIN_SOURCE_DIR, name);
    golden_ok(ml_model_load(path, &options, &m, &err), &err);
    return m;
}

static int set_up(void **state) {
    struct subject *s = *state;
    char path[1024];
    s->cpu = load(s->name, &(struct devices){.n = 0}, ML_F32);
    (void)snprintf(path, sizeof path, "%s/tests/golden/fixtures/%s/reference.safetensors", MARLIN_SOURCE_DIR,
                   s->name);
    golden_open(&s->golden, path, false);
    return 0;
}

static int tear_down(void **state) {
    struct subject *s = *state;
    golden_close(&s->golden);
    ml_model_free(s->cpu);
    return 0;
}

static void assert_same_bits(const float *a, const float *b, size_t n, const char *what) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("%s: logit %zu of %zu is %a on the CPU and %a here", what, i, n, (double)a[i],
                     (double)b[i]);
}

/* The model gives the CPU's logits, in pieces of `chunk`. */
static void compare(const struct subject *s, const struct ml_model *m, const struct ml_model *cpu,
                    size_t chunk, const char *what) {
    const struct golden *g = &s->golden;
    float *here = golden_run(cpu, NULL, g->ids, g->n, chunk),
          *there = golden_run(m, NULL, g->ids, g->n, chunk);
    assert_same_bits(here, there, g->n * g->vocab, what);
    ml_free(here);
    ml_free(there);
}

/* ---- the fixtures ---- */

static void every_type_of_keys(void **state) {
    static const enum ml_dtype types[] = {ML_F32, ML_F16, ML_I8};
    const struct subject *s = *state;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct devices d = {0};
        add_sham(&d, 0);
        struct ml_model *cpu = load(s->name, &(struct devices){.n = 0}, types[i]);
        struct ml_model *m = load(s->name, &d, types[i]);
        compare(s, m, cpu, s->golden.n, ml_dtype_name(types[i]));
        compare(s, m, cpu, CHUNK, ml_dtype_name(types[i]));
        assert_true(sham_computed(d.list[0]) > 0);
        ml_model_free(m);
        ml_model_free(cpu);
        close_devices(&d);
    }
}

static void every_operation_missing(void **state) {
    const struct subject *s = *state;
    for (int op = 0; op <= ML_OP_COUNT; op++) {
        const bool all = op == ML_OP_COUNT;
        const char *what = all ? "without a table" : ml_operands[op].name;
        struct devices d = {0};
        add_sham(&d, all ? SHAM_NOTHING : 1u << op);
        assert_string_equal(ml_ops_missing(ml_ops_of(d.list[0]), 0), ml_operands[all ? 0 : op].name);
        struct ml_model *m = load(s->name, &d, ML_F32);
        compare(s, m, s->cpu, CHUNK, what);
        assert_true((sham_computed(d.list[0]) == 0) == all);
        ml_model_free(m);
        close_devices(&d);
    }
}

/* The devices' letters: c for the CPU, s for a sham one, f for one of which everything falls back. */
static void split_over(const struct subject *s, const char *letters) {
    struct devices d = {0};
    if (strlen(letters) > (size_t)ml_model_config(s->cpu)->num_layers) return;
    for (const char *c = letters; *c; c++) {
        if (*c == 'c')
            add_cpu(&d);
        else
            add_sham(&d, *c == 'f' ? SHAM_NOTHING : 0);
    }
    struct ml_model *m = load(s->name, &d, ML_F32);
    compare(s, m, s->cpu, CHUNK, letters);
    ml_model_free(m);
    close_devices(&d);
}

static void layers_dealt_out(void **state) {
    const struct subject *s = *state;
    assert_true(ml_model_config(s->cpu)->num_layers >= 2);
    split_over(s, "cs");
    split_over(s, "sc");
    split_over(s, "ss");
    split_over(s, "fc");
    split_over(s, "scs");
}

/* ---- sequences that share pages, draft trees ---- */

struct two {
    struct ml_work *work;
    struct ml_cache *cache;
    struct ml_sequence *a, *b;
};

static void open_two(struct two *t, const struct ml_model *m, const int32_t *ids) {
    const struct ml_pages_sizes pages = {.sequences = 2, .positions = 128, .rows = 64, .spares = 1};
    const struct ml_work_sizes sizes = {.rows = 64, .runs = 2, .positions = 128};
    struct marlin_error err;
    golden_ok(ml_work_create(m, NULL, &sizes, &t->work, &err), &err);
    golden_ok(ml_cache_create(m, ML_F16, &pages, &t->cache, &err), &err);
    golden_ok(ml_sequence_create(t->cache, 128, &t->a, &err), &err);
    golden_ok(ml_feed(t->work, t->a, ids, PREFIX, ML_LOGITS_NONE, NULL, &err), &err);
    golden_ok(ml_sequence_fork(t->a, &t->b, &err), &err);
}

/* Sequences go before the work, whose stream may not be done with them: that is the library's business. */
static void close_two(struct two *t) {
    ml_sequence_free(t->a);
    ml_sequence_free(t->b);
    ml_cache_free(t->cache);
    ml_work_free(t->work);
}

/* Three tokens of a beside a tree of six of b, of which three are kept; then some of both again. Returns 11 rows
 * of logits. */
static float *mixed_passes(const struct ml_model *m, const int32_t *ids, size_t vocab) {
    static const int32_t parent[] = {-1, 0, 0, 1, 3, -1};
    static const size_t keep[] = {0, 1, 3};
    struct marlin_error err;
    struct two t;
    float *logits = ml_alloc(11 * vocab * sizeof *logits);
    assert_non_null(logits);
    open_two(&t, m, ids);
    struct ml_run tree[] = {{.sequence = t.a, .n = 3, .logits = ML_LOGITS_ALL},
                            {.sequence = t.b, .first = 3, .n = 6, .parent = parent, .logits = ML_LOGITS_ALL}};
    struct ml_batch batch = {.n = 9, .ids = ids + PREFIX, .runs = tree, .n_runs = 2};
    golden_ok(ml_forward(t.work, &batch, logits, &err), &err);
    ml_sequence_keep(t.work, t.b, keep, 3);
    struct ml_run more[] = {{.sequence = t.b, .n = 1, .logits = ML_LOGITS_LAST},
                            {.sequence = t.a, .first = 1, .n = 5, .logits = ML_LOGITS_LAST}};
    batch = (struct ml_batch){.n = 6, .ids = ids + PREFIX + 9, .runs = more, .n_runs = 2};
    golden_ok(ml_forward(t.work, &batch, logits + 9 * vocab, &err), &err);
    assert_int_equal(ml_sequence_length(t.a), PREFIX + 8);
    assert_int_equal(ml_sequence_length(t.b), PREFIX + 4);
    close_two(&t);
    return logits;
}

static void sequences_that_share_pages(void **state) {
    static const uint32_t missing[] = {0, 1u << ML_OP_attention | 1u << ML_OP_rope_store, SHAM_NOTHING};
    const struct subject *s = *state;
    float *here = mixed_passes(s->cpu, s->golden.ids, s->golden.vocab);
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++) {
        struct devices d = {0};
        add_sham(&d, missing[i]);
        struct ml_model *m = load(s->name, &d, ML_F32);
        float *there = mixed_passes(m, s->golden.ids, s->golden.vocab);
        assert_same_bits(here, there, 11 * s->golden.vocab, "two sequences");
        ml_free(there);
        ml_model_free(m);
        close_devices(&d);
    }
    ml_free(here);
}

/* ---- quantized weights: random models of a fixture's shape ---- */

static struct ml_model *random_model(const struct subject *s, const struct ml_random_format *format,
                                     const struct devices *d) {
    const struct ml_model_options options = options_of(d, ML_F32);
    struct ml_model *m = NULL;
    struct marlin_error err;
    golden_ok(ml_model_random(ml_model_config(s->cpu), format, SEED, &options, &m, &err), &err);
    return m;
}

static void quantized_weights(void **state) {
    static const struct ml_random_format formats[] = {{.bits = 4}, {.bits = 8}, {.bits = 3, .exl3 = true}};
    static const uint32_t missing[] = {0, 1u << ML_OP_linear | 1u << ML_OP_experts | 1u << ML_OP_embed};
    const struct subject *s = *state;
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        struct ml_model *cpu = random_model(s, &formats[i], &(struct devices){.n = 0});
        for (size_t k = 0; k < sizeof missing / sizeof *missing; k++) {
            struct devices d = {0};
            add_sham(&d, missing[k]);
            struct ml_model *m = random_model(s, &formats[i], &d);
            compare(s, m, cpu, CHUNK, formats[i].exl3 ? "EXL3" : formats[i].bits == 8 ? "int8" : "tap");
            ml_model_free(m);
            close_devices(&d);
        }
        ml_model_free(cpu);
    }
}

/* ---- which ---- */

static struct subject subjects[N_FIXTURES];
static struct CMUnitTest tests[N_FIXTURES * 5];

static void add(size_t *n, const char *name, CMUnitTestFunction fn, struct subject *s) {
    tests[(*n)++] = (struct CMUnitTest){name, fn, set_up, tear_down, s};
}

/* Names on the command line choose fixtures; none means all. */
static bool wanted(const char *name, int argc, char **argv) {
    bool found = argc < 2;
    for (int i = 1; i < argc; i++)
        found |= strcmp(argv[i], name) == 0;
    return found;
}

/* ThreadSanitizer takes twenty times as long: for it three fixtures have to do that have windows, soft caps, norms
 * of heads and experts between them. */
static bool is_left_out(const char *name) {
#if defined(__SANITIZE_THREAD__)
    const bool slow = true;
#elif defined(__has_feature)
    const bool slow = __has_feature(thread_sanitizer);
#else
    const bool slow = false;
#endif
    if (!slow || strcmp(name, "gemma2") == 0 || strcmp(name, "llama3") == 0 || strcmp(name, "qwen3_moe") == 0)
        return false;
    print_message("%s: left out under ThreadSanitizer\n", name);
    return true;
}

int main(int argc, char **argv) {
    size_t n = 0;
    for (size_t i = 0; i < N_FIXTURES; i++) {
        struct subject *s = &subjects[i];
        s->name = fixtures[i];
        if (!wanted(s->name, argc, argv) || (argc < 2 && is_left_out(s->name))) continue;
        print_message("%s\n", s->name);
        add(&n, "every type of keys", every_type_of_keys, s);
        add(&n, "every operation missing", every_operation_missing, s);
        add(&n, "layers dealt out", layers_dealt_out, s);
        add(&n, "sequences that share pages", sequences_that_share_pages, s);
        if (strcmp(s->name, "llama3") == 0 || strcmp(s->name, "qwen3_moe") == 0)
            add(&n, "quantized weights", quantized_weights, s);
    }
    return cmocka_run_group_tests(tests, NULL, guard_clean); /* entries without a function are left out */
}
