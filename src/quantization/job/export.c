/* SPDX-License-Identifier: Apache-2.0
 *
 * The finished directory: finished layers and untouched tensors, layer by layer, in shards; a layer is never
 * split over two shards. checksums.json comes last.
 */
#include "quantization/job/job.h"

#include "base/file.h"
#include "base/fp.h"
#include "base/log.h"
#include "base/mem.h"
#include "converters/checksums.h"
#include "converters/exl3_export.h"
#include "converters/hf_export.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t usual_shard = (uint64_t)8 << 30;
static const size_t text_limit = (size_t)256 << 20;

/* One tensor of the output. */
struct item {
    const struct ml_tensor *from;
    struct ml_tensor_decl decl;
    uint64_t bytes;
    size_t group;                     /* 0: before the layers; 1 + l: layer l; layers + 1: head */
    const struct ml_plan_tensor *own; /* the linear layer it belongs to, or NULL */
    size_t shard;
};

struct export {
    const struct ml_job *job;
    struct ml_tensors **parts; /* layers, head, embedding if it is quantized */
    struct item *items;
    size_t n_parts, count, cap, shards;
    char head[ML_BIND_NAME]; /* name of a head that was tied */
    char embedding[ML_BIND_NAME];
};

/* ---- what goes out ---- */

