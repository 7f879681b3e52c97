/* SPDX-License-Identifier: Apache-2.0
 *
 * marlin_linear against the scalar reference: products in double over the very weights that it says it has,
 * tiles as the slow twin decodes them, and a linear of a directory against the one of the loaded model.
 */
#include "base/mem.h"
#include "base/rng.h"
#include "marlin/marlin.h"
#include "models/model_int.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"

#define GOLDEN MARLIN_SOURCE_DIR "/tests/golden/"

static struct marlin_error err;

#define OK(expr)                                                                                             \
    do {                                                                                                     \
        if ((expr) != MARLIN_OK) fail_msg("%s: %s", #expr, err.text);                                        \
    } while (0)

static float *normals(size_t n, uint64_t seed) {
    struct ml_rng rng;
    float *v = test_malloc(n * sizeof *v);
    ml_rng_seed(&rng, seed);
    for (size_t i = 0; i < n; i++) {
        double sum = -6;
        for (int k = 0; k < 12; k++)
            sum += ml_rng_double(&rng);
        v[i] = (float)sum;
    }
    return v;
}

/* y [n, out] = x W^T + bias in double. */
static void multiply_in_double(const float *w, const float *bias, size_t out, size_t in, const float *x,
                               size_t n, double *y) {
    for (size_t t = 0; t < n; t++)
        for (size_t r = 0; r < out; r++) {
            double sum = bias ? bias[r] : 0;
            for (size_t c = 0; c < in; c++)
                sum += (double)w[r * in + c] * x[t * in + c];
            y[t * out + r] = sum;
        }
}

/* Root of the mean square of a - b, relative to that of b. */
static double distance(const float *a, const double *b, size_t n) {
    double error = 0, power = 0;
    for (size_t i = 0; i < n; i++) {
        error += (a[i] - b[i]) * (a[i] - b[i]);
        power += b[i] * b[i];
    }
    return sqrt(error / power);
}

/* How far products are from those in double over the weights that the linear says it has. */
static double error_of_products(marlin_linear *l, const float *bias, size_t n) {
    struct marlin_linear_info info;
    marlin_linear_describe(l, &info);
    float *w = test_malloc(info.out * info.in * sizeof *w), *x = normals(n * info.in, 9);
    float *y = test_malloc(n * info.out * sizeof *y);
    double *wanted = test_malloc(n * info.out * sizeof *wanted);
    memset(y, 0xff, n * info.out * sizeof *y);
    OK(marlin_linear_weights(l, w, &err));
    OK(marlin_linear_multiply(l, x, n, y, &err));
    multiply_in_double(w, bias, info.out, info.in, x, n, wanted);
    const double d = distance(y, wanted, n * info.out);
    test_free(w);
    test_free(x);
    test_free(y);
    test_free(wanted);
    return d;
}

/* ---- arrays ---- */

static void plain_weights_are_read_in_place(void **state) {
    (void)state;
    enum { OUT = 37, IN = 130 };
    float *w = normals((size_t)OUT * IN, 1), got[OUT * IN];
    marlin_linear *l = NULL;
    struct marlin_linear_info info;
    OK(marlin_linear_wrap(w, OUT, IN, NULL, &l, &err));
    marlin_linear_describe(l, &info);
    assert_int_equal(info.out, OUT);
    assert_int_equal(info.in, IN);
    assert_int_equal(info.bytes, OUT * IN * 4);
    assert_true(info.bits == 32 && info.error == 0 && !info.quantized && !info.bias);
    OK(marlin_linear_weights(l, got, &err));
    assert_memory_equal(got, w, sizeof got);
    /* 300 rows are more than go at once, 0 are none. */
    assert_true(error_of_products(l, NULL, 1) < 1e-6);
    assert_true(error_of_products(l, NULL, 300) < 1e-6);
    OK(marlin_linear_multiply(l, NULL, 0, NULL, &err));
    marlin_linear_close(l);
    test_free(w);
}

/* A row of y does not depend on how many there are, nor on threads. */
static void assert_rows_stand_alone(marlin_linear *one, marlin_linear *two, size_t out, size_t in) {
    enum { N = 259 };
    float *x = normals(N * in, 4), *all = test_malloc(N * out * sizeof *all),
          *row = test_malloc(out * sizeof *row);
    OK(marlin_linear_multiply(one, x, N, all, &err));
    for (size_t t = 0; t < N; t += 43) {
        OK(marlin_linear_multiply(two, x + t * in, 1, row, &err));
        assert_memory_equal(row, all + t * out, out * sizeof *row);
    }
    test_free(x);
    test_free(all);
    test_free(row);
}

/* Squared errors of Gaussian weights: what the trellis codes reach (docs/format.md), with room for the draw. */
static const struct {
    int bits;
    double most, stored;
} widths[] = {{2, 0.09, 2}, {3, 0.025, 3}, {4, 0.008, 4}, {5, 0.002, 5}, {6, 0.0006, 6}, {8, 0.0002, 8}};

static void every_width(void **state) {
    (void)state;
    enum { OUT = 150, IN = 200 };
    float *w = normals((size_t)OUT * IN, 2), *got = test_malloc((size_t)OUT * IN * sizeof *got);
    double *exact = test_malloc((size_t)OUT * IN * sizeof *exact), before = 1;
    for (size_t i = 0; i < (size_t)OUT * IN; i++)
        exact[i] = w[i];
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        const struct marlin_quantization q = {.bits = widths[i].bits, .seed = 3};
        const struct marlin_linear_options two = {.threads = 2}, one = {.threads = 1, .exact = true};
        struct marlin_linear_info info;
        marlin_linear *l = NULL, *slow = NULL;
        OK(marlin_linear_quantize(w, OUT, IN, &q, &two, &l, &err));
        OK(marlin_linear_quantize(w, OUT, IN, &q, &one, &slow, &err));
        marlin_linear_describe(l, &info);
        assert_true(info.quantized && info.bits == widths[i].stored);
        OK(marlin_linear_weights(l, got, &err));
        const double d = distance(got, exact, (size_t)OUT * IN), squared = d * d;
        print_message("%d bits: squared error %.5f, said %.5f\n", q.bits, squared, info.error);
        if (squared > widths[i].most || squared > before)
            fail_msg("%d bits: squared error %g", q.bits, squared);
        /* Padding, whose target is zero, is a part of the error of tiles. */
        assert_true(info.error > 0 && info.error < 2 * squared && squared < 2 * info.error);
        before = squared;
        assert_true(error_of_products(slow, NULL, 3) < 1e-5);
        assert_true(error_of_products(l, NULL, 300) < 0.015); /* kernels/quant.h */
        assert_rows_stand_alone(l, l, OUT, IN);
        marlin_linear_close(l);
        marlin_linear_close(slow);
    }
    test_free(w);
    test_free(got);
    test_free(exact);
}

