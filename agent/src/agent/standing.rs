//! Whether this agent is the one that the controller means. A machine that was copied, or whose disk was set back, holds
//! the same key and the same tasks: it starts none of them without a session in which a controller has recognised it by its
//! nonce.

use super::work::{Leave, Stage};
use super::{Agent, EVENTS};
use crate::clock::{Offset, Reading};
use crate::identity::Identity;
use muster_proto::link::{FromAgent, Nonce, Welcome};
use muster_proto::time::Timestamp;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{debug, error, info, warn};

/// How long to wait before a nonce that could not be kept is written again: the controller offers nothing before it is.
const RETRY: Duration = Duration::from_secs(2);

/// How far the agent is recognised in the session that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not at all, or there is no session: nothing starts.
    Unknown,
    /// It was welcomed, and the nonce of that session is not on disk yet: nothing starts. When to try again.
    Welcomed(Nonce, Instant),
    /// The nonce that was handed out last is on disk.
    Sure,
}

impl Agent {
    /// Dials, after a while. Nothing more is heard of any session before.
    pub(super) fn dial(&mut self, wait: Duration) {
        self.on_down();
        let (sender, events) = mpsc::channel(EVENTS);
        // A link that nobody listens to ends, and with it its session.
        self.events = events;
        let link = self.renewal.link();
        tokio::spawn(async move {
            sleep(wait).await;
            link.keep(sender).await;
        });
    }

    /// A session began. Its nonce is on disk before the controller hears that it is.
    pub(super) fn welcomed(&mut self, welcome: &Welcome) {
        let now = self.clock.read();
        self.offset = Some(Offset::measure(welcome.clock, now));
        if let Some(skew) = self.skew(now) {
            warn!(%skew, "tasks are refused");
        }
        self.standing = Standing::Welcomed(welcome.nonce, Instant::now() + RETRY);
        if let Err(error) = self.secure() {
            error!(%error, "nothing starts");
        }
        self.settle_identity(now);
    }

    /// Makes sure that tasks may start, or says why they may not.
    pub(super) fn secure(&mut self) -> Result<(), String> {
        match self.standing {
            Standing::Sure => Ok(()),
            Standing::Unknown => Err("this agent was not recognised by its controller yet".to_owned()),
            Standing::Welcomed(nonce, _) => {
                Identity::store_nonce(&self.settings.state, nonce)
                    .map_err(|error| format!("cannot keep the session's nonce: {}", chain(&error)))?;
                (self.standing, self.nonce) = (Standing::Sure, Some(nonce));
                self.outbox.push_front(FromAgent::NonceStored(nonce.epoch));
                Ok(())
            }
        }
    }

    /// Writes the session's nonce again if that failed and it is time.
    pub(super) fn retry_nonce(&mut self) {
        let now = Instant::now();
        if let Standing::Welcomed(nonce, due) = self.standing
            && due <= now
        {
            self.standing = Standing::Welcomed(nonce, now + RETRY);
            match self.secure() {
                Ok(()) => info!("the session's nonce is kept now: tasks may start"),
                Err(error) => debug!(%error, "still nothing starts"),
            }
        }
    }

    /// When to write it again; `None` if it is kept, or there is none.
    pub(super) const fn next_nonce(&self) -> Option<Instant> {
        match self.standing {
            Standing::Welcomed(_, due) => Some(due),
            Standing::Unknown | Standing::Sure => None,
        }
    }

    /// From here on nothing starts before the controller asks for it again.
    pub(super) fn distrust(&mut self) {
        self.standing = Standing::Unknown;
        for id in &self.waiting {
            if let Some(Stage::Waiting(_, leave)) = self.tasks.get_mut(id).map(|task| &mut task.stage) {
                *leave = Leave::AfterWelcome;
            }
        }
    }

    /// Reads the clocks. After a leap this may be a copy of the machine that it was: its session counts for nothing, and
    /// a new one tells. So it is after this agent stood still: what lay in the socket meanwhile may be late, and nobody
    /// can tell by how much.
    pub(super) fn watch_clock(&mut self) -> Reading {
        let now = self.clock.read();
        let seen = std::mem::replace(&mut self.seen, now);
        if now.leapt_since(&seen) || now.stood_still_since(&seen) {
            info!("this host's clock was set, or the host or this agent stood still: dialing anew");
            self.dial(Duration::ZERO);
        }
        now
    }

    /// Why this host's clock takes no tasks.
    pub(super) fn skew(&self, now: Reading) -> Option<String> {
        self.offset.and_then(|offset| offset.refusal(now))
    }

    /// The controller's time, or what comes nearest to it.
    pub(super) fn controller_now(&self, now: Reading) -> Timestamp {
        self.offset.map_or(now.wall, |offset| offset.controller_now(now))
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error} ({source})"))
}
