//! The doorstep of every listener: sockets, TLS, and the limits that hold before anybody is known.
//!
//! ```text
//! TcpListener -> at most 256 handshakes under way, 5 s each -> identity fits the listener -> Connection -> tonic
//! ```
//!
//! tonic's own accept loop has no deadline, no bound and spins when descriptors run out, so it never sees a socket:
//! it is handed [`Connection`]s that are through TLS and have said the preface of HTTP/2, for which nobody behind it
//! waits with a limit. Behind this module there are no certificates, only a [`PeerInfo`] in the extensions of each request.

use crate::clock;
use crate::limiter::{Limiter, Rate};
use arc_swap::ArcSwap;
use muster_proto::id::{AgentId, ClusterId};
use muster_proto::name::{OperatorName, Peer, PeerName};
use muster_proto::time::Timestamp;
use muster_proto::tls::{self, Certificate, Identity, TlsError};
use rustls::ServerConfig;
use sha2::{Digest as _, Sha256};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

/// Agents come back all at once after a restart: they wait here instead of being reset.
const BACKLOG: u32 = 4_096;
/// Pause after the first error of accept(2); it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Descriptors that no connection takes: for the store, output files and blobs.
const DESCRIPTORS_RESERVED: usize = 64;
/// Operators, and machines that enrol: nobody has more of them at a time.
const FEW_CONNECTIONS: usize = 1_024;

/// How every connection of HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// For a peer that is turned away to read why.
const LEAVE_MAX: Duration = Duration::from_secs(1);
/// What such a peer may have sent meanwhile: the beginning of HTTP/2 and a first request.
const LEAVE_BYTES_MAX: u64 = 64 << 10;

/// A bound socket that nobody serves yet.
pub struct Listener(TcpListener);

impl Listener {
    /// Binds and listens; port 0 takes a free one.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG).map(Self)
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Accepts until `shutdown`. While as many handshakes are under way as may be, others wait in the backlog.
    pub fn serve(self, gate: Arc<Gate>, shutdown: CancellationToken) -> Incoming {
        // tonic takes connections at once. If it ever does not, finished handshakes wait and so does accept.
        let (passed, incoming) = mpsc::channel(gate.limits.handshakes);
        tokio::spawn(accept(self.0, gate, passed, shutdown));
        ReceiverStream::new(incoming)
    }
}

/// Connections that are through the gate. It ends at shutdown.
pub type Incoming = ReceiverStream<io::Result<Connection>>;

/// Who may come in.
#[derive(Debug, Clone)]
pub enum Role {
    /// Agents, whose certificates this CA has issued.
    Agents(Certificate<'static>),
    /// Operators, whose certificates this CA has issued.
    Operators(Certificate<'static>),
    /// Whoever wants a certificate.
    Anybody,
}

impl Role {
    fn issuer(&self) -> Option<&Certificate<'static>> {
        match self {
            Self::Agents(issuer) | Self::Operators(issuer) => Some(issuer),
            Self::Anybody => None,
        }
    }

    fn admits(&self, peer: &Peer) -> bool {
        matches!((self, peer), (Self::Agents(_), Peer::Agent(_)) | (Self::Operators(_), Peer::Operator(_)))
    }
}

/// What a listener bears before anybody is known.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections that are through the gate.
    pub connections: usize,
    /// Handshakes under way.
    pub handshakes: usize,
    /// From accept(2) to the preface of HTTP/2.
    pub handshake: Duration,
    /// Connections of one source address; none for as many as it likes. Loopback is never limited.
    pub rate: Option<Rate>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 50_000, handshakes: 256, handshake: Duration::from_secs(5), rate: None }
    }
}

impl Limits {
    /// What so many descriptors suffice for: the bounds of a listener for the fleet, and of one for few others. Some
    /// descriptors stay free, so that the controller can open its own files however many want to come in.
    pub fn within(self, descriptors: u64) -> [Self; 2] {
        let free = usize::try_from(descriptors).unwrap_or(usize::MAX).saturating_sub(DESCRIPTORS_RESERVED);
        let few = self.connections.min(FEW_CONNECTIONS).min(free / 8).max(1);
        let many = self.connections.min(free.saturating_sub(2 * few)).max(1);
        [many, few].map(|connections| Self { connections, ..self })
    }
}

/// One listener's TLS and admission. Its identity can be renewed while it serves.
pub struct Gate {
    role: Role,
    cluster: ClusterId,
    limits: Limits,
    tls: ArcSwap<ServerConfig>,
    connections: Arc<Semaphore>,
    limiter: Option<Limiter>,
    stats: ListenStats,
}

