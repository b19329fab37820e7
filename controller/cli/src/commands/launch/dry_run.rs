//! A plan as `--dry-run` shows it: who, what, when, how it goes, and what the guard says.

use super::follow::Form;
use crate::client::Plan;
use crate::exit::Exit;
use crate::show::rollout::{self, RolloutJson};
use crate::show::{self, command, json, moment, summary};
use muster_proto::job::JobSpec;
use muster_proto::names;
use serde::Serialize;

#[derive(Serialize)]
struct PlanJson {
    targets: u32,
    digest: String,
    argv: Vec<json::Bytes>,
    deliver_timeout_ms: u64,
    timeout_ms: Option<u64>,
    job_timeout_ms: u64,
    concurrency: Option<u32>,
    rollout: RolloutJson,
    confirm: Option<String>,
    hosts: Vec<PlannedHost>,
}

#[derive(Serialize)]
struct PlannedHost {
    host: String,
    connected: bool,
}

/// Prints it.
pub fn show(spec: &JobSpec, plan: &Plan, form: Form) -> anyhow::Result<Exit> {
    let text = match form {
        Form::Text => text(spec, plan),
        Form::Json | Form::Jsonl => format!("{}\n", serde_json::to_string(&json(spec, plan))?),
    };
    show::data(&text)?;
    Ok(Exit::Success)
}

fn json(spec: &JobSpec, plan: &Plan) -> PlanJson {
    let host =
        |(target, connected): &(_, bool)| PlannedHost { host: name_of(target).to_owned(), connected: *connected };
    PlanJson {
        targets: spec.targets.count,
        digest: json::hex(&spec.targets.root),
        argv: json::argv(&spec.work.words(usize::MAX)),
        deliver_timeout_ms: json::millis(spec.deliver),
        timeout_ms: spec.work.command().map(|command| json::millis(command.timeout)),
        job_timeout_ms: json::millis(spec.created_at.until(spec.start_before)),
        concurrency: spec.rollout.concurrency,
        rollout: RolloutJson::of(&spec.rollout, spec.targets.count),
        confirm: plan.confirm.clone(),
        hosts: plan.targets.iter().map(host).collect(),
    }
}

fn text(spec: &JobSpec, plan: &Plan) -> String {
    let away: Vec<&str> = plan.targets.iter().filter(|(_, on)| !on).map(|(target, _)| name_of(target)).collect();
    let hosts = names::fold(plan.targets.iter().map(|(target, _)| name_of(target)));
    let mut rows = vec![("hosts", format!("{} {hosts}", spec.targets.count))];
    if !away.is_empty() {
        rows.push(("away", format!("{} {}", away.len(), summary::folded(&away))));
    }
    let runs = spec
        .work
        .command()
        .map_or_else(String::new, |command| format!(", each runs at most {}", moment::exact(command.timeout)));
    rows.extend([
        ("digest", format!("{} of the hosts", json::hex(&spec.targets.root))),
        ("command", command::line(&spec.work)),
        (
            "times",
            format!(
                "each starts within {}, all within {}{runs}",
                moment::exact(spec.deliver),
                moment::exact(spec.created_at.until(spec.start_before)),
            ),
        ),
    ]);
    rows.extend(rollout::rows(&spec.rollout, spec.targets.count));
    if let Some(reason) = &plan.confirm {
        rows.push(("guard", format!("{reason}: --yes={}", spec.targets.count)));
    }
    rows.iter().map(|(word, text)| format!("{word:<8} {text}\n")).collect()
}

fn name_of(target: &muster_proto::job::Target) -> &str {
    target.name.as_str()
}
