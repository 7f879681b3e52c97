/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the files of the kernel check's frame.
 */
#ifndef ML_KERNELS_CHECK_CHECK_INT_H
#define ML_KERNELS_CHECK_CHECK_INT_H

#include "base/rng.h"
#include "kernels/check.h"
#include "kernels/check/guard.h"

#include <math.h>
#include <setjmp.h>

enum { ML_CHECK_BLOCKS = 16, ML_CHECK_PARAMS = 192 };

enum ml_check_use { ML_CHECK_INPUT, ML_CHECK_SCRATCH, ML_CHECK_OUTPUT };

struct ml_check_block {
    enum ml_check_use use;
    struct ml_guard memory;
    struct ml_check_result result; /* of an output */
    void *before, *want;           /* its contents before any call and after the reference's */
};

struct ml_check {
    const struct ml_check_options *options;
    struct ml_check_total *total;
    struct ml_check_tables table[ML_CPU_TIERS];
    const struct ml_check_tables *reference, *below, *tier; /* below: NULL for the lowest */
    const struct ml_check_family *family;
    struct ml_rng rng;
    struct ml_check_row row;
    struct ml_peak_reader *reader;
    jmp_buf leave;
    char trouble[256];
    /* the case */
    char params[ML_CHECK_PARAMS];
    struct ml_check_block block[ML_CHECK_BLOCKS];
    size_t n_blocks;
    void (*release[ML_CHECK_BLOCKS])(void *object);
    void *object[ML_CHECK_BLOCKS];
    size_t n_deferred;
    double bytes, operations;
    size_t bits;                /* the parameter of that name, else 0 */
    size_t walked, walked_bits; /* cases of the row so far, taken or left out; bits of the last one */
    bool decided, taken; /* whether it is known already that a sample has the case; and whether it has */
    enum ml_peak_kind kind;
    bool threads, streams;
};

/* Whether the case runs, or is one that a sample leaves out. Asked first after the parameter "bits" is known. */
bool ml_check_is_taken(struct ml_check *c);

void ml_check_end_row(struct ml_check *c);
void ml_check_release(struct ml_check *c);
void ml_check_no_memory(struct ml_check *c, size_t bytes) __attribute__((noreturn));

/* Element i becomes the pattern. */
void ml_check_set_pattern(enum ml_check_type t, void *p, size_t i);

void ml_check_compare_case(struct ml_check *c, ml_check_call_fn *fn, void *arg);
void ml_check_time_case(struct ml_check *c, ml_check_call_fn *fn, void *arg);

#endif
