/* SPDX-License-Identifier: Apache-2.0
 *
 * EXL3 tiles on AVX-512. A qword lane is a tile of one run of inputs; its words hold the stream from the most
 * significant bit down. Eight consecutive symbols t = 8 L + j belong to the outputs c = L / 4 (j < 4) and
 * c + 8, to the inputs 2 i, 2 i + 1, 2 i + 8, 2 i + 9 with i = L mod 4. So one vector of 32 states, 16 bits
 * each, is four inputs of one output in each of 8 runs: the sums of a 32-bit lane stay with their row.
 *
 * 64 symbols are K words and 2 + 2 outputs; a tile is four such periods.
 *
 *     product of a state, 32 bits   hi = mulhi(s, M low) + s * M high | lo = s * M low      16-bit lanes
 *     MUL1    bytes of lo and hi times x, each x twice: two dot products
 *     3INST   8 bits of each half (exponent and upper mantissa) look up its magnitude; signs go to x
 */
#include "kernels/cpu/avx512/quant_few.h"
#include "kernels/cpu/unroll_simd.h"

#include <string.h>

/* The 4 states of l (of 8) and half (of 2) in a period; w[0] is the word before its K words. */
V_INLINE vq states(const vq *w, const int K, const int l, const int half) {
    const int start = 64 + (8 * l + 4 * half + 1) * K - 16;
    int at = start % 64;
    vq lane = w[start / 64];
    if (at + 3 * K + 16 > 64) {
        lane = _mm512_shldv_epi64(lane, w[start / 64 + 1], _mm512_set1_epi64(at));
        at = 0;
    }
    uint64_t control = 0;
    for (int j = 0; j < 4; j++) {
        control |= (uint64_t)(48 - at - j * K) << (16 * j);
        control |= (uint64_t)(56 - at - j * K) << (16 * j + 8);
    }
    return _mm512_multishift_epi64_epi8(_mm512_set1_epi64((long long)(control & 0x3f3f3f3f3f3f3f3f)), lane);
}

/* s * m + add in 16-bit halves. */
V_INLINE void product(vq s, const uint32_t m, const uint32_t add, vq *lo, vq *hi) {
    const vq low = _mm512_set1_epi16((short)m), high = _mm512_set1_epi16((short)(m >> 16));
    *lo = _mm512_mullo_epi16(s, low);
    *hi = _mm512_add_epi16(_mm512_mulhi_epu16(s, low), _mm512_mullo_epi16(s, high));
    if (!add) return;
    const vq more = _mm512_set1_epi16((short)add);
    *lo = _mm512_add_epi16(*lo, more);
    const __mmask32 carry = _mm512_cmplt_epu16_mask(*lo, more);
    *hi = _mm512_add_epi16(*hi, _mm512_set1_epi16((short)(add >> 16)));
    *hi = _mm512_mask_add_epi16(*hi, carry, *hi, _mm512_set1_epi16(1));
}

V_INLINE void product_of(const enum ml_exl3_codebook cb, vq s, vq *lo, vq *hi) {
    if (cb == ML_EXL3_MUL1)
        product(s, ML_EXL3_MUL1_MULTIPLIER, 0, lo, hi);
    else if (cb == ML_EXL3_MCG)
        product(s, ML_EXL3_MCG_MULTIPLIER, 0, lo, hi);
    else
        product(s, ML_EXL3_3INST_MULTIPLIER, ML_EXL3_3INST_ADDEND, lo, hi);
}

/* Magnitudes by bits 4..11 of a half before its constant is exclusive-ored in. */
static struct lut magnitudes(void) {
    uint8_t table[256];
    for (unsigned i = 0; i < 256; i++)
        table[i] = (uint8_t)ml_quant_half((i << 4 ^ 0x3b60) & 0xfff);
    return q_lut(table, 8);
}

