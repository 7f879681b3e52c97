/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes a Hugging Face checkpoint of a real model's shape with random weights, to measure what a large model
 * costs without having one.
 *
 *     random_checkpoint SHAPE OUT [LAYERS]
 *
 * SHAPE: tiny, qwen3-0.6b, qwen3-1.7b or qwen3-4b; LAYERS: fewer (or more) of them than the shape has. OUT is
 * made: config.json, shards of bfloat16, an index. Matrices are N(0, 1 / inputs), norms 1. One tensor is in
 * memory at a time. The same bytes every time.
 */
#include "base/buf.h"
#include "base/fp.h"
#include "base/mem.h"
#include "base/rng.h"
#include "converters/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SHARD_LAYERS = 8, LAYER_TENSORS = 11, NAME = 128, PATH = 4096 };

static const struct shape {
    const char *name;
    unsigned hidden, intermediate, layers, heads, kv_heads, head_dim, vocab;
} shapes[] = {
    {"tiny", 256, 768, 4, 4, 2, 64, 4096},
    {"qwen3-0.6b", 1024, 3072, 28, 16, 8, 128, 151936},
    {"qwen3-1.7b", 2048, 6144, 28, 16, 8, 128, 151936},
    {"qwen3-4b", 2560, 9728, 36, 32, 8, 128, 151936},
};

/* Names and sizes of one shard; rows 0: a norm of `cols` weights. */
struct tensor {
    char name[NAME];
    unsigned rows, cols;
};

struct shard {
    struct tensor tensor[SHARD_LAYERS * LAYER_TENSORS];
    size_t n;
};

struct checkpoint {
    const struct shape *shape;
    const char *out;
    unsigned layers, shards;
    struct ml_rng rng;
    struct ml_buf index;
    uint64_t bytes;
};

static void add(struct shard *s, const char *name, unsigned rows, unsigned cols) {
    struct tensor *t = &s->tensor[s->n++];
    *t = (struct tensor){.rows = rows, .cols = cols};
    (void)snprintf(t->name, NAME, "model.%s.weight", name);
}

static void add_layer(struct shard *s, const struct shape *p, unsigned layer) {
    const unsigned q = p->heads * p->head_dim, kv = p->kv_heads * p->head_dim, h = p->hidden;
    const struct {
        const char *name;
        unsigned rows, cols;
    } parts[LAYER_TENSORS] = {
        {"input_layernorm", 0, h},
        {"self_attn.q_proj", q, h},
        {"self_attn.k_proj", kv, h},
        {"self_attn.v_proj", kv, h},
        {"self_attn.o_proj", h, q},
        {"self_attn.q_norm", 0, p->head_dim},
        {"self_attn.k_norm", 0, p->head_dim},
        {"post_attention_layernorm", 0, h},
        {"mlp.gate_proj", p->intermediate, h},
        {"mlp.up_proj", p->intermediate, h},
        {"mlp.down_proj", h, p->intermediate},
    };
    for (size_t i = 0; i < LAYER_TENSORS; i++) {
        char name[NAME];
        (void)snprintf(name, sizeof name, "layers.%u.%s", layer, parts[i].name);
        add(s, name, parts[i].rows, parts[i].cols);
    }
}

/* Shard 0 holds what belongs to no layer. */
static void fill_shard(struct shard *s, const struct checkpoint *c, unsigned number) {
    s->n = 0;
    if (number == 0) {
        add(s, "embed_tokens", c->shape->vocab, c->shape->hidden);
        add(s, "norm", 0, c->shape->hidden);
        return;
    }
    const unsigned first = (number - 1) * SHARD_LAYERS;
    for (unsigned l = first; l < first + SHARD_LAYERS && l < c->layers; l++)
        add_layer(s, c->shape, l);
}

static marlin_status put(struct checkpoint *c, struct ml_tensors_writer *w, const struct tensor *t,
                         struct marlin_error *err) {
    const size_t count = (size_t)(t->rows ? t->rows : 1) * t->cols;
    const float scale = 1.0f / sqrtf((float)t->cols);
    uint16_t *v = ml_alloc(count * sizeof *v);
    if (!v) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", t->name);
    for (size_t i = 0; i < count; i++)
        v[i] = ml_f32_to_bf16(t->rows ? scale * ml_rng_normal(&c->rng) : 1.0f);
    const marlin_status st = ml_tensors_writer_put(w, t->name, v, count * sizeof *v, err);
    ml_free(v);
    return st;
}

