/* SPDX-License-Identifier: Apache-2.0
 *
 * How U and S become indices (quant_tap_simd.h) in tiers that choose bit by bit (q_mux) and take bytes from
 * any bit of a lane (q_bytes) in few instructions. Included by their qvec.h behind those.
 */
#ifndef ML_KERNELS_CPU_QUANT_MUX_SIMD_H
#define ML_KERNELS_CPU_QUANT_MUX_SIMD_H

/* U whole, own bits taken from it. */
V_INLINE vq q_filtered(vq s, vq a, vq b) {
    return q_xor3(a, b, s);
}
V_INLINE vq q_own(vq mask, vq u, vq s) {
    return q_mux(mask, u, s);
}

/* Indices of the 8 weights of k bits from bit `at` on: own bits from u. A row that begins at bit `at` of one
 * word and ends in the next; the last one, of which only plain bits lie in the next. */
V_INLINE vq q_spread_at(vq s, const unsigned s_at, vq u, const unsigned u_at, const unsigned k) {
    return q_mux(q_set8((1 << k) - 1), q_bytes(u, u_at, k), q_bytes(s, s_at, k));
}
#define Q_SPREAD(s, u, at, k, p) q_spread_at(s, at, u, at, k)
#define Q_SPREAD2(s, s_next, u, u_next, at, k, p)                                                            \
    q_spread_at(Q_FUNNEL(s, s_next, at), 0, Q_FUNNEL(u, u_next, at), 0, k)
#define Q_SPREAD_LAST(s, s_next, u, at, k, p) q_spread_at(Q_FUNNEL(s, s_next, at), 0, u, at, k)
#define Q_WITHIN(v, next, n, p)               Q_FUNNEL(v, next, n)

/* Columns in the order of Q_SPREAD, which is theirs. */
V_INLINE vq q_columns(vq v, const int k, const int p) {
    (void)k;
    (void)p;
    return v;
}

#endif
