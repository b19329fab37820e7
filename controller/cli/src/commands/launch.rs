//! From a selection and a command to a job that is followed: plan, show, ask, sign, submit. Shared by `run` and
//! `rerun`.
//!
//! What was planned is what is signed: the root is computed here, from the very list that is shown and counted.

mod deadline;
mod dry_run;
mod repeats;
mod saved;

pub use repeats::{Repeats, frozen};

use super::family;
use super::follow::{self, Follower, Interrupts, Since};
use crate::args;
use crate::client::{Client, ClientError, Plan};
use crate::exit::{Exit, Usage};
use crate::settings::Settings;
use crate::show::{self, rollout, summary};
use crate::track::{Track, Wait};
use bytes::Bytes;
use muster_proto::command::{BlobRef, Command, Program};
use muster_proto::context::Context;
use muster_proto::id::{ClusterId, JobId};
use muster_proto::job::{JobSpec, TargetList, TargetsDigest, Work};
use muster_proto::limits;
use muster_proto::name::OperatorName;
use muster_proto::ping::TargetName;
use muster_proto::rollout::Rollout;
use muster_proto::seal::Signer;
use muster_proto::selection::Selection;
use muster_proto::time::Timestamp;
use saved::Saved;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

/// From a plan to a job.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Plan")]
#[group(skip)]
pub struct Args {
    /// Show the plan (hosts, count, digest, command) and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Agree beforehand; above the guard only with the very number of hosts
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "COUNT", value_parser = args::number::<usize>(..))]
    pub yes: Option<Option<usize>>,
    /// Print the job's id once it is accepted, and do not follow it; the same as --wait none
    #[arg(short = 'd', long)]
    pub detach: bool,
    /// How answers are shown.
    #[command(flatten)]
    pub follow: follow::Args,
}

/// What is to be done, where, and within which times.
pub struct Request {
    /// The word that begins the closing line.
    pub verb: &'static str,
    /// When it was typed.
    pub typed_at: Instant,
    /// Where.
    pub selection: Selection,
    /// What.
    pub command: Command,
    /// The blobs it names; those that the controller has already may be left out.
    pub blobs: Vec<(BlobRef, Bytes)>,
    /// How long a target whose turn has come may take to start.
    pub deliver: Duration,
    /// From the signature to the end of all starts, where that was said.
    pub job_timeout: Option<Duration>,
    /// What of its rollout depends on the number of hosts.
    pub shares: Shares,
    /// The rest of it.
    pub rollout: Rollout,
    /// The job that it repeats.
    pub repeats: Option<Repeats>,
    /// Where a plan that is only shown is kept as well.
    pub save: Option<PathBuf>,
}

/// So many hosts, or a share of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many, at least 1.
    Hosts(u32),
    /// This share of the plan, rounded up: per cent, 1 to 100.
    Percent(u32),
}

impl Share {
    fn of(self, targets: usize) -> u32 {
        match self {
            Self::Hosts(hosts) => hosts,
            Self::Percent(percent) => {
                let hosts = (targets as u64 * u64::from(percent)).div_ceil(100);
                u32::try_from(hosts).unwrap_or(u32::MAX).max(1)
            }
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, percent) = text.strip_suffix('%').map_or((text, false), |digits| (digits, true));
        match (digits.parse::<u32>(), percent) {
            (Ok(percent @ 1..=100), true) => Ok(Self::Percent(percent)),
            (Ok(hosts @ 1..), false) => Ok(Self::Hosts(hosts)),
            _ => Err("use a number of hosts from 1, or a share from 1% to 100%".to_owned()),
        }
    }
}

/// What of a rollout depends on the number of hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shares {
    /// Hosts at work at a time; `None` leaves it as it is.
    pub concurrency: Option<Share>,
    /// Hosts in each wave; none leaves them as they are.
    pub waves: Vec<Share>,
}

impl Shares {
    /// The rollout for so many targets.
    pub fn of(&self, rollout: &Rollout, targets: usize) -> Rollout {
        let mut rollout = rollout.clone();
        rollout.concurrency = self.concurrency.map(|share| share.of(targets)).or(rollout.concurrency);
        if !self.waves.is_empty() {
            rollout.waves = self.waves.iter().map(|share| share.of(targets)).collect();
        }
        rollout
    }
}

