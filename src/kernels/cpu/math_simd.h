/* SPDX-License-Identifier: Apache-2.0
 *
 * exp and tanh over the vector vocabulary of a tier (include the tier's vec.h first).
 *
 * Reduction: x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts; e^r - 1 by Taylor's series to the 7th
 * power (its remainder is below 2^-27). Errors, over all of float32: exp 2 ulp (4 where the result is
 * subnormal on tiers that scale in two steps), tanh 5 ulp. exp(NaN) = NaN, exp(-inf) = 0, exp(+inf) = +inf;
 * tanh(NaN) = NaN, tanh(+-inf) = +-1.
 */
#ifndef ML_KERNELS_CPU_MATH_SIMD_H
#define ML_KERNELS_CPU_MATH_SIMD_H

/* Returns e^r - 1 and writes n. x is in [-104, 89] or NaN. */
V_INLINE vf v_exp_reduce(vf x, vf *n) {
    *n = v_rint(v_mul(x, v_set1(0x1.715476p+0f)));
    vf r = v_nfma(*n, v_set1(0x1.62e400p-1f), x);
    r = v_nfma(*n, v_set1(0x1.7f7d1cp-20f), r);
    vf p = v_set1(1.0f / 5040);
    p = v_fma(p, r, v_set1(1.0f / 720));
    p = v_fma(p, r, v_set1(1.0f / 120));
    p = v_fma(p, r, v_set1(1.0f / 24));
    p = v_fma(p, r, v_set1(1.0f / 6));
    p = v_fma(p, r, v_set1(0.5f));
    return v_fma(v_mul(r, r), p, r);
}

V_INLINE vf v_exp(vf x) {
    vf n;
    const vf p = v_exp_reduce(v_clamp(x, -104.0f, 89.0f), &n);
    return v_scale2(v_add(p, v_set1(1)), n);
}

/* tanh |x| = -e / (2 + e) with e = exp(-2 |x|) - 1 = 2^n p + (2^n - 1): no cancellation near 0, where
 * n = 0. */
V_INLINE vf v_tanh(vf x) {
    vf n;
    const vf p = v_exp_reduce(v_clamp(v_mul(v_abs(x), v_set1(-2)), -104.0f, 0.0f), &n);
    const vf scale = v_scale2(v_set1(1), n);
    const vf e = v_fma(scale, p, v_sub(scale, v_set1(1)));
    return v_copysign(v_div(e, v_add(v_set1(2), e)), x);
}

#endif
