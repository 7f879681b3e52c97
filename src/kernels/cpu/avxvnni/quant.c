/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized products of the AVX2 tier with AVX-VNNI and GFNI (Alder Lake, Zen 5 and later).
 */
#include "kernels/cpu/avx2/qvec.h"

#include "kernels/cpu/avxvnni/chain_products.h"

static void vnni_arrange(const struct ml_quant_matrix *m, void *to, size_t begin, size_t end) {
    (is_chained(m) ? chain_arrange : ml_quant_interleave)(m, to, begin, end);
}

static void vnni_round(struct ml_quant_x *x, const struct ml_quant_matrix *m, enum ml_quant_rows rows,
                       const float *rotated) {
    if (is_chained(m) && rows != ML_QUANT_MANY)
        chain_round(x, m, rotated);
    else
        quant_round(x, m, rows, rotated);
}

static void vnni_dot(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x) {
    (is_chained(m) ? chain_dot : quant_dot)(z, m, s, x);
}

static void vnni_few(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,
                     const struct ml_quant_x *x, size_t n, void *scratch) {
    if (is_chained(m))
        chain_few(z, ldz, m, s, x, n);
    else
        quant_few(z, ldz, m, s, x, n, scratch);
}

static void vnni_dots(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s, size_t strips,
                      const struct ml_quant_x *x, size_t n, void *scratch) {
    if (!is_chained(m)) {
        quant_dots(z, ldz, m, s, strips, x, n, scratch);
        return;
    }
    for (size_t i = 0; i < strips; i++) {
        chain_panel(scratch, m, s + i);
        multiply(z + i * STRIP, ldz, scratch, x, n, m->k / 64, false);
    }
}

void ml_quant_init_avxvnni(struct ml_kernels *k) {
    quant_fill(k);
    k->quant.arrange = vnni_arrange;
    k->quant.round = vnni_round;
    k->quant.dot = vnni_dot;
    k->quant.few = vnni_few;
    k->quant.dots = vnni_dots;
}
