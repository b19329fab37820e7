//! The agent's certificate in time: renewed at half life over the session that is there, proved by a session of its own,
//! and only then put in the place of the old one.
//!
//! ```text
//! due ──▶ asked ──▶ tried ──welcomed──▶ promoted
//!           │         └──refused──▶ the old one is tried, and so on in turn: who is welcomed stays
//!           └──no answer──▶ asked again after a pause
//! ```

use super::Agent;
use crate::clock::Reading;
use crate::identity::{Identity, IdentityError, Next, Pair};
use crate::session::Link;
use muster_proto::fleet::Facts;
use muster_proto::link::FromAgent;
use muster_proto::name::{Peer, PeerName};
use muster_proto::time::Timestamp;
use muster_proto::tls::{self, TlsError};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// The shortest and the longest time between two attempts.
const PAUSE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);
/// Attempts for which there is time in what is left of a certificate's life.
const ATTEMPTS: u32 = 64;
/// How often to ask whether the time has come: the runtime's clock stands still while the host is suspended.
const LOOK: Duration = Duration::from_mins(10);

/// The identity as it is used on the link, and its successor.
pub(super) struct Renewal {
    files: Next,
    current: Credential,
    /// Complete and on disk; whether the controller takes it is not known.
    successor: Option<Credential>,
    trying: Who,
    /// What the files do not say yet.
    owed: Option<Change>,
    /// Since somebody was welcomed.
    refusals: u32,
    /// When to begin, by the controller's clock.
    due: Timestamp,
    /// But not before this.
    pause: Instant,
    /// The key for which a certificate was asked in this session, and until when to wait for it.
    asked: Option<(String, Instant)>,
}

/// As whom to dial.
struct Credential {
    link: Link,
    valid: RangeInclusive<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Current,
    Successor,
}

/// What becomes of a successor's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Promote,
    Discard,
}

impl Credential {
    fn new(identity: &Identity, facts: &Facts, pair: &Pair) -> Result<Self, TlsError> {
        let own = tls::Identity::from_pem(&pair.certificate, &pair.key)?;
        let link = Link {
            controller: identity.controller.clone(),
            cluster: identity.cluster,
            tls: Arc::new(tls::client_config(own, &identity.controller_issuer()?)?),
            facts: facts.clone(),
        };
        Ok(Self { link, valid: tls::validity(&tls::certificate_from_pem(&pair.certificate)?)? })
    }

    /// One that may take the place of the identity's own: made for the same agent.
    fn successor(identity: &Identity, facts: &Facts, pair: &Pair) -> Result<Self, RenewError> {
        let name = PeerName { cluster: identity.cluster, peer: Peer::Agent(identity.agent) };
        match tls::peer_name(&tls::certificate_from_pem(&pair.certificate)?) {
            Ok(other) if other == name => Ok(Self::new(identity, facts, pair)?),
            _ => Err(RenewError::Foreign),
        }
    }
}

impl Renewal {
    /// Of an identity whose files were settled. A successor that an earlier start left is tried first: the controller may
    /// know nothing else any more. One that cannot be used is no reason not to start.
    pub(super) fn new(identity: &Identity, facts: &Facts, files: Next) -> Result<Self, TlsError> {
        let pair = Pair { key: identity.key.clone(), certificate: identity.certificate.clone() };
        let current = Credential::new(identity, facts, &pair)?;
        let successor = files.load().map(|pair| Credential::successor(identity, facts, &pair)).transpose();
        let owed = successor.as_ref().err().map(|error| {
            warn!(%error, "the renewed certificate is discarded: the old one stays");
            Change::Discard
        });
        let successor = successor.ok().flatten();
        let trying = if successor.is_some() { Who::Successor } else { Who::Current };
        let due = *current.valid.start() + about_half(current.valid.start().until(*current.valid.end()));
        let pause = Instant::now();
        Ok(Self { files, current, successor, trying, owed, refusals: 0, due, pause, asked: None })
    }

    /// Whom to dial as.
    pub(super) fn link(&self) -> Link {
        match (&self.successor, self.trying) {
            (Some(successor), Who::Successor) => successor.link.clone(),
            _ => self.current.link.clone(),
        }
    }

    /// The controller refused whom it was asked for. If there is another one to try: how long to wait before.
    fn refused(&mut self, retry_after: Duration) -> Option<Duration> {
        self.successor.as_ref()?;
        self.refusals = self.refusals.saturating_add(1);
        self.trying = match self.trying {
            Who::Current => Who::Successor,
            Who::Successor => Who::Current,
        };
        // The two are asked one right after the other; then it is time to wait.
        Some(if self.refusals % 2 == 1 { Duration::ZERO } else { retry_after })
    }

    /// The controller took whom it was asked for: nobody else is needed any more.
    fn welcomed(&mut self, controller_now: Timestamp) -> Result<(), IdentityError> {
        (self.refusals, self.asked) = (0, None);
        match (self.successor.take(), self.trying) {
            (Some(successor), Who::Successor) => {
                self.current = successor;
                self.trying = Who::Current;
                // From now, not from its beginning: that is set back for agents whose clock is behind.
                self.due = controller_now + about_half(self.left(controller_now));
                info!(days = self.left(controller_now).as_secs() / 86_400, "the certificate was renewed");
                self.owed = Some(Change::Promote);
            }
            (Some(_), Who::Current) => {
                warn!("the controller does not take the renewed certificate: the old one stays for now");
                self.later(controller_now);
                self.owed = Some(Change::Discard);
            }
            (None, _) => {
                // Whoever was away so long does not wait for the end of a pause.
                if self.left(controller_now) < self.current.valid.start().until(*self.current.valid.end()) / 4 {
                    self.pause = Instant::now();
                }
            }
        }
        self.pay()
    }

