//! How a machine gets its name: a key made here, a request for a certificate, and a controller that is believed
//! because its CA has the pin that the token, or the person at the keyboard, brought.

use crate::facts;
use crate::identity::{self, Identity, IdentityError};
use crate::session::{self, LinkError};
use crate::settings::{Credential, Enroll, host_of};
use muster_proto::id::ClusterId;
use muster_proto::name::{HostName, ParseNameError};
use muster_proto::tls::{self, TlsError};
use muster_proto::wire::enrolment_client::EnrolmentClient;
use muster_proto::wire::{self, enrol_agent_reply};
use muster_proto::{limits, text};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, PublicKeyData as _};
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tonic::{Code, Status};

/// Between two questions whether an operator has approved.
const POLL: Duration = Duration::from_secs(2);

/// Enrols this machine and writes its identity. Without a token it waits until an operator approves; `waiting` is
/// told the fingerprint to compare, once.
pub async fn enrol(request: &Enroll, waiting: impl FnOnce(&str)) -> Result<Identity, EnrolError> {
    if let Some(known) = Identity::load(&request.state)? {
        return Err(EnrolError::Enrolled { name: known.name, state: request.state.clone() });
    }
    // Found out before a token is spent on an identity that could not be kept.
    identity::create_private(&request.state)
        .map_err(|source| IdentityError::Io { path: request.state.clone(), source })?;
    let name = match &request.name {
        Some(name) => name.clone(),
        None => facts::hostname().parse().map_err(EnrolError::HostName)?,
    };
    let identity = issue(&request.controller, &name, &request.credential, waiting).await?;
    identity.store(&request.state)?;
    Ok(identity)
}

/// Asks the controller's enrolment listener (`HOST:PORT`) for an identity of this name, and writes it nowhere.
pub async fn issue(
    controller: &str,
    name: &HostName,
    credential: &Credential,
    waiting: impl FnOnce(&str),
) -> Result<Identity, EnrolError> {
    let key = KeyPair::generate_for(&PKCS_ED25519).map_err(EnrolError::Key)?;
    let csr = CertificateParams::default().serialize_request(&key).map_err(EnrolError::Key)?;
    let (cluster, pin, secret) = match credential {
        Credential::Token(token) => (token.cluster, token.pin, token.secret.to_vec()),
        Credential::Approval { cluster, pin } => (*cluster, *pin, Vec::new()),
    };
    let question =
        wire::EnrolAgentRequest { csr: csr.der().to_vec().into(), name: name.to_string(), token: secret.into() };
    let mut waiting = Some(waiting);
    let issued = loop {
        match ask(controller, cluster, pin, question.clone()).await? {
            enrol_agent_reply::Result::Issued(issued) => break issued,
            enrol_agent_reply::Result::Pending(_) => {
                if let Some(waiting) = waiting.take() {
                    waiting(&hex(&Sha256::digest(key.subject_public_key_info())));
                }
                sleep(POLL).await;
            }
        }
    };
    checked(&issued, controller, cluster, pin, key.serialize_pem())
}

/// One question on a connection of its own: approval may take days, and connections do not last that long.
async fn ask(
    controller: &str,
    cluster: ClusterId,
    pin: [u8; 32],
    question: wire::EnrolAgentRequest,
) -> Result<enrol_agent_reply::Result, EnrolError> {
    let tls = Arc::new(tls::pinned_client_config(pin)?);
    let address = || controller.to_owned();
    let channel = session::dial(controller, cluster, tls).await.map_err(|error| match error {
        LinkError::WrongIssuer => EnrolError::WrongCluster { address: address() },
        LinkError::Refused(_) => EnrolError::WrongListener { address: address() },
        other => EnrolError::Link(other),
    })?;
    let mut client = EnrolmentClient::new(channel).max_decoding_message_size(limits::AGENT_MESSAGE_BYTES_MAX);
    let reply = client.enrol_agent(question).await.map_err(|status| EnrolError::of_status(&status, address()))?;
    reply.into_inner().result.ok_or(EnrolError::Answer)
}

