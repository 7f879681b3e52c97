/* SPDX-License-Identifier: Apache-2.0
 *
 * `marlin tokenize`: text to ids, and back.
 */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "tokenizer/tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const size_t text_limit = (size_t)1 << 30, out_limit = (size_t)1 << 36;

static const struct ml_option options[] = {
    {"text", 0, ML_OPT_STRING, "FILE|-", "what to read; - is all of stdin, byte for byte", "-", 0, 0},
    {"decode", 0, ML_OPT_FLAG, NULL, "from ids (a JSON array, or numbers between white space) to text", NULL,
     0, 0},
    {"special", 0, ML_OPT_FLAG, NULL, "parse special tokens in the text; with --decode: show them", NULL, 0,
     0},
    {"no-bos", 0, ML_OPT_FLAG, NULL, "do not add the tokens that begin or end a text", NULL, 0, 0},
    {NULL, 0, ML_OPT_FLAG, NULL, NULL, NULL, 0, 0},
};

const struct ml_verb ml_verb_tokenize = {
    .name = "tokenize",
    .args = "[MODEL]",
    .help = "turn text into token ids, or back",
    .details = "Prints the ids on one line; with --json also their spelling in the vocabulary. Special "
               "tokens written "
               "in the text are plain text unless --special is given.",
    .examples = "echo \"Once upon a time\" | marlin tokenize\n"
                "marlin tokenize ~/models/Qwen3-0.6B --text story.txt --json\n"
                "marlin tokenize --decode --text ids.txt",
    .options = options,
    .max_args = 1,
    .surplus = "the text comes with --text FILE, or from a pipe",
};

static marlin_status add_id(struct ml_ids *ids, int64_t id, struct marlin_error *err) {
    if (id < 0 || id > INT32_MAX)
        return ml_fail(err, MARLIN_ERR_FORMAT, "ids: number %zu, %lld, is not a token id", ids->n + 1,
                       (long long)id);
    if (ids->n == ids->cap) {
        const size_t cap = ids->cap ? ids->cap * 2 : 1024;
        int32_t *grown = ml_realloc(ids->id, cap * sizeof *grown);
        if (!grown) return ml_fail(err, MARLIN_ERR_MEMORY, "ids: out of memory after %zu", ids->n);
        ids->id = grown;
        ids->cap = cap;
    }
    ids->id[ids->n++] = (int32_t)id;
    return MARLIN_OK;
}

/* An array of numbers, or an object with one in "ids": what --json prints. */
static marlin_status parse_json_ids(const char *text, size_t len, struct ml_ids *ids,
                                    struct marlin_error *err) {
    struct ml_json_doc *doc = NULL;
    marlin_status st = MARLIN_OK;
    ML_TRY(ml_json_parse(text, len, NULL, &doc, err));
    const struct ml_json *root = ml_json_root(doc);
    if (ml_json_type(root) == ML_JSON_OBJECT) root = ml_json_get(root, "ids");
    if (!root || ml_json_type(root) != ML_JSON_ARRAY)
        ML_TRY(ml_fail(err, MARLIN_ERR_FORMAT, "ids: an array of numbers is needed, not %s",
                       ml_json_type_name(root)));
    for (const struct ml_json *v = ml_json_first(root); v; v = ml_json_next(v)) {
        int64_t id;
        if (!ml_json_i64(v, &id))
            ML_TRY(ml_fail(err, MARLIN_ERR_FORMAT, "ids: element %zu is not a whole number", ids->n));
        ML_TRY(add_id(ids, id, err));
    }
out:
    ml_json_free(doc);
    return st;
}

static marlin_status parse_plain_ids(const char *text, size_t len, struct ml_ids *ids,
                                     struct marlin_error *err) {
    static const char space[] = " \t\r\n\f\v";
    if (strlen(text) != len) return ml_fail(err, MARLIN_ERR_FORMAT, "ids: a NUL byte in the list");
    for (const char *p = text + strspn(text, space); *p; p += strspn(p, space)) {
        char *end = NULL;
        errno = 0;
        const long long id = strtoll(p, &end, 10);
        if (end == p || errno || (*end && !strchr(space, *end)))
            return ml_fail(err, MARLIN_ERR_FORMAT, "ids: '%.20s' at byte %zu is not a whole number", p,
                           (size_t)(p - text));
        const marlin_status st = add_id(ids, id, err);
        if (st != MARLIN_OK) return st;
        p = end;
    }
    return MARLIN_OK;
}

static marlin_status parse_ids(const char *text, size_t len, struct ml_ids *ids, struct marlin_error *err) {
    const char first = text[strspn(text, " \t\r\n")];
    return first == '[' || first == '{' ? parse_json_ids(text, len, ids, err)
                                        : parse_plain_ids(text, len, ids, err);
}

