//! One conclusion for a person at night: what is so, why, and what to do about it.

use crate::engine::Look;
use muster_core::job::{Pause, Waiting, WaveStage, WaveView};
use muster_core::task::Phase;
use muster_proto::fleet::AgentInfo;
use muster_proto::job::JobSpec;
use muster_proto::limits;
use muster_proto::outcome::{Outcome, State};
use muster_proto::time::Timestamp;
use muster_proto::why::{LastSession, TaskStory};
use std::time::Duration;
use time::OffsetDateTime;

/// What is known of the host.
pub(super) struct Host<'a> {
    pub(super) info: &'a AgentInfo,
    pub(super) left: Option<&'a LastSession>,
    /// Its tasks that are not over.
    pub(super) waiting: usize,
    /// Those of them that run.
    pub(super) running: usize,
    pub(super) now: Timestamp,
}

/// What is known of a task.
pub(super) struct Seen<'a> {
    pub(super) task: &'a TaskStory,
    pub(super) spec: &'a JobSpec,
    /// `None` once its job is not at work.
    pub(super) look: Option<&'a Look>,
}

/// The story is a moment older than the look.
const ENDED: &str = "it has just gone on: ask again";

/// Why the host does, or does not, get work.
pub(super) fn about_host(host: &Host<'_>) -> String {
    let (info, name) = (host.info, &host.info.name);
    if let Some(at) = info.revoked_at {
        return format!(
            "{name} was revoked {}: nothing runs there; to have it back, enrol it anew with a token from `muster token create`",
            host.at(at)
        );
    }
    if let Some(quarantine) = &info.quarantine {
        let [first, second] = &quarantine.parties;
        return format!(
            "{name} gets no tasks since {}: two machines use its identity, at {} and at {}; say which one it is with \
             `muster agents resolve {name} --keep WHICH`, first or second",
            host.at(quarantine.since),
            first.address,
            second.address
        );
    }
    if !info.connected {
        return format!("{}; {}", host.absence(), host.remedy());
    }
    if let Some(offset) = info.clock.filter(|offset| offset.is_skewed()) {
        return format!(
            "{name} is connected, but its clock is {offset} from the controller's, and with more than {} s it rejects \
             every task: set the clock on the host",
            limits::CLOCK_SKEW_MAX.as_secs()
        );
    }
    let since = info.since.map(|since| format!(" since {}", host.at(since))).unwrap_or_default();
    let work = match host.waiting {
        0 => "no task of it is unfinished".to_owned(),
        1 => "1 task of it is unfinished".to_owned(),
        count => format!("{count} tasks of it are unfinished"),
    };
    format!("{name} is connected{since} and takes tasks; {work}")
}

/// Why the task is where it is.
pub(super) fn about_task(host: &Host<'_>, seen: &Seen<'_>) -> String {
    match &seen.task.outcome {
        Some(outcome) => ended(host, seen, outcome) + &gate(host, seen),
        None => at_work(host, seen),
    }
}

/// What the gate of its wave makes of the host.
fn gate(host: &Host<'_>, seen: &Seen<'_>) -> String {
    match (&seen.task.gate, seen.look.map(|look| &look.waiting)) {
        (Some(end), _) => format!("; the gate of its wave ended there {}: {}", host.at(end.at), told(&end.outcome)),
        (None, Some(Waiting::Gate)) => "; the gate of its wave has not ended there yet".to_owned(),
        (None, _) => String::new(),
    }
}

/// State and reason in a few words.
fn told(outcome: &Outcome) -> String {
    let code = outcome.exit_code.map(|code| format!(" (exit code {code})"));
    let reason = || outcome.reason.as_ref().map(|reason| format!(" ({reason})"));
    format!("{}{}", outcome.state, code.or_else(reason).unwrap_or_default())
}

