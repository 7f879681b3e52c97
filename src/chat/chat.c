/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a model keeps its chat templates and special tokens, and which template a request is for.
 */
#include "chat/chat.h"

#include "base/arena.h"
#include "base/file.h"
#include "base/mem.h"
#include "chat/jinja.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MAX_TEMPLATES = 64,
    MAX_SPECIAL = 16,
    FILE_LIMIT = 64 << 20,
    TEMPLATE_LIMIT = 4 << 20,
    PATH_BYTES = 4096
};

struct ml_chat {
    struct ml_arena arena;
    struct {
        const char *name;
        struct ml_template *t;
    } templates[MAX_TEMPLATES];
    size_t n_templates;
    struct ml_template_var special[MAX_SPECIAL];
    size_t n_special;
};

static marlin_status no_memory(struct marlin_error *err) {
    return ml_fail(err, MARLIN_ERR_MEMORY, "chat template: out of memory");
}

static marlin_status create(struct ml_chat **out, struct marlin_error *err) {
    *out = ml_calloc(1, sizeof **out);
    if (!*out) return no_memory(err);
    ml_arena_init(&(*out)->arena, 0);
    return MARLIN_OK;
}

void ml_chat_free(struct ml_chat *c) {
    if (!c) return;
    for (size_t i = 0; i < c->n_templates; i++)
        ml_template_free(c->templates[i].t);
    ml_arena_free(&c->arena);
    ml_free(c);
}

size_t ml_chat_count(const struct ml_chat *c) {
    return c->n_templates;
}

const char *ml_chat_name(const struct ml_chat *c, size_t i) {
    return c->templates[i].name;
}

const char *ml_chat_special(const struct ml_chat *c, const char *name) {
    for (size_t i = 0; i < c->n_special; i++)
        if (strcmp(c->special[i].name, name) == 0) return c->special[i].text;
    return NULL;
}

static const struct ml_template *find_template(const struct ml_chat *c, const char *name) {
    for (size_t i = 0; i < c->n_templates; i++)
        if (strcmp(c->templates[i].name, name) == 0) return c->templates[i].t;
    return NULL;
}

/* `where` is what errors call it. A name that is there already keeps what it has: files go before entries. */
static marlin_status add_template(struct ml_chat *c, const char *name, const char *where, const char *text,
                                  size_t len, struct marlin_error *err) {
    if (find_template(c, name)) return MARLIN_OK;
    if (c->n_templates == MAX_TEMPLATES)
        return ml_fail(err, MARLIN_ERR_LIMIT, "%s: more than %d chat templates", where, MAX_TEMPLATES);
    char *copy = ml_arena_strndup(&c->arena, name, strlen(name));
    if (!copy) return no_memory(err);
    struct ml_template *t = NULL;
    const marlin_status st = ml_template_compile(where, text, len, &t, err);
    if (st != MARLIN_OK) return st;
    c->templates[c->n_templates].name = copy;
    c->templates[c->n_templates++].t = t;
    return MARLIN_OK;
}

static marlin_status add_special(struct ml_chat *c, const char *name, const char *text,
                                 struct marlin_error *err) {
    if (!text || ml_chat_special(c, name) || c->n_special == MAX_SPECIAL) return MARLIN_OK;
    char *copy = ml_arena_strndup(&c->arena, text, strlen(text));
    if (!copy) return no_memory(err);
    c->special[c->n_special++] = (struct ml_template_var){.name = name, .text = copy};
    return MARLIN_OK;
}

/* ---- a directory */

/* *data stays NULL when there is no such file. */
static marlin_status slurp(const char *dir, const char *name, uint64_t limit, char **data, size_t *len,
                           struct marlin_error *err) {
    char path[PATH_BYTES];
    *data = NULL;
    marlin_status st = ml_path_join(path, sizeof path, dir, name, err);
    if (st != MARLIN_OK || !ml_path_exists(path)) return st;
    return ml_file_slurp(path, limit, data, len, err);
}

