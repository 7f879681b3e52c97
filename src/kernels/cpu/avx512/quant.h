/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the files of quantized products of this tier.
 */
#ifndef ML_KERNELS_CPU_AVX512_QUANT_H
#define ML_KERNELS_CPU_AVX512_QUANT_H

#include "kernels/cpu/avx512/qvec.h"
#include "kernels/tiers.h"

/* PREFETCH: bytes ahead, more than a core has under way where it gets a fast memory to itself; measured in
 * bench/results/quant-kernels.md. */
enum { PREFETCH = 8192, STRIP = ML_QUANT_STRIP };

/* in[i]: qword lane q. out[q]: lane i. */
V_INLINE void transpose_8x8(__m512i out[8], const __m512i in[8]) {
    __m512i t[8];
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_unpacklo_epi64(in[2 * i], in[2 * i + 1]);
        t[4 + i] = _mm512_unpackhi_epi64(in[2 * i], in[2 * i + 1]);
    }
    for (int odd = 0; odd < 2; odd++) {
        const __m512i *u = t + 4 * odd;
        const __m512i a = _mm512_shuffle_i64x2(u[0], u[1], 0x88), b = _mm512_shuffle_i64x2(u[0], u[1], 0xdd);
        const __m512i c = _mm512_shuffle_i64x2(u[2], u[3], 0x88), d = _mm512_shuffle_i64x2(u[2], u[3], 0xdd);
        out[odd] = _mm512_shuffle_i64x2(a, c, 0x88);
        out[2 + odd] = _mm512_shuffle_i64x2(b, d, 0x88);
        out[4 + odd] = _mm512_shuffle_i64x2(a, c, 0xdd);
        out[6 + odd] = _mm512_shuffle_i64x2(b, d, 0xdd);
    }
}

/* rows[r]: lanes 2 q and 2 q + 1 of run q. low[q], high[q]: lane r has the even and the odd one of row r. */
V_INLINE void transpose_rows(__m512i low[8], __m512i high[8], const __m512i rows[16]) {
    __m512i even[8], odd[8];
    for (int i = 0; i < 8; i++) {
        const __m512i a = rows[2 * i], b = rows[2 * i + 1];
        even[i] = _mm512_mask_blend_epi32(0xaaaa, a, _mm512_slli_epi64(b, 32));
        odd[i] = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(a, 32), b);
    }
    transpose_8x8(low, even);
    transpose_8x8(high, odd);
}

/* by_run[q]: lane r has the sum of row r over the two 32-bit lanes of run q. */
V_INLINE void sums_by_lane(__m512i by_run[8], const __m512i acc[16]) {
    __m512i sums[8];
    for (int i = 0; i < 8; i++) {
        const __m512i a = acc[2 * i], b = acc[2 * i + 1];
        sums[i] = _mm512_add_epi32(_mm512_mask_blend_epi32(0xaaaa, a, _mm512_slli_epi64(b, 32)),
                                   _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(a, 32), b));
    }
    transpose_8x8(by_run, sums);
}

/* z[16] from the sums of 16 rows; `offset` was added to every whole number. */
V_INLINE void finish_rows(float *z, const __m512i acc[16], const struct ml_quant_x *x, int32_t offset) {
    __m512i by_run[8];
    sums_by_lane(by_run, acc);
    vf sum = v_set1(x->base);
    for (int q = 0; q < 8; q++) {
        const __m512i whole = _mm512_sub_epi32(by_run[q], _mm512_set1_epi32(offset * x->sum[q]));
        sum = v_add(sum, v_mul(_mm512_cvtepi32_ps(whole), v_set1(x->f[q])));
    }
    v_store(z, sum);
}

/* Bytes of 16 rows of weights as `dots` reads them, and where those of strip s begin. */
V_INLINE size_t strip_bytes(const struct ml_quant_matrix *m) {
    return m->k * 2 * (size_t)m->bits;
}

V_INLINE const uint8_t *weights_at(const struct ml_quant_matrix *m, size_t s) {
    return m->format == ML_QUANT_INT8 ? m->data + s * strip_bytes(m)
                                      : (const uint8_t *)m->arranged + s * strip_bytes(m);
}

/* Fetches into L2. */
V_INLINE void fetch_ahead(const uint8_t *from, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)from + i, _MM_HINT_T1);
}

V_INLINE const uint8_t *strip_at(const struct ml_quant_matrix *m, size_t s) {
    return (const uint8_t *)m->arranged + s * strip_bytes(m);
}

/* z[16] = (first ? base : z) + f * sum */
V_INLINE void add_vector(float *z, __m512i sum, float f, float base, bool first) {
    const vf part = v_mul(_mm512_cvtepi32_ps(sum), v_set1(f));
    v_store(z, v_add(first ? v_set1(base) : v_load(z), part));
}

/* The order that `dots` multiplies: for each run, for each group of columns (4 of bytes, 2 of int16), 64 rows
 * of one 32-bit lane. `panel` points at the lanes of the strip's 16 rows. */
enum { PANEL_ROWS = 64, PANEL_BYTES = 4 * PANEL_ROWS };

void ml_avx512_tap_dot(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x);
/* Where 64 rows are decoded and then multiplied, memory would rest during the second part: the weights of the
 * next 64 rows are fetched into L2 meanwhile, the first half of them by the functions that have
 * `ahead` (strip_bytes(m) / 2 bytes from there on), the second half by whoever multiplies. EXL3 takes longer to
 * decode than to read, and has no first half. */
void ml_avx512_tap_panel(uint8_t *panel, const struct ml_quant_matrix *m, size_t s, const uint8_t *ahead);
void ml_avx512_exl3_dot(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x);
void ml_avx512_exl3_panel(uint8_t *panel, const struct ml_quant_matrix *m, size_t s);
/* EXL3 in groups of 4 bytes, w = 4 (high - 128) + low: a panel of the high ones, k * PANEL_ROWS bytes further
 * one of the low ones. Columns of 16 come in the order 0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6,
 * 7, 14, 15. */
void ml_avx512_exl3_byte_panel(uint8_t *panel, const struct ml_quant_matrix *m, size_t s);
/* Of any format. */
void ml_avx512_byte_panel(uint8_t *panel, const struct ml_quant_matrix *m, size_t s, const uint8_t *ahead);
void ml_avx512_quant_few(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,
                         const struct ml_quant_x *x, size_t n, void *scratch);
void ml_avx512_quant_dots(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s, size_t strips,
                          const struct ml_quant_x *x, size_t n, void *scratch);

#endif
