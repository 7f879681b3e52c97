#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# What beginners give as MODEL, and what they are told: each message names the mistake and what to do.
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

# said TEXT COMMAND...: exits 1 and says TEXT on one line of stderr, nothing on stdout.
said() {
    text=$1
    shift
    rc=0
    "$marlin" "$@" >out 2>err || rc=$?
    [ $rc -eq 1 ] || fail "exit $rc of $*: $(cat err)"
    grep -qF -- "$text" err || fail "'$text' is not said by $*: $(cat err)"
    [ "$(wc -l <err)" -eq 1 ] || fail "more than a line by $*: $(cat err)"
    [ ! -s out ] || fail "$* writes: $(cat out)"
}

# copy NAME: a whole model, of which a test spoils one file.
copy() {
    rm -rf "$1"
    mkdir "$1"
    cp "$model"/config.json "$model"/tokenizer.json "$1"
    cp "$model"/*.safetensors "$1"
}
lfs() { printf 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 988097824\n'; }
weights=$(cd "$model" && ls ./*.safetensors | head -n 1)

for file in "$weights" config.json tokenizer.json; do
    copy lfs
    lfs >"lfs/$file"
    said "Git LFS pointer" run lfs Hi -q
    said "git lfs pull" run lfs Hi -q
done
copy html
echo '<!DOCTYPE html><html>401</html>' >html/config.json
said "web page" run html Hi -q
for verb in "inspect" "tokenize --text /dev/null" "logits --ids x -o y" "quantize -o q"; do
    # shellcheck disable=SC2086
    said "no such folder" $verb nowhere
done

mkdir lora && echo '{"base_model_name_or_path": "x/y", "peft_type": "LORA"}' >lora/adapter_config.json
said "an adapter (LoRA) of x/y" run lora Hi -q
copy bin
rm bin/*.safetensors && printf 'PK\003\004' >bin/pytorch_model.bin
said "pytorch_model.bin, PyTorch weights, which are not read" run bin Hi -q
copy unfinished
rm unfinished/*.safetensors && : >unfinished/model.safetensors.incomplete
said "a download that did not end" run unfinished Hi -q
mkdir gguf && printf 'GGUF\003\0\0\0' >gguf/m-Q4_K_M.gguf
said "there is m-Q4_K_M.gguf, a GGUF file" run gguf Hi -q
said "is a file: name the folder that it lies in, $model" run "$model/$weights" Hi -q
copy mlx
sed 's/^{/{"quantization": {"group_size": 64, "bits": 4},/' "$model/config.json" >mlx/config.json
said "quantized by MLX" run mlx Hi -q
copy tekken
rm tekken/tokenizer.json && echo '{}' >tekken/tekken.json
said "Mistral's tekken.json" run tekken Hi -q
said "Mistral's tekken.json" tokenize tekken
copy slow
rm slow/tokenizer.json && echo '{}' >slow/vocab.json
said "there is vocab.json" run slow Hi -q
mkdir meta && echo '{}' >meta/params.json
said "not in Hugging Face layout" run meta Hi -q
mkdir above && mv tekken above/inner
said "is it above/inner that you mean?" run above Hi -q
mkdir models
said "models/Qwne3-0.6B: no such folder: a model is" run models/Qwne3-0.6B Hi -q
said "hf download Qwen/Qwen3-0.6B --local-dir Qwen3-0.6B" run Qwen/Qwen3-0.6B Hi -q
said "hf download Qwen/Qwen3-0.6B" run https://huggingface.co/Qwen/Qwen3-0.6B Hi -q
said "the shell replaces ~" run '~/model' Hi -q
said "not a safetensors file: begins with '# Metal" logits "$model" --ids "$source/README.md" -o y
mkfifo pipe
said "neither a folder nor a file" run pipe Hi -q

# A folder of the Hub's cache is its snapshot: the one that refs/main names.
hub=hub/models--me--small
mkdir -p $hub/snapshots/0aaa $hub/snapshots/0bbb $hub/refs
said "no snapshot with a config.json" run $hub Hi -q
said "hf download me/small" run $hub Hi -q
said "name one of them, such as models--me--small" run hub Hi -q
cp "$model"/* $hub/snapshots/0bbb
echo broken >$hub/snapshots/0aaa/config.json
printf 0bbb >$hub/refs/main
"$marlin" run $hub "The sea was" --greedy -n 8 >a 2>err || fail "a folder of the cache: $(cat err)"
"$marlin" run "$model" "The sea was" --greedy -n 8 >b 2>err || fail "the model itself"
cmp a b || fail "the snapshot is the model"
for verb in "inspect --json" "tokenize --text $model/config.json" "perplexity --ctx 64 --text $model/tokenizer.json --max-tokens 128 --json"; do
    # shellcheck disable=SC2086
    "$marlin" $verb $hub >out 2>err || fail "$verb of a folder of the cache: $(cat err)"
done
printf '../0bbb' >$hub/refs/main
said "not JSON" run $hub Hi -q # a reference that is no name is no way out: the first snapshot it is
echo ok
