//! `muster targets`: which hosts an expression means, as the controller resolves it.

use crate::client::Selection;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show;
use muster_proto::job::Target;
use muster_proto::names;
use serde::Serialize;

/// Options of `muster targets`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hosts: names, ranges as web[01-20], globs as db*, labels as role=web, or all; joined by commas
    #[arg(value_name = "EXPR")]
    targets: String,
    /// Hosts to leave out
    #[arg(short = 'x', long, value_name = "EXPR", default_value = "", hide_default_value = true)]
    exclude: String,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Form {
    /// One folded line, as web[01-20],db1 (the default)
    #[arg(long)]
    fold: bool,
    /// One name a line
    #[arg(long)]
    expand: bool,
    /// Only how many there are
    #[arg(long)]
    count: bool,
    /// A JSON list of {"host","id","connected"}
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct HostJson {
    host: String,
    id: String,
    connected: bool,
}

/// Performs `muster targets`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let selection = Selection { targets: args.targets, exclude: args.exclude, names: Vec::new() };
    let targets = settings.connect().await?.plan(&selection).await?.targets;
    let names = || targets.iter().map(|(target, _)| target.name.as_str());
    let text = match args.form {
        Form { expand: true, .. } => names().map(|name| format!("{name}\n")).collect(),
        Form { count: true, .. } => format!("{}\n", targets.len()),
        Form { json: true, .. } => {
            let host = |(target, connected): &(Target, bool)| HostJson {
                host: target.name.to_string(),
                id: target.agent.to_string(),
                connected: *connected,
            };
            format!("{}\n", serde_json::to_string(&targets.iter().map(host).collect::<Vec<_>>())?)
        }
        Form { .. } => format!("{}\n", names::fold(names())),
    };
    show::data(&text)?;
    Ok(Exit::Success)
}
