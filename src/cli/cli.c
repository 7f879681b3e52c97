/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of verbs, the options that all of them take, and the way from argv to a verb and back to an exit
 * status.
 */
#include "cli/cli.h"

#include "base/cpu.h"
#include "base/log.h"
#include "base/nearest.h"
#include "cli/guess.h"
#include "engine/runtime.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct ml_option common[] = {
    {"threads", 0, ML_OPT_INT, "N", "worker threads, 0 = one per core", "0", 0, 1024},
    {"device", 0, ML_OPT_STRING, ML_DEVICE_NAMES, "where to compute (the best there is)", NULL, 0, 0},
    {"cpu-mask", 0, ML_OPT_CHOICE, "generic|avx2|avx512|amx|neon|i8mm",
     "use no better instructions than these", NULL, 0, 0},
    {"json", 0, ML_OPT_FLAG, NULL, "print one JSON object", NULL, 0, 0},
    {"quiet", 'q', ML_OPT_FLAG, NULL, "no progress, remarks or warnings on stderr", NULL, 0, 0},
    {"help", 'h', ML_OPT_FLAG, NULL, "show this help", NULL, 0, 0},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

static const struct ml_variable variables[] = {
    {"MARLIN_MODEL", "the model that is meant where none is named: a directory"},
    {"MARLIN_CPU_MASK", "as --cpu-mask, which comes before it"},
    {"XDG_CACHE_HOME", "marlin/ in it keeps what 'kernels --tune' measured (~/.cache)"},
    {NULL, NULL},
};

static const struct ml_command commands[] = {
    {&ml_verb_run, ml_cmd_run},
    {&ml_verb_chat, ml_cmd_chat},
    {&ml_verb_tokenize, ml_cmd_tokenize},
    {&ml_verb_logits, ml_cmd_logits},
    {&ml_verb_perplexity, ml_cmd_perplexity},
    {&ml_verb_quantize, ml_cmd_quantize},
    {&ml_verb_inspect, ml_cmd_inspect},
    {&ml_verb_verify, ml_cmd_verify},
    {&ml_verb_bench, ml_cmd_bench},
    {&ml_verb_kernels, ml_cmd_kernels},
    {&ml_verb_help, ml_cmd_help},
    {&ml_verb_version, ml_cmd_version},
};

const struct ml_command *ml_cli_commands(size_t *n) {
    *n = sizeof commands / sizeof *commands;
    return commands;
}

const struct ml_option *ml_cli_common(void) {
    return common;
}

const struct ml_variable *ml_cli_variables(void) {
    return variables;
}

const struct ml_command *ml_cli_find(const char *name) {
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(commands[i].verb->name, name) == 0) return &commands[i];
    }
    return NULL;
}

static void log_to_stderr(void *user, enum ml_log_level level, const char *text) {
    (void)user;
    (void)fprintf(stderr, "marlin: %s%s\n", level == ML_LOG_WARN ? "warning: " : "", text);
}

/* --cpu-mask, else MARLIN_CPU_MASK: one that cannot be had is an error, not a hint. */
static int apply_mask(const struct ml_cli *cli, const struct ml_args *args) {
    const char *mask = ml_args_string(args, "cpu-mask"), *source = "--cpu-mask";
    if (!mask) {
        mask = getenv("MARLIN_CPU_MASK");
        source = "MARLIN_CPU_MASK";
    }
    if (!mask || ml_cpu_set_mask(mask)) return ML_EXIT_DONE;
    (void)ml_cpu_set_mask(NULL);
    return ml_cli_failf(cli, MARLIN_ERR_ARGUMENT,
                        "%s: '%.40s' is not a tier of this processor, whose best is %s", source, mask,
                        ml_cpu_tier_name(ml_cpu()->tier));
}

