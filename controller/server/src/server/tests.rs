//! A whole controller on free ports: how machines and people get their names, how it begins and ends.

mod pings;
mod sessions;

use super::*;
use crate::init::Init;
use hyper_util::rt::TokioIo;
use muster_proto::fleet::Labels;
use muster_proto::name::{OperatorName, Peer, PeerName};
use muster_proto::tls;
use muster_proto::token::Token;
use muster_proto::wire::enrol_agent_reply::Result as Reply;
use muster_proto::wire::enrolment_client::EnrolmentClient;
use muster_proto::wire::{AgentIdentity, EnrolAgentRequest, LoginRequest};
use muster_store::{AuditEntry, NewOperator, NewToken};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use rustls::ClientConfig;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const HOUR: Duration = Duration::from_hours(1);

/// A controller that serves.
struct Controller {
    dir: TempDir,
    store: Store,
    stats: Arc<Stats>,
    prober: Prober,
    issuers: Arc<Issuers>,
    addresses: Addresses,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

fn settings(dir: &Path) -> Settings {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let defaults = Settings::at(StateDir::new(dir.join("state")));
    Settings { agents: local, operators: local, enrolment: local, ..defaults }
}

async fn init(dir: &Path) {
    let request = Init {
        state: StateDir::new(dir.join("state")),
        operator: "ada".parse().expect("a name"),
        operator_validity: HOUR,
        config: dir.join("config.toml"),
        context: "default".to_owned(),
        address: "127.0.0.1:7444".to_owned(),
    };
    request.run().await.expect("a cluster");
}

impl Controller {
    async fn start() -> Self {
        Self::start_with(|settings| settings).await
    }

    async fn start_with(change: impl FnOnce(Settings) -> Settings) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        init(dir.path()).await;
        let server = Server::build(change(settings(dir.path()))).await.expect("a server");
        let shutdown = CancellationToken::new();
        let (store, issuers) = (server.store.clone(), Arc::clone(&server.issuers));
        let (stats, prober) = (Arc::clone(&server.stats), server.prober.clone());
        let addresses = server.addresses().clone();
        let running = tokio::spawn(server.run(shutdown.clone()));
        Self { dir, store, stats, prober, issuers, addresses, shutdown, running }
    }

    async fn token(&self, secret: [u8; 32], uses: u32, span: Duration) {
        let token = NewToken {
            hash: Token::hash(&secret),
            labels: labels(),
            uses,
            expires_at: clock::now() + span,
            operator: "ada".parse().expect("a name"),
            audit: audit("token.create"),
        };
        self.store.create_token(token).await.expect("a token");
    }

    async fn client(&self) -> EnrolmentClient<Channel> {
        let config = tls::pinned_client_config(self.issuers.pin()).expect("a configuration");
        EnrolmentClient::new(self.channel(config, self.addresses.enrolment).await)
    }

    async fn channel(&self, config: ClientConfig, address: SocketAddr) -> Channel {
        let (name, config) = (tls::controller_server_name(self.issuers.cluster()), Arc::new(config));
        let connector = tower::service_fn(move |_| {
            let (name, connector) = (name.clone(), TlsConnector::from(Arc::clone(&config)));
            async move {
                Ok::<_, io::Error>(TokioIo::new(connector.connect(name, TcpStream::connect(address).await?).await?))
            }
        });
        let channel = Endpoint::from_static("http://controller").connect_with_connector(connector).await;
        channel.expect("a channel")
    }

    async fn enrol(&self, name: &str, token: &[u8], key: &KeyPair) -> Result<Reply, Status> {
        let request = EnrolAgentRequest { csr: request_of(key), name: name.to_owned(), token: token.to_vec().into() };
        let reply = self.client().await.enrol_agent(request).await?;
        Ok(reply.into_inner().result.expect("a result"))
    }

    async fn log_in(&self, code: [u8; 32], key: &KeyPair) -> Result<muster_proto::wire::LoginReply, Status> {
        let request = LoginRequest { csr: request_of(key), code: code.to_vec().into() };
        self.client().await.login(request).await.map(tonic::Response::into_inner)
    }
}

fn request_of(key: &KeyPair) -> bytes::Bytes {
    CertificateParams::default().serialize_request(key).expect("a request").der().to_vec().into()
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).expect("a key")
}

fn labels() -> Labels {
    Labels::from([("role".parse().expect("a label"), "web".parse().expect("a label"))])
}

fn audit(action: &str) -> AuditEntry {
    AuditEntry { at: clock::now(), actor: "ada".into(), action: action.into(), detail: String::new() }
}

fn issued(reply: Reply) -> AgentIdentity {
    match reply {
        Reply::Issued(identity) => identity,
        Reply::Pending(_) => panic!("it was not issued"),
    }
}

#[tokio::test]
async fn a_token_makes_an_agent_once() {
    let controller = Controller::start().await;
    controller.token([7; 32], 1, HOUR).await;
    controller.token([8; 32], 1, Duration::ZERO).await;

    let identity = issued(controller.enrol("web01", &[7; 32], &key()).await.expect("enrolled"));
    assert_eq!(identity.agent_port, u32::from(controller.addresses.agents.port()));
    assert_eq!(identity.controller_ca, controller.issuers.controller_ca().to_vec());
    let agents = controller.store.agents().await.expect("agents");
    assert_eq!((agents.len(), agents[0].name.as_str(), &agents[0].labels), (1, "web01", &labels()));
    let name = tls::peer_name(&identity.certificate.to_vec().into()).expect("a name");
    assert_eq!(name, PeerName { cluster: controller.issuers.cluster(), peer: Peer::Agent(agents[0].id) });

    let used = controller.enrol("web02", &[7; 32], &key()).await.expect_err("used up");
    let expired = controller.enrol("web02", &[8; 32], &key()).await.expect_err("expired");
    let unknown = controller.enrol("web02", &[9; 32], &key()).await.expect_err("unknown");
    assert_eq!(used.code(), Code::PermissionDenied);
    assert_eq!((expired.message(), unknown.message()), (used.message(), used.message()), "strangers learn nothing");

    controller.token([10; 32], 1, HOUR).await;
    let taken = controller.enrol("web01", &[10; 32], &key()).await.expect_err("the name is taken");
    assert_eq!(taken.code(), Code::AlreadyExists);
    issued(controller.enrol("web02", &[10; 32], &key()).await.expect("the token was not spent on a refusal"));
}

