#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# --cache-type: an int8 cache gives the same tokens with any number of threads, nearly the perplexity of a float16 one,
# and is counted with the bytes that it has.
set -eu
marlin=$1 source=$2
model=$source/models/marlin-chat # 6 layers, 2 heads of keys of 64
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() {
    echo "FAILED: $*" >&2
    cat "$dir/err" >&2
    exit 1
}
number() { # field, file: its value
    sed "s/.*\"$1\":\([0-9.e+-]*\).*/\1/" "$2"
}
true_of() { # expression of awk on numbers
    [ "$(awk "BEGIN { print ($1) ? \"yes\" : \"no\" }")" = yes ]
}

# Longer than a chunk of keys, so that one token's keys are shared out over the threads.
cat "$source/CONTRIBUTING.md" "$source/README.md" | head -c 6000 >"$dir/prompt"
run() { # file for the tokens, arguments...
    to=$1
    shift
    "$marlin" run "$model" - --greedy -n 24 --json "$@" <"$dir/prompt" >"$dir/out" 2>"$dir/err" || fail "run $*"
    sed 's/.*"tokens":\(\[[0-9,]*\]\).*/\1/' "$dir/out" >"$to"
}
run "$dir/wanted" --cache-type int8 --threads 1
true_of "$(number prompt_tokens "$dir/out") > 1024" || fail "the prompt is too short for its purpose"
[ "$(tr -cd , <"$dir/wanted" | wc -c)" -ge 8 ] || fail "too few tokens: $(cat "$dir/wanted")"
for threads in 2 5; do
    run "$dir/got" --cache-type int8 --threads $threads
    cmp -s "$dir/wanted" "$dir/got" || fail "$threads threads: $(cat "$dir/got"), one: $(cat "$dir/wanted")"
done
run "$dir/left_out"
run "$dir/f16" --cache-type f16
cmp -s "$dir/left_out" "$dir/f16" || fail "f16 is what run does by itself"

# On a real text int8 costs 0.01 % of perplexity (bench/results/quant-kernels.md); on a short one of the model's own,
# less than 0.2 %.
for seed in 1 2 3 4 5 6 7 8; do
    "$marlin" run "$model" "Once upon a time" -n 600 --seed $seed 2>"$dir/err" || fail "run with seed $seed"
done >"$dir/text"
for type in f32 f16 int8; do
    "$marlin" perplexity "$model" --text "$dir/text" --ctx 512 --max-tokens 4096 --cache-type $type \
        --reference "$model" --json >"$dir/$type" 2>"$dir/err" || fail "perplexity with $type"
done
[ "$(number kld_mean "$dir/f32")" = 0 ] || fail "f32 is the reference: $(cat "$dir/f32")"
half=$(number perplexity "$dir/f16") small=$(number perplexity "$dir/int8")
true_of "$small < 1.002 * $half && $small > 0.998 * $half" || fail "perplexity $small with int8, $half with f16"
kld=$(number kld_mean "$dir/int8")
true_of "$kld > 0 && $kld < 0.002" || fail "divergence $kld with int8"

# Memory: 64 pages of 64 positions; a head's keys and values in a page are padded by a cache line; int8 ones have a
# float32 scale each.
kv() { # type
    "$marlin" inspect "$model" --ctx 4096 --cache-type "$1" --json >"$dir/out" 2>"$dir/err" || fail "inspect $1"
    number kv "$dir/out"
}
heads=$((64 * 6 * 2)) elements=$((64 * 2 * 64))
[ "$(kv f32)" -eq $((heads * (elements * 4 + 64))) ] || fail "float32 cache: $(kv f32)"
[ "$(kv f16)" -eq $((heads * (elements * 2 + 64))) ] || fail "float16 cache: $(kv f16)"
[ "$(kv int8)" -eq $((heads * (elements + 64 * 2 * 4 + 64))) ] || fail "int8 cache: $(kv int8)"

# Bytes of a token at a depth of 600: weights, and 601 rows of every head's keys and values.
for rows in "f16 128" "int8 68"; do
    type=${rows% *} row=${rows#* }
    "$marlin" bench "$model" -p 0 -n 1 --repeat 1 --depth 600 --cache-type "$type" --json >"$dir/out" \
        2>"$dir/err" || fail "bench with $type"
    wanted=$(($(number weight_bytes "$dir/out") + 601 * 2 * 6 * 2 * row))
    got=$(awk "BEGIN { printf \"%.0f\", 1e9 * $(number gbps "$dir/out") / $(number tokens_per_second "$dir/out") }")
    true_of "$got > 0.99999 * $wanted && $got < 1.00001 * $wanted" || fail "$type: $got bytes, not $wanted"
done

for verb in run bench inspect perplexity logits; do
    rc=0
    "$marlin" $verb --cache-type int4 >"$dir/out" 2>"$dir/err" || rc=$?
    [ $rc -eq 2 ] || fail "$verb with an unknown type exits $rc, not 2"
    grep -q 'cache-type' "$dir/err" && grep -q 'f32|f16|int8' "$dir/err" || fail "$verb: the types are not named"
done
echo ok
