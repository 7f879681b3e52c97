/* SPDX-License-Identifier: Apache-2.0
 *
 * GGUF bytes for tests, right or wrong, put down piece by piece.
 */
#ifndef ML_TEST_CONVERTERS_GGUF_IMAGE_H
#define ML_TEST_CONVERTERS_GGUF_IMAGE_H

#include <assert.h>
#include <stdint.h>
#include <string.h>

#ifndef GGUF_IMAGE_BYTES
#define GGUF_IMAGE_BYTES 16384
#endif

/* Zero-initialise. */
struct gguf_image {
    uint8_t bytes[GGUF_IMAGE_BYTES];
    size_t len;
};

static inline void put(struct gguf_image *m, const void *data, size_t n) {
    assert(m->len + n <= sizeof m->bytes);
    if (n) memcpy(m->bytes + m->len, data, n);
    m->len += n;
}

static inline void put_number(struct gguf_image *m, uint64_t v, int bytes) {
    uint8_t b[8];
    for (int i = 0; i < bytes; i++)
        b[i] = (uint8_t)(v >> (8 * i));
    put(m, b, (size_t)bytes);
}

static inline void put_u32(struct gguf_image *m, uint32_t v) {
    put_number(m, v, 4);
}

static inline void put_u64(struct gguf_image *m, uint64_t v) {
    put_number(m, v, 8);
}

static inline void put_text(struct gguf_image *m, const char *s) {
    put_u64(m, strlen(s));
    put(m, s, strlen(s));
}

static inline void put_head(struct gguf_image *m, uint32_t version, uint64_t tensors, uint64_t values) {
    put(m, "GGUF", 4);
    put_u32(m, version);
    put_u64(m, tensors);
    put_u64(m, values);
}

static inline void put_key_string(struct gguf_image *m, const char *key, const char *value) {
    put_text(m, key);
    put_u32(m, 8);
    put_text(m, value);
}

static inline void put_key_u32(struct gguf_image *m, const char *key, uint32_t value) {
    put_text(m, key);
    put_u32(m, 4);
    put_u32(m, value);
}

static inline void put_key_u16(struct gguf_image *m, const char *key, uint32_t value) {
    put_text(m, key);
    put_u32(m, 2);
    put_number(m, value, 2);
}

static inline void put_key_f32(struct gguf_image *m, const char *key, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_text(m, key);
    put_u32(m, 6);
    put_u32(m, bits);
}

static inline void put_key_array(struct gguf_image *m, const char *key, uint32_t kind, uint64_t count) {
    put_text(m, key);
    put_u32(m, 9);
    put_u32(m, kind);
    put_u64(m, count);
}

static inline void put_tensor(struct gguf_image *m, const char *name, uint32_t rank, const uint64_t *ne,
                              uint32_t type, uint64_t offset) {
    put_text(m, name);
    put_u32(m, rank);
    for (uint32_t i = 0; i < rank; i++)
        put_u64(m, ne[i]);
    put_u32(m, type);
    put_u64(m, offset);
}

static inline void put_padding(struct gguf_image *m, size_t align) {
    while (m->len % align)
        put_number(m, 0, 1);
}

static inline void put_zeros(struct gguf_image *m, size_t n) {
    for (size_t i = 0; i < n; i++)
        put_number(m, 0, 1);
}

#endif
