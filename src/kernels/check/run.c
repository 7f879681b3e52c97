/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk of the kernel check over tiers and families.
 */
#include "kernels/check/check_int.h"

#include "base/mem.h"
#include "kernels/tiers.h"

#include <string.h>

extern const struct ml_check_family ml_check_matmul, ml_check_attention, ml_check_elementwise,
    ml_check_convert, ml_check_viterbi, ml_check_quant, ml_check_exec;

static const struct ml_check_family *const families[] = {
    &ml_check_matmul,  &ml_check_attention, &ml_check_elementwise, &ml_check_convert,
    &ml_check_viterbi, &ml_check_quant,     &ml_check_exec,        NULL,
};

static void make_tables(struct ml_check_tables *t, enum ml_cpu_tier tier) {
    t->tier = tier;
    ml_kernels_init(&t->k, ml_cpu(), tier);
    ml_viterbi_kernels_init(&t->viterbi, tier);
}

const char *ml_check_family_name(size_t i) {
    for (size_t k = 0; k < i; k++)
        if (!families[k]) return NULL;
    return families[i] ? families[i]->name : NULL;
}

/* A case leaves by longjmp when memory ends. */
static bool run_family(struct ml_check *c) {
    ml_rng_seed(&c->rng, 20261);
    if (setjmp(c->leave)) {
        ml_check_release(c);
        return false;
    }
    c->family->run(c);
    ml_check_end_row(c);
    return true;
}

/* One tier: the wanted families. */
static marlin_status walk_tier(struct ml_check *c, struct marlin_error *err) {
    const struct ml_check_options *o = c->options;
    for (size_t i = 0; families[i]; i++) {
        c->family = o->other ? o->other : families[i];
        if (!o->other && o->family && strcmp(o->family, c->family->name) != 0) continue;
        if (!run_family(c)) return ml_fail(err, MARLIN_ERR_MEMORY, "%s", c->trouble);
        if (o->other) break;
    }
    return MARLIN_OK;
}

#if defined(__x86_64__)
static void probe(void *arg) {
    volatile float sink = ml_probe_masked_load(arg);
    (void)sink;
}

static bool masked_loads_touch(enum ml_cpu_tier best) {
    struct ml_guard g;
    if (best == ML_CPU_GENERIC || !ml_guard_make(&g, sizeof(float), true, sizeof(float), 0)) return false;
    const bool touch = ml_guard_call(probe, g.data) != 0;
    ml_guard_free(&g);
    return touch;
}
#else
static bool masked_loads_touch(enum ml_cpu_tier best) {
    (void)best;
    return false;
}
#endif

static marlin_status walk(struct ml_check *c, struct marlin_error *err) {
    const enum ml_cpu_tier best = ml_cpu()->tier;
    c->total->reads_unguarded = masked_loads_touch(best);
    for (int t = 0; t < ML_CPU_TIERS; t++) {
        if (ml_cpu_tier_has(best, (enum ml_cpu_tier)t)) make_tables(&c->table[t], (enum ml_cpu_tier)t);
    }
    c->reference = &c->table[ML_CPU_GENERIC];
    for (int t = 0; t < ML_CPU_TIERS; t++) {
        if (!ml_cpu_tier_has(best, (enum ml_cpu_tier)t) || (c->options->timing && t != (int)best)) continue;
        c->tier = &c->table[t];
        const marlin_status st = walk_tier(c, err);
        if (st != MARLIN_OK) return st;
        c->below = c->tier;
    }
    return MARLIN_OK;
}

static bool is_family(const char *name) {
    for (size_t i = 0; families[i]; i++)
        if (strcmp(families[i]->name, name) == 0) return true;
    return false;
}

marlin_status ml_check_run(const struct ml_check_options *o, struct ml_check_total *total,
                           struct marlin_error *err) {
    *total = (struct ml_check_total){0};
    if (o->family && !is_family(o->family))
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "kernels: no family is called '%s'", o->family);
    struct ml_check *c = ml_calloc(1, sizeof *c);
    if (!c) return ml_fail(err, MARLIN_ERR_MEMORY, "kernel check: out of memory");
    c->options = o;
    c->total = total;
    marlin_status st = MARLIN_OK;
    if (o->timing) st = ml_peak_reader_create(o->pool, &c->reader, err);
    if (st == MARLIN_OK) st = walk(c, err);
    ml_peak_reader_free(c->reader);
    ml_free(c);
    return st;
}
