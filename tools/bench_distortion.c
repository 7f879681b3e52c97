/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of bench/results/distortion.md: mean squared error of every code on N(0, 1) samples that no
 * training saw, in tail-biting rings of 256, and the speed of the search that finds the rings.
 *
 *     bench_distortion [TIER [speed]]     Markdown on stdout; TIER is generic, avx2, avx512 or neon
 *
 * `speed` spends no more than a moment on each code; its distortions are rough.
 */
#include "rings.h"

#include "base/cpu.h"
#include "base/mem.h"
#include "packing/codes.h"
#include "quantization/matrix/codec.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>

enum { RINGS = 4096 };

static const uint64_t seed = 3; /* train_codes uses 1 and 2 */

struct bench {
    struct ml_viterbi_kernels kernels;
    float *x;
    void *scratch;
    bool only_speed;
};

/* Samples enough for a standard error of about 0.15 % (0.3 % where the search is slow). */
static unsigned rings_for(const struct bench *b, unsigned window) {
    if (b->only_speed) return 4;
    return window <= 12 ? RINGS : window == 14 ? RINGS / 2 : RINGS / 4;
}

static double speed(const struct bench *b, const struct ml_viterbi_code *c) {
    return rings_speed(&b->kernels, c, b->x, c->window <= 12 ? 8 : 1, 80, b->scratch);
}

/* ---- Lloyd-Max: the best scalar quantizer of N(0, 1) with 2^bits levels, by its two conditions */

static double density(double x) {
    return isinf(x) ? 0 : exp(-x * x / 2) / sqrt(2 * acos(-1));
}

static double below(double x) {
    return 0.5 * erfc(-x / sqrt(2));
}

static double lloyd_max(unsigned bits) {
    const int n = 1 << bits;
    double level[256], power = 0;
    for (int i = 0; i < n; i++)
        level[i] = 3.0 * (2 * i + 1 - n) / n;
    for (int round = 0; round < 20000; round++) {
        power = 0;
        double low = -INFINITY;
        for (int i = 0; i < n; i++) {
            const double high = i + 1 < n ? (level[i] + level[i + 1]) / 2 : INFINITY;
            const double mass = below(high) - below(low), moment = density(low) - density(high);
            level[i] = moment / mass;
            power += level[i] * moment;
            low = high;
        }
    }
    return 1 - power;
}

/* ---- the tables */

static void tap_row(struct bench *b, const struct ml_tap_code *t) {
    struct ml_viterbi_code c;
    struct marlin_error err;
    if (ml_viterbi_code_tap(&c, t, NULL, &err) != MARLIN_OK) rings_fail(err.text);
    const struct rings_distortion d =
        rings_measure(&b->kernels, &c, 1, b->x, rings_for(b, t->window), b->scratch);
    const double scalar = lloyd_max(t->bits), bound = pow(4, -(double)t->bits);
    printf("| %u | %u | %u | %u", t->bits, t->window, t->index_bits, t->taps[0]);
    for (int i = 1; i < ML_TAP_MAX_TAPS && t->taps[i]; i++)
        printf(", %u", t->taps[i]);
    printf(" | %.6f +- %.6f | %.3f | %.2f | %.2f |\n", d.mean, d.error, d.mean / bound,
           10 * log10(scalar / d.mean), speed(b, &c));
    fflush(stdout);
    ml_viterbi_code_free(&c);
}

static void tap_table(struct bench *b) {
    size_t count;
    const struct ml_tap_code *codes = ml_tap_codes(&count);
    printf(
        "## Tap codes (int8 tables, samples of the unit that the table was made for)\n\n"
        "| bits | window | index bits | taps | distortion | / 2^-2k | gain over Lloyd-Max, dB | Mweights/s "
        "|\n|---|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < count; i++)
        tap_row(b, &codes[i]);
}

/* The specification's own measurement (1280 samples, so +-3 %): 3INST and MUL1, K = 1..6. */
static const double published[7][2] = {{0, 0},
                                       {0.268, 0.271},
                                       {0.0702, 0.0677},
                                       {0.01755, 0.0172},
                                       {0.00457, 0.00441},
                                       {0.00122, 0.00117},
                                       {0.00032, 0.00030}};

static void exl3_row(struct bench *b, int bits, enum ml_exl3_codebook cb) {
    static const char *const name[] = {"3INST", "MCG", "MUL1"};
    struct ml_codec codec;
    struct marlin_error err;
    if (ml_codec_exl3(&codec, bits, cb, b->kernels.tier, &err) != MARLIN_OK) rings_fail(err.text);
    const struct rings_distortion d =
        rings_measure(&b->kernels, &codec.viterbi, codec.unit, b->x, rings_for(b, 16), b->scratch);
    printf("| %d | %s | %.3f | %.6f +- %.6f | %.3f | ", bits, name[cb], (double)codec.unit, d.mean, d.error,
           d.mean / pow(4, -bits));
    if (bits <= 6 && cb != ML_EXL3_MCG) printf("%.5f", published[bits][cb == ML_EXL3_MUL1]);
    printf(" | %.2f |\n", speed(b, &codec.viterbi));
    fflush(stdout);
    ml_codec_free(&codec);
}

static void exl3_table(struct bench *b) {
    printf("\n## EXL3 codebooks\n\n| K | codebook | unit | distortion | / 2^-2K | specification | Mweights/s "
           "|\n|---|---|---|---|---|---|---|\n");
    for (int bits = 1; bits <= 8; bits++)
        for (int cb = 0; cb < ML_EXL3_CODEBOOKS; cb++)
            exl3_row(b, bits, (enum ml_exl3_codebook)cb);
}

static void scalar_table(void) {
    printf("\n## Lloyd-Max scalar quantizer (computed)\n\n| bits | distortion | / 2^-2k |\n|---|---|---|\n");
    for (unsigned bits = 1; bits <= 6; bits++) {
        const double d = lloyd_max(bits);
        printf("| %u | %.6f | %.3f |\n", bits, d, d / pow(4, -(double)bits));
    }
}

int main(int argc, char **argv) {
    struct bench b = {.only_speed = argc > 2};
    if (argc > 1 && !ml_cpu_set_mask(argv[1])) rings_fail("a tier that this machine lacks");
    const enum ml_cpu_tier tier = ml_cpu()->tier;
    ml_viterbi_kernels_init(&b.kernels, tier);
    b.x = rings_samples(seed, RINGS);
    b.scratch = ml_alloc_aligned((size_t)16 << 20);
    if (!b.scratch) rings_fail("no memory for the search");
    printf("Kernel tier: %s\n\n", ml_cpu_tier_name(tier));
    tap_table(&b);
    exl3_table(&b);
    scalar_table();
    ml_free(b.x);
    ml_free_aligned(b.scratch);
    return 0;
}
