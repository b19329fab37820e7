#!/usr/bin/env bash
# The figures we hold ourselves to: release builds, controller and agents on this machine, mutual TLS on.
# Prints one JSON object a figure, and writes docs/benchmarks.md when all were measured. For a part: `tests/bench.sh agents`
# (real ones), `tests/bench.sh output`, `tests/bench.sh ping`, `tests/bench.sh sim` (simulated ones) or `tests/bench.sh
# targets` (the language, in one process).
set -euo pipefail
cd "$(dirname "$0")/.."

AGENTS=10000
SUSTAINED_JOBS=20
# Every wait ends after so many seconds.
PATIENCE=120

# row NAME VALUE UNIT GOAL N COMMAND: one figure.
row() {
    printf '{"figure":"%s","value":%s,"unit":"%s","goal":"%s","n":%d,"command":"%s"}\n' "$@"
    printf '| %s | %s %s | %s | %d | `%s` |\n' "$1" "$2" "$3" "$4" "$5" "${6//|/\\|}" >>"$ROWS"
}

# figure NAME UNIT GOAL COMMAND: the median of the numbers on stdin.
figure() {
    local sorted
    sorted=$(sort -n)
    local n
    n=$(wc -l <<<"$sorted")
    row "$1" "$(sed -n "$(((n + 1) / 2))p" <<<"$sorted")" "$2" "$3" "$n" "$4"
}

micros() { printf '%s' "${EPOCHREALTIME/[.,]/}"; }
calc() { awk "BEGIN { printf \"%.${2:-1}f\", $1 }"; }
# CPU of a process so far, with threads that ended: milliseconds.
cpu() { awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print ($12 + $13) * 1000 / hz }' "/proc/$1/stat"; }
memory() { awk -v key="$2:" '$1 == key { print $2 }' "/proc/$1/status"; }

# until_true WHAT COMMAND...: waits for it.
until_true() {
    local what=$1 end=$((SECONDS + PATIENCE))
    shift
    until "$@"; do
        if ((SECONDS > end)); then
            echo "bench: after $PATIENCE s it is still not so that $what" >&2
            exit 1
        fi
        sleep 0.05
    done
}

# --- Real agents ------------------------------------------------------------------------------------------------------

of_agents() {
    local pids each
    for _ in $(seq 20); do
        began=$(micros)
        muster run -w all -- true 2>/dev/null
        echo $(($(micros) - began))
    done | awk '{ print $1 / 1000 }' |
        figure "no-op on 20 real agents: typed to last line" ms "<= 150" "muster run -w all -- true"

    # From the event that the offer was stored to the event that its end was: the host's share, the link, one commit.
    for _ in $(seq 50); do
        muster run -w dev-1 -o jsonl -- true 2>/dev/null
    done | sed -nE 's/.*"time":"[^"]*:([0-9.]+)Z".*"kind":"(offered|finished)".*/\2 \1/p' |
        awk '$1 == "offered" { at = $2 } $1 == "finished" { d = ($2 - at) * 1000; print d < 0 ? d + 60000 : d }' |
        figure "no-op on one host: offer stored to end stored" ms "<= 10" "muster run -w dev-1 -o jsonl -- true"

    muster run -w dev-1 -u 60s 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do bash -c "echo \$EPOCHREALTIME"; sleep 0.2; done' 2>/dev/null |
        while read -r _ stamp; do echo $(($(micros) - ${stamp/[.,]/})); done | awk '{ print $1 / 1000 }' |
        figure "a line of output: the child's write to our line" ms "<= 30" "muster run -w dev-1 'echo TIME'"

    pids=$(pgrep -f "muster-agent run .*$MUSTER_DEV_DIR")
    each() { for pid in $pids; do "$@" "$pid"; done; }
    main_thread() { awk '{ print $1 / 1e6 }' "/proc/$1/task/$1/schedstat"; }
    each main_thread >"$WORK/before"
    sleep 60
    each main_thread | paste "$WORK/before" - | awk '{ print $2 - $1 }' |
        figure "idle agent: CPU in a minute" ms "<= 20" "/proc/PID/schedstat"
    rss() { memory "$1" VmRSS; }
    each rss | awk '{ print $1 / 1024 }' | figure "agent after these jobs: resident memory" MiB "<= 6" "/proc/PID/status"
    stat -c %s "$BIN/muster-agent" | awk '{ print $1 / 1048576 }' |
        figure "agent: stripped binary" MiB "<= 5" "cargo build --profile agent -p muster-agent"
}

# --- One host that writes a lot ---------------------------------------------------------------------------------------

