/* SPDX-License-Identifier: Apache-2.0
 *
 * The trellis search with 32-bit path costs, for the ring whose targets ask more of the code than 16 bits of
 * cost can tell apart: many bits and a target in the tail of the table, where the next value may be a hundred
 * expected errors away. At 6 bits that is one ring in sixty, and such a search takes 50 times as long as the
 * 16-bit one unless the compiler makes vectors of it: every tier compiles this plain text for itself.
 */
#ifndef ML_KERNELS_VITERBI_WIDE_H
#define ML_KERNELS_VITERBI_WIDE_H

#include "kernels/viterbi.h"

#include <stdlib.h>

/* Largest branch cost 2^28, largest path cost above the least 2^30: their sum is an int32. */
enum { MOST_DIFFERENCE = 1 << 14, MOST_COST = 1 << 30 };

struct search {
    const struct ml_viterbi_code *code;
    unsigned nodes;
    int32_t *cost, *out, *choice;
    uint8_t *decision; /* [steps][nodes] */
};

/* The branches h out of one predecessor lead to 2^k neighbours. */
static void try_branches(int32_t from, int target, const int16_t *level, int32_t h, unsigned fan,
                         int32_t *restrict out, int32_t *restrict choice) {
    for (unsigned i = 0; i < fan; i++) {
        const int32_t away = abs(target - level[i]), d = away < MOST_DIFFERENCE ? away : MOST_DIFFERENCE;
        const int32_t sum = from + d * d;
        choice[i] = sum < out[i] ? h : choice[i];
        out[i] = sum < out[i] ? sum : out[i];
    }
}

static void try_all(struct search *s, int target, uint8_t *decision) {
    const unsigned fan = 1u << s->code->bits;
    const int32_t *from = s->cost;
    const int16_t *level = s->code->level;
    for (unsigned j = 0; j < s->nodes; j++)
        s->out[j] = INT32_MAX;
    for (unsigned h = 0; h < fan; h++)
        for (unsigned j = 0; j < s->nodes; j += fan, level += fan)
            try_branches(*from++, target, level, (int32_t)h, fan, s->out + j, s->choice + j);
    for (unsigned j = 0; j < s->nodes; j++)
        decision[j] = (uint8_t)s->choice[j];
}

static void step(struct search *s, int target, uint8_t *decision) {
    try_all(s, target, decision);
    int32_t least = INT32_MAX;
    for (unsigned j = 0; j < s->nodes; j++)
        if (s->out[j] < least) least = s->out[j];
    for (unsigned j = 0; j < s->nodes; j++)
        s->out[j] = s->out[j] - least > MOST_COST ? MOST_COST : s->out[j] - least;
    int32_t *const swap = s->cost;
    s->cost = s->out;
    s->out = swap;
}

static unsigned before(const struct search *s, int i, unsigned node) {
    const unsigned h = s->decision[(size_t)i * s->nodes + node];
    return (h << (s->code->window - s->code->bits) | node) >> s->code->bits;
}

static unsigned best_node(const struct search *s) {
    unsigned best = 0;
    for (unsigned j = 1; j < s->nodes; j++)
        if (s->cost[j] < s->cost[best]) best = j;
    return best;
}

static unsigned trace(const struct search *s, unsigned node, uint8_t *symbol) {
    for (int i = ML_VITERBI_STEPS - 1; i >= 0; i--) {
        symbol[i] = (uint8_t)(node & ((1u << s->code->bits) - 1));
        node = before(s, i, node);
    }
    return node;
}

static void once_around_from(struct search *s, const int16_t *level, unsigned node) {
    for (unsigned j = 0; j < s->nodes; j++)
        s->cost[j] = j == node ? 0 : MOST_COST;
    for (int i = 0; i < ML_VITERBI_STEPS; i++)
        step(s, level[i], s->decision + (size_t)i * s->nodes);
}

static void search_wide(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                        uint8_t symbol[ML_VITERBI_STEPS], void *scratch) {
    const unsigned nodes = 1u << (c->window - c->bits);
    int32_t *costs = scratch;
    struct search s = {
        .code = c, .nodes = nodes, .cost = costs, .out = costs + nodes, .choice = costs + 2 * (size_t)nodes};
    s.decision = (uint8_t *)(costs + 3 * (size_t)nodes);

    for (unsigned j = 0; j < nodes; j++)
        s.cost[j] = 0;
    for (unsigned i = 0; i < c->overlap; i++)
        step(&s, level[ML_VITERBI_STEPS - c->overlap + i], s.decision);
    for (int i = 0; i < ML_VITERBI_STEPS; i++)
        step(&s, level[i], s.decision + (size_t)i * nodes);
    unsigned node = best_node(&s);
    for (unsigned i = 0; i < c->tries; i++) {
        const unsigned from = trace(&s, node, symbol);
        if (from == node) return;
        node = from;
    }
    once_around_from(&s, level, node);
    trace(&s, node, symbol);
}

#endif
