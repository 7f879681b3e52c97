/* SPDX-License-Identifier: Apache-2.0
 *
 * Files: read-only mappings that survive truncation, bounded whole-file reads, atomic writes.
 */
#ifndef ML_BASE_FILE_H
#define ML_BASE_FILE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ml_file; /* an open, mapped regular file */

/* Opens and maps a regular file read-only. FIFOs, directories, devices and sockets are refused by kind
 * without blocking. Shared freely between threads once open. */
marlin_status ml_file_open(const char *path, struct ml_file **out,
                           struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_file_close(struct ml_file *f);

const char *ml_file_path(const struct ml_file *f);
const uint8_t *ml_file_data(const struct ml_file *f); /* NULL for an empty file */
uint64_t ml_file_size(const struct ml_file *f);

/* MARLIN_ERR_IO when the file on disk is now shorter than when it was mapped. A read of a page past a
 * truncated end would raise SIGBUS; a process-wide handler maps zero pages there instead and marks
 * the file, so this check reports truth after the fact: call it after a load and after a stage of work. */
marlin_status ml_file_check(const struct ml_file *f, struct marlin_error *err) MARLIN_MUST_CHECK;

/* The same without a system call, for inner loops: false once a read has met a page past a truncated end.
 * Bytes of the last page that were cut off are seen by ml_file_check alone. */
bool ml_file_intact(const struct ml_file *f);

/* Hints: the range will be read soon / is not needed any more. Never fails. */
void ml_file_prefetch(const struct ml_file *f, uint64_t offset, uint64_t len);
void ml_file_drop(const struct ml_file *f, uint64_t offset, uint64_t len);

/* Copies bytes with pread (short reads and EINTR handled): for callers that must not fault. */
marlin_status ml_file_read(const struct ml_file *f, uint64_t offset, void *dst, size_t len,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* Reads a whole regular file of at most `limit` bytes; *data is NUL-terminated and owned by the caller
 * (ml_free). MARLIN_ERR_LIMIT above the limit, MARLIN_ERR_NOT_FOUND when it does not exist. */
marlin_status ml_file_slurp(const char *path, uint64_t limit, char **data, size_t *len,
                            struct marlin_error *err) MARLIN_MUST_CHECK;

/* Writes to "path.tmp.PID", fsyncs, renames over path: readers see the old file or the new one. */
marlin_status ml_file_write_atomic(const char *path, const void *data, size_t len,
                                   struct marlin_error *err) MARLIN_MUST_CHECK;

/* Before work whose result is to be written there: MARLIN_ERR_IO when the folder of `path` is absent or
 * may not be written to, or `path` is a directory. A later write may fail all the same. */
marlin_status ml_path_check_writable(const char *path, struct marlin_error *err) MARLIN_MUST_CHECK;

bool ml_path_exists(const char *path);
bool ml_path_is_dir(const char *path);

/* "dir/name" into dst; MARLIN_ERR_LIMIT when it does not fit. */
marlin_status ml_path_join(char *dst, size_t cap, const char *dir, const char *name,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* Test hook: makes the n-th read from now return short (kind 1), fail with EIO (kind 2) or EINTR once
 * (kind 3); n = 0 switches it off. */
void ml_file_inject(uint64_t n, int kind);

#endif
