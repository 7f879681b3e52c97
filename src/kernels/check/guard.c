/* SPDX-License-Identifier: Apache-2.0
 *
 * Guarded memory and guarded calls.
 */
#include "kernels/check/guard.h"

#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

bool ml_guard_make(struct ml_guard *g, size_t bytes, bool at_end, size_t align, size_t slack) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (bytes > SIZE_MAX / 2 || slack > page) return false;
    *g = (struct ml_guard){.bytes = bytes, .page_bytes = (bytes + slack + page - 1) / page * page};
    g->map_bytes = g->page_bytes + 2 * page;
    g->map = mmap(NULL, g->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->map == MAP_FAILED) return false;
    g->pages = g->map + page;
    if (g->page_bytes && mprotect(g->pages, g->page_bytes, PROT_READ | PROT_WRITE) != 0) {
        ml_guard_free(g);
        return false;
    }
    const size_t room = g->page_bytes - bytes - slack;
    g->data = g->pages + (at_end ? room / align * align : 0);
    memset(g->pages, ML_GUARD_PATTERN, (size_t)(g->data - g->pages));
    memset(g->data + bytes, ML_GUARD_PATTERN, (size_t)(g->pages + g->page_bytes - g->data) - bytes);
    return true;
}

void ml_guard_free(struct ml_guard *g) {
    if (g->map) (void)munmap(g->map, g->map_bytes);
    *g = (struct ml_guard){0};
}

void ml_guard_protect(struct ml_guard *g) {
    if (g->page_bytes) (void)mprotect(g->pages, g->page_bytes, PROT_READ);
}

static bool is_pattern(const char *p, const char *end) {
    for (; p < end; p++)
        if ((unsigned char)*p != ML_GUARD_PATTERN) return false;
    return true;
}

bool ml_guard_intact(const struct ml_guard *g) {
    return is_pattern(g->pages, g->data) && is_pattern(g->data + g->bytes, g->pages + g->page_bytes);
}

static const int caught[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
enum { N_CAUGHT = sizeof caught / sizeof *caught };
static sigjmp_buf back;

static void leave(int sig, siginfo_t *info, void *context) {
    (void)info;
    (void)context;
    siglongjmp(back, sig);
}

int ml_guard_call(void (*fn)(void *arg), void *arg) {
    struct sigaction before[N_CAUGHT], action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = leave;
    action.sa_flags = SA_SIGINFO;
    (void)sigemptyset(&action.sa_mask);
    for (int i = 0; i < N_CAUGHT; i++)
        (void)sigaction(caught[i], &action, &before[i]);
    const int sig = sigsetjmp(back, 1);
    if (sig == 0) fn(arg);
    for (int i = 0; i < N_CAUGHT; i++)
        (void)sigaction(caught[i], &before[i], NULL);
    return sig;
}