/// Plans, asks where the guard wants it, signs, submits and follows.
pub async fn launch(request: Request, args: &Args, settings: &Settings) -> anyhow::Result<Exit> {
    let context = settings.context()?;
    let client = Client::connect(&context).await?;
    let script = looked_at(&request.command, &request.blobs);
    let gate = request.rollout.gate.as_ref();
    let plan = client.plan_run(&request.selection, &request.command, script, gate).await?;
    match &request.repeats {
        Some(repeats) => {
            let left_out = repeats.check(plan.targets.iter().map(|(target, _)| target))?;
            left_out.iter().for_each(|note| show::note(note));
        }
        None => plan.notes.iter().for_each(|note| show::note(note)),
    }
    let list = agents(&plan);
    let rollout = request.shares.of(&request.rollout, list.count());
    let terms = Terms {
        deliver: request.deliver,
        job_timeout: deadline::job_timeout(request.job_timeout, &rollout, u32::try_from(list.count())?)?,
        rollout,
        rerun_of: request.repeats.map(|repeats| repeats.job),
    };
    let spec = spec(&context, plan.cluster, &list, terms, Work::Command(request.command.clone()))?;
    let waves = rollout::waves(&spec.rollout, spec.targets.count).len();
    if waves == 1 && spec.rollout.gate.is_some() && spec.rerun_of.is_none() {
        show::note("there is one wave only, and no gate after the last: --gate never runs");
    }
    if args.dry_run {
        guard(None, args.yes, list.count(), false)?;
        if let Some(path) = request.save {
            let targets = plan.targets.iter().map(|(target, _)| target.clone()).collect();
            let Request { selection, command, blobs, .. } = request;
            Saved { spec: spec.clone(), command, targets, selection, blobs }.write(&path)?;
            show::note(&format!("written to {0}: `muster run --plan {0}` runs it", path.display()));
        }
        return dry_run::show(&spec, &plan, args.follow.output);
    }
    let ready = Ready { verb: request.verb, typed_at: request.typed_at, spec, list, plan, blobs: request.blobs };
    go(ready, args, &context, client).await
}

/// Runs the plan of a file exactly, or nothing.
pub async fn saved(path: &Path, typed_at: Instant, args: &Args, settings: &Settings) -> anyhow::Result<Exit> {
    let context = settings.context()?;
    let saved = Saved::read(path)?;
    let fresh = anew(&saved.spec, &context).map_err(|error| Usage(format!("{}: {error}", path.display())))?;
    let client = Client::connect(&context).await?;
    let script = looked_at(&saved.command, &saved.blobs);
    let planned = client.plan_run(&saved.selection, &saved.command, script, fresh.rollout.gate.as_ref()).await;
    let plan = planned.map_err(|error| match error {
        ClientError::Usage(text) => ClientError::Usage(format!("{} fits no more: {text}", path.display())),
        other => other,
    })?;
    plan.notes.iter().for_each(|note| show::note(note));
    saved.check(&plan).map_err(|error| Usage(format!("{} fits no more: {error}", path.display())))?;
    let list = TargetList::Agents(saved.targets.into());
    if args.dry_run {
        guard(None, args.yes, list.count(), false)?;
        return dry_run::show(&fresh, &plan, args.follow.output);
    }
    let ready = Ready { verb: "run", typed_at, spec: fresh, list, plan, blobs: saved.blobs };
    go(ready, args, &context, client).await
}

/// A plan that may run if it is agreed to.
struct Ready {
    verb: &'static str,
    typed_at: Instant,
    spec: JobSpec,
    list: TargetList,
    plan: Plan,
    blobs: Vec<(BlobRef, Bytes)>,
}

