/* SPDX-License-Identifier: Apache-2.0
 *
 * Random weights for benchmarks: real sizes and finite numbers, no file. Every bit pattern is a tile, and
 * scales are random signs times one magnitude, such that weights have variance 1 / in.
 *
 * A normal variate, or a random byte, for each of billions of weights would take minutes. They are copied from
 * a ring of RING made ones instead, starting at another place for every block; RING is prime, so that no row
 * is another row's copy at the same place.
 */
#include "base/checked.h"
#include "base/fp.h"
#include "base/mem.h"
#include "base/rng.h"
#include "models/store.h"
#include "packing/codes.h"

#include <math.h>
#include <string.h>

enum { RING = 65521, BLOCK = 1 << 20, HEAD_BITS = 6 };

struct random_source {
    struct ml_source base;
    struct ml_model *m;
    struct ml_random_format format;
    uint64_t seed;
    struct ml_pool *pool;
    uint16_t *noise;   /* [RING] bfloat16 of N(0, 1); made when first wanted */
    uint8_t *bytes;    /* [RING] */
    struct ml_rng rng; /* of the scales of the matrix that was asked for last */
    size_t cols;       /* of that matrix */
};

static struct random_source *of(struct ml_source *s) {
    return (struct random_source *)s;
}

/* ---- what there is ---- */

static bool is_quantized(const struct random_source *s) {
    return s->format.bits < 16;
}

static bool is_head(const char *name) {
    return strncmp(name, "lm_head", 7) == 0;
}

/* Quantizers give the head a matrix of its own of 6 bits. */
static int bits_of(const struct random_source *s, const char *name) {
    return is_head(name) ? HEAD_BITS : s->format.bits;
}

static const struct ml_form *form_of(const struct random_source *s, const char *name) {
    if (s->format.exl3) return ml_form_of(ML_QUANT_EXL3);
    const struct ml_form *rows = ml_form_of(ML_QUANT_INT8);
    return bits_of(s, name) == rows->max_bits ? rows : ml_form_of(ML_QUANT_TAP);
}

static marlin_status form(const struct ml_source *source, const char *name, const struct ml_form **out,
                          struct marlin_error *err) {
    const struct random_source *s = (const struct random_source *)source;
    (void)err;
    *out = is_quantized(s) ? form_of(s, name) : ml_form_plain();
    return MARLIN_OK;
}

static bool ends_with_part(const char *tensor, const char *part) {
    const char *dot = strrchr(tensor, '.');
    return dot && strcmp(dot + 1, part) == 0;
}

static bool is_part(const char *tensor, const struct ml_form_part *part) {
    return part->suffix && ends_with_part(tensor, part->suffix);
}

/* A head of its own, and the codebook that EXL3 tiles are of. */
static bool has(const struct ml_source *source, const char *tensor) {
    const struct random_source *s = (const struct random_source *)source;
    if (!is_quantized(s)) return false;
    if (s->format.exl3 && ends_with_part(tensor, ml_exl3_codebook_name(ML_EXL3_MUL1))) return true;
    return is_head(tensor) && ends_with_part(tensor, form_of(s, tensor)->weights.suffix);
}

/* ---- rings ---- */

static marlin_status make_noise(struct random_source *s, struct marlin_error *err) {
    struct ml_rng rng;
    if (s->noise) return MARLIN_OK;
    s->noise = ml_alloc(RING * sizeof(*s->noise));
    if (!s->noise) return ml_fail(err, MARLIN_ERR_MEMORY, "random weights: out of memory");
    ml_rng_seed(&rng, s->seed);
    for (size_t i = 0; i < RING; i++)
        s->noise[i] = ml_f32_to_bf16(ml_rng_normal(&rng));
    return MARLIN_OK;
}

static marlin_status make_bytes(struct random_source *s, struct marlin_error *err) {
    struct ml_rng rng;
    if (s->bytes) return MARLIN_OK;
    s->bytes = ml_alloc(RING);
    if (!s->bytes) return ml_fail(err, MARLIN_ERR_MEMORY, "random weights: out of memory");
    ml_rng_seed(&rng, s->seed);
    for (size_t i = 0; i < RING; i++)
        s->bytes[i] = (uint8_t)(ml_rng_u64(&rng) >> 56);
    return MARLIN_OK;
}

/* `count` elements of `size` bytes from a ring of RING of them. */
struct fill {
    uint8_t *to;
    const uint8_t *ring;
    size_t count, size, seed;
};

