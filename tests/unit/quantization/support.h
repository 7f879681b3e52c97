/* SPDX-License-Identifier: Apache-2.0
 *
 * What tests of this folder share. Include after cmocka.h.
 */
#ifndef ML_TESTS_QUANTIZATION_SUPPORT_H
#define ML_TESTS_QUANTIZATION_SUPPORT_H

#include "models/model.h"

#include <stdio.h>

#include "normals.h"

/* A committed model of a few thousand weights, with a float32 cache. */
static inline struct ml_model *load_fixture(const char *name) {
    char path[1024];
    struct ml_model *m = NULL;
    struct marlin_error err = {0};
    const struct ml_model_options o = {.kv_dtype = ML_F32};
    (void)snprintf(path, sizeof path, "%s/tests/golden/fixtures/%s", MARLIN_SOURCE_DIR, name);
    if (ml_model_load(path, &o, &m, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return m;
}

#endif
