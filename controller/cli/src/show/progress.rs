//! The lines at the bottom of a terminal that say how far a job is, redrawn in place.

use crate::track::Track;
use muster_proto::outcome::State;
use std::time::{Duration, Instant};

/// Often enough to look alive, seldom enough to cost nothing.
const PERIOD: Duration = Duration::from_millis(100);

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its width.
    pub columns: usize,
    /// Its height.
    pub rows: usize,
}

/// How many lines are there, and when they were drawn.
#[derive(Debug, Default)]
pub struct Progress {
    lines: usize,
    drawn_at: Option<Instant>,
}

impl Progress {
    /// What to write to have this text drawn now, in place of what was drawn before; `None` if that was a moment ago. No
    /// line of it may fill the window's width: what wraps could not be cleared any more.
    pub fn draw(&mut self, text: impl FnOnce(Window) -> String) -> Option<Vec<u8>> {
        let now = Instant::now();
        if self.drawn_at.is_some_and(|at| now.duration_since(at) < PERIOD) {
            return None;
        }
        self.drawn_at = Some(now);
        let text = text(super::window(std::io::stderr()).unwrap_or(super::WINDOW_DEFAULT));
        let mut drawn = self.to_top();
        let lines: Vec<String> = text.lines().map(|line| format!("\x1b[2K{line}")).collect();
        drawn.push_str(&lines.join("\n"));
        if lines.len() < self.lines {
            drawn.push_str("\x1b[J");
        }
        self.lines = lines.len();
        Some(drawn.into_bytes())
    }

    /// What to write to have the lines away; `None` if there are none.
    pub fn hide(&mut self) -> Option<Vec<u8>> {
        let clear = match self.lines {
            0 => return None,
            1 => "\r\x1b[2K".to_owned(),
            _ => format!("{}\x1b[J", self.to_top()),
        };
        self.lines = 0;
        Some(clear.into_bytes())
    }

    fn to_top(&self) -> String {
        match self.lines.saturating_sub(1) {
            0 => "\r".to_owned(),
            above => format!("\r\x1b[{above}A"),
        }
    }
}

/// "wave 2 of 4, 12/506 done, 3 failed, 20 running, 2 queued, 4.1 s"; `waves` is how many there are.
pub fn line(track: &Track, waves: usize, elapsed: Duration) -> String {
    let (counts, targets) = (track.counts(), track.names().len());
    let ended = counts.total();
    let mut parts = Vec::new();
    if let Some(wave) = track.wave() {
        parts.push(format!("wave {wave} of {waves}"));
    }
    parts.push(format!("{ended}/{targets} done"));
    let failed = ended - counts.get(State::Succeeded);
    let others = [(failed as usize, "failed"), (track.running(), "running"), (track.queued(), "queued")];
    parts.extend(others.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")));
    if track.is_paused() {
        parts.push("paused".to_owned());
    }
    parts.push(super::moment::span(elapsed));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::event::{Event, EventKind};
    use muster_proto::name::{HostName, OperatorName};
    use muster_proto::outcome::Outcome;
    use muster_proto::time::Timestamp;

    #[test]
    fn the_line_says_what_there_is_to_say() {
        let names = (0..9).map(|n| format!("n{n}").parse::<HostName>().expect("a name").into());
        let mut track = Track::new(names.collect());
        let mut apply = |kind| {
            track.apply(&Event { seq: 1, time: Timestamp::default(), kind });
            line(&track, 4, Duration::from_millis(4_120))
        };
        let by = "ada".parse::<OperatorName>().expect("a name");
        assert_eq!(apply(EventKind::Resumed { operator: by }), "0/9 done, 4.1 s");
        let mut end = |target, state| apply(EventKind::Finished { target, outcome: Outcome::without_run(state, "") });
        end(0, State::Succeeded);
        end(1, State::Unreachable);
        assert_eq!(end(2, State::Failed), "3/9 done, 2 failed, 4.1 s");
        apply(EventKind::Wave { number: 2, first: 3, targets: 5 });
        apply(EventKind::Started { target: 3 });
        apply(EventKind::Queued { target: 4, until: Timestamp::default() });
        let paused = apply(EventKind::Paused { operator: None, reason: String::new() });
        assert_eq!(paused, "wave 2 of 4, 3/9 done, 2 failed, 1 running, 1 queued, paused, 4.1 s");
    }

    #[test]
    fn it_is_drawn_at_most_ten_times_a_second() {
        let mut progress = Progress::default();
        assert_eq!(progress.hide(), None);
        assert!(progress.draw(|_| "half".to_owned()).is_some());
        assert!(progress.draw(|_| unreachable!("too early")).is_none());
        assert_eq!(progress.hide().as_deref(), Some(&b"\r\x1b[2K"[..]));
        assert_eq!(progress.hide(), None);
    }

    #[test]
    fn lines_are_drawn_in_place_and_leave_nothing_behind() {
        let mut progress = Progress::default();
        let mut draw = |text: &str| {
            progress.drawn_at = None;
            String::from_utf8(progress.draw(|_| text.to_owned()).expect("it is time")).expect("UTF-8")
        };
        assert_eq!(draw("a\nb\nc"), "\r\x1b[2Ka\n\x1b[2Kb\n\x1b[2Kc");
        assert_eq!(draw("d\ne"), "\r\x1b[2A\x1b[2Kd\n\x1b[2Ke\x1b[J");
        assert_eq!(progress.hide().as_deref(), Some(&b"\r\x1b[1A\x1b[J"[..]));
    }
}
