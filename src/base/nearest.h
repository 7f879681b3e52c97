/* SPDX-License-Identifier: Apache-2.0
 *
 * "Did you mean": which of the words there are comes close to one that there is not.
 */
#ifndef ML_BASE_NEAREST_H
#define ML_BASE_NEAREST_H

#include <stddef.h>

struct ml_nearest {
    const char *word; /* what was typed, of `length` bytes */
    size_t length, distance;
    const char *best; /* the closest word offered so far, NULL when none is close enough to be meant */
};

void ml_nearest_begin(struct ml_nearest *n, const char *word, size_t length);
/* `candidate` is borrowed for as long as n->best is looked at. Close is what takes few changes, exchanges
 * and missing or needless letters, one for each three letters; and a word that is part of the other:
 * "temp" in "temperature", "tokens" in "max-tokens". */
void ml_nearest_offer(struct ml_nearest *n, const char *candidate);

#endif
