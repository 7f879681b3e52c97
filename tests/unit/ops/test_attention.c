/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention over the pool: a context that is shared out over workers, token by token or prompt by prompt,
 * gives the same bits as one worker that goes through it.
 */
#include "base/fp.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "ops/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"
#include "stream.h"

enum { KV_HEADS = 3, GROUP = 4, HEADS = KV_HEADS * GROUP, POSITIONS = 2600, MAX_DIM = 80, THREADS = 5 };
enum { TOKENS = 4, PAGES = POSITIONS / ML_PAGE_KEYS + 1, LINE = 64 };

struct fixture {
    struct ml_pool *pool;
    struct ml_stream alone, shared;
    float *q, *k, *v, *a, *b, sinks[HEADS];
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
    const struct ml_ops_sizes sizes = {.rows = TOKENS,
                                       .runs = 1,
                                       .positions = POSITIONS,
                                       .heads = HEADS,
                                       .kv_heads = KV_HEADS,
                                       .v_dim = MAX_DIM};
    struct ml_rng rng;
    const size_t cache = (size_t)KV_HEADS * POSITIONS * MAX_DIM, rows = (size_t)TOKENS * HEADS * MAX_DIM;
    ml_rng_seed(&rng, 7);
    assert_int_equal(ml_pool_create(THREADS, &f.pool, NULL), MARLIN_OK);
    assert_int_equal(open_cpu(&f.alone, NULL, &sizes), 0);
    assert_int_equal(open_cpu(&f.shared, f.pool, &sizes), 0);
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
    for (int h = 0; h < HEADS; h++)
        f.sinks[h] = ml_rng_normal(&rng);
    *state = &f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    void *all[] = {f->q, f->k, f->v, f->a, f->b, f->k16, f->v16, f->k8, f->v8, f->k_scales, f->v_scales};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ml_free_aligned(all[i]);
    close_cpu(&f->alone);
    close_cpu(&f->shared);
    ml_pool_free(f->pool);
    return guard_clean(state);
}

/* ---- pages ---- */

/* Keys and values [KV_HEADS][POSITIONS][dim] of a type, and their scales. */
struct rows {
    enum ml_dtype type;
    size_t dim;
    const void *k, *v;
    const float *k_scales, *v_scales;
};

static struct rows rows_of(const struct fixture *f, enum ml_dtype type, size_t dim) {
    switch (type) {
    case ML_F16:
        return (struct rows){type, dim, f->k16, f->v16, NULL, NULL};
    case ML_I8:
        return (struct rows){type, dim, f->k8, f->v8, f->k_scales, f->v_scales};
    default:
        return (struct rows){type, dim, f->k, f->v, NULL, NULL};
    }
}

struct cache {
    struct ml_kv_layout layout;
    size_t page_bytes;
    char *memory;
    const char *table[PAGES];
};

static size_t page_place(size_t i) {
    return i * 17 % PAGES; /* pages follow one another in no order: PAGES is a prime */
}

static void copy_rows(const struct cache *c, size_t at, size_t head, const void *from, size_t row_bytes) {
    for (size_t p = 0; p < POSITIONS; p++) {
        char *page = c->memory + page_place(p / ML_PAGE_KEYS) * c->page_bytes;
        memcpy(page + at + head * c->layout.head_bytes + p % ML_PAGE_KEYS * row_bytes,
               (const char *)from + (head * POSITIONS + p) * row_bytes, row_bytes);
    }
}