/// Believes the answer only where it agrees with what was asked and pinned.
fn checked(
    issued: &wire::AgentIdentity,
    controller: &str,
    cluster: ClusterId,
    pin: [u8; 32],
    key: String,
) -> Result<Identity, EnrolError> {
    if tls::pin_of(&issued.controller_ca) != pin || issued.cluster[..] != cluster.as_bytes()[..] {
        return Err(EnrolError::Answer);
    }
    let host = host_of(controller).ok_or(EnrolError::Answer)?;
    let port = u16::try_from(issued.agent_port).ok().filter(|port| *port > 0).ok_or(EnrolError::Answer)?;
    let identity = Identity {
        name: issued.name.parse().map_err(|_| EnrolError::Answer)?,
        agent: wire::id_of(&issued.agent, "agent").map_err(|_| EnrolError::Answer)?,
        cluster,
        controller: format!("{host}:{port}"),
        certificate: tls::certificate_to_pem(&issued.certificate),
        controller_ca: tls::certificate_to_pem(&issued.controller_ca),
        operator_ca: tls::certificate_to_pem(&issued.operator_ca),
        key,
    };
    // What `run` will do, tried while there is somebody to read the message.
    let own = tls::Identity::from_pem(&identity.certificate, &identity.key)?;
    tls::client_config(own, &identity.controller_issuer()?)?;
    identity.operator_trust().map_err(|_| EnrolError::Answer)?;
    Ok(identity)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why this machine has no name yet.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// It has one.
    #[error("{} is enrolled as {name}; use another --state or remove it", state.display())]
    Enrolled {
        /// Which.
        name: HostName,
        /// Where.
        state: PathBuf,
    },
    /// The default name does not do.
    #[error("this host's name cannot be used: give another with --name")]
    HostName(#[source] ParseNameError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] IdentityError),
    /// The key could not be made.
    #[error("cannot make a key")]
    Key(#[source] rcgen::Error),
    /// The pin belongs to somebody else.
    #[error(
        "the controller at {address} is not the one that the token or pin is for: check the address, or get a token from that cluster"
    )]
    WrongCluster {
        /// `HOST:PORT`.
        address: String,
    },
    /// One of the cluster's other listeners, which want a certificate of those who call.
    #[error("{address} answers, but not as the enrolment listener: is it the enrolment port (7445 by default)?")]
    WrongListener {
        /// `HOST:PORT`.
        address: String,
    },
    /// No connection.
    #[error(transparent)]
    Link(LinkError),
    /// The controller says no.
    #[error("the controller refused: {0}")]
    Refused(String),
    /// The controller says nonsense.
    #[error("the controller's answer does not fit what was asked: check that agent and controller are of one release")]
    Answer,
    /// The identity it gave cannot be used.
    #[error("what the controller issued cannot be used")]
    Tls(#[from] TlsError),
}

impl EnrolError {
    fn of_status(status: &Status, address: String) -> Self {
        let told = session::status_text(status);
        match status.code() {
            Code::Unimplemented => Self::WrongListener { address },
            Code::Unavailable | Code::Unknown | Code::Cancelled if session::is_alert(&told) => {
                Self::WrongListener { address }
            }
            Code::Unavailable | Code::Unknown | Code::Cancelled => Self::Link(LinkError::Lost(text::line(&told))),
            _ => Self::Refused(text::line(status.message())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_listener_of_the_controller_is_called_that() {
        let alert = || Status::from_error("received fatal alert: CertificateRequired".into());
        for status in [alert(), Status::unimplemented("")] {
            let error = EnrolError::of_status(&status, "c:7443".to_owned()).to_string();
            assert!(error.starts_with("c:7443 answers, but not as the enrolment listener"), "{error}");
        }
        let lost = EnrolError::of_status(&Status::unavailable("gone"), "c:7445".to_owned()).to_string();
        assert_eq!(lost, "the connection to the controller was lost (gone)");
        let refused = EnrolError::of_status(&Status::permission_denied("used"), "c:7445".to_owned()).to_string();
        assert_eq!(refused, "the controller refused: used");
    }

    #[tokio::test]
    async fn an_enrolled_state_directory_is_refused() {
        let root = tempfile::tempdir().expect("a directory");
        let known = Identity {
            name: "web01".parse().expect("a name"),
            agent: muster_proto::id::AgentId::from_bytes([1; 16]),
            cluster: ClusterId::from_bytes([2; 16]),
            controller: "c:1".to_owned(),
            key: String::new(),
            certificate: String::new(),
            controller_ca: String::new(),
            operator_ca: String::new(),
        };
        known.store(root.path()).expect("stored");
        let request = Enroll {
            controller: "127.0.0.1:1".to_owned(),
            name: None,
            state: root.path().to_owned(),
            credential: Credential::Approval { cluster: known.cluster, pin: [0; 32] },
        };
        let error = enrol(&request, |_| ()).await.err().expect("refused").to_string();
        assert!(error.contains("is enrolled as web01; use another --state or remove it"), "{error}");
    }
}
