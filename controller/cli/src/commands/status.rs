//! `muster status`: how the controller is, for people, for scripts, and for a metrics collector.

use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::{self, moment, prometheus};
use clap::ValueEnum;
use muster_proto::status::{Metric, MetricKind, Sample, Status};
use muster_proto::time::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

/// Options of `muster status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of what is shown: lines, one JSON object, or what Prometheus reads
    #[arg(short = 'o', value_name = "text|json|prometheus", value_enum, default_value_t, hide_possible_values = true)]
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Form {
    #[default]
    Text,
    Json,
    Prometheus,
}

/// Performs `muster status`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let status = settings.connect().await?.status().await?;
    match args.form {
        Form::Text => show::data(&text(&status))?,
        Form::Json => show::data(&format!("{}\n", serde_json::to_string(&StatusJson::from(&status))?))?,
        Form::Prometheus => show::data(&prometheus::page(&status))?,
    }
    if args.form == Form::Text {
        status.alarms.iter().for_each(|alarm| show::note(&format!("alarm: {alarm}")));
    }
    Ok(Exit::Success)
}

/// A line for each metric, under the words that people use for it.
fn text(status: &Status) -> String {
    let since = moment::rfc3339(status.started_at);
    let ago = moment::ago(status.started_at);
    let mut lines = vec![
        ("version".to_owned(), status.version.clone()),
        ("since".to_owned(), format!("{since} ({ago})")),
        ("cluster".to_owned(), status.cluster.to_string()),
    ];
    for metric in &status.metrics {
        let mut outer: Vec<&str> = metric.samples.iter().filter_map(|sample| widest(sample)).collect();
        outer.dedup();
        if outer.is_empty() {
            lines.push((metric.title.clone(), values(metric, None)));
        }
        lines.extend(outer.iter().map(|group| (format!("{}: {group}", metric.title), values(metric, Some(group)))));
    }
    let width = lines.iter().map(|(title, _)| title.chars().count()).max().unwrap_or(0);
    lines.iter().map(|(title, text)| format!("{title:width$}  {text}\n")).collect()
}

/// The first of two labels: such samples are shown in groups.
fn widest(sample: &Sample) -> Option<&str> {
    match &sample.labels[..] {
        [(_, group), _, ..] => Some(group),
        _ => None,
    }
}

/// "97 connected, 100 enrolled". Of counters by kind only those that counted something.
fn values(metric: &Metric, group: Option<&str>) -> String {
    let shown = metric.samples.iter().filter(|sample| widest(sample) == group);
    let counted =
        shown.filter(|sample| metric.kind == MetricKind::Gauge || sample.labels.is_empty() || sample.value > 0);
    let texts: Vec<_> = counted
        .map(|sample| match sample.labels.last() {
            Some((_, word)) => format!("{} {}", value(metric, sample.value), word.replace('_', " ")),
            None => value(metric, sample.value),
        })
        .collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

/// In the unit that the metric's name ends in.
fn value(metric: &Metric, value: u64) -> String {
    let name = metric.name.trim_end_matches("_total");
    if name.ends_with("_bytes") {
        return bytes(value);
    }
    if name.ends_with("_timestamp_seconds") {
        let at = Timestamp::from_millis(i64::try_from(value.saturating_mul(1_000)).unwrap_or(i64::MAX));
        return if value == 0 { "never".to_owned() } else { format!("{} ago", moment::ago(at)) };
    }
    value.to_string()
}

/// "512 B", "1.5 GiB".
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1 << 10 {
        return format!("{bytes} B");
    }
    let place = bytes.ilog2() / 10;
    format!("{:.1} {}", bytes as f64 / 1024_f64.powi(place.cast_signed()), UNITS[place as usize - 1])
}

/// The shape is public: a metric without labels is its number, one with labels an object by label, as deep as it has any.
#[derive(Serialize)]
struct StatusJson<'a> {
    version: &'a str,
    cluster: String,
    since: String,
    alarms: &'a [String],
    metrics: Map<String, Value>,
}

