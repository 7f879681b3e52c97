/* SPDX-License-Identifier: Apache-2.0
 *
 * `marlin kernels`: which tier computes what on this machine, and what a fork-join costs.
 */
#include "kernels/kernels.h"

#include "base/cpu.h"
#include "cli/cli.h"
#include "cli/pool_bench.h"

#include <stddef.h>
#include <string.h>

enum { OUT_LIMIT = 16 << 20 };

static const struct ml_option options[] = {
    {"list", 0, ML_OPT_FLAG, NULL, "show which tier each kernel is taken from (the default)", NULL, 0, 0},
    {"bench", 0, ML_OPT_CHOICE, "pool", "measure: pool = one fork-join of the thread pool", NULL, 0, 0},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

const struct ml_verb ml_verb_kernels = {
    .name = "kernels",
    .args = "",
    .help = "show which kernels this machine uses, and what the thread pool costs",
    .options = options,
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

int ml_cmd_kernels(struct ml_cli *cli, const struct ml_args *args) {
    struct ml_buf b;
    struct marlin_error err = {0};
    ml_buf_init(&b, OUT_LIMIT);
    const marlin_status st = ml_args_given(args, "bench") ? bench_pool(cli, &b, &err) : list(cli, &b);
    const int rc = st == MARLIN_OK ? ml_cli_write(cli, &b) : ml_cli_fail(cli, st, &err);
    ml_buf_free(&b);
    return rc;
}