#[tokio::test]
async fn what_is_malformed_is_refused_with_a_reason() {
    let controller = Controller::start().await;
    controller.token([7; 32], 1, HOUR).await;
    for (name, token) in [("../etc", &[7; 32][..]), ("Web 01", &[7; 32]), ("", &[7; 32]), ("web01", &[7; 31])] {
        let error = controller.enrol(name, token, &key()).await.expect_err("refused");
        assert_eq!(error.code(), Code::InvalidArgument, "{name:?}");
    }
    let request = EnrolAgentRequest { csr: vec![0; 100].into(), name: "web01".into(), token: vec![7; 32].into() };
    let error = controller.client().await.enrol_agent(request).await.expect_err("refused");
    assert_eq!(error.code(), Code::InvalidArgument);
    let huge = EnrolAgentRequest { csr: vec![0; 1 << 20].into(), name: "web01".into(), token: vec![7; 32].into() };
    let error = controller.client().await.enrol_agent(huge).await.expect_err("too large");
    assert_eq!(error.code(), Code::OutOfRange);
    issued(controller.enrol("web01", &[7; 32], &key()).await.expect("nothing spent the token"));
}

#[tokio::test]
async fn without_a_token_an_operator_must_approve() {
    let controller = Controller::start().await;
    let key = key();
    let ask = || controller.enrol("web01", &[], &key);
    let Reply::Pending(pending) = ask().await.expect("pending") else { panic!("issued to a stranger") };
    assert!(matches!(ask().await, Ok(Reply::Pending(_))));
    let waiting = controller.store.pending(clock::now()).await.expect("pending");
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].fingerprint[..], pending.fingerprint[..]);

    let approved = controller.store.approve(waiting[0].fingerprint, labels(), clock::now(), audit("agent.approve"));
    assert_eq!(approved.await.expect("approved").as_str(), "web01");
    issued(ask().await.expect("approved"));
}

#[tokio::test]
async fn a_code_makes_an_operator_once() {
    let controller = Controller::start().await;
    let grace: OperatorName = "grace".parse().expect("a name");
    let code = |secret: [u8; 32]| NewOperator {
        name: grace.clone(),
        code_hash: Token::hash(&secret),
        expires_at: clock::now() + HOUR,
        at: clock::now(),
        actor: "operator/ada".to_owned(),
    };
    controller.store.add_operator(code([7; 32])).await.expect("added");

    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let error = controller.log_in([7; 32], &p256).await.expect_err("it could not sign jobs");
    assert_eq!(error.code(), Code::InvalidArgument);
    let reply = controller.log_in([7; 32], &key()).await.expect("logged in");
    assert_eq!(reply.operator, "grace");
    assert_eq!(reply.operator_port, u32::from(controller.addresses.operators.port()));
    let name = tls::peer_name(&reply.certificate.to_vec().into()).expect("a name");
    assert_eq!(name.peer, Peer::Operator(grace.clone()));
    assert!(controller.store.operator_key(&grace).await.expect("an answer").is_some());

    let used = controller.log_in([7; 32], &key()).await.expect_err("used");
    let unknown = controller.log_in([8; 32], &key()).await.expect_err("unknown");
    assert_eq!((used.code(), used.message()), (Code::PermissionDenied, unknown.message()));

    // As if the answer had been lost: the name gets another code.
    controller.store.add_operator(code([9; 32])).await.expect("a new code");
    assert_eq!(controller.log_in([9; 32], &key()).await.expect("logged in again").operator, "grace");
}

#[tokio::test]
async fn one_controller_a_state_directory_and_a_clean_end() {
    let controller = Controller::start().await;
    let settings = settings(controller.dir.path());
    let text = fs::read_to_string(settings.state.addresses()).expect("addresses");
    assert_eq!(Addresses::from_toml(&text).expect("addresses"), controller.addresses);
    assert!(matches!(Server::build(settings.clone()).await, Err(BuildError::Running(_))));

    let _open = controller.client().await;
    controller.shutdown.cancel();
    let ended = tokio::time::timeout(settings.drain, controller.running).await.expect("it ends before the deadline");
    ended.expect("no panic").expect("no error");
    assert!(!settings.state.addresses().exists());
    assert!(Server::build(settings).await.is_ok(), "it can be started again");
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_said_clearly() {
    let dir = tempfile::tempdir().expect("a directory");
    let error = Server::build(settings(dir.path())).await.err().expect("not initialised");
    assert!(error.to_string().contains("muster-controller init"), "{error}");
    init(dir.path()).await;
    let busy = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let address = busy.local_addr().expect("an address");
    let error = Server::build(Settings { agents: address, ..settings(dir.path()) }).await.err().expect("in use");
    assert!(matches!(error, BuildError::Bind { name: "agents", .. }));
    assert!(error.to_string().contains("--agents"), "{error}");
}
