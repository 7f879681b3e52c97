/* SPDX-License-Identifier: Apache-2.0
 *
 * One case, as families hand it over: compared or timed.
 */
#include "kernels/check/check_int.h"

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
