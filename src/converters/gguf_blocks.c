/* SPDX-License-Identifier: Apache-2.0
 *
 * The block types of ggml, each widened to float32 one block at a time: what a block means is ggml's
 * ggml-quants.c, checked against the gguf package's numpy code (tests/unit/converters/gguf_blocks.inc).
 */
#include "base/fp.h"
#include "converters/gguf_int.h"

#include <math.h>

static float half_at(const uint8_t *p) {
    return ml_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

static uint32_t u32_at(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* ---- 32 elements: low nibbles are the first half ---- */

static void widen_q4_0(const uint8_t *b, float *to) {
    const float d = half_at(b);
    for (int i = 0; i < 16; i++) {
        to[i] = d * (float)((b[2 + i] & 15) - 8);
        to[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

static void widen_q4_1(const uint8_t *b, float *to) {
    const float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < 16; i++) {
        to[i] = d * (float)(b[4 + i] & 15) + m;
        to[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

static void widen_q5_0(const uint8_t *b, float *to) {
    const float d = half_at(b);
    const uint32_t high = u32_at(b + 2);
    for (int i = 0; i < 16; i++) {
        to[i] = d * (float)((int)((b[6 + i] & 15) | (high >> i & 1) << 4) - 16);
        to[i + 16] = d * (float)((int)((b[6 + i] >> 4) | (high >> (i + 16) & 1) << 4) - 16);
    }
}

static void widen_q5_1(const uint8_t *b, float *to) {
    const float d = half_at(b), m = half_at(b + 2);
    const uint32_t high = u32_at(b + 4);
    for (int i = 0; i < 16; i++) {
        to[i] = d * (float)((b[8 + i] & 15) | (high >> i & 1) << 4) + m;
        to[i + 16] = d * (float)((b[8 + i] >> 4) | (high >> (i + 16) & 1) << 4) + m;
    }
}

static void widen_q8_0(const uint8_t *b, float *to) {
    const float d = half_at(b);
    for (int i = 0; i < 32; i++)
        to[i] = d * (float)(int8_t)b[2 + i];
}

static const int8_t nonlinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};

static void widen_table(const uint8_t *quants, float d, const int8_t *table, float *to) {
    for (int i = 0; i < 16; i++) {
        to[i] = d * (float)table[quants[i] & 15];
        to[i + 16] = d * (float)table[quants[i] >> 4];
    }
}

static void widen_iq4_nl(const uint8_t *b, float *to) {
    widen_table(b + 2, half_at(b), nonlinear, to);
}

/* E2M1 in units of a half, hence the exponent's bias of 128. */
static void widen_mxfp4(const uint8_t *b, float *to) {
    static const int8_t table[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    widen_table(b + 1, ldexpf(1.0f, (int)b[0] - 128), table, to);
}

/* ---- 256 elements ---- */

static void widen_q2_k(const uint8_t *b, float *to) {
    const uint8_t *scales = b, *quants = b + 16;
    const float d = half_at(b + 80), least = half_at(b + 82);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, shift = i % 128 / 32 * 2;
        const unsigned q = quants[half * 32 + i % 32] >> shift & 3, s = scales[i / 16];
        to[i] = d * (float)(s & 15) * (float)q - least * (float)(s >> 4);
    }
}

/* 16 scales of 6 bits: the low 4 in 8 bytes, the high 2 in 4. */
static int scale_q3_k(const uint8_t *s, int i) {
    const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4, high = s[8 + i % 4] >> (i / 4 * 2) & 3;
    return (low | high << 4) - 32;
}

static void widen_q3_k(const uint8_t *b, float *to) {
    const uint8_t *high = b, *quants = b + 32, *scales = b + 96;
    const float d = half_at(b + 108);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, sub = i % 128 / 32;
        const int q = quants[half * 32 + i % 32] >> (sub * 2) & 3;
        const int bit = high[i % 32] >> (half * 4 + sub) & 1;
        to[i] = d * (float)scale_q3_k(scales, i / 16) * (float)(q - (bit ? 0 : 4));
    }
}

/* 8 scales and 8 minima of 6 bits in 12 bytes. */
static void scale_q4_k(const uint8_t *s, int i, int *scale, int *least) {
    if (i < 4) {
        *scale = s[i] & 63;
        *least = s[i + 4] & 63;
    } else {
        *scale = (s[i + 4] & 15) | s[i - 4] >> 6 << 4;
        *least = s[i + 4] >> 4 | s[i] >> 6 << 4;
    }
}

/* Q5_K has a fifth bit for each element; of Q4_K `high` is NULL. */
static void widen_45_k(const uint8_t *b, const uint8_t *high, const uint8_t *quants, float *to) {
    const float d = half_at(b), dmin = half_at(b + 2);
    for (int sub = 0; sub < 8; sub++) {
        int scale, least;
        scale_q4_k(b + 4, sub, &scale, &least);
        const float s = d * (float)scale, m = dmin * (float)least;
        for (int i = 0; i < 32; i++) {
            const int low = quants[sub / 2 * 32 + i] >> (sub % 2 * 4) & 15;
            const int bit = high ? high[i] >> sub & 1 : 0;
            to[sub * 32 + i] = s * (float)(low | bit << 4) - m;
        }
    }
}

static void widen_q4_k(const uint8_t *b, float *to) {
    widen_45_k(b, NULL, b + 16, to);
}

static void widen_q5_k(const uint8_t *b, float *to) {
    widen_45_k(b, b + 16, b + 48, to);
}

static void widen_q6_k(const uint8_t *b, float *to) {
    const float d = half_at(b + 208);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, sub = i % 128 / 32, j = i % 32;
        const int low = b[half * 64 + sub % 2 * 32 + j] >> (sub / 2 * 4) & 15;
        const int high = b[128 + half * 32 + j] >> (sub * 2) & 3;
        to[i] = d * (float)(int8_t)b[192 + i / 16] * (float)((low | high << 4) - 32);
    }
}

static void widen_iq4_xs(const uint8_t *b, float *to) {
    const float d = half_at(b);
    const unsigned high = (unsigned)(b[2] | b[3] << 8);
    for (int i = 0; i < 8; i++) {
        const int low = b[4 + i / 2] >> (i % 2 * 4) & 15, scale = low | (int)(high >> (2 * i) & 3) << 4;
        widen_table(b + 8 + 16 * i, d * (float)(scale - 32), nonlinear, to + 32 * i);
    }
}

/* ---- the table ---- */

static const struct ml_gguf_type types[] = {
    {"F32", 0, 1, 4, ML_F32, NULL},
    {"F16", 1, 1, 2, ML_F16, NULL},
    {"BF16", 30, 1, 2, ML_BF16, NULL},
    {"Q4_0", 2, 32, 18, ML_F32, widen_q4_0},
    {"Q4_1", 3, 32, 20, ML_F32, widen_q4_1},
    {"Q5_0", 6, 32, 22, ML_F32, widen_q5_0},
    {"Q5_1", 7, 32, 24, ML_F32, widen_q5_1},
    {"Q8_0", 8, 32, 34, ML_F32, widen_q8_0},
    {"Q2_K", 10, 256, 84, ML_F32, widen_q2_k},
    {"Q3_K", 11, 256, 110, ML_F32, widen_q3_k},
    {"Q4_K", 12, 256, 144, ML_F32, widen_q4_k},
    {"Q5_K", 13, 256, 176, ML_F32, widen_q5_k},
    {"Q6_K", 14, 256, 210, ML_F32, widen_q6_k},
    {"IQ4_NL", 20, 32, 18, ML_F32, widen_iq4_nl},
    {"IQ4_XS", 23, 256, 136, ML_F32, widen_iq4_xs},
    {"MXFP4", 39, 32, 17, ML_F32, widen_mxfp4},
};

const struct ml_gguf_type *ml_gguf_type_find(uint32_t id) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].id == id) return &types[i];
    return NULL;
}

const char *ml_gguf_type_name(uint32_t id) {
    static const char *const others[] = {
        [4] = "Q4_2",    [5] = "Q4_3",        [9] = "Q8_1",        [15] = "Q8_K",       [16] = "IQ2_XXS",
        [17] = "IQ2_XS", [18] = "IQ3_XXS",    [19] = "IQ1_S",      [21] = "IQ3_S",      [22] = "IQ2_S",
        [24] = "I8",     [25] = "I16",        [26] = "I32",        [27] = "I64",        [28] = "F64",
        [29] = "IQ1_M",  [31] = "Q4_0_4_4",   [32] = "Q4_0_4_8",   [33] = "Q4_0_8_8",   [34] = "TQ1_0",
        [35] = "TQ2_0",  [36] = "IQ4_NL_4_4", [37] = "IQ4_NL_4_8", [38] = "IQ4_NL_8_8", [40] = "NVFP4"};
    const struct ml_gguf_type *known = ml_gguf_type_find(id);
    if (known) return known->name;
    return id < sizeof others / sizeof *others && others[id] ? others[id] : "?";
}
