/* SPDX-License-Identifier: Apache-2.0
 *
 * Every operation with random shapes and data, on any device: the same seed gives the same arguments, so that
 * what comes out can be compared between devices bit for bit. Include after cmocka.h.
 *
 * What an operation must not touch (pages that no row sees, experts that no row chose) is at an address that
 * is nobody's. Arguments and the host memory behind them are overwritten as soon as the operation has
 * returned.
 */
#ifndef ML_TESTS_OPS_CASES_H
#define ML_TESTS_OPS_CASES_H

#include "base/mem.h"
#include "base/rng.h"
#include "ops/operands.h"
#include "packing/codes.h"

#include <stdio.h>
#include <string.h>

enum { MAX_BUFFERS = 1024, MAX_RESULTS = 64, MAX_RUNS = 4, MAX_ROWS = 64, MAX_WEIGHTS = 32 };
enum { TABLE_STRIDE = 16, EXPERTS = 8, NOBODYS = 0x40 };

/* A device with a stream, what was put there, and where results are expected. */
struct place {
    struct ml_device *device;
    struct ml_stream stream;
    const struct ml_ops *ops;
    struct ml_rng rng;
    struct ml_buffer buffers[MAX_BUFFERS];
    void *host[MAX_BUFFERS]; /* what they were uploaded from */
    size_t n_buffers;
    struct {
        void *address;
        size_t bytes;
    } results[MAX_RESULTS];
    size_t n_results, result_bytes;
    struct ml_quant_piece pieces[MAX_WEIGHTS][2];
    size_t n_weights;
    uint64_t fail_at; /* the allocation of an operation that fails; 0: none */
};

static inline void case_ok(marlin_status st, const struct marlin_error *err) {
    if (st != MARLIN_OK) fail_msg("%s: %s", marlin_status_name(st), err->text);
}

/* The device stays the caller's. */
static inline void place_open(struct place *p, struct ml_device *d, struct ml_pool *pool) {
    static const struct ml_ops_sizes sizes = {.rows = MAX_ROWS,
                                              .runs = MAX_RUNS,
                                              .positions = 64 * TABLE_STRIDE,
                                              .quant_cols = 512,
                                              .quant_rows = 512,
                                              .sum_rows = 512,
                                              .heads = 8,
                                              .kv_heads = 8,
                                              .v_dim = 64,
                                              .experts = EXPERTS,
                                              .top_k = 4};
    struct marlin_error err;
    memset(p, 0, sizeof *p);
    p->device = d;
    p->ops = ml_ops_of(d);
    assert_non_null(p->ops);
    case_ok(d->ops->stream_open(d, &p->stream, &err), &err);
    case_ok(p->ops->open(&p->stream, pool, &sizes, &err), &err);
}

/* Forgets a case. */
static inline void place_clear(struct place *p) {
    for (size_t i = 0; i < p->n_buffers; i++) {
        p->device->ops->free(p->device, &p->buffers[i]);
        ml_free_aligned(p->host[i]);
    }
    p->n_buffers = p->n_results = p->result_bytes = p->n_weights = 0;
}

static inline void place_close(struct place *p) {
    p->ops->close(&p->stream);
    p->device->ops->stream_close(&p->stream);
    place_clear(p);
}

/* ---- random things ---- */

static inline size_t pick(struct place *p, size_t low, size_t high) {
    return low + (size_t)(ml_rng_u64(&p->rng) >> 16) % (high - low + 1);
}

static inline void *host_room(size_t bytes) {
    void *m = ml_alloc_aligned(bytes);
    assert_non_null(m);
    return m;
}

/* Takes `host` over: its bytes, on the device. */
static inline void *put(struct place *p, void *host, size_t bytes) {
    struct ml_buffer *b = &p->buffers[p->n_buffers];
    struct marlin_error err;
    assert_true(p->n_buffers < MAX_BUFFERS);
    case_ok(p->device->ops->alloc(p->device, bytes, b, &err), &err);
    p->device->ops->upload(&p->stream, b->address, host, bytes);
    p->host[p->n_buffers++] = host;
    return b->address;
}

static inline void *put_copy(struct place *p, const void *host, size_t bytes) {
    void *copy = host_room(bytes);
    memcpy(copy, host, bytes);
    return put(p, copy, bytes);
}

