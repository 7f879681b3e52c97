/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of kernels. A table is filled with the scalar reference first (kernels/reference: the
 * specification), then overwritten tier by tier with what the CPU mask allows. Every entry has its contract
 * in its family's header. Entries are single-threaded; kernels/exec.h and ops/ spread work over the pool.
 */
#ifndef ML_KERNELS_KERNELS_H
#define ML_KERNELS_KERNELS_H

#include "base/cpu.h"
#include "base/dtype.h"
#include "base/status.h"
#include "kernels/quant.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Weight of a linear layer: y = W x. Row-major [rows, cols] = [out, in] of F32, F16 or BF16. */
struct ml_matrix {
    enum ml_dtype dtype;
    size_t rows, cols;
    size_t stride; /* elements from row to row, >= cols */
    const void *data;
};

/* ---- gemv: y[r] = sum_c W[r, c] x[c] for r in [0, rows). float32 sums in any order. x has cols floats. Data
 * alignment: that of the element type. */
typedef void ml_gemv_fn(float *y, const void *w, size_t stride, const float *x, size_t rows, size_t cols);

/* ---- gemm: y[t * ldy + r] = sum_c W[r, c] x[t * ldx + c], t in [0, n), r in [0, rows); 1 <= n. `scratch`
 * holds at least ml_gemm_scratch bytes, 64-byte aligned. Results equal gemv's up to the order of float32
 * sums. */
typedef void ml_gemm_fn(float *y, size_t ldy, const void *w, size_t stride, const float *x, size_t ldx,
                        size_t n, size_t rows, size_t cols, void *scratch);

/* ---- attention: one KV head, a run of query rows of one sequence, one pass with online softmax.
 *
 * Rows are token-major: row i is head i % group of token i / group (group = query heads that share this KV
 * head). Row i of q is q[(i / group) * q_stride + (i % group) * k_dim + d]; of out the same with out_stride and
 * v_dim.
 *
 * Keys and values lie in pages of ML_PAGE_KEYS slots, in the order in which they were stored. Of the key in
 * slot j, element d is
 *
 *     ((type *)(pages[j / ML_PAGE_KEYS] + k_at))[j % ML_PAGE_KEYS * k_dim + d]
 *
 * and of its value the same with v_at and v_stride. Of int8 ones (narrow_i8) an element is to be multiplied by
 * ((float *)(pages[..] + k_scales_at))[j % ML_PAGE_KEYS]. Pages that no row sees are not looked at.
 *
 * Token t stands in slot slot0 + t. It sees keys j with max(0, slot0 + t - window + 1) <= j <= slot0 + t (window
 * 0 = all). With `tree`, a draft tree: token t is a node of it, at position tree[t].position; it sees the keys
 * before slot tree_slot0 (the first node's) that lie in the window of that position, and of the nodes those
 * whose bit is set in tree[t].seen, node i being in slot tree_slot0 + i.
 *
 * score = dot * scale; when softcap > 0 score = softcap * tanh(score / softcap). sink: when not NULL,
 * sink[i % group] is an extra logit of row i's softmax that carries no value. Keys and values of slots up to the
 * last row's must be finite (hidden ones too: they are multiplied by 0); a row whose scores are NaN comes out as
 * NaN.
 *
 * A long context can be shared out: with `sums`, only keys at [chunk * ML_ATTENTION_CHUNK, (chunk + 1) *
 * ML_ATTENTION_CHUNK) count, no sink does, and what comes out is unfinished: sums[2 i] = m, the greatest
 * score of row i (-inf where it sees no key), sums[2 i + 1] = sum_j exp(score_j - m), out = sum_j exp(score_j
 * - m) v_j. Joined in rising order and divided by the sum, chunks give what one call without `sums` gives:
 * bit for bit, but for the reference, which takes all keys in two passes. */
enum { ML_PAGE_KEYS = 64, ML_ATTENTION_CHUNK = 512, ML_ATTENTION_MAX_DIM = 576 };

/* A node of a draft tree of at most ML_TREE_NODES. */
enum { ML_TREE_NODES = 64 };
struct ml_tree_node {
    uint64_t seen;     /* bit i: node i is this one or an ancestor of it */
    uint64_t position; /* of its token: the parent's + 1 */
};

struct ml_attention_args {
    const float *q;
    size_t q_stride;
    float *out;
    size_t out_stride;
    const char *const *pages;        /* by slot / ML_PAGE_KEYS */
    size_t k_at, v_at;               /* bytes from the start of a page to this KV head's keys and values */
    size_t k_scales_at, v_scales_at; /* the same for the scales of int8 ones */
    size_t k_dim, v_dim;             /* 1..ML_ATTENTION_MAX_DIM */
    size_t v_stride;                 /* from value to value: v_dim, or k_dim where values are part of keys */
    size_t rows;                     /* tokens * group */
    size_t group;
    size_t slot0;
    size_t window;
    const struct ml_tree_node *tree; /* [tokens], or NULL: every token sees all before it */
    size_t tree_slot0;
    float scale, softcap;
    const float *sink;
    float *sums; /* [rows][2], or NULL: all keys, and rows are finished */
    size_t chunk;
};
typedef void ml_attention_fn(const struct ml_attention_args *a);

