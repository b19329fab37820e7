//! Following a job to its end, or to the point where the user has seen enough: shared by `run`, `rerun` and `attach`.
//!
//! Events come from a [`Feed`], a [`Track`] knows what they add up to, and one of four views shows them. Ctrl-C is
//! heard at any time: the first leaves the job alone, a second one soon after cancels it.

mod args;
mod interrupts;
mod told;

pub use args::{Args, Form};
pub use interrupts::Interrupts;

use crate::client::{Client, ClientError, Follow};
use crate::exit::Exit;
use crate::feed::{Feed, Item};
use crate::show::console::Console;
use crate::show::json::{self, Gathered};
use crate::show::lines::{Lines, Prefix};
use crate::show::table::cut;
use crate::show::{moment, progress, summary};
use crate::track::{Order, Rest, Show, Track, Wait};
use muster_proto::event::{Event, EventKind, Stream};
use muster_proto::id::JobId;
use muster_proto::job::JobState;
use muster_proto::outcome::{Outcome, State};
use muster_proto::ping::TargetName;
use muster_proto::time::Timestamp;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};
use tokio::time::{MissedTickBehavior, interval, timeout};
use told::Gates;

/// A second Ctrl-C within this time cancels the job.
const SECOND_INTERRUPT: Duration = Duration::from_secs(2);
/// What a cancel may take on top of the grace before we stop waiting for it.
const CANCEL_MARGIN: Duration = Duration::from_secs(5);
/// How often progress is drawn while nothing happens.
const TICK: Duration = Duration::from_millis(200);
/// A job that is over sooner needs no progress, and no flicker.
const PROGRESS_AFTER: Duration = Duration::from_millis(300);

/// So long nothing has to happen before a paused job counts as at rest while tasks are on their way to their hosts.
const QUIET: Duration = Duration::from_secs(2);

/// What a follower is told while the link is mended.
pub const LINK_BROKEN: &str = "muster: the link to the controller broke; trying again for half a minute";

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
    /// How many waves it has; 0 is none.
    pub waves: usize,
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

/// One follower of one job.
pub struct Follower<'a> {
    client: Client,
    job: Job,
    args: &'a Args,
    track: Track,
    feed: Feed,
    view: View,
    console: Console,
    gates: Gates,
    /// Why nothing more starts, once that was told.
    stopping: Option<String>,
    last_time: Timestamp,
    last_seen: Instant,
    /// The controller was asked since the last events whether the job is at rest.
    asked: bool,
}

