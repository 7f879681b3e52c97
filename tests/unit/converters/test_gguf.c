/* SPDX-License-Identifier: Apache-2.0
 *
 * GGUF headers that mean harm or are broken end in an error that names the file, and most of them the offset; the
 * config and the tokenizer that come out of metadata; split files.
 */
#include "base/mem.h"
#include "converters/gguf_int.h"
#include "converters/hf_config.h"
#include "unit/converters/gguf_image.h"
#include "unit/converters/support.h"

#include <math.h>

enum { F32 = 0, Q4_0 = 2 };

static marlin_status parse(const struct gguf_image *m, struct marlin_error *err) {
    struct ml_gguf_header h;
    uint8_t *exact = malloc(m->len ? m->len : 1); /* a sanitizer sees a read behind the end */
    assert_non_null(exact);
    memcpy(exact, m->bytes, m->len);
    const marlin_status st = ml_gguf_parse(exact, m->len, m->len, "x.gguf", &h, err);
    if (st == MARLIN_OK) ml_gguf_header_free(&h);
    free(exact);
    return st;
}

static void expect(const struct gguf_image *m, marlin_status code, const char *part) {
    struct marlin_error err = {0};
    const marlin_status st = parse(m, &err);
    assert_error(st, &err, code, part);
    assert_non_null(strstr(err.text, "x.gguf"));
}

static void accept(const struct gguf_image *m) {
    struct marlin_error err = {0};
    assert_ok(parse(m, &err), &err);
}

/* ---- the head ---- */

static void heads(void **state) {
    struct gguf_image m = {0};
    (void)state;
    expect(&m, MARLIN_ERR_FORMAT, "does not begin with GGUF");
    put(&m, "GGML\3\0\0\0", 8);
    put_zeros(&m, 16);
    expect(&m, MARLIN_ERR_FORMAT, "does not begin with GGUF");
    for (uint32_t version = 0; version < 6; version++) {
        m = (struct gguf_image){0};
        put_head(&m, version, 0, 0);
        if (version == 2 || version == 3)
            accept(&m);
        else
            expect(&m, MARLIN_ERR_UNSUPPORTED, "supported are 2 and 3");
    }
    m = (struct gguf_image){0};
    put_head(&m, 3u << 24, 0, 0);
    expect(&m, MARLIN_ERR_UNSUPPORTED, "big-endian");
    m = (struct gguf_image){0};
    put_head(&m, 3, 0, 0);
    for (m.len = 4; m.len < 24; m.len++)
        expect(&m, MARLIN_ERR_FORMAT, "offset");
}

static void counts(void **state) {
    static const uint64_t many[] = {1, 1000, 1u << 20, UINT64_MAX / 24, UINT64_MAX};
    (void)state;
    for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
        const marlin_status code = many[i] > 1u << 20 ? MARLIN_ERR_LIMIT : MARLIN_ERR_FORMAT;
        struct gguf_image m = {0};
        put_head(&m, 3, 0, many[i]);
        expect(&m, code, "values, more than");
        m = (struct gguf_image){0};
        put_head(&m, 3, many[i], 0);
        expect(&m, many[i] > 1000000 ? MARLIN_ERR_LIMIT : MARLIN_ERR_FORMAT, "tensors, more than");
    }
}

/* ---- values ---- */

static void with_value(const struct gguf_image *value, marlin_status code, const char *part) {
    struct gguf_image m = {0};
    put_head(&m, 3, 0, 1);
    put(&m, value->bytes, value->len);
    if (code == MARLIN_OK)
        accept(&m);
    else
        expect(&m, code, part);
}

static void keys(void **state) {
    struct gguf_image v = {0};
    (void)state;
    put_key_u32(&v, "", 1);
    with_value(&v, MARLIN_ERR_FORMAT, "a key is empty");
    v = (struct gguf_image){0};
    put_u64(&v, 3);
    put(&v, "a\0b", 3);
    put_u32(&v, 4);
    put_u32(&v, 1);
    with_value(&v, MARLIN_ERR_FORMAT, "holds a NUL");
    v = (struct gguf_image){0};
    put_u64(&v, UINT64_MAX);
    put_zeros(&v, 32);
    with_value(&v, MARLIN_ERR_FORMAT, "a string is longer than the file");
    struct gguf_image m = {0};
    put_head(&m, 3, 0, 2);
    put_key_u32(&m, "twice", 1);
    put_key_string(&m, "twice", "x");
    expect(&m, MARLIN_ERR_FORMAT, "\"twice\" appears twice");
}

