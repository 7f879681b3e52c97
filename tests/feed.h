/* SPDX-License-Identifier: Apache-2.0
 *
 * One sequence and the work that feeds it: what a test of a whole model wants most of the time.
 */
#ifndef ML_TESTS_FEED_H
#define ML_TESTS_FEED_H

#include "models/model.h"

/* All zero: nothing is open. */
struct feed {
    struct ml_cache *cache; /* NULL when the sequence has its own */
    struct ml_sequence *sequence;
    struct ml_work *work;
};

static inline void feed_close(struct feed *f) {
    ml_work_free(f->work);
    ml_sequence_free(f->sequence);
    ml_cache_free(f->cache);
    *f = (struct feed){0};
}

static inline marlin_status feed_open_work(struct feed *f, const struct ml_model *m, struct ml_pool *pool,
                                           size_t positions, size_t rows, struct marlin_error *err) {
    const struct ml_work_sizes sizes = {.rows = rows, .runs = 1, .positions = positions};
    return ml_work_create(m, pool, &sizes, &f->work, err);
}

/* An empty sequence of the model's own type of keys, for passes of at most `rows` rows. On an error f is all
 * zero. */
static inline marlin_status feed_open(struct feed *f, const struct ml_model *m, struct ml_pool *pool,
                                      size_t positions, size_t rows, struct marlin_error *err) {
    *f = (struct feed){0};
    marlin_status st = ml_sequence_create_alone(m, positions, rows, &f->sequence, err);
    if (st == MARLIN_OK) st = feed_open_work(f, m, pool, positions, rows, err);
    if (st != MARLIN_OK) feed_close(f);
    return st;
}

/* The same on a cache of another type. */
static inline marlin_status feed_open_as(struct feed *f, const struct ml_model *m, struct ml_pool *pool,
                                         size_t positions, size_t rows, enum ml_dtype type,
                                         struct marlin_error *err) {
    const struct ml_pages_sizes sizes = {.sequences = 1, .positions = positions, .rows = rows};
    *f = (struct feed){0};
    marlin_status st = ml_cache_create(m, type, &sizes, &f->cache, err);
    if (st == MARLIN_OK) st = ml_sequence_create(f->cache, positions, &f->sequence, err);
    if (st == MARLIN_OK) st = feed_open_work(f, m, pool, positions, rows, err);
    if (st != MARLIN_OK) feed_close(f);
    return st;
}

#endif
