//! The small files of a task's directory, as messages: unknown fields are skipped, so that releases can read each
//! other's.

use super::{Exit, Started, TaskSpec};
use crate::process::Containment;
use muster_proto::command::OutputLimit;
use muster_proto::id::{BootId, TaskId};
use muster_proto::outcome::{End, EndKind};
use prost::Message;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::time::Duration;

/// Layout of the whole directory. A supervisor does not touch a task of another one.
const VERSION: u32 = 1;
/// The same, and `out` has a hole up to where `acked` says.
const VERSION_WITH_HOLE: u32 = 2;

#[derive(Message)]
struct Spec {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    task: String,
    #[prost(string, tag = "3")]
    host: String,
    #[prost(bytes = "vec", tag = "4")]
    payload: Vec<u8>,
    /// Absent: no cgroup.
    #[prost(bytes = "vec", optional, tag = "5")]
    cgroup: Option<Vec<u8>>,
    #[prost(bytes = "vec", tag = "6")]
    boot: Vec<u8>,
}

#[derive(Message)]
struct StartedFile {
    #[prost(uint32, tag = "1")]
    pid: u32,
}

#[derive(Message)]
struct ExitFile {
    #[prost(uint64, tag = "1")]
    frames: u64,
    #[prost(uint64, tag = "2")]
    duration_ns: u64,
    #[prost(bool, tag = "3")]
    left_behind: bool,
    #[prost(oneof = "Kind", tags = "4, 5, 6, 7, 8, 9")]
    kind: Option<Kind>,
}

#[derive(prost::Oneof)]
enum Kind {
    #[prost(uint32, tag = "4")]
    Exit(u32),
    #[prost(uint32, tag = "5")]
    Signal(u32),
    #[prost(bool, tag = "6")]
    TimedOut(bool),
    #[prost(bool, tag = "7")]
    Cancelled(bool),
    #[prost(string, tag = "8")]
    StartFailed(String),
    #[prost(string, tag = "9")]
    Lost(String),
}

pub(super) fn damaged(file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the task's file {file:?} is damaged or of another release"))
}

pub(super) fn encode_spec(spec: &TaskSpec, output: OutputLimit, boot: BootId) -> Vec<u8> {
    let cgroup = match &spec.containment {
        Containment::Cgroup(path) => Some(path.as_os_str().as_bytes().to_vec()),
        Containment::ProcessGroup => None,
    };
    let stored = Spec {
        version: match output {
            OutputLimit::Kept { .. } => VERSION,
            OutputLimit::Unlimited => VERSION_WITH_HOLE,
        },
        task: spec.task.to_string(),
        host: spec.host.to_string(),
        payload: spec.payload.to_vec(),
        cgroup,
        boot: boot.as_bytes().to_vec(),
    };
    stored.encode_to_vec()
}

pub(super) fn decode_spec(bytes: &[u8]) -> io::Result<(TaskSpec, BootId)> {
    let bad = || damaged("spec");
    let stored = Spec::decode(bytes).map_err(|_| bad())?;
    if !matches!(stored.version, VERSION | VERSION_WITH_HOLE) {
        return Err(bad());
    }
    let boot = BootId::try_from(stored.boot.as_slice()).map_err(|_| bad())?;
    let containment = match stored.cgroup {
        Some(path) => Containment::Cgroup(OsString::from_vec(path).into()),
        None => Containment::ProcessGroup,
    };
    let task = stored.task.parse::<TaskId>().map_err(|_| bad())?;
    let host = stored.host.parse().map_err(|_| bad())?;
    Ok((TaskSpec { task, host, payload: stored.payload.into(), containment }, boot))
}

pub(super) fn encode_started(started: Started) -> Vec<u8> {
    StartedFile { pid: started.pid }.encode_to_vec()
}

pub(super) fn encode_exit(exit: &Exit) -> Vec<u8> {
    let kind = match &exit.end.kind {
        EndKind::Exit(code) => Kind::Exit((*code).into()),
        EndKind::Signal(signal) => Kind::Signal((*signal).into()),
        EndKind::TimedOut => Kind::TimedOut(true),
        EndKind::Cancelled => Kind::Cancelled(true),
        EndKind::StartFailed(reason) => Kind::StartFailed(reason.clone()),
        EndKind::Lost(reason) => Kind::Lost(reason.clone()),
    };
    let stored = ExitFile {
        frames: exit.frames,
        duration_ns: u64::try_from(exit.end.duration.as_nanos()).unwrap_or(u64::MAX),
        left_behind: exit.left_behind,
        kind: Some(kind),
    };
    stored.encode_to_vec()
}

pub(super) fn decode_exit(bytes: &[u8]) -> io::Result<Exit> {
    let bad = || damaged("exit");
    let stored = ExitFile::decode(bytes).map_err(|_| bad())?;
    let small = |number: u32| u8::try_from(number).map_err(|_| bad());
    let kind = match stored.kind.ok_or_else(bad)? {
        Kind::Exit(code) => EndKind::Exit(small(code)?),
        Kind::Signal(signal) => EndKind::Signal(small(signal)?),
        Kind::TimedOut(_) => EndKind::TimedOut,
        Kind::Cancelled(_) => EndKind::Cancelled,
        Kind::StartFailed(reason) => EndKind::StartFailed(reason),
        Kind::Lost(reason) => EndKind::Lost(reason),
    };
    let end = End { kind, duration: Duration::from_nanos(stored.duration_ns) };
    Ok(Exit { frames: stored.frames, end, left_behind: stored.left_behind })
}
