/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention over the vector vocabulary of a tier: a block of rows against a block of keys at a time, so that
 * the scores that exist at once are a few KiB and the rows of a group share what is loaded of K and V. Scores
 * are the tile of gemv (4 keys by TILE_TOKENS rows); outputs accumulate in `out` itself, TILE_TOKENS rows by
 * 4 vectors.
 *
 * Running softmax: m is the greatest score so far, l the sum of exp(score - m); when a block raises m, what
 * was accumulated shrinks by exp(m_old - m_new). Every chunk of keys starts anew and is joined to what came
 * before, whoever computes it, so that sharing out a context changes no bit. A sink is what the first is
 * joined to.
 *
 * Values of a block are fetched while its scores are computed, the next block's keys while its values are
 * summed.
 */
#ifndef ML_KERNELS_CPU_ATTENTION_SIMD_H
#define ML_KERNELS_CPU_ATTENTION_SIMD_H

#include "kernels/cpu/math_simd.h"
#include "kernels/cpu/matmul_simd.h"

#include <math.h>

/* A block of keys is a page of the cache. */
enum { ROW_BLOCK = 4 * TILE_TOKENS, KEY_BLOCK = ML_PAGE_KEYS, DIM_VECTORS = 4 };

/* One copy for all callers: inlined ones may be contracted to multiply-adds in different ways. */
#define ONE_COPY __attribute__((noinline))

struct softmax_rows {
    size_t n;
    const float *q[ROW_BLOCK];
    float *out[ROW_BLOCK];
    float m[ROW_BLOCK], l[ROW_BLOCK];
    float shrink[ROW_BLOCK]; /* of this block of keys */
    float p[ROW_BLOCK][KEY_BLOCK];
    float *p_row[ROW_BLOCK];
};

V_INLINE vf shape_scores(vf s, float scale, float softcap) {
    s = v_mul(s, v_set1(scale));
    if (softcap > 0) s = v_mul(v_set1(softcap), v_tanh(v_div(s, v_set1(softcap))));
    return s;
}

/* The scores of one row of a draft tree with the nodes of a block that starts at key0: those of nodes that are
 * hidden from it become -inf, which weighs nothing. False when the row sees no key of the block. */
ONE_COPY static bool hide_nodes(const struct ml_attention_args *a, size_t token, float *s, size_t key0,
                                size_t begin, size_t end) {
    bool any = false;
    for (size_t j = begin; j < end; j++) {
        const bool sees = ml_attention_sees(a, token, key0 + j);
        if (!sees) s[j] = -INFINITY;
        any = any || sees;
    }
    return any;
}

/* Scores s[begin, end) of one row become weights; what lies outside, up to n, becomes 0. */
ONE_COPY static void softmax_block(const struct ml_attention_args *a, struct softmax_rows *b, size_t i,
                                   size_t token, size_t key0, size_t begin, size_t end, size_t n) {
    float *s = b->p[i], top = b->m[i];
    for (size_t j = begin; j < end; j += VL) {
        const size_t left = end - j < VL ? end - j : VL;
        const vf v = shape_scores(v_loadn(s + j, left), a->scale, a->softcap);
        v_storen(s + j, v, left);
    }
    if (a->tree && !hide_nodes(a, token, s, key0, begin, end)) begin = end = 0;
    for (size_t j = begin; j < end; j++)
        top = s[j] > top ? s[j] : top;
    b->shrink[i] = b->m[i] == top ? 1.0f : expf(b->m[i] - top);
    vf sum = v_zero();
    for (size_t j = begin; j < end; j += VL) {
        const size_t left = end - j < VL ? end - j : VL;
        v_storen(s + j, v_exp(v_sub(v_loadn(s + j, left), v_set1(top))), left);
        sum = v_add(sum, v_loadn(s + j, left));
    }
    b->l[i] = b->l[i] * b->shrink[i] + v_sum(sum);
    b->m[i] = top;
    for (size_t j = 0; j < begin; j++)
        s[j] = 0;
    for (size_t j = end; j < n; j++)
        s[j] = 0;
}

/* Int8 keys and values are multiplied as the whole numbers that they are: a key's scale multiplies its score,
 * a value's its weight. */
