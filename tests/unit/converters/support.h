/* SPDX-License-Identifier: Apache-2.0
 *
 * For tests of the loaders: a temporary directory, files with any header, and assertions on what an error
 * says.
 */
#ifndef ML_TEST_CONVERTERS_SUPPORT_H
#define ML_TEST_CONVERTERS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/status.h"

#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Asserts the code, and that the message names `part`. */
static inline void assert_error(marlin_status st, const struct marlin_error *err, marlin_status code,
                                const char *part) {
    if (st != code || err->code != code || !strstr(err->text, part))
        fail_msg("status %s, wanted %s with \"%s\"; message: %s", marlin_status_name(st),
                 marlin_status_name(code), part, err->text);
}

static inline void assert_ok(marlin_status st, const struct marlin_error *err) {
    if (st != MARLIN_OK) fail_msg("status %s: %s", marlin_status_name(st), err->text);
}

/* CPU time of this process, so that a busy machine does not count; what would wait for ever runs into ctest's
 * limit. */
static inline double seconds_now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* --- a temporary directory, one a test program --------------------------------------------------------- */

static char test_dir[PATH_MAX];

static inline int make_test_dir(void **state) {
    const char *base = getenv("TMPDIR");
    (void)state;
    (void)snprintf(test_dir, sizeof test_dir, "%s/marlin-conv-XXXXXX", base ? base : "/tmp");
    return mkdtemp(test_dir) ? 0 : -1;
}

/* Removes what lies in the directory, one level deep. */
static inline int empty_dir(const char *dir) {
    DIR *d = opendir(dir);
    if (!d) return -1;
    for (const struct dirent *e; (e = readdir(d));) {
        char path[PATH_MAX];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, e->d_name) >= sizeof path) continue;
        if (unlink(path) != 0 && rmdir(path) != 0 && empty_dir(path) == 0) (void)rmdir(path);
    }
    return closedir(d);
}

static inline int clear_test_dir(void **state) {
    (void)state;
    return empty_dir(test_dir);
}

static inline int remove_test_dir(void **state) {
    (void)state;
    (void)empty_dir(test_dir);
    return rmdir(test_dir);
}

/* Path of a file in the directory; four at a time. */
static inline const char *in_dir(const char *name) {
    static char paths[4][PATH_MAX];
    static int turn;
    char *path = paths[turn++ % 4];
    assert_true((size_t)snprintf(path, PATH_MAX, "%s/%s", test_dir, name) < PATH_MAX);
    return path;
}

static inline void write_bytes(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    if (n) assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline void write_text(const char *path, const char *text) {
    write_bytes(path, text, strlen(text));
}

static inline char *read_text(const char *path, size_t *len) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *text = malloc(1 << 20);
    assert_non_null(text);
    *len = fread(text, 1, (1 << 20) - 1, f);
    text[*len] = '\0';
    assert_int_equal(fclose(f), 0);
    return text;
}

/* --- safetensors bytes ---------------------------------------------------------------------------------- */

struct image {
    uint8_t *bytes;
    size_t len;
};

/* u64 length as claimed, the header text, data_len bytes 0, 1, 2... */
static inline struct image build_claiming(uint64_t claimed, const char *header, size_t header_len,
                                          size_t data_len) {
    struct image m = {malloc(8 + header_len + data_len + 1), 8 + header_len + data_len};
    assert_non_null(m.bytes);
    for (int i = 0; i < 8; i++) {
        m.bytes[i] = (uint8_t)(claimed >> 8 * i & 0xff);
    }
    memcpy(m.bytes + 8, header, header_len);
    for (size_t i = 0; i < data_len; i++) {
        m.bytes[8 + header_len + i] = (uint8_t)i;
    }
    return m;
}

static inline struct image build(const char *header, size_t data_len) {
    return build_claiming(strlen(header), header, strlen(header), data_len);
}

static inline void write_safetensors(const char *path, const char *header, size_t data_len) {
    const struct image m = build(header, data_len);
    write_bytes(path, m.bytes, m.len);
    free(m.bytes);
}

/* One U8 tensor of n bytes. */
static inline void write_one(const char *path, const char *name, unsigned n) {
    char header[256];
    (void)snprintf(header, sizeof header,
                   "{\"%s\":{\"dtype\":\"U8\",\"shape\":[%u],\"data_offsets\":[0,%u]}}", name, n, n);
    write_safetensors(path, header, n);
}

#endif
