/* SPDX-License-Identifier: Apache-2.0
 *
 * Processors, cores and quotas, read from made-up trees of /sys and /proc.
 */
#include "base/cores.h"
#include "base/cpu.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "folders.h"

enum { PROCESSORS = 8 };

static char root[] = "/tmp/ml_cores_XXXXXX";
static const bool all[PROCESSORS] = {true, true, true, true, true, true, true, true};

static void put(const char *name, const char *text) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s%s", root, name);
    for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = '\0';
        if (mkdir(path, 0700) != 0) assert_int_equal(errno, EEXIST);
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void put_siblings(int cpu, const char *list) {
    char name[128];
    (void)snprintf(name, sizeof name, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    put(name, list);
}

static int fresh(void **state) {
    (void)state;
    remove_tree(root);
    return mkdir(root, 0700);
}

static struct ml_cores read_of(const bool *allowed) {
    struct ml_cores c;
    ml_cores_read(root, allowed, PROCESSORS, &c);
    return c;
}

/* Twins far apart, as most firmware numbers them: 0,4 1,5 2,6 3,7. */
static void twins(void **state) {
    (void)state;
    static const bool some[PROCESSORS] = {[1] = true, [4] = true, [5] = true, [7] = true};
    for (int i = 0; i < PROCESSORS; i++) {
        char list[16];
        (void)snprintf(list, sizeof list, "%d,%d\n", i % 4, i % 4 + 4);
        put_siblings(i, list);
    }
    struct ml_cores c = read_of(all);
    assert_int_equal(c.processors, 8);
    assert_int_equal(c.physical, 4);
    assert_int_equal(c.usable, 4);
    for (int i = 0; i < PROCESSORS; i++)
        assert_int_equal(c.core_of[i], i % 4);
    assert_int_equal(c.core_of[PROCESSORS], -1);
    c = read_of(some); /* 0 and 3 are not allowed: their twins stand for the core */
    assert_int_equal(c.processors, 4);
    assert_int_equal(c.physical, 3);
    assert_int_equal(c.core_of[0], -1);
    assert_int_equal(c.core_of[1], 0);
    assert_int_equal(c.core_of[4], 1);
    assert_int_equal(c.core_of[5], 0);
    assert_int_equal(c.core_of[7], 2);
}

/* Ranges, a core of four, and files that are missing or make no sense: such processors are cores. */
static void odd_lists(void **state) {
    (void)state;
    put_siblings(0, "0-3\n");
    put_siblings(1, "0-3\n");
    put_siblings(2, "0-1,2-3\n");
    put_siblings(3, "0-3\n");
    put_siblings(4, "");
    put_siblings(5, "nonsense\n");
    put_siblings(6, "900\n");
    const struct ml_cores c = read_of(all);
    assert_int_equal(c.processors, 8);
    assert_int_equal(c.physical, 5);
    assert_int_equal(c.core_of[3], 0);
    for (int i = 4; i < PROCESSORS; i++)
        assert_int_equal(c.core_of[i], i - 3);
}

static void quota_of_version_2(void **state) {
    (void)state;
    put("/proc/self/cgroup", "0::/work/inner\n");
    assert_int_equal(read_of(all).usable, 8);
    put("/sys/fs/cgroup/work/inner/cpu.max", "max 100000\n");
    assert_int_equal(read_of(all).usable, 8);
    put("/sys/fs/cgroup/work/cpu.max", "350000 100000\n"); /* of the group around it */
    assert_int_equal(read_of(all).usable, 3);
    put("/sys/fs/cgroup/work/inner/cpu.max", "20000 50000\n"); /* less than one */
    assert_int_equal(read_of(all).usable, 1);
    put("/proc/self/cgroup", "0::/../elsewhere\n"); /* a path of the host, seen in a container */
    assert_int_equal(read_of(all).usable, 8);
    put("/sys/fs/cgroup/cpu.max", "200000 100000\n");
    assert_int_equal(read_of(all).usable, 2);
    assert_int_equal(read_of(all).physical, 8);
}

static void quota_of_version_1(void **state) {
    (void)state;
    put("/proc/self/cgroup", "9:name=systemd:/\n3:cpuset:/a\n2:cpu,cpuacct:/a\n0::/\n");
    put("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
    assert_int_equal(read_of(all).usable, 8);
    put("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "250000\n");
    assert_int_equal(read_of(all).usable, 2);
    put("/sys/fs/cgroup/cpuset/a/cpu.cfs_quota_us", "100000\n"); /* not the controller */
    put("/sys/fs/cgroup/cpuset/a/cpu.cfs_period_us", "100000\n");
    assert_int_equal(read_of(all).usable, 2);
}

static void bad_quotas(void **state) {
    (void)state;
    static const char *const lines[] = {"",      "\n",        "100000\n", "1 0\n",
                                        "x y\n", "-1 -100\n", "nan 1\n",  "1e300 1\n"};
    put("/proc/self/cgroup", "0::/\nnonsense\n:\n1:cpu\n");
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        put("/sys/fs/cgroup/cpu.max", lines[i]);
        assert_int_equal(read_of(all).usable, 8);
    }
}

static void this_machine(void **state) {
    (void)state;
    const struct ml_cores *c = ml_cores();
    assert_in_range(c->usable, 1, c->physical);
    assert_in_range(c->physical, 1, c->processors);
    assert_int_equal(ml_cpu()->cores, c->usable);
    assert_int_equal(ml_cpu()->processors, c->processors);
}

int main(void) {
    if (!mkdtemp(root)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(twins, fresh),
        cmocka_unit_test_setup(odd_lists, fresh),
        cmocka_unit_test_setup(quota_of_version_2, fresh),
        cmocka_unit_test_setup(quota_of_version_1, fresh),
        cmocka_unit_test_setup(bad_quotas, fresh),
        cmocka_unit_test(this_machine),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_tree(root);
    return failed;
}
