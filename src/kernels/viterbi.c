/* SPDX-License-Identifier: Apache-2.0
 *
 * What all tiers of the trellis search share: making a code, levels of targets, states of a ring.
 */
#include "kernels/viterbi.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LARGEST_LEVEL = 16000 }; /* the difference of two is an int16 */

void ml_viterbi_code_free(struct ml_viterbi_code *c) {
    ml_free(c->value);
    ml_free(c->level);
    ml_free(c->branch);
    memset(c, 0, sizeof *c);
}

static double variance_of(const struct ml_viterbi_code *c) {
    const size_t n = (size_t)1 << c->window;
    double sum = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
        const double v = c->value[i];
        sum += v;
        square += v * v;
    }
    const double mean = sum / (double)n;
    return square / (double)n - mean * mean;
}

/* Levels so that the expected error of a weight, 1.1 * variance * 2^(-2k) for a good trellis, is RMS of them.
 * `variance` is that of the targets. */
static marlin_status choose_scale(struct ml_viterbi_code *c, double variance, struct marlin_error *err) {
    const double spread = variance_of(c);
    if (!isfinite(spread) || !(spread > 0))
        return ml_fail(err, MARLIN_ERR_NUMERIC,
                       "trellis: the values of the code have variance %g, must be positive and finite",
                       spread);
    double most = 0;
    for (size_t i = 0; i < (size_t)1 << c->window; i++)
        if (fabs((double)c->value[i]) > most) most = fabs((double)c->value[i]);
    const double rms = sqrt(1.1 * (variance > 0 ? variance : spread)) / (double)(1u << c->bits);
    c->scale = (float)fmin(ML_VITERBI_RMS / rms, LARGEST_LEVEL / most);
    /* A little coarser where no difference then exceeds REACH (1 bit): kernels are faster. */
    const double narrow = (ML_VITERBI_REACH - 4) / (2 * most);
    if (narrow < (double)c->scale && narrow > 0.75 * (double)c->scale) c->scale = (float)narrow;
    return MARLIN_OK;
}

static int16_t round_to(float level, int16_t grain) {
    return (int16_t)(lrintf(level / (float)grain) * grain);
}

/* Nodes after the step are the low bits of a state, h the high ones. */
static void order_branches(struct ml_viterbi_code *c) {
    const unsigned k = c->bits, nodes = 1u << (c->window - k);
    for (unsigned state = 0; state < 1u << c->window; state++) {
        const unsigned h = state / nodes, j = state % nodes, block = j / ML_VITERBI_BLOCK;
        if (nodes >= ML_VITERBI_BLOCK)
            c->branch[(block << k | h) * ML_VITERBI_BLOCK + j % ML_VITERBI_BLOCK] = c->level[state];
    }
}

static void make_levels(struct ml_viterbi_code *c) {
    const size_t n = (size_t)1 << c->window;
    c->lowest = INT16_MAX;
    c->highest = INT16_MIN;
    for (size_t i = 0; i < n; i++) {
        const int16_t v = round_to(c->value[i] * c->scale, c->grain);
        c->level[i] = v;
        if (v < c->lowest) c->lowest = v;
        if (v > c->highest) c->highest = v;
    }
    order_branches(c);
}

static marlin_status allocate(struct ml_viterbi_code *c, unsigned bits, unsigned window,
                              struct marlin_error *err) {
    memset(c, 0, sizeof *c);
    if (bits < 1 || bits > ML_VITERBI_MAX_BITS || window < 2 * bits || window > 16)
        return ml_fail(err, MARLIN_ERR_ARGUMENT,
                       "trellis: %u bits and a window of %u: must be 1..8 bits and twice that..16", bits,
                       window);
    const size_t n = (size_t)1 << window;
    c->bits = bits;
    c->window = window;
    c->overlap = ML_VITERBI_OVERLAP;
    c->tries = ML_VITERBI_TRIES;
    c->value = ml_alloc(n * sizeof *c->value);
    c->level = ml_alloc(n * sizeof *c->level);
    c->branch = ml_alloc(n * sizeof *c->branch);
    c->grain = (int16_t)(bits > 2 ? 4 : 2);
    if (c->value && c->level && c->branch) return MARLIN_OK;
    ml_viterbi_code_free(c);
    return ml_fail(err, MARLIN_ERR_MEMORY, "trellis: no memory for a table of %zu values", n);
}

/* variance 0: that of the values themselves. */
static marlin_status finish(struct ml_viterbi_code *c, double variance, struct marlin_error *err) {
    const marlin_status st = choose_scale(c, variance, err);
    if (st == MARLIN_OK)
        make_levels(c);
    else
        ml_viterbi_code_free(c);
    return st;
}

marlin_status ml_viterbi_code_table(struct ml_viterbi_code *c, unsigned bits, unsigned window,
                                    const float *value, struct marlin_error *err) {
    const marlin_status st = allocate(c, bits, window, err);
    if (st != MARLIN_OK) return st;
    memcpy(c->value, value, ((size_t)1 << window) * sizeof *value);
    return finish(c, 0, err);
}

