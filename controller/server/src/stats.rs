//! What the controller counts, and why each agent's last session ended: the numbers behind `muster status` and the
//! memory behind `muster why`.
//!
//! One plain struct of atomics that every door counts into; nothing here decides anything. Counts are since the start of
//! the process and never go down. Each thing that is turned away or closed has a named reason, so that a limit that was
//! hit can be seen.

use crate::clock;
use muster_core::task::Refused;
use muster_proto::event::{Event, EventKind, GateStep};
use muster_proto::id::AgentId;
use muster_proto::outcome::State;
use muster_proto::time::Timestamp;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All of it. One a process, shared by the doors.
#[derive(Debug)]
pub struct Stats {
    /// When the controller began.
    pub started_at: Timestamp,
    /// Sessions of agents that began.
    pub sessions_opened: Counter,
    /// Sessions of agents that ended; use [`Stats::session_closed`].
    closed: Tally<Closed>,
    /// Limits that something ran into.
    pub limits: Tally<Limit>,
    /// Reports of agents that could not follow from what was known; each ended its session.
    pub reports: Tally<Report>,
    /// Events made durable.
    pub events: Counter,
    /// Appends that made them durable; fewer than events under load.
    pub commits: Counter,
    /// Bytes of output made durable.
    pub output_bytes: Counter,
    /// Certificates of agents that were renewed over their sessions.
    pub renewed: Counter,
    /// Jobs that were accepted.
    pub jobs_accepted: Counter,
    /// Streams of events to operators that are open now.
    pub followers: Gauge,
    /// Jobs whose records were removed, as `--keep` says.
    pub pruned_jobs: Counter,
    /// When old jobs were last looked for: Unix time in seconds, 0 if never.
    pub pruned_at: Gauge,
    /// Pings at work, and rounds of those that are repeated.
    pub looks: Gauge,
    /// Probes that were answered, of targets that have ended.
    pub probes_answered: Counter,
    /// Probes that were not.
    pub probes_lost: Counter,
    /// Replies to our own probes that the kernel dropped since we were too slow.
    pub replies_dropped: Counter,
    /// Samples of probes that were dropped since nobody took them in time; the figures at the end hold them.
    pub samples_dropped: Counter,
    /// Findings of agents for pings that are not at work.
    pub findings_ignored: Counter,
    /// Bytes that are free on the disk with the state.
    pub disk_free: Gauge,
    /// 1 while that is too little.
    pub disk_low: Gauge,
    /// Why the last session of each agent that has none ended. One entry an enrolled agent at most.
    last: Mutex<HashMap<AgentId, Left>>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            started_at: clock::now(),
            sessions_opened: Counter::default(),
            closed: Tally::default(),
            limits: Tally::default(),
            reports: Tally::default(),
            events: Counter::default(),
            commits: Counter::default(),
            output_bytes: Counter::default(),
            renewed: Counter::default(),
            jobs_accepted: Counter::default(),
            followers: Gauge::default(),
            pruned_jobs: Counter::default(),
            pruned_at: Gauge::default(),
            looks: Gauge::default(),
            probes_answered: Counter::default(),
            probes_lost: Counter::default(),
            replies_dropped: Counter::default(),
            samples_dropped: Counter::default(),
            findings_ignored: Counter::default(),
            disk_free: Gauge::default(),
            disk_low: Gauge::default(),
            last: Mutex::default(),
        }
    }
}

impl Stats {
    /// A session of this agent ended now, or was not let begin.
    pub fn session_closed(&self, agent: AgentId, why: Closed) {
        self.closed.add(why);
        self.last().insert(agent, Left { at: clock::now(), why });
    }

    /// These events of a job are durable now.
    pub fn committed(&self, events: &[Event]) {
        self.commits.add_one();
        self.events.add(events.len() as u64);
        for event in events {
            match &event.kind {
                EventKind::Output { data, .. } | EventKind::Gate { step: GateStep::Output { data, .. }, .. } => {
                    self.output_bytes.add(data.len() as u64);
                }
                EventKind::Truncated { .. } | EventKind::Gate { step: GateStep::Truncated { .. }, .. } => {
                    self.limits.add(Limit::Output);
                }
                EventKind::Finished { outcome, .. }
                | EventKind::Retrying { outcome, .. }
                | EventKind::Gate { step: GateStep::Finished { outcome }, .. }
                    if outcome.state == State::Rejected =>
                {
                    self.limits.add(Limit::Rejected);
                }
                _ => {}
            }
        }
    }

    /// Why the agent's last session ended; `None` if none has since the controller began.
    pub fn left(&self, agent: AgentId) -> Option<Left> {
        self.last().get(&agent).copied()
    }

    /// How many sessions ended, by reason.
    pub fn closed(&self) -> &Tally<Closed> {
        &self.closed
    }

    // No code that can panic runs under the lock, so that a poisoned one holds a whole map.
    fn last(&self) -> MutexGuard<'_, HashMap<AgentId, Left>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of an agent's last session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub why: Closed,
}

/// Something that is counted by kind.
pub trait Kind: Copy + 'static {
    /// Every kind, in the order in which they are shown.
    const ALL: &'static [Self];
    /// The word for it in metrics: lower case, with underscores.
    fn word(self) -> &'static str;
    /// Its place in [`Kind::ALL`].
    fn place(self) -> usize;
}

