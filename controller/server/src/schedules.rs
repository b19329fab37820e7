//! Pings that the controller repeats: each schedule is a task of its own, which looks, folds, and makes durable.
//!
//! ```text
//! roster ─ resolve ─▶ prober ─ outcomes ─▶ a copy of the watch ─▶ store (durable first) ─▶ the watch that is shown
//! ```
//!
//! What it costs is bounded: so many schedules, pairs and packets a second, and so many rounds at a time; the others
//! wait, and are counted as late. A round that fails changes nothing, and one that takes too long is ended: its problem is
//! shown, and the next one tries again.

mod rounds;

use crate::clock;
use crate::groups::{Resolver, WhoError};
use crate::ping::Prober;
use crate::stats::Stats;
use muster_core::watch::{History, Watch};
use muster_proto::limits;
use muster_proto::name::OperatorName;
use muster_proto::ping::{Change, Detail, Interval, PingList, Probes, Schedule, Standing};
use muster_proto::time::Timestamp;
use muster_store::{AuditEntry, NewSchedule, Replace, ScheduleError, Store, StoreError};
use rounds::Rounds;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// At a start of the controller the first rounds are spread over so much time, if no schedule's own is shorter.
const SPREAD: Duration = Duration::from_secs(30);

/// All schedules. Clones share them.
#[derive(Clone)]
pub struct Schedules {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    resolver: Resolver,
    prober: Prober,
    stats: Arc<Stats>,
    /// One for each round at a time.
    permits: Arc<Semaphore>,
    /// When the controller began.
    began: Instant,
    /// Held while one is made or removed, so that the store and this agree.
    running: tokio::sync::Mutex<BTreeMap<OperatorName, Running>>,
}

/// A schedule at work.
struct Running {
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What a schedule shows of itself. All of it is durable, but for numbers that begin anew with the controller.
struct Shared {
    state: Mutex<State>,
}

#[derive(Clone)]
struct State {
    schedule: Schedule,
    watch: Arc<Watch>,
    rounds: u64,
    late: u64,
}

impl Shared {
    // No code that can panic runs under the lock, so that a poisoned one holds a whole state.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a schedule is, in numbers.
pub struct Figures {
    /// Its name.
    pub name: OperatorName,
    /// Why its last round did not run, or not to its end.
    pub problem: Option<String>,
    /// Rounds since the controller began.
    pub rounds: u64,
    /// Those that began late.
    pub late: u64,
    /// Pairs that are up, down, and unknown.
    pub pairs: [u64; 3],
}

/// A schedule cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// Too often or too seldom.
    #[error(
        "--every is from {} s to {} h", limits::SCHEDULE_EVERY_MIN.as_secs(), limits::SCHEDULE_EVERY_MAX.as_secs() / 3_600
    )]
    Every,
    /// A round would never end.
    #[error("a schedule repeats a ping that ends: give a count with -c, not --loop")]
    Endless,
    /// A round would not be over when the next begins.
    #[error("one host takes up to {} s, longer than --every: send fewer probes (-c), or wait less for each (--timeout)", .0.as_secs_f64())]
    Long(Duration),
    /// Too many pairs.
    #[error(
        "a schedule has at most {max} pairs, and these are {0}: make several, or use --sample with --from",
        max = limits::SCHEDULE_PAIRS_MAX
    )]
    Pairs(usize),
    /// Nobody is meant, or nobody that exists.
    #[error(transparent)]
    Plan(#[from] WhoError),
    /// The name, or the store.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
}

/// How the hosts of schedules were cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum StandingsError {
    /// There is no such schedule.
    #[error(transparent)]
    Unknown(ScheduleError),
    /// Too many hosts for one answer.
    #[error("the schedules have {0} pairs together, too many for one answer: name one schedule")]
    TooMany(usize),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a new schedule means.
pub struct Made {
    /// Pairs in its first round.
    pub targets: u32,
    /// What was left out, or to be known, a line each.
    pub notes: Vec<String>,
}

