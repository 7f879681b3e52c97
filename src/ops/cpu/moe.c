/* SPDX-License-Identifier: Apache-2.0
 *
 * Mixture of experts: a router chooses top_k experts a row; pairs of row and expert are sorted by expert, so
 * that each expert's weights are read once for all of its rows, and all experts go in one dispatch.
 *
 *   pair (t, c) = t * top_k + c  --row[]-->  row of the gathered input
 *   expert e has rows start[e] .. start[e + 1] of it
 */
#include "ops/cpu/cpu_int.h"

#include <math.h>
#include <string.h>

/* ---- routing ---- */

/* An expert that is taken, or in a group that was left out. Scores are at least 0. */
static const float TAKEN = -1.0f;

static float deciding(const struct ml_router *r, const float *s, size_t e) {
    return r->bias ? s[e] + r->bias[e] : s[e];
}

/* The best expert that has not been taken. A NaN compares false with everything, so that it is taken only when
 * nothing else is left. */
static size_t best_of(const struct ml_router *r, const float *s) {
    size_t best = r->experts, spare = r->experts;
    float most = 0;
    for (size_t e = 0; e < r->experts; e++) {
        if (s[e] == TAKEN) continue;
        if (spare == r->experts) spare = e;
        const float c = deciding(r, s, e);
        if (c >= -INFINITY && (best == r->experts || c > most)) {
            best = e;
            most = c;
        }
    }
    return best < r->experts ? best : spare;
}

/* The sum of a group's two greatest; a NaN among all of them counts for nothing. */
static float group_score(const struct ml_router *r, const float *s, size_t group) {
    const size_t n = r->experts / r->groups;
    float first = -INFINITY, second = -INFINITY;
    for (size_t e = group * n; e < (group + 1) * n; e++) {
        const float c = deciding(r, s, e);
        if (c > first) {
            second = first;
            first = c;
        } else if (c > second) {
            second = c;
        }
    }
    return first + second;
}

/* Marks the experts of all groups but the best. Groups are few: how many beat one is counted for each. */
static void leave_groups_out(const struct ml_router *r, float *s) {
    float sums[ML_ROUTER_GROUPS];
    if (r->groups <= 1) return;
    const size_t n = r->experts / r->groups;
    for (size_t g = 0; g < r->groups; g++)
        sums[g] = group_score(r, s, g);
    for (size_t g = 0; g < r->groups; g++) {
        size_t better = 0;
        for (size_t other = 0; other < r->groups; other++)
            better += other < g ? sums[other] >= sums[g] : sums[other] > sums[g];
        for (size_t e = g * n; better >= r->top_groups && e < (g + 1) * n; e++)
            s[e] = TAKEN;
    }
}

static void score(const struct ml_kernels *k, const struct ml_router *r, float *s) {
    if (!r->sigmoid) {
        k->softmax(s, s, r->experts);
        return;
    }
    for (size_t e = 0; e < r->experts; e++)
        s[e] = (float)(1 / (1 + exp(-(double)s[e])));
}

static void choose_experts(const struct ml_kernels *k, const struct ml_route_op *op, size_t t) {
    const struct ml_router *r = &op->router;
    const size_t top_k = r->top_k;
    float *s = op->logits + t * r->experts, *weight = op->plan.weight + t * top_k, sum = 0;
    score(k, r, s);
    leave_groups_out(r, s);
    for (size_t c = 0; c < top_k; c++) {
        const size_t e = best_of(r, s);
        op->plan.expert[t * top_k + c] = (int32_t)e;
        weight[c] = s[e];
        sum += s[e];
        s[e] = TAKEN;
    }
    if (r->sigmoid) sum += 1e-20f; /* all of them may be 0 */
    for (size_t c = 0; r->normalise && c < top_k; c++)
        weight[c] /= sum;
    for (size_t c = 0; r->scale > 0 && r->scale != 1 && c < top_k; c++)
        weight[c] *= r->scale;
}

