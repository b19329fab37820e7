//! Who the agents are: identities and nonces, in memory or in one file of JSON lines, so that the next start need not
//! enrol. A line is written before anybody is told that it is kept; it survives the process, not a power cut.

use anyhow::{Context as _, Result, anyhow, bail};
use muster_agent::identity::{Identity, create_private};
use muster_proto::link::Nonce;
use muster_proto::name::HostName;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Mutex;

/// An agent that was enrolled.
pub(super) struct Member {
    pub(super) identity: Identity,
    pub(super) nonce: Option<Nonce>,
}

/// Where members are kept.
pub(super) struct Roll {
    /// `None` keeps nothing.
    file: Option<Mutex<File>>,
}

impl Roll {
    /// Keeps members in this directory, or nowhere, and reads those that are there.
    pub(super) fn open(state: Option<&Path>) -> Result<(Self, BTreeMap<HostName, Member>)> {
        let Some(state) = state else { return Ok((Self { file: None }, BTreeMap::new())) };
        create_private(state).with_context(|| format!("cannot make {}", state.display()))?;
        let path = state.join("agents.jsonl");
        let at = || format!("cannot use {}: check its owner and the disk", path.display());
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path).with_context(at)?;
        if file.try_lock().is_err() {
            bail!("another muster-sim runs with {}: end it first, or give another --state", state.display());
        }
        let members =
            read(&file).with_context(|| format!("{} is damaged: remove it and enrol again", path.display()))?;
        let roll = Self { file: Some(Mutex::new(file)) };
        Ok((roll, members))
    }

    /// Keeps a new member.
    pub(super) fn add(&self, identity: &Identity) -> Result<()> {
        let line = json!({
            "name": identity.name.as_str(), "agent": identity.agent.to_string(), "cluster": identity.cluster.to_string(),
            "controller": identity.controller, "key": identity.key, "certificate": identity.certificate,
            "controller_ca": identity.controller_ca, "operator_ca": identity.operator_ca,
        });
        if self.write(&line) { Ok(()) } else { Err(anyhow!("cannot keep identities: is the disk full?")) }
    }

    /// Keeps a member's nonce. False if that failed.
    pub(super) fn keep_nonce(&self, name: &HostName, nonce: Nonce) -> bool {
        self.file.is_none() || self.write(&json!({ "name": name.as_str(), "epoch": nonce.epoch, "mac": nonce.mac }))
    }

    fn write(&self, line: &Value) -> bool {
        let Some(file) = &self.file else { return true };
        file.lock().is_ok_and(|mut file| file.write_all(format!("{line}\n").as_bytes()).is_ok())
    }
}

fn read(file: &File) -> Result<BTreeMap<HostName, Member>> {
    let mut members: BTreeMap<HostName, Member> = BTreeMap::new();
    for line in BufReader::new(file).lines() {
        // The last line of a process that was killed may be half.
        let Ok(line) = serde_json::from_str::<Value>(&line?) else { continue };
        let text = |key: &str| line[key].as_str().with_context(|| format!("no {key}")).map(str::to_owned);
        let name: HostName = text("name")?.parse()?;
        if let Some(epoch) = line["epoch"].as_u64() {
            let mac: [u8; 16] = serde_json::from_value(line["mac"].clone())?;
            if let Some(member) = members.get_mut(&name) {
                member.nonce = Some(Nonce { epoch, mac });
            }
            continue;
        }
        let identity = Identity {
            name: name.clone(),
            agent: text("agent")?.parse()?,
            cluster: text("cluster")?.parse()?,
            controller: text("controller")?,
            key: text("key")?,
            certificate: text("certificate")?,
            controller_ca: text("controller_ca")?,
            operator_ca: text("operator_ca")?,
        };
        members.insert(name, Member { identity, nonce: None });
    }
    Ok(members)
}
