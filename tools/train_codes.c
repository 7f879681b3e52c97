/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes src/packing/tap_codes.c: for each bit width and window it searches the taps and the order of the
 * plain index bits, then trains the table of 2^p values with Lloyd rounds on N(0, 1) encoded exactly as the
 * quantizer encodes (tail-biting rings of 256), in float and then in int8, and measures it on samples it has
 * not seen. Tables are mirrored and, but for 2 bits, split, from the first round on (packing/tap.h).
 *
 *     train_codes            all codes, C source on stdout, what was found on stderr; an hour of one core
 *     train_codes K          only K bits
 *
 * Everything follows from the seeds below and the search is exact integer arithmetic, so the output repeats.
 */
#include "rings.h"

#include "base/cpu.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/viterbi.h"
#include "packing/codes.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    RING = ML_VITERBI_STEPS,
    TRAIN_RINGS = 4096,
    HELD_OUT_RINGS = 2048, /* s.e. of a distortion about 0.2 % */
    MAX_ENTRIES = 256,
    MAX_ORDERS = 24,
    FINALISTS = 8
};

static const uint64_t train_seed = 1, held_out_seed = 2, shake_seed = 5;

struct shape {
    unsigned bits, index_bits, max_taps;
    bool split;
};

/* Index bits by width: as many as a table look-up takes without a loss of speed (6 or 7 bits) where the
 * window makes up for it, 8 where the alphabet itself is larger. */
static const struct shape shapes[] = {
    {2, 6, 3, false}, {3, 7, 2, true}, {4, 7, 2, true}, {5, 8, 2, true}, {6, 8, 2, true}};
static const unsigned windows[] = {12, 14, 16};

/* Effort by window, since the search time doubles with each bit of it. */
struct effort {
    unsigned sift_rings, final_rings, final_rounds, tries;
};
static const struct effort efforts[] = {{96, 4096, 40, 40}, {64, 2048, 32, 30}, {48, 1024, 24, 20}};

struct candidate {
    struct ml_tap_code code; /* table and unit are filled at the end */
    unsigned order[8];       /* plain bit i counts as bit order[i] of the coset */
    float entry[MAX_ENTRIES];
    double mse;
};

struct bench {
    struct ml_viterbi_kernels kernels;
    float *train, *held_out;
    void *scratch;
};

/* Encodes and returns the mean squared error; sum and count, when given, collect targets by table entry. */
static double encode(struct bench *b, const struct ml_tap_code *code, const float *entry, const float *x,
                     unsigned rings, double *sum, double *count) {
    struct ml_viterbi_code trellis;
    struct marlin_error err;
    uint16_t state[RING];
    double total = 0;
    if (ml_viterbi_code_tap(&trellis, code, entry, &err) != MARLIN_OK) rings_fail(err.text);
    for (unsigned r = 0; r < rings; r++, x += RING) {
        total += ml_viterbi_ring(&b->kernels, &trellis, x, state, b->scratch);
        if (!sum) continue;
        for (int i = 0; i < RING; i++) {
            const unsigned e = ml_tap_index(code, state[i]);
            sum[e] += x[i];
            count[e]++;
        }
    }
    ml_viterbi_code_free(&trellis);
    return total / ((double)rings * RING);
}

/* ---- tables of the form that kernels are fast with: ml_tap_is_mirrored, ml_tap_is_split ---- */

/* For each entry with the highest own bit: the mean of the targets that it stood for, and how many those
 * were. Targets of its mirror image count as their negatives. */
struct means {
    double mean[MAX_ENTRIES], count[MAX_ENTRIES];
};

static void collect(struct bench *b, const struct candidate *c, unsigned rings, struct means *m) {
    const unsigned last = (1u << c->code.index_bits) - 1;
    const double prior = 1e-3; /* of the entry as it is, so that one never met stays */
    double sum[MAX_ENTRIES] = {0}, count[MAX_ENTRIES] = {0};
    encode(b, &c->code, c->entry, b->train, rings, sum, count);
    for (unsigned i = 0; i <= last; i++) {
        m->count[i] = count[i] + count[last - i] + prior;
        m->mean[i] = (sum[i] - sum[last - i] + prior * (double)c->entry[i]) / m->count[i];
    }
}

