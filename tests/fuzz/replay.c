/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a fuzz target without a fuzzer: over every file of the corpus, then over deterministic truncations,
 * bit flips, repeated stretches and hostile bytes of each. A missing or empty corpus is an error; a broken
 * property aborts.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MUTATIONS = 300, SECONDS = 4, INPUT_LIMIT = 16 << 20, PATH_BYTES = 4096 };

struct inputs {
    struct input {
        uint8_t *data;
        size_t size;
    } * all;
    size_t count;
};

static double now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int add_file(struct inputs *in, const char *path, size_t size) {
    FILE *f = size <= INPUT_LIMIT ? fopen(path, "rb") : NULL;
    struct input *grown = realloc(in->all, (in->count + 1) * sizeof *grown);
    if (grown) in->all = grown;
    uint8_t *data = malloc(size + 1);
    const int ok = f && grown && data && fread(data, 1, size, f) == size;
    if (f) (void)fclose(f);
    if (!ok) {
        (void)fprintf(stderr, "replay: cannot read %s\n", path);
        free(data);
        return 0;
    }
    in->all[in->count++] = (struct input){data, size};
    return 1;
}

static int hidden(const struct dirent *e) {
    return e->d_name[0] != '.';
}

/* Sorted, so that every run sees the same order. */
static int add_path(struct inputs *in, const char *path) {
    struct stat info;
    struct dirent **names;
    if (stat(path, &info) != 0) {
        (void)fprintf(stderr, "replay: %s does not exist\n", path);
        return 0;
    }
    if (!S_ISDIR(info.st_mode)) return add_file(in, path, (size_t)info.st_size);
    const int n = scandir(path, &names, hidden, alphasort);
    int ok = n >= 0;
    for (int i = 0; i < n; i++) {
        char child[PATH_BYTES];
        if ((size_t)snprintf(child, sizeof child, "%s/%s", path, names[i]->d_name) >= sizeof child) ok = 0;
        if (ok) ok = add_path(in, child);
        free(names[i]);
    }
    if (n >= 0) free(names);
    return ok;
}

static uint64_t next(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void flip_bits(uint8_t *data, size_t size, int flips, uint64_t *random) {
    for (; flips > 0; flips--) {
        data[next(random) % size] ^= (uint8_t)(1u << next(random) % 8);
    }
}

static void put_hostile_bytes(uint8_t *data, size_t size, int n, uint64_t *random) {
    static const uint8_t hostile[] = {0,   1,   0x7F, 0x80, 0xC3, 0xED, 0xFF, '0', '9',
                                      '-', 'e', '"',  '\\', '[',  '{',  '}',  ','};
    for (; n > 0; n--) {
        data[next(random) % size] = hostile[next(random) % sizeof hostile];
    }
}

/* A stretch of the input once more, somewhere else over what is there. */
static void repeat_stretch(uint8_t *data, size_t size, uint64_t *random) {
    const size_t from = (size_t)(next(random) % size), to = (size_t)(next(random) % size);
    const size_t most = size - (from > to ? from : to);
    memmove(data + to, data + from, 1 + (size_t)(next(random) % most));
}

/* A heap block of the exact size each time, so that a sanitizer sees a read past the end. */
static void mutate(const struct input *in, int round, uint64_t *random) {
    const int kind = round % 4;
    const size_t size = kind ? in->size : (size_t)(next(random) % (in->size + 1));
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy) abort();
    memcpy(copy, in->data, size);
    if (size && kind == 1) flip_bits(copy, size, 1 + round / 4 % 7, random);
    if (size && kind == 2) put_hostile_bytes(copy, size, 1 + round / 4 % 3, random);
    if (size && kind == 3) repeat_stretch(copy, size, random);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

int main(int argc, char **argv) {
    struct inputs in = {0};
    int ok = 1;
    for (int i = 1; i < argc; i++) {
        ok = add_path(&in, argv[i]) && ok;
    }
    if (!ok || in.count == 0) {
        (void)fprintf(stderr, "replay: no corpus\n");
        return 1;
    }
    unsigned long runs = 0;
    for (size_t i = 0; i < in.count; i++, runs++) {
        (void)LLVMFuzzerTestOneInput(in.all[i].data, in.all[i].size);
    }
    uint64_t random = 0x9e3779b97f4a7c15u;
    const double end = now() + SECONDS;
    for (int round = 0; round < MUTATIONS && now() < end; round++) {
        for (size_t i = 0; i < in.count && now() < end; i++, runs++) {
            mutate(&in.all[i], round, &random);
        }
    }
    printf("%zu files, %lu inputs: %lu passed, 0 failed\n", in.count, runs, runs);
    for (size_t i = 0; i < in.count; i++) {
        free(in.all[i].data);
    }
    free(in.all);
    return 0;
}