/* What is no key is no number. */
static struct cache make_cache(const struct rows *r) {
    const size_t row = r->dim * ml_dtype_size(r->type), keys = (ML_PAGE_KEYS * row + LINE - 1) / LINE * LINE,
                 scales = ML_PAGE_KEYS * sizeof(float);
    struct cache c = {.layout = {.dtype = r->type,
                                 .kv_heads = KV_HEADS,
                                 .k_dim = r->dim,
                                 .v_dim = r->dim,
                                 .v_stride = r->dim,
                                 .head_bytes = 2 * keys + 2 * scales + LINE,
                                 .v_at = keys,
                                 .k_scales_at = 2 * keys,
                                 .v_scales_at = 2 * keys + scales}};
    c.layout.bytes = c.page_bytes = KV_HEADS * c.layout.head_bytes;
    c.memory = take(PAGES * c.page_bytes);
    memset(c.memory, 0xff, PAGES * c.page_bytes);
    for (size_t i = 0; i < PAGES; i++)
        c.table[i] = c.memory + page_place(i) * c.page_bytes;
    for (size_t h = 0; h < KV_HEADS; h++) {
        copy_rows(&c, c.layout.k_at, h, r->k, row);
        copy_rows(&c, c.layout.v_at, h, r->v, row);
        if (r->k_scales) copy_rows(&c, c.layout.k_scales_at, h, r->k_scales, sizeof(float));
        if (r->v_scales) copy_rows(&c, c.layout.v_scales_at, h, r->v_scales, sizeof(float));
    }
    return c;
}

/* ---- calls ---- */

struct call {
    const struct cache *cache;
    const float *q, *sinks;
    float *out;
    size_t pos, n, window;
    float softcap;
};

static struct call make_call(const struct fixture *f, const struct cache *c, size_t pos, size_t n) {
    return (struct call){.cache = c, .q = f->q, .out = f->a, .pos = pos, .n = n};
}

static const float scale = 0.3f;

/* Pages that no row sees are nowhere. */
static void seen_pages(const struct call *c, const char *table[PAGES]) {
    const size_t first = c->window && c->pos + 1 > c->window ? c->pos + 1 - c->window : 0;
    for (size_t i = 0; i < PAGES; i++) {
        const bool seen = i >= first / ML_PAGE_KEYS && i <= (c->pos + c->n - 1) / ML_PAGE_KEYS;
        table[i] = seen ? c->cache->table[i] : NULL;
    }
}

static void attend(struct ml_stream *s, const struct call *c) {
    const struct ml_pass_run run = {.n = (int32_t)c->n, .slot0 = (int64_t)c->pos};
    const int32_t run_of[TOKENS] = {0};
    const struct ml_pass pass = {.n = c->n, .n_runs = 1, .run_of = run_of, .runs = &run, .host_runs = &run};
    const char *table[PAGES];
    seen_pages(c, table);
    ml_mem_guard_begin("attention");
    ml_ops_cpu.attention(s, &(struct ml_attention_op){.pass = &pass,
                                                      .pages = {table, PAGES},
                                                      .layout = c->cache->layout,
                                                      .q = c->q,
                                                      .out = c->out,
                                                      .heads = HEADS,
                                                      .window = c->window,
                                                      .scale = scale,
                                                      .softcap = c->softcap,
                                                      .sinks = c->sinks});
    ml_mem_guard_end();
    assert_int_equal(ml_ops_cpu.flush(s, NULL), MARLIN_OK);
}

/* The kernel alone, head by head: nothing is shared out. */
static void attend_whole(const struct call *c) {
    const struct ml_kv_layout *l = &c->cache->layout;
    const char *table[PAGES];
    seen_pages(c, table);
    for (size_t h = 0; h < KV_HEADS; h++) {
        const size_t at = h * l->head_bytes, first = h * GROUP * l->k_dim;
        ml_attention_of(ml_kernels(), l->dtype)(
            &(struct ml_attention_args){.q = c->q + first,
                                        .q_stride = HEADS * l->k_dim,
                                        .out = c->out + first,
                                        .out_stride = HEADS * l->v_dim,
                                        .pages = table,
                                        .k_at = l->k_at + at,
                                        .v_at = l->v_at + at,
                                        .k_scales_at = l->k_scales_at + at,
                                        .v_scales_at = l->v_scales_at + at,
                                        .k_dim = l->k_dim,
                                        .v_dim = l->v_dim,
                                        .v_stride = l->v_stride,
                                        .rows = c->n * GROUP,
                                        .group = GROUP,
                                        .slot0 = c->pos,
                                        .window = c->window,
                                        .scale = scale,
                                        .softcap = c->softcap,
                                        .sink = c->sinks ? c->sinks + h * GROUP : NULL});
    }
}

