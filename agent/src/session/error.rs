//! Why there is no session, in words that say what to do.

use muster_proto::limits;
use rustls::{AlertDescription, CertificateError};
use std::error::Error;
use std::io;
use std::time::Duration;
use tonic::{Code, Status};

/// What a server says of a client's certificate whose time is over, or has not come, by the server's clock.
const EXPIRED: AlertDescription = AlertDescription::CertificateExpired;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No TCP connection.
    #[error("cannot reach the controller at {address}: check the address, the network and that it runs")]
    Unreachable {
        /// `HOST:PORT`.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Another installation, or somebody in between.
    #[error(
        "what answers there was not issued by the CA this agent trusts: check the address, or enrol with that cluster"
    )]
    WrongIssuer,
    /// Times do not fit.
    #[error(
        "clock: the controller's certificate is not valid now: check this host's clock (timedatectl), and if it is right, \
         the controller's certificate"
    )]
    NotValidNow,
    /// Another failure of TLS.
    #[error("no TLS with what answers there: check that the port is the right one")]
    Handshake(#[source] io::Error),
    /// The controller does not take this agent's certificate.
    #[error("the controller refuses this agent's identity ({0}): it was revoked; enrol again with a fresh --state")]
    Refused(String),
    /// Its time is over, by the controller's clock.
    #[error(
        "the controller refuses this agent's certificate because of its dates: it expired before it could be renewed, or \
         the controller's clock is wrong; if that clock is right, enrol again with a fresh --state"
    )]
    Expired,
    /// The controller takes the certificate, but not the session.
    #[error("the controller refuses this agent for now: {reason}")]
    Declined {
        /// One line for people.
        reason: String,
        /// When to ask again.
        retry_after: Duration,
    },
    /// Newer or older than this agent.
    #[error("the controller speaks protocol {0}, this agent {own}: use the same release", own = limits::PROTOCOL.end())]
    Protocol(u32),
    /// The connection broke, or was closed.
    #[error("the connection to the controller was lost ({0})")]
    Lost(String),
    /// The agent itself ends.
    #[error("the agent ends")]
    Closed,
}

/// A certificate that was refused is shown again after this long: somebody may have looked into it.
const REFUSED_RETRY: Duration = Duration::from_secs(30);

impl LinkError {
    /// Why the controller does not want this agent, and when to ask again; `None` if that is not what failed.
    pub(super) fn refusal(&self) -> Option<(String, Duration)> {
        match self {
            Self::Declined { reason, retry_after } => Some((reason.clone(), *retry_after)),
            Self::Refused(_) | Self::Expired => Some((self.to_string(), REFUSED_RETRY)),
            _ => None,
        }
    }

    pub(super) fn of_handshake(error: io::Error) -> Self {
        use rustls::Error::{AlertReceived, InvalidCertificate};
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            )) => Self::NotValidNow,
            Some(InvalidCertificate(_)) => Self::WrongIssuer,
            Some(AlertReceived(EXPIRED)) => Self::Expired,
            Some(alert @ AlertReceived(_)) => Self::Refused(alert.to_string()),
            _ => Self::Handshake(error),
        }
    }

    /// In TLS 1.3 a server judges our certificate when we believe to be connected already: that shows as an alert
    /// somewhere down the chain. A request that is merely cancelled is one whose connection went away.
    pub(super) fn of_status(status: &Status) -> Self {
        let text = status_text(status);
        if is_alert(&text) && text.contains(&format!("{EXPIRED:?}")) {
            return Self::Expired;
        }
        let refused = matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied);
        if refused || is_alert(&text) { Self::Refused(text) } else { Self::Lost(text) }
    }
}

/// An error with its causes on one line.
pub(super) fn chain(error: &dyn Error) -> String {
    with_causes(error.to_string(), error.source())
}

/// A status with its causes on one line. Its own `Display` is for programmers.
pub fn status_text(status: &Status) -> String {
    with_causes(status.message().to_owned(), status.source())
}

/// Whether a [`status_text`] tells of a server that does not take our certificate, or wants one.
pub fn is_alert(text: &str) -> bool {
    text.contains("fatal alert")
}

fn with_causes(mut text: String, mut source: Option<&dyn Error>) -> String {
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}
