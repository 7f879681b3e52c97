/* SPDX-License-Identifier: Apache-2.0
 *
 * Grouped-query attention over the pages of each sequence: project, normalise q and k where the model does,
 * rotate, store, attend.
 */
#include "models/layers/layers.h"

/* What happens to q, k and v between the projections and the scores. */
static void prepare(struct ml_step *s, const struct ml_layer *l) {
    const struct ml_attention_weights *w = &l->mixer.attention;
    const struct ml_memory_place *place = ml_place_of(s, l);
    const struct ml_angles *angles = w->rope == &s->model->rope_local ? &s->local : &s->global;
    const struct ml_rope_config *rope = &s->model->config->rope;
    s->ops->rope_store(&s->stream, &(struct ml_rope_store_op){.pass = &s->pass,
                                                              .pages = s->pages[place->group],
                                                              .layout = place->layout,
                                                              .q = s->q,
                                                              .k = s->k,
                                                              .v = s->v,
                                                              .q_width = w->q.out,
                                                              .q_norm = &w->q_norm,
                                                              .k_norm = &w->k_norm,
                                                              .cos = angles->cos,
                                                              .sin = angles->sin,
                                                              .rotary = w->rope ? w->rope->rotary : 0,
                                                              .interleaved = s->model->arch->rope_interleaved,
                                                              .norm_last = w->norm_last,
                                                              .temper = (float)rope->temper,
                                                              .temper_length = (size_t)rope->original_max});
}

static void attend(struct ml_step *s, const struct ml_layer *l) {
    const struct ml_attention_weights *w = &l->mixer.attention;
    const struct ml_memory_place *place = ml_place_of(s, l);
    s->ops->attention(&s->stream, &(struct ml_attention_op){.pass = &s->pass,
                                                            .pages = s->pages[place->group],
                                                            .layout = place->layout,
                                                            .q = s->q,
                                                            .out = s->attn,
                                                            .heads = w->q.out / place->layout.k_dim,
                                                            .window = w->window,
                                                            .scale = w->scale,
                                                            .softcap = w->softcap,
                                                            .sinks = w->sinks});
}

/* Keys and values that all runs see, each counted once. */
static uint64_t seen_bytes(const struct ml_step *s, const struct ml_layer *l) {
    uint64_t sum = 0;
    for (size_t r = 0; r < s->pass.n_runs; r++) {
        const struct ml_pass_run *run = &s->pass.host_runs[r];
        sum += ml_attention_bytes(&ml_place_of(s, l)->layout, l->mixer.attention.window, (size_t)run->slot0,
                                  (size_t)run->n);
    }
    return sum;
}

uint64_t ml_attention_bytes(const struct ml_kv_layout *layout, size_t window, size_t pos0, size_t n) {
    const size_t seen = pos0 + n, most = window ? window + n - 1 : seen;
    return (uint64_t)(seen < most ? seen : most) * layout->kv_heads * ml_kv_slot_bytes(layout);
}

static void gate_heads(struct ml_step *s, const struct ml_attention_weights *w) {
    s->ops->glu(&s->stream, &(struct ml_glu_op){.act = {.kind = ML_GLU_SIGMOID},
                                                .gate = s->attn_gate,
                                                .up = s->attn,
                                                .n = s->n,
                                                .width = w->gate.out});
}

void ml_attention_forward(struct ml_step *s, const struct ml_layer *l, const float *x, float *y) {
    const struct ml_attention_weights *w = &l->mixer.attention;
    const struct ml_linear_job qkv[] = {
        ml_linear_job(&w->q, s->q, x, s->n), ml_linear_job(&w->k, s->k, x, s->n),
        ml_linear_job(&w->v, s->v, x, s->n), ml_linear_job(&w->gate, s->attn_gate, x, s->n)};
    const size_t n_jobs = w->gate.out ? 4 : 3;
    const struct ml_linear_job out = ml_linear_job(&w->o, y, w->gate.out ? s->attn_gate : s->attn, s->n);
    ml_linear_forward(s, qkv, n_jobs);
    ml_stage_linears(s, ML_STAGE_QKV, qkv, n_jobs);
    prepare(s, l);
    ml_stage_done(s, ML_STAGE_ROPE);
    attend(s, l);
    if (w->gate.out) gate_heads(s, w);
    if (s->profile) ml_profile_mark(s->profile, ML_STAGE_ATTENTION, seen_bytes(s, l));
    ml_linear_forward(s, &out, 1);
    ml_stage_linears(s, ML_STAGE_OUT, &out, 1);
}
