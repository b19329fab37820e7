//! The rounds of one schedule, for as long as it is there.

use super::{Inner, Shared, host_length, length, within};
use crate::clock;
use crate::groups::Resolver;
use crate::ping::{AGENTS_BACK, Look, News, Prober};
use crate::sessions::Contact;
use crate::stats::Stats;
use muster_core::watch::{Ended, Folded, Watch};
use muster_proto::id::AgentId;
use muster_proto::outcome::{Outcome, State};
use muster_proto::ping::{PingList, Probes, Schedule};
use muster_store::{Round, Store};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// An interval that is not over is made durable that often: a crash costs no more of its sums. Changes are never lost.
const RECORD_EVERY: Duration = Duration::from_mins(1);
/// An agent that is to look may be away for so long before its pairs are unknown in this round.
const DELIVER: Duration = Duration::from_secs(5);
/// A round may take so much longer than is to be expected, and once it was told to end than its last probe.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the task of a schedule needs.
pub(super) struct Rounds {
    shared: Arc<Shared>,
    store: Store,
    resolver: Resolver,
    prober: Prober,
    stats: Arc<Stats>,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    /// When the controller began.
    began: Instant,
    /// When the interval was last made durable.
    recorded: Instant,
    /// The clock was set back, and that was said.
    ahead: bool,
}

/// What a round found, and what is to be said of it.
type Found = (Arc<PingList>, Vec<Ended>, Option<String>);

impl Rounds {
    pub(super) fn new(inner: &Inner, shared: Arc<Shared>, stop: CancellationToken) -> Self {
        Self {
            shared,
            store: inner.store.clone(),
            resolver: inner.resolver.clone(),
            prober: inner.prober.clone(),
            stats: Arc::clone(&inner.stats),
            permits: Arc::clone(&inner.permits),
            stop,
            began: inner.began,
            recorded: Instant::now(),
            ahead: false,
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
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|error| error.to_string())?;
        let Schedule { operator, selection, spec, every, .. } = self.shared.state().schedule.clone();
        let key = self.store.operator_key(&operator).await.map_err(|error| error.to_string())?;
        if key.is_none() {
            return Err(format!("the operator {operator} is disabled: another can schedule it again with --replace"));
        }
        let (list, _) = self.resolver.pings(selection).await.map_err(|error| error.to_string())?;
        let targets = within(&list).map_err(|pairs| format!("it has come to {pairs} pairs, too many: make several"))?;
        let (unseen, times) = (self.unseen(&list), Times::of(&list, &spec.probes, every));
        let list = Arc::new(list);
        let look = self.prober.look(Arc::clone(&list), spec, (0..targets).collect(), DELIVER);
        let (mut ended, problem) = gather(look, permit, &list, times).await;
        for (pair, ended) in list.pairs().iter().zip(&mut ended) {
            if let Some((_, outcome)) = ended
                && list.host(*pair).agent.is_some_and(|agent| unseen.contains(&agent))
                && is_silent(outcome)
            {
                let reason = "the controller has just begun, and the agent is not back yet";
                *outcome = Outcome::without_run(State::Unreachable, reason);
            }
        }
        Ok((list, ended, problem))
    }

    /// Agents of which a controller that has just begun does not know whether they are away. Who comes during the round
    /// may have missed its probes.
    fn unseen(&self, list: &PingList) -> HashSet<AgentId> {
        if self.began.elapsed() >= AGENTS_BACK {
            return HashSet::new();
        }
        let here = |agent: &AgentId| matches!(self.resolver.roster().sessions().contact(*agent), Contact::Here(_));
        let agents = list.hosts().iter().filter_map(|host| host.agent);
        agents.filter(|agent| !here(agent) && self.stats.left(*agent).is_none()).collect()
    }

