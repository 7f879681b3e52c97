/* SPDX-License-Identifier: Apache-2.0
 *
 * Block LDL, Hessian sums, LDLQ and the whole driver against slow twins.
 */
#include "base/mem.h"
#include "quantization/matrix/ldlq.h"
#include "quantization/matrix/linear.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../normals.h"

enum { N = 128, K = 256 };

/* Correlated inputs: each channel leans on its neighbour. */
static float *inputs(size_t tokens, uint64_t seed) {
    float *x = normals(tokens * K, seed);
    for (size_t t = 0; t < tokens; t++) {
        for (size_t i = 1; i < K; i++) {
            x[t * K + i] = 0.8f * x[t * K + i - 1] + 0.6f * x[t * K + i];
        }
    }
    return x;
}

static void hessian_is_the_mean_of_outer_products(void **state) {
    (void)state;
    enum { T = 300, C = 100 }; /* not a multiple of anything */
    float *x = normals((size_t)T * C, 1);
    x[17 * C + 3] = NAN;
    x[18 * C] = INFINITY;
    for (int threads = 1; threads <= 2; threads++) {
        struct ml_pool *pool = NULL;
        struct ml_hessian h;
        assert_int_equal(ml_pool_create(threads, &pool, NULL), MARLIN_OK);
        assert_int_equal(ml_hessian_create(&h, C, threads, NULL), MARLIN_OK);
        ml_hessian_add(&h, ml_kernels(), pool, x, C, T);
        assert_int_equal(h.count, T - 2);
        assert_int_equal(h.dropped, 2);
        float *out = calloc(h.k * h.k, sizeof *out);
        assert_int_equal(ml_hessian_finish(&h, 0, out, NULL), MARLIN_OK);
        for (size_t i = 0; i < C; i++) {
            for (size_t j = 0; j < C; j++) {
                double sum = 0;
                for (size_t t = 0; t < T; t++) {
                    if (t != 17 && t != 18) sum += (double)x[t * C + i] * x[t * C + j];
                }
                assert_true(fabs(sum / (T - 2) - out[i * h.k + j]) < 1e-4);
            }
        }
        free(out);
        ml_hessian_free(&h);
        ml_pool_free(pool);
    }
    free(x);
}

static void empty_hessian_is_named(void **state) {
    (void)state;
    struct ml_hessian h;
    struct marlin_error err;
    static float out[128 * 128];
    assert_int_equal(ml_hessian_create(&h, 128, 1, NULL), MARLIN_OK);
    assert_int_equal(ml_hessian_finish(&h, 0.025, out, &err), MARLIN_ERR_NUMERIC);
    assert_non_null(strstr(err.text, "Hessian"));
    ml_hessian_free(&h);
}

static double proxy_error(const float *w, const float *q, const float *h, size_t n, size_t k,
                          struct ml_pool *pool) {
    struct marlin_error err;
    double error = 0;
    if (ml_proxy_error(w, q, h, n, k, ml_kernels(), pool, &error, &err) != MARLIN_OK)
        fail_msg("%s", err.text);
    return error;
}

static float *make_hessian(uint64_t seed) {
    float *x = inputs(600, seed);
    struct ml_hessian h;
    assert_int_equal(ml_hessian_create(&h, K, 1, NULL), MARLIN_OK);
    ml_hessian_add(&h, ml_kernels(), NULL, x, K, 600);
    float *out = malloc((size_t)K * K * sizeof *out);
    assert_int_equal(ml_hessian_finish(&h, 0.025, out, NULL), MARLIN_OK);
    ml_hessian_free(&h);
    free(x);
    return out;
}

