/* SPDX-License-Identifier: Apache-2.0
 *
 * What bytes are: text that is UTF-8, or, told by the first of them, a file that somebody has mistaken for
 * another. Pure functions, any thread.
 */
#ifndef ML_BASE_TEXT_H
#define ML_BASE_TEXT_H

#include "base/status.h"

#include <stddef.h>

/* Length of the valid UTF-8 sequence at s, of which n > 0 bytes are there, or 0. */
size_t ml_utf8_length(const unsigned char *s, size_t n);

/* Enough of a file's first bytes for ml_sniff. */
enum { ML_SNIFF_BYTES = 64 };

/* What is known about the kind of a file, and what to do about it, for the end of a message:
 * "a Git LFS pointer, not the file itself: fetch it with ...". NULL when the first n bytes say nothing. */
const char *ml_sniff(const void *bytes, size_t n);

/* The first characters that can be shown, in dst. */
enum { ML_BEGINNING = 24 };
void ml_beginning(const void *bytes, size_t n, char dst[ML_BEGINNING]);

/* MARLIN_ERR_FORMAT unless data is text: no file of another kind, valid UTF-8, without NUL. Messages say
 * what to do; the caller puts the file's name in front. */
marlin_status ml_text_check(const char *data, size_t n, struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
