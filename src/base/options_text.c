/* SPDX-License-Identifier: Apache-2.0
 *
 * What is written from the option table: help, the man page, completions for bash, zsh and fish.
 */
#include "base/options.h"

#include <stdio.h>
#include <string.h>

/* Remembers the first failure, so that the writers below read straight. */
struct sink {
    struct ml_buf *buf;
    marlin_status st;
};

static void put(struct sink *s, const char *text) {
    if (s->st == MARLIN_OK) s->st = ml_buf_adds(s->buf, text);
}

static void put_n(struct sink *s, const char *text, size_t n) {
    if (s->st == MARLIN_OK) s->st = ml_buf_add(s->buf, text, n);
}

static void put_char(struct sink *s, char c) {
    put_n(s, &c, 1);
}

static void put_spaces(struct sink *s, size_t n) {
    for (; n > 0; n--)
        put_char(s, ' ');
}

static bool takes_value(const struct ml_option *o) {
    return o->type != ML_OPT_FLAG;
}

static const char *value_name(const struct ml_option *o) {
    return o->arg ? o->arg : "VALUE";
}

/* ---- help ---- */

enum { COLUMN = 30, LEAST_WIDTH = 40 };

/* Words of `text` from column `at` on, which is where further lines begin too; ends with a newline. Lines
 * that begin with a space are left as they are, and so are those of the text's own. */
static void put_wrapped(struct sink *s, const char *text, size_t at, size_t width) {
    size_t column = at;
    if (width < at + LEAST_WIDTH / 2) width = at + LEAST_WIDTH / 2;
    while (*text) {
        const size_t line = strcspn(text, "\n");
        const bool kept = text[0] == ' ';
        for (size_t i = 0; i < line;) {
            size_t word = kept ? line : strcspn(text + i, " \n");
            if (word > line - i) word = line - i;
            if (!kept && column > at && column + 1 + word > width) {
                put_char(s, '\n');
                put_spaces(s, at);
                column = at;
            } else if (i > 0 && column > at) {
                put_char(s, ' ');
                column++;
            }
            put_n(s, text + i, word);
            column += word;
            i += word;
            i += strspn(text + i, " ");
        }
        text += line;
        if (*text == '\n' && *++text) {
            put_char(s, '\n');
            if (*text != '\n') put_spaces(s, at);
            column = at;
        }
    }
    put_char(s, '\n');
}

/* The help of an option with its default. */
static void option_help(struct sink *s, const struct ml_option *o, size_t width) {
    char text[512];
    if (o->initial && *o->initial)
        (void)snprintf(text, sizeof text, "%s (default %s)", o->help, o->initial);
    else
        (void)snprintf(text, sizeof text, "%s", o->help);
    put_wrapped(s, text, COLUMN, width);
}

static void help_option(struct sink *s, const struct ml_option *o, size_t width) {
    const size_t start = s->buf->len;
    put(s, "  ");
    if (o->letter) {
        put_char(s, '-');
        put_char(s, o->letter);
        put(s, ", ");
    } else {
        put(s, "    ");
    }
    put(s, "--");
    put(s, o->name);
    if (takes_value(o)) {
        put_char(s, ' ');
        put(s, value_name(o));
    }
    if (s->st != MARLIN_OK) return;
    const size_t used = s->buf->len - start;
    if (used > COLUMN - 2) {
        put_char(s, '\n');
        put_spaces(s, COLUMN);
    } else {
        put_spaces(s, COLUMN - used);
    }
    option_help(s, o, width);
}

static void help_options(struct sink *s, const char *title, const struct ml_option *o, size_t width) {
    if (!o || !o->name) return;
    put_char(s, '\n');
    put(s, title);
    put(s, ":\n");
    for (; o->name; o++) {
        help_option(s, o, width);
    }
}

/* Command lines, each indented. */
static void put_examples(struct sink *s, const char *lines) {
    for (size_t n; *lines; lines += n + (lines[n] == '\n')) {
        n = strcspn(lines, "\n");
        put(s, "  ");
        put_n(s, lines, n);
        put_char(s, '\n');
    }
}

