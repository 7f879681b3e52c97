#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# `marlin run` as a user runs it: which argument is what, the JSON object, stop strings, named errors.
set -eu
marlin=$1 source=$2
model=$source/models/marlin-chat
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

export MARLIN_MODEL="$model"
"$marlin" run -n 8 --seed 1 >"$dir/out" 2>"$dir/err" || fail "run without arguments"
grep -q '^Once upon a time' "$dir/out" || fail "the default prompt is shown"
grep -q '^prompt: [0-9]* tokens, .* tok/s | generated: [0-9]* tokens, .* tok/s | loaded in [0-9]* ms | seed 1$' "$dir/err" ||
    fail "line of speeds: $(cat "$dir/err")"

"$marlin" run --greedy -n 12 "The sea was" 2>"$dir/err" >"$dir/a" || fail "one argument is the prompt"
"$marlin" run "$model" "The sea was" --greedy -n 12 2>"$dir/err" >"$dir/b" || fail "model and prompt"
printf 'The sea was' | "$marlin" run "$model" - --greedy -n 12 2>"$dir/err" >"$dir/c" || fail "prompt from stdin"
cmp "$dir/a" "$dir/b" || fail "the default model is the embedded one"
cmp "$dir/a" "$dir/c" || fail "stdin gives what the argument gives"

"$marlin" run "The sea was" -n 12 --temp 0.9 --seed 7 --json >"$dir/s1" 2>"$dir/err" || fail "json"
"$marlin" run "The sea was" -n 12 --temp 0.9 --seed 7 --json >"$dir/s2" 2>"$dir/err" || fail "json"
[ "$(wc -l <"$dir/s1")" -eq 1 ] || fail "one object on one line"
for field in text tokens finish_reason prompt_tokens completion_tokens timings prompt_ms prompt_per_second \
    predicted_ms predicted_per_second load_ms; do
    grep -q "\"$field\":" "$dir/s1" || fail "field $field is missing: $(cat "$dir/s1")"
done
[ "$(sed 's/,"timings.*//' "$dir/s1")" = "$(sed 's/,"timings.*//' "$dir/s2")" ] || fail "same seed, same text"

text=$(head -c 200 "$dir/a" | tr '\n' ' ')
word=$(echo "$text" | cut -c8-13)
"$marlin" run --greedy -n 12 "The sea was" --stop "never there" --stop "$word" --json >"$dir/stop" 2>"$dir/err" ||
    fail "stop strings"
grep -q '"finish_reason":"stop"' "$dir/stop" || fail "a stop string ends with stop: $(cat "$dir/stop")"
if grep -qF "\"text\":\"$text" "$dir/stop"; then fail "the stop string was not cut"; fi

"$marlin" run --greedy -n 12 "The sea was" --profile --trace "$dir/trace" 2>"$dir/err" >"$dir/p" || fail "profile"
cmp "$dir/a" "$dir/p" || fail "a profile does not change the text"
for stage in qkv attention out "gate up" down head; do
    grep -q "^  $stage .* us/token" "$dir/err" || fail "stage $stage: $(cat "$dir/err")"
done
[ "$(grep -c '"name":"head"' "$dir/trace")" -eq 12 ] || fail "one head a token in the trace"
tail -n 1 "$dir/trace" | grep -q '^]}$' || fail "the trace is whole"

# A text that cannot be written is an error, whatever else is asked for and could be written.
if [ -e /dev/full ]; then
    for options in "" "--profile" "--trace $dir/trace2" "--json" "--json --profile"; do
        rc=0
        "$marlin" run -n 4 --greedy "The sea was" $options >/dev/full 2>"$dir/err" || rc=$?
        [ $rc -eq 1 ] || fail "a full disk exits 1, not $rc: run $options"
        grep -q '^marlin: .*writ' "$dir/err" || fail "a full disk is named: $(cat "$dir/err")"
    done
    tail -n 1 "$dir/trace2" | grep -q '^]}$' || fail "the trace is written all the same"
else
    echo "no /dev/full here: failing writes are not tested"
fi

# Help offers the devices that there are, and no others.
devices=$("$marlin" run --help | sed -n 's/^ *--device \([^ ]*\) .*/\1/p')
[ -n "$devices" ] || fail "help has no --device"
for device in cpu cuda metal; do
    rc=0
    "$marlin" run -n 1 --device $device x >"$dir/out" 2>"$dir/err" || rc=$?
    case "|$devices|" in
    *"|$device|"*) [ $rc -eq 0 ] || fail "help lists $device, which exits $rc: $(cat "$dir/err")" ;;
    *) [ $rc -eq 1 ] && grep -q "it has $devices" "$dir/err" || fail "$device is refused by name: $(cat "$dir/err")" ;;
    esac
