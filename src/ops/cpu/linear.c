/* SPDX-License-Identifier: Apache-2.0
 *
 * Multiplication by weights, whatever they are stored as.
 */
#include "ops/cpu/cpu_int.h"

enum { BATCH = 256 }; /* matrices handed on at a time */

static void add_bias(const struct ml_kernels *k, const struct ml_linear_job *job) {
    const struct ml_linear *l = job->linear;
    if (!l->bias) return;
    for (size_t t = 0; t < job->n; t++)
        k->add(job->y + t * job->ldy, l->bias, l->out);
}

static void multiply_plain(const struct ml_cpu_work *w, const struct ml_linear_job *jobs, size_t n_jobs) {
    struct ml_matmul_job batch[BATCH];
    for (size_t i = 0; i < n_jobs; i++)
        batch[i] = (struct ml_matmul_job){.w = &jobs[i].linear->u.plain,
                                          .y = jobs[i].y,
                                          .ldy = jobs[i].ldy,
                                          .x = jobs[i].x,
                                          .ldx = jobs[i].ldx,
                                          .n = jobs[i].n};
    ml_matmul_many(&w->exec, batch, n_jobs);
}

/* Matrices of quantized layers, handed on when there are enough. */
struct quant_batch {
    const struct ml_cpu_work *w;
    enum ml_quant_mode mode;
    size_t n_jobs;
    struct ml_quant_job jobs[BATCH];
};

static void flush(struct quant_batch *b) {
    if (b->n_jobs) ml_quant_matmul_many(&b->w->exec, b->mode, b->jobs, b->n_jobs);
    b->n_jobs = 0;
}

static void push(struct quant_batch *b, const struct ml_linear_job *job, const struct ml_quant_piece *p,
                 float *y, size_t ldy) {
    if (b->n_jobs == BATCH) flush(b);
    b->jobs[b->n_jobs++] = (struct ml_quant_job){
        .w = &p->m, .y = y, .ldy = ldy, .x = job->x + p->col, .ldx = job->ldx, .n = job->n};
}

/* The terms of a sum after the first: from other inputs, by way of `partial`. */
static void add_terms(const struct ml_cpu_work *w, enum ml_quant_mode mode, const struct ml_linear_job *job) {
    const struct ml_quant_linear *q = &job->linear->u.quant;
    for (size_t i = 0; i < q->n_pieces; i++) {
        const struct ml_quant_piece *p = &q->pieces[i];
        if (p->col == 0) continue;
        struct quant_batch b = {.w = w, .mode = mode};
        push(&b, job, p, w->partial, p->m.rows);
        flush(&b);
        for (size_t t = 0; t < job->n; t++)
            w->exec.k->add(job->y + t * job->ldy + p->row, w->partial + t * p->m.rows, p->m.rows);
    }
}

static void multiply_quant(const struct ml_cpu_work *w, enum ml_quant_mode mode,
                           const struct ml_linear_job *jobs, size_t n_jobs) {
    struct quant_batch b = {.w = w, .mode = mode};
    for (size_t i = 0; i < n_jobs; i++) {
        const struct ml_quant_linear *q = &jobs[i].linear->u.quant;
        for (size_t p = 0; p < q->n_pieces && q->pieces[p].col == 0; p++)
            push(&b, &jobs[i], &q->pieces[p], jobs[i].y + q->pieces[p].row, jobs[i].ldy);
    }
    flush(&b);
    for (size_t i = 0; i < n_jobs; i++)
        add_terms(w, mode, &jobs[i]);
}

/* How many of the jobs, from the first on, have the first one's kind. */
static size_t run_of_kind(const struct ml_linear_job *jobs, size_t n_jobs) {
    size_t n = 1;
    while (n < n_jobs && n < BATCH && jobs[n].linear->kind == jobs[0].linear->kind)
        n++;
    return n;
}

void ml_cpu_linears(const struct ml_cpu_work *w, enum ml_quant_mode mode, const struct ml_linear_job *jobs,
                    size_t n_jobs) {
    for (size_t done = 0; done < n_jobs;) {
        const size_t run = run_of_kind(jobs + done, n_jobs - done);
        switch (jobs[done].linear->kind) {
        case ML_LINEAR_PLAIN:
            multiply_plain(w, jobs + done, run);
            break;
        case ML_LINEAR_QUANT:
            multiply_quant(w, mode, jobs + done, run);
            break;
        }
        for (size_t i = done; i < done + run; i++)
            add_bias(w->exec.k, &jobs[i]);
        done += run;
    }
}

void ml_cpu_linear(struct ml_stream *s, const struct ml_linear_op *op) {
    ml_cpu_linears(ml_cpu_work(s), op->mode, op->jobs, op->n_jobs);
}
