//! From a selection and a command to a job that is followed: plan, show, ask, sign, submit. Shared by `run` and
//! `rerun`.
//!
//! What was planned is what is signed: the root is computed here, from the very list that is shown and counted.

use super::follow::{self, Follower, Interrupts, Since};
use crate::args;
use crate::client::{Client, Plan, Selection};
use crate::exit::{Exit, Usage};
use crate::settings::Settings;
use crate::show::{self, json, moment, summary};
use crate::track::{Track, Wait};
use bytes::Bytes;
use muster_proto::command::{BlobRef, Command};
use muster_proto::context::Context;
use muster_proto::id::{ClusterId, JobId};
use muster_proto::job::{JobSpec, TargetList, TargetsDigest, Work};
use muster_proto::ping::TargetName;
use muster_proto::seal::Signer;
use muster_proto::time::Timestamp;
use serde::Serialize;
use std::io::{self, IsTerminal as _};
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
    /// From the signature to the end of all starts.
    pub job_timeout: Duration,
    /// Hosts at work at a time; `None` is all.
    pub concurrency: Option<Concurrency>,
}

/// Hosts at work at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    /// So many.
    Hosts(u32),
    /// This share of the plan, rounded up: per cent, 1 to 100.
    Percent(u32),
}

impl Concurrency {
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

impl FromStr for Concurrency {
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

/// Plans, asks where the guard wants it, signs, submits and follows.
pub async fn launch(request: Request, args: &Args, settings: &Settings) -> anyhow::Result<Exit> {
    let context = settings.context()?;
    let client = Client::connect(&context).await?;
    let plan = client.plan(&request.selection).await?;
    let list = TargetList::Agents(plan.targets.iter().map(|(target, _)| target.clone()).collect());
    let count = list.count();
    let times = Times {
        deliver: request.deliver,
        job_timeout: request.job_timeout,
        concurrency: request.concurrency.map(|concurrency| concurrency.of(count)),
    };
    let spec = spec(&context, plan.cluster, &list, &times, Work::Command(request.command.clone()))?;
    if args.dry_run {
        return dry_run(&spec, &request.command, &plan, args.follow.output);
    }
    let interactive = io::stdin().is_terminal() && io::stderr().is_terminal();
    if guard(plan.confirm.as_deref(), args.yes, count, interactive)? == Guard::Ask {
        ask(&plan)?;
    }
    let mut interrupts = Interrupts::ctrl_c()?;
    let Some(id) = hand_over(&client, &context, &spec, &list, request.blobs, &mut interrupts).await? else {
        return Ok(Exit::Interrupted);
    };
    if args.detach || args.follow.wait == Wait::None {
        return Ok(say_id(id, count, args.follow.output != follow::Form::Text));
    }
    let names = names(&list);
    let job = follow::Job {
        verb: request.verb,
        id,
        names: names.clone(),
        grace: request.command.grace,
        since: Since::Typed(request.typed_at),
    };
    Follower::new(client, job, &args.follow, Track::new(names), 0).run(&mut interrupts).await
}

/// What the targets of a list are called.
pub fn names(list: &TargetList) -> Rc<[TargetName]> {
    list.names().into_iter().map(|(name, _)| name).collect()
}

/// Signs a job and hands it over; `None` where that was interrupted, which is told.
pub async fn hand_over(
    client: &Client,
    context: &Context,
    spec: &JobSpec,
    list: &TargetList,
    blobs: Vec<(BlobRef, Bytes)>,
    interrupts: &mut Interrupts,
) -> anyhow::Result<Option<JobId>> {
    let signer = Signer::from_pem(&context.key, &context.certificate).map_err(|error| Usage(error.to_string()))?;
    tokio::select! {
        accepted = client.submit(signer.sign(spec), list, blobs) => Ok(Some(accepted?)),
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

/// Times and pace of a job.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// How long a target may take to start once its turn has come.
    pub deliver: Duration,
    /// From the signature to the end of all starts.
    pub job_timeout: Duration,
    /// Targets at work at a time; `None` is all.
    pub concurrency: Option<u32>,
}

/// What is to be signed, for the very list that was planned.
pub fn spec(
    context: &Context,
    cluster: ClusterId,
    list: &TargetList,
    times: &Times,
    work: Work,
) -> anyhow::Result<JobSpec> {
    let damaged = |what: &str| Usage(format!("the configuration's {what} cannot be read: log in again"));
    if cluster != context.cluster.parse().map_err(|_| damaged("cluster"))? {
        return Err(Usage("the controller is that of another cluster: see the context's address".to_owned()).into());
    }
    let root = list.tree().map(|tree| tree.root());
    let root = root.ok_or_else(|| Usage("the selection means no host: name some with -w".to_owned()))?;
    let created_at = Timestamp::from(SystemTime::now());
    let spec = JobSpec {
        cluster,
        job: JobId::from_bytes(uuid::Uuid::now_v7().into_bytes()),
        operator: context.operator.parse().map_err(|_| damaged("operator"))?,
        created_at,
        start_before: created_at + times.job_timeout,
        deliver: times.deliver,
        targets: TargetsDigest { root, count: u32::try_from(list.count())? },
        attempts_max: 1,
        concurrency: times.concurrency,
        work,
    };
    spec.check().map_err(|error| Usage(error.to_string()))?;
    Ok(spec)
}

#[derive(Debug, PartialEq, Eq)]
enum Guard {
    Go,
    Ask,
}

/// `confirm` is why the controller wants the count typed; `yes` is what was agreed beforehand.
fn guard(confirm: Option<&str>, yes: Option<Option<usize>>, count: usize, interactive: bool) -> Result<Guard, Usage> {
    match (confirm, yes) {
        (_, Some(Some(agreed))) if agreed == count => Ok(Guard::Go),
        (_, Some(Some(agreed))) => Err(Usage(format!(
            "--yes={agreed} was said, but the plan has {}: look at it with --dry-run",
            summary::hosts(count)
        ))),
        (None, _) => Ok(Guard::Go),
        (Some(_), _) if interactive => Ok(Guard::Ask),
        (Some(reason), _) => Err(Usage(format!(
            "{reason}: say --yes={count} if that is meant (--yes alone is taken below the guard only)"
        ))),
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

#[derive(Serialize)]
struct PlanJson {
    targets: u32,
    digest: String,
    argv: Vec<json::Bytes>,
    deliver_timeout_ms: u64,
    timeout_ms: u64,
    job_timeout_ms: u64,
    concurrency: Option<u32>,
    confirm: Option<String>,
    hosts: Vec<PlannedHost>,
}

#[derive(Serialize)]
struct PlannedHost {
    host: String,
    connected: bool,
}

fn dry_run(spec: &JobSpec, command: &Command, plan: &Plan, form: follow::Form) -> anyhow::Result<Exit> {
    let job_timeout = spec.created_at.until(spec.start_before);
    if form != follow::Form::Text {
        let hosts = plan.targets.iter();
        let plan = PlanJson {
            targets: spec.targets.count,
            digest: json::hex(&spec.targets.root),
            argv: json::argv(&command.program.words(usize::MAX)),
            deliver_timeout_ms: json::millis(spec.deliver),
            timeout_ms: json::millis(command.timeout),
            job_timeout_ms: json::millis(job_timeout),
            concurrency: spec.concurrency,
            confirm: plan.confirm.clone(),
            hosts: hosts
                .map(|(target, connected)| PlannedHost { host: target.name.to_string(), connected: *connected })
                .collect(),
        };
        show::data(&format!("{}\n", serde_json::to_string(&plan)?))?;
        return Ok(Exit::Success);
    }
    let names = plan.targets.iter().map(|(target, _)| target.name.as_str());
    let away: Vec<&str> = plan.targets.iter().filter(|(_, on)| !on).map(|(target, _)| target.name.as_str()).collect();
    let mut text = format!("hosts    {} {}\n", spec.targets.count, muster_proto::names::fold(names));
    if !away.is_empty() {
        text.push_str(&format!("away     {} {}\n", away.len(), summary::folded(&away)));
    }
    text.push_str(&format!(
        "digest   {}\ncommand  {}\n",
        json::hex(&spec.targets.root),
        show::command::of_command(command)
    ));
    text.push_str(&format!(
        "times    each starts within {}, all within {}, each runs at most {}\n",
        moment::span(spec.deliver),
        moment::span(job_timeout),
        moment::span(command.timeout)
    ));
    if let Some(at_a_time) = spec.concurrency {
        text.push_str(&format!("at once  {at_a_time}\n"));
    }
    if let Some(reason) = &plan.confirm {
        text.push_str(&format!("guard    {reason}: --yes={}\n", spec.targets.count));
    }
    show::data(&text)?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concurrency_is_a_number_or_a_share() {
        for (text, of_seven) in [("1", 1), ("20", 20), ("1%", 1), ("50%", 4), ("100%", 7)] {
            assert_eq!(text.parse::<Concurrency>().map(|concurrency| concurrency.of(7)), Ok(of_seven), "{text}");
        }
        for text in ["", "0", "0%", "101%", "-1", "%", "1.5", "10 %"] {
            assert!(text.parse::<Concurrency>().is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_passes_the_guard_by_accident() {
        let reason = Some("60 hosts are many");
        for (confirm, yes, interactive, expected) in [
            (None, None, false, Some(Guard::Go)),
            (None, Some(None), false, Some(Guard::Go)),
            (None, Some(Some(60)), false, Some(Guard::Go)),
            (None, Some(Some(59)), true, None),
            (reason, None, false, None),
            (reason, None, true, Some(Guard::Ask)),
            (reason, Some(None), false, None),
            (reason, Some(None), true, Some(Guard::Ask)),
            (reason, Some(Some(60)), false, Some(Guard::Go)),
            (reason, Some(Some(6)), true, None),
        ] {
            assert_eq!(guard(confirm, yes, 60, interactive).ok(), expected, "{confirm:?} {yes:?} {interactive}");
        }
        let refused = guard(reason, None, 60, false).expect_err("no terminal");
        assert!(refused.0.contains("--yes=60"), "{refused}");
    }
}