    /// Makes the files say what is so. Until then they hold a pair that works beside the other one, and nothing may be
    /// written over it.
    fn pay(&mut self) -> Result<(), IdentityError> {
        match self.owed {
            Some(Change::Promote) => self.files.promote()?,
            Some(Change::Discard) => self.files.discard()?,
            None => {}
        }
        self.owed = None;
        Ok(())
    }

    fn left(&self, controller_now: Timestamp) -> Duration {
        controller_now.until(*self.current.valid.end())
    }

    /// Tries again after a while.
    fn later(&mut self, controller_now: Timestamp) {
        self.pause = Instant::now() + (self.left(controller_now) / ATTEMPTS).clamp(*PAUSE.start(), *PAUSE.end());
    }

    /// A request to send now, if it is time.
    fn request(&mut self, controller_now: Timestamp) -> Option<Vec<u8>> {
        if let Some((_, until)) = &self.asked {
            if *until > Instant::now() {
                return None;
            }
            self.failed(controller_now, &"the controller does not answer");
        }
        if controller_now < self.due || self.pause > Instant::now() || self.successor.is_some() {
            return None;
        }
        self.later(controller_now);
        match self.begin() {
            Ok((key, csr)) => {
                self.asked = Some((key, self.pause));
                Some(csr)
            }
            Err(error) => {
                self.failed(controller_now, &error);
                None
            }
        }
    }

    fn begin(&mut self) -> Result<(String, Vec<u8>), RenewError> {
        self.pay()?;
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let csr = CertificateParams::default().serialize_request(&key)?.der().to_vec();
        let key = key.serialize_pem();
        self.files.begin(&key)?;
        Ok((key, csr))
    }

    /// A certificate came. True if it is on disk and to be tried; nothing is written that a start could stumble over.
    fn renewed(&mut self, identity: &Identity, certificate: &[u8], controller_now: Timestamp) -> bool {
        let Some((key, _)) = self.asked.take() else { return false };
        let pair = Pair { key, certificate: tls::certificate_to_pem(certificate) };
        let keep = || -> Result<Credential, RenewError> {
            let successor = Credential::successor(identity, &self.current.link.facts, &pair)?;
            if !successor.valid.contains(&controller_now) {
                return Err(RenewError::Dates);
            }
            self.files.complete(&pair)?;
            Ok(successor)
        };
        match keep() {
            Ok(successor) => {
                (self.successor, self.trying) = (Some(successor), Who::Successor);
                true
            }
            Err(error) => {
                self.failed(controller_now, &error);
                false
            }
        }
    }

    fn failed(&mut self, controller_now: Timestamp, error: &dyn std::fmt::Display) {
        self.asked = None;
        let days = self.left(controller_now).as_secs() / 86_400;
        warn!(%error, days_left = days, "the certificate could not be renewed; trying on");
    }

    /// The session is over, and with it what was asked in it.
    pub(super) fn down(&mut self) {
        self.asked = None;
    }

    /// When to look again in a session.
    fn wake(&self, controller_now: Timestamp) -> Instant {
        let due = Instant::now() + controller_now.until(self.due).min(LOOK);
        self.asked.as_ref().map_or(due.max(self.pause), |(_, until)| *until)
    }
}

/// Half of it, a fifth more or less: agents that enrolled together do not renew together.
fn about_half(life: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    life.mul_f64(0.4 + 0.2 * f64::from(random) / f64::from(u32::MAX))
}

impl Agent {
    /// A session began as whoever was tried.
    pub(super) fn settle_identity(&mut self, now: Reading) {
        let controller_now = self.controller_now(now);
        if let Err(error) = self.renewal.welcomed(controller_now) {
            warn!(%error, "the identity's files could not be changed: this is tried again later");
        }
    }

    /// Asks for a new certificate if it is time, and there is somebody to ask.
    pub(super) fn renew(&mut self, now: Reading) {
        let controller_now = self.controller_now(now);
        if self.link.is_some()
            && let Some(csr) = self.renewal.request(controller_now)
        {
            self.outbox.push_back(FromAgent::Renew(csr.into()));
        }
    }

    /// The answer. What works goes on: only the session is a new one.
    pub(super) fn on_renewed(&mut self, certificate: &[u8], now: Reading) {
        let controller_now = self.controller_now(now);
        if self.renewal.renewed(&self.identity, certificate, controller_now) {
            self.dial(Duration::ZERO);
        }
    }

    /// The controller does not take this agent for now.
    pub(super) fn on_refused(&mut self, retry_after: Duration) {
        if let Some(wait) = self.renewal.refused(retry_after) {
            self.dial(wait);
        }
    }

    /// When the certificate wants to be looked at; `None` without a session.
    pub(super) fn next_renewal(&self, now: Reading) -> Option<Instant> {
        self.link.as_ref().map(|_| self.renewal.wake(self.controller_now(now)))
    }
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("cannot make a key: {0}")]
    Key(#[from] rcgen::Error),
    #[error("cannot keep the new identity: {0}")]
    Files(#[from] IdentityError),
    #[error("what the controller issued cannot be used: {0}")]
    Tls(#[from] TlsError),
    #[error("what the controller issued is not for this agent: check that it is the controller of this cluster")]
    Foreign,
    #[error("what the controller issued is not valid now: check the controller's clock")]
    Dates,
}
