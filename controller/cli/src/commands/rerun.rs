//! `muster rerun`: the command of an earlier job once more, where it did not end as it should; at the end it is said
//! what all these jobs mean together.
//!
//! The old job's signature is verified before its command is signed anew, and its hosts are those that were signed: a
//! controller cannot slip in another command, nor another host.

use super::follow;
use super::launch::{self, Repeats, Request, Shares, frozen, launch};
use super::ping::follow::Wish;
use super::ping::{self, Mode};
use super::run::said;
use crate::args::{self, JobRef};
use crate::client::{Client, ClientError, JobDetails};
use crate::exit::{Exit, Usage};
use crate::settings::Settings;
use crate::track::Wait;
use muster_proto::context::Context;
use muster_proto::id::JobId;
use muster_proto::job::{JobHost, JobSpec, SignedJob, Target, Work};
use muster_proto::name::HostName;
use muster_proto::outcome::State;
use muster_proto::ping::{ControllerLooks, PingList, PingSelection, TargetName};
use muster_proto::seal::OperatorTrust;
use muster_proto::selection::{Missing, Selection};
use muster_proto::tls;
use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

/// Options of `muster rerun`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job: its id, the beginning of it, or last for your newest
    #[arg(value_name = "ID", value_parser = args::job)]
    job: JobRef,
    #[command(flatten)]
    which: Which,
    /// Hosts to leave out
    #[arg(short = 'x', long, value_name = "EXPR")]
    exclude: Vec<String>,
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
    /// Hosts where it succeeded
    #[arg(long)]
    ok: bool,
    /// Hosts that ended in these states
    #[arg(long, value_name = "STATE,...", value_delimiter = ',')]
    state: Vec<State>,
}

impl Which {
    fn includes(&self, state: State) -> bool {
        self.failed && state.is_failure()
            || self.not_run && state.is_not_run()
            || self.ok && state == State::Succeeded
            || self.state.contains(&state)
    }
}

/// Performs `muster rerun`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let typed_at = Instant::now();
    args.launch.follow.check()?;
    let exclude = said("-x", args.exclude)?;
    let context = settings.context()?;
    let client = Client::connect(&context).await?;
    let job = args.job.find(&client).await?;
    let JobDetails { signed, hosts, .. } = client.job(job).await?;
    let chosen = chosen(&hosts, |state| args.which.includes(state));
    if chosen.is_empty() {
        return Err(Usage(format!("no host of job {job} ended so: see `muster job {job}`")).into());
    }
    let old = verified(&context, job, &signed)?;
    let command = match old.work {
        Work::Command(command) => command,
        Work::Ping(_) if !exclude.is_empty() => {
            let text = "-x is for commands: say anew who looks and at what with `muster ping -w EXPR -x EXPR`";
            return Err(Usage(text.to_owned()).into());
        }
        Work::Ping(spec) => {
            let chosen: Vec<TargetName> = chosen.into_iter().map(|host| host.name.clone()).collect();
            let request =
                ping::Request { verb: "rerun", typed_at, selection: selection(&chosen), deliver: old.deliver, spec };
            let json = args.launch.follow.output != follow::Form::Text;
            let mode = Mode::of(args.launch.dry_run, args.launch.detach || args.launch.follow.wait == Wait::None);
            let wish = Wish::of(&args.launch.follow, &request.spec);
            return ping::launch(request, mode, json, wish, |list| is_whole(list, &chosen), client, &context).await;
        }
    };
    let names: HashSet<&TargetName> = chosen.into_iter().map(|host| &host.name).collect();
    let frozen = frozen(old.targets, &hosts)
        .ok_or_else(|| refused(job, "the hosts that the controller names are not those that were signed"))?;
    let mut repeated: Vec<Target> = frozen
        .into_iter()
        .zip(&hosts)
        .filter(|(_, host)| names.contains(&host.name))
        .map(|(target, _)| target)
        .collect();
    if !exclude.is_empty() {
        // On its own, where a name that nobody bears is a slip, and not a host that has gone since.
        let out = client.plan(&Selection { targets: exclude, ..Selection::default() }).await?;
        let out: HashSet<HostName> = out.targets.into_iter().map(|(target, _)| target.name).collect();
        repeated.retain(|target| !out.contains(&target.name));
        if repeated.is_empty() {
            return Err(Usage("-x leaves out all of these hosts".to_owned()).into());
        }
    }
    let request = Request {
        verb: "rerun",
        typed_at,
        selection: Selection {
            names: repeated.iter().map(|target| target.name.to_string()).collect(),
            missing: Missing::LeftOut,
            ..Selection::default()
        },
        command,
        // The controller kept those of the old job.
        blobs: Vec::new(),
        deliver: old.deliver,
        job_timeout: Some(old.created_at.until(old.start_before)),
        shares: Shares::default(),
        rollout: old.rollout,
        repeats: Some(Repeats { job, hosts: repeated }),
        save: None,
    };
    launch(request, &args.launch, settings).await
}

