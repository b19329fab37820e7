//! Who gets through the gate and who does not, with real sockets and real TLS on both sides.

use super::*;
use crate::issuers::{Issuers, PublicKey, Validity};
use rcgen::{KeyPair, PKCS_ED25519};
use rustls::ClientConfig;
use rustls::client::Resumption;
use std::path::PathBuf;
use tempfile::TempDir;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;
use tokio_stream::StreamExt as _;

const HOUR: Duration = Duration::from_hours(1);
/// Longer than anything here takes; only a failing test waits for it.
const LIMIT: Duration = Duration::from_secs(20);
const CLUSTER: ClusterId = ClusterId::from_bytes([1; 16]);
const AGENT: AgentId = AgentId::from_bytes([2; 16]);

struct House {
    issuers: Issuers,
    dir: TempDir,
}

impl House {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let issuers = Issuers::create(&dir.path().join("ca"), CLUSTER, clock::now()).expect("issuers");
        Self { issuers, dir }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca")
    }

    fn gate(&self, role: Role, limits: Limits) -> Arc<Gate> {
        let identity = self.issuers.issue_controller(valid(HOUR)).expect("an identity");
        Gate::new(role, CLUSTER, identity, limits).expect("a gate")
    }

    fn agents(&self) -> Role {
        Role::Agents(self.issuers.agent_ca().clone())
    }

    fn operators(&self) -> Role {
        Role::Operators(self.issuers.operator_ca().clone())
    }

    /// A client with this certificate and key.
    fn client(&self, (certificate, key): &(Vec<u8>, KeyPair)) -> ClientConfig {
        let identity = Identity::from_pem(&tls::certificate_to_pem(certificate), &key.serialize_pem());
        tls::client_config(identity.expect("an identity"), self.issuers.controller_ca()).expect("a configuration")
    }
}

fn valid(span: Duration) -> Validity {
    Validity { from: clock::now(), span }
}

fn agent_of(issuers: &Issuers, valid: Validity) -> (Vec<u8>, KeyPair) {
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let certificate = issuers.issue_agent(&PublicKey::of(&key).expect("a key"), AGENT, valid);
    (certificate.expect("a certificate"), key)
}

fn operator_of(issuers: &Issuers, valid: Validity) -> (Vec<u8>, KeyPair) {
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let name = "ada".parse().expect("a name");
    let certificate = issuers.issue_operator(&PublicKey::of(&key).expect("a key"), name, valid);
    (certificate.expect("a certificate"), key)
}

/// A gate at work.
struct Door {
    gate: Arc<Gate>,
    address: SocketAddr,
    incoming: Incoming,
    _shutdown: tokio_util::sync::DropGuard,
}

impl Door {
    fn open(gate: Arc<Gate>) -> Self {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let incoming = listener.serve(Arc::clone(&gate), shutdown.clone());
        Self { gate, address, incoming, _shutdown: shutdown.drop_guard() }
    }

    /// Both ends of a connection that got through, or `None` when the gate closed it.
    async fn connect(&mut self, config: &Arc<ClientConfig>) -> Option<(ClientStream<TcpStream>, Connection)> {
        let mut client = tokio::spawn(knock(self.address, Arc::clone(config)));
        let both = async {
            let admitted = tokio::select! {
                admitted = self.incoming.next() => admitted,
                refused = &mut client => {
                    assert!(refused.expect("no panic").is_err(), "nobody has answered yet");
                    return None;
                }
            };
            let mut connection = admitted.expect("the gate is open").expect("connections are never errors");
            connection.write_all(b"!").await.expect("the client listens");
            connection.flush().await.expect("the client listens");
            Some((client.await.expect("no panic").expect("it was answered"), connection))
        };
        tokio::time::timeout(LIMIT, both).await.expect("admitted or closed")
    }

    async fn peer(&mut self, config: ClientConfig) -> Option<PeerInfo> {
        self.connect(&Arc::new(config)).await.map(|(_, connection)| connection.connect_info())
    }
}

/// Speaks first, as HTTP/2 does, and waits for an answer: in TLS 1.3 a client learns late that it was refused.
async fn knock(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<ClientStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let mut client = TlsConnector::from(config).connect(tls::controller_server_name(CLUSTER), stream).await?;
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    client.flush().await?;
    client.read_u8().await?;
    Ok(client)
}