marlin_status ml_options_help(const struct ml_verb *verb, const struct ml_option *common, const char *program,
                              size_t width, struct ml_buf *out) {
    struct sink s = {out, MARLIN_OK};
    put(&s, "usage: ");
    put(&s, program);
    put_char(&s, ' ');
    put(&s, verb->name);
    if (verb->args && *verb->args) {
        put_char(&s, ' ');
        put(&s, verb->args);
    }
    put(&s, " [options]\n\n");
    put_wrapped(&s, verb->help, 0, width);
    if (verb->details) {
        put_char(&s, '\n');
        put_wrapped(&s, verb->details, 0, width);
    }
    if (verb->examples) {
        put(&s, "\nexamples:\n");
        put_examples(&s, verb->examples);
    }
    help_options(&s, "options", verb->options, width);
    help_options(&s, "common options", common, width);
    return s.st;
}

marlin_status ml_options_variables(const struct ml_variable *v, size_t width, struct ml_buf *out) {
    enum { NAMES = 20 };
    struct sink s = {out, MARLIN_OK};
    for (; v->name; v++) {
        const size_t n = strlen(v->name) + 2;
        put(&s, "  ");
        put(&s, v->name);
        put_spaces(&s, n < NAMES ? NAMES - n : 1);
        put_wrapped(&s, v->help, NAMES, width);
    }
    return s.st;
}

/* ---- JSON ---- */

static void json_text(struct sink *s, const char *key, const char *text, const char *separator) {
    if (!text || !*text) return;
    put(s, separator);
    put(s, "\"");
    put(s, key);
    put(s, "\":");
    if (s->st == MARLIN_OK) s->st = ml_buf_add_json(s->buf, text, strlen(text));
}

static void json_option(struct sink *s, const struct ml_option *o) {
    static const char *const types[] = {"flag", "int", "float", "string", "choice", "repeat"};
    const char letter[2] = {o->letter, '\0'};
    char range[96];
    json_text(s, "name", o->name, "{");
    json_text(s, "letter", letter, ",");
    json_text(s, "type", types[o->type], ",");
    json_text(s, "arg", o->arg, ",");
    json_text(s, "help", o->help, ",");
    json_text(s, "default", o->initial, ",");
    if (o->least < o->most) {
        (void)snprintf(range, sizeof range, ",\"least\":%.12g,\"most\":%.12g", o->least, o->most);
        put(s, range);
    }
    put_char(s, '}');
}

static void json_options(struct sink *s, const char *key, const struct ml_option *o) {
    put(s, ",\"");
    put(s, key);
    put(s, "\":[");
    for (const char *separator = ""; o && o->name; o++, separator = ",") {
        put(s, separator);
        json_option(s, o);
    }
    put_char(s, ']');
}

marlin_status ml_options_json(const struct ml_verb *verb, const struct ml_option *common,
                              struct ml_buf *out) {
    struct sink s = {out, MARLIN_OK};
    json_text(&s, "verb", verb->name, "{");
    json_text(&s, "args", verb->args, ",");
    json_text(&s, "help", verb->help, ",");
    json_text(&s, "details", verb->details, ",");
    json_text(&s, "examples", verb->examples, ",");
    json_options(&s, "options", verb->options);
    json_options(&s, "common_options", common);
    put(&s, "}\n");
    return s.st;
}

/* ---- man page ---- */

/* Text in roff: a hyphen that is typed, a backslash that is printed, no line that is taken as a request. */
static void man_text(struct sink *s, const char *text) {
    bool line_start = true;
    for (const char *p = text; *p; p++) {
        if (line_start && (*p == '.' || *p == '\'')) put(s, "\\&");
        if (*p == '\\')
            put(s, "\\e");
        else if (*p == '-')
            put(s, "\\-");
        else if (*p == '\n' && p[1] == '\n')
            put(s, "\n.PP");
        else
            put_char(s, *p);
        line_start = *p == '\n';
    }
}