V_INLINE void scale_keys(float *s, const float *scales, size_t begin, size_t end) {
    for (size_t j = begin; j < end; j += VL) {
        const size_t left = end - j < VL ? end - j : VL;
        v_storen(s + j, v_mul(v_loadn(s + j, left), v_loadn(scales + j, left)), left);
    }
}

/* out[i][d] = out[i][d] * shrink[i] + sum_j p[i][j] V[j][d] for `vectors` vectors at d, or the last `left` <
 * VL elements when left > 0. */
V_INLINE void value_tile(const enum ml_dtype t, const int rows, const int vectors, struct softmax_rows *b,
                         size_t i0, const void *v, size_t stride, size_t keys, size_t d, size_t left,
                         const bool fetch, const char *meanwhile) {
    const size_t size = element_size(t);
    vf acc[TILE_TOKENS][DIM_VECTORS];
    UNROLL
    for (int i = 0; i < rows; i++) {
        const vf shrink = v_set1(b->shrink[i0 + i]);
        UNROLL
        for (int c = 0; c < vectors; c++) {
            const float *o = b->out[i0 + i] + d + c * VL;
            acc[i][c] = v_mul(left ? v_loadn(o, left) : v_load(o), shrink);
        }
    }
    for (size_t j = 0; j < keys; j++) {
        vf value[DIM_VECTORS];
        UNROLL
        for (int c = 0; c < vectors; c++) {
            const size_t at = j * stride + d + (size_t)c * VL;
            value[c] = left ? v_loadn_as(t, v, at, left) : v_load_as(t, v, at);
            if (fetch && new_line(t, c)) __builtin_prefetch(meanwhile + at * size);
        }
        UNROLL
        for (int i = 0; i < rows; i++) {
            const vf p = v_set1(b->p[i0 + i][j]);
            UNROLL
            for (int c = 0; c < vectors; c++)
                acc[i][c] = v_fma(p, value[c], acc[i][c]);
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int c = 0; c < vectors; c++) {
            float *o = b->out[i0 + i] + d + c * VL;
            if (left)
                v_storen(o, acc[i][c], left);
            else
                v_store(o, acc[i][c]);
        }
    }
}

V_INLINE void value_rows(const enum ml_dtype t, const int rows, struct softmax_rows *b, size_t i0,
                         const void *v, size_t stride, size_t keys, size_t dim, const bool fetch,
                         const char *meanwhile) {
    size_t d = 0;
    for (; d + DIM_VECTORS * VL <= dim; d += DIM_VECTORS * VL)
        value_tile(t, rows, DIM_VECTORS, b, i0, v, stride, keys, d, 0, fetch, meanwhile);
    for (; d + VL <= dim; d += VL)
        value_tile(t, rows, 1, b, i0, v, stride, keys, d, 0, fetch, meanwhile);
    if (d < dim) value_tile(t, rows, 1, b, i0, v, stride, keys, d, dim - d, fetch, meanwhile);
}

V_INLINE void value_tokens(const enum ml_dtype t, size_t rows, struct softmax_rows *b, size_t i0,
                           const void *v, size_t stride, size_t keys, size_t dim, const bool fetch,
                           const char *meanwhile){
#define CALL(n) value_rows(t, n, b, i0, v, stride, keys, dim, fetch, meanwhile)
    FOR_TOKENS(rows, CALL)
#undef CALL
}

/* First slot that one of the rows row0 .. row0 + n sees. Later tokens see later ones, but for trees. */
V_INLINE size_t first_slot(const struct ml_attention_args *a, size_t row0, size_t n) {
    const size_t last = (row0 + n - 1) / a->group;
    size_t first = ml_attention_first(a, row0 / a->group);
    for (size_t t = row0 / a->group + 1; a->tree && t <= last; t++) {
        const size_t other = ml_attention_first(a, t);
        first = other < first ? other : first;
    }
    return first;
}

/* Slot of a row's own key. */
V_INLINE size_t row_slot(const struct ml_attention_args *a, size_t row) {
    return a->slot0 + row / a->group;
}

