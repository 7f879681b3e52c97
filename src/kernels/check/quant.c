/* SPDX-License-Identifier: Apache-2.0
 *
 * Check and timing of products with quantized matrices. FAST is the reference's float for float, so its
 * tolerance is 0; x is rounded by the tier that multiplies it, since its order is the tier's own.
 */
#include "kernels/check.h"

#include "base/rng.h"
#include "packing/codes.h"

struct type {
    enum ml_quant_format format;
    int bits;
    enum ml_exl3_codebook codebook;
    bool foreign; /* TAP: a table that is not mirrored, as a file may bring one */
};

struct call {
    struct ml_quant_matrix m;
    struct ml_tap_code code;
    const float *x;
    size_t n; /* rows of x */
    struct ml_quant_x *rounded;
    float *out, *rotated;
    int8_t *a;
    void *scratch;
};

static const char *name_of(const struct type *t) {
    static const char *const books[ML_EXL3_CODEBOOKS] = {"EXL3 3INST", "EXL3 MCG", "EXL3 MUL1"};
    if (t->format == ML_QUANT_EXL3) return books[t->codebook];
    if (t->foreign) return "TAP any table";
    return t->format == ML_QUANT_TAP ? "TAP" : "INT8";
}

#define GETTER(entry)                                                                                        \
    static ml_check_entry *get_##entry(const struct ml_check_tables *t, int variant) {                       \
        (void)variant;                                                                                       \
        return (ml_check_entry *)t->k.quant.entry;                                                           \
    }
GETTER(rotate)
GETTER(unrotate)
GETTER(dot)
GETTER(few)
GETTER(dots)
GETTER(decode)

static void fill_bits(struct ml_check *c, uint8_t *p, size_t n) {
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++, v >>= 8) {
        if (i % 8 == 0) v = ml_rng_u64(ml_check_rng(c));
        p[i] = (uint8_t)v;
    }
}

/* A matrix of random bits, every pattern of which is a tile. INT8 never holds -128. */
static void make_matrix(struct ml_check *c, struct call *a, const struct type *t, size_t n, size_t k) {
    const size_t bytes = n * k * (size_t)t->bits / 8;
    uint8_t *data = ml_check_input(c, bytes);
    fill_bits(c, data, bytes);
    const bool rows = !ml_form_of(t->format)->tiled;
    for (size_t i = 0; rows && i < bytes; i++)
        data[i] = data[i] == 0x80 ? 0x7f : data[i];
    a->m = (struct ml_quant_matrix){
        .format = t->format, .bits = t->bits, .rows = n, .cols = k, .n = n, .k = k, .data = data};
    a->m.codebook = t->codebook;
    if (rows) return;
    if (t->format == ML_QUANT_TAP) {
        a->code = *ml_tap_code_find((unsigned)t->bits, ML_TAP_WINDOW_NORMAL);
        for (unsigned i = 0; t->foreign && i < 1u << (a->code.index_bits - 2); i++)
            a->code.table[i] = (int8_t)(a->code.table[i] + (a->code.table[i] > 0 ? -5 : 5));
        ml_quant_set_code(&a->m, &a->code);
    }
    const struct ml_kernels *tier = &ml_check_tier(c)->k;
    if (!ml_quant_arranged_bytes(tier, &a->m)) return;
    void *arranged = ml_check_input(c, bytes);
    ml_quant_arrange(tier, &a->m, arranged);
    a->m.arranged = arranged;
}

static void describe(struct ml_check *c, const struct type *t, size_t n, size_t rows, size_t cols) {
    ml_check_param(c, "bits", (size_t)t->bits);
    ml_check_param(c, "n", n);
    ml_check_param(c, "rows", rows);
    ml_check_param(c, "cols", cols);
}

static float *exact_output(struct ml_check *c, size_t count) {
    const struct ml_check_result z = {.type = ML_CHECK_F32, .count = count};
    return ml_check_output(c, &z);
}

/* ---- rotations ---- */

static void call_rotate(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    t->k.quant.rotate(a->out, a->x, a->m.su, a->m.cols, a->m.k);
}

static void rotate_case(struct ml_check *c, size_t cols, size_t k, enum ml_check_fill fill) {
    if (!ml_check_begin(c, "rotate", "", get_rotate, 0)) return;
    ml_check_param(c, "cols", cols);
    ml_check_param_text(c, "fill", ml_check_fill_name(fill));
    struct call a = {.x = ml_check_floats(c, cols, fill), .out = exact_output(c, k)};
    a.m.su = ml_check_floats(c, k, ML_CHECK_NORMAL);
    a.m.cols = cols;
    a.m.k = k;
    ml_check_cost(c, 12.0 * (double)k, 8.0 * (double)k, ML_PEAK_F32);
    ml_check_call(c, call_rotate, &a);
}

