/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the files that run models: what a work is, and what of a batch is brought to each device.
 */
#ifndef ML_MODELS_WORK_H
#define ML_MODELS_WORK_H

#include "models/model_int.h"
#include "models/sequence.h"
#include "models/step.h"

/* What operations read of a batch; R, U = most rows and runs. Lies twice: in host memory, where it is written,
 * and in the device's. On a device that is the host both are one. */
struct ml_staged {
    int32_t *ids, *position, *run_of; /* [R], [R][3], [R] */
    int32_t *picked;                  /* [R] rows that want logits */
    struct ml_pass_run *runs;         /* [U] */
    struct ml_tree_node *tree;        /* [R] */
    float *inv, *inv_local;           /* [U][half] */
    size_t bytes;                     /* of all up to here, from the first on */
    const char **tables;              /* [groups][U][stride] */
};

struct ml_work {
    const struct ml_model *model;
    struct ml_pool *pool;
    struct ml_work_sizes sizes;
    size_t stride;                   /* pages of the longest sequence */
    struct ml_step *steps;           /* [devices] */
    struct ml_stream **streams;      /* [devices] those of the steps */
    struct ml_staged *host, *device; /* [devices] */
    float *hop;                      /* [R, H] between two devices; NULL where there is one */
    ml_layer_done_fn *layer_done;
    void *layer_user;
    /* of the running pass */
    size_t n, n_runs;
    struct ml_run **runs; /* [U] those that are in it */
    size_t *taken;        /* [R] row of the batch that a row of the pass is */
    size_t n_picked;      /* rows that want logits */
    size_t *picked_to;    /* [R] which of the caller's rows of logits each of them is */
    bool picked_in_order; /* the caller's rows of logits are exactly these */
    bool stopped;         /* every run was cancelled: the pass ended early */
};

/* Where everything of a step lies: s (NULL for the size alone) gets its scratch, *staged its part of the device's
 * memory, from `base` on. False on overflow. */
bool ml_step_layout(const struct ml_config *c, const struct ml_work_sizes *sizes, size_t groups, bool is_host,
                    char *base, struct ml_step *s, struct ml_staged *staged, size_t *bytes);

/* What the operations of a model are opened for. */
struct ml_ops_sizes ml_model_ops_sizes(const struct ml_model *m, const struct ml_work_sizes *sizes);

/* Brings the rows of w->n and w->runs to every device and computes their angles. */
void ml_work_stage(struct ml_work *w, const struct ml_batch *batch);

#endif
