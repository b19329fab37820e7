//! How the controller is, as metrics: what is counted where is gathered here, and named once for all readers.

use super::OperatorDoor;
use crate::engine::Survey;
use crate::listen::ListenStats;
use crate::reply::Reply as _;
use crate::schedules::Figures;
use crate::stats::{Kind, Stats, Tally};
use muster_proto::status::{Metric, MetricKind, Sample, Status};
use muster_store::Size;
use std::sync::atomic::Ordering;

pub(super) async fn status(door: &OperatorDoor) -> Result<Status, tonic::Status> {
    let stats = door.engine.stats();
    let size = door.store.size().await.map_err(|error| error.reply())?;
    let survey = door.engine.survey().await;
    let everybody = door.roster.everybody();
    let quarantined = everybody.iter().filter(|target| door.sessions.quarantined(target.agent).is_some()).count();
    let mut metrics = agents(door, everybody.len(), quarantined);
    metrics.extend(connections(door));
    metrics.extend(jobs(stats, door.engine.at_work(None).len(), &survey));
    metrics.extend(pings(stats));
    let schedules = door.schedules.figures().await;
    metrics.extend(rounds(&schedules));
    metrics.extend(store(stats, size));
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: door.issuers.cluster(),
        started_at: stats.started_at,
        alarms: alarms(stats, quarantined, &survey, &schedules).into_iter().chain(door.danger.problem()).collect(),
        metrics,
    })
}

fn alarms(stats: &Stats, quarantined: usize, survey: &Survey, schedules: &[Figures]) -> Vec<String> {
    let mut alarms = Vec::new();
    if stats.disk_low.get() > 0 {
        let free = stats.disk_free.get() >> 20;
        alarms.push(format!(
            "the disk with the state has {free} MiB left: make room, or keep less with `muster-controller serve --keep`"
        ));
    }
    if quarantined > 0 {
        alarms.push(format!(
            "{quarantined} agents are used by two machines each: see `muster agents`, then `agents resolve`"
        ));
    }
    alarms.extend(
        survey.halted.iter().map(|(job, reason)| {
            format!("job {job} is paused: {reason}: `muster resume {job}` or `muster cancel {job}`")
        }),
    );
    let problem =
        |it: &Figures| Some(format!("the schedule {} does not run as it should: {}", it.name, it.problem.as_ref()?));
    alarms.extend(schedules.iter().filter_map(problem));
    alarms
}

fn agents(door: &OperatorDoor, enrolled: usize, quarantined: usize) -> Vec<Metric> {
    let stats = door.engine.stats();
    let count = |count: usize| count as u64;
    vec![
        of_kinds(
            ("muster_agents", "agents", "Agents by how they are; those that are connected are enrolled as well."),
            MetricKind::Gauge,
            "state",
            [
                ("connected", count(door.sessions.len())),
                ("enrolled", count(enrolled)),
                ("quarantined", count(quarantined)),
            ],
        ),
        counter(
            "muster_sessions_opened_total",
            "sessions opened",
            "Sessions of agents that began.",
            stats.sessions_opened.get(),
        ),
        tally(
            (
                "muster_sessions_closed_total",
                "sessions closed",
                "Sessions of agents that ended or were refused, by reason.",
            ),
            "reason",
            stats.closed(),
        ),
        counter(
            "muster_certificates_renewed_total",
            "certificates renewed",
            "Certificates of agents that were renewed over their sessions.",
            stats.renewed.get(),
        ),
    ]
}

fn connections(door: &OperatorDoor) -> Vec<Metric> {
    let mut samples = Vec::new();
    for (listener, gate) in door.listeners.iter() {
        let ListenStats { admitted, failed, strangers, silent, full, often, accept_errors } = gate.stats();
        let results = [
            ("admitted", admitted),
            ("failed", failed),
            ("strangers", strangers),
            ("silent", silent),
            ("full", full),
            ("often", often),
            ("accept_errors", accept_errors),
        ];
        samples.extend(results.map(|(result, count)| Sample {
            labels: vec![("listener".into(), (*listener).into()), ("result".into(), result.into())],
            value: count.load(Ordering::Relaxed),
        }));
    }
    let stats = door.engine.stats();
    vec![
        metric(
            (
                "muster_connections_total",
                "connections",
                "Connections to each listener: admitted, and turned away by reason.",
            ),
            MetricKind::Counter,
            samples,
        ),
        tally(
            ("muster_reports_refused_total", "reports refused", "Reports of agents that cannot be true, by reason."),
            "reason",
            &stats.reports,
        ),
        tally(("muster_limit_hits_total", "limits hit", "How often each limit had an effect."), "limit", &stats.limits),
        gauge("muster_followers", "followers", "Streams of events to operators that are open.", stats.followers.get()),
    ]
}

