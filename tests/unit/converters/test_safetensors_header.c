/* SPDX-License-Identifier: Apache-2.0
 *
 * The header parser against rules R1 to R9: every broken header ends in an error that names the file, and the
 * tensor where there is one.
 */
#include "converters/safetensors_int.h"
#include "unit/converters/support.h"

static marlin_status parse(const struct image *m, struct marlin_error *err) {
    struct ml_safetensors_header h;
    const marlin_status st = ml_safetensors_parse(m->bytes, m->len, m->len, "x.safetensors", &h, err);
    if (st == MARLIN_OK) ml_safetensors_header_free(&h);
    return st;
}

static void expect(const char *header, size_t data_len, marlin_status code, const char *part) {
    struct marlin_error err = {0};
    const struct image m = build(header, data_len);
    const marlin_status st = parse(&m, &err);
    free(m.bytes);
    assert_error(st, &err, code, part);
    assert_non_null(strstr(err.text, "x.safetensors"));
}

/* The entry of tensor "t" under test. */
static void expect_entry(const char *entry, size_t data_len, marlin_status code, const char *part) {
    char header[1024];
    (void)snprintf(header, sizeof header, "{\"t\":%s}", entry);
    expect(header, data_len, code, part);
}

static void accept(const char *header, size_t data_len) {
    struct marlin_error err = {0};
    const struct image m = build(header, data_len);
    const marlin_status st = parse(&m, &err);
    free(m.bytes);
    assert_ok(st, &err);
}

static void well_formed(void **state) {
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\",\"empty\":\"\"},"
                                 "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[2,26]},"
                                 "\"a\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[0,2]},"
                                 "\"none\":{\"data_offsets\":[26,26],\"shape\":[0,7],\"dtype\":\"I64\"}}   ";
    struct marlin_error err = {0};
    struct ml_safetensors_header h;
    const struct image m = build(header, 26);
    (void)state;
    assert_ok(ml_safetensors_parse(m.bytes, m.len, m.len, "x", &h, &err), &err);
    assert_int_equal(h.count, 3);
    assert_int_equal(h.data_start, 8 + strlen(header));
    assert_string_equal(h.tensors[0].name, "a");
    assert_int_equal(h.tensors[0].rank, 0);
    assert_int_equal(h.tensors[0].count, 1);
    assert_int_equal(h.tensors[0].bytes, 2);
    assert_string_equal(h.tensors[1].name, "b");
    assert_int_equal(h.tensors[1].dtype, ML_F32);
    assert_int_equal(h.tensors[1].shape[1], 3);
    assert_int_equal(h.tensors[1].offset, 2);
    assert_int_equal(h.tensors[2].bytes, 0);
    assert_int_equal(h.n_metadata, 2);
    assert_string_equal(h.metadata[0].value, "pt");
    ml_safetensors_header_free(&h);
    free(m.bytes);
    accept("{}", 0);
}

/* Hostile input 1: files too short for anything. */
static void short_files(void **state) {
    (void)state;
    const uint8_t zero[16] = {0};
    for (size_t len = 0; len <= 8; len++) {
        struct marlin_error err = {0};
        const struct image m = {(uint8_t *)zero, len};
        assert_error(parse(&m, &err), &err, MARLIN_ERR_FORMAT,
                     len < 8 ? "too few for a safetensors file (offset 0)" : "does not start with {");
    }
    expect("", 0, MARLIN_ERR_FORMAT, "(offset 8)");
    expect(" ", 0, MARLIN_ERR_FORMAT, "(offset 8)");
    expect("{", 0, MARLIN_ERR_FORMAT, "(offset 8)");
}

