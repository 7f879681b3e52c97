/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory and order on one device: memory, copies, streams and events behind one const vtable. Computing on
 * what lies there is `ops`. The CPU device runs everything at once, in order, on the calling thread.
 *
 * Memory is known by its address on the device. A device address may be added to, as a host address may; it is
 * dereferenced by the device's ops and copies alone.
 *
 * A device is used by one thread at a time, except that `free` may be called by any thread once nothing that
 * was queued uses the memory.
 */
#ifndef ML_DEVICE_DEVICE_H
#define ML_DEVICE_DEVICE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ml_device;

/* A block of device memory. All zero: none. */
struct ml_buffer {
    void *address; /* on the device; on the CPU an ordinary pointer, 64-byte aligned */
    size_t bytes;
    bool borrowed; /* wraps memory of somebody else (a mapped file) */
};

/* What is queued on a stream happens in the order in which it was queued. Work of two streams has no order but
 * what events give it. */
struct ml_stream {
    struct ml_device *device;
    void *queue;    /* the device's own */
    void *work;     /* of the operations that compute on it (ops/ops.h); NULL before they are opened */
    void *fallback; /* of operations that its backend lacks (ops/fallback.h), or NULL */
};

/* A point in a stream. */
struct ml_event {
    struct ml_device *device;
    void *point; /* the device's own */
};

struct ml_device_ops {
    const char *name; /* "cpu" */
    /* Contents are undefined. MARLIN_ERR_MEMORY says how much was wanted of what. */
    marlin_status (*alloc)(struct ml_device *d, size_t bytes, struct ml_buffer *out,
                           struct marlin_error *err);
    void (*free)(struct ml_device *d, struct ml_buffer *b);
    /* Host memory as device memory without a copy, which must stay as long as the buffer; NULL where the
     * device cannot read it. */
    marlin_status (*wrap)(struct ml_device *d, const void *host, size_t bytes, struct ml_buffer *out,
                          struct marlin_error *err);

    marlin_status (*stream_open)(struct ml_device *d, struct ml_stream *out, struct marlin_error *err);
    void (*stream_close)(struct ml_stream *s); /* waits for what is queued */
    /* Waits for everything queued; an error of any of it. */
    marlin_status (*stream_sync)(struct ml_stream *s, struct marlin_error *err);

    /* Copies, in the order of the stream. Host memory must stay until the stream was synchronised. Ranges lie
     * within one buffer each; those of a copy on the device may overlap. They cannot fail: what goes wrong is
     * reported by stream_sync. */
    void (*upload)(struct ml_stream *s, void *to, const void *host, size_t bytes);
    void (*download)(struct ml_stream *s, void *host, const void *from, size_t bytes);
    void (*copy)(struct ml_stream *s, void *to, const void *from, size_t bytes);

    marlin_status (*event_create)(struct ml_device *d, struct ml_event *out, struct marlin_error *err);
    void (*event_free)(struct ml_event *e);
    void (*event_record)(struct ml_event *e, struct ml_stream *s); /* the point that the stream has reached */
    void (*event_wait)(struct ml_event *e,
                       struct ml_stream *s); /* what s is given from now on comes after it */

    void (*memory)(struct ml_device *d, uint64_t *free_bytes, uint64_t *total_bytes);
    void (*destroy)(struct ml_device *d);
};

struct ml_ops;

struct ml_device {
    const struct ml_device_ops *ops;
    const struct ml_ops *compute; /* operations on its memory (ops/ops.h), set by who opens the device;
                                   NULL: the CPU's, where addresses are the host's */
    bool is_host; /* device addresses are host addresses, and copies are done when they return */
};

/* The devices of this build, as an option lists them. */
#define ML_DEVICE_NAMES "cpu"

/* One of ML_DEVICE_NAMES; others are MARLIN_ERR_UNSUPPORTED naming those. Close with d->ops->destroy. */
marlin_status ml_device_open(const char *spec, struct ml_device **out,
                             struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
