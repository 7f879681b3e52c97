/* SPDX-License-Identifier: Apache-2.0
 *
 * Property: any tokenizer.model loads or gives a named error; one that loads encodes any text (parts of the
 * file are one) into ids that it can decode, whole and as a stream.
 */
#include "tokenize.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct ml_tokenizer *t = NULL;
    struct marlin_error err = {0};
    const marlin_status st = ml_tokenizer_from_sentencepiece(data, size, 0, &t, &err);
    require((st == MARLIN_OK) == (t != NULL));
    if (st != MARLIN_OK) require(err.code == st && err.text[0]);
    const size_t tail = size < 64 ? size : 64;
    if (t) try_tokenizer(t, data + size - tail, tail);
    ml_tokenizer_free(t);
    return 0;
}
