//! The one form in which a ping is shown, from its first event to its end.

use super::changes::Changes;
use super::matrix::{self, Groups};
use super::text::{Figures, Text};
use super::{csv, millis, prometheus, table};
use crate::board::{Board, diagnoses, tally};
use crate::show::console::{Console, Sink};
use crate::show::table::cut;
use crate::show::{self, json, summary};
use crate::track::{Order, Show, called};
use muster_proto::event::{Event, EventKind, Stream};
use muster_proto::id::JobId;
use muster_proto::ping::{Sample, TargetName};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Diagnoses in lines of their own; more would fill the screen.
const DIAGNOSES_MAX: usize = 12;

/// How a ping is to be shown.
#[derive(Debug)]
pub enum Style {
    /// As fping does, or as a table on a terminal.
    Text {
        /// Which targets have a line at their end; `None` is as many as fit on a terminal, else all.
        show: Option<Show>,
        /// In which order.
        order: Order,
        /// Each probe has a line of its own, where it is not a table.
        probes: Probes,
        /// Payload in bytes.
        payload: u16,
    },
    /// Every probe and every end that was told, as lines wherever they go.
    Log {
        /// Payload in bytes.
        payload: u16,
    },
    /// Only the names of those that ended so, one a line.
    Names(Show),
    /// Only who goes down and comes up.
    Changes,
    /// A map of who reaches whom.
    Matrix(Groups),
    /// One object at the end; the follower asks the controller for it.
    Json,
    /// One event a line.
    Jsonl,
    /// At the end, a line a target.
    Csv,
    /// At the end, for Prometheus.
    Prometheus,
}

/// What is shown of single probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probes {
    /// A line each.
    Lines,
    /// A line a target for each interval of time.
    Intervals,
    /// Nothing; on a terminal no table moves either.
    Nothing,
}

/// A ping on its way to the user.
pub struct View {
    form: Form,
    job: JobId,
    names: Rc<[TargetName]>,
    /// What is on its way to the console, kept for its memory.
    out: String,
}

enum Form {
    Lines { text: Text, show: Show, order: Order, probes: Probes, intervals: Vec<Interval> },
    Table { show: Option<Show>, probes: Probes, colour: bool },
    Names(Show),
    Changes(Changes),
    Matrix(Groups),
    Json,
    Jsonl,
    Csv,
    Prometheus,
}

/// The probes of one target since the last line.
#[derive(Debug, Clone, Copy, Default)]
struct Interval {
    figures: Figures,
    total: Duration,
}

impl Interval {
    fn add(&mut self, sample: &Sample) {
        let figures = &mut self.figures;
        figures.sent += 1;
        if let Ok(rtt) = sample.answer {
            figures.received += 1;
            self.total += rtt;
            let [min, _, max] = figures.rtt.unwrap_or([rtt; 3]);
            figures.rtt = Some([min.min(rtt), self.total / figures.received, max.max(rtt)]);
        }
    }
}

impl View {
    /// For a ping with these targets, on this console.
    pub fn new(style: Style, job: JobId, names: Rc<[TargetName]>, console: &Console) -> Self {
        let on_terminal = |stream| matches!(console.sink(stream), Sink::Terminal { .. });
        let form = match style {
            Style::Text { show, probes, .. }
                if probes != Probes::Intervals && on_terminal(Stream::Stdout) && on_terminal(Stream::Stderr) =>
            {
                Form::Table { show, probes, colour: console.sink(Stream::Stdout) == Sink::Terminal { colour: true } }
            }
            Style::Text { show, order, probes, payload } => {
                let intervals = if probes == Probes::Intervals { names.len() } else { 0 };
                Form::Lines {
                    text: Text::new(names.clone(), payload),
                    show: show.unwrap_or(Show::All),
                    order,
                    probes,
                    intervals: vec![Interval::default(); intervals],
                }
            }
            Style::Log { payload } => Form::Lines {
                text: Text::new(names.clone(), payload),
                show: Show::All,
                order: Order::Completion,
                probes: Probes::Lines,
                intervals: Vec::new(),
            },
            Style::Names(show) => Form::Names(show),
            Style::Changes => Form::Changes(Changes::new(names.clone())),
            Style::Matrix(groups) => Form::Matrix(groups),
            Style::Json => Form::Json,
            Style::Jsonl => Form::Jsonl,
            Style::Csv => Form::Csv,
            Style::Prometheus => Form::Prometheus,
        };
        Self { form, job, names, out: String::new() }
    }