static void fill_blocks(void *arg, size_t begin, size_t end, int worker) {
    const struct fill *f = arg;
    (void)worker;
    for (size_t block = begin; block < end; block++) {
        const size_t stop = f->count - block * BLOCK < BLOCK ? f->count : (block + 1) * BLOCK;
        size_t from = (f->seed + block * 7919) % RING;
        for (size_t at = block * BLOCK; at < stop;) {
            const size_t left = stop - at, run = left < RING - from ? left : RING - from;
            memcpy(f->to + at * f->size, f->ring + from * f->size, run * f->size);
            at += run;
            from = 0;
        }
    }
}

/* Memory may be promised beyond what there is; filling it would then end the process instead of in an error.
 */
static marlin_status check_room(const struct ml_model *m, uint64_t bytes, struct marlin_error *err) {
    uint64_t available, total, sum;
    m->devices[0]->ops->memory(m->devices[0], &available, &total);
    if (ml_add_u64(m->weight_bytes, bytes, &sum) && sum <= total) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_MEMORY,
                   "random weights: more than the %llu bytes of memory of this machine are needed",
                   (unsigned long long)total);
}

/* Where a matrix starts in the ring depends on what was bound before it. */
static marlin_status fill(struct random_source *s, const uint8_t *ring, size_t size, struct ml_tensor *t,
                          struct marlin_error *err) {
    struct fill f = {.ring = ring, .count = (size_t)t->count, .size = size};
    void *data = NULL;
    marlin_status st;

    ML_TRY(check_room(s->m, t->bytes, err));
    ML_TRY(ml_model_own(s->m, (size_t)t->bytes, &data, err));
    f.to = data;
    f.seed = (size_t)(s->m->parameters % RING);
    const size_t blocks[] = {0, (f.count + BLOCK - 1) / BLOCK};
    ml_pool_for_runs(s->pool, blocks, 1, 1, fill_blocks, &f); /* written by those who will read it */
    t->data = data;
out:
    return st;
}

/* ---- tensors ---- */

/* rows * cols bfloat16 of variance 1 / cols. */
static marlin_status fill_plain(struct random_source *s, const struct ml_want *want, struct ml_tensor *t,
                                struct marlin_error *err) {
    uint16_t *noise = NULL;
    marlin_status st;
    ML_TRY(make_noise(s, err));
    noise = ml_alloc(RING * sizeof(*noise));
    if (!noise) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "random weights: out of memory");
        goto out;
    }
    const float scale = 1.0f / sqrtf((float)want->cols);
    for (size_t i = 0; i < RING; i++)
        noise[i] = ml_f32_to_bf16(scale * ml_bf16_to_f32(s->noise[i]));
    st = fill(s, (const uint8_t *)noise, sizeof(*noise), t, err);
out:
    ml_free(noise);
    return st;
}

/* int8 rows have no -128. */
static void clear_lowest(int8_t *q, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (q[i] == INT8_MIN) q[i] = 0;
}

static marlin_status fill_bytes(struct random_source *s, struct ml_tensor *t, struct marlin_error *err) {
    const size_t count = (size_t)t->count;
    marlin_status st;
    ML_TRY(make_bytes(s, err));
    t->count = t->bytes; /* the ring is one of bytes, whatever the tensor is made of */
    st = fill(s, s->bytes, 1, t, err);
    t->count = count;
out:
    return st;
}

/* The code that quantizers use, and EXL3's multiplier. */
static marlin_status fill_code(struct random_source *s, const struct ml_want *want, struct ml_tensor *t,
                               struct marlin_error *err) {
    const uint32_t multiplier = ml_exl3_stored_multiplier(ML_EXL3_MUL1);
    uint8_t *to = ml_arena_alloc(&s->m->arena, ML_TAP_CODE_MAX);
    if (!to) return ml_fail(err, MARLIN_ERR_MEMORY, "random weights: out of memory");
    if (want->dtype == ML_I32) {
        memcpy(to, &multiplier, sizeof(multiplier));
        t->bytes = sizeof(multiplier);
    } else {
        const int bits = bits_of(s, want->name);
        t->bytes = ml_tap_code_write(ml_tap_code_find((unsigned)bits, ML_TAP_WINDOW_NORMAL), to);
    }
    t->rank = 1;
    t->count = t->shape[0] = t->bytes / ml_dtype_size(t->dtype);
    t->data = to;
    return MARLIN_OK;
}

