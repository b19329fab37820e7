//! `--watch`: a line when a host goes down or comes up, and nothing else, as a log.

use super::why;
use crate::board::{Sighting, glimpse};
use crate::show::moment;
use crate::track::called;
use muster_proto::event::{Event, EventKind};
use muster_proto::outcome::State;
use muster_proto::ping::TargetName;
use muster_proto::time::Timestamp;
use std::fmt::Write as _;
use std::rc::Rc;

/// How each target was last.
#[derive(Debug)]
pub struct Changes {
    names: Rc<[TargetName]>,
    down_since: Vec<Option<Timestamp>>,
}

impl Changes {
    /// All are taken to be up.
    pub fn new(names: Rc<[TargetName]>) -> Self {
        Self { down_since: vec![None; names.len()], names }
    }

    /// The line for an event, if it is a change: `2026-11-22T10:00:00Z web01 down: no reply`, or
    /// `2026-11-22T10:00:12Z web01 up after 12.3 s`.
    pub fn event(&mut self, out: &mut String, event: &Event) {
        let Some(place) = event.kind.target().map(|target| target as usize) else { return };
        let (Some(name), Some(down)) = (self.names.get(place), self.down_since.get_mut(place)) else { return };
        let (time, name) = (moment::to_second(event.time), called(name));
        // Writing to a string cannot fail.
        let _ = match &event.kind {
            EventKind::Probed { sample, .. } => match (sample.answer, *down) {
                (Ok(_), Some(since)) => {
                    *down = None;
                    writeln!(out, "{time} {name} up after {}", moment::span(since.until(event.time)))
                }
                (Err(failure), None) if glimpse(&sample.answer) == Sighting::Dead => {
                    *down = Some(event.time);
                    writeln!(out, "{time} {name} down: {failure}")
                }
                _ => Ok(()),
            },
            // It was never looked at, or nobody can know.
            EventKind::Finished { outcome, .. }
                if !matches!(outcome.state, State::Succeeded | State::Failed | State::Skipped) =>
            {
                writeln!(out, "{time} {name} unknown: {}", why(outcome))
            }
            _ => Ok(()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::{ended, event, name, probed};
    use muster_proto::outcome::Outcome;
    use muster_proto::ping::{FailureKind, Sample};

    #[test]
    fn only_changes_are_told_and_how_long_it_was() {
        let mut changes = Changes::new(vec![name("web01"), name("n1>db"), name("gone")].into());
        let mut out = String::new();
        let outcome = Outcome::without_run(State::StartFailed, "name does not resolve");
        let untold = |target, number, kind: FailureKind| EventKind::Probed {
            target,
            sample: Sample { number, answer: Err(kind.into()) },
        };
        for (millis, kind) in [
            // Neither up nor down.
            (0, untold(0, 0, FailureKind::Overflow)),
            (0, untold(2, 0, FailureKind::NoSocket)),
            (0, probed(0, 0, Some(100))),
            (0, probed(1, 0, None)),
            (1_000, probed(0, 1, None)),
            (2_000, untold(0, 2, FailureKind::Overflow)),
            (2_500, probed(0, 2, None)),
            (13_300, probed(0, 3, Some(100))),
            (13_300, probed(0, 4, Some(100))),
            (13_400, EventKind::Finished { target: 2, outcome }),
            (14_000, ended(1, 5, &[])),
        ] {
            changes.event(&mut out, &event(millis, kind));
        }
        let lines = [
            "2026-11-22T10:00:00Z n1>db down: no reply",
            "2026-11-22T10:00:01Z web01 down: no reply",
            "2026-11-22T10:00:13Z web01 up after 12.3 s",
            "2026-11-22T10:00:13Z gone unknown: name does not resolve",
        ];
        assert_eq!(out.lines().collect::<Vec<_>>(), lines);
    }
}
