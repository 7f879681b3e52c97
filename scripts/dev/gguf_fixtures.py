#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hugging Face directories as GGUF files, with names, keys and writer of the gguf package (pip install gguf).

    gguf_fixtures.py make MARLIN OUT           writes tests/golden/gguf: a tiny random model of each architecture as
                                               NAME.gguf, and NAME.f32, the logits that MARLIN gives for the directory
                                               that it was made from
    gguf_fixtures.py check MARLIN DIR...       converts directories that hold reference.safetensors (input_ids, logits by
                                               transformers) and prints how far MARLIN's logits of the file are from them
    gguf_fixtures.py convert DIR OUT.gguf
    gguf_fixtures.py tokenizer TOKENIZER.json PRE OUT.gguf    a byte-level BPE tokenizer alone; PRE is its name for ggml

The changes that a converter makes are those of ggml's: rows of q and k paired where the architecture rotates neighbours,
1 added to Gemma's norms, experts stacked, Llama 3's rope as factors.
"""
import json
import math
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

import gguf
import numpy as np

ARCHS = {"llama": "LLAMA", "mistral": "LLAMA", "mixtral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3",
         "qwen3_moe": "QWEN3MOE", "phi3": "PHI3", "olmo2": "OLMO2", "smollm3": "SMOLLM3", "gemma2": "GEMMA2",
         "gemma3_text": "GEMMA3"}
PAIRED = {"llama", "mistral", "mixtral", "smollm3"}


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    (n,) = struct.unpack_from("<Q", data)
    out = {}
    for name, t in json.loads(data[8:8 + n]).items():
        if name == "__metadata__":
            continue
        raw = data[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]]
        if t["dtype"] == "BF16":
            a = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            a = np.frombuffer(raw, {"F32": np.float32, "I64": np.int64, "I32": np.int32}[t["dtype"]])
        out[name] = a.reshape(t["shape"])
    return out


def bf16(a):
    u = np.ascontiguousarray(a, np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)


def write_safetensors(path, tensors):
    header, parts, at = {}, [], 0
    for name, a in tensors.items():
        kind, raw = ("I32", a.tobytes()) if a.dtype == np.int32 else ("BF16", bf16(a).tobytes())
        header[name] = {"dtype": kind, "shape": list(a.shape), "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def pair(w, heads):
    """A head's rows (side, pair) become (pair, side)."""
    return w.reshape(heads, 2, -1, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def stack_experts(tensors):
    out, experts = {}, {}
    for name, w in tensors.items():
        m = re.fullmatch(r"model\.layers\.(\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight", name)
        if not m:
            out[name] = w
            continue
        layer, number, part = int(m[1]), int(m[2]), m[3]
        stem = "layers.%d.feed_forward.experts.%s" if part[0] == "w" else "model.layers.%d.mlp.experts.%s"
        experts.setdefault(stem % (layer, part) + ".weight", {})[number] = w
    for name, by_number in experts.items():
        out[name] = np.stack([by_number[i] for i in range(len(by_number))])
    return out


def split_fused(tensors):
    """Experts that transformers 5 holds in one tensor."""
    out = {}
    for name, w in tensors.items():
        stem = name.rsplit(".", 1)[0]
        if name.endswith("experts.gate_up_proj"):
            half = w.shape[1] // 2
            for e in range(w.shape[0]):
                out[f"{stem}.{e}.gate_proj.weight"], out[f"{stem}.{e}.up_proj.weight"] = w[e, :half], w[e, half:]
        elif name.endswith("experts.down_proj"):
            for e in range(w.shape[0]):
                out[f"{stem}.{e}.down_proj.weight"] = w[e]
        else:
            out[name] = w
    return out


def llama3_factors(rope, dim):
    freqs = 1 / rope["rope_theta"] ** (np.arange(0, dim, 2, dtype=np.float32) / dim)
    original, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    out = []
    for f in freqs:
        wave = 2 * math.pi / float(f)
        if wave < original / high:
            out.append(1)
        elif wave > original / low:
            out.append(rope["factor"])
        else:
            smooth = (original / wave - low) / (high - low)
            out.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(out, np.float32)


def add_rope(w, c, dim):
    rope = c.get("rope_parameters") or {}
    if "full_attention" in rope:
        rope = rope["full_attention"]
    rope = {"rope_theta": c.get("rope_theta", 10000.0), **rope}
    w.add_rope_freq_base(rope["rope_theta"])
    rotary = int(dim * rope.get("partial_rotary_factor", 1.0))
    w.add_rope_dimension_count(rotary)
    kind = rope.get("rope_type", "default")
    if kind == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(rope, dim))
    elif kind == "longrope":
        original = rope["original_max_position_embeddings"]
        scale = c["max_position_embeddings"] / original
        w.add_rope_scaling_attn_factors(1.0 if scale <= 1 else math.sqrt(1 + math.log(scale) / math.log(original)))
        w.add_rope_scaling_orig_ctx_len(original)
        w.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))
        w.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))
    elif kind == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(rope["factor"])
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    elif kind == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])


