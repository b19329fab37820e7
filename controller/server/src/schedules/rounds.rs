//! The rounds of one schedule, for as long as it is there.

use super::{Inner, Shared, within};
use crate::clock;
use crate::ping::{News, Prober};
use crate::roster::Roster;
use crate::stats::Stats;
use muster_core::watch::{Ended, Folded, Watch};
use muster_proto::id::AgentId;
use muster_proto::outcome::{Outcome, State};
use muster_proto::ping::{Contact, PingList, Schedule};
use muster_store::{Round, Store};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// An interval that is not over is made durable that often: a crash costs no more of its sums. Changes are never lost.
const RECORD_EVERY: Duration = Duration::from_mins(1);
/// An agent that is to look may be away for so long before its pairs are unknown in this round.
const DELIVER: Duration = Duration::from_secs(5);
/// After its start a controller waits so long for agents to come back before it says that one is away.
const AGENTS_BACK: Duration = Duration::from_mins(1);

/// What the task of a schedule needs.
pub(super) struct Rounds {
    shared: Arc<Shared>,
    store: Store,
    roster: Roster,
    prober: Prober,
    stats: Arc<Stats>,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    /// When the controller began.
    began: Instant,
    /// When the interval was last made durable.
    recorded: Instant,
}

/// What a round found.
type Found = (Arc<PingList>, Vec<Ended>);

impl Rounds {
    pub(super) fn new(inner: &Inner, shared: Arc<Shared>, stop: CancellationToken) -> Self {
        Self {
            shared,
            store: inner.store.clone(),
            roster: inner.roster.clone(),
            prober: inner.prober.clone(),
            stats: Arc::clone(&inner.stats),
            permits: Arc::clone(&inner.permits),
            stop,
            began: inner.began,
            recorded: Instant::now(),
        }
    }

    /// Looks again and again until it is told to stop; the first time after `first`.
    pub(super) async fn run(mut self, first: Duration) {
        let mut due = Instant::now() + first;
        let stop = self.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = sleep_until(due) => {}
            }
            // A look that is not over is abandoned. What a round found is either taken whole or not at all.
            let found = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                found = self.look() => found,
            };
            self.take(found).await;
            let every = self.shared.state().schedule.every;
            due += every;
            let now = Instant::now();
            if due < now {
                self.shared.state().late += 1;
                due = now;
            }
        }
        let watch = Arc::clone(&self.shared.state().watch);
        let round = Round { intervals: Vec::from_iter(watch.interval()), changes: Vec::new() };
        if let Err(error) = self.record(round).await {
            warn!(%error, "what was found last by a schedule is lost");
        }
    }

    async fn look(&self) -> Result<Found, String> {
        // Never closed.
        let _permit = self.permits.acquire().await.map_err(|error| error.to_string())?;
        let Schedule { operator, selection, spec, .. } = self.shared.state().schedule.clone();
        let key = self.store.operator_key(&operator).await.map_err(|error| error.to_string())?;
        if key.is_none() {
            return Err(format!("the operator {operator} is disabled: another can schedule it again with --replace"));
        }
        let (list, _) = self.roster.pings(&selection).map_err(|error| error.to_string())?;
        let targets = within(&list).map_err(|pairs| format!("it has come to {pairs} pairs, too many: make several"))?;
        let list = Arc::new(list);
        let mut ended = vec![None; list.pairs().len()];
        let mut look = self.prober.look(Arc::clone(&list), spec, (0..targets).collect(), DELIVER);
        while let Some(news) = look.news().await {
            let now = clock::now();
            for news in news {
                if let News::Ended { target, outcome } = news {
                    let agent = list.host(list.pairs()[target as usize]).agent;
                    ended[target as usize] = Some((now, self.in_time(agent, outcome)));
                }
            }
        }
        Ok((list, ended))
    }

    /// A controller that has just begun does not know of an agent that it has not seen yet whether that one is away.
    fn in_time(&self, agent: Option<AgentId>, outcome: Outcome) -> Outcome {
        let away = outcome.ping.as_ref().is_some_and(|report| report.agent == Some(Contact::Away));
        let unseen = agent.is_none_or(|agent| self.stats.left(agent).is_none());
        if away && unseen && outcome.state == State::Failed && self.began.elapsed() < AGENTS_BACK {
            Outcome::without_run(State::Unreachable, "the controller has just begun, and the agent is not back yet")
        } else {
            outcome
        }
    }

    /// Makes durable what a round found, then shows it. Where that fails nothing was found, and the next round finds the
    /// same changes again.
    async fn take(&mut self, found: Result<Found, String>) {
        let now = clock::now();
        let taken = match found {
            Ok((list, ended)) => {
                let mut watch = Watch::clone(&self.shared.state().watch);
                let Folded { changes, mut intervals } = watch.fold(&list, &ended, now);
                if self.recorded.elapsed() >= RECORD_EVERY {
                    intervals.extend(watch.interval());
                }
                let recorded = self.record(Round { intervals, changes }).await;
                recorded.map(|()| watch).map_err(|error| error.to_string())
            }
            Err(problem) => Err(problem),
        };
        let mut state = self.shared.state();
        let schedule = &state.schedule;
        match (&taken, &schedule.problem) {
            (Err(problem), before) if before.as_ref() != Some(problem) => {
                warn!(schedule = %schedule.name, %problem, "a round of the schedule did not run");
            }
            (Ok(_), Some(_)) => info!(schedule = %schedule.name, "the schedule runs again"),
            _ => {}
        }
        match taken {
            Ok(watch) => {
                state.rounds += 1;
                state.schedule.targets = u32::try_from(watch.len()).unwrap_or(u32::MAX);
                (state.schedule.ran_at, state.schedule.problem) = (Some(now), None);
                state.watch = Arc::new(watch);
            }
            Err(problem) => state.schedule.problem = Some(problem),
        }
    }

    async fn record(&mut self, round: Round) -> Result<(), muster_store::StoreError> {
        if round.intervals.is_empty() && round.changes.is_empty() {
            return Ok(());
        }
        if !round.intervals.is_empty() {
            self.recorded = Instant::now();
        }
        let name = self.shared.state().schedule.name.clone();
        self.store.record_round(name, round).await
    }
}
