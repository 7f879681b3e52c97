#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# `marlin quantize` that fails before anything is finished leaves nothing behind: the corrected command runs.
set -eu
marlin=$1 source=$2
small=$source/models/marlin-chat
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

seq 4000 >"$dir/text"
printf '{"messages": []}\n' >"$dir/chat.jsonl"
printf 'model.embed_tokens 8\n' >"$dir/recipe"
: >"$dir/empty"

# refused DESCRIPTION OPTIONS...: fails, and OUT is not there.
refused() {
    what=$1
    shift
    rc=0
    "$marlin" quantize "$small" -o "$dir/out" -b 2 --effort low --calib-tokens 64 "$@" >"$dir/stdout" 2>"$dir/err" || rc=$?
    [ $rc -ne 0 ] || fail "$what: exit 0"
    [ ! -e "$dir/out" ] || fail "$what: leaves $(find "$dir/out")"
}
refused "no such text" --calib "$dir/txet"
refused "a chat" --calib "$dir/chat.jsonl"
refused "an empty text" --calib "$dir/empty"
refused "a folder as text" --calib "$dir"
refused "too little memory" --calib "$dir/text" --max-memory 1M
refused "too little memory, own text" --max-memory 1M
# The part of the embedding comes before the text is looked at.
refused "no such text, with a recipe" --calib "$dir/txet" --recipe "$dir/recipe"
refused "a wrong recipe" --calib "$dir/text" --recipe "$dir/text"

# A folder that was there already stays, and stays empty.
mkdir "$dir/out"
rc=0
"$marlin" quantize "$small" -o "$dir/out" --calib "$dir/txet" 2>"$dir/err" || rc=$?
[ $rc -eq 1 ] && [ -d "$dir/out" ] && [ ! -e "$dir/out/.quantize" ] || fail "an empty folder of the user's: $rc"

# What a run that was killed in the beginning left: another command replaces it without a word, with --resume or not.
for resume in "" --resume; do
    rm -rf "$dir/out"
    mkdir -p "$dir/out/.quantize"
    printf '{"version": "1", "calib": "txet"}\n' >"$dir/out/.quantize/job.json"
    # shellcheck disable=SC2086
    "$marlin" quantize "$small" -o "$dir/out" -b 2 --effort low --calib-tokens 64 --calib "$dir/text" $resume >"$dir/stdout" 2>"$dir/err" ||
        fail "a job without parts $resume: $(cat "$dir/err")"
    [ -e "$dir/out/config.json" ] && [ ! -e "$dir/out/.quantize" ] || fail "it is made, $resume"
done

# What took long is protected as before: a job with a finished layer, whatever failed after it.
mkdir -p "$dir/other/.quantize"
printf '{"version": "1", "calib": "txet"}\n' >"$dir/other/.quantize/job.json"
: >"$dir/other/.quantize/layer-00000.safetensors"
for resume in "" --resume; do
    rc=0
    # shellcheck disable=SC2086
    "$marlin" quantize "$small" -o "$dir/other" --calib "$dir/text" $resume 2>"$dir/err" || rc=$?
    [ $rc -eq 2 ] && grep -q 'unfinished job' "$dir/err" || fail "a job with a layer $resume: $rc $(cat "$dir/err")"
    [ -e "$dir/other/.quantize/layer-00000.safetensors" ] || fail "the layer is kept $resume"
done

# Interrupted before anything is finished: no claim that it is kept.
rm -rf "$dir/out"
"$marlin" quantize "$small" -o "$dir/out" --threads 1 >"$dir/stdout" 2>"$dir/err" &
pid=$!
tries=0
until grep -q 'memory: at most' "$dir/err" || [ $tries -gt 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
kill -TERM $pid
rc=0
wait $pid || rc=$?
[ $rc -eq 1 ] || fail "interrupted: exit $rc, $(cat "$dir/err")"
if [ -e "$dir/out/.quantize/job.json" ]; then
    grep -q 'what is done is kept' "$dir/err" || fail "kept without a word: $(cat "$dir/err")"
else
    grep -q 'nothing was finished that could be kept' "$dir/err" || fail "not kept: $(cat "$dir/err")"
    [ ! -e "$dir/out" ] || fail "interrupted: leaves $(find "$dir/out")"
fi

# The folder above OUT is missing, or OUT is a file: what to do is said, and nothing is made.
rc=0
"$marlin" quantize "$small" -o "$dir/a/b/c" 2>"$dir/err" || rc=$?
[ $rc -eq 2 ] && grep -q 'does not exist: make that first' "$dir/err" || fail "no parent: $rc $(cat "$dir/err")"
rc=0
"$marlin" quantize "$small" -o "$dir/text" 2>"$dir/err" || rc=$?
[ $rc -eq 2 ] && grep -q 'is a file: name a new folder' "$dir/err" || fail "a file: $rc $(cat "$dir/err")"
echo "ok"