static double rounded(double x, double unit) {
    return unit > 0 ? rint(x / unit) * unit : x;
}

/* What the upper half of the table is above the lower one, by the bits that it depends on. */
static void fit_lifts(const struct means *m, unsigned half, unsigned top, unsigned on, double unit,
                      double *lift) {
    double weight[MAX_ENTRIES] = {0};
    memset(lift, 0, MAX_ENTRIES * sizeof *lift);
    for (unsigned i = 0; i < half; i++) {
        if (!(i & top)) continue;
        const double w = m->count[i] * m->count[i + half] / (m->count[i] + m->count[i + half]);
        lift[i & on] += w * (m->mean[i + half] - m->mean[i]);
        weight[i & on] += w;
    }
    for (unsigned i = 0; i < half; i++)
        if (weight[i] > 0) lift[i] = rounded(lift[i] / weight[i], unit);
}

/* The table of that form that is nearest to the means; of whole units, 127 at most, unless unit is 0. */
static void fit_table(const struct shape *s, const struct means *m, double unit, struct candidate *c) {
    const unsigned half = 1u << (s->index_bits - 1), last = 2 * half - 1, top = 1u << (s->bits - 1);
    const unsigned on = s->split ? ml_tap_lift_bits(&c->code) : half - 1;
    const double most = unit > 0 ? 127 * unit : INFINITY;
    double lift[MAX_ENTRIES];
    fit_lifts(m, half, top, on, unit, lift);
    for (unsigned i = 0; i < half; i++) {
        if (!(i & top)) continue;
        const double d = lift[i & on], n0 = m->count[i], n1 = m->count[i + half];
        const double mean = (n0 * m->mean[i] + n1 * (m->mean[i + half] - d)) / (n0 + n1);
        const double low = fmin(fmax(rounded(mean, unit), fmax(0, -d)), most - fmax(0, d));
        c->entry[i] = (float)low;
        c->entry[i + half] = (float)(low + d);
        c->entry[last - i] = -c->entry[i];
        c->entry[last - i - half] = -c->entry[i + half];
    }
}

/* Moves each entry towards the mean of what it stood for, by more than all the way while that still helps. */
static void lloyd(struct bench *b, const struct shape *s, struct candidate *c, double unit, unsigned rings,
                  unsigned rounds, double relax) {
    struct means m;
    for (unsigned r = 0; r < rounds; r++) {
        collect(b, c, rings, &m);
        const double step = r + rounds / 4 < rounds ? relax : 1;
        for (unsigned i = 0; i < 1u << s->index_bits; i++)
            m.mean[i] = (double)c->entry[i] + step * (m.mean[i] - (double)c->entry[i]);
        fit_table(s, &m, unit, c);
    }
}

/* Lloyd rounds end in one of many optima: tries others near it, and keeps the best. */
static void shake(struct bench *b, const struct shape *s, struct candidate *best, double unit, unsigned rings,
                  unsigned tries) {
    static const double reach[] = {0.5, 0.25, 0.12}; /* of the error of a weight */
    struct ml_rng rng;
    ml_rng_seed(&rng, shake_seed);
    best->mse = encode(b, &best->code, best->entry, b->train, rings, NULL, NULL);
    for (unsigned t = 0; t < tries; t++) {
        struct candidate c = *best;
        struct means m;
        for (unsigned i = 0; i < 1u << s->index_bits; i++) {
            m.mean[i] = (double)c.entry[i] + reach[t % 3] * sqrt(best->mse) * (double)ml_rng_normal(&rng);
            m.count[i] = 1;
        }
        fit_table(s, &m, unit, &c);
        lloyd(b, s, &c, unit, rings, 14, 1.6);
        c.mse = encode(b, &c.code, c.entry, b->train, rings, NULL, NULL);
        if (c.mse < best->mse) *best = c;
    }
}

static double normal_quantile(double p) {
    double low = -9, high = 9;
    for (int i = 0; i < 60; i++) {
        const double mid = (low + high) / 2;
        if (0.5 * erfc(-mid / sqrt(2)) < p)
            low = mid;
        else
            high = mid;
    }
    return low;
}

