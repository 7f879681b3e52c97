/* SPDX-License-Identifier: Apache-2.0
 *
 * The AVX2 tier: the shared kernels over this tier's vectors.
 */
#include "kernels/cpu/avx2/vec.h"

#include "kernels/cpu/table_simd.h"
