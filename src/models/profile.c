/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums and events of stages.
 */
#include "models/profile.h"

#include "base/clock.h"
#include "base/mem.h"

const char *ml_stage_name(enum ml_stage s) {
    static const char *const names[ML_STAGES] = {"embed", "qkv",    "rope",    "attention", "out", "gate up",
                                                 "down",  "router", "experts", "residual",  "head"};
    return s < ML_STAGES ? names[s] : "unknown";
}

marlin_status ml_profile_create(struct ml_profile **out, size_t max_events, struct marlin_error *err) {
    struct ml_profile *p = ml_calloc(1, sizeof *p);
    if (p && max_events) p->events = ml_calloc(max_events, sizeof *p->events);
    if (!p || (max_events && !p->events)) {
        ml_free(p);
        return ml_fail(err, MARLIN_ERR_MEMORY, "profile: no memory for %zu events", max_events);
    }
    p->max_events = max_events;
    *out = p;
    return MARLIN_OK;
}

void ml_profile_free(struct ml_profile *p) {
    if (!p) return;
    ml_free(p->events);
    ml_free(p);
}

void ml_profile_begin(struct ml_profile *p, size_t n) {
    p->pass = n > 1 ? ML_PASS_PROMPT : ML_PASS_TOKEN;
    p->n = n;
    p->layer = -1;
    p->begin = p->last = ml_clock_ns();
}

void ml_profile_mark(struct ml_profile *p, enum ml_stage stage, uint64_t bytes) {
    const uint64_t now = ml_clock_ns();
    struct ml_stage_sum *s = &p->sum[p->pass][stage];
    s->ns += now - p->last;
    s->bytes += bytes;
    s->calls++;
    if (p->n_events < p->max_events)
        p->events[p->n_events++] = (struct ml_stage_event){.start = p->last,
                                                           .ns = now - p->last,
                                                           .stage = (int16_t)stage,
                                                           .layer = (int16_t)p->layer,
                                                           .tokens = (int32_t)p->n};
    else if (p->max_events)
        p->lost++;
    p->last = now;
}

void ml_profile_end(struct ml_profile *p) {
    p->ns[p->pass] += p->last - p->begin;
    p->tokens[p->pass] += p->n;
}
