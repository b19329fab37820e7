//! `muster cancel`: end a job everywhere, and wait until that is confirmed.

use crate::args::{self, JobRef};
use crate::client::pace::Cancelled;
use crate::client::{Client, JobDetails};
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::{self, summary};
use muster_proto::id::JobId;
use muster_proto::job::JobState;
use muster_proto::outcome::State;
use std::time::{Duration, SystemTime};
use tokio::time::sleep;

/// Between two looks at the job: at first, and at most.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// Options of `muster cancel`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job: its id, the beginning of it, or last for your newest
    #[arg(value_name = "ID", value_parser = args::job)]
    job: JobRef,
    /// Do not wait until all hosts ended
    #[arg(short = 'd', long)]
    detach: bool,
}

/// Performs `muster cancel`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let client = settings.connect().await?;
    let job = args.job.find(&client).await?;
    if client.cancel(job).await? == Cancelled::AlreadyDone {
        show::note(&format!("job {job} was over before the cancel came"));
    } else if args.detach {
        return Ok(Exit::Success);
    }
    let JobDetails { summary, hosts, .. } = wait(&client, job).await?;
    let ends = hosts.iter().map(|host| (&host.name, host.outcome.as_ref().map(|outcome| outcome.state)));
    let took = summary.created_at.until(summary.done_at.unwrap_or_else(|| SystemTime::now().into()));
    show::note(&summary::closing("cancel", ends, summary::Rest::NotDone, took, summary.job));
    // Ended is what was asked for; only what may still run is a failure.
    Ok(if summary.counts.get(State::Indeterminate) > 0 { Exit::Indeterminate } else { Exit::Success })
}

/// Asks again and again rather than follow the events: they would bring all the output along.
async fn wait(client: &Client, job: JobId) -> anyhow::Result<JobDetails> {
    let mut pause = PAUSE[0];
    loop {
        let details = client.job(job).await?;
        if details.summary.state == JobState::Done {
            return Ok(details);
        }
        sleep(pause).await;
        pause = PAUSE[1].min(pause * 2);
    }
}
