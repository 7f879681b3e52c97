/* SPDX-License-Identifier: Apache-2.0
 *
 * The pre-tokenizers that files name (tokenizer.ggml.pre), in the words of the tokenizer.json that each was made
 * from: a name stands for a tokenizer that was published, with its normalizer. A name whose tokenizer.json we have
 * not got for certain is left out, and is refused: tokens that are nearly right are wrong.
 */
#include "converters/gguf_int.h"

#include <string.h>

#define SPLIT(regex)                                                                                         \
    "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"" regex                                                \
    "\"}, \"behavior\": \"Isolated\", \"invert\": false}, "
#define BYTES(regex)                                                                                         \
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": " regex "}"
#define SEQUENCE(list) "{\"type\": \"Sequence\", \"pretokenizers\": [" list "]}"
#define DIGITS         "{\"type\": \"Digits\", \"individual_digits\": true}, "

/* Contractions, and what follows words in most of them. */
#define ENGLISH "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define BREAKS  "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define WORDS   "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+"
#define MARKS   " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*"
#define SIGNS   " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*"
#define GPT2                                                                                                 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)|\\\\s+"
#define UPPER "[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define LOWER "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
/* Words cut where a capital follows a small letter; `after` may hold a contraction. */
#define CASED(after)                                                                                         \
    "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?" UPPER "*" LOWER "+" after "|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?" UPPER       \
    "+" LOWER "*" after

static const char gpt2[] = BYTES("true");
static const char digits[] = SEQUENCE(DIGITS BYTES("true"));
static const char llama3[] =
    SEQUENCE(SPLIT(ENGLISH "|" WORDS "|\\\\p{N}{1,3}|" MARKS "|" BREAKS) BYTES("false"));
static const char qwen2[] = SEQUENCE(SPLIT(ENGLISH "|" WORDS "|\\\\p{N}|" MARKS "|" BREAKS) BYTES("false"));
static const char tekken[] = SEQUENCE(SPLIT(CASED("") "|\\\\p{N}|" SIGNS "|" BREAKS) BYTES("false"));
static const char gpt4o[] =
    SEQUENCE(SPLIT(CASED(ENGLISH "?") "|\\\\p{N}{1,3}|" SIGNS "|" BREAKS) BYTES("false"));
static const char deepseek_coder[] = SEQUENCE(SPLIT("[\\r\\n]") SPLIT("\\\\s?\\\\p{L}+") SPLIT(
    "\\\\s?\\\\p{P}+") SPLIT("[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+") DIGITS BYTES("false"));
static const char deepseek_v3[] =
    SEQUENCE(SPLIT("\\\\p{N}{1,3}") SPLIT("[\\u4e00-\\u9fa5\\u3040-\\u309f\\u30a0-\\u30ff]+") SPLIT(
        "[!\\\"#$%&'()*+,\\\\-./"
        ":;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\\\p{L}\\\\p{P}\\\\p{S}]?[\\\\p{L}\\\\p{M}]+|"
        " ?[\\\\p{P}\\\\p{S}]+[\\r\\n]*|\\\\s*[\\r\\n]+|\\\\s+(?!\\\\S)|\\\\s+") BYTES("false"));
/* What ggml takes for a file of before there were names. */
static const char unnamed[] = SEQUENCE(SPLIT("[\\\\p{P}\\\\$\\\\+<=>\\\\^~\\\\|]+") SPLIT(GPT2)
                                           SPLIT("\\\\p{N}+") SPLIT("[0-9][0-9][0-9]") BYTES("false"));

static const char none[] = "null", nfc[] = "{\"type\": \"NFC\"}";

static const struct {
    const char *name;
    struct ml_gguf_pre pre;
} known[] = {
    {"default", {none, unnamed, false, false}},
    {"llama-bpe", {none, llama3, true, true}},
    {"llama3", {none, llama3, true, true}},
    {"llama-v3", {none, llama3, true, true}},
    {"falcon3", {none, llama3, true, true}},
    {"dbrx", {none, llama3, false, false}},
    {"smaug-bpe", {none, llama3, false, false}},
    {"qwen2", {nfc, qwen2, false, false}},
    {"deepseek-r1-qwen", {nfc, qwen2, false, false}},
    {"megrez", {nfc, qwen2, false, false}},
    {"stablelm2", {none, qwen2, false, false}},
    {"gpt-2", {none, gpt2, false, false}},
    {"phi-2", {none, gpt2, false, false}},
    {"mpt", {none, gpt2, false, false}},
    {"olmo", {nfc, gpt2, false, false}},
    {"smollm", {none, digits, false, false}},
    {"starcoder", {none, digits, false, false}},
    {"refact", {none, digits, false, false}},
    {"codeshell", {none, digits, false, false}},
    {"command-r", {nfc, digits, false, false}},
    {"tekken", {none, tekken, true, true}},
    {"gpt-4o", {none, gpt4o, false, false}},
    {"deepseek-coder", {none, deepseek_coder, false, false}},
    {"deepseek-v3", {none, deepseek_v3, false, false}},
};

bool ml_gguf_pre_find(const char *name, struct ml_gguf_pre *out) {
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].name, name) != 0) continue;
        *out = known[i].pre;
        return true;
    }
    return false;
}
