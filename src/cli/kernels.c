/* SPDX-License-Identifier: Apache-2.0
 *
 * `marlin kernels`: which tier computes what on this machine, whether it computes what the reference does,
 * how fast, and what a fork-join costs.
 */
#include "kernels/kernels.h"

#include "base/cpu.h"
#include "cli/cli.h"
#include "cli/pool_bench.h"
#include "kernels/check.h"

#include <stddef.h>
#include <string.h>

enum { OUT_LIMIT = 16 << 20 };

static const struct ml_option options[] = {
    {"list", 0, ML_OPT_FLAG, NULL, "show which tier each kernel is taken from (the default)", NULL, 0, 0},
    {"check", 0, ML_OPT_FLAG, NULL, "compare every kernel of every tier with the reference", NULL, 0, 0},
    {"bench", 0, ML_OPT_FLAG, NULL, "time every kernel of the best tier", NULL, 0, 0},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

const struct ml_verb ml_verb_kernels = {
    .name = "kernels",
    .args = "[FAMILY]",
    .help = "show, check or time the kernels of this machine",
    .details =
        "FAMILY limits --check and --bench to matmul, attention, elementwise, convert, viterbi, quant or "
        "exec (products over all threads). --bench pool times one fork-join of the thread pool.",
    .options = options,
    .min_args = 0,
    .max_args = 1,
};

/* An entry of the table of kernels, or one for each type of weights. */
struct entry {
    const char *name;
    size_t offset;
    bool by_kind;
};

#define AT(field) offsetof(struct ml_kernels, field)
static const struct entry entries[] = {
    {"gemv", AT(gemv), true},
    {"gemm", AT(gemm), true},
    {"attention", AT(attention), true},
    {"rmsnorm", AT(rmsnorm), false},
    {"rope half", AT(rope_half), false},
    {"rope interleaved", AT(rope_interleaved), false},
    {"silu glu", AT(silu_glu), false},
    {"gelu glu", AT(gelu_glu), false},
    {"add", AT(add), false},
    {"axpy", AT(axpy), false},
    {"softcap", AT(softcap), false},
    {"softmax", AT(softmax), false},
    {"widen", AT(widen), true},
    {"narrow", AT(narrow), true},
};
#undef AT

typedef void any_fn(void);

static any_fn *get(const struct ml_kernels *k, size_t offset) {
    any_fn *fn;
    memcpy(&fn, (const char *)k + offset, sizeof fn);
    return fn;
}

static bool runs(enum ml_cpu_tier best, enum ml_cpu_tier tier) {
    return tier == ML_CPU_GENERIC || tier == best || (tier == ML_CPU_AVX2 && best == ML_CPU_AVX512);
}

/* The lowest tier whose table already holds the entry that is in use; NULL for an entry that is nowhere. */
static const char *tier_of(size_t offset) {
    const struct ml_cpu *cpu = ml_cpu();
    any_fn *used = get(ml_kernels(), offset);
    if (!used) return NULL;
    for (int t = 0; t < ML_CPU_TIERS; t++) {
        struct ml_kernels table = {0};
        if (!runs(cpu->tier, (enum ml_cpu_tier)t)) continue;
        ml_kernels_init(&table, cpu, (enum ml_cpu_tier)t);
        if (get(&table, offset) == used) return ml_cpu_tier_name((enum ml_cpu_tier)t);
    }
    return "unknown";
}

static marlin_status list_entry(const struct ml_cli *cli, const struct entry *e, const char **separator,
                                struct ml_buf *b) {
    marlin_status st = MARLIN_OK;
    for (size_t kind = 0; kind < (e->by_kind ? ML_FLOAT_KINDS : 1); kind++) {
        const char *tier = tier_of(e->offset + kind * sizeof(any_fn *));
        const char *type = e->by_kind ? ml_dtype_name((enum ml_dtype)kind) : "";
        if (!tier) continue;
        if (cli->json)
            ML_TRY(ml_buf_addf(b, "%s{\"kernel\":\"%s\",\"dtype\":\"%s\",\"tier\":\"%s\"}", *separator,
                               e->name, type, tier));
        else
            ML_TRY(ml_buf_addf(b, "  %-18s %-5s %s\n", e->name, type, tier));
        *separator = ",";
    }
out:
    return st;
}

static marlin_status list(const struct ml_cli *cli, struct ml_buf *b) {
    marlin_status st = MARLIN_OK;
    const char *best = ml_cpu_tier_name(ml_cpu()->tier), *separator = "";
    if (cli->json)
        ML_TRY(ml_buf_addf(b, "{\"tier\":\"%s\",\"rows\":[", best));
    else
        ML_TRY(ml_buf_addf(b, "%s, best tier %s\n", ml_cpu()->name, best));
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        ML_TRY(list_entry(cli, &entries[i], &separator, b));
    }
    if (cli->json) ML_TRY(ml_buf_adds(b, "]}\n"));
out:
    return st;
}

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
    ML_TRY(ml_check_run(&o, &total, err));
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

int ml_cmd_kernels(struct ml_cli *cli, const struct ml_args *args) {
    const bool timing = ml_args_flag(args, "bench"), checking = ml_args_flag(args, "check");
    const char *family = ml_args_at(args, 0);
    struct marlin_error err = {0};
    struct ml_buf b;
    size_t failed = 0;
    marlin_status st;
    if (timing + checking + ml_args_flag(args, "list") > 1)
        return ml_cli_failf(cli, MARLIN_ERR_ARGUMENT,
                            "kernels: one of --list, --check and --bench at a time");
    if (family && !timing && !checking)
        return ml_cli_failf(cli, MARLIN_ERR_ARGUMENT, "kernels: '%s' goes with --check or --bench", family);
    ml_buf_init(&b, OUT_LIMIT);
    if (timing && family && strcmp(family, "pool") == 0)
        st = bench_pool(cli, &b, &err);
    else if (timing || checking)
        st = check(cli, family, timing, &b, &failed, &err);
    else
        st = list(cli, &b);
    int rc = st == MARLIN_OK ? ml_cli_write(cli, &b) : ml_cli_fail(cli, st, &err);
    if (rc == ML_EXIT_DONE && failed)
        rc = ml_cli_failf(cli, MARLIN_ERR_INTERNAL, "kernels: %zu cases differ from the reference", failed);
    ml_buf_free(&b);
    return rc;
}
