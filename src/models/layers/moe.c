/* SPDX-License-Identifier: Apache-2.0
 *
 * Mixture of experts: router, choice, and all of the chosen experts at once.
 */
#include "models/layers/layers.h"

/* Weights of the experts that were chosen; on a device of its own memory the plan stays there, and they are as
 * many as there can be. */
static uint64_t expert_bytes(const struct ml_step *s, const struct ml_moe *moe) {
    const size_t experts = moe->choose.experts, pairs = s->n * moe->choose.top_k;
    const bool is_host = s->stream.device->is_host;
    uint64_t sum = 0;
    for (size_t e = 0; e < (is_host || experts < pairs ? experts : pairs); e++) {
        const struct ml_mlp *x = &moe->experts[e];
        if (is_host && s->plan.start[e + 1] == s->plan.start[e]) continue;
        sum += ml_linear_bytes(s->model, &x->gate) + ml_linear_bytes(s->model, &x->up) +
               ml_linear_bytes(s->model, &x->down);
    }
    return sum;
}

void ml_route_forward(struct ml_step *s, const struct ml_router *router, float *logits, size_t n) {
    s->ops->route(&s->stream,
                  &(struct ml_route_op){.router = *router, .logits = logits, .n = n, .plan = s->plan});
}

/* Experts run at once; who watches is shown afterwards what each of their linears has read. On the CPU only. */
static void show_experts(const struct ml_step *s, const struct ml_moe *moe, const float *x) {
    const size_t hidden = moe->router.in;
    for (size_t e = 0; e < moe->choose.experts; e++) {
        const struct ml_mlp *mlp = &moe->experts[e];
        const size_t row = (size_t)s->plan.start[e], n = (size_t)s->plan.start[e + 1] - row;
        const float *in = s->n == 1 ? x : s->pair_x + row * hidden; /* a single row is not gathered */
        if (n == 0) continue;
        s->observe(s->observe_user, &mlp->gate, in, hidden, n);
        s->observe(s->observe_user, &mlp->up, in, hidden, n);
        s->observe(s->observe_user, &mlp->down, s->pair_gate + row * mlp->down.in, mlp->down.in, n);
    }
}

void ml_moe_forward(struct ml_step *s, const struct ml_moe *moe, const float *x, float *y) {
    const struct ml_linear_job router = ml_linear_job(&moe->router, s->router, x, s->n);
    ml_linear_forward(s, &router, 1);
    ml_route_forward(s, &moe->choose, s->router, s->n);
    ml_stage_linears(s, ML_STAGE_ROUTER, &router, 1);
    s->ops->experts(&s->stream, &(struct ml_experts_op){.moe = moe,
                                                        .mode = s->model->mode,
                                                        .act = ml_model_glu(s->model),
                                                        .x = x,
                                                        .n = s->n,
                                                        .y = y,
                                                        .plan = s->plan,
                                                        .pair_x = s->pair_x,
                                                        .pair_y = s->pair_y,
                                                        .pair_gate = s->pair_gate,
                                                        .pair_up = s->pair_up});
    if (s->observe) show_experts(s, moe, x);
    if (s->profile) ml_profile_mark(s->profile, ML_STAGE_EXPERTS, expert_bytes(s, moe));
    if (!moe->shared.gate.out) return;
    ml_mlp_forward(s, &moe->shared, x, s->shared);
    s->ops->add(&s->stream, &(struct ml_add_op){.x = y, .y = s->shared, .n = s->n, .width = moe->router.in});
}
