//! The one form in which a ping is shown, from its first event to its end.

use super::blocks::Blocks;
use super::changes::Changes;
use super::hosts::{Fate, Hosts};
use super::matrix::{self, Groups};
use super::text::Text;
use super::unseen::{self, Whom};
use super::{csv, millis, prometheus, table};
use crate::board::{Board, diagnoses, tally};
use crate::show::console::{Console, Sink};
use crate::show::table::cut;
use crate::show::{self, json, summary};
use crate::track::{Order, Show, called};
use muster_proto::event::{Event, EventKind, Stream};
use muster_proto::id::JobId;
use muster_proto::outcome::{Outcome, State};
use muster_proto::ping::TargetName;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Lines of one kind beside what was asked for; more would fill the screen.
const LINES_MAX: usize = 12;

/// How a ping is to be shown.
#[derive(Debug)]
pub enum Style {
    /// As fping does, or as a table on a terminal.
    Text {
        /// Which targets have a line at their end; `None` is all that were looked at, or as many as fit on a terminal.
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
    /// Only the names of targets that ended so, one a line.
    Names(Show),
    /// Only the names of hosts of which this is known, one a line.
    Hosts(Fate),
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
    cancel: Cancel,
}

/// Whose wish it is that a ping ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancel {
    /// Somebody's, who is named.
    Anybodys,
    /// That of who reads this.
    Ours,
}

enum Form {
    Lines { text: Text, show: Option<Show>, order: Order, probes: Probes },
    Blocks { text: Text, show: Option<Show>, blocks: Blocks },
    Table { show: Option<Show>, probes: Probes, colour: bool },
    Names(Show),
    Hosts(Hosts),
    Changes(Changes),
    Matrix(Groups),
    Json,
    Jsonl,
    Csv,
    Prometheus,
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
            Style::Text { show, probes: Probes::Intervals, payload, .. } => {
                Form::Blocks { text: Text::new(names.clone(), payload), show, blocks: Blocks::new(names.len()) }
            }
            Style::Text { show, order, probes, payload } => {
                Form::Lines { text: Text::new(names.clone(), payload), show, order, probes }
            }
            Style::Log { payload } => Form::Lines {
                text: Text::new(names.clone(), payload),
                show: Some(Show::All),
                order: Order::Completion,
                probes: Probes::Lines,
            },
            Style::Names(show) => Form::Names(show),
            Style::Hosts(fate) => Form::Hosts(Hosts::new(fate, names.clone())),
            Style::Changes => Form::Changes(Changes::new(names.clone())),
            Style::Matrix(groups) => Form::Matrix(groups),
            Style::Json => Form::Json,
            Style::Jsonl => Form::Jsonl,
            Style::Csv => Form::Csv,
            Style::Prometheus => Form::Prometheus,
        };
        Self { form, job, names, out: String::new(), cancel: Cancel::Anybodys }
    }

    /// Who reads this has the ping end early, and need not be told.
    pub const fn cancel_is_ours(&mut self) {
        self.cancel = Cancel::Ours;
    }

    /// Whether it is one object that only the controller can give whole.
    pub const fn is_json(&self) -> bool {
        matches!(self.form, Form::Json)
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
            (_, EventKind::Cancelling { operator }) if self.cancel == Cancel::Anybodys => {
                console.say(&format!("cancelled by {operator}"))?;
            }
            (Form::Changes(changes), _) => changes.event(out, event),
            (Form::Names(show), EventKind::Finished { target, outcome }) if show.includes(outcome.state) => {
                if let Some(name) = self.names.get(*target as usize) {
                    out.push_str(&called(name));
                    out.push('\n');
                }
            }
            (Form::Hosts(hosts), EventKind::Finished { target, outcome }) => {
                hosts.finished(out, *target as usize, outcome);
            }
            // Who is to be shown is known only at the end, unless all are.
            (
                Form::Lines { text, show: None | Some(Show::All), probes: Probes::Lines, .. },
                EventKind::Probed { target, sample },
            ) => {
                let place = *target as usize;
                if let Some(probed) = board.probed(place) {
                    text.probe(out, place, sample, probed);
                }
            }
            (Form::Blocks { blocks, .. }, EventKind::Probed { target, sample }) => blocks.add(*target as usize, sample),
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
        let Form::Blocks { text, blocks, .. } = &mut self.form else { return Ok(()) };
        write(console, &blocks.take(text, time).unwrap_or_else(|| format!("[{time}] no probe ended\n")))
    }

    /// Nothing more will be told: shows what is left to the end, at this time of the day (UTC).
    pub fn end(&mut self, console: &mut Console, board: &mut Board, time: &str) -> io::Result<()> {
        console.hide_progress()?;
        let mut page = String::new();
        match &mut self.form {
            Form::Table { show, colour, .. } => {
                let window = show::window(io::stdout()).unwrap_or(show::WINDOW_DEFAULT);
                page = table::last(board, window, *show, *colour);
            }
            Form::Matrix(groups) => {
                let colour = console.sink(Stream::Stdout) == Sink::Terminal { colour: true };
                page = matrix::map(board, groups, show::columns(io::stdout()).unwrap_or(usize::MAX), colour);
            }
            Form::Csv => page = csv::page(board),
            Form::Prometheus => page = prometheus::page(board),
            Form::Hosts(hosts) => hosts.end(&mut page),
            Form::Lines { text, show, order: Order::Target, .. } => {
                board.track_mut().take_rest().into_iter().for_each(|place| end(text, *show, &mut page, board, place));
            }
            Form::Blocks { text, show, blocks } => {
                page.extend(blocks.take(text, time));
                (0..board.names().len()).for_each(|place| end(text, *show, &mut page, board, place));
            }
            _ => {}
        }
        write(console, &page)?;
        self.talk(board).iter().try_for_each(|line| console.say(line))
    }

    /// What is said beside what was asked for; nothing where that has it all, or names alone are wanted.
    fn talk(&self, board: &Board) -> Vec<String> {
        let (whom, show) = match &self.form {
            Form::Lines { show, .. } | Form::Blocks { show, .. } | Form::Table { show, .. } => (Whom::Agents, *show),
            Form::Matrix(_) => (Whom::All, None),
            _ => return Vec::new(),
        };
        let mut lines = capped(unseen::lines(board, whom));
        let skipped = board.track().counts().get(State::Skipped);
        if skipped > 0 && show.is_none() {
            lines.push(format!("{} not looked at", summary::thousands(skipped.into())));
        }
        lines.extend(capped(diagnosis_lines(board)));
        lines.extend(round_trips(board));
        lines
    }
}

