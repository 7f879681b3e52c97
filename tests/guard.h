/* SPDX-License-Identifier: Apache-2.0
 *
 * The promise that nothing in the token loop allocates or takes a lock. Sanitizer builds abort at the first
 * violation; the others count, and a test that runs a forward pass asks at its end. Include after cmocka.h.
 */
#ifndef ML_TESTS_GUARD_H
#define ML_TESTS_GUARD_H

#include "base/mem.h"

#include <stdio.h>

/* Teardown of a group, or the last call of one: 0 when the whole program has kept the promise. */
static inline int guard_clean(void **state) {
    const unsigned long long n = ml_mem_guard_violations();
    (void)state;
    if (n > 0) (void)printf("[  FAILED  ] %llu allocations or locks inside guards\n", n);
    return n > 0;
}

#endif
