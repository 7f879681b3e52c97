#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# `marlin bench` as a user runs it, on the embedded model and few tokens: fields, tables, refusals. Speeds are not
# judged here.
set -eu
marlin=$1 source=$2
model=$source/models/marlin-12m
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
unset MARLIN_CPU_MASK

fail() {
    echo "FAILED: $*" >&2
    cat "$dir/out" "$dir/err" >&2
    exit 1
}
refused() { # status, text in the message, arguments...
    wanted=$1 text=$2 rc=0
    shift 2
    "$marlin" bench "$@" >"$dir/out" 2>"$dir/err" || rc=$?
    [ $rc -eq "$wanted" ] || fail "bench $* exits $rc, not $wanted"
    grep -q -- "$text" "$dir/err" || fail "bench $*: the message lacks '$text'"
}

"$marlin" bench "$model" -p 16 -n 4 --repeat 2 --json >"$dir/out" 2>"$dir/err" || fail "bench --json"
[ "$(wc -l <"$dir/out")" -eq 1 ] || fail "one object on one line"
grep -Eq '^\{"machine":\{"read_gbps":[0-9.e+]+,"int8_gops":([0-9.e+]+|null),"bf16_gflops":[0-9.e+]+\},"runs":\[' \
    "$dir/out" || fail "machine{read_gbps,int8_gops,bf16_gflops}"
for test in pp16 tg4; do
    grep -Eq "\"test\":\"$test\",\"batch\":1,\"tokens_per_second\":[0-9.e+]+,\"gbps\":[0-9.e+-]+,\"bandwidth_fraction\":[0-9.e+-]+,\"compute_fraction\":[0-9.e+-]+,\"weight_bytes\":[0-9]+" \
        "$dir/out" || fail "the row of $test"
done

"$marlin" bench "$model" -p 0 -n 2 --repeat 1 --csv >"$dir/out" 2>"$dir/err" || fail "bench --csv"
head -n 1 "$dir/out" | grep -q '^test,batch,tokens_per_second,gbps,bandwidth_fraction,compute_fraction$' || fail "header of the csv"
[ "$(wc -l <"$dir/out")" -eq 2 ] || fail "-p 0 leaves the prompt test out"
"$marlin" bench "$model" -p 4 -n 0 --repeat 1 --markdown >"$dir/out" 2>"$dir/err" || fail "bench --markdown"
grep -q '^| pp4 | 1 | ' "$dir/out" || fail "row of the Markdown table"

refused 2 "nothing to measure" "$model" -p 0 -n 0
refused 2 "not both" "$model" --shape qwen3-0.6b
refused 2 "shape" --shape qwen3-7000b
refused 2 "repeat" "$model" --repeat 0
refused 1 "$dir/absent" "$dir/absent"
echo ok
