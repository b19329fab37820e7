//! How a job goes over its hosts, in words for people and for programs.

use super::command::of_command;
use super::json::{Bytes, argv, millis};
use super::moment::exact;
use muster_proto::rollout::{MaxFail, Offline, Rollout};
use serde::Serialize;
use std::time::Duration;

/// Sizes named of a long list of waves.
const SIZES_MAX: usize = 12;

/// How many hosts each wave has, in their order; none if there are no waves.
pub fn waves(rollout: &Rollout, targets: u32) -> Vec<u32> {
    let mut sizes = Vec::new();
    let mut first = 0;
    while !rollout.waves.is_empty() && first < targets {
        let end = rollout.wave_end(sizes.len(), first, targets);
        sizes.push(end - first);
        first = end;
    }
    sizes
}

/// What differs from all hosts at once, each tried once: a word for it, and what it is.
pub fn rows(rollout: &Rollout, targets: u32) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(at_a_time) = rollout.concurrency {
        rows.push(("at once", at_a_time.to_string()));
    }
    if !rollout.waves.is_empty() {
        let between = match (rollout.wave_pause, &rollout.gate) {
            (Duration::ZERO, None) => String::new(),
            (Duration::ZERO, Some(_)) => ": a gate between them".to_owned(),
            (pause, None) => format!(": {} between them", exact(pause)),
            (pause, Some(_)) => format!(": {} and a gate between them", exact(pause)),
        };
        rows.push(("waves", sizes(&waves(rollout, targets)) + &between));
    }
    if let Some(gate) = &rollout.gate {
        rows.push(("gate", format!("{} (at most {})", of_command(gate), exact(gate.timeout))));
    }
    if let Some(max_fail) = rollout.max_fail {
        let text = match max_fail {
            MaxFail::Hosts(hosts) => format!("{hosts}: nothing more starts then"),
            MaxFail::Percent(percent) => format!("{percent}% of the hosts whose wave began: nothing more starts then"),
        };
        rows.push(("max-fail", text));
    }
    let tries = [(rollout.retries, "where nothing ran"), (rollout.retry_failed, "where it failed or timed out")];
    let tries: Vec<String> =
        tries.iter().filter(|(times, _)| *times > 0).map(|(times, what)| format!("{times} {what}")).collect();
    if !tries.is_empty() {
        rows.push(("retries", tries.join(", ")));
    }
    if !rollout.splay.is_zero() {
        rows.push(("splay", format!("each starts within {} of its turn", exact(rollout.splay))));
    }
    match rollout.offline {
        Offline::Window => {}
        Offline::Skip => rows.push(("offline", "hosts that are away are skipped".to_owned())),
        Offline::Wait(span) => rows.push(("offline", format!("hosts that are away are waited for, {}", exact(span)))),
        Offline::Queue(span) => {
            rows.push(("offline", format!("hosts that are away are queued, {}; nobody waits for them", exact(span))));
        }
    }
    rows
}

/// "1, 5, 25, 69"; "50 (20 times), 3" where the same comes again and again.
fn sizes(waves: &[u32]) -> String {
    let mut texts: Vec<String> = waves
        .chunk_by(|one, next| one == next)
        .map(|run| match run {
            [size] => size.to_string(),
            [size, ..] => format!("{size} ({} times)", run.len()),
            [] => String::new(),
        })
        .collect();
    if texts.len() > SIZES_MAX {
        texts.truncate(SIZES_MAX);
        texts.push("…".to_owned());
    }
    texts.join(", ")
}

/// The same for programs.
#[derive(Debug, Serialize)]
pub struct RolloutJson {
    waves: Vec<u32>,
    wave_pause_ms: u64,
    gate: Option<GateJson>,
    max_fail: Option<String>,
    splay_ms: u64,
    retries: u32,
    retry_failed: u32,
    offline: String,
}

#[derive(Debug, Serialize)]
struct GateJson {
    argv: Vec<Bytes>,
    timeout_ms: u64,
}

impl RolloutJson {
    /// Of a rollout over so many targets.
    pub fn of(rollout: &Rollout, targets: u32) -> Self {
        Self {
            waves: waves(rollout, targets),
            wave_pause_ms: millis(rollout.wave_pause),
            gate: rollout
                .gate
                .as_ref()
                .map(|gate| GateJson { argv: argv(&gate.program.words(usize::MAX)), timeout_ms: millis(gate.timeout) }),
            max_fail: rollout.max_fail.map(|max_fail| match max_fail {
                MaxFail::Hosts(hosts) => hosts.to_string(),
                MaxFail::Percent(percent) => format!("{percent}%"),
            }),
            splay_ms: millis(rollout.splay),
            retries: rollout.retries,
            retry_failed: rollout.retry_failed,
            offline: match rollout.offline {
                Offline::Window => "window".to_owned(),
                Offline::Skip => "skip".to_owned(),
                Offline::Wait(span) => format!("wait={}", exact(span)),
                Offline::Queue(span) => format!("queue={}", exact(span)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::command::{Command, Program};

    #[test]
    fn what_is_said_of_waves_adds_up() {
        let of = |waves: &[u32], targets| {
            let rollout = Rollout { waves: waves.to_vec(), ..Rollout::default() };
            sizes(&super::waves(&rollout, targets))
        };
        assert_eq!(of(&[1, 5, 25, 100], 100), "1, 5, 25, 69");
        assert_eq!(of(&[1, 50], 1_000), "1, 50 (19 times), 49");
        assert_eq!(of(&[7], 3), "3");
        assert_eq!(of(&[], 3), "");
        let many: Vec<u32> = (1..=40).collect();
        assert!(of(&many, 800).ends_with("11, 12, …"), "{}", of(&many, 800));
    }

    #[test]
    fn only_what_differs_is_said() {
        assert!(rows(&Rollout::default(), 100).is_empty());
        let rollout = Rollout {
            concurrency: Some(20),
            waves: vec![1, 5, 25, 100],
            wave_pause: Duration::from_secs(30),
            gate: Some(Command::new(Program::Shell(b"curl -f localhost".to_vec()))),
            max_fail: Some(MaxFail::Percent(5)),
            splay: Duration::from_secs(60),
            retries: 2,
            retry_failed: 1,
            offline: Offline::Queue(Duration::from_hours(24)),
        };
        let text: Vec<String> = rows(&rollout, 100).iter().map(|(word, text)| format!("{word}: {text}")).collect();
        assert_eq!(
            text,
            [
                "at once: 20",
                "waves: 1, 5, 25, 69: 30s and a gate between them",
                "gate: curl -f localhost (at most 5m)",
                "max-fail: 5% of the hosts whose wave began: nothing more starts then",
                "retries: 2 where nothing ran, 1 where it failed or timed out",
                "splay: each starts within 1m of its turn",
                "offline: hosts that are away are queued, 24h; nobody waits for them",
            ]
        );
        let json = serde_json::to_value(RolloutJson::of(&rollout, 100)).expect("JSON");
        assert_eq!((&json["max_fail"], &json["offline"]), (&"5%".into(), &"queue=24h".into()));
        assert_eq!(json["waves"], serde_json::json!([1, 5, 25, 69]));
    }
}
