/* SPDX-License-Identifier: Apache-2.0
 *
 * SentencePiece's normalizer: the model's own map of character sequences (a Darts double array, hence exact
 * for NFKC and for any custom rule), white space collapsed and escaped as U+2581, user-defined symbols
 * untouched.
 */
#include "tokenizer/tokenizer_int.h"

#include <string.h>

/* The parts of a double-array unit. */
static uint32_t unit_label(uint32_t u) {
    return u & (1u << 31 | 0xFF);
}

static uint32_t unit_offset(uint32_t u) {
    return u >> 10 << ((u & 1u << 9) >> 6);
}

static bool inside_character(char c) {
    return ((uint8_t)c & 0xC0) == 0x80;
}

/* Longest entry of the map that starts s: its length and where its replacement starts. A hostile map may cut
 * a character in two, on either side, or go round in circles: such entries do not match, so that text stays
 * UTF-8, and *endless is set. */
static size_t longest(const struct ml_tok_sp_norm *n, const char *s, size_t len, uint32_t *value,
                      bool *endless) {
    size_t best = 0;
    uint32_t at = unit_offset(n->trie[0]);
    for (size_t i = 0; i < len; i++) {
        if (i == ML_TOK_MAX_KEY) {
            *endless = true;
            break;
        }
        at ^= (uint8_t)s[i];
        if (at >= n->trie_len || unit_label(n->trie[at]) != (uint8_t)s[i]) break;
        const uint32_t u = n->trie[at];
        at ^= unit_offset(u);
        if (!(u >> 8 & 1)) continue;
        if (at >= n->trie_len) break;
        const uint32_t v = n->trie[at] & 0x7FFFFFFF;
        if (v >= n->strings_len) break;
        if (inside_character(n->strings[v]) || (i + 1 < len && inside_character(s[i + 1]))) continue;
        *value = v;
        best = i + 1;
    }
    return best;
}

struct scan {
    const struct ml_tokenizer *t;
    const char *s;
    size_t len, at;
    const struct ml_tok_matches *user;
    size_t next_user;
    bool endless;
};

/* Normalizes what is at scan->at, and moves on. */
static void next(struct scan *c, const char **out, size_t *out_len) {
    const struct ml_tok_sp_norm *n = &c->t->sp_norm;
    const char *s = c->s + c->at;
    uint32_t value = 0, cp;
    while (c->next_user && c->user->item[c->next_user - 1].start < c->at)
        c->next_user--;
    *out = s;
    if (c->next_user && c->user->item[c->next_user - 1].start == c->at) {
        *out_len = c->user->item[c->next_user - 1].len;
        c->at += *out_len;
        return;
    }
    const size_t k = n->trie ? longest(n, s, c->len - c->at, &value, &c->endless) : 0;
    if (k) {
        *out = n->strings + value;
        *out_len = strlen(*out); /* the table ends with a NUL of our own */
    } else {
        *out_len = ml_utf8_get(s, &cp);
    }
    c->at += k ? k : *out_len;
}

static marlin_status put(const struct ml_tok_sp_norm *n, const char *s, size_t len, struct ml_buf *out) {
    for (size_t i = 0; i < len; i++) {
        const bool space = n->escape && s[i] == ' ';
        const marlin_status st = space ? ml_buf_add(out, "\xE2\x96\x81", 3) : ml_buf_add(out, s + i, 1);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static void trim_end(const struct ml_tok_sp_norm *n, struct ml_buf *out) {
    const char *space = n->escape ? "\xE2\x96\x81" : " ";
    const size_t k = strlen(space);
    while (out->len >= k && !memcmp(out->data + out->len - k, space, k))
        out->len -= k;
    if (out->data) out->data[out->len] = '\0';
}

marlin_status ml_sp_normalize(const struct ml_tokenizer *t, const char *s, size_t len,
                              struct ml_tok_matches *user, struct ml_buf *out, struct marlin_error *err) {
    const struct ml_tok_sp_norm *n = &t->sp_norm;
    struct scan c = {.t = t, .s = s, .len = len, .user = user, .next_user = user->n};
    bool after_space = n->remove_extra;
    const char *p;
    size_t k;
    marlin_status st = MARLIN_OK;
    while (n->remove_extra && c.at < len) {
        const struct scan before = c;
        next(&c, &p, &k);
        if (k == 1 && *p == ' ') continue;
        c = before;
        break;
    }
    if (c.at == len) return MARLIN_OK;
    if (n->dummy_prefix && !n->as_suffix) ML_TRY(put(n, " ", 1, out));
    while (c.at < len) {
        next(&c, &p, &k);
        if (c.endless)
            return ml_fail(
                err, MARLIN_ERR_LIMIT,
                "SentencePiece model: an entry of the normalizer's map passes the ceiling of %u bytes",
                ML_TOK_MAX_KEY);
        for (; after_space && k && *p == ' '; p++)
            k--;
        ML_TRY(put(n, p, k, out));
        if (k) after_space = n->remove_extra && p[k - 1] == ' ';
    }
    if (n->remove_extra) trim_end(n, out);
    if (n->dummy_prefix && n->as_suffix) ML_TRY(put(n, " ", 1, out));
out:
    return st;
}