static int show_help(const struct ml_cli *cli, const struct ml_args *args, const struct ml_verb *verb) {
    struct ml_buf b;
    ml_buf_init(&b, 1 << 20);
    const marlin_status st = ml_args_flag(args, "json")
                                 ? ml_options_json(verb, common, &b)
                                 : ml_options_help(verb, common, "marlin", ml_cli_columns(), &b);
    const int rc = st == MARLIN_OK ? ml_cli_write(cli, &b) : ml_cli_failf(cli, st, "help: out of memory");
    ml_buf_free(&b);
    return rc;
}

static int run_parsed(struct ml_cli *cli, const struct ml_command *command, const struct ml_args *args) {
    if (ml_args_flag(args, "help")) return show_help(cli, args, command->verb);
    cli->threads = (int)ml_args_int(args, "threads");
    cli->device = ml_args_string(args, "device");
    cli->json = ml_args_flag(args, "json");
    cli->quiet = ml_args_flag(args, "quiet");
    if (!cli->quiet) ml_log_set(log_to_stderr, NULL, ML_LOG_INFO);
    if (cli->threads > ml_cpu()->processors)
        ml_cli_note(cli, "--threads %d: more than the %d processors here, which is slower than as many",
                    cli->threads, ml_cpu()->processors);
    const int rc = apply_mask(cli, args);
    return rc == ML_EXIT_DONE ? command->run(cli, args) : rc;
}

static int run_command(const struct ml_command *command, int argc, char **argv) {
    struct ml_cli cli = {.verb = command->verb};
    struct ml_args *args = NULL;
    struct marlin_error err = {0};
    const marlin_status st = ml_args_parse(command->verb, common, argc, argv, &args, &err);
    const int rc = st == MARLIN_OK ? run_parsed(&cli, command, args) : ml_cli_fail(&cli, st, &err);
    ml_args_free(args);
    ml_pool_free(cli.pool);
    ml_log_set(NULL, NULL, ML_LOG_WARN);
    return rc;
}

/* The verbs and what they do, for somebody who typed something else. */
static void list_verbs(FILE *f) {
    (void)fputs("usage: marlin VERB [MODEL] [ARGUMENTS] [options]\n\nverbs:\n", f);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        (void)fprintf(f, "  %-12s %s\n", commands[i].verb->name, commands[i].verb->help);
    }
    (void)fputs("\n'marlin help VERB' shows the options of a verb.\n", f);
}

/* What other programs call a verb, or somebody might. */
static const char *synonym(const char *name) {
    static const char *const pairs[][2] = {{"generate", "run"},  {"complete", "run"}, {"prompt", "run"},
                                           {"info", "inspect"},  {"show", "inspect"}, {"check", "verify"},
                                           {"ppl", "perplexity"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (strcmp(pairs[i][0], name) == 0) return pairs[i][1];
    return NULL;
}

static int unknown_verb(const char *name) {
    struct ml_nearest near;
    const char *meant = synonym(name);
    ml_nearest_begin(&near, name, strlen(name));
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        ml_nearest_offer(&near, commands[i].verb->name);
    if (!meant) meant = near.best;
    if (ml_cli_is_model(name))
        (void)fprintf(stderr, "marlin: '%.200s' is no verb, but a model: marlin run %.200s\n", name, name);
    else if (meant)
        (void)fprintf(stderr,
                      "marlin: unknown verb '%.80s': did you mean %s? 'marlin help' lists the verbs\n", name,
                      meant);
    else
        (void)fprintf(stderr, "marlin: unknown verb '%.80s'\n\n", name);
    if (!meant && !ml_cli_is_model(name)) list_verbs(stderr);
    return ML_EXIT_USAGE;
}

int ml_cli_main(int argc, char **argv) {
    /* A reader that goes away is a failed write with a message, not a silent death. */
    (void)signal(SIGPIPE, SIG_IGN);
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        list_verbs(stderr);
        return ML_EXIT_USAGE;
    }
    if (strcmp(name, "-h") == 0 || strcmp(name, "--help") == 0) name = "help";
    if (strcmp(name, "-V") == 0 || strcmp(name, "--version") == 0) name = "version";
    const struct ml_command *command = ml_cli_find(name);
    if (command) return run_command(command, argc - 1, argv + 1);
    return unknown_verb(name);
}
