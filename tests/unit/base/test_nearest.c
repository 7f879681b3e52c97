/* SPDX-License-Identifier: Apache-2.0
 *
 * Which word is meant by a misspelt one, and that a wrong guess is not made.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/nearest.h"

#include <string.h>

static const char *const words[] = {"run",     "tokenize", "logits", "perplexity", "quantize",
                                    "inspect", "verify",   "bench",  "kernels",    "help",
                                    "temp",    "top-k",    "tokens", "out",        "seed"};

static const char *meant(const char *word) {
    struct ml_nearest n;
    ml_nearest_begin(&n, word, strlen(word));
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        ml_nearest_offer(&n, words[i]);
    return n.best ? n.best : "";
}

static void misspelt_words_are_found(void **state) {
    static const char *const pairs[][2] = {
        {"rn", "run"},
        {"rnu", "run"},
        {"quantise", "quantize"},
        {"quantzie", "quantize"},
        {"tokenz", "tokens"},
        {"top_k", "top-k"},
        {"temperature", "temp"},
        {"max-tokens", "tokens"},
        {"perplex", "perplexity"},
        {"benchmark", "bench"},
        {"kernel", "kernels"},
        {"inspekt", "inspect"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        assert_string_equal(meant(pairs[i][0]), pairs[i][1]);
}

static void other_words_are_not(void **state) {
    static const char *const others[] = {"",
                                         "x",
                                         "serve",
                                         "without",
                                         "/models/Qwen3-0.6B",
                                         "no-such-option",
                                         "a word that is longer than any of those that there could be here"};
    (void)state;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_string_equal(meant(others[i]), "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(misspelt_words_are_found),
        cmocka_unit_test(other_words_are_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
