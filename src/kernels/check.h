/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel check: every entry of every tier that this CPU can run against the scalar reference, on hostile
 * shapes; the same registration times the entry.
 *
 * ---- how a family of kernels joins
 *
 * 1. Its table is a field of struct ml_check_tables, filled in make_tables (check.c).
 * 2. A file check/<family>.c defines `const struct ml_check_family ml_check_<family>` and is listed in
 * check.c. Its `run` walks over entries, types, shapes and fills; each combination is one case:
 *
 *        struct add_call { float *y; const float *x; size_t n; };
 *        static ml_check_entry *get_add(const struct ml_check_tables *t, int variant) {
 *            return (ml_check_entry *)t->k.add;
 *        }
 *        static void call_add(const struct ml_check_tables *t, void *arg) {
 *            const struct add_call *a = arg;
 *            t->k.add(a->y, a->x, a->n);
 *        }
 *        static void add_case(struct ml_check *c, size_t n, enum ml_check_fill fill) {
 *            if (!ml_check_begin(c, "add", "", get_add, 0)) return;
 *            ml_check_param(c, "n", n);
 *            const struct ml_check_result y = {.type = ML_CHECK_F32, .count = n, .relative = 0x1p-23};
 *            struct add_call a = {.n = n, .x = ml_check_floats(c, n, fill), .y = ml_check_output(c, &y)};
 *            ml_check_fill(c, ML_F32, a.y, n, fill);
 *            ml_check_cost(c, 12.0 * n, 1.0 * n, ML_PEAK_F32);
 *            ml_check_call(c, call_add, &a);
 *        }
 *
 *    ml_check_timing(c) tells which shapes to walk over: many hostile ones, or the few that matter.
 *
 * ---- what a case proves
 *
 * Operands lie in pages of their own, flush with a page that cannot be touched, by turns at their end and at
 * their beginning: what reads or writes outside is caught, and so is a write to an input or an illegal
 * instruction. An output starts as a pattern (NaN), or as what the case filled in. Elements that the
 * reference leaves as the pattern - the gaps of a stride - must stay untouched; the others come within the
 * tolerance of the reference, where NaN equals NaN and an infinity itself. The tier of portable C is the
 * reference: there only the memory is checked.
 *
 * Cases own nothing: memory belongs to the check and is released by ml_check_call, and so is what was handed
 * to ml_check_defer. One thread of control at a time: the check installs signal handlers while a kernel runs.
 */
#ifndef ML_KERNELS_CHECK_H
#define ML_KERNELS_CHECK_H

#include "base/pool.h"
#include "kernels/kernels.h"
#include "kernels/peak.h"
#include "kernels/viterbi.h"

/* ---- running it ---- */

/* What was found about one entry of one tier: a line of `marlin kernels --check` or --bench. */
struct ml_check_row {
    const char *family, *entry, *variant; /* "matmul", "gemv", "BF16" (or "") */
    enum ml_cpu_tier tier;
    const char *params; /* of the case, when timing: "rows=1024 cols=4096" */
    size_t cases;       /* when checking: how many, how many failed */
    size_t failed;
    double worst; /* greatest difference in units of the tolerance */
    /* When timing: medians of one call's time, and rates. Fractions are medians of ratios to a peak measured
     * next to the run by as many threads; a negative one does not apply. */
    double ns, gbps, gops, bandwidth_fraction, compute_fraction;
};

struct ml_check_failure {
    const char *entry, *variant;
    enum ml_cpu_tier tier;
    const char *params; /* "rows=3 cols=17 stride=20 fill=large" */
    const char *text;   /* "element 2 is 1.5, not 1.25 (2.1 times the tolerance)" */
};

struct ml_check_family; /* below */

struct ml_check_options {
    const char *family;                  /* NULL = all */
    const struct ml_check_family *other; /* not NULL: this one, which need not be listed, instead */
    bool timing;                         /* time instead of checking */
    bool quick;                          /* fewer repeats */
    /* Not 0: only every so many cases of a row, and the first of each number of bits; for emulators, which
     * are slow. The same cases in every run; a prime number meets all fills and shapes by turns. */
    size_t sample;
    struct ml_pool *pool; /* for what runs over all threads; NULL = the caller alone */
    void *user;
    void (*on_row)(void *user, const struct ml_check_row *row);             /* may be NULL */
    void (*on_failure)(void *user, const struct ml_check_failure *failure); /* may be NULL */
};

struct ml_check_total {
    size_t checked, failed; /* cases */
    /* This processor's masked loads touch what is masked off (qemu's do): reading less than a vector beyond
     * the end of an operand was not noticed. */
    bool reads_unguarded;
};

