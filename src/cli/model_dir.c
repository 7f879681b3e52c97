/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the model is when the user does not say.
 */
#include "base/file.h"
#include "cli/cli.h"
#include "converters/model_look.h"
#include "models/model.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__APPLE__)
#include <mach-o/dyld.h>
#endif

/* Cuts the last component off a path. False when there is none. */
static bool cut(char *path) {
    char *slash = strrchr(path, '/');
    if (!slash) return false;
    *slash = '\0';
    return true;
}

/* The folder that the program lies in, links resolved. */
static bool program_dir(char dst[ML_CLI_PATH]) {
#if defined(__linux__)
    const ssize_t n = readlink("/proc/self/exe", dst, ML_CLI_PATH - 1);
    if (n <= 0 || n >= ML_CLI_PATH - 1) return false;
    dst[n] = '\0';
#elif defined(__APPLE__)
    uint32_t size = ML_CLI_PATH;
    if (_NSGetExecutablePath(dst, &size) != 0) return false;
#else
    return false;
#endif
    return cut(dst);
}

/* A folder that CMake builds in: a program there belongs to its source tree. One that was installed does not, and
 * must not find what happens to lie in a clone on this machine. */
static bool is_build_dir(const char *dir) {
    char path[ML_CLI_PATH];
    const int n = snprintf(path, sizeof path, "%s/CMakeCache.txt", dir);
    return n > 0 && n < (int)sizeof path && access(path, F_OK) == 0;
}

/* The root of the source tree, from this file's own path at compile time. */
static bool source_dir(char dst[ML_CLI_PATH]) {
    const int n = snprintf(dst, ML_CLI_PATH, "%s", __FILE__);
    return n > 0 && n < ML_CLI_PATH && cut(dst) && cut(dst) && cut(dst);
}

static bool try_model(struct ml_cli *cli, const char *dir, const char *below) {
    const int n = snprintf(cli->model, sizeof cli->model, "%s/%s", dir, below);
    return n > 0 && n < (int)sizeof cli->model && ml_path_is_dir(cli->model);
}

const char *ml_cli_default_model(struct ml_cli *cli) {
    static const char *const beside[] = {"../share/marlin/models/marlin-chat", "../models/marlin-chat"};
    const char *wanted = getenv("MARLIN_MODEL");
    if (wanted && *wanted) return wanted;
    char dir[ML_CLI_PATH];
    if (program_dir(dir)) {
        const bool built_here = is_build_dir(dir);
        for (size_t i = 0; i < sizeof beside / sizeof *beside; i++) {
            if (try_model(cli, dir, beside[i])) return cli->model;
        }
        if (built_here && source_dir(dir) && try_model(cli, dir, "models/marlin-chat")) return cli->model;
    }
    (void)ml_cli_failf(cli, MARLIN_ERR_NOT_FOUND,
                       "the default model was not found beside the program: name a model directory, or set "
                       "MARLIN_MODEL to one");
    return NULL;
}

void ml_cli_note_context(const struct ml_cli *cli, const struct ml_model *m, size_t ctx) {
    const int64_t most = ml_model_config(m)->max_positions;
    if (most > 0 && ctx > (size_t)most)
        ml_cli_note(
            cli,
            "--ctx %zu: more than the %lld positions that the model was made for: what it writes beyond "
            "them is likely to be noise",
            ctx, (long long)most);
}

const char *ml_cli_model_dir(struct ml_cli *cli, const struct ml_args *args) {
    const char *named = ml_args_at(args, 0), *dir = named ? named : ml_cli_default_model(cli);
    char found[PATH_MAX];
    struct marlin_error err = {0};
    if (!dir) return NULL;
    const marlin_status st = ml_model_look(dir, found, &err);
    if (st != MARLIN_OK) {
        (void)ml_cli_fail(cli, st, &err);
        return NULL;
    }
    (void)snprintf(cli->model, sizeof cli->model, "%s", found);
    return cli->model;
}
