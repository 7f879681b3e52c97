/* SPDX-License-Identifier: Apache-2.0
 *
 * Trellis search on 16-bit lanes, the same text for every instruction set. The including file defines
 *   vec, LANES, LANE_BITS                                         a vector of LANES uint16
 *   v_load, v_store, v_set1, v_add, v_add_sat, v_sub,
 *   v_sub_sat_signed, v_abs, v_min, v_mul, v_and, v_or, v_shl     what their names say, lane by lane
 *   v_pick(better, a, x, y)              lane by lane better < *a ? x : y; *a becomes the lesser of the two
 *   v_expand(p, bits, v_spread(bits))    lane i = p[i >> bits], for bits < LANE_BITS
 *   v_permute(v, v_swap(d))              lane i = v[i ^ d]; only where V_HAS_PERMUTE is defined
 *   v_least                              the least lane
 * and gets one function, search().
 *
 * A step goes over the nodes after it in natural order, LANES at a time. Their predecessors for one h are
 * consecutive nodes, each 2^k times (v_expand). Where the code's index is linear, the branch costs of LANES
 * nodes are the 2^p costs permuted by an exclusive or: only 2^k of them for each value of the high index bits
 * exist, so they are made once a step and then only loaded. Decisions stay in their 16-bit lanes, PER of them
 * side by side, which keeps those of 256 steps inside the L2 cache (64 KiB at L = 12, 1 MiB at L = 16).
 */
#include "kernels/viterbi.h"

#include <stdbool.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

struct search {
    const struct ml_viterbi_code *code;
    unsigned nodes;
    bool near; /* no difference exceeds REACH: seen with 1 bit */
    uint16_t *cost, *out;
    uint16_t *decision;                                    /* [steps][nodes / per] */
    uint16_t tag[16 * LANES] __attribute__((aligned(64))); /* [node / most of LANES and 2^(L - 2k) mod 16] */
    /* Linear codes: the costs of the branches h into nodes j.. are set (joff[j / LANES] ^
     * hoff[h]) / LANES. */
    unsigned sets;      /* 0: not used */
    uint16_t *set_cost; /* [sets][LANES] */
    int16_t *set_level; /* [sets][LANES] */
    uint16_t *joff;
    uint16_t hoff[64];
#ifdef V_HAS_PERMUTE
    uint16_t swap[LANES * LANES]; /* [h]: what makes set h from set 0 */
#endif
};

/* Decisions in one 16-bit lane: a power of two, so that it divides the number of vectors. */
INLINE unsigned decisions_per_lane(unsigned k) {
    return k == 1 ? 16 : k == 2 ? 8 : k <= 4 ? 4 : 2;
}

INLINE unsigned low_bits(unsigned k) {
    return (1u << (k < 4 ? k : 4)) - 1;
}

INLINE unsigned tag_of(const struct ml_viterbi_code *c, unsigned node) {
    return node >> (c->window - 2 * c->bits) & low_bits(c->bits);
}

struct target {
    vec centre, twice, most;
};

/* Where the costs of a step come from. */
enum costs {
    SETS,       /* linear codes: made once a step */
    TABLE_NEAR, /* of a code without index that is nowhere wider than REACH; target within the table */
    TABLE,      /* of a code without index, whose levels leave the low bits of a cost clear; target within the
                   table */
    TABLE_BEYOND, /* the same, target beyond the table */
    ANY
};

INLINE vec branch_cost(const struct target *t, const int16_t *level, vec keep, const enum costs costs) {
    const vec away = v_sub(t->centre, v_load((const uint16_t *)level));
    if (costs == TABLE_NEAR) return v_mul(away, away);
    const vec d = v_min(v_abs(away), t->most);
    const vec cost = v_mul(d, costs == TABLE ? d : v_add(d, t->twice));
    return costs == ANY ? v_and(cost, keep) : cost;
}

/* ---- preparation of linear codes */

static unsigned index_of(const struct ml_viterbi_code *c, unsigned state) {
    unsigned index = 0;
    for (unsigned b = 0; b < c->window; b++)
        if (state >> b & 1) index ^= c->basis[b];
    return index;
}

static uint16_t set_number(const struct ml_viterbi_code *c, unsigned state) {
    const unsigned index = index_of(c, state), k = c->bits, plain = k > LANE_BITS ? k : LANE_BITS;
    return (uint16_t)((index & ((1u << k) - 1)) | index >> plain << k);
}

/* Worth it when each set is used at least twice a step; possible when the branches of a node see the same
 * lanes. */
