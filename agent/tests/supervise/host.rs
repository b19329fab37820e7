//! A spool with real supervisors, in a few words.

use muster_agent::process::Containment;
use muster_agent::spool::{Doorbell, Exit, News, OutReader, Spool, TaskDir, TaskSpec, blob_name};
use muster_agent::supervisor;
use muster_proto::command::{BlobRef, Command, Program};
use muster_proto::event::Stream;
use muster_proto::id::{Attempt, ClusterId, JobId, TaskId};
use muster_proto::job::{JobSpec, TargetsDigest, Work};
use muster_proto::link::FrameBody;
use muster_proto::rollout::Rollout;
use muster_proto::time::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// No step of a test takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// A host with a spool. Its directory is open to all users, as `/var/lib` is.
pub struct Host {
    temp: tempfile::TempDir,
    spool: Spool,
}

/// A task that was ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    pub id: TaskId,
}

/// What is left of a task.
#[derive(Debug)]
pub struct Ended {
    pub exit: Exit,
    pub started: bool,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Kept and dropped, of each stream.
    pub produced: [u64; 2],
}

/// A program with its words.
pub fn argv(words: &[&[u8]]) -> Command {
    Command::new(Program::Argv(words.iter().map(|word| word.to_vec()).collect()))
}

/// A line for the shell.
pub fn shell(line: &str) -> Command {
    Command::new(Program::Shell(line.as_bytes().to_vec()))
}

/// A host for each containment that this machine has.
pub fn hosts() -> Vec<(Host, Containment)> {
    let mut all = vec![(Host::new(), Containment::ProcessGroup)];
    if let cgroup @ Containment::Cgroup(_) = Containment::detect() {
        all.push((Host::new(), cgroup));
    }
    all
}

impl Host {
    pub fn new() -> Self {
        let temp = tempfile::tempdir().expect("a directory");
        fs::create_dir(temp.path().join("blobs")).expect("a directory");
        let spool = Spool::open(&temp.path().join("spool")).expect("it opens");
        Self { temp, spool }
    }

    pub fn executable(&self) -> &'static Path {
        Path::new(env!("CARGO_BIN_EXE_muster-agent"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn blob(&self, content: &[u8]) -> BlobRef {
        let blob = BlobRef { digest: Sha256::digest(content).into(), size: content.len() as u64 };
        let path = self.path("blobs").join(blob_name(&blob));
        if !path.exists() {
            fs::write(path, content).expect("a blob");
        }
        blob
    }

    pub fn stdin(&self, command: &mut Command, content: &[u8]) {
        command.stdin = Some(self.blob(content));
    }

    pub fn script(&self, content: &[u8], args: &[&[u8]]) -> Command {
        let content = self.blob(content);
        let args = args.iter().map(|word| word.to_vec()).collect();
        Command::new(Program::Script { content, args })
    }

    /// Puts a task into the spool.
    pub fn prepare(&self, command: Command, containment: &Containment) -> Task {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("random numbers");
        let id = TaskId { job: JobId::from_bytes(bytes), target: 0, attempt: Attempt::FIRST };
        let job = JobSpec {
            cluster: ClusterId::from_bytes([1; 16]),
            job: id.job,
            operator: "ada".parse().expect("a name"),
            created_at: Timestamp::from_millis(0),
            start_before: Timestamp::from_millis(1),
            deliver: Duration::from_secs(1),
            targets: TargetsDigest { root: [0; 32], count: 1 },
            rollout: Rollout::default(),
            rerun_of: None,
            work: Work::Command(command),
        };
        let host = "web01".parse().expect("a name");
        let spec = TaskSpec { task: id, host, payload: job.encode(), containment: containment.clone() };
        self.spool.create(&spec, &self.path("blobs")).expect("it can be ordered");
        Task { id }
    }

    pub fn dir(&self, task: Task) -> TaskDir {
        self.spool.dir(task.id)
    }

    pub fn tasks(&self) -> Vec<Task> {
        self.spool.tasks().expect("it can be read").into_iter().map(|id| Task { id }).collect()
    }

    pub fn watch(&self, task: Task) -> Doorbell {
        let mut bell = Doorbell::new().expect("a bell");
        bell.watch(task.id, &self.dir(task)).expect("it can be watched");
        bell
    }

    pub fn spawn(&self, task: Task) -> Child {
        supervisor::spawn(&self.dir(task), self.executable()).expect("it starts")
    }

    /// Runs a command without a cgroup.
    pub fn run(&self, command: Command) -> Ended {
        self.finish(self.prepare(command, &Containment::ProcessGroup))
    }

    /// Runs a task to its end.
    pub fn finish(&self, task: Task) -> Ended {
        let mut supervisor = self.spawn(task);
        self.end(task, &mut supervisor)
    }

    /// Waits for the end by the bell alone.
    pub fn end(&self, task: Task, supervisor: &mut Child) -> Ended {
        let mut bell = self.watch(task);
        let deadline = Instant::now() + LIMIT;
        let mut over = !self.dir(task).supervisor_alive().expect("it can be asked");
        while !over {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the task did not end");
            let left = Timespec::try_from(left).expect("a minute");
            poll(&mut [PollFd::new(&bell, PollFlags::IN)], Some(&left)).expect("it can wait");
            over = bell.drain().expect("it can be read").contains(&(task.id, News::Ended));
        }
        let exit = self.dir(task).exit().expect("it can be read");
        let exit = exit.unwrap_or_else(|| panic!("no exit, but {:?}", supervisor.try_wait()));
        self.collect(task, exit)
    }

    fn collect(&self, task: Task, exit: Exit) -> Ended {
        let started = self.dir(task).started().expect("it can be read");
        let mut ended = Ended { exit, started, stdout: Vec::new(), stderr: Vec::new(), produced: [0; 2] };
        let mut reader = self.reader(task);
        while let Some(frame) = reader.next().expect("it can be read") {
            let (kept, produced) = match frame.stream {
                Stream::Stdout => (&mut ended.stdout, &mut ended.produced[0]),
                Stream::Stderr => (&mut ended.stderr, &mut ended.produced[1]),
            };
            match frame.body {
                FrameBody::Data { offset, data } => {
                    assert_eq!(offset, *produced);
                    kept.extend(&data);
                    *produced += data.len() as u64;
                }
                FrameBody::Truncated { bytes } => *produced += bytes,
            }
        }
        assert_eq!(reader.next_frame(), ended.exit.frames);
        ended
    }

    pub fn reader(&self, task: Task) -> OutReader {
        OutReader::open(&self.dir(task)).expect("out is there")
    }

    /// What the program wrote so far, if it is text.
    pub fn output(&self, task: Task) -> Option<String> {
        let mut reader = self.reader(task);
        let mut text = String::new();
        while let Some(frame) = reader.next().expect("it can be read") {
            if let FrameBody::Data { data, .. } = frame.body {
                text.push_str(std::str::from_utf8(&data).ok()?);
            }
        }
        Some(text)
    }

    /// Processes that carry the task in their environment; those that ended and were not waited for do not count.
    pub fn members(&self, task: Task) -> Vec<i32> {
        let mark = format!("MUSTER_TASK={}", task.id);
        let entries = fs::read_dir("/proc").expect("Linux has it").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let carries = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        };
        pids.filter(carries).collect()
    }

    /// Waits for something to be so.
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "in vain: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
