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
if grep -Eq '"tier":"(avx2|avx512|amx|neon|i8mm)"' "$dir/out"; then fail "a tier above the mask"; fi

"$marlin" kernels --bench convert --json >"$dir/out" 2>"$dir/err" || fail "--bench of a family"
for field in entry variant tier params ns gbps gops bandwidth_fraction compute_fraction; do
    grep -q "\"$field\":" "$dir/out" || fail "field $field is missing"
done
"$marlin" kernels --bench pool --threads 1 >"$dir/out" 2>"$dir/err" || fail "--bench pool"
grep -q '^fork-join of 1 workers: p10 ' "$dir/out" || fail "what a fork-join costs"

# What is used for what, and why: the table of the source, then what is measured here.
export XDG_CACHE_HOME="$dir/cache"
"$marlin" kernels >"$dir/out" 2>"$dir/err" || fail "in short"
[ "$(wc -l <"$dir/out")" -le 40 ] || fail "in short is $(wc -l <"$dir/out") lines"
grep -Eq '^kernels: .*[0-9]+ of tier ' "$dir/out" || fail "tiers in short"
grep -Eq '^  tap4 +gemv +' "$dir/out" || fail "a kind in short"
grep -q -- '--list shows every kernel' "$dir/out" || fail "where more is"
"$marlin" kernels --list >"$dir/out" 2>"$dir/err" || fail "the list"
grep -Eq '^.*, best tier [a-z0-9]+.*, threads [0-9]+, caches of ' "$dir/out" || fail "the machine"
grep -Eq '^  gemv +BF16 +[a-z0-9]+$' "$dir/out" || fail "the tier of a kernel"
grep -Eq '^  tap4 +1  gemv +1  one row' "$dir/out" || fail "a choice and its reason"
grep -q 'table of the source' "$dir/out" || fail "where figures come from"
"$marlin" kernels --list exl3-mul1 --shape 1024x2560 --json >"$dir/out" 2>"$dir/err" || fail "--list --json"
grep -q '"measured":false' "$dir/out" || fail "measured"
grep -q '"n":1024,"k":2560,"choices":\[{"kind":"exl3-mul1-1","batch":1,"path":"gemv"' "$dir/out" || fail "choices"
if grep -q '"kind":"tap4"' "$dir/out"; then fail "another kind"; fi
"$marlin" kernels --tune --threads 1 >"$dir/out" 2>"$dir/err" || fail "--tune"
[ "$(ls "$dir/cache/marlin" | wc -l)" -eq 1 ] || fail "one file"
grep -q "written to $dir/cache/marlin/kernels-" "$dir/err" || fail "the name of the file"
"$marlin" kernels --list --json >"$dir/out" 2>"$dir/err" || fail "--list after --tune"
grep -q '"measured":true' "$dir/out" || fail "not measured"
echo '{' >"$(echo "$dir"/cache/marlin/kernels-*)"
"$marlin" kernels --list --json >"$dir/out" 2>"$dir/err" || fail "--list with a damaged file"
grep -q '"measured":false' "$dir/out" || fail "a damaged file is used"
grep -q "^marlin: warning: .*$dir/cache/marlin/kernels-" "$dir/err" || fail "no warning"

refused --tune tap4
refused --list --tune
refused --shape 12
refused --shape 0x4
refused --shape 12x34x
refused --check fish
refused --bench fish
refused fish
refused --check --bench
echo ok