/* Magnitudes of both halves, low then high, and the mask of those that are negative. */
V_INLINE vq halves(const struct lut *lut, vq lo, vq hi, __mmask64 *negative) {
    const vq low = _mm512_set1_epi16(0xff);
    const vq index = q_mux(low, _mm512_srli_epi16(lo, 4), _mm512_slli_epi16(hi, 4));
    *negative = _mm512_movepi8_mask(q_mux(low, _mm512_srli_epi16(lo, 8), hi));
    return q_lookup(lut, index, 8);
}

V_INLINE vq dot_states(const enum ml_exl3_codebook cb, const struct lut *lut, vq acc, vq s, vq in) {
    vq lo, hi;
    product_of(cb, s, &lo, &hi);
    if (cb == ML_EXL3_MUL1) return q_dot(q_dot(acc, lo, in), hi, in);
    __mmask64 negative;
    const vq magnitude = halves(lut, lo, hi, &negative);
    return q_dot(acc, magnitude, _mm512_mask_sub_epi8(in, negative, q_zero(), in));
}

V_INLINE void dot_k(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x,
                    const int K, const enum ml_exl3_codebook cb) {
    const uint8_t *w = strip_at(m, s);
    const int8_t *a = x->a;
    const struct lut lut = magnitudes();
    vq acc[16];
    for (int i = 0; i < 16; i++)
        acc[i] = q_zero();
    for (size_t g = 0; g < m->k / 128; g++, a += 256) {
        vq word[9], in[4];
        word[0] = q_load(w + 64 * (4 * K - 1));
        UNROLL
        for (int i = 0; i < 4; i++)
            in[i] = q_load(a + 64 * i);
        for (int p = 0; p < 4; p++, w += 64 * K) {
            UNROLL
            for (int i = 0; i < K; i++) {
                word[1 + i] = q_load(w + 64 * i);
                _mm_prefetch((const char *)w + PREFETCH + 64 * i, _MM_HINT_T0);
            }
            UNROLL
            for (int c = 0; c < 2; c++) {
                vq first = acc[2 * p + c], second = acc[2 * p + c + 8];
                UNROLL
                for (int i = 0; i < 4; i++) {
                    first = dot_states(cb, &lut, first, states(word, K, 4 * c + i, 0), in[i]);
                    second = dot_states(cb, &lut, second, states(word, K, 4 * c + i, 1), in[i]);
                }
                acc[2 * p + c] = first;
                acc[2 * p + c + 8] = second;
            }
            word[0] = word[K];
        }
    }
    finish_rows(z, acc, x, cb == ML_EXL3_MUL1 ? 510 : 0);
}

/* Whole numbers of 32 states as int16. */
V_INLINE vq whole(const enum ml_exl3_codebook cb, const struct lut *lut, vq s) {
    const vq ones = q_set8(1);
    vq lo, hi;
    product_of(cb, s, &lo, &hi);
    if (cb == ML_EXL3_MUL1) {
        const vq sum = _mm512_add_epi16(_mm512_maddubs_epi16(lo, ones), _mm512_maddubs_epi16(hi, ones));
        return _mm512_sub_epi16(sum, _mm512_set1_epi16(510));
    }
    __mmask64 negative;
    const vq magnitude = halves(lut, lo, hi, &negative);
    return _mm512_maddubs_epi16(magnitude, _mm512_mask_blend_epi8(negative, ones, q_set8(-1)));
}

/* `few` for the outputs of halves [half, half + halves) of one period of each tile, a half being 4 symbols of
 * each of the 4 vectors of x: output 2 period + half, and the one 8 further. */
