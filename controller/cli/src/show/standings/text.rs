//! How the hosts of schedules were, for people: the worst first, and one line for all that were never down.

use super::{availability, name, word, worst_loss};
use crate::show::moment;
use crate::show::ping::millis;
use crate::show::table::{Table, cut};
use muster_proto::names::fold;
use muster_proto::ping::{Change, Standing, TargetName};
use muster_proto::time::Timestamp;
use std::collections::HashMap;

/// A part for each schedule, in their order.
pub fn standings(standings: &[Standing], columns: usize) -> String {
    let parts = standings.chunk_by(|a, b| a.schedule == b.schedule);
    parts.map(|part| schedule(part, columns)).collect::<Vec<_>>().join("\n")
}

fn schedule(standings: &[Standing], columns: usize) -> String {
    let count = |up| standings.iter().filter(|standing| standing.up == up).count();
    let counts = [Some(true), Some(false), None].map(|up| (count(up), word(up)));
    let shown = counts.iter().filter(|(count, word)| *count > 0 || *word == "up");
    let counted: Vec<_> = shown.map(|(count, word)| format!("{count} {word}")).collect();
    let schedule = standings.first().map(|standing| standing.schedule.to_string()).unwrap_or_default();
    let mut text = format!("{schedule}: {}\n", counted.join(", "));
    let (fine, mut others): (Vec<_>, Vec<_>) = standings.iter().partition(|standing| is_fine(standing));
    // Stable: of equals the first of the list stays the first.
    others.sort_by(|a, b| {
        let rank = |it: &Standing| (it.up == Some(true), it.up.is_none());
        let better = |it: &Standing| availability(it).unwrap_or(1.0);
        rank(a)
            .cmp(&rank(b))
            .then(better(a).total_cmp(&better(b)))
            .then(b.worst_loss_permille.cmp(&a.worst_loss_permille))
            .then(b.flaps.cmp(&a.flaps))
    });
    if !others.is_empty() {
        text.push_str(&table(&others, columns));
    }
    if !fine.is_empty() {
        let names: Vec<_> = fine.iter().map(|standing| name(standing).to_string()).collect();
        let hosts = if fine.len() == 1 { "host" } else { "hosts" };
        let line = format!("{} {hosts} 100%: {}", fine.len(), fold(names.iter().map(String::as_str)));
        text.push_str(&cut(&line, columns));
        text.push('\n');
    }
    text
}

/// There is nothing to tell of it.
fn is_fine(standing: &Standing) -> bool {
    let whole = standing.up_time == standing.known_time && standing.worst_loss_permille == 0;
    standing.up == Some(true) && whole && standing.flaps == 0
}

fn table(standings: &[&Standing], columns: usize) -> String {
    let mut table = Table::new(&["HOST", "UP", "LOSS", "FLAPS", "RTT", "STATE"]).within(columns);
    for standing in standings {
        let rtt = standing.rtt.map(|(mean, max)| format!("{}/{}", millis(mean), millis(max)));
        let reason = standing.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let since = match standing.known_time.is_zero() && standing.up.is_none() && standing.reason.is_none() {
            true => String::new(),
            false => format!(" {}", moment::ago(standing.since)),
        };
        table.row(vec![
            name(standing).to_string(),
            availability(standing).map(percent).unwrap_or_default(),
            worst_loss(standing).map(tenths).unwrap_or_default(),
            standing.flaps.to_string(),
            rtt.unwrap_or_default(),
            format!("{}{since}{reason}", word(standing.up)),
        ]);
    }
    table.to_string()
}

/// Never more than it is: `100%` is all, and `99.99%` is what is next to it.
fn percent(part: f64) -> String {
    let hundredths = (part * 10_000.0).floor();
    if hundredths >= 10_000.0 { "100%".to_owned() } else { format!("{:.2}%", hundredths / 100.0) }
}

/// As exact as it is known: `0.0%`, `66.7%`, `100%`.
fn tenths(part: f64) -> String {
    if part >= 1.0 { "100%".to_owned() } else { format!("{:.1}%", part * 100.0) }
}

/// A line for each change, as a log has it.
pub fn changes(changes: &[Change]) -> String {
    let mut down: HashMap<(&str, TargetName), Timestamp> = HashMap::new();
    let mut text = String::new();
    for change in changes {
        let name = TargetName { from: change.from.clone(), host: change.host.clone() };
        let head = format!("{} {} {name}", moment::rfc3339(change.at), change.schedule);
        let key = (change.schedule.as_str(), name);
        let line = if change.up {
            let after = down.remove(&key).map(|since| format!(" after {}", moment::span(since.until(change.at))));
            format!("{head} up{}\n", after.unwrap_or_default())
        } else {
            down.insert(key, change.at);
            let reason = change.reason.as_ref().map(|reason| format!(": {reason}"));
            format!("{head} down{}\n", reason.unwrap_or_default())
        };
        text.push_str(&line);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::{change, standing};
    use super::*;

    #[test]
    fn the_worst_is_first_and_who_is_fine_shares_a_line() {
        let mut all: Vec<_> = (1..=3).map(|number| standing(&format!("web0{number}"), Some(true), 100, 0)).collect();
        all.push(standing("web04", Some(true), 99, 250));
        all.push(standing("n1>web05", Some(false), 40, 1_000));
        all.push(standing("web06", None, 100, 0));
        assert_eq!(
            standings(&all, 80),
            "core: 4 up, 1 down, 1 unknown\n\
             HOST      UP      LOSS   FLAPS  RTT         STATE\n\
             n1>web05  40.00%  100%   1      0.310/12.5  down 5 min: no reply\n\
             web06     100%    0.0%   0      0.310/12.5  unknown 5 min: no reply\n\
             web04     99.00%  25.0%  1      0.310/12.5  up 5 min\n\
             3 hosts 100%: web[01-03]\n"
        );
        for line in standings(&all, 60).lines() {
            assert!(line.chars().count() <= 60, "{line}");
        }
        assert_eq!(standings(&all[..1], 80), "core: 1 up\n1 host 100%: web01\n");
        assert_eq!(standings(&[], 80), "");
    }

    #[test]
    fn nothing_but_all_is_100_per_cent() {
        assert_eq!([1.0, 0.999_999, 0.5, 0.0].map(percent), ["100%", "99.99%", "50.00%", "0.00%"]);
    }

    #[test]
    fn a_change_is_a_line_with_its_time() {
        let log = changes(&[change("web01", 0, false), change("web02", 1, true), change("web01", 62, true)]);
        assert_eq!(
            log,
            "2026-11-22T10:00:00.000Z core web01 down: no reply\n\
             2026-11-22T10:00:01.000Z core web02 up\n\
             2026-11-22T10:01:02.000Z core web01 up after 1 min 02 s\n"
        );
    }
}
