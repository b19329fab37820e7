//! Agents that lie: a real certificate in hands that say what no agent of ours would. Each lie costs its session, is
//! counted, changes nothing of any job, and nobody else notices.

#![expect(clippy::print_stdout, reason = "what was measured is shown with the test's output")]

use muster_proto::event::Stream;
use muster_proto::fleet::Facts;
use muster_proto::id::{JobId, TaskId};
use muster_proto::limits;
use muster_proto::link::{Frame, FrameBody, FromAgent, RejectKind, TaskReport};
use muster_proto::outcome::{End, EndKind};
use muster_proto::wire;
use muster_tests::peer::{AgentPeer, Answer, Credentials, hello};
use muster_tests::{Fleet, Gate, PATIENCE, cpu_time, enrol, peak_memory, until};
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

/// A debug build with a small fleet needs a fifth of this.
const MEMORY_ENOUGH: u64 = 192 << 20;

/// A fleet of honest agents, and an identity that is not honest.
struct Stage {
    fleet: Fleet,
    evil: Credentials,
    address: String,
}

impl Stage {
    fn new(honest: u16) -> Self {
        let fleet = Fleet::start(honest);
        let token = fleet.muster(["token", "create"]).out();
        let state = fleet.dir().join("evil");
        let run = enrol(&fleet.enrolment_address(), &state, "evil", token.trim());
        assert_eq!(run.status, 0, "{run}");
        let (evil, address) = (Credentials::of_agent(&state), fleet.address("agents"));
        Self { fleet, evil, address }
    }

    /// A session that began in order.
    fn live(&self, unfinished: impl IntoIterator<Item = TaskId>) -> AgentPeer {
        AgentPeer::live(&self.evil, &self.address, unfinished)
    }

    /// A job for the liar alone, offered to it.
    fn offered(&self) -> (String, AgentPeer, TaskId) {
        let mut peer = self.live([]);
        let job = self.fleet.submit(["-w", "evil", "--", "true"]);
        let task = peer.offer();
        assert_eq!(task.job.to_string(), job);
        (job, peer, task)
    }

    /// Sessions that the controller ended for what was said in them.
    fn closed(&self) -> u64 {
        let reasons = ["invalid", "oversize", "no_hello", "protocol"];
        reasons.map(|reason| self.fleet.counted("muster_sessions_closed_total", &[reason])).iter().sum()
    }

    /// Says it in a session of its own, which is ended for that.
    #[track_caller]
    fn assert_closed(&self, what: &str, say: impl FnOnce(&mut AgentPeer)) {
        let before = self.closed();
        let mut peer = self.live([]);
        say(&mut peer);
        peer.until_closed();
        until(PATIENCE, &format!("{what}: it is counted"), || self.closed() > before);
    }

    /// Everybody else is served as ever, and the controller did not grow.
    fn assert_unharmed(&self) {
        let run = self.fleet.muster(["run", "-w", "dev-*", "--", "echo", "well"]);
        assert_eq!(run.status, 0, "{run}");
        let peak = peak_memory(self.fleet.controller_pid());
        assert!(peak < MEMORY_ENOUGH, "the controller had {} MiB", peak >> 20);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Nobody waits for the end of what was given to the liar.
        self.fleet.muster(["agents", "revoke", "evil"]);
    }
}

fn task_of(job: &str, target: u32) -> TaskId {
    TaskId { job: job.parse::<JobId>().expect("an id"), target, attempt: muster_proto::id::Attempt::FIRST }
}

fn output(number: u64, offset: u64, data: &'static [u8]) -> TaskReport {
    let body = FrameBody::Data { offset, data: data.into() };
    TaskReport::Frame(Frame { number, stream: Stream::Stdout, body })
}

fn truncated(number: u64, bytes: u64) -> TaskReport {
    TaskReport::Frame(Frame { number, stream: Stream::Stdout, body: FrameBody::Truncated { bytes } })
}

fn exited(frames: u64, code: u8) -> TaskReport {
    TaskReport::Exited { frames, end: End { kind: EndKind::Exit(code), duration: Duration::from_millis(5) } }
}

fn rejected() -> TaskReport {
    TaskReport::Rejected { kind: RejectKind::Refused, reason: "because".to_owned() }
}

/// One of each kind.
fn reports() -> [TaskReport; 7] {
    [
        TaskReport::Accepted,
        TaskReport::Started,
        TaskReport::Never,
        rejected(),
        output(0, 0, b"forged"),
        truncated(0, 9),
        exited(0, 0),
    ]
}

fn host_of<'a>(job: &'a Value, host: &str) -> &'a Value {
    let hosts = job["hosts"].as_array().expect("hosts");
    hosts.iter().find(|one| one["host"] == host).expect("a host of the job")
}

