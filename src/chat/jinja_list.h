/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of filters of lists, for jinja_filter.c.
 */
#ifndef ML_CHAT_JINJA_LIST_H
#define ML_CHAT_JINJA_LIST_H

#include "chat/jinja_int.h"

extern const struct ml_jfunction ml_j_list_filters[]; /* ended by a NULL name */

#endif
