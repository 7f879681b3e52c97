/* SPDX-License-Identifier: Apache-2.0
 *
 * What was measured: JSON, comma-separated values, Markdown, a table for people, a picture.
 */
#include "base/file.h"
#include "base/mem.h"
#include "cli/bench.h"
#include "cli/bench_plot.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PLOT_LIMIT = 4 << 20, MAX_TITLE = 256, MAX_LABEL = ML_BENCH_NAME + 32, MAX_SHARE = 16 };

static uint64_t weight_bytes(const struct ml_bench *b) {
    return ml_model_bytes_per_token(b->runtime.model);
}

/* ---- JSON ---- */

/* A named number and what follows it. */
static marlin_status add_number(struct ml_buf *o, const char *name, double v, const char *then) {
    marlin_status st;
    ML_TRY(ml_buf_addf(o, "\"%s\":", name));
    ML_TRY(ml_cli_json_number(o, v));
    ML_TRY(ml_buf_adds(o, then));
out:
    return st;
}

static marlin_status add_json_run(const struct ml_bench *b, const struct ml_bench_run *r, struct ml_buf *o) {
    marlin_status st;
    ML_TRY(ml_buf_addf(o, "{\"test\":\"%s\",\"batch\":%zu,", r->test, r->batch));
    ML_TRY(add_number(o, "tokens_per_second", r->tokens_per_second, ","));
    ML_TRY(add_number(o, "gbps", r->gbps, ","));
    ML_TRY(add_number(o, "bandwidth_fraction", r->bandwidth_fraction, ","));
    ML_TRY(add_number(o, "compute_fraction", r->compute_fraction, ","));
    ML_TRY(ml_buf_addf(o, "\"weight_bytes\":%" PRIu64 ",\"depth\":%zu}", weight_bytes(b), r->start));
out:
    return st;
}

static marlin_status add_json(const struct ml_bench *b, struct ml_buf *o) {
    const struct ml_bench_machine *m = &b->machine;
    marlin_status st;
    ML_TRY(ml_buf_adds(o, "{\"machine\":{"));
    ML_TRY(add_number(o, "read_gbps", m->read_gbps, ","));
    ML_TRY(add_number(o, "int8_gops", m->int8_gops, ","));
    ML_TRY(add_number(o, "bf16_gflops", m->bf16_gflops, "},\"runs\":["));
    for (size_t i = 0; i < b->n_runs; i++) {
        if (i) ML_TRY(ml_buf_adds(o, ","));
        ML_TRY(add_json_run(b, &b->runs[i], o));
    }
    ML_TRY(ml_buf_adds(o, "]}\n"));
out:
    return st;
}

/* ---- tables ---- */

/* What is not known is an empty field. */
static marlin_status add_field(struct ml_buf *o, double v) {
    return isfinite(v) ? ml_buf_addf(o, ",%.6g", v) : ml_buf_adds(o, ",");
}

static marlin_status add_csv(const struct ml_bench *b, struct ml_buf *o) {
    const struct ml_bench_machine *m = &b->machine;
    marlin_status st;
    ML_TRY(ml_buf_adds(
        o, "test,batch,depth,tokens_per_second,gbps,bandwidth_fraction,compute_fraction,weight_bytes,"
           "read_gbps,int8_gops,bf16_gflops\n"));
    for (size_t i = 0; i < b->n_runs; i++) {
        const struct ml_bench_run *r = &b->runs[i];
        ML_TRY(ml_buf_addf(o, "%s,%zu,%zu", r->test, r->batch, r->start));
        ML_TRY(add_field(o, r->tokens_per_second));
        ML_TRY(add_field(o, r->gbps));
        ML_TRY(add_field(o, r->bandwidth_fraction));
        ML_TRY(add_field(o, r->compute_fraction));
        ML_TRY(ml_buf_addf(o, ",%" PRIu64, weight_bytes(b)));
        ML_TRY(add_field(o, m->read_gbps));
        ML_TRY(add_field(o, m->int8_gops));
        ML_TRY(add_field(o, m->bf16_gflops));
        ML_TRY(ml_buf_adds(o, "\n"));
    }
out:
    return st;
}

static marlin_status add_machine(const struct ml_bench *b, struct ml_buf *o) {
    const struct ml_bench_machine *m = &b->machine;
    marlin_status st;
    ML_TRY(ml_buf_addf(o, "machine: reads %.1f GB/s, computes %.0f Gflop/s", m->read_gbps, m->bf16_gflops));
    if (isfinite(m->int8_gops)) ML_TRY(ml_buf_addf(o, ", %.0f Gop/s of int8", m->int8_gops));
    ML_TRY(ml_buf_adds(o, "\n"));
out:
    return st;
}

/* "12.3 %", or "-" where the limit is not known. */
static const char *share(char text[MAX_SHARE], double v) {
    if (!isfinite(v)) return "-";
    (void)snprintf(text, MAX_SHARE, "%.1f %%", 100 * v);
    return text;
}

