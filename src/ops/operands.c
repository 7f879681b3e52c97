/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies of arguments and walks over their operands. Sizes are products of shapes whose memory exists, so
 * they do not overflow.
 */
#include "ops/operands.h"

#include <string.h>

/* ---- copies: each function runs twice, first to count (to == NULL), then to copy ---- */

struct room {
    char *to;
    size_t used;
};

/* The copy of `bytes` bytes, or NULL when there is nothing or only the count is wanted. */
static void *take(struct room *r, const void *from, size_t bytes) {
    const size_t at = r->used;
    if (!from) return NULL;
    r->used += (bytes + 15) / 16 * 16;
    if (!r->to) return NULL;
    if (bytes > 0) memcpy(r->to + at, from, bytes);
    return r->to + at;
}

static struct ml_pass *take_pass(struct room *r, const struct ml_pass *from) {
    struct ml_pass *p = take(r, from, sizeof *from);
    const struct ml_pass_run *runs = take(r, from->host_runs, from->n_runs * sizeof *runs);
    if (p) p->host_runs = runs;
    return p;
}

static void take_inside_linear(struct room *r, const struct ml_linear *from, struct ml_linear *to) {
    if (from->kind != ML_LINEAR_QUANT) return;
    const struct ml_quant_linear *q = &from->u.quant;
    struct ml_quant_piece *pieces = take(r, q->pieces, q->n_pieces * sizeof *pieces);
    if (to) to->u.quant.pieces = pieces;
}

static struct ml_linear *take_linear(struct room *r, const struct ml_linear *from) {
    struct ml_linear *l = take(r, from, sizeof *from);
    take_inside_linear(r, from, l);
    return l;
}

static struct ml_moe *take_moe(struct room *r, const struct ml_moe *from) {
    const size_t n = from->choose.experts;
    struct ml_moe *m = take(r, from, sizeof *from);
    struct ml_mlp *experts = take(r, from->experts, n * sizeof *experts);
    take_inside_linear(r, &from->router, m ? &m->router : NULL);
    for (size_t e = 0; e < n; e++) {
        const struct ml_mlp *mlp = &from->experts[e];
        take_inside_linear(r, &mlp->gate, experts ? &experts[e].gate : NULL);
        take_inside_linear(r, &mlp->up, experts ? &experts[e].up : NULL);
        take_inside_linear(r, &mlp->down, experts ? &experts[e].down : NULL);
    }
    if (m) m->experts = experts;
    return m;
}

static void *clone_embed(struct room *r, const struct ml_embed_op *from) {
    struct ml_embed_op *a = take(r, from, sizeof *from);
    struct ml_embedding *e = take(r, from->embedding, sizeof *e);
    const struct ml_quant_matrix *rows = take(r, from->embedding->rows, sizeof *rows);
    const struct ml_pass *pass = take_pass(r, from->pass);
    if (!a) return NULL;
    e->rows = rows;
    a->embedding = e;
    a->pass = pass;
    return a;
}

static void *clone_norm(struct room *r, const struct ml_norm_op *from) {
    struct ml_norm_op *a = take(r, from, sizeof *from);
    const struct ml_norm *norm = take(r, from->norm, sizeof *norm);
    if (a) a->norm = norm;
    return a;
}

static void *clone_add(struct room *r, const struct ml_add_op *from) {
    return take(r, from, sizeof *from);
}

static void *clone_linear(struct room *r, const struct ml_linear_op *from) {
    struct ml_linear_op *a = take(r, from, sizeof *from);
    struct ml_linear_job *jobs = take(r, from->jobs, from->n_jobs * sizeof *jobs);
    for (size_t j = 0; j < from->n_jobs; j++) {
        const struct ml_linear *linear = take_linear(r, from->jobs[j].linear);
        if (jobs) jobs[j].linear = linear;
    }
    if (a) a->jobs = jobs;
    return a;
}