done

rc=0
"$marlin" run --ctx 4 "one two three four five six seven eight" >"$dir/out" 2>"$dir/err" || rc=$?
[ $rc -eq 1 ] || fail "a prompt longer than the context exits 1, not $rc"
grep -q '^marlin: .*context holds 4' "$dir/err" || fail "both numbers: $(cat "$dir/err")"
rc=0
"$marlin" run --temp hot x >"$dir/out" 2>"$dir/err" || rc=$?
[ $rc -eq 2 ] || fail "a bad value exits 2, not $rc"
rc=0
"$marlin" run "$dir/absent" hello >"$dir/out" 2>"$dir/err" || rc=$?
[ $rc -eq 1 ] || fail "an absent model exits 1, not $rc"
grep -q "$dir/absent" "$dir/err" || fail "the absent model is named"

"$marlin" run -n 100000 --ctx 4096 --temp 1 x >"$dir/out" 2>"$dir/err" &
pid=$!
while [ ! -s "$dir/out" ] && kill -0 $pid 2>/dev/null; do sleep 0.05; done # until it speaks
kill -INT $pid 2>/dev/null || true
rc=0
wait $pid || rc=$?
[ $rc -eq 0 ] || fail "an interrupt ends generation cleanly, exit $rc"
grep -q 'generated:' "$dir/err" || fail "speeds after an interrupt"

# ---- a lone argument that was meant as a model is never a prompt ----

# misled ARGUMENT: exit 2, a way to give it as a prompt, and no text about it.
misled() {
    rc=0
    "$marlin" run -n 4 --greedy "$1" >"$dir/out" 2>"$dir/err" || rc=$?
    [ $rc -eq 2 ] || fail "'$1' exits $rc: $(cat "$dir/out" "$dir/err")"
    grep -qF "marlin run -- '$1'" "$dir/err" || fail "'$1': no way out is said: $(cat "$dir/err")"
    [ ! -s "$dir/out" ] || fail "'$1' is taken for a prompt"
}
: >"$dir/file.txt"
for text in /nope/model '~/models/Qwen3-0.6B' '~x' ./model ../model model.gguf a.safetensors config.json Qwen/Qwen3-0.6B \
    models/Qwne3-0.6B https://huggingface.co/a/b hf.co/a/b dir/ "$dir/file.txt" "/with space/model"; do
    misled "$text"
done
for text in "The sea was" "half/half is a word in it" "etc." "What is 1/2?" "...and then" "~ 5 of them"; do
    "$marlin" run -n 4 --greedy "$text" >"$dir/out" 2>"$dir/err" || fail "'$text' is a prompt: $(cat "$dir/err")"
done
"$marlin" run -n 4 --greedy -- Qwen/Qwen3-0.6B >"$dir/out" 2>"$dir/err" || fail "a prompt behind --: $(cat "$dir/err")"
"$marlin" run -n 4 --greedy -- "$model" >"$dir/out" 2>"$dir/err" || fail "a directory behind -- is a prompt"
grep -q '^prompt: [0-9]' "$dir/err" || fail "a directory behind --: $(cat "$dir/err")"
"$marlin" run "$model" /dev/null -n 4 --greedy >"$dir/out" 2>"$dir/err" || fail "a second argument is a prompt"