    /// Makes durable what a round found, then shows it. Where that fails nothing was found, and the next round finds the
    /// same changes again.
    async fn take(&mut self, found: Result<Found, String>) {
        let now = clock::now();
        let taken = match found {
            Ok((list, ended, problem)) => {
                let mut watch = Watch::clone(&self.shared.state().watch);
                if watch.is_ahead(now) && !self.ahead {
                    warn!(
                        "the clock was set back: what schedules find is added to their newest interval until it comes \
                         there again"
                    );
                }
                self.ahead = watch.is_ahead(now);
                let Folded { changes, mut intervals } = watch.fold(&list, &ended, now);
                if self.recorded.elapsed() >= RECORD_EVERY {
                    intervals.extend(watch.interval());
                }
                let recorded = self.record(Round { intervals, changes }).await;
                recorded.map(|()| (watch, problem)).map_err(|error| error.to_string())
            }
            Err(problem) => Err(problem),
        };
        let mut state = self.shared.state();
        let problem = match taken {
            Ok((watch, problem)) => {
                state.rounds += 1;
                state.schedule.targets = u32::try_from(watch.len()).unwrap_or(u32::MAX);
                state.schedule.ran_at = Some(now);
                state.watch = Arc::new(watch);
                problem
            }
            Err(problem) => Some(problem),
        };
        let schedule = &mut state.schedule;
        match (&problem, &schedule.problem) {
            (Some(problem), before) if before.as_ref() != Some(problem) => {
                warn!(schedule = %schedule.name, %problem, "the schedule does not run as it should");
            }
            (None, Some(_)) => info!(schedule = %schedule.name, "the schedule runs again"),
            _ => {}
        }
        schedule.problem = problem;
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

/// How long a round may take.
struct Times {
    /// It is one of the rounds at a time for so long: one that is only waited for makes no others wait.
    expected: Duration,
    /// Then it is ended: a schedule goes on whoever is silent.
    longest: Duration,
    /// It is over so long after that, in whatever state.
    ending: Duration,
}

impl Times {
    fn of(list: &PingList, probes: &Probes, every: Duration) -> Self {
        let sending = length(list, probes).saturating_mul(probes.retries + 1);
        let expected = sending.saturating_add(host_length(probes).unwrap_or(every));
        let [expected, longest] = [expected, expected.max(every)].map(|span| span.saturating_add(PATIENCE));
        Self { expected, longest, ending: probes.timeout + PATIENCE }
    }
}

/// Waits for all ends of a look, by their place in its list. When it takes too long it is ended, and what it has not said by
/// then is unknown, with a word on that.
async fn gather(
    mut look: Look,
    permit: OwnedSemaphorePermit,
    list: &PingList,
    times: Times,
) -> (Vec<Ended>, Option<String>) {
    let begun = Instant::now();
    let (mut ended, mut permit, mut problem) = (vec![None; list.pairs().len()], Some(permit), None);
    loop {
        let until = match (&permit, &problem) {
            (Some(_), _) => begun + times.expected,
            (None, None) => begun + times.longest,
            (None, Some(_)) => begun + times.longest + times.ending,
        };
        match timeout_at(until, look.news()).await {
            Ok(Some(news)) => {
                let now = clock::now();
                for news in news {
                    if let News::Ended { target, mut outcome } = news {
                        // It may not have had all its tries.
                        if problem.is_some() && outcome.state == State::Failed {
                            outcome = cut_off();
                        }
                        ended[target as usize] = Some((now, outcome));
                    }
                }
            }
            Ok(None) => break,
            Err(_) if permit.take().is_some() => {}
            Err(_) if problem.is_none() => {
                problem = Some(unfinished(list, &ended, times.longest));
                look.stop();
            }
            Err(_) => break,
        }
    }
    if problem.is_some() {
        let now = clock::now();
        ended.iter_mut().for_each(|ended| *ended = ended.take().or_else(|| Some((now, cut_off()))));
    }
    (ended, problem)
}

fn cut_off() -> Outcome {
    Outcome::without_run(State::Indeterminate, "the round took too long and was ended before")
}

/// Who has kept a round from its end.
fn unfinished(list: &PingList, ended: &[Ended], after: Duration) -> String {
    let open: Vec<_> =
        list.pairs().iter().zip(ended).filter(|(_, ended)| ended.is_none()).map(|(pair, _)| pair).collect();
    let from: HashSet<_> = open.iter().map(|pair| pair.from).collect();
    let first = open.first().and_then(|pair| list.vantage(**pair));
    let first = first.map_or("the controller".to_owned(), |vantage| vantage.name.to_string());
    let others = if from.len() > 1 { format!(" and {} others", from.len() - 1) } else { String::new() };
    let (open, all, after) = (open.len(), ended.len(), after.as_secs());
    format!("its last round was ended after {after} s without a word on {open} of {all} pairs, from {first}{others}")
}

/// The host's agent answered nothing over its link, and the host not otherwise.
fn is_silent(outcome: &Outcome) -> bool {
    let link = outcome.ping.as_ref().and_then(|report| report.link);
    outcome.state == State::Failed && link.is_some_and(|link| link.received == 0)
}

#[cfg(test)]
mod tests;
