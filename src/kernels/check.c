/* SPDX-License-Identifier: Apache-2.0
 *
 * The frame of the kernel check: owns the memory of a case and gathers rows. The walk over tiers and families
 * is check/run.c, comparing check/compare.c, timing check/timing.c.
 */
#include "kernels/check/check_int.h"

#include "base/fp.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

/* ---- a case ---- */

const struct ml_check_tables *ml_check_tier(const struct ml_check *c) {
    return c->tier;
}

bool ml_check_timing(const struct ml_check *c) {
    return c->options->timing;
}

struct ml_pool *ml_check_pool(const struct ml_check *c) {
    return c->options->pool;
}

struct ml_rng *ml_check_rng(struct ml_check *c) {
    return &c->rng;
}

void ml_check_end_row(struct ml_check *c) {
    if (c->row.entry && c->options->on_row) c->options->on_row(c->options->user, &c->row);
    c->row = (struct ml_check_row){0};
    c->walked = 0;
}

bool ml_check_begin(struct ml_check *c, const char *entry, const char *variant, ml_check_get_fn *get,
                    int variant_index) {
    ml_check_entry *const own = get(c->tier, variant_index);
    if (!own) return false;
    const bool inherited = c->below && own == get(c->below, variant_index);
    if (inherited && !c->options->timing) return false;
    if (c->row.entry != entry || c->row.variant != variant || c->options->timing) {
        ml_check_end_row(c);
        c->row = (struct ml_check_row){.family = c->family->name,
                                       .entry = entry,
                                       .variant = variant,
                                       .tier = c->tier->tier,
                                       .bandwidth_fraction = -1,
                                       .compute_fraction = -1};
    }
    c->params[0] = '\0';
    c->bytes = c->operations = 0;
    c->bits = 0;
    c->threads = c->streams = false;
    c->decided = false;
    return true;
}

/* A sample takes the first case of a row and of each number of bits in it, and every so many of the row. */
bool ml_check_is_taken(struct ml_check *c) {
    if (c->decided) return c->taken;
    const size_t i = c->walked++, before = c->walked_bits;
    c->walked_bits = c->bits;
    c->decided = true;
    c->taken = c->options->sample == 0 || i % c->options->sample == 0 || c->bits != before;
    return c->taken;
}

void ml_check_param_text(struct ml_check *c, const char *name, const char *value) {
    const size_t used = strlen(c->params);
    (void)snprintf(c->params + used, sizeof c->params - used, "%s%s=%s", used ? " " : "", name, value);
}

void ml_check_param(struct ml_check *c, const char *name, size_t value) {
    char text[24];
    (void)snprintf(text, sizeof text, "%zu", value);
    ml_check_param_text(c, name, text);
    if (strcmp(name, "bits") == 0) c->bits = value;
}

void ml_check_release(struct ml_check *c) {
    while (c->n_deferred > 0) {
        c->n_deferred--;
        c->release[c->n_deferred](c->object[c->n_deferred]);
    }
    for (size_t i = 0; i < c->n_blocks; i++) {
        ml_guard_free(&c->block[i].memory);
        ml_free(c->block[i].before);
        ml_free(c->block[i].want);
    }
    c->n_blocks = 0;
}

void ml_check_defer(struct ml_check *c, void (*release)(void *object), void *object) {
    if (c->n_deferred == ML_CHECK_BLOCKS) {
        release(object);
        ml_check_no_memory(c, 0);
    }
    c->release[c->n_deferred] = release;
    c->object[c->n_deferred++] = object;
}

void ml_check_no_memory(struct ml_check *c, size_t bytes) {
    (void)snprintf(c->trouble, sizeof c->trouble,
                   "kernel check: %s %s: no memory for an operand of %zu bytes", c->row.entry, c->params,
                   bytes);
    longjmp(c->leave, 1);
}

static struct ml_check_block *new_block(struct ml_check *c, enum ml_check_use use, size_t bytes,
                                        size_t align) {
    if (c->n_blocks == ML_CHECK_BLOCKS) ml_check_no_memory(c, bytes);
    struct ml_check_block *b = &c->block[c->n_blocks];
    *b = (struct ml_check_block){.use = use};
    const bool at_end = !c->options->timing && c->row.cases % 2 == 0;
    const size_t slack = c->total->reads_unguarded ? 64 : 0;
    if (!ml_guard_make(&b->memory, bytes, at_end, align, slack)) ml_check_no_memory(c, bytes);
    c->n_blocks++;
    return b;
}

void *ml_check_input(struct ml_check *c, size_t bytes) {
    return new_block(c, ML_CHECK_INPUT, bytes, 1)->memory.data;
}

void *ml_check_scratch(struct ml_check *c, size_t bytes) {
    return new_block(c, ML_CHECK_SCRATCH, bytes, 64)->memory.data;
}

static const size_t size_of[] = {4, 2, 2, 1};

