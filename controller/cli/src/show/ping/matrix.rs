//! `--matrix`: who reaches whom, as a map: a row for each place that looks, a column for each host, one character a
//! pair.
//!
//! Where columns do not fit the terminal, neighbours share one; with a label, all that have the same value share rows and
//! columns. A cell that stands for several pairs shows the mean of their round trips and what all of them lost.

use super::millis;
use super::unseen::CONTROLLER;
use crate::board::{Board, tally};
use crate::show::summary::folded;
use crate::show::table::cut;
use anstyle::{AnsiColor, Style};
use muster_proto::outcome::{Outcome, State};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::Hash;
use std::time::Duration;

/// Characters of a row's name.
const NAME_CHARS: usize = 24;
/// Lines above the map that name its columns; of longer names the ends are shown.
const HEAD_LINES: usize = 12;
/// Round trips up to these multiples of the median have the shades below; the median counts as this much at least.
const SHADES: [(u32, char); 3] = [(2, '·'), (4, '░'), (8, '▒')];
const SLOWEST: char = '▓';
const MEDIAN_MIN: Duration = Duration::from_micros(250);

/// How hosts share rows and columns: all with the same word; others stand for themselves.
#[derive(Debug, Default)]
pub struct Groups(pub Option<HashMap<String, String>>);

impl Groups {
    fn of(&self, name: &str) -> String {
        match &self.0 {
            None => name.to_owned(),
            Some(words) => words.get(name).map_or("-", String::as_str).to_owned(),
        }
    }
}

/// All pairs of one cell together.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    pairs: u32,
    sent: u64,
    received: u64,
    mean_total: Duration,
    answered: u32,
}

impl Cell {
    fn add(&mut self, outcome: Option<&Outcome>) {
        self.pairs += 1;
        let Some(outcome) = outcome.filter(|end| matches!(end.state, State::Succeeded | State::Failed)) else { return };
        let Some(tally) = tally(outcome) else { return };
        self.sent += u64::from(tally.sent);
        self.received += u64::from(tally.received);
        if let Some(rtt) = tally.rtt {
            self.answered += 1;
            self.mean_total += rtt.mean;
        }
    }

    fn mean(&self) -> Option<Duration> {
        self.mean_total.checked_div(self.answered)
    }

    /// Its sign, with the median of all that answered.
    fn sign(&self, median: Duration) -> (char, Style) {
        if self.pairs == 0 {
            return (' ', Style::new());
        }
        if self.sent == 0 {
            return ('?', AnsiColor::Yellow.on_default());
        }
        let Some(mean) = self.mean() else { return ('X', AnsiColor::Red.on_default().bold()) };
        let lost = (self.sent - self.received.min(self.sent)) * 10;
        match u32::try_from(lost.div_ceil(self.sent)) {
            Ok(0) => SHADES
                .into_iter()
                .find(|(times, _)| mean <= median * *times)
                .map_or((SLOWEST, AnsiColor::Magenta.on_default()), |(_, sign)| (sign, AnsiColor::Green.on_default())),
            Ok(tenths) => (char::from_digit(tenths.min(9), 10).unwrap_or('9'), AnsiColor::Yellow.on_default().bold()),
            Err(_) => ('9', AnsiColor::Yellow.on_default().bold()),
        }
    }
}

/// Names in the order in which they first occur, with their places.
#[derive(Debug)]
struct Axis<K> {
    names: Vec<String>,
    places: HashMap<K, usize>,
}

impl<K: Hash + Eq> Axis<K> {
    fn new() -> Self {
        Self { names: Vec::new(), places: HashMap::new() }
    }

    fn place(&mut self, key: K, name: impl FnOnce() -> String) -> usize {
        let next = self.names.len();
        *self.places.entry(key).or_insert_with(|| {
            self.names.push(name());
            next
        })
    }
}

