/* SPDX-License-Identifier: Apache-2.0
 *
 * Files: opening only what is a regular file, mapping, bounded reads, paths. Mappings that are cut short
 * under us are handled in file_guard.c, writing in file_write.c.
 */
#include "base/file.h"

#include "base/file_int.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct ml_file {
    char *path;
    int fd, guard;
    uint64_t size;
    uint8_t *data;
};

static atomic_uint_fast64_t inject_at;
static atomic_int inject_kind;

void ml_file_inject(uint64_t n, int kind) {
    atomic_store(&inject_kind, kind);
    atomic_store(&inject_at, n);
}

/* Kind of fault for this read, 0 for none. */
static int injected(void) {
    uint_fast64_t left = atomic_load_explicit(&inject_at, memory_order_relaxed);
    while (left > 0) {
        if (atomic_compare_exchange_weak(&inject_at, &left, left - 1))
            return left == 1 ? atomic_load(&inject_kind) : 0;
    }
    return 0;
}

static ssize_t read_some(int fd, void *dst, size_t len, off_t offset) {
    switch (injected()) {
    case 1:
        len = (len + 1) / 2;
        break;
    case 2:
        errno = EIO;
        return -1;
    case 3:
        errno = EINTR;
        return -1;
    default:
        break;
    }
    return offset < 0 ? read(fd, dst, len) : pread(fd, dst, len, offset);
}

static const char *kind_name(mode_t mode) {
    if (S_ISDIR(mode)) return "a directory";
    if (S_ISFIFO(mode)) return "a FIFO";
    if (S_ISSOCK(mode)) return "a socket";
    if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
    return "not a regular file";
}

/* O_NONBLOCK: opening a FIFO must not wait for a writer. */
static marlin_status open_regular(const char *path, int *fd, uint64_t *size, struct marlin_error *err) {
    struct stat info;
    *fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (*fd < 0) {
        const int why = errno;
        /* A socket, or a device without a driver, cannot be opened at all: still say what it is. */
        if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
            return ml_fail(err, MARLIN_ERR_IO, "%s: is %s; a regular file is needed", path,
                           kind_name(info.st_mode));
        const marlin_status st = why == ENOENT || why == ENOTDIR ? MARLIN_ERR_NOT_FOUND : MARLIN_ERR_IO;
        return ml_fail(err, st, "%s: cannot open: %s", path, strerror(why));
    }
    marlin_status st = MARLIN_OK;
    if (fstat(*fd, &info) != 0)
        st = ml_fail(err, MARLIN_ERR_IO, "%s: cannot stat: %s", path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        st =
            ml_fail(err, MARLIN_ERR_IO, "%s: is %s; a regular file is needed", path, kind_name(info.st_mode));
    if (st != MARLIN_OK) {
        (void)close(*fd);
        *fd = -1;
        return st;
    }
    *size = (uint64_t)info.st_size;
    return MARLIN_OK;
}

marlin_status ml_file_open(const char *path, struct ml_file **out, struct marlin_error *err) {
    struct ml_file *f = ml_calloc(1, sizeof *f);
    marlin_status st;
    if (!f) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", path);
    f->fd = f->guard = -1;
    if (!(f->path = ml_strdup(path))) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", path);
        goto out;
    }
    ML_TRY(open_regular(path, &f->fd, &f->size, err));
    if (f->size > SIZE_MAX / 2) {
        st = ml_fail(err, MARLIN_ERR_LIMIT, "%s: %llu bytes cannot be mapped", path,
                     (unsigned long long)f->size);
        goto out;
    }
    if (f->size > 0) {
        void *data = mmap(NULL, (size_t)f->size, PROT_READ, MAP_PRIVATE, f->fd, 0);
        if (data == MAP_FAILED) {
            st = ml_fail(err, MARLIN_ERR_IO, "%s: cannot map: %s", path, strerror(errno));
            goto out;
        }
        f->data = data;
        if ((f->guard = ml_file_guard_add(f->data, (size_t)f->size)) < 0) {
            st = ml_fail(err, MARLIN_ERR_LIMIT, "%s: too many mapped files", path);
            goto out;
        }
    }
    st = ml_file_check(f, err); /* cut between stat and map? */
out:
    if (st == MARLIN_OK)
        *out = f;
    else
        ml_file_close(f);
    return st;
}

void ml_file_close(struct ml_file *f) {
    if (!f) return;
    ml_file_guard_remove(f->guard);
    if (f->data) (void)munmap(f->data, (size_t)f->size);
    if (f->fd >= 0) (void)close(f->fd);
    ml_free(f->path);
    ml_free(f);
}

const char *ml_file_path(const struct ml_file *f) {
    return f->path;
}

const uint8_t *ml_file_data(const struct ml_file *f) {
    return f->data;
}

uint64_t ml_file_size(const struct ml_file *f) {
    return f->size;
}

