//! Every state has its reason and its remedy in words.

use super::*;
use muster_proto::command::{Command, Program};
use muster_proto::fleet::{ClockOffset, Party, Quarantine};
use muster_proto::id::{AgentId, BootId, ClusterId, JobId, StartId};
use muster_proto::job::{Phase as Shown, TargetsDigest, Work};

/// 22 November 2026, 10:00:00 UTC.
const TEN: Timestamp = Timestamp::from_millis(1_795_341_600_000);

fn after(seconds: u64) -> Timestamp {
    TEN + Duration::from_secs(seconds)
}

fn agent() -> AgentInfo {
    AgentInfo {
        id: AgentId::from_bytes([1; 16]),
        name: "n003".parse().expect("a name"),
        connected: true,
        since: Some(TEN),
        address: Some("192.0.2.3:4711".into()),
        labels: std::collections::BTreeMap::new(),
        facts: None,
        enrolled_at: TEN,
        revoked_at: None,
        clock: Some(ClockOffset(0)),
        quarantine: None,
        heard_at: Some(TEN),
    }
}

fn left() -> LastSession {
    LastSession { at: after(120), reason: "the connection was lost".into() }
}

fn host<'a>(info: &'a AgentInfo, left: Option<&'a LastSession>) -> Host<'a> {
    Host { info, left, waiting: 0, running: 0, now: after(300) }
}

fn spec() -> JobSpec {
    JobSpec {
        cluster: ClusterId::from_bytes([1; 16]),
        job: JobId::from_bytes([0; 16]),
        operator: "ada".parse().expect("a name"),
        created_at: TEN,
        start_before: after(3_600),
        deliver: Duration::from_secs(30),
        targets: TargetsDigest { root: [0; 32], count: 100 },
        attempts_max: 1,
        concurrency: Some(10),
        work: Work::Command(Command::new(Program::Argv(vec![b"true".to_vec()]))),
    }
}

fn story(outcome: Option<Outcome>) -> TaskStory {
    TaskStory {
        job: JobId::from_bytes([0; 16]),
        title: "true".into(),
        phase: Shown::Started,
        finished_at: outcome.as_ref().map(|_| after(153)),
        outcome,
        planned_at: TEN,
        start_before: after(3_600),
        offered_at: vec![after(1)],
        accepted_at: Some(after(2)),
        started_at: Some(after(3)),
        output_at: None,
        bytes: [0; 2],
        truncated: 0,
        cancelled: None,
        late: None,
    }
}

fn ran(state: State, exit_code: Option<u8>, reason: Option<&str>) -> Outcome {
    let reason = reason.map(str::to_owned);
    Outcome { state, exit_code, signal: None, reason, duration: Some(Duration::from_millis(4_100)), ping: None }
}

fn about(task: &TaskStory, look: Option<&Look>) -> String {
    let (info, spec) = (agent(), spec());
    about_task(&host(&info, None), &Seen { task, spec: &spec, look })
}

#[test]
fn a_host_without_a_session_says_since_when_why_and_what_to_do() {
    let away = AgentInfo { connected: false, ..agent() };
    let gone = left();
    assert_eq!(
        about_host(&host(&away, Some(&gone))),
        "n003 has no session since 10:02:00 UTC (the connection was lost); nothing can run there until its agent dials in: \
         on the host, see `systemctl status muster-agent` and `journalctl -u muster-agent`"
    );
    let before = about_host(&host(&away, None));
    assert!(before.contains("since the controller began, the last one was 10:00:00 UTC"), "{before}");
    let never = about_host(&host(&AgentInfo { since: None, ..away.clone() }, None));
    assert!(never.contains("was enrolled 10:00:00 UTC and never had a session"), "{never}");
    let late = Host { now: after(90_000), ..host(&away, Some(&gone)) };
    assert!(about_host(&late).contains("since 2026-11-22 10:02:00 UTC"), "a day later the date is needed");
}