/// Makes an enum whose variants are counted: each with its word for metrics and, where they are shown, its words for
/// people.
macro_rules! kinds {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal;)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl Kind for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            fn place(self) -> usize {
                self as usize
            }
        }
    };
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal, $text:literal;)+ }) => {
        kinds! { $(#[$about])* $name { $($(#[$doc])* $variant = $word;)+ } }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $(Self::$variant => $text,)+ })
            }
        }
    };
}

kinds! {
    /// Why a session of an agent ended, or was refused as it began.
    Closed {
        /// The stream ended or the connection broke: the agent stopped, the network failed, keepalives were not answered.
        Lost = "lost", "the connection was lost, or the agent stopped";
        /// A newer session of the same agent took its place.
        Replaced = "replaced", "a newer session of the agent took its place";
        /// The certificate it was opened with expired.
        Expired = "expired", "its certificate expired";
        /// An operator revoked the agent.
        Revoked = "revoked", "the agent was revoked";
        /// A machine that is not enrolled, or was revoked before.
        Unknown = "unknown", "the agent is not enrolled here, or was revoked";
        /// Two machines use its identity.
        Quarantined = "quarantined", "two machines use its identity";
        /// It is the copy that lost when the quarantine was resolved.
        Outcast = "outcast", "another machine was kept under this name";
        /// Its key was replaced by a renewal.
        Superseded = "superseded", "its key was replaced by a newer one";
        /// It speaks no protocol of ours.
        Protocol = "protocol", "agent and controller speak different protocols";
        /// It said no hello in time, or no hello at all.
        NoHello = "no_hello", "it did not say hello";
        /// It did not store its nonce in time: it could not have been given work.
        Unconfirmed = "unconfirmed", "it did not store its nonce: see the log and the disk of the agent";
        /// It said what cannot be, or what is not valid.
        Invalid = "invalid", "it sent a message that was refused";
        /// A message was larger than may be.
        Oversize = "oversize", "it sent a message that is too large";
        /// It did not take what was queued for it.
        Slow = "slow", "it did not take what was sent to it";
        /// The controller is stopping.
        Drained = "drained", "the controller was stopping";
        /// The store could not do what the session needed.
        Store = "store", "the controller's store failed";
    }
}

kinds! {
    /// A limit that something ran into. What each listener turns away is counted in its gate.
    Limit {
        /// An enrolment listener's rate for an address.
        EnrolmentRate = "enrolment_rate";
        /// A submission that was refused: too large, too late, or not what was signed.
        Submission = "submission";
        /// A message of an agent that was larger than 256 KiB.
        AgentMessage = "agent_message";
        /// Output that a task's limit left out, in markers.
        Output = "output";
        /// Messages for one agent that found its queue full.
        AgentQueue = "agent_queue";
        /// Tasks that an agent refused, for any reason.
        Rejected = "rejected";
        /// The clock was set, or began far ahead of the newest record: nothing was removed for its age for an hour.
        Clock = "clock";
        /// The disk with the state has little room left.
        Disk = "disk";
    }
}

kinds! {
    /// Why a report of an agent was refused.
    Report {
        /// The task's phase does not allow it, or the task is not the agent's.
        Phase = "phase";
        /// A frame is missing.
        Hole = "hole";
        /// Output does not continue.
        Offset = "offset";
        /// More output than was signed.
        Limit = "limit";
        /// What cannot have been seen by a ping, or was not asked.
        Probe = "probe";
    }
}

impl From<Refused> for Report {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Phase => Self::Phase,
            Refused::Hole => Self::Hole,
            Refused::Offset => Self::Offset,
            Refused::Limit => Self::Limit,
        }
    }
}

/// Counts up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// Several more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter for each kind.
#[derive(Debug)]
pub struct Tally<K>(Box<[Counter]>, PhantomData<K>);

impl<K: Kind> Default for Tally<K> {
    fn default() -> Self {
        Self(K::ALL.iter().map(|_| Counter::default()).collect(), PhantomData)
    }
}

impl<K: Kind> Tally<K> {
    /// One more of this kind.
    pub fn add(&self, kind: K) {
        self.0[kind.place()].add_one();
    }

    /// How many of each kind.
    pub fn iter(&self) -> impl Iterator<Item = (K, u64)> {
        K::ALL.iter().map(|kind| (*kind, self.0[kind.place()].get()))
    }
}

/// How many there are now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// It is this many now.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// One more; call [`Gauge::leave`] when it is gone.
    pub fn enter(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn kinds_are_sound<K: Kind + PartialEq + std::fmt::Debug>() {
        let words: HashSet<_> = K::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(words.len(), K::ALL.len(), "each kind has a word of its own");
        for (place, kind) in K::ALL.iter().enumerate() {
            assert_eq!(kind.place(), place);
            assert!(kind.word().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{kind:?}");
        }
    }

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        kinds_are_sound::<Closed>();
        kinds_are_sound::<Limit>();
        kinds_are_sound::<Report>();
    }

    #[test]
    fn the_last_end_of_a_session_is_remembered_and_all_are_counted() {
        let (stats, agent) = (Stats::default(), AgentId::from_bytes([1; 16]));
        assert_eq!(stats.left(agent), None);
        stats.session_closed(agent, Closed::Lost);
        stats.session_closed(agent, Closed::Expired);
        assert_eq!(stats.left(agent).map(|left| left.why), Some(Closed::Expired));
        let counted: Vec<_> = stats.closed().iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(Closed::Lost, 1), (Closed::Expired, 1)]);
    }
}
