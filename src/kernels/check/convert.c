/* SPDX-License-Identifier: Apache-2.0
 *
 * Check and timing of conversions: every bit pattern of the narrow types, ties and both their neighbours for
 * the way back.
 */
#include "kernels/check.h"

#include "base/rng.h"

#include <math.h>
#include <string.h>

static const size_t lengths[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 100, 65536};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths, TIMED = 1 << 15 };

struct call {
    enum ml_dtype t;
    void *dst;
    const void *src;
    size_t n;
};

static ml_check_entry *get_widen(const struct ml_check_tables *t, int kind) {
    return (ml_check_entry *)t->k.widen[kind];
}

static ml_check_entry *get_narrow(const struct ml_check_tables *t, int kind) {
    return (ml_check_entry *)t->k.narrow[kind];
}

static void call_widen(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    t->k.widen[a->t](a->dst, a->src, a->n);
}

static void call_narrow(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    t->k.narrow[a->t](a->dst, a->src, a->n);
}

/* Element i is the bit pattern i, or anything where patterns have 32 bits. */
static void fill_patterns(struct ml_check *c, enum ml_dtype t, void *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (t == ML_F32)
            ((uint32_t *)p)[i] = (uint32_t)ml_rng_u64(ml_check_rng(c));
        else
            ((uint16_t *)p)[i] = (uint16_t)i;
    }
}

/* Floats that are halfway between two neighbours of the narrow type, or one step beside, or anything. */
static void fill_ties(struct ml_check *c, enum ml_dtype t, uint32_t *p, size_t n) {
    const unsigned dropped = t == ML_F16 ? 13 : 16;
    for (size_t i = 0; i < n; i++) {
        const uint32_t any = (uint32_t)ml_rng_u64(ml_check_rng(c));
        const uint32_t tie = (any & ~((1u << dropped) - 1)) | 1u << (dropped - 1);
        p[i] = i % 4 == 3 ? any : tie + (uint32_t)(i % 4) - 1;
        /* Half of them where binary16 has values, subnormals included. */
        if (t == ML_F16 && i % 8 < 4) p[i] = (p[i] & 0x807fffff) | (100 + any % 45) << 23;
    }
}

static void widen_case(struct ml_check *c, enum ml_dtype t, size_t n) {
    if (!ml_check_begin(c, "widen", ml_dtype_name(t), get_widen, (int)t)) return;
    ml_check_param(c, "n", n);
    const struct ml_check_result dst = {.type = ML_CHECK_F32, .count = n};
    void *src = ml_check_input(c, n * ml_dtype_size(t));
    fill_patterns(c, t, src, n);
    struct call a = {.t = t, .src = src, .n = n, .dst = ml_check_output(c, &dst)};
    ml_check_cost(c, (double)(n * (sizeof(float) + ml_dtype_size(t))), 0, ML_PEAK_F32);
    ml_check_call(c, call_widen, &a);
}

static void narrow_case(struct ml_check *c, enum ml_dtype t, size_t n) {
    static const enum ml_check_type to[] = {ML_CHECK_F32, ML_CHECK_F16, ML_CHECK_BF16};
    if (!ml_check_begin(c, "narrow", ml_dtype_name(t), get_narrow, (int)t)) return;
    ml_check_param(c, "n", n);
    const struct ml_check_result dst = {.type = to[t], .count = n};
    void *src = ml_check_input(c, n * sizeof(float));
    fill_ties(c, t, src, n);
    struct call a = {.t = t, .src = src, .n = n, .dst = ml_check_output(c, &dst)};
    ml_check_cost(c, (double)(n * (sizeof(float) + ml_dtype_size(t))), 0, ML_PEAK_F32);
    ml_check_call(c, call_narrow, &a);
}

/* ---- rows of int8 ---- */

struct row_call {
    int8_t *q;
    float *scale;
    const float *x;
    size_t n;
};

static ml_check_entry *get_narrow_i8(const struct ml_check_tables *t, int variant) {
    (void)variant;
    return (ml_check_entry *)t->k.narrow_i8;
}

static void call_narrow_i8(const struct ml_check_tables *t, void *arg) {
    const struct row_call *a = arg;
    *a->scale = t->k.narrow_i8(a->q, a->x, a->n);
}

/* Halves between two steps of the scale 2^-5, whole ones and their neighbours. */
static void fill_halves(struct ml_check *c, float *x, size_t n) {
    x[0] = 127.0f / 32;
    for (size_t i = 1; i < n; i++) {
        const int steps = (int)(ml_rng_u64(ml_check_rng(c)) % 507) - 253;
        const float half = (float)steps / 64;
        x[i] = i % 3 == 0 ? half : nextafterf(half, i % 3 == 1 ? 4 : -4);
    }
}

enum { HALVES = ML_CHECK_FILLS };

static void narrow_i8_case(struct ml_check *c, size_t n, int fill) {
    if (!ml_check_begin(c, "narrow", "I8", get_narrow_i8, 0)) return;
    ml_check_param(c, "n", n);
    if (!ml_check_timing(c))
        ml_check_param_text(c, "fill",
                            fill == HALVES ? "halves" : ml_check_fill_name((enum ml_check_fill)fill));
    const struct ml_check_result q = {.type = ML_CHECK_BYTES, .count = n};
    const struct ml_check_result scale = {.type = ML_CHECK_F32, .count = 1};
    float *x = ml_check_floats(c, n, fill == HALVES ? ML_CHECK_NORMAL : (enum ml_check_fill)fill);
    if (fill == HALVES) fill_halves(c, x, n);
    struct row_call a = {.q = ml_check_output(c, &q), .scale = ml_check_output(c, &scale), .x = x, .n = n};
    ml_check_cost(c, (double)(n * (sizeof(float) + 1)), 0, ML_PEAK_F32);
    ml_check_call(c, call_narrow_i8, &a);
}

static void narrow_i8_cases(struct ml_check *c) {
    if (ml_check_timing(c)) narrow_i8_case(c, 128, ML_CHECK_NORMAL);
    for (size_t i = 0; i < N_LENGTHS * (HALVES + 1) && !ml_check_timing(c); i++)
        narrow_i8_case(c, lengths[i % N_LENGTHS], (int)(i / N_LENGTHS));
}

static void run(struct ml_check *c) {
    for (int t = 0; t < ML_FLOAT_KINDS; t++) {
        if (ml_check_timing(c)) widen_case(c, (enum ml_dtype)t, TIMED);
        for (size_t i = 0; i < N_LENGTHS && !ml_check_timing(c); i++)
            widen_case(c, (enum ml_dtype)t, lengths[i]);
    }
    for (int t = 0; t < ML_FLOAT_KINDS; t++) {
        if (ml_check_timing(c)) narrow_case(c, (enum ml_dtype)t, TIMED);
        for (size_t i = 0; i < N_LENGTHS && !ml_check_timing(c); i++)
            narrow_case(c, (enum ml_dtype)t, lengths[i]);
    }
    narrow_i8_cases(c);
}

const struct ml_check_family ml_check_convert = {"convert", run};
