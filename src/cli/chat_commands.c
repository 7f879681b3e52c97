/* SPDX-License-Identifier: Apache-2.0
 *
 * The commands of a conversation: lines that begin with a slash.
 */
#include "cli/chat.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_LIMIT = 256 << 20 };

struct command {
    const char *name, *arg, *help;
    void (*run)(struct ml_chat_talk *t, const char *arg);
};

static void report(const struct ml_chat_talk *t, marlin_status st, const struct marlin_error *err) {
    if (st != MARLIN_OK) (void)ml_cli_fail(t->cli, st, err);
}

static void do_system(struct ml_chat_talk *t, const char *arg) {
    struct marlin_error err = {0};
    const size_t n = ml_conversation_count(t->conversation);
    if (*arg)
        report(t, ml_conversation_system(t->conversation, arg, strlen(arg), &err), &err);
    else if (n && strcmp(ml_conversation_role(t->conversation, 0), "system") == 0)
        (void)printf("%s\n", ml_conversation_text(t->conversation, 0, NULL));
    else
        (void)printf("there is no system message\n");
}

static void do_reset(struct ml_chat_talk *t, const char *arg) {
    const size_t n = ml_conversation_count(t->conversation);
    (void)arg;
    ml_conversation_cut(t->conversation,
                        n && strcmp(ml_conversation_role(t->conversation, 0), "system") == 0 ? 1 : 0);
    (void)printf("a new conversation\n");
}

static void do_undo(struct ml_chat_talk *t, const char *arg) {
    (void)arg;
    (void)printf(ml_conversation_undo(t->conversation) ? "your last message and its answer are forgotten\n"
                                                       : "there is no message of yours\n");
}

static void do_save(struct ml_chat_talk *t, const char *arg) {
    struct marlin_error err = {0};
    struct ml_buf b;
    if (!*arg) {
        (void)ml_cli_failf(t->cli, MARLIN_ERR_ARGUMENT, "/save: name a file");
        return;
    }
    ml_buf_init(&b, FILE_LIMIT);
    marlin_status st = ml_conversation_request(t->conversation, "", &b, &err);
    if (st == MARLIN_OK) st = ml_file_write_atomic(arg, b.data, b.len, &err);
    report(t, st, &err);
    if (st == MARLIN_OK)
        (void)printf("%zu messages saved to %s\n", ml_conversation_count(t->conversation), arg);
    ml_buf_free(&b);
}

static void do_load(struct ml_chat_talk *t, const char *arg) {
    struct marlin_error err = {0};
    char *text = NULL;
    size_t len;
    if (!*arg) {
        (void)ml_cli_failf(t->cli, MARLIN_ERR_ARGUMENT, "/load: name a file");
        return;
    }
    marlin_status st = ml_file_slurp(arg, FILE_LIMIT, &text, &len, &err);
    if (st == MARLIN_OK) st = ml_conversation_read(t->conversation, arg, text, len, &err);
    report(t, st, &err);
    if (st == MARLIN_OK)
        (void)printf("%zu messages loaded from %s\n", ml_conversation_count(t->conversation), arg);
    ml_free(text);
}

static void do_tokens(struct ml_chat_talk *t, const char *arg) {
    (void)arg;
    (void)printf(
        "%zu of %zu tokens of the context are used; the last answer had %zu, after %zu new ones of the "
        "prompt\n",
        ml_timeline_length(t->timeline), ml_timeline_context(t->timeline), t->outcome.n_tokens,
        t->outcome.prompt_tokens);
}

/* ---- /set ---- */

static const struct setting {
    const char *name;
    double least, most;
} settings[] = {
    {"temp", 0, 100},
    {"top-k", 0, 1 << 30},
    {"top-p", 0, 1},
    {"min-p", 0, 1},
    {"repeat-penalty", 0.01, 100},
    {"presence-penalty", -100, 100},
    {"frequency-penalty", -100, 100},
    {"seed", 0, 9007199254740992.0},
    {"tokens", 0, 1 << 30},
    {"think", 0, 1},
};

static void show_settings(const struct ml_chat_talk *t) {
    const struct ml_sampling *s = &t->sampling;
    (void)printf("temp %g, top-k %d, top-p %g, min-p %g, repeat-penalty %g, presence-penalty %g, "
                 "frequency-penalty %g, seed %llu, tokens %zu, think %s\n",
                 (double)s->temperature, s->top_k, (double)s->top_p, (double)s->min_p,
                 (double)s->repetition_penalty, (double)s->presence_penalty, (double)s->frequency_penalty,
                 (unsigned long long)s->seed, t->max_tokens,
                 t->think < 0 ? "as the template likes"
                 : t->think   ? "on"
                              : "off");
}