static void *clone_angles(struct room *r, const struct ml_angles_op *from) {
    struct ml_angles_op *a = take(r, from, sizeof *from);
    const struct ml_pass *pass = take_pass(r, from->pass);
    if (a) a->pass = pass;
    return a;
}

static void *clone_rope_store(struct room *r, const struct ml_rope_store_op *from) {
    struct ml_rope_store_op *a = take(r, from, sizeof *from);
    const struct ml_pass *pass = take_pass(r, from->pass);
    const struct ml_norm *q_norm = take(r, from->q_norm, sizeof *q_norm);
    const struct ml_norm *k_norm = take(r, from->k_norm, sizeof *k_norm);
    if (!a) return NULL;
    a->pass = pass;
    a->q_norm = q_norm;
    a->k_norm = k_norm;
    return a;
}

static void *clone_attention(struct room *r, const struct ml_attention_op *from) {
    struct ml_attention_op *a = take(r, from, sizeof *from);
    const struct ml_pass *pass = take_pass(r, from->pass);
    if (a) a->pass = pass;
    return a;
}

static void *clone_glu(struct room *r, const struct ml_glu_op *from) {
    return take(r, from, sizeof *from);
}

static void *clone_route(struct room *r, const struct ml_route_op *from) {
    return take(r, from, sizeof *from);
}

static void *clone_experts(struct room *r, const struct ml_experts_op *from) {
    struct ml_experts_op *a = take(r, from, sizeof *from);
    const struct ml_moe *moe = take_moe(r, from->moe);
    if (a) a->moe = moe;
    return a;
}

static void *clone_softcap(struct room *r, const struct ml_softcap_op *from) {
    return take(r, from, sizeof *from);
}

static void *clone_gather(struct room *r, const struct ml_gather_op *from) {
    return take(r, from, sizeof *from);
}

static void *clone_copy(struct room *r, const struct ml_copy_op *from) {
    return take(r, from, sizeof *from);
}

/* ---- walks: what hangs on arguments is const there, but a clone's own is not ---- */

#define OWN(type, p) ((type *)(uintptr_t)(p))

static void *see(const struct ml_visitor *v, const void *p, size_t bytes, enum ml_operand_use use) {
    if (!p || bytes == 0) return OWN(void, p);
    return v->visit(v->user, p, bytes, use);
}

static void *see_floats(const struct ml_visitor *v, const float *p, size_t n, enum ml_operand_use use) {
    return see(v, p, n * sizeof *p, use);
}

static void *see_ints(const struct ml_visitor *v, const int32_t *p, size_t n, enum ml_operand_use use) {
    return see(v, p, n * sizeof *p, use);
}

/* Elements from the first to the last of n rows. */
static size_t span(size_t n, size_t stride, size_t width) {
    return n > 0 ? (n - 1) * stride + width : 0;
}

static void visit_matrix(const struct ml_visitor *v, struct ml_matrix *m) {
    m->data = see(v, m->data, span(m->rows, m->stride, m->cols) * ml_dtype_size(m->dtype), ML_OPERAND_IN);
}

static void visit_quant(const struct ml_visitor *v, struct ml_quant_matrix *m) {
    const size_t bytes =
        m->format == ML_QUANT_INT8 ? m->rows * m->cols : m->n / 16 * (m->k / 16) * 32 * (size_t)m->bits;
    m->arranged = see(v, m->arranged, ml_quant_arranged_bytes(ml_kernels(), m), ML_OPERAND_IN);
    m->data = see(v, m->data, bytes, ML_OPERAND_IN);
    m->su = see_floats(v, m->su, m->k, ML_OPERAND_IN);
    m->sv = see_floats(v, m->sv, m->n, ML_OPERAND_IN);
}

static void visit_weights(const struct ml_visitor *v, struct ml_linear *l) {
    if (l->kind == ML_LINEAR_PLAIN)
        visit_matrix(v, &l->u.plain);
    else
        for (size_t i = 0; i < l->u.quant.n_pieces; i++)
            visit_quant(v, &l->u.quant.pieces[i].m);
    l->bias = see_floats(v, l->bias, l->out, ML_OPERAND_IN);
}

