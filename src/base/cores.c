/* SPDX-License-Identifier: Apache-2.0
 *
 * Cores from Linux' list of siblings in /sys, quotas from the cgroups of this process (versions 1 and 2).
 */
#include "base/cores.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

enum { PATH_BYTES = 1024, LINE_BYTES = 512 };

/* ---- cores ---- */

/* The first line of a file; false when there is none. */
static bool read_line(const char *path, char *line, size_t size) {
    FILE *f = fopen(path, "re");
    if (!f) return false;
    const bool read = fgets(line, (int)size, f) != NULL;
    (void)fclose(f);
    return read;
}

/* The first allowed processor of a list such as "0,64" or "0-1"; `own` when the list names none. */
static int first_allowed(const char *list, const bool *allowed, int n, int own) {
    while (*list) {
        char *end;
        const long from = strtol(list, &end, 10);
        if (end == list) break;
        const long to = *end == '-' ? strtol(end + 1, &end, 10) : from;
        for (long i = from < 0 ? 0 : from; i <= to && i < n; i++)
            if (allowed[i]) return (int)i;
        list = *end == ',' ? end + 1 : "";
    }
    return own;
}

static void read_cores(const char *root, const bool *allowed, int n, struct ml_cores *out) {
    char path[PATH_BYTES], line[LINE_BYTES];
    for (int i = 0; i < n; i++) {
        if (!allowed[i]) continue;
        out->processors++;
        (void)snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                       root, i);
        const int first = read_line(path, line, sizeof line) ? first_allowed(line, allowed, n, i) : i;
        out->core_of[i] = first < i ? out->core_of[first] : (short)out->physical++;
    }
}

/* ---- quotas: microseconds of processor time in a period ---- */

static int smaller(int a, int b) {
    return a < b ? a : b;
}

/* Version 2: "max 100000" or "150000 100000". */
static int quota_of_v2(const char *folder) {
    char path[PATH_BYTES], line[LINE_BYTES], *end;
    if (snprintf(path, sizeof path, "%s/cpu.max", folder) >= PATH_BYTES) return ML_CORES_MAX;
    if (!read_line(path, line, sizeof line)) return ML_CORES_MAX;
    const double quota = strtod(line, &end), period = strtod(end, NULL);
    if (end == line || !(period > 0)) return ML_CORES_MAX;
    return quota < period * ML_CORES_MAX ? (int)(quota / period) : ML_CORES_MAX;
}

/* Version 1: -1 for no limit, and the period in a file of its own. */
static int quota_of_v1(const char *folder) {
    char path[PATH_BYTES], quota[LINE_BYTES], period[LINE_BYTES];
    if (snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder) >= PATH_BYTES ||
        !read_line(path, quota, sizeof quota) ||
        snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder) >= PATH_BYTES ||
        !read_line(path, period, sizeof period))
        return ML_CORES_MAX;
    const double q = strtod(quota, NULL), p = strtod(period, NULL);
    return q > 0 && p > 0 && q < p * ML_CORES_MAX ? (int)(q / p) : ML_CORES_MAX;
}

/* The least of a group and of all that it is in. In a container the path may be the host's: what is not there
 * does not count, the root of the tree is looked at in any case. */
static int least_quota(const char *tree, const char *group, int (*quota_of)(const char *)) {
    char folder[PATH_BYTES];
    const size_t top = strlen(tree);
    if (snprintf(folder, sizeof folder, "%s%s", tree, group) >= PATH_BYTES) return quota_of(tree);
    int least = ML_CORES_MAX;
    for (;;) {
        least = smaller(least, quota_of(folder));
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < top) return least;
        *slash = '\0';
    }
}

/* True when `list` ("cpu,cpuacct") has the word "cpu". */
static bool names_cpu(const char *list) {
    for (; *list; list += strcspn(list, ","), list += *list == ',')
        if (strcspn(list, ",") == 3 && strncmp(list, "cpu", 3) == 0) return true;
    return false;
}

/* A line of /proc/self/cgroup is "number:controllers:path"; version 2 has no controllers. */
static int quota_of_line(const char *root, char *line) {
    char tree[PATH_BYTES];
    line[strcspn(line, "\n")] = '\0';
    char *list = strchr(line, ':'), *group = list ? strchr(list + 1, ':') : NULL;
    if (!group) return ML_CORES_MAX;
    *list++ = *group++ = '\0';
    const bool second = !*list;
    if (!second && !names_cpu(list)) return ML_CORES_MAX;
    (void)snprintf(tree, sizeof tree, "%s/sys/fs/cgroup%s%s", root, second ? "" : "/", list);
    return least_quota(tree, group, second ? quota_of_v2 : quota_of_v1);
}

static int read_quota(const char *root) {
    char path[PATH_BYTES], line[LINE_BYTES];
    int least = ML_CORES_MAX;
    (void)snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    if (!f) return least;
    while (fgets(line, sizeof line, f))
        least = smaller(least, quota_of_line(root, line));
    (void)fclose(f);
    return least < 1 ? 1 : least;
}

void ml_cores_read(const char *root, const bool *allowed, int n, struct ml_cores *out) {
    memset(out, 0, sizeof *out);
    memset(out->core_of, -1, sizeof out->core_of);
    read_cores(root, allowed, n, out);
    out->usable = smaller(out->physical, read_quota(root));
}

/* ---- this machine ---- */

static struct ml_cores here;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Where neither the mask nor the topology is known: every processor counts as a core. */
static void by_count(struct ml_cores *out) {
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    out->processors = out->physical = out->usable = n > 0 ? (int)n : 1;
    memset(out->core_of, -1, sizeof out->core_of);
#if defined(__APPLE__)
    int cores;
    size_t size = sizeof cores;
    if ((sysctlbyname("hw.perflevel0.physicalcpu", &cores, &size, NULL, 0) == 0 ||
         sysctlbyname("hw.physicalcpu", &cores, &size, NULL, 0) == 0) &&
        cores > 0)
        out->physical = out->usable = cores;
#endif
}

static void detect(void) {
#if defined(__linux__)
    cpu_set_t set;
    bool allowed[ML_CORES_MAX];
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        for (int i = 0; i < ML_CORES_MAX; i++)
            allowed[i] = i < CPU_SETSIZE && CPU_ISSET(i, &set);
        ml_cores_read("", allowed, ML_CORES_MAX, &here);
        if (here.processors > 0) return;
    }
#endif
    by_count(&here);
}

const struct ml_cores *ml_cores(void) {
    (void)pthread_once(&once, detect);
    return &here;
}

void ml_cores_pin(pthread_t thread, int core) {
#if defined(__linux__)
    const struct ml_cores *c = ml_cores();
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int i = 0; i < ML_CORES_MAX && i < CPU_SETSIZE; i++)
        if (c->core_of[i] == core) CPU_SET(i, &set);
    if (CPU_COUNT(&set) > 0) (void)pthread_setaffinity_np(thread, sizeof set, &set);
#else
    (void)thread;
    (void)core;
#endif
}
