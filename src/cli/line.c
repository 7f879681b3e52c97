/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading lines, by libedit (histedit.h) or by stdio.
 */
#include "cli/line.h"

#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#if defined(MARLIN_LIBEDIT)
#include <histedit.h>
#endif

enum { HISTORY = 1000 };

struct ml_line {
    bool terminal;
    const char *prompt;
#if defined(MARLIN_LIBEDIT)
    EditLine *edit; /* NULL: no terminal */
    History *history;
#endif
};

#if defined(MARLIN_LIBEDIT)

static const char *prompt_of(EditLine *e) {
    struct ml_line *l = NULL;
    (void)el_get(e, EL_CLIENTDATA, &l);
    return l->prompt;
}

static marlin_status open_edit(struct ml_line *l, struct marlin_error *err) {
    HistEvent event;
    l->history = history_init();
    l->edit = el_init("marlin", stdin, stdout, stderr);
    if (!l->history || !l->edit) return ml_fail(err, MARLIN_ERR_MEMORY, "chat: out of memory for a line");
    (void)history(l->history, &event, H_SETSIZE, HISTORY);
    (void)el_set(l->edit, EL_CLIENTDATA, l);
    (void)el_set(l->edit, EL_PROMPT, prompt_of);
    (void)el_set(l->edit, EL_EDITOR, "emacs");
    (void)el_set(l->edit, EL_HIST, history, l->history);
    (void)el_source(l->edit, NULL); /* the user's own keys: ~/.editrc */
    return MARLIN_OK;
}

static void close_edit(struct ml_line *l) {
    if (l->edit) el_end(l->edit);
    if (l->history) history_end(l->history);
}

static bool edited(const struct ml_line *l) {
    return l->edit != NULL;
}

static enum ml_line_end read_edited(struct ml_line *l, struct ml_buf *text) {
    int n = 0;
    errno = 0;
    const char *line = el_gets(l->edit, &n);
    if (!line || n <= 0) {
        const bool interrupted = n < 0 && errno == EINTR;
        el_reset(l->edit);
        (void)fputs("\n", stdout);
        return interrupted ? ML_LINE_INTERRUPTED : ML_LINE_CLOSED;
    }
    if (line[n - 1] == '\n') n--;
    return ml_buf_add(text, line, (size_t)n) == MARLIN_OK ? ML_LINE_READ : ML_LINE_CLOSED;
}

void ml_line_remember(struct ml_line *l, const char *text) {
    HistEvent event;
    if (l->history) (void)history(l->history, &event, H_ENTER, text);
}

#else

static marlin_status open_edit(struct ml_line *l, struct marlin_error *err) {
    (void)l;
    (void)err;
    return MARLIN_OK;
}

static void close_edit(struct ml_line *l) {
    (void)l;
}

static bool edited(const struct ml_line *l) {
    (void)l;
    return false;
}

static enum ml_line_end read_edited(struct ml_line *l, struct ml_buf *text) {
    (void)l;
    (void)text;
    return ML_LINE_CLOSED;
}

void ml_line_remember(struct ml_line *l, const char *text) {
    (void)l;
    (void)text;
}

#endif

marlin_status ml_line_open(bool edit, struct ml_line **out, struct marlin_error *err) {
    struct ml_line *l = ml_calloc(1, sizeof *l);
    if (!l) return ml_fail(err, MARLIN_ERR_MEMORY, "chat: out of memory for a line");
    l->terminal = edit;
    const marlin_status st = edit ? open_edit(l, err) : MARLIN_OK;
    if (st == MARLIN_OK)
        *out = l;
    else
        ml_line_close(l);
    return st;
}

void ml_line_close(struct ml_line *l) {
    if (!l) return;
    close_edit(l);
    ml_free(l);
}

static enum ml_line_end read_plain(struct ml_line *l, struct ml_buf *text) {
    if (l->terminal) (void)fputs(l->prompt, stdout);
    (void)fflush(stdout);
    errno = 0;
    int c;
    while ((c = getc(stdin)) != EOF && c != '\n') {
        const char byte = (char)c;
        if (ml_buf_add(text, &byte, 1) != MARLIN_OK) return ML_LINE_CLOSED;
    }
    if (c != EOF || (text->len && errno != EINTR)) return ML_LINE_READ;
    const bool interrupted = errno == EINTR;
    clearerr(stdin);
    return interrupted ? ML_LINE_INTERRUPTED : ML_LINE_CLOSED;
}

enum ml_line_end ml_line_read(struct ml_line *l, const char *prompt, struct ml_buf *text) {
    l->prompt = prompt;
    ml_buf_clear(text);
    (void)fflush(stdout);
    return edited(l) ? read_edited(l, text) : read_plain(l, text);
}
