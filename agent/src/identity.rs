//! Who this agent is, as files: `<state>/identity/` with key, certificate, the two issuers it trusts, `agent.conf`, and the
//! nonce of its last session.
//!
//! The directory appears by one rename of a directory that is complete and on disk, so that a crash leaves either no
//! identity or a whole one.

mod next;

use muster_proto::id::{AgentId, ClusterId};
use muster_proto::link::Nonce;
use muster_proto::name::HostName;
use muster_proto::seal::{OperatorTrust, SealError};
use muster_proto::tls::{self, Certificate, TlsError};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

pub use next::{Next, Pair};

/// An enrolled agent's name, key and trust.
#[derive(Clone)]
pub struct Identity {
    /// The name it enrolled with.
    pub name: HostName,
    /// Its id; never used again for another.
    pub agent: AgentId,
    /// The installation it belongs to.
    pub cluster: ClusterId,
    /// `HOST:PORT` of the controller's listener for agents.
    pub controller: String,
    /// PKCS#8, PEM.
    pub key: String,
    /// Its certificate, PEM.
    pub certificate: String,
    /// Who issues controllers, PEM.
    pub controller_ca: String,
    /// Who issues operators, PEM.
    pub operator_ca: String,
}

const DIRECTORY: &str = "identity";
const NONCE: &str = "nonce";
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

impl Identity {
    /// Reads the identity in a state directory; `None` if it was never enrolled.
    pub fn load(state: &Path) -> Result<Option<Self>, IdentityError> {
        let directory = state.join(DIRECTORY);
        let read = |file: &str| {
            let path = directory.join(file);
            fs::read_to_string(&path).map_err(|source| IdentityError::Io { path, source })
        };
        match directory.try_exists() {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(source) => return Err(IdentityError::Io { path: directory, source }),
        }
        let conf = read("agent.conf")?;
        let damaged = || IdentityError::Damaged { path: directory.join("agent.conf") };
        let value = |key: &str| {
            let lines = conf.lines().filter_map(|line| line.split_once('='));
            lines.map(|(k, v)| (k.trim(), v.trim())).find(|(k, _)| *k == key).map(|(_, v)| v).ok_or_else(damaged)
        };
        Ok(Some(Self {
            name: value("name")?.parse().map_err(|_| damaged())?,
            agent: value("agent")?.parse().map_err(|_| damaged())?,
            cluster: value("cluster")?.parse().map_err(|_| damaged())?,
            controller: value("controller")?.to_owned(),
            key: read("key.pem")?,
            certificate: read("agent.crt")?,
            controller_ca: read("controller-ca.crt")?,
            operator_ca: read("operator-ca.crt")?,
        }))
    }

    /// Writes the identity of a state directory that has none.
    pub fn store(&self, state: &Path) -> Result<(), IdentityError> {
        let directory = state.join("identity.new");
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Io { path, source }
        };
        create_private(state).map_err(at(state))?;
        if directory.exists() {
            fs::remove_dir_all(&directory).map_err(at(&directory))?;
        }
        create_private(&directory).map_err(at(&directory))?;
        let conf = format!(
            "# Written by `muster-agent enroll`.\nname = {}\nagent = {}\ncluster = {}\ncontroller = {}\n",
            self.name, self.agent, self.cluster, self.controller
        );
        let files = [
            ("key.pem", &self.key, PRIVATE),
            ("agent.crt", &self.certificate, PUBLIC),
            ("controller-ca.crt", &self.controller_ca, PUBLIC),
            ("operator-ca.crt", &self.operator_ca, PUBLIC),
            ("agent.conf", &conf, PUBLIC),
        ];
        for (name, text, mode) in files {
            let path = directory.join(name);
            write_durable(&path, text.as_bytes(), mode).map_err(at(&path))?;
        }
        sync(&directory).map_err(at(&directory))?;
        let home = state.join(DIRECTORY);
        fs::rename(&directory, &home).map_err(at(&home))?;
        sync(state).map_err(at(state))
    }

    /// What the last session handed out; `None` if there was none. A file that is there and cannot be read is an error:
    /// whoever dials without its nonce is taken for a copy.
    pub fn load_nonce(state: &Path) -> Result<Option<Nonce>, IdentityError> {
        let path = state.join(DIRECTORY).join(NONCE);
        match fs::read_to_string(&path) {
            Ok(text) => parse_nonce(&text).map(Some).ok_or(IdentityError::Nonce { path }),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) if source.kind() == io::ErrorKind::InvalidData => Err(IdentityError::Nonce { path }),
            Err(source) => Err(IdentityError::Io { path, source }),
        }
    }

    /// Keeps the nonce of a session. Durable when it returns.
    pub fn store_nonce(state: &Path, nonce: Nonce) -> Result<(), IdentityError> {
        let directory = state.join(DIRECTORY);
        let path = directory.join(NONCE);
        let text = format!("{} {:032x}\n", nonce.epoch, u128::from_be_bytes(nonce.mac));
        replace(&path, text.as_bytes(), PRIVATE)
            .and_then(|()| sync(&directory))
            .map_err(|source| IdentityError::Io { path, source })
    }

    /// Whose signatures this agent obeys.
    pub fn operator_trust(&self) -> Result<OperatorTrust, SealError> {
        let issuer = tls::certificate_from_pem(&self.operator_ca).map_err(|_| SealError::Issuer)?;
        OperatorTrust::new(self.cluster, issuer)
    }

    /// The certificate of those who issue controllers.
    pub fn controller_issuer(&self) -> Result<Certificate<'static>, TlsError> {
        tls::certificate_from_pem(&self.controller_ca)
    }
}