static void values(void **state) {
    struct gguf_image v = {0};
    (void)state;
    put_text(&v, "k");
    put_u32(&v, 13);
    put_zeros(&v, 16);
    with_value(&v, MARLIN_ERR_FORMAT, "unknown type 13");
    v = (struct gguf_image){0};
    put_text(&v, "k");
    put_u32(&v, 10);
    put_u32(&v, 0);
    with_value(&v, MARLIN_ERR_FORMAT, "");
    v = (struct gguf_image){0};
    put_text(&v, "k");
    put_u32(&v, 8);
    put_u64(&v, 100);
    put(&v, "short", 5);
    with_value(&v, MARLIN_ERR_FORMAT, "a string is longer than the file");
}

static void arrays(void **state) {
    static const uint64_t counts_that_lie[] = {2, 4, UINT64_MAX / 4, UINT64_MAX / 4 + 1, UINT64_MAX};
    (void)state;
    for (size_t i = 0; i < sizeof counts_that_lie / sizeof *counts_that_lie; i++) {
        struct gguf_image v = {0};
        put_key_array(&v, "k", 4, counts_that_lie[i]);
        put_u32(&v, 1);
        with_value(&v, MARLIN_ERR_FORMAT, "an array is longer than the file");
        v = (struct gguf_image){0};
        put_key_array(&v, "k", 8, counts_that_lie[i]);
        put_text(&v, "");
        with_value(&v, MARLIN_ERR_FORMAT, "the file ends inside its header");
    }
    struct gguf_image v = {0};
    put_key_array(&v, "k", 9, 1);
    put_u32(&v, 4);
    put_u64(&v, 0);
    with_value(&v, MARLIN_ERR_FORMAT, "an array of arrays");
    v = (struct gguf_image){0};
    put_key_array(&v, "k", 99, 0);
    with_value(&v, MARLIN_ERR_FORMAT, "unknown type 99");
    v = (struct gguf_image){0};
    put_key_array(&v, "k", 8, 0);
    with_value(&v, MARLIN_OK, NULL);
}

/* ---- alignment ---- */

static void alignments(void **state) {
    static const uint32_t wrong[] = {0, 1, 4, 24, 33, 0xFFFFFFFF};
    struct gguf_image v = {0};
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        v = (struct gguf_image){0};
        put_key_u32(&v, "general.alignment", wrong[i]);
        with_value(&v, MARLIN_ERR_FORMAT, "a power of two");
    }
    v = (struct gguf_image){0};
    put_key_string(&v, "general.alignment", "32");
    with_value(&v, MARLIN_ERR_FORMAT, "is not a uint32");
    v = (struct gguf_image){0};
    put_key_array(&v, "general.alignment", 4, 0);
    with_value(&v, MARLIN_ERR_FORMAT, "is not a uint32");
    for (uint32_t align = 8; align; align <<= 1) {
        v = (struct gguf_image){0};
        put_key_u32(&v, "general.alignment", align);
        with_value(&v, MARLIN_OK, NULL);
    }
}

/* ---- tensors ---- */

/* One tensor, and `data` bytes behind the header. */
static struct gguf_image with_tensor(const char *name, uint32_t rank, const uint64_t *ne, uint32_t type,
                                     uint64_t offset, size_t data) {
    struct gguf_image m = {0};
    put_head(&m, 3, 1, 0);
    put_tensor(&m, name, rank, ne, type, offset);
    put_padding(&m, 32);
    put_zeros(&m, data);
    return m;
}

