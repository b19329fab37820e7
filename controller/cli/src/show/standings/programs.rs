//! How the hosts of schedules were, for spreadsheets (RFC 4180) and for a collector of metrics.

use super::{availability, word, worst_loss};
use crate::show::moment;
use crate::show::ping::csv::cell;
use crate::show::ping::prometheus::head;
use crate::show::prometheus::escaped;
use muster_proto::name::HostName;
use muster_proto::ping::{Change, Standing};
use std::fmt::Write as _;

fn from(from: Option<&HostName>) -> &str {
    from.map_or("controller", |from| from.as_str())
}

fn row(page: &mut String, cells: &[&str]) {
    for (place, text) in cells.iter().enumerate() {
        page.push_str(if place > 0 { "," } else { "" });
        cell(page, text);
    }
    page.push('\n');
}

/// A header, then a line a host.
pub fn csv(standings: &[Standing]) -> String {
    let mut page = String::from(
        "schedule,host,from,state,since,reason,availability_percent,up_s,known_s,sent,received,worst_loss_percent,flaps,\
         rtt_avg_ms,rtt_max_ms\n",
    );
    for it in standings {
        let rtt = |pick: fn((std::time::Duration, std::time::Duration)) -> std::time::Duration| {
            it.rtt.map(|rtt| format!("{:.3}", pick(rtt).as_secs_f64() * 1_000.0)).unwrap_or_default()
        };
        let cells = [
            it.schedule.to_string(),
            it.host.to_string(),
            from(it.from.as_ref()).to_owned(),
            word(it.up).to_owned(),
            moment::rfc3339(it.since),
            it.reason.clone().unwrap_or_default(),
            availability(it).map(|part| format!("{:.4}", part * 100.0)).unwrap_or_default(),
            it.up_time.as_secs().to_string(),
            it.known_time.as_secs().to_string(),
            it.sent.to_string(),
            it.received.to_string(),
            worst_loss(it).map(|part| format!("{:.1}", part * 100.0)).unwrap_or_default(),
            it.flaps.to_string(),
            rtt(|(mean, _)| mean),
            rtt(|(_, max)| max),
        ];
        row(&mut page, &cells.each_ref().map(String::as_str));
    }
    page
}

/// A header, then a line a change.
pub fn csv_of_changes(changes: &[Change]) -> String {
    let mut page = String::from("time,schedule,host,from,state,reason\n");
    for it in changes {
        let (time, reason) = (moment::rfc3339(it.at), it.reason.as_deref().unwrap_or_default());
        let word = word(Some(it.up));
        row(&mut page, &[&time, it.schedule.as_str(), it.host.as_str(), from(it.from.as_ref()), word, reason]);
    }
    page
}

/// One family of metrics: its name, what it says, and the value, if there is one.
type Family = (&'static str, &'static str, fn(&Standing) -> Option<f64>);

const FAMILIES: [Family; 8] = [
    ("muster_ping_status_known", "Whether it is known if the host is up.", |it| Some(f64::from(it.up.is_some()))),
    ("muster_ping_status_up", "Whether the host is up.", |it| it.up.map(|up| if up { 1.0 } else { 0.0 })),
    ("muster_ping_status_availability_ratio", "Time up of the time known, 0 to 1.", availability),
    ("muster_ping_status_known_seconds", "Time in which it is known.", |it| Some(it.known_time.as_secs_f64())),
    ("muster_ping_status_worst_loss_ratio", "Probes lost in the worst 10 minutes, 0 to 1.", worst_loss),
    ("muster_ping_status_flaps", "Changes.", |it| Some(it.flaps.into())),
    ("muster_ping_status_rtt_mean_seconds", "The mean round trip.", |it| it.rtt.map(|(mean, _)| mean.as_secs_f64())),
    ("muster_ping_status_rtt_max_seconds", "The longest round trip.", |it| it.rtt.map(|(_, max)| max.as_secs_f64())),
];

/// Gauges of each host, over the time that was asked for. Of what is not known there is no value.
pub fn prometheus(standings: &[Standing]) -> String {
    let mut page = String::new();
    for (metric, help, value) in FAMILIES {
        head(&mut page, metric, help);
        for it in standings {
            if let Some(value) = value(it) {
                let (host, from) = (escaped(it.host.as_str()), escaped(from(it.from.as_ref())));
                // Writing to a string cannot fail.
                let _ =
                    writeln!(page, "{metric}{{schedule=\"{}\",host=\"{host}\",from=\"{from}\"}} {value}", it.schedule);
            }
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::super::tests::{change, standing};
    use super::*;
    use muster_proto::time::Timestamp;

    #[test]
    fn a_spreadsheet_has_a_line_a_host_or_a_change() {
        let mut one = standing("web01", Some(false), 0, 1_000);
        one.since = Timestamp::from_millis(0);
        assert_eq!(
            csv(&[one]).lines().nth(1),
            Some("core,web01,controller,down,1970-01-01T00:00:00.000Z,no reply,0.0000,0,100,100,0,100.0,1,,")
        );
        assert_eq!(
            csv_of_changes(&[change("web01", 0, false)]),
            "time,schedule,host,from,state,reason\n2026-11-22T10:00:00.000Z,core,web01,controller,down,no reply\n"
        );
    }

    #[test]
    fn a_collector_reads_what_is_known() {
        let unseen = Standing { sent: 0, ..standing("web02", None, 0, 0) };
        let page = prometheus(&[standing("n1>web01", Some(true), 50, 500), unseen]);
        for line in [
            "# TYPE muster_ping_status_up gauge",
            "muster_ping_status_known{schedule=\"core\",host=\"web01\",from=\"n1\"} 1",
            "muster_ping_status_known{schedule=\"core\",host=\"web02\",from=\"controller\"} 0",
            "muster_ping_status_up{schedule=\"core\",host=\"web01\",from=\"n1\"} 1",
            "muster_ping_status_availability_ratio{schedule=\"core\",host=\"web01\",from=\"n1\"} 0.5",
            "muster_ping_status_rtt_max_seconds{schedule=\"core\",host=\"web01\",from=\"n1\"} 0.0125",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        assert_eq!(page.matches("web02").count(), 4, "whether, how long, and how often it was known: {page}");
    }
}