/// Why we stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// We have seen what we wait for.
    Seen,
    /// The job does not go on by itself.
    Rest(Rest),
    Interrupted,
    /// The link broke for good.
    Lost,
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
        Self {
            client,
            job,
            args,
            track,
            feed,
            view,
            console: Console::new(),
            gates: Gates::default(),
            stopping: None,
            last_time: Timestamp::default(),
            last_seen: Instant::now(),
            asked: false,
        }
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
            self.console.say(&self.closing(summary::Rest::NotDone))?;
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
        let end = match watched {
            None => {
                self.interrupted(interrupts).await?;
                End::Interrupted
            }
            Some(Ok(end)) => {
                if self.args.order == Order::Target {
                    for place in self.track.take_rest() {
                        self.take_turn(place).await?;
                    }
                }
                end
            }
            Some(Err(error)) => match error.downcast_ref::<ClientError>() {
                Some(ClientError::Lost(why)) => {
                    let id = self.job.id;
                    self.say(&format!("muster: {why}; the job goes on: `muster attach {id}` follows it again"))?;
                    End::Lost
                }
                _ => return Err(error),
            },
        };
        self.close(end).await?;
        Ok(match end {
            End::Seen => self.judge(),
            End::Rest(_) | End::Lost => Exit::NotFollowed,
            End::Interrupted => Exit::Interrupted,
        })
    }

    async fn watch(&mut self, wait: Wait) -> anyhow::Result<End> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.track.is_enough(wait) {
            tokio::select! {
                item = self.feed.next() => match item? {
                    Some(Item::Events(events)) => self.take(&events).await?,
                    Some(Item::Broken) => self.say(LINK_BROKEN)?,
                    None => return Ok(End::Seen),
                },
                _ = tick.tick() => {}
            }
            if let Some(rest) = self.rest().await? {
                return Ok(End::Rest(rest));
            }
            self.console.flush()?;
            let (elapsed, track, waves) = (self.elapsed(), &self.track, self.job.waves);
            if elapsed >= PROGRESS_AFTER {
                self.console.show_progress(|window| {
                    cut(&progress::line(track, waves, elapsed), window.columns - 1).into_owned()
                })?;
            }
        }
        Ok(End::Seen)
    }

    /// Why the job does not go on by itself. What the events say is old news to one who reads them later: the
    /// controller has to say so, too.
    async fn rest(&mut self) -> anyhow::Result<Option<Rest>> {
        let Some(rest) = self.track.rest().filter(|_| !self.asked) else { return Ok(None) };
        if !self.track.is_idle() && self.last_seen.elapsed() < QUIET {
            return Ok(None);
        }
        self.console.flush()?;
        let details = match self.client.job(self.job.id).await {
            Err(ClientError::Unavailable(_)) => return Ok(None),
            details => details?,
        };
        self.asked = true;
        let state = details.summary.state;
        let is_so = match rest {
            Rest::Paused => state == JobState::Paused,
            Rest::Queued => details.hosts.iter().all(|host| host.outcome.is_some() || host.queued_until.is_some()),
        };
        Ok((is_so && details.summary.counts == *self.track.counts()).then_some(rest))
    }

    async fn take(&mut self, events: &[Event]) -> anyhow::Result<()> {
        (self.last_seen, self.asked) = (Instant::now(), false);
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
                kind => self.tell(kind, event.time)?,
            }
        }
        self.tell_queued(events)?;
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
        // What was told of the job is not said again of each host that it keeps from starting.
        let told = outcome.state == State::Skipped && self.stopping.is_some() && outcome.reason == self.stopping;
        match &mut self.view {
            View::Live(_) | View::Stored(_) if told => {}
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
                Ok(watched) => drop(watched?),
                Err(_) => self.say(&format!("not all hosts ended within {}; the cancel stands", moment::span(limit)))?,
            },
        }
        Ok(())
    }

    /// Writes what is still owed, and the line that adds up.
    async fn close(&mut self, end: End) -> anyhow::Result<()> {
        self.console.hide_progress()?;
        match &mut self.view {
            View::Live(lines) | View::Stored(lines) => lines.end_all(&mut self.console)?,
            View::Json(_) if end == End::Lost => {}
            View::Json(hosts) => {
                let hosts = std::mem::take(hosts);
                self.write_json(hosts).await?;
            }
            View::Names | View::Jsonl => {}
        }
        if let End::Rest(rest) = end {
            self.console.say(&told::remedy(rest, self.job.id))?;
        }
        let rest = if matches!(end, End::Rest(_)) { summary::Rest::Pending } else { summary::Rest::NotDone };
        self.console.say(&self.closing(rest))?;
        Ok(self.console.flush()?)
    }

    fn closing(&self, rest: summary::Rest) -> String {
        summary::closing(self.job.verb, self.track.ends(), rest, self.elapsed(), self.job.id)
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
            EventKind::Retrying { target, attempt, outcome, .. } => {
                lines.end(console, *target)?;
                lines.note(console, *target, &told::attempt(*attempt, outcome), told::style(outcome.state))?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn say_end(lines: &mut Lines, console: &mut Console, target: u32, outcome: &Outcome) -> io::Result<()> {
    match outcome.state {
        State::Succeeded => Ok(()),
        state => lines.note(console, target, &summary::end(outcome), told::style(state)),
    }
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
