//! Connections to a controller, and what it means when they fail.
//!
//! TLS is done in our own connector, as on the other side, so tonic is told `http`: it would insist on its own TLS. The
//! server name follows from the cluster, never from the address.

use super::ClientError;
use hyper_util::rt::TokioIo;
use muster_proto::context::Context;
use muster_proto::id::ClusterId;
use muster_proto::text;
use muster_proto::token::Token;
use muster_proto::{limits, tls};
use std::error::Error;
use std::io;
use std::iter::successors;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{self, CertificateError};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// From the first packet to the end of the TLS handshake. Longer than any healthy network takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What may be under way unread on a stream: measured best for bulk output.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// Requests that wait for an answer at a time; others queue. A controller allows 8 streams and refuses what comes before
/// its settings have told us so.
const REQUESTS_MAX: usize = 4;

/// What somebody does whose certificate counts no more.
const LOG_IN_AGAIN: &str = "log in again with `muster login` and a new code, which another operator makes with \
                            `muster operator add` or, where there is none, the controller with \
                            `muster-controller operator-code`";

/// The other side of a connection, for messages.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    address: Arc<str>,
}

/// The operator listener of a context's controller, with the operator's identity.
pub(super) async fn operators(context: &Context) -> Result<(Channel, Peer), ClientError> {
    let damaged = |error: &dyn Error| {
        ClientError::Unavailable(format!("the context for {} is damaged: {error}", context.controller))
    };
    let cluster = context.cluster.parse().map_err(|error| damaged(&error))?;
    let identity = tls::Identity::from_pem(&context.certificate, &context.key).map_err(|error| damaged(&error))?;
    let issuer = tls::certificate_from_pem(&context.controller_ca).map_err(|error| damaged(&error))?;
    let config = tls::client_config(identity, &issuer).map_err(|error| damaged(&error))?;
    dial(&context.controller, cluster, TlsConnector::from(Arc::new(config))).await
}

/// The enrolment listener that a login code leads to; we have no identity yet.
pub(super) async fn enrolment(code: &Token) -> Result<(Channel, Peer), ClientError> {
    let config = tls::pinned_client_config(code.pin).map_err(|error| ClientError::Unavailable(error.to_string()))?;
    dial(&code.address, code.cluster, TlsConnector::from(Arc::new(config))).await
}

async fn dial(address: &str, cluster: ClusterId, tls: TlsConnector) -> Result<(Channel, Peer), ClientError> {
    let peer = Peer { address: address.into() };
    let address = Arc::clone(&peer.address);
    let connector = tower::service_fn(move |_| {
        let (address, tls) = (Arc::clone(&address), tls.clone());
        async move { connect(&address, cluster, &tls).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_shared(format!("http://{}", tls::controller_dns_name(cluster)))
        .map_err(|error| ClientError::Unavailable(error.to_string()))?
        .concurrency_limit(REQUESTS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(2 * STREAM_WINDOW_BYTES)
        .http2_keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT);
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| peer.broken(&error))?;
    Ok((channel, peer))
}

async fn connect(address: &str, cluster: ClusterId, tls: &TlsConnector) -> Result<TlsStream<TcpStream>, DialError> {
    let at = || address.to_owned();
    let both = async {
        let tcp = TcpStream::connect(address).await.map_err(|cause| DialError::Tcp { address: at(), cause })?;
        tcp.set_nodelay(true).map_err(|cause| DialError::Tcp { address: at(), cause })?;
        let name = tls::controller_server_name(cluster);
        tls.connect(name, tcp).await.map_err(|cause| DialError::of_handshake(at(), cause))
    };
    tokio::time::timeout(CONNECT_TIMEOUT, both).await.map_err(|_| DialError::Silent { address: at() })?
}

/// No connection came about. It travels through tonic as a source and is found again by [`Peer::broken`].
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot reach the controller at {address} ({cause}): see that it runs, and that the address is right")]
    Tcp { address: String, cause: io::Error },
    #[error(
        "what answers at {address} is not a controller of this cluster ({cause}): see that the address is right; if \
         the cluster was made anew, {LOG_IN_AGAIN}"
    )]
    Tls { address: String, cause: io::Error },
    #[error(
        "the certificate of the controller at {address} is not valid now ({cause}): set the clocks of both machines, or \
         restart the controller, which gives it a new one"
    )]
    NotValidNow { address: String, cause: io::Error },
    #[error("the controller at {address} did not answer within {} s: try again, or see how it is", CONNECT_TIMEOUT.as_secs())]
    Silent { address: String },
}

