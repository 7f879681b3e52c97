/* SPDX-License-Identifier: Apache-2.0
 *
 * The folder OUT/.quantize:
 *
 *     job.json                   what is being made from what; another job is refused
 *     calibration.safetensors    rows of token ids
 *     losses.safetensors         what was measured so far to find them
 *     bits.safetensors           bits of each tensor, where they were measured
 *     layer-00012.safetensors    a finished layer; the head and the embedding follow the last one's number
 *     hidden-00013.safetensors   activations that enter layer 13: saves recomputing them after a restart
 */
#include "quantization/job/job.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "converters/checksums.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { JOB_LIMIT = 16 << 20, SAMPLES = 16, SAMPLE_BYTES = 256 };
static const char rows_name[] = "calibration.safetensors", bits_name[] = "bits.safetensors",
                  losses_name[] = "losses.safetensors", job_name[] = "job.json";

/* ---- who is who ---- */

static uint64_t sample_tensor(const struct ml_tensor *t, uint64_t hash) {
    hash = XXH3_64bits_withSeed(t->name, strlen(t->name), hash);
    hash = XXH3_64bits_withSeed(&t->bytes, sizeof t->bytes, hash);
    for (uint64_t i = 0; i < SAMPLES && t->bytes; i++) {
        const uint64_t at = t->bytes / SAMPLES * i, left = t->bytes - at;
        hash = XXH3_64bits_withSeed(t->data + at, left < SAMPLE_BYTES ? (size_t)left : SAMPLE_BYTES, hash);
    }
    return hash;
}

/* A fingerprint that costs a few pages of each tensor, which are given back: a system whose page cache is in
 * large pieces maps megabytes around each. */
static uint64_t fingerprint(const struct ml_model *m) {
    uint64_t hash = XXH3_64bits(m->config->json, m->config->json_len);
    for (size_t i = 0; i < ml_tensors_count(m->tensors); i++) {
        const struct ml_tensor *t = ml_tensors_at(m->tensors, i);
        hash = sample_tensor(t, hash);
        ml_file_drop(t->file, t->offset, t->bytes);
    }
    return hash;
}

static uint64_t text_hash(const char *text) {
    return text ? XXH3_64bits(text, strlen(text)) : 0;
}

/* Everything that the output depends on. */
static marlin_status describe(const struct ml_job *job, struct ml_buf *b) {
    const struct ml_quantize_settings *s = job->settings;
    marlin_status st;
    ML_TRY(ml_buf_addf(b, "{\"version\": \"1\", \"model\": \"%016" PRIx64 "\", \"format\": \"%s\", ",
                       fingerprint(job->model), s->format == ML_QUANTIZE_EXL3 ? "exl3" : "marlin"));
    if (s->format == ML_QUANTIZE_EXL3)
        ML_TRY(ml_buf_addf(b, "\"codebook\": \"%s\", ", ml_exl3_codebook_name(s->codebook)));
    ML_TRY(ml_buf_addf(
        b, "\"bits\": \"%.9g\", \"head-bits\": \"%d\", \"effort\": \"%s\", \"seed\": \"%" PRIu64 "\", ",
        s->bits, s->head_bits, ml_effort_name(s->effort), s->seed));
    ML_TRY(ml_buf_addf(b, "\"recipe\": \"%016" PRIx64 "\", \"calib-tokens\": \"%zu\", ", text_hash(s->recipe),
                       s->calib_tokens));
    ML_TRY(ml_buf_addf(b, "\"optimize\": \"%s\", \"calib\": ", s->optimize ? "yes" : "no"));
    ML_TRY(ml_buf_add_json(b, s->calib ? s->calib : "self", strlen(s->calib ? s->calib : "self")));
    ML_TRY(ml_buf_adds(b, "}\n"));
out:
    return st;
}