/// A job whose program says something and waits.
fn begun(stage: &Stage, gate: &Gate, targets: &str) -> String {
    let id = stage.fleet.submit(["-w", targets, "--sh", "--", &format!("echo begun; {}; echo over", gate.wait())]);
    until(PATIENCE, "it runs", || stage.fleet.muster(["logs", &id, "-w", "dev-1"]).out() == "dev-1: begun\n");
    id
}

#[test]
fn p2_an_agent_speaks_of_its_own_tasks_alone() {
    let stage = Stage::new(2);
    let gate = stage.fleet.gate("work");
    // The liar is a target too, or is none, or the job is over, or there never was one.
    let shared = begun(&stage, &gate, "all");
    let foreign = begun(&stage, &gate, "dev-1");
    let over = stage.fleet.submit(["-w", "dev-1", "--", "false"]);
    stage.fleet.until_done(&over);
    let place = |id: &str| {
        let hosts = stage.fleet.job(id)["hosts"].as_array().expect("hosts").clone();
        u32::try_from(hosts.iter().position(|host| host["host"] == "dev-1").expect("dev-1")).expect("small")
    };
    let before: Vec<Value> = [&shared, &foreign, &over].map(|id| host_of(&stage.fleet.job(id), "dev-1").clone()).into();
    let unknown = JobId::from_bytes([7; 16]).to_string();
    for (what, job, target) in [
        ("a job that it has a part in", &shared, place(&shared)),
        ("a place that does not exist", &shared, 99),
        ("a job of others", &foreign, 0),
        ("a job of others that is over", &over, 0),
        ("a job that does not exist", &unknown, 0),
    ] {
        for report in reports() {
            let said = format!("{report:?} of {what}");
            stage.assert_closed(&said, |peer| _ = peer.report(task_of(job, target), [report]));
        }
        let other_attempt = TaskId { attempt: muster_proto::id::Attempt(2), ..task_of(job, target) };
        stage.assert_closed(&format!("another attempt of {what}"), |peer| {
            _ = peer.report(other_attempt, [exited(0, 0)]);
        });
    }
    let after: Vec<Value> = [&shared, &foreign, &over].map(|id| host_of(&stage.fleet.job(id), "dev-1").clone()).into();
    assert_eq!(before, after, "nothing has changed");

    // What it says of others in a hello is not believed either.
    let held = [task_of(&shared, place(&shared)), task_of(&foreign, 0), task_of(&over, 0), task_of(&unknown, 0)];
    drop(stage.live(held));
    gate.open();
    stage.fleet.until_done(&foreign);
    stage.fleet.until_state(&shared, "dev-1", "succeeded");
    for id in [&shared, &foreign] {
        let logs = stage.fleet.muster(["logs", id, "-w", "dev-1"]);
        assert_eq!(logs.out(), "dev-1: begun\ndev-1: over\n", "{logs}");
    }
    stage.assert_unharmed();
}

#[test]
fn p5_output_with_holes_and_ends_that_cannot_be_are_refused() {
    let stage = Stage::new(1);
    use TaskReport::{Accepted, Never, Started};
    // Three frames and a marker in order, then what cannot follow.
    let begin = [Accepted, Started, output(0, 0, b"one"), output(1, 3, b"two"), truncated(2, 10)];
    let lies: Vec<(&str, Vec<TaskReport>)> = vec![
        ("a hole", vec![output(4, 16, b"x")]),
        ("far ahead", vec![output(u64::MAX, 16, b"x")]),
        ("an offset behind", vec![output(3, 3, b"x")]),
        ("an offset ahead", vec![output(3, 17, b"x")]),
        ("an offset that overflows", vec![output(3, u64::MAX, b"x")]),
        ("nothing truncated", vec![truncated(3, 0)]),
        ("an end before its output", vec![exited(9, 0)]),
        ("an end with less output than was sent", vec![exited(1, 0)]),
        ("a refusal after the start", vec![rejected()]),
        ("never, unasked", vec![Never]),
    ];
    for (what, lie) in lies {
        let (job, mut peer, task) = stage.offered();
        peer.report(task, begin.clone()).expect("it is heard");
        assert_eq!(peer.answer(task), Answer::Ack(3), "{what}");
        let before = stage.closed();
        let _ = peer.report(task, lie);
        assert_eq!(peer.answer(task), Answer::Closed, "{what}");
        until(PATIENCE, &format!("{what}: it is counted"), || stage.closed() > before);
        assert_eq!(stage.fleet.state(&job, "evil"), "started", "{what}");
        let events = stage.fleet.muster(["logs", &job, "-o", "jsonl"]);
        let texts: String =
            events.jsonl().iter().filter_map(|event| event["text"].as_str().map(str::to_owned)).collect();
        assert_eq!(texts, "onetwo", "{what}: {events}");
        // A newer session may say it properly: the lie was as if it had not been.
        let mut peer = stage.live([task]);
        peer.report(task, [output(3, 16, b"end"), exited(4, 3)]).expect("it is heard");
        assert_eq!(peer.answer(task), Answer::Ack(4), "{what}");
        stage.fleet.until_state(&job, "evil", "failed");
    }
    // Before the start there is no output and no exit status, and no more of either than the operator signed for.
    let piece: &'static [u8] = &[b'x'; limits::OUTPUT_FRAME_BYTES_MAX];
    let length = piece.len() as u64;
    let kept = limits::OUTPUT_HEAD_BYTES + limits::OUTPUT_TAIL_BYTES;
    for (what, lie) in [
        ("output before the start", vec![output(0, 0, b"x")]),
        ("an exit status before the start", vec![exited(0, 0)]),
        ("gaps without end", (0..9).map(|number| truncated(number, 1)).collect()),
        ("more than was signed for", (0..=kept / length).map(|n| output(n, n * length, piece)).collect()),
    ] {
        let (job, mut peer, task) = stage.offered();
        let started = if lie.len() > 1 { vec![Accepted, Started] } else { vec![Accepted] };
        peer.report(task, started).expect("it is heard");
        for report in lie {
            if peer.report(task, [report]).is_err() {
                break;
            }
        }
        peer.until_closed();
        assert_eq!(stage.fleet.job(&job)["state"], "active", "{what}");
        assert_eq!(stage.fleet.muster(["cancel", "-d", &job]).status, 0);
    }
    stage.assert_unharmed();
}

