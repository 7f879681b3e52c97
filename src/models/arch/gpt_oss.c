/* SPDX-License-Identifier: Apache-2.0
 *
 * gpt-oss: Llama's block with biases everywhere and a sink in each head of attention; every other layer slides; every
 * layer is a mixture of experts with a clamped gate.
 *
 *   y = down((clamp(up x) + 1) * g / (1 + exp(-alpha g))),  g = min(gate x, limit)
 *
 * The experts of a layer are stored together, rows of gate and up by turns, in bfloat16 or in MXFP4 (OCP Microscaling
 * Formats 1.0: 32 values of 4 bits, the first in the low half of a byte, and a power of two for all of them):
 *
 *   gate_up_proj [E, H, 2I], down_proj [E, I, H]                     one column an output
 *   gate_up_proj_blocks [E, 2I, H/32, 16], _scales [E, 2I, H/32]     one row an output; down_proj likewise
 *
 * Both become bfloat16 rows, which hold every MXFP4 value exactly. A quantizer of this project writes each expert's
 * matrices by themselves.
 */
#include "base/checked.h"
#include "base/fp.h"
#include "models/arch/arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct ml_moe_names names = {
    .block = "mlp.", .router = "router", .gate = "gate_proj", .up = "up_proj", .down = "down_proj"};

enum { MX_BLOCK = 32, TILE = 32 };

/* The matrices of one kind of all experts: `rows` outputs of `cols` inputs each. */
struct fused {
    const char *part; /* "gate_up_proj" */
    size_t experts, rows, cols;
    bool by_turns; /* rows of gate and up */
    const struct ml_tensor *plain, *blocks, *scales;
    uint16_t *to; /* [experts][rows][cols]; of gate and up first all rows of gate */
};

/* ---- from the file's order to rows of bfloat16 ---- */

static uint16_t *row_at(const struct fused *f, size_t e, size_t r) {
    const size_t at = f->by_turns ? r % 2 * (f->rows / 2) + r / 2 : r;
    return f->to + (e * f->rows + at) * f->cols;
}

static void transpose_tile(const struct fused *f, size_t e, size_t r0, size_t c0) {
    const uint8_t *from = f->plain->data;
    const size_t r1 = r0 + TILE < f->rows ? r0 + TILE : f->rows,
                 c1 = c0 + TILE < f->cols ? c0 + TILE : f->cols;
    for (size_t r = r0; r < r1; r++) {
        uint16_t *row = row_at(f, e, r);
        for (size_t c = c0; c < c1; c++)
            memcpy(&row[c], from + 2 * ((e * f->cols + c) * f->rows + r), sizeof *row);
    }
}

/* Twice the values of E2M1. */
static void widen_row(const struct fused *f, size_t e, size_t r) {
    static const int8_t twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    uint16_t *row = row_at(f, e, r);
    const size_t blocks = f->cols / MX_BLOCK, first = (e * f->rows + r) * blocks;
    for (size_t b = 0; b < blocks; b++) {
        const float half = ldexpf(1.0f, (int)f->scales->data[first + b] - 128);
        const uint8_t *q = f->blocks->data + (first + b) * (MX_BLOCK / 2);
        for (size_t i = 0; i < MX_BLOCK; i++)
            row[b * MX_BLOCK + i] = ml_f32_to_bf16(half * (float)twice[q[i / 2] >> (i % 2 * 4) & 15]);
    }
}

static void fill_expert(const struct fused *f, size_t e) {
    for (size_t r = 0; f->blocks && r < f->rows; r++)
        widen_row(f, e, r);
    for (size_t r = 0; f->plain && r < f->rows; r += TILE)
        for (size_t c = 0; c < f->cols; c += TILE)
            transpose_tile(f, e, r, c);
}

static void fill_range(void *arg, size_t begin, size_t end, int worker) {
    (void)worker;
    for (size_t e = begin; e < end; e++)
        fill_expert(arg, e);
}

/* ---- the file's tensors ---- */

static bool has_suffix(const struct ml_binder *b, const struct ml_layer *l, const char *part,
                       const char *suffix) {
    char inner[128], name[ML_BIND_NAME];
    (void)snprintf(inner, sizeof inner, "mlp.experts.%s%s", part, suffix);
    ml_layer_name(l, inner, name);
    return ml_bind_has(b, name);
}

