//! `muster agents`: the machines of the fleet: who is there, what they are called, who may stay.

use crate::args::{self, Form};
use crate::client::Client;
use crate::exit::{Exit, Usage};
use crate::settings::Settings;
use crate::show::table::Table;
use crate::show::{self, json, moment, summary};
use clap::Subcommand;
use muster_proto::fleet::{AgentInfo, Facts, Labels, Party};
use muster_proto::name::{HostName, LabelText};
use muster_proto::selection::Selection;
use serde::Serialize;

/// Options of `muster agents`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Only these hosts: names, ranges as web[01-20], globs as db*, labels as role=web; joined by commas
    #[arg(value_name = "EXPR")]
    targets: Option<String>,
    /// Form of the list
    #[arg(short = 'o', value_name = "text|json", value_enum, default_value_t, hide_possible_values = true)]
    form: Form,
    /// Only the names, one a line
    #[arg(long, conflicts_with = "form")]
    names: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show all that is known of an agent
    Show {
        /// Its name
        name: HostName,
    },
    /// Set and remove labels
    Label {
        /// Hosts that are meant, as in the list
        #[arg(value_name = "EXPR")]
        targets: String,
        /// KEY=VALUE sets a label, KEY- removes it
        #[arg(value_name = "CHANGE", required = true)]
        changes: Vec<Change>,
    },
    /// Take an agent's identity away, for good
    Revoke {
        /// Its name or id
        name: String,
    },
    /// Say which of two machines with one identity is the agent; the other one has to enrol anew
    Resolve {
        /// Its name or id
        name: String,
        /// The machine to keep: first or second, as `muster agents show` lists them, or its address, machine id or boot id
        #[arg(long, value_name = "WHICH")]
        keep: String,
    },
    /// Let in a machine that asks; without a fingerprint, list who asks
    Approve {
        /// What the machine printed
        #[arg(value_parser = fingerprint)]
        fingerprint: Option<[u8; 32]>,
        /// Labels that it gets, as role=web,env=prod
        #[arg(long, value_name = "K=V,...", value_parser = args::labels, requires = "fingerprint")]
        labels: Option<Labels>,
    },
}

/// Performs `muster agents`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    // An empty expression means all to the controller; to a user it is a variable that was not set.
    let given = args.targets.as_deref().or(match &args.verb {
        Some(Verb::Label { targets, .. }) => Some(targets),
        _ => None,
    });
    if given.is_some_and(|targets| targets.trim().is_empty()) {
        return Err(Usage("the expression is empty: name hosts, or leave it out to mean all".into()).into());
    }
    let client = settings.connect().await?;
    match args.verb {
        None => {
            let agents = client.agents(&selection(args.targets)).await?;
            list(&agents, args.form, args.names)?;
        }
        Some(Verb::Show { name }) => {
            for agent in client.agents(&selection(Some(name.to_string()))).await? {
                show::data(&details(&agent))?;
            }
        }
        Some(Verb::Label { targets, changes }) => label(&client, targets, &changes).await?,
        Some(Verb::Revoke { name }) => {
            let name = client.revoke(&name).await?;
            show::note(&format!("{name} is let in no more; to have it back, enrol it anew"));
        }
        Some(Verb::Resolve { name, keep }) => {
            let (name, kept) = client.resolve(&name, &keep).await?;
            let address = &kept.address;
            show::note(&format!("{name} is the machine at {address}; to have the other one back, enrol it anew"));
        }
        Some(Verb::Approve { fingerprint: Some(fingerprint), labels }) => {
            let name = client.approve(fingerprint, &labels.unwrap_or_default()).await?;
            show::note(&format!("{name} may come in"));
        }
        Some(Verb::Approve { fingerprint: None, .. }) => list_pending(&client).await?,
    }
    Ok(Exit::Success)
}

fn selection(targets: Option<String>) -> Selection {
    Selection { targets: targets.unwrap_or_default(), ..Selection::default() }
}

fn list(agents: &[AgentInfo], form: Form, names: bool) -> anyhow::Result<()> {
    if names {
        show::data(&agents.iter().map(|agent| format!("{}\n", agent.name)).collect::<String>())?;
    } else if form == Form::Json {
        let list: Vec<_> = agents.iter().map(AgentJson::from).collect();
        show::data(&format!("{}\n", serde_json::to_string(&list)?))?;
    } else if !agents.is_empty() {
        let mut table = Table::new(&["HOST", "STATE", "SINCE", "VERSION", "OS", "LABELS"]);
        for agent in agents {
            let fact = |read: fn(&Facts) -> String| agent.facts.as_ref().map(read).unwrap_or_default();
            table.row(vec![
                agent.name.to_string(),
                state(agent),
                agent.since.map(moment::ago).unwrap_or_default(),
                fact(|facts| facts.agent_version.clone()),
                fact(|facts| format!("{} {}", facts.os, facts.os_version).trim().to_owned()),
                labels_text(&agent.labels),
            ]);
        }
        show::data(&table.to_string())?;
    }
    if agents.is_empty() {
        show::note("no agent is enrolled: make a token with `muster token create`");
    } else if !names && form == Form::Text {
        let connected = agents.iter().filter(|agent| agent.connected).count();
        show::note(&format!("{}, {connected} connected", summary::hosts(agents.len())));
    }
    Ok(())
}

