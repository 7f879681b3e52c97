/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU as a device: host memory, copies that are done when they return, and the choice of a device by
 * name.
 */
#include "device/device.h"

#include "base/mem.h"

#include <string.h>
#include <unistd.h>

static marlin_status cpu_alloc(struct ml_device *d, size_t bytes, struct ml_buffer *out,
                               struct marlin_error *err) {
    (void)d;
    void *p = ml_alloc_aligned(bytes);
    if (!p) {
        return ml_fail(err, MARLIN_ERR_MEMORY, "cannot allocate %zu bytes on the CPU: out of memory", bytes);
    }
    *out = (struct ml_buffer){.host = p, .handle = p, .bytes = bytes};
    return MARLIN_OK;
}

static void cpu_free(struct ml_device *d, struct ml_buffer *b) {
    (void)d;
    if (!b->borrowed) ml_free_aligned(b->host);
    *b = (struct ml_buffer){0};
}

static marlin_status cpu_wrap(struct ml_device *d, void *host, size_t bytes, struct ml_buffer *out,
                              struct marlin_error *err) {
    (void)d;
    (void)err;
    *out = (struct ml_buffer){.host = host, .handle = host, .bytes = bytes, .borrowed = true};
    return MARLIN_OK;
}

static marlin_status check_range(const struct ml_buffer *b, size_t offset, size_t bytes,
                                 struct marlin_error *err) {
    if (offset <= b->bytes && bytes <= b->bytes - offset) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_ARGUMENT, "copy of %zu bytes at offset %zu leaves a buffer of %zu bytes",
                   bytes, offset, b->bytes);
}

static marlin_status cpu_upload(struct ml_device *d, struct ml_buffer *dst, size_t offset, const void *src,
                                size_t bytes, struct marlin_error *err) {
    (void)d;
    const marlin_status st = check_range(dst, offset, bytes, err);
    if (st == MARLIN_OK && bytes > 0) memcpy((char *)dst->host + offset, src, bytes);
    return st;
}

static marlin_status cpu_download(struct ml_device *d, void *dst, const struct ml_buffer *src, size_t offset,
                                  size_t bytes, struct marlin_error *err) {
    (void)d;
    const marlin_status st = check_range(src, offset, bytes, err);
    if (st == MARLIN_OK && bytes > 0) memcpy(dst, (const char *)src->host + offset, bytes);
    return st;
}

/* The two ranges may overlap. */
static marlin_status cpu_copy(struct ml_device *d, struct ml_buffer *dst, size_t dst_offset,
                              const struct ml_buffer *src, size_t src_offset, size_t bytes,
                              struct marlin_error *err) {
    (void)d;
    marlin_status st = check_range(dst, dst_offset, bytes, err);
    if (st == MARLIN_OK) st = check_range(src, src_offset, bytes, err);
    if (st != MARLIN_OK || bytes == 0) return st;
    memmove((char *)dst->host + dst_offset, (const char *)src->host + src_offset, bytes);
    return MARLIN_OK;
}

static marlin_status cpu_sync(struct ml_device *d, struct marlin_error *err) {
    (void)d;
    (void)err;
    return MARLIN_OK;
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
    .upload = cpu_upload,
    .download = cpu_download,
    .copy = cpu_copy,
    .sync = cpu_sync,
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
    d->ops = &cpu_ops;
    *out = d;
    return MARLIN_OK;
}
