/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations that a forward pass is made of: one const table a backend. An operation is put onto a stream,
 * happens after what was put there before, and cannot fail when it is put there; what goes wrong is reported by
 * `flush`. Operations neither allocate nor lock.
 *
 * Unless a comment says host, a pointer in the arguments of an operation is a device address; strides and
 * widths are in elements. The argument structs themselves, and arrays of jobs in them, lie in host memory and
 * are read before the call returns. Activations are float32, token-major: [rows, width].
 *
 * Positions, slots and page tables lie in device memory (struct ml_pass), never in arguments: what was put onto
 * a stream for one token can be put there again for the next.
 *
 * The CPU's table (ml_ops_cpu) is complete and its results are the reference: for the portable tier that of the
 * scalar kernels. Every tier, thread count and composition of a pass gives the same bits for a row. A table
 * that leaves an entry NULL gets it from ops/fallback.h, which computes on the CPU over copies.
 */
#ifndef ML_OPS_OPS_H
#define ML_OPS_OPS_H

#include "base/pool.h"
#include "base/status.h"
#include "device/device.h"
#include "ops/weights.h"

/* ---- the rows of a pass ---- */

/* Rows first .. first + n of a pass belong to one sequence and stand in slots slot0 .. slot0 + n of its memory. */
struct ml_pass_run {
    int32_t first, n;
    int64_t slot0;
    int32_t tree; /* 1: the rows are nodes of a draft tree */
    int32_t unused;
};

/* What operations know of the rows of a pass. n and n_runs are the host's own knowledge; arrays are the
 * device's. */
struct ml_pass {
    size_t n, n_runs;
    const int32_t *ids;                  /* [n]; -1: the row is an embedding that the caller gives */
    const int32_t *position;             /* [n][3]: time, height, width; text uses the first */
    const int32_t *run_of;               /* [n] */
    const struct ml_pass_run *runs;      /* [n_runs], in the order of their rows */
    const struct ml_pass_run *host_runs; /* the same, in host memory */
    const struct ml_tree_node *tree;     /* [n]; read for rows of runs that are trees, whose positions are at
                                            least slot0 of the run */
};

/* Pages of the runs' sequences for the layers of one group: run r's page of slots 64 i .. 64 i + 64 is
 * table[r * stride + i]. Entries of pages that no row of the pass sees may be anything. */
struct ml_page_table {
    const char *const *table;
    size_t stride;
};

/* Where a layer's keys and values lie in a page: KV head h's at h * head_bytes behind those of head 0. The rows
 * of a head are as kernels.h says (struct ml_attention_args). */
struct ml_kv_layout {
    enum ml_dtype dtype; /* ML_F32, ML_F16 or ML_I8 */
    size_t kv_heads, k_dim, v_dim, v_stride;
    size_t at, bytes; /* of all that the layer has in a page */
    size_t head_bytes;
    size_t k_at, v_at, k_scales_at, v_scales_at; /* of head 0, from the start of the page */
};

/* ---- arguments ---- */

/* x[t] = row ids[t] of the embedding; rows of id -1 are left alone. */
struct ml_embed_op {
    const struct ml_embedding *embedding;
    const struct ml_pass *pass;
    float *x; /* [n, width] */
    size_t width;
};

/* y[t] = norm(x[t]) for n rows of norm->n; y may be x. */
struct ml_norm_op {
    const struct ml_norm *norm;
    const float *x;
    float *y;
    size_t n;
};

/* x[t] += y[t] for n rows of `width`. */
struct ml_add_op {
    float *x;
    const float *y;
    size_t n, width;
};

/* y[t] = W x[t] + bias for n rows. */
struct ml_linear_job {
    const struct ml_linear *linear;
    float *y; /* [n, linear->out] */
    size_t ldy;
    const float *x; /* [n, linear->in] */
    size_t ldx, n;
};
enum { ML_LINEAR_JOBS = 16 };
struct ml_linear_op {
    const struct ml_linear_job *jobs; /* host */
    size_t n_jobs;                    /* at most ML_LINEAR_JOBS */
    enum ml_quant_mode mode;          /* of quantized weights */
};

/* Cosines and sines of the positions of all rows, times `scale`. */
struct ml_angles_op {
    const struct ml_pass *pass;
    const float *inv_freq; /* [n_runs][half]: by run, since tables may depend on a sequence's length */
    size_t half;
    float scale;
    float *cos, *sin; /* [n, half] */
};

/* What happens to q, k and v between their projections and attention: norms of heads (or of whole rows),
 * rotation, and the store of k and v into the pages. */
struct ml_rope_store_op {
    const struct ml_pass *pass;
    struct ml_page_table pages;
    struct ml_kv_layout layout;
    float *q, *k; /* [n, q_width], [n, kv_heads * k_dim]; changed in place */
    const float *v;
    size_t q_width;
    const struct ml_norm *q_norm, *k_norm; /* w NULL: none; over runs of norm->n elements */
    const float *cos, *sin;                /* [n, rotary / 2] */
    size_t rotary;                         /* leading dimensions of a head that rotate; 0 = none */
    bool interleaved;                      /* pairs (2i, 2i + 1) instead of (i, i + rotary / 2) */
    size_t rotary_at;                      /* where they begin in a head, if not at its start */
    bool norm_leading; /* norms are over the leading norm->n elements of each head alone */
    bool norm_last;    /* the norms come after the rotation */
    float temper;      /* q of position p times 1 + temper * ln(1 + floor(p / temper_length)) */
    size_t temper_length;
};

