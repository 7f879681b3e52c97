#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The frame of the program as a user meets it: exit statuses, where output goes, help, refusals; tokenize, inspect and
# verify on the embedded model and on broken directories.
set -eu
marlin=$1 source=$2
model=$source/models/marlin-12m
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
unset MARLIN_MODEL MARLIN_CPU_MASK

fail() {
    echo "FAILED: $*" >&2
    for file in out err; do
        echo "--- $file:" >&2
        head -c 2000 "$dir/$file" >&2
    done
    exit 1
}

# expect STATUS ARGUMENTS...: stdin, stdout and stderr are files in $dir.
: >"$dir/in"
expect() {
    wanted=$1
    shift
    got=0
    "$marlin" "$@" <"$dir/in" >"$dir/out" 2>"$dir/err" || got=$?
    [ "$got" -eq "$wanted" ] || fail "exit status $got, not $wanted: marlin $*"
    if [ "$got" -eq 2 ] && [ -s "$dir/out" ]; then fail "wrong usage writes to stdout: marlin $*"; fi
    if [ "$got" -ne 0 ] && [ ! -s "$dir/err" ] && [ ! -s "$dir/out" ]; then fail "silent failure: marlin $*"; fi
}
out_has() { grep -qF -- "$1" "$dir/out" || fail "stdout lacks '$1'"; }
err_has() { grep -qF -- "$1" "$dir/err" || fail "stderr lacks '$1'"; }
one_object() { # the whole of stdout is one line that is an object
    [ "$(wc -l <"$dir/out")" -eq 1 ] || fail "not one line of JSON"
    grep -q '^{.*}$' "$dir/out" || fail "not an object"
}

verbs="run tokenize logits perplexity inspect verify bench kernels help version"

# --- the frame
expect 2
for verb in $verbs; do err_has "  $verb "; done
expect 2 no-such-verb
err_has "unknown verb 'no-such-verb'"
err_has "  tokenize "
expect 0 --version
out_has "marlin "
expect 0 version --json
one_object
out_has '"version":"'
expect 0 -h
for verb in $verbs; do out_has "  $verb "; done
expect 0 help
expect 0 help --json
one_object
for verb in $verbs; do
    expect 0 "$verb" --help
    out_has "usage: marlin $verb"
    [ -s "$dir/err" ] && fail "help writes to stderr"
    cp "$dir/out" "$dir/first"
    expect 0 help "$verb"
    cmp -s "$dir/out" "$dir/first" || fail "help $verb and $verb --help differ"
    for option in --threads --device --cpu-mask --json --quiet; do out_has "$option"; done
    expect 2 "$verb" --no-such-option
    err_has "--no-such-option"
    expect 2 "$verb" --threads many
    err_has "--threads"
    expect 2 "$verb" --threads -1
    err_has "0 to 1024"
    expect 2 "$verb" --cpu-mask sse9
    err_has "generic|avx2|avx512|amx|neon|i8mm"
done
expect 2 help no-such-verb
expect 2 help run extra
expect 2 help --completion csh

