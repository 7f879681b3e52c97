#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Inputs from public reports about other engines, kept outside the repository: what the program makes of them, against
# transformers 5.24 and tokenizers 0.23. The same kinds of fault have unit tests that need none of these files.
set -eu
marlin=$1 source=$2
field=${MARLIN_SHARED:-$source/../shared}/field
if [ ! -d "$field" ]; then
    echo "skipped: $field is not there"
    exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
unset MARLIN_MODEL MARLIN_CPU_MASK

fail() {
    echo "FAILED: $*" >&2
    head -c 2000 "$dir/err" >&2
    exit 1
}
case=
is() { # WANTED ARGUMENTS...: standard output of a run that succeeds
    wanted=$1
    shift
    "$marlin" "$@" <"$dir/in" >"$dir/out" 2>"$dir/err" || fail "exit status $?: marlin $*"
    [ "$(cat "$dir/out")" = "$wanted" ] || fail "'$(cat "$dir/out")', not '$wanted': marlin $*"
}
ids() { # FOLDER TEXT (of printf) IDS
    printf "$2" >"$dir/in"
    is "$3" tokenize "$field/$1" --special
}
speaks() { # DIRECTORY LIKE-DIRECTORY: both are the same model
    : >"$dir/in"
    "$marlin" run "$2" Hi -n 4 --greedy -q --threads 1 >"$dir/like" 2>"$dir/err" || fail "exit status $?: $2"
    is "$(cat "$dir/like")" run "$1" Hi -n 4 --greedy -q --threads 1
}
finished() { # ARGUMENTS...
    : >"$dir/in"
    "$marlin" "$@" <"$dir/in" >"$dir/out" 2>"$dir/err" || fail "exit status $?: marlin $*"
}

# --- 01: more tokens than rows
case=$field/01-tokenizer-has-more-tokens-than-rows/model
ids 01-tokenizer-has-more-tokens-than-rows/model Hello '42 71 78 78 81'
finished run "$case" Hello -n 4 --greedy --threads 1
finished verify "$case" --threads 1
printf 'Hello there. %.0s' 1 2 3 4 5 6 7 8 9 10 >"$dir/text"
finished perplexity "$case" --text "$dir/text" --ctx 32 --max-tokens 64 --threads 1

# --- 03: ids behind the end of the tokenizer
case=$field/03-sampled-id-beyond-the-tokenizer/model
finished run "$case" 'Hello world' -n 40 --seed 1 -q --threads 1
finished run "$case" 'Hello world' -n 40 --seed 1 --json -q --threads 1
echo 5 350 6 >"$dir/in"
is '#$' tokenize "$case" --decode

# --- 04: added tokens outside the tokenizer's file
case=04-added-tokens-outside-tokenizer-file
ids $case/json 'a<|im_end|>b' '67 300 68'
ids $case/spm '<|im_start|>user\nHello there<|im_end|>' '1 601 332 540 270 13 565 498 538 490 600'
ids $case/spm '<unk>a</s>b' '1 0 261 2 272'
echo 1 601 365 600 >"$dir/in"
is '<s><|im_start|> sp<|im_end|>' tokenize "$field/$case/spm" --decode --special

# --- 05: links
case=$field/05-links-out-of-the-directory/plain
hub=$dir/hub/models--a--b
mkdir -p "$hub/blobs" "$hub/snapshots/1a2b/sub" "$dir/local-dir" "$dir/cache/blobs" "$dir/variant" "$dir/absolute"
for file in "$case"/*; do
    name=$(basename "$file")
    cp "$file" "$hub/blobs/$name.blob"
    cp "$file" "$dir/cache/blobs/$name.blob"
    ln -s "../../../blobs/$name.blob" "$hub/snapshots/1a2b/sub/$name"
    ln -s "../cache/blobs/$name.blob" "$dir/local-dir/$name"
    ln -s "$file" "$dir/absolute/$name"
done
cp "$case/config.json" "$case/tokenizer.json" "$dir/variant"
ln -s ../cache/blobs/model.safetensors.blob "$dir/variant/model.safetensors"
for model in "$hub/snapshots/1a2b/sub" "$dir/local-dir" "$dir/variant" "$dir/absolute"; do
    speaks "$model" "$case"
done

# --- 08: which safetensors belong to the model
case=$field/08-which-safetensors-belong-to-the-model
for model in "$case"/*/; do
    speaks "$model" "$case/plain"
done
cp -R "$case/surplus-in-shard" "$dir/twice"
chmod -R u+w "$dir/twice"
cp "$dir/twice/model-00001-of-00002.safetensors" "$dir/twice/model-00003-of-00003.safetensors"
sed -i.old 's/"lm_head.weight": "model-00001-of-00002/"lm_head.weight": "model-00003-of-00003/' \
    "$dir/twice/model.safetensors.index.json"
speaks "$dir/twice" "$case/plain"

# --- 09: a tied matrix that has only the head's name
finished run "$field/09-tied-only-lm-head-on-disk/model" Hi -n 2 --greedy -q --threads 1

# --- 10: patterns
case=10-oniguruma-patterns
ids $case/bloom-class-in-class 'Hello, world (2024)!' '42 71 78 78 81 14 266 282 78 70 223 10 20 18 20 22 11 3'
ids $case/posix-bracket 'Hello, x1' '42 71 78 78 81 14 223 90 19'
ids $case/silent-pL 'Hello, pLx1' '42 71 78 78 81 14 223 82 46 90 19'

# --- 11: unigram in tokenizer.json
ids 11-unigram-tokenizer-json/json-only 'ab b a' '6 3 5 3 4'
ids 11-unigram-tokenizer-json/json-and-model 'ab b a' '6 3 5 3 4'

cp -R "$field/11-unigram-tokenizer-json/json-and-model" "$dir/unsupported"
chmod -R u+w "$dir/unsupported"
sed -i.old 's/"normalizer": *null/"normalizer": {"type": "Precompiled"}/' "$dir/unsupported/tokenizer.json"
"$marlin" tokenize "$field/11-unigram-tokenizer-json/model-only" <"$dir/in" >"$dir/like" 2>"$dir/err"
is "$(cat "$dir/like")" tokenize "$dir/unsupported"
grep -q 'normalizer type "Precompiled" is not supported: tokenizer.model is used instead' "$dir/err" || fail "no warning"

# --- 12: NUL
ids 12-nul-in-a-vocabulary/vocab 'a\0b' '67 191 68'
ids 12-nul-in-a-vocabulary/added 'a\0b' '67 300 68'

# --- 13: types
case=$field/13-type-of-an-unused-tensor
speaks "$case/unused-f64" "$field/08-which-safetensors-belong-to-the-model/plain"
finished verify "$case/weights-f64" --threads 1

# --- 14: parts of tokenizer.json
case=14-tokenizer-json-parts
ids $case/added-token-twice 'a<x>b' '67 300 68'
ids $case/roberta-processing the '1 86 260 2'
ids $case/unk-not-in-vocab the '86 260'
ids $case/bytelevel-normalizer 'The \303\251' '54 260 223 130 105'

# --- 16: what Python accepts
for model in "$field/16-values-that-python-accepts"/*/; do
    finished run "$model" Hi -n 2 --seed 1 --threads 1
done
finished run "$field/16-values-that-python-accepts/empty" Hi -n 2 --seed 1 --threads 1
grep -q 'generation_config.json: JSON: .* left aside' "$dir/err" || fail "an empty generation_config.json is not named"

echo "every input gives what it should"
