/* SPDX-License-Identifier: Apache-2.0
 *
 * Streaming writer: the header is laid out from the declarations, tensors are written at their place in any
 * order, and the file gets its name only when all of them are there.
 */
#include "base/buf.h"
#include "base/checked.h"
#include "base/map.h"
#include "base/mem.h"
#include "converters/safetensors_int.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { DATA_ALIGN = 64 };

struct entry {
    char *name;
    uint64_t offset, bytes;
    bool written;
};

struct ml_tensors_writer {
    char path[PATH_MAX], temp[PATH_MAX];
    int fd;
    struct entry *entries;
    size_t count;
    struct ml_map by_name;
    uint64_t data_start, data_bytes;
};

static void close_writer(struct ml_tensors_writer *w, bool keep) {
    if (!w) return;
    if (w->fd >= 0) (void)close(w->fd);
    if (!keep && w->temp[0]) (void)unlink(w->temp);
    for (size_t i = 0; w->entries && i < w->count; i++) {
        ml_free(w->entries[i].name);
    }
    ml_free(w->entries);
    ml_map_free(&w->by_name);
    ml_free(w);
}

static marlin_status put_at(const struct ml_tensors_writer *w, uint64_t offset, const void *data, uint64_t n,
                            struct marlin_error *err) {
    const char *p = data;
    while (n > 0) {
        const size_t step = n > (1u << 30) ? 1u << 30 : (size_t)n;
        const ssize_t done = pwrite(w->fd, p, step, (off_t)offset);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0)
            return ml_fail(err, MARLIN_ERR_IO, "%s: cannot write: %s (offset %llu)", w->path, strerror(errno),
                           (unsigned long long)offset);
        p += done;
        offset += (uint64_t)done;
        n -= (uint64_t)done;
    }
    return MARLIN_OK;
}

static marlin_status add_metadata(struct ml_buf *b, const char *const *metadata, size_t n) {
    marlin_status st;
    ML_TRY(ml_buf_adds(b, "\"__metadata__\":{"));
    for (size_t i = 0; i < n; i++) {
        if (i) ML_TRY(ml_buf_adds(b, ","));
        ML_TRY(ml_buf_add_json(b, metadata[2 * i], strlen(metadata[2 * i])));
        ML_TRY(ml_buf_adds(b, ":"));
        ML_TRY(ml_buf_add_json(b, metadata[2 * i + 1], strlen(metadata[2 * i + 1])));
    }
    ML_TRY(ml_buf_adds(b, "}"));
out:
    return st;
}

static marlin_status add_entry(struct ml_buf *b, const struct ml_tensor_decl *d, const struct entry *e) {
    marlin_status st;
    ML_TRY(ml_buf_add_json(b, d->name, strlen(d->name)));
    ML_TRY(ml_buf_addf(b, ":{\"dtype\":\"%s\",\"shape\":[", ml_dtype_name(d->dtype)));
    for (int i = 0; i < d->rank; i++) {
        ML_TRY(ml_buf_addf(b, "%s%llu", i ? "," : "", (unsigned long long)d->shape[i]));
    }
    ML_TRY(ml_buf_addf(b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)e->offset,
                       (unsigned long long)(e->offset + e->bytes)));
out:
    return st;
}

/* Spaces up to a data start that is 64-byte aligned in the file. */
static marlin_status build_header(struct ml_tensors_writer *w, const struct ml_tensor_decl *decls,
                                  const char *const *metadata, size_t n_meta, struct ml_buf *b) {
    marlin_status st;
    ML_TRY(ml_buf_add(b, "\0\0\0\0\0\0\0\0", 8));
    ML_TRY(ml_buf_adds(b, "{"));
    if (n_meta) ML_TRY(add_metadata(b, metadata, n_meta));
    for (size_t i = 0; i < w->count; i++) {
        if (i || n_meta) ML_TRY(ml_buf_adds(b, ","));
        ML_TRY(add_entry(b, &decls[i], &w->entries[i]));
    }
    ML_TRY(ml_buf_adds(b, "}"));
    while (b->len % DATA_ALIGN) {
        ML_TRY(ml_buf_adds(b, " "));
    }
    w->data_start = b->len;
    for (int i = 0; i < 8; i++) {
        b->data[i] = (char)((b->len - 8) >> (8 * i) & 0xff);
    }
out:
    return st;
}

static marlin_status declare(struct ml_tensors_writer *w, size_t i, const struct ml_tensor_decl *d,
                             struct marlin_error *err) {
    struct entry *e = &w->entries[i];
    bool fresh;
    const size_t len = strlen(d->name);
    if (len == 0 || len > ML_SAFETENSORS_MAX_NAME || strcmp(d->name, "__metadata__") == 0)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "%s: tensor \"%.120s\": not a name of 1 to %d bytes",
                       w->path, d->name, ML_SAFETENSORS_MAX_NAME);
    if (d->rank < 0 || d->rank > ML_TENSOR_MAX_RANK)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "%s: tensor \"%s\": rank %d", w->path, d->name, d->rank);
    e->bytes = ml_dtype_size(d->dtype);
    for (int r = 0; r < d->rank; r++) {
        if (!ml_mul_u64(e->bytes, d->shape[r], &e->bytes))
            return ml_fail(err, MARLIN_ERR_LIMIT, "%s: tensor \"%s\": size overflows", w->path, d->name);
    }
    e->offset = w->data_bytes;
    if (!ml_add_u64(w->data_bytes, e->bytes, &w->data_bytes))
        return ml_fail(err, MARLIN_ERR_LIMIT, "%s: too large", w->path);
    if (!(e->name = ml_strdup(d->name)) ||
        ml_map_put(&w->by_name, e->name, strlen(e->name), i, &fresh) != MARLIN_OK)
        return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", w->path);
    if (!fresh)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "%s: tensor \"%s\" is declared twice", w->path, d->name);
    return MARLIN_OK;
}

