/* SPDX-License-Identifier: Apache-2.0
 *
 * Mixture of experts: a router chooses top_k experts a token; pairs of token and expert are sorted by expert,
 * so that each expert's weights are read once for all of its tokens.
 *
 *   pair (t, c) = t * top_k + c --row[]--> row of the gathered input, rows of expert e at
 * start[e]..start[e+1]
 */
#include "models/layers/layers.h"

#include <string.h>

/* The best expert that has not been taken (taken ones are marked -1). A probability is >= 0; a NaN compares
 * false with everything, so that it is taken only when nothing else is left. */
static size_t best_of(const float *p, size_t experts) {
    size_t best = experts, spare = experts;
    for (size_t e = 0; e < experts; e++) {
        if (p[e] == -1.0f) continue;
        if (spare == experts) spare = e;
        if (p[e] >= 0.0f && (best == experts || p[e] > p[best])) best = e;
    }
    return best < experts ? best : spare;
}

void ml_moe_route(const struct ml_kernels *k, float *logits, size_t n, size_t experts, size_t top_k,
                  bool normalise, struct ml_moe_plan *plan) {
    for (size_t t = 0; t < n; t++) {
        float *p = logits + t * experts, *weight = plan->weight + t * top_k, sum = 0;
        k->softmax(p, p, experts);
        for (size_t c = 0; c < top_k; c++) {
            const size_t e = best_of(p, experts);
            plan->expert[t * top_k + c] = (int32_t)e;
            weight[c] = p[e];
            sum += p[e];
            p[e] = -1.0f;
        }
        for (size_t c = 0; normalise && c < top_k; c++)
            weight[c] /= sum;
    }
}

void ml_moe_group(size_t n, size_t experts, size_t top_k, struct ml_moe_plan *plan) {
    const size_t pairs = n * top_k;
    size_t *start = plan->start;
    memset(start, 0, (experts + 1) * sizeof(*start));
    for (size_t i = 0; i < pairs; i++)
        start[plan->expert[i] + 1]++;
    for (size_t e = 0; e < experts; e++)
        start[e + 1] += start[e];
    /* start[e] is the next free row of expert e while rows are given out, hence start[e + 1] in the end. */
    for (size_t i = 0; i < pairs; i++) {
        const size_t row = start[plan->expert[i]]++;
        plan->row[i] = (int32_t)row;
        plan->token[row] = (int32_t)(i / top_k);
    }
    memmove(start + 1, start, experts * sizeof(*start));
    start[0] = 0;
}

static void gather(struct ml_state *s, const float *x, size_t pairs, size_t hidden) {
    for (size_t r = 0; r < pairs; r++) {
        memcpy(s->pair_x + r * hidden, x + (size_t)s->plan.token[r] * hidden, hidden * sizeof(*x));
    }
}

static void run_expert(struct ml_state *s, const struct ml_mlp *e, size_t row, size_t n) {
    const size_t hidden = e->gate.in, width = e->gate.out;
    float *gate = s->pair_gate + row * width, *up = s->pair_up + row * width;
    const struct ml_linear_job in[] = {{&e->gate, gate, width}, {&e->up, up, width}};
    const struct ml_linear_job out = {&e->down, s->pair_y + row * hidden, hidden};
    ml_linear_forward(s, in, 2, s->pair_x + row * hidden, hidden, n);
    ml_glu_forward(s, gate, up, n, width);
    ml_linear_forward(s, &out, 1, gate, width, n);
}

/* One token: its experts share x, so that their first products go in few fork-joins. */
static void run_token(struct ml_state *s, const struct ml_moe *moe, const float *x) {
    const size_t hidden = moe->router.in, width = moe->experts[0].gate.out;
    struct ml_linear_job jobs[ML_LINEAR_JOBS];
    for (size_t c = 0; c < moe->top_k;) {
        size_t n = 0;
        for (; c < moe->top_k && n + 2 <= ML_LINEAR_JOBS; c++) {
            const struct ml_mlp *e = &moe->experts[s->plan.expert[c]];
            const size_t at = (size_t)s->plan.row[c] * width;
            jobs[n++] = (struct ml_linear_job){&e->gate, s->pair_gate + at, width};
            jobs[n++] = (struct ml_linear_job){&e->up, s->pair_up + at, width};
        }
        ml_linear_forward(s, jobs, n, x, hidden, 1);
    }
    ml_glu_forward(s, s->pair_gate, s->pair_up, moe->top_k, width);
    for (size_t c = 0; c < moe->top_k; c++) {
        const size_t row = (size_t)s->plan.row[c];
        const struct ml_linear_job down = {&moe->experts[s->plan.expert[c]].down, s->pair_y + row * hidden,
                                           hidden};
        ml_linear_forward(s, &down, 1, s->pair_gate + row * width, width, 1);
    }
}

static void run_tokens(struct ml_state *s, const struct ml_moe *moe, const float *x) {
    gather(s, x, s->n * moe->top_k, moe->router.in);
    for (size_t e = 0; e < moe->n_experts; e++) {
        const size_t row = s->plan.start[e], n = s->plan.start[e + 1] - row;
        if (n > 0) run_expert(s, &moe->experts[e], row, n);
    }
}

/* Sums in the order of a token's choices, whatever order the experts ran in. */
static void combine(struct ml_state *s, size_t top_k, size_t hidden, float *y) {
    memset(y, 0, s->n * hidden * sizeof(*y));
    for (size_t i = 0; i < s->n * top_k; i++) {
        s->exec.k->axpy(y + i / top_k * hidden, s->plan.weight[i],
                        s->pair_y + (size_t)s->plan.row[i] * hidden, hidden);
    }
}

/* Weights of the experts that were chosen. */
static uint64_t expert_bytes(const struct ml_state *s, const struct ml_moe *moe) {
    uint64_t sum = 0;
    for (size_t e = 0; e < moe->n_experts; e++) {
        const struct ml_mlp *x = &moe->experts[e];
        if (s->plan.start[e + 1] == s->plan.start[e]) continue;
        sum += ml_linear_bytes(s->model, &x->gate) + ml_linear_bytes(s->model, &x->up) +
               ml_linear_bytes(s->model, &x->down);
    }
    return sum;
}

void ml_moe_forward(struct ml_state *s, const struct ml_moe *moe, const float *x, float *y) {
    const size_t hidden = moe->router.in, experts = moe->n_experts;
    const struct ml_linear_job router = {&moe->router, s->router, experts};
    ml_linear_forward(s, &router, 1, x, hidden, s->n);
    ml_moe_route(s->exec.k, s->router, s->n, experts, moe->top_k, moe->normalise, &s->plan);
    ml_moe_group(s->n, experts, moe->top_k, &s->plan);
    ml_stage_linears(s, ML_STAGE_ROUTER, &router, 1);
    if (s->n == 1)
        run_token(s, moe, x);
    else
        run_tokens(s, moe, x);
    combine(s, moe->top_k, hidden, y);
    if (s->profile) ml_profile_mark(s->profile, ML_STAGE_EXPERTS, expert_bytes(s, moe));
}
