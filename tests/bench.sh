#!/usr/bin/env bash
# The figures we hold ourselves to: a release build, agents and controller on this machine, mutual TLS on.
# Prints one JSON object a figure: name, value, unit, goal.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" != inside ]; then
    cargo build --release -p muster -p muster-controller
    cargo build --profile agent -p muster-agent
    target=$(realpath "${CARGO_TARGET_DIR:-target}")
    # `muster dev` takes what is beside it.
    bin=$(mktemp -d)
    trap 'rm -r "$bin"' EXIT
    cp "$target/release/muster" "$target/release/muster-controller" "$target/agent/muster-agent" "$bin"
    export PATH="$bin:$PATH" BIN="$bin"
    say=$(muster dev --agents 20 -- true 2>&1)
    printf '{"figure":"muster dev, 20 agents: start to ready","said":"%s"}\n' "$say"
    muster dev --agents 20 -- "$PWD/tests/bench.sh" inside
    exit
fi

# figure NAME UNIT GOAL: the median of the numbers on stdin, with the least and the greatest.
figure() {
    sort -n | awk -v name="$1" -v unit="$2" -v goal="$3" '
        { v[NR] = $1 }
        END { printf "{\"figure\":\"%s\",\"median\":%s,\"min\":%s,\"max\":%s,\"n\":%d,\"unit\":\"%s\",\"goal\":%s}\n",
                     name, v[int((NR + 1) / 2)], v[1], v[NR], NR, unit, goal }'
}

micros() { printf '%s' "${EPOCHREALTIME/[.,]/}"; }

for _ in $(seq 20); do
    began=$(micros)
    muster run -w all -- true 2>/dev/null
    echo $(($(micros) - began))
done | awk '{ print $1 / 1000 }' | figure "run -w all true on 20 agents: typed to last line" ms 150

# From the event that the offer was stored to the event that its end was: the host's share, the link and one commit.
for _ in $(seq 50); do
    muster run -w dev-1 -o jsonl -- true 2>/dev/null
done | sed -nE 's/.*"time":"[^"]*:([0-9.]+)Z".*"kind":"(offered|finished)".*/\2 \1/p' |
    awk '$1 == "offered" { at = $2 } $1 == "finished" { d = ($2 - at) * 1000; print d < 0 ? d + 60000 : d }' |
    figure "true on one host: offer stored to end stored" ms 10

muster run -w dev-1 -u 60s 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do bash -c "echo \$EPOCHREALTIME"; sleep 0.2; done' 2>/dev/null |
    while read -r _ stamp; do echo $(($(micros) - ${stamp/[.,]/})); done |
    awk '{ print $1 / 1000 }' | figure "a line of output: the child's write to our line" ms 30

agents=$(pgrep -f "muster-agent run .*$MUSTER_DEV_DIR")
cpu() { for pid in $agents; do awk '{ print $1 / 1e6 }' "/proc/$pid/task/$pid/schedstat"; done; }
cpu >/tmp/muster-bench-before.$$
sleep 60
cpu | paste /tmp/muster-bench-before.$$ - | awk '{ print $2 - $1 }' | figure "idle agent: CPU in a minute" ms 20
rm /tmp/muster-bench-before.$$
for pid in $agents; do awk '/VmRSS/ { print $2 / 1024 }' "/proc/$pid/status"; done |
    figure "agent after these jobs: resident memory" MiB 6
stat -c %s "$BIN/muster-agent" | awk '{ print $1 / 1048576 }' | figure "agent: stripped binary" MiB 5
