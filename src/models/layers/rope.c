/* SPDX-License-Identifier: Apache-2.0
 *
 * Rotary tables. Frequencies are computed in float64 and kept in float32; an angle is the float32 product of
 * position and frequency, because that is what models were trained with: at position 100,000 a more
 * exact angle is a different angle.
 */
#include "models/layers/rope.h"

#include <math.h>

static const double two_pi = 6.283185307179586476925286766559;

static double plain_frequency(double theta, size_t i, size_t rotary) {
    return pow(theta, -2.0 * (double)i / (double)rotary);
}

/* ---- llama3: long wavelengths are slowed down, short ones are kept, a ramp in between ---- */

static double llama3_frequency(const struct ml_rope_config *c, double inv) {
    const double original = (double)c->original_max, wavelength = two_pi / inv;
    if (wavelength < original / c->high_freq_factor) return inv;
    if (wavelength > original / c->low_freq_factor) return inv / c->factor;
    const double smooth =
        (original / wavelength - c->low_freq_factor) / (c->high_freq_factor - c->low_freq_factor);
    return (1.0 - smooth) * inv / c->factor + smooth * inv;
}

/* ---- yarn ---- */

/* The dimension that turns `rotations` times over the original length. */
static double yarn_dimension(const struct ml_rope_config *c, double rotations, size_t rotary) {
    return (double)rotary * log((double)c->original_max / (rotations * two_pi)) / (2.0 * log(c->theta));
}

struct yarn_ramp {
    double low, high;
};

static struct yarn_ramp yarn_ramp(const struct ml_rope_config *c, size_t rotary) {
    const double fast = c->beta_fast > 0 ? c->beta_fast : 32.0, slow = c->beta_slow > 0 ? c->beta_slow : 1.0;
    double low = yarn_dimension(c, fast, rotary), high = yarn_dimension(c, slow, rotary);
    if (c->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0.0);
    high = fmin(high, (double)rotary - 1.0);
    if (low == high) high += 0.001; /* keeps the ramp finite */
    return (struct yarn_ramp){low, high};
}

static double yarn_frequency(struct yarn_ramp ramp, double factor, double inv, size_t i) {
    const double t = fmin(fmax(((double)i - ramp.low) / (ramp.high - ramp.low), 0.0), 1.0);
    return inv / factor * t + inv * (1.0 - t);
}