static marlin_status find(struct ml_binder *b, const struct ml_layer *l, const struct fused *f,
                          const char *suffix, struct ml_want *want, const struct ml_tensor **out,
                          struct marlin_error *err) {
    char inner[128], name[ML_BIND_NAME];
    (void)snprintf(inner, sizeof inner, "mlp.experts.%s%s", f->part, suffix);
    ml_layer_name(l, inner, name);
    want->name = name;
    const marlin_status st = b->source->ops->tensor(b->source, want, out, err);
    want->name = NULL;
    return st;
}

static marlin_status find_mxfp4(struct ml_binder *b, const struct ml_layer *l, struct fused *f,
                                struct marlin_error *err) {
    const size_t blocks = f->cols / MX_BLOCK;
    struct ml_want quants = {.dtype = ML_U8, .rank = 4, .shape = {f->experts, f->rows, blocks, MX_BLOCK / 2}};
    struct ml_want scales = {.dtype = ML_U8, .rank = 3, .shape = {f->experts, f->rows, blocks}};
    if (f->cols % MX_BLOCK)
        return ml_fail(err, MARLIN_ERR_FORMAT, "layer %zu: %zu inputs of an expert are no blocks of %d",
                       l->index, f->cols, MX_BLOCK);
    const marlin_status st = find(b, l, f, "_blocks", &quants, &f->blocks, err);
    return st != MARLIN_OK ? st : find(b, l, f, "_scales", &scales, &f->scales, err);
}

static marlin_status fetch(struct ml_binder *b, const struct ml_layer *l, struct fused *f,
                           struct marlin_error *err) {
    struct ml_want plain = {.dtype = ML_BF16, .rank = 3, .shape = {f->experts, f->cols, f->rows}};
    size_t bytes;
    void *to = NULL;
    marlin_status st;
    if (has_suffix(b, l, f->part, "_blocks"))
        ML_TRY(find_mxfp4(b, l, f, err));
    else
        ML_TRY(find(b, l, f, "", &plain, &f->plain, err));
    if (!ml_mul_size(f->experts, f->rows, &bytes) || !ml_mul_size(bytes, f->cols, &bytes) ||
        !ml_mul_size(bytes, sizeof *f->to, &bytes)) {
        st = ml_fail(err, MARLIN_ERR_LIMIT, "layer %zu: the experts are too large", l->index);
        goto out;
    }
    b->m->parameters += bytes / sizeof *f->to;
    b->m->weight_bytes += bytes;
    if (b->m->headers_only) goto out;
    ML_TRY(ml_model_own(b->m, bytes, &to, err));
    f->to = to;
    ml_pool_for(b->pool, f->experts, 1, fill_range, f);
out:
    return st;
}

/* ---- linears ---- */

/* Rows first .. first + rows of expert e as a linear, which remembers where its numbers came from. */
static marlin_status view(struct ml_binder *b, const struct ml_layer *l, const struct fused *f, size_t e,
                          const char *part, size_t first, size_t rows, struct ml_linear *out,
                          struct marlin_error *err) {
    char inner[128], name[ML_BIND_NAME];
    const struct ml_tensor *const from[] = {f->plain, f->blocks, f->scales};
    marlin_status st;
    (void)snprintf(inner, sizeof inner, "mlp.experts.%zu.%s", e, part);
    ml_layer_name(l, inner, name);
    *out = (struct ml_linear){.in = f->cols, .out = rows, .kind = ML_LINEAR_PLAIN};
    out->u.plain = (struct ml_matrix){.dtype = ML_BF16, .rows = rows, .cols = f->cols, .stride = f->cols};
    if (f->to) out->u.plain.data = f->to + (e * f->rows + first) * f->cols;
    ML_TRY(ml_bind_name(b, out, name, err));
    for (size_t i = 0; i < sizeof from / sizeof from[0]; i++)
        ML_TRY(ml_bind_note(b, out, from[i], false, err));
out:
    return st;
}

static marlin_status bind_fused(struct ml_binder *b, struct ml_layer *l, size_t experts, size_t hidden,
                                size_t ff, struct marlin_error *err) {
    struct fused gate_up = {
        .part = "gate_up_proj", .experts = experts, .rows = 2 * ff, .cols = hidden, .by_turns = true};
    struct fused down = {.part = "down_proj", .experts = experts, .rows = hidden, .cols = ff};
    marlin_status st;
    ML_TRY(fetch(b, l, &gate_up, err));
    ML_TRY(fetch(b, l, &down, err));
    for (size_t e = 0; e < experts; e++) {
        struct ml_mlp *x = &l->ffn.moe.experts[e];
        ML_TRY(view(b, l, &gate_up, e, names.gate, 0, ff, &x->gate, err));
        ML_TRY(view(b, l, &gate_up, e, names.up, ff, ff, &x->up, err));
        ML_TRY(view(b, l, &down, e, names.down, 0, hidden, &x->down, err));
    }
out:
    return st;
}

