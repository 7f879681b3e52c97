/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the files that run models: what a cache and a sequence are.
 */
#ifndef ML_MODELS_SEQUENCE_H
#define ML_MODELS_SEQUENCE_H

#include "models/model.h"

struct ml_cache {
    const struct ml_model *model;
    struct ml_arena arena;
    struct ml_memory_layout layout;
    struct ml_pages *pages;
};

struct ml_sequence {
    struct ml_cache *cache;
    bool owns_cache;
    struct ml_memory *memory;
    size_t expected;        /* length that the tables below are for */
    float *inv, *inv_local; /* [half] inverse frequencies of the two rotary tables */
    size_t beyond;          /* most tokens that they hold for */
};

#endif
