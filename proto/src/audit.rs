//! Who did what: the records of the audit log, and the chain of hashes that holds them together.
//!
//! Every record's hash covers the one before it. So a record that was altered, added or removed in the middle shows; that
//! the newest were cut off shows only against a [`Checkpoint`] that is kept elsewhere.

use crate::id::ClusterId;
use crate::name::OperatorName;
use crate::time::Timestamp;
use sha2::{Digest as _, Sha256};

/// What somebody did, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who: an operator's name, an agent's id, or what the controller calls itself.
    pub actor: String,
    /// What, in a word or two: "job.submit", "token.create".
    pub action: String,
    /// To what, and how: one line.
    pub detail: String,
}

/// An entry in its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// From 1, without holes.
    pub seq: u64,
    /// What was done.
    pub entry: AuditEntry,
    /// SHA-256 over the hash before it and this record.
    pub hash: [u8; 32],
}

/// The newest record of a log, or of a part of it that was followed from its beginning. Its default is the place before
/// the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuditHead {
    /// Number of the record; 0 before the first.
    pub seq: u64,
    /// Its hash; zeros before the first.
    pub hash: [u8; 32],
}

impl AuditHead {
    /// The record of an entry that comes next.
    pub fn next(self, entry: AuditEntry) -> AuditRecord {
        let seq = self.seq + 1;
        AuditRecord { seq, hash: self.hash_of(seq, &entry), entry }
    }

    /// Goes on to this record; `None` if it is not what was written here.
    pub fn admits(self, record: &AuditRecord) -> Option<Self> {
        let seq = self.seq + 1;
        let fits = record.seq == seq && record.hash == self.hash_of(seq, &record.entry);
        fits.then_some(Self { seq, hash: record.hash })
    }

    /// The hash before, the numbers as 8 bytes each, the texts with their lengths: no two records give the same bytes.
    fn hash_of(self, seq: u64, entry: &AuditEntry) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.hash);
        hash.update(seq.to_be_bytes());
        hash.update(entry.at.as_millis().to_be_bytes());
        for text in [&entry.actor, &entry.action, &entry.detail] {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        hash.finalize().into()
    }
}

/// The end of a log at some time, to be kept where whoever owns the controller cannot change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose log.
    pub cluster: ClusterId,
    /// Its end.
    pub head: AuditHead,
    /// When it was taken.
    pub at: Timestamp,
    /// Who took and signed it.
    pub operator: OperatorName,
}

impl Checkpoint {
    /// The bytes that are signed: fields of fixed length, then the name.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.operator.as_str().len());
        bytes.extend_from_slice(self.cluster.as_bytes());
        bytes.extend_from_slice(&self.head.seq.to_be_bytes());
        bytes.extend_from_slice(&self.head.hash);
        bytes.extend_from_slice(&self.at.as_millis().to_be_bytes());
        bytes.extend_from_slice(self.operator.as_str().as_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(count: i64) -> Vec<AuditRecord> {
        let mut head = AuditHead::default();
        let record = |at| {
            let record = head.next(AuditEntry {
                at: Timestamp::from_millis(at),
                actor: "operator/ada".into(),
                action: "job.accept".into(),
                detail: format!("number {at}"),
            });
            head = AuditHead { seq: record.seq, hash: record.hash };
            record
        };
        (1..=count).map(record).collect()
    }

    /// The head, or the number of the first record that does not fit.
    fn followed(records: &[AuditRecord]) -> Result<AuditHead, u64> {
        let follow = |head: AuditHead, record| head.admits(record).ok_or(head.seq + 1);
        records.iter().try_fold(AuditHead::default(), follow)
    }

    #[test]
    fn every_change_in_the_middle_is_found_where_it_is() {
        let whole = chain(5);
        assert_eq!(followed(&whole), Ok(AuditHead { seq: 5, hash: whole[4].hash }));
        type Change = fn(&mut Vec<AuditRecord>);
        let changes: [(&str, Change); 7] = [
            ("time", |log| log[2].entry.at = Timestamp::from_millis(9)),
            ("actor", |log| log[2].entry.actor.push('x')),
            ("action", |log| log[2].entry.action.clear()),
            ("detail moved to action", |log| {
                let entry = &mut log[2].entry;
                entry.action.push_str(&std::mem::take(&mut entry.detail));
            }),
            ("hash", |log| log[2].hash[31] ^= 1),
            ("deleted", |log| drop(log.remove(2))),
            ("reordered", |log| log.swap(2, 3)),
        ];
        for (what, change) in changes {
            let mut log = whole.clone();
            change(&mut log);
            assert_eq!(followed(&log), Err(3), "{what}");
        }
    }

    #[test]
    fn a_record_whose_hash_was_made_anew_breaks_the_next() {
        let mut log = chain(3);
        let before = AuditHead { seq: 1, hash: log[0].hash };
        log[1] = before.next(AuditEntry { detail: "nothing".into(), ..log[1].entry.clone() });
        assert_eq!(followed(&log), Err(3));
    }
}