/// Nothing to write leaves what shows progress alone.
fn write(console: &mut Console, text: &str) -> io::Result<()> {
    if text.is_empty() { Ok(()) } else { console.write(Stream::Stdout, text.as_bytes()) }
}

fn end(text: &Text, show: Option<Show>, out: &mut String, board: &Board, place: usize) {
    if let Some(outcome) = board.track().outcome(place).filter(|outcome| is_shown(show, outcome)) {
        text.end(out, place, outcome);
    }
}

/// Unless all are asked for by name, those that a cancelled ping did not come to are but a number.
pub fn is_shown(show: Option<Show>, outcome: &Outcome) -> bool {
    show.map_or(outcome.state != State::Skipped, |show| show.includes(outcome.state))
}

fn capped(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(LINES_MAX);
    if more > 0 {
        lines.truncate(LINES_MAX);
        lines.push(format!("and {more} more such lines: -o json has them all"));
    }
    lines
}

/// What does not agree, with the hosts it is said of: `ping ok, agent silent: web[03-05]`.
fn diagnosis_lines(board: &Board) -> Vec<String> {
    let mut said: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (host, diagnosis) in diagnoses(board.ends()) {
        said.entry(diagnosis.to_string()).or_default().push(host.as_str());
    }
    said.iter().map(|(text, hosts)| format!("{text}: {}", summary::folded(hosts.iter()))).collect()
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
        view.end(&mut console, &mut board, "10:00:00").expect("written");
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
            (Style::Hosts(Fate::Alive), "c\na\n".to_owned()),
            (Style::Hosts(Fate::Dead), "b\n".to_owned()),
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
        let mut probes = vec![probed(0, 0, Some(100)), probed(0, 1, Some(300)), ended(1, 1, &[])];
        // The last probe of one that ended with the job belongs to the last block.
        probes.splice(2..2, [probed(1, 0, None), probed(0, 2, None)]);
        probes.push(ended(0, 3, &[100, 300]));
        let style = text(Probes::Intervals, None, Order::Completion);
        let (out, _) = shown(Sink::Terminal { colour: false }, style, &NAMES, probes);
        let lines = [
            "[10:00:00]",
            "a : xmt/rcv/%loss = 3/2/33%, min/avg/max = 0.100/0.200/0.300",
            "b : xmt/rcv/%loss = 1/0/100%",
            "a : xmt/rcv/%loss = 3/2/33%, min/avg/max = 0.100/0.200/0.300",
            "b : xmt/rcv/%loss = 1/0/100%: no reply",
        ];
        assert_eq!(out.lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn blocks_add_up_and_tell_only_of_who_was_probed() {
        let (mut console, out, _) = console(Sink::Pipe);
        let mut board = board(&NAMES);
        let style = text(Probes::Intervals, None, Order::Completion);
        let named = NAMES.iter().map(|text| name(text)).collect();
        let mut view = View::new(style, JobId::from_bytes([0; 16]), named, &console);
        let mut tell = |view: &mut View, console: &mut Console, kind| {
            view.events(console, &mut board, &[event(0, kind)]).expect("written");
        };
        tell(&mut view, &mut console, probed(0, 0, Some(100)));
        view.interval(&mut console, "10:00:00").expect("written");
        view.interval(&mut console, "10:00:10").expect("written");
        tell(&mut view, &mut console, probed(1, 0, None));
        tell(&mut view, &mut console, ended(1, 1, &[]));
        tell(&mut view, &mut console, probed(0, 1, Some(300)));
        tell(&mut view, &mut console, ended(0, 2, &[100, 300]));
        view.end(&mut console, &mut board, "10:00:12").expect("written");
        console.flush().expect("written");
        let lines = [
            "[10:00:00]",
            "a : xmt/rcv/%loss = 1/1/0%, min/avg/max = 0.100/0.100/0.100",
            "[10:00:10] no probe ended",
            "[10:00:12]",
            "a : xmt/rcv/%loss = 1/1/0%, min/avg/max = 0.300/0.300/0.300",
            "b : xmt/rcv/%loss = 1/0/100%",
            "a : xmt/rcv/%loss = 2/2/0%, min/avg/max = 0.100/0.200/0.300",
            "b : xmt/rcv/%loss = 1/0/100%: no reply",
        ];
        assert_eq!(out.text().lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn what_an_interrupt_left_out_is_a_number_and_nobody_is_told_who_interrupted() {
        let skipped = |target| {
            let outcome = Outcome::without_run(State::Skipped, "the job was cancelled before it was looked at");
            EventKind::Finished { target, outcome }
        };
        let kinds = || {
            let operator = "ada".parse().expect("a name");
            vec![EventKind::Cancelling { operator }, ended(0, 1, &[50]), skipped(1), skipped(2)]
        };
        for (show, skipped_lines, number) in [(None, 0, true), (Some(Show::All), 2, false)] {
            let (out, talk) = shown(Sink::Pipe, text(Probes::Lines, show, Order::Completion), &NAMES, kinds());
            assert_eq!(out.lines().count(), 1 + skipped_lines, "{out}");
            assert_eq!(talk.lines().any(|line| line == "2 not looked at"), number, "{talk}");
            assert!(talk.contains("cancelled by ada"), "{talk}");
        }
        let (table, talk) =
            shown(Sink::Terminal { colour: false }, text(Probes::Lines, None, Order::Completion), &NAMES, kinds());
        assert!(table.lines().count() == 2 && talk.contains("2 not looked at"), "{table}{talk}");

        let (mut console, _, err) = console(Sink::Pipe);
        let named = NAMES.iter().map(|text| name(text)).collect();
        let style = text(Probes::Lines, None, Order::Completion);
        let mut view = View::new(style, JobId::from_bytes([0; 16]), named, &console);
        view.cancel_is_ours();
        let events: Vec<Event> = kinds().into_iter().map(|kind| event(0, kind)).collect();
        view.events(&mut console, &mut board(&NAMES), &events).expect("written");
        console.flush().expect("written");
        assert_eq!(err.text(), "");
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
