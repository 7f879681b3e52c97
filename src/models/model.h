/* SPDX-License-Identifier: Apache-2.0
 *
 * A loaded model (immutable, shareable) and one sequence's state on it. Names, shapes and types are bound to
 * typed structs at load; the forward pass neither parses, allocates nor locks.
 */
#ifndef ML_MODELS_MODEL_H
#define ML_MODELS_MODEL_H

#include "base/pool.h"
#include "base/status.h"
#include "cache/kv.h"
#include "converters/hf_config.h"
#include "converters/safetensors.h"
#include "device/device.h"
#include "kernels/ops.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ml_model;
struct ml_state;
struct ml_profile;

struct ml_model_options {
    struct ml_device *device; /* NULL = the CPU */
    struct ml_pool *pool;     /* used while loading (first touch); may be NULL */
    enum ml_dtype kv_dtype;   /* ML_F32, ML_F16 or ML_I8: must be said */
    bool exact;        /* multiply by quantized weights in float32 (ML_QUANT_EXACT), not with int8 inputs */
    bool headers_only; /* bind and check, but neither read nor copy weights: counts are right, no state can be
                          made */
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

/* State for one sequence of at most ctx positions, fed at most max_batch tokens a call. pool: shared, one
 * caller at a time; outlives the state. */
marlin_status ml_state_create(const struct ml_model *m, struct ml_pool *pool, size_t ctx, size_t max_batch,
                              struct ml_state **out, struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_state_free(struct ml_state *s);
size_t ml_state_length(const struct ml_state *s); /* tokens seen */
size_t ml_state_capacity(const struct ml_state *s);
void ml_state_truncate(struct ml_state *s, size_t n); /* back to the first n tokens */
/* Books the stages of each following call into p (models/profile.h), which must outlive them; NULL = off. */
void ml_state_profile(struct ml_state *s, struct ml_profile *p);

enum ml_logits { ML_LOGITS_NONE, ML_LOGITS_LAST, ML_LOGITS_ALL };

/* Feeds n <= max_batch tokens. logits: [1 or n, vocab_size] float32 as asked, NULL for NONE.
 * MARLIN_ERR_LIMIT when the context is full, MARLIN_ERR_ARGUMENT for an id out of range; the state is then
 * unchanged. */
marlin_status ml_model_forward(const struct ml_model *m, struct ml_state *s, const int32_t *ids, size_t n,
                               enum ml_logits which, float *logits,
                               struct marlin_error *err) MARLIN_MUST_CHECK;

/* Told that the weights of a layer were used in a pass; num_layers stands for embedding, norm and head. */
typedef void ml_layer_done_fn(void *user, size_t layer);

/* Feeds one token to each of n <= max_batch sequences at once, all at position `pos` (the same for all
 * layers, fed in order): logits [n, vocab]. The state has room for n * lane positions, 0 < pos + 1 <= lane;
 * sequence i has positions i * lane ... of its cache, whose length neither counts nor changes. Ids are in
 * range. Never allocates. done may be NULL. */
void ml_lanes_forward(const struct ml_model *m, struct ml_state *s, size_t lane, const int32_t *ids, size_t n,
                      size_t pos, float *logits, ml_layer_done_fn *done, void *user);

/* ---- for benchmarks: speed at a depth does not depend on what the cache holds ---- */

/* Small random keys and values at every position; the length stays. */
void ml_state_fill(struct ml_state *s);
/* Counts the first n <= capacity positions as seen, whatever they hold. */
void ml_state_assume(struct ml_state *s, size_t n);
/* Bytes of keys and values that a call with n tokens at positions pos0... reads, each counted once. */
uint64_t ml_state_cache_bytes(const struct ml_state *s, size_t pos0, size_t n);

#endif