static void call_unrotate(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    for (size_t i = 0; i < ML_QUANT_BLOCK; i++)
        a->rotated[i] = a->x[i];
    t->k.quant.unrotate(a->out, a->rotated, a->m.sv, a->m.rows);
}

static void unrotate_case(struct ml_check *c, size_t rows, enum ml_check_fill fill) {
    if (!ml_check_begin(c, "unrotate", "", get_unrotate, 0)) return;
    ml_check_param(c, "rows", rows);
    ml_check_param_text(c, "fill", ml_check_fill_name(fill));
    struct call a = {.x = ml_check_floats(c, ML_QUANT_BLOCK, fill), .out = exact_output(c, rows)};
    a.m.sv = ml_check_floats(c, rows, ML_CHECK_NORMAL);
    a.m.rows = rows;
    a.rotated = ml_check_scratch(c, ML_QUANT_BLOCK * sizeof *a.rotated);
    ml_check_cost(c, 12.0 * (double)rows, 8.0 * (double)rows, ML_PEAK_F32);
    ml_check_call(c, call_unrotate, &a);
}

/* ---- products ---- */

static void round_rows(const struct ml_check_tables *t, const struct call *a, enum ml_quant_rows rows) {
    for (size_t i = 0; i < a->n; i++) {
        a->rounded[i].a = a->a + i * ml_quant_x_bytes(a->m.k);
        t->k.quant.round(&a->rounded[i], &a->m, rows, a->x + i * a->m.k);
    }
}

static size_t strips_of(const struct ml_quant_matrix *m) {
    return (m->n + ML_QUANT_STRIP - 1) / ML_QUANT_STRIP;
}

static void call_dot(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    round_rows(t, a, ML_QUANT_ONE);
    for (size_t s = 0; s < strips_of(&a->m); s++)
        t->k.quant.dot(a->out + s * ML_QUANT_STRIP, &a->m, s, a->rounded);
}

static void call_few(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    round_rows(t, a, ML_QUANT_FEW);
    for (size_t s = 0; s < strips_of(&a->m); s++)
        t->k.quant.few(a->out + s * ML_QUANT_STRIP, a->m.n, &a->m, s, a->rounded, a->n, a->scratch);
}

static void call_dots(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    round_rows(t, a, ML_QUANT_MANY);
    for (size_t s = 0; s < strips_of(&a->m); s += 8)
        t->k.quant.dots(a->out + s * ML_QUANT_STRIP * a->n, ML_QUANT_BLOCK, &a->m, s, 8, a->rounded, a->n,
                        a->scratch);
}

struct product {
    const char *name;
    ml_check_get_fn *get;
    ml_check_call_fn *call;
    bool streams;
};
static const struct product dot = {"dot", get_dot, call_dot, true};
static const struct product few = {"few", get_few, call_few, true};
static const struct product dots = {"dots", get_dots, call_dots, false};

/* `dots` writes blocks of 128 rows, each [n][128]. */
static void product_case(struct ml_check *c, const struct type *t, size_t n, size_t rows, size_t cols,
                         enum ml_check_fill fill, const struct product *p) {
    if (!ml_check_begin(c, p->name, name_of(t), p->get, 0)) return;
    describe(c, t, n, rows, cols);
    struct call a = {.n = n};
    make_matrix(c, &a, t, rows, cols);
    a.x = ml_check_floats(c, n * cols, fill);
    a.out = exact_output(c, n * rows);
    a.rounded = ml_check_scratch(c, n * sizeof *a.rounded);
    a.a = ml_check_scratch(c, n * ml_quant_x_bytes(cols));
    a.scratch = ml_check_scratch(c, ml_quant_dots_scratch(cols));
    const double weights = (double)rows * (double)cols;
    ml_check_cost(c, weights * t->bits / 8, 2 * weights * (double)n, ML_PEAK_INT8);
    if (p->streams) ml_check_streams(c);
    ml_check_call(c, p->call, &a);
}

static void call_decode(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    for (size_t s = 0; s < strips_of(&a->m); s++)
        t->k.quant.decode(a->out + s * ML_QUANT_STRIP * a->m.k, &a->m, s);
}

static void decode_case(struct ml_check *c, const struct type *t, size_t rows, size_t cols) {
    if (!ml_check_begin(c, "decode", name_of(t), get_decode, 0)) return;
    describe(c, t, 0, rows, cols);
    struct call a = {0};
    make_matrix(c, &a, t, rows, cols);
    a.out = exact_output(c, rows * cols);
    ml_check_cost(c, (double)rows * (double)cols * (4 + t->bits / 8.0), 0, ML_PEAK_F32);
    ml_check_call(c, call_decode, &a);
}

static const enum ml_check_fill fills[] = {ML_CHECK_NORMAL, ML_CHECK_ZERO, ML_CHECK_LARGE, ML_CHECK_TINY,
                                           ML_CHECK_SPECIAL};
enum { N_FILLS = sizeof fills / sizeof *fills };

