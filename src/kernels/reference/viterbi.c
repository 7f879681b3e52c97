/* SPDX-License-Identifier: Apache-2.0
 *
 * Trellis search in plain C: the definition that the other tiers must match state for state.
 */
#include "kernels/viterbi.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct ml_viterbi_step ml_viterbi_step_of(const struct ml_viterbi_code *c, int16_t level) {
    const int16_t centre = level < c->lowest ? c->lowest : level > c->highest ? c->highest : level;
    if (centre == level) return (struct ml_viterbi_step){level, 0, ML_VITERBI_REACH};
    const int over = abs(level - centre);
    const double twice = 2 * (over < ML_VITERBI_MARGIN ? over : ML_VITERBI_MARGIN);
    const double root = sqrt(twice * twice + 4.0 * ML_VITERBI_REACH * ML_VITERBI_REACH);
    const unsigned most = (unsigned)((root - twice) / 2);
    return (struct ml_viterbi_step){centre, (uint16_t)twice,
                                    (uint16_t)(most / (unsigned)c->grain * (unsigned)c->grain)};
}

struct search {
    const struct ml_viterbi_code *code;
    unsigned nodes;
    unsigned low;         /* 2^e - 1 */
    uint16_t *cost, *out; /* path costs before and after a step */
    uint8_t *decision;    /* [steps][nodes]: h of the branch into each node */
};

static uint16_t branch_cost(const struct search *s, unsigned state, struct ml_viterbi_step target) {
    unsigned d = (unsigned)abs(target.centre - s->code->level[state]);
    if (d > target.most) d = target.most;
    return (uint16_t)(d * (d + target.twice) & ~s->low);
}

/* The low bits of a stored path cost: of the h that the node will be when it is a predecessor. */
static unsigned tag(const struct search *s, unsigned node) {
    return node >> (s->code->window - 2 * s->code->bits) & s->low;
}

static uint16_t clipped(const struct search *s, unsigned cost) {
    return (uint16_t)((cost < ML_VITERBI_MOST_COST ? cost : ML_VITERBI_MOST_COST) & ~s->low);
}

static void start(struct search *s, int node) {
    for (unsigned j = 0; j < s->nodes; j++)
        s->cost[j] = clipped(s, node < 0 || j == (unsigned)node ? 0 : ML_VITERBI_MOST_COST) | tag(s, j);
}

static uint16_t least_cost(const struct search *s) {
    uint16_t least = 0xffff;
    for (unsigned j = 0; j < s->nodes; j++)
        if (s->cost[j] < least) least = s->cost[j];
    return (uint16_t)(least & ~s->low);
}

static void step(struct search *s, int16_t level, uint8_t *decision) {
    const unsigned k = s->code->bits, high = (1u << k) / (s->low + 1);
    const struct ml_viterbi_step target = ml_viterbi_step_of(s->code, level);
    const uint16_t floor = least_cost(s);
    for (unsigned j = 0; j < s->nodes; j++) {
        unsigned best = 0x10000, chosen = 0;
        for (unsigned hi = 0; hi < high; hi++) {
            unsigned group = 0xffff;
            for (unsigned lo = 0; lo <= s->low; lo++) {
                const unsigned state = (hi * (s->low + 1) + lo) << (s->code->window - k) | j;
                const unsigned c = (unsigned)s->cost[state >> k] + branch_cost(s, state, target);
                if (c < group) group = c;
            }
            if (group < best) {
                best = group;
                chosen = hi;
            }
        }
        decision[j] = (uint8_t)(chosen * (s->low + 1) + (best & s->low));
        s->out[j] = clipped(s, best - floor) | tag(s, j);
    }
    uint16_t *const swap = s->cost;
    s->cost = s->out;
    s->out = swap;
}

/* The predecessor of a node at a step. */
static unsigned before(const struct search *s, int i, unsigned node) {
    const unsigned h = s->decision[(size_t)i * s->nodes + node];
    return (h << (s->code->window - s->code->bits) | node) >> s->code->bits;
}

static unsigned best_node(const struct search *s) {
    unsigned best = 0;
    for (unsigned j = 1; j < s->nodes; j++)
        if ((s->cost[j] & ~s->low) < (s->cost[best] & ~s->low)) best = j;
    return best;
}

/* Backwards from a node at the end of the ring; returns where its path came from. */
static unsigned trace(const struct search *s, unsigned node, uint8_t *symbol) {
    for (int i = ML_VITERBI_STEPS - 1; i >= 0; i--) {
        symbol[i] = (uint8_t)(node & ((1u << s->code->bits) - 1));
        node = before(s, i, node);
    }
    return node;
}

/* After the first n steps from `from`: all nodes that cannot have been reached are out. */
static void exclude(struct search *s, unsigned from, unsigned n) {
    const unsigned reached = 1u << n * s->code->bits, first = (from << n * s->code->bits) & (s->nodes - 1);
    for (unsigned j = 0; j < s->nodes; j++)
        if (j - first >= reached) s->cost[j] = clipped(s, ML_VITERBI_MOST_COST) | tag(s, j);
}

static void once_around_from(struct search *s, const int16_t *level, unsigned node) {
    const unsigned k = s->code->bits, free = s->code->window - k;
    start(s, (int)node);
    for (unsigned i = 0; i < ML_VITERBI_STEPS; i++) {
        step(s, level[i], s->decision + (size_t)i * s->nodes);
        if ((i + 1) * k < free) exclude(s, node, i + 1);
    }
}

void ml_viterbi_search_reference(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                                 uint8_t symbol[ML_VITERBI_STEPS], void *scratch) {
    const unsigned nodes = 1u << (c->window - c->bits);
    uint16_t *costs = scratch;
    struct search s = {.code = c, .nodes = nodes, .low = (1u << (c->bits < 4 ? c->bits : 4)) - 1};
    s.cost = costs;
    s.out = costs + nodes;
    s.decision = (uint8_t *)(costs + 2 * (size_t)nodes);

    start(&s, -1);
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