V_INLINE void period_k(const struct few_call *c, const int K, const enum ml_exl3_codebook cb, size_t period,
                       const int half, const int halves, const int tokens, const int passes) {
    const uint8_t *w = strip_at(c->m, c->s) + c->g * 256 * (size_t)K;
    const size_t chunk_bytes = c->count * 256 * (size_t)K, own = 64 * (size_t)K * period;
    const size_t before = period ? own - 64 : 64 * (size_t)(4 * K - 1), row = 2 * period + (size_t)half;
    const struct lut lut = magnitudes();
    struct pass_sums sums;
    pass_begin(&sums, c, row, 8, 2 * halves, tokens);
    for (size_t g = 0, at = c->g * 256; g < c->count; g++, w += 256 * K, at += 256) {
        vq word[9];
        word[0] = q_load(w + before);
        UNROLL
        for (int i = 0; i < K; i++)
            word[1 + i] = q_load(w + own + 64 * i);
        pass_prefetch(w + chunk_bytes, 4 * K, period * (passes / 4) + (size_t)half, passes);
        UNROLL
        for (int i = 0; i < 4; i++) {
            vq in[MOST_ROWS];
            UNROLL
            for (int h = 0; h < halves; h++) {
                in[2 * h] = whole(cb, &lut, states(word, K, 4 * (half + h) + i, 0));
                in[2 * h + 1] = whole(cb, &lut, states(word, K, 4 * (half + h) + i, 1));
            }
            pass_multiply(&sums, in, c, at + 64 * (size_t)i, 2 * halves, tokens, true);
        }
    }
    pass_end(&sums, c, row, 8, 2 * halves, tokens);
}

V_INLINE void few_k(const struct few_call *c, const int size, const int K, const enum ml_exl3_codebook cb) {
    for (size_t period = 0; period < 4; period++) {
        if (size == 0) {
            period_k(c, K, cb, period, 0, 2, 2, 4);
        } else if (size == 1) {
            period_k(c, K, cb, period, 0, 2, 4, 4);
        } else {
            period_k(c, K, cb, period, 0, 1, 8, 8);
            period_k(c, K, cb, period, 1, 1, 8, 8);
        }
    }
}

/* Pairs of columns of group g as they are; rows[i][r]: quarter i of output r. */
V_INLINE void put_pairs(uint8_t *panel, vq rows[4][16], size_t k, size_t g) {
    const size_t run = k / 16; /* pairs */
    for (size_t i = 0; i < 4; i++) {
        vq low[8], high[8];
        transpose_rows(low, high, rows[i]);
        for (size_t q = 0; q < 8; q++) {
            uint8_t *to = panel + (q * run + 8 * g + i) * PANEL_BYTES;
            q_store(to, low[q]);
            q_store(to + 4 * PANEL_BYTES, high[q]);
        }
    }
}

/* Bytes of two quarters of an output: in a qword lane 4 of the first, then 4 of the second. */
V_INLINE vq two_quarters(vq a, vq b) {
    return _mm512_shuffle_epi32(_mm512_packus_epi16(a, b), 0xd8);
}

/* Quarters as groups of bytes, see quant.h. */
V_INLINE void put_bytes(uint8_t *panel, vq rows[4][16], size_t k, size_t g, const bool high) {
    const size_t run = k / 32; /* quarters */
    const vq up = _mm512_set1_epi16(4 * Q_OFFSET), three = _mm512_set1_epi16(3);
    for (size_t i = 0; i < 4; i += 2) {
        vq bytes[16], even[8], odd[8];
        for (size_t r = 0; r < 16; r++) {
            const vq a = rows[i][r], b = rows[i + 1][r];
            if (high)
                bytes[r] = two_quarters(_mm512_srli_epi16(_mm512_add_epi16(a, up), 2),
                                        _mm512_srli_epi16(_mm512_add_epi16(b, up), 2));
            else
                bytes[r] = two_quarters(_mm512_and_si512(a, three), _mm512_and_si512(b, three));
        }
        transpose_rows(even, odd, bytes);
        for (size_t q = 0; q < 8; q++) {
            uint8_t *to = panel + (q * run + 4 * g + i) * PANEL_BYTES;
            q_store(to, even[q]);
            q_store(to + PANEL_BYTES, odd[q]);
        }
    }
}

