//! A controller by itself, for tests that need its options, other people's keys, or agents that come one by one.

use crate::program::{Program, Run, bin};
use crate::{Ports, Restarted, address_of, until};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A cluster with one operator, `ada`, and no agents. It ends with the value.
pub struct Controller {
    dir: TempDir,
    state: PathBuf,
    child: Child,
    pin: String,
}

impl Controller {
    /// Makes a cluster and serves it with these further options of `muster-controller serve`.
    pub fn start<'a>(options: impl IntoIterator<Item = &'a str>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let state = dir.path().join("controller");
        Self::start_with(dir, state, options)
    }

    /// The same, with its state on some disk and everything else elsewhere.
    pub fn start_on(disk: &Path) -> Self {
        Self::start_with(tempfile::tempdir().expect("a temporary directory"), disk.join("controller"), [])
    }

    fn start_with<'a>(dir: TempDir, state: PathBuf, options: impl IntoIterator<Item = &'a str>) -> Self {
        let path = |name: &str| dir.path().join(name);
        let init = Program::new("muster-controller")
            .args(["init", "--operator", "ada", "--context", "dev", "--state"])
            .args([&state])
            .args(["--config"])
            .args([path("config.toml")])
            .run();
        assert_eq!(init.status, 0, "{init}");
        let pin = init.out().split_whitespace().find(|word| word.len() == 26 + 1 + 64).expect("a pin").to_owned();
        let child = serve(&state, &path("controller.log"), &["127.0.0.1:0"; 3].map(str::to_owned), options);
        let controller = Self { dir, state, child, pin };
        let config = controller.path("config.toml");
        let text = fs::read_to_string(&config).expect("a configuration");
        fs::write(&config, text.replace("127.0.0.1:7444", &controller.address("operators"))).expect("written");
        controller
    }

    /// A file of this cluster: `config.toml`, `controller.log`, what a test puts there.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `HOST:PORT` of a listener: `agents`, `operators` or `enrolment`.
    pub fn address(&self, listener: &str) -> String {
        address_of(&self.state, listener)
    }

    /// Its state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Where it listens. To be asked while it does.
    pub fn ports(&self) -> Ports {
        Ports::of(&self.state)
    }

    /// Ends it with KILL. Until [`Controller::serve_again`] nothing but files can be asked for.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Has it end as at SIGTERM: all that it knows is in its files then.
    pub fn end(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }

    /// Serves again after [`Controller::kill`], with the same addresses.
    pub fn serve_again(&mut self, ports: &Ports) {
        self.serve_again_with(ports, []);
    }

    /// The same, with these further options.
    pub fn serve_again_with<'a>(&mut self, Ports(ports): &Ports, options: impl IntoIterator<Item = &'a str>) {
        self.child = serve(&self.state, &self.path("controller.log"), ports, options);
    }

    /// `CLUSTER:SHA256HEX`, as `init` printed it.
    pub fn pin(&self) -> &str {
        &self.pin
    }

    /// `muster` with these arguments, as `ada`.
    pub fn program<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Program {
        Program::new("muster").args(args).env("MUSTER_CONFIG", self.path("config.toml"))
    }

    /// Runs `muster` with these arguments to its end, as `ada`.
    pub fn muster<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Run {
        self.program(args).run()
    }

    /// Makes a join token with these options.
    pub fn token<'a>(&self, options: impl IntoIterator<Item = &'a str>) -> String {
        let run = self.program(["token", "create"]).args(options).run();
        assert_eq!(run.status, 0, "{run}");
        run.out().trim().to_owned()
    }

    /// Tries to enrol an agent of this name with this token; its state will be below our directory.
    pub fn enrol(&self, name: &str, token: &str) -> Run {
        enrol(&self.address("enrolment"), &self.path(name), name, token)
    }

    /// Runs an agent that is enrolled under this name. What it logs goes to `<name>.log`.
    pub fn run_agent(&self, name: &str) -> Restarted {
        Restarted::start(&self.path(name))
    }
}

/// Tries to enrol an agent somewhere with a token.
pub fn enrol(address: &str, state: &Path, name: &str, token: &str) -> Run {
    Program::new("muster-agent")
        .args(["enroll", "--controller", address, "--token-file", "-", "--name", name, "--state"])
        .args([state])
        .stdin(token)
        .run()
}

impl Drop for Controller {
    fn drop(&mut self) {
        // Its directory is removed after that.
        self.end();
    }
}

/// Serves with these addresses of the listeners for agents, operators and enrolment, and waits until it listens.
fn serve<'a>(state: &Path, log: &Path, at: &[String; 3], options: impl IntoIterator<Item = &'a str>) -> Child {
    let log = File::options().create(true).append(true).open(log).expect("a log");
    let addresses = state.join("addresses.toml");
    // The word of one that was killed must not be taken for that of the next.
    let _ = fs::remove_file(&addresses);
    let child = Command::new(bin("muster-controller"))
        .args(["serve", "--exit-on-stdin-eof", "--agents", &at[0], "--operators", &at[1], "--enrolment", &at[2]])
        .args(options)
        .arg("--state")
        .arg(state)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the controller starts");
    until(Duration::from_secs(30), "the controller listens", || addresses.exists());
    child
}
