/* SPDX-License-Identifier: Apache-2.0
 *
 * `marlin inspect`: what a model is and what it needs, from its config and file headers alone.
 */
#include "base/log.h"
#include "cli/cli.h"
#include "converters/hf_config.h"
#include "converters/safetensors.h"
#include "models/model.h"
#include "packing/forms.h"

#include <inttypes.h>
#include <string.h>

enum { DEFAULT_CONTEXT = 4096, DEFAULT_BATCH = 512 };
static const size_t out_limit = (size_t)1 << 30;

static const struct ml_option options[] = {
    {"ctx", 0, ML_OPT_INT, "N", "context of the memory estimate (the model's own, at most 4096)", NULL, 1,
     1 << 30},
    {"batch", 0, ML_OPT_INT, "N", "tokens fed at once in the memory estimate", "512", 1, 1 << 20},
    {"cache-type", 0, ML_OPT_CHOICE, ML_KV_TYPES, "type of cached keys and values in the memory estimate",
     ML_KV_DEFAULT_NAME, 0, 0},
    {"tensors", 'v', ML_OPT_FLAG, NULL, "list every tensor", NULL, 0, 0},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

const struct ml_verb ml_verb_inspect = {
    .name = "inspect",
    .args = "[MODEL]",
    .help = "show architecture, tensors, bits a weight and memory, without reading weights",
    .options = options,
    .max_args = 1,
};

struct inspection {
    const char *dir;
    struct ml_config *config;
    struct ml_tensors *tensors;
    struct ml_memory_estimate memory;
    struct ml_model_bits bits;
    uint64_t parameters, bytes;
    size_t ctx;
    enum ml_dtype cache_type;
    bool list;
};

static const char *architecture(const struct ml_config *c) {
    return c->architecture[0] ? c->architecture : c->model_type;
}

/* Of a model that cannot be bound to layers, elements are counted as they are stored. */
static marlin_status count_stored(struct inspection *x, size_t batch, struct marlin_error *err) {
    for (size_t i = 0; i < ml_tensors_count(x->tensors); i++)
        x->parameters += ml_tensors_at(x->tensors, i)->count;
    x->bits.layers = x->parameters ? 8.0 * (double)x->bytes / (double)x->parameters : 0;
    return ml_model_estimate(x->config, x->bytes, x->ctx, batch, x->cache_type, &x->memory, err);
}

/* What tensors mean is known once they are bound to layers. */
static marlin_status count(struct inspection *x, size_t batch, struct marlin_error *err) {
    const struct ml_model_options dry = {.kv_dtype = x->cache_type, .headers_only = true};
    struct marlin_error why = {0};
    struct ml_model *m = NULL;
    if (ml_model_load(x->dir, &dry, &m, &why) != MARLIN_OK) {
        ml_log(ML_LOG_WARN, "this model cannot run, and its parameters are counted as stored: %s", why.text);
        return count_stored(x, batch, err);
    }
    x->parameters = ml_model_parameters(m);
    ml_model_bits(m, &x->bits);
    const marlin_status st = ml_model_estimate_of(m, x->ctx, batch, &x->memory, err);
    ml_model_free(m);
    return st;
}

static marlin_status inspect(const struct ml_args *args, struct inspection *x, struct marlin_error *err) {
    marlin_status st = MARLIN_OK;
    ML_TRY(ml_config_load(x->dir, &x->config, err));
    ML_TRY(ml_tensors_open_dir(x->dir, &x->tensors, err));
    x->bytes = ml_tensors_bytes(x->tensors);
    const int64_t own = x->config->max_positions;
    x->ctx = own > 0 && own < DEFAULT_CONTEXT ? (size_t)own : DEFAULT_CONTEXT;
    if (ml_args_given(args, "ctx")) x->ctx = (size_t)ml_args_int(args, "ctx");
    x->list = ml_args_flag(args, "tensors");
    if (!ml_kv_type_parse(ml_args_string(args, "cache-type"), &x->cache_type)) {
        st = ml_fail(err, MARLIN_ERR_INTERNAL, "inspect: an unknown type of cache");
        goto out;
    }
    ML_TRY(count(x, (size_t)ml_args_int(args, "batch"), err));
out:
    return st;
}

static const char *type_name(const struct ml_tensor *t) {
    return t->stored ? t->stored : ml_tensor_type_name(t);
}

/* Bits of a weight in a tensor of weights; 0 for scales, signs and other vectors. */
static double weight_bits(const struct ml_tensor *t) {
    const struct ml_form *f = ml_form_of_tensor(t->name);
    const int bits = f && f->tiled ? ml_form_bits(f, t->dtype, t->rank, t->shape) : 0;
    if (bits) return bits;
    if (t->rank < 2) return 0;
    if (t->stored) return 8.0 * (double)t->stored_bytes / (double)t->count;
    return 8.0 * (double)ml_dtype_size(t->dtype);
}

static marlin_status tensor_json(const struct ml_tensor *t, struct ml_buf *b) {
    marlin_status st = MARLIN_OK;
    ML_TRY(ml_buf_adds(b, "{\"name\":"));
    ML_TRY(ml_buf_add_json(b, t->name, strlen(t->name)));
    ML_TRY(ml_buf_addf(b, ",\"dtype\":\"%s\",\"shape\":[", type_name(t)));
    for (int i = 0; i < t->rank; i++) {
        ML_TRY(ml_buf_addf(b, "%s%" PRIu64, i ? "," : "", t->shape[i]));
    }
    ML_TRY(ml_buf_addf(b, "],\"bytes\":%" PRIu64, t->stored ? t->stored_bytes : t->bytes));
    if (weight_bits(t) > 0) ML_TRY(ml_buf_addf(b, ",\"bits\":%.6g", weight_bits(t)));
    ML_TRY(ml_buf_adds(b, "}"));
out:
    return st;
}

static marlin_status quantization_json(const struct inspection *x, struct ml_buf *b) {
    marlin_status st = MARLIN_OK;
    if (!x->bits.quantized) return st;
    ML_TRY(ml_buf_adds(b, ",\"head_bits\":"));
    ML_TRY(ml_cli_json_number(b, x->bits.head));
    ML_TRY(ml_buf_adds(b, ",\"embedding_bits\":"));
    ML_TRY(ml_cli_json_number(b, x->bits.embedding));
    ML_TRY(ml_buf_adds(b, ",\"quant_method\":"));
    ML_TRY(ml_buf_add_json(b, x->config->quant_method, strlen(x->config->quant_method)));
    ML_TRY(ml_buf_addf(b, ",\"quantized_layers\":%zu", x->bits.quantized));
out:
    return st;
}

static marlin_status print_json(const struct inspection *x, struct ml_buf *b) {
    const struct ml_config *c = x->config;
    const struct ml_memory_estimate *m = &x->memory;
    marlin_status st = MARLIN_OK;
    ML_TRY(ml_buf_adds(b, "{\"architecture\":"));
    ML_TRY(ml_buf_add_json(b, architecture(c), strlen(architecture(c))));
    ML_TRY(ml_buf_adds(b, ",\"model_type\":"));
    ML_TRY(ml_buf_add_json(b, c->model_type, strlen(c->model_type)));
    ML_TRY(ml_buf_addf(b, ",\"parameters\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"bits_per_weight\":",
                       x->parameters, x->bytes));
    ML_TRY(ml_cli_json_number(b, x->bits.layers));
    ML_TRY(quantization_json(x, b));
    ML_TRY(ml_buf_addf(b,
                       ",\"layers\":%" PRId64 ",\"hidden_size\":%" PRId64 ",\"vocab_size\":%" PRId64
                       ",\"max_positions\":%" PRId64 ",\"experts\":%" PRId64 ",\"ctx\":%zu",
                       c->num_layers, c->hidden_size, c->vocab_size, c->max_positions, c->num_experts,
                       x->ctx));
    ML_TRY(ml_buf_addf(b,
                       ",\"memory\":{\"weights\":%" PRIu64 ",\"kv\":%" PRIu64 ",\"state\":%" PRIu64
                       ",\"scratch\":%" PRIu64 ",\"total\":%" PRIu64 "}",
                       m->weights, m->kv, m->state, m->scratch, m->total));
    if (x->list) {
        ML_TRY(ml_buf_adds(b, ",\"tensors\":["));
        for (size_t i = 0; i < ml_tensors_count(x->tensors); i++) {
            if (i) ML_TRY(ml_buf_adds(b, ","));
            ML_TRY(tensor_json(ml_tensors_at(x->tensors, i), b));
        }
        ML_TRY(ml_buf_adds(b, "]"));
    }
    ML_TRY(ml_buf_adds(b, "}\n"));
out:
    return st;
}

/* "12.6 MiB" in a field of its own. */
static marlin_status print_size(struct ml_buf *b, const char *label, uint64_t bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    int unit = 0;
    while (v >= 1024 && unit < 6) {
        v /= 1024;
        unit++;
    }
    return ml_buf_addf(b, "%-16s %.*f %s\n", label, unit ? 1 : 0, v, units[unit]);
}

/* "193 Q4_K, 61 F32": what a file of block types consists of. */
static marlin_status print_types(const struct inspection *x, struct ml_buf *b) {
    enum { MOST = 32 };
    const char *name[MOST];
    size_t count[MOST], kinds = 0;
    for (size_t i = 0; i < ml_tensors_count(x->tensors); i++) {
        const struct ml_tensor *t = ml_tensors_at(x->tensors, i);
        if (!t->stored) return MARLIN_OK;
        size_t k = 0;
        while (k < kinds && strcmp(name[k], t->stored) != 0)
            k++;
        if (k == MOST) continue;
        if (k == kinds) count[kinds++] = 0;
        name[k] = t->stored;
        count[k]++;
    }
    marlin_status st = MARLIN_OK;
    for (size_t k = 0; k < kinds; k++)
        ML_TRY(ml_buf_addf(b, k ? ", %zu %s" : "types            %zu %s", count[k], name[k]));
    if (kinds) ML_TRY(ml_buf_adds(b, "\n"));
out:
    return st;
}

static marlin_status print_tensors(const struct inspection *x, struct ml_buf *b) {
    marlin_status st = MARLIN_OK;
    char shape[128];
    ML_TRY(ml_buf_adds(b, "\n"));
    for (size_t i = 0; i < ml_tensors_count(x->tensors); i++) {
        const struct ml_tensor *t = ml_tensors_at(x->tensors, i);
        ML_TRY(ml_buf_addf(b, "%-60s %-8s %s", t->name, type_name(t), ml_tensor_shape_text(t, shape)));
        if (weight_bits(t) > 0)
            ML_TRY(ml_buf_addf(b, "  %.6g bits\n", weight_bits(t)));
        else
            ML_TRY(ml_buf_adds(b, "\n"));
    }
out:
    return st;
}

static marlin_status print_text(const struct inspection *x, struct ml_buf *b) {
    const struct ml_config *c = x->config;
    const struct ml_memory_estimate *m = &x->memory;
    marlin_status st = MARLIN_OK;
    ML_TRY(ml_buf_addf(b, "%-16s %s (%s)\n", "architecture", architecture(c), c->model_type));
    ML_TRY(ml_buf_addf(b, "%-16s %" PRId64 " layers of width %" PRId64 ", %" PRId64 " heads ", "shape",
                       c->num_layers, c->hidden_size, c->num_heads));
    if (c->kv_lora_rank > 0)
        ML_TRY(
            ml_buf_addf(b, "over latent rows of %" PRId64 " + %" PRId64 "\n", c->kv_lora_rank, c->head_dim));
    else
        ML_TRY(ml_buf_addf(b, "(%" PRId64 " for keys) of %" PRId64 "\n", c->num_kv_heads, c->head_dim));
    if (c->num_experts > 0)
        ML_TRY(ml_buf_addf(b, "%-16s %" PRId64 ", %" PRId64 " for each token\n", "experts", c->num_experts,
                           c->experts_per_token));
    ML_TRY(ml_buf_addf(b, "%-16s %" PRId64 " pieces\n", "vocabulary", c->vocab_size));
    ML_TRY(ml_buf_addf(b, "%-16s %" PRIu64 " in %zu tensors\n", "parameters", x->parameters,
                       ml_tensors_count(x->tensors)));
    ML_TRY(ml_buf_addf(b, "%-16s %.2f\n", "bits a weight", x->bits.layers));
    if (x->bits.quantized)
        ML_TRY(ml_buf_addf(b, "%-16s %zu layers as %s, head of %.4g bits, embedding of %.4g\n", "quantized",
                           x->bits.quantized,
                           x->config->quant_method[0] ? x->config->quant_method : "their tensors say",
                           x->bits.head, x->bits.embedding));
    ML_TRY(print_types(x, b));
    ML_TRY(print_size(b, "stored", x->bytes));
    ML_TRY(ml_buf_addf(b, "\nmemory for a context of %zu tokens\n", x->ctx));
    ML_TRY(print_size(b, "  weights", m->weights));
    ML_TRY(print_size(b, "  kv", m->kv));
    ML_TRY(print_size(b, "  state", m->state));
    ML_TRY(print_size(b, "  scratch", m->scratch));
    ML_TRY(print_size(b, "  total", m->total));
    if (x->list) ML_TRY(print_tensors(x, b));
out:
    return st;
}

int ml_cmd_inspect(struct ml_cli *cli, const struct ml_args *args) {
    struct inspection x = {.dir = ml_cli_model_dir(cli, args)};
    struct marlin_error err = {0};
    struct ml_buf b;
    int rc = ML_EXIT_FAILED;
    if (!x.dir) return rc;
    ml_buf_init(&b, out_limit);
    marlin_status st = inspect(args, &x, &err);
    if (st == MARLIN_OK) st = cli->json ? print_json(&x, &b) : print_text(&x, &b);
    rc = st == MARLIN_OK ? ml_cli_write(cli, &b) : ml_cli_fail(cli, st, &err);
    ml_buf_free(&b);
    ml_tensors_close(x.tensors);
    ml_config_free(x.config);
    return rc;
}