fn ended(host: &Host<'_>, seen: &Seen<'_>, outcome: &Outcome) -> String {
    let (name, task) = (&host.info.name, seen.task);
    let (state, job) = (outcome.state, task.job);
    let because = outcome.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let ran = outcome.duration.map(|span| format!(" after {}", spoken(span))).unwrap_or_default();
    let at = task.finished_at.map(|at| host.at(at)).unwrap_or_default();
    let again = format!("nothing ran; `muster rerun {job} --not-run` runs it where it did not");
    match state {
        State::Succeeded => format!("succeeded: it ended with exit code 0{ran}"),
        State::Failed => {
            let how = outcome.exit_code.map(|code| format!(": it ended with exit code {code}")).unwrap_or(because);
            format!("failed{how}{ran}; `muster logs {job} -w {name}` prints what it wrote")
        }
        State::TimedOut => {
            let limit = spoken(run_timeout(seen.spec));
            format!("timed_out: it ran longer than its run timeout (-u) of {limit} and was ended")
        }
        State::Cancelled => {
            format!("cancelled: {} after it had started here; it was ended{ran}", cancelled(host, task))
        }
        State::StartFailed | State::Rejected => format!("{state}{because}; when that is mended: {again}"),
        State::Unreachable => {
            let before = match (host.left, host.info.connected) {
                (Some(left), _) => format!("; its last session ended {} ({})", host.at(left.at), left.reason),
                (None, true) => "; it is connected now".to_owned(),
                (None, false) => String::new(),
            };
            format!("unreachable{because}, a window (-t) that closed {at}{before}; {again}, a longer -t waits longer")
        }
        State::Expired => {
            let deadline = host.at(task.start_before);
            format!(
                "expired{because}; nothing of the job starts after its deadline (--job-timeout) {deadline}; {again}"
            )
        }
        State::Skipped => match &task.cancelled {
            Some(_) => format!("skipped: {} before it started here; {again}", cancelled(host, task)),
            None => format!("skipped{because}; {again}"),
        },
        State::Indeterminate => {
            let late = task.late.as_ref().map(|late| format!("; after that the agent reported: {late}"));
            let late = late.unwrap_or_default();
            format!("indeterminate{because}{late}; it may have run: look on the host before you run it again")
        }
    }
}

fn at_work(host: &Host<'_>, seen: &Seen<'_>) -> String {
    let (task, spec) = (seen.task, seen.spec);
    let Some(look) = seen.look else {
        let phase = task.phase.as_str();
        return format!("{phase}: the job does not answer: it is just ending, or waits for the controller's store");
    };
    if !matches!(look.phase, Phase::Offered(_) | Phase::Accepted(_) | Phase::Started(_)) {
        let paused = look.paused.as_ref().map(|paused| format!("; {}", host.paused(paused, task)));
        return waiting(host, seen, look) + &paused.unwrap_or_default();
    }
    let Look { phase, connected, .. } = look;
    let until = |at: &Timestamp| format!("without contact it is given up {}", host.at(*at));
    let since = |at: Option<Timestamp>| at.map(|at| host.at(at)).unwrap_or_default();
    let ending = task.cancelled.as_ref().map(|_| format!("; {}, and it is being ended", cancelled(host, task)));
    let ending = ending.unwrap_or_default();
    match phase {
        Phase::Offered(at) if !connected => {
            format!("offered, and contact was lost: {}; {}{ending}", host.absence(), until(at))
        }
        Phase::Offered(_) => {
            format!("offered {}: the agent has not answered yet{ending}", since(task.offered_at.last().copied()))
        }
        Phase::Accepted(at) if !connected => {
            format!("accepted, and contact was lost: {}; it may run meanwhile; {}{ending}", host.absence(), until(at))
        }
        Phase::Accepted(_) if host.running >= limits::RUNNING_TASKS_MAX => format!(
            "accepted: it is queued on the host, where {} tasks run, as many as may; it starts when one of them ends{ending}",
            host.running
        ),
        Phase::Accepted(_) => {
            format!(
                "accepted {}: it is in the agent's journal, and starts as soon as the host has room, {} tasks at a time{ending}",
                since(task.accepted_at),
                limits::RUNNING_TASKS_MAX
            )
        }
        Phase::Started(at) if !connected => {
            format!("started, and goes on without contact: {}; {}{ending}", host.absence(), until(at))
        }
        Phase::Started(_) => {
            let timeout = task.started_at.map(|at| host.at(at + run_timeout(spec))).unwrap_or_default();
            format!(
                "started: it runs since {}, and the run timeout (-u) ends it {timeout}{ending}",
                since(task.started_at)
            )
        }
        Phase::Planned | Phase::Later(_) | Phase::Due(_) | Phase::Ended(_) => ENDED.to_owned(),
    }
}

