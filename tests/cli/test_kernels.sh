#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# `marlin kernels` as a user runs it: lists, checks of one family, timing, what is refused.
set -eu
marlin=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
unset MARLIN_CPU_MASK

fail() {
    echo "FAILED: $*" >&2
    cat "$dir/out" "$dir/err" >&2
    exit 1
}
refused() { # arguments...
    rc=0
    "$marlin" kernels "$@" >"$dir/out" 2>"$dir/err" || rc=$?
    [ $rc -eq 2 ] || fail "kernels $* exits $rc, not 2"
    grep -q '^marlin: ' "$dir/err" || fail "kernels $*: no message"
}

"$marlin" kernels --check convert >"$dir/out" 2>"$dir/err" || fail "--check of a family"
grep -Eq '^[1-9][0-9]* cases checked, 0 failed$' "$dir/out" || fail "the total"
grep -Eq 'narrow +BF16 +[0-9]+ cases  ok' "$dir/out" || fail "a row"

"$marlin" kernels --check elementwise --json >"$dir/out" 2>"$dir/err" || fail "--check --json"
[ "$(wc -l <"$dir/out")" -eq 1 ] || fail "one object on one line"
grep -Eq '"checked":[1-9][0-9]*,"failed":\[\]\}$' "$dir/out" || fail "checked and failed[]"
grep -q '"rows":\[{"family":"elementwise","entry":"' "$dir/out" || fail "rows[]"

# Portable C is checked against itself: its memory accesses.
"$marlin" kernels --check convert --cpu-mask generic --json >"$dir/out" 2>"$dir/err" || fail "--cpu-mask generic"
if grep -Eq '"tier":"(avx2|avx512|neon)"' "$dir/out"; then fail "a tier above the mask"; fi

"$marlin" kernels --bench convert --json >"$dir/out" 2>"$dir/err" || fail "--bench of a family"
for field in entry variant tier params ns gbps gops bandwidth_fraction compute_fraction; do
    grep -q "\"$field\":" "$dir/out" || fail "field $field is missing"
done
"$marlin" kernels --bench pool --threads 1 >"$dir/out" 2>"$dir/err" || fail "--bench pool"
grep -q '^fork-join of 1 workers: p10 ' "$dir/out" || fail "what a fork-join costs"

refused --check fish
refused --bench fish
refused fish
refused --check --bench
echo ok