of_output() {
    local mib=1024 controller before began bytes took
    if ! muster run --help | grep -q -- --output-limit; then
        echo "bench: this muster has no --output-limit: 1 GiB of output is not measured" >&2
        return
    fi
    controller=$(pgrep -f "muster-controller serve .*$MUSTER_DEV_DIR")
    before=$(memory "$controller" VmHWM)
    began=$(micros)
    bytes=$(muster run -w all -N --output-limit none "yes '$(printf %063d 7)' | head -c $((mib << 20))" 2>/dev/null | wc -c)
    took=$(($(micros) - began))
    if ((bytes != mib << 20)); then
        echo "bench: $bytes bytes of $((mib << 20)) arrived" >&2
        exit 1
    fi
    row "output of one host, 1 GiB to the CLI" "$(calc "$mib * 1e6 / $took")" MiB/s ">= 250" 1 \
        "muster run -w all -N --output-limit none 'yes ... | head -c 1G' | wc -c"
    row "controller meanwhile: most memory above idle" "$(calc "($(memory "$controller" VmHWM) - $before) / 1024")" MiB \
        "flat" 1 "/proc/PID/status"
}

# --- Simulated agents -------------------------------------------------------------------------------------------------

serve() {
    rm -f "$WORK/controller/addresses.toml"
    muster-controller serve --state "$WORK/controller" --log warn --agents "$1" --operators "$2" --enrolment "$3" \
        >>"$WORK/controller.log" 2>&1 </dev/null &
    CONTROLLER=$!
    until_true "the controller listens" test -e "$WORK/controller/addresses.toml"
}

address() { sed -nE "s/^$1 = \"(.*)\"/\1/p" "$WORK/controller/addresses.toml"; }

simulate() {
    muster-sim --agents "$AGENTS" --state "$WORK/sim" --seed 1 "$@" >"$WORK/sim.log" 2>&1 </dev/null &
    SIM=$!
    until_true "all agents are connected" grep -q "agents connected in" "$WORK/sim.log"
}

# end PID: a clean end.
end() {
    kill "$1"
    wait "$1" || true
}

# said PATTERN: the number in what the simulator said last of that.
said() { sed -nE "s/$1/\1/p" "$WORK/sim.log" | tail -n 1; }

# jobs_are STATE-OR-COUNT NUMBER: so many of the newest jobs have it.
jobs_are() { (($(muster jobs -n 100 -o json | tr -d ' \n' | grep -o "$1" | wc -l) >= $2)); }

no_op() {
    local before began cpu_us=$WORK/cpu_us
    : >"$cpu_us"
    for _ in $(seq 7); do
        before=$(cpu "$CONTROLLER")
        began=$(micros)
        muster run -w all --yes=$AGENTS --wait all -o jsonl -- true 2>/dev/null >/dev/null
        echo $(($(micros) - began))
        calc "($(cpu "$CONTROLLER") - $before) * 1000 / $AGENTS" >>"$cpu_us"
        echo >>"$cpu_us"
        sleep 1
    done | awk '{ print $1 / 1e6 }' |
        figure "no-op on $AGENTS simulated agents: typed to last line" s "<= 0.8" \
            "muster run -w all --yes=$AGENTS --wait all -o jsonl -- true >/dev/null"
    figure "controller CPU of that, a target" us "<= 60" "/proc/PID/stat" <"$cpu_us"
}

# What waves cost while every host answers at once: each run is compared with one without waves just before it.
waves() {
    local began plain all=(muster run -w all --yes=$AGENTS --wait all -o jsonl)
    for _ in $(seq 7); do
        began=$(micros)
        "${all[@]}" -- true 2>/dev/null >/dev/null
        plain=$(($(micros) - began))
        sleep 1
        began=$(micros)
        "${all[@]}" --waves 1,5%,25%,100% -- true 2>/dev/null >/dev/null
        echo $(($(micros) - began - plain))
        sleep 1
    done | awk '{ print $1 / 1e6 }' |
        figure "the same in 4 waves: over no waves" s "<= 0.2" "muster run -w all --waves 1,5%,25%,100% ... -- true"
}

