/* SPDX-License-Identifier: Apache-2.0
 *
 * How much memory a run takes, from the config alone. The same layouts as in state.c, so that the figures
 * cannot drift apart.
 */
#include "base/checked.h"
#include "base/cpu.h"
#include "models/model_int.h"

static marlin_status too_large(struct marlin_error *err) {
    return ml_fail(err, MARLIN_ERR_LIMIT, "the memory estimate passes 2^64 bytes");
}

static bool add_up(struct ml_memory_estimate *e) {
    return ml_add_u64(e->weights, e->kv, &e->total) && ml_add_u64(e->total, e->state, &e->total) &&
           ml_add_u64(e->total, e->scratch, &e->total);
}

marlin_status ml_model_estimate(const struct ml_config *c, uint64_t weight_bytes, size_t ctx,
                                size_t max_batch, enum ml_dtype kv_dtype, struct ml_memory_estimate *out,
                                struct marlin_error *err) {
    const struct ml_kv_shape shape = {.layers = (size_t)c->num_layers,
                                      .kv_heads = (size_t)c->num_kv_heads,
                                      .head_dim = (size_t)c->head_dim,
                                      .max_positions = ctx,
                                      .dtype = kv_dtype};
    size_t kv = 0, work = 0, kernels = 0;
    marlin_status st;

    ML_TRY(ml_kv_bytes(&shape, &kv, err));
    ML_TRY(ml_scratch_layout(c, max_batch < ctx ? max_batch : ctx, ctx, NULL, &work, err));
    /* One scratch for each worker of a pool over all processors. */
    if (!ml_mul_size(ml_gemm_scratch(), (size_t)ml_cpu()->cores, &kernels)) {
        st = too_large(err);
        goto out;
    }
    struct ml_memory_estimate e = {.weights = weight_bytes, .kv = kv, .state = sizeof(struct ml_state)};
    if (!ml_add_u64(work, kernels, &e.scratch) || !add_up(&e)) {
        st = too_large(err);
        goto out;
    }
    *out = e;
out:
    return st;
}

/* What reserve_quant in state.c takes. */
static bool quant_bytes(const struct ml_model *m, size_t max_batch, size_t *out) {
    size_t partial;
    if (m->quant_rows == 0) {
        *out = 0;
        return true;
    }
    const size_t products = ml_exec_quant_bytes((size_t)ml_cpu()->cores, m->quant_cols, m->quant_rows,
                                                ml_config_quant_jobs(m->config), max_batch);
    return ml_mul_size(m->sum_rows, max_batch, &partial) && ml_mul_size(partial, sizeof(float), &partial) &&
           ml_add_size(products, partial, out);
}

marlin_status ml_model_estimate_of(const struct ml_model *m, size_t ctx, size_t max_batch,
                                   struct ml_memory_estimate *out, struct marlin_error *err) {
    size_t quant = 0;
    const size_t batch = max_batch < ctx ? max_batch : ctx;
    marlin_status st;

    ML_TRY(ml_model_estimate(m->config, m->weight_bytes, ctx, max_batch, m->kv_dtype, out, err));
    if (!quant_bytes(m, batch, &quant) || !ml_add_u64(out->scratch, quant, &out->scratch) || !add_up(out))
        st = too_large(err);
out:
    return st;
}
