/* SPDX-License-Identifier: Apache-2.0
 *
 * The many-row products of AMX with tiles in plain C.
 */
#ifndef TESTS_KERNELS_AMX_EMULATED_H
#define TESTS_KERNELS_AMX_EMULATED_H

#include "kernels/kernels.h"

/* Overwrites the entries that the AMX tier has. The processor must have the AVX-512 tier. */
void amx_emulated_init(struct ml_kernels *k);

/* True when this thread left tiles configured. */
bool amx_emulated_busy(void);

#endif