# How fast ends are stored while many jobs are at work; nobody follows them.
sustained() {
    local tasks=$((AGENTS * SUSTAINED_JOBS)) done_before cpu_before sim_before began took submits=()
    done_before=$(muster jobs -n 100 -o json | tr -d ' \n' | grep -o '"state":"done"' | wc -l)
    cpu_before=$(cpu "$CONTROLLER") sim_before=$(cpu "$SIM")
    began=$(micros)
    for _ in $(seq $SUSTAINED_JOBS); do
        muster run -d -w all -t 5m --yes=$AGENTS -- true >/dev/null 2>&1 &
        submits+=($!)
    done
    wait "${submits[@]}"
    until_true "all jobs are done" jobs_are '"state":"done"' $((done_before + SUSTAINED_JOBS))
    took=$(($(micros) - began))
    row "completions a second, $SUSTAINED_JOBS jobs of $AGENTS at once" "$(calc "$tasks * 1e6 / $took" 0)" "a second" \
        ">= 20000" "$tasks" "muster run -d -w all --yes=$AGENTS -- true"
    row "controller CPU of that, a task" "$(calc "($(cpu "$CONTROLLER") - $cpu_before) * 1000 / $tasks")" us "-" "$tasks" \
        "/proc/PID/stat"
    row "simulator CPU of that, a task" "$(calc "($(cpu "$SIM") - $sim_before) * 1000 / $tasks")" us "<= 60" "$tasks" \
        "/proc/PID/stat"
}

# All agents come back to a controller that was killed while they work, and everything adds up.
comeback() {
    local jobs=4 began took double
    simulate --delay 3s --jitter 6s --output 1000
    for _ in $(seq $jobs); do
        muster run -d -w all -t 5m --yes=$AGENTS -- sleep 5 >>"$WORK/jobs" 2>/dev/null
    done
    until_true "some hosts have answered" jobs_are '"counts":{"succeeded":[0-9]*}' 1
    local at=("$(address agents)" "$(address operators)" "$(address enrolment)")
    kill -9 "$CONTROLLER"
    wait "$CONTROLLER" 2>/dev/null || true
    began=$(micros)
    serve "${at[@]}"
    until_true "all agents are back" grep -q "connected again" "$WORK/sim.log"
    took=$(($(micros) - began))
    row "$AGENTS agents back after the controller's kill -9" "$(calc "$took / 1e6" 2)" s "<= 12" 1 "kill -9; muster-controller serve"
    while read -r job; do
        until_true "job $job adds up" sh -c "muster job $job -o json | tr -d ' \n' | grep -q '\"counts\":{\"succeeded\":$AGENTS}'"
    done <"$WORK/jobs"
    row "their $jobs jobs done, every one of $((jobs * AGENTS)) succeeded" "$(calc "($(micros) - $began) / 1e6" 2)" s "-" 1 \
        "muster job JOB -o json"
    end "$SIM"
    double=$(said '.*started=([0-9]+) .* doubles=0 .*')
    if [ "$double" != $((jobs * AGENTS)) ]; then
        tail -n 1 "$WORK/sim.log" >&2
        exit 1
    fi
}

of_sim() {
    local token empty before
    # Nothing of the user's is touched.
    export MUSTER_CONFIG=$WORK/config.toml
    ulimit -n "$(ulimit -Hn)"
    if (($(ulimit -n) < AGENTS + 1000)); then
        AGENTS=$(($(ulimit -n) - 1000))
        echo "bench: the limit of open files allows only $AGENTS simulated agents" >&2
    fi
    muster-controller init --state "$WORK/controller" --operator bench --config "$MUSTER_CONFIG" >/dev/null 2>&1
    serve 127.0.0.1:0 127.0.0.1:0 127.0.0.1:0
    sed -i "s/127.0.0.1:7444/$(address operators)/" "$MUSTER_CONFIG"
    token=$(muster token create --uses $AGENTS 2>/dev/null)
    empty=$(memory "$CONTROLLER" VmRSS)
    simulate --controller "$(address enrolment)" --token "$token"
    row "enrolments a minute" "$(said '.*: ([0-9]+) a minute')" "a minute" ">= 30000" $AGENTS \
        "muster-sim --agents $AGENTS --token TOKEN"
    row "$AGENTS agents connect" "$(said '.*agents connected in ([0-9.]+) s')" s "-" $AGENTS "muster-sim --agents $AGENTS"
    sleep 5
    row "controller memory, an idle agent" "$(calc "($(memory "$CONTROLLER" VmRSS) - $empty) / $AGENTS")" KiB "<= 48" $AGENTS \
        "/proc/PID/status"
    before=$(cpu "$CONTROLLER")
    sleep 30
    row "idle controller with $AGENTS agents: of one core" "$(calc "($(cpu "$CONTROLLER") - $before) / 300" 2)" % "<= 2" 1 \
        "/proc/PID/stat over 30 s"
    no_op
    waves
    sustained
    row "simulator memory, an agent" "$(calc "$(memory "$SIM" VmRSS) / $AGENTS")" KiB "-" $AGENTS "/proc/PID/status"
    end "$SIM"
    comeback
    end "$CONTROLLER"
}