async fn is_closed(mut stream: impl AsyncRead + Unpin) -> bool {
    let read = tokio::time::timeout(LIMIT, stream.read(&mut [0; 64])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[tokio::test]
async fn each_listener_lets_in_its_own_role_alone() {
    let house = House::new();
    let agent = agent_of(&house.issuers, valid(HOUR));
    let operator = operator_of(&house.issuers, valid(HOUR));
    let mut agents = Door::open(house.gate(house.agents(), Limits::default()));
    let mut operators = Door::open(house.gate(house.operators(), Limits::default()));
    let mut enrolment = Door::open(house.gate(Role::Anybody, Limits::default()));
    let stranger = || tls::pinned_client_config(house.issuers.pin()).expect("a configuration");

    let peer = agents.peer(house.client(&agent)).await.expect("an agent");
    assert_eq!((peer.agent(), peer.operator()), (Some(AGENT), None));
    let left = clock::now().until(peer.not_after.expect("its certificate ends"));
    assert!(left <= HOUR && left > HOUR - Duration::from_mins(1));
    let peer = operators.peer(house.client(&operator)).await.expect("an operator");
    assert_eq!(peer.operator().map(OperatorName::as_str), Some("ada"));
    let peer = enrolment.peer(stranger()).await.expect("anybody");
    assert!(peer.name.is_none() && peer.ip().is_loopback());

    assert!(operators.peer(house.client(&agent)).await.is_none(), "an agent among operators");
    assert!(agents.peer(house.client(&operator)).await.is_none(), "an operator among agents");
    assert!(agents.peer(stranger()).await.is_none(), "nobody among agents");
    let elsewhere = House::new();
    let foreign = agent_of(&elsewhere.issuers, valid(HOUR));
    assert!(agents.peer(house.client(&foreign)).await.is_none(), "an agent of another CA");
    assert_eq!((count(&agents.gate.stats().failed), count(&agents.gate.stats().admitted)), (3, 1));

    // The right CA and role are not enough: the name must say the same.
    let other_cluster = Issuers::load(&house.ca(), ClusterId::from_bytes([9; 16])).expect("issuers");
    let foreign = agent_of(&other_cluster, valid(HOUR));
    assert!(agents.peer(house.client(&foreign)).await.is_none(), "an agent of another cluster");
    let mut confused = Door::open(house.gate(Role::Operators(house.issuers.agent_ca().clone()), Limits::default()));
    assert!(confused.peer(house.client(&agent)).await.is_none(), "an agent's name among operators");
    assert_eq!((count(&agents.gate.stats().strangers), count(&confused.gate.stats().strangers)), (1, 1));
}

#[tokio::test]
async fn an_expired_certificate_is_refused_at_a_full_handshake() {
    let house = House::new();
    let mut agents = Door::open(house.gate(house.agents(), Limits::default()));
    let past = Timestamp::from_millis(clock::now().as_millis() - 7_200_000);
    let expired = agent_of(&house.issuers, Validity { from: past, span: HOUR });
    assert!(agents.peer(house.client(&expired)).await.is_none());
    assert_eq!(count(&agents.gate.stats().failed), 1);
}

/// rustls does not verify a client's certificate again when a session is resumed, so there must be none.
#[tokio::test]
async fn an_expired_certificate_is_refused_to_a_client_that_would_resume() {
    let house = House::new();
    let mut agents = Door::open(house.gate(house.agents(), Limits::default()));
    let short = agent_of(&house.issuers, valid(Duration::from_secs(1)));
    let mut config = house.client(&short);
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);

    let (client, connection) = agents.connect(&config).await.expect("it is still valid");
    let not_after = connection.connect_info().not_after.expect("its certificate ends");
    drop((client, connection));
    if let Some((client, _connection)) = agents.connect(&config).await {
        let kind = client.get_ref().1.handshake_kind();
        assert_ne!(kind, Some(rustls::HandshakeKind::Resumed), "the server gave a ticket");
    }
    // Certificates count whole seconds, the last one included.
    let ends = not_after + Duration::from_secs(1);
    let expired = async {
        while clock::now() < ends {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, expired).await.expect("a second passes");
    assert!(agents.connect(&config).await.is_none(), "an expired certificate was let in");
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let house = House::new();
    let agents = Door::open(house.gate(house.agents(), Limits::default()));
    // A ClientHello of TLS 1.2: ECDHE-ECDSA-AES128-GCM, groups P-256, signatures ECDSA-P256 and Ed25519.
    let extensions =
        [&[0, 10, 0, 4, 0, 2, 0, 23][..], &[0, 13, 0, 6, 0, 4, 4, 3, 8, 7], &[0, 11, 0, 2, 1, 0], &[0, 23, 0, 0]]
            .concat();
    let length = u8::try_from(extensions.len()).expect("short");
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2b, 1, 0, 0, length], &extensions].concat();
    let length = u8::try_from(body.len()).expect("short");
    let hello = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat();

    let mut client = TcpStream::connect(agents.address).await.expect("a connection");
    client.write_all(&hello).await.expect("sent");
    let mut alert = [0; 7];
    let read = tokio::time::timeout(LIMIT, client.read_exact(&mut alert)).await.expect("an answer");
    read.expect("an alert");
    assert_eq!((alert[0], alert[5], alert[6]), (21, 2, 70), "alert, fatal, protocol_version");
}

