//! A ping in the text format of Prometheus, for a collector that reads files: `muster ping ... -o prometheus > FILE`.

use crate::board::{Board, Sighting, sighting};
use crate::show::prometheus::escaped;
use muster_proto::ping::{Tally, TargetName};
use std::fmt::Write as _;
use std::time::Duration;

/// One family of metrics: its name, what it says, and its samples as labels behind those of the target, and value.
type Family = (&'static str, &'static str, fn(&Tally) -> Vec<(&'static str, f64)>);

const FAMILIES: [Family; 8] = [
    ("muster_ping_sent", "Probes.", |tally| vec![("", tally.sent.into())]),
    ("muster_ping_received", "Probes that were answered in time.", |tally| vec![("", tally.received.into())]),
    ("muster_ping_loss_ratio", "Probes without an answer, 0 to 1.", |tally| {
        Vec::from_iter((tally.sent > 0).then(|| ("", tally.loss_percent() / 100.0)))
    }),
    ("muster_ping_duplicates", "Answers after the first to the same probe.", |tally| {
        vec![("", tally.duplicates.into())]
    }),
    ("muster_ping_late", "Answers that came after their time.", |tally| vec![("", tally.late.into())]),
    ("muster_ping_rtt_seconds", "Round trips; quantile 0 is the shortest and 1 the longest.", |tally| {
        let quantiles = |rtt: muster_proto::ping::Summary| {
            [
                (",quantile=\"0\"", rtt.min),
                (",quantile=\"0.5\"", rtt.median),
                (",quantile=\"0.95\"", rtt.p95),
                (",quantile=\"0.99\"", rtt.p99),
                (",quantile=\"1\"", rtt.max),
            ]
        };
        tally.rtt.into_iter().flat_map(quantiles).map(|(label, rtt)| (label, rtt.as_secs_f64())).collect()
    }),
    ("muster_ping_rtt_mean_seconds", "The mean round trip.", |tally| one(tally.rtt.map(|rtt| rtt.mean))),
    ("muster_ping_rtt_jitter_seconds", "Jitter as in RFC 3550.", |tally| one(tally.rtt.map(|rtt| rtt.jitter))),
];

fn one(span: Option<Duration>) -> Vec<(&'static str, f64)> {
    span.into_iter().map(|span| ("", span.as_secs_f64())).collect()
}

/// All targets that were looked at: of what nobody could know there is no sample, and no host is down for it.
pub fn page(board: &Board) -> String {
    let labels = |name: &TargetName| {
        let from = name.from.as_ref().map_or("controller", |from| from.as_str());
        format!("host=\"{}\",from=\"{}\"", escaped(name.host.as_str()), escaped(from))
    };
    let mut page = String::new();
    head(&mut page, "muster_ping_up", "Whether the host answered.");
    for (name, outcome) in board.ends() {
        let up = match outcome.map(sighting) {
            Some(Sighting::Alive) => 1,
            Some(Sighting::Dead) => 0,
            Some(Sighting::Nameless | Sighting::None) | None => continue,
        };
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(page, "muster_ping_up{{{}}} {up}", labels(name));
    }
    for (metric, help, samples) in FAMILIES {
        head(&mut page, metric, help);
        for (name, outcome) in board.ends() {
            let seen = outcome.filter(|outcome| matches!(sighting(outcome), Sighting::Alive | Sighting::Dead));
            let Some(report) = seen.and_then(|outcome| outcome.ping.as_deref()) else { continue };
            for (via, tally) in [("icmp", &report.icmp), ("agent", &report.link)] {
                for (label, value) in tally.iter().flat_map(samples) {
                    let _ = writeln!(page, "{metric}{{{},via=\"{via}\"{label}}} {value}", labels(name));
                }
            }
        }
    }
    page
}

pub fn head(page: &mut String, metric: &str, help: &str) {
    let _ = writeln!(page, "# HELP {metric} {help}\n# TYPE {metric} gauge");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::{after, ended, tally_of};
    use muster_proto::event::EventKind;
    use muster_proto::outcome::State;
    use muster_proto::ping::{FailureKind, PingReport};

    #[test]
    fn every_target_has_its_gauges() {
        let board = after(&["web01", "n1>fe80::1%eth0", "later"], [ended(0, 4, &[1_000, 3_000]), ended(1, 1, &[])]);
        let page = page(&board);
        for line in [
            "# TYPE muster_ping_up gauge",
            "muster_ping_up{host=\"web01\",from=\"controller\"} 1",
            "muster_ping_up{host=\"fe80::1%eth0\",from=\"n1\"} 0",
            "muster_ping_loss_ratio{host=\"web01\",from=\"controller\",via=\"icmp\"} 0.5",
            "muster_ping_rtt_seconds{host=\"web01\",from=\"controller\",via=\"icmp\",quantile=\"1\"} 0.003",
            "muster_ping_rtt_mean_seconds{host=\"web01\",from=\"controller\",via=\"icmp\"} 0.002",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        assert!(!page.contains("later"));
        // No value for a round trip that was never made.
        assert!(!page.lines().any(|line| line.starts_with("muster_ping_rtt") && line.contains("n1")), "{page}");
    }

    #[test]
    fn who_could_not_look_calls_nobody_down() {
        for kind in FailureKind::ALL {
            let report = PingReport { icmp: Some(tally_of(1, &[])), ..PingReport::default() };
            let outcome = report.outcome(Some(kind.into()), Duration::ZERO);
            let page = page(&after(&["a"], [EventKind::Finished { target: 0, outcome }]));
            let samples: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
            if kind.state() == State::Failed {
                assert!(samples.contains(&"muster_ping_up{host=\"a\",from=\"controller\"} 0"), "{kind:?}: {page}");
            } else {
                assert_eq!(samples, [""; 0], "{kind:?}");
            }
        }
    }

    #[test]
    fn what_was_not_sent_was_not_lost() {
        let report =
            PingReport { icmp: Some(tally_of(0, &[])), link: Some(tally_of(1, &[300])), ..PingReport::default() };
        let outcome = report.outcome(Some(FailureKind::NoSocket.into()), Duration::ZERO);
        let page = page(&after(&["a"], [EventKind::Finished { target: 0, outcome }]));
        assert!(page.contains("muster_ping_up{host=\"a\",from=\"controller\"} 1\n"), "{page}");
        let losses: Vec<&str> = page.lines().filter(|line| line.starts_with("muster_ping_loss_ratio")).collect();
        assert_eq!(losses, ["muster_ping_loss_ratio{host=\"a\",from=\"controller\",via=\"agent\"} 0"]);
    }
}
