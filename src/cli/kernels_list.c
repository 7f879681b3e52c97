/* SPDX-License-Identifier: Apache-2.0
 *
 * What is used for what on this machine: the tier of every kernel, the way each kind of weights is multiplied
 * and why, and the figures that this is chosen from.
 */
#include "cli/kernels_list.h"

#include "kernels/kernels.h"
#include "kernels/tune.h"

#include <stddef.h>
#include <string.h>

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
    {"attention int8", AT(attention_i8), false},
    {"rmsnorm", AT(rmsnorm), false},
    {"rope half", AT(rope_half), false},
    {"rope interleaved", AT(rope_interleaved), false},
    {"silu glu", AT(silu_glu), false},
    {"gelu glu", AT(gelu_glu), false},
    {"sigmoid glu", AT(sigmoid_glu), false},
    {"add", AT(add), false},
    {"axpy", AT(axpy), false},
    {"softcap", AT(softcap), false},
    {"softmax", AT(softmax), false},
    {"widen", AT(widen), true},
    {"narrow", AT(narrow), true},
    {"narrow int8", AT(narrow_i8), false},
    {"quantized gemv", AT(quant.dot), false},
    {"quantized few", AT(quant.few), false},
    {"quantized gemm", AT(quant.dots), false},
};
#undef AT

typedef void any_fn(void);

static any_fn *get(const struct ml_kernels *k, size_t offset) {
    any_fn *fn;
    memcpy(&fn, (const char *)k + offset, sizeof fn);
    return fn;
}

