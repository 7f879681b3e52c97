#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rows of src/kernels/selection_table.c from files that `marlin kernels --tune` wrote: the median of each figure.

    XDG_CACHE_HOME=DIR1 marlin kernels --tune --threads 1 --cpu-mask TIER        three times, a DIR each
    bench/selection_table.py DIR1/marlin/*.json DIR2/marlin/*.json ..
"""
import json
import statistics
import sys


def main(paths):
    files = [json.load(open(path, encoding="utf-8")) for path in paths]
    tiers = {f["machine"]["tier"] for f in files}
    if len(tiers) != 1:
        sys.exit(f"{len(files)} files of {len(tiers)} tiers: files of one tier are wanted")
    rows = {}
    for kind in files[0]["cost"]:
        middle = [statistics.median(figures) for figures in zip(*(f["cost"][kind] for f in files))]
        rows[kind] = "{" + ", ".join(f"{v:.3g}" for v in middle) + "},"
    width = max(map(len, rows.values()))
    print(f"static const float {tiers.pop()}[ML_KINDS][FIGURES] = {{")
    for kind, row in rows.items():
        print(f"    {row.ljust(width)} /* {kind} */")
    print("};")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
