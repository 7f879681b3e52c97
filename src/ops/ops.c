/* SPDX-License-Identifier: Apache-2.0
 *
 * Which operations a device has.
 */
#include "ops/ops.h"

const struct ml_ops *ml_ops_of(const struct ml_device *d) {
    if (d->compute) return d->compute;
    return d->is_host ? &ml_ops_cpu : NULL;
}
