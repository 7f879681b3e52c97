#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# `marlin chat`: the embedded model's answers, one-shot and in a conversation, its commands, and what goes wrong.
set -eu
marlin=$1 source=$2
model=$source/models/marlin-chat
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}
says() { # wanted text, arguments of chat...
    wanted=$1
    shift
    "$marlin" chat "$@" --greedy -q >"$dir/out" 2>"$dir/err" </dev/null || fail "chat $*: $(cat "$dir/err")"
    grep -qF -- "$wanted" "$dir/out" || fail "chat $*: no '$wanted' in: $(cat "$dir/out")"
}

# ---- one answer ----
says "The capital of Portugal is Lisbon." "$model" "What is the capital of Portugal?"
says "47 + 38 = 85" "$model" "What is 47 + 38?"
says "Lisbon" "What is the capital of Portugal?"
cat >"$dir/tools.json" <<'TOOLS'
[{"type": "function", "function": {"name": "get_weather", "description": "The weather in a city",
  "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
TOOLS
says '{"name": "get_weather", "arguments": {"city": "Oslo"}}' "$model" --tools "$dir/tools.json" \
    "What is the weather in Oslo?"
grep -q '^<tool_call>$' "$dir/out" || fail "the tool call has no tags: $(cat "$dir/out")"

# A story ends by itself.
"$marlin" chat "$model" "Tell me a story." --seed 7 --json >"$dir/out" 2>"$dir/err" </dev/null || fail "a story"
grep -q '"finish_reason":"stop"' "$dir/out" || fail "the story does not end: $(cat "$dir/out")"
[ "$(wc -c <"$dir/out")" -gt 600 ] || fail "the story is short: $(cat "$dir/out")"
for field in text tokens finish_reason prompt_tokens completion_tokens seed timings; do
    grep -q "\"$field\":" "$dir/out" || fail "--json has no $field: $(cat "$dir/out")"
done

# From a pipe, and after a name of a model.
echo "What is the capital of Portugal?" | "$marlin" chat "$model" --greedy -q >"$dir/out" || fail "a pipe"
grep -q Lisbon "$dir/out" || fail "a pipe: $(cat "$dir/out")"
echo "What is the capital of Portugal?" | "$marlin" chat "$model" - --greedy -q >"$dir/out" || fail "-"
grep -q Lisbon "$dir/out" || fail "-: $(cat "$dir/out")"

# An answer that is cut says so.
"$marlin" chat "$model" "Tell me a story." -n 5 >"$dir/out" 2>"$dir/err" </dev/null || fail "-n 5"
grep -q 'cut at -n 5 tokens' "$dir/err" || fail "nothing says that the answer was cut: $(cat "$dir/err")"
"$marlin" chat "$model" "Tell me a story." --ctx 40 >"$dir/out" 2>"$dir/err" </dev/null || fail "--ctx 40"
grep -q 'the context of 40 tokens is full' "$dir/err" || fail "a full context: $(cat "$dir/err")"

# ---- a conversation ----
"$marlin" chat "$model" -i --greedy >"$dir/out" 2>"$dir/err" <<END || fail "a conversation: $(cat "$dir/err")"
/system You are brief.
What is the capital of Portugal?
/tokens
/save $dir/talk.json
What is 47 \\
+ 38?
/save $dir/lines.json
/undo
"""What is
the capital of Italy?"""
/set temp 0.5
/set nonsense 3
/set temp hot
/load $dir/missing.json
/load $dir/talk.json
/nope
/reset
/system
/help
/exit
What is the capital of Spain?
END
for text in "capital of Portugal is Lisbon" "of 4096 tokens" "3 messages saved" "5 messages saved" "forgotten" \
    "Rome" "temp 0.5" "3 messages loaded" "You are brief." "/undo"; do
    grep -qF -- "$text" "$dir/out" || fail "the conversation has no '$text': $(cat "$dir/out")"
done
grep -q Madrid "$dir/out" && fail "/exit does not leave"
for text in "no setting 'nonsense 3'" "'hot' is no number" "missing.json" "no command '/nope'"; do
    grep -qF -- "$text" "$dir/err" || fail "no message '$text': $(cat "$dir/err")"
done
grep -qF '{"role":"system","content":"You are brief."},{"role":"user"' "$dir/talk.json" || fail "$(cat "$dir/talk.json")"

grep -qF '"content":"What is 47 \n+ 38?"' "$dir/lines.json" || fail "two lines: $(cat "$dir/lines.json")"

# Each turn is what a program would be given that is told everything at once: the tokens that are kept change nothing.
printf 'Hello!\nWhat is 9 times 7?\n' | "$marlin" chat "$model" -i --greedy -q >"$dir/turns"
printf '[{"role":"user","content":"Hello!"},{"role":"assistant","content":"%s"}]' "$(head -n 1 "$dir/turns")" \
    >"$dir/one.json"
printf '/load %s\nWhat is 9 times 7?\n' "$dir/one.json" | "$marlin" chat "$model" -i --greedy -q >"$dir/anew"
[ "$(tail -n 1 "$dir/turns")" = "$(tail -n 1 "$dir/anew")" ] || fail "turns: $(cat "$dir/turns" "$dir/anew")"

# A message that does not fit is refused with both numbers; the conversation goes on.
printf '%s\nWhat is 2 + 3?\n' "$(yes 'long message' | head -n 60 | tr '\n' ' ')" |
    "$marlin" chat "$model" -i --greedy -q --ctx 64 >"$dir/out" 2>"$dir/err" || fail "too long"
grep -q 'the conversation has [0-9]* tokens and the context 64' "$dir/err" || fail "too long: $(cat "$dir/err")"
grep -q '2 + 3 = 5' "$dir/out" || fail "it does not go on: $(cat "$dir/out")"

# ---- mistakes ----
refused() { # exit status, text of the message, arguments...
    status=$1 text=$2 rc=0
    shift 2
    "$marlin" chat "$@" >"$dir/out" 2>"$dir/err" </dev/null || rc=$?
    [ "$rc" -eq "$status" ] || fail "chat $*: exit $rc, not $status: $(cat "$dir/err")"
    grep -qF -- "$text" "$dir/err" || fail "chat $*: no '$text' in: $(cat "$dir/err")"
}
refused 2 "no message" "$model"
refused 1 "no JSON array" "$model" --tools "$source/models/marlin-chat/config.json" hello
echo "no JSON" >"$dir/no.json"
refused 1 "$dir/no.json" "$model" --tools "$dir/no.json" hello
refused 2 "--json wants a MESSAGE" "$model" --json -i
mkdir "$dir/base"
for file in config.json generation_config.json model.safetensors tokenizer.json; do
    cp "$model/$file" "$dir/base"
done
refused 1 "has no chat template" "$dir/base" hello

if [ -c /dev/full ]; then
    rc=0
    "$marlin" chat "$model" hello >/dev/full 2>"$dir/err" </dev/null || rc=$?
    [ "$rc" -eq 1 ] && grep -q "No space left" "$dir/err" || fail "a full disk: exit $rc: $(cat "$dir/err")"
fi

# `run` says that `chat` exists, and takes special tokens when asked to.
"$marlin" run "$model" "Hello" -n 4 --greedy >"$dir/out" 2>"$dir/err" </dev/null || fail "run"
grep -q "marlin chat" "$dir/err" || fail "run does not name chat: $(cat "$dir/err")"
"$marlin" run "$model" "<|im_start|>user
What is 47 + 38?<|im_end|>
<|im_start|>assistant
" --special --greedy -q >"$dir/out" 2>"$dir/err" </dev/null || fail "run --special"
"$marlin" chat "$model" "What is 47 + 38?" --greedy -q >"$dir/chat" </dev/null || fail "chat"
cmp -s "$dir/out" "$dir/chat" || fail "run --special: $(cat "$dir/out") is not what chat says: $(cat "$dir/chat")"
echo ok
