/* SPDX-License-Identifier: Apache-2.0
 *
 * Every narrow value against a slow twin in double arithmetic, and rounding at and around every midpoint.
 */
#include "base/fp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

/* top: largest finite code; inf: 1 when the code after it is an infinity. */
struct twin {
    int exp, man, inf;
    uint32_t top;
    float (*widen)(uint32_t);
    uint32_t (*narrow)(float);
};

static double slow(const struct twin *t, uint32_t code) {
    const int e = (int)(code >> t->man), m = (int)(code & ((1u << t->man) - 1)),
              bias = (1 << (t->exp - 1)) - 1;
    return e ? ldexp((1 << t->man) + m, e - bias - t->man) : ldexp(m, 1 - bias - t->man);
}

static void check(const struct twin *t) {
    const uint32_t sign = 1u << (t->exp + t->man);
    for (uint32_t c = 0; c < sign; c++) {
        const float f = t->widen(c), g = t->widen(c | sign);
        if (c > t->top + (uint32_t)t->inf) {
            assert_true(isnan(f) && isnan(g) && isnan(t->widen(t->narrow(f))));
            continue;
        }
        assert_true(t->inf && c == t->top + 1 ? isinf(f) : (double)f == slow(t, c));
        assert_true(ml_f32_bits(g) == (ml_f32_bits(f) | 0x80000000u));
        assert_int_equal(t->narrow(f), c);
        assert_int_equal(t->narrow(g), c | sign);
        if (c > t->top) continue;
        /* The midpoint to the next code goes to the even one, its neighbours to the nearer one. */
        const double mid = (slow(t, c) + slow(t, c + 1)) / 2;
        const float half = (float)mid;
        if ((double)half != mid) continue;
        assert_int_equal(t->narrow(half), c & 1 ? c + 1 : c);
        assert_int_equal(t->narrow(nextafterf(half, 0)), c);
        assert_int_equal(t->narrow(nextafterf(half, INFINITY)), c + 1);
    }
    assert_true(isnan(t->widen(t->narrow(NAN))));
    assert_true(t->inf ? isinf(t->widen(t->narrow(-INFINITY))) : isnan(t->widen(t->narrow(INFINITY))));
    assert_true(t->inf ? isinf(t->widen(t->narrow(3.4e38f))) : isnan(t->widen(t->narrow(3.4e38f))));
}

#define FORMAT(name, w, n, in)                                                                               \
    static float w_##name(uint32_t c) {                                                                      \
        return w((in)c);                                                                                     \
    }                                                                                                        \
    static uint32_t n_##name(float f) {                                                                      \
        return n(f);                                                                                         \
    }
FORMAT(f16, ml_f16_to_f32, ml_f32_to_f16, uint16_t)
FORMAT(bf16, ml_bf16_to_f32, ml_f32_to_bf16, uint16_t)
FORMAT(e4m3, ml_f8e4m3_to_f32, ml_f32_to_f8e4m3, uint8_t)
FORMAT(e5m2, ml_f8e5m2_to_f32, ml_f32_to_f8e5m2, uint8_t)

static void f16(void **state) {
    (void)state;
    check(&(struct twin){5, 10, 1, 0x7bff, w_f16, n_f16});
}

static void bf16(void **state) {
    (void)state;
    check(&(struct twin){8, 7, 1, 0x7f7f, w_bf16, n_bf16});
}

static void e4m3(void **state) {
    (void)state;
    check(&(struct twin){4, 3, 0, 0x7e, w_e4m3, n_e4m3});
}

static void e5m2(void **state) {
    (void)state;
    check(&(struct twin){5, 2, 1, 0x7b, w_e5m2, n_e5m2});
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(f16), cmocka_unit_test(bf16), cmocka_unit_test(e4m3),
                                       cmocka_unit_test(e5m2)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
