//! The agent's binary: enrol, run, and `supervise DIR`, which is what it starts for each task.

use anyhow::Context as _;
use muster_agent::agent::Agent;
use muster_agent::enrol;
use muster_agent::settings::{Enroll, Invocation, Run, Until};
use muster_agent::{process, supervisor, telemetry};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;
use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{error, info};

fn main() -> ExitCode {
    let invocation = match Invocation::from_env() {
        Ok(invocation) => invocation,
        Err(error) => return fail(&error.into(), 2),
    };
    let done = match invocation {
        Invocation::Supervise(dir) => return supervisor::main(&dir),
        Invocation::Say(text) => say(&text),
        Invocation::Enroll(request) => enroll(&request),
        Invocation::Run(run) => be_an_agent(&run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn enroll(request: &Enroll) -> anyhow::Result<()> {
    let waiting = |fingerprint: &str| {
        let _ = writeln!(
            io::stderr(),
            "waiting for approval; compare and approve on an operator's machine:\n  muster agents approve {fingerprint}"
        );
    };
    let identity = runtime()?.block_on(enrol::enrol(request, waiting))?;
    let state = request.state.display();
    say(&format!("enrolled as {} in {state}; next: muster-agent run --state {state}\n", identity.name))
}

fn be_an_agent(run: &Run) -> anyhow::Result<()> {
    telemetry::install(run.log);
    let runtime = runtime()?;
    runtime.block_on(async {
        let on = |kind| signal(kind).context("cannot wait for signals");
        let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
        let (mut hangup, mut deaths) = (on(SignalKind::hangup())?, on(SignalKind::child())?);
        let eof = stdin_eof(run.until);
        tokio::pin!(eof);
        // There it says that the terminal is gone.
        let on_hangup = if io::stdin().is_terminal() { Next::End } else { Next::Replace };
        loop {
            // Supervisors that an agent before this one started in the same process.
            let mut inherited = process::children();
            let agent = Agent::new(run.settings.clone())?;
            let mut next = Next::End;
            let shutdown = async {
                loop {
                    tokio::select! {
                        _ = terminate.recv() => break,
                        _ = interrupt.recv() => break,
                        _ = hangup.recv() => break next = on_hangup,
                        () = &mut eof => break,
                        _ = deaths.recv() => process::reap(&mut inherited),
                    }
                }
            };
            agent.run(shutdown).await?;
            match next {
                Next::End => return Ok(()),
                Next::Replace => {
                    let program = run.own.program.display();
                    info!(%program, "SIGHUP: another start takes over");
                    let error = process::replace(&run.own.program, &run.own.arguments);
                    error!(%program, %error, "it cannot be executed: the running program goes on");
                }
            }
        }
    })
}

/// What comes after an agent.
#[derive(Clone, Copy)]
enum Next {
    End,
    Replace,
}

/// One thread is enough, and an idle agent is small.
fn runtime() -> anyhow::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build().context("cannot start")
}

/// Ends with stdin, or never. A thread of its own reads: stdin may be anything, and most of it cannot be polled.
async fn stdin_eof(until: Until) {
    let (sender, ended) = oneshot::channel::<()>();
    let reader = match until {
        Until::Signal => None,
        Until::StdinEof => Some(std::thread::spawn(move || {
            let mut rest = [0; 256];
            while io::stdin().lock().read(&mut rest).is_ok_and(|count| count > 0) {}
            drop(sender);
        })),
    };
    if reader.is_none() {
        std::future::pending::<()>().await;
    }
    // The sender is dropped, never used.
    let _ = ended.await;
}

fn say(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")
}

/// One line, whatever is in it.
fn fail(error: &anyhow::Error, status: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "muster-agent: {}", muster_proto::text::line(&format!("{error:#}")));
    ExitCode::from(status)
}
