//! The loop of a sweep: send a few packets, take in all that came, decide, tell, wait.

use crate::clock::{Moment, Stamp};
use crate::pace::{self, Allowance, Pace};
use crate::packet::{self, Family, Form};
use crate::socket::{self, Arrival, Ledger, Queue, Socket, Space, Unsent};
use crate::table::{Order, Table};
use crate::{Aim, Finding, Settings, SocketKind, Totals};
use muster_proto::ping::{Failure, FailureKind};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Findings are told when there are so many, and before every wait.
const BATCH: usize = 512;
/// Arrivals that are taken in before the clock goes on: more than fit into the largest buffer.
const ARRIVALS_MAX: usize = 1 << 18;
/// Waits this short are slept through: what arrives meanwhile is taken in at once.
const NAP: Duration = Duration::from_millis(1);
/// How often a send is tried again that failed, perhaps of an error that was meant for another packet.
const DOUBTS: u32 = 4;
/// Where the kernel has taken nothing for so long, packets that it does not take are given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which sockets a sweep uses; for tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rig {
    /// This kind alone.
    pub kind: Option<SocketKind>,
    /// A receive buffer of so many bytes.
    pub receive_buffer: Option<usize>,
    /// Where drops are counted at best.
    pub ledger: Ledger,
}

/// What a sweep was told and has not taken in.
#[derive(Debug, Default)]
pub struct Orders {
    /// More targets.
    pub aims: Vec<Vec<Aim>>,
    /// No more targets come.
    pub closed: bool,
    /// Nothing more is to be sent.
    pub stopped: bool,
    /// Nobody listens any more.
    pub abandoned: bool,
}

/// Where a sweep is told things.
#[derive(Debug)]
pub struct Inbox {
    orders: Mutex<Orders>,
    bell: EventFd,
}

