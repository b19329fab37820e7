//! What an operator's key says, signed jobs above all, and how an agent makes sure of it.
//!
//! The signature is Ed25519 (RFC 8032, checked strictly) over a label, which differs by what is signed, and the exact
//! payload bytes. Whoever opens a job decodes the very bytes that were verified, and gets them only together with the
//! operator's name.

use crate::audit::Checkpoint;
use crate::id::ClusterId;
use crate::job::{JobSpec, SignedJob};
use crate::limits;
use crate::name::{OperatorName, Peer, PeerName};
use crate::time::Timestamp;
use crate::wire::WireError;
use bytes::Bytes;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage};

const JOB_LABEL: &[u8] = b"muster-job-v1\0";
const CHECKPOINT_LABEL: &[u8] = b"muster-audit-checkpoint-v1\0";
/// SubjectPublicKeyInfo of Ed25519 (RFC 8410): this prefix and the 32 bytes of the key. webpki hands out the
/// contents of the outer sequence with its header.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// An operator's key, with the certificate that says whose it is.
pub struct Signer {
    key: ed25519_dalek::SigningKey,
    certificate: Bytes,
}

impl Signer {
    /// From a PKCS#8 key and a certificate, both PEM.
    pub fn from_pem(key: &str, certificate: &str) -> Result<Self, SealError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).map_err(|_| SealError::Key)?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| SealError::Certificate)?;
        Ok(Self {
            key: ed25519_dalek::SigningKey::from_pkcs8_der(key.secret_pkcs8_der()).map_err(|_| SealError::Key)?,
            certificate: Bytes::copy_from_slice(&certificate),
        })
    }

    /// Signs the job.
    pub fn sign(&self, job: &JobSpec) -> SignedJob {
        let payload = job.encode();
        let signature = self.signature(JOB_LABEL, &payload);
        SignedJob { payload, signature, certificate: self.certificate.clone() }
    }

    /// Signs the checkpoint: the signature, and the certificate that goes with it.
    pub fn sign_checkpoint(&self, checkpoint: &Checkpoint) -> (Bytes, Bytes) {
        (self.signature(CHECKPOINT_LABEL, &checkpoint.encode()), self.certificate.clone())
    }

    fn signature(&self, label: &[u8], payload: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.key.sign(&[label, payload].concat()).to_bytes())
    }
}

/// Whose signatures count: the operators of one cluster.
#[derive(Clone)]
pub struct OperatorTrust {
    cluster: ClusterId,
    issuer: CertificateDer<'static>,
}

impl OperatorTrust {
    /// From the operator CA's certificate, DER.
    pub fn new(cluster: ClusterId, issuer: CertificateDer<'static>) -> Result<Self, SealError> {
        webpki::anchor_from_trusted_cert(&issuer).map_err(|_| SealError::Issuer)?;
        Ok(Self { cluster, issuer })
    }

    /// Verifies everything that does not depend on who reads it: the certificate under the operator CA at the time of
    /// signing, the signature, the form, the cluster, the operator's name.
    pub fn open(&self, signed: &SignedJob) -> Result<JobSpec, SealError> {
        let signer = SignerCertificate::read(&signed.certificate)?;
        signer.verify(JOB_LABEL, &signed.payload, &signed.signature)?;
        let job = JobSpec::decode(&signed.payload)?;
        let operator = self.operator(&signer, job.created_at)?;
        if job.cluster != self.cluster {
            return Err(SealError::Cluster);
        }
        if job.operator != operator {
            return Err(SealError::Operator);
        }
        Ok(job)
    }

