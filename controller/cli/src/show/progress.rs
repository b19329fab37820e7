//! The one line at the bottom of a terminal that says how far a job is.

use muster_proto::outcome::{Counts, State};
use std::time::{Duration, Instant};

/// Often enough to look alive, seldom enough to cost nothing.
const PERIOD: Duration = Duration::from_millis(100);

/// When the line was drawn, and whether it is there.
#[derive(Debug, Default)]
pub struct Progress {
    visible: bool,
    drawn_at: Option<Instant>,
}

impl Progress {
    /// Takes the whole line away, wherever the cursor is in it.
    pub const CLEAR: &[u8] = b"\r\x1b[2K";

    /// What to write to have the line drawn now; `None` if it was drawn a moment ago.
    pub fn draw(&mut self, line: impl FnOnce() -> String) -> Option<Vec<u8>> {
        let now = Instant::now();
        if self.drawn_at.is_some_and(|at| now.duration_since(at) < PERIOD) {
            return None;
        }
        self.drawn_at = Some(now);
        self.visible = true;
        // A line that wraps could not be cleared any more.
        let columns = super::columns(std::io::stderr()).unwrap_or(super::COLUMNS_DEFAULT);
        let shown: String = line().chars().take(columns.saturating_sub(1)).collect();
        Some([Self::CLEAR, shown.as_bytes()].concat())
    }

    /// Whether the line was there and has to be cleared now.
    pub fn hide(&mut self) -> bool {
        std::mem::take(&mut self.visible)
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
        assert!(!progress.hide());
        assert!(progress.draw(String::new).is_some());
        assert!(progress.draw(|| unreachable!("too early")).is_none());
        assert!(progress.hide());
        assert!(!progress.hide());
    }
}
