/* SPDX-License-Identifier: Apache-2.0
 *
 * The baseline of the quality table: every linear layer rounded to the nearest of 2^bits evenly spaced
 * values, with one float16 scale for a run of 64 weights (bits + 0.25 a weight), written back as plain
 * float32.
 *
 *     round_to_nearest SRC OUT BITS HEAD_BITS
 *
 * OUT gets model.safetensors; copy config.json and the tokenizer beside it. A tied head becomes
 * lm_head.weight. Norms, routers and the embedding stay as they are.
 */
#include "base/fp.h"
#include "base/mem.h"
#include "converters/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GROUP = 64, MAX_TENSORS = 65536, PATH = 4096 };

static const char head_name[] = "lm_head.weight", embedding_name[] = "model.embed_tokens.weight";

static int die(const struct marlin_error *err) {
    fprintf(stderr, "round_to_nearest: %s\n", err->text);
    return 1;
}

static bool ends_with(const char *s, const char *suffix) {
    const size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

static bool is_linear(const char *name) {
    static const char *const parts[] = {"_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (ends_with(name, parts[i])) return true;
    return strcmp(name, head_name) == 0;
}

/* Symmetric levels -(2^(bits-1) - 1) .. 2^(bits-1) - 1 times the scale; one level of 2^bits is not used. */
static void round_group(float *w, size_t n, int bits) {
    const float levels = (float)((1 << (bits - 1)) - 1);
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(w[i]));
    const float scale = ml_f16_to_f32(ml_f32_to_f16(most / levels));
    for (size_t i = 0; i < n; i++) {
        const float q = scale > 0 ? rintf(w[i] / scale) : 0;
        w[i] = scale * fmaxf(-levels, fminf(levels, q));
    }
}

static marlin_status put(struct ml_tensors_writer *w, const struct ml_tensor *t, const char *name, int bits,
                         struct marlin_error *err) {
    float *v = ml_alloc(t->count * sizeof *v);
    if (!v) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", name);
    marlin_status st = ml_tensor_to_f32(t, v, t->count, err);
    for (uint64_t i = 0; st == MARLIN_OK && bits && i < t->count; i += GROUP)
        round_group(v + i, t->count - i < GROUP ? t->count - i : GROUP, bits);
    if (st == MARLIN_OK) st = ml_tensors_writer_put(w, name, v, t->count * sizeof *v, err);
    ml_free(v);
    return st;
}

static void declare(struct ml_tensor_decl *d, const struct ml_tensor *t, const char *name) {
    *d = (struct ml_tensor_decl){.name = name, .dtype = ML_F32, .rank = t->rank};
    memcpy(d->shape, t->shape, sizeof d->shape);
}

static marlin_status convert(const struct ml_tensors *in, const char *out, int bits, int head_bits,
                             struct marlin_error *err) {
    static struct ml_tensor_decl decls[MAX_TENSORS];
    const struct ml_tensor *head = ml_tensors_find(in, head_name),
                           *tied = head ? NULL : ml_tensors_find(in, embedding_name);
    struct ml_tensors_writer *w = NULL;
    size_t n = ml_tensors_count(in);
    marlin_status st;
    if (n + 1 > MAX_TENSORS) return ml_fail(err, MARLIN_ERR_LIMIT, "too many tensors");
    for (size_t i = 0; i < n; i++)
        declare(&decls[i], ml_tensors_at(in, i), ml_tensors_at(in, i)->name);
    if (tied) declare(&decls[n], tied, head_name);
    ML_TRY(ml_tensors_writer_open(out, decls, n + (tied != NULL), NULL, 0, &w, err));
    for (size_t i = 0; i < n; i++) {
        const struct ml_tensor *t = ml_tensors_at(in, i);
        ML_TRY(put(w, t, t->name, t == head ? head_bits : is_linear(t->name) ? bits : 0, err));
    }
    if (tied) ML_TRY(put(w, tied, head_name, head_bits, err));
    st = ml_tensors_writer_commit(w, err);
    w = NULL;
out:
    ml_tensors_writer_abort(w);
    return st;
}

int main(int argc, char **argv) {
    struct marlin_error err = {0};
    struct ml_tensors *in = NULL;
    char out[PATH];
    if (argc != 5) {
        fprintf(stderr, "usage: round_to_nearest SRC OUT BITS HEAD_BITS\n");
        return 2;
    }
    const int bits = (int)strtol(argv[3], NULL, 10), head_bits = (int)strtol(argv[4], NULL, 10);
    if (bits < 2 || bits > 8 || head_bits < 2 || head_bits > 8) {
        fprintf(stderr, "round_to_nearest: 2 to 8 bits\n");
        return 2;
    }
    if (ml_tensors_open_dir(argv[1], &in, &err) != MARLIN_OK ||
        ml_path_join(out, sizeof out, argv[2], "model.safetensors", &err) != MARLIN_OK)
        return die(&err);
    const marlin_status st = convert(in, out, bits, head_bits, &err);
    ml_tensors_close(in);
    return st == MARLIN_OK ? 0 : die(&err);
}
