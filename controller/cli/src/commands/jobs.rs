//! `muster jobs`: what was asked lately, and what became of it.

use crate::args::Form;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::table::Table;
use crate::show::{self, command, json, moment};
use muster_proto::job::{JobSpec, JobState, JobSummary};

/// Characters of a command in the list; `muster job` shows all of it.
const COMMAND_CHARS: usize = 40;

/// Options of `muster jobs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// At most this many, the newest first
    #[arg(short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Form of the list
    #[arg(short = 'o', value_name = "text|json", value_enum, default_value_t, hide_possible_values = true)]
    form: Form,
}

/// Performs `muster jobs`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let jobs = settings.connect().await?.jobs(args.limit).await?;
    if args.form == Form::Json {
        let list = jobs.iter().map(|job| json::job(job, None)).collect::<Result<Vec<_>, _>>()?;
        show::data(&format!("{}\n", serde_json::to_string(&list)?))?;
        return Ok(Exit::Success);
    }
    if jobs.is_empty() {
        show::note("no job yet: try muster run -w all -- uptime");
        return Ok(Exit::Success);
    }
    let mut table = Table::new(&["JOB", "AGE", "OPERATOR", "HOSTS", "RESULT", "COMMAND"]);
    for job in &jobs {
        let (operator, line) = asked(job);
        table.row(vec![
            job.job.to_string(),
            moment::ago(job.created_at),
            operator,
            job.targets.to_string(),
            result(job),
            cut(&line),
        ]);
    }
    show::data(&table.to_string())?;
    Ok(Exit::Success)
}

/// Who asked for what, as the signed bytes say.
pub fn asked(job: &JobSummary) -> (String, String) {
    match JobSpec::decode(&job.signed.payload) {
        Ok(spec) => (spec.operator.to_string(), command::line(spec.command())),
        Err(_) => ("?".to_owned(), "(signed by a version that this one does not know)".to_owned()),
    }
}

/// One word if one word says it: `succeeded`; else `3 failed`, `12 of 500 active`.
pub fn result(job: &JobSummary) -> String {
    if job.state != JobState::Done {
        return format!("{}/{} {}", job.counts.total(), job.targets, job.state.as_str());
    }
    match job.counts.iter().collect::<Vec<_>>()[..] {
        [(state, _)] => state.to_string(),
        ref counts => {
            let bad = counts.iter().filter(|(state, _)| *state != muster_proto::outcome::State::Succeeded);
            bad.map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(",")
        }
    }
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(COMMAND_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