static void man_option(struct sink *s, const struct ml_option *o) {
    put(s, ".TP\n");
    if (o->letter) {
        put(s, "\\fB\\-");
        put_char(s, o->letter);
        put(s, "\\fR, ");
    }
    put(s, "\\fB\\-\\-");
    man_text(s, o->name);
    put(s, "\\fR");
    if (takes_value(o)) {
        put(s, " \\fI");
        man_text(s, value_name(o));
        put(s, "\\fR");
    }
    put_char(s, '\n');
    man_text(s, o->help);
    if (o->initial && *o->initial) {
        put(s, " (default ");
        man_text(s, o->initial);
        put_char(s, ')');
    }
    put_char(s, '\n');
}

static void man_verb(struct sink *s, const struct ml_verb *v) {
    put(s, ".SS ");
    man_text(s, v->name);
    if (v->args && *v->args) {
        put_char(s, ' ');
        man_text(s, v->args);
    }
    put_char(s, '\n');
    man_text(s, v->help);
    put_char(s, '\n');
    if (v->details) {
        put(s, ".PP\n");
        man_text(s, v->details);
        put_char(s, '\n');
    }
    if (v->examples) {
        put(s, ".PP\n.nf\n");
        for (const char *line = v->examples; *line; line += strcspn(line, "\n"), line += *line == '\n') {
            char text[256];
            (void)snprintf(text, sizeof text, "%.*s", (int)strcspn(line, "\n"), line);
            put(s, "    ");
            man_text(s, text);
            put_char(s, '\n');
        }
        put(s, ".fi\n");
    }
    for (const struct ml_option *o = v->options; o && o->name; o++) {
        man_option(s, o);
    }
}

static void man_variables(struct sink *s, const struct ml_variable *v) {
    if (!v || !v->name) return;
    put(s, ".SH ENVIRONMENT\n");
    for (; v->name; v++) {
        put(s, ".TP\n\\fB");
        man_text(s, v->name);
        put(s, "\\fR\n");
        man_text(s, v->help);
        put_char(s, '\n');
    }
}

marlin_status ml_options_man(const struct ml_verb *const *verbs, size_t n, const struct ml_option *common,
                             const struct ml_variable *variables, const char *program, const char *version,
                             struct ml_buf *out) {
    struct sink s = {out, MARLIN_OK};
    put(&s, ".TH ");
    man_text(&s, program);
    put(&s, " 1 \"\" \"");
    man_text(&s, program);
    put_char(&s, ' ');
    man_text(&s, version);
    put(&s, "\"\n.SH NAME\n");
    man_text(&s, program);
    put(&s, " \\- run large language models, and make them small\n.SH SYNOPSIS\n.B ");
    man_text(&s, program);
    put(&s, "\n\\fIverb\\fR [\\fImodel\\fR] [\\fIarguments\\fR] [\\fIoptions\\fR]\n.SH VERBS\n");
    for (size_t i = 0; i < n; i++) {
        man_verb(&s, verbs[i]);
    }
    put(&s, ".SH COMMON OPTIONS\n");
    for (const struct ml_option *o = common; o && o->name; o++) {
        man_option(&s, o);
    }
    man_variables(&s, variables);
    put(&s, ".SH EXIT STATUS\n0 done, 1 failed, 2 wrong usage.\n");
    return s.st;
}

/* ---- completions ---- */

/* Inside single quotes of a shell. bash and zsh leave the quotes for an apostrophe, fish escapes it. */
static void shell_quoted(struct sink *s, const char *text, bool fish) {
    for (; *text; text++) {
        if (*text == '\'')
            put(s, fish ? "\\'" : "'\\''");
        else if (*text == '\\' && fish)
            put(s, "\\\\");
        else
            put_char(s, *text);
    }
}

static void choices(struct sink *s, const struct ml_option *o) {
    for (const char *p = o->arg; *p; p++) {
        put_char(s, *p == '|' ? ' ' : *p);
    }
}