    /// Whether it is one object that only the controller can give whole.
    pub const fn is_json(&self) -> bool {
        matches!(self.form, Form::Json)
    }

    /// Whether the diagnoses are told beside it: not where they are in it, or nothing is wanted.
    const fn has_talk(&self) -> bool {
        matches!(self.form, Form::Lines { .. } | Form::Table { .. } | Form::Matrix(_))
    }

    /// Has the board take these events into account, and shows them.
    pub fn events(&mut self, console: &mut Console, board: &mut Board, events: &[Event]) -> anyhow::Result<()> {
        self.out.clear();
        for event in events {
            board.apply(event);
            self.event(console, board, event)?;
        }
        if let Form::Lines { text, show, order: Order::Target, .. } = &self.form {
            for place in board.track_mut().take_turns() {
                end(text, *show, &mut self.out, board, place);
            }
        }
        Ok(write(console, &self.out)?)
    }

    fn event(&mut self, console: &mut Console, board: &Board, event: &Event) -> anyhow::Result<()> {
        let out = &mut self.out;
        match (&mut self.form, &event.kind) {
            (Form::Jsonl, _) => out.push_str(&json::event_line(self.job, &self.names, event)?),
            (_, EventKind::Cancelling { operator }) => console.say(&format!("cancelled by {operator}"))?,
            (Form::Changes(changes), _) => changes.event(out, event),
            (Form::Names(show), EventKind::Finished { target, outcome }) if show.includes(outcome.state) => {
                if let Some(name) = self.names.get(*target as usize) {
                    out.push_str(&called(name));
                    out.push('\n');
                }
            }
            (Form::Lines { text, show, probes, intervals, .. }, EventKind::Probed { target, sample }) => {
                let place = *target as usize;
                match (probes, intervals.get_mut(place), board.probed(place)) {
                    // Who is to be shown is known only at the end, unless all are.
                    (Probes::Lines, _, Some(probed)) if *show == Show::All => text.probe(out, place, sample, probed),
                    (Probes::Intervals, Some(interval), _) => interval.add(sample),
                    _ => {}
                }
            }
            (Form::Lines { text, show, order: Order::Completion, .. }, EventKind::Finished { target, .. }) => {
                end(text, *show, out, board, *target as usize);
            }
            _ => {}
        }
        Ok(())
    }

    /// Some time has passed: draws what shows progress.
    pub fn progress(&self, console: &mut Console, board: &Board, elapsed: Duration) -> io::Result<()> {
        console.show_progress(|window| match &self.form {
            Form::Table { colour, probes: Probes::Lines, .. } => table::frame(board, window, elapsed, *colour),
            _ => cut(&table::count(board, elapsed), window.columns - 1).into_owned(),
        })
    }

    /// An interval is over, at this time of the day (UTC).
    pub fn interval(&mut self, console: &mut Console, time: &str) -> io::Result<()> {
        let Form::Lines { text, probes: Probes::Intervals, intervals, .. } = &mut self.form else { return Ok(()) };
        let mut out = format!("[{time}]\n");
        for (place, interval) in intervals.iter_mut().enumerate() {
            text.figures(&mut out, place, &std::mem::take(interval).figures);
        }
        console.write(Stream::Stdout, out.as_bytes())
    }