static void seeds_decide(void **state) {
    (void)state;
    enum { N = 128 };
    float *w = normals((size_t)N * N, 5), *a = test_malloc(sizeof(float) * N * N),
          *b = test_malloc(sizeof(float) * N * N);
    for (int other = 0; other < 2; other++) {
        const struct marlin_quantization q = {.bits = 3, .seed = 7}, p = {.bits = 3, .seed = other ? 8 : 7};
        const struct marlin_linear_options one = {.threads = 1}, two = {.threads = 2};
        marlin_linear *l = NULL, *m = NULL;
        OK(marlin_linear_quantize(w, N, N, &q, &one, &l, &err));
        OK(marlin_linear_quantize(w, N, N, &p, &two, &m, &err));
        OK(marlin_linear_weights(l, a, &err));
        OK(marlin_linear_weights(m, b, &err));
        assert_int_equal(memcmp(a, b, sizeof(float) * N * N) == 0, !other);
        if (!other) assert_rows_stand_alone(l, m, N, N);
        marlin_linear_close(l);
        marlin_linear_close(m);
    }
    test_free(w);
    test_free(a);
    test_free(b);
}

/* Inputs that lie in few directions: a Hessian that says so makes y better, though the weights become worse. */
static void a_hessian_helps(void **state) {
    (void)state;
    enum { OUT = 128, IN = 128, FEW = 12, TOKENS = 256 };
    float *w = normals((size_t)OUT * IN, 6), *base = normals((size_t)FEW * IN, 7),
          *mix = normals((size_t)TOKENS * FEW, 8);
    float *x = test_calloc((size_t)TOKENS * IN, sizeof *x), *h = test_calloc((size_t)IN * IN, sizeof *h);
    float *y = test_malloc(sizeof(float) * TOKENS * OUT);
    double *wanted = test_malloc(sizeof(double) * TOKENS * OUT), error[2];
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t f = 0; f < FEW; f++)
            for (size_t c = 0; c < IN; c++)
                x[t * IN + c] += mix[t * FEW + f] * base[f * IN + c];
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t a = 0; a < IN; a++)
            for (size_t b = 0; b <= a; b++)
                h[a * IN + b] += x[t * IN + a] * x[t * IN + b];
    multiply_in_double(w, NULL, OUT, IN, x, TOKENS, wanted);
    for (int with = 0; with < 2; with++) {
        const struct marlin_quantization q = {.bits = 2, .hessian = with ? h : NULL};
        const struct marlin_linear_options o = {.exact = true};
        marlin_linear *l = NULL;
        OK(marlin_linear_quantize(w, OUT, IN, &q, &o, &l, &err));
        OK(marlin_linear_multiply(l, x, TOKENS, y, &err));
        error[with] = distance(y, wanted, (size_t)TOKENS * OUT);
        marlin_linear_close(l);
    }
    print_message("error of y at 2 bits: %.4f, with a Hessian %.4f\n", error[0], error[1]);
    assert_true(error[1] < 0.7 * error[0]);
    test_free(w);
    test_free(base);
    test_free(mix);
    test_free(x);
    test_free(h);
    test_free(y);
    test_free(wanted);
}

