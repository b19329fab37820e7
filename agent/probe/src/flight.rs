//! Packets under way, in the order of sending. All wait equally long, so this is the order of giving up too: one queue
//! finds a packet by its number, knows which runs out next, and forgets the oldest.

use crate::clock::{Moment, Stamp};
use crate::packet::Mark;
use std::collections::VecDeque;
use std::time::Duration;

/// Packets that raw sockets can tell apart are many more; this is what we spend on memory, 32 bytes each.
const ROOM: usize = 1 << 20;
/// Datagram sockets have 16 bits to tell packets apart.
const NARROW_ROOM: usize = 60_000;

/// A packet that was sent.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    /// When.
    pub sent: Stamp,
    /// To which target.
    pub place: u32,
    /// For which of its probes.
    pub probe: u32,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing yet; so many packets of the same probe went before.
    Waiting {
        /// Tries before.
        tries: u8,
    },
    /// The probe was sent again, so many packets later: look there.
    Repeated {
        /// Difference of the numbers.
        later: u32,
    },
    /// The probe was answered.
    Answered,
    /// The probe was given up.
    GivenUp,
}

/// Packets under way, and those of late that may still be spoken of.
#[derive(Debug)]
pub struct Flight {
    packets: VecDeque<Packet>,
    /// The number of the first of `packets`.
    first: u64,
    /// Those with lower numbers have run out or need not.
    run_out: u64,
    room: usize,
}

impl Flight {
    /// Nothing; the first packet gets this number.
    pub const fn new(first: u64) -> Self {
        Self { packets: VecDeque::new(), first, run_out: first, room: ROOM }
    }

    /// From now on there are only 16 bits to tell packets apart.
    pub const fn narrow(&mut self) {
        self.room = NARROW_ROOM;
    }

    /// No probe may begin before another ends.
    pub fn is_full(&self) -> bool {
        self.packets.len() >= self.room
    }

    /// How many packets are remembered.
    #[cfg(test)]
    pub fn packets(&self) -> usize {
        self.packets.len()
    }

    /// The number of the next packet.
    pub fn next_number(&self) -> u64 {
        self.first + self.packets.len() as u64
    }

    /// One more, with [`Flight::next_number`]; where there is no room for it, what ended first is forgotten.
    pub fn push(&mut self, packet: Packet) {
        while self.is_full() && self.forget_first(|_| true) {}
        self.packets.push_back(packet);
    }

    /// The packet with this number, unless it is forgotten.
    pub fn get(&self, number: u64) -> Option<&Packet> {
        self.packets.get(self.index(number)?)
    }

    /// The packet with this number, unless it is forgotten.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Packet> {
        let index = self.index(number)?;
        self.packets.get_mut(index)
    }

    fn index(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }

    /// The packet with this mark.
    pub fn find(&self, mark: Mark) -> Option<(u64, &Packet)> {
        let number = mark.number(self.first);
        Some((number, self.get(number)?))
    }

    /// The last try of the probe that this packet was a try of.
    pub fn last_try(&self, mut number: u64) -> u64 {
        while let Some(Packet { fate: Fate::Repeated { later }, .. }) = self.get(number) {
            number += u64::from(*later);
        }
        number
    }

    /// The next packet without an answer that was sent before the last `timeout`; each is named once.
    pub fn next_run_out(&mut self, now: Moment, timeout: Duration) -> Option<u64> {
        while let Some(packet) = self.get(self.run_out) {
            let waits = matches!(packet.fate, Fate::Waiting { .. });
            if waits && packet.sent.at.plus(timeout) > now {
                return None;
            }
            self.run_out += 1;
            if waits {
                return Some(self.run_out - 1);
            }
        }
        None
    }

    /// When the packet was sent that runs out next. An answer may have come since [`Flight::next_run_out`].
    pub fn oldest(&self) -> Option<Moment> {
        self.get(self.run_out).map(|packet| packet.sent.at)
    }

    /// Forgets what ended and was sent before the last `keep`, and more where there is no room for another.
    pub fn forget(&mut self, now: Moment, keep: Duration) {
        let is_full = self.is_full();
        while self.forget_first(|packet| is_full || packet.sent.at.plus(keep) <= now) {}
    }

    /// Forgets the oldest packet, if it ended and should be; says whether it did.
    fn forget_first(&mut self, should: impl Fn(&Packet) -> bool) -> bool {
        let ended = |packet: &Packet| !matches!(packet.fate, Fate::Waiting { .. });
        let forgotten = self.packets.pop_front_if(|packet| ended(packet) && should(packet)).is_some();
        self.first += u64::from(forgotten);
        self.run_out = self.run_out.max(self.first);
        forgotten
    }
}
