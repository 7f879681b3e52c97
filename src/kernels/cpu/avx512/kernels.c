/* SPDX-License-Identifier: Apache-2.0
 *
 * The AVX-512 tier: the shared kernels over this tier's vectors.
 */
#include "kernels/cpu/avx512/halves.h"

#include "kernels/cpu/table_simd.h"