/* Hostile input 2: lengths that lie. */
static void lying_lengths(void **state) {
    static const struct {
        uint64_t claimed;
        marlin_status code;
    } cases[] = {{UINT64_MAX, MARLIN_ERR_LIMIT},
                 {(uint64_t)1 << 63, MARLIN_ERR_LIMIT},
                 {UINT64_MAX - 7, MARLIN_ERR_LIMIT},
                 {100000001, MARLIN_ERR_LIMIT},
                 {(64u << 20) + 1, MARLIN_ERR_LIMIT},
                 {64u << 20, MARLIN_ERR_FORMAT},
                 {3, MARLIN_ERR_FORMAT} /* file size - 7 */};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct marlin_error err = {0};
        const struct image m = build_claiming(cases[i].claimed, "{}", 2, 0);
        const marlin_status st = parse(&m, &err);
        free(m.bytes);
        assert_error(st, &err, cases[i].code, "(offset 0)");
    }
}

/* A buffer that ends before the header does: the caller read too little. */
static void header_cut_in_buffer(void **state) {
    struct marlin_error err = {0};
    struct ml_safetensors_header h;
    const struct image m = build("{}      ", 0);
    (void)state;
    assert_error(ml_safetensors_parse(m.bytes, 12, m.len, "x", &h, &err), &err, MARLIN_ERR_FORMAT,
                 "(offset 8)");
    free(m.bytes);
}

/* Hostile input 3: text that is not one JSON object. */
static void broken_text(void **state) {
    (void)state;
    expect("{\"t\":{\"dtype\":\"U8", 0, MARLIN_ERR_FORMAT, "does not end with }");
    expect("{\"t\":\"U8}", 0, MARLIN_ERR_FORMAT, "header");
    expect("{}x", 0, MARLIN_ERR_FORMAT, "does not end with }");
    expect("{}}", 0, MARLIN_ERR_FORMAT, "header");
    expect("{} \n", 0, MARLIN_ERR_FORMAT, "does not end with }");
    expect("{}{}", 0, MARLIN_ERR_FORMAT, "header");
    expect(" {}", 0, MARLIN_ERR_FORMAT, "does not start with {");
    expect("[]", 0, MARLIN_ERR_FORMAT, "does not start with {");
    expect("\xef\xbb\xbf{}", 0, MARLIN_ERR_FORMAT, "does not start with {");
    expect("{\"\xff\":1}", 0, MARLIN_ERR_FORMAT, "header");
    struct marlin_error err = {0};
    const struct image utf16 = build_claiming(4, "{\0}\0", 4, 0);
    assert_error(parse(&utf16, &err), &err, MARLIN_ERR_FORMAT, "does not end with }");
    free(utf16.bytes);
}

/* Hostile input 4: nesting that would use up the stack; refused at depth 5, whatever the length. */
static void deep_nesting(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        const char *unit = kind ? "{\"a\":" : "[";
        const size_t step = strlen(unit), n = 50u << 20;
        struct image m = build_claiming(n, "", 0, n);
        struct marlin_error err = {0};
        memset(m.bytes + 8, '}', n);
        memcpy(m.bytes + 8, "{\"t\":", 5);
        for (size_t at = 5; at + step < n / 2; at += step) {
            memcpy(m.bytes + 8 + at, unit, step);
        }
        const double start = seconds_now();
        const marlin_status st = parse(&m, &err);
        assert_true(seconds_now() - start < 1);
        free(m.bytes);
        assert_error(st, &err, MARLIN_ERR_LIMIT, "x.safetensors");
    }
}