static void visit_norm_weights(const struct ml_visitor *v, const struct ml_norm *norm) {
    if (!norm) return;
    OWN(struct ml_norm, norm)->w = see_floats(v, norm->w, norm->n, ML_OPERAND_IN);
    OWN(struct ml_norm, norm)->bias = see_floats(v, norm->bias, norm->n, ML_OPERAND_IN);
}

static void visit_pass(const struct ml_visitor *v, const struct ml_pass *pass) {
    struct ml_pass *p = OWN(struct ml_pass, pass);
    p->ids = see_ints(v, p->ids, p->n, ML_OPERAND_IN);
    p->position = see_ints(v, p->position, 3 * p->n, ML_OPERAND_IN);
    p->run_of = see_ints(v, p->run_of, p->n, ML_OPERAND_IN);
    p->runs = see(v, p->runs, p->n_runs * sizeof *p->runs, ML_OPERAND_IN);
    p->tree = see(v, p->tree, p->n * sizeof *p->tree, ML_OPERAND_IN);
}

/* Of each run the pages from the one of its first row's oldest slot on, `back` slots before the first row's
 * own. */
static void visit_pages(const struct ml_visitor *v, const struct ml_pass *pass, struct ml_page_table *pages,
                        const struct ml_kv_layout *layout, size_t back, enum ml_operand_use use) {
    size_t length = 0;
    for (size_t r = 0; r < pass->n_runs; r++) {
        const struct ml_pass_run *run = &pass->host_runs[r];
        const size_t used = ((size_t)run->slot0 + (size_t)run->n + ML_PAGE_KEYS - 1) / ML_PAGE_KEYS;
        if (run->n > 0) length = r * pages->stride + used;
    }
    const char **table = see(v, pages->table, length * sizeof *table, ML_OPERAND_KEY);
    if (!table) return;
    for (size_t r = 0; r < pass->n_runs; r++) {
        const struct ml_pass_run *run = &pass->host_runs[r];
        const size_t slot0 = (size_t)run->slot0, end = run->n > 0 ? slot0 + (size_t)run->n : 0;
        for (size_t i = (slot0 > back ? slot0 - back : 0) / ML_PAGE_KEYS; i * ML_PAGE_KEYS < end; i++) {
            const char **page = &table[r * pages->stride + i];
            *page = (char *)see(v, *page + layout->at, layout->bytes, use) - layout->at;
        }
    }
    pages->table = table;
}

static void visit_embed(void *clone, const struct ml_visitor *v) {
    struct ml_embed_op *a = clone;
    struct ml_embedding *e = OWN(struct ml_embedding, a->embedding);
    visit_pass(v, a->pass);
    if (e->rows)
        visit_quant(v, OWN(struct ml_quant_matrix, e->rows));
    else
        visit_matrix(v, &e->plain);
    visit_norm_weights(v, &e->norm);
    a->x = see_floats(v, a->x, a->pass->n * a->width, ML_OPERAND_INOUT);
}

static void visit_norm(void *clone, const struct ml_visitor *v) {
    struct ml_norm_op *a = clone;
    const size_t n = a->n * a->norm->n;
    visit_norm_weights(v, a->norm);
    a->x = see_floats(v, a->x, n, ML_OPERAND_IN);
    a->y = see_floats(v, a->y, n, ML_OPERAND_OUT);
}

static void visit_add(void *clone, const struct ml_visitor *v) {
    struct ml_add_op *a = clone;
    a->x = see_floats(v, a->x, a->n * a->width, ML_OPERAND_INOUT);
    a->y = see_floats(v, a->y, a->n * a->width, ML_OPERAND_IN);
}

