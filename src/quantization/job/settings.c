/* SPDX-License-Identifier: Apache-2.0
 *
 * What the settings of a job mean: efforts, and the bits that follow from the mean that was asked for.
 */
#include "quantization/job/job.h"

#include "quantization/job/allocate.h"

#include <math.h>

/* What each effort buys: the trellis window up to 4 bits and beyond (there 12 loses 4 to 9 % against 14), and
 * calibration tokens. To optimize takes up to four times as many: gradients are noisier than activations. */
static const struct ml_effort efforts[ML_EFFORTS] = {
    [ML_EFFORT_LOW] = {"low", 12, 12, 16384, 8192},
    [ML_EFFORT_NORMAL] = {"normal", 12, 14, 65536, 32768},
    [ML_EFFORT_HIGH] = {"high", 16, 16, 131072, 65536},
};

const struct ml_effort *ml_effort_of(enum ml_quantize_effort e) {
    return &efforts[e];
}

const char *ml_effort_name(enum ml_quantize_effort e) {
    return efforts[e].name;
}

static marlin_status check_head_bits(const struct ml_quantize_settings *s, struct marlin_error *err) {
    const int b = s->head_bits;
    const bool exl3 = s->format == ML_QUANTIZE_EXL3;
    const bool fits = exl3 ? b >= 1 && b <= 8 : (b >= 2 && b <= 6) || b == ML_BITS_INT8;
    if (fits || b == ML_BITS_PLAIN) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_ARGUMENT, "--head-bits %d: the format has %s and 16 (unquantized)", b,
                   exl3 ? "1 to 8" : "2 to 6, 8 (int8 rows)");
}

marlin_status ml_job_allocate(struct ml_job *job, const double *loss, struct marlin_error *err) {
    const struct ml_quantize_settings *s = job->settings;
    const bool exl3 = s->format == ML_QUANTIZE_EXL3;
    const int least = exl3 ? ML_EXL3_MIN_BITS : ML_TAP_MIN_BITS;
    const struct ml_allocation a = {.bits = s->bits,
                                    .least = least,
                                    .most = exl3 ? ML_EXL3_MAX_BITS : ML_TAP_MAX_BITS,
                                    .int8_rows = !exl3,
                                    .lowest = loss ? least : (int)floor(s->bits),
                                    .head_bits = s->head_bits,
                                    .recipe = s->recipe,
                                    .loss = loss};
    const marlin_status st = check_head_bits(s, err);
    return st != MARLIN_OK ? st : ml_allocate(&job->plan, &a, err);
}
