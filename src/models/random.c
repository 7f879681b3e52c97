/* SPDX-License-Identifier: Apache-2.0
 *
 * Models of a given shape with random weights, for benchmarks: real sizes and finite numbers, no file.
 *
 * A normal variate for each of billions of weights would take minutes. Weights are copied from a ring of
 * NOISE variates instead, starting at another place for every block; NOISE is prime, so that no row is
 * another row's copy at the same place.
 */
#include "base/checked.h"
#include "base/fp.h"
#include "base/mem.h"
#include "base/rng.h"
#include "models/bind_int.h"

#include <math.h>
#include <string.h>

enum { NOISE = 65521, BLOCK = 1 << 20 };

static marlin_status make_noise(struct ml_binder *b, struct marlin_error *err) {
    struct ml_rng rng;
    b->noise = ml_alloc(NOISE * sizeof(*b->noise));
    if (!b->noise) return ml_fail(err, MARLIN_ERR_MEMORY, "random weights: out of memory");
    ml_rng_seed(&rng, b->seed);
    for (size_t i = 0; i < NOISE; i++)
        b->noise[i] = ml_f32_to_bf16(ml_rng_normal(&rng));
    return MARLIN_OK;
}

struct fill {
    uint16_t *to;
    const uint16_t *noise; /* [NOISE], scaled for this matrix */
    size_t count, seed;
};

static void fill_blocks(void *arg, size_t begin, size_t end, int worker) {
    const struct fill *f = arg;
    (void)worker;
    for (size_t block = begin; block < end; block++) {
        const size_t stop = f->count - block * BLOCK < BLOCK ? f->count : (block + 1) * BLOCK;
        size_t from = (f->seed + block * 7919) % NOISE;
        for (size_t at = block * BLOCK; at < stop;) {
            const size_t left = stop - at, run = left < NOISE - from ? left : NOISE - from;
            memcpy(f->to + at, f->noise + from, run * sizeof(*f->to));
            at += run;
            from = 0;
        }
    }
}

/* Memory may be promised beyond what there is; filling it would then end the process instead of in an error.
 */
marlin_status ml_random_fits(const struct ml_model *m, uint64_t bytes, struct marlin_error *err) {
    uint64_t available, total, sum;
    m->devices[0]->ops->memory(m->devices[0], &available, &total);
    if (ml_add_u64(m->weight_bytes, bytes, &sum) && sum <= total) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_MEMORY,
                   "random weights: more than the %llu bytes of memory of this machine are needed",
                   (unsigned long long)total);
}

static uint16_t *scaled_noise(const struct ml_binder *b, float scale) {
    uint16_t *n = ml_alloc(NOISE * sizeof(*n));
    for (size_t i = 0; n && i < NOISE; i++)
        n[i] = ml_f32_to_bf16(scale * ml_bf16_to_f32(b->noise[i]));
    return n;
}

marlin_status ml_random_matrix(struct ml_binder *b, size_t rows, size_t cols, struct ml_matrix *out,
                               struct marlin_error *err) {
    struct fill f = {0};
    uint16_t *noise = NULL;
    void *data = NULL;
    size_t bytes;
    marlin_status st;

    if (!ml_mul_size(rows, cols, &f.count) || !ml_mul_size(f.count, sizeof(uint16_t), &bytes)) {
        return ml_fail(err, MARLIN_ERR_LIMIT, "random weights: a matrix of %zu x %zu is too large", rows,
                       cols);
    }
    if (!b->noise) ML_TRY(make_noise(b, err));
    noise = scaled_noise(b, 1.0f / sqrtf((float)cols));
    if (!noise) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "random weights: out of memory");
        goto out;
    }
    ML_TRY(ml_random_fits(b->m, bytes, err));
    ML_TRY(ml_model_own(b->m, bytes, &data, err));
    f.to = data;
    f.noise = noise;
    f.seed = (size_t)(b->m->parameters % NOISE); /* what was bound before: another start for each matrix */
    const size_t blocks[] = {0, (f.count + BLOCK - 1) / BLOCK};
    ml_pool_for_runs(b->pool, blocks, 1, 1, fill_blocks, &f); /* written by those who will read it */
    *out = (struct ml_matrix){.dtype = ML_BF16, .rows = rows, .cols = cols, .stride = cols, .data = data};
out:
    ml_free(noise);
    return st;
}

/* ---- the config, copied: it is the caller's ---- */

static void *copy_array(struct ml_arena *a, const void *from, size_t count, size_t size) {
    void *to = ml_arena_array(a, count ? count : 1, size);
    if (to && from && count) memcpy(to, from, count * size);
    return to;
}

static bool copy_rope(struct ml_arena *a, struct ml_rope_config *r) {
    r->short_factor = copy_array(a, r->short_factor, r->n_short, sizeof(double));
    r->long_factor = copy_array(a, r->long_factor, r->n_long, sizeof(double));
    return r->short_factor && r->long_factor;
}

static struct ml_config *copy_config(struct ml_arena *a, const struct ml_config *from) {
    const size_t n = (size_t)from->num_layers;
    struct ml_config *c = copy_array(a, from, 1, sizeof(*c));
    if (!c) return NULL;
    c->layer_kind = copy_array(a, from->layer_kind, n, sizeof(*c->layer_kind));
    c->layer_rope = copy_array(a, from->layer_rope, n, sizeof(*c->layer_rope));
    c->layer_moe = copy_array(a, from->layer_moe, n, sizeof(*c->layer_moe));
    c->json = NULL;
    c->json_len = 0;
    c->arena = NULL;
    const bool ropes = copy_rope(a, &c->rope) && copy_rope(a, &c->rope_local);
    return ropes && c->layer_kind && c->layer_rope && c->layer_moe ? c : NULL;
}

static marlin_status check_format(const struct ml_random_format *f, struct marlin_error *err) {
    const bool marlin = (f->bits >= ML_TAP_MIN_BITS && f->bits <= ML_TAP_MAX_BITS) || f->bits == 8;
    const bool exl3 = f->bits >= ML_EXL3_MIN_BITS && f->bits <= ML_EXL3_MAX_BITS;
    if (f->bits == 16 || (f->exl3 ? exl3 : marlin)) return MARLIN_OK;
    return ml_fail(
        err, MARLIN_ERR_UNSUPPORTED,
        "random models of %d bits a weight are not supported: marlin has 2 to 6 and 8, EXL3 1 to 8, "
        "and 16 is plain",
        f->bits);
}

marlin_status ml_model_random(const struct ml_config *config, const struct ml_random_format *format,
                              uint64_t seed, const struct ml_model_options *options, struct ml_model **out,
                              struct marlin_error *err) {
    struct ml_model *m = NULL;
    struct ml_binder b = {0};
    marlin_status st;

    ML_TRY(check_format(format, err));
    ML_TRY(ml_model_new(config, options, &m, err));
    m->config = copy_config(&m->arena, config);
    if (!m->config) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "random model: out of memory");
        goto out;
    }
    ML_TRY(ml_binder_init(&b, m, NULL, err));
    b.pool = options ? options->pool : NULL;
    b.seed = seed;
    b.random = *format;
    ML_TRY(ml_model_bind(&b, err));
out:
    ml_binder_free(&b);
    if (st == MARLIN_OK)
        *out = m;
    else
        ml_model_free(m);
    return st;
}