static void visit_linear(void *clone, const struct ml_visitor *v) {
    struct ml_linear_op *a = clone;
    for (size_t j = 0; j < a->n_jobs; j++) {
        struct ml_linear_job *job = OWN(struct ml_linear_job, &a->jobs[j]);
        const struct ml_linear *l = job->linear;
        const bool whole = job->ldy == l->out || job->n == 1;
        visit_weights(v, OWN(struct ml_linear, l));
        job->x = see_floats(v, job->x, span(job->n, job->ldx, l->in), ML_OPERAND_IN);
        job->y =
            see_floats(v, job->y, span(job->n, job->ldy, l->out), whole ? ML_OPERAND_OUT : ML_OPERAND_INOUT);
    }
}

static void visit_angles(void *clone, const struct ml_visitor *v) {
    struct ml_angles_op *a = clone;
    visit_pass(v, a->pass);
    a->inv_freq = see_floats(v, a->inv_freq, a->pass->n_runs * a->half, ML_OPERAND_IN);
    a->cos = see_floats(v, a->cos, a->pass->n * a->half, ML_OPERAND_OUT);
    a->sin = see_floats(v, a->sin, a->pass->n * a->half, ML_OPERAND_OUT);
}

static void visit_rope_store(void *clone, const struct ml_visitor *v) {
    struct ml_rope_store_op *a = clone;
    const size_t n = a->pass->n, heads = a->layout.kv_heads;
    visit_pass(v, a->pass);
    visit_pages(v, a->pass, &a->pages, &a->layout, 0, ML_OPERAND_INOUT);
    a->q = see_floats(v, a->q, n * a->q_width, ML_OPERAND_INOUT);
    a->k = see_floats(v, a->k, n * heads * a->layout.k_dim, ML_OPERAND_INOUT);
    a->v = see_floats(v, a->v, n * heads * a->layout.v_dim, ML_OPERAND_IN);
    visit_norm_weights(v, a->q_norm);
    visit_norm_weights(v, a->k_norm);
    a->cos = see_floats(v, a->cos, n * (a->rotary / 2), ML_OPERAND_IN);
    a->sin = see_floats(v, a->sin, n * (a->rotary / 2), ML_OPERAND_IN);
}

static void visit_attention(void *clone, const struct ml_visitor *v) {
    struct ml_attention_op *a = clone;
    const size_t n = a->pass->n;
    visit_pass(v, a->pass);
    visit_pages(v, a->pass, &a->pages, &a->layout, a->window ? a->window - 1 : SIZE_MAX, ML_OPERAND_IN);
    a->q = see_floats(v, a->q, n * a->heads * a->layout.k_dim, ML_OPERAND_IN);
    a->out = see_floats(v, a->out, n * a->heads * a->layout.v_dim, ML_OPERAND_OUT);
    a->sinks = see_floats(v, a->sinks, a->heads, ML_OPERAND_IN);
}

static void visit_glu(void *clone, const struct ml_visitor *v) {
    struct ml_glu_op *a = clone;
    a->gate = see_floats(v, a->gate, a->n * a->width, ML_OPERAND_INOUT);
    a->up = see_floats(v, a->up, a->n * a->width, ML_OPERAND_IN);
}

static void visit_plan(const struct ml_visitor *v, struct ml_moe_plan *p, size_t pairs,
                       enum ml_operand_use use) {
    p->expert = see_ints(v, p->expert, pairs, use);
    p->weight = see_floats(v, p->weight, pairs, use);
    p->row = see_ints(v, p->row, pairs, use);
    p->token = see_ints(v, p->token, pairs, use);
}

static void visit_route(void *clone, const struct ml_visitor *v) {
    struct ml_route_op *a = clone;
    const size_t experts = a->router.experts;
    a->logits = see_floats(v, a->logits, a->n * experts, ML_OPERAND_INOUT);
    a->router.bias = see_floats(v, a->router.bias, experts, ML_OPERAND_IN);
    visit_plan(v, &a->plan, a->n * a->router.top_k, ML_OPERAND_OUT);
    a->plan.start = see_ints(v, a->plan.start, experts + 1, ML_OPERAND_OUT);
}

