/* SPDX-License-Identifier: Apache-2.0
 *
 * Folders that tests make, compare and remove. Include after cmocka.h.
 */
#ifndef ML_TESTS_FOLDERS_H
#define ML_TESTS_FOLDERS_H

#include "base/file.h"
#include "base/mem.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static inline bool folders_is_dot(const char *name) {
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* A folder that is absent is fine. */
static inline void remove_tree(const char *dir) {
    DIR *d = opendir(dir);
    for (const struct dirent *e; d && (e = readdir(d));) {
        char path[2048];
        if (folders_is_dot(e->d_name)) continue;
        (void)snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (ml_path_is_dir(path))
            remove_tree(path);
        else
            (void)unlink(path);
    }
    if (d) (void)closedir(d);
    (void)rmdir(dir);
}

/* Every file of folder a, none of which is hidden, stands with the same bytes in b. Returns how many. */
static inline size_t same_files(const char *a, const char *b) {
    DIR *d = opendir(a);
    size_t n = 0;
    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d));) {
        char path[2048], *ta = NULL, *tb = NULL;
        size_t la = 0, lb = 0;
        if (folders_is_dot(e->d_name)) continue;
        assert_true(e->d_name[0] != '.');
        (void)snprintf(path, sizeof path, "%s/%s", a, e->d_name);
        assert_int_equal(ml_file_slurp(path, 1 << 26, &ta, &la, NULL), MARLIN_OK);
        (void)snprintf(path, sizeof path, "%s/%s", b, e->d_name);
        if (ml_file_slurp(path, 1 << 26, &tb, &lb, NULL) != MARLIN_OK) fail_msg("%s is missing", path);
        assert_int_equal(la, lb);
        assert_memory_equal(ta, tb, la);
        ml_free(ta);
        ml_free(tb);
        n++;
    }
    (void)closedir(d);
    return n;
}

#endif
