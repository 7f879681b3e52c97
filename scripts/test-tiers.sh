#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# scripts/test-tiers.sh BUILD   The lower x86 tiers of a finished build: processors of qemu-user that have no more than
# the tier run the kernel tests and the program (an instruction above the tier is a SIGILL there), and a mask on this
# machine gives what such a processor gives. Under emulation the kernel check runs every 13th case of each entry, type
# and width of codes, and at least one of each (the emulator takes a hundred times as long); all of the cases run on
# this machine under the mask. Prints why it skips.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:?usage: scripts/test-tiers.sh BUILD}
marlin=$build/marlin
export MARLIN_MODEL=$PWD/models/marlin-chat
unset MARLIN_CPU_MASK
failed=0

case $(uname -m) in
x86_64 | amd64) ;;
*)
    echo "skipped: this machine is not an x86-64"
    exit 0
    ;;
esac
command -v qemu-x86_64 >/dev/null || {
    echo "skipped: qemu-x86_64 is not installed (scripts/setup test)"
    exit 0
}

fail() {
    echo "FAILED: $*" >&2
    failed=1
}

# qemu names on stderr the features of a processor that it cannot emulate; everything else there is ours. The filter is
# part of a pipeline, so that all of it is written when `on` returns; a process substitution would not be waited for.
# The status is qemu's, since the filter's own is always 0.
on() { # processor, command...
    local cpu=$1
    shift
    {
        qemu-x86_64 -cpu "$cpu" "$@" 2>&1 >&3 3>&- |
            { grep -v "^qemu-x86_64: warning: TCG doesn't support" >&2 || :; }
    } 3>&1
}

tokens() { sed 's/.*"tokens":\(\[[0-9,]*\]\).*/\1/'; }
generate=("$marlin" run --greedy -n 8 --json "The sea was")
native=$("${generate[@]}" | tokens)

check_tier() { # tier, processor
    local tier=$1 cpu=$2 log=$build/tier-$1.log got masked
    got=$(on "$cpu" "$marlin" kernels --list bf16) && grep -q ", best tier $tier," <<<"$got" ||
        fail "$cpu does not come out as $tier"
    got=$(on "$cpu" "${generate[@]}" | tokens) || fail "$cpu: marlin run"
    [ "$got" = "$native" ] || fail "$cpu generates $got, this machine $native"
    masked=$("${generate[@]}" --cpu-mask "$tier" | tokens) || fail "--cpu-mask $tier"
    [ "$masked" = "$native" ] || fail "--cpu-mask $tier generates $masked, this machine $native"
    for test in "$build"/tests/unit_kernels_* "$build"/tests/kernels_* "$build"/tests/unit_{cache_layout,ops_moe} \
        "$build"/tests/unit_models_{sequence,work,many} "$build"/tests/unit_base_cpu "$build"/tests/unit_base_fp; do
        [ -x "$test" ] && [ ! -d "$test" ] || continue
        case $test in *viterbi) continue ;; esac # minutes under emulation; the kernel check has small searches
        local start=$SECONDS sample=()
        case $test in *kernels_check) sample=(--sample 13) ;; esac
        if on "$cpu" "$test" "${sample[@]}" >"$log" 2>&1; then
            echo "$tier: $(basename "$test") passed on $cpu in $((SECONDS - start)) s"
        else
            cat "$log"
            fail "$tier: $(basename "$test") on $cpu"
        fi
    done
    if MARLIN_CPU_MASK=$tier "$build/tests/kernels_check" >"$log" 2>&1; then
        echo "$tier: kernels_check passed with all cases under the mask"
    else
        cat "$log"
        fail "$tier: kernels_check under the mask"
    fi
    rm -f "$log"
    return $failed
}

check_tier generic Nehalem &
generic=$!
check_tier avx2 Haswell || failed=1
wait $generic || failed=1

# Processors between the tiers, and the oldest of 64 bits: the program itself.
for cpu in Opteron_G1 core2duo SandyBridge EPYC Skylake-Server Icelake-Server; do
    got=$(on "$cpu" "${generate[@]}" | tokens) || fail "$cpu: marlin run"
    [ "$got" = "$native" ] && echo "$cpu: marlin run generates the same" || fail "$cpu generates $got, this machine $native"
done

if on Haswell "$marlin" kernels --cpu-mask avx512 >/dev/null 2>"$build/tier.log"; then
    fail "a mask above the processor was taken"
fi
grep -q "not a tier of this processor" "$build/tier.log" || fail "a mask above the processor is refused by name"
rm -f "$build/tier.log"
[ "$failed" = 0 ] && echo "lower x86 tiers: passed"
exit "$failed"