/* What is left of h after taking away L_b D_b L_b' block column by block column must vanish. */
static void assert_factor_of(const float *h, const float *lt, size_t k) {
    double *l = calloc(k * k, sizeof *l), *rest = calloc(k * k, sizeof *rest);
    assert_true(l && rest);
    for (size_t i = 0; i < k; i++) {
        for (size_t j = 0; j < k; j++) {
            l[i * k + j] = i == j ? 1 : lt[j * k + i];
            if (j / ML_TILE >= i / ML_TILE && i != j) assert_true(l[i * k + j] == 0);
            rest[i * k + j] = h[i * k + j];
        }
    }
    for (size_t b = 0; b < k; b += ML_TILE) {
        double d[ML_TILE][ML_TILE];
        for (size_t i = 0; i < ML_TILE; i++) {
            for (size_t j = 0; j < ML_TILE; j++) {
                d[i][j] = rest[(b + i) * k + b + j];
            }
        }
        for (size_t i = b; i < k; i++) {
            for (size_t j = b; j < k; j++) {
                double sum = 0;
                for (size_t p = 0; p < ML_TILE; p++) {
                    for (size_t q = 0; q < ML_TILE; q++) {
                        sum += l[i * k + b + p] * d[p][q] * l[j * k + b + q];
                    }
                }
                rest[i * k + j] -= sum;
            }
        }
        for (size_t i = b; i < k; i++) {
            for (size_t j = b; j < b + ML_TILE; j++) {
                assert_true(fabs(rest[i * k + j]) < 1e-3);
            }
        }
    }
    free(rest);
    free(l);
}

/* Sizes below, at, between and above the panels of the factorisation; any number of threads
 * gives the same. */
static void factor_reproduces_the_hessian(void **state) {
    static const size_t sizes[] = {16, 128, 208, 256};
    (void)state;
    float *full = make_hessian(2), *h = malloc((size_t)K * K * sizeof *h);
    float *lt = malloc((size_t)K * K * sizeof *lt), *again = malloc((size_t)K * K * sizeof *again);
    struct ml_pool *pool;
    assert_int_equal(ml_pool_create(3, &pool, NULL), MARLIN_OK);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t k = sizes[s];
        for (size_t i = 0; i < k; i++) {
            memcpy(h + i * k, full + i * K, k * sizeof *h);
        }
        memcpy(lt, h, k * k * sizeof *lt);
        memcpy(again, h, k * k * sizeof *again);
        assert_int_equal(ml_ldl_factor(lt, k, ml_kernels(), NULL, NULL), MARLIN_OK);
        assert_int_equal(ml_ldl_factor(again, k, ml_kernels(), pool, NULL), MARLIN_OK);
        assert_memory_equal(lt, again, k * k * sizeof *lt);
        assert_factor_of(h, lt, k);
    }
    ml_pool_free(pool);
    free(again);
    free(lt);
    free(h);
    free(full);
}

/* tr(E H E') / tr(W H W') by its definition; sizes that are no multiple of the blocks inside. */
static void proxy_error_follows_its_definition(void **state) {
    enum { TN = 70, TK = 208 };
    (void)state;
    float *full = make_hessian(8), *h = malloc((size_t)TK * TK * sizeof *h);
    float *w = normals((size_t)TN * TK, 9), *q = normals((size_t)TN * TK, 10);
    for (size_t i = 0; i < TK; i++) {
        memcpy(h + i * TK, full + i * K, TK * sizeof *h);
    }
    double error = 0, power = 0;
    for (size_t r = 0; r < TN; r++) {
        for (size_t i = 0; i < TK; i++) {
            for (size_t j = 0; j < TK; j++) {
                const float *wr = w + r * TK, *qr = q + r * TK;
                error += ((double)wr[i] - qr[i]) * h[i * TK + j] * ((double)wr[j] - qr[j]);
                power += (double)wr[i] * h[i * TK + j] * wr[j];
            }
        }
    }
    struct ml_pool *pool;
    assert_int_equal(ml_pool_create(3, &pool, NULL), MARLIN_OK);
    const double one = proxy_error(w, q, h, TN, TK, NULL);
    assert_true(fabs(one - error / power) < 1e-5 * one);
    assert_true(one == proxy_error(w, q, h, TN, TK, pool));
    ml_pool_free(pool);
    free(q);
    free(w);
    free(h);
    free(full);
}

static void indefinite_hessian_is_refused(void **state) {
    (void)state;
    static float h[32 * 32];
    struct marlin_error err;
    for (int i = 0; i < 32; i++) {
        h[i * 33] = i == 20 ? -1.0f : 1.0f;
    }
    assert_int_equal(ml_ldl_factor(h, 32, ml_kernels(), NULL, &err), MARLIN_ERR_NUMERIC);
    assert_int_equal(ml_ldl_factor(h, 24, ml_kernels(), NULL, &err), MARLIN_ERR_ARGUMENT);
}

struct outcome {
    double with, without;
};