#[tokio::test]
async fn silence_is_ended_at_the_deadline() {
    let house = House::new();
    let limits = Limits { handshake: Duration::from_millis(200), handshakes: 2, ..Limits::default() };
    let mut enrolment = Door::open(house.gate(Role::Anybody, limits));
    let config = Arc::new(tls::pinned_client_config(house.issuers.pin()).expect("a configuration"));

    let mute = TcpStream::connect(enrolment.address).await.expect("a connection");
    let stream = TcpStream::connect(enrolment.address).await.expect("a connection");
    let connector = TlsConnector::from(Arc::clone(&config));
    let polite = connector.connect(tls::controller_server_name(CLUSTER), stream).await.expect("TLS");
    // Both places are taken: the next one waits until the silent are gone, and is served.
    assert!(enrolment.connect(&config).await.is_some());
    assert!(is_closed(mute).await, "a silent connection is held");
    assert!(is_closed(polite).await, "a connection that says nothing after TLS is held");
    assert_eq!(count(&enrolment.gate.stats().silent), 2);
}

#[tokio::test]
async fn connections_are_bounded_and_places_come_back() {
    let house = House::new();
    let limits = Limits { connections: 1, ..Limits::default() };
    let mut agents = Door::open(house.gate(house.agents(), limits));
    let config = Arc::new(house.client(&agent_of(&house.issuers, valid(HOUR))));
    let first = agents.connect(&config).await.expect("a place");
    assert!(agents.connect(&config).await.is_none());
    assert_eq!(count(&agents.gate.stats().full), 1);
    drop(first);
    assert!(agents.connect(&config).await.is_some());
}

#[tokio::test]
async fn what_arrives_is_noted_with_its_time() {
    let house = House::new();
    let mut agents = Door::open(house.gate(house.agents(), Limits::default()));
    let config = Arc::new(house.client(&agent_of(&house.issuers, valid(HOUR))));
    let (mut client, mut connection) = agents.connect(&config).await.expect("a place");
    let heard = connection.connect_info().heard;
    let before = heard.at();
    let later = async {
        while clock::now() <= before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, later).await.expect("time passes");
    client.write_all(b"!").await.expect("the server listens");
    client.flush().await.expect("the server listens");
    let mut all = vec![0; 64];
    while !connection.read(&mut all).await.is_ok_and(|read| all[..read].contains(&b'!')) {}
    assert!(heard.at() > before);
}

#[test]
fn descriptors_stay_free_however_many_want_to_come_in() {
    for descriptors in [100, 1_024, 20_000, u64::MAX] {
        let [many, few] = Limits::default().within(descriptors);
        let taken = many.connections as u64 + 2 * few.connections as u64;
        assert!(taken + 64 <= descriptors, "{descriptors}: {many:?} {few:?}");
        assert!(many.connections >= few.connections && few.connections > 0);
    }
    assert_eq!(Limits::default().within(u64::MAX)[0].connections, Limits::default().connections);
    assert_eq!(Limits::default().within(0).map(|limits| limits.connections), [1, 1], "it still listens");
}

#[tokio::test]
async fn a_renewed_identity_is_shown_without_a_restart() {
    let house = House::new();
    let mut agents = Door::open(house.gate(house.agents(), Limits::default()));
    let config = Arc::new(house.client(&agent_of(&house.issuers, valid(HOUR))));
    let (before, _first) = agents.connect(&config).await.expect("a place");
    agents.gate.renew(house.issuers.issue_controller(valid(HOUR)).expect("an identity")).expect("renewed");
    let (after, _second) = agents.connect(&config).await.expect("a place");
    let shown = |client: &ClientStream<TcpStream>| {
        client.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec()).expect("a certificate")
    };
    assert_ne!(shown(&before), shown(&after));
}

#[test]
fn pauses_after_errors_grow_to_a_bound() {
    let pauses = std::iter::successors(Some(next_pause(None)), |last| Some(next_pause(Some(*last))));
    let millis: Vec<_> = pauses.take(7).map(|pause| pause.as_millis()).collect();
    assert_eq!(millis, [50, 100, 200, 400, 800, 1000, 1000]);
}
