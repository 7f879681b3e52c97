#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What this machine does: speeds of every size of weights, alone and in batches, and at depth, next to the machine's own
# limits measured in the same runs.
#
#     bench/machine.sh NAME [options]      rows into bench/results/machines/NAME.csv, the machine's fields first
#
#   --shape S      whose weights, random ones ("qwen3-4b")
#   --bits LIST    in this project's format; 16 = bf16 ("2 3 4 6 8 16")
#   --exl3 LIST    in EXL3 ("4")
#   --deep LIST    bits at which the depths are run too ("4")
#   -p N, -n N     tokens of the prompt and of generation ("512", "16")
#   --batch LIST   ("1,2,4,8")
#   --depth LIST   ("0,4096")
#   --repeat N     (5)
#   --threads N    (0 = one per core)
#   --out DIR      (bench/results/machines)
#
# A run that fails (memory) is named and left out; the table is replaced when all are through. Use an idle machine.
set -euo pipefail
cd "$(dirname "$0")/.."
marlin=${BUILD:-build}/marlin
shape=qwen3-4b bits="2 3 4 6 8 16" exl3=4 deep=4 prompt=512 tokens=16 batch=1,2,4,8 depth=0,4096 repeat=5 threads=0
out=bench/results/machines

usage() {
    sed -n '/^#     bench/,/^# A run/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
    exit 2
}

name=${1:-}
[[ $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || usage
shift
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $1 in
    --shape) shape=$2 ;;
    --bits) bits=$2 ;;
    --exl3) exl3=$2 ;;
    --deep) deep=$2 ;;
    -p) prompt=$2 ;;
    -n) tokens=$2 ;;
    --batch) batch=$2 ;;
    --depth) depth=$2 ;;
    --repeat) repeat=$2 ;;
    --threads) threads=$2 ;;
    --out) out=$2 ;;
    *) usage ;;
    esac
    shift 2
done

field() { # name, JSON object
    printf '%s' "$2" | sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"
}

version=$("$marlin" version --json)
[ "$threads" != 0 ] && workers=$threads || workers=$(field cores "$version")
machine=$name,$(field processor "$version"),$(field tier "$version"),$workers
commit=$(git describe --always --dirty 2>/dev/null || field version "$version")
failed=0
mkdir -p "$out"
rows=$(mktemp "$out/.$name.XXXXXX")
trap 'rm -f "$rows"' EXIT

# bench gives test,batch,depth,tok/s,GB/s,of bandwidth,of compute,weight bytes,read,int8,bf16.
run() { # format, bits, options of bench
    local format=$1 size=$2 csv
    shift 2
    echo "machine: $shape $format $size $*" >&2
    if ! csv=$("$marlin" bench --shape "$shape" --bits "$size" --format "$format" -p "$prompt" -n "$tokens" --repeat "$repeat" \
        --threads "$threads" --quiet --csv "$@"); then
        echo "machine: $format $size $* is left out" >&2
        failed=1
        return 0
    fi
    tail -n +2 <<<"$csv" | awk -F, -v OFS=, -v machine="$machine" -v model="$commit,$shape,$format,$size" \
        '{ print machine, $9, $10, $11, model, $8, $1, $2, $3, $4, $5, $6, $7 }' >>"$rows"
}

echo "machine,processor,tier,threads,read_gbps,int8_gops,bf16_gflops,commit,shape,format,bits,weight_bytes,test,batch,depth,tokens_per_second,gbps,bandwidth_fraction,compute_fraction" >"$rows"
for size in $bits; do
    run marlin "$size" --batch "$batch"
done
for size in $exl3; do
    run exl3 "$size" --batch "$batch"
done
for size in $deep; do
    run marlin "$size" --depth "$depth"
done
[ "$(wc -l <"$rows")" -gt 1 ] || exit 1
chmod 644 "$rows"
mv "$rows" "$out/$name.csv"
echo "machine: $out/$name.csv has $(($(wc -l <"$out/$name.csv") - 1)) rows" >&2
exit $failed
