//! `muster logs`: the stored output of a job.

use super::follow::{LINK_BROKEN, is_closed_pipe, show_stored};
use crate::args::{self, JobRef};
use crate::client::{Follow, JobDetails};
use crate::exit::Exit;
use crate::feed::{Feed, Item};
use crate::settings::Settings;
use crate::show::console::Console;
use crate::show::json;
use crate::show::lines::{Lines, Prefix};
use clap::ValueEnum;
use muster_proto::event::{EventKind, Stream};
use muster_proto::name::HostName;
use std::rc::Rc;

/// Options of `muster logs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job: its id, the beginning of it, or last for your newest
    #[arg(value_name = "ID", value_parser = args::job)]
    job: JobRef,
    /// Only these of its hosts
    #[arg(short = 'w', long, value_name = "EXPR", default_value = "", hide_default_value = true)]
    targets: String,
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

async fn print(args: &Args, settings: &Settings) -> anyhow::Result<Exit> {
    let client = settings.connect().await?;
    let JobDetails { summary, hosts, .. } = client.job(args.job.find(&client).await?).await?;
    let names: Rc<[HostName]> = hosts.into_iter().map(|host| host.target.name).collect();
    let prefix = if args.no_prefix { Prefix::None } else { Prefix::Host };
    let (mut lines, mut console) = (Lines::new(names.clone(), prefix), Console::new());
    let follow = Follow { stored_only: true, targets: args.targets.clone() };
    let mut feed = Feed::open(&client, summary.job, 0, follow);
    let mut silent = true;
    while let Some(item) = feed.next().await? {
        let events = match item {
            Item::Events(events) => events,
            Item::Broken => {
                console.say(LINK_BROKEN)?;
                continue;
            }
        };
        silent &= !events.iter().any(|event| matches!(event.kind, EventKind::Output { .. }));
        match args.output {
            Form::Text => show_stored(&mut lines, &mut console, &events)?,
            Form::Jsonl => {
                for event in &events {
                    console.write(Stream::Stdout, &json::event_line(summary.job, &names, event)?)?;
                }
            }
        }
        console.flush()?;
    }
    lines.end_all(&mut console)?;
    if silent {
        console.say("there is no output")?;
    }
    console.flush()?;
    Ok(Exit::Success)
}
