//! `muster why HOST [JOB]`: why a host, or its part in a job, is as it is; the answer first, then what it rests on.

use crate::args::{self, Form, JobRef};
use crate::commands::status::bytes;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::{self, json, moment, summary, table};
use muster_proto::outcome::Outcome;
use muster_proto::time::Timestamp;
use muster_proto::why::{AttemptEnd, TaskLine, TaskStory, Why};
use serde::Serialize;

/// Characters of a command in a list.
const COMMAND_CHARS: usize = 40;

/// Options of `muster why`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or id of the host
    #[arg(value_name = "HOST")]
    host: String,
    /// The job: its id, the beginning of it, or last for your newest
    #[arg(value_name = "JOB", value_parser = args::job)]
    job: Option<JobRef>,
    /// Form of the answer
    #[arg(short = 'o', value_name = "text|json", value_enum, default_value_t, hide_possible_values = true)]
    form: Form,
}

/// Performs `muster why`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let client = settings.connect().await?;
    let job = match &args.job {
        Some(job) => Some(job.find(&client).await?),
        None => None,
    };
    let why = client.why(&args.host, job).await?;
    match args.form {
        Form::Json => show::data(&format!("{}\n", serde_json::to_string(&WhyJson::from(&why))?))?,
        Form::Text => {
            let columns = show::columns(std::io::stdout()).unwrap_or(usize::MAX);
            show::data(&format!("{}\n{}", wrapped(&why.conclusion, columns), facts(&why, columns)))?;
        }
    }
    Ok(Exit::Success)
}

/// Lines of whole words that are no longer than this, where words allow it.
fn wrapped(text: &str, columns: usize) -> String {
    let (mut lines, mut length) = (String::new(), 0);
    for word in text.split(' ') {
        let chars = word.chars().count();
        if length > 0 && length + 1 + chars > columns {
            lines.push('\n');
            length = 0;
        } else if length > 0 {
            lines.push(' ');
            length += 1;
        }
        lines.push_str(word);
        length += chars;
    }
    lines + "\n"
}

fn facts(why: &Why, columns: usize) -> String {
    let mut lines = host(why);
    lines.extend(why.unfinished.iter().map(|line| ("unfinished", task(line))));
    lines.extend(why.finished.iter().map(|line| ("ended", task(line))));
    lines.extend(why.task.iter().flat_map(story));
    let room = columns.saturating_sub(13);
    let line = |(key, text): (&str, String)| format!("{key:<11}  {}\n", table::cut(&text, room.max(20)));
    lines.into_iter().map(line).collect()
}

fn host(why: &Why) -> Vec<(&'static str, String)> {
    let agent = &why.agent;
    let mut lines = vec![("host", format!("{} {}", agent.name, agent.id))];
    if let Some(facts) = &agent.facts {
        lines.push(("agent", format!("version {}", facts.agent_version)));
    }
    let since = agent.since.map(moment::rfc3339);
    match (&why.left, since) {
        _ if agent.connected => {
            let from = agent.address.as_ref().map(|address| format!(" from {address}")).unwrap_or_default();
            let epoch = why.epoch.map(|epoch| format!(", session {epoch}")).unwrap_or_default();
            lines.push(("connected", format!("since {}{from}{epoch}", since_or_now(agent.since))));
        }
        (Some(left), _) => lines.push(("left", format!("{}: {}", moment::rfc3339(left.at), left.reason))),
        (None, Some(since)) => lines.push(("last seen", since)),
        (None, None) => {}
    }
    let heard = agent.heard_at.filter(|_| agent.connected);
    lines.extend(heard.map(|at| ("last heard", format!("{} ago", moment::ago(at)))));
    lines.extend(agent.clock.map(|offset| ("clock", format!("{offset} from the controller's"))));
    if let Some(until) = why.certificate_until {
        let renewed = why.renewed_at.map(|at| format!(", key renewed {}", moment::rfc3339(at))).unwrap_or_default();
        lines.push(("certificate", format!("until {}{renewed}", moment::rfc3339(until))));
    }
    if let Some(quarantine) = &agent.quarantine {
        lines.push(("quarantine", format!("since {}", moment::rfc3339(quarantine.since))));
        lines.extend(quarantine.parties.iter().map(|party| {
            (
                "  party",
                format!("{}, machine {}, last seen {}", party.address, party.machine, moment::rfc3339(party.seen_at)),
            )
        }));
    }
    lines
}

fn since_or_now(since: Option<Timestamp>) -> String {
    since.map_or_else(|| "now".to_owned(), |since| format!("{} ({})", moment::rfc3339(since), moment::ago(since)))
}

