//! The cluster's own certificate authority: three issuers, one for each role, so that no certificate of one role is
//! ever taken for another.
//!
//! What stands in a certificate is decided here: one URI name ([`PeerName`]), one use, our times. A request contributes
//! its public key and the proof that the sender holds the private one; whatever else it asks for is not even read.
//!
//! Keys are Ed25519, the fastest to verify in a handshake. They live in `<state>/ca/{agents,controllers,operators}.key`.

use crate::files;
use muster_proto::id::{AgentId, ClusterId};
use muster_proto::limits;
use muster_proto::name::{OperatorName, Peer, PeerName};
use muster_proto::time::Timestamp;
use muster_proto::tls::{self, Certificate, Identity, TlsError};
use muster_proto::token::{Token, TokenKind};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData as _, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use sha2::{Digest as _, Sha256};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

/// Clocks of agents may be behind ours by this much.
const BACKDATED: Duration = Duration::from_mins(5);
/// Nobody rotates these yet: they outlive the machines.
const CA_VALIDITY: Duration = Duration::from_hours(10 * 365 * 24);

/// The three issuers of a cluster.
pub struct Issuers {
    cluster: ClusterId,
    agents: Ca,
    controllers: Ca,
    operators: Ca,
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate<'static>,
}

impl Issuers {
    /// Makes the issuers and writes them to `dir`, which must not exist.
    pub fn create(dir: &Path, cluster: ClusterId, now: Timestamp) -> Result<Self, IssuersError> {
        files::create_private_dir(dir).map_err(|source| IssuersError::io(dir, source))?;
        let ca = |role| Ca::create(dir, role, cluster, now);
        Ok(Self { cluster, agents: ca("agents")?, controllers: ca("controllers")?, operators: ca("operators")? })
    }

    /// Reads what [`Issuers::create`] has written.
    pub fn load(dir: &Path, cluster: ClusterId) -> Result<Self, IssuersError> {
        let ca = |role| Ca::load(dir, role);
        Ok(Self { cluster, agents: ca("agents")?, controllers: ca("controllers")?, operators: ca("operators")? })
    }

    /// Whose certificates these are.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The CA of the agents.
    pub fn agent_ca(&self) -> &Certificate<'static> {
        &self.agents.certificate
    }

    /// The CA of the controllers.
    pub fn controller_ca(&self) -> &Certificate<'static> {
        &self.controllers.certificate
    }

    /// The CA of the operators.
    pub fn operator_ca(&self) -> &Certificate<'static> {
        &self.operators.certificate
    }

    /// What tokens carry so that their bearer knows us: SHA-256 of the controller CA.
    pub fn pin(&self) -> [u8; 32] {
        tls::pin_of(self.controller_ca())
    }

    /// A fresh token or code, by which its bearer knows us. It counts once the store has its hash.
    pub fn token(&self, kind: TokenKind, address: String) -> Result<Token, IssueError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|_| IssueError::Random)?;
        Ok(Token { kind, cluster: self.cluster, pin: self.pin(), secret, address })
    }

    /// A certificate for an agent, DER.
    pub fn issue_agent(&self, key: &PublicKey, id: AgentId, valid: Validity) -> Result<Vec<u8>, IssueError> {
        let params = self.params(Peer::Agent(id), ExtendedKeyUsagePurpose::ClientAuth, valid)?;
        Ok(params.signed_by(&key.0, &self.agents.issuer)?.der().to_vec())
    }

    /// A certificate for an operator, DER. The key signs jobs as well, so only Ed25519 will do.
    pub fn issue_operator(&self, key: &PublicKey, name: OperatorName, valid: Validity) -> Result<Vec<u8>, IssueError> {
        if !key.signs_jobs() {
            return Err(IssueError::NotEd25519);
        }
        let params = self.params(Peer::Operator(name), ExtendedKeyUsagePurpose::ClientAuth, valid)?;
        Ok(params.signed_by(&key.0, &self.operators.issuer)?.der().to_vec())
    }

    /// An identity for a listener of ours, with a key that never leaves this process. The CA follows in the chain:
    /// who enrols knows only its digest.
    pub fn issue_controller(&self, valid: Validity) -> Result<Identity, IssueError> {
        let mut params = self.params(Peer::Controller, ExtendedKeyUsagePurpose::ServerAuth, valid)?;
        let name = Ia5String::try_from(tls::controller_dns_name(self.cluster))?;
        params.subject_alt_names.push(SanType::DnsName(name));
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = params.signed_by(&key, &self.controllers.issuer)?;
        let chain = certificate.pem() + &tls::certificate_to_pem(self.controller_ca());
        Ok(Identity::from_pem(&chain, &key.serialize_pem())?)
    }

    fn params(
        &self,
        peer: Peer,
        usage: ExtendedKeyUsagePurpose,
        valid: Validity,
    ) -> Result<CertificateParams, IssueError> {
        let name = PeerName { cluster: self.cluster, peer }.to_string();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(name)?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        valid.apply(&mut params)?;
        Ok(params)
    }
}