impl DialError {
    fn of_handshake(address: String, cause: io::Error) -> Self {
        use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
        match cause.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(
                Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
            )) => Self::NotValidNow { address, cause },
            _ => Self::Tls { address, cause },
        }
    }
}

impl Peer {
    /// Sorts a failed request by what its caller does next.
    pub(super) fn sort(&self, status: &Status) -> ClientError {
        if status.source().is_some() {
            return self.broken(status);
        }
        let at = &self.address;
        let message = match text::line(status.message()) {
            message if message.is_empty() => format!("the controller at {at} answers \"{}\"", status.code()),
            message => message,
        };
        match status.code() {
            Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::AlreadyExists => {
                ClientError::Usage(message)
            }
            Code::PermissionDenied | Code::Unauthenticated | Code::ResourceExhausted | Code::DataLoss => {
                ClientError::Refused(message)
            }
            Code::Unimplemented => ClientError::Refused(format!(
                "the controller at {at} does not know this request: {} If it is, use the same version of Muster on both \
                 sides",
                self.wrong_port()
            )),
            _ => ClientError::Unavailable(format!("the controller at {at} cannot do this now ({message}): try again")),
        }
    }

    /// The connection failed under a request, or never came about.
    fn broken(&self, error: &(dyn Error + 'static)) -> ClientError {
        let chain = || successors(error.source(), |&error: &&(dyn Error + 'static)| error.source());
        if let Some(dial) = chain().find_map(|error| error.downcast_ref::<DialError>()) {
            return ClientError::Unavailable(dial.to_string());
        }
        let at = &self.address;
        let cause = chain().last().map_or_else(|| error.to_string(), ToString::to_string);
        // The alerts of RFC 8446, 6.2, by the names that rustls prints. They come after we believe to be connected.
        let alert = |name: &str| chain().any(|error| error.to_string().contains(name));
        ClientError::Unavailable(if alert("CertificateExpired") {
            format!("your certificate for the controller at {at} has expired: {LOG_IN_AGAIN}")
        } else if alert("received fatal alert") {
            format!(
                "the controller at {at} does not accept your certificate ({cause}): {} If it is, {LOG_IN_AGAIN}",
                self.wrong_port()
            )
        } else {
            format!(
                "the controller at {at} closed the connection ({cause}): see how it is; if others get through, your \
                 certificate has expired: {LOG_IN_AGAIN}"
            )
        })
    }

    fn wrong_port(&self) -> String {
        format!("is {} the operators' port (7444 by default)?", self.address)
    }

    /// An answer that is no answer.
    pub(super) fn not_understood(&self, error: &dyn Error) -> ClientError {
        ClientError::Unavailable(format!(
            "the controller at {} answers something we do not understand ({error}): use the same version of Muster on \
             both sides",
            self.address
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use muster_proto::name::{Peer as Role, PeerName};
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_ED25519, SanType,
    };
    use std::time::SystemTime;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    const CLUSTER: ClusterId = ClusterId::from_bytes([1; 16]);

    struct Ca {
        issuer: Issuer<'static, KeyPair>,
        pem: String,
    }

    impl Ca {
        fn new() -> Self {
            let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = params.self_signed(&key).expect("a certificate").pem();
            Self { issuer: Issuer::new(params, key), pem }
        }

        /// Certificate and key that end so many seconds from now.
        fn issue(&self, peer: Role, seconds: i64) -> (String, String) {
            let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
            let name = PeerName { cluster: CLUSTER, peer };
            let mut params = CertificateParams::new([tls::controller_dns_name(CLUSTER)]).expect("a name");
            params.subject_alt_names.push(SanType::URI(name.to_string().try_into().expect("ASCII")));
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let now = time::OffsetDateTime::from(SystemTime::now());
            params.not_before = now - time::Duration::hours(2);
            params.not_after = now + time::Duration::seconds(seconds);
            (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
        }
    }

    struct Fixture {
        controllers: Ca,
        operators: Ca,
        context: Context,
    }

    impl Fixture {
        fn new(controller: String, seconds: i64) -> Self {
            let (controllers, operators) = (Ca::new(), Ca::new());
            let (certificate, key) = operators.issue(Role::Operator("ada".parse().expect("a name")), seconds);
            let context = Context {
                controller,
                cluster: CLUSTER.to_string(),
                operator: "ada".to_owned(),
                certificate,
                key,
                controller_ca: controllers.pem.clone(),
                operator_ca: operators.pem.clone(),
            };
            Self { controllers, operators, context }
        }

        /// Shakes hands with one client, reads what it says, and hangs up.
        fn serve(&self, listener: TcpListener, controllers: &Ca) -> tokio::task::JoinHandle<()> {
            self.serve_for(3600, listener, controllers)
        }

        /// The same with a certificate that ends so many seconds from now.
        fn serve_for(&self, seconds: i64, listener: TcpListener, controllers: &Ca) -> tokio::task::JoinHandle<()> {
            let (certificate, key) = controllers.issue(Role::Controller, seconds);
            let identity = tls::Identity::from_pem(&certificate, &key).expect("an identity");
            let clients = tls::certificate_from_pem(&self.operators.pem).expect("a certificate");
            let config = tls::server_config(identity, Some(&clients)).expect("a configuration");
            tokio::spawn(async move {
                let (tcp, _) = listener.accept().await.expect("a client");
                if let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(tcp).await {
                    let _ = stream.read_u8().await;
                }
            })
        }
    }

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        (listener, address)
    }

    async fn complaint(context: &Context) -> String {
        let outcome = match Client::connect(context).await {
            Ok(client) => client.whoami().await.map(|_| ()),
            Err(error) => Err(error),
        };
        match outcome {
            Err(ClientError::Unavailable(text)) => text,
            other => panic!("expected to be unavailable, not {other:?}"),
        }
    }

    #[tokio::test]
    async fn nobody_listens() {
        let (listener, address) = listener().await;
        drop(listener);
        let text = complaint(&Fixture::new(address.clone(), 3600).context).await;
        assert!(text.contains(&address) && text.contains("refused") && text.contains("see that it runs"), "{text}");
    }

    #[tokio::test]
    async fn somebody_else_listens() {
        let (listener, address) = listener().await;
        let fixture = Fixture::new(address.clone(), 3600);
        let server = fixture.serve(listener, &Ca::new());
        let text = complaint(&fixture.context).await;
        assert!(text.contains(&address) && text.contains("not a controller of this cluster"), "{text}");
        server.await.expect("served");
    }

    #[tokio::test]
    async fn the_controllers_certificate_has_expired() {
        let (listener, address) = listener().await;
        let fixture = Fixture::new(address.clone(), 3600);
        let server = fixture.serve_for(-60, listener, &fixture.controllers);
        let text = complaint(&fixture.context).await;
        assert!(
            text.contains(&address) && text.contains("expired") && text.contains("restart the controller"),
            "{text}"
        );
        server.await.expect("served");
    }

    #[tokio::test]
    async fn our_certificate_has_expired() {
        let (listener, address) = listener().await;
        let fixture = Fixture::new(address.clone(), -60);
        let server = fixture.serve(listener, &fixture.controllers);
        let text = complaint(&fixture.context).await;
        assert!(text.contains(&address) && text.contains("expired") && text.contains("muster login"), "{text}");
        server.await.expect("served");
    }

    #[tokio::test]
    async fn the_controller_hangs_up() {
        let (listener, address) = listener().await;
        let fixture = Fixture::new(address.clone(), 3600);
        let server = fixture.serve(listener, &fixture.controllers);
        let text = complaint(&fixture.context).await;
        assert!(text.contains(&address) && text.contains("closed the connection"), "{text}");
        server.await.expect("served");
    }

    #[test]
    fn answers_are_sorted_by_what_to_do() {
        let peer = Peer { address: "c:1".into() };
        let sorted = |code, message| peer.sort(&Status::new(code, message));
        assert_eq!(sorted(Code::NotFound, "no\u{1b}[2J"), ClientError::Usage("no\\u{1b}[2J".into()));
        assert_eq!(sorted(Code::PermissionDenied, "disabled"), ClientError::Refused("disabled".into()));
        let ClientError::Refused(text) = sorted(Code::Unimplemented, "") else { panic!("not refused") };
        assert!(text.contains("is c:1 the operators' port (7444 by default)?"), "{text}");
        for code in [Code::Unavailable, Code::Internal, Code::Unknown, Code::Cancelled] {
            assert!(matches!(sorted(code, ""), ClientError::Unavailable(text) if text.contains("c:1")), "{code:?}");
        }
    }
}