static void bash_option_names(struct sink *s, const struct ml_option *o) {
    for (; o && o->name; o++) {
        put(s, " --");
        put(s, o->name);
        if (!o->letter) continue;
        put(s, " -");
        put_char(s, o->letter);
    }
}

/* Values of options that have a list, for `case "$verb $previous"`; a NULL verb stands for any. */
static void bash_choices(struct sink *s, const char *verb, const struct ml_option *o) {
    for (; o && o->name; o++) {
        if (o->type != ML_OPT_CHOICE) continue;
        put(s, "    '");
        put(s, verb ? verb : "'*'");
        put(s, " --");
        put(s, o->name);
        put(s, "') COMPREPLY=($(compgen -W '");
        choices(s, o);
        put(s, "' -- \"$word\")); return ;;\n");
    }
}

static void bash_verbs(struct sink *s, const struct ml_verb *const *verbs, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (i) put_char(s, ' ');
        put(s, verbs[i]->name);
    }
}

static void bash(struct sink *s, const struct ml_verb *const *verbs, size_t n, const struct ml_option *common,
                 const char *program) {
    put(s, "_");
    put(s, program);
    put(s, "() {\n  local word=\"${COMP_WORDS[COMP_CWORD]}\" previous=\"${COMP_WORDS[COMP_CWORD-1]}\"\n"
           "  local verb=\"${COMP_WORDS[1]}\" options=''\n  if ((COMP_CWORD == 1)); then\n"
           "    COMPREPLY=($(compgen -W '");
    bash_verbs(s, verbs, n);
    put(s, "' -- \"$word\")); return\n  fi\n  case \"$verb $previous\" in\n");
    for (size_t i = 0; i < n; i++) {
        bash_choices(s, verbs[i]->name, verbs[i]->options);
    }
    bash_choices(s, NULL, common);
    put(s, "    'help '*) COMPREPLY=($(compgen -W '");
    bash_verbs(s, verbs, n);
    put(s, "' -- \"$word\")); [[ $word == -* ]] || return ;;\n  esac\n  case \"$verb\" in\n");
    for (size_t i = 0; i < n; i++) {
        put(s, "    '");
        put(s, verbs[i]->name);
        put(s, "') options='");
        bash_option_names(s, verbs[i]->options);
        put(s, "' ;;\n");
    }
    put(s, "  esac\n  if [[ $word == -* ]]; then\n    COMPREPLY=($(compgen -W \"$options");
    bash_option_names(s, common);
    put(s, "\" -- \"$word\"))\n  else\n    COMPREPLY=($(compgen -f -- \"$word\"))\n  fi\n}\n"
           "complete -o filenames -F _");
    put(s, program);
    put_char(s, ' ');
    put(s, program);
    put_char(s, '\n');
}

/* One _arguments specification: '--name=[help]:arg:action'. Brackets and colons of the help
 * are its syntax. */
static void zsh_text(struct sink *s, const char *text) {
    for (; *text; text++) {
        const char one[2] = {*text, '\0'};
        if (strchr("[]:\\", *text)) put_char(s, '\\');
        shell_quoted(s, one, false);
    }
}

static void zsh_spec(struct sink *s, const struct ml_option *o, char letter) {
    put(s, " \\\n        '");
    if (o->type == ML_OPT_REPEAT) put_char(s, '*');
    if (letter) {
        put_char(s, '-');
        put_char(s, letter);
    } else {
        put(s, "--");
        put(s, o->name);
        if (takes_value(o)) put_char(s, '=');
    }
    put_char(s, '[');
    zsh_text(s, o->help);
    put_char(s, ']');
    if (o->type == ML_OPT_CHOICE) {
        put(s, ":value:(");
        choices(s, o);
        put_char(s, ')');
    } else if (takes_value(o)) {
        put_char(s, ':');
        zsh_text(s, value_name(o));
        put(s, o->type == ML_OPT_STRING ? ":_files" : ":");
    }
    put_char(s, '\'');
}