impl Ca {
    fn create(dir: &Path, role: &str, cluster: ClusterId, now: Timestamp) -> Result<Self, IssuersError> {
        let make = || -> Result<_, IssueError> {
            let key = KeyPair::generate_for(&PKCS_ED25519)?;
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, format!("Muster {role} of {cluster}"));
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            Validity { from: now, span: CA_VALIDITY }.apply(&mut params)?;
            Ok((params.self_signed(&key)?, params, key))
        };
        let (certificate, params, key) = make()?;
        for (extension, text) in [("key", key.serialize_pem()), ("crt", certificate.pem())] {
            let path = dir.join(format!("{role}.{extension}"));
            files::create_private(&path, text.as_bytes()).map_err(|source| IssuersError::io(&path, source))?;
        }
        Ok(Self { issuer: Issuer::new(params, key), certificate: certificate.der().clone() })
    }

    fn load(dir: &Path, role: &str) -> Result<Self, IssuersError> {
        let read = |extension| {
            let path = dir.join(format!("{role}.{extension}"));
            let text = std::fs::read_to_string(&path).map_err(|source| IssuersError::io(&path, source))?;
            Ok::<_, IssuersError>((text, path))
        };
        let (key, key_path) = read("key")?;
        let (certificate, certificate_path) = read("crt")?;
        let key = KeyPair::from_pem(&key).map_err(|_| IssuersError::Damaged(key_path.clone()))?;
        let damaged = || IssuersError::Damaged(certificate_path.clone());
        let certificate = tls::certificate_from_pem(&certificate).map_err(|_| damaged())?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(|_| damaged())?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(IssuersError::Mismatch(key_path));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| damaged())?;
        Ok(Self { issuer, certificate })
    }
}

/// When a certificate counts: from five minutes before `from`, for clocks that are behind, to `from + span`.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    /// Usually now.
    pub from: Timestamp,
    /// How long.
    pub span: Duration,
}

impl Validity {
    fn apply(self, params: &mut CertificateParams) -> Result<(), IssueError> {
        let mut serial = [0; 16];
        getrandom::fill(&mut serial).map_err(|_| IssueError::Random)?;
        // A serial number is a positive integer (RFC 5280, 4.1.2.2).
        serial[0] = serial[0] & 0x7f | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let from = OffsetDateTime::from_unix_timestamp(self.from.as_millis() / 1000).map_err(|_| IssueError::Time)?;
        params.not_before = from.checked_sub(span_of(BACKDATED)?).ok_or(IssueError::Time)?;
        params.not_after = from.checked_add(span_of(self.span)?).ok_or(IssueError::Time)?;
        Ok(())
    }
}

fn span_of(span: Duration) -> Result<time::Duration, IssueError> {
    time::Duration::try_from(span).map_err(|_| IssueError::Time)
}

/// A public key whose owner has proved to hold the private one.
#[derive(Debug, Clone)]
pub struct PublicKey(SubjectPublicKeyInfo);

