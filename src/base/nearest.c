/* SPDX-License-Identifier: Apache-2.0
 *
 * Edit distance with exchanges of neighbours (optimal string alignment).
 */
#include "base/nearest.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { LONGEST = 40, PART = 3 };

void ml_nearest_begin(struct ml_nearest *n, const char *word, size_t length) {
    const size_t allowed = length < 2 ? 0 : length / 3 + (length < 3);
    *n = (struct ml_nearest){.word = word, .length = length, .distance = allowed + 1};
}

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

static size_t distance(const char *a, size_t n, const char *b, size_t m) {
    uint8_t d[LONGEST + 1][LONGEST + 1];
    if (n > LONGEST || m > LONGEST) return SIZE_MAX;
    for (size_t i = 0; i <= n; i++)
        d[i][0] = (uint8_t)i;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = (uint8_t)j;
    for (size_t i = 1; i <= n; i++)
        for (size_t j = 1; j <= m; j++) {
            const size_t change = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            size_t best = least(change, least(d[i - 1][j], d[i][j - 1]) + 1u);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = least(best, d[i - 2][j - 2] + 1u);
            d[i][j] = (uint8_t)best;
        }
    return d[n][m];
}

/* Whole parts only, between hyphens, or a beginning: "tokens" is in "max-tokens", "out" is not in
 * "without". */
static bool is_part(const char *part, size_t n, const char *whole, size_t m) {
    if (n < PART || n >= m) return false;
    if (memcmp(part, whole, n) == 0) return true;
    for (size_t at = 1; at + n <= m; at++)
        if (whole[at - 1] == '-' && memcmp(part, whole + at, n) == 0 && (at + n == m || whole[at + n] == '-'))
            return true;
    return false;
}

void ml_nearest_offer(struct ml_nearest *n, const char *candidate) {
    const size_t length = strlen(candidate);
    size_t d = distance(n->word, n->length, candidate, length);
    if (is_part(candidate, length, n->word, n->length) || is_part(n->word, n->length, candidate, length))
        d = least(d, 1);
    if (d >= n->distance) return;
    n->distance = d;
    n->best = candidate;
}