static void shapes(void **state) {
    const uint64_t small[5] = {4, 1, 1, 1, 1};
    struct gguf_image m = with_tensor("t", 1, small, F32, 0, 16);
    (void)state;
    accept(&m);
    m = with_tensor("t", 0, small, F32, 0, 16);
    expect(&m, MARLIN_ERR_FORMAT, "a rank that is not 1 to 4");
    m = with_tensor("t", 5, small, F32, 0, 16);
    expect(&m, MARLIN_ERR_FORMAT, "a rank that is not 1 to 4");
    m = with_tensor("t", 2, (uint64_t[]){4, 0}, F32, 0, 16);
    expect(&m, MARLIN_ERR_FORMAT, "a dimension that is 0 or negative");
    m = with_tensor("t", 2, (uint64_t[]){4, UINT64_MAX}, F32, 0, 16);
    expect(&m, MARLIN_ERR_FORMAT, "a dimension that is 0 or negative");
    m = with_tensor("t", 2, (uint64_t[]){(uint64_t)1 << 32, (uint64_t)1 << 32}, F32, 0, 16);
    expect(&m, MARLIN_ERR_FORMAT, "the shape's product overflows");
    m = with_tensor("t", 3, (uint64_t[]){(uint64_t)1 << 31, (uint64_t)1 << 31, 2}, F32, 0, 16);
    expect(&m, MARLIN_ERR_FORMAT, "overflows");
    m = with_tensor("t", 2, (uint64_t[]){(uint64_t)1 << 31, (uint64_t)1 << 30}, F32, 0, 16);
    expect(&m, MARLIN_ERR_FORMAT, "its size in bytes overflows");
    m = with_tensor("t", 1, (uint64_t[]){33}, Q4_0, 0, 64);
    expect(&m, MARLIN_ERR_FORMAT, "no multiple of its type's block");
}

static void types(void **state) {
    const uint64_t ne[] = {256};
    struct gguf_image m = with_tensor("t", 1, ne, 16, 0, 256);
    (void)state;
    expect(&m, MARLIN_ERR_UNSUPPORTED, "type IQ2_XXS (16)");
    m = with_tensor("t", 1, ne, 4, 0, 256);
    expect(&m, MARLIN_ERR_UNSUPPORTED, "Q4_2");
    m = with_tensor("t", 1, ne, 0xFFFFFFFF, 0, 256);
    expect(&m, MARLIN_ERR_UNSUPPORTED, "type ? (4294967295)");
}

static void names(void **state) {
    char name[256];
    const uint64_t ne[] = {4};
    struct gguf_image m = with_tensor("", 1, ne, F32, 0, 16);
    (void)state;
    expect(&m, MARLIN_ERR_FORMAT, "name is empty");
    memset(name, 'n', sizeof name);
    name[201] = '\0';
    m = with_tensor(name, 1, ne, F32, 0, 16);
    expect(&m, MARLIN_ERR_FORMAT, "longer than 200");
    name[200] = '\0';
    m = with_tensor(name, 1, ne, F32, 0, 16);
    accept(&m);
}

static void places(void **state) {
    const uint64_t ne[] = {4};
    struct gguf_image m = with_tensor("t", 1, ne, F32, 8, 64);
    (void)state;
    expect(&m, MARLIN_ERR_FORMAT, "not aligned");
    m = with_tensor("t", 1, ne, F32, 32, 48);
    accept(&m); /* a hole is no harm */
    m = with_tensor("t", 1, ne, F32, 32, 47);
    expect(&m, MARLIN_ERR_FORMAT, "the file ends at");
    m = with_tensor("t", 1, ne, F32, 0, 15);
    expect(&m, MARLIN_ERR_FORMAT, "the file ends at");
    m = with_tensor("t", 1, ne, F32, UINT64_MAX - 31, 16);
    expect(&m, MARLIN_ERR_FORMAT, "the file ends at");
    m = with_tensor("t", 1, ne, F32, (uint64_t)1 << 63, 16);
    expect(&m, MARLIN_ERR_FORMAT, "the file ends at");
}

static struct gguf_image two(const char *a, uint64_t at_a, const char *b, uint64_t at_b) {
    const uint64_t ne[] = {16};
    struct gguf_image m = {0};
    put_head(&m, 3, 2, 0);
    put_tensor(&m, a, 1, ne, F32, at_a);
    put_tensor(&m, b, 1, ne, F32, at_b);
    put_padding(&m, 32);
    put_zeros(&m, 128);
    return m;
}