static void zsh_options(struct sink *s, const struct ml_option *o) {
    for (; o && o->name; o++) {
        zsh_spec(s, o, 0);
        if (o->letter) zsh_spec(s, o, o->letter);
    }
}

static void zsh(struct sink *s, const struct ml_verb *const *verbs, size_t n, const struct ml_option *common,
                const char *program) {
    put(s, "#compdef ");
    put(s, program);
    put(s, "\n_");
    put(s, program);
    put(s, "() {\n  if ((CURRENT == 2)); then\n    local -a verbs=(");
    for (size_t i = 0; i < n; i++) {
        put(s, "\n      '");
        put(s, verbs[i]->name);
        put_char(s, ':');
        shell_quoted(s, verbs[i]->help, false);
        put_char(s, '\'');
    }
    put(s, "\n    )\n    _describe verb verbs\n    return\n  fi\n  local verb=$words[2]\n  shift words\n"
           "  ((CURRENT--))\n  case $verb in\n");
    for (size_t i = 0; i < n; i++) {
        put(s, "    ");
        put(s, verbs[i]->name);
        put(s, ")\n      _arguments");
        zsh_options(s, verbs[i]->options);
        zsh_options(s, common);
        put(s, " \\\n        '*:argument:_files' ;;\n");
    }
    put(s, "  esac\n}\nif [[ $zsh_eval_context[-1] == loadautofunc ]]; then _");
    put(s, program);
    put(s, " \"$@\"; else compdef _");
    put(s, program);
    put_char(s, ' ');
    put(s, program);
    put(s, "; fi\n");
}

static void fish_option(struct sink *s, const char *program, const char *verb, const struct ml_option *o) {
    put(s, "complete -c ");
    put(s, program);
    if (verb) {
        put(s, " -n '__fish_seen_subcommand_from ");
        put(s, verb);
        put_char(s, '\'');
    }
    put(s, " -l ");
    put(s, o->name);
    if (o->letter) {
        put(s, " -s ");
        put_char(s, o->letter);
    }
    if (o->type == ML_OPT_CHOICE) {
        put(s, " -x -a '");
        choices(s, o);
        put_char(s, '\'');
    } else if (takes_value(o)) {
        put(s, o->type == ML_OPT_STRING ? " -r" : " -x");
    }
    put(s, " -d '");
    shell_quoted(s, o->help, true);
    put(s, "'\n");
}

static void fish(struct sink *s, const struct ml_verb *const *verbs, size_t n, const struct ml_option *common,
                 const char *program) {
    for (size_t i = 0; i < n; i++) {
        put(s, "complete -c ");
        put(s, program);
        put(s, " -f -n __fish_use_subcommand -a ");
        put(s, verbs[i]->name);
        put(s, " -d '");
        shell_quoted(s, verbs[i]->help, true);
        put(s, "'\n");
        for (const struct ml_option *o = verbs[i]->options; o && o->name; o++) {
            fish_option(s, program, verbs[i]->name, o);
        }
    }
    for (const struct ml_option *o = common; o && o->name; o++) {
        fish_option(s, program, NULL, o);
    }
}

marlin_status ml_options_completion(const struct ml_verb *const *verbs, size_t n,
                                    const struct ml_option *common, const char *program, const char *shell,
                                    struct ml_buf *out, struct marlin_error *err) {
    struct sink s = {out, MARLIN_OK};
    if (strcmp(shell, "bash") == 0)
        bash(&s, verbs, n, common, program);
    else if (strcmp(shell, "zsh") == 0)
        zsh(&s, verbs, n, common, program);
    else if (strcmp(shell, "fish") == 0)
        fish(&s, verbs, n, common, program);
    else
        return ml_fail(err, MARLIN_ERR_ARGUMENT,
                       "completion for '%.40s': unknown shell: bash, zsh and fish are there", shell);
    if (s.st != MARLIN_OK) return ml_fail(err, s.st, "completion: out of memory");
    return MARLIN_OK;
}