static struct outcome run_ldlq(const struct ml_codec *codec, struct ml_pool *pool, uint8_t *bytes) {
    float *h = make_hessian(3), *w = normals((size_t)N * K, 4);
    float *lt = malloc((size_t)K * K * sizeof *lt), *q = malloc((size_t)N * K * sizeof *q);
    memcpy(lt, h, (size_t)K * K * sizeof *lt);
    assert_int_equal(ml_ldl_factor(lt, K, ml_kernels(), NULL, NULL), MARLIN_OK);
    struct ml_ldlq_job job = {.codec = codec,
                              .kernels = ml_kernels(),
                              .pool = pool,
                              .w = w,
                              .n = N,
                              .k = K,
                              .lt = NULL,
                              .q = q,
                              .bytes = bytes};
    struct outcome o;
    assert_int_equal(ml_ldlq(&job, NULL), MARLIN_OK);
    o.without = proxy_error(w, q, h, N, K, pool);
    job.lt = lt;
    assert_int_equal(ml_ldlq(&job, NULL), MARLIN_OK);
    o.with = proxy_error(w, q, h, N, K, pool);
    /* What was reported is what the bytes decode to. */
    for (size_t tile = 0; tile < N / ML_TILE * (K / ML_TILE); tile++) {
        float values[ML_TILE_WEIGHTS];
        ml_codec_decode(codec, bytes + tile * codec->tile_bytes, values);
        const size_t row = tile / (K / ML_TILE) * ML_TILE, col = tile % (K / ML_TILE) * ML_TILE;
        for (size_t i = 0; i < ML_TILE_WEIGHTS; i++) {
            assert_true(values[i] == q[(row + i / ML_TILE) * K + col + i % ML_TILE]);
        }
    }
    free(q);
    free(lt);
    free(w);
    free(h);
    return o;
}

static void feedback_lowers_the_proxy_for_any_thread_count(void **state) {
    (void)state;
    struct ml_codec codec;
    static uint8_t one[N / 16 * (K / 16) * 96], two[sizeof one];
    assert_int_equal(ml_codec_tap(&codec, 3, 12, ml_cpu()->tier, NULL), MARLIN_OK);
    const struct outcome a = run_ldlq(&codec, NULL, one);
    assert_true(a.with < 0.8 * a.without);
    assert_true(a.without > 0.012 && a.without < 0.022);
    struct ml_pool *pool;
    assert_int_equal(ml_pool_create(3, &pool, NULL), MARLIN_OK);
    const struct outcome b = run_ldlq(&codec, pool, two);
    assert_true(a.with == b.with);
    assert_memory_equal(one, two, sizeof one);
    ml_pool_free(pool);
    ml_codec_free(&codec);
}

/* ---- feedback along both sides ---- */

enum { BN = 192 }; /* three bands of rows */

/* First BN channels of a Hessian of other inputs, as that of the outputs. */
static float *output_hessian(void) {
    float *full = make_hessian(11), *h = malloc((size_t)BN * BN * sizeof *h);
    for (size_t i = 0; i < BN; i++) {
        memcpy(h + i * BN, full + i * K, BN * sizeof *h);
    }
    free(full);
    return h;
}

/* tr(out E in E') of E = w - q [BN, K] by its definition. */
static double two_sided_loss(const float *w, const float *q, const float *in, const float *out) {
    double *left = calloc((size_t)BN * K, sizeof *left), loss = 0;
    for (size_t i = 0; i < BN; i++)
        for (size_t j = 0; j < BN; j++)
            for (size_t c = 0; c < K; c++)
                left[i * K + c] += (double)out[i * BN + j] * ((double)w[j * K + c] - q[j * K + c]);
    for (size_t i = 0; i < BN; i++)
        for (size_t c = 0; c < K; c++)
            for (size_t d = 0; d < K; d++)
                loss += left[i * K + c] * in[c * K + d] * ((double)w[i * K + d] - q[i * K + d]);
    free(left);
    return loss;
}

/* What a tile's rounding error should be made of: E + (Lo' E Li - E), all of E from tiles made before it,
 * which are those below in the same columns and all of the columns to the right. */
