/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json with another quantization_config: everything else keeps its bytes.
 */
#include "converters/hf_export.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void becomes(const char *in, const char *out) {
    struct ml_buf b;
    struct marlin_error err = {0};
    ml_buf_init(&b, 1 << 16);
    if (ml_config_with_quantization(in, strlen(in), "{\"q\": 1}", &b, &err) != MARLIN_OK)
        fail_msg("%s", err.text);
    assert_string_equal(b.data, out);
    ml_buf_free(&b);
}

static void the_member_is_added_or_replaced(void **state) {
    (void)state;
    becomes("{}", "{\n  \"quantization_config\": {\"q\": 1}\n}\n");
    becomes("{\"a\": [1, {\"b\": \"}\"}]\n}\n",
            "{\"a\": [1, {\"b\": \"}\"}],\n  \"quantization_config\": {\"q\": 1}\n}\n");
    becomes("{\"quantization_config\": {\"x\": [\"]\", {}]} , \"z\": 2}",
            "{\"quantization_config\": {\"q\": 1} , \"z\": 2}");
    becomes("{\"quantization_config\":null}", "{\"quantization_config\":{\"q\": 1}}");
    becomes("{\"a\\\"\": 1, \"quantization_config\" : 3.5}",
            "{\"a\\\"\": 1, \"quantization_config\" : {\"q\": 1}}");
}

/* Only the top level counts, and only whole names. */
static void members_of_members_stay(void **state) {
    (void)state;
    becomes("{\"t\": {\"quantization_config\": 1}}",
            "{\"t\": {\"quantization_config\": 1},\n  \"quantization_config\": {\"q\": 1}\n}\n");
    becomes("{\"quantization_config_\": 1}",
            "{\"quantization_config_\": 1,\n  \"quantization_config\": {\"q\": 1}\n}\n");
}

static void what_is_no_object_is_refused(void **state) {
    (void)state;
    static const char *const wrong[] = {"", "[]", "1", "{", "{\"a\":}", "{} x"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct ml_buf b;
        ml_buf_init(&b, 1 << 16);
        assert_int_not_equal(ml_config_with_quantization(wrong[i], strlen(wrong[i]), "1", &b, NULL),
                             MARLIN_OK);
        ml_buf_free(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_member_is_added_or_replaced),
        cmocka_unit_test(members_of_members_stay),
        cmocka_unit_test(what_is_no_object_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