def add_metadata(w, c, family):
    heads = c["num_attention_heads"]
    dim = c.get("head_dim") or c["hidden_size"] // heads
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(c.get("num_key_value_heads") or heads)
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_key_length(dim)
    w.add_value_length(dim)
    experts = c.get("num_local_experts") or c.get("num_experts")
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(c["num_experts_per_tok"])
    if family == "qwen3_moe":
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    if c.get("sliding_window") and family in ("mistral", "gemma2", "gemma3_text", "phi3"):
        w.add_sliding_window(c["sliding_window"])
    if family == "gemma3_text" and c.get("layer_types"):
        w.add_array("gemma3.attention.sliding_window_pattern", [t == "sliding_attention" for t in c["layer_types"]])
    if family == "gemma2":
        w.add_attn_logit_softcapping(c.get("attn_logit_softcapping", 50.0))
        w.add_final_logit_softcapping(c.get("final_logit_softcapping", 30.0))
    return dim


def convert(directory, out):
    directory = pathlib.Path(directory)
    c = json.loads((directory / "config.json").read_text())
    family = c["model_type"]
    arch = getattr(gguf.MODEL_ARCH, ARCHS[family])
    w = gguf.GGUFWriter(str(out), gguf.MODEL_ARCH_NAMES[arch])
    dim = add_metadata(w, c, family)
    add_rope(w, c, dim)
    names = gguf.get_tensor_name_map(arch, c["num_hidden_layers"])
    heads = {"q_proj": c["num_attention_heads"], "k_proj": c.get("num_key_value_heads") or c["num_attention_heads"]}
    for name, a in stack_experts(split_fused(read_safetensors(directory / "model.safetensors"))).items():
        if family in PAIRED and name.split(".")[-2] in heads:
            a = pair(a, heads[name.split(".")[-2]])
        if family.startswith("gemma") and name.endswith("norm.weight"):
            a = a + 1
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if not new:
            sys.exit(f"{directory}: no name for {name}")
        if a.ndim == 1:
            w.add_tensor(new, np.ascontiguousarray(a, np.float32))
        else:
            w.add_tensor(new, bf16(a).view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def logits(marlin, model, ids, where):
    write_safetensors(where / "ids", {"input_ids": np.asarray(ids, np.int32)})
    subprocess.run([marlin, "logits", str(model), "--ids", str(where / "ids"), "-o", str(where / "logits"), "--quiet"],
                   check=True, stdout=subprocess.DEVNULL)
    return read_safetensors(where / "logits")["logits"]


BASE = dict(vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=512, rms_norm_eps=1e-5, hidden_act="silu",
            rope_theta=10000.0, tie_word_embeddings=False)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
LONG = dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=12, partial_rotary_factor=0.75,
            short_factor=[1.0, 1.1, 1.3], long_factor=[1.5, 3.0, 6.0])
YARN = dict(rope_type="yarn", rope_theta=1e6, factor=4.0, original_max_position_embeddings=128)
MOE = dict(num_experts_per_tok=2, intermediate_size=32)
GEMMA = dict(hidden_activation="gelu_pytorch_tanh", sliding_window=8, query_pre_attn_scalar=8, tie_word_embeddings=True)
MODELS = {
    "llama": dict(model_type="llama", rope_parameters=LLAMA3),
    "llama_bias": dict(model_type="llama", attention_bias=True, mlp_bias=True, num_key_value_heads=4),
    "mistral": dict(model_type="mistral", sliding_window=8),
    "mixtral": dict(model_type="mixtral", num_local_experts=3, sliding_window=None, **MOE),
    "qwen2": dict(model_type="qwen2", tie_word_embeddings=True),
    "qwen3": dict(model_type="qwen3", rope_parameters=YARN),
    "qwen3_moe": dict(model_type="qwen3_moe", num_experts=3, moe_intermediate_size=32, norm_topk_prob=True, **MOE),
    "phi3": dict(model_type="phi3", rope_parameters=LONG, original_max_position_embeddings=12, sliding_window=None),
    "olmo2": dict(model_type="olmo2"),
    "smollm3": dict(model_type="smollm3", num_hidden_layers=4, intermediate_size=32, tie_word_embeddings=True,
                    no_rope_layers=[1, 1, 1, 0]),
    "gemma2": dict(model_type="gemma2", attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
                   layer_types=["sliding_attention", "full_attention"], **GEMMA),
    "gemma3": dict(model_type="gemma3_text", num_hidden_layers=3, rope_local_base_freq=10000.0,
                   layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                   **{**GEMMA, "intermediate_size": 32}),
}
TEXT_LENGTH = 24


