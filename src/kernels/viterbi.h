/* SPDX-License-Identifier: Apache-2.0
 *
 * Trellis search: the 256 states of a tail-biting ring whose values come closest to 256 targets. One family
 * for both codecs; it knows nothing of tiles, and its order of steps is that of the recursion
 *
 *     state[i] = (state[i - 1] << k | symbol[i]) mod 2^L,  state[-1] = state[255],  value = table[state]
 *
 * which is the stream order of EXL3 and the reverse of a tap tile's (there a window holds the NEXT symbols).
 *
 * The node before step i is the low L - k bits of state[i - 1]; the node after it has 2^k predecessors:
 *
 *     state of a branch   |  h, k bits  |        j, L - k bits: the node after      |
 *                         |      the node before, L - k bits      |  symbol, k bits |
 *
 * Costs are integers, so that every tier finds the same states and a quantized model does not depend on the
 * machine (the reference is the definition):
 *   - targets and table are rounded to levels (the table's to multiples of grain), 1 / scale apart, with
 *     ML_VITERBI_RMS levels for the expected error of one weight;
 *   - a branch costs (target - table[state])^2 less what the table's nearest end costs when the target lies
 *     beyond it (all branches of the step pay that), at most ML_VITERBI_REACH^2, its low e = min(k, 4) bits
 *     cleared: d (d + twice) with d = min(|centre - table[state]|, most), see ml_viterbi_step_of;
 *   - path costs are 16 bits; their low e bits hold the low bits of h, so that a minimum also selects the
 *     branch: ties go to the least h mod 2^e, then to the least h;
 *   - after each step the least path cost before that step is subtracted, then what exceeds
 *     ML_VITERBI_MOST_COST is cut off, so that no sum overflows.
 *
 * The search starts `overlap` weights before the seam with all nodes equal and goes once around. The best
 * path at the end came from some node at the seam; when the best path to that node at the end came from it as
 * well, the last 256 steps are the best ring through it. Otherwise the node where that path came from is
 * tried, ML_VITERBI_TRIES times, and at last a run from the seam with all nodes but one excluded decides.
 * States are made from the ring of symbols, so they close whatever the targets are.
 *
 * A ring with a branch whose cost was cut off is searched again with 32-bit costs (one in thousands).
 */
#ifndef ML_KERNELS_VITERBI_H
#define ML_KERNELS_VITERBI_H

#include "base/cpu.h"
#include "base/status.h"
#include "packing/exl3.h"
#include "packing/tap.h"

#include <stddef.h>
#include <stdint.h>

enum {
    ML_VITERBI_STEPS = 256,
    ML_VITERBI_MAX_BITS = 8,
    /* Levels of the expected error: 8 costs 0.3 % of distortion, 24 gains 0.05 %, at 32 too many branches
     * cost more than 16 bits can tell apart. */
    ML_VITERBI_RMS = 16,
    /* Targets further outside the table than so many levels pull no harder towards its end. */
    ML_VITERBI_MARGIN = 512,
    /* Differences beyond it cost the same: its square and the most that a path may cost more than the best
     * fit into 16 bits together. */
    ML_VITERBI_REACH = 180,
    ML_VITERBI_MOST_COST = 0x7fff,
    ML_VITERBI_TRIES = 4,
    ML_VITERBI_BLOCK = 32,
    /* Half the ring. 96 costs 0.08 % of distortion, 64 0.25 %, 32 0.6 %; 256 gains 0.1 %. */
    ML_VITERBI_OVERLAP = 128
};

/* A trellis ready to search. Immutable after it is made; any number of threads may share it. */
struct ml_viterbi_code {
    unsigned bits, window;   /* k and L: 2 k <= L <= 16 */
    unsigned overlap;        /* steps before the seam, at most 256 */
    unsigned tries;          /* nodes that may close the ring before a run from one decides */
    float scale;             /* levels for one unit of value */
    int16_t lowest, highest; /* levels of the table's ends */
    float *value;            /* [2^L] by state */
    int16_t *level;          /* [2^L] value * scale, rounded to a multiple of `grain` */
    int16_t grain;   /* 2^(e / 2) rounded up where costs are made branch by branch: their low bits are clear;
                        else 1 */
    int16_t *branch; /* level in the order of a step: [node after / BLOCK][h][node after % BLOCK] */
    /* Where the values are an alphabet of 2^p behind an index that is linear over GF(2) (tap codes): index of
     * a state = exclusive or of basis[i] over its set bits. p is 0 where there is none. */
    unsigned index_bits;
    uint8_t basis[16];
    int16_t index_level[256];
};

