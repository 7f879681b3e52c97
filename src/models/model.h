/* SPDX-License-Identifier: Apache-2.0
 *
 * A loaded model and what runs on it:
 *
 *   ml_model      weights; immutable, shared by everybody
 *   ml_cache      the pages that sequences keep their keys, values and states in
 *   ml_sequence   one timeline: its length and its layers' memory. No scratch, no sampler
 *   ml_work       one stream of execution: threads and scratch for at most so many rows. Any number of
 *                 sequences share it
 *   ml_batch      the rows of one pass: any mix of pieces of prompts, single tokens and draft trees of many
 *                 sequences
 *
 * Names, shapes and types are bound to typed structs at load; the forward pass neither parses, allocates nor
 * locks. What a sequence gets does not depend on what else is in the batch, on how its tokens were cut into
 * passes, nor on the number of threads: on a CPU the same bits.
 */
#ifndef ML_MODELS_MODEL_H
#define ML_MODELS_MODEL_H

#include "base/pool.h"
#include "base/status.h"
#include "cache/memory.h"
#include "converters/hf_config.h"
#include "converters/safetensors.h"
#include "device/device.h"
#include "ops/ops.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ml_model;
struct ml_cache;
struct ml_sequence;
struct ml_work;
struct ml_profile;

struct ml_model_options {
    struct ml_device *const *devices; /* in whose order layers are dealt out, each an equal run of them; they
                                         outlive the model. NULL = the CPU */
    size_t n_devices;
    struct ml_pool *pool;   /* used while loading (first touch); may be NULL */
    enum ml_dtype kv_dtype; /* ML_F32, ML_F16 or ML_I8: must be said */
    bool exact;        /* multiply by quantized weights in float32 (ML_QUANT_EXACT), not with int8 inputs */
    bool headers_only; /* bind and check, but neither read nor copy weights: counts are right, nothing can be
                          run */
};

/* Loads a Hugging Face directory: plain weights, `marlin` (docs/format.md) or EXL3, which may be mixed
 * freely; options NULL = the CPU and ML_KV_DEFAULT. Missing tensors and wrong shapes fail by name; unknown
 * tensors are logged.
 */
marlin_status ml_model_load(const char *dir, const struct ml_model_options *options, struct ml_model **out,
                            struct marlin_error *err) MARLIN_MUST_CHECK;
/* What the weights of a random model are stored as. */
struct ml_random_format {
    int bits;  /* 16: bf16; marlin 2..6 tap tiles, 8 int8 rows; EXL3 1..8 */
    bool exl3; /* MUL1 tiles instead of this project's */
};
/* A model of `config`'s shape with random valid weights, for benchmarks. Quantized ones have what a quantizer
 * would write: a head of its own of 6 bits; embedding, norms and routers plain. */
