#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The frame of the program as a user meets it: exit statuses, where output goes, help, refusals; tokenize, inspect and
# verify on the embedded model and on broken directories.
set -eu
marlin=$1 source=$2
model=$source/models/marlin-chat
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
# --- near misses: the word that was meant, on one line
meant() { # TEXT ARGUMENTS...
    text=$1
    shift
    expect 2 "$@"
    err_has "$text"
    [ "$(wc -l <"$dir/err")" -eq 1 ] || fail "more than a line: marlin $*"
}
meant "did you mean run?" rn
meant "did you mean quantize?" quantise
meant "did you mean quantize?" quantzie
meant "did you mean inspect?" info
meant "marlin run $model" "$model"
meant "did you mean --temp?" run --temperature 1
meant "did you mean --tokens?" run --max-tokens 5
meant "did you mean --tokens?" run --tokenz=5
meant "did you mean --top-k?" run --top_k 5
meant "'marlin help run' lists the options" run --no-such-option
meant "give the folder to write to with -o" quantize "$model" "$dir/q"
meant "the text is given with --text FILE" perplexity "$model" README.md
meant "the text comes with --text FILE" tokenize "$model" text
meant "'Q4_K_M' is not a number from 1 to 8" quantize "$model" -o "$dir/q" -b Q4_K_M
meant "'4bit' is not a number from 1 to 8" quantize "$model" -o "$dir/q" -b 4bit
expect 0 run -n=2 --greedy x
err_has "generated: 2 tokens"
expect 0 run -n 2 --greedy --ctx 5000 x
err_has "--ctx 5000: more than the 4096 positions"
expect 0 run -n 2 --greedy --ctx 4096 x
grep -q 'more than the' "$dir/err" && fail "a remark on a context that fits"
expect 1 run -n 2 --ctx 1000000000 x
err_has "--ctx 1000000000: "
expect 0 run -n 1 --greedy --threads 1000 x
err_has "--threads 1000: more than the"
mkdir "$dir/none"
expect 1 verify "$dir/none"
out_has "2 problems"
rmdir "$dir/none"
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

# --- one table: whatever help knows of a verb, the manual page and the completions know too
agree() { # WHAT TEXT FILE
    grep -qF -- "$2" "$dir/$3" || fail "$3 lacks $2 of $1"
}
for page in man "completion bash" "completion zsh" "completion fish"; do
    # shellcheck disable=SC2086
    expect 0 help --${page}
    tr -d "\\\\'" <"$dir/out" >"$dir/page.${page#completion }"
done
expect 0 help --json
all=$(tr ',' '\n' <"$dir/out" | sed -n 's/.*"name":"\([a-z]*\)".*/\1/p')
[ "$(echo "$all" | wc -l)" -ge 11 ] || fail "help --json lists verbs: $all"
for verb in $all; do
    expect 0 help "$verb" --json
    one_object
    out_has "{\"verb\":\"$verb\","
    cp "$dir/out" "$dir/object"
    for page in bash zsh fish man; do agree verb "$verb" page.$page; done
    names=$(sed 's/{"name"/\n&/g' "$dir/object" | sed -n 's/^{"name":"\([a-z0-9-]*\)".*/\1/p')
    [ "$(echo "$names" | wc -l)" -ge 6 ] || fail "help $verb --json: no common options"
    expect 0 help "$verb"
    for name in $names; do
        out_has "--$name"
        agree "$verb" "fB--$name" page.man
        agree "$verb" " --$name" page.bash
        sed -n "/^    $verb)/,/;;/p" "$dir/page.zsh" >"$dir/page.zsh.$verb"
        agree "$verb" "--$name" "page.zsh.$verb"
        grep -Eq -- "(from $verb|-c marlin) -l $name( |\$)" "$dir/page.fish" || fail "page.fish lacks $name of $verb"
    done
    # And nothing that it does not know.
    grep -o '^      --[a-z0-9-]*\|^  -., --[a-z0-9-]*' "$dir/out" | sed 's/.*--//' | sort >"$dir/shown"
    echo "$names" | sort >"$dir/known"
    cmp -s "$dir/shown" "$dir/known" || fail "help $verb and its JSON differ: $(diff "$dir/shown" "$dir/known")"
done
for name in MARLIN_MODEL MARLIN_CPU_MASK; do
    expect 0 help
    out_has $name
    agree environment $name page.man
done
for verb in run quantize tokenize perplexity bench; do
    expect 0 help $verb
    out_has "examples:"
    # The options of the examples are there.
    sed -n '/^examples:/,/^$/p' "$dir/out" | grep -o -- ' --[a-z-]*' | sort -u | while read -r option; do
        case $option in --) continue ;; esac
        agree "the examples of $verb" "$option" out
        grep -q -- "^ .*$option.*  \|^ *$option\|, $option " "$dir/out" || fail "an example of $verb has $option, which is none"
    done
done
expect 0 help --man --json
one_object
out_has '{"text":".TH marlin 1'

# --- paragraphs fit the line: 100 columns where there is no terminal
for verb in $all; do
    expect 0 help "$verb"
    wide=$(awk 'length($0) > 100' "$dir/out" | head -n 1)
    [ -z "$wide" ] || fail "a line of more than 100 columns: $wide"
done

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
