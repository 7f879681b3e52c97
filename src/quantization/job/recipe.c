/* SPDX-License-Identifier: Apache-2.0
 *
 * Recipes: "PATTERN BITS" lines.
 */
#include "quantization/job/allocate.h"

#include "base/log.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATTERN = 512 };
static const char embedding[] = "model.embed_tokens";

struct rule {
    char pattern[PATTERN];
    long bits;
};

enum line { LINE_EMPTY, LINE_RULE, LINE_WRONG };

/* One line without its end: blank, a rule, or neither. */
static enum line parse(const char *line, size_t len, struct rule *r) {
    char text[PATTERN + 64], bits[32], rest[2];
    const char *comment = memchr(line, '#', len);
    if (comment) len = (size_t)(comment - line);
    if (len >= sizeof text) return LINE_WRONG;
    memcpy(text, line, len);
    text[len] = '\0';
    if (text[strspn(text, " \t\r")] == '\0') return LINE_EMPTY;
    if (sscanf(text, "%511s %31s %1s", r->pattern, bits, rest) != 2) return LINE_WRONG;
    char *end = NULL;
    r->bits = strtol(bits, &end, 10);
    return *end == '\0' ? LINE_RULE : LINE_WRONG;
}

static const char *next_line(const char *line, size_t *len) {
    *len = strcspn(line, "\n");
    return line + *len + (line[*len] == '\n');
}

/* The bits of the last rule that matches, of those only that an embedding can have if `rows`; 0: none. */
static int last_match(const char *recipe, const char *name, bool rows) {
    struct rule r;
    size_t len;
    int bits = 0;
    for (const char *line = recipe; *line;) {
        const char *next = next_line(line, &len);
        const bool rule = parse(line, len, &r) == LINE_RULE;
        if (rule && fnmatch(r.pattern, name, 0) == 0 &&
            (!rows || r.bits == ML_BITS_INT8 || r.bits == ML_BITS_PLAIN))
            bits = (int)r.bits;
        line = next;
    }
    return bits;
}

int ml_recipe_bits(const char *recipe, const char *name) {
    return last_match(recipe, name, false);
}

int ml_recipe_embedding_bits(const char *recipe) {
    return last_match(recipe, embedding, true);
}

/* ---- checking ---- */

static marlin_status check_embedding(const struct rule *r, size_t number, const struct ml_allocation *a,
                                     struct marlin_error *err) {
    if (fnmatch(r->pattern, embedding, 0) != 0)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "recipe, line %zu: %.80s is no tensor: the embedding is %s",
                       number, r->pattern, embedding);
    if (r->bits == ML_BITS_PLAIN || (r->bits == ML_BITS_INT8 && a->int8_rows)) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_ARGUMENT, "recipe, line %zu: %ld bits for %.80s: the embedding %s", number,
                   r->bits, r->pattern,
                   a->int8_rows ? "has 8 (int8 rows) or 16 (as it is)" : "stays as it is in this format");
}

static marlin_status check_rule(const struct rule *r, size_t number, const struct ml_allocation *a,
                                struct marlin_error *err) {
    if (strstr(r->pattern, "embed")) return check_embedding(r, number, a, err);
    if (r->bits >= a->least && r->bits <= a->most) return MARLIN_OK;
    if (r->bits == ML_BITS_INT8 && a->int8_rows) return MARLIN_OK;
    if (r->bits == ML_BITS_PLAIN && strcmp(r->pattern, "lm_head") == 0) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_ARGUMENT,
                   "recipe, line %zu: %ld bits for %.80s; this format has %d to %d%s (lm_head also 16)",
                   number, r->bits, r->pattern, a->least, a->most, a->int8_rows ? " and 8" : "");
}

static bool fits_any(const char *pattern, const struct ml_plan *plan) {
    if (fnmatch(pattern, embedding, 0) == 0) return true;
    for (size_t i = 0; i < plan->count; i++)
        if (fnmatch(pattern, plan->tensors[i].linear->name, 0) == 0) return true;
    return false;
}

void ml_recipe_warn(const char *recipe, const struct ml_plan *plan) {
    struct rule r;
    size_t len, number = 1;
    for (const char *line = recipe; *line; number++) {
        const char *next = next_line(line, &len);
        if (parse(line, len, &r) == LINE_RULE && !fits_any(r.pattern, plan))
            ml_log(ML_LOG_WARN, "recipe, line %zu: %.80s fits no tensor of this model; one is called %.120s",
                   number, r.pattern, plan->tensors[0].linear->name);
        line = next;
    }
}

marlin_status ml_recipe_check(const struct ml_allocation *a, struct marlin_error *err) {
    struct rule r;
    size_t len, number = 1;
    for (const char *line = a->recipe; *line; number++) {
        const char *next = next_line(line, &len);
        const enum line kind = parse(line, len, &r);
        if (kind == LINE_WRONG)
            return ml_fail(err, MARLIN_ERR_ARGUMENT, "recipe, line %zu: '%.*s' is not PATTERN BITS", number,
                           (int)(len < 80 ? len : 80), line);
        const marlin_status st = kind == LINE_RULE ? check_rule(&r, number, a, err) : MARLIN_OK;
        if (st != MARLIN_OK) return st;
        line = next;
    }
    return MARLIN_OK;
}