/* Names of the families, NULL past the end. */
const char *ml_check_family_name(size_t i);

/* Checks or times. MARLIN_ERR_MEMORY; MARLIN_ERR_ARGUMENT for an unknown family. Cases that fail are not an
 * error of the call: see *total. */
marlin_status ml_check_run(const struct ml_check_options *o, struct ml_check_total *total,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- for families ---- */

struct ml_check; /* one walk over a family with one tier */

/* The tables of one tier. */
struct ml_check_tables {
    enum ml_cpu_tier tier;
    struct ml_kernels k;
    struct ml_viterbi_kernels viterbi;
};

struct ml_check_family {
    const char *name;
    void (*run)(struct ml_check *c);
};

/* A kernel, only to be compared. */
typedef void ml_check_entry(void);
typedef ml_check_entry *ml_check_get_fn(const struct ml_check_tables *t, int variant);

bool ml_check_timing(const struct ml_check *c);
/* The tables of the tier that is checked. */
const struct ml_check_tables *ml_check_tier(const struct ml_check *c);
struct ml_pool *ml_check_pool(const struct ml_check *c);
struct ml_rng *ml_check_rng(struct ml_check *c); /* the same sequence in every run */

/* Starts a case. False, and nothing is to be done, when the tier lacks the entry or has it from the tier
 * below (where it is checked). The strings are literals. */
bool ml_check_begin(struct ml_check *c, const char *entry, const char *variant, ml_check_get_fn *get,
                    int variant_index);

/* Says what is special about the case. */
void ml_check_param(struct ml_check *c, const char *name, size_t value);

/* Contents of operands. */
enum ml_check_fill {
    ML_CHECK_NORMAL,  /* N(0, 1) */
    ML_CHECK_ZERO,    /* zeros of both signs */
    ML_CHECK_LARGE,   /* magnitudes up to 2^14, both signs, over seven powers of two */
    ML_CHECK_TINY,    /* subnormal and least normal numbers of the type */
    ML_CHECK_SPECIAL, /* normal, with a few NaN and infinities */
    ML_CHECK_FILLS
};

/* Memory of the case: read-only once the kernel runs, aligned to 64 bytes when timing, to no more than
 * `bytes` is a multiple of when checking. Does not return when there is none: ml_check_run reports it. */
void *ml_check_input(struct ml_check *c, size_t bytes);

/* Memory that the kernel may write and nobody compares, aligned to 64 bytes. */
void *ml_check_scratch(struct ml_check *c, size_t bytes);

/* release(object) is called when the case ends, however it ends. */
void ml_check_defer(struct ml_check *c, void (*release)(void *object), void *object);

/* Memory whose contents are compared. Right is |got - want| <= relative * scale[i] + absolute, with |want|
 * where scale is NULL; BYTES must be equal. *result is copied; scale (from ml_check_scratch) may be filled
 * until ml_check_call. */
enum ml_check_type { ML_CHECK_F32, ML_CHECK_F16, ML_CHECK_BF16, ML_CHECK_BYTES };
struct ml_check_result {
    enum ml_check_type type;
    size_t count; /* elements */
    double relative, absolute;
    const double *scale; /* [count] */
};
void *ml_check_output(struct ml_check *c, const struct ml_check_result *result);

/* Writes n elements of F32, F16 or BF16. */
void ml_check_fill(struct ml_check *c, enum ml_dtype t, void *p, size_t n, enum ml_check_fill fill);

/* An input of n filled floats; of n elements of a type. */
float *ml_check_floats(struct ml_check *c, size_t n, enum ml_check_fill fill);
void *ml_check_elements(struct ml_check *c, enum ml_dtype t, size_t n, enum ml_check_fill fill);

/* The reference's widening, for tolerances. */
void ml_check_widen(const struct ml_check *c, enum ml_dtype t, float *dst, const void *src, size_t n);

/* "normal", "zero", ... */
const char *ml_check_fill_name(enum ml_check_fill fill);
void ml_check_param_text(struct ml_check *c, const char *name, const char *value);

/* For timing, what one call reads and writes and what it computes (a multiply-add is two operations). */
void ml_check_cost(struct ml_check *c, double bytes, double operations, enum ml_peak_kind kind);
void ml_check_streams(struct ml_check *c); /* the bytes come from memory: compare with its bandwidth */
void ml_check_threads(struct ml_check *c); /* the case uses the pool */

/* Ends the case: calls the reference and the tier and compares, or times the tier. fn is called with the
 * tables that it is to take its kernel from. */
typedef void ml_check_call_fn(const struct ml_check_tables *t, void *arg);
void ml_check_call(struct ml_check *c, ml_check_call_fn *fn, void *arg);

#endif
