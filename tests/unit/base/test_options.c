/* SPDX-License-Identifier: Apache-2.0
 *
 * The option table: what is accepted, what is refused and how the refusal reads, and the texts made from it.
 */
#include "base/mem.h"
#include "base/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const struct ml_option own[] = {
    {"tokens", 'n', ML_OPT_INT, "N", "most tokens", "128", 0, 1000},
    {"bias", 'b', ML_OPT_FLOAT, "X", "added to the logit, don't overdo [it]: ever", NULL, -10, 10},
    {"seed", 0, ML_OPT_INT, "N", "seed", NULL, 0, 0},
    {"output", 'o', ML_OPT_STRING, "FILE", "where to", NULL, 0, 0},
    {"out", 0, ML_OPT_FLAG, NULL, "a prefix of another name", NULL, 0, 0},
    {"stop", 0, ML_OPT_REPEAT, "TEXT", "end before this", NULL, 0, 0},
    {"verbose", 'v', ML_OPT_FLAG, NULL, "more", NULL, 0, 0},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

static const struct ml_option common[] = {
    {"mask", 0, ML_OPT_CHOICE, "generic|avx2|avx512", "tier", "avx2", 0, 0},
    {"help", 'h', ML_OPT_FLAG, NULL, "help", NULL, 0, 0},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

static const struct ml_verb verb = {
    .name = "go",
    .args = "MODEL [PROMPT]",
    .help = "goes",
    .details = ".A line that begins with a dot\nand a \\ backslash",
    .options = own,
    .min_args = 1,
    .max_args = 2,
};
static const struct ml_verb *const verbs[] = {&verb};

enum { MAX = 16 };

/* Parses NULL-terminated words as the arguments of `go`. */
static marlin_status parse(const char *const *words, struct ml_args **out, struct marlin_error *err) {
    char *argv[MAX] = {(char *)"go"};
    int argc = 1;
    for (; words[argc - 1]; argc++) {
        assert_true(argc < MAX);
        argv[argc] = (char *)words[argc - 1];
    }
    return ml_args_parse(&verb, common, argc, argv, out, err);
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static struct ml_args *accepted(const char *const *words) {
    struct ml_args *a = NULL;
    struct marlin_error err = {0};
    if (parse(words, &a, &err) != MARLIN_OK) fail_msg("refused: %s", err.text);
    return a;
}

/* The message must hold both parts. */
static void refused(const char *const *words, const char *part, const char *other) {
    struct ml_args *a = NULL;
    struct marlin_error err = {0};
    assert_int_equal(parse(words, &a, &err), MARLIN_ERR_ARGUMENT);
    assert_null(a);
    if (!strstr(err.text, part) || !strstr(err.text, other))
        fail_msg("'%s' does not say '%s' and '%s'", err.text, part, other);
}

static void defaults(void **state) {
    (void)state;
    struct ml_args *a = accepted(WORDS("model"));
    assert_int_equal(ml_args_int(a, "tokens"), 128);
    assert_false(ml_args_given(a, "tokens"));
    assert_string_equal(ml_args_string(a, "mask"), "avx2");
    assert_null(ml_args_string(a, "output"));
    assert_false(ml_args_flag(a, "verbose"));
    assert_int_equal(ml_args_repeat_count(a, "stop"), 0);
    assert_null(ml_args_repeat(a, "stop", 0));
    assert_int_equal(ml_args_count(a), 1);
    assert_string_equal(ml_args_at(a, 0), "model");
    assert_null(ml_args_at(a, 1));
    assert_null(ml_args_at(a, -1));
    assert_false(ml_args_given(a, "nothing of the kind"));
    ml_args_free(a);
}

static void spellings(void **state) {
    (void)state;
    struct ml_args *a =
        accepted(WORDS("m", "--tokens=7", "--bias", "-2.5", "-vo", "file", "--stop", "", "--stop=a=b"));
    assert_int_equal(ml_args_int(a, "tokens"), 7);
    assert_true(ml_args_given(a, "tokens"));
    assert_true(ml_args_float(a, "bias") == -2.5);
    assert_true(ml_args_flag(a, "verbose"));
    assert_string_equal(ml_args_string(a, "output"), "file");
    assert_int_equal(ml_args_repeat_count(a, "stop"), 2);
    assert_string_equal(ml_args_repeat(a, "stop", 0), "");
    assert_string_equal(ml_args_repeat(a, "stop", 1), "a=b");
    ml_args_free(a);

    a = accepted(WORDS("-n12", "m", "-b-1e0", "-", "--seed", "-9223372036854775808"));
    assert_int_equal(ml_args_int(a, "tokens"), 12);
    assert_true(ml_args_float(a, "bias") == -1);
    assert_string_equal(ml_args_at(a, 1), "-");
    assert_true(ml_args_int(a, "seed") == INT64_MIN);
    ml_args_free(a);

    a = accepted(WORDS("m", "--", "--tokens"));
    assert_string_equal(ml_args_at(a, 1), "--tokens");
    assert_int_equal(ml_args_int(a, "tokens"), 128);
    ml_args_free(a);

    a = accepted(WORDS("m", "-5"));
    assert_string_equal(ml_args_at(a, 1), "-5");
    ml_args_free(a);

    a = accepted(WORDS("m", "--tokens", "1", "--tokens", "2"));
    assert_int_equal(ml_args_int(a, "tokens"), 2);
    ml_args_free(a);
}

static void help_wins(void **state) {
    (void)state;
    struct ml_args *a = accepted(WORDS("--help"));
    assert_true(ml_args_flag(a, "help"));
    ml_args_free(a);
    a = accepted(WORDS("-vh", "--no-such"));
    assert_true(ml_args_flag(a, "help"));
    ml_args_free(a);
}

static void refusals(void **state) {
    (void)state;
    refused(WORDS("m", "--nope"), "unknown option", "--nope");
    refused(WORDS("m", "--tok", "5"), "unknown option", "--tok");
    refused(WORDS("m", "--outp", "f"), "unknown option", "--outp");
    refused(WORDS("m", "-x"), "unknown option", "-x");
    refused(WORDS("m", "-vx"), "unknown option", "-vx");
    refused(WORDS("m", "---"), "unknown option", "---");
    refused(WORDS("m", "--tokens"), "--tokens", "needs a value");
    refused(WORDS("m", "-n"), "--tokens", "needs a value");
    refused(WORDS("m", "--tokens="), "--tokens", "whole number");
    refused(WORDS("m", "--tokens", "5x"), "'5x'", "whole number");
    refused(WORDS("m", "--tokens", " 5"), "--tokens", "whole number");
    refused(WORDS("m", "--tokens", "0x5"), "--tokens", "whole number");
    refused(WORDS("m", "--tokens", "1.5"), "--tokens", "whole number");
    refused(WORDS("m", "--seed", "9223372036854775808"), "--seed", "whole number");
    refused(WORDS("m", "--tokens", "1001"), "outside", "0 to 1000");
    refused(WORDS("m", "--tokens", "-1"), "outside", "0 to 1000");
    refused(WORDS("m", "--bias", "nan"), "--bias", "not a number");
    refused(WORDS("m", "--bias", "inf"), "--bias", "not a number");
    refused(WORDS("m", "--bias", "1e999"), "--bias", "not a number");
    refused(WORDS("m", "--bias", "11"), "outside", "-10 to 10");
    refused(WORDS("m", "--verbose=1"), "--verbose", "takes no value");
    refused(WORDS("m", "--mask", "avx"), "'avx'", "generic|avx2|avx512");
    refused(WORDS("m", "--mask", ""), "--mask", "generic|avx2|avx512");
    refused(WORDS("m", "--mask", "generic|avx2"), "--mask", "not one of");
    refused(WORDS("-v"), "too few", "MODEL");
    refused(WORDS("a", "b", "c"), "unexpected argument", "'c'");
}

static void memory_runs_out(void **state) {
    (void)state;
    for (uint64_t n = 1; n < 100; n++) {
        struct ml_args *a = NULL;
        struct marlin_error err = {0};
        ml_mem_fail_at(n);
        const marlin_status st = parse(WORDS("m", "--stop", "x"), &a, &err);
        ml_mem_fail_at(0);
        if (st == MARLIN_OK) {
            assert_true(n > 1);
            ml_args_free(a);
            return;
        }
        assert_int_equal(st, MARLIN_ERR_MEMORY);
        assert_null(a);
    }
    fail_msg("never succeeded");
}

static void contains(const struct ml_buf *b, const char *part) {
    if (!strstr(b->data, part)) fail_msg("'%s' is not in:\n%s", part, b->data);
}

static void help_text(void **state) {
    (void)state;
    struct ml_buf b;
    ml_buf_init(&b, 1 << 16);
    assert_int_equal(ml_options_help(&verb, common, "prog", 100, &b), MARLIN_OK);
    contains(&b, "usage: prog go MODEL [PROMPT] [options]");
    contains(&b, "  -n, --tokens N              most tokens (default 128)\n");
    contains(&b, "      --mask generic|avx2|avx512\n                              tier (default avx2)\n");
    contains(&b, "  -h, --help");
    ml_buf_free(&b);
    ml_buf_init(&b, 20);
    assert_int_equal(ml_options_help(&verb, common, "prog", 100, &b), MARLIN_ERR_LIMIT);
    ml_buf_free(&b);
}

static void help_fits_its_width(void **state) {
    static const struct ml_verb long_one = {
        .name = "go",
        .help = "goes",
        .details = "One paragraph that is longer than a line of forty columns is.\n\n"
                   "  kept as it is, however long this line of its may be made\nnext",
        .examples = "prog go a\nprog go b",
        .options = own};
    (void)state;
    struct ml_buf b;
    ml_buf_init(&b, 1 << 16);
    assert_int_equal(ml_options_help(&long_one, common, "prog", 40, &b), MARLIN_OK);
    contains(&b, "\nOne paragraph that is longer than a line\nof forty columns is.\n\n");
    contains(&b, "\n  kept as it is, however long this line of its may be made\nnext\n");
    contains(&b, "\nexamples:\n  prog go a\n  prog go b\n\noptions:\n");
    contains(&b, "  -b, --bias X                added to the logit,\n                              don't "
                 "overdo [it]:\n");
    ml_buf_free(&b);
}

static void json_of_a_verb(void **state) {
    (void)state;
    struct ml_buf b;
    ml_buf_init(&b, 1 << 16);
    assert_int_equal(ml_options_json(&verb, common, &b), MARLIN_OK);
    contains(&b, "{\"verb\":\"go\",\"args\":\"MODEL [PROMPT]\",\"help\":\"goes\",\"details\":\".A line");
    contains(
        &b,
        "\"options\":[{\"name\":\"tokens\",\"letter\":\"n\",\"type\":\"int\",\"arg\":\"N\",\"help\":\"most "
        "tokens\",\"default\":\"128\",\"least\":0,\"most\":1000},");
    contains(&b, "\"common_options\":[{\"name\":\"mask\",\"type\":\"choice\"");
    ml_buf_free(&b);
}

static void dashes_are_remembered(void **state) {
    (void)state;
    struct ml_args *a = accepted(WORDS("a", "--", "-b"));
    assert_false(ml_args_after_dashes(a, 0));
    assert_true(ml_args_after_dashes(a, 1));
    assert_false(ml_args_after_dashes(a, 2)); /* there is none */
    ml_args_free(a);
    a = accepted(WORDS("a", "b"));
    assert_false(ml_args_after_dashes(a, 0));
    assert_false(ml_args_after_dashes(a, 1));
    ml_args_free(a);
}

static void man_page(void **state) {
    (void)state;
    struct ml_buf b;
    ml_buf_init(&b, 1 << 16);
    assert_int_equal(ml_options_man(verbs, 1, common, NULL, "prog", "1.2", &b), MARLIN_OK);
    assert_int_equal(strncmp(b.data, ".TH prog 1 ", 11), 0);
    contains(&b, "\n.SS go MODEL [PROMPT]\n");
    contains(&b, "\n\\&.A line that begins with a dot\nand a \\e backslash\n");
    contains(&b, "\\fB\\-n\\fR, \\fB\\-\\-tokens\\fR \\fIN\\fR\nmost tokens (default 128)\n");
    ml_buf_free(&b);
}

static void completions(void **state) {
    (void)state;
    struct ml_buf b;
    struct marlin_error err = {0};
    ml_buf_init(&b, 1 << 16);
    assert_int_equal(ml_options_completion(verbs, 1, common, "prog", "bash", &b, &err), MARLIN_OK);
    contains(&b, "complete -o filenames -F _prog prog");
    contains(&b, " --tokens -n");
    contains(&b, "compgen -W 'generic avx2 avx512'");
    ml_buf_clear(&b);
    assert_int_equal(ml_options_completion(verbs, 1, common, "prog", "zsh", &b, &err), MARLIN_OK);
    contains(&b, "#compdef prog");
    contains(&b, "'--bias=[added to the logit, don'\\''t overdo \\[it\\]\\: ever]:X:'");
    contains(&b, "'*--stop=[");
    ml_buf_clear(&b);
    assert_int_equal(ml_options_completion(verbs, 1, common, "prog", "fish", &b, &err), MARLIN_OK);
    contains(&b, "complete -c prog -n '__fish_seen_subcommand_from go' -l bias -s b -x -d 'added to the "
                 "logit, don\\'t");
    contains(&b, "complete -c prog -l mask -x -a 'generic avx2 avx512'");
    assert_int_equal(ml_options_completion(verbs, 1, common, "prog", "csh", &b, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "csh"));
    ml_buf_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(help_fits_its_width),
        cmocka_unit_test(json_of_a_verb),
        cmocka_unit_test(dashes_are_remembered),
        cmocka_unit_test(defaults),
        cmocka_unit_test(spellings),
        cmocka_unit_test(help_wins),
        cmocka_unit_test(refusals),
        cmocka_unit_test(memory_runs_out),
        cmocka_unit_test(help_text),
        cmocka_unit_test(man_page),
        cmocka_unit_test(completions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
