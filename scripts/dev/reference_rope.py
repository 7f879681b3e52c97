#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/unit/models/rope_vectors.h: inverse frequencies and attention factors by transformers.

usage: python3 scripts/dev/reference_rope.py > tests/unit/models/rope_vectors.h   (needs transformers and torch)
"""
import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

HEAD = dict(hidden_size=256, num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=1)

# name, head_dim, max_position_embeddings, length, rope_parameters
CASES = [
    ("linear", 64, 4096, 10, dict(rope_type="linear", rope_theta=1e6, factor=8.0)),
    ("llama3_1", 128, 131072, 10, dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
                                       high_freq_factor=4.0, original_max_position_embeddings=8192)),
    ("llama3_2", 64, 131072, 10, dict(rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0,
                                      high_freq_factor=4.0, original_max_position_embeddings=8192)),
    ("yarn", 128, 131072, 10, dict(rope_type="yarn", rope_theta=1e6, factor=4.0,
                                   original_max_position_embeddings=32768)),
    ("yarn_mscale", 64, 163840, 10, dict(rope_type="yarn", rope_theta=10000.0, factor=40.0, beta_fast=32.0, beta_slow=1.0,
                                         mscale=1.0, mscale_all_dim=0.7, original_max_position_embeddings=4096)),
    ("yarn_no_truncate", 64, 131072, 10, dict(rope_type="yarn", rope_theta=150000.0, factor=32.0, beta_fast=32.0,
                                              beta_slow=1.0, truncate=False, original_max_position_embeddings=4096)),
    ("yarn_attention", 64, 8192, 10, dict(rope_type="yarn", rope_theta=10000.0, factor=2.0, attention_factor=0.75,
                                          original_max_position_embeddings=4096)),
    ("dynamic_short", 64, 2048, 2048, dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0)),
    ("dynamic_long", 64, 2048, 5000, dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0)),
    ("longrope_short", 16, 131072, 4096, dict(rope_type="longrope", rope_theta=10000.0, factor=32.0,
                                              original_max_position_embeddings=4096,
                                              short_factor=[1.0, 1.05, 1.1, 1.2, 1.5, 1.75, 2.0, 2.5],
                                              long_factor=[1.0, 1.5, 3.0, 6.0, 12.0, 20.0, 40.0, 64.0])),
    ("longrope_long", 16, 131072, 4097, dict(rope_type="longrope", rope_theta=10000.0, factor=32.0,
                                             original_max_position_embeddings=4096,
                                             short_factor=[1.0, 1.05, 1.1, 1.2, 1.5, 1.75, 2.0, 2.5],
                                             long_factor=[1.0, 1.5, 3.0, 6.0, 12.0, 20.0, 40.0, 64.0])),
    ("partial", 64, 131072, 10, dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
                                     high_freq_factor=4.0, original_max_position_embeddings=8192,
                                     partial_rotary_factor=0.75)),
]


def floats(values):
    return ", ".join(float(v).hex() for v in values)


def main():
    print("/* SPDX-License-Identifier: Apache-2.0\n *\n * Made by scripts/dev/reference_rope.py with transformers "
          f"{transformers.__version__}. Do not edit.\n */")
    print("/* clang-format off */")
    for name, dim, longest, length, rope in CASES:
        config = LlamaConfig(head_dim=dim, max_position_embeddings=longest, rope_parameters=dict(rope), **HEAD)
        inv, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu", seq_len=length)
        print(f"static const float {name}_inv[] = {{{floats(inv)}}};")
        print(f"static const float {name}_scale = (float){float(factor).hex()};")
    print("/* clang-format on */")


main()
