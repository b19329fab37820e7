//! Echo requests and what comes back, as bytes. Every function here is total: what arrives was written by strangers.
//!
//! A request bears its number in two places. The header has its low bits: raw sockets give us identifier and sequence
//! number, of which one byte is the sweep's, so that the kernel can sort out others' answers; of datagram sockets the
//! kernel chooses the identifier. The payload has all of it, behind a key of the sweep that nobody can guess.

use crate::SocketKind;
use muster_proto::ping::FailureKind;
use std::net::{IpAddr, Ipv6Addr};

/// Bytes before the payload.
pub const HEADER: usize = 8;
/// Bytes of the payload that tell one request from another: key and number.
const MARKED: usize = 16;
/// The number of `ICMPv6` among the protocols of IP.
const NEXT_HEADER_V6: u64 = 58;

/// The IP family of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// ICMP.
    V4,
    /// `ICMPv6`.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    const fn request(self) -> u8 {
        match self {
            Self::V4 => 8,
            Self::V6 => 128,
        }
    }

    const fn reply(self) -> u8 {
        match self {
            Self::V4 => 0,
            Self::V6 => 129,
        }
    }
}

/// What a header says of the number of its packet: the low bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    low: u64,
    bits: u32,
}

impl Mark {
    /// The mark of a packet with this number, where so many bits of it are told.
    pub const fn of(number: u64, bits: u32) -> Self {
        Self { low: number & ((1 << bits) - 1), bits }
    }

    /// The first number from `first` on that has these low bits.
    pub const fn number(self, first: u64) -> u64 {
        first.wrapping_add(self.low.wrapping_sub(first) & ((1 << self.bits) - 1))
    }
}

/// An answer that may be ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Which request it answers.
    pub mark: Mark,
    /// The payload.
    pub body: &'a [u8],
    /// Whether the checksum is right; elsewhere it was looked at where this says so without looking.
    pub sound: bool,
}

/// Writes the requests of a sweep and knows them again.
#[derive(Debug, Clone)]
pub struct Form {
    key: [u8; 8],
    /// The upper byte of identifiers.
    prefix: u8,
    /// A request without type, checksum and number.
    request: Vec<u8>,
    /// The sum over it.
    sum: u64,
}

impl Form {
    /// Requests with `size` bytes of payload. `key` and `prefix` tell sweeps apart: both are random.
    pub fn new(size: u16, key: [u8; 8], prefix: u8) -> Self {
        // What ping(8) fills with: whoever looks at the wire has seen it before.
        let mut request: Vec<u8> = vec![0; HEADER];
        request.extend((0..=u8::MAX).cycle().take(usize::from(size)));
        let mut form = Self { key, prefix, request, sum: 0 };
        form.mark(0);
        form.sum = sum(&form.request);
        form
    }

    /// The request with this number, good until the next.
    pub fn request(&mut self, family: Family, kind: SocketKind, number: u64) -> &[u8] {
        let bytes = number.to_be_bytes();
        self.request[0] = family.request();
        self.request[2..4].fill(0);
        self.request[4..8].copy_from_slice(&[self.prefix, bytes[5], bytes[6], bytes[7]]);
        self.mark(number);
        // The kernel writes the checksums of all others.
        if (family, kind) == (Family::V4, SocketKind::Raw) {
            let changed = sum(&self.request[..HEADER]) + sum(self.number());
            let checksum = !fold(self.sum + changed);
            self.request[2..4].copy_from_slice(&checksum.to_be_bytes());
        }
        &self.request
    }

    /// Writes key and number into the payload, as far as it goes.
    fn mark(&mut self, number: u64) {
        let size = self.request.len() - HEADER;
        let marked = self.marked(number);
        self.request[HEADER..].iter_mut().zip(marked.iter().take(size)).for_each(|(byte, mark)| *byte = *mark);
    }

    fn marked(&self, number: u64) -> [u8; MARKED] {
        let mut marked = [0; MARKED];
        marked[..8].copy_from_slice(&self.key);
        marked[8..].copy_from_slice(&number.to_be_bytes());
        marked
    }

    /// The part of the payload that changes from request to request.
    fn number(&self) -> &[u8] {
        let end = self.request.len().min(HEADER + MARKED);
        &self.request[end.min(HEADER + 8)..end]
    }

