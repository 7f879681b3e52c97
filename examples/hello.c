/* SPDX-License-Identifier: Apache-2.0
 *
 * The smallest program over the library: opens a model, continues a prompt, prints the text as it comes.
 *
 *     hello [MODEL_DIR [PROMPT]]
 */
#include "marlin/marlin.h"

#include <stdio.h>

static bool print_text(void *user, const char *text, size_t len) {
    return fwrite(text, 1, len, user) == len && fflush(user) == 0;
}

int main(int argc, char **argv) {
    const char *dir = argc > 1 ? argv[1] : "models/marlin-chat";
    const char *prompt = argc > 2 ? argv[2] : "Once upon a time";
    struct marlin_error err = {0};
    marlin_model *model = NULL;
    marlin_session *session = NULL;

    if (marlin_model_open(dir, NULL, &model, &err) || marlin_session_open(model, NULL, &session, &err) ||
        marlin_generate(session, prompt, 64, print_text, stdout, NULL, &err))
        fprintf(stderr, "%s\n", err.text);
    else
        printf("\n");
    marlin_session_close(session);
    marlin_model_close(model);
    return err.code == MARLIN_OK ? 0 : 1;
}
