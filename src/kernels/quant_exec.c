/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with quantized matrices spread over the pool.
 *
 * A task is one matrix and up to 512 rows of x; a dispatch is one fork-join over the tasks that fit into the
 * room: q, k and v over the same rows, or the matrices of all experts over the rows of each.
 *
 *   gemv, of a few rows of x pieces are a few strips of 16 rows, numbered through all tasks; whoever finishes
 *                            the last strip of a block of 128 rows rotates the block back. Until then its z
 *                            stands in y
 *   gemm                     pieces are blocks of 128 rows, whose products stay with one worker. With so few
 *                            rows of x that reading weights counts, every worker has blocks that follow one
 *                            another, since kernels fetch the next ones ahead
 *
 * Rows of x are prepared before, a row of a task a piece (a few single rows: by the caller).
 *
 * Who computes what is left to chance, what is computed is not: every sum belongs to one piece.
 */
#include "base/checked.h"
#include "base/mem.h"
#include "kernels/exec.h"
#include "kernels/tiers.h"

#include <stdatomic.h>
#include <string.h>

enum {
    FAST_ROWS = ML_GEMM_ROWS, /* of x in a task */
    EXACT_ROWS = ML_GEMM_EXACT_ROWS,
    PIECE = 48 * 1024, /* bytes of weights worth a visit to the shared counter */
    STREAMED = 64,     /* rows of x of a gemm whose weights are fetched ahead, at most */
    TASKS = 256,       /* of a dispatch */
    ALONE = 4,         /* single rows that the caller prepares by itself */
    LAST_BLOCKS = 4,   /* cut-off last blocks of a dispatch, for each job over the same x */
    LEAST_LEFT = 4096, /* blocks of 128 rows of a dispatch whose strips are counted, at least */
    STRIP = ML_QUANT_STRIP,
    BLOCK = ML_QUANT_BLOCK,
    FEW = ML_QUANT_FEW_ROWS
};

/* Memory of a dispatch, which tasks take from the front; and of each worker. */
struct ml_quant_scratch {
    size_t max_k, max_n, max_jobs, rows; /* rows of x of a task */
    size_t x_stride;                     /* bytes of a row of int8 */
    size_t x_bytes, infos, lasts, lefts; /* how much there is of each */
    uint8_t *x;                          /* rows of int8 or of float32 */
    struct ml_quant_x *info;             /* of a row of x */
    float *last;                         /* [8][128]: z of a last block that y cuts off, few rows */
    atomic_uint *left;                   /* of a block of 128 rows: strips to come, few rows */
    uint8_t *worker;                     /* per worker: z [rows][128], then rotated x or what dots wants */
    size_t worker_stride;
};