/// The map of a ping that is over, at most so many columns wide, with its legend.
pub fn map(board: &Board, groups: &Groups, columns: usize, colour: bool) -> String {
    let (mut rows, mut across, mut cells) = (Axis::new(), Axis::new(), HashMap::<_, Cell>::new());
    for (name, outcome) in board.ends() {
        let from = name.from.as_ref().map(|from| groups.of(from.as_str()));
        let to = groups.of(name.host.as_str());
        let row = rows.place(from.clone(), || from.unwrap_or_else(|| CONTROLLER.to_owned()));
        let column = across.place(to.clone(), || to);
        cells.entry((row, column)).or_default().add(outcome);
    }
    let label = rows.names.iter().map(|name| name.chars().count()).max().unwrap_or(0).min(NAME_CHARS) + 1;
    let room = columns.saturating_sub(label).max(1);
    let share = across.names.len().div_ceil(room);
    let grid = Grid::new(&rows.names, &across.names, &cells, share);
    grid.text(label, room, colour)
}

/// Cells as they are shown, the rows one after the other.
struct Grid<'a> {
    from: &'a [String],
    to: &'a [String],
    /// So many neighbours share a column.
    share: usize,
    cells: Vec<Vec<Cell>>,
}

impl<'a> Grid<'a> {
    fn new(from: &'a [String], to: &'a [String], known: &HashMap<(usize, usize), Cell>, share: usize) -> Self {
        let mut cells = vec![vec![Cell::default(); to.len().div_ceil(share)]; from.len()];
        for ((row, column), known) in known {
            let cell = &mut cells[*row][column / share];
            cell.pairs += known.pairs;
            cell.sent += known.sent;
            cell.received += known.received;
            cell.mean_total += known.mean_total;
            cell.answered += known.answered;
        }
        Self { from, to, share, cells }
    }

    fn median(&self) -> Duration {
        let mut means: Vec<Duration> = self.cells.iter().flatten().filter_map(Cell::mean).collect();
        means.sort_unstable();
        means.get(means.len().saturating_sub(1) / 2).copied().unwrap_or_default().max(MEDIAN_MIN)
    }

