//! A ping on a terminal: a table of the targets that need attention most, redrawn in place, and plain at the end.

use super::view::is_shown;
use super::{millis, why};
use crate::board::{Board, Condition, Look};
use crate::show::progress::Window;
use crate::show::summary::thousands;
use crate::show::table::cut;
use crate::show::{moment, summary};
use crate::track::{Show, called};
use anstyle::{AnsiColor, Style};
use muster_proto::outcome::State;
use std::time::Duration;

/// Characters of a host's name that are shown however narrow the terminal is, and of its state.
const HOST_CHARS: usize = 20;
const STATE_CHARS: usize = 16;

/// Columns but for the last, `STATE`: what they are called, and how little they are missed where there is no room (0 is
/// always shown; from `SPARE` on they give way to a state that would be cut).
const COLUMNS: [(&str, u8); 8] =
    [("HOST", 0), ("ADDRESS", 3), ("SENT", 2), ("LOSS", 0), ("LAST", 4), ("AVG", 1), ("P95", 5), ("JITTER", 6)];
const SPARE: u8 = 4;
/// Of columns with text; the others have numbers.
const TEXT_COLUMNS: usize = 2;

/// What fits into the window now: the worst targets, and a line that counts all.
pub fn frame(board: &Board, window: Window, elapsed: Duration, colour: bool) -> String {
    let places = board.worst(window.rows.saturating_sub(3));
    let mut text = table(board, &places, window.columns.saturating_sub(1), colour);
    text.push_str(&cut(&count(board, elapsed), window.columns.saturating_sub(1)));
    text
}

/// "3 down, 1 lossy, 496 up of 500, 4.1 s".
pub fn count(board: &Board, elapsed: Duration) -> String {
    let words = ["down", "unknown", "lossy", "up", "waiting"];
    let said = board.conditions().into_iter().zip(words).filter(|(count, _)| *count > 0);
    let parts: Vec<String> = said.map(|(count, word)| format!("{count} {word}")).collect();
    format!("{} of {}, {}", parts.join(", "), board.names().len(), moment::span(elapsed))
}

/// The table at the end: all that is wanted, or as much of it as fits and a line that says what is left out.
pub fn last(board: &Board, window: Window, show: Option<Show>, colour: bool) -> String {
    let wanted = |place: &usize| match (show, board.track().outcome(*place)) {
        (_, Some(outcome)) => is_shown(show, outcome),
        (_, None) => show != Some(Show::Ok),
    };
    let mut places: Vec<usize> = board.worst(usize::MAX).into_iter().filter(wanted).collect();
    let all = places.len();
    // Room for the table's head, the diagnoses, the closing lines and the prompt.
    let room = window.rows.saturating_sub(6).max(1);
    if show.is_none() && all > room {
        places.truncate(room);
    }
    let mut text = if places.is_empty() { String::new() } else { table(board, &places, window.columns, colour) };
    if places.len() < all {
        let best = board.look(places[places.len() - 1]).condition;
        let than = if best >= Condition::Up { "all up and faster" } else { "none worse" };
        let more = thousands((all - places.len()) as u64);
        text.push_str(&cut(&format!("and {more} more, {than}: --show all"), window.columns));
        text.push('\n');
    }
    text
}

/// All targets in the order of the list, at most so many columns wide.
pub fn list(board: &Board, columns: usize) -> String {
    table(board, &(0..board.names().len()).collect::<Vec<_>>(), columns, false)
}