def shapes(c):
    h, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    n, inner, family = c["hidden_size"], c["intermediate_size"], c["model_type"]
    yield "model.embed_tokens.weight", (c["vocab_size"], n)
    yield "model.norm.weight", (n,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (c["vocab_size"], n)
    bias = family == "qwen2" or c.get("attention_bias")
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        if family == "phi3":
            yield p + "self_attn.qkv_proj.weight", (h + 2 * kv, n)
        else:
            for part, rows in (("q", h), ("k", kv), ("v", kv)):
                yield p + f"self_attn.{part}_proj.weight", (rows, n)
                if bias:
                    yield p + f"self_attn.{part}_proj.bias", (rows,)
        yield p + "self_attn.o_proj.weight", (n, h)
        if c.get("attention_bias"):
            yield p + "self_attn.o_proj.bias", (n,)
        if family in ("qwen3", "qwen3_moe", "gemma3_text", "olmo2"):
            whole = family == "olmo2"
            yield p + "self_attn.q_norm.weight", (h if whole else c["head_dim"],)
            yield p + "self_attn.k_norm.weight", (kv if whole else c["head_dim"],)
        if family != "olmo2":
            yield p + "input_layernorm.weight", (n,)
        yield p + "post_attention_layernorm.weight", (n,)
        if family.startswith("gemma"):
            yield p + "pre_feedforward_layernorm.weight", (n,)
        if family.startswith("gemma") or family == "olmo2":
            yield p + "post_feedforward_layernorm.weight", (n,)
        if family in ("mixtral", "qwen3_moe"):
            block, gate, up, down = (("block_sparse_moe", "w1", "w3", "w2") if family == "mixtral" else
                                     ("mlp", "gate_proj", "up_proj", "down_proj"))
            experts = c.get("num_local_experts") or c["num_experts"]
            yield p + block + ".gate.weight", (experts, n)
            for e in range(experts):
                yield p + f"{block}.experts.{e}.{gate}.weight", (inner, n)
                yield p + f"{block}.experts.{e}.{up}.weight", (inner, n)
                yield p + f"{block}.experts.{e}.{down}.weight", (n, inner)
        elif family == "phi3":
            yield p + "mlp.gate_up_proj.weight", (2 * inner, n)
            yield p + "mlp.down_proj.weight", (n, inner)
        else:
            for part, shape in (("gate", (inner, n)), ("up", (inner, n)), ("down", (n, inner))):
                yield p + f"mlp.{part}_proj.weight", shape
                if c.get("mlp_bias"):
                    yield p + f"mlp.{part}_proj.bias", (shape[0],)


def make(marlin, out):
    rng = np.random.default_rng(20261129)
    ids = [(7 * i + 3) % 48 for i in range(TEXT_LENGTH)]
    for name, changes in MODELS.items():
        c = {**BASE, **changes}
        with tempfile.TemporaryDirectory() as tmp:
            d = pathlib.Path(tmp)
            (d / "config.json").write_text(json.dumps(c))
            norm = 0.0 if c["model_type"].startswith("gemma") else 1.0
            tensors = {n: (norm + 0.2 * rng.standard_normal(s)) if n.endswith("norm.weight") else
                       rng.standard_normal(s) * (0.2 if len(s) == 2 else 0.3) for n, s in shapes(c)}
            write_safetensors(d / "model.safetensors", tensors)
            convert(d, out / f"{name}.gguf")
            logits(marlin, d, ids, d).tofile(out / f"{name}.f32")


def check(marlin, directories):
    for directory in map(pathlib.Path, directories):
        ref = read_safetensors(directory / "reference.safetensors")
        with tempfile.TemporaryDirectory() as tmp:
            d = pathlib.Path(tmp)
            convert(directory, d / "model.gguf")
            got = logits(marlin, d / "model.gguf", ref["input_ids"].reshape(-1), d)
        worst = np.abs(got - ref["logits"].reshape(got.shape)).max()
        print(f"{directory.name:24} {worst:.2e}{'' if worst < 2e-3 else '  TOO FAR'}")


def tokenizer(path, pre, out):
    j = json.loads(pathlib.Path(path).read_text())
    vocab, added = j["model"]["vocab"], j["added_tokens"]
    size = max([*vocab.values(), *(a["id"] for a in added)]) + 1
    tokens, kinds = [f"[PAD{i}]" for i in range(size)], [gguf.TokenType.UNUSED] * size
    for text, i in vocab.items():
        tokens[i], kinds[i] = text, gguf.TokenType.NORMAL
    for a in added:
        tokens[a["id"]] = a["content"]
        kinds[a["id"]] = gguf.TokenType.CONTROL if a["special"] else gguf.TokenType.USER_DEFINED
    w = gguf.GGUFWriter(out, "llama")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in j["model"]["merges"]])
    w.add_bos_token_id(0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    if sys.argv[1] == "make":
        make(sys.argv[2], pathlib.Path(sys.argv[3]))
    elif sys.argv[1] == "check":
        check(sys.argv[2], sys.argv[3:])
    elif sys.argv[1] == "tokenizer":
        tokenizer(*sys.argv[2:5])
    else:
        convert(sys.argv[2], sys.argv[3])


if __name__ == "__main__":
    main()
