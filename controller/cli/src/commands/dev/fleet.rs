//! The processes of `muster dev`: started in order, proven to be connected, ended without a trace.

use crate::args::Global;
use crate::client::Client;
use crate::settings::{self, Settings};
use crate::show;
use anyhow::{Context as _, bail};
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use muster_proto::context::Addresses;
use muster_proto::job::JobList;
use muster_proto::limits;
use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::signal::unix::SignalKind;
use tokio::time::{Instant, sleep, timeout};

/// The whole start: generous, because a laptop may be busy compiling.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Agents that are being enrolled at a time: each is a process that makes a key.
const STARTS_MAX: usize = 16;
/// Between two looks at something that is about to happen.
const LOOK: Duration = Duration::from_millis(10);
/// For cancelled tasks to die: their grace and a little.
const CANCEL_LIMIT: Duration = Duration::from_secs(15);
/// For a process to end by itself when its stdin closes, and after TERM.
const END_LIMIT: Duration = Duration::from_millis(2_500);
/// Lines of a log that are shown when something did not start.
const LOG_LINES: usize = 10;

/// A controller with its agents.
pub struct Fleet {
    home: PathBuf,
    context: &'static str,
    client: Option<Client>,
    controller: Option<Process>,
    agents: Vec<Process>,
}

impl Fleet {
    /// Nothing runs yet. All states go below `home`.
    pub fn new(home: &Path, context: &'static str) -> Self {
        Self { home: home.to_owned(), context, client: None, controller: None, agents: Vec::new() }
    }

