/* SPDX-License-Identifier: Apache-2.0
 *
 * One conversation of `marlin chat`: the model, its timeline, and the messages so far. chat.c answers messages,
 * chat_commands.c does what a line with a slash asks for.
 */
#ifndef ML_CLI_CHAT_H
#define ML_CLI_CHAT_H

#include "base/buf.h"
#include "cli/cli.h"
#include "cli/generation.h"
#include "engine/conversation.h"
#include "engine/feeder.h"
#include "engine/runtime.h"

#include <stdbool.h>
#include <stddef.h>

struct ml_chat_talk {
    struct ml_cli *cli;
    const struct ml_args *args;
    const char *model; /* its directory */
    struct ml_runtime runtime;
    struct ml_sampling sampling;
    struct ml_timeline *timeline;
    struct ml_feeder *feeder;
    struct ml_conversation *conversation;
    size_t max_tokens; /* of an answer */
    int think;         /* enable_thinking for the template: 1, 0, or -1 = not said */
    char *tools;       /* JSON array, or NULL */
    struct ml_buf answer;
    struct ml_progress reading; /* of a long prompt */
    struct ml_outcome outcome;  /* of the last answer; zero before it */
    int write_error;            /* errno of the write that failed */
    marlin_status text_status;  /* of showing the answer: the first failure ends it */
};

/* Answers the conversation's last message: shows the text as it comes (unless --json) and appends it as the
 * assistant's message. On failure the conversation is as it was. */
marlin_status ml_chat_answer(struct ml_chat_talk *t, struct marlin_error *err) MARLIN_MUST_CHECK;

enum ml_chat_command {
    ML_CHAT_NO_COMMAND, /* a message for the model */
    ML_CHAT_DONE,       /* the command was run, or its mistake printed */
    ML_CHAT_LEAVE
};

/* Runs a line that begins with a slash and the name of a command. */
enum ml_chat_command ml_chat_command(struct ml_chat_talk *t, const char *line);

#endif