fn jobs(stats: &Stats, at_work: usize, survey: &Survey) -> Vec<Metric> {
    vec![
        counter("muster_jobs_accepted_total", "jobs accepted", "Jobs that were accepted.", stats.jobs_accepted.get()),
        gauge("muster_jobs_at_work", "jobs at work", "Jobs that are not done.", at_work as u64),
        gauge(
            "muster_jobs_paused",
            "jobs paused",
            "Jobs at work that offer nothing until they are resumed.",
            survey.paused,
        ),
        of_kinds(
            ("muster_tasks", "their tasks", "Tasks of the jobs at work that are not over, by where they stand."),
            MetricKind::Gauge,
            "phase",
            survey.tasks().map(|(phase, count)| (phase.as_str(), count)),
        ),
        gauge(
            "muster_tasks_queued",
            "tasks queued",
            "Tasks of the jobs at work that wait for their agents to come back while nobody waits for them.",
            survey.queued,
        ),
        counter("muster_events_total", "events", "Events of jobs that were made durable.", stats.events.get()),
        counter("muster_commits_total", "commits", "Batches in which events were made durable.", stats.commits.get()),
        counter(
            "muster_output_bytes_total",
            "output",
            "Bytes of output that were made durable.",
            stats.output_bytes.get(),
        ),
    ]
}

fn pings(stats: &Stats) -> Vec<Metric> {
    vec![
        gauge(
            "muster_looks_at_work",
            "pings at work",
            "Pings at work, rounds of schedules included.",
            stats.looks.get(),
        ),
        of_kinds(
            ("muster_probes_total", "probes", "Probes of targets that have ended, by what came of them."),
            MetricKind::Counter,
            "result",
            [("answered", stats.probes_answered.get()), ("lost", stats.probes_lost.get())],
        ),
        counter(
            "muster_probe_replies_dropped_total",
            "replies dropped",
            "Replies that the kernel dropped since the controller was too slow; such probes are sent again.",
            stats.replies_dropped.get(),
        ),
        counter(
            "muster_probe_samples_dropped_total",
            "samples dropped",
            "Samples that were not told since nobody took them in time; the figures at the end hold them.",
            stats.samples_dropped.get(),
        ),
        counter(
            "muster_probe_findings_ignored_total",
            "findings ignored",
            "Findings of agents for pings that are not at work: they were late.",
            stats.findings_ignored.get(),
        ),
    ]
}

/// One sample for each schedule, or one for each and each state.
fn rounds(schedules: &[Figures]) -> Vec<Metric> {
    let sample = |it: &Figures, state: Option<&str>, value| {
        let state = state.map(|state| ("state".to_owned(), state.to_owned()));
        Sample { labels: [("schedule".to_owned(), it.name.to_string())].into_iter().chain(state).collect(), value }
    };
    let each = |value: fn(&Figures) -> u64| schedules.iter().map(|it| sample(it, None, value(it))).collect();
    let states = |it: &Figures| ["up", "down", "unknown"].into_iter().zip(it.pairs);
    let by_state = schedules.iter().flat_map(|it| states(it).map(|(state, count)| sample(it, Some(state), count)));
    vec![
        metric(
            ("muster_schedule_rounds_total", "rounds", "Rounds of each schedule that ran."),
            MetricKind::Counter,
            each(|it| it.rounds),
        ),
        metric(
            (
                "muster_schedule_rounds_late_total",
                "late rounds",
                "Rounds that were due before the one before was over.",
            ),
            MetricKind::Counter,
            each(|it| it.late),
        ),
        metric(
            ("muster_schedule_pairs", "scheduled", "Pairs of each schedule, by how they are."),
            MetricKind::Gauge,
            by_state.collect(),
        ),
    ]
}

fn store(stats: &Stats, size: Size) -> Vec<Metric> {
    vec![
        of_kinds(
            ("muster_store_bytes", "store", "Bytes that the store takes."),
            MetricKind::Gauge,
            "part",
            [("database", size.database), ("output", size.output), ("blobs", size.blobs)],
        ),
        gauge("muster_store_jobs", "jobs stored", "Jobs in the store.", size.jobs),
        gauge("muster_disk_free_bytes", "disk free", "Bytes free on the disk with the state.", stats.disk_free.get()),
        counter(
            "muster_jobs_removed_total",
            "jobs removed",
            "Jobs whose records were removed, as --keep says.",
            stats.pruned_jobs.get(),
        ),
        gauge(
            "muster_retention_last_run_timestamp_seconds",
            "retention last run",
            "When old jobs were last looked for.",
            stats.pruned_at.get(),
        ),
    ]
}

/// Name, title and help.
type Words = (&'static str, &'static str, &'static str);

fn metric((name, title, help): Words, kind: MetricKind, samples: Vec<Sample>) -> Metric {
    Metric { name: name.into(), title: title.into(), help: help.into(), kind, samples }
}

fn counter(name: &'static str, title: &'static str, help: &'static str, value: u64) -> Metric {
    metric((name, title, help), MetricKind::Counter, vec![Sample { labels: Vec::new(), value }])
}

fn gauge(name: &'static str, title: &'static str, help: &'static str, value: u64) -> Metric {
    metric((name, title, help), MetricKind::Gauge, vec![Sample { labels: Vec::new(), value }])
}

fn of_kinds(
    words: Words,
    kind: MetricKind,
    key: &str,
    counts: impl IntoIterator<Item = (&'static str, u64)>,
) -> Metric {
    let sample = |(word, value): (&str, u64)| Sample { labels: vec![(key.to_owned(), word.to_owned())], value };
    metric(words, kind, counts.into_iter().map(sample).collect())
}

fn tally<K: Kind>(words: Words, key: &str, tally: &Tally<K>) -> Metric {
    of_kinds(words, MetricKind::Counter, key, tally.iter().map(|(kind, count)| (kind.word(), count)))
}