impl Schedules {
    /// Takes up all schedules where they stood. Their first rounds are spread.
    pub async fn start(
        store: Store,
        resolver: Resolver,
        prober: Prober,
        stats: Arc<Stats>,
    ) -> Result<Self, StoreError> {
        let permits = Arc::new(Semaphore::new(limits::SCHEDULE_ROUNDS_MAX));
        let schedules = store.schedules().await?;
        let running = tokio::sync::Mutex::default();
        let inner = Inner { store, resolver, prober, stats, permits, began: Instant::now(), running };
        let started = Self { inner: Arc::new(inner) };
        for schedule in schedules {
            let mut watch = Watch::new(schedule.name.clone(), schedule.every, clock::now());
            match started.inner.store.newest_interval(&schedule.name).await {
                Ok(Some(newest)) => watch = watch.restore(newest),
                Ok(None) => {}
                // Its hosts are looked at all the same; `check` has the same finding.
                Err(error) => error!(schedule = %schedule.name, %error, "how its hosts were cannot be read"),
            }
            let first = spread(&schedule);
            let (name, watch) = (schedule.name.clone(), Arc::new(watch));
            let running = started.run(State { schedule, watch, rounds: 0, late: 0 }, first);
            started.inner.running.lock().await.insert(name, running);
        }
        Ok(started)
    }

    fn run(&self, state: State, first: Duration) -> Running {
        let shared = Arc::new(Shared { state: Mutex::new(state) });
        let stop = CancellationToken::new();
        let rounds = Rounds::new(&self.inner, Arc::clone(&shared), stop.clone());
        let task = tokio::spawn(rounds.run(first));
        Running { shared, stop, task }
    }

    /// Makes a schedule, or puts it in the place of the one of its name, whose hosts go on as they stood. Its first round
    /// begins at once. All of it is done even if the caller does not wait.
    pub async fn make(&self, schedule: Schedule, replace: Replace) -> Result<Made, MakeError> {
        let made = self.clone();
        let made = tokio::spawn(async move { made.put(schedule, replace).await });
        made.await.unwrap_or(Err(MakeError::Schedule(ScheduleError::Store(StoreError::Closed))))
    }

    async fn put(&self, mut schedule: Schedule, replace: Replace) -> Result<Made, MakeError> {
        check(&schedule)?;
        schedule.spec.detail = Detail::Ends;
        let rate = schedule.spec.probes.rate.map_or(limits::SCHEDULE_RATE_MAX, NonZeroU32::get);
        schedule.spec.probes.rate = NonZeroU32::new(rate.min(limits::SCHEDULE_RATE_MAX));
        let (list, mut notes) = self.inner.resolver.pings(schedule.selection.clone()).await?;
        let targets = within(&list).map_err(MakeError::Pairs)?;
        let round = length(&list, &schedule.spec.probes);
        if round > schedule.every {
            notes.push(format!(
                "a round takes about {} s at the rate that schedules have, longer than --every: rounds will be late",
                round.as_secs()
            ));
        }
        let mut running = self.inner.running.lock().await;
        let every = schedule.every.as_secs();
        let new = NewSchedule {
            actor: format!("operator/{}", schedule.operator),
            detail: format!("{}: {targets} pairs every {every} s", schedule.name),
            schedule: schedule.clone(),
            replace,
        };
        self.inner.store.put_schedule(new).await?;
        let (name, every) = (schedule.name.clone(), schedule.every);
        let state = match running.remove(&name) {
            Some(old) => {
                let old = old.end().await;
                State { watch: Arc::new(Watch::clone(&old.watch).every(every)), schedule, ..old }
            }
            None => {
                let watch = Arc::new(Watch::new(name.clone(), every, clock::now()));
                State { schedule, watch, rounds: 0, late: 0 }
            }
        };
        running.insert(name.clone(), self.run(state, Duration::ZERO));
        info!(schedule = %name, targets, "schedule made");
        Ok(Made { targets, notes })
    }

    /// Removes a schedule with what it found. All of it is done even if the caller does not wait.
    pub async fn remove(&self, name: OperatorName, audit: AuditEntry) -> Result<(), ScheduleError> {
        let removing = self.clone();
        let removed = tokio::spawn(async move {
            let mut running = removing.inner.running.lock().await;
            removing.inner.store.remove_schedule(name.clone(), audit).await?;
            if let Some(old) = running.remove(&name) {
                old.end().await;
            }
            info!(schedule = %name, "schedule removed");
            Ok(())
        });
        removed.await.unwrap_or(Err(ScheduleError::Store(StoreError::Closed)))
    }

    /// All schedules, by name.
    pub async fn list(&self) -> Vec<Schedule> {
        let running = self.inner.running.lock().await;
        running.values().map(|running| running.shared.state().schedule.clone()).collect()
    }

    /// All schedules in numbers, by name.
    pub async fn figures(&self) -> Vec<Figures> {
        let running = self.inner.running.lock().await;
        let figures = |running: &Running| {
            let State { schedule, watch, rounds, late } = running.shared.state().clone();
            let Schedule { name, problem, .. } = schedule;
            Figures { name, problem, rounds, late, pairs: watch.counts() }
        };
        running.values().map(figures).collect()
    }

