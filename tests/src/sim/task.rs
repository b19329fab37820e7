//! One simulated task: bytes that are made up, an end when its time has come, and what this session has told of it. Pure:
//! the time is an argument.

use super::Answers;
use super::random::Random;
use bytes::Bytes;
use muster_agent::admit::Stand;
use muster_proto::command::{Command, OutputLimit};
use muster_proto::event::Stream;
use muster_proto::id::{Attempt, TaskId};
use muster_proto::limits::OUTPUT_FRAME_BYTES_MAX;
use muster_proto::link::{Frame, FrameBody, TaskReport, Unfinished};
use muster_proto::outcome::{End, EndKind};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::time::Instant;

/// Frames of one task that may be under way without being acknowledged: 1 MiB, as with a real agent.
const WINDOW_FRAMES: u64 = 16;
const FRAME_BYTES: u64 = OUTPUT_FRAME_BYTES_MAX as u64;

/// One frame of every task's output: 1,024 lines of 64 bytes, each with its number.
pub(super) static BLOCK: LazyLock<Bytes> = LazyLock::new(|| {
    let line = |number| format!("{number:08} the quick brown fox jumps over the lazy dog, once more\n");
    (0..OUTPUT_FRAME_BYTES_MAX / 64).flat_map(|number| line(number).into_bytes()).collect()
});

/// A task whose end is not committed.
pub(super) struct Task {
    began: Instant,
    life: Life,
    /// Bytes of output that are sent, from the beginning.
    kept: u64,
    /// Bytes behind them that the job's limit leaves out.
    dropped: u64,
    /// The session's controller waits for it.
    shipment: Option<Shipment>,
    /// It stands in the queue of those that may have something to report.
    queued: bool,
}

enum Life {
    Runs { ends: Instant, kind: EndKind },
    Over(End),
}

/// What this session has told.
struct Shipment {
    next: u64,
    acked: u64,
    told: Told,
}

#[derive(PartialEq, Eq)]
enum Told {
    Nothing,
    Started,
    End,
}

impl Task {
    /// Starts one now: this attempt, with its command.
    pub(super) fn start(
        answers: &Answers,
        attempt: Attempt,
        command: &Command,
        random: &mut Random,
        now: Instant,
    ) -> Self {
        let delay = answers.delay + answers.jitter.mul_f64(random.unit());
        let fail_rate = if attempt == Attempt::GATE { answers.gate_fail_rate } else { answers.fail_rate };
        let code = u8::from(random.unit() < fail_rate);
        let (after, kind) =
            if delay > command.timeout { (command.timeout, EndKind::TimedOut) } else { (delay, EndKind::Exit(code)) };
        let kept = match command.output {
            OutputLimit::Kept { head, .. } => answers.output.min(head),
            OutputLimit::Unlimited => answers.output,
        };
        let (dropped, life) = (answers.output - kept, Life::Runs { ends: now + after, kind });
        let mut task = Self { began: now, life, kept, dropped, shipment: None, queued: false };
        task.wanted(0);
        task.look(now);
        task
    }

    /// When it ends by itself; `None` if it is over.
    pub(super) const fn ends(&self) -> Option<Instant> {
        match self.life {
            Life::Runs { ends, .. } => Some(ends),
            Life::Over(_) => None,
        }
    }

    /// Where it stands, as far as others of its job depend on it.
    pub(super) fn stand(&self) -> Stand {
        match &self.life {
            Life::Runs { .. } => Stand::Open,
            Life::Over(end) => Stand::ended(end),
        }
    }

    /// Ends it if its time has come. True if it has an end.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        if let Life::Runs { ends, kind } = &self.life
            && *ends <= now
        {
            let (kind, duration) = (kind.clone(), *ends - self.began);
            self.life = Life::Over(End { kind, duration });
        }
        matches!(self.life, Life::Over(_))
    }

    /// Ends it at once. True if it still ran.
    pub(super) fn cancel(&mut self, now: Instant) -> bool {
        let runs = !self.look(now);
        if runs {
            self.life = Life::Over(End { kind: EndKind::Cancelled, duration: now - self.began });
        }
        runs
    }

    /// As the agent names it when it comes back.
    pub(super) fn unfinished(&self, task: TaskId) -> Unfinished {
        Unfinished { task, next_frame: self.frames(), started: true }
    }

    /// The controller waits for it, from this frame on.
    pub(super) fn wanted(&mut self, next: u64) {
        self.shipment = Some(Shipment { next, acked: next, told: Told::Nothing });
    }

    /// The session is over.
    pub(super) fn unwanted(&mut self) {
        (self.shipment, self.queued) = (None, false);
    }

    /// All frames before this one are durable at the controller.
    pub(super) fn ack(&mut self, next_frame: u64) {
        if let Some(shipment) = &mut self.shipment {
            shipment.acked = shipment.acked.max(next_frame.min(shipment.next));
        }
    }

    /// False if it stands in the queue already, or nobody waits for it.
    pub(super) const fn queue(&mut self) -> bool {
        let new = !self.queued && self.shipment.is_some();
        self.queued |= new;
        new
    }

    /// Takes it out of the queue with what it has to report.
    pub(super) fn report(&mut self) -> Option<TaskReport> {
        self.queued = false;
        let (frames, kept, dropped) = (self.frames(), self.kept, self.dropped);
        let shipment = self.shipment.as_mut()?;
        if shipment.told == Told::Nothing {
            shipment.told = Told::Started;
            return Some(TaskReport::Started);
        }
        if shipment.next < frames {
            if shipment.next - shipment.acked >= WINDOW_FRAMES {
                return None;
            }
            shipment.next += 1;
            return Some(TaskReport::Frame(frame(shipment.next - 1, kept, dropped)));
        }
        match &self.life {
            Life::Over(end) if shipment.told == Told::Started => {
                shipment.told = Told::End;
                Some(TaskReport::Exited { frames, end: end.clone() })
            }
            Life::Over(_) | Life::Runs { .. } => None,
        }
    }

    fn frames(&self) -> u64 {
        self.kept.div_ceil(FRAME_BYTES) + u64::from(self.dropped > 0)
    }
}