fn table(board: &Board, places: &[usize], columns: usize, colour: bool) -> String {
    let looks: Vec<(usize, Look<'_>)> = places.iter().map(|place| (*place, board.look(*place))).collect();
    let rows: Vec<[String; 8]> = looks.iter().map(|(place, look)| cells(board, *place, look)).collect();
    let mut widths: [usize; 8] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(COLUMNS[column].0.len())
    });
    let states: Vec<String> = looks.iter().map(|(_, look)| state(look)).collect();
    let longest = states.iter().map(|state| state.chars().count()).max().unwrap_or(0);
    let several = looks.iter().any(|(_, look)| look.probes.0 > 1);
    // What nobody has is not missed, and the last say the same as AVG of a single probe.
    let said = |column: usize| COLUMNS[column].1 == 0 || rows.iter().any(|row| row[column] != "-");
    let tells = |column: usize| several || !matches!(COLUMNS[column].0, "LAST" | "P95" | "JITTER");
    let mut shown: Vec<usize> = (0..COLUMNS.len()).filter(|column| said(*column) && tells(*column)).collect();
    let width_of = |shown: &[usize], widths: &[usize; 8]| -> usize { shown.iter().map(|at| widths[*at] + 2).sum() };
    while let Some(least) = shown.iter().copied().max_by_key(|column| COLUMNS[*column].1) {
        let wanted = if COLUMNS[least].1 >= SPARE { longest.max(STATE_CHARS) } else { STATE_CHARS };
        if width_of(&shown, &widths) + wanted <= columns {
            break;
        }
        if COLUMNS[least].1 == 0 {
            // The name gives way before the state does, but keeps its beginning.
            let spare = columns.saturating_sub(width_of(&shown, &widths) - widths[0] + STATE_CHARS);
            widths[0] = spare.max(HOST_CHARS).min(widths[0]);
            break;
        }
        shown.retain(|column| *column != least);
    }
    let room = columns.saturating_sub(width_of(&shown, &widths)).max(1);
    let line = |cells: &dyn Fn(usize) -> String, state: &str| {
        let mut line = String::new();
        for column in &shown {
            let cell = cells(*column);
            let (cell, width) = (cut(&cell, widths[*column]), widths[*column]);
            line.push_str(&if *column < TEXT_COLUMNS {
                format!("{cell:width$}  ")
            } else {
                format!("{cell:>width$}  ")
            });
        }
        line.push_str(&cut(state, room));
        line
    };
    let mut text = line(&|column| COLUMNS[column].0.to_owned(), "STATE");
    text.push('\n');
    for (((_, look), cells), state) in looks.iter().zip(&rows).zip(&states) {
        let line = line(&|column| cells[column].clone(), state);
        let style = style(look.condition);
        text.push_str(&if colour { format!("{style}{line}{style:#}\n") } else { format!("{line}\n") });
    }
    text
}

fn cells(board: &Board, place: usize, look: &Look<'_>) -> [String; 8] {
    let name = called(&board.names()[place]).into_owned();
    let address = look.outcome.and_then(|outcome| outcome.ping.as_deref()?.address);
    // A host that is called by its address needs it only once.
    let address = address.map(|address| address.to_string()).filter(|address| *address != name);
    let (sent, received) = look.probes;
    let loss = match f64::from(sent.saturating_sub(received)) * 100.0 / f64::from(sent) {
        _ if sent == 0 => String::new(),
        loss if loss > 0.0 && loss < 1.0 => "<1%".to_owned(),
        loss => format!("{loss:.0}%"),
    };
    let rtt = |of: fn(&muster_proto::ping::Summary) -> Duration| look.rtt.as_ref().map(of).map(millis);
    let cells = [
        Some(name),
        address,
        Some(sent.to_string()),
        Some(loss),
        look.last.map(millis),
        rtt(|rtt| rtt.mean),
        rtt(|rtt| rtt.p95),
        rtt(|rtt| rtt.jitter),
    ];
    cells.map(|cell| cell.filter(|cell| !cell.is_empty()).unwrap_or_else(|| "-".to_owned()))
}

fn state(look: &Look<'_>) -> String {
    match (look.outcome, look.failure) {
        (Some(outcome), _) if outcome.state == State::Succeeded => "alive".to_owned(),
        (Some(outcome), _) if outcome.state == State::Failed => summary::end(outcome),
        (Some(outcome), _) => why(outcome).into_owned(),
        (None, Some(failure)) if look.condition == Condition::Down => format!("down: {failure}"),
        (None, Some(failure)) => failure.to_string(),
        (None, None) if look.condition == Condition::Up || look.condition == Condition::Lossy => "up".to_owned(),
        (None, None) => "waiting".to_owned(),
    }
}

