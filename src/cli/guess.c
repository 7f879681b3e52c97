/* SPDX-License-Identifier: Apache-2.0
 *
 * Model or prompt.
 */
#include "cli/guess.h"

#include "base/file.h"

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
    static const char *const models[] = {".gguf", NULL};
    return ml_path_is_dir(text) || (ml_path_exists(text) && ends_with_one_of(text, models));
}

bool ml_cli_is_path(const char *text) {
    static const char *const starts[] = {"/", "~/", "./", "../", NULL};
    static const char *const ends[] = {".gguf", ".safetensors", ".json", ".bin", ".pt", ".pth", NULL};
    if (starts_with_one_of(text, starts)) return true;
    if (strpbrk(text, " \t\r\n")) return false;
    return strchr(text, '/') || text[0] == '~' || ends_with_one_of(text, ends) ||
           (strchr(text, '.') && ml_path_exists(text));
}
