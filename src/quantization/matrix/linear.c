/* SPDX-License-Identifier: Apache-2.0
 *
 * One linear layer from float32 to tiles.
 */
#include "quantization/matrix/linear.h"

#include "base/assert.h"
#include "base/checked.h"
#include "base/mem.h"
#include "quantization/matrix/ldlq.h"

#include <math.h>
#include <string.h>

enum { RIDGE_TRIES = 6 };

static size_t pad(size_t n) {
    return (n + ML_HADAMARD - 1) / ML_HADAMARD * ML_HADAMARD;
}

/* Targets and values, the Hessian and its factor, tiles of up to 8 bits, scratch of each thread. */
size_t ml_quantize_linear_memory(size_t n, size_t k, bool outputs, int workers) {
    const size_t weights = pad(n) * pad(k), channels = pad(k) * pad(k) + (outputs ? pad(n) * pad(n) : 0);
    const size_t widest = outputs && n > k ? pad(n) : pad(k);
    return ((outputs ? 3 : 2) * weights + 2 * channels) * sizeof(float) + weights +
           (size_t)workers * ml_ldlq_scratch(widest);
}

/* Work of one call; zero-initialised and freed as a whole. */
struct work {
    float *target; /* [n_pad, k_pad] rotated weights */
    float *values; /* [n_pad, k_pad] decoded */
    float *h;      /* [k_pad, k_pad] Hessian in the rotated basis, or NULL */
    float *lt;     /* [k_pad, k_pad] feedback, or NULL */
    float *lo;     /* [n_pad, n_pad] feedback between outputs, or NULL */
};

static void free_work(struct work *s) {
    ml_free(s->target);
    ml_free(s->values);
    ml_free(s->h);
    ml_free(s->lt);
    ml_free(s->lo);
}

static marlin_status alloc_floats(float **p, size_t rows, size_t cols, struct marlin_error *err) {
    size_t count;
    *p = ml_mul_size(rows, cols, &count) ? ml_calloc(count, sizeof **p) : NULL;
    if (!*p)
        return ml_fail(err, MARLIN_ERR_MEMORY, "quantizing: no memory for %zu x %zu numbers", rows, cols);
    return MARLIN_OK;
}

static marlin_status copy_padded(struct work *s, const float *w, size_t n, size_t k,
                                 struct marlin_error *err) {
    const size_t kp = pad(k);
    const marlin_status st = alloc_floats(&s->target, pad(n), kp, err);
    if (st != MARLIN_OK) return st;
    for (size_t j = 0; j < n; j++) {
        for (size_t i = 0; i < k; i++) {
            const float v = w[j * k + i];
            if (!isfinite(v))
                return ml_fail(err, MARLIN_ERR_NUMERIC, "weight [%zu, %zu] is not finite", j, i);
            s->target[j * kp + i] = v;
        }
    }
    return MARLIN_OK;
}

/* In the rotated basis, where the factor is taken: added before, it would vanish with the square of su for
 * padding and for channels whose weights are next to nothing. */
static void add_ridge(float *h, size_t k, size_t channels, double sigma) {
    double trace = 0;
    for (size_t i = 0; i < k; i++)
        trace += h[i * k + i];
    const float ridge = (float)(sigma * trace / (double)channels);
    for (size_t i = 0; i < k; i++)
        h[i * k + i] += ridge;
}

/* One side of the matrix: its Hessian in the rotated basis in *h, and the feedback made from it in *lt; both
 * NULL with a reason in *fallback when there is none. Only running out of memory fails. */
struct side {
    const struct ml_hessian *hessian;
    void (*rotate)(const struct ml_rotation *r, float *h);
    size_t channels; /* padded */
    float **h, **lt;
};

static marlin_status try_factor(const struct side *s, const struct ml_rotation *r, double sigma,
                                const struct ml_quantize_options *o, struct marlin_error *err) {
    const size_t k = s->channels;
    const marlin_status st = ml_hessian_finish(s->hessian, 0, *s->h, err);
    if (st != MARLIN_OK) return st;
    s->rotate(r, *s->h);
    add_ridge(*s->h, k, s->hessian->channels, sigma);
    memcpy(*s->lt, *s->h, k * k * sizeof **s->lt);
    return ml_ldl_factor(*s->lt, k, o->kernels, o->pool, err);
}

static marlin_status factor(const struct side *s, const struct ml_rotation *r,
                            const struct ml_quantize_options *o, const char **fallback,
                            struct marlin_error *err) {
    double sigma = o->sigma;
    *fallback = ml_hessian_useless(s->hessian);
    if (*fallback) return MARLIN_OK;
    marlin_status st = alloc_floats(s->h, s->channels, s->channels, err);
    if (st == MARLIN_OK) st = alloc_floats(s->lt, s->channels, s->channels, err);
    if (st != MARLIN_OK) return st;
    for (int try = 0; try < RIDGE_TRIES; try++) {
        struct marlin_error why;
        st = try_factor(s, r, sigma, o, &why);
        if (st == MARLIN_OK) return st;
        if (st == MARLIN_ERR_MEMORY) return ml_fail(err, st, "%s", why.text);
        sigma = sigma * 3 + 0.01;
    }
    *fallback = "the Hessian could not be factored";
    ml_free(*s->h);
    ml_free(*s->lt);
    *s->h = *s->lt = NULL;
    return MARLIN_OK;
}

