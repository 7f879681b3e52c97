#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# `marlin quantize`: fields, checksums, recipes, killed and resumed runs, other jobs, full disks.
set -eu
marlin=$1 source=$2
model=$source/models/marlin-chat
small=$source/tests/golden/fixtures/mixtral
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# ---- a real model, on a text ----

cat "$source/README.md" "$source/CONTRIBUTING.md" >"$dir/text"
"$marlin" quantize "$model" -o "$dir/real" -b 2 --head-bits 2 --calib-tokens 256 --calib "$dir/text" --json >"$dir/json" \
    2>"$dir/err" || fail "quantize: $(cat "$dir/err")"
for field in bits_per_weight seconds bytes tensors; do
    grep -q "\"$field\":" "$dir/json" || fail "field $field is missing: $(head -c 300 "$dir/json")"
done
grep -q '"name":"model.layers.0.self_attn.q_proj","bits":2,"proxy_error":0\.0' "$dir/json" ||
    fail "tensors: $(head -c 400 "$dir/json")"
grep -q '^marlin: memory: at most' "$dir/err" || fail "the memory estimate is not printed"
grep -q '"quant_method": "marlin"' "$dir/real/config.json" || fail "config.json: $(cat "$dir/real/config.json")"
for file in tokenizer.json generation_config.json model.safetensors; do
    grep -q "\"$file\"" "$dir/real/checksums.json" || fail "checksums.json lacks $file"
done
[ ! -e "$dir/real/.quantize" ] || fail "the work folder is left behind"

# The same text from it whatever the number of threads, past 512 tokens, where attention is shared out over them.
head -c 3000 "$dir/text" >"$dir/prompt"
for threads in 1 2 5; do
    "$marlin" run "$dir/real" --greedy -n 64 --threads $threads - <"$dir/prompt" >"$dir/text$threads" 2>"$dir/err" ||
        fail "run: $(cat "$dir/err")"
    cmp -s "$dir/text1" "$dir/text$threads" || fail "$threads threads write something else than one"
done

# ---- a small model, on its own text ----

options="-b 3 --calib-tokens 512"
# shellcheck disable=SC2086
"$marlin" quantize "$small" -o "$dir/a" $options >"$dir/out" 2>"$dir/err" || fail "quantize: $(cat "$dir/err")"

# The same bytes again with another number of threads, killed on the way again and again. A kill may come before the job
# is begun and after it has ended: --resume begins it in the first case, and has nothing to do in the other.
tries=0 resume=
while :; do
    tries=$((tries + 1))
    [ $tries -le 40 ] || fail "does not finish: $(cat "$dir/err")"
    # shellcheck disable=SC2086
    "$marlin" quantize "$small" -o "$dir/b" $options --threads 1 $resume >"$dir/out" 2>"$dir/err" &
    pid=$!
    sleep "0.$((tries % 9 + 1))"
    [ $tries -gt 10 ] || kill -9 $pid 2>/dev/null || :
    rc=0
    wait $pid 2>/dev/null || rc=$?
    [ $rc -ne 0 ] || break
    [ $rc -eq 137 ] || fail "exit status $rc: $(cat "$dir/err")"
    resume=--resume
done
diff -r "$dir/a" "$dir/b" || fail "a killed and resumed run differs"

# Killed after its last step, while the work folder was being removed: the same command with --resume says that it is
# complete, clears the rest away, and changes nothing. With other options, or on a folder of something else, it fails.
mkdir "$dir/b/.quantize-old"
echo left >"$dir/b/.quantize-old/job.json"
# shellcheck disable=SC2086
"$marlin" quantize "$small" -o "$dir/b" $options --resume >"$dir/out" 2>"$dir/err" || fail "finished: $(cat "$dir/err")"
grep -q 'complete already' "$dir/out" || fail "finished: $(cat "$dir/out")"
diff -r "$dir/a" "$dir/b" || fail "resuming a finished run changes it"
# shellcheck disable=SC2086
"$marlin" quantize "$small" -o "$dir/b" $options --resume --json >"$dir/out" 2>"$dir/err" || fail "finished: $(cat "$dir/err")"
[ "$(cat "$dir/out")" = '{"complete_already":true}' ] || fail "finished, --json: $(cat "$dir/out")"
for other in "-b 4" "-b 3 --seed 7" "-b 3 --effort low" "-b 3 --format exl3"; do
    rc=0
    # shellcheck disable=SC2086
    "$marlin" quantize "$small" -o "$dir/b" --calib-tokens 512 $other --resume >"$dir/out" 2>"$dir/err" || rc=$?
    [ $rc -eq 2 ] && grep -q 'complete, but was made with another' "$dir/err" || fail "finished, now $other: $(cat "$dir/err")"
done
mkdir "$dir/diary"
cp "$small/config.json" "$dir/diary"
rc=0
# shellcheck disable=SC2086
"$marlin" quantize "$small" -o "$dir/diary" $options --resume >"$dir/out" 2>"$dir/err" || rc=$?
[ $rc -eq 2 ] && grep -q 'is not empty' "$dir/err" || fail "--resume in a plain folder: $(cat "$dir/err")"

