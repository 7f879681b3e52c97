/* SPDX-License-Identifier: Apache-2.0
 *
 * A mixture of experts in one operation against one expert after the other; and that it takes as many fork-joins
 * for all experts as for one.
 *
 * The pool is this test's own: it counts fork-joins, and does their pieces in a random order, each on a random
 * worker.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cases.h"
#include "guard.h"

/* ---- the pool, in the place of base/pool.c's ---- */

enum { WORKERS = 5, MAX_PIECES = 4096 };

struct ml_pool {
    struct ml_rng rng;
    size_t forks;
};

marlin_status ml_pool_create(int threads, struct ml_pool **out, struct marlin_error *err) {
    static struct ml_pool one;
    (void)threads;
    (void)err;
    one.forks = 0;
    ml_rng_seed(&one.rng, 29);
    *out = &one;
    return MARLIN_OK;
}

void ml_pool_free(struct ml_pool *p) {
    (void)p;
}

int ml_pool_size(const struct ml_pool *p) {
    return p ? WORKERS : 1;
}

void ml_pool_run(struct ml_pool *p, ml_pool_fn *fn, void *arg) {
    const int n = ml_pool_size(p);
    if (p) p->forks++;
    for (int i = 0; i < n; i++)
        fn(arg, i, n);
}

struct piece {
    size_t begin, end;
};

static size_t random_below(struct ml_pool *p, size_t n) {
    return (size_t)(ml_rng_u64(&p->rng) >> 16) % n;
}

static void do_pieces(struct ml_pool *p, struct piece *pieces, size_t n, ml_range_fn *fn, void *arg) {
    p->forks++;
    for (; n > 0; n--) {
        const size_t i = random_below(p, n);
        fn(arg, pieces[i].begin, pieces[i].end, (int)random_below(p, WORKERS));
        pieces[i] = pieces[n - 1];
    }
}

static size_t cut(struct piece *pieces, size_t n, size_t begin, size_t end, size_t grain) {
    for (size_t at = begin; at < end; at += grain) {
        assert_true(n < MAX_PIECES);
        pieces[n++] = (struct piece){at, end - at < grain ? end : at + grain};
    }
    return n;
}

void ml_pool_for_runs(struct ml_pool *p, const size_t *first, size_t parts, size_t grain, ml_range_fn *fn,
                      void *arg) {
    static struct piece pieces[MAX_PIECES];
    size_t n = 0;
    if (!p) fn(arg, 0, first[parts], 0);
    if (!p) return;
    for (size_t i = 0; i < parts; i++)
        n = cut(pieces, n, first[i], first[i + 1], grain);
    do_pieces(p, pieces, n, fn, arg);
}

void ml_pool_for(struct ml_pool *p, size_t count, size_t grain, ml_range_fn *fn, void *arg) {
    const size_t first[] = {0, count};
    ml_pool_for_runs(p, first, 1, grain, fn, arg);
}

/* ---- random mixtures ---- */

enum { TOP = 4, MOST = 40, WIDEST = 300 };
enum weights { PLAIN, QUANT, MIXED };

struct mixture {
    struct ml_moe moe;
    struct ml_mlp experts[EXPERTS];
    enum ml_quant_mode mode;
    struct ml_activation_rule act;
    size_t n, hidden, width;
    float *x, *y;
    struct ml_moe_plan plan;
};

static bool suits(const struct ml_linear *l, enum weights weights, bool whole) {
    const bool quant = l->kind == ML_LINEAR_QUANT;
    if (whole && quant && l->u.quant.n_pieces > 1) return false;
    return weights == MIXED || quant == (weights == QUANT);
}

static struct ml_linear make_linear(struct place *p, enum weights weights, bool whole, size_t in,
                                    size_t out) {
    const size_t before = p->n_weights;
    struct ml_linear l;
    do {
        p->n_weights = before;
        l = random_linear(p, in, out);
    } while (!suits(&l, weights, whole));
    return l;
}

/* Rooms that an operation fills. */
static float *room(struct place *p, size_t n) {
    return put(p, host_room(n * sizeof(float)), n * sizeof(float));
}

