/* SPDX-License-Identifier: Apache-2.0
 *
 * Refusals by kind, mappings that are cut under us, injected read faults, atomic writes.
 */
#include "base/file.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char dir[] = "/tmp/marlin-file-XXXXXX";
static char path[64], fifo[64], sock[64];

static int set_up(void **state) {
    (void)state;
    if (!mkdtemp(dir)) return -1;
    (void)snprintf(path, sizeof path, "%s/data", dir);
    (void)snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    (void)snprintf(sock, sizeof sock, "%s/sock", dir);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    (void)unlink(path);
    (void)unlink(fifo);
    (void)unlink(sock);
    return rmdir(dir); /* fails when a temporary file was left behind */
}

static void refuses(const char *name, const char *kind) {
    struct ml_file *f = NULL;
    struct marlin_error err = {0};
    char *data = NULL;
    size_t len;
    assert_int_equal(ml_file_open(name, &f, &err), MARLIN_ERR_IO);
    assert_non_null(strstr(err.text, kind));
    err.text[0] = 0;
    assert_int_equal(ml_file_slurp(name, 100, &data, &len, &err), MARLIN_ERR_IO);
    assert_non_null(strstr(err.text, kind));
    assert_true(!f && !data);
}

static void refuses_what_is_no_regular_file(void **state) {
    (void)state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    assert_int_equal(mkfifo(fifo, 0600), 0);
    memcpy(address.sun_path, sock, strlen(sock) + 1);
    const int s = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(s, (struct sockaddr *)&address, sizeof address), 0);
    refuses(dir, "directory");
    refuses(fifo, "FIFO");
    refuses(sock, "socket");
    refuses("/dev/null", "device");
    (void)close(s);
    struct ml_file *f = NULL;
    assert_int_equal(ml_file_open("/nonexistent/x", &f, NULL), MARLIN_ERR_NOT_FOUND);
}

static void survives_truncation(void **state) {
    (void)state;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), size = 4 * page;
    char *data = malloc(size);
    assert_non_null(data);
    memset(data, 7, size);
    assert_int_equal(ml_file_write_atomic(path, data, size, NULL), MARLIN_OK);
    free(data);
    struct ml_file *f = NULL;
    struct marlin_error err = {0};
    assert_int_equal(ml_file_open(path, &f, &err), MARLIN_OK);
    assert_int_equal(ml_file_check(f, &err), MARLIN_OK);
    assert_int_equal(truncate(path, (off_t)page), 0);
    const volatile uint8_t *p = ml_file_data(f);
    assert_int_equal(p[0], 7);
    assert_int_equal(p[3 * page + 5], 0);
    assert_int_equal(p[page], 0);
    assert_int_equal(ml_file_check(f, &err), MARLIN_ERR_IO);
    assert_non_null(strstr(err.text, "file was truncated while in use"));
    /* Grown back: the zeros that were read still count. */
    assert_int_equal(truncate(path, (off_t)size), 0);
    assert_int_equal(ml_file_check(f, &err), MARLIN_ERR_IO);
    ml_file_close(f);
}

static void handles_read_faults(void **state) {
    (void)state;
    assert_int_equal(ml_file_write_atomic(path, "0123456789", 10, NULL), MARLIN_OK);
    for (int kind = 1; kind <= 3; kind++) {
        struct ml_file *f = NULL;
        char *data = NULL, part[4];
        size_t len = 0;
        const marlin_status want = kind == 2 ? MARLIN_ERR_IO : MARLIN_OK;
        ml_file_inject(1, kind);
        assert_int_equal(ml_file_slurp(path, 10, &data, &len, NULL), want);
        if (data) assert_string_equal(data, "0123456789");
        ml_free(data);
        assert_int_equal(ml_file_open(path, &f, NULL), MARLIN_OK);
        ml_file_inject(1, kind);
        assert_int_equal(ml_file_read(f, 3, part, 4, NULL), want);
        if (want == MARLIN_OK) assert_memory_equal(part, "3456", 4);
        ml_file_inject(0, 0);
        assert_int_equal(ml_file_read(f, 8, part, 4, NULL), MARLIN_ERR_ARGUMENT);
        ml_file_close(f);
    }
}

static void keeps_to_the_limit(void **state) {
    (void)state;
    char *data = NULL;
    size_t len = 0;
    assert_int_equal(ml_file_write_atomic(path, "0123456789", 10, NULL), MARLIN_OK);
    assert_int_equal(ml_file_slurp(path, 9, &data, &len, NULL), MARLIN_ERR_LIMIT);
    assert_null(data);
}

static void survives_failing_allocations(void **state) {
    (void)state;
    assert_int_equal(ml_file_write_atomic(path, "x", 1, NULL), MARLIN_OK);
    marlin_status st = MARLIN_ERR_MEMORY;
    for (uint64_t n = 1; st != MARLIN_OK && n < 20; n++) {
        struct ml_file *f = NULL;
        ml_mem_fail_at(n);
        st = ml_file_open(path, &f, NULL);
        ml_mem_fail_at(0);
        assert_true(st == MARLIN_OK ? f != NULL : st == MARLIN_ERR_MEMORY && !f);
        ml_file_close(f);
    }
    assert_int_equal(st, MARLIN_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_what_is_no_regular_file), cmocka_unit_test(survives_truncation),
        cmocka_unit_test(handles_read_faults), cmocka_unit_test(keeps_to_the_limit),
        cmocka_unit_test(survives_failing_allocations)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