static double slow_target(const float *w, const float *q, const float *lt, const float *lo, size_t r,
                          size_t c) {
    const size_t row1 = r / ML_TILE * ML_TILE + ML_TILE, col1 = c / ML_TILE * ML_TILE + ML_TILE;
    double sum = w[r * K + c];
    for (size_t i = r; i < BN; i++) {
        const double across = i == r ? 1 : i < row1 ? 0 : lo[r * BN + i];
        if (across == 0) continue;
        if (i >= row1) sum += across * ((double)w[i * K + c] - q[i * K + c]);
        for (size_t d = col1; d < K; d++)
            sum += across * ((double)w[i * K + d] - q[i * K + d]) * lt[c * K + d];
    }
    return sum;
}

static void each_tile_is_as_good_as_the_slow_twins(const struct ml_codec *codec,
                                                   const struct ml_ldlq_job *job) {
    void *scratch = ml_alloc_aligned(ml_viterbi_scratch(&codec->viterbi));
    for (size_t tile = 0; tile < BN / ML_TILE * (K / ML_TILE); tile += 5) {
        const size_t row = tile / (K / ML_TILE) * ML_TILE, col = tile % (K / ML_TILE) * ML_TILE;
        float target[ML_TILE_WEIGHTS], values[ML_TILE_WEIGHTS];
        uint8_t bytes[256];
        double mine = 0, twins = 0;
        for (size_t i = 0; i < ML_TILE_WEIGHTS; i++)
            target[i] =
                (float)slow_target(job->w, job->q, job->lt, job->lo, row + i / ML_TILE, col + i % ML_TILE);
        ml_codec_quantize(codec, scratch, target, ML_TILE, values, bytes);
        for (size_t i = 0; i < ML_TILE_WEIGHTS; i++) {
            const double q = job->q[(row + i / ML_TILE) * K + col + i % ML_TILE];
            mine += (target[i] - q) * (target[i] - q);
            twins += ((double)target[i] - values[i]) * ((double)target[i] - values[i]);
        }
        assert_true(fabs(mine - twins) < 1e-3 * twins);
    }
    ml_free_aligned(scratch);
}

static double loss_of(struct ml_ldlq_job *job, const float *lo, const float *in, const float *out) {
    job->lo = lo;
    assert_int_equal(ml_ldlq(job, NULL), MARLIN_OK);
    return two_sided_loss(job->w, job->q, in, out);
}

static void feedback_along_both_sides(void **state) {
    enum { DRAWS = 16 }; /* one moves the ratio of the losses by 0.02 */
    double alone = 0, both = 0;
    (void)state;
    struct ml_codec codec;
    struct ml_pool *pool;
    static uint8_t one[BN / 16 * (K / 16) * 96], three[sizeof one];
    float *in = make_hessian(3), *out = output_hessian(), *w = NULL;
    float *lt = malloc((size_t)K * K * sizeof *lt), *lo = malloc((size_t)BN * BN * sizeof *lo);
    float *q = malloc((size_t)BN * K * sizeof *q);
    memcpy(lt, in, (size_t)K * K * sizeof *lt);
    memcpy(lo, out, (size_t)BN * BN * sizeof *lo);
    assert_int_equal(ml_codec_tap(&codec, 3, 12, ml_cpu()->tier, NULL), MARLIN_OK);
    assert_int_equal(ml_pool_create(3, &pool, NULL), MARLIN_OK);
    assert_int_equal(ml_ldl_factor(lt, K, ml_kernels(), NULL, NULL), MARLIN_OK);
    assert_int_equal(ml_ldl_factor(lo, BN, ml_kernels(), NULL, NULL), MARLIN_OK);
    struct ml_ldlq_job job = {
        .codec = &codec, .kernels = ml_kernels(), .n = BN, .k = K, .lt = lt, .q = q, .bytes = one};
    for (uint64_t seed = 4; seed < 4 + DRAWS; seed++) {
        free(w);
        job.w = w = normals((size_t)BN * K, seed);
        alone += loss_of(&job, NULL, in, out);
        both += loss_of(&job, lo, in, out);
    }
    /* The diagonal blocks of the outputs' factor have 0.79 of the trace: no code can do better. */
    assert_true(both < 0.83 * alone);
    each_tile_is_as_good_as_the_slow_twins(&codec, &job);
    job.pool = pool;
    job.bytes = three;
    assert_int_equal(ml_ldlq(&job, NULL), MARLIN_OK);
    assert_memory_equal(one, three, sizeof one);
    ml_pool_free(pool);
    ml_codec_free(&codec);
    free(q);
    free(lo);
    free(lt);
    free(w);
    free(out);
    free(in);
}

