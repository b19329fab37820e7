//! `muster logs`: the stored output of a job.

use super::follow::{LINK_BROKEN, is_closed_pipe, show_stored};
use super::run::said;
use crate::args::{self, JobRef};
use crate::board::Board;
use crate::client::{Follow, JobDetails};
use crate::exit::Exit;
use crate::feed::{Feed, Item};
use crate::settings::Settings;
use crate::show::console::Console;
use crate::show::lines::{Lines, Prefix};
use crate::show::{json, ping};
use crate::track::Track;
use clap::ValueEnum;
use muster_proto::event::{Event, EventKind, GateStep, Stream};
use muster_proto::job::{JobSpec, Work};
use muster_proto::ping::TargetName;
use std::rc::Rc;

/// Options of `muster logs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job: its id, the beginning of it, or last for your newest
    #[arg(value_name = "ID", value_parser = args::job)]
    job: JobRef,
    /// Only these of its hosts
    #[arg(short = 'w', long, value_name = "EXPR")]
    targets: Option<String>,
    /// What the gates between the waves wrote, in place of the command
    #[arg(long)]
    gate: bool,
    /// No host before the lines
    #[arg(short = 'N', long)]
    no_prefix: bool,
    /// Lines for people, or one JSON event a line
    #[arg(short = 'o', long, value_enum, default_value = "text", value_name = "FORM")]
    output: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Lines, each with its host
    Text,
    /// One event a line
    Jsonl,
}

/// Performs `muster logs`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    match print(&args, settings).await {
        Err(error) if is_closed_pipe(&error) => Ok(Exit::Success),
        result => result,
    }
}

/// What the stored events are shown with.
enum View {
    /// Of a command.
    Lines(Lines),
    Ping(Box<(ping::View, Board)>),
    Jsonl,
}

async fn print(args: &Args, settings: &Settings) -> anyhow::Result<Exit> {
    let targets = said("-w", args.targets.clone())?;
    let client = settings.connect().await?;
    let JobDetails { summary, signed, hosts, .. } = client.job(args.job.find(&client).await?).await?;
    let names: Rc<[TargetName]> = hosts.into_iter().map(|host| host.name).collect();
    let prefix = if args.no_prefix { Prefix::None } else { Prefix::Host };
    let mut console = Console::new();
    let mut view = match (args.output, JobSpec::decode(&signed.payload)?.work) {
        (Form::Jsonl, _) => View::Jsonl,
        (Form::Text, Work::Command(_)) => View::Lines(Lines::new(names.clone(), prefix)),
        (Form::Text, Work::Ping(spec)) => {
            let style = ping::Style::Log { payload: spec.probes.size };
            let view = ping::View::new(style, summary.job, names.clone(), &console);
            View::Ping(Box::new((view, Board::new(Track::new(names.clone())))))
        }
    };
    let follow = Follow { stored_only: true, targets };
    let mut feed = Feed::open(&client, summary.job, 0, follow);
    let mut silent = matches!(view, View::Lines(_) | View::Jsonl);
    while let Some(item) = feed.next().await? {
        let events = match item {
            Item::Events(events) if args.gate => of_gates(events, args.output),
            Item::Events(events) => events,
            Item::Broken => {
                console.say(LINK_BROKEN)?;
                continue;
            }
        };
        silent &= !events.iter().any(|event| has_output(&event.kind, args.gate));
        match &mut view {
            View::Lines(lines) => show_stored(lines, &mut console, &events)?,
            View::Ping(ping) => {
                let (view, board) = &mut **ping;
                view.events(&mut console, board, &events)?;
            }
            View::Jsonl => {
                for event in &events {
                    let line = json::event_line(summary.job, &names, event)?;
                    console.write(Stream::Stdout, line.as_bytes())?;
                }
            }
        }
        console.flush()?;
    }
    if let View::Lines(lines) = &mut view {
        lines.end_all(&mut console)?;
    }
    if silent {
        console.say("there is no output")?;
    }
    console.flush()?;
    Ok(Exit::Success)
}

fn has_output(kind: &EventKind, gate: bool) -> bool {
    match kind {
        EventKind::Output { .. } | EventKind::Probed { .. } => true,
        EventKind::Gate { step: GateStep::Output { .. }, .. } => gate,
        _ => false,
    }
}

/// The events of gates; for lines as what the same is of a command.
fn of_gates(events: Vec<Event>, form: Form) -> Vec<Event> {
    let of_gate = |event: Event| {
        let EventKind::Gate { target, step } = event.kind else { return None };
        let kind = match (form, step) {
            (Form::Text, GateStep::Output { stream, offset, data }) => {
                EventKind::Output { target, stream, offset, data }
            }
            (Form::Text, GateStep::Truncated { stream, bytes }) => EventKind::Truncated { target, stream, bytes },
            (Form::Text, GateStep::Finished { outcome }) => EventKind::Finished { target, outcome },
            (_, step) => EventKind::Gate { target, step },
        };
        Some(Event { kind, ..event })
    };
    events.into_iter().filter_map(of_gate).collect()
}
