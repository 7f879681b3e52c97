/* SPDX-License-Identifier: Apache-2.0
 *
 * How far one model's predictions are from another's: Kullback-Leibler divergence and top-1 agreement,
 * gathered position by position, so that no logits need to be kept.
 */
#ifndef ML_EVAL_DIVERGENCE_H
#define ML_EVAL_DIVERGENCE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Negative log likelihood (natural logarithm) of token `id` under softmax(logits[n]). */
double ml_nll(const float *logits, size_t n, int32_t id);

/* Index of the largest of n values, the lowest of equals. */
size_t ml_argmax(const float *v, size_t n);

/* KL(softmax(reference) || softmax(model)) in nats: sum of p_ref (log p_ref - log p_model). Terms with
 * p_ref = 0 count as 0. */
double ml_kl_divergence(const float *reference, const float *model, size_t n);

/* Linear interpolation between closest ranks, as numpy.percentile: q in [0, 100] of n >
 * 0 ascending values. */
double ml_percentile(const double *sorted, size_t n, double q);

struct ml_divergence {
    double *kl; /* [cap] nats, one a position */
    size_t n, cap;
    size_t agree; /* positions where both models' most likely token is the same */
};

struct ml_divergence_result {
    double kld_mean, kld_median, kld_p99, top1_agreement; /* agreement: a fraction */
};

/* Room for exactly cap positions. */
marlin_status ml_divergence_init(struct ml_divergence *d, size_t cap,
                                 struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_divergence_free(struct ml_divergence *d);
/* Sorts the values in place. MARLIN_ERR_ARGUMENT when there are none, MARLIN_ERR_NUMERIC when one is not
 * finite. */
marlin_status ml_divergence_result(struct ml_divergence *d, struct ml_divergence_result *out,
                                   struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
