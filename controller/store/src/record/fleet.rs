//! Agents' records: labels, facts, and the machines that use an identity.

use crate::nonce::Claim;
use bytes::Bytes;
use muster_proto::fleet::{Facts, Labels, Party, Quarantine};
use muster_proto::time::Timestamp;
use prost::Message as _;

#[derive(Clone, PartialEq, prost::Message)]
struct LabelsRecord {
    #[prost(btree_map = "string, string", tag = "1")]
    labels: std::collections::BTreeMap<String, String>,
}

/// How labels are stored.
pub(crate) fn labels_to_bytes(labels: &Labels) -> Vec<u8> {
    LabelsRecord { labels: labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect() }
        .encode_to_vec()
}

/// Reads [`labels_to_bytes`]; `None` is damage.
pub(crate) fn labels_of(bytes: &[u8]) -> Option<Labels> {
    let read = |(key, value): (String, String)| Some((key.parse().ok()?, value.parse().ok()?));
    LabelsRecord::decode(bytes).ok()?.labels.into_iter().map(read).collect()
}

#[derive(Clone, PartialEq, prost::Message)]
struct FactsRecord {
    #[prost(string, tag = "1")]
    hostname: String,
    #[prost(string, tag = "2")]
    os: String,
    #[prost(string, tag = "3")]
    os_version: String,
    #[prost(string, tag = "4")]
    os_name: String,
    #[prost(string, tag = "5")]
    kernel: String,
    #[prost(string, tag = "6")]
    arch: String,
    #[prost(uint32, tag = "7")]
    cpus: u32,
    #[prost(uint64, tag = "8")]
    memory_bytes: u64,
    #[prost(string, repeated, tag = "9")]
    addresses: Vec<String>,
    #[prost(string, tag = "10")]
    agent_version: String,
    #[prost(string, tag = "11")]
    containment: String,
    #[prost(bool, tag = "12")]
    root: bool,
}

/// How facts are stored.
pub(crate) fn facts_to_bytes(facts: &Facts) -> Vec<u8> {
    FactsRecord {
        hostname: facts.hostname.clone(),
        os: facts.os.clone(),
        os_version: facts.os_version.clone(),
        os_name: facts.os_name.clone(),
        kernel: facts.kernel.clone(),
        arch: facts.arch.clone(),
        cpus: facts.cpus,
        memory_bytes: facts.memory_bytes,
        addresses: facts.addresses.clone(),
        agent_version: facts.agent_version.clone(),
        containment: facts.containment.clone(),
        root: facts.root,
    }
    .encode_to_vec()
}

/// Reads [`facts_to_bytes`]; `None` is damage.
pub(crate) fn facts_of(bytes: &[u8]) -> Option<Facts> {
    let FactsRecord {
        hostname,
        os,
        os_version,
        os_name,
        kernel,
        arch,
        cpus,
        memory_bytes,
        addresses,
        agent_version,
        containment,
        root,
    } = FactsRecord::decode(bytes).ok()?;
    Some(Facts {
        hostname,
        os,
        os_version,
        os_name,
        kernel,
        arch,
        cpus,
        memory_bytes,
        addresses,
        agent_version,
        containment,
        root,
    })
}

#[derive(Clone, PartialEq, prost::Message)]
struct PartyRecord {
    #[prost(string, tag = "1")]
    address: String,
    #[prost(string, tag = "2")]
    machine: String,
    #[prost(bytes = "bytes", tag = "3")]
    boot: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    start: Bytes,
    #[prost(int64, tag = "5")]
    seen_at_ms: i64,
}

impl PartyRecord {
    fn of(party: &Party) -> Self {
        Self {
            address: party.address.clone(),
            machine: party.machine.clone(),
            boot: Bytes::copy_from_slice(party.boot.as_bytes()),
            start: Bytes::copy_from_slice(party.start.as_bytes()),
            seen_at_ms: party.seen_at.as_millis(),
        }
    }

    fn read(self) -> Option<Party> {
        Some(Party {
            address: self.address,
            machine: self.machine,
            boot: self.boot[..].try_into().ok()?,
            start: self.start[..].try_into().ok()?,
            seen_at: Timestamp::from_millis(self.seen_at_ms),
        })
    }
}

/// How a party is stored.
pub(crate) fn party_to_bytes(party: &Party) -> Vec<u8> {
    PartyRecord::of(party).encode_to_vec()
}

/// Reads [`party_to_bytes`]; `None` is damage.
pub(crate) fn party_of(bytes: &[u8]) -> Option<Party> {
    PartyRecord::decode(bytes).ok()?.read()
}

/// `epoch`, `foreign` and `key` are what the second party showed.
#[derive(Clone, PartialEq, prost::Message)]
struct QuarantineRecord {
    #[prost(int64, tag = "1")]
    since_ms: i64,
    #[prost(message, optional, tag = "2")]
    first: Option<PartyRecord>,
    #[prost(message, optional, tag = "3")]
    second: Option<PartyRecord>,
    #[prost(uint64, optional, tag = "4")]
    epoch: Option<u64>,
    #[prost(bool, tag = "5")]
    foreign: bool,
    #[prost(bytes = "bytes", tag = "6")]
    key: Bytes,
}

/// Two machines that use one identity.
#[derive(Debug, Clone)]
pub(crate) struct Parted {
    pub quarantine: Quarantine,
    /// What the second of them showed.
    pub shown: Claim,
    /// Fingerprint of the key that the second of them came with. Whatever the first may use is in the agent's row.
    pub key: [u8; 32],
}

/// How a quarantine is stored.
pub(crate) fn quarantine_to_bytes(parted: &Parted) -> Vec<u8> {
    let Parted { quarantine, shown, key } = parted;
    let [first, second] = &quarantine.parties;
    QuarantineRecord {
        since_ms: quarantine.since.as_millis(),
        first: Some(PartyRecord::of(first)),
        second: Some(PartyRecord::of(second)),
        epoch: match shown {
            Claim::Nothing => None,
            Claim::Ours(epoch) | Claim::Foreign(epoch) => Some(*epoch),
        },
        foreign: matches!(shown, Claim::Foreign(_)),
        key: Bytes::copy_from_slice(key),
    }
    .encode_to_vec()
}

/// Reads [`quarantine_to_bytes`]; `None` is damage.
pub(crate) fn quarantine_of(bytes: &[u8]) -> Option<Parted> {
    let record = QuarantineRecord::decode(bytes).ok()?;
    let parties = [record.first?.read()?, record.second?.read()?];
    let shown = match (record.epoch, record.foreign) {
        (None, _) => Claim::Nothing,
        (Some(epoch), false) => Claim::Ours(epoch),
        (Some(epoch), true) => Claim::Foreign(epoch),
    };
    let quarantine = Quarantine { since: Timestamp::from_millis(record.since_ms), parties };
    Some(Parted { quarantine, shown, key: record.key[..].try_into().ok()? })
}
