/* SPDX-License-Identifier: Apache-2.0
 *
 * The one JSON reader, our own: depth, size and node limits, duplicate keys refused, integers exact to 64
 * bits, strict UTF-8, nothing after the value. General readers keep numbers as doubles and search members
 * one by one, so nodes are built directly here instead of around such a reader.
 */
#ifndef ML_BASE_JSON_H
#define ML_BASE_JSON_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ml_json; /* one value; opaque, owned by its document */

struct ml_json_limits {
    size_t max_bytes;  /* 0 = 64 MiB */
    int max_depth;     /* 0 = 64 */
    size_t max_values; /* 0 = 8 million: a cap on nodes, hence on memory */
};

struct ml_json_doc;

/* Parses exactly one JSON value with white space around it. Errors carry the byte offset. `limits` may be
 * NULL. The document owns every value; free it with ml_json_free. Values are read-only and may be
 * shared between threads. */
marlin_status ml_json_parse(const char *text, size_t len, const struct ml_json_limits *limits,
                            struct ml_json_doc **out, struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_json_free(struct ml_json_doc *doc);
const struct ml_json *ml_json_root(const struct ml_json_doc *doc);

enum ml_json_type {
    ML_JSON_NULL,
    ML_JSON_BOOL,
    ML_JSON_NUMBER,
    ML_JSON_STRING,
    ML_JSON_ARRAY,
    ML_JSON_OBJECT
};

enum ml_json_type ml_json_type(const struct ml_json *v);
const char *ml_json_type_name(const struct ml_json *v); /* "object", or "nothing" for NULL */

/* Object member by exact key (hashed: constant time), NULL when absent or v is not an object (or NULL). */
const struct ml_json *ml_json_get(const struct ml_json *v, const char *key);
size_t ml_json_count(const struct ml_json *v);                      /* of an array or object, else 0 */
const struct ml_json *ml_json_first(const struct ml_json *v);       /* first child or NULL */
const struct ml_json *ml_json_next(const struct ml_json *child);    /* next sibling or NULL */
const char *ml_json_key(const struct ml_json *member, size_t *len); /* key of an object member */

/* Typed reads: false when v is NULL or of another type. Integers refuse fractions, exponents, "-0" and values
 * out of range. NaN, Infinity and -Infinity, which Python writes, are numbers that neither read takes. Strings may
 * hold NUL: who asks for no length gets none that do. String bytes live as long as the document. */
bool ml_json_bool(const struct ml_json *v, bool *out);
bool ml_json_i64(const struct ml_json *v, int64_t *out);
bool ml_json_u64(const struct ml_json *v, uint64_t *out);
bool ml_json_double(const struct ml_json *v, double *out); /* finite only */
const char *ml_json_string(const struct ml_json *v, size_t *len);

#endif
