//! The change from one key to the next, so that a crash at any moment leaves an identity that can be used.
//!
//! ```text
//! next.key ──▶ request ──▶ next.crt ──▶ the controller welcomed it ──▶ agent.crt, key.pem
//! ```
//!
//! A key belongs to the certificate that was issued for it, under whatever name the two stand. So it does not matter how
//! many of the last two renames a power cut let through, and in which order.

use super::{DIRECTORY, IdentityError, PRIVATE, PUBLIC, replace, sync};
use muster_proto::tls::{self, Certificate};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const KEY: &str = "key.pem";
const CERTIFICATE: &str = "agent.crt";
const NEXT_KEY: &str = "next.key";
const NEXT_CERTIFICATE: &str = "next.crt";

/// A private key and the certificate for it, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// PKCS#8.
    pub key: String,
    /// For its public half.
    pub certificate: String,
}

/// The place of an identity's successor. Only the agent that holds the state directory may use it.
#[derive(Clone)]
pub struct Next {
    directory: PathBuf,
    /// A pair of which it is known that both parts fit must fit this, too.
    issuer: Certificate<'static>,
}

/// A change of one file. Each is atomic.
enum Step<'a> {
    Write(&'static str, &'a str, u32),
    Rename(&'static str, &'static str),
    Remove(&'static str),
}

impl Next {
    /// Of the identity in this state directory; `issuer` is who issues controllers.
    pub fn of(state: &Path, issuer: Certificate<'static>) -> Self {
        Self { directory: state.join(DIRECTORY), issuer }
    }

    /// Finishes a change that a crash interrupted; then `key.pem` and `agent.crt` belong together.
    pub fn settle(&self) -> Result<(), IdentityError> {
        let (keys, certificates) = ([KEY, NEXT_KEY], [CERTIFICATE, NEXT_CERTIFICATE]);
        let [key, next_key] = keys.map(|name| self.read(name));
        let [certificate, next_certificate] = certificates.map(|name| self.read(name));
        let fits = |certificate: &Option<String>, key: &Option<String>| self.fits(certificate.as_ref(), key.as_ref());
        if fits(&certificate, &key) {
            Ok(())
        } else if fits(&certificate, &next_key) {
            self.take(&[Step::Rename(NEXT_KEY, KEY)])
        } else if fits(&next_certificate, &key) {
            self.take(&[Step::Rename(NEXT_CERTIFICATE, CERTIFICATE)])
        } else if fits(&next_certificate, &next_key) {
            self.promote()
        } else {
            // Nothing fits: whoever uses it says why.
            Ok(())
        }
    }

    /// The successor, if it is complete.
    pub fn load(&self) -> Option<Pair> {
        let (key, certificate) = (self.read(NEXT_KEY), self.read(NEXT_CERTIFICATE));
        let fits = self.fits(certificate.as_ref(), key.as_ref());
        key.zip(certificate).filter(|_| fits).map(|(key, certificate)| Pair { key, certificate })
    }

    /// Keeps a key for which a certificate is about to be asked.
    pub fn begin(&self, key: &str) -> Result<(), IdentityError> {
        self.settle()?;
        self.take(&Self::beginning(key))
    }

    /// Keeps the certificate for it: from here on the pair may be used.
    pub fn complete(&self, pair: &Pair) -> Result<(), IdentityError> {
        if !self.fits(Some(&pair.certificate), Some(&pair.key)) {
            return Err(IdentityError::Unfit);
        }
        self.take(&Self::completion(&pair.certificate))
    }

    /// The controller takes the successor, and from now on nothing else.
    pub fn promote(&self) -> Result<(), IdentityError> {
        self.take(&Self::PROMOTION)
    }

    /// The controller does not know the successor.
    pub fn discard(&self) -> Result<(), IdentityError> {
        self.settle()?;
        self.take(&Self::DISPOSAL)
    }

    const fn beginning(key: &str) -> [Step<'_>; 2] {
        [Step::Remove(NEXT_CERTIFICATE), Step::Write(NEXT_KEY, key, PRIVATE)]
    }

    const fn completion(certificate: &str) -> [Step<'_>; 1] {
        [Step::Write(NEXT_CERTIFICATE, certificate, PUBLIC)]
    }

