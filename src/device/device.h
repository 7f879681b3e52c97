/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory and order on one device: buffers, copies and streams behind one const vtable. Computing is
 * `kernels`. The CPU device runs everything at once, in order, on the calling thread.
 */
#ifndef ML_DEVICE_DEVICE_H
#define ML_DEVICE_DEVICE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ml_device;

struct ml_buffer {
    void *host;   /* address for the CPU when the memory is visible to it, else NULL */
    void *handle; /* the backend's own; equals host on the CPU */
    size_t bytes;
    bool borrowed; /* wraps memory of somebody else (a mapped file) */
};

struct ml_device_ops {
    const char *name; /* "cpu" */
    marlin_status (*alloc)(struct ml_device *d, size_t bytes, struct ml_buffer *out,
                           struct marlin_error *err);
    void (*free)(struct ml_device *d, struct ml_buffer *b);
    /* wrap host memory without a copy; (optional) NULL where the device cannot read it */
    marlin_status (*wrap)(struct ml_device *d, void *host, size_t bytes, struct ml_buffer *out,
                          struct marlin_error *err);
    marlin_status (*upload)(struct ml_device *d, struct ml_buffer *dst, size_t offset, const void *src,
                            size_t bytes, struct marlin_error *err);
    marlin_status (*download)(struct ml_device *d, void *dst, const struct ml_buffer *src, size_t offset,
                              size_t bytes, struct marlin_error *err);
    marlin_status (*copy)(struct ml_device *d, struct ml_buffer *dst, size_t dst_offset,
                          const struct ml_buffer *src, size_t src_offset, size_t bytes,
                          struct marlin_error *err);
    marlin_status (*sync)(struct ml_device *d, struct marlin_error *err); /* waits for everything queued */
    void (*memory)(struct ml_device *d, uint64_t *free_bytes, uint64_t *total_bytes);
    void (*destroy)(struct ml_device *d);
};

struct ml_device {
    const struct ml_device_ops *ops;
};

/* The devices of this build, as an option lists them. */
#define ML_DEVICE_NAMES "cpu"

/* One of ML_DEVICE_NAMES; others are MARLIN_ERR_UNSUPPORTED naming those. Close with d->ops->destroy. */
marlin_status ml_device_open(const char *spec, struct ml_device **out,
                             struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
