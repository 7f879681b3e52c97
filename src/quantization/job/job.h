/* SPDX-License-Identifier: Apache-2.0
 *
 * One run of the quantizer, shared by the files that carry it out.
 */
#ifndef ML_QUANTIZATION_JOB_H
#define ML_QUANTIZATION_JOB_H

#include "quantization/job/parts.h"
#include "quantization/job/pipeline.h"
#include "quantization/job/plan.h"
#include "quantization/matrix/codec.h"
#include "quantization/signal/calibration.h"
#include "quantization/signal/capture.h"

#include <limits.h>

struct ml_job {
    const struct ml_quantize_settings *settings;
    char work[PATH_MAX]; /* OUT/.quantize */
    int lock;            /* of job.json while this process works there; -1 = none */
    bool made_out;       /* OUT did not exist before */
    bool opened;         /* the work folder is this job's */
    struct ml_model *model;
    struct ml_plan plan;
    struct ml_codec codec[9]; /* by bits; bits == 0: not made yet */
    struct ml_calibration calibration;
    struct ml_rows rows;
    size_t tokens, width; /* of calibration, as far as memory allows */
    size_t lanes;         /* rows sampled at once */
    bool streamed;        /* while sampling, a layer's pages are given back after each use */
    uint64_t weights_done, weights;
    struct ml_quantize_report *report;
};

/* ---- settings.c ---- */

/* What each effort buys. */
struct ml_effort {
    const char *name;
    int window, wide_window;        /* of the trellis, up to 4 bits and beyond */
    size_t text_tokens, own_tokens; /* of calibration, on a text that is given and on the model's own */
};
const struct ml_effort *ml_effort_of(enum ml_quantize_effort e);