/* Reserves the whole length, so that a full disk shows now rather than after hours. */
static marlin_status create_file(struct ml_tensors_writer *w, struct marlin_error *err) {
    uint64_t size;
    if (!ml_add_u64(w->data_start, w->data_bytes, &size) || size > INT64_MAX)
        return ml_fail(err, MARLIN_ERR_LIMIT, "%s: too large", w->path);
    const off_t total = (off_t)size;
    w->fd = open(w->temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (w->fd < 0) {
        const int why = errno;
        w->temp[0] = '\0';
        return ml_fail(err, MARLIN_ERR_IO, "%s: cannot create: %s", w->path, strerror(why));
    }
#if defined(__linux__)
    const int why = posix_fallocate(w->fd, 0, total);
    if (why == ENOSPC || why == EFBIG)
        return ml_fail(err, MARLIN_ERR_IO, "%s: no room for %lld bytes: %s", w->path, (long long)total,
                       strerror(why));
#endif
    if (ftruncate(w->fd, total) != 0)
        return ml_fail(err, MARLIN_ERR_IO, "%s: no room for %lld bytes: %s", w->path, (long long)total,
                       strerror(errno));
    return MARLIN_OK;
}

static marlin_status set_paths(struct ml_tensors_writer *w, const char *path, struct marlin_error *err) {
    if ((size_t)snprintf(w->path, sizeof w->path, "%s", path) >= sizeof w->path ||
        (size_t)snprintf(w->temp, sizeof w->temp, "%s.tmp.%ld", path, (long)getpid()) >= sizeof w->temp) {
        w->temp[0] = '\0';
        return ml_fail(err, MARLIN_ERR_LIMIT, "path too long: %.200s", path);
    }
    return MARLIN_OK;
}

marlin_status ml_tensors_writer_open(const char *path, const struct ml_tensor_decl *decls, size_t n,
                                     const char *const *metadata, size_t n_meta,
                                     struct ml_tensors_writer **out, struct marlin_error *err) {
    struct ml_buf header;
    marlin_status st;
    ml_buf_init(&header, (size_t)ML_SAFETENSORS_MAX_HEADER);
    struct ml_tensors_writer *w = ml_calloc(1, sizeof *w);
    if (!w) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", path);
    w->fd = -1;
    w->count = n;
    ml_map_init(&w->by_name);
    ML_TRY(set_paths(w, path, err));
    if (n > ML_SAFETENSORS_MAX_TENSORS) {
        st = ml_fail(err, MARLIN_ERR_LIMIT, "%s: %zu tensors, more than the limit of %d", path, n,
                     ML_SAFETENSORS_MAX_TENSORS);
        goto out;
    }
    if (!(w->entries = ml_calloc(n, sizeof *w->entries))) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", path);
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        ML_TRY(declare(w, i, &decls[i], err));
    }
    st = build_header(w, decls, metadata, n_meta, &header);
    if (st != MARLIN_OK) {
        st = ml_fail(err, st, "%s: cannot build the header of %zu tensors: %s", path, n,
                     marlin_status_name(st));
        goto out;
    }
    ML_TRY(create_file(w, err));
    ML_TRY(put_at(w, 0, header.data, header.len, err));
out:
    ml_buf_free(&header);
    if (st == MARLIN_OK)
        *out = w;
    else
        close_writer(w, false);
    return st;
}

marlin_status ml_tensors_writer_put(struct ml_tensors_writer *w, const char *name, const void *data,
                                    uint64_t bytes, struct marlin_error *err) {
    uint64_t i;
    if (!ml_map_get(&w->by_name, name, strlen(name), &i))
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "%s: tensor \"%s\" was not declared", w->path, name);
    struct entry *e = &w->entries[i];
    if (bytes != e->bytes)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "%s: tensor \"%s\" has %llu bytes, declared %llu", w->path,
                       name, (unsigned long long)bytes, (unsigned long long)e->bytes);
    const marlin_status st = put_at(w, w->data_start + e->offset, data, bytes, err);
    e->written = st == MARLIN_OK;
    return st;
}

/* A rename is durable once its directory is. Some file systems refuse to sync a directory;
 * the rename stands. */
static void sync_folder(const char *path) {
    char folder[PATH_MAX];
    (void)snprintf(folder, sizeof folder, "%s", path);
    const int fd = open(dirname(folder), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    (void)fsync(fd);
    (void)close(fd);
}

marlin_status ml_tensors_writer_commit(struct ml_tensors_writer *w, struct marlin_error *err) {
    marlin_status st = MARLIN_OK;
    for (size_t i = 0; i < w->count && st == MARLIN_OK; i++) {
        if (!w->entries[i].written)
            st = ml_fail(err, MARLIN_ERR_ARGUMENT, "%s: tensor \"%s\" was declared but never written",
                         w->path, w->entries[i].name);
    }
    if (st == MARLIN_OK && fsync(w->fd) != 0)
        st = ml_fail(err, MARLIN_ERR_IO, "%s: cannot sync: %s", w->path, strerror(errno));
    if (st == MARLIN_OK && rename(w->temp, w->path) != 0)
        st = ml_fail(err, MARLIN_ERR_IO, "%s: cannot rename into place: %s", w->path, strerror(errno));
    if (st == MARLIN_OK) sync_folder(w->path);
    close_writer(w, st == MARLIN_OK);
    return st;
}

void ml_tensors_writer_abort(struct ml_tensors_writer *w) {
    close_writer(w, false);
}