    /// Nothing more will be told: shows what is left to the end.
    pub fn end(&mut self, console: &mut Console, board: &mut Board) -> io::Result<()> {
        console.hide_progress()?;
        self.out.clear();
        let page = match &self.form {
            Form::Table { show, colour, .. } => {
                let window = show::window(io::stdout()).unwrap_or(show::WINDOW_DEFAULT);
                table::last(board, window, *show, *colour)
            }
            Form::Matrix(groups) => {
                let colour = console.sink(Stream::Stdout) == Sink::Terminal { colour: true };
                matrix::map(board, groups, show::columns(io::stdout()).unwrap_or(usize::MAX), colour)
            }
            Form::Csv => csv::page(board),
            Form::Prometheus => prometheus::page(board),
            Form::Lines { text, show, order: Order::Target, .. } => {
                let mut out = String::new();
                for place in board.track_mut().take_rest() {
                    end(text, *show, &mut out, board, place);
                }
                out
            }
            _ => String::new(),
        };
        write(console, &page)?;
        if !self.has_talk() {
            return Ok(());
        }
        diagnosis_lines(board).iter().try_for_each(|line| console.say(line))?;
        round_trips(board).map_or(Ok(()), |line| console.say(&line))
    }
}

/// Nothing to write leaves what shows progress alone.
fn write(console: &mut Console, text: &str) -> io::Result<()> {
    if text.is_empty() { Ok(()) } else { console.write(Stream::Stdout, text.as_bytes()) }
}

fn end(text: &Text, show: Show, out: &mut String, board: &Board, place: usize) {
    if let Some(outcome) = board.track().outcome(place).filter(|outcome| show.includes(outcome.state)) {
        text.end(out, place, outcome);
    }
}

/// What does not agree, with the hosts it is said of: `ping ok, agent silent: web[03-05]`.
fn diagnosis_lines(board: &Board) -> Vec<String> {
    let mut said: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (host, diagnosis) in diagnoses(board.ends()) {
        said.entry(diagnosis.to_string()).or_default().push(host.as_str());
    }
    let more = said.len().saturating_sub(DIAGNOSES_MAX);
    let shown = said.iter().take(DIAGNOSES_MAX);
    let mut lines: Vec<String> =
        shown.map(|(text, hosts)| format!("{text}: {}", summary::folded(hosts.iter()))).collect();
    if more > 0 {
        lines.push(format!("and {more} more diagnoses: -o json has them all"));
    }
    lines
}