    /// How the hosts of one schedule, or of all, were since a moment: by schedule, then in the order of its list. With the
    /// changes since then.
    pub async fn standings(
        &self,
        name: Option<&OperatorName>,
        since: Timestamp,
    ) -> Result<(Vec<Standing>, Vec<Change>), StandingsError> {
        let watches: Vec<(OperatorName, Arc<Watch>)> = {
            let running = self.inner.running.lock().await;
            let wanted = running.iter().filter(|(known, _)| name.is_none_or(|name| name == *known));
            wanted.map(|(name, running)| (name.clone(), Arc::clone(&running.shared.state().watch))).collect()
        };
        if let (Some(name), []) = (name, &watches[..]) {
            return Err(StandingsError::Unknown(ScheduleError::Unknown(name.clone())));
        }
        let pairs = watches.iter().map(|(_, watch)| watch.len()).sum();
        if pairs > limits::PING_TARGETS_MAX {
            return Err(StandingsError::TooMany(pairs));
        }
        let (store, mut standings) = (&self.inner.store, Vec::with_capacity(pairs));
        // The interval that this moment is in counts.
        let first = Timestamp::from_millis(Interval::of(since).as_millis().saturating_sub(1));
        for (name, watch) in watches {
            let (mut history, mut after) = (History::new(watch, since), first);
            loop {
                let some = store.intervals(&name, after).await?;
                let Some(last) = some.last() else { break };
                after = last.start;
                history.add(&some);
            }
            standings.extend(history.standings());
        }
        Ok((standings, store.ping_changes(name, since).await?))
    }

    /// Ends all rounds. What they found is durable afterwards.
    pub async fn stop(&self) {
        for (_, running) in std::mem::take(&mut *self.inner.running.lock().await) {
            running.end().await;
        }
    }
}

impl Running {
    /// Ends it; how it stood.
    async fn end(self) -> State {
        self.stop.cancel();
        let _ = self.task.await;
        self.shared.state().clone()
    }
}

fn check(schedule: &Schedule) -> Result<(), MakeError> {
    if schedule.every < limits::SCHEDULE_EVERY_MIN || schedule.every > limits::SCHEDULE_EVERY_MAX {
        return Err(MakeError::Every);
    }
    let host = host_length(&schedule.spec.probes).ok_or(MakeError::Endless)?;
    if host > schedule.every { Err(MakeError::Long(host)) } else { Ok(()) }
}

/// How long one host takes at most; `None` if it never ends.
fn host_length(probes: &Probes) -> Option<Duration> {
    let Probes { count, period, timeout, retries, .. } = probes;
    Some(period.saturating_mul(count.as_ref()?.get() - 1).saturating_add(timeout.saturating_mul(retries + 1)))
}

/// How many pairs there are, if not too many; their number otherwise.
fn within(list: &PingList) -> Result<u32, usize> {
    let pairs = list.pairs().len();
    u32::try_from(pairs).ok().filter(|_| pairs <= limits::SCHEDULE_PAIRS_MAX).ok_or(pairs)
}

/// How long the busiest of those who look sends, if every host answers at once.
fn length(list: &PingList, probes: &Probes) -> Duration {
    let mut pairs = vec![0_u64; list.vantages().len() + 1];
    for pair in list.pairs() {
        pairs[pair.from.map_or(0, |from| from as usize + 1)] += 1;
    }
    let rate = u64::from(probes.rate.map_or(limits::SCHEDULE_RATE_MAX, NonZeroU32::get));
    let count = probes.count.map_or(1, |count| u64::from(count.get()));
    let here = pairs[0].saturating_mul(count) * 1_000 / rate;
    let most = pairs[1..].iter().max().map_or(0, |most| most.saturating_mul(count));
    let there = most * 1_000 / rate.min(limits::AGENT_PROBE_RATE.into());
    Duration::from_millis(here.max(there))
}

/// When the first round after a start begins: always the same for the same schedule, and another for another.
fn spread(schedule: &Schedule) -> Duration {
    let mut hasher = DefaultHasher::new();
    schedule.name.hash(&mut hasher);
    let millis = u64::try_from(schedule.every.min(SPREAD).as_millis()).unwrap_or(1).max(1);
    Duration::from_millis(hasher.finish() % millis)
}

#[cfg(test)]
mod tests;