/* Quantiles of the normal distribution, ranked by the filtered bits first and the plain bits second: the two
 * ends of a plain bit are neighbours, so a coset covers the whole range. The more bits, the further the
 * levels reach into the tails (a factor `spread`, in theory towards sqrt 3), and Lloyd rounds are slow to get
 * there. */
static void first_table(struct candidate *c, double spread) {
    const unsigned k = c->code.bits, p = c->code.index_bits, plain = p - k;
    for (unsigned i = 0; i < 1u << p; i++) {
        unsigned rank = (i & ((1u << k) - 1)) << plain;
        for (unsigned b = 0; b < plain; b++)
            rank |= (i >> (k + b) & 1) << c->order[b];
        c->entry[i] = (float)(spread * normal_quantile((rank + 0.5) / (1u << p)));
    }
}

static unsigned all_orders(unsigned n, unsigned orders[MAX_ORDERS][8]) {
    unsigned count = 0, digits = 1;
    for (unsigned i = 0; i < n; i++)
        digits *= n;
    for (unsigned code = 0; code < digits; code++) {
        unsigned seen = 0, rest = code, order[8] = {0};
        for (unsigned i = 0; i < n; i++, rest /= n) {
            order[i] = rest % n;
            seen |= 1u << order[i];
        }
        if (seen == (1u << n) - 1) memcpy(orders[count++], order, sizeof order);
    }
    return count;
}

/* The sets of taps that end the window. Others reach no further than the encoder's fast path allows, where
 * there is one (up to 4 bits). */
static unsigned all_taps(const struct shape *s, unsigned window, uint8_t taps[][ML_TAP_MAX_TAPS]) {
    const unsigned last = window - s->bits;
    const unsigned most = s->bits <= 4 ? window - 2 * s->bits : last - 1;
    unsigned count = 0;
    for (unsigned a = 1; a <= most; a++) {
        memcpy(taps[count++], (uint8_t[]){(uint8_t)a, (uint8_t)last, 0}, ML_TAP_MAX_TAPS);
        for (unsigned m = a + 1; m <= most && s->max_taps == 3; m++)
            memcpy(taps[count++], (uint8_t[]){(uint8_t)a, (uint8_t)m, (uint8_t)last}, ML_TAP_MAX_TAPS);
    }
    return count;
}

/* Keeps the best n in order. */
static void keep(struct candidate *best, unsigned n, const struct candidate *c) {
    unsigned at = n;
    while (at > 0 && c->mse < best[at - 1].mse)
        at--;
    if (at == n) return;
    memmove(best + at + 1, best + at, (n - at - 1) * sizeof *best);
    best[at] = *c;
}

static struct candidate start(const struct shape *s, unsigned window, const uint8_t *taps,
                              const unsigned *order, double spread) {
    struct candidate c = {.code = {.bits = (uint8_t)s->bits,
                                   .window = (uint8_t)window,
                                   .index_bits = (uint8_t)s->index_bits,
                                   .unit = 1}};
    memcpy(c.code.taps, taps, sizeof c.code.taps);
    memcpy(c.order, order, sizeof c.order);
    first_table(&c, spread);
    return c;
}

static void rate(struct bench *b, const struct shape *s, struct candidate *c, unsigned rings) {
    lloyd(b, s, c, 0, rings, 6, 1.5);
    c->mse = encode(b, &c->code, c->entry, b->train, 2 * rings, NULL, NULL);
}

/* The spread that suits the width, by a code in the middle of the search. */
static double choose_spread(struct bench *b, const struct shape *s, unsigned window, const struct effort *e,
                            const uint8_t *taps, const unsigned *order) {
    double best = 0, least = INFINITY;
    for (int percent = 90; percent <= 190; percent += 5) {
        struct candidate c = start(s, window, taps, order, percent / 100.0);
        rate(b, s, &c, e->sift_rings);
        if (c.mse >= least) continue;
        least = c.mse;
        best = percent / 100.0;
    }
    fprintf(stderr, "k=%u L=%u: spread %.2f\n", s->bits, window, best);
    return best;
}

