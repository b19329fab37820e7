//! `muster pause`, `muster resume` and `muster queue`: jobs that hold, and hosts that they wait for.

use crate::args::{self, Form, JobRef};
use crate::client::pace::Turned;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::table::Table;
use crate::show::{self, moment, summary};
use muster_proto::job::QueuedTask;
use serde::Serialize;

/// Options of `muster pause` and `muster resume`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job: its id, the beginning of it, or last for your newest
    #[arg(value_name = "ID", value_parser = args::job)]
    job: JobRef,
}

/// Performs `muster pause`: what runs goes on, nothing more is handed out.
pub async fn pause(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let client = settings.connect().await?;
    let job = args.job.find(&client).await?;
    show::note(&match client.pause(job).await? {
        Turned::Now => format!("job {job} is paused; what was started goes on: `muster resume {job}` goes on with it"),
        Turned::Already => format!("job {job} was paused already"),
    });
    Ok(Exit::Success)
}

/// Performs `muster resume`.
pub async fn resume(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let client = settings.connect().await?;
    let job = args.job.find(&client).await?;
    show::note(&match client.resume(job).await? {
        Turned::Now => format!("job {job} goes on: `muster attach {job}` follows it"),
        Turned::Already => format!("job {job} was not paused"),
    });
    Ok(Exit::Success)
}

/// Options of `muster queue`.
#[derive(Debug, clap::Args)]
pub struct QueueArgs {
    /// Form of the list
    #[arg(short = 'o', value_name = "text|json", value_enum, default_value_t, hide_possible_values = true)]
    form: Form,
}

#[derive(Serialize)]
struct QueuedJson {
    host: String,
    job: String,
    until: String,
    since: String,
    operator: String,
    command: String,
}

/// Performs `muster queue`.
pub async fn queue(args: QueueArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let queue = settings.connect().await?.queue().await?;
    if args.form == Form::Json {
        let list: Vec<_> = queue.tasks.iter().map(json).collect();
        show::data(&format!("{}\n", serde_json::to_string(&list)?))?;
    } else if queue.tasks.is_empty() {
        show::note("nobody is queued: `muster run --offline queue=24h` has hosts that are away wait for their return");
    } else {
        let table = table(&queue.tasks);
        let table = match show::columns(std::io::stdout()) {
            Some(columns) => table.within(columns),
            None => table,
        };
        show::data(&table.to_string())?;
    }
    if queue.total as usize > queue.tasks.len() {
        let all = summary::hosts(queue.total as usize);
        show::note(&format!("these are the first {}: {all} are queued", queue.tasks.len()));
    }
    Ok(Exit::Success)
}

fn json(task: &QueuedTask) -> QueuedJson {
    QueuedJson {
        host: task.host.to_string(),
        job: task.job.to_string(),
        until: moment::rfc3339(task.until),
        since: moment::rfc3339(task.since),
        operator: task.operator.to_string(),
        command: task.title.clone(),
    }
}

fn table(tasks: &[QueuedTask]) -> Table {
    let mut table = Table::new(&["HOST", "JOB", "UNTIL", "SINCE", "OPERATOR", "COMMAND"]);
    for task in tasks {
        table.row(vec![
            task.host.to_string(),
            task.job.to_string(),
            moment::to_second(task.until),
            moment::ago(task.since),
            task.operator.to_string(),
            task.title.clone(),
        ]);
    }
    table
}
