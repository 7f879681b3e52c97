/* SPDX-License-Identifier: Apache-2.0
 *
 * A lone argument: a model, something that was meant as one, or a prompt.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/guess.h"

#include <stdlib.h>
#include <unistd.h>

static void paths_and_names(void **state) {
    static const char *const paths[] = {"/nope",
                                        "/with a space/x",
                                        "~/models/Qwen3-0.6B",
                                        "~x",
                                        "./m",
                                        "../m",
                                        "dir/",
                                        "Qwen/Qwen3-0.6B",
                                        "https://huggingface.co/a/b",
                                        "model-Q4_K_M.gguf",
                                        "model.safetensors",
                                        "config.json",
                                        "pytorch_model.bin"};
    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        if (!ml_cli_is_path(paths[i])) fail_msg("'%s' is no path", paths[i]);
        assert_false(ml_cli_is_model(paths[i]));
    }
}

static void prompts(void **state) {
    static const char *const texts[] = {
        "",           "Hello",         "What is 1/2 of it?", "...and then",
        "etc.",       "a model.gguf?", "~ 5 of them",        "run",
        "Once upon,", ".gguf",         "line\nof/two",       "\xc3\xa9t\xc3\xa9"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (ml_cli_is_path(texts[i])) fail_msg("'%s' is a prompt", texts[i]);
}

static void what_is_there(void **state) {
    (void)state;
    char name[] = "guess-XXXXXX.gguf";
    assert_true(ml_cli_is_model("."));
    assert_true(ml_cli_is_model(MARLIN_SOURCE_DIR));
    assert_false(ml_cli_is_model(MARLIN_SOURCE_DIR "/README.md"));
    assert_true(ml_cli_is_path(MARLIN_SOURCE_DIR "/README.md"));
    const int fd = mkstemps(name, 5);
    assert_true(fd >= 0);
    assert_true(ml_cli_is_model(name)); /* a model in one file */
    (void)close(fd);
    (void)unlink(name);
    assert_false(ml_cli_is_model(name));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_and_names),
        cmocka_unit_test(prompts),
        cmocka_unit_test(what_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
