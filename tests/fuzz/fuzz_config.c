/* SPDX-License-Identifier: Apache-2.0
 *
 * Property: any config.json, a NUL and any generation_config.json after it, parses or gives a named error; a
 * config that parses describes a model whose rotary tables are finite and whose sizes do not overflow.
 */
#include "base/json.h"
#include "converters/hf_config.h"
#include "models/arch/arch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
    if (!condition) abort();
}

static void check(const struct ml_config *c) {
    require(c->vocab_size > 0 && c->hidden_size > 0 && c->intermediate_size > 0 && c->num_layers > 0);
    require(c->num_heads > 0 && c->num_kv_heads > 0 && c->head_dim > 0 &&
            c->num_heads % c->num_kv_heads == 0);
    require(c->max_positions > 0 && c->rms_eps > 0 && isfinite(c->rms_eps) && c->sliding_window >= 0);
    require(c->num_experts >= 0 && c->experts_per_token <= c->num_experts);
    require(c->n_eos >= 0 && c->n_eos <= ML_MAX_EOS);
    bool slides = false;
    for (int64_t i = 0; i < c->num_layers; i++) {
        slides = slides || c->layer_kind[i] == ML_LAYER_SLIDING;
        require(!c->layer_moe[i] || c->num_experts > 0);
    }
    require(slides == (c->sliding_window > 0));
}

/* Positions up to where each kind of scaling changes its rule. */
static void check_rope(const struct ml_rope *r, size_t max_positions) {
    const size_t lengths[] = {1, max_positions, max_positions + 1, 4 * max_positions};
    float *inv = calloc(r->half, sizeof *inv);
    require(inv != NULL && isfinite(r->scale));
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        ml_rope_frequencies(r, lengths[k], inv);
        for (size_t i = 0; i < r->half; i++) {
            require(isfinite(inv[i]));
        }
    }
    free(inv);
}

static void check_model(const struct ml_config *c) {
    struct ml_model *m = NULL;
    struct marlin_error err = {0};
    size_t bytes = 0;
    const struct ml_work_sizes sizes = {.rows = 64, .runs = 1, .positions = 64};
    const marlin_status st = ml_model_new(c, NULL, &m, &err);
    if (st != MARLIN_OK) {
        require(err.code == st && err.text[0]);
        return;
    }
    check_rope(&m->rope, (size_t)c->max_positions);
    check_rope(&m->rope_local, (size_t)c->max_positions);
    require(ml_config_work_bytes(c, &sizes, &bytes, &err) == MARLIN_OK || err.text[0]);
    ml_model_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data, *second = size ? memchr(text, 0, size) : NULL;
    const size_t len = second ? (size_t)(second - text) : size;
    struct ml_config *c = NULL;
    struct marlin_error err = {0};
    if (second) second++;
    const marlin_status st =
        ml_config_parse(text, len, second, second ? size - len - 1 : 0, "config", &c, &err);
    require((st == MARLIN_OK) == (c != NULL));
    if (st != MARLIN_OK) require(err.code == st && strncmp(err.text, "config", 6) == 0);
    if (c) {
        check(c);
        check_model(c);
    }
    ml_config_free(c);
    return 0;
}