/* Hostile input 5: a key twice, and metadata of other types. */
static void duplicates_and_metadata(void **state) {
    (void)state;
    expect("{\"t\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
           "\"t\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
           0, MARLIN_ERR_FORMAT, "header");
    expect_entry("{\"dtype\":\"U8\",\"shape\":[0],\"shape\":[0],\"data_offsets\":[0,0]}", 0,
                 MARLIN_ERR_FORMAT, "header");
    expect("{\"__metadata__\":{},\"__metadata__\":{}}", 0, MARLIN_ERR_FORMAT, "header");
    expect("{\"__metadata__\":7}", 0, MARLIN_ERR_FORMAT, "\"__metadata__\": is not an object");
    expect("{\"__metadata__\":{\"a\":7}}", 0, MARLIN_ERR_FORMAT, "a value is not a string");
    expect("{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}", 0, MARLIN_ERR_FORMAT, "a value is not a string");
    expect("{\"__metadata__\":{\"a\":\"b\\u0000\"}}", 0, MARLIN_ERR_FORMAT,
           "a value is not a string without NUL");
    expect("{\"__metadata__\":{\"a\\u0000\":\"b\"}}", 0, MARLIN_ERR_FORMAT, "a key holds NUL");
    expect("{\"__metadata__\":{\"a\":\"b\"},\"__metadata__\\u0000\":{\"a\":\"b\"}}", 0, MARLIN_ERR_FORMAT,
           "a name must have 1 to 256 bytes");
}

/* Hostile input 6: offsets. */
static void offsets(void **state) {
    (void)state;
#define ENTRY(offsets) "{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" offsets "}"
    accept("{\"t\":" ENTRY("[0,4]") "}", 4);
    expect_entry(ENTRY("[4,0]"), 4, MARLIN_ERR_FORMAT, "tensor \"t\": data_offsets run backwards");
    expect_entry(ENTRY("[-0,4]"), 4, MARLIN_ERR_FORMAT, "two non-negative integers");
    expect_entry(ENTRY("[-1,3]"), 4, MARLIN_ERR_FORMAT, "two non-negative integers");
    expect_entry(ENTRY("[0,4.0]"), 4, MARLIN_ERR_FORMAT, "two non-negative integers");
    expect_entry(ENTRY("[0,4e0]"), 4, MARLIN_ERR_FORMAT, "two non-negative integers");
    expect_entry(ENTRY("[0,1e3]"), 1000, MARLIN_ERR_FORMAT, "two non-negative integers");
    expect_entry(ENTRY("[0,18446744073709551616]"), 4, MARLIN_ERR_FORMAT, "two non-negative integers");
    expect_entry(ENTRY("[18446744073709551612,18446744073709551615]"), 4, MARLIN_ERR_FORMAT,
                 "ends at 18446744073709551615");
    expect_entry(ENTRY("[0]"), 4, MARLIN_ERR_FORMAT, "two non-negative integers");
    expect_entry(ENTRY("[0,4,4]"), 4, MARLIN_ERR_FORMAT, "two non-negative integers");
    expect_entry(ENTRY("\"0,4\""), 4, MARLIN_ERR_FORMAT, "two non-negative integers");
    expect_entry(ENTRY("[1,5]"), 5, MARLIN_ERR_FORMAT, "a hole lies before its data");
    expect_entry(ENTRY("[0,4]"), 5, MARLIN_ERR_FORMAT, "the file has 5 bytes of data");
    expect("{\"a\":" ENTRY("[0,4]") ",\"b\":" ENTRY("[3,7]") "}", 7, MARLIN_ERR_FORMAT,
           "tensor \"b\": its data overlaps another's");
    expect("{\"a\":" ENTRY("[0,4]") ",\"b\":" ENTRY("[0,4]") "}", 4, MARLIN_ERR_FORMAT, "overlaps");
    expect("{\"a\":" ENTRY("[0,4]") ",\"b\":" ENTRY("[5,9]") "}", 9, MARLIN_ERR_FORMAT,
           "tensor \"b\": a hole lies before its data");
    accept("{\"b\":" ENTRY("[4,8]") ",\"a\":" ENTRY("[0,4]") "}", 8);
}