/* Rows row0 .. row0 + n: their queries and, where they are finished, their outputs. */
V_INLINE void begin_rows(const struct ml_attention_args *a, struct softmax_rows *b, size_t row0, size_t n) {
    b->n = n;
    for (size_t i = 0; i < n; i++) {
        const size_t token = (row0 + i) / a->group, head = (row0 + i) % a->group;
        b->q[i] = a->q + token * a->q_stride + head * a->k_dim;
        b->out[i] = a->out + token * a->out_stride + head * a->v_dim;
        b->p_row[i] = b->p[i];
    }
}

/* Scores of all rows with a block of keys. A few rows are bound by memory: what comes next is fetched
 * meanwhile. Many are not, and asking in the inner loop whether to costs them a third. */
V_INLINE void score_rows(const enum ml_dtype t, const struct ml_attention_args *a, struct softmax_rows *b,
                         const void *k, size_t keys, const char *next) {
    if (b->n <= TILE_TOKENS) {
        direct_tokens(t, b->n, b->p_row, k, a->k_dim, b->q, keys, a->k_dim, true, next);
        return;
    }
    for (size_t i = 0; i < b->n; i += TILE_TOKENS) {
        const size_t rows = b->n - i < TILE_TOKENS ? b->n - i : TILE_TOKENS;
        direct_tokens(t, rows, b->p_row + i, k, a->k_dim, b->q + i, keys, a->k_dim, false, NULL);
    }
}

/* The same for their sums of values. */
V_INLINE void weigh_rows(const enum ml_dtype t, const struct ml_attention_args *a, struct softmax_rows *b,
                         const void *v, size_t keys, const char *next) {
    if (b->n <= TILE_TOKENS) {
        value_tokens(t, b->n, b, 0, v, a->v_stride, keys, a->v_dim, true, next);
        return;
    }
    for (size_t i = 0; i < b->n; i += TILE_TOKENS) {
        const size_t rows = b->n - i < TILE_TOKENS ? b->n - i : TILE_TOKENS;
        value_tokens(t, rows, b, i, v, a->v_stride, keys, a->v_dim, false, NULL);
    }
}

/* The keys in slots key0 .. key0 + keys, all of one page. `more`: the next page will be read too. */
V_INLINE void key_block(const enum ml_dtype t, const struct ml_attention_args *a, struct softmax_rows *b,
                        size_t row0, size_t key0, size_t keys, bool more) {
    const char *page = a->pages[key0 / KEY_BLOCK];
    const char *k = page + a->k_at, *v = page + a->v_at;
    const char *next = more ? a->pages[key0 / KEY_BLOCK + 1] + a->k_at : k;
    const float *k_scales = (const float *)(const void *)(page + a->k_scales_at);
    const float *v_scales = (const float *)(const void *)(page + a->v_scales_at);
    score_rows(t, a, b, k, keys, v);
    for (size_t i = 0; i < b->n; i++) {
        const size_t token = (row0 + i) / a->group, slot = a->slot0 + token;
        const size_t first = ml_attention_first(a, token);
        const size_t begin = first <= key0 ? 0 : first - key0 < keys ? first - key0 : keys;
        const size_t end = slot < key0 ? 0 : slot - key0 + 1 < keys ? slot - key0 + 1 : keys;
        if (t == ML_I8) scale_keys(b->p[i], k_scales, begin, end);
        softmax_block(a, b, i, token, key0, begin, end, keys);
        if (t == ML_I8) scale_keys(b->p[i], v_scales, begin, end);
    }
    weigh_rows(t, a, b, v, keys, next);
}

ONE_COPY static void attention_join(float *out, float *sums, const float *part, const float *part_sums,
                                    size_t v_dim) {
    if (part_sums[1] == 0) return;
    const float top = sums[0] > part_sums[0] ? sums[0] : part_sums[0];
    const float old = expf(sums[0] - top), add = expf(part_sums[0] - top);
    const vf shrink = v_set1(old), grow = v_set1(add);
    for (size_t d = 0; d < v_dim; d += VL) {
        const size_t left = v_dim - d < VL ? v_dim - d : VL;
        v_storen(out + d, v_fma(v_loadn(part + d, left), grow, v_mul(v_loadn(out + d, left), shrink)), left);
    }
    sums[0] = top;
    sums[1] = sums[1] * old + part_sums[1] * add;
}

