//! `muster-sim`: many agents in one process, over real mTLS, that answer instead of executing, so that anybody can size a
//! controller.
//!
//! ```text
//! sim.rs      enrol, dial, say how it went        task.rs     one task: output, end, what was told
//! agent.rs    one agent: link, memory, manners    gate.rs     a signed job is verified once
//! roll.rs     who they are                        tally.rs    counts, and the witness of every start
//! probe.rs    probes that nobody sends
//! ```

mod agent;
mod gate;
mod probe;
mod random;
mod roll;
mod tally;
mod task;

use agent::{Agent, Memory, Session};
use anyhow::{Context as _, Result, bail, ensure};
use gate::Verified;
use muster_agent::admit::{Door, Users};
use muster_agent::process::{self, Containment};
use muster_agent::session::Link;
use muster_agent::settings::Credential;
use muster_agent::{enrol, facts};
use muster_proto::fleet::Facts;
use muster_proto::id::{BootId, StartId};
use muster_proto::name::HostName;
use muster_proto::tls;
use muster_proto::token::Token;
use random::Random;
use roll::{Member, Roll};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tally::Tally;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Enrolments under way, and first dials under way: what a fleet that grows does to a controller, not what a flood does.
const AT_A_TIME: usize = 128;
/// Descriptors beside one for each agent.
const DESCRIPTORS_BESIDE: u64 = 64;

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many agents.
    pub agents: u32,
    /// Their names are this and a number from 1.
    pub name_prefix: String,
    /// `HOST:PORT` of the controller's enrolment listener.
    pub controller: Option<String>,
    /// For those that are not enrolled.
    pub token: Option<Token>,
    /// Where identities are kept; `None` keeps them in memory.
    pub state: Option<PathBuf>,
    /// What each task does.
    pub answers: Answers,
    /// Each agent's link is cut after a random time of this mean.
    pub flap: Option<Duration>,
    /// Equal seeds give equal delays, failures and cuts.
    pub seed: u64,
}

/// What each task does.
#[derive(Debug, Clone)]
pub struct Answers {
    /// Bytes on stdout.
    pub output: u64,
    /// From start to end, and the round trip of probes.
    pub delay: Duration,
    /// At most so much more, evenly.
    pub jitter: Duration,
    /// The part of tasks that exit with 1, and of probes without an answer: 0 to 1.
    pub fail_rate: f64,
    /// The same of gates.
    pub gate_fail_rate: f64,
}

/// What each task writes when it writes so many bytes.
pub fn output(bytes: usize) -> Vec<u8> {
    let mut output = task::BLOCK.repeat(bytes.div_ceil(task::BLOCK.len()));
    output.truncate(bytes);
    output
}

/// What all agents have in common.
struct Shared {
    settings: Settings,
    verified: Verified,
    roll: Roll,
    tally: Tally,
    boot: BootId,
}

/// Simulates until `stop`; `say` is told one line at each stage, and at the end what happened. Fails at once if a task
/// started twice.
pub async fn run(settings: Settings, stop: impl Future<Output = ()>, say: impl Fn(&str)) -> Result<()> {
    raise_descriptors(settings.agents)?;
    let total = settings.agents;
    let (roll, members) = Roll::open(settings.state.as_deref())?;
    say(&format!("sim: seed {}", settings.seed));
    let members = enrolled(&settings, &roll, members, &say).await?;
    let operators = members.first().context("no agents")?.identity.operator_trust()?;
    let boot = process::boot_id().context("cannot read the kernel's boot id")?;
    let verified = Verified::new(operators);
    let shared = Arc::new(Shared { settings, verified, roll, tally: Tally::default(), boot });
    let (mut arrived, mut connected) = (shared.tally.arrived.subscribe(), shared.tally.connected.subscribe());
    let mut double = shared.tally.double.subscribe();
    let work = async {
        let begun = Instant::now();
        let _agents = start(&shared, members).await?;
        // The sender lives in `shared`.
        arrived.wait_for(|arrived| *arrived == total).await?;
        say(&format!("sim: {total} agents connected in {:.2} s", begun.elapsed().as_secs_f64()));
        loop {
            connected.wait_for(|connected| *connected < total).await?;
            let begun = Instant::now();
            connected.wait_for(|connected| *connected == total).await?;
            if shared.settings.flap.is_none() {
                say(&format!("sim: {total} agents connected again after {:.2} s", begun.elapsed().as_secs_f64()));
            }
        }
    };
    let ended: Result<()> = tokio::select! {
        ended = work => ended,
        task = double.wait_for(Option::is_some) => {
            let task = task.ok().and_then(|task| *task);
            Err(anyhow::anyhow!("task {} started twice: this must never happen", task.map_or_else(String::new, |task| task.to_string())))
        }
        () = stop => Ok(()),
    };
    say(&format!("sim: {}", shared.tally));
    ended
}