    const PROMOTION: [Step<'static>; 2] = [Step::Rename(NEXT_CERTIFICATE, CERTIFICATE), Step::Rename(NEXT_KEY, KEY)];
    const DISPOSAL: [Step<'static>; 2] = [Step::Remove(NEXT_CERTIFICATE), Step::Remove(NEXT_KEY)];

    fn take(&self, steps: &[Step<'_>]) -> Result<(), IdentityError> {
        let at = |name: &str| self.directory.join(name);
        for step in steps {
            let (path, done) = match step {
                Step::Write(name, text, mode) => (at(name), replace(&at(name), text.as_bytes(), *mode)),
                Step::Rename(from, to) => (at(from), missing_is_done(fs::rename(at(from), at(to)))),
                Step::Remove(name) => (at(name), missing_is_done(fs::remove_file(at(name)))),
            };
            done.map_err(|source| IdentityError::Io { path, source })?;
        }
        sync(&self.directory).map_err(|source| IdentityError::Io { path: self.directory.clone(), source })
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.directory.join(name)).ok()
    }

    fn fits(&self, certificate: Option<&String>, key: Option<&String>) -> bool {
        let pair = certificate.zip(key);
        let own = pair.and_then(|(certificate, key)| tls::Identity::from_pem(certificate, key).ok());
        // It compares the public keys.
        own.is_some_and(|own| tls::client_config(own, &self.issuer).is_ok())
    }
}

/// A step may have been taken before, and one after it failed.
fn missing_is_done(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    struct Ca(CertificateParams, KeyPair, rcgen::Certificate);

    impl Ca {
        fn new() -> Self {
            let (mut params, key) = (CertificateParams::default(), key());
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            let certificate = params.self_signed(&key).expect("a CA");
            Self(params, key, certificate)
        }

        fn pair(&self) -> Pair {
            let key = key();
            let issuer = Issuer::new(self.0.clone(), &self.1);
            let certificate = CertificateParams::default().signed_by(&key, &issuer).expect("issued").pem();
            Pair { key: key.serialize_pem(), certificate }
        }
    }

    fn key() -> KeyPair {
        KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key")
    }

    /// An identity directory with this pair and no successor.
    fn place(ca: &Ca, pair: &Pair) -> (tempfile::TempDir, Next) {
        let root = tempfile::tempdir().expect("a directory");
        let next = Next::of(root.path(), ca.2.der().clone());
        fs::create_dir(&next.directory).expect("made");
        fs::write(next.directory.join(KEY), &pair.key).expect("written");
        fs::write(next.directory.join(CERTIFICATE), &pair.certificate).expect("written");
        (root, next)
    }

    /// What a start finds: the current pair, then its successor.
    fn start(next: &Next) -> (Pair, Option<Pair>) {
        next.settle().expect("settled");
        let [key, certificate] = [KEY, CERTIFICATE].map(|name| next.read(name).expect("there"));
        assert!(next.fits(Some(&certificate), Some(&key)), "the current pair is usable");
        (Pair { key, certificate }, next.load())
    }

    #[test]
    fn killed_at_any_step_it_leaves_an_identity_that_the_controller_takes() {
        let ca = Ca::new();
        let [old, new] = [ca.pair(), ca.pair()];
        let steps = || {
            let (begin, complete) = (Next::beginning(&new.key), Next::completion(&new.certificate));
            begin.into_iter().chain(complete).chain(Next::PROMOTION)
        };
        // The controller takes the new pair alone once it was used, which is before the first step of the promotion.
        let (complete, used) = (3, 3);
        for killed_after in 0..=steps().count() {
            let (_root, next) = place(&ca, &old);
            next.take(&steps().take(killed_after).collect::<Vec<_>>()).expect("done");
            let (current, successor) = start(&next);
            let newest = successor.clone().unwrap_or_else(|| current.clone());
            assert!(newest == if killed_after >= complete { new.clone() } else { old.clone() }, "{killed_after}");
            assert!(killed_after > used || current == old, "the old one stays until the new one was used");
            // Whichever the controller takes, the next change begins from there.
            if successor.is_some() && killed_after == complete {
                next.discard().expect("discarded");
                assert!(start(&next) == (old.clone(), None));
            }
            let third = ca.pair();
            next.begin(&third.key).expect("begun");
            next.complete(&third).expect("complete");
            next.promote().expect("promoted");
            next.promote().expect("it may be repeated");
            assert!(start(&next) == (third, None));
        }
    }

    #[test]
    fn a_power_cut_may_let_through_any_of_the_last_renames() {
        let ca = Ca::new();
        let [old, new] = [ca.pair(), ca.pair()];
        for through in [[true, false], [false, true], [true, true]] {
            let (_root, next) = place(&ca, &old);
            next.begin(&new.key).expect("begun");
            next.complete(&new).expect("complete");
            let some: Vec<_> = Next::PROMOTION.into_iter().zip(through).filter(|(_, through)| *through).collect();
            next.take(&some.into_iter().map(|(step, _)| step).collect::<Vec<_>>()).expect("done");
            assert!(start(&next) == (new.clone(), None));
        }
    }

    #[test]
    fn a_certificate_for_another_key_is_not_kept() {
        let ca = Ca::new();
        let [old, new, other] = [ca.pair(), ca.pair(), ca.pair()];
        let (_root, next) = place(&ca, &old);
        next.begin(&new.key).expect("begun");
        let mixed = Pair { key: new.key, certificate: other.certificate };
        assert!(matches!(next.complete(&mixed), Err(IdentityError::Unfit)));
        assert!(start(&next) == (old, None));
    }
}
