//! Every state has its reason and its remedy in words.

use super::*;
use muster_proto::command::{Command, Program};
use muster_proto::fleet::{ClockOffset, Party, Quarantine};
use muster_proto::id::{AgentId, Attempt, BootId, ClusterId, JobId, StartId};
use muster_proto::job::{Phase as Shown, TargetsDigest, Work};
use muster_proto::why::AttemptEnd;

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
        rollout: muster_proto::rollout::Rollout { concurrency: Some(10), ..muster_proto::rollout::Rollout::default() },
        rerun_of: None,
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
        attempt: Attempt::FIRST,
        earlier: Vec::new(),
        next_at: None,
        queued: None,
        gate: None,
    }
}

fn ran(state: State, exit_code: Option<u8>, reason: Option<&str>) -> Outcome {
    let reason = reason.map(str::to_owned);
    Outcome { state, exit_code, signal: None, reason, duration: Some(Duration::from_millis(4_100)), ping: None }
}

fn look(phase: Phase, waiting: Waiting, connected: bool) -> Look {
    let wave = WaveView { number: 2, of: 4, first: 1, targets: 5, stage: WaveStage::Running };
    Look { target: 0, phase, waiting, wave, paused: None, connected, at_work: 10 }
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
    let at_work = |phase, connected| Some(look(phase, Waiting::AtWork, connected));
    let waits = |waiting, connected| Some(look(Phase::Planned, waiting, connected));
    let cases = [
        (waits(Waiting::Room, false), "n003 waits for its turn: 10 of at most 10 hosts are at work (-f)"),
        (waits(Waiting::Room, true), "is connected, and waits for its turn"),
        (
            waits(Waiting::Contact { until: after(33) }, false),
            "the job waits for it until 10:00:33 UTC, then it is unreachable",
        ),
        (waits(Waiting::Queue { until: after(33) }, false), "queued until 10:00:33 UTC: n003 has no session"),
        (waits(Waiting::Wave { number: 3 }, true), "its wave is 3 of 4; wave 2 runs"),
        (waits(Waiting::Turn { at: after(33) }, true), "its turn comes 10:00:33 UTC"),
        (at_work(Phase::Offered(after(400)), true), "the agent has not answered yet"),
        (at_work(Phase::Offered(after(400)), false), "without contact it is given up 10:06:40 UTC"),
        (at_work(Phase::Accepted(after(400)), true), "as soon as the host has room"),
        (at_work(Phase::Accepted(after(400)), false), "it may run meanwhile"),
        (
            at_work(Phase::Started(after(400)), true),
            "it runs since 10:00:03 UTC, and the run timeout (-u) ends it 10:05:03 UTC",
        ),
        (at_work(Phase::Started(after(400)), false), "goes on without contact"),
        (None, "it is just ending, or waits for the controller's store"),
    ];
    for (look, words) in cases {
        let said = about(&task, look.as_ref());
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
    let (info, spec) = (agent(), spec());
    let full = Host { running: limits::RUNNING_TASKS_MAX, ..host(&info, None) };
    let look = at_work(Phase::Accepted(after(400)), true);
    let said = about_task(&full, &Seen { task: &task, spec: &spec, look: look.as_ref() });
    assert!(said.contains("queued on the host, where 64 tasks run"), "{said}");
}

#[test]
fn a_job_that_is_held_up_says_by_whom_and_what_ends_that() {
    let (task, waiting) = (story(None), Waiting::Wave { number: 3 });
    let by_ada = Pause { operator: Some("ada".parse().expect("a name")), reason: String::new(), since: after(60) };
    let paused = Look { paused: Some(by_ada), ..look(Phase::Planned, waiting, true) };
    let said = about(&task, Some(&paused));
    let job = task.job;
    assert!(said.contains(&format!("paused since 10:01:00 UTC by ada: `muster resume {job}` goes on")), "{said}");

    let reason = "the gate of wave 2 failed at n001 (exit code 1)".to_owned();
    let by_itself = Pause { operator: None, reason, since: after(60) };
    let wave = WaveView { stage: WaveStage::Held, ..paused.wave };
    let held = Look { paused: Some(by_itself), wave, ..paused };
    let said = about(&task, Some(&held));
    for words in ["its wave is 3 of 4", "the gate of wave 2 failed at n001", "muster resume", "muster cancel"] {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }

    let stages = [
        (WaveStage::Soaking { until: after(90) }, "begins 10:01:30 UTC (--wave-pause)"),
        (WaveStage::Gate { open: 2 }, "the gate of wave 2 is awaited from 2 hosts"),
    ];
    for (stage, words) in stages {
        let wave = WaveView { stage, ..held.wave };
        let said = about(&task, Some(&Look { wave, paused: None, ..look(Phase::Planned, waiting, true) }));
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
}

#[test]
fn attempts_and_gates_are_told_beside_the_end() {
    let earlier = vec![AttemptEnd { outcome: ran(State::Failed, Some(3), None), at: after(20) }];
    let task = TaskStory { earlier, attempt: Attempt(2), ..story(None) };
    let said = about(&task, Some(&look(Phase::Planned, Waiting::Retry { at: after(33) }, true)));
    assert_eq!(said, "planned: attempt 1 ended as failed (exit code 3); attempt 2 begins 10:00:33 UTC");

    let gate = Some(AttemptEnd { outcome: ran(State::Failed, Some(1), None), at: after(40) });
    let task = TaskStory { gate, ..story(Some(ran(State::Succeeded, Some(0), None))) };
    let said = about(&task, None);
    assert!(said.ends_with("the gate of its wave ended there 10:00:40 UTC: failed (exit code 1)"), "{said}");
}