static unsigned count_sets(const struct ml_viterbi_code *c, unsigned nodes) {
    const unsigned k = c->bits, plain = k > LANE_BITS ? k : LANE_BITS;
    if (c->index_bits == 0) return 0;
    for (unsigned h = 0; h < 1u << k; h++)
        if (index_of(c, h * nodes) & ((1u << plain) - 1) & ~((1u << k) - 1)) return 0;
    for (unsigned h = 0; k <= 4 && h < 1u << k; h++)
        if (set_number(c, h * nodes) != h) return 0;
    const unsigned sets = 1u << (k + (c->index_bits > plain ? c->index_bits - plain : 0));
    return sets * 2 * LANES <= 1u << c->window ? sets : 0;
}

static void make_sets(struct search *s) {
    const struct ml_viterbi_code *c = s->code;
    const unsigned k = c->bits, plain = k > LANE_BITS ? k : LANE_BITS;
    unsigned lane[LANES];
    for (unsigned i = 0; i < LANES; i++)
        lane[i] = index_of(c, i);
    for (unsigned v = 0; v < s->sets; v++) {
        const unsigned index = (v & ((1u << k) - 1)) | v >> k << plain;
        for (unsigned i = 0; i < LANES; i++)
            s->set_level[v * LANES + i] = c->index_level[index ^ lane[i]];
    }
    for (unsigned j = 0; j < s->nodes / LANES; j++)
        s->joff[j] = (uint16_t)(set_number(c, j * LANES) * LANES);
    for (unsigned h = 0; h < 1u << k; h++)
        s->hoff[h] = (uint16_t)(set_number(c, h * s->nodes) * LANES);
#ifdef V_HAS_PERMUTE
    for (unsigned d = 0; k <= LANE_BITS && d < 1u << k; d++)
        v_store(s->swap + index_of(c, d) * LANES, v_swap(d));
#endif
}

/* ---- one step */

/* What a step reads, in locals: nothing that a store of a vector might change, so nothing is read twice. */
struct step {
    const uint16_t *in, *set_cost, *hoff;
    const int16_t *level;
    unsigned from; /* nodes between the predecessors for h and for h + 1 */
    struct target target;
    vec keep, spread;
};

INLINE vec candidate(const struct step *s, unsigned h, unsigned j, unsigned set, const unsigned k,
                     const enum costs costs) {
    vec cost;
    if (costs == SETS)
        cost = v_load(s->set_cost + (set ^ (k <= 4 ? h * LANES : s->hoff[h])));
    else
        cost = branch_cost(
            &s->target, s->level + (j / ML_VITERBI_BLOCK << k | h) * ML_VITERBI_BLOCK + j % ML_VITERBI_BLOCK,
            s->keep, costs);
    const uint16_t *p = s->in + h * s->from + (j >> k);
    return v_add(k >= LANE_BITS ? v_set1(*p) : v_expand(p, k, s->spread), cost);
}

/* Best branches into LANES nodes from j on; *h becomes the chosen ones. */
INLINE vec select_branches(const struct step *s, unsigned j, unsigned set, vec *h, const unsigned k,
                           const enum costs costs) {
    const unsigned low = low_bits(k);
    vec best = v_set1(0xffff), high = v_set1(0);
    for (unsigned hi = 0; hi < (1u << k) / (low + 1); hi++) {
        vec group = candidate(s, hi * (low + 1), j, set, k, costs);
        for (unsigned lo = 1; lo <= low; lo++)
            group = v_min(group, candidate(s, hi * (low + 1) + lo, j, set, k, costs));
        if (hi == 0)
            best = group;
        else
            high = v_pick(group, &best, v_set1((uint16_t)(hi * (low + 1))), high);
    }
    *h = v_or(high, v_and(best, v_set1((uint16_t)low)));
    return best;
}

INLINE void make_set_costs(const struct search *s, const struct step *t, const unsigned k) {
    uint16_t *cost = s->set_cost;
    const int16_t *level = s->set_level;
#ifdef V_HAS_PERMUTE
    /* The 2^k sets of one value of the high index bits hold the same costs in other lanes. */
    if (k <= LANE_BITS) {
        const unsigned family = LANES << k, families = s->sets >> k;
        for (unsigned f = 0; f < families; f++, cost += family, level += family) {
            const vec first = branch_cost(&t->target, level, t->keep, ANY);
            for (unsigned d = 0; d < family; d += LANES)
                v_store(cost + d, v_permute(first, v_load(s->swap + d)));
        }
        return;
    }
#endif
    (void)k;
    for (unsigned i = 0; i < s->sets * LANES; i += LANES)
        v_store(cost + i, branch_cost(&t->target, level + i, t->keep, ANY));
}

