/* SPDX-License-Identifier: Apache-2.0
 *
 * The processors and physical cores that this process may use. Two processors of one core share its
 * arithmetic and its caches: for dense products one thread a core is as fast, and waits less for its twin.
 */
#ifndef ML_BASE_CORES_H
#define ML_BASE_CORES_H

#include <pthread.h>
#include <stdbool.h>

enum { ML_CORES_MAX = 1024 }; /* processors looked at */

struct ml_cores {
    int processors; /* that the affinity mask allows, at least 1 */
    int physical;   /* cores that these belong to; on Apple's chips performance cores alone */
    int usable; /* the same or what a quota of processor time (cgroups) pays for, rounded down; at least 1 */
    short core_of[ML_CORES_MAX]; /* of processor i: its core, numbered from 0 by first processor; -1: none */
};

/* Looked up once, when first asked for. Any thread. */
const struct ml_cores *ml_cores(void);

/* Binds a thread to the processors of one core, where the system can. `core` < physical. */
void ml_cores_pin(pthread_t thread, int core);

/* What the files of Linux below `root` ("" = the real ones) say of the processors i < n that are allowed. For
 * ml_cores and tests. */
void ml_cores_read(const char *root, const bool *allowed, int n, struct ml_cores *out);

#endif
