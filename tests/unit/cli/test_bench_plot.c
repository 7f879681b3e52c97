/* SPDX-License-Identifier: Apache-2.0
 *
 * The roofline picture: where numbers lie on its scales, what it is made of, what it refuses to draw.
 */
#include "cli/bench_plot.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { LIMIT = 1 << 20 };

static void near(double got, double wanted) {
    if (!(fabs(got - wanted) < 1e-9)) fail_msg("%.12g instead of %.12g", got, wanted);
}

static void decades_are_equally_wide(void **state) {
    (void)state;
    near(ml_plot_scale(1, 1, 1000, 100, 400), 100);
    near(ml_plot_scale(10, 1, 1000, 100, 400), 200);
    near(ml_plot_scale(100, 1, 1000, 100, 400), 300);
    near(ml_plot_scale(1000, 1, 1000, 100, 400), 400);
    near(ml_plot_scale(sqrt(10), 1, 10, 0, 1), 0.5);
    near(ml_plot_scale(0.01, 0.001, 0.1, 460, 60), 260); /* a picture's y grows downwards */
}

static void what_is_out_of_range_stays_inside(void **state) {
    (void)state;
    near(ml_plot_scale(0.5, 1, 10, 3, 4), 3);
    near(ml_plot_scale(0, 1, 10, 3, 4), 3);
    near(ml_plot_scale(-7, 1, 10, 3, 4), 3);
    near(ml_plot_scale(NAN, 1, 10, 3, 4), 3);
    near(ml_plot_scale(11, 1, 10, 3, 4), 4);
    near(ml_plot_scale(INFINITY, 1, 10, 3, 4), 4);
}

static size_t count(const char *text, const char *what) {
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, what)); at += strlen(what))
        n++;
    return n;
}

static struct ml_buf draw(const struct ml_plot *p) {
    struct ml_buf b;
    ml_buf_init(&b, LIMIT);
    assert_int_equal(ml_plot_svg(p, &b), MARLIN_OK);
    return b;
}

/* 10 GB/s and 1000 Gop/s meet at 100 operations a byte; axes 10..1000 and 10..10000 by the rules of
 * round_out. */
static void points_lie_where_they_belong(void **state) {
    const struct ml_plot_point points[] = {
        {"tg8", false, 10, 100}, {"pp64", true, 100, 1000}, {"gone", false, NAN, 1}, {"none", false, 0, 1}};
    const struct ml_plot p = {"a title", 10, 1000, "int8", points, 4};
    (void)state;
    struct ml_buf b = draw(&p);
    assert_int_equal(count(b.data, "<circle"), 1);
    assert_int_equal(count(b.data, ">tg8</text>"), 1);
    assert_int_equal(count(b.data, ">pp64</text>"), 1);
    assert_int_equal(count(b.data, ">gone<") + count(b.data, ">none<"), 0);
    assert_int_equal(count(b.data, "class=\"pp\""), 1);
    assert_int_equal(count(b.data, "class=\"roof\""), 2);
    /* The slope ends at the corner, where the prompt's square is centred. */
    double x1, y1, x2, y2, sx, sy;
    assert_int_equal(sscanf(strstr(b.data, "<line class=\"roof\""),
                            "<line class=\"roof\" x1=\"%lf\" y1=\"%lf\" x2=\"%lf\" y2=\"%lf\"", &x1, &y1, &x2,
                            &y2),
                     4);
    assert_int_equal(
        sscanf(strstr(b.data, "<rect class=\"pp\""), "<rect class=\"pp\" x=\"%lf\" y=\"%lf\"", &sx, &sy), 2);
    assert_true(fabs(sx + 4.5 - x2) < 0.2 && fabs(sy + 4.5 - y2) < 0.2);
    assert_true(x1 < x2 && y1 > y2);
    assert_non_null(strstr(b.data, ">10.0 GB/s</text>"));
    assert_non_null(strstr(b.data, ">1000 Gop/s of int8</text>"));
    ml_buf_free(&b);
}

static void text_is_escaped(void **state) {
    const struct ml_plot_point point = {"<&>", false, 1, 1};
    const struct ml_plot p = {"a<b>&\"c\"\n.\xff", 10, 1000, "]]>", &point, 1};
    (void)state;
    struct ml_buf b = draw(&p);
    assert_non_null(strstr(b.data, "<title>a&lt;b&gt;&amp;\"c\"?.?</title>"));
    assert_non_null(strstr(b.data, ">&lt;&amp;&gt;</text>"));
    assert_null(strstr(b.data, "]]>"));
    ml_buf_free(&b);
}

static void without_a_ceiling_there_is_a_slope(void **state) {
    const struct ml_plot p = {"t", 25, NAN, "int8", NULL, 0};
    (void)state;
    struct ml_buf b = draw(&p);
    assert_int_equal(count(b.data, "class=\"roof\""), 1);
    assert_null(strstr(b.data, "nan"));
    assert_null(strstr(b.data, "inf\""));
    ml_buf_free(&b);
}

/* More runs than there are places for labels: still drawn, all of them. */
static void many_runs(void **state) {
    enum { N = 700 };
    static struct ml_plot_point points[N];
    (void)state;
    for (size_t i = 0; i < N; i++)
        points[i] = (struct ml_plot_point){"tg64@4096 x16", false, 1 + (double)(i % 7), 10};
    const struct ml_plot p = {"t", 25, 500, "int8", points, N};
    struct ml_buf b = draw(&p);
    assert_int_equal(count(b.data, "<circle"), N);
    assert_int_equal(count(b.data, "tg64@4096 x16"), N);
    ml_buf_free(&b);
}

static void refusals(void **state) {
    const double bad[] = {0, -1, NAN, INFINITY};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const struct ml_plot p = {"t", bad[i], 100, "int8", NULL, 0};
        struct ml_buf b;
        ml_buf_init(&b, LIMIT);
        assert_int_equal(ml_plot_svg(&p, &b), MARLIN_ERR_ARGUMENT);
        ml_buf_free(&b);
    }
    const struct ml_plot p = {"t", 25, 100, "int8", NULL, 0};
    struct ml_buf small;
    ml_buf_init(&small, 100);
    assert_int_equal(ml_plot_svg(&p, &small), MARLIN_ERR_LIMIT);
    ml_buf_free(&small);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decades_are_equally_wide),
        cmocka_unit_test(what_is_out_of_range_stays_inside),
        cmocka_unit_test(points_lie_where_they_belong),
        cmocka_unit_test(text_is_escaped),
        cmocka_unit_test(without_a_ceiling_there_is_a_slope),
        cmocka_unit_test(many_runs),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
