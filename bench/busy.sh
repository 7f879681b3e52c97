#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# How much longer work takes beside other programs that never sleep: generation, a prompt and quantizing, alone and beside 2
# and 4 busy loops.
#
#     bench/busy.sh [options]      0 when nothing takes more than 1.35 times its fair share of time, else 1
#
#   --shape S       random weights of this shape, 4 bits ("qwen3-0.6b")
#   --model DIR     a small model, run as it is and quantized ("models/marlin-chat")
#   --loops LIST    busy loops beside it ("2,4")
#   --threads N     of marlin, on as many processors (0 = all cores)
#   --repeat N      rounds, each of which goes through alone and beside; medians count (5)
#   --session S     own: every loop is in a session of its own; ours: all are in this script's ("own")
#   --fair F        counted: loops and threads get the same time of a processor; measured: what threads that never wait for
#                   each other got beside the same loops ("counted")
#
# A kernel that groups sessions (sched_autogroup_enabled) gives each session the same time, however many threads it has: two
# threads beside two loops in sessions of their own then get a third of the machine, not half. The share that was measured is
# printed in any case. Use an idle machine: what else runs counts as a loop.
set -euo pipefail
cd "$(dirname "$0")/.."
marlin=${BUILD:-build}/marlin
shape=qwen3-0.6b model=models/marlin-chat loops=2,4 threads=0 repeat=5 session=own fair=counted
LIMIT=1.35 LONGEST=600 # seconds that a loop lives at most

usage() {
    sed -n '/^#     bench/,/^# A kernel/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
    exit 2
}

while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $1 in
    --shape) shape=$2 ;;
    --model) model=$2 ;;
    --loops) loops=$2 ;;
    --threads) threads=$2 ;;
    --repeat) repeat=$2 ;;
    --session) session=$2 ;;
    --fair) fair=$2 ;;
    *) usage ;;
    esac
    shift 2
done
[[ $session =~ ^(own|ours)$ && $fair =~ ^(counted|measured)$ && $loops =~ ^[0-9]+(,[0-9]+)*$ && $repeat =~ ^[1-9][0-9]*$ ]] || usage

cores=$("$marlin" version --json | sed -n 's/.*"cores":\([0-9]*\).*/\1/p')
[ "$threads" != 0 ] || threads=$cores
[ "$threads" = "$(nproc)" ] || echo "busy: $threads threads on $(nproc) processors: shares are counted for as many of each" >&2

work=$(mktemp -d)
pids=()
stop_loops() {
    [ ${#pids[@]} = 0 ] || { kill "${pids[@]}" && wait "${pids[@]}"; } 2>/dev/null || true
    pids=()
}
trap 'stop_loops; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

start_loops() { # how many
    local i
    for ((i = 0; i < $1; i++)); do
        if [ "$session" = own ]; then
            setsid timeout "$LONGEST" bash -c 'while :; do :; done' &
        else
            timeout "$LONGEST" bash -c 'while :; do :; done' &
        fi
        pids+=($!)
    done
    sleep 0.3
}

seconds() { # command; wall seconds
    local TIMEFORMAT=%R
    { time "$@" >"$work/out" 2>"$work/err"; } 2>&1 || {
        cat "$work/err" >&2
        return 1
    }
}

# Threads that never wait for each other: a job each. The share of a processor that one gets, 1 on an idle machine.
idlers() {
    local i
    for ((i = 0; i < threads; i++)); do timeout 3 bash -c 'while :; do :; done' & done
    wait
}
share() {
    local TIMEFORMAT='%U %S %R'
    { time (idlers) >/dev/null 2>&1; } 2>&1 | awk -v n="$threads" '{ print ($1 + $2) / $3 / n }'
}

record() { # name, loops, value that is larger when slower
    echo "$1;$2;$3" >>"$work/rows"
}

bench() { # name, loops, options of bench: the seconds of each token
    local csv
    csv=$("$marlin" bench "${@:3}" --threads "$threads" --repeat 1 --quiet --csv)
    awk -F, -v name="$1" -v loops="$2" 'NR > 1 {
        print name, $1 ~ /^pp/ ? "prompt" : "generation" ";" loops ";" 1 / $4 }' OFS=' ' <<<"$csv" >>"$work/rows"
}

measure() { # loops
    record share "$1" "$(share)"
    bench "$shape, 4 bits:" "$1" --shape "$shape" --bits 4 -p 512 -n 32
    bench "${model##*/}, 4 bits:" "$1" "$work/small" -p 512 -n 256
    bench "${model##*/}, 16 bits:" "$1" "$model" -p 512 -n 256
    rm -rf "$work/made"
    record "${model##*/}: quantizing" "$1" "$(seconds "$marlin" quantize "$model" -o "$work/made" -b 4 --effort low \
        --calib-tokens 512 --threads "$threads" --quiet)"
}

seconds "$marlin" quantize "$model" -o "$work/small" -b 4 --effort low --calib-tokens 512 --quiet >/dev/null
for ((round = 1; round <= repeat; round++)); do
    for n in 0 ${loops//,/ }; do
        echo "busy: round $round of $repeat, beside $n loops" >&2
        start_loops "$n"
        measure "$n"
        stop_loops
    done
done

# Medians; then how many times as long as alone, beside what is fair: (loops + threads) / threads, or the share measured.
sort -t';' -k1,1 -k2,2n -k3,3g "$work/rows" | awk -F';' -v threads="$threads" -v fair="$fair" -v limit="$LIMIT" \
    -v list="0,$loops" '
    { key = $1 ";" $2; v[key, ++n[key]] = $3; if (!($1 in seen)) { seen[$1] = 1; names[++count] = $1 } }
    function median(key,   m) { m = n[key]; return m % 2 ? v[key, (m + 1) / 2] : (v[key, m / 2] + v[key, m / 2 + 1]) / 2 }
    END {
        columns = split(list, at, ",")
        for (c = 2; c <= columns; c++) {
            counted = (at[c] + threads) / threads
            measured = median("share;0") / median("share;" at[c])
            allowed[c] = limit * (fair == "counted" ? counted : measured)
            printf "beside %d loops: fair is %.2f times as long as alone by count, %.2f by what the system gave; at most %.2f\n",
                at[c], counted, measured, allowed[c]
        }
        for (i = 1; i <= count; i++) {
            if (names[i] == "share") continue
            line = sprintf("%-36s", names[i])
            for (c = 2; c <= columns; c++) {
                times = median(names[i] ";" at[c]) / median(names[i] ";0")
                late = times > allowed[c]
                failed += late
                line = line sprintf("  %d: %5.2f %s", at[c], times, late ? "TOO LONG" : "fine    ")
            }
            print line
        }
        exit failed > 0
    }'
