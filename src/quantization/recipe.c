/* SPDX-License-Identifier: Apache-2.0
 *
 * Recipes: "PATTERN BITS" lines.
 */
#include "quantization/allocate.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATTERN = 512 };

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

int ml_recipe_bits(const char *recipe, const char *name) {
    struct rule r;
    size_t len;
    int bits = 0;
    for (const char *line = recipe; *line;) {
        const char *next = next_line(line, &len);
        if (parse(line, len, &r) == LINE_RULE && fnmatch(r.pattern, name, 0) == 0) bits = (int)r.bits;
        line = next;
    }
    return bits;
}

static bool bits_fit(const struct rule *r, int least, int most) {
    if (r->bits >= least && r->bits <= most) return true;
    return strcmp(r->pattern, "lm_head") == 0 && (r->bits == ML_BITS_INT8 || r->bits == ML_BITS_PLAIN);
}

marlin_status ml_recipe_check(const char *recipe, int least, int most, struct marlin_error *err) {
    struct rule r;
    size_t len, number = 1;
    for (const char *line = recipe; *line; number++) {
        const char *next = next_line(line, &len);
        const enum line kind = parse(line, len, &r);
        if (kind == LINE_WRONG)
            return ml_fail(err, MARLIN_ERR_ARGUMENT, "recipe, line %zu: '%.*s' is not PATTERN BITS", number,
                           (int)(len < 80 ? len : 80), line);
        if (kind == LINE_RULE && !bits_fit(&r, least, most))
            return ml_fail(
                err, MARLIN_ERR_ARGUMENT,
                "recipe, line %zu: %ld bits for %.80s; this format has %d to %d (lm_head also 8, 16)", number,
                r.bits, r.pattern, least, most);
        line = next;
    }
    return MARLIN_OK;
}
