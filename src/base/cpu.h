/* SPDX-License-Identifier: Apache-2.0
 *
 * CPU feature tiers: groups of instructions that are sold together, not single flags.
 */
#ifndef ML_BASE_CPU_H
#define ML_BASE_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ml_cpu_tier {
    ML_CPU_GENERIC, /* portable C */
    ML_CPU_AVX2,    /* AVX2 + FMA + F16C */
    ML_CPU_AVX512,  /* AVX-512 F BW CD DQ VL + VBMI + VBMI2 + VNNI (Ice Lake, Zen 4 and later) */
    ML_CPU_AMX,     /* AVX-512 + AMX-INT8, tiles granted by the system (Sapphire Rapids and later Xeons) */
    ML_CPU_NEON,    /* AArch64 Advanced SIMD */
    ML_CPU_I8MM,    /* NEON + dot product + int8 matrix multiply (Armv8.6: Neoverse V1 and N2, Apple M2) */
    ML_CPU_TIERS
};

struct ml_cpu {
    enum ml_cpu_tier tier; /* the best tier allowed by hardware, OS and mask */
    /* extras inside a tier, or what makes one: false where masked off */
    bool avxvnni; /* with GFNI, which every processor that has it has too */
    bool avx512bf16, amx_int8, dotprod, i8mm, bf16;
    char name[64];  /* model name for people, e.g. "Intel(R) Xeon(R) Processor" */
    int processors; /* this process may run on */
    int cores;      /* physical ones of these that it may use (base/cores.h): threads of a pool by default */
    size_t l1d, l2, l3; /* bytes of each level of data cache, 0 where the system does not tell */
};

/* Detects once with CPUID/XGETBV (x86) or HWCAP (Arm) and applies the mask. Any thread. */
const struct ml_cpu *ml_cpu(void);

/* Limits the tier: the name of one, or NULL/"" for no limit. False for an unknown name or a tier this machine
 * lacks. Call before the first kernel table is made. MARLIN_CPU_MASK in the environment
 * is read first; this overrides it. */
bool ml_cpu_set_mask(const char *tier);
const char *ml_cpu_tier_name(enum ml_cpu_tier t);
/* True when a processor whose best tier is `best` runs code of tier t: t itself and what it is built on. */
bool ml_cpu_tier_has(enum ml_cpu_tier best, enum ml_cpu_tier t);

/* The extras by number, i < ML_CPU_FEATURES: the name is the field's. */
enum { ML_CPU_FEATURES = 6 };
const char *ml_cpu_feature_name(int i);
bool ml_cpu_has(const struct ml_cpu *c, int i);

#endif
