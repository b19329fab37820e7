//! Following a ping to its end: shared by `ping`, `attach` and `rerun`.
//!
//! Events come from a [`Feed`], a [`Board`] knows what they add up to, and a [`View`] shows them. Who asked for a ping
//! ends it with Ctrl-C and sees what was found by then; who came to look at one only leaves.

use crate::board::Board;
use crate::client::{Client, ClientError, Follow};
use crate::commands::follow::{self, Interrupts, LINK_BROKEN, Since};
use crate::exit::Exit;
use crate::feed::{Feed, Item};
use crate::show::console::Console;
use crate::show::ping::{self, Style, View};
use crate::show::{json, moment, summary};
use crate::track::{Show, Track, Wait};
use muster_proto::event::Stream;
use muster_proto::id::JobId;
use muster_proto::ping::{Detail, PingSpec, Probes};
use muster_proto::time::Timestamp;
use std::io;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

/// How often progress is drawn while nothing happens.
const TICK: Duration = Duration::from_millis(100);
/// A ping that is over sooner needs no progress, and no flicker.
const PROGRESS_AFTER: Duration = Duration::from_millis(300);
/// What a cancel may take on top of what the probes under way may.
const CANCEL_MARGIN: Duration = Duration::from_secs(10);

/// The ping that is followed.
pub struct Job {
    /// The word that begins the closing line.
    pub verb: &'static str,
    /// Its id.
    pub id: JobId,
    /// What is asked of each target.
    pub probes: Probes,
    /// When it began.
    pub since: Since,
    /// Whose it is.
    pub ours: Ours,
}

/// Whose a ping is: what becomes of it when we are interrupted, or nobody reads us any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ours {
    /// It was asked for here and ends with us.
    Yes,
    /// We only look at it, and it goes on.
    No,
}

/// What the user wants of it.
pub struct Wish {
    /// How it is shown.
    pub style: Style,
    /// After such times, a line a target.
    pub interval: Option<Duration>,
    /// When it is enough.
    pub wait: Wait,
    /// So many hosts are to be alive.
    pub expect: Option<usize>,
}

impl Wish {
    /// What the options that all jobs have mean for a ping.
    pub fn of(args: &follow::Args, spec: &PingSpec) -> Self {
        let style = match args.output {
            follow::Form::Json => Style::Json,
            follow::Form::Jsonl => Style::Jsonl,
            follow::Form::Text if args.names => Style::Names(args.show),
            follow::Form::Text if spec.detail == Detail::Changes => Style::Changes,
            follow::Form::Text => Style::Text {
                show: (args.show != Show::All).then_some(args.show),
                order: args.order,
                probes: ping::Probes::Lines,
                payload: spec.probes.size,
            },
        };
        Self { style, interval: None, wait: args.wait, expect: None }
    }
}

/// Follows a ping from behind an event; 0 is the beginning. `track` may know already what happened before.
pub async fn follow(
    client: Client,
    job: Job,
    wish: Wish,
    track: Track,
    after_seq: u64,
    interrupts: &mut Interrupts,
) -> anyhow::Result<Exit> {
    let feed = Feed::open(&client, job.id, after_seq, Follow::default());
    let console = Console::new();
    let Wish { style, interval, wait, expect } = wish;
    let view = View::new(style, job.id, track.names().clone(), &console);
    let board = Board::new(track);
    let last_time = Timestamp::default();
    let mut follower = Follower { client, job, board, feed, view, console, interval, wait, expect, last_time };
    match follower.run(interrupts).await {
        Err(error) if error.is::<io::Error>() => follower.without_stdout(error.downcast()?).await,
        result => result,
    }
}

struct Follower {
    client: Client,
    job: Job,
    board: Board,
    feed: Feed,
    view: View,
    console: Console,
    interval: Option<Duration>,
    wait: Wait,
    expect: Option<usize>,
    last_time: Timestamp,
}

impl Follower {
    async fn run(&mut self, interrupts: &mut Interrupts) -> anyhow::Result<Exit> {
        let watched = tokio::select! {
            biased;
            () = interrupts.recv() => None,
            watched = self.watch() => Some(watched),
        };
        let exit = match watched {
            None => self.interrupted(interrupts).await?,
            Some(Ok(())) => None,
            Some(Err(error)) => match error.downcast_ref::<ClientError>() {
                Some(ClientError::Lost(why)) => {
                    let id = self.job.id;
                    let text = format!("muster: {why}; the ping goes on: `muster attach {id}` follows it again");
                    self.console.say(&text)?;
                    Some(Exit::NotFollowed)
                }
                _ => return Err(error),
            },
        };
        self.view.end(&mut self.console, &mut self.board, &time_of_day())?;
        if self.view.is_json() && exit.is_none() {
            let mut text = serde_json::to_string(&json::job(&self.client.job(self.job.id).await?)?)?;
            text.push('\n');
            self.console.write(Stream::Stdout, text.as_bytes())?;
        }
        self.close(exit)
    }

