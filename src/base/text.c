/* SPDX-License-Identifier: Apache-2.0
 *
 * UTF-8, and files that are mistaken for others: nobody who meets one of these is helped by what the reader
 * of the expected format stumbles over first.
 */
#include "base/text.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

size_t ml_utf8_length(const unsigned char *s, size_t n) {
    if (s[0] < 0x80) return 1;
    const size_t need = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || n < need) return 0;
    for (size_t i = 1; i < need; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
    }
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f)) return 0;
    if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f)) return 0;
    return need;
}

static const struct {
    const char *magic;
    size_t n;
    const char *what;
} kinds[] = {
#define KIND(magic, what)                                                                                    \
    { magic, sizeof(magic) - 1, what }
    KIND("version https://git-lfs",
         "a Git LFS pointer in the place of the file: fetch that with 'git lfs pull', or with "
         "'hf download'"),
    KIND("version https://hawser",
         "a Git LFS pointer in the place of the file: fetch that with 'git lfs pull'"),
    KIND("GGUF", "a GGUF file, which is a model by itself"),
    KIND("PAR1", "a Parquet file: write its texts to a .txt or .jsonl first"),
    KIND("\x1f\x8b", "compressed with gzip: unpack it first"),
    KIND("\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    KIND("\xfd"
         "7zXZ",
         "compressed with xz: unpack it first"),
    KIND("BZh", "compressed with bzip2: unpack it first"),
    KIND("PK\x03\x04", "a zip archive, as PyTorch's .bin and .pt files are too"),
    KIND("\x80\x02", "a Python pickle, as old PyTorch files are"),
    KIND("\x89HDF\r\n", "an HDF5 file, as TensorFlow's weights are"),
    KIND("\x89PNG", "a picture (PNG)"),
    KIND("\xff\xd8\xff", "a picture (JPEG)"),
    KIND("%PDF-", "a PDF file: take its text out first"),
    KIND("SQLite format 3", "an SQLite database"),
    KIND("ARROW1", "an Arrow file: write its texts to a .txt or .jsonl first"),
    KIND("\x7f"
         "ELF",
         "a program"),
    KIND("\xff\xfe", "UTF-16 text: turn it into UTF-8 first (iconv -f utf-16 -t utf-8)"),
    KIND("\xfe\xff", "UTF-16 text: turn it into UTF-8 first (iconv -f utf-16 -t utf-8)"),
#undef KIND
};

/* A page that was saved in the place of a file: a login or an error, most often. */
static bool is_html(const char *s, size_t n) {
    size_t i = 0;
    while (i < n && (s[i] == ' ' || s[i] == '\n' || s[i] == '\r' || s[i] == '\t'))
        i++;
    return (n - i >= 14 && strncasecmp(s + i, "<!doctype html", 14) == 0) ||
           (n - i >= 5 && strncasecmp(s + i, "<html", 5) == 0);
}

/* The header's length, and a JSON object after it. */
static bool is_safetensors(const unsigned char *s, size_t n) {
    return n > 9 && s[8] == '{' && s[9] == '"' && !s[5] && !s[6] && !s[7];
}

const char *ml_sniff(const void *bytes, size_t n) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (n >= kinds[i].n && memcmp(bytes, kinds[i].magic, kinds[i].n) == 0) return kinds[i].what;
    }
    if (is_html(bytes, n))
        return "a web page, most likely of a login or an error, that was saved in its place: download it "
               "again, "
               "with 'hf download'";
    if (is_safetensors(bytes, n)) return "a safetensors file";
    return NULL;
}

void ml_beginning(const void *bytes, size_t n, char dst[ML_BEGINNING]) {
    const unsigned char *s = bytes;
    size_t at = 0;
    while (at < n) {
        const size_t step = ml_utf8_length(s + at, n - at);
        if (step == 0 || s[at] < ' ' || s[at] == 0x7f || at + step >= ML_BEGINNING) break;
        memcpy(dst + at, s + at, step);
        at += step;
    }
    dst[at] = '\0';
}

marlin_status ml_text_check(const char *data, size_t n, struct marlin_error *err) {
    const char *kind = ml_sniff(data, n);
    if (kind) return ml_fail(err, MARLIN_ERR_FORMAT, "not a text, but %s", kind);
    for (size_t at = 0; at < n;) {
        const size_t step = ml_utf8_length((const unsigned char *)data + at, n - at);
        if (data[at] == '\0')
            return ml_fail(err, MARLIN_ERR_FORMAT, "not a text: byte %zu is NUL: give a text in UTF-8", at);
        if (step == 0)
            return ml_fail(err, MARLIN_ERR_FORMAT,
                           "not UTF-8 from byte %zu on: turn it into UTF-8 first (iconv -t utf-8)", at);
        at += step;
    }
    return MARLIN_OK;
}
