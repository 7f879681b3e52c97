/* SPDX-License-Identifier: Apache-2.0
 *
 * Sequences that were never fed, for benchmarks.
 */
#include "base/mem.h"
#include "base/rng.h"
#include "models/layers/layers.h"
#include "models/work.h"

#include <string.h>

enum { FILL_SEED = 1 };

/* 64 small random rows of one head. */
static void fill_rows(struct ml_rng *rng, enum ml_dtype t, char *rows, float *scales, size_t dim) {
    const struct ml_kernels *k = ml_kernels();
    for (size_t i = 0; i < ML_PAGE_KEYS; i++) {
        float x[ML_ATTENTION_MAX_DIM];
        for (size_t d = 0; d < dim; d++)
            x[d] = (float)ml_rng_double(rng) - 0.5f;
        if (t == ML_I8)
            scales[i] = k->narrow_i8((int8_t *)rows + i * dim, x, dim);
        else
            k->narrow[t](rows + i * dim * ml_dtype_size(t), x, dim);
    }
}

static void fill_layer(struct ml_rng *rng, const struct ml_kv_layout *l, char *page) {
    for (size_t h = 0; h < l->kv_heads; h++) {
        char *head = page + h * l->head_bytes;
        fill_rows(rng, l->dtype, head + l->k_at, (float *)(void *)(head + l->k_scales_at), l->k_dim);
        if (l->v_at != l->k_at)
            fill_rows(rng, l->dtype, head + l->v_at, (float *)(void *)(head + l->v_scales_at), l->v_dim);
    }
}

static marlin_status fill_group(struct ml_work *w, struct ml_sequence *s, size_t g,
                                struct marlin_error *err) {
    const struct ml_memory_layout *l = &s->cache->layout;
    struct ml_stream *stream = w->streams[l->groups[g].device];
    struct ml_rng rng;
    char *page = ml_alloc_aligned(l->groups[g].page_bytes);
    if (!page) return ml_fail(err, MARLIN_ERR_MEMORY, "filling a cache: out of memory");
    ml_rng_seed(&rng, FILL_SEED);
    memset(page, 0, l->groups[g].page_bytes);
    for (size_t i = 0; i < l->n_layers && !l->groups[g].recurrent; i++)
        if (l->layers[i].group == g) fill_layer(&rng, &l->layers[i].layout, page);
    ml_memory_fill(s->memory, g, page, stream);
    const marlin_status st = stream->device->ops->stream_sync(stream, err);
    ml_free_aligned(page);
    return st;
}

/* A window holds no more than the pages of some positions at once: piece by piece. */
marlin_status ml_sequence_fill(struct ml_work *w, struct ml_sequence *s, size_t n, struct marlin_error *err) {
    marlin_status st = MARLIN_OK;
    for (size_t done = 0, piece; done < n; done += piece) {
        piece = n - done < w->sizes.rows ? n - done : w->sizes.rows;
        ML_TRY(ml_memory_reserve(s->memory, piece, w->streams, err));
        ml_memory_commit(s->memory, piece);
    }
    for (size_t g = 0; g < s->cache->layout.n_groups && n > 0; g++)
        ML_TRY(fill_group(w, s, g, err));
out:
    return st;
}

static size_t window_of(const struct ml_layer *l) {
    return l->mixer.kind == ML_MIXER_ATTENTION ? l->mixer.attention.window : 0;
}

uint64_t ml_model_cache_bytes(const struct ml_model *m, enum ml_dtype kv_dtype, size_t pos0, size_t n) {
    const size_t layers = (size_t)m->config->num_layers;
    struct ml_memory_layout layout;
    struct ml_arena arena;
    uint64_t sum = 0;
    ml_arena_init(&arena, 0);
    if (ml_config_layout(m->config, 0, layers, 1, kv_dtype, &arena, &layout, NULL) == MARLIN_OK)
        for (size_t i = 0; i < layers; i++)
            sum += ml_attention_bytes(&layout.layers[i].layout, window_of(&m->layers[i]), pos0, n);
    ml_arena_free(&arena);
    return sum;
}
