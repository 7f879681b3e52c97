/* SPDX-License-Identifier: Apache-2.0
 *
 * Where layers find their memory: groups, sizes, and that what is stored through a layout is read back (in int8
 * within half a step), while heads and layers do not touch one another.
 */
#include "base/fp.h"
#include "base/mem.h"
#include "cache/layout.h"
#include "kernels/kernels.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"
#include "stream.h"

enum { LAYERS = 3, HEADS = 2, DIM = 5, POSITIONS = 70, ROW = HEADS * DIM, PAGES = 2 };

static struct ml_arena arena;
static struct ml_stream stream;

static int begin(void **state) {
    const struct ml_ops_sizes sizes = {.rows = POSITIONS, .runs = 1, .positions = POSITIONS};
    (void)state;
    ml_arena_init(&arena, 0);
    return open_cpu(&stream, NULL, &sizes);
}

static int end(void **state) {
    close_cpu(&stream);
    ml_arena_free(&arena);
    return guard_clean(state);
}

static struct ml_layer_memory full(size_t heads, size_t dim) {
    return (struct ml_layer_memory){.kind = ML_MEMORY_FULL, .kv_heads = heads, .k_dim = dim, .v_dim = dim};
}

static struct ml_layer_memory window_of(size_t window, size_t device) {
    struct ml_layer_memory m = full(HEADS, DIM);
    m.kind = ML_MEMORY_WINDOW;
    m.window = window;
    m.device = device;
    return m;
}

static struct ml_layer_memory latent(size_t k_dim, size_t v_dim) {
    return (struct ml_layer_memory){.kind = ML_MEMORY_LATENT, .kv_heads = 1, .k_dim = k_dim, .v_dim = v_dim};
}

static struct ml_layer_memory recurrent(size_t bytes) {
    return (struct ml_layer_memory){.kind = ML_MEMORY_RECURRENT, .state_bytes = bytes};
}

