//! `muster job ID`: one job with all its hosts.

use super::family::{Family, First};
use super::jobs::result;
use crate::args::{self, Form, JobRef};
use crate::board::Board;
use crate::client::JobDetails;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::table::Table;
use crate::show::{self, command, json, moment, ping, rollout, summary};
use muster_proto::id::Attempt;
use muster_proto::job::{JobHost, JobSpec, Work};
use serde::Serialize;

/// Options of `muster job`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job: its id as `muster jobs` lists it, the beginning of it, or last for your newest
    #[arg(value_name = "ID", value_parser = args::job)]
    job: JobRef,
    /// The hosts of the first job of its family, each as the last job left it that it was a target of
    #[arg(long)]
    all_runs: bool,
    /// Form of what is shown
    #[arg(short = 'o', value_name = "text|json", value_enum, default_value_t, hide_possible_values = true)]
    form: Form,
}

/// Performs `muster job`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let client = settings.connect().await?;
    let job = args.job.find(&client).await?;
    if args.all_runs {
        return all_runs(&Family::of(&client, job).await?, args.form);
    }
    let job = client.job(job).await?;
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
            show::data(&format!("{}\n{hosts}", head(&job, spec.ok().as_ref())))?;
        }
    }
    Ok(Exit::Success)
}

/// `spec` is what the signed bytes say.
fn head(details: &JobDetails, spec: Option<&JobSpec>) -> String {
    let job = &details.summary;
    let (operator, line) = match spec {
        Some(spec) => (spec.operator.to_string(), command::line(&spec.work)),
        None => ("?".to_owned(), "(signed by a version that this one does not know)".to_owned()),
    };
    let rerun = job.rerun_of.map_or_else(String::new, |first| format!("repeats   job {first}\n"));
    let rollout: String = match spec {
        Some(JobSpec { rollout, targets, work: Work::Command(_), .. }) => {
            let waves = rollout::waves(rollout, targets.count).len();
            let now = details.wave.filter(|_| waves > 0).map(|wave| ("now", format!("wave {wave} of {waves}")));
            let rows = rollout::rows(rollout, targets.count);
            now.iter().chain(&rows).map(|(word, text)| format!("{word:<10}{text}\n")).collect()
        }
        _ => String::new(),
    };
    let paused = details.paused.as_ref().map_or_else(String::new, |pause| {
        let (since, by) = (moment::to_second(pause.since), pause.operator.as_ref());
        let why = by.map_or_else(|| pause.reason.clone(), |operator| format!("by {operator}"));
        let id = job.job;
        let until = spec.map_or_else(String::new, |spec| {
            format!("; nothing starts after {}", moment::to_second(spec.start_before))
        });
        format!(
            "paused    since {since}: {why}\n          muster resume {id} goes on{until}\n          muster cancel {id} ends it\n"
        )
    });
    let ended = job
        .done_at
        .map_or_else(String::new, |done| format!(", ended after {}", moment::span(job.created_at.until(done))));
    format!(
        "job       {}\ncommand   {line}\noperator  {operator}\nresult    {}\nasked     {} ({} ago){ended}\n{rerun}{rollout}{paused}",
        job.job,
        result(job),
        moment::rfc3339(job.created_at),
        moment::ago(job.created_at),
    )
}

fn table(hosts: &[JobHost]) -> Table {
    let mut table = Table::new(&["HOST", "TIME", "STATE"]);
    for host in hosts {
        let (time, state) = stand(host);
        table.row(vec![host.name.to_string(), time, state]);
    }
    table
}

/// How long the program ran, and how the host ended or how far it is.
fn stand(host: &JobHost) -> (String, String) {
    let (time, mut state) = match (&host.outcome, host.queued_until) {
        (Some(outcome), _) => (outcome.duration.map(moment::span).unwrap_or_default(), summary::end(outcome)),
        (None, Some(until)) => (String::new(), format!("away, queued until {}", moment::to_second(until))),
        (None, None) if host.connected => (String::new(), host.phase.as_str().to_owned()),
        (None, None) => (String::new(), format!("{}, no contact now", host.phase.as_str())),
    };
    if host.attempt > Attempt::FIRST {
        state.push_str(&format!(" (attempt {})", host.attempt));
    }
    if let Some(late) = &host.late {
        state.push_str(&format!("; after that the agent reported: {late}"));
    }
    (time, state)
}

#[derive(Serialize)]
struct AllRunsJson {
    job: String,
    runs: Vec<String>,
    first_removed: bool,
    targets: usize,
    counts: json::CountsJson,
    hosts: Vec<json::HostJson>,
}

fn all_runs(family: &Family, form: Form) -> anyhow::Result<Exit> {
    let Some(first) = family.runs.first() else { return Ok(Exit::Success) };
    match form {
        Form::Json => {
            let hosts = family.hosts.iter();
            let all = AllRunsJson {
                job: first.to_string(),
                runs: family.runs.iter().map(ToString::to_string).collect(),
                first_removed: family.first == First::Removed,
                targets: family.hosts.len(),
                counts: json::CountsJson(family.counts()),
                hosts: hosts.map(|(run, host)| json::HostJson::of_run(family.runs[*run], host)).collect(),
            };
            show::data(&format!("{}\n", serde_json::to_string(&all)?))?;
        }
        Form::Text => {
            let mut table = Table::new(&["HOST", "RUN", "TIME", "STATE"]);
            for (run, host) in &family.hosts {
                let (time, state) = stand(host);
                table.row(vec![host.name.to_string(), (run + 1).to_string(), time, state]);
            }
            let runs: String =
                family.runs.iter().zip(1..).map(|(job, run)| format!("run {run}: job {job}\n")).collect();
            let removed = match family.first {
                First::Here => "",
                First::Removed => "the first job was removed, and with it the hosts that it alone had\n",
            };
            show::data(&format!("{removed}{runs}\n{table}"))?;
            family.closing().iter().for_each(|line| show::note(line));
        }
    }
    Ok(Exit::Success)
}
