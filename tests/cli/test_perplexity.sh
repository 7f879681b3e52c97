#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# `marlin perplexity`: fields, rows, standard input, a model against itself, too little text.
set -eu
marlin=$1 source=$2
model=$source/models/marlin-chat
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

cat "$source/README.md" "$source/CONTRIBUTING.md" >"$dir/text"
"$marlin" perplexity "$model" --text "$dir/text" --ctx 64 --max-tokens 300 --json >"$dir/a" 2>"$dir/err" ||
    fail "perplexity: $(cat "$dir/err")"
for field in perplexity nll tokens rows; do
    grep -q "\"$field\":" "$dir/a" || fail "field $field is missing: $(cat "$dir/a")"
done
grep -q '"tokens":252,"rows":4[,}]' "$dir/a" || fail "300 tokens are 4 rows of 64: $(cat "$dir/a")"
"$marlin" perplexity "$model" --text - --ctx 64 --max-tokens 300 --json <"$dir/text" >"$dir/b" 2>"$dir/err" ||
    fail "standard input"
[ "$(sed 's/"seconds":[^,}]*//' "$dir/a")" = "$(sed 's/"seconds":[^,}]*//' "$dir/b")" ] || fail "stdin differs"

"$marlin" perplexity "$model" --text "$dir/text" --ctx 64 --max-tokens 300 --reference "$model" --json >"$dir/c" \
    2>"$dir/err" || fail "reference: $(cat "$dir/err")"
for field in kld_mean kld_median kld_p99 top1_agreement reference_perplexity; do
    grep -q "\"$field\":" "$dir/c" || fail "field $field is missing: $(cat "$dir/c")"
done
grep -q '"top1_agreement":1[,}.]' "$dir/c" || fail "a model agrees with itself: $(cat "$dir/c")"

rc=0
echo hello | "$marlin" perplexity "$model" --text - >"$dir/out" 2>"$dir/err" || rc=$?
[ $rc -ne 0 ] || fail "too little text must fail"
grep -q '^marlin: perplexity: the text has .* fewer than one row of 1024' "$dir/err" || fail "$(cat "$dir/err")"
rc=0
"$marlin" perplexity "$model" >"$dir/out" 2>"$dir/err" || rc=$?
[ $rc -eq 2 ] || fail "no --text exits 2, not $rc"
echo ok
