//! A laboratory: hosts that are threads in network namespaces of their own, with cables between them, and sweeps there.

use muster_probe::{Aim, Finding, Rig, Settings, Totals, start_with};
use muster_proto::ping::{Detail, Failure, FailureKind, Probes, Sample, Tally};
use nix::sched::{CloneFlags, unshare};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, which is gone with it.
pub struct Host {
    jobs: mpsc::Sender<Job>,
    namespace: String,
}

impl Host {
    /// A host with nothing but its loopback; `None`, and a loud word, where this machine cannot make one.
    pub fn new() -> Option<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (ready, namespace) = mpsc::channel();
        thread::spawn(move || {
            let made = unshare(CloneFlags::CLONE_NEWNET);
            let made =
                made.map_err(|error| format!("no network namespace can be made: {error}")).and_then(|()| furnish());
            let path = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
            let _ = ready.send(made.map(|()| path));
            todo.into_iter().for_each(|job| job());
        });
        match namespace.recv().expect("the thread lives") {
            Ok(path) => Some(Self { jobs, namespace: path.replace("self", &std::process::id().to_string()) }),
            Err(error) => {
                skip(&error);
                None
            }
        }
    }

    /// Does something there.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (result, done) = mpsc::channel();
        let job = Box::new(move || {
            let _ = result.send(job());
        });
        self.jobs.send(job).expect("the thread lives");
        done.recv().expect("the job was done")
    }

    /// Runs a line of shell there, which must succeed.
    pub fn sh(&self, line: &str) {
        let owned = line.to_owned();
        self.run(move || shell(&owned)).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Lays a cable to another host, with these names of the ends.
    pub fn cable(&self, here: &str, other: &Self, there: &str) {
        self.sh(&format!("ip link add {here} type veth peer name {there} netns {}", other.namespace));
        self.sh(&format!("ip link set {here} up"));
        other.sh(&format!("ip link set {there} up"));
    }

    /// Waits until all cables carry and all addresses are good: the kernel takes its time with both.
    pub fn settle(&self) {
        let unready = "ip -o link show type veth | grep -v 'state UP' || ip -6 -o addr show tentative | grep .";
        self.sh(&format!("for n in $(seq 1000); do ({unready}) || exit 0; sleep 0.01; done; exit 1"));
    }

    /// Sweeps from there, once all is settled.
    pub fn sweep(&self, probes: Probes, rig: Rig, aims: Vec<Aim>) -> Swept {
        self.settle();
        self.run(move || sweep(probes, rig, aims))
    }
}

/// What every host needs, or what this machine does not have for it. Without duplicate address detection there is no
/// waiting in a network of two hosts.
fn furnish() -> Result<(), String> {
    shell("ip link set lo up")?;
    shell("for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done")?;
    shell("test -w /proc/sys/net/ipv4/ping_group_range")
}

/// Runs a line of shell on the host of this thread.
fn shell(line: &str) -> Result<(), String> {
    let output = Command::new("sh").args(["-ec", line]).output().map_err(|error| format!("no shell: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{line}: {said}")) }
}

/// What became of a target.
#[derive(Debug, Clone)]
pub struct Fate {
    /// All samples, in the order of their ends.
    pub samples: Vec<Sample>,
    /// The last word.
    pub tally: Tally,
    /// The newest failure.
    pub failure: Option<Failure>,
}

impl Fate {
    /// Why it failed.
    pub fn kind(&self) -> Option<FailureKind> {
        self.failure.map(|failure| failure.kind)
    }
}

/// What became of all targets, in their order.
pub struct Swept {
    /// A target each.
    pub fates: Vec<Fate>,
    /// Of the sweep.
    pub totals: Totals,
}

/// Sweeps to the end, and holds the sweep to what it promises in every case.
pub fn sweep(probes: Probes, rig: Rig, aims: Vec<Aim>) -> Swept {
    let (sender, findings) = mpsc::channel();
    let sink = move |batch| match sender.send(batch) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    let count = aims.len();
    let sweep = start_with(Settings { probes, detail: Detail::Each }, rig, sink).expect("a thread");
    sweep.add(aims);
    sweep.close();
    let mut samples = vec![Vec::new(); count];
    let mut fates: Vec<Option<Fate>> = vec![None; count];
    for finding in findings.into_iter().flatten() {
        match finding {
            Finding::Sample { place, sample } => {
                assert!(fates[place as usize].is_none(), "a word after the last");
                samples[place as usize].push(sample);
            }
            Finding::End { place, tally, failure } => {
                let samples = std::mem::take(&mut samples[place as usize]);
                assert_eq!(samples.len(), tally.sent as usize, "every probe is told");
                assert_eq!(samples.iter().filter(|sample| sample.answer.is_ok()).count(), tally.received as usize);
                assert!(fates[place as usize].replace(Fate { samples, tally, failure }).is_none(), "two last words");
            }
        }
    }
    let fates = fates.into_iter().map(|fate| fate.expect("a last word on each")).collect();
    Swept { fates, totals: sweep.join() }
}

/// One probe each, impatient.
pub fn once() -> Probes {
    Probes { timeout: Duration::from_millis(300), retries: 0, ..Probes::default() }
}

/// So many probes each.
pub fn times(count: u32, period_ms: u64) -> Probes {
    Probes { count: NonZeroU32::new(count), period: Duration::from_millis(period_ms), ..once() }
}

/// Targets without zones.
pub fn aims(addresses: &[&str]) -> Vec<Aim> {
    addresses.iter().map(|address| address.parse::<IpAddr>().expect("an address").into()).collect()
}

/// Says loudly that a promise was not tested.
#[expect(clippy::print_stderr, reason = "it must be seen where tests pass")]
pub fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// Whether this machine has a program; else says so.
pub fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        skip(&format!("there is no {program} on this machine"));
    }
    found
}
