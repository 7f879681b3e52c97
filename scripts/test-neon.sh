#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The NEON tier: cross-builds the folders that need no outside library for 64-bit Arm and runs their unit tests, the
# kernel check and the parity of the small models with transformers under qemu-user. Prints why it skips.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build}-neon
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN)}

if [ "$(uname -m)" = aarch64 ] || [ "$(uname -m)" = arm64 ]; then
    echo "skipped: this machine runs NEON itself"
    exit 0
fi
for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
    command -v "$tool" >/dev/null || {
        echo "skipped: $tool is not installed (scripts/setup test)"
        exit 0
    }
done

cmake -S . -B "$build" -DCMAKE_TOOLCHAIN_FILE="$PWD/cmake/aarch64.cmake" -DMARLIN_CORE=ON -DMARLIN_TESTS=ON \
    -DCMAKE_BUILD_TYPE=Release >"$build.log" || {
    cat "$build.log"
    exit 1
}
rm -f "$build.log"
cmake --build "$build" -j "$jobs"
# Under emulation only what the tier computes: the rest is the same code everywhere. Mixed batches against sequences
# alone are compared on this machine, in all of its tiers.
ctest --test-dir "$build" --output-on-failure -j "$jobs" -R "kernels|packing|base_fp|base_cpu|cache_layout|models" \
    -E "models_(batch|tree|window)" # minutes under emulation
# Processors without the int8 matrix product, and without the dot product either. The run above has checked their tiers
# with every 13th case (a 64-bit Arm machine runs all of them); what is asked here is that each kernel does without the
# instructions, for which as many are enough.
for cpu in neoverse-n1 cortex-a57; do
    for test in kernels_check unit_kernels_quant unit_base_cpu; do
        sample=()
        [ "$test" != kernels_check ] || sample=(--sample 13)
        qemu-aarch64 -cpu "$cpu" "$build/tests/$test" "${sample[@]}" >"$build/older.log" 2>&1 || {
            cat "$build/older.log"
            echo "FAILED: $test on $cpu"
            exit 1
        }
    done
    echo "NEON: the kernel check passed on $cpu"
done
rm -f "$build/older.log"
qemu-aarch64 "$build/tests/golden_parity" gemma2 qwen3 >"$build/parity.log" || {
    cat "$build/parity.log"
    exit 1
}
echo "NEON: $(grep -c '^ok' "$build/parity.log") tests of parity passed"
