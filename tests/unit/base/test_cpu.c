/* SPDX-License-Identifier: Apache-2.0
 *
 * CPU tiers: what is found agrees with the compiler's own probe, and masks only ever take away.
 */
#include "base/cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void found(void **state) {
    (void)state;
    assert_true(ml_cpu_set_mask(NULL));
    const struct ml_cpu *c = ml_cpu();
    assert_true(c->cores >= 1);
    assert_true(c->name[0] != '\0');
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vbmi") &&
                        __builtin_cpu_supports("avx512vnni");
    /* The tier asks for more flags than these, so that the implications go one way. */
    if (c->tier == ML_CPU_AVX512) assert_true(avx512);
    if (c->tier >= ML_CPU_AVX2) assert_true(avx2);
    if (!avx2) assert_int_equal(c->tier, ML_CPU_GENERIC);
    assert_false(ml_cpu_tier_has(c->tier, ML_CPU_NEON));
    assert_int_equal(c->amx_int8, c->tier == ML_CPU_AMX);
    if (c->avx512bf16) assert_true(ml_cpu_tier_has(c->tier, ML_CPU_AVX512));
#elif defined(__aarch64__)
    assert_int_equal(c->tier, c->i8mm && c->dotprod ? ML_CPU_I8MM : ML_CPU_NEON);
#endif
}

static void names(void **state) {
    (void)state;
    assert_string_equal(ml_cpu_tier_name(ML_CPU_GENERIC), "generic");
    assert_string_equal(ml_cpu_tier_name(ML_CPU_AVX2), "avx2");
    assert_string_equal(ml_cpu_tier_name(ML_CPU_AVX512), "avx512");
    assert_string_equal(ml_cpu_tier_name(ML_CPU_AMX), "amx");
    assert_string_equal(ml_cpu_tier_name(ML_CPU_NEON), "neon");
    assert_string_equal(ml_cpu_tier_name(ML_CPU_I8MM), "i8mm");
    assert_string_equal(ml_cpu_tier_name(ML_CPU_TIERS), "unknown");
}

/* What a tier is built on, by name. */
static void built_on(void **state) {
    static const struct {
        enum ml_cpu_tier best;
        const char *has;
    } cases[] = {{ML_CPU_GENERIC, "generic"},
                 {ML_CPU_AVX2, "generic avx2"},
                 {ML_CPU_AVX512, "generic avx2 avx512"},
                 {ML_CPU_AMX, "generic avx2 avx512 amx"},
                 {ML_CPU_NEON, "generic neon"},
                 {ML_CPU_I8MM, "generic neon i8mm"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int t = 0; t < ML_CPU_TIERS; t++)
            assert_int_equal(ml_cpu_tier_has(cases[i].best, (enum ml_cpu_tier)t),
                             strstr(cases[i].has, ml_cpu_tier_name((enum ml_cpu_tier)t)) != NULL);
    assert_int_equal(sizeof cases / sizeof *cases, ML_CPU_TIERS);
}

static void masks(void **state) {
    (void)state;
    assert_true(ml_cpu_set_mask(""));
    const struct ml_cpu best = *ml_cpu();
    assert_true(ml_cpu_set_mask("generic"));
    const struct ml_cpu *c = ml_cpu();
    assert_int_equal(c->tier, ML_CPU_GENERIC);
    assert_false(c->avxvnni || c->avx512bf16 || c->amx_int8 || c->dotprod || c->i8mm || c->bf16);
    assert_int_equal(c->cores, best.cores);
    for (int t = 0; t < ML_CPU_TIERS; t++) {
        const bool has = ml_cpu_tier_has(best.tier, (enum ml_cpu_tier)t);
        assert_int_equal(ml_cpu_set_mask(ml_cpu_tier_name((enum ml_cpu_tier)t)), has);
        if (!has) continue;
        assert_int_equal(c->tier, t);
        for (int i = 0; i < ML_CPU_FEATURES; i++)
            assert_true(ml_cpu_has(&best, i) || !ml_cpu_has(c, i));
        assert_int_equal(c->avxvnni, best.avxvnni && t != ML_CPU_GENERIC);
        assert_int_equal(c->avx512bf16, best.avx512bf16 && ml_cpu_tier_has(c->tier, ML_CPU_AVX512));
        assert_int_equal(c->amx_int8, best.amx_int8 && t == ML_CPU_AMX);
        assert_int_equal(c->dotprod, best.dotprod && t != ML_CPU_GENERIC);
        assert_int_equal(c->i8mm, best.i8mm && t == ML_CPU_I8MM);
    }
    assert_true(ml_cpu_set_mask(NULL));
    assert_memory_equal(c, &best, sizeof best);
}

static void refused_masks_change_nothing(void **state) {
    (void)state;
    const struct ml_cpu before = *ml_cpu();
    static const char *const wrong[] = {"sse2", "AVX2", "avx", "generic ", "avx512f"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_false(ml_cpu_set_mask(wrong[i]));
        assert_memory_equal(ml_cpu(), &before, sizeof before);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(found),
        cmocka_unit_test(names),
        cmocka_unit_test(built_on),
        cmocka_unit_test(masks),
        cmocka_unit_test(refused_masks_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