/* Counting sort, stable: row, token and start from expert. */
static void group_pairs(const struct ml_route_op *op) {
    const struct ml_moe_plan *p = &op->plan;
    const size_t experts = op->router.experts, pairs = op->n * op->router.top_k;
    int32_t *start = p->start;
    memset(start, 0, (experts + 1) * sizeof *start);
    for (size_t i = 0; i < pairs; i++)
        start[p->expert[i] + 1]++;
    for (size_t e = 0; e < experts; e++)
        start[e + 1] += start[e];
    /* start[e] is the next free row of expert e while rows are given out, hence start[e + 1] in the end. */
    for (size_t i = 0; i < pairs; i++) {
        const int32_t row = start[p->expert[i]]++;
        p->row[i] = row;
        p->token[row] = (int32_t)(i / op->router.top_k);
    }
    memmove(start + 1, start, experts * sizeof *start);
    start[0] = 0;
}

void ml_cpu_route(struct ml_stream *s, const struct ml_route_op *op) {
    for (size_t t = 0; t < op->n; t++)
        choose_experts(ml_cpu_work(s)->exec.k, op, t);
    group_pairs(op);
}

/* ---- experts ---- */

static size_t rows_of(const struct ml_experts_op *op, size_t e) {
    return (size_t)(op->plan.start[e + 1] - op->plan.start[e]);
}

static void gather(const struct ml_experts_op *op, size_t pairs, size_t hidden) {
    for (size_t r = 0; r < pairs; r++)
        memcpy(op->pair_x + r * hidden, op->x + (size_t)op->plan.token[r] * hidden, hidden * sizeof *op->x);
}

/* gate and up of every expert that has rows. The experts of a single row share its x as it lies. */
static size_t first_jobs(const struct ml_experts_op *op, struct ml_linear_job *jobs) {
    const size_t hidden = op->moe->router.in;
    size_t n_jobs = 0;
    for (size_t e = 0; e < op->moe->choose.experts; e++) {
        const struct ml_mlp *mlp = &op->moe->experts[e];
        const size_t row = (size_t)op->plan.start[e], n = rows_of(op, e), width = mlp->gate.out;
        const float *x = op->n == 1 ? op->x : op->pair_x + row * hidden;
        if (n == 0) continue;
        jobs[n_jobs++] = (struct ml_linear_job){&mlp->gate, op->pair_gate + row * width, width, x, hidden, n};
        jobs[n_jobs++] = (struct ml_linear_job){&mlp->up, op->pair_up + row * width, width, x, hidden, n};
    }
    return n_jobs;
}

static size_t down_jobs(const struct ml_experts_op *op, struct ml_linear_job *jobs) {
    const size_t hidden = op->moe->router.in;
    size_t n_jobs = 0;
    for (size_t e = 0; e < op->moe->choose.experts; e++) {
        const struct ml_mlp *mlp = &op->moe->experts[e];
        const size_t row = (size_t)op->plan.start[e], n = rows_of(op, e), width = mlp->gate.out;
        if (n == 0) continue;
        jobs[n_jobs++] = (struct ml_linear_job){
            &mlp->down, op->pair_y + row * hidden, hidden, op->pair_gate + row * width, width, n};
    }
    return n_jobs;
}

/* Sums in the order of a row's choices, whatever order the experts ran in. */
static void combine(const struct ml_kernels *k, const struct ml_experts_op *op, size_t hidden) {
    const size_t top_k = op->moe->choose.top_k;
    memset(op->y, 0, op->n * hidden * sizeof *op->y);
    for (size_t i = 0; i < op->n * top_k; i++)
        k->axpy(op->y + i / top_k * hidden, op->plan.weight[i], op->pair_y + (size_t)op->plan.row[i] * hidden,
                hidden);
}

void ml_cpu_experts(struct ml_stream *s, const struct ml_experts_op *op) {
    struct ml_cpu_work *w = ml_cpu_work(s);
    const size_t hidden = op->moe->router.in, pairs = op->n * op->moe->choose.top_k;
    if (op->n > 1) gather(op, pairs, hidden);
    ml_cpu_linears(w, op->mode, w->jobs, first_jobs(op, w->jobs));
    ml_cpu_glu(s, &(struct ml_glu_op){.act = op->act,
                                      .gate = op->pair_gate,
                                      .up = op->pair_up,
                                      .n = pairs,
                                      .width = op->moe->experts[0].gate.out});
    ml_cpu_linears(w, op->mode, w->jobs, down_jobs(op, w->jobs));
    combine(w->exec.k, op, hidden);
}