marlin_status ml_model_random(const struct ml_config *config, const struct ml_random_format *format,
                              uint64_t seed, const struct ml_model_options *options, struct ml_model **out,
                              struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_model_free(struct ml_model *m);

/* MARLIN_ERR_IO when a file of the model has been cut since: what was computed from it may be wrong. The
 * forward pass itself notices only pages that are gone; call this after a stage of work. */
marlin_status ml_model_check(const struct ml_model *m, struct marlin_error *err) MARLIN_MUST_CHECK;

const struct ml_config *ml_model_config(const struct ml_model *m);
/* What keys and values are stored as, unless a cache says otherwise. */
enum ml_dtype ml_model_kv_dtype(const struct ml_model *m);
/* Bytes of memory that weights take, scales included: of quantized ones as this machine's kernels read them.
 */
uint64_t ml_model_weight_bytes(const struct ml_model *m);
/* Bytes of weights that decoding one token reads (embedding rows not counted; experts: those of one token).
 */
uint64_t ml_model_bytes_per_token(const struct ml_model *m);
/* Multiplications by weights that decoding one token takes. */
uint64_t ml_model_products_per_token(const struct ml_model *m);
uint64_t ml_model_parameters(const struct ml_model *m); /* without padding */

/* How densely weights are stored: bits of tiles, rows or numbers, without scales. */
struct ml_model_bits {
    double layers; /* mean over the weights of all linear layers but routers, head and embedding */
    double head, embedding;
    size_t quantized; /* number of quantized layers, the head among them */
};
void ml_model_bits(const struct ml_model *m, struct ml_model_bits *out);

/* Memory a run would take, from the config alone (for inspect and for refusing before loading). */
struct ml_memory_estimate {
    uint64_t weights, kv, state, scratch, total;
};
marlin_status ml_model_estimate(const struct ml_config *c, uint64_t weight_bytes, size_t ctx,
                                size_t max_batch, enum ml_dtype kv_dtype, struct ml_memory_estimate *out,
                                struct marlin_error *err) MARLIN_MUST_CHECK;

/* The same for a model, of which headers may be all that was read: its own sizes of weights and of what
 * products with quantized ones take. */
marlin_status ml_model_estimate_of(const struct ml_model *m, size_t ctx, size_t max_batch,
                                   struct ml_memory_estimate *out,
                                   struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- sequences ------------------------------------------------------------------------------------ */

/* Pages of keys and values of the given type. Sequences on one cache may share pages. One thread at a time uses
 * a cache, its sequences, and the work that runs them. */
marlin_status ml_cache_create(const struct ml_model *m, enum ml_dtype kv_dtype,
                              const struct ml_pages_sizes *sizes, struct ml_cache **out,
                              struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_cache_free(struct ml_cache *c); /* its sequences must be gone; NULL is fine */
struct ml_pages *ml_cache_pages(const struct ml_cache *c);

/* An empty sequence of at most `positions`. */
marlin_status ml_sequence_create(struct ml_cache *cache, size_t positions, struct ml_sequence **out,
                                 struct marlin_error *err) MARLIN_MUST_CHECK;
/* The same with a cache of its own of the model's type, for passes of at most `rows` rows. */
marlin_status ml_sequence_create_alone(const struct ml_model *m, size_t positions, size_t rows,
                                       struct ml_sequence **out, struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_sequence_free(struct ml_sequence *s); /* NULL is fine */

size_t ml_sequence_length(const struct ml_sequence *s); /* tokens seen */
size_t ml_sequence_capacity(const struct ml_sequence *s);

/* Back to the first n tokens, or to none where they cannot be had any more (a sliding window has moved on, a
 * state has): the length that was reached. */
size_t ml_sequence_rewind(struct ml_sequence *s, size_t n);

/* A sequence with the same past that shares the pages: for prefixes, and as a checkpoint to go back to. It counts
 * as a spare of the cache. */
marlin_status ml_sequence_fork(const struct ml_sequence *s, struct ml_sequence **out,
                               struct marlin_error *err) MARLIN_MUST_CHECK;
/* s becomes what `from`, of the same cache, is. */
void ml_sequence_restore(struct ml_sequence *s, const struct ml_sequence *from);

/* How long the sequence is meant to become. Some models (longrope, dynamic NTK) rotate keys by tables that
 * depend on the length of the whole sequence: all of its keys by the same ones, so that pieces do not matter.
 * A new sequence expects its capacity. False when tokens were fed with other tables than `length` asks for: then
 * nothing changes; rewind to 0, say it again, and feed them anew. A pass beyond what was expected fails where
 * the tables would differ. */
bool ml_sequence_expect(struct ml_sequence *s, size_t length);
/* Most tokens for which its tables hold. */
size_t ml_sequence_holds(const struct ml_sequence *s);

/* ---- one pass ------------------------------------------------------------------------------------- */

/* Most rows and sequences of a pass, and the longest of those sequences. */
struct ml_work_sizes {
    size_t rows, runs, positions;
};

/* pool: NULL = the calling thread alone; one caller at a time; outlives the work. */
marlin_status ml_work_create(const struct ml_model *m, struct ml_pool *pool,
                             const struct ml_work_sizes *sizes, struct ml_work **out,
                             struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_work_free(struct ml_work *w);         /* NULL is fine */
size_t ml_work_rows(const struct ml_work *w); /* most rows of a pass */
/* Books the stages of each following pass into p (models/profile.h), which must outlive them; NULL = off. */
void ml_work_profile(struct ml_work *w, struct ml_profile *p);

/* Told that the weights of a layer were used in a pass; num_layers stands for embedding, norm and head. */
typedef void ml_layer_done_fn(void *user, size_t layer);
void ml_work_on_layer(struct ml_work *w, ml_layer_done_fn *fn, void *user); /* NULL = nobody */

enum ml_logits { ML_LOGITS_NONE, ML_LOGITS_LAST, ML_LOGITS_ALL };

/* Rows first .. first + n of a batch, the next ones of a sequence. */
struct ml_run {
    struct ml_sequence *sequence;
    size_t first, n;
    /* A draft tree of at most ML_TREE_NODES: row i follows row parent[i] < i of the run, or with -1 the
     * sequence. Its tokens do not count until ml_sequence_keep says which. What a node gets is what it would
     * get as the last of the tokens on the path to it, but for the order of float sums over keys, since it stands
     * in another slot; in a chain the same bits. NULL: each row follows the one before. */
    const int32_t *parent;
    enum ml_logits logits;      /* which rows want them, where the batch has no list by row */
    const atomic_bool *cancel;  /* looked at once a layer: a pass stops when all of its runs
                                  are cancelled; may be NULL */
    marlin_status status;       /* set by ml_forward, */
    struct marlin_error *error; /* and what it says; may be NULL */
};

enum { ML_ROW_EMBEDDING = -1 };

struct ml_batch {
    size_t n;                /* rows; those of the runs, in their order */
    const int32_t *ids;      /* [n] a token, or ML_ROW_EMBEDDING */
    const float *embeddings; /* [n, H] rows that are not tokens; others are not read. NULL: there are none */
    const int32_t (*position)[3]; /* [n] time, height, width; NULL: as the rows follow each other */
    const bool *wants_logits;     /* [n]; NULL: as the runs say */
    struct ml_run *runs;
    size_t n_runs;
};

/* Feeds the rows. logits, in host memory: [rows that want them, vocab], in the order of the rows; NULL when none
 * does. What goes wrong with one run (the context or the cache is full, an id is out of range, it was cancelled)
 * ends that run alone: its status says so, its sequence and its rows of logits stay as they were, and the others
 * are done. Returns the first of those statuses with its message; MARLIN_ERR_ARGUMENT for a batch that cannot
 * be (gaps between runs, two runs of one sequence), MARLIN_ERR_IO when a file of the model was cut meanwhile, and then no run was done. */
marlin_status ml_forward(struct ml_work *w, struct ml_batch *batch, float *logits,
                         struct marlin_error *err) MARLIN_MUST_CHECK;

/* After a pass with a draft tree: of its rows, keep[n] (rising, each a child of the one before) become the
 * sequence's next tokens, and the others are forgotten. */
void ml_sequence_keep(struct ml_work *w, struct ml_sequence *s, const size_t *keep, size_t n);

/* A batch of one run: n tokens of one sequence. logits: [1 or n, vocab] as asked, NULL for NONE. */
marlin_status ml_feed(struct ml_work *w, struct ml_sequence *s, const int32_t *ids, size_t n,
                      enum ml_logits which, float *logits, struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- for benchmarks: speed at a depth does not depend on what the cache holds ---- */

/* n tokens of small random keys and values; the sequence is empty before. */
marlin_status ml_sequence_fill(struct ml_work *w, struct ml_sequence *s, size_t n,
                               struct marlin_error *err) MARLIN_MUST_CHECK;
/* Bytes of keys and values that a run of n tokens at positions pos0... reads, each counted once. */
uint64_t ml_model_cache_bytes(const struct ml_model *m, enum ml_dtype kv_dtype, size_t pos0, size_t n);

#endif
