/* SPDX-License-Identifier: Apache-2.0
 *
 * Property: any tokenizer.json (up to the first NUL) loads or gives a named error; one that loads encodes any
 * text (what comes behind the NUL, and some of ours) into ids that it can decode, whole and as a stream.
 */
#include "tokenize.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *json = (const char *)data, *text = size ? memchr(json, 0, size) : NULL;
    const size_t len = text ? (size_t)(text - json) : size;
    struct ml_tokenizer *t = NULL;
    struct marlin_error err = {0};
    const marlin_status st = ml_tokenizer_from_json(json, len, 0, &t, &err);
    require((st == MARLIN_OK) == (t != NULL));
    if (st != MARLIN_OK) require(err.code == st && err.text[0]);
    if (t) try_tokenizer(t, text ? text + 1 : json, text ? size - len - 1 : (len < 256 ? len : 256));
    ml_tokenizer_free(t);
    return 0;
}
