/* SPDX-License-Identifier: Apache-2.0
 *
 * How much memory a run takes, from the config alone. The same layouts as those that are allocated, so that the
 * figures cannot drift apart.
 */
#include "base/checked.h"
#include "base/cpu.h"
#include "models/work.h"

marlin_status ml_config_cache_bytes(const struct ml_config *c, size_t first, size_t n, enum ml_dtype dtype,
                                    const struct ml_pages_sizes *sizes, size_t *bytes,
                                    struct marlin_error *err) {
    struct ml_memory_layout layout;
    struct ml_arena arena;
    marlin_status st;
    ml_arena_init(&arena, 0);
    ML_TRY(ml_config_layout(c, first, n, 1, dtype, &arena, &layout, err));
    ML_TRY(ml_pages_bytes(&layout, sizes, bytes, err));
out:
    ml_arena_free(&arena);
    return st;
}

static size_t groups_of(const struct ml_config *c) {
    bool full = false, slides = false;
    for (size_t i = 0; i < (size_t)c->num_layers; i++) {
        const bool window = ml_config_memory(c, i, 0).kind == ML_MEMORY_WINDOW;
        full = full || !window;
        slides = slides || window;
    }
    return (size_t)full + slides;
}

marlin_status ml_config_work_bytes(const struct ml_config *c, const struct ml_work_sizes *sizes,
                                   size_t *bytes, struct marlin_error *err) {
    if (ml_step_layout(c, sizes, groups_of(c), true, NULL, NULL, NULL, bytes)) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_LIMIT, "working memory for %zu rows a pass passes the address space",
                   sizes->rows);
}

static marlin_status too_large(struct marlin_error *err) {
    return ml_fail(err, MARLIN_ERR_LIMIT, "the memory estimate passes 2^64 bytes");
}

static bool add_up(struct ml_memory_estimate *e) {
    return ml_add_u64(e->weights, e->kv, &e->total) && ml_add_u64(e->total, e->state, &e->total) &&
           ml_add_u64(e->total, e->scratch, &e->total);
}

/* quant: what the model's matrices add to the operations' sizes; all 0 from a config alone. */
static marlin_status estimate(const struct ml_model *like, uint64_t weight_bytes, size_t ctx,
                              size_t max_batch, enum ml_dtype kv_dtype, struct ml_memory_estimate *out,
                              struct marlin_error *err) {
    const size_t rows = max_batch < ctx ? max_batch : ctx;
    const struct ml_work_sizes sizes = {.rows = rows, .runs = 1, .positions = ctx};
    const struct ml_pages_sizes pages = {.sequences = 1, .positions = ctx, .rows = rows};
    const struct ml_ops_sizes ops = ml_model_ops_sizes(like, &sizes);
    const struct ml_config *c = like->config;
    size_t kv = 0, work = 0, products = 0;
    marlin_status st;
    ML_TRY(ml_config_cache_bytes(c, 0, (size_t)c->num_layers, kv_dtype, &pages, &kv, err));
    ML_TRY(ml_config_work_bytes(c, &sizes, &work, err));
    struct ml_memory_estimate e = {
        .weights = weight_bytes, .kv = kv, .state = sizeof(struct ml_sequence) + sizeof(struct ml_work)};
    /* One scratch for each worker of a pool over all cores. */
    if (!ml_ops_cpu.bytes(&ops, (size_t)ml_cpu()->cores, &products) ||
        !ml_add_u64(work, products, &e.scratch) || !add_up(&e)) {
        st = too_large(err);
        goto out;
    }
    *out = e;
out:
    return st;
}

marlin_status ml_model_estimate(const struct ml_config *c, uint64_t weight_bytes, size_t ctx,
                                size_t max_batch, enum ml_dtype kv_dtype, struct ml_memory_estimate *out,
                                struct marlin_error *err) {
    const struct ml_model like = {.config = c};
    return estimate(&like, weight_bytes, ctx, max_batch, kv_dtype, out, err);
}

marlin_status ml_model_estimate_of(const struct ml_model *m, size_t ctx, size_t max_batch,
                                   struct ml_memory_estimate *out, struct marlin_error *err) {
    return estimate(m, m->weight_bytes, ctx, max_batch, m->kv_dtype, out, err);
}
