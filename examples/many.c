/* SPDX-License-Identifier: Apache-2.0
 *
 * Continues several prompts side by side, each in a session of its own, up to the end of a line or an
 * interrupt (Ctrl-C).
 *
 *     many MODEL_DIR PROMPT...
 */
#include "marlin/marlin.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { MOST = 16, ROOM = 4096 };

static struct marlin_job jobs[MOST];
static char answers[MOST][ROOM];
static size_t n_jobs;

static void on_interrupt(int sig) {
    (void)sig;
    for (size_t i = 0; i < n_jobs; i++)
        marlin_cancel(jobs[i].session, true);
}

/* Texts of several answers come in turns, so each is kept until all are there. */
static bool keep(void *user, const char *text, size_t len) {
    char *answer = user;
    const size_t have = strlen(answer);
    if (len >= ROOM - have) return false;
    memcpy(answer + have, text, len);
    answer[have + len] = '\0';
    return true;
}

static marlin_status ask_all(marlin_model *model, char **prompts, struct marlin_error *err) {
    static const char *const stop[] = {"\n"};
    for (; prompts[n_jobs] && n_jobs < MOST; n_jobs++) {
        struct marlin_job *j = &jobs[n_jobs];
        const marlin_status st = marlin_session_open(model, NULL, &j->session, err);
        if (st != MARLIN_OK) return st;
        j->request = (struct marlin_request){.prompt = prompts[n_jobs],
                                             .max_tokens = 64,
                                             .stop = stop,
                                             .n_stop = 1,
                                             .on_text = keep,
                                             .user = answers[n_jobs]};
    }
    signal(SIGINT, on_interrupt);
    return marlin_run_many(jobs, n_jobs, err);
}

int main(int argc, char **argv) {
    struct marlin_error err = {0};
    marlin_model *model = NULL;
    if (argc < 3) {
        fprintf(stderr, "usage: many MODEL_DIR PROMPT...\n");
        return 2;
    }
    if (marlin_model_open(argv[1], NULL, &model, &err) || ask_all(model, argv + 2, &err))
        fprintf(stderr, "%s\n", err.text);
    signal(SIGINT, SIG_DFL);
    for (size_t i = 0; i < n_jobs; i++) {
        printf("%s%s\n\n", jobs[i].request.prompt, answers[i]);
        marlin_session_close(jobs[i].session);
    }
    marlin_model_close(model);
    return err.code == MARLIN_OK ? 0 : 1;
}
