/* SPDX-License-Identifier: Apache-2.0
 *
 * The AMX tier's products with tiles in plain C, on any processor with AVX-512: bit for bit the reference's.
 * (With tiles of silicon they are in the kernel check.) This file is compiled without instructions above the
 * baseline.
 */
#include "base/cpu.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/tiers.h"
#include "packing/codes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#if defined(__x86_64__)
#include "amx_emulated.h"
#else
static void amx_emulated_init(struct ml_kernels *k) {
    (void)k;
}
static bool amx_emulated_busy(void) {
    return false;
}
#endif

enum { MAX_N = 70 };

struct type {
    enum ml_quant_format format;
    int bits;
    enum ml_exl3_codebook codebook;
};

struct product {
    struct ml_quant_matrix m;
    uint8_t *data, *arranged;
    float *x;
    size_t n;
    bool even; /* rows of x equally far apart */
};

static struct ml_rng rng;

static void *need(size_t bytes) {
    void *p = ml_alloc_aligned(bytes);
    assert_non_null(p);
    return p;
}

static void make(struct product *p, const struct type *t, size_t rows, size_t cols) {
    const size_t bytes = rows * cols * (size_t)t->bits / 8;
    p->data = need(bytes);
    p->arranged = need(bytes);
    for (size_t i = 0; i < bytes; i++) {
        p->data[i] = (uint8_t)ml_rng_u64(&rng);
        if (t->format == ML_QUANT_INT8 && p->data[i] == 0x80) p->data[i] = 0x81;
    }
    p->m = (struct ml_quant_matrix){.format = t->format,
                                    .bits = t->bits,
                                    .codebook = t->codebook,
                                    .rows = rows,
                                    .cols = cols,
                                    .n = rows,
                                    .k = cols,
                                    .data = p->data};
    p->x = need(MAX_N * cols * sizeof *p->x);
    for (size_t i = 0; i < MAX_N * cols; i++)
        p->x[i] = ml_rng_normal(&rng);
    if (t->format == ML_QUANT_TAP)
        ml_quant_set_code(&p->m, ml_tap_code_find((unsigned)t->bits, ML_TAP_WINDOW_NORMAL));
    if (t->format == ML_QUANT_INT8) return;
    ml_quant_interleave(&p->m, p->arranged, 0, rows / ML_QUANT_STRIP);
    p->m.arranged = p->arranged;
}

static void drop(struct product *p) {
    ml_free_aligned(p->data);
    ml_free_aligned(p->arranged);
    ml_free_aligned(p->x);
}

/* z [n][128] of the first `strips` strips. */
static void multiply(const struct ml_kernels *k, const struct product *p, size_t strips, float *z) {
    struct ml_quant_x x[MAX_N];
    const size_t bytes = ml_quant_x_bytes(p->m.k);
    int8_t *a = need(2 * MAX_N * bytes);
    void *scratch = need(ml_quant_dots_scratch(p->m.k));
    memset(scratch, 0xa5, ml_quant_dots_scratch(p->m.k));
    for (size_t t = 0; t < p->n; t++) {
        x[t].a = a + (p->even ? t : 2 * t + t % 3 / 2) * bytes;
        k->quant.round(&x[t], &p->m, ML_QUANT_MANY, p->x + t * p->m.k);
    }
    k->quant.dots(z, ML_QUANT_BLOCK, &p->m, 0, strips, x, p->n, scratch);
    ml_free_aligned(a);
    ml_free_aligned(scratch);
}

static void compare(const struct product *p, size_t strips) {
    struct ml_kernels reference, emulated;
    float *want = need(MAX_N * ML_QUANT_BLOCK * sizeof *want);
    float *got = need(MAX_N * ML_QUANT_BLOCK * sizeof *got);
    const size_t rows = p->m.n < strips * ML_QUANT_STRIP ? p->m.n : strips * ML_QUANT_STRIP;
    ml_kernels_init(&reference, ml_cpu(), ML_CPU_GENERIC);
    ml_kernels_init(&emulated, ml_cpu(), ML_CPU_AVX512);
    amx_emulated_init(&emulated);
    multiply(&reference, p, strips, want);
    multiply(&emulated, p, strips, got);
    assert_false(amx_emulated_busy());
    for (size_t t = 0; t < p->n; t++)
        assert_memory_equal(got + t * ML_QUANT_BLOCK, want + t * ML_QUANT_BLOCK, rows * sizeof *want);
    ml_free_aligned(want);
    ml_free_aligned(got);
}

static void need_avx512(void) {
    if (ml_cpu_tier_has(ml_cpu()->tier, ML_CPU_AVX512)) return;
    print_message("skipped: this processor has no AVX-512 tier\n");
    skip();
}

/* Runs of whole and of broken steps; one and two halves of a block, whole and broken; few strips. */
static void check(const struct type *t) {
    static const size_t cols[] = {128, 384, 512, 640, 1024};
    static const size_t batches[] = {1, 2, 16, 17, 32, 33, 64, MAX_N};
    for (size_t c = 0; c < sizeof cols / sizeof *cols; c++) {
        struct product p;
        make(&p, t, ML_QUANT_BLOCK, cols[c]);
        for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
            p.n = batches[b];
            p.even = b % 2 == 0;
            compare(&p, c == 0 ? 3 : 8);
        }
        drop(&p);
    }
}

static void tap(void **state) {
    (void)state;
    need_avx512();
    for (int bits = ML_TAP_MIN_BITS; bits <= ML_TAP_MAX_BITS; bits++)
        check(&(struct type){.format = ML_QUANT_TAP, .bits = bits});
}

static void exl3(void **state) {
    (void)state;
    need_avx512();
    for (int cb = 0; cb < ML_EXL3_CODEBOOKS; cb++)
        for (int bits = 1; bits <= ML_EXL3_MAX_BITS; bits++)
            check(&(struct type){ML_QUANT_EXL3, bits, (enum ml_exl3_codebook)cb});
}

static void int8(void **state) {
    const struct type t = {.format = ML_QUANT_INT8, .bits = 8};
    static const size_t cols[] = {1, 63, 64, 65, 77, 131, 320};
    static const size_t rows[] = {1, 16, 19, 64, 100, 128};
    (void)state;
    need_avx512();
    check(&t);
    for (size_t c = 0; c < sizeof cols / sizeof *cols; c++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            struct product p;
            make(&p, &t, rows[r], cols[c]);
            p.n = 1 + (7 * c + 11 * r) % MAX_N;
            p.even = r % 2 == 0;
            compare(&p, (rows[r] + ML_QUANT_STRIP - 1) / ML_QUANT_STRIP);
            drop(&p);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(tap), cmocka_unit_test(exl3), cmocka_unit_test(int8)};
    ml_rng_seed(&rng, 20262);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
