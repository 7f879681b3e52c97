/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the messages of a conversation.
 */
#include "engine/conversation.h"

#include "base/json.h"
#include "base/mem.h"

#include <stdint.h>
#include <string.h>

enum { MOST_MESSAGES = 1 << 20 };

struct message {
    char *role, *text; /* NUL-terminated, of one allocation that starts at role */
    size_t len;        /* of text */
};

struct ml_conversation {
    struct message *messages; /* [cap] */
    size_t n, cap;
};

marlin_status ml_conversation_create(struct ml_conversation **out, struct marlin_error *err) {
    *out = ml_calloc(1, sizeof **out);
    return *out ? MARLIN_OK : ml_fail(err, MARLIN_ERR_MEMORY, "conversation: out of memory");
}

void ml_conversation_free(struct ml_conversation *c) {
    if (!c) return;
    ml_conversation_cut(c, 0);
    ml_free(c->messages);
    ml_free(c);
}

size_t ml_conversation_count(const struct ml_conversation *c) {
    return c->n;
}

const char *ml_conversation_role(const struct ml_conversation *c, size_t i) {
    return c->messages[i].role;
}

const char *ml_conversation_text(const struct ml_conversation *c, size_t i, size_t *len) {
    if (len) *len = c->messages[i].len;
    return c->messages[i].text;
}

static marlin_status make_message(struct message *m, const char *role, const char *text, size_t len,
                                  struct marlin_error *err) {
    const size_t role_size = strlen(role) + 1;
    m->role = len < SIZE_MAX - role_size - 1 ? ml_alloc(role_size + len + 1) : NULL;
    if (!m->role) return ml_fail(err, MARLIN_ERR_MEMORY, "conversation: out of memory for a message");
    memcpy(m->role, role, role_size);
    m->text = m->role + role_size;
    if (len) memcpy(m->text, text, len);
    m->text[len] = '\0';
    m->len = len;
    return MARLIN_OK;
}

static marlin_status grow(struct ml_conversation *c, struct marlin_error *err) {
    const size_t cap = c->cap ? 2 * c->cap : 16;
    if (c->n < c->cap) return MARLIN_OK;
    if (c->n >= MOST_MESSAGES)
        return ml_fail(err, MARLIN_ERR_LIMIT, "conversation: %zu messages, the most that are kept", c->n);
    struct message *more = ml_realloc(c->messages, cap * sizeof *more);
    if (!more) return ml_fail(err, MARLIN_ERR_MEMORY, "conversation: out of memory for %zu messages", cap);
    c->messages = more;
    c->cap = cap;
    return MARLIN_OK;
}

static marlin_status insert(struct ml_conversation *c, size_t at, const char *role, const char *text,
                            size_t len, struct marlin_error *err) {
    struct message m;
    marlin_status st = grow(c, err);
    if (st == MARLIN_OK) st = make_message(&m, role, text, len, err);
    if (st != MARLIN_OK) return st;
    memmove(c->messages + at + 1, c->messages + at, (c->n - at) * sizeof m);
    c->messages[at] = m;
    c->n++;
    return MARLIN_OK;
}

static void remove_at(struct ml_conversation *c, size_t at) {
    ml_free(c->messages[at].role);
    c->n--;
    memmove(c->messages + at, c->messages + at + 1, (c->n - at) * sizeof *c->messages);
}

marlin_status ml_conversation_add(struct ml_conversation *c, const char *role, const char *text, size_t len,
                                  struct marlin_error *err) {
    return insert(c, c->n, role, text, len, err);
}

marlin_status ml_conversation_system(struct ml_conversation *c, const char *text, size_t len,
                                     struct marlin_error *err) {
    const bool has = c->n && strcmp(c->messages[0].role, "system") == 0;
    if (len) {
        const marlin_status st = insert(c, 0, "system", text, len, err);
        if (st != MARLIN_OK) return st;
    }
    if (has) remove_at(c, len ? 1 : 0);
    return MARLIN_OK;
}

void ml_conversation_cut(struct ml_conversation *c, size_t n) {
    while (c->n > n)
        remove_at(c, c->n - 1);
}

bool ml_conversation_undo(struct ml_conversation *c) {
    for (size_t i = c->n; i-- > 0;) {
        if (strcmp(c->messages[i].role, "user") != 0) continue;
        ml_conversation_cut(c, i);
        return true;
    }
    return false;
}

/* ---- JSON ---- */

static marlin_status add_messages(const struct ml_conversation *c, struct ml_buf *out) {
    marlin_status st = MARLIN_OK;
    for (size_t i = 0; i < c->n; i++) {
        const struct message *m = &c->messages[i];
        ML_TRY(ml_buf_addf(out, "%s{\"role\":", i ? "," : ""));
        ML_TRY(ml_buf_add_json(out, m->role, strlen(m->role)));
        ML_TRY(ml_buf_adds(out, ",\"content\":"));
        ML_TRY(ml_buf_add_json(out, m->text, m->len));
        ML_TRY(ml_buf_adds(out, "}"));
    }
out:
    return st;
}

marlin_status ml_conversation_request(const struct ml_conversation *c, const char *more, struct ml_buf *out,
                                      struct marlin_error *err) {
    marlin_status st;
    ML_TRY(ml_buf_adds(out, "{\"messages\":["));
    ML_TRY(add_messages(c, out));
    ML_TRY(ml_buf_adds(out, "],\"add_generation_prompt\":true"));
    if (*more) ML_TRY(ml_buf_addf(out, ",%s", more));
    ML_TRY(ml_buf_adds(out, "}"));
out:
    return st == MARLIN_OK ? st : ml_fail(err, st, "conversation: its request does not fit into memory");
}

static marlin_status read_message(struct ml_conversation *c, const char *name, const struct ml_json *v,
                                  struct marlin_error *err) {
    size_t len = 0, role_len = 0;
    const char *role = ml_json_string(ml_json_get(v, "role"), &role_len);
    const char *text = ml_json_string(ml_json_get(v, "content"), &len);
    if (!role || !text)
        return ml_fail(err, MARLIN_ERR_FORMAT,
                       "%s: message %zu: \"role\" and \"content\" are not both there as strings", name, c->n);
    return ml_conversation_add(c, role, text, len, err);
}

static marlin_status read_messages(struct ml_conversation *c, const char *name, const struct ml_json *list,
                                   struct marlin_error *err) {
    marlin_status st = MARLIN_OK;
    if (!list || ml_json_type(list) != ML_JSON_ARRAY)
        return ml_fail(err, MARLIN_ERR_FORMAT, "%s: holds no array of \"messages\"", name);
    for (const struct ml_json *v = ml_json_first(list); v && st == MARLIN_OK; v = ml_json_next(v))
        st = read_message(c, name, v, err);
    return st;
}

marlin_status ml_conversation_read(struct ml_conversation *c, const char *name, const char *json, size_t len,
                                   struct marlin_error *err) {
    struct ml_json_doc *doc = NULL;
    struct ml_conversation *read = NULL;
    marlin_status st;
    ML_TRY(ml_conversation_create(&read, err));
    st = ml_json_parse(json, len, NULL, &doc, err);
    if (st != MARLIN_OK) (void)ml_fail_in(err, st, "%s", name);
    if (st != MARLIN_OK) goto out;
    const struct ml_json *root = ml_json_root(doc);
    ML_TRY(read_messages(read, name,
                         ml_json_type(root) == ML_JSON_ARRAY ? root : ml_json_get(root, "messages"), err));
    const struct ml_conversation old = *c;
    *c = *read;
    *read = old;
out:
    ml_json_free(doc);
    ml_conversation_free(read);
    return st;
}
