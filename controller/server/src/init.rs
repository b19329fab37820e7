//! `muster-controller init`: a cluster from nothing, with its issuers, its store and its first operator.
//!
//! Everything is built in `<state>.new` and renamed at the end, so that an init that fails leaves nothing behind. The
//! operator's key is written into that user's configuration and nowhere else.

use crate::clock;
use crate::danger;
use crate::files::{self, Staged};
use crate::issuers::{IssueError, Issuers, IssuersError, PublicKey, RequestError, Validity};
use crate::settings::{self, OPERATORS_PORT, Settings, StateDir};
use muster_proto::context::{Config, Context};
use muster_proto::id::ClusterId;
use muster_proto::name::OperatorName;
use muster_proto::tls::certificate_to_pem;
use muster_store::{OpenError, OperatorError, Store};
use rcgen::{KeyPair, PKCS_ED25519};
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What to make.
#[derive(Debug, Clone)]
pub struct Init {
    /// Where the controller will keep everything.
    pub state: StateDir,
    /// The first operator.
    pub operator: OperatorName,
    /// How long the first operator's certificate counts.
    pub operator_validity: Duration,
    /// The configuration that gets the operator's key.
    pub config: PathBuf,
    /// The context's name in it.
    pub context: String,
    /// `HOST:PORT` under which the operators' listener will be reached.
    pub address: String,
}

/// What was made; its `Display` is what the user is told.
#[derive(Debug, Clone)]
pub struct Made {
    /// The new cluster.
    pub cluster: ClusterId,
    /// SHA-256 of the controller CA.
    pub pin: [u8; 32],
    init: Init,
    /// What `muster` must be told to find the new context, with a space before each.
    options: String,
}

impl Init {
    /// Makes it all, or nothing.
    pub async fn run(self) -> Result<Made, InitError> {
        self.check_state()?;
        let mut config = self.read_config()?;
        let state = self.state.path();
        let building = Building::start(state)?;
        let (context, pin, cluster) = self.build(&StateDir::new(&building.0)).await?;
        let mut options = String::new();
        if settings::config_file().as_ref() != Some(&self.config) {
            options += &format!(" --config {}", self.config.display());
        }
        if config.current.get_or_insert_with(|| self.context.clone()) != &self.context {
            options += &format!(" --context {}", self.context);
        }
        config.contexts.insert(self.context.clone(), context);
        let staged = self.stage_config(&config)?;

        let failed = |source| InitError::State { path: state.to_owned(), source };
        fs::rename(&building.0, state).map_err(failed)?;
        files::sync_parent(state).map_err(failed)?;
        if let Err(source) = staged.put() {
            // Without its operator the state is of no use to anybody.
            let _ = fs::remove_dir_all(state);
            return Err(InitError::Config { path: self.config, source });
        }
        Ok(Made { cluster, pin, init: self, options })
    }