/* favour < EXPERTS: every row chooses that expert first. */
static void route(struct place *p, struct mixture *m, size_t favour) {
    const size_t pairs = m->n * m->moe.choose.top_k;
    float *logits = floats(p, m->n * EXPERTS);
    for (size_t t = 0; favour < EXPERTS && t < m->n; t++)
        logits[t * EXPERTS + favour] = 100.0f;
    m->plan = (struct ml_moe_plan){.expert = (int32_t *)(void *)room(p, pairs),
                                   .weight = room(p, pairs),
                                   .row = (int32_t *)(void *)room(p, pairs),
                                   .token = (int32_t *)(void *)room(p, pairs),
                                   .start = (int32_t *)(void *)room(p, EXPERTS + 1)};
    p->ops->route(&p->stream, &(struct ml_route_op){
                                  .router = m->moe.choose, .logits = logits, .n = m->n, .plan = m->plan});
}

/* whole: no layer is a sum of pieces. */
static void make_mixture(struct place *p, struct mixture *m, enum weights weights, bool whole, size_t n,
                         size_t top_k) {
    *m = (struct mixture){.n = n, .hidden = pick(p, 2, WIDEST), .width = pick(p, 2, WIDEST)};
    m->mode = random_mode(p);
    m->act.kind = pick(p, 0, 1) ? ML_GLU_GELU_TANH : ML_GLU_SILU;
    m->act.limit = pick(p, 0, 1) ? 0.5f : 0;
    m->act.alpha = pick(p, 0, 1) ? 1.7f : 0;
    m->moe = (struct ml_moe){.experts = m->experts};
    m->moe.router.in = m->hidden;
    m->moe.choose = (struct ml_router){.experts = EXPERTS, .top_k = top_k, .normalise = pick(p, 0, 1)};
    for (size_t e = 0; e < EXPERTS; e++)
        m->experts[e] = (struct ml_mlp){make_linear(p, weights, whole, m->hidden, m->width),
                                        make_linear(p, weights, whole, m->hidden, m->width),
                                        make_linear(p, weights, whole, m->width, m->hidden)};
    m->x = floats(p, n * m->hidden);
    m->y = floats(p, n * m->hidden);
    route(p, m, EXPERTS);
}

static void run_experts(struct place *p, struct mixture *m) {
    const size_t pairs = m->n * m->moe.choose.top_k;
    const struct ml_experts_op op = {.moe = &m->moe,
                                     .mode = m->mode,
                                     .act = m->act,
                                     .x = m->x,
                                     .n = m->n,
                                     .y = m->y,
                                     .plan = m->plan,
                                     .pair_x = room(p, pairs * m->hidden),
                                     .pair_y = room(p, pairs * m->hidden),
                                     .pair_gate = room(p, pairs * m->width),
                                     .pair_up = room(p, pairs * m->width)};
    ml_mem_guard_begin("experts");
    p->ops->experts(&p->stream, &op);
    ml_mem_guard_end();
}

/* ---- the twin: expert after expert, matrix after matrix ---- */

static void multiply(struct place *p, const struct mixture *m, const struct ml_linear *l, float *y, float *x,
                     size_t n) {
    const struct ml_linear_job job = {l, y, l->out, x, l->in, n};
    p->ops->linear(&p->stream, &(struct ml_linear_op){.jobs = &job, .n_jobs = 1, .mode = m->mode});
}

static void run_expert(struct place *p, const struct mixture *m, const struct ml_mlp *e, float *x, size_t n,
                       float *y) {
    static float gate[MOST * WIDEST], up[MOST * WIDEST];
    multiply(p, m, &e->gate, gate, x, n);
    multiply(p, m, &e->up, up, x, n);
    p->ops->glu(&p->stream,
                &(struct ml_glu_op){.act = m->act, .gate = gate, .up = up, .n = n, .width = m->width});
    multiply(p, m, &e->down, y, gate, n);
}