static void neighbours(void **state) {
    struct gguf_image m = two("a", 0, "b", 64);
    (void)state;
    accept(&m);
    m = two("a", 64, "b", 0);
    accept(&m);
    m = two("a", 0, "b", 32);
    expect(&m, MARLIN_ERR_FORMAT, "overlaps another's");
    m = two("a", 64, "b", 64);
    expect(&m, MARLIN_ERR_FORMAT, "overlaps another's");
    m = two("a", 0, "a", 64);
    expect(&m, MARLIN_ERR_FORMAT, "appears twice");
}

/* ---- whole files ---- */

static void put_llama(struct gguf_image *m) {
    put_key_string(m, "general.architecture", "llama");
    put_key_u32(m, "llama.block_count", 1);
    put_key_u32(m, "llama.context_length", 64);
    put_key_u32(m, "llama.embedding_length", 32);
    put_key_u32(m, "llama.feed_forward_length", 48);
    put_key_u32(m, "llama.attention.head_count", 4);
    put_key_f32(m, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
}

enum { LLAMA_KEYS = 7 };

/* A llama's metadata and one more value, with an embedding of 8 tokens. */
static const char *llama_with(const struct gguf_image *more, unsigned n) {
    struct gguf_image m = {0};
    put_head(&m, 3, 1, LLAMA_KEYS + n);
    put_llama(&m);
    if (more) put(&m, more->bytes, more->len);
    put_tensor(&m, "token_embd.weight", 2, (uint64_t[]){32, 8}, F32, 0);
    put_padding(&m, 32);
    put_zeros(&m, 32 * 8 * 4);
    const char *path = in_dir("m.gguf");
    write_bytes(path, m.bytes, m.len);
    return path;
}

static void refuse(const struct gguf_image *more, unsigned n, marlin_status code, const char *part) {
    struct marlin_error err = {0};
    struct ml_config *c = NULL;
    const marlin_status st = ml_config_load(llama_with(more, n), &c, &err);
    assert_error(st, &err, code, part);
    assert_non_null(strstr(err.text, "m.gguf"));
    assert_null(c);
}

static void config_of_metadata(void **state) {
    struct marlin_error err = {0};
    struct ml_config *c = NULL;
    struct gguf_image more = {0};
    (void)state;
    put_key_f32(&more, "llama.rope.freq_base", 5e5f);
    put_key_string(&more, "llama.rope.scaling.type", "linear");
    put_key_f32(&more, "llama.rope.scaling.factor", 4);
    put_key_u32(&more, "tokenizer.ggml.eos_token_id", 2);
    put_key_u32(&more, "tokenizer.ggml.eot_token_id", 5);
    assert_ok(ml_config_load(llama_with(&more, 5), &c, &err), &err);
    assert_string_equal(c->model_type, "llama");
    assert_int_equal(c->vocab_size, 8);
    assert_int_equal(c->hidden_size, 32);
    assert_int_equal(c->head_dim, 8);
    assert_int_equal(c->num_kv_heads, 4);
    assert_true(c->tie_embeddings);
    assert_int_equal(c->rope.kind, ML_ROPE_LINEAR);
    assert_true(c->rope.theta == 5e5 && c->rope.factor == 4);
    assert_int_equal(c->n_eos, 2);
    assert_int_equal(c->eos_ids[0], 2);
    assert_int_equal(c->eos_ids[1], 5);
    assert_int_equal(c->bos_id, -1);
    assert_true(fabs(c->rms_eps - 1e-5) < 1e-11);
    ml_config_free(c);
}

static void configs_refused(void **state) {
    struct gguf_image more = {0};
    (void)state;
    put_key_u32(&more, "llama.expert_count", 4);
    refuse(&more, 1, MARLIN_ERR_FORMAT, "expert_used_count\" is missing");
    more = (struct gguf_image){0};
    put_key_string(&more, "llama.rope.scaling.type", "magic");
    refuse(&more, 1, MARLIN_ERR_UNSUPPORTED, "rope.scaling.type");
    more = (struct gguf_image){0};
    put_key_string(&more, "llama.rope.scaling.type", "longrope");
    refuse(&more, 1, MARLIN_ERR_UNSUPPORTED, "factors are missing");
    more = (struct gguf_image){0};
    put_key_u32(&more, "llama.rope.dimension_count", 4);
    refuse(&more, 1, MARLIN_ERR_UNSUPPORTED, "is not key_length");
    more = (struct gguf_image){0};
    put_key_u32(&more, "llama.attention.value_length", 16);
    refuse(&more, 1, MARLIN_ERR_UNSUPPORTED, "value_length");
    more = (struct gguf_image){0};
    put_key_array(&more, "llama.attention.head_count_kv", 4, 2);
    put_u32(&more, 2);
    put_u32(&more, 4);
    refuse(&more, 1, MARLIN_ERR_UNSUPPORTED, "differs from layer to layer");
    more = (struct gguf_image){0};
    put_key_string(&more, "llama.attention.head_count_kv", "two");
    refuse(&more, 1, MARLIN_ERR_FORMAT, "is not an integer");
    more = (struct gguf_image){0};
    put_key_string(&more, "general.type", "mmproj");
    refuse(&more, 1, MARLIN_ERR_UNSUPPORTED, "mmproj");
    more = (struct gguf_image){0};
    put_key_f32(&more, "llama.rope.freq_base", INFINITY);
    refuse(&more, 1, MARLIN_ERR_FORMAT, "finite");
}

static void other_architectures(void **state) {
    struct marlin_error err = {0};
    struct ml_config *c = NULL;
    struct gguf_image m = {0};
    const char *path = in_dir("other.gguf");
    (void)state;
    put_head(&m, 3, 0, 1);
    put_key_string(&m, "general.architecture", "gptneox");
    write_bytes(path, m.bytes, m.len);
    const marlin_status st = ml_config_load(path, &c, &err);
    assert_error(st, &err, MARLIN_ERR_UNSUPPORTED,
                 "\"gptneox\" is not supported: supported are llama, qwen2");
    m = (struct gguf_image){0};
    put_head(&m, 3, 0, 0);
    write_bytes(path, m.bytes, m.len);
    assert_error(ml_config_load(path, &c, &err), &err, MARLIN_ERR_FORMAT, "general.architecture");
}

static void what_is_a_file(void **state) {
    struct marlin_error err = {0};
    struct ml_gguf *g = NULL;
    (void)state;
    assert_true(ml_gguf_is(llama_with(NULL, 0)));
    assert_true(ml_gguf_is(in_dir("absent.gguf")));
    assert_false(ml_gguf_is(in_dir("absent")));
    assert_false(ml_gguf_is(test_dir));
    write_text(in_dir("plain"), "GGUF and more");
    assert_true(ml_gguf_is(in_dir("plain")));
    write_text(in_dir("plain"), "{}");
    assert_false(ml_gguf_is(in_dir("plain")));
    assert_error(ml_gguf_open(in_dir("absent.gguf"), &g, &err), &err, MARLIN_ERR_NOT_FOUND, "absent.gguf");
}

static void strings_of_metadata(void **state) {
    struct marlin_error err = {0};
    struct ml_gguf *g = NULL;
    struct ml_buf text;
    struct gguf_image more = {0};
    (void)state;
    put_key_string(&more, "tokenizer.chat_template", "{{ messages }}");
    put_key_array(&more, "tokenizer.ggml.tokens", 8, 3);
    put_text(&more, "a");
    put_text(&more, "<s>");
    put_text(&more, "");
    put_key_u32(&more, "tokenizer.ggml.bos_token_id", 1);
    put_key_u32(&more, "tokenizer.ggml.eos_token_id", 3);
    assert_ok(ml_gguf_open(llama_with(&more, 4), &g, &err), &err);
    assert_string_equal(ml_gguf_string(g, "tokenizer.chat_template"), "{{ messages }}");
    assert_null(ml_gguf_string(g, "llama.block_count"));
    assert_null(ml_gguf_string(g, "no.such.key"));
    ml_buf_init(&text, 64);
    assert_ok(ml_gguf_token_text(g, "tokenizer.ggml.bos_token_id", &text, &err), &err);
    assert_string_equal(text.data, "<s>");
    assert_ok(ml_gguf_token_text(g, "no.such.key", &text, &err), &err);
    assert_error(ml_gguf_token_text(g, "tokenizer.ggml.eos_token_id", &text, &err), &err, MARLIN_ERR_FORMAT,
                 "the number of a token");
    ml_buf_free(&text);
    ml_gguf_close(g);
}

/* ---- tensors ---- */

/* Rows 0..7 of q with two heads, each row filled with its number: pairs (2 j, 2 j + 1) of a head become (j, j + 2). */
static void rows_of_q_are_put_in_order(void **state) {
    static const float want[] = {0, 2, 1, 3, 4, 6, 5, 7};
    struct marlin_error err = {0};
    struct ml_tensors *t = NULL;
    struct gguf_image m = {0};
    (void)state;
    put_head(&m, 3, 2, 2);
    put_key_string(&m, "general.architecture", "llama");
    put_key_u32(&m, "llama.attention.head_count", 2);
    put_tensor(&m, "blk.0.attn_q.weight", 2, (uint64_t[]){8, 8}, F32, 0);
    put_tensor(&m, "blk.0.attn_v.weight", 2, (uint64_t[]){8, 8}, F32, 256);
    put_padding(&m, 32);
    for (int i = 0; i < 128; i++) {
        const float row = (float)(i / 8 % 8);
        put(&m, &row, sizeof row);
    }
    write_bytes(in_dir("q.gguf"), m.bytes, m.len);
    assert_ok(ml_tensors_open_dir(in_dir("q.gguf"), &t, &err), &err);
    assert_int_equal(ml_tensors_count(t), 2);
    const struct ml_tensor *q = ml_tensors_find(t, "model.layers.0.self_attn.q_proj.weight");
    const struct ml_tensor *v = ml_tensors_find(t, "model.layers.0.self_attn.v_proj.weight");
    assert_non_null(q);
    assert_non_null(v);
    assert_null(q->data);
    assert_non_null(v->data);
    assert_string_equal(q->stored, "F32");
    assert_ok(ml_tensors_load(t, NULL, &err), &err);
    assert_ok(ml_tensors_load(t, NULL, &err), &err);
    for (size_t i = 0; i < 64; i++) {
        assert_true(((const float *)(const void *)q->data)[i] == want[i / 8]);
        assert_true(((const float *)(const void *)v->data)[i] == (float)(i / 8));
    }
    ml_tensors_close(t);
}

/* The same of Q8_0 with a scale of one half: widened and put in order at once. */
static void rows_of_block_types(void **state) {
    static const float want[] = {0, 2, 1, 3, 4, 6, 5, 7};
    struct marlin_error err = {0};
    struct ml_tensors *t = NULL;
    struct gguf_image m = {0};
    (void)state;
    put_head(&m, 3, 1, 2);
    put_key_string(&m, "general.architecture", "llama");
    put_key_u32(&m, "llama.attention.head_count", 2);
    put_tensor(&m, "blk.7.attn_q.weight", 2, (uint64_t[]){64, 8}, 8, 0);
    put_padding(&m, 32);
    for (int block = 0; block < 16; block++) {
        put_number(&m, 0x3800, 2); /* 0.5 */
        for (int i = 0; i < 32; i++)
            put_number(&m, (uint64_t)(block / 2), 1);
    }
    write_bytes(in_dir("q8.gguf"), m.bytes, m.len);
    assert_ok(ml_tensors_open_dir(in_dir("q8.gguf"), &t, &err), &err);
    const struct ml_tensor *q = ml_tensors_find(t, "model.layers.7.self_attn.q_proj.weight");
    assert_non_null(q);
    assert_string_equal(q->stored, "Q8_0");
    assert_int_equal(q->stored_bytes, 16 * 34);
    assert_int_equal(ml_tensors_bytes(t), 16 * 34);
    assert_int_equal(q->bytes, 64 * 8 * 4);
    assert_true(q->made && q->dtype == ML_F32);
    float none[512];
    assert_error(ml_tensor_to_f32(q, none, 512, &err), &err, MARLIN_ERR_INTERNAL, "before ml_tensors_load");
    assert_ok(ml_tensors_load(t, NULL, &err), &err);
    for (size_t i = 0; i < 512; i++)
        assert_true(((const float *)(const void *)q->data)[i] == 0.5f * want[i / 64]);
    ml_tensors_close(t);
}

/* ---- split files ---- */

static void write_split(unsigned no, unsigned says_no, unsigned says_count, unsigned total,
                        const char *tensor) {
    char name[64];
    struct gguf_image m = {0};
    put_head(&m, 3, 1, 4);
    put_key_string(&m, "general.architecture", "llama");
    put_key_u16(&m, "split.no", says_no);
    put_key_u16(&m, "split.count", says_count);
    put_key_u32(&m, "split.tensors.count", total);
    put_tensor(&m, tensor, 1, (uint64_t[]){8}, F32, 0);
    put_padding(&m, 32);
    put_zeros(&m, 32);
    (void)snprintf(name, sizeof name, "s-%05u-of-00002.gguf", no + 1);
    write_bytes(in_dir(name), m.bytes, m.len);
}

static void refuse_split(const char *name, marlin_status code, const char *part) {
    struct marlin_error err = {0};
    struct ml_gguf *g = NULL;
    assert_error(ml_gguf_open(in_dir(name), &g, &err), &err, code, part);
    assert_null(g);
}

static void split_files(void **state) {
    struct marlin_error err = {0};
    struct ml_tensors *t = NULL;
    (void)state;
    write_split(0, 0, 2, 2, "output_norm.weight");
    write_split(1, 1, 2, 2, "blk.0.attn_norm.weight");
    for (int no = 1; no <= 2; no++) { /* any one of them stands for all */
        char name[64];
        (void)snprintf(name, sizeof name, "s-%05d-of-00002.gguf", no);
        assert_ok(ml_tensors_open_dir(in_dir(name), &t, &err), &err);
        assert_int_equal(ml_tensors_count(t), 2);
        assert_non_null(ml_tensors_find(t, "model.norm.weight"));
        assert_non_null(ml_tensors_find(t, "model.layers.0.input_layernorm.weight"));
        ml_tensors_close(t);
    }
    write_split(1, 0, 2, 2, "blk.0.attn_norm.weight");
    refuse_split("s-00001-of-00002.gguf", MARLIN_ERR_FORMAT,
                 "says that it is file 1 of 2, its name says 2 of 2");
    write_split(1, 1, 2, 2, "output_norm.weight");
    refuse_split("s-00001-of-00002.gguf", MARLIN_ERR_FORMAT, "is in another file too");
    write_split(0, 0, 2, 7, "output_norm.weight");
    write_split(1, 1, 2, 7, "blk.0.attn_norm.weight");
    refuse_split("s-00001-of-00002.gguf", MARLIN_ERR_FORMAT, "have 7 tensors, they have 2");
    write_split(0, 0, 3, 2, "output_norm.weight");
    refuse_split("s-00001-of-00002.gguf", MARLIN_ERR_FORMAT, "does not end with -00001-of-00003.gguf");
    write_split(0, 0, 60000, 2, "output_norm.weight");
    refuse_split("s-00001-of-00002.gguf", MARLIN_ERR_FORMAT, "60000");
    write_split(0, 0, 2, 2, "output_norm.weight");
    (void)unlink(in_dir("s-00002-of-00002.gguf"));
    refuse_split("s-00001-of-00002.gguf", MARLIN_ERR_NOT_FOUND, "s-00002-of-00002.gguf");
}

/* ---- tokenizers ---- */

static void refuse_tokenizer(const struct gguf_image *more, unsigned n, marlin_status code,
                             const char *part) {
    struct marlin_error err = {0};
    struct ml_gguf *g = NULL;
    struct ml_gguf_tokenizer t;
    assert_ok(ml_gguf_open(llama_with(more, n), &g, &err), &err);
    assert_error(ml_gguf_tokenizer(g, &t, &err), &err, code, part);
    ml_gguf_tokenizer_free(&t);
    ml_gguf_close(g);
}

static struct gguf_image bpe(const char *pre, const char *token, const char *merge) {
    struct gguf_image v = {0};
    put_key_string(&v, "tokenizer.ggml.model", "gpt2");
    put_key_string(&v, "tokenizer.ggml.pre", pre);
    put_key_array(&v, "tokenizer.ggml.tokens", 8, 3);
    put_text(&v, "a");
    put_text(&v, "b");
    put_text(&v, token);
    put_key_array(&v, "tokenizer.ggml.merges", 8, 1);
    put_text(&v, merge);
    return v;
}

static void tokenizers_refused(void **state) {
    struct gguf_image v = {0};
    (void)state;
    refuse_tokenizer(NULL, 0, MARLIN_ERR_NOT_FOUND, "no tokenizer is in this file");
    put_key_string(&v, "tokenizer.ggml.model", "bert");
    refuse_tokenizer(&v, 1, MARLIN_ERR_UNSUPPORTED, "\"bert\"");
    v = bpe("some-new-model", "ab", "a b");
    refuse_tokenizer(&v, 4, MARLIN_ERR_UNSUPPORTED, "\"some-new-model\"");
    v = bpe("gpt-2", "ab", "ab");
    refuse_tokenizer(&v, 4, MARLIN_ERR_FORMAT, "without a space");
    v = bpe("gpt-2", "\xC3\x28", "a b");
    refuse_tokenizer(&v, 4, MARLIN_ERR_FORMAT, "is not UTF-8");
    v = bpe("gpt-2", "ab", "a b");
    put_key_array(&v, "tokenizer.ggml.token_type", 5, 2);
    put_u32(&v, 1);
    put_u32(&v, 1);
    refuse_tokenizer(&v, 5, MARLIN_ERR_FORMAT, "not one entry a token");
    v = (struct gguf_image){0};
    put_key_string(&v, "tokenizer.ggml.model", "llama");
    put_key_array(&v, "tokenizer.ggml.tokens", 8, 1);
    put_text(&v, "a");
    refuse_tokenizer(&v, 2, MARLIN_ERR_FORMAT, "tokenizer.ggml.scores");
    v = (struct gguf_image){0};
    put_key_string(&v, "tokenizer.ggml.model", "gpt2");
    put_key_u32(&v, "tokenizer.ggml.tokens", 1);
    refuse_tokenizer(&v, 2, MARLIN_ERR_FORMAT, "not an array");
}

/* ---- memory ---- */

static marlin_status make_everything(const char *path, struct marlin_error *err) {
    struct ml_gguf *g = NULL;
    struct ml_gguf_tokenizer t = {0};
    struct ml_tensors *tensors = NULL;
    struct ml_config *c = NULL;
    marlin_status st;
    ML_TRY(ml_tensors_open_gguf(path, &tensors, err));
    ML_TRY(ml_tensors_load(tensors, NULL, err));
    ML_TRY(ml_config_load(path, &c, err));
    ML_TRY(ml_gguf_open(path, &g, err));
    st = ml_gguf_tokenizer(g, &t, err);
out:
    ml_gguf_tokenizer_free(&t);
    ml_gguf_close(g);
    ml_config_free(c);
    ml_tensors_close(tensors);
    return st;
}

static void failing_allocations(void **state) {
    struct gguf_image v = bpe("llama-bpe", "ab", "a b");
    (void)state;
    put_key_u32(&v, "tokenizer.ggml.bos_token_id", 2);
    const char *path = llama_with(&v, 5);
    for (uint64_t n = 1;; n++) {
        struct marlin_error err = {0};
        ml_mem_fail_at(n);
        const marlin_status st = make_everything(path, &err);
        ml_mem_fail_at(0);
        if (st == MARLIN_OK) {
            assert_true(n > 50);
            return;
        }
        assert_error(st, &err, MARLIN_ERR_MEMORY, "");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads),
        cmocka_unit_test(counts),
        cmocka_unit_test(keys),
        cmocka_unit_test(values),
        cmocka_unit_test(arrays),
        cmocka_unit_test(alignments),
        cmocka_unit_test(shapes),
        cmocka_unit_test(types),
        cmocka_unit_test(names),
        cmocka_unit_test(places),
        cmocka_unit_test(neighbours),
        cmocka_unit_test_teardown(config_of_metadata, clear_test_dir),
        cmocka_unit_test_teardown(configs_refused, clear_test_dir),
        cmocka_unit_test_teardown(other_architectures, clear_test_dir),
        cmocka_unit_test_teardown(what_is_a_file, clear_test_dir),
        cmocka_unit_test_teardown(strings_of_metadata, clear_test_dir),
        cmocka_unit_test_teardown(rows_of_q_are_put_in_order, clear_test_dir),
        cmocka_unit_test_teardown(rows_of_block_types, clear_test_dir),
        cmocka_unit_test_teardown(split_files, clear_test_dir),
        cmocka_unit_test_teardown(tokenizers_refused, clear_test_dir),
        cmocka_unit_test_teardown(failing_allocations, clear_test_dir),
    };
    return cmocka_run_group_tests(tests, make_test_dir, remove_test_dir);
}
