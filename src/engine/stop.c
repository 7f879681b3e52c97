/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the hold-back buffer of stop strings.
 */
#include "engine/stop.h"

#include "base/mem.h"

#include <string.h>

/* A piece is one token's text, and the part that is held back is shorter than one stop string. */
enum { HELD_LIMIT = 16 << 20 };

static marlin_status add_string(struct ml_stop *s, const char *string, struct marlin_error *err) {
    const size_t len = strlen(string), i = s->n;
    if (len == 0) return ml_fail(err, MARLIN_ERR_ARGUMENT, "stop string %zu is empty: leave it out", i + 1);
    if (len > ML_STOP_MAX_BYTES)
        return ml_fail(err, MARLIN_ERR_LIMIT, "stop string %zu has %zu bytes, at most %d are allowed", i + 1,
                       len, ML_STOP_MAX_BYTES);
    s->strings[i] = ml_strdup(string);
    if (!s->strings[i]) return ml_fail(err, MARLIN_ERR_MEMORY, "stop strings: out of memory");
    s->len[i] = len;
    if (len > s->longest) s->longest = len;
    s->n++;
    return MARLIN_OK;
}

size_t ml_stop_most(const struct ml_stop *s, size_t piece) {
    const size_t held = s->longest ? s->longest - 1 : 0;
    return piece < HELD_LIMIT - held ? piece + held : HELD_LIMIT;
}

marlin_status ml_stop_init(struct ml_stop *s, const char *const *strings, size_t n, size_t piece,
                           struct marlin_error *err) {
    marlin_status st = MARLIN_OK;
    memset(s, 0, sizeof(*s));
    ml_buf_init(&s->held, HELD_LIMIT);
    if (n > ML_STOP_MAX)
        return ml_fail(err, MARLIN_ERR_LIMIT, "stop strings: %zu given, at most %d are allowed", n,
                       ML_STOP_MAX);
    for (size_t i = 0; i < n; i++)
        ML_TRY(add_string(s, strings[i], err));
    if (n && ml_buf_reserve(&s->held, ml_stop_most(s, piece)) != MARLIN_OK)
        st = ml_fail(err, MARLIN_ERR_MEMORY, "stop strings: out of memory");
out:
    if (st != MARLIN_OK) ml_stop_free(s);
    return st;
}

void ml_stop_free(struct ml_stop *s) {
    for (size_t i = 0; i < s->n; i++)
        ml_free(s->strings[i]);
    ml_buf_free(&s->held);
    memset(s, 0, sizeof(*s));
    ml_buf_init(&s->held, HELD_LIMIT);
}

/* Length of the longest stop string that ends at byte `end` of text, 0 when none does. */
static size_t match_ending(const struct ml_stop *s, const char *text, size_t end) {
    size_t best = 0;
    for (size_t i = 0; i < s->n; i++) {
        const size_t len = s->len[i];
        if (len > best && len <= end && memcmp(text + end - len, s->strings[i], len) == 0) best = len;
    }
    return best;
}

/* Length of the longest suffix of text that begins some stop string without completing it. */
static size_t undecided(const struct ml_stop *s, const char *text, size_t len) {
    size_t longest = s->longest ? s->longest - 1 : 0;
    if (longest > len) longest = len;
    for (size_t n = longest; n > 0; n--)
        for (size_t i = 0; i < s->n; i++)
            if (n < s->len[i] && memcmp(text + len - n, s->strings[i], n) == 0) return n;
    return 0;
}

static marlin_status give(struct ml_stop *s, size_t n, struct ml_buf *out) {
    const marlin_status st = ml_buf_add(out, s->held.data, n);
    if (st != MARLIN_OK) return st;
    memmove(s->held.data, s->held.data + n, s->held.len - n);
    s->held.len -= n;
    s->held.data[s->held.len] = '\0';
    return MARLIN_OK;
}

marlin_status ml_stop_push(struct ml_stop *s, const char *text, size_t len, struct ml_buf *out) {
    if (s->found || len == 0) return MARLIN_OK;
    if (s->n == 0) return ml_buf_add(out, text, len);

    /* The held part has been searched before: a match can only end in the new bytes. */
    const size_t searched = s->held.len;
    marlin_status st = ml_buf_add(&s->held, text, len);
    if (st != MARLIN_OK) return st;
    for (size_t end = searched + 1; end <= s->held.len; end++) {
        const size_t match = match_ending(s, s->held.data, end);
        if (match == 0) continue;
        s->found = true;
        st = give(s, end - match, out);
        ml_buf_clear(&s->held);
        return st;
    }
    const size_t safe = s->held.len - undecided(s, s->held.data, s->held.len);
    return safe ? give(s, safe, out) : MARLIN_OK;
}

marlin_status ml_stop_finish(struct ml_stop *s, struct ml_buf *out) {
    if (s->found || s->held.len == 0) return MARLIN_OK;
    return give(s, s->held.len, out);
}