/* Returns the least path cost after the step. */
INLINE uint16_t step_k(struct search *s, struct ml_viterbi_step of, uint16_t floor, uint16_t *decision,
                       const unsigned k, const enum costs costs) {
    const unsigned low = low_bits(k), per = decisions_per_lane(k), window = s->code->window;
    const unsigned tag_shift = window - 2 * k, nodes = s->nodes;
    const struct step t = {.in = s->cost,
                           .set_cost = s->set_cost,
                           .hoff = s->hoff,
                           .level = s->code->branch,
                           .from = 1u << tag_shift,
                           .target = {v_set1((uint16_t)of.centre), v_set1(of.twice), v_set1(of.most)},
                           .keep = v_set1((uint16_t)(0xffff & ~low)),
                           .spread = v_spread(k)};
    const vec sink = v_set1(floor), most = v_set1(ML_VITERBI_MOST_COST);
    const unsigned tag_step = tag_shift > LANE_BITS ? tag_shift : LANE_BITS;
    const uint16_t *set = s->joff;
    uint16_t *out = s->out;
    vec least = v_set1(0xffff);

    if (costs == SETS) make_set_costs(s, &t, k);
    for (unsigned j = 0; j < nodes; decision += LANES) {
        vec taken = v_set1(0);
        for (unsigned i = 0; i < per; i++, j += LANES) {
            vec h;
            const vec best = select_branches(&t, j, costs == SETS ? *set++ : 0, &h, k, costs);
            taken = v_or(v_shl(taken, k), h);
            const vec tag = v_load(s->tag + (j >> tag_step & 15) * LANES);
            const vec cost = v_or(v_and(v_min(v_sub(best, sink), most), t.keep), tag);
            least = v_min(least, cost);
            v_store(out + j, cost);
        }
        v_store(decision, taken);
    }
    s->out = s->cost;
    s->cost = out;
    return (uint16_t)(v_least(least) & ~low);
}

/* ---- a run of steps, and the search */

INLINE unsigned chosen(const struct search *s, int i, unsigned node, const unsigned k) {
    const unsigned per = decisions_per_lane(k), group = node / LANES / per;
    const uint16_t *decision = s->decision + (size_t)i * (s->nodes / per);
    const unsigned place = per - 1 - node / LANES % per;
    return (unsigned)decision[group * LANES + node % LANES] >> (place * k) & ((1u << k) - 1);
}

INLINE unsigned before(const struct search *s, int i, unsigned node, const unsigned k) {
    return (chosen(s, i, node, k) << (s->code->window - k) | node) >> k;
}

static uint16_t excluded(const struct search *s, unsigned node) {
    return (uint16_t)((ML_VITERBI_MOST_COST & ~low_bits(s->code->bits)) | tag_of(s->code, node));
}

static void start(struct search *s, int node) {
    for (unsigned j = 0; j < s->nodes; j++)
        s->cost[j] = node < 0 || j == (unsigned)node ? (uint16_t)tag_of(s->code, j) : excluded(s, j);
}

/* After the first n steps from `from`: all nodes that cannot have been reached are out. Returns the least
 * cost. */
static uint16_t exclude(struct search *s, unsigned from, unsigned n) {
    const unsigned reached = 1u << n * s->code->bits, first = (from << n * s->code->bits) & (s->nodes - 1);
    uint16_t least = 0xffff;
    for (unsigned j = 0; j < s->nodes; j++) {
        if (j - first >= reached) s->cost[j] = excluded(s, j);
        if (s->cost[j] < least) least = s->cost[j];
    }
    return (uint16_t)(least & ~low_bits(s->code->bits));
}

static unsigned best_node(const struct search *s) {
    const unsigned low = low_bits(s->code->bits);
    unsigned best = 0;
    for (unsigned j = 1; j < s->nodes; j++)
        if ((s->cost[j] & ~low) < (s->cost[best] & ~low)) best = j;
    return best;
}

