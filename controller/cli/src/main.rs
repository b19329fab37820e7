//! `muster`: asks the controller, prints the answers.
//!
//! `args` is what was typed, `settings` where it goes, `commands` has one file a verb, `client` is the only way to the
//! controller, `show` the only way to the user, `exit` the only way out.

mod args;
mod board;
mod client;
mod commands;
mod exit;
mod feed;
mod settings;
mod show;
mod track;

use args::{Args, Verb};
use clap::Parser as _;
use client::ClientError;
use exit::{Exit, Usage};
use settings::{Settings, SettingsError};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    let exit = start(args).unwrap_or_else(|error| {
        show::note(&format!("muster: {error:#}"));
        exit_of(&error)
    });
    exit.into()
}

fn start(args: Args) -> anyhow::Result<Exit> {
    let settings = Settings::new(&args.global)?;
    // One thread: the client waits for a network and a terminal, it computes next to nothing.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exit = runtime.block_on(perform(args.verb, &settings));
    // A read of stdin cannot be interrupted; it must not keep a finished program.
    runtime.shutdown_background();
    exit
}

async fn perform(verb: Verb, settings: &Settings) -> anyhow::Result<Exit> {
    match verb {
        Verb::Targets(args) => commands::targets::run(args, settings).await,
        Verb::Group(args) => commands::group::run(args, settings).await,
        Verb::Run(args) => commands::run::run(*args, settings).await,
        Verb::Ping(args) => commands::ping::run(*args, settings).await,
        Verb::Attach(args) => commands::attach::run(args, settings).await,
        Verb::Logs(args) => commands::logs::run(args, settings).await,
        Verb::Cancel(args) => commands::cancel::run(args, settings).await,
        Verb::Pause(args) => commands::pace::pause(args, settings).await,
        Verb::Resume(args) => commands::pace::resume(args, settings).await,
        Verb::Queue(args) => commands::pace::queue(args, settings).await,
        Verb::Rerun(args) => commands::rerun::run(args, settings).await,
        Verb::Jobs(args) => commands::jobs::run(args, settings).await,
        Verb::Job(args) => commands::job::run(args, settings).await,
        Verb::Why(args) => commands::why::run(args, settings).await,
        Verb::Status(args) => commands::status::run(args, settings).await,
        Verb::Audit(args) => commands::audit::run(args, settings).await,
        Verb::Agents(args) => commands::agents::run(args, settings).await,
        Verb::Token(args) => commands::token::run(args, settings).await,
        Verb::Operator(args) => commands::operator::run(args, settings).await,
        Verb::Login(args) => commands::login::run(args, settings).await,
        Verb::Dev(args) => commands::dev::run(args, settings).await,
    }
}

fn exit_of(error: &anyhow::Error) -> Exit {
    if error.is::<Usage>() || error.is::<SettingsError>() {
        return Exit::Usage;
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Unavailable(_) | ClientError::Refused(_)) => Exit::Controller,
        Some(ClientError::Usage(_)) => Exit::Usage,
        Some(ClientError::Lost(_)) => Exit::NotFollowed,
        None => Exit::Failed,
    }
}
