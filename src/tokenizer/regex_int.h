/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the rewriter of patterns (regex.c) and what it needs to know of sets of characters (regex_sets.c).
 */
#ifndef ML_TOKENIZER_REGEX_INT_H
#define ML_TOKENIZER_REGEX_INT_H

#include "tokenizer/tokenizer_int.h"

/* Oniguruma looks a lone \w up in its table of Latin-1, where the numbers \xb2 \xb3 \xb9 \xbc-\xbe are words;
 * a class takes the property, where they are not. */
#define ML_LONE_WORDS ML_WORD_CLASS "\\xb2\\xb3\\xb9\\xbc-\\xbe"

struct ml_rewriter {
    const char *s;
    size_t len, at;
    size_t fresh; /* where a group or an alternative has just begun */
    struct ml_buf *out;
    struct marlin_error *err;
};

/* MARLIN_ERR_UNSUPPORTED, with the offset of what is being read. */
marlin_status ml_rewrite_refuse(const struct ml_rewriter *r, const char *what) MARLIN_MUST_CHECK;
bool ml_rewrite_ahead(const struct ml_rewriter *r, const char *what);

/* A set of characters that an escape stands for: the inside of a class of PCRE2, or what it leaves out. */
struct ml_char_set {
    const char *text; /* static, or NULL: the escape stands for no set */
    bool negated;
    char made[96]; /* holds text when it is made of a name */
};
/* At a backslash. *n: bytes of the escape. in_class decides what a word is. */
marlin_status ml_rewrite_set(const struct ml_rewriter *r, bool in_class, struct ml_char_set *set,
                             size_t *n) MARLIN_MUST_CHECK;

/* At "[": appends what matches the same characters, and goes behind the class. Classes inside it, POSIX
 * brackets and && are worked out. */
marlin_status ml_rewrite_class(struct ml_rewriter *r) MARLIN_MUST_CHECK;
/* An escape that stands for one character, inside a class or outside: appends it and goes on. */
marlin_status ml_rewrite_char_escape(struct ml_rewriter *r, struct ml_buf *out) MARLIN_MUST_CHECK;

#endif
