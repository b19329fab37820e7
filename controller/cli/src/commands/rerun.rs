//! `muster rerun`: the command of an earlier job once more, where it did not end as it should.
//!
//! The old job's signature is verified before its command is signed anew: a controller cannot slip another one in.

use super::launch::{self, Concurrency, Request, launch};
use crate::args::{self, JobRef};
use crate::client::{Client, ClientError, JobDetails, Selection};
use crate::exit::{Exit, Usage};
use crate::settings::Settings;
use muster_proto::context::Context;
use muster_proto::id::JobId;
use muster_proto::job::{JobHost, JobSpec, SignedJob, Work};
use muster_proto::outcome::State;
use muster_proto::seal::OperatorTrust;
use muster_proto::tls;
use std::time::Instant;

/// Options of `muster rerun`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job: its id, the beginning of it, or last for your newest
    #[arg(value_name = "ID", value_parser = args::job)]
    job: JobRef,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    launch: launch::Args,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Which {
    /// Hosts where it ran, or should have, and did not succeed: failed, timed_out, start_failed, cancelled
    #[arg(long)]
    failed: bool,
    /// Hosts where it certainly did not run: start_failed, rejected, unreachable, expired, skipped
    #[arg(long)]
    not_run: bool,
    /// Hosts that ended in these states
    #[arg(long, value_name = "STATE,...", value_delimiter = ',')]
    state: Vec<State>,
}

impl Which {
    fn includes(&self, state: State) -> bool {
        self.failed && state.is_failure() || self.not_run && state.is_not_run() || self.state.contains(&state)
    }
}

/// Performs `muster rerun`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let typed_at = Instant::now();
    args.launch.follow.check()?;
    let context = settings.context()?;
    let client = Client::connect(&context).await?;
    let job = args.job.find(&client).await?;
    let JobDetails { signed, hosts, .. } = client.job(job).await?;
    let names = chosen(&hosts, |state| args.which.includes(state));
    if names.is_empty() {
        return Err(Usage(format!("no host of job {job} ended so: see `muster job {job}`")).into());
    }
    let old = verified(&context, job, &signed)?;
    let job_timeout = old.created_at.until(old.start_before);
    let Work::Command(command) = old.work;
    let request = Request {
        verb: "rerun",
        typed_at,
        selection: Selection { names, ..Selection::default() },
        command,
        // The controller kept those of the old job.
        blobs: Vec::new(),
        deliver: old.deliver,
        job_timeout,
        concurrency: old.concurrency.map(Concurrency::Hosts),
    };
    launch(request, &args.launch, settings).await
}

fn chosen(hosts: &[JobHost], includes: impl Fn(State) -> bool) -> Vec<String> {
    let ended_so = |host: &&JobHost| host.outcome.as_ref().is_some_and(|outcome| includes(outcome.state));
    hosts.iter().filter(ended_so).map(|host| host.target.name.to_string()).collect()
}

fn verified(context: &Context, job: JobId, signed: &SignedJob) -> anyhow::Result<JobSpec> {
    let damaged = |what: &str| Usage(format!("the configuration's {what} cannot be read: log in again"));
    let cluster = context.cluster.parse().map_err(|_| damaged("cluster"))?;
    let issuer = tls::certificate_from_pem(&context.operator_ca).map_err(|_| damaged("operator CA"))?;
    let trust = OperatorTrust::new(cluster, issuer).map_err(|_| damaged("operator CA"))?;
    let refused = |why: String| ClientError::Refused(format!("job {job} is not signed anew: {why}"));
    let old = trust.open(signed).map_err(|error| refused(error.to_string()))?;
    if old.job != job {
        return Err(refused("the controller answered with another job".to_owned()).into());
    }
    Ok(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_chosen_by_what_is_known_of_them() {
        let which = |failed, not_run, state: &[State]| {
            let which = Which { failed, not_run, state: state.to_vec() };
            State::ALL.into_iter().filter(|state| which.includes(*state)).collect::<Vec<_>>()
        };
        assert_eq!(which(true, false, &[]), [State::Failed, State::TimedOut, State::Cancelled, State::StartFailed]);
        assert_eq!(
            which(false, true, &[]),
            [State::StartFailed, State::Rejected, State::Unreachable, State::Expired, State::Skipped]
        );
        assert_eq!(which(false, false, &[State::Indeterminate]), [State::Indeterminate]);
        // What may have run is never run again unless it is named.
        assert!(!which(true, true, &[]).contains(&State::Indeterminate));
    }
}
