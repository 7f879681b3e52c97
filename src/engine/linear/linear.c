/* SPDX-License-Identifier: Apache-2.0
 *
 * marlin_linear: one matrix by itself. A room of its own beside the rest of the engine, since it is what models
 * are made of and not what runs them: it sees the kernels' order of bytes and the quantizer of matrices, which
 * sessions and requests have no business with, and nothing of tokenizers and samplers. Products go through the
 * operation `linear` of the CPU, as those of a model do, so that they are the same bits.
 */
#include "quantization/matrix/linear.h"
#include "base/checked.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/status.h"
#include "device/device.h"
#include "kernels/kernels.h"
#include "marlin/marlin.h"
#include "models/single.h"
#include "ops/ops.h"
#include "packing/codes.h"
#include "packing/int8.h"

#include <math.h>
#include <string.h>

enum { ROWS = 256, INT8_BITS = 8 }; /* rows of x that go at once */

static const double ridge = 0.025; /* as in `marlin quantize` */

struct marlin_linear {
    const struct ml_linear *linear; /* `own`, or the model's */
    struct ml_model *model;         /* NULL unless it was opened */
    struct ml_linear own;
    struct ml_quant_piece piece;
    struct ml_quantized_linear tiles; /* what `piece` points into: tiles and scales, */
    int8_t *rows;                     /* or int8 rows */
    float *row_scales;
    void *arranged;
    double error;

    struct ml_device *device;
    struct ml_pool *pool;
    struct ml_stream stream;
    struct ml_lock gate; /* of stream and pool, which serve one product at a time */
    enum ml_quant_mode mode;
};

/* ---- beginning and end ---- */

static marlin_status make(const struct marlin_linear_options *o, marlin_linear **out,
                          struct marlin_error *err) {
    const int threads = o ? o->threads : 0;
    if (threads < 0)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_linear: threads is %d, must not be negative",
                       threads);
    marlin_linear *l = ml_calloc(1, sizeof *l);
    if (!l) return ml_fail(err, MARLIN_ERR_MEMORY, "marlin_linear: out of memory");
    ml_lock_init(&l->gate);
    l->mode = o && o->exact ? ML_QUANT_EXACT : ML_QUANT_FAST;
    marlin_status st;
    ML_TRY(ml_device_open("cpu", &l->device, err));
    ML_TRY(ml_pool_create(threads, &l->pool, err));
    ML_TRY(l->device->ops->stream_open(l->device, &l->stream, err));
    *out = l;
    l = NULL;
out:
    marlin_linear_close(l);
    return st;
}

/* The most that products with the linear ask for. */
static struct ml_ops_sizes sizes_of(const struct ml_linear *l) {
    struct ml_ops_sizes z = {.rows = ROWS, .runs = 1, .positions = 1};
    for (size_t i = 0; l->kind == ML_LINEAR_QUANT && i < l->u.quant.n_pieces; i++) {
        const struct ml_quant_piece *p = &l->u.quant.pieces[i];
        if (p->m.k > z.quant_cols) z.quant_cols = p->m.k;
        if (p->m.n > z.quant_rows) z.quant_rows = p->m.n;
        if (p->col) z.sum_rows = l->out;
    }
    return z;
}

/* The weights are there: room for products with them. */
static marlin_status finish(marlin_linear *l, struct marlin_error *err) {
    const struct ml_ops_sizes z = sizes_of(l->linear);
    return ml_ops_cpu.open(&l->stream, l->pool, &z, err);
}

void marlin_linear_close(marlin_linear *l) {
    if (!l) return;
    if (l->stream.device) {
        ml_ops_cpu.close(&l->stream);
        l->device->ops->stream_close(&l->stream);
    }
    ml_model_free(l->model);
    ml_pool_free(l->pool);
    if (l->device) l->device->ops->destroy(l->device);
    ml_quantized_linear_free(&l->tiles);
    ml_free(l->rows);
    ml_free(l->row_scales);
    ml_free_aligned(l->arranged);
    ml_lock_destroy(&l->gate);
    ml_free(l);
}