/* One chunk's keys: m, l and the sums of b->out, unfinished. Blocks start at multiples of KEY_BLOCK: a row's
 * sums do not depend on the rows it is computed with. */
V_INLINE void chunk_rows(const enum ml_dtype t, const struct ml_attention_args *a, struct softmax_rows *b,
                         size_t row0, size_t chunk) {
    const size_t seen = row_slot(a, row0 + b->n - 1) + 1, stop = (chunk + 1) * ML_ATTENTION_CHUNK;
    const size_t end = seen < stop ? seen : stop, begin = chunk * ML_ATTENTION_CHUNK;
    const size_t first = first_slot(a, row0, b->n) / KEY_BLOCK * KEY_BLOCK;
    for (size_t i = 0; i < b->n; i++) {
        b->m[i] = -INFINITY;
        b->l[i] = 0;
        for (size_t d = 0; d < a->v_dim; d++)
            b->out[i][d] = 0;
    }
    for (size_t key = first > begin ? first : begin; key < end; key += KEY_BLOCK)
        key_block(t, a, b, row0, key, end - key < KEY_BLOCK ? end - key : KEY_BLOCK, end - key > KEY_BLOCK);
}

/* Chunks [first, last), one after the other, joined in `out`. */
V_INLINE void join_chunks(const enum ml_dtype t, const struct ml_attention_args *a, struct softmax_rows *b,
                          size_t row0, size_t first, size_t last) {
    float part[ROW_BLOCK][ML_ATTENTION_MAX_DIM], sums[ROW_BLOCK][2], *out[ROW_BLOCK];
    for (size_t i = 0; i < b->n; i++) {
        out[i] = b->out[i];
        b->out[i] = part[i];
        sums[i][0] = a->sink ? a->sink[(row0 + i) % a->group] : -INFINITY;
        sums[i][1] = a->sink ? 1.0f : 0.0f;
        for (size_t d = 0; d < a->v_dim; d++)
            out[i][d] = 0;
    }
    for (size_t chunk = first; chunk < last; chunk++) {
        chunk_rows(t, a, b, row0, chunk);
        for (size_t i = 0; i < b->n; i++)
            attention_join(out[i], sums[i], part[i], (const float[]){b->m[i], b->l[i]}, a->v_dim);
    }
    for (size_t i = 0; i < b->n; i++) {
        b->out[i] = out[i];
        b->l[i] = sums[i][1];
    }
}

V_INLINE void finish_rows_of(const struct ml_attention_args *a, struct softmax_rows *b) {
    for (size_t i = 0; i < b->n; i++) {
        const float inv = 1.0f / b->l[i];
        for (size_t d = 0; d < a->v_dim; d++)
            b->out[i][d] *= inv;
    }
}

V_INLINE void attention(const enum ml_dtype t, const struct ml_attention_args *a) {
    struct softmax_rows b;
    for (size_t row = 0; row < a->rows; row += ROW_BLOCK) {
        begin_rows(a, &b, row, a->rows - row < ROW_BLOCK ? a->rows - row : ROW_BLOCK);
        if (a->sums) {
            chunk_rows(t, a, &b, row, a->chunk);
            for (size_t i = 0; i < b.n; i++) {
                a->sums[2 * (row + i)] = b.m[i];
                a->sums[2 * (row + i) + 1] = b.l[i];
            }
            continue;
        }
        const size_t first = first_slot(a, row, b.n) / ML_ATTENTION_CHUNK;
        const size_t last = row_slot(a, row + b.n - 1) / ML_ATTENTION_CHUNK + 1;
        if (first + 1 == last && !a->sink)
            chunk_rows(t, a, &b, row, first);
        else
            join_chunks(t, a, &b, row, first, last);
        finish_rows_of(a, &b);
    }
}

static void attention_f32(const struct ml_attention_args *a) {
    attention(ML_F32, a);
}

static void attention_f16(const struct ml_attention_args *a) {
    attention(ML_F16, a);
}

static void attention_i8(const struct ml_attention_args *a) {
    attention(ML_I8, a);
}

#endif