static void check_dot(struct ml_check *c, const struct type *t) {
    for (int i = 0; i < N_FILLS; i++)
        product_case(c, t, 1, 128, 256, fills[i], &dot);
    product_case(c, t, 1, 128, 384, ML_CHECK_NORMAL, &dot);
    if (t->format != ML_QUANT_INT8) return;
    product_case(c, t, 1, 5, 1, ML_CHECK_NORMAL, &dot);
    product_case(c, t, 1, 19, 77, ML_CHECK_NORMAL, &dot);
}

static void check_few(struct ml_check *c, const struct type *t) {
    for (int i = 0; i < N_FILLS; i++)
        product_case(c, t, 3, 128, 256, fills[i], &few);
    for (size_t n = 1; n <= ML_QUANT_FEW_ROWS; n++)
        product_case(c, t, n, 128, 128 * n, ML_CHECK_NORMAL, &few);
    if (t->format != ML_QUANT_INT8) return;
    for (size_t n = 1; n <= ML_QUANT_FEW_ROWS; n++)
        product_case(c, t, n, 19, 77, ML_CHECK_NORMAL, &few);
    product_case(c, t, 8, 5, 1, ML_CHECK_NORMAL, &few);
}

static void check_dots(struct ml_check *c, const struct type *t) {
    for (int i = 0; i < N_FILLS; i++)
        product_case(c, t, 3, 128, 256, fills[i], &dots);
    product_case(c, t, 13, 256, 128, ML_CHECK_NORMAL, &dots);
    product_case(c, t, 16, 128, 512, ML_CHECK_NORMAL, &dots); /* AMX reads half a block where it lies */
    product_case(c, t, 35, 128, 512, ML_CHECK_NORMAL, &dots); /* AMX takes 32 at once */
    if (t->format == ML_QUANT_INT8) product_case(c, t, 2, 128, 131, ML_CHECK_NORMAL, &dots);
}

static void check_decode(struct ml_check *c, const struct type *t) {
    decode_case(c, t, 128, 256);
    if (t->format == ML_QUANT_INT8) decode_case(c, t, 19, 77);
}

static void time_dot(struct ml_check *c, const struct type *t) {
    product_case(c, t, 1, 4096, 4096, ML_CHECK_NORMAL, &dot);
}

static void time_few(struct ml_check *c, const struct type *t) {
    for (size_t n = 2; n <= ML_QUANT_FEW_ROWS; n *= 2)
        product_case(c, t, n, 4096, 4096, ML_CHECK_NORMAL, &few);
}

static void time_dots(struct ml_check *c, const struct type *t) {
    product_case(c, t, 8, 1024, 4096, ML_CHECK_NORMAL, &dots);
    product_case(c, t, 128, 1024, 4096, ML_CHECK_NORMAL, &dots);
}

static void time_decode(struct ml_check *c, const struct type *t) {
    decode_case(c, t, 128, 4096);
}

typedef void walk_fn(struct ml_check *c, const struct type *t);

/* One entry after the other, so that a row of the report is an entry of a format. */
static void walk(struct ml_check *c, struct type t, int from, int to) {
    static walk_fn *const check[] = {check_dot, check_few, check_dots, check_decode};
    static walk_fn *const time[] = {time_dot, time_few, time_dots, time_decode};
    for (int i = 0; i < 4; i++) {
        for (t.bits = from; t.bits <= to; t.bits++)
            (ml_check_timing(c) ? time : check)[i](c, &t);
    }
}

/* All widths and codebooks; timing, one width stands for all where there are codebooks too. */
static void walk_form(struct ml_check *c, enum ml_quant_format format) {
    const struct ml_form *f = ml_form_of(format);
    const bool timing = ml_check_timing(c), one = timing && f->books > 1;
    struct type t = {.format = format};
    for (int book = 0; book < f->books; book++) {
        t.codebook = (enum ml_exl3_codebook)book;
        walk(c, t, one ? 4 : f->min_bits, one ? 4 : f->max_bits);
    }
    t.foreign = f->code.suffix != NULL;
    if (t.foreign && !timing) walk(c, t, f->min_bits, f->max_bits);
}

static void run(struct ml_check *c) {
    const bool timing = ml_check_timing(c);
    for (int fill = 0; fill < (timing ? 1 : ML_CHECK_FILLS); fill++)
        rotate_case(c, timing ? 4096 : 300, timing ? 4096 : 384, (enum ml_check_fill)fill);
    for (int fill = 0; fill < (timing ? 1 : ML_CHECK_FILLS); fill++) {
        unrotate_case(c, 128, (enum ml_check_fill)fill);
        if (!timing) unrotate_case(c, 77, (enum ml_check_fill)fill);
    }
    for (int f = 0; f < ML_QUANT_FORMATS; f++)
        walk_form(c, (enum ml_quant_format)f);
}

const struct ml_check_family ml_check_quant = {"quant", run};