# --- the manual page and the completions come out whole
expect 0 help --man
for verb in $verbs; do out_has ".SS $verb"; done
expect 0 help --completion bash
if command -v bash >/dev/null; then bash -n "$dir/out" || fail "bash refuses its completions"; fi
if command -v bash >/dev/null; then
    reply=$(bash -c '. "$0"; COMP_WORDS=(marlin tok); COMP_CWORD=1; _marlin; echo "${COMPREPLY[*]}"
        COMP_WORDS=(marlin tokenize --dec); COMP_CWORD=2; _marlin; echo "${COMPREPLY[*]}"
        COMP_WORDS=(marlin tokenize --cpu-mask ne); COMP_CWORD=3; _marlin; echo "${COMPREPLY[*]}"' "$dir/out")
    [ "$reply" = "tokenize
--decode
neon" ] || fail "completions of bash: $reply"
fi
expect 0 help --completion zsh
if command -v zsh >/dev/null; then zsh -n "$dir/out" || fail "zsh refuses its completions"; fi
expect 0 help --completion fish
if command -v fish >/dev/null; then fish -n "$dir/out" || fail "fish refuses its completions"; fi

# --- tokenize: there and back, byte for byte
{
    printf 'Once upon a time,\n\n  there was a caf\303\251 \360\237\220\237\ttab, and no newline at the end'
} >"$dir/in"
cp "$dir/in" "$dir/text"
expect 0 tokenize "$model"
cp "$dir/out" "$dir/ids"
[ "$(wc -l <"$dir/ids")" -eq 1 ] || fail "ids are one line"
expect 0 tokenize "$model" --text "$dir/text"
cmp -s "$dir/out" "$dir/ids" || fail "a file and stdin give different ids"
expect 0 tokenize
cmp -s "$dir/out" "$dir/ids" || fail "the default model is not the embedded one"
cp "$dir/ids" "$dir/in"
expect 0 tokenize "$model" --decode --text -
cmp -s "$dir/out" "$dir/text" || fail "decoding does not give the text back"
cp "$dir/text" "$dir/in"
expect 0 tokenize "$model" --json
one_object
out_has '"ids":[' && out_has '"pieces":["'
cp "$dir/out" "$dir/in"
expect 0 tokenize "$model" --decode
cmp -s "$dir/out" "$dir/text" || fail "decoding its own JSON does not give the text back"
: >"$dir/in"
expect 0 tokenize "$model" --no-bos --json
out_has '"ids":[]'
printf 'a<|endoftext|>b' >"$dir/in"
expect 0 tokenize "$model"
plain=$(wc -w <"$dir/out")
expect 0 tokenize "$model" --special
[ "$(wc -w <"$dir/out")" -lt "$plain" ] || fail "--special does not parse special tokens"
for bad in '1 2 x' '[1,2' '[1,"2"]' '{"id":[1]}' '[-1]' '99999999999' '[1.5]'; do
    printf '%s' "$bad" >"$dir/in"
    expect 1 tokenize "$model" --decode
    err_has "marlin: "
done
expect 1 tokenize "$model" --text "$dir/none"
err_has "$dir/none"
expect 1 tokenize "$model" --text "$dir"
expect 2 tokenize "$model" extra
expect 2 tokenize --text
: >"$dir/in"

# --- inspect: from headers alone
expect 0 inspect "$model" --json
one_object
for field in architecture parameters bytes bits_per_weight memory weights kv state scratch total; do
    out_has "\"$field\":"
done
out_has '"architecture":"Qwen3ForCausalLM"'
out_has '"bits_per_weight":16'
small=$(sed 's/.*"kv":\([0-9]*\).*/\1/' "$dir/out")
expect 0 inspect "$model" --json --ctx 64
[ "$(sed 's/.*"kv":\([0-9]*\).*/\1/' "$dir/out")" -lt "$small" ] || fail "--ctx does not change the estimate"
expect 0 inspect "$model"
out_has "Qwen3ForCausalLM"
expect 0 inspect "$model" -v
out_has "model.embed_tokens.weight"
expect 0 inspect "$model" --tensors --json
one_object
out_has '{"name":"model.embed_tokens.weight","dtype":"BF16","shape":['
expect 2 inspect "$model" --ctx 0

# --- verify
expect 0 verify "$model" --json
one_object
out_has '"ok":true,"problems":[]'
expect 0 verify "$model"
out_has "ok: "

# --- broken directories: a name, a reason, status 1
copy() { # fresh copy of the model in $dir/m
    rm -rf "$dir/m"
    cp -R "$model" "$dir/m"
    chmod -R u+w "$dir/m"
}
broken() { # what stderr (inspect) and the problems (verify) must say
    expect 1 inspect "$dir/m"
    err_has "marlin: "
    err_has "$1"
    expect 1 verify "$dir/m" --json
    one_object
    out_has '"ok":false,"problems":["'
    out_has "$1"
}
mkdir "$dir/m"
broken config.json
copy
rm "$dir/m/config.json"
broken config.json
copy
rm "$dir/m/model.safetensors"
broken safetensors
copy
size=$(wc -c <"$model/model.safetensors")
head -c $((size - 1000)) "$model/model.safetensors" >"$dir/m/model.safetensors"
broken model.safetensors
head -c 7 "$model/model.safetensors" >"$dir/m/model.safetensors"
broken model.safetensors
: >"$dir/m/model.safetensors"
broken model.safetensors
copy
echo '{"model_type": "no_such_model"}' >"$dir/m/config.json"
broken no_such_model
echo '{"model_type": ' >"$dir/m/config.json"
broken config.json
copy
echo '{}' >"$dir/m/tokenizer.json"
expect 1 verify "$dir/m"
out_has tokenizer.json
expect 1 inspect "$dir/nowhere"
err_has nowhere
expect 1 verify "$dir/nowhere"
err_has nowhere

# --- verify finds NaN by name: the last two bytes of the file are a bf16 of the last tensor
copy
head -c $((size - 2)) "$model/model.safetensors" >"$dir/m/model.safetensors"
printf '\300\177' >>"$dir/m/model.safetensors"
expect 1 verify "$dir/m" --json
out_has '"ok":false'
out_has "1 of "
out_has "NaN or infinite"
out_has "offset $((size - 2))"

# --- checksums: written, compared, and one flipped bit is seen
copy
expect 0 verify "$dir/m" --write
expect 0 verify "$dir/m" --json
grep -q '"checksums":[1-9]' "$dir/out" || fail "checksums are not compared"
head -c $((size - 1)) "$model/model.safetensors" >"$dir/m/model.safetensors"
last=$(tail -c 1 "$model/model.safetensors" | od -An -tu1 | tr -d ' ')
printf "\\$(printf %03o $((last ^ 1)))" >>"$dir/m/model.safetensors"
expect 1 verify "$dir/m"
out_has "model.safetensors: checksum"
copy
echo '{"algorithm":"xxh3-64","files":{"../m/config.json":"00"}}' >"$dir/m/checksums.json"
expect 1 verify "$dir/m"
out_has "is not a file name"
echo '[]' >"$dir/m/checksums.json"
expect 1 verify "$dir/m"
out_has "checksums.json"

# --- a full disk is a failure, not a silent loss
if [ -w /dev/full ]; then
    for verb in help version inspect; do
        got=0
        "$marlin" "$verb" >/dev/full 2>"$dir/err" || got=$?
        [ "$got" -eq 1 ] || fail "$verb to a full disk: status $got"
        err_has "stdout"
    done
fi

# --- the kernels verb
expect 0 kernels
out_has "gemv"
expect 0 kernels --list --json
one_object
out_has '"rows":[{"kernel":"'
expect 2 kernels --bench nothing-such
expect 0 kernels --bench pool --json --threads 1
one_object
out_has '"rows":['
echo "passed"
