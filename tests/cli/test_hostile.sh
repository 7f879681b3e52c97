#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The program on directories that mean harm: every one ends in exit status 1 and a message on stderr that begins with
# "marlin: " and names the file, within a limit of time and memory, and with nothing on stdout.
set -eu
marlin=$1 source=$2
model=$source/models/marlin-chat
fixture=$source/tests/golden/fixtures/llama3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
unset MARLIN_MODEL MARLIN_CPU_MASK

seconds=60 memory=2000000 # KiB of address space
if ! (ulimit -v $memory && "$marlin" version) >"$dir/out" 2>&1; then
    echo "without the limit of memory: the program does not start under it (a sanitizer reserves more)"
    memory=unlimited
fi

fail() {
    echo "FAILED: $*" >&2
    for file in out err; do
        echo "--- $file:" >&2
        head -c 2000 "$dir/$file" >&2
    done
    exit 1
}

count=0
# refused NAME ARGUMENTS...: NAME must be in the message. Standard input is $dir/in.
: >"$dir/in"
refused() {
    name=$1 got=0
    shift
    (ulimit -v $memory && exec timeout $seconds "$marlin" "$@") <"$dir/in" >"$dir/out" 2>"$dir/err" || got=$?
    [ "$got" -eq 1 ] || fail "exit status $got, not 1: marlin $*"
    head -n 1 "$dir/err" | grep -q '^marlin: ' || fail "stderr does not begin with 'marlin: ': marlin $*"
    grep -qF -- "$name" "$dir/err" || fail "stderr does not name '$name': marlin $*"
    [ ! -s "$dir/out" ] || fail "something is on stdout: marlin $*"
    if grep -qE 'Sanitizer|runtime error|core dumped' "$dir/err"; then fail "a sanitizer reports: marlin $*"; fi
    count=$((count + 1))
}