async fn go(ready: Ready, args: &Args, context: &Context, client: Client) -> anyhow::Result<Exit> {
    let Ready { verb, typed_at, spec, list, plan, blobs } = ready;
    let count = list.count();
    let interactive = io::stdin().is_terminal() && io::stderr().is_terminal();
    let confirmed = match guard(plan.confirm.as_deref(), args.yes, count, interactive)? {
        Guard::Go => None,
        Guard::Agreed => Some(spec.targets.count),
        Guard::Ask => {
            ask(&plan)?;
            Some(spec.targets.count)
        }
    };
    let mut interrupts = Interrupts::ctrl_c()?;
    let Some(id) = hand_over(&client, context, &spec, &list, blobs, confirmed, &mut interrupts).await? else {
        return Ok(Exit::Interrupted);
    };
    if args.detach || args.follow.wait == Wait::None {
        return Ok(say_id(id, count, args.follow.output != follow::Form::Text));
    }
    let names = names(&list);
    let job = follow::Job {
        verb,
        id,
        names: names.clone(),
        grace: spec.work.command().map_or(limits::GRACE_DEFAULT, |command| command.grace),
        waves: rollout::waves(&spec.rollout, spec.targets.count).len(),
        since: Since::Typed(typed_at),
    };
    let exit = Follower::new(client.clone(), job, &args.follow, Track::new(names), 0).run(&mut interrupts).await?;
    if spec.rerun_of.is_some() && exit != Exit::Interrupted {
        family::say(&client, id).await;
    }
    Ok(exit)
}

fn agents(plan: &Plan) -> TargetList {
    TargetList::Agents(plan.targets.iter().map(|(target, _)| target.clone()).collect())
}

/// The beginning of a script, in which the controller looks for danger.
fn looked_at(command: &Command, blobs: &[(BlobRef, Bytes)]) -> Bytes {
    let Program::Script { content, .. } = &command.program else { return Bytes::new() };
    let found = blobs.iter().find(|(blob, _)| blob == content).map(|(_, data)| data);
    found.map(|data| data.slice(..data.len().min(limits::SCRIPT_LOOKED_AT_BYTES))).unwrap_or_default()
}

/// What the targets of a list are called.
pub fn names(list: &TargetList) -> Rc<[TargetName]> {
    list.names().into_iter().map(|(name, _)| name).collect()
}

/// Signs a job and hands it over, with the count if the operator has typed it; `None` where that was interrupted, which
/// is told.
pub async fn hand_over(
    client: &Client,
    context: &Context,
    spec: &JobSpec,
    list: &TargetList,
    blobs: Vec<(BlobRef, Bytes)>,
    confirmed: Option<u32>,
    interrupts: &mut Interrupts,
) -> anyhow::Result<Option<JobId>> {
    let signer = Signer::from_pem(&context.key, &context.certificate).map_err(|error| Usage(error.to_string()))?;
    tokio::select! {
        accepted = client.submit(signer.sign(spec), list, blobs, confirmed) => Ok(Some(accepted?)),
        () = interrupts.recv() => {
            let id = spec.job;
            show::note(&format!("interrupted while the job was handed over: `muster job {id}` says what became of it"));
            Ok(None)
        }
    }
}

/// The only trace of a job that nobody follows; `json` for programs.
pub fn say_id(id: JobId, targets: usize, json: bool) -> Exit {
    let text = if json { format!("{}\n", serde_json::json!({ "job": id.to_string() })) } else { format!("{id}\n") };
    match show::wanted_data(&text) {
        Ok(()) => Exit::Success,
        Err(error) => {
            show::note(&summary::not_shown(&error, id, targets));
            Exit::NotFollowed
        }
    }
}

/// Times and pace of a job, and what it repeats.
#[derive(Debug, Clone)]
pub struct Terms {
    /// How long a target whose turn has come may take to start.
    pub deliver: Duration,
    /// From the signature to the end of all starts.
    pub job_timeout: Duration,
    /// How it goes over its targets.
    pub rollout: Rollout,
    /// The job that it repeats at some of its targets.
    pub rerun_of: Option<JobId>,
}

/// What is to be signed, for the very list that was planned.
pub fn spec(
    context: &Context,
    cluster: ClusterId,
    list: &TargetList,
    terms: Terms,
    work: Work,
) -> anyhow::Result<JobSpec> {
    let root = list.tree().map(|tree| tree.root());
    let root = root.ok_or_else(|| Usage("the selection means no host: name some with -w".to_owned()))?;
    let unsigned = JobSpec {
        cluster,
        job: JobId::from_bytes([0; 16]),
        operator: operator(context)?,
        created_at: Timestamp::default(),
        start_before: Timestamp::default() + terms.job_timeout,
        deliver: terms.deliver,
        targets: TargetsDigest { root, count: u32::try_from(list.count())? },
        rollout: terms.rollout,
        rerun_of: terms.rerun_of,
        work,
    };
    Ok(anew(&unsigned, context)?)
}