static void set_sampling(struct ml_sampling *s, const char *name, double v) {
    if (strcmp(name, "temp") == 0) s->temperature = (float)v;
    if (strcmp(name, "top-k") == 0) s->top_k = (int32_t)v;
    if (strcmp(name, "top-p") == 0) s->top_p = (float)v;
    if (strcmp(name, "min-p") == 0) s->min_p = (float)v;
    if (strcmp(name, "repeat-penalty") == 0) s->repetition_penalty = (float)v;
    if (strcmp(name, "presence-penalty") == 0) s->presence_penalty = (float)v;
    if (strcmp(name, "frequency-penalty") == 0) s->frequency_penalty = (float)v;
    if (strcmp(name, "seed") == 0) s->seed = (uint64_t)v;
}

static bool read_value(const char *text, double *v) {
    char *end;
    if (strcmp(text, "on") == 0 || strcmp(text, "off") == 0) {
        *v = strcmp(text, "on") == 0;
        return true;
    }
    errno = 0;
    *v = strtod(text, &end);
    return end != text && !*end && errno == 0 && isfinite(*v);
}

static void apply(struct ml_chat_talk *t, const char *name, double v) {
    struct marlin_error err = {0};
    struct ml_sampling s = t->sampling;
    if (strcmp(name, "tokens") == 0) t->max_tokens = (size_t)v;
    if (strcmp(name, "think") == 0) t->think = v != 0;
    set_sampling(&s, name, v);
    const marlin_status st = ml_timeline_set_sampling(t->timeline, &s, &err);
    report(t, st, &err);
    if (st == MARLIN_OK) t->sampling = s;
}

static void do_set(struct ml_chat_talk *t, const char *arg) {
    const size_t n = strcspn(arg, " ");
    const char *value = arg + n + strspn(arg + n, " ");
    double v;
    for (size_t i = 0; *arg && i < sizeof settings / sizeof *settings; i++) {
        const struct setting *s = &settings[i];
        if (strlen(s->name) != n || strncmp(s->name, arg, n) != 0) continue;
        if (!read_value(value, &v) || v < s->least || v > s->most)
            (void)ml_cli_failf(t->cli, MARLIN_ERR_ARGUMENT, "/set %s: '%.40s' is no number of %g to %g",
                               s->name, value, s->least, s->most);
        else
            apply(t, s->name, v);
        return;
    }
    if (*arg) (void)ml_cli_failf(t->cli, MARLIN_ERR_ARGUMENT, "/set: there is no setting '%.40s'", arg);
    show_settings(t);
}

/* ---- the table ---- */

static void do_help(struct ml_chat_talk *t, const char *arg);

static const struct command commands[] = {
    {"help", "", "this list", do_help},
    {"system", "TEXT", "set the system message; without TEXT, show it", do_system},
    {"reset", "", "forget the conversation, all but the system message", do_reset},
    {"undo", "", "take your last message and its answer back", do_undo},
    {"save", "FILE", "write the conversation as JSON", do_save},
    {"load", "FILE", "go on with a conversation that was saved", do_load},
    {"set", "NAME VALUE", "change a setting (temp, top-p, seed, tokens, think, ...); alone, show all",
     do_set},
    {"tokens", "", "how full the context is", do_tokens},
    {"exit", "", "leave, as Ctrl-D does", NULL},
};

static void do_help(struct ml_chat_talk *t, const char *arg) {
    (void)t;
    (void)arg;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        (void)printf("/%-7s%-11s %s\n", commands[i].name, commands[i].arg, commands[i].help);
    (void)printf("\"\"\" begins and ends a message of several lines; a line that ends in \\ goes on\n");
}

enum ml_chat_command ml_chat_command(struct ml_chat_talk *t, const char *line) {
    if (line[0] != '/') return ML_CHAT_NO_COMMAND;
    const char *name = line + 1;
    const size_t n = strcspn(name, " \n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strlen(commands[i].name) != n || strncmp(commands[i].name, name, n) != 0) continue;
        if (!commands[i].run) return ML_CHAT_LEAVE;
        commands[i].run(t, name + n + strspn(name + n, " \n"));
        return ML_CHAT_DONE;
    }
    (void)ml_cli_failf(t->cli, MARLIN_ERR_ARGUMENT, "there is no command '/%.*s': /help lists them",
                       (int)(n < 40 ? n : 40), name);
    return ML_CHAT_DONE;
}
