#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Quantized directories of both formats as a user meets them: inspect, verify, logits; flipped bits, files of later
# versions, cut files.
set -eu
marlin=$1 source=$2
exl3=$source/tests/golden/exl3/dense-mul1
plain=$source/tests/golden/fixtures/qwen3_moe
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}
run() { # expected status, verb, arguments: output in $dir/out, $dir/err
    want=$1 rc=0
    shift
    "$marlin" "$@" >"$dir/out" 2>"$dir/err" || rc=$?
    [ "$rc" -eq "$want" ] || fail "status $rc instead of $want: $*: $(cat "$dir/out" "$dir/err")"
}
says() { # a text on stdout or stderr
    cat "$dir/out" "$dir/err" | grep -q -- "$1" || fail "no '$1' in: $(cat "$dir/out" "$dir/err")"
}
flip() { # file, offset: its byte becomes another one
    old=$(od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' ')
    # shellcheck disable=SC2059
    printf "\\$(printf '%03o' $(((old + 64) % 256)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}
ids() { # a safetensors file of four ids
    header='{"input_ids":{"dtype":"I32","shape":[4],"data_offsets":[0,16]}}'
    printf '\110\0\0\0\0\0\0\0%-72s\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0' "$header" >"$1"
}

# ---- EXL3, written by the public converter ----

run 0 inspect "$exl3" --json
says '"bits_per_weight":3,"head_bits":16,"embedding_bits":16,"quant_method":"exl3","quantized_layers":7'
says '"parameters":1580288,' # (384 + 128 + 128 + 384 + 3 * 1024 + 16) * 384 + 1280 of norms
run 0 inspect "$exl3" -v
says 'mlp.up_proj.trellis .* 3 bits'
run 0 verify "$exl3"
cp -R "$exl3" "$dir/exl3"
chmod -R u+w "$dir/exl3"
rm "$dir/exl3/reference.safetensors"
run 0 verify "$dir/exl3" --write
run 0 verify "$dir/exl3"
says ' 2 checksums'
flip "$dir/exl3/model.safetensors" 500000 # inside a trellis, where every bit pattern is a tile
run 1 verify "$dir/exl3"
says 'model.safetensors: checksum'
run 0 inspect "$dir/exl3"

run 1 quantize "$exl3" -o "$dir/no" -b 3
says 'quantized already'

ids "$dir/ids"
run 0 logits "$exl3" --ids "$dir/ids" -o "$dir/exact" --exact
run 0 logits "$exl3" --ids "$dir/ids" -o "$dir/fast"
[ "$(wc -c <"$dir/exact")" -eq "$(wc -c <"$dir/fast")" ] || fail "sizes of logits"
if cmp -s "$dir/exact" "$dir/fast"; then fail "--exact makes no difference"; fi
run 0 logits "$plain" --ids "$dir/ids" -o "$dir/a" --exact
run 0 logits "$plain" --ids "$dir/ids" -o "$dir/b"
cmp "$dir/a" "$dir/b" || fail "--exact changes plain weights"

# ---- ours, written by quantize ----

run 0 quantize "$plain" -o "$dir/ours" -b 3 --calib-tokens 512
run 0 inspect "$dir/ours" --json
says '"bits_per_weight":3,"head_bits":6,'
run 0 verify "$dir/ours"
run 0 logits "$dir/ours" --ids "$dir/ids" -o "$dir/a"
size=$(wc -c <"$dir/ours/model.safetensors")
for at in 9 $((size / 3)) $((size / 2)) $((size - 1)); do
    cp "$dir/ours/model.safetensors" "$dir/kept"
    flip "$dir/ours/model.safetensors" "$at"
    run 1 verify "$dir/ours"
    says 'model.safetensors: checksum'
    cp "$dir/kept" "$dir/ours/model.safetensors"
done
flip "$dir/ours/config.json" 1
run 1 verify "$dir/ours"
says 'config.json: checksum'
flip "$dir/ours/config.json" 1
flip "$dir/ours/config.json" 1
flip "$dir/ours/config.json" 1
run 0 verify "$dir/ours"

cp "$dir/ours/config.json" "$dir/config"
sed 's/"version": *1\b/"version": 2/' "$dir/config" >"$dir/ours/config.json"
run 1 logits "$dir/ours" --ids "$dir/ids" -o "$dir/a"
says 'version 2 of the marlin format'
run 1 verify "$dir/ours"
says 'version 2 of the marlin format'

cp "$dir/config" "$dir/ours/config.json"
head -c $((size - 100)) "$dir/kept" >"$dir/ours/model.safetensors"
run 1 logits "$dir/ours" --ids "$dir/ids" -o "$dir/a"
says 'model.safetensors'

# ---- random weights ----

run 2 bench --bits 3
says '--shape'
run 1 bench --shape qwen3-0.6b --bits 7
says '7 bits'
run 1 bench --shape qwen3-0.6b --bits 9 --format exl3
says '9 bits'
echo passed
