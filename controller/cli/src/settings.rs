//! The user's configuration: where it is, how it is read, and how it is changed without losing anything.

use crate::args::Global;
use crate::client::Client;
use muster_proto::context::{Config, Context};
use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Which configuration and which controller the user means.
#[derive(Debug, Clone)]
pub struct Settings {
    path: PathBuf,
    context: Option<String>,
}

impl Settings {
    /// From the global options; what they leave open follows the XDG base directories.
    pub fn new(global: &Global) -> Result<Self, SettingsError> {
        // An empty variable is as good as none: that is how scripts unset them.
        let config = global.config.clone().or_else(|| env::var_os("MUSTER_CONFIG").map(PathBuf::from));
        let given = config.filter(|path| !path.as_os_str().is_empty());
        let path = given.or_else(default_path).ok_or(SettingsError::NoHome)?;
        let context = global.context.clone().or_else(|| env::var("MUSTER_CONTEXT").ok());
        Ok(Self { path, context: context.filter(|name| !name.is_empty()) })
    }

    /// The configuration file, which need not exist.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The context that was asked for by name.
    pub fn named_context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// The context that is meant: the one asked for, else the current one.
    pub fn context(&self) -> Result<Context, SettingsError> {
        let mut config = self.load()?;
        if config.contexts.is_empty() {
            let what = if self.path.exists() { "has no context" } else { "does not exist" };
            return Err(SettingsError::Nowhere { path: self.path.clone(), what });
        }
        let name = match (&self.context, &config.current) {
            (Some(name), _) | (None, Some(name)) => name.clone(),
            (None, None) => return Err(SettingsError::NoneCurrent { known: names(&config) }),
        };
        config.contexts.remove(&name).ok_or_else(|| SettingsError::Unknown { name, known: names(&config) })
    }

    /// Dials the controller that is meant.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.context()?).await?)
    }

    /// The whole configuration; an empty one if there is no file.
    pub fn load(&self) -> Result<Config, SettingsError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(cause) => return Err(SettingsError::Read { path: self.path.clone(), cause }),
        };
        Config::from_toml(&text)
            .map_err(|error| SettingsError::Form { path: self.path.clone(), why: error.message().to_owned() })
    }

    /// Changes the configuration so that a crash leaves the old one or the new one, and two changes at a time do not
    /// lose each other. Only the user can read the file: it holds keys.
    pub fn change<T>(&self, change: impl FnOnce(&mut Config) -> T) -> Result<T, SettingsError> {
        let write_error = |cause| SettingsError::Write { path: self.path.clone(), cause };
        let dir = directory_of(&self.path);
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(write_error)?;
        let lock = File::open(dir).map_err(write_error)?;
        lock.lock().map_err(write_error)?;
        let mut config = self.load()?;
        let result = change(&mut config);
        let text = config.to_toml().map_err(|error| write_error(io::Error::other(error)))?;
        replace(&self.path, &text).map_err(write_error)?;
        Ok(result)
    }
}

/// For the user alone.
const PRIVATE: u32 = 0o600;

fn open_private(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(true).write(true).mode(PRIVATE).open(path)
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A configuration that is a link stays one: dotfiles often live elsewhere.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let new = path.with_extension("new");
    let mut file = open_private(&new)?;
    file.set_permissions(fs::Permissions::from_mode(PRIVATE))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(directory_of(&path))?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn default_path() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(base.join("muster/config.toml"))
}

fn names(config: &Config) -> String {
    config.contexts.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// A program of ours: beside our own executable, else in `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    env::split_paths(&path_with_own_programs()).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// `PATH`, with the directory of our own executable before all others.
pub fn path_with_own_programs() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let own = env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    // A directory with a colon in its name cannot be in PATH.
    env::join_paths(own.into_iter().chain(env::split_paths(&path))).unwrap_or(path)
}

