/* SPDX-License-Identifier: Apache-2.0
 *
 * A profile as a table and as a timeline.
 */
#include "cli/profile_text.h"

#include "base/file.h"
#include "kernels/peak.h"

#include <inttypes.h>
#include <stdio.h>

enum { TRACE_LIMIT = 512 << 20 };

static void print_stage(const struct ml_stage_sum *s, enum ml_stage stage, double total, double tokens,
                        double peak) {
    const double ns = (double)s->ns, gbps = ns > 0 ? (double)s->bytes / ns : 0;
    if (s->calls == 0) return;
    fprintf(stderr, "  %-10s %10.1f us/token %5.1f %%", ml_stage_name(stage), ns / tokens * 1e-3,
            100 * ns / total);
    if (s->bytes)
        fprintf(stderr, " %9.2f MB/token %7.2f GB/s %5.1f %%", (double)s->bytes / tokens * 1e-6, gbps,
                100 * gbps / peak);
    fputc('\n', stderr);
}

static void print_pass(const struct ml_profile *p, enum ml_profile_pass pass, double peak) {
    uint64_t bytes = 0;
    if (p->tokens[pass] == 0) return;
    const double total = (double)p->ns[pass], tokens = (double)p->tokens[pass];
    fprintf(stderr, "%s, %.0f tokens:%*stime, share%14s weights and cache read, of bandwidth\n",
            pass == ML_PASS_PROMPT ? "prompt" : "one by one", tokens, 6, "", "");
    for (int s = 0; s < ML_STAGES; s++) {
        print_stage(&p->sum[pass][s], (enum ml_stage)s, total, tokens, peak);
        bytes += p->sum[pass][s].bytes;
    }
    fprintf(stderr, "  all: %.1f us/token, %.2f GB/s, %.1f %% of %.1f GB/s\n", total / tokens * 1e-3,
            (double)bytes / total, 100 * (double)bytes / total / peak, peak);
}

marlin_status ml_cli_print_profile(const struct ml_profile *p, struct ml_pool *pool,
                                   struct marlin_error *err) {
    double peak = 0;
    const marlin_status st = ml_peak_read_gbps(pool, &peak);
    if (st != MARLIN_OK) return ml_fail(err, st, "profile: no memory to measure the read bandwidth with");
    for (int pass = 0; pass < ML_PASSES; pass++)
        print_pass(p, (enum ml_profile_pass)pass, peak);
    return MARLIN_OK;
}

static marlin_status add_event(struct ml_buf *b, const struct ml_stage_event *e, uint64_t start, bool first) {
    return ml_buf_addf(b,
                       "%s{\"name\":\"%s\",\"cat\":\"forward\",\"ph\":\"X\",\"pid\":1,\"tid\":1,\"ts\":%.3f,"
                       "\"dur\":%.3f,\"args\":{\"layer\":%d,\"tokens\":%d}}",
                       first ? "" : ",\n", ml_stage_name((enum ml_stage)e->stage),
                       (double)(e->start - start) * 1e-3, (double)e->ns * 1e-3, e->layer, (int)e->tokens);
}

marlin_status ml_cli_write_trace(const struct ml_cli *cli, const struct ml_profile *p, const char *path,
                                 struct marlin_error *err) {
    struct ml_buf b;
    marlin_status st;
    ml_buf_init(&b, TRACE_LIMIT);
    ML_TRY(ml_buf_adds(&b, "{\"traceEvents\":[\n"));
    for (size_t i = 0; i < p->n_events; i++)
        ML_TRY(add_event(&b, &p->events[i], p->events[0].start, i == 0));
    ML_TRY(ml_buf_adds(&b, "\n]}\n"));
    ML_TRY(ml_file_write_atomic(path, b.data, b.len, err));
    if (p->lost) ml_cli_note(cli, "%s: the last %zu stages did not fit", path, p->lost);
out:
    ml_buf_free(&b);
    if (st == MARLIN_ERR_MEMORY || st == MARLIN_ERR_LIMIT)
        return ml_fail(err, st, "%s: %zu events do not fit into memory", path, p->n_events);
    return st;
}
