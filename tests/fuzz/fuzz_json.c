/* SPDX-License-Identifier: Apache-2.0
 *
 * Property: any bytes parse or give a named error, and every value of a parsed document can be read.
 */
#include "base/json.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
    if (!condition) abort();
}

static void walk(const struct ml_json *v) {
    int64_t i;
    uint64_t u;
    double d;
    bool b;
    size_t len = 0, children = 0;
    const enum ml_json_type type = ml_json_type(v);
    require(ml_json_bool(v, &b) == (type == ML_JSON_BOOL));
    require((ml_json_string(v, &len) != NULL) == (type == ML_JSON_STRING));
    if (ml_json_i64(v, &i) && i >= 0) require(ml_json_u64(v, &u) && u == (uint64_t)i);
    if (ml_json_double(v, &d)) require(type == ML_JSON_NUMBER);
    for (const struct ml_json *c = ml_json_first(v); c; c = ml_json_next(c), children++) {
        if (type == ML_JSON_OBJECT) require(ml_json_get(v, ml_json_key(c, NULL)) == c);
        walk(c);
    }
    require(children == ml_json_count(v));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct ml_json_doc *doc = NULL;
    struct marlin_error err = {0};
    const marlin_status st = ml_json_parse((const char *)data, size, NULL, &doc, &err);
    require((st == MARLIN_OK) == (doc != NULL));
    if (st != MARLIN_OK) require(err.code == st && err.text[0] != '\0');
    if (doc) walk(ml_json_root(doc));
    ml_json_free(doc);
    return 0;
}
