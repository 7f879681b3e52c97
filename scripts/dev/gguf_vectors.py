#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/unit/converters/gguf_vectors.h: random blocks of each type, widened by the gguf package's numpy code.

usage: python3 scripts/dev/gguf_vectors.py > tests/unit/converters/gguf_vectors.h   (needs gguf and numpy)
"""
import gguf
import numpy as np
from gguf.quants import dequantize

TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"]
# Where a block's float16 scales stand: random bytes there would mostly be of no use.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": []}


def rows(values, per, form):
    for i in range(0, len(values), per):
        yield "     " + " ".join(form(v) + "," for v in values[i:i + per])


def main():
    rng = np.random.default_rng(7)
    print("/* SPDX-License-Identifier: Apache-2.0\n *\n * Made by scripts/dev/gguf_vectors.py: one block of each type, and "
          "what the gguf package makes of it.\n */")
    print("/* clang-format off */")
    print("static const struct vector {\n    const char *type;\n    unsigned bytes, count;\n    uint8_t block[216];\n"
          "    float want[256];\n} vectors[] = {")
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        count, size = gguf.GGML_QUANT_SIZES[kind]
        block = rng.integers(0, 256, size, dtype=np.uint8)
        for at in HALVES[name]:
            block[at:at + 2] = np.frombuffer(np.float16(rng.uniform(-0.1, 0.1)).tobytes(), np.uint8)
        if name == "MXFP4":
            block[0] = 123
        want = dequantize(block.reshape(1, -1), kind).reshape(-1).astype(np.float32)
        print(f'    {{"{name}", {size}, {count}, {{')
        print("\n".join(rows(block, 20, str)))
        print("    }, {")
        print("\n".join(rows(want, 6, lambda v: float(v).hex() + "f")))
        print("    }},")
    print("};")


if __name__ == "__main__":
    main()
