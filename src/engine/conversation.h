/* SPDX-License-Identifier: Apache-2.0
 *
 * The messages of a conversation, and the request for a chat template that is made of them. It knows nothing of
 * models: what it holds is text.
 */
#ifndef ML_ENGINE_CONVERSATION_H
#define ML_ENGINE_CONVERSATION_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

struct ml_conversation;

/* One thread at a time, as for every function that takes it. */
marlin_status ml_conversation_create(struct ml_conversation **out,
                                     struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_conversation_free(struct ml_conversation *c); /* NULL is fine */

size_t ml_conversation_count(const struct ml_conversation *c);
/* Message i < count; live until the conversation changes. */
const char *ml_conversation_role(const struct ml_conversation *c, size_t i);
const char *ml_conversation_text(const struct ml_conversation *c, size_t i, size_t *len);

/* Appends a message; both strings are copied. role: "user", "assistant", "system", "tool". */
marlin_status ml_conversation_add(struct ml_conversation *c, const char *role, const char *text, size_t len,
                                  struct marlin_error *err) MARLIN_MUST_CHECK;
/* The system message, which stands first: sets, replaces, or with len 0 removes it. */
marlin_status ml_conversation_system(struct ml_conversation *c, const char *text, size_t len,
                                     struct marlin_error *err) MARLIN_MUST_CHECK;
/* Forgets all messages behind the first n. */
void ml_conversation_cut(struct ml_conversation *c, size_t n);
/* Forgets the last message of the user and what came after it. false: there is none. */
bool ml_conversation_undo(struct ml_conversation *c);

/* Appends the request as a JSON object: messages, "add_generation_prompt": true, and `more`, which is empty or
 * JSON members ("\"tools\":[...],\"enable_thinking\":false"). */
marlin_status ml_conversation_request(const struct ml_conversation *c, const char *more, struct ml_buf *out,
                                      struct marlin_error *err) MARLIN_MUST_CHECK;

/* The messages of a JSON object {"messages": [{"role": ..., "content": ...}, ...]}, or of such an array alone,
 * take the place of c's. `name` is what errors call the text. On failure c is as it was. */
marlin_status ml_conversation_read(struct ml_conversation *c, const char *name, const char *json, size_t len,
                                   struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