/* Tries every set of taps with every given order; finalists come out best first. */
static void sift(struct bench *b, const struct shape *s, unsigned window, const struct effort *e,
                 unsigned (*orders)[8], unsigned order_count, struct candidate *finalists) {
    uint8_t taps[128][ML_TAP_MAX_TAPS];
    const unsigned tap_count = all_taps(s, window, taps);
    const double spread = choose_spread(b, s, window, e, taps[tap_count / 2], orders[0]);
    for (unsigned i = 0; i < FINALISTS; i++)
        finalists[i].mse = INFINITY;
    for (unsigned t = 0; t < tap_count; t++)
        for (unsigned o = 0; o < order_count; o++) {
            struct candidate c = start(s, window, taps[t], orders[o], spread);
            rate(b, s, &c, e->sift_rings);
            keep(finalists, FINALISTS, &c);
        }
}

/* int8 steps of the size that costs least: the largest entry need not be 127, nor fit. */
static void round_table(struct bench *b, const struct shape *s, struct candidate *c, unsigned rings) {
    float most = 0;
    for (unsigned i = 0; i < 1u << s->index_bits; i++)
        most = fmaxf(most, fabsf(c->entry[i]));
    struct candidate best = {.mse = INFINITY};
    for (int f = 70; f <= 104; f += 2) {
        struct candidate at = *c;
        at.code.unit = most * (float)f / (100 * 127);
        for (int round = 0; round < 4; round++) {
            lloyd(b, s, &at, (double)at.code.unit, rings, 1, 1);
            at.mse = encode(b, &at.code, at.entry, b->train, rings, NULL, NULL);
            if (at.mse < best.mse) best = at;
        }
    }
    *c = best;
}

static void describe(const char *what, const struct candidate *c, double mse) {
    fprintf(stderr, "k=%u L=%u p=%u taps %u,%u,%u order", c->code.bits, c->code.window, c->code.index_bits,
            c->code.taps[0], c->code.taps[1], c->code.taps[2]);
    for (unsigned i = 0; i < (unsigned)(c->code.index_bits - c->code.bits); i++)
        fprintf(stderr, " %u", c->order[i]);
    fprintf(stderr, ": %s %.6f\n", what, mse);
}

static void print_code(const struct ml_tap_code *t, double mse) {
    printf("    /* %u bits, window %u: distortion %.5f */\n", t->bits, t->window, mse);
    printf("    {%u, %u, %u, {%u, %u, %u}, %af, {", t->bits, t->window, t->index_bits, t->taps[0], t->taps[1],
           t->taps[2], (double)t->unit);
    for (unsigned i = 0; i < 1u << t->index_bits; i++)
        printf("%s%d", i ? ", " : "", t->table[i]);
    printf("}},\n");
    fflush(stdout);
}

/* A candidate in int8, trained further. */
static struct candidate whole(struct bench *b, const struct shape *s, const struct candidate *c,
                              unsigned rings, unsigned tries) {
    struct candidate best = *c;
    round_table(b, s, &best, rings / 2);
    shake(b, s, &best, (double)best.code.unit, rings, tries);
    return best;
}

/* Finalists are trained further, the best of them to convergence. With 256 entries int8 steps are as far
 * apart as the levels, and what rounds well comes before what is best in float. */
