/* SPDX-License-Identifier: Apache-2.0
 *
 * `marlin help` and `marlin version`: everything that is written from the option tables.
 */
#include "base/cpu.h"
#include "cli/cli.h"
#include "marlin/marlin.h"

#include <string.h>

enum { MAX_VERBS = 64, TEXT_LIMIT = 4 << 20 };

static const struct ml_option help_options[] = {
    {"man", 0, ML_OPT_FLAG, NULL, "write the manual page (roff) to stdout", NULL, 0, 0},
    {"completion", 0, ML_OPT_CHOICE, "bash|zsh|fish", "write completions for a shell to stdout", NULL, 0, 0},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

const struct ml_verb ml_verb_help = {
    .name = "help",
    .args = "[VERB]",
    .help = "show the verbs, or the options of one",
    .details = "The manual page and the completions come from the same table as the parser:\n"
               "  marlin help --man | man -l -\n"
               "  source <(marlin help --completion bash)",
    .options = help_options,
    .max_args = 1,
};

const struct ml_verb ml_verb_version = {
    .name = "version",
    .args = "",
    .help = "show the version and the processor's best instructions",
};

static marlin_status list(struct ml_buf *b) {
    size_t n;
    const struct ml_command *c = ml_cli_commands(&n);
    marlin_status st = MARLIN_OK;
    ML_TRY(ml_buf_adds(
        b, "usage: marlin VERB [MODEL] [ARGUMENTS] [options]\n\n"
           "MODEL is a directory in Hugging Face layout or a GGUF file; left out, the embedded model.\n\n"
           "verbs:\n"));
    for (size_t i = 0; i < n; i++) {
        ML_TRY(ml_buf_addf(b, "  %-12s %s\n", c[i].verb->name, c[i].verb->help));
    }
    ML_TRY(ml_buf_adds(b, "\nenvironment:\n"));
    ML_TRY(ml_options_variables(ml_cli_variables(), ml_cli_columns(), b));
    ML_TRY(ml_buf_adds(b, "\ntry first:\n  marlin run \"The sea was\"\n\n"
                          "'marlin help VERB' shows the options of a verb.\n"));
out:
    return st;
}

/* {"verbs":[{"name":..,"help":..},..]} */
static marlin_status list_json(struct ml_buf *b) {
    size_t n;
    const struct ml_command *c = ml_cli_commands(&n);
    marlin_status st = MARLIN_OK;
    ML_TRY(ml_buf_adds(b, "{\"verbs\":["));
    for (size_t i = 0; i < n; i++) {
        ML_TRY(ml_buf_adds(b, i ? ",{\"name\":" : "{\"name\":"));
        ML_TRY(ml_buf_add_json(b, c[i].verb->name, strlen(c[i].verb->name)));
        ML_TRY(ml_buf_adds(b, ",\"help\":"));
        ML_TRY(ml_buf_add_json(b, c[i].verb->help, strlen(c[i].verb->help)));
        ML_TRY(ml_buf_adds(b, "}"));
    }
    ML_TRY(ml_buf_adds(b, "]}\n"));
out:
    return st;
}

static marlin_status write_help(const struct ml_cli *cli, const struct ml_args *args, struct ml_buf *b,
                                struct marlin_error *err) {
    const struct ml_verb *verbs[MAX_VERBS];
    size_t n;
    const struct ml_command *c = ml_cli_commands(&n);
    for (size_t i = 0; i < n && i < MAX_VERBS; i++) {
        verbs[i] = c[i].verb;
    }
    const struct ml_option *common = ml_cli_common();
    const char *shell = ml_args_string(args, "completion"), *name = ml_args_at(args, 0);
    if (ml_args_flag(args, "man"))
        return ml_options_man(verbs, n, common, ml_cli_variables(), "marlin", marlin_version(), b);
    if (shell) return ml_options_completion(verbs, n, common, "marlin", shell, b, err);
    if (!name) return cli->json ? list_json(b) : list(b);
    const struct ml_command *one = ml_cli_find(name);
    if (!one)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "help: unknown verb '%.80s': 'marlin help' lists them",
                       name);
    return cli->json ? ml_options_json(one->verb, common, b)
                     : ml_options_help(one->verb, common, "marlin", ml_cli_columns(), b);
}

/* A page or a script as a JSON object, as every verb prints one: {"text":"..."}. */
static marlin_status wrap(struct ml_buf *text, struct ml_buf *b) {
    marlin_status st;
    ML_TRY(ml_buf_adds(b, "{\"text\":"));
    ML_TRY(ml_buf_add_json(b, text->data ? text->data : "", text->len));
    ML_TRY(ml_buf_adds(b, "}\n"));
out:
    return st;
}

int ml_cmd_help(struct ml_cli *cli, const struct ml_args *args) {
    struct ml_buf b, object;
    struct marlin_error err = {0};
    const bool page = cli->json && (ml_args_flag(args, "man") || ml_args_string(args, "completion"));
    ml_buf_init(&b, TEXT_LIMIT);
    ml_buf_init(&object, 2 * TEXT_LIMIT);
    marlin_status st = write_help(cli, args, &b, &err);
    if (st == MARLIN_OK && page) st = wrap(&b, &object);
    const int rc = st == MARLIN_OK ? ml_cli_write(cli, page ? &object : &b) : ml_cli_fail(cli, st, &err);
    ml_buf_free(&b);
    ml_buf_free(&object);
    return rc;
}

int ml_cmd_version(struct ml_cli *cli, const struct ml_args *args) {
    (void)args;
    const struct ml_cpu *cpu = ml_cpu();
    const char *tier = ml_cpu_tier_name(cpu->tier);
    struct ml_buf b;
    ml_buf_init(&b, TEXT_LIMIT);
    marlin_status st = MARLIN_OK;
    if (cli->json) {
        ML_TRY(ml_buf_addf(
            &b, "{\"version\":\"%s\",\"tier\":\"%s\",\"processors\":%d,\"cores\":%d,\"processor\":",
            marlin_version(), tier, cpu->processors, cpu->cores));
        ML_TRY(ml_buf_add_json(&b, cpu->name, strlen(cpu->name)));
        ML_TRY(ml_buf_adds(&b, "}\n"));
    } else {
        ML_TRY(ml_buf_addf(&b, "marlin %s\n%s, %d processors, %d cores to use, %s\n", marlin_version(),
                           cpu->name, cpu->processors, cpu->cores, tier));
    }
out:;
    const int rc = st == MARLIN_OK ? ml_cli_write(cli, &b) : ml_cli_failf(cli, st, "version: out of memory");
    ml_buf_free(&b);
    return rc;
}
