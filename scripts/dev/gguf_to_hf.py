#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A GGUF file of Llama's architecture as a Hugging Face directory in float32: an oracle for marlin's own reader.

    gguf_to_hf.py FILE.gguf OUT

Reads the file with struct and numpy alone and shares no code with the reader in C or with ggml: blocks of Q4_0, Q4_1,
Q5_0, Q5_1, Q8_0, F16, BF16 and F32. Writes model.safetensors, config.json and tokenizer.json (byte-level BPE with the
digits of SmolLM). Then `marlin logits OUT` and `marlin logits FILE.gguf` must agree, and so must `marlin tokenize`.
"""
import json
import pathlib
import struct
import sys

import numpy as np

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, fmt):
        (v,) = struct.unpack_from(fmt, self.data, self.at)
        self.at += struct.calcsize(fmt)
        return v

    def string(self):
        n = self.number("<Q")
        s = bytes(self.data[self.at:self.at + n]).decode()
        self.at += n
        return s

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            item, n = self.number("<I"), self.number("<Q")
            return [self.value(item) for _ in range(n)]
        return self.number(SCALARS[kind])


def blocks(raw, size):
    return np.frombuffer(raw, np.uint8).reshape(-1, size)


def half(b):
    return b.copy().view(np.float16).astype(np.float32)


def nibbles(q):
    return np.concatenate([q & 15, q >> 4], axis=1).astype(np.float32)


def fifth(b):
    bits = b.copy().view(np.uint32)
    return ((bits >> np.arange(32, dtype=np.uint32)) & 1).astype(np.float32) * 16


def widen(kind, raw):
    if kind == 0:
        return np.frombuffer(raw, np.float32)
    if kind == 1:
        return np.frombuffer(raw, np.float16).astype(np.float32)
    if kind == 30:
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    if kind == 2:
        b = blocks(raw, 18)
        return half(b[:, :2]) * (nibbles(b[:, 2:]) - 8)
    if kind == 3:
        b = blocks(raw, 20)
        return half(b[:, :2]) * nibbles(b[:, 4:]) + half(b[:, 2:4])
    if kind == 6:
        b = blocks(raw, 22)
        return half(b[:, :2]) * (nibbles(b[:, 6:]) + fifth(b[:, 2:6]) - 16)
    if kind == 7:
        b = blocks(raw, 24)
        return half(b[:, :2]) * (nibbles(b[:, 8:]) + fifth(b[:, 4:8])) + half(b[:, 2:4])
    if kind == 8:
        b = blocks(raw, 34)
        return half(b[:, :2]) * b[:, 2:].view(np.int8).astype(np.float32)
    sys.exit(f"type {kind} is not known here")


SIZES = {0: (1, 4), 1: (1, 2), 30: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34)}


def read(path):
    r = Reader(memoryview(pathlib.Path(path).read_bytes()))
    assert r.number("<I") == 0x46554747 and r.number("<I") in (2, 3)
    n_tensors, n_values = r.number("<Q"), r.number("<Q")
    meta = {}
    for _ in range(n_values):
        key = r.string()
        meta[key] = r.value(r.number("<I"))
    infos = []
    for _ in range(n_tensors):
        name = r.string()
        ne = [r.number("<Q") for _ in range(r.number("<I"))]
        infos.append((name, ne, r.number("<I"), r.number("<Q")))
    align = meta.get("general.alignment", 32)
    start = -(-r.at // align) * align
    tensors = {}
    for name, ne, kind, offset in infos:
        per, size = SIZES[kind]
        n = int(np.prod(ne)) // per * size
        tensors[name] = widen(kind, bytes(r.data[start + offset:start + offset + n])).reshape(ne[::-1])
    return meta, tensors


def unpair(w, heads):
    """Rows of a head lie as (pair, side) and become (side, pair)."""
    return np.ascontiguousarray(w.reshape(heads, -1, 2, w.shape[-1]).swapaxes(1, 2)).reshape(w.shape)


NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
WHOLE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
         "output.weight": "lm_head.weight"}


def hf_tensors(meta, tensors):
    heads, kv = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
    out = {}
    for name, w in tensors.items():
        if name in WHOLE:
            out[WHOLE[name]] = w
            continue
        _, layer, stem, end = name.split(".")
        if stem in ("attn_q", "attn_k"):
            w = unpair(w, heads if stem == "attn_q" else kv)
        out[f"model.layers.{layer}.{NAMES[stem]}.{end}"] = w
    return out


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, w in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(w.shape), "data_offsets": [at, at + w.nbytes]}
        at += w.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for w in tensors.values():
            f.write(np.ascontiguousarray(w, np.float32).tobytes())


def config(meta, tensors):
    rows = tensors["token_embd.weight"].shape[0]
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": rows,
            "hidden_size": meta["llama.embedding_length"], "intermediate_size": meta["llama.feed_forward_length"],
            "num_hidden_layers": meta["llama.block_count"],
            "num_attention_heads": meta["llama.attention.head_count"],
            "num_key_value_heads": meta["llama.attention.head_count_kv"],
            "max_position_embeddings": meta["llama.context_length"],
            "rms_norm_eps": meta["llama.attention.layer_norm_rms_epsilon"],
            "rope_theta": meta.get("llama.rope.freq_base", 10000.0), "hidden_act": "silu",
            "tie_word_embeddings": "output.weight" not in tensors, "torch_dtype": "float32",
            "bos_token_id": meta["tokenizer.ggml.bos_token_id"], "eos_token_id": meta["tokenizer.ggml.eos_token_id"]}


def tokenizer(meta):
    assert meta["tokenizer.ggml.model"] == "gpt2"
    tokens, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": k == 3} for i, (t, k) in enumerate(zip(tokens, kinds)) if k in (3, 4)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "added_tokens": added, "normalizer": None, "post_processor": None, "decoder": level,
            "pre_tokenizer": {"type": "Sequence",
                              "pretokenizers": [{"type": "Digits", "individual_digits": True}, level]},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False,
                      "vocab": {t: i for i, t in enumerate(tokens)}, "merges": meta["tokenizer.ggml.merges"]}}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    meta, tensors = read(sys.argv[1])
    assert meta["general.architecture"] == "llama"
    out = pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    write_safetensors(out / "model.safetensors", hf_tensors(meta, tensors))
    (out / "config.json").write_text(json.dumps(config(meta, tensors), indent=2))
    (out / "tokenizer.json").write_text(json.dumps(tokenizer(meta), ensure_ascii=False))


if __name__ == "__main__":
    main()