/// The same job as one of its own, of now and of this operator.
fn anew(spec: &JobSpec, context: &Context) -> Result<JobSpec, Usage> {
    let cluster = context.cluster.parse().map_err(|_| damaged("cluster"))?;
    if spec.cluster != cluster {
        return Err(Usage(format!(
            "this is for cluster {}, and the context's is {cluster}: choose another --context, or see its address",
            spec.cluster
        )));
    }
    let created_at = Timestamp::from(SystemTime::now());
    let fresh = JobSpec {
        job: JobId::from_bytes(uuid::Uuid::now_v7().into_bytes()),
        operator: operator(context)?,
        created_at,
        start_before: created_at + spec.created_at.until(spec.start_before),
        ..spec.clone()
    };
    fresh.check().map_err(|error| Usage(error.to_string()))?;
    Ok(fresh)
}

fn operator(context: &Context) -> Result<OperatorName, Usage> {
    context.operator.parse().map_err(|_| damaged("operator"))
}

fn damaged(what: &str) -> Usage {
    Usage(format!("the configuration's {what} cannot be read: log in again"))
}

#[derive(Debug, PartialEq, Eq)]
enum Guard {
    /// Nothing has to be asked.
    Go,
    /// The very count was said beforehand.
    Agreed,
    Ask,
}

/// `confirm` is why the controller wants the count typed; `yes` is what was agreed beforehand.
fn guard(confirm: Option<&str>, yes: Option<Option<usize>>, count: usize, interactive: bool) -> Result<Guard, Usage> {
    match (confirm, yes) {
        (_, Some(Some(agreed))) if agreed == count => Ok(Guard::Agreed),
        (_, Some(Some(agreed))) => Err(Usage(format!(
            "--yes={agreed} was said, but the plan has {}: look at it with --dry-run",
            summary::hosts(count)
        ))),
        (None, _) => Ok(Guard::Go),
        (Some(_), _) if interactive => Ok(Guard::Ask),
        (Some(reason), _) => {
            Err(Usage(format!("{reason}: say --yes={count} if that is meant (--yes without a number does not do)")))
        }
    }
}

fn ask(plan: &Plan) -> anyhow::Result<()> {
    let names = plan.targets.iter().map(|(target, _)| target.name.as_str());
    let reason = plan.confirm.as_deref().unwrap_or_default();
    show::note(&format!("{reason}: {}\nType the number of hosts to go on:", summary::folded(names)));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if answer.trim() == plan.targets.len().to_string() {
        return Ok(());
    }
    Err(Usage(format!("{} was not typed: nothing was run", plan.targets.len())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_a_number_or_a_share() {
        for (text, of_seven) in [("1", 1), ("20", 20), ("1%", 1), ("50%", 4), ("100%", 7)] {
            assert_eq!(text.parse::<Share>().map(|share| share.of(7)), Ok(of_seven), "{text}");
        }
        for text in ["", "0", "0%", "101%", "-1", "%", "1.5", "10 %"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_passes_the_guard_by_accident() {
        let reason = Some("60 hosts are many");
        for (confirm, yes, interactive, expected) in [
            (None, None, false, Some(Guard::Go)),
            (None, Some(None), false, Some(Guard::Go)),
            (None, Some(Some(60)), false, Some(Guard::Agreed)),
            (None, Some(Some(59)), true, None),
            (reason, None, false, None),
            (reason, None, true, Some(Guard::Ask)),
            (reason, Some(None), false, None),
            (reason, Some(None), true, Some(Guard::Ask)),
            (reason, Some(Some(60)), false, Some(Guard::Agreed)),
            (reason, Some(Some(6)), true, None),
        ] {
            assert_eq!(guard(confirm, yes, 60, interactive).ok(), expected, "{confirm:?} {yes:?} {interactive}");
        }
        let refused = guard(reason, None, 60, false).expect_err("no terminal");
        assert!(refused.0.contains("--yes=60"), "{refused}");
    }
}