struct ml_attention_op {
    const struct ml_pass *pass;
    struct ml_page_table pages;
    struct ml_kv_layout layout;
    const float *q; /* [n, heads * k_dim] */
    float *out;     /* [n, heads * v_dim] */
    size_t heads, window;
    float scale, softcap;
    const float *sinks; /* [heads] or NULL */
};

/* gate[t] = act(gate[t]) * up[t] for n rows of `width`. */
struct ml_glu_op {
    struct ml_activation_rule act;
    float *gate;
    const float *up;
    size_t n, width;
};

/* Who goes where in a mixture of experts. Pairs (row t, choice c) are numbered t * top_k + c; sorted by expert,
 * in rising order within one, they fill rows 0.. of the gathered input. In device memory. */
struct ml_moe_plan {
    int32_t *expert; /* [n * top_k] of pair */
    float *weight;   /* [n * top_k] of pair */
    int32_t *row;    /* [n * top_k] of pair: its row when sorted */
    int32_t *token;  /* [n * top_k] of row */
    int32_t *start;  /* [experts + 1] first row of each expert */
};

/* Fills the plan from the router's logits, which become probabilities. */
struct ml_route_op {
    struct ml_router router;
    float *logits; /* [n, experts] */
    size_t n;
    struct ml_moe_plan plan;
};

/* y[t] = sum over t's choices of weight * down(act(gate x[t]) * up x[t]), summed in the order of the choices
 * whatever order the experts ran in. On the host, pair_x (of n > 1) and pair_gate hold afterwards what the first
 * two and the last linears of the experts have read. */
struct ml_experts_op {
    const struct ml_moe *moe;
    enum ml_quant_mode mode;
    struct ml_activation_rule act;
    const float *x; /* [n, H] */
    size_t n;
    float *y; /* [n, H] */
    struct ml_moe_plan plan;
    float *pair_x, *pair_y;     /* work: [n * top_k, H] */
    float *pair_gate, *pair_up; /* work: [n * top_k, width] */
};

/* x = cap * tanh(x / cap), n elements. */
struct ml_softcap_op {
    float *x;
    size_t n;
    float cap;
};

/* y[i] = x[rows[i]] for n rows of `width`. */
struct ml_gather_op {
    const float *x;
    const int32_t *rows;
    float *y;
    size_t n, width;
};

/* Strided copy: row i of y gets row i of x, `width` elements each, n rows that are x_step and y_step apart. */
struct ml_copy_op {
    const float *x;
    float *y;
    size_t x_step, y_step, n, width;
};

/* ---- the table ---- */

/* The operations that are put onto a stream, for those who walk over all of them: X(name). */
#define ML_OPS(X)                                                                                            \
    X(embed)                                                                                                 \
    X(norm)                                                                                                  \
    X(add)                                                                                                   \
    X(linear) X(angles) X(rope_store) X(attention) X(glu) X(route) X(experts) X(softcap) X(gather) X(copy)

/* The most that operations on a stream will be asked for. */
struct ml_ops_sizes {
    size_t rows, runs, positions;  /* of a pass; of a sequence */
    size_t quant_cols, quant_rows; /* largest padded sizes of a quantized matrix; 0 when there is none */
    size_t sum_rows;               /* most outputs of a layer that is a sum of pieces; 0 when there is none */
    size_t heads, kv_heads, v_dim; /* of attention */
    size_t experts, top_k;         /* 0 when there are none */
};

struct ml_ops {
    const char *name; /* "cpu" */
    /* Working memory of operations on a stream (s->work), and the threads that a CPU uses, which are the
     * caller's; NULL pool: the calling thread alone. close: NULL work is fine. */
    marlin_status (*open)(struct ml_stream *s, struct ml_pool *pool, const struct ml_ops_sizes *sizes,
                          struct marlin_error *err);
    void (*close)(struct ml_stream *s);
    /* Waits for the stream; the first thing that went wrong since the last flush. */
    marlin_status (*flush)(struct ml_stream *s, struct marlin_error *err);
    /* Bytes that `open` takes, for estimates, with so many threads; false on overflow. */
    bool (*bytes)(const struct ml_ops_sizes *sizes, size_t threads, size_t *out);

#define ML_OPS_ENTRY(name) void (*name)(struct ml_stream *, const struct ml_##name##_op *);
    ML_OPS(ML_OPS_ENTRY)
#undef ML_OPS_ENTRY
};

extern const struct ml_ops ml_ops_cpu;

/* The CPU's operations with the kernels of another tier than the best: for comparisons. Call after open. */
void ml_ops_cpu_use(struct ml_stream *s, const struct ml_kernels *k);

/* The table of a device's backend; NULL where it has none. */
const struct ml_ops *ml_ops_of(const struct ml_device *d);

#endif
