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
    size_t n = 0;
    for (size_t i = 0; i < n_jobs; i++) {
        if (jobs[i].linear->kind != ML_LINEAR_PLAIN) continue;
        if (n == BATCH) ml_matmul_many(&w->exec, batch, n);
        if (n == BATCH) n = 0;
        batch[n] = (struct ml_matmul_job){.w = &jobs[i].linear->u.plain,
                                          .y = jobs[i].y,
                                          .ldy = jobs[i].ldy,
                                          .x = jobs[i].x,
                                          .ldx = jobs[i].ldx,
                                          .n = jobs[i].n};
        n++;
    }
    if (n) ml_matmul_many(&w->exec, batch, n);
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
        if (jobs[i].linear->kind != ML_LINEAR_QUANT) continue;
        const struct ml_quant_linear *q = &jobs[i].linear->u.quant;
        for (size_t p = 0; p < q->n_pieces && q->pieces[p].col == 0; p++)
            push(&b, &jobs[i], &q->pieces[p], jobs[i].y + q->pieces[p].row, jobs[i].ldy);
    }
    flush(&b);
    for (size_t i = 0; i < n_jobs; i++)
        if (jobs[i].linear->kind == ML_LINEAR_QUANT) add_terms(w, mode, &jobs[i]);
}

/* All plain matrices together, and all quantized ones, however they are mixed. */
void ml_cpu_linears(const struct ml_cpu_work *w, enum ml_quant_mode mode, const struct ml_linear_job *jobs,
                    size_t n_jobs) {
    multiply_plain(w, jobs, n_jobs);
    multiply_quant(w, mode, jobs, n_jobs);
    for (size_t i = 0; i < n_jobs; i++)
        add_bias(w->exec.k, &jobs[i]);
}

void ml_cpu_linear(struct ml_stream *s, const struct ml_linear_op *op) {
    ml_cpu_linears(ml_cpu_work(s), op->mode, op->jobs, op->n_jobs);
}