fn state(agent: &AgentInfo) -> String {
    let state = match (agent.revoked_at, &agent.quarantine, agent.connected) {
        (Some(_), ..) => "revoked",
        (None, Some(_), _) => "quarantined",
        (None, None, true) => "connected",
        (None, None, false) => "away",
    };
    match agent.clock.filter(|clock| clock.is_skewed()) {
        Some(clock) => format!("{state}, clock {clock}"),
        None => state.to_owned(),
    }
}

fn labels_text(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn details(agent: &AgentInfo) -> String {
    let since = agent.since.map(|since| format!(" since {}", moment::rfc3339(since))).unwrap_or_default();
    let mut lines = vec![
        ("host", agent.name.to_string()),
        ("id", agent.id.to_string()),
        ("state", format!("{}{since}", state(agent))),
        ("address", agent.address.clone().unwrap_or_default()),
        ("heard", agent.heard_at.map(moment::rfc3339).unwrap_or_default()),
        ("clock", agent.clock.map(|clock| clock.to_string()).unwrap_or_default()),
        ("labels", labels_text(&agent.labels)),
        ("enrolled", moment::rfc3339(agent.enrolled_at)),
    ];
    if let Some(facts) = &agent.facts {
        lines.extend([
            ("hostname", facts.hostname.clone()),
            ("os", facts.os_name.clone()),
            ("kernel", format!("{} {}", facts.kernel, facts.arch)),
            ("cpus", facts.cpus.to_string()),
            ("memory", format!("{:.1} GiB", facts.memory_bytes as f64 / f64::from(1 << 30))),
            ("addresses", facts.addresses.join(" ")),
            ("agent", facts.agent_version.clone()),
            ("tasks end by", facts.containment.clone()),
            ("root", if facts.root { "yes" } else { "no" }.to_owned()),
        ]);
    }
    if let Some(quarantine) = &agent.quarantine {
        lines.push((
            "quarantined",
            format!("since {}: two machines use this identity", moment::rfc3339(quarantine.since)),
        ));
        for (key, party) in ["first", "second"].into_iter().zip(&quarantine.parties) {
            let seen = moment::rfc3339(party.seen_at);
            let Party { address, machine, boot, start, .. } = party;
            lines.push((key, format!("{address}, seen {seen}")));
            lines.extend([
                ("  machine", machine.clone()),
                ("  boot", boot.to_string()),
                ("  start", start.to_string()),
            ]);
        }
    }
    lines.into_iter().map(|(key, value)| format!("{key:<12}  {value}").trim_end().to_owned() + "\n").collect()
}

async fn label(client: &Client, targets: String, changes: &[Change]) -> anyhow::Result<()> {
    let (mut set, mut remove) = (Labels::new(), Vec::new());
    for change in changes {
        let twice = match change {
            Change::Set(key, value) => set.insert(key.clone(), value.clone()).is_some() || remove.contains(key),
            Change::Remove(key) => {
                remove.push(key.clone());
                set.contains_key(key)
            }
        };
        if twice {
            return Err(Usage("a label is changed twice: name each key once".into()).into());
        }
    }
    let names = client.label(&selection(Some(targets)), &set, &remove).await?;
    show::note(&format!(
        "{} labelled: {}",
        summary::hosts(names.len()),
        summary::folded(names.iter().map(HostName::as_str))
    ));
    Ok(())
}

async fn list_pending(client: &Client) -> anyhow::Result<()> {
    let pending = client.pending().await?;
    if pending.is_empty() {
        show::note("nobody asks: `muster-agent enroll` without a token makes a machine ask");
        return Ok(());
    }
    let mut table = Table::new(&["NAME", "ADDRESS", "ASKED", "FINGERPRINT"]);
    for machine in pending {
        let fingerprint = machine.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
        let asked = moment::ago(machine.asked_at);
        table.row(vec![machine.name.to_string(), machine.address, asked, fingerprint]);
    }
    show::data(&table.to_string())?;
    show::note("compare the fingerprint with what the machine prints, then: muster agents approve FINGERPRINT");
    Ok(())
}

/// A change of one label.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Set(LabelText, LabelText),
    Remove(LabelText),
}

impl std::str::FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let word = |text: &str| text.parse().map_err(|error| format!("{error}"));
        match (text.split_once('='), text.strip_suffix('-')) {
            (Some((key, value)), _) => Ok(Self::Set(word(key)?, word(value)?)),
            (None, Some(key)) => Ok(Self::Remove(word(key)?)),
            (None, None) => Err("write KEY=VALUE to set a label, KEY- to remove it".to_owned()),
        }
    }
}

