//! `muster ping`: which hosts answer, from the controller and from agents.
//!
//! A ping is a job as `run` makes one: planned, signed, kept, followed. It does nothing to a host, so no guard asks.

pub mod follow;
mod hosts;
mod options;
mod plan;
mod schedule;
mod status;

use super::follow::{Interrupts, Since};
use super::launch::{self, Terms};
use crate::client::Client;
use crate::exit::{Exit, Usage};
use crate::settings::Settings;
use crate::show;
use crate::show::ping::matrix::Groups;
use crate::track::{Track, Wait};
use follow::{Job, Ours, Wish, follow};
use hosts::Hosts;
use muster_proto::context::Context;
use muster_proto::fleet::AgentInfo;
use muster_proto::job::{TargetList, Work};
use muster_proto::limits;
use muster_proto::name::LabelText;
use muster_proto::ping::{PingList, PingSelection, PingSpec};
use muster_proto::rollout::Rollout;
use muster_proto::selection::Selection;
use options::{Fping, Looks, Output};
use std::collections::HashMap;
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
    #[command(flatten)]
    fping: Fping,
    /// How long an agent of --from that is not connected is waited for [default: 30s]; fping's -t is --timeout
    #[arg(short = 't', long, value_name = "TIME", value_parser = options::with_unit, help_heading = "Plan")]
    deliver_timeout: Option<Duration>,
    /// Show the plan (hosts, digest, probes, packets, how long it takes) and do nothing
    #[arg(long, help_heading = "Plan")]
    dry_run: bool,
    /// Print the job's id once it is accepted, and do not follow it
    #[arg(short = 'd', long, help_heading = "Plan", conflicts_with_all = FOLLOWED)]
    detach: bool,
}

/// What has a meaning only while a ping is followed.
const FOLLOWED: [&str; 7] = ["alive", "dead", "watch", "interval_stats", "matrix", "expect", "show"];

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
    /// How long an agent that is to look is waited for.
    pub deliver: Duration,
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
    let Args { repeated, hosts, looks, output, fping, deliver_timeout, dry_run, detach } = args;
    match repeated {
        Some(Repeated::Schedule(args)) => return schedule::make(*args, settings).await,
        Some(Repeated::Schedules(args)) => return schedule::list(args, settings).await,
        Some(Repeated::Unschedule(args)) => return schedule::remove(args, settings).await,
        Some(Repeated::Status(args)) => return status::run(args, settings).await,
        None => {}
    }
    fping.check()?;
    if deliver_timeout.is_some() && !hosts.have_lookers() {
        let text = "-t is how long agents of --from are waited for; for answers use --timeout";
        return Err(Usage(text.to_owned()).into());
    }
    let mode = Mode::of(dry_run, detach);
    let json = mode != Mode::Follow && output.is_json()?;
    let spec = looks.spec(&output)?;
    let deliver = deliver_timeout.unwrap_or(limits::DELIVER_DEFAULT);
    let request = Request { verb: "ping", typed_at, selection: hosts.selection()?, deliver, spec };
    let context = settings.context()?;
    let client = Client::connect(&context).await?;
    let groups = groups(&client, output.by.as_ref()).await?;
    let (style, interval) = output.style(&request.spec, groups);
    let wish = Wish { style, interval, wait: Wait::All, expect: output.expect };
    launch(request, mode, json, wish, |_| Ok(()), client, &context).await
}

/// The value that each agent has of a label.
async fn groups(client: &Client, by: Option<&LabelText>) -> anyhow::Result<Groups> {
    let Some(by) = by else { return Ok(Groups::default()) };
    let agents = client.agents(&Selection::default()).await?;
    let word = |agent: AgentInfo| Some((agent.name.to_string(), agent.labels.get(by)?.to_string()));
    let words: HashMap<_, _> = agents.into_iter().filter_map(word).collect();
    if words.is_empty() {
        return Err(Usage(format!("--by {by}: no agent has this label; `muster agents` lists what they have")).into());
    }
    Ok(Groups(Some(words)))
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
    let Request { verb, typed_at, selection, deliver, spec: ping } = request;
    let probes = ping.probes;
    let plan = client.plan_ping(selection).await?;
    check(&plan.list)?;
    plan.notes.iter().for_each(|note| show::note(&format!("note: {note}")));
    let job_timeout = plan::job_timeout(&plan.list, &ping)?;
    let terms = Terms { deliver, job_timeout, rollout: Rollout::default(), rerun_of: None };
    let pings = Arc::new(plan.list);
    let list = TargetList::Pings(pings.clone());
    let spec = launch::spec(context, plan.cluster, &list, terms, Work::Ping(ping))?;
    if mode == Mode::DryRun {
        return plan::show(&spec, &pings, json);
    }
    let mut interrupts = Interrupts::all()?;
    let Some(id) = launch::hand_over(&client, context, &spec, &list, Vec::new(), None, &mut interrupts).await? else {
        return Ok(Exit::Interrupted);
    };
    if mode == Mode::Detach {
        return Ok(launch::say_id(id, list.count(), json));
    }
    let job = Job { verb, id, probes, since: Since::Typed(typed_at), ours: Ours::Yes };
    follow(client, job, wish, Track::new(launch::names(&list)), 0, &mut interrupts).await
}