static marlin_status write_shard(struct checkpoint *c, unsigned number, struct marlin_error *err) {
    static struct shard s;
    struct ml_tensor_decl decl[SHARD_LAYERS * LAYER_TENSORS];
    struct ml_tensors_writer *w = NULL;
    char file[64], path[PATH];
    marlin_status st;
    fill_shard(&s, c, number);
    (void)snprintf(file, sizeof file, "model-%05u-of-%05u.safetensors", number + 1, c->shards);
    (void)snprintf(path, sizeof path, "%s/%s", c->out, file);
    for (size_t i = 0; i < s.n; i++) {
        const struct tensor *t = &s.tensor[i];
        decl[i] = (struct ml_tensor_decl){.name = t->name, .dtype = ML_BF16, .rank = t->rows ? 2 : 1};
        decl[i].shape[0] = t->rows ? t->rows : t->cols;
        decl[i].shape[1] = t->cols;
        c->bytes += (uint64_t)(t->rows ? t->rows : 1) * t->cols * sizeof(uint16_t);
        ML_TRY(ml_buf_addf(&c->index, "%s\"%s\":\"%s\"", number + i ? "," : "", t->name, file));
    }
    ML_TRY(ml_tensors_writer_open(path, decl, s.n, NULL, 0, &w, err));
    for (size_t i = 0; i < s.n && st == MARLIN_OK; i++)
        st = put(c, w, &s.tensor[i], err);
    if (st == MARLIN_OK)
        st = ml_tensors_writer_commit(w, err);
    else
        ml_tensors_writer_abort(w);
out:
    return st;
}

static marlin_status write_text(const char *dir, const char *name, const struct ml_buf *b,
                                struct marlin_error *err) {
    char path[PATH];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    return ml_file_write_atomic(path, b->data, b->len, err);
}

static marlin_status write_config(const struct checkpoint *c, struct marlin_error *err) {
    const struct shape *p = c->shape;
    struct ml_buf b;
    marlin_status st;
    ml_buf_init(&b, 1 << 16);
    ML_TRY(ml_buf_addf(
        &b,
        "{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\",\"attention_bias\":false,"
        "\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-6,\"rope_theta\":1000000,\"dtype\":\"bfloat16\","
        "\"max_position_embeddings\":40960,\"tie_word_embeddings\":true,\"bos_token_id\":0,\"eos_token_id\":"
        "0,"
        "\"hidden_size\":%u,\"intermediate_size\":%u,\"num_hidden_layers\":%u,\"num_attention_heads\":%u,"
        "\"num_key_value_heads\":%u,\"head_dim\":%u,\"vocab_size\":%u}\n",
        p->hidden, p->intermediate, c->layers, p->heads, p->kv_heads, p->head_dim, p->vocab));
    ML_TRY(write_text(c->out, "config.json", &b, err));
out:
    ml_buf_free(&b);
    return st;
}

static marlin_status write_all(struct checkpoint *c, struct marlin_error *err) {
    marlin_status st;
    ml_buf_init(&c->index, 1 << 24);
    ml_rng_seed(&c->rng, 1);
    if (mkdir(c->out, 0777) != 0) {
        st = ml_fail(err, MARLIN_ERR_IO, "%s: cannot be made, or is there already", c->out);
        goto out;
    }
    ML_TRY(ml_buf_adds(&c->index, "{\"metadata\":{},\"weight_map\":{"));
    for (unsigned i = 0; i < c->shards; i++)
        ML_TRY(write_shard(c, i, err));
    ML_TRY(ml_buf_adds(&c->index, "}}\n"));
    ML_TRY(write_text(c->out, "model.safetensors.index.json", &c->index, err));
    ML_TRY(write_config(c, err));
out:
    ml_buf_free(&c->index);
    return st;
}

int main(int argc, char **argv) {
    struct checkpoint c = {0};
    struct marlin_error err = {0};
    for (size_t i = 0; argc > 2 && i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].name, argv[1]) == 0) c.shape = &shapes[i];
    const long layers = argc > 3 ? strtol(argv[3], NULL, 10) : 0;
    if (!c.shape || argc > 4 || layers < 0 || layers > 1000) {
        (void)fprintf(stderr, "usage: random_checkpoint tiny|qwen3-0.6b|qwen3-1.7b|qwen3-4b OUT [LAYERS]\n");
        return 2;
    }
    c.out = argv[2];
    c.layers = layers ? (unsigned)layers : c.shape->layers;
    c.shards = 1 + (c.layers + SHARD_LAYERS - 1) / SHARD_LAYERS;
    if (write_all(&c, &err) != MARLIN_OK) {
        (void)fprintf(stderr, "random_checkpoint: %s\n", err.text);
        return 1;
    }
    (void)printf("%s: %u layers, %.2f GB\n", c.out, c.layers, (double)c.bytes / 1e9);
    return 0;
}
