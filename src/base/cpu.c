/* SPDX-License-Identifier: Apache-2.0
 *
 * What this processor and its operating system allow, grouped into tiers.
 */
#include "base/cpu.h"

#include "base/cores.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

static struct ml_cpu detected, current;
static pthread_once_t once = PTHREAD_ONCE_INIT;

const char *ml_cpu_tier_name(enum ml_cpu_tier t) {
    static const char *const names[ML_CPU_TIERS] = {"generic", "avx2", "avx512", "amx", "neon", "i8mm"};
    return t < ML_CPU_TIERS ? names[t] : "unknown";
}

const char *ml_cpu_feature_name(int i) {
    static const char *const names[ML_CPU_FEATURES] = {"avxvnni", "avx512bf16", "amx_int8",
                                                       "dotprod", "i8mm",       "bf16"};
    return names[i];
}

bool ml_cpu_has(const struct ml_cpu *c, int i) {
    const bool has[ML_CPU_FEATURES] = {c->avxvnni, c->avx512bf16, c->amx_int8, c->dotprod, c->i8mm, c->bf16};
    return has[i];
}

#if defined(__APPLE__)
static size_t cache_bytes(const char *name) {
    int64_t bytes = 0;
    size_t size = sizeof bytes;
    return sysctlbyname(name, &bytes, &size, NULL, 0) == 0 && bytes > 0 ? (size_t)bytes : 0;
}

static void detect_caches(struct ml_cpu *c) {
    c->l1d = cache_bytes("hw.l1dcachesize");
    c->l2 = cache_bytes("hw.l2cachesize");
    c->l3 = cache_bytes("hw.l3cachesize");
}
#elif defined(_SC_LEVEL1_DCACHE_SIZE)
static size_t cache_bytes(int name) {
    const long bytes = sysconf(name);
    return bytes > 0 ? (size_t)bytes : 0;
}

static void detect_caches(struct ml_cpu *c) {
    c->l1d = cache_bytes(_SC_LEVEL1_DCACHE_SIZE);
    c->l2 = cache_bytes(_SC_LEVEL2_CACHE_SIZE);
    c->l3 = cache_bytes(_SC_LEVEL3_CACHE_SIZE);
}
#else
static void detect_caches(struct ml_cpu *c) {
    (void)c;
}
#endif

#if defined(__x86_64__)

struct leaf {
    unsigned a, b, c, d;
};

static struct leaf cpuid(unsigned leaf, unsigned sub) {
    struct leaf r = {0};
    if (leaf <= (unsigned)__get_cpuid_max(leaf & 0x80000000u, NULL))
        __cpuid_count(leaf, sub, r.a, r.b, r.c, r.d);
    return r;
}

