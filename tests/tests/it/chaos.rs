//! Small jobs on a few hosts while agents and supervisors are killed at random. Whatever happens, every task has one
//! end, none starts twice, no byte is wrong, and what cannot be known is said only where it cannot be known.
//!
//! `MUSTER_SEED=N` repeats the choices of a run; the moments at which they fall are the machine's.

use muster_tests::{Fleet, PATIENCE, Restarted, kill, until};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

const AGENTS: u16 = 3;
const JOBS: usize = 60;
const LASTS: Duration = Duration::from_secs(15);

/// What each task does: it says that it starts (and that it started before, if it did), then writes what nobody could
/// guess, in pieces, and last the digest of it.
const PROGRAM: &str = r#"
( set -C; : > "$MARKS/$MUSTER_TASK" ) 2>/dev/null || echo "$MUSTER_TASK" >> "$MARKS/twice"
data=$(head -c "$BYTES" /dev/urandom | base64 -w 60)
printf '%s\n' "$data" | while IFS= read -r line; do printf '%s\n' "$line"; sleep "0.0$PAUSE"; done
printf '%s\n' "$data" | sha256sum >&2
"#;

/// xorshift64*: enough to choose whom to hit.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % sides
    }
}

/// What was done to the fleet.
#[derive(Default)]
struct Damage {
    /// Tasks whose supervisor was killed.
    supervisors: BTreeSet<String>,
    /// Hosts whose agent was killed.
    agents: BTreeSet<String>,
    kills: u32,
}

fn wreak_havoc(fleet: &Fleet, dice: &mut Dice, marks: &Path) -> (Vec<String>, Damage, Vec<Restarted>) {
    let marks = format!("MARKS={}", marks.display());
    let mut agents: Vec<Option<Restarted>> = (0..AGENTS).map(|_| None).collect();
    let (mut jobs, mut damage) = (Vec::new(), Damage::default());
    let begun = Instant::now();
    while begun.elapsed() < LASTS || jobs.len() < JOBS {
        let due = usize::try_from(begun.elapsed().as_millis() * JOBS as u128 / LASTS.as_millis()).expect("small");
        if jobs.len() < due.min(JOBS) {
            let (bytes, pause) = (format!("BYTES={}", dice.roll(3_000)), format!("PAUSE={}", dice.roll(3)));
            let targets = ["all", "dev-[1-2]", "dev-3"][usize::try_from(dice.roll(3)).expect("small")];
            let words = ["-w", targets, "-t", "60s", "-e", &marks, "-e", &bytes, "-e", &pause, "--sh", "--", PROGRAM];
            jobs.push(fleet.submit(words));
            continue;
        }
        let number = u16::try_from(dice.roll(u64::from(AGENTS))).expect("small") + 1;
        let slot = &mut agents[usize::from(number) - 1];
        if dice.roll(3) == 0 {
            let supervisors = fleet.supervisors(number);
            if !supervisors.is_empty() {
                let place = dice.roll(supervisors.len() as u64);
                let victim = &supervisors[usize::try_from(place).expect("small")];
                victim.kill();
                damage.supervisors.insert(victim.task.clone());
                damage.kills += 1;
            }
        } else {
            kill(slot.as_ref().map_or_else(|| fleet.agent_pid(number), Restarted::pid));
            *slot = Some(fleet.restart_agent(number));
            damage.agents.insert(format!("dev-{number}"));
            damage.kills += 1;
        }
        std::thread::sleep(Duration::from_millis(dice.roll(250)));
    }
    (jobs, damage, agents.into_iter().flatten().collect())
}

