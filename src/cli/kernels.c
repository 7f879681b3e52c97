/* SPDX-License-Identifier: Apache-2.0
 *
 * `marlin kernels`: whether each kernel computes what the reference does, how fast, and what a fork-join
 * costs. What is used for what is kernels_list.c.
 */
#include "kernels/kernels.h"

#include "base/cpu.h"
#include "base/progress.h"
#include "cli/cli.h"
#include "cli/kernels_list.h"
#include "cli/pool_bench.h"
#include "kernels/check.h"

#include <stdio.h>
#include <string.h>

enum { OUT_LIMIT = 16 << 20 };

static const struct ml_option options[] = {
    {"list", 0, ML_OPT_FLAG, NULL, "show what is used for which weights, and why (without it: in short)",
     NULL, 0, 0},
    {"check", 0, ML_OPT_FLAG, NULL, "compare every kernel of every tier with the reference", NULL, 0, 0},
    {"bench", 0, ML_OPT_FLAG, NULL, "time every kernel of the best tier", NULL, 0, 0},
    {"tune", 0, ML_OPT_FLAG, NULL, "measure what choices are made from, and keep it for this machine", NULL,
     0, 0},
    {"shape", 0, ML_OPT_STRING, "ROWSxCOLS", "the matrix that --list chooses for", "4096x4096", 0, 0},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

const struct ml_verb ml_verb_kernels = {
    .name = "kernels",
    .args = "[FAMILY|KIND]",
    .help = "show, check or time the kernels of this machine",
    .details =
        "FAMILY limits --check and --bench to matmul, attention, elementwise, convert, viterbi, quant or "
        "exec (products over all threads). --bench pool times one fork-join of the thread pool.\n\n"
        "--list shows the tier of every kernel, and for each kind of weights and number of rows of x how "
        "they "
        "are multiplied; its argument is the beginning of a kind: bf16, int8, tap4, exl3-mul1. Costs are "
        "estimates in units of one row of x. --tune measures what they are made from and writes it to "
        "$XDG_CACHE_HOME/marlin (or ~/.cache/marlin), where every later run finds it. No result depends on "
        "it.",
    .options = options,
    .min_args = 0,
    .max_args = 1,
};

static marlin_status bench_pool(struct ml_cli *cli, struct ml_buf *b, struct marlin_error *err) {
    struct ml_pool *pool = ml_cli_pool(cli, err);
    if (!pool) return MARLIN_ERR_MEMORY;
    const struct ml_pool_cost c = ml_pool_measure(pool);
    return ml_buf_addf(
        b,
        cli->json ? "{\"rows\":[{\"name\":\"pool\",\"workers\":%d,\"p10_us\":%.3f,\"median_us\":%.3f,"
                    "\"p90_us\":%.3f}]}\n"
                  : "fork-join of %d workers: p10 %.2f, median %.2f, p90 %.2f us\n",
        c.workers, c.p10_us, c.median_us, c.p90_us);
}

/* ---- checking and timing ---- */

struct report {
    const struct ml_cli *cli;
    struct ml_buf *out, failed; /* failed: the elements of the JSON array */
    struct ml_progress progress;
    uint64_t rows; /* reported so far; how many there will be is not known */
    bool timing;
    const char *separator;
    marlin_status st; /* the first trouble with memory */
};

static marlin_status add_field(struct ml_buf *b, const char *name, double v, bool known) {
    marlin_status st;
    ML_TRY(ml_buf_addf(b, ",\"%s\":", name));
    ML_TRY(known ? ml_cli_json_number(b, v) : ml_buf_adds(b, "null"));
out:
    return st;
}

static marlin_status json_row(struct report *r, const struct ml_check_row *row) {
    struct ml_buf *b = r->out;
    marlin_status st;
    ML_TRY(ml_buf_addf(b, "%s{\"family\":\"%s\",\"entry\":\"%s\",\"variant\":\"%s\",\"tier\":\"%s\"",
                       r->separator, row->family, row->entry, row->variant, ml_cpu_tier_name(row->tier)));
    if (r->timing) {
        ML_TRY(ml_buf_addf(b, ",\"params\":\"%s\"", row->params));
        ML_TRY(add_field(b, "ns", row->ns, true));
        ML_TRY(add_field(b, "gbps", row->gbps, row->gbps > 0));
        ML_TRY(add_field(b, "gops", row->gops, row->gops > 0));
        ML_TRY(add_field(b, "bandwidth_fraction", row->bandwidth_fraction, row->bandwidth_fraction >= 0));
        ML_TRY(add_field(b, "compute_fraction", row->compute_fraction, row->compute_fraction >= 0));
    } else {
        ML_TRY(ml_buf_addf(b, ",\"cases\":%zu,\"failed\":%zu", row->cases, row->failed));
        ML_TRY(add_field(b, "worst", row->worst, true));
    }
    ML_TRY(ml_buf_adds(b, "}"));
    r->separator = ",";
out:
    return st;
}

static marlin_status text_row(struct report *r, const struct ml_check_row *row) {
    struct ml_buf *b = r->out;
    marlin_status st;
    ML_TRY(ml_buf_addf(b, "%-8s %-17s %-5s", ml_cpu_tier_name(row->tier), row->entry, row->variant));
    if (!r->timing) {
        ML_TRY(ml_buf_addf(b, "%6zu cases  %s", row->cases, row->failed ? "FAILED" : "ok"));
        if (row->failed) ML_TRY(ml_buf_addf(b, " %zu", row->failed));
        if (row->worst > 0) ML_TRY(ml_buf_addf(b, "  (%.2f of the tolerance)", row->worst));
        ML_TRY(ml_buf_adds(b, "\n"));
        goto out;
    }
    ML_TRY(ml_buf_addf(b, "%12.2f us", row->ns * 1e-3));
    ML_TRY(row->gbps > 0 ? ml_buf_addf(b, " %8.2f GB/s", row->gbps) : ml_buf_addf(b, "%14s", ""));
    ML_TRY(row->gops > 0 ? ml_buf_addf(b, " %8.1f Gop/s", row->gops) : ml_buf_addf(b, "%15s", ""));
    if (row->bandwidth_fraction >= 0)
        ML_TRY(ml_buf_addf(b, " %5.1f %% of reading", 100 * row->bandwidth_fraction));
    if (row->compute_fraction >= 0)
        ML_TRY(ml_buf_addf(b, " %5.1f %% of computing", 100 * row->compute_fraction));
    ML_TRY(ml_buf_addf(b, "  %s\n", row->params));
out:
    return st;
}

static void on_row(void *user, const struct ml_check_row *row) {
    struct report *r = user;
    char note[64];
    (void)snprintf(note, sizeof note, "%s %s %s", ml_cpu_tier_name(row->tier), row->entry, row->variant);
    ml_progress_update(&r->progress, ++r->rows, note);
    const marlin_status st = r->cli->json ? json_row(r, row) : text_row(r, row);
    if (r->st == MARLIN_OK) r->st = st;
}

static marlin_status add_failure(struct report *r, const struct ml_check_failure *f) {
    struct ml_buf *b = &r->failed;
    marlin_status st;
    if (!r->cli->json) {
        return ml_buf_addf(r->out, "  %s %s %s: %s: %s\n", ml_cpu_tier_name(f->tier), f->entry, f->variant,
                           f->params, f->text);
    }
    ML_TRY(ml_buf_addf(
        b, "%s{\"entry\":\"%s\",\"variant\":\"%s\",\"tier\":\"%s\",\"params\":\"%s\",\"difference\":",
        b->len ? "," : "", f->entry, f->variant, ml_cpu_tier_name(f->tier), f->params));
    ML_TRY(ml_buf_add_json(b, f->text, strlen(f->text)));
    ML_TRY(ml_buf_adds(b, "}"));
out:
    return st;
}

static void on_failure(void *user, const struct ml_check_failure *f) {
    struct report *r = user;
    const marlin_status st = add_failure(r, f);
    if (r->st == MARLIN_OK) r->st = st;
}

static marlin_status finish(struct report *r, const struct ml_check_total *total) {
    struct ml_buf *b = r->out;
    marlin_status st = r->st;
    if (st == MARLIN_OK && r->cli->json)
        st = ml_buf_addf(b, "],\"checked\":%zu,\"failed\":[%s]}\n", total->checked,
                         r->failed.len ? r->failed.data : "");
    else if (st == MARLIN_OK && !r->timing)
        st = ml_buf_addf(b, "%zu cases checked, %zu failed\n", total->checked, total->failed);
    return st;
}

/* *failed: cases that differ from the reference. */
static marlin_status check(struct ml_cli *cli, const char *family, bool timing, struct ml_buf *b,
                           size_t *failed, struct marlin_error *err) {
    struct report r = {.cli = cli, .out = b, .timing = timing, .separator = ""};
    struct ml_check_total total = {0};
    struct ml_pool *pool = ml_cli_pool(cli, err);
    marlin_status st;
    if (!pool) return MARLIN_ERR_MEMORY;
    ml_buf_init(&r.failed, OUT_LIMIT);
    const struct ml_check_options o = {.family = family,
                                       .timing = timing,
                                       .pool = pool,
                                       .user = &r,
                                       .on_row = on_row,
                                       .on_failure = on_failure};
    if (cli->json) ML_TRY(ml_buf_addf(b, "{\"tier\":\"%s\",\"rows\":[", ml_cpu_tier_name(ml_cpu()->tier)));
    ml_progress_begin(&r.progress, timing ? "timing kernels" : "checking kernels", 0, cli->quiet);
    st = ml_check_run(&o, &total, err);
    ml_progress_end(&r.progress);
    if (st != MARLIN_OK) goto out;
    st = finish(&r, &total);
    if (st != MARLIN_OK) st = ml_fail(err, st, "kernels: no memory for the report");
out:
    ml_buf_free(&r.failed);
    if (total.reads_unguarded)
        ml_cli_note(cli,
                    "masked loads of this (emulated) processor touch memory that is masked off: reads just "
                    "behind an operand went unnoticed");
    *failed = total.failed;
    return st;
}

/* A number of 1 to 7 digits, not 0, that `end` follows; the rest, or NULL. */
static const char *parse_size(const char *text, char end, size_t *v) {
    enum { MOST_DIGITS = 7 };
    const char *p = text;
    *v = 0;
    for (; *p >= '0' && *p <= '9' && p - text < MOST_DIGITS; p++)
        *v = *v * 10 + (size_t)(*p - '0');
    return *v > 0 && *p == end ? p + 1 : NULL;
}

/* "4096x1024". */
static bool parse_shape(const char *text, size_t *n, size_t *k) {
    const char *rest = parse_size(text, 'x', n);
    return rest && parse_size(rest, '\0', k);
}

/* What was asked for in a way that cannot be done, as an exit status; else 0. */
static int refuse(const struct ml_cli *cli, const struct ml_args *args, size_t *n, size_t *k) {
    const bool timing = ml_args_flag(args, "bench"), checking = ml_args_flag(args, "check");
    const bool tuning = ml_args_flag(args, "tune");
    const char *name = ml_args_at(args, 0), *shape = ml_args_string(args, "shape");
    if (timing + checking + tuning + ml_args_flag(args, "list") > 1)
        return ml_cli_failf(cli, MARLIN_ERR_ARGUMENT,
                            "kernels: one of --list, --check, --bench and --tune at a time");
    if (name && tuning)
        return ml_cli_failf(cli, MARLIN_ERR_ARGUMENT,
                            "kernels: --tune measures every kind, not '%.40s' alone", name);
    if (name && !timing && !checking && !ml_kernels_is_kind(name))
        return ml_cli_failf(cli, MARLIN_ERR_ARGUMENT,
                            "kernels: no kind of weights begins with '%.40s' (families of kernels go with "
                            "--check or --bench)",
                            name);
    if (!parse_shape(shape, n, k))
        return ml_cli_failf(cli, MARLIN_ERR_ARGUMENT, "kernels: --shape '%.40s' is not ROWSxCOLS", shape);
    return ML_EXIT_DONE;
}

int ml_cmd_kernels(struct ml_cli *cli, const struct ml_args *args) {
    const bool timing = ml_args_flag(args, "bench"), checking = ml_args_flag(args, "check");
    const char *name = ml_args_at(args, 0);
    struct marlin_error err = {0};
    struct ml_buf b;
    size_t failed = 0, n = 0, k = 0;
    marlin_status st;
    int rc = refuse(cli, args, &n, &k);
    if (rc != ML_EXIT_DONE) return rc;
    ml_buf_init(&b, OUT_LIMIT);
    if (timing && name && strcmp(name, "pool") == 0)
        st = bench_pool(cli, &b, &err);
    else if (timing || checking)
        st = check(cli, name, timing, &b, &failed, &err);
    else if (ml_args_flag(args, "tune"))
        st = ml_kernels_tune(cli, &b, &err);
    else if (ml_args_flag(args, "list") || name || cli->json)
        st = ml_kernels_list(cli, name, n, k, &b);
    else
        st = ml_kernels_sum_up(cli, n, k, &b);
    rc = st == MARLIN_OK ? ml_cli_write(cli, &b) : ml_cli_fail(cli, st, &err);
    if (rc == ML_EXIT_DONE && failed)
        rc = ml_cli_failf(cli, MARLIN_ERR_INTERNAL, "kernels: %zu cases differ from the reference", failed);
    ml_buf_free(&b);
    return rc;
}