impl Gate {
    /// A gate that shows `identity` and admits `role` of `cluster`.
    pub fn new(role: Role, cluster: ClusterId, identity: Identity, limits: Limits) -> Result<Arc<Self>, TlsError> {
        let tls = ArcSwap::from_pointee(tls::server_config(identity, role.issuer())?);
        let connections = Arc::new(Semaphore::new(limits.connections));
        let limiter = limits.rate.map(Limiter::new);
        Ok(Arc::new(Self { role, cluster, limits, tls, connections, limiter, stats: ListenStats::default() }))
    }

    /// Shows another identity from the next connection on.
    pub fn renew(&self, identity: Identity) -> Result<(), TlsError> {
        self.tls.store(Arc::new(tls::server_config(identity, self.role.issuer())?));
        Ok(())
    }

    /// What happened so far.
    pub fn stats(&self) -> &ListenStats {
        &self.stats
    }

    /// TLS, then who it is, then proof that it speaks at all; the caller holds the watch.
    async fn greet(&self, stream: TcpStream, address: SocketAddr) -> Result<(TlsStream<TcpStream>, PeerInfo), Turned> {
        let handshake = TlsAcceptor::from(self.tls.load_full()).accept(stream).into_fallible();
        let mut stream = handshake.await.map_err(|(error, stream)| Turned::Tls { error, stream })?;
        let chain = stream.get_ref().1.peer_certificates();
        let info = self.identify(chain.and_then(<[_]>::first), address)?;
        let mut preface = [0; PREFACE.len()];
        match stream.read_exact(&mut preface).await {
            Ok(_) if preface == *PREFACE => Ok((stream, info)),
            Ok(_) => Err(Turned::Foreign),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Turned::Silent),
            Err(error) => Err(Turned::Lost(error)),
        }
    }

    fn identify(&self, certificate: Option<&Certificate<'_>>, address: SocketAddr) -> Result<PeerInfo, Turned> {
        let Some(certificate) = certificate else {
            return match self.role {
                Role::Anybody => Ok(PeerInfo::stranger(address)),
                Role::Agents(_) | Role::Operators(_) => Err(Turned::Stranger),
            };
        };
        let name = tls::peer_name(certificate).map_err(|_| Turned::Stranger)?;
        if name.cluster != self.cluster || !self.role.admits(&name.peer) {
            return Err(Turned::Stranger);
        }
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| Turned::Stranger)?;
        let not_after = Timestamp::from_millis(parsed.validity().not_after.timestamp().saturating_mul(1000));
        let key = Sha256::digest(parsed.subject_pki.raw).into();
        Ok(PeerInfo { name: Some(name), not_after: Some(not_after), key: Some(key), ..PeerInfo::stranger(address) })
    }
}

/// Why a connection did not get through.
#[derive(Debug, thiserror::Error)]
enum Turned {
    #[error("the TLS handshake failed: {error}")]
    Tls { error: io::Error, stream: TcpStream },
    #[error("the connection was lost: {0}")]
    Lost(io::Error),
    #[error("its certificate is not for this listener")]
    Stranger,
    #[error("it left without a word")]
    Silent,
    #[error("it does not speak HTTP/2")]
    Foreign,
    #[error("it took too long")]
    Late,
    #[error("there are too many connections")]
    Full,
    #[error("its address connects too often")]
    Often,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct ListenStats {
    /// Came through.
    pub admitted: AtomicU64,
    /// The handshake failed: no certificate of ours, an expired one, not TLS 1.3 at all, or no HTTP/2 in it.
    pub failed: AtomicU64,
    /// A good certificate of another role or cluster.
    pub strangers: AtomicU64,
    /// Said nothing in time, or left first.
    pub silent: AtomicU64,
    /// Over the bound on connections.
    pub full: AtomicU64,
    /// Over the rate of one source address.
    pub often: AtomicU64,
    /// accept(2) failed, as when descriptors run out.
    pub accept_errors: AtomicU64,
}

impl ListenStats {
    fn count(&self, turned: &Turned) {
        let counter = match turned {
            Turned::Tls { .. } | Turned::Lost(_) | Turned::Foreign => &self.failed,
            Turned::Stranger => &self.strangers,
            Turned::Silent | Turned::Late => &self.silent,
            Turned::Full => &self.full,
            Turned::Often => &self.often,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// All that did not get through.
    pub fn rejected(&self) -> u64 {
        [&self.failed, &self.strangers, &self.silent, &self.full, &self.often]
            .map(|count| count.load(Ordering::Relaxed))
            .iter()
            .sum()
    }
}

/// Who is at the other end, as its certificate says; an extension of each request.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Verified; none on the enrolment listener.
    pub name: Option<PeerName>,
    /// Where it comes from.
    pub address: SocketAddr,
    /// TLS looks at a certificate once: whoever keeps a stream open must end it at this moment.
    pub not_after: Option<Timestamp>,
    /// SHA-256 of the key, SubjectPublicKeyInfo in DER: the same as at enrolment or login.
    pub key: Option<[u8; 32]>,
    /// When bytes last arrived.
    pub heard: Heard,
}

impl PeerInfo {
    /// Somebody without a certificate, heard just now.
    pub fn stranger(address: SocketAddr) -> Self {
        Self { name: None, address, not_after: None, key: None, heard: Heard::default() }
    }

