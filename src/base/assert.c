/* SPDX-License-Identifier: Apache-2.0
 *
 * What happens when a contract is broken.
 */
#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>

void ml_assert_failed(const char *file, int line, const char *condition) {
    (void)fprintf(stderr, "marlin: %s:%d: broken contract: %s\n", file, line, condition);
    abort();
}