/* Names the first thing in which two descriptions differ. */
static marlin_status differ(const struct ml_job *job, const char *ours, size_t ours_len, const char *theirs,
                            size_t theirs_len, struct marlin_error *err) {
    struct ml_json_doc *a = NULL, *b = NULL;
    const char *out = job->settings->out;
    marlin_status st = ml_json_parse(theirs, theirs_len, NULL, &b, err);
    if (st != MARLIN_OK) {
        (void)ml_fail_in(err, st, "%s/%s is damaged", job->work, job_name);
        goto out;
    }
    ML_TRY(ml_json_parse(ours, ours_len, NULL, &a, err));
    st = ml_fail(err, MARLIN_ERR_ARGUMENT, "%s holds an unfinished job of another kind", out);
    for (const struct ml_json *m = ml_json_first(ml_json_root(a)); m; m = ml_json_next(m)) {
        const char *key = ml_json_key(m, NULL), *mine = ml_json_string(m, NULL);
        const char *other = ml_json_string(ml_json_get(ml_json_root(b), key), NULL);
        if (other && mine && strcmp(other, mine) == 0) continue;
        if (strcmp(key, "model") == 0)
            st = ml_fail(
                err, MARLIN_ERR_ARGUMENT,
                "%s holds an unfinished job with another model than %s: name that model, or remove %s", out,
                job->settings->source, job->work);
        else
            st = ml_fail(
                err, MARLIN_ERR_ARGUMENT,
                "%s holds an unfinished job with another %s: %s, now %s: give the same options, or remove %s",
                out, key, other ? other : "none", mine ? mine : "none", job->work);
        break;
    }
out:
    ml_json_free(a);
    ml_json_free(b);
    return st;
}

/* ---- folders ---- */

static marlin_status make_dir(const char *path, bool *made, struct marlin_error *err) {
    *made = mkdir(path, 0755) == 0;
    if (*made || (errno == EEXIST && ml_path_is_dir(path))) return MARLIN_OK;
    if (errno == EEXIST)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "%s: is a file: name a new folder to write the model to",
                       path);
    if (errno == ENOENT)
        return ml_fail(err, MARLIN_ERR_ARGUMENT,
                       "%s: cannot create the folder: the one that it is to lie in does not exist: make that "
                       "first",
                       path);
    return ml_fail(err, MARLIN_ERR_IO, "%s: cannot create the folder: %s", path, strerror(errno));
}

/* Calls fn for each name in a folder but "." and "..". */
typedef bool name_fn(void *user, const char *dir, const char *name);
static bool each_name(const char *dir, name_fn *fn, void *user) {
    DIR *d = opendir(dir);
    bool go_on = true;
    if (!d) return true;
    for (const struct dirent *e; go_on && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) go_on = fn(user, dir, e->d_name);
    }
    (void)closedir(d);
    return go_on;
}

static bool is_work(const char *name) {
    return strncmp(name, ".quantize", 9) == 0;
}

static bool is_ours(void *user, const char *dir, const char *name) {
    (void)user;
    (void)dir;
    return is_work(name);
}

static bool remove_name(void *user, const char *dir, const char *name) {
    char path[PATH_MAX];
    (void)user;
    if (ml_path_join(path, sizeof path, dir, name, NULL) == MARLIN_OK) (void)unlink(path);
    return true;
}

/* What a run that was killed left behind: half-written files, and work folders that were being removed. */
static bool remove_leftover(void *user, const char *dir, const char *name) {
    char path[PATH_MAX];
    const char *temp = strstr(name, ".tmp.");
    (void)user;
    if (ml_path_join(path, sizeof path, dir, name, NULL) != MARLIN_OK) return true;
    if (temp && temp[5 + strspn(temp + 5, "0123456789")] == '\0') (void)unlink(path);
    if (strncmp(name, ".quantize-old", 13) == 0) {
        (void)each_name(path, remove_name, NULL);
        (void)rmdir(path);
    }
    return true;
}

/* ---- what is worth keeping ---- */

/* Of the work folder. Neither the embedding's part nor rows that were cut from a text take long to make. */
struct finds {
    size_t layers;    /* of the model; the head follows them */
    bool layer, rows; /* a finished layer, or what was measured; calibration rows */
};

static bool look_at(void *user, const char *dir, const char *name) {
    struct finds *f = user;
    (void)dir;
    if (strcmp(name, bits_name) == 0 || strcmp(name, losses_name) == 0) f->layer = true;
    if (strcmp(name, rows_name) == 0) f->rows = true;
    if (strncmp(name, "layer-", 6) == 0) {
        char *end = NULL;
        const unsigned long long n = strtoull(name + 6, &end, 10);
        if (strcmp(end, ".safetensors") == 0 && n <= f->layers) f->layer = true;
    }
    return true;
}

static struct finds look_around(const struct ml_job *job) {
    struct finds f = {.layers = job->plan.layers};
    (void)each_name(job->work, look_at, &f);
    return f;
}

