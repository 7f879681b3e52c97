/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON of EXL3 directories: quantization_config of config.json, and quantization_config.json.
 */
#include "converters/exl3_export.h"

#include <inttypes.h>
#include <string.h>

void ml_exl3_adapt(struct ml_tensor_decl *d, bool bias, bool router) {
    if (d->dtype == ML_F32 || (d->dtype == ML_BF16 && (bias || router))) d->dtype = ML_F16;
    if (bias && d->rank == 1) d->shape[0] = (d->shape[0] + 127) / 128 * 128;
}

marlin_status ml_exl3_config(const struct ml_exl3_summary *s, struct ml_buf *b) {
    return ml_buf_addf(
        b,
        "{\n    \"quant_method\": \"exl3\",\n    \"version\": \"1.4.1\",\n    \"bits\": %.2f,\n"
        "    \"head_bits\": %d,\n    \"calibration\": {\"rows\": %zu, \"cols\": %zu},\n"
        "    \"out_scales\": \"always\",\n    \"codebook\": \"%s\"",
        s->bits, s->head_bits, s->rows, s->cols, ml_exl3_codebook_name(s->codebook));
}

/* ---- what each module stores ---- */

static const char *torch_name(enum ml_dtype t) {
    static const char *const names[ML_DTYPE_COUNT] = {[ML_F32] = "float32",
                                                      [ML_F16] = "float16",
                                                      [ML_BF16] = "bfloat16",
                                                      [ML_F8_E4M3] = "float8_e4m3fn",
                                                      [ML_F8_E5M2] = "float8_e5m2",
                                                      [ML_I8] = "int8",
                                                      [ML_U8] = "uint8",
                                                      [ML_I16] = "int16",
                                                      [ML_I32] = "int32",
                                                      [ML_I64] = "int64",
                                                      [ML_BOOL] = "bool",
                                                      [ML_F64] = "float64",
                                                      [ML_U16] = "uint16",
                                                      [ML_U32] = "uint32",
                                                      [ML_U64] = "uint64"};
    return names[t];
}

static size_t module_length(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot ? (size_t)(dot - name) : strlen(name);
}

static bool same_module(const char *a, const char *b) {
    const size_t n = module_length(a);
    return n == module_length(b) && memcmp(a, b, n) == 0;
}

static marlin_status add_stored(struct ml_buf *b, const struct ml_exl3_stored *t) {
    marlin_status st;
    ML_TRY(ml_buf_add_json(b, t->decl->name, strlen(t->decl->name)));
    ML_TRY(ml_buf_adds(b, ": {\"shape\": ["));
    for (int i = 0; i < t->decl->rank; i++)
        ML_TRY(ml_buf_addf(b, "%s%llu", i ? ", " : "", (unsigned long long)t->decl->shape[i]));
    ML_TRY(ml_buf_addf(b, "], \"n_bytes\": %llu, \"dtype\": \"torch.%s\"}", (unsigned long long)t->bytes,
                       torch_name(t->decl->dtype)));
out:
    return st;
}

static marlin_status add_module(const struct ml_exl3_stored *t, size_t n, enum ml_exl3_codebook c,
                                struct ml_buf *b) {
    marlin_status st;
    ML_TRY(ml_buf_add_json(b, t->decl->name, module_length(t->decl->name)));
    ML_TRY(ml_buf_adds(b, ": {\"stored_tensors\": {"));
    for (size_t i = 0; i < n; i++) {
        if (i) ML_TRY(ml_buf_adds(b, ", "));
        ML_TRY(add_stored(b, &t[i]));
    }
    ML_TRY(ml_buf_adds(b, "}"));
    if (t->bits) {
        ML_TRY(ml_buf_addf(b, ", \"quant_format\": \"exl3\", \"bits_per_weight\": %d", t->bits));
        const uint32_t multiplier = ml_exl3_stored_multiplier(c);
        if (multiplier)
            ML_TRY(ml_buf_addf(b, ", \"%s_multiplier\": %" PRIu32, ml_exl3_codebook_name(c), multiplier));
    }
    ML_TRY(ml_buf_adds(b, "}"));
out:
    return st;
}

marlin_status ml_exl3_storage(const struct ml_exl3_summary *s, const struct ml_exl3_stored *tensors, size_t n,
                              struct ml_buf *b) {
    marlin_status st;
    ML_TRY(ml_exl3_config(s, b));
    ML_TRY(ml_buf_adds(b, ",\n    \"tensor_storage\": {"));
    for (size_t i = 0; i < n;) {
        size_t end = i + 1;
        while (end < n && same_module(tensors[i].decl->name, tensors[end].decl->name))
            end++;
        ML_TRY(ml_buf_adds(b, i ? ",\n        " : "\n        "));
        ML_TRY(add_module(tensors + i, end - i, s->codebook, b));
        i = end;
    }
    ML_TRY(ml_buf_adds(b, "\n    }\n}\n"));
out:
    return st;
}
