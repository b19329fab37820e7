//! Following a job to its end, or to the point where the user has seen enough: shared by `run`, `rerun` and `attach`.
//!
//! Events come from a [`Feed`], a [`Track`] knows what they add up to, and one of four views shows them. Ctrl-C is
//! heard at any time: the first leaves the job alone, a second one soon after cancels it.

use crate::client::{Client, ClientError, Follow};
use crate::exit::Exit;
use crate::feed::{Feed, Item};
use crate::show::console::Console;
use crate::show::json::{self, Gathered};
use crate::show::lines::{Lines, Prefix};
use crate::show::table::cut;
use crate::show::{moment, progress, summary};
use crate::track::{Order, Show, Track, Wait};
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use muster_proto::event::{Event, EventKind, Stream};
use muster_proto::id::JobId;
use muster_proto::outcome::{Outcome, State};
use muster_proto::ping::TargetName;
use muster_proto::time::Timestamp;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// A second Ctrl-C within this time cancels the job.
const SECOND_INTERRUPT: Duration = Duration::from_secs(2);
/// What a cancel may take on top of the grace before we stop waiting for it.
const CANCEL_MARGIN: Duration = Duration::from_secs(5);
/// How often progress is drawn while nothing happens.
const TICK: Duration = Duration::from_millis(200);
/// A job that is over sooner needs no progress, and no flicker.
const PROGRESS_AFTER: Duration = Duration::from_millis(300);

/// What a follower is told while the link is mended.
pub const LINK_BROKEN: &str = "muster: the link to the controller broke; trying again for half a minute";

/// How answers are shown.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Output")]
#[group(skip)]
pub struct Args {
    /// Show hosts as they end, or in the order of the target list
    #[arg(long, value_enum, default_value = "completion", value_name = "ORDER")]
    pub order: Order,
    /// What to wait for; hosts that are not done then are named, and the job goes on
    #[arg(long, value_enum, default_value = "all", value_name = "WHAT")]
    pub wait: Wait,
    /// Lines for people, one JSON object at the end, or one JSON event a line
    #[arg(short = 'o', long, value_enum, default_value = "text", value_name = "FORM")]
    pub output: Form,
    /// Show only hosts that ended so
    #[arg(long, value_enum, default_value = "all", value_name = "WHICH")]
    pub show: Show,
    /// Print only the names of the hosts, each at its end
    #[arg(long)]
    pub names: bool,
    /// No host before the lines
    #[arg(short = 'N', long)]
    pub no_prefix: bool,
    /// With a single host, exit as its program did
    #[arg(long)]
    pub pass_exit: bool,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Lines, each with its host
    Text,
    /// One object at the end
    Json,
    /// One event a line
    Jsonl,
}

impl Args {
    /// Refuses what contradicts itself, before anything is sent.
    pub fn check(&self) -> Result<(), crate::exit::Usage> {
        let usage = |text: &str| Err(crate::exit::Usage(text.to_owned()));
        if self.names && self.output != Form::Text {
            return usage("--names prints names only: leave out -o");
        }
        if self.output == Form::Jsonl && (self.show != Show::All || self.order != Order::Completion) {
            return usage("-o jsonl prints every event in its order: leave out --show and --order, or take -o json");
        }
        Ok(())
    }
}

/// The job that is followed.
pub struct Job {
    /// The word that begins the closing line.
    pub verb: &'static str,
    /// Its id.
    pub id: JobId,
    /// The frozen list.
    pub names: Rc<[TargetName]>,
    /// From TERM to KILL.
    pub grace: Duration,
    /// When it began.
    pub since: Since,
}

/// When a job began, by the clock that measures it.
#[derive(Debug, Clone, Copy)]
pub enum Since {
    /// The command was typed here.
    Typed(Instant),
    /// Signed some time ago, perhaps elsewhere.
    Signed {
        /// When.
        at: Timestamp,
        /// When it was done, if it is.
        done_at: Option<Timestamp>,
    },
}

impl Since {
    /// How long it took; `last` is the time of the last event of a job that is done.
    pub fn elapsed(self, last: Option<Timestamp>) -> Duration {
        match (self, last) {
            (Self::Typed(at), _) => at.elapsed(),
            (Self::Signed { at, .. }, Some(last)) => at.until(last),
            (Self::Signed { at, done_at }, None) => at.until(done_at.unwrap_or_else(|| SystemTime::now().into())),
        }
    }
}