/* Bits for all tensors; loss NULL: built-in sensitivities (quantization/job/allocate.h). */
marlin_status ml_job_allocate(struct ml_job *job, const double *loss,
                              struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- tensor.c ---- */

/* The codec of so many bits, the job's. */
marlin_status ml_job_codec(struct ml_job *job, int bits, const struct ml_codec **out,
                           struct marlin_error *err) MARLIN_MUST_CHECK;
/* One tensor with a trellis codec; h, of its inputs, and outputs may be NULL. */
marlin_status ml_job_quantize(struct ml_job *job, const struct ml_plan_tensor *t, int bits,
                              const struct ml_hessian *h, const struct ml_hessian *outputs,
                              struct ml_quantized_linear *q, struct marlin_error *err) MARLIN_MUST_CHECK;
/* Tensor `index` of the plan into a part, its errors into the report. */
marlin_status ml_job_quantize_tensor(struct ml_job *job, size_t index, const struct ml_hessian *h,
                                     const struct ml_hessian *outputs, struct ml_part *part,
                                     struct marlin_error *err) MARLIN_MUST_CHECK;
marlin_status ml_job_write_part(struct ml_job *job, size_t layer, const struct ml_part *part,
                                struct marlin_error *err) MARLIN_MUST_CHECK;
/* The part of an earlier run, or NULL: one that is damaged is made again. */
struct ml_tensors *ml_job_open_part(const struct ml_job *job, size_t layer);
/* What was found out about a tensor, into the metadata of its part and out of it again, where `arena` keeps
 * the text. */
marlin_status ml_job_remember(struct ml_part *part, const struct ml_quantize_tensor *t,
                              struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_job_recall(const struct ml_tensors *t, struct ml_arena *arena, struct ml_quantize_tensor *r);

/* ---- layer.c ---- */

/* The layer's tensors into its part. job->rows are its inputs, and its outputs afterwards. */
marlin_status ml_job_quantize_layer(struct ml_job *job, size_t layer,
                                    struct marlin_error *err) MARLIN_MUST_CHECK;
/* job->rows become embeddings. */
marlin_status ml_job_embed(struct ml_job *job, struct marlin_error *err) MARLIN_MUST_CHECK;
/* The head; job->rows are the output of the last layer. */
marlin_status ml_job_quantize_head(struct ml_job *job, struct marlin_error *err) MARLIN_MUST_CHECK;
/* The embedding into its part, unless it is left as it is or an earlier run has made it. */
marlin_status ml_job_quantize_embedding(struct ml_job *job, struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- descent.c ---- */

/* All layers from the last to the first, each against the loss at the end; `done` of them, counted from the
 * head, are written already. job->rows has room for the activations. */
marlin_status ml_job_descend(struct ml_job *job, size_t done, struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- optimize.c ---- */

/* Tokens that divergence is measured on, and rows of logits, exact and probed, that are compared
 * at a time. */
enum { ML_SAMPLE_TOKENS = 4096, ML_PROBE_ROWS = 32 };

/* Measures what each group costs and gives the plan's tensors their bits. job->rows holds embeddings, and
 * afterwards nothing of use. */
marlin_status ml_job_optimize(struct ml_job *job, struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- checkpoint.c ---- */

/* Makes OUT and OUT/.quantize, or checks that they hold this very job (MARLIN_ERR_ARGUMENT naming what is
 * different). A job in which nothing was finished is replaced, whatever it was. Locks it: MARLIN_ERR_IO when
 * another process works there. With `resume` and an OUT that is finished it makes and locks nothing and sets
 * report->complete_already. */
marlin_status ml_checkpoint_open(struct ml_job *job, struct marlin_error *err) MARLIN_MUST_CHECK;
/* Path of a layer's part; `layers` is the head's number, layers + 1 the embedding's. */
marlin_status ml_checkpoint_part(const struct ml_job *job, size_t layer, char path[PATH_MAX],
                                 struct marlin_error *err) MARLIN_MUST_CHECK;
/* Calibration rows of an earlier run; *found says whether there were any. */
marlin_status ml_checkpoint_load_rows(struct ml_job *job, bool *found,
                                      struct marlin_error *err) MARLIN_MUST_CHECK;
marlin_status ml_checkpoint_save_rows(const struct ml_job *job, struct marlin_error *err) MARLIN_MUST_CHECK;
/* Bits of each tensor as ml_job_optimize found them. */
marlin_status ml_checkpoint_load_bits(struct ml_job *job, bool *found,
                                      struct marlin_error *err) MARLIN_MUST_CHECK;
marlin_status ml_checkpoint_save_bits(const struct ml_job *job, struct marlin_error *err) MARLIN_MUST_CHECK;
/* loss [layers, ML_ROLES] of the first `done` layers, as ml_job_optimize measures them; loading sets *done
 * to 0 where none are kept. */
marlin_status ml_checkpoint_load_losses(const struct ml_job *job, double *loss, size_t *done,
                                        struct marlin_error *err) MARLIN_MUST_CHECK;
marlin_status ml_checkpoint_save_losses(const struct ml_job *job, const double *loss, size_t done,
                                        struct marlin_error *err) MARLIN_MUST_CHECK;
/* Inputs of `layer`; older ones are removed unless `all` are to be kept. */
marlin_status ml_checkpoint_save_hidden(const struct ml_job *job, size_t layer, bool all,
                                        struct marlin_error *err) MARLIN_MUST_CHECK;
/* The latest inputs at or before `layer` into job->rows; *from is their layer, *found false when there are
 * none. */
marlin_status ml_checkpoint_load_hidden(struct ml_job *job, size_t layer, size_t *from, bool *found,
                                        struct marlin_error *err) MARLIN_MUST_CHECK;
/* Removes OUT/.quantize: what is left of it if this is interrupted is not taken for a job. */
marlin_status ml_checkpoint_remove(const struct ml_job *job, struct marlin_error *err) MARLIN_MUST_CHECK;

/* After a failure: true when there is something that `resume` goes on from, a finished layer or what was
 * measured, and sampled text where it is not the model that is at fault. Otherwise the job is removed, and
 * OUT if this run made it, so that it stands in nobody's way. */
bool ml_checkpoint_settle(const struct ml_job *job, marlin_status failure);

void ml_checkpoint_close(struct ml_job *job); /* gives up the lock */

/* ---- memory.c ---- */

/* Peak memory with `tokens` calibration tokens. */
void ml_job_memory(const struct ml_job *job, size_t tokens, struct ml_quantize_memory *out);
/* Rows that can be sampled at once: their caches take at most a quarter of max_memory, and 1 GiB. */
size_t ml_job_lanes(const struct ml_job *job);
/* Lowers job->tokens until max_memory is kept. */
marlin_status ml_job_fit_memory(struct ml_job *job, struct marlin_error *err) MARLIN_MUST_CHECK;
/* Advises the kernel about the source's pages of one layer: fetch them, or let them go. */
void ml_job_fetch(const struct ml_job *job, size_t layer);
void ml_job_release(const struct ml_job *job, size_t layer);

/* ---- export.c ---- */

/* Parts and untouched tensors -> shards, config.json, tokenizer files, checksums. */
marlin_status ml_job_export(const struct ml_job *job, struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
