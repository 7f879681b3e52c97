/* SPDX-License-Identifier: Apache-2.0
 *
 * Files and directories that are not what they seem: hostile inputs 9, 10 and 17. Every error names the file.
 */
#include "base/file.h"
#include "base/log.h"
#include "converters/hf_config.h"
#include "converters/safetensors.h"
#include "unit/converters/support.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static struct sigaction
    guard; /* the library's handler of SIGBUS, which cmocka puts its own over before every test */

static int begin(void **state) {
    struct ml_file *f = NULL;
    if (make_test_dir(state) != 0 || ml_file_open(MARLIN_SOURCE_DIR "/LICENSE", &f, NULL) != MARLIN_OK)
        return -1;
    ml_file_close(f);
    return sigaction(SIGBUS, NULL, &guard);
}

/* A load that would wait for ever ends the test instead. */
static int fresh(void **state) {
    (void)state;
    (void)alarm(60);
    return 0;
}

static void refuse_dir(marlin_status code, const char *name, const char *part) {
    struct ml_tensors *t = NULL;
    struct marlin_error err = {0};
    const marlin_status st = ml_tensors_open_dir(test_dir, &t, &err);
    ml_tensors_close(t);
    assert_error(st, &err, code, part);
    if (!strstr(err.text, name)) fail_msg("%s is not in: %s", name, err.text);
}

static void refuse_file(const char *path, marlin_status code, const char *part) {
    struct ml_tensors *t = NULL;
    struct marlin_error err = {0};
    const marlin_status st = ml_tensors_open_file(path, &t, &err);
    ml_tensors_close(t);
    assert_error(st, &err, code, part);
    if (!strstr(err.text, path)) fail_msg("%s is not in: %s", path, err.text);
}

static struct ml_tensors *open_dir(void) {
    struct ml_tensors *t = NULL;
    struct marlin_error err = {0};
    assert_ok(ml_tensors_open_dir(test_dir, &t, &err), &err);
    return t;
}

/* ---- 9: what is no file, and files that change ---- */

static void no_regular_files(void **state) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)state;
    refuse_file("/dev/zero", MARLIN_ERR_IO, "is a device");
    refuse_file("/dev/random", MARLIN_ERR_IO, "is a device");
    refuse_file(test_dir, MARLIN_ERR_IO, "is a directory");
    refuse_file(in_dir("none.safetensors"), MARLIN_ERR_NOT_FOUND, "cannot open");

    assert_int_equal(mkfifo(in_dir("x.safetensors"), 0600), 0);
    refuse_dir(MARLIN_ERR_IO, "x.safetensors", "is a FIFO");
    assert_int_equal(unlink(in_dir("x.safetensors")), 0);

    assert_int_equal(mkdir(in_dir("x.safetensors"), 0700), 0);
    refuse_dir(MARLIN_ERR_IO, "x.safetensors", "is a directory");
    assert_int_equal(rmdir(in_dir("x.safetensors")), 0);

    (void)snprintf(address.sun_path, sizeof address.sun_path, "%.90s/x.safetensors", test_dir);
    const int s = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(s, (struct sockaddr *)&address, sizeof address), 0);
    refuse_dir(MARLIN_ERR_IO, "x.safetensors", "is a socket");
    (void)close(s);
}

static void refuse_other_dir(const char *dir, marlin_status code) {
    struct ml_tensors *t = NULL;
    struct marlin_error err = {0};
    const marlin_status st = ml_tensors_open_dir(dir, &t, &err);
    ml_tensors_close(t);
    assert_error(st, &err, code, dir);
}

