/* SPDX-License-Identifier: Apache-2.0
 *
 * Check and timing of the trellis search: every tier finds the same symbols.
 */
#include "kernels/check.h"

#include "base/rng.h"
#include "kernels/check/check_int.h"
#include "packing/codes.h"

struct call {
    const struct ml_viterbi_code *code;
    const int16_t *level;
    uint8_t *symbol;
    void *scratch;
};

static ml_check_entry *get_search(const struct ml_check_tables *t, int variant) {
    (void)variant;
    return (ml_check_entry *)t->viterbi.search;
}

static void call_search(const struct ml_check_tables *t, void *arg) {
    const struct call *a = arg;
    t->viterbi.search(a->code, a->level, a->symbol, a->scratch);
}

/* Targets like the code's values, or as far beyond both ends as levels go. */
static void fill_levels(struct ml_check *c, const struct ml_viterbi_code *code, int16_t *level,
                        bool extreme) {
    for (int i = 0; i < ML_VITERBI_STEPS; i++) {
        const bool up = ml_rng_u64(ml_check_rng(c)) % 2;
        const float v = ml_rng_normal(ml_check_rng(c)) * code->scale;
        const int steps = extreme ? (up ? 32000 : -32000) / code->grain : (int)(v / (float)code->grain);
        level[i] = (int16_t)(steps * code->grain);
    }
}

static void free_code(void *code) {
    ml_viterbi_code_free(code);
}

/* The code lives in memory of the case, which goes after what is deferred. */
static struct ml_viterbi_code *make(struct ml_check *c, unsigned bits, unsigned window) {
    struct ml_viterbi_code *code = ml_check_scratch(c, sizeof *code);
    const marlin_status st = window == ML_EXL3_WINDOW
                                 ? ml_viterbi_code_exl3(code, bits, ML_EXL3_MCG, NULL)
                                 : ml_viterbi_code_tap(code, ml_tap_code_find(bits, window), NULL, NULL);
    if (st != MARLIN_OK) ml_check_no_memory(c, (size_t)1 << window);
    ml_check_defer(c, free_code, code);
    return code;
}

static void search_case(struct ml_check *c, const char *variant, unsigned bits, unsigned window,
                        bool extreme) {
    if (!ml_check_begin(c, "search", variant, get_search, 0)) return;
    ml_check_param(c, "bits", bits);
    ml_check_param(c, "window", window);
    ml_check_param_text(c, "targets", extreme ? "extreme" : "normal");
    struct ml_viterbi_code *code = make(c, bits, window);
    const struct ml_check_result symbols = {.type = ML_CHECK_BYTES, .count = ML_VITERBI_STEPS};
    int16_t *level = ml_check_input(c, ML_VITERBI_STEPS * sizeof *level);
    fill_levels(c, code, level, extreme);
    struct call a = {code, level, ml_check_output(c, &symbols),
                     ml_check_scratch(c, ml_viterbi_scratch(code))};
    ml_check_call(c, call_search, &a);
}

/* The codes that matrices are quantized with; of EXL3, whose 2^16 states take the reference long, one. */
static void run(struct ml_check *c) {
    for (unsigned bits = ML_TAP_MIN_BITS; bits <= ML_TAP_MAX_BITS; bits++) {
        if (!ml_tap_code_find(bits, 12)) continue;
        search_case(c, "TAP", bits, 12, false);
        if (!ml_check_timing(c)) search_case(c, "TAP", bits, 12, true);
    }
    search_case(c, "EXL3", 4, ML_EXL3_WINDOW, false);
}

const struct ml_check_family ml_check_viterbi = {"viterbi", run};
