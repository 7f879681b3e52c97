/* SPDX-License-Identifier: Apache-2.0
 *
 * Between file.c and file_guard.c: ranges of memory in which a bus error means "the file was cut".
 */
#ifndef ML_BASE_FILE_INT_H
#define ML_BASE_FILE_INT_H

#include <stdbool.h>
#include <stddef.h>

/* Registers a mapping and installs the handler the first time. Returns a slot, or -1 when all are taken. */
int ml_file_guard_add(const void *data, size_t size);
void ml_file_guard_remove(int slot); /* -1 is fine */
bool ml_file_guard_hit(int slot);    /* true after a bus error inside the mapping */

#endif