static marlin_status add_markdown(const struct ml_bench *b, struct ml_buf *o) {
    char read[MAX_SHARE], compute[MAX_SHARE];
    marlin_status st;
    ML_TRY(ml_buf_adds(o, "| test | batch | tok/s | GB/s | of bandwidth | of compute |\n"
                          "|---|---|---|---|---|---|\n"));
    for (size_t i = 0; i < b->n_runs; i++) {
        const struct ml_bench_run *r = &b->runs[i];
        ML_TRY(ml_buf_addf(o, "| %s | %zu | %.2f | %.2f | %s | %s |\n", r->test, r->batch,
                           r->tokens_per_second, r->gbps, share(read, r->bandwidth_fraction),
                           share(compute, r->compute_fraction)));
    }
    ML_TRY(ml_buf_adds(o, "\n"));
    ML_TRY(add_machine(b, o));
out:
    return st;
}

static marlin_status add_text(const struct ml_bench *b, struct ml_buf *o) {
    char read[MAX_SHARE], compute[MAX_SHARE];
    marlin_status st;
    ML_TRY(add_machine(b, o));
    ML_TRY(ml_buf_addf(o, "%-14s %5s %12s %9s %13s %11s\n", "test", "batch", "tok/s", "GB/s", "of bandwidth",
                       "of compute"));
    for (size_t i = 0; i < b->n_runs; i++) {
        const struct ml_bench_run *r = &b->runs[i];
        ML_TRY(ml_buf_addf(o, "%-14s %5zu %12.2f %9.2f %13s %11s\n", r->test, r->batch, r->tokens_per_second,
                           r->gbps, share(read, r->bandwidth_fraction), share(compute, r->compute_fraction)));
    }
out:
    return st;
}

marlin_status ml_bench_report(const struct ml_bench *b, struct ml_buf *out) {
    if (b->cli->json) return add_json(b, out);
    if (ml_args_flag(b->args, "csv")) return add_csv(b, out);
    if (ml_args_flag(b->args, "markdown")) return add_markdown(b, out);
    return add_text(b, out);
}

/* ---- picture ---- */

/* The shape, or the last part of the model's path. */
static const char *model_name(const struct ml_bench *b) {
    const char *shape = ml_args_string(b->args, "shape"), *dir = ml_args_at(b->args, 0);
    const char *slash = dir ? strrchr(dir, '/') : NULL;
    if (shape) return shape;
    if (!dir) return "default model";
    return slash && slash[1] ? slash + 1 : dir;
}

/* "qwen3-4b, 4 bits (marlin), 2 threads" */
static void title(const struct ml_bench *b, char *dst, size_t cap) {
    const int threads = ml_pool_size(b->runtime.pool);
    struct ml_model_bits bits;
    char format[16] = "";
    ml_model_bits(b->runtime.model, &bits);
    if (b->quantized && ml_args_string(b->args, "shape"))
        (void)snprintf(format, sizeof format, " (%s)", ml_args_string(b->args, "format"));
    (void)snprintf(dst, cap, "%.160s, %.3g bits%s, %d thread%s", model_name(b), bits.layers, format, threads,
                   threads == 1 ? "" : "s");
}

static void set_point(const struct ml_bench_run *r, struct ml_plot_point *p, char *label, size_t cap) {
    if (r->batch > 1)
        (void)snprintf(label, cap, "%s x%zu", r->test, r->batch);
    else
        (void)snprintf(label, cap, "%s", r->test);
    const double x = r->operations / r->bytes;
    *p = (struct ml_plot_point){.label = label, .prompt = r->prompt, .x = x, .y = x * r->gbps};
}

marlin_status ml_bench_plot(const struct ml_bench *b, const char *path, struct marlin_error *err) {
    struct ml_plot_point *points = ml_calloc(b->n_runs, sizeof *points);
    char(*labels)[MAX_LABEL] = ml_calloc(b->n_runs, sizeof *labels);
    char text[MAX_TITLE];
    struct ml_buf o;
    marlin_status st = MARLIN_ERR_MEMORY;
    ml_buf_init(&o, PLOT_LIMIT);
    title(b, text, sizeof text);
    if (points && labels) {
        for (size_t i = 0; i < b->n_runs; i++)
            set_point(&b->runs[i], &points[i], labels[i], sizeof labels[i]);
        const struct ml_plot plot = {.title = text,
                                     .gbps = b->machine.read_gbps,
                                     .gops = b->quantized ? b->machine.int8_gops : b->machine.bf16_gflops,
                                     .ceiling = b->quantized ? "int8" : "float32",
                                     .points = points,
                                     .n = b->n_runs};
        st = ml_plot_svg(&plot, &o);
    }
    if (st == MARLIN_OK)
        st = ml_file_write_atomic(path, o.data, o.len, err);
    else
        st = ml_fail(err, st, "%s: the picture does not fit into memory", path);
    ml_buf_free(&o);
    ml_free(points);
    ml_free(labels);
    return st;
}