/// Makes a directory, with its parents, that only its owner may enter. One that exists is left as it is.
pub fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn write_durable(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Whole or not at all, under a name that may exist. Durable once the directory is.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = path.with_added_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => write_durable(&new, bytes, mode)?,
    }
    fs::rename(new, path)
}

fn parse_nonce(text: &str) -> Option<Nonce> {
    let (epoch, mac) = text.trim_end().split_once(' ')?;
    let mac = u128::from_str_radix(mac, 16).ok().filter(|_| mac.len() == 32)?;
    Some(Nonce { epoch: epoch.parse().ok()?, mac: mac.to_be_bytes() })
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The identity cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file.
    #[error("cannot use {}: check its owner and permissions, or give another --state", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was issued is for another key, or not for TLS.
    #[error(
        "the certificate that the controller issued does not fit the key: check that agent and controller are of one release"
    )]
    Unfit,
    /// Not what a session wrote.
    #[error(
        "{} is damaged: put it back, or remove it and start again; then the controller takes this agent for a copy until \
         `muster agents resolve NAME --keep` says that it is none",
        path.display()
    )]
    Nonce {
        /// Which.
        path: PathBuf,
    },
    /// Not what `enroll` wrote.
    #[error("{} is damaged: remove the identity directory and enrol again", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn identity() -> Identity {
        Identity {
            name: "web01".parse().expect("a name"),
            agent: AgentId::from_bytes([1; 16]),
            cluster: ClusterId::from_bytes([2; 16]),
            controller: "[::1]:7443".to_owned(),
            key: "key".to_owned(),
            certificate: "certificate".to_owned(),
            controller_ca: "controller".to_owned(),
            operator_ca: "operator".to_owned(),
        }
    }

    #[test]
    fn what_was_stored_is_loaded_and_the_key_is_private() {
        let root = tempfile::tempdir().expect("a directory");
        let state = root.path().join("a/b");
        assert!(Identity::load(&state).expect("nothing to read").is_none());
        identity().store(&state).expect("stored");
        let loaded = Identity::load(&state).expect("loaded").expect("enrolled");
        assert_eq!(
            (loaded.name, loaded.agent, loaded.cluster),
            (identity().name, identity().agent, identity().cluster)
        );
        assert_eq!((loaded.controller.as_str(), loaded.operator_ca.as_str()), ("[::1]:7443", "operator"));
        let mode = |path: &str| fs::metadata(state.join(path)).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(""), mode("identity"), mode("identity/key.pem")), (0o700, 0o700, 0o600));
    }

    #[test]
    fn a_crash_before_the_rename_leaves_nothing_and_is_no_obstacle() {
        let root = tempfile::tempdir().expect("a directory");
        create_private(&root.path().join("identity.new")).expect("made");
        fs::write(root.path().join("identity.new/key.pem"), "half").expect("written");
        assert!(Identity::load(root.path()).expect("nothing to read").is_none());
        identity().store(root.path()).expect("stored");
        assert_eq!(Identity::load(root.path()).expect("loaded").expect("enrolled").key, "key");
    }

    #[test]
    fn a_nonce_is_kept_over_a_crash_and_replaced_whole() {
        let root = tempfile::tempdir().expect("a directory");
        identity().store(root.path()).expect("stored");
        assert_eq!(Identity::load_nonce(root.path()).expect("nothing to read"), None);
        let path = root.path().join("identity/nonce");
        for epoch in [1, u64::MAX] {
            let nonce = Nonce { epoch, mac: [7; 16] };
            Identity::store_nonce(root.path(), nonce).expect("stored");
            fs::write(path.with_added_extension("new"), "half").expect("a crash");
            assert_eq!(Identity::load_nonce(root.path()).expect("readable"), Some(nonce));
        }
    }

    #[test]
    fn a_nonce_that_cannot_be_read_is_not_taken_for_none() {
        let root = tempfile::tempdir().expect("a directory");
        identity().store(root.path()).expect("stored");
        let path = root.path().join("identity/nonce");
        let error = || Identity::load_nonce(root.path()).expect_err("not a nonce").to_string();
        for bad in ["", "7", "7 0", "x 00000000000000000000000000000000", "7 -0000000000000000000000000000001"] {
            fs::write(&path, bad).expect("written");
            assert!(error().contains("identity/nonce is damaged: put it back"), "{bad}: {}", error());
        }
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        assert!(error().contains("identity/nonce: check its owner"), "{}", error());
    }

    #[test]
    fn a_damaged_file_is_named() {
        let root = tempfile::tempdir().expect("a directory");
        identity().store(root.path()).expect("stored");
        fs::write(root.path().join("identity/agent.conf"), "name = web01\nagent = x\n").expect("written");
        assert!(matches!(Identity::load(root.path()), Err(IdentityError::Damaged { .. })));
        fs::remove_file(root.path().join("identity/key.pem")).expect("removed");
        identity().store(&root.path().join("other")).expect("stored");
        fs::remove_file(root.path().join("other/identity/key.pem")).expect("removed");
        let error = Identity::load(&root.path().join("other")).err().expect("no key");
        assert!(error.to_string().contains("key.pem"), "{error}");
    }
}