static double yarn_mscale(double factor, double mscale) {
    return factor <= 1.0 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

static double yarn_attention(const struct ml_rope_config *c, double factor) {
    if (c->mscale != 0 && c->mscale_all_dim != 0) {
        return yarn_mscale(factor, c->mscale) / yarn_mscale(factor, c->mscale_all_dim);
    }
    return yarn_mscale(factor, 1.0);
}

/* ---- longrope ---- */

static double longrope_attention(double factor, double original) {
    return factor <= 1.0 ? 1.0 : sqrt(1.0 + log(factor) / log(original));
}

/* ---- tables ---- */

static double scaling_factor(const struct ml_rope_config *c, size_t max_positions) {
    const bool derived = c->kind == ML_ROPE_YARN || c->kind == ML_ROPE_LONGROPE;
    if (c->has_factor || !derived) return c->factor;
    return (double)max_positions / (double)c->original_max;
}

static double attention_factor(const struct ml_rope_config *c, double factor) {
    if (c->kind != ML_ROPE_YARN && c->kind != ML_ROPE_LONGROPE) return 1.0;
    if (c->attention_factor > 0) return c->attention_factor;
    if (c->kind == ML_ROPE_YARN) return yarn_attention(c, factor);
    return longrope_attention(factor, (double)c->original_max);
}

static marlin_status check(const struct ml_rope_config *c, const struct ml_rope *r, size_t max_positions,
                           struct marlin_error *err) {
    const bool needs_original =
        c->kind == ML_ROPE_LLAMA3 || c->kind == ML_ROPE_YARN || c->kind == ML_ROPE_LONGROPE;
    if (!(c->partial > 0) || c->partial > 1) {
        return ml_fail(err, MARLIN_ERR_FORMAT, "rope: partial_rotary_factor %g is not in (0, 1]", c->partial);
    }
    if (r->rotary == 0 || r->rotary % 2 != 0) {
        return ml_fail(err, MARLIN_ERR_FORMAT,
                       "rope: %zu rotary dimensions, an even number above 0 is needed", r->rotary);
    }
    if (!(c->theta > 1) || !isfinite(c->theta)) {
        return ml_fail(err, MARLIN_ERR_FORMAT, "rope: rope_theta %g is not above 1", c->theta);
    }
    if (needs_original && c->original_max <= 1) {
        return ml_fail(err, MARLIN_ERR_FORMAT, "rope: original_max_position_embeddings %lld is not above 1",
                       (long long)c->original_max);
    }
    if (!(r->factor > 0) || !isfinite(r->factor)) {
        return ml_fail(err, MARLIN_ERR_FORMAT, "rope: factor %g is not above 0", r->factor);
    }
    if (c->kind == ML_ROPE_LONGROPE && (c->n_short != r->half || c->n_long != r->half)) {
        return ml_fail(err, MARLIN_ERR_FORMAT,
                       "rope: short_factor has %zu and long_factor %zu numbers, %zu are needed", c->n_short,
                       c->n_long, r->half);
    }
    if (c->kind == ML_ROPE_DYNAMIC && (r->rotary <= 2 || max_positions == 0)) {
        return ml_fail(err, MARLIN_ERR_FORMAT,
                       "rope: dynamic scaling needs more than 2 rotary dimensions and a maximum length");
    }
    return MARLIN_OK;
}

static void fill(float *inv, const struct ml_rope *r, const struct ml_rope_config *c) {
    const struct yarn_ramp ramp =
        c->kind == ML_ROPE_YARN ? yarn_ramp(c, r->rotary) : (struct yarn_ramp){0, 1};
    for (size_t i = 0; i < r->half; i++) {
        double f = plain_frequency(c->theta, i, r->rotary);
        switch (c->kind) {
        case ML_ROPE_LINEAR:
            f /= r->factor;
            break;
        case ML_ROPE_LLAMA3:
            f = llama3_frequency(c, f);
            break;
        case ML_ROPE_YARN:
            f = yarn_frequency(ramp, r->factor, f, i);
            break;
        case ML_ROPE_LONGROPE:
            f /= c->short_factor[i];
            break;
        case ML_ROPE_DEFAULT:
        case ML_ROPE_DYNAMIC:
            break;
        }
        inv[i] = (float)f;
    }
}

static void fill_long(float *inv, const struct ml_rope *r, const struct ml_rope_config *c) {
    for (size_t i = 0; i < r->half; i++) {
        inv[i] = (float)(plain_frequency(c->theta, i, r->rotary) / c->long_factor[i]);
    }
}

marlin_status ml_rope_init(struct ml_rope *r, const struct ml_rope_config *c, size_t head_dim,
                           size_t max_positions, struct ml_arena *arena, struct marlin_error *err) {
    const double partial = c->partial > 0 && c->partial <= 1 ? c->partial : 0; /* refused below */
    *r = (struct ml_rope){.rotary = (size_t)((double)head_dim * partial), .theta = c->theta};
    r->half = r->rotary / 2;
    r->factor = scaling_factor(c, max_positions);
    const marlin_status st = check(c, r, max_positions, err);
    if (st != MARLIN_OK) return st;

    float *inv = ml_arena_array(arena, r->half, sizeof(float));
    float *far = ml_arena_array(arena, r->half, sizeof(float));
    if (!inv || !far) return ml_fail(err, MARLIN_ERR_MEMORY, "rope: out of memory");
    fill(inv, r, c);
    r->inv_freq = inv;
    r->scale = (float)attention_factor(c, r->factor);
    if (c->kind == ML_ROPE_LONGROPE) {
        fill_long(far, r, c);
        r->long_freq = far;
        r->switch_at = (size_t)c->original_max;
    } else if (c->kind == ML_ROPE_DYNAMIC) {
        r->switch_at = max_positions;
    }
    return MARLIN_OK;
}

static void dynamic_frequencies(const struct ml_rope *r, size_t length, float *inv) {
    const double d = (double)r->rotary;
    const double grown = r->factor * (double)length / (double)r->switch_at - (r->factor - 1.0);
    const double theta = r->theta * pow(grown, d / (d - 2.0));
    for (size_t i = 0; i < r->half; i++)
        inv[i] = (float)plain_frequency(theta, i, r->rotary);
}

void ml_rope_frequencies(const struct ml_rope *r, size_t length, float *inv) {
    const bool beyond = r->switch_at > 0 && length > r->switch_at;
    if (beyond && !r->long_freq) {
        dynamic_frequencies(r, length, inv);
        return;
    }
    const float *from = beyond ? r->long_freq : r->inv_freq;
    for (size_t i = 0; i < r->half; i++)
        inv[i] = from[i];
}

void ml_rope_angles(const struct ml_rope *r, const float *inv, size_t position, float *cos_out,
                    float *sin_out) {
    for (size_t i = 0; i < r->half; i++) {
        const float angle = (float)position * inv[i];
        cos_out[i] = (float)cos((double)angle) * r->scale;
        sin_out[i] = (float)sin((double)angle) * r->scale;
    }
}