#[test]
fn p2_what_is_said_twice_or_too_early_counts_once() {
    let stage = Stage::new(1);
    let (job, mut peer, task) = stage.offered();
    // Started alone says that it was accepted, too; then everything again, a rewind with other bytes included.
    peer.report(task, [TaskReport::Started, TaskReport::Accepted, TaskReport::Started]).expect("it is heard");
    peer.report(task, [output(0, 0, b"true"), output(0, 0, b"false"), output(0, 99, b"wild")]).expect("it is heard");
    while peer.answer(task) != Answer::Ack(1) {}
    peer.report(task, [exited(1, 3), exited(1, 0), exited(9, 0), rejected()]).expect("it is heard");
    while peer.answer(task) != Answer::Committed {}
    let done = stage.fleet.until_done(&job);
    assert_eq!(done["counts"], json!({"failed": 1}));
    peer.report(task, [exited(1, 0), output(1, 4, b"late"), TaskReport::Started]).expect("it is heard");
    while peer.answer(task) != Answer::Committed {}
    assert_eq!(stage.fleet.job(&job), done, "a terminal state never changes");
    assert_eq!(stage.fleet.muster(["logs", &job]).out(), "evil: true\n");
    let events = stage.fleet.muster(["logs", &job, "-o", "jsonl"]).jsonl();
    let seqs: Vec<_> = events.iter().filter_map(|event| event["seq"].as_u64()).collect();
    assert!(seqs.is_sorted(), "{events:?}");
    stage.assert_unharmed();
}

#[test]
fn the_beginning_of_a_session_is_held_to_its_form() {
    let stage = Stage::new(1);
    let facts = |filler: usize| {
        let facts = wire::Facts { hostname: "x".repeat(filler), ..wire::Facts::default() };
        wire::AgentMessage { kind: Some(wire::agent_message::Kind::Facts(facts)) }
    };
    stage.assert_closed("a second hello", |peer| _ = peer.hello([]));
    stage.assert_closed("facts twice", |peer| _ = peer.send([facts(1), facts(1)]));
    stage.assert_closed("facts of 10 MB", |peer| _ = peer.send([facts(10_000_000)]));
    stage.assert_closed("a message of 257 KiB", |peer| {
        let data = vec![0; limits::OUTPUT_FRAME_BYTES_MAX];
        let frame = Frame { number: 0, stream: Stream::Stdout, body: FrameBody::Data { offset: 0, data: data.into() } };
        let task = task_of(&JobId::from_bytes([7; 16]).to_string(), 0);
        _ = peer.report(task, vec![TaskReport::Frame(frame); 5]);
    });
    stage.assert_closed("bytes that are no message", |peer| _ = peer.call().send_encoded(&[0xff; 100]));
    stage.assert_closed("too many messages", |peer| _ = peer.send(vec![facts(1); limits::MESSAGES_PER_BATCH_MAX + 1]));
    stage.assert_closed("an empty message", |peer| _ = peer.send([wire::AgentMessage { kind: None }]));

    for (what, first) in [
        ("facts before the hello", vec![facts(1)]),
        ("nothing at all", vec![]),
        ("more unfinished tasks than may be", vec![hello(fakes(limits::UNFINISHED_MAX + 1), None)]),
        ("a million unfinished tasks", vec![hello(fakes(1_000_000), None)]),
        ("another protocol", vec![other_protocol()]),
    ] {
        let before = stage.closed();
        let mut peer = AgentPeer::dial(&stage.evil, &stage.address).expect("it is let in");
        let _ = peer.send(first);
        assert_eq!(peer.receive(), None, "{what}: it is not welcome");
        until(PATIENCE, &format!("{what}: it is counted"), || stage.closed() > before);
    }
    let kept = stage.fleet.muster(["agents", "-o", "json"]).json();
    let evil = kept.as_array().expect("a list").iter().find(|agent| agent["host"] == "evil").expect("the liar");
    assert!(evil.to_string().len() < 64 << 10, "facts are small");
    stage.assert_unharmed();
}

