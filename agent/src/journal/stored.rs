//! The journal's bytes. Unknown records and fields are skipped, so that releases can read each other's.

use super::Record;
use muster_proto::id::TaskId;
use muster_proto::link::RejectKind;
use muster_proto::time::Timestamp;
use prost::Message;

const MARK: &[u8; 4] = b"MUJ1";
/// Mark, length, checksum.
const HEADER_BYTES: usize = 12;

#[derive(Message)]
struct Block {
    #[prost(message, repeated, tag = "1")]
    records: Vec<Stored>,
}

#[derive(Message)]
struct Stored {
    #[prost(enumeration = "Kind", tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    task: String,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
    /// When the journal was born, or the task's deadline.
    #[prost(int64, tag = "4")]
    time_ms: i64,
    #[prost(enumeration = "Reject", tag = "5")]
    reject: i32,
    #[prost(string, tag = "6")]
    reason: String,
    /// How it ended: the word for it, or nothing.
    #[prost(string, tag = "7")]
    end: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Unknown = 0,
    Born = 1,
    Received = 2,
    Intent = 3,
    Refused = 4,
    Committed = 5,
    NotBegun = 6,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, prost::Enumeration)]
#[repr(i32)]
enum Reject {
    Refused = 0,
    Expired = 1,
    Cancelled = 2,
}

/// What a journal holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) born_at: Option<Timestamp>,
    pub(super) records: Vec<Record>,
    /// Bytes of whole blocks from the beginning.
    pub(super) size: u64,
    /// Something whole comes after something that is not.
    pub(super) damaged: bool,
}

/// Reads as far as it is whole.
pub(super) fn read(mut bytes: &[u8]) -> Found {
    let mut found = Found::default();
    while let Some((block, rest)) = split(bytes) {
        found.size += (bytes.len() - rest.len()) as u64;
        for stored in block.records {
            if stored.kind() == Kind::Born {
                found.born_at = Some(Timestamp::from_millis(stored.time_ms));
            }
            found.records.extend(record_of(stored));
        }
        bytes = rest;
    }
    let later = |place: usize| bytes[place..].starts_with(MARK) && split(&bytes[place..]).is_some();
    found.damaged = (1..bytes.len()).any(later);
    found
}

/// The first block and what follows, if it is whole.
fn split(bytes: &[u8]) -> Option<(Block, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let (mark, numbers) = header.split_first_chunk::<4>()?;
    let (length, sum) = numbers.split_first_chunk::<4>()?;
    let sum = u32::from_le_bytes(sum.try_into().ok()?);
    let (content, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    if mark != MARK || crc32c(content) != sum {
        return None;
    }
    Some((Block::decode(content).ok()?, rest))
}

/// A block with these records, headed by the journal's birth if it is the first.
pub(super) fn block(born_at: Option<Timestamp>, records: &[Record]) -> Vec<u8> {
    let born = born_at.map(|time| Stored { kind: Kind::Born.into(), time_ms: time.as_millis(), ..Stored::default() });
    let content = Block { records: born.into_iter().chain(records.iter().map(stored_of)).collect() }.encode_to_vec();
    let length = u32::try_from(content.len()).expect("a journal of 4 GiB would be a million tasks a day");
    [MARK.as_slice(), &length.to_le_bytes(), &crc32c(&content).to_le_bytes(), &content].concat()
}

fn stored_of(record: &Record) -> Stored {
    match record {
        Record::Received { task, payload, start_before } => Stored {
            kind: Kind::Received.into(),
            task: task.to_string(),
            payload: payload.to_vec(),
            time_ms: start_before.as_millis(),
            ..Stored::default()
        },
        Record::Intent(task) => Stored { kind: Kind::Intent.into(), task: task.to_string(), ..Stored::default() },
        Record::NotBegun(task) => Stored { kind: Kind::NotBegun.into(), task: task.to_string(), ..Stored::default() },
        Record::Refused { task, kind, reason, start_before } => Stored {
            kind: Kind::Refused.into(),
            task: task.to_string(),
            time_ms: start_before.as_millis(),
            reject: match kind {
                RejectKind::Refused => Reject::Refused,
                RejectKind::Expired => Reject::Expired,
                RejectKind::Cancelled => Reject::Cancelled,
            }
            .into(),
            reason: reason.clone(),
            ..Stored::default()
        },
        Record::Committed { task, end } => Stored {
            kind: Kind::Committed.into(),
            task: task.to_string(),
            end: end.map_or_else(String::new, |end| end.to_string()),
            ..Stored::default()
        },
    }
}

fn record_of(stored: Stored) -> Option<Record> {
    let task: TaskId = stored.task.parse().ok()?;
    let start_before = Timestamp::from_millis(stored.time_ms);
    Some(match stored.kind() {
        Kind::Unknown | Kind::Born => return None,
        Kind::Received => Record::Received { task, payload: stored.payload.as_slice().try_into().ok()?, start_before },
        Kind::Intent => Record::Intent(task),
        Kind::NotBegun => Record::NotBegun(task),
        Kind::Refused => {
            let kind = match stored.reject() {
                Reject::Refused => RejectKind::Refused,
                Reject::Expired => RejectKind::Expired,
                Reject::Cancelled => RejectKind::Cancelled,
            };
            Record::Refused { task, kind, reason: stored.reason, start_before }
        }
        Kind::Committed => Record::Committed { task, end: stored.end.parse().ok() },
    })
}

/// CRC-32C (Castagnoli), as in RFC 3720.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut place = 0;
        while place < 256 {
            let mut value = place;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
                bit += 1;
            }
            table[place as usize] = value;
            place += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |sum, byte| sum >> 8 ^ TABLE[((sum ^ u32::from(*byte)) & 0xff) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }
}
