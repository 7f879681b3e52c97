#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The quality table: each model quantized by each method at each size, compared with the unquantized model on a text
# that calibration never saw.
#
#     bench/quality.sh [options] MODEL...      a row a run into $OUT/quality.csv, the table into $OUT/quality.md
#
#   --text FILE    evaluated on (default $MARLIN_SHARED/data/text/eval.txt)
#   --calib FILE   calibrated on; "self" = text that the model writes itself (the default)
#   --rows N       rows of 1024 tokens that are evaluated (60)
#   --seeds LIST   of every method that has one, at 2, 3 and 4 bits; other sizes use the first ("0 1 2")
#   --bits LIST    ("2 2.5 3 3.5 4 5 6")
#   --methods LIST ("rtn 3inst mul1 normal high optimize peer")
#   --jobs N       runs at a time (all processors)
#   --threads N    of each run (1); results do not depend on it
#   --out DIR      (bench/results); rows that quality.csv already has are not run again
#
# Methods: rtn = round to nearest, 64 weights a scale; 3inst, mul1 = --format exl3; normal, high, optimize = --format
# marlin; peer = directories made by the public EXL3 converter. Heads have 6 bits everywhere, activations are exact.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build}
shared=${MARLIN_SHARED:-../shared}
text=$shared/data/text/eval.txt calib=self rows=60 seeds="0 1 2" bits="2 2.5 3 3.5 4 5 6"
methods="rtn 3inst mul1 normal high optimize peer" jobs=$(getconf _NPROCESSORS_ONLN) threads=1 out=bench/results

field() { # name, JSON object
    printf '%s' "$2" | sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p"
}

quantize() { # model, method, bits, seed, folder: makes the folder
    local args=(--quiet --threads "$threads" --head-bits 6 --seed "$4" -b "$3")
    [ "$calib" = self ] || args+=(--calib "$calib")
    case $2 in
    rtn)
        mkdir -p "$5" && cp "$1"/*.json "$5"/ && "$build/tools/round_to_nearest" "$1" "$5" "$3" 6
        return
        ;;
    3inst | mul1) args+=(--format exl3 --codebook "$2") ;;
    normal | high) args+=(--effort "$2") ;;
    optimize) args+=(--optimize) ;;
    esac
    "$build/marlin" quantize "$1" -o "$5" "${args[@]}" --json
}

one() { # model, method, bits, seed, peer folder
    local model=$1 method=$2 size=$3 seed=$4 peer=${5:-} dir start made=0 json report='{}'
    dir=$(mktemp -d)
    start=$(date +%s)
    if [ "$method" = peer ]; then
        ln -s "$(realpath "$peer")" "$dir/q"
    elif ! report=$(quantize "$model" "$method" "$size" "$seed" "$dir/q" 2>"$dir/log"); then
        echo "quality: $model $method $size $seed failed: $(tail -n 1 "$dir/log")" >&2
        rm -rf "$dir"
        return 0
    fi
    made=$(($(date +%s) - start))
    json=$("$build/marlin" perplexity "$dir/q" --text "$text" --reference "$model" --max-tokens $((rows * 1024)) --threads "$threads" \
        --exact --quiet --json)
    printf '%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s\n' "$(basename "$model")" "$method${peer:+ $(basename "$peer")}" "$size" "$seed" \
        "$(field bits_per_weight "$report")" "$(field perplexity "$json")" "$(field kld_mean "$json")" "$(field kld_p99 "$json")" \
        "$(field top1_agreement "$json")" "$(field reference_perplexity "$json")" "$made" >>"$out/quality.csv"
    rm -rf "$dir"
}

has() { # start of a row
    grep -qF "$1" "$out/quality.csv"
}

list() { # models: the runs to be made, one a line
    local model name method size seed dir
    for model in "$@"; do
        name=$(basename "$model")
        for method in $methods; do
            if [ "$method" = peer ]; then
                for dir in "$shared"/data/exl3-real/"$([[ $name == *moe* ]] && echo moe || echo dense)"_*; do
                    [ -d "$dir" ] && ! has "$name,peer $(basename "$dir")," && echo "$model|peer|$(basename "$dir" | cut -d_ -f2)|0|$dir"
                done
                continue
            fi
            for size in $bits; do
                [ "$method" = rtn ] && [[ $size == *.* ]] && continue
                for seed in $seeds; do
                    [ "$seed" = "${seeds%% *}" ] || { [ "$method" != rtn ] && [[ $size =~ ^[234](\.0)?$ ]]; } || continue
                    has "$name,$method,$size,$seed," || echo "$model|$method|$size|$seed|"
                done
            done
        done
    done
}

table() { # quality.csv -> Markdown, means over seeds
    echo "| model | bits | method | seeds | bits a weight | perplexity | KL mean | KL p99 | top-1 |"
    echo "|---|---|---|---|---|---|---|---|---|"
    tail -n +2 "$out/quality.csv" | awk -F, '
        { k = $1 "|" $3 "|" $2; n[k]++; b[k] += $5 == "" ? $3 : $5; p[k] += $6; m[k] += $7; q[k] += $8; t[k] += $9 }
        END { for (k in n) { split(k, part, "|")
            printf "| %s | %s | %s | %d | %.3f | %.3f | %.5f | %.4f | %.2f %% |\n", part[1], part[2], part[3], n[k], b[k] / n[k], p[k] / n[k],
                m[k] / n[k], q[k] / n[k], 100 * t[k] / n[k] } }' | sort -t'|' -k2,2 -k3,3n -k8,8nr
}

if [ "${1:-}" = --one ]; then
    text=$QUALITY_TEXT calib=$QUALITY_CALIB rows=$QUALITY_ROWS threads=$QUALITY_THREADS out=$QUALITY_OUT
    IFS='|' read -r model method size seed peer <<<"$2"
    one "$model" "$method" "$size" "$seed" "$peer"
    exit
fi
models=()
while [ $# -gt 0 ]; do
    case $1 in
    --text) text=$2 ;;
    --calib) calib=$2 ;;
    --rows) rows=$2 ;;
    --seeds) seeds=$2 ;;
    --bits) bits=$2 ;;
    --methods) methods=$2 ;;
    --jobs) jobs=$2 ;;
    --threads) threads=$2 ;;
    --out) out=$2 ;;
    --*)
        echo "quality: unknown option $1" >&2
        exit 2
        ;;
    *)
        models+=("$1")
        shift
        continue
        ;;
    esac
    shift 2
done
mkdir -p "$out"
[ -f "$out/quality.csv" ] || echo "model,method,bits,seed,bits_per_weight,perplexity,kld_mean,kld_p99,top1,reference_perplexity,seconds" >"$out/quality.csv"
export BUILD=$build MARLIN_SHARED=$shared QUALITY_TEXT=$text QUALITY_CALIB=$calib QUALITY_ROWS=$rows QUALITY_THREADS=$threads QUALITY_OUT=$out
list "${models[@]}" | xargs -r -P "$jobs" -d '\n' -n 1 "$0" --one
table | tee "$out/quality.md"