# ---- a pipe without a prompt is the prompt; an empty one is none ----

printf 'The sea was' | "$marlin" run "$model" --greedy -n 12 2>"$dir/err" >"$dir/c" || fail "piped, with a model"
cmp "$dir/a" "$dir/c" || fail "a pipe gives what the argument gives"
printf 'The sea was' | "$marlin" run --greedy -n 12 2>"$dir/err" >"$dir/c" || fail "piped alone"
cmp "$dir/a" "$dir/c" || fail "a pipe gives what the argument gives, without a model"
printf 'nothing of this' | "$marlin" run "The sea was" --greedy -n 12 2>"$dir/err" >"$dir/c" || fail "piped beside a prompt"
cmp "$dir/a" "$dir/c" || fail "a prompt that is given comes before the pipe"
"$marlin" run -n 4 --greedy <"$dir/file.txt" >"$dir/c" 2>"$dir/err" || fail "an empty file"
grep -q '^Once upon a time' "$dir/c" || fail "an empty file is no prompt"

# ---- how it ended is said ----

"$marlin" run "The sea was" --greedy -n 7 2>"$dir/err" >"$dir/c" || fail "seven tokens"
grep -q '^marlin: stopped at -n 7 tokens$' "$dir/err" || fail "the cut is not said: $(cat "$dir/err")"
grep -q 'seed' "$dir/err" && fail "greedy has no seed"
"$marlin" run "The sea was" --greedy -n 7 -q 2>"$dir/err" >"$dir/c" || fail "quietly"
[ ! -s "$dir/err" ] || fail "-q says: $(cat "$dir/err")"
"$marlin" run "The sea was" --greedy -n 500 --ctx 16 2>"$dir/err" >"$dir/c" || fail "a short context"
grep -q 'the end of the context' "$dir/err" || fail "the end of the context is not said: $(cat "$dir/err")"
first=$("$marlin" run "The sea was" --greedy -n 1 --json | sed 's/.*"tokens":\[\([0-9]*\)\].*/\1/')
mkdir "$dir/mute"
cp "$model"/* "$dir/mute"
chmod u+w "$dir/mute"/*
printf '{"eos_token_id": %s}' "$first" >"$dir/mute/generation_config.json"
"$marlin" run "$dir/mute" "The sea was" --greedy 2>"$dir/err" >"$dir/c" || fail "a model that ends at once: $(cat "$dir/err")"
grep -q 'the model ended at once' "$dir/err" || fail "an answer of 0 tokens is not remarked: $(cat "$dir/err")"

# The seed that is printed gives the same text again.
"$marlin" run "The sea was" -n 12 --temp 1 2>"$dir/err" >"$dir/c" || fail "a seed of its own"
seed=$(sed -n 's/.* | seed \([0-9]*\)$/\1/p' "$dir/err")
"$marlin" run "The sea was" -n 12 --temp 1 --seed "$seed" 2>"$dir/err" >"$dir/d" || fail "the seed again"
cmp "$dir/c" "$dir/d" || fail "the printed seed gives another text"

# ---- what cannot be written is said before the work, with its reason ----

rc=0
"$marlin" run x --trace "$dir/none/trace" >"$dir/out" 2>"$dir/err" || rc=$?
[ $rc -eq 1 ] && [ ! -s "$dir/out" ] || fail "--trace into no folder: $rc, after the text"
grep -q 'cannot write to the folder' "$dir/err" || fail "--trace: $(cat "$dir/err")"
if [ -e /dev/full ]; then
    rc=0
    "$marlin" run x -n 4 >/dev/full 2>"$dir/err" || rc=$?
    grep -q 'stdout failed: No space left' "$dir/err" || fail "no reason: $(cat "$dir/err")"
fi
rc=0
"$marlin" run x -n 4 >&- 2>"$dir/err" || rc=$?
[ $rc -eq 1 ] && grep -q 'stdout failed: Bad file' "$dir/err" || fail "a closed stdout: $rc $(cat "$dir/err")"
echo ok
