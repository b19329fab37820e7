//! `muster ping`: which hosts answer, from the controller and from agents.
//!
//! A ping is a job as `run` makes one: planned, signed, kept, followed. It does nothing to a host, so no guard asks.

pub mod follow;
mod options;
mod schedule;
mod status;

use super::follow::{Interrupts, Since};
use super::launch::{self, Times};
use crate::client::{Client, Selection};
use crate::exit::{Exit, Usage};
use crate::settings::Settings;
use crate::show::ping::matrix::Groups;
use crate::show::{self, json, moment};
use crate::track::{Track, Wait};
use follow::{Job, Ours, Wish, follow};
use muster_proto::context::Context;
use muster_proto::fleet::AgentInfo;
use muster_proto::job::{JobSpec, TargetList, Work};
use muster_proto::name::LabelText;
use muster_proto::names::fold;
use muster_proto::ping::{PingList, PingSelection, PingSpec};
use options::{Form, Hosts, Looks, Output};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Options of `muster ping`.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "muster ping [OPTIONS] HOST...\n       muster ping [OPTIONS] -w EXPR\n       muster ping COMMAND",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_help = "A host that is called as a command is: muster ping -- status"
)]
pub struct Args {
    #[command(subcommand)]
    repeated: Option<Repeated>,
    #[command(flatten)]
    hosts: Hosts,
    #[command(flatten)]
    looks: Looks,
    #[command(flatten)]
    output: Output,
    /// How long an agent of --from that is not connected is waited for
    #[arg(short = 't', long, value_name = "TIME", value_parser = options::with_unit, default_value = "30s", help_heading = "Plan")]
    deliver_timeout: Duration,
    /// Show the plan (hosts, count, digest, probes) and do nothing
    #[arg(long, help_heading = "Plan")]
    dry_run: bool,
    /// Print the job's id once it is accepted, and do not follow it
    #[arg(short = 'd', long, help_heading = "Plan")]
    detach: bool,
}

/// What there is to pings that the controller repeats.
#[derive(Debug, clap::Subcommand)]
enum Repeated {
    /// Have the controller repeat a ping, and keep how its hosts were
    Schedule(Box<schedule::Args>),
    /// List the pings that the controller repeats
    Schedules(schedule::ListArgs),
    /// End one, and forget what it found
    Unschedule(schedule::RemoveArgs),
    /// Show how the hosts of schedules were
    Status(status::Args),
}

/// What is asked, of whom.
pub struct Request {
    /// The word that begins the closing line.
    pub verb: &'static str,
    /// When it was typed.
    pub typed_at: Instant,
    /// Of whom, and from where.
    pub selection: PingSelection,
    /// Within which times.
    pub times: Times,
    /// What.
    pub spec: PingSpec,
}

/// What is done with the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is shown.
    DryRun,
    /// It is handed over, and the id is shown.
    Detach,
    /// It is handed over and followed.
    Follow,
}

impl Mode {
    /// What the two options say.
    pub const fn of(dry_run: bool, detach: bool) -> Self {
        match (dry_run, detach) {
            (true, _) => Self::DryRun,
            (false, true) => Self::Detach,
            (false, false) => Self::Follow,
        }
    }
}

/// Performs `muster ping`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let typed_at = Instant::now();
    let Args { repeated, hosts, looks, output, deliver_timeout, dry_run, detach } = args;
    match repeated {
        Some(Repeated::Schedule(args)) => return schedule::make(*args, settings).await,
        Some(Repeated::Schedules(args)) => return schedule::list(args, settings).await,
        Some(Repeated::Unschedule(args)) => return schedule::remove(args, settings).await,
        Some(Repeated::Status(args)) => return status::run(args, settings).await,
        None => {}
    }
    let spec = looks.spec(&output)?;
    let job_timeout = looks.job_timeout(&output)?;
    let times = Times { deliver: deliver_timeout, job_timeout, concurrency: None };
    let request = Request { verb: "ping", typed_at, selection: hosts.selection()?, times, spec };
    let context = settings.context()?;
    let client = Client::connect(&context).await?;
    let groups = groups(&client, output.by.as_ref()).await?;
    let json = output.form != Form::Text;
    let (style, interval) = output.style(&request.spec, groups);
    let wish = Wish { style, interval, wait: Wait::All, expect: output.expect };
    launch(request, Mode::of(dry_run, detach), json, wish, |_| Ok(()), client, &context).await
}