fn fakes(count: usize) -> impl Iterator<Item = TaskId> {
    let id = |number: u128| JobId::from_bytes((number << 64 | 7).to_be_bytes());
    (1..).take(count).map(move |number| TaskId {
        job: id(number),
        target: 0,
        attempt: muster_proto::id::Attempt::FIRST,
    })
}

fn other_protocol() -> wire::AgentMessage {
    let mut message = hello([], None);
    if let Some(wire::agent_message::Kind::Hello(hello)) = &mut message.kind {
        (hello.protocol_min, hello.protocol_max) = (999, 999);
    }
    message
}

#[test]
fn unfinished_tasks_that_never_were_cost_a_look_each_and_a_flood_of_nothing_costs_nobody_else() {
    let stage = Stage::new(1);
    let gate = stage.fleet.gate("work");
    let real = begun(&stage, &gate, "all");
    let controller = stage.fleet.controller_pid();
    let log = || fs::metadata(stage.fleet.dir().join("controller.log")).expect("a log").len();

    let (cpu, said) = (cpu_time(controller), log());
    let peer = stage.live(fakes(limits::UNFINISHED_MAX));
    let spent = cpu_time(controller).saturating_sub(cpu);
    println!("4,096 unfinished tasks that never were: {spent:?} of the controller's time");
    // A tenth of that when nothing else runs; what is quadratic would be far above.
    assert!(spent < Duration::from_secs(5), "{spent:?}");
    assert!(log() - said < 16 << 10, "the log grew by {} bytes", log() - said);
    drop(peer);

    let mut flood = stage.live([]);
    let task = task_of(&real, 0);
    let before = stage.closed();
    for _ in 0..20_000 {
        if flood.send::<FromAgent>([]).is_err() {
            break;
        }
    }
    let _ = flood.report(task, std::iter::repeat_n(TaskReport::Accepted, limits::MESSAGES_PER_BATCH_MAX));
    let mut flood = stage.live([]);
    for _ in 0..1_000 {
        let said = std::iter::repeat_n(TaskReport::Started, limits::MESSAGES_PER_BATCH_MAX);
        if flood.report(TaskId { target: 99, ..task }, said).is_err() {
            break;
        }
    }
    flood.until_closed();
    until(PATIENCE, "it is counted", || stage.closed() > before);
    gate.open();
    stage.fleet.until_state(&real, "dev-1", "succeeded");
    stage.assert_unharmed();
}

#[test]
fn who_has_a_certificate_and_says_nothing_is_gone_after_a_while() {
    let stage = Stage::new(1);
    let mut mute: Vec<_> =
        (0..20).map(|_| AgentPeer::dial(&stage.evil, &stage.address).expect("it is let in")).collect();
    assert!(mute.iter_mut().all(AgentPeer::is_open));
    let agents = stage.fleet.muster(["agents", "-o", "json"]).json();
    let connected = agents.as_array().expect("a list").iter().filter(|agent| agent["connected"] == json!(true)).count();
    assert_eq!(connected, 1, "who said nothing is nobody");
    stage.assert_unharmed();
    mute.iter_mut().for_each(AgentPeer::until_closed);
}

#[test]
fn facts_are_data() {
    let stage = Stage::new(1);
    let mut peer = stage.live([]);
    let hostile = "\u{1b}]0;owned\u{7}\r\ndev-1: succeeded\u{202e}";
    let facts = Facts { hostname: hostile.repeat(100), addresses: vec![hostile.to_owned(); 1_000], ..Facts::default() };
    peer.send([FromAgent::Facts(facts)]).expect("it is heard");
    let mut shown = stage.fleet.muster(["agents", "show", "evil"]);
    until(PATIENCE, "its facts are known", || {
        shown = stage.fleet.muster(["agents", "show", "evil"]);
        shown.out().contains("owned")
    });
    assert!(!shown.stdout.iter().any(|byte| matches!(byte, 0..=8 | 11..=31 | 127)), "{shown}");
    assert!(
        !shown.out().contains('\u{202e}') && !shown.out().lines().any(|line| line.starts_with("dev-1:")),
        "{shown}"
    );
    stage.assert_unharmed();
}
