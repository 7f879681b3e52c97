/* SPDX-License-Identifier: Apache-2.0
 *
 * checksums.json of a model directory: XXH3 (64 bits) of every file that belongs to the model.
 *
 *     {"algorithm": "xxh3-64", "files": {"model.safetensors": "0123456789abcdef"}}
 */
#ifndef ML_CONVERTERS_CHECKSUMS_H
#define ML_CONVERTERS_CHECKSUMS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

#define ML_CHECKSUMS_NAME "checksums.json"
enum { ML_CHECKSUMS_LIMIT = 16 << 20 }; /* bytes of a manifest */

/* Hash of dir/name as 16 lower-case hexadecimal digits. MARLIN_ERR_IO when the file is cut meanwhile. */
marlin_status ml_checksum_file(const char *dir, const char *name, char hex[17],
                               struct marlin_error *err) MARLIN_MUST_CHECK;

/* True for names that a manifest lists: weights, JSON, tokenizer models, templates; not hidden ones and not
 * the manifest. */
bool ml_checksum_belongs(const char *name);

/* Writes the manifest of all files of `dir` that belong, in order of name, atomically. */
marlin_status ml_checksums_write(const char *dir, struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