/* Hostile input 7: shapes whose product or size does not fit. */
static void shapes(void **state) {
    (void)state;
#define SHAPED(shape) "{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[0,0]}"
    expect_entry(SHAPED("[4294967296,4294967296]"), 0, MARLIN_ERR_FORMAT, "product overflows");
    expect_entry(SHAPED("[9223372036854775807,2]"), 0, MARLIN_ERR_FORMAT, "overflows");
    expect_entry(SHAPED("[4611686018427387904]"), 0, MARLIN_ERR_FORMAT, "size in bytes overflows");
    expect_entry(SHAPED("[4398046511105,4194304]"), 0, MARLIN_ERR_FORMAT, "overflows");
    expect_entry(SHAPED("[4398046511105]"), 0, MARLIN_ERR_FORMAT, "its shape needs 17592186044420");
    expect_entry(SHAPED("[0,9223372036854775808]"), 0, MARLIN_ERR_FORMAT, "a dimension is not");
    expect_entry(SHAPED("[-1]"), 0, MARLIN_ERR_FORMAT, "a dimension is not");
    expect_entry(SHAPED("[1.0]"), 0, MARLIN_ERR_FORMAT, "a dimension is not");
    expect_entry(SHAPED("[\"1\"]"), 0, MARLIN_ERR_FORMAT, "a dimension is not");
    expect_entry(SHAPED("[[]]"), 0, MARLIN_ERR_FORMAT, "a dimension is not");
    expect_entry(SHAPED("[{}]"), 0, MARLIN_ERR_FORMAT, "a dimension is not");
    /* A value inside a dimension is the fifth level: refused before the entry is looked at (R3). */
    expect_entry(SHAPED("[[1]]"), 0, MARLIN_ERR_LIMIT, "nested deeper than 4 (offset 30)");
    expect_entry(SHAPED("4"), 0, MARLIN_ERR_FORMAT, "not an array");
    expect_entry(SHAPED("[1,1,1,1,1,1,1,1,1]"), 0, MARLIN_ERR_FORMAT, "more than 8 dimensions");
    accept("{\"t\":" SHAPED("[0,9223372036854775807]") "}", 0);
    accept("{\"t\":" SHAPED("[1,1,1,1,1,1,1,0]") "}", 0);
}

static void rank_of_100000(void **state) {
    const size_t n = 100000;
    char *header = malloc(2 * n + 100);
    (void)state;
    assert_non_null(header);
    static const char start[] = "{\"t\":{\"dtype\":\"F32\",\"shape\":[";
    size_t at = sizeof start - 1;
    memcpy(header, start, at);
    for (size_t i = 0; i < n; i++) {
        header[at++] = '1';
        header[at++] = i + 1 < n ? ',' : ']';
    }
    memcpy(header + at, ",\"data_offsets\":[0,4]}}", sizeof ",\"data_offsets\":[0,4]}}");
    expect(header, 4, MARLIN_ERR_FORMAT, "more than 8 dimensions");
    free(header);
}

/* Hostile input 8: size off by one, and types that are not ours. */
static void sizes_and_types(void **state) {
    (void)state;
    expect_entry("{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[0,5]}", 5, MARLIN_ERR_FORMAT,
                 "tensor \"t\" takes 5 bytes, its shape needs 6");
    expect_entry("{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[0,7]}", 7, MARLIN_ERR_FORMAT,
                 "takes 7 bytes, its shape needs 6");
    /* What is not known is measured by its offsets; a name must be one. */
    accept("{\"t\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]},"
           "\"u\":{\"dtype\":\"F8_E8M0\",\"shape\":[4],\"data_offsets\":[2,6]},"
           "\"v\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[6,14]},"
           "\"w\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[14,30]},"
           "\"x\":{\"dtype\":\"U16\",\"shape\":[1],\"data_offsets\":[30,32]},"
           "\"y\":{\"dtype\":\"U32\",\"shape\":[1],\"data_offsets\":[32,36]},"
           "\"z\":{\"dtype\":\"U64\",\"shape\":[1],\"data_offsets\":[36,44]}}",
           44);
    expect_entry("{\"dtype\":\"F64\",\"shape\":[3],\"data_offsets\":[0,6]}", 6, MARLIN_ERR_FORMAT,
                 "tensor \"t\" takes 6 bytes, its shape needs 24");
    static const char *const foreign[] = {"F16 ", "", "F16\\u0000", "?",
                                          "F1234567890123456789012345678901234567890"};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        char entry[160];
        (void)snprintf(entry, sizeof entry, "{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,6]}",
                       foreign[i]);
        expect_entry(entry, 6, MARLIN_ERR_FORMAT, "tensor \"t\": the name of its dtype has other bytes");
    }
    expect_entry("{\"dtype\":7,\"shape\":[3],\"data_offsets\":[0,6]}", 6, MARLIN_ERR_FORMAT,
                 "dtype is missing");
}

