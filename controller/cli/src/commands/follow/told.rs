//! What a follower is told of a job's way: waves, pauses, further attempts, gates, and hosts that are queued. All of it
//! goes to stderr.

use super::{Follower, View};
use crate::show::moment;
use crate::show::sanitise::Sanitiser;
use crate::show::summary;
use crate::track::Rest;
use anstyle::{AnsiColor, Style};
use muster_proto::event::{Event, EventKind, GateStep};
use muster_proto::id::{Attempt, JobId};
use muster_proto::outcome::{Outcome, State};
use muster_proto::time::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::io;

/// The end of a gate's output that is shown where it fails: bytes, and lines.
const TAIL_BYTES: usize = 4 << 10;
const TAIL_LINES: usize = 5;

/// The newest output of the gates that run.
#[derive(Debug, Default)]
pub struct Gates(HashMap<u32, Vec<u8>>);

impl Gates {
    /// Takes a step into account; the lines to show if it was a bad end, the newest last.
    fn step(&mut self, target: u32, step: &GateStep) -> Vec<String> {
        match step {
            GateStep::Output { data, .. } => {
                let tail = self.0.entry(target).or_default();
                tail.extend_from_slice(data);
                tail.drain(..tail.len().saturating_sub(TAIL_BYTES));
            }
            GateStep::Finished { outcome } => {
                let tail = self.0.remove(&target).unwrap_or_default();
                if outcome.state != State::Succeeded {
                    return last_lines(&tail);
                }
            }
            GateStep::Offered | GateStep::Accepted | GateStep::Started | GateStep::Truncated { .. } => {}
        }
        Vec::new()
    }
}

fn last_lines(bytes: &[u8]) -> Vec<String> {
    let (mut sanitiser, mut clean) = (Sanitiser::default(), String::new());
    sanitiser.push(bytes, &mut clean);
    sanitiser.finish(&mut clean);
    let lines: Vec<&str> = clean.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(ToString::to_string).collect()
}

impl Follower<'_> {
    /// Says what an event means for the job or for one of its hosts.
    pub(super) fn tell(&mut self, kind: &EventKind, now: Timestamp) -> anyhow::Result<()> {
        match kind {
            EventKind::Wave { number, targets, .. } => {
                let hosts = summary::hosts(*targets as usize);
                self.say(&format!("wave {number} of {}: {hosts}", self.job.waves))?;
            }
            EventKind::Retrying { target, attempt: next, outcome, at } => {
                match &mut self.view {
                    View::Live(lines) => lines.end(&mut self.console, *target)?,
                    View::Json(hosts) => super::with_host(hosts, *target, |host| *host = Default::default()),
                    View::Stored(_) | View::Names | View::Jsonl => {}
                }
                // A host that is shown at its end says it there.
                if !matches!(self.view, View::Stored(_)) {
                    let again = format!("{}, again in {}", attempt(*next, outcome), moment::span(now.until(*at)));
                    self.say_of(*target, &again, style(outcome.state))?;
                }
            }
            EventKind::Gate { target, step } => {
                for line in self.gates.step(*target, step) {
                    self.say_of(*target, &format!("gate: {line}"), Style::new().dimmed())?;
                }
                if let GateStep::Finished { outcome } = step
                    && outcome.state != State::Succeeded
                {
                    self.say_of(*target, &format!("gate {}", summary::end(outcome)), style(outcome.state))?;
                }
            }
            EventKind::Paused { operator: Some(operator), .. } => self.say(&format!("paused by {operator}"))?,
            EventKind::Paused { operator: None, reason } => self.say(&format!("paused: {reason}"))?,
            EventKind::Resumed { operator } => self.say(&format!("resumed by {operator}"))?,
            EventKind::Stopping { reason } => {
                self.stopping = Some(reason.clone());
                self.say(&format!("stopping: {reason}"))?;
            }
            EventKind::Cancelling { operator } => self.say(&format!("cancelled by {operator}"))?,
            _ => {}
        }
        Ok(())
    }

    /// Names the hosts that were queued among these events, with their time: one line for all that have the same.
    pub(super) fn tell_queued(&mut self, events: &[Event]) -> anyhow::Result<()> {
        let mut by_time: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        let names = self.job.names.clone();
        for event in events {
            if let EventKind::Queued { target, until } = event.kind
                && let Some(name) = names.get(target as usize)
            {
                by_time.entry(moment::to_second(until)).or_default().push(name.host.as_str());
            }
        }
        if matches!(self.view, View::Jsonl) {
            return Ok(());
        }
        for (until, hosts) in by_time {
            let count = summary::hosts(hosts.len());
            self.say(&format!("away, queued until {until}: {count} {}", summary::folded(hosts)))?;
        }
        Ok(())
    }

    fn say_of(&mut self, target: u32, text: &str, style: Style) -> io::Result<()> {
        match &mut self.view {
            View::Live(lines) | View::Stored(lines) => lines.note(&mut self.console, target, text, style),
            View::Names | View::Jsonl | View::Json(_) => match self.job.names.get(target as usize) {
                Some(name) => self.console.say(&format!("{name}: {text}")),
                None => Ok(()),
            },
        }
    }
}

/// How an attempt ended after which another one follows: "attempt 1 failed: exit code 3".
pub fn attempt(next: Attempt, outcome: &Outcome) -> String {
    format!("attempt {} {}", next.0.saturating_sub(1), summary::end(outcome))
}

/// What there is to do about a job that does not go on by itself.
pub fn remedy(rest: Rest, job: JobId) -> String {
    match rest {
        Rest::Paused => format!("job {job} is paused: `muster resume {job}` goes on, `muster cancel {job}` ends it"),
        Rest::Queued => format!(
            "all that are left are queued until they are back: `muster attach {job}` follows them, \
             `muster cancel {job}` gives them up"
        ),
    }
}

/// What a host's end looks like.
pub const fn style(state: State) -> Style {
    let colour = if state.is_failure() { AnsiColor::Red } else { AnsiColor::Yellow };
    colour.on_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use muster_proto::event::Stream;

    fn output(data: &[u8]) -> GateStep {
        GateStep::Output { stream: Stream::Stdout, offset: 0, data: Bytes::copy_from_slice(data) }
    }

    fn finished(state: State) -> GateStep {
        GateStep::Finished { outcome: Outcome::without_run(state, "") }
    }

    #[test]
    fn a_gate_that_fails_shows_the_end_of_its_output() {
        let mut gates = Gates::default();
        for n in 0..100_000 {
            assert!(gates.step(0, &output(format!("line {n}\n").as_bytes())).is_empty());
        }
        assert!(gates.0[&0].len() <= TAIL_BYTES);
        let told = gates.step(0, &finished(State::Failed));
        assert_eq!(told, ["line 99995", "line 99996", "line 99997", "line 99998", "line 99999"]);
        assert!(gates.0.is_empty());
    }

    #[test]
    fn a_gate_cannot_play_with_the_terminal_and_one_that_passes_is_silent() {
        let mut gates = Gates::default();
        gates.step(1, &output(b"\x1b[2J"));
        assert_eq!(gates.step(1, &finished(State::TimedOut)), ["\\x1b[2J"]);
        gates.step(1, &output(b"fine"));
        assert!(gates.step(1, &finished(State::Succeeded)).is_empty());
    }
}
