#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Perplexity of Hugging Face models by transformers in float32 on the CPU, by the rows of `marlin perplexity`.

Rows of --ctx tokens without overlap, every token but a row's first is scored, special tokens written in the text are
parsed, a last short row is dropped. --rows gives row counts to report besides the whole text (0 = all), so that a
quick test can compare the first few rows. Writes tests/golden/perplexity.json.

    pip install torch transformers safetensors numpy
    scripts/dev/reference_perplexity.py --text eval.txt -o tests/golden/perplexity.json MODEL_DIR...
"""
import argparse
import hashlib
import json
import math
import os

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def row_losses(model, ids, ctx):
    """Sum of the negative log likelihoods of each full row, in float64."""
    sums = []
    for start in range(0, len(ids) - ctx + 1, ctx):
        row = torch.tensor([ids[start : start + ctx]])
        with torch.no_grad():
            logits = model(row).logits[0, :-1].double()
        chosen = torch.log_softmax(logits, dim=-1).gather(1, row[0, 1:, None])
        sums.append(-chosen.sum().item())
    return sums


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--text", required=True)
    parser.add_argument("--ctx", type=int, default=1024)
    parser.add_argument("--rows", type=int, nargs="*", default=[8])
    parser.add_argument("-o", "--out", required=True)
    args = parser.parse_args()

    data = open(args.text, "rb").read()
    text = data.decode("utf-8")
    report = {
        "made_by": "scripts/dev/reference_perplexity.py",
        "transformers": transformers.__version__,
        "torch": torch.__version__.split("+")[0],
        "dtype": "float32",
        "ctx": args.ctx,
        "text": os.path.basename(args.text),
        "text_sha256": hashlib.sha256(data).hexdigest(),
        "figures": [],
    }
    for path in args.models:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        sums = row_losses(model, ids, args.ctx)
        for rows in [r for r in args.rows if r < len(sums)] + [len(sums)]:
            tokens = rows * (args.ctx - 1)
            nll = math.fsum(sums[:rows]) / tokens
            report["figures"].append(
                {
                    "model": os.path.basename(os.path.normpath(path)),
                    "rows": rows,
                    "max_tokens": rows * args.ctx,
                    "text_tokens": len(ids),
                    "tokens": tokens,
                    "nll": nll,
                    "perplexity": math.exp(nll),
                }
            )
            print(report["figures"][-1], flush=True)
    with open(args.out, "w", encoding="utf-8") as out:
        json.dump(report, out, indent=2)
        out.write("\n")


if __name__ == "__main__":
    main()
