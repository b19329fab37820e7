//! `muster job ID`: one job with all its hosts.

use super::jobs::result;
use crate::args::{self, Form, JobRef};
use crate::board::Board;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::table::Table;
use crate::show::{self, command, json, moment, ping, summary};
use muster_proto::job::{JobHost, JobSpec, JobSummary, Work};

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
        Form::Text => {
            let spec = JobSpec::decode(&job.signed.payload);
            let hosts = match spec.as_ref().map(|spec| &spec.work) {
                Ok(Work::Ping(_)) => {
                    ping::table::list(&Board::of(&job.hosts), show::columns(std::io::stdout()).unwrap_or(usize::MAX))
                }
                Ok(Work::Command(_)) | Err(_) => table(&job.hosts).to_string(),
            };
            show::data(&format!("{}\n{hosts}", head(&job.summary, spec.ok().as_ref())))?;
        }
    }
    Ok(Exit::Success)
}

/// `spec` is what the signed bytes say.
fn head(job: &JobSummary, spec: Option<&JobSpec>) -> String {
    let (operator, line) = match spec {
        Some(spec) => (spec.operator.to_string(), command::line(&spec.work)),
        None => ("?".to_owned(), "(signed by a version that this one does not know)".to_owned()),
    };
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
        let late =
            host.late.as_ref().map_or_else(String::new, |late| format!("; after that the agent reported: {late}"));
        table.row(vec![host.name.to_string(), time, state + &late]);
    }
    table
}