static marlin_status set_shape(struct random_source *s, const struct ml_want *want, struct ml_tensor *t,
                               struct marlin_error *err) {
    const struct ml_form *f = form_of(s, want->name);
    size_t count = 1, bytes;
    memcpy(t->shape, want->shape, sizeof(want->shape));
    t->rank = want->rank;
    if (want->rank == 0)
        t->rank = ml_form_shape(f, ml_form_padded(f, want->rows), ml_form_padded(f, want->cols),
                                bits_of(s, want->name), t->shape);
    for (int i = 0; i < t->rank; i++) {
        if (!ml_mul_size(count, (size_t)t->shape[i], &count))
            return ml_fail(err, MARLIN_ERR_LIMIT, "random weights: '%s' is too large", want->name);
    }
    if (!ml_mul_size(count, ml_dtype_size(t->dtype), &bytes))
        return ml_fail(err, MARLIN_ERR_LIMIT, "random weights: '%s' is too large", want->name);
    t->count = count;
    t->bytes = bytes;
    return MARLIN_OK;
}

static marlin_status tensor(struct ml_source *source, const struct ml_want *want,
                            const struct ml_tensor **out, struct marlin_error *err) {
    struct random_source *s = of(source);
    struct ml_tensor *t = ml_arena_alloc(&s->m->arena, sizeof(*t));
    marlin_status st;

    if (!t) return ml_fail(err, MARLIN_ERR_MEMORY, "random weights: out of memory");
    memset(t, 0, sizeof(*t));
    t->name = "random";
    t->dtype = want->dtype;
    *out = t;
    if (is_part(want->name, &form_of(s, want->name)->code) || want->dtype == ML_I32)
        return fill_code(s, want, t, err);
    ML_TRY(set_shape(s, want, t, err));
    s->cols = want->cols;
    ml_rng_seed(&s->rng, s->seed + s->m->parameters);
    if (s->m->headers_only) goto out;
    if (ml_dtype_is_float(t->dtype)) {
        st = fill_plain(s, want, t, err);
        goto out;
    }
    ML_TRY(fill_bytes(s, t, err));
    if (t->dtype == ML_I8) clear_lowest((int8_t *)(uintptr_t)t->data, (size_t)t->bytes);
out:
    return st;
}

/* ---- vectors ---- */

/* Values of a codebook have variance 1 or nearly so; bytes have 73.9^2. */
static float scale_size(const struct random_source *s, const struct ml_form *f, bool of_inputs) {
    const float size = 1.0f / sqrtf((float)s->cols);
    if (f->in_scales.suffix) return of_inputs ? size : 1.0f;
    return size / 73.9f;
}

static marlin_status floats(struct ml_source *source, const struct ml_want *want, float *to,
                            const struct ml_tensor **out, struct marlin_error *err) {
    struct random_source *s = of(source);
    const struct ml_form *f = form_of(s, want->name);
    const bool of_inputs = is_part(want->name, &f->in_scales);
    const bool scales = of_inputs || is_part(want->name, &f->out_scales);
    const float size = scales                               ? scale_size(s, f, of_inputs)
                       : ends_with_part(want->name, "bias") ? 0.0f
                                                            : 1.0f - s->m->arch->norm_offset;
    (void)err;
    *out = NULL;
    for (size_t i = 0; to && i < want->shape[0]; i++)
        to[i] = scales && ml_rng_u64(&s->rng) >> 63 ? -size : size;
    return MARLIN_OK;
}

/* ---- the rest ---- */

static void fetch(struct ml_source *s, const struct ml_tensor *t) {
    (void)s;
    (void)t;
}

static bool done(struct ml_source *s, const struct ml_tensor *t) {
    ml_model_disown(of(s)->m, t->data);
    return true;
}

static void warn_unused(const struct ml_source *s) {
    (void)s;
}

static void close_source(struct ml_source *s) {
    ml_free(of(s)->noise);
    ml_free(of(s)->bytes);
    ml_free(s);
}

marlin_status ml_source_random(struct ml_model *m, const struct ml_random_format *format, uint64_t seed,
                               struct ml_pool *pool, struct ml_source **out, struct marlin_error *err) {
    static const struct ml_source_ops ops = {.has = has,
                                             .form = form,
                                             .tensor = tensor,
                                             .floats = floats,
                                             .fetch = fetch,
                                             .done = done,
                                             .warn_unused = warn_unused,
                                             .close = close_source};
    struct random_source *s = ml_calloc(1, sizeof(*s));
    if (!s) return ml_fail(err, MARLIN_ERR_MEMORY, "random weights: out of memory");
    *s = (struct random_source){.base.ops = &ops, .m = m, .format = *format, .seed = seed, .pool = pool};
    *out = &s->base;
    return MARLIN_OK;
}
