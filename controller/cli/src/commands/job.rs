//! `muster job ID`: one job with all its hosts.

use super::jobs::{asked, result};
use crate::args::Form;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::table::Table;
use crate::show::{self, json, moment, summary};
use muster_proto::id::JobId;
use muster_proto::job::{JobHost, JobSummary};

/// Options of `muster job`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job's id, as `muster jobs` lists it
    #[arg(value_name = "ID")]
    job: JobId,
    /// Form of what is shown
    #[arg(short = 'o', value_name = "text|json", value_enum, default_value_t, hide_possible_values = true)]
    form: Form,
}

/// Performs `muster job`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let (job, hosts) = settings.connect().await?.job(args.job).await?;
    match args.form {
        Form::Json => show::data(&format!("{}\n", serde_json::to_string(&json::job(&job, Some(&hosts))?)?))?,
        Form::Text => show::data(&format!("{}\n{}", head(&job), table(&hosts)))?,
    }
    Ok(Exit::Success)
}

fn head(job: &JobSummary) -> String {
    let (operator, line) = asked(job);
    let ended = job
        .done_at
        .map_or_else(String::new, |done| format!(", ended after {}", moment::span(job.created_at.until(done))));
    format!(
        "job       {}\ncommand   {line}\noperator  {operator}\nresult    {}\nasked     {} ({} ago){ended}\n",
        job.job,
        result(job),
        moment::rfc3339(job.created_at),
        moment::ago(job.created_at),
    )
}

fn table(hosts: &[JobHost]) -> Table {
    let mut table = Table::new(&["HOST", "TIME", "STATE"]);
    for host in hosts {
        let (time, state) = match &host.outcome {
            Some(outcome) => (outcome.duration.map(moment::span).unwrap_or_default(), summary::end(outcome)),
            None if host.connected => (String::new(), host.phase.as_str().to_owned()),
            None => (String::new(), format!("{}, no contact now", host.phase.as_str())),
        };
        table.row(vec![host.target.name.to_string(), time, state]);
    }
    table
}