    async fn watch(&mut self) -> anyhow::Result<()> {
        let mut tick = every(TICK);
        let mut summed = self.interval.map(|span| {
            let mut summed = every(span);
            summed.reset();
            summed
        });
        while !self.board.track().is_enough(self.wait) {
            tokio::select! {
                item = self.feed.next() => match item? {
                    Some(Item::Events(events)) => {
                        self.last_time = events.last().map_or(self.last_time, |event| event.time);
                        self.view.events(&mut self.console, &mut self.board, &events)?;
                    }
                    Some(Item::Broken) => self.console.say(LINK_BROKEN)?,
                    None => return Ok(()),
                },
                _ = tick.tick() => {}
                () = next(&mut summed) => self.view.interval(&mut self.console, &time_of_day())?,
            }
            self.console.flush()?;
            let elapsed = self.elapsed();
            if elapsed >= PROGRESS_AFTER {
                self.view.progress(&mut self.console, &self.board, elapsed)?;
            }
        }
        Ok(())
    }

    /// The exit if nothing more is to be said of the targets.
    async fn interrupted(&mut self, interrupts: &mut Interrupts) -> anyhow::Result<Option<Exit>> {
        let id = self.job.id;
        if self.job.ours == Ours::No {
            self.console.say(&format!("interrupted: ping {id} goes on; `muster cancel {id}` ends it"))?;
            return Ok(Some(Exit::Interrupted));
        }
        if let Err(error) = self.client.cancel(id).await {
            self.console.say(&format!("muster: {error}; the ping goes on: `muster cancel {id}` ends it"))?;
            return Ok(Some(Exit::Interrupted));
        }
        self.view.cancel_is_ours();
        self.wait = Wait::All;
        let Probes { timeout: each, retries, .. } = self.job.probes;
        let limit = each.saturating_mul(retries.saturating_add(1)).saturating_add(CANCEL_MARGIN);
        tokio::select! {
            () = interrupts.recv() => Ok(Some(Exit::Interrupted)),
            watched = timeout(limit, self.watch()) => match watched {
                Ok(watched) => watched.map(|()| None),
                Err(_) => {
                    let limit = moment::span(limit);
                    self.console.say(&format!("not all targets ended within {limit}; the cancel stands"))?;
                    Ok(Some(Exit::Interrupted))
                }
            },
        }
    }

    /// Says what it adds up to, and judges it.
    fn close(&mut self, exit: Option<Exit>) -> anyhow::Result<Exit> {
        let judged = self.judge();
        let alive = self.board.alive();
        if let Some(expected) = self.expect.filter(|expected| *expected != alive && exit.is_none()) {
            self.console.say(&format!("expected {} alive, found {alive}", summary::hosts(expected)))?;
        }
        let ends = self.board.track().ends();
        let line = summary::closing(self.job.verb, ends, summary::Rest::NotDone, self.elapsed(), self.job.id);
        self.console.say(&line)?;
        self.console.flush()?;
        Ok(exit.unwrap_or(judged))
    }

    fn judge(&self) -> Exit {
        match self.expect {
            Some(expected) if self.board.alive() == expected => Exit::Success,
            Some(_) => Exit::Failed,
            None => Exit::of_counts(self.board.track().counts()),
        }
    }

    /// Only the console has errors of input and output, and only those of stdout: nobody reads us any more.
    async fn without_stdout(&mut self, error: io::Error) -> anyhow::Result<Exit> {
        self.console.abandon_stdout();
        self.console.hide_progress()?;
        let id = self.job.id;
        let (over, closed) = (self.board.track().is_done(), error.kind() == io::ErrorKind::BrokenPipe);
        if over && closed {
            return self.close(None);
        }
        let cancelled = !over && self.job.ours == Ours::Yes && self.client.cancel(id).await.is_ok();
        if cancelled {
            self.console.say(&format!("{error}: ping {id} was cancelled"))?;
        } else {
            self.console.say(&summary::not_shown(&error, id, self.board.track().pending().len()))?;
        }
        self.console.flush()?;
        // A reader that has seen enough is a normal end.
        Ok(if cancelled && closed { self.judge() } else { Exit::NotFollowed })
    }

    fn elapsed(&self) -> Duration {
        self.job.since.elapsed(self.board.track().is_done().then_some(self.last_time))
    }
}

/// In UTC, to the second.
fn time_of_day() -> String {
    let now = moment::rfc3339(SystemTime::now().into());
    now.get(11..19).unwrap_or(&now).to_owned()
}

fn every(period: Duration) -> Interval {
    let mut every = interval(period);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    every
}

async fn next(every: &mut Option<Interval>) {
    match every {
        Some(every) => drop::<Instant>(every.tick().await),
        None => std::future::pending().await,
    }
}