fn frame(number: u64, kept: u64, dropped: u64) -> Frame {
    let offset = number * FRAME_BYTES;
    let body = match kept.checked_sub(offset).filter(|left| *left > 0) {
        Some(left) => {
            // At most a block.
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK.len());
            FrameBody::Data { offset, data: BLOCK.slice(..length) }
        }
        None => FrameBody::Truncated { bytes: dropped },
    };
    Frame { number, stream: Stream::Stdout, body }
}

/// A span of nothing to a bound, evenly.
pub(super) fn spread(most: Duration, random: &mut Random) -> Duration {
    most.mul_f64(random.unit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::output;
    use muster_proto::command::Program;
    use muster_proto::outcome::State;
    use proptest::prelude::*;

    fn task(bytes: u64, head: u64, delay: Duration) -> Task {
        let answers = Answers { output: bytes, delay, jitter: Duration::ZERO, fail_rate: 0.0, gate_fail_rate: 0.0 };
        let mut command = Command::new(Program::Argv(vec![b"true".to_vec()]));
        command.output = OutputLimit::Kept { head, tail: 0 };
        Task::start(&answers, Attempt::FIRST, &command, &mut Random::new(1, 1), Instant::now())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_byte_is_told_once_and_in_order_wherever_a_session_breaks(
            bytes in 0..2_000_000_u64, head in 0..2_000_000_u64, breaks in prop::collection::vec(1..40_usize, 0..6)
        ) {
            let mut task = task(bytes, head, Duration::ZERO);
            let (mut told, mut dropped, mut durable, mut started) = (Vec::new(), 0, 0, 0);
            for reports in breaks.into_iter().chain([usize::MAX]) {
                task.wanted(durable);
                for _ in 0..reports {
                    match task.report() {
                        Some(TaskReport::Started) => started += 1,
                        Some(TaskReport::Frame(Frame { number, body, .. })) => {
                            prop_assert_eq!(number, durable);
                            match body {
                                FrameBody::Data { offset, data } => {
                                    prop_assert_eq!(offset, told.len() as u64);
                                    told.extend(data);
                                }
                                FrameBody::Truncated { bytes } => dropped += bytes,
                            }
                            durable += 1;
                            task.ack(durable);
                        }
                        Some(TaskReport::Exited { frames, .. }) => prop_assert_eq!(frames, durable),
                        _ => break,
                    }
                }
                task.unwanted();
            }
            prop_assert!(told == output(usize::try_from(bytes.min(head)).expect("small")));
            prop_assert_eq!(dropped, bytes.saturating_sub(head));
            prop_assert!(started >= 1);
        }
    }

    #[test]
    fn gates_fail_as_often_as_was_said_of_gates() {
        let answers =
            Answers { output: 0, delay: Duration::ZERO, jitter: Duration::ZERO, fail_rate: 0.0, gate_fail_rate: 1.0 };
        let command = Command::new(Program::Argv(vec![b"true".to_vec()]));
        let end = |attempt| {
            let task = Task::start(&answers, attempt, &command, &mut Random::new(1, 1), Instant::now());
            task.stand()
        };
        assert_eq!(end(Attempt(2)), Stand::Over(State::Succeeded));
        assert_eq!(end(Attempt::GATE), Stand::Over(State::Failed));
    }

    #[test]
    fn what_is_not_acknowledged_is_bounded() {
        let mut task = task(10 << 20, u64::MAX, Duration::ZERO);
        let told = std::iter::from_fn(|| task.report()).count() as u64;
        assert_eq!(told, 1 + WINDOW_FRAMES);
        task.ack(3);
        assert_eq!(std::iter::from_fn(|| task.report()).count(), 3);
    }

    #[test]
    fn a_task_ends_once_its_time_has_come_or_when_it_is_cancelled() {
        let second = Duration::from_secs(1);
        let mut early = task(0, 0, second);
        let ends = early.ends().expect("it runs");
        assert!(!early.look(ends - second / 2));
        assert!(early.cancel(ends - second / 4) && !early.cancel(ends));
        let mut late = task(0, 0, second);
        let ends = late.ends().expect("it runs");
        assert!(!late.cancel(ends), "it had ended by then");
        let Some(TaskReport::Exited { end, .. }) = std::iter::from_fn(|| late.report()).last() else {
            panic!("no end");
        };
        assert_eq!(end, End { kind: EndKind::Exit(0), duration: second });
    }
}