static void driver_restores_close_weights(const struct ml_codec *codec, double bound) {
    enum { TN = 200, TK = 250 }; /* padded inside */
    float *w = normals((size_t)TN * TK, 5), *back = malloc((size_t)TN * TK * sizeof *back);
    float *x = normals(500 * TK, 6);
    struct ml_hessian h;
    assert_int_equal(ml_hessian_create(&h, TK, 1, NULL), MARLIN_OK);
    ml_hessian_add(&h, ml_kernels(), NULL, x, TK, 500);
    const struct ml_quantize_options o = {.codec = codec, .kernels = ml_kernels(), .sigma = 0.025, .seed = 9};
    struct ml_quantized_linear q;
    assert_int_equal(ml_quantize_linear(w, TN, TK, &h, &o, &q, NULL), MARLIN_OK);
    assert_null(q.fallback);
    assert_int_equal(ml_quantized_linear_restore(&q, codec, back, NULL), MARLIN_OK);
    double error = 0, power = 0;
    for (size_t i = 0; i < (size_t)TN * TK; i++) {
        error += (double)(w[i] - back[i]) * (w[i] - back[i]);
        power += (double)w[i] * w[i];
    }
    assert_true(error / power < bound);
    ml_quantized_linear_free(&q);
    ml_hessian_free(&h);
    free(x);
    free(back);
    free(w);
}

static void both_codecs_share_the_driver(void **state) {
    (void)state;
    struct ml_codec codec;
    assert_int_equal(ml_codec_tap(&codec, 4, 12, ml_cpu()->tier, NULL), MARLIN_OK);
    driver_restores_close_weights(&codec, 0.012);
    ml_codec_free(&codec);
    assert_int_equal(ml_codec_exl3(&codec, 4, ML_EXL3_MUL1, ml_cpu()->tier, NULL), MARLIN_OK);
    driver_restores_close_weights(&codec, 0.012);
    ml_codec_free(&codec);
}

static void bad_hessians_fall_back_and_say_so(void **state) {
    (void)state;
    struct ml_codec codec;
    assert_int_equal(ml_codec_tap(&codec, 2, 12, ml_cpu()->tier, NULL), MARLIN_OK);
    const struct ml_quantize_options o = {
        .codec = &codec, .kernels = ml_kernels(), .sigma = 0.025, .seed = 1};
    float *w = normals(128 * 128, 7);
    struct ml_hessian h;
    struct ml_quantized_linear q;
    assert_int_equal(ml_hessian_create(&h, 128, 1, NULL), MARLIN_OK);
    assert_int_equal(ml_quantize_linear(w, 128, 128, &h, &o, &q, NULL), MARLIN_OK);
    assert_non_null(strstr(q.fallback, "empty"));
    ml_quantized_linear_free(&q);
    h.count = 1; /* rank one: only the ridge makes it definite */
    h.h[0] = 1;
    assert_int_equal(ml_quantize_linear(w, 128, 128, &h, &o, &q, NULL), MARLIN_OK);
    assert_null(q.fallback);
    ml_quantized_linear_free(&q);
    h.h[5 * 128 + 5] = NAN;
    assert_int_equal(ml_quantize_linear(w, 128, 128, &h, &o, &q, NULL), MARLIN_OK);
    assert_non_null(q.fallback);
    ml_quantized_linear_free(&q);
    w[77] = NAN;
    struct marlin_error err;
    assert_int_equal(ml_quantize_linear(w, 128, 128, &h, &o, &q, &err), MARLIN_ERR_NUMERIC);
    assert_non_null(strstr(err.text, "[0, 77]"));
    ml_hessian_free(&h);
    ml_codec_free(&codec);
    free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hessian_is_the_mean_of_outer_products),
        cmocka_unit_test(empty_hessian_is_named),
        cmocka_unit_test(factor_reproduces_the_hessian),
        cmocka_unit_test(proxy_error_follows_its_definition),
        cmocka_unit_test(indefinite_hessian_is_refused),
        cmocka_unit_test(feedback_lowers_the_proxy_for_any_thread_count),
        cmocka_unit_test(feedback_along_both_sides),
        cmocka_unit_test(both_codecs_share_the_driver),
        cmocka_unit_test(bad_hessians_fall_back_and_say_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
