/* SPDX-License-Identifier: Apache-2.0
 *
 * Model or prompt.
 */
#include "cli/guess.h"

#include "base/file.h"
#include "converters/gguf.h"
#include "converters/model_look.h"

#include <stddef.h>
#include <string.h>

static bool ends_with_one_of(const char *text, const char *const *ends) {
    const size_t n = strlen(text);
    for (; *ends; ends++) {
        const size_t m = strlen(*ends);
        if (n > m && strcmp(text + n - m, *ends) == 0) return true;
    }
    return false;
}

static bool starts_with_one_of(const char *text, const char *const *starts) {
    for (; *starts; starts++)
        if (strncmp(text, *starts, strlen(*starts)) == 0) return true;
    return false;
}

bool ml_cli_is_model(const char *text) {
    return ml_path_is_dir(text) || (ml_path_exists(text) && ml_gguf_is(text));
}

bool ml_cli_is_path(const char *text) {
    static const char *const starts[] = {"/", "~/", "./", "../", NULL};
    static const char *const ends[] = {".gguf", ".safetensors", ".json", ".bin", ".pt", ".pth", NULL};
    if (starts_with_one_of(text, starts)) return true;
    if (strpbrk(text, " \t\r\n")) return false;
    return strchr(text, '/') || text[0] == '~' || ends_with_one_of(text, ends) ||
           (strchr(text, '.') && ml_path_exists(text));
}

marlin_status ml_cli_check_text(const struct ml_args *args, const char *verb, const char *what,
                                struct marlin_error *err) {
    const char *text = ml_args_at(args, 0);
    char found[PATH_MAX];
    struct marlin_error why = {0};
    if (ml_args_after_dashes(args, 0) || !ml_cli_is_path(text)) return MARLIN_OK;
    if (ml_model_look(text, found, &why) == MARLIN_OK) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_ARGUMENT, "%s (if it is the %s: marlin %s -- '%.80s')", why.text, what,
                   verb, text);
}