/* Any table of 2^window values. Copies it. MARLIN_ERR_ARGUMENT for bits or window out of range,
 * MARLIN_ERR_NUMERIC when the values are not finite or all equal. Release with ml_viterbi_code_free. */
marlin_status ml_viterbi_code_table(struct ml_viterbi_code *c, unsigned bits, unsigned window,
                                    const float *value, struct marlin_error *err) MARLIN_MUST_CHECK;

/* A tap code. `entry` are its 2^p values; NULL means the code's own table * unit. */
marlin_status ml_viterbi_code_tap(struct ml_viterbi_code *c, const struct ml_tap_code *tap,
                                  const float *entry, struct marlin_error *err) MARLIN_MUST_CHECK;

/* An EXL3 codebook with K = 1..8 bits. */
marlin_status ml_viterbi_code_exl3(struct ml_viterbi_code *c, unsigned bits, enum ml_exl3_codebook cb,
                                   struct marlin_error *err) MARLIN_MUST_CHECK;

void ml_viterbi_code_free(struct ml_viterbi_code *c); /* zeroed or made codes */

/* Bytes of working memory of one search, to be 64-byte aligned; at most 9 MiB (K = 1), 0.4 MiB at L = 12. */
size_t ml_viterbi_scratch(const struct ml_viterbi_code *c);

/* The kernel: symbols of the best ring found for 256 targets in levels, multiples of the code's grain, in
 * step order. */
typedef void ml_viterbi_search_fn(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                                  uint8_t symbol[ML_VITERBI_STEPS], void *scratch);

/* What a target asks of the branches of its step. */
struct ml_viterbi_step {
    int16_t centre; /* the target, or the end of the table that it lies beyond */
    uint16_t twice; /* 2 |target - centre| */
    uint16_t most;  /* the largest d with d (d + twice) <= REACH^2 */
};
struct ml_viterbi_step ml_viterbi_step_of(const struct ml_viterbi_code *c, int16_t level);

struct ml_viterbi_kernels {
    enum ml_cpu_tier tier;
    ml_viterbi_search_fn *search;
    ml_viterbi_search_fn *wide; /* the same with 32-bit costs, for rings where `search` cut one off */
};

/* Fills the table for a tier that this CPU can run; a tier without a version of its own keeps
 * the one below. */
void ml_viterbi_kernels_init(struct ml_viterbi_kernels *k, enum ml_cpu_tier tier);

/* One ring: target and value are in the units of the table (unit variance is not required, but distortion is
 * least where it matches what the table was made for). Targets that are NaN count as 0. Writes 256 states in
 * step order, their low k bits being the symbols, and returns the sum of squared errors, in float32 of the
 * values. Single-threaded; `scratch` belongs to the caller. */
double ml_viterbi_ring(const struct ml_viterbi_kernels *k, const struct ml_viterbi_code *c,
                       const float target[ML_VITERBI_STEPS], uint16_t state[ML_VITERBI_STEPS], void *scratch);

/* The search with 32-bit costs: what ml_viterbi_ring turns to when the ring that the kernel found has a
 * branch whose cost was cut off. The same rings in all versions. */
void ml_viterbi_search_wide(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                            uint8_t symbol[ML_VITERBI_STEPS], void *scratch);

/* The versions; use them through the table. */
void ml_viterbi_wide_avx2(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                          uint8_t symbol[ML_VITERBI_STEPS], void *scratch);
void ml_viterbi_wide_avx512(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                            uint8_t symbol[ML_VITERBI_STEPS], void *scratch);
void ml_viterbi_search_reference(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                                 uint8_t symbol[ML_VITERBI_STEPS], void *scratch);
void ml_viterbi_search_avx2(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                            uint8_t symbol[ML_VITERBI_STEPS], void *scratch);
void ml_viterbi_search_avx512(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                              uint8_t symbol[ML_VITERBI_STEPS], void *scratch);
void ml_viterbi_search_neon(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                            uint8_t symbol[ML_VITERBI_STEPS], void *scratch);

#endif