/* The router's product is an operation of its own: its weights are not visited. */
static void visit_experts(void *clone, const struct ml_visitor *v) {
    struct ml_experts_op *a = clone;
    const size_t experts = a->moe->choose.experts, pairs = a->n * a->moe->choose.top_k;
    const size_t hidden = a->moe->router.in, width = a->moe->experts[0].gate.out;
    visit_plan(v, &a->plan, pairs, ML_OPERAND_IN);
    a->plan.start = see_ints(v, a->plan.start, experts + 1, ML_OPERAND_KEY);
    if (!a->plan.start) return;
    for (size_t e = 0; e < experts; e++) {
        struct ml_mlp *mlp = &a->moe->experts[e];
        if (a->plan.start[e] == a->plan.start[e + 1]) continue;
        visit_weights(v, &mlp->gate);
        visit_weights(v, &mlp->up);
        visit_weights(v, &mlp->down);
    }
    a->x = see_floats(v, a->x, a->n * hidden, ML_OPERAND_IN);
    a->y = see_floats(v, a->y, a->n * hidden, ML_OPERAND_OUT);
    a->pair_x = see_floats(v, a->pair_x, pairs * hidden, ML_OPERAND_OUT);
    a->pair_y = see_floats(v, a->pair_y, pairs * hidden, ML_OPERAND_OUT);
    a->pair_gate = see_floats(v, a->pair_gate, pairs * width, ML_OPERAND_OUT);
    a->pair_up = see_floats(v, a->pair_up, pairs * width, ML_OPERAND_OUT);
}

static void visit_softcap(void *clone, const struct ml_visitor *v) {
    struct ml_softcap_op *a = clone;
    a->x = see_floats(v, a->x, a->n, ML_OPERAND_INOUT);
}

/* Only the rows that are gathered say how many x has. */
static void visit_gather(void *clone, const struct ml_visitor *v) {
    struct ml_gather_op *a = clone;
    size_t rows = 0;
    a->rows = see_ints(v, a->rows, a->n, ML_OPERAND_KEY);
    if (!a->rows) return;
    for (size_t i = 0; i < a->n; i++)
        if ((size_t)a->rows[i] >= rows) rows = (size_t)a->rows[i] + 1;
    a->x = see_floats(v, a->x, rows * a->width, ML_OPERAND_IN);
    a->y = see_floats(v, a->y, a->n * a->width, ML_OPERAND_OUT);
}

/* What lies between the rows of y stays as it is. */
static void visit_copy(void *clone, const struct ml_visitor *v) {
    struct ml_copy_op *a = clone;
    a->x = see_floats(v, a->x, span(a->n, a->x_step, a->width), ML_OPERAND_IN);
    a->y = see_floats(v, a->y, span(a->n, a->y_step, a->width), ML_OPERAND_INOUT);
}

/* ---- the table ---- */

#define ENTRY(name)                                                                                          \
    static size_t bytes_of_##name(const void *args) {                                                        \
        struct room r = {0};                                                                                 \
        (void)clone_##name(&r, args);                                                                        \
        return r.used;                                                                                       \
    }                                                                                                        \
    static void *copy_of_##name(void *to, const void *args) {                                                \
        struct room r = {.to = to};                                                                          \
        return clone_##name(&r, args);                                                                       \
    }                                                                                                        \
    static void run_##name(const struct ml_ops *ops, struct ml_stream *s, const void *args) {                \
        ops->name(s, args);                                                                                  \
    }
ML_OPS(ENTRY)

#define ROW(name) [ML_OP_##name] = {#name, bytes_of_##name, copy_of_##name, visit_##name, run_##name},
const struct ml_operands ml_operands[ML_OP_COUNT] = {ML_OPS(ROW)};