fn chosen(hosts: &[JobHost], includes: impl Fn(State) -> bool) -> Vec<&JobHost> {
    let ended_so = |host: &&JobHost| host.outcome.as_ref().is_some_and(|outcome| includes(outcome.state));
    hosts.iter().filter(ended_so).collect()
}

/// Everybody who looked, at every host: pings are planned so.
fn selection(chosen: &[TargetName]) -> PingSelection {
    let from: BTreeSet<&HostName> = chosen.iter().filter_map(|name| name.from.as_ref()).collect();
    let mut known = HashSet::new();
    let hosts = chosen.iter().map(|name| &name.host).filter(|host| known.insert(*host));
    let names: Vec<&str> = from.iter().map(|name| name.as_str()).collect();
    PingSelection {
        hosts: hosts.map(ToString::to_string).collect(),
        from: (!names.is_empty()).then(|| names.join(",")),
        controller: match chosen.iter().any(|name| name.from.is_none()) {
            true => ControllerLooks::Yes,
            false => ControllerLooks::No,
        },
        ..PingSelection::default()
    }
}

/// Refuses a plan that looks from elsewhere, or at others, than what was chosen.
fn is_whole(list: &PingList, chosen: &[TargetName]) -> Result<(), Usage> {
    let chosen: HashSet<&TargetName> = chosen.iter().collect();
    let planned = list.pairs().iter().map(|pair| list.name(*pair));
    if list.pairs().len() == chosen.len() && { planned }.all(|name| chosen.contains(&name)) {
        return Ok(());
    }
    Err(Usage(
        "these are not all pairs of some who look and some hosts, and a part of a mesh cannot be asked for: say anew \
         who looks and at what with `muster ping --from EXPR -w EXPR`"
            .to_owned(),
    ))
}

fn verified(context: &Context, job: JobId, signed: &SignedJob) -> anyhow::Result<JobSpec> {
    let damaged = |what: &str| Usage(format!("the configuration's {what} cannot be read: log in again"));
    let cluster = context.cluster.parse().map_err(|_| damaged("cluster"))?;
    let issuer = tls::certificate_from_pem(&context.operator_ca).map_err(|_| damaged("operator CA"))?;
    let trust = OperatorTrust::new(cluster, issuer).map_err(|_| damaged("operator CA"))?;
    let old = trust.open(signed).map_err(|error| refused(job, &error.to_string()))?;
    if old.job != job {
        return Err(refused(job, "the controller answered with another job").into());
    }
    Ok(old)
}

fn refused(job: JobId, why: &str) -> ClientError {
    ClientError::Refused(format!("job {job} is not signed anew: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::id::AgentId;

    #[test]
    fn states_are_chosen_by_what_is_known_of_them() {
        let which = |failed, not_run, state: &[State]| {
            let which = Which { failed, not_run, ok: false, state: state.to_vec() };
            State::ALL.into_iter().filter(|state| which.includes(*state)).collect::<Vec<_>>()
        };
        assert_eq!(which(true, false, &[]), [State::Failed, State::TimedOut, State::Cancelled, State::StartFailed]);
        assert_eq!(
            which(false, true, &[]),
            [State::StartFailed, State::Rejected, State::Unreachable, State::Expired, State::Skipped]
        );
        assert_eq!(which(false, false, &[State::Indeterminate]), [State::Indeterminate]);
        let ok = Which { failed: false, not_run: false, ok: true, state: Vec::new() };
        assert!(State::ALL.into_iter().filter(|state| ok.includes(*state)).eq([State::Succeeded]));
        // What may have run is never run again unless it is named.
        assert!(!which(true, true, &[]).contains(&State::Indeterminate));
    }

    #[test]
    fn a_part_of_a_mesh_is_not_taken_for_the_whole() {
        use crate::board::tests::name;
        use muster_proto::ping::{Pair, PingHost};
        let named = |texts: &[&str]| texts.iter().map(|text| name(text)).collect::<Vec<_>>();
        let whole = named(&["n2>a", "n1>a", "n1>b", "n2>b"]);
        let asked = selection(&whole);
        assert_eq!((asked.from.as_deref(), asked.controller), (Some("n1,n2"), ControllerLooks::No));
        assert_eq!(asked.hosts, ["a", "b"]);
        let vantage =
            |n: u8| Target { agent: AgentId::from_bytes([n; 16]), name: format!("n{n}").parse().expect("good") };
        let hosts = ["a", "b"].map(|text| PingHost { name: text.parse().expect("good"), agent: None }).to_vec();
        let pairs = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(from, to)| Pair { from: Some(from), to }).to_vec();
        let list = PingList::new(vec![vantage(1), vantage(2)], hosts, pairs).expect("a list");
        assert_eq!(is_whole(&list, &whole), Ok(()));
        assert!(is_whole(&list, &whole[1..]).is_err());
        assert!(is_whole(&list, &named(&["n2>a", "n1>a", "n1>b", "b"])).is_err());
    }
}
