/* SPDX-License-Identifier: Apache-2.0
 *
 * Filling the table: the reference, then each tier up to the wanted one.
 */
#include "kernels/tiers.h"

#include <pthread.h>
#include <string.h>

void ml_kernels_init(struct ml_kernels *k, const struct ml_cpu *cpu, enum ml_cpu_tier tier) {
    (void)cpu;
    memset(k, 0, sizeof *k);
    k->tier = tier;
    ml_kernels_init_reference(k);
#if defined(__x86_64__)
    const bool avx2 = ml_cpu_tier_has(tier, ML_CPU_AVX2), avx512 = ml_cpu_tier_has(tier, ML_CPU_AVX512);
    if (avx2) ml_kernels_init_avx2(k);
    if (avx2) ml_quant_init_avx2(k);
    if (avx2 && cpu && cpu->avxvnni) ml_quant_init_avxvnni(k);
    if (avx512) ml_kernels_init_avx512(k);
    if (avx512) ml_quant_init_avx512(k);
    if (ml_cpu_tier_has(tier, ML_CPU_AMX)) ml_quant_init_amx(k);
#elif defined(__aarch64__)
    const bool neon = ml_cpu_tier_has(tier, ML_CPU_NEON);
    if (neon) ml_kernels_init_neon(k);
    if (neon) ml_quant_init_neon(k);
    if (neon && cpu && cpu->dotprod) ml_quant_init_neondot(k);
    if (ml_cpu_tier_has(tier, ML_CPU_I8MM)) ml_quant_init_neoni8mm(k);
#endif
}

static struct ml_kernels best;
static pthread_once_t made = PTHREAD_ONCE_INIT;

static void make_best(void) {
    ml_kernels_init(&best, ml_cpu(), ml_cpu()->tier);
}

const struct ml_kernels *ml_kernels(void) {
    pthread_once(&made, make_best);
    return &best;
}

ml_attention_fn *ml_attention_of(const struct ml_kernels *k, enum ml_dtype kv_type) {
    ml_attention_fn *const attention = kv_type == ML_I8 ? k->attention_i8 : k->attention[kv_type];
    return attention;
}

size_t ml_gemm_scratch(void) {
    return (size_t)ML_GEMM_PANEL * ML_GEMM_PANEL_STRIDE * sizeof(float);
}
