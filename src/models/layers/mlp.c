/* SPDX-License-Identifier: Apache-2.0
 *
 * The gated feed-forward block.
 */
#include "models/layers/layers.h"

enum { ROW_GRAIN = 4 };

struct glu_rows {
    ml_glu_fn *glu;
    float *gate;
    const float *up;
    size_t width;
};

static void glu_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct glu_rows *a = arg;
    (void)worker;
    float *gate = a->gate + begin * a->width;
    a->glu(gate, gate, a->up + begin * a->width, (end - begin) * a->width);
}

void ml_glu_forward(struct ml_state *s, float *gate, const float *up, size_t n, size_t width) {
    const struct ml_kernels *k = s->exec.k;
    const bool gelu = s->model->config->activation == ML_ACT_GELU_TANH;
    struct glu_rows a = {gelu ? k->gelu_glu : k->silu_glu, gate, up, width};
    if (n <= ROW_GRAIN)
        glu_rows(&a, 0, n, 0);
    else
        ml_pool_for(s->exec.pool, n, ROW_GRAIN, glu_rows, &a);
}

void ml_mlp_forward(struct ml_state *s, const struct ml_mlp *mlp, const float *x, float *y) {
    const size_t width = mlp->gate.out;
    const struct ml_linear_job in[] = {{&mlp->gate, s->gate, width}, {&mlp->up, s->up, width}};
    const struct ml_linear_job out = {&mlp->down, y, mlp->down.out};
    ml_linear_forward(s, in, 2, x, mlp->gate.in, s->n);
    ml_stage_linears(s, ML_STAGE_UP, in, 2);
    ml_glu_forward(s, s->gate, s->up, s->n, width);
    ml_linear_forward(s, &out, 1, s->gate, width, s->n);
    ml_stage_linears(s, ML_STAGE_DOWN, &out, 1);
}
