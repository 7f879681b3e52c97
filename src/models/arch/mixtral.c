/* SPDX-License-Identifier: Apache-2.0
 *
 * Mixtral: Mistral's attention, every layer a mixture of experts whose chosen probabilities always sum to 1.
 * Files spell the block "block_sparse_moe" with w1, w3, w2, or "mlp" with gate, up and down projections.
 */
#include "models/arch/arch.h"

#include <stdio.h>

static const char *const blocks[] = {"block_sparse_moe.", "mlp."};
#define NAMES(b, g, u, d)                                                                                    \
    { .block = (b), .gate = (g), .up = (u), .down = (d) }
static const struct ml_moe_names spellings[2][2] = {
    {NAMES("block_sparse_moe.", "w1", "w3", "w2"),
     NAMES("block_sparse_moe.", "gate_proj", "up_proj", "down_proj")},
    {NAMES("mlp.", "gate_proj", "up_proj", "down_proj"), NAMES("mlp.", "w1", "w3", "w2")},
};
#undef NAMES

static bool has_part(const struct ml_binder *b, const struct ml_layer *l, const struct ml_moe_names *names) {
    char suffix[64], name[ML_BIND_NAME];
    (void)snprintf(suffix, sizeof(suffix), "%sexperts.0.%s", names->block, names->gate);
    ml_layer_name(l, suffix, name);
    return ml_bind_has_linear(b, name);
}

/* Block and parts are found one by one: who splits fused experts may spell them either way. */
static const struct ml_moe_names *spelling(const struct ml_binder *b, const struct ml_layer *l) {
    char suffix[64], router[ML_BIND_NAME];
    (void)snprintf(suffix, sizeof(suffix), "%sgate.weight", blocks[1]);
    ml_layer_name(l, suffix, router);
    const int block = ml_bind_has(b, router);
    const struct ml_moe_names *usual = &spellings[block][block], *other = &spellings[block][!block];
    return has_part(b, l, other) ? other : usual;
}

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    marlin_status st;

    ML_TRY(ml_bind_prenorms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, false, false, err));
    ML_TRY(ml_bind_moe(b, l, spelling(b, l), true, err));
out:
    return st;
}

const struct ml_arch ml_arch_mixtral = {
    .model_type = "mixtral", .bind = bind, .layer = ml_prenorm_layer, .has_backward = true};