# --- Pings, in a network of their own --------------------------------------------------------------------------------

# addresses COUNT [EACH]: that many on loopback, and of each EACH one that nobody answers from.
addresses() {
    awk -v count="$1" -v each="${2:-0}" 'BEGIN {
        for (i = 0; i < count; i++) {
            if (each && i % each == 3) printf "10.77.%d.%d\n", int(i / 2500) % 256, 1 + int(i / 10) % 250
            else printf "127.%d.%d.%d\n", 1 + int(i / 62500), int(i / 250) % 250, 1 + i % 250
        }
    }'
}

# pinged RUNS NAME GOAL OPTIONS...: from typed to the last line, and the controller's CPU of that.
pinged() {
    local runs=$1 name=$2 goal=$3 before began
    shift 3
    : >"$WORK/cpu_s"
    for _ in $(seq "$runs"); do
        before=$(cpu "$CONTROLLER")
        began=$(micros)
        muster ping "$@" >"$WORK/pinged" 2>"$WORK/closing" || true
        calc "($(micros) - $began) / 1e6" 3
        echo
        calc "($(cpu "$CONTROLLER") - $before) / 1000" 2 >>"$WORK/cpu_s"
        echo >>"$WORK/cpu_s"
    done | figure "$name: typed to last line" s "$goal" "muster ping ${*//$WORK\/}"
    figure "controller CPU of that" s "-" "/proc/PID/stat" <"$WORK/cpu_s"
}

# all_said WHAT COUNT: the last ping has so many lines of that.
all_said() {
    local count
    count=$(grep -c "$1" "$WORK/pinged" || true)
    if [ "$count" != "$2" ]; then
        echo "bench: $count of $2 are \"$1\"" >&2
        exit 1
    fi
}

of_ping() {
    local before token
    ip link set lo up
    # Whoever is behind it never answers, and says nothing.
    ip link add silent type veth peer name void
    ip link set void up
    ip link set silent arp off up
    ip addr add 10.77.255.254/16 dev silent
    addresses 10000 >"$WORK/live"
    addresses 65000 >"$WORK/many"
    addresses 10000 10 >"$WORK/mixed"
    export MUSTER_CONFIG=$WORK/config.toml
    muster-controller init --state "$WORK/controller" --operator bench --config "$MUSTER_CONFIG" >/dev/null 2>&1
    serve 127.0.0.1:0 127.0.0.1:0 127.0.0.1:0
    sed -i "s/127.0.0.1:7444/$(address operators)/" "$MUSTER_CONFIG"

    before=$(memory "$CONTROLLER" VmRSS)
    pinged 7 "10000 loopback addresses" "<= 0.5" --hosts-file "$WORK/live"
    all_said "1/1/0%" 10000
    pinged 3 "10000, each tenth dead" "<= 1.2" --timeout 1s -r 0 --rate max --hosts-file "$WORK/mixed"
    all_said "1/1/0%" 9000
    all_said "^10.77.*1/0/100%" 1000
    pinged 5 "65000, as fast as possible" "<= 2" --rate max --hosts-file "$WORK/many"
    all_said "1/1/0%" 65000
    row "controller: most memory above idle, in all of that" "$(calc "($(memory "$CONTROLLER" VmHWM) - $before) / 1024")" MiB \
        "<= 64" 15 "/proc/PID/status"
    TIMEFORMAT='%R %U %S'
    for _ in 1 2 3 4 5; do { time sweep 0 <"$WORK/many" >"$WORK/pinged" 2>"$WORK/swept"; } 2>&1; done >"$WORK/times"
    all_said "127" 65000
    awk '{ print $1 }' "$WORK/times" | figure "the sweep itself, 65000" s "<= 0.6" "examples/sweep 0 <FILE"
    awk '{ print $2 + $3 }' "$WORK/times" | figure "CPU of that" s "<= 0.6" "examples/sweep 0 <FILE"
    if command -v fping >/dev/null; then
        for _ in 1 2 3; do
            began=$(micros)
            fping -a -i 0 -r 0 -t 1000 -f "$WORK/many" >"$WORK/pinged" 2>/dev/null || true
            calc "($(micros) - $began) / 1e6" 3
            echo
        done | figure "beside it, fping, 65000" s "-" "fping -a -i 0 -r 0 -t 1000 -f FILE"
    fi

    token=$(muster token create --uses 100 2>/dev/null)
    AGENTS=100 simulate --controller "$(address enrolment)" --token "$token"
    pinged 3 "mesh of 100 simulated agents, 9900 pairs" "<= 2" -w all --from all --no-controller
    all_said "1/1/0%" 9900
    end "$SIM"
    end "$CONTROLLER"
}

