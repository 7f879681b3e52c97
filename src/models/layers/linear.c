/* SPDX-License-Identifier: Apache-2.0
 *
 * Multiplication by weights, whatever they are stored as.
 */
#include "models/layers/layers.h"

static void add_bias(const struct ml_kernels *k, const struct ml_linear_job *job, size_t n) {
    const struct ml_linear *l = job->linear;
    if (!l->bias) return;
    for (size_t t = 0; t < n; t++)
        k->add(job->y + t * job->ldy, l->bias, l->out);
}

static void multiply_plain(struct ml_state *s, const struct ml_linear_job *jobs, size_t n_jobs,
                           const float *x, size_t ldx, size_t n) {
    struct ml_matmul_job batch[ML_LINEAR_JOBS];
    for (size_t i = 0; i < n_jobs; i++) {
        batch[i] = (struct ml_matmul_job){.w = &jobs[i].linear->u.plain, .y = jobs[i].y, .ldy = jobs[i].ldy};
    }
    ml_matmul_many(&s->exec, batch, n_jobs, x, ldx, n);
}

/* Jobs of quantized matrices over one x, handed on when there are enough. */
struct quant_batch {
    const struct ml_state *s;
    const float *x;
    size_t ldx, n, n_jobs;
    struct ml_quant_job jobs[ML_LINEAR_JOBS];
};

static void flush(struct quant_batch *b) {
    if (b->n_jobs)
        ml_quant_matmul_many(&b->s->exec, b->s->model->mode, b->jobs, b->n_jobs, b->x, b->ldx, b->n);
    b->n_jobs = 0;
}

static void push(struct quant_batch *b, const struct ml_quant_matrix *w, float *y, size_t ldy) {
    if (b->n_jobs == b->s->quant_jobs) flush(b);
    b->jobs[b->n_jobs++] = (struct ml_quant_job){.w = w, .y = y, .ldy = ldy};
}

/* The terms of a sum after the first: from other inputs, by way of s->partial. */
static void add_terms(struct ml_state *s, const struct ml_linear_job *job, const float *x, size_t ldx,
                      size_t n) {
    const struct ml_quant_linear *q = &job->linear->u.quant;
    for (size_t i = 0; i < q->n_pieces; i++) {
        const struct ml_quant_piece *p = &q->pieces[i];
        if (p->col == 0) continue;
        struct quant_batch b = {.s = s, .x = x + p->col, .ldx = ldx, .n = n};
        push(&b, &p->m, s->partial, p->m.rows);
        flush(&b);
        for (size_t t = 0; t < n; t++)
            s->exec.k->add(job->y + t * job->ldy + p->row, s->partial + t * p->m.rows, p->m.rows);
    }
}

static void multiply_quant(struct ml_state *s, const struct ml_linear_job *jobs, size_t n_jobs,
                           const float *x, size_t ldx, size_t n) {
    struct quant_batch b = {.s = s, .x = x, .ldx = ldx, .n = n};
    for (size_t i = 0; i < n_jobs; i++) {
        const struct ml_quant_linear *q = &jobs[i].linear->u.quant;
        for (size_t p = 0; p < q->n_pieces && q->pieces[p].col == 0; p++)
            push(&b, &q->pieces[p].m, jobs[i].y + q->pieces[p].row, jobs[i].ldy);
    }
    flush(&b);
    for (size_t i = 0; i < n_jobs; i++)
        add_terms(s, &jobs[i], x, ldx, n);
}

/* How many of the jobs, from the first on, have the first one's kind. */
static size_t run_of_kind(const struct ml_linear_job *jobs, size_t n_jobs) {
    size_t n = 1;
    while (n < n_jobs && n < ML_LINEAR_JOBS && jobs[n].linear->kind == jobs[0].linear->kind)
        n++;
    return n;
}

void ml_linear_forward(struct ml_state *s, const struct ml_linear_job *jobs, size_t n_jobs, const float *x,
                       size_t ldx, size_t n) {
    if (n == 0) return;
    for (size_t i = 0; s->observe && i < n_jobs; i++)
        s->observe(s->observe_user, jobs[i].linear, x, ldx, n);
    for (size_t done = 0; done < n_jobs;) {
        const size_t run = run_of_kind(jobs + done, n_jobs - done);
        switch (jobs[done].linear->kind) {
        case ML_LINEAR_PLAIN:
            multiply_plain(s, jobs + done, run, x, ldx, n);
            break;
        case ML_LINEAR_QUANT:
            multiply_quant(s, jobs + done, run, x, ldx, n);
            break;
        }
        for (size_t i = done; i < done + run; i++)
            add_bias(s->exec.k, &jobs[i], n);
        done += run;
    }
}

void ml_stage_linears(struct ml_state *s, enum ml_stage stage, const struct ml_linear_job *jobs,
                      size_t n_jobs) {
    uint64_t bytes = 0;
    if (!s->profile) return;
    for (size_t i = 0; i < n_jobs; i++)
        bytes += ml_linear_bytes(s->model, jobs[i].linear);
    ml_profile_mark(s->profile, stage, bytes);
}