/// The value that each agent has of a label.
async fn groups(client: &Client, by: Option<&LabelText>) -> anyhow::Result<Groups> {
    let Some(by) = by else { return Ok(Groups::default()) };
    let agents = client.agents(&Selection::default()).await?;
    let word = |agent: AgentInfo| Some((agent.name.to_string(), agent.labels.get(by)?.to_string()));
    Ok(Groups(Some(agents.into_iter().filter_map(word).collect())))
}

/// Plans, signs, submits and follows; `check` may refuse the plan. `json` is for the id and the plan.
pub async fn launch(
    request: Request,
    mode: Mode,
    json: bool,
    wish: Wish,
    check: impl FnOnce(&PingList) -> Result<(), Usage>,
    client: Client,
    context: &Context,
) -> anyhow::Result<Exit> {
    let Request { verb, typed_at, selection, times, spec: ping } = request;
    let probes = ping.probes;
    let plan = client.plan_ping(selection).await?;
    check(&plan.list)?;
    plan.notes.iter().for_each(|note| show::note(&format!("note: {note}")));
    let pings = Arc::new(plan.list);
    let list = TargetList::Pings(pings.clone());
    let spec = launch::spec(context, plan.cluster, &list, &times, Work::Ping(ping))?;
    if mode == Mode::DryRun {
        return dry_run(&spec, &pings, json);
    }
    let mut interrupts = Interrupts::all()?;
    let Some(id) = launch::hand_over(&client, context, &spec, &list, Vec::new(), &mut interrupts).await? else {
        return Ok(Exit::Interrupted);
    };
    if mode == Mode::Detach {
        return Ok(launch::say_id(id, list.count(), json));
    }
    let job = Job { verb, id, probes, since: Since::Typed(typed_at), ours: Ours::Yes };
    follow(client, job, wish, Track::new(launch::names(&list)), 0, &mut interrupts).await
}

#[derive(Serialize)]
struct PlanJson<'a> {
    targets: u32,
    digest: String,
    argv: Vec<json::Bytes>,
    deliver_timeout_ms: u64,
    job_timeout_ms: u64,
    hosts: Vec<PlannedPair<'a>>,
}

#[derive(Serialize)]
struct PlannedPair<'a> {
    host: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
}

fn dry_run(spec: &JobSpec, list: &PingList, json: bool) -> anyhow::Result<Exit> {
    let job_timeout = spec.created_at.until(spec.start_before);
    if json {
        let pairs = list.pairs().iter().map(|pair| PlannedPair {
            host: list.host(*pair).name.as_str(),
            from: list.vantage(*pair).map(|from| from.name.as_str()),
        });
        let plan = PlanJson {
            targets: spec.targets.count,
            digest: json::hex(&spec.targets.root),
            argv: json::argv(&spec.work.words(usize::MAX)),
            deliver_timeout_ms: json::millis(spec.deliver),
            job_timeout_ms: json::millis(job_timeout),
            hosts: pairs.collect(),
        };
        show::data(&format!("{}\n", serde_json::to_string(&plan)?))?;
        return Ok(Exit::Success);
    }
    let hosts = list.hosts().iter().map(|host| host.name.as_str());
    let controller = list.pairs().iter().any(|pair| pair.from.is_none()).then_some("controller");
    let from = controller.into_iter().chain(list.vantages().iter().map(|from| from.name.as_str()));
    show::data(&format!(
        "targets  {}\nhosts    {} {}\nfrom     {}\ndigest   {}\ncommand  {}\ntimes    ends within {}\n",
        spec.targets.count,
        list.hosts().len(),
        fold(hosts),
        fold(from),
        json::hex(&spec.targets.root),
        spec.work.title(),
        moment::span(job_timeout),
    ))?;
    Ok(Exit::Success)
}