impl PublicKey {
    /// From a certificate request (PKCS#10, DER). Cheap checks come first: anybody may send one.
    pub fn from_request(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > limits::CSR_BYTES_MAX {
            return Err(RequestError::Size);
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| RequestError::Form)?;
        if !rest.is_empty() {
            return Err(RequestError::Form);
        }
        let key = &request.certification_request_info.subject_pki;
        let key = SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| RequestError::Key)?;
        if ![&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256].contains(&key.algorithm()) {
            return Err(RequestError::Key);
        }
        request.verify_signature().map_err(|_| RequestError::Proof)?;
        Ok(Self(key))
    }

    /// Of a key that was made here.
    pub fn of(key: &KeyPair) -> Result<Self, RequestError> {
        SubjectPublicKeyInfo::from_der(&key.subject_public_key_info()).map(Self).map_err(|_| RequestError::Key)
    }

    /// SHA-256 of the key's SubjectPublicKeyInfo, DER: what a machine prints of itself and an operator compares.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(self.0.subject_public_key_info()).into()
    }

    /// Jobs are signed with Ed25519 alone.
    pub fn signs_jobs(&self) -> bool {
        *self.0.algorithm() == PKCS_ED25519
    }
}

/// A certificate request is not one we answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than [`limits::CSR_BYTES_MAX`].
    #[error("the certificate request is larger than {} bytes", limits::CSR_BYTES_MAX)]
    Size,
    /// Not PKCS#10.
    #[error("the certificate request cannot be read")]
    Form,
    /// RSA or another curve.
    #[error("the key in the certificate request is neither Ed25519 nor ECDSA P-256: make one of these")]
    Key,
    /// Signed by another key than the one it carries.
    #[error("the certificate request is not signed with the key it carries")]
    Proof,
}

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// An operator came with another key.
    #[error("an operator's key must be Ed25519, because it signs jobs: use `muster login`")]
    NotEd25519,
    /// A moment that no certificate can carry.
    #[error("the certificate's times are out of range: is the clock of this machine right?")]
    Time,
    /// The kernel gives no random bytes.
    #[error("the system has no random bytes")]
    Random,
    /// Signing.
    #[error("the certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// What was made cannot be used.
    #[error("the certificate cannot be used")]
    Use(#[from] TlsError),
}

/// The issuers cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IssuersError {
    /// A file.
    #[error("{path}: restore the controller's state from a backup, or check who may read it", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file that is no key or certificate.
    #[error("{} is damaged: restore it from a backup", .0.display())]
    Damaged(PathBuf),
    /// A key beside a certificate of another.
    #[error("{} does not belong to the certificate beside it: restore both from a backup", .0.display())]
    Mismatch(PathBuf),
    /// Making one.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

