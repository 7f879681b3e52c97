/* SPDX-License-Identifier: Apache-2.0
 *
 * How the program reads its input and writes its results and errors.
 */
#include "base/file.h"
#include "cli/cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int exit_status(marlin_status status) {
    return status == MARLIN_ERR_ARGUMENT ? ML_EXIT_USAGE : ML_EXIT_FAILED;
}

int ml_cli_fail(const struct ml_cli *cli, marlin_status status, const struct marlin_error *err) {
    (void)cli;
    (void)fprintf(stderr, "marlin: %s\n", err->text[0] ? err->text : marlin_status_name(status));
    return exit_status(status);
}

int ml_cli_failf(const struct ml_cli *cli, marlin_status status, const char *fmt, ...) {
    struct marlin_error err = {.code = status};
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(err.text, sizeof err.text, fmt, args);
    va_end(args);
    return ml_cli_fail(cli, status, &err);
}

void ml_cli_note(const struct ml_cli *cli, const char *fmt, ...) {
    if (cli->quiet) return;
    char text[1024];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    (void)fprintf(stderr, "marlin: %s\n", text);
}

size_t ml_cli_columns(void) {
    enum { NARROW = 40, WIDE = 100 };
    struct winsize size;
    if (isatty(STDOUT_FILENO) != 1 || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return WIDE;
    return size.ws_col < NARROW ? NARROW : size.ws_col > WIDE ? WIDE : size.ws_col;
}

int ml_cli_write(const struct ml_cli *cli, const struct ml_buf *b) {
    if ((b->len && fwrite(b->data, 1, b->len, stdout) != b->len) || fflush(stdout) != 0)
        return ml_cli_failf(cli, MARLIN_ERR_IO, "writing the result to stdout failed: %s", strerror(errno));
    return ML_EXIT_DONE;
}

bool ml_cli_stdin_piped(void) {
    struct stat info;
    return fstat(STDIN_FILENO, &info) == 0 &&
           (S_ISFIFO(info.st_mode) || S_ISREG(info.st_mode) || S_ISSOCK(info.st_mode));
}

void ml_cli_note_terminal(const struct ml_cli *cli, const char *what) {
    if (isatty(STDIN_FILENO) == 1)
        ml_cli_note(cli, "reading %s from the terminal: Ctrl-D on a line of its own ends it", what);
}

static marlin_status read_stdin(size_t limit, struct ml_buf *b, struct marlin_error *err) {
    char chunk[65536];
    for (;;) {
        const ssize_t n = read(STDIN_FILENO, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return ml_fail(err, MARLIN_ERR_IO, "reading stdin failed: %s", strerror(errno));
        if (n == 0) break;
        const marlin_status st = ml_buf_add(b, chunk, (size_t)n);
        if (st == MARLIN_ERR_LIMIT) return ml_fail(err, st, "stdin: more than %zu bytes", limit);
        if (st != MARLIN_OK) return ml_fail(err, st, "stdin: out of memory after %zu bytes", b->len);
    }
    return MARLIN_OK;
}

marlin_status ml_cli_read(const char *path, size_t limit, char **data, size_t *len,
                          struct marlin_error *err) {
    if (strcmp(path, "-") != 0) return ml_file_slurp(path, limit, data, len, err);
    struct ml_buf b;
    ml_buf_init(&b, limit);
    marlin_status st = read_stdin(limit, &b, err);
    if (st == MARLIN_OK && ml_buf_adds(&b, "") != MARLIN_OK) /* gives an empty input its NUL */
        st = ml_fail(err, MARLIN_ERR_MEMORY, "stdin: out of memory");
    if (st != MARLIN_OK) {
        ml_buf_free(&b);
        return st;
    }
    *data = b.data;
    *len = b.len;
    return MARLIN_OK;
}

marlin_status ml_cli_json_number(struct ml_buf *b, double v) {
    return isfinite(v) ? ml_buf_addf(b, "%.9g", v) : ml_buf_adds(b, "null");
}
