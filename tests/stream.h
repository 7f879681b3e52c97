/* SPDX-License-Identifier: Apache-2.0
 *
 * A stream on the CPU with its operations open. Include after cmocka.h.
 */
#ifndef ML_TESTS_STREAM_H
#define ML_TESTS_STREAM_H

#include "ops/ops.h"

/* 0, or -1 with what went wrong printed. */
static inline int open_cpu(struct ml_stream *s, struct ml_pool *pool, const struct ml_ops_sizes *sizes) {
    struct ml_device *device = NULL;
    struct marlin_error err = {0};
    marlin_status st = ml_device_open("cpu", &device, &err);
    *s = (struct ml_stream){0};
    if (st == MARLIN_OK) st = device->ops->stream_open(device, s, &err);
    if (st == MARLIN_OK) st = ml_ops_cpu.open(s, pool, sizes, &err);
    if (st == MARLIN_OK) return 0;
    print_error("%s\n", err.text);
    return -1;
}

static inline void close_cpu(struct ml_stream *s) {
    struct ml_device *device = s->device;
    if (!device) return;
    ml_ops_cpu.close(s);
    device->ops->stream_close(s);
    device->ops->destroy(device);
}

#endif