# Interrupted politely: exit 1, a hint, and nothing lost. Two runs at once, another job, no --resume: refused.
# shellcheck disable=SC2086
"$marlin" quantize "$small" -o "$dir/c" $options >"$dir/out" 2>"$dir/err" &
pid=$!
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    [ -e "$dir/c/.quantize/job.json" ] && break
    sleep 0.1
done
rc=0
# shellcheck disable=SC2086
"$marlin" quantize "$small" -o "$dir/c" $options --resume >"$dir/out2" 2>"$dir/err2" || rc=$?
[ $rc -eq 0 ] || grep -q 'another process' "$dir/err2" || fail "two at once: $(cat "$dir/err2")"
kill -TERM $pid 2>/dev/null || :
rc=0
wait $pid || rc=$?
if [ $rc -ne 0 ]; then
    [ $rc -eq 1 ] || fail "an interrupted run exits 1, not $rc"
    grep -q -- '--resume' "$dir/err" || fail "no hint to --resume: $(cat "$dir/err")"
    rc=0
    # shellcheck disable=SC2086
    "$marlin" quantize "$small" -o "$dir/c" $options 2>"$dir/err" || rc=$?
    [ $rc -eq 2 ] || fail "an unfinished job without --resume exits 2, not $rc"
    rc=0
    # shellcheck disable=SC2086
    "$marlin" quantize "$small" -o "$dir/c" $options --seed 7 --resume 2>"$dir/err" || rc=$?
    [ $rc -eq 2 ] && grep -q 'another seed' "$dir/err" || fail "another seed: $(cat "$dir/err")"
    # shellcheck disable=SC2086
    "$marlin" quantize "$small" -o "$dir/c" $options --resume >"$dir/out" 2>"$dir/err" || fail "resume: $(cat "$dir/err")"
fi
diff -r "$dir/a" "$dir/c" || fail "an interrupted and resumed run differs"

# A disk that is full: files of more than 100 blocks cannot be written.
rc=0
(
    trap '' XFSZ
    ulimit -f 100
    # shellcheck disable=SC2086
    "$marlin" quantize "$small" -o "$dir/d" $options 2>"$dir/err"
) >"$dir/out" || rc=$?
[ $rc -eq 1 ] || fail "a full disk exits 1, not $rc"
grep -q 'no room for\|cannot write' "$dir/err" || fail "a full disk: $(cat "$dir/err")"
# shellcheck disable=SC2086
"$marlin" quantize "$small" -o "$dir/d" $options --resume >"$dir/out" 2>"$dir/err" || fail "resume: $(cat "$dir/err")"
diff -r "$dir/a" "$dir/d" || fail "resumed after a full disk differs"

# ---- a model whose first layer is fed zeros: nothing to learn from, which the result says ----

bad=$dir/bad
mkdir "$bad"
cp "$source"/tests/golden/fixtures/llama3/config.json "$source"/tests/golden/fixtures/llama3/model.safetensors "$bad"
chmod u+w "$bad"/*
header=$(od -An -tu8 -N8 "$bad/model.safetensors" | tr -d ' ')
range=$(head -c $((8 + header)) "$bad/model.safetensors" | tr -d ' ' |
    grep -a -o '"model.layers.0.input_layernorm.weight":{[^}]*}' | sed 's/.*offsets":\[\([0-9]*\),\([0-9]*\)\].*/\1 \2/')
