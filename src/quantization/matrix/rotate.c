/* SPDX-License-Identifier: Apache-2.0
 *
 * Hadamard rotation with scales, forwards (fit) and backwards (undo).
 */
#include "quantization/matrix/rotate.h"

#include "base/assert.h"
#include "base/fp.h"
#include "base/mem.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

static const float hadamard_norm = 0.088388347648318447f; /* 1 / sqrt(128) */

marlin_status ml_rotation_create(struct ml_rotation *r, size_t n, size_t k, struct marlin_error *err) {
    memset(r, 0, sizeof *r);
    r->n = n;
    r->k = k;
    r->su = ml_calloc(k, sizeof *r->su);
    r->sv = ml_calloc(n, sizeof *r->sv);
    if (r->su && r->sv) return MARLIN_OK;
    ml_rotation_free(r);
    return ml_fail(err, MARLIN_ERR_MEMORY, "rotation of a %zu x %zu matrix: out of memory", n, k);
}

void ml_rotation_free(struct ml_rotation *r) {
    ml_free(r->su);
    ml_free(r->sv);
    memset(r, 0, sizeof *r);
}

/* Radix-2 butterflies with strides 1, 2, 4 ... 64: natural (Sylvester) order. */
void ml_hadamard_rows(float *x, size_t blocks) {
    for (size_t b = 0; b < blocks; b++, x += ML_HADAMARD) {
        for (size_t step = 1; step < ML_HADAMARD; step *= 2) {
            for (size_t i = 0; i < ML_HADAMARD; i += 2 * step) {
                for (size_t j = i; j < i + step; j++) {
                    const float a = x[j], c = x[j + step];
                    x[j] = a + c;
                    x[j + step] = a - c;
                }
            }
        }
        for (size_t i = 0; i < ML_HADAMARD; i++) {
            x[i] *= hadamard_norm;
        }
    }
}

static void butterfly(float *a, float *b, size_t k, float scale) {
    for (size_t i = 0; i < k; i++) {
        const float x = a[i], y = b[i];
        a[i] = (x + y) * scale;
        b[i] = (x - y) * scale;
    }
}

void ml_hadamard_columns(float *w, size_t blocks, size_t k) {
    for (size_t block = 0; block < blocks; block++, w += ML_HADAMARD * k) {
        for (size_t step = 1; step < ML_HADAMARD; step *= 2) {
            const float scale = step == ML_HADAMARD / 2 ? hadamard_norm : 1.0f;
            for (size_t i = 0; i < ML_HADAMARD; i += 2 * step) {
                for (size_t j = i; j < i + step; j++) {
                    butterfly(w + j * k, w + (j + step) * k, k, scale);
                }
            }
        }
    }
}

static float round_f16(float v) {
    return ml_f16_to_f32(ml_f32_to_f16(v));
}

static float random_sign(struct ml_rng *rng) {
    return ml_rng_u64(rng) >> 63 ? -1.0f : 1.0f;
}

static float row_rms(const float *w, size_t k) {
    double sum = 0;
    for (size_t i = 0; i < k; i++) {
        sum += (double)w[i] * w[i];
    }
    return (float)sqrt(sum / (double)k);
}

/* sv: +-(row rms / mean row rms), 0 for an empty row; w rows are divided by it. */
static void fit_outputs(struct ml_rotation *r, float *w, struct ml_rng *rng) {
    double mean = 0;
    size_t live = 0;
    for (size_t j = 0; j < r->n; j++) {
        r->sv[j] = row_rms(w + j * r->k, r->k);
        mean += r->sv[j];
        live += r->sv[j] > 0;
    }
    mean = live ? mean / (double)live : 1;
    for (size_t j = 0; j < r->n; j++) {
        const float sign = random_sign(rng);
        float *row = w + j * r->k;
        r->sv[j] = sign * round_f16((float)(r->sv[j] / mean));
        const float inverse = r->sv[j] != 0 ? 1.0f / r->sv[j] : 0.0f;
        for (size_t i = 0; i < r->k; i++) {
            row[i] *= inverse;
        }
    }
}

/* The smallest normal fp16: a scale below it would lose bits. */
static const float least_scale = 6.104e-5f;

/* su: +-(column rms / unit); an empty column keeps a harmless scale because its weights are exactly zero. */
static void fit_inputs(struct ml_rotation *r, const float *w, float unit, struct ml_rng *rng) {
    memset(r->su, 0, r->k * sizeof *r->su);
    for (size_t j = 0; j < r->n; j++) {
        const float *row = w + j * r->k;
        for (size_t i = 0; i < r->k; i++) {
            r->su[i] += row[i] * row[i];
        }
    }
    for (size_t i = 0; i < r->k; i++) {
        const float rms = sqrtf(r->su[i] / (float)r->n) / unit;
        r->su[i] = random_sign(rng) * round_f16(fminf(fmaxf(rms, least_scale), 60000.0f));
    }
}

static void divide_inputs(const struct ml_rotation *r, float *w) {
    for (size_t j = 0; j < r->n; j++) {
        float *row = w + j * r->k;
        for (size_t i = 0; i < r->k; i++) {
            row[i] /= r->su[i];
        }
    }
}

void ml_rotation_fit(struct ml_rotation *r, float *w, float unit, uint64_t seed) {
    ML_ASSERT(unit > 0 && r->n % ML_HADAMARD == 0 && r->k % ML_HADAMARD == 0);
    struct ml_rng rng;
    ml_rng_seed(&rng, seed);
    fit_outputs(r, w, &rng);
    ml_hadamard_columns(w, r->n / ML_HADAMARD, r->k);
    fit_inputs(r, w, unit, &rng);
    divide_inputs(r, w);
    ml_hadamard_rows(w, r->n * r->k / ML_HADAMARD);
}

/* h [n, n] -> H (scale scale' h) H */
static void rotate_both_sides(const float *scale, size_t n, float *h) {
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            h[i * n + j] *= scale[i] * scale[j];
        }
    }
    ml_hadamard_rows(h, n * n / ML_HADAMARD);
    ml_hadamard_columns(h, n / ML_HADAMARD, n);
}

void ml_rotation_hessian(const struct ml_rotation *r, float *h) {
    rotate_both_sides(r->su, r->k, h);
}

void ml_rotation_out_hessian(const struct ml_rotation *r, float *h) {
    rotate_both_sides(r->sv, r->n, h);
}

void ml_rotation_undo(const struct ml_rotation *r, float *q) {
    ml_hadamard_rows(q, r->n * r->k / ML_HADAMARD);
    ml_hadamard_columns(q, r->n / ML_HADAMARD, r->k);
    for (size_t j = 0; j < r->n; j++) {
        for (size_t i = 0; i < r->k; i++) {
            q[j * r->k + i] *= r->sv[j] * r->su[i];
        }
    }
}