INLINE uint16_t step_at(struct search *s, int16_t level, uint16_t floor, int row, const unsigned k,
                        const bool sets) {
    const struct ml_viterbi_step of = ml_viterbi_step_of(s->code, level);
    uint16_t *decision = s->decision + (size_t)row * (s->nodes / decisions_per_lane(k));
    if (sets) return step_k(s, of, floor, decision, k, SETS);
    if (s->code->index_bits > 0) return step_k(s, of, floor, decision, k, ANY);
    if (of.twice == 0 && k == 1 && s->near) return step_k(s, of, floor, decision, k, TABLE_NEAR);
    if (of.twice == 0) return step_k(s, of, floor, decision, k, TABLE);
    return step_k(s, of, floor, decision, k, TABLE_BEYOND);
}

/* Backwards from a node at the end of the ring; returns where its path came from. */
INLINE unsigned trace(const struct search *s, unsigned node, uint8_t *symbol, const unsigned k) {
    for (int i = ML_VITERBI_STEPS - 1; i >= 0; i--) {
        symbol[i] = (uint8_t)(node & ((1u << k) - 1));
        node = before(s, i, node, k);
    }
    return node;
}

INLINE void search_k(struct search *s, const int16_t *level, uint8_t *symbol, const unsigned k,
                     const bool sets) {
    const int overlap = (int)s->code->overlap;
    uint16_t floor = 0;
    unsigned node = 0;
    /* Once around after the overlap; then, if need be, from the node that was found and from no other. */
    for (int again = 0; again < 2; again++) {
        start(s, again ? (int)node : -1);
        floor = 0;
        for (int i = again ? 0 : -overlap; i < ML_VITERBI_STEPS; i++) {
            floor =
                step_at(s, level[(i + ML_VITERBI_STEPS) % ML_VITERBI_STEPS], floor, i < 0 ? 0 : i, k, sets);
            if (again && (unsigned)(i + 1) * k < s->code->window - k)
                floor = exclude(s, node, (unsigned)i + 1);
        }
        if (!again) node = best_node(s);
        for (unsigned i = 0; i < (again ? 1 : s->code->tries); i++) {
            const unsigned from = trace(s, node, symbol, k);
            if (from == node) return;
            node = from;
        }
    }
}

#define SEARCH(k)                                                                                            \
    static void search_##k(struct search *s, const int16_t *level, uint8_t *symbol) {                        \
        if (s->sets)                                                                                         \
            search_k(s, level, symbol, k, true);                                                             \
        else                                                                                                 \
            search_k(s, level, symbol, k, false);                                                            \
    }
SEARCH(1)
SEARCH(2)
SEARCH(3)
SEARCH(4)
SEARCH(5)
SEARCH(6)
SEARCH(7)
SEARCH(8)

/* Carves 64-byte aligned pieces from the scratch, whose size ml_viterbi_scratch knows. */
static void *carve(uint8_t **at, size_t bytes) {
    void *p = *at;
    *at += (bytes + 63) / 64 * 64;
    return p;
}

static void search(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                   uint8_t symbol[ML_VITERBI_STEPS], void *scratch) {
    static void (*const by_bits[])(struct search *, const int16_t *, uint8_t *) = {
        NULL, search_1, search_2, search_3, search_4, search_5, search_6, search_7, search_8};
    const unsigned nodes = 1u << (c->window - c->bits), per = decisions_per_lane(c->bits);
    if (c->window < 2 * c->bits || nodes < LANES * per ||
        nodes < ML_VITERBI_BLOCK) { /* tiny ones are for tests */
        ml_viterbi_search_reference(c, level, symbol, scratch);
        return;
    }
    struct search s = {.code = c, .nodes = nodes, .sets = count_sets(c, nodes)};
    s.near = c->highest - c->lowest <= ML_VITERBI_REACH;
    uint8_t *at = scratch;
    s.cost = carve(&at, nodes * sizeof *s.cost);
    s.out = carve(&at, nodes * sizeof *s.out);
    s.decision = carve(&at, (size_t)ML_VITERBI_STEPS * (nodes / per) * sizeof *s.decision);
    s.set_cost = carve(&at, (size_t)s.sets * LANES * sizeof *s.set_cost);
    s.set_level = carve(&at, (size_t)s.sets * LANES * sizeof *s.set_level);
    s.joff = carve(&at, nodes / LANES * sizeof *s.joff);
    if (s.sets) make_sets(&s);
    const unsigned tag_shift = c->window - 2 * c->bits,
                   tag_step = tag_shift > LANE_BITS ? tag_shift : LANE_BITS;
    for (unsigned i = 0; i < 16 * LANES; i++)
        s.tag[i] = (uint16_t)tag_of(c, (i / LANES << tag_step) + i % LANES);
    by_bits[c->bits](&s, level, symbol);
}