    /// Reads what came through a socket: with an IP header from a raw one for IPv4, else without.
    pub fn reply<'a>(&self, family: Family, kind: SocketKind, bytes: &'a [u8]) -> Option<Reply<'a>> {
        let checked = (family, kind) != (Family::V4, SocketKind::Raw);
        let message = if checked { bytes } else { bytes.get(usize::from(bytes.first()? & 0x0f) * 4..)? };
        let (header, body) = message.split_first_chunk::<HEADER>()?;
        let mark = self.read_mark(kind, header)?;
        let ours = header[0] == family.reply() && header[1] == 0;
        ours.then(|| Reply { mark, body, sound: checked || fold(sum(message)) == u16::MAX })
    }

    /// Reads the request that an ICMP error quotes, from its ICMP header on. Quotes may end anywhere behind that.
    pub fn quoted(&self, family: Family, kind: SocketKind, bytes: &[u8]) -> Option<(Mark, Quote)> {
        let (header, body) = bytes.split_first_chunk::<HEADER>()?;
        let ours = header[0] == family.request() && header[1] == 0;
        let mut quote = [0; MARKED];
        let length = body.len().min(MARKED).min(self.request.len() - HEADER);
        quote[..length].copy_from_slice(&body[..length]);
        Some((self.read_mark(kind, header)?, Quote { quote, length })).filter(|_| ours)
    }

    fn read_mark(&self, kind: SocketKind, header: &[u8; HEADER]) -> Option<Mark> {
        let low = u64::from(u32::from_be_bytes([0, header[5], header[6], header[7]]));
        match kind {
            SocketKind::Raw => (header[4] == self.prefix).then_some(Mark::of(low, 24)),
            SocketKind::Datagram => Some(Mark::of(low, 16)),
        }
    }

    /// Whether a payload is the one that was sent with this number.
    pub fn is_intact(&self, number: u64, body: &[u8]) -> bool {
        let sent = &self.request[HEADER..];
        let marked = sent.len().min(MARKED);
        body.len() == sent.len() && body[..marked] == self.marked(number)[..marked] && body[marked..] == sent[marked..]
    }

    /// Whether a quote, as far as it goes, is of the request with this number.
    pub fn is_quote(&self, number: u64, quote: &Quote) -> bool {
        quote.quote[..quote.length] == self.marked(number)[..quote.length]
    }
}

/// The beginning of a payload in an ICMP error.
#[derive(Debug, Clone, Copy)]
pub struct Quote {
    quote: [u8; MARKED],
    length: usize,
}

/// What an ICMP error means for the request that it quotes, by RFC 792, RFC 1122, RFC 1812 and RFC 4443; `None` for
/// what is no error.
pub const fn meaning(family: Family, kind: u8, code: u8) -> Option<FailureKind> {
    use FailureKind as Kind;
    Some(match (family, kind, code) {
        (Family::V4, 3, 0 | 6 | 11) | (Family::V6, 1, 0) => Kind::NetworkUnreachable,
        (Family::V4, 3, 1 | 7 | 8 | 12) | (Family::V6, 1, 2 | 3) => Kind::HostUnreachable,
        (Family::V4, 3, 2) | (Family::V6, 4, 1) => Kind::ProtocolUnreachable,
        (Family::V4, 3, 4) | (Family::V6, 2, _) => Kind::TooBig,
        (Family::V4, 3, 9 | 10 | 13..=15) | (Family::V6, 1, 1 | 5 | 6) => Kind::Prohibited,
        (Family::V4, 11, 0) | (Family::V6, 3, 0) => Kind::TtlExceeded,
        (Family::V4, 3 | 11 | 12, _) | (Family::V6, 1..=4, _) => Kind::OtherError,
        _ => return None,
    })
}

/// Whether the checksum of an `ICMPv6` message is right, where the kernel did not look: it covers the addresses too.
pub fn is_sound(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> bool {
    let addresses = sum(&from.octets()) + sum(&to.octets());
    fold(addresses + message.len() as u64 + NEXT_HEADER_V6 + sum(message)) == u16::MAX
}

/// The sum of RFC 1071, not folded.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |byte| u64::from(*byte) << 8);
    words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum::<u64>() + last
}

const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    #[expect(clippy::cast_possible_truncation, reason = "the loop ends below that")]
    let folded = sum as u16;
    folded
}

#[cfg(test)]
mod tests;
