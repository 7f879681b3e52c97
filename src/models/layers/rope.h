/* SPDX-License-Identifier: Apache-2.0
 *
 * Rotary position tables: inverse frequencies of every kind that configs name, and the cosines of a position.
 */
#ifndef ML_MODELS_LAYERS_ROPE_H
#define ML_MODELS_LAYERS_ROPE_H

#include "base/arena.h"
#include "base/status.h"
#include "converters/hf_config.h"

#include <stddef.h>

struct ml_rope {
    size_t rotary, half;    /* dimensions that rotate, even; pairs */
    const float *inv_freq;  /* [half] up to switch_at tokens */
    const float *long_freq; /* [half] longrope: beyond switch_at tokens; else NULL */
    size_t switch_at;       /* 0 = one table for every length */
    double theta, factor;   /* dynamic: theta grows with the length beyond switch_at */
    float scale;            /* on cosine and sine */
};

/* head_dim and max_positions are the model's. Tables live in the arena. MARLIN_ERR_FORMAT for values that
 * make no table (odd dimensions, lists of the wrong length, no original length where the kind needs one). */
marlin_status ml_rope_init(struct ml_rope *r, const struct ml_rope_config *c, size_t head_dim,
                           size_t max_positions, struct ml_arena *arena,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* Inverse frequencies for a sequence that is meant to become `length` tokens long: inv [half]. Dynamic and longrope
 * tables change with the length (docs/long-context.md). */
void ml_rope_frequencies(const struct ml_rope *r, size_t length, float *inv);

/* cos, sin [half] of one position. */
void ml_rope_angles(const struct ml_rope *r, const float *inv, size_t position, float *cos, float *sin);

#endif
