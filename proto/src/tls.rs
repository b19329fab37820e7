//! Identities in files to rustls configurations, in both directions.
//!
//! TLS 1.3 only, and no session resumption: rustls does not verify a client's certificate again when a session is
//! resumed, so that an expired or revoked one would be let in.

use crate::id::ClusterId;
use crate::name::{ParsePeerNameError, PeerName};
use crate::time::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, version::TLS13};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use webpki::{EndEntityCert, Error, KeyUsage};

pub use rustls_pki_types::CertificateDer as Certificate;

/// A certificate chain with its key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// From PEM texts; the chain begins with the identity's own certificate.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, TlsError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| TlsError::Certificate)?;
        if chain.is_empty() {
            return Err(TlsError::Certificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| TlsError::Key)?;
        Ok(Self { chain, key })
    }
}

/// One certificate from PEM.
pub fn certificate_from_pem(pem: &str) -> Result<CertificateDer<'static>, TlsError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| TlsError::Certificate)
}

/// A certificate as PEM (RFC 7468).
pub fn certificate_to_pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in der.chunks(3) {
        let value = group.iter().fold(0_u32, |value, &byte| value << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = char::from(ALPHABET[(value >> (18 - 6 * place)) as usize & 63]);
            text.push(if place <= group.len() { digit } else { '=' });
        }
    }
    let lines: String =
        text.as_bytes().chunks(64).flat_map(|line| [line, b"\n"]).flatten().map(|&b| b as char).collect();
    format!("-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n")
}

/// SHA-256 of a certificate: how tokens pin the controller CA.
pub fn pin_of(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// The name under which every controller of a cluster answers, whatever address leads to it: its CA issues for
/// controllers of this cluster alone, so the address adds nothing.
pub fn controller_dns_name(cluster: ClusterId) -> String {
    format!("{cluster}.controller.muster")
}

/// [`controller_dns_name`] as rustls takes it.
pub fn controller_server_name(cluster: ClusterId) -> ServerName<'static> {
    // An id is 26 letters and digits: the name is a valid DNS name by construction.
    ServerName::try_from(controller_dns_name(cluster)).expect("an id makes a valid DNS name")
}

/// A listener's side. With `clients`, only certificates issued by that CA are let in; without, anybody is.
pub fn server_config(identity: Identity, clients: Option<&CertificateDer<'_>>) -> Result<ServerConfig, TlsError> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).map_err(TlsError::Rustls)?;
    let builder = match clients {
        Some(issuer) => {
            let roots = Arc::new(store_of(issuer)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|_| TlsError::Certificate)?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(identity.chain, identity.key).map_err(TlsError::Rustls)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// A caller's side, with its own identity, trusting controllers issued by `controllers` alone.
pub fn client_config(identity: Identity, controllers: &CertificateDer<'_>) -> Result<ClientConfig, TlsError> {
    let builder =
        ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).map_err(TlsError::Rustls)?;
    let config = builder
        .with_root_certificates(store_of(controllers)?)
        .with_client_auth_cert(identity.chain, identity.key)
        .map_err(TlsError::Rustls)?;
    Ok(without_resumption(config))
}

/// A caller's side before it has an identity: it trusts the controller whose chain holds the pinned CA.
pub fn pinned_client_config(pin: [u8; 32]) -> Result<ClientConfig, TlsError> {
    let verifier = PinnedCa { pin, algorithms: provider().signature_verification_algorithms };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Rustls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(without_resumption(config))
}

fn without_resumption(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn store_of(issuer: &CertificateDer<'_>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(issuer.clone().into_owned()).map_err(TlsError::Rustls)?;
    Ok(roots)
}

/// The one identity that a certificate carries. The chain was verified before.
pub fn peer_name(certificate: &CertificateDer<'_>) -> Result<PeerName, ParsePeerNameError> {
    let certificate = EndEntityCert::try_from(certificate).map_err(|_| ParsePeerNameError)?;
    let mut names = certificate.valid_uri_names();
    match (names.next(), names.next()) {
        (Some(name), None) => name.parse(),
        _ => Err(ParsePeerNameError),
    }
}

/// From when until when a certificate is valid.
pub fn validity(certificate: &CertificateDer<'_>) -> Result<RangeInclusive<Timestamp>, TlsError> {
    /// The year 36812: farther than any certificate can name.
    const FAR: u64 = 1 << 40;
    let certificate = EndEntityCert::try_from(certificate).map_err(|_| TlsError::Certificate)?;
    let at = |seconds| {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        // Times are looked at before issuers: without any, this says what is wrong with the time.
        certificate.verify_for_usage(&[], &[], &[], time, KeyUsage::client_auth(), None, None).err()
    };
    let moment = |time: UnixTime| Timestamp::default() + Duration::from_secs(time.as_secs());
    match (at(0), at(FAR)) {
        (Some(Error::CertNotValidYet { not_before, .. }), Some(Error::CertExpired { not_after, .. })) => {
            Ok(moment(not_before)..=moment(not_after))
        }
        // Valid since before Unix time began.
        (_, Some(Error::CertExpired { not_after, .. })) => Ok(Timestamp::default()..=moment(not_after)),
        _ => Err(TlsError::Certificate),
    }
}

/// Takes a chain that holds the pinned CA and verifies the rest with it as the only root.
#[derive(Debug)]
struct PinnedCa {
    pin: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let issuer = intermediates.iter().find(|certificate| pin_of(certificate) == self.pin).ok_or_else(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(issuer.clone().into_owned())?;
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|_| unknown())?;
        verifier.verify_server_cert(end_entity, &[], server_name, &[], now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Damaged, or not PEM.
    #[error("a certificate cannot be read: enrol or log in again")]
    Certificate,
    /// Damaged, or not PEM.
    #[error("a private key cannot be read: enrol or log in again")]
    Key,
    /// Certificate and key do not belong together, or the like.
    #[error("certificate and key cannot be used together: enrol or log in again")]
    Rustls(#[source] rustls::Error),
}