impl Inbox {
    /// With nothing in it.
    pub fn new() -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { orders: Mutex::default(), bell })
    }

    /// Tells the sweep something, and wakes it.
    pub fn tell(&self, order: impl FnOnce(&mut Orders)) {
        order(&mut self.lock());
        // It can fail only where it rings already.
        let _ = self.bell.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sweep.
pub struct Engine<S> {
    settings: Settings,
    rig: Rig,
    inbox: Arc<Inbox>,
    sink: S,
    form: Form,
    prefix: u8,
    table: Table,
    pace: Pace,
    /// One a family.
    links: [Link; 2],
    space: Space,
    /// Since when the kernel takes no packet.
    stuck: Option<Moment>,
}

/// The socket of a family, which is opened when it is first needed.
#[derive(Default)]
struct Link {
    socket: Option<Result<Socket, FailureKind>>,
    drops: u32,
}

impl Link {
    fn socket(&self) -> Option<&Socket> {
        self.socket.as_ref()?.as_ref().ok()
    }
}

impl<S: FnMut(Vec<Finding>) -> ControlFlow<()>> Engine<S> {
    /// Ready to run. Keys and numbers are random, so that nobody can answer what he has not seen.
    pub fn new(
        settings: Settings,
        rig: Rig,
        allowance: Option<Allowance>,
        inbox: Arc<Inbox>,
        sink: S,
    ) -> io::Result<Self> {
        let mut random = [0; 12];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let [prefix, a, b, c, key @ ..] = random;
        let first = u64::from(u32::from_be_bytes([0, a, b, c]));
        let probes = settings.probes;
        Ok(Self {
            form: Form::new(probes.size, key, prefix),
            prefix,
            table: Table::new(settings, first),
            pace: Pace::new(probes.rate, allowance),
            links: [Link::default(), Link::default()],
            space: Space::new(probes.size),
            stuck: None,
            settings,
            rig,
            inbox,
            sink,
        })
    }

    /// Runs until all targets have ended, or nobody listens.
    pub fn run(mut self) -> Totals {
        while self.take_orders().is_continue() {
            self.send_some();
            let before = Stamp::now().at;
            self.take_in();
            self.table.run_out(before);
            let now = Stamp::now().at;
            self.pace.recover(now);
            let done = self.table.is_done();
            let wait = self.wait_for(now);
            let idle = wait != Some(Duration::ZERO);
            let tell = done || idle || self.table.count_findings() >= BATCH;
            if tell && self.tell().is_break() || done {
                break;
            }
            if idle {
                self.wait(wait);
            }
        }
        let [v4, v6] = &self.links;
        let kind = |link: &Link| link.socket().map(|socket| socket.kind);
        let drops = |link: &Link| link.socket().map_or(Some(0), Socket::drops).map(u64::from);
        let kernel_drops = drops(v4).zip(drops(v6)).map(|(v4, v6)| v4 + v6);
        Totals { v4: kind(v4), v6: kind(v6), kernel_drops, ..self.table.totals }
    }

    fn take_orders(&mut self) -> ControlFlow<()> {
        let Orders { aims, closed, stopped, abandoned } = std::mem::take(&mut *self.inbox.lock());
        aims.iter().for_each(|aims| self.table.add(aims));
        if closed {
            self.table.close();
        }
        if stopped {
            self.table.stop();
        }
        if abandoned { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn tell(&mut self) -> ControlFlow<()> {
        let findings = self.table.findings();
        if findings.is_empty() { ControlFlow::Continue(()) } else { (self.sink)(findings) }
    }

    /// Sends what is due, as much as the pace allows and at most a burst.
    fn send_some(&mut self) {
        for _ in 0..self.pace.burst() {
            let now = Stamp::now();
            let Some(order) = self.table.next(now.at) else { return };
            if !self.pace.allows(now.at, pace::packets(order.aim.address, self.settings.probes.size)) {
                return;
            }
            match self.send(order) {
                Ok(sent) => {
                    self.table.sent(order, sent);
                    self.pace.spend(now.at);
                    self.stuck = None;
                }
                Err(Unsent::NoRoom) => {
                    self.table.totals.send_retries += 1;
                    let since = *self.stuck.get_or_insert(now.at);
                    if now.at.since(since) < PATIENCE {
                        return;
                    }
                    self.table.failed(order, now, FailureKind::Overflow.into());
                    self.pace.spend(now.at);
                }
                Err(Unsent::Failed(failure)) => {
                    self.table.failed(order, now, failure.into());
                    self.pace.spend(now.at);
                }
                Err(Unsent::Impossible(failure)) => self.table.refused(order, failure.into()),
            }
        }
    }

    /// Hands the packet to the kernel, and says when exactly.
    fn send(&mut self, order: Order) -> Result<Stamp, Unsent> {
        if let Some(failure) = socket::unfit(order.aim) {
            return Err(Unsent::Impossible(failure));
        }
        let family = Family::of(order.aim.address);
        self.open(family)?;
        let mut sent = self.hand_over(family, order);
        for _ in 1..DOUBTS {
            if matches!(sent, Ok(_) | Err(Unsent::NoRoom)) {
                break;
            }
            self.take(family, Queue::Errors);
            sent = self.hand_over(family, order);
        }
        sent
    }

    fn hand_over(&mut self, family: Family, order: Order) -> Result<Stamp, Unsent> {
        let socket = self.links[family as usize].socket().ok_or(Unsent::Impossible(FailureKind::NoSocket))?;
        let packet = self.form.request(family, socket.kind, order.number);
        let now = Stamp::now();
        socket.send(packet, order.aim).map(|()| now)
    }

    /// Opens the socket of a family, unless that was done or can never be.
    fn open(&mut self, family: Family) -> Result<(), Unsent> {
        let link = &mut self.links[family as usize];
        if link.socket.is_none() {
            link.socket = match Socket::open(family, self.rig, &self.settings.probes, self.prefix) {
                Ok(socket) => Some(Ok(socket)),
                Err(Unsent::Impossible(failure)) => Some(Err(failure)),
                Err(unsent) => return Err(unsent),
            };
            if link.socket().is_some_and(|socket| socket.kind == SocketKind::Datagram) {
                self.table.narrow();
            }
        }
        match link.socket {
            Some(Err(failure)) => Err(Unsent::Impossible(failure)),
            _ => Ok(()),
        }
    }

    /// Takes in all that has come, and looks whether the kernel dropped something.
    fn take_in(&mut self) {
        for family in [Family::V4, Family::V6] {
            self.take(family, Queue::Answers);
            self.take(family, Queue::Errors);
            let link = &mut self.links[family as usize];
            if let Some(drops) = link.socket().and_then(Socket::drops)
                && drops != link.drops
            {
                link.drops = drops;
                let now = Stamp::now().at;
                self.table.dropped(now);
                self.pace.slow_down(now, self.settings.probes.timeout);
            }
        }
    }

    fn take(&mut self, family: Family, queue: Queue) {
        let Some(socket) = self.links[family as usize].socket() else { return };
        for _ in 0..ARRIVALS_MAX {
            match socket.receive(queue, &mut self.space) {
                Ok(Some(arrival)) => hear(&arrival, &self.form, (family, socket.kind), &mut self.table),
                Ok(None) => return,
                Err(_) => {}
            }
        }
    }

    /// How long there is nothing to do; `None` is until an answer comes or somebody tells us something.
    fn wait_for(&mut self, now: Moment) -> Option<Duration> {
        let ready = if self.stuck.is_some() { now.plus(NAP) } else { self.pace.ready_at() };
        let due = self.table.next(now).map(|_| ready);
        due.into_iter().chain(self.table.next_event(now)).min().map(|moment| moment.since(now))
    }

    fn wait(&self, wait: Option<Duration>) {
        let mut polled = vec![PollFd::new(self.inbox.bell.as_fd(), PollFlags::POLLIN)];
        if wait.is_none_or(|wait| wait > NAP) {
            let sockets = self.links.iter().filter_map(Link::socket);
            polled.extend(sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        }
        // Whatever wakes us, even a signal: the next turn looks at everything.
        let _ = ppoll(&mut polled, wait.map(TimeSpec::from_duration), None);
        let _ = self.inbox.bell.read();
    }
}

/// Takes one arrival in.
fn hear(arrival: &Arrival<'_>, form: &Form, (family, kind): (Family, SocketKind), table: &mut Table) {
    match arrival.error {
        Some((said, code, from)) => {
            let quoted = form.quoted(family, kind, arrival.bytes);
            match packet::meaning(family, said, code).zip(quoted) {
                Some((kind, (mark, quote))) => {
                    let ours = |number| form.is_quote(number, &quote);
                    table.error(mark, arrival.peer.0, ours, Failure { kind, from });
                }
                None => table.totals.foreign += 1,
            }
        }
        None => match form.reply(family, kind, arrival.bytes) {
            Some(reply) => {
                let intact = |number| reply.sound && form.is_intact(number, reply.body);
                table.reply(reply.mark, arrival.peer, intact, arrival.stamp, Stamp::now());
            }
            None => table.totals.foreign += 1,
        },
    }
}