# --- All of it --------------------------------------------------------------------------------------------------------

# --- The target language ----------------------------------------------------------------------------------------------

of_targets() {
    local names='rack[0-499]node[000-199]' range='web[00001-10000]'
    targets >"$WORK/measured"
    measured() { awk -v name="$1" '$1 == name { print $2 * 1000 }' "$WORK/measured" | figure "$2" ms "$3" "$4"; }
    measured resolve "parse and resolve over $AGENTS agents" "<= 20" "$range and env=prod and not rack=7"
    measured facts "the same, by facts and a network" "<= 20" "os.version>=12 and cpus>=4 and kernel~amd64$ and 10.0.0.0/9"
    measured regexes "the same, 16 regular expressions" "<= 1000" "name~..."
    measured fold "fold 100000 names" "<= 200" "$names"
    measured expand "expand them" "-" "$names"
    if command -v nodeset >/dev/null; then
        # Its interpreter's start is in them, as it is for who types it.
        nodeset -e "$names" | tr ' ' '\n' >"$WORK/names"
        taken() {
            local what=$1 began
            shift
            for _ in 1 2 3 4 5; do
                began=$(micros)
                "$@" <"$WORK/names" >/dev/null
                calc "($(micros) - $began) / 1000"
                echo
            done | figure "beside it, $what" ms "-" "$*"
        }
        taken "nodeset(1) expands 10000 names" nodeset -e "$range"
        taken "nodeset(1) folds 100000" nodeset -f
        taken "nodeset(1) starts" nodeset -e web1
    fi
}

page() {
    cat <<EOF
# Benchmarks

Measured by \`make bench\`, which writes this page: release builds, mutual TLS on, the controller and everything that loads
it on the same cores. Figures of a shared machine vary by a third from run to run; compare them with others of the same
machine only. "n" is how many were measured; with several runs the value is the median.

$(sed -n 's/^model name[^:]*: /* CPU: /p' /proc/cpuinfo | head -n 1), $(nproc) cores
* memory: $(awk '/MemTotal/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo) GiB
* kernel: $(uname -sr)
* $(rustc --version)
* date: $(date -u +%F)

| figure | value | goal | n | command |
|---|---|---|---|---|
EOF
    cat "$ROWS"
}

clean() {
    # Only what we started.
    for pid in ${SIM:-} ${CONTROLLER:-}; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [ -z "${INSIDE:-}" ] && [ -n "${WORK:-}" ]; then rm -rf "$WORK"; fi
}
trap clean EXIT

if [ -n "${INSIDE:-}" ]; then
    "of_$1"
    exit
fi

part=${1:-all}
if [ "$part" != targets ]; then
    cargo build --release -p muster -p muster-controller
    cargo build --profile agent -p muster-agent
    cargo build --release -p muster-tests --bin muster-sim
fi
target=$(realpath "${CARGO_TARGET_DIR:-target}")
WORK=$(mktemp -d)
export WORK ROWS=$WORK/rows BIN=$WORK/bin
# `muster dev` takes what is beside it.
mkdir "$BIN"
if [ "$part" != targets ]; then
    cp "$target"/release/{muster,muster-controller,muster-sim} "$target/agent/muster-agent" "$BIN"
fi
export PATH="$BIN:$PATH"

if [ "$part" = all ] || [ "$part" = agents ]; then
    for _ in 1 2 3; do
        began=$(micros)
        muster dev --agents 20 -- true 2>/dev/null
        calc "($(micros) - $began) / 1e6" 2
        echo
    done | figure "muster dev with 20 agents: start to end" s "-" "muster dev --agents 20 -- true"
    INSIDE=yes muster dev --agents 20 -- "$PWD/tests/bench.sh" agents
fi
if [ "$part" = all ] || [ "$part" = output ]; then
    INSIDE=yes muster dev --agents 1 -- "$PWD/tests/bench.sh" output
fi
if [ "$part" = all ] || [ "$part" = ping ]; then
    cargo build --release -p muster-probe --example sweep
    cp "$target/release/examples/sweep" "$BIN"
    # Links and addresses of our own, and a raw socket: in a network namespace, as root of a user namespace if need be.
    INSIDE=yes unshare --net --map-root-user "$PWD/tests/bench.sh" ping
fi
if [ "$part" = all ] || [ "$part" = targets ]; then
    cargo build --release -p muster-core --example targets
    cp "$target/release/examples/targets" "$BIN"
    of_targets
fi
if [ "$part" = all ] || [ "$part" = sim ]; then
    of_sim
fi
if [ "$part" = all ]; then
    page >docs/benchmarks.md
fi
