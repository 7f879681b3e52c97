/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes src/quantization/matrix/exl3_units.c: for each EXL3 codebook and number of bits, the root mean square of
 * Gaussian targets, in codebook units, that gives the least relative distortion. The codebook is fixed, so
 * this is the one thing left to choose. Also prints, to stderr, what the tap codes would gain from another
 * unit than 1: they were trained for it, so it should be nothing.
 *
 *     train_units            C source on stdout, distortions on stderr
 */
#include "rings.h"

#include "base/mem.h"
#include "packing/codes.h"

#include <math.h>
#include <stdio.h>

enum { COARSE_RINGS = 64, FINE_RINGS = 384, FINE_POINTS = 5 };

static const uint64_t seed = 1;
static const char *const name[] = {"3INST", "MCG", "MUL1"};
/* Standard deviations over all states. */
static const double deviation[] = {1.2437109, 1.2441119, 1.0003102};

struct bench {
    struct ml_viterbi_kernels kernels;
    float *x;
    void *scratch;
};

static double distortion(const struct bench *b, const struct ml_viterbi_code *c, double unit,
                         unsigned rings) {
    return rings_measure(&b->kernels, c, (float)unit, b->x, rings, b->scratch).mean;
}

/* The minimum of the parabola through n equidistant points by least squares, in steps from the middle. */
static double vertex(const double *y, int n) {
    double square = 0, fourth = 0, y0 = 0, y1 = 0, y2 = 0;
    for (int i = 0; i < n; i++) {
        const double t = i - (n - 1) / 2.0;
        square += t * t;
        fourth += t * t * t * t;
        y0 += y[i];
        y1 += t * y[i];
        y2 += t * t * y[i];
    }
    const double slope = y1 / square, bend = (n * y2 - square * y0) / (n * fourth - square * square);
    return bend > 0 ? fmax(-1, fmin(1, -slope / (2 * bend))) : 0;
}

/* Relative to the codebook's deviation: a coarse grid, then a parabola around its best point. */
static double best_unit(const struct bench *b, const struct ml_viterbi_code *c, double scale) {
    double best = 1, least = INFINITY, y[FINE_POINTS];
    for (int percent = 75; percent <= 125; percent += 5) {
        const double d = distortion(b, c, scale * percent / 100, COARSE_RINGS);
        if (d >= least) continue;
        least = d;
        best = percent / 100.0;
    }
    for (int i = 0; i < FINE_POINTS; i++)
        y[i] = distortion(b, c, scale * (best + 0.03 * (i - FINE_POINTS / 2)), FINE_RINGS);
    return best + 0.03 * vertex(y, FINE_POINTS);
}

static void exl3_row(const struct bench *b, enum ml_exl3_codebook cb) {
    printf("    {0");
    for (unsigned bits = ML_EXL3_MIN_BITS; bits <= ML_EXL3_MAX_BITS; bits++) {
        struct ml_viterbi_code c;
        struct marlin_error err;
        if (ml_viterbi_code_exl3(&c, bits, cb, &err) != MARLIN_OK) rings_fail(err.text);
        const double relative = best_unit(b, &c, deviation[cb]), unit = relative * deviation[cb];
        fprintf(stderr, "%s K=%u: %.3f of the deviation, distortion %.6f there, %.6f at 1\n", name[cb], bits,
                relative, distortion(b, &c, unit, FINE_RINGS), distortion(b, &c, deviation[cb], FINE_RINGS));
        printf(", %.3ff", unit);
        fflush(stdout);
        ml_viterbi_code_free(&c);
    }
    printf("}, /* %s */\n", name[cb]);
}

static void check_tap(const struct bench *b, const struct ml_tap_code *t) {
    struct ml_viterbi_code c;
    struct marlin_error err;
    if (ml_viterbi_code_tap(&c, t, NULL, &err) != MARLIN_OK) rings_fail(err.text);
    fprintf(stderr, "tap k=%u L=%u:", t->bits, t->window);
    for (int percent = 96; percent <= 104; percent += 2)
        fprintf(stderr, " %.2f %.6f", percent / 100.0, distortion(b, &c, percent / 100.0, FINE_RINGS));
    fprintf(stderr, "\n");
    ml_viterbi_code_free(&c);
}

static const char head[] = "/* SPDX-License-Identifier: Apache-2.0\n"
                           " *\n"
                           " * Made by tools/train_units; do not edit. Root mean square of Gaussian targets, "
                           "in codebook units, with the "
                           "least\n"
                           " * distortion.\n"
                           " */\n"
                           "#include \"quantization/matrix/codec.h\"\n\n"
                           "static const float unit[ML_EXL3_CODEBOOKS][ML_EXL3_MAX_BITS + 1] = {\n";
static const char tail[] = "};\n\n"
                           "float ml_exl3_unit(int bits, enum ml_exl3_codebook codebook) {\n"
                           "    return unit[codebook][bits];\n"
                           "}\n";

int main(void) {
    struct bench b;
    ml_viterbi_kernels_init(&b.kernels, ml_cpu()->tier);
    b.x = rings_samples(seed, FINE_RINGS);
    b.scratch = ml_alloc_aligned((size_t)16 << 20);
    if (!b.scratch) rings_fail("no memory for the search");
    fputs(head, stdout);
    for (int cb = 0; cb < ML_EXL3_CODEBOOKS; cb++)
        exl3_row(&b, (enum ml_exl3_codebook)cb);
    fputs(tail, stdout);
    for (unsigned bits = ML_TAP_MIN_BITS; bits <= ML_TAP_MAX_BITS; bits++)
        check_tap(&b, ml_tap_code_find(bits, ML_TAP_WINDOW_NORMAL));
    ml_free(b.x);
    ml_free_aligned(b.scratch);
    return 0;
}