marlin_status marlin_linear_open(const char *dir, const char *name,
                                 const struct marlin_linear_options *options, marlin_linear **out,
                                 struct marlin_error *err) {
    marlin_linear *l = NULL;
    marlin_status st;
    if (!dir || !name || !out)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_linear_open: dir, name or linear is NULL");
    ML_TRY(make(options, &l, err));
    const struct ml_model_options mo = {.devices = &l->device,
                                        .n_devices = 1,
                                        .pool = l->pool,
                                        .kv_dtype = ML_KV_DEFAULT,
                                        .exact = l->mode == ML_QUANT_EXACT};
    ML_TRY(ml_model_load_single(dir, name, &mo, &l->model, &l->linear, err));
    ML_TRY(finish(l, err));
    *out = l;
    l = NULL;
out:
    marlin_linear_close(l);
    return st;
}

/* ---- from arrays ---- */

static marlin_status check_array(const char *function, const float *w, size_t out, size_t in,
                                 const marlin_linear *const *l, struct marlin_error *err) {
    size_t count, bytes;
    if (!w || !l) return ml_fail(err, MARLIN_ERR_ARGUMENT, "%s: w or linear is NULL", function);
    if (out == 0 || in == 0)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "%s: a matrix of %zu x %zu has no weights", function, out,
                       in);
    if (!ml_mul_size(out, in, &count) || !ml_mul_size(count, sizeof *w, &bytes))
        return ml_fail(err, MARLIN_ERR_LIMIT, "%s: %zu x %zu weights pass the address space", function, out,
                       in);
    return MARLIN_OK;
}

marlin_status marlin_linear_wrap(const float *w, size_t out, size_t in,
                                 const struct marlin_linear_options *options, marlin_linear **to,
                                 struct marlin_error *err) {
    marlin_linear *l = NULL;
    marlin_status st;
    ML_TRY(check_array("marlin_linear_wrap", w, out, in, (const marlin_linear *const *)to, err));
    ML_TRY(make(options, &l, err));
    l->own = (struct ml_linear){.name = "linear", .in = in, .out = out, .kind = ML_LINEAR_PLAIN};
    l->own.u.plain = (struct ml_matrix){.dtype = ML_F32, .rows = out, .cols = in, .stride = in, .data = w};
    l->linear = &l->own;
    ML_TRY(finish(l, err));
    *to = l;
    l = NULL;
out:
    marlin_linear_close(l);
    return st;
}

/* ---- quantizing ---- */

static marlin_status read_hessian(const float *from, size_t in, struct ml_hessian *h,
                                  struct marlin_error *err) {
    const marlin_status st = ml_hessian_create(h, in, 1, err);
    if (st != MARLIN_OK) return st;
    h->count = 1;
    for (size_t a = 0; a < in; a++)
        for (size_t b = 0; b <= a; b++) {
            const float v = from[a * in + b];
            if (!isfinite(v))
                return ml_fail(err, MARLIN_ERR_NUMERIC,
                               "marlin_linear_quantize: element [%zu, %zu] of the Hessian is not finite", a,
                               b);
            if (a == b && v < 0)
                return ml_fail(err, MARLIN_ERR_NUMERIC,
                               "marlin_linear_quantize: element [%zu, %zu] of the Hessian is negative, but "
                               "it is a sum of squares",
                               a, b);
            h->h[a * h->k + b] = v;
        }
    return MARLIN_OK;
}

static marlin_status make_tiles(marlin_linear *l, const float *w, const struct marlin_quantization *q,
                                const struct ml_hessian *h, struct marlin_error *err) {
    const int window = q->bits <= 4 ? ML_TAP_WINDOW_NORMAL : ML_TAP_WINDOW_MIDDLE;
    struct ml_quant_matrix *m = &l->piece.m;
    struct ml_codec codec = {0};
    marlin_status st;
    ML_TRY(ml_codec_tap(&codec, q->bits, window, ml_kernels()->tier, err));
    const struct ml_quantize_options o = {
        .codec = &codec, .kernels = ml_kernels(), .pool = l->pool, .sigma = ridge, .seed = q->seed};
    ML_TRY(ml_quantize_linear(w, l->own.out, l->own.in, h, &o, &l->tiles, err));
    if (h && l->tiles.fallback) { /* who gives a Hessian wants it used */
        st = ml_fail(err, MARLIN_ERR_NUMERIC, "marlin_linear_quantize: %s", l->tiles.fallback);
        goto out;
    }
    l->error = l->tiles.proxy_error;
    *m = (struct ml_quant_matrix){.format = ML_QUANT_TAP,
                                  .bits = q->bits,
                                  .n = l->tiles.rotation.n,
                                  .k = l->tiles.rotation.k,
                                  .data = l->tiles.bytes,
                                  .su = l->tiles.rotation.su,
                                  .sv = l->tiles.rotation.sv};
    ml_quant_set_code(m, codec.tap);
out:
    ml_codec_free(&codec);
    return st;
}