/// The name of the user who runs this, if the environment says.
pub fn user() -> Option<String> {
    ["USER", "LOGNAME"].into_iter().find_map(|name| env::var(name).ok()).map(|name| name.to_ascii_lowercase())
}

/// There is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Neither named nor derivable.
    #[error("where is the configuration? Set HOME, or name the file with --config")]
    NoHome,
    /// No context at all.
    #[error(
        "no controller is known: log in with `muster login CODE`, or make one with `muster-controller init` \
         ({} {what})", path.display()
    )]
    Nowhere {
        /// The file.
        path: PathBuf,
        /// Whether it is there at all.
        what: &'static str,
    },
    /// Several, none chosen.
    #[error("no context is current: choose one with --context ({known})")]
    NoneCurrent {
        /// Names to choose from.
        known: String,
    },
    /// A name that is not there.
    #[error("there is no context {name:?}: choose one of {known}, or log in with `muster login CODE --context {name}`")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Names to choose from.
        known: String,
    },
    /// The file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The file is no configuration.
    #[error("{} is no configuration of Muster ({why}): correct it, or remove it and log in again", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What the reader stumbled over.
        why: String,
    },
    /// The file cannot be written.
    #[error("cannot write {}: {cause}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(path: &Path, context: Option<&str>) -> Settings {
        let global = Global { config: Some(path.to_owned()), context: context.map(str::to_owned) };
        Settings::new(&global).expect("settings")
    }

    fn context(controller: &str) -> Context {
        let [cluster, operator, certificate, key, controller_ca, operator_ca] = Default::default();
        let controller = controller.to_owned();
        Context { controller, cluster, operator, certificate, key, controller_ca, operator_ca }
    }

    #[test]
    fn a_context_is_found_by_name_or_because_it_is_current() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("new/config.toml");
        let chosen = |name| settings(&path, name).context();
        for name in [None, Some("b")] {
            let refused = chosen(name).expect_err("nothing is known").to_string();
            assert!(refused.contains("new/config.toml does not exist"), "{refused}");
        }
        settings(&path, None).change(|_| ()).expect("written");
        let refused = chosen(Some("b")).expect_err("nothing is known").to_string();
        assert!(refused.contains("new/config.toml has no context"), "{refused}");
        settings(&path, None).change(|config| config.contexts.insert("a".into(), context("a:1"))).expect("written");
        assert!(matches!(chosen(None), Err(SettingsError::NoneCurrent { .. })));
        assert!(matches!(chosen(Some("b")), Err(SettingsError::Unknown { .. })));
        assert_eq!(chosen(Some("a")).expect("known").controller, "a:1");
        settings(&path, None).change(|config| config.current = Some("a".into())).expect("written");
        // Scripts unset a variable by making it empty.
        assert_eq!(chosen(Some("")).expect("current").controller, "a:1");
    }

    #[test]
    fn keys_are_for_the_user_alone_and_links_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let (link, real) = (dir.path().join("config.toml"), dir.path().join("real.toml"));
        fs::write(&real, "").expect("written");
        fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).expect("changed");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        settings(&link, None).change(|config| config.contexts.insert("a".into(), context("a:1"))).expect("written");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::metadata(&real).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(settings(&real, Some("a")).context().expect("known").controller, "a:1");
    }

    #[test]
    fn changes_at_the_same_time_are_all_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config.toml");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let settings = settings(&path, None);
                scope.spawn(move || {
                    let add = |config: &mut Config| config.contexts.insert(format!("c{number}"), context("c:1"));
                    settings.change(add).expect("written")
                });
            }
        });
        assert_eq!(settings(&path, None).load().expect("read").contexts.len(), 8);
    }

    #[test]
    fn a_damaged_file_is_named_and_not_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config.toml");
        fs::write(&path, "contexts = 3").expect("written");
        let error = settings(&path, None).change(|_| ()).expect_err("refused");
        assert!(error.to_string().contains("config.toml"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("read"), "contexts = 3");
    }
}