/// stdout and stderr of each host, from the events, whose numbers have no hole.
fn outputs(fleet: &Fleet, id: &str) -> BTreeMap<String, [String; 2]> {
    let mut outputs: BTreeMap<String, [String; 2]> = BTreeMap::new();
    let mut ended = BTreeSet::new();
    for (event, seq) in fleet.muster(["logs", id, "-o", "jsonl"]).jsonl().iter().zip(1_u64..) {
        assert_eq!(event["seq"], seq, "seq has a hole in {id}");
        let host = event["host"].as_str().unwrap_or_default().to_owned();
        assert!(host.is_empty() || !ended.contains(&host), "{id}: after its end {host} says {event}");
        match event["kind"].as_str() {
            Some("output") => {
                let place = usize::from(event["stream"] == "stderr");
                outputs.entry(host).or_default()[place].push_str(event["text"].as_str().expect("text"));
            }
            Some("finished") => assert!(ended.insert(host)),
            _ => {}
        }
    }
    outputs
}

fn sha256(text: &str) -> String {
    let mut command = std::process::Command::new("sha256sum");
    let mut child = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn();
    let child = child.as_mut().expect("sha256sum runs");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), text.as_bytes()).expect("it reads");
    std::io::read_to_string(child.stdout.take().expect("piped")).expect("text")
}

/// What a failed test shows with its failure.
#[expect(clippy::print_stdout, reason = "the harness keeps what a test prints, and shows it when the test fails")]
fn say(text: &str) {
    println!("{text}");
}

/// Checks one task; returns its state.
fn judge(id: &str, place: usize, host: &Value, output: &[String; 2], marks: &Path, damage: &Damage) -> String {
    let task = format!("{id}.{place}.1");
    let started = marks.join(&task).exists();
    let (name, state) = (host["host"].as_str().expect("a name"), host["state"].as_str().expect("a state"));
    match state {
        "succeeded" => {
            assert!(started, "{task} succeeded and never started");
            assert_eq!(output[1], sha256(&output[0]), "{task}: wrong bytes");
        }
        "indeterminate" => {
            // An agent that died between its intent and the start of the supervisor cannot know either.
            let unknown = damage.supervisors.contains(&task) || (damage.agents.contains(name) && !started);
            assert!(unknown, "{task}: nobody touched it: {host}");
            assert!(output[1].is_empty() || output[1] == sha256(&output[0]), "{task}: wrong bytes");
        }
        other => panic!("{task} is {other}, though its agent came back within its window: {host}"),
    }
    state.to_owned()
}

#[test]
fn p1_p2_p5_whatever_is_killed_each_task_has_one_end_one_start_and_its_own_bytes() {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let seed = std::env::var("MUSTER_SEED").ok().map(|text| text.parse::<u64>().expect("MUSTER_SEED is a number"));
    let seed = seed.unwrap_or_else(|| u64::from(now().subsec_nanos()) + 1);
    say(&format!("MUSTER_SEED={seed}"));
    let fleet = Fleet::start(AGENTS);
    let marks = fleet.dir().join("marks");
    fs::create_dir(&marks).expect("a new directory");
    let (jobs, damage, agents) = wreak_havoc(&fleet, &mut Dice(seed.max(1)), &marks);

    assert_eq!(jobs.len(), JOBS);
    let mut states = BTreeMap::new();
    for id in &jobs {
        let job = fleet.until_done(id);
        let outputs = outputs(&fleet, id);
        for (place, host) in job["hosts"].as_array().expect("hosts").iter().enumerate() {
            let none = Default::default();
            let output = outputs.get(host["host"].as_str().expect("a name")).unwrap_or(&none);
            *states.entry(judge(id, place, host, output, &marks, &damage)).or_insert(0) += 1;
        }
    }
    assert!(!marks.join("twice").exists(), "started twice: {:?}", fs::read_to_string(marks.join("twice")));
    say(&format!("{} kills, {states:?}", damage.kills));
    for number in 1..=AGENTS {
        until(PATIENCE, "spools are empty and supervisors gone", || {
            fleet.spooled(number).is_empty() && fleet.supervisors(number).is_empty()
        });
    }
    drop(agents);
}