    /// Starts everything; when it returns, all agents are connected.
    pub async fn start(&mut self, agents: u16) -> anyhow::Result<()> {
        let limit = Instant::now() + START_LIMIT;
        let addresses = self.start_controller(limit).await?;
        let settings = Settings::new(&Global {
            context: Some(self.context.to_owned()),
            config: Some(self.home.join("config.toml")),
        })?;
        settings.change(|config| {
            for context in config.contexts.values_mut() {
                context.controller = addresses.operators.to_string();
            }
        })?;
        let client = self.client.insert(settings.connect().await?).clone();
        let starts = (1..=agents).map(|slot| start_agent(&self.home, &client, &addresses, slot));
        self.agents = stream::iter(starts).buffer_unordered(STARTS_MAX).try_collect().await?;
        while client.whoami().await?.connected < u32::from(agents) {
            for process in &mut self.agents {
                process.check()?;
            }
            if Instant::now() > limit {
                bail!("not all agents connected within {} s: see the logs with --state DIR", START_LIMIT.as_secs());
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    async fn start_controller(&mut self, limit: Instant) -> anyhow::Result<Addresses> {
        let program = program("muster-controller")?;
        let state = self.home.join("controller");
        let user = settings::user().filter(|name| name.parse::<muster_proto::name::OperatorName>().is_ok());
        let mut init = Command::new(&program);
        init.arg("init").arg("--state").arg(&state).arg("--config").arg(self.home.join("config.toml"));
        init.args(["--context", self.context, "--operator", user.as_deref().unwrap_or("dev")]);
        Process::start(init, &self.home, "controller")?.finish(b"").await?;

        let mut serve = Command::new(&program);
        serve.arg("serve").arg("--state").arg(&state).arg("--exit-on-stdin-eof");
        for listener in ["--agents", "--operators", "--enrolment"] {
            serve.args([listener, "127.0.0.1:0"]);
        }
        let controller = self.controller.insert(Process::start(serve, &self.home, "controller")?);
        loop {
            // The file appears whole, once all listeners are bound.
            if let Ok(text) = fs::read_to_string(state.join("addresses.toml")) {
                return Addresses::from_toml(&text).context("the controller's addresses cannot be read");
            }
            controller.check()?;
            if Instant::now() > limit {
                return Err(controller.failed("does not listen"));
            }
            sleep(LOOK).await;
        }
    }

    /// Cancels what runs, ends all processes, and returns when none is left.
    pub async fn end(&mut self) {
        if let Some(client) = self.client.take() {
            let why = match timeout(CANCEL_LIMIT, cancel_all(&client)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("not all had ended after {} s", CANCEL_LIMIT.as_secs())),
            };
            if let Some(why) = why {
                show::note(&format!("dev: jobs could not be cancelled, what they started may still run here ({why})"));
            }
        }
        join_all(self.agents.drain(..).map(Process::end)).await;
        if let Some(controller) = self.controller.take() {
            controller.end().await;
        }
    }
}

/// Enrols an agent with a token of its own and runs it.
async fn start_agent(home: &Path, client: &Client, addresses: &Addresses, slot: u16) -> anyhow::Result<Process> {
    let program = program("muster-agent")?;
    let name = format!("dev-{slot}");
    let labels = crate::args::labels(&format!("env=dev,slot={slot}")).map_err(anyhow::Error::msg)?;
    let token = client.create_token(&labels, START_LIMIT, 1).await?;
    let state = home.join(&name);
    let mut enroll = Command::new(&program);
    enroll.arg("enroll").arg("--state").arg(&state).args(["--name", &name, "--token-file", "-"]);
    enroll.args(["--controller", &addresses.enrolment.to_string()]);
    Process::start(enroll, home, &name)?.finish(token.word.as_bytes()).await?;
    let mut run = Command::new(&program);
    run.arg("run").arg("--state").arg(&state).arg("--exit-on-stdin-eof");
    Process::start(run, home, &name)
}

async fn cancel_all(client: &Client) -> anyhow::Result<()> {
    let mut asked = HashSet::new();
    loop {
        let open = client.jobs(JobList::Unfinished, limits::JOBS_LISTED_MAX).await?;
        if open.is_empty() {
            return Ok(());
        }
        if asked.is_empty() {
            show::note("dev: cancelling what still runs");
        }
        // A list may leave out those that came before it.
        let fresh: Vec<_> = open.into_iter().map(|job| job.job).filter(|job| asked.insert(*job)).collect();
        try_join_all(fresh.into_iter().map(|job| client.cancel(job))).await?;
        sleep(LOOK).await;
    }
}

fn program(name: &str) -> anyhow::Result<PathBuf> {
    settings::program(name)
        .with_context(|| format!("{name} is neither beside this program nor in PATH: install or build it first"))
}

/// A process of ours, which ends when its stdin does.
struct Process {
    child: Child,
    log: PathBuf,
    name: String,
}

impl Process {
    /// Starts it with its words going to `<name>.log`.
    fn start(mut command: Command, home: &Path, name: &str) -> anyhow::Result<Self> {
        let log = home.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).context("cannot write a log")?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(file.try_clone().context("cannot write a log")?)
            .stderr(file)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", command.as_std().get_program().display()))?;
        Ok(Self { child, log, name: name.to_owned() })
    }

    /// Hands it all its input and waits until it has ended well.
    async fn finish(mut self, input: &[u8]) -> anyhow::Result<()> {
        if let Some(mut stdin) = self.child.stdin.take() {
            // One that has ended already says why in its log.
            let _ = stdin.write_all(input).await;
        }
        let status = timeout(START_LIMIT, self.child.wait()).await.map_err(|_| self.failed("does not end"))??;
        if status.success() { Ok(()) } else { Err(self.failed(&format!("ended: {status}"))) }
    }

    /// Fails if it has ended.
    fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => Err(self.failed(&format!("ended: {status}"))),
            None => Ok(()),
        }
    }

    /// What happened, with the end of its log: the directory may be gone when somebody wants to look.
    fn failed(&self, what: &str) -> anyhow::Error {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
        anyhow::anyhow!("{} {what}; the end of its log:\n  {last}", self.name)
    }

    /// Closes its stdin, then asks, then kills; returns when it is gone.
    async fn end(mut self) {
        drop(self.child.stdin.take());
        if timeout(END_LIMIT, self.child.wait()).await.is_ok() {
            return;
        }
        send(&self.child, SignalKind::terminate());
        if timeout(END_LIMIT, self.child.wait()).await.is_err() {
            // It can only fail when the process has ended meanwhile.
            let _ = self.child.kill().await;
        }
    }
}

/// Sends a signal to a child that was not waited for; its number cannot belong to anybody else.
pub fn send(child: &Child, kind: SignalKind) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    let signal = rustix::process::Signal::from_named_raw(kind.as_raw_value());
    if let (Some(pid), Some(signal)) = (pid, signal) {
        // It can only fail when the process has ended, which the waiting will show.
        let _ = rustix::process::kill_process(pid, signal);
    }
}