marlin_status ml_file_check(const struct ml_file *f, struct marlin_error *err) {
    struct stat info;
    if (fstat(f->fd, &info) != 0)
        return ml_fail(err, MARLIN_ERR_IO, "%s: cannot stat: %s", f->path, strerror(errno));
    if ((uint64_t)info.st_size < f->size || ml_file_guard_hit(f->guard))
        return ml_fail(err, MARLIN_ERR_IO, "%s: the file was truncated while in use: %llu bytes, was %llu",
                       f->path, (unsigned long long)info.st_size, (unsigned long long)f->size);
    return MARLIN_OK;
}

bool ml_file_intact(const struct ml_file *f) {
    return !ml_file_guard_hit(f->guard);
}

static void advise(const struct ml_file *f, uint64_t offset, uint64_t len, int advice) {
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (!f->data || offset >= f->size) return;
    if (len > f->size - offset) len = f->size - offset;
    const uint64_t start = offset / page * page;
    (void)madvise(f->data + start, (size_t)(offset + len - start), advice);
}

void ml_file_prefetch(const struct ml_file *f, uint64_t offset, uint64_t len) {
    advise(f, offset, len, MADV_WILLNEED);
}

void ml_file_drop(const struct ml_file *f, uint64_t offset, uint64_t len) {
    advise(f, offset, len, MADV_DONTNEED);
}

marlin_status ml_file_read(const struct ml_file *f, uint64_t offset, void *dst, size_t len,
                           struct marlin_error *err) {
    char *p = dst;
    if (offset > f->size || len > f->size - offset)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "%s: read past the end (offset %llu)", f->path,
                       (unsigned long long)offset);
    while (len > 0) {
        const ssize_t n = read_some(f->fd, p, len, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return ml_fail(err, MARLIN_ERR_IO, "%s: cannot read: %s (offset %llu)", f->path,
                           n == 0 ? "the file was truncated while in use" : strerror(errno),
                           (unsigned long long)offset);
        p += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return MARLIN_OK;
}

/* Reads up to cap bytes until the end of the file. */
static marlin_status read_all(int fd, const char *path, char *dst, size_t cap, size_t *len,
                              struct marlin_error *err) {
    *len = 0;
    while (*len < cap) {
        const ssize_t n = read_some(fd, dst + *len, cap - *len, -1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return ml_fail(err, MARLIN_ERR_IO, "%s: cannot read: %s (offset %zu)", path, strerror(errno),
                           *len);
        if (n == 0) break;
        *len += (size_t)n;
    }
    return MARLIN_OK;
}

marlin_status ml_file_slurp(const char *path, uint64_t limit, char **data, size_t *len,
                            struct marlin_error *err) {
    int fd = -1;
    uint64_t size = 0;
    size_t got = 0;
    char *text = NULL;
    marlin_status st;
    ML_TRY(open_regular(path, &fd, &size, err));
    if (size > limit || size >= SIZE_MAX - 1) {
        st = ml_fail(err, MARLIN_ERR_LIMIT, "%s: %llu bytes, more than the limit of %llu", path,
                     (unsigned long long)size, (unsigned long long)limit);
        goto out;
    }
    if (!(text = ml_alloc((size_t)size + 2))) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "%s: no memory for %llu bytes", path, (unsigned long long)size);
        goto out;
    }
    /* One byte more than the file had, to see it grow. */
    ML_TRY(read_all(fd, path, text, (size_t)size + 1, &got, err));
    if (got != size) {
        st = ml_fail(err, MARLIN_ERR_IO, "%s: the size changed while reading: %llu bytes, %s", path,
                     (unsigned long long)size, got > size ? "then more" : "then fewer");
        goto out;
    }
    text[got] = '\0';
    *data = text;
    *len = got;
out:
    if (fd >= 0) (void)close(fd);
    if (st != MARLIN_OK) ml_free(text);
    return st;
}

marlin_status ml_path_check_writable(const char *path, struct marlin_error *err) {
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (ml_path_is_dir(path)) return ml_fail(err, MARLIN_ERR_IO, "%s: is a directory: name a file", path);
    if (slash && slash - path >= PATH_MAX)
        return ml_fail(err, MARLIN_ERR_LIMIT, "%.80s...: too long a path", path);
    (void)snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    if (access(*folder ? folder : "/", W_OK) == 0) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_IO, "%s: cannot write to the folder %s: %s", path, *folder ? folder : "/",
                   strerror(errno));
}

bool ml_path_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

bool ml_path_is_dir(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

marlin_status ml_path_join(char *dst, size_t cap, const char *dir, const char *name,
                           struct marlin_error *err) {
    const size_t n = strlen(dir);
    const char *slash = n > 0 && dir[n - 1] == '/' ? "" : "/";
    if ((size_t)snprintf(dst, cap, "%s%s%s", dir, slash, name) >= cap)
        return ml_fail(err, MARLIN_ERR_LIMIT, "path too long: %.100s/%.100s", dir, name);
    return MARLIN_OK;
}