marlin_status ml_viterbi_code_exl3(struct ml_viterbi_code *c, unsigned bits, enum ml_exl3_codebook cb,
                                   struct marlin_error *err) {
    const marlin_status st = allocate(c, bits, ML_EXL3_WINDOW, err);
    if (st != MARLIN_OK) return st;
    ml_exl3_table(cb, c->value);
    return finish(c, 0, err);
}

marlin_status ml_viterbi_code_tap(struct ml_viterbi_code *c, const struct ml_tap_code *tap,
                                  const float *entry, struct marlin_error *err) {
    memset(c, 0, sizeof *c);
    marlin_status st = ml_tap_check(tap, err);
    if (st != MARLIN_OK) return st;
    ML_TRY(allocate(c, tap->bits, tap->window, err));
    for (unsigned w = 0; w < 1u << tap->window; w++) {
        const unsigned i = ml_tap_index(tap, w);
        c->value[w] = entry ? entry[i] : (float)tap->table[i] * tap->unit;
    }
    c->grain = 1; /* costs are made once a step */
    ML_TRY(finish(c, 1, err));
    c->index_bits = tap->index_bits;
    for (unsigned b = 0; b < tap->window; b++)
        c->basis[b] = (uint8_t)ml_tap_index(tap, 1u << b);
    for (unsigned w = 0; w < 1u << tap->window; w++)
        c->index_level[ml_tap_index(tap, w)] = c->level[w];
out:
    return st;
}

/* Path costs twice, one byte of decision for each step and node at most, branch costs and addresses. */
size_t ml_viterbi_scratch(const struct ml_viterbi_code *c) {
    const size_t nodes = (size_t)1 << (c->window - c->bits);
    return nodes * 12 + nodes * ML_VITERBI_STEPS + ((size_t)1 << (c->bits + 8)) * 4 + nodes / 2 + 4096;
}

static void to_levels(const struct ml_viterbi_code *c, const float *target, int16_t *level) {
    for (int i = 0; i < ML_VITERBI_STEPS; i++) {
        const float v = isnan(target[i]) ? 0 : target[i] * c->scale;
        level[i] = round_to(v < -32700 ? -32700 : v > 32700 ? 32700 : v, c->grain);
    }
}

static void states_of(const struct ml_viterbi_code *c, const uint8_t *symbol, uint16_t *state) {
    const unsigned mask = (1u << c->window) - 1;
    unsigned s = 0;
    for (int i = ML_VITERBI_STEPS - 16; i < ML_VITERBI_STEPS; i++)
        s = (s << c->bits | symbol[i]) & mask;
    for (int i = 0; i < ML_VITERBI_STEPS; i++) {
        s = (s << c->bits | symbol[i]) & mask;
        state[i] = (uint16_t)s;
    }
}

/* A branch whose cost was cut off: better ones may have looked the same. */
static bool out_of_range(const struct ml_viterbi_code *c, const int16_t *level, const uint16_t *state) {
    for (int i = 0; i < ML_VITERBI_STEPS; i++) {
        const struct ml_viterbi_step s = ml_viterbi_step_of(c, level[i]);
        if (abs(s.centre - c->level[state[i]]) > s.most) return true;
    }
    return false;
}

double ml_viterbi_ring(const struct ml_viterbi_kernels *k, const struct ml_viterbi_code *c,
                       const float target[ML_VITERBI_STEPS], uint16_t state[ML_VITERBI_STEPS],
                       void *scratch) {
    int16_t level[ML_VITERBI_STEPS];
    uint8_t symbol[ML_VITERBI_STEPS];
    to_levels(c, target, level);
    k->search(c, level, symbol, scratch);
    states_of(c, symbol, state);
    if (out_of_range(c, level, state)) {
        k->wide(c, level, symbol, scratch);
        states_of(c, symbol, state);
    }
    double sum = 0;
    for (int i = 0; i < ML_VITERBI_STEPS; i++) {
        const double e = (double)target[i] - (double)c->value[state[i]];
        sum += e * e;
    }
    return sum;
}

void ml_viterbi_kernels_init(struct ml_viterbi_kernels *k, enum ml_cpu_tier tier) {
    *k = (struct ml_viterbi_kernels){tier, ml_viterbi_search_reference, ml_viterbi_search_wide};
#if defined(__x86_64__)
    if (ml_cpu_tier_has(tier, ML_CPU_AVX2))
        *k = (struct ml_viterbi_kernels){tier, ml_viterbi_search_avx2, ml_viterbi_wide_avx2};
    if (ml_cpu_tier_has(tier, ML_CPU_AVX512))
        *k = (struct ml_viterbi_kernels){tier, ml_viterbi_search_avx512, ml_viterbi_wide_avx512};
#elif defined(__aarch64__)
    if (ml_cpu_tier_has(tier, ML_CPU_NEON)) k->search = ml_viterbi_search_neon;
#endif
}
