//! A ping as comma-separated values (RFC 4180): a header, then a line a target.

use super::json::{contact, millis};
use crate::board::{Board, diagnoses};
use muster_proto::ping::{PingName, Summary, Tally};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Round trips, in the order of their columns.
type Figure = (&'static str, fn(&Summary) -> Duration);
const FIGURES: [Figure; 7] = [
    ("min_ms", |rtt| rtt.min),
    ("avg_ms", |rtt| rtt.mean),
    ("max_ms", |rtt| rtt.max),
    ("median_ms", |rtt| rtt.median),
    ("p95_ms", |rtt| rtt.p95),
    ("p99_ms", |rtt| rtt.p99),
    ("jitter_ms", |rtt| rtt.jitter),
];

/// All targets in the order of the list; one without an end is `not done`.
pub fn page(board: &Board) -> String {
    let diagnoses: HashMap<&PingName, String> =
        diagnoses(board.ends()).into_iter().map(|(host, diagnosis)| (host, diagnosis.to_string())).collect();
    let mut page = String::from("host,from,address,agent,state,reason,diagnosis");
    for way in ["icmp", "link"] {
        let counts = ["sent", "received", "loss_percent"].into_iter();
        let names = counts.chain(FIGURES.iter().map(|(name, _)| *name)).chain(["duplicates", "late", "damaged"]);
        // Writing to a string cannot fail, here and below.
        for name in names {
            let _ = write!(page, ",{way}_{name}");
        }
    }
    page.push('\n');
    for (name, outcome) in board.ends() {
        let report = outcome.and_then(|outcome| outcome.ping.as_deref());
        let from = name.from.as_ref().map_or("controller", |from| from.as_str());
        let address = report.and_then(|report| report.address).map(|address| address.to_string());
        let agent = report.and_then(|report| report.agent).map_or("", contact);
        let state = outcome.map_or("not done", |outcome| outcome.state.as_str());
        let reason = outcome.and_then(|outcome| outcome.reason.as_deref());
        let diagnosis = diagnoses.get(&name.host).map_or("", String::as_str);
        let address = address.as_deref().unwrap_or_default();
        let cells = [name.host.as_str(), from, address, agent, state, reason.unwrap_or_default(), diagnosis];
        for (place, text) in cells.into_iter().enumerate() {
            page.push_str(if place > 0 { "," } else { "" });
            cell(&mut page, text);
        }
        for tally in [report.and_then(|report| report.icmp), report.and_then(|report| report.link)] {
            figures(&mut page, tally.as_ref());
        }
        page.push('\n');
    }
    page
}

fn figures(page: &mut String, tally: Option<&Tally>) {
    let Some(tally) = tally else {
        return page.extend(std::iter::repeat_n(',', FIGURES.len() + 6));
    };
    let _ = write!(page, ",{},{},{:.1}", tally.sent, tally.received, tally.loss_percent());
    for (_, figure) in FIGURES {
        page.push(',');
        if let Some(rtt) = &tally.rtt {
            let _ = write!(page, "{:.3}", millis(figure(rtt)));
        }
    }
    let _ = write!(page, ",{},{},{}", tally.duplicates, tally.late, tally.damaged);
}

/// Text that a spreadsheet would take for a formula is shown to it as text.
pub fn cell(page: &mut String, text: &str) {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let quoted = text.contains([',', '"', '\n', '\r']);
    match (formula, quoted) {
        (false, false) => page.push_str(text),
        _ => {
            let _ = write!(page, "\"{}{}\"", if formula { "'" } else { "" }, text.replace('"', "\"\""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::{after, ended};

    #[test]
    fn every_line_has_the_columns_of_the_header() {
        let board = after(&["web01", "n1>web01", "web02"], [ended(0, 1, &[]), ended(1, 2, &[100, 300])]);
        let page = page(&board);
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(lines.len(), 4);
        let diagnosis = "\"dead from the controller, alive from n1\"";
        let seen = ",1,0,100.0,,,,,,,,0,0,0";
        let nothing = ",".repeat(13);
        assert_eq!(lines[1], format!("web01,controller,10.0.0.1,,failed,no reply,{diagnosis}{seen}{nothing}"));
        let seen = ",2,2,0.0,0.100,0.200,0.300,0.100,0.300,0.300,0.013,0,0,0";
        assert!(lines[2].starts_with("web01,n1,10.0.0.2,,succeeded,,"), "{}", lines[2]);
        assert!(lines[2].ends_with(&format!("{seen}{nothing}")), "{}", lines[2]);
        assert_eq!(lines[3], format!("web02,controller,,,not done,,{}", ",".repeat(26)));
        let columns = |line: &str| line.replace(diagnosis, "").matches(',').count();
        assert!(lines.iter().all(|line| columns(line) == columns(lines[0])), "{page}");
    }

    #[test]
    fn no_cell_is_a_formula_or_breaks_its_line() {
        let shown = |text| {
            let mut page = String::new();
            cell(&mut page, text);
            page
        };
        for (text, safe) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("=1+1", "\"'=1+1\""),
            ("@x", "\"'@x\""),
            ("a\nb", "\"a\nb\""),
        ] {
            assert_eq!(shown(text), safe);
        }
    }
}
