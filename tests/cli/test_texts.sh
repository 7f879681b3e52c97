#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Texts to calibrate and to measure on: files that are none are refused by name, little text is remarked upon, and so is a
# recipe that fits nothing.
set -eu
marlin=$1 source=$2
model=$source/models/marlin-chat
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

seq 3000 >good.txt
gzip -c good.txt >t.txt.gz
{ printf 'PAR1\025\004'; cat good.txt; } >train.parquet
{ printf '\377\376'; sed 's/./&\n/g' good.txt | head -c 4000 | tr '\n' '\000'; } >utf16.txt
{ cat good.txt; printf 'a\000b'; } >nul.txt
{ cat good.txt; printf 'caf\351s\n'; } >latin1.txt
cp train.parquet train.jsonl
head -c 3000 "$model/model.safetensors" >weights.safetensors
printf 'GGUF\003\000\000\000' >m.gguf

# refused FILE TEXT: by both verbs, with the file's name and what it is, and before any work on the model.
refused() {
    rc=0
    "$marlin" perplexity "$model" --text "$1" --ctx 64 >out 2>err || rc=$?
    [ $rc -eq 1 ] && grep -qF "$1: $2" err || fail "perplexity on $1: $rc $(cat err)"
    rc=0
    "$marlin" quantize "$model" -o q --calib "$1" --calib-tokens 64 --effort low -b 2 >out 2>err || rc=$?
    [ $rc -eq 1 ] && grep -qF "calibration text $1: $2" err || fail "quantize on $1: $rc $(cat err)"
    [ ! -e q ] || fail "quantize on $1 leaves a folder"
}
refused t.txt.gz "not a text, but compressed with gzip: unpack it first"
refused train.parquet "not a text, but a Parquet file"
refused train.jsonl "not a text, but a Parquet file"
refused utf16.txt "not a text, but UTF-16"
refused nul.txt "not a text: byte $(($(wc -c <good.txt) + 1)) is NUL"
refused latin1.txt "not UTF-8 from byte $(($(wc -c <good.txt) + 3)) on"
refused weights.safetensors "not a text, but a safetensors file"
refused m.gguf "not a text, but a GGUF file"
rc=0
"$marlin" perplexity "$model" --text - --ctx 64 <t.txt.gz >out 2>err || rc=$?
[ $rc -eq 1 ] && grep -q "^marlin: stdin: not a text" err || fail "stdin: $rc $(cat err)"

# A text is taken; that it is short is said, as is a rule that fits nothing. -q is silent.
"$marlin" perplexity "$model" --text good.txt --ctx 64 --max-tokens 256 >out 2>err || fail "a text: $(cat err)"
printf '# bits\nmodel.layer.* 3\n*.v_proj 3\n' >recipe
"$marlin" quantize "$model" -o q --calib good.txt --calib-tokens 64 --effort low -b 2 --recipe recipe >out 2>err ||
    fail "quantize: $(cat err)"
grep -q 'calibrated on 64 tokens only' err || fail "few tokens are not remarked: $(cat err)"
grep -q "warning: recipe, line 2: model.layer.\* fits no tensor of this model; one is called model.layers.0" err ||
    fail "a rule that fits nothing: $(cat err)"
grep -q 'line 3' err && fail "a rule that fits is warned of"
rm -r q
"$marlin" quantize "$model" -o q --calib good.txt --calib-tokens 64 --effort low -b 2 --recipe recipe -q >out 2>err ||
    fail "quantize: $(cat err)"
[ ! -s err ] || fail "-q says: $(cat err)"
echo ok