/* ---- tests ---- */

static void same_shared_out(struct fixture *f, struct call c) {
    const size_t n = HEADS * c.cache->layout.v_dim, bytes = n * sizeof(float);
    struct ml_stream *const streams[] = {&f->alone, &f->shared};
    memset(f->a, 1, bytes);
    attend_whole(&c);
    for (size_t i = 0; i < n; i++)
        assert_true(f->a[i] == f->a[i]);
    c.out = f->b;
    for (size_t i = 0; i < 2; i++) {
        memset(f->b, 2, bytes);
        attend(streams[i], &c);
        if (memcmp(f->a, f->b, bytes) != 0)
            fail_msg("dim %zu, position %zu, window %zu differ", c.cache->layout.v_dim, c.pos, c.window);
    }
}

static void shared_out_is_the_same(void **state) {
    static const size_t dims[] = {16, 33, 80}, positions[] = {0, 511, 512, 600, 1023, 1024, 2599};
    static const size_t windows[] = {0, 1, 64, 512, 700, 1500};
    static const enum ml_dtype types[] = {ML_F32, ML_F16, ML_I8};
    struct fixture *f = *state;
    for (size_t i = 0; i < 3 * 3; i++) {
        const struct rows rows = rows_of(f, types[i % 3], dims[i / 3]);
        const struct cache cache = make_cache(&rows);
        for (size_t k = 0; k < 7 * 6 * 2; k++) {
            struct call c = make_call(f, &cache, positions[k % 7], 1);
            c.window = windows[k / 7 % 6];
            c.sinks = k / 42 ? f->sinks : NULL;
            same_shared_out(f, c);
        }
        ml_free_aligned(cache.memory);
    }
}

/* Int8 keys and values are float32 ones that happen to be whole numbers times a scale. */
static void int8_is_whole_numbers(void **state) {
    struct fixture *f = *state;
    enum { DIM = 48, POS = 700, N = HEADS * DIM };
    const size_t all = (size_t)KV_HEADS * POSITIONS * DIM;
    float *k = take(all * sizeof *k), *v = take(all * sizeof *v);
    for (size_t i = 0; i < all; i++) {
        k[i] = (float)f->k8[i] * f->k_scales[i / DIM];
        v[i] = (float)f->v8[i] * f->v_scales[i / DIM];
    }
    const struct rows bytes = rows_of(f, ML_I8, DIM), floats = {ML_F32, DIM, k, v, NULL, NULL};
    const struct cache a = make_cache(&bytes), b = make_cache(&floats);
    struct call c = make_call(f, &a, POS, 1);
    c.softcap = 5;
    attend(&f->alone, &c);
    c.cache = &b;
    c.out = f->b;
    attend(&f->alone, &c);
    for (size_t i = 0; i < N; i++)
        assert_float_equal(f->a[i], f->b[i], 1e-5f);
    ml_free_aligned(a.memory);
    ml_free_aligned(b.memory);
    ml_free_aligned(k);
    ml_free_aligned(v);
}

/* A token's result does not depend on the tokens that it is computed with. */
static void prompt_is_tokens(void **state) {
    struct fixture *f = *state;
    enum { DIM = 64 };
    for (size_t i = 0; i < 10; i++) {
        const struct rows rows = rows_of(f, i < 5 ? ML_F16 : ML_I8, DIM);
        const struct cache cache = make_cache(&rows);
        const struct call c = make_call(f, &cache, 509 + i % 5, TOKENS);
        attend(&f->shared, &c);
        for (size_t t = 0; t < TOKENS; t++) {
            struct call one = make_call(f, &cache, c.pos + t, 1);
            one.q = f->q + t * HEADS * DIM;
            one.out = f->b + t * HEADS * DIM;
            attend(&f->shared, &one);
        }
        assert_memory_equal(f->a, f->b, (size_t)TOKENS * HEADS * DIM * sizeof(float));
        ml_free_aligned(cache.memory);
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