fn task(line: &TaskLine) -> String {
    let state = line.outcome.as_ref().map_or_else(|| line.phase.as_str().to_owned(), summary::end);
    let ago = moment::ago(line.since);
    format!("{} {state}, {ago} ago: {}", line.job, table::cut(&line.title, COMMAND_CHARS))
}

/// What happened, in the order in which it did; each with its distance from the beginning.
fn story(task: &TaskStory) -> Vec<(&'static str, String)> {
    let planned = task.planned_at;
    let at = |at: Timestamp| format!("{}  +{}", moment::rfc3339(at), moment::span(planned.until(at)));
    let mut lines = vec![("job", format!("{} {}", task.job, task.title)), ("planned", moment::rfc3339(planned))];
    let end = |end: &AttemptEnd| format!("{} {}", at(end.at), summary::end(&end.outcome));
    lines.extend((1..).zip(&task.earlier).map(|(attempt, it)| ("attempt", format!("{attempt}: {}", end(it)))));
    lines.extend(
        task.next_at.map(|next| ("attempt", format!("{}: not before {}", task.attempt, moment::rfc3339(next)))),
    );
    lines.extend(
        task.queued.map(|(since, until)| ("queued", format!("{} until {}", at(since), moment::rfc3339(until)))),
    );
    lines.extend(task.offered_at.iter().map(|offered| ("offered", at(*offered))));
    lines.extend(task.accepted_at.map(|accepted| ("accepted", at(accepted))));
    lines.extend(task.started_at.map(|started| ("started", at(started))));
    if let Some((first, last)) = task.output_at {
        lines.extend([("first byte", at(first)), ("last byte", at(last))]);
    }
    if task.started_at.is_some() {
        let [stdout, stderr] = task.bytes.map(bytes);
        lines.push(("output", format!("stdout {stdout}, stderr {stderr}")));
    }
    if task.truncated > 0 {
        lines.push(("truncated", format!("{} were left out, over the limit", bytes(task.truncated))));
    }
    lines.extend(task.cancelled.iter().map(|(when, operator)| ("cancelled", format!("{} by {operator}", at(*when)))));
    if let (Some(outcome), Some(finished)) = (&task.outcome, task.finished_at) {
        // The agent says how long it ran; when it ended follows from that.
        let ended = task.started_at.zip(outcome.duration).map(|(started, span)| started + span);
        lines.extend(ended.map(|ended| ("ended", at(ended.min(finished)))));
        lines.push(("committed", format!("{} as {}", at(finished), summary::end(outcome))));
    } else {
        lines.push(("deadline", format!("{}: nothing starts after it", moment::rfc3339(task.start_before))));
    }
    lines.extend(task.late.iter().map(|late| ("late", late.clone())));
    lines.extend(task.gate.iter().map(|gate| ("gate", end(gate))));
    lines
}

/// The shape is public; moments are RFC 3339, what did not happen is null.
#[derive(Serialize)]
struct WhyJson<'a> {
    host: &'a str,
    id: String,
    conclusion: &'a str,
    connected: bool,
    since: Option<String>,
    address: Option<&'a str>,
    version: Option<&'a str>,
    session: Option<u64>,
    left: Option<LeftJson<'a>>,
    heard: Option<String>,
    clock_offset_ms: Option<i64>,
    certificate_until: Option<String>,
    renewed: Option<String>,
    quarantined: Option<String>,
    unfinished: Vec<LineJson<'a>>,
    ended: Vec<LineJson<'a>>,
    task: Option<TaskJson<'a>>,
}

#[derive(Serialize)]
struct LeftJson<'a> {
    time: String,
    reason: &'a str,
}

#[derive(Serialize)]
struct LineJson<'a> {
    job: String,
    title: &'a str,
    state: &'static str,
    reason: Option<&'a str>,
    since: String,
}

#[derive(Serialize)]
struct TaskJson<'a> {
    job: String,
    title: &'a str,
    state: &'static str,
    exit_code: Option<u8>,
    signal: Option<u8>,
    reason: Option<&'a str>,
    duration_ms: Option<u64>,
    planned: String,
    deadline: String,
    offered: Vec<String>,
    accepted: Option<String>,
    started: Option<String>,
    first_byte: Option<String>,
    last_byte: Option<String>,
    stdout_bytes: u64,
    stderr_bytes: u64,
    truncated_bytes: u64,
    committed: Option<String>,
    cancelled: Option<String>,
    cancelled_by: Option<String>,
    late: Option<&'a str>,
    attempt: u32,
    earlier: Vec<EndJson<'a>>,
    next: Option<String>,
    queued_until: Option<String>,
    gate: Option<EndJson<'a>>,
}

