/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention over the pool: a context that is shared out over workers, token by token or prompt by prompt,
 * gives the same bits as one worker that goes through it.
 */
#include "base/fp.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { KV_HEADS = 3, GROUP = 4, HEADS = KV_HEADS * GROUP, POSITIONS = 2600, MAX_DIM = 80, THREADS = 5 };

struct fixture {
    struct ml_pool *pool;
    struct ml_exec alone, shared;
    float *q, *k, *v, *a, *b, *parts, sinks[HEADS];
    uint16_t *k16, *v16;
    int8_t *k8, *v8;
    float *k_scales, *v_scales; /* [KV_HEADS][POSITIONS] */
};

static void *take(size_t bytes) {
    void *p = ml_alloc_aligned(bytes);
    assert_non_null(p);
    return p;
}

static float *normal(struct ml_rng *rng, size_t n) {
    float *p = take(n * sizeof *p);
    for (size_t i = 0; i < n; i++)
        p[i] = ml_rng_normal(rng);
    return p;
}

static uint16_t *narrow(const float *x, size_t n) {
    uint16_t *p = take(n * sizeof *p);
    for (size_t i = 0; i < n; i++)
        p[i] = ml_f32_to_f16(x[i]);
    return p;
}

/* Whole numbers, which every head size cuts into rows of its own. */
static int8_t *bytes_of(struct ml_rng *rng, size_t n) {
    int8_t *p = take(n);
    for (size_t i = 0; i < n; i++)
        p[i] = (int8_t)((int)(ml_rng_u64(rng) % 255) - 127);
    return p;
}

static float *scales_of(struct ml_rng *rng, size_t n) {
    float *p = take(n * sizeof *p);
    for (size_t i = 0; i < n; i++)
        p[i] = (float)(ml_rng_double(rng) + 0.1) / 64;
    return p;
}

static int setup(void **state) {
    static struct fixture f;
    struct marlin_error err;
    struct ml_rng rng;
    const size_t cache = (size_t)KV_HEADS * POSITIONS * MAX_DIM, rows = (size_t)4 * HEADS * MAX_DIM;
    ml_rng_seed(&rng, 7);
    assert_int_equal(ml_pool_create(THREADS, &f.pool, &err), MARLIN_OK);
    assert_int_equal(ml_exec_create(&f.alone, ml_kernels(), NULL, &err), MARLIN_OK);
    assert_int_equal(ml_exec_create(&f.shared, ml_kernels(), f.pool, &err), MARLIN_OK);
    f.q = normal(&rng, rows);
    f.k = normal(&rng, cache);
    f.v = normal(&rng, cache);
    f.k16 = narrow(f.k, cache);
    f.v16 = narrow(f.v, cache);
    f.k8 = bytes_of(&rng, cache);
    f.v8 = bytes_of(&rng, cache);
    f.k_scales = scales_of(&rng, (size_t)KV_HEADS * POSITIONS);
    f.v_scales = scales_of(&rng, (size_t)KV_HEADS * POSITIONS);
    f.a = take(rows * sizeof *f.a);
    f.b = take(rows * sizeof *f.b);
    f.parts = take(ml_attention_parts(HEADS, MAX_DIM, POSITIONS) * sizeof *f.parts);
    for (int h = 0; h < HEADS; h++)
        f.sinks[h] = ml_rng_normal(&rng);
    *state = &f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    void *all[] = {f->q,   f->k,   f->v,  f->a,  f->b,        f->parts,
                   f->k16, f->v16, f->k8, f->v8, f->k_scales, f->v_scales};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ml_free_aligned(all[i]);
    ml_exec_free(&f->alone);
    ml_exec_free(&f->shared);
    ml_pool_free(f->pool);
    return 0;
}

static struct ml_attention_job make_job(const struct fixture *f, enum ml_dtype t, size_t dim, size_t pos,
                                        size_t n) {
    const bool i8 = t == ML_I8;
    return (struct ml_attention_job){.q = f->q,
                                     .q_stride = HEADS * dim,
                                     .out_stride = HEADS * dim,
                                     .k = i8            ? (const void *)f->k8
                                          : t == ML_F16 ? (const void *)f->k16
                                                        : f->k,
                                     .v = i8            ? (const void *)f->v8
                                          : t == ML_F16 ? (const void *)f->v16
                                                        : f->v,
                                     .k_scales = i8 ? f->k_scales : NULL,
                                     .v_scales = i8 ? f->v_scales : NULL,
                                     .scale_stride = POSITIONS,
                                     .kv_type = t,
                                     .kv_stride = dim,
                                     .head_stride = POSITIONS * dim,
                                     .heads = HEADS,
                                     .kv_heads = KV_HEADS,
                                     .head_dim = dim,
                                     .n = n,
                                     .pos0 = pos,
                                     .scale = 0.3f};
}

