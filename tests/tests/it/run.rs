//! The main job: one command on many hosts, every answer as it arrives, and a closing line that adds up.

use muster_tests::Fleet;

#[test]
fn p2_every_host_answers_and_the_closing_line_adds_up() {
    let fleet = Fleet::start(3);
    let run = fleet.muster(["run", "-w", "all", "--", "echo", "hello"]);
    assert_eq!(run.status, 0, "{run}");
    let mut lines: Vec<_> = run.out().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["dev-1: hello", "dev-2: hello", "dev-3: hello"]);
    assert!(run.closing().starts_with("run: 3 succeeded: 3 targeted in "), "{run}");

    let run = fleet.muster(["run", "-w", "all", "test $MUSTER_HOST != dev-2 || exit 7"]);
    assert_eq!(run.status, 1, "{run}");
    assert!(run.closing().starts_with("run: 2 succeeded, 1 failed dev-2: 3 targeted in "), "{run}");
}
