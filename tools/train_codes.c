/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes src/packing/tap_codes.c: for each bit width and window it searches the taps and the order of the
 * plain index bits, then trains the table of 2^p values with Lloyd rounds on N(0, 1) encoded exactly as the
 * quantizer encodes (tail-biting rings of 256), rounds it to int8, mirrors it and measures it on
 * samples it has not seen.
 *
 *     train_codes            all codes, C source on stdout, what was found on stderr
 *     train_codes K          only K bits
 *     train_codes mirror     the library's codes again, trained no more, only mirrored and measured
 *
 * Everything follows from the seeds below and the search is exact integer arithmetic, so the output repeats.
 */
#include "rings.h"

#include "base/cpu.h"
#include "base/mem.h"
#include "kernels/viterbi.h"
#include "packing/codes.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    RING = ML_VITERBI_STEPS,
    TRAIN_RINGS = 512,
    HELD_OUT_RINGS = 2048, /* s.e. of a distortion about 0.2 % */
    MAX_ENTRIES = 256,
    MAX_ORDERS = 24,
    FINALISTS = 4
};

static const uint64_t train_seed = 1, held_out_seed = 2;

struct shape {
    unsigned bits, index_bits, max_taps;
};

/* Index bits by width: as many as a table look-up takes without a loss of speed (6 or 7 bits) where the
 * window makes up for it, 8 where the alphabet itself is larger. */
static const struct shape shapes[] = {{2, 6, 3}, {3, 7, 2}, {4, 7, 2}, {5, 8, 2}, {6, 8, 2}};
static const unsigned windows[] = {12, 14, 16};

/* Effort by window, since the search time doubles with each bit of it. */
struct effort {
    unsigned sift_rings, final_rings, final_rounds;
};
static const struct effort efforts[] = {{48, 512, 48}, {32, 512, 32}, {32, 384, 20}};

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

/* Moves each entry towards the mean of what it stood for, by more than all the way while that still helps. */
static void lloyd(struct bench *b, struct candidate *c, unsigned rings, unsigned rounds, double relax) {
    double sum[MAX_ENTRIES], count[MAX_ENTRIES];
    for (unsigned r = 0; r < rounds; r++) {
        memset(sum, 0, sizeof sum);
        memset(count, 0, sizeof count);
        encode(b, &c->code, c->entry, b->train, rings, sum, count);
        const double step = r + rounds / 4 < rounds ? relax : 1;
        for (unsigned i = 0; i < 1u << c->code.index_bits; i++)
            if (count[i] > 0) c->entry[i] += (float)(step * (sum[i] / count[i] - c->entry[i]));
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

static void rate(struct bench *b, struct candidate *c, unsigned rings) {
    lloyd(b, c, rings, 4, 1.5);
    c->mse = encode(b, &c->code, c->entry, b->train, 2 * rings, NULL, NULL);
}

/* The spread that suits the width, by a code in the middle of the search. */
static double choose_spread(struct bench *b, const struct shape *s, unsigned window, const struct effort *e,
                            const uint8_t *taps, const unsigned *order) {
    double best = 0, least = INFINITY;
    for (int percent = 90; percent <= 190; percent += 5) {
        struct candidate c = start(s, window, taps, order, percent / 100.0);
        rate(b, &c, e->sift_rings);
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
            rate(b, &c, e->sift_rings);
            keep(finalists, FINALISTS, &c);
        }
}

/* int8 steps of the size that costs least: the largest entry need not be 127, nor fit. */
static void round_table(struct bench *b, struct candidate *c, unsigned rings) {
    float most = 0;
    for (unsigned i = 0; i < 1u << c->code.index_bits; i++)
        most = fmaxf(most, fabsf(c->entry[i]));
    struct ml_tap_code best = c->code;
    double least = INFINITY;
    for (int f = 70; f <= 104; f += 2) {
        struct ml_tap_code code = c->code;
        code.unit = most * (float)f / (100 * 127);
        for (unsigned i = 0; i < 1u << code.index_bits; i++)
            code.table[i] = (int8_t)fmaxf(-127, fminf(127, rintf(c->entry[i] / code.unit)));
        const double mse = encode(b, &code, NULL, b->train, rings, NULL, NULL);
        if (mse >= least) continue;
        least = mse;
        best = code;
    }
    c->code = best;
}

/* Makes complementing an index negate its entry, exactly: training leaves only noise between the two, and
 * kernels need look up half of such a table (ml_tap_is_mirrored). */
static void mirror_table(struct ml_tap_code *c) {
    const unsigned last = (1u << c->index_bits) - 1, highest = 1u << (c->bits - 1);
    for (unsigned i = 0; i <= last; i++) {
        if (!(i & highest)) continue;
        const int twice = c->table[i] - c->table[last - i], half = twice > 0 ? (twice + 1) / 2 : 0;
        c->table[i] = (int8_t)(half < 127 ? half : 127);
        c->table[last - i] = (int8_t)-c->table[i];
    }
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

/* Finalists are trained further, the best of them to convergence. */
static struct candidate train(struct bench *b, const struct effort *e, struct candidate *finalists) {
    for (unsigned i = 0; i < FINALISTS; i++) {
        lloyd(b, &finalists[i], e->final_rings / 4, 12, 1.6);
        finalists[i].mse =
            encode(b, &finalists[i].code, finalists[i].entry, b->held_out, e->final_rings / 2, NULL, NULL);
        describe("finalist", &finalists[i], finalists[i].mse);
    }
    struct candidate best = {.mse = INFINITY};
    for (unsigned i = 0; i < FINALISTS; i++)
        if (finalists[i].mse < best.mse) best = finalists[i];
    lloyd(b, &best, e->final_rings, e->final_rounds, 1.6);
    return best;
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
        struct candidate best = train(b, &efforts[w], finalists);
        describe("float", &best, encode(b, &best.code, best.entry, b->held_out, rings, NULL, NULL));
        round_table(b, &best, efforts[w].final_rings / 2);
        describe("int8", &best, encode(b, &best.code, NULL, b->held_out, rings, NULL, NULL));
        mirror_table(&best.code);
        const double mse = encode(b, &best.code, NULL, b->held_out, rings, NULL, NULL);
        describe("mirrored", &best, mse);
        print_code(&best.code, mse);
    }
}

/* The last step of training alone, on the codes that the library has. */
static void mirror_all(struct bench *b) {
    size_t count;
    const struct ml_tap_code *codes = ml_tap_codes(&count);
    for (size_t i = 0; i < count; i++) {
        struct ml_tap_code c = codes[i];
        mirror_table(&c);
        print_code(&c, encode(b, &c, NULL, b->held_out, held_out_rings(c.window), NULL, NULL));
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
    const bool mirror = argc > 1 && strcmp(argv[1], "mirror") == 0;
    const unsigned only = argc > 1 && !mirror ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
    struct bench b;
    ml_viterbi_kernels_init(&b.kernels, ml_cpu()->tier);
    b.train = rings_samples(train_seed, TRAIN_RINGS);
    b.held_out = rings_samples(held_out_seed, HELD_OUT_RINGS);
    b.scratch = ml_alloc_aligned((size_t)16 << 20);
    if (!b.scratch) rings_fail("no memory for the search");

    fputs(head, stdout);
    if (mirror) mirror_all(&b);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && !mirror; i++)
        if (only == 0 || only == shapes[i].bits) one_width(&b, &shapes[i]);
    fputs(tail, stdout);

    ml_free(b.train);
    ml_free(b.held_out);
    ml_free_aligned(b.scratch);
    return 0;
}
