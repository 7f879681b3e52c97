/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the files of the GGUF reader: the parser as a pure function, block types, and names.
 */
#ifndef ML_CONVERTERS_GGUF_INT_H
#define ML_CONVERTERS_GGUF_INT_H

#include "base/arena.h"
#include "base/map.h"
#include "converters/gguf.h"

enum {
    ML_GGUF_MAX_HEADER = 256 << 20, /* all that stands before the data */
    ML_GGUF_MAX_TENSORS = 1000000,
    ML_GGUF_MAX_VALUES = 1 << 20,
    ML_GGUF_MAX_NAME = 200, /* of a tensor; room for the longer Hugging Face spelling */
    ML_GGUF_MAX_KEY = 65535,
    ML_GGUF_MAX_RANK = 4,
    ML_GGUF_MAX_FILES = 4096
};

/* ---- block types (gguf_blocks.c) ---- */

/* How elements are stored: in blocks of `block` elements and `bytes` bytes. */
struct ml_gguf_type {
    const char *name;
    uint32_t id;
    unsigned block, bytes;
    enum ml_dtype plain;                            /* of a type without `widen` */
    void (*widen)(const uint8_t *block, float *to); /* one block to float32; NULL for plain numbers */
};

/* NULL when such tensors cannot be read. */
const struct ml_gguf_type *ml_gguf_type_find(uint32_t id);
/* Of any type that has ever been in use: for messages; "?" else. */
const char *ml_gguf_type_name(uint32_t id);

/* ---- the header ---- */

enum ml_gguf_kind {
    ML_GGUF_U8,
    ML_GGUF_I8,
    ML_GGUF_U16,
    ML_GGUF_I16,
    ML_GGUF_U32,
    ML_GGUF_I32,
    ML_GGUF_F32,
    ML_GGUF_BOOL,
    ML_GGUF_STRING,
    ML_GGUF_ARRAY,
    ML_GGUF_U64,
    ML_GGUF_I64,
    ML_GGUF_F64,
    ML_GGUF_KINDS
};

/* One metadata value; of an array the kind of its items. */
struct ml_gguf_value {
    const char *key; /* NUL-terminated */
    enum ml_gguf_kind kind;
    bool array;
    uint64_t count;     /* items; 1 when no array */
    const uint8_t *at;  /* the first item, in the header's bytes */
    const uint8_t *end; /* behind the last one */
    const char *text;   /* of a string that is no array: NUL-terminated; NULL when it holds a NUL */
    uint64_t offset;    /* of the first item in the file */
};

struct ml_gguf_tensor {
    const char *name; /* NUL-terminated */
    const struct ml_gguf_type *type;
    int rank;
    uint64_t ne[ML_GGUF_MAX_RANK]; /* in the file's order: a row's length first */
    uint64_t count, bytes;
    uint64_t offset; /* in the file */
    struct ml_file *file;
};

/* What stands before the data of one file. Names and texts live in `arena`, items of values in the bytes that were
 * parsed. */
struct ml_gguf_header {
    struct ml_arena arena;
    uint32_t version;
    struct ml_gguf_value *values;
    size_t n_values;
    struct ml_map keys; /* -> index of a value */
    struct ml_gguf_tensor *tensors;
    size_t n_tensors;
    uint64_t data_start;
};

/* Parses the start of a file of file_size bytes, of which the first `len` are at `bytes`. `where` names the file
 * in messages. */
marlin_status ml_gguf_parse(const uint8_t *bytes, uint64_t len, uint64_t file_size, const char *where,
                            struct ml_gguf_header *out, struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_gguf_header_free(struct ml_gguf_header *h);

struct ml_gguf {
    struct ml_file **files; /* of a split model all */
    struct ml_gguf_header *headers;
    uint8_t **bytes; /* copies of what stands before the data: a mapping may change under the parser */
    size_t n_files;
    char *path; /* as it was asked for */
};

/* ---- values (gguf_values.c): of the first file ---- */

const struct ml_gguf_value *ml_gguf_find(const struct ml_gguf *g, const char *key);
/* An integer or boolean item of a value as int64. MARLIN_ERR_FORMAT names key and offset. */
marlin_status ml_gguf_int(const struct ml_gguf *g, const struct ml_gguf_value *v, uint64_t index,
                          int64_t *out, struct marlin_error *err) MARLIN_MUST_CHECK;
/* A finite number. */
marlin_status ml_gguf_real(const struct ml_gguf *g, const struct ml_gguf_value *v, uint64_t index,
                           double *out, struct marlin_error *err) MARLIN_MUST_CHECK;
/* The string at *at of an array of strings, which moves on; false at the end. */
bool ml_gguf_next(const struct ml_gguf_value *v, const uint8_t **at, const char **text, size_t *len);
const struct ml_gguf_tensor *ml_gguf_tensor(const struct ml_gguf *g, const char *name); /* or NULL */

/* ---- architectures (gguf_names.c) ---- */

struct ml_gguf_arch {
    const char *name, *model_type, *class_name; /* of general.architecture, and of Hugging Face */
    bool
        paired; /* rotated pairs lie side by side in the rows of q and k: Hugging Face has them half a head apart */
    bool norm_plus;           /* norms are stored with the 1 added that the model adds */
    bool post_norm_is_second; /* the norm before the MLP is pre_feedforward_layernorm */
    bool fused;               /* ffn_up holds gate and up */
};

/* What a file is, checked: MARLIN_ERR_UNSUPPORTED with the list. */
marlin_status ml_gguf_arch(const struct ml_gguf *g, const struct ml_gguf_arch **out,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* The Hugging Face name of a tensor; "" for one that is read with the config. */
struct ml_gguf_name {
    char text[ML_GGUF_MAX_NAME + 56];
    char suffix[40]; /* of a tensor that holds all experts of a layer: `text`, an expert's number, this */
    bool experts;
    bool rotated, keys; /* rows of q or k; of k */
    bool norm;
};
void ml_gguf_name(const struct ml_gguf_arch *arch, const char *stored, struct ml_gguf_name *out);

/* ---- pre-tokenizers (gguf_pre.c) ---- */

/* What a tokenizer.ggml.pre stands for, as JSON of tokenizer.json. */
struct ml_gguf_pre {
    const char *normalizer, *pre_tokenizer;
    bool ignore_merges, add_bos;
};
bool ml_gguf_pre_find(const char *name, struct ml_gguf_pre *out);

#endif