static struct ml_memory_layout lay_out(const struct ml_layer_memory *layers, size_t n, enum ml_dtype type) {
    struct ml_memory_layout l;
    struct marlin_error err;
    if (ml_memory_layout_create(layers, n, type, &arena, &l, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return l;
}

/* ---- what is stored ---- */

/* Integers up to 2048 are exact in float16. */
static float value(size_t layer, size_t position, size_t i, bool is_v) {
    return (float)(((layer * POSITIONS + position) * ROW + i) % 1000 * 2 + is_v);
}

struct store {
    struct ml_memory_layout layout;
    char *memory;
    const char *table[PAGES];
};

static void store_layer(const struct store *c, size_t layer) {
    static float q[POSITIONS * ROW], k[POSITIONS * ROW], v[POSITIONS * ROW];
    static const int32_t run_of[POSITIONS];
    const struct ml_pass_run run = {.n = POSITIONS};
    const struct ml_pass pass = {
        .n = POSITIONS, .n_runs = 1, .run_of = run_of, .runs = &run, .host_runs = &run};
    const struct ml_norm none = {0};
    for (size_t i = 0; i < POSITIONS * ROW; i++) {
        k[i] = value(layer, i / ROW, i % ROW, false);
        v[i] = value(layer, i / ROW, i % ROW, true);
    }
    ml_mem_guard_begin("store");
    ml_ops_cpu.rope_store(&stream, &(struct ml_rope_store_op){.pass = &pass,
                                                              .pages = {c->table, PAGES},
                                                              .layout = c->layout.layers[layer].layout,
                                                              .q = q,
                                                              .k = k,
                                                              .v = v,
                                                              .q_width = ROW,
                                                              .q_norm = &none,
                                                              .k_norm = &none});
    ml_mem_guard_end();
}

static struct store store_all(enum ml_dtype type) {
    const struct ml_layer_memory layers[LAYERS] = {full(HEADS, DIM), full(HEADS, DIM), full(HEADS, DIM)};
    struct store c = {.layout = lay_out(layers, LAYERS, type)};
    const size_t page = c.layout.groups[0].page_bytes;
    assert_int_equal(c.layout.n_groups, 1);
    c.memory = ml_alloc_aligned(PAGES * page);
    assert_non_null(c.memory);
    for (size_t i = 0; i < PAGES; i++)
        c.table[i] = c.memory + (PAGES - 1 - i) * page;
    for (size_t l = 0; l < LAYERS; l++)
        store_layer(&c, l);
    return c;
}

/* The bytes of array `at` of a head at a position, whose rows are so wide. */
static const void *row_at(const struct store *c, size_t at, size_t head, size_t position, size_t bytes) {
    const size_t head_bytes = c->layout.layers[0].layout.head_bytes;
    return c->table[position / ML_PAGE_KEYS] + at + head * head_bytes + position % ML_PAGE_KEYS * bytes;
}

static float load(const struct store *c, size_t at, size_t head, size_t position, size_t i) {
    const enum ml_dtype type = c->layout.dtype;
    const void *row = row_at(c, at, head, position, DIM * ml_dtype_size(type));
    return type == ML_F32 ? ((const float *)row)[i] : ml_f16_to_f32(((const uint16_t *)row)[i]);
}

static void check_position(const struct store *c, size_t l, size_t p) {
    const struct ml_kv_layout *at = &c->layout.layers[l].layout;
    for (size_t i = 0; i < ROW; i++) {
        assert_true(load(c, at->k_at, i / DIM, p, i % DIM) == value(l, p, i, false));
        assert_true(load(c, at->v_at, i / DIM, p, i % DIM) == value(l, p, i, true));
    }
}

static void what_is_stored_is_there(void **state) {
    const enum ml_dtype types[] = {ML_F16, ML_F32};
    (void)state;
    for (int t = 0; t < 2; t++) {
        struct store c = store_all(types[t]);
        assert_int_equal(ml_kv_slot_bytes(&c.layout.layers[0].layout), 2 * DIM * ml_dtype_size(types[t]));
        for (size_t l = 0; l < LAYERS; l++)
            for (size_t p = 0; p < POSITIONS; p++)
                check_position(&c, l, p);
        ml_free_aligned(c.memory);
    }
}

/* ---- int8 ---- */

/* Greatest magnitude of a head's row. */
static float most_of(const float *row) {
    float most = 0;
    for (size_t i = 0; i < DIM; i++)
        most = fmaxf(most, fabsf(row[i]));
    return most;
}

/* Rows with the magnitudes of a head, whose scale is the other heads' business in nothing. */
static void check_i8(const struct store *c, size_t l, size_t p, bool is_v) {
    const struct ml_kv_layout *at = &c->layout.layers[l].layout;
    float x[ROW];
    for (size_t i = 0; i < ROW; i++)
        x[i] = value(l, p, i, is_v);
    for (size_t i = 0; i < ROW; i++) {
        const size_t head = i / DIM;
        const int8_t *row = row_at(c, is_v ? at->v_at : at->k_at, head, p, DIM);
        const float *scale = row_at(c, is_v ? at->v_scales_at : at->k_scales_at, head, p, sizeof(float));
        const float most = most_of(x + head * DIM), got = *scale * (float)row[i % DIM];
        assert_float_equal(*scale, most / 127, most * 1e-7f);
        assert_true(fabsf(got - x[i]) <= *scale * (0.5f + 0x1p-15f));
    }
}

static void int8_is_within_half_a_step(void **state) {
    (void)state;
    struct store c = store_all(ML_I8);
    assert_int_equal(ml_kv_slot_bytes(&c.layout.layers[0].layout), 2 * (DIM + sizeof(float)));
    for (size_t l = 0; l < LAYERS; l++)
        for (size_t p = 0; p < POSITIONS; p++) {
            check_i8(&c, l, p, false);
            check_i8(&c, l, p, true);
        }
    ml_free_aligned(c.memory);
}

/* With their padding, a line a head and page, float32 keys of a usual head take close to four times as much,
 * float16 ones to twice. */
static void int8_is_small(void **state) {
    const struct ml_layer_memory layers[LAYERS] = {full(HEADS, 128), full(HEADS, 128), full(HEADS, 128)};
    size_t bytes[3];
    const enum ml_dtype types[] = {ML_I8, ML_F16, ML_F32};
    (void)state;
    for (int t = 0; t < 3; t++) {
        const struct ml_memory_layout l = lay_out(layers, LAYERS, types[t]);
        bytes[t] = l.groups[0].page_bytes;
        if (types[t] == ML_F16) assert_int_equal(ml_kv_slot_bytes(&l.layers[0].layout), 512);
    }
    assert_true(bytes[0] >= (size_t)2 * LAYERS * HEADS * ML_PAGE_KEYS * 132);
    assert_true(bytes[0] * 386 / 100 < bytes[2] && bytes[0] * 193 / 100 < bytes[1]);
}

/* What narrow_i8 makes of a row: scale, and the bytes in q. */
static float narrow(int8_t q[DIM], const float x[DIM]) {
    memset(q, 0x55, DIM);
    return ml_kernels()->narrow_i8(q, x, DIM);
}

static void int8_extremes(void **state) {
    static const int8_t none[DIM] = {0};
    int8_t q[DIM];
    (void)state;
    const float zeros[DIM] = {0, -0.0f};
    assert_true(narrow(q, zeros) == 0);
    assert_memory_equal(q, none, DIM);

    const float greatest[DIM] = {FLT_MAX, -FLT_MAX, FLT_MAX / 4, 1, 0};
    const int8_t want[DIM] = {127, -127, 32, 0, 0};
    assert_true(narrow(q, greatest) == FLT_MAX / 127);
    assert_memory_equal(q, want, DIM);

    /* A scale below the least normal number would be too coarse a number for its steps. */
    const float least[DIM] = {127 * FLT_MIN, -FLT_MIN, 0};
    const int8_t steps[DIM] = {127, -1, 0};
    assert_true(narrow(q, least) == FLT_MIN);
    assert_memory_equal(q, steps, DIM);
    const float below[DIM] = {126 * FLT_MIN, -FLT_TRUE_MIN, FLT_TRUE_MIN};
    assert_true(narrow(q, below) == 0);
    assert_memory_equal(q, none, DIM);
}

/* A number that is none spoils its row, and says so. */
static void int8_not_finite(void **state) {
    static const int8_t none[DIM] = {0};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    int8_t q[DIM];
    (void)state;
    for (size_t i = 0; i < 3 * DIM; i++) {
        float x[DIM] = {1, 2, 3, 4, 5};
        x[i % DIM] = bad[i / DIM];
        assert_true(isnan(narrow(q, x)));
        assert_memory_equal(q, none, DIM);
    }
}

static void types_have_names(void **state) {
    enum ml_dtype t = ML_BF16;
    (void)state;
    assert_true(ml_kv_type_parse("f32", &t) && t == ML_F32);
    assert_true(ml_kv_type_parse("f16", &t) && t == ML_F16);
    assert_true(ml_kv_type_parse("int8", &t) && t == ML_I8);
    assert_false(ml_kv_type_parse("bf16", &t) || ml_kv_type_parse("", &t) || ml_kv_type_parse("int", &t));
    assert_int_equal(t, ML_I8);
}

/* ---- groups and places ---- */

static void layers_of_a_kind_share_pages(void **state) {
    (void)state;
    struct ml_layer_memory far = full(1, 8);
    far.device = 1;
    const struct ml_layer_memory layers[] = {
        full(2, 8),       window_of(16, 0), {.kind = ML_MEMORY_NONE}, recurrent(100), latent(12, 8),
        window_of(16, 1), window_of(16, 0), window_of(32, 0),         recurrent(64),  far};
    enum { N = sizeof layers / sizeof *layers };
    static const size_t groups[N] = {0, 1, SIZE_MAX, 2, 0, 3, 1, 4, 2, 5};
    const struct ml_memory_layout l = lay_out(layers, N, ML_F16);
    assert_int_equal(l.n_layers, N);
    assert_int_equal(l.n_groups, 6);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(l.layers[i].group, groups[i]);
        if (groups[i] == SIZE_MAX) continue;
        const struct ml_memory_group *g = &l.groups[groups[i]];
        assert_int_equal(g->device, layers[i].device);
        assert_int_equal(g->window, layers[i].window);
        assert_int_equal(g->recurrent, layers[i].kind == ML_MEMORY_RECURRENT);
    }
    assert_true(l.layers[3].state_bytes == 100 && l.layers[8].state_bytes == 64);
    assert_int_equal(l.groups[2].page_bytes, 128 + 64); /* states begin on lines */
    assert_true(l.layers[3].state_at == 0 && l.layers[8].state_at == 128);
}

/* Marks bytes of a page that nobody has marked before. */
static void claim(unsigned char *page, size_t page_bytes, size_t at, size_t bytes) {
    assert_true(at + bytes <= page_bytes);
    for (size_t i = 0; i < bytes; i++)
        assert_int_equal(page[at + i]++, 0);
}

static void claim_layer(unsigned char *page, size_t page_bytes, const struct ml_kv_layout *l) {
    const size_t size = ml_dtype_size(l->dtype),
                 scales = l->dtype == ML_I8 ? ML_PAGE_KEYS * sizeof(float) : 0;
    assert_int_equal(l->bytes, l->kv_heads * l->head_bytes);
    for (size_t h = 0; h < l->kv_heads; h++) {
        const size_t at = h * l->head_bytes;
        claim(page, page_bytes, l->k_at + at, ML_PAGE_KEYS * l->k_dim * size);
        if (l->v_at != l->k_at) claim(page, page_bytes, l->v_at + at, ML_PAGE_KEYS * l->v_dim * size);
        if (scales) claim(page, page_bytes, l->k_scales_at + at, scales);
        if (scales && l->v_at != l->k_at) claim(page, page_bytes, l->v_scales_at + at, scales);
        assert_int_equal((l->k_at + at) % 64, 0);
        assert_int_equal((l->v_at + at) % 64, 0);
        assert_true(l->k_at + at >= l->at && l->v_at + at < l->at + l->bytes);
    }
}

/* Keys, values and scales of all heads and layers of a page lie apart. */
static void nothing_overlaps(void **state) {
    static const enum ml_dtype types[] = {ML_F32, ML_F16, ML_I8};
    struct ml_layer_memory uneven = full(3, 33);
    uneven.v_dim = 17;
    const struct ml_layer_memory layers[] = {full(2, 8), latent(33, 21), uneven, full(1, 1),
                                             latent(576, 512)};
    enum { N = sizeof layers / sizeof *layers };
    (void)state;
    for (size_t t = 0; t < 3; t++) {
        const struct ml_memory_layout l = lay_out(layers, N, types[t]);
        unsigned char *page = calloc(1, l.groups[0].page_bytes);
        size_t sum = 0;
        assert_non_null(page);
        for (size_t i = 0; i < N; i++) {
            claim_layer(page, l.groups[0].page_bytes, &l.layers[i].layout);
            sum += l.layers[i].layout.bytes;
        }
        assert_int_equal(sum, l.groups[0].page_bytes);
        free(page);
    }
}

/* Values of a latent layer are the first elements of its keys, and share their scales. */
static void latent_values_are_in_keys(void **state) {
    (void)state;
    const struct ml_layer_memory one = latent(576, 512);
    const struct ml_memory_layout f16 = lay_out(&one, 1, ML_F16), i8 = lay_out(&one, 1, ML_I8);
    const struct ml_kv_layout *l = &i8.layers[0].layout;
    assert_true(l->v_at == l->k_at && l->v_scales_at == l->k_scales_at && l->v_stride == 576);
    assert_int_equal(ml_kv_slot_bytes(l), 576 + sizeof(float));
    assert_int_equal(ml_kv_slot_bytes(&f16.layers[0].layout), 2 * 576);
}

/* Heads of a power of two would fall into the same sets of a cache: none starts a multiple of 4 KiB on. */
static void heads_are_padded(void **state) {
    (void)state;
    for (size_t dim = 8; dim <= 512; dim *= 2) {
        const struct ml_layer_memory one = full(4, dim);
        const struct ml_memory_layout l = lay_out(&one, 1, ML_F32);
        assert_true(l.layers[0].layout.head_bytes % 4096 != 0);
    }
}

/* ---- what cannot be ---- */

static void refuse(struct ml_layer_memory m, enum ml_dtype type, marlin_status status, const char *what) {
    struct ml_memory_layout l;
    struct marlin_error err = {0};
    const struct ml_layer_memory layers[] = {full(1, 1), m};
    assert_int_equal(ml_memory_layout_create(layers, 2, type, &arena, &l, &err), status);
    if (!strstr(err.text, what)) fail_msg("%s is not in: %s", what, err.text);
}

static void impossible_shapes_are_named(void **state) {
    (void)state;
    struct ml_layer_memory two_heads = latent(8, 8), no_heads = full(0, 8);
    two_heads.kv_heads = 2;
    refuse(full(1, 0), ML_F16, MARLIN_ERR_ARGUMENT, "layer 1");
    refuse(no_heads, ML_F16, MARLIN_ERR_ARGUMENT, "layer 1");
    refuse(window_of(0, 0), ML_F16, MARLIN_ERR_ARGUMENT, "layer 1");
    refuse(latent(8, 9), ML_F16, MARLIN_ERR_ARGUMENT, "layer 1");
    refuse(two_heads, ML_F16, MARLIN_ERR_ARGUMENT, "layer 1");
    refuse(recurrent(0), ML_F16, MARLIN_ERR_ARGUMENT, "layer 1");
    refuse(full(1, 8), ML_BF16, MARLIN_ERR_UNSUPPORTED, ml_dtype_name(ML_BF16));
    refuse(full(1, SIZE_MAX / 8), ML_F16, MARLIN_ERR_LIMIT, "layer 1");
    refuse(full(1, SIZE_MAX / 200), ML_F16, MARLIN_ERR_LIMIT, "layer 1");
    refuse(full(SIZE_MAX / 64, 8), ML_F16, MARLIN_ERR_LIMIT, "layer 1");
    refuse(recurrent(SIZE_MAX - 10), ML_F16, MARLIN_ERR_LIMIT, "layer 1");
}

static void no_memory_is_an_error(void **state) {
    const struct ml_layer_memory one = full(1, 8);
    struct ml_memory_layout l;
    struct marlin_error err = {0};
    struct ml_arena own;
    (void)state;
    ml_arena_init(&own, 0);
    ml_mem_fail_at(1);
    assert_int_equal(ml_memory_layout_create(&one, 1, ML_F16, &own, &l, &err), MARLIN_ERR_MEMORY);
    ml_mem_fail_at(0);
    ml_arena_free(&own);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_stored_is_there),
        cmocka_unit_test(int8_is_within_half_a_step),
        cmocka_unit_test(int8_is_small),
        cmocka_unit_test(int8_extremes),
        cmocka_unit_test(int8_not_finite),
        cmocka_unit_test(types_have_names),
        cmocka_unit_test(layers_of_a_kind_share_pages),
        cmocka_unit_test(nothing_overlaps),
        cmocka_unit_test(latent_values_are_in_keys),
        cmocka_unit_test(heads_are_padded),
        cmocka_unit_test(impossible_shapes_are_named),
        cmocka_unit_test(no_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
