//! The text format of Prometheus (<https://prometheus.io/docs/instrumenting/exposition_formats/>), for a collector that
//! reads files: `muster status -o prometheus > FILE`.

use muster_proto::status::{MetricKind, Sample, Status};
use std::fmt::Write as _;

/// All metrics of a controller. Names and keys are words already; values are escaped here.
pub fn page(status: &Status) -> String {
    let mut page = String::new();
    let info = [("version", status.version.clone()), ("cluster", status.cluster.to_string())];
    let info = info.map(|(key, value)| (key.to_owned(), value)).into();
    let alone = |value| vec![Sample { labels: Vec::new(), value }];
    let started = u64::try_from(status.started_at.as_millis() / 1_000).unwrap_or(0);
    let info = vec![Sample { labels: info, value: 1 }];
    family(&mut page, "muster_info", "Version and cluster.", MetricKind::Gauge, &info);
    let began = "When the controller began.";
    family(&mut page, "muster_start_timestamp_seconds", began, MetricKind::Gauge, &alone(started));
    let alarms = alone(status.alarms.len() as u64);
    family(&mut page, "muster_alarms", "What somebody has to see to.", MetricKind::Gauge, &alarms);
    for metric in &status.metrics {
        family(&mut page, &metric.name, &metric.help, metric.kind, &metric.samples);
    }
    page
}

fn family(page: &mut String, name: &str, help: &str, kind: MetricKind, samples: &[Sample]) {
    let kind = match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
    };
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    // Writing to a string cannot fail.
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for Sample { labels, value } in samples {
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(page, "{name}{labels} {value}");
    }
}

/// A label's value as it stands between quotes.
pub fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