/* *doc stays NULL when there is no such file. */
static marlin_status parse_file(const char *dir, const char *name, struct ml_json_doc **doc,
                                struct marlin_error *err) {
    char *data = NULL;
    size_t len = 0;
    *doc = NULL;
    marlin_status st = slurp(dir, name, FILE_LIMIT, &data, &len, err);
    if (st == MARLIN_OK && data) {
        st = ml_json_parse(data, len, NULL, doc, err);
        if (st != MARLIN_OK) st = ml_fail_in(err, st, "%s/%s", dir, name);
    }
    ml_free(data);
    return st;
}

static marlin_status add_file(struct ml_chat *c, const char *dir, const char *file, const char *name,
                              struct marlin_error *err) {
    char *data = NULL;
    size_t len = 0;
    marlin_status st = slurp(dir, file, TEMPLATE_LIMIT, &data, &len, err);
    if (st == MARLIN_OK && data) st = add_template(c, name, file, data, len, err);
    ml_free(data);
    return st;
}

/* A string, or a list of {"name", "template"}. */
static marlin_status add_json(struct ml_chat *c, const struct ml_json *v, const char *where,
                              struct marlin_error *err) {
    size_t len = 0;
    if (!v || ml_json_type(v) == ML_JSON_NULL) return MARLIN_OK;
    const char *text = ml_json_string(v, &len);
    if (text) return add_template(c, "default", where, text, len, err);
    if (ml_json_type(v) != ML_JSON_ARRAY)
        return ml_fail(err, MARLIN_ERR_FORMAT, "%s: \"chat_template\" must be a string or an array, not %s",
                       where, ml_json_type_name(v));
    for (const struct ml_json *e = ml_json_first(v); e; e = ml_json_next(e)) {
        const char *name = ml_json_string(ml_json_get(e, "name"), NULL);
        text = ml_json_string(ml_json_get(e, "template"), &len);
        if (!name || !text)
            return ml_fail(err, MARLIN_ERR_FORMAT,
                           "%s: an entry of \"chat_template\" lacks \"name\" or \"template\"", where);
        const marlin_status st = add_template(c, name, where, text, len, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static int is_jinja(const struct dirent *e) {
    const size_t n = strlen(e->d_name);
    return e->d_name[0] != '.' && n > 6 && strcmp(e->d_name + n - 6, ".jinja") == 0;
}

/* additional_chat_templates/NAME.jinja, in the order of their names. */
static marlin_status add_additional(struct ml_chat *c, const char *dir, struct marlin_error *err) {
    char path[PATH_BYTES], name[256];
    struct dirent **files = NULL;
    marlin_status st = ml_path_join(path, sizeof path, dir, "additional_chat_templates", err);
    if (st != MARLIN_OK || !ml_path_is_dir(path)) return st;
    const int n = scandir(path, &files, is_jinja, alphasort);
    if (n < 0) return ml_fail(err, MARLIN_ERR_IO, "%s: cannot be listed", path);
    for (int i = 0; i < n; i++) {
        (void)snprintf(name, sizeof name, "%.*s", (int)strlen(files[i]->d_name) - 6, files[i]->d_name);
        if (st == MARLIN_OK) st = add_file(c, path, files[i]->d_name, name, err);
        (free)(files[i]); /* scandir's own memory */
    }
    (free)(files);
    return st;
}

/* A token is a string or an object with "content". */
static marlin_status add_tokens(struct ml_chat *c, const struct ml_json *v, struct marlin_error *err) {
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};
    marlin_status st = MARLIN_OK;
    for (size_t i = 0; st == MARLIN_OK && i < sizeof names / sizeof *names; i++) {
        const struct ml_json *token = ml_json_get(v, names[i]);
        const char *text = ml_json_string(token, NULL);
        if (!text) text = ml_json_string(ml_json_get(token, "content"), NULL);
        st = add_special(c, names[i], text, err);
    }
    return st;
}

static marlin_status load_configs(struct ml_chat *c, const char *dir, struct marlin_error *err) {
    static const char *const files[] = {"chat_template.json", "tokenizer_config.json",
                                        "special_tokens_map.json"};
    marlin_status st = MARLIN_OK;
    for (size_t i = 0; st == MARLIN_OK && i < sizeof files / sizeof *files; i++) {
        struct ml_json_doc *doc = NULL;
        st = parse_file(dir, files[i], &doc, err);
        const struct ml_json *root = doc ? ml_json_root(doc) : NULL;
        if (st == MARLIN_OK && i < 2) st = add_json(c, ml_json_get(root, "chat_template"), files[i], err);
        if (st == MARLIN_OK && i > 0) st = add_tokens(c, root, err);
        ml_json_free(doc);
    }
    return st;
}

marlin_status ml_chat_open_dir(const char *dir, struct ml_chat **out, struct marlin_error *err) {
    struct ml_chat *c = NULL;
    marlin_status st;
    *out = NULL;
    ML_TRY(create(&c, err));
    ML_TRY(add_file(c, dir, "chat_template.jinja", "default", err));
    ML_TRY(add_additional(c, dir, err));
    ML_TRY(load_configs(c, dir, err));
    if (c->n_templates == 0)
        st = ml_fail(err, MARLIN_ERR_NOT_FOUND,
                     "%s: has no chat template: it is no model for chats, or chat_template.jinja is missing",
                     dir);
out:
    if (st == MARLIN_OK)
        *out = c;
    else
        ml_chat_free(c);
    return st;
}

marlin_status ml_chat_open_text(const char *name, const char *text, size_t len, const char *bos,
                                const char *eos, struct ml_chat **out, struct marlin_error *err) {
    struct ml_chat *c = NULL;
    marlin_status st;
    *out = NULL;
    ML_TRY(create(&c, err));
    ML_TRY(add_template(c, "default", name, text, len, err));
    ML_TRY(add_special(c, "bos_token", bos, err));
    st = add_special(c, "eos_token", eos, err);
out:
    if (st == MARLIN_OK)
        *out = c;
    else
        ml_chat_free(c);
    return st;
}

/* ---- a request */

static bool has_any(const struct ml_json *v) {
    return v && ml_json_type(v) != ML_JSON_NULL;
}

static marlin_status choose(const struct ml_chat *c, const struct ml_json *request,
                            const struct ml_template **t, struct marlin_error *err) {
    const struct ml_json *named = ml_json_get(request, "chat_template");
    const char *name = ml_json_string(named, NULL);
    if (has_any(named) && !name)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "\"chat_template\" must be the name of a template, not %s",
                       ml_json_type_name(named));
    *t = NULL;
    if (!name && has_any(ml_json_get(request, "tools"))) *t = find_template(c, "tool_use");
    if (!*t) *t = find_template(c, name ? name : "default");
    if (*t) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_NOT_FOUND,
                   "the model has no chat template \"%.100s\": name one with \"chat_template\"",
                   name ? name : "default");
}

