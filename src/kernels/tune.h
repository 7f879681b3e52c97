/* SPDX-License-Identifier: Apache-2.0
 *
 * Measuring what kernels/selection.h chooses from, and the file that keeps it for this machine.
 *
 * The file is JSON in $XDG_CACHE_HOME/marlin (else ~/.cache/marlin). Its name carries a hash of the machine,
 * so that machines that share a home directory, and tiers under a CPU mask, do not take each other's file. It
 * is used when its version, the program's version and every field of the machine are those of the reader, and
 * everything in it is in order; else a warning says why not, and the table of the source is used.
 *
 *   {"version": 1, "program": "0.1.0",
 *    "machine": {"name": "..", "tier": "avx512", "features": ["avx512bf16"], "l1d": .., "l2": .., "l3": ..},
 *    "threads": 2,                        those that measured; any number may use it
 *    "cost": {"f32": [one, more, fixed, row], ... every kind}}
 */
#ifndef ML_KERNELS_TUNE_H
#define ML_KERNELS_TUNE_H

#include "base/buf.h"
#include "base/pool.h"
#include "kernels/selection.h"

struct ml_kernels;

/* Called before a kind is measured; round < ML_TUNE_ROUNDS. */
typedef void ml_tune_fn(void *user, int round, int kind);
enum { ML_TUNE_ROUNDS = 8 };

/* Times products of every kind with all threads of the pool (NULL: the caller alone) on matrices that stream
 * from memory; seconds, on the tier of portable C minutes. s->machine and what kernels can do is filled in as
 * ml_selection_default does. MARLIN_ERR_MEMORY. */
marlin_status ml_tune(const struct ml_kernels *k, struct ml_pool *pool, ml_tune_fn *fn, void *user,
                      struct ml_selection *s, struct marlin_error *err) MARLIN_MUST_CHECK;

/* The machine that this process runs on, with `threads` workers. */
struct ml_machine ml_machine_here(int threads);

/* Appends the machine as a JSON object: the processor, not the threads. */
marlin_status ml_machine_json(const struct ml_machine *m, struct ml_buf *b) MARLIN_MUST_CHECK;

/* Path of a machine's file into path[cap]. MARLIN_ERR_NOT_FOUND when the environment names no place,
 * MARLIN_ERR_LIMIT when it does not fit. */
marlin_status ml_tune_path(const struct ml_machine *m, char *path, size_t cap,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* The text of the file. `limit` of *b is the caller's. */
marlin_status ml_tune_write(const struct ml_selection *s, struct ml_buf *b) MARLIN_MUST_CHECK;

/* Reads a file's text. s->machine is the reader's; cost and measured are overwritten on success alone.
 * MARLIN_ERR_FORMAT: damaged, MARLIN_ERR_UNSUPPORTED: of another version or machine. */
marlin_status ml_tune_parse(const char *text, size_t len, struct ml_selection *s,
                            struct marlin_error *err) MARLIN_MUST_CHECK;

/* Writes the file of s->machine, making its folder. Readers see the old file or the new one. */
marlin_status ml_tune_save(const struct ml_selection *s, struct marlin_error *err) MARLIN_MUST_CHECK;

/* Overwrites s->cost by the file of s->machine if there is a good one. Warns through base/log.h of a file
 * that is not, and leaves s alone. */
void ml_tune_load(struct ml_selection *s);

/* What this process chooses from: the file, else the table of the source; read once. Any thread. */
const struct ml_selection *ml_selection(void);

#endif