begin=${range% *} end=${range#* }
dd if=/dev/zero of="$bad/model.safetensors" bs=1 conv=notrunc seek=$((8 + header + begin)) count=$((end - begin)) 2>"$dir/err"
"$marlin" quantize "$bad" -o "$dir/h" -b 2 --calib-tokens 64 --json >"$dir/json" 2>"$dir/err" ||
    fail "a Hessian of zeros: $(cat "$dir/err")"
for name in q k v o; do
    grep -q "\"name\":\"model.layers.0.self_attn.${name}_proj\",[^}]*\"fallback\":\"the Hessian is zero" "$dir/json" ||
        fail "${name}_proj fell back without saying so"
    grep -q "^marlin: .*layers.0.self_attn.${name}_proj: quantized without feedback" "$dir/err" || fail "no warning: $(cat "$dir/err")"
done
[ "$(grep -o '"fallback"' "$dir/json" | wc -l)" -eq 4 ] || fail "fallbacks: $(cat "$dir/json")"
"$marlin" verify "$dir/h" >"$dir/out" 2>"$dir/err" || fail "verify: $(cat "$dir/out" "$dir/err")"

# ---- recipes and wrong usage ----

printf '# more for the values\n*.v_proj 4\nmodel.layers.0.* 3\n' >"$dir/recipe"
"$marlin" quantize "$small" -o "$dir/e" -b 2 --calib-tokens 64 --recipe "$dir/recipe" --json >"$dir/json" 2>"$dir/err" ||
    fail "recipe: $(cat "$dir/err")"
grep -q '"name":"model.layers.1.self_attn.v_proj","bits":4' "$dir/json" || fail "recipe: v_proj"
grep -q '"name":"model.layers.0.self_attn.v_proj","bits":3' "$dir/json" || fail "recipe: the last rule wins"
printf '*.v_proj four\n' >"$dir/recipe"
rc=0
"$marlin" quantize "$small" -o "$dir/f" --recipe "$dir/recipe" 2>"$dir/err" || rc=$?
[ $rc -eq 2 ] && grep -q 'recipe, line 1' "$dir/err" || fail "a bad recipe: $(cat "$dir/err")"

refused() { # a line, what it is told, options
    printf '%s\n' "$1" >"$dir/recipe"
    rc=0 line=$1 why=$2
    shift 2
    "$marlin" quantize "$model" -o "$dir/f" --recipe "$dir/recipe" "$@" >"$dir/out" 2>"$dir/err" || rc=$?
    [ $rc -eq 2 ] && grep -q "^marlin: recipe, line 1: $why" "$dir/err" || fail "'$line' must be refused: $(cat "$dir/err")"
    rm -rf "$dir/f"
}
refused 'model.embed_tokens 4' '4 bits for model.embed_tokens: the embedding has 8 (int8 rows) or 16'
refused 'model.embed_tokens -8' '-8 bits for model.embed_tokens'
refused 'model.embed_tokens 99999999999999999999' '[0-9]* bits for model.embed_tokens'
refused 'model.embed_tokens.weight 8' 'model.embed_tokens.weight is no tensor'
refused 'model.embed_tokens 8 8' '.*is not PATTERN BITS'
refused 'model.embed_tokens 8' '8 bits for model.embed_tokens: the embedding stays as it is in this format' --format exl3
refused '* 7' '7 bits for '

# ---- an embedding in int8 rows: half the bytes, and hardly another model ----

member() { # file, field
    sed "s/.*\"$2\":\([0-9.e+-]*\).*/\1/" "$1"
}
for seed in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do # text that the model knows: perplexities of other text are in the hundreds
    "$marlin" run "$model" "Once upon a time" -n 400 --seed $seed -q || fail "run with seed $seed"
done >"$dir/own"
printf 'lm_head 16\n' >"$dir/recipe"
printf 'model.embed_tokens 8\nlm_head 16\n' >"$dir/recipe8"
for r in recipe recipe8; do # the head is the embedding: it must stay what it was
    "$marlin" quantize "$model" -o "$dir/$r.out" -b 4 --calib-tokens 256 --calib "$dir/text" --effort low --recipe "$dir/$r" --json \
        >"$dir/$r.json" 2>"$dir/err" || fail "$r: $(cat "$dir/err")"
    "$marlin" perplexity "$dir/$r.out" --text "$dir/own" --ctx 128 --max-tokens 4096 --json >"$dir/$r.ppl" 2>"$dir/err" ||
        fail "perplexity: $(cat "$dir/err")"
done
grep -q '{"name":"model.embed_tokens","bits":8,"proxy_error":[0-9.e-]*}\]}' "$dir/recipe8.json" || fail "the embedding is not reported"
if grep -q embed_tokens "$dir/recipe.json"; then fail "an embedding that is left alone is reported"; fi
"$marlin" inspect "$dir/recipe8.out" >"$dir/out" || fail inspect
grep -q 'head of 16 bits, embedding of 8$' "$dir/out" || fail "inspect: $(cat "$dir/out")"
grep -q '"embedding_bits": 8,' "$dir/recipe8.out/config.json" || fail "config.json: $(cat "$dir/recipe8.out/config.json")"
"$marlin" verify "$dir/recipe8.out" >"$dir/out" 2>"$dir/err" || fail "verify: $(cat "$dir/out" "$dir/err")"
awk -v a="$(member "$dir/recipe.ppl" perplexity)" -v b="$(member "$dir/recipe8.ppl" perplexity)" \
    'BEGIN { exit !(a > 1 && b > a * 0.995 && b < a * 1.005) }' || fail "perplexity: $(cat "$dir/recipe.ppl" "$dir/recipe8.ppl")"
echo "perplexity with int8 rows $(member "$dir/recipe8.ppl" perplexity), without $(member "$dir/recipe.ppl" perplexity)"

for wrong in "--bits 9" "--bits 1" "--head-bits 7" "--max-memory lots" "--max-memory 1M" "--calib $dir/absent"; do
    rc=0
    # shellcheck disable=SC2086
    "$marlin" quantize "$model" -o "$dir/g" $wrong >"$dir/out" 2>"$dir/err" || rc=$?
    [ $rc -ne 0 ] || fail "$wrong must fail"
    grep -q '^marlin: ' "$dir/err" || fail "$wrong: no message"
    rm -rf "$dir/g"
done
rc=0
"$marlin" quantize "$model" 2>"$dir/err" || rc=$?
[ $rc -eq 2 ] || fail "no -o exits 2, not $rc"
echo ok
