/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights to the devices that compute with them. On the host they stay where they were bound; others get a copy,
 * and the model's structs then point to it.
 */
#include "base/mem.h"
#include "models/bind.h"
#include "ops/ops.h"

struct ml_placed {
    struct ml_device *device;
    struct ml_buffer buffer;
    struct ml_placed *next;
};

/* Copies to one device are queued on a stream of their own. */
struct placing {
    struct ml_model *m;
    struct ml_stream stream;
};

void ml_model_displace(struct ml_model *m) {
    while (m->placed) {
        struct ml_placed *p = m->placed;
        m->placed = p->next;
        p->device->ops->free(p->device, &p->buffer);
        ml_free(p);
    }
}

/* *at, bytes long in host memory, becomes its copy on the device; NULL stays. */
static marlin_status place(struct placing *p, const void **at, size_t bytes, struct marlin_error *err) {
    struct ml_device *device = p->stream.device;
    if (!*at || bytes == 0) return MARLIN_OK;
    struct ml_placed *to = ml_calloc(1, sizeof *to);
    if (!to) return ml_fail(err, MARLIN_ERR_MEMORY, "weights on device %s: out of memory", device->ops->name);
    to->device = device;
    const marlin_status st = device->ops->alloc(device, bytes, &to->buffer, err);
    if (st != MARLIN_OK) {
        ml_free(to);
        return ml_fail_in(err, st, "weights on device %s", device->ops->name);
    }
    to->next = p->m->placed;
    p->m->placed = to;
    device->ops->upload(&p->stream, to->buffer.address, *at, bytes);
    *at = to->buffer.address;
    return MARLIN_OK;
}

static marlin_status place_floats(struct placing *p, const float **at, size_t n, struct marlin_error *err) {
    const void *x = *at;
    const marlin_status st = place(p, &x, n * sizeof(float), err);
    *at = x;
    return st;
}

static marlin_status place_plain(struct placing *p, struct ml_matrix *w, struct marlin_error *err) {
    const size_t elements = w->rows ? (w->rows - 1) * w->stride + w->cols : 0;
    return place(p, &w->data, elements * ml_dtype_size(w->dtype), err);
}

static size_t stored_bytes(const struct ml_quant_matrix *q) {
    return q->format == ML_QUANT_INT8 ? q->rows * q->cols : q->n * q->k / 8 * (size_t)q->bits;
}

static marlin_status place_quant(struct placing *p, struct ml_quant_matrix *q, struct marlin_error *err) {
    const void *data = q->data;
    marlin_status st;
    ML_TRY(place(p, &q->arranged, ml_quant_arranged_bytes(ml_kernels(), q), err));
    ML_TRY(place(p, &data, stored_bytes(q), err));
    q->data = data;
    ML_TRY(place_floats(p, &q->su, q->k, err));
    ML_TRY(place_floats(p, &q->sv, q->n, err));
out:
    return st;
}

static marlin_status place_linear(struct placing *p, struct ml_linear *l, struct marlin_error *err) {
    marlin_status st;
    ML_TRY(place_floats(p, &l->bias, l->out, err));
    if (l->kind == ML_LINEAR_PLAIN) ML_TRY(place_plain(p, &l->u.plain, err));
    for (size_t i = 0; l->kind == ML_LINEAR_QUANT && i < l->u.quant.n_pieces; i++)
        ML_TRY(place_quant(p, &l->u.quant.pieces[i].m, err));
out:
    return st;
}

static marlin_status place_norm(struct placing *p, struct ml_norm *norm, struct marlin_error *err) {
    const marlin_status st = place_floats(p, &norm->w, norm->n, err);
    return st != MARLIN_OK ? st : place_floats(p, &norm->bias, norm->n, err);
}

static marlin_status place_attention(struct placing *p, struct ml_attention_weights *w,
                                     struct marlin_error *err) {
    marlin_status st;
    ML_TRY(place_norm(p, &w->q_norm, err));
    ML_TRY(place_norm(p, &w->k_norm, err));
    ML_TRY(place_floats(p, &w->sinks, (size_t)p->m->config->num_heads, err));
out:
    return st;
}

