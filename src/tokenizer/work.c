/* SPDX-License-Identifier: Apache-2.0
 *
 * What an encode may spend: an allowance of bytes, so that no text makes more work than its length allows.
 */
#include "tokenizer/tokenizer_int.h"

marlin_status ml_encode_no_unknown(struct ml_encoder *e, const char *s, size_t len) {
    return ml_fail(e->err, MARLIN_ERR_FORMAT,
                   "encode: \"%.*s\" is not in the vocabulary, and there is no unknown token %.60s", (int)len,
                   s, e->t->unk_missing ? e->t->unk_missing : "for it");
}

marlin_status ml_work(struct ml_encoder *e, size_t len) {
    if (len > e->work)
        return ml_fail(
            e->err, MARLIN_ERR_LIMIT,
            "encode: the normalizer and pre-tokenizer make too much of this text: the work allowed is "
            "proportional to the text");
    e->work -= len;
    return MARLIN_OK;
}
