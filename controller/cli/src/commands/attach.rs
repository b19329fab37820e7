//! `muster attach`: follow a job that was started earlier, or elsewhere.

use super::follow::{self, Follower, Interrupts, Since};
use super::ping::follow::{self as ping, Ours, Wish};
use crate::args::{self, JobRef};
use crate::client::JobDetails;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::rollout;
use crate::track::Track;
use muster_proto::job::{JobSpec, JobState, Work};
use muster_proto::ping::TargetName;
use std::rc::Rc;

/// Options of `muster attach`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job: its id, the beginning of it, or last for your newest
    #[arg(value_name = "ID", value_parser = args::job)]
    job: JobRef,
    /// Show only what happened after this event, by its number in -o jsonl
    #[arg(long, value_name = "SEQ", value_parser = args::number::<u64>(..), default_value_t = 0, hide_default_value = true)]
    after: u64,
    #[command(flatten)]
    follow: follow::Args,
}

/// Performs `muster attach`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    args.follow.check()?;
    let client = settings.connect().await?;
    let JobDetails { summary, signed, hosts, .. } = client.job(args.job.find(&client).await?).await?;
    // For display and for waiting only, nothing is run by it: the signature need not be verified.
    let JobSpec { work, rollout, targets, .. } = JobSpec::decode(&signed.payload)?;
    let names: Rc<[TargetName]> = hosts.iter().map(|host| host.name.clone()).collect();
    let mut track = Track::new(names.clone());
    if args.after > 0 {
        // The hosts whose end will not be shown again have to be counted all the same.
        track.catch_up(&hosts);
        if summary.state == JobState::Paused {
            track.hold();
        }
    }
    let (verb, id) = ("attach", summary.job);
    let since = Since::Signed { at: summary.created_at, done_at: summary.done_at };
    let mut interrupts = Interrupts::ctrl_c()?;
    let grace = match work {
        Work::Ping(spec) => {
            let job = ping::Job { verb, id, probes: spec.probes, since, ours: Ours::No };
            let wish = Wish::of(&args.follow, &spec);
            return ping::follow(client, job, wish, track, args.after, &mut interrupts).await;
        }
        Work::Command(command) => command.grace,
    };
    let waves = rollout::waves(&rollout, targets.count).len();
    let job = follow::Job { verb, id, names, grace, waves, since };
    Follower::new(client, job, &args.follow, track, args.after).run(&mut interrupts).await
}