static marlin_status place_mla(struct placing *p, struct ml_mla_weights *w, struct marlin_error *err) {
    marlin_status st;
    ML_TRY(place_norm(p, &w->q_norm, err));
    ML_TRY(place_norm(p, &w->kv_norm, err));
    for (size_t h = 0; h < w->heads; h++) {
        ML_TRY(place_linear(p, &w->keys[h], err));
        ML_TRY(place_linear(p, &w->values[h], err));
    }
out:
    return st;
}

static marlin_status place_layer(struct placing *p, struct ml_layer *l, struct marlin_error *err) {
    struct ml_norm *const norms[] = {&l->attn_in, &l->attn_out, &l->mlp_in, &l->mlp_out};
    marlin_status st;
    for (size_t i = 0; i < sizeof norms / sizeof norms[0]; i++)
        ML_TRY(place_norm(p, norms[i], err));
    if (l->mixer.kind == ML_MIXER_MLA)
        ML_TRY(place_mla(p, &l->mixer.mla, err));
    else
        ML_TRY(place_attention(p, &l->mixer.attention, err));
    if (l->ffn.kind == ML_FFN_MOE)
        ML_TRY(place_floats(p, &l->ffn.moe.choose.bias, l->ffn.moe.choose.experts, err));
    for (size_t i = 0; i < l->n_sites; i++)
        ML_TRY(place_linear(p, l->sites[i].linear, err));
out:
    return st;
}

/* Token ids come in on the first device, logits out on the last. */
static marlin_status place_ends(struct placing *p, size_t d, struct marlin_error *err) {
    struct ml_model *m = p->m;
    marlin_status st = MARLIN_OK;
    if (d == 0 && m->embedding_rows) {
        struct ml_quant_matrix *rows = ml_arena_alloc(&m->arena, sizeof *rows);
        if (!rows) return ml_fail(err, MARLIN_ERR_MEMORY, "embedding: out of memory");
        *rows = *m->embedding_rows;
        ML_TRY(place_quant(p, rows, err));
        m->embed.rows = rows;
    } else if (d == 0) {
        ML_TRY(place_plain(p, &m->embed.plain, err));
    }
    if (d == 0) ML_TRY(place_norm(p, &m->embed.norm, err));
    if (d + 1 < m->n_devices) goto out;
    ML_TRY(place_norm(p, &m->norm, err));
    ML_TRY(place_linear(p, &m->head, err));
out:
    return st;
}

static marlin_status place_on(struct ml_model *m, size_t d, struct marlin_error *err) {
    struct ml_device *device = m->devices[d];
    struct placing p = {.m = m};
    marlin_status st;
    ML_TRY(device->ops->stream_open(device, &p.stream, err));
    ML_TRY(place_ends(&p, d, err));
    for (size_t i = 0; i < (size_t)m->config->num_layers; i++)
        if (m->layers[i].device == d) ML_TRY(place_layer(&p, &m->layers[i], err));
    ML_TRY(device->ops->stream_sync(&p.stream, err));
out:
    if (p.stream.device) device->ops->stream_close(&p.stream);
    return st;
}

marlin_status ml_model_place(struct ml_model *m, struct marlin_error *err) {
    m->embed = (struct ml_embedding){.plain = m->embedding,
                                     .rows = m->embedding_rows,
                                     .norm = m->embedding_norm,
                                     .scale = m->arch->scale_embedding ? m->embedding_scale : 1.0f};
    for (size_t i = 0; i < (size_t)m->config->num_layers; i++)
        m->layers[i].device = ml_device_of_layer(i, (size_t)m->config->num_layers, m->n_devices);
    for (size_t d = 0; d < m->n_devices && !m->headers_only; d++) {
        if (m->devices[d]->is_host) continue;
        const marlin_status st = place_on(m, d, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}