bool ml_checkpoint_settle(const struct ml_job *job, marlin_status failure) {
    if (!job->opened) return false;
    const struct finds f = look_around(job);
    const bool innocent =
        failure == MARLIN_ERR_CANCELLED || failure == MARLIN_ERR_IO || failure == MARLIN_ERR_MEMORY;
    if (f.layer || (f.rows && !job->settings->calib && innocent)) return true;
    (void)each_name(job->work, remove_name, NULL);
    (void)rmdir(job->work);
    if (job->made_out) (void)rmdir(job->settings->out);
    return false;
}

/* ---- a folder without job.json ---- */

/* The first thing in which the "quantization_config" of a finished model differs from what is asked for, NULL
 * when there is none. It records less than job.json did; what it does not record cannot be compared. */
static const char *other_result(const struct ml_job *job, const struct ml_json *made) {
    const struct ml_quantize_settings *s = job->settings;
    const bool exl3 = s->format == ML_QUANTIZE_EXL3;
    const char *method = ml_json_string(ml_json_get(made, "quant_method"), NULL);
    const char *effort = ml_json_string(ml_json_get(made, "effort"), NULL);
    double bits;
    uint64_t seed;
    if (!method || strcmp(method, exl3 ? "exl3" : "marlin") != 0) return "format";
    if (!ml_json_double(ml_json_get(made, "bits"), &bits)) return "bits";
    /* They are written with two digits or more after the point; --optimize comes close to what was asked. */
    if (!s->optimize && fabs(bits - ml_plan_bits(&job->plan)) > 0.006) return "bits";
    if (effort && strcmp(effort, ml_effort_name(s->effort)) != 0) return "effort";
    if (ml_json_u64(ml_json_get(made, "seed"), &seed) && seed != s->seed) return "seed";
    return NULL;
}

static marlin_status not_empty(const struct ml_job *job, struct marlin_error *err) {
    return ml_fail(err, MARLIN_ERR_ARGUMENT, "%s is not empty: name a new folder", job->settings->out);
}

/* --resume on a folder that has no job but other things: a run that was ended after its last step, when the
 * manifest was written and the job removed, has left nothing to do but to clear away the rest of the work
 * folder. */
static marlin_status recognise_finished(struct ml_job *job, struct marlin_error *err) {
    const char *out = job->settings->out;
    char manifest[PATH_MAX], config[PATH_MAX], *text = NULL;
    struct ml_json_doc *doc = NULL;
    size_t len = 0;
    marlin_status st;
    ML_TRY(ml_path_join(manifest, sizeof manifest, out, ML_CHECKSUMS_NAME, err));
    ML_TRY(ml_path_join(config, sizeof config, out, "config.json", err));
    if (!ml_path_exists(manifest) || !ml_path_exists(config)) return not_empty(job, err);
    ML_TRY(ml_file_slurp(config, JOB_LIMIT, &text, &len, err));
    st = ml_json_parse(text, len, NULL, &doc, err);
    if (st != MARLIN_OK) {
        (void)ml_fail_in(err, st, "%s", config);
        goto out;
    }
    const struct ml_json *made = ml_json_get(ml_json_root(doc), "quantization_config");
    const char *other = made ? other_result(job, made) : NULL;
    if (!made) st = not_empty(job, err);
    if (other)
        st = ml_fail(err, MARLIN_ERR_ARGUMENT,
                     "%s is complete, but was made with another %s: name a new folder", out, other);
    job->report->complete_already = st == MARLIN_OK;
    if (st == MARLIN_OK) (void)each_name(out, remove_leftover, NULL);
out:
    ml_json_free(doc);
    ml_free(text);
    return st;
}

static marlin_status begin_new(struct ml_job *job, const struct ml_buf *text, struct marlin_error *err) {
    char path[PATH_MAX];
    bool made;
    marlin_status st;
    if (!each_name(job->settings->out, is_ours, NULL))
        return job->settings->resume ? recognise_finished(job, err) : not_empty(job, err);
    ML_TRY(make_dir(job->work, &made, err));
    ML_TRY(ml_path_join(path, sizeof path, job->work, job_name, err));
    ML_TRY(ml_file_write_atomic(path, text->data, text->len, err));
out:
    return st;
}

