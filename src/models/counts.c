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
    const size_t scales = q->n + (ml_form_of(q->format)->in_scales.suffix ? q->k : 0);
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

/* Of the experts, those of one token are read: the mean expert's bytes count, as they may differ. */
static void add_layer(struct count *sum, const struct ml_layer *l) {
    struct count experts = {.m = sum->m};
    for (size_t i = 0; i < l->n_sites; i++)
        add(l->sites[i].expert == ML_NO_EXPERT ? sum : &experts, l->sites[i].linear);
    if (l->ffn.kind != ML_FFN_MOE || l->ffn.moe.choose.experts == 0) return;
    sum->bytes += experts.bytes / l->ffn.moe.choose.experts * l->ffn.moe.choose.top_k;
    sum->products += experts.products / l->ffn.moe.choose.experts * l->ffn.moe.choose.top_k;
}

void ml_model_count(struct ml_model *m) {
    struct count sum = {.m = m};
    add(&sum, &m->head);
    for (size_t i = 0; i < (size_t)m->config->num_layers; i++)
        add_layer(&sum, &m->layers[i]);
    m->bytes_per_token = sum.bytes;
    m->products_per_token = sum.products;
}

/* ---- bits ---- */

struct bits {
    double bits, weights;
    size_t quantized;
};

/* Of numbers that take less room in the file than in memory, those of the file. */
static double plain_bits(const struct ml_tensor *from, const struct ml_matrix *w) {
    return from && from->stored ? 8.0 * (double)from->stored_bytes / (double)from->count
                                : 8.0 * (double)ml_dtype_size(w->dtype);
}

/* The tensor of a layer's weights; of a tied head the embedding's. */
static const struct ml_tensor *weights_from(const struct ml_model *m, const struct ml_linear *l) {
    for (const struct ml_origin *o = l->origin; o; o = o->next)
        if (!o->bias) return o->tensor;
    return m->embedding_from;
}

/* Padding is not counted: a layer of 100 channels at 3 bits is one of 3 bits. */
static void add_bits(struct bits *sum, const struct ml_model *m, const struct ml_linear *l) {
    const double weights = (double)l->in * (double)l->out;
    sum->weights += weights;
    if (l->kind == ML_LINEAR_PLAIN) {
        sum->bits += weights * plain_bits(weights_from(m, l), &l->u.plain);
        return;
    }
    sum->quantized++;
    for (size_t i = 0; i < l->u.quant.n_pieces; i++) {
        const struct ml_quant_matrix *q = &l->u.quant.pieces[i].m;
        sum->bits += (double)q->rows * (double)q->cols * q->bits;
    }
}

static void add_layer_bits(struct bits *sum, const struct ml_model *m, const struct ml_layer *l) {
    for (size_t i = 0; i < l->n_sites; i++)
        if (l->sites[i].role != ML_ROLE_ROUTER) add_bits(sum, m, l->sites[i].linear);
}

void ml_model_bits(const struct ml_model *m, struct ml_model_bits *out) {
    struct bits layers = {0}, head = {0};
    for (size_t i = 0; i < (size_t)m->config->num_layers; i++)
        add_layer_bits(&layers, m, &m->layers[i]);
    add_bits(&head, m, &m->head);
    out->layers = layers.bits / layers.weights;
    out->head = head.bits / head.weights;
    out->embedding = m->embedding_rows ? 8.0 : plain_bits(m->embedding_from, &m->embedding);
    out->quantized = layers.quantized + head.quantized;
}

/* ---- what a model says of itself ---- */

marlin_status ml_model_check(const struct ml_model *m, struct marlin_error *err) {
    return m->tensors ? ml_tensors_check(m->tensors, err) : MARLIN_OK;
}

const struct ml_config *ml_model_config(const struct ml_model *m) {
    return m->config;
}

enum ml_dtype ml_model_kv_dtype(const struct ml_model *m) {
    return m->kv_dtype;
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
