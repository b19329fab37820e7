//! A ping at work: owned by one task around one pure [`Sweep`], fed by the [`Prober`].
//!
//! After a restart the targets that are open are looked at anew: a probe executes nothing, so nothing is done twice.

use super::commit::commit;
use super::order::{Obeyed, Order};
use super::running::Input;
use super::{Progress, Resumption};
use crate::clock;
use crate::ping::{Look, News, Prober};
use crate::stats::Stats;
use muster_core::sweep::Sweep;
use muster_proto::event::Event;
use muster_proto::job::{JobState, Work};
use muster_proto::limits;
use muster_proto::outcome::State;
use muster_proto::ping::PingList;
use muster_proto::time::Timestamp;
use muster_store::{Append, AuditEntry, Store, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info};

/// Questions and orders taken at a time.
const BATCH_LEN: usize = 64;
/// Between two looks at the clock, at most: it may have been set.
const NAP_MAX: Duration = Duration::from_mins(1);

/// A ping with what its task needs.
pub(super) struct Pinging {
    sweep: Sweep,
    look: Option<Look>,
    /// Single probes in the record.
    samples: u64,
    /// What becomes of targets that nobody has looked at when the look is over.
    rest: (State, String),
    store: Store,
    stats: Arc<Stats>,
}

/// What is done once the events are durable.
#[derive(Default)]
struct Afterwards {
    events: Vec<Event>,
    /// Who waits for the answer that it is so.
    orders: Vec<(oneshot::Sender<Obeyed>, Obeyed)>,
    audit: Vec<AuditEntry>,
}

impl Pinging {
    /// Looks at all targets that are open.
    pub(super) fn new(sweep: Sweep, list: Arc<PingList>, prober: &Prober, store: Store, stats: Arc<Stats>) -> Self {
        let spec = sweep.spec();
        let late = spec.start_before <= clock::now();
        let rest = if sweep.state() == JobState::Cancelling {
            (State::Skipped, "the job was cancelled before it was looked at".to_owned())
        } else {
            (State::Expired, "the job's deadline passed before it was looked at".to_owned())
        };
        let look = match &spec.work {
            Work::Ping(ping) if !late && rest.0 == State::Expired => {
                Some(prober.look(list, ping.clone(), sweep.open().collect(), spec.deliver))
            }
            _ => None,
        };
        Self { samples: sweep.last_seq(), sweep, look, rest, store, stats }
    }

    /// Is the job until it is done.
    pub(super) async fn run(mut self, mut inputs: mpsc::Receiver<Input>, progress: watch::Sender<Progress>) {
        let job = self.sweep.spec().job;
        let mut batch = Vec::with_capacity(BATCH_LEN);
        let mut after = Afterwards::default();
        loop {
            let now = clock::now();
            for input in batch.drain(..) {
                self.take(input, &mut after);
            }
            if self.look.is_none() {
                let (state, reason) = self.rest_at(now);
                self.sweep.give_up(state, &reason, now, &mut after.events);
            }
            self.sweep.advance(now, &mut after.events);
            let done = self.sweep.state() == JobState::Done;
            if let Err(error) = self.commit(&mut after).await {
                error!(%job, %error, "the ping stops here until the controller is started again");
                return;
            }
            progress.send_replace(Progress { seq: self.sweep.last_seq(), done });
            Self::tell(&mut after);
            if done {
                info!(%job, "ping done");
                return;
            }
            let left = clock::now().until(self.sweep.spec().start_before);
            if left.is_zero() || self.samples >= limits::PING_SAMPLES_MAX {
                self.end();
            }
            let nap = left.clamp(Duration::from_millis(1), NAP_MAX);
            tokio::select! {
                taken = inputs.recv_many(&mut batch, BATCH_LEN) => if taken == 0 { return },
                news = news_of(&mut self.look) => self.learn(news, &mut after),
                () = tokio::time::sleep(nap), if !left.is_zero() => {}
            }
        }
    }

    /// What becomes of targets that nobody has looked at, now that nobody will.
    fn rest_at(&self, now: Timestamp) -> (State, String) {
        if self.rest.0 == State::Expired && now < self.sweep.spec().start_before {
            return (State::Indeterminate, "the look broke off before its turn: ping it again".to_owned());
        }
        self.rest.clone()
    }

    /// What is under way still says what it has seen.
    fn end(&self) {
        if let Some(look) = &self.look {
            look.stop();
        }
    }

    fn learn(&mut self, news: Option<Vec<News>>, after: &mut Afterwards) {
        let now = clock::now();
        let Some(news) = news else {
            self.look = None;
            return;
        };
        for news in news {
            match news {
                News::Probed { target, sample } => {
                    self.samples += 1;
                    self.sweep.probed(target, sample, now, &mut after.events);
                }
                News::Ended { target, outcome } => self.sweep.ended(target, outcome, now, &mut after.events),
            }
        }
    }

    fn take(&mut self, input: Input, after: &mut Afterwards) {
        let now = clock::now();
        match input {
            Input::Order { order: Order::Cancel, operator, answer } => {
                let record = Order::Cancel.record(self.sweep.spec().job, &operator, now);
                let mut obeyed = Obeyed::Already;
                if self.sweep.cancel(operator, now, &mut after.events) {
                    after.audit.push(record);
                    obeyed = Obeyed::Now;
                }
                self.rest = (State::Skipped, "the job was cancelled before it was looked at".to_owned());
                self.end();
                after.orders.push((answer, obeyed));
            }
            Input::Order { order: Order::Pause, answer, .. } => {
                let _ = answer.send(Obeyed::No("it is a ping, which `muster cancel` ends"));
            }
            Input::Order { order: Order::Resume, answer, .. } => {
                let _ = answer.send(Obeyed::Already);
            }
            Input::Stop { operator, actor } => {
                if self.sweep.spec().operator == operator && self.rest.0 == State::Expired {
                    let detail = format!("{}: {operator} was disabled", self.sweep.spec().job);
                    after.audit.push(AuditEntry { at: now, actor, action: "job.stop".to_owned(), detail });
                    self.rest = (State::Skipped, format!("the operator {operator} was disabled"));
                    self.end();
                }
            }
            // What came of the targets is in the store alone.
            Input::View { answer } => drop(answer),
            Input::Survey { answer } => drop(answer.send(self.sweep.open_phases().collect())),
            Input::Queue { answer } => drop(answer.send(Vec::new())),
            // Agents have no tasks in a ping: what they say of it goes to the prober.
            Input::Hello { answer, .. } => drop(answer.send(Resumption::default())),
            Input::Gone { .. }
            | Input::Recognition { .. }
            | Input::Revoked { .. }
            | Input::Reports(_)
            | Input::Look { .. } => {}
        }
    }

    async fn commit(&self, after: &mut Afterwards) -> Result<(), StoreError> {
        let append = Append {
            job: self.sweep.spec().job,
            events: std::mem::take(&mut after.events),
            state: self.sweep.state(),
            counts: *self.sweep.counts(),
            done_at: self.sweep.done_at(),
            audit: std::mem::take(&mut after.audit),
            late: Vec::new(),
        };
        commit(&self.store, &self.stats, append).await
    }

    fn tell(after: &mut Afterwards) {
        for (answer, obeyed) in after.orders.drain(..) {
            let _ = answer.send(obeyed);
        }
    }
}

/// Never ends while nobody looks.
async fn news_of(look: &mut Option<Look>) -> Option<Vec<News>> {
    match look {
        Some(look) => look.news().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
