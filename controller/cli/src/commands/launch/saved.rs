//! A plan in a file: it runs exactly as it was looked at, or not at all.
//!
//! The encoded job in it is the one truth. The readable part says the same for people and for review, and has to: a
//! file in which it differs was edited, and is refused. Whoever runs the plan signs it, with an id and times of its own.

use crate::client::Plan;
use crate::exit::Usage;
use crate::show::rollout::RolloutJson;
use crate::show::{command, json, moment, summary};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use muster_proto::command::{BlobRef, Command, OutputLimit};
use muster_proto::job::{JobSpec, Target, Work, target_tree};
use muster_proto::names;
use muster_proto::selection::{Missing, Selection};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The form of the file. Another one is refused.
const FORMAT: u32 = 1;
/// A larger file is not read: bytes. A plan of 100,000 hosts with the largest script and stdin has less.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// A plan with all that is needed to run it.
#[derive(Debug)]
pub struct Saved {
    /// The job, with the id and the times of when it was planned.
    pub spec: JobSpec,
    /// What it runs.
    pub command: Command,
    /// Its frozen list.
    pub targets: Vec<Target>,
    /// What the list was resolved from.
    pub selection: Selection,
    /// What travels beside the job.
    pub blobs: Vec<(BlobRef, Bytes)>,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    muster_plan: u32,
    /// For people: see [`readable`].
    plan: serde_json::Value,
    selection: SelectionJson,
    /// Name and id of each host.
    targets: Vec<(String, String)>,
    /// The encoded job, in base64.
    payload: String,
    /// Ties the selection to the job: see [`seal`].
    seal: String,
    /// Script and stdin, readable where they are text.
    blobs: Vec<json::Bytes>,
}

#[derive(Serialize, Deserialize)]
struct SelectionJson {
    targets: String,
    exclude: String,
    names: Vec<String>,
    allow_missing: bool,
}

impl Saved {
    /// Writes a new file that its owner alone may read: commands have secrets.
    pub fn write(&self, path: &Path) -> Result<(), Usage> {
        let cannot = |why: &dyn std::fmt::Display| Usage(format!("cannot write the plan to {}: {why}", path.display()));
        let text = self.text().map_err(|error| cannot(&error))?;
        let mut file =
            File::options().write(true).create_new(true).mode(0o600).open(path).map_err(|error| cannot(&error))?;
        // Half a plan would be refused, but it would be in the way of the next.
        let written = file.write_all(&text).and_then(|()| file.sync_all());
        written.inspect_err(|_| drop(fs::remove_file(path))).map_err(|error| cannot(&error))
    }

    fn text(&self) -> serde_json::Result<Vec<u8>> {
        let selection = SelectionJson {
            targets: self.selection.targets.clone(),
            exclude: self.selection.exclude.clone(),
            names: self.selection.names.clone(),
            allow_missing: self.selection.missing == Missing::LeftOut,
        };
        let payload = STANDARD.encode(self.spec.encode());
        let on_disk = OnDisk {
            muster_plan: FORMAT,
            plan: readable(&self.spec, &self.targets)?,
            seal: seal(&selection, &payload)?,
            selection,
            targets: self.targets.iter().map(|target| (target.name.to_string(), target.agent.to_string())).collect(),
            payload,
            blobs: self.blobs.iter().map(|(_, data)| json::Bytes::from(&data[..])).collect(),
        };
        let mut text = serde_json::to_vec_pretty(&on_disk)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads such a file; everything in it has to agree.
    pub fn read(path: &Path) -> Result<Self, Usage> {
        let refused = |what: String| Usage(format!("{}: {what}", path.display()));
        let mut text = Vec::new();
        let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text));
        read.map_err(|error| refused(format!("the plan cannot be read: {error}")))?;
        Self::parse(&text).map_err(refused)
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        const ANEW: &str = "make it anew with `muster run --dry-run --plan FILE`";
        #[derive(Deserialize)]
        struct Form {
            muster_plan: u32,
        }
        let no_plan = |error: serde_json::Error| format!("this is no plan of Muster's ({error}): {ANEW}");
        let Form { muster_plan } = serde_json::from_slice(text).map_err(no_plan)?;
        if muster_plan != FORMAT {
            return Err(format!("the plan has form {muster_plan}, and this version knows {FORMAT}: {ANEW}"));
        }
        let on_disk: OnDisk = serde_json::from_slice(text).map_err(no_plan)?;
        let edited = |what: &str| format!("the plan was edited: its {what} does not fit the rest; {ANEW}");
        let payload = STANDARD.decode(&on_disk.payload).map_err(|_| edited("payload"))?;
        let spec = JobSpec::decode(&payload.into()).map_err(|_| edited("payload"))?;
        let Work::Command(command) = spec.work.clone() else { return Err(edited("payload")) };
        let target = |(name, id): &(String, String)| Some(Target { agent: id.parse().ok()?, name: name.parse().ok()? });
        let targets: Option<Vec<Target>> = on_disk.targets.iter().map(target).collect();
        let targets = targets.ok_or_else(|| edited("list of hosts"))?;
        let root = target_tree(&targets).map(|tree| tree.root());
        if root != Some(spec.targets.root) || targets.len() != spec.targets.count as usize {
            return Err(edited("list of hosts"));
        }
        if readable(&spec, &targets).ok().as_ref() != Some(&on_disk.plan) {
            return Err(edited("readable part"));
        }
        if seal(&on_disk.selection, &on_disk.payload).ok().as_ref() != Some(&on_disk.seal) {
            return Err(edited("selection"));
        }
        let mut blobs = Vec::new();
        for bytes in on_disk.blobs {
            let data = bytes.into_bytes().ok_or_else(|| edited("script or stdin"))?;
            blobs.push((BlobRef { digest: Sha256::digest(&data).into(), size: data.len() as u64 }, data.into()));
        }
        let carried = |blob: &BlobRef| blobs.iter().any(|(known, _)| known == blob);
        if !spec.blobs().all(|blob| carried(&blob)) || blobs.iter().any(|(known, _)| !spec.blobs().any(|b| b == *known))
        {
            return Err(edited("script or stdin"));
        }
        let SelectionJson { targets: expression, exclude, names, allow_missing } = on_disk.selection;
        let missing = if allow_missing { Missing::LeftOut } else { Missing::Refused };
        let selection = Selection { targets: expression, exclude, names, missing };
        Ok(Self { spec, command, targets, selection, blobs })
    }

    /// Whether the selection still means the very hosts that it meant; says which differ.
    pub fn check(&self, now: &Plan) -> Result<(), String> {
        if now.cluster != self.spec.cluster {
            return Err("the controller is that of another cluster".to_owned());
        }
        differences(&self.targets, &now.targets.iter().map(|(target, _)| target.clone()).collect::<Vec<_>>())
    }
}

