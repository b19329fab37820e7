//! `muster jobs`: what was asked lately, and what became of it.

use crate::args::{self, Form};
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::table::{Table, cut};
use crate::show::{self, json, moment};
use muster_proto::job::{JobList, JobState, JobSummary};
use muster_proto::limits;

/// Characters of a command in the list where no terminal sets a limit; `muster job` shows all of it.
const COMMAND_CHARS: usize = 200;

/// Options of `muster jobs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// At most this many, the newest first; no list has more than 1000
    #[arg(
        short = 'n',
        value_name = "N",
        default_value_t = 20,
        value_parser = args::number::<u32>(1..=limits::JOBS_LISTED_MAX)
    )]
    limit: u32,
    /// Form of the list
    #[arg(short = 'o', value_name = "text|json", value_enum, default_value_t, hide_possible_values = true)]
    form: Form,
}

/// Performs `muster jobs`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let jobs = settings.connect().await?.jobs(JobList::All, args.limit).await?;
    if args.form == Form::Json {
        let list: Vec<_> = jobs.iter().map(json::listed).collect();
        show::data(&format!("{}\n", serde_json::to_string(&list)?))?;
        return Ok(Exit::Success);
    }
    if jobs.is_empty() {
        show::note("no job yet: try muster run -w all -- uptime");
        return Ok(Exit::Success);
    }
    let mut table = Table::new(&["JOB", "AGE", "OPERATOR", "HOSTS", "RESULT", "COMMAND"]);
    for job in &jobs {
        table.row(vec![
            job.job.to_string(),
            moment::ago(job.created_at),
            job.operator.to_string(),
            job.targets.count.to_string(),
            result(job),
            cut(&job.title, COMMAND_CHARS).into_owned(),
        ]);
    }
    let table = match show::columns(std::io::stdout()) {
        Some(columns) => table.within(columns),
        None => table,
    };
    show::data(&table.to_string())?;
    Ok(Exit::Success)
}

/// One word if one word says it: `succeeded`; else `3 failed`, `12 of 500 active`.
pub fn result(job: &JobSummary) -> String {
    if job.state != JobState::Done {
        return format!("{}/{} {}", job.counts.total(), job.targets.count, job.state.as_str());
    }
    match job.counts.iter().collect::<Vec<_>>()[..] {
        [(state, _)] => state.to_string(),
        ref counts => counts.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", "),
    }
}