static struct candidate train(struct bench *b, const struct shape *s, const struct effort *e,
                              struct candidate *finalists) {
    struct candidate best = {.mse = INFINITY}, best_whole = {.mse = INFINITY};
    for (unsigned i = 0; i < FINALISTS && finalists[i].mse < INFINITY; i++) {
        lloyd(b, s, &finalists[i], 0, e->final_rings / 2, 20, 1.6);
        shake(b, s, &finalists[i], 0, e->final_rings / 2, e->tries / 6);
        struct candidate in_int8 = finalists[i];
        if (s->index_bits == 8) in_int8 = whole(b, s, &finalists[i], e->final_rings / 4, e->tries / 6);
        in_int8.mse = encode(b, &in_int8.code, in_int8.entry, b->train, e->final_rings, NULL, NULL);
        describe("finalist", &in_int8, in_int8.mse);
        if (in_int8.mse >= best_whole.mse) continue;
        best = finalists[i];
        best_whole = in_int8;
    }
    lloyd(b, s, &best, 0, e->final_rings, e->final_rounds, 1.6);
    shake(b, s, &best, 0, e->final_rings, e->tries);
    lloyd(b, s, &best, 0, e->final_rings, 8, 1);
    describe("float", &best, encode(b, &best.code, best.entry, b->held_out, HELD_OUT_RINGS / 2, NULL, NULL));
    best = whole(b, s, &best, e->final_rings, e->tries);
    return s->index_bits == 8 && best_whole.mse < best.mse ? best_whole : best;
}

static unsigned add_order(unsigned orders[MAX_ORDERS][8], unsigned count, const unsigned order[8]) {
    for (unsigned i = 0; i < count; i++)
        if (memcmp(orders[i], order, sizeof orders[i]) == 0) return count;
    memcpy(orders[count], order, sizeof orders[count]);
    return count + 1;
}

static unsigned held_out_rings(unsigned window) {
    return window == 16 ? HELD_OUT_RINGS / 2 : HELD_OUT_RINGS;
}

/* Longer windows inherit the orders that won at the shortest. */
static void one_width(struct bench *b, const struct shape *s) {
    unsigned orders[MAX_ORDERS][8];
    unsigned order_count = all_orders(s->index_bits - s->bits, orders);
    for (size_t w = 0; w < sizeof windows / sizeof *windows; w++) {
        struct candidate finalists[FINALISTS];
        const unsigned rings = held_out_rings(windows[w]);
        sift(b, s, windows[w], &efforts[w], orders, order_count, finalists);
        if (w == 0) {
            order_count = 0;
            for (unsigned i = 0; i < FINALISTS; i++)
                order_count = add_order(orders, order_count, finalists[i].order);
        }
        struct candidate best = train(b, s, &efforts[w], finalists);
        for (unsigned i = 0; i < 1u << s->index_bits; i++)
            best.code.table[i] = (int8_t)rintf(best.entry[i] / best.code.unit);
        const double mse = encode(b, &best.code, NULL, b->held_out, rings, NULL, NULL);
        describe("int8", &best, mse);
        print_code(&best.code, mse);
    }
}

static const char head[] = "/* SPDX-License-Identifier: Apache-2.0\n"
                           " *\n"
                           " * Made by tools/train_codes; do not edit. Mean squared errors are of N(0, 1) "
                           "samples that training did not\n"
                           " * see, in tail-biting rings of 256.\n"
                           " */\n"
                           "#include \"packing/codes.h\"\n\n"
                           "static const struct ml_tap_code codes[] = {\n";
static const char tail[] =
    "};\n\n"
    "enum { COUNT = sizeof codes / sizeof *codes };\n\n"
    "const struct ml_tap_code *ml_tap_code_find(unsigned bits, unsigned window) {\n"
    "    for (size_t i = 0; i < COUNT; i++)\n"
    "        if (codes[i].bits == bits && codes[i].window == window) return &codes[i];\n"
    "    return NULL;\n"
    "}\n\n"
    "const struct ml_tap_code *ml_tap_codes(size_t *count) {\n"
    "    *count = COUNT;\n"
    "    return codes;\n"
    "}\n";

int main(int argc, char **argv) {
    const unsigned only = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
    struct bench b;
    ml_viterbi_kernels_init(&b.kernels, ml_cpu()->tier);
    b.train = rings_samples(train_seed, TRAIN_RINGS);
    b.held_out = rings_samples(held_out_seed, HELD_OUT_RINGS);
    b.scratch = ml_alloc_aligned((size_t)16 << 20);
    if (!b.scratch) rings_fail("no memory for the search");

    fputs(head, stdout);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (only == 0 || only == shapes[i].bits) one_width(&b, &shapes[i]);
    fputs(tail, stdout);

    ml_free(b.train);
    ml_free(b.held_out);
    ml_free_aligned(b.scratch);
    return 0;
}