/// The round trips of all targets together: `rtt min/avg/max 0.020/0.051/0.310 ms`.
fn round_trips(board: &Board) -> Option<String> {
    let tallies = board.ends().filter_map(|(_, outcome)| tally(outcome?));
    let answered: Vec<_> = tallies.filter_map(|tally| Some((tally.received, tally.rtt?))).collect();
    let min = answered.iter().map(|(_, rtt)| rtt.min).min()?;
    let max = answered.iter().map(|(_, rtt)| rtt.max).max()?;
    let total: f64 = answered.iter().map(|(received, rtt)| rtt.mean.as_secs_f64() * f64::from(*received)).sum();
    let received: f64 = answered.iter().map(|(received, _)| f64::from(*received)).sum();
    let mean = Duration::try_from_secs_f64(total / received).ok()?;
    Some(format!("rtt min/avg/max {}/{}/{} ms", millis(min), millis(mean), millis(max)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::{board, ended, event, name, probed};
    use crate::show::console::tests::console;
    use muster_proto::outcome::Counts;

    /// What both ends show of these events in this form, once all is over.
    fn shown(sink: Sink, style: Style, names: &[&str], kinds: Vec<EventKind>) -> (String, String) {
        let (mut console, out, err) = console(sink);
        let named = names.iter().map(|text| name(text)).collect();
        let mut board = board(names);
        let mut view = View::new(style, JobId::from_bytes([0; 16]), named, &console);
        let events: Vec<Event> = kinds.into_iter().map(|kind| event(0, kind)).collect();
        view.events(&mut console, &mut board, &events).expect("written");
        view.interval(&mut console, "10:00:00").expect("written");
        view.end(&mut console, &mut board).expect("written");
        console.flush().expect("written");
        (out.text(), err.text())
    }

    fn text(probes: Probes, show: Option<Show>, order: Order) -> Style {
        Style::Text { show, order, probes, payload: 56 }
    }

    fn three() -> Vec<EventKind> {
        vec![ended(2, 1, &[30]), ended(1, 1, &[]), ended(0, 1, &[50]), EventKind::Done { counts: Counts::default() }]
    }

    const NAMES: [&str; 3] = ["a", "b", "c"];

    #[test]
    fn each_form_shows_its_own() {
        let [a, b, c] = [
            "a : xmt/rcv/%loss = 1/1/0%, min/avg/max = 0.050/0.050/0.050\n",
            "b : xmt/rcv/%loss = 1/0/100%: no reply\n",
            "c : xmt/rcv/%loss = 1/1/0%, min/avg/max = 0.030/0.030/0.030\n",
        ];
        let lines = Probes::Lines;
        for (style, out) in [
            (text(lines, None, Order::Completion), format!("{c}{b}{a}")),
            (text(lines, None, Order::Target), format!("{a}{b}{c}")),
            (text(lines, Some(Show::Failed), Order::Target), b.to_owned()),
            (Style::Names(Show::Ok), "c\na\n".to_owned()),
            (Style::Names(Show::Failed), "b\n".to_owned()),
            (text(Probes::Nothing, None, Order::Completion), format!("{c}{b}{a}")),
        ] {
            let form = format!("{style:?}");
            assert_eq!(shown(Sink::Pipe, style, &NAMES, three()).0, out, "{form}");
        }
        let (csv, talk) = shown(Sink::Pipe, Style::Csv, &NAMES, three());
        assert_eq!((csv.lines().count(), talk.as_str()), (4, ""));
        let (table, _) = shown(Sink::Terminal { colour: false }, text(lines, None, Order::Completion), &NAMES, three());
        assert!(table.starts_with("HOST  ADDRESS ") && table.ends_with("alive\n"), "{table}");
        let kinds = vec![probed(0, 0, Some(50)), probed(1, 0, None), ended(0, 1, &[50]), ended(1, 1, &[])];
        assert_eq!(shown(Sink::Pipe, text(lines, Some(Show::Failed), Order::Completion), &NAMES, kinds).0, b);
        let jsonl = shown(Sink::Pipe, Style::Jsonl, &["n1>a"], vec![probed(0, 0, None)]).0;
        let tail = r#""kind":"probed","host":"a","from":"n1","probe":0,"rtt_ms":null,"reason":"no reply"}"#;
        assert!(jsonl.trim_end().ends_with(tail), "{jsonl}");
    }

    #[test]
    fn intervals_are_summed_up_in_place_of_single_probes() {
        let probes = vec![probed(0, 0, Some(100)), probed(0, 1, Some(300)), probed(0, 2, None), probed(1, 0, None)];
        let style = text(Probes::Intervals, None, Order::Completion);
        let (out, _) = shown(Sink::Terminal { colour: false }, style, &NAMES, probes);
        let lines = [
            "[10:00:00]",
            "a : xmt/rcv/%loss = 3/2/33%, min/avg/max = 0.100/0.200/0.300",
            "b : xmt/rcv/%loss = 1/0/100%",
            "c : xmt/rcv/%loss = 0/0/0%",
        ];
        assert_eq!(out.lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn what_does_not_agree_is_said_once_for_all_it_is_true_of() {
        let names = ["web1", "web2", "n1>web1", "n1>web2"];
        let kinds = vec![ended(0, 1, &[]), ended(1, 1, &[]), ended(2, 1, &[200]), ended(3, 1, &[400])];
        let (_, talk) = shown(Sink::Pipe, text(Probes::Lines, None, Order::Completion), &names, kinds);
        let lines = ["dead from the controller, alive from n1: web[1-2]", "rtt min/avg/max 0.200/0.300/0.400 ms"];
        assert_eq!(talk.lines().collect::<Vec<_>>(), lines);
    }
}