const fn style(condition: Condition) -> Style {
    match condition {
        Condition::Down => AnsiColor::Red.on_default(),
        Condition::Lossy | Condition::Unknown => AnsiColor::Yellow.on_default(),
        Condition::Up => Style::new(),
        Condition::Waiting => Style::new().dimmed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::{after, ended, probed};
    use muster_proto::event::EventKind;
    use muster_proto::outcome::Outcome;

    const NARROW: Window = Window { columns: 80, rows: 24 };

    #[test]
    fn one_probe_needs_few_columns() {
        let board = after(&["web01", "web02", "10.0.0.3"], [ended(0, 1, &[120]), ended(1, 1, &[]), ended(2, 1, &[80])]);
        let lines = [
            "HOST      ADDRESS   SENT  LOSS    AVG  STATE",
            "web02     10.0.0.2     1  100%      -  failed: no reply",
            "web01     10.0.0.1     1    0%  0.120  alive",
            "10.0.0.3  -            1    0%  0.080  alive",
        ];
        assert_eq!(last(&board, NARROW, None, false).lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn a_live_table_has_what_is_told_so_far_within_the_window() {
        let names: Vec<String> = (0..100).map(|n| format!("n{n:03}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let events = (0..99).flat_map(|n| [probed(n, 0, Some(100)), probed(n, 1, (n != 7).then_some(120))]);
        let board = after(&names, events);
        let text = frame(&board, NARROW, Duration::from_secs(2), false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), NARROW.rows - 1, "{text}");
        assert!(lines[1].starts_with("n007 ") && lines[1].ends_with("down: no reply"), "{text}");
        assert_eq!(lines[22], "1 down, 98 up, 1 waiting of 100, 2.0 s");
        for columns in [200, 80, 60, 40, 20] {
            let text = frame(&board, Window { columns, rows: 10 }, Duration::ZERO, false);
            let widest = text.lines().map(|line| line.chars().count()).max().expect("lines");
            assert!(widest < columns.max(30), "{columns}: {text}");
        }
    }

    #[test]
    fn figures_that_are_missed_least_give_way_to_a_reason() {
        let away = "the agent that was to look is not connected";
        let kinds = |reason: &str| {
            let outcome = Outcome::without_run(State::StartFailed, reason);
            vec![probed(0, 0, Some(90)), ended(0, 3, &[90, 120, 110]), EventKind::Finished { target: 1, outcome }]
        };
        let table = |reason: &str| last(&after(&["web01", "web02"], kinds(reason)), NARROW, None, false);
        let head =
            |table: &str| table.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        let all = table("gone");
        assert_eq!(head(&all), "HOST ADDRESS SENT LOSS LAST AVG P95 JITTER STATE");
        assert!(all.lines().any(|line| line.starts_with("web02 ") && line.ends_with("  gone")), "{all}");
        let narrow = table(away);
        assert_eq!(head(&narrow), "HOST ADDRESS SENT LOSS AVG STATE", "{narrow}");
        assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
        assert!(narrow.contains(&format!("  {away}\n")), "{narrow}");
    }

    #[test]
    fn what_is_left_out_is_said() {
        let names: Vec<String> = (0..50).map(|n| format!("n{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let board = after(&names, (0..50).map(|n| ended(n, 1, if n == 3 { &[] } else { &[50] })));
        let text = last(&board, NARROW, None, false);
        assert_eq!(text.lines().count(), 20, "{text}");
        assert!(text.ends_with("and 32 more, all up and faster: --show all\n"), "{text}");
        assert_eq!(last(&board, NARROW, Some(Show::All), false).lines().count(), 51);
        assert_eq!(last(&board, NARROW, Some(Show::Failed), false).lines().count(), 2);
    }
}