    /// Where to listen so that operators get through to `address`: this machine may not know that name as its own.
    fn listener(&self) -> SocketAddr {
        let (host, port) = self.address.rsplit_once(':').unwrap_or((&self.address, ""));
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let ip = match bare.parse::<IpAddr>() {
            Ok(ip) if ip.is_loopback() => ip,
            Ok(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
            Err(_) if bare == "localhost" => Ipv4Addr::LOCALHOST.into(),
            Ok(IpAddr::V4(_)) | Err(_) => Ipv4Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(ip, port.parse().unwrap_or(OPERATORS_PORT))
    }

    fn read_config(&self) -> Result<Config, InitError> {
        let config = match fs::read_to_string(&self.config) {
            Ok(text) => Config::from_toml(&text).map_err(|error| InitError::ConfigForm {
                path: self.config.clone(),
                detail: error.message().to_owned(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Config::default(),
            Err(source) => return Err(InitError::Config { path: self.config.clone(), source }),
        };
        if config.contexts.contains_key(&self.context) {
            return Err(InitError::ContextExists { name: self.context.clone(), path: self.config.clone() });
        }
        Ok(config)
    }

    fn check_state(&self) -> Result<(), InitError> {
        let path = self.state.path().to_owned();
        if self.state.cluster().exists() {
            return Err(InitError::Initialised(path));
        }
        match fs::read_dir(&path).map(|mut entries| entries.next().is_some()) {
            Ok(true) => Err(InitError::NotEmpty(path)),
            Ok(false) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(InitError::State { path, source }),
        }
    }

    async fn build(&self, state: &StateDir) -> Result<(Context, [u8; 32], ClusterId), InitError> {
        let now = clock::now();
        let cluster = ClusterId::from_bytes(uuid::Uuid::new_v4().into_bytes());
        let issuers = Issuers::create(&state.ca(), cluster, now)?;
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(IssueError::from)?;
        let public = PublicKey::of(&key)?;
        let valid = Validity { from: now, span: self.operator_validity };
        let certificate = issuers.issue_operator(&public, self.operator.clone(), valid)?;

        let store = Store::open(state.path()).await?;
        let registered = store.register_operator(self.operator.clone(), public.fingerprint(), now).await;
        store.close().await;
        registered?;
        files::create_private(&state.danger(), danger::DEFAULTS.as_bytes())
            .map_err(|source| InitError::State { path: state.danger(), source })?;
        // Last: this file says that the directory is complete.
        files::create_private(&state.cluster(), format!("{cluster}\n").as_bytes())
            .map_err(|source| InitError::State { path: state.cluster(), source })?;

        let context = Context {
            controller: self.address.clone(),
            cluster: cluster.to_string(),
            operator: self.operator.to_string(),
            certificate: certificate_to_pem(&certificate),
            key: key.serialize_pem(),
            controller_ca: certificate_to_pem(issuers.controller_ca()),
            operator_ca: certificate_to_pem(issuers.operator_ca()),
        };
        Ok((context, issuers.pin(), cluster))
    }

    fn stage_config(&self, config: &Config) -> Result<Staged, InitError> {
        let failed = |source| InitError::Config { path: self.config.clone(), source };
        let text = config.to_toml().map_err(|error| failed(io::Error::other(error)))?;
        if let Some(directory) = self.config.parent().filter(|path| !path.as_os_str().is_empty() && !path.exists()) {
            files::create_private_dir(directory).map_err(failed)?;
        }
        Staged::write(&self.config, text.as_bytes(), 0o600).map_err(failed)
    }
}

/// The directory that becomes the state. It is removed unless it was renamed.
struct Building(PathBuf);

impl Building {
    fn start(state: &Path) -> Result<Self, InitError> {
        let mut path = state.as_os_str().to_owned();
        path.push(".new");
        let path = PathBuf::from(path);
        match files::create_private_dir(&path) {
            Ok(()) => Ok(Self(path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(InitError::UnderWay(path)),
            Err(source) => Err(InitError::State { path, source }),
        }
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, config) = (self.init.state.path().display(), self.init.config.display());
        let pin = self.pin.iter().fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        let listener = self.init.listener();
        let operators = if listener == Settings::at(self.init.state.clone()).operators {
            String::new()
        } else {
            format!(" --operators {listener}")
        };
        write!(
            f,
            "Cluster {cluster} is made.

  state     {state}
  operator  {operator}, context \"{name}\" in {config}
  pin       {cluster}:{pin}
            (for `muster-agent enroll --pin`; join tokens carry it)

The operators' CA key is kept on this controller: whoever takes this machine over can make
operators, and so run commands on every agent. Guard {state}/ca/operators.key.

Next, here and in another terminal:

  muster-controller serve --state {state}{operators}
  muster{options} token create
",
            cluster = self.cluster,
            operator = self.init.operator,
            options = self.options,
            name = self.init.context,
        )
    }
}

/// Nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is a cluster.
    #[error(
        "{path} is initialised already: start it with `muster-controller serve --state {path}`, or use another --state",
        path = .0.display()
    )]
    Initialised(PathBuf),
    /// There is something else.
    #[error("{} is not empty: use another --state", .0.display())]
    NotEmpty(PathBuf),
    /// There is another init, or what one left that was killed.
    #[error("{} exists: another init is under way, or one was killed; then remove it and try again", .0.display())]
    UnderWay(PathBuf),
    /// The configuration has such a context.
    #[error(
        "the context {name:?} exists in {path}: name another with --context, or remove it from the file",
        path = path.display()
    )]
    ContextExists {
        /// The context.
        name: String,
        /// The configuration.
        path: PathBuf,
    },
    /// It is not TOML, or not ours.
    #[error("{} is no Muster configuration ({detail}): repair it, or name another with --config", path.display())]
    ConfigForm {
        /// The configuration.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// It cannot be read or written.
    #[error("cannot write {}: name another file with --config", path.display())]
    Config {
        /// The configuration.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The state cannot be written.
    #[error("cannot write {}: run it as root, or name another directory with --state", path.display())]
    State {
        /// What of it.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The first operator.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The issuers.
    #[error(transparent)]
    Issuers(#[from] IssuersError),
    /// A certificate.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// A key.
    #[error(transparent)]
    Key(#[from] RequestError),
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use muster_proto::command::{Command, Program};
    use muster_proto::id::JobId;
    use muster_proto::job::{JobSpec, SignedJob, TargetsDigest, Work};
    use muster_proto::limits;
    use muster_proto::merkle::Hash;
    use muster_proto::seal::{OperatorTrust, Signer};
    use muster_proto::tls;
    use std::os::unix::fs::PermissionsExt as _;

    fn request(dir: &Path) -> Init {
        Init {
            state: StateDir::new(dir.join("state")),
            operator: "ada".parse().expect("a name"),
            operator_validity: Duration::from_hours(24),
            config: dir.join("config/config.toml"),
            context: "default".to_owned(),
            address: "127.0.0.1:7444".to_owned(),
        }
    }

    fn job() -> JobSpec {
        JobSpec {
            cluster: ClusterId::from_bytes([0; 16]),
            job: JobId::from_bytes([1; 16]),
            operator: "ada".parse().expect("a name"),
            created_at: clock::now(),
            start_before: clock::now() + limits::START_BEFORE_DEFAULT,
            deliver: limits::DELIVER_DEFAULT,
            targets: TargetsDigest { root: Hash::default(), count: 1 },
            rollout: muster_proto::rollout::Rollout::default(),
            rerun_of: None,
            work: Work::Command(Command::new(Program::Shell(b"true".to_vec()))),
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("a directory");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn init_makes_a_cluster_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let init = request(dir.path());
        let made = init.clone().run().await.expect("a cluster");
        assert_eq!(names(dir.path()), ["config", "state"]);
        let mode = |path: &Path| fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
        assert_eq!(mode(&init.config), 0o600);
        assert_eq!(mode(init.config.parent().expect("a directory")), 0o700);
        assert_eq!(mode(init.state.path()), 0o700);
        assert_eq!(mode(&init.state.ca().join("operators.key")), 0o600);
        assert!(made.to_string().contains(&format!("{}:", made.cluster)));

        let config = Config::from_toml(&fs::read_to_string(&init.config).expect("a file")).expect("a configuration");
        assert_eq!(config.current.as_deref(), Some("default"));
        let context = &config.contexts["default"];
        assert_eq!(context.cluster, made.cluster.to_string());
        let key = context.key.lines().nth(1).expect("a key");
        for file in ["muster.db", "ca/operators.key", "cluster"] {
            let content = fs::read(init.state.path().join(file)).expect("a file");
            assert!(!String::from_utf8_lossy(&content).contains(key), "the operator's key is in {file}");
        }

        assert!(matches!(init.clone().run().await, Err(InitError::Initialised(_))));
        let elsewhere = Init { state: StateDir::new(dir.path().join("second")), ..init.clone() };
        assert!(matches!(elsewhere.clone().run().await, Err(InitError::ContextExists { .. })));
        assert_eq!(names(dir.path()), ["config", "state"]);
        let second = Init { context: "second".to_owned(), ..elsewhere }.run().await.expect("another cluster");
        assert!(second.to_string().contains("--context second"));
        let config = Config::from_toml(&fs::read_to_string(&init.config).expect("a file")).expect("a configuration");
        assert_eq!(config.contexts.len(), 2);
        assert_eq!(config.current.as_deref(), Some("default"));
    }

    #[test]
    fn the_listener_fits_the_address() {
        for (address, listener) in [
            ("127.0.0.1:7444", "127.0.0.1:7444"),
            ("localhost:1", "127.0.0.1:1"),
            ("127.0.0.2:1", "127.0.0.2:1"),
            ("[::1]:1", "[::1]:1"),
            ("[2001:db8::1]:1", "[::]:1"),
            ("192.0.2.1:1", "0.0.0.0:1"),
            ("controller.example.org:7444", "0.0.0.0:7444"),
        ] {
            let init = Init { address: address.to_owned(), ..request(Path::new("/nonexistent")) };
            assert_eq!(init.listener().to_string(), listener, "{address}");
        }
    }

    #[tokio::test]
    async fn what_to_do_next_works_as_it_stands() {
        let dir = tempfile::tempdir().expect("a directory");
        let init = Init { address: "c:7444".to_owned(), ..request(dir.path()) };
        let (state, config) = (init.state.path().to_owned(), init.config.clone());
        let made = init.run().await.expect("a cluster").to_string();
        let serve = format!("muster-controller serve --state {} --operators 0.0.0.0:7444\n", state.display());
        assert!(made.contains(&serve), "{made}");
        assert!(made.contains(&format!("muster --config {} token create\n", config.display())), "{made}");
    }

    #[tokio::test]
    async fn a_failed_init_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("file"), "").expect("a file");
        let init = Init { config: dir.path().join("file/config.toml"), ..request(dir.path()) };
        assert!(matches!(init.run().await, Err(InitError::Config { .. })));
        fs::write(dir.path().join("bad.toml"), "current = 1").expect("a file");
        let init = Init { config: dir.path().join("bad.toml"), ..request(dir.path()) };
        assert!(matches!(init.run().await, Err(InitError::ConfigForm { .. })));
        assert_eq!(names(dir.path()), ["bad.toml", "file"]);
    }

    #[tokio::test]
    async fn the_first_operator_can_sign_jobs() {
        let dir = tempfile::tempdir().expect("a directory");
        let init = request(dir.path());
        init.clone().run().await.expect("a cluster");
        let config = Config::from_toml(&fs::read_to_string(&init.config).expect("a file")).expect("a configuration");
        let context = &config.contexts["default"];
        let mut job = job();
        job.cluster = context.cluster.parse().expect("an id");
        let signed = Signer::from_pem(&context.key, &context.certificate).expect("a signer").sign(&job);
        let ca = tls::certificate_from_pem(&context.operator_ca).expect("a CA");
        let trust = OperatorTrust::new(context.cluster.parse().expect("an id"), ca).expect("trust");
        assert_eq!(trust.open(&signed).expect("a valid job"), job);
        let altered = Bytes::from([&signed.payload[..], &[0]].concat());
        assert!(trust.open(&SignedJob { payload: altered, ..signed }).is_err());
    }
}
