//! Peers that say exactly what a test wants, true or not: real TLS, frames of HTTP/2 written by hand ([`Http2`]), calls
//! and messages of ours on top of them ([`Call`], [`AgentPeer`]).
//!
//! Everything here blocks, with a limit. A peer that the controller got rid of finds its stream ended; nothing panics
//! then, because that is what most tests are about.

mod agent;
mod call;
mod http2;

pub use agent::{AgentPeer, Answer, SESSION, hello};
pub use call::Call;
pub use http2::{ACK, END_HEADERS, END_STREAM, Frame, Gone, Http2, Kind, request_head};

use muster_proto::context::Config;
use muster_proto::id::ClusterId;
use muster_proto::link::Nonce;
use muster_proto::tls::{self, Certificate, Identity};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// A connection after its handshake, as far as the client knows: in TLS 1.3 it learns late that it was refused.
pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Somebody's certificate and key, in hands they were not made for.
#[derive(Clone)]
pub struct Credentials {
    certificate: String,
    key: String,
    controller_ca: Certificate<'static>,
    cluster: ClusterId,
    /// What an agent has to bring along next time. Clones are the same machine.
    nonce: Arc<Mutex<Option<Nonce>>>,
}

impl Credentials {
    /// Those of the agent that is enrolled in a state directory.
    pub fn of_agent(state: &Path) -> Self {
        let read = |file: &str| fs::read_to_string(state.join("identity").join(file)).expect("an identity");
        Self::new(read("agent.crt"), read("key.pem"), &read("controller-ca.crt"))
    }

    /// Those of the operator of a configuration with one context.
    pub fn of_operator(config: &Path) -> Self {
        let config = Config::from_toml(&fs::read_to_string(config).expect("a configuration")).expect("a configuration");
        let context = config.contexts.values().next().expect("a context");
        Self::new(context.certificate.clone(), context.key.clone(), &context.controller_ca)
    }

    fn new(certificate: String, key: String, controller_ca: &str) -> Self {
        let own = tls::certificate_from_pem(&certificate).expect("a certificate");
        let cluster = tls::peer_name(&own).expect("a name of ours").cluster;
        let controller_ca = tls::certificate_from_pem(controller_ca).expect("a certificate");
        Self { certificate, key, controller_ca, cluster, nonce: Arc::default() }
    }

    fn nonce(&self) -> Option<Nonce> {
        *self.nonce.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, nonce: Nonce) {
        *self.nonce.lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce);
    }

    /// What a client with them uses; it never resumes.
    pub fn config(&self) -> ClientConfig {
        let identity = Identity::from_pem(&self.certificate, &self.key).expect("an identity");
        tls::client_config(identity, &self.controller_ca).expect("a configuration")
    }

    /// Dials, and does our part of the handshake.
    pub fn dial(&self, address: &str) -> io::Result<Tls> {
        self.dial_with(address, &Arc::new(self.config()))
    }

    /// As [`Credentials::dial`], with a configuration that was changed.
    pub fn dial_with(&self, address: &str, config: &Arc<ClientConfig>) -> io::Result<Tls> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(http2::PATIENCE))?;
        socket.set_write_timeout(Some(http2::PATIENCE))?;
        let name = tls::controller_server_name(self.cluster);
        let mut connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(StreamOwned::new(connection, socket))
    }
}