/// What a user says to have us stop.
pub struct Interrupts(Vec<Signal>);

impl Interrupts {
    /// Ctrl-C from now on; until it is called, Ctrl-C ends the program.
    pub fn ctrl_c() -> io::Result<Self> {
        Self::of(&[SignalKind::interrupt()])
    }

    /// Everything that asks a program to end, also that its terminal has gone.
    pub fn all() -> io::Result<Self> {
        Self::of(&[SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()])
    }

    fn of(kinds: &[SignalKind]) -> io::Result<Self> {
        kinds.iter().map(|kind| signal(*kind)).collect::<io::Result<_>>().map(Self)
    }

    /// The next one.
    pub async fn recv(&mut self) {
        poll_fn(|context| match self.0.iter_mut().any(|signal| signal.poll_recv(context).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}

/// One follower of one job.
pub struct Follower<'a> {
    client: Client,
    job: Job,
    args: &'a Args,
    track: Track,
    feed: Feed,
    view: View,
    console: Console,
    last_time: Timestamp,
}

enum View {
    /// Lines as they come.
    Live(Lines),
    /// Each host's lines at its turn, read from the store.
    Stored(Lines),
    Names,
    Jsonl,
    Json(Vec<Gathered>),
}

impl<'a> Follower<'a> {
    /// Begins behind a sequence number; 0 is the beginning. `track` may know already what happened before.
    pub fn new(client: Client, job: Job, args: &'a Args, track: Track, after_seq: u64) -> Self {
        let feed = Feed::open(&client, job.id, after_seq, Follow::default());
        let prefix = if args.no_prefix { Prefix::None } else { Prefix::Host };
        let lines = || Lines::new(job.names.clone(), prefix);
        let view = match args.output {
            Form::Jsonl => View::Jsonl,
            Form::Json => View::Json((0..job.names.len()).map(|_| Gathered::default()).collect()),
            Form::Text if args.names => View::Names,
            Form::Text if args.order == Order::Target || args.show != Show::All => View::Stored(lines()),
            Form::Text => View::Live(lines()),
        };
        Self { client, job, args, track, feed, view, console: Console::new(), last_time: Timestamp::default() }
    }

    /// Shows what happens until it is enough, and judges it.
    pub async fn run(mut self, interrupts: &mut Interrupts) -> anyhow::Result<Exit> {
        match self.follow(interrupts).await {
            Err(error) => self.without_stdout(error.downcast()?).await,
            result => result,
        }
    }

    /// Only the console has errors of input and output, and only those of stdout.
    async fn without_stdout(&mut self, error: io::Error) -> anyhow::Result<Exit> {
        self.console.abandon_stdout();
        self.console.hide_progress()?;
        // The job may be further than what we had to show.
        if let Ok(details) = self.client.job(self.job.id).await {
            self.track.catch_up(&details.hosts);
        }
        let closed = error.kind() == io::ErrorKind::BrokenPipe;
        let pending = self.track.pending().len();
        let exit = if closed && (pending == 0 || self.track.is_enough(self.args.wait)) {
            self.console.say(&summary::closing(self.job.verb, self.track.ends(), self.elapsed(), self.job.id))?;
            self.judge()
        } else {
            self.console.say(&summary::not_shown(&error, self.job.id, pending))?;
            Exit::NotFollowed
        };
        self.console.flush()?;
        Ok(exit)
    }

    async fn follow(&mut self, interrupts: &mut Interrupts) -> anyhow::Result<Exit> {
        let watched = tokio::select! {
            biased;
            () = interrupts.recv() => None,
            watched = self.watch(self.args.wait) => Some(watched),
        };
        let exit = match watched {
            None => {
                self.interrupted(interrupts).await?;
                Exit::Interrupted
            }
            Some(Ok(())) => {
                if self.args.order == Order::Target {
                    for place in self.track.take_rest() {
                        self.take_turn(place).await?;
                    }
                }
                self.judge()
            }
            Some(Err(error)) => match error.downcast_ref::<ClientError>() {
                Some(ClientError::Lost(why)) => {
                    let id = self.job.id;
                    self.say(&format!("muster: {why}; the job goes on: `muster attach {id}` follows it again"))?;
                    Exit::NotFollowed
                }
                _ => return Err(error),
            },
        };
        self.close(exit).await?;
        Ok(exit)
    }

    async fn watch(&mut self, wait: Wait) -> anyhow::Result<()> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.track.is_enough(wait) {
            tokio::select! {
                item = self.feed.next() => match item? {
                    Some(Item::Events(events)) => self.take(&events).await?,
                    Some(Item::Broken) => self.say(LINK_BROKEN)?,
                    None => return Ok(()),
                },
                _ = tick.tick() => {}
            }
            self.console.flush()?;
            let (elapsed, track) = (self.elapsed(), &self.track);
            if elapsed < PROGRESS_AFTER {
                continue;
            }
            self.console.show_progress(|window| {
                let line = progress::line(track.counts(), track.names().len(), track.running(), elapsed);
                cut(&line, window.columns - 1).into_owned()
            })?;
        }
        Ok(())
    }

    async fn take(&mut self, events: &[Event]) -> anyhow::Result<()> {
        for event in events {
            self.track.apply(event);
            self.last_time = event.time;
            if let View::Jsonl = &self.view {
                let line = json::event_line(self.job.id, &self.job.names, event)?;
                self.console.write(Stream::Stdout, line.as_bytes())?;
                continue;
            }
            match &event.kind {
                EventKind::Output { target, stream, data, .. } => match &mut self.view {
                    View::Live(lines) => lines.output(&mut self.console, *target, *stream, data)?,
                    View::Json(hosts) => with_host(hosts, *target, |host| host.output(*stream, data)),
                    View::Stored(_) | View::Names | View::Jsonl => {}
                },
                EventKind::Truncated { target, stream, bytes } => match &mut self.view {
                    View::Live(lines) => lines.truncated(&mut self.console, *target, *stream, *bytes)?,
                    View::Json(hosts) => with_host(hosts, *target, |host| host.truncated(*bytes)),
                    View::Stored(_) | View::Names | View::Jsonl => {}
                },
                EventKind::Finished { target, .. } if self.args.order == Order::Completion => {
                    self.take_turn(*target as usize).await?;
                }
                EventKind::Cancelling { operator } => self.say(&format!("cancelled by {operator}"))?,
                _ => {}
            }
        }
        if self.args.order == Order::Target {
            for place in self.track.take_turns() {
                self.take_turn(place).await?;
            }
        }
        Ok(())
    }

    /// A host ended and it is its turn to be shown.
    async fn take_turn(&mut self, place: usize) -> anyhow::Result<()> {
        let (Some(outcome), Ok(target)) = (self.track.outcome(place).cloned(), u32::try_from(place)) else {
            return Ok(());
        };
        if !self.args.show.includes(outcome.state) {
            return Ok(());
        }
        match &mut self.view {
            View::Live(lines) => {
                lines.end(&mut self.console, target)?;
                say_end(lines, &mut self.console, target, &outcome)?;
            }
            View::Stored(lines) => {
                let stored = Follow { stored_only: true, targets: self.job.names[place].to_string() };
                let mut feed = Feed::open(&self.client, self.job.id, self.track.start_seq(place), stored);
                let mut ended = false;
                while !ended && let Some(item) = feed.next().await? {
                    if let Item::Events(mut events) = item {
                        // A host may have the name of a group of hosts.
                        events.retain(|event| event.kind.target() == Some(target));
                        ended = events.iter().any(|event| matches!(event.kind, EventKind::Finished { .. }));
                        show_stored(lines, &mut self.console, &events)?;
                    }
                }
                lines.end(&mut self.console, target)?;
                say_end(lines, &mut self.console, target, &outcome)?;
            }
            View::Names => {
                let line = format!("{}\n", self.job.names[place]);
                self.console.write(Stream::Stdout, line.as_bytes())?;
            }
            View::Jsonl | View::Json(_) => {}
        }
        Ok(())
    }

    async fn interrupted(&mut self, interrupts: &mut Interrupts) -> anyhow::Result<()> {
        let (id, pending) = (self.job.id, self.track.pending());
        let at = format!("{} {}", summary::hosts(pending.len()), summary::folded(&pending));
        self.say(&format!(
            "interrupted: job {id} goes on at {at}; follow it again with `muster attach {id}`; \
             Ctrl-C again within {} s cancels it",
            SECOND_INTERRUPT.as_secs()
        ))?;
        self.console.flush()?;
        if timeout(SECOND_INTERRUPT, interrupts.recv()).await.is_err() {
            return Ok(());
        }
        self.say(&format!("cancelling job {id}"))?;
        self.console.flush()?;
        if let Err(error) = self.client.cancel(id).await {
            return Ok(self.say(&format!("muster: {error}; the job was not cancelled and goes on"))?);
        }
        let limit = self.job.grace + CANCEL_MARGIN;
        tokio::select! {
            () = interrupts.recv() => {}
            watched = timeout(limit, self.watch(Wait::All)) => match watched {
                Ok(watched) => watched?,
                Err(_) => self.say(&format!("not all hosts ended within {}; the cancel stands", moment::span(limit)))?,
            },
        }
        Ok(())
    }

    /// Writes what is still owed, and the line that adds up.
    async fn close(&mut self, exit: Exit) -> anyhow::Result<()> {
        self.console.hide_progress()?;
        match &mut self.view {
            View::Live(lines) | View::Stored(lines) => lines.end_all(&mut self.console)?,
            View::Json(_) if exit == Exit::NotFollowed => {}
            View::Json(hosts) => {
                let hosts = std::mem::take(hosts);
                self.write_json(hosts).await?;
            }
            View::Names | View::Jsonl => {}
        }
        let line = summary::closing(self.job.verb, self.track.ends(), self.elapsed(), self.job.id);
        self.console.say(&line)?;
        Ok(self.console.flush()?)
    }

    async fn write_json(&mut self, gathered: Vec<Gathered>) -> anyhow::Result<()> {
        let details = self.client.job(self.job.id).await?;
        let mut gathered: Vec<Option<Gathered>> = gathered.into_iter().map(Some).collect();
        let (show, track) = (self.args.show, &self.track);
        let job = json::job(&details)?.with_output(|place| {
            let shown = show == Show::All || track.outcome(place).is_some_and(|end| show.includes(end.state));
            gathered.get_mut(place).filter(|_| shown)?.take().map(Into::into)
        });
        let mut text = serde_json::to_vec(&job)?;
        text.push(b'\n');
        Ok(self.console.write(Stream::Stdout, &text)?)
    }

    fn judge(&self) -> Exit {
        match self.track.outcome(0) {
            Some(outcome) if self.args.pass_exit && self.job.names.len() == 1 => Exit::of_only(outcome),
            _ => Exit::of_counts(self.track.counts()),
        }
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        if let View::Live(lines) | View::Stored(lines) = &mut self.view {
            lines.end_all(&mut self.console)?;
        }
        self.console.say(text)
    }

    fn elapsed(&self) -> Duration {
        self.job.since.elapsed(self.track.is_done().then_some(self.last_time))
    }
}

/// Writes the output among these events.
pub fn show_stored(lines: &mut Lines, console: &mut Console, events: &[Event]) -> io::Result<()> {
    for event in events {
        match &event.kind {
            EventKind::Output { target, stream, data, .. } => lines.output(console, *target, *stream, data)?,
            EventKind::Truncated { target, stream, bytes } => lines.truncated(console, *target, *stream, *bytes)?,
            EventKind::Finished { target, .. } => lines.end(console, *target)?,
            _ => {}
        }
    }
    Ok(())
}

fn say_end(lines: &mut Lines, console: &mut Console, target: u32, outcome: &Outcome) -> io::Result<()> {
    let colour = match outcome.state {
        State::Succeeded => return Ok(()),
        state if state.is_failure() => AnsiColor::Red,
        _ => AnsiColor::Yellow,
    };
    let style: Style = colour.on_default();
    lines.note(console, target, &summary::end(outcome), style)
}

fn with_host(hosts: &mut [Gathered], target: u32, then: impl FnOnce(&mut Gathered)) {
    if let Some(host) = hosts.get_mut(target as usize) {
        then(host);
    }
}

/// The reader of our stdout has gone (`| head`), which is a normal end.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