/* NaNs of the type, not the ones that arithmetic makes. */
void ml_check_set_pattern(enum ml_check_type t, void *p, size_t i) {
    static const uint16_t half[] = {0, 0x7da5, 0x7fa5};
    const uint32_t full = 0x7fa5a5a5;
    if (t == ML_CHECK_F32)
        memcpy((char *)p + 4 * i, &full, 4);
    else if (t == ML_CHECK_BYTES)
        ((unsigned char *)p)[i] = ML_GUARD_PATTERN;
    else
        memcpy((char *)p + 2 * i, &half[t], 2);
}

void *ml_check_output(struct ml_check *c, const struct ml_check_result *result) {
    const size_t bytes = result->count * size_of[result->type];
    struct ml_check_block *b = new_block(c, ML_CHECK_OUTPUT, bytes, 1);
    b->result = *result;
    for (size_t i = 0; i < result->count; i++)
        ml_check_set_pattern(result->type, b->memory.data, i);
    return b->memory.data;
}

void ml_check_cost(struct ml_check *c, double bytes, double operations, enum ml_peak_kind kind) {
    c->bytes = bytes;
    c->operations = operations;
    c->kind = kind;
}

void ml_check_streams(struct ml_check *c) {
    c->streams = true;
}

void ml_check_threads(struct ml_check *c) {
    c->threads = true;
}

/* ---- contents ---- */

const char *ml_check_fill_name(enum ml_check_fill fill) {
    static const char *const names[ML_CHECK_FILLS] = {"normal", "zero", "large", "tiny", "special"};
    return names[fill];
}

static float special(struct ml_rng *rng) {
    static const float values[] = {INFINITY, -INFINITY, NAN};
    const unsigned pick = (unsigned)(ml_rng_u64(rng) % 24);
    return pick < 3 ? values[pick] : ml_rng_normal(rng);
}

/* Around the least normal number of the type. */
static float tiny(struct ml_rng *rng, enum ml_dtype t) {
    return ldexpf(ml_rng_normal(rng), t == ML_F16 ? -15 : -127);
}

static float large(struct ml_rng *rng) {
    const float v = ldexpf(1.0f + (float)ml_rng_double(rng), 7 + (int)(ml_rng_u64(rng) % 7));
    return ml_rng_u64(rng) % 2 ? v : -v;
}

static float value(struct ml_rng *rng, enum ml_dtype t, enum ml_check_fill fill) {
    switch (fill) {
    case ML_CHECK_ZERO:
        return ml_rng_u64(rng) % 2 ? 0.0f : -0.0f;
    case ML_CHECK_LARGE:
        return large(rng);
    case ML_CHECK_TINY:
        return tiny(rng, t);
    case ML_CHECK_SPECIAL:
        return special(rng);
    default:
        return ml_rng_normal(rng);
    }
}

/* Timing wants megabytes of ordinary numbers: a short period will do. */
static void fill_fast(struct ml_check *c, enum ml_dtype t, char *p, size_t n) {
    enum { PERIOD = 4093 };
    const size_t size = t == ML_F32 ? 4 : 2, period = n < PERIOD ? n : PERIOD;
    for (size_t i = 0; i < period; i++) {
        const float v = ml_rng_normal(&c->rng);
        const uint16_t half = t == ML_F16 ? ml_f32_to_f16(v) : ml_f32_to_bf16(v);
        memcpy(p + i * size, t == ML_F32 ? (const void *)&v : (const void *)&half, size);
    }
    for (size_t i = period; i < n; i += period)
        memcpy(p + i * size, p, (n - i < period ? n - i : period) * size);
}

/* Under emulation the contents of the cases that a sample leaves out would take ten times as long as the sample. */
void ml_check_fill(struct ml_check *c, enum ml_dtype t, void *p, size_t n, enum ml_check_fill fill) {
    if (!ml_check_is_taken(c)) return;
    if (c->options->timing) {
        fill_fast(c, t, p, n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const float v = value(&c->rng, t, fill);
        if (t == ML_F32)
            memcpy((char *)p + 4 * i, &v, sizeof v);
        else
            ((uint16_t *)p)[i] = t == ML_F16 ? ml_f32_to_f16(v) : ml_f32_to_bf16(v);
    }
}

float *ml_check_floats(struct ml_check *c, size_t n, enum ml_check_fill fill) {
    return ml_check_elements(c, ML_F32, n, fill);
}

void *ml_check_elements(struct ml_check *c, enum ml_dtype t, size_t n, enum ml_check_fill fill) {
    void *p = ml_check_input(c, n * ml_dtype_size(t));
    ml_check_fill(c, t, p, n, fill);
    return p;
}

void ml_check_widen(const struct ml_check *c, enum ml_dtype t, float *dst, const void *src, size_t n) {
    c->reference->k.widen[t](dst, src, n);
}