static marlin_status open_parts(struct export *x, struct marlin_error *err) {
    char path[PATH_MAX];
    x->n_parts = x->job->plan.layers + 1 + (x->job->plan.embedding_bits != ML_BITS_PLAIN);
    x->parts = ml_calloc(x->n_parts, sizeof(struct ml_tensors *));
    if (!x->parts) return ml_fail(err, MARLIN_ERR_MEMORY, "export: out of memory");
    for (size_t l = 0; l < x->n_parts; l++) {
        marlin_status st = ml_checkpoint_part(x->job, l, path, err);
        if (st == MARLIN_OK) st = ml_tensors_open_file(path, &x->parts[l], err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

/* The linear layer of a part that "<stored>.suffix" was made for, or NULL. */
static const struct ml_plan_tensor *made_for(const struct ml_plan *p, size_t part, const char *name) {
    const char *dot = strrchr(name, '.');
    const size_t n = dot ? (size_t)(dot - name) : 0;
    for (size_t i = part <= p->layers ? p->first[part] : p->count;
         i < p->count && p->tensors[i].layer == part; i++) {
        const char *stored = p->tensors[i].stored;
        if (strlen(stored) == n && memcmp(stored, name, n) == 0) return &p->tensors[i];
    }
    return NULL;
}

static bool is_router(const struct ml_model *m, size_t layer, const struct ml_tensor *t) {
    const struct ml_site *site =
        layer < (size_t)m->config->num_layers ? ml_layer_site(&m->layers[layer], ML_ROLE_ROUTER) : NULL;
    return site && site->linear->origin->tensor == t;
}

static marlin_status reserve(struct export *x, struct marlin_error *err) {
    if (x->count < x->cap) return MARLIN_OK;
    const size_t cap = x->cap ? 2 * x->cap : 256;
    struct item *grown = ml_realloc(x->items, cap * sizeof *grown);
    if (!grown) return ml_fail(err, MARLIN_ERR_MEMORY, "export: out of memory");
    x->items = grown;
    x->cap = cap;
    return MARLIN_OK;
}

static marlin_status add(struct export *x, const struct ml_tensor *t, const char *name,
                         const struct ml_plan_tensor *own, struct marlin_error *err) {
    const struct ml_plan *p = &x->job->plan;
    const size_t layer = ml_plan_layer_of(p, name);
    const marlin_status st = reserve(x, err);
    if (st != MARLIN_OK) return st;
    struct item *it = &x->items[x->count++];
    *it = (struct item){.from = t, .decl = {.name = name, .dtype = t->dtype, .rank = t->rank}, .own = own};
    memcpy(it->decl.shape, t->shape, sizeof t->shape);
    it->group = layer < p->layers ? layer + 1 : own ? p->layers + 1 : 0;
    return MARLIN_OK;
}

/* A tensor of the source, under a name that may be another. */
static marlin_status add_untouched(struct export *x, const struct ml_tensor *t, const char *name,
                                   const struct ml_plan_tensor *own, struct marlin_error *err) {
    const struct ml_plan_use *use = ml_plan_use_of(&x->job->plan, t);
    const marlin_status st = add(x, t, name, own ? own : use ? use->by : NULL, err);
    if (st == MARLIN_OK && x->job->settings->format == ML_QUANTIZE_EXL3)
        ml_exl3_adapt(&x->items[x->count - 1].decl, use && use->bias,
                      is_router(x->job->model, ml_plan_layer_of(&x->job->plan, name), t));
    return st;
}

static void count_bytes(struct item *it) {
    it->bytes = ml_dtype_size(it->decl.dtype);
    for (int i = 0; i < it->decl.rank; i++)
        it->bytes *= it->decl.shape[i];
}

static int by_group_and_name(const void *a, const void *b) {
    const struct item *x = a, *y = b;
    if (x->group != y->group) return x->group < y->group ? -1 : 1;
    return strcmp(x->decl.name, y->decl.name);
}

/* The embedding's matrix under the head's name. */
static marlin_status add_tied_head(struct export *x, struct marlin_error *err) {
    const struct ml_plan *p = &x->job->plan;
    const struct ml_plan_tensor *head = &p->tensors[p->first[p->layers]];
    if (!ml_plan_parts_tied(p)) return MARLIN_OK;
    ml_names_join(head->stored, ml_form_plain()->weights.suffix, x->head);
    return add_untouched(x, x->job->model->embedding_from, x->head, head, err);
}

/* A tied embedding goes on under its own name, whichever of the two the source has kept. */
static const char *kept_name(struct export *x, const struct ml_tensor *t) {
    const struct ml_model *m = x->job->model;
    if (t != m->embedding_from || ml_form_of_tensor(t->name) != ml_form_plain()) return t->name;
    ml_names_stored(&m->names, "model.embed_tokens.weight", x->embedding);
    return x->embedding;
}

static marlin_status collect(struct export *x, struct marlin_error *err) {
    const struct ml_tensors *source = x->job->model->tensors;
    for (size_t i = 0; i < ml_tensors_count(source); i++) {
        const struct ml_tensor *t = ml_tensors_at(source, i);
        if (ml_plan_replaces(&x->job->plan, t)) continue;
        if (t->foreign) { /* nobody needed it, else the model would not have loaded */
            ml_log(ML_LOG_WARN, "tensor '%s' is left out: its type %s is not known", t->name, t->foreign);
            continue;
        }
        const marlin_status st = add_untouched(x, t, kept_name(x, t), NULL, err);
        if (st != MARLIN_OK) return st;
    }
    for (size_t l = 0; l < x->n_parts; l++) {
        for (size_t i = 0; i < ml_tensors_count(x->parts[l]); i++) {
            const struct ml_tensor *t = ml_tensors_at(x->parts[l], i);
            const marlin_status st = add(x, t, t->name, made_for(&x->job->plan, l, t->name), err);
            if (st != MARLIN_OK) return st;
        }
    }
    const marlin_status st = add_tied_head(x, err);
    if (st != MARLIN_OK) return st;
    for (size_t i = 0; i < x->count; i++)
        count_bytes(&x->items[i]);
    if (x->count) qsort(x->items, x->count, sizeof *x->items, by_group_and_name);
    return MARLIN_OK;
}

static void cut_shards(struct export *x) {
    const uint64_t limit = x->job->settings->shard_bytes ? x->job->settings->shard_bytes : usual_shard;
    uint64_t size = 0;
    for (size_t i = 0; i < x->count;) {
        size_t end = i;
        uint64_t group = 0;
        for (; end < x->count && x->items[end].group == x->items[i].group; end++) {
            group += x->items[end].bytes;
        }
        if (size && group > limit - (size < limit ? size : limit)) {
            x->shards++;
            size = 0;
        }
        for (size += group; i < end; i++) {
            x->items[i].shard = x->shards;
        }
    }
    x->shards++;
}

/* ---- weights ---- */

static void shard_name(const struct export *x, size_t shard, char name[64]) {
    if (x->shards == 1)
        (void)snprintf(name, 64, "model.safetensors");
    else
        (void)snprintf(name, 64, "model-%05zu-of-%05zu.safetensors", shard + 1, x->shards);
}

/* Float32 and bfloat16 as float16, zeros behind the end. */
static marlin_status put_converted(struct ml_tensors_writer *w, const struct item *it,
                                   struct marlin_error *err) {
    enum { PIECE = 1024 };
    float piece[PIECE];
    uint16_t *to = ml_calloc((size_t)it->bytes, 1);
    if (!to) return ml_fail(err, MARLIN_ERR_MEMORY, "tensor '%s': out of memory", it->decl.name);
    const size_t size = ml_dtype_size(it->from->dtype);
    for (uint64_t i = 0; i < it->from->count; i += PIECE) {
        const size_t n = it->from->count - i < PIECE ? (size_t)(it->from->count - i) : PIECE;
        ml_dtype_to_f32(it->from->dtype, it->from->data + i * size, piece, n);
        for (size_t j = 0; j < n; j++) {
            to[i + j] = ml_f32_to_f16(piece[j]);
        }
    }
    const marlin_status st = ml_tensors_writer_put(w, it->decl.name, to, it->bytes, err);
    ml_free(to);
    return st;
}

static marlin_status put_items(const struct export *x, size_t begin, size_t end, struct ml_tensors_writer *w,
                               struct marlin_error *err) {
    const volatile sig_atomic_t *cancel = x->job->settings->cancel;
    for (size_t i = begin; i < end; i++) {
        const struct item *it = &x->items[i];
        const struct ml_tensor *t = it->from;
        const marlin_status st = t->dtype != it->decl.dtype || t->bytes != it->bytes
                                     ? put_converted(w, it, err)
                                     : ml_tensors_writer_put(w, it->decl.name, t->data, t->bytes, err);
        if (st != MARLIN_OK) return st;
        ml_file_drop(t->file, t->offset, t->bytes);
        if (cancel && *cancel)
            return ml_fail(err, MARLIN_ERR_CANCELLED, "interrupted while writing the weights");
    }
    return MARLIN_OK;
}

static marlin_status write_shard(const struct export *x, size_t begin, size_t end, struct marlin_error *err) {
    static const char *const metadata[] = {"format", "pt"};
    char name[64], path[PATH_MAX];
    struct ml_tensors_writer *w = NULL;
    struct ml_tensor_decl *decls = ml_calloc(end - begin + 1, sizeof *decls);
    marlin_status st = MARLIN_OK;
    if (!decls) return ml_fail(err, MARLIN_ERR_MEMORY, "export: out of memory");
    for (size_t i = begin; i < end; i++) {
        decls[i - begin] = x->items[i].decl;
    }
    shard_name(x, x->items[begin].shard, name);
    ML_TRY(ml_path_join(path, sizeof path, x->job->settings->out, name, err));
    ML_TRY(ml_tensors_writer_open(path, decls, end - begin, metadata, 1, &w, err));
    st = put_items(x, begin, end, w, err);
    if (st == MARLIN_OK)
        st = ml_tensors_writer_commit(w, err);
    else
        ml_tensors_writer_abort(w);
out:
    ml_free(decls);
    return st;
}

static marlin_status write_index(const struct export *x, struct marlin_error *err) {
    char path[PATH_MAX], name[64];
    struct ml_buf b;
    uint64_t total = 0;
    marlin_status st;
    ml_buf_init(&b, text_limit);
    for (size_t i = 0; i < x->count; i++) {
        total += x->items[i].bytes;
    }
    ML_TRY(ml_buf_addf(&b, "{\n  \"metadata\": {\"total_size\": %llu},\n  \"weight_map\": {",
                       (unsigned long long)total));
    for (size_t i = 0; i < x->count; i++) {
        shard_name(x, x->items[i].shard, name);
        ML_TRY(ml_buf_adds(&b, i ? ",\n    " : "\n    "));
        ML_TRY(ml_buf_add_json(&b, x->items[i].decl.name, strlen(x->items[i].decl.name)));
        ML_TRY(ml_buf_addf(&b, ": \"%s\"", name));
    }
    ML_TRY(ml_buf_adds(&b, "\n  }\n}\n"));
    ML_TRY(ml_path_join(path, sizeof path, x->job->settings->out, "model.safetensors.index.json", err));
    ML_TRY(ml_file_write_atomic(path, b.data, b.len, err));
out:
    ml_buf_free(&b);
    return st;
}

static marlin_status write_weights(struct export *x, struct marlin_error *err) {
    for (size_t i = 0; i < x->count;) {
        size_t end = i;
        while (end < x->count && x->items[end].shard == x->items[i].shard) {
            end++;
        }
        const marlin_status st = write_shard(x, i, end, err);
        if (st != MARLIN_OK) return st;
        i = end;
    }
    for (size_t i = 0; i < x->count; i++) {
        x->job->report->bytes += x->items[i].bytes;
    }
    return x->shards > 1 ? write_index(x, err) : MARLIN_OK;
}

/* ---- config.json ---- */

static int head_bits(const struct ml_job *job) {
    return job->plan.tensors[job->plan.first[job->plan.layers]].bits;
}

static double embedding_bits(const struct ml_job *job) {
    struct ml_model_bits source;
    ml_model_bits(job->model, &source);
    return job->plan.embedding_bits == ML_BITS_PLAIN ? source.embedding : job->plan.embedding_bits;
}

static marlin_status marlin_config(const struct ml_job *job, struct ml_buf *b) {
    const struct ml_quantize_settings *s = job->settings;
    return ml_buf_addf(
        b,
        "{\n    \"quant_method\": \"marlin\",\n    \"version\": 1,\n    \"bits\": %.4g,\n"
        "    \"head_bits\": %d,\n    \"embedding_bits\": %g,\n    \"effort\": \"%s\",\n    \"seed\": %llu,\n"
        "    \"calibration\": {\"source\": \"%s\", \"tokens\": %zu}\n  }",
        ml_plan_bits(&job->plan), head_bits(job), embedding_bits(job), ml_effort_name(s->effort),
        (unsigned long long)s->seed, s->calib ? "text" : "self",
        job->calibration.rows * job->calibration.width);
}

static struct ml_exl3_summary exl3_summary(const struct ml_job *job) {
    return (struct ml_exl3_summary){.bits = ml_plan_bits(&job->plan),
                                    .head_bits = head_bits(job),
                                    .rows = job->calibration.rows,
                                    .cols = job->calibration.width,
                                    .codebook = job->settings->codebook};
}

static marlin_status write_config(const struct export *x, struct marlin_error *err) {
    const struct ml_job *job = x->job;
    char path[PATH_MAX];
    struct ml_buf value, text;
    marlin_status st;
    ml_buf_init(&value, text_limit);
    ml_buf_init(&text, text_limit);
    if (job->settings->format == ML_QUANTIZE_EXL3) {
        const struct ml_exl3_summary summary = exl3_summary(job);
        ML_TRY(ml_exl3_config(&summary, &value));
        ML_TRY(ml_buf_adds(&value, "\n  }"));
    } else {
        ML_TRY(marlin_config(job, &value));
    }
    ML_TRY(ml_config_with_quantization(job->model->config->json, job->model->config->json_len, value.data,
                                       &text, err));
    ML_TRY(ml_path_join(path, sizeof path, job->settings->out, "config.json", err));
    ML_TRY(ml_file_write_atomic(path, text.data, text.len, err));
out:
    ml_buf_free(&value);
    ml_buf_free(&text);
    return st;
}

/* quantization_config.json of EXL3 */
static marlin_status write_storage(const struct export *x, struct marlin_error *err) {
    const struct ml_exl3_summary summary = exl3_summary(x->job);
    char path[PATH_MAX];
    struct ml_buf b;
    marlin_status st;
    ml_buf_init(&b, text_limit);
    struct ml_exl3_stored *stored = ml_calloc(x->count, sizeof *stored);
    if (!stored) return ml_fail(err, MARLIN_ERR_MEMORY, "export: out of memory");
    for (size_t i = 0; i < x->count; i++) {
        const struct ml_plan_tensor *own = x->items[i].own;
        stored[i] = (struct ml_exl3_stored){.decl = &x->items[i].decl,
                                            .bytes = x->items[i].bytes,
                                            .bits = own && own->bits != ML_BITS_PLAIN ? own->bits : 0};
    }
    ML_TRY(ml_exl3_storage(&summary, stored, x->count, &b));
    ML_TRY(ml_path_join(path, sizeof path, x->job->settings->out, "quantization_config.json", err));
    ML_TRY(ml_file_write_atomic(path, b.data, b.len, err));
out:
    ml_free(stored);
    ml_buf_free(&b);
    return st;
}

/* ---- all of it ---- */

static void close_export(struct export *x) {
    for (size_t l = 0; x->parts && l < x->n_parts; l++) {
        ml_tensors_close(x->parts[l]);
    }
    ml_free((void *)x->parts);
    ml_free(x->items);
}

marlin_status ml_job_export(const struct ml_job *job, struct marlin_error *err) {
    struct export x = {.job = job};
    const struct ml_quantize_settings *s = job->settings;
    marlin_status st;
    ML_TRY(open_parts(&x, err));
    ML_TRY(collect(&x, err));
    cut_shards(&x);
    ML_TRY(write_weights(&x, err));
    ML_TRY(ml_model_files_copy(s->source, s->out, err));
    if (s->format == ML_QUANTIZE_EXL3) ML_TRY(write_storage(&x, err));
    ML_TRY(write_config(&x, err));
    ML_TRY(ml_checksums_write(s->out, err));
out:
    close_export(&x);
    return st;
}
