/* SPDX-License-Identifier: Apache-2.0
 *
 * Checked reads of single keys of a config: type, range, and a message that names the file and the key.
 */
#include "converters/hf_int.h"

#include <string.h>

const struct ml_json *ml_hf_get(const struct ml_json *obj, const char *key) {
    const struct ml_json *v = ml_json_get(obj, key);
    return v && ml_json_type(v) != ML_JSON_NULL ? v : NULL;
}

const struct ml_json *ml_hf_any(const struct ml_hf *h, const char *key) {
    const struct ml_json *v = ml_hf_get(h->text, key);
    return v ? v : ml_hf_get(h->outer, key);
}

marlin_status ml_hf_int(const struct ml_hf *h, const struct ml_json *obj, const char *key, int64_t lo,
                        int64_t hi, int64_t absent, int64_t *out) {
    const struct ml_json *v = ml_hf_get(obj, key);
    int64_t value = absent;
    if (!v && (absent < lo || absent > hi)) return ml_hf_bad(h, key, "is missing");
    if (v && !ml_json_i64(v, &value))
        return ml_fail(h->err, MARLIN_ERR_FORMAT, "%s: %s: is %s: an integer from %lld to %lld is needed",
                       h->where, key,
                       ml_json_type(v) == ML_JSON_NUMBER ? "not a 64-bit integer" : ml_json_type_name(v),
                       (long long)lo, (long long)hi);
    if (value < lo || value > hi)
        return ml_fail(h->err, MARLIN_ERR_FORMAT, "%s: %s: is %lld: an integer from %lld to %lld is needed",
                       h->where, key, (long long)value, (long long)lo, (long long)hi);
    *out = value;
    return MARLIN_OK;
}

marlin_status ml_hf_real(const struct ml_hf *h, const struct ml_json *obj, const char *key, double above,
                         double absent, double *out) {
    const struct ml_json *v = ml_hf_get(obj, key);
    double value = absent;
    if (v && !ml_json_double(v, &value))
        return ml_fail(h->err, MARLIN_ERR_FORMAT, "%s: %s: is %s: a finite number above %g is needed",
                       h->where, key,
                       ml_json_type(v) == ML_JSON_NUMBER ? "out of range" : ml_json_type_name(v), above);
    if (v && !(value > above))
        return ml_fail(h->err, MARLIN_ERR_FORMAT, "%s: %s: is %g: a finite number above %g is needed",
                       h->where, key, value, above);
    *out = value;
    return MARLIN_OK;
}

marlin_status ml_hf_bool(const struct ml_hf *h, const struct ml_json *v, const char *key, bool absent,
                         bool *out) {
    *out = absent;
    if (v && !ml_json_bool(v, out))
        return ml_fail(h->err, MARLIN_ERR_FORMAT, "%s: %s: is %s: true or false is needed", h->where, key,
                       ml_json_type_name(v));
    return MARLIN_OK;
}

marlin_status ml_hf_text(const struct ml_hf *h, const struct ml_json *v, const char *key, char *dst,
                         size_t cap) {
    const char *s = v ? ml_json_string(v, NULL) : "";
    if (!s)
        return ml_fail(h->err, MARLIN_ERR_FORMAT, "%s: %s: is %s: a string without NUL is needed", h->where,
                       key, ml_json_type_name(v));
    const size_t len = strlen(s);
    if (len >= cap)
        return ml_fail(h->err, MARLIN_ERR_FORMAT, "%s: %s: has %zu bytes: at most %zu are allowed", h->where,
                       key, len, cap - 1);
    memcpy(dst, s, len + 1);
    return MARLIN_OK;
}
