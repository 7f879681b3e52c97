/* SPDX-License-Identifier: Apache-2.0
 *
 * SIGBUS inside one of our mappings means that somebody cut the file. The handler puts a page of zeros
 * there, marks the mapping, and lets the program go on to the next ml_file_check. Only async-signal-safe
 * calls and lock-free atomics are used. A bus error anywhere else goes to whoever handled it before us.
 */
#include "base/file_int.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SLOTS = 8192 }; /* twice the files that one model may have */

static struct slot {
    atomic_uintptr_t begin; /* 0 = free; 1 = being set up */
    atomic_uintptr_t end;
    atomic_bool hit;
} slots[SLOTS];

static struct sigaction previous;
static uintptr_t page_size;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void pass_on(int sig, siginfo_t *info, void *context) {
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(sig, info, context);
    } else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
        (void)signal(sig, SIG_DFL); /* returning repeats the access, now fatally */
    } else {
        previous.sa_handler(sig);
    }
}

static void on_bus_error(int sig, siginfo_t *info, void *context) {
    const uintptr_t at = (uintptr_t)info->si_addr;
    for (int i = 0; i < SLOTS; i++) {
        const uintptr_t begin = atomic_load(&slots[i].begin), end = atomic_load(&slots[i].end);
        if (begin <= 1 || at < begin || at >= end) continue;
        atomic_store(&slots[i].hit, true);
        void *page = (void *)(at / page_size * page_size);
        if (mmap(page, page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
            return;
    }
    pass_on(sig, info, context);
}

static void install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGBUS, &action, &previous);
}

int ml_file_guard_add(const void *data, size_t size) {
    (void)pthread_once(&once, install);
    for (int i = 0; i < SLOTS; i++) {
        uintptr_t expected = 0;
        if (!atomic_compare_exchange_strong(&slots[i].begin, &expected, 1)) continue;
        const uintptr_t pages = (size + page_size - 1) / page_size * page_size;
        atomic_store(&slots[i].hit, false);
        atomic_store(&slots[i].end, (uintptr_t)data + pages);
        atomic_store(&slots[i].begin, (uintptr_t)data);
        return i;
    }
    return -1;
}

void ml_file_guard_remove(int slot) {
    if (slot < 0) return;
    atomic_store(&slots[slot].end, 0);
    atomic_store(&slots[slot].begin, 0);
}

bool ml_file_guard_hit(int slot) {
    return slot >= 0 && atomic_load(&slots[slot].hit);
}
