#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# `marlin bench` as a user runs it, on the embedded model and few tokens: fields, tables, sweeps, the picture, refusals.
# Speeds are not judged here.
set -eu
marlin=$1 source=$2
model=$source/models/marlin-chat # 4096 positions
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
unset MARLIN_CPU_MASK

fail() {
    echo "FAILED: $*" >&2
    cat "$dir/out" "$dir/err" >&2
    exit 1
}
bench() { # arguments...
    "$marlin" bench "$@" >"$dir/out" 2>"$dir/err" || fail "bench $*"
}
refused() { # status, text in the message, arguments...
    wanted=$1 text=$2 rc=0
    shift 2
    "$marlin" bench "$@" >"$dir/out" 2>"$dir/err" || rc=$?
    [ $rc -eq "$wanted" ] || fail "bench $* exits $rc, not $wanted"
    grep -q -- "$text" "$dir/err" || fail "bench $*: the message lacks '$text'"
    [ ! -s "$dir/out" ] || fail "bench $*: an error comes with a result"
}
json_run() { # test, batch, depth: its row, with numbers above 0 everywhere
    number='[0-9.e+-]*[1-9][0-9.e+-]*'
    grep -Eq "\{\"test\":\"$1\",\"batch\":$2,\"tokens_per_second\":$number,\"gbps\":$number,\"bandwidth_fraction\":$number,\"compute_fraction\":($number|null),\"weight_bytes\":[1-9][0-9]*,\"depth\":$3\}" \
        "$dir/out" || fail "the row of $1, batch $2, depth $3"
}
json_rows() { # how many
    [ "$(wc -l <"$dir/out")" -eq 1 ] || fail "one object on one line"
    [ "$(grep -o '"test":' "$dir/out" | wc -l)" -eq "$1" ] || fail "$1 rows"
}
header=test,batch,depth,tokens_per_second,gbps,bandwidth_fraction,compute_fraction,weight_bytes,read_gbps,int8_gops,bf16_gflops

# JSON: a prompt, and tokens after it.
bench "$model" -p 16 -n 4 --repeat 2 --json
grep -Eq '^\{"machine":\{"read_gbps":[0-9.e+]+,"int8_gops":([0-9.e+]+|null),"bf16_gflops":[0-9.e+]+\},"runs":\[' \
    "$dir/out" || fail "machine{read_gbps,int8_gops,bf16_gflops}"
json_rows 2
json_run pp16 1 0
json_run tg4 1 16

# Several sequences at a time, of one token each a step; the cache as deep as is asked for.
bench "$model" -p 16 -n 3 --repeat 1 --batch 1,2,7 --json
json_rows 4
for batch in 1 2 7; do
    json_run tg3 $batch 16
done
bench "$model" -p 8 -n 2 --repeat 1 --batch 1,3 --depth 0,600,4088 --json
json_rows 9
for depth in 0 600 4088; do
    json_run "pp8@$depth" 1 $depth
    json_run "tg2@$depth" 1 $depth
    json_run "tg2@$depth" 3 $depth
done

# A quantized model, whose ceiling is another; a step of the largest batch.
bench --shape qwen3-0.6b --bits 2 -p 0 -n 1 --repeat 1 --batch 5 --json
json_rows 1
json_run tg1 5 0
bench "$model" -p 0 -n 1 --repeat 1 --batch 256 --json
json_run tg1 256 0

# Tables.
bench "$model" -p 0 -n 2 --repeat 1 --csv --batch 1,2
[ "$(head -n 1 "$dir/out")" = "$header" ] || fail "header of the csv"
[ "$(wc -l <"$dir/out")" -eq 3 ] || fail "-p 0 leaves the prompt test out"
[ "$(awk -F, 'NF != 11' "$dir/out" | wc -l)" -eq 0 ] || fail "11 fields in each line of the csv"
grep -q '^tg2,2,0,[0-9.]*,' "$dir/out" || fail "row of the csv"
bench "$model" -p 4 -n 1 --repeat 1 --markdown --depth 5
grep -q '^| pp4@5 | 1 | ' "$dir/out" || fail "row of the Markdown table"
[ "$(grep -c '^|' "$dir/out")" -eq 4 ] || fail "two rows in the Markdown table"
grep -q '^machine: reads ' "$dir/out" || fail "the machine below the Markdown table"
bench "$model" -p 4 -n 1 --repeat 1 --batch 2
grep -Eq '^tg1 +2 +[0-9.]+ ' "$dir/out" || fail "row of the table for people"