static double squared_error(const float *w, const int8_t *q, size_t n, float scale, double *power) {
    double error = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = (double)w[i] - (double)scale * q[i];
        error += d * d;
        *power += (double)w[i] * w[i];
    }
    return error;
}

static marlin_status make_rows(marlin_linear *l, const float *w, struct marlin_error *err) {
    const size_t out = l->own.out, in = l->own.in;
    double error = 0, power = 0;
    l->rows = ml_calloc(out, in);
    l->row_scales = ml_calloc(out, sizeof *l->row_scales);
    if (!l->rows || !l->row_scales)
        return ml_fail(err, MARLIN_ERR_MEMORY, "marlin_linear_quantize: no memory for %zu x %zu weights", out,
                       in);
    for (size_t r = 0; r < out; r++) {
        int8_t *q = l->rows + r * in;
        const marlin_status st = ml_int8_pack(w + r * in, in, q, &l->row_scales[r], err);
        if (st != MARLIN_OK) return ml_fail_in(err, st, "marlin_linear_quantize: row %zu", r);
        error += squared_error(w + r * in, q, in, l->row_scales[r], &power);
    }
    l->error = power > 0 ? error / power : 0;
    l->piece.m = (struct ml_quant_matrix){.format = ML_QUANT_INT8,
                                          .bits = INT8_BITS,
                                          .n = out,
                                          .k = in,
                                          .data = (const uint8_t *)l->rows,
                                          .sv = l->row_scales};
    return MARLIN_OK;
}

/* A copy in the order of this machine's kernels, where products read one: those in float32 do not. */
static marlin_status arrange(marlin_linear *l, struct marlin_error *err) {
    struct ml_quant_matrix *m = &l->piece.m;
    const size_t bytes = ml_quant_arranged_bytes(ml_kernels(), m);
    if (bytes == 0 || l->mode == ML_QUANT_EXACT || m->k > ML_QUANT_MAX_COLS) return MARLIN_OK;
    l->arranged = ml_alloc_aligned(bytes);
    if (!l->arranged)
        return ml_fail(err, MARLIN_ERR_MEMORY, "marlin_linear_quantize: cannot allocate %zu bytes", bytes);
    ml_quant_arrange(ml_kernels(), m, l->arranged);
    m->arranged = l->arranged;
    return MARLIN_OK;
}

static marlin_status check_quantization(const struct marlin_quantization *q, struct marlin_error *err) {
    if (!q) return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_linear_quantize: the quantization is NULL");
    if (q->bits == INT8_BITS && q->hessian)
        return ml_fail(err, MARLIN_ERR_ARGUMENT,
                       "marlin_linear_quantize: 8 bits are rounded to nearest and use no Hessian: leave it "
                       "out");
    if ((q->bits < ML_TAP_MIN_BITS || q->bits > ML_TAP_MAX_BITS) && q->bits != INT8_BITS)
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "marlin_linear_quantize: %d bits: 2 to 6 and 8 are possible", q->bits);
    return MARLIN_OK;
}

marlin_status marlin_linear_quantize(const float *w, size_t out, size_t in,
                                     const struct marlin_quantization *q,
                                     const struct marlin_linear_options *options, marlin_linear **to,
                                     struct marlin_error *err) {
    marlin_linear *l = NULL;
    struct ml_hessian h = {0};
    marlin_status st;
    ML_TRY(check_array("marlin_linear_quantize", w, out, in, (const marlin_linear *const *)to, err));
    ML_TRY(check_quantization(q, err));
    ML_TRY(make(options, &l, err));
    l->own = (struct ml_linear){.name = "linear", .in = in, .out = out, .kind = ML_LINEAR_QUANT};
    l->own.u.quant = (struct ml_quant_linear){.pieces = &l->piece, .n_pieces = 1};
    if (q->hessian) ML_TRY(read_hessian(q->hessian, in, &h, err));
    ML_TRY(q->bits == INT8_BITS ? make_rows(l, w, err) : make_tiles(l, w, q, q->hessian ? &h : NULL, err));
    l->piece.m.rows = out;
    l->piece.m.cols = in;
    ML_TRY(arrange(l, err));
    l->linear = &l->own;
    ML_TRY(finish(l, err));
    *to = l;
    l = NULL;
out:
    ml_hessian_free(&h);
    marlin_linear_close(l);
    return st;
}

