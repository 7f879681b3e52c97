/* SPDX-License-Identifier: Apache-2.0
 *
 * One case, as families hand it over: compared or timed.
 */
#include "kernels/check/check_int.h"

/* A sample takes the first case of a row and of each number of bits in it, and every so many of the row. */
bool ml_check_is_taken(struct ml_check *c) {
    if (c->decided) return c->taken;
    const size_t i = c->walked++, before = c->walked_bits;
    c->walked_bits = c->bits;
    c->decided = true;
    c->taken = c->options->sample == 0 || i % c->options->sample == 0 || c->bits != before;
    return c->taken;
}

void ml_check_call(struct ml_check *c, ml_check_call_fn *fn, void *arg) {
    if (!ml_check_is_taken(c)) {
        ml_check_release(c);
        return;
    }
    c->row.cases++;
    if (c->options->timing)
        ml_check_time_case(c, fn, arg);
    else
        ml_check_compare_case(c, fn, arg);
    ml_check_release(c);
}
