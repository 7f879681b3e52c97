/* SPDX-License-Identifier: Apache-2.0
 *
 * The NEON tier: the shared kernels over this tier's vectors.
 */
#include "kernels/cpu/neon/vec.h"

#include "kernels/cpu/table_simd.h"