/// A digest over what the list of hosts comes from, and the job that has it: who resolves another selection learns nothing
/// of hosts that came or went.
fn seal(selection: &SelectionJson, payload: &str) -> serde_json::Result<String> {
    Ok(json::hex(&Sha256::digest(serde_json::to_vec(&(selection, payload))?)))
}

/// The same for people: all that the payload says. Names every field, so that none that comes later is left out.
fn readable(spec: &JobSpec, targets: &[Target]) -> serde_json::Result<serde_json::Value> {
    let JobSpec {
        cluster,
        job: _,
        operator,
        created_at,
        start_before,
        deliver,
        targets: digest,
        rollout,
        rerun_of: _,
        work: _,
    } = spec;
    serde_json::to_value(serde_json::json!({
        "cluster": cluster.to_string(),
        "planned_by": operator.to_string(),
        "planned_at": moment::rfc3339(*created_at),
        "hosts": names::fold(targets.iter().map(|target| target.name.as_str())),
        "count": digest.count,
        "digest": json::hex(&digest.root),
        "command": spec.work.command().map(program),
        "deliver_timeout_ms": json::millis(*deliver),
        "job_timeout_ms": json::millis(created_at.until(*start_before)),
        "concurrency": rollout.concurrency,
        "rollout": RolloutJson::of(rollout, digest.count),
        "gate": rollout.gate.as_ref().map(program),
    }))
}

/// A program with everything that belongs to its execution.
fn program(command: &Command) -> serde_json::Value {
    let Command { program, env, run_as, cwd, stdin, timeout, grace, output } = command;
    let env: BTreeMap<&str, json::Bytes> =
        env.iter().map(|pair| (pair.name.as_str(), json::Bytes::from(&pair.value[..]))).collect();
    let kept = match output {
        OutputLimit::Kept { head, tail } => Some([*head, *tail]),
        OutputLimit::Unlimited => None,
    };
    serde_json::json!({
        "line": command::of_command(command),
        "argv": json::argv(&program.words(usize::MAX)),
        "env": env,
        "run_as": run_as,
        "cwd": cwd.as_deref().map(json::Bytes::from),
        "stdin": stdin.map(|blob| json::hex(&blob.digest)),
        "timeout_ms": json::millis(*timeout),
        "grace_ms": json::millis(*grace),
        "output_kept": kept,
    })
}