/// An attempt before the last one, or a gate.
#[derive(Serialize)]
struct EndJson<'a> {
    time: String,
    state: &'static str,
    exit_code: Option<u8>,
    signal: Option<u8>,
    reason: Option<&'a str>,
}

impl<'a> From<&'a AttemptEnd> for EndJson<'a> {
    fn from(AttemptEnd { outcome, at }: &'a AttemptEnd) -> Self {
        Self {
            time: moment::rfc3339(*at),
            state: outcome.state.as_str(),
            exit_code: outcome.exit_code,
            signal: outcome.signal,
            reason: outcome.reason.as_deref(),
        }
    }
}

impl<'a> From<&'a Why> for WhyJson<'a> {
    fn from(why: &'a Why) -> Self {
        let agent = &why.agent;
        Self {
            host: agent.name.as_str(),
            id: agent.id.to_string(),
            conclusion: &why.conclusion,
            connected: agent.connected,
            since: agent.since.map(moment::rfc3339),
            address: agent.address.as_deref(),
            version: agent.facts.as_ref().map(|facts| facts.agent_version.as_str()),
            session: why.epoch,
            left: why.left.as_ref().map(|left| LeftJson { time: moment::rfc3339(left.at), reason: &left.reason }),
            heard: agent.heard_at.map(moment::rfc3339),
            clock_offset_ms: agent.clock.map(|offset| offset.0),
            certificate_until: why.certificate_until.map(moment::rfc3339),
            renewed: why.renewed_at.map(moment::rfc3339),
            quarantined: agent.quarantine.as_ref().map(|quarantine| moment::rfc3339(quarantine.since)),
            unfinished: why.unfinished.iter().map(Into::into).collect(),
            ended: why.finished.iter().map(Into::into).collect(),
            task: why.task.as_ref().map(Into::into),
        }
    }
}

impl<'a> From<&'a TaskLine> for LineJson<'a> {
    fn from(line: &'a TaskLine) -> Self {
        Self {
            job: line.job.to_string(),
            title: &line.title,
            state: line.outcome.as_ref().map_or(line.phase.as_str(), |outcome| outcome.state.as_str()),
            reason: reason(line.outcome.as_ref()),
            since: moment::rfc3339(line.since),
        }
    }
}

fn reason(outcome: Option<&Outcome>) -> Option<&str> {
    outcome.and_then(|outcome| outcome.reason.as_deref())
}

impl<'a> From<&'a TaskStory> for TaskJson<'a> {
    fn from(task: &'a TaskStory) -> Self {
        let outcome = task.outcome.as_ref();
        Self {
            job: task.job.to_string(),
            title: &task.title,
            state: outcome.map_or(task.phase.as_str(), |outcome| outcome.state.as_str()),
            exit_code: outcome.and_then(|outcome| outcome.exit_code),
            signal: outcome.and_then(|outcome| outcome.signal),
            reason: reason(outcome),
            duration_ms: outcome.and_then(|outcome| outcome.duration).map(json::millis),
            planned: moment::rfc3339(task.planned_at),
            deadline: moment::rfc3339(task.start_before),
            offered: task.offered_at.iter().copied().map(moment::rfc3339).collect(),
            accepted: task.accepted_at.map(moment::rfc3339),
            started: task.started_at.map(moment::rfc3339),
            first_byte: task.output_at.map(|(first, _)| moment::rfc3339(first)),
            last_byte: task.output_at.map(|(_, last)| moment::rfc3339(last)),
            stdout_bytes: task.bytes[0],
            stderr_bytes: task.bytes[1],
            truncated_bytes: task.truncated,
            committed: task.finished_at.map(moment::rfc3339),
            cancelled: task.cancelled.as_ref().map(|(at, _)| moment::rfc3339(*at)),
            cancelled_by: task.cancelled.as_ref().map(|(_, operator)| operator.to_string()),
            late: task.late.as_deref(),
            attempt: task.attempt.0,
            earlier: task.earlier.iter().map(Into::into).collect(),
            next: task.next_at.map(moment::rfc3339),
            queued_until: task.queued.map(|(_, until)| moment::rfc3339(until)),
            gate: task.gate.as_ref().map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_wrapped_between_words() {
        assert_eq!(wrapped("one two three", 7), "one two\nthree\n");
        assert_eq!(wrapped("one two", usize::MAX), "one two\n");
        assert_eq!(wrapped("longer-than-that one", 5), "longer-than-that\none\n");
    }
}