/* ---- what is refused ---- */

static void refuse(float *w, float *h, int bits, size_t out, size_t in, marlin_status status,
                   const char *says) {
    const struct marlin_quantization q = {.bits = bits, .hessian = h};
    marlin_linear *l = NULL;
    assert_int_equal(marlin_linear_quantize(w, out, in, &q, NULL, &l, &err), status);
    assert_null(l);
    if (!strstr(err.text, says)) fail_msg("no '%s' in: %s", says, err.text);
}

static void bad_arguments_are_named(void **state) {
    (void)state;
    enum { N = 16 };
    float *w = normals((size_t)N * N, 1), *h = test_calloc((size_t)N * N, sizeof *h), y[N];
    marlin_linear *l = NULL;
    const struct marlin_linear_options minus = {.threads = -1};
    for (int bits = -1; bits <= 9; bits++)
        if (bits < 2 || bits == 7 || bits > 8)
            refuse(w, NULL, bits, N, N, MARLIN_ERR_UNSUPPORTED, "2 to 6 and 8 are possible");
    refuse(NULL, NULL, 4, N, N, MARLIN_ERR_ARGUMENT, "NULL");
    refuse(w, NULL, 4, 0, N, MARLIN_ERR_ARGUMENT, "0 x 16");
    refuse(w, NULL, 4, SIZE_MAX / 2, 8, MARLIN_ERR_LIMIT, "address space");
    refuse(w, h, 8, N, N, MARLIN_ERR_ARGUMENT, "leave it out");
    refuse(w, h, 4, N, N, MARLIN_ERR_NUMERIC, "the Hessian is zero");
    h[3 * N + 2] = NAN;
    refuse(w, h, 4, N, N, MARLIN_ERR_NUMERIC, "[3, 2] of the Hessian is not finite");
    h[3 * N + 2] = 0;
    h[5 * N + 5] = -1;
    refuse(w, h, 4, N, N, MARLIN_ERR_NUMERIC, "[5, 5] of the Hessian is negative");
    w[N + 4] = INFINITY;
    refuse(w, NULL, 4, N, N, MARLIN_ERR_NUMERIC, "[1, 4] is not finite");
    refuse(w, NULL, 8, N, N, MARLIN_ERR_NUMERIC, "row 1");
    w[N + 4] = 0;
    assert_int_equal(marlin_linear_wrap(w, N, N, &minus, &l, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "threads is -1"));
    assert_int_equal(marlin_linear_wrap(NULL, N, N, NULL, &l, &err), MARLIN_ERR_ARGUMENT);
    OK(marlin_linear_wrap(w, N, N, NULL, &l, &err));
    assert_int_equal(marlin_linear_multiply(l, NULL, 1, y, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(marlin_linear_multiply(l, w, 1, NULL, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(marlin_linear_multiply(NULL, w, 1, y, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(marlin_linear_weights(l, NULL, &err), MARLIN_ERR_ARGUMENT);
    marlin_linear_close(l);
    marlin_linear_close(NULL);
    test_free(w);
    test_free(h);
}

/* Each allocation fails in turn: an error, and nothing leaks (under the sanitizers). */
static void failing_allocations(void **state) {
    (void)state;
    enum { N = 128 };
    float *w = normals((size_t)N * N, 1), *h = test_calloc((size_t)N * N, sizeof *h);
    const struct marlin_linear_options one = {.threads = 1};
    uint64_t failures = 0;
    for (size_t i = 0; i < N; i++)
        h[i * N + i] = 1;
    for (int way = 0; way < 3; way++) {
        const struct marlin_quantization q = {.bits = way == 0 ? 8 : 3, .hessian = way == 2 ? h : NULL};
        marlin_status st = MARLIN_ERR_MEMORY;
        for (uint64_t n = 1; st != MARLIN_OK; n++) {
            marlin_linear *l = NULL;
            ml_mem_fail_at(n);
            st = marlin_linear_quantize(w, N, N, &q, &one, &l, &err);
            ml_mem_fail_at(0);
            if (st != MARLIN_OK) assert_int_equal(st, MARLIN_ERR_MEMORY);
            failures += st != MARLIN_OK;
            marlin_linear_close(l);
        }
    }
    assert_true(failures > 30);
    test_free(w);
    test_free(h);
}

/* ---- directories ---- */

/* Every linear of every layer, one by one, is what the loaded model has. */
static size_t compare_all(const char *dir) {
    const struct ml_model_options mo = {.kv_dtype = ML_F32};
    const struct marlin_linear_options one = {.threads = 1, .exact = true};
    struct ml_model *m = NULL;
    size_t compared = 0;
    OK(ml_model_load(dir, &mo, &m, &err));
    for (size_t i = 0; i < (size_t)m->config->num_layers; i++)
        for (size_t s = 0; s < m->layers[i].n_sites; s++) {
            const struct ml_linear *have = m->layers[i].sites[s].linear;
            struct marlin_linear_info info;
            marlin_linear *l = NULL;
            char name[300];
            (void)snprintf(name, sizeof name, "%s%s", have->name, s % 2 ? ".weight" : "");
            OK(marlin_linear_open(dir, name, &one, &l, &err));
            marlin_linear_describe(l, &info);
            assert_int_equal(info.out, have->out);
            assert_int_equal(info.in, have->in);
            assert_int_equal(info.bias, have->bias != NULL);
            assert_int_equal(info.quantized, have->kind == ML_LINEAR_QUANT);
            const double d = error_of_products(l, have->bias, 5);
            if (!(d < 1e-5)) fail_msg("%s: %s: %g", dir, name, d);
            if (have->kind == ML_LINEAR_PLAIN && have->u.plain.dtype == ML_F32) {
                float *w = test_malloc(have->out * have->in * sizeof *w);
                OK(marlin_linear_weights(l, w, &err));
                assert_memory_equal(w, have->u.plain.data, have->out * have->in * sizeof *w);
                test_free(w);
            }
            marlin_linear_close(l);
            compared++;
        }
    ml_model_free(m);
    return compared;
}

static void linears_of_directories(void **state) {
    (void)state;
    /* Plain, with biases, fused (phi3), experts; EXL3 with slices; GGUF with rows put in order and stacked experts. */
    static const char *const dirs[] = {GOLDEN "fixtures/llama3",  GOLDEN "fixtures/qwen2",
                                       GOLDEN "fixtures/phi3",    GOLDEN "fixtures/qwen3_moe",
                                       GOLDEN "exl3/dense-3inst", GOLDEN "exl3/dense-mul1",
                                       GOLDEN "gguf/llama.gguf",  GOLDEN "gguf/mixtral.gguf"};
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++)
        assert_true(compare_all(dirs[i]) >= 4);
}

static void names_that_are_none(void **state) {
    (void)state;
    static const char *const names[] = {"",
                                        ".weight",
                                        "model.norm",
                                        "model.norm.weight",
                                        "model.layers.0",
                                        "model.layers.0.self_attn.q_proj.bias",
                                        "model.layers.99.self_attn.q_proj",
                                        "model.layers.0.self_attn.q_proj.weight.weight"};
    marlin_linear *l = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_int_equal(marlin_linear_open(GOLDEN "fixtures/llama3", names[i], NULL, &l, &err),
                         MARLIN_ERR_NOT_FOUND);
        assert_non_null(strstr(err.text, "no linear layer is called"));
        assert_null(l);
    }
    assert_int_equal(marlin_linear_open("/nonexistent/model", "lm_head", NULL, &l, &err),
                     MARLIN_ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "/nonexistent/model"));
    assert_int_equal(marlin_linear_open(NULL, "lm_head", NULL, &l, &err), MARLIN_ERR_ARGUMENT);
}

/* ---- threads ---- */

enum { SIDE = 128, TIMES = 20 };

struct caller {
    marlin_linear *l;
    const float *x, *wanted;
    int wrong;
};

static void *call(void *arg) {
    struct caller *c = arg;
    float y[2 * SIDE];
    for (int i = 0; i < TIMES; i++)
        if (marlin_linear_multiply(c->l, c->x, 2, y, NULL) != MARLIN_OK ||
            memcmp(y, c->wanted, sizeof y) != 0)
            c->wrong++;
    return NULL;
}

static void several_threads_take_turns(void **state) {
    (void)state;
    float *w = normals((size_t)SIDE * SIDE, 1), *x = normals(2 * SIDE, 2), y[2 * SIDE];
    const struct marlin_quantization q = {.bits = 4};
    const struct marlin_linear_options two = {.threads = 2};
    marlin_linear *l = NULL;
    OK(marlin_linear_quantize(w, SIDE, SIDE, &q, &two, &l, &err));
    OK(marlin_linear_multiply(l, x, 2, y, &err));
    struct caller c[3] = {{l, x, y, 0}, {l, x, y, 0}, {l, x, y, 0}};
    pthread_t thread[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, call, &c[i]), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_join(thread[i], NULL), 0);
        assert_int_equal(c[i].wrong, 0);
    }
    marlin_linear_close(l);
    test_free(w);
    test_free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_weights_are_read_in_place),
        cmocka_unit_test(every_width),
        cmocka_unit_test(seeds_decide),
        cmocka_unit_test(a_hessian_helps),
        cmocka_unit_test(bad_arguments_are_named),
        cmocka_unit_test(failing_allocations),
        cmocka_unit_test(linears_of_directories),
        cmocka_unit_test(names_that_are_none),
        cmocka_unit_test(several_threads_take_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
