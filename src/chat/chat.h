/* SPDX-License-Identifier: Apache-2.0
 *
 * Chat templates: from messages to the text of a prompt.
 *
 * A model comes with one template or with several of them, written in Jinja, and with the special tokens that
 * they name. struct ml_chat holds them compiled. A request is a JSON object whose members are the template's
 * variables, as Hugging Face's apply_chat_template would be given them:
 *
 *   {"messages": [{"role": "user", "content": "Hi"}], "tools": [...], "add_generation_prompt": true,
 *    "enable_thinking": false, ...}
 *
 * The text that comes back holds the special tokens as text, the beginning of sequence included where the
 * template writes it: it is encoded with special tokens recognized and none added.
 */
#ifndef ML_CHAT_CHAT_H
#define ML_CHAT_CHAT_H

#include "base/buf.h"
#include "base/json.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

struct ml_chat; /* compiled templates and special tokens; constant once open, shared freely between threads */

/* Opens the templates of a model's directory: chat_template.jinja, else chat_template.json, else the
 * "chat_template" of tokenizer_config.json (a string, or a list of {"name", "template"}), together with
 * additional_chat_templates/NAME.jinja. Special tokens (bos_token, eos_token, unk_token, sep_token, pad_token,
 * cls_token, mask_token) come from tokenizer_config.json, and where it is silent from special_tokens_map.json.
 * *out is released with ml_chat_free. MARLIN_ERR_NOT_FOUND with "has no chat template" when there is none,
 * MARLIN_ERR_FORMAT with line and column when a template cannot be parsed. */
marlin_status ml_chat_open_dir(const char *dir, struct ml_chat **out,
                               struct marlin_error *err) MARLIN_MUST_CHECK;

/* The same from one template's text, such as the metadata of a GGUF file. `name` is what errors call it; bos
 * and eos may be NULL. Nothing of the arguments is kept. */
marlin_status ml_chat_open_text(const char *name, const char *text, size_t len, const char *bos,
                                const char *eos, struct ml_chat **out,
                                struct marlin_error *err) MARLIN_MUST_CHECK;

void ml_chat_free(struct ml_chat *c); /* NULL is fine */

/* The names of the templates ("default", "tool_use", ...), i < ml_chat_count; live as long as c. */
size_t ml_chat_count(const struct ml_chat *c);
const char *ml_chat_name(const struct ml_chat *c, size_t i);

/* A special token's text by name ("bos_token"), NULL when the model names none. Lives as long as c. */
const char *ml_chat_special(const struct ml_chat *c, const char *name);

/* Appends the prompt for a request to *out. Members of the request stand above special tokens of the same name;
 * "messages", "tools" and "documents" are None where absent, "add_generation_prompt" is false. A member
 * "chat_template" names the template to use; else it is "tool_use" when there are tools and such a template,
 * else "default". Any thread.
 *
 * *out is unchanged on an error: MARLIN_ERR_ARGUMENT for a request that the template refuses
 * (raise_exception) or that is no object with an array "messages", MARLIN_ERR_FORMAT for a mistake of the
 * template itself, MARLIN_ERR_UNSUPPORTED for what this interpreter lacks, MARLIN_ERR_LIMIT for a ceiling of
 * struct ml_template_limits. */
marlin_status ml_chat_render(const struct ml_chat *c, const char *json, size_t len, struct ml_buf *out,
                             struct marlin_error *err) MARLIN_MUST_CHECK;

/* The same from a request that has been parsed. */
marlin_status ml_chat_render_json(const struct ml_chat *c, const struct ml_json *request, struct ml_buf *out,
                                  struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