static marlin_status continue_old(struct ml_job *job, const struct ml_buf *text, const char *path,
                                  struct marlin_error *err) {
    char *old = NULL;
    size_t len = 0;
    marlin_status st;
    ML_TRY(ml_file_slurp(path, JOB_LIMIT, &old, &len, err));
    if (len != text->len || memcmp(old, text->data, len) != 0)
        ML_TRY(differ(job, text->data, text->len, old, len, err));
    (void)each_name(job->settings->out, remove_leftover, NULL);
    (void)each_name(job->work, remove_leftover, NULL);
out:
    ml_free(old);
    return st;
}

static marlin_status not_asked(const struct ml_job *job, struct marlin_error *err) {
    return ml_fail(err, MARLIN_ERR_ARGUMENT,
                   "%s holds an unfinished job: --resume goes on with it, or remove %s", job->settings->out,
                   job->work);
}

/* The lock dies with the process, however it dies. */
static marlin_status lock(struct ml_job *job, const char *path, struct marlin_error *err) {
    job->lock = open(path, O_RDONLY | O_CLOEXEC);
    if (job->lock < 0) return ml_fail(err, MARLIN_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    if (flock(job->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return ml_fail(err, MARLIN_ERR_IO, "%s: another process is working here: wait for it, or end it",
                       job->work);
    return MARLIN_OK;
}

void ml_checkpoint_close(struct ml_job *job) {
    if (job->lock >= 0) (void)close(job->lock);
    job->lock = -1;
}

/* A job that was killed before it had finished anything gives way. *path of job.json, which is there no more
 * afterwards. */
static marlin_status drop_empty(struct ml_job *job, const char *path, struct marlin_error *err) {
    const marlin_status st = lock(job, path, err);
    if (st != MARLIN_OK) return st;
    const struct finds f = look_around(job);
    if (!f.layer && !f.rows) (void)each_name(job->work, remove_name, NULL);
    ml_checkpoint_close(job);
    return st;
}

marlin_status ml_checkpoint_open(struct ml_job *job, struct marlin_error *err) {
    char path[PATH_MAX];
    struct ml_buf text;
    marlin_status st;
    ml_buf_init(&text, JOB_LIMIT);
    ML_TRY(ml_path_join(job->work, sizeof job->work, job->settings->out, ".quantize", err));
    ML_TRY(make_dir(job->settings->out, &job->made_out, err));
    ML_TRY(ml_path_join(path, sizeof path, job->work, job_name, err));
    ML_TRY(describe(job, &text));
    if (ml_path_exists(path)) ML_TRY(drop_empty(job, path, err));
    if (!ml_path_exists(path))
        ML_TRY(begin_new(job, &text, err));
    else if (!job->settings->resume)
        st = not_asked(job, err);
    if (job->report->complete_already) goto out;
    if (st == MARLIN_OK) ML_TRY(lock(job, path, err));
    if (st == MARLIN_OK) ML_TRY(continue_old(job, &text, path, err));
    job->opened = st == MARLIN_OK;
out:
    ml_buf_free(&text);
    return st;
}

marlin_status ml_checkpoint_remove(const struct ml_job *job, struct marlin_error *err) {
    char old[PATH_MAX];
    marlin_status st;
    ML_TRY(ml_path_join(old, sizeof old, job->settings->out, ".quantize-old", err));
    if (rename(job->work, old) != 0) {
        st = ml_fail(err, MARLIN_ERR_IO, "%s: cannot be removed: %s", job->work, strerror(errno));
        goto out;
    }
    (void)each_name(job->settings->out, remove_leftover, NULL);
out:
    return st;
}

/* ---- layers ---- */

static marlin_status numbered(const struct ml_job *job, const char *kind, size_t number, char path[PATH_MAX],
                              struct marlin_error *err) {
    char name[64];
    (void)snprintf(name, sizeof name, "%s-%05zu.safetensors", kind, number);
    return ml_path_join(path, PATH_MAX, job->work, name, err);
}

marlin_status ml_checkpoint_part(const struct ml_job *job, size_t layer, char path[PATH_MAX],
                                 struct marlin_error *err) {
    return numbered(job, "layer", layer, path, err);
}

/* ---- arrays ---- */

/* One tensor [rows, cols] as a part; data stays the caller's. */
static marlin_status save(const char *path, const char *name, enum ml_dtype dtype, size_t rows, size_t cols,
                          const void *data, struct marlin_error *err) {
    struct ml_part_tensor t = {.decl = {.name = name, .dtype = dtype, .rank = 2, .shape = {rows, cols}},
                               .data = (void *)data,
                               .bytes = (uint64_t)rows * cols * ml_dtype_size(dtype)};
    const struct ml_part p = {.tensors = &t, .count = 1};
    return ml_part_write(&p, path, err);
}

static const struct ml_tensor *find(const struct ml_tensors *t, const char *name, enum ml_dtype dtype) {
    const struct ml_tensor *x = ml_tensors_find(t, name);
    return x && x->dtype == dtype && x->rank == 2 && x->bytes ? x : NULL;
}

marlin_status ml_checkpoint_save_rows(const struct ml_job *job, struct marlin_error *err) {
    char path[PATH_MAX];
    const struct ml_calibration *c = &job->calibration;
    const marlin_status st = ml_path_join(path, sizeof path, job->work, rows_name, err);
    return st != MARLIN_OK ? st : save(path, "input_ids", ML_I32, c->rows, c->width, c->ids, err);
}

static marlin_status take_rows(struct ml_job *job, const struct ml_tensors *t, const char *path,
                               struct marlin_error *err) {
    struct ml_calibration *c = &job->calibration;
    const struct ml_tensor *x = find(t, "input_ids", ML_I32);
    if (!x) return ml_fail(err, MARLIN_ERR_FORMAT, "%s: no rows of token ids", path);
    *c = (struct ml_calibration){.rows = (size_t)x->shape[0], .width = (size_t)x->shape[1]};
    c->ids = ml_alloc((size_t)x->bytes);
    if (!c->ids) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", path);
    memcpy(c->ids, x->data, (size_t)x->bytes);
    for (size_t i = 0; i < c->rows * c->width; i++) {
        if (c->ids[i] < 0 || c->ids[i] >= job->model->config->vocab_size)
            return ml_fail(err, MARLIN_ERR_FORMAT, "%s: token %zu is %d, outside the vocabulary", path, i,
                           c->ids[i]);
    }
    return MARLIN_OK;
}

marlin_status ml_checkpoint_load_rows(struct ml_job *job, bool *found, struct marlin_error *err) {
    char path[PATH_MAX];
    struct ml_tensors *t = NULL;
    marlin_status st;
    *found = false;
    ML_TRY(ml_path_join(path, sizeof path, job->work, rows_name, err));
    if (!ml_path_exists(path)) goto out;
    ML_TRY(ml_part_open(path, &t, err));
    ML_TRY(take_rows(job, t, path, err));
    *found = true;
out:
    ml_tensors_close(t);
    return st;
}

static int *bits_array(const struct ml_job *job) {
    int *bits = ml_calloc(job->plan.count, sizeof *bits);
    for (size_t i = 0; bits && i < job->plan.count; i++) {
        bits[i] = job->plan.tensors[i].bits;
    }
    return bits;
}

marlin_status ml_checkpoint_save_bits(const struct ml_job *job, struct marlin_error *err) {
    char path[PATH_MAX];
    int *bits = bits_array(job);
    marlin_status st;
    if (!bits) return ml_fail(err, MARLIN_ERR_MEMORY, "bits of %zu tensors: out of memory", job->plan.count);
    ML_TRY(ml_path_join(path, sizeof path, job->work, bits_name, err));
    ML_TRY(save(path, "bits", ML_I32, job->plan.count, 1, bits, err));
out:
    ml_free(bits);
    return st;
}

marlin_status ml_checkpoint_load_bits(struct ml_job *job, bool *found, struct marlin_error *err) {
    char path[PATH_MAX];
    struct ml_tensors *t = NULL;
    marlin_status st;
    *found = false;
    ML_TRY(ml_path_join(path, sizeof path, job->work, bits_name, err));
    if (!ml_path_exists(path)) goto out;
    ML_TRY(ml_part_open(path, &t, err));
    const struct ml_tensor *x = find(t, "bits", ML_I32);
    if (!x || x->shape[0] != job->plan.count || x->shape[1] != 1) {
        st = ml_fail(err, MARLIN_ERR_FORMAT, "%s: not the bits of this job", path);
        goto out;
    }
    for (size_t i = 0; i < job->plan.count; i++) {
        int32_t bits;
        memcpy(&bits, x->data + i * sizeof bits, sizeof bits);
        job->plan.tensors[i].bits = bits;
    }
    *found = true;
out:
    ml_tensors_close(t);
    return st;
}

/* Doubles are kept as the integers of their bits: files have no such type. */
_Static_assert(sizeof(double) == sizeof(int64_t), "a loss is stored as 64 bits");

marlin_status ml_checkpoint_save_losses(const struct ml_job *job, const double *loss, size_t done,
                                        struct marlin_error *err) {
    char path[PATH_MAX];
    marlin_status st;
    ML_TRY(ml_path_join(path, sizeof path, job->work, losses_name, err));
    ML_TRY(save(path, "losses", ML_I64, done, ML_ROLES, loss, err));
out:
    return st;
}

marlin_status ml_checkpoint_load_losses(const struct ml_job *job, double *loss, size_t *done,
                                        struct marlin_error *err) {
    char path[PATH_MAX];
    struct ml_tensors *t = NULL;
    marlin_status st;
    *done = 0;
    ML_TRY(ml_path_join(path, sizeof path, job->work, losses_name, err));
    if (!ml_path_exists(path)) goto out;
    ML_TRY(ml_part_open(path, &t, err));
    const struct ml_tensor *x = find(t, "losses", ML_I64);
    if (!x || x->shape[0] > job->plan.layers || x->shape[1] != ML_ROLES) {
        st = ml_fail(err, MARLIN_ERR_FORMAT, "%s: not the losses of this job", path);
        goto out;
    }
    memcpy(loss, x->data, (size_t)x->bytes);
    *done = (size_t)x->shape[0];
out:
    ml_tensors_close(t);
    return st;
}

/* Number of "hidden-N.safetensors", or SIZE_MAX. */
static size_t hidden_number(const char *name) {
    if (strncmp(name, "hidden-", 7) != 0) return SIZE_MAX;
    char *end = NULL;
    const unsigned long long n = strtoull(name + 7, &end, 10);
    return end != name + 7 && strcmp(end, ".safetensors") == 0 ? (size_t)n : SIZE_MAX;
}

static bool remove_older(void *user, const char *dir, const char *name) {
    const size_t *layer = user, n = hidden_number(name);
    return n == SIZE_MAX || n >= *layer || remove_name(NULL, dir, name);
}

struct latest {
    size_t limit, best;
};

static bool keep_latest(void *user, const char *dir, const char *name) {
    struct latest *l = user;
    const size_t n = hidden_number(name);
    (void)dir;
    if (n != SIZE_MAX && n <= l->limit && (l->best == SIZE_MAX || n > l->best)) l->best = n;
    return true;
}

marlin_status ml_checkpoint_save_hidden(const struct ml_job *job, size_t layer, bool all,
                                        struct marlin_error *err) {
    char path[PATH_MAX];
    const struct ml_rows *r = &job->rows;
    marlin_status st;
    ML_TRY(numbered(job, "hidden", layer, path, err));
    ML_TRY(
        save(path, "hidden", ML_F32, r->rows * r->width, (size_t)job->model->config->hidden_size, r->x, err));
    if (!all) (void)each_name(job->work, remove_older, &layer);
out:
    return st;
}

marlin_status ml_checkpoint_load_hidden(struct ml_job *job, size_t layer, size_t *from, bool *found,
                                        struct marlin_error *err) {
    char path[PATH_MAX];
    struct ml_tensors *t = NULL;
    struct latest latest = {.limit = layer, .best = SIZE_MAX};
    const size_t hidden = (size_t)job->model->config->hidden_size;
    marlin_status st = MARLIN_OK;
    (void)each_name(job->work, keep_latest, &latest);
    *found = latest.best != SIZE_MAX;
    if (!*found) return st;
    ML_TRY(numbered(job, "hidden", latest.best, path, err));
    ML_TRY(ml_part_open(path, &t, err));
    const struct ml_tensor *x = find(t, "hidden", ML_F32);
    if (!x || x->shape[0] != job->rows.rows * job->rows.width || x->shape[1] != hidden) {
        st = ml_fail(err, MARLIN_ERR_FORMAT, "%s: not the activations of this job", path);
        goto out;
    }
    memcpy(job->rows.x, x->data, (size_t)x->bytes);
    *from = latest.best;
out:
    ml_tensors_close(t);
    return st;
}