static void no_directories(void **state) {
    (void)state;
    write_one(in_dir("model.safetensors"), "a", 4);
    refuse_other_dir(in_dir("none"), MARLIN_ERR_NOT_FOUND);
    refuse_other_dir(in_dir("model.safetensors"), MARLIN_ERR_IO);
    refuse_other_dir("/dev/zero", MARLIN_ERR_IO);
    assert_int_equal(mkfifo(in_dir("fifo"), 0600), 0);
    refuse_other_dir(in_dir("fifo"), MARLIN_ERR_IO);
    char longest[6000];
    memset(longest, 'd', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    struct ml_tensors *t = NULL;
    struct marlin_error err = {0};
    assert_error(ml_tensors_open_dir(longest, &t, &err), &err, MARLIN_ERR_LIMIT, "path too long");
}

static void shorter_than_promised(void **state) {
    static const char header[] = "{\"t\":{\"dtype\":\"U8\",\"shape\":[1000],\"data_offsets\":[0,1000]}}";
    (void)state;
    for (size_t have = 0; have < 1000; have += 333) {
        write_safetensors(in_dir("model.safetensors"), header, have);
        refuse_dir(MARLIN_ERR_FORMAT, "model.safetensors", "tensor \"t\" ends at 1000, but the file has");
    }
    write_safetensors(in_dir("model.safetensors"), header, 1001);
    refuse_dir(MARLIN_ERR_FORMAT, "model.safetensors",
               "tensors end at 1000, the file has 1001 bytes of data");
}

/* The data of a mapped file that was cut reads as zeros, and the check says so. */
static void truncated_while_mapped(void **state) {
    enum { N = 1 << 20 };
    (void)state;
    write_one(in_dir("model.safetensors"), "a", N);
    struct ml_tensors *t = open_dir();
    const struct ml_tensor *a = ml_tensors_find(t, "a");
    struct marlin_error err = {0};
    assert_non_null(a);
    assert_ok(ml_tensors_check(t, &err), &err);
    assert_int_equal(sigaction(SIGBUS, &guard, NULL), 0);
    assert_int_equal(truncate(in_dir("model.safetensors"), 200), 0);
    unsigned sum = 0;
    for (size_t i = N / 2; i < N; i++) {
        sum += a->data[i];
    }
    assert_int_equal(sum, 0);
    assert_error(ml_tensors_check(t, &err), &err, MARLIN_ERR_IO,
                 "model.safetensors: the file was truncated while in use");
    ml_tensors_close(t);
}

static void growing_while_mapped(void **state) {
    (void)state;
    write_one(in_dir("model.safetensors"), "a", 300);
    struct ml_tensors *t = open_dir();
    struct marlin_error err = {0};
    assert_int_equal(truncate(in_dir("model.safetensors"), 1 << 20), 0);
    assert_ok(ml_tensors_check(t, &err), &err); /* what was there is there */
    assert_int_equal(ml_tensors_find(t, "a")->data[255], 255);
    ml_tensors_close(t);
    refuse_dir(MARLIN_ERR_FORMAT, "model.safetensors", "bytes of data");
}

/* ---- 10: the index ---- */

static void write_index(const char *map) {
    char text[4096];
    (void)snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":8},\"weight_map\":%s}", map);
    write_text(in_dir("model.safetensors.index.json"), text);
}

static void refuse_index(const char *map, marlin_status code, const char *part) {
    write_index(map);
    refuse_dir(code, "/", part);
}

static void count_line(void *user, enum ml_log_level level, const char *text) {
    (void)level;
    assert_non_null(strstr(text, "in none of the files"));
    ++*(int *)user;
}

static void accept_index(const char *map, size_t tensors, int warnings) {
    int lines = 0;
    write_index(map);
    ml_log_set(count_line, &lines, ML_LOG_WARN);
    struct ml_tensors *t = open_dir();
    ml_log_set(NULL, NULL, ML_LOG_WARN);
    assert_int_equal(ml_tensors_count(t), tensors);
    assert_int_equal(lines, warnings);
    ml_tensors_close(t);
}

static void two_shards(void) {
    write_one(in_dir("one.safetensors"), "a", 4);
    write_one(in_dir("two.safetensors"), "b", 4);
}

