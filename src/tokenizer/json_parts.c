/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading the recurring shapes of tokenizer.json: optional members, patterns, components and sequences of
 * them.
 */
#include "tokenizer/tokenizer_int.h"

#include <string.h>

static bool absent(const struct ml_json *v) {
    return !v || ml_json_type(v) == ML_JSON_NULL;
}

marlin_status ml_tok_string(struct ml_tokenizer *t, const struct ml_json *v, const char *key,
                            const char *what, const char **s, size_t *len, struct marlin_error *err) {
    const struct ml_json *member = ml_json_get(v, key);
    *s = NULL;
    *len = 0;
    if (absent(member)) return MARLIN_OK;
    const char *text = ml_json_string(member, len);
    if (!text)
        return ml_fail(err, MARLIN_ERR_FORMAT, "%s: \"%s\" must be a string, not %s", what, key,
                       ml_json_type_name(member));
    *s = ml_arena_strndup(&t->arena, text, *len);
    return *s ? MARLIN_OK : ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", what);
}

marlin_status ml_tok_bool(const struct ml_json *v, const char *key, const char *what, bool *out,
                          struct marlin_error *err) {
    const struct ml_json *member = ml_json_get(v, key);
    if (absent(member) || ml_json_bool(member, out)) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_FORMAT, "%s: \"%s\" must be true or false, not %s", what, key,
                   ml_json_type_name(member));
}

marlin_status ml_tok_pattern(struct ml_tokenizer *t, const struct ml_json *v, const char *what,
                             const char **literal, size_t *literal_len, struct ml_regex **regex,
                             struct marlin_error *err) {
    const char *pattern = NULL;
    size_t len = 0;
    *regex = NULL;
    marlin_status st = ml_tok_string(t, v, "String", what, literal, literal_len, err);
    if (st != MARLIN_OK || *literal) return st;
    st = ml_tok_string(t, v, "Regex", what, &pattern, &len, err);
    if (st != MARLIN_OK) return st;
    if (!pattern)
        return ml_fail(err, MARLIN_ERR_FORMAT, "%s: pattern must hold \"String\" or \"Regex\"", what);
    st = ml_regex_compile(pattern, len, regex, err);
    return st == MARLIN_OK ? st : ml_fail_in(err, st, "%s", what);
}

/* JSON depth is bounded by the reader, hence the recursion is. */
marlin_status ml_tok_components(struct ml_tokenizer *t, const struct ml_json *v, const char *what,
                                const char *list, ml_component_fn *fn, struct marlin_error *err) {
    if (absent(v)) return MARLIN_OK;
    const char *type = ml_json_string(ml_json_get(v, "type"), NULL);
    if (!type) return ml_fail(err, MARLIN_ERR_FORMAT, "%s: \"type\" is missing", what);
    if (strcmp(type, "Sequence") != 0) return fn(t, type, v, err);
    const struct ml_json *items = ml_json_get(v, list);
    if (!items || ml_json_type(items) != ML_JSON_ARRAY)
        return ml_fail(err, MARLIN_ERR_FORMAT, "%s Sequence: \"%s\" must be an array", what, list);
    for (const struct ml_json *i = ml_json_first(items); i; i = ml_json_next(i)) {
        if (absent(i)) return ml_fail(err, MARLIN_ERR_FORMAT, "%s Sequence: an entry is null", what);
        const marlin_status st = ml_tok_components(t, i, what, list, fn, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}
