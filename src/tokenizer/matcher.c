/* SPDX-License-Identifier: Apache-2.0
 *
 * Finding added tokens. An Aho-Corasick automaton of the reversed strings runs over the text backwards; its
 * longest suffix at a position is then the longest string that starts there, so leftmost-longest search is
 * linear even for "a" and "aaaa...b", where a forward search would go back again and again.
 */
#include "base/mem.h"
#include "tokenizer/tokenizer_int.h"

#include <string.h>

struct ml_matcher_node {
    uint32_t parent, fail, depth;
    uint32_t len;    /* of the longest string that ends here, 0 = none */
    int32_t pattern; /* that string */
    uint8_t byte;
};

void ml_matcher_free(struct ml_matcher *m) {
    ml_free(m->node);
    ml_pairs_free(&m->edge);
    memset(m, 0, sizeof *m);
}

static uint64_t edge_key(uint32_t node, uint8_t byte) {
    return (uint64_t)node << 8 | byte;
}

static marlin_status new_node(struct ml_matcher *m, uint32_t parent, uint8_t byte, uint32_t *out) {
    marlin_status st = ml_grow(&m->node, &m->cap, m->n + 1, sizeof *m->node);
    if (st != MARLIN_OK) return st;
    const uint32_t depth = m->n ? m->node[parent].depth + 1 : 0;
    const uint32_t id = (uint32_t)m->n;
    if (id) st = ml_pairs_put(&m->edge, edge_key(parent, byte), id);
    if (st != MARLIN_OK) return st;
    m->node[m->n++] = (struct ml_matcher_node){.parent = parent, .depth = depth, .byte = byte, .pattern = -1};
    *out = id;
    return MARLIN_OK;
}

marlin_status ml_matcher_add(struct ml_matcher *m, const char *s, size_t len, int32_t pattern) {
    marlin_status st = MARLIN_OK;
    uint32_t at = 0;
    if (m->n == 0) ML_TRY(new_node(m, 0, 0, &at));
    for (size_t i = len; i-- > 0;) {
        uint64_t next;
        const uint8_t byte = (uint8_t)s[i];
        if (ml_pairs_get(&m->edge, edge_key(at, byte), &next))
            at = (uint32_t)next;
        else
            ML_TRY(new_node(m, at, byte, &at));
    }
    if (m->node[at].len) goto out; /* the first of two equal strings stays */
    m->node[at].len = (uint32_t)len;
    m->node[at].pattern = pattern;
out:
    return st;
}

static uint32_t step(const struct ml_matcher *m, uint32_t at, uint8_t byte) {
    uint64_t next;
    for (; at; at = m->node[at].fail)
        if (ml_pairs_get(&m->edge, edge_key(at, byte), &next)) return (uint32_t)next;
    return m->root[byte];
}

static void link_node(struct ml_matcher *m, uint32_t id) {
    struct ml_matcher_node *n = &m->node[id];
    if (n->depth < 2) return; /* fails to the root */
    n->fail = step(m, m->node[n->parent].fail, n->byte);
    if (n->len) return;
    n->len = m->node[n->fail].len;
    n->pattern = m->node[n->fail].pattern;
}

/* Failure links point to smaller depths, so nodes are linked in the order of their depth (counting sort). */
marlin_status ml_matcher_finish(struct ml_matcher *m) {
    if (m->n == 0) return MARLIN_OK;
    uint32_t deepest = 0;
    for (size_t i = 0; i < m->n; i++)
        if (m->node[i].depth > deepest) deepest = m->node[i].depth;
    uint32_t *first = ml_calloc(deepest + 2u, sizeof *first);
    uint32_t *order = ml_calloc(m->n, sizeof *order);
    marlin_status st = first && order ? MARLIN_OK : MARLIN_ERR_MEMORY;
    if (st != MARLIN_OK) goto out;
    for (size_t i = 0; i < m->n; i++) {
        first[m->node[i].depth + 1]++;
        if (m->node[i].depth == 1) m->root[m->node[i].byte] = (uint32_t)i;
    }
    for (size_t d = 0; d <= deepest; d++)
        first[d + 1] += first[d];
    for (size_t i = 0; i < m->n; i++)
        order[first[m->node[i].depth]++] = (uint32_t)i;
    for (size_t i = 0; i < m->n; i++)
        link_node(m, order[i]);
out:
    ml_free(first);
    ml_free(order);
    return st;
}

marlin_status ml_matcher_find(const struct ml_matcher *m, const char *s, size_t len,
                              struct ml_tok_matches *out) {
    out->n = 0;
    if (m->n == 0) return MARLIN_OK;
    uint32_t at = 0;
    for (size_t i = len; i-- > 0;) {
        const uint8_t byte = (uint8_t)s[i];
        at = at ? step(m, at, byte) : m->root[byte];
        if (!at || !m->node[at].len) continue;
        const marlin_status st = ml_grow(&out->item, &out->cap, out->n + 1, sizeof *out->item);
        if (st != MARLIN_OK) return st;
        out->item[out->n++] = (struct ml_tok_match){(uint32_t)i, m->node[at].len, m->node[at].pattern};
    }
    return MARLIN_OK;
}