/* The lowest tier whose table already holds the entry that is in use; NULL for an entry that is nowhere. */
static const char *tier_of(size_t offset) {
    const struct ml_cpu *cpu = ml_cpu();
    any_fn *used = get(ml_kernels(), offset);
    if (!used) return NULL;
    for (int t = 0; t < ML_CPU_TIERS; t++) {
        struct ml_kernels table = {0};
        if (!ml_cpu_tier_has(cpu->tier, (enum ml_cpu_tier)t)) continue;
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

static marlin_status list_entries(const struct ml_cli *cli, struct ml_buf *b) {
    marlin_status st = MARLIN_OK;
    const char *separator = "";
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        ML_TRY(list_entry(cli, &entries[i], &separator, b));
out:
    return st;
}

/* ---- what is chosen ---- */

static const size_t batches[] = {1, 2, 4, 8, 16, 17, 32, 33, 64, 128, 512};

static bool begins(const char *name, const char *prefix) {
    return !prefix || strncmp(name, prefix, strlen(prefix)) == 0;
}

bool ml_kernels_is_kind(const char *prefix) {
    for (int kind = 0; kind < ML_KINDS; kind++)
        if (begins(ml_kind_name(kind), prefix)) return true;
    return false;
}

static marlin_status list_choice(const struct ml_cli *cli, const struct ml_selection *s,
                                 const struct ml_product *p, size_t rows, const char *separator,
                                 struct ml_buf *b) {
    const struct ml_choice c = ml_select(s, p, 1, rows);
    const char *kind = ml_kind_name(p->kind);
    char why[128];
    marlin_status st;
    ml_choice_why(&c, why, sizeof why);
    if (!cli->json)
        return ml_buf_addf(b, "  %-13s %4zu  %-11s %4zu  %s\n", kind, rows, ml_path_name(c.path), c.block,
                           why);
    ML_TRY(ml_buf_addf(b, "%s{\"kind\":\"%s\",\"batch\":%zu,\"path\":\"%s\",\"block\":%zu,\"gemv\":",
                       separator, kind, rows, ml_path_name(c.path), c.block));
    ML_TRY(ml_cli_json_number(b, (double)c.gemv));
    ML_TRY(ml_buf_adds(b, ",\"gemm\":"));
    ML_TRY(ml_cli_json_number(b, (double)c.gemm));
    ML_TRY(ml_buf_addf(b, ",\"why\":\"%s\"}", why));
out:
    return st;
}

static marlin_status list_choices(const struct ml_cli *cli, const struct ml_selection *s, const char *prefix,
                                  size_t n, size_t k, struct ml_buf *b) {
    const char *separator = "";
    marlin_status st = MARLIN_OK;
    for (int kind = 0; kind < ML_KINDS; kind++) {
        if (!begins(ml_kind_name(kind), prefix)) continue;
        const struct ml_product p = {.kind = kind, .n = n, .k = k};
        for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
            ML_TRY(list_choice(cli, s, &p, batches[i], separator, b));
            separator = ",";
        }
    }
out:
    return st;
}

/* ---- the machine ---- */

static struct ml_selection selection_of(const struct ml_cli *cli) {
    struct ml_selection s = *ml_selection();
    if (cli->threads > 0) s.machine.threads = cli->threads;
    return s;
}

static marlin_status text_machine(const struct ml_selection *s, struct ml_buf *b) {
    const struct ml_cpu *c = &s->machine.cpu;
    marlin_status st;
    ML_TRY(ml_buf_addf(b, "%s, best tier %s", c->name, ml_cpu_tier_name(c->tier)));
    for (int i = 0; i < ML_CPU_FEATURES; i++) {
        if (ml_cpu_has(c, i)) ML_TRY(ml_buf_addf(b, " %s", ml_cpu_feature_name(i)));
    }
    ML_TRY(ml_buf_addf(b, ", threads %d, caches of %zu, %zu and %zu KiB\n", s->machine.threads, c->l1d >> 10,
                       c->l2 >> 10, c->l3 >> 10));
out:
    return st;
}

marlin_status ml_kernels_list(const struct ml_cli *cli, const char *prefix, size_t n, size_t k,
                              struct ml_buf *b) {
    const struct ml_selection s = selection_of(cli);
    const char *source = s.measured ? "measured" : "table of the source";
    marlin_status st;
    if (!cli->json) {
        ML_TRY(text_machine(&s, b));
        if (!prefix) ML_TRY(list_entries(cli, b));
        ML_TRY(ml_buf_addf(b, "\nproducts with a matrix of %zu x %zu (%s):\n  %-13s %4s  %-11s %4s  %s\n", n,
                           k, source, "weights", "rows", "path", "take", "why"));
        ML_TRY(list_choices(cli, &s, prefix, n, k, b));
        goto out;
    }
    ML_TRY(ml_buf_addf(b, "{\"tier\":\"%s\",\"machine\":", ml_cpu_tier_name(s.machine.cpu.tier)));
    ML_TRY(ml_machine_json(&s.machine, b));
    ML_TRY(ml_buf_addf(b, ",\"threads\":%d,\"measured\":%s,\"rows\":[", s.machine.threads,
                       s.measured ? "true" : "false"));
    ML_TRY(list_entries(cli, b));
    ML_TRY(ml_buf_addf(b, "],\"n\":%zu,\"k\":%zu,\"choices\":[", n, k));
    ML_TRY(list_choices(cli, &s, prefix, n, k, b));
    ML_TRY(ml_buf_adds(b, "]}\n"));
out:
    return st;
}

/* ---- in short ---- */

/* How many kernels are of each tier. */
static marlin_status count_tiers(struct ml_buf *b) {
    size_t count[ML_CPU_TIERS] = {0};
    const char *separator = "kernels: ";
    marlin_status st = MARLIN_OK;
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        for (size_t kind = 0; kind < (entries[i].by_kind ? ML_FLOAT_KINDS : 1); kind++) {
            const char *tier = tier_of(entries[i].offset + kind * sizeof(any_fn *));
            for (int t = 0; tier && t < ML_CPU_TIERS; t++)
                count[t] += strcmp(tier, ml_cpu_tier_name((enum ml_cpu_tier)t)) == 0;
        }
    for (int t = 0; t < ML_CPU_TIERS; t++) {
        if (!count[t]) continue;
        ML_TRY(
            ml_buf_addf(b, "%s%zu of tier %s", separator, count[t], ml_cpu_tier_name((enum ml_cpu_tier)t)));
        separator = ", ";
    }
    st = ml_buf_adds(b, "\n");
out:
    return st;
}

static const size_t few_batches[] = {1, 4, 16, 64, 512};
enum { FEW_BATCHES = sizeof few_batches / sizeof *few_batches };

static marlin_status sum_up_kind(const struct ml_selection *s, const struct ml_product *p, struct ml_buf *b) {
    marlin_status st;
    ML_TRY(ml_buf_addf(b, "  %-13s", ml_kind_name(p->kind)));
    for (size_t i = 0; i < FEW_BATCHES; i++) {
        const struct ml_choice c = ml_select(s, p, 1, few_batches[i]);
        ML_TRY(ml_buf_addf(b, i + 1 < FEW_BATCHES ? "  %-11s" : "  %s\n", ml_path_name(c.path)));
    }
out:
    return st;
}

/* The kinds that most models are of: all of EXL3 are multiplied alike. */
static bool is_usual(const char *kind) {
    static const char *const left_out[] = {"exl3-mcg", "exl3-3inst"};
    for (size_t i = 0; i < sizeof left_out / sizeof *left_out; i++)
        if (begins(kind, left_out[i])) return false;
    return true;
}

marlin_status ml_kernels_sum_up(const struct ml_cli *cli, size_t n, size_t k, struct ml_buf *b) {
    const struct ml_selection s = selection_of(cli);
    marlin_status st;
    ML_TRY(text_machine(&s, b));
    ML_TRY(count_tiers(b));
    ML_TRY(ml_buf_addf(b, "\nhow rows are multiplied by a matrix of %zu x %zu (%s):\n  %-13s", n, k,
                       s.measured ? "measured" : "table of the source", "weights"));
    for (size_t i = 0; i < FEW_BATCHES; i++)
        ML_TRY(ml_buf_addf(b, i + 1 < FEW_BATCHES ? "  %-11zu" : "  %zu rows\n", few_batches[i]));
    for (int kind = 0; kind < ML_KINDS; kind++) {
        const struct ml_product p = {.kind = kind, .n = n, .k = k};
        if (is_usual(ml_kind_name(kind))) ML_TRY(sum_up_kind(&s, &p, b));
    }
    st = ml_buf_adds(b,
                     "\n--list shows every kernel, and why each way is taken; --check compares them with the "
                     "reference\n");
out:
    return st;
}

/* ---- measuring ---- */

static void on_kind(void *user, int round, int kind) {
    if (kind == 0) ml_cli_note(user, "measuring, round %d of %d", round + 1, ML_TUNE_ROUNDS);
}

static marlin_status text_costs(const struct ml_selection *s, struct ml_buf *b) {
    const size_t most = 512;
    marlin_status st;
    ML_TRY(ml_buf_addf(b, "ns for 1000 weights\n  %-13s %8s %8s %8s %8s  %s\n", "weights", "one", "more",
                       "fixed", "row", "gemm from"));
    for (int kind = 0; kind < ML_KINDS; kind++) {
        const struct ml_cost *c = &s->cost[kind];
        const struct ml_product p = {.kind = kind, .n = 4096, .k = 4096};
        const size_t from = ml_select_crossover(s, &p, most);
        ML_TRY(ml_buf_addf(b, "  %-13s %8.2f %8.2f %8.2f %8.2f  ", ml_kind_name(kind), (double)c->one,
                           (double)c->more, (double)c->fixed, (double)c->row));
        ML_TRY(from > most ? ml_buf_adds(b, "never\n") : ml_buf_addf(b, "%zu rows\n", from));
    }
out:
    return st;
}

marlin_status ml_kernels_tune(struct ml_cli *cli, struct ml_buf *b, struct marlin_error *err) {
    struct ml_selection s;
    char path[ML_CLI_PATH];
    marlin_status st;
    if (!ml_cli_pool(cli, err)) return MARLIN_ERR_MEMORY;
    ML_TRY(ml_tune(ml_kernels(), cli->pool, on_kind, cli, &s, err));
    ML_TRY(ml_tune_path(&s.machine, path, sizeof path, err));
    ML_TRY(ml_tune_save(&s, err));
    ML_TRY(cli->json ? ml_tune_write(&s, b) : text_costs(&s, b));
    ml_cli_note(cli, "written to %s", path);
out:
    return st;
}
