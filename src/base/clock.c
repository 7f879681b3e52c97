/* SPDX-License-Identifier: Apache-2.0
 *
 * Monotonic time.
 */
#include "base/clock.h"

#include <time.h>

uint64_t ml_clock_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

double ml_clock_seconds(void) {
    return (double)ml_clock_ns() * 1e-9;
}