static void same_shared_out(const struct fixture *f, struct ml_attention_job job) {
    const size_t bytes = HEADS * job.head_dim * sizeof(float);
    memset(f->a, 1, bytes);
    memset(f->b, 2, bytes);
    job.out = f->a;
    ml_attention(&f->alone, &job);
    job.out = f->b;
    job.parts = f->parts;
    ml_attention(&f->shared, &job);
    if (memcmp(f->a, f->b, bytes) != 0)
        fail_msg("dim %zu, position %zu, window %zu differ", job.head_dim, job.pos0, job.window);
    for (size_t i = 0; i < HEADS * job.head_dim; i++)
        assert_true(f->a[i] == f->a[i]);
}

static void shared_out_is_the_same(void **state) {
    static const size_t dims[] = {16, 33, 80}, positions[] = {0, 511, 512, 600, 1023, 1024, 2599};
    static const size_t windows[] = {0, 1, 64, 512, 700, 1500};
    static const enum ml_dtype types[] = {ML_F32, ML_F16, ML_I8};
    for (size_t i = 0; i < 3 * 3 * 7 * 6 * 2; i++) {
        struct ml_attention_job job =
            make_job(*state, types[i % 3], dims[i / 3 % 3], positions[i / 9 % 7], 1);
        job.window = windows[i / 63 % 6];
        job.sinks = i / 378 ? ((struct fixture *)*state)->sinks : NULL;
        same_shared_out(*state, job);
    }
}

/* Int8 keys and values are float32 ones that happen to be whole numbers times a scale. */
static void int8_is_whole_numbers(void **state) {
    struct fixture *f = *state;
    enum { DIM = 48, POS = 700, N = HEADS * DIM };
    const size_t head = (size_t)POSITIONS * DIM;
    float *k = take(KV_HEADS * head * sizeof *k), *v = take(KV_HEADS * head * sizeof *v);
    for (size_t i = 0; i < KV_HEADS * head; i++) {
        k[i] = (float)f->k8[i] * f->k_scales[i / DIM];
        v[i] = (float)f->v8[i] * f->v_scales[i / DIM];
    }
    struct ml_attention_job job = make_job(f, ML_I8, DIM, POS, 1);
    job.softcap = 5;
    job.out = f->a;
    ml_attention(&f->alone, &job);
    job.kv_type = ML_F32;
    job.k = k;
    job.v = v;
    job.k_scales = job.v_scales = NULL;
    job.out = f->b;
    ml_attention(&f->alone, &job);
    for (size_t i = 0; i < N; i++)
        assert_float_equal(f->a[i], f->b[i], 1e-5f);
    ml_free_aligned(k);
    ml_free_aligned(v);
}

/* A token's result does not depend on the tokens that it is computed with. */
static void prompt_is_tokens(void **state) {
    struct fixture *f = *state;
    enum { N = 4, DIM = 64 };
    for (size_t i = 0; i < 10; i++) {
        const enum ml_dtype type = i < 5 ? ML_F16 : ML_I8;
        const size_t pos = 509 + i % 5;
        struct ml_attention_job job = make_job(f, type, DIM, pos, N);
        job.out = f->a;
        ml_attention(&f->shared, &job);
        for (size_t t = 0; t < N; t++) {
            struct ml_attention_job one = make_job(f, type, DIM, pos + t, 1);
            one.q = f->q + t * HEADS * DIM;
            one.out = f->b + t * HEADS * DIM;
            one.parts = f->parts;
            ml_attention(&f->shared, &one);
        }
        assert_memory_equal(f->a, f->b, (size_t)N * HEADS * DIM * sizeof(float));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared_out_is_the_same),
        cmocka_unit_test(int8_is_whole_numbers),
        cmocka_unit_test(prompt_is_tokens),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