static marlin_status print_ids(const struct ml_ids *ids, const char *separator, struct ml_buf *out) {
    marlin_status st = MARLIN_OK;
    for (size_t i = 0; i < ids->n; i++) {
        ML_TRY(ml_buf_addf(out, "%s%d", i ? separator : "", (int)ids->id[i]));
    }
out:
    return st;
}

static marlin_status print_json(const struct ml_tokenizer *t, const struct ml_ids *ids, struct ml_buf *out) {
    marlin_status st = MARLIN_OK;
    ML_TRY(ml_buf_adds(out, "{\"ids\":["));
    ML_TRY(print_ids(ids, ",", out));
    ML_TRY(ml_buf_adds(out, "],\"pieces\":["));
    for (size_t i = 0; i < ids->n; i++) {
        size_t len = 0;
        const char *piece = ml_tokenizer_piece(t, ids->id[i], &len);
        if (i) ML_TRY(ml_buf_adds(out, ","));
        ML_TRY(ml_buf_add_json(out, piece ? piece : "", len));
    }
    ML_TRY(ml_buf_adds(out, "]}\n"));
out:
    return st;
}

static marlin_status encode(const struct ml_cli *cli, const struct ml_args *args,
                            const struct ml_tokenizer *t, const char *text, size_t len, struct ml_ids *ids,
                            struct ml_buf *out, struct marlin_error *err) {
    const unsigned special = ml_args_flag(args, "special") ? ML_ENCODE_SPECIAL : 0;
    const unsigned bos = ml_args_flag(args, "no-bos") ? 0 : ML_ENCODE_BOS;
    marlin_status st = MARLIN_OK;
    ML_TRY(ml_tokenizer_encode(t, text, len, special | bos, ids, err));
    if (cli->json) {
        ML_TRY(print_json(t, ids, out));
    } else {
        ML_TRY(print_ids(ids, " ", out));
        ML_TRY(ml_buf_adds(out, "\n"));
    }
out:
    return st;
}

static marlin_status decode(const struct ml_cli *cli, const struct ml_args *args,
                            const struct ml_tokenizer *t, const char *text, size_t len, struct ml_ids *ids,
                            struct ml_buf *out, struct marlin_error *err) {
    struct ml_buf plain;
    marlin_status st = MARLIN_OK;
    ml_buf_init(&plain, out_limit);
    ML_TRY(parse_ids(text, len, ids, err));
    ML_TRY(ml_tokenizer_decode(t, ids->id, ids->n, !ml_args_flag(args, "special"), cli->json ? &plain : out,
                               err));
    if (cli->json) {
        ML_TRY(ml_buf_adds(out, "{\"text\":"));
        ML_TRY(ml_buf_add_json(out, plain.data ? plain.data : "", plain.len));
        ML_TRY(ml_buf_adds(out, "}\n"));
    }
out:
    ml_buf_free(&plain);
    return st;
}

/* A folder that holds a tokenizer and no model will do. */
static bool has_tokenizer(const char *dir) {
    static const char *const names[] = {"tokenizer.json", "tokenizer.model"};
    char path[ML_CLI_PATH];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (ml_path_join(path, sizeof path, dir, names[i], NULL) == MARLIN_OK && ml_path_exists(path))
            return true;
    return false;
}

int ml_cmd_tokenize(struct ml_cli *cli, const struct ml_args *args) {
    struct ml_tokenizer *t = NULL;
    struct ml_ids ids = {0};
    struct ml_buf out;
    struct marlin_error err = {0};
    char *text = NULL;
    size_t len = 0;
    int rc = ML_EXIT_FAILED;
    ml_buf_init(&out, out_limit);
    const char *dir = ml_args_at(args, 0);
    if (!dir || !has_tokenizer(dir)) dir = ml_cli_model_dir(cli, args);
    if (!dir) return rc;
    marlin_status st = MARLIN_OK;
    ML_TRY(ml_tokenizer_load(dir, 0, &t, &err));
    if (strcmp(ml_args_string(args, "text"), "-") == 0)
        ml_cli_note_terminal(cli, ml_args_flag(args, "decode") ? "ids" : "the text");
    ML_TRY(ml_cli_read(ml_args_string(args, "text"), text_limit, &text, &len, &err));
    ML_TRY(ml_args_flag(args, "decode") ? decode(cli, args, t, text, len, &ids, &out, &err)
                                        : encode(cli, args, t, text, len, &ids, &out, &err));
    rc = ml_cli_write(cli, &out);
out:
    if (st != MARLIN_OK) {
        /* Ids that the vocabulary lacks are bad input, not wrong usage of the program. */
        (void)ml_cli_fail(cli, st, &err);
        rc = ML_EXIT_FAILED;
    }
    ml_buf_free(&out);
    ml_ids_free(&ids);
    ml_free(text);
    ml_tokenizer_free(t);
    return rc;
}