/* Position of token t, which its window reaches back from. */
static inline size_t ml_attention_position(const struct ml_attention_args *a, size_t t) {
    return a->tree ? (size_t)a->tree[t].position : a->slot0 + t;
}

/* First slot that token t sees, but for nodes of a tree that are hidden from it. */
static inline size_t ml_attention_first(const struct ml_attention_args *a, size_t t) {
    const size_t position = ml_attention_position(a, t);
    const size_t first = a->window && position + 1 > a->window ? position + 1 - a->window : 0;
    return a->tree && first > a->tree_slot0 ? a->tree_slot0 : first;
}

/* Token t sees the key in slot j, which is at least ml_attention_first and at most its own slot. */
static inline bool ml_attention_sees(const struct ml_attention_args *a, size_t t, size_t j) {
    return !a->tree || j < a->tree_slot0 || (a->tree[t].seen >> (j - a->tree_slot0) & 1) != 0;
}

/* Adds an unfinished row of some keys to that of others: out [v_dim], sums [2] as above. A row of no keys
 * is all 0 and {-inf, 0}, or {sink, 1}. */
typedef void ml_attention_join_fn(float *out, float *sums, const float *part, const float *part_sums,
                                  size_t v_dim);

/* ---- norm: y = x * rsqrt(mean(x^2) + eps) * (w + offset); w may be NULL (= 1, and offset is not added). y
 * may equal x. |x| below 1e18 / sqrt(n): squares are summed in float32. */
typedef void ml_rmsnorm_fn(float *y, const float *x, const float *w, float offset, float eps, size_t n);

/* ---- rope: rotates pairs of x[heads, stride] in place by one position's cos/sin [rotary / 2].
 * split-half pairs (i, i + rotary/2) or, interleaved, (2i, 2i + 1). */
typedef void ml_rope_fn(float *x, size_t heads, size_t stride, size_t rotary, const float *cos,
                        const float *sin);

/* ---- element-wise. y may equal an input. NaN in, NaN out; silu and gelu of -inf are NaN, as 0 * inf is.
 * softmax: entries of -inf give 0; NaN or +inf anywhere, or nothing but -inf, gives NaN everywhere. */
typedef void ml_glu_fn(float *y, const float *gate, const float *up, size_t n); /* act(gate) * up */
typedef void ml_add_fn(float *y, const float *x, size_t n);                     /* y += x */
typedef void ml_axpy_fn(float *y, float a, const float *x, size_t n);           /* y += a x */
typedef void ml_softcap_fn(float *y, float cap, size_t n);                      /* y = cap tanh(y / cap) */
typedef void ml_softmax_fn(float *y, const float *x, size_t n);

/* ---- conversions of n elements; no alignment beyond the element's. */
typedef void ml_widen_fn(float *dst, const void *src, size_t n);
typedef void ml_narrow_fn(void *dst, const float *src, size_t n); /* round to nearest even */

/* A row of whole numbers -127..127 and the scale that they are to be multiplied by, which is returned: max
 * |x| / 127, to nearest even. So |x[i] - scale * q[i]| <= scale / 2, but for float32 rounding (2^-15 of
 * scale). Rows of less than 127 FLT_MIN become zeros of scale 0; rows with a NaN or an infinity zeros of
 * scale NaN, which makes NaN of whatever is computed with them. Every tier writes the same. */
typedef float ml_narrow_i8_fn(int8_t *q, const float *x, size_t n);

enum { ML_FLOAT_KINDS = 3 }; /* index = enum ml_dtype: ML_F32, ML_F16, ML_BF16 */

struct ml_kernels {
    enum ml_cpu_tier tier;
    ml_gemv_fn *gemv[ML_FLOAT_KINDS];
    ml_gemm_fn *gemm[ML_FLOAT_KINDS];
    ml_attention_fn *attention[ML_FLOAT_KINDS]; /* by KV type; BF16 is NULL */
    ml_attention_fn *attention_i8;              /* see ml_attention_of */
    ml_attention_join_fn *attention_join;
    ml_rmsnorm_fn *rmsnorm;
    ml_rope_fn *rope_half, *rope_interleaved;
    ml_glu_fn *silu_glu, *gelu_glu, *sigmoid_glu; /* gelu: tanh approximation */
    ml_add_fn *add;
    ml_axpy_fn *axpy;
    ml_softcap_fn *softcap;
    ml_softmax_fn *softmax;
    ml_widen_fn *widen[ML_FLOAT_KINDS];
    ml_narrow_fn *narrow[ML_FLOAT_KINDS];
    ml_narrow_i8_fn *narrow_i8;
    struct ml_quant_kernels quant;
};

/* Fills the table for a tier (each tier only overwrites what it has). The tier must be one this CPU can run.
 */
void ml_kernels_init(struct ml_kernels *k, const struct ml_cpu *cpu, enum ml_cpu_tier tier);

/* The table of the best tier that hardware and mask allow; made once. Any thread. */
const struct ml_kernels *ml_kernels(void);

/* Attention over keys and values of a type: F32, F16 or I8. */
ml_attention_fn *ml_attention_of(const struct ml_kernels *k, enum ml_dtype kv_type);

/* Scratch of a gemm call, bytes: a panel, however wide the matrix is. */
size_t ml_gemm_scratch(void);

#endif