/* Register state that the operating system saves. */
static uint64_t saved_state(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool has(unsigned word, unsigned mask) {
    return (word & mask) == mask;
}

/* Linux gives a process tiles when it asks for them: their 8 KiB a thread make signal frames larger. It
 * refuses where a thread has an alternate signal stack that is too small. Once for all threads, present and
 * future. */
static bool tiles_granted(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

/* Bytes multiplied by tiles, in the shape that all processors with AMX have so far: palette 1, 8 tiles of 16
 * rows of 64 bytes. Asks the system last. */
static bool has_tiles(const struct leaf *l7, uint64_t state) {
    const unsigned amx = 1u << 24 | 1u << 25; /* AMX-TILE, AMX-INT8 */
    if (!has(l7->d, amx) || (state >> 17 & 3) != 3) return false;
    const struct leaf palette = cpuid(0x1d, 1);
    const unsigned row_bytes = palette.b & 0xffff, tiles = palette.b >> 16, rows = palette.c & 0xffff;
    return row_bytes == 64 && tiles >= 8 && rows == 16 && tiles_granted();
}

static void detect_features(struct ml_cpu *c) {
    const struct leaf l1 = cpuid(1, 0), l7 = cpuid(7, 0), l71 = cpuid(7, 1);
    const unsigned fma = 1u << 12, osxsave = 1u << 27, f16c = 1u << 29, avx = 1u << 28;
    const unsigned bmi2 = 1u << 8, avx2 = 1u << 5, gfni = 1u << 8;
    const unsigned avx512_b = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31; /* F DQ CD BW VL */
    const unsigned avx512_c = 1u << 1 | 1u << 6 | 1u << 11;                         /* VBMI VBMI2 VNNI */
    if (!has(l1.c, osxsave | avx)) return;
    const uint64_t state = saved_state();
    const bool ymm = (state & 0x6) == 0x6, zmm = (state & 0xe6) == 0xe6;
    if (!ymm || !has(l1.c, fma | f16c) || !has(l7.b, avx2 | bmi2)) return;
    c->tier = ML_CPU_AVX2;
    c->avxvnni = (l71.a >> 4 & 1) && (l7.c & gfni);
    if (!zmm || !has(l7.b, avx512_b) || !has(l7.c, avx512_c)) return;
    c->tier = ML_CPU_AVX512;
    c->avx512bf16 = l71.a >> 5 & 1;
    c->amx_int8 = has_tiles(&l7, state);
    if (c->amx_int8) c->tier = ML_CPU_AMX;
}

static void detect_name(struct ml_cpu *c) {
    if ((unsigned)__get_cpuid_max(0x80000000u, NULL) < 0x80000004u) return;
    unsigned words[12];
    for (unsigned i = 0; i < 3; i++) {
        const struct leaf l = cpuid(0x80000002u + i, 0);
        memcpy(words + (size_t)i * 4, &l, sizeof l);
    }
    memcpy(c->name, words, sizeof words);
    c->name[sizeof words] = '\0';
}

#elif defined(__aarch64__)

static void detect_features(struct ml_cpu *c) {
    c->tier = ML_CPU_NEON;
#if defined(__linux__)
    const unsigned long cap = getauxval(AT_HWCAP), cap2 = getauxval(AT_HWCAP2);
    c->dotprod = cap >> 20 & 1;
    c->i8mm = cap2 >> 13 & 1;
    c->bf16 = cap2 >> 14 & 1;
#elif defined(__APPLE__)
    c->dotprod = true; /* every Apple processor with a 64-bit macOS */
    int value = 0;
    size_t size = sizeof value;
    c->i8mm = sysctlbyname("hw.optional.arm.FEAT_I8MM", &value, &size, NULL, 0) == 0 && value;
    size = sizeof value;
    c->bf16 = sysctlbyname("hw.optional.arm.FEAT_BF16", &value, &size, NULL, 0) == 0 && value;
#endif
    if (c->dotprod && c->i8mm) c->tier = ML_CPU_I8MM;
}

static void detect_name(struct ml_cpu *c) {
#if defined(__APPLE__)
    size_t size = sizeof c->name;
    (void)sysctlbyname("machdep.cpu.brand_string", c->name, &size, NULL, 0);
#else
    (void)c;
#endif
}

#else

static void detect_features(struct ml_cpu *c) {
    (void)c;
}

static void detect_name(struct ml_cpu *c) {
    (void)c;
}

#endif

/* The tier that each is built on. */
static const enum ml_cpu_tier below[ML_CPU_TIERS] = {
    [ML_CPU_GENERIC] = ML_CPU_GENERIC, [ML_CPU_AVX2] = ML_CPU_GENERIC, [ML_CPU_AVX512] = ML_CPU_AVX2,
    [ML_CPU_AMX] = ML_CPU_AVX512,      [ML_CPU_NEON] = ML_CPU_GENERIC, [ML_CPU_I8MM] = ML_CPU_NEON};

bool ml_cpu_tier_has(enum ml_cpu_tier best, enum ml_cpu_tier t) {
    while (best != t && best != ML_CPU_GENERIC)
        best = below[best];
    return best == t;
}

/* Takes away what is above `tier`. */
static struct ml_cpu limit(struct ml_cpu c, enum ml_cpu_tier tier) {
    c.avxvnni = c.avxvnni && ml_cpu_tier_has(tier, ML_CPU_AVX2);
    c.avx512bf16 = c.avx512bf16 && ml_cpu_tier_has(tier, ML_CPU_AVX512);
    c.amx_int8 = c.amx_int8 && ml_cpu_tier_has(tier, ML_CPU_AMX);
    c.dotprod = c.dotprod && ml_cpu_tier_has(tier, ML_CPU_NEON);
    c.bf16 = c.bf16 && ml_cpu_tier_has(tier, ML_CPU_NEON);
    c.i8mm = c.i8mm && ml_cpu_tier_has(tier, ML_CPU_I8MM);
    c.tier = tier;
    return c;
}

static bool apply_mask(const char *name) {
    if (!name || !*name) {
        current = detected;
        return true;
    }
    for (int t = 0; t < ML_CPU_TIERS; t++) {
        if (strcmp(name, ml_cpu_tier_name((enum ml_cpu_tier)t)) != 0) continue;
        if (!ml_cpu_tier_has(detected.tier, (enum ml_cpu_tier)t)) return false;
        current = limit(detected, (enum ml_cpu_tier)t);
        return true;
    }
    return false;
}

static void detect(void) {
    detect_features(&detected);
    detect_name(&detected);
    if (!detected.name[0])
        (void)snprintf(detected.name, sizeof detected.name, "%s", ml_cpu_tier_name(detected.tier));
    detected.processors = ml_cores()->processors;
    detected.cores = ml_cores()->usable;
    detect_caches(&detected);
    current = detected;
    (void)apply_mask(getenv("MARLIN_CPU_MASK"));
}

const struct ml_cpu *ml_cpu(void) {
    (void)pthread_once(&once, detect);
    return &current;
}

bool ml_cpu_set_mask(const char *tier) {
    (void)pthread_once(&once, detect);
    return apply_mask(tier);
}