/// Which hosts are gone, more, or other machines under the same names; the order may differ.
fn differences(planned: &[Target], now: &[Target]) -> Result<(), String> {
    let by_name = |targets: &[Target]| -> BTreeMap<String, _> {
        targets.iter().map(|target| (target.name.to_string(), target.agent)).collect()
    };
    let (planned, now) = (by_name(planned), by_name(now));
    let absent = |from: &BTreeMap<String, _>, to: &BTreeMap<String, _>| -> Vec<String> {
        from.keys().filter(|name| !to.contains_key(*name)).cloned().collect()
    };
    let replaced: Vec<&String> = planned
        .iter()
        .filter(|(name, id)| now.get(*name).is_some_and(|other| other != *id))
        .map(|(name, _)| name)
        .collect();
    let mut parts = Vec::new();
    for (hosts, what) in [(absent(&planned, &now), "no longer meant"), (absent(&now, &planned), "meant now as well")] {
        if !hosts.is_empty() {
            parts.push(format!("{} {what}: {}", summary::hosts(hosts.len()), summary::folded(&hosts)));
        }
    }
    if !replaced.is_empty() {
        let (hosts, names) = (summary::hosts(replaced.len()), summary::folded(replaced));
        parts.push(format!("{hosts} enrolled anew since, perhaps on another machine: {names}"));
    }
    if parts.is_empty() { Ok(()) } else { Err(format!("{}; make it anew with --dry-run --plan", parts.join("; "))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::command::Program;
    use muster_proto::id::{AgentId, ClusterId, JobId};
    use muster_proto::job::TargetsDigest;
    use muster_proto::rollout::Rollout;
    use muster_proto::time::Timestamp;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    fn target(name: &str, id: u8) -> Target {
        Target { agent: AgentId::from_bytes([id; 16]), name: name.parse().expect("a name") }
    }

    fn saved() -> Saved {
        let targets = vec![target("n1", 1), target("n2", 2)];
        let script = Bytes::from_static(b"#!/bin/sh\nreboot\n");
        let content = BlobRef { digest: Sha256::digest(&script).into(), size: script.len() as u64 };
        let command = Command::new(Program::Script { content, args: vec![b"now".to_vec()] });
        let spec = JobSpec {
            cluster: ClusterId::from_bytes([1; 16]),
            job: JobId::from_bytes([2; 16]),
            operator: "ada".parse().expect("a name"),
            created_at: Timestamp::from_millis(1_795_341_600_000),
            start_before: Timestamp::from_millis(1_795_341_700_000),
            deliver: Duration::from_secs(30),
            targets: TargetsDigest { root: target_tree(&targets).expect("a tree").root(), count: 2 },
            rollout: Rollout { waves: vec![1], ..Rollout::default() },
            rerun_of: None,
            work: Work::Command(command.clone()),
        };
        let selection = Selection { targets: "n[1-2]".to_owned(), ..Selection::default() };
        Saved { spec, command, targets, selection, blobs: vec![(content, script)] }
    }

    fn text() -> String {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("plan");
        saved().write(&path).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let again = saved().write(&path).expect_err("it is there already");
        assert!(again.0.contains("exists"), "{again}");
        fs::read_to_string(&path).expect("text")
    }

    #[test]
    fn a_plan_reads_back_whole() {
        let back = Saved::parse(text().as_bytes()).expect("a plan");
        assert_eq!((back.spec, back.targets, back.selection), (saved().spec, saved().targets, saved().selection));
        assert_eq!(back.blobs, saved().blobs);
    }

    #[test]
    fn a_plan_that_was_edited_is_refused() {
        let text = text();
        for (from, to, what) in [
            ("\"hosts\": \"n[1-2]\"", "\"hosts\": \"n1\"", "readable part"),
            ("\"run_as\": null", "\"run_as\": \"www\"", "readable part"),
            ("\"count\": 2", "\"count\": 3", "readable part"),
            ("\"retries\": 0", "\"retries\": 5", "readable part"),
            ("\"targets\": \"n[1-2]\"", "\"targets\": \"n1,n2\"", "selection"),
            ("\"allow_missing\": false", "\"allow_missing\": true", "selection"),
            ("\"n1\"", "\"n3\"", "list of hosts"),
            ("reboot\\n", "uptime\\n", "script or stdin"),
            ("\"payload\": \"", "\"payload\": \"AAAA", "payload"),
            ("\"muster_plan\": 1", "\"muster_plan\": 2", "form 2"),
            ("{", "[", "no plan"),
        ] {
            assert!(text.contains(from), "{from} is not in {text}");
            let refused = Saved::parse(text.replacen(from, to, 1).as_bytes()).expect_err(what);
            assert!(refused.contains(what) && refused.contains("--dry-run"), "{refused}");
        }
    }

    #[test]
    fn every_host_that_differs_is_named() {
        let planned = [target("n1", 1), target("n2", 2), target("n3", 3)];
        let now = [target("n3", 3), target("n2", 9), target("n4", 4)];
        let told = differences(&planned, &now).expect_err("they differ");
        for part in ["1 host no longer meant: n1;", "1 host meant now as well: n4;", "on another machine: n2;"] {
            assert!(told.contains(part), "{told}");
        }
        let mut turned = planned.clone();
        turned.reverse();
        assert_eq!(differences(&planned, &turned), Ok(()));
    }
}