static void names_in_the_index(void **state) {
    static const char *const outside[] = {"../../etc/passwd",
                                          "/etc/passwd",
                                          "../one.safetensors",
                                          "sub/one.safetensors",
                                          "./one.safetensors",
                                          ".one.safetensors",
                                          "one.safetensors/",
                                          "one.bin",
                                          "",
                                          "..",
                                          "one.safetensors\\u000a",
                                          "one .safetensors",
                                          "~root/x.safetensors",
                                          "C:x.safetensors",
                                          "%2e%2e/x.safetensors",
                                          "\\\\\\\\host\\\\x.safetensors"};
    char map[512];
    (void)state;
    two_shards();
    write_index("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}");
    struct ml_tensors *t = open_dir();
    assert_int_equal(ml_tensors_count(t), 2);
    ml_tensors_close(t);
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        (void)snprintf(map, sizeof map, "{\"a\":\"one.safetensors\",\"b\":\"%s\"}", outside[i]);
        refuse_index(map, MARLIN_ERR_FORMAT,
                     "index.json: shard of \"b\" is not a plain .safetensors file name");
    }
    refuse_index("{\"a\":7}", MARLIN_ERR_FORMAT,
                 "shard of \"a\" is not a plain .safetensors file name: \"number\"");
    refuse_index("{\"a\":null}", MARLIN_ERR_FORMAT, "shard of \"a\" is not a plain");
    refuse_index("{\"a\":[\"one.safetensors\"]}", MARLIN_ERR_FORMAT, "shard of \"a\" is not a plain");
}

static void index_that_lies(void **state) {
    (void)state;
    two_shards();
    refuse_index("{\"a\":\"one.safetensors\",\"b\":\"three.safetensors\"}", MARLIN_ERR_NOT_FOUND,
                 "three.safetensors");
    /* Where a tensor is, the files say. */
    accept_index("{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}", 1,
                 1); /* one.safetensors has no b */
    accept_index("{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}", 2, 0);
    accept_index("{\"a\":\"one.safetensors\",\"c\":\"two.safetensors\"}", 2, 1);
    refuse_index("{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}", MARLIN_ERR_FORMAT,
                 "duplicate key \"a\"");
    write_safetensors(in_dir("two.safetensors"),
                      "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                      "\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
                      2);
    accept_index("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}", 3, 0);
    write_text(in_dir("two.safetensors"), "short");
    refuse_index("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}", MARLIN_ERR_FORMAT,
                 "two.safetensors: 5 bytes are too few");
}

/* A tensor in two shards: the index decides, else the order of the files. */
static void a_tensor_in_two_shards(void **state) {
    static const char *const maps[] = {
        "{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}",
        "{\"b\":\"two.safetensors\",\"a\":\"two.safetensors\",\"x\":\"one.safetensors\"}",
        "{\"x\":\"two.safetensors\",\"y\":\"one.safetensors\"}"};
    static const uint64_t sizes[] = {4, 1, 1}; /* of "a": which it is */
    (void)state;
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        two_shards();
        write_one(in_dir("one.safetensors"), "a", 4);
        write_safetensors(in_dir("two.safetensors"),
                          "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                          "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
                          2);
        write_index(maps[i]);
        struct ml_tensors *t = open_dir();
        assert_int_equal(ml_tensors_count(t), 2);
        assert_int_equal(ml_tensors_find(t, "a")->bytes, sizes[i]);
        assert_int_equal(ml_tensors_find(t, "b")->bytes, 1);
        for (size_t k = 0; k < 2; k++) /* the list and the names agree */
            assert_ptr_equal(ml_tensors_find(t, ml_tensors_at(t, k)->name), ml_tensors_at(t, k));
        assert_null(ml_tensors_at(t, 2));
        assert_int_equal(ml_tensors_bytes(t), sizes[i] + 1);
        ml_tensors_close(t);
    }
}