impl IssuersError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::PKCS_ECDSA_P384_SHA384;
    use x509_parser::prelude::{GeneralName, X509Certificate};

    const DAY: Duration = Duration::from_hours(24);

    fn now() -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000)
    }

    fn issuers(dir: &Path) -> Issuers {
        Issuers::create(&dir.join("ca"), ClusterId::from_bytes([7; 16]), now()).expect("issuers")
    }

    fn parse(der: &[u8]) -> X509Certificate<'_> {
        x509_parser::parse_x509_certificate(der).expect("a certificate").1
    }

    #[test]
    fn a_certificate_ignores_what_the_request_asks_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let issuers = issuers(dir.path());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let mut wish = CertificateParams::new(vec!["evil.example.org".to_owned()]).expect("params");
        let stolen = PeerName { cluster: issuers.cluster(), peer: Peer::Operator("root".parse().expect("a name")) };
        wish.subject_alt_names.push(SanType::URI(Ia5String::try_from(stolen.to_string()).expect("a name")));
        wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wish.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::ServerAuth];
        let request = wish.serialize_request(&key).expect("a request");

        let key_of = PublicKey::from_request(request.der()).expect("a good request");
        assert_eq!(key_of.fingerprint(), <[u8; 32]>::from(Sha256::digest(key.subject_public_key_info())));
        let id = AgentId::from_bytes([3; 16]);
        let der = issuers.issue_agent(&key_of, id, Validity { from: now(), span: DAY }).expect("a certificate");

        let certificate = parse(&der);
        assert!(!certificate.is_ca());
        assert!(certificate.validity().not_before.timestamp() == 1_800_000_000 - 300);
        assert!(certificate.validity().not_after.timestamp() == 1_800_000_000 + 86_400);
        let names = &certificate.subject_alternative_name().expect("readable").expect("present").value.general_names;
        let expected = PeerName { cluster: issuers.cluster(), peer: Peer::Agent(id) };
        assert_eq!(names, &[GeneralName::URI(&expected.to_string())]);
        let usage = certificate.extended_key_usage().expect("readable").expect("present").value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert_eq!(tls::peer_name(&der.clone().into()), Ok(expected));
        assert!(certificate.verify_signature(Some(parse(issuers.agent_ca()).public_key())).is_ok());
        assert!(certificate.verify_signature(Some(parse(issuers.operator_ca()).public_key())).is_err());

        let again = issuers.issue_agent(&key_of, id, Validity { from: now(), span: DAY }).expect("a certificate");
        assert_ne!(parse(&again).raw_serial(), certificate.raw_serial(), "serial numbers are random");
    }

    #[test]
    fn requests_that_prove_nothing_are_refused() {
        let request =
            |key: &KeyPair| CertificateParams::default().serialize_request(key).expect("a request").der().to_vec();
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let good = request(&key);
        assert!(PublicKey::from_request(&good).is_ok());

        let other = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
        assert_eq!(PublicKey::from_request(&request(&other)).err(), Some(RequestError::Key));
        // Another's request with one's own key put in: the lengths are the same.
        let own = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let place = good.windows(32).position(|bytes| bytes == key.der_bytes()).expect("the key is in the request");
        let mut forged = good.clone();
        forged[place..place + 32].copy_from_slice(own.der_bytes());
        assert_eq!(PublicKey::from_request(&forged).err(), Some(RequestError::Proof));

        assert_eq!(PublicKey::from_request(&[good.clone(), vec![0]].concat()).err(), Some(RequestError::Form));
        assert_eq!(PublicKey::from_request(&good[1..]).err(), Some(RequestError::Form));
        assert_eq!(PublicKey::from_request(&vec![0; limits::CSR_BYTES_MAX + 1]).err(), Some(RequestError::Size));
    }

    #[test]
    fn issuers_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = issuers(dir.path());
        let ca = dir.path().join("ca");
        let read = Issuers::load(&ca, made.cluster()).expect("issuers");
        assert_eq!(read.pin(), made.pin());
        let key = PublicKey::of(&KeyPair::generate_for(&PKCS_ED25519).expect("a key")).expect("a key");
        let ada: OperatorName = "ada".parse().expect("a name");
        let der = read.issue_operator(&key, ada, Validity { from: now(), span: DAY }).expect("a certificate");
        assert!(parse(&der).verify_signature(Some(parse(made.operator_ca()).public_key())).is_ok());

        std::fs::copy(ca.join("agents.key"), ca.join("operators.key")).expect("a copy");
        assert!(matches!(Issuers::load(&ca, made.cluster()), Err(IssuersError::Mismatch(_))));
        std::fs::write(ca.join("agents.crt"), "rubbish").expect("a file");
        assert!(matches!(Issuers::load(&ca, made.cluster()), Err(IssuersError::Damaged(_))));
    }

    #[test]
    fn operators_must_bring_a_key_that_signs_jobs() {
        let dir = tempfile::tempdir().expect("a directory");
        let key = PublicKey::of(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")).expect("a key");
        let ada: OperatorName = "ada".parse().expect("a name");
        let result = issuers(dir.path()).issue_operator(&key, ada, Validity { from: now(), span: DAY });
        assert!(matches!(result, Err(IssueError::NotEd25519)));
    }
}