/* Every expert over the rows that chose it; then each row adds up its choices in their order. */
static void run_twin(struct place *p, const struct mixture *m, float *y) {
    static float x[MOST * WIDEST], out[TOP][MOST * WIDEST], all[MOST * WIDEST];
    const size_t top_k = m->moe.choose.top_k, h = m->hidden;
    for (size_t e = 0; e < EXPERTS; e++) {
        size_t of[MOST * TOP], n = 0;
        for (size_t i = 0; i < m->n * top_k; i++)
            if ((size_t)m->plan.expert[i] == e) of[n++] = i;
        for (size_t k = 0; k < n; k++)
            memcpy(x + k * h, m->x + of[k] / top_k * h, h * sizeof *x);
        if (n) run_expert(p, m, &m->experts[e], x, n, all);
        for (size_t k = 0; k < n; k++)
            memcpy(out[of[k] % top_k] + of[k] / top_k * h, all + k * h, h * sizeof *x);
    }
    memset(y, 0, m->n * h * sizeof *y);
    for (size_t t = 0; t < m->n; t++)
        for (size_t c = 0; c < top_k; c++)
            ml_kernels()->axpy(y + t * h, m->plan.weight[t * top_k + c], out[c] + t * h, h);
}

/* ---- tests ---- */

static struct ml_device *device;
static struct ml_pool *pool;

static int open_device(void **state) {
    (void)state;
    return ml_device_open("cpu", &device, NULL) == MARLIN_OK && ml_pool_create(0, &pool, NULL) == MARLIN_OK
               ? 0
               : -1;
}

static int close_device(void **state) {
    device->ops->destroy(device);
    return guard_clean(state);
}

static void experts_equal_one_after_the_other(void **state) {
    static float want[MOST * WIDEST];
    size_t compared = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct place p;
        struct mixture m;
        place_open(&p, device, pool);
        ml_rng_seed(&p.rng, seed);
        make_mixture(&p, &m, (enum weights)(seed % 3), false, seed % 4 ? pick(&p, 1, MOST) : 1,
                     pick(&p, 1, TOP));
        run_twin(&p, &m, want);
        run_experts(&p, &m);
        assert_memory_equal(m.y, want, m.n * m.hidden * sizeof *want);
        for (size_t i = 0; i < m.n * m.hidden; i++)
            compared += isfinite(m.y[i]) && m.y[i] != 0;
        place_close(&p);
    }
    assert_true(compared > 1000);
}

static size_t forks_of(struct place *p, struct mixture *m) {
    pool->forks = 0;
    run_experts(p, m);
    return pool->forks;
}

static size_t chosen_experts(const struct mixture *m) {
    size_t n = 0;
    for (size_t e = 0; e < EXPERTS; e++)
        n += m->plan.start[e + 1] > m->plan.start[e];
    return n;
}

/* gate and up of all experts go in one dispatch, and down in one; of quantized weights, the rows that they
 * multiply are prepared in one before. */
static void fork_joins_do_not_grow_with_experts(void **state) {
    static const size_t rows[] = {1, 12, MOST}, most[] = {2, 4, 6};
    (void)state;
    for (uint64_t seed = 0; seed < 18; seed++) {
        const enum weights weights = (enum weights)(seed % 3);
        struct place p;
        struct mixture m;
        place_open(&p, device, pool);
        ml_rng_seed(&p.rng, 100 + seed);
        make_mixture(&p, &m, weights, true, rows[seed / 3 % 3], TOP); /* terms of sums go one by one */
        const size_t all = forks_of(&p, &m), glu = m.n * TOP > 4;
        assert_in_range(chosen_experts(&m), TOP, EXPERTS);
        assert_in_range(all, 2, most[weights] + glu);
        m.moe.choose.top_k = 1;
        route(&p, &m, 3);
        assert_int_equal(chosen_experts(&m), 1);
        assert_true(all <= most[weights] + 1);
        assert_true(forks_of(&p, &m) >= 2);
        place_close(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_equal_one_after_the_other),
        cmocka_unit_test(fork_joins_do_not_grow_with_experts),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