impl<'a> From<&'a Status> for StatusJson<'a> {
    fn from(status: &'a Status) -> Self {
        let mut metrics = Map::new();
        for metric in &status.metrics {
            for sample in &metric.samples {
                let mut place = metrics.entry(&metric.name).or_insert_with(|| Value::Object(Map::new()));
                for (_, label) in &sample.labels {
                    let Value::Object(map) = place else { break };
                    place = map.entry(label).or_insert_with(|| Value::Object(Map::new()));
                }
                *place = sample.value.into();
            }
        }
        Self {
            version: &status.version,
            cluster: status.cluster.to_string(),
            since: moment::rfc3339(status.started_at),
            alarms: &status.alarms,
            metrics,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::id::ClusterId;

    fn status() -> Status {
        let sample = |labels: &[(&str, &str)], value| Sample {
            labels: labels.iter().map(|(key, label)| ((*key).to_owned(), (*label).to_owned())).collect(),
            value,
        };
        let metric = |name: &str, title: &str, kind, samples| Metric {
            name: name.into(),
            title: title.into(),
            help: "Help.".into(),
            kind,
            samples,
        };
        let connection = |listener, result, value| sample(&[("listener", listener), ("result", result)], value);
        Status {
            version: "0.1.0".into(),
            cluster: ClusterId::from_bytes([0; 16]),
            started_at: Timestamp::from_millis(0),
            alarms: vec!["the disk is full".into()],
            metrics: vec![
                metric("muster_store_bytes", "store", MetricKind::Gauge, vec![sample(&[("part", "output")], 1536)]),
                metric("muster_events_total", "events", MetricKind::Counter, vec![sample(&[], 0)]),
                metric(
                    "muster_connections_total",
                    "connections",
                    MetricKind::Counter,
                    vec![
                        connection("agents", "admitted", 7),
                        connection("agents", "accept_errors", 2),
                        connection("operators", "admitted", 0),
                    ],
                ),
            ],
        }
    }

    #[test]
    fn people_see_a_line_for_each_metric() {
        let text = text(&status());
        let lines: Vec<_> = text.lines().skip(3).collect();
        assert_eq!(
            lines,
            [
                "store                   1.5 KiB output",
                "events                  0",
                "connections: agents     7 admitted, 2 accept errors",
                "connections: operators  none",
            ]
        );
    }

    #[test]
    fn json_has_its_public_shape() {
        let json = serde_json::to_string(&StatusJson::from(&status())).expect("JSON");
        assert_eq!(
            json,
            concat!(
                r#"{"version":"0.1.0","cluster":"00000000000000000000000000","since":"1970-01-01T00:00:00.000Z","#,
                r#""alarms":["the disk is full"],"metrics":{"muster_connections_total":"#,
                r#"{"agents":{"accept_errors":2,"admitted":7},"operators":{"admitted":0}},"#,
                r#""muster_events_total":0,"muster_store_bytes":{"output":1536}}}"#
            )
        );
    }

    #[test]
    fn prometheus_reads_every_number() {
        assert_eq!(
            prometheus::page(&status()),
            concat!(
                "# HELP muster_info Version and cluster.\n# TYPE muster_info gauge\n",
                "muster_info{version=\"0.1.0\",cluster=\"00000000000000000000000000\"} 1\n",
                "# HELP muster_start_timestamp_seconds When the controller began.\n",
                "# TYPE muster_start_timestamp_seconds gauge\nmuster_start_timestamp_seconds 0\n",
                "# HELP muster_alarms What somebody has to see to.\n# TYPE muster_alarms gauge\nmuster_alarms 1\n",
                "# HELP muster_store_bytes Help.\n# TYPE muster_store_bytes gauge\n",
                "muster_store_bytes{part=\"output\"} 1536\n",
                "# HELP muster_events_total Help.\n# TYPE muster_events_total counter\nmuster_events_total 0\n",
                "# HELP muster_connections_total Help.\n# TYPE muster_connections_total counter\n",
                "muster_connections_total{listener=\"agents\",result=\"admitted\"} 7\n",
                "muster_connections_total{listener=\"agents\",result=\"accept_errors\"} 2\n",
                "muster_connections_total{listener=\"operators\",result=\"admitted\"} 0\n",
            )
        );
    }

    #[test]
    fn sizes_are_short() {
        for (number, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 30, "1.0 GiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(bytes(number), text);
        }
    }
}