    /// Verifies that an operator of this cluster has signed the checkpoint, with a certificate that counted then.
    pub fn verify_checkpoint(
        &self,
        checkpoint: &Checkpoint,
        signature: &[u8],
        certificate: &[u8],
    ) -> Result<(), SealError> {
        let signer = SignerCertificate::read(certificate)?;
        signer.verify(CHECKPOINT_LABEL, &checkpoint.encode(), signature)?;
        let operator = self.operator(&signer, checkpoint.at)?;
        if checkpoint.cluster != self.cluster {
            return Err(SealError::Cluster);
        }
        if checkpoint.operator != operator {
            return Err(SealError::Operator);
        }
        Ok(())
    }

    /// Whose certificate it is, if the operator CA has issued it and it counted at this time.
    fn operator(&self, signer: &SignerCertificate<'_>, at: Timestamp) -> Result<OperatorName, SealError> {
        let certificate = EndEntityCert::try_from(&signer.der).map_err(|_| SealError::Certificate)?;
        let seconds = u64::try_from(at.as_millis() / 1000).map_err(|_| SealError::Certificate)?;
        let signed_at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let anchor = webpki::anchor_from_trusted_cert(&self.issuer).map_err(|_| SealError::Issuer)?;
        certificate
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &[anchor],
                &[],
                signed_at,
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(|error| SealError::Untrusted(error.to_string()))?;
        operator_of(&certificate, self.cluster)
    }
}

/// A certificate that came with a signature, not trusted yet.
struct SignerCertificate<'a> {
    der: CertificateDer<'a>,
    key: VerifyingKey,
}

impl<'a> SignerCertificate<'a> {
    fn read(certificate: &'a [u8]) -> Result<Self, SealError> {
        if certificate.len() > limits::CERTIFICATE_BYTES_MAX {
            return Err(SealError::Certificate);
        }
        let der = CertificateDer::from(certificate);
        let parsed = EndEntityCert::try_from(&der).map_err(|_| SealError::Certificate)?;
        let spki = parsed.subject_public_key_info();
        let raw = spki.strip_prefix(&SPKI_PREFIX[..]).ok_or(SealError::Certificate)?;
        let key = VerifyingKey::from_bytes(raw.try_into().map_err(|_| SealError::Certificate)?)
            .map_err(|_| SealError::Certificate)?;
        Ok(Self { der, key })
    }

    /// That its key has signed these bytes.
    fn verify(&self, label: &[u8], payload: &[u8], signature: &[u8]) -> Result<(), SealError> {
        let signature = Signature::from_slice(signature).map_err(|_| SealError::Signature)?;
        self.key.verify_strict(&[label, payload].concat(), &signature).map_err(|_| SealError::Signature)
    }
}

fn operator_of(certificate: &EndEntityCert<'_>, cluster: ClusterId) -> Result<OperatorName, SealError> {
    let mut names = certificate.valid_uri_names();
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err(SealError::Certificate);
    };
    match name.parse().map_err(|_| SealError::Certificate)? {
        PeerName { cluster: its, peer: Peer::Operator(operator) } if its == cluster => Ok(operator),
        _ => Err(SealError::Certificate),
    }
}

/// Why a signed job is not what an operator of this cluster meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not PKCS#8, or not Ed25519.
    #[error("the signing key cannot be read: restore your configuration, or log in again with a new code")]
    Key,
    /// Not a certificate of ours.
    #[error("the certificate beside the job is not that of an operator")]
    Certificate,
    /// The pinned CA itself is damaged.
    #[error("the operator CA cannot be read: enrol this agent again")]
    Issuer,
    /// Altered, or signed by another key.
    #[error("the signature does not match what it stands under")]
    Signature,
    /// Not issued by the operator CA, or not valid when it signed.
    #[error(
        "the operator's certificate was not valid when the job was signed ({0}): set the clock, or log in again with a code from `muster operator add`"
    )]
    Untrusted(String),
    /// Meant for other hosts.
    #[error("the job is for another cluster")]
    Cluster,
    /// Signed by somebody else than it says.
    #[error("the job does not name the operator who signed it")]
    Operator,
    /// The payload.
    #[error(transparent)]
    Payload(#[from] WireError),
}
