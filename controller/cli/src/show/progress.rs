//! The lines at the bottom of a terminal that say how far a job is, redrawn in place.

use muster_proto::outcome::{Counts, State};
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

/// "12/506 done, 3 failed, 20 running, 4.1 s".
pub fn line(counts: &Counts, targets: usize, running: usize, elapsed: Duration) -> String {
    let ended = counts.total();
    let failed = ended - counts.get(State::Succeeded);
    let mut text = format!("{ended}/{targets} done");
    if failed > 0 {
        text.push_str(&format!(", {failed} failed"));
    }
    if running > 0 {
        text.push_str(&format!(", {running} running"));
    }
    format!("{text}, {}", super::moment::span(elapsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_there_is_to_say() {
        let mut counts = Counts::default();
        assert_eq!(line(&counts, 506, 0, Duration::from_millis(400)), "0/506 done, 400 ms");
        counts.add_many(State::Succeeded, 9);
        counts.add_many(State::Failed, 2);
        counts.add_many(State::Unreachable, 1);
        assert_eq!(line(&counts, 506, 20, Duration::from_millis(4_120)), "12/506 done, 3 failed, 20 running, 4.1 s");
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