/* Feedback along both sides. Without that between inputs there is none between outputs either. */
static marlin_status factor_sides(struct work *w, const struct ml_hessian *inputs,
                                  const struct ml_rotation *r, const struct ml_quantize_options *o,
                                  const char **fallback, struct marlin_error *err) {
    float *h = NULL;
    const char *why = NULL;
    const struct side in = {inputs, ml_rotation_hessian, r->k, &w->h, &w->lt};
    const struct side out = {o->outputs, ml_rotation_out_hessian, r->n, &h, &w->lo};
    marlin_status st = factor(&in, r, o, fallback, err);
    if (st != MARLIN_OK || *fallback || !o->outputs) return st;
    st = factor(&out, r, o, &why, err);
    if (why) *fallback = "no gradient of the outputs is of use: feedback between inputs alone";
    ml_free(h);
    return st;
}

static double relative_error(const float *w, const float *q, size_t count) {
    double error = 0, power = 0;
    for (size_t i = 0; i < count; i++) {
        const double d = (double)w[i] - q[i];
        error += d * d;
        power += (double)w[i] * w[i];
    }
    return power > 0 ? error / power : 0;
}

static marlin_status run_ldlq(struct work *s, const struct ml_quantize_options *o,
                              struct ml_quantized_linear *out, struct marlin_error *err) {
    const size_t n = out->rotation.n, k = out->rotation.k;
    out->n_bytes = n / ML_TILE * (k / ML_TILE) * o->codec->tile_bytes;
    out->bytes = ml_calloc(out->n_bytes, 1);
    if (!out->bytes)
        return ml_fail(err, MARLIN_ERR_MEMORY, "quantizing: no memory for %zu bytes of tiles", out->n_bytes);
    const struct ml_ldlq_job job = {.codec = o->codec,
                                    .kernels = o->kernels,
                                    .pool = o->pool,
                                    .w = s->target,
                                    .n = n,
                                    .k = k,
                                    .lt = s->lt,
                                    .lo = s->lo,
                                    .q = s->values,
                                    .bytes = out->bytes};
    const marlin_status st = ml_ldlq(&job, err);
    if (st != MARLIN_OK) return st;
    if (s->h)
        return ml_proxy_error(s->target, s->values, s->h, n, k, o->kernels, o->pool, &out->proxy_error, err);
    out->proxy_error = relative_error(s->target, s->values, n * k);
    return MARLIN_OK;
}

marlin_status ml_quantize_linear(const float *w, size_t n, size_t k, const struct ml_hessian *hessian,
                                 const struct ml_quantize_options *options, struct ml_quantized_linear *out,
                                 struct marlin_error *err) {
    ML_ASSERT(n > 0 && k > 0 && (!hessian || hessian->channels == k));
    ML_ASSERT(!options->outputs || options->outputs->channels == n);
    struct work s = {0};
    marlin_status st;
    memset(out, 0, sizeof *out);
    out->n = n;
    out->k = k;
    ML_TRY(copy_padded(&s, w, n, k, err));
    ML_TRY(alloc_floats(&s.values, pad(n), pad(k), err));
    ML_TRY(ml_rotation_create(&out->rotation, pad(n), pad(k), err));
    ml_rotation_fit(&out->rotation, s.target, options->codec->unit, options->seed);
    if (hessian)
        ML_TRY(factor_sides(&s, hessian, &out->rotation, options, &out->fallback, err));
    else
        out->fallback = "no calibration";
    ML_TRY(run_ldlq(&s, options, out, err));
out:
    free_work(&s);
    if (st != MARLIN_OK) ml_quantized_linear_free(out);
    return st;
}

void ml_quantized_linear_free(struct ml_quantized_linear *q) {
    ml_rotation_free(&q->rotation);
    ml_free(q->bytes);
    memset(q, 0, sizeof *q);
}

static void place_tile(const float values[ML_TILE_WEIGHTS], float *w, size_t k) {
    for (size_t j = 0; j < ML_TILE; j++) {
        memcpy(w + j * k, values + j * ML_TILE, ML_TILE * sizeof *w);
    }
}

marlin_status ml_quantized_linear_restore(const struct ml_quantized_linear *q, const struct ml_codec *codec,
                                          float *w, struct marlin_error *err) {
    const size_t n = q->rotation.n, k = q->rotation.k, per_band = k / ML_TILE;
    float *full = NULL;
    marlin_status st;
    ML_TRY(alloc_floats(&full, n, k, err));
    for (size_t tile = 0; tile < n / ML_TILE * per_band; tile++) {
        float values[ML_TILE_WEIGHTS];
        ml_codec_decode(codec, q->bytes + tile * codec->tile_bytes, values);
        place_tile(values, full + tile / per_band * ML_TILE * k + tile % per_band * ML_TILE, k);
    }
    ml_rotation_undo(&q->rotation, full);
    for (size_t j = 0; j < q->n; j++) {
        memcpy(w + j * q->k, full + j * k, q->k * sizeof *w);
    }
out:
    ml_free(full);
    return st;
}
