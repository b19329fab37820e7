//! `muster ping status`: how the hosts of schedules were, and when they went up or down.

use crate::client::schedules::Standings;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show;
use crate::show::standings::{json, programs, text};
use clap::ValueEnum;
use muster_proto::name::OperatorName;
use muster_proto::time::Timestamp;
use std::time::{Duration, SystemTime};

/// Options of `muster ping status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A schedule [default: all of them]
    #[arg(value_name = "NAME", value_parser = super::schedule::name)]
    name: Option<OperatorName>,
    /// How far back
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = super::options::with_unit)]
    since: Duration,
    /// When hosts went up or down, the oldest first, at most the newest 10000
    #[arg(long)]
    changes: bool,
    /// Form of what is shown: a table, one JSON object, a CSV line a host, or Prometheus' metrics
    #[arg(id = "form", short = 'o', long = "output", value_enum, value_name = "FORM", default_value = "text")]
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A table, the worst first; hosts that were never down and lost nothing share a line
    Text,
    /// One object
    Json,
    /// A line a host, or with --changes a line a change
    Csv,
    /// Metrics of each host
    Prometheus,
}

/// Performs `muster ping status`. Hosts that are down are a failure; of what is not known nobody can say.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let now = Timestamp::from(SystemTime::now());
    let back = i64::try_from(args.since.as_millis()).unwrap_or(i64::MAX);
    let since = Timestamp::from_millis(now.as_millis().saturating_sub(back));
    let found = settings.connect().await?.standings(args.name.as_ref(), since).await?;
    let columns = show::columns(std::io::stdout()).unwrap_or(usize::MAX);
    let Standings { standings, changes } = &found;
    let page = match (args.form, args.changes) {
        (Form::Text, false) => text::standings(standings, columns),
        (Form::Text, true) => text::changes(changes),
        (Form::Json, changed) => json::object(since, standings, changed.then_some(changes))?,
        (Form::Csv, false) => programs::csv(standings),
        (Form::Csv, true) => programs::csv_of_changes(changes),
        (Form::Prometheus, _) => programs::prometheus(standings),
    };
    show::data(&page)?;
    if args.form == Form::Text && page.is_empty() {
        show::note(match args.changes {
            true => "nothing went up or down in this time",
            false => "nothing is known yet: muster ping schedules lists what is looked at",
        });
    }
    let some = |up| standings.iter().any(|standing| standing.up == up);
    Ok(if some(Some(false)) {
        Exit::Failed
    } else if some(None) {
        Exit::Indeterminate
    } else {
        Exit::Success
    })
}
