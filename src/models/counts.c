/* SPDX-License-Identifier: Apache-2.0
 *
 * How large a model is: bytes that a token reads, products that it takes, bits that weights are stored in.
 */
#include "models/model_int.h"

size_t ml_model_copy_bytes(const struct ml_model *m, const struct ml_quant_matrix *q) {
    if (m->mode == ML_QUANT_EXACT || q->k > ML_QUANT_MAX_COLS) return 0;
    return ml_quant_arranged_bytes(ml_kernels(), q);
}

uint64_t ml_model_held_bytes(const struct ml_model *m, const struct ml_quant_matrix *q) {
    const size_t copy = ml_model_copy_bytes(m, q);
    const uint64_t stored = (uint64_t)q->n * q->k / 8 * (uint64_t)q->bits;
    const size_t scales = q->n + (q->format == ML_QUANT_INT8 ? 0 : q->k);
    return (copy ? copy : stored) + scales * sizeof(float);
}

uint64_t ml_linear_bytes(const struct ml_model *m, const struct ml_linear *l) {
    uint64_t sum = 0;
    if (l->kind == ML_LINEAR_PLAIN) return (uint64_t)l->in * l->out * ml_dtype_size(l->u.plain.dtype);
    for (size_t i = 0; i < l->u.quant.n_pieces; i++)
        sum += ml_model_held_bytes(m, &l->u.quant.pieces[i].m);
    return sum;
}

struct count {
    const struct ml_model *m;
    uint64_t bytes, products;
};

static void add(struct count *sum, const struct ml_linear *l) {
    sum->bytes += ml_linear_bytes(sum->m, l);
    sum->products += (uint64_t)l->in * l->out;
}

static marlin_status add_linear(void *user, struct ml_linear *l, struct marlin_error *err) {
    (void)err;
    add(user, l);
    return MARLIN_OK;
}

/* Of the experts, those of one token are read: the mean expert's bytes count, as they may differ. */
static marlin_status add_layer(struct count *sum, struct ml_layer *l, struct marlin_error *err) {
    struct count all = {.m = sum->m}, experts = all;
    const marlin_status st = ml_layer_linears(l, add_linear, &all, err);
    if (st != MARLIN_OK) return st;
    for (size_t e = 0; l->moe.experts && e < l->moe.n_experts; e++) {
        add(&experts, &l->moe.experts[e].gate);
        add(&experts, &l->moe.experts[e].up);
        add(&experts, &l->moe.experts[e].down);
    }
    sum->bytes += all.bytes - experts.bytes;
    sum->products += all.products - experts.products;
    if (!l->moe.experts || l->moe.n_experts == 0) return MARLIN_OK;
    sum->bytes += experts.bytes / l->moe.n_experts * l->moe.top_k;
    sum->products += experts.products / l->moe.n_experts * l->moe.top_k;
    return MARLIN_OK;
}

marlin_status ml_model_count(struct ml_model *m, struct marlin_error *err) {
    struct count sum = {.m = m};
    marlin_status st = MARLIN_OK;
    add(&sum, &m->head);
    for (size_t i = 0; i < (size_t)m->config->num_layers; i++)
        ML_TRY(add_layer(&sum, &m->layers[i], err));
    m->bytes_per_token = sum.bytes;
    m->products_per_token = sum.products;
out:
    return st;
}

/* ---- bits ---- */

struct bits {
    double bits, weights;
    size_t quantized;
};

/* Padding is not counted: a layer of 100 channels at 3 bits is one of 3 bits. */
static void add_bits(struct bits *sum, const struct ml_linear *l) {
    const double weights = (double)l->in * (double)l->out;
    sum->weights += weights;
    if (l->kind == ML_LINEAR_PLAIN) {
        sum->bits += weights * 8.0 * (double)ml_dtype_size(l->u.plain.dtype);
        return;
    }
    sum->quantized++;
    for (size_t i = 0; i < l->u.quant.n_pieces; i++) {
        const struct ml_quant_matrix *q = &l->u.quant.pieces[i].m;
        sum->bits += (double)q->rows * (double)q->cols * q->bits;
    }
}

static void add_mlp(struct bits *sum, const struct ml_mlp *mlp) {
    add_bits(sum, &mlp->gate);
    add_bits(sum, &mlp->up);
    add_bits(sum, &mlp->down);
}

static void add_layer_bits(struct bits *sum, const struct ml_layer *l) {
    add_bits(sum, &l->attn.q);
    add_bits(sum, &l->attn.k);
    add_bits(sum, &l->attn.v);
    add_bits(sum, &l->attn.o);
    if (!l->moe.experts) add_mlp(sum, &l->mlp);
    for (size_t e = 0; l->moe.experts && e < l->moe.n_experts; e++)
        add_mlp(sum, &l->moe.experts[e]);
}

void ml_model_bits(const struct ml_model *m, struct ml_model_bits *out) {
    struct bits layers = {0}, head = {0};
    for (size_t i = 0; i < (size_t)m->config->num_layers; i++)
        add_layer_bits(&layers, &m->layers[i]);
    add_bits(&head, &m->head);
    out->layers = layers.bits / layers.weights;
    out->head = head.bits / head.weights;
    out->embedding = m->embedding_rows ? 8.0 : 8.0 * (double)ml_dtype_size(m->embedding.dtype);
    out->quantized = layers.quantized + head.quantized;
}

/* ---- what a model says of itself ---- */

marlin_status ml_model_check(const struct ml_model *m, struct marlin_error *err) {
    return m->tensors ? ml_tensors_check(m->tensors, err) : MARLIN_OK;
}

const struct ml_config *ml_model_config(const struct ml_model *m) {
    return m->config;
}

uint64_t ml_model_weight_bytes(const struct ml_model *m) {
    return m->weight_bytes;
}

uint64_t ml_model_bytes_per_token(const struct ml_model *m) {
    return m->bytes_per_token;
}

uint64_t ml_model_products_per_token(const struct ml_model *m) {
    return m->products_per_token;
}

uint64_t ml_model_parameters(const struct ml_model *m) {
    return m->parameters;
}