/* What stands for members that the request lacks. */
static const char defaults_text[] = "{\"messages\":null,\"tools\":null,\"documents\":null,"
                                    "\"add_generation_prompt\":false}";

marlin_status ml_chat_render_json(const struct ml_chat *c, const struct ml_json *request, struct ml_buf *out,
                                  struct marlin_error *err) {
    const struct ml_template *t = NULL;
    struct ml_json_doc *defaults = NULL;
    marlin_status st;
    if (!request || ml_json_type(request) != ML_JSON_OBJECT)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "a chat request is an object with \"messages\", not %s",
                       ml_json_type_name(request));
    const struct ml_json *messages = ml_json_get(request, "messages");
    if (!messages || ml_json_type(messages) != ML_JSON_ARRAY)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "\"messages\" of a chat request must be an array, not %s",
                       ml_json_type_name(messages));
    ML_TRY(choose(c, request, &t, err));
    ML_TRY(ml_json_parse(defaults_text, sizeof defaults_text - 1, NULL, &defaults, err));
    const struct ml_template_input in = {.request = request,
                                         .defaults = ml_json_root(defaults),
                                         .vars = c->special,
                                         .n_vars = c->n_special,
                                         .now = (int64_t)time(NULL)};
    st = ml_template_render(t, &in, out, err);
out:
    ml_json_free(defaults);
    return st;
}

marlin_status ml_chat_render(const struct ml_chat *c, const char *json, size_t len, struct ml_buf *out,
                             struct marlin_error *err) {
    struct ml_json_doc *doc = NULL;
    marlin_status st = ml_json_parse(json, len, NULL, &doc, err);
    if (st != MARLIN_OK) return ml_fail_in(err, st, "chat request");
    st = ml_chat_render_json(c, ml_json_root(doc), out, err);
    ml_json_free(doc);
    return st;
}
