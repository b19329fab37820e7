//! Programs whose output is kept whole: they wait while the host holds too much, and nothing else does.

use crate::host::{Host, Task, hosts, shell};
use muster_agent::process::Containment;
use muster_agent::spool::{Acked, Mark};
use muster_proto::command::{Command, OutputLimit};
use muster_proto::limits::{OUTPUT_FRAME_BYTES_MAX, OUTPUT_HELD_BYTES_MAX};
use muster_proto::link::FrameBody;
use muster_proto::outcome::EndKind;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

/// Beyond the bound: a record of each stream, with their headers.
const SLACK: u64 = 2 * (5 + OUTPUT_FRAME_BYTES_MAX as u64);

fn all(line: &str) -> Command {
    let mut command = shell(line);
    command.output = OutputLimit::Unlimited;
    command.grace = Duration::from_millis(500);
    command
}

/// Length of `out`, and what it takes on the disk.
fn size(host: &Host, task: Task) -> (u64, u64) {
    let out = fs::metadata(host.dir(task).path().join("out")).expect("it is there");
    (out.len(), out.blocks() * 512)
}

fn wait_until_blocked(host: &Host, task: Task) {
    host.wait("it blocks", || (size(host, task).0 >= OUTPUT_HELD_BYTES_MAX).then_some(()));
}

#[test]
fn what_nobody_has_blocks_the_program_and_what_is_acknowledged_costs_no_disk() {
    let host = Host::new();
    let total: u64 = 200 << 20;
    let task = host.prepare(all(&format!("seq 100000000 | head -c {total}")), &Containment::ProcessGroup);
    let mut running = host.spawn(task);
    wait_until_blocked(&host, task);
    let (mut reader, mut next) = (host.reader(task), Mark::default());
    let mut numbers = (1..).flat_map(|number: u32| format!("{number}\n").into_bytes());
    let mut given_back = 0;
    while next.offsets[0] < total {
        let frame = host.wait("more", || reader.next().expect("it can be read"));
        let FrameBody::Data { offset, data } = frame.body else { panic!("something was dropped: {frame:?}") };
        assert_eq!((frame.number, offset), (next.frame, next.offsets[0]));
        assert!(data.iter().all(|byte| numbers.next() == Some(*byte)), "a byte differs in frame {}", frame.number);
        let length = data.len() as u64;
        next = Mark {
            frame: next.frame + 1,
            position: next.position + 5 + length,
            offsets: [next.offsets[0] + length, 0],
        };
        if next.position - given_back >= 4 << 20 {
            let (length, disk) = size(&host, task);
            assert!(length - given_back <= OUTPUT_HELD_BYTES_MAX + SLACK, "{length} bytes, {given_back} acknowledged");
            // What was acknowledged last may not be given back yet.
            assert!(disk <= OUTPUT_HELD_BYTES_MAX + SLACK + (8 << 20), "{disk} bytes on the disk");
            given_back = next.position;
            host.dir(task).acknowledge(Acked { before: next, abandoned: false }).expect("it can be said");
        }
    }
    host.wait("it ends", || running.try_wait().expect("it is our child"));
    let exit = host.dir(task).exit().expect("it can be read").expect("it is over");
    assert_eq!((exit.end.kind, exit.frames), (EndKind::Exit(0), next.frame));
    // Whoever comes later begins where the hole ends.
    let mut later = host.reader(task);
    assert!(later.next_frame() > 0 && later.seek(0).is_err());
    later.seek(exit.frames).expect("all of it is there");
}

#[test]
fn a_blocked_program_dies_when_it_is_told_to() {
    for (host, containment) in hosts() {
        for timeout in [Duration::from_mins(5), Duration::from_secs(2)] {
            let mut command = all("trap '' TERM; setsid yes & yes");
            command.timeout = timeout;
            let task = host.prepare(command, &containment);
            let mut running = host.spawn(task);
            wait_until_blocked(&host, task);
            if timeout > Duration::from_mins(1) {
                host.dir(task).request_cancel().expect("it can be asked for");
            }
            // It ends though nobody ever acknowledges anything, and nothing that it wrote is lost.
            let ended = host.end(task, &mut running);
            let expected = if timeout > Duration::from_mins(1) { EndKind::Cancelled } else { EndKind::TimedOut };
            assert_eq!(ended.exit.end.kind, expected, "{containment:?}");
            assert_eq!(host.members(task), Vec::<i32>::new(), "{containment:?}");
            assert!(ended.stdout.len() as u64 >= OUTPUT_HELD_BYTES_MAX * 9 / 10);
            assert_eq!(ended.produced, [ended.stdout.len() as u64, 0], "something was dropped");
        }
    }
}

#[test]
fn what_was_written_by_the_end_is_kept_though_the_host_holds_too_much() {
    let host = Host::new();
    let total = OUTPUT_HELD_BYTES_MAX + 40_000;
    let ended = host.run(all(&format!("head -c {total} /dev/zero")));
    assert_eq!((ended.exit.end.kind, ended.produced[0]), (EndKind::Exit(0), total));
    assert_eq!(ended.stdout.len() as u64, total);
}

#[test]
fn nobody_waits_for_a_controller_that_gave_the_task_up() {
    let host = Host::new();
    let task = host.prepare(all("head -c 1000000000 /dev/zero; exit 7"), &Containment::ProcessGroup);
    let mut running = host.spawn(task);
    wait_until_blocked(&host, task);
    host.dir(task).abandon_output().expect("it can be said");
    assert_eq!(host.end(task, &mut running).exit.end.kind, EndKind::Exit(7));
    assert!(size(&host, task).0 <= OUTPUT_HELD_BYTES_MAX + SLACK);
}