#[test]
fn a_host_that_gets_no_work_though_it_is_there_says_why() {
    let (boot, start) = (BootId::from_bytes([2; 16]), StartId::from_bytes([3; 16]));
    let party = |address: &str| Party { address: address.into(), machine: "m".into(), boot, start, seen_at: TEN };
    let quarantine = Quarantine { since: TEN, parties: [party("192.0.2.3:1"), party("192.0.2.9:1")] };
    let cases = [
        (AgentInfo { revoked_at: Some(TEN), ..agent() }, "was revoked 10:00:00 UTC"),
        (AgentInfo { quarantine: Some(quarantine), ..agent() }, "at 192.0.2.3:1 and at 192.0.2.9:1; say which"),
        (AgentInfo { clock: Some(ClockOffset(180_000)), ..agent() }, "its clock is +180.0 s from the controller's"),
        (agent(), "n003 is connected since 10:00:00 UTC and takes tasks; no task of it is unfinished"),
    ];
    for (info, words) in cases {
        let said = about_host(&host(&info, None));
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn every_terminal_state_is_told_with_its_reason_and_what_to_do() {
    let without = Outcome::without_run;
    let cases: [(Outcome, &[&str]); 10] = [
        (ran(State::Succeeded, Some(0), None), &["exit code 0 after 4.1 s"]),
        (ran(State::Failed, Some(3), None), &["exit code 3 after 4.1 s", "muster logs", "-w n003"]),
        (ran(State::TimedOut, None, Some("the run timeout ended it")), &["run timeout (-u) of 5 min"]),
        (ran(State::Cancelled, None, None), &["after it had started here", "after 4.1 s"]),
        (without(State::StartFailed, "no such file"), &["start_failed: no such file", "nothing ran", "--not-run"]),
        (without(State::Rejected, "the disk is full"), &["rejected: the disk is full", "nothing ran"]),
        (
            without(State::Unreachable, "not connected within 30 s"),
            &["not connected within 30 s, a window (-t) that closed 10:02:33 UTC", "it is connected now"],
        ),
        (without(State::Expired, "no room"), &["expired: no room", "(--job-timeout) 11:00:00 UTC", "nothing ran"]),
        (without(State::Skipped, "stopped"), &["skipped: stopped", "nothing ran"]),
        (
            without(State::Indeterminate, "no contact"),
            &["indeterminate: no contact", "it may have run: look on the host"],
        ),
    ];
    for (outcome, words) in cases {
        let state = outcome.state;
        let said = about(&story(Some(outcome)), None);
        assert!(said.starts_with(state.as_str()), "{said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }
}

#[test]
fn unreachable_and_cancelled_say_who_was_away_and_who_it_was() {
    let (away, gone, spec) = (AgentInfo { connected: false, ..agent() }, left(), spec());
    let task = story(Some(Outcome::without_run(State::Unreachable, "not connected within 30 s")));
    let said = about_task(&host(&away, Some(&gone)), &Seen { task: &task, spec: &spec, look: None });
    assert!(said.contains("its last session ended 10:02:00 UTC (the connection was lost)"), "{said}");

    let cancelled = Some((after(60), "bob".parse().expect("a name")));
    let task = TaskStory { cancelled, ..story(Some(Outcome::without_run(State::Skipped, "cancelled"))) };
    assert!(about(&task, None).contains("bob cancelled the job 10:01:00 UTC before it started here"));

    let late = Some("exit code 0 after 3 s".to_owned());
    let task = TaskStory { late, ..story(Some(Outcome::without_run(State::Indeterminate, "no contact"))) };
    assert!(about(&task, None).contains("after that the agent reported: exit code 0 after 3 s"));
}

#[test]
fn what_is_not_over_says_what_it_waits_for() {
    let task = story(None);
    let look = |phase, connected| Some(Look { target: 0, phase, connected, at_work: 10 });
    let cases = [
        (look(Phase::Planned, true), "it waits for its turn; 10 of at most 10 hosts at a time (-f) are at work"),
        (look(Phase::Due(after(33)), true), "waits for room"),
        (look(Phase::Due(after(33)), false), "the job waits for it until 10:00:33 UTC, then it is unreachable"),
        (look(Phase::Offered(after(400)), true), "the agent has not answered yet"),
        (look(Phase::Offered(after(400)), false), "without contact it is given up 10:06:40 UTC"),
        (look(Phase::Accepted(after(400)), true), "as soon as the host has room"),
        (look(Phase::Accepted(after(400)), false), "it may run meanwhile"),
        (
            look(Phase::Started(after(400)), true),
            "it runs since 10:00:03 UTC, and the run timeout (-u) ends it 10:05:03 UTC",
        ),
        (look(Phase::Started(after(400)), false), "goes on without contact"),
        (None, "it is just ending, or waits for the controller's store"),
    ];
    for (look, words) in cases {
        let said = about(&task, look.as_ref());
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
    let (info, spec) = (agent(), spec());
    let full = Host { running: limits::RUNNING_TASKS_MAX, ..host(&info, None) };
    let look = look(Phase::Accepted(after(400)), true);
    let said = about_task(&full, &Seen { task: &task, spec: &spec, look: look.as_ref() });
    assert!(said.contains("queued on the host, where 64 tasks run"), "{said}");
}
