/* SPDX-License-Identifier: Apache-2.0
 *
 * Multiplication by weights, whatever they are stored as.
 */
#include "models/layers/layers.h"

enum { JOBS_AT_ONCE = 16 };

static void add_bias(const struct ml_kernels *k, const struct ml_linear_job *job, size_t n) {
    const struct ml_linear *l = job->linear;
    if (!l->bias) return;
    for (size_t t = 0; t < n; t++)
        k->add(job->y + t * job->ldy, l->bias, l->out);
}

static void multiply_plain(struct ml_state *s, const struct ml_linear_job *jobs, size_t n_jobs,
                           const float *x, size_t ldx, size_t n) {
    struct ml_matmul_job batch[JOBS_AT_ONCE];
    for (size_t i = 0; i < n_jobs; i++) {
        batch[i] = (struct ml_matmul_job){.w = &jobs[i].linear->u.plain, .y = jobs[i].y, .ldy = jobs[i].ldy};
    }
    ml_matmul_many(&s->exec, batch, n_jobs, x, ldx, n);
}

/* How many of the jobs, from the first on, have the first one's kind. */
static size_t run_of_kind(const struct ml_linear_job *jobs, size_t n_jobs) {
    size_t n = 1;
    while (n < n_jobs && n < JOBS_AT_ONCE && jobs[n].linear->kind == jobs[0].linear->kind)
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
        }
        for (size_t i = done; i < done + run; i++)
            add_bias(s->exec.k, &jobs[i], n);
        done += run;
    }
}