    /// The agent, on the agents' listener.
    pub fn agent(&self) -> Option<AgentId> {
        match self.name.as_ref()?.peer {
            Peer::Agent(id) => Some(id),
            Peer::Controller | Peer::Operator(_) => None,
        }
    }

    /// The operator, on the operators' listener.
    pub fn operator(&self) -> Option<&OperatorName> {
        match &self.name.as_ref()?.peer {
            Peer::Operator(name) => Some(name),
            Peer::Controller | Peer::Agent(_) => None,
        }
    }

    /// The address alone, an IPv4 address inside an IPv6 one as what it is.
    pub fn ip(&self) -> IpAddr {
        self.address.ip().to_canonical()
    }
}

/// When bytes last arrived on a connection, whatever they were: answers to keepalives tell that a peer is there. Clones
/// share it.
#[derive(Debug, Clone)]
pub struct Heard(Arc<AtomicI64>);

impl Default for Heard {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(clock::now().as_millis())))
    }
}

impl Heard {
    fn now(&self) {
        self.0.store(clock::now().as_millis(), Ordering::Relaxed);
    }

    /// The moment.
    pub fn at(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// A connection that is through the gate; it counts until it is dropped.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    /// What is left of [`PREFACE`], which the gate has read, for those behind it to read.
    preface: &'static [u8],
    info: PeerInfo,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.preface.is_empty() {
            let (now, later) = self.preface.split_at(self.preface.len().min(buf.remaining()));
            buf.put_slice(now);
            self.preface = later;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.info.heard.now();
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn accept(
    socket: TcpListener,
    gate: Arc<Gate>,
    passed: mpsc::Sender<io::Result<Connection>>,
    shutdown: CancellationToken,
) {
    let handshakes = Arc::new(Semaphore::new(gate.limits.handshakes));
    let mut pause = None;
    loop {
        let next = async {
            // The semaphore is never closed, so this waits and cannot fail.
            let place = Arc::clone(&handshakes).acquire_owned().await.expect("the semaphore is never closed");
            (socket.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = shutdown.cancelled() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, address)) => {
                pause = None;
                let (gate, passed) = (Arc::clone(&gate), passed.clone());
                tokio::spawn(async move {
                    admit(&gate, stream, address, passed).await;
                    drop(place);
                });
            }
            Err(error) => {
                gate.stats.accept_errors.fetch_add(1, Ordering::Relaxed);
                if pause.is_none() {
                    tracing::warn!(%error, "cannot accept connections: trying again, check the limit of open files");
                }
                let wait = next_pause(pause);
                pause = Some(wait);
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Waits until the peer has read the alert that says why. In TLS 1.3 it has sent on already, and a socket that is closed
/// with bytes unread is reset: the peer may then lose what was on its way.
async fn leave(mut stream: TcpStream) {
    let read = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LEAVE_BYTES_MAX), &mut tokio::io::sink()).await
    };
    // A peer that does not listen has had its chance.
    let _ = tokio::time::timeout(LEAVE_MAX, read).await;
}

/// At the limit of descriptors accept(2) fails at once, again and again: without a pause that is a busy loop.
fn next_pause(last: Option<Duration>) -> Duration {
    last.map_or(PAUSE_MIN, |last| (last * 2).min(PAUSE_MAX))
}

async fn admit(gate: &Gate, stream: TcpStream, address: SocketAddr, passed: mpsc::Sender<io::Result<Connection>>) {
    let deadline = Instant::now() + gate.limits.handshake;
    let greeted = async {
        let source = address.ip().to_canonical();
        if gate.limiter.as_ref().is_some_and(|limiter| !limiter.allows(source, Instant::now())) {
            return Err(Turned::Often);
        }
        let place = Arc::clone(&gate.connections).try_acquire_owned().map_err(|_| Turned::Full)?;
        // Answers are small and one at a time; only a socket that is already dead refuses this.
        let _ = stream.set_nodelay(true);
        let greeted = tokio::time::timeout_at(deadline, gate.greet(stream, address)).await;
        let (stream, info) = greeted.unwrap_or(Err(Turned::Late))?;
        Ok(Connection { stream, preface: PREFACE, info, _place: place })
    };
    match greeted.await {
        Ok(connection) => {
            gate.stats.admitted.fetch_add(1, Ordering::Relaxed);
            // Nobody listens any more only when the server ends.
            let _ = passed.send(Ok(connection)).await;
        }
        Err(turned) => {
            gate.stats.count(&turned);
            tracing::debug!(%address, reason = %turned, "connection turned away");
            if let Turned::Tls { stream, .. } = turned {
                leave(stream).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