/* ---- use ---- */

static uint64_t stored_bytes(const struct ml_linear *l) {
    uint64_t sum = 0;
    if (l->kind == ML_LINEAR_PLAIN) return (uint64_t)l->out * l->in * ml_dtype_size(l->u.plain.dtype);
    for (size_t i = 0; i < l->u.quant.n_pieces; i++) {
        const struct ml_quant_matrix *m = &l->u.quant.pieces[i].m;
        const struct ml_form *f = ml_form_of(m->format);
        sum += (uint64_t)m->n * m->k * (uint64_t)m->bits / 8 + m->n * ml_dtype_size(f->out_scales.dtype);
        if (f->in_scales.suffix) sum += m->k * ml_dtype_size(f->in_scales.dtype);
    }
    return sum;
}

void marlin_linear_describe(const marlin_linear *l, struct marlin_linear_info *info) {
    const struct ml_linear *own = l->linear;
    const bool quantized = own->kind == ML_LINEAR_QUANT;
    *info = (struct marlin_linear_info){.out = own->out,
                                        .in = own->in,
                                        .quantized = quantized,
                                        .bias = own->bias != NULL,
                                        .bits = quantized ? own->u.quant.pieces[0].m.bits
                                                          : 8.0 * (double)ml_dtype_size(own->u.plain.dtype),
                                        .bytes = stored_bytes(own),
                                        .error = l->error};
}

marlin_status marlin_linear_multiply(marlin_linear *l, const float *x, size_t n, float *y,
                                     struct marlin_error *err) {
    marlin_status st = MARLIN_OK;
    if (!l || (n && (!x || !y)))
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_linear_multiply: linear, x or y is NULL");
    ml_lock_take(&l->gate);
    for (size_t t = 0; t < n; t += ROWS) {
        const struct ml_linear_job job = {.linear = l->linear,
                                          .y = y + t * l->linear->out,
                                          .ldy = l->linear->out,
                                          .x = x + t * l->linear->in,
                                          .ldx = l->linear->in,
                                          .n = n - t < ROWS ? n - t : ROWS};
        ml_ops_cpu.linear(&l->stream, &(struct ml_linear_op){.jobs = &job, .n_jobs = 1, .mode = l->mode});
    }
    ML_TRY(ml_ops_cpu.flush(&l->stream, err));
    if (l->model) ML_TRY(ml_model_check(l->model, err));
out:
    ml_lock_release(&l->gate);
    return st;
}

static void widen(const struct ml_matrix *m, float *w) {
    for (size_t r = 0; r < m->rows; r++)
        ml_kernels()->widen[m->dtype](
            w + r * m->cols, (const char *)m->data + r * m->stride * ml_dtype_size(m->dtype), m->cols);
}

/* Pieces lie beside and below each other: each is restored by itself and put where it belongs. */
static marlin_status restore(const struct ml_linear *l, float *w, struct marlin_error *err) {
    for (size_t i = 0; i < l->u.quant.n_pieces; i++) {
        const struct ml_quant_piece *p = &l->u.quant.pieces[i];
        size_t count;
        float *part = ml_mul_size(p->m.rows, p->m.cols, &count) ? ml_calloc(count, sizeof *part) : NULL;
        if (!part) return ml_fail(err, MARLIN_ERR_MEMORY, "marlin_linear_weights: out of memory");
        const marlin_status st = ml_quant_restore(&p->m, part, err);
        for (size_t r = 0; st == MARLIN_OK && r < p->m.rows; r++)
            memcpy(w + (p->row + r) * l->in + p->col, part + r * p->m.cols, p->m.cols * sizeof *w);
        ml_free(part);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

marlin_status marlin_linear_weights(const marlin_linear *l, float *w, struct marlin_error *err) {
    if (!l || !w) return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_linear_weights: linear or w is NULL");
    if (l->linear->kind == ML_LINEAR_PLAIN) {
        widen(&l->linear->u.plain, w);
    } else {
        const marlin_status st = restore(l->linear, w, err);
        if (st != MARLIN_OK) return st;
    }
    return l->model ? ml_model_check(l->model, err) : MARLIN_OK;
}
