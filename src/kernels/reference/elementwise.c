/* SPDX-License-Identifier: Apache-2.0
 *
 * Norm, rope, activations and softmax, the specification: in double, rounded once.
 */
#include "kernels/reference/reference.h"

#include <math.h>

static void rmsnorm(float *y, const float *x, const float *w, float offset, float eps, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    const double scale = 1 / sqrt(sum / (double)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = (float)(x[i] * scale * (w ? (double)w[i] + offset : 1.0));
}

static void rotate(float *a, float *b, double cos, double sin) {
    const double x = *a, y = *b;
    *a = (float)(x * cos - y * sin);
    *b = (float)(y * cos + x * sin);
}

static void rope_half(float *x, size_t heads, size_t stride, size_t rotary, const float *cos,
                      const float *sin) {
    const size_t half = rotary / 2;
    for (size_t h = 0; h < heads; h++) {
        float *p = x + h * stride;
        for (size_t i = 0; i < half; i++)
            rotate(&p[i], &p[half + i], cos[i], sin[i]);
    }
}

static void rope_interleaved(float *x, size_t heads, size_t stride, size_t rotary, const float *cos,
                             const float *sin) {
    for (size_t h = 0; h < heads; h++) {
        float *p = x + h * stride;
        for (size_t i = 0; i < rotary / 2; i++)
            rotate(&p[2 * i], &p[2 * i + 1], cos[i], sin[i]);
    }
}

static void silu_glu(float *y, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const double g = gate[i];
        y[i] = (float)(g / (1 + exp(-g)) * up[i]);
    }
}

/* 0.5 g (1 + tanh u), u = sqrt(2 / pi) (g + 0.044715 g^3), written without its cancellation at negative g. */
static void gelu_glu(float *y, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const double g = gate[i], u = 0.79788456080286535588 * (g + 0.044715 * g * g * g);
        y[i] = (float)(g / (1 + exp(-2 * u)) * up[i]);
    }
}

static void sigmoid_glu(float *y, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i++)
        y[i] = (float)(up[i] / (1 + exp(-(double)gate[i])));
}

static void add(float *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        y[i] += x[i];
}

static void axpy(float *y, float a, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        y[i] = (float)(y[i] + (double)a * x[i]);
}

static void softcap(float *y, float cap, size_t n) {
    for (size_t i = 0; i < n; i++)
        y[i] = (float)(cap * tanh((double)y[i] / cap));
}

static void softmax(float *y, const float *x, size_t n) {
    double top = x[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        top = x[i] > top ? x[i] : top; /* gcc 12 for Arm crashes on fmax here */
    for (size_t i = 0; i < n; i++)
        sum += exp(x[i] - top);
    for (size_t i = 0; i < n; i++)
        y[i] = (float)(exp(x[i] - top) / sum);
}

void ml_reference_elementwise(struct ml_kernels *k) {
    k->rmsnorm = rmsnorm;
    k->rope_half = rope_half;
    k->rope_interleaved = rope_interleaved;
    k->silu_glu = silu_glu;
    k->gelu_glu = gelu_glu;
    k->sigmoid_glu = sigmoid_glu;
    k->add = add;
    k->axpy = axpy;
    k->softcap = softcap;
    k->softmax = softmax;
}
