//! What a process costs, as the kernel counts it.

use std::fs;
use std::time::Duration;

/// Ticks a second in /proc: USER_HZ, which is part of Linux's interface.
const TICKS_PER_SECOND: u64 = 100;

/// The most memory that a process has had in use: bytes.
pub fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes << 10
}

/// Processor time that a process has used.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    // The name, in brackets, may hold anything.
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    let ticks: u64 = rest.split_whitespace().skip(11).take(2).map(|word| word.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)
}

/// Descriptors that a process holds.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there").count()
}
