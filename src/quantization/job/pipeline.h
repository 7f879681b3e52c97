/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantizing a model directory, a layer at a time: calibration rows -> Hessians -> tiles -> a new directory.
 *
 *        layer l-1          layer l                      layer l+1
 *     ... written | run all rows, Hessians, quantize | pages fetched ...
 *
 * While it runs, OUT/.quantize holds what is done: the calibration rows, what was measured, one file a layer,
 * one of the embedding where it becomes int8 rows, now and then the activations. Each appears whole or not at
 * all, so that a run that was killed at any point goes on with `resume` and ends with the same bytes.
 */
#ifndef ML_QUANTIZATION_PIPELINE_H
#define ML_QUANTIZATION_PIPELINE_H

#include "base/pool.h"
#include "base/status.h"
#include "packing/exl3.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ml_quantize_format { ML_QUANTIZE_MARLIN, ML_QUANTIZE_EXL3 };
enum ml_quantize_effort { ML_EFFORT_LOW, ML_EFFORT_NORMAL, ML_EFFORT_HIGH, ML_EFFORTS };
const char *ml_effort_name(enum ml_quantize_effort e);

/* Peak resident memory, in bytes, of the step that takes most. Sampling the model's own text maps all of the
 * source, but where max_memory forbids it: then layers are mapped in turn for each token, which is slower. */
struct ml_quantize_memory {
    uint64_t weights;     /* mapped pages of the source: two layers, or all */
    uint64_t hessians;    /* of one layer */
    uint64_t activations; /* of all calibration rows */
    uint64_t work;        /* a forward pass or one matrix, whichever is more */
    uint64_t total;
};

struct ml_quantize_settings {
    const char *source, *out;
    enum ml_quantize_format format;
    enum ml_exl3_codebook codebook; /* EXL3 */
    double bits;
    int head_bits;
    enum ml_quantize_effort effort;
    uint64_t seed;
    const char *recipe;   /* text, or NULL */
    const char *calib;    /* path of a text or .jsonl, or NULL: the model's own text */
    size_t calib_tokens;  /* 0: by effort */
    bool optimize;        /* bits by what each tensor costs, rounding against the loss at the end */
    uint64_t max_memory;  /* bytes, 0 = no limit */
    uint64_t shard_bytes; /* 0 = 8 GiB */
    bool resume;
    struct ml_pool *pool;
    const volatile sig_atomic_t *cancel;
    /* All may be NULL; called on the caller's thread. */
    void (*on_memory)(void *user, const struct ml_quantize_memory *m, size_t tokens, size_t fewer_than);
    void (*on_sample)(void *user, size_t done, size_t total);
    void (*on_measure)(void *user, size_t done, size_t total);
    void (*on_forward)(void *user, size_t done, size_t total); /* layers whose inputs are kept, to optimize */
    void (*on_tensor)(void *user, size_t layer, size_t layers, uint64_t weights_done, uint64_t weights,
                      double proxy_error);
    void *user;
};

struct ml_quantize_tensor {
    const char *name; /* canonical */
    int bits;
    double proxy_error;
    const char *fallback; /* NULL, or why no feedback was used */
    uint64_t dropped;     /* calibration tokens whose inputs were NaN or infinite, and were left out */
};

struct ml_quantize_report {
    struct ml_quantize_tensor *tensors;
    size_t count;
    struct ml_quantize_tensor embedding; /* name NULL: left as it is */
    double bits_per_weight;              /* mean over the layers */
    uint64_t bytes;                      /* of all weight files */
    size_t calib_tokens;
    size_t resumed_layers; /* that an earlier run had done */
    bool complete_already; /* an earlier run had done everything: nothing above but bits is known */
    bool resumable;        /* after a failure: something is kept that `resume` goes on from */
    void *arena;           /* owns the names */
};
void ml_quantize_report_free(struct ml_quantize_report *r);

/* Quantizes settings->source into settings->out, which must be absent, empty, or, when `resume` is set,
 * the place of an unfinished run or of a finished one with the same options as far as its config.json
 * records them: then nothing is done and report->complete_already says so. Errors leave what is done for a
 * later `resume` and set report->resumable; where nothing is done yet they leave no job behind.
 * MARLIN_ERR_CANCELLED when *cancel became non-zero; MARLIN_ERR_MEMORY when max_memory cannot be kept even
 * with little calibration, with the itemised estimate. */
marlin_status ml_quantize_model(const struct ml_quantize_settings *settings,
                                struct ml_quantize_report *report,
                                struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