/* model.safetensors is the whole model: variants, second downloads and an index left over are not of it. */
static void a_single_file(void **state) {
    (void)state;
    two_shards();
    write_index("{\"a\":\"gone.safetensors\"}");
    write_one(in_dir("model.safetensors"), "c", 4);
    write_one(in_dir("model (1).safetensors"), "c", 4);
    write_one(in_dir("model.fp16.safetensors"), "c", 2);
    struct ml_tensors *t = open_dir();
    assert_int_equal(ml_tensors_count(t), 1);
    assert_int_equal(ml_tensors_find(t, "c")->bytes, 4);
    ml_tensors_close(t);
}

static void index_that_is_none(void **state) {
    static const char *const texts[] = {"",
                                        "{",
                                        "[]",
                                        "{}",
                                        "null",
                                        "{\"weight_map\":{}}",
                                        "{\"weight_map\":[1]}",
                                        "{\"weight_map\":\"one.safetensors\"}",
                                        "\xef\xbb\xbf{}"};
    (void)state;
    two_shards();
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        write_text(in_dir("model.safetensors.index.json"), texts[i]);
        refuse_dir(MARLIN_ERR_FORMAT, "model.safetensors.index.json", "index.json: ");
    }
    refuse_index("{\"a\":{\"b\":{\"c\":{\"d\":1}}}}", MARLIN_ERR_LIMIT,
                 "index.json: JSON: nested deeper than 4");
    write_text(in_dir("model.safetensors.index.json"), "");
    assert_int_equal(truncate(in_dir("model.safetensors.index.json"), (off_t)500 << 20), 0);
    refuse_dir(MARLIN_ERR_LIMIT, "model.safetensors.index.json", "more than the limit");
}

static void a_tensor_in_two_files_without_an_index(void **state) {
    (void)state;
    two_shards();
    write_one(in_dir("three.safetensors"), "b", 9);
    refuse_dir(MARLIN_ERR_FORMAT, "two.safetensors", "tensor \"b\" is in another file too");
}

static void too_many_files(void **state) {
    char name[64];
    (void)state;
    for (int i = 0; i <= 4096; i++) {
        (void)snprintf(name, sizeof name, "%d.safetensors", i);
        write_text(in_dir(name), "");
    }
    refuse_dir(MARLIN_ERR_LIMIT, "", "more than 4096 safetensors files in one directory");
}

/* ---- links ---- */

static void links_in_circles(void **state) {
    (void)state;
    assert_int_equal(symlink("b.safetensors", in_dir("a.safetensors")), 0);
    assert_int_equal(symlink("a.safetensors", in_dir("b.safetensors")), 0);
    refuse_dir(MARLIN_ERR_IO, "a.safetensors", "cannot follow the link");
    (void)clear_test_dir(state);
    two_shards();
    assert_int_equal(symlink("model.safetensors.index.json", in_dir("model.safetensors.index.json")), 0);
    refuse_dir(MARLIN_ERR_IO, "model.safetensors.index.json", "cannot open"); /* not taken for no index */
}

/* They are the user's own: followed wherever they lead, and what is no file is refused by its kind. */
static void links_that_leave(void **state) {
    char target[PATH_MAX];
    (void)state;
    assert_int_equal(symlink("/dev/zero", in_dir("a.safetensors")), 0);
    refuse_dir(MARLIN_ERR_IO, "a.safetensors", "a.safetensors");
    assert_int_equal(unlink(in_dir("a.safetensors")), 0);
    assert_int_equal(symlink("/etc/passwd", in_dir("a.safetensors")), 0);
    refuse_dir(MARLIN_ERR_FORMAT, "a.safetensors", "not a safetensors file");
    assert_int_equal(unlink(in_dir("a.safetensors")), 0);
    assert_int_equal(symlink("nothing", in_dir("a.safetensors")), 0);
    refuse_dir(MARLIN_ERR_IO, "a.safetensors", "cannot follow the link to nothing");
    assert_int_equal(unlink(in_dir("a.safetensors")), 0);
    (void)snprintf(target, sizeof target, "%.4000s-beside", test_dir);
    write_one(target, "a", 4);
    assert_int_equal(symlink(target, in_dir("a.safetensors")), 0);
    ml_tensors_close(open_dir());
    assert_int_equal(unlink(target), 0);
    assert_int_equal(unlink(in_dir("a.safetensors")), 0);
    write_one(in_dir("blob"), "a", 4);
    assert_int_equal(symlink("blob", in_dir("a.safetensors")), 0);
    ml_tensors_close(open_dir());
}

