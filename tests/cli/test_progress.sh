#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Bars on a real terminal (of `script`): of long prompts, quantize, perplexity, bench and kernels --check, never wider than it
# is; lines without control characters on a dumb one.
set -eu
marlin=$1 source=$2
model=$source/models/marlin-chat
if ! command -v script >/dev/null || ! script -qec true /dev/null </dev/null >/dev/null 2>&1; then
    echo "no script(1) here that makes a terminal: bars are not tested"
    exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export marlin model

fail() {
    echo "FAILED: $*" >&2
    head -c 2000 out | cat -v >&2
    exit 1
}

seq 2000 >text
head -c 3600 text >prompt
# on_terminal COLUMNS TERM COMMAND: what a terminal of so many columns gets, drawings one a line.
on_terminal() {
    TERM=$2 script -qec "stty cols $1 rows 24; $3" /dev/null </dev/null >raw 2>&1 || { mv raw out; fail "$3"; }
    tr '\r' '\n' <raw | sed 's/\x1b\[K//' >out
}
# bars WHAT: there are some, and none reaches the last column.
bars() {
    grep -q "^$2" out || fail "no bar of $2"
    wide=$(grep "^$2" out | awk -v most="$1" 'length($0) >= most' | head -n 1)
    [ -z "$wide" ] || fail "wider than $1: $wide"
}
for columns in 80 16; do
    on_terminal $columns xterm "\"$marlin\" run \"$model\" - -n 1 --greedy --threads 1 <prompt"
    bars $columns "reading the"
    on_terminal $columns xterm "\"$marlin\" perplexity \"$model\" --text text --ctx 128 --max-tokens 2048 --threads 1"
    grep -v '^rows  ' out >only && mv only out # a line of the result
    bars $columns rows
done
rm -rf q
on_terminal 80 xterm "\"$marlin\" quantize \"$model\" -o q --calib text --calib-tokens 512 --effort low -b 2 --threads 1"
bars 80 quantizing
grep -q '^quantizing \[#*-*\] [0-9]*%  [-0-9]*:[-0-9]* left  layer [0-9]* of' out || fail "the bar of quantize"
on_terminal 60 xterm "\"$marlin\" bench \"$model\" -p 64 -n 8 --repeat 2 --threads 1"
bars 60 benchmark
on_terminal 60 xterm "\"$marlin\" kernels elementwise --check --threads 1"
bars 60 "checking kernels"

# The text does not stand behind the bar, and a dumb terminal gets neither.
on_terminal 80 dumb "\"$marlin\" run \"$model\" - -n 1 --greedy --threads 1 <prompt"
grep -q "^reading" out && fail "a bar on a dumb terminal"
grep -q "$(printf '\033')" raw && fail "control characters on a dumb terminal"
echo ok
