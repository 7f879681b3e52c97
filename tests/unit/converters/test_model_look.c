/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of the Hub, and where a folder of its cache leads. What each mistake is called is tests/cli/test_mistakes.sh.
 */
#include "support.h"

#include "converters/model_look.h"

#include "base/file.h"
#include "folders.h"

#include <sys/stat.h>

static void names_of_the_hub(void **state) {
    static const char *const names[] = {"Qwen/Qwen3-0.6B", "a/b", "mistral-ai/x_1.0"};
    static const char *const others[] = {"",     "/",     "a",     "a/",   "/b",  "./b",
                                         "../b", "a/b/c", "a b/c", "a/.b", "~/b", "https://x/y"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_true(ml_model_is_hub_name(names[i]));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_false(ml_model_is_hub_name(others[i]));
}

static void make(const char *root, const char *below) {
    char path[PATH_MAX];
    (void)snprintf(path, sizeof path, "%s%s", root, below);
    assert_int_equal(mkdir(path, 0755), 0);
}

static void put(const char *root, const char *below, const char *text) {
    char path[PATH_MAX];
    (void)snprintf(path, sizeof path, "%s%s", root, below);
    assert_int_equal(ml_file_write_atomic(path, text, strlen(text), NULL), MARLIN_OK);
}

static void a_cache_folder_is_its_snapshot(void **state) {
    (void)state;
    char root[] = "/tmp/look-XXXXXX", hub[PATH_MAX], dir[PATH_MAX], wanted[PATH_MAX];
    struct marlin_error err = {0};
    assert_non_null(mkdtemp(root));
    (void)snprintf(hub, sizeof hub, "%s/models--a--b", root);
    make(hub, "");
    make(hub, "/snapshots");
    make(hub, "/refs");
    assert_error(ml_model_look(hub, dir, &err), &err, MARLIN_ERR_NOT_FOUND, "hf download a/b");
    assert_error(ml_model_look(root, dir, &err), &err, MARLIN_ERR_NOT_FOUND, "models--a--b");
    make(hub, "/snapshots/0a");
    make(hub, "/snapshots/0b");
    put(hub, "/snapshots/0b/config.json", "{}");
    (void)snprintf(wanted, sizeof wanted, "%s/snapshots/0b", hub);
    /* Without a reference, with one to a snapshot that is not whole, and with one that would lead elsewhere. */
    static const char *const references[] = {NULL, "0b", "0a", "../0b", "..", "", "nothing\n"};
    for (size_t i = 0; i < sizeof references / sizeof *references; i++) {
        if (references[i]) put(hub, "/refs/main", references[i]);
        assert_int_equal(ml_model_look(hub, dir, &err), MARLIN_OK);
        assert_string_equal(dir, wanted);
    }
    put(hub, "/snapshots/0a/config.json", "{}");
    put(hub, "/refs/main", "0b\n");
    assert_int_equal(ml_model_look(hub, dir, &err), MARLIN_OK);
    assert_string_equal(dir, wanted);
    /* A folder with a config.json is itself. */
    assert_int_equal(ml_model_look(wanted, dir, &err), MARLIN_OK);
    assert_string_equal(dir, wanted);
    remove_tree(root);
}

static void a_path_that_is_too_long(void **state) {
    (void)state;
    static char path[2 * PATH_MAX];
    char dir[PATH_MAX];
    struct marlin_error err = {0};
    memset(path, 'a', sizeof path - 1);
    assert_error(ml_model_look(path, dir, &err), &err, MARLIN_ERR_LIMIT, "path of the model");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_the_hub),
        cmocka_unit_test(a_cache_folder_is_its_snapshot),
        cmocka_unit_test(a_path_that_is_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
