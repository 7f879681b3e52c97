#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# `marlin logits`: shape of the output, chunks, one by one, named errors. The ids file is written here by hand.
set -eu
marlin=$1 source=$2
model=$source/models/marlin-chat
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# A safetensors file: header length in 8 little-endian bytes, header of 72 bytes, data.
ids_file() {
    header=$(printf '{"input_ids":{"dtype":"I32","shape":[%d],"data_offsets":[0,%d]}}' "$2" "$(($2 * 4))")
    printf '\110\0\0\0\0\0\0\0%-72s' "$header" >"$1"
    # shellcheck disable=SC2059
    printf "$3" >>"$1"
}

ids_file "$dir/ids" 6 '\1\1\0\0\2\1\0\0\3\1\0\0\4\1\0\0\5\1\0\0\6\1\0\0'
"$marlin" logits "$model" --ids "$dir/ids" -o "$dir/all" --json >"$dir/out" 2>"$dir/err" || fail "$(cat "$dir/err")"
grep -q '"tokens":6,"seconds":' "$dir/out" || fail "fields: $(cat "$dir/out")"
head -c 300 "$dir/all" | tr -d '\0' | grep -aq '"shape":\[6,4096\]' || fail "logits [6, 4096] float32"
[ "$(wc -c <"$dir/all")" -ge $((6 * 4096 * 4)) ] || fail "the output is too short"

"$marlin" logits "$model" --ids "$dir/ids" -o "$dir/one" --decode-from 2 >"$dir/out" 2>"$dir/err" || fail "one by one"
"$marlin" logits "$model" --ids "$dir/ids" -o "$dir/chunk" --chunk 4 >"$dir/out" 2>"$dir/err" || fail "chunks"
[ "$(wc -c <"$dir/one")" -eq "$(wc -c <"$dir/all")" ] || fail "same size one by one"
[ "$(wc -c <"$dir/chunk")" -eq "$(wc -c <"$dir/all")" ] || fail "same size in chunks"

# Rotary tables that change at 24 tokens: all 48 are rotated by those of the whole, however they are fed.
for name in phi3_longrope_cross llama_dynamic; do
    fixture=$source/tests/golden/fixtures/$name
    logits() { # output, arguments...
        to=$1
        shift
        "$marlin" logits "$fixture" --ids "$fixture/reference.safetensors" -o "$to" "$@" >"$dir/out" 2>"$dir/err" ||
            fail "$name $*: $(cat "$dir/err")"
    }
    logits "$dir/whole"
    for chunk in 1 7 47; do
        logits "$dir/pieces" --chunk $chunk
        cmp -s "$dir/whole" "$dir/pieces" || fail "$name: other logits $chunk at a time"
    done
    logits "$dir/pieces" --decode-from 16
    cmp -s "$dir/whole" "$dir/pieces" || fail "$name: other logits one by one after 16"
done

ids_file "$dir/bad" 2 '\1\0\0\0\0\0\0\1'
rc=0
"$marlin" logits "$model" --ids "$dir/bad" -o "$dir/no" >"$dir/out" 2>"$dir/err" || rc=$?
[ $rc -ne 0 ] || fail "an id outside the vocabulary must fail"
[ ! -e "$dir/no" ] || fail "no output file after a failure"
rc=0
"$marlin" logits "$model" --ids "$model/model.safetensors" -o "$dir/no" >"$dir/out" 2>"$dir/err" || rc=$?
[ $rc -eq 1 ] || fail "a file without input_ids exits 1, not $rc"
grep -q 'input_ids' "$dir/err" || fail "input_ids is named: $(cat "$dir/err")"
echo ok
