/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ML_BASE_CLOCK_H
#define ML_BASE_CLOCK_H

#include <stdint.h>

/* Monotonic time. Any thread. */
uint64_t ml_clock_ns(void);
double ml_clock_seconds(void);

#endif
