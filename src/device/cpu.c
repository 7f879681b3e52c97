/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU as a device: host memory, copies that are done when they return, and the choice of a device by
 * name. Streams and events have nothing to do: everything happens at once, in order.
 */
#include "base/mem.h"
#include "device/device.h"

#include <string.h>
#include <unistd.h>

static marlin_status cpu_alloc(struct ml_device *d, size_t bytes, struct ml_buffer *out,
                               struct marlin_error *err) {
    (void)d;
    void *p = ml_alloc_aligned(bytes);
    if (!p) {
        return ml_fail(err, MARLIN_ERR_MEMORY, "cannot allocate %zu bytes on the CPU: out of memory", bytes);
    }
    *out = (struct ml_buffer){.address = p, .bytes = bytes};
    return MARLIN_OK;
}

static void cpu_free(struct ml_device *d, struct ml_buffer *b) {
    (void)d;
    if (!b->borrowed) ml_free_aligned(b->address);
    *b = (struct ml_buffer){0};
}

static marlin_status cpu_wrap(struct ml_device *d, const void *host, size_t bytes, struct ml_buffer *out,
                              struct marlin_error *err) {
    (void)d;
    (void)err;
    *out = (struct ml_buffer){.address = (void *)(uintptr_t)host, .bytes = bytes, .borrowed = true};
    return MARLIN_OK;
}

static marlin_status cpu_stream_open(struct ml_device *d, struct ml_stream *out, struct marlin_error *err) {
    (void)err;
    *out = (struct ml_stream){.device = d};
    return MARLIN_OK;
}

static void cpu_stream_close(struct ml_stream *s) {
    *s = (struct ml_stream){0};
}

static marlin_status cpu_stream_sync(struct ml_stream *s, struct marlin_error *err) {
    (void)s;
    (void)err;
    return MARLIN_OK;
}

/* All three copies are one on the CPU; ranges may overlap. */
static void cpu_move(struct ml_stream *s, void *to, const void *from, size_t bytes) {
    (void)s;
    if (bytes > 0) memmove(to, from, bytes);
}

static marlin_status cpu_event_create(struct ml_device *d, struct ml_event *out, struct marlin_error *err) {
    (void)err;
    *out = (struct ml_event){.device = d};
    return MARLIN_OK;
}

static void cpu_event_free(struct ml_event *e) {
    *e = (struct ml_event){0};
}

static void cpu_event_nothing(struct ml_event *e, struct ml_stream *s) {
    (void)e;
    (void)s;
}

static uint64_t pages(int name) {
    const long n = sysconf(name);
    return n > 0 ? (uint64_t)n : 0;
}

static void cpu_memory(struct ml_device *d, uint64_t *free_bytes, uint64_t *total_bytes) {
    (void)d;
    const uint64_t page = pages(_SC_PAGESIZE);
    *total_bytes = pages(_SC_PHYS_PAGES) * page;
#ifdef _SC_AVPHYS_PAGES
    *free_bytes = pages(_SC_AVPHYS_PAGES) * page;
#else
    *free_bytes = *total_bytes;
#endif
}

static void cpu_destroy(struct ml_device *d) {
    ml_free(d);
}

static const struct ml_device_ops cpu_ops = {
    .name = "cpu",
    .alloc = cpu_alloc,
    .free = cpu_free,
    .wrap = cpu_wrap,
    .stream_open = cpu_stream_open,
    .stream_close = cpu_stream_close,
    .stream_sync = cpu_stream_sync,
    .upload = cpu_move,
    .download = cpu_move,
    .copy = cpu_move,
    .event_create = cpu_event_create,
    .event_free = cpu_event_free,
    .event_record = cpu_event_nothing,
    .event_wait = cpu_event_nothing,
    .memory = cpu_memory,
    .destroy = cpu_destroy,
};

marlin_status ml_device_open(const char *spec, struct ml_device **out, struct marlin_error *err) {
    if (strcmp(spec, "cpu") != 0) {
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "device '%s' is not in this build: it has " ML_DEVICE_NAMES, spec);
    }
    struct ml_device *d = ml_alloc(sizeof(*d));
    if (!d) return ml_fail(err, MARLIN_ERR_MEMORY, "cannot open device cpu: out of memory");
    *d = (struct ml_device){.ops = &cpu_ops, .is_host = true};
    *out = d;
    return MARLIN_OK;
}