/* R4: exactly three members. */
static void members(void **state) {
    (void)state;
    expect_entry("{\"dtype\":\"U8\",\"shape\":[0]}", 0, MARLIN_ERR_FORMAT, "an entry has just");
    expect_entry("{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0],\"x\":1}", 0, MARLIN_ERR_FORMAT,
                 "an entry has just");
    expect_entry("{\"dtype\":\"U8\",\"shape\":[0],\"offsets\":[0,0]}", 0, MARLIN_ERR_FORMAT, "data_offsets");
    expect_entry("[]", 0, MARLIN_ERR_FORMAT, "not an object");
    expect_entry("null", 0, MARLIN_ERR_FORMAT, "not an object");
}

/* R8: names. */
static void names(void **state) {
    char header[512], name[300];
    (void)state;
    for (int len = 256; len <= 257; len++) {
        memset(name, 'n', sizeof name);
        name[len] = '\0';
        (void)snprintf(header, sizeof header,
                       "{\"%s\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", name);
        if (len == 256)
            accept(header, 0);
        else
            expect(header, 0, MARLIN_ERR_FORMAT, "1 to 256 bytes");
    }
    expect("{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, MARLIN_ERR_FORMAT,
           "");
    expect("{\"\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, MARLIN_ERR_FORMAT,
           "1 to 256 bytes");
}

/* n empty tensors with names of a few hexadecimal digits. */
static struct image many(size_t n) {
    const size_t cap = n * 64 + 16;
    struct image m = {malloc(cap), 0};
    assert_non_null(m.bytes);
    char *text = (char *)m.bytes + 8;
    size_t at = 1;
    text[0] = '{';
    for (size_t i = 0; i < n; i++) {
        at += (size_t)snprintf(text + at, cap - 8 - at,
                               "%s\"%zx\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                               i ? "," : "", i);
    }
    text[at++] = '}';
    for (int i = 0; i < 8; i++) {
        m.bytes[i] = (uint8_t)(at >> 8 * i & 0xff);
    }
    m.len = at + 8;
    return m;
}

/* R9: a million tensors load in bounded time, one more is refused. */
static void a_million(void **state) {
    struct marlin_error err = {0};
    (void)state;
    struct image m = many(1000000);
    const double start = seconds_now();
    assert_ok(parse(&m, &err), &err);
    assert_true(seconds_now() - start < 30);
    free(m.bytes);
    m = many(1000001);
    assert_error(parse(&m, &err), &err, MARLIN_ERR_LIMIT, "more than 1000000 entries");
    free(m.bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(well_formed),
        cmocka_unit_test(short_files),
        cmocka_unit_test(lying_lengths),
        cmocka_unit_test(header_cut_in_buffer),
        cmocka_unit_test(broken_text),
        cmocka_unit_test(deep_nesting),
        cmocka_unit_test(duplicates_and_metadata),
        cmocka_unit_test(offsets),
        cmocka_unit_test(shapes),
        cmocka_unit_test(rank_of_100000),
        cmocka_unit_test(sizes_and_types),
        cmocka_unit_test(members),
        cmocka_unit_test(names),
        cmocka_unit_test(a_million),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