static size_t round_up(size_t v, size_t unit) {
    return (v + unit - 1) / unit * unit;
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

void ml_quant_scratch_free(struct ml_quant_scratch *q) {
    if (!q) return;
    ml_free_aligned(q->x);
    ml_free_aligned(q->info);
    ml_free_aligned(q->last);
    ml_free_aligned(q->left);
    ml_free_aligned(q->worker);
    ml_free(q);
}

static void *take(size_t count, size_t a, size_t b) {
    size_t bytes;
    if (!ml_mul_size(count, a, &bytes) || !ml_mul_size(bytes, b, &bytes)) return NULL;
    return ml_alloc_aligned(bytes);
}

/* Bytes of prepared rows of a task; in EXACT they are float32, of which fewer go at a time. */
static size_t x_bytes_of(const struct ml_quant_scratch *q, size_t rows, size_t k, bool fast) {
    return round_up(fast ? rows * q->x_stride : rows * k * sizeof(float), 64);
}

static void set_sizes(struct ml_quant_scratch *q, const struct ml_quant_room *room) {
    q->max_k = round_up(room->max_k, BLOCK);
    q->max_n = round_up(room->max_n, BLOCK);
    q->max_jobs = larger(1, smaller(room->max_jobs, ML_EXEC_SAME_X));
    q->rows = larger(1, smaller(room->max_batch, FAST_ROWS));
    q->x_stride = ml_quant_x_bytes(q->max_k);
    q->x_bytes = q->max_jobs * larger(x_bytes_of(q, q->rows, q->max_k, true),
                                      x_bytes_of(q, smaller(q->rows, EXACT_ROWS), q->max_k, false));
    q->infos = q->max_jobs * q->rows;
    q->lasts = q->max_jobs * LAST_BLOCKS;
    q->lefts = larger(q->max_jobs * (q->max_n / BLOCK), LEAST_LEFT);
    const size_t panel = STRIP * q->max_k * sizeof(float); /* of EXACT; a rotated row is less */
    q->worker_stride =
        round_up(q->rows * BLOCK * sizeof(float) + larger(panel, ml_quant_dots_scratch(q->max_k)), 4096);
}

size_t ml_exec_quant_bytes(size_t workers, const struct ml_quant_room *room) {
    struct ml_quant_scratch q = {0};
    set_sizes(&q, room);
    return q.x_bytes + q.infos * sizeof *q.info + q.lasts * FEW * BLOCK * sizeof *q.last +
           q.lefts * sizeof *q.left + workers * q.worker_stride;
}

marlin_status ml_exec_reserve_quant(struct ml_exec *e, const struct ml_quant_room *room,
                                    struct marlin_error *err) {
    struct ml_quant_scratch *q = ml_calloc(1, sizeof *q);
    if (!q) return ml_fail(err, MARLIN_ERR_MEMORY, "products of quantized matrices: out of memory");
    set_sizes(q, room);
    q->x = take(q->x_bytes, 1, 1);
    q->info = take(q->infos, 1, sizeof *q->info);
    q->last = take(q->lasts, (size_t)FEW * BLOCK, sizeof *q->last);
    q->left = take(q->lefts, 1, sizeof *q->left);
    q->worker = take((size_t)ml_pool_size(e->pool), q->worker_stride, 1);
    if (!q->x || !q->info || !q->last || !q->left || !q->worker) {
        ml_quant_scratch_free(q);
        return ml_fail(err, MARLIN_ERR_MEMORY, "products of quantized matrices of %zu columns: out of memory",
                       room->max_k);
    }
    ml_quant_scratch_free(e->quant);
    e->quant = q;
    return MARLIN_OK;
}

/* One matrix and up to 512 rows of x, and what it has of the dispatch's memory. */
struct task {
    const struct ml_quant_matrix *w;
    float *y;
    size_t ldy;
    const float *x;
    size_t ldx, n;
    enum ml_quant_rows rows;
    size_t prepared; /* bytes from the start of the scratch's x */
    size_t left;
    float *last;
};

struct dispatch {
    const struct ml_exec *e;
    struct ml_quant_scratch *q;
    enum ml_quant_mode mode;
    size_t n_tasks, x_bytes, lasts, lefts;
    bool any_gemm;
    bool any_long; /* a gemm of more than STREAMED rows of x */
    struct task task[TASKS];
    size_t row[TASKS + 1];   /* rows of x before task j, which is where its infos are */
    size_t first[TASKS + 1]; /* pieces before task j */
};

static const struct ml_quant_kernels *kernels_of(const struct dispatch *d) {
    return &d->e->k->quant;
}

static bool is_fast(enum ml_quant_mode mode, const struct ml_quant_matrix *m) {
    return mode == ML_QUANT_FAST && m->k <= ML_QUANT_MAX_COLS;
}

/* What a tier reads is there. */
static bool is_arranged(const struct dispatch *d, const struct ml_quant_matrix *m) {
    return m->format == ML_QUANT_INT8 || !kernels_of(d)->arrange || m->arranged;
}

static float *worker_z(const struct dispatch *d, int worker) {
    return (float *)(void *)(d->q->worker + (size_t)worker * d->q->worker_stride);
}

static void *worker_space(const struct dispatch *d, int worker) {
    return worker_z(d, worker) + d->q->rows * BLOCK;
}

static float *rotated_at(const struct dispatch *d, const struct task *a, size_t t) {
    return (float *)(void *)(d->q->x + a->prepared) + t * a->w->k;
}

/* ---- x of a task, row t ---- */

static void prepare(const struct dispatch *d, size_t j, size_t t, int worker) {
    const struct task *a = &d->task[j];
    const struct ml_quant_matrix *m = a->w;
    const struct ml_quant_kernels *k = kernels_of(d);
    const float *x = a->x + t * a->ldx;
    const bool fast = is_fast(d->mode, m);
    float *rotated = fast ? worker_space(d, worker) : rotated_at(d, a, t);
    if (m->format != ML_QUANT_INT8)
        k->rotate(rotated, x, m->su, m->cols, m->k);
    else if (!fast)
        memcpy(rotated, x, m->k * sizeof *rotated);
    if (!fast) return;
    struct ml_quant_x *info = &d->q->info[d->row[j] + t];
    info->a = (int8_t *)d->q->x + a->prepared + t * d->q->x_stride;
    (is_arranged(d, m) ? k->round : ml_quant_round_reference)(info, m, a->rows,
                                                              m->format == ML_QUANT_INT8 ? x : rotated);
}

static void prepare_range(void *arg, size_t begin, size_t end, int worker) {
    const struct dispatch *d = arg;
    size_t j = 0;
    for (size_t i = begin; i < end; i++) {
        while (i >= d->row[j + 1])
            j++;
        prepare(d, j, i - d->row[j], worker);
    }
}

static void prepare_all(struct dispatch *d) {
    const size_t rows = d->row[d->n_tasks];
    if (rows == d->n_tasks && rows <= ALONE)
        prepare_range(d, 0, rows, 0);
    else
        ml_pool_for(d->e->pool, rows, 1, prepare_range, d);
}

/* ---- one to eight rows of x ---- */

static size_t strips_of(const struct ml_quant_matrix *m) {
    return (m->n + STRIP - 1) / STRIP;
}

/* Where z of a block and the first row of x stands; *ld floats further that of the next. */
static float *z_of_block(const struct task *a, size_t block, size_t *ld) {
    const bool whole = a->w->format == ML_QUANT_INT8 || (block + 1) * BLOCK <= a->w->rows;
    *ld = whole ? a->ldy : BLOCK;
    return whole ? a->y + block * BLOCK : a->last;
}

static void finish_int8(const struct task *a, size_t s) {
    for (size_t t = 0; t < a->n; t++) {
        float *y = a->y + t * a->ldy;
        for (size_t r = s * STRIP; r < smaller((s + 1) * STRIP, a->w->rows); r++)
            y[r] = a->w->sv[r] * y[r];
    }
}

static void finish_strip(const struct dispatch *d, const struct task *a, size_t s) {
    const struct ml_quant_matrix *m = a->w;
    const size_t block = s * STRIP / BLOCK, at = block * BLOCK;
    atomic_uint *left = &d->q->left[a->left + block];
    if (atomic_fetch_sub_explicit(left, 1, memory_order_acq_rel) != 1 || at >= m->rows) return;
    size_t ld;
    float *z = z_of_block(a, block, &ld);
    for (size_t t = 0; t < a->n; t++)
        kernels_of(d)->unrotate(a->y + t * a->ldy + at, z + t * ld, m->sv + at, smaller(BLOCK, m->rows - at));
}

static void gemv_strip(const struct dispatch *d, size_t j, size_t s, int worker) {
    const struct task *a = &d->task[j];
    const struct ml_quant_matrix *m = a->w;
    const struct ml_quant_x *x = &d->q->info[d->row[j]];
    size_t ld;
    float *z = z_of_block(a, s * STRIP / BLOCK, &ld) + s * STRIP % BLOCK;
    if (a->rows == ML_QUANT_ONE)
        (is_arranged(d, m) ? kernels_of(d)->dot : ml_quant_dot_reference)(z, m, s, x);
    else
        (is_arranged(d, m) ? kernels_of(d)->few : ml_quant_few_reference)(z, ld, m, s, x, a->n,
                                                                          worker_space(d, worker));
    if (m->format == ML_QUANT_INT8)
        finish_int8(a, s);
    else
        finish_strip(d, a, s);
}

/* ---- more rows of x ---- */

static void exact_block(const struct dispatch *d, const struct task *a, size_t s, size_t strips, int worker) {
    const struct ml_quant_matrix *m = a->w;
    const struct ml_exec *e = d->e;
    float *z = worker_z(d, worker), *panel = worker_space(d, worker);
    void *scratch = (char *)e->scratch + (size_t)worker * e->scratch_stride;
    for (size_t i = 0; i < strips; i++) {
        const size_t rows = smaller(STRIP, m->n - (s + i) * STRIP);
        kernels_of(d)->decode(panel, m, s + i);
        e->k->gemm[ML_F32](z + i * STRIP, BLOCK, panel, m->k, rotated_at(d, a, 0), m->k, a->n, rows, m->k,
                           scratch);
    }
}

static void fast_block(const struct dispatch *d, size_t j, size_t s, size_t strips, int worker) {
    const struct task *a = &d->task[j];
    const struct ml_quant_x *x = &d->q->info[d->row[j]];
    (is_arranged(d, a->w) ? kernels_of(d)->dots : ml_quant_dots_reference)(
        worker_z(d, worker), BLOCK, a->w, s, strips, x, a->n, worker_space(d, worker));
}

static void finish_block(const struct dispatch *d, const struct task *a, size_t block, float *z) {
    const struct ml_quant_matrix *m = a->w;
    const size_t at = block * BLOCK;
    if (at >= m->rows) return;
    const size_t rows = smaller(BLOCK, m->rows - at);
    for (size_t t = 0; t < a->n; t++) {
        float *y = a->y + t * a->ldy + at;
        if (m->format != ML_QUANT_INT8) {
            kernels_of(d)->unrotate(y, z + t * BLOCK, m->sv + at, rows);
            continue;
        }
        for (size_t r = 0; r < rows; r++)
            y[r] = m->sv[at + r] * z[t * BLOCK + r];
    }
}

static void gemm_block(const struct dispatch *d, size_t j, size_t block, int worker) {
    const struct task *a = &d->task[j];
    const size_t s = block * (BLOCK / STRIP), strips = smaller(BLOCK / STRIP, strips_of(a->w) - s);
    if (is_fast(d->mode, a->w))
        fast_block(d, j, s, strips, worker);
    else
        exact_block(d, a, s, strips, worker);
    finish_block(d, a, block, worker_z(d, worker));
}

/* ---- a dispatch ---- */

/* A piece is a strip where all tasks are products of few rows, else a block of 128 rows of any kind of task. */
static void product_range(void *arg, size_t begin, size_t end, int worker) {
    const struct dispatch *d = arg;
    const size_t strips = d->any_gemm ? BLOCK / STRIP : 1;
    size_t j = 0;
    for (size_t i = begin; i < end; i++) {
        while (i >= d->first[j + 1])
            j++;
        const struct task *a = &d->task[j];
        const size_t at = i - d->first[j], last = smaller((at + 1) * strips, strips_of(a->w));
        if (a->rows == ML_QUANT_MANY)
            gemm_block(d, j, at, worker);
        else
            for (size_t s = at * strips; s < last; s++)
                gemv_strip(d, j, s, worker);
    }
}

static size_t gemv_grain(const struct dispatch *d) {
    size_t bytes = 0;
    for (size_t j = 0; j < d->n_tasks; j++)
        bytes = larger(bytes, STRIP * d->task[j].w->k * (size_t)d->task[j].w->bits / 8);
    return larger(1, PIECE / (bytes + 1));
}

static void number_pieces(struct dispatch *d) {
    for (size_t j = 0; j < d->n_tasks; j++) {
        const struct task *a = &d->task[j];
        const size_t unit = d->any_gemm ? BLOCK / STRIP : 1;
        d->first[j + 1] = d->first[j] + (strips_of(a->w) + unit - 1) / unit;
        for (size_t b = 0; a->rows != ML_QUANT_MANY && b < a->w->n / BLOCK; b++)
            atomic_init(&d->q->left[a->left + b], BLOCK / STRIP);
    }
}

static void run(struct dispatch *d) {
    if (d->n_tasks == 0) return;
    number_pieces(d);
    prepare_all(d);
    if (d->any_long)
        ml_pool_for(d->e->pool, d->first[d->n_tasks], 1, product_range, d);
    else
        ml_pool_for_runs(d->e->pool, d->first, d->n_tasks, d->any_gemm ? 1 : gemv_grain(d), product_range, d);
    d->n_tasks = d->x_bytes = d->lasts = d->lefts = 0;
    d->any_gemm = d->any_long = false;
}

/* A dispatch has room for any one task. */
static void add(struct dispatch *d, const struct task *a) {
    const struct ml_quant_scratch *q = d->q;
    const size_t x_bytes = x_bytes_of(q, a->n, a->w->k, is_fast(d->mode, a->w));
    const bool many = a->rows == ML_QUANT_MANY, cut = !many && a->w->rows % BLOCK != 0;
    const size_t lefts = many ? 0 : a->w->n / BLOCK;
    if (d->n_tasks == TASKS || d->x_bytes + x_bytes > q->x_bytes || d->row[d->n_tasks] + a->n > q->infos ||
        d->lasts + cut > q->lasts || d->lefts + lefts > q->lefts)
        run(d);
    struct task *to = &d->task[d->n_tasks];
    *to = *a;
    to->prepared = d->x_bytes;
    to->left = d->lefts;
    to->last = q->last + d->lasts * FEW * BLOCK;
    d->x_bytes += x_bytes;
    d->lasts += cut;
    d->lefts += lefts;
    d->any_gemm = d->any_gemm || many;
    d->any_long = d->any_long || (many && a->n > STREAMED);
    d->row[d->n_tasks + 1] = d->row[d->n_tasks] + a->n;
    d->n_tasks++;
}

static struct ml_choice choose(const struct dispatch *d, const struct ml_quant_job *jobs, size_t n_jobs,
                               size_t rows) {
    struct ml_product products[ML_EXEC_SAME_X];
    for (size_t j = 0; j < n_jobs; j++) {
        const struct ml_quant_matrix *m = jobs[j].w;
        products[j] = (struct ml_product){ml_kind_of_quant(m), !is_fast(d->mode, m), m->n, m->k};
    }
    return ml_select(&d->e->select, products, n_jobs, rows);
}

/* Jobs over the same rows of x, whose way is chosen together. Blocks of rows of a prompt go one after the other:
 * all matrices over the first 512, then over the next. */
static void add_group(struct dispatch *d, const struct ml_quant_job *jobs, size_t n_jobs) {
    static const enum ml_quant_rows order[] = {ML_QUANT_ONE, ML_QUANT_FEW, ML_QUANT_MANY};
    const size_t n = jobs[0].n;
    for (size_t t = 0, block; t < n; t += block) {
        const struct ml_choice choice = choose(d, jobs, n_jobs, smaller(d->q->rows, n - t));
        block = choice.block;
        for (size_t j = 0; j < n_jobs; j++) {
            const struct task a = {.w = jobs[j].w,
                                   .y = jobs[j].y + t * jobs[j].ldy,
                                   .ldy = jobs[j].ldy,
                                   .x = jobs[j].x + t * jobs[j].ldx,
                                   .ldx = jobs[j].ldx,
                                   .n = block,
                                   .rows = order[choice.path]};
            add(d, &a);
        }
        if (t + block < n && choice.path == ML_PATH_GEMM) run(d);
    }
}

void ml_quant_matmul_many(const struct ml_exec *e, enum ml_quant_mode mode, const struct ml_quant_job *jobs,
                          size_t n_jobs) {
    struct dispatch d;
    d.e = e;
    d.q = e->quant;
    d.mode = mode;
    d.n_tasks = d.x_bytes = d.lasts = d.lefts = 0;
    d.any_gemm = d.any_long = false;
    d.row[0] = d.first[0] = 0;
    for (size_t j = 0, end; j < n_jobs; j = end) {
        for (end = j + 1; end < n_jobs && end - j < e->quant->max_jobs && jobs[end].x == jobs[j].x &&
                          jobs[end].n == jobs[j].n;)
            end++;
        add_group(&d, jobs + j, end - j);
    }
    run(&d);
}
