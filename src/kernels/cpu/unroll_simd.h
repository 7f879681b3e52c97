/* SPDX-License-Identifier: Apache-2.0
 *
 * Loops with constant bounds that must disappear, and constant numbers of tokens (include the tier's vec.h
 * first).
 */
#ifndef ML_KERNELS_CPU_UNROLL_SIMD_H
#define ML_KERNELS_CPU_UNROLL_SIMD_H

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

/* A loop that must stay one. */
#if defined(__clang__)
#define NO_UNROLL _Pragma("clang loop unroll(disable)")
#else
#define NO_UNROLL _Pragma("GCC unroll 1")
#endif

/* The number of tokens of a tile as a constant. */
#if defined(__AVX2__) && !defined(__AVX512F__)
#define FOR_TOKENS(n, call)                                                                                  \
    switch (n) {                                                                                             \
    case 1:                                                                                                  \
        call(1);                                                                                             \
        break;                                                                                               \
    case 2:                                                                                                  \
        call(2);                                                                                             \
        break;                                                                                               \
    default:                                                                                                 \
        call(3);                                                                                             \
    }
#else
#define FOR_TOKENS(n, call)                                                                                  \
    switch (n) {                                                                                             \
    case 1:                                                                                                  \
        call(1);                                                                                             \
        break;                                                                                               \
    case 2:                                                                                                  \
        call(2);                                                                                             \
        break;                                                                                               \
    case 3:                                                                                                  \
        call(3);                                                                                             \
        break;                                                                                               \
    case 4:                                                                                                  \
        call(4);                                                                                             \
        break;                                                                                               \
    case 5:                                                                                                  \
        call(5);                                                                                             \
        break;                                                                                               \
    default:                                                                                                 \
        call(6);                                                                                             \
    }
#endif

#endif
