/* SPDX-License-Identifier: Apache-2.0
 *
 * `marlin chat`: a conversation by the model's chat template, on a terminal, or one answer to one message.
 *
 * The template is given all messages for each answer. What it makes of them is compared with the tokens that the
 * timeline has, and only what comes after the common beginning is fed.
 */
#include "cli/chat.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "cli/guess.h"
#include "cli/line.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MESSAGE_LIMIT = 64 << 20, REQUEST_LIMIT = 256 << 20, TOOLS_LIMIT = 16 << 20 };

static const struct ml_option options[] = {
    {"tokens", 'n', ML_OPT_INT, "N", "most tokens of an answer, 0 = as many as the context has room for", "0",
     0, 1 << 30},
    {"system", 0, ML_OPT_STRING, "TEXT", "the system message, which tells the model how to behave", NULL, 0,
     0},
    {"tools", 0, ML_OPT_STRING, "FILE", "JSON array of tools (functions) that the model may call", NULL, 0,
     0},
    {"think", 0, ML_OPT_CHOICE, "on|off", "ask the template for thinking before the answer, or for none",
     NULL, 0, 0},
    {"interactive", 'i', ML_OPT_FLAG, NULL, "converse line by line although standard input is no terminal",
     NULL, 0, 0},
    ML_GENERATION_OPTIONS,
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

const struct ml_verb ml_verb_chat = {
    .name = "chat",
    .args = "[MODEL] [MESSAGE]",
    .help = "converse with a model by its chat template",
    .details =
        "MODEL is a directory or a GGUF file; left out, the embedded model answers. With MESSAGE, or with a "
        "message "
        "from a pipe (MESSAGE - reads standard input too), one answer is printed. On a terminal and "
        "without MESSAGE a conversation begins: /help lists its commands, \"\"\" begins and ends a message "
        "of several lines, Ctrl-C stops an answer, Ctrl-D leaves.",
    .examples = "marlin chat\n"
                "marlin chat \"What is the capital of Portugal?\"\n"
                "marlin chat ~/models/Qwen3-0.6B --system \"You are brief.\" --think off\n"
                "git diff | marlin chat ~/models/Qwen3-0.6B.gguf",
    .options = options,
    .min_args = 0,
    .max_args = 2,
};

static atomic_bool interrupted;

static void on_interrupt(int sig) {
    (void)sig;
    atomic_store(&interrupted, true);
}

/* ---- an answer ---- */

static bool take_text(void *user, const char *text, size_t len) {
    struct ml_chat_talk *t = user;
    ml_progress_end(&t->reading);
    marlin_status st = ml_buf_add(&t->answer, text, len);
    if (st == MARLIN_OK && !t->cli->json && (fwrite(text, 1, len, stdout) != len || fflush(stdout) != 0)) {
        t->write_error = errno;
        st = MARLIN_ERR_IO;
    }
    t->text_status = st;
    return st == MARLIN_OK;
}

/* Members of the request besides the messages. */
static marlin_status add_variables(const struct ml_chat_talk *t, struct ml_buf *b) {
    marlin_status st = MARLIN_OK;
    if (t->tools) ML_TRY(ml_buf_addf(b, "\"tools\":%s", t->tools));
    if (t->think >= 0)
        ML_TRY(ml_buf_addf(b, "%s\"enable_thinking\":%s", t->tools ? "," : "", t->think ? "true" : "false"));
    ML_TRY(ml_buf_adds(b, ""));
out:
    return st;
}

static marlin_status prompt_ids(const struct ml_chat_talk *t, struct ml_ids *ids, struct marlin_error *err) {
    struct ml_buf variables, request;
    ml_buf_init(&variables, REQUEST_LIMIT);
    ml_buf_init(&request, REQUEST_LIMIT);
    marlin_status st = add_variables(t, &variables);
    if (st != MARLIN_OK) (void)ml_fail(err, st, "chat: the tools do not fit into memory");
    if (st == MARLIN_OK) st = ml_conversation_request(t->conversation, variables.data, &request, err);
    if (st == MARLIN_OK) st = ml_runtime_chat_ids(&t->runtime, request.data, request.len, ids, err);
    ml_buf_free(&variables);
    ml_buf_free(&request);
    return st;
}

static marlin_status generate(struct ml_chat_talk *t, const struct ml_ids *ids, struct marlin_error *err) {
    struct ml_stops stops;
    marlin_status st = ml_cli_stops(t->args, &stops, err);
    if (st != MARLIN_OK) return st;
    if (ids->n >= ml_timeline_context(t->timeline))
        return ml_fail(
            err, MARLIN_ERR_LIMIT,
            "chat: the conversation has %zu tokens and the context %zu: begin a new one (/reset), take "
            "messages back (/undo), or start with a larger --ctx",
            ids->n, ml_timeline_context(t->timeline));
    const size_t known = ml_timeline_reuse(t->timeline, ids->id, ids->n);
    const struct ml_request_options rq = {
        .prompt = ids->id + known,
        .n_prompt = ids->n - known,
        .max_tokens = t->max_tokens ? t->max_tokens : SIZE_MAX,
        .stop = stops.text,
        .n_stop = stops.n,
        .on_text = take_text,
        .user = t,
        .cancel = &interrupted,
    };
    return ml_cli_generate(t->feeder, t->timeline, &rq, &t->reading, t->cli->quiet, &t->outcome, err);
}

marlin_status ml_chat_answer(struct ml_chat_talk *t, struct marlin_error *err) {
    struct ml_ids ids = {0};
    ml_buf_clear(&t->answer);
    t->text_status = MARLIN_OK;
    marlin_status st = prompt_ids(t, &ids, err);
    if (st == MARLIN_OK) st = generate(t, &ids, err);
    if (st == MARLIN_OK && t->text_status != MARLIN_OK)
        st = t->text_status == MARLIN_ERR_IO
                 ? ml_fail(err, MARLIN_ERR_IO, "writing the answer to stdout failed: %s",
                           strerror(t->write_error))
                 : ml_fail(err, t->text_status, "chat: the answer does not fit into memory");
    if (st == MARLIN_OK)
        st = ml_conversation_add(t->conversation, "assistant", t->answer.data ? t->answer.data : "",
                                 t->answer.len, err);
    ml_ids_free(&ids);
    return st;
}

/* Why an answer ended before the model ended it. */
static void print_end(const struct ml_chat_talk *t) {
    const struct ml_outcome *o = &t->outcome;
    if (o->finish == ML_FINISH_LENGTH && t->max_tokens && o->n_tokens == t->max_tokens)
        ml_cli_note(t->cli, "the answer was cut at -n %zu tokens", t->max_tokens);
    else if (o->finish == ML_FINISH_LENGTH)
        ml_cli_note(t->cli, "the answer was cut: the context of %zu tokens is full (--ctx)",
                    ml_timeline_context(t->timeline));
    else if (o->finish == ML_FINISH_STOP && t->answer.len == 0)
        ml_cli_note(t->cli, "the model ended its answer at once");
}

/* ---- one message, one answer ---- */

static int print_json(struct ml_chat_talk *t) {
    struct ml_buf b;
    ml_buf_init(&b, REQUEST_LIMIT);
    const marlin_status st =
        ml_cli_outcome_json(&t->outcome, &t->answer, t->sampling.seed, t->runtime.load_seconds, &b);
    const int rc = st == MARLIN_OK ? ml_cli_write(t->cli, &b)
                                   : ml_cli_failf(t->cli, st, "the result does not fit into memory");
    ml_buf_free(&b);
    return rc;
}

static int answer_once(struct ml_chat_talk *t, const char *message, size_t len) {
    struct marlin_error err = {0};
    const struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    (void)sigaction(SIGINT, &action, NULL);
    marlin_status st = ml_conversation_add(t->conversation, "user", message, len, &err);
    if (st == MARLIN_OK) st = ml_chat_answer(t, &err);
    if (st != MARLIN_OK) return ml_cli_fail(t->cli, st, &err);
    if (t->cli->json) return print_json(t);
    if (fputs("\n", stdout) < 0 || fflush(stdout) != 0)
        return ml_cli_failf(t->cli, MARLIN_ERR_IO, "writing the answer to stdout failed: %s",
                            strerror(errno));
    print_end(t);
    if (!t->cli->quiet) ml_cli_print_speeds(&t->outcome, &t->sampling, t->runtime.load_seconds);
    return ML_EXIT_DONE;
}

/* ---- a conversation ---- */

/* A message of several lines: from """ to """. false: the input ended or was interrupted. */
static enum ml_line_end read_block(struct ml_line *l, struct ml_buf *message) {
    struct ml_buf line;
    enum ml_line_end end;
    ml_buf_init(&line, MESSAGE_LIMIT);
    while ((end = ml_line_read(l, "... ", &line)) == ML_LINE_READ) {
        const bool last = line.len >= 3 && memcmp(line.data + line.len - 3, "\"\"\"", 3) == 0;
        if (ml_buf_add(message, line.data ? line.data : "", line.len - (last ? 3 : 0)) != MARLIN_OK ||
            (!last && ml_buf_adds(message, "\n") != MARLIN_OK)) {
            end = ML_LINE_CLOSED;
            break;
        }
        if (last) break;
    }
    ml_buf_free(&line);
    return end;
}

/* The next message or command, NUL-terminated. A backslash at the end of a line goes on with the next one. */
static enum ml_line_end read_message(struct ml_line *l, struct ml_buf *message) {
    enum ml_line_end end = ml_line_read(l, ">>> ", message);
    if (end != ML_LINE_READ) return end;
    if (message->len >= 3 && memcmp(message->data, "\"\"\"", 3) == 0) {
        const size_t rest = message->len - 3;
        memmove(message->data, message->data + 3, rest);
        message->len = rest;
        if (rest >= 3 && memcmp(message->data + rest - 3, "\"\"\"", 3) == 0)
            message->len -= 3;
        else if ((rest && ml_buf_adds(message, "\n") != MARLIN_OK) ||
                 (end = read_block(l, message)) != ML_LINE_READ)
            return end == ML_LINE_READ ? ML_LINE_CLOSED : end;
    } else {
        struct ml_buf more;
        ml_buf_init(&more, MESSAGE_LIMIT);
        while (end == ML_LINE_READ && message->len && message->data[message->len - 1] == '\\') {
            message->data[message->len - 1] = '\n';
            end = ml_line_read(l, "... ", &more);
            if (end == ML_LINE_READ && ml_buf_add(message, more.data ? more.data : "", more.len) != MARLIN_OK)
                end = ML_LINE_CLOSED;
        }
        ml_buf_free(&more);
    }
    if (end == ML_LINE_READ && ml_buf_add(message, "", 1) == MARLIN_OK) message->len--;
    return end;
}

static void answer_message(struct ml_chat_talk *t, const struct ml_buf *message) {
    struct marlin_error err = {0};
    const size_t before = ml_conversation_count(t->conversation);
    atomic_store(&interrupted, false);
    marlin_status st = ml_conversation_add(t->conversation, "user", message->data, message->len, &err);
    if (st == MARLIN_OK) st = ml_chat_answer(t, &err);
    (void)fputs("\n", stdout);
    (void)fflush(stdout);
    if (st == MARLIN_OK) {
        print_end(t);
        return;
    }
    (void)ml_cli_fail(t->cli, st, &err);
    ml_conversation_cut(t->conversation, before);
}

static int converse(struct ml_chat_talk *t, bool terminal) {
    struct ml_line *line = NULL;
    struct marlin_error err = {0};
    struct ml_buf message;
    const struct sigaction action = {.sa_handler = on_interrupt};
    if (ml_line_open(terminal, &line, &err) != MARLIN_OK) return ml_cli_fail(t->cli, err.code, &err);
    ml_buf_init(&message, MESSAGE_LIMIT);
    (void)sigaction(SIGINT, &action, NULL);
    if (terminal) ml_cli_note(t->cli, "%s: /help lists the commands, Ctrl-D leaves", t->model);
    for (enum ml_line_end end; (end = read_message(line, &message)) != ML_LINE_CLOSED;) {
        if (end == ML_LINE_INTERRUPTED || message.len == 0) continue;
        ml_line_remember(line, message.data);
        const enum ml_chat_command done = ml_chat_command(t, message.data);
        if (done == ML_CHAT_LEAVE) break;
        if (done == ML_CHAT_NO_COMMAND) answer_message(t, &message);
    }
    ml_buf_free(&message);
    ml_line_close(line);
    return ML_EXIT_DONE;
}

/* ---- beginning and end ---- */

static marlin_status read_tools(struct ml_chat_talk *t, const char *path, struct marlin_error *err) {
    struct ml_json_doc *doc = NULL;
    size_t len;
    marlin_status st = ml_file_slurp(path, TOOLS_LIMIT, &t->tools, &len, err);
    if (st != MARLIN_OK) return st;
    st = ml_json_parse(t->tools, len, NULL, &doc, err);
    if (st != MARLIN_OK)
        (void)ml_fail_in(err, st, "%s", path);
    else if (ml_json_type(ml_json_root(doc)) != ML_JSON_ARRAY)
        st = ml_fail(err, MARLIN_ERR_FORMAT, "%s: is no JSON array of tools", path);
    ml_json_free(doc);
    return st;
}

static marlin_status open_talk(struct ml_chat_talk *t, struct marlin_error *err) {
    const struct ml_args *a = t->args;
    const char *think = ml_args_string(a, "think"), *tools = ml_args_string(a, "tools"),
               *system = ml_args_string(a, "system");
    const struct ml_runtime_options ro = {.device = t->cli->device,
                                          .threads = t->cli->threads,
                                          .cache_type = ml_args_string(a, "cache-type"),
                                          .exact = ml_args_flag(a, "exact")};
    marlin_status st;
    t->max_tokens = (size_t)ml_args_int(a, "tokens");
    t->think = think ? strcmp(think, "on") == 0 : -1;
    if (tools) ML_TRY(read_tools(t, tools, err));
    ML_TRY(ml_conversation_create(&t->conversation, err));
    if (system) ML_TRY(ml_conversation_system(t->conversation, system, strlen(system), err));
    ML_TRY(ml_runtime_open(t->model, &ro, &t->runtime, err));
    if (!t->runtime.chat) {
        *err = t->runtime.chat_error;
        st = err->code;
        goto out;
    }
    ml_cli_sampling(a, t->runtime.model, &t->sampling);
    const struct ml_timeline_options to = {
        .sampling = t->sampling, .context = ml_args_given(a, "ctx") ? (size_t)ml_args_int(a, "ctx") : 0};
    const struct ml_feeder_options fo = {.context = to.context};
    ml_cli_note_context(t->cli, t->runtime.model, to.context);
    st = ml_timeline_create(&t->runtime, &to, &t->timeline, err);
    if (st == MARLIN_ERR_MEMORY && to.context) (void)ml_fail_in(err, st, "--ctx %zu", to.context);
    if (st != MARLIN_OK) goto out;
    ML_TRY(ml_feeder_create(&t->runtime, &fo, &t->feeder, err));
out:
    return st;
}

static void close_talk(struct ml_chat_talk *t) {
    ml_feeder_free(t->feeder);
    ml_timeline_free(t->timeline);
    ml_runtime_close(&t->runtime);
    ml_conversation_free(t->conversation);
    ml_free(t->tools);
    ml_buf_free(&t->answer);
}

/* Which argument is what: model stays NULL where the default is meant, *message where none is given. */
static marlin_status read_arguments(struct ml_chat_talk *t, const char **message, struct marlin_error *err) {
    const int n = ml_args_count(t->args);
    const char *first = ml_args_at(t->args, 0);
    const bool lone = n == 1 && strcmp(first, "-") != 0;
    if (n == 2 || (lone && !ml_args_after_dashes(t->args, 0) && ml_cli_is_model(first))) t->model = first;
    *message = n == 2 ? ml_args_at(t->args, 1) : n == 1 && !t->model ? first : NULL;
    return lone && !t->model ? ml_cli_check_text(t->args, "chat", "message", err) : MARLIN_OK;
}

/* What is asked: the message, NULL for a conversation. *read: the caller's, from standard input. */
static marlin_status find_message(struct ml_chat_talk *t, const char **message, size_t *len, char **read,
                                  struct marlin_error *err) {
    const bool interactive = ml_args_flag(t->args, "interactive"),
               piped = ml_cli_stdin_piped() && !interactive;
    marlin_status st = read_arguments(t, message, err);
    if (st != MARLIN_OK) return st;
    *len = *message ? strlen(*message) : 0;
    if (!*message && !piped && !interactive && isatty(STDIN_FILENO) != 1)
        return ml_fail(err, MARLIN_ERR_ARGUMENT,
                       "chat: there is no message, and standard input is no terminal");
    if (*message ? strcmp(*message, "-") != 0 : !piped) return MARLIN_OK;
    ml_cli_note_terminal(t->cli, "the message");
    st = ml_cli_read("-", MESSAGE_LIMIT, read, len, err);
    if (st != MARLIN_OK) return st;
    while (*len && (*read)[*len - 1] == '\n')
        --*len;
    *message = *read;
    if (*len == 0) st = ml_fail(err, MARLIN_ERR_ARGUMENT, "chat: standard input holds no message");
    return st;
}

int ml_cmd_chat(struct ml_cli *cli, const struct ml_args *args) {
    struct ml_chat_talk t = {.cli = cli, .args = args};
    struct marlin_error err = {0};
    const char *message = NULL;
    char *read = NULL;
    size_t len = 0;
    int rc = ML_EXIT_FAILED;
    ml_buf_init(&t.answer, MESSAGE_LIMIT);
    marlin_status st = find_message(&t, &message, &len, &read, &err);
    if (st == MARLIN_OK && !message && cli->json)
        st = ml_fail(&err, MARLIN_ERR_ARGUMENT, "chat: --json wants a MESSAGE");
    if (st == MARLIN_OK && !t.model && !(t.model = ml_cli_default_model(cli))) goto out;
    if (st == MARLIN_OK) st = open_talk(&t, &err);
    if (st != MARLIN_OK)
        rc = ml_cli_fail(cli, st, &err);
    else
        rc = message ? answer_once(&t, message, len)
                     : converse(&t, isatty(STDIN_FILENO) == 1 && !ml_args_flag(args, "interactive"));
out:
    close_talk(&t);
    ml_free(read);
    return rc;
}