    fn text(&self, label: usize, room: usize, colour: bool) -> String {
        // A space between columns where there is room for it.
        let step = if self.cells.first().map_or(0, Vec::len) * 2 <= room { 2 } else { 1 };
        let median = self.median();
        let mut text = self.head(label, step);
        for (name, row) in self.from.iter().zip(&self.cells) {
            let name = cut(name, label - 1);
            let mut line = format!("{name:label$}");
            for cell in row {
                let (sign, style) = cell.sign(median);
                if colour && sign != ' ' {
                    // Writing to a string cannot fail.
                    let _ = write!(line, "{style}{sign}{style:#}");
                } else {
                    line.push(sign);
                }
                line.push_str(&" ".repeat(step - 1));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text + &self.legend(median)
    }

    /// The columns' names, written downwards; what all of them begin with is left to the legend.
    fn head(&self, label: usize, step: usize) -> String {
        let names: Vec<&str> = self.to.chunks(self.share).map(|names| names[0].as_str()).collect();
        let common = common_start(&names);
        let ends: Vec<Vec<char>> = names.iter().map(|name| name[common..].chars().collect()).collect();
        let lines = ends.iter().map(Vec::len).max().unwrap_or(0).min(HEAD_LINES);
        let mut text = String::new();
        for line in 0..lines {
            let mut row = " ".repeat(label);
            for end in &ends {
                // All end at the map.
                let place = (line + end.len()).checked_sub(lines);
                row.push(place.and_then(|place| end.get(place)).copied().unwrap_or(' '));
                row.push_str(&" ".repeat(step - 1));
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text
    }

    fn legend(&self, median: Duration) -> String {
        let [fast, slower, slow] = SHADES.map(|(times, sign)| format!("{sign} {}", millis(median * times)));
        let share = match self.share {
            1 => String::new(),
            share => format!("each column stands for {share} neighbours and is named after the first\n"),
        };
        format!(
            "rows look: {}\ncolumns are looked at: {}\n{share}\
             up to {fast}, {slower}, {slow} ms, {SLOWEST} more; 1 to 9 tenths lost, X no answer, ? not known\n",
            folded(self.from.iter()),
            folded(self.to.iter()),
        )
    }
}

/// Bytes that all names begin with, up to where a number begins.
fn common_start(names: &[&str]) -> usize {
    let Some((first, others)) = names.split_first().filter(|(_, others)| !others.is_empty()) else { return 0 };
    let same = |name: &&str| first.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
    let common = others.iter().map(same).min().unwrap_or(0);
    let number = first[..common].bytes().rev().take_while(u8::is_ascii_digit).count();
    common - number
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::{after, ended};

    #[test]
    fn a_small_mesh_is_a_map_with_names() {
        let names = ["n1", "n2", "n1>n2", "n2>n1", "n3>n1", "n3>n2"];
        let board = after(
            &names,
            [
                ended(0, 10, &[100; 10]),
                ended(1, 10, &[100; 9]),
                ended(2, 1, &[]),
                ended(3, 1, &[900]),
                ended(4, 1, &[9_000]),
            ],
        );
        let lines = [
            "           1 2",
            "controller · 1",
            "n1           X",
            "n2         ░",
            "n3         ▓ ?",
            "rows look: controller,n[1-3]",
            "columns are looked at: n[1-2]",
            "up to · 0.500, ░ 1.00, ▒ 2.00 ms, ▓ more; 1 to 9 tenths lost, X no answer, ? not known",
        ];
        assert_eq!(map(&board, &Groups::default(), 80, false).lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn a_hundred_by_a_hundred_fits_and_hides_no_dead_pair() {
        let names: Vec<String> = (0..10_000).map(|pair| format!("a{:03}>web{:03}", pair / 100, pair % 100)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let board = after(
            &names,
            (0..10_000).map(|pair| {
                let micros: &[u64] = if pair == 4_242 { &[] } else { &[100] };
                let mut end = ended(0, 1, micros);
                if let muster_proto::event::EventKind::Finished { target, .. } = &mut end {
                    *target = pair;
                }
                end
            }),
        );
        let text = map(&board, &Groups::default(), 80, false);
        let head = text.lines().position(|line| line.starts_with('a')).expect("rows");
        assert_eq!(head, 3, "{text}");
        let rows: Vec<&str> = text.lines().skip(head).take(100).collect();
        assert!(rows[0].starts_with("a000 ··") && rows[99].starts_with("a099 "), "{text}");
        assert!(rows.iter().all(|row| row.chars().count() <= 80), "{text}");
        // One of the two pairs in its cell is lost: a half.
        assert_eq!(rows[42].trim_end(), format!("a042 {}5{}", "·".repeat(21), "·".repeat(28)), "{text}");
        assert!(text.contains("each column stands for 2 neighbours"), "{text}");
        let whole = map(&board, &Groups::default(), 200, false);
        assert!(whole.lines().any(|line| line.starts_with("a042 ") && line.contains('X')), "{whole}");
    }

    #[test]
    fn few_rows_stay_apart_however_many_columns_there_are() {
        let names: Vec<String> =
            (0..600).map(|pair| format!("{}web{:03}", ["", "n1>", "controller>"][pair / 200], pair % 200)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let text = map(&after(&names, []), &Groups::default(), 80, false);
        let rows = text.lines().filter(|line| line.ends_with("???")).map(|line| line.split(' ').next());
        assert_eq!(rows.collect::<Vec<_>>(), [Some("controller"), Some("n1"), Some("controller")], "{text}");
    }

    #[test]
    fn a_label_folds_rows_and_columns() {
        let board = after(
            &["n1>n2", "n1>n3", "n2>n3", "n1>x"],
            [ended(0, 1, &[100]), ended(1, 1, &[]), ended(2, 1, &[]), ended(3, 1, &[100])],
        );
        let words = [("n1", "a"), ("n2", "a"), ("n3", "b")].map(|(name, word)| (name.to_owned(), word.to_owned()));
        let text = map(&board, &Groups(Some(HashMap::from(words))), 80, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["  a b -", "a · X ·"], "{text}");
        let text = map(&after(&["long1", "x9"], [ended(0, 1, &[1]), ended(1, 1, &[1])]), &Groups::default(), 80, false);
        let head: String =
            text.lines().take(5).map(|line| line.get(11..).unwrap_or_default().to_owned() + "|").collect();
        assert_eq!(head, "l|o|n|g x|1 9|", "{text}");
    }
}
