/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the time of a forward pass goes. A pass is a sequence of stages; ml_profile_mark, called after each,
 * books the time since the mark before. Off (state->profile NULL) it costs a comparison a stage.
 */
#ifndef ML_MODELS_PROFILE_H
#define ML_MODELS_PROFILE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum ml_stage {
    ML_STAGE_EMBED,     /* cosines, embedding rows */
    ML_STAGE_QKV,       /* norm, and the products of q, k and v */
    ML_STAGE_ROPE,      /* norms of heads, rotation, store into the cache */
    ML_STAGE_ATTENTION, /* scores and values; its bytes are those of the cache */
    ML_STAGE_OUT,       /* product of o */
    ML_STAGE_UP,        /* norm, and the products of gate and up */
    ML_STAGE_DOWN,      /* activation, and the product of down */
    ML_STAGE_ROUTER,    /* norm, router, choice and sorting of experts */
    ML_STAGE_EXPERTS,   /* all of the chosen experts, and their sum */
    ML_STAGE_RESIDUAL,  /* norm of a branch's output, residual sum */
    ML_STAGE_HEAD,      /* last norm, product of the head */
    ML_STAGES
};
const char *ml_stage_name(enum ml_stage s); /* "attention" */

enum ml_profile_pass { ML_PASS_PROMPT, ML_PASS_TOKEN, ML_PASSES }; /* several tokens a call; one */

struct ml_stage_sum {
    uint64_t ns, bytes, calls;
};

/* One stage as it happened, for a timeline. layer: -1 outside the layers. */
struct ml_stage_event {
    uint64_t start, ns;
    int16_t stage, layer;
    int32_t tokens;
};

/* One profile belongs to one state. Events are recorded while there is room. */
struct ml_profile {
    struct ml_stage_sum sum[ML_PASSES][ML_STAGES];
    uint64_t tokens[ML_PASSES], ns[ML_PASSES];
    struct ml_stage_event *events; /* NULL: sums only */
    size_t n_events, max_events, lost;
    uint64_t begin, last; /* of the running pass; time of the last mark */
    enum ml_profile_pass pass;
    int layer;
    size_t n;
};

/* max_events 0: sums only. */
marlin_status ml_profile_create(struct ml_profile **out, size_t max_events,
                                struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_profile_free(struct ml_profile *p); /* NULL is fine */

/* Used by the forward pass: before, after each stage, after. bytes: weights and cache that the stage read. */
void ml_profile_begin(struct ml_profile *p, size_t n);
void ml_profile_mark(struct ml_profile *p, enum ml_stage stage, uint64_t bytes);
void ml_profile_end(struct ml_profile *p);

#endif