static inline float *host_floats(struct place *p, size_t n) {
    float *x = host_room(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = ml_rng_normal(&p->rng);
    return x;
}

static inline float *floats(struct place *p, size_t n) {
    return put(p, host_floats(p, n), n * sizeof(float));
}

static inline void *result(struct place *p, void *address, size_t bytes) {
    assert_true(p->n_results < MAX_RESULTS);
    p->results[p->n_results].address = address;
    p->results[p->n_results++].bytes = bytes;
    p->result_bytes += bytes;
    return address;
}

/* Floats that are expected to change. */
static inline float *out_floats(struct place *p, size_t n) {
    return result(p, floats(p, n), n * sizeof(float));
}

static inline int32_t *out_ints(struct place *p, size_t n) {
    return (int32_t *)(void *)out_floats(p, n);
}

/* Everything that the operations so far gave; the caller's to ml_free_aligned. */
static inline char *results(struct place *p) {
    struct marlin_error err;
    char *all = host_room(p->result_bytes + 1), *to = all;
    case_ok(p->ops->flush(&p->stream, &err), &err);
    for (size_t i = 0; i < p->n_results; to += p->results[i++].bytes)
        p->device->ops->download(&p->stream, to, p->results[i].address, p->results[i].bytes);
    case_ok(p->device->ops->stream_sync(&p->stream, &err), &err);
    return all;
}

/* ---- weights ---- */

static inline struct ml_matrix random_matrix(struct place *p, size_t rows, size_t cols) {
    const enum ml_dtype dtype = (enum ml_dtype)pick(p, ML_F32, ML_BF16);
    const size_t stride = cols + pick(p, 0, 1) * 3, n = (rows - 1) * stride + cols;
    float *wide = host_floats(p, n);
    void *narrow = host_room(n * ml_dtype_size(dtype));
    ml_kernels()->narrow[dtype](narrow, wide, n);
    ml_free_aligned(wide);
    return (struct ml_matrix){.dtype = dtype,
                              .rows = rows,
                              .cols = cols,
                              .stride = stride,
                              .data = put(p, narrow, n * ml_dtype_size(dtype))};
}

static inline uint8_t *random_bytes(struct place *p, size_t n) {
    uint8_t *b = host_room(n);
    for (size_t i = 0; i < n; i++)
        b[i] = (uint8_t)pick(p, 0, 255);
    return b;
}

/* Moves the tiles of m from host memory to the device, with the order that kernels read beside them. */
static inline void put_tiles(struct place *p, struct ml_quant_matrix *m, size_t bytes) {
    const size_t arranged = ml_quant_arranged_bytes(ml_kernels(), m);
    if (arranged) {
        void *to = host_room(arranged);
        ml_quant_arrange(ml_kernels(), m, to);
        m->arranged = put(p, to, arranged);
    }
    m->data = put(p, (void *)(uintptr_t)m->data, bytes);
}

static inline struct ml_quant_matrix random_quant(struct place *p, enum ml_quant_format format, size_t rows,
                                                  size_t cols) {
    const size_t unit = format == ML_QUANT_INT8 ? 1 : 128;
    struct ml_quant_matrix m = {.format = format, .bits = 8, .rows = rows, .cols = cols};
    m.n = (rows + unit - 1) / unit * unit;
    m.k = (cols + unit - 1) / unit * unit;
    if (format == ML_QUANT_TAP) {
        m.bits = (int)pick(p, 2, 6);
        ml_quant_set_code(&m, ml_tap_code_find((unsigned)m.bits, ML_TAP_WINDOW_NORMAL));
    }
    if (format == ML_QUANT_EXL3) {
        m.bits = (int)pick(p, 1, 8);
        m.codebook = (enum ml_exl3_codebook)pick(p, 0, 2);
    }
    const size_t bytes = m.n * m.k * (size_t)m.bits / 8;
    m.data = random_bytes(p, bytes);
    m.sv = floats(p, m.n);
    if (format != ML_QUANT_INT8) m.su = floats(p, m.k);
    put_tiles(p, &m, bytes);
    return m;
}

/* Quantized layers are one matrix, or two that share outputs or inputs. */
static inline void random_pieces(struct place *p, struct ml_linear *l) {
    const enum ml_quant_format format = (enum ml_quant_format)pick(p, ML_QUANT_INT8, ML_QUANT_EXL3);
    struct ml_quant_piece *pieces = p->pieces[p->n_weights++];
    const bool many = format == ML_QUANT_EXL3 && pick(p, 0, 1), by_row = pick(p, 0, 1);
    const size_t row = many && by_row ? l->out / 2 : 0, col = many && !by_row ? l->in / 2 : 0;
    assert_true(p->n_weights <= MAX_WEIGHTS);
    l->u.quant = (struct ml_quant_linear){pieces, many ? 2 : 1};
    pieces[0] = (struct ml_quant_piece){.m = random_quant(p, format, row ? row : l->out, col ? col : l->in)};
    if (many)
        pieces[1] = (struct ml_quant_piece){
            .m = random_quant(p, format, l->out - row, l->in - col), .row = row, .col = col};
}

static inline struct ml_linear random_linear(struct place *p, size_t in, size_t out) {
    struct ml_linear l = {.name = "case", .in = in, .out = out};
    l.kind = pick(p, 0, 1) ? ML_LINEAR_QUANT : ML_LINEAR_PLAIN;
    if (l.kind == ML_LINEAR_QUANT)
        random_pieces(p, &l);
    else
        l.u.plain = random_matrix(p, out, in);
    if (pick(p, 0, 1)) l.bias = floats(p, out);
    return l;
}

static inline enum ml_quant_mode random_mode(struct place *p) {
    return pick(p, 0, 2) ? ML_QUANT_FAST : ML_QUANT_EXACT;
}

static inline struct ml_norm random_norm(struct place *p, size_t n) {
    return (struct ml_norm){.w = pick(p, 0, 3) ? floats(p, n) : NULL, .n = n, .offset = 1.0f, .eps = 1e-6f};
}

/* ---- the rows of a pass and their pages ---- */

struct random_pass {
    struct ml_pass pass;
    struct ml_pass_run runs[MAX_RUNS];
};

static inline void random_runs(struct place *p, struct random_pass *r) {
    r->pass.n_runs = pick(p, 1, MAX_RUNS);
    for (size_t i = 0; i < r->pass.n_runs; i++) {
        struct ml_pass_run *run = &r->runs[i];
        const int32_t n = (int32_t)(pick(p, 0, 1) ? pick(p, 1, MAX_ROWS / MAX_RUNS) : 1);
        const int64_t slot0 = (int64_t)(pick(p, 0, 2) ? pick(p, 0, 150) : pick(p, 0, 900));
        *run = (struct ml_pass_run){.first = (int32_t)r->pass.n, .n = n, .slot0 = slot0};
        run->tree = (int32_t)pick(p, 0, 1);
        r->pass.n += (size_t)n;
    }
}

/* Each node hangs on any earlier one, or begins a tree of its own. */
static inline void random_tree(struct place *p, const struct ml_pass_run *run, struct ml_tree_node *nodes) {
    for (int32_t i = 0; i < run->n; i++) {
        const size_t parent = pick(p, 0, (size_t)i);
        nodes[i] = (struct ml_tree_node){1ull << i, (uint64_t)run->slot0};
        if (parent == (size_t)i) continue;
        nodes[i].seen |= nodes[parent].seen;
        nodes[i].position = nodes[parent].position + 1;
    }
}

static inline void random_pass(struct place *p, struct random_pass *r) {
    int32_t ids[MAX_ROWS], position[MAX_ROWS][3], run_of[MAX_ROWS];
    struct ml_tree_node tree[MAX_ROWS];
    memset(r, 0, sizeof *r);
    memset(tree, 0, sizeof tree);
    random_runs(p, r);
    for (size_t i = 0; i < r->pass.n_runs; i++) {
        const struct ml_pass_run *run = &r->runs[i];
        if (run->tree) random_tree(p, run, tree + run->first);
        for (int32_t t = run->first; t < run->first + run->n; t++) {
            ids[t] = (int32_t)pick(p, 0, 20) - 1;
            run_of[t] = (int32_t)i;
            for (int c = 0; c < 3; c++)
                position[t][c] = (int32_t)run->slot0 + t - run->first + c;
        }
    }
    const size_t n = r->pass.n;
    r->pass.ids = put_copy(p, ids, n * sizeof *ids);
    r->pass.position = put_copy(p, position, n * sizeof *position);
    r->pass.run_of = put_copy(p, run_of, n * sizeof *run_of);
    r->pass.runs = put_copy(p, r->runs, r->pass.n_runs * sizeof *r->runs);
    r->pass.tree = put_copy(p, tree, n * sizeof *tree);
    r->pass.host_runs = r->runs;
}

/* Values are rows of their own, or (latent) the first v_dim of keys. */
static inline struct ml_kv_layout random_layout(struct place *p) {
    static const enum ml_dtype types[] = {ML_F32, ML_F16, ML_I8};
    struct ml_kv_layout l = {.dtype = types[pick(p, 0, 2)]};
    const bool latent = pick(p, 0, 4) == 0;
    l.k_dim = 8 * pick(p, 1, 8);
    l.v_dim = latent ? 8 * pick(p, 1, l.k_dim / 8) : 8 * pick(p, 1, 8);
    l.v_stride = latent ? l.k_dim : l.v_dim;
    l.kv_heads = (size_t)1 << pick(p, 0, 2);
    l.at = 64 * pick(p, 0, 3);
    const size_t keys = ML_PAGE_KEYS * l.k_dim * ml_dtype_size(l.dtype);
    const size_t values = latent ? 0 : ML_PAGE_KEYS * l.v_dim * ml_dtype_size(l.dtype);
    const size_t scales = l.dtype == ML_I8 ? ML_PAGE_KEYS * sizeof(float) : 0;
    l.k_at = l.at;
    l.v_at = latent ? l.k_at : l.k_at + keys;
    l.k_scales_at = l.k_at + keys + values;
    l.v_scales_at = latent ? l.k_scales_at : l.k_scales_at + scales;
    l.head_bytes = keys + values + scales * (latent ? 1 : 2);
    l.bytes = l.kv_heads * l.head_bytes;
    return l;
}

/* Keys and values of every slot, and bytes of other layers around them. */
static inline char *random_page(struct place *p, const struct ml_kv_layout *l) {
    const size_t bytes = l->at + l->bytes + 64, size = ml_dtype_size(l->dtype);
    uint8_t *page = random_bytes(p, bytes);
    for (size_t h = 0; h < l->kv_heads; h++) {
        uint8_t *head = page + l->k_at + h * l->head_bytes;
        const size_t elements = (l->dtype == ML_I8 ? l->k_scales_at - l->k_at : l->head_bytes) / size;
        float *x = host_floats(p, elements);
        if (l->dtype != ML_I8) ml_kernels()->narrow[l->dtype](head, x, elements);
        for (size_t i = 0; l->dtype == ML_I8 && i < (l->head_bytes - elements) / sizeof(float); i++)
            memcpy(head + elements + i * sizeof(float), &x[i], sizeof(float));
        ml_free_aligned(x);
    }
    return put(p, page, bytes);
}

/* Pages of every run from its first row's oldest slot on, `back` slots before the row's own. Two runs may
 * have full pages in common. */
static inline struct ml_page_table random_pages(struct place *p, const struct random_pass *r,
                                                const struct ml_kv_layout *l, size_t back, bool changes) {
    char **table = host_room(MAX_RUNS * TABLE_STRIDE * sizeof *table);
    for (size_t i = 0; i < (size_t)MAX_RUNS * TABLE_STRIDE; i++)
        table[i] = (char *)(uintptr_t)NOBODYS;
    for (size_t i = 0; i < r->pass.n_runs; i++) {
        const size_t slot0 = (size_t)r->runs[i].slot0, end = slot0 + (size_t)r->runs[i].n;
        for (size_t j = (slot0 > back ? slot0 - back : 0) / ML_PAGE_KEYS; j * ML_PAGE_KEYS < end; j++) {
            char **page = &table[i * TABLE_STRIDE + j];
            const bool alike = i > 0 && !changes && pick(p, 0, 1);
            *page = alike ? page[-TABLE_STRIDE] : page[0];
            if (*page == (char *)(uintptr_t)NOBODYS) *page = random_page(p, l);
            if (changes) (void)result(p, *page, l->at + l->bytes + 64);
        }
    }
    return (struct ml_page_table){put(p, table, MAX_RUNS * TABLE_STRIDE * sizeof *table), TABLE_STRIDE};
}

/* ---- the operations ---- */

#define CALL(p, name, args)                                                                                  \
    do {                                                                                                     \
        ml_mem_fail_at((p)->fail_at);                                                                        \
        (p)->ops->name(&(p)->stream, args);                                                                  \
        ml_mem_fail_at(0);                                                                                   \
    } while (0)

/* After an operation has returned its arguments are the caller's again. */
static inline void spoil(void *p, size_t bytes) {
    memset(p, 0x5A, bytes);
}

static inline void case_embed(struct place *p) {
    struct random_pass r;
    const size_t width = pick(p, 1, 70), vocab = 20;
    struct ml_quant_matrix rows;
    struct ml_embedding e = {.scale = pick(p, 0, 1) ? 1.0f : 3.5f};
    if (pick(p, 0, 1)) e.norm = random_norm(p, width);
    random_pass(p, &r);
    if (pick(p, 0, 1)) {
        rows = random_quant(p, ML_QUANT_INT8, vocab, width);
        e.rows = &rows;
    } else {
        e.plain = random_matrix(p, vocab, width);
    }
    struct ml_embed_op a = {
        .embedding = &e, .pass = &r.pass, .x = out_floats(p, r.pass.n * width), .width = width};
    CALL(p, embed, &a);
    spoil(&a, sizeof a);
    spoil(&e, sizeof e);
    spoil(&rows, sizeof rows);
    spoil(&r, sizeof r);
}

static inline void case_norm(struct place *p) {
    const size_t n = pick(p, 0, 40), width = pick(p, 1, 200);
    struct ml_norm norm = random_norm(p, width);
    if (norm.w && pick(p, 0, 1)) norm.bias = floats(p, width);
    float *y = out_floats(p, n * width + 1), *x = pick(p, 0, 1) ? y : floats(p, n * width);
    struct ml_norm_op a = {.norm = &norm, .x = x, .y = y, .n = n};
    CALL(p, norm, &a);
    spoil(&a, sizeof a);
    spoil(&norm, sizeof norm);
}

static inline void case_add(struct place *p) {
    const size_t n = pick(p, 0, 40), width = pick(p, 1, 200);
    struct ml_add_op a = {
        .x = out_floats(p, n * width + 1), .y = floats(p, n * width), .n = n, .width = width};
    CALL(p, add, &a);
    spoil(&a, sizeof a);
}

/* Several products of the same rows fill one matrix, beside each other and with a gap at the end. */
static inline void case_linear(struct place *p) {
    const size_t n = pick(p, 1, 12), in = pick(p, 2, 300), n_jobs = pick(p, 1, 4);
    const size_t ldx = in + pick(p, 0, 1) * 5, gap = pick(p, 0, 1) * 3;
    struct ml_linear linears[4];
    struct ml_linear_job jobs[4];
    size_t at[5] = {0};
    for (size_t j = 0; j < n_jobs; j++) {
        linears[j] = random_linear(p, in, pick(p, 2, 300));
        at[j + 1] = at[j] + linears[j].out;
    }
    const size_t ldy = at[n_jobs] + gap;
    float *x = floats(p, n * ldx), *y = out_floats(p, n * ldy);
    for (size_t j = 0; j < n_jobs; j++)
        jobs[j] = (struct ml_linear_job){
            .linear = &linears[j], .y = y + at[j], .ldy = ldy, .x = x, .ldx = ldx, .n = n};
    struct ml_linear_op a = {.jobs = jobs, .n_jobs = n_jobs, .mode = random_mode(p)};
    CALL(p, linear, &a);
    spoil(&a, sizeof a);
    spoil(jobs, sizeof jobs);
    spoil(linears, sizeof linears);
    spoil(p->pieces, sizeof p->pieces);
}

static inline void case_angles(struct place *p) {
    struct random_pass r;
    const size_t half = pick(p, 1, 40);
    random_pass(p, &r);
    struct ml_angles_op a = {.pass = &r.pass,
                             .inv_freq = floats(p, r.pass.n_runs * half),
                             .half = half,
                             .scale = 1.25f,
                             .cos = out_floats(p, r.pass.n * half),
                             .sin = out_floats(p, r.pass.n * half)};
    CALL(p, angles, &a);
    spoil(&a, sizeof a);
    spoil(&r, sizeof r);
}

static inline void case_rope_store(struct place *p) {
    struct random_pass r;
    const struct ml_kv_layout l = random_layout(p);
    const size_t heads = l.kv_heads * pick(p, 1, 2), rotary = 2 * pick(p, 0, l.k_dim / 2);
    random_pass(p, &r);
    const size_t n = r.pass.n, k_width = l.kv_heads * l.k_dim;
    const bool leading = pick(p, 0, 1);
    struct ml_norm q_norm = random_norm(p, leading ? (l.k_dim + 1) / 2 : l.k_dim),
                   k_norm = random_norm(p, leading || pick(p, 0, 1) ? l.k_dim : k_width);
    struct ml_rope_store_op a = {.pass = &r.pass,
                                 .pages = random_pages(p, &r, &l, 0, true),
                                 .layout = l,
                                 .q = out_floats(p, n * heads * l.k_dim),
                                 .k = out_floats(p, n * k_width),
                                 .v = l.v_at == l.k_at ? NULL : floats(p, n * l.kv_heads * l.v_dim),
                                 .q_width = heads * l.k_dim,
                                 .q_norm = &q_norm,
                                 .k_norm = &k_norm,
                                 .cos = rotary ? floats(p, n * rotary / 2) : NULL,
                                 .sin = rotary ? floats(p, n * rotary / 2) : NULL,
                                 .rotary = rotary,
                                 .interleaved = pick(p, 0, 1),
                                 .norm_last = pick(p, 0, 1),
                                 .norm_leading = leading,
                                 .rotary_at = leading ? l.k_dim - rotary : 0,
                                 .temper = pick(p, 0, 1) ? 0.1f : 0,
                                 .temper_length = 3};
    CALL(p, rope_store, &a);
    spoil(&a, sizeof a);
    spoil(&q_norm, sizeof q_norm);
    spoil(&k_norm, sizeof k_norm);
    spoil(&r, sizeof r);
}

static inline void case_attention(struct place *p) {
    struct random_pass r;
    const struct ml_kv_layout l = random_layout(p);
    const size_t heads = l.kv_heads * pick(p, 1, 2), window = pick(p, 0, 1) ? pick(p, 1, 200) : 0;
    random_pass(p, &r);
    struct ml_attention_op a = {.pass = &r.pass,
                                .pages = random_pages(p, &r, &l, window ? window - 1 : SIZE_MAX, false),
                                .layout = l,
                                .q = floats(p, r.pass.n * heads * l.k_dim),
                                .out = out_floats(p, r.pass.n * heads * l.v_dim),
                                .heads = heads,
                                .window = window,
                                .scale = 0.2f,
                                .softcap = pick(p, 0, 3) ? 0 : 20.0f,
                                .sinks = pick(p, 0, 1) ? floats(p, heads) : NULL};
    CALL(p, attention, &a);
    spoil(&a, sizeof a);
    spoil(&r, sizeof r);
}

static inline struct ml_activation_rule random_activation(struct place *p) {
    return (struct ml_activation_rule){.kind = (enum ml_glu)pick(p, 0, ML_GLU_SIGMOID),
                                       .limit = pick(p, 0, 1) ? 0.5f : 0,
                                       .alpha = pick(p, 0, 1) ? 1.7f : 0};
}

static inline void case_glu(struct place *p) {
    const size_t n = pick(p, 0, 20), width = pick(p, 1, 200);
    struct ml_glu_op a = {.act = random_activation(p),
                          .gate = out_floats(p, n * width + 1),
                          .up = floats(p, n * width),
                          .n = n,
                          .width = width};
    CALL(p, glu, &a);
    spoil(&a, sizeof a);
}

static inline void case_route(struct place *p) {
    const size_t n = pick(p, 1, MAX_ROWS), experts = pick(p, 1, EXPERTS), top_k = pick(p, 1, experts);
    struct ml_route_op a = {.router = {.experts = experts,
                                       .top_k = top_k,
                                       .normalise = pick(p, 0, 1),
                                       .sigmoid = pick(p, 0, 1),
                                       .bias = pick(p, 0, 1) ? floats(p, experts) : NULL,
                                       .scale = 2.5f},
                            .logits = floats(p, n * experts),
                            .n = n,
                            .plan = {.expert = out_ints(p, n * top_k),
                                     .weight = out_floats(p, n * top_k),
                                     .row = out_ints(p, n * top_k),
                                     .token = out_ints(p, n * top_k),
                                     .start = out_ints(p, experts + 1)}};
    CALL(p, route, &a);
    spoil(&a, sizeof a);
}

/* Neighbouring experts, beginning anywhere; never the last one. chosen[e]: somebody wants e. */
static inline struct ml_moe_plan random_plan(struct place *p, size_t n, size_t top_k, bool *chosen) {
    int32_t expert[MAX_ROWS * 4], row[MAX_ROWS * 4], token[MAX_ROWS * 4], start[EXPERTS + 1];
    int32_t rows = 0;
    for (size_t t = 0; t < n; t++) {
        const size_t from = pick(p, 0, EXPERTS - 2);
        for (size_t c = 0; c < top_k; c++)
            expert[t * top_k + c] = (int32_t)((from + c) % (EXPERTS - 1));
    }
    for (int32_t e = 0; e < EXPERTS; e++) {
        start[e] = rows;
        for (size_t i = 0; i < n * top_k; i++) {
            if (expert[i] != e) continue;
            row[i] = rows;
            token[rows++] = (int32_t)(i / top_k);
        }
        chosen[e] = rows > start[e];
    }
    start[EXPERTS] = rows;
    const size_t bytes = n * top_k * sizeof *row;
    return (struct ml_moe_plan){.expert = put_copy(p, expert, bytes),
                                .weight = floats(p, n * top_k),
                                .row = put_copy(p, row, bytes),
                                .token = put_copy(p, token, bytes),
                                .start = put_copy(p, start, sizeof start)};
}

static inline struct ml_linear nobodys_linear(size_t in, size_t out) {
    const struct ml_matrix w = {.rows = out, .cols = in, .stride = in, .data = (void *)(uintptr_t)NOBODYS};
    return (struct ml_linear){.name = "nobody's", .in = in, .out = out, .u.plain = w};
}

static inline struct ml_mlp random_expert(struct place *p, size_t hidden, size_t width, bool chosen) {
    if (!chosen)
        return (struct ml_mlp){nobodys_linear(hidden, width), nobodys_linear(hidden, width),
                               nobodys_linear(width, hidden)};
    const struct ml_linear gate = random_linear(p, hidden, width), up = random_linear(p, hidden, width);
    return (struct ml_mlp){gate, up, random_linear(p, width, hidden)};
}

static inline void case_experts(struct place *p) {
    const size_t n = pick(p, 1, 8), top_k = pick(p, 1, 4), hidden = pick(p, 2, 90), width = pick(p, 2, 90);
    bool chosen[EXPERTS];
    struct ml_mlp experts[EXPERTS];
    struct ml_moe moe = {.router = nobodys_linear(hidden, EXPERTS), .experts = experts};
    const struct ml_moe_plan plan = random_plan(p, n, top_k, chosen);
    moe.choose = (struct ml_router){.experts = EXPERTS, .top_k = top_k};
    for (size_t e = 0; e < EXPERTS; e++)
        experts[e] = random_expert(p, hidden, width, chosen[e]);
    struct ml_experts_op a = {.moe = &moe,
                              .mode = random_mode(p),
                              .act = random_activation(p),
                              .x = floats(p, n * hidden),
                              .n = n,
                              .y = out_floats(p, n * hidden),
                              .plan = plan,
                              .pair_x = floats(p, n * top_k * hidden),
                              .pair_y = floats(p, n * top_k * hidden),
                              .pair_gate = floats(p, n * top_k * width),
                              .pair_up = floats(p, n * top_k * width)};
    CALL(p, experts, &a);
    spoil(&a, sizeof a);
    spoil(&moe, sizeof moe);
    spoil(experts, sizeof experts);
    spoil(p->pieces, sizeof p->pieces);
}

static inline void case_softcap(struct place *p) {
    const size_t n = pick(p, 0, 500);
    struct ml_softcap_op a = {.x = out_floats(p, n + 1), .n = n, .cap = 2.5f};
    CALL(p, softcap, &a);
    spoil(&a, sizeof a);
}

static inline void case_gather(struct place *p) {
    const size_t n = pick(p, 1, 30), rows = pick(p, 1, 50), width = pick(p, 1, 100);
    int32_t which[30];
    for (size_t i = 0; i < n; i++)
        which[i] = (int32_t)pick(p, 0, rows - 1);
    struct ml_gather_op a = {.x = floats(p, rows * width),
                             .rows = put_copy(p, which, n * sizeof *which),
                             .y = out_floats(p, n * width),
                             .n = n,
                             .width = width};
    CALL(p, gather, &a);
    spoil(&a, sizeof a);
}

static inline void case_copy(struct place *p) {
    const size_t n = pick(p, 0, 30), width = pick(p, 1, 40);
    const size_t x_step = width + pick(p, 0, 20), y_step = width + pick(p, 0, 20);
    struct ml_copy_op a = {.x = floats(p, n * x_step + 1),
                           .y = out_floats(p, n * y_step + 1),
                           .x_step = x_step,
                           .y_step = y_step,
                           .n = n,
                           .width = width};
    CALL(p, copy, &a);
    spoil(&a, sizeof a);
}

typedef void case_fn(struct place *p);
#define CASE_ENTRY(name) [ML_OP_##name] = case_##name,
static case_fn *const cases[ML_OP_COUNT] = {ML_OPS(CASE_ENTRY)};
#undef CASE_ENTRY

/* ---- many operations without a wait between them ---- */

enum { CHAIN = 300, CHAIN_WIDTH = 2000 };

/* Each step depends on those before; some go by way of a copy or of host memory. */
static inline void chain_step(struct place *p, float *x, const float *y, const float *gate,
                              const float *host) {
    const size_t n = pick(p, 4, CHAIN_WIDTH);
    switch (pick(p, 0, 3)) {
    case 0:
        p->ops->add(&p->stream, &(struct ml_add_op){.x = x, .y = y, .n = 1, .width = n});
        break;
    case 1:
        p->ops->softcap(&p->stream, &(struct ml_softcap_op){.x = x, .n = n, .cap = 3});
        break;
    case 2:
        p->ops->glu(&p->stream, &(struct ml_glu_op){.gate = x, .up = gate, .n = 1, .width = n});
        break;
    default:
        p->device->ops->copy(&p->stream, x + 1, x, (n - 1) * sizeof *x);
        p->device->ops->upload(&p->stream, x + 2, host, sizeof *host);
        break;
    }
}

static inline char *run_chain(struct place *p, uint64_t seed) {
    place_clear(p);
    ml_rng_seed(&p->rng, seed);
    float *host = host_floats(p, CHAIN), *x = out_floats(p, CHAIN_WIDTH);
    const float *y = floats(p, CHAIN_WIDTH), *gate = floats(p, CHAIN_WIDTH);
    for (int i = 0; i < CHAIN; i++)
        chain_step(p, x, y, gate, host + i);
    char *out = results(p);
    ml_free_aligned(host);
    return out;
}

static inline void compare_chain(struct place *a, struct place *b, uint64_t seed) {
    char *x = run_chain(a, seed), *y = run_chain(b, seed);
    assert_memory_equal(x, y, CHAIN_WIDTH * sizeof(float));
    ml_free_aligned(x);
    ml_free_aligned(y);
}

/* ---- single operations ---- */

/* One operation from a seed; what it gave. */
static inline char *run_case(struct place *p, enum ml_op op, uint64_t seed) {
    place_clear(p);
    ml_rng_seed(&p->rng, seed);
    cases[op](p);
    return results(p);
}

/* The same operation in two places gives the same bits. */
static inline void compare_case(struct place *a, struct place *b, enum ml_op op, uint64_t seed) {
    char *x = run_case(a, op, seed), *y = run_case(b, op, seed);
    assert_int_equal(a->result_bytes, b->result_bytes);
    assert_true(a->result_bytes > 0);
    for (size_t i = 0; i < a->result_bytes; i++)
        if (x[i] != y[i])
            fail_msg("%s, seed %llu: byte %zu of %zu differs", ml_operands[op].name, (unsigned long long)seed,
                     i, a->result_bytes);
    ml_free_aligned(x);
    ml_free_aligned(y);
}

#endif
