/* SPDX-License-Identifier: Apache-2.0
 *
 * The entries that every tier with a vector vocabulary overwrites: all of them.
 */
#ifndef ML_KERNELS_CPU_TABLE_SIMD_H
#define ML_KERNELS_CPU_TABLE_SIMD_H

#include "kernels/cpu/attention_simd.h"
#include "kernels/cpu/elementwise_simd.h"

void TIER_TABLE_INIT(struct ml_kernels *k) {
    k->gemv[ML_F32] = gemv_f32;
    k->gemv[ML_F16] = gemv_f16;
    k->gemv[ML_BF16] = gemv_bf16;
    k->gemm[ML_F32] = gemm_f32;
    k->gemm[ML_F16] = gemm_f16;
    k->gemm[ML_BF16] = gemm_bf16;
    k->attention[ML_F32] = attention_f32;
    k->attention[ML_F16] = attention_f16;
    k->attention_i8 = attention_i8;
    k->attention_join = attention_join;
    k->rmsnorm = rmsnorm;
    k->rope_half = rope_half;
    k->rope_interleaved = rope_interleaved;
    k->silu_glu = silu_glu;
    k->gelu_glu = gelu_glu;
    k->sigmoid_glu = sigmoid_glu;
    k->add = add;
    k->axpy = axpy;
    k->softcap = softcap;
    k->softmax = softmax;
    k->widen[ML_F32] = widen_f32;
    k->widen[ML_F16] = widen_f16;
    k->widen[ML_BF16] = widen_bf16;
    k->narrow[ML_F32] = narrow_f32;
    k->narrow[ML_F16] = narrow_f16;
    k->narrow[ML_BF16] = narrow_bf16;
    k->narrow_i8 = narrow_i8;
}

#endif
