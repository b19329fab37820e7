//! `muster job ID`: one job with all its hosts.

use super::jobs::result;
use crate::args::{self, Form, JobRef};
use crate::client::JobDetails;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::table::Table;
use crate::show::{self, command, json, moment, summary};
use muster_proto::job::{JobHost, JobSpec};

/// Options of `muster job`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job: its id as `muster jobs` lists it, the beginning of it, or last for your newest
    #[arg(value_name = "ID", value_parser = args::job)]
    job: JobRef,
    /// Form of what is shown
    #[arg(short = 'o', value_name = "text|json", value_enum, default_value_t, hide_possible_values = true)]
    form: Form,
}

/// Performs `muster job`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let client = settings.connect().await?;
    let job = client.job(args.job.find(&client).await?).await?;
    match args.form {
        Form::Json => show::data(&format!("{}\n", serde_json::to_string(&json::job(&job)?)?))?,
        Form::Text => show::data(&format!("{}\n{}", head(&job), table(&job.hosts)))?,
    }
    Ok(Exit::Success)
}

fn head(details: &JobDetails) -> String {
    let (operator, line) = asked(details);
    let job = &details.summary;
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

/// Who asked for what, as the signed bytes say.
fn asked(job: &JobDetails) -> (String, String) {
    match JobSpec::decode(&job.signed.payload) {
        Ok(spec) => (spec.operator.to_string(), command::line(spec.command())),
        Err(_) => ("?".to_owned(), "(signed by a version that this one does not know)".to_owned()),
    }
}

fn table(hosts: &[JobHost]) -> Table {
    let mut table = Table::new(&["HOST", "TIME", "STATE"]);
    for host in hosts {
        let (time, state) = match &host.outcome {
            Some(outcome) => (outcome.duration.map(moment::span).unwrap_or_default(), summary::end(outcome)),
            None if host.connected => (String::new(), host.phase.as_str().to_owned()),
            None => (String::new(), format!("{}, no contact now", host.phase.as_str())),
        };
        let late =
            host.late.as_ref().map_or_else(String::new, |late| format!("; after that the agent reported: {late}"));
        table.row(vec![host.target.name.to_string(), time, state + &late]);
    }
    table
}