# Plain C has no unit for bytes: no limit to compare with, in any form.
bench --shape qwen3-0.6b --bits 2 -p 0 -n 1 --repeat 1 --cpu-mask generic --plot "$dir/roof.svg"
grep -Eq '^tg1 +1 .* -$' "$dir/out" || fail "a share of a limit that is not known"
[ "$(grep -c 'class="roof"' "$dir/roof.svg")" -eq 1 ] || fail "a ceiling that is not known"

# The picture: each run is on it, with its name; nothing but text and shapes.
bench "$model" -p 4 -n 2 --repeat 1 --batch 1,4 --depth 0,9 --plot "$dir/roof.svg"
head -n 1 "$dir/roof.svg" | grep -q '^<svg xmlns="http://www.w3.org/2000/svg" ' || fail "start of the picture"
[ "$(tail -n 1 "$dir/roof.svg")" = '</svg>' ] || fail "end of the picture"
[ "$(grep -c '<circle ' "$dir/roof.svg")" -eq 4 ] || fail "four circles"
[ "$(grep -c '<rect class="pp"' "$dir/roof.svg")" -eq 2 ] || fail "two squares"
for label in pp4@0 pp4@9 tg2@0 tg2@9 'tg2@0 x4' 'tg2@9 x4'; do
    [ "$(grep -c ">$label</text>" "$dir/roof.svg")" -eq 1 ] || fail "label $label"
done
grep -Eq '>[0-9.]+ GB/s</text>' "$dir/roof.svg" || fail "the slope's label"
grep -q 'Gop/s of float32</text>' "$dir/roof.svg" || fail "the ceiling's label"
! grep -Eiq '<script|href|url\(|@import|="-?(nan|inf)' "$dir/roof.svg" || fail "what does not belong into a picture"
[ "$(grep -o '<text' "$dir/roof.svg" | wc -l)" -eq "$(grep -o '</text>' "$dir/roof.svg" | wc -l)" ] || fail "open text"
if command -v xmllint >/dev/null 2>&1; then
    xmllint --noout "$dir/roof.svg" 2>"$dir/err" || fail "the picture is no XML"
fi

# Stages of an extra run; results stay what they are.
bench "$model" -p 16 -n 3 --repeat 1 --batch 2 --json --profile --trace "$dir/trace.json"
json_rows 2
json_run tg3 2 16
grep -q '^prompt, 16 tokens:' "$dir/err" || fail "stages of the prompt"
grep -q '^one by one, 3 tokens:' "$dir/err" || fail "stages of tokens"
[ "$(grep -c '^  attention ' "$dir/err")" -eq 2 ] || fail "attention in both"
[ "$(head -n 1 "$dir/trace.json")" = '{"traceEvents":[' ] || fail "start of the timeline"
grep -q '"name":"head",.*"tokens":1' "$dir/trace.json" || fail "stages in the timeline"

refused 2 "nothing to measure" "$model" -p 0 -n 0
refused 2 "not both" "$model" --shape qwen3-0.6b
refused 2 "shape" --shape qwen3-7000b
refused 2 "repeat" "$model" --repeat 0
refused 1 "$dir/absent" "$dir/absent"
for option in batch depth; do
    for list in -1 1e9 1,,2 abc '' ',' '1,' ',1' '1 2' 1.5 +1 0x10; do
        refused 2 "--$option '.*': whole numbers with commas" "$model" "--$option" "$list"
    done
    refused 2 "--$option: more than 16 numbers" "$model" "--$option" 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17
    refused 2 "--$option: 18446744073709551617 is not between" "$model" "--$option" 1,18446744073709551617
done
refused 2 "--batch: 0 is not between 1 and 256" "$model" --batch 1,0
refused 2 "--batch: 257 is not between 1 and 256" "$model" --batch 257
refused 1 "bench tg4@4093: 4 tokens after 4093 pass the context of the model, 4096 positions" "$model" -p 2 -n 4 --depth 0,4093
refused 1 "bench pp4097: 4097 tokens after 0 pass" "$model" -p 4097 -n 1
rc=0
"$marlin" bench "$model" -p 0 -n 1 --repeat 1 --plot "$dir/absent/roof.svg" >"$dir/out" 2>"$dir/err" || rc=$?
[ $rc -eq 1 ] || fail "a picture that cannot be written is an error"
grep -q "$dir/absent/roof.svg" "$dir/err" || fail "a picture that cannot be written has no name"
echo ok