/* The biases of all experts as one list, in the file's order. */
struct biases {
    const struct ml_tensor *from;
    float *list;
};

static marlin_status bias_list(struct ml_binder *b, const struct ml_layer *l, const char *part,
                               size_t experts, size_t rows, struct biases *out, struct marlin_error *err) {
    char inner[128], name[ML_BIND_NAME];
    const struct ml_want want = {
        .name = name, .dtype = ML_BF16, .also = ML_WANT_ANY, .rank = 2, .shape = {experts, rows}};
    marlin_status st;
    (void)snprintf(inner, sizeof inner, "mlp.experts.%s_bias", part);
    ml_layer_name(l, inner, name);
    ML_TRY(b->source->ops->tensor(b->source, &want, &out->from, err));
    out->list = ml_arena_array(&b->m->arena, experts * rows, sizeof *out->list);
    if (!out->list) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "tensor '%s': out of memory", name);
        goto out;
    }
    b->m->parameters += experts * rows;
    b->m->weight_bytes += experts * rows * sizeof *out->list;
    if (!b->m->headers_only) st = ml_tensor_to_f32(out->from, out->list, experts * rows, err);
out:
    return st;
}

static marlin_status set_bias(struct ml_binder *b, struct ml_linear *l, const float *bias,
                              const struct ml_tensor *from, struct marlin_error *err) {
    l->bias = bias;
    return ml_bind_note(b, l, from, true, err);
}

static marlin_status bind_biases(struct ml_binder *b, struct ml_layer *l, size_t experts, size_t hidden,
                                 size_t ff, struct marlin_error *err) {
    struct biases by_turns = {0}, down = {0};
    marlin_status st;
    ML_TRY(bias_list(b, l, "gate_up_proj", experts, 2 * ff, &by_turns, err));
    ML_TRY(bias_list(b, l, "down_proj", experts, hidden, &down, err));
    float *sorted = ml_arena_array(&b->m->arena, experts * 2 * ff, sizeof *sorted);
    if (!sorted) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "layer %zu: no memory for biases", l->index);
        goto out;
    }
    for (size_t e = 0; e < experts; e++) {
        struct ml_mlp *x = &l->ffn.moe.experts[e];
        float *gate = sorted + e * 2 * ff, *up = gate + ff;
        for (size_t i = 0; i < ff; i++) {
            gate[i] = by_turns.list[(e * ff + i) * 2];
            up[i] = by_turns.list[(e * ff + i) * 2 + 1];
        }
        ML_TRY(set_bias(b, &x->gate, gate, by_turns.from, err));
        ML_TRY(set_bias(b, &x->up, up, by_turns.from, err));
        ML_TRY(set_bias(b, &x->down, down.list + e * hidden, down.from, err));
    }
out:
    return st;
}

static marlin_status bind_experts(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    const size_t experts = (size_t)c->num_experts, hidden = (size_t)c->hidden_size,
                 ff = (size_t)c->intermediate_size;
    const bool fused = has_suffix(b, l, "gate_up_proj", "") || has_suffix(b, l, "gate_up_proj", "_blocks");
    marlin_status st;
    ML_TRY(ml_bind_choice(b, l, &names, true, err));
    if (fused)
        ML_TRY(bind_fused(b, l, experts, hidden, ff, err));
    else
        ML_TRY(ml_bind_experts(b, l, &names, err));
    ML_TRY(bind_biases(b, l, experts, hidden, ff, err));
    ML_TRY(ml_bind_moe_sites(b, l, err));
out:
    return st;
}

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    struct ml_attention_weights *w = &l->mixer.attention;
    const struct ml_tensor *t = NULL;
    char name[ML_BIND_NAME];
    marlin_status st;

    ML_TRY(ml_bind_prenorms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, true, true, err));
    ml_layer_name(l, "self_attn.sinks", name);
    ML_TRY(ml_bind_vector(b, name, (size_t)b->m->config->num_heads, &w->sinks, &t, err));
    ML_TRY(bind_experts(b, l, err));
out:
    return st;
}

const struct ml_arch ml_arch_gpt_oss = {.model_type = "gpt_oss", .bind = bind, .layer = ml_prenorm_layer};
