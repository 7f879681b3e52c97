#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fuzz/corpus/gguf: small GGUF files, whole and broken in one place each.

usage: python3 scripts/dev/gguf_corpus.py OUT
"""
import pathlib
import struct
import sys


def text(s):
    s = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(s)) + s


def u32(key, v):
    return text(key) + struct.pack("<II", 4, v)


def f32(key, v):
    return text(key) + struct.pack("<If", 6, v)


def string(key, v):
    return text(key) + struct.pack("<I", 8) + text(v)


def array(key, kind, items, count=None):
    body = b"".join(text(i) if kind == 8 else struct.pack("<i" if kind == 5 else "<f", i) for i in items)
    return text(key) + struct.pack("<IIQ", 9, kind, len(items) if count is None else count) + body


def tensor(name, ne, kind, offset):
    return text(name) + struct.pack("<I", len(ne)) + struct.pack(f"<{len(ne)}Q", *ne) + struct.pack("<IQ", kind, offset)


def whole(values, tensors=(), data=0, version=3, n_values=None, n_tensors=None):
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors) if n_tensors is None else n_tensors,
                                 len(values) if n_values is None else n_values)
    b = head + b"".join(values) + b"".join(tensors)
    return b + b"\0" * (-len(b) % 32) + bytes(i % 251 for i in range(data))


def config(arch, **more):
    keys = {"block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 32,
            "attention.head_count": 4, "attention.head_count_kv": 2, **more}
    return [string("general.architecture", arch), f32(f"{arch}.attention.layer_norm_rms_epsilon", 1e-5)] + [
        u32(f"{arch}.{k}", v) for k, v in keys.items()]


BPE = [string("tokenizer.ggml.model", "gpt2"), string("tokenizer.ggml.pre", "smollm"),
       array("tokenizer.ggml.tokens", 8, ["<|im_end|>", "a", "b", "ab", "[PAD]"]),
       array("tokenizer.ggml.token_type", 5, [3, 1, 1, 1, 5]), array("tokenizer.ggml.merges", 8, ["a b"]),
       u32("tokenizer.ggml.bos_token_id", 0), string("tokenizer.chat_template", "{{ messages }}")]
SPM = [string("tokenizer.ggml.model", "llama"), array("tokenizer.ggml.tokens", 8, ["<unk>", "<s>", "\u2581", "a", "\u2581a"]),
       array("tokenizer.ggml.scores", 6, [0, 0, -1, -2, -3]), array("tokenizer.ggml.token_type", 5, [2, 3, 1, 1, 1])]
EMBEDDING = [tensor("token_embd.weight", [32, 8], 0, 0)]


def files():
    yield "empty", b""
    yield "no-values", whole([])
    yield "llama-bpe", whole(config("llama") + BPE, EMBEDDING, 1024)
    yield "gemma-spm", whole(config("gemma3", **{"attention.sliding_window": 8}) + SPM, EMBEDDING, 1024)
    yield "moe", whole(config("qwen3moe", expert_count=2, expert_used_count=1, expert_feed_forward_length=32), EMBEDDING, 1024)
    yield "version-2", whole(config("qwen2"), EMBEDDING, 1024, version=2)
    yield "version-1", whole([], version=1)
    yield "big-endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0)
    yield "magic", b"GGML" + struct.pack("<IQQ", 3, 0, 0)
    yield "many-values", whole([], n_values=1 << 40)
    yield "many-tensors", whole([], n_tensors=(1 << 64) - 1)
    yield "duplicate-key", whole([u32("k", 1), u32("k", 2)])
    yield "string-lies", whole([text("k") + struct.pack("<IQ", 8, 1 << 62)])
    yield "array-lies", whole([array("k", 5, [1], 1 << 62)])
    yield "strings-lie", whole([array("k", 8, ["a"], 1 << 62)])
    yield "array-of-arrays", whole([text("k") + struct.pack("<IIQIQ", 9, 9, 1, 5, 0)])
    yield "kind", whole([text("k") + struct.pack("<II", 77, 0)])
    yield "alignment-0", whole([u32("general.alignment", 0)])
    yield "alignment-3", whole([u32("general.alignment", 48)])
    yield "alignment-huge", whole([u32("general.alignment", 1 << 31)], EMBEDDING, 1024)
    yield "type", whole([], [tensor("t", [32], 99, 0)], 64)
    yield "iq2", whole([], [tensor("t", [256], 16, 0)], 128)
    yield "rank", whole([], [tensor("t", [1] * 5, 0, 0)], 64)
    yield "overflow", whole([], [tensor("t", [1 << 32, 1 << 32], 0, 0)], 64)
    yield "block", whole([], [tensor("t", [33], 2, 0)], 64)
    yield "unaligned", whole([], [tensor("t", [4], 0, 4)], 64)
    yield "overlap", whole([], [tensor("a", [16], 0, 0), tensor("b", [16], 0, 32)], 128)
    yield "duplicate-tensor", whole([], [tensor("a", [8], 0, 0), tensor("a", [8], 0, 32)], 64)
    yield "truncated", whole([], [tensor("a", [1024], 0, 0)], 64)
    yield "token-type", whole(config("llama") + BPE[:3] + [array("tokenizer.ggml.token_type", 5, [9] * 5)] + BPE[4:], EMBEDDING, 1024)
    yield "token-utf8", whole(BPE[:2] + [array("tokenizer.ggml.tokens", 8, [b"\xff", b"\xc3"]), BPE[4]])
    yield "layers-differ", whole(config("llama")[:-1] + [array("llama.attention.head_count_kv", 5, [2, 4])], EMBEDDING, 1024)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, data in files():
        (pathlib.Path(sys.argv[1]) / f"{name}.gguf").write_bytes(data)


if __name__ == "__main__":
    main()
