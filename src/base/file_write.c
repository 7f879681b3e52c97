/* SPDX-License-Identifier: Apache-2.0
 *
 * Writing so that readers see the old file or the new one.
 */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static marlin_status write_all(int fd, const char *path, const char *p, size_t len,
                               struct marlin_error *err) {
    while (len > 0) {
        const ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return ml_fail(err, MARLIN_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
        p += n;
        len -= (size_t)n;
    }
    return MARLIN_OK;
}

/* A rename is durable once its directory is. Some file systems refuse to sync a directory;
 * the rename stands. */
static void sync_folder(const char *path) {
    char copy[PATH_MAX];
    if ((size_t)snprintf(copy, sizeof copy, "%s", path) >= sizeof copy) return;
    const int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    (void)fsync(fd);
    (void)close(fd);
}

marlin_status ml_file_write_atomic(const char *path, const void *data, size_t len, struct marlin_error *err) {
    char temp[PATH_MAX];
    int fd = -1;
    marlin_status st;
    if ((size_t)snprintf(temp, sizeof temp, "%s.tmp.%ld", path, (long)getpid()) >= sizeof temp)
        return ml_fail(err, MARLIN_ERR_LIMIT, "path too long: %.200s", path);
    fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return ml_fail(err, MARLIN_ERR_IO, "%s: cannot create: %s", temp, strerror(errno));
    ML_TRY(write_all(fd, path, data, len, err));
    if (fsync(fd) != 0) {
        st = ml_fail(err, MARLIN_ERR_IO, "%s: cannot sync: %s", path, strerror(errno));
        goto out;
    }
    if (rename(temp, path) != 0) {
        st = ml_fail(err, MARLIN_ERR_IO, "%s: cannot rename into place: %s", path, strerror(errno));
        goto out;
    }
    sync_folder(path);
out:
    (void)close(fd);
    if (st != MARLIN_OK) (void)unlink(temp);
    return st;
}
