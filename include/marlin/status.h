/* SPDX-License-Identifier: Apache-2.0
 *
 * Status codes and the error message that travels with them.
 *
 * Every fallible function of the library returns a marlin_status and takes a `struct marlin_error *`
 * as its last argument. The pointer may be NULL. On failure the message names what failed, why, and
 * where (file, tensor, byte offset); on success it is left untouched. The library never prints,
 * exits or aborts because of data.
 */
#ifndef MARLIN_STATUS_H
#define MARLIN_STATUS_H

/* What a shared library shows; all else in it is hidden. */
#if defined(__GNUC__)
#define MARLIN_API __attribute__((visibility("default")))
#else
#define MARLIN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum marlin_status {
    MARLIN_OK = 0,
    MARLIN_ERR_ARGUMENT,    /* the caller broke a documented precondition */
    MARLIN_ERR_MEMORY,      /* an allocation failed, or a stated memory limit would be passed */
    MARLIN_ERR_IO,          /* open, read, write, map or rename failed */
    MARLIN_ERR_FORMAT,      /* the bytes break the rules of their format */
    MARLIN_ERR_UNSUPPORTED, /* well-formed, but not something this build can do */
    MARLIN_ERR_LIMIT,       /* a documented ceiling (size, depth, count) was passed */
    MARLIN_ERR_NOT_FOUND,   /* a file, tensor, key or token does not exist */
    MARLIN_ERR_NUMERIC,     /* NaN or infinity where a number was needed */
    MARLIN_ERR_CANCELLED,   /* the caller asked to stop */
    MARLIN_ERR_INTERNAL     /* a broken invariant of the library itself: please report it */
} marlin_status;

enum { MARLIN_ERROR_TEXT = 512 };

struct marlin_error {
    marlin_status code;
    char text[MARLIN_ERROR_TEXT]; /* NUL-terminated UTF-8, cut at a character boundary if too long */
};

/* A stable lower-case name such as "format" for a code; "unknown" for anything else. Any thread. */
MARLIN_API const char *marlin_status_name(marlin_status code);

#if defined(__GNUC__)
#define MARLIN_MUST_CHECK __attribute__((warn_unused_result))
#else
#define MARLIN_MUST_CHECK
#endif

#ifdef __cplusplus
}
#endif
#endif
