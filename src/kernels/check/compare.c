/* SPDX-License-Identifier: Apache-2.0
 *
 * One case of the kernel check: the reference, then the tier on the same operands, then every element.
 */
#include "kernels/check/check_int.h"

#include "base/fp.h"
#include "base/mem.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static const size_t size_of[] = {4, 2, 2, 1};

static double element(enum ml_check_type t, const void *p, size_t i) {
    float f;
    if (t == ML_CHECK_F32) {
        memcpy(&f, (const char *)p + 4 * i, 4);
        return f;
    }
    if (t == ML_CHECK_BYTES) return ((const unsigned char *)p)[i];
    const uint16_t h = ((const uint16_t *)p)[i];
    return t == ML_CHECK_F16 ? ml_f16_to_f32(h) : ml_bf16_to_f32(h);
}

static bool same_bytes(enum ml_check_type t, const void *a, const void *b, size_t i) {
    return memcmp((const char *)a + i * size_of[t], (const char *)b + i * size_of[t], size_of[t]) == 0;
}

static bool is_pattern(enum ml_check_type t, const void *p, size_t i) {
    char pattern[4];
    if (t == ML_CHECK_BYTES) return false; /* 0xa5 is a result like any other */
    ml_check_set_pattern(t, pattern, 0);
    return memcmp((const char *)p + i * size_of[t], pattern, size_of[t]) == 0;
}

/* How far off, in units of the tolerance; infinite where none is allowed. */
static double distance(const struct ml_check_result *r, size_t i, double got, double want) {
    if (isnan(got) && isnan(want)) return 0;
    if (got == want) return 0;
    if (!isfinite(got) || !isfinite(want)) return INFINITY;
    const double allowed = r->relative * (r->scale ? r->scale[i] : fabs(want)) + r->absolute;
    return allowed > 0 ? fabs(got - want) / allowed : INFINITY;
}

static void fail_case(struct ml_check *c, const char *text) {
    const struct ml_check_failure f = {.entry = c->row.entry,
                                       .variant = c->row.variant,
                                       .tier = c->row.tier,
                                       .params = c->params,
                                       .text = text};
    if (c->options->on_failure) c->options->on_failure(c->options->user, &f);
    c->row.failed++;
    c->total->failed++;
}

/* Writes the first difference to text; false when there is none. */
static bool differs(struct ml_check *c, const struct ml_check_block *b, char *text, size_t room) {
    const enum ml_check_type t = b->result.type;
    const void *got = b->memory.data;
    for (size_t i = 0; i < b->result.count; i++) {
        if (same_bytes(t, got, b->want, i)) continue;
        const double g = element(t, got, i), w = element(t, b->want, i);
        if (is_pattern(t, b->want, i)) {
            (void)snprintf(text, room, "element %zu is not the kernel's and became %.9g", i, g);
            return true;
        }
        const double off = is_pattern(t, got, i) ? INFINITY : distance(&b->result, i, g, w);
        if (off > c->row.worst) c->row.worst = off;
        if (off <= 1) continue;
        if (is_pattern(t, got, i))
            (void)snprintf(text, room, "element %zu was not written; it should be %.9g", i, w);
        else
            (void)snprintf(text, room, "element %zu is %.9g, not %.9g: %.3g times the tolerance", i, g, w,
                           off);
        return true;
    }
    return false;
}

struct call {
    ml_check_call_fn *fn;
    const struct ml_check_tables *tables;
    void *arg;
};

static void do_call(void *arg) {
    const struct call *call = arg;
    call->fn(call->tables, call->arg);
}

/* Signals of pool workers cannot be caught here: those cases are called bare. */
static int call_with(struct ml_check *c, const struct ml_check_tables *t, ml_check_call_fn *fn, void *arg) {
    struct call call = {fn, t, arg};
    if (!c->threads) return ml_guard_call(do_call, &call);
    do_call(&call);
    return 0;
}

static void *copy_of(struct ml_check *c, const struct ml_check_block *b) {
    void *p = ml_alloc(b->memory.bytes);
    if (!p) ml_check_no_memory(c, b->memory.bytes);
    memcpy(p, b->memory.data, b->memory.bytes);
    return p;
}

static void prepare(struct ml_check *c) {
    for (size_t i = 0; i < c->n_blocks; i++) {
        struct ml_check_block *b = &c->block[i];
        if (b->use == ML_CHECK_INPUT) ml_guard_protect(&b->memory);
        if (b->use == ML_CHECK_OUTPUT) b->before = copy_of(c, b);
    }
}

static void keep_reference(struct ml_check *c) {
    for (size_t i = 0; i < c->n_blocks; i++) {
        struct ml_check_block *b = &c->block[i];
        if (b->use != ML_CHECK_OUTPUT) continue;
        b->want = copy_of(c, b);
        memcpy(b->memory.data, b->before, b->memory.bytes);
    }
}

/* False, and text says why, when memory around an operand changed. */
static bool intact(const struct ml_check *c, const char *who, char *text, size_t room) {
    for (size_t i = 0; i < c->n_blocks; i++) {
        if (ml_guard_intact(&c->block[i].memory)) continue;
        (void)snprintf(text, room, "the %s wrote beside operand %zu", who, i);
        return false;
    }
    return true;
}

static bool called(struct ml_check *c, const struct ml_check_tables *t, ml_check_call_fn *fn, void *arg,
                   const char *who, char *text, size_t room) {
    const int sig = call_with(c, t, fn, arg);
    if (sig == 0) return intact(c, who, text, room);
    (void)snprintf(text, room, "the %s ended in signal %d (%s)", who, sig,
                   sig == SIGILL ? "an instruction that this processor lacks"
                                 : "memory outside its operands");
    return false;
}

void ml_check_compare_case(struct ml_check *c, ml_check_call_fn *fn, void *arg) {
    char text[256];
    c->total->checked++;
    prepare(c);
    bool good = called(c, c->reference, fn, arg, "reference", text, sizeof text);
    if (good) {
        keep_reference(c);
        good = called(c, c->tier, fn, arg, "kernel", text, sizeof text);
    }
    for (size_t i = 0; good && i < c->n_blocks; i++)
        if (c->block[i].use == ML_CHECK_OUTPUT) good = !differs(c, &c->block[i], text, sizeof text);
    if (!good) fail_case(c, text);
}
