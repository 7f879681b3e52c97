#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Cuts the first layer of an EXL3 directory, and the public engine's outputs for it, into a golden test.

SRC is a directory that exllamav3's converter wrote, with reference_states64.safetensors (hidden states after every
layer) and reference_linears.safetensors (inputs and outputs of single layers). OUT gets a model of one layer and
16 vocabulary entries, and reference.safetensors, with 16 rows of each input and output.

    scripts/dev/exl3_golden.py SRC tests/golden/exl3/NAME
"""
import json
import os
import struct
import sys

ROWS = 16
LAYER = "model.layers.0."


def read(path):
    with open(path, "rb") as f:
        data = f.read()
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n])
    header.pop("__metadata__", None)
    body = data[8 + n :]
    return {k: (v["dtype"], v["shape"], body[slice(*v["data_offsets"])]) for k, v in header.items()}


def write(path, tensors):
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 64 + 56)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            f.write(data)


def main():
    src, out = sys.argv[1:3]
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(src, "config.json")) as f:
        config = json.load(f)
    config.update(num_hidden_layers=1, vocab_size=ROWS)
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][:1]
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")

    model = read(os.path.join(src, "model.safetensors"))
    dtype, shape, data = model["model.embed_tokens.weight"]
    kept = {"model.embed_tokens.weight": (dtype, [ROWS, shape[1]], data[: len(data) // shape[0] * ROWS])}
    kept.update((k, v) for k, v in model.items() if k.startswith(LAYER) or k == "model.norm.weight")
    write(os.path.join(out, "model.safetensors"), kept)

    states = read(os.path.join(src, "reference_states64.safetensors"))
    linears = read(os.path.join(src, "reference_linears.safetensors"))
    reference = {"before": states["after.model.embed_tokens"], "after": states["after.model.layers.0"]}
    for name, (dtype, shape, data) in sorted(linears.items()):
        if name.startswith(LAYER) and name.endswith((".x64", ".y64f_int8mode0")):
            name = name.replace(".x64", ".x%d" % ROWS).replace(".y64f", ".y%df" % ROWS)
            reference[name] = (dtype, [ROWS, shape[1]], data[: len(data) // shape[0] * ROWS])
    write(os.path.join(out, "reference.safetensors"), reference)


main()