/// All members by their names' order; those that are missing enrol.
async fn enrolled(
    settings: &Settings,
    roll: &Roll,
    mut members: BTreeMap<HostName, Member>,
    say: &impl Fn(&str),
) -> Result<Vec<Member>> {
    let width = 5.max(settings.agents.to_string().len());
    let name = |number: u32| format!("{}{number:0width$}", settings.name_prefix).parse::<HostName>();
    let names: Vec<HostName> = (1..=settings.agents).map(name).collect::<Result<_, _>>()?;
    let missing: Vec<_> = names.iter().filter(|name| !members.contains_key(*name)).cloned().collect();
    if !missing.is_empty() {
        let Some(token) = &settings.token else {
            bail!("{} agents are not enrolled: give --token with what `muster token create` printed", missing.len());
        };
        let controller = settings.controller.clone().or_else(|| Some(token.address.clone())).filter(|a| !a.is_empty());
        let controller = Arc::new(controller.context("say where to enrol: --controller HOST:PORT")?);
        let credential = Arc::new(Credential::Token(token.clone()));
        let (begun, count) = (Instant::now(), missing.len());
        let (mut under_way, mut missing) = (JoinSet::new(), missing.into_iter());
        loop {
            while under_way.len() < AT_A_TIME
                && let Some(name) = missing.next()
            {
                let (controller, credential) = (Arc::clone(&controller), Arc::clone(&credential));
                under_way.spawn(async move { enrol::issue(&controller, &name, &credential, |_| ()).await });
            }
            let Some(done) = under_way.join_next().await else { break };
            let identity = done.context("an enrolment broke off")??;
            roll.add(&identity)?;
            members.insert(identity.name.clone(), Member { identity, nonce: None });
        }
        let seconds = begun.elapsed().as_secs_f64();
        let a_minute = f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds * 60.0;
        say(&format!("sim: {count} agents enrolled in {seconds:.2} s: {a_minute:.0} a minute"));
    }
    Ok(names.iter().filter_map(|name| members.remove(name)).collect())
}

/// Starts the agents, so many at a time. They end with what is returned.
async fn start(shared: &Arc<Shared>, members: Vec<Member>) -> Result<JoinSet<()>> {
    let dials = Arc::new(Semaphore::new(AT_A_TIME));
    let like = facts::collect(&Containment::ProcessGroup);
    let born_at = SystemTime::now().into();
    let mut agents = JoinSet::new();
    for (number, Member { identity, nonce }) in (1..).zip(members) {
        let permit = Arc::clone(&dials).acquire_owned().await?;
        let mut start = [0; 16];
        getrandom::fill(&mut start).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
        let own = tls::Identity::from_pem(&identity.certificate, &identity.key)?;
        let agent = Agent {
            link: Link {
                tls: Arc::new(tls::client_config(own, &identity.controller_issuer()?)?),
                facts: Facts { hostname: identity.name.to_string(), ..like.clone() },
                controller: identity.controller.clone(),
                cluster: identity.cluster,
            },
            door: Door {
                operators: identity.operator_trust()?,
                agent: identity.agent,
                name: identity.name,
                born_at,
                users: Users::All,
            },
            shared: Arc::clone(shared),
            start: StartId::from_bytes(start),
            random: Random::new(shared.settings.seed, number),
            nonce,
            memory: Memory::default(),
            session: Session::default(),
        };
        agents.spawn(agent.live(permit));
    }
    Ok(agents)
}

/// As many descriptors as we may have, if that is enough.
fn raise_descriptors(agents: u32) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")?;
    let (wanted, most) = (u64::from(agents) + DESCRIPTORS_BESIDE, limit.maximum.unwrap_or(u64::MAX));
    ensure!(
        wanted <= most,
        "{agents} agents need {wanted} open files, and this process may have {most}: raise `ulimit -Hn`, or start \
         several muster-sim, each with its own --name-prefix"
    );
    Ok(())
}