/* ---- 17: two at once, a full disk ---- */

static void *load_often(void *arg) {
    for (int i = 0; i < 50; i++) {
        struct ml_tensors *t = NULL;
        struct marlin_error err = {0};
        struct ml_config *c = NULL;
        if (ml_tensors_open_dir(test_dir, &t, &err) != MARLIN_OK || ml_tensors_count(t) != 2 ||
            ml_tensors_find(t, "b")->data[3] != 3 || ml_tensors_check(t, &err) != MARLIN_OK)
            *(int *)arg += 1;
        if (ml_config_load(MARLIN_SOURCE_DIR "/models/marlin-chat", &c, &err) != MARLIN_OK) *(int *)arg += 1;
        ml_config_free(c);
        ml_tensors_close(t);
    }
    return NULL;
}

static void two_loads_at_once(void **state) {
    pthread_t threads[4];
    int failures[4] = {0};
    (void)state;
    two_shards();
    write_index("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}");
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, load_often, &failures[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(failures[i], 0);
    }
}

/* A limit on file sizes fails a write as a full disk does: the old file stays, and nothing else is left. */
static void full_disk(void **state) {
    static const uint8_t data[1 << 16];
    const struct ml_tensor_decl decl = {.name = "t", .dtype = ML_U8, .rank = 1, .shape = {sizeof data}};
    struct rlimit old;
    struct ml_tensors_writer *w = NULL;
    struct marlin_error err = {0};
    (void)state;
    write_one(in_dir("model.safetensors"), "old", 4);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    const struct rlimit small = {.rlim_cur = 4096, .rlim_max = old.rlim_max};
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    marlin_status st = ml_tensors_writer_open(in_dir("model.safetensors"), &decl, 1, NULL, 0, &w, &err);
    if (st == MARLIN_OK) st = ml_tensors_writer_put(w, "t", data, sizeof data, &err);
    if (st == MARLIN_OK)
        st = ml_tensors_writer_commit(w, &err);
    else
        ml_tensors_writer_abort(w);
    const marlin_status whole = ml_file_write_atomic(in_dir("model.safetensors"), data, sizeof data, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_error(st, &err, MARLIN_ERR_IO, "model.safetensors");
    assert_int_equal(whole, MARLIN_ERR_IO);
    struct ml_tensors *t = open_dir();
    assert_non_null(ml_tensors_find(t, "old"));
    ml_tensors_close(t);
    assert_int_equal(unlink(in_dir("model.safetensors")), 0);
    assert_int_equal(rmdir(test_dir), 0); /* empty: no temporary file stayed */
    assert_int_equal(mkdir(test_dir, 0700), 0);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh, clear_test_dir)
    const struct CMUnitTest tests[] = {
        TEST(no_regular_files),
        TEST(no_directories),
        TEST(shorter_than_promised),
        TEST(truncated_while_mapped),
        TEST(growing_while_mapped),
        TEST(names_in_the_index),
        TEST(index_that_lies),
        TEST(index_that_is_none),
        TEST(a_tensor_in_two_shards),
        TEST(a_single_file),
        TEST(a_tensor_in_two_files_without_an_index),
        TEST(too_many_files),
        TEST(links_in_circles),
        TEST(links_that_leave),
        TEST(two_loads_at_once),
        TEST(full_disk),
    };
    return cmocka_run_group_tests(tests, begin, remove_test_dir);
}