V_INLINE void panel_k(uint8_t *panel, const struct ml_quant_matrix *m, size_t s, const int K,
                      const enum ml_exl3_codebook cb, const bool bytes) {
    const uint8_t *w = strip_at(m, s);
    const struct lut lut = magnitudes();
    for (size_t g = 0; g < m->k / 128; g++) {
        vq word[9], rows[4][16];
        word[0] = q_load(w + 64 * (4 * K - 1));
        for (int p = 0; p < 4; p++, w += 64 * K) {
            UNROLL
            for (int i = 0; i < K; i++)
                word[1 + i] = q_load(w + 64 * i);
            UNROLL
            for (int l = 0; l < 8; l++) {
                rows[l % 4][2 * p + l / 4] = whole(cb, &lut, states(word, K, l, 0));
                rows[l % 4][2 * p + l / 4 + 8] = whole(cb, &lut, states(word, K, l, 1));
            }
            word[0] = word[K];
        }
        if (bytes) {
            put_bytes(panel, rows, m->k, g, true);
            put_bytes(panel + m->k * PANEL_ROWS, rows, m->k, g, false);
        } else {
            put_pairs(panel, rows, m->k, g);
        }
    }
}

typedef void dot_fn(float *, const struct ml_quant_matrix *, size_t, const struct ml_quant_x *);
typedef void panel_fn(uint8_t *, const struct ml_quant_matrix *, size_t);
typedef void few_fn(const struct few_call *, int);

#define VERSION(name, cb, K)                                                                                 \
    static void dot_##name##_##K(float *z, const struct ml_quant_matrix *m, size_t s,                        \
                                 const struct ml_quant_x *x) {                                               \
        dot_k(z, m, s, x, K, cb);                                                                            \
    }                                                                                                        \
    static void panel_##name##_##K(uint8_t *panel, const struct ml_quant_matrix *m, size_t s) {              \
        panel_k(panel, m, s, K, cb, false);                                                                  \
    }                                                                                                        \
    static void bytes_##name##_##K(uint8_t *panel, const struct ml_quant_matrix *m, size_t s) {              \
        panel_k(panel, m, s, K, cb, true);                                                                   \
    }                                                                                                        \
    static void few_##name##_##K(const struct few_call *c, int size) {                                       \
        few_k(c, size, K, cb);                                                                               \
    }
#define VERSIONS(name, cb)                                                                                   \
    VERSION(name, cb, 1)                                                                                     \
    VERSION(name, cb, 2)                                                                                     \
    VERSION(name, cb, 3)                                                                                     \
    VERSION(name, cb, 4)                                                                                     \
    VERSION(name, cb, 5)                                                                                     \
    VERSION(name, cb, 6)                                                                                     \
    VERSION(name, cb, 7)                                                                                     \
    VERSION(name, cb, 8)
VERSIONS(inst, ML_EXL3_3INST)
VERSIONS(mcg, ML_EXL3_MCG)
VERSIONS(mul, ML_EXL3_MUL1)

#define LIST(kind, name)                                                                                     \
    {                                                                                                        \
        kind##_##name##_1, kind##_##name##_2, kind##_##name##_3, kind##_##name##_4, kind##_##name##_5,       \
            kind##_##name##_6, kind##_##name##_7, kind##_##name##_8                                          \
    }

void ml_avx512_exl3_dot(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x) {
    static dot_fn *const version[ML_EXL3_CODEBOOKS][8] = {LIST(dot, inst), LIST(dot, mcg), LIST(dot, mul)};
    version[m->codebook][m->bits - 1](z, m, s, x);
}

void ml_avx512_exl3_panel(uint8_t *panel, const struct ml_quant_matrix *m, size_t s) {
    static panel_fn *const version[ML_EXL3_CODEBOOKS][8] = {LIST(panel, inst), LIST(panel, mcg),
                                                            LIST(panel, mul)};
    version[m->codebook][m->bits - 1](panel, m, s);
}

void ml_avx512_exl3_byte_panel(uint8_t *panel, const struct ml_quant_matrix *m, size_t s) {
    static panel_fn *const version[ML_EXL3_CODEBOOKS][8] = {LIST(bytes, inst), LIST(bytes, mcg),
                                                            LIST(bytes, mul)};
    version[m->codebook][m->bits - 1](panel, m, s);
}

void ml_avx512_exl3_few(const struct few_call *c, int size) {
    static few_fn *const version[ML_EXL3_CODEBOOKS][8] = {LIST(few, inst), LIST(few, mcg), LIST(few, mul)};
    version[c->m->codebook][c->m->bits - 1](c, size);
}