/// What it waits for before it is offered.
fn waiting(host: &Host<'_>, seen: &Seen<'_>, look: &Look) -> String {
    let (name, task, spec) = (&host.info.name, seen.task, seen.spec);
    match look.waiting {
        Waiting::Paused => "planned: its turn has come".to_owned(),
        Waiting::Wave { number } => {
            format!("planned: its wave is {number} of {}; {}", look.wave.of, host.wave(&look.wave))
        }
        Waiting::Turn { at } => {
            let splay = spoken(spec.rollout.splay);
            format!("planned: its turn comes {}: the hosts of a wave start spread over {splay} (--splay)", host.at(at))
        }
        Waiting::Retry { at } => {
            let before = task.earlier.last().map(|end| told(&end.outcome)).unwrap_or_default();
            let last = task.earlier.len();
            format!("planned: attempt {last} ended as {before}; attempt {} begins {}", task.attempt, host.at(at))
        }
        Waiting::Room => {
            let limit = spec.rollout.concurrency.unwrap_or(spec.targets.count);
            let turn = if look.connected { "is connected, and waits for its turn" } else { "waits for its turn" };
            format!("planned: {name} {turn}: {} of at most {limit} hosts are at work (-f)", look.at_work)
        }
        Waiting::Contact { until } => format!(
            "planned: {}; the job waits for it until {}, then it is unreachable; {}",
            host.absence(),
            host.at(until),
            host.remedy()
        ),
        Waiting::Queue { until } => format!(
            "queued until {}: {}; it runs if its agent is back by then, and nobody waits for it; {}",
            host.at(until),
            host.absence(),
            host.remedy()
        ),
        Waiting::AtWork | Waiting::Gate | Waiting::Over => ENDED.to_owned(),
    }
}

fn cancelled(host: &Host<'_>, task: &TaskStory) -> String {
    match &task.cancelled {
        Some((at, operator)) => format!("{operator} cancelled the job {}", host.at(*at)),
        None => "the job was stopped".to_owned(),
    }
}

impl Host<'_> {
    /// That it has no session, since when, and why.
    fn absence(&self) -> String {
        let name = &self.info.name;
        match (self.left, self.info.since) {
            (Some(left), _) => format!("{name} has no session since {} ({})", self.at(left.at), left.reason),
            (None, Some(since)) => {
                format!("{name} has no session since the controller began, the last one was {}", self.at(since))
            }
            (None, None) => format!("{name} was enrolled {} and never had a session", self.at(self.info.enrolled_at)),
        }
    }

    /// That nothing is offered, and what ends it.
    fn paused(&self, paused: &Pause, task: &TaskStory) -> String {
        let (job, since) = (task.job, self.at(paused.since));
        match &paused.operator {
            Some(operator) => format!("the job is paused since {since} by {operator}: `muster resume {job}` goes on"),
            None => format!(
                "the job is paused since {since}: {}: `muster resume {job}` goes on, `muster cancel {job}` ends it",
                paused.reason
            ),
        }
    }

    /// Where the wave that is under way stands.
    fn wave(&self, wave: &WaveView) -> String {
        let number = wave.number;
        match wave.stage {
            _ if number == 0 => "none has begun yet".to_owned(),
            WaveStage::Running => format!("wave {number} runs"),
            WaveStage::Soaking { until } => {
                format!("wave {number} is over, and what follows it begins {} (--wave-pause)", self.at(until))
            }
            WaveStage::Gate { open } => format!("the gate of wave {number} is awaited from {open} hosts"),
            WaveStage::Held => format!("wave {number} holds the others up: see `muster job`"),
            WaveStage::Passed => format!("wave {number} is over, and the next one begins"),
        }
    }

    fn remedy(&self) -> &'static str {
        "nothing can run there until its agent dials in: on the host, see `systemctl status muster-agent` and \
         `journalctl -u muster-agent`"
    }

    /// A moment in UTC: the time alone where it is close enough.
    fn at(&self, at: Timestamp) -> String {
        let parts = OffsetDateTime::from_unix_timestamp(at.as_millis() / 1000);
        let Ok(moment) = parts else { return "at some time".to_owned() };
        let (hour, minute, second) = moment.to_hms();
        let far = self.now.until(at).max(at.until(self.now)) > Duration::from_hours(12);
        let date = if far { format!("{} ", moment.date()) } else { String::new() };
        format!("{date}{hour:02}:{minute:02}:{second:02} UTC")
    }
}

/// A span in the largest units that say enough.
fn spoken(span: Duration) -> String {
    let (seconds, tenths) = (span.as_secs(), span.subsec_millis() / 100);
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..60 if tenths > 0 => format!("{seconds}.{tenths} s"),
        1..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    }
}

/// How long the program may run.
fn run_timeout(spec: &JobSpec) -> Duration {
    spec.work.command().map_or(Duration::ZERO, |command| command.timeout)
}

#[cfg(test)]
mod tests;