bad=$dir/bad
fresh() { # a sound model to spoil
    rm -rf "$bad"
    mkdir "$bad"
    cp "$fixture/config.json" "$fixture/model.safetensors" "$bad"
    chmod u+w "$bad"/*
}
shard() { # the file is one of several: a model.safetensors would be the whole model
    mv "$bad/model.safetensors" "$bad/one.safetensors"
}
weights() { # the verbs that read weights; $1 is what they must name
    refused "$1" inspect "$bad"
    refused "$1" run "$bad" x -n 1
}
sparse() { # FILE BYTES: a file of that length of which nothing is written
    dd if=/dev/null of="$1" bs=1 seek="$2" count=0 2>/dev/null
}
length() { # the eight bytes in front of a safetensors header of $1 < 65536 bytes
    printf "$(printf '\\%03o\\%03o\\000\\000\\000\\000\\000\\000' $(($1 % 256)) $(($1 / 256)))"
}
header() { # TEXT DATA: a safetensors file
    fresh
    {
        length ${#1}
        printf '%s%s' "$1" "$2"
    } >"$bad/model.safetensors"
    weights model.safetensors
}
entry() { # an entry of tensor t over four bytes of data
    header "{\"t\":$1}" abcd
}

# --- 1 and 2: lengths
for bytes in '' '1234567' '\000\000\000\000\000\000\000\000' '\001\000\000\000\000\000\000\000' \
    '\001\000\000\000\000\000\000\000{' '\377\377\377\377\377\377\377\377{}' '\000\000\000\000\000\000\000\200{}' \
    '\003\000\000\000\000\000\000\000{}' '\001\341\365\005\000\000\000\000{}'; do
    fresh
    printf "$bytes" >"$bad/model.safetensors"
    weights model.safetensors
done
fresh
sparse "$bad/model.safetensors" 3000000000
weights model.safetensors

# --- 3 to 5: text
header '{"t":{"dtype":"U8' ''
header '{}x' ''
header "$(printf '\357\273\277{}')" ''
header '{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}' abcd
header '{"__metadata__":7}' ''
fresh
{
    printf '\000\000\000\003\000\000\000\000{"t":' # 48 MiB
    head -c 50331642 /dev/zero | tr '\000' '['
} >"$bad/model.safetensors"
weights model.safetensors

# --- 6 to 8: entries
entry '{"dtype":"U8","shape":[4],"data_offsets":[4,0]}'
entry '{"dtype":"U8","shape":[4],"data_offsets":[-0,4]}'
entry '{"dtype":"U8","shape":[4],"data_offsets":[0,4e0]}'
entry '{"dtype":"U8","shape":[4],"data_offsets":[0,18446744073709551616]}'
entry '{"dtype":"U8","shape":[3],"data_offsets":[1,4]}'
entry '{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,4]}'
entry '{"dtype":"F32","shape":[4398046511105,4194304],"data_offsets":[0,4]}'
entry '{"dtype":"U8","shape":[5],"data_offsets":[0,4]}'
entry '{"dtype":"F16 ","shape":[2],"data_offsets":[0,4]}'
entry '{"dtype":"F-4","shape":[7],"data_offsets":[0,4]}'

# --- 9: shorter than promised, no regular file
entry '{"dtype":"U8","shape":[4000000000],"data_offsets":[0,4000000000]}'
fresh
size=$(wc -c <"$bad/model.safetensors")
head -c $((size - 1)) "$fixture/model.safetensors" >"$bad/model.safetensors"
weights model.safetensors
for kind in fifo directory zero random loop nothing; do
    for file in model.safetensors config.json model.safetensors.index.json; do
        fresh
        if [ $file = model.safetensors.index.json ]; then shard; fi
        rm -f "$bad/$file"
        case $kind in
        fifo) mkfifo "$bad/$file" ;;
        directory) mkdir "$bad/$file" ;;
        zero) ln -s /dev/zero "$bad/$file" ;;
        random) ln -s /dev/random "$bad/$file" ;;
        loop) ln -s "$file" "$bad/$file" ;;
        nothing) ln -s nowhere "$bad/$file" ;;
        esac
        weights "$file"
    done
done
for path in /dev/zero /dev/random "$dir/in" "$dir/none"; do
    refused "$path" inspect "$path"
done
mkfifo "$dir/fifo"
for path in /dev/zero /dev/random "$dir/fifo" "$dir"; do
    refused "$path" tokenize "$model" --text "$path"
done

# --- 10: the index
for name in ../../etc/passwd /etc/passwd ../bad/one.safetensors none.safetensors .one.safetensors; do
    fresh
    shard
    printf '{"weight_map":{"model.norm.weight":"%s"}}' "$name" >"$bad/model.safetensors.index.json"
    weights "$name"
done
fresh
shard
printf '{"weight_map":{"model.norm.weight":7}}' >"$bad/model.safetensors.index.json"
weights model.safetensors.index.json
fresh
shard
cp "$bad/one.safetensors" "$bad/twice.safetensors"
weights .safetensors

# --- 11 to 13: config.json
setting() { # KEY VALUE
    fresh
    sed "s|\"$1\": [^,]*|\"$1\": $2|" "$fixture/config.json" >"$bad/config.json"
    cmp -s "$fixture/config.json" "$bad/config.json" && fail "the fixture has no $1"
    weights config.json
    grep -qF -- "$1" "$dir/err" || fail "stderr does not name the key '$1'"
}
for value in 0 -1 2147483648 '"4096"' 1e309 null; do
    setting hidden_size "$value"
done
setting num_attention_heads 0
setting num_key_value_heads 3
setting num_hidden_layers 1000000000
setting head_dim 31
setting rms_norm_eps 0
setting rms_norm_eps -1
setting factor 0
setting factor -8.0
setting rope_theta 1
setting rope_theta 0
setting original_max_position_embeddings 0
setting rope_type '"mrope"'
setting model_type '"nobody"'
fresh
sed 's|"vocab_size": [^,]*|"vocab_size": 999|; s|"vocab_size": [^,]*$|"vocab_size": 999|' "$fixture/config.json" \
    >"$bad/config.json"
refused model.embed_tokens.weight run "$bad" x -n 1

# --- 16: size
fresh
sparse "$bad/config.json" 1073741824
weights config.json
fresh
{
    printf '{"a":['
    head -c 6000000 /dev/zero | tr '\000' '1' | sed 's/11/1,/g'
    printf '1]}'
} >"$bad/config.json"
weights config.json

# --- 18 to 22: tokenizers
vocabulary() { # VOCABULARY MERGES MORE
    fresh
    printf '{%s"model":{"type":"BPE","vocab":%s,"merges":%s}}' "$3" "$1" "$2" >"$bad/tokenizer.json"
    echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa! >"$dir/in"
    refused tokenizer.json tokenize "$bad"
    refused tokenizer.json run "$bad" x -n 1
}
for file in tokenizer.json tokenizer.model; do
    fresh
    sparse "$bad/$file" 524288000
    refused "$file" tokenize "$bad"
    refused "$file" run "$bad" x -n 1
    rm "$bad/$file"
    ln -s /dev/zero "$bad/$file"
    refused "$file" tokenize "$bad"
    rm "$bad/$file"
    mkfifo "$bad/$file"
    refused "$file" tokenize "$bad"
done
fresh
refused "$bad" tokenize "$bad"
printf '\012\003\012\001a' >"$bad/tokenizer.model"
refused tokenizer.model tokenize "$bad"
vocabulary '{"a":-1}' '[]' ''
vocabulary '{"a":2147483648}' '[]' ''
vocabulary '{"a":0,"b":0}' '[]' ''
vocabulary '{"a":0,"a":1}' '[]' ''
vocabulary '{"a":0}' '["a b"]' ''
vocabulary '{"a":0}' '[["a",""]]' ''
split() {
    vocabulary '{"a":0}' '[]' "\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"$1\"}},"
}
split 'a{1,1000000000}'
split '(?<=a*)b'
split '[z-a]'
vocabulary '{"a":0}' '[]' '"added_tokens":[{"id":1,"content":""}],'
fresh
printf '{"pre_tokenizer":{"type":"Split","behavior":"Isolated","pattern":{"Regex":"(a|aa)+$"}},"model":{"type":"BPE",%s' \
    '"vocab":{"a":0},"merges":[]}}' >"$bad/tokenizer.json"
refused 'backtracks too much' tokenize "$bad"

# --- 23: texts in time
timed() {
    (ulimit -v $memory && exec timeout $seconds "$marlin" tokenize "$model") <"$dir/in" >"$dir/out" 2>"$dir/err" ||
        fail "tokenize of $1"
    [ -s "$dir/out" ] || fail "no ids of $1"
}
head -c 10000000 /dev/zero | tr '\000' 'a' >"$dir/in"
timed "ten million letters"
head -c 1000000 /dev/zero | tr '\000' ' ' >"$dir/in"
timed "a million spaces"
head -c 1000000 /dev/zero | tr '\000' '\377' >"$dir/in"
timed "a million bytes that are not UTF-8"
: >"$dir/in"

# --- 9: a model that is cut while it speaks
rm -rf "$bad"
cp -R "$model" "$bad"
chmod -R u+w "$bad"
: >"$dir/out"
"$marlin" run "$bad" "Once" -n 4000 --ctx 4096 --greedy >"$dir/out" 2>"$dir/err" &
process=$!
while [ ! -s "$dir/out" ] && kill -0 $process 2>/dev/null; do sleep 0.05; done
: >"$bad/model.safetensors"
got=0
wait $process || got=$?
[ "$got" -eq 1 ] || fail "exit status $got, not 1, when the model is cut"
grep -q "^marlin: .*model.safetensors: the file was truncated while in use" "$dir/err" || fail "the cut file is not named"

echo "$count refusals, each within $seconds s and $memory KiB"