/// 64 hexadecimal digits; colons and either case are taken, as other tools print them.
fn fingerprint(text: &str) -> Result<[u8; 32], &'static str> {
    const REFUSED: &str = "a fingerprint has 64 hexadecimal digits: copy what the machine printed";
    json::unhex(&text.replace(':', "")).ok_or(REFUSED)
}

/// An agent as `-o json` shows it; the shape is public.
#[derive(Serialize)]
struct AgentJson<'a> {
    host: &'a str,
    id: String,
    connected: bool,
    since: Option<String>,
    heard_at: Option<String>,
    clock_offset_ms: Option<i64>,
    quarantine: Option<QuarantineJson<'a>>,
    version: Option<&'a str>,
    labels: std::collections::BTreeMap<&'a str, &'a str>,
    facts: Option<FactsJson<'a>>,
}

#[derive(Serialize)]
struct QuarantineJson<'a> {
    since: String,
    parties: [PartyJson<'a>; 2],
}

#[derive(Serialize)]
struct PartyJson<'a> {
    address: &'a str,
    machine: &'a str,
    boot: String,
    start: String,
    seen_at: String,
}

impl<'a> From<&'a Party> for PartyJson<'a> {
    fn from(party: &'a Party) -> Self {
        Self {
            address: &party.address,
            machine: &party.machine,
            boot: party.boot.to_string(),
            start: party.start.to_string(),
            seen_at: moment::rfc3339(party.seen_at),
        }
    }
}

#[derive(Serialize)]
struct FactsJson<'a> {
    hostname: &'a str,
    os: &'a str,
    os_version: &'a str,
    os_name: &'a str,
    kernel: &'a str,
    arch: &'a str,
    cpus: u32,
    memory_bytes: u64,
    addresses: &'a [String],
    containment: &'a str,
    root: bool,
}

impl<'a> From<&'a AgentInfo> for AgentJson<'a> {
    fn from(agent: &'a AgentInfo) -> Self {
        Self {
            host: agent.name.as_str(),
            id: agent.id.to_string(),
            connected: agent.connected,
            since: agent.since.map(moment::rfc3339),
            heard_at: agent.heard_at.map(moment::rfc3339),
            clock_offset_ms: agent.clock.map(|clock| clock.0),
            quarantine: agent.quarantine.as_ref().map(|quarantine| QuarantineJson {
                since: moment::rfc3339(quarantine.since),
                parties: quarantine.parties.each_ref().map(Into::into),
            }),
            version: agent.facts.as_ref().map(|facts| facts.agent_version.as_str()),
            labels: agent.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
            facts: agent.facts.as_ref().map(|facts| FactsJson {
                hostname: &facts.hostname,
                os: &facts.os,
                os_version: &facts.os_version,
                os_name: &facts.os_name,
                kernel: &facts.kernel,
                arch: &facts.arch,
                cpus: facts.cpus,
                memory_bytes: facts.memory_bytes,
                addresses: &facts.addresses,
                containment: &facts.containment,
                root: facts.root,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_set_or_remove() {
        let word = |text: &str| text.parse::<LabelText>().expect("a word");
        assert_eq!("role=web".parse(), Ok(Change::Set(word("role"), word("web"))));
        assert_eq!("role-".parse(), Ok(Change::Remove(word("role"))));
        for bad in ["", "-", "role", "role=", "=web", "role=web-", "Role-"] {
            assert!(bad.parse::<Change>().is_err(), "{bad}");
        }
    }

    #[test]
    fn fingerprints_are_whole() {
        assert_eq!(fingerprint(&"0a".repeat(32)), Ok([10; 32]));
        assert_eq!(fingerprint(&["0A"; 32].join(":")), Ok([10; 32]));
        for bad in [String::new(), "0a".repeat(31), "0a".repeat(33), "0a".repeat(32) + "0", "0a".repeat(32) + "x"] {
            assert!(fingerprint(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_has_its_public_shape() {
        let agent = AgentInfo {
            id: muster_proto::id::AgentId::from_bytes([0; 16]),
            name: "web01".parse().expect("a name"),
            connected: true,
            since: Some(muster_proto::time::Timestamp::from_millis(0)),
            address: None,
            labels: args::labels("role=web").expect("labels"),
            facts: None,
            enrolled_at: muster_proto::time::Timestamp::from_millis(0),
            revoked_at: None,
            clock: Some(muster_proto::fleet::ClockOffset(-1_500)),
            quarantine: None,
            heard_at: None,
        };
        assert_eq!(
            serde_json::to_string(&AgentJson::from(&agent)).expect("json"),
            r#"{"host":"web01","id":"00000000000000000000000000","connected":true,"since":"1970-01-01T00:00:00.000Z","heard_at":null,"clock_offset_ms":-1500,"quarantine":null,"version":null,"labels":{"role":"web"},"facts":null}"#
        );
    }
}
